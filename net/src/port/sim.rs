//! A simulated network in virtual time, for many ports on one thread.
//!
//! One seed, one trace: faults are drawn from one generator in the order of sending, and datagrams that arrive at the
//! same nanosecond are delivered in that order too.

mod fabric;
mod frames;
mod link;

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::error::NetError;
use crate::packet::Packet;
use crate::port::{Capabilities, Port};
use crate::socket::SocketOptions;
use crate::stats::PortStats;
use crate::tap::PcapWriter;
use fabric::Fabric;
pub use frames::SimFramePort;
pub(crate) use link::{Emission, Odds};
pub use link::{FaultCounters, LARGE_BYTES, Link};
use std::cell::RefCell;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::Instant;

/// What a simulated network has done. All counts are datagrams, or frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimCounters {
    /// Handed to the network by its ports.
    pub sent: u64,
    /// Taken by their receivers.
    pub delivered: u64,
    /// On their way or waiting at a port now.
    pub in_flight: usize,
    /// Struck by a fault of their link.
    pub faults: FaultCounters,
    /// Stopped by [`SimNet::block`].
    pub blocked: u64,
    /// Stopped by [`SimNet::partition`].
    pub partitioned: u64,
    /// Lost because too many were already on their way to the same port.
    pub overflowed: u64,
    /// Sent to an address without a living port.
    pub unreachable: u64,
    /// Larger than the network carries.
    pub oversize: u64,
    /// On their way to a port when it was dropped.
    pub lost_with_port: u64,
}

/// A simulated network. Clones are handles of the same network.
#[derive(Clone)]
pub struct SimNet {
    fabric: Rc<RefCell<Fabric>>,
}

impl SimNet {
    /// A network without ports, whose links are all [`Link::default`]. It carries payloads of 1472 bytes and at most
    /// 8192 datagrams at once to each port.
    pub fn new(seed: u64) -> Self {
        SimNet { fabric: Rc::new(RefCell::new(Fabric::new(seed))) }
    }

    /// A port with address `ip`. After the last one with this address has been dropped a new one can take its place;
    /// it starts with nothing bound and nothing on its way to it.
    ///
    /// # Panics
    ///
    /// Where a living port has this address: that is a mistake in the test at hand.
    pub fn port(&self, ip: Ipv4Addr) -> SimPort {
        let station = self.attach(ip, false);
        SimPort { fabric: Rc::clone(&self.fabric), station, ip, stats: PortStats::default() }
    }

    /// A port that carries Ethernet frames, with the hardware address that [`MacAddr::derived`](crate::stack::MacAddr)
    /// makes of `ip`. The network is then a switch that knows every station: a frame for one station takes the link to
    /// it, one for a group or for everybody takes the links to all of them. Frames do not reach ports of datagrams.
    ///
    /// # Panics
    ///
    /// As [`SimNet::port`].
    pub fn frame_port(&self, ip: Ipv4Addr) -> SimFramePort {
        SimFramePort::new(Rc::clone(&self.fabric), self.attach(ip, true), ip)
    }

    fn attach(&self, ip: Ipv4Addr, framed: bool) -> usize {
        let station = self.fabric.borrow_mut().attach(ip, framed);
        let Some(station) = station else { panic!("a living port already has the address {ip}") };
        station
    }

    /// Sets every link, forgetting those set one by one. Does not touch blocks and partitions.
    pub fn set_default_link(&self, link: Link) {
        self.fabric.borrow_mut().set_default_link(link);
    }

    /// Sets the link from `src` to `dst`, one way.
    pub fn set_link(&self, src: Ipv4Addr, dst: Ipv4Addr, link: Link) {
        self.fabric.borrow_mut().set_link(src, dst, link);
    }

    /// Stops everything from `src` to `dst`, one way, from now on. What is on its way arrives.
    pub fn block(&self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.fabric.borrow_mut().block(src, dst);
    }

    /// Undoes [`SimNet::block`].
    pub fn unblock(&self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.fabric.borrow_mut().unblock(src, dst);
    }

    /// From now on two addresses that are listed reach each other only where some group has both. An address may be in
    /// several groups (a bridge); one that is in none reaches everybody. Replaces the partition before.
    pub fn partition(&self, groups: &[&[Ipv4Addr]]) {
        self.fabric.borrow_mut().set_partition(groups);
    }

    /// Ends every partition and block. Links keep their faults.
    pub fn heal(&self) {
        self.fabric.borrow_mut().heal();
    }

    /// Lets only datagrams that `filter` accepts be duplicated: some protocols do not survive copies of everything. Of a
    /// frame it sees what follows 42 bytes of headers.
    pub fn set_duplicate_filter(&self, filter: Rc<dyn Fn(&Packet) -> bool>) {
        self.fabric.borrow_mut().duplicate_filter = Some(filter);
    }

    /// Keeps copies of so many datagrams, drawn from all that are sent from now on, for [`SimNet::replay`]. Datagrams that
    /// must not be duplicated are not kept.
    pub fn keep_packets(&self, keep_packets: usize) {
        self.fabric.borrow_mut().keep_packets = keep_packets;
    }

    /// Delivers one of the kept datagrams again, however old it is, as if `source` had sent it where that is given. `false`
    /// where none is kept, the receiver is gone, or a frame was to come from another source.
    pub fn replay(&self, now: Instant, source: Option<SocketAddrV4>) -> bool {
        self.fabric.borrow_mut().replay(now, source)
    }

    /// Keeps for a replay no more those of the kept datagrams that are `old`.
    pub fn forget_kept(&self, old: impl FnMut(&Packet) -> bool) {
        self.fabric.borrow_mut().forget_kept(old);
    }

    /// Delivers a datagram that no port has sent, from the source that it names; no fault strikes it. `false` where nobody has
    /// its destination.
    pub fn inject(&self, now: Instant, packet: Packet) -> bool {
        self.fabric.borrow_mut().inject(now, packet)
    }

    /// Sets how many datagrams may be on their way to one port.
    pub fn set_inbox_packets(&self, inbox_packets: usize) {
        self.fabric.borrow_mut().inbox_packets = inbox_packets;
    }

    /// Records every datagram that is sent, at the time of sending and before any fault strikes it.
    pub fn set_tap(&self, tap: PcapWriter<Box<dyn Write>>) {
        self.fabric.borrow_mut().tap = Some(tap);
    }

    /// Ends the recording.
    pub fn take_tap(&self) -> Option<PcapWriter<Box<dyn Write>>> {
        self.fabric.borrow_mut().tap.take()
    }

    /// What has happened so far.
    pub fn counters(&self) -> SimCounters {
        self.fabric.borrow().counters()
    }

    /// A hash over time, addresses, length and first bytes of every datagram sent. Two runs with equal hashes were,
    /// for all that can be known, the same.
    pub fn trace_hash(&self) -> u64 {
        self.fabric.borrow().trace_hash()
    }
}

/// One address of a [`SimNet`]. Dropping it loses what is on its way to it, as when a machine dies.
pub struct SimPort {
    fabric: Rc<RefCell<Fabric>>,
    station: usize,
    ip: Ipv4Addr,
    stats: PortStats,
}

impl SimPort {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

impl Port for SimPort {
    /// `local` is this port's address, or 0.0.0.0 which means the same.
    fn bind(&mut self, local: SocketAddrV4, _options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        if !local.ip().is_unspecified() && *local.ip() != self.ip {
            return Err(NetError::AddressNotAvailable { addr: local });
        }
        let port = self.fabric.borrow_mut().bind(self.station, local.port());
        port.map(|port| SocketAddrV4::new(self.ip, port)).ok_or(NetError::AddressInUse { addr: local })
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        self.fabric.borrow_mut().unbind(self.station, local.port());
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let mut fabric = self.fabric.borrow_mut();
        let mut taken = 0;
        while taken < max && out.room() > 0 {
            let Some(packet) = fabric.receive(self.station, now) else { break };
            taken += 1;
            let pushed = out.push(packet);
            debug_assert!(pushed.is_ok(), "there was room");
        }
        self.stats.rx_packets += taken as u64;
        taken
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let mut fabric = self.fabric.borrow_mut();
        let mut taken = 0;
        while taken < BURST_PACKETS {
            let Some(packet) = queue.pop() else { break };
            taken += 1;
            fabric.send(self.station, now, packet);
        }
        self.stats.tx_packets += taken as u64;
        taken
    }

    /// Returns at once: in virtual time it is the world that waits, see [`Port::next_arrival`].
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {}

    fn capabilities(&self) -> Capabilities {
        Capabilities { payload_bytes: self.fabric.borrow().payload_bytes }
    }

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.fabric.borrow().next_arrival(self.station)
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        self.fabric.borrow_mut().detach(self.station);
    }
}
