//! Prints what a message costs from one core to another over the mesh: `cargo bench -p trimaran-benches --bench mesh`.
//!
//! On one thread it is the instructions alone; between two threads that both look without a rest, what the memory between two
//! processors adds. The bell of whoever looks is not heard: what a wake-up costs is the kernel's. A neighbour that takes one of the
//! processors makes a round trip some milliseconds long: runs have a time, not a number of them, and the best counts.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use trimaran_benches::{rounds, tell};
use trimaran_runtime::{Clock, Doorbell, MeshEnd, Monotonic, mesh};

/// A message as long as what the cores hand each other: a packet is a pointer and its addresses.
type Message = [u64; 4];

const CAPACITY: usize = 1024;
const BATCHES: [u64; 2] = [1, 32];
/// Between two looks at the clock.
const TURNS: u64 = 16;

fn pair() -> [MeshEnd<Message>; 2] {
    let bells = [Doorbell::new(), Doorbell::new()];
    mesh(&bells, CAPACITY).try_into().expect("two ends")
}

/// The best of five runs, in nanoseconds for each of `count`.
fn best(count: u64, mut run: impl FnMut()) -> f64 {
    let mut once = || {
        let start = Monotonic.now();
        run();
        (Monotonic.now() - start).as_nanos() as f64 / count as f64
    };
    (0..5).map(|_| once()).fold(f64::MAX, f64::min)
}

/// Puts in, tells, takes out, all on this thread.
fn one_thread(batch: u64) -> f64 {
    let [mut here, mut there] = pair();
    let turns = rounds(4_000_000) / batch;
    best(turns * batch, || {
        for _ in 0..turns {
            (0..batch).for_each(|n| assert!(here.send(1, [n; 4]).is_ok()));
            here.notify();
            let taken = there.drain(CAPACITY, |_, message| _ = black_box(message));
            assert_eq!(taken as u64, batch);
        }
    })
}

/// Takes `batch` messages from the other end, however many looks that needs; not where the other has ended.
fn take(end: &mut MeshEnd<Message>, batch: u64, ended: &AtomicBool) {
    let mut taken = 0;
    while taken < batch && !ended.load(Ordering::Relaxed) {
        match end.has_news() {
            true => taken += end.drain(CAPACITY, |_, message| _ = black_box(message)) as u64,
            false => spin_loop(),
        }
    }
}

fn give(end: &mut MeshEnd<Message>, to: usize, batch: u64) {
    (0..batch).for_each(|n| assert!(end.send(to, [n; 4]).is_ok(), "the ring holds more than a batch"));
    end.notify();
}

/// Nanoseconds there and back between two threads, for each batch.
fn round_trip(batch: u64) -> f64 {
    let [mut here, mut there] = pair();
    let span = Duration::from_millis(rounds(500));
    let (ended, never) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut figure = f64::MAX;
    // Plain threads, which run no task.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                take(&mut there, batch, &ended);
                give(&mut there, 0, batch);
            }
        });
        for _ in 0..5 {
            let (start, mut turns) = (Monotonic.now(), 0);
            while Monotonic.now() - start < span {
                for _ in 0..TURNS {
                    give(&mut here, 1, batch);
                    take(&mut here, batch, &never);
                }
                turns += TURNS;
            }
            figure = figure.min((Monotonic.now() - start).as_nanos() as f64 / turns as f64);
        }
        ended.store(true, Ordering::Relaxed);
    });
    figure
}

fn main() {
    for batch in BATCHES {
        let ns = one_thread(batch);
        let line = format!("hand-over on one thread, {batch:>2} at once            {ns:8.1} ns a message");
        tell(&format!("mesh.one_thread.{batch}_at_once"), ns, "ns", &line);
    }
    for batch in BATCHES {
        let ns = round_trip(batch);
        let line = format!("two threads, there and back, {batch:>2} at once         {ns:8.1} ns");
        tell(&format!("mesh.round_trip.{batch}_at_once"), ns, "ns", &line);
    }
}
