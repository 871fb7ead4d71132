//! A client's datagram inside a peer datagram, on its way from follower to leader.
//!
//! The framing follows the peer header. A client's datagram can be longer than what is left of a peer datagram; then it
//! goes in two, and `offset` and `total` say which part this is. Clients use their request ids again, so that two halves of
//! one name may be of two datagrams: one that goes in two carries a check sum of the whole at its end.

use super::counters::DropReason;
use super::header::{Flags, Header, MessageType, Rid, Triple};
use super::layout::{FORWARD_BYTES, HEADER_BYTES, PAYLOAD_BYTES, field, forward};
use super::policy::Policy;
use std::net::{Ipv4Addr, SocketAddrV4};

/// What the follower saw: who asked, the client's header, and which part of its payload follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The client to answer.
    pub client: SocketAddrV4,
    /// The client's R2P2 header, always a REQUEST.
    pub header: Header,
    /// Where the part that follows begins in the client's payload, in bytes.
    pub offset: u16,
    /// Length of the client's whole payload, in bytes, and of the check sum behind it where there is one.
    pub total: u16,
    /// Whether the payload is followed by its crc32c, 4 bytes little endian.
    pub checked: bool,
}

/// In the byte of the policy: the payload is followed by its check sum.
const CHECKED: u8 = 0x80;
/// Bytes of the check sum.
pub(crate) const CHECK_BYTES: usize = 4;

impl Forwarded {
    /// The RPC that was forwarded.
    pub const fn triple(&self) -> Triple {
        Triple { client: self.client, rid: self.header.rid }
    }

    /// The framing's bytes, every one of them written; the part of the payload follows.
    pub fn emit(&self) -> [u8; FORWARD_BYTES] {
        use forward::*;
        let mut bytes = [0; FORWARD_BYTES];
        bytes[IP].copy_from_slice(&u32::from(*self.client.ip()).to_le_bytes());
        bytes[PORT].copy_from_slice(&self.client.port().to_le_bytes());
        bytes[RID].copy_from_slice(&self.header.rid.0.to_le_bytes());
        bytes[POLICY] = self.header.policy.to_wire() | if self.checked { CHECKED } else { 0 };
        bytes[FLAGS] = self.header.flags.to_wire();
        bytes[ORDER].copy_from_slice(&self.header.p_order.to_le_bytes());
        bytes[OFFSET].copy_from_slice(&self.offset.to_le_bytes());
        bytes[TOTAL].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    /// Splits what follows the peer header into framing and the part of the client's payload. Allocates nothing.
    ///
    /// # Errors
    /// [`DropReason::ForwardTooShort`] under 16 bytes; [`DropReason::ForwardMalformed`] for a client without address or
    /// port, a policy that is not replicated, a packet that is not a first one, or lengths that do not add up.
    pub fn parse(bytes: &[u8]) -> Result<(Forwarded, &[u8]), DropReason> {
        use forward::*;
        let Some((framing, part)) = bytes.split_first_chunk::<FORWARD_BYTES>() else {
            return Err(DropReason::ForwardTooShort);
        };
        let ip = Ipv4Addr::from(u32::from_le_bytes(field(framing, IP)));
        let port = u16::from_le_bytes(field(framing, PORT));
        let checked = framing[POLICY] & CHECKED != 0;
        let policy = Policy::from_wire(framing[POLICY] & !CHECKED).filter(|policy| policy.is_replicated());
        let flags = Flags::from_wire(framing[FLAGS]);
        let offset = u16::from_le_bytes(field(framing, OFFSET));
        let total = u16::from_le_bytes(field(framing, TOTAL));
        let fits = usize::from(offset) + part.len() <= usize::from(total)
            && usize::from(total) <= PAYLOAD_BYTES - HEADER_BYTES + if checked { CHECK_BYTES } else { 0 }
            && (!checked || usize::from(total) >= CHECK_BYTES);
        match policy {
            Some(policy) if !ip.is_unspecified() && port != 0 && flags.first && fits => {
                let header = Header {
                    kind: MessageType::Request,
                    policy,
                    flags,
                    rid: Rid(u16::from_le_bytes(field(framing, RID))),
                    p_order: u16::from_le_bytes(field(framing, ORDER)),
                };
                Ok((Forwarded { client: SocketAddrV4::new(ip, port), header, offset, total, checked }, part))
            }
            _ => Err(DropReason::ForwardMalformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Forwarded {
        let flags = Flags { first: true, last: false, own_block: true };
        let policy = Policy::ReplicatedRoute;
        let header = Header { kind: MessageType::Request, policy, flags, rid: Rid(0x0102), p_order: 9 };
        Forwarded {
            client: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 7), 33000),
            header,
            offset: 4,
            total: 7,
            checked: false,
        }
    }

    #[test]
    fn literal_bytes_both_ways() {
        let mut bytes = sample().emit().to_vec();
        assert_eq!(bytes, b"\x07\0\0\x0A\xE8\x80\x02\x01\x02\xA0\x09\0\x04\0\x07\0");
        bytes.extend_from_slice(b"xyz");
        assert_eq!(Forwarded::parse(&bytes), Ok((sample(), &b"xyz"[..])));
        bytes.push(b'!');
        assert_eq!(Forwarded::parse(&bytes), Err(DropReason::ForwardMalformed));
        assert_eq!(Forwarded::parse(&bytes[..15]), Err(DropReason::ForwardTooShort));
    }

    #[test]
    fn a_check_sum_is_announced_beside_the_policy() {
        let checked = Forwarded { checked: true, offset: 0, ..sample() };
        assert_eq!(checked.emit()[8], 0x82);
        assert_eq!(Forwarded::parse(&checked.emit()), Ok((checked, &b""[..])));
        let too_short = Forwarded { total: 3, ..checked };
        assert_eq!(Forwarded::parse(&too_short.emit()), Err(DropReason::ForwardMalformed));
    }

    #[test]
    fn what_cannot_be_a_clients_request_is_refused() {
        for (at, value) in [(8, 0), (8, 1), (8, 4), (9, 0x40), (15, 0xFF)] {
            let mut bytes = sample().emit();
            bytes[at] = value;
            assert_eq!(Forwarded::parse(&bytes), Err(DropReason::ForwardMalformed), "byte {at} = {value}");
        }
        let nobody = Forwarded { client: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 33000), ..sample() };
        assert_eq!(Forwarded::parse(&nobody.emit()), Err(DropReason::ForwardMalformed));
        let no_port = Forwarded { client: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), ..sample() };
        assert_eq!(Forwarded::parse(&no_port.emit()), Err(DropReason::ForwardMalformed));
    }
}
