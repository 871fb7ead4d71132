//! The stack for raw frames, fed by hand: which counter each bad frame raises, by exactly one; that floods stay
//! bounded; that no bytes panic.

mod common;

use common::{A, B, C, addr, at, packet};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use trimaran_net::pool;
use trimaran_net::{MacAddr, Packet, Priority, Stack, StackConfig, StackCounters};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 1);

/// Host A on 10.0.0.0/24.
fn stack() -> Stack {
    Stack::new(StackConfig::new(A, 24), MacAddr::derived(A), 1_514)
}

/// The complement sum of big-endian words, as checksums use it.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

fn from_b(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(MacAddr::derived(A), MacAddr::derived(B), ethertype, payload)
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

/// `header` with another byte in its IPv4 header and a checksum that agrees.
fn with_header_byte(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet[10..12].fill(0);
    let header_bytes = usize::from(packet[0] & 15) * 4;
    let sum = checksum(&[&packet[..header_bytes.min(packet.len())]]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut header = [0x23, 0x28, 0x1F, 0x40, length[0], length[1], 0, 0];
    let sum = checksum(&[&src.octets(), &dst.octets(), &[0, 17], &length, &header, payload]);
    header[6..8].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

fn datagram() -> Vec<u8> {
    ipv4(B, A, 17, &udp(B, A, b"hey"))
}

fn echo(payload: &[u8]) -> Vec<u8> {
    let header = [8, 0, 0, 0, 1, 2, 3, 4];
    let sum = checksum(&[&header, payload]);
    [&[8, 0, sum[0], sum[1], 1, 2, 3, 4], payload].concat()
}

fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let (from, to) = (MacAddr::derived(sender).0, MacAddr::derived(target).0);
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &from, &sender.octets(), &to, &target.octets()].concat()
}

fn feed(stack: &mut Stack, frame: &[u8]) -> Option<Packet> {
    stack.receive(at(1_000_000), packet(frame))
}

/// Feeds one frame that is no datagram for us; exactly the named counter rises by one, and nothing is sent.
#[track_caller]
fn dropped(what: &str, frame: &[u8], counter: fn(&mut StackCounters) -> &mut u64) {
    let mut stack = stack();
    assert!(feed(&mut stack, frame).is_none(), "{what} was handed up");
    let mut expected = StackCounters::default();
    *counter(&mut expected) += 1;
    assert_eq!(stack.counters(), expected, "{what}");
    assert!(stack.frames().is_empty(), "{what} was answered");
    assert_eq!(stack.neighbors(), (0, 0, 0), "{what} left something behind");
}

#[test]
fn a_datagram_is_handed_up_without_its_headers_and_padding() {
    let mut stack = stack();
    let frame = [from_b(0x0800, &datagram()), vec![0xEE; 15]].concat();
    let packet = feed(&mut stack, &frame).unwrap();
    assert_eq!((packet.data(), packet.src(), packet.dst()), (&b"hey"[..], addr(B, 9_000), addr(A, 8_000)));
    assert_eq!(stack.counters(), StackCounters { rx_datagrams: 1, ..StackCounters::default() });
}

#[test]
fn a_sent_datagram_is_the_frame_that_a_receiver_takes() {
    let mut stack = stack();
    assert!(stack.pin(B, Some(MacAddr::derived(B))));
    let mut sent = packet(b"hey");
    sent.set_src(addr(Ipv4Addr::UNSPECIFIED, 9_000));
    sent.set_dst(addr(B, 8_000));
    stack.send(at(0), sent);
    let frame = stack.frames().pop().unwrap();
    let expected = ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0800, &ipv4(A, B, 17, &udp(A, B, b"hey")));
    assert_eq!(frame.data(), expected);
}

#[test]
fn bad_ethernet() {
    let whole = from_b(0x0800, &datagram());
    for cut in 0..14 {
        dropped("a cut header", &whole[..cut], |c| &mut c.ethernet_malformed);
    }
    let from = |src| ethernet(MacAddr::derived(A), src, 0x0800, &datagram());
    dropped("a group as the source", &from(MacAddr([1, 0, 0x5E, 0, 0, 1])), |c| &mut c.ethernet_source);
    dropped("everybody as the source", &from(MacAddr::BROADCAST), |c| &mut c.ethernet_source);
    dropped("ourselves as the source", &from(MacAddr::derived(A)), |c| &mut c.ethernet_source);
    let other = ethernet(MacAddr::derived(C), MacAddr::derived(B), 0x0800, &datagram());
    dropped("another station's", &other, |c| &mut c.ethernet_not_ours);
    dropped("IPv6", &from_b(0x86DD, &datagram()), |c| &mut c.ethernet_other);
    dropped("a VLAN tag", &from_b(0x8100, &datagram()), |c| &mut c.ethernet_other);
}

#[test]
fn bad_arp() {
    let whole = from_b(0x0806, &arp(1, B, A));
    for cut in 14..whole.len() {
        dropped("a cut question", &whole[..cut], |c| &mut c.arp_malformed);
    }
    let mut rarp = arp(1, B, A);
    rarp[7] = 3;
    dropped("another operation", &from_b(0x0806, &rarp), |c| &mut c.arp_malformed);
    dropped("another's signature", &from_b(0x0806, &arp(2, C, A)), |c| &mut c.arp_malformed);
    dropped("a question for another", &from_b(0x0806, &arp(1, B, C)), |c| &mut c.arp_not_ours);
    dropped("an answer nobody asked for", &from_b(0x0806, &arp(2, B, A)), |c| &mut c.arp_unsolicited);
    dropped("an announcement", &from_b(0x0806, &arp(1, B, B)), |c| &mut c.arp_gratuitous);
    dropped("an announcement as an answer", &from_b(0x0806, &arp(2, B, B)), |c| &mut c.arp_gratuitous);
    let mut thief = arp(1, A, C);
    thief[8..14].copy_from_slice(&MacAddr::derived(B).0);
    dropped("our address", &from_b(0x0806, &thief), |c| &mut c.arp_conflict);
}

#[test]
fn bad_ipv4() {
    let whole = from_b(0x0800, &datagram());
    for cut in 14..whole.len() {
        dropped("a cut packet", &whole[..cut], |c| &mut c.ipv4_malformed);
    }
    let with = |at, value| from_b(0x0800, &with_header_byte(datagram(), at, value));
    dropped("version 6", &with(0, 0x65), |c| &mut c.ipv4_malformed);
    dropped("a short header", &with(0, 0x44), |c| &mut c.ipv4_malformed);
    dropped("a length below the header's", &with(3, 19), |c| &mut c.ipv4_malformed);
    dropped("options", &with(0, 0x46), |c| &mut c.ipv4_options);
    dropped("a first fragment", &with(6, 0x20), |c| &mut c.ipv4_fragment);
    dropped("a last fragment", &with(7, 7), |c| &mut c.ipv4_fragment);
    dropped("TCP", &with(9, 6), |c| &mut c.ipv4_other);
    let mut damaged = datagram();
    damaged[8] ^= 1;
    dropped("a wrong checksum", &from_b(0x0800, &damaged), |c| &mut c.ipv4_checksum);
    let bad: [[u8; 4]; 8] = [
        [255, 255, 255, 255],
        [10, 0, 0, 255],
        [10, 0, 0, 0],
        [239, 0, 0, 1],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [240, 0, 0, 1],
        A.octets(),
    ];
    for src in bad.map(Ipv4Addr::from) {
        let frame = from_b(0x0800, &ipv4(src, A, 17, &udp(src, A, b"hey")));
        dropped("a source that cannot be", &frame, |c| &mut c.ipv4_source);
    }
    for dst in [C, GROUP, Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255)] {
        let frame = from_b(0x0800, &ipv4(B, dst, 17, &udp(B, dst, b"hey")));
        dropped("a destination that is not ours", &frame, |c| &mut c.ipv4_not_ours);
    }
    let shouted = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0800, &datagram());
    dropped("our datagram in a frame to everybody", &shouted, |c| &mut c.ipv4_not_ours);
}

#[test]
fn bad_udp_icmp_and_igmp() {
    let carried = |protocol, payload: &[u8]| from_b(0x0800, &ipv4(B, A, protocol, payload));
    let whole = udp(B, A, b"hey");
    for cut in 0..whole.len() {
        dropped("a cut datagram", &carried(17, &whole[..cut]), |c| &mut c.udp_malformed);
    }
    let mut bytes = whole.clone();
    bytes[10] ^= 1;
    dropped("a damaged datagram", &carried(17, &bytes), |c| &mut c.udp_checksum);
    let mut bytes = whole.clone();
    bytes[5] = 7;
    dropped("a length below the header's", &carried(17, &bytes), |c| &mut c.udp_malformed);
    bytes = whole;
    bytes[..2].fill(0);
    dropped("no source port", &carried(17, &bytes), |c| &mut c.udp_malformed);

    let whole = echo(b"hello");
    for cut in 0..8 {
        dropped("a cut echo", &carried(1, &whole[..cut]), |c| &mut c.icmp_malformed);
    }
    dropped("a cut echo", &carried(1, &whole[..9]), |c| &mut c.icmp_checksum);
    dropped("an error", &carried(1, &[3, 1, 0xFC, 0xFE, 0, 0, 0, 0]), |c| &mut c.icmp_ignored);

    let report = [0x16, 0, 0xFA, 0xFD, 239, 0, 0, 1];
    dropped("another's report", &carried(2, &report), |c| &mut c.igmp_ignored);
    for cut in 0..8 {
        dropped("a cut report", &carried(2, &report[..cut]), |c| &mut c.igmp_malformed);
    }
    dropped("a damaged report", &carried(2, &[0x16, 1, 0xFA, 0xFD, 239, 0, 0, 1]), |c| &mut c.igmp_malformed);
}

#[test]
fn a_ping_and_a_question_are_answered_where_they_came_from() {
    let mut stack = stack();
    assert!(feed(&mut stack, &from_b(0x0800, &ipv4(B, A, 1, &echo(b"hello")))).is_none());
    let mut reply = echo(b"hello");
    reply[0] = 0;
    reply[2..4].fill(0);
    let sum = checksum(&[&reply]);
    reply[2..4].copy_from_slice(&sum);
    let expected = ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0800, &ipv4(A, B, 1, &reply));
    assert_eq!(stack.frames().pop().unwrap().data(), expected);

    let question = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0806, &arp(1, B, A));
    assert!(feed(&mut stack, &[&question[..], &[0; 18]].concat()).is_none());
    let expected = ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0806, &arp(2, A, B));
    assert_eq!(stack.frames().pop().unwrap().data(), expected);
    assert_eq!(stack.neighbors().0, 0, "a question teaches nothing");
}

#[test]
fn a_group_is_heard_only_while_it_is_joined() {
    let mut stack = stack();
    let to_group =
        ethernet(MacAddr::group(GROUP), MacAddr::derived(B), 0x0800, &ipv4(B, GROUP, 17, &udp(B, GROUP, b"all")));
    assert!(feed(&mut stack, &to_group).is_none());
    assert!(stack.join(GROUP));
    assert!(!stack.join(A), "no group");
    assert_eq!(feed(&mut stack, &to_group).unwrap().dst(), addr(GROUP, 8_000));
    stack.advance(at(0));
    let report = stack.frames().pop().unwrap();
    assert_eq!(report.data()[..6], MacAddr::group(GROUP).0);
    assert_eq!(report.data()[38..], [0x16, 0, 0xFA, 0xFD, 239, 0, 0, 1]);
    // A switch without an address of its own asks; the answer comes in its time.
    stack.advance(at(1_000_000));
    stack.frames().clear();
    let hosts = Ipv4Addr::new(224, 0, 0, 1);
    let query = ipv4(Ipv4Addr::UNSPECIFIED, hosts, 2, &[0x11, 100, 0xEE, 0x9B, 0, 0, 0, 0]);
    assert!(feed(&mut stack, &ethernet(MacAddr::group(hosts), MacAddr::derived(B), 0x0800, &query)).is_none());
    stack.advance(at(11_000_000));
    assert_eq!((stack.counters().igmp_queries, stack.counters().igmp_sent, stack.frames().len()), (1, 3, 1));
    let echo = ethernet(MacAddr::group(GROUP), MacAddr::derived(B), 0x0800, &ipv4(B, GROUP, 1, &echo(b"")));
    assert!(feed(&mut stack, &echo).is_none());
    assert_eq!((stack.counters().icmp_ignored, stack.frames().len()), (1, 1), "no amplifier");
    stack.leave(GROUP);
    assert!(feed(&mut stack, &to_group).is_none());
    assert_eq!(stack.counters().ipv4_not_ours, 2);
}

#[test]
fn floods_stay_bounded() {
    let mut stack = stack();
    let before = pool::stats().in_use();
    let mut fragment = with_header_byte(datagram(), 6, 0x20);
    for number in 0..100_000u32 {
        let from = Ipv4Addr::from(0x0A00_0000 | (number % 250 + 2));
        let asked = ethernet(MacAddr::BROADCAST, MacAddr::derived(from), 0x0806, &arp(1, from, A));
        let answered = ethernet(MacAddr::derived(A), MacAddr::derived(from), 0x0806, &arp(2, from, A));
        fragment = with_header_byte(fragment, 4, number as u8);
        let ping = from_b(0x0800, &ipv4(B, A, 1, &echo(b"flood")));
        for frame in [&asked, &answered, &from_b(0x0800, &fragment), &ping] {
            assert!(stack.receive(at(0), packet(frame)).is_none());
        }
        // Answers to clients with made-up addresses.
        let mut sent = packet(b"reply");
        sent.set_dst(addr(Ipv4Addr::from(0x0A00_0000 | (number % 250 + 2)), 9));
        stack.send(at(0), sent);
        let (rows, waiting, _) = stack.neighbors();
        assert!(rows <= 256 && waiting <= 256 && stack.frames().len() <= 512);
        assert!(pool::stats().in_use() - before <= 512 + 256);
    }
    let counters = stack.counters();
    assert_eq!((counters.icmp_answered, counters.icmp_limited), (100, 99_900));
    assert_eq!(counters.ipv4_fragment, 100_000);
    assert_eq!(counters.arp_answered + counters.arp_limited, 100_000);
    assert!(counters.arp_answered <= 1_000 && counters.arp_asked <= 256);
}

#[test]
fn a_full_table_of_silent_neighbours_does_not_cost_a_member_its_row() {
    let config = StackConfig { neighbors: 4, ..StackConfig::new(A, 8) };
    let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
    assert!(stack.pin(B, Some(MacAddr::derived(B))));
    for host in 0..1_000u32 {
        let mut sent = packet(b"reply");
        sent.set_dst(addr(Ipv4Addr::from(0x0A01_0001 + host), 9));
        stack.send(at(0), sent);
    }
    assert_eq!(stack.neighbors(), (4, 3, 997));
    stack.frames().clear();
    let mut sent = packet(b"heartbeat");
    sent.set_dst(addr(B, 9));
    stack.send(at(0), sent);
    assert_eq!(stack.frames().pop().unwrap().data()[..6], MacAddr::derived(B).0);
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let mut stack = stack();
    let mut send = |payload: &[u8], ip: [u8; 4]| {
        let mut sent = packet(payload);
        sent.set_dst(addr(Ipv4Addr::from(ip), 9));
        stack.send(at(0), sent);
        stack.counters()
    };
    assert_eq!(send(&[0; 1_473], [10, 0, 0, 2]).tx_too_large, 1);
    assert_eq!(send(b"", [10, 0, 0, 255]).tx_no_route, 1);
    assert_eq!(send(b"", [10, 0, 1, 1]).tx_no_route, 2, "no gateway");
    let counters = send(b"", [10, 0, 0, 2]);
    assert_eq!((counters.tx_dropped(), counters.arp_asked, counters.tx_datagrams), (3, 1, 0));
    let gateway = StackConfig { gateway: Some(B), ..StackConfig::new(A, 24) };
    let mut stack = Stack::new(gateway, MacAddr::derived(A), 1_514);
    assert!(stack.pin(B, Some(MacAddr::derived(B))));
    let mut sent = packet(b"far");
    sent.set_dst(addr(Ipv4Addr::new(192, 168, 1, 1), 9));
    stack.send(at(0), sent);
    assert_eq!(stack.frames().pop().unwrap().data()[..6], MacAddr::derived(B).0);
}

/// Frames that get past the first checks: whole ones with a few bytes changed, and their checksums made right or not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let valid = prop_oneof![
        Just(from_b(0x0800, &datagram())),
        Just(from_b(0x0806, &arp(1, B, A))),
        Just(from_b(0x0806, &arp(2, B, A))),
        Just(from_b(0x0800, &ipv4(B, A, 1, &echo(b"hello")))),
        Just(from_b(0x0800, &ipv4(B, A, 2, &[0x11, 100, 0xEE, 0x9B, 0, 0, 0, 0]))),
    ];
    let edits = prop::collection::vec((0..60usize, any::<u8>()), 0..4);
    let changed = (valid, edits, 0..80usize, any::<bool>()).prop_map(|(mut frame, edits, cut, right)| {
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if right && frame.len() > 34 {
            let tail = with_header_byte(frame.split_off(14), 8, 64);
            frame.extend(tail);
        }
        frame.truncate(cut);
        frame
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..1_600), changed]
}

proptest! {
    /// Whatever arrives: no panic, and each frame is a datagram or one count, never both.
    #[test]
    fn any_bytes(frames in prop::collection::vec(frames(), 1..20)) {
        let mut stack = stack();
        let mut asked = Packet::alloc(Priority::Normal).unwrap();
        asked.set_dst(addr(B, 9));
        stack.send(at(0), asked);
        let mut up = 0;
        for (number, frame) in frames.iter().enumerate() {
            up += u64::from(stack.receive(at(number as u64), packet(frame)).is_some());
            stack.advance(at(number as u64));
        }
        let c = stack.counters();
        let counted = c.ethernet_malformed + c.ethernet_source + c.ethernet_not_ours + c.ethernet_other
            + c.arp_malformed + c.arp_not_ours + c.arp_unsolicited + c.arp_gratuitous + c.arp_conflict
            + c.arp_learned + c.arp_answered + c.arp_limited
            + c.ipv4_malformed + c.ipv4_options + c.ipv4_checksum + c.ipv4_fragment + c.ipv4_source
            + c.ipv4_not_ours + c.ipv4_other
            + c.icmp_malformed + c.icmp_checksum + c.icmp_ignored + c.icmp_answered + c.icmp_limited
            + c.igmp_malformed + c.igmp_ignored + c.igmp_queries + c.udp_malformed + c.udp_checksum;
        prop_assert_eq!(up, c.rx_datagrams);
        prop_assert_eq!(up + counted, frames.len() as u64);
    }
}
