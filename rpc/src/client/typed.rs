//! Calls as generated clients make them: typed arguments in, a typed reply or error out, options by name, and `.await`.

use super::{CallError, Client, Consistency, Manner, MethodCall, NotApplied, Reply};
use crate::codec;
use crate::r2p2::{Policy, Status};
use crate::service::Answer;
use crate::session::CallId;
use crate::shards::shard_key;
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
use trimaran_runtime::now;

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

/// Which replica answers a call, where not any may: by its seat, or by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replica {
    /// The member in this seat, 1 to 9, whose address the cluster names.
    Slot(u8),
    /// Whoever serves clients at this address, which is that of shard 0 where there are several.
    At(SocketAddrV4),
}

impl From<u8> for Replica {
    fn from(slot: u8) -> Replica {
        Replica::Slot(slot)
    }
}

impl From<SocketAddrV4> for Replica {
    fn from(address: SocketAddrV4) -> Replica {
        Replica::At(address)
    }
}

/// What a call has returned, and where in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexed<T> {
    /// What it returned.
    pub value: T,
    /// In its shard's log: of a write, the entry that it was; of a read, the newest one that it saw. [`Consistency::AtLeast`] of it sees as much.
    pub index: LogIndex,
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
        let (policy, body) = (K::POLICY, self.body.unwrap_or_default());
        AnyRequest { method: self.method, policy, body, shard_key: self.shard_key }
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
    /// The hash of what decides on the shard, see [`shard_key`](crate::shards::shard_key); `None`: shard 0.
    pub shard_key: Option<u64>,
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
    /// For reads and local calls: who answers. `None`: whoever can.
    pub replica: Option<Replica>,
    /// The shard that is called, whatever the key says.
    pub shard: Option<u16>,
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
            shard: None,
        }
    }

    fn manner(&self) -> (Policy, Manner) {
        let is_read = self.request.policy == Policy::ReplicatedRouteNoSideEffects;
        let policy = match self.request.policy {
            _ if is_read && self.consistency != Consistency::Any => self.request.policy,
            _ if self.replica.is_some() => Policy::FixedRoute,
            _ if is_read => Policy::LbRoute,
            policy => policy,
        };
        let consistency = if is_read { self.consistency } else { Consistency::Linearizable };
        (policy, Manner { call_id: self.call_id, is_read, is_pinned: true, consistency, replica: self.replica })
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
        let deadline = now() + call.within.unwrap_or(self.config().deadline);
        let key = call.request.shard_key.filter(|_| call.shard.is_none());
        let call = MethodCall { method, policy, shard: call.shard.unwrap_or(0), body, server: None };
        self.lanes.call(&call, key, &manner, deadline).await
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

    /// Calls this shard, whatever the method's key says: for methods without one, which else go to shard 0, and for whoever asks all
    /// shards one by one ([`Client::ask_shards`]).
    pub fn shard(mut self, shard: u16) -> Self {
        self.call.shard = Some(shard);
        self
    }

    /// Calls the shard of this key, whatever the method's own says: for arguments that hold their keys inside.
    pub fn shard_key(mut self, key: &[u8]) -> Self {
        self.call.request.shard_key = Some(shard_key(key));
        self
    }

    /// Has the call tell the log index, too, at which it was applied or read. Comes last, after the other options.
    ///
    /// ```ignore
    /// let put = kv.put("user:1", b"ada", None).with_index().await?;
    /// let own = kv.get("user:1").consistency(Consistency::AtLeast(put.index)).replica(2).await?; // it is there
    /// ```
    pub fn with_index(self) -> IndexedCall<C, K, T, E> {
        IndexedCall(self)
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

    /// The replica that answers, and no other: by default the leader where the consistency needs one, else any.
    pub fn replica(mut self, replica: impl Into<Replica>) -> Self {
        self.call.replica = Some(replica.into());
        self
    }
}

impl<C, T, E> Call<C, Local, T, E> {
    /// The replica to ask; by default any.
    pub fn replica(mut self, replica: impl Into<Replica>) -> Self {
        self.call.replica = Some(replica.into());
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

impl<R, T, E> Calling<R, T, E>
where
    R: Future<Output = Result<Reply, CallError>> + Unpin,
    T: DeserializeOwned,
{
    fn poll_indexed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Indexed<T>, CallError<E>>> {
        Pin::new(&mut self.reply).poll(cx).map(|end| match end {
            Err(error) => Err(error.widen()),
            Ok(reply) if reply.status == Status::App => {
                Err((self.decode_error)(&reply.body).map_or(CallError::BadReply, CallError::App))
            }
            Ok(reply) => {
                let value = decode(&reply.body).ok_or(CallError::BadReply)?;
                Ok(Indexed { value, index: LogIndex(reply.block.index) })
            }
        })
    }
}

impl<R, T, E> Future for Calling<R, T, E>
where
    R: Future<Output = Result<Reply, CallError>> + Unpin,
    T: DeserializeOwned,
{
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_indexed(cx).map(|end| end.map(|indexed| indexed.value))
    }
}

impl<R, T, E> fmt::Debug for Calling<R, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").finish_non_exhaustive()
    }
}

/// A [`Call`] that tells the log index as well, see [`Call::with_index`].
#[must_use = "calls do nothing unless awaited"]
pub struct IndexedCall<C, K, T, E>(pub(super) Call<C, K, T, E>);

impl<C: Caller, K: Kind, T: DeserializeOwned, E> IntoFuture for IndexedCall<C, K, T, E> {
    type Output = Result<Indexed<T>, CallError<E>>;
    type IntoFuture = IndexedCalling<C::Reply, T, E>;

    fn into_future(self) -> Self::IntoFuture {
        IndexedCalling(self.0.into_future())
    }
}

impl<C, K, T, E> fmt::Debug for IndexedCall<C, K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IndexedCall").field(&self.0).finish()
    }
}

/// An [`IndexedCall`] on its way.
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct IndexedCalling<R, T, E>(Calling<R, T, E>);

impl<R, T, E> Future for IndexedCalling<R, T, E>
where
    R: Future<Output = Result<Reply, CallError>> + Unpin,
    T: DeserializeOwned,
{
    type Output = Result<Indexed<T>, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_indexed(cx)
    }
}
