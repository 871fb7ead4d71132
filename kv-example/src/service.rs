//! The store as a service: typed methods for our clients, RESP commands for all others, one state.

use crate::command::Command;
use crate::error::KvError;
use crate::journal::{CallHash, ExecutedCall, Journal, Page as JournalPage};
use crate::raw;
use crate::resp::Reply;
use crate::store::limits::STATE_BYTES_MAX;
use crate::store::{Expected, Found, Page, Store, Timeline, Version};
use crate::txn::{Txn, TxnResult};
use trimaran_rpc::prelude::*;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::service::{NoState, RawHandler};
use trimaran_rpc::shards::ShardPlace;
use trimaran_rpc::state::{Reader, StateError, Turns, Writer};
use trimaran_rpc::timers::{TimerId, TimersFull};

/// One replica of the key-value store.
#[derive(Debug, Default)]
pub struct Kv {
    store: Store,
    journal: Option<Journal>,
}

/// How much a replica holds.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Keys, those included that have expired and whose timers have not fired yet.
    pub keys: u64,
    /// Bytes of keys and values, and what each key costs besides.
    pub bytes: u64,
    /// The version of the newest write.
    pub version: u64,
}

#[service(raw)]
impl Kv {
    /// Stores a value and returns its version; `ttl` later the key is absent again. Without `ttl` it stays.
    #[replicated]
    pub async fn put(&mut self, cx: &mut Cx, key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<u64, KvError> {
        owned(cx.shard(), [key])?;
        let Version(version) = self.store.put(cx, key, value, ttl)?;
        self.note(cx, Version(version - 1), || CallHash::of_put(key, value));
        Ok(version)
    }

    /// Removes a key; returns whether it was there.
    #[replicated]
    pub async fn del(&mut self, cx: &mut Cx, key: &[u8]) -> Result<bool, KvError> {
        owned(cx.shard(), [key])?;
        let before = self.store.version();
        let removed = self.store.del(cx, std::iter::once(key))?;
        self.note(cx, before, || CallHash::of_call(cx));
        Ok(removed > 0)
    }

    /// Stores a value where the key is as expected, and returns its version.
    #[replicated]
    pub async fn cas(
        &mut self,
        cx: &mut Cx,
        key: &[u8],
        expected: Expected,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<u64, KvError> {
        owned(cx.shard(), [key])?;
        let Version(version) = self.store.cas(cx, key, &expected, value, ttl)?;
        self.note(cx, Version(version - 1), || CallHash::of_call(cx));
        Ok(version)
    }

    /// Adds to a number in plain decimal, counting from 0 where there is none, and returns the sum.
    #[replicated]
    pub async fn incr(&mut self, cx: &mut Cx, key: &[u8], by: i64) -> Result<i64, KvError> {
        owned(cx.shard(), [key])?;
        let before = self.store.version();
        let sum = self.store.incr(cx, key, by)?;
        self.note(cx, before, || CallHash::of_call(cx));
        Ok(sum)
    }

    /// Executes one of two lists of operations, depending on guards, all of it or nothing. All keys must be of one shard, which the
    /// caller names.
    #[replicated]
    pub async fn txn(&mut self, cx: &mut Cx, txn: Txn) -> Result<TxnResult, KvError> {
        owned(cx.shard(), txn.keys())?;
        let before = self.store.version();
        let result = self.store.txn(cx, &txn)?;
        self.note(cx, before, || CallHash::of_call(cx));
        Ok(result)
    }

    /// What a key holds.
    #[read]
    pub async fn get(&self, cx: &ReadCx, key: &[u8]) -> Result<Option<Found>, KvError> {
        owned(cx.shard(), [key])?;
        Ok(self.store.get(cx.now(), key))
    }

    /// The keys from `from` on, up to but without `to`, at most `limit` of them and a page of bytes: those of one shard, which is
    /// that of `from` unless the caller names another. Of several shards there is no common moment.
    #[read]
    pub async fn scan(&self, cx: &ReadCx, from: &[u8], to: Option<Vec<u8>>, limit: u32) -> Result<Page, KvError> {
        self.store.scan(cx.now(), from, to.as_deref(), limit)
    }

    /// How much the replica asked holds.
    #[local]
    pub async fn size(cx: &LocalCx<Self>) -> Result<Size, KvError> {
        let look = |kv: &Kv| Size {
            keys: kv.store.len() as u64,
            bytes: kv.store.bytes() as u64,
            version: kv.store.version().0,
        };
        cx.with_state(look).await.map_err(unavailable)
    }

    /// A page of the writes that the replica asked has executed, from number `position` on.
    #[local]
    pub async fn journal(cx: &LocalCx<Self>, position: u64) -> Result<JournalPage, KvError> {
        let page = cx.with_state(move |kv: &Kv| kv.journal.as_ref().map(|journal| journal.page(position)));
        page.await.map_err(unavailable)?.ok_or(KvError::NoJournal)
    }

    /// Ends the life of a key whose time is over.
    #[timer]
    async fn expire(&mut self, cx: &mut Cx, key: &[u8], version: u64) {
        self.store.expire(cx.now(), key, Version(version));
    }
}

impl Kv {
    /// An empty store; with a journal it also notes every write that it executes.
    pub fn new(journal: Option<Journal>) -> Self {
        Kv { store: Store::default(), journal }
    }

    /// Notes the call where it has changed something.
    fn note(&mut self, cx: &Cx, before: Version, call: impl FnOnce() -> CallHash) {
        let version = self.store.version();
        if let Some(journal) = &mut self.journal
            && version != before
        {
            journal.record(ExecutedCall { call: call(), version, index: cx.index().0 });
        }
    }

    fn look(&self, place: ShardPlace, is_local: bool, now: LogTime, request: &[u8], reply: &mut Vec<u8>) {
        match Command::parse(request) {
            Ok(Command::Journal(position)) if is_local => match &self.journal {
                Some(journal) => Reply::Bulk(&journal.page(position).to_bytes()).emit(reply),
                None => Reply::Error("ERR this replica keeps no journal: start it with --journal").emit(reply),
            },
            Ok(Command::Journal(_)) => {
                Reply::Error("ERR this command asks one replica: send it under policy 0 or 1").emit(reply);
            }
            Ok(command) if !command.keys_are(|key| place.owns(key)) => raw::refuse(&KvError::OtherShard, reply),
            Ok(command) => raw::answer(&self.store, now, &command, reply),
            Err(refusal) => Reply::Error(&refusal.to_string()).emit(reply),
        }
    }
}

/// A key in another shard's store would never be found again.
fn owned<'a>(place: ShardPlace, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), KvError> {
    if keys.into_iter().all(|key| place.owns(key)) { Ok(()) } else { Err(KvError::OtherShard) }
}

fn unavailable(_: NoState) -> KvError {
    KvError::Unavailable
}

impl RawHandler for Kv {
    fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) {
        match Command::parse(request) {
            Ok(command) if !command.keys_are(|key| cx.shard().owns(key)) => raw::refuse(&KvError::OtherShard, reply),
            Ok(command) => {
                let before = self.store.version();
                raw::execute(&mut self.store, cx, &command, reply);
                self.note(cx, before, || match command {
                    Command::Set(key, value, _) | Command::SetV(key, value) => CallHash::of_put(key, value),
                    _ => CallHash::of_bytes(request),
                });
            }
            Err(refusal) => Reply::Error(&refusal.to_string()).emit(reply),
        }
    }

    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>) {
        let is_local = cx.policy() != Policy::ReplicatedRouteNoSideEffects;
        self.look(cx.shard(), is_local, cx.now(), request, reply);
    }
}

impl Timeline for Cx {
    fn now(&self) -> LogTime {
        Cx::now(self)
    }

    fn set_expiry(&mut self, at: LogTime, key: &[u8], version: Version) -> Result<TimerId, TimersFull> {
        self.set_timer(at, KvTimers::expire(key, version.0))
    }

    fn cancel(&mut self, timer: TimerId) {
        self.cancel_timer(timer);
    }
}

/// The store, then whether there is a journal, then the journal.
impl State for Kv {
    const VERSION: u32 = 2;
    const BYTES_MAX: Option<u64> = Some(STATE_BYTES_MAX as u64);

    async fn save(&self, to: &mut Writer) {
        self.store.save(to).await;
        to.item(&self.journal.is_some()).await;
        if let Some(journal) = &self.journal {
            journal.save(to).await;
        }
    }

    async fn load(version: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        StateError::expect_version::<Self>(version)?;
        let store = Store::load(from).await?;
        let has_journal: bool = from.item().await?;
        let journal = if has_journal { Some(Journal::load(from).await?) } else { None };
        Ok(Kv { store, journal })
    }

    async fn discard(self, turns: &mut Turns) {
        self.store.discard(turns).await;
        if let Some(journal) = self.journal {
            journal.discard(turns).await;
        }
    }
}

#[cfg(test)]
mod tests;
