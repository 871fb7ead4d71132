//! Bytes of a known length that arrive in pieces, in any order and more than once.

use smallvec::SmallVec;

/// Separate received stretches that are remembered; a piece that would need one more is dropped and sent again.
const STRETCHES: usize = 32;

/// What has arrived of `length` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pieces {
    length: u32,
    bytes: Vec<u8>,
    /// Received byte ranges: ordered, disjoint, not touching.
    stretches: SmallVec<[(u32, u32); 4]>,
}

impl Pieces {
    pub(super) fn new(length: u32) -> Self {
        Pieces { length, bytes: Vec::new(), stretches: SmallVec::new() }
    }

    /// Takes `piece` at `offset`; bytes outside the announced length are ignored.
    pub(super) fn add(&mut self, offset: u32, piece: &[u8]) {
        let Ok(length) = u32::try_from(piece.len()) else { return };
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.length && length > 0) else { return };
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

    /// Where what was received after the first gap begins; 0 without a gap before anything.
    pub(super) fn gap_end(&self) -> u32 {
        let offset = self.offset();
        self.stretches.iter().map(|(from, _)| *from).find(|from| *from > offset).unwrap_or(0)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.offset() == self.length
    }

    /// What was received without a gap.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.bytes[..self.offset() as usize]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pieces in any order, repeated and overlapping, give the whole back; completion is never early.
        #[test]
        fn any_order_gives_the_whole_back(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec((0usize..200, 1usize..60), 0..40),
        ) {
            let mut held = vec![false; body.len()];
            let mut pieces = Pieces::new(body.len() as u32);
            for (from, count) in cuts {
                let from = from.min(body.len());
                let to = (from + count).min(body.len());
                pieces.add(from as u32, &body[from..to]);
                held[from..to].fill(true);
                let prefix = held.iter().take_while(|held| **held).count();
                prop_assert_eq!(pieces.offset() as usize, prefix);
                prop_assert_eq!(pieces.prefix(), &body[..prefix]);
                prop_assert_eq!(pieces.is_complete(), prefix == body.len());
                let later = held[prefix..].iter().position(|held| *held).map_or(0, |at| prefix + at);
                prop_assert_eq!(pieces.gap_end() as usize, later);
            }
            pieces.add(0, &body);
            prop_assert!(pieces.is_complete());
            prop_assert_eq!(pieces.into_bytes(), body);
        }
    }

    #[test]
    fn a_piece_beyond_the_announced_length_is_ignored() {
        let mut pieces = Pieces::new(4);
        pieces.add(2, &[1, 2, 3]);
        pieces.add(u32::MAX, &[1]);
        assert!(pieces.bytes.is_empty());
    }
}
