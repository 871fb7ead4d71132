//! Small helpers of the integration tests.
#![allow(dead_code)] // each test file uses its own part

pub(crate) mod corpus;
pub(crate) mod frame;
#[cfg(feature = "dpdk")]
pub(crate) mod mbufs;
#[cfg(feature = "dpdk")]
pub(crate) mod netns;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use trimaran_net::burst::BURST_PACKETS;
use trimaran_net::{
    Burst, Capabilities, Net, NetConfig, NetDriver, NetError, Packet, PacketQueue, Port, PortStats, Priority, SimNet,
    SimPort, SocketOptions, UdpSocket,
};
use trimaran_runtime::{Driver, Instant};

pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const C: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

pub(crate) fn at(micros: u64) -> Instant {
    Instant::from_nanos(micros * 1_000)
}

pub(crate) fn addr(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

pub(crate) fn packet(payload: &[u8]) -> Packet {
    let mut packet = Packet::alloc(Priority::Normal).expect("the pool is far from its limit");
    packet.extend_from_slice(payload).expect("the payload fits");
    packet
}

/// A driver with its handle, turned by hand.
pub(crate) struct Node<P: Port> {
    pub(crate) driver: NetDriver<P>,
    pub(crate) net: Net,
}

impl Node<SimPort> {
    pub(crate) fn sim(sim: &SimNet, ip: Ipv4Addr) -> Self {
        Node::new(sim.port(ip))
    }
}

impl<P: Port + 'static> Node<P> {
    pub(crate) fn new(port: P) -> Self {
        Node::configured(port, NetConfig::default())
    }

    pub(crate) fn configured(port: P, config: NetConfig) -> Self {
        let (driver, net) = NetDriver::new(port, config);
        Node { driver, net }
    }

    pub(crate) fn bind(&self, local: SocketAddrV4) -> UdpSocket {
        self.net.bind(local, SocketOptions::default()).expect("the address is free")
    }

    /// Receives everything that has arrived by `now`.
    pub(crate) fn poll(&mut self, now: Instant) -> usize {
        self.driver.poll(now, usize::MAX).packets
    }

    pub(crate) fn flush(&mut self, now: Instant) -> usize {
        self.driver.flush(now).packets
    }
}

/// The payloads that wait in a socket.
pub(crate) fn drain(socket: &UdpSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.try_recv()).map(|packet| packet.data().to_vec()).collect()
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn poll_recv(socket: &UdpSocket, waker: &Waker) -> Option<Packet> {
    match socket.poll_recv(&mut Context::from_waker(waker)) {
        Poll::Ready(packet) => Some(packet),
        Poll::Pending => None,
    }
}

/// A port that has room for so many packets and then refuses, and never sleeps.
pub(crate) struct Narrow<P> {
    port: P,
    pub(crate) room: usize,
    pub(crate) parks: usize,
}

impl<P: Port> Narrow<P> {
    pub(crate) fn new(port: P, room: usize) -> Self {
        Narrow { port, room, parks: 0 }
    }
}

impl<P: Port> Port for Narrow<P> {
    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        self.port.bind(local, options)
    }
    fn unbind(&mut self, local: SocketAddrV4) {
        self.port.unbind(local);
    }
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        self.port.rx_burst(now, max, out)
    }
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let mut fitting = PacketQueue::new(self.room.min(BURST_PACKETS));
        while !fitting.is_full()
            && let Some(packet) = queue.pop()
        {
            fitting.push(packet).unwrap();
        }
        let taken = self.port.tx_burst(now, &mut fitting);
        self.room -= taken;
        taken
    }
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {
        self.parks += 1;
    }
    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }
    fn stats(&self) -> PortStats {
        self.port.stats()
    }
}
