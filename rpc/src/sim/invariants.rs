//! What must hold after every step of a simulated cluster, whatever the faults.

use super::cluster::NodeIndex;
use std::collections::BTreeMap;
use trimaran_raft::{Log, LogIndex, Machine, NodeId, Shard, Storage, Term, Transport};

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

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    leading: bool,
}

/// The history of a whole cluster, as far as the invariants need it.
#[derive(Debug)]
pub struct Invariants {
    leaders: BTreeMap<Term, NodeId>,
    committed: Vec<Committed>,
    digests: BTreeMap<LogIndex, u64>,
    seen: Vec<Seen>,
    checks: u64,
    may_diverge: bool,
}

impl Invariants {
    pub(crate) fn new(nodes: usize) -> Self {
        Invariants {
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            digests: BTreeMap::new(),
            seen: vec![Seen::default(); nodes],
            checks: 0,
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
        shard.with_machine(|machine| shard.with_log(|log| self.check_state(node, machine, log)))
    }

    fn check_state(&mut self, node: NodeIndex, machine: &Machine, log: &Log) -> Result<(), Violation> {
        let before = self.seen[node.0];
        let now = Seen {
            term: machine.term(),
            commit: machine.commit(),
            applied: machine.applied_index(),
            leading: machine.is_leader(),
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
        if now.leading {
            let first = *self.leaders.entry(now.term).or_insert(machine.me().id);
            if first != machine.me().id {
                return Err(Violation::TwoLeaders { term: now.term, first, second: machine.me().id });
            }
            if !before.leading || before.term != now.term {
                self.leader_is_complete(node, now.term, |index| log.term_at(index))?;
            }
        }
        for index in before.commit.0 + 1..=now.commit.0 {
            let index = LogIndex(index);
            let Some(header) = log.header(index) else { continue };
            let entry = Committed { term: header.term, body_crc32c: header.body_crc32c, body_len: header.body_len };
            self.commits(node, index, entry)?;
        }
        if now.applied > before.applied && !self.may_diverge {
            let digest = machine.digest();
            if *self.digests.entry(now.applied).or_insert(digest) != digest {
                return Err(Violation::DigestDiffers { node, index: now.applied });
            }
        }
        let (bytes, limit) = (log.bytes(), machine.limits().log_bytes + RESERVED_BYTES);
        if bytes > limit {
            return Err(Violation::OverBudget { node, bytes, limit });
        }
        self.seen[node.0] = now;
        Ok(())
    }

    fn commits(&mut self, node: NodeIndex, index: LogIndex, entry: Committed) -> Result<(), Violation> {
        let place = index.0 as usize - 1;
        match self.committed.get(place) {
            Some(known) if *known == entry => Ok(()),
            Some(_) => Err(Violation::Diverged { node, index }),
            None if place == self.committed.len() => {
                self.committed.push(entry);
                Ok(())
            }
            // An entry further on was committed before any node told of this one: impossible, commits are contiguous.
            None => Err(Violation::Diverged { node, index }),
        }
    }

    fn leader_is_complete(
        &self,
        node: NodeIndex,
        term: Term,
        term_at: impl Fn(LogIndex) -> Option<Term>,
    ) -> Result<(), Violation> {
        // By log matching, the newest committed entry of an earlier term stands for all before it.
        let newest = self.committed.iter().rposition(|entry| entry.term < term);
        let Some(place) = newest else { return Ok(()) };
        let index = LogIndex(place as u64 + 1);
        match term_at(index) {
            Some(held) if held == self.committed[place].term => Ok(()),
            _ => Err(Violation::Incomplete { node, term, index }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut invariants = Invariants::new(2);
        invariants.commits(NodeIndex(0), LogIndex(1), entry(1, 7)).unwrap();
        invariants.commits(NodeIndex(0), LogIndex(2), entry(2, 8)).unwrap();
        let complete = |terms: [Option<Term>; 2]| {
            invariants.leader_is_complete(NodeIndex(1), Term(3), |index| terms[index.0 as usize - 1])
        };
        assert!(complete([Some(Term(1)), Some(Term(2))]).is_ok());
        assert!(complete([Some(Term(1)), Some(Term(1))]).is_err(), "another entry in its place");
        assert!(complete([Some(Term(1)), None]).is_err(), "a shorter log");
    }
}
