//! A device without a device: packets change hands between ports of one thread, by a move and nothing else.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::burst::BURST_PACKETS;
use trimaran_net::{Burst, Capabilities, NetError, Packet, PacketQueue, Port, PortStats, SocketOptions};
use trimaran_runtime::Instant;

/// Packets that may wait at one port; more are lost.
const RING_PACKETS: usize = 4096;
/// What an Ethernet frame of 1500 bytes carries of UDP.
const PAYLOAD_BYTES: usize = 1472;

type Ring = Rc<RefCell<VecDeque<Packet>>>;

/// The rings of all ports, each the receive ring of one port with one or more addresses.
#[derive(Clone, Default)]
pub(crate) struct Rings {
    by_ip: Rc<RefCell<BTreeMap<Ipv4Addr, Ring>>>,
}

impl Rings {
    /// A port with these addresses.
    pub(crate) fn port(&self, ips: &[Ipv4Addr]) -> RingPort {
        let own: Ring = Rc::new(RefCell::new(VecDeque::with_capacity(RING_PACKETS)));
        self.by_ip.borrow_mut().extend(ips.iter().map(|ip| (*ip, own.clone())));
        RingPort { own, rings: self.clone(), last: None, next_port: 40_000, stats: PortStats::default() }
    }
}

/// One end of the rings.
pub(crate) struct RingPort {
    own: Ring,
    rings: Rings,
    /// Where the last packet went.
    last: Option<(Ipv4Addr, Ring)>,
    next_port: u16,
    stats: PortStats,
}

impl RingPort {
    fn ring(&mut self, to: Ipv4Addr) -> Option<&Ring> {
        if self.last.as_ref().is_none_or(|(ip, _)| *ip != to) {
            self.last = Some((to, self.rings.by_ip.borrow().get(&to)?.clone()));
        }
        self.last.as_ref().map(|(_, ring)| ring)
    }
}

impl Port for RingPort {
    fn bind(&mut self, local: SocketAddrV4, _: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        self.next_port += 1;
        Ok(if local.port() == 0 { SocketAddrV4::new(*local.ip(), self.next_port) } else { local })
    }

    fn unbind(&mut self, _: SocketAddrV4) {}

    fn rx_burst(&mut self, _: Instant, max: usize, out: &mut Burst) -> usize {
        let mut ring = self.own.borrow_mut();
        let count = ring.len().min(max).min(out.room());
        ring.drain(..count).for_each(|packet| drop(out.push(packet)));
        self.stats.rx_packets += count as u64;
        count
    }

    fn tx_burst(&mut self, _: Instant, queue: &mut PacketQueue) -> usize {
        let mut count = 0;
        while count < BURST_PACKETS
            && let Some(packet) = queue.pop()
        {
            count += 1;
            let Some(ring) = self.ring(*packet.dst().ip()) else { continue };
            let mut ring = ring.borrow_mut();
            if ring.len() < RING_PACKETS {
                ring.push_back(packet);
            }
        }
        self.stats.tx_packets += count as u64;
        count
    }

    fn park(&mut self, _: Option<Duration>, _: Option<BorrowedFd<'_>>) {}

    fn capabilities(&self) -> Capabilities {
        Capabilities { payload_bytes: PAYLOAD_BYTES }
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}
