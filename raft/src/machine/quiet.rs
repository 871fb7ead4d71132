//! Idle groups go quiet: a process can host many, and most of them have nothing to say most of the time.
//!
//! A leader whose group has nothing left to do, and of which nobody has wanted anything for [`crate::Timing::quiet_after`], says so in
//! its heartbeats and from then on sends [`FACTOR`] times fewer. Who hears that is patient for as much longer. Whatever anybody wants ends
//! it: at the leader a proposal, a read, a change or a question of any peer, and its next message says no more that it is quiet; at a
//! follower a request of a client, or a candidate. A follower that was woken wakes its leader, gives it the shortest election timeout to be heard
//! before it votes for anybody, and campaigns after one of the usual length. So a dead leader of a quiet group is noticed by the first who
//! needs it, in little more than the usual time, and by nobody for up to [`FACTOR`] of the longest timeouts.
//!
//! Nothing that safety rests on is longer or shorter than else: a vote is withheld longer, leases end as soon, and rounds are opened for
//! every read. Only patience differs.

use super::{Input, Machine, PeerState, Role};
use crate::id::Nanos;
use crate::log::Log;
use crate::message::Body;

/// So many heartbeats are one, and election timeouts are so much longer.
pub(super) const FACTOR: u64 = 25;

impl Machine {
    /// Whether this group was last known to be quiet: its leader is heard less often, and missed later.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// How much rarer messages are to be expected than else.
    pub(super) fn patience_factor(&self) -> u64 {
        if self.quiet { FACTOR } else { 1 }
    }

    /// Somebody wants something of this group, unless `input` is what passes between its members and their disks anyway.
    #[inline]
    pub(super) fn notice(&mut self, input: &Input<'_>) {
        match input {
            Input::Message(_, message) => match message.body {
                Body::Append(..) | Body::Fragment(..) => return,
                Body::Ack(ack) if !ack.in_use => return,
                _ => {}
            },
            Input::Tick
            | Input::Persisted(_)
            | Input::StorageFailed
            | Input::StorageStalled(_)
            | Input::StorageFull(_)
            | Input::StorageRoom(_)
            | Input::StorageSaved(_)
            | Input::Applied(_) => return,
            _ => {}
        }
        self.active_at = self.now;
        if self.quiet {
            self.rouse();
        }
    }

    /// The leader, at a heartbeat: is there anything to be awake for?
    pub(super) fn settle(&mut self, log: &Log) {
        let quiet = self.may_be_quiet(log);
        if self.quiet && !quiet {
            self.rouse();
        }
        self.quiet = quiet;
    }

    /// Whether somebody has wanted something of this replica lately.
    pub(super) fn is_in_use(&self) -> bool {
        self.now.since(self.active_at) < self.settings.quiet_after_ns
    }

    /// Whether nobody wants anything, everybody has everything, and all have answered.
    fn may_be_quiet(&self, log: &Log) -> bool {
        let last = log.last();
        let is_long_ago = self.now.since(self.active_at.max(self.led_since)) >= self.settings.quiet_after_ns;
        let is_idle = self.settings.quiet_after_ns > 0
            && is_long_ago
            && self.durable == last
            && (self.applied == last || self.stopped)
            && self.handover.is_none()
            && self.goal.is_none()
            && self.joiners.is_empty()
            && !self.stalled
            && !self.configuration().is_joint();
        is_idle
            && self.peers.iter().all(|peer| {
                peer.state == PeerState::Replicate
                    // And so it is committed.
                    && peer.matched == last
                    && (peer.applied == last || peer.stopped || peer.fenced.is_some())
                    && peer.transfer.is_none()
                    && peer.has_answered()
            })
    }

    fn rouse(&mut self) {
        self.quiet = false;
        match self.role {
            Role::Leader => {
                // Who has answered whenever it was asked was silent only because it was asked so rarely; who has not, since it was.
                let now = self.now;
                let asked_at = self.heartbeat_at.before(self.settings.heartbeat_ns.saturating_mul(FACTOR));
                for peer in &mut self.peers {
                    let heard = if peer.has_answered() { Some(now) } else { asked_at };
                    peer.heard = peer.heard.max(heard);
                }
                self.quorum_heard_at = self.quorum_heard();
                self.heartbeat_at = now;
            }
            Role::Follower => {
                self.promise_no_vote();
                // It tells the leader that it is in use: if that lives, it is heard before anybody campaigns.
                self.ack_due = true;
                self.reset_election_timer();
            }
            _ => {}
        }
    }

    /// How long a heartbeat interval is at the moment.
    pub(super) fn heartbeat_in(&self) -> Nanos {
        self.now.after(self.settings.heartbeat_ns.saturating_mul(self.patience_factor()))
    }
}
