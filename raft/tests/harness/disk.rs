//! A log device that completes at once, or holds writes back until it is told.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use trimaran_raft::{Completion, EntryHeader, HardState, Log, LogIndex, Storage, Write};

type Entry = (EntryHeader, Vec<u8>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    hard: Option<HardState>,
    /// Everything ever written, for the invariants; a restart sees what is after `base`.
    entries: Vec<Entry>,
    base: LogIndex,
    unfinished: VecDeque<(Write, Vec<Entry>)>,
    /// Writes begun while this is set complete only on demand.
    pub(crate) holds: bool,
}

impl Storage for Disk {
    fn write(&mut self, write: Write, log: &Log) {
        let entries = (write.from.0..=write.to.0).map(|at| {
            let mut body = Vec::new();
            log.copy_body(LogIndex(at), &mut body);
            (*log.header(LogIndex(at)).expect("entries to be written are held"), body)
        });
        self.unfinished.push_back((write, entries.collect()));
    }

    fn trim(&mut self, to: LogIndex) {
        self.base = to;
    }

    fn poll_completion(&mut self, _cx: &mut Context<'_>) -> Poll<Completion> {
        self.complete(false).map_or(Poll::Pending, |write| Poll::Ready(Completion::Persisted(write)))
    }
}

impl Disk {
    pub(crate) fn hard(&self) -> Option<HardState> {
        self.hard
    }

    /// Entries that survive a crash.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.entries.len() as u64)
    }

    pub(crate) fn header(&self, index: LogIndex) -> Option<&EntryHeader> {
        self.entries.get(index.0.checked_sub(1)? as usize).map(|entry| &entry.0)
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// Finishes the oldest write, if it is not held back or `held` says to finish those too.
    pub(crate) fn complete(&mut self, held: bool) -> Option<Write> {
        if self.holds && !held {
            return None;
        }
        let (write, entries) = self.unfinished.pop_front()?;
        self.hard = Some(write.hard);
        self.entries.truncate(write.from.prev().0 as usize);
        assert_eq!(self.last(), write.from.prev(), "a hole in the log on disk");
        self.entries.extend(entries);
        Some(write)
    }

    pub(crate) fn lose_unfinished(&mut self) {
        self.unfinished.clear();
    }

    pub(crate) fn log(&self) -> Log {
        let mut log = Log::default();
        for (header, body) in &self.entries {
            log.append(*header, &[body]);
        }
        log.trim(self.base);
        log
    }
}
