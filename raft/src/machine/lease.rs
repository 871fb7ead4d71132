//! Leases: reads without asking anyone, for as long as nobody else can have been elected.
//!
//! A voter that hears a leader gives no other candidate its vote for the shortest election timeout, whatever becomes of terms
//! meanwhile; one that has just started gives none either, since it may have promised before. So from the moment at which a
//! round was opened that a quorum has echoed since, nobody else leads for that long, by the slowest clock there may be. The
//! lease runs from that moment, not from the echo's arrival. It is not to be had while leadership is handed over, nor ever
//! again in the term once somebody was told to stand: that one's voters do not wait.
//!
//! Whoever answers under a lease looks at the clock once more when the answer is complete, see [`Machine::lease_holds`]: a
//! process may be stopped for any time between two instructions, and what arrived meanwhile is seen with an old time.

use std::collections::VecDeque;

use super::{Machine, Role, Settings};
use crate::error::Error;
use crate::id::{LogIndex, Nanos, NodeId, Term};
use crate::quorum;
use crate::sabotage::Fault;

/// Rounds whose time is kept. With the thinning below they cover nearly two election timeouts.
const KEPT: usize = 64;
/// Of the rounds within such a share of an election timeout only the first is kept.
const GRAIN: u64 = 32;
const MILLION: u128 = 1_000_000;

/// When rounds were opened, the newest last. What is not kept counts as opened when the one kept before it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Rounds {
    opened: VecDeque<(u64, Nanos)>,
}

impl Rounds {
    /// A leadership begins. What it will keep is allocated now: leading allocates nothing in steady state.
    pub(super) fn begin(&mut self) {
        self.opened.clear();
        self.opened.reserve_exact(KEPT);
    }

    pub(super) fn opened(&mut self, round: u64, now: Nanos, election_ns: u64) {
        if self.opened.back().is_some_and(|newest| now.since(newest.1) < election_ns / GRAIN) {
            return;
        }
        if self.opened.len() == KEPT {
            self.opened.pop_front();
        }
        self.opened.push_back((round, now));
    }

    /// When `round` was opened, or earlier; [`Nanos::ZERO`] where that is forgotten.
    fn at(&self, round: u64) -> Nanos {
        let after = self.opened.partition_point(|known| known.0 <= round);
        after.checked_sub(1).map_or(Nanos::ZERO, |at| self.opened[at].1)
    }
}

impl Settings {
    /// How long a leader's clock may count from a round on: less than any voter's clock takes for the shortest election timeout.
    pub(super) fn lease_length_ns(&self) -> u64 {
        let drift = u128::from(self.clock_drift_ppm).min(MILLION);
        let length = u128::from(self.election_min_ns) * (MILLION - drift) / (MILLION + drift);
        u64::try_from(length).unwrap_or(u64::MAX)
    }
}

impl Machine {
    /// Until when this leader may answer without asking, as far as is known at `now`; none where it may not.
    pub fn lease(&self, now: Nanos) -> Option<Nanos> {
        let length_ns = self.settings.lease_ns?;
        let handed = (self.told_to_stand || self.handover.is_some()) && !self.sabotaged(Fault::LeaseInTransfer);
        // A clock that goes back has a rate that nobody has allowed for.
        if self.role != Role::Leader || self.commit < self.term_start || handed || now < self.now {
            return None;
        }
        let from = self.quorum_round_at()?;
        Some(from.after(length_ns)).filter(|until| now < *until)
    }

    /// A read under the lease: what must be applied before the state is looked at, and the term to give to
    /// [`Machine::lease_holds`] when the answer is complete.
    ///
    /// # Errors
    /// This node does not lead, or holds no lease: then a round answers the read, see [`crate::Input::Read`].
    pub fn lease_read(&self, now: Nanos) -> Result<(Term, LogIndex), Error> {
        if self.role != Role::Leader {
            return Err(self.not_leader());
        }
        self.lease(now).map(|_| (self.hard.term, self.commit)).ok_or(Error::LeaseEnded)
    }

    /// Whether an answer under the lease of `term` may leave. `now` must have been read from the clock after the answer was
    /// complete: a stamp from before proves nothing.
    pub fn lease_holds(&self, now: Nanos, term: Term) -> bool {
        self.hard.term == term && self.lease(now).is_some()
    }

    /// When the newest round was opened that a quorum, of each half, has echoed.
    pub(super) fn quorum_round_at(&self) -> Option<Nanos> {
        let me = self.settings.me.id;
        let from = |id: NodeId| {
            if id == me {
                return self.now;
            }
            self.peer(id).map_or(Nanos::ZERO, |peer| peer.echoed_from)
        };
        Some(quorum::reached_by(self.configuration(), from, self.needed())).filter(|at| *at > Nanos::ZERO)
    }

    /// From when an echo of `round` counts.
    pub(super) fn lease_runs_from(&self, round: u64) -> Nanos {
        if self.sabotaged(Fault::LeaseFromAnswer) { self.now } else { self.rounds.at(round) }
    }

    /// A leader was heard, or may have been before this node started.
    pub(super) fn promise_no_vote(&mut self) {
        self.no_vote_before = self.no_vote_before.max(self.now.after(self.settings.election_min_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_round_is_never_later_than_it_was() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.at(7), Nanos::ZERO);
        let time = |round: u64| Nanos(1000 + round * 10);
        for round in 1..=5000u64 {
            rounds.opened(round, time(round), 3200);
            let known = rounds.at(round);
            assert!(known <= time(round) && time(round).since(known) < 3200 / GRAIN, "round {round}: {known:?}");
        }
        assert_eq!(rounds.opened.len(), KEPT);
        assert_eq!(rounds.at(3), Nanos::ZERO, "forgotten");
        let two_timeouts_ago = 5000 - 2 * 3200 / 10 + 50;
        assert!(rounds.at(two_timeouts_ago) > Nanos::ZERO && rounds.at(two_timeouts_ago) <= time(two_timeouts_ago));
        assert!(rounds.at(9999) <= time(5000));
    }
}
