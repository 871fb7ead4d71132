//! From state to actions: what is due is derived here, from what is true now.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Action, Machine, More, Outgoing, ReplyKind, Role};
use crate::id::{Member, Nanos, NodeId};
use crate::log::Log;
use crate::message::Answer;
use crate::sabotage::Fault;
use crate::storage::Write;
use crate::trace;

impl Machine {
    /// Derives what is due into `out`. Call once per turn, after the steps; the actions are bounded by the number of peers.
    pub fn flush(&mut self, now: Nanos, log: &Log, out: &mut Vec<Action>) -> More {
        let (before, from) = (trace::Before::of(self, log), out.len());
        let more = self.derive(now, log, out);
        trace::flushed(&before, self, log, &out[from..]);
        more
    }

    fn derive(&mut self, now: Nanos, log: &Log, out: &mut Vec<Action>) -> More {
        self.now = self.now.max(now);
        if self.failed {
            // What was promised may be lost: only the notice that others may elect still leaves.
            self.replies.retain(|reply| matches!(reply.kind, ReplyKind::Farewell | ReplyKind::TimeoutNow));
            self.flush_replies(out);
            self.flush_reads(out);
            if !std::mem::replace(&mut self.told_halt, true) {
                out.push(Action::Halt);
            }
            return More::No;
        }
        if std::mem::take(&mut self.install_due) {
            out.push(Action::Install);
        }
        let persisting = self.flush_persist(log, out);
        self.flush_join(out);
        let mut more = persisting;
        if self.hard_durable == self.hard {
            self.flush_replies(out);
            match self.role {
                Role::Leader => more |= self.flush_leader(log, out),
                Role::PreCandidate | Role::Candidate => self.flush_questions(log, out),
                // An acknowledgement waits for the write just begun: it may be complete already.
                Role::Follower if !persisting => self.flush_ack(log, out),
                _ => {}
            }
            self.flush_donation(log, out);
        } else if self.role == Role::PreCandidate {
            self.flush_questions(log, out);
        }
        self.flush_asks(out);
        self.flush_reads(out);
        self.flush_news(log, out);
        if more { More::Yes } else { More::No }
    }

    fn flush_persist(&mut self, log: &Log, out: &mut Vec<Action>) -> bool {
        let Some(cluster) = self.cluster.filter(|_| self.room_bytes > 0) else { return false };
        let after = self.written.max(log.base());
        let to = if self.room_bytes == u64::MAX { log.last() } else { log.oldest_within(after, self.room_bytes) };
        if self.hard == self.hard_written && self.written == to {
            return false;
        }
        let to_term = log.term_at(to).unwrap_or_default();
        let write = Write { cluster, hard: self.hard, from: after.next(), to, to_term };
        self.hard_written = self.hard;
        self.written = to;
        out.push(Action::Persist(write));
        true
    }

    fn flush_replies(&mut self, out: &mut Vec<Action>) {
        let term = self.hard.term;
        let leader = self.leader();
        let hard = self.hard;
        out.extend(self.replies.drain(..).map(|reply| {
            let outgoing = match reply.kind {
                ReplyKind::PreVote(answer) => Outgoing::PreVoteReply(answer),
                ReplyKind::Vote(campaign) => {
                    let granted = hard.term == campaign && hard.vote == Some(reply.to.id);
                    Outgoing::VoteReply(Answer { campaign, granted })
                }
                ReplyKind::NewerTerm => Outgoing::Ack(Default::default()),
                ReplyKind::Farewell => Outgoing::Farewell,
                ReplyKind::TimeoutNow => Outgoing::TimeoutNow,
                ReplyKind::Chunk(ack) => Outgoing::ChunkAck(ack),
                ReplyKind::SnapshotAsk(ask) => Outgoing::SnapshotAsk(ask),
                ReplyKind::Fence(fence) => Outgoing::Fence(fence),
                ReplyKind::Join => Outgoing::JoinReply(leader),
            };
            Action::Send(reply.to, term, outgoing)
        }));
    }

    fn flush_questions(&mut self, log: &Log, out: &mut Vec<Action>) {
        let ask = self.question(log);
        let outgoing = if self.role == Role::PreCandidate { Outgoing::PreVote(ask) } else { Outgoing::Vote(ask) };
        for at in 0..self.peers.len() {
            let peer = &self.peers[at];
            if peer.ask_due && self.configuration().is_voter(peer.id()) {
                out.push(Action::Send(peer.member, self.hard.term, outgoing));
            }
            self.peers[at].ask_due = false;
        }
    }

    fn flush_ack(&mut self, log: &Log, out: &mut Vec<Action>) {
        let silent = self.fenced.is_some() && self.sabotaged(Fault::FencedAcknowledgesNot);
        let Some(leader) = self.leader.filter(|_| self.ack_due && !silent) else { return };
        self.ack_due = false;
        let to = self.sender(leader, self.leader_address);
        let ack = self.acknowledgement(log);
        out.push(Action::Send(to, self.hard.term, Outgoing::Ack(ack)));
    }

    fn flush_join(&mut self, out: &mut Vec<Action>) {
        if !std::mem::take(&mut self.join_due) {
            return;
        }
        let me = self.settings.me;
        let unset = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let others = self.settings.contacts.iter().filter(|contact| **contact != me.peer);
        out.extend(others.map(|contact| {
            let to = Member { id: NodeId::default(), client: unset, peer: *contact };
            Action::Send(to, self.hard.term, Outgoing::Join(me))
        }));
    }

    fn flush_reads(&mut self, out: &mut Vec<Action>) {
        out.extend(self.reads.take_failed().map(Action::ReadsFailed));
        let ready = self.take_ready_reads(out).or(self.asks.take_ready());
        out.extend(ready.map(|(ticket, index)| Action::ReadsReady(ticket, index)));
    }

    fn flush_news(&mut self, log: &Log, out: &mut Vec<Action>) {
        if self.told_commit != self.commit {
            self.told_commit = self.commit;
            out.push(Action::Commit(self.commit));
        }
        if self.told_base != log.base() {
            self.told_base = log.base();
            out.push(Action::Trim(log.base()));
        }
        if let Some(index) = self.fenced().filter(|_| !std::mem::replace(&mut self.told_fenced, true)) {
            out.push(Action::Fenced(index));
        }
        let leadership = (self.role, self.hard.term, self.leader, self.transferring());
        if self.told_leadership != leadership {
            self.told_leadership = leadership;
            out.push(Action::LeadershipChanged);
        }
    }
}
