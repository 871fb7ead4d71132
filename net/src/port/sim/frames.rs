//! A port of the simulated network that carries Ethernet frames.

use super::fabric::Fabric;
use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::port::FramePort;
use crate::stack::{HEADERS_BYTES, MacAddr};
use crate::stats::PortStats;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::Instant;

/// One station of a [`SimNet`](super::SimNet) that works as a switch, see [`SimNet::frame_port`](super::SimNet). Dropping
/// it loses what is on its way to it, as when a machine dies.
pub struct SimFramePort {
    fabric: Rc<RefCell<Fabric>>,
    station: usize,
    ip: Ipv4Addr,
    stats: PortStats,
}

impl SimFramePort {
    pub(super) fn new(fabric: Rc<RefCell<Fabric>>, station: usize, ip: Ipv4Addr) -> Self {
        SimFramePort { fabric, station, ip, stats: PortStats::default() }
    }
}

impl FramePort for SimFramePort {
    fn mac(&self) -> MacAddr {
        MacAddr::derived(self.ip)
    }

    fn frame_bytes(&self) -> usize {
        self.fabric.borrow().payload_bytes + HEADERS_BYTES
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let mut fabric = self.fabric.borrow_mut();
        let mut taken = 0;
        while taken < max && out.room() > 0 {
            let Some(frame) = fabric.receive(self.station, now) else { break };
            taken += 1;
            let pushed = out.push(frame);
            debug_assert!(pushed.is_ok(), "there was room");
        }
        self.stats.rx_packets += taken as u64;
        taken
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let mut fabric = self.fabric.borrow_mut();
        let mut taken = 0;
        while taken < BURST_PACKETS {
            let Some(mut frame) = queue.pop() else { break };
            taken += 1;
            frame.set_src(SocketAddrV4::new(self.ip, 0));
            fabric.send_frame(self.station, now, frame);
        }
        self.stats.tx_packets += taken as u64;
        taken
    }

    /// Returns at once: in virtual time it is the world that waits.
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {}

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.fabric.borrow().next_arrival(self.station)
    }
}

impl Drop for SimFramePort {
    fn drop(&mut self) {
        self.fabric.borrow_mut().detach(self.station);
    }
}
