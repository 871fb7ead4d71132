//! Channels between tasks of one core: order, bounds, ends, cancellation.

mod support;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use support::Bench;
use trimaran_runtime::channel::{self, Closed, Notify, SendError, Signal, TrySendError};
use trimaran_runtime::{spawn, yield_now};

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_full_channel_gives_the_item_back() {
    let (sender, mut receiver) = channel::mpsc(2);
    assert_eq!(sender.try_send(1), Ok(()));
    assert!(!sender.is_full());
    assert_eq!(sender.try_send(2), Ok(()));
    assert!(sender.is_full());
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    assert_eq!((receiver.try_recv(), receiver.try_recv(), receiver.try_recv()), (Some(1), Some(2), None));
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
    assert_eq!(poll_once(pin!(sender.send(5))), Poll::Ready(Err(SendError(5))));
}

#[test]
fn what_was_sent_is_received_after_the_last_sender_is_gone_and_then_the_end() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel::mpsc(8);
    let received = bench.core.enter(|| {
        let second = sender.clone();
        spawn(async move {
            sender.send(1).await.unwrap();
            yield_now().await;
            second.send(2).await.unwrap();
            drop(sender);
        })
        .detach();
        spawn(async move {
            let mut all = Vec::new();
            while let Some(item) = receiver.recv().await {
                all.push(item);
            }
            all
        })
    });
    assert_eq!(bench.core.block_on(received), Ok(vec![1, 2]));
}

#[test]
fn waiting_senders_send_in_order_of_arrival() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel::mpsc(1);
    bench.core.enter(|| {
        for i in 0..5 {
            let sender = sender.clone();
            spawn(async move { sender.send(i).await.unwrap() }).detach();
        }
    });
    drop(sender);
    let received = bench.core.block_on(async move {
        let mut all = Vec::new();
        while let Some(item) = receiver.recv().await {
            all.push(item);
        }
        all
    });
    assert_eq!(received, [0, 1, 2, 3, 4]);
}

#[test]
fn a_sender_that_gives_up_passes_its_room_on() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel::mpsc(1);
    sender.try_send(0).unwrap();
    let (first, second) = bench.core.enter(|| {
        let (a, b) = (sender.clone(), sender.clone());
        (spawn(async move { a.send(1).await }), spawn(async move { b.send(2).await }))
    });
    bench.core.turn();
    // The first is served, and dropped before it runs.
    assert_eq!(receiver.try_recv(), Some(0));
    drop(first);
    bench.core.turn();
    bench.core.turn();
    assert!(second.is_finished());
    assert_eq!(receiver.try_recv(), Some(2));
}

#[test]
fn a_sender_that_is_overtaken_keeps_its_place() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel::mpsc(1);
    sender.try_send(0).unwrap();
    bench.core.enter(|| {
        for i in 1..=2 {
            let sender = sender.clone();
            spawn(async move { sender.send(i).await.unwrap() }).detach();
        }
    });
    bench.core.turn();
    assert_eq!(receiver.try_recv(), Some(0));
    // Room was made for sender 1, and someone else takes it.
    sender.try_send(9).unwrap();
    bench.core.turn();
    assert_eq!(receiver.try_recv(), Some(9));
    bench.core.turn();
    assert_eq!(receiver.try_recv(), Some(1));
    bench.core.turn();
    assert_eq!(receiver.try_recv(), Some(2));
}

#[test]
fn waiting_senders_learn_that_the_receiver_is_gone() {
    let mut bench = Bench::new();
    let (sender, receiver) = channel::mpsc(1);
    sender.try_send(0).unwrap();
    let task = bench.core.enter(|| spawn(async move { sender.send(1).await }));
    bench.core.turn();
    drop(receiver);
    assert_eq!(bench.core.block_on(task), Ok(Err(SendError(1))));
}

#[test]
fn a_oneshot_carries_one_item_or_tells_that_an_end_is_gone() {
    let mut bench = Bench::new();
    let (sender, receiver) = channel::oneshot();
    assert!(!sender.is_closed());
    let task = bench.core.enter(|| spawn(receiver));
    bench.core.turn();
    sender.send("item").unwrap();
    assert_eq!(bench.core.block_on(task), Ok(Ok("item")));

    let (sender, receiver) = channel::oneshot::<()>();
    let task = bench.core.enter(|| spawn(receiver));
    bench.core.turn();
    drop(sender);
    assert_eq!(bench.core.block_on(task), Ok(Err(Closed)));

    let (sender, receiver) = channel::oneshot();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(1), Err(1));
}

#[test]
fn a_notification_is_kept_once_and_only_once() {
    let notify = Notify::new();
    notify.notify();
    notify.notify();
    assert!(poll_once(pin!(notify.notified())).is_ready());
    assert!(poll_once(pin!(notify.notified())).is_pending());
    // The waiter that was dropped took nothing with it.
    notify.notify();
    assert!(poll_once(pin!(notify.notified())).is_ready());
}

#[test]
fn each_notification_wakes_one_waiter_in_order() {
    let mut bench = Bench::new();
    let notify = Rc::new(Notify::new());
    let order = Rc::new(RefCell::new(Vec::new()));
    bench.core.enter(|| {
        for i in 0..4 {
            let (notify, order) = (notify.clone(), order.clone());
            spawn(async move {
                notify.notified().await;
                order.borrow_mut().push(i);
            })
            .detach();
        }
    });
    bench.core.turn();
    notify.notify();
    notify.notify();
    bench.core.turn();
    assert_eq!(*order.borrow(), [0, 1]);
    notify.notify();
    bench.core.turn();
    assert_eq!(*order.borrow(), [0, 1, 2]);
}

#[test]
fn a_notified_waiter_that_is_dropped_passes_it_on() {
    let notify = Notify::new();
    {
        let mut first = pin!(notify.notified());
        let mut second = pin!(notify.notified());
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        notify.notify();
        first.set(notify.notified());
        assert!(poll_once(second.as_mut()).is_ready());
        // Nothing was left over.
        assert!(poll_once(first.as_mut()).is_pending());
    }
    assert!(poll_once(pin!(notify.notified())).is_pending());
}

#[test]
fn a_signal_wakes_the_task_that_waits_once_for_all_that_was_raised() {
    let mut bench = Bench::new();
    let signal = Rc::new(Signal::new());
    let seen = Rc::new(Cell::new(0));
    let polls = Rc::new(Cell::new(0));
    let task = {
        let (signal, seen, polls) = (signal.clone(), seen.clone(), polls.clone());
        poll_fn(move |cx| -> Poll<()> {
            polls.set(polls.get() + 1);
            while signal.poll_raised(cx).is_ready() {
                seen.set(seen.get() + 1);
            }
            Poll::Pending
        })
    };
    // Raised before anybody waits, it is kept.
    signal.raise();
    bench.core.enter(|| spawn(task).detach());
    bench.core.turn();
    assert_eq!((seen.get(), polls.get()), (1, 1));
    for round in 2..5 {
        bench.core.turn();
        signal.raise();
        signal.raise();
        bench.core.turn();
        assert_eq!((seen.get(), polls.get()), (round, round), "once for both, and nobody is woken for nothing");
    }
}

#[test]
fn a_signal_may_be_awaited_by_another_task_than_before() {
    let mut bench = Bench::new();
    let (signal, done) = (Rc::new(signal_after(Signal::new())), Rc::new(Cell::new(false)));
    let (raised, told) = (signal.clone(), done.clone());
    bench.core.enter(|| {
        spawn(async move {
            raised.raised().await;
            told.set(true);
        })
        .detach();
    });
    bench.core.turn();
    signal.raise();
    bench.core.turn();
    assert!(done.get());
}

/// A signal for which somebody waits who will not come back.
fn signal_after(signal: Signal) -> Signal {
    assert!(poll_once(pin!(signal.raised())).is_pending());
    signal
}
