//! Messages into datagrams: an append's range of the log is cut to the transport's size here.

use crate::entry::ENTRY_HEADER_BYTES;
use crate::id::{LogIndex, Member};
use crate::log::Log;
use crate::machine::Outgoing;
use crate::message::{
    AppendHead, AppendWriter, Body, Envelope, MESSAGE_OVERHEAD_BYTES, Message, write_chunk, write_fragment,
};
use crate::transport::Transport;

/// Datagrams that left, and those that found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Handed to the transport.
    pub datagrams: u64,
    /// Found no room; the message, or the rest of it, is lost.
    pub lost: u64,
}

/// Sends one message, an append in as many datagrams as it takes. The first that finds no room ends it: what follows
/// would only be refused by the receiver.
pub fn transmit<T: Transport>(
    transport: &mut T,
    to: &Member,
    header: &Envelope,
    outgoing: Outgoing,
    log: &Log,
) -> Sent {
    let body = match outgoing {
        Outgoing::Append(head, last) => return send_append(transport, to, header, head, last, log),
        Outgoing::PreVote(ask) => Body::PreVote(ask),
        Outgoing::PreVoteReply(answer) => Body::PreVoteReply(answer),
        Outgoing::Vote(ask) => Body::Vote(ask),
        Outgoing::VoteReply(answer) => Body::VoteReply(answer),
        Outgoing::Ack(ack) => Body::Ack(ack),
        Outgoing::Farewell => Body::Farewell,
        Outgoing::TimeoutNow => Body::TimeoutNow,
        Outgoing::ReadAsk(ask) => Body::ReadAsk(ask),
        Outgoing::ReadReply(reply) => Body::ReadReply(reply),
        Outgoing::Chunk(head, count) => {
            let left = transport.send(to, &mut |buffer| write_chunk(buffer, header, &head, count, log));
            return Sent { datagrams: u64::from(left), lost: u64::from(!left) };
        }
        Outgoing::ChunkAck(ack) => Body::ChunkAck(ack),
        Outgoing::SnapshotAsk(ask) => Body::SnapshotAsk(ask),
        Outgoing::Fence(fence) => Body::Fence(fence),
        Outgoing::Join(member) => Body::Join(member),
        Outgoing::JoinReply(leader) => Body::JoinReply(leader),
    };
    let message = Message { header: *header, body };
    let left = transport.send(to, &mut |buffer| message.encode(buffer));
    Sent { datagrams: u64::from(left), lost: u64::from(!left) }
}

fn send_append<T: Transport>(
    transport: &mut T,
    to: &Member,
    header: &Envelope,
    mut head: AppendHead,
    last: LogIndex,
    log: &Log,
) -> Sent {
    let capacity = transport.payload_bytes().saturating_sub(MESSAGE_OVERHEAD_BYTES);
    let mut sent = Sent::default();
    loop {
        let first = head.prev.next();
        let large = |entry: &crate::entry::EntryHeader| ENTRY_HEADER_BYTES + entry.body_len as usize > capacity;
        let fragmented = first <= last && log.header(first).is_some_and(large);
        // Where this datagram leaves off: the last whole entry in it, and the offset in the next.
        let (mut reached, mut offset) = (head.prev, head.offset);
        let left = transport.send(to, &mut |buffer| {
            if fragmented {
                let (length, count) = write_fragment(buffer, header, &head, log, first);
                offset = head.offset + count;
                return length;
            }
            head.offset = 0;
            let mut append = AppendWriter::new(buffer, header, &head);
            while reached < last && append.push(log, reached.next()) {
                reached = reached.next();
            }
            append.finish()
        });
        if !left {
            sent.lost += 1;
            return sent;
        }
        sent.datagrams += 1;
        if fragmented && log.header(first).is_some_and(|entry| offset >= entry.body_len) {
            (reached, offset) = (first, 0);
        }
        let stuck = reached == head.prev && (!fragmented || offset == head.offset);
        if reached >= last || stuck {
            return sent;
        }
        (head.prev, head.offset) = (reached, if fragmented { offset } else { 0 });
        head.prev_term = log.term_at(head.prev).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;
    use crate::entry::EntryHeader;
    use crate::id::Term;
    use crate::message::{ChunkHead, Entries};
    use std::net::SocketAddrV4;
    use std::task::{Context, Poll};

    struct Sink {
        payload_bytes: usize,
        room: usize,
        sent: Vec<Vec<u8>>,
    }

    impl Transport for Sink {
        fn payload_bytes(&self) -> usize {
            self.payload_bytes
        }

        fn send(&mut self, _to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
            if self.sent.len() == self.room {
                return false;
            }
            let mut buffer = vec![0; self.payload_bytes];
            let length = write(&mut buffer);
            buffer.truncate(length);
            self.sent.push(buffer);
            true
        }

        fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
            Poll::Pending
        }
    }

    fn log_of(lengths: &[usize]) -> Log {
        let mut log = Log::default();
        for (at, length) in lengths.iter().enumerate() {
            let body: Vec<u8> = (0..*length).map(|byte| (at + byte) as u8).collect();
            let (body_len, body_crc32c) = (body.len() as u32, crc32c::crc32c(&body));
            log.append(EntryHeader { body_len, body_crc32c, term: Term(1), ..EntryHeader::default() }, &[&body]);
        }
        log
    }

    fn sent(log: &Log, offset: u32, room: usize) -> Sink {
        let mut sink = Sink { payload_bytes: 400, room, sent: Vec::new() };
        let head = AppendHead { offset, ..AppendHead::default() };
        transmit(&mut sink, &member(1), &Envelope::default(), Outgoing::Append(head, log.last()), log);
        sink
    }

    /// Small entries share datagrams, large ones are cut, and read in order they are the log again.
    #[test]
    fn a_range_arrives_as_it_was() {
        let log = log_of(&[0, 10, 20, 1000, 5, 236, 237, 1, 600]);
        let mut copy = Log::default();
        for datagram in sent(&log, 0, 100).sent {
            let message = Message::decode(&datagram).expect("whole");
            match message.body {
                Body::Append(head, entries) => {
                    assert_eq!(head.prev, copy.last());
                    for (entry, body) in entries {
                        copy.append(entry, &[body]);
                    }
                }
                Body::Fragment(head, entry, piece) => {
                    assert_eq!((head.prev, head.offset), (copy.last(), copy.assembled_bytes(Term(1))));
                    copy.assemble(Term(1), entry, head.offset, piece);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(copy, log);
    }

    #[test]
    fn what_the_peer_holds_of_an_entry_is_not_sent_again() {
        let log = log_of(&[1000, 3]);
        let sink = sent(&log, 900, 100);
        assert_eq!(sink.sent.len(), 2);
        let Some(Body::Fragment(head, _, piece)) = Message::decode(&sink.sent[0]).map(|m| m.body) else { panic!() };
        assert_eq!((head.offset, piece.len()), (900, 100));
    }

    #[test]
    fn what_left_and_what_found_no_room_is_counted() {
        let log = log_of(&[1000, 1000]);
        let count = |outgoing, room| {
            let mut sink = Sink { payload_bytes: 400, room, sent: Vec::new() };
            transmit(&mut sink, &member(1), &Envelope::default(), outgoing, &log)
        };
        for outgoing in [Outgoing::Farewell, Outgoing::Chunk(ChunkHead::default(), 0)] {
            assert_eq!(count(outgoing, 1), Sent { datagrams: 1, lost: 0 }, "{outgoing:?}");
            assert_eq!(count(outgoing, 0), Sent { datagrams: 0, lost: 1 }, "{outgoing:?}");
        }
        let all = Outgoing::Append(AppendHead::default(), log.last());
        assert_eq!(count(all, 3), Sent { datagrams: 3, lost: 1 }, "what would have followed is not tried");
    }

    #[test]
    fn no_room_ends_the_range() {
        let log = log_of(&[1000, 1000]);
        assert_eq!(sent(&log, 0, 3).sent.len(), 3);
    }

    #[test]
    fn what_no_datagram_has_room_for_is_not_tried_for_ever() {
        let log = log_of(&[1000]);
        let payload_bytes = MESSAGE_OVERHEAD_BYTES + ENTRY_HEADER_BYTES;
        let mut sink = Sink { payload_bytes, room: 100, sent: Vec::new() };
        transmit(
            &mut sink,
            &member(1),
            &Envelope::default(),
            Outgoing::Append(AppendHead::default(), LogIndex(1)),
            &log,
        );
        assert_eq!(sink.sent.len(), 1);
    }

    #[test]
    fn a_heartbeat_is_one_datagram_without_entries() {
        let sink = sent(&Log::default(), 0, 100);
        assert_eq!(sink.sent.len(), 1);
        let Some(Body::Append(_, entries)) = Message::decode(&sink.sent[0]).map(|m| m.body) else { panic!() };
        assert_eq!(entries, Entries::default());
    }
}
