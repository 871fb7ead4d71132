//! Proposals: into the leader's log, or refused before anything is appended.

use super::{Machine, Refused, Role};
use crate::entry::Proposal;
use crate::error::Error;
use crate::id::{LogIndex, Nanos};
use crate::log::Log;

impl Machine {
    pub(super) fn propose(&mut self, proposal: &Proposal<'_>, log: &mut Log) -> Result<LogIndex, Refused> {
        self.check_proposal(proposal).map_err(Refused::Request)?;
        if self.full && !proposal.kind.is_reserved() {
            return Err(Refused::Request(Error::StorageFull));
        }
        let header = proposal.header(self.hard.term, self.log_time(log));
        if !self.has_budget(proposal, log) || !self.has_room(&header, log) {
            return Err(Refused::Request(Error::Overloaded));
        }
        self.last_entry_at = self.now;
        Ok(log.append(header, proposal.body))
    }

    fn check_proposal(&mut self, proposal: &Proposal<'_>) -> Result<(), Error> {
        if self.role != Role::Leader {
            return Err(self.not_leader());
        }
        if let Some(to) = self.transferring() {
            return Err(Error::TransferInProgress { to });
        }
        let body_bytes = proposal.body.iter().map(|piece| piece.len() as u64).sum();
        let limit_bytes = self.settings.limits.entry_bytes;
        if body_bytes > u64::from(limit_bytes) {
            return Err(Error::TooLarge { body_bytes, limit_bytes });
        }
        // Without a quorum nothing commits: refusing early keeps the log from filling with what may be lost.
        // Nor is anything taken for a state that does not change any more; and a log at rest is one that an heir can have whole.
        if self.stalled || self.stopped || !self.has_quorum_lately() {
            return Err(Error::Overloaded);
        }
        Ok(())
    }

    /// Looks through the voters only when the last look was some time ago.
    fn has_quorum_lately(&mut self) -> bool {
        if self.now.since(self.quorum_heard_at) >= self.settings.election_min_ns / 2 {
            self.quorum_heard_at = self.quorum_heard();
        }
        self.now.since(self.quorum_heard_at) < self.settings.election_min_ns
    }

    fn has_budget(&self, proposal: &Proposal<'_>, log: &Log) -> bool {
        let uncommitted = log.bytes_between(self.commit, log.last());
        proposal.kind.is_reserved() || uncommitted < self.settings.limits.uncommitted_bytes
    }

    pub(super) fn not_leader(&self) -> Error {
        match self.role {
            Role::Uninitialised | Role::Joining { .. } => Error::Uninitialised,
            _ => Error::NotLeader { leader: self.leader() },
        }
    }

    /// The log time that an entry appended at `now` would have.
    pub fn log_time_at(&self, now: Nanos, log: &Log) -> u64 {
        log.newest_log_time().saturating_add(now.since(self.last_entry_at))
    }

    /// The log time of an entry appended now: the newest entry's, and what this node's clock has counted since it appended
    /// or received that one.
    pub(super) fn log_time(&self, log: &Log) -> u64 {
        self.log_time_at(self.now, log)
    }
}
