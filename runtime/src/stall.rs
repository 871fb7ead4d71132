//! Polls that keep everyone else waiting: counted, and named in the log.
//!
//! Reading the clock at each poll would cost as much as a short poll. So it is read once for every few polls, and once
//! these took too long, for a while at each poll: the first stall is narrowed down to a few tasks, its repetition to one.

use crate::local::CoreKey;
use crate::stats::Stats;
use crate::task::{Meta, Runnable};
use crate::time::Instant;
use std::panic::Location;
use std::time::Duration;

/// Polls between two looks at the clock.
const COARSE: u32 = 8;
/// Polls that are timed one by one after a slow one.
const WATCHED: u32 = 4096;

/// Watches the polls of one core.
#[derive(Debug)]
pub(crate) struct StallWatch {
    slow: Duration,
    since: Instant,
    unchecked: u32,
    watched: u32,
    logged: u64,
}

/// Which task is about to run; taken before, as the run may free it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect {
    name: &'static str,
    site: &'static Location<'static>,
    core: CoreKey,
}

impl From<&Runnable> for Suspect {
    fn from(runnable: &Runnable) -> Self {
        let Meta { name, site, core, .. } = runnable.metadata();
        Suspect { name, site, core: *core }
    }
}

impl StallWatch {
    pub(crate) fn new(slow: Duration) -> Self {
        StallWatch { slow, since: Instant::ZERO, unchecked: 0, watched: 0, logged: 0 }
    }

    /// Polls are about to begin; the clock shows `now`.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = now;
        self.unchecked = 0;
    }

    /// A poll has ended. Reads the clock where it is time to, and then gives the reading.
    pub(crate) fn polled(
        &mut self,
        suspect: Suspect,
        clock: impl FnOnce() -> Instant,
        stats: &Stats,
    ) -> Option<Instant> {
        self.unchecked += 1;
        if self.watched == 0 && self.unchecked < COARSE {
            return None;
        }
        let now = clock();
        self.check(suspect, now, stats);
        Some(now)
    }

    /// The last poll for now has ended; the clock shows `now`.
    pub(crate) fn end(&mut self, suspect: Suspect, now: Instant, stats: &Stats) {
        if self.unchecked > 0 {
            self.check(suspect, now, stats);
        }
    }

    fn check(&mut self, suspect: Suspect, now: Instant, stats: &Stats) {
        let took = now - self.since;
        let polls = std::mem::take(&mut self.unchecked);
        self.since = now;
        self.watched = self.watched.saturating_sub(polls);
        if took < self.slow {
            return;
        }
        self.watched = WATCHED;
        stats.slow_polls.add(1);
        self.logged += 1;
        // Ever rarer: the counter tells the rest.
        if self.logged.is_power_of_two() {
            let Suspect { name, site, core } = suspect;
            let took_us = took.as_micros() as u64;
            tracing::warn!(?core, name, %site, took_us, polls, "slow: the last of these polls was this task's");
        }
    }
}
