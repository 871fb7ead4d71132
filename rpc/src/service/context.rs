//! What a handler may know and do besides its request.

use crate::apply::Job;
use crate::log_rng::LogRng;
use crate::log_time::LogTime;
use crate::outbox::{Effect, EffectId, Outbox, OutboxFull};
use crate::r2p2::policy::Policy;
use crate::replicated::Replicated;
use crate::session::CallId;
use crate::shards::ShardPlace;
use crate::timers::{Timer, TimerId, Timers, TimersFull};
use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use trimaran_net::Net;
use trimaran_raft::{LogIndex, Term};
use trimaran_runtime::channel::oneshot;

/// What a replicated handler may know besides its request: where in the log it stands and what time the log says. And
/// what it may do besides changing its state: all of it is the same on every replica.
#[derive(Debug)]
pub struct Cx {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) now: LogTime,
    pub(crate) method: u32,
    pub(crate) call: Option<CallId>,
    /// Tells apart what runs at one index: 0 the entry itself, then the timers that it fires.
    pub(crate) stream: u64,
    pub(crate) cluster: u128,
    pub(crate) place: ShardPlace,
    pub(crate) rng: Option<LogRng>,
    pub(crate) yielded: Arc<AtomicBool>,
    pub(crate) timers: Timers,
    pub(crate) outbox: Outbox,
}

impl Cx {
    pub(crate) fn new() -> Self {
        Cx {
            index: LogIndex(0),
            term: Term(0),
            now: LogTime::ZERO,
            method: 0,
            call: None,
            stream: 0,
            cluster: 0,
            place: ShardPlace::ALONE,
            rng: None,
            yielded: Arc::default(),
            timers: Timers::default(),
            outbox: Outbox::default(),
        }
    }

    /// The entry's place in the log.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The term in which the entry was appended.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The time that the log says: stamped by the leader that appended the entry, the same on every replica, never going back.
    pub fn now(&self) -> LogTime {
        self.now
    }

    /// The method key of the request block, 0 for a request without one.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// What names the call through all its retries; `None` for a client without a session, and for timers.
    pub fn call_id(&self) -> Option<CallId> {
        self.call
    }

    /// Which of the cluster's shards this is, the same on every replica.
    pub fn shard(&self) -> ShardPlace {
        self.place
    }

    /// Random numbers, the same on every replica: seeded by cluster, shard and entry.
    pub fn rng(&mut self) -> &mut LogRng {
        let stream = u64::from(self.place.shard()) << 32 | self.stream;
        let (cluster, index) = (self.cluster, self.index.0);
        self.rng.get_or_insert_with(|| LogRng::new(cluster, index, stream))
    }

    /// Runs `timer` on every replica with the first entry whose log time is `at` or later. An idle leader appends one for
    /// it, so it runs soon after that moment, as long as there is a leader. With `at` in the past it runs with the next entry.
    ///
    /// # Errors
    /// [`TimersFull`]; the same on every replica.
    pub fn set_timer(&mut self, at: LogTime, timer: Timer) -> Result<TimerId, TimersFull> {
        self.timers.set(at, timer)
    }

    /// Takes a timer back; `false` where it has fired already, was cancelled, or never was.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    /// Has `effect` carried out by the leader, at least once, also when leaders die: it stays in the replicated outbox until
    /// one has said that it is done. Effects may overtake each other.
    ///
    /// # Errors
    /// [`OutboxFull`]; the same on every replica.
    pub fn after_commit(&mut self, effect: Effect) -> Result<EffectId, OutboxFull> {
        self.outbox.add(self.index, effect)
    }

    /// Lets the core receive packets and heartbeat, then goes on before the next entry. For handlers that run long.
    pub fn yield_now(&self) -> YieldApply {
        YieldApply { yielded: Some(self.yielded.clone()) }
    }
}

/// The future of [`Cx::yield_now`].
#[derive(Debug)]
pub struct YieldApply {
    yielded: Option<Arc<AtomicBool>>,
}

impl Future for YieldApply {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.yielded.take() {
            Some(flag) => {
                // Whoever polls this looks at it next, on the same core.
                flag.store(true, Ordering::Relaxed);
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
    pub(crate) now: LogTime,
    pub(crate) place: ShardPlace,
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

    /// Which of the cluster's shards this is.
    pub fn shard(&self) -> ShardPlace {
        self.place
    }

    /// Log time of that entry. While nothing is written and no timer is pending, it stands still.
    pub fn now(&self) -> LogTime {
        self.now
    }
}

/// Why a handler could not look at the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoState {
    /// Too many wait for it already.
    #[error("too many wait for the state of this replica")]
    Busy,
    /// The replica has stopped applying, or the look itself panicked.
    #[error("the state of this replica cannot be looked at")]
    Unavailable,
}

/// What a handler of one replica may know and use: `#[local]` methods and `#[effect]`s.
pub struct LocalCx<S> {
    pub(crate) node: Rc<Replicated>,
    pub(crate) net: Net,
    pub(crate) method: u32,
    pub(crate) client: Option<SocketAddrV4>,
    pub(crate) effect: Option<EffectId>,
    pub(crate) service: PhantomData<fn(S)>,
}

impl<S> Clone for LocalCx<S> {
    fn clone(&self) -> Self {
        LocalCx {
            node: self.node.clone(),
            net: self.net.clone(),
            method: self.method,
            client: self.client,
            effect: self.effect,
            service: PhantomData,
        }
    }
}

impl<S> std::fmt::Debug for LocalCx<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCx").field("method", &self.method).field("client", &self.client).finish_non_exhaustive()
    }
}

impl<S: 'static> LocalCx<S> {
    /// Looks at the state of this replica, however old, between two entries. Waits for a replicated handler that is
    /// suspended, and behind the queries that came before.
    ///
    /// # Errors
    /// [`NoState`].
    pub async fn with_state<R: 'static>(&self, look: impl FnOnce(&S) -> R + 'static) -> Result<R, NoState> {
        let (to, looked) = oneshot();
        let look = Box::new(move |state: &dyn Any| {
            if let Some(state) = state.downcast_ref::<S>() {
                let _ = to.send(look(state));
            }
        });
        if self.node.halted().is_some() {
            return Err(NoState::Unavailable);
        }
        self.node.jobs.push(Job::Look(look)).map_err(|_| NoState::Busy)?;
        looked.await.map_err(|_| NoState::Unavailable)
    }

    /// The method key.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// Who asks; nobody does for an effect.
    pub fn client(&self) -> Option<SocketAddrV4> {
        self.client
    }

    /// The effect's name, where this is one.
    pub fn effect(&self) -> Option<EffectId> {
        self.effect
    }

    /// Whether this replica leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.node.shard.is_leader()
    }

    /// Waits until the state has moved past `index`: for long polls that answer when something changed.
    pub async fn applied_past(&self, index: LogIndex) {
        self.node.shard.applied_at_least(LogIndex(index.0.saturating_add(1))).await;
    }

    /// The newest entry that the state holds.
    pub fn applied(&self) -> LogIndex {
        self.node.shard.with_machine(|machine| machine.applied_index())
    }

    /// Which of the cluster's shards this is.
    pub fn shard(&self) -> ShardPlace {
        self.node.place
    }

    /// The network of this core, for clients of other services.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// This core's clock.
    pub fn now(&self) -> trimaran_runtime::Instant {
        trimaran_runtime::now()
    }
}
