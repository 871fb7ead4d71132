//! Messages as packets: segmentation, and the three datagrams of fixed content (ACK, DROP, FEEDBACK).

use super::counters::DropReason;
use super::header::{Flags, Header, MessageType, Rid, Triple};
use super::layout::{
    ACK_BODY, DROP_BODY, FEEDBACK_BYTES, HEADER_BYTES, PAYLOAD_BYTES, REQUEST_FIRST_BYTES, feedback, field,
};
use super::policy::Policy;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

/// The most packets one message may have towards a reference endpoint, which aborts at 255.
pub const PACKETS_MAX: u16 = 254;

/// The smallest datagram that segmentation works with, in bytes: IPv4's guaranteed 576 less its headers.
const PAYLOAD_BYTES_MIN: usize = 548;

/// A message that needs more packets than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of {message_bytes} bytes, at most {limit_bytes} fit the packet limit")]
pub struct TooLarge {
    /// Length of the message.
    pub message_bytes: usize,
    /// The longest message of this kind.
    pub limit_bytes: usize,
}

/// Cuts messages into packets for one path MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmenter {
    /// Message bytes in a full packet.
    fragment_bytes: usize,
    packets_max: u16,
}

impl Default for Segmenter {
    fn default() -> Self {
        Segmenter::new(PAYLOAD_BYTES, PACKETS_MAX)
    }
}

impl Segmenter {
    /// For datagrams of `payload_bytes` (header included; kept within 548 and 1472) and messages of at most
    /// `packets_max` packets (at least 1; over [`PACKETS_MAX`] only between our own endpoints).
    pub const fn new(payload_bytes: usize, packets_max: u16) -> Segmenter {
        let payload_bytes = if payload_bytes < PAYLOAD_BYTES_MIN {
            PAYLOAD_BYTES_MIN
        } else if payload_bytes > PAYLOAD_BYTES {
            PAYLOAD_BYTES
        } else {
            payload_bytes
        };
        let packets_max = if packets_max == 0 { 1 } else { packets_max };
        Segmenter { fragment_bytes: payload_bytes - HEADER_BYTES, packets_max }
    }

    /// Message bytes in a full packet, 1464 on Ethernet.
    pub const fn fragment_bytes(&self) -> usize {
        self.fragment_bytes
    }

    /// A request as the reference sends it: where it needs more than one packet, the first carries 14 bytes.
    ///
    /// # Errors
    /// [`TooLarge`] over the packet limit.
    pub fn request(&self, message_bytes: usize) -> Result<Segments, TooLarge> {
        self.segments(message_bytes, REQUEST_FIRST_BYTES)
    }

    /// A request of our own clients (block included): every packet but the last is full.
    ///
    /// # Errors
    /// [`TooLarge`] over the packet limit.
    pub fn own_request(&self, message_bytes: usize) -> Result<Segments, TooLarge> {
        self.segments(message_bytes, self.fragment_bytes)
    }

    /// A reply: every packet but the last is full.
    ///
    /// # Errors
    /// [`TooLarge`] over the packet limit.
    pub fn reply(&self, message_bytes: usize) -> Result<Segments, TooLarge> {
        self.segments(message_bytes, self.fragment_bytes)
    }

    fn segments(&self, message_bytes: usize, first_bytes: usize) -> Result<Segments, TooLarge> {
        let rest_bytes = self.fragment_bytes;
        if message_bytes <= rest_bytes {
            return Ok(Segments { message_bytes, first_bytes: message_bytes, rest_bytes, packets: 1 });
        }
        let rest_packets = (message_bytes - first_bytes).div_ceil(rest_bytes);
        match u16::try_from(rest_packets + 1) {
            Ok(packets) if packets <= self.packets_max => {
                Ok(Segments { message_bytes, first_bytes, rest_bytes, packets })
            }
            _ => {
                let multi = first_bytes + usize::from(self.packets_max - 1) * rest_bytes;
                Err(TooLarge { message_bytes, limit_bytes: multi.max(rest_bytes) })
            }
        }
    }
}

/// How one message is cut. Packets are numbered from 0 and must be sent in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    message_bytes: usize,
    first_bytes: usize,
    rest_bytes: usize,
    packets: u16,
}

impl Segments {
    /// How many packets, at least 1.
    pub const fn packets(&self) -> u16 {
        self.packets
    }

    /// The message bytes of packet `index`; empty past the end.
    pub fn range(&self, index: u16) -> Range<usize> {
        let start_of = |index: u16| match index {
            0 => 0,
            _ => (self.first_bytes + usize::from(index - 1) * self.rest_bytes).min(self.message_bytes),
        };
        if index >= self.packets {
            return self.message_bytes..self.message_bytes;
        }
        start_of(index)..start_of(index.saturating_add(1))
    }

    /// What packet `index` carries of a message that is the one of `parts` after the other; nothing where they are shorter.
    pub(crate) fn part_of<'a>(&self, index: u16, parts: [&'a [u8]; 2]) -> [&'a [u8]; 2] {
        if self.packets == 1 {
            return parts;
        }
        let Range { start, end } = self.range(index);
        let [head, body] = parts;
        let cut = |part: &'a [u8], at: usize| {
            part.get(start.saturating_sub(at)..end.saturating_sub(at).min(part.len())).unwrap_or_default()
        };
        [cut(head, 0), cut(body, head.len())]
    }

    /// The header of packet `index`, from the type, policy, rid and own-block flag of `message`. The block flag goes on
    /// the first packet only.
    pub fn header(&self, message: &Header, index: u16) -> Header {
        let first = index == 0;
        let flags = Flags { first, last: index + 1 >= self.packets, own_block: first && message.flags.own_block };
        Header { flags, p_order: if first { self.packets } else { index }, ..*message }
    }

    /// Header and byte range of each packet from `from` on, in sending order.
    pub fn packets_from(&self, message: Header, from: u16) -> impl Iterator<Item = (Header, Range<usize>)> + use<> {
        let segments = *self;
        (from..segments.packets).map(move |index| (segments.header(&message, index), segments.range(index)))
    }
}

/// The header that a RESPONSE to `rid` has before segmentation.
pub const fn response(rid: Rid, own_block: bool) -> Header {
    let flags = Flags { first: true, last: true, own_block };
    Header { kind: MessageType::Response, policy: Policy::FixedRoute, flags, rid, p_order: 1 }
}

/// The ACK that asks for the rest of a multi-packet request. Sent exactly once: a second makes a reference client abort.
pub fn ack(rid: Rid) -> [u8; HEADER_BYTES + 3] {
    control(Header::single(MessageType::Ack, Policy::FixedRoute, rid), ACK_BODY)
}

/// The DROP that refuses a request. Never after the request was appended or forwarded.
pub fn drop_packet(rid: Rid) -> [u8; HEADER_BYTES + 4] {
    control(Header::single(MessageType::Drop, Policy::FixedRoute, rid), DROP_BODY)
}

fn control<const BODY: usize, const SIZE: usize>(header: Header, body: &[u8; BODY]) -> [u8; SIZE] {
    let mut datagram = [0; SIZE];
    let (head, tail) = datagram.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header.emit());
    tail.copy_from_slice(body);
    datagram
}

/// Tells the router that one request has been answered: a token for its queue of the sending server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// The request that was answered.
    pub answered: Triple,
}

impl Feedback {
    /// The whole datagram. The header's rid and order are filled in where the reference leaves memory unwritten.
    pub fn emit(&self) -> [u8; FEEDBACK_BYTES] {
        let header = Header::single(MessageType::Feedback, Policy::LbRoute, self.answered.rid);
        let mut body = [0; FEEDBACK_BYTES - HEADER_BYTES];
        body[feedback::RID].copy_from_slice(&self.answered.rid.0.to_be_bytes());
        body[feedback::PORT].copy_from_slice(&self.answered.client.port().to_be_bytes());
        body[feedback::IP].copy_from_slice(&self.answered.client.ip().octets());
        control(header, &body)
    }

    /// Reads the payload after a header of type FEEDBACK.
    ///
    /// # Errors
    /// [`DropReason::FeedbackLength`] unless it is 8 bytes long.
    pub fn parse(payload: &[u8]) -> Result<Feedback, DropReason> {
        let body: &[u8; FEEDBACK_BYTES - HEADER_BYTES] = payload.try_into().map_err(|_| DropReason::FeedbackLength)?;
        let ip = Ipv4Addr::from(field::<4, _>(body, feedback::IP));
        let port = u16::from_be_bytes(field(body, feedback::PORT));
        let rid = Rid(u16::from_be_bytes(field(body, feedback::RID)));
        Ok(Feedback { answered: Triple { client: SocketAddrV4::new(ip, port), rid } })
    }
}

/// Why a FEEDBACK is of no use where no router listens.
pub(super) fn stray_feedback(payload: &[u8]) -> DropReason {
    Feedback::parse(payload).err().unwrap_or(DropReason::FeedbackUnexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_packets_at_the_boundaries() {
        let packets = |bytes| Segmenter::default().request(bytes).map(|segments| segments.packets());
        let expected = [(0, 1), (14, 1), (1464, 1), (1465, 2), (1478, 2), (1479, 3), (370_406, 254)];
        for (bytes, count) in expected {
            assert_eq!(packets(bytes), Ok(count), "{bytes} bytes");
        }
        assert_eq!(packets(370_407), Err(TooLarge { message_bytes: 370_407, limit_bytes: 370_406 }));
        assert!(packets(usize::MAX).is_err());
    }

    #[test]
    fn reply_packets_at_the_boundaries() {
        let packets = |bytes| Segmenter::default().reply(bytes).map(|segments| segments.packets());
        for (bytes, count) in [(0, 1), (1464, 1), (1465, 2), (2928, 2), (2929, 3), (371_856, 254)] {
            assert_eq!(packets(bytes), Ok(count), "{bytes} bytes");
        }
        assert_eq!(packets(371_857), Err(TooLarge { message_bytes: 371_857, limit_bytes: 371_856 }));
    }

    #[test]
    fn payload_follows_the_mtu() {
        let segmenter = Segmenter::new(1400 - 28, PACKETS_MAX);
        assert_eq!(segmenter.fragment_bytes(), 1364);
        assert_eq!(segmenter.request(1365).unwrap().packets(), 2);
        assert_eq!(segmenter.request(1365).unwrap().range(1), 14..1365);
        // Values outside what R2P2 and IPv4 allow are brought back inside, not divided by zero.
        assert_eq!(Segmenter::new(0, 0).fragment_bytes(), 540);
        assert_eq!(Segmenter::new(9000, 0).fragment_bytes(), 1464);
        assert_eq!(Segmenter::new(1472, 0).request(2000).unwrap_err().limit_bytes, 1464);
    }

    #[test]
    fn the_block_flag_rides_on_the_first_packet_only() {
        let message = response(Rid(7), true);
        let segments = Segmenter::default().reply(3000).unwrap();
        let headers: Vec<_> = segments.packets_from(message, 0).map(|(header, _)| header).collect();
        assert_eq!(headers.iter().map(|h| h.flags.to_wire()).collect::<Vec<_>>(), [0xA0, 0x00, 0x40]);
        assert_eq!(headers.iter().map(|h| h.p_order).collect::<Vec<_>>(), [3, 1, 2]);
    }

    #[test]
    fn control_packets_byte_for_byte() {
        assert_eq!(&ack(Rid(0x0102)), b"\xCC\x08\x31\xC0\x01\x02\x00\x01ACK");
        assert_eq!(&drop_packet(Rid(0xFFFE)), b"\xCC\x08\x41\xC0\xFF\xFE\x00\x01DROP");
    }

    #[test]
    fn feedback_byte_for_byte() {
        let answered = Triple { client: SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, 2), 33000), rid: Rid(1) };
        let datagram = Feedback { answered }.emit();
        assert_eq!(&datagram, b"\xCC\x08\x20\xC0\x00\x01\x00\x01\x00\x01\x80\xE8\x0A\x42\x00\x02");
        assert_eq!(Feedback::parse(&datagram[8..]), Ok(Feedback { answered }));
        assert_eq!(Feedback::parse(&datagram[9..]), Err(DropReason::FeedbackLength));
    }
}
