//! A port of datagrams made of a port of frames and a [`Stack`].

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::error::NetError;
use crate::port::{Capabilities, FramePort, Port, PortDescription};
use crate::socket::SocketOptions;
use crate::stack::{Stack, StackConfig};
use crate::stats::PortStats;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// First of the ports that are given out where a caller asks for any.
const FIRST_EPHEMERAL: u16 = 49_152;
/// Datagrams that become frames before the device is given them: few enough that as many may wait where it is full.
const FLUSH_PACKETS: usize = 32;

/// Runs a stack over a device that carries frames, so that sockets can use it.
///
/// A socket may be bound to an address of this host, or to a multicast group, which is joined for as long as the socket is
/// bound. Datagrams to this host itself never reach the device; they take half of each burst where there are so many.
pub struct Framed<P: FramePort> {
    device: P,
    stack: Stack,
    bound: BTreeSet<SocketAddrV4>,
    next_ephemeral: u16,
    burst: Burst,
    /// The last time seen, to know how long a sleep may be.
    now: Instant,
}

impl<P: FramePort> Framed<P> {
    /// A stack over `device`.
    pub fn new(device: P, config: StackConfig) -> Self {
        let mut stack = Stack::new(config, device.mac(), device.frame_bytes());
        stack.leave_to_device(device.offloads());
        Framed {
            device,
            stack,
            bound: BTreeSet::new(),
            next_ephemeral: FIRST_EPHEMERAL,
            burst: Burst::new(),
            now: Instant::ZERO,
        }
    }

    /// The stack, for its counters and to pin neighbours.
    pub fn stack_mut(&mut self) -> &mut Stack {
        &mut self.stack
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut P {
        &mut self.device
    }

    /// Hands frames to the device until it is full or nothing is left.
    fn flush(&mut self, now: Instant) {
        while !self.stack.frames().is_empty() && self.device.tx_burst(now, self.stack.frames()) > 0 {}
    }

    /// How long until the stack has something to do, from the last call that told the time.
    pub(super) fn stack_due(&self) -> Option<Duration> {
        self.stack.next_due().map(|at| at.saturating_since(self.now))
    }

    /// The stack, to ask whose addresses it has.
    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The device.
    pub(super) fn device(&self) -> &P {
        &self.device
    }

    fn free_port(&mut self, ip: Ipv4Addr) -> Option<u16> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let port = self.next_ephemeral;
            self.next_ephemeral = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            if !self.bound.contains(&SocketAddrV4::new(ip, port)) {
                return Some(port);
            }
        }
        None
    }
}

impl<P: FramePort> Port for Framed<P> {
    fn start(&mut self) {
        self.device.start();
    }

    /// `local` is an address of this host, 0.0.0.0 which means the first of them, or a multicast group to be joined.
    fn bind(&mut self, local: SocketAddrV4, _options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        let is_group = local.ip().is_multicast();
        let ip = if local.ip().is_unspecified() { self.stack.ip() } else { *local.ip() };
        if !is_group && !self.stack.is_own(ip) {
            return Err(NetError::AddressNotAvailable { addr: local });
        }
        let port = if local.port() == 0 { self.free_port(ip) } else { Some(local.port()) };
        let addr = port.map(|port| SocketAddrV4::new(ip, port)).filter(|addr| !self.bound.contains(addr));
        let Some(addr) = addr else { return Err(NetError::AddressInUse { addr: local }) };
        if is_group && !self.stack.join(ip) {
            return Err(NetError::TooManyGroups { group: ip });
        }
        self.bound.insert(addr);
        Ok(addr)
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        if self.bound.remove(&local) && local.ip().is_multicast() {
            self.stack.leave(*local.ip());
        }
    }

    fn pin(&mut self, ip: Ipv4Addr) -> bool {
        // Hosts' own addresses are among a cluster's members, too.
        self.stack.is_own(ip) || self.stack.pin(ip, None)
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        self.now = now;
        let max = max.min(out.room());
        // Neither a busy link nor what this host tells itself may keep the other waiting.
        let reserved = self.stack.looped().len().min(max.div_ceil(2));
        // Each frame becomes one datagram at most.
        let mut taken = self.device.rx_burst(now, max - reserved, &mut self.burst);
        for frame in self.burst.drain() {
            if let Some(packet) = self.stack.receive(now, frame) {
                let pushed = out.push(packet);
                debug_assert!(pushed.is_ok(), "there was room");
            }
        }
        while taken < max
            && let Some(packet) = self.stack.looped().pop()
        {
            taken += 1;
            let pushed = out.push(packet);
            debug_assert!(pushed.is_ok(), "there was room");
        }
        self.stack.advance(now);
        self.flush(now);
        taken
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        self.now = now;
        self.flush(now);
        let mut taken = 0;
        // A full device pushes back: what it has no room for stays with the sockets, where Control goes first.
        while taken < BURST_PACKETS && !queue.is_empty() && self.stack.frames().is_empty() {
            for packet in std::iter::from_fn(|| queue.pop()).take(FLUSH_PACKETS) {
                self.stack.send(now, packet);
                taken += 1;
            }
            self.flush(now);
        }
        taken
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let timeout = timeout.into_iter().chain(self.stack_due()).min();
        self.device.park(timeout, wake);
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { payload_bytes: self.stack.payload_bytes() }
    }

    /// The device's, in frames; what the stack had to drop on the way out counts as refused.
    fn stats(&self) -> PortStats {
        let stats = self.device.stats();
        PortStats { tx_refused: stats.tx_refused + self.stack.counters().tx_dropped(), ..stats }
    }

    fn describe(&self) -> PortDescription {
        self.device.describe()
    }

    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        self.stack.counters().each(&mut |name, count| tell(&format!("stack.{name}"), count));
        self.device.counters(tell);
    }

    fn next_arrival(&self) -> Option<Instant> {
        [self.stack.next_due(), self.device.next_arrival()].into_iter().flatten().min()
    }
}
