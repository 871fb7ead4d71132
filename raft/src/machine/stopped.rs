//! A replica that applies nothing more, because its apply task could not go on: what that means for everyone else.
//!
//! It votes and acknowledges as ever, so that the others keep their quorum, and says in every acknowledgement that it has
//! stopped: then the log is not kept for its sake. It leads only while nobody better is there. Who is better is known for
//! certain: one that holds the whole log, so that it can win, and has applied the very entry at which this one stopped.
//! Where that entry stops every replica there is nobody like that, and whoever leads stays. Never undone; a restart is.

use super::{Machine, Role};
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
            Role::Leader => self.leave_if_stopped(log),
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
}
