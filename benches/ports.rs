//! Packets per second through the ports, turned by hand and by the executor: `cargo bench -p trimaran-benches --bench ports`.
//!
//! Figures of one run on one machine; compare runs, not machines.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_benches::{rounds, seconds, tell};
use trimaran_net::{Link, Net, NetConfig, NetDriver, Port, SimNet, SocketOptions, UdpConfig, UdpPort, UdpSocket};
use trimaran_runtime::sim::World;
use trimaran_runtime::{Core, CoreConfig, Driver, Idle, Instant, Lane, Monotonic, spawn};

fn report(what: &str, packets: u64, work: impl FnOnce()) {
    let seconds = seconds(work);
    let (rate, ns) = (packets as f64 / seconds, seconds * 1e9 / packets as f64);
    let id = format!("ports.{}", what.replace([' ', ','], "_").replace("__", "_"));
    tell(&id, ns, "ns", &format!("{what:<58} {:>8.2} M/s  {ns:>7.1} ns", rate / 1e6));
}

struct End<P: Port> {
    driver: NetDriver<P>,
    socket: UdpSocket,
    peer: SocketAddrV4,
}

impl<P: Port + 'static> End<P> {
    fn new(port: P, local: SocketAddrV4) -> Self {
        let (driver, net): (NetDriver<P>, Net) = NetDriver::new(port, NetConfig::default());
        let socket = net.bind(local, SocketOptions::default()).expect("the address is free");
        End { driver, peer: socket.local_addr(), socket }
    }

    fn send(&self, payload: &[u8]) {
        let mut packet = self.socket.alloc().expect("the pool is far from its limit");
        packet.extend_from_slice(payload).expect("the payload fits");
        self.socket.send_to(packet, self.peer).expect("the queue has room");
    }

    /// Sends everything back where it came from.
    fn echo(&mut self, now: Instant) {
        self.driver.poll(now, 64);
        while let Some(packet) = self.socket.try_recv() {
            let from = packet.src();
            self.socket.send_to(packet, from).expect("the queue has room");
        }
        self.driver.flush(now);
    }

    fn collect(&mut self, now: Instant) -> u64 {
        self.driver.poll(now, 64);
        std::iter::from_fn(|| self.socket.try_recv()).map(black_box).count() as u64
    }
}

/// `outstanding` packets go round between the two until `packets` have come back.
fn ping_pong<P: Port + 'static>(
    a: &mut End<P>,
    b: &mut End<P>,
    payload: &[u8],
    outstanding: u64,
    packets: u64,
    mut clock: impl FnMut() -> Instant,
) {
    let (mut sent, mut back) = (0, 0);
    while back < packets {
        while sent < packets && sent - back < outstanding {
            a.send(payload);
            sent += 1;
        }
        a.driver.flush(clock());
        b.echo(clock());
        back += a.collect(clock());
    }
}

fn sim(link: Link, label: &str, payload: &[u8]) {
    let net = SimNet::new(1);
    net.set_default_link(link);
    let (ip_a, ip_b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let mut a = End::new(net.port(ip_a), SocketAddrV4::new(ip_a, 1));
    let mut b = End::new(net.port(ip_b), SocketAddrV4::new(ip_b, 1));
    a.peer = b.socket.local_addr();
    let mut now = Instant::ZERO;
    let packets = rounds(2_000_000);
    // Both directions count: each packet crosses the network twice.
    report(&format!("sim {label}, {} B", payload.len()), 2 * packets, || {
        ping_pong(&mut a, &mut b, payload, 512, packets, || {
            now += Duration::from_micros(1);
            now
        });
    });
}

fn udp_idle(sockets: usize) {
    let port = UdpPort::new(UdpConfig::default()).expect("epoll is there");
    let (mut driver, net) = NetDriver::new(port, NetConfig::default());
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let _bound: Vec<_> = (0..sockets).map(|_| net.bind(any, SocketOptions::default()).expect("a free port")).collect();
    let turns = rounds(300_000);
    report(&format!("udp turn with nothing to do, {sockets} sockets"), turns, || {
        for _ in 0..turns {
            driver.poll(Instant::ZERO, 32);
            driver.flush(Instant::ZERO);
        }
    });
}

fn udp(payload: &[u8], outstanding: u64) {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let port = || UdpPort::new(UdpConfig::default()).expect("epoll is there");
    let mut a = End::new(port(), any);
    let mut b = End::new(port(), any);
    a.peer = b.socket.local_addr();
    let packets = rounds(50_000 * outstanding.min(16));
    report(&format!("udp loopback echo on one core, {} B, {outstanding} outstanding", payload.len()), packets, || {
        ping_pong(&mut a, &mut b, payload, outstanding, packets, || Instant::ZERO);
    });
}

/// Sends everything back where it came from.
async fn echo_task(socket: UdpSocket) {
    loop {
        let packet = socket.recv().await;
        let from = packet.src();
        socket.send_to(packet, from).expect("the queue has room");
    }
}

/// Keeps `outstanding` packets going round until `packets` have come back.
async fn ask_task(socket: UdpSocket, to: SocketAddrV4, outstanding: u64, packets: u64) {
    let (mut sent, mut back) = (0, 0);
    while back < packets {
        while sent < packets && sent - back < outstanding {
            let mut packet = socket.alloc().expect("the pool is far from its limit");
            packet.extend_from_slice(&[7; 64]).expect("the payload fits");
            socket.send_to(packet, to).expect("the queue has room");
            sent += 1;
        }
        black_box(socket.recv().await);
        back += 1;
    }
}

fn udp_core(idle: Idle, label: &str, outstanding: u64) {
    let port = UdpPort::new(UdpConfig::default()).expect("epoll is there");
    let (driver, net) = NetDriver::new(port, NetConfig::default());
    let mut core = Core::new(CoreConfig { idle, ..CoreConfig::default() }, Monotonic, driver);
    core.driver_mut().start();
    let bind = || net.bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), SocketOptions::default()).expect("a free port");
    let (client, server) = (bind(), bind());
    let to = server.local_addr();
    core.enter(|| spawn(echo_task(server)).detach());
    let packets = rounds(50_000 * outstanding.min(8));
    report(&format!("udp echo, tasks of one core, {label}, {outstanding} outstanding"), packets, || {
        core.block_on(ask_task(client, to, outstanding, packets));
    });
}

fn world(outstanding: u64) {
    let (mut world, sim) = (World::new(1), SimNet::new(1));
    let (ip_a, ip_b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let (driver_a, net_a) = NetDriver::new(sim.port(ip_a), NetConfig::default());
    let (driver_b, net_b) = NetDriver::new(sim.port(ip_b), NetConfig::default());
    let (a, b) = (world.add_core("a", driver_a), world.add_core("b", driver_b));
    let bind = |net: &Net, ip| net.bind(SocketAddrV4::new(ip, 1), SocketOptions::default()).expect("a free port");
    let (client, server) = (bind(&net_a, ip_a), bind(&net_b, ip_b));
    let (to, packets) = (server.local_addr(), rounds(1_000_000));
    world.spawn(b, Lane::Normal, echo_task(server)).detach();
    let asked = world.spawn(a, Lane::Normal, ask_task(client, to, outstanding, packets));
    report(&format!("simulated world, two cores, {outstanding} outstanding"), 2 * packets, || {
        assert!(world.run_while(|_| !asked.is_finished(), Duration::from_secs(1_000)));
    });
}

fn main() {
    let packets = rounds(20_000_000);
    report("pool take and give", packets, || {
        for _ in 0..packets {
            black_box(trimaran_net::Packet::alloc(trimaran_net::Priority::Normal));
        }
    });
    let fixed = Link::new(Duration::from_micros(10), Duration::from_micros(10));
    let faulty = Link { duplicate: 0.01, reorder: 0.05, corrupt: 0.01, ..Link::default() };
    sim(fixed, "fixed delay", &[7; 64]);
    sim(Link::default(), "jitter", &[7; 64]);
    sim(Link::default(), "jitter", &[7; 1472]);
    sim(faulty, "four faults", &[7; 64]);
    for sockets in [1, 2, 4, 5, 64] {
        udp_idle(sockets);
    }
    for outstanding in [1, 8, 64, 256] {
        udp(&[7; 64], outstanding);
    }
    udp(&[7; 1472], 64);
    for outstanding in [1, 64] {
        udp_core(Idle::Spin, "spinning", outstanding);
        udp_core(Idle::Park, "sleeping", outstanding);
    }
    for outstanding in [1, 64] {
        world(outstanding);
    }
}
