//! Three hosts in one process, with a memif link between any two: no switch, and no routes. Needs neither root nor huge pages.

mod common;

use common::mbufs::{Mbufs, watched};
use std::net::{Ipv4Addr, SocketAddrV4};
use trimaran_net::port::dpdk::{DeviceSpec, SleepKind};
use trimaran_net::port::dpdk::{EalOptions, FrameQueue, Memory, OpenOptions, SocketRole, Vdev, open_links};
use trimaran_net::{
    Bundle, FramePort, Framed, MultiHomed, Net, NetConfig, NetDriver, Packet, Port, Priority, SocketOptions,
    StackConfig, UdpSocket,
};
use trimaran_runtime::{Driver, Instant};

fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// One end of the link between two hosts; the lower one makes the socket.
fn end(own: u8, other: u8) -> DeviceSpec {
    let (first, second) = (own.min(other), own.max(other));
    DeviceSpec::Vdev(Vdev::Memif {
        name: format!("{own}{other}"),
        socket: format!("trimaran-links-{}-{first}{second}", std::process::id()),
        role: if own == first { SocketRole::Server } else { SocketRole::Client },
    })
}

/// A host with a link to each of the others.
fn host(own: u8, others: [u8; 2]) -> Framed<Bundle<FrameQueue>> {
    let [first, second] = others.map(|other| end(own, other));
    let mut options = OpenOptions::new(&format!("links-{}", std::process::id()), first);
    options.eal = EalOptions { memory: Memory::Ordinary { mib: 96 }, ..options.eal };
    options.mbufs = 2047;
    let mut queues = open_links(&options, &[second]).expect("links open").into_iter();
    let first = watched(queues.next().expect("a queue"));
    assert_eq!((first.sleep_kind(), &first.mac().0[..2]), (SleepKind::Naps, &[0x02, 0x6D][..]), "not a drawn station");
    Framed::new(Bundle::new(first, queues), StackConfig::new(ip(own), 24))
}

/// Turns the core until something has come. A test that waits in vain is killed by its runner.
fn receive<P: Port>(driver: &mut NetDriver<P>, socket: &UdpSocket, now: &mut u64) -> Packet {
    loop {
        *now += 1_000_000;
        let at = Instant::from_nanos(*now);
        driver.poll(at, 64);
        driver.flush(at);
        if let Some(packet) = socket.try_recv() {
            return packet;
        }
        std::thread::yield_now();
    }
}

fn send(socket: &UdpSocket, to: SocketAddrV4, text: &[u8]) {
    let mut packet = Packet::alloc(Priority::Normal).expect("a buffer");
    packet.extend_from_slice(text).expect("it fits");
    socket.send_to(packet, to).expect("there is room");
}

/// What a host has sent, in datagrams and in frames.
fn sent(driver: &mut NetDriver<MultiHomed<Bundle<FrameQueue>>>, host: usize) -> (u64, u64) {
    let mut port = driver.port_mut();
    let member = &mut port.members_mut()[host];
    (member.stack_mut().counters().tx_datagrams, member.stats().tx_packets)
}

#[test]
fn each_finds_the_others_by_itself_and_what_is_for_one_goes_there_alone() {
    let _mbufs = Mbufs::watch();
    // In this order: who makes a socket comes before who connects to it.
    let [one, two, three] = [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])].map(|(own, others)| host(own, others));
    let (mut driver, net): (_, Net) = NetDriver::new(MultiHomed::new(one, [two, three]), NetConfig::default());
    driver.start();
    // DPDK joins the ends on a thread of its own; what is sent before that is dropped.
    while driver.port_mut().describe().link_up != Some(true) {
        std::thread::yield_now();
    }
    let sockets = [1, 2, 3]
        .map(|host| net.bind(SocketAddrV4::new(ip(host), 7), SocketOptions::default()).expect("the address is free"));
    let mut now = 0;
    for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 1), (2, 0), (1, 0)] {
        let text = [from as u8, to as u8];
        send(&sockets[from], sockets[to].local_addr(), &text);
        let got = receive(&mut driver, &sockets[to], &mut now);
        assert_eq!((got.data(), got.src()), (&text[..], sockets[from].local_addr()));
    }
    let before = sent(&mut driver, 0);
    for _ in 0..100 {
        send(&sockets[0], sockets[1].local_addr(), b"again");
        receive(&mut driver, &sockets[1], &mut now);
    }
    let after = sent(&mut driver, 0);
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 100), "no copy for the third");
    let mut refused = 0;
    net.counters(&mut |name, count| refused += if name == "links.dropped" { count } else { 0 });
    assert_eq!((refused, driver.port_mut().describe().link_up), (0, Some(true)));
}
