//! A new cluster that begins with an old one's data: in an empty directory, for one node, which is its only voter at first.
//!
//! It has another cluster id: whoever knew the old cluster is told that it was replaced, and no member of it can take part. Others
//! join as they join any cluster. What the one node held counts as committed, and what it did not hold is lost; so this is
//! for operators who have decided so, never for a node by itself.

use std::task::{Context, Poll};

use super::device::Device;
use super::wal::{Fresh, Wal, WalSettings};
use super::{Completion, HardState, Storage, Write};
use crate::config::Configuration;
use crate::entry::{EntryHeader, EntryKind};
use crate::id::{ClusterId, LogIndex, Member, Nanos, Term};
use crate::log::{Log, ReceivedSnapshot};

/// What is begun with.
#[derive(Debug, Clone)]
pub struct Legacy {
    /// The state before the log, where the log does not begin with the first entry.
    pub snapshot: Option<ReceivedSnapshot>,
    /// The entries after it.
    pub log: Log,
    /// The newest term seen.
    pub term: Term,
}

/// Why nothing was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The device failed.
    #[error("the disk failed")]
    Failed,
    /// There is not enough room.
    #[error("the disk is full")]
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The record that names the cluster.
    Name,
    Snapshot,
    Entries,
    Close,
}

/// A directory that is being filled. Poll it to its end.
#[derive(Debug)]
pub struct Seeding<D: Device> {
    wal: Wal<D>,
    legacy: Legacy,
    cluster: ClusterId,
    hard: HardState,
    /// What is under way, or next.
    step: Step,
    waits: bool,
    written: LogIndex,
}

impl<D: Device> Seeding<D> {
    /// Begins to fill an empty directory for `fresh.id`, whose addresses are those of `member`.
    pub fn new(
        device: D,
        settings: WalSettings,
        fresh: Fresh,
        (cluster, member): (ClusterId, Member),
        mut legacy: Legacy,
        now: Nanos,
    ) -> Seeding<D> {
        let term = legacy.term.max(legacy.log.last_term()).next();
        let body = Configuration::of_voters(&[Member { id: fresh.id, ..member }]).encode();
        let header = EntryHeader {
            kind: EntryKind::Config,
            term,
            body_len: body.len() as u32,
            body_crc32c: crc32c::crc32c(&body),
            log_time: legacy.log.newest_log_time(),
            ..EntryHeader::default()
        };
        legacy.log.append(header, &[&body]);
        let written = legacy.log.base();
        let wal = Wal::create(device, settings, fresh, &[], now);
        let hard = HardState { term, vote: None };
        Seeding { wal, legacy, cluster, hard, step: Step::Name, waits: false, written }
    }

    /// Goes on; ready once everything is durable.
    pub fn poll(&mut self, now: Nanos, cx: &mut Context<'_>) -> Poll<Result<(), SeedError>> {
        loop {
            self.wal.tick(now);
            self.go_on();
            match self.wal.poll_completion(cx) {
                Poll::Ready(Completion::Persisted(_)) if self.step == Step::Entries => {
                    self.waits = false;
                    if self.written == self.legacy.log.last() {
                        self.step = Step::Close;
                    }
                }
                Poll::Ready(Completion::Persisted(_)) if self.step == Step::Name => {
                    self.waits = false;
                    self.step = if self.legacy.snapshot.is_some() { Step::Snapshot } else { Step::Entries };
                }
                Poll::Ready(Completion::Saved(_)) if self.step == Step::Snapshot => {
                    (self.waits, self.step) = (false, Step::Entries);
                }
                Poll::Ready(Completion::Failed) => return Poll::Ready(Err(SeedError::Failed)),
                Poll::Ready(Completion::Full(true)) => return Poll::Ready(Err(SeedError::Full)),
                Poll::Ready(_) => {}
                Poll::Pending if self.wal.is_closed() => return Poll::Ready(Ok(())),
                // The directory may have come into order meanwhile.
                Poll::Pending if !self.waits && self.go_on() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Begins the next step where that is possible; tells whether it has.
    fn go_on(&mut self) -> bool {
        if self.waits || (self.step != Step::Close && self.wal.room_bytes() == 0) {
            return false;
        }
        match self.step {
            Step::Name => self.write(self.written),
            Step::Snapshot => {
                if let Some(snapshot) = &self.legacy.snapshot {
                    self.wal.install(self.cluster, snapshot);
                }
            }
            Step::Entries => {
                let room = self.wal.room_bytes();
                let log = &self.legacy.log;
                let last = log.last();
                let mut to = self.written.next();
                while to < last && log.bytes_between(self.written, to.next()) <= room {
                    to = to.next();
                }
                if log.bytes_between(self.written, to) > room {
                    return false;
                }
                self.write(to);
            }
            Step::Close => self.wal.close(),
        }
        self.waits = true;
        true
    }

    fn write(&mut self, to: LogIndex) {
        let log = &self.legacy.log;
        let to_term = log.term_at(to).unwrap_or_default();
        let write = Write { cluster: self.cluster, hard: self.hard, from: self.written.next(), to, to_term };
        self.wal.write(write, log);
        self.written = to;
    }
}
