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
//! * A write that finds no leader known asks before it is sent, and again before it is repeated, at one more round trip:
//!   sent to a server that is down, it would cost the caller its deadline and the certainty. It goes to the leader that
//!   the first answer names, else to who answered, and where nobody does, to the next server all the same.

mod error;
mod exchange;
mod route;
mod running;

pub use error::{CallError, NotApplied};

use crate::r2p2::{
    Counters, Header, MessageType, PACKETS_MAX, Policy, Replies, ReplyLimits, ResponseBlock, Rid, Segmenter, Status,
};
use exchange::{Shared, Tries, What};
use route::Route;
use running::Running;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetError, SocketOptions};
use trimaran_runtime::{Lane, Task, now, spawn_in};

/// Method key of the call that asks a server who leads. No service has it, so that the answer is a refusal whose block
/// names the leader.
pub const PROBE_METHOD: u32 = 0;

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
        Running::new(self, call, within)?.run().await
    }
}

fn too_large(error: crate::r2p2::TooLarge) -> CallError {
    CallError::NotApplied(NotApplied::TooLarge(error))
}
