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
//! * A read has none. While it is unanswered, another server is asked every [`ClientConfig::probe`], and ever more rarely after eight
//!   tries. The first four stay open to the end, the newest four with them, and a node executes one of those that reach it. What any replica may answer ([`Consistency`]) goes to the same one as long as it answers, and at once to the
//!   next where it cannot; clients begin with different ones.
//! * A write has a name, the number of the call in one of the client's sessions, by which the cluster recognises a copy. It
//!   is sent to the leader, or to any server where none is known. While it is unanswered, others are asked who leads, at
//!   the same pace; it is sent again as soon as that is somebody who has not got it, and in any case after a while that
//!   doubles each time. Sessions are opened by themselves when a write needs one ([`crate::session`] is their other end).
//! * A read, or a write with a name, of one packet is sent once more to the same server when its answer is late by what round
//!   trips have been so far: after a millisecond at least, later and later, and for a tenth of the calls and a few more at
//!   most (`client/pace.rs`). So a lost datagram costs about a round trip. Where that budget is used up, nothing is measured
//!   yet, or round trips are near the pace of probes, the two rules above stand alone.
//! * Without sessions ([`ClientConfig::sessions`]) a write is sent to one server, and again only after proof that it was not
//!   applied: a refusal, or a request of several packets of which nobody asked for more than the first. Such a write that
//!   finds no leader known asks before it is sent, and again before it is repeated: sent to a server that is down, it would
//!   cost the caller its deadline and the certainty.
//! * A local call may do anything, so it is treated as a write without a name.

mod connect;
mod error;
mod exchange;
mod follow;
mod lanes;
mod pace;
mod pool;
mod registration;
mod remote;
mod route;
mod running;
mod typed;

pub use crate::consistency::{BadConsistency, Consistency};
pub use crate::session::CallId;
pub use connect::{BadServer, ConnectError};
pub use error::{CallError, NotApplied};
pub use remote::{Remote, RemoteReply};
pub use trimaran_raft::LogIndex;
pub use typed::{
    AnyRequest, Call, Caller, Calling, Indexed, IndexedCall, IndexedCalling, Kind, Local, OwnedCall, Read, Replica,
    Replicated, Request,
};

use crate::r2p2::{Counters, Header, MessageType, PACKETS_MAX, Policy, ReplyLimits, ResponseBlock, Rid, Status};
use crate::session::WINDOW;
use crate::shards::ShardMap;
use exchange::{Shared, Tries, What};
use lanes::Lanes;
use pool::End;
use registration::Claim;
use running::{Failure, Naming, Repeat, Running};
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetError, SocketOptions, shard_address};
use trimaran_runtime::{Instant, Task, now};

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
    /// Whether writes carry a session, so that they may be sent again and are applied once all the same.
    pub sessions: bool,
    /// Names the client's sessions: nobody else may use the same number, nor those that follow it. `None`: drawn from the
    /// kernel. For simulations, where it must come from the seed.
    pub nonce: Option<u128>,
}

impl ClientConfig {
    /// Sessions that the client opens at most: enough for as many writes as there may be calls, and a few for those whose
    /// window waits for one slow call.
    fn sessions_max(&self) -> usize {
        (self.replies.calls.div_ceil(WINDOW as usize) * 2).clamp(4, 512)
    }
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
            sessions: true,
            nonce: None,
        }
    }
}

/// Times that one call without a session is made anew because the cluster is another one than it names. Writes are given a
/// new name as long as there are sessions, and time: each that has expired is met once.
const RENAMINGS_MAX: u32 = 2;

/// A call of a method by its key, its arguments as bytes.
#[derive(Debug, Clone, Copy)]
pub struct MethodCall<'a> {
    /// Key of the method.
    pub method: u32,
    /// Must fit the method's mark.
    pub policy: Policy,
    /// The shard that is asked; 0 where there is one. Of an operator's question to one server, the server's port says it.
    pub shard: u16,
    /// The encoded arguments.
    pub body: &'a [u8],
    /// The server to ask, for [`Policy::FixedRoute`], and for reads that this one shall answer; else the client chooses.
    pub server: Option<SocketAddrV4>,
}

/// How a call is made besides what is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    /// The name that an earlier call had.
    call_id: Option<CallId>,
    /// It changes nothing, whatever its policy says.
    is_read: bool,
    /// No answer of another cluster will do.
    is_pinned: bool,
    /// What a read must see.
    consistency: Consistency,
    /// Who answers; `None`: whom the call names, or whoever can.
    replica: Option<Replica>,
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
    lanes: Rc<Lanes>,
}

/// The way to one shard.
struct Lane {
    shared: Rc<Shared>,
    /// Cancelled when dropped, as are the others.
    _receive: Task<()>,
    _follow: Task<()>,
    registering: RefCell<Option<Task<()>>>,
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
        let nonce = config.nonce.unwrap_or_else(random_nonce);
        Ok(Client { lanes: Rc::new(Lanes::new(net, local, servers, config, nonce)?) })
    }

    /// The address that servers answer to, those of shard 0; the calls to each other shard have a port of their own.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.lanes.first().shared.socket.local_addr()
    }

    /// How the client was set up.
    pub fn config(&self) -> &ClientConfig {
        &self.lanes.first().shared.config
    }

    /// Where the next write to shard 0 would go first, once a response has told.
    pub fn leader(&self) -> Option<SocketAddrV4> {
        self.lanes.first().shared.route.borrow().leader()
    }

    /// The shards of the cluster, as far as this client has learned: one, until a call has shown that there are more, or
    /// [`Client::ask_shards`] has asked.
    pub fn shards(&self) -> ShardMap {
        self.lanes.map()
    }

    /// Asks the servers how many shards there are, for whoever wants to call all of them. What was known stays where nobody answers.
    pub async fn ask_shards(&self, within: Duration) -> ShardMap {
        self.lanes.refresh(now() + within).await;
        self.lanes.map()
    }

    /// Calls without an answer yet, over all tasks, each try counted; but for the client's own question about the members.
    pub fn waiting(&self) -> usize {
        let mut waiting = 0;
        self.lanes.each(|Lane { shared, .. }| {
            waiting += shared.replies.borrow().waiting().saturating_sub(usize::from(shared.asks_members.get()));
        });
        waiting
    }

    /// Datagrams that were not used, and why.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.lanes.each(|lane| counters.merge(lane.shared.replies.borrow().counters()));
        counters
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
        let shared = &*self.lanes.first().shared;
        let segments = shared.segmenter.request(body.len()).map_err(too_large)?;
        let message = Header::single(MessageType::Request, policy, Rid(0));
        let mut tries = Tries::new(shared);
        tries.send(to, message, &segments, [&[], body], None)?;
        while let Some(event) = tries.event(deadline).await {
            match event.what {
                What::SendRest => tries.send_rest(&event, message, &segments, [&[], body], deadline).await,
                What::Refused => return Err(CallError::NotApplied(NotApplied::Dropped)),
                What::Answered(reply) => return Ok(reply.into_vec()),
            }
        }
        if segments.packets() > 1 {
            tries.close_untaken();
        }
        Err(if tries.is_empty() {
            CallError::NotApplied(NotApplied::NotTaken)
        } else {
            CallError::Unknown { call_id: None }
        })
    }

    /// Calls a service in the shard that the call names: finds and follows the leader, repeats what may be repeated, and ends by the deadline. Dropped
    /// before its end, the call may have been applied or may yet be, and nobody will learn of it.
    ///
    /// # Errors
    /// [`CallError`], by what is known about the call's effect. A service's own error is a [`Reply`] with
    /// [`Status::App`].
    pub async fn call(&self, call: MethodCall<'_>, within: Duration) -> Result<Reply, CallError> {
        let is_read = call.policy == Policy::ReplicatedRouteNoSideEffects;
        // Operators' calls go by `FixedRoute`, to any node of any cluster.
        let is_pinned = call.policy != Policy::FixedRoute;
        let manner =
            Manner { call_id: None, is_read, is_pinned, consistency: Consistency::Linearizable, replica: None };
        self.lanes.call(&call, None, &manner, now() + within).await
    }

    /// As [`Client::call`], in the shard of a key, by the hash of [`shard_key`](crate::shards::shard_key); without one in the shard
    /// that the call names.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_keyed(
        &self,
        call: MethodCall<'_>,
        key: Option<u64>,
        within: Duration,
    ) -> Result<Reply, CallError> {
        let is_read = call.policy == Policy::ReplicatedRouteNoSideEffects;
        let manner =
            Manner { call_id: None, is_read, is_pinned: true, consistency: Consistency::Linearizable, replica: None };
        self.lanes.call(&call, key, &manner, now() + within).await
    }
}

impl Lane {
    /// Makes a call in this lane, whatever shard it names. `map_version` says by which map the lane was chosen.
    async fn call(
        &self,
        call: &MethodCall<'_>,
        map_version: u32,
        manner: &Manner,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        let core = self;
        let server = match manner.replica {
            None => call.server,
            Some(Replica::At(base)) => shard_address(base, self.shared.shard),
            Some(Replica::Slot(slot)) => Some(follow::find(&self.shared, slot, deadline).await?),
        };
        let is_write = call.policy == Policy::ReplicatedRoute;
        let mut renamings = 0;
        loop {
            if is_write || manner.is_pinned {
                core.shared.pool.borrow().check().map_err(registration::replaced)?;
            }
            let mut claim = match manner.call_id {
                Some(id) if is_write => Some(Claim::again(&core.shared, id)),
                None if is_write && core.shared.config.sessions => match core.claim(map_version, deadline).await {
                    // Nothing of the call itself has been sent.
                    Err(CallError::NotApplied(NotApplied::WrongShard)) => {
                        return Err(Failure::WrongShard { untouched: true });
                    }
                    claim => Some(claim?),
                },
                _ => None,
            };
            let (naming, repeat) = match &claim {
                Some(claim) => (Naming::Call(claim.id), Repeat::Recognised),
                None if !manner.is_pinned || is_write => (Naming::Nothing, Repeat::Never),
                None if manner.is_read => (Naming::Cluster(manner.consistency), Repeat::Anywhere),
                None => (Naming::Cluster(Consistency::Linearizable), Repeat::Never),
            };
            if let Naming::Cluster(_) = naming {
                core.get_pinned(map_version);
            }
            let segments = Running::segments(&core.shared, call)?;
            let end = {
                let manner = (naming, repeat);
                let mut running = Running::new(&core.shared, call, server, segments, manner, map_version, deadline);
                running.run().await
            };
            let call_id = claim.as_ref().map(|claim| claim.id);
            match end {
                Ok(reply) => return Ok(reply),
                Err(Failure::Call(CallError::Unknown { .. }) | Failure::WrongShard { untouched: false }) => {
                    if let Some(claim) = &mut claim {
                        claim.end = End::Keep;
                    }
                    return Err(CallError::Unknown { call_id }.into());
                }
                Err(failure @ (Failure::Call(_) | Failure::WrongShard { .. })) => return Err(failure),
                Err(Failure::SessionExpired { untouched }) => {
                    if let Some(id) = call_id {
                        core.shared.pool.borrow_mut().expired(id.session);
                    }
                    // What changes nothing, or has changed nothing and never will, may be called anew.
                    let is_harmless = manner.is_read || (untouched && manner.call_id.is_none());
                    if !is_harmless || renamings == RENAMINGS_MAX || now() >= deadline {
                        return Err(CallError::Unknown { call_id }.into());
                    }
                    // A client that has long been idle may have many expired sessions; each is met once, and gone.
                    if claim.is_none() {
                        renamings += 1;
                    }
                    if claim.is_none() {
                        core.identify(map_version, deadline).await?;
                    }
                }
            }
        }
    }
}

/// From the kernel; where it has none to give, from this process's place in time, which is all that is left.
fn random_nonce() -> u128 {
    let mut bytes = [0; 16];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(16) => u128::from_le_bytes(bytes),
        _ => u128::from(now().as_nanos()) << 64 | u128::from(std::process::id()),
    }
}

fn too_large(error: crate::r2p2::TooLarge) -> CallError {
    CallError::NotApplied(NotApplied::TooLarge(error))
}
