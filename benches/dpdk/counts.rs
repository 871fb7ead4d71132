//! Instructions of single steps of the loop, counted by callgrind in a process of its own: the same number at every run of the same
//! program, however busy the machine is.
//!
//! What a step costs is what its function (`counted_*`, never inlined) costs with everything below it. The kernel's own work is not
//! counted, nor is the reading of the clock, which stands still here but where a step moves it.

use crate::here::echo;
use crate::need;
use std::cell::Cell;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as Plain};
use std::rc::Rc;
use std::time::Duration;
use trimaran_benches::callgrind::count;
use trimaran_net::port::dpdk::{DpdkPort, FrameQueue, OpenOptions};
use trimaran_net::{
    Burst, FramePort, Link, MacAddr, Net, NetConfig, NetDriver, Packet, PacketQueue, Port, Priority, SimNet,
    SocketOptions, StackConfig, UdpConfig, UdpPort,
};
use trimaran_runtime::{Clock, Core, CoreConfig, Driver, Idle, Instant, sleep, spawn};

/// Counted rounds of each step.
const ROUNDS: u64 = 200;
/// Rounds before that, in which tables and caches fill.
const WARM_UP: u64 = 20;
const BURST: u64 = 32;
const OURS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 9);
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 9);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A row of the table: a function, what it does, how often in a round, and the function whose cost is not its own.
const ROWS: [(&str, &str, u64, Option<&str>); 14] = [
    ("counted_ring_send", "frame sent, from an mbuf, net_ring", BURST, None),
    ("counted_ring_receive", "frame received, net_ring", BURST, None),
    ("counted_heap_send", "frame sent, from the heap, net_null", BURST, None),
    ("counted_null_send", "frame sent and freed, net_null", BURST, None),
    ("counted_null_receive", "frame received and allocated, net_null", BURST, None),
    ("counted_drop", "received frame dropped", BURST, None),
    ("counted_idle_turn", "turn with nothing to do, net_ring", 1, None),
    ("counted_timer_turn", "timer armed and fired, its task polled", BURST, Some("counted_idle_turn")),
    ("counted_echo_1", "UDP echo, one a turn, net_ring", 1, None),
    ("counted_echo_32", "UDP echo, 32 a turn, net_ring", BURST, None),
    ("counted_sim_1", "UDP echo, one a turn, simulated port", 1, None),
    ("counted_sim_32", "UDP echo, 32 a turn, simulated port", BURST, None),
    ("counted_udp_1", "UDP echo, one a turn, kernel's, without the kernel", 1, None),
    ("counted_udp_32", "UDP echo, 32 a turn, kernel's, without the kernel", BURST, None),
];

/// Runs this program under callgrind and prints what it counted.
pub(crate) fn print() -> Result<(), String> {
    need("valgrind", "valgrind")?;
    let counts = count(&["counted"])?;
    let of = |function: &str| counts.get(function).copied().ok_or_else(|| format!("{function} was not counted"));
    println!("instructions");
    for (function, what, times, without) in ROWS {
        let total = of(function)?.saturating_sub(without.map_or(Ok(0), of)?);
        println!("{:>8.1}  {what}", total as f64 / (ROUNDS * times) as f64);
    }
    Ok(())
}

/// A clock that its owner moves.
#[derive(Clone, Default)]
struct Still(Rc<Cell<u64>>);

impl Clock for Still {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }
}

/// The counted process.
pub(crate) fn run() -> Result<(), String> {
    frames(open("net_ring_a")?, open("net_null_a")?);
    let mut server = Server::new(
        {
            let mut port = DpdkPort::new(open("net_ring_b")?, StackConfig::new(*OURS.ip(), 24));
            port.stack_mut().pin(*PEER.ip(), Some(PEER_MAC));
            port
        },
        OURS,
    )?;
    rounds(&mut server, |server| _ = server.core.turn(), |server| counted_idle_turn(&mut server.core));
    echoes(&mut server);
    timers(&mut server);
    simulated()?;
    kernel()
}

fn open(device: &str) -> Result<FrameQueue, String> {
    let device = device.parse().map_err(|error| format!("{error}"))?;
    let prefix = format!("counts-{}", std::process::id());
    let options = OpenOptions { mbufs: 1023, ..OpenOptions::new(&prefix, device) };
    let (_, mut queues) = trimaran_net::port::dpdk::open(&options).map_err(|error| error.to_string())?;
    Ok(queues.remove(0))
}

fn rounds<T>(of: &mut T, warm_up: impl Fn(&mut T), counted: impl Fn(&mut T)) {
    (0..WARM_UP).for_each(|_| warm_up(of));
    (0..ROUNDS).for_each(|_| counted(of));
}

// ---- frames ----

// The number in each step keeps the compiler from making one function of several.

#[inline(never)]
fn counted_ring_send(queue: &mut FrameQueue, out: &mut PacketQueue) {
    black_box(1u8);
    queue.tx_burst(Instant::ZERO, out);
}

#[inline(never)]
fn counted_ring_receive(queue: &mut FrameQueue, burst: &mut Burst) {
    black_box(2u8);
    queue.rx_burst(Instant::ZERO, BURST as usize, burst);
}

#[inline(never)]
fn counted_heap_send(queue: &mut FrameQueue, out: &mut PacketQueue) {
    black_box(3u8);
    queue.tx_burst(Instant::ZERO, out);
}

#[inline(never)]
fn counted_null_send(queue: &mut FrameQueue, out: &mut PacketQueue) {
    black_box(4u8);
    queue.tx_burst(Instant::ZERO, out);
}

#[inline(never)]
fn counted_null_receive(queue: &mut FrameQueue, burst: &mut Burst) {
    black_box(5u8);
    queue.rx_burst(Instant::ZERO, BURST as usize, burst);
}

#[inline(never)]
fn counted_drop(burst: &mut Burst) {
    black_box(6u8);
    burst.drain().for_each(drop);
}

fn frames(mut ring: FrameQueue, mut null: FrameQueue) {
    let (mut burst, mut out) = (Burst::new(), PacketQueue::new(BURST as usize));
    ring.start();
    for _ in 0..BURST {
        let mut packet = ring.pool().alloc().expect("the pool is larger than a burst");
        packet.extend_from_slice(&[7; 64]).expect("a frame fits");
        out.push(packet).expect("a burst fits");
    }
    for round in 0..WARM_UP + ROUNDS {
        if round < WARM_UP {
            ring.tx_burst(Instant::ZERO, &mut out);
            ring.rx_burst(Instant::ZERO, BURST as usize, &mut burst);
        } else {
            counted_ring_send(&mut ring, &mut out);
            counted_ring_receive(&mut ring, &mut burst);
        }
        burst.drain().for_each(|packet| out.push(packet).expect("a burst fits"));
    }
    out.clear();
    for round in 0..WARM_UP + ROUNDS {
        null.rx_burst(Instant::ZERO, BURST as usize, &mut burst);
        if round < WARM_UP {
            burst.drain().for_each(drop);
            continue;
        }
        counted_drop(&mut burst);
        counted_null_receive(&mut null, &mut burst);
        burst.drain().for_each(|packet| out.push(packet).expect("a burst fits"));
        counted_null_send(&mut null, &mut out);
        for _ in 0..BURST {
            let mut packet = Packet::alloc(Priority::Normal).expect("the pool is larger than a burst");
            packet.extend_from_slice(&[7; 64]).expect("a frame fits");
            out.push(packet).expect("a burst fits");
        }
        counted_heap_send(&mut null, &mut out);
    }
}

// ---- turns of a core with the whole stack ----

/// A core with one task that sends every datagram back.
struct Server<P: Port + 'static> {
    core: Core<NetDriver<P>, Still>,
    net: Net,
    local: SocketAddrV4,
    clock: Still,
}

impl<P: Port + 'static> Server<P> {
    fn new(port: P, local: SocketAddrV4) -> Result<Self, String> {
        let (driver, net) = NetDriver::new(port, NetConfig::default());
        let clock = Still::default();
        let mut core = Core::new(CoreConfig { idle: Idle::Spin, ..CoreConfig::default() }, clock.clone(), driver);
        core.driver_mut().start();
        let socket = net.bind(local, SocketOptions::default()).map_err(|error| error.to_string())?;
        let local = socket.local_addr();
        core.enter(|| spawn(echo(socket)).detach());
        core.turn();
        Ok(Server { core, net, local, clock })
    }

    fn pass(&self, span: Duration) {
        self.clock.0.set(self.clock.0.get() + span.as_nanos() as u64);
    }
}

type Dpdk = Core<NetDriver<DpdkPort>, Still>;

#[inline(never)]
fn counted_idle_turn(core: &mut Dpdk) {
    black_box(7u8);
    core.turn();
}

#[inline(never)]
fn counted_timer_turn(core: &mut Dpdk) {
    black_box(8u8);
    core.turn();
}

#[inline(never)]
fn counted_echo_1(core: &mut Dpdk) {
    black_box(9u8);
    core.turn();
}

#[inline(never)]
fn counted_echo_32(core: &mut Dpdk) {
    black_box(10u8);
    core.turn();
}

/// The peer's datagrams are frames that the bench itself puts into the ring and takes out of it.
fn echoes(server: &mut Server<DpdkPort>) {
    macro_rules! device {
        ($server:expr) => {
            $server.core.driver_mut().port_mut().device_mut()
        };
    }
    let request = datagram_frame(device!(server).mac());
    let pool = device!(server).pool().clone();
    let (mut out, mut burst) = (PacketQueue::new(BURST as usize), Burst::new());
    for (count, counted) in [(1, counted_echo_1 as fn(&mut Dpdk)), (BURST, counted_echo_32)] {
        for round in 0..WARM_UP + ROUNDS {
            for _ in 0..count {
                let mut packet = pool.alloc().expect("the pool is larger than a burst");
                packet.extend_from_slice(&request).expect("a frame fits");
                out.push(packet).expect("a burst fits");
            }
            device!(server).tx_burst(Instant::ZERO, &mut out);
            if round < WARM_UP {
                server.core.turn();
            } else {
                counted(&mut server.core);
            }
            let answered = device!(server).rx_burst(Instant::ZERO, BURST as usize, &mut burst);
            assert_eq!(answered as u64, count, "every request is answered");
            burst.drain().for_each(drop);
        }
    }
}

/// A frame of 64 bytes as the peer would send it: 18 of payload in it.
fn datagram_frame(dst: MacAddr) -> [u8; 60] {
    let mut frame = [7; 60];
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&PEER_MAC.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    let [length, udp_length] = [46, 26];
    frame[14..24].copy_from_slice(&[0x45, 0, 0, length, 0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&PEER.ip().octets());
    frame[30..34].copy_from_slice(&OURS.ip().octets());
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // Without a checksum of its own, as testpmd sends it.
    frame[34..42].copy_from_slice(&[0, 9, 0, 9, 0, udp_length, 0, 0]);
    frame
}

fn timers(server: &mut Server<DpdkPort>) {
    const PERIOD: Duration = Duration::from_micros(20);
    server.core.enter(|| {
        for _ in 0..BURST {
            spawn(async {
                loop {
                    sleep(PERIOD).await;
                }
            })
            .detach();
        }
    });
    let pass = |server: &mut Server<DpdkPort>| server.pass(2 * PERIOD);
    rounds(
        server,
        |server| {
            pass(server);
            server.core.turn();
        },
        |server| {
            pass(server);
            counted_timer_turn(&mut server.core);
        },
    );
}

// ---- the same echo over the other ports ----

type Sim = Core<NetDriver<trimaran_net::SimPort>, Still>;

#[inline(never)]
fn counted_sim_1(core: &mut Sim) {
    black_box(11u8);
    core.turn();
}

#[inline(never)]
fn counted_sim_32(core: &mut Sim) {
    black_box(12u8);
    core.turn();
}

fn simulated() -> Result<(), String> {
    let delay = Duration::from_micros(5);
    let network = SimNet::new(1);
    network.set_default_link(Link::new(delay, delay));
    let mut server = Server::new(network.port(*OURS.ip()), OURS)?;
    let (mut driver, net) = NetDriver::new(network.port(*PEER.ip()), NetConfig::default());
    let client = net.bind(PEER, SocketOptions::default()).map_err(|error| error.to_string())?;
    for (count, counted) in [(1, counted_sim_1 as fn(&mut Sim)), (BURST, counted_sim_32)] {
        for round in 0..WARM_UP + ROUNDS {
            for _ in 0..count {
                let mut packet = client.alloc().ok_or("the pool is empty")?;
                packet.extend_from_slice(&[7; 18]).map_err(|error| error.to_string())?;
                client.send_to(packet, server.local).map_err(|error| error.to_string())?;
            }
            driver.flush(server.clock.now());
            server.pass(2 * delay);
            if round < WARM_UP {
                server.core.turn();
            } else {
                counted(&mut server.core);
            }
            server.pass(2 * delay);
            driver.poll(server.clock.now(), BURST as usize);
            let answered = std::iter::from_fn(|| client.try_recv()).count() as u64;
            assert_eq!(answered, count, "every request is answered");
        }
    }
    Ok(())
}

type Udp = Core<NetDriver<UdpPort>, Still>;

#[inline(never)]
fn counted_udp_1(core: &mut Udp) {
    black_box(13u8);
    core.turn();
}

#[inline(never)]
fn counted_udp_32(core: &mut Udp) {
    black_box(14u8);
    core.turn();
}

fn kernel() -> Result<(), String> {
    let say = |error: std::io::Error| error.to_string();
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut server = Server::new(UdpPort::new(UdpConfig::default()).map_err(|error| error.to_string())?, any)?;
    let client = Plain::bind(any).map_err(say)?;
    client.connect(SocketAddr::V4(server.local)).map_err(say)?;
    for (count, counted) in [(1, counted_udp_1 as fn(&mut Udp)), (BURST, counted_udp_32)] {
        for round in 0..WARM_UP + ROUNDS {
            for _ in 0..count {
                client.send(&[7; 18]).map_err(say)?;
            }
            if round < WARM_UP {
                server.core.turn();
            } else {
                counted(&mut server.core);
            }
            // The answers have left within the turn: none is waited for.
            for _ in 0..count {
                client.recv(&mut [0; 64]).map_err(say)?;
            }
        }
    }
    assert!(server.net.stats().received >= 2 * ROUNDS);
    Ok(())
}
