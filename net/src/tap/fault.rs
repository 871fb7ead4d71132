//! A port that loses, delays, repeats and damages what it sends.

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::error::NetError;
use crate::packet::Packet;
use crate::port::sim::{Emission, FaultCounters, Link, Odds};
use crate::port::{Capabilities, Port, PortDescription};
use crate::socket::SocketOptions;
use crate::stats::PortStats;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Wraps any port and treats what it transmits as a [`Link`] would, drawn from a seed. What it receives passes
/// untouched: put an injector at each end for faults both ways.
///
/// Packets on which no delay falls are transmitted at once; others wait here, at most `held_packets` of them, and are
/// transmitted by the first [`Port::rx_burst`] or [`Port::tx_burst`] after their time. [`Port::park`] does not sleep
/// past it.
pub struct FaultInjector<P: Port> {
    port: P,
    odds: Odds,
    rng: Pcg64Mcg,
    counters: FaultCounters,
    /// Packets held back, by the time of their release and the order of their coming.
    held: BTreeMap<(Instant, u64), Packet>,
    held_packets: usize,
    overflowed: u64,
    sequence: u64,
    last_release: Instant,
    /// The last time seen, for want of a clock in `park`.
    now: Instant,
    /// Released, but refused by the port so far.
    released: PacketQueue,
}

impl<P: Port> FaultInjector<P> {
    /// Wraps `port`; at most `held_packets` wait at once, more are dropped and counted.
    pub fn new(port: P, link: Link, seed: u64, held_packets: usize) -> Self {
        FaultInjector {
            port,
            odds: Odds::new(&link),
            rng: Pcg64Mcg::seed_from_u64(seed),
            counters: FaultCounters::default(),
            held: BTreeMap::new(),
            held_packets,
            overflowed: 0,
            sequence: 0,
            last_release: Instant::ZERO,
            now: Instant::ZERO,
            released: PacketQueue::new(BURST_PACKETS),
        }
    }

    /// Changes what is done to packets from now on.
    pub fn set_link(&mut self, link: Link) {
        self.odds = Odds::new(&link);
    }

    /// How often each fault has struck.
    pub fn counters(&self) -> FaultCounters {
        self.counters
    }

    /// Packets dropped because too many were held back.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The wrapped port.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    fn hold(&mut self, now: Instant, emission: Emission) {
        if self.held.len() >= self.held_packets {
            self.overflowed += 1;
            return;
        }
        let mut at = now + Duration::from_nanos(emission.delay_ns);
        if emission.in_order {
            at = at.max(self.last_release);
            self.last_release = at;
        }
        self.sequence += 1;
        self.held.insert((at, self.sequence), emission.packet);
    }

    /// Transmits what has waited long enough, as far as the port takes it.
    fn release(&mut self, now: Instant) {
        self.now = now;
        loop {
            while !self.released.is_full()
                && let Some(first) = self.held.first_entry()
                && first.key().0 <= now
            {
                let pushed = self.released.push(first.remove());
                debug_assert!(pushed.is_ok(), "there was room");
            }
            if self.port.tx_burst(now, &mut self.released) == 0 {
                return;
            }
        }
    }
}

impl<P: Port> Port for FaultInjector<P> {
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
        self.release(now);
        self.port.rx_burst(now, max, out)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let mut taken = 0;
        while taken < BURST_PACKETS
            && let Some(packet) = queue.pop()
        {
            taken += 1;
            let mut out: smallvec::SmallVec<[Emission; 2]> = smallvec::SmallVec::new();
            self.odds.pass(packet, &mut self.rng, &mut self.counters, |_| true, |emission| out.push(emission));
            out.into_iter().for_each(|emission| self.hold(now, emission));
        }
        self.release(now);
        taken
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let release = self.held.first_key_value().map(|((at, _), _)| at.saturating_since(self.now));
        let timeout = match (timeout, release) {
            (Some(timeout), Some(release)) => Some(timeout.min(release)),
            (timeout, release) => timeout.or(release),
        };
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
        let release = self.held.first_key_value().map(|((at, _), _)| *at);
        [release, self.port.next_arrival()].into_iter().flatten().min()
    }
}
