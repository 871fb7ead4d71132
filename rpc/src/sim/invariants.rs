//! What must hold after every step of a simulated cluster, whatever the faults.

use super::cluster::NodeIndex;
use std::collections::BTreeMap;
use trimaran_raft::{Configuration, EntryKind, Log, LogIndex, Machine, NodeId, Shard, Storage, Term, Transport};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Election safety: at most one leader in a term.
    #[error("two leaders in term {term}: {first} and {second}")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The one seen first.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// State machine safety: what one node knows to be committed at an index is what every node commits there.
    #[error("node {node} committed another entry at {index} than the cluster did")]
    Diverged {
        /// The node that differs from those before it.
        node: NodeIndex,
        /// Where.
        index: LogIndex,
    },
    /// Log matching: an entry of one index and term is the same in every log, and so is the term of the one before it.
    #[error("node {node} holds another entry of term {term} at {index} than some node did, or another one before it")]
    LogsDiffer {
        /// The node that differs from those before it.
        node: NodeIndex,
        /// Where.
        index: LogIndex,
        /// The entry's term.
        term: Term,
    },
    /// A leader has one change of the members in flight at most; a second entry may only take the first back.
    #[error("leader {node} has {entries} configurations of its term {term} in flight")]
    ChangesInFlight {
        /// The leader.
        node: NodeIndex,
        /// Its term.
        term: Term,
        /// How many.
        entries: usize,
    },
    /// Voters change through joint configurations, each of which begins with the voters before it.
    #[error("the configuration at {index} does not follow from the one before it")]
    BadChange {
        /// Where it was committed.
        index: LogIndex,
    },
    /// Leader completeness: a leader holds every entry that was committed before its term.
    #[error("leader {node} of term {term} lacks committed entry {index}")]
    Incomplete {
        /// The leader.
        node: NodeIndex,
        /// Its term.
        term: Term,
        /// The newest committed entry.
        index: LogIndex,
    },
    /// Term, commit index and applied index never go back within one life of a node.
    #[error("the {what} of node {node} went back from {from} to {to}")]
    WentBack {
        /// The node.
        node: NodeIndex,
        /// term, commit or applied.
        what: &'static str,
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
    /// Nothing is applied before it is committed.
    #[error("node {node} applied {applied} with only {commit} committed")]
    AppliedUncommitted {
        /// The node.
        node: NodeIndex,
        /// Its newest applied entry.
        applied: LogIndex,
        /// Its newest committed entry.
        commit: LogIndex,
    },
    /// Equal digests at equal applied index.
    #[error("node {node} has another digest than the others after entry {index}")]
    DigestDiffers {
        /// The node that differs from those before it.
        node: NodeIndex,
        /// After which entry.
        index: LogIndex,
    },
    /// Acknowledged implies durable: a node that starts again in the same life finds its term, its vote, and the newest entry that
    /// it counted as durable, or knows that it once had one as late.
    #[error("node {node} had promised to remember {promised}; its disk holds {found}")]
    Forgot {
        /// The node.
        node: NodeIndex,
        /// Term, vote, and the newest entry that it counted as durable.
        promised: String,
        /// The same as its disk has it, and what was found out about the disk.
        found: String,
    },
    /// The log stays within its budget.
    #[error("the log of node {node} holds {bytes} bytes, its budget is {limit}")]
    OverBudget {
        /// The node.
        node: NodeIndex,
        /// Bytes held.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// What entries that a leader cannot do without may use beyond the log's budget.
const RESERVED_BYTES: u64 = 64 << 10;

/// An entry as far as two entries at one index must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Committed {
    term: Term,
    body_crc32c: u32,
    body_len: u32,
}

/// An entry that some node has held, and the term of the one before it where that node knew it.
#[derive(Debug, Clone, Copy)]
struct Held {
    entry: Committed,
    before: Option<Term>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    leading: bool,
    last: (LogIndex, Term),
    configuration: LogIndex,
    snapshots: u64,
    quiet: bool,
    donates_to: Option<NodeId>,
}

/// The history of a whole cluster, as far as the invariants need it.
#[derive(Debug)]
pub struct Invariants {
    leaders: BTreeMap<Term, NodeId>,
    /// `None`: its node had trimmed it before anybody could look.
    committed: Vec<Option<Committed>>,
    held: BTreeMap<(LogIndex, Term), Held>,
    /// The newest configuration that was committed.
    configuration: Configuration,
    digests: BTreeMap<LogIndex, u64>,
    seen: Vec<Seen>,
    checks: u64,
    changes: u64,
    joint_changes: u64,
    snapshots: u64,
    quiets: u64,
    donations: u64,
    may_diverge: bool,
}

impl Invariants {
    pub(crate) fn new(nodes: usize) -> Self {
        Invariants {
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            held: BTreeMap::new(),
            configuration: Configuration::default(),
            digests: BTreeMap::new(),
            seen: vec![Seen::default(); nodes],
            checks: 0,
            changes: 0,
            joint_changes: 0,
            snapshots: 0,
            quiets: 0,
            donations: 0,
            may_diverge: false,
        }
    }

    /// Lets replicas differ from now on: for services that are wrong on purpose, to see what the cluster makes of it.
    pub fn allow_divergence(&mut self) {
        self.may_diverge = true;
    }

    /// Elections won so far.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// Entries that some node knew to be committed.
    pub fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// Steps checked.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// Configurations committed after the first.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Those of them that were joint.
    pub fn joint_changes(&self) -> u64 {
        self.joint_changes
    }

    /// Snapshots that nodes have taken on.
    pub fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// How often a follower has begun to send a snapshot in its leader's place.
    pub fn donations(&self) -> u64 {
        self.donations
    }

    /// How often a leader has seen its group go quiet.
    pub fn quiets(&self) -> u64 {
        self.quiets
    }

    /// One more node is to be checked.
    pub(crate) fn add_node(&mut self) {
        self.seen.push(Seen::default());
    }

    /// A killed node starts over.
    pub(crate) fn forget(&mut self, node: NodeIndex) {
        self.seen[node.0] = Seen::default();
    }

    /// Checks what the last turn of `node` may have broken. Costs O(1) and O(1) for each newly committed entry.
    pub(crate) fn check<T: Transport, S: Storage>(
        &mut self,
        node: NodeIndex,
        shard: &Shard<T, S>,
    ) -> Result<(), Violation> {
        self.checks += 1;
        let snapshots = shard.counters().snapshots_installed;
        self.snapshots += snapshots - self.seen[node.0].snapshots;
        self.seen[node.0].snapshots = snapshots;
        shard.with_machine(|machine| shard.with_log(|log| self.check_state(node, machine, log)))
    }

    fn check_state(&mut self, node: NodeIndex, machine: &Machine, log: &Log) -> Result<(), Violation> {
        let before = self.seen[node.0];
        let now = Seen {
            term: machine.term(),
            commit: machine.commit(),
            applied: machine.applied_index(),
            leading: machine.is_leader(),
            last: (log.last(), log.last_term()),
            configuration: machine.configuration_index(),
            snapshots: before.snapshots,
            quiet: machine.is_quiet(),
            donates_to: machine.donates_to(),
        };
        for (what, from, to) in [
            ("term", before.term.0, now.term.0),
            ("commit index", before.commit.0, now.commit.0),
            ("applied index", before.applied.0, now.applied.0),
        ] {
            if to < from {
                return Err(Violation::WentBack { node, what, from, to });
            }
        }
        if now.applied > now.commit {
            return Err(Violation::AppliedUncommitted { node, applied: now.applied, commit: now.commit });
        }
        self.donations += u64::from(now.donates_to.is_some() && now.donates_to != before.donates_to);
        self.quiets += u64::from(now.leading && now.quiet && !before.quiet);
        if now.leading {
            let first = *self.leaders.entry(now.term).or_insert(machine.me().id);
            if first != machine.me().id {
                return Err(Violation::TwoLeaders { term: now.term, first, second: machine.me().id });
            }
            if !before.leading || before.term != now.term {
                self.leader_is_complete(node, now.term, log.base(), |index| log.term_at(index))?;
            }
        }
        if now.last != before.last {
            self.logs_match(node, before, log)?;
        }
        if now.leading && now.configuration != before.configuration {
            one_change(node, &now, log)?;
        }
        for index in before.commit.0 + 1..=now.commit.0 {
            let index = LogIndex(index);
            let is_news = index.0 > self.committed();
            let Some(entry) = entry_at(log, index) else {
                self.trimmed(index);
                continue;
            };
            self.commits(node, index, entry)?;
            if is_news && log.header(index).is_some_and(|header| header.kind == EntryKind::Config) {
                self.follows(index, log)?;
            }
        }
        let digest = machine.digest();
        // 0: not known, since the state is still being read from the disk, which may take more turns than one.
        let is_due = now.applied > before.applied && digest != 0 && !self.may_diverge;
        if is_due && *self.digests.entry(now.applied).or_insert(digest) != digest {
            return Err(Violation::DigestDiffers { node, index: now.applied });
        }
        // What a start reads back from a disk is no exception.
        let (bytes, limit) = (log.bytes(), machine.log_limit_bytes().min(machine.limits().log_bytes + RESERVED_BYTES));
        if bytes > limit {
            return Err(Violation::OverBudget { node, bytes, limit });
        }
        self.seen[node.0] = now;
        Ok(())
    }

    /// Compares what has come to a node's log since it was last looked at with what any node has held.
    fn logs_match(&mut self, node: NodeIndex, before: Seen, log: &Log) -> Result<(), Violation> {
        let (last, last_term) = before.last;
        // Where the newest entry of before is still there, so is what comes before it.
        let kept = log.term_at(last) == Some(last_term);
        let from = if kept { last.next() } else { before.commit.next() };
        for index in (from.max(log.first()).0..=log.last().0).map(LogIndex) {
            let Some(entry) = entry_at(log, index) else { continue };
            let before = log.term_at(LogIndex(index.0 - 1));
            let held = self.held.entry((index, entry.term)).or_insert(Held { entry, before });
            let same_before = held.before.zip(before).is_none_or(|(known, before)| known == before);
            if held.entry != entry || !same_before {
                return Err(Violation::LogsDiffer { node, index, term: entry.term });
            }
            held.before = held.before.or(before);
        }
        Ok(())
    }

    /// A configuration is committed for the first time.
    fn follows(&mut self, index: LogIndex, log: &Log) -> Result<(), Violation> {
        let mut body = Vec::new();
        log.copy_body(index, &mut body);
        let bad = Violation::BadChange { index };
        let next = Configuration::decode(&body).ok_or(bad.clone())?;
        let now = &self.configuration;
        let legal = match (now.is_joint(), next.is_joint()) {
            _ if now.voters.is_empty() => true,
            (false, false) => now.voters == next.voters,
            (false, true) => now.voters == next.old_voters,
            (true, false) => next.voters == now.voters || next.voters == now.old_voters,
            (true, true) => false,
        };
        if !legal {
            return Err(bad);
        }
        self.changes += u64::from(!now.voters.is_empty());
        self.joint_changes += u64::from(next.is_joint());
        self.configuration = next;
        Ok(())
    }

    fn commits(&mut self, node: NodeIndex, index: LogIndex, entry: Committed) -> Result<(), Violation> {
        let place = index.0 as usize - 1;
        let next = self.committed.len();
        match self.committed.get_mut(place) {
            Some(Some(known)) if *known == entry => Ok(()),
            Some(Some(_)) => Err(Violation::Diverged { node, index }),
            Some(unknown) => {
                *unknown = Some(entry);
                Ok(())
            }
            None if place == next => {
                self.committed.push(Some(entry));
                Ok(())
            }
            // An entry further on was committed before any node told of this one: impossible, commits are contiguous.
            None => Err(Violation::Diverged { node, index }),
        }
    }

    /// An entry was committed and has left its log in the same turn, as happens to whoever votes alone; or it came with a
    /// snapshot, and others know it.
    fn trimmed(&mut self, index: LogIndex) {
        if index.0 == self.committed() + 1 {
            self.committed.push(None);
            // It may have been a configuration.
            self.configuration = Configuration::default();
        }
    }

    fn leader_is_complete(
        &self,
        node: NodeIndex,
        term: Term,
        base: LogIndex,
        term_at: impl Fn(LogIndex) -> Option<Term>,
    ) -> Result<(), Violation> {
        // By log matching, the newest committed entry of an earlier term stands for all before it.
        let earlier = self.committed.iter().enumerate().rev().filter_map(|(place, entry)| Some((place, (*entry)?)));
        let Some((place, newest)) = earlier.into_iter().find(|(_, entry)| entry.term < term) else { return Ok(()) };
        let index = LogIndex(place as u64 + 1);
        match term_at(index) {
            Some(held) if held == newest.term => Ok(()),
            // It has applied and trimmed it, and more, while it voted alone.
            None if index < base => Ok(()),
            _ => Err(Violation::Incomplete { node, term, index }),
        }
    }
}

fn entry_at(log: &Log, index: LogIndex) -> Option<Committed> {
    let header = log.header(index)?;
    Some(Committed { term: header.term, body_crc32c: header.body_crc32c, body_len: header.body_len })
}

/// What a leader has appended in its term and not committed: one configuration, and perhaps one more that takes it back.
fn one_change(node: NodeIndex, now: &Seen, log: &Log) -> Result<(), Violation> {
    let (mut entries, mut joint, mut body) = (0, 0, Vec::new());
    for index in (now.commit.0 + 1..=log.last().0).map(LogIndex) {
        let own = |header: &&trimaran_raft::EntryHeader| header.kind == EntryKind::Config && header.term == now.term;
        if log.header(index).filter(own).is_some() {
            entries += 1;
            log.copy_body(index, &mut body);
            joint += usize::from(Configuration::decode(&body).is_some_and(|config| config.is_joint()));
        }
    }
    match entries {
        0..=2 if joint < 2 => Ok(()),
        _ => Err(Violation::ChangesInFlight { node, term: now.term, entries }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4};
    use trimaran_raft::{EntryHeader, Incarnation, Member, Slot};

    fn entry(term: u64, body: u32) -> Committed {
        Committed { term: Term(term), body_crc32c: body, body_len: 1 }
    }

    #[test]
    fn another_entry_at_a_committed_index_is_found() {
        let mut invariants = Invariants::new(2);
        invariants.commits(NodeIndex(0), LogIndex(1), entry(1, 7)).unwrap();
        invariants.commits(NodeIndex(1), LogIndex(1), entry(1, 7)).unwrap();
        let diverged = invariants.commits(NodeIndex(1), LogIndex(1), entry(2, 7));
        assert_eq!(diverged, Err(Violation::Diverged { node: NodeIndex(1), index: LogIndex(1) }));
        assert!(invariants.commits(NodeIndex(1), LogIndex(3), entry(2, 7)).is_err(), "a gap");
    }

    fn log_of(entries: &[(EntryKind, u64, &[u8])]) -> Log {
        let mut log = Log::default();
        for &(kind, term, body) in entries {
            let (body_len, body_crc32c) = (body.len() as u32, body.iter().map(|byte| u32::from(*byte)).sum());
            log.append(
                EntryHeader { kind, term: Term(term), body_len, body_crc32c, ..EntryHeader::default() },
                &[body],
            );
        }
        log
    }

    #[test]
    fn an_entry_that_another_log_holds_otherwise_is_found() {
        let request = EntryKind::Normal;
        let mut invariants = Invariants::new(2);
        let mut check = |node, log: &Log| invariants.logs_match(NodeIndex(node), Seen::default(), log);
        check(0, &log_of(&[(request, 1, b"a"), (request, 1, b"b"), (request, 3, b"c")])).unwrap();
        check(1, &log_of(&[(request, 1, b"a"), (request, 2, b"x")])).unwrap();
        assert!(check(1, &log_of(&[(request, 1, b"a"), (request, 1, b"B")])).is_err(), "another body");
        assert!(
            check(1, &log_of(&[(request, 1, b"a"), (request, 2, b"x"), (request, 3, b"c")])).is_err(),
            "another way to it"
        );
    }

    fn member(slot: u8) -> Member {
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, slot), 1);
        Member { id: NodeId { slot: Slot(slot), incarnation: Incarnation(7) }, client: address, peer: address }
    }

    #[test]
    fn voters_that_change_in_one_step_are_found() {
        let plain =
            |slots: &[u8]| Configuration::of_voters(&slots.iter().map(|slot| member(*slot)).collect::<Vec<_>>());
        let (three, four) = (plain(&[1, 2, 3]), plain(&[1, 2, 3, 4]));
        let joint = three.enter_joint(&four).unwrap();
        let judge = |steps: &[&Configuration]| {
            let mut invariants = Invariants::new(1);
            steps.iter().try_for_each(|config| {
                let log = log_of(&[(EntryKind::Config, 1, &config.encode())]);
                invariants.follows(LogIndex(1), &log)
            })
        };
        assert_eq!(judge(&[&three, &joint, &four]), Ok(()));
        assert_eq!(judge(&[&three, &joint, &three]), Ok(()), "taken back");
        assert!(judge(&[&three, &four]).is_err());
        assert!(judge(&[&four, &joint]).is_err(), "it begins with others");
        assert!(judge(&[&three, &joint, &plain(&[1, 2])]).is_err());
    }

    #[test]
    fn two_changes_at_a_time_are_found() {
        let three = Configuration::of_voters(&[member(1), member(2), member(3)]);
        let joint = three.enter_joint(&Configuration::of_voters(&[member(1)])).unwrap();
        let (plain, joint) = (three.encode(), joint.encode());
        let leading = Seen { term: Term(2), ..Seen::default() };
        let judge = |bodies: &[&[u8]]| {
            let entries: Vec<_> = bodies.iter().map(|body| (EntryKind::Config, 2, *body)).collect();
            one_change(NodeIndex(0), &leading, &log_of(&entries))
        };
        assert_eq!(judge(&[&joint, &plain]), Ok(()), "the second takes the first back");
        assert!(judge(&[&joint, &joint]).is_err());
        assert!(judge(&[&plain, &joint, &plain]).is_err());
    }

    #[test]
    fn what_was_trimmed_at_once_is_learnt_from_others() {
        let mut invariants = Invariants::new(2);
        invariants.trimmed(LogIndex(1));
        invariants.commits(NodeIndex(0), LogIndex(2), entry(1, 7)).unwrap();
        invariants.commits(NodeIndex(1), LogIndex(1), entry(1, 6)).unwrap();
        assert!(invariants.commits(NodeIndex(0), LogIndex(1), entry(1, 5)).is_err());
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut invariants = Invariants::new(2);
        invariants.commits(NodeIndex(0), LogIndex(1), entry(1, 7)).unwrap();
        invariants.commits(NodeIndex(0), LogIndex(2), entry(2, 8)).unwrap();
        let complete = |terms: [Option<Term>; 2]| {
            invariants.leader_is_complete(NodeIndex(1), Term(3), LogIndex::ZERO, |index| terms[index.0 as usize - 1])
        };
        assert!(complete([Some(Term(1)), Some(Term(2))]).is_ok());
        assert!(complete([Some(Term(1)), Some(Term(1))]).is_err(), "another entry in its place");
        assert!(complete([Some(Term(1)), None]).is_err(), "a shorter log");
    }
}
