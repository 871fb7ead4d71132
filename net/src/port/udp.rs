//! A port over kernel UDP sockets, one per bound address.

mod mmsg;
mod mtu;
mod socket;

use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::error::NetError;
use crate::packet::{Packet, ROOM_BYTES};
use crate::port::{Capabilities, Port, PortDescription, lower_timer_slack};
use crate::socket::{Priority, SocketOptions};
use crate::stats::PortStats;
use mmsg::{Mmsg, RECEIVED_MAX, Received};
pub use mtu::device_payload_bytes;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use socket::{KernelSocket, key};
use std::io::{self, ErrorKind};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use trimaran_runtime::Instant;

/// Datagrams sent with one system call, at most.
const BATCH_PACKETS: usize = BURST_PACKETS;
/// What epoll says of the wake fd. Keys of sockets have 49 bits.
const WAKE_KEY: u64 = u64::MAX;
/// Packets that go one by one after a message of several was refused: others' addresses must not make that a habit.
const UNCUT_PACKETS: usize = 1024;
/// Errors of earlier packets swallowed per call before the socket is left alone until the next turn.
const STALE_ERRORS: usize = 8;

/// Settings of a [`UdpPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConfig {
    /// Largest payload to send, in bytes: the path's MTU less 28. Capped by the packet buffer's 1920.
    pub payload_bytes: usize,
}

impl Default for UdpConfig {
    /// 1472 bytes, which fills an Ethernet frame.
    fn default() -> Self {
        UdpConfig { payload_bytes: 1472 }
    }
}

/// Kernel UDP: `recvmmsg` and `sendmmsg` on sockets that are never connected, so that answers may come from any
/// address, and epoll to sleep. Bursts of one length to one address go and come as one message, where the kernel can (see `mmsg.rs`): up
/// to 16 such messages, of 128 datagrams at most, may wait in memory beyond what was asked for; in a steady flow it is one.
///
/// Must stay on one thread, with one wake fd. An ICMP error never stops a socket.
pub struct UdpPort {
    config: UdpConfig,
    epoll: OwnedFd,
    /// Sorted by key: Control sockets come first.
    sockets: Vec<KernelSocket>,
    /// The Normal socket that receives first in the next burst.
    turn: usize,
    /// Empty packets for the next datagrams.
    slots: Vec<Packet>,
    mmsg: Mmsg,
    events: Vec<Event>,
    /// Readiness is as epoll just told; no need to ask again.
    informed: bool,
    wake: Option<RawFd>,
    /// One socket got a smaller receive buffer than it asked for, and the log says so.
    warned: bool,
    stats: PortStats,
}

impl UdpPort {
    /// A port without sockets.
    pub fn new(config: UdpConfig) -> Result<Self, NetError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|errno| NetError::Io { action: "create an epoll instance", source: errno.into() })?;
        Ok(UdpPort {
            config,
            epoll,
            sockets: Vec::new(),
            turn: 0,
            slots: Vec::with_capacity(RECEIVED_MAX),
            mmsg: Mmsg::new(),
            events: Vec::with_capacity(64),
            informed: false,
            wake: None,
            warned: false,
            stats: PortStats::default(),
        })
    }

    fn find(&self, local: SocketAddrV4) -> Option<usize> {
        let at = |priority| self.sockets.binary_search_by_key(&key(priority, local), |socket| socket.key).ok();
        at(Priority::Control).or_else(|| at(Priority::Normal))
    }

    fn controls(&self) -> usize {
        self.sockets.partition_point(|socket| socket.priority == Priority::Control)
    }

    /// Asks epoll what is readable and writable, for at most `timeout`.
    fn ask(&mut self, timeout: Option<&Timespec>) {
        self.events.clear();
        // An error (a signal, most likely) looks like a wait that ended early, which every caller expects.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout);
        for event in &self.events {
            let (key, flags) = (event.data.u64(), event.flags);
            if let Ok(at) = self.sockets.binary_search_by_key(&key, |socket| socket.key)
                && flags.intersects(EventFlags::IN | EventFlags::ERR)
            {
                self.sockets[at].readable = true;
            }
        }
    }

    /// Receives at most `max` datagrams from socket `at`; returns how many there were, kept or not.
    fn receive(&mut self, at: usize, max: usize, out: &mut Burst) -> usize {
        let waiting = &mut self.sockets[at].waiting;
        let mut taken = max.min(waiting.len());
        for packet in waiting.drain(..taken) {
            let pushed = out.push(packet);
            debug_assert!(pushed.is_ok(), "no more were asked for than fit");
        }
        while taken < max {
            let socket = &mut self.sockets[at];
            let messages = (max - taken).div_ceil(socket.in_message).min(self.slots.len());
            if messages == 0 {
                // No buffers: others may free some.
                socket.readable = true;
                break;
            }
            let received = match self.mmsg.receive(socket.fd(), &mut self.slots[..messages]) {
                Ok(received) => received,
                Err(error) => {
                    // Other errors were somebody's ICMP answer; reading it has cleared it. Look again next turn.
                    let empty = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
                    self.stats.rx_errors += u64::from(!empty);
                    socket.readable = !empty;
                    break;
                }
            };
            if received > 0 {
                self.sockets[at].in_message = 1;
            }
            for message in 0..received {
                taken += self.take_message(at, message, max - taken, out);
            }
            let socket = &mut self.sockets[at];
            socket.readable = received == messages || !socket.waiting.is_empty();
            if received < messages {
                break;
            }
        }
        taken
    }

    /// Takes the datagrams of a message that was received for socket `at`; returns how many were put out or dropped, at most `max`. The
    /// others wait at the socket.
    fn take_message(&mut self, at: usize, message: usize, max: usize, out: &mut Burst) -> usize {
        let (socket, slot) = (&mut self.sockets[at], &mut self.slots[message]);
        let received = self.mmsg.received(message, slot.len());
        let datagrams = match received.datagrams() {
            Ok(datagrams) => datagrams,
            Err(lost) => {
                self.stats.rx_truncated += lost as u64;
                return max.min(1);
            }
        };
        let Received { rest, bytes, segment_bytes, .. } = received;
        socket.in_message = socket.in_message.max(datagrams);
        let mut taken = 0;
        let mut deliver = |packet: Option<Packet>| {
            let Some(mut packet) = packet else {
                self.stats.rx_no_buffer += 1;
                taken = max.min(taken + 1);
                return;
            };
            packet.set_dst(socket.local);
            self.stats.rx_packets += 1;
            if taken < max && socket.waiting.is_empty() {
                taken += 1;
                let pushed = out.push(packet);
                debug_assert!(pushed.is_ok(), "no more were asked for than fit");
            } else {
                socket.waiting.push_back(packet);
            }
        };
        if bytes == segment_bytes {
            deliver(Packet::alloc(socket.priority).map(|fresh| std::mem::replace(slot, fresh)));
            return taken;
        }
        let in_slot = slot.len();
        for start in (0..bytes).step_by(segment_bytes) {
            let end = bytes.min(start + segment_bytes);
            let head = &slot.data()[start.min(in_slot)..end.min(in_slot)];
            let tail = &rest[start.saturating_sub(in_slot)..end.saturating_sub(in_slot)];
            deliver(Packet::alloc(socket.priority).map(|mut packet| {
                let fits = packet.extend_from_slices([head, tail]);
                debug_assert_eq!(fits, Ok(()), "as much as a packet has room for");
                packet.set_src(slot.src());
                packet
            }));
        }
        taken
    }

    /// Receives from the readable sockets of `range`, beginning with number `first` of it, until `max` are taken.
    fn receive_range(&mut self, range: Range<usize>, first: usize, max: usize, out: &mut Burst) -> usize {
        let count = range.len();
        let mut taken = 0;
        for step in 0..count {
            if taken >= max {
                break;
            }
            let at = range.start + (first + step) % count;
            if self.sockets[at].readable {
                taken += self.receive(at, max - taken, out);
            }
        }
        taken
    }

    fn refill_slots(&mut self) {
        while self.slots.len() < RECEIVED_MAX {
            let Some(packet) = Packet::alloc(Priority::Control) else { break };
            self.slots.push(packet);
        }
    }

    /// Keeps epoll's interest in room to write in step with the sockets that lack it.
    fn watch_blocked(&mut self) {
        for socket in &mut self.sockets {
            if socket.blocked != socket.watched_for_room {
                let room = if socket.blocked { EventFlags::OUT } else { EventFlags::empty() };
                let interest = EventFlags::IN | room;
                if epoll::modify(&self.epoll, socket.fd(), EventData::new_u64(socket.key), interest).is_ok() {
                    socket.watched_for_room = socket.blocked;
                }
            }
        }
    }

    fn watch_wake(&mut self, wake: BorrowedFd<'_>) {
        if self.wake == Some(wake.as_raw_fd()) {
            return;
        }
        match epoll::add(&self.epoll, wake, EventData::new_u64(WAKE_KEY), EventFlags::IN) {
            Ok(()) => self.wake = Some(wake.as_raw_fd()),
            Err(errno) => tracing::error!(%errno, "cannot watch the core's wake fd: wakes from other threads are late"),
        }
    }
}

impl Port for UdpPort {
    fn describe(&self) -> PortDescription {
        let (kind, sleeps) = ("udp".to_owned(), "until one of its sockets wakes it".to_owned());
        PortDescription { kind, sleeps, ..PortDescription::default() }
    }

    fn start(&mut self) {
        lower_timer_slack();
    }

    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        let socket = KernelSocket::bind(local, options)?;
        let (local, key) = (socket.local, socket.key);
        let (wanted_bytes, granted_bytes) = (options.rcvbuf_bytes, socket.rcvbuf_bytes);
        if granted_bytes < wanted_bytes && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                %local, wanted_bytes, granted_bytes,
                "the kernel grants a smaller receive buffer: large requests may lose packets; \
                 allow it with: sysctl -w net.core.rmem_max={wanted_bytes}"
            );
        }
        epoll::add(&self.epoll, socket.fd(), EventData::new_u64(key), EventFlags::IN)
            .map_err(|errno| NetError::Io { action: "watch a socket", source: errno.into() })?;
        let at = self.sockets.partition_point(|other| other.key < key);
        self.sockets.insert(at, socket);
        Ok(local)
    }

    fn unbind(&mut self, local: SocketAddrV4) {
        if let Some(at) = self.find(local) {
            // Closing the socket also takes it out of epoll.
            self.stats.rx_overrun += self.sockets.remove(at).overrun();
        }
    }

    fn rx_burst(&mut self, _now: Instant, max: usize, out: &mut Burst) -> usize {
        self.refill_slots();
        let max = max.min(out.room());
        if !std::mem::take(&mut self.informed) {
            match &mut self.sockets[..] {
                // An answer of epoll costs as much as one of a socket (about 0.2 us).
                [only] => only.readable = true,
                _ => self.ask(Some(&Timespec::default())),
            }
        }
        let (controls, all) = (self.controls(), self.sockets.len());
        // Control first, but a flood of it leaves something for the others.
        let control_max = if controls < all { max - max / 4 } else { max };
        let mut taken = self.receive_range(0..controls, 0, control_max, out);
        if controls < all {
            taken += self.receive_range(controls..all, self.turn, max - taken, out);
            self.turn = (self.turn + 1) % (all - controls);
        }
        taken
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        let Some(src) = queue.front().map(Packet::src) else { return 0 };
        let count = queue.iter().take(BATCH_PACKETS).take_while(|packet| packet.src() == src).count();
        let Some(at) = self.find(src) else {
            (0..count).for_each(|_| drop(queue.pop()));
            self.stats.tx_refused += count as u64;
            return count;
        };
        let mut gone = 0;
        let mut stale_errors = 0;
        while gone < count {
            let socket = &mut self.sockets[at];
            match self.mmsg.send(socket.fd(), queue, count - gone, socket.uncut_packets == 0) {
                Ok(sent) => {
                    (0..sent).for_each(|_| drop(queue.pop()));
                    self.stats.tx_packets += sent as u64;
                    socket.blocked = false;
                    socket.uncut_packets = socket.uncut_packets.saturating_sub(sent);
                    gone += sent;
                }
                Err(error) => match Verdict::of(&error) {
                    Verdict::Full => {
                        self.stats.tx_full += 1;
                        socket.blocked = true;
                        break;
                    }
                    Verdict::Stale => {
                        self.stats.tx_errors += 1;
                        stale_errors += 1;
                        if stale_errors > STALE_ERRORS {
                            break;
                        }
                    }
                    // Nobody there may be told, or nothing cut: before Linux 4.18, without checksums by the device, beyond the path's MTU.
                    Verdict::Refused if self.mmsg.first_packets() > 1 => socket.uncut_packets = UNCUT_PACKETS,
                    Verdict::Refused => {
                        drop(queue.pop());
                        self.stats.tx_refused += 1;
                        gone += 1;
                    }
                },
            }
        }
        gone
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        if self.sockets.iter().any(|socket| socket.readable) {
            return;
        }
        self.watch_blocked();
        if let Some(wake) = wake {
            self.watch_wake(wake);
        }
        // A duration that does not fit a timespec is 292 billion years.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.ask(timeout.as_ref());
        self.informed = true;
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { payload_bytes: self.config.payload_bytes.min(ROOM_BYTES) }
    }

    fn stats(&self) -> PortStats {
        let overrun: u64 = self.sockets.iter().map(KernelSocket::overrun).sum();
        PortStats { rx_overrun: self.stats.rx_overrun + overrun, ..self.stats }
    }
}

/// What an error of `sendmmsg` means for the first packet.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// No room now: the packet stays with its owner.
    Full,
    /// The error of an earlier packet, or a signal: try this one again.
    Stale,
    /// This packet will never go (too large, no route, forbidden by a filter).
    Refused,
}

impl Verdict {
    fn of(error: &io::Error) -> Verdict {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Verdict::Full,
            Some(libc::EINTR | libc::ECONNREFUSED) => Verdict::Stale,
            _ => Verdict::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmsg::SEGMENTS_MAX;

    /// What waits is memory that nobody asked for. After one receipt that could not know, it is less than one message.
    #[test]
    fn a_receipt_asks_for_few_messages_where_the_last_were_long() {
        const MESSAGES: usize = 10;
        let now = Instant::ZERO;
        let mut port = UdpPort::new(UdpConfig::default()).expect("a port");
        let any = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
        let [from, to] = [(); 2].map(|()| port.bind(any, &SocketOptions::default()).expect("a socket"));
        let socket = port.find(to).expect("bound");
        let mut longest = [0; 2];
        for longest in &mut longest {
            let mut queue = PacketQueue::new(MESSAGES * usize::from(SEGMENTS_MAX));
            while !queue.is_full() {
                let mut packet = Packet::alloc(Priority::Normal).expect("a buffer");
                packet.extend_from_slice(&[7; 100]).expect("room");
                packet.set_src(from);
                packet.set_dst(to);
                queue.push(packet).expect("room");
            }
            let sent = queue.len();
            // As much at a time as makes one message.
            while !queue.is_empty() {
                let mut burst = PacketQueue::new(usize::from(SEGMENTS_MAX));
                while !burst.is_full() {
                    burst.push(queue.pop().expect("a packet")).expect("room");
                }
                assert_eq!(port.tx_burst(now, &mut burst), usize::from(SEGMENTS_MAX));
            }
            let mut received = 0;
            while received < sent {
                let mut burst = Burst::new();
                received += port.rx_burst(now, 32, &mut burst);
                *longest = port.sockets[socket].waiting.len().max(*longest);
            }
        }
        let [unknown, known] = longest;
        if unknown == 0 {
            eprintln!("not tested: this kernel joins nothing");
            return;
        }
        assert!(unknown > 2 * usize::from(SEGMENTS_MAX), "{unknown} is too little to show anything");
        assert!(known < usize::from(SEGMENTS_MAX), "{known} wait");
    }

    #[test]
    fn each_error_has_its_meaning() {
        let verdict = |errno| Verdict::of(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EAGAIN, libc::EWOULDBLOCK, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(verdict(errno), Verdict::Full);
        }
        for errno in [libc::ECONNREFUSED, libc::EINTR] {
            assert_eq!(verdict(errno), Verdict::Stale);
        }
        for errno in [libc::EMSGSIZE, libc::EPERM, libc::EACCES, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL] {
            assert_eq!(verdict(errno), Verdict::Refused);
        }
    }
}
