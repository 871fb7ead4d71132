//! Commit, apply, and what the log may forget.

use super::{Machine, Peer, Role};
use crate::id::{LogIndex, Nanos, NodeId};
use crate::log::Log;
use crate::quorum;
use crate::sabotage::Fault;
use crate::storage::Write;

/// Silence after which the log is no longer kept for a member: ten of the longest election timeouts, at least a second.
const SILENT_ELECTIONS: u64 = 10;
const SILENT_NS: u64 = 1_000_000_000;
/// Silence after which a full log is no longer kept for a member that this leader has not heard at all: three of the longest
/// election timeouts, at least a tenth of a second. It may have been gone for long, and writes wait.
const UNHEARD_ELECTIONS: u64 = 3;
const UNHEARD_NS: u64 = 100_000_000;
/// Entries forgotten at once.
const TRIM_ENTRIES: u64 = 1024;

impl Machine {
    pub(super) fn commit_to(&mut self, index: LogIndex) {
        if index > self.commit {
            self.commit = index;
            if self.role == Role::Leader && self.settings.commit_notice_ns > 0 && self.notice_at == Nanos::FAR {
                self.notice_at = self.now.after(self.settings.commit_notice_ns);
            }
            self.history.settled(self.commit.min(self.applied));
        }
    }

    /// Counts what a quorum has durable. Only an entry of this term commits by counting; older ones with it.
    pub(super) fn count_commit(&mut self, log: &Log) {
        if self.role != Role::Leader {
            return;
        }
        let me = self.settings.me.id;
        let durable = |id: NodeId| {
            if id == me {
                return self.durable;
            }
            self.peers.iter().find(|peer| peer.id() == id).map_or(LogIndex::ZERO, |peer| peer.matched)
        };
        let reached = quorum::reached_by(self.configuration(), durable, self.needed());
        let own_term = log.term_at(reached) == Some(self.hard.term);
        if reached > self.commit && (own_term || self.sabotaged(Fault::CommitOldTerm)) {
            self.commit_to(reached);
        }
    }

    /// Counts only if the log still holds that term at that index: the entries may have been replaced meanwhile.
    pub(super) fn persisted(&mut self, write: Write, log: &mut Log) {
        self.hard_durable = write.hard;
        let holds = log.term_at(write.to) == Some(write.to_term) || self.sabotaged(Fault::PersistedByIndexOnly);
        if holds && write.to > self.durable {
            self.durable = write.to.min(log.last());
            self.ack_due |= self.role == Role::Follower && self.leader.is_some();
            self.count_commit(log);
            self.drive(log);
        }
        if matches!(self.role, Role::Candidate) {
            self.count_votes(log);
        }
    }

    pub(super) fn storage_failed(&mut self) {
        self.failed = true;
        self.farewell();
    }

    /// `states` are those after entries that were applied, oldest first.
    pub(super) fn applied(&mut self, states: &[(LogIndex, u64)], log: &mut Log) {
        for (index, digest) in states {
            let index = (*index).min(self.commit);
            if index >= self.applied {
                self.applied = index;
                self.digest = *digest;
                self.trail.push(index, *digest);
            }
        }
        self.history.settled(self.applied);
        if self.role == Role::Leader {
            self.compare_ahead();
        }
        self.relieve_pressure(log);
    }

    /// How long the log is kept for a member that says nothing.
    pub(super) fn patience_with_silence_ns(&self) -> u64 {
        SILENT_NS.max(SILENT_ELECTIONS * self.settings.election_max_ns)
    }

    /// Whether a full log still waits for this member. Nothing but time rests on the answer: what is forgotten is applied here,
    /// and a member that lacks it gets a snapshot.
    fn waits_for(&self, peer: &Peer) -> bool {
        // In memory a stopped log makes room by what its leader says; on a full disk it never does.
        if peer.stuck_since.is_some_and(|since| self.now.since(since) > self.patience_with_silence_ns()) {
            return false;
        }
        match peer.heard {
            Some(heard) => self.now.since(heard) <= self.patience_with_silence_ns(),
            None => {
                let patience = UNHEARD_NS.max(UNHEARD_ELECTIONS * self.settings.election_max_ns);
                self.now.since(peer.since) <= patience
            }
        }
    }

    /// What every member has applied nobody asks for again: beyond a small share of the budget the log forgets it, so that
    /// its memory stays the same and warm. Members that lag too far are not counted (`lag.rs`). A log over three quarters of the budget does
    /// not wait for members that have been silent or stuck for long, nor for snapshots on their way, and keeps half for those that come
    /// back: one that needs more needs a snapshot.
    pub(super) fn relieve_pressure(&mut self, log: &mut Log) {
        let (bytes, limit) = (log.bytes(), self.settings.limits.log_bytes);
        let pressed = bytes > limit / 4 * 3;
        // A state that is thrown away needs nothing.
        let done = if self.fenced.is_some() || self.stopped { self.commit } else { self.applied };
        let mut floor = self.floor;
        if self.role == Role::Leader {
            // Applied by all in reach, and by those of them that answer; and whether one of these is short of room: it
            // forgets only what its leader says.
            self.find_laggards(done, log);
            let (mut by_all, mut by_live, mut others_pressed) = (self.applied, done, false);
            for peer in self.peers.iter().filter(|peer| !peer.is_out() && self.keeps_up(peer)) {
                let needs_after = peer.needs_after();
                by_all = by_all.min(needs_after);
                if self.waits_for(peer) {
                    by_live = by_live.min(needs_after);
                    others_pressed |= peer.is_short_of_memory(limit / 4);
                }
            }
            by_all = by_all.min(self.kept_for_transfers(log).unwrap_or(by_all));
            floor = if pressed { by_live } else { by_all };
            self.floor = if pressed || others_pressed { by_live } else { by_all };
        }
        // The newest entry stays: log time goes on from it.
        let to = floor.min(done).min(self.durable).min(log.last().prev());
        // In small steps, so that the log's chunks go round and nothing is allocated in steady state.
        let to = to.min(LogIndex(log.base().0.saturating_add(TRIM_ENTRIES)));
        let (over, kept) = if pressed { (limit / 4 * 3, limit / 2) } else { (limit / 32, limit / 64) };
        if bytes > over && to > log.base() {
            log.trim(log.newest_within(kept).prev().min(to));
            self.advertise_credit(log);
        }
    }
}
