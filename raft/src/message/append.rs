//! Appends: written straight from the log into the datagram, read in place.

use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use crate::id::{LogIndex, Term};
use crate::log::Log;
use crate::message::Envelope;
use crate::message::codec::{CRC_BYTES, HEADER_BYTES, KIND_APPEND, KIND_FRAGMENT, seal, write_header};
use crate::wire::{Reader, Writer};

const HEAD_BYTES: usize = 64;
const FLAG_ACK_WANTED: u16 = 1;
const FLAG_QUIET: u16 = 2;
/// Indexes near the end of the number range would wrap in sums; no log gets there.
const MAX_INDEX: u64 = 1 << 62;

/// Bytes of an append that are not entries.
pub const MESSAGE_OVERHEAD_BYTES: usize = HEADER_BYTES + HEAD_BYTES + CRC_BYTES;
/// Bytes of a fragment that are not body.
pub const FRAGMENT_OVERHEAD_BYTES: usize = MESSAGE_OVERHEAD_BYTES + ENTRY_HEADER_BYTES;

/// What every append and fragment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AppendHead {
    /// The entry before the first one carried.
    pub prev: LogIndex,
    /// Its term.
    pub prev_term: Term,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The round this message belongs to.
    pub round: u64,
    /// Every live member has applied up to here: the follower may trim.
    pub floor: LogIndex,
    /// How old the newest round that a quorum has echoed was when `mark` reached the leader, in nanoseconds;
    /// [`AppendHead::UNKNOWN`] where there is none, or the leader does not know yet what its predecessors committed.
    pub age_ns: u64,
    /// A mark that the leader has from the receiver, see [`crate::Ack::mark`]; 0 where it has none.
    pub mark: u64,
    /// Byte offset of a fragment in its entry's body, else 0.
    pub offset: u32,
    /// Whether the leader waits for an acknowledgement.
    pub ack_wanted: bool,
    /// Whether the leader will be heard less often from now on, see [`crate::Timing::quiet_after`].
    pub quiet: bool,
}

impl AppendHead {
    /// [`AppendHead::age_ns`] where nothing is known.
    pub const UNKNOWN: u64 = u64::MAX;

    fn write(&self, count: u16, w: &mut Writer<'_>) {
        w.u64(self.prev.0);
        w.u64(self.prev_term.0);
        w.u64(self.commit.0);
        w.u64(self.round);
        w.u64(self.floor.0);
        w.u64(self.age_ns);
        w.u64(self.mark);
        w.u32(self.offset);
        let flags = [(self.ack_wanted, FLAG_ACK_WANTED), (self.quiet, FLAG_QUIET)];
        w.u16(flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag));
        w.u16(count);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<(AppendHead, u16)> {
        let mut head = AppendHead {
            prev: LogIndex(r.u64()?),
            prev_term: Term(r.u64()?),
            commit: LogIndex(r.u64()?),
            round: r.u64()?,
            floor: LogIndex(r.u64()?),
            age_ns: r.u64()?,
            mark: r.u64()?,
            offset: r.u32()?,
            ack_wanted: false,
            quiet: false,
        };
        let flags = r.u16()?;
        (head.ack_wanted, head.quiet) = (flags & FLAG_ACK_WANTED != 0, flags & FLAG_QUIET != 0);
        (head.prev.0 < MAX_INDEX).then_some(())?;
        Some((head, r.u16()?))
    }
}

/// The entries of an append, checked to be whole when the message was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entries<'a> {
    rest: &'a [u8],
    count: u16,
}

impl<'a> Entries<'a> {
    /// Checks that `bytes` are exactly `count` entries of known kinds. The message's check sum covers their bodies.
    pub(super) fn check(bytes: &'a [u8], count: u16) -> Option<Entries<'a>> {
        let mut r = Reader::new(bytes);
        for _ in 0..count {
            let body_len = EntryHeader::peek(r.bytes(ENTRY_HEADER_BYTES)?.first_chunk()?)?;
            r.bytes(usize::try_from(body_len).ok()?)?;
        }
        r.is_empty().then_some(Entries { rest: bytes, count })
    }

    /// How many are left.
    pub fn remaining(&self) -> usize {
        usize::from(self.count)
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (EntryHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut r = Reader::new(self.rest);
        let header = EntryHeader::read(&mut r)?;
        let body = r.bytes(usize::try_from(header.body_len).ok()?)?;
        self.rest = r.rest();
        Some((header, body))
    }
}

/// Writes one append: open, push entries while they fit, finish.
#[derive(Debug)]
pub struct AppendWriter<'a> {
    w: Writer<'a>,
    count: u16,
}

impl<'a> AppendWriter<'a> {
    /// Begins an append in `buffer`.
    pub fn new(buffer: &'a mut [u8], header: &Envelope, head: &AppendHead) -> Self {
        let mut w = Writer::new(buffer);
        write_header(KIND_APPEND, header, &mut w);
        head.write(0, &mut w);
        AppendWriter { w, count: 0 }
    }

    /// Copies the entry at `index` in. False when it does not fit, or is not in the log.
    pub fn push(&mut self, log: &Log, index: LogIndex) -> bool {
        let Some((entry, body)) = log.entry(index) else { return false };
        let needed = ENTRY_HEADER_BYTES + entry.body_len as usize;
        if self.w.room() < needed + CRC_BYTES || self.count == u16::MAX {
            return false;
        }
        entry.write(&mut self.w);
        for piece in body {
            self.w.bytes(piece);
        }
        self.count += 1;
        true
    }

    /// Adds entries already in wire form, for messages built without a log.
    pub(super) fn push_encoded(&mut self, entries: &Entries<'_>) {
        self.w.bytes(entries.bytes());
        self.count = entries.count;
    }

    /// Closes the message. Returns its length, 0 when the buffer was too small for it.
    pub fn finish(mut self) -> usize {
        let count_at = HEADER_BYTES + HEAD_BYTES - 2;
        if let Some(place) = self.w.written().get_mut(count_at..count_at + 2) {
            place.copy_from_slice(&self.count.to_le_bytes());
        }
        seal(self.w)
    }
}

/// Writes as much of the entry at `index`, from `head.offset` on, as fits in `buffer`. Returns the message's length and
/// the body bytes in it; (0, 0) when the entry is not in the log or the buffer holds no body byte.
pub fn write_fragment(
    buffer: &mut [u8],
    header: &Envelope,
    head: &AppendHead,
    log: &Log,
    index: LogIndex,
) -> (usize, u32) {
    let Some(entry) = log.header(index) else { return (0, 0) };
    let mut w = Writer::new(buffer);
    write_header(KIND_FRAGMENT, header, &mut w);
    head.write(0, &mut w);
    entry.write(&mut w);
    let left = entry.body_len.saturating_sub(head.offset) as usize;
    let count = left.min(w.room().saturating_sub(CRC_BYTES));
    let read = w.reserve(count).map_or(0, |place| log.read_body(index, head.offset, place));
    if count == 0 || read < count {
        return (0, 0);
    }
    match seal(w) {
        0 => (0, 0),
        length => (length, count as u32),
    }
}

/// As [`write_fragment`], from bytes already at hand.
pub(super) fn write_fragment_bytes(
    buffer: &mut [u8],
    header: &Envelope,
    head: &AppendHead,
    entry: &EntryHeader,
    piece: &[u8],
) -> usize {
    let mut w = Writer::new(buffer);
    write_header(KIND_FRAGMENT, header, &mut w);
    head.write(0, &mut w);
    entry.write(&mut w);
    w.bytes(piece);
    seal(w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryHeader;

    #[test]
    fn a_buffer_is_used_to_its_last_byte() {
        let mut log = Log::default();
        let body = [7; 50];
        let entry = EntryHeader { body_len: 50, body_crc32c: crc32c::crc32c(&body), ..EntryHeader::default() };
        let index = log.append(entry, &[&body]);
        let mut buffer = [0; MESSAGE_OVERHEAD_BYTES + ENTRY_HEADER_BYTES + 50];
        let (header, head) = (Envelope::default(), AppendHead::default());
        let all = buffer.len();
        let mut append = AppendWriter::new(&mut buffer, &header, &head);
        assert!(append.push(&log, index) && !append.push(&log, index));
        assert_eq!(append.finish(), all);
        assert!(!AppendWriter::new(&mut buffer[1..], &header, &head).push(&log, index));
        let mut buffer = [0; FRAGMENT_OVERHEAD_BYTES + 10];
        let all = buffer.len();
        assert_eq!(write_fragment(&mut buffer, &header, &head, &log, index), (all, 10));
    }

    /// It would bring the receiver nothing, and the sender no further.
    #[test]
    fn a_fragment_without_a_body_byte_is_not_written() {
        let mut log = Log::default();
        let entry = EntryHeader { body_len: 50, ..EntryHeader::default() };
        let index = log.append(entry, &[&[7; 50]]);
        let write = |room: usize, offset: u32, index: LogIndex| {
            let head = AppendHead { offset, ..AppendHead::default() };
            write_fragment(&mut vec![0; room], &Envelope::default(), &head, &log, index)
        };
        assert_eq!(write(FRAGMENT_OVERHEAD_BYTES + 1, 49, index), (FRAGMENT_OVERHEAD_BYTES + 1, 1));
        assert_eq!(write(FRAGMENT_OVERHEAD_BYTES, 0, index), (0, 0), "no room for one");
        assert_eq!(write(1000, 50, index), (0, 0), "all of it was sent");
        assert_eq!(write(1000, 0, index.next()), (0, 0), "there is no such entry");
    }

    #[test]
    fn an_index_that_no_log_reaches_is_refused() {
        let read = |prev: u64| {
            let head = AppendHead { prev: LogIndex(prev), ..AppendHead::default() };
            let mut buffer = [0; MESSAGE_OVERHEAD_BYTES];
            let length = AppendWriter::new(&mut buffer, &Envelope::default(), &head).finish();
            crate::message::Message::decode(&buffer[..length]).is_some()
        };
        assert!(read(MAX_INDEX - 1));
        assert!(!read(MAX_INDEX) && !read(u64::MAX));
    }
}
