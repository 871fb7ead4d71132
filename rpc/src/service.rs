//! What a service implements. `#[service]` writes this for typed methods; by hand it sees bytes.

mod context;

pub use context::{Cx, LocalCx, NoState, ReadCx, YieldApply};

use crate::r2p2::block::Refusal;
use crate::state::State;
use std::future::{Future, ready};

/// How a method may be called, and where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Changes state: through the log, on every replica, once per call id. Policy REPLICATED_ROUTE.
    Replicated,
    /// Looks at state: on one replica, linearizable unless the caller asks for less.
    Read,
    /// Answered by the replica asked; may await anything.
    Local,
    /// Fires in the log; no client may call it.
    Timer,
    /// Run by the leader for the outbox; no client may call it.
    Effect,
    /// Bytes in, bytes out: the sender's policy decides whether it goes through the log.
    Raw,
}

/// How a handler ended. `reply` holds what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Answer {
    /// Done; the reply is the result.
    #[default]
    Ok,
    /// The service said no; the reply is its error.
    App,
    /// Not a call that this service understands; nothing was changed and the reply is empty.
    Refused(Refusal),
}

/// One argument of a method, for people and tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its type as written.
    pub kind: &'static str,
}

/// One method, for people and tools: the command line calls any service by it.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The first four bytes of blake3 of `service.method/rev`, little endian.
    pub key: u32,
    /// Its name.
    pub name: &'static str,
    /// Raised when its arguments or its meaning changed.
    pub rev: u16,
    /// How it may be called.
    pub mark: Mark,
    /// The first paragraph of its documentation.
    pub doc: &'static str,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What it returns, as written.
    pub returns: &'static str,
    /// Turns a JSON object of the arguments into a request.
    pub encode_json: fn(&str) -> Result<Vec<u8>, String>,
    /// Turns a reply into JSON.
    pub decode_json: fn(Answer, &[u8]) -> Result<String, String>,
}

/// A replicated service. One value is the state of one replica.
///
/// The apply task owns the value: [`apply`](Service::apply) is called once for every committed request, in log order, the
/// same on every replica, so it must be deterministic: no clock, no randomness, no iteration in an order that differs
/// between processes, nothing from outside `self`, `cx` and `request`. [`query`](Service::query) sees the state between two
/// entries.
pub trait Service: State {
    /// The service's name: the first part of its method keys.
    const NAME: &'static str;

    /// How the method of this key may be called; `None`: there is no such method. Key 0 is a request without a block.
    fn mark(method: u32) -> Option<Mark> {
        let _ = method;
        Some(Mark::Raw)
    }

    /// Every method, for people and tools; none for bytes.
    fn methods() -> &'static [Method] {
        &[]
    }

    /// Executes one request that Raft has committed and appends the reply to `reply`, which is empty. It may await
    /// [`Cx::yield_now`] and nothing else: another await stops this replica with E0311.
    ///
    /// A reply over 254 packets (371,856 bytes) is not sent: a client of ours sees `Internal`, another its own deadline.
    fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> impl Future<Output = Answer>;

    /// Answers a request that changes nothing and appends the reply to `reply`, which is empty.
    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer;

    /// Answers a request of the replica asked, with access to the state through `cx`.
    fn local(cx: LocalCx<Self>, request: Vec<u8>) -> impl Future<Output = (Answer, Vec<u8>)> + 'static {
        drop((cx, request));
        ready((Answer::Refused(Refusal::UnknownMethod), Vec::new()))
    }

    /// Carries out an effect, on the leader. It counts as done when this returns, unless with [`Answer::Refused`], which says
    /// that this build does not know it: then it stays open. After a panic, or half a minute, it is tried again.
    fn effect(cx: LocalCx<Self>, effect: Vec<u8>) -> impl Future<Output = Answer> + 'static {
        drop((cx, effect));
        ready(Answer::Refused(Refusal::UnknownMethod))
    }
}

/// A handler of bytes beside the typed methods of a `#[service(raw)]`: for clients that are not ours. It is asked for
/// requests without a block, and for those with the key of `<service>.raw/1`.
pub trait RawHandler {
    /// Executes one request that Raft has committed, under the rules of [`Service::apply`], in one go.
    fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>);

    /// Answers a request that changes nothing.
    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>);
}

/// The method key of `service.method/rev`: the first 4 bytes of its blake3 hash, little endian.
pub fn method_key(name: &str) -> u32 {
    let hash = blake3::hash(name.as_bytes());
    let bytes = hash.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
