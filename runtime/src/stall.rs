//! Polls that keep everyone else waiting: counted, and named in the log.
//!
//! Reading the clock at each poll would cost as much as a short poll. So it is read once for a batch of polls: for as many as take some
//! microseconds at the pace of those before. Once a batch took too long, the clock is read at each poll for a while: the first stall is
//! narrowed down to a few tasks, its repetition to one.

use crate::local::CoreKey;
use crate::stats::Stats;
use crate::task::{Meta, Runnable};
use crate::time::Instant;
use std::panic::Location;
use std::time::Duration;

/// Polls between two looks at the clock: at first, and at most. The latter bounds what slow polls that follow upon quick ones cost the rest
/// of the turn.
const BATCH: u32 = 8;
const BATCH_MAX: u32 = 32;
/// What a batch shall take, within a factor of two: little beside the time that a turn may take, much beside a look at the clock.
const BATCH_TIME: Duration = Duration::from_micros(4);
/// What a turn does before its polls seldom takes so long: where the first batch of a turn does, the polls were slow.
const RECEIPT_TIME: Duration = Duration::from_micros(32);
/// Polls that are timed one by one after a slow one.
const WATCHED: u32 = 4096;

/// Watches the polls of one core.
#[derive(Debug)]
pub(crate) struct StallWatch {
    slow: Duration,
    since: Instant,
    /// Polls since then.
    unchecked: u32,
    /// Polls until the next look.
    batch: u32,
    /// Nothing but polls has happened since then.
    polls_only: bool,
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
    #[inline]
    fn from(runnable: &Runnable) -> Self {
        let Meta { name, site, core, .. } = runnable.metadata();
        Suspect { name, site, core: *core }
    }
}

impl StallWatch {
    pub(crate) fn new(slow: Duration) -> Self {
        StallWatch { slow, since: Instant::ZERO, unchecked: 0, batch: BATCH, polls_only: false, watched: 0, logged: 0 }
    }

    /// Polls are about to begin. The clock showed `now` when the turn began, which has done other things since.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = now;
        self.unchecked = 0;
        self.polls_only = false;
    }

    /// A poll has ended. Reads the clock where it is time to, and then gives the reading.
    #[inline]
    pub(crate) fn polled(
        &mut self,
        suspect: Suspect,
        clock: impl FnOnce() -> Instant,
        stats: &Stats,
    ) -> Option<Instant> {
        self.unchecked += 1;
        if self.watched == 0 && self.unchecked < self.batch {
            return None;
        }
        let now = clock();
        self.check(suspect, now, stats);
        Some(now)
    }

    /// The last poll for now has ended. Reads the clock, where it was not read after that poll.
    pub(crate) fn end(&mut self, suspect: Suspect, clock: impl FnOnce() -> Instant, stats: &Stats) {
        if self.unchecked > 0 {
            self.check(suspect, clock(), stats);
        }
    }

    fn check(&mut self, suspect: Suspect, now: Instant, stats: &Stats) {
        let took = now - self.since;
        let polls = std::mem::take(&mut self.unchecked);
        self.since = now;
        self.watched = self.watched.saturating_sub(polls);
        let polls_only = std::mem::replace(&mut self.polls_only, true);
        if took < BATCH_TIME / 2 && polls == self.batch {
            self.batch = (self.batch * 2).min(BATCH_MAX);
        } else if took > if polls_only { BATCH_TIME } else { RECEIPT_TIME } {
            self.batch = (self.batch / 2).max(1);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::tests::local;
    use crate::task::spawn;
    use std::cell::Cell;

    /// So many polls of so many nanoseconds, and how often the clock was looked at.
    fn looks(stalls: &mut StallWatch, now: &Cell<u64>, polls: u32, poll_ns: u64) -> u32 {
        let local = local();
        let runnable = {
            let _entered = local.enter();
            spawn(async {}).detach();
            local.lanes.borrow_mut().pop(true, true).expect("the new task")
        };
        let suspect = Suspect::from(&runnable);
        let mut looks = 0;
        let clock = || Instant::from_nanos(now.get());
        for _ in 0..polls {
            now.set(now.get() + poll_ns);
            looks += u32::from(stalls.polled(suspect, clock, &local.stats).is_some());
        }
        let _entered = local.enter();
        drop(runnable);
        looks
    }

    #[test]
    fn the_clock_is_looked_at_after_some_microseconds_however_long_polls_take() {
        let (mut stalls, now) = (StallWatch::new(Duration::from_millis(1)), Cell::new(0));
        assert_eq!(looks(&mut stalls, &now, BATCH + 2 * BATCH + BATCH_MAX, 10), 3, "longer batches of quick polls");
        assert_eq!(looks(&mut stalls, &now, 10 * BATCH_MAX, 10), 10, "and never longer than this");
        // 32, 16, 8, 4, 2 of them, and one by one.
        assert_eq!(looks(&mut stalls, &now, 62, 5_000), 5, "shorter ones of slow polls");
        assert_eq!(looks(&mut stalls, &now, 20, 5_000), 20);
        // Two of them take what a batch shall take.
        assert_eq!(looks(&mut stalls, &now, 41, 1_500), 21);
        // What a turn does before its polls is not theirs, within reason.
        for (before_ns, left) in [(20_000, 2), (50_000, 1)] {
            stalls.begin(Instant::from_nanos(now.get() - before_ns));
            looks(&mut stalls, &now, 2, 2_000);
            assert_eq!(stalls.batch, left);
        }
    }
}
