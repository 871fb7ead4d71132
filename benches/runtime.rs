//! Prints what the runtime costs: `cargo bench -p trimaran-benches --bench runtime`. Tasks beside those of async-task with a queue and
//! nothing else, in the same run: what lanes, names, panics that are caught and the turn's share add.

use async_task::Runnable;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;
use trimaran_benches::{rounds, tell};
use trimaran_runtime::channel::{self, Receiver, Sender};
use trimaran_runtime::sim::World;
use trimaran_runtime::{
    Clock, Core, CoreConfig, Driver, Flushed, Idle, Instant, Lane, Monotonic, Polled, sleep_until, spawn, yield_now,
};

/// No device.
struct Nothing;

impl Driver for Nothing {
    fn poll(&mut self, _: Instant, _: usize) -> Polled {
        Polled::default()
    }
    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }
    fn park(&mut self, _: Option<Duration>, _: Option<BorrowedFd<'_>>) {}
}

type Wire = Rc<RefCell<VecDeque<(Instant, u64)>>>;

/// One end of a wire on which a packet takes 5 us.
struct End {
    inbound: Wire,
    outbound: Wire,
    received: Sender<u64>,
    to_send: Receiver<u64>,
}

impl Driver for End {
    fn poll(&mut self, now: Instant, budget: usize) -> Polled {
        let mut inbound = self.inbound.borrow_mut();
        let mut packets = 0;
        while packets < budget
            && let Some((_, packet)) = inbound.pop_front_if(|packet| packet.0 <= now)
        {
            packets += usize::from(self.received.try_send(packet).is_ok());
        }
        Polled { packets, more: packets == budget }
    }

    fn flush(&mut self, now: Instant) -> Flushed {
        let mut packets = 0;
        while let Some(packet) = self.to_send.try_recv() {
            self.outbound.borrow_mut().push_back((now + Duration::from_micros(5), packet));
            packets += 1;
        }
        Flushed { packets, left: 0 }
    }

    fn park(&mut self, _: Option<Duration>, _: Option<BorrowedFd<'_>>) {}

    fn next_arrival(&self) -> Option<Instant> {
        self.inbound.borrow().front().map(|packet| packet.0)
    }
}

fn core() -> Core<Nothing> {
    Core::new(CoreConfig { idle: Idle::Spin, ..CoreConfig::default() }, Monotonic, Nothing)
}

/// Runs of each figure, some milliseconds each: a neighbour on a shared machine leaves gaps of that size, and what it takes is not ours.
const RUNS: usize = 60;

/// The best of the runs, in nanoseconds for each of `count`.
fn best(count: u64, mut run: impl FnMut()) -> f64 {
    (0..RUNS).map(|_| once(count, &mut run)).fold(f64::MAX, f64::min)
}

fn once(count: u64, mut run: impl FnMut()) -> f64 {
    let start = Monotonic.now();
    run();
    (Monotonic.now() - start).as_nanos() as f64 / count as f64
}

/// The tasks of a comparison.
const TASKS: u64 = 64;

/// As [`best`], for two that take turns, so that whatever else the machine does meets both.
fn best_of_two(count: u64, mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let pairs = (0..RUNS).map(|_| (once(count, &mut a), once(count, &mut b)));
    pairs.fold((f64::MAX, f64::MAX), |best, pair| (best.0.min(pair.0), best.1.min(pair.1)))
}

fn spawn_run_free() -> (f64, f64) {
    let mut core = core();
    let turns = rounds(500);
    let ours = || {
        for _ in 0..turns {
            core.enter(|| {
                for _ in 0..TASKS {
                    spawn(async { black_box(()) }).detach();
                }
            });
            core.turn();
        }
    };
    let bare = || {
        for _ in 0..turns {
            for _ in 0..TASKS {
                spawn_bare(async { black_box(()) });
            }
            run_bare(TASKS);
        }
    };
    best_of_two(TASKS * turns, ours, bare)
}

fn self_wake_switch() -> (f64, f64) {
    async fn yields() {
        loop {
            yield_now().await;
        }
    }
    let mut core = core();
    core.enter(|| (0..TASKS).for_each(|_| spawn(yields()).detach()));
    core.turn();
    (0..TASKS).for_each(|_| spawn_bare(yields()));
    let turns = rounds(1250);
    let ours = || (0..turns).for_each(|_| _ = core.turn());
    let bare = || (0..turns).for_each(|_| run_bare(TASKS));
    let figures = best_of_two(TASKS * turns, ours, bare);
    READY.take();
    figures
}

thread_local! {
    static READY: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
}

/// As `spawn`, with the least that tasks can do with.
fn spawn_bare(task: impl Future<Output = ()> + 'static) {
    let (runnable, task) =
        async_task::spawn_local(task, |runnable| READY.with_borrow_mut(|ready| ready.push_back(runnable)));
    task.detach();
    runnable.schedule();
}

fn run_bare(most: u64) {
    for _ in 0..most {
        let Some(runnable) = READY.with_borrow_mut(VecDeque::pop_front) else { return };
        runnable.run();
    }
}

fn timer_insert_cancel() -> f64 {
    const PENDING: u64 = 100_000;
    let core = core();
    core.enter(|| {
        let mut cx = Context::from_waker(Waker::noop());
        let soon = trimaran_runtime::now();
        let pending: Vec<_> = (0..PENDING)
            .map(|i| {
                let mut sleep = Box::pin(sleep_until(soon + Duration::from_micros(1000 + i * 7919 % 10_000_000)));
                assert!(sleep.as_mut().poll(&mut cx).is_pending());
                sleep
            })
            .collect();
        let timers = rounds(250_000);
        let figure = best(timers, || {
            for i in 0..timers {
                let mut sleep = pin!(sleep_until(soon + Duration::from_micros(1000 + i * 7907 % 10_000_000)));
                black_box(sleep.as_mut().poll(&mut cx)).is_pending();
            }
        });
        drop(pending);
        figure
    })
}

fn empty_turn() -> f64 {
    let mut core = core();
    let turns = rounds(250_000);
    best(turns, || {
        for _ in 0..turns {
            black_box(core.turn());
        }
    })
}

/// A value through a channel from one task to another of the same core, and as many turns as that takes.
fn channel_hop() -> f64 {
    const VALUES: u64 = 64;
    let mut core = core();
    let (to, mut values) = channel::mpsc(VALUES as usize);
    core.enter(|| {
        let receive = async move {
            while let Some(value) = values.recv().await {
                black_box::<u64>(value);
            }
        };
        spawn(receive).detach();
    });
    let turns = rounds(2500);
    best(VALUES * turns, || {
        for _ in 0..turns {
            core.enter(|| (0..VALUES).for_each(|value| assert!(to.try_send(value).is_ok())));
            core.turn();
        }
    })
}

/// Packets a second, with `at_once` of them on the wire between each of `pairs` pairs of cores.
fn world(pairs: usize, at_once: u64) -> f64 {
    let mut world = World::new(1);
    for _ in 0..pairs {
        let wires: [Wire; 2] = Default::default();
        for side in 0..2 {
            let (received, mut packets) = channel::mpsc(1024);
            let (answers, to_send) = channel::mpsc(1024);
            let (inbound, outbound) = (wires[side].clone(), wires[1 - side].clone());
            let core = world.add_core("end", End { inbound, outbound, received, to_send });
            if side == 0 {
                wires[0].borrow_mut().extend((0..at_once).map(|i| (Instant::from_nanos(i * 100), i)));
            }
            let answer = async move {
                while let Some(packet) = packets.recv().await {
                    if answers.try_send(packet + 1).is_err() {
                        return;
                    }
                }
            };
            world.spawn(core, Lane::Normal, answer).detach();
        }
    }
    let before = world.packets();
    let start = Monotonic.now();
    let packets = rounds(2_000_000);
    while world.packets() - before < packets {
        assert!(world.step());
    }
    packets as f64 / (Monotonic.now() - start).as_secs_f64()
}

/// Its name for programs and for people, and what measures it.
type Figure = (&'static str, &'static str, fn() -> f64);

fn main() {
    for (id, what, measure) in [
        ("spawn_run_free", "spawn + run + free", spawn_run_free as fn() -> (f64, f64)),
        ("self_wake_switch", "self-wake switch", self_wake_switch),
    ] {
        let (ns, bare) = measure();
        tell(&format!("runtime.{id}"), ns, "ns", &format!("{what:<34} {ns:8.1} ns"));
        let what = format!("  beyond async-task alone, {bare:.1} ns");
        tell(&format!("runtime.{id}.beyond_bare"), ns - bare, "ns", &format!("{what:<34} {:+8.1} ns", ns - bare));
    }
    let figures: [Figure; 3] = [
        ("channel_hop", "a value through a channel", channel_hop),
        ("timer_insert_cancel", "timer insert + cancel, 100k armed", timer_insert_cancel),
        ("empty_turn", "empty turn", empty_turn),
    ];
    for (id, what, measure) in figures {
        let ns = measure();
        tell(&format!("runtime.{id}"), ns, "ns", &format!("{what:<34} {ns:8.1} ns"));
    }
    for (id, what, pairs, at_once) in [
        ("world_2_cores_1", "world, 2 cores, 1 in flight", 1, 1),
        ("world_2_cores_32", "world, 2 cores, 32 in flight", 1, 32),
        ("world_10_cores_1", "world, 10 cores, 5 x 1 in flight", 5, 1),
    ] {
        let rate = world(pairs, at_once);
        tell(&format!("runtime.{id}"), rate, "packets/s", &format!("{what:<34} {:8.2} M packets/s", rate / 1e6));
    }
}
