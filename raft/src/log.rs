//! The log in memory: headers and bodies apart, terms as runs, an entry under assembly at the tail.
//!
//! Trimmed at the front, truncated at the back, read in place for sending. It holds copies: a received packet is
//! never kept. The byte budget is the machine's business; the log says what it holds.

mod assembly;
mod pieces;
mod ring;
mod snapshot;
mod terms;

use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use crate::id::{LogIndex, Term};
use assembly::Assembly;
use ring::Ring;
use snapshot::Snapshots;
use terms::TermRuns;

pub(crate) use snapshot::StateHash;
pub use snapshot::{ReceivedSnapshot, Snapshot, state_hash};

/// Headers in a chunk: 72 KiB.
const CHUNK_HEADERS: usize = 1024;
/// Body bytes in a chunk.
const CHUNK_BODY_BYTES: usize = 64 * 1024;

/// A header and where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Stored {
    header: EntryHeader,
    body_end: u64,
}

/// Entries `first()..=last()`, and the term of the one before them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Log {
    headers: Ring<Stored, CHUNK_HEADERS>,
    bodies: Ring<u8, CHUNK_BODY_BYTES>,
    terms: TermRuns,
    /// Where the first kept entry's body begins.
    base_body_end: u64,
    /// Log time of the entry before the first one kept.
    base_log_time: u64,
    assembly: Option<Assembly>,
    snapshots: Snapshots,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            headers: Ring::starting_at(1),
            bodies: Ring::starting_at(0),
            terms: TermRuns::default(),
            base_body_end: 0,
            base_log_time: 0,
            assembly: None,
            snapshots: Snapshots::default(),
        }
    }
}

impl Log {
    /// A log without entries that goes on after `base`, of this term and log time (nanoseconds).
    pub fn starting_after(base: LogIndex, base_term: Term, base_log_time: u64) -> Self {
        let mut log = Log::default();
        log.reset(base, base_term, base_log_time);
        log
    }

    /// The index before the first entry held: 0, or the last one trimmed.
    pub fn base(&self) -> LogIndex {
        self.terms.base()
    }

    /// The term at [`Log::base`].
    pub fn base_term(&self) -> Term {
        self.terms.base_term()
    }

    /// The first entry held; one after [`Log::last`] when there is none.
    pub fn first(&self) -> LogIndex {
        self.base().next()
    }

    /// The last entry held, or [`Log::base`].
    pub fn last(&self) -> LogIndex {
        self.terms.last()
    }

    /// The term of the last entry.
    pub fn last_term(&self) -> Term {
        self.terms.last_term()
    }

    /// The term at `index`, for the entries held and the one before them. O(log of the number of terms).
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.terms.term_at(index)
    }

    /// The last index at or before `index` with a term of at most `term`: where a search for agreement goes on.
    pub fn not_after(&self, index: LogIndex, term: Term) -> LogIndex {
        self.terms.not_after(index, term)
    }

    /// The header at `index`. O(1).
    pub fn header(&self, index: LogIndex) -> Option<&EntryHeader> {
        self.headers.get(index.0).map(|stored| &stored.header)
    }

    /// Header and body at `index`, the body in the pieces it is stored in. O(1).
    pub fn entry(&self, index: LogIndex) -> Option<(&EntryHeader, impl Iterator<Item = &[u8]>)> {
        let Stored { header, body_end } = self.headers.get(index.0)?;
        Some((header, self.bodies.pieces(*body_end - u64::from(header.body_len)..*body_end)))
    }

    /// The newest header, if the log holds an entry.
    pub fn last_header(&self) -> Option<&EntryHeader> {
        self.header(self.last())
    }

    /// Log time of the newest entry in nanoseconds, held or the last one that is not; 0 before the first.
    pub fn newest_log_time(&self) -> u64 {
        self.last_header().map_or(self.base_log_time, |header| header.log_time)
    }

    /// The body at `index` in the pieces it is stored in; empty for an entry not held.
    pub fn body(&self, index: LogIndex) -> impl Iterator<Item = &[u8]> {
        let range = self.body_range(index);
        self.bodies.pieces(range)
    }

    /// Copies the body at `index` over `scratch`.
    pub fn copy_body(&self, index: LogIndex, scratch: &mut Vec<u8>) {
        scratch.clear();
        for piece in self.body(index) {
            scratch.extend_from_slice(piece);
        }
    }

    /// Fills `place` from the body at `index`, beginning at `offset`. Returns the bytes copied.
    pub fn read_body(&self, index: LogIndex, offset: u32, place: &mut [u8]) -> usize {
        let range = self.body_range(index);
        let start = range.start.saturating_add(u64::from(offset)).min(range.end);
        let mut filled = 0;
        for piece in self.bodies.pieces(start..range.end) {
            let count = piece.len().min(place.len() - filled);
            place[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        filled
    }

    /// Bytes held, headers and bodies. An entry under assembly counts once it is whole.
    pub fn bytes(&self) -> u64 {
        (self.last().0 - self.base().0) * ENTRY_HEADER_BYTES as u64 + (self.bodies.end() - self.base_body_end)
    }

    /// Bytes of the entries after `after` up to `to`, of those held. O(1).
    pub fn bytes_between(&self, after: LogIndex, to: LogIndex) -> u64 {
        let after = after.max(self.base());
        let to = to.min(self.last());
        if to <= after {
            return 0;
        }
        (to.0 - after.0) * ENTRY_HEADER_BYTES as u64 + (self.body_end(to) - self.body_end(after))
    }

    /// Bytes of all entries up to `index` since the log began after a snapshot or at all, held or not, of those at or after
    /// [`Log::base`]: two of them differ by the bytes between. O(1).
    pub fn offset_bytes(&self, index: LogIndex) -> u64 {
        let index = index.clamp(self.base(), self.last());
        index.0 * ENTRY_HEADER_BYTES as u64 + self.body_end(index)
    }

    /// The first of the newest entries that together cost at most `bytes`; one after the last where none does. O(log of the
    /// number of entries).
    pub fn newest_within(&self, bytes: u64) -> LogIndex {
        let (mut over, mut fits) = (self.base().0, self.last().next().0);
        while fits - over > 1 {
            let middle = over + (fits - over) / 2;
            if self.bytes_between(LogIndex(middle - 1), self.last()) <= bytes {
                fits = middle;
            } else {
                over = middle;
            }
        }
        LogIndex(fits)
    }

    /// The last of the oldest entries after `after` that together cost at most `bytes`; `after` where not even one does. O(log of
    /// the number of entries).
    pub fn oldest_within(&self, after: LogIndex, bytes: u64) -> LogIndex {
        let after = after.max(self.base());
        let (mut fits, mut over) = (after.0, self.last().next().0);
        while over > fits + 1 {
            let middle = fits + (over - fits) / 2;
            if self.bytes_between(after, LogIndex(middle)) <= bytes {
                fits = middle;
            } else {
                over = middle;
            }
        }
        LogIndex(fits)
    }

    /// Adds an entry after the last. `header.body_len` must be the length of `body`.
    pub fn append(&mut self, header: EntryHeader, body: &[&[u8]]) -> LogIndex {
        for piece in body {
            self.bodies.extend(piece);
        }
        self.headers.push(Stored { header, body_end: self.bodies.end() });
        self.terms.append(header.term);
        self.assembly = None;
        self.last()
    }

    /// Drops `from` and everything after it.
    pub fn truncate(&mut self, from: LogIndex) {
        if from > self.last() {
            return;
        }
        let kept = from.prev().max(self.base());
        self.bodies.truncate(self.body_end(kept));
        self.headers.truncate(kept.next().0);
        self.terms.truncate(kept.next());
        self.assembly = None;
    }

    /// Drops everything up to and including `to`. Its term is kept.
    pub fn trim(&mut self, to: LogIndex) {
        let to = to.min(self.last());
        if to <= self.base() {
            return;
        }
        let body_end = self.body_end(to);
        self.base_log_time = self.header(to).map_or(self.base_log_time, |header| header.log_time);
        self.headers.trim(to.next().0);
        self.bodies.trim(body_end);
        self.base_body_end = body_end;
        self.terms.trim(to);
    }

    /// Drops every entry: the log begins anew after `base`.
    fn reset(&mut self, base: LogIndex, base_term: Term, base_log_time: u64) {
        self.headers = Ring::starting_at(base.next().0);
        self.bodies = Ring::starting_at(0);
        self.base_body_end = 0;
        self.base_log_time = base_log_time;
        self.terms = TermRuns::starting_at(base, base_term);
        self.assembly = None;
    }

    /// Takes a fragment of the entry after the last, and appends the entry when that completes it and the header's
    /// check sum is true (where it is not, assembly starts anew).
    pub fn assemble(&mut self, leader_term: Term, header: EntryHeader, offset: u32, piece: &[u8]) {
        let index = self.last().next();
        let same = |a: &Assembly| a.leader_term == leader_term && a.index == index && a.header == header;
        if !self.assembly.as_ref().is_some_and(same) {
            self.assembly = Some(Assembly::new(leader_term, index, header));
        }
        let Some(assembly) = &mut self.assembly else { return };
        assembly.body.add(offset, piece);
        if !assembly.body.is_complete() {
            return;
        }
        if let Some(whole) = self.assembly.take()
            && crc32c::crc32c(whole.body.prefix()) == header.body_crc32c
        {
            self.append(header, &[whole.body.prefix()]);
        }
    }

    /// Bytes held, without a gap, of the entry after the last, as sent by the leader of `leader_term`.
    pub fn assembled_bytes(&self, leader_term: Term) -> u32 {
        self.assembly.as_ref().filter(|a| a.leader_term == leader_term).map_or(0, |a| a.body.offset())
    }

    fn body_end(&self, index: LogIndex) -> u64 {
        self.headers.get(index.0).map_or(self.base_body_end, |stored| stored.body_end)
    }

    fn body_range(&self, index: LogIndex) -> std::ops::Range<u64> {
        match self.headers.get(index.0) {
            Some(stored) => stored.body_end - u64::from(stored.header.body_len)..stored.body_end,
            None => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(term: u64, body: &[u8]) -> EntryHeader {
        EntryHeader {
            term: Term(term),
            body_len: body.len() as u32,
            body_crc32c: crc32c::crc32c(body),
            ..EntryHeader::default()
        }
    }

    proptest! {
        /// A log must stay a list of (header, body) through every order of append, truncation and trimming.
        #[test]
        fn behaves_as_a_list(
            steps in proptest::collection::vec((0u8..5, 0u64..6, 0usize..40_000), 0..40),
        ) {
            let mut log = Log::default();
            let mut model: Vec<(EntryHeader, Vec<u8>)> = Vec::new();
            let mut base = 0u64;
            let mut scratch = Vec::new();
            for (at, (step, by, length)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => {
                        let body = vec![at as u8; length];
                        log.append(header(1 + at as u64 / 5, &body), &[&body[..length / 2], &body[length / 2..]]);
                        model.push((header(1 + at as u64 / 5, &body), body));
                    }
                    3 => {
                        let from = (base + 1 + model.len() as u64).saturating_sub(by);
                        log.truncate(LogIndex(from));
                        model.truncate(from.saturating_sub(base + 1) as usize);
                    }
                    _ => {
                        let count = by.min(model.len() as u64);
                        log.trim(LogIndex(base + by));
                        model.drain(..count as usize);
                        base += count;
                    }
                }
                prop_assert_eq!(log.base(), LogIndex(base));
                prop_assert_eq!(log.last(), LogIndex(base + model.len() as u64));
                let total: u64 = model.iter().map(|(header, _)| header.cost_bytes()).sum();
                prop_assert_eq!(log.bytes(), total);
                let wanted = (0..=model.len()).find(|at| {
                    model[*at..].iter().map(|(header, _)| header.cost_bytes()).sum::<u64>() <= 50_000
                });
                let expected = wanted.map(|at| LogIndex(base + 1 + at as u64));
                prop_assert_eq!(Some(log.newest_within(50_000)), expected);
                for (offset, (header, body)) in model.iter().enumerate() {
                    let index = LogIndex(base + 1 + offset as u64);
                    prop_assert_eq!(log.header(index), Some(header));
                    log.copy_body(index, &mut scratch);
                    prop_assert_eq!(&scratch, body);
                    prop_assert_eq!(log.term_at(index), Some(header.term));
                    let mut part = [0; 7];
                    let count = log.read_body(index, 3, &mut part);
                    let expected = body.get(3..).unwrap_or(&[]);
                    prop_assert_eq!(&part[..count], &expected[..expected.len().min(7)]);
                }
            }
        }
    }

    #[test]
    fn a_fragmented_entry_arrives_whole() {
        let body: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        let head = header(3, &body);
        let mut log = Log::default();
        for (at, piece) in body.chunks(1000).enumerate().rev() {
            log.assemble(Term(4), head, at as u32 * 1000, piece);
        }
        assert_eq!(log.last(), LogIndex(1));
        let mut read = Vec::new();
        log.copy_body(LogIndex(1), &mut read);
        assert_eq!(read, body);
    }

    #[test]
    fn another_leaders_fragments_start_anew() {
        let body = [7u8; 2000];
        let mut log = Log::default();
        log.assemble(Term(4), header(3, &body), 0, &body[..1000]);
        assert_eq!(log.assembled_bytes(Term(4)), 1000);
        assert_eq!(log.assembled_bytes(Term(5)), 0);
        log.assemble(Term(5), header(3, &body), 1000, &body[1000..]);
        assert_eq!(log.last(), LogIndex::ZERO);
        assert_eq!(log.assembled_bytes(Term(5)), 0);
    }

    #[test]
    fn a_body_that_fails_its_check_sum_is_not_appended() {
        let body = [7u8; 100];
        let mut log = Log::default();
        log.assemble(Term(1), EntryHeader { body_crc32c: 1, ..header(1, &body) }, 0, &body);
        assert_eq!(log.last(), LogIndex::ZERO);
    }
}
