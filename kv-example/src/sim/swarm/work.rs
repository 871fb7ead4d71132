//! What the clients of one seed ask, and what they note of the answers.

use super::DEADLINE;
use super::misuse::Noise;
use super::reading::Mixed;
use crate::error::KvError;
use crate::group::{GROUP_KEYS, GroupOp, GroupRet, Numbers};
use crate::load::{Answered, Ask};
use crate::requests;
use crate::resp::{self, Reply};
use crate::store::{Expected, Found};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::client::{CallError, Client, MethodCall};
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::sim::history::{CallId, ClientId, History, OperationId};
use trimaran_rpc::sim::linearizability::{KvOp, KvRet, Value};
use trimaran_runtime::{now, sleep};

/// Keys that the clients share: few, so that their calls meet.
pub(super) const KEYS: u32 = 6;
/// Longer than any run: such a key is written with a timer and never expires.
const LONG: Duration = Duration::from_secs(3600);

pub(super) type KvHistory = History<u32, KvOp, KvRet>;

/// What all clients of one seed share.
pub(super) struct Load {
    pub(super) history: RefCell<KvHistory>,
    /// Scans and transactions, and the keys that nothing else uses.
    pub(super) group: RefCell<History<(), GroupOp, GroupRet>>,
    /// Whether some calls are plain R2P2: without a session, so that a datagram that comes twice is two calls.
    pub(super) is_plain: bool,
    pub(super) stop: Cell<bool>,
    pub(super) running: Cell<u32>,
    /// An answer that cannot be one, in words.
    pub(super) nonsense: RefCell<Option<String>>,
    /// Keys whose time must have been over long before the end.
    pub(super) short_lived: RefCell<Vec<Vec<u8>>>,
    pub(super) calls: Cell<u64>,
    pub(super) noise: Noise,
    /// Where reads are of all consistencies.
    pub(super) mixed: Option<Mixed>,
}

impl Load {
    pub(super) fn new(clients: u32, is_plain: bool, mixed: Option<Mixed>) -> Load {
        Load {
            history: RefCell::default(),
            group: RefCell::default(),
            is_plain,
            stop: Cell::new(false),
            running: Cell::new(clients),
            nonsense: RefCell::default(),
            short_lived: RefCell::default(),
            calls: Cell::new(0),
            noise: Noise::default(),
            mixed,
        }
    }

    pub(super) fn next_call(&self) -> u64 {
        self.calls.set(self.calls.get() + 1);
        self.calls.get()
    }

    pub(super) fn complain(&self, what: String) {
        self.nonsense.borrow_mut().get_or_insert(what);
    }
}

/// One client from the first call to the last.
pub(super) async fn work(client: Client, id: ClientId, load: Rc<Load>, servers: Vec<SocketAddrV4>, seed: u64) {
    let rng = Pcg64Mcg::seed_from_u64(seed);
    let seen = vec![None; KEYS as usize];
    let mut worker = Worker { client, id, load, servers, rng, seen, numbers: Numbers::default(), lease: None };
    while !worker.load.stop.get() {
        match worker.rng.random_range(0..24) {
            0..3 => worker.group().await,
            3 => worker.lease().await,
            4 => worker.impatient().await,
            5..8 if worker.load.mixed.is_some() => worker.read_somehow().await,
            _ if worker.load.is_plain && worker.rng.random() => worker.plain().await,
            _ => worker.one().await,
        }
        sleep(Duration::from_micros(worker.rng.random_range(0..8_000))).await;
    }
    worker.load.running.set(worker.load.running.get() - 1);
}

pub(super) struct Worker {
    pub(super) client: Client,
    id: ClientId,
    pub(super) load: Rc<Load>,
    servers: Vec<SocketAddrV4>,
    pub(super) rng: Pcg64Mcg,
    /// What this client has last read or written, for its compare and swap.
    seen: Vec<Option<Vec<u8>>>,
    numbers: Numbers,
    lease: Option<Lease>,
}

/// A key of one client's own that lives for a short while.
struct Lease {
    key: Vec<u8>,
    value: Vec<u8>,
    is_over: bool,
}

pub(super) fn method_call(ask: Ask, body: &[u8]) -> MethodCall<'_> {
    MethodCall { method: ask.method, policy: ask.policy, shard: 0, body, server: None }
}

impl Worker {
    async fn call(&self, ask: Ask, body: &[u8]) -> Result<Answered, CallError> {
        let begun = now();
        let end = self.client.call_keyed(method_call(ask, body), ask.key, DEADLINE).await;
        if let Some(Err(wrong)) = self.load.mixed.as_ref().map(|mixed| mixed.note(ask, begun, &end)) {
            self.load.complain(wrong);
        }
        let reply = end?;
        Ok(Answered { status: reply.status, body: reply.body })
    }

    pub(super) fn invoked(&self, number: u64, key: u32, op: KvOp) -> OperationId {
        let call = CallId { session: u64::from(self.id.0), seq: number };
        self.load.history.borrow_mut().invoked(self.id, call, key, op, now())
    }

    pub(super) fn ended(
        &self,
        operation: OperationId,
        op: KvOp,
        result: Result<Option<KvRet>, CallError>,
        reply: &[u8],
    ) {
        let mut history = self.load.history.borrow_mut();
        match result {
            Ok(Some(result)) => history.returned(operation, now(), result),
            Ok(None) => self.load.complain(format!("{op:?} was answered {}", reply.escape_ascii())),
            Err(error) if is_without_effect(&error) || op == KvOp::Get => history.not_applied(operation),
            Err(_) => {}
        }
    }

    /// A value of its own; now and then of several packets, or larger than what one peer datagram carries as an entry.
    fn value(&mut self, number: u64) -> Vec<u8> {
        let mut value = format!("value {number} ");
        if self.rng.random_range(0..12) == 0 {
            value.extend(std::iter::repeat_n('x', self.rng.random_range(1..9_000)));
        }
        value.into_bytes()
    }

    /// A typed call of one key.
    async fn one(&mut self) {
        let key = self.rng.random_range(0..KEYS);
        let name = key_name(key);
        let number = self.load.next_call();
        let (mut body, mut written) = (Vec::new(), None);
        let (ask, op) = match self.rng.random_range(0..20) {
            0..7 => (requests::get(&name, &mut body), KvOp::Get),
            7..12 => {
                let value = self.value(number);
                let ttl = (self.rng.random_range(0..4) == 0).then_some(LONG);
                let ask = requests::put(&name, &value, ttl, &mut body);
                let op = KvOp::Set(Value::of_bytes(&value));
                written = Some(value);
                (ask, op)
            }
            12..15 => (requests::incr(&name, 1, &mut body), KvOp::Incr(1)),
            15..18 => {
                let value = self.value(number);
                let seen = self.seen.get(key as usize).cloned().flatten();
                let expect = seen.as_deref().map(Value::of_bytes);
                let expected = seen.map_or(Expected::Absent, Expected::Value);
                let ask = requests::cas(&name, &expected, &value, None, &mut body);
                let op = KvOp::Cas { expect, new: Value::of_bytes(&value) };
                written = Some(value);
                (ask, op)
            }
            _ => (requests::del(&name, &mut body), KvOp::Del),
        };
        let operation = self.invoked(number, key, op);
        match self.call(ask, &body).await {
            Ok(answered) => {
                let result = returned(op, &answered);
                self.see(key, op, written, &answered);
                self.ended(operation, op, Ok(result), &answered.body);
            }
            Err(error) => self.ended(operation, op, Err(error), &[]),
        }
    }

    /// Remembers what the key holds, as far as this client knows.
    fn see(&mut self, key: u32, op: KvOp, written: Option<Vec<u8>>, answered: &Answered) {
        let seen = match op {
            KvOp::Get => match requests::result::<Option<Found>>(answered) {
                Some(Ok(found)) => found.map(|found| found.value),
                _ => return,
            },
            KvOp::Del => None,
            KvOp::Incr(_) => match requests::result::<i64>(answered) {
                Some(Ok(sum)) => Some(sum.to_string().into_bytes()),
                _ => return,
            },
            KvOp::Set(_) | KvOp::Cas { .. } if answered.status == Status::Ok => written,
            KvOp::Set(_) | KvOp::Cas { .. } => return,
        };
        if let Some(place) = self.seen.get_mut(key as usize) {
            *place = seen;
        }
    }

    /// As a reference client does it: a RESP command, any server, no block.
    async fn plain(&mut self) {
        let key = self.rng.random_range(0..KEYS);
        let name = key_name(key);
        let number = self.load.next_call();
        let mut request = Vec::new();
        let op = match self.rng.random_range(0..20) {
            0..8 => {
                resp::emit_command(&[b"GET", &name], &mut request);
                KvOp::Get
            }
            8..14 => {
                let value = self.value(number);
                resp::emit_command(&[b"SET", &name, &value, b"EX", b"3600"], &mut request);
                KvOp::Set(Value::of_bytes(&value))
            }
            14..17 => {
                resp::emit_command(&[b"INCR", &name], &mut request);
                KvOp::Incr(1)
            }
            _ => {
                resp::emit_command(&[b"DEL", &name], &mut request);
                KvOp::Del
            }
        };
        let policy = match op {
            KvOp::Get => Policy::ReplicatedRouteNoSideEffects,
            _ => Policy::ReplicatedRoute,
        };
        let operation = self.invoked(number, key, op);
        let server = self.servers[self.rng.random_range(0..self.servers.len())];
        match self.client.call_raw(server, policy, &request, DEADLINE).await {
            Ok(reply) => self.ended(operation, op, Ok(plainly_returned(op, &reply)), &reply),
            Err(error) => self.ended(operation, op, Err(error), &[]),
        }
    }

    /// A scan, a put or a transaction on the group.
    async fn group(&mut self) {
        let number = self.load.next_call();
        let value = i64::try_from(number).unwrap_or(i64::MAX);
        let mut key = || self.rng.random_range(0..GROUP_KEYS as u8);
        let (first, second) = (key(), key());
        let expect = (first, self.numbers.get(usize::from(first)).copied().flatten());
        let op = match self.rng.random_range(0..6) {
            0..2 => GroupOp::Scan,
            2 => GroupOp::Put(first, value),
            _ => GroupOp::Move { expect, put: [(first, value), (second, -value)] },
        };
        let call = CallId { session: u64::from(self.id.0), seq: number };
        let operation = self.load.group.borrow_mut().invoked(self.id, call, (), op, now());
        let mut body = Vec::new();
        let ask = op.request(&mut body);
        let end = self.call(ask, &body).await;
        let mut history = self.load.group.borrow_mut();
        match end {
            Ok(answered) => match op.result(&answered) {
                Some(result) => {
                    if let GroupRet::Numbers(numbers) = result {
                        self.numbers = numbers;
                    }
                    history.returned(operation, now(), result);
                }
                None => self.load.complain(format!("{op:?} was answered {}", answered.body.escape_ascii())),
            },
            Err(error) if is_without_effect(&error) || op == GroupOp::Scan => history.not_applied(operation),
            Err(_) => {}
        }
    }

    /// Writes a key that only this client uses and that lives for a short while, or looks whether it still does. Its value
    /// is there, then it is gone, and it never comes back.
    async fn lease(&mut self) {
        let number = self.load.next_call();
        let mut body = Vec::new();
        match self.lease.take().filter(|lease| !lease.is_over || self.rng.random()) {
            Some(mut lease) => {
                let ask = requests::get(&lease.key, &mut body);
                let Ok(answered) = self.call(ask, &body).await else {
                    self.lease = Some(lease);
                    return;
                };
                match requests::result::<Option<Found>>(&answered) {
                    Some(Ok(None)) => lease.is_over = true,
                    Some(Ok(Some(found))) if !lease.is_over && found.value == lease.value => {}
                    other => self.load.complain(format!(
                        "{} was given {} for a short while, is over: {}, and holds {other:?}",
                        lease.key.escape_ascii(),
                        lease.value.escape_ascii(),
                        lease.is_over
                    )),
                }
                self.lease = Some(lease);
            }
            None => {
                let key = format!("lease:{}:{number}", self.id.0).into_bytes();
                let value = number.to_string().into_bytes();
                let ttl = Duration::from_millis(self.rng.random_range(1..300));
                let ask = requests::put(&key, &value, Some(ttl), &mut body);
                // Where the outcome is not known the key may yet appear: it is left alone.
                let end = self.call(ask, &body).await;
                self.load.short_lived.borrow_mut().push(key.clone());
                if end.is_ok_and(|answered| answered.status == Status::Ok) {
                    self.lease = Some(Lease { key, value, is_over: false });
                }
            }
        }
    }
}

pub(super) fn key_name(key: u32) -> Vec<u8> {
    format!("key:{key}").into_bytes()
}

pub(super) fn is_without_effect(error: &CallError) -> bool {
    matches!(error, CallError::NotApplied(_) | CallError::NoQuorum { .. })
}

pub(super) fn returned(op: KvOp, answered: &Answered) -> Option<KvRet> {
    Some(match op {
        KvOp::Get => {
            let found = requests::result::<Option<Found>>(answered)?.ok()?;
            KvRet::Value(found.map(|found| Value::of_bytes(&found.value)))
        }
        KvOp::Set(_) => requests::result::<u64>(answered)?.ok().map(|_| KvRet::Done)?,
        KvOp::Del => KvRet::Changed(requests::result::<bool>(answered)?.ok()?),
        KvOp::Incr(_) => match requests::result::<i64>(answered)? {
            Ok(sum) => KvRet::Value(Some(Value::Number(sum))),
            Err(KvError::NotANumber) => KvRet::Refused,
            Err(_) => return None,
        },
        KvOp::Cas { .. } => match requests::result::<u64>(answered)? {
            Ok(_) => KvRet::Changed(true),
            Err(KvError::Conflict { .. }) => KvRet::Changed(false),
            Err(_) => return None,
        },
    })
}

fn plainly_returned(op: KvOp, reply: &[u8]) -> Option<KvRet> {
    Some(match (op, Reply::parse(reply).ok()?) {
        (KvOp::Get, Reply::Bulk(value)) => KvRet::Value(Some(Value::of_bytes(value))),
        (KvOp::Get, Reply::Nil) => KvRet::Value(None),
        (KvOp::Set(_), Reply::Simple("OK")) => KvRet::Done,
        (KvOp::Del, Reply::Integer(count)) => KvRet::Changed(count > 0),
        (KvOp::Incr(_), Reply::Integer(sum)) => KvRet::Value(Some(Value::Number(sum))),
        (KvOp::Incr(_), Reply::Error(_)) => KvRet::Refused,
        _ => return None,
    })
}
