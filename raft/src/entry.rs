//! Log entries: the header, 64 bytes, one cache line, kept apart from the body it describes; what is proposed, and what is committed.

use crate::id::{LogIndex, Term};
use crate::wire::{Reader, Writer};

/// Bytes of an encoded [`EntryHeader`], and what one costs of every byte budget besides its body.
pub const ENTRY_HEADER_BYTES: usize = 64;

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum EntryKind {
    /// First entry of each term; empty. Its commit is what lets a new leader count older entries as committed.
    Noop = 0,
    /// The body is a [`crate::Configuration`]. The first entry of a log is one.
    Config = 1,
    /// A replicated request; the body is the caller's.
    #[default]
    Normal = 2,
    /// Moves log time on while log timers are pending; empty.
    Tick = 3,
    /// Opens a client session; its index is the session's id.
    Register = 4,
    /// The body names effects that a leader has carried out.
    Done = 5,
}

impl EntryKind {
    /// Kinds without which a leader cannot make progress: they may use the reserved room of every budget.
    pub const fn is_reserved(self) -> bool {
        matches!(self, EntryKind::Noop | EntryKind::Config | EntryKind::Tick)
    }

    const fn from_wire(kind: u8) -> Option<EntryKind> {
        Some(match kind {
            0 => EntryKind::Noop,
            1 => EntryKind::Config,
            2 => EntryKind::Normal,
            3 => EntryKind::Tick,
            4 => EntryKind::Register,
            5 => EntryKind::Done,
            _ => return None,
        })
    }
}

/// What the log knows of an entry without its body. The index is implicit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct EntryHeader {
    /// What the entry is for.
    pub kind: EntryKind,
    /// R2P2 policy of the request.
    pub policy: u8,
    /// Slot of the replica that answers; 0 for whoever leads when it applies the entry.
    pub replier: u8,
    /// The caller's flags; not looked at here.
    pub flags: u8,
    /// Bytes of the body.
    pub body_len: u32,
    /// Method key of the request.
    pub method: u32,
    /// crc32c of the body.
    pub body_crc32c: u32,
    /// Log time in nanoseconds, set by the leader that appended the entry.
    pub log_time: u64,
    /// The client's IPv4 address.
    pub client_ip: u32,
    /// The client's UDP port.
    pub client_port: u16,
    /// The client's R2P2 request id.
    pub rid: u16,
    /// Session id, 0 for none.
    pub session: u64,
    /// Sequence number within the session.
    pub seq: u64,
    /// The client has the replies up to this sequence number.
    pub acked: u64,
    /// Term of the leader that appended the entry.
    pub term: Term,
}

const _: () = assert!(size_of::<EntryHeader>() == ENTRY_HEADER_BYTES);

impl EntryHeader {
    /// Bytes that the entry costs of a budget: header and body.
    pub const fn cost_bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + self.body_len as u64
    }

    /// The little-endian form, as in messages and on disk.
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        // Fixed places in a fixed array: the compiler checks no bound and stores whole words.
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[..4].copy_from_slice(&[self.kind as u8, self.policy, self.replier, self.flags]);
        bytes[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.method.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_crc32c.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_time.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.client_ip.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.client_port.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.rid.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.session.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.seq.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.acked.to_le_bytes());
        bytes[56..].copy_from_slice(&self.term.0.to_le_bytes());
        bytes
    }

    /// Reads the little-endian form; `None` for an unknown kind.
    pub fn decode(bytes: &[u8; ENTRY_HEADER_BYTES]) -> Option<EntryHeader> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Some(EntryHeader {
            kind: EntryKind::from_wire(bytes[0])?,
            policy: bytes[1],
            replier: bytes[2],
            flags: bytes[3],
            body_len: u32_at(4),
            method: u32_at(8),
            body_crc32c: u32_at(12),
            log_time: u64_at(16),
            client_ip: u32_at(24),
            client_port: u16_at(28),
            rid: u16_at(30),
            session: u64_at(32),
            seq: u64_at(40),
            acked: u64_at(48),
            term: Term(u64_at(56)),
        })
    }

    /// The body's length and whether the kind is known, without reading the rest.
    pub(crate) fn peek(bytes: &[u8; ENTRY_HEADER_BYTES]) -> Option<u32> {
        EntryKind::from_wire(bytes[0])?;
        Some(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.bytes(&self.encode());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Option<EntryHeader> {
        Self::decode(&r.array()?)
    }
}

/// A committed entry as whoever applies it gets it. Used for one after the other: the body's buffer is kept, and nothing is moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its place in the log.
    pub index: LogIndex,
    /// What the log knows of it.
    pub header: EntryHeader,
    /// A copy of its body.
    pub body: Vec<u8>,
}

/// An entry as the caller hands it in: everything but term, log time and check sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proposal<'a> {
    /// What the entry is for.
    pub kind: EntryKind,
    /// R2P2 policy of the request.
    pub policy: u8,
    /// Slot of the replica that answers; 0 for whoever leads when it applies the entry.
    pub replier: u8,
    /// The caller's flags; not looked at here.
    pub flags: u8,
    /// Method key of the request.
    pub method: u32,
    /// The client's IPv4 address.
    pub client_ip: u32,
    /// The client's UDP port.
    pub client_port: u16,
    /// The client's R2P2 request id.
    pub rid: u16,
    /// Session id, 0 for none.
    pub session: u64,
    /// Sequence number within the session.
    pub seq: u64,
    /// The client has the replies up to this sequence number.
    pub acked: u64,
    /// The body in pieces, copied once into the log.
    pub body: &'a [&'a [u8]],
}

impl Proposal<'_> {
    /// The header that the leader of `term` gives this proposal.
    pub(crate) fn header(&self, term: Term, log_time: u64) -> EntryHeader {
        let body_crc32c = self.body.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let body_len = self.body.iter().map(|piece| piece.len()).sum::<usize>();
        EntryHeader {
            kind: self.kind,
            policy: self.policy,
            replier: self.replier,
            flags: self.flags,
            body_len: u32::try_from(body_len).unwrap_or(u32::MAX),
            method: self.method,
            body_crc32c,
            log_time,
            client_ip: self.client_ip,
            client_port: self.client_port,
            rid: self.rid,
            session: self.session,
            seq: self.seq,
            acked: self.acked,
            term,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_place() {
        let header = EntryHeader {
            kind: EntryKind::Register,
            policy: 1,
            replier: 2,
            flags: 3,
            body_len: 0x0706_0504,
            method: 0x0b0a_0908,
            body_crc32c: 0x0f0e_0d0c,
            log_time: 0x1716_1514_1312_1110,
            client_ip: 0x1b1a_1918,
            client_port: 0x1d1c,
            rid: 0x1f1e,
            session: 0x2726_2524_2322_2120,
            seq: 0x2f2e_2d2c_2b2a_2928,
            acked: 0x3736_3534_3332_3130,
            term: Term(0x3f3e_3d3c_3b3a_3938),
        };
        let bytes = header.encode();
        assert_eq!(bytes[0], 4);
        for (at, byte) in bytes.iter().enumerate().skip(1) {
            assert_eq!(usize::from(*byte), at);
        }
        assert_eq!(EntryHeader::decode(&bytes), Some(header));
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        use EntryKind::*;
        for (number, kind) in [Noop, Config, Normal, Tick, Register, Done].into_iter().enumerate() {
            let bytes = EntryHeader { kind, ..EntryHeader::default() }.encode();
            assert_eq!(usize::from(bytes[0]), number);
            assert_eq!(EntryHeader::decode(&bytes).map(|header| header.kind), Some(kind));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut bytes = EntryHeader::default().encode();
        bytes[0] = u8::MAX;
        assert_eq!(EntryHeader::decode(&bytes), None);
    }
}
