//! A service without a cluster: for unit tests of handlers, and as the model that clusters are compared with.

use crate::client::{Kind, Request};
use crate::log_time::LogTime;
use crate::outbox::Effect;
use crate::r2p2::policy::Policy;
use crate::replica::Replica;
use crate::service::{Answer, Mark, ReadCx, Service};
use crate::state::{Reader, StateError, Turns, Writer};
use futures::task::noop_waker_ref;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use trimaran_raft::{EntryHeader, EntryKind, LogIndex};

/// One copy of a service that executes calls one after the other, with the same contexts, timers and outbox as a replica.
///
/// ```
/// use trimaran_rpc::alone::Alone;
/// use trimaran_rpc::prelude::*;
///
/// #[derive(Default, State)]
/// struct Sum {
///     total: u64,
/// }
///
/// #[service]
/// impl Sum {
///     /// Forgets it all after a minute.
///     #[replicated]
///     async fn add(&mut self, cx: &mut Cx, by: u64) -> u64 {
///         self.total += by;
///         let _ = cx.set_timer(cx.now() + Duration::from_secs(60), SumTimers::forget());
///         self.total
///     }
///
///     #[timer]
///     async fn forget(&mut self, _cx: &mut Cx) {
///         self.total = 0;
///     }
/// }
///
/// # fn main() {
/// let mut sum = Alone::new(Sum::default());
/// assert_eq!(sum.run(SumCalls::add(5)), Ok(5));
/// assert_eq!(sum.run(SumCalls::add(2)), Ok(7));
/// sum.advance(Duration::from_secs(60));
/// assert_eq!(sum.run(SumCalls::add(1)), Ok(1));
/// # }
/// ```
pub struct Alone<S> {
    replica: Replica<S>,
    now: LogTime,
}

impl<S: Service> Alone<S> {
    /// A copy that has executed nothing yet, at log time 0.
    pub fn new(service: S) -> Self {
        Alone { replica: Replica::new(service), now: LogTime::ZERO }
    }

    /// The service's state.
    pub fn service(&self) -> &S {
        &self.replica.service
    }

    /// Log time of the next entry.
    pub fn now(&self) -> LogTime {
        self.now
    }

    /// Lets log time go on; timers that come due fire, each with an entry of its own moment.
    ///
    /// # Panics
    /// As [`Alone::write`].
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.entry(EntryKind::Tick, 0, &[]);
        }
        self.now = end;
    }

    /// When the earliest pending timer is due.
    pub fn next_timer(&self) -> Option<LogTime> {
        self.replica.cx.timers.next_at()
    }

    /// The effects that handlers have asked for, oldest first. They stay open.
    pub fn effects(&self) -> Vec<Effect> {
        self.replica.cx.outbox.after(None).map(|(_, effect)| effect.clone()).collect()
    }

    /// Executes a replicated call as the next entry.
    ///
    /// # Panics
    /// Where a replica would stop: on a handler that panics or awaits something that the log does not order.
    pub fn write(&mut self, method: u32, request: &[u8]) -> (Answer, Vec<u8>) {
        self.entry(EntryKind::Normal, method, request)
    }

    /// Answers a read.
    pub fn read(&self, method: u32, request: &[u8]) -> (Answer, Vec<u8>) {
        let cx = ReadCx {
            policy: Policy::ReplicatedRouteNoSideEffects,
            method,
            client: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1),
            applied: self.replica.cx.index,
            now: self.replica.cx.now,
            place: self.replica.cx.place,
        };
        let mut reply = Vec::new();
        (self.replica.service.query(&cx, request, &mut reply), reply)
    }

    /// Executes a call as its mark says; `None` for methods that only a whole node can run.
    ///
    /// # Panics
    /// As [`Alone::write`].
    pub fn call(&mut self, method: u32, request: &[u8]) -> Option<(Answer, Vec<u8>)> {
        match S::mark(method)? {
            Mark::Replicated | Mark::Raw => Some(self.write(method, request)),
            Mark::Read => Some(self.read(method, request)),
            Mark::Local | Mark::Timer | Mark::Effect => None,
        }
    }

    /// Executes a typed call as its mark says: what the client would be told.
    ///
    /// # Panics
    /// As [`Alone::write`]; for methods that only a whole node can run; and where the service has no such method.
    #[track_caller]
    pub fn run<K: Kind, T: DeserializeOwned, E>(&mut self, request: Request<K, T, E>) -> Result<T, E> {
        let any = request.clone().erase();
        let Some((answer, reply)) = self.call(any.method, &any.body) else {
            panic!("method {:08x} is none that a service alone can run", any.method);
        };
        let end = request.read_answer(answer, &reply);
        end.unwrap_or_else(|| panic!("method {:08x} answers {answer:?} with {} bytes", any.method, reply.len()))
    }

    fn entry(&mut self, kind: EntryKind, method: u32, request: &[u8]) -> (Answer, Vec<u8>) {
        let index = LogIndex(self.replica.cx.index.0 + 1);
        let header = EntryHeader { kind, method, log_time: self.now.as_nanos(), ..EntryHeader::default() };
        let mut reply = Vec::new();
        let outcome = at_once(self.replica.entry(index, &header, request, &mut reply));
        match outcome {
            Ok(outcome) => (outcome.map_or(Answer::Ok, |outcome| outcome.answer()), reply),
            Err(halt) => panic!("{}: {}", halt.code, halt.message),
        }
    }

    /// The service's state as saved.
    ///
    /// # Panics
    /// Where the state has no form; see [`Writer::into_bytes`].
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::bytes().at_once();
        at_once(self.replica.service.save(&mut writer));
        writer.into_bytes().unwrap_or_else(|error| panic!("the state cannot be saved: {error}"))
    }

    /// Saves everything, timers and effects included, and goes on with what was read back: as a replica does that comes
    /// back by a snapshot.
    ///
    /// # Errors
    /// Those of [`State::load`](crate::state::State::load), and bytes that it leaves unread.
    pub fn reload(&mut self) -> Result<(), StateError> {
        let mut writer = Writer::bytes().at_once();
        at_once(self.replica.save(&mut writer));
        let bytes = writer.into_bytes().map_err(|error| StateError::Invalid(error.to_string()))?;
        let former = at_once(self.replica.load(S::VERSION, Reader::new(&bytes).at_once()))?;
        at_once(former.discard(&mut Turns::new().at_once()));
        Ok(())
    }

    /// A copy that begins with a saved state.
    ///
    /// # Errors
    /// Those of [`State::load`](crate::state::State::load).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes).at_once();
        let service = at_once(S::load(S::VERSION, &mut reader))?;
        reader.finish()?;
        Ok(Alone::new(service))
    }
}

/// Polls to the end. Whatever suspends here goes on when it is polled again.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(noop_waker_ref());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
    }
}
