//! The peer port: Raft's messages and forwarded requests of one node, each a single R2P2 datagram.

use crate::r2p2::forward::Forwarded;
use crate::r2p2::header::{Header, MessageType, Rid};
use crate::r2p2::layout::{FORWARD_BYTES, HEADER_BYTES};
use crate::r2p2::policy::Policy;
use crate::shards::ShardPlace;
use crate::stats::{Event, ServerCounters};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::task::{Context, Poll};
use trimaran_net::UdpSocket;
use trimaran_raft::{
    ClusterId, Envelope, FOREIGN_OVERHEAD_BYTES, Member, NodeId, Transport, read_foreign, write_foreign,
};
use trimaran_runtime::channel::Signal;

/// Datagrams delivered before other tasks of the core get a turn.
const DATAGRAMS_PER_POLL: usize = 64;

/// The node's socket towards its peers.
pub(crate) struct PeerSocket {
    socket: UdpSocket,
    id: NodeId,
    place: ShardPlace,
    forwards: Rc<ForwardQueue>,
    counters: Rc<ServerCounters>,
}

impl PeerSocket {
    pub(crate) fn new(
        socket: UdpSocket,
        id: NodeId,
        place: ShardPlace,
        forwards: Rc<ForwardQueue>,
        counters: Rc<ServerCounters>,
    ) -> Rc<Self> {
        Rc::new(PeerSocket { socket, id, place, forwards, counters })
    }

    /// Bytes of a forwarded datagram after R2P2's header, and what Raft puts around it.
    pub(crate) fn forward_room_bytes(&self) -> usize {
        self.socket.payload_bytes().saturating_sub(HEADER_BYTES + FOREIGN_OVERHEAD_BYTES)
    }

    /// Sends one part of a client's datagram to the leader. `false`: not sent.
    pub(crate) fn send_forward(
        &self,
        cluster: ClusterId,
        leader: &Member,
        framing: &[u8; FORWARD_BYTES],
        part: &[u8],
    ) -> bool {
        let shard = self.place.group();
        let envelope = Envelope { shard, cluster, from: self.id, to: leader.id, ..Envelope::default() };
        let write = |buffer: &mut [u8]| write_foreign(buffer, &envelope, &[framing, part]);
        self.send(MessageType::Forward, leader.peer, write)
    }

    /// Sends one datagram whose bytes after R2P2's header come from `write`, which returns how many, 0 for none.
    fn send(&self, kind: MessageType, to: SocketAddrV4, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(mut packet) = self.socket.alloc() else { return false };
        if packet.extend_from_slice(&Header::single(kind, Policy::LbRoute, Rid(0)).emit()).is_err() {
            return false;
        }
        let room = self.socket.payload_bytes() - HEADER_BYTES;
        let spare = packet.spare_mut();
        let room = room.min(spare.len());
        match write(&mut spare[..room]) {
            0 => true,
            written => packet.claim(written).is_ok() && self.socket.send_to(packet, to).is_ok(),
        }
    }

    /// A forwarded request: for this node, in this life?
    fn forwarded(&self, message: &[u8]) {
        let framed = read_foreign(message)
            .filter(|(envelope, _)| envelope.to == self.id && envelope.shard == self.place.group())
            .and_then(|(envelope, rest)| Some((envelope.cluster, Forwarded::parse(rest).ok()?)));
        match framed {
            Some((cluster, (framing, part))) => {
                if !self.forwards.push(ForwardedPart { cluster, framing, part: part.to_vec() }) {
                    self.counters.count(Event::ForwardQueueFull);
                }
            }
            None => self.counters.count(Event::PeerDatagramBad),
        }
    }
}

/// What Raft sees of the peer port.
pub(crate) struct PeerTransport(pub(crate) Rc<PeerSocket>);

impl Transport for PeerTransport {
    fn payload_bytes(&self) -> usize {
        self.0.socket.payload_bytes().saturating_sub(HEADER_BYTES)
    }

    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        self.0.send(MessageType::Peer, to.peer, write)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, deliver: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        let mut any = Poll::Pending;
        for _ in 0..DATAGRAMS_PER_POLL {
            let Poll::Ready(packet) = self.0.socket.poll_recv(cx) else { return any };
            any = Poll::Ready(());
            match Header::parse(packet.data()) {
                Ok((header, message)) if header.kind == MessageType::Peer => deliver(packet.src(), message),
                Ok((header, message)) if header.kind == MessageType::Forward => self.0.forwarded(message),
                _ => self.0.counters.count(Event::PeerDatagramBad),
            }
        }
        any
    }
}

/// One forwarded datagram, or half of one.
pub(crate) struct ForwardedPart {
    /// The cluster that its sender believes to share with this node.
    pub(crate) cluster: ClusterId,
    pub(crate) framing: Forwarded,
    pub(crate) part: Vec<u8>,
}

/// Forwarded requests on their way from the peer port to the task that serves clients.
pub(crate) struct ForwardQueue {
    parts: RefCell<VecDeque<ForwardedPart>>,
    limit: usize,
    added: Signal,
}

impl ForwardQueue {
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(ForwardQueue { parts: RefCell::default(), limit, added: Signal::new() })
    }

    /// `false`: full, the part is dropped.
    fn push(&self, part: ForwardedPart) -> bool {
        let mut parts = self.parts.borrow_mut();
        if parts.len() >= self.limit {
            return false;
        }
        parts.push_back(part);
        self.added.raise();
        true
    }

    pub(crate) fn pop(&self) -> Option<ForwardedPart> {
        self.parts.borrow_mut().pop_front()
    }

    /// Ready where there is, or may be, something to take. For the one task that takes it.
    pub(crate) fn poll_added(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.parts.borrow().is_empty() { self.added.poll_raised(cx) } else { Poll::Ready(()) }
    }
}
