//! A deque in fixed chunks: it grows without moving what it holds, so a full log never stalls the core with a copy.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::ops::Range;

/// Chunks kept for reuse, so that a log in steady state allocates nothing.
const SPARE_CHUNKS: usize = 16;

/// Items at absolute positions `first..end`, `N` to a chunk.
#[derive(Debug, Clone)]
pub(super) struct Ring<T, const N: usize> {
    chunks: VecDeque<Box<[T]>>,
    spare: Vec<Box<[T]>>,
    first: u64,
    end: u64,
}

impl<T: Copy + Default, const N: usize> Ring<T, N> {
    /// An empty ring whose next item is at `first`.
    pub(super) fn starting_at(first: u64) -> Self {
        Ring { chunks: VecDeque::new(), spare: Vec::new(), first, end: first }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn get(&self, position: u64) -> Option<&T> {
        if position < self.first || position >= self.end {
            return None;
        }
        let (chunk, at) = self.place(position);
        self.chunks.get(chunk)?.get(at)
    }

    pub(super) fn push(&mut self, item: T) {
        match self.room() {
            Some(([place, ..], end)) => {
                *place = item;
                *end += 1;
            }
            _ => self.extend_chunks(&[item]),
        }
    }

    pub(super) fn extend(&mut self, items: &[T]) {
        match self.room() {
            Some((room, end)) if items.len() <= room.len() => {
                room[..items.len()].copy_from_slice(items);
                *end += items.len() as u64;
            }
            _ => self.extend_chunks(items),
        }
    }

    /// What is left of the chunk that the end lies in, if it lies in one, and the end.
    #[inline]
    fn room(&mut self) -> Option<(&mut [T], &mut u64)> {
        let at = (self.end % N as u64) as usize;
        // At a chunk's beginning the next one is still to be made, or may be.
        let chunk = self.chunks.back_mut().filter(|_| at > 0)?;
        Some((chunk.get_mut(at..)?, &mut self.end))
    }

    fn extend_chunks(&mut self, mut items: &[T]) {
        while !items.is_empty() {
            let (chunk, at) = self.place(self.end);
            if chunk == self.chunks.len() {
                let fresh = self.spare.pop().unwrap_or_else(|| vec![T::default(); N].into_boxed_slice());
                self.chunks.push_back(fresh);
            }
            let count = items.len().min(N - at);
            let (now, later) = items.split_at(count);
            self.chunks[chunk][at..at + count].copy_from_slice(now);
            self.end += count as u64;
            items = later;
        }
    }

    /// Drops everything at `end` and after.
    pub(super) fn truncate(&mut self, end: u64) {
        if end >= self.end {
            return;
        }
        self.end = end.max(self.first);
        let (chunk, at) = self.place(self.end);
        let kept = chunk + usize::from(at > 0);
        while self.chunks.len() > kept {
            let chunk = self.chunks.pop_back();
            self.keep(chunk);
        }
    }

    /// Drops everything before `first`.
    pub(super) fn trim(&mut self, first: u64) {
        let first = first.min(self.end);
        while self.first / (N as u64) < first / (N as u64) {
            let chunk = self.chunks.pop_front();
            self.keep(chunk);
            self.first = (self.first / N as u64 + 1) * N as u64;
        }
        self.first = self.first.max(first);
    }

    /// The items at `range`, in as few pieces as they are stored in.
    pub(super) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = &[T]> {
        let end = range.end.min(self.end);
        let mut at = range.start.max(self.first);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (chunk, from) = self.place(at);
            let count = (N - from).min((end - at) as usize);
            at += count as u64;
            self.chunks.get(chunk)?.get(from..from + count)
        })
    }

    fn place(&self, position: u64) -> (usize, usize) {
        let chunk = position / N as u64 - self.first / N as u64;
        (chunk as usize, (position % N as u64) as usize)
    }

    fn keep(&mut self, chunk: Option<Box<[T]>>) {
        if let Some(chunk) = chunk.filter(|_| self.spare.len() < SPARE_CHUNKS) {
            self.spare.push(chunk);
        }
    }
}

impl<T: Copy + Default + PartialEq, const N: usize> PartialEq for Ring<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.first == other.first
            && self.end == other.end
            && self.pieces(self.first..self.end).eq(other.pieces(other.first..other.end))
    }
}

impl<T: Copy + Default + Eq, const N: usize> Eq for Ring<T, N> {}

impl<T: Copy + Default + Hash, const N: usize> Hash for Ring<T, N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.first.hash(state);
        for piece in self.pieces(self.first..self.end) {
            piece.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Extend(Vec<u8>),
        Truncate(u64),
        Trim(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Step::Extend),
            (0u64..60).prop_map(Step::Truncate),
            (0u64..60).prop_map(Step::Trim),
        ]
    }

    #[test]
    fn rings_are_equal_where_they_hold_the_same_at_the_same_places() {
        let ring = |first: u64, items: &[u8]| {
            let mut ring = Ring::<u8, 8>::starting_at(first);
            ring.extend(items);
            ring
        };
        assert_eq!(ring(3, &[1, 2]), ring(3, &[1, 2]));
        assert_ne!(ring(3, &[1, 2]), ring(3, &[1]));
        assert_ne!(ring(3, &[1, 2]), ring(3, &[1, 3]));
        assert_ne!(ring(3, &[2]), ring(2, &[1, 2]));
        assert_ne!(ring(3, &[]), ring(4, &[]));
    }

    proptest! {
        /// Catches an off-by-one at a chunk's edge, in any order of growth, truncation and trimming.
        #[test]
        fn behaves_as_a_vector_with_an_offset(start in 0u64..20, steps in proptest::collection::vec(step(), 0..40)) {
            let mut ring = Ring::<u8, 8>::starting_at(start);
            let mut model = Vec::new();
            let mut first = start;
            for step in steps {
                match step {
                    Step::Extend(items) => { ring.extend(&items); model.extend_from_slice(&items); }
                    Step::Truncate(by) => {
                        let end = (first + model.len() as u64).saturating_sub(by);
                        ring.truncate(end);
                        model.truncate(end.saturating_sub(first) as usize);
                    }
                    Step::Trim(by) => {
                        let count = (by as usize).min(model.len());
                        ring.trim(first + by);
                        model.drain(..count);
                        first += count as u64;
                    }
                }
                prop_assert_eq!(ring.end(), first + model.len() as u64);
                let all: Vec<u8> = ring.pieces(0..u64::MAX).flatten().copied().collect();
                prop_assert_eq!(&all, &model);
                for (at, item) in model.iter().enumerate() {
                    prop_assert_eq!(ring.get(first + at as u64), Some(item));
                }
                prop_assert_eq!(ring.get(first + model.len() as u64), None);
                prop_assert!(ring.chunks.len() <= model.len() / 8 + 2);
            }
        }
    }
}
