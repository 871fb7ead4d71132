//! Sockets and their driver over a simulated port, turned by hand: bounds, order, accounts, ends.

mod common;

use common::{A, B, Narrow, Node, Wakes, addr, at, drain, packet, poll_recv};
use std::time::Duration;
use trimaran_net::pool::{self, PoolLimits};
use trimaran_net::{Link, NetConfig, NetError, Priority, Refusal, SimNet, SocketOptions};
use trimaran_runtime::Driver;

fn net() -> SimNet {
    let sim = SimNet::new(1);
    sim.set_default_link(Link::new(Duration::from_micros(10), Duration::from_micros(10)));
    sim
}

const CONTROL: SocketOptions =
    SocketOptions { rx_packets: 64, tx_packets: 64, priority: Priority::Control, rcvbuf_bytes: 0 };

#[test]
fn a_datagram_reaches_its_socket_and_no_other() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let from = a.bind(addr(A, 50));
    let (low, high) = (b.bind(addr(B, 1)), b.bind(addr(B, 2)));
    from.send_to(packet(b"to high"), high.local_addr()).unwrap();
    from.send_to(packet(b"to nobody"), addr(B, 3)).unwrap();
    from.send_to(packet(b"to low"), low.local_addr()).unwrap();
    assert_eq!(a.flush(at(0)), 3);
    assert_eq!(b.poll(at(9)), 0);
    assert_eq!(b.poll(at(10)), 3);
    let got = high.try_recv().unwrap();
    assert_eq!((got.data(), got.src(), got.dst()), (&b"to high"[..], addr(A, 50), addr(B, 2)));
    assert_eq!(drain(&low), [b"to low".to_vec()]);
    assert!(high.try_recv().is_none());
    let stats = b.net.stats();
    assert_eq!((stats.received, stats.dropped_unbound), (2, 1));
    assert_eq!((a.net.stats().sent, from.stats().sent), (3, 3));
}

#[test]
fn ephemeral_ports_differ_and_the_unspecified_address_is_the_ports_own() {
    let sim = net();
    let a = Node::sim(&sim, A);
    let (first, second) = (a.bind(addr(A, 0)), a.bind("0.0.0.0:0".parse().unwrap()));
    assert_ne!(first.local_addr(), second.local_addr());
    assert_eq!(*second.local_addr().ip(), A);
}

#[test]
fn a_full_receive_queue_drops_the_newest_and_counts() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let from = a.bind(addr(A, 1));
    let to = b.net.bind(addr(B, 1), SocketOptions { rx_packets: 2, ..SocketOptions::default() }).unwrap();
    for number in 0..5u8 {
        from.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    b.poll(at(10));
    assert_eq!(drain(&to), [[0], [1]]);
    assert_eq!((to.stats().received, to.stats().dropped_full), (2, 3));
    assert_eq!((b.net.stats().received, b.net.stats().dropped_full), (2, 3));
}

#[test]
fn a_full_transmit_queue_gives_the_packet_back_and_room_returns_with_the_flush() {
    let sim = net();
    let mut a = Node::sim(&sim, A);
    let socket = a.net.bind(addr(A, 1), SocketOptions { tx_packets: 2, ..SocketOptions::default() }).unwrap();
    for _ in 0..2 {
        socket.send_to(packet(b"fits"), addr(B, 1)).unwrap();
    }
    let refused = socket.send_to(packet(b"kept"), addr(B, 1)).unwrap_err();
    assert_eq!((refused.reason, refused.packet.data()), (Refusal::QueueFull, &b"kept"[..]));
    assert_eq!(socket.stats().refused, 1);
    assert_eq!(a.flush(at(0)), 2);
    socket.send_to(refused.packet, addr(B, 1)).unwrap();
}

#[test]
fn a_payload_the_port_cannot_carry_is_refused_at_once() {
    let sim = net();
    let mut a = Node::sim(&sim, A);
    let socket = a.bind(addr(A, 1));
    assert_eq!((a.net.payload_bytes(), socket.payload_bytes()), (1472, 1472));
    let refused = socket.send_to(packet(&[0; 1473]), addr(B, 1)).unwrap_err();
    assert_eq!(refused.reason, Refusal::TooLarge);
    socket.send_to(packet(&[0; 1472]), addr(B, 1)).unwrap();
    assert_eq!(a.flush(at(0)), 1);
}

#[test]
fn control_leaves_before_normal_however_late_it_was_queued() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let normal = a.bind(addr(A, 1));
    let control = a.net.bind(addr(A, 2), CONTROL).unwrap();
    let to = b.bind(addr(B, 1));
    for _ in 0..100 {
        normal.send_to(packet(b"reply"), addr(B, 1)).unwrap();
    }
    for _ in 0..3 {
        control.send_to(packet(b"heartbeat"), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    b.poll(at(10));
    let order = drain(&to);
    assert_eq!(order.len(), 103);
    assert!(order[..3].iter().all(|payload| payload == b"heartbeat"));
}

#[test]
fn a_few_replies_may_go_before_control_but_no_more_than_a_few() {
    let sim = net();
    let config = NetConfig { early_packets: 2, ..NetConfig::default() };
    for (replies, first) in [(2, &b"reply"[..]), (3, &b"heartbeat"[..])] {
        let mut a = Node::configured(sim.port(A), config);
        let mut b = Node::sim(&sim, B);
        let to = b.bind(addr(B, 1));
        let (normal, control) = (a.bind(addr(A, 1)), a.net.bind(addr(A, 2), CONTROL).unwrap());
        control.send_to(packet(b"heartbeat"), addr(B, 1)).unwrap();
        for _ in 0..replies {
            normal.send_to(packet(b"reply"), addr(B, 1)).unwrap();
        }
        a.flush(at(0));
        b.poll(at(10));
        let order = drain(&to);
        assert_eq!((order.len(), &order[0][..]), (replies + 1, first), "{replies} replies");
    }
}

#[test]
fn one_flush_sends_all_control_but_only_so_much_normal() {
    let sim = net();
    let mut a = Node::configured(sim.port(A), NetConfig { flush_packets: 64, ..NetConfig::default() });
    let (first, second) = (a.bind(addr(A, 1)), a.bind(addr(A, 2)));
    let control = a.net.bind(addr(A, 3), CONTROL).unwrap();
    for _ in 0..200 {
        first.send_to(packet(b""), addr(B, 1)).unwrap();
    }
    second.send_to(packet(b""), addr(B, 1)).unwrap();
    for _ in 0..64 {
        control.send_to(packet(b""), addr(B, 1)).unwrap();
    }
    let flushed = a.driver.flush(at(0));
    assert_eq!((flushed.packets, flushed.left), (128, 137));
    assert_eq!((control.stats().sent, first.stats().sent, second.stats().sent), (64, 64, 0));
    // The socket that had its turn stands back behind the other.
    assert_eq!(a.driver.flush(at(0)).left, 137 - 65);
    assert_eq!(second.stats().sent, 1);
}

#[test]
fn what_a_full_port_refuses_stays_queued_and_heartbeats_overtake_it() {
    let sim = net();
    let mut a = Node::new(Narrow::new(sim.port(A), 1));
    let mut b = Node::sim(&sim, B);
    let to = b.bind(addr(B, 1));
    let normal = a.bind(addr(A, 1));
    let control = a.net.bind(addr(A, 2), CONTROL).unwrap();
    for number in 0..3u8 {
        normal.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    let flushed = a.driver.flush(at(0));
    assert_eq!((flushed.packets, flushed.left, a.net.stats().queued), (1, 2, 2));
    control.send_to(packet(b"beat"), addr(B, 1)).unwrap();
    assert_eq!(a.driver.flush(at(0)).packets, 0);
    a.driver.port_mut().room = 2;
    let flushed = a.driver.flush(at(0));
    assert_eq!((flushed.packets, flushed.left), (2, 1));
    a.driver.port_mut().room = 9;
    assert_eq!(a.driver.flush(at(0)).left, 0);
    b.poll(at(10));
    assert_eq!(drain(&to), [&[0][..], b"beat", &[1], &[2]]);
}

#[test]
fn a_flush_that_stopped_at_its_own_limit_does_not_sleep_but_one_that_the_port_stopped_does() {
    let sim = net();
    let config = NetConfig { flush_packets: 64, ..NetConfig::default() };
    let mut a = Node::configured(Narrow::new(sim.port(A), 100), config);
    let socket = a.bind(addr(A, 1));
    for _ in 0..200 {
        socket.send_to(packet(b""), addr(B, 1)).unwrap();
    }
    assert_eq!(a.driver.flush(at(0)).left, 136);
    a.driver.park(None, None);
    assert_eq!(a.driver.port_mut().parks, 0);
    assert_eq!(a.driver.flush(at(0)).left, 100);
    a.driver.park(None, None);
    assert_eq!(a.driver.port_mut().parks, 1);
}

#[test]
fn a_burst_wakes_its_receiver_once_and_a_poll_beyond_the_budget_leaves_the_rest() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    let (wakes, waker) = Wakes::new();
    assert!(poll_recv(&to, &waker).is_none());
    for number in 0..150u8 {
        from.send_to(packet(&[number]), addr(B, 1)).unwrap();
    }
    a.flush(at(0));
    let polled = b.driver.poll(at(10), 32);
    assert_eq!((polled.packets, polled.more, wakes.count()), (32, true, 1));
    let polled = b.driver.poll(at(10), 500);
    assert_eq!((polled.packets, polled.more, wakes.count()), (118, false, 1));
    assert_eq!(poll_recv(&to, &waker).unwrap().data(), [0]);
    assert_eq!(drain(&to).len(), 149);
}

#[test]
fn the_latest_receiver_is_the_one_that_is_woken() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    let ((old, old_waker), (new, new_waker)) = (Wakes::new(), Wakes::new());
    assert!(poll_recv(&to, &old_waker).is_none());
    assert!(poll_recv(&to, &new_waker).is_none());
    from.send_to(packet(b"x"), addr(B, 1)).unwrap();
    a.flush(at(0));
    b.poll(at(10));
    assert_eq!((old.count(), new.count()), (0, 1));
}

#[test]
fn a_dropped_socket_sends_its_last_packets_and_frees_its_address_at_once() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let to = b.bind(addr(B, 1));
    let socket = a.bind(addr(A, 1));
    assert!(
        matches!(a.net.bind(addr(A, 1), CONTROL), Err(NetError::AddressInUse { addr: taken }) if taken == addr(A, 1))
    );
    socket.send_to(packet(b"goodbye"), addr(B, 1)).unwrap();
    drop(socket);
    a.flush(at(0));
    b.poll(at(10));
    assert_eq!(drain(&to), [b"goodbye"]);

    let socket = a.bind(addr(A, 1));
    drop(socket);
    let socket = a.bind(addr(A, 1));
    socket.send_to(packet(b"never sent"), addr(B, 1)).unwrap();
    drop(socket);
    let _again = a.bind(addr(A, 1));
    assert_eq!(a.net.stats().dropped_closed, 1);
    assert_eq!(a.flush(at(20)), 0);
}

#[test]
fn what_arrives_for_a_dropped_socket_is_counted_as_unbound() {
    let sim = net();
    let (mut a, mut b) = (Node::sim(&sim, A), Node::sim(&sim, B));
    let (from, to) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)));
    from.send_to(packet(b"late"), addr(B, 1)).unwrap();
    a.flush(at(0));
    drop(to);
    b.poll(at(10));
    assert_eq!((b.net.stats().dropped_unbound, b.net.stats().sockets), (1, 0));
}

#[test]
fn the_number_of_sockets_is_limited() {
    let sim = net();
    let a = Node::configured(sim.port(A), NetConfig { sockets: 2, ..NetConfig::default() });
    let (_one, two) = (a.bind(addr(A, 1)), a.bind(addr(A, 2)));
    assert!(matches!(a.net.bind(addr(A, 3), CONTROL), Err(NetError::TooManySockets { limit: 2 })));
    drop(two);
    a.bind(addr(A, 3));
}

#[test]
fn a_foreign_address_cannot_be_bound() {
    let sim = net();
    let a = Node::sim(&sim, A);
    assert!(matches!(a.net.bind(addr(B, 1), CONTROL), Err(NetError::AddressNotAvailable { .. })));
}

#[test]
fn the_port_dies_with_its_driver_and_sockets_that_are_left_can_only_fail() {
    let sim = net();
    let a = Node::sim(&sim, A);
    let socket = a.bind(addr(A, 1));
    drop(a.driver);
    assert_eq!(socket.send_to(packet(b"x"), addr(B, 1)).unwrap_err().reason, Refusal::Closed);
    assert!(matches!(a.net.bind(addr(A, 2), CONTROL), Err(NetError::Closed)));
    assert!(socket.try_recv().is_none());
    // The next life of the same address.
    let revived = Node::sim(&sim, A);
    let _same = revived.bind(addr(A, 1));
}

#[test]
fn control_sockets_still_get_buffers_where_normal_ones_do_not() {
    let sim = net();
    let a = Node::sim(&sim, A);
    let normal = a.bind(addr(A, 1));
    let control = a.net.bind(addr(A, 2), CONTROL).unwrap();
    pool::set_limits(PoolLimits { in_use: 3, reserved: 1, idle: 8 });
    let held: Vec<_> = std::iter::from_fn(|| normal.alloc()).collect();
    assert_eq!((held.len(), normal.stats().no_buffer), (2, 1));
    assert!(control.alloc().is_some());
    assert_eq!(a.net.stats().pool.exhausted, 1);
}
