//! Writes that this node has appended and not yet applied: a copy of one of them must not be appended again.

use crate::r2p2::header::Triple;
use crate::session::CallId;
use std::collections::{BTreeMap, VecDeque};
use trimaran_raft::{LogIndex, Term};

/// A write's place in the log, and the hash of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) hash: u64,
}

/// What two copies of one write have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// A call of a session: a retry has another request id, perhaps another address.
    Call(CallId),
    /// A request without a session: a copy made on the way.
    Triple(Triple),
}

/// The table of them. Bounded by the log's budget for what is not committed: an entry that another leader has cut leaves
/// it when something else is appended or applied in its place.
#[derive(Debug, Default)]
pub(crate) struct PendingWrites {
    by_name: BTreeMap<Name, Appended>,
    in_log_order: VecDeque<(LogIndex, Name)>,
}

impl PendingWrites {
    /// The newest write of this name, where its body is the same. It may have been cut from the log since: ask the log.
    pub(crate) fn find(&self, name: &Name, hash: u64) -> Option<Appended> {
        self.by_name.get(name).copied().filter(|appended| appended.hash == hash)
    }

    /// A write has been appended at the end of the log; whatever stood there or after it has been cut. O(log n).
    pub(crate) fn add(&mut self, name: Name, appended: Appended) {
        while let Some(&(index, cut)) = self.in_log_order.back()
            && index >= appended.index
        {
            self.in_log_order.pop_back();
            self.forget(index, cut);
        }
        self.in_log_order.push_back((appended.index, name));
        self.by_name.insert(name, appended);
    }

    /// Everything up to `index` has been applied, or something else in its place. O(log n) for each that leaves.
    pub(crate) fn applied(&mut self, index: LogIndex) {
        while let Some(&(at, name)) = self.in_log_order.front()
            && at <= index
        {
            self.in_log_order.pop_front();
            self.forget(at, name);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.in_log_order.len()
    }

    fn forget(&mut self, index: LogIndex, name: Name) {
        // A newer write of a client that uses its ids again has taken the place.
        if self.by_name.get(&name).is_some_and(|appended| appended.index == index) {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::r2p2::header::Rid;

    fn triple(rid: u16) -> Name {
        Name::Triple(Triple { client: "10.0.0.9:33000".parse().unwrap(), rid: Rid(rid) })
    }

    fn at(index: u64) -> Appended {
        Appended { index: LogIndex(index), term: Term(1), hash: index }
    }

    #[test]
    fn what_is_applied_leaves_and_the_rest_stays() {
        let mut pending = PendingWrites::default();
        (1..=3).for_each(|index| pending.add(triple(index as u16), at(index)));
        pending.applied(LogIndex(2));
        assert_eq!((pending.find(&triple(2), 2), pending.find(&triple(3), 3)), (None, Some(at(3))));
        assert_eq!(pending.find(&triple(3), 4), None, "another body is another request");
        pending.applied(LogIndex(9));
        assert_eq!((pending.len(), pending.by_name.len()), (0, 0));
    }

    #[test]
    fn what_was_cut_from_the_log_leaves_too() {
        let mut pending = PendingWrites::default();
        (1..=5).for_each(|index| pending.add(triple(index as u16), at(index)));
        // Another leader has cut 3 to 5, and this one leads again.
        pending.add(triple(7), at(3));
        assert_eq!((pending.len(), pending.by_name.len()), (3, 3));
        assert_eq!(pending.find(&triple(5), 5), None);
        // Applied in another's place.
        pending.applied(LogIndex(3));
        assert_eq!((pending.len(), pending.by_name.len()), (0, 0));
    }

    #[test]
    fn an_id_used_again_is_forgotten_with_its_newest_write_only() {
        let mut pending = PendingWrites::default();
        pending.add(triple(1), at(1));
        pending.add(triple(1), at(2));
        pending.applied(LogIndex(1));
        assert_eq!(pending.find(&triple(1), 2), Some(at(2)));
        pending.applied(LogIndex(2));
        assert_eq!((pending.len(), pending.by_name.len()), (0, 0));
    }
}
