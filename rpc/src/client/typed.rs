//! Calls as generated clients make them: typed arguments in, a typed reply or error out, options by name, and `.await`.

use super::{CallError, Client, Manner, MethodCall, NotApplied, Reply};
use crate::codec;
use crate::r2p2::{Policy, Status};
use crate::service::Answer;
use crate::session::CallId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use trimaran_raft::LogIndex;

/// The mark of a method, at the client: what its calls may be asked for.
pub trait Kind: sealed::Sealed + 'static {
    /// How its calls are routed.
    const POLICY: Policy;
}

/// Calls that go through the log and are applied once, on every replica.
#[derive(Debug, Clone, Copy)]
pub struct Replicated;

/// Calls that change nothing.
#[derive(Debug, Clone, Copy)]
pub struct Read;

/// Calls that one replica answers for itself.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl Kind for Replicated {
    const POLICY: Policy = Policy::ReplicatedRoute;
}

impl Kind for Read {
    const POLICY: Policy = Policy::ReplicatedRouteNoSideEffects;
}

impl Kind for Local {
    const POLICY: Policy = Policy::LbRoute;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Replicated {}
    impl Sealed for super::Read {}
    impl Sealed for super::Local {}
}

/// How new the state must be that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It reflects every write that was answered before the read was sent. Costs the leader a round to a majority.
    #[default]
    Linearizable,
    /// It reflects the log up to this index, for instance that of a write's reply. Any replica that has come so far answers.
    AtLeast(LogIndex),
    /// Whatever the replica that is asked has, however old.
    Stale,
}

type DecodeError<E> = fn(&[u8]) -> Option<E>;

/// What to call: a method and its encoded arguments. `T` is what it returns, `E` its error.
pub struct Request<K, T, E> {
    method: u32,
    /// `None` where the arguments have no encoded form.
    body: Option<Vec<u8>>,
    shard_key: Option<u64>,
    decode_error: DecodeError<E>,
    _kind: PhantomData<fn() -> (K, T)>,
}

impl<K: Kind, T: DeserializeOwned, E: DeserializeOwned> Request<K, T, E> {
    /// A call of the method with this key, of a method that returns `Result<T, E>`. `shard_key` is the hash of the argument
    /// that decides on the shard.
    pub fn new(method: u32, body: Vec<u8>, shard_key: Option<u64>) -> Self {
        Request { method, body: Some(body), shard_key, decode_error: decode, _kind: PhantomData }
    }

    /// As [`Request::new`], encoding the arguments. Where they have no form, the call ends with
    /// [`NotApplied::BadArguments`].
    pub fn encode(method: u32, arguments: &impl Serialize, shard_key: Option<u64>) -> Self {
        let body = codec::encode(arguments).ok();
        Request { method, body, shard_key, decode_error: decode, _kind: PhantomData }
    }
}

impl<K: Kind, T: DeserializeOwned> Request<K, T, Infallible> {
    /// As [`Request::new`], of a method that returns a plain `T`.
    pub fn plain(method: u32, body: Vec<u8>, shard_key: Option<u64>) -> Self {
        Request { method, body: Some(body), shard_key, decode_error: |_| None, _kind: PhantomData }
    }

    /// As [`Request::encode`], of a method that returns a plain `T`.
    pub fn encode_plain(method: u32, arguments: &impl Serialize, shard_key: Option<u64>) -> Self {
        let body = codec::encode(arguments).ok();
        Request { method, body, shard_key, decode_error: |_| None, _kind: PhantomData }
    }
}

impl<K: Kind, T, E> Request<K, T, E> {
    /// The same without its types. Arguments that have no form are empty.
    pub fn erase(self) -> AnyRequest {
        AnyRequest { method: self.method, policy: K::POLICY, body: self.body.unwrap_or_default() }
    }

    /// Key of the method.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// The hash of the argument that decides on the shard, if the method has one.
    pub fn shard_key(&self) -> Option<u64> {
        self.shard_key
    }

    /// This call, made by `caller` when it is awaited.
    pub fn on<C: Caller>(self, caller: C) -> Call<C, K, T, E> {
        Call::new(caller, self)
    }
}

impl<K: Kind, T: DeserializeOwned, E> Request<K, T, E> {
    /// What a service's answer to this request says; `None` for one that is no answer to it.
    pub(crate) fn read_answer(&self, answer: Answer, reply: &[u8]) -> Option<Result<T, E>> {
        match answer {
            Answer::Ok => decode(reply).map(Ok),
            Answer::App => (self.decode_error)(reply).map(Err),
            Answer::Refused(_) => None,
        }
    }
}

impl<K, T, E> Clone for Request<K, T, E> {
    fn clone(&self) -> Self {
        Request { body: self.body.clone(), _kind: PhantomData, ..*self }
    }
}

impl<K, T, E> fmt::Debug for Request<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.body.as_ref().map(Vec::len);
        f.debug_struct("Request").field("method", &self.method).field("body_bytes", &bytes).finish_non_exhaustive()
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    codec::decode(bytes).ok()
}

/// A request of any method, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyRequest {
    /// Key of the method.
    pub method: u32,
    /// Fits the method's mark.
    pub policy: Policy,
    /// The encoded arguments.
    pub body: Vec<u8>,
}

/// A call with all that it was asked for, ready to be made anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedCall {
    /// What is called.
    pub request: AnyRequest,
    /// The arguments have no encoded form: the call ends with [`NotApplied::BadArguments`].
    pub is_unencodable: bool,
    /// How long it may take; `None`: the client's own deadline.
    pub within: Option<Duration>,
    /// The name under which it was made before.
    pub call_id: Option<CallId>,
    /// For reads.
    pub consistency: Consistency,
    /// For local calls: who is asked. `None`: any replica.
    pub replica: Option<SocketAddrV4>,
}

impl OwnedCall {
    /// A call without options.
    pub fn new(request: AnyRequest) -> OwnedCall {
        OwnedCall {
            request,
            is_unencodable: false,
            within: None,
            call_id: None,
            consistency: Consistency::Linearizable,
            replica: None,
        }
    }

    fn manner(&self) -> (Policy, Manner) {
        let is_read = self.request.policy == Policy::ReplicatedRouteNoSideEffects;
        let (policy, at_least) = match (is_read, self.consistency) {
            (true, Consistency::AtLeast(index)) => (Policy::LbRoute, index.0),
            (true, Consistency::Stale) => (Policy::LbRoute, 0),
            _ if self.replica.is_some() => (Policy::FixedRoute, 0),
            _ => (self.request.policy, 0),
        };
        (policy, Manner { call_id: self.call_id, is_read, is_pinned: true, at_least })
    }
}

/// Whoever can make calls: a [`Client`] on its core, or a [`Remote`](super::Remote) from any thread.
pub trait Caller: Clone {
    /// The call on its way. Dropped, it is given up.
    type Reply: Future<Output = Result<Reply, CallError>> + Unpin;

    /// Makes the call. It may begin when this returns or when the reply is first polled.
    fn submit(&self, call: OwnedCall) -> Self::Reply;
}

impl Caller for Client {
    type Reply = Pin<Box<dyn Future<Output = Result<Reply, CallError>>>>;

    fn submit(&self, call: OwnedCall) -> Self::Reply {
        let client = self.clone();
        Box::pin(async move { client.call_owned(&call).await })
    }
}

impl Client {
    pub(super) async fn call_owned(&self, call: &OwnedCall) -> Result<Reply, CallError> {
        if call.is_unencodable {
            return Err(CallError::NotApplied(NotApplied::BadArguments));
        }
        let (policy, manner) = call.manner();
        let (method, body) = (call.request.method, &call.request.body);
        let request = MethodCall { method, policy, shard: 0, body, server: call.replica };
        self.call_in(request, manner, call.within.unwrap_or(self.config().deadline)).await
    }
}

/// A call that is made when it is awaited. Set its options first.
#[must_use = "calls do nothing unless awaited"]
pub struct Call<C, K, T, E> {
    caller: C,
    call: OwnedCall,
    decode_error: DecodeError<E>,
    _kind: PhantomData<fn() -> (K, T)>,
}

impl<C: Caller, K: Kind, T, E> Call<C, K, T, E> {
    /// `request`, to be made by `caller`.
    pub fn new(caller: C, request: Request<K, T, E>) -> Self {
        let (is_unencodable, decode_error) = (request.body.is_none(), request.decode_error);
        let call = OwnedCall { is_unencodable, ..OwnedCall::new(request.erase()) };
        Call { caller, call, decode_error, _kind: PhantomData }
    }

    /// Ends the call after this time, answered or not; by default after that of the client, one second.
    pub fn deadline(mut self, within: Duration) -> Self {
        self.call.within = Some(within);
        self
    }
}

impl<C, T, E> Call<C, Replicated, T, E> {
    /// Makes an earlier call once more, which ended with [`CallError::Unknown`]: under the same name it is applied once at
    /// most, and answered as it was then. The arguments must be the same, or the call is refused.
    pub fn call_id(mut self, id: CallId) -> Self {
        self.call.call_id = Some(id);
        self
    }
}

impl<C, T, E> Call<C, Read, T, E> {
    /// How new the state must be; [`Consistency::Linearizable`] by default.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }
}

impl<C, T, E> Call<C, Local, T, E> {
    /// The replica to ask; by default any.
    pub fn replica(mut self, replica: SocketAddrV4) -> Self {
        self.call.replica = Some(replica);
        self
    }
}

impl<C, K, T, E> fmt::Debug for Call<C, K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<C: Caller, K: Kind, T: DeserializeOwned, E> IntoFuture for Call<C, K, T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = Calling<C::Reply, T, E>;

    fn into_future(self) -> Self::IntoFuture {
        Calling { reply: self.caller.submit(self.call), decode_error: self.decode_error, _type: PhantomData }
    }
}

/// A [`Call`] on its way.
#[must_use = "futures do nothing unless awaited"]
pub struct Calling<R, T, E> {
    reply: R,
    decode_error: DecodeError<E>,
    _type: PhantomData<fn() -> T>,
}

impl<R, T, E> Future for Calling<R, T, E>
where
    R: Future<Output = Result<Reply, CallError>> + Unpin,
    T: DeserializeOwned,
{
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(end) = Pin::new(&mut self.reply).poll(cx) else { return Poll::Pending };
        Poll::Ready(match end {
            Err(error) => Err(error.widen()),
            Ok(reply) if reply.status == Status::App => {
                Err((self.decode_error)(&reply.body).map_or(CallError::BadReply, CallError::App))
            }
            Ok(reply) => decode(&reply.body).ok_or(CallError::BadReply),
        })
    }
}

impl<R, T, E> fmt::Debug for Calling<R, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").finish_non_exhaustive()
    }
}
