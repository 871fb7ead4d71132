//! UDP: ports, length, checksum over the pseudo header.

use super::checksum::Sum;
use crate::offload::Checksum;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 8;

/// The header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    /// Header and payload. What IPv4 carries beyond that is nobody's.
    pub(super) total_bytes: usize,
}

/// Why a datagram is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    Malformed,
    Checksum,
}

/// IPv4's number for UDP.
const PROTOCOL: u8 = 17;

/// Reads the header and checks its length and the checksum, if the sender made one and the device has not checked it.
#[inline]
pub(super) fn parse(bytes: &[u8], src: Ipv4Addr, dst: Ipv4Addr, said: Checksum) -> Result<Header, Defect> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Defect::Malformed)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (src_port, dst_port, length) = (word(0), word(2), word(4));
    let total_bytes = usize::from(length);
    let datagram = bytes.get(..total_bytes).filter(|datagram| datagram.len() >= HEADER_BYTES);
    let datagram = datagram.ok_or(Defect::Malformed)?;
    if src_port == 0 || dst_port == 0 {
        return Err(Defect::Malformed);
    }
    let good = match said {
        Checksum::Good => true,
        Checksum::Bad => false,
        _ => word(6) == 0 || Sum::pseudo_header(src, dst, PROTOCOL, length).add(datagram).is_good(),
    };
    if !good {
        return Err(Defect::Checksum);
    }
    Ok(Header { src_port, dst_port, total_bytes })
}

/// Writes the header in front of a payload that fills the rest of `bytes`, which is longer than the header and no
/// longer than a packet buffer. Where the device `fills` in the checksum, it is left the sum of the pseudo header.
#[inline]
pub(super) fn emit(bytes: &mut [u8], src: SocketAddrV4, dst: SocketAddrV4, fills: bool) {
    let length = bytes.len() as u16; // as the caller promises
    let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..2].copy_from_slice(&src.port().to_be_bytes());
    header[2..4].copy_from_slice(&dst.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6..].fill(0);
    let pseudo_header = Sum::pseudo_header(*src.ip(), *dst.ip(), PROTOCOL, length);
    let checksum = if fills {
        pseudo_header.sum()
    } else {
        // Zero would mean that there is none; the other zero of ones' complement is as good.
        let checksum = pseudo_header.add(bytes).checksum();
        if checksum == [0; 2] { [0xFF; 2] } else { checksum }
    };
    bytes[6..HEADER_BYTES].copy_from_slice(&checksum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    // 0x0A00 + 0x0001 + 0x0A00 + 0x0002 + 17 + 11 + 0x1F40 + 0x2328 + 11 + 0x6865 + 0x7900 = 0x137F7 -> 0x37F8.
    const HEY: [u8; 11] = [0x1F, 0x40, 0x23, 0x28, 0, 11, 0xC8, 0x07, b'h', b'e', b'y'];

    #[test]
    fn a_datagram_byte_by_byte() {
        let mut written = HEY;
        written[..8].fill(0xAA);
        emit(&mut written, SocketAddrV4::new(ONE, 8000), SocketAddrV4::new(TWO, 9000), false);
        assert_eq!(written, HEY);
        // What is left of the sum above: 0x0A00 + 0x0001 + 0x0A00 + 0x0002 + 17 + 11.
        emit(&mut written, SocketAddrV4::new(ONE, 8000), SocketAddrV4::new(TWO, 9000), true);
        assert_eq!(written[6..8], [0x14, 0x1F], "the device adds the rest");
        let carries = Sum::pseudo_header(Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST, PROTOCOL, 0xFFFF);
        assert_eq!(carries.sum(), [0, 17], "carries twice");
        let header = Header { src_port: 8000, dst_port: 9000, total_bytes: 11 };
        assert_eq!(parse(&HEY, ONE, TWO, Checksum::Unknown), Ok(header));
        assert_eq!(
            parse(&[&HEY[..], &[9; 4]].concat(), ONE, TWO, Checksum::Unknown),
            Ok(header),
            "bytes that are nobody's"
        );
    }

    #[test]
    fn every_defect() {
        for cut in 0..HEY.len() {
            assert_eq!(parse(&HEY[..cut], ONE, TWO, Checksum::Unknown), Err(Defect::Malformed), "{cut} bytes");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = HEY;
            bytes[at] = value;
            bytes
        };
        assert_eq!(
            parse(&changed(5, 7), ONE, TWO, Checksum::Unknown),
            Err(Defect::Malformed),
            "shorter than its header"
        );
        assert_eq!(parse(&changed(10, b'x'), ONE, TWO, Checksum::Unknown), Err(Defect::Checksum));
        assert_eq!(parse(&HEY, ONE, ONE, Checksum::Unknown), Err(Defect::Checksum), "addresses count too");
        assert_eq!(parse(&HEY, ONE, TWO, Checksum::Bad), Err(Defect::Checksum), "the device knows better");
        assert!(parse(&changed(6, 0x55), ONE, TWO, Checksum::Good).is_ok(), "left unfinished on this machine");
        let mut unsummed = changed(6, 0);
        unsummed[7] = 0;
        assert!(parse(&unsummed, ONE, ONE, Checksum::Unknown).is_ok());
        unsummed[..2].fill(0);
        assert_eq!(parse(&unsummed, ONE, TWO, Checksum::Unknown), Err(Defect::Malformed), "no port to answer to");
    }
}
