//! The simulated network: same seed, same trace; every fault strikes when told to and is counted.

mod common;

use common::{A, B, C, Node, addr, at, drain, packet};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Link, SimCounters, SimNet, UdpSocket};
use trimaran_runtime::{Driver, Instant};

/// Two nodes with a socket each on port 1, and what `from` sends to `to`.
struct Pair {
    sim: SimNet,
    a: Node<trimaran_net::SimPort>,
    b: Node<trimaran_net::SimPort>,
    from: UdpSocket,
    to: UdpSocket,
}

impl Pair {
    fn new(seed: u64, link: Link) -> Pair {
        let sim = SimNet::new(seed);
        sim.set_default_link(link);
        let (a, b) = (Node::sim(&sim, A), Node::sim(&sim, B));
        let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
        Pair { sim, a, b, from, to }
    }

    fn send(&mut self, now: Instant, numbers: impl IntoIterator<Item = u16>) {
        for number in numbers {
            self.from.send_to(packet(&number.to_le_bytes()), addr(B, 1)).unwrap();
        }
        while self.a.driver.flush(now).left > 0 {}
    }

    fn arrived(&mut self) -> Vec<u16> {
        self.b.poll(Instant::FAR);
        drain(&self.to).iter().map(|payload| u16::from_le_bytes([payload[0], payload[1]])).collect()
    }
}

fn fixed(micros: u64) -> Link {
    Link::new(Duration::from_micros(micros), Duration::from_micros(micros))
}

#[test]
fn one_seed_one_trace() {
    let run = |seed| {
        let link = Link { loss: 0.2, duplicate: 0.2, reorder: 0.3, corrupt: 0.1, truncate: 0.1, ..Link::default() };
        let mut pair = Pair::new(seed, link);
        let mut log: Vec<(Instant, Vec<u8>)> = Vec::new();
        for round in 0..200u16 {
            pair.send(at(u64::from(round)), [round]);
        }
        while let Some(now) = pair.b.driver.next_arrival() {
            pair.b.driver.poll(now, 1);
            log.extend(drain(&pair.to).into_iter().map(|payload| (now, payload)));
        }
        (log, pair.sim.counters(), pair.sim.trace_hash())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
    assert_ne!(run(7).2, run(8).2);
}

#[test]
fn the_trace_hash_sees_time_and_bytes() {
    let run = |now, number| {
        let mut pair = Pair::new(1, fixed(5));
        pair.send(at(now), [number]);
        pair.sim.trace_hash()
    };
    assert_eq!(run(1, 1), run(1, 1));
    assert_ne!(run(1, 1), run(2, 1));
    assert_ne!(run(1, 1), run(1, 2));
}

#[test]
fn a_datagram_arrives_at_its_time_and_not_before() {
    let mut pair = Pair::new(1, fixed(25));
    pair.send(at(100), [1]);
    assert_eq!(pair.b.driver.next_arrival(), Some(at(125)));
    assert_eq!(pair.b.poll(Instant::from_nanos(at(125).as_nanos() - 1)), 0);
    assert_eq!(pair.b.poll(at(125)), 1);
    assert_eq!(pair.b.driver.next_arrival(), None);
}

#[test]
fn jitter_alone_keeps_order_and_reordering_does_not() {
    let jitter = Link::new(Duration::from_micros(1), Duration::from_micros(900));
    let mut pair = Pair::new(3, jitter);
    pair.send(at(0), 0..500);
    assert_eq!(pair.arrived(), (0..500).collect::<Vec<_>>());
    assert_eq!(pair.sim.counters().faults.reordered, 0);

    let mut pair = Pair::new(3, Link { reorder: 0.1, ..jitter });
    pair.send(at(0), 0..500);
    let mut order = pair.arrived();
    assert!(!order.is_sorted());
    order.sort_unstable();
    assert_eq!(order, (0..500).collect::<Vec<_>>());
    assert!(pair.sim.counters().faults.reordered > 20);
}

#[test]
fn certain_loss_and_certain_duplication() {
    let mut pair = Pair::new(1, Link { loss: 1.0, ..fixed(5) });
    pair.send(at(0), 0..10);
    assert_eq!(pair.arrived(), []);
    assert_eq!(pair.sim.counters().faults.lost, 10);

    let mut pair = Pair::new(1, Link { duplicate: 1.0, ..fixed(5) });
    pair.send(at(0), 0..3);
    assert_eq!(pair.arrived(), [0, 0, 1, 1, 2, 2]);
    assert_eq!(pair.sim.counters().faults.duplicated, 3);
}

#[test]
fn the_duplicate_filter_decides_what_may_come_twice() {
    let mut pair = Pair::new(1, Link { duplicate: 1.0, ..fixed(5) });
    pair.sim.set_duplicate_filter(Rc::new(|packet| packet.data()[0] == 1));
    pair.send(at(0), 0..3);
    assert_eq!(pair.arrived(), [0, 1, 1, 2]);
    let faults = pair.sim.counters().faults;
    assert_eq!((faults.duplicated, faults.not_duplicated), (1, 2));
}

#[test]
fn damage_is_delivered_and_counted() {
    let mut pair = Pair::new(1, Link { corrupt: 1.0, ..fixed(5) });
    pair.send(at(0), [0x5555]);
    assert_ne!(pair.arrived(), [0x5555]);
    assert_eq!(pair.sim.counters().faults.corrupted, 1);
    let mut pair = Pair::new(1, Link { truncate: 1.0, ..fixed(5) });
    pair.send(at(0), [1]);
    pair.b.poll(Instant::FAR);
    assert!(drain(&pair.to)[0].len() < 2);
    assert_eq!(pair.sim.counters().faults.truncated, 1);
}

#[test]
fn a_link_is_set_for_one_direction_only() {
    let mut pair = Pair::new(1, fixed(5));
    pair.sim.set_link(A, B, fixed(700));
    pair.send(at(0), [1]);
    pair.to.send_to(packet(b"back"), addr(A, 1)).unwrap();
    pair.b.flush(at(0));
    assert_eq!(pair.b.driver.next_arrival(), Some(at(700)));
    assert_eq!(pair.a.driver.next_arrival(), Some(at(5)));
}

/// Which of the three reach which, by trying.
fn reach(sim: &SimNet, nodes: &mut [(Ipv4Addr, Node<trimaran_net::SimPort>, UdpSocket)]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let ips: Vec<Ipv4Addr> = nodes.iter().map(|(ip, ..)| *ip).collect();
    let before = sim.counters();
    for (ip, node, socket) in nodes.iter_mut() {
        for to in ips.iter().filter(|to| *to != ip) {
            socket.send_to(packet(b"hi"), addr(*to, 1)).unwrap();
        }
        node.flush(at(0));
    }
    let mut pairs = Vec::new();
    for (ip, node, socket) in nodes.iter_mut() {
        node.poll(Instant::FAR);
        pairs.extend(std::iter::from_fn(|| socket.try_recv()).map(|packet| (*packet.src().ip(), *ip)));
    }
    let after = sim.counters();
    let stopped = after.blocked + after.partitioned - before.blocked - before.partitioned;
    assert_eq!(pairs.len() + stopped as usize, 6, "what does not arrive is counted");
    pairs.sort_unstable();
    pairs
}

#[test]
fn partitions_blocks_bridges_and_healing() {
    let sim = SimNet::new(1);
    let mut nodes: Vec<_> = [A, B, C]
        .into_iter()
        .map(|ip| {
            let node = Node::sim(&sim, ip);
            let socket = node.bind(addr(ip, 1));
            (ip, node, socket)
        })
        .collect();
    let everybody = vec![(A, B), (A, C), (B, A), (B, C), (C, A), (C, B)];
    let mut reach = || reach(&sim, &mut nodes);
    assert_eq!(reach(), everybody);
    sim.block(A, B);
    assert_eq!(reach(), [(A, C), (B, A), (B, C), (C, A), (C, B)], "one way only");
    sim.unblock(A, B);
    sim.partition(&[&[A], &[B, C]]);
    assert_eq!(reach(), [(B, C), (C, B)]);
    sim.partition(&[&[A, B], &[B, C]]);
    assert_eq!(reach(), [(A, B), (B, A), (B, C), (C, B)], "a bridge");
    sim.partition(&[&[A], &[B]]);
    assert_eq!(reach(), [(A, C), (B, C), (C, A), (C, B)], "an address in no group reaches everybody");
    sim.block(C, A);
    sim.heal();
    assert_eq!(reach(), everybody);
}

#[test]
fn settings_hold_for_ports_that_come_later() {
    let sim = SimNet::new(1);
    sim.block(A, B);
    sim.set_link(B, A, fixed(123));
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let (at_a, at_b) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    at_a.send_to(packet(b"x"), addr(B, 1)).unwrap();
    at_b.send_to(packet(b"x"), addr(A, 1)).unwrap();
    a.flush(at(0));
    b.flush(at(0));
    let _third = Node::sim(&sim, C);
    assert_eq!(sim.counters().blocked, 1);
    assert_eq!(a.driver.next_arrival(), Some(at(123)));
}

#[test]
fn a_port_reaches_itself_whatever_the_links_do() {
    let sim = SimNet::new(1);
    sim.set_default_link(Link { loss: 1.0, ..Link::default() });
    let mut a = Node::sim(&sim, A);
    let (one, two) = (a.bind(addr(A, 1)), a.bind(addr(A, 2)));
    one.send_to(packet(b"self"), two.local_addr()).unwrap();
    a.flush(at(0));
    a.poll(at(5));
    assert_eq!(drain(&two), [b"self"]);
}

#[test]
fn a_port_holds_no_more_than_its_limit_and_strangers_are_unreachable() {
    let mut pair = Pair::new(1, fixed(5));
    pair.sim.set_inbox_packets(4);
    pair.send(at(0), 0..6);
    pair.from.send_to(packet(b"x"), addr(C, 1)).unwrap();
    pair.a.flush(at(0));
    assert_eq!(pair.arrived(), [0, 1, 2, 3]);
    let counters = pair.sim.counters();
    assert_eq!((counters.overflowed, counters.unreachable), (2, 1));
}

#[test]
fn a_killed_port_loses_its_inbox_and_the_next_life_starts_empty() {
    let mut pair = Pair::new(1, fixed(5));
    pair.send(at(0), 0..3);
    let Pair { sim, mut a, b, from, to } = pair;
    drop((b, to));
    assert_eq!(sim.counters().lost_with_port, 3);
    from.send_to(packet(b"into the void"), addr(B, 1)).unwrap();
    a.flush(at(1));
    assert_eq!(sim.counters().unreachable, 1);
    let mut b = Node::sim(&sim, B);
    let to = b.bind(addr(B, 1));
    assert_eq!(b.poll(Instant::FAR), 0);
    from.send_to(packet(b"new life"), addr(B, 1)).unwrap();
    a.flush(at(2));
    b.poll(Instant::FAR);
    assert_eq!(drain(&to), [b"new life"]);
}

#[test]
fn what_a_port_has_sent_arrives_though_it_dies() {
    let mut pair = Pair::new(1, fixed(5));
    pair.send(at(0), [9]);
    drop(pair.a);
    pair.b.poll(Instant::FAR);
    assert_eq!(drain(&pair.to), [[9, 0]]);
}

#[test]
#[should_panic(expected = "10.0.0.1")]
fn two_living_ports_cannot_share_an_address() {
    let sim = SimNet::new(1);
    let _first = sim.port(A);
    let _second = sim.port(A);
}

fn balance(counters: &SimCounters) -> (u64, u64) {
    let faults = &counters.faults;
    let put_in = counters.sent + faults.duplicated;
    let came_out = counters.delivered
        + counters.in_flight as u64
        + faults.lost
        + counters.blocked
        + counters.partitioned
        + counters.overflowed
        + counters.unreachable
        + counters.oversize
        + counters.lost_with_port;
    (put_in, came_out)
}

proptest! {
    /// Nothing vanishes uncounted and nothing appears from nowhere, whatever is done to the network.
    #[test]
    fn every_datagram_is_accounted_for(seed: u64, loss in 0.0..0.5f64, duplicate in 0.0..0.5f64, steps in prop::collection::vec(0..9u8, 1..60)) {
        let sim = SimNet::new(seed);
        sim.set_inbox_packets(40);
        sim.set_default_link(Link { loss, duplicate, reorder: 0.2, ..Link::default() });
        let ips = [A, B, C];
        let mut nodes: Vec<_> = ips.iter().map(|ip| Some(Node::sim(&sim, *ip))).collect();
        for (time, step) in steps.into_iter().enumerate() {
            let now = at(time as u64 * 3);
            match step {
                0 => sim.block(A, B),
                1 => sim.partition(&[&[A, B], &[C]]),
                2 => sim.heal(),
                3 => nodes[2] = None,
                4 if nodes[2].is_none() => nodes[2] = Some(Node::sim(&sim, C)),
                _ => {}
            }
            for node in nodes.iter_mut().flatten() {
                let socket = node.bind("0.0.0.0:0".parse().unwrap());
                for to in ips {
                    for _ in 0..step {
                        socket.send_to(packet(&[step]), addr(to, 1)).unwrap();
                    }
                }
                node.flush(now);
                node.poll(now);
            }
            let (put_in, came_out) = balance(&sim.counters());
            prop_assert_eq!(put_in, came_out);
        }
    }
}

#[test]
fn what_was_sent_can_be_replayed_much_later_and_from_another_source() {
    let mut pair = Pair::new(5, fixed(10));
    assert!(!pair.sim.replay(at(1), None), "nothing was kept");
    pair.sim.keep_packets(8);
    pair.send(at(1), 0..400);
    let all = pair.arrived();
    assert_eq!(all.len(), 400);
    for _ in 0..20 {
        assert!(pair.sim.replay(at(900_000), None));
    }
    let again = pair.arrived();
    assert_eq!(again.len(), 20);
    assert!(again.iter().all(|number| all.contains(number)));
    assert!(pair.sim.replay(at(900_001), Some(addr(C, 9))));
    pair.b.poll(Instant::FAR);
    let spoofed = pair.to.try_recv().expect("it arrives");
    assert_eq!(spoofed.src(), addr(C, 9));
}

#[test]
fn what_is_forgotten_is_not_replayed() {
    let mut pair = Pair::new(5, fixed(10));
    pair.sim.keep_packets(400);
    pair.send(at(1), 0..400);
    let of = |packet: &trimaran_net::Packet| u16::from_le_bytes([packet.data()[0], packet.data()[1]]);
    pair.sim.forget_kept(|packet| of(packet) % 2 == 1);
    pair.arrived();
    (0..50).for_each(|_| assert!(pair.sim.replay(at(2), None)));
    assert!(pair.arrived().iter().all(|number| number % 2 == 0));
    pair.sim.forget_kept(|_| true);
    assert!(!pair.sim.replay(at(3), None));
}

#[test]
fn what_the_filter_forbids_to_duplicate_is_not_replayed() {
    let mut pair = Pair::new(5, fixed(10));
    pair.sim.keep_packets(8);
    pair.sim.set_duplicate_filter(Rc::new(|_| false));
    pair.send(at(1), 0..400);
    assert!(!pair.sim.replay(at(2), None));
}

#[test]
fn an_injected_datagram_arrives_whatever_the_links_do() {
    let mut pair = Pair::new(5, Link { loss: 1.0, ..Link::default() });
    let mut stray = packet(&7u16.to_le_bytes());
    stray.set_src(addr(C, 9));
    stray.set_dst(addr(B, 1));
    assert!(pair.sim.inject(at(1), stray));
    assert_eq!(pair.arrived(), [7]);
    let mut lost = packet(b"x");
    lost.set_dst(addr(C, 1));
    assert!(!pair.sim.inject(at(1), lost), "nobody is there");
}
