//! Bad frames for host A from station B, one of each kind, each with the one counter that it raises.

use super::frame::{arp, datagram, echo, ethernet, from_b, ipv4, udp, with_header_byte};
use super::{A, B, C};
use std::net::Ipv4Addr;
use trimaran_net::{MacAddr, StackCounters};

/// A counter of a stack.
pub(crate) type Field = fn(&mut StackCounters) -> &mut u64;

pub(crate) struct Bad {
    pub(crate) what: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) counter: Field,
}

/// A group that nobody of the tests that use the corpus has joined.
pub(crate) const STRANGE_GROUP: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 1);

/// All of them. A stack on 10.0.0.0/24 that has asked nothing hands none up, answers none and remembers nothing.
pub(crate) fn bad_frames() -> Vec<Bad> {
    let mut bad = Vec::new();
    ethernet_and_arp(&mut bad);
    internet(&mut bad);
    transport(&mut bad);
    bad
}

fn add(bad: &mut Vec<Bad>, what: &'static str, frame: Vec<u8>, counter: Field) {
    bad.push(Bad { what, frame, counter });
}

fn ethernet_and_arp(bad: &mut Vec<Bad>) {
    let whole = from_b(0x0800, &datagram());
    for cut in 0..14 {
        add(bad, "a cut header", whole[..cut].to_vec(), |c| &mut c.ethernet_malformed);
    }
    let from = |src| ethernet(MacAddr::derived(A), src, 0x0800, &datagram());
    add(bad, "a group as the source", from(MacAddr([1, 0, 0x5E, 0, 0, 1])), |c| &mut c.ethernet_source);
    add(bad, "everybody as the source", from(MacAddr::BROADCAST), |c| &mut c.ethernet_source);
    add(bad, "nobody as the source", from(MacAddr([0; 6])), |c| &mut c.ethernet_source);
    add(bad, "ourselves as the source", from(MacAddr::derived(A)), |c| &mut c.ethernet_source);
    let other = ethernet(MacAddr::derived(C), MacAddr::derived(B), 0x0800, &datagram());
    add(bad, "another station's", other, |c| &mut c.ethernet_not_ours);
    for ethertype in [0x86DD, 0x8100, 0x0805, 0x0000, 0x05DC] {
        add(bad, "another protocol", from_b(ethertype, &datagram()), |c| &mut c.ethernet_other);
    }

    let whole = from_b(0x0806, &arp(1, B, A));
    for cut in 14..whole.len() {
        add(bad, "a cut question", whole[..cut].to_vec(), |c| &mut c.arp_malformed);
    }
    let mut arp_with = |what, at: usize, value| {
        let mut message = arp(1, B, A);
        message[at] = value;
        add(bad, what, from_b(0x0806, &message), |c| &mut c.arp_malformed);
    };
    arp_with("another operation", 7, 3);
    arp_with("an address of 255 bytes", 4, 255);
    arp_with("a protocol address of 16 bytes", 5, 16);
    arp_with("another link", 1, 6);
    let malformed: Field = |c| &mut c.arp_malformed;
    add(bad, "another's signature", from_b(0x0806, &arp(2, C, A)), malformed);
    add(bad, "a question in another's name", from_b(0x0806, &arp(1, C, A)), malformed);
    add(bad, "a question for another", from_b(0x0806, &arp(1, B, C)), |c| &mut c.arp_not_ours);
    add(bad, "an answer for another", from_b(0x0806, &arp(2, B, C)), |c| &mut c.arp_not_ours);
    add(bad, "an answer nobody asked for", from_b(0x0806, &arp(2, B, A)), |c| &mut c.arp_unsolicited);
    add(bad, "an announcement", from_b(0x0806, &arp(1, B, B)), |c| &mut c.arp_gratuitous);
    add(bad, "an announcement as an answer", from_b(0x0806, &arp(2, B, B)), |c| &mut c.arp_gratuitous);
    let mut thief = arp(1, A, C);
    thief[8..14].copy_from_slice(&MacAddr::derived(B).0);
    add(bad, "our address", from_b(0x0806, &thief), |c| &mut c.arp_conflict);
}

fn internet(bad: &mut Vec<Bad>) {
    let whole = from_b(0x0800, &datagram());
    for cut in 14..whole.len() {
        add(bad, "a cut packet", whole[..cut].to_vec(), |c| &mut c.ipv4_malformed);
    }
    let mut with = |what, at, value, counter| {
        add(bad, what, from_b(0x0800, &with_header_byte(datagram(), at, value)), counter);
    };
    with("version 6", 0, 0x65, |c| &mut c.ipv4_malformed);
    with("a short header", 0, 0x44, |c| &mut c.ipv4_malformed);
    with("no header", 0, 0x40, |c| &mut c.ipv4_malformed);
    with("a header longer than the packet", 0, 0x4F, |c| &mut c.ipv4_malformed);
    with("a length below the header's", 3, 19, |c| &mut c.ipv4_malformed);
    with("a length of nothing", 3, 0, |c| &mut c.ipv4_malformed);
    with("a length above the frame's", 3, 32, |c| &mut c.ipv4_malformed);
    with("a length of 64 KiB", 2, 0xFF, |c| &mut c.ipv4_malformed);
    with("options", 0, 0x46, |c| &mut c.ipv4_options);
    with("a first fragment", 6, 0x20, |c| &mut c.ipv4_fragment);
    with("a middle fragment", 6, 0x21, |c| &mut c.ipv4_fragment);
    with("a last fragment", 7, 7, |c| &mut c.ipv4_fragment);
    with("a far fragment", 6, 0x1F, |c| &mut c.ipv4_fragment);
    with("TCP", 9, 6, |c| &mut c.ipv4_other);
    let mut alert = [&datagram()[..20], &[0x94, 4, 0, 0], &datagram()[20..]].concat();
    alert[0] = 0x46;
    let alert = with_header_byte(alert, 3, 35);
    add(bad, "the option of IGMP before UDP", from_b(0x0800, &alert), |c| &mut c.ipv4_options);
    let mut damaged = datagram();
    damaged[8] ^= 1;
    add(bad, "a wrong checksum", from_b(0x0800, &damaged), |c| &mut c.ipv4_checksum);
    let bad_sources: [[u8; 4]; 8] = [
        [255, 255, 255, 255],
        [10, 0, 0, 255],
        [10, 0, 0, 0],
        [239, 0, 0, 1],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [240, 0, 0, 1],
        A.octets(),
    ];
    for src in bad_sources.map(Ipv4Addr::from) {
        let frame = from_b(0x0800, &ipv4(src, A, 17, &udp(src, A, b"hey")));
        add(bad, "a source that cannot be", frame, |c| &mut c.ipv4_source);
    }
    let not_ours: Field = |c| &mut c.ipv4_not_ours;
    let (all_hosts, link) = (Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 255));
    for dst in [C, STRANGE_GROUP, all_hosts, Ipv4Addr::BROADCAST, link] {
        for to in [MacAddr::derived(A), MacAddr::BROADCAST, MacAddr::group(dst)] {
            let carried = ipv4(B, dst, 17, &udp(B, dst, b"hey"));
            let frame = ethernet(to, MacAddr::derived(B), 0x0800, &carried);
            add(bad, "a destination that is not ours", frame, not_ours);
            let ping = ethernet(to, MacAddr::derived(B), 0x0800, &ipv4(B, dst, 1, &echo(b"all")));
            add(bad, "a ping that is not for us", ping, not_ours);
        }
    }
    let shouted = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0800, &datagram());
    add(bad, "our datagram in a frame to everybody", shouted, not_ours);
    let shouted = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0800, &ipv4(B, A, 1, &echo(b"all")));
    add(bad, "our ping in a frame to everybody", shouted, not_ours);
}

fn transport(bad: &mut Vec<Bad>) {
    let carried = |protocol, payload: &[u8]| from_b(0x0800, &ipv4(B, A, protocol, payload));
    let whole = udp(B, A, b"hey");
    for cut in 0..whole.len() {
        add(bad, "a cut datagram", carried(17, &whole[..cut]), |c| &mut c.udp_malformed);
    }
    let mut with = |what, at: usize, value, counter| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        add(bad, what, carried(17, &bytes), counter);
    };
    with("a damaged datagram", 10, b'z', |c| &mut c.udp_checksum);
    with("another's checksum", 7, whole[7] ^ 1, |c| &mut c.udp_checksum);
    with("a length below the header's", 5, 7, |c| &mut c.udp_malformed);
    with("a length of nothing", 5, 0, |c| &mut c.udp_malformed);
    with("a length above the packet's", 5, 12, |c| &mut c.udp_malformed);
    with("a length of 64 KiB", 4, 0xFF, |c| &mut c.udp_malformed);
    for port in [0, 2] {
        let mut bytes = whole.clone();
        bytes[port..port + 2].fill(0);
        // Without a checksum, so that nothing else is wrong with it.
        bytes[6..8].fill(0);
        add(bad, "no port", carried(17, &bytes), |c| &mut c.udp_malformed);
    }

    let whole = echo(b"hello");
    for cut in 0..8 {
        add(bad, "a cut echo", carried(1, &whole[..cut]), |c| &mut c.icmp_malformed);
    }
    add(bad, "a cut echo", carried(1, &whole[..9]), |c| &mut c.icmp_checksum);
    add(bad, "an error", carried(1, &[3, 1, 0xFC, 0xFE, 0, 0, 0, 0]), |c| &mut c.icmp_ignored);
    add(bad, "an echo's answer", carried(1, &[0, 0, 0xFF, 0xFF, 0, 0, 0, 0]), |c| &mut c.icmp_ignored);
    add(bad, "an echo of another code", carried(1, &[8, 7, 0xF7, 0xF8, 0, 0, 0, 0]), |c| &mut c.icmp_ignored);

    let report = [0x16, 0, 0xFA, 0xFD, 239, 0, 0, 1];
    add(bad, "another's report", carried(2, &report), |c| &mut c.igmp_ignored);
    for cut in 0..8 {
        add(bad, "a cut report", carried(2, &report[..cut]), |c| &mut c.igmp_malformed);
    }
    let damaged = [0x16, 1, 0xFA, 0xFD, 239, 0, 0, 1];
    add(bad, "a damaged report", carried(2, &damaged), |c| &mut c.igmp_malformed);
}
