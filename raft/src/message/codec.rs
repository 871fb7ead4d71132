//! The bytes of a message: header, kind's body, check sum.

use super::append::{AppendWriter, write_fragment_bytes};
use super::snapshot::write_chunk_bytes;
use super::{
    Ack, Answer, AppendHead, Ask, Body, ChunkAck, ChunkHead, Conflict, Entries, Envelope, Fence, Message, PEER_VERSION,
    ReadAsk, ReadReply, SnapshotAsk, SnapshotId, Verdict,
};
use crate::config::{read_member, write_member};
use crate::entry::EntryHeader;
use crate::id::{ClusterId, Incarnation, LogIndex, NodeId, ShardId, Slot, Term};
use crate::wire::{Reader, Writer};

pub(super) const HEADER_BYTES: usize = 48;
pub(super) const CRC_BYTES: usize = 4;

const KIND_PRE_VOTE: u8 = 1;
const KIND_PRE_VOTE_REPLY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_VOTE_REPLY: u8 = 4;
pub(super) const KIND_APPEND: u8 = 5;
pub(super) const KIND_FRAGMENT: u8 = 6;
const KIND_ACK: u8 = 7;
const KIND_FAREWELL: u8 = 8;
const KIND_JOIN: u8 = 9;
const KIND_JOIN_REPLY: u8 = 10;
const KIND_FENCE: u8 = 11;
pub(super) const KIND_CHUNK: u8 = 12;
const KIND_CHUNK_ACK: u8 = 13;
const KIND_TIMEOUT_NOW: u8 = 14;
const KIND_READ_ASK: u8 = 15;
const KIND_READ_REPLY: u8 = 16;
const KIND_SNAPSHOT_ASK: u8 = 17;

/// `rejected` of an acknowledgement that refuses nothing.
const NO_CONFLICT: u64 = u64::MAX;
/// In the word of an acknowledgement's verdict: nothing more is applied.
const STOPPED: u32 = 1 << 8;
const IN_USE: u32 = 1 << 9;
const OUTGROWN: u32 = 1 << 10;
const DISK_BOUND: u32 = 1 << 11;

pub(super) fn write_header(kind: u8, header: &Envelope, w: &mut Writer<'_>) {
    w.u8(PEER_VERSION);
    w.u8(kind);
    w.u8(header.from.slot.0);
    w.u8(header.to.slot.0);
    w.u16(header.shard.0);
    w.u16(0);
    w.u128(header.cluster.0);
    w.u64(header.from.incarnation.0);
    w.u64(header.to.incarnation.0);
    w.u64(header.term.0);
}

/// Adds the check sum; the message's length, or 0 when it did not fit.
pub(super) fn seal(mut w: Writer<'_>) -> usize {
    let crc = crc32c::crc32c(w.written());
    w.u32(crc);
    w.finish().unwrap_or(0)
}

/// Checks sum and version: the message's kind, its header, and a reader of what follows.
pub(super) fn open(bytes: &[u8]) -> Option<(u8, Envelope, Reader<'_>)> {
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut r = Reader::new(content);
    if r.u8()? != PEER_VERSION {
        return None;
    }
    let kind = r.u8()?;
    let (from_slot, to_slot) = (Slot(r.u8()?), Slot(r.u8()?));
    let shard = ShardId(r.u16()?);
    if r.u16()? != 0 {
        return None;
    }
    let cluster = ClusterId(r.u128()?);
    let from = NodeId { slot: from_slot, incarnation: Incarnation(r.u64()?) };
    let to = NodeId { slot: to_slot, incarnation: Incarnation(r.u64()?) };
    let header = Envelope { shard, cluster, from, to, term: Term(r.u64()?) };
    Some((kind, header, r))
}

impl<'a> Message<'a> {
    /// Reads a datagram. `None` for another version, an unknown kind, a wrong length or a wrong check sum.
    pub fn decode(bytes: &'a [u8]) -> Option<Message<'a>> {
        let (kind, header, mut r) = open(bytes)?;
        let body = Body::decode(kind, &mut r)?;
        Some(Message { header, body })
    }

    /// Writes the message into `buffer`. Returns its length, 0 when it does not fit.
    pub fn encode(&self, buffer: &mut [u8]) -> usize {
        let header = &self.header;
        let mut w = Writer::new(buffer);
        let kind = match &self.body {
            Body::Append(head, entries) => {
                let mut append = AppendWriter::new(buffer, header, head);
                append.push_encoded(entries);
                return append.finish();
            }
            Body::Fragment(head, entry, piece) => return write_fragment_bytes(buffer, header, head, entry, piece),
            Body::Chunk(head, piece) => return write_chunk_bytes(buffer, header, head, piece),
            Body::PreVote(_) => KIND_PRE_VOTE,
            Body::PreVoteReply(_) => KIND_PRE_VOTE_REPLY,
            Body::Vote(_) => KIND_VOTE,
            Body::VoteReply(_) => KIND_VOTE_REPLY,
            Body::Ack(_) => KIND_ACK,
            Body::ChunkAck(_) => KIND_CHUNK_ACK,
            Body::SnapshotAsk(_) => KIND_SNAPSHOT_ASK,
            Body::Farewell => KIND_FAREWELL,
            Body::TimeoutNow => KIND_TIMEOUT_NOW,
            Body::ReadAsk(_) => KIND_READ_ASK,
            Body::ReadReply(_) => KIND_READ_REPLY,
            Body::Fence(_) => KIND_FENCE,
            Body::Join(_) => KIND_JOIN,
            Body::JoinReply(_) => KIND_JOIN_REPLY,
        };
        write_header(kind, header, &mut w);
        match &self.body {
            Body::PreVote(ask) | Body::Vote(ask) => {
                w.u64(ask.campaign.0);
                w.u64(ask.last.0);
                w.u64(ask.last_term.0);
                w.u8(u8::from(ask.told));
            }
            Body::PreVoteReply(answer) | Body::VoteReply(answer) => {
                w.u64(answer.campaign.0);
                w.u8(u8::from(answer.granted));
            }
            Body::Ack(ack) => write_ack(ack, &mut w),
            Body::ChunkAck(ack) => {
                ack.id.write(&mut w);
                w.u32(ack.offset);
                w.u32(ack.gap_end);
            }
            Body::SnapshotAsk(ask) => {
                w.u8(ask.to.slot.0);
                w.u64(ask.to.incarnation.0);
                w.u64(ask.least.0);
            }
            Body::ReadAsk(ask) => write_read_ask(ask, &mut w),
            Body::ReadReply(reply) => {
                write_read_ask(&reply.ask, &mut w);
                w.u64(reply.index.0);
            }
            Body::Fence(fence) => {
                w.u64(fence.index.0);
                w.u64(fence.digest);
                w.u32(verdict_code(Some(fence.verdict)));
            }
            Body::Join(member) | Body::JoinReply(Some(member)) => write_member(member, &mut w),
            Body::JoinReply(None) | Body::Farewell | Body::TimeoutNow => {}
            Body::Append(..) | Body::Fragment(..) | Body::Chunk(..) => {}
        }
        seal(w)
    }
}

impl<'a> Body<'a> {
    fn decode(kind: u8, r: &mut Reader<'a>) -> Option<Body<'a>> {
        let body = match kind {
            KIND_PRE_VOTE => Body::PreVote(read_ask(r)?),
            KIND_PRE_VOTE_REPLY => Body::PreVoteReply(read_answer(r)?),
            KIND_VOTE => Body::Vote(read_ask(r)?),
            KIND_VOTE_REPLY => Body::VoteReply(read_answer(r)?),
            KIND_APPEND => {
                let (head, count) = AppendHead::read(r)?;
                return Some(Body::Append(head, Entries::check(r.rest(), count)?));
            }
            KIND_FRAGMENT => {
                let (head, count) = AppendHead::read(r)?;
                let entry = EntryHeader::read(r)?;
                let piece = r.rest();
                let whole = count == 0 && !piece.is_empty();
                return whole.then_some(Body::Fragment(head, entry, piece));
            }
            KIND_CHUNK => {
                let head = ChunkHead::read(r)?;
                return Some(Body::Chunk(head, r.rest()));
            }
            KIND_CHUNK_ACK => {
                Body::ChunkAck(ChunkAck { id: SnapshotId::read(r)?, offset: r.u32()?, gap_end: r.u32()? })
            }
            KIND_SNAPSHOT_ASK => {
                let (slot, incarnation) = (Slot(r.u8()?), Incarnation(r.u64()?));
                Body::SnapshotAsk(SnapshotAsk { to: NodeId { slot, incarnation }, least: LogIndex(r.u64()?) })
            }
            KIND_ACK => Body::Ack(read_ack(r)?),
            KIND_FAREWELL => Body::Farewell,
            KIND_TIMEOUT_NOW => Body::TimeoutNow,
            KIND_READ_ASK => Body::ReadAsk(read_read_ask(r)?),
            KIND_READ_REPLY => Body::ReadReply(ReadReply { ask: read_read_ask(r)?, index: LogIndex(r.u64()?) }),
            KIND_FENCE => {
                Body::Fence(Fence { index: LogIndex(r.u64()?), digest: r.u64()?, verdict: verdict(r.u32()?)?? })
            }
            KIND_JOIN => Body::Join(read_member(r)?),
            KIND_JOIN_REPLY if r.is_empty() => Body::JoinReply(None),
            KIND_JOIN_REPLY => Body::JoinReply(Some(read_member(r)?)),
            _ => return None,
        };
        r.is_empty().then_some(body)
    }
}

fn read_ask(r: &mut Reader<'_>) -> Option<Ask> {
    let (campaign, last, last_term) = (Term(r.u64()?), LogIndex(r.u64()?), Term(r.u64()?));
    Some(Ask { campaign, last, last_term, told: read_bool(r)? })
}

fn write_read_ask(ask: &ReadAsk, w: &mut Writer<'_>) {
    w.u64(ask.boot);
    w.u64(ask.number);
}

fn read_read_ask(r: &mut Reader<'_>) -> Option<ReadAsk> {
    Some(ReadAsk { boot: r.u64()?, number: r.u64()? })
}

fn read_bool(r: &mut Reader<'_>) -> Option<bool> {
    match r.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_answer(r: &mut Reader<'_>) -> Option<Answer> {
    Some(Answer { campaign: Term(r.u64()?), granted: read_bool(r)? })
}

const fn verdict_code(verdict: Option<Verdict>) -> u32 {
    match verdict {
        None => 0,
        Some(Verdict::NoMajority) => 1,
        Some(Verdict::Minority) => 2,
    }
}

fn verdict(code: u32) -> Option<Option<Verdict>> {
    let verdicts = [None, Some(Verdict::NoMajority), Some(Verdict::Minority)];
    verdicts.get(code as usize).copied()
}

fn write_ack(ack: &Ack, w: &mut Writer<'_>) {
    w.u64(ack.matched.0);
    w.u64(ack.verified.0);
    w.u64(ack.round);
    w.u64(ack.credit_bytes);
    w.u64(ack.applied.0);
    w.u64(ack.digest);
    w.u32(ack.offset);
    let flags = [(ack.stopped, STOPPED), (ack.in_use, IN_USE), (ack.outgrown, OUTGROWN), (ack.disk_bound, DISK_BOUND)];
    w.u32(flags.into_iter().filter(|(is_set, _)| *is_set).fold(verdict_code(ack.fenced), |all, (_, flag)| all | flag));
    w.u64(ack.conflict.map_or(NO_CONFLICT, |conflict| conflict.rejected.0));
    w.u64(ack.conflict.map_or(0, |conflict| conflict.hint.0));
    w.u64(ack.conflict.map_or(0, |conflict| conflict.hint_term.0));
    w.u64(ack.mark);
    w.u32(ack.snapshot_bytes);
}

fn read_ack(r: &mut Reader<'_>) -> Option<Ack> {
    let mut ack = Ack {
        matched: LogIndex(r.u64()?),
        verified: LogIndex(r.u64()?),
        round: r.u64()?,
        credit_bytes: r.u64()?,
        applied: LogIndex(r.u64()?),
        digest: r.u64()?,
        offset: r.u32()?,
        fenced: None,
        stopped: false,
        in_use: false,
        outgrown: false,
        disk_bound: false,
        conflict: None,
        snapshot_bytes: 0,
        mark: 0,
    };
    let flags = r.u32()?;
    ack.fenced = verdict(flags & !(STOPPED | IN_USE | OUTGROWN | DISK_BOUND))?;
    (ack.stopped, ack.in_use) = (flags & STOPPED != 0, flags & IN_USE != 0);
    (ack.outgrown, ack.disk_bound) = (flags & OUTGROWN != 0, flags & DISK_BOUND != 0);
    let rejected = r.u64()?;
    let (hint, hint_term) = (LogIndex(r.u64()?), Term(r.u64()?));
    if rejected != NO_CONFLICT {
        ack.conflict = Some(Conflict { rejected: LogIndex(rejected), hint, hint_term });
    }
    ack.mark = r.u64()?;
    ack.snapshot_bytes = r.u32()?;
    Some(ack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;
    use crate::entry::EntryKind;
    use crate::log::Log;
    use crate::message::write_fragment;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = NodeId> {
        (any::<u8>(), any::<u64>()).prop_map(|(slot, incarnation)| NodeId::new(slot, incarnation))
    }

    fn header() -> impl Strategy<Value = Envelope> {
        (any::<u16>(), any::<u128>(), node(), node(), any::<u64>()).prop_map(|(shard, cluster, from, to, term)| {
            Envelope { shard: ShardId(shard), cluster: ClusterId(cluster), from, to, term: Term(term) }
        })
    }

    fn head() -> impl Strategy<Value = AppendHead> {
        (0u64..1 << 62, any::<[u64; 6]>(), any::<u32>(), any::<[bool; 2]>()).prop_map(
            |(prev, n, offset, [ack_wanted, quiet])| {
                let [prev_term, commit, round, floor, age_ns, mark] = n;
                let (prev, commit, floor) = (LogIndex(prev), LogIndex(commit), LogIndex(floor));
                AppendHead {
                    prev,
                    prev_term: Term(prev_term),
                    commit,
                    round,
                    floor,
                    age_ns,
                    mark,
                    offset,
                    ack_wanted,
                    quiet,
                }
            },
        )
    }

    fn plain_body() -> impl Strategy<Value = Body<'static>> {
        let ask = (any::<[u64; 3]>(), any::<bool>()).prop_map(|([campaign, last, last_term], told)| Ask {
            campaign: Term(campaign),
            last: LogIndex(last),
            last_term: Term(last_term),
            told,
        });
        let answer = (any::<u64>(), any::<bool>()).prop_map(|(term, granted)| Answer { campaign: Term(term), granted });
        let conflict = any::<[u64; 3]>().prop_map(|[rejected, hint, hint_term]| Conflict {
            rejected: LogIndex(rejected >> 1),
            hint: LogIndex(hint),
            hint_term: Term(hint_term),
        });
        let id = any::<[u64; 3]>().prop_map(|[index, term, hash]| SnapshotId {
            index: LogIndex(index),
            term: Term(term),
            hash,
        });
        let verdict = proptest::sample::select(vec![None, Some(Verdict::NoMajority), Some(Verdict::Minority)]);
        let flags = (verdict.clone(), any::<[bool; 4]>());
        let ack = (any::<[u64; 7]>(), any::<[u32; 2]>(), flags, proptest::option::of(conflict)).prop_map(
            |(n, [offset, snapshot_bytes], (fenced, [stopped, in_use, outgrown, disk_bound]), conflict)| {
                let [matched, verified, round, credit_bytes, applied, digest, mark] = n;
                let [matched, verified, applied] = [matched, verified, applied].map(LogIndex);
                Ack {
                    matched,
                    verified,
                    offset,
                    round,
                    credit_bytes,
                    applied,
                    digest,
                    fenced,
                    stopped,
                    in_use,
                    outgrown,
                    disk_bound,
                    conflict,
                    snapshot_bytes,
                    mark,
                }
            },
        );
        prop_oneof![
            ask.clone().prop_map(Body::PreVote),
            ask.prop_map(Body::Vote),
            answer.clone().prop_map(Body::PreVoteReply),
            answer.prop_map(Body::VoteReply),
            ack.prop_map(Body::Ack),
            Just(Body::Farewell),
            Just(Body::TimeoutNow),
            (node(), any::<u64>())
                .prop_map(|(to, least)| Body::SnapshotAsk(SnapshotAsk { to, least: LogIndex(least) })),
            any::<[u64; 2]>().prop_map(|[boot, number]| Body::ReadAsk(ReadAsk { boot, number })),
            any::<[u64; 3]>().prop_map(|[boot, number, index]| Body::ReadReply(ReadReply {
                ask: ReadAsk { boot, number },
                index: LogIndex(index)
            })),
            (id.clone(), any::<[u32; 2]>()).prop_map(|(id, [offset, gap_end])| Body::ChunkAck(ChunkAck {
                id,
                offset,
                gap_end
            })),
            (id, any::<[u16; 3]>()).prop_map(|(id, [state, rest, offset])| {
                let (state_bytes, offset) = (u32::from(state), u32::from(offset));
                let total_bytes = state_bytes + offset + u32::from(rest) + 3;
                Body::Chunk(ChunkHead { id, state_bytes, total_bytes, offset }, b"abc")
            }),
            (any::<[u64; 2]>(), verdict).prop_map(|([index, digest], verdict)| Body::Fence(Fence {
                index: LogIndex(index),
                digest,
                verdict: verdict.unwrap_or(Verdict::Minority)
            })),
            (1u8..9).prop_map(|slot| Body::Join(member(slot))),
            proptest::option::of((1u8..9).prop_map(member)).prop_map(Body::JoinReply),
        ]
    }

    fn log_of(bodies: &[Vec<u8>]) -> Log {
        let mut log = Log::default();
        for body in bodies {
            let (body_len, body_crc32c) = (body.len() as u32, crc32c::crc32c(body));
            let entry = EntryHeader { kind: EntryKind::Normal, body_len, body_crc32c, ..EntryHeader::default() };
            log.append(entry, &[body]);
        }
        log
    }

    proptest! {
        #[test]
        fn every_kind_survives_the_wire(header in header(), body in plain_body()) {
            let message = Message { header, body };
            let mut buffer = [0; 256];
            let length = message.encode(&mut buffer);
            prop_assert!(length > 0);
            prop_assert_eq!(Message::decode(&buffer[..length]), Some(message));
            // A buffer one byte short must be noticed, not cut.
            prop_assert_eq!(message.encode(&mut buffer[..length - 1]), 0);
        }

        #[test]
        fn appends_survive_the_wire(
            header in header(), head in head(),
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..6),
        ) {
            let log = log_of(&bodies);
            let mut buffer = [0; 2048];
            let mut append = AppendWriter::new(&mut buffer, &header, &head);
            for at in 0..bodies.len() {
                prop_assert!(append.push(&log, LogIndex(at as u64 + 1)));
            }
            let length = append.finish();
            let message = Message::decode(&buffer[..length]).expect("whole");
            let Body::Append(read, entries) = message.body else { panic!("kind") };
            prop_assert_eq!((message.header, read), (header, head));
            prop_assert_eq!(entries.remaining(), bodies.len());
            for ((entry, body), (at, expected)) in entries.zip(bodies.iter().enumerate()) {
                prop_assert_eq!(Some(&entry), log.header(LogIndex(at as u64 + 1)));
                prop_assert_eq!(body, &expected[..]);
            }
            let mut again = [0; 2048];
            prop_assert_eq!(message.encode(&mut again), length);
            prop_assert_eq!(&again[..length], &buffer[..length]);
        }

        #[test]
        fn fragments_survive_the_wire(header in header(), offset in 0u32..3000, room in 0usize..1500) {
            let body: Vec<u8> = (0..3000).map(|at| at as u8).collect();
            let log = log_of(std::slice::from_ref(&body));
            let head = AppendHead { offset, ..AppendHead::default() };
            let mut buffer = vec![0; room];
            let (length, count) = write_fragment(&mut buffer, &header, &head, &log, LogIndex(1));
            prop_assert_eq!(length == 0, count == 0);
            if length > 0 {
                let message = Message::decode(&buffer[..length]).expect("whole");
                let Body::Fragment(read, entry, piece) = message.body else { panic!("kind") };
                prop_assert_eq!((read, Some(&entry)), (head, log.header(LogIndex(1))));
                prop_assert_eq!(piece, &body[offset as usize..(offset + count) as usize]);
            }
        }

        /// Arbitrary content under a true check sum, so that the fields are reached, never panics, and whatever is
        /// accepted is read the same when written again.
        #[test]
        fn any_bytes_are_read_without_a_panic(
            kind in 0u8..20, mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            prop_assert!(Message::decode(&bytes).is_none());
            for (at, fixed) in [(0, PEER_VERSION), (1, kind), (6, 0), (7, 0)] {
                if let Some(byte) = bytes.get_mut(at) { *byte = fixed; }
            }
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            if let Some(message) = Message::decode(&bytes) {
                let mut again = [0; 512];
                let length = message.encode(&mut again);
                prop_assert_eq!(Message::decode(&again[..length]), Some(message));
            }
        }

        /// A flipped bit anywhere, with UDP's own check sum repaired on the way, is noticed.
        #[test]
        fn a_flipped_bit_is_noticed(header in header(), body in plain_body(), bit in any::<proptest::sample::Index>()) {
            let mut buffer = [0; 256];
            let length = Message { header, body }.encode(&mut buffer);
            let bit = bit.index(length * 8);
            buffer[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Message::decode(&buffer[..length]), None);
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_is_left_for_the_next_message() {
        let log = log_of(&[vec![1; 50], vec![2; 50]]);
        let mut buffer = [0; 48 + 64 + 4 + 114 + 113];
        let mut append = AppendWriter::new(&mut buffer, &Envelope::default(), &AppendHead::default());
        assert!(append.push(&log, LogIndex(1)));
        assert!(!append.push(&log, LogIndex(2)));
        assert!(!append.push(&log, LogIndex(3)));
        assert_eq!(append.finish(), 48 + 64 + 4 + 114);
    }
}
