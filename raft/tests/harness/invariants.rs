//! What must hold whatever happens. Each violation panics with a word that the negative controls look for.

use std::collections::BTreeMap;

use super::Node;
use trimaran_raft::{EntryHeader, EntryKind, Log, LogIndex, Member, NodeId, Outgoing, Term};

#[derive(Debug, Default)]
pub(crate) struct Invariants {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    committed: BTreeMap<LogIndex, EntryHeader>,
    digests: BTreeMap<LogIndex, u64>,
    /// When an entry was first seen to be committed, in the cluster's time.
    committed_at: BTreeMap<u64, LogIndex>,
    pub(crate) now: u64,
    seen: BTreeMap<usize, Seen>,
    pub(crate) checks: u64,
    /// Entries committed and reads answered, so that a walk that did nothing is noticed.
    pub(crate) reads: u64,
    pub(crate) lease_reads: u64,
    pub(crate) stale_reads: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    led: Option<Term>,
}

/// The digest after one more entry.
pub(crate) fn chain(digest: u64, index: u64, entry: &EntryHeader) -> u64 {
    let mixed = digest ^ index ^ (u64::from(entry.body_crc32c) << 16) ^ (entry.term.0 << 48);
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

impl Invariants {
    pub(crate) fn newest_committed(&self) -> LogIndex {
        self.committed.last_key_value().map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn restarted(&mut self, index: usize) {
        self.seen.remove(&index);
    }

    pub(crate) fn read_answered(&mut self, seen: LogIndex, at: LogIndex) {
        self.reads += 1;
        assert!(at >= seen, "stale read: answered at {at}, {seen} was committed before it began");
    }

    /// A read that may miss what was committed after `not_before`.
    pub(crate) fn stale_read_answered(&mut self, not_before: u64, at: LogIndex) {
        self.stale_reads += 1;
        let known = self.committed_at.range(..not_before).next_back().map_or(LogIndex::ZERO, |(_, index)| *index);
        assert!(at >= known, "stale read: too old, answered at {at}, {known} was committed long before");
    }

    pub(crate) fn applied(&mut self, index: LogIndex, digest: u64) {
        let known = *self.digests.entry(index).or_insert(digest);
        assert_eq!(known, digest, "state machine safety: digests differ at {index}");
    }

    pub(crate) fn digest_at(&self, index: LogIndex) -> u64 {
        self.digests.get(&index).copied().unwrap_or_default()
    }

    /// What leaves must be true, and durable.
    pub(crate) fn sends(&mut self, node: &Node, to: &Member, term: Term, outgoing: &Outgoing) {
        let me = node.machine.me().id;
        match outgoing {
            Outgoing::VoteReply(answer) if answer.granted => {
                let voted = *self.votes.entry((me, answer.campaign)).or_insert(to.id);
                assert_eq!(voted, to.id, "one vote: {me} votes twice in term {term}");
                let hard = node.disk.hard();
                assert!(
                    hard.is_some_and(|hard| hard.term == answer.campaign && hard.vote == Some(to.id)),
                    "durable vote: {me} grants a vote that it may forget"
                );
            }
            Outgoing::Vote(ask) => {
                let voted = *self.votes.entry((me, ask.campaign)).or_insert(me);
                assert_eq!(voted, me, "one vote: {me} campaigns in a term of another's");
                let hard = node.disk.hard();
                assert!(
                    hard.is_some_and(|hard| hard.term == ask.campaign && hard.vote == Some(me)),
                    "durable vote: {me} campaigns on a vote that it may forget"
                );
            }
            Outgoing::Ack(ack) if ack.matched > LogIndex::ZERO => {
                let durable = node.disk.term_at(ack.matched);
                let held = node.log.term_at(ack.matched);
                assert!(
                    durable.is_some() && durable == held,
                    "durable acknowledgement: {me} acknowledges {} of term {held:?}, its disk has {durable:?}",
                    ack.matched
                );
            }
            _ => {}
        }
    }

    pub(crate) fn check(&mut self, index: usize, node: &Node, all: &[Node]) {
        self.checks += 1;
        let (machine, log) = (&node.machine, &node.log);
        let me = machine.me().id;
        let before = self.seen.get(&index).copied().unwrap_or_default();
        let mut now =
            Seen { term: machine.term(), commit: machine.commit(), applied: machine.applied_index(), led: before.led };
        assert!(now.term >= before.term, "monotonic: term of {me} went back");
        assert!(now.commit >= before.commit, "monotonic: commit of {me} went back");
        assert!(now.applied >= before.applied && now.applied <= now.commit, "monotonic: applied of {me}");
        assert!(now.commit <= log.last(), "commit of {me} is beyond its log");
        assert!(log.bytes() <= machine.log_limit_bytes(), "budget: the log of {me} holds {} bytes", log.bytes());
        if machine.is_leader() && before.led != Some(now.term) {
            now.led = Some(now.term);
            let first = *self.leaders.entry(now.term).or_insert(me);
            assert_eq!(first, me, "election safety: two leaders in term {}", now.term);
            self.leader_is_complete(now.term, log);
        }
        let right = all.iter().all(|other| other.goes_wrong_at.is_none());
        assert!(machine.fenced().is_none() || !right, "false alarm: {me} is fenced, and no state is wrong");
        if machine.is_leader() {
            let own = |at: &u64| {
                let header = log.header(LogIndex(*at));
                header.is_some_and(|header| header.kind == EntryKind::Config && header.term == now.term)
            };
            let changes = (now.commit.0 + 1..=log.last().0).filter(own).count();
            // A second one takes the first back.
            assert!(changes <= 2, "one change: the leader of term {} has {changes} in flight", now.term);
        }
        for at in before.commit.0 + 1..=now.commit.0 {
            let at = LogIndex(at);
            // What is trimmed was checked when it was committed here, or was never held.
            let Some(header) = log.header(at) else { continue };
            if self.newest_committed() < at {
                self.committed_at.insert(self.now, at);
            }
            let known = self.committed.entry(at).or_insert(*header);
            assert_eq!(known, header, "state machine safety: {me} commits another entry at {at}");
        }
        if self.checks.is_multiple_of(16) {
            all.iter().for_each(|other| logs_match(log, &other.log));
        }
        self.seen.insert(index, now);
    }

    fn leader_is_complete(&self, term: Term, log: &Log) {
        for (index, header) in self.committed.iter().filter(|(_, header)| header.term < term) {
            let held = log.header(*index);
            assert!(
                *index <= log.base() || held == Some(header),
                "leader completeness: the leader of term {term} lacks {index}"
            );
        }
    }
}

/// Equal term at an index: equal entries up to it.
fn logs_match(a: &Log, b: &Log) {
    let from = a.first().max(b.first()).0;
    let agree = (from..=a.last().min(b.last()).0).rev().find(|at| a.term_at(LogIndex(*at)) == b.term_at(LogIndex(*at)));
    for at in from..=agree.unwrap_or(0) {
        let at = LogIndex(at);
        assert_eq!(a.header(at), b.header(at), "log matching: logs differ at {at} below an entry of equal term");
    }
}
