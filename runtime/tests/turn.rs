//! The rules of the turn, each with a test that a core breaking it would fail.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use support::{Bench, at_us, ms, us};
use trimaran_runtime::channel::Notify;
use trimaran_runtime::{
    CoreConfig, Idle, Lane, now, read_clock, recv_or_deadline, sleep, sleep_until, spawn, spawn_in, timeout_at,
    yield_now,
};

#[test]
fn packets_are_received_before_timers_and_both_before_tasks() {
    let mut bench = Bench::new();
    let log = bench.log.clone();
    let mut packets = bench.packets.take().unwrap();
    bench.core.enter(|| {
        let log_packet = log.clone();
        spawn(async move {
            packets.recv().await;
            log_packet.add("packet");
        })
        .detach();
        let log_timer = log.clone();
        spawn(async move {
            sleep_until(at_us(100)).await;
            log_timer.add("timer");
        })
        .detach();
    });
    bench.core.turn();
    log.take();
    bench.send(at_us(100), 1);
    bench.pass(ms(1));
    bench.core.enter(|| {
        let log = log.clone();
        spawn(async move { log.add("task") }).detach();
    });
    bench.core.turn();
    // Woken in the order of the turn, behind the task that was ready before; all of them after the poll.
    assert_eq!(log.take(), ["poll", "task", "packet", "timer", "flush"]);
}

/// The process may be stopped in the midst of a turn: the stamp does not see it.
#[test]
fn a_stamp_stands_still_and_the_clock_does_not() {
    let bench = Bench::new();
    let time = bench.time.clone();
    bench.core.enter(|| {
        let stamp = now();
        time.set(time.get() + ms(60));
        assert_eq!((now(), read_clock()), (stamp, stamp + ms(60)));
    });
}

#[test]
fn a_packet_that_waited_wins_over_a_deadline_that_has_passed() {
    let mut bench = Bench::new();
    let mut packets = bench.packets.take().unwrap();
    let task = bench.core.enter(|| {
        spawn(async move {
            let first = recv_or_deadline(packets.recv(), at_us(100)).await;
            let second = recv_or_deadline(packets.recv(), at_us(100)).await;
            (first, second, timeout_at(at_us(100), packets.recv()).await.is_err())
        })
    });
    bench.core.turn();
    // The process was stopped: packet and deadline both lie in the past.
    bench.send(at_us(99), 7);
    bench.pass(ms(60));
    assert_eq!(bench.core.block_on(task), Ok((Some(Some(7)), None, true)));
}

#[test]
fn after_an_absence_all_that_waited_is_received_before_any_timer() {
    let mut bench = Bench::new();
    let mut packets = bench.packets.take().unwrap();
    bench.core.turn();
    for packet in 0..200 {
        bench.send(at_us(10), packet);
    }
    let waiting = Rc::new(Cell::new(0));
    let seen = waiting.clone();
    bench.core.enter(|| {
        spawn(async move {
            sleep_until(at_us(100)).await;
            let mut count = 0;
            while packets.try_recv().is_some() {
                count += 1;
            }
            seen.set(count);
        })
        .detach();
    });
    // Not away: one burst only.
    bench.pass(us(50));
    assert_eq!(bench.core.turn().packets, 32);
    bench.pass(ms(5));
    assert_eq!(bench.core.turn().packets, 168);
    assert_eq!(waiting.get(), 200);
    assert_eq!(bench.core.stats().long_receives.get(), 1);
}

#[test]
fn a_task_that_wakes_itself_runs_once_a_turn_and_the_turn_ends() {
    for lane in [Lane::Control, Lane::Normal] {
        let mut bench = Bench::new();
        let runs = Rc::new(Cell::new(0));
        let counted = runs.clone();
        bench.core.enter(|| {
            spawn_in(lane, "spinner", async move {
                loop {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            })
            .detach();
        });
        for turn in 1..=10 {
            assert_eq!(bench.core.turn().polls, 1);
            assert_eq!(runs.get(), turn);
        }
    }
}

#[test]
fn two_tasks_that_wake_each_other_for_ever_do_not_hold_the_turn() {
    for lane in [Lane::Control, Lane::Normal] {
        let mut bench = Bench::new();
        let (ping, pong) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        ping.notify();
        bench.core.enter(|| {
            for (mine, other) in [(ping.clone(), pong.clone()), (pong, ping)] {
                spawn_in(lane, "player", async move {
                    loop {
                        mine.notified().await;
                        other.notify();
                    }
                })
                .detach();
            }
        });
        let turn = bench.core.turn();
        assert_eq!(turn.polls, 64);
        assert!(bench.core.has_work());
        assert_eq!(bench.core.stats().budget_ends.get(), 1);
    }
}

#[test]
fn a_flood_of_control_work_leaves_normal_its_share() {
    let mut bench = Bench::new();
    let ran = Rc::new(Cell::new(false));
    let told = ran.clone();
    bench.core.enter(|| {
        for _ in 0..1000 {
            spawn_in(Lane::Control, "flood", async {}).detach();
        }
        spawn(async move { told.set(true) }).detach();
    });
    bench.core.turn();
    assert!(ran.get());
}

#[test]
fn control_runs_before_normal_and_again_after_each_normal_poll() {
    let mut bench = Bench::new();
    let log = bench.log.clone();
    let notify = Rc::new(Notify::new());
    bench.core.enter(|| {
        let (log, notify, waited) = (log.clone(), notify.clone(), notify.clone());
        let log_control = log.clone();
        for name in ["first", "second"] {
            let (log, notify) = (log.clone(), notify.clone());
            spawn(async move {
                log.add(name);
                notify.notify();
            })
            .detach();
        }
        spawn_in(Lane::Control, "control", async move {
            log_control.add("control");
            waited.notified().await;
            log_control.add("control again");
        })
        .detach();
    });
    bench.core.turn();
    assert_eq!(log.take(), ["poll", "control", "first", "control again", "second", "flush"]);
}

#[test]
fn a_long_turn_stops_before_the_poll_budget() {
    let mut bench = Bench::with(CoreConfig { slow_poll_us: 15, ..CoreConfig::default() });
    let time = bench.time.clone();
    bench.core.enter(|| {
        for _ in 0..64 {
            let time = time.clone();
            // Each poll takes 20 us of the test's time.
            spawn(async move { time.set(time.get() + us(20)) }).detach();
        }
    });
    let first = bench.core.turn().polls;
    // The clock is looked at every few polls, so a few more than three may run.
    assert!((3..=8).contains(&first), "{first} polls");
    let slow = bench.core.stats().slow_polls.get();
    assert!(slow >= 1);
    // Once slow, polls are timed one by one: three of 20 us use up the 50.
    assert_eq!(bench.core.turn().polls, 3);
    assert_eq!(bench.core.stats().slow_polls.get(), slow + 3);
}

#[test]
fn every_task_of_a_turn_sees_the_same_stamp() {
    let mut bench = Bench::new();
    let time = bench.time.clone();
    let stamps = bench.core.enter(|| {
        let hurry = move || {
            time.set(time.get() + us(3));
            now()
        };
        let first = hurry.clone();
        (spawn(async move { first() }), spawn(async move { hurry() }))
    });
    bench.core.turn();
    assert_eq!(bench.core.block_on(stamps.0), Ok(at_us(0)));
    assert_eq!(bench.core.block_on(stamps.1), Ok(at_us(0)));
}

#[test]
fn a_sleep_is_never_early_and_tells_how_late_it_is() {
    let mut bench = Bench::new();
    let task = bench.core.enter(|| spawn(sleep_until(at_us(100))));
    bench.core.turn();
    bench.pass(Duration::from_nanos(99_999));
    bench.core.turn();
    assert!(!task.is_finished());
    bench.pass(us(10));
    bench.core.turn();
    assert_eq!(bench.core.block_on(task), Ok(Duration::from_nanos(9_999)));
}

#[test]
fn a_sleep_is_armed_again_without_a_new_timer_and_gone_when_dropped() {
    let mut bench = Bench::new();
    let task = bench.core.enter(|| {
        spawn(async {
            let mut sleep = sleep(us(100));
            let first = (&mut sleep).await;
            sleep.reset(now() + us(50));
            let never = timeout_at(now() + us(20), &mut sleep).await;
            sleep.reset(now() + us(5));
            let last = (&mut sleep).await;
            (first, never.is_err(), last)
        })
    });
    bench.core.turn();
    assert_eq!(bench.core.timers(), 1);
    bench.pass(us(101));
    bench.core.turn();
    bench.pass(us(21));
    bench.core.turn();
    bench.pass(us(7));
    bench.core.turn();
    assert_eq!(bench.core.block_on(task), Ok((us(1), true, us(2))));
    let task = bench.core.enter(|| spawn(sleep(ms(10))));
    bench.core.turn();
    assert_eq!(bench.core.timers(), 1);
    drop(task);
    bench.core.turn();
    assert_eq!(bench.core.timers(), 0);
}

#[test]
fn missed_ticks_are_skipped_and_the_rhythm_stays() {
    let mut bench = Bench::new();
    let mut interval = bench.core.enter(|| trimaran_runtime::interval(us(100)));
    let task = bench.core.enter(|| {
        spawn(
            async move { [interval.tick().await, interval.tick().await, interval.tick().await, interval.tick().await] },
        )
    });
    bench.core.turn();
    for passed in [110, 340, 40, 11] {
        bench.pass(us(passed));
        bench.core.turn();
    }
    bench.pass(us(100));
    let ticks = bench.core.block_on(task).unwrap();
    // At 110 the tick of 100; at 450 that of 200, late; those of 300 and 400 are skipped; at 501 that of 500; at 601.
    assert_eq!(ticks, [at_us(100), at_us(200), at_us(500), at_us(600)]);
}

#[test]
fn an_idle_core_tells_the_device_how_long_to_sleep() {
    let mut bench = Bench::with(CoreConfig { idle: Idle::Park, ..CoreConfig::default() });
    let parked = bench.core.driver_mut().parked.clone();
    // Nothing is pending: for as long as it takes.
    bench.core.park();
    assert_eq!(parked.take(), Some(None));
    let task = bench.core.enter(|| spawn(sleep(ms(7))));
    // A task is ready: no sleep at all.
    bench.core.park();
    assert_eq!(parked.take(), None);
    bench.core.turn();
    bench.core.park();
    let timeout = parked.take().flatten().unwrap();
    assert!(timeout >= ms(7) && timeout < ms(7) + us(2), "{timeout:?}");
    bench.pass(ms(8));
    // The timer is due.
    bench.core.park();
    assert_eq!(parked.take(), None);
    // The device did not take a packet: back soon.
    bench.core.driver_mut().left = 1;
    bench.core.turn();
    assert!(task.is_finished());
    bench.core.park();
    assert_eq!(parked.take(), Some(Some(ms(1))));
}

#[test]
fn timers_stay_exact_however_long_the_clock_stands_or_jumps() {
    let mut bench = Bench::new();
    let spans = [us(1), us(65), ms(4), ms(300), Duration::from_secs(100), Duration::from_secs(100_000)];
    let tasks = bench.core.enter(|| spans.map(|span| spawn(sleep(span))));
    bench.core.turn();
    for (i, task) in tasks.iter().enumerate() {
        let next = bench.core.next_deadline().unwrap();
        let due = at_us(0) + spans[i];
        assert!(next >= due && next < due + us(2), "{:?}", spans[i]);
        bench.time.set(next);
        bench.core.turn();
        assert!(task.is_finished());
        assert_eq!(bench.core.timers(), tasks.len() - i - 1);
    }
    assert_eq!(bench.core.next_deadline(), None);
}
