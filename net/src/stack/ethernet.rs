//! Ethernet II: addresses, the 14 bytes in front, and nothing else. VLAN tags are another protocol's business.

use smoltcp::wire::EthernetAddress;
use std::fmt;
use std::net::Ipv4Addr;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 14;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations of the link.
    pub const BROADCAST: MacAddr = MacAddr([0xFF; 6]);

    /// A locally administered address that shows `ip`, as captures and simulated links use it.
    pub const fn derived(ip: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = ip.octets();
        MacAddr([0x02, 0, a, b, c, d])
    }

    /// The address that [`MacAddr::derived`] was given, `None` where this is none of its results.
    pub const fn derived_from(self) -> Option<Ipv4Addr> {
        match self.0 {
            [0x02, 0, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
            _ => None,
        }
    }

    /// Where frames for an IPv4 group go; 32 groups share each.
    pub const fn group(group: Ipv4Addr) -> MacAddr {
        let [_, b, c, d] = group.octets();
        MacAddr([0x01, 0x00, 0x5E, b & 0x7F, c, d])
    }

    /// One station's, neither a group's nor everybody's nor all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&EthernetAddress(self.0), f)
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Arp,
    Ipv4,
    Other,
}

/// The header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) carries: Carries,
}

/// What the two bytes before the payload say.
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];

/// Reads the header; `None` where the frame is shorter.
#[inline]
pub(super) fn parse(frame: &[u8]) -> Option<Header> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, carries @ ..] = *frame.first_chunk::<HEADER_BYTES>()?;
    let carries = match carries {
        ARP => Carries::Arp,
        IPV4 => Carries::Ipv4,
        _ => Carries::Other,
    };
    Some(Header { dst: MacAddr([a, b, c, d, e, f]), src: MacAddr([g, h, i, j, k, l]), carries })
}

/// Writes the header at the start of `frame`, which is longer.
#[inline]
pub(super) fn emit(frame: &mut [u8], header: Header) {
    let Some(bytes) = frame.first_chunk_mut::<HEADER_BYTES>() else { return };
    bytes[..6].copy_from_slice(&header.dst.0);
    bytes[6..12].copy_from_slice(&header.src.0);
    bytes[12..].copy_from_slice(match header.carries {
        Carries::Arp => &ARP,
        Carries::Ipv4 => &IPV4,
        Carries::Other => &[0; 2],
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_byte_by_byte() {
        let bytes = [2, 0, 10, 0, 0, 2, 2, 0, 10, 0, 0, 1, 0x08, 0x06, 0xAA];
        let header = parse(&bytes).unwrap();
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(header, Header { dst: MacAddr::derived(two), src: MacAddr::derived(one), carries: Carries::Arp });
        let mut written = [0xAA; 15];
        emit(&mut written, header);
        assert_eq!(written, bytes);
        assert_eq!(parse(&bytes[..13]), None);
        assert_eq!(parse(&[0; 14]).unwrap().carries, Carries::Other);
        assert_eq!(parse(&[[0; 12].as_slice(), &[0x81, 0]].concat()).unwrap().carries, Carries::Other);
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::derived(Ipv4Addr::LOCALHOST).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast() && !MacAddr([0; 6]).is_unicast());
        let group = MacAddr::group(Ipv4Addr::new(239, 129, 2, 3));
        assert_eq!(group, MacAddr([0x01, 0x00, 0x5E, 0x01, 2, 3]));
        assert!(!group.is_unicast());
        assert_eq!(MacAddr::derived(Ipv4Addr::LOCALHOST).derived_from(), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(group.derived_from(), None);
        assert_eq!(MacAddr([0, 1, 2, 0xAB, 4, 5]).to_string(), "00-01-02-ab-04-05");
    }
}
