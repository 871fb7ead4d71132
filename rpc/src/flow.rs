//! Replies at a pace that clients can take.
//!
//! A default client socket holds 92 datagrams, so a reply of 254 sent in one go never arrives whole. A reply of up to 32
//! packets leaves at once. A longer one leaves in bursts of 32, at least 0.4 ms apart for each client, with the replies
//! to others, and short ones to the same client, in between.

use crate::r2p2::message::{Segmenter, Segments, TooLarge};
use crate::r2p2::{Feedback, Header, Triple};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_runtime::channel::Notify;
use trimaran_runtime::{Instant, now, timeout_at};

/// Charged for each waiting reply on top of its bytes.
const REPLY_COST_BYTES: usize = 256;

/// Bounds and pace of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowConfig {
    /// Bytes of all replies that wait, 256 for each included. At the bound a reply is refused.
    pub reply_bytes: usize,
    /// Packets of one reply, at most 254 towards reference clients.
    pub packets: u16,
    /// Packets to one client in one go.
    pub burst_packets: u16,
    /// Least time between two bursts to one client.
    pub gap: Duration,
    /// Who gets a FEEDBACK after each reply.
    pub router: Option<SocketAddrV4>,
}

impl Default for FlowConfig {
    fn default() -> Self {
        FlowConfig {
            reply_bytes: 32 << 20,
            packets: crate::r2p2::PACKETS_MAX,
            burst_packets: 32,
            gap: Duration::from_micros(400),
            router: None,
        }
    }
}

/// Why a reply was not taken. Nothing of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// More packets than a reply may have.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// So many bytes wait already that [`FlowConfig::reply_bytes`] would be exceeded.
    #[error("{held_bytes} bytes of replies wait already")]
    Full {
        /// Bytes that wait.
        held_bytes: usize,
    },
}

/// What has been sent, and what has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowStats {
    /// Replies whose last packet was queued at the socket.
    pub sent: u64,
    /// Replies that had to wait, for their pace or for room.
    pub paced: u64,
    /// Replies refused because [`FlowConfig::reply_bytes`] was reached.
    pub refused_full: u64,
    /// Replies refused because they need too many packets.
    pub refused_large: u64,
    /// FEEDBACK packets for which there was no room.
    pub feedback_lost: u64,
}

/// Sends the replies of one socket. Cheap to clone. [`Flow::run`] must be spawned once.
#[derive(Clone)]
pub struct Flow {
    shared: Rc<Shared>,
}

struct Shared {
    socket: Rc<UdpSocket>,
    config: FlowConfig,
    segmenter: Segmenter,
    queue: RefCell<Queue>,
    /// There is something to pace, perhaps earlier than what was known.
    changed: Notify,
}

/// Replies that wait, by client. Each client with replies is in `due` exactly once.
#[derive(Default)]
struct Queue {
    clients: BTreeMap<SocketAddrV4, VecDeque<Waiting>>,
    due: BTreeSet<(Instant, SocketAddrV4)>,
    held_bytes: usize,
    stats: FlowStats,
}

struct Waiting {
    message: Header,
    segments: Segments,
    body: Vec<u8>,
    next: u16,
}

impl Waiting {
    fn charged_bytes(&self) -> usize {
        self.body.len() + REPLY_COST_BYTES
    }
}

impl Flow {
    /// Paces replies on `socket`; packets are as long as the socket's port can carry.
    pub fn new(socket: Rc<UdpSocket>, config: FlowConfig) -> Flow {
        let segmenter = Segmenter::new(socket.payload_bytes(), config.packets);
        let config = FlowConfig { burst_packets: config.burst_packets.max(1), ..config };
        let shared = Shared { socket, config, segmenter, queue: RefCell::default(), changed: Notify::new() };
        Flow { shared: Rc::new(shared) }
    }

    /// Sends a reply, or the part of it that its pace and the socket's queue allow; the rest follows from
    /// [`Flow::run`]. `message` is what [`response`](crate::r2p2::response) gives; the reply's bytes are `head` (a
    /// response block, or nothing) followed by `body`. A reply of up to 32 packets for which there is room is copied
    /// into packets and nowhere else.
    ///
    /// # Errors
    /// [`FlowError`]; each is counted.
    pub fn reply(&self, to: SocketAddrV4, message: Header, head: &[u8], body: &[u8]) -> Result<(), FlowError> {
        let shared = &*self.shared;
        let mut queue = shared.queue.borrow_mut();
        let bytes = head.len() + body.len();
        let segments = shared.segmenter.reply(bytes).inspect_err(|_| queue.stats.refused_large += 1)?;
        let long = segments.packets() > shared.config.burst_packets;
        let held_bytes = queue.held_bytes + bytes + REPLY_COST_BYTES;
        let full = held_bytes > shared.config.reply_bytes;
        // Of several packets some might go and some not; then the rest must have a place to wait.
        if full && segments.packets() > 1 {
            queue.stats.refused_full += 1;
            return Err(FlowError::Full { held_bytes: queue.held_bytes });
        }
        // A long reply waits its turn behind another one to the same client.
        let waits = long && queue.clients.contains_key(&to);
        let next = if waits { 0 } else { shared.send_burst(to, &message, &segments, 0, [head, body]) };
        if next == segments.packets() {
            shared.finish(&mut queue, to, &message);
            return Ok(());
        }
        if full {
            queue.stats.refused_full += 1;
            return Err(FlowError::Full { held_bytes: queue.held_bytes });
        }
        let waiting = Waiting { message, segments, body: [head, body].concat(), next };
        queue.held_bytes += waiting.charged_bytes();
        queue.stats.paced += 1;
        let place = queue.clients.entry(to).or_default();
        place.push_back(waiting);
        if place.len() == 1 {
            queue.due.insert((now() + shared.config.gap, to));
            shared.changed.notify();
        }
        Ok(())
    }

    /// Sends what waits, for ever. For a task in the Normal lane.
    pub async fn run(self) {
        let shared = &*self.shared;
        loop {
            let due = shared.queue.borrow().due.first().map(|(due, _)| *due);
            match due {
                Some(due) if due <= now() => shared.send_due(now()),
                // Woken early by a new reply, or at the time: look again either way.
                Some(due) => drop(timeout_at(due, shared.changed.notified()).await),
                None => shared.changed.notified().await,
            }
        }
    }

    /// Bytes of the replies that wait, 256 for each included.
    pub fn held_bytes(&self) -> usize {
        self.shared.queue.borrow().held_bytes
    }

    /// What has been sent, and what has not.
    pub fn stats(&self) -> FlowStats {
        self.shared.queue.borrow().stats
    }
}

impl Shared {
    /// One burst for each client whose time has come.
    fn send_due(&self, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        let queue = &mut *queue;
        while let Some(&(due, to)) = queue.due.first()
            && due <= now
        {
            queue.due.pop_first();
            let Some(place) = queue.clients.get_mut(&to) else { continue };
            let Some(waiting) = place.front_mut() else { continue };
            waiting.next = self.send_burst(to, &waiting.message, &waiting.segments, waiting.next, [&waiting.body, &[]]);
            if waiting.next == waiting.segments.packets()
                && let Some(done) = place.pop_front()
            {
                queue.held_bytes -= done.charged_bytes();
                if place.is_empty() {
                    queue.clients.remove(&to);
                }
                self.finish(queue, to, &done.message);
            }
            if queue.clients.contains_key(&to) {
                queue.due.insert((now + self.config.gap, to));
            }
        }
    }

    /// Sends packets from `next` on until the burst is full or the socket is; the number of the next packet to send.
    fn send_burst(&self, to: SocketAddrV4, message: &Header, segments: &Segments, next: u16, parts: [&[u8]; 2]) -> u16 {
        let end = segments.packets().min(next.saturating_add(self.config.burst_packets));
        (next..end).find(|index| !self.send_packet(to, message, segments, *index, parts)).unwrap_or(end)
    }

    fn send_packet(
        &self,
        to: SocketAddrV4,
        message: &Header,
        segments: &Segments,
        index: u16,
        parts: [&[u8]; 2],
    ) -> bool {
        let Some(mut packet) = self.socket.alloc() else { return false };
        let header = segments.header(message, index).emit();
        let [head, body] = segments.part_of(index, parts);
        packet.extend_from_slices([&header, head, body]).is_ok() && self.socket.send_to(packet, to).is_ok()
    }

    /// The last packet of a reply is out: count it, and tell the router.
    fn finish(&self, queue: &mut Queue, to: SocketAddrV4, message: &Header) {
        queue.stats.sent += 1;
        let Some(router) = self.config.router else { return };
        let feedback = Feedback { answered: Triple { client: to, rid: message.rid } }.emit();
        let sent = self.socket.alloc().is_some_and(|mut packet| {
            packet.extend_from_slice(&feedback).is_ok() && self.socket.send_to(packet, router).is_ok()
        });
        if !sent {
            queue.stats.feedback_lost += 1;
        }
    }
}
