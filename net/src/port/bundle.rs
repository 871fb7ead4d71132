//! Several links of one host as one device of frames: a station of a mesh, which needs no switch in the middle.
//!
//! ```text
//!                    to whom it knows: by the link he was last heard on        device ── node 2
//!   Framed ── Bundle ─────────────────────────────────────────────────────────── device ── node 3
//!   10.0.0.1         to whom it does not know, and to groups: by every link    device ── the client
//! ```
//!
//! It learns as a switch does, from the frames that come in, but passes nothing on between its links: there can be no loop. So
//! the stack on top asks by ARP on every link, hears the answer on one, and nobody writes routes down.

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::offload::Offloads;
use crate::packet::Packet;
use crate::port::several::{DEVICES_MAX, Watch, describe_all, sum_counters, take_turns};
use crate::port::{FramePort, PortDescription};
use crate::socket::Priority;
use crate::stack::{HEADERS_BYTES, MacAddr};
use crate::stats::PortStats;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Most links of one host.
pub const LINKS_MAX: usize = 16;
const _: () = assert!(LINKS_MAX <= DEVICES_MAX);
/// Stations whose link is known, of all links together. At the limit all are forgotten and heard anew.
const STATIONS_MAX: usize = 256;
/// Frames that wait for a link which is full. The oldest goes for a newer one.
const WAITING_FRAMES: usize = 256;
/// A link that has taken nothing for so long has nobody at its other end: what waits for it is dropped, so that an idle core need not
/// look whether there is room by now.
const PATIENCE: Duration = Duration::from_millis(2);
/// A link on which so many looks in a row have found nothing is silent: between sleeps it is looked at a part as often,
const SILENT_LOOKS: u32 = 256;
/// once in so many receipts.
const SELDOM: u32 = 8;

/// One host's links as one device, with the station of the first. A link that nobody is at, or that is full, keeps none of the others
/// waiting: what it has no room for is dropped after 2 ms or beyond 256 frames, and counted as refused.
///
/// Every device must take frames that are for the first one's station, too: memif and packet sockets on links of their own do, a card
/// has to be promiscuous. A receipt costs a look at every link, but for those that have long been silent: some microseconds late is what
/// their next frame may be to a core that is busy.
pub struct Bundle<P: FramePort> {
    /// Never empty.
    links: Vec<Link<P>>,
    /// The link on which each was last heard.
    stations: BTreeMap<MacAddr, usize>,
    /// Who is asked first for the next burst.
    next: usize,
    /// Receipts so far: every eighth leaves no link out,
    receipts: u32,
    /// nor does the next one, since the core has slept.
    looks_everywhere: bool,
    /// From the start on, where there are several.
    watch: Option<Watch>,
    /// Frames sent by every link, since their receiver is not known or is a group.
    flooded: u64,
    /// Frames for which a link had no room, or that had no copy for one.
    dropped: u64,
}

struct Link<P> {
    device: P,
    waiting: PacketQueue,
    /// It takes nothing since then.
    stuck_since: Option<Instant>,
    /// Who was heard last, most often the only one there is. Of no other link, or nobody: the broadcast.
    heard: MacAddr,
    /// Looks in a row that have found nothing.
    silent_looks: u32,
}

impl<P: FramePort> Link<P> {
    /// Queues a frame; the number of those that had to go for it.
    fn queue(&mut self, frame: Packet) -> u64 {
        let lost = self.waiting.is_full() && self.waiting.pop().is_some();
        let queued = self.waiting.push(frame);
        debug_assert!(queued.is_ok(), "there is room");
        u64::from(lost)
    }

    /// Sends what waits; the number of frames that were given up.
    fn flush(&mut self, now: Instant) -> u64 {
        if self.waiting.is_empty() {
            return 0;
        }
        while self.device.tx_burst(now, &mut self.waiting) > 0 {
            self.stuck_since = None;
            if self.waiting.is_empty() {
                return 0;
            }
        }
        let since = *self.stuck_since.get_or_insert(now);
        if now.saturating_since(since) < PATIENCE {
            return 0;
        }
        let lost = self.waiting.len() as u64;
        self.waiting.clear();
        self.stuck_since = None;
        // So that it knows that nothing waits for room any more.
        self.device.tx_burst(now, &mut self.waiting);
        lost
    }
}

impl<P: FramePort> Bundle<P> {
    /// Of `first`, which gives the station's address, and `others`, [`LINKS_MAX`] at most: further ones are closed.
    pub fn new(first: P, others: impl IntoIterator<Item = P>) -> Self {
        let link = |device: P| Link {
            device,
            waiting: PacketQueue::new(WAITING_FRAMES),
            stuck_since: None,
            heard: MacAddr::BROADCAST,
            silent_looks: 0,
        };
        let links = std::iter::once(first).chain(others).take(LINKS_MAX).map(link).collect();
        let stations = BTreeMap::new();
        Bundle { links, stations, next: 0, receipts: 0, looks_everywhere: true, watch: None, flooded: 0, dropped: 0 }
    }

    /// The devices, in the order in which they were given.
    pub fn devices_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.links.iter_mut().map(|link| &mut link.device)
    }

    fn devices(&self) -> impl Iterator<Item = &P> {
        self.links.iter().map(|link| &link.device)
    }

    /// Notes behind which link the senders of these frames are.
    fn learn<'a>(&mut self, at: usize, frames: impl Iterator<Item = &'a Packet>) {
        for frame in frames {
            let Some(station) = station_at(frame, 6).filter(|station| *station != self.links[at].heard) else {
                continue;
            };
            if !station.is_unicast() {
                continue;
            }
            self.links[at].heard = station;
            if self.stations.len() == STATIONS_MAX && !self.stations.contains_key(&station) {
                self.stations.clear();
                // They have to be noted again, too.
                self.links.iter_mut().for_each(|link| link.heard = MacAddr::BROADCAST);
            }
            if self.stations.insert(station, at).is_some_and(|before| before != at) {
                // Where it was before, it is news once it comes back.
                self.links.iter_mut().enumerate().filter(|(other, _)| *other != at).for_each(|(_, link)| {
                    if link.heard == station {
                        link.heard = MacAddr::BROADCAST;
                    }
                });
            }
        }
    }

    /// The link by which a frame's receiver is reached, if that is known.
    fn link_to(&self, frame: &Packet) -> Option<usize> {
        let station = station_at(frame, 0).filter(|station| station.is_unicast())?;
        let heard = self.links.iter().position(|link| link.heard == station);
        heard.or_else(|| self.stations.get(&station).copied())
    }

    /// The one link by which all frames of the next burst go, where it is free: it can take them as they are.
    fn only_link(&self, queue: &PacketQueue) -> Option<usize> {
        let mut frames = queue.iter().take(BURST_PACKETS);
        let first = self.link_to(frames.next()?)?;
        let is_free = self.links[first].waiting.is_empty();
        (is_free && frames.all(|frame| self.link_to(frame) == Some(first))).then_some(first)
    }

    /// Queues a frame at the links by which its receiver may be reached.
    fn distribute(&mut self, frame: Packet) {
        if let Some(link) = self.link_to(&frame).and_then(|at| self.links.get_mut(at)) {
            self.dropped += link.queue(frame);
            return;
        }
        self.flooded += 1;
        let Some((last, others)) = self.links.split_last_mut() else { return };
        for link in others {
            self.dropped += copy_of(&frame).map_or(1, |copy| link.queue(copy));
        }
        self.dropped += last.queue(frame);
    }
}

/// The station of which a frame says so at this place: 0 the receiver, 6 the sender.
#[inline]
fn station_at(frame: &Packet, offset: usize) -> Option<MacAddr> {
    frame.data().get(offset..offset + 6)?.try_into().ok().map(MacAddr)
}

/// `None` where the pool of the heap is at its limit or the frame is longer than any that is sent.
fn copy_of(frame: &Packet) -> Option<Packet> {
    let mut copy = Packet::alloc(Priority::Control)?;
    copy.prepend(HEADERS_BYTES)?;
    copy.truncate(0);
    copy.extend_from_slice(frame.data()).ok()?;
    copy.set_checksums(frame.checksums());
    Some(copy)
}

impl<P: FramePort> FramePort for Bundle<P> {
    fn start(&mut self) {
        self.devices_mut().for_each(FramePort::start);
        if self.links.len() > 1 {
            self.watch = Watch::over(self.links.iter().map(|link| link.device.sleep_fd()));
        }
    }

    /// That of the first device.
    fn mac(&self) -> MacAddr {
        self.links[0].device.mac()
    }

    /// The least of what the devices carry.
    fn frame_bytes(&self) -> usize {
        self.devices().map(FramePort::frame_bytes).min().unwrap_or(0)
    }

    /// What all of them fill in.
    fn offloads(&self) -> Offloads {
        let both = |a: Offloads, b: Offloads| Offloads { ipv4: a.ipv4 && b.ipv4, udp: a.udp && b.udp };
        self.devices().map(FramePort::offloads).reduce(both).unwrap_or_default()
    }

    /// Each link has its share of `max`, as the devices of a [`MultiHomed`](crate::MultiHomed) have.
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        if let [link] = &mut self.links[..] {
            return link.device.rx_burst(now, max, out);
        }
        let count = self.links.len();
        self.receipts = self.receipts.wrapping_add(1);
        let looks_everywhere = std::mem::take(&mut self.looks_everywhere) || self.receipts.is_multiple_of(SELDOM);
        let taken = take_turns(count, self.next, max.min(out.room()), |at, want| {
            let link = &mut self.links[at];
            if link.silent_looks >= SILENT_LOOKS && !looks_everywhere {
                return 0;
            }
            let before = out.len();
            let got = link.device.rx_burst(now, want, out);
            link.silent_looks = if got > 0 { 0 } else { link.silent_looks.saturating_add(1) };
            self.learn(at, out.iter().skip(before));
            got
        });
        self.next = if self.next + 1 < count { self.next + 1 } else { 0 };
        self.dropped += self.links.iter_mut().map(|link| link.flush(now)).sum::<u64>();
        taken
    }

    /// Takes all there is, up to a burst. What a link has no room for waits here, and is tried again with each call and each receipt.
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        if let [link] = &mut self.links[..] {
            return link.device.tx_burst(now, queue);
        }
        let only = self.only_link(queue);
        let mut taken = only.map_or(0, |at| self.links[at].device.tx_burst(now, queue));
        for frame in std::iter::from_fn(|| queue.pop()).take(BURST_PACKETS.saturating_sub(taken)) {
            self.distribute(frame);
            taken += 1;
        }
        self.dropped += self.links.iter_mut().map(|link| link.flush(now)).sum::<u64>();
        taken
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        if let [link] = &mut self.links[..] {
            return link.device.park(timeout, wake);
        }
        let longest = timeout.into_iter().chain(self.prepare_sleep()).min();
        let Some(watch) = self.watch.as_mut().filter(|_| longest != Some(Duration::ZERO)) else { return };
        watch.wait(longest, wake, |at| {
            if let Some(link) = self.links.get_mut(at) {
                link.device.woken();
            }
        });
    }

    fn prepare_sleep(&mut self) -> Option<Duration> {
        self.looks_everywhere = true;
        let can_watch = self.links.len() == 1 || self.watch.is_some();
        let limits = self.devices_mut().filter_map(FramePort::prepare_sleep).min();
        if can_watch { limits } else { Some(Duration::ZERO) }
    }

    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.links[..] {
            [link] => link.device.sleep_fd(),
            _ => self.watch.as_ref().map(Watch::fd),
        }
    }

    fn woken(&mut self) {
        if let [link] = &mut self.links[..] {
            return link.device.woken();
        }
        let Some(watch) = &mut self.watch else { return };
        watch.wait(Some(Duration::ZERO), None, |at| {
            if let Some(link) = self.links.get_mut(at) {
                link.device.woken();
            }
        });
    }

    /// Of all links together; what was dropped here counts as refused.
    fn stats(&self) -> PortStats {
        let stats = self.devices().fold(PortStats::default(), |sum, device| sum.plus(device.stats()));
        PortStats { tx_refused: stats.tx_refused + self.dropped, ..stats }
    }

    /// Of all links together, name by name, and the bundle's own.
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        sum_counters(|add| self.devices().for_each(|device| device.counters(add)), tell);
        if self.links.len() > 1 {
            tell("links.flooded", self.flooded);
            tell("links.dropped", self.dropped);
        }
    }

    /// The names of all; the link is up where each is.
    fn describe(&self) -> PortDescription {
        describe_all(&self.devices().map(FramePort::describe).collect::<Vec<_>>())
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.devices().filter_map(FramePort::next_arrival).min()
    }
}
