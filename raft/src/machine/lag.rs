//! Members that lag: what the log keeps for them, and how often they are given a snapshot.
//!
//! What a quorum has applied is safe without the rest, so the log need not be kept for one that is far behind it, however live: its
//! device may hang, or its machine be too slow for the load. It then costs a cursor, until it can be given a snapshot. How far behind
//! is measured against the quorum, not against the newest entry: where the quorum itself is slow, all of it is waited for.

use super::{Machine, Peer, PeerState};
use crate::id::{LogIndex, Nanos, NodeId};
use crate::log::Log;
use crate::quorum;

/// One that falls behind again this soon after a snapshot is given the next one later, each time twice as late, up to this.
const PAUSE_NS_MAX: u64 = 60_000_000_000;

impl Machine {
    /// Notes who lags behind a quorum by more than the budget. `done` is what this leader needs no more.
    pub(super) fn find_laggards(&mut self, done: LogIndex, log: &Log) {
        let (log_bytes, max_lag_bytes) = (self.settings.limits.log_bytes, self.settings.limits.max_lag_bytes);
        let is_short = |peer: &Peer| peer.is_short_of_memory(log_bytes / 4);
        if log.bytes() <= max_lag_bytes && !self.peers.iter().any(is_short) {
            self.peers.iter_mut().for_each(|peer| peer.lags_since = None);
            return;
        }
        let me = self.settings.me.id;
        let needs_after = |id: NodeId| match self.peers.iter().find(|peer| peer.id() == id) {
            Some(peer) => peer.needs_after(),
            None if id == me => done,
            None => LogIndex::ZERO,
        };
        let by_quorum = quorum::reached_by(self.configuration(), needs_after, self.needed());
        // One of the quorum may have a smaller log than this leader, and forgets only what it is told: it has no room for more either.
        let keep_up = self.peers.iter().filter(|peer| is_short(peer) && peer.needs_after() >= by_quorum);
        let half = |peer: &Peer| peer.credit_bytes.saturating_add(log.bytes_between(self.floor, peer.matched)) / 2;
        let budget_bytes = keep_up.map(half).fold(max_lag_bytes, u64::min);
        let now = self.now;
        for peer in &mut self.peers {
            // Of one that was not heard it is not known.
            let lags = peer.heard.is_some() && log.bytes_between(peer.needs_after(), by_quorum) > budget_bytes;
            peer.lags_since = lags.then(|| peer.lags_since.unwrap_or(now));
        }
    }

    /// Whether the log is kept for this member, as far as its lag goes. A burst alone puts nobody out.
    pub(super) fn keeps_up(&self, peer: &Peer) -> bool {
        peer.lags_since.is_none_or(|since| self.now.since(since) < self.settings.election_max_ns)
    }
}

impl Peer {
    /// It has no use for entries up to here. One that applies nothing more needs what it has to acknowledge, and no more.
    pub(super) fn needs_after(&self) -> LogIndex {
        if self.fenced.is_none() && !self.stopped { self.applied } else { self.matched }
    }

    /// It has said that its log in memory has room for less than so many bytes: it forgets only what its leader says.
    pub(super) fn is_short_of_memory(&self, bytes: u64) -> bool {
        self.heard.is_some() && self.credit_bytes < bytes && !self.disk_bound
    }

    /// It needs what the log no longer holds. One that has needed a snapshot of late gets the next ever later, since each costs the
    /// leader the writing of its whole state.
    pub(super) fn fall_out(&mut self, now: Nanos, first_pause_ns: u64) {
        self.state = PeerState::OutOfReach;
        self.transfer = None;
        self.donor = None;
        let soon = self.given_at.is_some_and(|given| now.since(given) < PAUSE_NS_MAX);
        self.falls = if soon { (self.falls + 1).min(32) } else { 0 };
        let pause_ns = match self.falls {
            0 => 0,
            falls => first_pause_ns.saturating_mul(1 << (falls - 1)).min(PAUSE_NS_MAX),
        };
        self.no_snapshot_before = now.after(pause_ns);
    }

    /// Whether a snapshot would be of use to it now. One whose device has not written what it has already would be no better off.
    pub(super) fn may_have_snapshot(&self, now: Nanos) -> bool {
        !self.unwritten && now >= self.no_snapshot_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;

    #[test]
    fn who_falls_out_again_and_again_waits_twice_as_long_each_time_and_at_most_a_minute() {
        let first_ns = 200_000_000;
        let mut peer = Peer::new(member(1), LogIndex(1), Nanos::ZERO);
        let mut now = Nanos(5);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            peer.fall_out(now, first_ns);
            pauses.push(peer.no_snapshot_before.since(now) / first_ns);
            assert_eq!(peer.may_have_snapshot(now), peer.no_snapshot_before == now);
            now = peer.no_snapshot_before;
            assert!(peer.may_have_snapshot(now));
            peer.given_at = Some(now);
        }
        assert_eq!(pauses[..6], [0, 1, 2, 4, 8, 16]);
        assert_eq!(pauses[9..], [256, 300, 300, 300, 300, 300, 300, 300, 300, 300, 300]);
        peer.fall_out(now.after(PAUSE_NS_MAX), first_ns);
        assert!(peer.may_have_snapshot(now.after(PAUSE_NS_MAX)), "it kept up for a minute");
    }
}
