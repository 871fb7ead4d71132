//! A log device that completes at once, or holds writes back until it is told.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use trimaran_raft::{
    ClusterId, Completion, Configuration, EntryHeader, EntryKind, HardState, Log, LogIndex, ReceivedSnapshot, Storage,
    Term, Write,
};

type Entry = (EntryHeader, Vec<u8>);

/// Where what is stored begins.
#[derive(Debug, Clone, Default)]
struct Base {
    index: LogIndex,
    term: Term,
    log_time: u64,
    configuration: Configuration,
}

#[derive(Debug, Clone)]
enum Operation {
    Write(Write, Vec<Entry>),
    Reset(Base),
    Trim(LogIndex),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    hard: Option<HardState>,
    /// What a snapshot replaced everything by; entries follow it.
    origin: Base,
    /// Everything written since, for the invariants; a restart sees what is after `base`.
    entries: Vec<Entry>,
    base: Base,
    unfinished: VecDeque<Operation>,
    /// Writes begun while this is set complete only on demand.
    pub(crate) holds: bool,
    /// No snapshot is ever saved: a restart sees everything.
    pub(crate) keeps_all: bool,
}

impl Storage for Disk {
    fn write(&mut self, write: Write, log: &Log) {
        let entries = (write.from.0..=write.to.0).map(|at| {
            let mut body = Vec::new();
            log.copy_body(LogIndex(at), &mut body);
            (*log.header(LogIndex(at)).expect("entries to be written are held"), body)
        });
        self.unfinished.push_back(Operation::Write(write, entries.collect()));
    }

    fn install(&mut self, _: ClusterId, snapshot: &ReceivedSnapshot) {
        let ReceivedSnapshot { index, term, log_time, ref configuration, .. } = *snapshot;
        let configuration = configuration.clone();
        self.unfinished.push_back(Operation::Reset(Base { index, term, log_time, configuration }));
    }

    fn trim(&mut self, to: LogIndex) {
        if !self.keeps_all {
            self.unfinished.push_back(Operation::Trim(to));
        }
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
        LogIndex(self.origin.index.0 + self.entries.len() as u64)
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        match index.0.checked_sub(self.origin.index.0)? {
            0 => Some(self.origin.term),
            after => self.entries.get(after as usize - 1).map(|entry| entry.0.term),
        }
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// Finishes the oldest write, if it is not held back or `held` says to finish those too.
    pub(crate) fn complete(&mut self, held: bool) -> Option<Write> {
        if self.holds && !held {
            return None;
        }
        loop {
            match self.unfinished.pop_front()? {
                Operation::Write(write, entries) => {
                    self.hard = Some(write.hard);
                    self.entries.truncate((write.from.prev().0 - self.origin.index.0) as usize);
                    assert_eq!(self.last(), write.from.prev(), "a hole in the log on disk");
                    self.entries.extend(entries);
                    return Some(write);
                }
                Operation::Reset(base) => {
                    self.entries.clear();
                    self.origin = base.clone();
                    self.base = base;
                }
                Operation::Trim(to) => self.trim_now(to.min(self.last())),
            }
        }
    }

    fn trim_now(&mut self, to: LogIndex) {
        for at in self.base.index.0 + 1..=to.0 {
            let (header, body) = &self.entries[(at - self.origin.index.0) as usize - 1];
            self.base.index = LogIndex(at);
            self.base.term = header.term;
            self.base.log_time = header.log_time;
            if header.kind == EntryKind::Config {
                self.base.configuration = Configuration::decode(body).expect("a configuration");
            }
        }
    }

    /// The entries after this one cannot be read any more.
    pub(crate) fn lose_after(&mut self, index: LogIndex) {
        self.entries.truncate((index.0 - self.origin.index.0) as usize);
    }

    pub(crate) fn lose_unfinished(&mut self) {
        self.unfinished.clear();
    }

    /// The log after a restart, and the configuration in force where it begins.
    pub(crate) fn log(&self) -> (Log, Configuration) {
        let mut log = Log::starting_after(self.base.index, self.base.term, self.base.log_time);
        let trimmed = (self.base.index.0 - self.origin.index.0) as usize;
        for (header, body) in &self.entries[trimmed..] {
            log.append(*header, &[body]);
        }
        (log, self.base.configuration.clone())
    }
}
