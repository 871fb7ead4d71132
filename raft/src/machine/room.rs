//! What this node has room for: in memory, and on its disk.
//!
//! Two things are held to one budget, [`crate::Limits::log_bytes`]: the log in memory, and what is on the disk after the newest snapshot
//! there, which is more where memory has forgotten what was applied. A start reads back all of the latter, and knows of none of it that
//! it is committed, so that it can forget nothing. Were that more than another node may hold, a leader could never have it committed:
//! the other would have no room for the leader's newest entries, without which nothing before them counts. Where two nodes begin in such a
//! way and the third is gone, that would be for ever.
//!
//! A small part is kept for entries without which nothing moves: those of new leaders, of changes of the members, and of log time. The first two
//! pass whatever is on the disk, and whatever was read back from it, which may be more than the budget where that was another before. Then, or
//! where the budgets of two nodes differ, the one may still have no room for others of the other's entries: a larger budget helps.

use super::{Machine, Role};
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, EntryKind};
use crate::id::LogIndex;
use crate::log::Log;
use crate::sabotage::Fault;

/// Room of the budget kept for the entries without which a leader makes no progress; an eighth of a small budget.
const RESERVED_BYTES: u64 = 64 << 10;

impl Machine {
    /// Whether the disk takes only what is kept room for.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// A follower tells its leader, so that it is sent nothing that it cannot keep.
    pub(super) fn storage_full(&mut self, full: bool) {
        self.full = full;
        self.ack_due |= self.role == Role::Follower && self.leader.is_some();
    }

    pub(super) fn storage_saved(&mut self, offset_bytes: u64, log: &Log) {
        // What was saved was applied. Where the log has begun anew meanwhile, the place belongs to the log before.
        let applied = log.offset_bytes(self.applied);
        self.saved_bytes = self.saved_bytes.max(Some(offset_bytes.min(applied)));
        self.advertise_credit(log);
    }

    /// The log begins anew: so does what is after the snapshot that it begins with, which the disk has before anything that follows.
    pub(super) fn storage_replaced(&mut self, log: &Log) {
        self.saved_bytes = self.saved_bytes.map(|_| log.offset_bytes(log.base()));
    }

    /// Bytes of the log after the newest snapshot on the disk: what a start would read back. 0 where nothing is on a disk.
    pub fn unsaved_bytes(&self, log: &Log) -> u64 {
        self.unsaved_up_to(log.last(), log)
    }

    fn unsaved_up_to(&self, index: LogIndex, log: &Log) -> u64 {
        let saved = self.saved_bytes.filter(|_| !self.sabotaged(Fault::UnboundedUnsaved));
        saved.map_or(0, |saved| log.offset_bytes(index).saturating_sub(saved))
    }

    /// Whether a snapshot on the disk is needed, so that there is room for entries: much could be free, or there is soon none left for one. Where
    /// there is none, one is not taken for each few entries that are applied: it waits for the largest entry's room, or for the last of them.
    pub fn is_short_of_saved(&self, log: &Log) -> bool {
        if self.saved_bytes.is_none() {
            return false;
        }
        let (budget, unsaved, freed) =
            (self.plain_bytes(), self.unsaved_bytes(log), self.unsaved_up_to(self.applied, log));
        let largest = u64::from(self.settings.limits.entry_bytes) + ENTRY_HEADER_BYTES as u64;
        let much = unsaved >= budget / 2 && freed >= budget / 4;
        let none = budget.saturating_sub(unsaved) < largest;
        much || none && (freed >= largest || freed > 0 && self.applied == self.commit)
    }

    /// Whether what is on the disk leaves less room than what is in memory: nothing that is forgotten makes it more.
    pub(super) fn is_bound_by_disk(&self, log: &Log) -> bool {
        self.full || self.unsaved_bytes(log) > log.bytes()
    }

    /// Bytes of entries after `matched` that this node can take.
    pub(super) fn credit_bytes(&self, matched: LogIndex, log: &Log) -> u64 {
        let after = log.bytes_between(matched, log.last());
        let kept = self.kept_bytes(log).saturating_sub(after);
        if self.full { 0 } else { self.plain_bytes().saturating_sub(kept) }
    }

    /// A leader that was told of little room hears at once when there is more.
    pub(super) fn advertise_credit(&mut self, log: &Log) {
        let low = u64::from(self.settings.limits.entry_bytes).min(self.plain_bytes() / 4);
        let room = self.plain_bytes().saturating_sub(self.kept_bytes(log));
        if self.role == Role::Follower && self.leader.is_some() && self.credit_advertised < low && room >= low {
            self.ack_due = true;
        }
    }

    /// Whether an entry fits the log, this node's own or its leader's.
    pub(super) fn has_room(&self, header: &EntryHeader, log: &Log) -> bool {
        let (cost, limits) = (header.cost_bytes(), &self.settings.limits);
        match header.kind {
            kind if !kind.is_reserved() || self.sabotaged(Fault::NoReservedRoom) => {
                !self.full && self.kept_bytes(log) + cost <= self.plain_bytes()
            }
            // As many as the service's timers want: they leave room for those without which nothing is ever committed or saved, and are
            // bounded by the disk, so that whoever lacks them has room for these behind them.
            EntryKind::Tick => self.kept_bytes(log) + cost <= limits.log_bytes - self.reserved_bytes() / 2,
            _ => log.bytes() + cost <= self.log_limit_bytes(),
        }
    }

    /// What the log in memory does not exceed, but for a new leader's own first entry: the budget, or what was read back and the reserve, where
    /// that is more.
    pub fn log_limit_bytes(&self) -> u64 {
        let limit = self.settings.limits.log_bytes;
        limit.max(self.read_back_bytes.saturating_add(self.reserved_bytes()))
    }

    /// Bytes of entries in memory, or to be read back, whichever is more.
    fn kept_bytes(&self, log: &Log) -> u64 {
        log.bytes().max(self.unsaved_bytes(log))
    }

    /// The part of the budget that is open to every entry.
    fn plain_bytes(&self) -> u64 {
        self.settings.limits.log_bytes - self.reserved_bytes()
    }

    fn reserved_bytes(&self) -> u64 {
        RESERVED_BYTES.min(self.settings.limits.log_bytes / 8)
    }
}
