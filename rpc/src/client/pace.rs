//! How soon a call without an answer is sent once more to the same server: after a few measured round trips, and within a budget.
//!
//! ```text
//!   answer to a call sent once ──► smoothed round trip and deviation, of each server, for writes and for reads
//!   patience = max(smoothed + 4 deviations, 2 smoothed, 1 ms) x 2^(copies since the last sample)
//!   patience at the ceiling, nothing measured, or no budget left ──► no early copy: the pace of `ClientConfig::probe`
//! ```
//!
//! As in RFC 6298: a call that was sent twice gives no sample (nobody knows which copy was answered), and what was doubled
//! after a copy stays doubled until there is a sample. So answers that become slower cost a few copies and no more. The budget
//! is of all calls of one client: a tenth of a copy for each, saved up to [`SAVED_COPIES`].

use std::net::SocketAddrV4;
use std::time::Duration;

/// Never earlier than after a millisecond, however short the round trip: an answer may wait that long for the processor.
const FLOOR_NS: u64 = 1_000_000;
/// No round trip counts for more, whatever the ceiling: what is computed of it stays within 64 bits.
const SAMPLE_NS_MAX: u64 = 1 << 40;
/// Copies that may be saved up.
const SAVED_COPIES: u32 = 10;
/// Calls that earn one copy.
const CALLS_PER_COPY: u32 = 10;
/// Doublings at most: far beyond any ceiling.
const DOUBLINGS_MAX: u32 = 10;
/// Estimates kept. One more, and the oldest is forgotten: two for each of nine members, and as many for those named besides.
const ESTIMATES_MAX: usize = 36;

/// Whose round trips are alike: a write waits for a quorum and perhaps for disks, a read often for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Read,
}

#[derive(Debug)]
struct Estimate {
    of: (SocketAddrV4, Kind),
    smoothed_ns: u64,
    deviation_ns: u64,
    /// Copies since the last sample.
    doublings: u32,
}

impl Estimate {
    /// Far from overflow: no sample is over [`SAMPLE_NS_MAX`].
    fn patience(&self) -> Duration {
        let measured_ns = self.smoothed_ns + 4 * self.deviation_ns;
        Duration::from_nanos(measured_ns.max(2 * self.smoothed_ns).max(FLOOR_NS) << self.doublings)
    }
}

/// What one client has measured, and what it may spend.
#[derive(Debug)]
pub(super) struct Pace {
    ceiling: Duration,
    estimates: Vec<Estimate>,
    /// In parts of a copy, [`CALLS_PER_COPY`] of which are one.
    saved: u32,
}

impl Pace {
    /// `ceiling`: after so long there is no early copy any more.
    pub(super) fn new(ceiling: Duration) -> Pace {
        Pace { ceiling, estimates: Vec::new(), saved: SAVED_COPIES * CALLS_PER_COPY }
    }

    /// A call begins, and earns its share.
    pub(super) fn begun(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_COPIES * CALLS_PER_COPY);
    }

    /// How long to wait for `server` before it is sent a copy. `None`: no early copy.
    pub(super) fn patience(&self, server: SocketAddrV4, kind: Kind) -> Option<Duration> {
        let found = self.estimates.iter().find(|estimate| estimate.of == (server, kind))?;
        Some(found.patience()).filter(|patience| *patience < self.ceiling)
    }

    /// Whether a copy may be sent.
    pub(super) fn affords_copy(&self) -> bool {
        self.saved >= CALLS_PER_COPY
    }

    /// A copy has been sent to `server`: it is paid for, and the next one of any call waits twice as long, until an answer shows
    /// how long answers take.
    pub(super) fn sent_copy(&mut self, server: SocketAddrV4, kind: Kind) {
        self.saved = self.saved.saturating_sub(CALLS_PER_COPY);
        if let Some(found) = self.estimates.iter_mut().find(|estimate| estimate.of == (server, kind)) {
            found.doublings = (found.doublings + 1).min(DOUBLINGS_MAX);
        }
    }

    /// `server` has answered a call that was sent once, after `took`. What exceeds the ceiling counts as the ceiling: a pause
    /// of the server must not be remembered for long.
    pub(super) fn answered(&mut self, server: SocketAddrV4, kind: Kind, took: Duration) {
        let took_ns = u64::try_from(took.min(self.ceiling).as_nanos()).unwrap_or(u64::MAX).min(SAMPLE_NS_MAX);
        let of = (server, kind);
        let Some(found) = self.estimates.iter_mut().find(|estimate| estimate.of == of) else {
            if self.estimates.len() >= ESTIMATES_MAX {
                self.estimates.remove(0);
            }
            self.estimates.push(Estimate { of, smoothed_ns: took_ns, deviation_ns: took_ns / 2, doublings: 0 });
            return;
        };
        found.deviation_ns = (3 * found.deviation_ns + took_ns.abs_diff(found.smoothed_ns)) / 4;
        found.smoothed_ns = (7 * found.smoothed_ns + took_ns) / 8;
        found.doublings = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MILLI: Duration = Duration::from_millis(1);
    const CEILING: Duration = Duration::from_millis(10);

    fn server(number: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), 8000)
    }

    fn measured(samples: impl IntoIterator<Item = Duration>) -> Pace {
        let mut pace = Pace::new(CEILING);
        samples.into_iter().for_each(|took| pace.answered(server(1), Kind::Write, took));
        pace
    }

    fn patience(pace: &Pace) -> Option<Duration> {
        pace.patience(server(1), Kind::Write)
    }

    #[test]
    fn patience_follows_round_trips_between_floor_and_ceiling() {
        assert_eq!(patience(&measured([])), None, "nothing is measured yet");
        assert_eq!(patience(&measured([MILLI])), Some(3 * MILLI), "the first sample's deviation is half of it");
        // (7 + 3) / 8 = 1.25 ms, and (3 x 0.5 + 2) / 4 = 0.875 ms four times.
        assert_eq!(patience(&measured([MILLI, 3 * MILLI])), Some(Duration::from_micros(1250 + 4 * 875)));
        assert_eq!(patience(&measured([MILLI / 20; 3])), Some(MILLI));
        let steady = patience(&measured([2 * MILLI; 40])).expect("below the ceiling");
        assert!(steady >= 4 * MILLI && steady < 4 * MILLI + MILLI / 100, "twice a steady round trip: {steady:?}");
        assert_eq!(patience(&measured([4 * MILLI])), None, "the ceiling is the old pace");
    }

    #[test]
    fn servers_writes_and_reads_are_measured_apart() {
        let mut pace = measured([MILLI / 10]);
        pace.answered(server(2), Kind::Write, 2 * MILLI);
        pace.answered(server(1), Kind::Read, MILLI);
        assert_eq!(patience(&pace), Some(MILLI));
        assert_eq!(pace.patience(server(2), Kind::Write), Some(6 * MILLI));
        assert_eq!(pace.patience(server(1), Kind::Read), Some(3 * MILLI));
        assert_eq!(pace.patience(server(2), Kind::Read), None);
    }

    #[test]
    fn a_copy_doubles_the_patience_until_an_answer_is_timed() {
        let mut pace = measured([MILLI / 10]);
        let mut seen = Vec::new();
        for _ in 0..40 {
            seen.push(patience(&pace).map(|patience| patience.as_millis()));
            pace.sent_copy(server(1), Kind::Write);
        }
        assert_eq!(seen[..5], [Some(1), Some(2), Some(4), Some(8), None]);
        assert!(seen[5..].iter().all(Option::is_none));
        pace.answered(server(1), Kind::Write, MILLI / 10);
        assert_eq!(patience(&pace), Some(MILLI));
    }

    #[test]
    fn a_pause_is_forgotten_after_a_few_answers() {
        let mut pace = measured([MILLI / 10; 20]);
        pace.answered(server(1), Kind::Write, Duration::from_secs(60));
        assert_eq!(patience(&pace), None);
        (0..20).for_each(|_| pace.answered(server(1), Kind::Write, MILLI / 10));
        assert!(patience(&pace).is_some_and(|patience| patience < 2 * MILLI), "{:?}", patience(&pace));
    }

    /// Copies for a tenth of the calls and a few more, whatever happens.
    #[test]
    fn copies_are_earned_by_calls() {
        let mut pace = Pace::new(CEILING);
        let mut spend = |calls: u32| {
            (0..calls).for_each(|_| pace.begun());
            let mut copies = 0;
            while pace.affords_copy() {
                pace.sent_copy(server(1), Kind::Write);
                copies += 1;
            }
            copies
        };
        assert_eq!(spend(1000), SAVED_COPIES, "no more is saved up");
        assert_eq!((spend(9), spend(1), spend(25), spend(5)), (0, 1, 2, 1));
    }

    #[test]
    fn the_estimates_are_bounded() {
        let mut pace = Pace::new(CEILING);
        (0..200).for_each(|number| pace.answered(server(number), Kind::Read, MILLI));
        assert_eq!(pace.estimates.len(), ESTIMATES_MAX);
        assert_eq!(pace.patience(server(0), Kind::Read), None);
        assert!(pace.patience(server(199), Kind::Read).is_some());
    }
}
