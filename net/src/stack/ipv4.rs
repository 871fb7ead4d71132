//! IPv4 without fragments and without options: both cost state or time that only an attacker would make use of here.

use crate::offload::Checksum;
use smoltcp::wire::{IpProtocol, Ipv4Packet};
use std::net::Ipv4Addr;

/// Bytes of a header without options.
pub(super) const HEADER_BYTES: usize = 20;
/// The one option that is let through, for IGMP: "routers, look at this".
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// Bytes of a header with that option.
pub(super) const ALERT_HEADER_BYTES: usize = HEADER_BYTES + ROUTER_ALERT.len();
/// Hops of what this stack sends to one receiver.
const HOPS: u8 = 64;

/// Which protocol's payload it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Icmp,
    Igmp,
    Udp,
    Other,
}

/// The header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) carries: Carries,
    pub(super) header_bytes: usize,
    /// Header and payload; what follows is padding of the link.
    pub(super) total_bytes: usize,
}

/// Why a packet is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    Malformed,
    Options,
    Checksum,
    Fragment,
}

/// Reads the header and checks lengths, checksum unless the device did, and that it is whole and plain.
pub(super) fn parse(bytes: &[u8], said: Checksum) -> Result<Header, Defect> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Defect::Malformed)?;
    let header_bytes = usize::from(packet.header_len());
    if packet.version() != 4 || header_bytes < HEADER_BYTES {
        return Err(Defect::Malformed);
    }
    let carries = match packet.next_header() {
        IpProtocol::Icmp => Carries::Icmp,
        IpProtocol::Igmp => Carries::Igmp,
        IpProtocol::Udp => Carries::Udp,
        _ => Carries::Other,
    };
    let alert = carries == Carries::Igmp && bytes[HEADER_BYTES..header_bytes] == ROUTER_ALERT;
    if header_bytes != HEADER_BYTES && !alert {
        return Err(Defect::Options);
    }
    let good = match said {
        Checksum::Good => true,
        Checksum::Bad => false,
        _ => packet.verify_checksum(),
    };
    if !good {
        return Err(Defect::Checksum);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Defect::Fragment);
    }
    Ok(Header {
        src: packet.src_addr(),
        dst: packet.dst_addr(),
        carries,
        header_bytes,
        total_bytes: usize::from(packet.total_len()),
    })
}

/// Writes a header in front of a payload that already fills the rest of `bytes`. IGMP gets its option and one hop, as
/// every group of the local link does. `bytes` is longer than the header and no longer than a packet buffer. Where the device
/// `fills` in the checksum, it is left at zero.
pub(super) fn emit(bytes: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, carries: Carries, fills: bool) {
    let alert = carries == Carries::Igmp;
    let header_bytes = if alert { ALERT_HEADER_BYTES } else { HEADER_BYTES };
    let total_bytes = bytes.len();
    if total_bytes < header_bytes {
        return;
    }
    if alert {
        bytes[HEADER_BYTES..ALERT_HEADER_BYTES].copy_from_slice(&ROUTER_ALERT);
    }
    let mut packet = Ipv4Packet::new_unchecked(bytes);
    packet.set_version(4);
    packet.set_header_len(header_bytes as u8);
    packet.set_dscp(0);
    packet.set_ecn(0);
    packet.set_total_len(total_bytes as u16);
    packet.set_ident(0);
    packet.clear_flags();
    packet.set_more_frags(false);
    packet.set_frag_offset(0);
    packet.set_dont_frag(true);
    packet.set_hop_limit(if alert { 1 } else { HOPS });
    packet.set_next_header(match carries {
        Carries::Icmp => IpProtocol::Icmp,
        Carries::Igmp => IpProtocol::Igmp,
        Carries::Udp => IpProtocol::Udp,
        Carries::Other => IpProtocol::Unknown(0xFF),
    });
    packet.set_src_addr(src);
    packet.set_dst_addr(dst);
    if fills {
        packet.set_checksum(0);
    } else {
        packet.fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    /// The checksum, worked out by hand: the other words add up to 0xD933, whose complement is 0x26CC.
    const UDP: [u8; 31] = [
        0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x26, 0xCC, 10, 0, 0, 1, 10, 0, 0, 2, // header
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ];

    fn parse(bytes: &[u8]) -> Result<Header, Defect> {
        super::parse(bytes, Checksum::Unknown)
    }

    /// `bytes` with the checksum that its header asks for.
    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        Ipv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        bytes
    }

    fn changed(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = UDP.to_vec();
        bytes[at] = value;
        bytes
    }

    #[test]
    fn a_header_byte_by_byte() {
        let header = Header { src: ONE, dst: TWO, carries: Carries::Udp, header_bytes: 20, total_bytes: 31 };
        assert_eq!(parse(&UDP), Ok(header));
        assert_eq!(parse(&[&UDP[..], &[0; 15]].concat()), Ok(header), "padding of the link");
        let mut written = UDP;
        written[..20].fill(0xAA);
        emit(&mut written, ONE, TWO, Carries::Udp, false);
        assert_eq!(written, UDP);
    }

    #[test]
    fn the_option_of_igmp_byte_by_byte() {
        let group = Ipv4Addr::new(239, 0, 0, 1);
        let mut written = [0; 32];
        emit(&mut written, ONE, group, Carries::Igmp, false);
        // 0x4600 + 0x0020 + 0x4000 + 0x0102 + 0x0A00 + 0x0001 + 0xEF00 + 0x0001 + 0x9404 = 0x21428 -> 0x142A.
        let expected = [0x46, 0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0xEB, 0xD5, 10, 0, 0, 1, 239, 0, 0, 1, 0x94, 4, 0, 0];
        assert_eq!(written[..24], expected);
        let header = parse(&written).unwrap();
        assert_eq!((header.carries, header.header_bytes), (Carries::Igmp, 24));
        written[20] = 7; // record route
        assert_eq!(parse(&summed(written.to_vec())), Err(Defect::Options));
    }

    #[test]
    fn every_defect() {
        for cut in 0..UDP.len() {
            assert_eq!(parse(&UDP[..cut]), Err(Defect::Malformed), "{cut} bytes");
        }
        assert_eq!(parse(&summed(changed(0, 0x65))), Err(Defect::Malformed), "version 6");
        assert_eq!(parse(&summed(changed(0, 0x44))), Err(Defect::Malformed), "a header of 16 bytes");
        assert_eq!(parse(&summed(changed(3, 19))), Err(Defect::Malformed), "shorter than its header");
        assert_eq!(parse(&summed(changed(0, 0x46))), Err(Defect::Options));
        assert_eq!(parse(&changed(8, 63)), Err(Defect::Checksum));
        assert!(super::parse(&changed(8, 63), Checksum::Good).is_ok(), "the device has checked it");
        assert_eq!(super::parse(&UDP, Checksum::Bad), Err(Defect::Checksum), "the device knows better");
        assert_eq!(parse(&summed(changed(6, 0x20))), Err(Defect::Fragment), "the first");
        assert_eq!(parse(&summed(changed(7, 1))), Err(Defect::Fragment), "the last");
    }
}
