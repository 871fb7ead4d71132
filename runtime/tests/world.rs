//! The world: determinism, faults, clocks.

mod support;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use support::{Device, Log, Wire, device, ms, us};
use trimaran_runtime::channel::{Notify, Receiver};
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::{Instant, Lane, now, recv_or_deadline, sleep, sleep_until, spawn, yield_now};

fn machine(world: &mut World<Device>, name: &str) -> (CoreIndex, Receiver<u32>, Wire) {
    let (device, packets) = device();
    let wire = device.wire.clone();
    (world.add_core(name, device), packets, wire)
}

/// Three cores whose tasks send to each other at drawn times; the log tells who ran when.
fn history(seed: u64) -> (u64, Vec<String>) {
    let mut world = World::new(seed);
    let log = Log::default();
    let machines: Vec<_> = (0..3).map(|i| machine(&mut world, &format!("m{i}"))).collect();
    let wires: Vec<Wire> = machines.iter().map(|(_, _, wire)| wire.clone()).collect();
    for (i, (core, mut packets, _)) in machines.into_iter().enumerate() {
        for task in 0..4 {
            let log = log.clone();
            world
                .spawn(core, Lane::Normal, async move {
                    for _ in 0..5 {
                        log.add(format!("{i}.{task}"));
                        sleep(us(10)).await;
                    }
                })
                .detach();
        }
        let next = wires[(i + 1) % 3].clone();
        world
            .spawn(core, Lane::Control, async move {
                while let Some(packet) = packets.recv().await {
                    next.borrow_mut().push_back((now() + us(20), packet + 1));
                }
            })
            .detach();
        wires[i].borrow_mut().push_back((Instant::ZERO + us(5), 0));
    }
    world.run_for(ms(1));
    (world.trace_hash(), log.take())
}

#[test]
fn one_seed_gives_one_history_and_another_seed_another() {
    let (hash, log) = history(7);
    assert_eq!(history(7), (hash, log.clone()));
    let (other_hash, other_log) = history(8);
    assert_ne!(other_hash, hash);
    assert_ne!(other_log, log, "the seed decides the order of tasks and cores");
    let sorted = |mut log: Vec<String>| {
        log.sort();
        log
    };
    assert_eq!(sorted(other_log), sorted(log), "and nothing else here");
}

#[test]
fn the_seed_decides_the_order_of_tasks_inside_of_a_core() {
    let order = |seed| {
        let mut world = World::new(seed);
        let (core, _packets, _) = machine(&mut world, "m");
        let log = Log::default();
        for task in 0..8 {
            let log = log.clone();
            world.spawn(core, Lane::Normal, async move { log.add(task.to_string()) }).detach();
        }
        world.run_for(us(10));
        log.take()
    };
    let orders: std::collections::BTreeSet<Vec<String>> = (0..10).map(order).collect();
    assert!(orders.len() >= 9, "{orders:?}");
    assert_eq!(order(3), order(3));
}

#[test]
fn time_jumps_from_event_to_event_and_ends_when_nothing_is_left() {
    let mut world = World::new(1);
    let (core, mut packets, wire) = machine(&mut world, "m");
    wire.borrow_mut().push_back((Instant::ZERO + Duration::from_secs(3600), 1));
    let task = world.spawn(core, Lane::Normal, async move {
        packets.recv().await;
        sleep(Duration::from_secs(7200)).await;
    });
    while world.step() {}
    assert!(task.is_finished());
    assert!(world.now() >= Instant::ZERO + Duration::from_secs(10_800));
    assert!(world.steps() < 6, "{} steps", world.steps());
    assert_eq!((world.packets(), world.last_core()), (1, core));
    world.spawn(core, Lane::Normal, sleep_until(Instant::FAR)).detach();
    assert!(world.step());
    assert!(!world.step(), "a sleep without end is no event");
}

#[test]
fn run_until_and_run_while_stop_where_they_are_told() {
    let mut world = World::new(1);
    let (core, _packets, _) = machine(&mut world, "m");
    let ticks = Rc::new(Cell::new(0));
    let counted = ticks.clone();
    world
        .spawn(core, Lane::Normal, async move {
            loop {
                sleep(ms(10)).await;
                counted.set(counted.get() + 1);
            }
        })
        .detach();
    world.run_until(Instant::ZERO + ms(35));
    assert_eq!((ticks.get(), world.now()), (3, Instant::ZERO + ms(35)));
    assert!(world.run_while(|_| ticks.get() < 5, ms(100)));
    assert_eq!(ticks.get(), 5);
    let until = world.now() + ms(25);
    assert!(!world.run_while(|_| ticks.get() < 50, ms(25)));
    assert_eq!((ticks.get(), world.now()), (7, until));
}

#[test]
fn a_task_that_yields_for_ever_does_not_stop_time() {
    let mut world = World::new(1);
    let (core, _packets, _) = machine(&mut world, "m");
    let task = world.spawn(core, Lane::Normal, async {
        let end = now() + us(100);
        while now() < end {
            yield_now().await;
        }
    });
    assert!(world.run_while(|_| !task.is_finished(), ms(1)));
    assert!(world.steps() >= 100);
}

#[test]
fn a_killed_core_drops_its_tasks_and_driver_and_comes_back_empty() {
    let mut world = World::new(1);
    let (core, mut packets, wire) = machine(&mut world, "m");
    let (bystander, _packets, _) = machine(&mut world, "other");
    let alive = Rc::new(());
    let held = alive.clone();
    world
        .spawn(core, Lane::Normal, async move {
            let _held = held;
            pending::<()>().await;
        })
        .detach();
    let orphan = world.spawn(core, Lane::Control, async move { packets.recv().await });
    let other = world.spawn(bystander, Lane::Normal, async { sleep(ms(1)).await });
    world.run_for(us(10));
    world.kill(core);
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(Rc::strong_count(&wire), 1);
    assert!(!world.is_alive(core) && orphan.is_finished());
    assert!(world.core_stats(core).is_none());
    world.run_for(ms(2));
    assert!(other.is_finished());
    assert!(catch_unwind(AssertUnwindSafe(|| world.enter(core, || ()))).is_err());

    let (device, mut packets) = device();
    device.wire.borrow_mut().push_back((world.now() + us(10), 9));
    world.revive(core, device);
    assert_eq!((world.life(core), world.life(bystander)), (2, 1));
    let task = world.spawn(core, Lane::Normal, async move { packets.recv().await });
    world.run_for(ms(1));
    assert!(task.is_finished());
    assert_eq!(world.core_stats(core).unwrap().packets_received.get(), 1);
}

#[test]
fn a_paused_core_finds_its_packets_before_its_deadline() {
    let mut world = World::new(1);
    let (core, mut packets, wire) = machine(&mut world, "m");
    let end = Rc::new(RefCell::new(Vec::new()));
    let told = end.clone();
    world
        .spawn(core, Lane::Control, async move {
            // Gives up after 10 ms without a packet, as a follower does without heartbeats.
            while let Some(Some(packet)) = recv_or_deadline(packets.recv(), now() + ms(10)).await {
                told.borrow_mut().push((packet, now()));
            }
        })
        .detach();
    for packet in 0..5 {
        wire.borrow_mut().push_back((Instant::ZERO + ms(u64::from(packet)), packet));
    }
    world.run_for(us(500));
    assert_eq!(end.borrow().len(), 1);
    let resumes = Instant::ZERO + ms(200);
    world.pause(core, resumes);
    world.run_until(resumes + us(100));
    let packets: Vec<_> = end.borrow().iter().map(|end| end.0).collect();
    assert_eq!(packets, [0, 1, 2, 3, 4]);
    assert!(end.borrow()[1..].iter().all(|end| end.1 >= resumes), "no turn while it was stopped");
}

#[test]
fn a_clock_that_runs_fast_or_jumps_moves_the_deadlines_of_its_core_only() {
    let mut world = World::new(1);
    let (fast, _p, _) = machine(&mut world, "fast");
    let (jumps, _q, _) = machine(&mut world, "jumps");
    let (right, _r, _) = machine(&mut world, "right");
    world.set_clock_rate(fast, 250_000);
    let woke = |world: &mut World<Device>, core| {
        let at = Rc::new(Cell::new(None));
        let told = at.clone();
        world
            .spawn(core, Lane::Normal, async move {
                sleep(ms(100)).await;
                told.set(Some(now()));
            })
            .detach();
        at
    };
    let ends: Vec<_> = [fast, jumps, right].map(|core| woke(&mut world, core)).into();
    let ended = |ends: &[Rc<Cell<Option<Instant>>>]| ends.iter().map(|end| end.get().is_some()).collect::<Vec<_>>();
    world.run_for(ms(30));
    world.jump_clock(jumps, ms(65));
    world.run_for(ms(6));
    assert_eq!(ended(&ends), [false, true, false]);
    world.run_for(ms(43));
    assert_eq!(ended(&ends), [false, true, false]);
    world.run_for(ms(2));
    assert_eq!(ended(&ends), [true, true, false]);
    world.run_for(ms(18));
    assert_eq!(ended(&ends), [true, true, false]);
    world.run_for(ms(2));
    assert_eq!(ended(&ends), [true, true, true]);
    assert_eq!(world.now_at(right), world.now());
    assert_eq!(world.now_at(jumps), world.now() + ms(65));
}

#[test]
fn packets_travel_on_the_worlds_time_whatever_a_core_thinks() {
    let mut world = World::new(1);
    let (core, mut packets, wire) = machine(&mut world, "late");
    world.jump_clock(core, Duration::from_secs(100));
    wire.borrow_mut().push_back((Instant::ZERO + ms(5), 1));
    let task = world.spawn(core, Lane::Normal, async move { packets.recv().await });
    world.run_for(ms(4));
    assert!(!task.is_finished());
    world.run_for(ms(2));
    assert!(task.is_finished());
}

#[test]
fn a_control_panic_fails_the_seed_and_a_device_that_is_full_does_not_stop_time() {
    let mut world = World::new(1);
    let (core, _packets, _) = machine(&mut world, "m");
    world.driver_mut(core).left = 1;
    world.spawn(core, Lane::Normal, async { sleep(ms(1)).await }).detach();
    world.run_for(ms(1));
    // Tried again every 10 us.
    assert!((50..200).contains(&world.steps()), "{} steps", world.steps());
    world.spawn(core, Lane::Control, async { panic!("on purpose") }).detach();
    assert!(catch_unwind(AssertUnwindSafe(|| world.run_for(ms(1)))).is_err());
}

#[test]
fn a_wake_across_cores_is_an_event() {
    let mut world = World::new(1);
    let (a, _p, _) = machine(&mut world, "a");
    let (b, _q, _) = machine(&mut world, "b");
    let notify = Rc::new(Notify::new());
    let waiting = notify.clone();
    let task = world.spawn(a, Lane::Normal, async move { waiting.notified().await });
    while world.step() {}
    world.enter(b, || spawn(async move { notify.notify() }).detach());
    while world.step() {}
    assert!(task.is_finished());
    assert_eq!(world.name(a), "a");
}
