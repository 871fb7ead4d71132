//! Writes that this node has appended and not yet applied: a copy of one of them must not be appended again.

use crate::r2p2::header::Triple;
use crate::session::CallId;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::VecDeque;
use trimaran_raft::{LogIndex, Term};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A write's place in the log, and the hash of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) hash: u64,
}

/// What two copies of one write have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// A call of a session: a retry has another request id, perhaps another address.
    Call(CallId),
    /// A request without a session: a copy made on the way.
    Triple(Triple),
}

impl Name {
    fn hash(&self, seed: u64) -> u64 {
        let mut bytes = [0; 16];
        match self {
            Name::Call(CallId { session, seq }) => {
                bytes[..8].copy_from_slice(&session.to_le_bytes());
                bytes[8..].copy_from_slice(&seq.to_le_bytes());
            }
            Name::Triple(Triple { client, rid }) => {
                bytes[..4].copy_from_slice(&client.ip().octets());
                bytes[4..6].copy_from_slice(&client.port().to_le_bytes());
                bytes[6..8].copy_from_slice(&rid.0.to_le_bytes());
            }
        }
        xxh3_64_with_seed(&bytes, seed)
    }
}

/// The table of them. Bounded by the log's budget for what is not committed: an entry that another leader has cut leaves
/// it when something else is appended or applied in its place.
///
/// Hashed rather than sorted, because it is used for every write and allocates nothing once it has its size. Nobody sees its
/// order, and clients, who choose the names, do not know the seed.
#[derive(Debug)]
pub(crate) struct PendingWrites {
    by_name: HashTable<(Name, Appended)>,
    in_log_order: VecDeque<(LogIndex, Name)>,
    seed: u64,
}

impl PendingWrites {
    /// An empty table; `seed` is this node's own.
    pub(crate) fn new(seed: u64) -> Self {
        PendingWrites { by_name: HashTable::new(), in_log_order: VecDeque::new(), seed }
    }

    /// The newest write of this name, where its body is the same. It may have been cut from the log since: ask the log.
    pub(crate) fn find(&self, name: &Name, hash: u64) -> Option<Appended> {
        let found = self.by_name.find(name.hash(self.seed), |(other, _)| other == name);
        found.map(|(_, appended)| *appended).filter(|appended| appended.hash == hash)
    }

    /// A write has been appended at the end of the log; whatever stood there or after it has been cut.
    pub(crate) fn add(&mut self, name: Name, appended: Appended) {
        while let Some(&(index, cut)) = self.in_log_order.back()
            && index >= appended.index
        {
            self.in_log_order.pop_back();
            self.forget(index, cut);
        }
        self.in_log_order.push_back((appended.index, name));
        let seed = self.seed;
        let same = |(other, _): &(Name, Appended)| *other == name;
        match self.by_name.entry(name.hash(seed), same, |(other, _)| other.hash(seed)) {
            Entry::Occupied(mut place) => place.get_mut().1 = appended,
            Entry::Vacant(place) => {
                place.insert((name, appended));
            }
        }
    }

    /// Everything up to `index` has been applied, or something else in its place.
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
        let is_it = |(other, appended): &(Name, Appended)| *other == name && appended.index == index;
        if let Ok(place) = self.by_name.find_entry(name.hash(self.seed), is_it) {
            place.remove();
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
        let mut pending = PendingWrites::new(7);
        (1..=3).for_each(|index| pending.add(triple(index as u16), at(index)));
        pending.applied(LogIndex(2));
        assert_eq!((pending.find(&triple(2), 2), pending.find(&triple(3), 3)), (None, Some(at(3))));
        assert_eq!(pending.find(&triple(3), 4), None, "another body is another request");
        pending.applied(LogIndex(9));
        assert_eq!((pending.len(), pending.by_name.len()), (0, 0));
    }

    #[test]
    fn what_was_cut_from_the_log_leaves_too() {
        let mut pending = PendingWrites::new(7);
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
        let mut pending = PendingWrites::new(7);
        pending.add(triple(1), at(1));
        pending.add(triple(1), at(2));
        pending.applied(LogIndex(1));
        assert_eq!(pending.find(&triple(1), 2), Some(at(2)));
        pending.applied(LogIndex(2));
        assert_eq!((pending.len(), pending.by_name.len()), (0, 0));
    }
}
