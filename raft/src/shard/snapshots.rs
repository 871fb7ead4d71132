//! Snapshots between the shard and the task that applies: asked for where one is to be sent or saved, handed over on a peer that returns.

use std::future::poll_fn;

use super::futures::Wait;
use super::{Inner, Shard, yield_now};
use crate::error::SnapshotError;
use crate::id::LogIndex;
use crate::log::{ReceivedSnapshot, Snapshot, StateHash};
use crate::machine::Input;
use crate::storage::Storage;
use crate::transport::Transport;

/// Blocks of a state hashed before other tasks have their turn: a megabyte.
const HASH_BLOCKS: usize = 16;

impl<T: Transport, S: Storage> Shard<T, S> {
    /// Waits until a snapshot is needed: a peer needs entries that the log no longer holds, and this node leads or its leader has asked it
    /// to send one, or this node's own storage is to forget some of its log. Returns the least index that a snapshot must reach; what the apply task has applied
    /// always does. Answer with [`Shard::offer_snapshot`], then wait
    /// again; an unanswered want stands, and costs nothing but that the peer stays out.
    pub async fn snapshot_wanted(&self) -> LogIndex {
        let mut wait = Wait { shard: self, list: |inner| &mut inner.wanted, key: None };
        poll_fn(|cx| wait.poll(cx, |inner| inner.snapshot_wanted().ok_or(LogIndex::ZERO))).await
    }

    /// As [`Shard::snapshot_wanted`], if one is wanted now.
    pub fn snapshot_wanted_now(&self) -> Option<LogIndex> {
        self.inner.borrow().snapshot_wanted()
    }

    /// Gives the state after `snapshot.index` out, which must be applied. The bytes are hashed a megabyte at a time, and kept
    /// until no peer needs them and the storage has them. After a refusal nothing is wanted for an election timeout.
    ///
    /// # Errors
    /// This node neither leads nor was asked by its leader, the state is larger than [`crate::Limits::snapshot_bytes`], or nobody needs it any more.
    pub async fn offer_snapshot(&self, snapshot: Snapshot) -> Result<(), SnapshotError> {
        let mut hash = StateHash::default();
        while !hash.advance(&snapshot.bytes, HASH_BLOCKS) {
            yield_now().await;
        }
        let state_hash = hash.finish(&snapshot.bytes);
        let for_peers = {
            let inner = &mut *self.inner.borrow_mut();
            let own = inner.machine.own_snapshot(&snapshot, &inner.log).filter(|_| inner.saves_now());
            let saves = own.is_some();
            if let Some(own) = own {
                inner.saving = Some((own.index, inner.log.offset_bytes(own.index)));
                inner.storage.save(own, state_hash);
                inner.wake();
            }
            !saves || inner.machine.snapshot_wanted(&inner.log).is_some()
        };
        if for_peers { self.request(Input::Offer(&snapshot, state_hash)) } else { Ok(()) }
    }

    /// The most bytes that a snapshot wanted now may have; none where it is for this node's own storage, which takes any.
    pub fn snapshot_limit_bytes(&self) -> Option<u64> {
        let inner = self.inner.borrow();
        (!inner.saves_now()).then(|| u64::from(inner.machine.limits().snapshot_bytes))
    }

    /// In [`Shard::offer_snapshot`]'s place: the state has at least so many bytes, more than the limit. Nothing is then wanted for an
    /// election timeout, after the next refusal for twice as long, up to a minute.
    pub fn snapshot_too_large(&self, bytes: u64) {
        self.inner.borrow_mut().step(Input::TooLarge(bytes));
    }

    /// The snapshot that replaces the state of this replica, once one has arrived. Until it is taken, no further entry is
    /// delivered; after loading it, call [`Shard::set_applied`] with its index and the digest there. For the one task that
    /// applies.
    pub async fn next_snapshot(&self) -> ReceivedSnapshot {
        let mut wait = Wait { shard: self, list: |inner| &mut inner.snapshots, key: None };
        poll_fn(|cx| wait.poll(cx, |inner| inner.received.take().ok_or(LogIndex::ZERO))).await
    }

    /// Whether [`Shard::try_next_snapshot`] has one.
    pub fn has_snapshot(&self) -> bool {
        self.inner.borrow().received.is_some()
    }

    /// As [`Shard::next_snapshot`], if there is one now.
    pub fn try_next_snapshot(&self) -> Option<ReceivedSnapshot> {
        self.inner.borrow_mut().received.take()
    }
}

impl<T: Transport, S: Storage> Inner<T, S> {
    fn snapshot_wanted(&self) -> Option<LogIndex> {
        let own = self.saves_now().then_some(LogIndex(1));
        self.machine.snapshot_wanted(&self.log).or(own)
    }
}
