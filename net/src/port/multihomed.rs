//! Several devices of frames under one core, each with addresses, a station and a stack of its own.
//!
//! ```text
//!                    bind, tx_burst: by the address it is from          Framed 10.0.0.1 ── device ──┐
//!   NetDriver ─── MultiHomed ──────────────────────────────────────────── Framed 10.0.0.2 ── device ──┼── the network
//!                    rx_burst: each in turn, with a fair share          Framed 10.0.0.3 ── device ──┘
//! ```

use crate::burst::{Burst, PacketQueue};
use crate::error::NetError;
use crate::port::framed::Framed;
use crate::port::several::{Watch, describe_all, sum_counters, take_turns};
use crate::port::{Capabilities, FramePort, Port, PortDescription};
use crate::socket::SocketOptions;
use crate::stats::PortStats;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

pub use crate::port::several::DEVICES_MAX;

/// One port over several devices, which one core polls. What its sockets on one device send to those on another leaves by the one and
/// comes back by the other, over whatever is between them: nothing is handed over inside.
///
/// A socket belongs to the device whose stack has its address, and sends by that one alone; 0.0.0.0 and multicast groups belong to the
/// first. No address may be on two of them. Each call costs a look at every device.
pub struct MultiHomed<P: FramePort> {
    /// Never empty.
    members: Vec<Framed<P>>,
    /// Who is asked first for the next burst.
    next: usize,
    /// Watches what wakes the members. From the start on; where the kernel has none the core does not sleep.
    watch: Option<Watch>,
}

impl<P: FramePort> MultiHomed<P> {
    /// A port over `first` and `others`, [`DEVICES_MAX`] at most: further ones are closed.
    pub fn new(first: Framed<P>, others: impl IntoIterator<Item = Framed<P>>) -> Self {
        let members = std::iter::once(first).chain(others).take(DEVICES_MAX).collect();
        MultiHomed { members, next: 0, watch: None }
    }

    /// The ports over each device, in the order in which they were given.
    pub fn members_mut(&mut self) -> &mut [Framed<P>] {
        &mut self.members
    }

    /// The one that has an address; the first, where that means all or none.
    fn owner(&mut self, ip: Ipv4Addr) -> Option<&mut Framed<P>> {
        let belongs_to_first = ip.is_unspecified() || ip.is_multicast();
        self.members.iter_mut().find(|member| belongs_to_first || member.stack().is_own(ip))
    }
}

impl<P: FramePort> Port for MultiHomed<P> {
    fn start(&mut self) {
        self.members.iter_mut().for_each(Port::start);
        self.watch = Watch::over(self.members.iter().map(|member| member.device().sleep_fd()));
    }

    /// `local` is an address that one of the devices has, or what belongs to the first.
    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        match self.owner(*local.ip()) {
            Some(member) => member.bind(local, options),
            None => Err(NetError::AddressNotAvailable { addr: local }),
        }
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        if let Some(member) = self.owner(*local.ip()) {
            member.unbind(local);
        }
    }

    /// On every device: a socket of any may send there.
    fn pin(&mut self, ip: Ipv4Addr) -> bool {
        let refused = self.members.iter_mut().map(|member| member.pin(ip)).filter(|is_pinned| !is_pinned).count();
        refused == 0
    }

    /// Each device has the same share of `max`, and those that have more take what others leave. Another one is first each time.
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let max = max.min(out.room());
        let count = self.members.len();
        let taken = take_turns(count, self.next, max, |at, want| self.members[at].rx_burst(now, want, out));
        self.next = (self.next + 1) % count;
        taken
    }

    /// What one socket sends leaves by the device that has its address: a queue's packets are all from one.
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        let Some(from) = queue.front().map(|packet| *packet.src().ip()) else { return 0 };
        debug_assert!(queue.iter().all(|packet| *packet.src().ip() == from), "a queue is one socket's");
        match self.owner(from) {
            Some(member) => member.tx_burst(now, queue),
            // No socket has such an address.
            None => {
                let packets = queue.len();
                queue.clear();
                packets
            }
        }
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let mut longest = timeout;
        for member in &mut self.members {
            let limits = member.stack_due().into_iter().chain(member.device_mut().prepare_sleep());
            longest = longest.into_iter().chain(limits).min();
        }
        let Some(watch) = self.watch.as_mut().filter(|_| longest != Some(Duration::ZERO)) else { return };
        watch.wait(longest, wake, |at| {
            if let Some(member) = self.members.get_mut(at) {
                member.device_mut().woken();
            }
        });
    }

    /// The least of what the devices can carry.
    fn capabilities(&self) -> Capabilities {
        let payloads = self.members.iter().map(|member| member.capabilities().payload_bytes);
        Capabilities { payload_bytes: payloads.min().unwrap_or(0) }
    }

    /// Of all devices together.
    fn stats(&self) -> PortStats {
        self.members.iter().fold(PortStats::default(), |sum, member| sum.plus(member.stats()))
    }

    /// The names of all; the link is up where each is.
    fn describe(&self) -> PortDescription {
        describe_all(&self.members.iter().map(Port::describe).collect::<Vec<_>>())
    }

    /// Of all devices together, name by name.
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        sum_counters(|add| self.members.iter().for_each(|member| member.counters(add)), tell);
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.members.iter().filter_map(Port::next_arrival).min()
    }
}
