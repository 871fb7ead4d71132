//! Where the log and the hard state are made durable.
//!
//! The caller's duties, in order: [`Storage::tick`] once a turn; `write` as the machine asks, no more than [`Storage::room_bytes`];
//! feed every completion back as [`crate::Input::Persisted`] and the like; never acknowledge before. Writes complete in the order in
//! which they were begun, whatever the device does.

pub mod device;
mod memory;
pub mod seed;
pub mod wal;

use std::task::{Context, Poll};

use crate::id::{ClusterId, LogIndex, Nanos, NodeId, Term};
use crate::log::{Log, ReceivedSnapshot};

pub use memory::MemoryStorage;

/// Term and vote: written in one record, before anything that relies on them is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this node's vote in it.
    pub vote: Option<NodeId>,
}

/// One write: the hard state, and the entries that replace everything stored from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    /// Whose log it is.
    pub cluster: ClusterId,
    /// The hard state as of this write.
    pub hard: HardState,
    /// The first entry written; stored entries from here on are void.
    pub from: LogIndex,
    /// The last entry written; one before `from` when there is none.
    pub to: LogIndex,
    /// The term at `to`.
    pub to_term: Term,
}

/// How a write ended, or what else there is to say of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Completion {
    /// This write and all before it are durable.
    Persisted(Write),
    /// The device failed; nothing more may be acknowledged.
    Failed,
    /// The device has not answered for too long (true), or answers again (false).
    Stalled(bool),
    /// There is no room but what is kept for entries without which nothing moves (true), or there is some again (false).
    Full(bool),
    /// The state after this entry is durable: a restart goes on from there.
    Saved(LogIndex),
}

/// A log device.
pub trait Storage {
    /// Begins a write, taking the entries from `log`.
    fn write(&mut self, write: Write, log: &Log);

    /// Bytes of entries, headers included, that the next write may have; 0 while none may begin.
    fn room_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Everything stored is void: the log of this cluster begins anew after this snapshot. Writes begun later complete once it is
    /// durable.
    fn install(&mut self, cluster: ClusterId, snapshot: &ReceivedSnapshot);

    /// Whether a start reads back what was written after the newest snapshot. The machine then holds that to the budget of the log.
    fn reads_back(&self) -> bool {
        false
    }

    /// Whether a snapshot of this replica's own state, which is the one after `applied`, is to be saved, so that the log stays short.
    /// `pressed`: entries have no room without one, or soon will not.
    fn wants_snapshot(&self, _applied: LogIndex, _pressed: bool) -> bool {
        false
    }

    /// Begins to make a snapshot of this replica's own state durable, slice by slice; [`Completion::Saved`] tells when it is.
    /// `state_hash` is [`crate::state_hash`] of its bytes. One that comes too early or too late is dropped.
    fn save(&mut self, _snapshot: ReceivedSnapshot, _state_hash: u64) {}

    /// Entries up to `to` will not be read again.
    fn trim(&mut self, to: LogIndex);

    /// The time, once a turn.
    fn tick(&mut self, _now: Nanos) {}

    /// When [`Storage::tick`] is next wanted.
    fn next_deadline(&self) -> Nanos {
        Nanos::FAR
    }

    /// The next completion, in order; else the task is woken by it.
    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<Completion>;
}
