//! How old a replica's knowledge is, for reads that bound it.
//!
//! A leader knows for certain that it led when it opened the newest round that a quorum has echoed, so that nothing was
//! committed before then that it did not know. Every append tells the age of that round, next to the commit index. How long the
//! append itself was on its way, or in a socket's queue while the receiver was stopped, the receiver cannot see. So its
//! acknowledgements carry a mark of its own clock, and appends bring it back with the age that the round had when it arrived:
//! the mark is older than its arrival, and so the round is at most so much older than the mark.

use super::{Machine, Role};
use crate::error::Error;
use crate::id::{LogIndex, Nanos};
use crate::message::AppendHead;
use crate::sabotage::Fault;

const MILLION: u128 = 1_000_000;

impl Machine {
    /// A time of this node's clock, and an index that nothing committed anywhere before that time exceeds.
    pub fn freshness(&self) -> Option<(Nanos, LogIndex)> {
        let own = self.known_round_at().filter(|_| self.role == Role::Leader);
        own.map(|at| (at, self.commit)).max(self.fresh)
    }

    /// A read of a state that may be `max_ns` nanoseconds old: what must be applied, and the time to give to
    /// [`Machine::age_is_within`] when the answer is complete.
    ///
    /// # Errors
    /// What this node knows is older.
    pub fn stale_read(&self, now: Nanos, max_ns: u64) -> Result<(Nanos, LogIndex), Error> {
        let known = self.freshness();
        known
            .filter(|(at, _)| self.age_is_within(now, *at, max_ns))
            .ok_or_else(|| Error::TooStale { age_ns: known.map(|(at, _)| self.at_most(now.since(at))) })
    }

    /// Whether what was fresh `at` is at most `max_ns` nanoseconds old at `now`, which is to be read from the clock after the
    /// answer is complete.
    pub fn age_is_within(&self, now: Nanos, at: Nanos, max_ns: u64) -> bool {
        now >= self.now && self.at_most(now.since(at)) <= max_ns
    }

    /// The true length of what some member's clock has measured, at most.
    fn at_most(&self, measured_ns: u64) -> u64 {
        let slowest = MILLION.saturating_sub(u128::from(self.settings.clock_drift_ppm)).max(1);
        u64::try_from((u128::from(measured_ns) * MILLION).div_ceil(slowest)).unwrap_or(u64::MAX)
    }

    /// When this leader was last known to lead, if it knows what its predecessors have committed.
    pub(super) fn known_round_at(&self) -> Option<Nanos> {
        self.quorum_round_at().filter(|_| self.commit >= self.term_start)
    }

    /// This node's clock, from a beginning that only this run knows.
    pub(super) fn mark(&self) -> u64 {
        self.asks.boot().wrapping_add(self.now.0).max(1)
    }

    pub(super) fn learn_age(&mut self, head: &AppendHead) {
        let marked = match head.mark {
            _ if self.sabotaged(Fault::AgeFromArrival) => self.now,
            0 => return,
            mark => Nanos(mark.wrapping_sub(self.asks.boot())),
        };
        // A mark of another run is anything.
        if head.age_ns == AppendHead::UNKNOWN || marked > self.now {
            return;
        }
        let Some(at) = marked.before(self.at_most(head.age_ns)) else { return };
        if self.fresh.is_none_or(|known| known.0 < at) {
            self.fresh = Some((at, head.commit));
        }
    }
}
