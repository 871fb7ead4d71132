//! The client's socket: one task receives for all calls, each call holds its tries and hears what becomes of them.

use super::ClientConfig;
use super::error::{CallError, NotApplied};
use super::pace::Pace;
use super::pool::Pool;
use super::route::Route;
use crate::r2p2::message::{Segmenter, Segments};
use crate::r2p2::{Call, Header, Policy, Replies, Reply, ResponseBlock, Rid};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_runtime::channel::{Notify, Receiver, Sender, mpsc};
use trimaran_runtime::{Instant, now, recv_or_deadline, sleep, yield_now};

/// Tries of one call that may wait for an answer at once. One more, and the oldest is given up.
const TRIES_MAX: usize = 8;
/// Packets sent before others get their turn.
const BURST_PACKETS: u16 = 32;
/// Pause before a full transmit queue is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_micros(50);

/// What the calls of one client share.
pub(super) struct Shared {
    pub(super) config: ClientConfig,
    /// The shard that is called here.
    pub(super) shard: u16,
    pub(super) socket: UdpSocket,
    pub(super) segmenter: Segmenter,
    pub(super) replies: RefCell<Replies>,
    pub(super) route: RefCell<Route>,
    pub(super) pace: RefCell<Pace>,
    waiting: RefCell<BTreeMap<Rid, Sender<Event>>>,
    /// The route has changed: for the writes that look for the leader.
    changed: Notify,
    /// The members shall be asked for: for the task that follows them.
    pub(super) members_wanted: Notify,
    /// A question about the members waits for its answer.
    pub(super) asks_members: Cell<bool>,
    pub(super) pool: RefCell<Pool>,
    /// A session has been opened or has room again, or a registration has ended: for the calls that wait for one.
    pub(super) pool_changed: Notify,
}

/// What became of a try.
pub(super) struct Event {
    pub(super) rid: Rid,
    pub(super) from: SocketAddrV4,
    pub(super) what: What,
}

pub(super) enum What {
    /// ACK: send the rest to where this came from.
    SendRest,
    /// DROP.
    Refused,
    /// The whole reply, block included.
    Answered(Vec<u8>),
}

impl Shared {
    /// `nonce` names the client's registrations.
    pub(super) fn new(
        config: ClientConfig,
        shard: u16,
        socket: UdpSocket,
        segmenter: Segmenter,
        route: Route,
        nonce: u128,
    ) -> Shared {
        Shared {
            shard,
            socket,
            segmenter,
            replies: RefCell::new(Replies::new(config.replies, config.first_rid)),
            route: RefCell::new(route),
            pace: RefCell::new(Pace::new(config.probe)),
            waiting: RefCell::default(),
            changed: Notify::new(),
            members_wanted: Notify::new(),
            asks_members: Cell::new(false),
            pool: RefCell::new(Pool::new(config.sessions_max(), nonce)),
            pool_changed: Notify::new(),
            config,
        }
    }

    /// As [`Route::learn`], for all calls.
    pub(super) fn learn(&self, from: SocketAddrV4, policy: Policy, block: &ResponseBlock) {
        self.route.borrow_mut().learn(from, policy, block, now());
        self.route_changed();
    }

    /// As [`Route::answered`], for all calls.
    pub(super) fn answered(&self, from: SocketAddrV4) {
        self.route.borrow_mut().answered(from);
        self.route_changed();
    }

    fn route_changed(&self) {
        self.changed.notify();
        if self.route.borrow().asks_members() {
            self.members_wanted.notify();
        }
    }

    /// Ends once the leader is known or more than `since` probes have been answered.
    pub(super) async fn told(&self, since: u64) {
        while self.route.borrow().leader().is_none() && self.route.borrow().answers() == since {
            self.changed.notified().await;
        }
        // One notification wakes one call. Those behind this one wait for the same.
        self.changed.notify();
    }

    /// Receives for ever and hands each event to its call.
    pub(super) async fn receive(&self) {
        loop {
            let packet = self.socket.recv().await;
            let taken = self.replies.borrow_mut().on_datagram(packet.src(), packet.data());
            // Refused input has been counted and concerns no call.
            let Ok((header, payload, reply)) = taken else { continue };
            let what = match reply {
                Reply::Complete => What::Answered(payload.to_vec()),
                Reply::Assembled(body) => What::Answered(body),
                Reply::Refused => What::Refused,
                Reply::SendRest => What::SendRest,
                Reply::Pending | Reply::Dropped(_) => continue,
            };
            let ended = !matches!(what, What::SendRest);
            let call = match ended {
                true => self.waiting.borrow_mut().remove(&header.rid),
                false => self.waiting.borrow().get(&header.rid).cloned(),
            };
            if let Some(call) = call {
                // The channel holds the two events of each open try; what does not fit is as good as lost on the wire.
                let _ = call.try_send(Event { rid: header.rid, from: packet.src(), what });
            }
        }
    }

    /// Queues one packet of a message; false where there is no buffer or no room.
    fn send_packet(&self, to: SocketAddrV4, header: &Header, body: &[u8]) -> bool {
        let Some(mut packet) = self.socket.alloc() else { return false };
        let written = packet.extend_from_slice(&header.emit()).and_then(|()| packet.extend_from_slice(body));
        written.is_ok() && self.socket.send_to(packet, to).is_ok()
    }
}

struct Try {
    rid: Rid,
    to: SocketAddrV4,
    /// The server has asked for the rest, so that the whole request may be there.
    acked: bool,
}

/// The tries of one call that are still unanswered. Dropping it gives their request ids back.
pub(super) struct Tries<'a> {
    shared: &'a Shared,
    events: Receiver<Event>,
    sender: Sender<Event>,
    open: SmallVec<[Try; 2]>,
    lost_one: bool,
    /// Stamp of the latest poll, for a drop that happens outside of the core.
    stamp: Instant,
}

impl<'a> Tries<'a> {
    pub(super) fn new(shared: &'a Shared) -> Tries<'a> {
        let (sender, events) = mpsc(2 * TRIES_MAX);
        Tries { shared, events, sender, open: SmallVec::new(), lost_one: false, stamp: now() }
    }

    /// Sends the first packet of `body` to `to` under a new request id. With [`TRIES_MAX`] tries open the oldest is
    /// given up.
    pub(super) fn send(
        &mut self,
        to: SocketAddrV4,
        message: Header,
        segments: &Segments,
        body: &[u8],
    ) -> Result<(), CallError> {
        self.stamp = now();
        if self.open.len() >= TRIES_MAX {
            let oldest = self.open.remove(0);
            self.lost_one |= oldest.acked || segments.packets() == 1;
            self.end(oldest.rid);
        }
        let call = Call { multi_packet: segments.packets() > 1, own_block: message.flags.own_block };
        let begun = self.shared.replies.borrow_mut().begin(self.stamp, call);
        let rid = begun.map_err(|full| CallError::NotApplied(NotApplied::TooManyCalls(full)))?;
        self.open.push(Try { rid, to, acked: false });
        self.shared.waiting.borrow_mut().insert(rid, self.sender.clone());
        let header = segments.header(&Header { rid, ..message }, 0);
        if self.shared.send_packet(to, &header, &body[segments.range(0)]) {
            return Ok(());
        }
        self.close(rid);
        Err(CallError::NotApplied(NotApplied::NotSent))
    }

    /// Sends the rest of `body` to the server that asked for it, until `deadline`, letting others in between.
    pub(super) async fn send_rest(
        &mut self,
        event: &Event,
        message: Header,
        segments: &Segments,
        body: &[u8],
        deadline: Instant,
    ) {
        let Some(open) = self.open.iter_mut().find(|open| open.rid == event.rid) else { return };
        open.acked = true;
        for (header, range) in segments.packets_from(Header { rid: event.rid, ..message }, 1) {
            while !self.shared.send_packet(event.from, &header, &body[range.clone()]) {
                if now() >= deadline {
                    return;
                }
                sleep(FULL_QUEUE_PAUSE).await;
            }
            if header.p_order % BURST_PACKETS == 0 {
                yield_now().await;
            }
        }
    }

    /// The next event of any try, `None` at `until`. An event that is there wins over the deadline.
    pub(super) async fn event(&mut self, until: Instant) -> Option<Event> {
        let event = recv_or_deadline(self.events.recv(), until).await.flatten();
        self.stamp = now();
        event
    }

    /// An event that has happened already.
    pub(super) fn try_event(&mut self) -> Option<Event> {
        self.events.try_recv()
    }

    /// Forgets a try that has ended or that nobody waits for any more; where it was sent to.
    pub(super) fn close(&mut self, rid: Rid) -> Option<SocketAddrV4> {
        let place = self.open.iter().position(|open| open.rid == rid)?;
        let closed = self.open.remove(place);
        self.end(rid);
        Some(closed.to)
    }

    /// Forgets the tries of which no more than the first of several packets was sent: they cannot be applied.
    pub(super) fn close_untaken(&mut self) {
        let untaken: SmallVec<[Rid; 2]> = self.open.iter().filter(|open| !open.acked).map(|open| open.rid).collect();
        for rid in untaken {
            self.close(rid);
        }
    }

    /// The server asked last that has not answered.
    pub(super) fn last_asked(&self) -> Option<SocketAddrV4> {
        self.open.last().map(|open| open.to)
    }

    /// Whether a server that has not answered yet was asked.
    pub(super) fn asks(&self, server: SocketAddrV4) -> bool {
        self.open.iter().any(|open| open.to == server)
    }

    /// Whether a try was given up without proof that it was not applied.
    pub(super) fn lost_one(&self) -> bool {
        self.lost_one
    }

    /// How many are unanswered.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn end(&self, rid: Rid) {
        self.shared.replies.borrow_mut().end(self.stamp, rid);
        self.shared.waiting.borrow_mut().remove(&rid);
    }
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        for open in &self.open {
            self.end(open.rid);
        }
    }
}
