//! What a core counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer, its core, and any number of readers. Adding costs a load and a store, no locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only the owning core may call this; two writers would lose counts.
    pub(crate) fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// The count so far. Any thread may read; what it reads may be a turn old.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one core, since its start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Turns made.
    pub turns: Counter,
    /// Turns that found nothing to do.
    pub idle_turns: Counter,
    /// Times that a task was polled.
    pub polls: Counter,
    /// Turns that ended with tasks left to run because 64 polls or 50 us were used up.
    pub budget_ends: Counter,
    /// Packets received by the driver.
    pub packets_received: Counter,
    /// Packets given to the device.
    pub packets_sent: Counter,
    /// Turns that received more than one burst because the core had been away.
    pub long_receives: Counter,
    /// Operations on disks, handed on and again completed.
    pub disk_ops: Counter,
    /// Timers that fired.
    pub timers_fired: Counter,
    /// Tasks started.
    pub tasks_spawned: Counter,
    /// Tasks of the Normal lane that panicked.
    pub panics: Counter,
    /// Polls, or runs of a few polls, that took longer than `slow_poll_us`.
    pub slow_polls: Counter,
    /// Wakes that came from outside of this core: other threads, or tasks of other cores of this thread.
    pub foreign_wakes: Counter,
    /// Times that the core gave its thread away with a yield.
    pub yields: Counter,
    /// Times that the core slept in the driver.
    pub parks: Counter,
    /// Times that another thread had to write to the eventfd to end such a sleep.
    pub parks_ended_by_wake: Counter,
}
