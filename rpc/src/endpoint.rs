//! The client port: datagrams in, complete requests out to whoever handles them.

use crate::admin::Admin;
use crate::client::PROBE_METHOD;
use crate::forward::{Arrived, Joiner};
use crate::peer::{ForwardQueue, ForwardedPart};
use crate::r2p2::block::{Refusal, RequestBlock};
use crate::r2p2::counters::{Counters, DropReason};
use crate::r2p2::header::{Header, MessageType, Triple};
use crate::r2p2::layout::{HEADER_BYTES, REQUEST_BLOCK_BYTES};
use crate::r2p2::message::PACKETS_MAX;
use crate::r2p2::policy::Policy;
use crate::r2p2::reassembly::{GivenUp, Message, Outcome, Requests};
use crate::replicated::Replicated;
use crate::request::{Body, Request};
use crate::stats::Event;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use trimaran_net::{Packet, UdpSocket};
use trimaran_runtime::{Instant, sleep_until};

/// Datagrams taken before other tasks of the core get a turn: as many as one receive burst brings.
const DATAGRAMS_PER_TURN: usize = 64;

/// Reads the client socket of one node, and what followers forward to it.
pub(crate) struct Endpoint {
    pub(crate) socket: Rc<UdpSocket>,
    pub(crate) forwards: Rc<ForwardQueue>,
    pub(crate) joiner: Joiner,
    pub(crate) requests: Rc<RefCell<Requests>>,
    pub(crate) node: Rc<Replicated>,
    pub(crate) admin: Rc<Admin>,
    /// Key of the method that opens a session.
    pub(crate) register: u32,
}

impl Endpoint {
    /// The Normal-lane task: runs until the node ends.
    pub(crate) async fn run(mut self) {
        let mut leadership = self.node.shard.leadership();
        let mut timer = sleep_until(Instant::FAR);
        loop {
            let deadline = self.requests.borrow().deadline().unwrap_or(Instant::FAR);
            let mut leadership_moved = false;
            // What is rare comes first: datagrams without end must not hide it.
            let first = poll_fn(|cx| {
                leadership_moved = leadership.poll_changed(cx).is_ready();
                if leadership_moved {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(packet) = self.socket.poll_recv(cx) {
                    return Poll::Ready(Some(packet));
                }
                if self.forwards.poll_added(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // It may fire in vain: most often nothing is waited for that could become too old.
                if deadline == Instant::FAR {
                    return Poll::Pending;
                }
                timer.reset(deadline);
                Pin::new(&mut timer).poll(cx).map(|_| None)
            })
            .await;
            if leadership_moved {
                self.leadership_moved();
            }
            let now = trimaran_runtime::now();
            let node = &self.node;
            self.requests.borrow_mut().expire(now, |given_up| refuse(node, given_up, Refusal::Incomplete));
            let mut left = DATAGRAMS_PER_TURN;
            let mut next = first.or_else(|| self.socket.try_recv());
            while let Some(packet) = next {
                self.datagram(now, packet);
                left -= 1;
                next = if left > 0 { self.socket.try_recv() } else { None };
            }
            if !self.forwarded(now) || left == 0 {
                trimaran_runtime::yield_now().await;
            }
        }
    }

    fn datagram(&mut self, now: Instant, packet: Packet) {
        let from = packet.src();
        let (header, payload) = match Header::parse(packet.data()) {
            Ok(parsed) => parsed,
            Err(reason) => return self.requests.borrow_mut().record(reason),
        };
        if is_first_for_the_leader(&header, payload) {
            if header.flags.own_block
                && RequestBlock::parse(payload).is_ok_and(|(block, _)| self.node.is_late_copy(&block))
            {
                return self.requests.borrow_mut().record(DropReason::CopySeen);
            }
            if self.node.forward_first(Triple { client: from, rid: header.rid }, &header, payload) {
                return;
            }
        }
        let outcome = self.requests.borrow_mut().on_packet(now, from, &header, payload);
        match outcome {
            Outcome::Complete => self.complete(from, &header, Body::Packet(packet, HEADER_BYTES), false),
            outcome => self.several(from, &header, outcome, false),
        }
    }

    /// What followers have sent on, each a client's datagram with the client's address. `false`: there may be more, for
    /// when other tasks have had their turn.
    fn forwarded(&mut self, now: Instant) -> bool {
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(ForwardedPart { cluster, framing, part }) = self.forwards.pop() else { return true };
            if Some(cluster) != self.node.shard.with_machine(|machine| machine.cluster()) {
                self.node.counters.count(Event::PeerDatagramBad);
                continue;
            }
            let Some(arrived) = self.joiner.add(now, &framing, &part, &self.node.counters) else { continue };
            let Arrived { triple, header, payload } = arrived;
            if !self.node.shard.is_leader() {
                self.node.counters.count(Event::ForwardedAgain);
                continue;
            }
            let outcome = self.requests.borrow_mut().on_packet(now, triple.client, &header, &payload);
            match outcome {
                Outcome::Complete => self.complete(triple.client, &header, Body::Assembled(payload, 0), true),
                outcome => self.several(triple.client, &header, outcome, true),
            }
        }
        false
    }

    /// A packet of a request of several.
    fn several(&mut self, from: SocketAddrV4, header: &Header, outcome: Outcome, forwarded: bool) {
        let triple = Triple { client: from, rid: header.rid };
        match outcome {
            Outcome::Begun => self.node.answers.ack(triple),
            Outcome::Assembled(Message { triple, policy, own_block, body }) => {
                let mut request =
                    Request { triple, policy, block: None, forwarded: false, body: Body::Assembled(body, 0) };
                if own_block && !self.take_block(&mut request) {
                    return;
                }
                self.dispatch(request);
            }
            Outcome::Refused { block, reason } if !forwarded => {
                let why = match reason {
                    DropReason::TooManyPackets | DropReason::RequestBytes => Refusal::TooLarge,
                    _ => Refusal::Busy,
                };
                self.node.note_copy(block);
                self.node.refuse_counted(triple, block.map(|block| block.echo()), why);
            }
            Outcome::Refused { .. } => self.node.counters.count(Event::ForwardedRefused),
            Outcome::Complete | Outcome::Pending | Outcome::Dropped(_) => {}
        }
    }

    /// A request of one packet.
    fn complete(&mut self, from: SocketAddrV4, header: &Header, body: Body, forwarded: bool) {
        let triple = Triple { client: from, rid: header.rid };
        let mut request = Request { triple, policy: header.policy, block: None, forwarded, body };
        if header.flags.own_block && !self.take_block(&mut request) {
            return;
        }
        self.dispatch(request);
    }

    /// Moves the block from the body's front into the request. The reassembly has checked it already.
    fn take_block(&self, request: &mut Request) -> bool {
        match RequestBlock::parse(request.body.bytes()) {
            Ok((block, _)) => {
                request.block = Some(block);
                request.body.skip(REQUEST_BLOCK_BYTES);
                true
            }
            Err(reason) => {
                self.requests.borrow_mut().record(reason);
                false
            }
        }
    }

    fn dispatch(&self, request: Request) {
        match request.block {
            Some(block) if block.method == PROBE_METHOD && !request.policy.is_replicated() => {
                self.node.refuse(&request, Refusal::UnknownMethod);
            }
            // Of these the port alone says whom they ask.
            Some(block) if self.admin.serves(block.method) => self.admin.submit(request),
            Some(block) if self.node.is_astray(&block) => self.node.wrong_shard(&request),
            Some(block) if self.node.is_of_another_cluster(&block) => self.node.refuse_session(&request),
            Some(_) if self.node.is_too_young(&request) => self.node.refuse(&request, Refusal::Uninitialised),
            Some(block) if block.method == self.register => self.node.register(request),
            _ => self.node.submit(request),
        }
    }

    /// Requests whose parts this node was collecting as leader: their clients may ask the next one.
    fn leadership_moved(&mut self) {
        if self.node.shard.is_leader() {
            return;
        }
        let node = &self.node;
        self.requests.borrow_mut().abandon(
            trimaran_runtime::now(),
            |policy| policy.is_replicated(),
            |given_up| refuse(node, given_up, Refusal::LeadershipLost),
        );
    }
}

fn refuse(node: &Replicated, given_up: GivenUp, why: Refusal) {
    node.note_copy(given_up.block);
    node.refuse_triple(given_up.triple, given_up.block.map(|block| block.echo()), why);
}

/// The first packet of a replicated request of several, in good order: the leader must ask for the rest of it.
/// Anything else is for this node's own reassembly to take or to count.
fn is_first_for_the_leader(header: &Header, payload: &[u8]) -> bool {
    header.kind == MessageType::Request
        && header.flags.first
        && !header.flags.last
        && header.policy.is_replicated()
        && (2..=PACKETS_MAX).contains(&header.p_order)
        && (!header.flags.own_block
            || RequestBlock::parse(payload).is_ok_and(|(block, _)| !is_read_here(header, &block)))
}

/// This replica answers it, whoever leads.
fn is_read_here(header: &Header, block: &RequestBlock) -> bool {
    header.policy == Policy::ReplicatedRouteNoSideEffects && block.is_here()
}

/// All drop counters of a client port together.
pub(crate) fn drop_counters(requests: &RefCell<Requests>, node: &Replicated) -> Counters {
    let mut total = requests.borrow().counters().clone();
    node.counters.add_drops_to(&mut total);
    total
}
