//! The 8-byte header: parse and emit.

use super::counters::DropReason;
use super::layout::{HEADER_BYTES, MAGIC, PAYLOAD_BYTES, field, header};
use super::policy::Policy;
use std::fmt;
use std::net::SocketAddrV4;

/// A request's id, chosen by the client and unique among its pending calls on one port. It wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rid(pub u16);

impl fmt::Display for Rid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What identifies one RPC on the wire: the client's address, its port and its request id.
///
/// Not an identity for exactly-once: a restarted reference client uses the same triples again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Triple {
    /// Address and port the client sends from, and where the reply goes.
    pub client: SocketAddrV4,
    /// The client's request id.
    pub rid: Rid,
}

/// The high nibble of the header's third byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// Client to server.
    Request = 0,
    /// Server to client.
    Response = 1,
    /// Server to router: one request has been answered.
    Feedback = 2,
    /// Server to client: send the rest of a multi-packet request.
    Ack = 3,
    /// Server to client: refused.
    Drop = 4,
    /// The published code's Raft request, never spoken by us.
    RaftReq = 5,
    /// The published code's Raft reply, never spoken by us.
    RaftRep = 6,
    /// The published code's Raft message, never spoken by us.
    RaftMsg = 7,
    /// A Raft message between our nodes, on the peer port.
    Peer = 8,
    /// A client's request on its way from follower to leader, on the peer port.
    Forward = 9,
}

impl MessageType {
    /// The type of a wire nibble, `None` for the unassigned 10 to 15.
    pub const fn from_wire(nibble: u8) -> Option<MessageType> {
        Some(match nibble {
            0 => MessageType::Request,
            1 => MessageType::Response,
            2 => MessageType::Feedback,
            3 => MessageType::Ack,
            4 => MessageType::Drop,
            5 => MessageType::RaftReq,
            6 => MessageType::RaftRep,
            7 => MessageType::RaftMsg,
            8 => MessageType::Peer,
            9 => MessageType::Forward,
            _ => return None,
        })
    }

    /// The wire nibble, 0 to 9.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }
}

/// The header's flags. Bits without a meaning are sent as 0 and ignored on receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// 0x80: the message's first packet, whose `p_order` is the packet count.
    pub first: bool,
    /// 0x40: the message's last packet.
    pub last: bool,
    /// 0x20: the message begins with a block of our own clients. Only looked at in the first packet.
    pub own_block: bool,
}

impl Flags {
    /// First and last: a message of one packet.
    pub const SINGLE: Flags = Flags { first: true, last: true, own_block: false };

    /// The flags of a wire byte.
    pub const fn from_wire(byte: u8) -> Flags {
        Flags { first: byte & 0x80 != 0, last: byte & 0x40 != 0, own_block: byte & 0x20 != 0 }
    }

    /// The wire byte.
    pub const fn to_wire(self) -> u8 {
        (self.first as u8) << 7 | (self.last as u8) << 6 | (self.own_block as u8) << 5
    }

    /// Whether the packet is a whole message.
    pub const fn is_single(self) -> bool {
        self.first && self.last
    }
}

/// A parsed R2P2 header. In a FEEDBACK everything but the type is what the reference left in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the datagram is.
    pub kind: MessageType,
    /// Who may execute it.
    pub policy: Policy,
    /// Place in the message.
    pub flags: Flags,
    /// The client's request id.
    pub rid: Rid,
    /// In the first packet the message's packet count, in the others their index from 1.
    pub p_order: u16,
}

impl Header {
    /// Header of a message of one packet.
    pub const fn single(kind: MessageType, policy: Policy, rid: Rid) -> Header {
        Header { kind, policy, flags: Flags::SINGLE, rid, p_order: 1 }
    }

    /// Splits a datagram into header and payload. Costs a few loads; allocates nothing.
    ///
    /// # Errors
    /// The [`DropReason`] of a datagram that is not R2P2: too short, oversized (over 1472 bytes), wrong magic, wrong
    /// header size (not for FEEDBACK, whose header the reference leaves uninitialised), unknown type, unknown policy.
    /// The order of packets within a message is checked by [`Requests`](super::Requests) and
    /// [`Replies`](super::Replies).
    pub fn parse(datagram: &[u8]) -> Result<(Header, &[u8]), DropReason> {
        let Some((bytes, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DropReason::TooShort);
        };
        if datagram.len() > PAYLOAD_BYTES {
            return Err(DropReason::Oversized);
        }
        if bytes[header::MAGIC] != MAGIC {
            return Err(DropReason::WrongMagic);
        }
        let type_policy = bytes[header::TYPE_POLICY];
        let kind = MessageType::from_wire(type_policy >> 4);
        if kind != Some(MessageType::Feedback) && usize::from(bytes[header::HEADER_SIZE]) != HEADER_BYTES {
            return Err(DropReason::WrongHeaderSize);
        }
        let kind = kind.ok_or(DropReason::UnknownType)?;
        let policy = Policy::from_wire(type_policy & 0x0F).ok_or(DropReason::UnknownPolicy)?;
        let header = Header {
            kind,
            policy,
            flags: Flags::from_wire(bytes[header::FLAGS]),
            rid: Rid(u16::from_be_bytes(field(bytes, header::RID))),
            p_order: u16::from_be_bytes(field(bytes, header::ORDER)),
        };
        Ok((header, payload))
    }

    /// The header's bytes, every one of them written.
    pub const fn emit(&self) -> [u8; HEADER_BYTES] {
        let [rid_high, rid_low] = self.rid.0.to_be_bytes();
        let [order_high, order_low] = self.p_order.to_be_bytes();
        let type_policy = self.kind.to_wire() << 4 | self.policy.to_wire();
        [MAGIC, HEADER_BYTES as u8, type_policy, self.flags.to_wire(), rid_high, rid_low, order_high, order_low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQ0: [u8; 8] = [0xCC, 8, 0x02, 0x80, 0x12, 0x34, 0x00, 0x04];

    #[test]
    fn literal_bytes_both_ways() {
        let mut datagram = REQ0.to_vec();
        datagram.extend_from_slice(b"payload");
        let (header, payload) = Header::parse(&datagram).unwrap();
        assert_eq!(header.kind, MessageType::Request);
        assert_eq!(header.policy, Policy::ReplicatedRoute);
        assert_eq!(header.flags, Flags { first: true, last: false, own_block: false });
        assert_eq!((header.rid, header.p_order), (Rid(0x1234), 4));
        assert_eq!(header.rid.to_string(), "4660");
        assert_eq!(payload, b"payload");
        assert_eq!(header.emit(), REQ0);
    }

    #[test]
    fn each_wrong_byte_has_its_own_reason() {
        let with = |at: usize, value: u8| {
            let mut bytes = REQ0;
            bytes[at] = value;
            Header::parse(&bytes).map(|(header, _)| header)
        };
        assert_eq!(Header::parse(&REQ0[..7]).unwrap_err(), DropReason::TooShort);
        assert_eq!(with(0, 0xCD), Err(DropReason::WrongMagic));
        assert_eq!(with(1, 9), Err(DropReason::WrongHeaderSize));
        assert_eq!(with(2, 0xA0), Err(DropReason::UnknownType));
        assert_eq!(with(2, 0x04), Err(DropReason::UnknownPolicy));
        assert_eq!(Header::parse(&[0; 64]).unwrap_err(), DropReason::WrongMagic);
    }

    /// A FEEDBACK of the reference carries garbage where the header size would be.
    #[test]
    fn feedback_may_have_any_header_size() {
        let (header, _) = Header::parse(&[0xCC, 0xEA, 0x20, 0x0E, 0xFE, 0x7F, 0, 0]).unwrap();
        assert_eq!(header.kind, MessageType::Feedback);
    }

    #[test]
    fn the_largest_datagram_is_1472_bytes() {
        let mut datagram = vec![0; PAYLOAD_BYTES + 1];
        datagram[..8].copy_from_slice(&REQ0);
        assert_eq!(Header::parse(&datagram).unwrap_err(), DropReason::Oversized);
        assert!(Header::parse(&datagram[..PAYLOAD_BYTES]).is_ok());
    }

    #[test]
    fn reserved_flags_are_ignored_and_never_sent() {
        let mut bytes = REQ0;
        bytes[3] = 0x9F;
        let (header, _) = Header::parse(&bytes).unwrap();
        assert_eq!(header.emit()[3], 0x80);
    }
}
