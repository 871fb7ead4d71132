//! What a raw-bytes service implements: one method that changes state, one that does not.

use crate::r2p2::policy::Policy;
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use trimaran_raft::{LogIndex, Term};

/// A service that sees requests and replies as bytes.
///
/// One value of the type is the state of one replica. The apply task owns it: [`apply`](Service::apply) is called once
/// for every committed request, in log order, the same on every replica, so it must be deterministic: no clock, no
/// randomness, no iteration in an order that differs between processes, nothing from outside `self`, `cx` and
/// `request`. [`query`](Service::query) sees the state between two entries.
pub trait Service: 'static {
    /// Executes one request that Raft has committed (policy REPLICATED_ROUTE) and appends the reply to `reply`, which
    /// is empty. It may await [`Cx::yield_now`] and nothing else: another await stops this replica with E0311.
    ///
    /// A reply over 254 packets (371,856 bytes) is not sent: a client of ours sees `Internal`, another its own deadline.
    fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> impl Future<Output = ()>;

    /// Answers a request that changes nothing and appends the reply to `reply`, which is empty. Under
    /// [`Policy::ReplicatedRouteNoSideEffects`] the state is linearizable; under the other two it is that of the replica
    /// asked, however old.
    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>);

    /// A hash of the whole state, equal on replicas that have applied the same entries. Called when an operator asks,
    /// not per request; may cost time in proportion to the state.
    fn state_digest(&self) -> u64;
}

/// What a replicated handler may know besides its request: where in the log it stands and what time the log says.
#[derive(Debug)]
pub struct Cx {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) log_time_ns: u64,
    pub(crate) method: u32,
    pub(crate) yielded: Rc<Cell<bool>>,
}

impl Cx {
    pub(crate) fn new() -> Self {
        Cx { index: LogIndex(0), term: Term(0), log_time_ns: 0, method: 0, yielded: Rc::default() }
    }

    /// The entry's place in the log.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The term in which the entry was appended.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Log time in nanoseconds: stamped by the leader that appended the entry, the same on every replica, never
    /// going back. Counts from the first leader's clock and advances only while there is a leader.
    pub fn log_time_ns(&self) -> u64 {
        self.log_time_ns
    }

    /// The method key of the request block, 0 for a request without one.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// Lets the core receive packets and heartbeat, then goes on before the next entry. For handlers that run long.
    pub fn yield_now(&self) -> YieldApply {
        YieldApply { yielded: Some(self.yielded.clone()) }
    }
}

/// The future of [`Cx::yield_now`].
#[derive(Debug)]
pub struct YieldApply {
    yielded: Option<Rc<Cell<bool>>>,
}

impl Future for YieldApply {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.yielded.take() {
            Some(flag) => {
                flag.set(true);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

/// What a query may know besides its request.
#[derive(Debug, Clone, Copy)]
pub struct ReadCx {
    pub(crate) policy: Policy,
    pub(crate) method: u32,
    pub(crate) client: SocketAddrV4,
    pub(crate) applied: LogIndex,
    pub(crate) log_time_ns: u64,
}

impl ReadCx {
    /// How the request was routed; [`Policy::ReplicatedRouteNoSideEffects`] reads are linearizable.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The method key of the request block, 0 for a request without one.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddrV4 {
        self.client
    }

    /// The newest entry that the state holds.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Log time of that entry in nanoseconds.
    pub fn log_time_ns(&self) -> u64 {
        self.log_time_ns
    }
}
