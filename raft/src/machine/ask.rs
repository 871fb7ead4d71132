//! Linearizable reads on a replica that does not lead: the leader is asked for an index to wait for.
//!
//! The reads of one moment share a question. It carries a number, and a nonce drawn when this node started: an answer serves
//! the reads whose question has its number or a smaller one, for they arrived before it was sent, and the leader opened its
//! round after that. An answer to a question of an earlier run would be older than the reads it is taken for. A leader keeps
//! only the newest question of each replica that waits for its round, and a few whose rounds are on their way.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{Action, Machine, Outgoing, Role};
use crate::error::{DropReason, Error};
use crate::id::{LogIndex, Nanos};
use crate::message::{Envelope, ReadAsk, ReadReply};
use crate::sabotage::Fault;

use super::Refused;

/// Rounds on their way for one replica's questions. A further question waits, and the newest takes its place.
const ROUNDS: usize = 4;

/// The reads that one question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    number: u64,
    last_ticket: u64,
    since: Nanos,
}

/// What this node asks its leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Asks {
    boot: u64,
    number: u64,
    open: VecDeque<Question>,
    due: bool,
    again_at: Option<Nanos>,
    ready: Option<(u64, LogIndex)>,
}

impl Asks {
    pub(super) fn new(boot: u64) -> Asks {
        Asks { boot, ..Asks::default() }
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    /// When the newest question is to be asked again.
    pub(super) fn ask_again_at(&self) -> Nanos {
        self.again_at.unwrap_or(Nanos::FAR)
    }

    pub(super) fn take_ready(&mut self) -> Option<(u64, LogIndex)> {
        self.ready.take()
    }

    fn clear(&mut self) {
        self.open.clear();
        self.due = false;
        self.again_at = None;
    }
}

/// What a leader was asked by one replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Asked {
    waiting: Option<ReadAsk>,
    rounds: SmallVec<[(u64, ReadReply); ROUNDS]>,
}

impl Asked {
    /// Puts the question that waits into the round about to open.
    pub(super) fn enter(&mut self, round: u64, index: LogIndex) -> bool {
        if self.rounds.len() >= ROUNDS {
            return false;
        }
        let Some(ask) = self.waiting.take() else { return false };
        self.rounds.push((round, ReadReply { ask, index }));
        true
    }

    /// Whether a round is on its way.
    pub(super) fn is_open(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// The answer of the newest round that a quorum has echoed.
    pub(super) fn answer(&mut self, echoed: u64) -> Option<ReadReply> {
        let done = self.rounds.iter().take_while(|(round, _)| *round <= echoed).count();
        self.rounds.drain(..done).next_back().map(|(_, reply)| reply)
    }
}

impl Machine {
    /// As [`Machine::read`] on the leader; elsewhere the leader is asked.
    pub(super) fn read_here(&mut self) -> Result<u64, Refused> {
        if self.fenced.is_some() && !self.sabotaged(Fault::FencedReads) || self.stopped {
            return Err(Refused::Request(Error::NotServing));
        }
        if self.role == Role::Follower && self.leader.is_some() { self.issue_read() } else { self.read() }
    }

    /// No read that waits here is answered: who leads has changed, or cannot be reached.
    pub(super) fn fail_reads(&mut self) {
        self.reads.fail_all();
        self.asks.clear();
    }

    /// Asks what is to be asked again, and gives up what has waited for the longest election timeout.
    pub(super) fn tick_asks(&mut self) {
        if self.now < self.asks.ask_again_at() {
            return;
        }
        let patience_ns = self.settings.election_max_ns;
        if self.asks.open.front().is_some_and(|oldest| self.now.since(oldest.since) >= patience_ns) {
            return self.fail_reads();
        }
        self.asks.due = true;
    }

    /// One question for all reads that have come in since the last.
    pub(super) fn flush_asks(&mut self, out: &mut Vec<Action>) {
        let Some(leader) = self.leader.filter(|_| self.role == Role::Follower) else { return };
        if let Some(last_ticket) = self.reads.take_new() {
            self.asks.number += 1;
            self.asks.open.push_back(Question { number: self.asks.number, last_ticket, since: self.now });
            self.asks.due = true;
        }
        if !std::mem::take(&mut self.asks.due) {
            return;
        }
        self.asks.again_at = Some(self.now.after(self.settings.heartbeat_ns));
        let to = self.sender(leader, self.leader_address);
        let ask = ReadAsk { boot: self.asks.boot, number: self.asks.number };
        out.push(Action::Send(to, self.hard.term, Outgoing::ReadAsk(ask)));
    }

    pub(super) fn on_read_ask(&mut self, header: &Envelope, ask: ReadAsk) -> Result<(), DropReason> {
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        if header.term > self.hard.term {
            self.adopt_term(header.term);
            return Ok(());
        }
        if self.role != Role::Leader {
            return Err(DropReason::Unexpected);
        }
        let peer = self.peer_mut(header.from).ok_or(DropReason::NotMember)?;
        // The newer question stands for the older; of two runs nobody knows which is newer, and the present one asks again.
        let newer = |known: ReadAsk| known.boot != ask.boot || known.number < ask.number;
        if peer.asked.waiting.is_none_or(newer) {
            peer.asked.waiting = Some(ask);
        }
        Ok(())
    }

    pub(super) fn on_read_reply(&mut self, header: &Envelope, reply: &ReadReply) -> Result<(), DropReason> {
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        let any = self.sabotaged(Fault::AnswerOfAnyRun);
        if header.term > self.hard.term || self.leader != Some(header.from) || reply.ask.boot != self.asks.boot && !any
        {
            return Err(DropReason::Unexpected);
        }
        if reply.ask.number > self.asks.number && !any {
            return Err(DropReason::Contradiction);
        }
        let later = self.sabotaged(Fault::AnswerReleasesLater);
        let answers = |open: &Question| open.number <= reply.ask.number || later;
        while let Some(question) = self.asks.open.front().copied().filter(answers) {
            self.asks.open.pop_front();
            self.asks.ready = Some((question.last_ticket, reply.index));
            self.reads.finish(question.last_ticket);
        }
        if self.asks.open.is_empty() {
            self.asks.again_at = None;
        }
        Ok(())
    }
}
