//! One record of the log: what a turn wrote, in whole blocks of its own.
//!
//! ```text
//!   hash u64 | magic u32 | payload_crc32c u32 | payload_bytes u32 | count u32 | cluster u128 | incarnation u64
//!   sequence u64 | previous u64 | previous_hash u64 | durable u64 | place_file u32 | place_block u32
//!   term u64 | vote_incarnation u64 | vote_slot u8 | has_vote u8 | fence_term u48 | from u64 | before_term u64 | to_term u64
//!   fence_index u64 (0: no fence)
//!   payload: count times (entry header of 64 bytes, body); zeroes to the end of the block
//! ```
//!
//! Little endian, 144 bytes before the payload. `hash` is xxh3 of the rest of the header, with a salt that never leaves the disk as
//! its seed: what a client has put into an entry cannot pass for a record. It is also the link of the chain: each record names the
//! one before by sequence and hash, and so the first of a new life says which records it does not follow. Hard state and entries are
//! one record, so neither is there without the other. A fence is what the log once reached, where it does not any more (recovery.rs): what
//! shows that may be written over long before the log reaches as far again. `durable` is the highest sequence up to which all records were durable when
//! this one was begun: a hole at or below it is damage, one above it never was acknowledged.
//!
//! A record is never written over while it counts: a block that holds an acknowledged entry and is torn by the next write would lose
//! it. So each record begins a block, and what it does not fill is padding. Under load records grow, and the padding vanishes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use crate::id::{ClusterId, Incarnation, LogIndex, NodeId, Slot, Term};
use crate::log::Log;
use crate::storage::device::BLOCK_BYTES;
use crate::storage::{HardState, Write};
use crate::wire::{Reader, Writer};

/// Changes with the form of the records.
pub(super) const MAGIC: u32 = 0x3157_5254;
/// Of a fence's term. Later ones are told as the last of these, which no cluster comes to: a term a millisecond takes 9,000 years.
const FENCE_TERM_BYTES: usize = 6;
const FENCE_TERM_MAX: u64 = (1 << (8 * FENCE_TERM_BYTES)) - 1;
/// Bytes before the payload.
pub(super) const RECORD_HEADER_BYTES: usize = 144;

/// Where a record is: a file's number, and a block in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Place {
    pub(super) file: u32,
    pub(super) block: u32,
}

/// A record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) hash: u64,
    pub(super) payload_crc32c: u32,
    pub(super) payload_bytes: u32,
    pub(super) count: u32,
    pub(super) cluster: ClusterId,
    pub(super) incarnation: Incarnation,
    pub(super) sequence: u64,
    pub(super) previous: u64,
    pub(super) previous_hash: u64,
    /// All records up to this sequence were durable.
    pub(super) durable: u64,
    pub(super) place: Place,
    pub(super) hard: HardState,
    pub(super) from: LogIndex,
    /// The term of the entry before `from`.
    pub(super) before_term: Term,
    pub(super) to_term: Term,
    /// What the log once reached, and did not when this was written.
    pub(super) fence: Option<(Term, LogIndex)>,
}

impl Record {
    /// The last entry of the log once this record counts.
    pub(super) fn to(&self) -> LogIndex {
        LogIndex(self.from.0.saturating_add(u64::from(self.count)).saturating_sub(1))
    }

    /// Whole blocks that it takes.
    pub(super) fn blocks(&self) -> u32 {
        blocks_of(self.payload_bytes as usize)
    }

    /// The header at the start of `bytes`, if it is one of this disk.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Record> {
        let header = bytes.get(..RECORD_HEADER_BYTES)?;
        let mut r = Reader::new(header);
        let hash = r.u64()?;
        if r.u32()? != MAGIC || hash != hash_of(header, salt) {
            return None;
        }
        let (payload_crc32c, payload_bytes, count) = (r.u32()?, r.u32()?, r.u32()?);
        let (cluster, incarnation) = (ClusterId(r.u128()?), Incarnation(r.u64()?));
        let (sequence, previous, previous_hash, durable) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let place = Place { file: r.u32()?, block: r.u32()? };
        let (term, voted) = (Term(r.u64()?), Incarnation(r.u64()?));
        let (slot, has_vote) = (Slot(r.u8()?), r.u8()?);
        let mut fence_term = [0; 8];
        fence_term[..FENCE_TERM_BYTES].copy_from_slice(r.bytes(FENCE_TERM_BYTES)?);
        let vote = (has_vote != 0).then_some(NodeId { slot, incarnation: voted });
        let (from, before_term, to_term) = (LogIndex(r.u64()?), Term(r.u64()?), Term(r.u64()?));
        let fence_index = LogIndex(r.u64()?);
        let fence = (fence_index > LogIndex::ZERO).then_some((Term(u64::from_le_bytes(fence_term)), fence_index));
        Some(Record {
            hash,
            payload_crc32c,
            payload_bytes,
            count,
            cluster,
            incarnation,
            sequence,
            previous,
            previous_hash,
            durable,
            place,
            hard: HardState { term, vote },
            from,
            before_term,
            to_term,
            fence,
        })
    }

    /// Writes the header over the start of `bytes`, and its hash into it and this.
    pub(super) fn encode(&mut self, bytes: &mut [u8], salt: u64) {
        let header = &mut bytes[..RECORD_HEADER_BYTES];
        let mut w = Writer::new(header);
        w.u64(0);
        w.u32(MAGIC);
        w.u32(self.payload_crc32c);
        w.u32(self.payload_bytes);
        w.u32(self.count);
        w.u128(self.cluster.0);
        w.u64(self.incarnation.0);
        w.u64(self.sequence);
        w.u64(self.previous);
        w.u64(self.previous_hash);
        w.u64(self.durable);
        w.u32(self.place.file);
        w.u32(self.place.block);
        let vote = self.hard.vote.unwrap_or_default();
        w.u64(self.hard.term.0);
        w.u64(vote.incarnation.0);
        w.u8(vote.slot.0);
        w.u8(u8::from(self.hard.vote.is_some()));
        let (fence_term, fence_index) = self.fence.unwrap_or_default();
        w.bytes(&fence_term.0.min(FENCE_TERM_MAX).to_le_bytes()[..FENCE_TERM_BYTES]);
        w.u64(self.from.0);
        w.u64(self.before_term.0);
        w.u64(self.to_term.0);
        w.u64(fence_index.0);
        self.hash = hash_of(header, salt);
        header[..8].copy_from_slice(&self.hash.to_le_bytes());
    }
}

fn hash_of(header: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(&header[8..], salt)
}

/// Blocks of a record with so much payload.
pub(super) fn blocks_of(payload_bytes: usize) -> u32 {
    u32::try_from((RECORD_HEADER_BYTES + payload_bytes).div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

/// Copies the entries of `write` behind the header's place in `buffer`. Returns the payload's length and check sum; `None` where it
/// does not fit.
pub(super) fn gather(write: &Write, log: &Log, buffer: &mut [u8]) -> Option<(u32, u32)> {
    let mut used = RECORD_HEADER_BYTES;
    for index in (write.from.0..=write.to.0).map(LogIndex) {
        let header = log.header(index)?;
        buffer.get_mut(used..used + ENTRY_HEADER_BYTES)?.copy_from_slice(&header.encode());
        used += ENTRY_HEADER_BYTES;
        let body = buffer.get_mut(used..used + header.body_len as usize)?;
        log.read_body(index, 0, body);
        used += body.len();
    }
    let payload = buffer.get(RECORD_HEADER_BYTES..used)?;
    Some((u32::try_from(payload.len()).ok()?, crc32c::crc32c(payload)))
}

/// The entries of a payload, in order; `None` where it is not exactly `count` of them.
pub(super) fn entries(payload: &[u8], count: u32) -> Option<Vec<(EntryHeader, &[u8])>> {
    let mut r = Reader::new(payload);
    let mut found = Vec::new();
    for _ in 0..count {
        let header = EntryHeader::read(&mut r)?;
        found.push((header, r.bytes(header.body_len as usize)?));
    }
    r.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            hash: 0,
            payload_crc32c: 1,
            payload_bytes: 2,
            count: 3,
            cluster: ClusterId(4),
            incarnation: Incarnation(5),
            sequence: 6,
            previous: 7,
            previous_hash: 8,
            durable: 9,
            place: Place { file: 10, block: 11 },
            hard: HardState { term: Term(12), vote: Some(NodeId::new(13, 14)) },
            from: LogIndex(15),
            before_term: Term(16),
            to_term: Term(17),
            fence: Some((Term(18), LogIndex(19))),
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        for fence in [None, Some((Term(FENCE_TERM_MAX), LogIndex(1)))] {
            let mut written = Record { fence, ..record() };
            written.encode(&mut bytes, 99);
            assert_eq!(Record::decode(&bytes, 99), Some(written));
        }
        let mut written = record();
        written.encode(&mut bytes, 99);
        assert_eq!(Record::decode(&bytes, 99), Some(written));
        assert_eq!(Record::decode(&bytes, 98), None, "another disk's salt");
        assert_eq!(written.to(), LogIndex(17));
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(bit in 0..RECORD_HEADER_BYTES * 8) {
            let mut bytes = [0; RECORD_HEADER_BYTES];
            record().encode(&mut bytes, 99);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&bytes, 99), None);
        }
    }
}
