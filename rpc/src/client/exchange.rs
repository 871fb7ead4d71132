//! The client's socket: one task receives for all calls, each call holds its tries and hears what becomes of them.

use super::ClientConfig;
use super::error::{CallError, NotApplied};
use super::pace::Pace;
use super::pool::Pool;
use super::route::Route;
use crate::r2p2::by_rid::ByRid;
use crate::r2p2::message::{Segmenter, Segments};
use crate::r2p2::{Call, HEADER_BYTES, Header, Policy, Replies, Reply, ResponseBlock, Rid};
use crate::request::Body;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_runtime::channel::Notify;
use trimaran_runtime::{Instant, now, recv_or_deadline, sleep, yield_now};

/// Tries of one call that may wait for an answer at once. One more, and the one in the middle is given up: of those that reach a node it
/// executes the first, which is one of the oldest, however long that takes.
const TRIES_MAX: usize = 8;
/// Packets sent before others get their turn.
const BURST_PACKETS: u16 = 32;
/// Pause before a full transmit queue is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_micros(50);

/// A message in two parts: a block, or nothing, and the rest.
pub(super) type Parts<'a> = [&'a [u8]; 2];

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
    waiting: RefCell<ByRid<Rc<Mailbox>>>,
    /// Those of calls that have ended, at most as many as calls may wait.
    spare: RefCell<Vec<Rc<Mailbox>>>,
    /// The route has changed: for the writes that look for the leader.
    changed: Notify,
    /// The members shall be asked for: for the task that follows them.
    pub(super) members_wanted: Notify,
    /// A question about the members waits for its answer.
    pub(super) asks_members: Cell<bool>,
    pub(super) pool: RefCell<Pool>,
    /// Of the next call without a name.
    next_number: Cell<u64>,
    /// Calls that wait for a name.
    pub(super) nameless: Cell<usize>,
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
    Answered(Body),
}

/// Where a call finds the events of its tries. Used again by later calls, so that a call allocates none.
#[derive(Default)]
struct Mailbox {
    events: RefCell<VecDeque<Event>>,
    /// When the last packet came of a reply that is not there whole.
    arriving_at: Cell<Option<Instant>>,
    reader: Cell<Option<Waker>>,
}

impl Mailbox {
    /// Holds the two events of each open try; what does not fit is as good as lost on the wire.
    fn put(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        if events.len() < 2 * TRIES_MAX {
            events.push_back(event);
        }
        drop(events);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn take(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.take() {
            return Poll::Ready(event);
        }
        self.reader.set(Some(cx.waker().clone()));
        Poll::Pending
    }
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
            spare: RefCell::default(),
            changed: Notify::new(),
            members_wanted: Notify::new(),
            asks_members: Cell::new(false),
            pool: RefCell::new(Pool::new(config.sessions_max(), nonce)),
            // Another client may have had this address a moment ago.
            next_number: Cell::new(nonce as u64),
            nameless: Cell::new(0),
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

    /// A number for a call without a name; no other such call of this client has it.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number.replace(self.next_number.get().wrapping_add(1))
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
            let from = packet.src();
            let taken = self.replies.borrow_mut().on_datagram(from, packet.data());
            // Refused input has been counted and concerns no call.
            let Ok((header, _, reply)) = taken else { continue };
            let what = match reply {
                Reply::Complete => What::Answered(Body::Packet(packet, HEADER_BYTES)),
                Reply::Assembled(body) => What::Answered(Body::Assembled(body, 0)),
                Reply::Refused => What::Refused,
                Reply::SendRest => What::SendRest,
                Reply::Pending => {
                    if let Some(call) = self.waiting.borrow().get(header.rid) {
                        call.arriving_at.set(Some(now()));
                    }
                    continue;
                }
                Reply::Dropped(_) => continue,
            };
            let ended = !matches!(what, What::SendRest);
            let call = match ended {
                true => self.waiting.borrow_mut().remove(header.rid),
                false => self.waiting.borrow().get(header.rid).cloned(),
            };
            if let Some(call) = call {
                call.put(Event { rid: header.rid, from, what });
            }
        }
    }

    /// Queues packet `index` of a message; false where there is no buffer or no room.
    fn send_packet(
        &self,
        to: SocketAddrV4,
        message: &Header,
        segments: &Segments,
        index: u16,
        parts: Parts<'_>,
    ) -> bool {
        let Some(mut packet) = self.socket.alloc() else { return false };
        let header = segments.header(message, index).emit();
        let [block, body] = segments.part_of(index, parts);
        packet.extend_from_slices([&header, block, body]).is_ok() && self.socket.send_to(packet, to).is_ok()
    }

    fn mailbox(&self) -> Rc<Mailbox> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// No other handle on it is left, but where a call has ended in the middle of its reply.
    fn give_back(&self, mailbox: &mut Rc<Mailbox>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < self.config.replies.calls
            && let Some(emptied) = Rc::get_mut(mailbox)
        {
            emptied.events.get_mut().clear();
            emptied.reader.set(None);
            emptied.arriving_at.set(None);
            spare.push(Rc::clone(mailbox));
        }
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
    mailbox: Rc<Mailbox>,
    open: SmallVec<[Try; 2]>,
    lost_one: bool,
    /// Stamp of the latest poll, for a drop that happens outside of the core.
    stamp: Instant,
}

impl<'a> Tries<'a> {
    pub(super) fn new(shared: &'a Shared) -> Tries<'a> {
        Tries { shared, mailbox: shared.mailbox(), open: SmallVec::new(), lost_one: false, stamp: now() }
    }

    /// Sends the first packet of a message to `to` under a new request id. With [`TRIES_MAX`] tries open the one in the middle is
    /// given up. `echo` as [`Call::echo`].
    pub(super) fn send(
        &mut self,
        to: SocketAddrV4,
        message: Header,
        segments: &Segments,
        parts: Parts<'_>,
        echo: Option<u64>,
    ) -> Result<(), CallError> {
        self.stamp = now();
        if self.open.len() >= TRIES_MAX {
            let given_up = self.open.remove(TRIES_MAX / 2);
            self.lost_one |= given_up.acked || segments.packets() == 1;
            self.end(given_up.rid);
        }
        let call = Call { multi_packet: segments.packets() > 1, echo };
        let begun = self.shared.replies.borrow_mut().begin(self.stamp, call);
        let rid = begun.map_err(|full| CallError::NotApplied(NotApplied::TooManyCalls(full)))?;
        self.open.push(Try { rid, to, acked: false });
        self.shared.waiting.borrow_mut().insert(rid, Rc::clone(&self.mailbox));
        if self.shared.send_packet(to, &Header { rid, ..message }, segments, 0, parts) {
            return Ok(());
        }
        self.close(rid);
        Err(CallError::NotApplied(NotApplied::NotSent))
    }

    /// Sends the rest of a message to the server that asked for it, until `deadline`, letting others in between.
    pub(super) async fn send_rest(
        &mut self,
        event: &Event,
        message: Header,
        segments: &Segments,
        parts: Parts<'_>,
        deadline: Instant,
    ) {
        let Some(open) = self.open.iter_mut().find(|open| open.rid == event.rid) else { return };
        open.acked = true;
        let message = Header { rid: event.rid, ..message };
        for index in 1..segments.packets() {
            while !self.shared.send_packet(event.from, &message, segments, index, parts) {
                if now() >= deadline {
                    return;
                }
                sleep(FULL_QUEUE_PAUSE).await;
            }
            if index % BURST_PACKETS == 0 {
                yield_now().await;
            }
        }
    }

    /// The next event of any try, `None` at `until`. An event that is there wins over the deadline.
    pub(super) async fn event(&mut self, until: Instant) -> Option<Event> {
        let event = recv_or_deadline(poll_fn(|cx| self.mailbox.poll(cx)), until).await;
        self.stamp = now();
        event
    }

    /// An event that has happened already.
    pub(super) fn try_event(&mut self) -> Option<Event> {
        self.mailbox.take()
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

    /// Whether a packet of a long reply has come within `pause`: asked for again now, all of it would come twice.
    pub(super) fn are_being_answered(&self, pause: Duration) -> bool {
        self.mailbox.arriving_at.get().is_some_and(|at| at + pause > now())
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
        self.shared.waiting.borrow_mut().remove(rid);
    }
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        for open in &self.open {
            self.end(open.rid);
        }
        self.shared.give_back(&mut self.mailbox);
    }
}
