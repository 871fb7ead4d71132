//! Our side of a pair: a loop over one device, until the input ends.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use trimaran_net::port::dpdk::{Device, DpdkPort, FrameQueue, OpenOptions};
use trimaran_net::{
    Burst, FramePort, MacAddr, NetConfig, NetDriver, Packet, PacketQueue, SocketOptions, StackConfig, UdpSocket,
};
use trimaran_runtime::{Clock, Core, CoreConfig, Driver, Flushed, Idle, Instant, Monotonic, Polled, spawn};

/// As many as testpmd takes at once.
const BURST: usize = 32;
/// Frames that wait for a full device: more than are on the way.
const WAITING: usize = 1024;
/// Who the generator says it is.
const GENERATOR: (Ipv4Addr, MacAddr) = (Ipv4Addr::new(10, 0, 0, 1), MacAddr([2, 0, 0, 0, 0, 1]));
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The generator's port, and ours.
const DISCARD: u16 = 9;

/// Says `ready`, then turns frames round on processor `cpu`.
pub(crate) fn run(variant: &str, device: &str, cpu: &str) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu.parse().map_err(|_| format!("no processor: {cpu}"))?);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| error.to_string())?;
    let device = device.parse().map_err(|error| format!("{error}"))?;
    let options = OpenOptions::new(&format!("bench-{}", std::process::id()), device);
    let (device, mut queues) = trimaran_net::port::dpdk::open(&options).map_err(|error| error.to_string())?;
    let queue = queues.remove(0);
    let stop = until_input_ends(device);
    println!("ready");
    match variant {
        "bare" => bare(queue, &stop),
        "core" => {
            let driver = Macswap { queue, burst: Burst::new(), out: PacketQueue::new(WAITING) };
            let mut core = spinning(driver);
            while !stop.load(Ordering::Relaxed) {
                core.turn();
            }
        }
        "echo" => {
            let mut port = DpdkPort::new(queue, StackConfig::new(OURS, 24));
            port.stack_mut().pin(GENERATOR.0, Some(GENERATOR.1));
            let (driver, net) = NetDriver::new(port, NetConfig::default());
            let socket = net.bind(SocketAddrV4::new(OURS, DISCARD), SocketOptions::default());
            let socket = socket.map_err(|error| error.to_string())?;
            let mut core = spinning(driver);
            core.enter(|| spawn(echo(socket)).detach());
            while !stop.load(Ordering::Relaxed) {
                core.turn();
            }
        }
        _ => return Err(format!("no such loop: {variant}")),
    }
    Ok(())
}

/// Answers each line of the input with the frames received a second since the line before; its end is the order to stop.
fn until_input_ends(device: Device) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    #[allow(clippy::disallowed_methods, reason = "reads the input while the loop polls")]
    std::thread::spawn(move || {
        let mut last = None;
        for _ in std::io::stdin().lines() {
            let (now, frames) = (Monotonic.now(), device.stats().map_or(0, |stats| stats.rx_frames));
            if let Some((then, before)) = last.replace((now, frames)) {
                println!("{}", (frames - before) as f64 / (now - then).as_secs_f64());
            }
        }
        told.store(true, Ordering::Relaxed);
    });
    stop
}

fn spinning<D: Driver>(driver: D) -> Core<D> {
    let mut core = Core::new(CoreConfig { idle: Idle::Spin, ..CoreConfig::default() }, Monotonic, driver);
    core.driver_mut().start();
    core
}

/// Swaps the addresses of a frame, as testpmd's `macswap` does.
#[inline]
fn swap(frame: &mut Packet) {
    if let Some(addresses) = frame.data_mut().first_chunk_mut::<12>() {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *addresses;
        *addresses = [g, h, i, j, k, l, a, b, c, d, e, f];
    }
}

/// As short as a loop over a queue can be.
fn bare(mut queue: FrameQueue, stop: &AtomicBool) {
    let (mut burst, mut out) = (Burst::new(), PacketQueue::new(WAITING));
    queue.start();
    while !stop.load(Ordering::Relaxed) {
        turn_round(&mut queue, &mut burst, &mut out, BURST);
        queue.tx_burst(Instant::ZERO, &mut out);
    }
}

/// Receives one burst and queues it, swapped. What finds the queue full is dropped.
fn turn_round(queue: &mut FrameQueue, burst: &mut Burst, out: &mut PacketQueue, max: usize) -> usize {
    let taken = queue.rx_burst(Instant::ZERO, max, burst);
    for mut frame in burst.drain() {
        swap(&mut frame);
        let _ = out.push(frame);
    }
    taken
}

/// The same as the driver of a core.
struct Macswap {
    queue: FrameQueue,
    burst: Burst,
    out: PacketQueue,
}

impl Driver for Macswap {
    fn start(&mut self) {
        self.queue.start();
    }

    fn poll(&mut self, _: Instant, budget: usize) -> Polled {
        let packets = turn_round(&mut self.queue, &mut self.burst, &mut self.out, budget);
        Polled { packets, more: packets == budget }
    }

    fn flush(&mut self, now: Instant) -> Flushed {
        let packets = if self.out.is_empty() { 0 } else { self.queue.tx_burst(now, &mut self.out) };
        Flushed { packets, left: self.out.len() }
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.queue.park(timeout, wake);
    }
}

/// Sends every datagram back to where it came from, in its own buffer.
pub(crate) async fn echo(socket: UdpSocket) {
    loop {
        let packet = socket.recv().await;
        let from = packet.src();
        // Refused only where the queue is full: then the generator has one less on the way.
        let _ = socket.send_to(packet, from);
    }
}
