//! Tasks: owners, panics, groups, and the end of their core.

mod support;

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use support::{Bench, ms};
use trimaran_runtime::{ControlPanic, CoreConfig, Lane, TaskGroup, sleep, spawn, spawn_in, timeout_at, yield_now};

/// Tells on which thread it was dropped.
struct Witness(Rc<RefCell<Vec<ThreadId>>>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.borrow_mut().push(thread::current().id());
    }
}

#[test]
fn an_output_reaches_the_awaiter() {
    let mut bench = Bench::new();
    let output = bench.core.block_on(async {
        let task = spawn_in(Lane::Control, "child", async {
            yield_now().await;
            "done".to_owned()
        });
        task.await
    });
    assert_eq!(output, Ok("done".to_owned()));
    assert_eq!(bench.core.tasks(), 0);
}

#[test]
fn dropping_the_handle_drops_the_future_and_detaching_does_not() {
    let mut bench = Bench::new();
    let alive = Rc::new(());
    let (cancelled, detached) = (alive.clone(), alive.clone());
    let task = bench.core.enter(|| {
        spawn(async move {
            let _held = detached;
            sleep(ms(1)).await;
        })
        .detach();
        spawn(async move {
            let _held = cancelled;
            pending::<()>().await;
        })
    });
    bench.core.turn();
    assert_eq!(Rc::strong_count(&alive), 3);
    // Outside of the core: it goes through the inbox.
    drop(task);
    bench.core.turn();
    assert_eq!(Rc::strong_count(&alive), 2);
    bench.pass(ms(2));
    bench.core.turn();
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(bench.core.tasks(), 0);
}

#[test]
fn a_panic_in_normal_is_an_error_at_the_awaiter_and_others_go_on() {
    let mut bench = Bench::new();
    let (panicked, other) = bench.core.enter(|| {
        let bad = spawn_in(Lane::Normal, "bad", async {
            yield_now().await;
            panic!("on purpose {}", 7);
        });
        (bad, spawn(async { 1 }))
    });
    let error = bench.core.block_on(panicked).unwrap_err();
    let error: &trimaran_runtime::Panicked = &error;
    assert_eq!((error.name(), error.message()), ("bad", "on purpose 7"));
    assert!(error.site().file().ends_with("tasks.rs") && error.to_string().contains("tasks.rs"));
    assert_eq!(bench.core.block_on(other), Ok(1));
    assert_eq!(bench.core.stats().panics.get(), 1);
}

#[test]
fn a_panic_in_control_leaves_the_turn_where_it_is_to_propagate() {
    let mut bench = Bench::with(CoreConfig { control_panic: ControlPanic::Propagate, ..CoreConfig::default() });
    bench.core.enter(|| spawn_in(Lane::Control, "raft", async { panic!("on purpose") }).detach());
    let caught = catch_unwind(AssertUnwindSafe(|| bench.core.turn()));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(bench.core.tasks(), 0);
}

/// What the test below runs in a process of its own.
#[test]
#[ignore = "ends the process: started by a_panic_in_control_aborts_the_process"]
fn control_panic_in_production() {
    let mut bench = Bench::new();
    bench.core.enter(|| spawn_in(Lane::Control, "raft", async { panic!("on purpose") }).detach());
    let _ = catch_unwind(AssertUnwindSafe(|| bench.core.turn()));
    std::process::exit(0);
}

#[test]
fn a_panic_in_control_aborts_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let end = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_panic_in_production", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(end.status.signal().is_some(), "{:?}", end.status);
    assert!(String::from_utf8_lossy(&end.stderr).contains("task `raft` spawned at"), "{end:?}");
}

#[test]
fn shutdown_drops_every_future_on_its_own_thread_whatever_it_waits_for() {
    let dropped = Rc::new(RefCell::new(Vec::new()));
    let bench = Bench::new();
    let handles: Vec<_> = (0..3).map(|_| Witness(dropped.clone())).collect();
    let kept = bench.core.enter(|| {
        let [never, timer, ready]: [Witness; 3] = handles.try_into().ok().unwrap();
        spawn(async move {
            let _held = never;
            pending::<()>().await;
        })
        .detach();
        spawn_in(Lane::Control, "timer", async move {
            let _held = timer;
            sleep(ms(1)).await;
        })
        .detach();
        spawn(async move {
            let _held = ready;
        })
    });
    let mut core = bench.core;
    core.turn();
    let child = Witness(dropped.clone());
    let grandchild = Witness(dropped.clone());
    core.enter(|| {
        spawn(async move {
            // Dropping this future starts another task.
            let _child = child;
            let _last = scopeguard(move || {
                spawn(async move {
                    let _held = grandchild;
                    pending::<()>().await;
                })
                .detach();
            });
            pending::<()>().await;
        })
        .detach();
    });
    core.turn();
    core.shutdown();
    assert_eq!(*dropped.borrow(), [thread::current().id(); 5]);
    assert!(kept.is_finished());
}

/// Calls a closure when dropped.
fn scopeguard(f: impl FnOnce()) -> impl Drop {
    struct Guard<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Guard<F> {
        fn drop(&mut self) {
            if let Some(f) = self.0.take() {
                f();
            }
        }
    }
    Guard(Some(f))
}

#[test]
fn a_handle_outlives_its_core_and_says_so() {
    let bench = Bench::new();
    let task = bench.core.enter(|| spawn_in(Lane::Normal, "orphan", pending::<()>()));
    drop(bench.core);
    let mut other = Bench::new();
    let error = other.core.block_on(task).unwrap_err();
    assert_eq!((error.name(), error.message()), ("orphan", "its core was shut down"));
}

/// A task's waker is kept by another thread and used when the task, its core, or both are gone; and from another thread
/// while it lives, the future stays at home.
#[test]
fn late_wakes_from_another_thread_find_nothing_to_drop() {
    let (to_thread, wakers) = mpsc::channel::<Waker>();
    let (go, may_go) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<()>();
    #[allow(clippy::disallowed_methods, reason = "the test needs a second thread")]
    let thread = thread::spawn(move || {
        let waker = wakers.recv().unwrap();
        while may_go.recv().is_ok() {
            waker.wake_by_ref();
            done.send(()).unwrap();
        }
        drop(waker);
    });
    let wake = || {
        go.send(()).unwrap();
        is_done.recv().unwrap();
    };
    let dropped = Rc::new(RefCell::new(Vec::new()));
    let polls = Rc::new(Cell::new(0));
    let mut bench = Bench::new();
    let (witness, counted) = (Witness(dropped.clone()), polls.clone());
    let task = bench.core.enter(|| {
        spawn(std::future::poll_fn(move |cx| {
            let _held = &witness;
            if counted.get() == 0 {
                to_thread.send(cx.waker().clone()).unwrap();
            }
            counted.set(counted.get() + 1);
            Poll::<()>::Pending
        }))
    });
    bench.core.turn();
    wake();
    assert!(bench.core.has_work());
    assert!(bench.core.turn().worked);
    assert_eq!((polls.get(), bench.core.stats().foreign_wakes.get()), (2, 1));
    // In the inbox when the core ends: dropped here, not there.
    wake();
    drop(bench.core);
    assert_eq!(*dropped.borrow(), [thread::current().id()]);
    wake();
    drop(task);
    wake();
    drop(go);
    thread.join().unwrap();
    assert_eq!(polls.get(), 2);
}

#[test]
fn a_foreign_executor_inside_a_task_is_woken_too() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let mut bench = Bench::new();
    let count = std::sync::Arc::new(Count(0.into()));
    let waker = Waker::from(count.clone());
    let mut sleep = bench.core.enter(|| Box::pin(sleep(ms(1))));
    let polled = bench.core.enter(|| sleep.as_mut().poll(&mut std::task::Context::from_waker(&waker)));
    assert!(polled.is_pending());
    bench.pass(ms(2));
    assert_eq!(bench.core.turn().timers, 1);
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_group_counts_joins_and_cancels() {
    let mut bench = Bench::new();
    let alive = Rc::new(());
    let held = alive.clone();
    let mut group = bench.core.enter(|| {
        let mut group = TaskGroup::new();
        for _ in 0..100 {
            group.spawn(async {});
        }
        group.spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        group
    });
    assert_eq!(group.len(), 101);
    bench.core.turn();
    bench.core.turn();
    assert_eq!(group.len(), 1);
    drop(group);
    bench.core.turn();
    assert_eq!(Rc::strong_count(&alive), 1);
    let joined = bench.core.block_on(async {
        let mut group = TaskGroup::new();
        group.spawn(async { panic!("on purpose") });
        for i in 0..50 {
            group.spawn(sleep_briefly(i));
            yield_now().await;
        }
        group.join_all().await
    });
    // Also where its handle was swept out long before.
    assert_eq!(joined.unwrap_err().message(), "on purpose");
}

async fn sleep_briefly(polls: u32) {
    for _ in 0..polls {
        yield_now().await;
    }
}

#[test]
#[should_panic(expected = "no core is current on this thread")]
fn spawning_outside_of_a_core_says_what_to_do() {
    spawn(async {}).detach();
}

#[test]
#[should_panic(expected = "more than 10 tasks")]
fn the_limit_of_tasks_holds() {
    let bench = Bench::with(CoreConfig { tasks_max: 10, ..CoreConfig::default() });
    bench.core.enter(|| (0..11).for_each(|_| spawn(pending::<()>()).detach()));
}

/// Its drop may do what any code may: work in another core, or in the one that refused it.
#[test]
fn a_refused_future_may_enter_a_core_when_it_is_dropped() {
    struct Enters(Rc<Bench>, Rc<Cell<bool>>);
    impl Drop for Enters {
        fn drop(&mut self) {
            self.0.core.enter(|| spawn(async {}).detach());
            self.1.set(true);
        }
    }
    let (full, other) = (Bench::with(CoreConfig { tasks_max: 0, ..CoreConfig::default() }), Rc::new(Bench::new()));
    let entered = Rc::new(Cell::new(false));
    let enters = Enters(other.clone(), entered.clone());
    let refused = catch_unwind(AssertUnwindSafe(|| {
        full.core.enter(|| {
            spawn(async move {
                let _held = enters;
            })
            .detach();
        });
    }));
    let message = refused.expect_err("there is room for no task");
    assert!(message.downcast_ref::<String>().is_some_and(|text| text.starts_with("more than 0 tasks")));
    assert!(entered.get());
    assert_eq!((full.core.tasks(), other.core.tasks()), (0, 1));
}

#[test]
fn places_of_ended_tasks_are_used_again() {
    let mut bench = Bench::with(CoreConfig { tasks_max: 2, ..CoreConfig::default() });
    for _ in 0..100 {
        bench.core.enter(|| spawn(async {}).detach());
        bench.core.turn();
    }
    assert_eq!(bench.core.tasks(), 0);
}

#[test]
fn one_thread_hosts_cores_that_do_not_mix() {
    let (mut a, mut b) = (Bench::new(), Bench::new());
    let (send, receive) = trimaran_runtime::channel::oneshot();
    let task = a.core.enter(|| spawn(receive));
    a.core.turn();
    // Woken by a task of b, polled by a only.
    b.core.enter(|| spawn(async move { send.send(5) }).detach());
    assert_eq!(b.core.turn().polls, 1);
    assert!(!b.core.has_work() && a.core.has_work());
    assert_eq!(a.core.block_on(task), Ok(Ok(5)));
    assert_eq!(a.core.stats().foreign_wakes.get(), 1);
}

#[test]
fn timeouts_poll_their_future_first() {
    let mut bench = Bench::new();
    let at = bench.time.get();
    let outcome =
        bench.core.block_on(async move { (timeout_at(at, async { 3 }).await, timeout_at(at, pending::<()>()).await) });
    assert_eq!(outcome.0, Ok(3));
    assert!(outcome.1.is_err());
}
