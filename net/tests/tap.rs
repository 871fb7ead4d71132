//! Ports around ports: captures see what passes, the fault injector does what it is told.

mod common;

use common::frame::{check_sent, pcap_frames};
use common::{A, B, Narrow, Node, addr, at, drain, packet};
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{
    Burst, FaultInjector, FramePort, FrameTap, Framed, Link, MacAddr, Offloads, Packet, PacketQueue, PcapWriter, Port,
    PortDescription, PortStats, SimFramePort, SimNet, StackConfig, Tap,
};
use trimaran_runtime::{Driver, Instant};

/// A file in memory that can be read while it is written.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a capture of datagrams: (nanoseconds, payload).
fn read(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let payload = |(nanos, frame): (u64, Vec<u8>)| {
        let ip_bytes = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        assert_eq!((frame[14], frame[23], ip_bytes), (0x45, 17, frame.len() - 14));
        (nanos, frame[42..].to_vec())
    };
    pcap_frames(bytes).into_iter().map(payload).collect()
}

fn fixed(micros: u64) -> Link {
    Link::new(Duration::from_micros(micros), Duration::from_micros(micros))
}

#[test]
fn a_tap_sees_both_directions() {
    let sim = SimNet::new(1);
    sim.set_default_link(fixed(10));
    let mut a = Node::new(Tap::new(sim.port(A), PcapWriter::new(Vec::new(), u64::MAX).unwrap()));
    let mut b = Node::sim(&sim, B);
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    at_a.send_to(packet(b"there"), addr(B, 1)).unwrap();
    at_b.send_to(packet(b"and back"), addr(A, 1)).unwrap();
    a.flush(at(1));
    b.flush(at(2));
    a.poll(at(12));
    drop((at_a, at_b));
    assert_eq!(a.driver.port_mut().pcap_mut().packets(), 2);
    assert_eq!(a.driver.port_mut().pcap_mut().unwritten(), 0);
}

#[test]
fn a_tap_writes_once_what_a_full_port_takes_later() {
    let sim = SimNet::new(1);
    let file = Memory::default();
    let pcap = PcapWriter::new(file.clone(), u64::MAX).unwrap();
    let mut a = Node::new(Tap::new(Narrow::new(sim.port(A), 1), pcap));
    let socket = a.bind(addr(A, 1));
    for number in 0..3u8 {
        socket.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    assert_eq!(read(&file.0.borrow()).len(), 1);
    a.driver.port_mut().port_mut().room = 5;
    a.flush(at(1));
    assert_eq!(read(&file.0.borrow()), [(0, vec![0]), (1_000, vec![1]), (1_000, vec![2])]);
}

#[test]
fn the_networks_tap_sees_everything_even_what_is_lost() {
    let sim = SimNet::new(1);
    sim.set_default_link(Link { loss: 1.0, ..fixed(10) });
    let file = Memory::default();
    sim.set_tap(PcapWriter::new(Box::new(file.clone()) as Box<dyn Write>, u64::MAX).unwrap());
    let mut a = Node::sim(&sim, A);
    let socket = a.bind(addr(A, 1));
    socket.send_to(packet(b"lost"), addr(B, 1)).unwrap();
    a.flush(at(3));
    socket.send_to(packet(b""), addr(A, 9)).unwrap();
    a.flush(at(4));
    assert_eq!(sim.take_tap().unwrap().packets(), 2);
    assert_eq!(read(&file.0.borrow()), [(3_000, b"lost".to_vec()), (4_000, Vec::new())]);
}

struct Injected {
    a: Node<FaultInjector<trimaran_net::SimPort>>,
    b: Node<trimaran_net::SimPort>,
    from: trimaran_net::UdpSocket,
    to: trimaran_net::UdpSocket,
}

/// A node behind an injector, and another at the end of a perfect wire.
fn injected(link: Link, held_packets: usize) -> Injected {
    let sim = SimNet::new(1);
    sim.set_default_link(fixed(0));
    let a = Node::new(FaultInjector::new(sim.port(A), link, 5, held_packets));
    let b = Node::sim(&sim, B);
    let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    Injected { a, b, from, to }
}

#[test]
fn without_faults_and_delay_an_injector_is_not_there() {
    let Injected { mut a, mut b, from, to } = injected(fixed(0), 4);
    for number in 0..100u8 {
        from.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    assert_eq!(a.flush(at(1)), 100);
    b.poll(at(1));
    // Four may be held at once, the others of each burst were dropped and counted.
    assert_eq!(drain(&to).len() as u64 + a.driver.port_mut().overflowed(), 100);
    let Injected { mut a, mut b, from, to } = injected(fixed(0), 64);
    for number in 0..100u8 {
        from.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    a.flush(at(1));
    b.poll(at(1));
    assert_eq!(drain(&to), (0..100u8).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn a_delayed_packet_leaves_at_the_first_turn_after_its_time() {
    let Injected { mut a, mut b, from, to } = injected(fixed(50), 64);
    from.send_to(packet(b"later"), addr(B, 1)).unwrap();
    a.flush(at(0));
    assert_eq!(a.driver.next_arrival(), Some(at(50)));
    a.poll(at(49));
    b.poll(at(49));
    assert!(to.try_recv().is_none());
    a.poll(at(50));
    b.poll(at(50));
    assert_eq!(drain(&to), [b"later"]);
    assert_eq!(a.driver.next_arrival(), None);
}

#[test]
fn jitter_alone_keeps_order_behind_an_injector_too() {
    let Injected { mut a, mut b, from, to } = injected(Link::new(Duration::ZERO, Duration::from_millis(1)), 1_000);
    for number in 0..200u8 {
        from.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    a.poll(Instant::FAR);
    b.poll(Instant::FAR);
    assert_eq!(drain(&to), (0..200u8).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn an_injectors_faults_strike_and_are_counted() {
    let link = Link { loss: 0.2, duplicate: 0.2, reorder: 0.2, corrupt: 0.2, truncate: 0.2, ..fixed(0) };
    let Injected { mut a, mut b, from, to } = injected(link, 1_000);
    for number in 0..500u16 {
        from.send_to(packet(&number.to_le_bytes()), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    a.poll(Instant::FAR);
    b.poll(Instant::FAR);
    let faults = a.driver.port_mut().counters();
    assert_eq!(drain(&to).len() as u64, 500 - faults.lost + faults.duplicated);
    for count in [faults.lost, faults.duplicated, faults.reordered, faults.corrupted, faults.truncated] {
        assert!((50..150).contains(&count), "{faults:?}");
    }
    a.driver.port_mut().set_link(Link { loss: 1.0, ..fixed(0) });
    from.send_to(packet(b"x"), addr(B, 1)).unwrap();
    a.flush(Instant::FAR);
    assert_eq!(a.driver.port_mut().counters().lost, faults.lost + 1);
}

type Tapped = Node<Framed<FrameTap<SimFramePort, Memory>>>;

fn tapped(sim: &SimNet, ip: std::net::Ipv4Addr, limit_bytes: u64) -> (Tapped, Memory) {
    let file = Memory::default();
    let tap = FrameTap::new(sim.frame_port(ip), PcapWriter::new(file.clone(), limit_bytes).unwrap());
    (Node::new(Framed::new(tap, StackConfig::new(ip, 24))), file)
}

/// Both ends' captures and the network's own, of a datagram each way and all that it takes.
fn conversation(limit_bytes: u64) -> [Vec<(u64, Vec<u8>)>; 3] {
    let sim = SimNet::new(1);
    sim.set_default_link(fixed(10));
    let wire = Memory::default();
    sim.set_tap(PcapWriter::new(Box::new(wire.clone()) as Box<dyn Write>, u64::MAX).unwrap());
    let ((mut a, at_a), (mut b, at_b)) = (tapped(&sim, A, limit_bytes), tapped(&sim, B, u64::MAX));
    let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    from.send_to(packet(b"there"), addr(B, 1)).unwrap();
    to.send_to(packet(b"and back"), addr(A, 1)).unwrap();
    for micros in 0..100 {
        for node in [&mut a, &mut b] {
            node.poll(at(micros));
            node.flush(at(micros));
        }
    }
    assert_eq!((drain(&from), drain(&to)), (vec![b"and back".to_vec()], vec![b"there".to_vec()]));
    [at_a, at_b, wire].map(|file| pcap_frames(&file.0.borrow()))
}

#[test]
fn a_tap_of_frames_sees_questions_and_answers_as_the_wire_does() {
    let [at_a, at_b, wire] = conversation(u64::MAX);
    assert_eq!(wire.len(), 6, "two questions, two answers, two datagrams");
    for (mac, seen) in [(MacAddr::derived(A), at_a), (MacAddr::derived(B), at_b)] {
        // What it sent at once, what it received 10 us later.
        let late = |frame: &[u8]| if frame[6..12] == mac.0 { 0 } else { 10_000 };
        let mut expected: Vec<_> = wire.iter().map(|(at, frame)| (at + late(frame), frame.clone())).collect();
        expected.sort_by_key(|(at, _)| *at);
        let mut seen = seen;
        seen.sort_by_key(|(at, _)| *at);
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_capture_of_frames_ends_at_its_limit_and_traffic_goes_on() {
    let [at_a, at_b, _] = conversation(24 + 2 * (16 + 42) + 10);
    assert_eq!((at_a.len(), at_b.len()), (2, 6));
}

/// A device that takes one frame a call, and every other call none.
struct Slow(bool);

impl FramePort for Slow {
    fn mac(&self) -> MacAddr {
        MacAddr::derived(A)
    }
    fn frame_bytes(&self) -> usize {
        1_514
    }
    fn rx_burst(&mut self, _now: Instant, _max: usize, _out: &mut Burst) -> usize {
        0
    }
    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        self.0 = !self.0;
        usize::from(self.0 && queue.pop().is_some())
    }
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<std::os::fd::BorrowedFd<'_>>) {}
    fn stats(&self) -> trimaran_net::PortStats {
        trimaran_net::PortStats::default()
    }
}

#[test]
fn a_frame_that_a_full_device_takes_later_is_written_once() {
    let file = Memory::default();
    let mut tap = FrameTap::new(Slow(false), PcapWriter::new(file.clone(), u64::MAX).unwrap());
    let mut queue = PacketQueue::new(8);
    for number in 0..5u8 {
        queue.push(packet(&[number; 60])).unwrap();
    }
    for micros in 0..10 {
        tap.tx_burst(at(micros), &mut queue);
    }
    let numbers = pcap_frames(&file.0.borrow()).into_iter().map(|(nanos, frame)| (nanos / 1_000, frame[0]));
    assert_eq!(numbers.collect::<Vec<_>>(), [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]);
}

/// A card that would fill in checksums, and has something to say.
struct Card;

impl FramePort for Card {
    fn mac(&self) -> MacAddr {
        MacAddr::derived(A)
    }
    fn frame_bytes(&self) -> usize {
        1_514
    }
    fn offloads(&self) -> Offloads {
        Offloads { ipv4: true, udp: true }
    }
    fn rx_burst(&mut self, _now: Instant, _max: usize, _out: &mut Burst) -> usize {
        0
    }
    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        queue.pop().map_or(0, |_| 1)
    }
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<std::os::fd::BorrowedFd<'_>>) {}
    fn stats(&self) -> PortStats {
        PortStats { rx_overrun: 7, ..PortStats::default() }
    }
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        tell("device.drops", 9);
    }
    fn describe(&self) -> PortDescription {
        PortDescription { kind: "dpdk".to_owned(), driver: "net_card".to_owned(), ..PortDescription::default() }
    }
}

#[test]
fn a_device_under_a_tap_says_what_it_did_before() {
    let port =
        Framed::new(FrameTap::new(Card, PcapWriter::new(Vec::new(), u64::MAX).unwrap()), StackConfig::new(A, 24));
    let plain = Framed::new(Card, StackConfig::new(A, 24));
    assert_eq!(port.describe(), plain.describe());
    assert_eq!((port.describe().driver, port.stats().rx_overrun), ("net_card".to_owned(), 7));
    let told = |port: &dyn Port| {
        let mut told = Vec::new();
        port.counters(&mut |name, count| told.push((name.to_owned(), count)));
        told
    };
    assert_eq!(told(&port), told(&plain));
    assert!(told(&port).contains(&("device.drops".to_owned(), 9)));
}

/// The card would fill them in behind the tap.
#[test]
fn a_capture_shows_the_checksums_that_the_wire_will_have() {
    let file = Memory::default();
    let tap = FrameTap::new(Card, PcapWriter::new(file.clone(), u64::MAX).unwrap());
    let mut port = Framed::new(tap, StackConfig::new(A, 24));
    assert!(port.stack_mut().pin(B, Some(MacAddr::derived(B))));
    let mut queue = PacketQueue::new(1);
    let mut sent = packet(b"whole");
    sent.set_src(addr(A, 1));
    sent.set_dst(addr(B, 1));
    queue.push(sent).unwrap();
    port.tx_burst(at(0), &mut queue);
    let [(_, frame)] = &pcap_frames(&file.0.borrow())[..] else { panic!("one frame") };
    check_sent(frame, MacAddr::derived(A), A);
}

/// Counts how often it was flushed.
#[derive(Clone, Default)]
struct Flushes(Rc<RefCell<usize>>);

impl Write for Flushes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        *self.0.borrow_mut() += 1;
        Ok(())
    }
}

#[test]
fn what_was_written_reaches_the_file_before_the_core_sleeps() {
    let flushes = Flushes::default();
    let writer = PcapWriter::new(flushes.clone(), u64::MAX).unwrap();
    let sim = SimNet::new(1);
    let mut port = Framed::new(FrameTap::new(sim.frame_port(A), writer), StackConfig::new(A, 24));
    let park = |port: &mut Framed<_>| {
        port.park(None, None);
        *flushes.0.borrow()
    };
    assert_eq!((park(&mut port), park(&mut port)), (1, 1), "the file's header, once");
    let mut queue = PacketQueue::new(1);
    let mut sent: Packet = packet(b"x");
    sent.set_dst(addr(B, 1));
    queue.push(sent).unwrap();
    port.tx_burst(at(0), &mut queue);
    assert_eq!((park(&mut port), park(&mut port)), (2, 2));
}
