//! Snapshots in chunks of a datagram, read straight from where they are kept.

use super::Envelope;
use super::codec::{CRC_BYTES, HEADER_BYTES, KIND_CHUNK, seal, write_header};
use crate::id::{LogIndex, NodeId, Term};
use crate::log::Log;
use crate::wire::{Reader, Writer};

const HEAD_BYTES: usize = 40;

/// Bytes of a chunk that are not content.
pub(crate) const CHUNK_OVERHEAD_BYTES: usize = HEADER_BYTES + HEAD_BYTES + CRC_BYTES;

/// Which snapshot: two of equal identity are the same bytes, whoever sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SnapshotId {
    /// The last entry that is in it.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// Hash of the content.
    pub hash: u64,
}

impl SnapshotId {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.index.0);
        w.u64(self.term.0);
        w.u64(self.hash);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<SnapshotId> {
        Some(SnapshotId { index: LogIndex(r.u64()?), term: Term(r.u64()?), hash: r.u64()? })
    }
}

/// What every chunk begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChunkHead {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Bytes of the service's state, at the beginning of the content.
    pub state_bytes: u32,
    /// Bytes of the content.
    pub total_bytes: u32,
    /// Where in the content this chunk begins.
    pub offset: u32,
}

impl ChunkHead {
    fn write(&self, w: &mut Writer<'_>) {
        self.id.write(w);
        w.u32(self.state_bytes);
        w.u32(self.total_bytes);
        w.u32(self.offset);
        w.u32(0);
    }

    /// Reads a head that contradicts neither itself nor the bytes that follow.
    pub(super) fn read(r: &mut Reader<'_>) -> Option<ChunkHead> {
        let id = SnapshotId::read(r)?;
        let head = ChunkHead { id, state_bytes: r.u32()?, total_bytes: r.u32()?, offset: r.u32()? };
        (r.u32()? == 0).then_some(())?;
        let end = u32::try_from(r.rest().len()).ok().and_then(|length| head.offset.checked_add(length));
        (head.state_bytes <= head.total_bytes && end? <= head.total_bytes).then_some(head)
    }
}

/// What a receiver has of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChunkAck {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Bytes held without a gap; all of them also where the log already reaches as far.
    pub offset: u32,
    /// Where the gap after them ends, 0 where nothing comes after it.
    pub gap_end: u32,
}

/// A leader's wish: who is to be sent the receiver's snapshot, and from where on the leader has what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SnapshotAsk {
    /// Who needs it.
    pub to: NodeId,
    /// The least index that it must reach; [`SnapshotAsk::NOTHING`] takes the wish back.
    pub least: LogIndex,
}

impl SnapshotAsk {
    /// What no snapshot reaches.
    pub const NOTHING: LogIndex = LogIndex(u64::MAX);
}

/// Writes `count` bytes of the snapshot that `log` keeps for sending. Returns the message's length, 0 where it does not keep
/// this one, or the buffer is too small.
pub(crate) fn write_chunk(buffer: &mut [u8], header: &Envelope, head: &ChunkHead, count: u32, log: &Log) -> usize {
    let mut w = Writer::new(buffer);
    write_header(KIND_CHUNK, header, &mut w);
    head.write(&mut w);
    let read = w.reserve(count as usize).is_some_and(|place| log.read_snapshot(head.id, head.offset, place));
    if read { seal(w) } else { 0 }
}

/// As [`write_chunk`], from bytes already at hand.
pub(super) fn write_chunk_bytes(buffer: &mut [u8], header: &Envelope, head: &ChunkHead, piece: &[u8]) -> usize {
    let mut w = Writer::new(buffer);
    write_header(KIND_CHUNK, header, &mut w);
    head.write(&mut w);
    w.bytes(piece);
    seal(w)
}
