//! Two hosts whose ports carry frames, on a simulated switch.

mod common;

use common::{A, B, C, Node, addr, at, drain, packet};
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, UdpPacket};
use std::cell::Cell;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{
    Burst, Checksum, Checksums, FramePort, Framed, Link, MacAddr, NetError, Offloads, Packet, PacketQueue, PcapWriter,
    PortStats, SimFramePort, SimNet, SocketOptions, StackConfig, StackCounters,
};
use trimaran_runtime::{Driver, Instant};

type Host = Node<Framed<SimFramePort>>;

fn host(sim: &SimNet, ip: Ipv4Addr) -> Host {
    Node::new(Framed::new(sim.frame_port(ip), StackConfig::new(ip, 8)))
}

fn counters<P: FramePort + 'static>(host: &mut Node<Framed<P>>) -> StackCounters {
    host.driver.port_mut().stack_mut().counters()
}

/// Turns the hosts, each when something is due there, until nothing is, or until `limit`; returns when.
fn settle(hosts: &mut [&mut Host], start: Instant, limit: Instant) -> Instant {
    let mut now = start;
    hosts.iter_mut().for_each(|host| _ = host.flush(now));
    while let Some(next) = hosts.iter().filter_map(|host| host.driver.next_arrival()).min()
        && next <= limit
    {
        now = now.max(next);
        for host in hosts.iter_mut() {
            host.poll(now);
            host.flush(now);
        }
    }
    now
}

const LIMIT: Instant = Instant::from_nanos(10_000_000_000);

#[test]
fn datagrams_pass_both_ways_after_one_question_each() {
    let sim = SimNet::new(1);
    let (mut a, mut b) = (host(&sim, A), host(&sim, B));
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(Ipv4Addr::UNSPECIFIED, 2)));
    assert_eq!(a.net.payload_bytes(), 1_472);
    let largest = vec![7; 1_472];
    at_a.send_to(packet(b"first"), addr(B, 2)).unwrap();
    at_a.send_to(packet(&largest), addr(B, 2)).unwrap();
    let now = settle(&mut [&mut a, &mut b], at(0), LIMIT);
    assert_eq!(drain(&at_b), [b"first".to_vec(), largest.clone()]);
    at_b.send_to(packet(&largest), addr(A, 1)).unwrap();
    settle(&mut [&mut a, &mut b], now, LIMIT);
    let got = at_a.try_recv().unwrap();
    assert_eq!((got.data(), got.src(), got.dst()), (&largest[..], addr(B, 2), addr(A, 1)));
    for host in [&mut a, &mut b] {
        let counters = counters(host);
        assert_eq!((counters.arp_asked, counters.arp_learned, counters.arp_answered), (1, 1, 1));
        assert_eq!(counters.tx_dropped(), 0);
    }
    assert!(at_a.send_to(packet(&[0; 1_473]), addr(B, 2)).is_err());
}

#[test]
fn a_question_is_repeated_until_it_is_answered() {
    for seed in 0..50 {
        let sim = SimNet::new(seed);
        sim.set_default_link(Link { loss: 0.3, ..Link::default() });
        let (mut a, mut b) = (host(&sim, A), host(&sim, B));
        let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
        let mut now = at(0);
        while at_b.try_recv().is_none() {
            at_a.send_to(packet(b"again"), addr(B, 1)).unwrap();
            now = settle(&mut [&mut a, &mut b], now, LIMIT);
            assert!(now < LIMIT, "seed {seed}: nothing came through");
        }
    }
}

#[test]
fn nobody_there_costs_the_packets_and_is_counted() {
    let sim = SimNet::new(1);
    let mut a = host(&sim, A);
    let socket = a.bind(addr(A, 1));
    for _ in 0..3 {
        socket.send_to(packet(b"anybody"), addr(C, 1)).unwrap();
    }
    let end = settle(&mut [&mut a], at(0), LIMIT);
    assert_eq!(end, at(250_000), "5 questions, 50 ms each");
    let counters = counters(&mut a);
    assert_eq!((counters.arp_asked, counters.tx_unresolved), (5, 3));
    assert_eq!(a.net.stats().port.tx_refused, 3);
}

#[test]
fn pinned_members_need_no_question_and_believe_no_answer() {
    let sim = SimNet::new(1);
    let (mut a, mut b) = (host(&sim, A), host(&sim, B));
    assert!(a.driver.port_mut().stack_mut().pin(B, Some(MacAddr::derived(B))));
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    at_a.send_to(packet(b"at once"), addr(B, 1)).unwrap();
    settle(&mut [&mut a, &mut b], at(0), LIMIT);
    assert_eq!(drain(&at_b), [b"at once"]);
    assert_eq!(counters(&mut a).arp_asked, 0);
}

#[test]
fn what_a_host_sends_to_itself_stays_there() {
    let sim = SimNet::new(1);
    let mut a = host(&sim, A);
    let (one, two) = (a.bind(addr(A, 1)), a.bind(addr(A, 2)));
    one.send_to(packet(b"me"), addr(A, 2)).unwrap();
    settle(&mut [&mut a], at(0), LIMIT);
    let got = two.try_recv().unwrap();
    assert_eq!((got.data(), got.src()), (&b"me"[..], addr(A, 1)));
    assert_eq!(sim.counters().sent, 0);
}

#[test]
fn the_addresses_of_one_host_talk_to_each_other_off_the_link_and_share_its_bursts() {
    let sim = SimNet::new(1);
    let config = StackConfig { more_ips: vec![C], ..StackConfig::new(A, 8) };
    let (mut a, mut b) = (Node::new(Framed::new(sim.frame_port(A), config)), host(&sim, B));
    let (one, two, far) = (a.bind(addr(A, 1)), a.bind(addr(C, 1)), b.bind(addr(B, 1)));
    one.send_to(packet(b"near"), addr(C, 1)).unwrap();
    let now = settle(&mut [&mut a, &mut b], at(0), at(1_000));
    let got = two.try_recv().unwrap();
    assert_eq!((got.data(), got.src()), (&b"near"[..], addr(A, 1)));
    assert_eq!(sim.counters().sent, 0);
    far.send_to(packet(b"far"), addr(C, 1)).unwrap();
    let now = settle(&mut [&mut a, &mut b], now, at(2_000));
    assert_eq!((drain(&two), drain(&one).len()), (vec![b"far".to_vec()], 0));
    // The answer comes from the address that was asked.
    two.send_to(packet(b"back"), addr(B, 1)).unwrap();
    settle(&mut [&mut a, &mut b], now, at(3_000));
    assert_eq!(far.try_recv().unwrap().src(), addr(C, 1));
}

/// A burst has room for both, however many there are of the other kind.
#[test]
fn neither_the_link_nor_what_a_host_tells_itself_waits_for_the_other() {
    let sim = SimNet::new(1);
    let (mut a, mut b) = (host(&sim, A), host(&sim, B));
    let (near, at_a, far) = (a.bind(addr(A, 1)), a.bind(addr(A, 2)), b.bind(addr(B, 1)));
    far.send_to(packet(b"far"), addr(A, 2)).unwrap();
    let now = settle(&mut [&mut a, &mut b], at(0), at(1_000));
    drain(&at_a);
    for _ in 0..8 {
        far.send_to(packet(b"far"), addr(A, 2)).unwrap();
        near.send_to(packet(b"near"), addr(A, 2)).unwrap();
    }
    b.driver.flush(now);
    a.driver.flush(now);
    a.driver.poll(at(2_000_000), 4);
    assert_eq!(drain(&at_a), [b"far".to_vec(), b"far".to_vec(), b"near".to_vec(), b"near".to_vec()]);
}

#[test]
fn a_group_reaches_all_that_joined_it() {
    let sim = SimNet::new(1);
    let (mut a, mut b, mut c) = (host(&sim, A), host(&sim, B), host(&sim, C));
    let group = addr(Ipv4Addr::new(239, 1, 2, 3), 7);
    let (at_b, at_c, from) = (b.bind(group), c.bind(group), a.bind(addr(A, 1)));
    from.send_to(packet(b"all"), group).unwrap();
    let now = settle(&mut [&mut a, &mut b, &mut c], at(0), at(1_000));
    assert_eq!((drain(&at_b), drain(&at_c)), (vec![b"all".to_vec()], vec![b"all".to_vec()]));
    drop(at_b);
    from.send_to(packet(b"rest"), group).unwrap();
    settle(&mut [&mut a, &mut b, &mut c], now, LIMIT);
    assert_eq!((drain(&at_c).len(), counters(&mut b).rx_datagrams), (1, 1));
    let options = SocketOptions::default();
    for host in 0..31 {
        std::mem::forget(c.net.bind(addr(Ipv4Addr::new(239, 9, 9, host), 7), options).unwrap());
    }
    let refused = c.net.bind(addr(Ipv4Addr::new(239, 9, 9, 99), 7), options);
    assert!(matches!(refused, Err(NetError::TooManyGroups { .. })));
}

#[test]
fn addresses_are_bound_once_and_free_again() {
    let sim = SimNet::new(1);
    let a = host(&sim, A);
    let options = SocketOptions::default();
    let any = a.bind(addr(A, 0));
    assert!(any.local_addr().port() >= 49_152);
    assert!(matches!(a.net.bind(any.local_addr(), options), Err(NetError::AddressInUse { .. })));
    assert!(matches!(a.net.bind(addr(B, 1), options), Err(NetError::AddressNotAvailable { .. })));
    let local = any.local_addr();
    drop(any);
    assert!(a.net.bind(local, options).is_ok());
}

#[test]
fn damage_on_the_wire_is_seen_by_some_checksum() {
    let sim = SimNet::new(3);
    let (mut a, mut b) = (host(&sim, A), host(&sim, B));
    assert!(a.driver.port_mut().stack_mut().pin(B, Some(MacAddr::derived(B))));
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    let way = Duration::from_micros(10);
    sim.set_default_link(Link { corrupt: 0.5, truncate: 0.3, ..Link::new(way, way) });
    let payload = vec![0x5A; 900];
    for round in 0..500 {
        at_a.send_to(packet(&payload), addr(B, 1)).unwrap();
        settle(&mut [&mut a, &mut b], at(round * 100), LIMIT);
    }
    let got = drain(&at_b);
    assert!(got.len() > 100 && got.len() < 300, "{} arrived", got.len());
    assert!(got.iter().all(|got| *got == payload));
    let counters = counters(&mut b);
    assert!(counters.udp_checksum > 50 && counters.ipv4_malformed > 50);
}

#[test]
fn links_partitions_and_the_duplicate_filter_hold_for_frames() {
    let sim = SimNet::new(1);
    sim.set_tap(PcapWriter::new(Box::new(Vec::new()) as Box<dyn Write>, u64::MAX).unwrap());
    sim.set_default_link(Link { duplicate: 1.0, ..Link::default() });
    sim.set_duplicate_filter(Rc::new(|packet| packet.data() == b"twice"));
    let (mut a, mut b) = (host(&sim, A), host(&sim, B));
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    for payload in [&b"once"[..], b"twice"] {
        at_a.send_to(packet(payload), addr(B, 1)).unwrap();
    }
    let now = settle(&mut [&mut a, &mut b], at(0), LIMIT);
    let mut got = drain(&at_b);
    got.sort();
    assert_eq!(got, [b"once".to_vec(), b"twice".to_vec(), b"twice".to_vec()]);
    assert_eq!(sim.take_tap().unwrap().packets(), sim.counters().sent);
    sim.partition(&[&[A], &[B]]);
    at_a.send_to(packet(b"cut off"), addr(B, 1)).unwrap();
    settle(&mut [&mut a, &mut b], now, LIMIT);
    assert_eq!((drain(&at_b).len(), sim.counters().partitioned), (0, 1));
}

/// A card: checks what it receives, and fills in what it is asked to and has offered.
struct Card {
    station: SimFramePort,
    offloads: Offloads,
    filled: Rc<Cell<u32>>,
}

impl Card {
    fn fill(&self, frame: &mut Packet) {
        let asked = frame.checksums();
        let (ipv4, udp) = (asked.ipv4 == Checksum::Fill, asked.udp == Checksum::Fill);
        assert!(!ipv4 || self.offloads.ipv4, "more than it has offered");
        assert!(!udp || self.offloads.udp, "more than it has offered");
        if !udp {
            return;
        }
        let mut packet = Ipv4Packet::new_unchecked(&mut frame.data_mut()[14..]);
        if ipv4 {
            assert_eq!(packet.checksum(), 0, "left for the device");
            packet.fill_checksum();
        }
        // As cards do it: the sum of all words, of which the pseudo header's is in the field already.
        let words = |bytes: &[u8]| {
            let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            let sum: u32 = bytes.chunks(2).map(word).sum();
            let folded = (sum >> 16) + (sum & 0xFFFF);
            (folded + (folded >> 16)) as u16
        };
        let sum = !words(packet.payload_mut());
        UdpPacket::new_unchecked(packet.payload_mut()).set_checksum(if sum == 0 { 0xFFFF } else { sum });
        self.filled.set(self.filled.get() + 1);
    }
}

fn checked(frame: &Packet) -> Checksums {
    let verdict = |good| if good { Checksum::Good } else { Checksum::Bad };
    match Ipv4Packet::new_checked(&frame.data()[14..]) {
        Ok(packet) if frame.data()[12..14] == [8, 0] && packet.next_header() == IpProtocol::Udp => {
            let ends = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
            let udp = UdpPacket::new_unchecked(packet.payload());
            Checksums { ipv4: verdict(packet.verify_checksum()), udp: verdict(udp.verify_checksum(&ends.0, &ends.1)) }
        }
        _ => Checksums::default(),
    }
}

impl FramePort for Card {
    fn mac(&self) -> MacAddr {
        self.station.mac()
    }
    fn frame_bytes(&self) -> usize {
        self.station.frame_bytes()
    }
    fn offloads(&self) -> Offloads {
        self.offloads
    }
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let mut burst = Burst::new();
        let taken = self.station.rx_burst(now, max.min(out.room()), &mut burst);
        for mut frame in burst.drain() {
            frame.set_checksums(checked(&frame));
            out.push(frame).expect("there is room");
        }
        taken
    }
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let mut filled = PacketQueue::new(queue.len().max(1));
        while let Some(mut frame) = queue.pop() {
            self.fill(&mut frame);
            filled.push(frame).expect("there is room");
        }
        self.station.tx_burst(now, &mut filled)
    }
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {}
    fn stats(&self) -> PortStats {
        self.station.stats()
    }
    fn next_arrival(&self) -> Option<Instant> {
        self.station.next_arrival()
    }
}

#[test]
fn what_a_card_does_about_checksums_is_left_to_it_and_no_more() {
    for (ipv4, udp) in [(false, false), (false, true), (true, true), (true, false)] {
        let sim = SimNet::new(1);
        let filled = Rc::new(Cell::new(0));
        let card = Card { station: sim.frame_port(A), offloads: Offloads { ipv4, udp }, filled: filled.clone() };
        let mut a = Node::new(Framed::new(card, StackConfig::new(A, 8)));
        // It has no card, and checks everything itself.
        let mut b = host(&sim, B);
        let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 2)));
        let sizes = [0, 1, 2, 17, 1_471, 1_472];
        sizes.iter().for_each(|bytes| at_a.send_to(packet(&vec![0xA5; *bytes]), addr(B, 2)).unwrap());
        let mut now = at(0);
        for _ in 0..100 {
            a.poll(now);
            a.flush(now);
            b.poll(now);
            b.flush(now);
            now += Duration::from_millis(1);
        }
        let got = drain(&at_b);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "ipv4 {ipv4}, udp {udp}");
        got.iter().for_each(|payload| at_b.send_to(packet(payload), addr(A, 1)).unwrap());
        for _ in 0..100 {
            b.poll(now);
            b.flush(now);
            a.poll(now);
            now += Duration::from_millis(1);
        }
        assert!(drain(&at_a) == got, "the way back: ipv4 {ipv4}, udp {udp}");
        assert_eq!(filled.get(), if udp { sizes.len() as u32 } else { 0 });
        assert_eq!(counters(&mut b).udp_checksum + counters(&mut b).ipv4_checksum, 0);
    }
}

/// A device that takes `room` frames, and notes how many it was offered at each call.
struct Narrow {
    room: usize,
    offers: Rc<Cell<Vec<usize>>>,
}

impl FramePort for Narrow {
    fn mac(&self) -> MacAddr {
        MacAddr::derived(A)
    }

    fn frame_bytes(&self) -> usize {
        1_514
    }

    fn rx_burst(&mut self, _: Instant, _: usize, _: &mut Burst) -> usize {
        0
    }

    fn tx_burst(&mut self, _: Instant, queue: &mut PacketQueue) -> usize {
        let mut offers = self.offers.take();
        offers.push(queue.len());
        self.offers.set(offers);
        let taken = queue.len().min(self.room);
        (0..taken).for_each(|_| drop(queue.pop()));
        self.room -= taken;
        taken
    }

    fn park(&mut self, _: Option<Duration>, _: Option<BorrowedFd<'_>>) {}

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

#[test]
fn a_burst_reaches_the_device_in_few_calls_and_waits_in_the_socket_where_it_is_full() {
    let offers = Rc::new(Cell::new(Vec::new()));
    let mut a = Node::new(Framed::new(Narrow { room: 60, offers: offers.clone() }, StackConfig::new(A, 8)));
    assert!(a.driver.port_mut().stack_mut().pin(B, Some(MacAddr::derived(B))));
    let socket = a.bind(addr(A, 1));
    for _ in 0..40 {
        socket.send_to(packet(b"burst"), addr(B, 1)).unwrap();
    }
    assert_eq!(a.flush(at(0)), 40);
    assert_eq!(offers.take(), [32, 8]);
    for _ in 0..100 {
        socket.send_to(packet(b"burst"), addr(B, 1)).unwrap();
    }
    // Twenty more fit; the rest of a call's 32 wait for the device, and all others where Control overtakes them.
    assert_eq!(a.flush(at(0)), 32);
    assert_eq!((offers.take(), a.net.stats().queued), (vec![32, 12, 12], 68));
    a.driver.port_mut().device_mut().room = 100;
    assert_eq!(a.flush(at(0)), 68);
    assert_eq!(offers.take(), [12, 32, 32, 4]);
}
