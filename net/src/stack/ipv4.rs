//! IPv4 without fragments and without options: both cost state or time that only an attacker would make use of here.

use super::checksum::Sum;
use crate::offload::Checksum;
use std::net::Ipv4Addr;

/// Bytes of a header without options.
pub(super) const HEADER_BYTES: usize = 20;
/// The one option that is let through, for IGMP: "routers, look at this".
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// Bytes of a header with that option.
pub(super) const ALERT_HEADER_BYTES: usize = HEADER_BYTES + ROUTER_ALERT.len();
/// Hops of what this stack sends to one receiver.
const HOPS: u8 = 64;
/// Numbers of what it carries.
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const UDP: u8 = 17;
/// Bits of the word about fragments: two that must be zero, and, in its first byte, one that is always sent.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1FFF;
const DO_NOT_FRAGMENT: u8 = 0x40;

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
#[inline]
pub(super) fn parse(bytes: &[u8], said: Checksum) -> Result<Header, Defect> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Defect::Malformed)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let header_bytes = usize::from(header[0] & 0x0F) * 4;
    let total_bytes = usize::from(word(2));
    let fits = HEADER_BYTES <= header_bytes && header_bytes <= total_bytes && total_bytes <= bytes.len();
    if header[0] >> 4 != 4 || !fits {
        return Err(Defect::Malformed);
    }
    let carries = match header[9] {
        ICMP => Carries::Icmp,
        IGMP => Carries::Igmp,
        UDP => Carries::Udp,
        _ => Carries::Other,
    };
    let alert = carries == Carries::Igmp && bytes[HEADER_BYTES..header_bytes] == ROUTER_ALERT;
    if header_bytes != HEADER_BYTES && !alert {
        return Err(Defect::Options);
    }
    let good = match said {
        Checksum::Good => true,
        Checksum::Bad => false,
        _ => Sum::default().add(&bytes[..header_bytes]).is_good(),
    };
    if !good {
        return Err(Defect::Checksum);
    }
    if word(6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        return Err(Defect::Fragment);
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
    Ok(Header { src, dst, carries, header_bytes, total_bytes })
}

/// Writes a header in front of a payload that already fills the rest of `bytes`. IGMP gets its option and one hop, as
/// every group of the local link does. `bytes` is longer than the header and no longer than a packet buffer. Where the device
/// `fills` in the checksum, it is left at zero.
#[inline]
pub(super) fn emit(bytes: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, carries: Carries, fills: bool) {
    let alert = carries == Carries::Igmp;
    let (header_bytes, hops) = if alert { (ALERT_HEADER_BYTES, 1) } else { (HEADER_BYTES, HOPS) };
    let [high, low] = (bytes.len() as u16).to_be_bytes(); // as the caller promises
    let Some(header) = bytes.get_mut(..header_bytes) else { return };
    let protocol = match carries {
        Carries::Icmp => ICMP,
        Carries::Igmp => IGMP,
        Carries::Udp => UDP,
        Carries::Other => 0xFF,
    };
    let first = 0x40 | (header_bytes / 4) as u8;
    header[..12].copy_from_slice(&[first, 0, high, low, 0, 0, DO_NOT_FRAGMENT, 0, hops, protocol, 0, 0]);
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    if alert {
        header[HEADER_BYTES..].copy_from_slice(&ROUTER_ALERT);
    }
    if !fills {
        let checksum = Sum::default().add(header).checksum();
        header[10..12].copy_from_slice(&checksum);
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
        use smoltcp::wire::Ipv4Packet;
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
