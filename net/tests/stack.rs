//! The stack for raw frames, fed by hand: which counter each bad frame raises, by exactly one; that floods stay
//! bounded; that no bytes panic.

mod common;

use common::corpus::{Bad, bad_frames};
use common::frame::{arp, check_sent, checksum, datagram, echo, ethernet, from_b, ipv4, udp, with_header_byte};
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

fn feed(stack: &mut Stack, frame: &[u8]) -> Option<Packet> {
    stack.receive(at(1_000_000), packet(frame))
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

/// One frame of the corpus: it is not handed up, exactly its own counter rises by one, and nothing is sent or kept.
#[test]
fn each_bad_frame_raises_its_counter_and_changes_nothing_else() {
    for Bad { what, frame, counter } in bad_frames() {
        let mut stack = stack();
        assert!(feed(&mut stack, &frame).is_none(), "{what} was handed up");
        let mut expected = StackCounters::default();
        *counter(&mut expected) += 1;
        assert_eq!(stack.counters(), expected, "{what}: {frame:02x?}");
        assert!(stack.frames().is_empty(), "{what} was answered");
        assert_eq!(stack.neighbors(), (0, 0, 0), "{what} left something behind");
    }
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
    // An echo that the link could not carry back, be it that the sender's can carry more.
    for (payload_bytes, answers) in [(1_472, 1), (1_473, 0)] {
        let ping = from_b(0x0800, &ipv4(B, A, 1, &echo(&vec![7; payload_bytes])));
        assert!(feed(&mut stack, &ping).is_none());
        let answered = stack.frames().pop();
        assert_eq!(
            (answered.map(|frame| frame.len()), stack.counters().tx_too_large),
            ((answers == 1).then_some(1_514), 1 - answers)
        );
    }
    // What the link has padded is no part of the echo.
    let padded = [&from_b(0x0800, &ipv4(B, A, 1, &echo(b"hello")))[..], &[0xEE; 13]].concat();
    assert!(feed(&mut stack, &padded).is_none());
    assert_eq!(stack.frames().pop().unwrap().data(), expected);

    let question = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0806, &arp(1, B, A));
    assert!(feed(&mut stack, &[&question[..], &[0; 18]].concat()).is_none());
    let expected = ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0806, &arp(2, A, B));
    assert_eq!(stack.frames().pop().unwrap().data(), expected);
    assert_eq!(stack.neighbors().0, 0, "a question teaches nothing");
}

#[test]
fn only_the_answer_to_its_own_question_is_believed() {
    let mut stack = stack();
    let mut sent = packet(b"hey");
    sent.set_dst(addr(B, 9));
    stack.send(at(0), sent);
    check_sent(stack.frames().pop().unwrap().data(), MacAddr::derived(A), A);
    for (operation, sender, target) in [(1, B, A), (1, B, B), (2, B, B), (2, C, A), (2, B, C)] {
        let src = MacAddr::derived(sender);
        assert!(
            feed(&mut stack, &ethernet(MacAddr::derived(A), src, 0x0806, &arp(operation, sender, target))).is_none()
        );
        assert_eq!((stack.counters().arp_learned, stack.neighbors()), (0, (1, 1, 0)), "{operation} of {sender}");
    }
    stack.frames().clear();
    assert!(feed(&mut stack, &from_b(0x0806, &arp(2, B, A))).is_none());
    assert_eq!((stack.counters().arp_learned, stack.neighbors()), (1, (1, 0, 0)));
    assert_eq!(stack.frames().pop().unwrap().data()[..6], MacAddr::derived(B).0);
}

#[test]
fn a_question_that_was_not_asked_has_no_answer() {
    let config = StackConfig { arp_asks_per_s: 1, ..StackConfig::new(A, 24) };
    let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
    for ip in [C, B] {
        let mut sent = packet(b"hey");
        sent.set_dst(addr(ip, 9));
        stack.send(at(0), sent);
    }
    assert_eq!((stack.counters().arp_asked, stack.counters().arp_ask_limited), (1, 1));
    assert!(stack.receive(at(1), packet(&from_b(0x0806, &arp(2, B, A)))).is_none());
    assert_eq!((stack.counters().arp_unsolicited, stack.counters().arp_learned), (1, 0));
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
    assert_eq!(report.data()[34..], [0x94, 4, 0, 0, 0x16, 0, 0xFA, 0xFD, 239, 0, 0, 1]);
    check_sent(report.data(), MacAddr::derived(A), A);
    for dst in [MacAddr::derived(A), MacAddr::BROADCAST, MacAddr::group(Ipv4Addr::new(239, 0, 0, 2))] {
        let frame = [&dst.0[..], &to_group[6..]].concat();
        assert!(feed(&mut stack, &frame).is_none(), "the group's datagram in a frame to others");
    }
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
    assert_eq!(stack.counters().ipv4_not_ours, 5);
    stack.frames().clear();
    stack.advance(at(11_000_000));
    let routers = Ipv4Addr::new(224, 0, 0, 2);
    let leave = stack.frames().pop().unwrap();
    assert_eq!((&leave.data()[..6], &leave.data()[30..34]), (&MacAddr::group(routers).0[..], &routers.octets()[..]));
    assert_eq!(leave.data()[38..], [0x17, 0, 0xF9, 0xFD, 239, 0, 0, 1]);
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
}

/// To whose station a datagram for `ip` goes from A on a link of so many bits with B as its gateway; `None` where it has no way.
fn hop(prefix_bits: u8, ip: [u8; 4]) -> Option<Ipv4Addr> {
    let config = StackConfig { gateway: Some(B), ..StackConfig::new(A, prefix_bits) };
    let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
    for neighbor in [Ipv4Addr::from(ip), B] {
        assert!(stack.pin(neighbor, Some(MacAddr::derived(neighbor))));
    }
    let mut sent = packet(b"far");
    sent.set_dst(addr(Ipv4Addr::from(ip), 9));
    stack.send(at(0), sent);
    let frame = stack.frames().pop()?;
    MacAddr(frame.data()[..6].try_into().unwrap()).derived_from()
}

#[test]
fn the_link_is_used_for_its_own_hosts_and_the_gateway_for_all_others() {
    for (prefix_bits, ip, to) in [
        (24, [10, 0, 0, 3], Some(C)),
        (24, [10, 0, 1, 3], Some(B)),
        (24, [192, 168, 1, 1], Some(B)),
        (24, [10, 0, 0, 255], None),
        (24, [10, 0, 0, 0], None),
        (25, [10, 0, 0, 128], Some(B)),
        (25, [10, 0, 0, 127], None),
        // A link of two hosts and one of a single host have no broadcast.
        (31, [10, 0, 0, 0], Some(Ipv4Addr::new(10, 0, 0, 0))),
        (31, [10, 0, 0, 3], Some(B)),
        (32, [10, 0, 0, 0], Some(B)),
        // The whole world is one link.
        (0, [192, 168, 1, 1], Some(Ipv4Addr::new(192, 168, 1, 1))),
        (0, [255, 255, 255, 255], None),
        (0, [127, 0, 0, 1], None),
    ] {
        assert_eq!(hop(prefix_bits, ip), to, "{ip:?} from a link of {prefix_bits} bits");
    }
}

#[test]
fn questions_have_a_rate_whoever_makes_them_necessary() {
    let config = StackConfig { neighbors: 10_000, arp_asks_per_s: 100, ..StackConfig::new(A, 8) };
    let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
    for host in 0..1_000u32 {
        let mut sent = packet(b"reply");
        sent.set_dst(addr(Ipv4Addr::from(0x0A01_0001 + host), 9));
        stack.send(at(u64::from(host)), sent);
    }
    assert_eq!((stack.counters().arp_asked, stack.counters().arp_ask_limited), (100, 900));
    assert_eq!(stack.frames().len(), 100);
}

/// A host of two nodes, A and C: each address is asked for, pinged, sent to and sent from as if it were the only one.
#[test]
fn a_host_of_several_addresses_answers_for_each() {
    let config = StackConfig { more_ips: vec![C], ..StackConfig::new(A, 24) };
    for ip in [A, C] {
        let mut stack = Stack::new(config.clone(), MacAddr::derived(A), 1_514);
        assert!(stack.pin(B, Some(MacAddr::derived(B))));
        let question = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0806, &arp(1, B, ip));
        assert!(feed(&mut stack, &question).is_none());
        // The answer names the address, and the host's one station.
        let mut answer = arp(2, ip, B);
        answer[8..14].copy_from_slice(&MacAddr::derived(A).0);
        let expected = ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0806, &answer);
        assert_eq!(stack.frames().pop().unwrap().data(), expected);

        assert!(feed(&mut stack, &from_b(0x0800, &ipv4(B, ip, 1, &echo(b"hello")))).is_none());
        assert_eq!(stack.frames().pop().unwrap().data()[26..34], [ip.octets(), B.octets()].concat());

        let got = feed(&mut stack, &from_b(0x0800, &ipv4(B, ip, 17, &udp(B, ip, b"hey")))).unwrap();
        assert_eq!((got.data(), got.dst()), (&b"hey"[..], addr(ip, 8_000)));
        // A frame of the link that claims to come from this host is refused, whichever of its addresses it names.
        assert!(feed(&mut stack, &from_b(0x0800, &ipv4(ip, A, 17, &udp(ip, A, b"hey")))).is_none());
        assert_eq!(stack.counters().ipv4_source, 1);
        let mut claim = arp(1, ip, B);
        claim[8..14].copy_from_slice(&MacAddr::derived(B).0);
        let claim = ethernet(MacAddr::BROADCAST, MacAddr::derived(B), 0x0806, &claim);
        assert!(feed(&mut stack, &claim).is_none());
        assert_eq!(stack.counters().arp_conflict, 1);

        let mut sent = packet(b"hey");
        sent.set_src(addr(ip, 9_000));
        sent.set_dst(addr(B, 8_000));
        stack.send(at(0), sent);
        let expected =
            ethernet(MacAddr::derived(B), MacAddr::derived(A), 0x0800, &ipv4(ip, B, 17, &udp(ip, B, b"hey")));
        assert_eq!(stack.frames().pop().unwrap().data(), expected);
    }
}

#[test]
fn what_this_host_sends_to_itself_is_bounded_too() {
    let config = StackConfig { queued_frames: 2, ..StackConfig::new(A, 24) };
    let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
    for _ in 0..3 {
        let mut sent = packet(b"me");
        sent.set_dst(addr(A, 9));
        stack.send(at(0), sent);
    }
    assert_eq!((stack.looped().len(), stack.counters().tx_queue_full), (2, 1));
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
