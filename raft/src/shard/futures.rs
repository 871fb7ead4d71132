//! What tasks of this core await of a shard.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::waiters::Waiters;
use super::{Inner, Shard};
use crate::error::ReadError;
use crate::id::LogIndex;
use crate::storage::{MemoryStorage, Storage};
use crate::transport::Transport;

/// One task's place in a list of waiters; leaves it when dropped.
pub(super) struct Wait<'a, T: Transport, S: Storage> {
    pub(super) shard: &'a Shard<T, S>,
    pub(super) list: fn(&mut Inner<T, S>) -> &mut Waiters,
    pub(super) key: Option<u64>,
}

impl<T: Transport, S: Storage> Wait<'_, T, S> {
    /// Ready with what `ask` finds, or registered for the index that it names.
    pub(super) fn poll<R>(
        &mut self,
        cx: &Context<'_>,
        mut ask: impl FnMut(&mut Inner<T, S>) -> Result<R, LogIndex>,
    ) -> Poll<R> {
        let inner = &mut *self.shard.inner.borrow_mut();
        match ask(inner) {
            Ok(found) => Poll::Ready(found),
            Err(index) => {
                (self.list)(inner).wait(&mut self.key, index, cx);
                Poll::Pending
            }
        }
    }
}

impl<T: Transport, S: Storage> Drop for Wait<'_, T, S> {
    fn drop(&mut self) {
        (self.list)(&mut self.shard.inner.borrow_mut()).forget(self.key);
    }
}

/// A linearizable read on its way; see [`Shard::read_barrier`]. Dropping it abandons the read.
#[derive(Debug)]
pub struct ReadBarrier<T: Transport, S: Storage = MemoryStorage> {
    pub(super) shard: Shard<T, S>,
    pub(super) ticket: Result<u64, ReadError>,
}

impl<T: Transport, S: Storage> Future for ReadBarrier<T, S> {
    type Output = Result<LogIndex, ReadError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.ticket {
            Ok(ticket) => self.shard.inner.borrow_mut().reads.poll(*ticket, cx),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

impl<T: Transport, S: Storage> Drop for ReadBarrier<T, S> {
    fn drop(&mut self) {
        if let Ok(ticket) = self.ticket {
            self.shard.inner.borrow_mut().reads.close(ticket);
        }
    }
}

/// A watch on role, term, leader and transfers; see [`Shard::leadership`].
#[derive(Debug)]
pub struct Leadership<T: Transport, S: Storage = MemoryStorage> {
    shard: Shard<T, S>,
    seen: LogIndex,
    /// Its place among those that wait, which it keeps while other things end its waits.
    key: Option<u64>,
}

impl<T: Transport, S: Storage> Leadership<T, S> {
    pub(super) fn of(shard: Shard<T, S>) -> Self {
        let seen = shard.inner.borrow().leadership_changes;
        Leadership { shard, seen, key: None }
    }

    /// Waits for a change since the watch began or last returned; several count as one.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// As [`Leadership::changed`], for a task that looks at other things as well.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.shard.inner.borrow_mut();
        if inner.leadership_changes != self.seen {
            self.seen = inner.leadership_changes;
            return Poll::Ready(());
        }
        inner.leadership.wait(&mut self.key, self.seen, cx);
        Poll::Pending
    }
}

impl<T: Transport, S: Storage> Drop for Leadership<T, S> {
    fn drop(&mut self) {
        self.shard.inner.borrow_mut().leadership.forget(self.key);
    }
}
