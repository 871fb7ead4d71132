//! One event as a line of JSON. Nothing in it needs escaping: numbers, node ids, and words of this file.

use std::fmt::{Display, Write};

use crate::config::Configuration;
use crate::id::{LogIndex, Member, NodeId, Term};
use crate::log::Log;
use crate::machine::{Accepted, Machine, Outgoing, Refused, Role};
use crate::message::{Ack, Answer, AppendHead, Ask, Body, ChunkAck, ChunkHead, Message, SnapshotAsk};
use crate::storage;

/// What a line shows of a replica, to see whether it has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    role: Role,
    leader: Option<NodeId>,
    hard: [storage::HardState; 2],
    commit: LogIndex,
    applied: LogIndex,
    durable: LogIndex,
    log: [LogIndex; 2],
    last_term: Term,
    config: (LogIndex, bool),
}

impl Shown {
    pub(super) fn of(machine: &Machine, log: &Log) -> Shown {
        Shown {
            role: machine.role(),
            leader: machine.leader_id(),
            hard: [machine.hard_state(), machine.durable_hard_state()],
            commit: machine.commit(),
            applied: machine.applied_index(),
            durable: machine.durable(),
            log: [log.first(), log.last()],
            last_term: log.last_term(),
            config: (machine.configuration_index(), machine.configuration().is_joint()),
        }
    }
}

/// A line under way.
pub(super) struct Line {
    text: String,
}

impl Line {
    pub(super) fn new(seq: u64, event: &str, machine: &Machine, log: &Log) -> Line {
        let mut line = Line { text: format!("{{\"seq\":{seq}") };
        line.number("at", machine.now().0);
        line.number("shard", machine.shard().0.into());
        line.name("node", machine.me().id);
        line.name("event", event);
        line.state(machine, log);
        line
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }

    fn key(&mut self, key: &str) {
        if !self.text.ends_with(['{', '[']) {
            self.text.push(',');
        }
        let _ = write!(self.text, "\"{key}\":");
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    fn truth(&mut self, key: &str, value: bool) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    fn name(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _ = write!(self.text, "\"{value}\"");
    }

    fn node(&mut self, key: &str, value: Option<NodeId>) {
        match value {
            Some(id) => self.name(key, id),
            None => self.null(key),
        }
    }

    fn null(&mut self, key: &str) {
        self.key(key);
        self.text.push_str("null");
    }

    fn object(&mut self, key: &str, fill: impl FnOnce(&mut Line)) {
        self.key(key);
        self.text.push('{');
        fill(self);
        self.text.push('}');
    }

    fn members(&mut self, key: &str, members: &[Member]) {
        self.key(key);
        let names: Vec<String> = members.iter().map(|member| format!("\"{}\"", member.id)).collect();
        let _ = write!(self.text, "[{}]", names.join(","));
    }

    /// Terms of consecutive entries as runs: first index and term of each.
    fn runs(&mut self, key: &str, entries: impl Iterator<Item = (LogIndex, Term)>) {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (index, term) in entries {
            if runs.last().is_none_or(|run| run.1 != term) {
                runs.push((index, term));
            }
        }
        let runs: Vec<String> = runs.iter().map(|(index, term)| format!("[{index},{term}]")).collect();
        self.key(key);
        let _ = write!(self.text, "[{}]", runs.join(","));
    }

    fn log_runs(&mut self, log: &Log, from: LogIndex, to: LogIndex) {
        let entries = (from.0..=to.0).map(LogIndex);
        self.runs("terms", entries.filter_map(|at| Some((at, log.term_at(at)?))));
    }

    fn state(&mut self, machine: &Machine, log: &Log) {
        let role = match machine.role() {
            Role::Uninitialised => "uninitialised",
            Role::Joining { .. } => "joining",
            Role::Follower => "follower",
            Role::PreCandidate => "pre_candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        };
        self.name("role", role);
        self.number("term", machine.term().0);
        self.node("vote", machine.hard_state().vote);
        self.node("leader", machine.leader_id());
        self.number("commit", machine.commit().0);
        self.number("applied", machine.applied_index().0);
        self.number("durable", machine.durable().0);
        self.number("durable_term", machine.durable_hard_state().term.0);
        self.node("durable_vote", machine.durable_hard_state().vote);
        self.number("first", log.first().0);
        self.number("last", log.last().0);
        self.number("base_term", log.base_term().0);
        self.log_runs(log, log.first(), log.last());
        self.object("config", |line| {
            let Configuration { voters, old_voters, learners } = machine.configuration();
            line.number("at", machine.configuration_index().0);
            line.members("voters", voters);
            line.members("old_voters", old_voters);
            line.members("learners", learners);
        });
    }

    pub(super) fn result(&mut self, result: &Result<Accepted, Refused>) {
        match result {
            Ok(Accepted::Done) => {}
            Ok(Accepted::Appended(index)) => self.number("index", index.0),
            Ok(Accepted::Read(ticket)) => self.number("ticket", *ticket),
            Err(Refused::Dropped(reason)) => self.name("dropped", reason.name()),
            Err(Refused::Request(_)) => self.truth("refused", true),
        }
    }

    pub(super) fn persist(&mut self, write: &storage::Write) {
        self.number("from", write.from.0);
        self.number("to", write.to.0);
        self.number("hard_term", write.hard.term.0);
        self.node("hard_vote", write.hard.vote);
    }

    pub(super) fn reads(&mut self, ticket: u64, index: Option<LogIndex>) {
        self.number("ticket", ticket);
        if let Some(index) = index {
            self.number("index", index.0);
        }
    }

    pub(super) fn received(&mut self, message: &Message<'_>) {
        self.name("from", message.header.from);
        self.object("message", |line| {
            line.name("type", type_of(&message.body));
            line.number("term", message.header.term.0);
            line.name("to", message.header.to);
            match &message.body {
                Body::PreVote(ask) | Body::Vote(ask) => line.ask(ask),
                Body::PreVoteReply(answer) | Body::VoteReply(answer) => line.answer(answer),
                Body::Append(head, entries) => {
                    line.append(head, LogIndex(head.prev.0 + entries.remaining() as u64));
                    let first = head.prev.next().0;
                    line.runs("terms", (first..).zip(*entries).map(|(at, (entry, _))| (LogIndex(at), entry.term)));
                }
                Body::Fragment(head, entry, piece) => {
                    line.append(head, head.prev.next());
                    line.runs("terms", std::iter::once((head.prev.next(), entry.term)));
                    line.number("offset", head.offset.into());
                    line.number("bytes", piece.len() as u64);
                }
                Body::Ack(ack) => line.ack(ack),
                Body::Chunk(head, piece) => line.chunk(head, piece.len() as u64),
                Body::ChunkAck(ack) => line.chunk_ack(ack),
                Body::SnapshotAsk(ask) => line.snapshot_ask(ask),
                Body::ReadAsk(ask) => line.number("number", ask.number),
                Body::ReadReply(reply) => {
                    line.number("number", reply.ask.number);
                    line.number("index", reply.index.0);
                }
                Body::Fence(fence) => line.number("index", fence.index.0),
                Body::Farewell | Body::TimeoutNow | Body::Join(_) | Body::JoinReply(_) => {}
            }
        });
    }

    pub(super) fn sent(&mut self, to: &Member, term: Term, outgoing: &Outgoing, log: &Log) {
        self.name("to", to.id);
        self.object("message", |line| {
            line.name("type", type_sent(outgoing));
            line.number("term", term.0);
            match outgoing {
                Outgoing::PreVote(ask) | Outgoing::Vote(ask) => line.ask(ask),
                Outgoing::PreVoteReply(answer) | Outgoing::VoteReply(answer) => line.answer(answer),
                Outgoing::Append(head, last) => {
                    line.append(head, *last);
                    line.log_runs(log, head.prev.next(), *last);
                }
                Outgoing::Ack(ack) => line.ack(ack),
                Outgoing::Chunk(head, count) => line.chunk(head, u64::from(*count)),
                Outgoing::ChunkAck(ack) => line.chunk_ack(ack),
                Outgoing::SnapshotAsk(ask) => line.snapshot_ask(ask),
                Outgoing::ReadAsk(ask) => line.number("number", ask.number),
                Outgoing::ReadReply(reply) => {
                    line.number("number", reply.ask.number);
                    line.number("index", reply.index.0);
                }
                Outgoing::Fence(fence) => line.number("index", fence.index.0),
                Outgoing::Farewell | Outgoing::TimeoutNow | Outgoing::Join(_) | Outgoing::JoinReply(_) => {}
            }
        });
    }

    fn ask(&mut self, ask: &Ask) {
        self.number("campaign", ask.campaign.0);
        self.number("last", ask.last.0);
        self.number("last_term", ask.last_term.0);
        self.truth("told", ask.told);
    }

    fn answer(&mut self, answer: &Answer) {
        self.number("campaign", answer.campaign.0);
        self.truth("granted", answer.granted);
    }

    fn append(&mut self, head: &AppendHead, last: LogIndex) {
        self.number("prev", head.prev.0);
        self.number("prev_term", head.prev_term.0);
        self.number("last", last.0);
        self.number("commit", head.commit.0);
        self.number("round", head.round);
    }

    fn ack(&mut self, ack: &Ack) {
        self.number("matched", ack.matched.0);
        self.number("verified", ack.verified.0);
        self.number("round", ack.round);
        self.number("applied", ack.applied.0);
        match ack.conflict {
            None => self.null("conflict"),
            Some(conflict) => self.object("conflict", |line| {
                line.number("rejected", conflict.rejected.0);
                line.number("hint", conflict.hint.0);
                line.number("hint_term", conflict.hint_term.0);
            }),
        }
    }

    fn chunk(&mut self, head: &ChunkHead, bytes: u64) {
        self.number("index", head.id.index.0);
        self.number("index_term", head.id.term.0);
        self.number("offset", head.offset.into());
        self.number("bytes", bytes);
        self.number("total_bytes", head.total_bytes.into());
    }

    fn chunk_ack(&mut self, ack: &ChunkAck) {
        self.number("index", ack.id.index.0);
        self.number("offset", ack.offset.into());
    }

    fn snapshot_ask(&mut self, ask: &SnapshotAsk) {
        self.name("for", ask.to);
        self.number("least", ask.least.0);
    }
}

/// A fragment is a part of an append.
fn type_of(body: &Body<'_>) -> &'static str {
    match body {
        Body::PreVote(_) => "pre_vote",
        Body::PreVoteReply(_) => "pre_vote_reply",
        Body::Vote(_) => "vote",
        Body::VoteReply(_) => "vote_reply",
        Body::Append(..) => "append",
        Body::Fragment(..) => "fragment",
        Body::Ack(_) => "ack",
        Body::Chunk(..) => "chunk",
        Body::ChunkAck(_) => "chunk_ack",
        Body::SnapshotAsk(_) => "snapshot_ask",
        Body::Farewell => "farewell",
        Body::TimeoutNow => "timeout_now",
        Body::ReadAsk(_) => "read_ask",
        Body::ReadReply(_) => "read_reply",
        Body::Fence(_) => "fence",
        Body::Join(_) => "join",
        Body::JoinReply(_) => "join_reply",
    }
}

fn type_sent(outgoing: &Outgoing) -> &'static str {
    match outgoing {
        Outgoing::PreVote(_) => "pre_vote",
        Outgoing::PreVoteReply(_) => "pre_vote_reply",
        Outgoing::Vote(_) => "vote",
        Outgoing::VoteReply(_) => "vote_reply",
        Outgoing::Append(..) => "append",
        Outgoing::Ack(_) => "ack",
        Outgoing::Chunk(..) => "chunk",
        Outgoing::ChunkAck(_) => "chunk_ack",
        Outgoing::SnapshotAsk(_) => "snapshot_ask",
        Outgoing::Farewell => "farewell",
        Outgoing::TimeoutNow => "timeout_now",
        Outgoing::ReadAsk(_) => "read_ask",
        Outgoing::ReadReply(_) => "read_reply",
        Outgoing::Fence(_) => "fence",
        Outgoing::Join(_) => "join",
        Outgoing::JoinReply(_) => "join_reply",
    }
}
