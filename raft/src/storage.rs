//! Where the log and the hard state are made durable.
//!
//! The caller's duties, in order: `write` as the machine asks; feed every completion back as
//! [`crate::Input::Persisted`]; never acknowledge before. Writes complete in the order in which they were begun.

mod memory;

use std::task::{Context, Poll};

use crate::id::{LogIndex, NodeId, Term};
use crate::log::Log;

pub use memory::MemoryStorage;

/// Term and vote: written in one record, before anything that relies on them is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this node's vote in it.
    pub vote: Option<NodeId>,
}

/// One write: the hard state, and the entries that replace everything stored from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    /// The hard state as of this write.
    pub hard: HardState,
    /// The first entry written; stored entries from here on are void.
    pub from: LogIndex,
    /// The last entry written; one before `from` when there is none.
    pub to: LogIndex,
    /// The term at `to`.
    pub to_term: Term,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Completion {
    /// This write and all before it are durable.
    Persisted(Write),
    /// The device failed; nothing more may be acknowledged.
    Failed,
    /// The device has not answered for too long (true), or answers again (false).
    Stalled(bool),
}

/// A log device.
pub trait Storage {
    /// Begins a write, taking the entries from `log`.
    fn write(&mut self, write: Write, log: &Log);

    /// Everything stored is void: the log begins anew after `base`, whose state the caller has. Takes its turn among the writes.
    fn reset(&mut self, base: LogIndex, base_term: Term);

    /// Entries up to `to` will not be read again.
    fn trim(&mut self, to: LogIndex);

    /// The next completion, in order; else the task is woken by it.
    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<Completion>;
}
