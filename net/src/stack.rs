//! Ethernet, ARP, IPv4, ICMP, IGMP and UDP for ports that carry raw frames: frames in, datagrams out, and back.
//!
//! ```text
//!   frame -> ethernet -> ipv4 -> udp -> datagram          datagram -> udp, ipv4 -> neighbor -> ethernet -> frame
//!                |         +---> icmp -> answer                                     | not known yet
//!                |         +---> igmp                                               +-> waits, arp asks
//!                +-----> arp -> answer, or neighbor
//! ```
//!
//! Pure: no clock, no device. Time is an argument; [`Framed`](crate::port::framed::Framed) joins it to a device. It reads
//! packets in place and answers in the buffer of the question, so that a flood of questions takes no memory. Headers
//! of ARP, ICMP and IGMP are read by smoltcp's `wire` module, those of every packet by hand, which costs a quarter. Every
//! length is checked first: no input panics, each is counted ([`StackCounters`]).
//!
//! What it refuses on purpose: fragments, options, broadcasts, and whatever it has not asked for. An address is believed
//! only as the answer to its own question.

mod arp;
mod checksum;
mod counters;
mod ethernet;
mod icmp;
mod igmp;
mod ipv4;
mod limiter;
mod neighbor;
mod udp;

pub use counters::StackCounters;
pub use ethernet::MacAddr;

use crate::burst::PacketQueue;
use crate::offload::{Checksum, Checksums, Offloads};
use crate::packet::Packet;
use crate::socket::Priority;
use ethernet::Carries;
use limiter::Limiter;
use neighbor::{Resolved, Table};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_runtime::Instant;

/// Bytes of all headers of a datagram.
pub const HEADERS_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + udp::HEADER_BYTES;

/// Who a stack is, and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackConfig {
    /// This host's address.
    pub ip: Ipv4Addr,
    /// Further addresses of this host on the same link, such as those of other nodes in this process.
    pub more_ips: Vec<Ipv4Addr>,
    /// Leading bits of `ip` that name its link, 0 to 32.
    pub prefix_bits: u8,
    /// Who takes packets for other links; without one they are not sent.
    pub gateway: Option<Ipv4Addr>,
    /// Rows of the neighbour table. Half of them may be pinned.
    pub neighbors: usize,
    /// Packets that wait for one neighbour's address; the oldest goes for a newer one.
    pub waiting_each: usize,
    /// Packets that wait for the addresses of all neighbours but pinned ones; at the limit a new one is dropped.
    pub waiting_total: usize,
    /// How long an address is used before it is asked for again.
    pub fresh: Duration,
    /// Time between two questions for the same address.
    pub arp_retry: Duration,
    /// Questions before an address is given up. Packets wait for the time of as many, whether they could be sent or not.
    pub arp_tries: u8,
    /// Questions a second, for all addresses together but those of pinned neighbours, and as many at once.
    pub arp_asks_per_s: u32,
    /// Answers to ARP questions a second, and as many at once.
    pub arp_answers_per_s: u32,
    /// Echoes a second, and as many at once.
    pub icmp_answers_per_s: u32,
    /// Multicast groups joined at once.
    pub groups: usize,
    /// Frames that wait for a full device.
    pub queued_frames: usize,
    /// Largest payload of a datagram to be sent, in bytes; no more than the link carries in any case.
    pub payload_bytes: usize,
}

impl StackConfig {
    /// The usual limits: 256 neighbours asked again every 30 s, 64 packets waiting for one and 256 for all, 5 questions
    /// 50 ms apart, 256 questions, 1000 answers and 100 echoes a second, 32 groups, 512 frames. No gateway.
    pub fn new(ip: Ipv4Addr, prefix_bits: u8) -> Self {
        StackConfig {
            ip,
            more_ips: Vec::new(),
            prefix_bits,
            gateway: None,
            neighbors: 256,
            waiting_each: 64,
            waiting_total: 256,
            fresh: Duration::from_secs(30),
            arp_retry: Duration::from_millis(50),
            arp_tries: 5,
            arp_asks_per_s: 256,
            arp_answers_per_s: 1_000,
            icmp_answers_per_s: 100,
            groups: 32,
            queued_frames: 512,
            payload_bytes: usize::MAX,
        }
    }
}

/// The stack of one raw port.
pub struct Stack {
    config: StackConfig,
    mac: MacAddr,
    frame_bytes: usize,
    /// What the device is to do about the checksums of a datagram.
    left: Checksums,
    datagram_bytes: usize,
    neighbors: Table,
    groups: igmp::Groups,
    arp_asks: Limiter,
    arp_answers: Limiter,
    icmp_answers: Limiter,
    frames: PacketQueue,
    looped: PacketQueue,
    counters: StackCounters,
}

impl Stack {
    /// The stack of a station with address `mac` on a link that carries frames of `frame_bytes`, headers included.
    pub fn new(config: StackConfig, mac: MacAddr, frame_bytes: usize) -> Self {
        let limits = neighbor::Limits {
            neighbors: config.neighbors,
            waiting_each: config.waiting_each,
            waiting_total: config.waiting_total,
            fresh: config.fresh,
            retry: config.arp_retry,
            tries: config.arp_tries,
        };
        let even = |per_s| Limiter::new(per_s, per_s);
        Stack {
            mac,
            frame_bytes,
            left: Checksums::default(),
            datagram_bytes: frame_bytes.saturating_sub(HEADERS_BYTES).min(config.payload_bytes),
            neighbors: Table::new(limits),
            groups: igmp::Groups::new(config.groups),
            arp_asks: even(config.arp_asks_per_s),
            arp_answers: even(config.arp_answers_per_s),
            icmp_answers: even(config.icmp_answers_per_s),
            frames: PacketQueue::new(config.queued_frames),
            looped: PacketQueue::new(config.queued_frames),
            counters: StackCounters::default(),
            config,
        }
    }

    /// Leaves checksums of datagrams to the device from now on. It must fill in what a frame's
    /// [`Packet::checksums`] ask for; those of ICMP and IGMP are always made here.
    pub fn leave_to_device(&mut self, offloads: Offloads) {
        let fill = |fills| if fills { Checksum::Fill } else { Checksum::Unknown };
        self.left = Checksums { ipv4: fill(offloads.ipv4 && offloads.udp), udp: fill(offloads.udp) };
    }

    /// Largest payload of a datagram, in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// This host's address, the first of several.
    pub fn ip(&self) -> Ipv4Addr {
        self.config.ip
    }

    /// Whether an address is one of this host's.
    #[inline]
    pub fn is_own(&self, ip: Ipv4Addr) -> bool {
        ip == self.config.ip || self.config.more_ips.contains(&ip)
    }

    /// Keeps `ip` reachable whatever strangers do: for the members of a cluster. It has a row of the neighbour table for good, and
    /// [`StackConfig::waiting_each`] places for packets that wait for nobody else; it is asked for ahead of others and beside their pace,
    /// every [`StackConfig::arp_retry`] at most; and the address that it once had is used until it says another. Of a host on another link
    /// the gateway is pinned.
    ///
    /// With `mac` the address is fixed and never asked for. `false`, and counted, where half of the table is pinned or there is no way there.
    pub fn pin(&mut self, ip: Ipv4Addr, mac: Option<MacAddr>) -> bool {
        let hop = if mac.is_some() { Some(ip) } else { self.next_hop(ip) };
        let is_pinned = hop.is_some_and(|hop| self.neighbors.pin(hop, mac));
        self.counters.pins_refused += u64::from(!is_pinned);
        self.counters.pins = self.neighbors.pinned() as u64;
        is_pinned
    }

    /// Joins a multicast group, once more for each call; the routers are told at the next [`Stack::advance`]. `false`
    /// where `group` is none or [`StackConfig::groups`] are joined.
    pub fn join(&mut self, group: Ipv4Addr) -> bool {
        group.is_multicast() && self.groups.join(group)
    }

    /// Undoes one [`Stack::join`].
    pub fn leave(&mut self, group: Ipv4Addr) {
        self.groups.leave(group);
    }

    /// Counts so far.
    pub fn counters(&self) -> StackCounters {
        self.counters
    }

    /// Neighbours in the table, packets that wait for their addresses, and rows that had to go for others so far.
    pub fn neighbors(&self) -> (usize, usize, u64) {
        (self.neighbors.len(), self.neighbors.waiting(), self.neighbors.evicted())
    }

    /// Frames to be sent, oldest first. Empty it after each call of [`Stack::receive`], [`Stack::send`] and
    /// [`Stack::advance`]: at its limit the newest is dropped and counted.
    pub fn frames(&mut self) -> &mut PacketQueue {
        &mut self.frames
    }

    /// Datagrams that this host has sent to itself.
    pub fn looped(&mut self) -> &mut PacketQueue {
        &mut self.looped
    }

    /// Does what is due by `now`: asks for addresses, gives up, tells routers about groups.
    #[inline]
    pub fn advance(&mut self, now: Instant) {
        // Most calls, once a burst at least, end here.
        if self.neighbors.next_due().is_some_and(|at| at <= now) {
            self.ask_neighbors(now);
        }
        while let Some(notice) = self.groups.due(now) {
            self.notify(notice);
        }
    }

    fn ask_neighbors(&mut self, now: Instant) {
        let due = self.neighbors.due(now);
        self.counters.tx_unresolved += due.lost as u64;
        for ip in due.ask_pinned {
            self.ask_neighbor(ip);
        }
        for ip in due.ask {
            if self.arp_asks.allow(now) {
                self.ask_neighbor(ip);
            } else {
                self.counters.arp_ask_limited += 1;
            }
        }
    }

    fn ask_neighbor(&mut self, ip: Ipv4Addr) {
        if self.ask(ip) {
            self.counters.arp_asked += 1;
            self.neighbors.asked(ip);
        }
    }

    /// When [`Stack::advance`] has something to do; `Some` in the past means at once. May be early.
    pub fn next_due(&self) -> Option<Instant> {
        let looped = (!self.looped.is_empty()).then_some(Instant::ZERO);
        [looped, self.neighbors.next_due(), self.groups.next_due()].into_iter().flatten().min()
    }

    // ---- in ----

    /// Takes one frame. A datagram for this host comes back, its payload trimmed and its addresses set; everything else
    /// is answered or dropped, and counted.
    pub fn receive(&mut self, now: Instant, packet: Packet) -> Option<Packet> {
        let counters = &mut self.counters;
        let Some(header) = ethernet::parse(packet.data()) else {
            counters.ethernet_malformed += 1;
            return None;
        };
        if !header.src.is_unicast() || header.src == self.mac {
            counters.ethernet_source += 1;
            return None;
        }
        // Which groups are joined is seen in the IPv4 header: 32 of them share an address of the link.
        if header.dst != self.mac && header.dst.is_unicast() {
            counters.ethernet_not_ours += 1;
            return None;
        }
        match header.carries {
            Carries::Arp => {
                self.receive_arp(now, packet, header);
                None
            }
            Carries::Ipv4 => self.receive_ipv4(now, packet, header),
            Carries::Other => {
                counters.ethernet_other += 1;
                None
            }
        }
    }

    fn receive_arp(&mut self, now: Instant, mut packet: Packet, frame: ethernet::Header) {
        let message = arp::parse(&packet.data()[ethernet::HEADER_BYTES..]);
        // A reply that somebody else's station has signed is forged or damaged.
        let Some(message) = message.filter(|message| message.sender_mac == frame.src) else {
            self.counters.arp_malformed += 1;
            return;
        };
        let is_from_us = self.is_own(message.sender_ip);
        let is_for_us = self.is_own(message.target_ip);
        let counters = &mut self.counters;
        if is_from_us {
            counters.arp_conflict += 1;
        } else if message.sender_ip == message.target_ip {
            counters.arp_gratuitous += 1;
        } else if !is_for_us {
            counters.arp_not_ours += 1;
        } else if !message.is_request {
            match self.neighbors.answer(now, message.sender_ip, message.sender_mac) {
                None => counters.arp_unsolicited += 1,
                Some(waited) => {
                    counters.arp_learned += 1;
                    waited.into_iter().for_each(|packet| self.put_in_frame(packet, message.sender_mac));
                }
            }
        } else if !self.arp_answers.allow(now) {
            counters.arp_limited += 1;
        } else {
            counters.arp_answered += 1;
            let reply = arp::Message {
                is_request: false,
                sender_mac: self.mac,
                sender_ip: message.target_ip,
                target_mac: message.sender_mac,
                target_ip: message.sender_ip,
            };
            packet.truncate(ethernet::HEADER_BYTES + arp::MESSAGE_BYTES);
            let bytes = packet.data_mut();
            let header = ethernet::Header { dst: frame.src, src: self.mac, carries: Carries::Arp };
            ethernet::emit(bytes, header);
            arp::emit(&mut bytes[ethernet::HEADER_BYTES..], reply);
            self.enqueue(packet);
        }
    }

    fn receive_ipv4(&mut self, now: Instant, mut packet: Packet, frame: ethernet::Header) -> Option<Packet> {
        let counters = &mut self.counters;
        let header = match ipv4::parse(&packet.data()[ethernet::HEADER_BYTES..], packet.checksums().ipv4) {
            Ok(header) => header,
            Err(defect) => {
                *match defect {
                    ipv4::Defect::Malformed => &mut counters.ipv4_malformed,
                    ipv4::Defect::Options => &mut counters.ipv4_options,
                    ipv4::Defect::Checksum => &mut counters.ipv4_checksum,
                    ipv4::Defect::Fragment => &mut counters.ipv4_fragment,
                } += 1;
                return None;
            }
        };
        // A switch that asks for members may have no address of its own.
        let nameless_query = header.carries == ipv4::Carries::Igmp && header.src.is_unspecified();
        if !nameless_query && !self.may_send(header.src) {
            self.counters.ipv4_source += 1;
            return None;
        }
        let to_all_hosts = header.carries == ipv4::Carries::Igmp && header.dst == igmp::ALL_HOSTS;
        let to_group = to_all_hosts || self.groups.contains(header.dst);
        let for_us = if self.is_own(header.dst) {
            frame.dst == self.mac
        } else {
            to_group && frame.dst == MacAddr::group(header.dst)
        };
        if !for_us {
            self.counters.ipv4_not_ours += 1;
            return None;
        }
        packet.truncate(ethernet::HEADER_BYTES + header.total_bytes);
        match header.carries {
            ipv4::Carries::Udp => self.receive_udp(packet, header),
            ipv4::Carries::Icmp => {
                self.receive_icmp(now, packet, frame, header);
                None
            }
            ipv4::Carries::Igmp => {
                match igmp::parse(&packet.data()[ethernet::HEADER_BYTES + header.header_bytes..]) {
                    igmp::Message::Query { group, within } => {
                        self.counters.igmp_queries += 1;
                        let in_time = self.groups.query(now, self.config.ip, group, within);
                        self.counters.igmp_limited += u64::from(!in_time);
                    }
                    igmp::Message::Ignored => self.counters.igmp_ignored += 1,
                    igmp::Message::Malformed => self.counters.igmp_malformed += 1,
                }
                None
            }
            ipv4::Carries::Other => {
                self.counters.ipv4_other += 1;
                None
            }
        }
    }

    fn receive_udp(&mut self, mut packet: Packet, header: ipv4::Header) -> Option<Packet> {
        let start = ethernet::HEADER_BYTES + header.header_bytes;
        match udp::parse(&packet.data()[start..], header.src, header.dst, packet.checksums().udp) {
            Ok(datagram) => {
                self.counters.rx_datagrams += 1;
                packet.truncate(start + datagram.total_bytes);
                packet.trim_front(start + udp::HEADER_BYTES);
                packet.set_src(SocketAddrV4::new(header.src, datagram.src_port));
                packet.set_dst(SocketAddrV4::new(header.dst, datagram.dst_port));
                Some(packet)
            }
            Err(defect) => {
                *match defect {
                    udp::Defect::Malformed => &mut self.counters.udp_malformed,
                    udp::Defect::Checksum => &mut self.counters.udp_checksum,
                } += 1;
                None
            }
        }
    }

    fn receive_icmp(&mut self, now: Instant, mut packet: Packet, frame: ethernet::Header, header: ipv4::Header) {
        let start = ethernet::HEADER_BYTES + header.header_bytes;
        let to_host = self.is_own(header.dst);
        let counters = &mut self.counters;
        match icmp::parse(&packet.data()[start..]) {
            icmp::Message::Malformed => counters.icmp_malformed += 1,
            icmp::Message::Checksum => counters.icmp_checksum += 1,
            // To a group it would be an amplifier.
            icmp::Message::EchoRequest if !to_host => counters.icmp_ignored += 1,
            icmp::Message::Ignored => counters.icmp_ignored += 1,
            icmp::Message::EchoRequest if !self.icmp_answers.allow(now) => counters.icmp_limited += 1,
            // What came in parts was joined by the device's kernel, perhaps; its answer would not fit the link.
            icmp::Message::EchoRequest if packet.len() > self.frame_bytes => counters.tx_too_large += 1,
            icmp::Message::EchoRequest => {
                counters.icmp_answered += 1;
                let bytes = packet.data_mut();
                icmp::answer(&mut bytes[start..]);
                let ip = &mut bytes[ethernet::HEADER_BYTES..];
                ipv4::emit(ip, header.dst, header.src, ipv4::Carries::Icmp, false);
                // Back to where it came from: an answer is no reason to ask for an address.
                let back = ethernet::Header { dst: frame.src, src: self.mac, carries: Carries::Ipv4 };
                ethernet::emit(bytes, back);
                self.enqueue(packet);
            }
        }
    }

    // ---- out ----

    /// Sends one datagram to where its address says, from this host: a source that is no address of its own becomes the first of
    /// those. It becomes a frame now or when its receiver's address is known, or is dropped and counted. A broadcast has no route.
    pub fn send(&mut self, now: Instant, mut packet: Packet) {
        let ip = if self.is_own(*packet.src().ip()) { *packet.src().ip() } else { self.config.ip };
        let src = SocketAddrV4::new(ip, packet.src().port());
        let dst = packet.dst();
        if packet.len() > self.datagram_bytes {
            self.counters.tx_too_large += 1;
            return;
        }
        if self.is_own(*dst.ip()) {
            packet.set_src(src);
            match self.looped.push(packet) {
                Ok(()) => self.counters.tx_datagrams += 1,
                Err(_) => self.counters.tx_queue_full += 1,
            }
            return;
        }
        let to_group = dst.ip().is_multicast();
        let Some(hop) = (if to_group { Some(*dst.ip()) } else { self.next_hop(*dst.ip()) }) else {
            self.counters.tx_no_route += 1;
            return;
        };
        if packet.prepend(udp::HEADER_BYTES + ipv4::HEADER_BYTES).is_none() {
            self.counters.tx_too_large += 1;
            return;
        }
        let bytes = packet.data_mut();
        udp::emit(&mut bytes[ipv4::HEADER_BYTES..], src, dst, self.left.udp == Checksum::Fill);
        ipv4::emit(bytes, *src.ip(), *dst.ip(), ipv4::Carries::Udp, self.left.ipv4 == Checksum::Fill);
        packet.set_checksums(self.left);
        let known = if to_group { Some(MacAddr::group(hop)) } else { self.neighbors.known(now, hop) };
        if let Some(mac) = known {
            self.put_in_frame(packet, mac);
            return;
        }
        match self.neighbors.resolve(now, hop, packet) {
            Resolved::Known(mac, packet) => self.put_in_frame(packet, mac),
            Resolved::Waits { lost } => self.counters.tx_unresolved += lost as u64,
        }
        self.advance(now);
    }

    /// Puts an IPv4 packet into a frame and the frame into the queue.
    #[inline]
    fn put_in_frame(&mut self, mut packet: Packet, dst: MacAddr) {
        if packet.prepend(ethernet::HEADER_BYTES).is_none() {
            self.counters.tx_too_large += 1;
            return;
        }
        let header = ethernet::Header { dst, src: self.mac, carries: Carries::Ipv4 };
        ethernet::emit(packet.data_mut(), header);
        if self.enqueue(packet) {
            self.counters.tx_datagrams += 1;
        }
    }

    #[inline]
    fn enqueue(&mut self, frame: Packet) -> bool {
        let queued = self.frames.push(frame).is_ok();
        self.counters.tx_queue_full += u64::from(!queued);
        queued
    }

    /// A frame of the stack's own with room for `bytes` behind the Ethernet header.
    fn own_frame(&mut self, bytes: usize, dst: MacAddr, carries: Carries) -> Option<Packet> {
        let frame = Packet::alloc(Priority::Control);
        let frame = frame.and_then(|mut frame| frame.claim(ethernet::HEADER_BYTES + bytes).is_ok().then_some(frame));
        let Some(mut frame) = frame else {
            self.counters.tx_no_buffer += 1;
            return None;
        };
        ethernet::emit(frame.data_mut(), ethernet::Header { dst, src: self.mac, carries });
        Some(frame)
    }

    fn ask(&mut self, ip: Ipv4Addr) -> bool {
        let Some(mut frame) = self.own_frame(arp::MESSAGE_BYTES, MacAddr::BROADCAST, Carries::Arp) else {
            return false;
        };
        let question = arp::Message {
            is_request: true,
            sender_mac: self.mac,
            sender_ip: self.config.ip,
            target_mac: MacAddr([0; 6]),
            target_ip: ip,
        };
        arp::emit(&mut frame.data_mut()[ethernet::HEADER_BYTES..], question);
        self.enqueue(frame)
    }

    fn notify(&mut self, notice: igmp::Notice) {
        let dst = notice.dst();
        let bytes = ipv4::ALERT_HEADER_BYTES + igmp::MESSAGE_BYTES;
        let Some(mut frame) = self.own_frame(bytes, MacAddr::group(dst), Carries::Ipv4) else { return };
        let packet = &mut frame.data_mut()[ethernet::HEADER_BYTES..];
        notice.emit(&mut packet[ipv4::ALERT_HEADER_BYTES..]);
        ipv4::emit(packet, self.config.ip, dst, ipv4::Carries::Igmp, false);
        if self.enqueue(frame) {
            self.counters.igmp_sent += 1;
        }
    }

    // ---- addresses ----

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.config.prefix_bits.min(32))).unwrap_or(0)
    }

    fn on_link(&self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.config.ip.to_bits()) & self.mask() == 0
    }

    /// The first or last address of the link, which name the link and everybody on it.
    fn is_link_broadcast(&self, ip: Ipv4Addr) -> bool {
        let host = !self.mask();
        host > 1 && self.on_link(ip) && (ip.to_bits() & host == host || ip.to_bits() & host == 0)
    }

    /// Whether a packet may come from `ip`: one other host's address.
    fn may_send(&self, ip: Ipv4Addr) -> bool {
        let reserved = ip.octets()[0] >= 224 || ip.octets()[0] == 0 || ip.is_loopback();
        !reserved && !self.is_own(ip) && !self.is_link_broadcast(ip)
    }

    /// Whose station gets what is for `ip`.
    fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        if !self.may_send(ip) {
            None
        } else if self.on_link(ip) {
            Some(ip)
        } else {
            self.config.gateway
        }
    }
}
