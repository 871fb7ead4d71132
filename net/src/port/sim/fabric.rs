//! The network between simulated ports: who reaches whom, and what is on its way.

use super::SimCounters;
use super::link::{FaultCounters, Link, Odds, copy};
use crate::packet::Packet;
use crate::stack::{HEADERS_BYTES, MacAddr};
use crate::tap::PcapWriter;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use trimaran_runtime::Instant;

/// Delay of what a port sends to itself; no fault strikes it.
const SELF_DELAY_NS: u64 = 1_000;
/// One in so many datagrams is kept for a replay.
const KEEP_ONE_IN: u32 = 16;
/// Bytes of each payload that the trace hash covers.
const TRACED_BYTES: usize = 64;

/// A datagram on its way. Ordered so that the earliest is the greatest, as `BinaryHeap` wants it.
struct Flight {
    at: Instant,
    sequence: u64,
    packet: Packet,
}

impl Flight {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.sequence)
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flight {}

/// One address of the network, with or without a living port.
struct Station {
    attached: bool,
    /// Its port carries frames, not datagrams.
    framed: bool,
    inbox: BinaryHeap<Flight>,
    bound: BTreeSet<u16>,
    next_ephemeral: u16,
}

/// What the settings say about one direction between two stations.
#[derive(Clone, Copy)]
enum Way {
    Open(Odds),
    Blocked,
    Partitioned,
}

struct Route {
    way: Way,
    /// When the last datagram that kept its place arrives.
    last_arrival: Instant,
}

pub(super) type DuplicateFilter = Rc<dyn Fn(&Packet) -> bool>;

pub(super) struct Fabric {
    rng: Pcg64Mcg,
    pub(super) payload_bytes: usize,
    pub(super) inbox_packets: usize,
    stations: Vec<Station>,
    index: BTreeMap<Ipv4Addr, usize>,
    default_link: Link,
    links: BTreeMap<(Ipv4Addr, Ipv4Addr), Link>,
    blocked: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    partition: Vec<BTreeSet<Ipv4Addr>>,
    /// `stations.len()` squared, source by destination; empty after a change of the settings.
    routes: Vec<Route>,
    pub(super) duplicate_filter: Option<DuplicateFilter>,
    pub(super) tap: Option<PcapWriter<Box<dyn Write>>>,
    /// Copies of datagrams sent, and to which station: some of all that the network has carried.
    kept: Vec<(usize, Packet)>,
    pub(super) keep_packets: usize,
    sequence: u64,
    faults: FaultCounters,
    counters: SimCounters,
    trace_hash: u64,
}

impl Fabric {
    pub(super) fn new(seed: u64) -> Self {
        Fabric {
            rng: Pcg64Mcg::seed_from_u64(seed),
            payload_bytes: 1472,
            inbox_packets: 8192,
            stations: Vec::new(),
            index: BTreeMap::new(),
            default_link: Link::default(),
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            partition: Vec::new(),
            routes: Vec::new(),
            duplicate_filter: None,
            tap: None,
            kept: Vec::new(),
            keep_packets: 0,
            sequence: 0,
            faults: FaultCounters::default(),
            counters: SimCounters::default(),
            trace_hash: seed,
        }
    }

    // ---- settings ----

    pub(super) fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
        self.links.clear();
        self.reroute();
    }

    pub(super) fn set_link(&mut self, src: Ipv4Addr, dst: Ipv4Addr, link: Link) {
        self.links.insert((src, dst), link);
        self.reroute();
    }

    pub(super) fn block(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.blocked.insert((src, dst));
        self.reroute();
    }

    pub(super) fn unblock(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.blocked.remove(&(src, dst));
        self.reroute();
    }

    pub(super) fn set_partition(&mut self, groups: &[&[Ipv4Addr]]) {
        self.partition = groups.iter().map(|group| group.iter().copied().collect()).collect();
        self.reroute();
    }

    pub(super) fn heal(&mut self) {
        self.partition.clear();
        self.blocked.clear();
        self.reroute();
    }

    fn separated(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let listed = |ip| self.partition.iter().any(|group| group.contains(ip));
        let together = self.partition.iter().any(|group| group.contains(&src) && group.contains(&dst));
        listed(&src) && listed(&dst) && !together
    }

    fn way(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Way {
        if self.separated(src, dst) {
            Way::Partitioned
        } else if self.blocked.contains(&(src, dst)) {
            Way::Blocked
        } else {
            Way::Open(Odds::new(self.links.get(&(src, dst)).unwrap_or(&self.default_link)))
        }
    }

    /// Applies changed settings to every pair of stations; what is on its way stays so.
    fn reroute(&mut self) {
        let ips: Vec<(Ipv4Addr, usize)> = self.index.iter().map(|(ip, at)| (*ip, *at)).collect();
        for &(src, from) in &ips {
            for &(dst, to) in &ips {
                let way = self.way(src, dst);
                self.routes[from * ips.len() + to].way = way;
            }
        }
    }

    // ---- ports ----

    /// Attaches a port; `None` where a living one already has this address.
    pub(super) fn attach(&mut self, ip: Ipv4Addr, framed: bool) -> Option<usize> {
        if let Some(&at) = self.index.get(&ip) {
            let station = &mut self.stations[at];
            if !station.attached {
                station.framed = framed;
            }
            return (!std::mem::replace(&mut station.attached, true)).then_some(at);
        }
        let at = self.stations.len();
        self.stations.push(Station {
            attached: true,
            framed,
            inbox: BinaryHeap::new(),
            bound: BTreeSet::new(),
            next_ephemeral: 49_152,
        });
        self.index.insert(ip, at);
        self.widen_routes();
        Some(at)
    }

    /// Makes the table of routes one wider and higher, keeping what it says about older pairs.
    fn widen_routes(&mut self) {
        let count = self.stations.len();
        let mut old = std::mem::take(&mut self.routes).into_iter();
        for from in 0..count {
            for to in 0..count {
                let known = if from < count - 1 && to < count - 1 { old.next() } else { None };
                self.routes.push(known.unwrap_or(Route { way: Way::Blocked, last_arrival: Instant::ZERO }));
            }
        }
        self.reroute();
    }

    pub(super) fn detach(&mut self, at: usize) {
        let station = &mut self.stations[at];
        station.attached = false;
        station.bound.clear();
        self.counters.lost_with_port += station.inbox.len() as u64;
        station.inbox.clear();
    }

    /// Binds UDP port `port`, or a free one for 0. `None` where it is taken.
    pub(super) fn bind(&mut self, at: usize, port: u16) -> Option<u16> {
        let station = &mut self.stations[at];
        if port != 0 {
            return station.bound.insert(port).then_some(port);
        }
        for _ in 49_152..=u16::MAX {
            let port = station.next_ephemeral;
            station.next_ephemeral = port.checked_add(1).unwrap_or(49_152);
            if station.bound.insert(port) {
                return Some(port);
            }
        }
        None
    }

    pub(super) fn unbind(&mut self, at: usize, port: u16) {
        self.stations[at].bound.remove(&port);
    }

    // ---- traffic ----

    /// Sends one datagram on its way.
    pub(super) fn send(&mut self, from: usize, now: Instant, packet: Packet) {
        self.counters.sent += 1;
        self.trace(now, &packet);
        if let Some(tap) = &mut self.tap {
            tap.record(now, &packet);
        }
        if packet.len() > self.payload_bytes {
            self.counters.oversize += 1;
            return;
        }
        let Some(to) = self.locate(*packet.dst().ip(), false) else {
            self.counters.unreachable += 1;
            return;
        };
        if from == to {
            self.arrive(to, now + std::time::Duration::from_nanos(SELF_DELAY_NS), packet);
            return;
        }
        self.transfer(from, to, now, packet);
    }

    /// Sends one frame on its way, or copies of it on several.
    pub(super) fn send_frame(&mut self, from: usize, now: Instant, mut frame: Packet) {
        self.counters.sent += 1;
        let target = frame.data().first_chunk().map(|dst| MacAddr(*dst));
        // Which pairs of addresses a frame concerns is told by the link, not by what is in it.
        if let Some(ip) = target.and_then(MacAddr::derived_from) {
            frame.set_dst(SocketAddrV4::new(ip, 0));
        }
        self.trace(now, &frame);
        if let Some(tap) = &mut self.tap {
            tap.record_frame(now, frame.data());
        }
        if frame.len() > self.payload_bytes + HEADERS_BYTES {
            self.counters.oversize += 1;
            return;
        }
        let Some(target) = target else {
            self.counters.unreachable += 1;
            return;
        };
        if target.is_unicast() {
            match target.derived_from().and_then(|ip| self.locate(ip, true)) {
                Some(to) if to != from => self.transfer(from, to, now, frame),
                _ => self.counters.unreachable += 1,
            }
            return;
        }
        for to in 0..self.stations.len() {
            if to == from || !self.stations[to].attached || !self.stations[to].framed {
                continue;
            }
            match copy(&frame) {
                Some(copy) => self.transfer(from, to, now, copy),
                None => self.counters.overflowed += 1,
            }
        }
    }

    /// The living port with address `ip`, if it carries frames or does not, as asked.
    fn locate(&self, ip: Ipv4Addr, framed: bool) -> Option<usize> {
        let alike = |to: &usize| self.stations[*to].attached && self.stations[*to].framed == framed;
        self.index.get(&ip).copied().filter(alike)
    }

    /// Takes a packet over the link between two stations, with all that may happen there.
    fn transfer(&mut self, from: usize, to: usize, now: Instant, packet: Packet) {
        let framed = self.stations[to].framed;
        let route = from * self.stations.len() + to;
        let odds = match self.routes[route].way {
            Way::Open(odds) => odds,
            Way::Blocked => {
                self.counters.blocked += 1;
                return;
            }
            Way::Partitioned => {
                self.counters.partitioned += 1;
                return;
            }
        };
        let filter = self.duplicate_filter.clone();
        let may_duplicate = |packet: &mut Packet| {
            let Some(filter) = &filter else { return true };
            let headers_bytes = if framed { HEADERS_BYTES.min(packet.len()) } else { 0 };
            packet.trim_front(headers_bytes);
            let may = filter(packet);
            // What was trimmed is head room now, and unchanged.
            packet.prepend(headers_bytes).is_some() && may
        };
        let mut packet = packet;
        if self.keep_packets > 0 && self.rng.next_u32().is_multiple_of(KEEP_ONE_IN) && may_duplicate(&mut packet) {
            self.keep(to, &packet);
        }
        let mut out: smallvec::SmallVec<[_; 2]> = smallvec::SmallVec::new();
        odds.pass(packet, &mut self.rng, &mut self.faults, may_duplicate, |emission| out.push(emission));
        for emission in out {
            let mut at = now + std::time::Duration::from_nanos(emission.delay_ns);
            if emission.in_order {
                let last = &mut self.routes[route].last_arrival;
                at = at.max(*last);
                *last = at;
            }
            self.arrive(to, at, emission.packet);
        }
    }

    fn keep(&mut self, to: usize, packet: &Packet) {
        let Some(copy) = copy(packet) else { return };
        if self.kept.len() < self.keep_packets {
            self.kept.push((to, copy));
        } else {
            let place = self.rng.next_u32() as usize % self.kept.len();
            self.kept[place] = (to, copy);
        }
    }

    /// Sends one of the kept datagrams again, from `source` where that is given and the datagram is no frame.
    pub(super) fn replay(&mut self, now: Instant, source: Option<SocketAddrV4>) -> bool {
        if self.kept.is_empty() {
            return false;
        }
        let place = self.rng.next_u32() as usize % self.kept.len();
        let (to, kept) = &self.kept[place];
        let (to, copy) = (*to, copy(kept));
        let station = &self.stations[to];
        let Some(mut packet) = copy.filter(|_| station.attached && !(station.framed && source.is_some())) else {
            return false;
        };
        packet.set_src(source.unwrap_or(packet.src()));
        self.arrive(to, now + std::time::Duration::from_nanos(SELF_DELAY_NS), packet);
        true
    }

    pub(super) fn forget_kept(&mut self, mut old: impl FnMut(&Packet) -> bool) {
        self.kept.retain(|(_, kept)| !old(kept));
    }

    /// A datagram that no port has sent; `false` where nobody is there to receive it.
    pub(super) fn inject(&mut self, now: Instant, packet: Packet) -> bool {
        let to = self.locate(*packet.dst().ip(), false);
        if let Some(to) = to {
            self.arrive(to, now + std::time::Duration::from_nanos(SELF_DELAY_NS), packet);
        }
        to.is_some()
    }

    fn arrive(&mut self, to: usize, at: Instant, packet: Packet) {
        let inbox = &mut self.stations[to].inbox;
        if inbox.len() >= self.inbox_packets {
            self.counters.overflowed += 1;
            return;
        }
        self.sequence += 1;
        inbox.push(Flight { at, sequence: self.sequence, packet });
    }

    /// The next datagram that has arrived at `station` by `now`.
    pub(super) fn receive(&mut self, station: usize, now: Instant) -> Option<Packet> {
        let inbox = &mut self.stations[station].inbox;
        if inbox.peek()?.at > now {
            return None;
        }
        self.counters.delivered += 1;
        inbox.pop().map(|flight| flight.packet)
    }

    pub(super) fn next_arrival(&self, station: usize) -> Option<Instant> {
        self.stations[station].inbox.peek().map(|flight| flight.at)
    }

    // ---- accounts ----

    pub(super) fn counters(&self) -> SimCounters {
        SimCounters {
            faults: self.faults,
            in_flight: self.stations.iter().map(|station| station.inbox.len()).sum(),
            ..self.counters
        }
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    fn trace(&mut self, now: Instant, packet: &Packet) {
        let addr = |addr: SocketAddrV4| u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port());
        self.fold(now.as_nanos());
        self.fold(addr(packet.src()));
        self.fold(addr(packet.dst()) << 16 | packet.len() as u64);
        // The start of a payload tells runs apart: what follows it stems from the same state.
        let (words, rest) = packet.data()[..packet.len().min(TRACED_BYTES)].as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.fold(u64::from(*byte));
        }
    }

    fn fold(&mut self, word: u64) {
        self.trace_hash = (self.trace_hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
