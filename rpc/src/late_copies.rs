//! Which copies of its calls a client's session has sent here: the network may deliver one of them twice, the second time much later.
//!
//! ```text
//!   client:  call 28, copy 71 ──► refused ──► call 28, copy 72 ──► refused ──► "not applied", and the caller makes it anew
//!   network:        └───────────────────── copy 71 once more ──► executed? Or of an applied copy: "no leader, not applied"?
//! ```
//!
//! A client that has a refusal for every copy of a write tells its caller that the write was not applied. That is true only if
//! what this node says of a copy holds for all deliveries of it. So a second delivery is dropped: each copy that a session
//! sends bears the next number of that session ([`RequestBlock::copy`](crate::r2p2::RequestBlock::copy)), and the node
//! keeps, as receivers of IPsec do (RFC 4303, section 3.4.3), the highest number and a bitmap of those just below it.
//! What is further below is dropped as well; a client sends what is unanswered again, under a new number.
//!
//! Later deliveries come to the node that the first one came to, so each node keeps its own. It keeps it in memory: a copy that the
//! network holds back until its receiver has started anew is taken for a new one.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits of a copy's number on the wire.
const NUMBER_BITS: u32 = 24;
/// Numbers below the highest that are told apart. A session has at most [`WINDOW`](crate::session::WINDOW) calls on their way.
const BITMAP_BITS: u32 = u128::BITS;

/// What one session has sent.
#[derive(Debug, Clone, Copy)]
struct Seen {
    highest: u32,
    /// Bit i stands for `highest - i`.
    below: u128,
}

impl Seen {
    /// Takes note of a number; `false` where it was there before, or is too far below to know.
    fn add(&mut self, number: u32) -> bool {
        let ahead = distance(self.highest, number);
        if (1..1 << (NUMBER_BITS - 1)).contains(&ahead) {
            self.below = self.below.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let is_new = !self.has(number);
        if is_new {
            self.below |= 1 << distance(number, self.highest);
        }
        is_new
    }

    fn has(&self, number: u32) -> bool {
        let ahead = distance(self.highest, number);
        if (1..1 << (NUMBER_BITS - 1)).contains(&ahead) {
            return false;
        }
        let behind = distance(number, self.highest);
        behind >= BITMAP_BITS || self.below & 1 << behind != 0
    }
}

/// From one number up to another, which may have begun again at 0.
fn distance(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & ((1 << NUMBER_BITS) - 1)
}

/// The copies of each session. Over the limit of sessions the one that was met first is forgotten: its old copies would be
/// taken for new ones.
///
/// Hashed for each write, so at once and not by a hasher that is made for it.
#[derive(Debug)]
pub(crate) struct Copies {
    sessions: HashTable<(u64, Seen)>,
    in_order: VecDeque<u64>,
    limit: usize,
    seed: u64,
}

impl Copies {
    /// None yet, of `limit` sessions at most. `seed` is this node's own: clients choose what is hashed with it.
    pub(crate) fn new(limit: usize, seed: u64) -> Self {
        Copies { sessions: HashTable::new(), in_order: VecDeque::new(), limit: limit.max(1), seed }
    }

    /// A copy has come. `false`: not for the first time, or so late that nobody knows. O(1).
    pub(crate) fn add(&mut self, session: u64, number: u32) -> bool {
        let seed = self.seed;
        let is_it = |(known, _): &(u64, Seen)| *known == session;
        match self.sessions.entry(hash(session, seed), is_it, |(known, _)| hash(*known, seed)) {
            Entry::Occupied(mut place) => return place.get_mut().1.add(number),
            Entry::Vacant(place) => {
                place.insert((session, Seen { highest: number, below: 1 }));
            }
        }
        self.in_order.push_back(session);
        if self.in_order.len() > self.limit
            && let Some(first) = self.in_order.pop_front()
            && let Ok(place) = self.sessions.find_entry(hash(first, seed), |(known, _)| *known == first)
        {
            place.remove();
        }
        true
    }

    /// Whether [`add`](Self::add) would say `false`.
    pub(crate) fn has(&self, session: u64, number: u32) -> bool {
        let found = self.sessions.find(hash(session, self.seed), |(known, _)| *known == session);
        found.is_some_and(|(_, seen)| seen.has(number))
    }
}

fn hash(session: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&session.to_le_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_number_of_each_session_is_new_once() {
        let mut copies = Copies::new(10, 3);
        assert!(copies.add(1, 5) && copies.add(1, 3) && copies.add(1, 7) && copies.add(2, 5));
        assert!(!copies.add(1, 5) && !copies.add(1, 3) && !copies.add(1, 7) && !copies.add(2, 5));
        assert!(copies.has(1, 3) && !copies.has(1, 4) && !copies.has(3, 4));
        assert!(copies.add(1, 4));
    }

    #[test]
    fn what_is_far_below_is_no_news() {
        let mut copies = Copies::new(10, 3);
        assert!(copies.add(1, 1000) && copies.add(1, 873) && !copies.add(1, 872));
        assert!(copies.add(1, 5000) && !copies.add(1, 1000) && copies.add(1, 4999));
    }

    #[test]
    fn numbers_begin_again_at_zero() {
        let last = (1 << NUMBER_BITS) - 1;
        let mut copies = Copies::new(10, 3);
        assert!(copies.add(1, last) && copies.add(1, 1) && copies.add(1, last - 1) && copies.add(1, 0));
        assert!(!copies.add(1, last) && !copies.add(1, 1) && !copies.add(1, last - 1));
    }

    #[test]
    fn the_session_met_first_leaves_where_there_are_too_many() {
        let mut copies = Copies::new(2, 3);
        assert!(copies.add(1, 9) && copies.add(2, 9) && copies.add(3, 9));
        assert!(copies.has(2, 9) && copies.has(3, 9) && !copies.has(1, 9));
        assert_eq!((copies.sessions.len(), copies.in_order.len()), (2, 2));
    }

    proptest! {
        /// Nothing is new twice, and what is less than a bitmap below the highest is new once.
        #[test]
        fn a_bitmap_is_a_set(start in 0_u32..1 << NUMBER_BITS, steps in prop::collection::vec(-150_i32..40, 1..300)) {
            let mut copies = Copies::new(1, 3);
            let (mut known, mut highest) = (BTreeSet::new(), 0_i64);
            for (place, step) in steps.into_iter().enumerate() {
                let number = if place == 0 { 0 } else { highest + i64::from(step) };
                let is_near = number > highest - i64::from(BITMAP_BITS);
                let wire = (i64::from(start) + number).rem_euclid(1 << NUMBER_BITS) as u32;
                prop_assert_eq!(copies.add(1, wire), is_near && known.insert(number));
                highest = highest.max(number);
            }
        }
    }
}
