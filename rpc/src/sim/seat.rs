//! Where one simulated client sits: its random numbers, its clock, and what it writes down.

use super::calls::{Asked, Object, Record, Told};
use super::history::{CallId, ClientId, OperationId};
use super::rng::SimRng;
use crate::client::{AnyRequest, CallError, Caller, Client, Kind, OwnedCall, Reply, Request};
use crate::codec;
use crate::r2p2::{Policy, Status};
use crate::service::{Answer, Method};
use serde::Serialize;
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;

impl AnyRequest {
    /// A request that goes through the log.
    pub fn write(method: u32, body: impl Into<Vec<u8>>) -> AnyRequest {
        AnyRequest { method, policy: Policy::ReplicatedRoute, body: body.into(), shard_key: None }
    }

    /// A linearizable read.
    pub fn read(method: u32, body: impl Into<Vec<u8>>) -> AnyRequest {
        AnyRequest { method, policy: Policy::ReplicatedRouteNoSideEffects, body: body.into(), shard_key: None }
    }
}

impl<K: Kind, T, E> From<Request<K, T, E>> for AnyRequest {
    fn from(request: Request<K, T, E>) -> AnyRequest {
        request.erase()
    }
}

/// Makes a call of any method and waits for its end.
///
/// # Errors
/// Those of [`Client::call`]; a service's own error is a [`Reply`] with [`Status::App`].
pub async fn submit(client: &Client, request: &AnyRequest, deadline: Duration) -> Result<Reply, CallError> {
    let call = OwnedCall { within: Some(deadline), ..OwnedCall::new(request.clone()) };
    client.submit(call).await
}

/// Lets virtual time pass for a client: in its code, nowhere else. A test's own code waits by [`Sim::run_for`](super::Sim::run_for).
pub async fn sleep(span: Duration) {
    trimaran_runtime::sleep(span).await;
}

/// What one client of [`Clients::each`](super::Clients::each) has besides its connection.
#[derive(Debug)]
pub struct ClientSeat {
    /// Random numbers of this client alone.
    pub rng: SimRng,
    /// Every node's client address, in order.
    pub servers: Vec<SocketAddrV4>,
    number: u32,
    record: Rc<RefCell<Record>>,
    methods: &'static [Method],
    calls: u64,
}

impl ClientSeat {
    pub(super) fn new(
        number: u32,
        seed: u64,
        servers: Vec<SocketAddrV4>,
        record: Rc<RefCell<Record>>,
        methods: &'static [Method],
    ) -> Self {
        ClientSeat { rng: SimRng::new(seed), number, servers, record, methods, calls: 0 }
    }

    /// Which client this is, from 0 on over the whole simulation.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Virtual time since the nodes booted.
    pub fn now(&self) -> Duration {
        trimaran_runtime::now() - trimaran_runtime::Instant::ZERO
    }

    /// Writes down that `request` is about to be made, before anything of it is sent. However often it is then sent,
    /// it is one operation and may take effect once.
    ///
    /// Of a request that neither goes through the log nor is a linearizable read nothing is written down.
    pub fn begin(&mut self, request: &AnyRequest) -> Recording {
        self.calls += 1;
        let is_judged = matches!(request.policy, Policy::ReplicatedRoute | Policy::ReplicatedRouteNoSideEffects);
        let asked = Asked::new(request.method, request.policy, request.body.clone(), self.methods);
        let operation = is_judged.then(|| {
            let call = CallId { session: u64::from(self.number), seq: self.calls };
            let (client, at) = (ClientId(self.number), trimaran_runtime::now());
            self.record.borrow_mut().invoked(client, call, Object::WHOLE, asked.clone(), at)
        });
        Recording { record: self.record.clone(), operation, asked }
    }
}

/// An operation that has been begun. Dropped without an end it stays open: it may take effect at any time, or never.
#[derive(Debug)]
pub struct Recording {
    record: Rc<RefCell<Record>>,
    operation: Option<OperationId>,
    asked: Asked,
}

impl Recording {
    /// It took effect, and this is what the client was told: a result where `answer` is [`Answer::Ok`], the service's error
    /// where it is [`Answer::App`], encoded.
    pub fn returned(self, answer: Answer, reply: impl Into<Vec<u8>>) {
        if let Some(operation) = self.operation {
            let told = Told::new(&self.asked, answer, reply.into());
            self.record.borrow_mut().returned(operation, trimaran_runtime::now(), told);
        }
    }

    /// It certainly never took effect.
    pub fn not_applied(self) {
        if let Some(operation) = self.operation {
            self.record.borrow_mut().not_applied(operation);
        }
    }

    /// It ended as a call of [`submit`] says. A write of unknown outcome stays open; a read without an answer says nothing.
    pub fn end(self, end: Result<&Reply, &CallError>) {
        match end {
            Ok(reply) if reply.status == Status::App => self.returned(Answer::App, reply.body.clone()),
            Ok(reply) => self.returned(Answer::Ok, reply.body.clone()),
            Err(CallError::NotApplied(_) | CallError::NoQuorum { .. }) => self.not_applied(),
            Err(_) if self.asked.is_read() => self.not_applied(),
            Err(_) => {}
        }
    }

    /// It ended as a typed call says; as [`Recording::end`].
    ///
    /// # Panics
    /// Where a result or error has no encoded form: such a reply never came over the wire.
    #[track_caller]
    pub fn end_typed<T: Serialize, E: Serialize>(self, end: &Result<T, CallError<E>>) {
        let form = |bytes: Result<Vec<u8>, codec::CodecError>| match bytes {
            Ok(bytes) => bytes,
            Err(error) => panic!("a result that cannot be encoded: {error}"),
        };
        match end {
            Ok(result) => self.returned(Answer::Ok, form(codec::encode(result))),
            Err(CallError::App(no)) => self.returned(Answer::App, form(codec::encode(no))),
            Err(CallError::NotApplied(_) | CallError::NoQuorum { .. }) => self.not_applied(),
            Err(_) if self.asked.is_read() => self.not_applied(),
            Err(_) => {}
        }
    }
}
