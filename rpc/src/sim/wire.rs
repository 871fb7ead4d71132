//! What the machines of a simulated cluster are plugged into: datagrams, or frames with a network stack above them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_net::port::sim::{SimFramePort, SimNet, SimPort};
use trimaran_net::{
    Burst, Capabilities, Framed, NetError, PacketQueue, Port, PortDescription, PortStats, SocketOptions, StackConfig,
};
use trimaran_runtime::Instant;

/// All machines of a cluster have addresses that begin with 10.
const PREFIX_BITS: u8 = 8;

/// The port of one machine, of either kind.
pub enum Wire {
    /// The network carries datagrams.
    Datagrams(SimPort),
    /// The network is a switch; ARP, IPv4 and UDP are the machine's own.
    Frames(Box<Framed<SimFramePort>>),
}

impl Wire {
    /// The port of the machine at `ip`, which no living port of `network` has.
    pub(crate) fn new(network: &SimNet, ip: Ipv4Addr, frames: bool) -> Self {
        if frames {
            Wire::Frames(Box::new(Framed::new(network.frame_port(ip), StackConfig::new(ip, PREFIX_BITS))))
        } else {
            Wire::Datagrams(network.port(ip))
        }
    }

    fn port(&self) -> &dyn Port {
        match self {
            Wire::Datagrams(port) => port,
            Wire::Frames(port) => &**port,
        }
    }

    fn port_mut(&mut self) -> &mut dyn Port {
        match self {
            Wire::Datagrams(port) => port,
            Wire::Frames(port) => &mut **port,
        }
    }
}

impl Port for Wire {
    fn start(&mut self) {
        self.port_mut().start();
    }

    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        self.port_mut().bind(local, options)
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        self.port_mut().unbind(local);
    }

    fn pin(&mut self, ip: Ipv4Addr) -> bool {
        self.port_mut().pin(ip)
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        self.port_mut().rx_burst(now, max, out)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        self.port_mut().tx_burst(now, queue)
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.port_mut().park(timeout, wake);
    }

    fn capabilities(&self) -> Capabilities {
        self.port().capabilities()
    }

    fn stats(&self) -> PortStats {
        self.port().stats()
    }

    fn describe(&self) -> PortDescription {
        self.port().describe()
    }

    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        self.port().counters(tell);
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.port().next_arrival()
    }
}
