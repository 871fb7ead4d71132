//! Linearizable reads: ReadIndex with numbered rounds.
//!
//! A read may run once a quorum has echoed a round that was opened after the read arrived: then nobody else can have led, and
//! committed, before it. One round answers every read that waits when it opens, those of other replicas too (`ask.rs`).
//! Acknowledgements alone prove nothing, since a delayed one may be older than the read.

use std::collections::VecDeque;

use super::{Action, Machine, Outgoing, Refused, Role};
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

    /// The newest ticket, if it is in no batch and no question yet.
    pub(super) fn take_new(&mut self) -> Option<u64> {
        let new = self.batched < self.issued;
        self.batched = self.issued;
        new.then_some(self.issued)
    }

    pub(super) fn finish(&mut self, ticket: u64) {
        self.finished = self.finished.max(ticket);
    }
}

impl Machine {
    pub(super) fn read(&mut self) -> Result<u64, Refused> {
        if self.role != Role::Leader {
            return Err(Refused::Request(self.not_leader()));
        }
        self.issue_read()
    }

    pub(super) fn issue_read(&mut self) -> Result<u64, Refused> {
        if self.reads.issued - self.reads.finished >= self.settings.limits.waiting_reads {
            return Err(Refused::Request(Error::Overloaded));
        }
        self.reads.issued += 1;
        Ok(self.reads.issued)
    }

    /// Puts the reads that wait into the round about to open. Before the term's first commit, this node may not know what its
    /// predecessors committed, so they go on waiting.
    pub(super) fn open_read_round(&mut self, round: u64) -> bool {
        let index = self.commit;
        if index < self.term_start && !self.sabotaged(Fault::ReadBeforeCommit) {
            return false;
        }
        let own = self.reads.take_new();
        self.reads.batches.extend(own.map(|last_ticket| Batch { round, last_ticket, index }));
        let others = self.peers.iter_mut().filter_map(|peer| peer.asked.enter(round, index).then_some(())).count();
        own.is_some() || others > 0
    }

    /// The newest ticket whose round a quorum has echoed, with the index to wait for; other replicas are sent theirs.
    pub(super) fn take_ready_reads(&mut self, out: &mut Vec<Action>) -> Option<(u64, LogIndex)> {
        let asked = self.role == Role::Leader && self.peers.iter().any(|peer| peer.asked.is_open());
        if self.reads.batches.is_empty() && !asked {
            return None;
        }
        let me = self.settings.me.id;
        // A delayed acknowledgement says what a peer has, not that it has heard of this round.
        let acks_count = self.sabotaged(Fault::AckAnswersRead);
        let echo = |id: NodeId| {
            if id == me {
                return self.round;
            }
            self.peer(id)
                .map_or(0, |peer| if acks_count && peer.heard == Some(self.now) { self.round } else { peer.echo })
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
        if asked {
            let term = self.hard.term;
            out.extend(self.peers.iter_mut().filter_map(|peer| {
                let reply = peer.asked.answer(echoed)?;
                Some(Action::Send(peer.member, term, Outgoing::ReadReply(reply)))
            }));
        }
        ready
    }
}
