//! An entry larger than a datagram, put together at the tail of the log from its fragments.

use smallvec::SmallVec;

use crate::entry::EntryHeader;
use crate::id::{LogIndex, Term};

/// Separate received stretches that are remembered; a fragment that would need one more is dropped and sent again.
const STRETCHES: usize = 32;

/// One entry under construction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Assembly {
    /// Term of the leader that sends the fragments; another leader's fragments start anew.
    pub(super) leader_term: Term,
    pub(super) index: LogIndex,
    pub(super) header: EntryHeader,
    pub(super) bytes: Vec<u8>,
    /// Received byte ranges: ordered, disjoint, not touching.
    stretches: SmallVec<[(u32, u32); 4]>,
}

impl Assembly {
    pub(super) fn new(leader_term: Term, index: LogIndex, header: EntryHeader) -> Self {
        Assembly { leader_term, index, header, bytes: Vec::new(), stretches: SmallVec::new() }
    }

    /// Takes `piece` at `offset`; bytes outside the announced length are ignored.
    pub(super) fn add(&mut self, offset: u32, piece: &[u8]) {
        let Ok(length) = u32::try_from(piece.len()) else { return };
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.header.body_len) else { return };
        let touching_from = self.stretches.partition_point(|(_, to)| *to < offset);
        let touching_to = self.stretches.partition_point(|(from, _)| *from <= end);
        if touching_from == touching_to && self.stretches.len() == STRETCHES {
            return;
        }
        // Grows with what has arrived, never with what was announced.
        if self.bytes.len() < end as usize {
            self.bytes.resize(end as usize, 0);
        }
        self.bytes[offset as usize..end as usize].copy_from_slice(piece);
        let mut whole = (offset, end);
        for (from, to) in self.stretches.drain(touching_from..touching_to) {
            whole = (whole.0.min(from), whole.1.max(to));
        }
        self.stretches.insert(touching_from, whole);
    }

    /// Bytes received without a gap from the start.
    pub(super) fn offset(&self) -> u32 {
        self.stretches.first().filter(|(from, _)| *from == 0).map_or(0, |(_, to)| *to)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.offset() == self.header.body_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assembly(body_len: u32) -> Assembly {
        Assembly::new(Term(1), LogIndex(1), EntryHeader { body_len, ..EntryHeader::default() })
    }

    proptest! {
        /// Fragments in any order, repeated and overlapping, give the body back; completion is never early.
        #[test]
        fn any_order_gives_the_body_back(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec((0usize..200, 1usize..60), 0..40),
        ) {
            let mut held = vec![false; body.len()];
            let mut assembly = assembly(body.len() as u32);
            for (from, count) in cuts {
                let from = from.min(body.len());
                let to = (from + count).min(body.len());
                assembly.add(from as u32, &body[from..to]);
                held[from..to].fill(true);
                let prefix = held.iter().take_while(|held| **held).count();
                prop_assert_eq!(assembly.offset() as usize, prefix);
                prop_assert_eq!(assembly.is_complete(), prefix == body.len());
            }
            assembly.add(0, &body);
            prop_assert!(assembly.is_complete());
            prop_assert_eq!(assembly.bytes, body);
        }
    }

    #[test]
    fn a_piece_beyond_the_announced_length_is_ignored() {
        let mut assembly = assembly(4);
        assembly.add(2, &[1, 2, 3]);
        assembly.add(u32::MAX, &[1]);
        assert!(assembly.bytes.is_empty());
    }
}
