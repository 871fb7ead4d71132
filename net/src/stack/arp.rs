//! ARP over Ethernet and IPv4: messages as bytes. What is believed of them is decided in [`super`] and `neighbor`.

use super::ethernet::MacAddr;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};
use std::net::Ipv4Addr;

/// Bytes of a message.
pub(super) const MESSAGE_BYTES: usize = 28;

/// Who asks, or who answers whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) is_request: bool,
    pub(super) sender_mac: MacAddr,
    pub(super) sender_ip: Ipv4Addr,
    /// Meaningless in a request.
    pub(super) target_mac: MacAddr,
    pub(super) target_ip: Ipv4Addr,
}

/// Reads a message; `None` where it is short, about other protocols, or neither request nor reply.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let repr = ArpRepr::parse(&ArpPacket::new_checked(bytes).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = repr
    else {
        return None;
    };
    let is_request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return None,
    };
    Some(Message {
        is_request,
        sender_mac: MacAddr(source_hardware_addr.0),
        sender_ip: source_protocol_addr,
        target_mac: MacAddr(target_hardware_addr.0),
        target_ip: target_protocol_addr,
    })
}

/// Writes a message into the first [`MESSAGE_BYTES`] of `bytes`, which are there.
pub(super) fn emit(bytes: &mut [u8], message: Message) {
    let Some(bytes) = bytes.get_mut(..MESSAGE_BYTES) else { return };
    let repr = ArpRepr::EthernetIpv4 {
        operation: if message.is_request { ArpOperation::Request } else { ArpOperation::Reply },
        source_hardware_addr: EthernetAddress(message.sender_mac.0),
        source_protocol_addr: message.sender_ip,
        target_hardware_addr: EthernetAddress(message.target_mac.0),
        target_protocol_addr: message.target_ip,
    };
    repr.emit(&mut ArpPacket::new_unchecked(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; MESSAGE_BYTES] = [
        0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
        2, 0, 10, 0, 0, 1, 10, 0, 0, 1, // who asks
        0, 0, 0, 0, 0, 0, 10, 0, 0, 2, // for whom
    ];

    #[test]
    fn a_request_and_its_reply_byte_by_byte() {
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let request = Message {
            is_request: true,
            sender_mac: MacAddr::derived(one),
            sender_ip: one,
            target_mac: MacAddr([0; 6]),
            target_ip: two,
        };
        assert_eq!(parse(&REQUEST), Some(request));
        let mut written = [0xAA; MESSAGE_BYTES];
        emit(&mut written, request);
        assert_eq!(written, REQUEST);
        let reply = Message {
            is_request: false,
            sender_mac: MacAddr::derived(two),
            sender_ip: two,
            target_mac: MacAddr::derived(one),
            target_ip: one,
        };
        emit(&mut written, reply);
        assert_eq!(written[6..18], [0, 2, 2, 0, 10, 0, 0, 2, 10, 0, 0, 2]);
        assert_eq!(parse(&written), Some(reply));
    }

    #[test]
    fn what_is_no_message() {
        for cut in 0..MESSAGE_BYTES {
            assert_eq!(parse(&REQUEST[..cut]), None, "{cut} bytes");
        }
        // Hardware, protocol, length of either, operation.
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert_eq!(parse(&bytes), None, "byte {at}");
        }
    }
}
