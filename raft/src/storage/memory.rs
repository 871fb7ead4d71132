//! Durability by replication alone: a write is complete when it is begun, the log in memory being all there is.

use std::task::{Context, Poll};

use super::{Completion, Storage, Write};
use crate::id::{ClusterId, LogIndex};
use crate::log::{Log, ReceivedSnapshot};

/// The storage of the `volatile` mode. A majority's memory is what survives.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    /// A later write covers the earlier ones, so one is enough to remember.
    newest: Option<Write>,
}

impl Storage for MemoryStorage {
    fn write(&mut self, write: Write, _log: &Log) {
        self.newest = Some(write);
    }

    fn install(&mut self, _cluster: ClusterId, _snapshot: &ReceivedSnapshot) {}

    fn trim(&mut self, _to: LogIndex) {}

    fn poll_completion(&mut self, _cx: &mut Context<'_>) -> Poll<Completion> {
        self.newest.take().map_or(Poll::Pending, |write| Poll::Ready(Completion::Persisted(write)))
    }
}
