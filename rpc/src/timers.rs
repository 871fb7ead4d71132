//! Log timers: handlers that run at a moment of log time, on every replica at the same entry.

use crate::log_time::LogTime;
use crate::state::{Reader, StateError, Turns, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Timers that may be pending at a time. One more is refused to the handler that wants to set it.
pub const TIMERS_MAX: usize = 1 << 20;
/// Bytes of pending timers' arguments, each counted with [`TIMER_OVERHEAD_BYTES`].
pub const TIMER_BYTES_MAX: usize = 128 << 20;
/// What a timer costs besides its arguments.
pub const TIMER_OVERHEAD_BYTES: usize = 96;

/// What runs when a timer is due: a method marked `#[timer]` and its arguments. Built by the functions that `#[service]` generates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Key of the method.
    pub method: u32,
    /// Its encoded arguments.
    pub body: Vec<u8>,
}

/// Names a pending timer; never used twice in the life of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimerId(u64);

/// The table of timers is full; nothing was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{TIMERS_MAX} timers or {TIMER_BYTES_MAX} bytes of them are pending")]
pub struct TimersFull;

/// The pending timers of one replica, equal on all after the same entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Timers {
    by_time: BTreeMap<(LogTime, TimerId), Timer>,
    times: BTreeMap<TimerId, LogTime>,
    next: u64,
    bytes: usize,
}

impl Timers {
    /// O(log n).
    pub(crate) fn set(&mut self, at: LogTime, timer: Timer) -> Result<TimerId, TimersFull> {
        let bytes = self.bytes + cost_bytes(&timer);
        if self.by_time.len() >= TIMERS_MAX || bytes > TIMER_BYTES_MAX {
            return Err(TimersFull);
        }
        self.bytes = bytes;
        let id = TimerId(self.next);
        self.next += 1;
        self.by_time.insert((at, id), timer);
        self.times.insert(id, at);
        Ok(id)
    }

    /// `false`: it has fired, was cancelled, or never was. O(log n).
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let Some(at) = self.times.remove(&id) else { return false };
        let timer = self.by_time.remove(&(at, id));
        self.removed(timer.as_ref());
        true
    }

    /// Takes the earliest timer that is due; of those for one moment, the one set first.
    pub(crate) fn pop_due(&mut self, now: LogTime) -> Option<Timer> {
        let entry = self.by_time.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, id), timer) = entry.remove_entry();
        self.times.remove(&id);
        self.removed(Some(&timer));
        Some(timer)
    }

    /// When the next one is due.
    pub(crate) fn next_at(&self) -> Option<LogTime> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    fn removed(&mut self, timer: Option<&Timer>) {
        self.bytes -= timer.map_or(0, cost_bytes);
    }

    pub(crate) async fn save(&self, to: &mut Writer) {
        to.item(&self.next).await;
        to.len(self.by_time.len()).await;
        for pair in &self.by_time {
            to.item(&pair).await;
        }
    }

    pub(crate) async fn load(from: &mut Reader<'_>) -> Result<Timers, StateError> {
        let mut timers = Timers { next: from.item().await?, ..Timers::default() };
        for _ in 0..from.len().await? {
            let ((at, id), timer): ((LogTime, TimerId), Timer) = from.item().await?;
            timers.bytes += cost_bytes(&timer);
            timers.by_time.insert((at, id), timer);
            timers.times.insert(id, at);
        }
        Ok(timers)
    }

    /// Gives the memory back, a slice at a time.
    pub(crate) async fn discard(self, turns: &mut Turns) {
        turns.drop_each(self.by_time).await;
        turns.drop_each(self.times).await;
    }
}

fn cost_bytes(timer: &Timer) -> usize {
    timer.body.len() + TIMER_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn timer(method: u32) -> Timer {
        Timer { method, body: vec![0; method as usize] }
    }

    fn at(nanos: u64) -> LogTime {
        LogTime::from_nanos(nanos)
    }

    #[test]
    fn the_earliest_first_and_of_one_moment_the_one_set_first() {
        let mut timers = Timers::default();
        for (moment, method) in [(9, 1), (5, 2), (9, 3), (5, 4)] {
            timers.set(at(moment), timer(method)).expect("room");
        }
        assert_eq!(timers.next_at(), Some(at(5)));
        assert_eq!(timers.pop_due(at(4)), None);
        let fired: Vec<u32> = std::iter::from_fn(|| timers.pop_due(at(9))).map(|timer| timer.method).collect();
        assert_eq!(fired, [2, 4, 1, 3]);
        assert_eq!((timers.bytes, timers.times.len()), (0, 0));
    }

    /// A handler may keep the id of a timer for longer than the timer lives.
    #[test]
    fn ids_are_not_used_again() {
        let mut timers = Timers::default();
        let first = timers.set(at(1), timer(1)).expect("room");
        assert!(timers.cancel(first) && !timers.cancel(first));
        let second = timers.set(at(1), timer(2)).expect("room");
        assert_ne!(first, second);
        assert!(!timers.cancel(first));
        assert!(timers.pop_due(at(1)).is_some() && !timers.cancel(second));
    }

    #[test]
    fn full_is_said_and_room_comes_back() {
        let mut timers = Timers::default();
        let large = Timer { method: 1, body: vec![0; TIMER_BYTES_MAX / 2] };
        let id = timers.set(at(1), large.clone()).expect("room");
        assert_eq!(timers.set(at(1), large.clone()), Err(TimersFull));
        timers.cancel(id);
        assert!(timers.set(at(1), large).is_ok());
    }

    #[test]
    fn a_saved_table_is_the_same_table() {
        let mut timers = Timers::default();
        for (moment, method) in [(9, 1), (5, 2), (9, 3)] {
            timers.set(at(moment), timer(method)).expect("room");
        }
        timers.pop_due(at(5));
        let mut writer = Writer::bytes().at_once();
        timers.save(&mut writer).now_or_never().expect("at once");
        let bytes = writer.into_bytes().expect("a form");
        let loaded = Timers::load(&mut Reader::new(&bytes).at_once()).now_or_never().expect("at once");
        assert_eq!(loaded, Ok(timers));
    }
}
