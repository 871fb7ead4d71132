//! Ports that wrap a port: two write down what passes, datagrams or frames, one damages it.

mod fault;
mod frames;
mod pcap;

pub use fault::FaultInjector;
pub use frames::FrameTap;
pub use pcap::PcapWriter;

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::error::NetError;
use crate::port::{Capabilities, Port, PortDescription};
use crate::socket::SocketOptions;
use crate::stats::PortStats;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Writes every datagram that passes a port, either way, to a pcap file.
pub struct Tap<P: Port, W: Write> {
    port: P,
    pcap: PcapWriter<W>,
}

impl<P: Port, W: Write> Tap<P, W> {
    /// Wraps `port`.
    pub fn new(port: P, pcap: PcapWriter<W>) -> Self {
        Tap { port, pcap }
    }

    /// The wrapped port.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// The writer, to look at its counters or to flush it.
    pub fn pcap_mut(&mut self) -> &mut PcapWriter<W> {
        &mut self.pcap
    }
}

impl<P: Port, W: Write> Port for Tap<P, W> {
    fn start(&mut self) {
        self.port.start();
    }

    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        self.port.bind(local, options)
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        self.port.unbind(local);
    }

    fn pin(&mut self, ip: Ipv4Addr) -> bool {
        self.port.pin(ip)
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let before = out.len();
        let taken = self.port.rx_burst(now, max, out);
        out.iter().skip(before).for_each(|packet| self.pcap.record(now, packet));
        taken
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        // Which ones the port takes is known only when they are gone, so they are written beforehand and what it left
        // is struck out again.
        self.pcap.prepare(now, queue.iter().take(BURST_PACKETS));
        let taken = self.port.tx_burst(now, queue);
        self.pcap.commit(taken);
        taken
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.pcap.rest();
        self.port.park(timeout, wake);
    }

    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    fn stats(&self) -> PortStats {
        self.port.stats()
    }

    fn describe(&self) -> PortDescription {
        self.port.describe()
    }

    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        self.port.counters(tell);
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.port.next_arrival()
    }
}
