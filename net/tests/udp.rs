//! The kernel UDP port over real loopback sockets. Nothing here sleeps by the clock: `park` returns because of the
//! event that a test waits for, and would otherwise hang it.

mod common;

use common::{Node, drain, packet};
use rustix::event::{EventfdFlags, eventfd};
use std::net::{SocketAddrV4, UdpSocket as Plain};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trimaran_net::pool::{self, PoolLimits};
use trimaran_net::{NetError, Priority, SocketOptions, UdpConfig, UdpPort, UdpSocket};
use trimaran_runtime::{Driver, Instant};

fn node() -> Node<UdpPort> {
    let mut node = Node::new(UdpPort::new(UdpConfig::default()).unwrap());
    node.driver.start();
    node
}

fn any_port() -> SocketAddrV4 {
    "127.0.0.1:0".parse().unwrap()
}

fn plain() -> (Plain, SocketAddrV4) {
    let socket = Plain::bind(any_port()).unwrap();
    match socket.local_addr().unwrap() {
        std::net::SocketAddr::V4(addr) => (socket, addr),
        std::net::SocketAddr::V6(addr) => panic!("asked for IPv4, got {addr}"),
    }
}

/// Parks and polls until `socket` has `count` packets.
fn receive(node: &mut Node<UdpPort>, socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut got = drain(socket);
    while got.len() < count {
        node.driver.park(None, None);
        node.poll(Instant::ZERO);
        got.extend(drain(socket));
    }
    got
}

#[test]
fn a_datagram_there_and_back_with_true_addresses() {
    let (mut a, mut b) = (node(), node());
    let (at_a, at_b) = (a.bind(any_port()), b.bind("127.0.0.2:0".parse().unwrap()));
    at_a.send_to(packet(b"ping"), at_b.local_addr()).unwrap();
    assert_eq!(a.flush(Instant::ZERO), 1);
    let ping = loop {
        b.driver.park(None, None);
        b.poll(Instant::ZERO);
        if let Some(packet) = at_b.try_recv() {
            break packet;
        }
    };
    assert_eq!((ping.data(), ping.src(), ping.dst()), (&b"ping"[..], at_a.local_addr(), at_b.local_addr()));
    // Answered in place, from the address it was sent to.
    let from = ping.src();
    at_b.send_to(ping, from).unwrap();
    b.flush(Instant::ZERO);
    a.driver.park(None, None);
    a.poll(Instant::ZERO);
    let pong = at_a.try_recv().unwrap();
    assert_eq!((pong.data(), pong.src()), (&b"ping"[..], at_b.local_addr()));
    assert_eq!((a.net.stats().port.tx_packets, a.net.stats().port.rx_packets), (1, 1));
}

#[test]
fn bursts_of_many_full_packets_arrive_whole_and_in_order() {
    // 254 full packets need far more than the kernel's default receive buffer of 208 KiB, which holds 92.
    let (mut a, mut b) = (node(), node());
    let (from, to) = (a.bind(any_port()), b.bind(any_port()));
    for number in 0..254u8 {
        let mut payload = vec![number; 1472];
        payload[0] = number;
        from.send_to(packet(&payload), to.local_addr()).unwrap();
    }
    assert_eq!(a.flush(Instant::ZERO), 254);
    let granted_bytes = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    let privileged = rustix::process::geteuid().is_root();
    if privileged || granted_bytes.trim().parse::<usize>().unwrap() >= 4 << 20 {
        let got = receive(&mut b, &to, 254);
        assert!(got.iter().enumerate().all(|(number, payload)| payload.len() == 1472 && payload[0] == number as u8));
    } else {
        assert!(receive(&mut b, &to, 80).len() >= 80);
    }
}

/// The kernel gets neighbours of one length as one message to be cut: each must arrive as it was, whatever is beside it.
#[test]
fn neighbours_of_one_length_arrive_each_by_itself() {
    let (mut a, mut b) = (node(), node());
    let (from, first, second) = (a.bind(any_port()), b.bind(any_port()), b.bind(any_port()));
    let lengths = [[100; 5].as_slice(), &[40, 40, 41, 100, 0, 0, 100, 99, 99, 98], &[1472; 50], &[7; 60]].concat();
    let mut sent = [Vec::new(), Vec::new()];
    for (number, length) in lengths.into_iter().enumerate() {
        let payload: Vec<u8> = (0..length).map(|byte| (number * 31 + byte) as u8).collect();
        let at = usize::from(number % 11 > 7);
        from.send_to(packet(&payload), [&first, &second][at].local_addr()).unwrap();
        sent[at].push(payload);
        // Many to the first before one to the second, so that there are neighbours.
        if number % 40 == 39 {
            a.flush(Instant::ZERO);
        }
    }
    a.flush(Instant::ZERO);
    for (socket, sent) in [&first, &second].into_iter().zip(sent) {
        let got = receive(&mut b, socket, sent.len());
        assert_eq!(got, sent);
    }
    assert_eq!(a.net.stats().port.tx_refused, 0);
}

#[test]
fn what_is_forbidden_together_is_refused_one_by_one() {
    let mut a = node();
    let (receiver, to) = plain();
    let from = a.bind(any_port());
    // Without SO_BROADCAST that is EACCES.
    let forbidden = "255.255.255.255:9".parse().unwrap();
    for (number, to) in [to, to, forbidden, forbidden, forbidden, to, to].into_iter().enumerate() {
        from.send_to(packet(&[number as u8; 10]), to).unwrap();
    }
    a.flush(Instant::ZERO);
    for number in [0, 1, 5, 6] {
        let mut payload = [0; 10];
        assert_eq!((receiver.recv(&mut payload).unwrap(), payload), (10, [number; 10]));
    }
    let stats = a.net.stats().port;
    assert_eq!((stats.tx_packets, stats.tx_refused), (4, 3));
}

#[test]
fn taken_and_foreign_addresses_are_named() {
    let (a, b) = (node(), node());
    let held = a.bind(any_port());
    let taken = held.local_addr();
    let again = b.net.bind(taken, SocketOptions::default());
    assert!(matches!(again, Err(NetError::AddressInUse { addr }) if addr == taken));
    drop(held);
    assert!(b.net.bind(taken, SocketOptions::default()).is_ok(), "a dropped socket frees its address");
    let foreign = "192.0.2.1:0".parse().unwrap();
    let refused = a.net.bind(foreign, SocketOptions::default());
    assert!(matches!(refused, Err(NetError::AddressNotAvailable { addr }) if addr == foreign));
}

#[test]
fn park_wakes_for_a_wake_fd_a_deadline_and_a_datagram() {
    let mut a = node();
    let socket = a.bind(any_port());
    let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    a.driver.park(Some(Duration::from_micros(200)), Some(wake.as_fd()));
    assert_eq!(a.poll(Instant::ZERO), 0);
    rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
    a.driver.park(None, Some(wake.as_fd()));
    rustix::io::read(&wake, &mut [0u8; 8]).unwrap();
    let (sender, _) = plain();
    sender.send_to(b"x", socket.local_addr()).unwrap();
    a.driver.park(None, Some(wake.as_fd()));
    assert_eq!(a.poll(Instant::ZERO), 1);
    // What a small budget leaves behind keeps the next park from sleeping.
    for _ in 0..3 {
        sender.send_to(b"x", socket.local_addr()).unwrap();
    }
    let mut left = 3;
    while left > 0 {
        a.driver.park(None, Some(wake.as_fd()));
        left -= a.driver.poll(Instant::ZERO, 1).packets;
    }
}

#[test]
fn an_answer_of_icmp_does_not_stop_a_socket() {
    let mut a = node();
    let socket = a.bind(any_port());
    let (gone, nobody) = plain();
    drop(gone);
    let (peer, peer_addr) = plain();
    for _ in 0..20 {
        socket.send_to(packet(b"anybody?"), nobody).unwrap();
        a.flush(Instant::ZERO);
        a.poll(Instant::ZERO);
    }
    socket.send_to(packet(b"you"), peer_addr).unwrap();
    a.flush(Instant::ZERO);
    let mut got = [0; 16];
    let (bytes, from) = peer.recv_from(&mut got).unwrap();
    assert_eq!((&got[..bytes], from), (&b"you"[..], socket.local_addr().into()));
    peer.send_to(b"yes", socket.local_addr()).unwrap();
    assert_eq!(receive(&mut a, &socket, 1), [b"yes"]);
}

#[test]
fn a_forbidden_destination_costs_one_packet_and_not_its_neighbours() {
    let mut a = node();
    let socket = a.bind(any_port());
    let (peer, peer_addr) = plain();
    socket.send_to(packet(b"first"), peer_addr).unwrap();
    // Broadcasting needs a permission that nobody asked for.
    socket.send_to(packet(b"to all"), "255.255.255.255:9".parse().unwrap()).unwrap();
    socket.send_to(packet(b"second"), peer_addr).unwrap();
    assert_eq!(a.driver.flush(Instant::ZERO).left, 0);
    let port = a.net.stats().port;
    assert_eq!((port.tx_packets, port.tx_refused), (2, 1));
    let mut got = [0; 16];
    assert_eq!(peer.recv(&mut got).unwrap(), 5);
    assert_eq!(peer.recv(&mut got).unwrap(), 6);
}

#[test]
fn a_datagram_longer_than_a_buffer_is_counted_and_dropped() {
    let mut a = node();
    let socket = a.bind(any_port());
    let (sender, _) = plain();
    sender.send_to(&[1; 1921], socket.local_addr()).unwrap();
    sender.send_to(&[2; 1920], socket.local_addr()).unwrap();
    sender.send_to(&[], socket.local_addr()).unwrap();
    let got = receive(&mut a, &socket, 2);
    assert_eq!((got[0].len(), got[1].len()), (1920, 0));
    assert_eq!((a.net.stats().port.rx_truncated, a.net.stats().port.rx_packets), (1, 2));
    // The buffer that was cut short serves the next datagram like new.
    sender.send_to(&[3; 1920], socket.local_addr()).unwrap();
    assert_eq!(receive(&mut a, &socket, 1), [[3; 1920]]);
}

#[test]
fn what_the_kernel_drops_for_want_of_buffer_is_counted() {
    let mut a = node();
    let tiny = SocketOptions { rcvbuf_bytes: 4096, ..SocketOptions::default() };
    let socket = a.net.bind(any_port(), tiny).unwrap();
    let (sender, _) = plain();
    for _ in 0..100 {
        sender.send_to(&[0; 1000], socket.local_addr()).unwrap();
    }
    a.poll(Instant::ZERO);
    let overrun = a.net.stats().port.rx_overrun;
    assert!(overrun > 0);
    assert_eq!(socket.stats().received + overrun, 100);
    drop(socket);
    assert_eq!(a.net.stats().port.rx_overrun, overrun, "the count outlives its socket");
}

/// Keeps the text of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text += &format!("{field}={value:?} ");
        });
        self.0.lock().unwrap().push(text);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn too_small_a_receive_buffer_is_warned_of_once_with_the_cure() {
    let warnings = Warnings::default();
    // More than any kernel grants, even to root.
    let huge = SocketOptions { rcvbuf_bytes: 3 << 29, ..SocketOptions::default() };
    tracing::subscriber::with_default(warnings.clone(), || {
        let a = node();
        let _sockets = [a.net.bind(any_port(), huge).unwrap(), a.net.bind(any_port(), huge).unwrap()];
    });
    let warnings = warnings.0.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("sysctl -w net.core.rmem_max=1610612736"), "{warnings:?}");
}

#[test]
fn many_sockets_each_get_theirs() {
    let mut a = node();
    let sockets: Vec<UdpSocket> = (0..20).map(|_| a.bind(any_port())).collect();
    let (sender, _) = plain();
    for (number, socket) in sockets.iter().enumerate() {
        sender.send_to(&[number as u8], socket.local_addr()).unwrap();
    }
    for (number, socket) in sockets.iter().enumerate() {
        assert_eq!(receive(&mut a, socket, 1), [[number as u8]]);
    }
    // Closing some leaves the others alone.
    let kept: Vec<UdpSocket> = sockets.into_iter().skip(7).collect();
    for socket in &kept {
        sender.send_to(b"still here", socket.local_addr()).unwrap();
    }
    for socket in &kept {
        assert_eq!(receive(&mut a, socket, 1), [b"still here"]);
    }
}

#[test]
fn control_is_received_first_but_leaves_normal_its_part() {
    let mut a = node();
    let normal = a.bind(any_port());
    let control =
        a.net.bind(any_port(), SocketOptions { priority: Priority::Control, ..SocketOptions::default() }).unwrap();
    let (sender, _) = plain();
    for _ in 0..64 {
        sender.send_to(b"n", normal.local_addr()).unwrap();
        sender.send_to(b"c", control.local_addr()).unwrap();
    }
    a.driver.poll(Instant::ZERO, 32);
    assert_eq!((control.stats().received, normal.stats().received), (24, 8));
}

#[test]
fn normal_sockets_take_turns_under_a_flood() {
    let mut a = node();
    let sockets = [a.bind(any_port()), a.bind(any_port()), a.bind(any_port())];
    let (sender, _) = plain();
    for socket in &sockets {
        for _ in 0..64 {
            sender.send_to(b"x", socket.local_addr()).unwrap();
        }
    }
    for _ in 0..3 {
        a.driver.poll(Instant::ZERO, 32);
    }
    assert_eq!(sockets.each_ref().map(|socket| socket.stats().received), [32, 32, 32]);
}

#[test]
fn an_exhausted_pool_drops_what_arrives_and_counts_it_until_there_is_room() {
    let mut a = node();
    let socket = a.bind(any_port());
    let (sender, _) = plain();
    a.poll(Instant::ZERO);
    let slots = pool::stats().in_use() as usize;
    pool::set_limits(PoolLimits { in_use: slots + 2, reserved: 0, idle: 100 });
    for number in 0..5u8 {
        sender.send_to(&[number], socket.local_addr()).unwrap();
    }
    while a.net.stats().port.rx_no_buffer < 3 {
        a.driver.park(None, None);
        a.poll(Instant::ZERO);
    }
    assert_eq!(drain(&socket), [[0], [1]]);
    sender.send_to(b"room again", socket.local_addr()).unwrap();
    assert_eq!(receive(&mut a, &socket, 1), [b"room again"]);
}
