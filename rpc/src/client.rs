//! Calls to a cluster: one UDP socket, many calls from many tasks, an answer or a named error before each deadline.
//!
//! ```text
//!   call ──► route ──► try (own rid) ──► REQ0 ──► socket        socket ──► receive task ──► Replies
//!     ▲                                                                                        │ by rid
//!     └───────────────── events: send the rest, refused, answered ◄────────────────────────────┘
//! ```
//!
//! R2P2 neither retransmits nor cancels; what may be sent again is decided here, by what is known about the effect:
//!
//! * A read has none. While it is unanswered, another server is asked every [`ClientConfig::probe`], the earlier tries
//!   staying open.
//! * A write is sent to one server. It is sent again only after proof that it was not applied: a refusal, or a request
//!   of several packets of which nobody asked for more than the first. While it is unanswered, other servers are asked
//!   who leads, so that the next call goes there.

mod error;
mod exchange;
mod route;

pub use error::{CallError, NotApplied};

use crate::r2p2::{
    Counters, Flags, Header, MessageType, PACKETS_MAX, Policy, Refusal, Replies, ReplyLimits, RequestBlock,
    ResponseBlock, Rid, Segmenter, Segments, Status,
};
use error::{is_passing, of_block};
use exchange::{Event, Shared, Tries, What};
use route::Route;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetError, SocketOptions};
use trimaran_runtime::{Instant, Lane, Task, now, spawn_in};

/// Method key of the call that asks a server who leads. No service has it, so that the answer is a refusal whose block
/// names the leader.
pub const PROBE_METHOD: u32 = 0;

/// Answers that send a call on to the leader at once, before it pauses between tries.
const REDIRECTS_MAX: u32 = 3;
/// Tries of a call that follow each other at the pace of probes; later ones take longer and longer, so that many calls
/// without an answer do not use up the request ids.
const PROMPT_TRIES: u32 = 8;
/// Longest wait for an answer, or for the ACK of a request of several packets, before another server is asked.
const PATIENCE_MAX: Duration = Duration::from_millis(160);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConfig {
    /// Time for a call whose caller names none.
    pub deadline: Duration,
    /// Time without an answer after which another server is asked.
    pub probe: Duration,
    /// Bounds on pending calls and unfinished replies.
    pub replies: ReplyLimits,
    /// Packets of one request, at most 254 towards reference servers.
    pub request_packets: u16,
    /// The first request id. Clients that reuse a port should not reuse ids that may still be on the wire.
    pub first_rid: Rid,
    /// Queues and buffers of the socket.
    pub socket: SocketOptions,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            deadline: Duration::from_secs(1),
            probe: Duration::from_millis(10),
            replies: ReplyLimits::default(),
            request_packets: PACKETS_MAX,
            first_rid: Rid(1),
            socket: SocketOptions::default(),
        }
    }
}

/// A call with a block of our own clients.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Key of the method.
    pub method: u32,
    /// Must fit the method's mark.
    pub policy: Policy,
    /// The shard responsible for it.
    pub shard: u16,
    /// The encoded arguments.
    pub body: &'a [u8],
    /// The server to ask, for [`Policy::FixedRoute`]; else the client chooses.
    pub server: Option<SocketAddrV4>,
}

impl Call<'_> {
    /// Whether sending it twice does no harm.
    fn is_read(&self) -> bool {
        self.policy == Policy::ReplicatedRouteNoSideEffects
    }
}

/// What the service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// [`Status::Ok`], or [`Status::App`] where the body is the service's error.
    pub status: Status,
    /// The encoded result.
    pub body: Vec<u8>,
    /// The whole block: term, log index, leader and durability.
    pub block: ResponseBlock,
    /// Who answered.
    pub from: SocketAddrV4,
}

/// A handle on one socket and its calls. Cheap to clone; when the last clone is gone, so are socket and receive task.
#[derive(Clone)]
pub struct Client {
    core: Rc<Core>,
}

struct Core {
    shared: Rc<Shared>,
    config: ClientConfig,
    /// Cancelled when dropped.
    _receive: Task<()>,
}

impl Client {
    /// Opens a socket on `local` (port 0: any free one) and spawns its receive task on this core. The socket is never
    /// connected: the answer may come from another server than the one asked. `servers` in slot order where that is
    /// known; in any other order the first call takes longer.
    ///
    /// # Errors
    /// Those of [`Net::bind`].
    ///
    /// # Panics
    /// Outside of a core.
    pub fn new(
        net: &Net,
        local: SocketAddrV4,
        servers: Vec<SocketAddrV4>,
        config: ClientConfig,
    ) -> Result<Client, NetError> {
        let socket = net.bind(local, config.socket)?;
        let segmenter = Segmenter::new(net.payload_bytes(), config.request_packets);
        let replies = Replies::new(config.replies, config.first_rid);
        let shared = Rc::new(Shared::new(socket, segmenter, replies, Route::new(servers)));
        let receiving = Rc::clone(&shared);
        let receive = spawn_in(Lane::Normal, "client receive", async move { receiving.receive().await });
        Ok(Client { core: Rc::new(Core { shared, config, _receive: receive }) })
    }

    /// The address that servers answer to.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.core.shared.socket.local_addr()
    }

    /// How the client was set up.
    pub fn config(&self) -> &ClientConfig {
        &self.core.config
    }

    /// Where the next write would go first, once a response has told.
    pub fn leader(&self) -> Option<SocketAddrV4> {
        self.core.shared.route.borrow().leader()
    }

    /// Calls without an answer yet, over all tasks, each try counted.
    pub fn waiting(&self) -> usize {
        self.core.shared.replies.borrow().waiting()
    }

    /// Datagrams that were not used, and why.
    pub fn counters(&self) -> Counters {
        self.core.shared.replies.borrow().counters().clone()
    }

    /// A plain R2P2 call as a reference client makes it: no block, one server, one try, the reply's bytes. It may be
    /// answered by another server than `to`.
    ///
    /// # Errors
    /// [`CallError::NotApplied`] for a DROP or a request that was not sent whole, [`CallError::Unknown`] for silence.
    pub async fn call_raw(
        &self,
        to: SocketAddrV4,
        policy: Policy,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let deadline = now() + within;
        let shared = &*self.core.shared;
        let segments = shared.segmenter.request(body.len()).map_err(too_large)?;
        let message = Header::single(MessageType::Request, policy, Rid(0));
        let mut tries = Tries::new(shared);
        tries.send(to, message, &segments, body)?;
        while let Some(event) = tries.event(deadline).await {
            match event.what {
                What::SendRest => tries.send_rest(&event, message, &segments, body, deadline).await,
                What::Refused => return Err(CallError::NotApplied(NotApplied::Dropped)),
                What::Answered(reply) => return Ok(reply),
            }
        }
        if segments.packets() > 1 {
            tries.close_untaken();
        }
        Err(if tries.is_empty() { CallError::NotApplied(NotApplied::NotTaken) } else { CallError::Unknown })
    }

    /// Calls a service: finds and follows the leader, repeats what may be repeated, and ends by the deadline.
    ///
    /// # Errors
    /// [`CallError`], by what is known about the call's effect. A service's own error is a [`Reply`] with
    /// [`Status::App`].
    pub async fn call(&self, call: Call<'_>, within: Duration) -> Result<Reply, CallError> {
        let shared = &*self.core.shared;
        let block = RequestBlock { shard: call.shard, method: call.method, ..RequestBlock::default() };
        let body = [&block.emit(), call.body].concat();
        let segments = shared.segmenter.own_request(body.len()).map_err(too_large)?;
        let mut running = Running {
            message: own_header(call.policy),
            deadline: now() + within,
            next_at: now(),
            patience: self.core.config.probe,
            redirects: 0,
            asked: 0,
            refusal: None,
            tries: Tries::new(shared),
            probes: None,
            client: self,
            call,
            segments,
            body,
        };
        running.run().await
    }
}

fn own_header(policy: Policy) -> Header {
    let flags = Flags { own_block: true, ..Flags::SINGLE };
    Header { flags, ..Header::single(MessageType::Request, policy, Rid(0)) }
}

fn too_large(error: crate::r2p2::TooLarge) -> CallError {
    CallError::NotApplied(NotApplied::TooLarge(error))
}

/// One call of [`Client::call`] on its way.
struct Running<'a> {
    client: &'a Client,
    call: Call<'a>,
    message: Header,
    segments: Segments,
    body: Vec<u8>,
    deadline: Instant,
    /// When to try again or to probe.
    next_at: Instant,
    /// How long the next slow try waits.
    patience: Duration,
    redirects: u32,
    /// Tries so far.
    asked: u32,
    /// The last proof that no try so far was applied.
    refusal: Option<CallError>,
    tries: Tries<'a>,
    /// Questions who leads, while a write is unanswered.
    probes: Option<Tries<'a>>,
}

impl Running<'_> {
    async fn run(&mut self) -> Result<Reply, CallError> {
        loop {
            if now() >= self.next_at {
                self.ask()?;
            }
            let until = self.next_at.min(self.deadline);
            if let Some(event) = self.tries.event(until).await {
                if let Some(reply) = self.on_event(event).await? {
                    return Ok(reply);
                }
            } else if now() >= self.deadline {
                return Err(self.failure());
            }
            self.hear_probes();
        }
    }

    /// Sends a try where that is harmless, else asks another server who leads.
    fn ask(&mut self) -> Result<(), CallError> {
        let pause = self.client.core.config.probe;
        self.next_at = now() + pause;
        if let Some(silent) = self.tries.last_asked() {
            self.client.core.shared.route.borrow_mut().avoid(silent);
            if self.segments.packets() > 1 && !self.call.is_read() {
                // Only the first packet is out, so nothing can have been applied.
                self.tries.close_untaken();
                self.refusal = Some(CallError::NotApplied(NotApplied::NotTaken));
            }
        }
        if !self.tries.is_empty() && !self.call.is_read() {
            return self.probe(pause);
        }
        let picked = self.call.server.or_else(|| self.client.core.shared.route.borrow().pick());
        let Some(to) = picked else { return Err(CallError::NotApplied(NotApplied::NoServers)) };
        self.asked += 1;
        if self.segments.packets() > 1 || self.asked > PROMPT_TRIES {
            self.next_at = now() + self.patience;
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        match self.tries.send(to, self.message, &self.segments, &self.body) {
            // Earlier tries may still be answered.
            Err(_) if !self.tries.is_empty() => Ok(()),
            Err(error) if is_passing(&error) => {
                self.refusal = Some(error);
                Ok(())
            }
            sent => sent,
        }
    }

    /// Asks the next server who leads, unless another call has just done so.
    fn probe(&mut self, pause: Duration) -> Result<(), CallError> {
        let shared = &self.client.core.shared;
        let Some(to) = shared.route.borrow_mut().probe(now(), pause) else { return Ok(()) };
        let block = RequestBlock { shard: self.call.shard, method: PROBE_METHOD, ..RequestBlock::default() }.emit();
        let Ok(segments) = shared.segmenter.own_request(block.len()) else { return Ok(()) };
        let probes = self.probes.get_or_insert_with(|| Tries::new(shared));
        // A probe that cannot be sent is as good as lost.
        let _ = probes.send(to, own_header(Policy::FixedRoute), &segments, &block);
        Ok(())
    }

    /// Learns what probes have brought by now.
    fn hear_probes(&mut self) {
        let Some(probes) = &mut self.probes else { return };
        while let Some(Event { rid, from, what }) = probes.try_event() {
            probes.close(rid);
            if let What::Answered(message) = what
                && let Ok((block, _)) = ResponseBlock::parse(&message)
            {
                self.client.core.shared.route.borrow_mut().learn(from, Policy::FixedRoute, &block);
            }
        }
    }

    /// The reply, `None` where the call goes on, or the error that ends it.
    async fn on_event(&mut self, event: Event) -> Result<Option<Reply>, CallError> {
        let answer = match event.what {
            What::SendRest => {
                let (message, deadline) = (self.message, self.deadline);
                self.tries.send_rest(&event, message, &self.segments, &self.body, deadline).await;
                return Ok(None);
            }
            What::Refused => {
                let asked = self.tries.close(event.rid);
                self.client.core.shared.route.borrow_mut().avoid(asked.unwrap_or(event.from));
                return self.go_on(CallError::NotApplied(NotApplied::Dropped), None).map(|()| None);
            }
            What::Answered(answer) => answer,
        };
        let asked = self.tries.close(event.rid);
        // `Replies` has looked at the block already; a broken one is as good as silence.
        let Ok((block, body)) = ResponseBlock::parse(&answer) else { return Ok(None) };
        let route = &self.client.core.shared.route;
        route.borrow_mut().learn(event.from, self.call.policy, &block);
        let Some(error) = of_block(&block) else {
            let reply = Reply { status: block.status, body: body.to_vec(), block, from: event.from };
            return Ok(Some(reply));
        };
        let leader = route.borrow().leader().filter(|leader| Some(*leader) != asked && *leader != event.from);
        let redirected = block.status == Status::NotApplied && block.reason == Refusal::NotLeader;
        if leader.is_none() && block.reason != Refusal::Busy {
            route.borrow_mut().avoid(asked.unwrap_or(event.from));
        }
        self.go_on(error, leader.filter(|_| redirected)).map(|()| None)
    }

    /// After a refusal: tries again, at once where it named a leader, unless the refusal is final.
    fn go_on(&mut self, refusal: CallError, leader: Option<SocketAddrV4>) -> Result<(), CallError> {
        if !is_passing(&refusal) {
            return Err(refusal);
        }
        self.refusal = Some(refusal);
        if leader.is_some() && self.redirects < REDIRECTS_MAX {
            self.redirects += 1;
            self.next_at = now();
        } else {
            self.redirects = 0;
            self.next_at = now() + self.client.core.config.probe;
        }
        Ok(())
    }

    /// What is known when the deadline has come.
    fn failure(&mut self) -> CallError {
        if self.segments.packets() > 1 {
            self.tries.close_untaken();
        }
        let proven = self.call.is_read() || self.tries.is_empty();
        match self.refusal {
            Some(refusal) if proven => refusal,
            _ if self.tries.is_empty() => CallError::NotApplied(NotApplied::NotTaken),
            _ => CallError::Unknown,
        }
    }
}
