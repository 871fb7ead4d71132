//! A replica that applies nothing more, because its apply task could not go on: what that means for everyone else.
//!
//! It votes and acknowledges as ever, so that the others keep their quorum, and says in every acknowledgement that it has
//! stopped: then the log is not kept for its sake. It leads only while nobody better is there. Who is better is known for
//! certain: one that holds the whole log, so that it can win, and has applied the very entry at which this one stopped.
//! Where that entry stops every replica there is nobody like that, and whoever leads stays. Never undone; a restart is.

use super::{Machine, Role};
use crate::id::NodeId;
use crate::log::Log;

/// How much longer a stopped replica waits before it stands for election.
pub(super) const PATIENCE: u64 = 4;

impl Machine {
    /// Whether this replica's apply task has said that it applies nothing more.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn stop_applying(&mut self, log: &mut Log) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        match self.role {
            Role::Leader => self.hand_over(log),
            Role::PreCandidate | Role::Candidate => {
                self.stand_down();
                self.reset_election_timer();
            }
            Role::Follower => {
                self.ack_due |= self.leader.is_some();
                self.reset_election_timer();
            }
            Role::Uninitialised | Role::Joining { .. } => {}
        }
        self.relieve_pressure(log);
    }

    /// A leader that has stopped gives leadership up as soon as a voter is there that can take it and make use of it.
    pub(super) fn hand_over(&mut self, log: &Log) {
        let heirs = self.peers.iter().filter(|peer| {
            let serves = !peer.stopped && peer.fenced.is_none() && peer.applied > self.applied;
            serves && peer.matched == log.last()
        });
        let mut ids = heirs.map(|heir| heir.id());
        let fits = |id: NodeId| self.configuration().is_voter(id) && !self.is_silent(id);
        if self.stopped && self.role == Role::Leader && ids.any(fits) {
            self.farewell();
        }
    }
}
