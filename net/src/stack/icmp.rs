//! ICMP: an echo request becomes its answer, in place. Everything else is ignored: what a datagram protocol needs to
//! know it learns from its own deadlines, and errors by ICMP can be forged by anybody.

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet};

/// Bytes of the header.
const HEADER_BYTES: usize = 8;

/// What a message is, or why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    EchoRequest,
    Ignored,
    Malformed,
    Checksum,
}

/// Reads the type and checks length and checksum.
pub(super) fn parse(bytes: &[u8]) -> Message {
    if bytes.len() < HEADER_BYTES {
        return Message::Malformed;
    }
    let Ok(packet) = Icmpv4Packet::new_checked(bytes) else { return Message::Malformed };
    if !packet.verify_checksum() {
        return Message::Checksum;
    }
    match (packet.msg_type(), packet.msg_code()) {
        (Icmpv4Message::EchoRequest, 0) => Message::EchoRequest,
        _ => Message::Ignored,
    }
}

/// Turns an echo request into the answer to it.
pub(super) fn answer(bytes: &mut [u8]) {
    let Ok(mut packet) = Icmpv4Packet::new_checked(bytes) else { return };
    packet.set_msg_type(Icmpv4Message::EchoReply);
    packet.fill_checksum();
}

#[cfg(test)]
mod tests {
    use super::*;

    // 0x0800 + 0x1234 + 0x0001 + 0x6869 = 0x829E.
    const ECHO: [u8; 10] = [8, 0, 0x7D, 0x61, 0x12, 0x34, 0, 1, b'h', b'i'];

    #[test]
    fn an_echo_byte_by_byte() {
        assert_eq!(parse(&ECHO), Message::EchoRequest);
        let mut bytes = ECHO;
        answer(&mut bytes);
        assert_eq!(bytes, [0, 0, 0x85, 0x61, 0x12, 0x34, 0, 1, b'h', b'i']);
        assert_eq!(parse(&bytes), Message::Ignored);
    }

    #[test]
    fn what_is_no_echo() {
        for cut in 0..8 {
            assert_eq!(parse(&ECHO[..cut]), Message::Malformed, "{cut} bytes");
        }
        assert_eq!(parse(&ECHO[..8]), Message::Checksum);
        assert_eq!(parse(&[3, 1, 0xFC, 0xFE, 0, 0, 0, 0]), Message::Ignored, "host unreachable");
    }
}
