//! Ports around ports: the capture sees what passes, the fault injector does what it is told.

mod common;

use common::{A, B, Narrow, Node, addr, at, drain, packet};
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{FaultInjector, Link, PcapWriter, SimNet, Tap};
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

/// Reads a capture the way an analyser would: (nanoseconds, payload).
fn read(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xA1B2_3C4D, 1));
    let (mut at, mut packets) = (24, Vec::new());
    while at < bytes.len() {
        let nanos = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
        let length = word(at + 8) as usize;
        let frame = &bytes[at + 16..at + 16 + length];
        let ip_bytes = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        assert_eq!((frame[14], frame[23], ip_bytes), (0x45, 17, length - 14));
        packets.push((nanos, frame[42..].to_vec()));
        at += 16 + length;
    }
    packets
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
