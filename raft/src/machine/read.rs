//! Linearizable reads: ReadIndex with numbered rounds.
//!
//! A read may run once a quorum has echoed a round that was opened after the read arrived: then nobody else can have led, and
//! committed, before it. One round answers every read that waits when it opens. Acknowledgements alone prove nothing,
//! since a delayed one may be older than the read.

use std::collections::VecDeque;

use super::{Machine, Refused, Role};
use crate::error::Error;
use crate::id::{LogIndex, NodeId};
use crate::quorum;
use crate::sabotage::Fault;

/// The reads that one round answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Batch {
    round: u64,
    last_ticket: u64,
    index: LogIndex,
}

/// Reads by ticket: `done < ready and failed <= batches' <= issued`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Reads {
    issued: u64,
    batched: u64,
    finished: u64,
    batches: VecDeque<Batch>,
    failed: Option<u64>,
}

impl Reads {
    /// No read that waits now is answered by this leadership.
    pub(super) fn fail_all(&mut self) {
        self.batches.clear();
        if self.finished < self.issued {
            self.failed = Some(self.issued);
        }
        self.batched = self.issued;
        self.finished = self.issued;
    }

    pub(super) fn take_failed(&mut self) -> Option<u64> {
        self.failed.take()
    }
}

impl Machine {
    pub(super) fn read(&mut self) -> Result<u64, Refused> {
        if self.role != Role::Leader {
            return Err(Refused::Request(self.not_leader()));
        }
        if self.reads.issued - self.reads.finished >= self.settings.limits.waiting_reads {
            return Err(Refused::Request(Error::Overloaded));
        }
        self.reads.issued += 1;
        Ok(self.reads.issued)
    }

    /// Puts the reads that wait into the round about to open. Before the term's first commit, this node may not know what its
    /// predecessors committed, so they go on waiting.
    pub(super) fn open_read_round(&mut self, round: u64) -> bool {
        if self.reads.batched == self.reads.issued || self.commit < self.term_start {
            return false;
        }
        self.reads.batched = self.reads.issued;
        self.reads.batches.push_back(Batch { round, last_ticket: self.reads.issued, index: self.commit });
        true
    }

    /// The newest ticket whose round a quorum has echoed, with the index to wait for.
    pub(super) fn take_ready_reads(&mut self) -> Option<(u64, LogIndex)> {
        if self.reads.batches.is_empty() {
            return None;
        }
        let me = self.settings.me.id;
        let echo = |id: NodeId| {
            if id == me {
                return self.round;
            }
            self.peers.iter().find(|peer| peer.id() == id).map_or(0, |peer| peer.echo)
        };
        let mut echoed = quorum::reached_by(self.configuration(), echo, self.needed());
        if self.sabotaged(Fault::ReadWithoutRound) {
            echoed = u64::MAX;
        }
        let mut ready = None;
        while let Some(batch) = self.reads.batches.front().filter(|batch| batch.round <= echoed) {
            self.reads.finished = batch.last_ticket;
            ready = Some((batch.last_ticket, batch.index));
            self.reads.batches.pop_front();
        }
        ready
    }
}
