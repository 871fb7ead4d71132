//! A table by request id. Hashed rather than sorted, because it is used several times for every call and allocates nothing once
//! it has its size; nobody sees its order.

use super::header::Rid;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The caller bounds it, and chooses the ids: nobody else can make them collide.
#[derive(Debug)]
pub(crate) struct ByRid<T> {
    table: HashTable<(Rid, T)>,
}

impl<T> Default for ByRid<T> {
    fn default() -> Self {
        ByRid { table: HashTable::new() }
    }
}

/// Ids follow upon each other, so their low bits spread them over the table as they are; the product's high bits tell apart
/// those that share a place.
fn hash(rid: Rid) -> u64 {
    u64::from(rid.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<T> ByRid<T> {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Adds what no other has this id; `false` where one has.
    pub(crate) fn insert(&mut self, rid: Rid, item: T) -> bool {
        match self.table.entry(hash(rid), |(other, _)| *other == rid, |(other, _)| hash(*other)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert((rid, item));
                true
            }
        }
    }

    pub(crate) fn get(&self, rid: Rid) -> Option<&T> {
        self.table.find(hash(rid), |(other, _)| *other == rid).map(|(_, item)| item)
    }

    pub(crate) fn get_mut(&mut self, rid: Rid) -> Option<&mut T> {
        self.table.find_mut(hash(rid), |(other, _)| *other == rid).map(|(_, item)| item)
    }

    pub(crate) fn remove(&mut self, rid: Rid) -> Option<T> {
        let place = self.table.find_entry(hash(rid), |(other, _)| *other == rid).ok()?;
        Some(place.remove().0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_its_own_place() {
        let mut table = ByRid::default();
        for rid in 0..=u16::MAX {
            assert!(table.insert(Rid(rid), u32::from(rid) + 1));
            assert!(!table.insert(Rid(rid), 0), "the first stays");
        }
        assert_eq!(table.len(), 1 << 16);
        for rid in (0..=u16::MAX).step_by(3) {
            *table.get_mut(Rid(rid)).unwrap() += 1;
            assert_eq!(table.remove(Rid(rid)), Some(u32::from(rid) + 2));
            assert_eq!(table.remove(Rid(rid)), None);
        }
        for rid in 0..=u16::MAX {
            let expected = (!rid.is_multiple_of(3)).then_some(u32::from(rid) + 1);
            assert_eq!(table.get(Rid(rid)).copied(), expected);
        }
    }
}
