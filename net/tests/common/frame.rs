//! Frames made by hand, without the crate's own code, and what must be true of every frame that a stack sends.

use super::{A, B};
use std::net::Ipv4Addr;
use trimaran_net::MacAddr;

/// The complement sum of big-endian words, as checksums use it.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub(crate) fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

pub(crate) fn from_b(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(MacAddr::derived(A), MacAddr::derived(B), ethertype, payload)
}

pub(crate) fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

/// `header` with another byte in its IPv4 header and a checksum that agrees.
pub(crate) fn with_header_byte(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet[10..12].fill(0);
    let header_bytes = usize::from(packet[0] & 15) * 4;
    let sum = checksum(&[&packet[..header_bytes.min(packet.len())]]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

pub(crate) fn udp(src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut header = [0x23, 0x28, 0x1F, 0x40, length[0], length[1], 0, 0];
    let sum = checksum(&[&src.octets(), &dst.octets(), &[0, 17], &length, &header, payload]);
    header[6..8].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

pub(crate) fn datagram() -> Vec<u8> {
    ipv4(B, A, 17, &udp(B, A, b"hey"))
}

pub(crate) fn echo(payload: &[u8]) -> Vec<u8> {
    let header = [8, 0, 0, 0, 1, 2, 3, 4];
    let sum = checksum(&[&header, payload]);
    [&[8, 0, sum[0], sum[1], 1, 2, 3, 4], payload].concat()
}

pub(crate) fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let (from, to) = (MacAddr::derived(sender).0, MacAddr::derived(target).0);
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &from, &sender.octets(), &to, &target.octets()].concat()
}

/// What holds of every frame that the stack of station `mac` and host `ip` sends: it is whole, sums up and names its sender.
#[track_caller]
pub(crate) fn check_sent(frame: &[u8], mac: MacAddr, ip: Ipv4Addr) {
    assert_eq!(frame[6..12], mac.0, "another's address: {frame:02x?}");
    let (dst, rest) = (&frame[..6], &frame[14..]);
    if frame[12..14] == [8, 6] {
        assert_eq!((rest.len(), &rest[..7]), (28, &[0, 1, 8, 0, 6, 4, 0][..]), "{frame:02x?}");
        assert_eq!((&rest[8..14], &rest[14..18]), (&mac.0[..], &ip.octets()[..]), "{frame:02x?}");
        match rest[7] {
            1 => assert_eq!((dst, &rest[18..24]), (&[0xFF; 6][..], &[0; 6][..]), "{frame:02x?}"),
            2 => assert_eq!(dst, &rest[18..24], "{frame:02x?}"),
            other => panic!("operation {other}"),
        }
        return;
    }
    assert_eq!(frame[12..14], [8, 0], "{frame:02x?}");
    let header_bytes = if rest[9] == 2 { 24 } else { 20 };
    let (header, carried) = rest.split_at(header_bytes);
    let total = (rest.len() as u16).to_be_bytes();
    assert_eq!((header[0], &header[2..4]), (0x40 + header_bytes as u8 / 4, &total[..]), "{frame:02x?}");
    assert_eq!((&header[6..8], checksum(&[header])), (&[0x40, 0][..], [0, 0]), "{frame:02x?}");
    assert_eq!((&header[12..16], header[8]), (&ip.octets()[..], if rest[9] == 2 { 1 } else { 64 }), "{frame:02x?}");
    let length = (carried.len() as u16).to_be_bytes();
    match header[9] {
        17 => {
            let pseudo = [&header[12..20], &[0, 17], &length[..]].concat();
            assert_eq!(carried[4..6], length, "{frame:02x?}");
            assert!(carried[6..8] != [0, 0] && checksum(&[&pseudo, carried]) == [0, 0], "{frame:02x?}");
        }
        1 => assert_eq!((carried[0], checksum(&[carried])), (0, [0, 0]), "{frame:02x?}"),
        2 => {
            assert_eq!((carried.len(), checksum(&[carried]), &header[20..]), (8, [0, 0], &[0x94, 4, 0, 0][..]));
            assert!(carried[0] == 0x16 && dst == MacAddr::group(group_in(carried)).0 || carried[0] == 0x17);
        }
        other => panic!("protocol {other}"),
    }
}

fn group_in(igmp: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(igmp[4], igmp[5], igmp[6], igmp[7])
}

/// The frames of a capture with nanosecond timestamps, as an analyser reads it: (nanoseconds, frame).
pub(crate) fn pcap_frames(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xA1B2_3C4D, 1));
    let (mut at, mut frames) = (24, Vec::new());
    while at < bytes.len() {
        let nanos = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
        let length = word(at + 8) as usize;
        assert_eq!(word(at + 12) as usize, length, "cut");
        frames.push((nanos, bytes[at + 16..at + 16 + length].to_vec()));
        at += 16 + length;
    }
    frames
}
