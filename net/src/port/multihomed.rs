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
use crate::port::{Capabilities, FramePort, Port, PortDescription};
use crate::socket::SocketOptions;
use crate::stats::PortStats;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use trimaran_runtime::Instant;

/// Most devices of one port.
pub const DEVICES_MAX: usize = 32;
/// Among the members' numbers, that of the core's own descriptor.
const WAKE_KEY: u64 = u64::MAX;

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
    epoll: Option<OwnedFd>,
    wake: Option<RawFd>,
}

impl<P: FramePort> MultiHomed<P> {
    /// A port over `first` and `others`, [`DEVICES_MAX`] at most: further ones are closed.
    pub fn new(first: Framed<P>, others: impl IntoIterator<Item = Framed<P>>) -> Self {
        let members = std::iter::once(first).chain(others).take(DEVICES_MAX).collect();
        MultiHomed { members, next: 0, epoll: None, wake: None }
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

    /// An epoll instance over all that wakes the members.
    fn watched(&self) -> rustix::io::Result<OwnedFd> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (at, member) in self.members.iter().enumerate() {
            if let Some(fd) = member.device().sleep_fd() {
                epoll::add(&epoll, fd, EventData::new_u64(at as u64), EventFlags::IN)?;
            }
        }
        Ok(epoll)
    }

    /// What the members say of something, each once.
    fn joined(said: impl Iterator<Item = String>) -> String {
        let mut words: Vec<String> = Vec::new();
        for word in said {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.join(", ")
    }
}

impl<P: FramePort> Port for MultiHomed<P> {
    fn start(&mut self) {
        self.members.iter_mut().for_each(Port::start);
        match self.watched() {
            Ok(epoll) => self.epoll = Some(epoll),
            Err(errno) => tracing::warn!(%errno, "cannot wait for several devices: an idle core does not sleep"),
        }
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

    /// Each device has the same share of `max`, and those that have more take what others leave. Another one is first each time.
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let max = max.min(out.room());
        let count = self.members.len();
        let share = max.div_ceil(count);
        let (mut taken, mut have_more) = (0, u32::MAX);
        for limit in [share, max] {
            for at in (self.next..count).chain(0..self.next) {
                let want = limit.min(max - taken);
                if want == 0 || have_more & 1 << at == 0 {
                    continue;
                }
                let got = self.members[at].rx_burst(now, want, out);
                taken += got;
                if got < want {
                    have_more &= !(1 << at);
                }
            }
        }
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
        let Some(epoll) = self.epoll.as_ref().filter(|_| longest != Some(Duration::ZERO)) else { return };
        if let Some(wake) = wake.filter(|wake| self.wake != Some(wake.as_raw_fd())) {
            match epoll::add(epoll, wake, EventData::new_u64(WAKE_KEY), EventFlags::IN) {
                Ok(()) => self.wake = Some(wake.as_raw_fd()),
                Err(errno) => {
                    tracing::error!(%errno, "cannot watch the core's wake fd: wakes from other threads are late");
                }
            }
        }
        // A duration that does not fit a timespec is 292 billion years.
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut events = [const { MaybeUninit::<Event>::uninit() }; DEVICES_MAX + 1];
        // An error (a signal, most likely) looks like a sleep that ended early, which every caller expects.
        let Ok((events, _)) = epoll::wait(epoll, &mut events[..], longest.as_ref()) else { return };
        for event in events.iter() {
            if let Some(member) = usize::try_from(event.data.u64()).ok().and_then(|at| self.members.get_mut(at)) {
                member.device_mut().woken();
            }
        }
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
        let each: Vec<PortDescription> = self.members.iter().map(Port::describe).collect();
        let of = |word: fn(&PortDescription) -> &String| Self::joined(each.iter().map(|said| word(said).clone()));
        PortDescription {
            kind: of(|said| &said.kind),
            device: of(|said| &said.device),
            driver: of(|said| &said.driver),
            link_up: each.iter().map(|said| said.link_up).reduce(|a, b| Some(a? && b?)).flatten(),
            sleeps: of(|said| &said.sleeps),
        }
    }

    /// Of all devices together, name by name.
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for member in &self.members {
            member.counters(&mut |name, count| *sums.entry(name.to_owned()).or_default() += count);
        }
        sums.iter().for_each(|(name, count)| tell(name, *count));
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.members.iter().filter_map(Port::next_arrival).min()
    }
}
