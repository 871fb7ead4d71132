//! A log on a faulty disk, written at random as a replica would, beside a model that knows what was written and acknowledged.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::device::{Faulty, Platter};
use super::{CLUSTER, member};
use trimaran_raft::wal::{Durability, Expected, Fresh, Recovered, Recovery, Wal, WalError, WalSettings, recover_with};
use trimaran_raft::{
    Completion, Configuration, EntryHeader, HardState, Log, LogIndex, Nanos, NodeId, ReceivedSnapshot, Sabotage,
    ShardId, Slot, Storage, Term, Write, state_hash,
};

pub(crate) const ID: NodeId = NodeId::new(1, 77);

/// Small, so that files fill and are used again within a few writes.
pub(crate) const SETTINGS: WalSettings = WalSettings {
    durability: Durability::Durable,
    file_bytes: 16 * 4096,
    files_max: 6,
    record_bytes: 4 * 4096,
    window: 4,
    snapshot_every_bytes: 12_000,
    slice_bytes: 2 * 4096,
    stall: std::time::Duration::from_millis(100),
    retry: std::time::Duration::from_millis(10),
    sync_every: std::time::Duration::from_millis(20),
    boot: 5,
    seal: std::time::Duration::from_secs(3600),
    sabotage: Sabotage::NONE,
};

pub(crate) const EXPECTED: Expected =
    Expected { slot: Slot(1), shard: ShardId(0), cluster: None, boot: 5, witness: None };

/// A log as it was after a write: hard state, and term and content of each entry from 1 on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    pub(crate) hard: HardState,
    pub(crate) entries: Vec<(Term, u32)>,
}

/// Small numbers from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

pub(crate) struct Journal {
    pub(crate) wal: Wal<Faulty>,
    pub(crate) disk: Faulty,
    pub(crate) log: Log,
    pub(crate) hard: HardState,
    /// The log after each write, the oldest first; the first is what it began with.
    pub(crate) states: Vec<Known>,
    /// Writes begun in this life, by the number of the state that they make.
    begun: Vec<(Write, usize)>,
    /// The state that is acknowledged.
    pub(crate) acknowledged: usize,
    /// All of it, also what the snapshots hold.
    pub(crate) model: Known,
    written: LogIndex,
    written_hard: HardState,
    /// Committed: nothing up to here is ever replaced.
    pub(crate) committed: LogIndex,
    pub(crate) now: u64,
    pub(crate) completions: Vec<Completion>,
    pub(crate) failed: bool,
    pub(crate) full: bool,
    pub(crate) stalled: bool,
    pub(crate) saved: LogIndex,
    content: u32,
}

fn header(term: Term, body: &[u8]) -> EntryHeader {
    EntryHeader { term, body_len: body.len() as u32, body_crc32c: crc(body), log_time: 7, ..EntryHeader::default() }
}

/// The first bytes of a body name it; that is all the model keeps.
fn crc(body: &[u8]) -> u32 {
    body.first_chunk().map_or(0, |name| u32::from_le_bytes(*name))
}

pub(crate) fn state_after(index: LogIndex, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u64 ^ index.0) as u8).collect()
}

impl Journal {
    pub(crate) fn new(settings: WalSettings, durable_writes: bool) -> Journal {
        let disk = Faulty::new(Platter::default(), durable_writes);
        let fresh = Fresh { id: ID, shard: ShardId(0), salt: 0x5a17 };
        let wal = Wal::create(disk.clone(), settings, fresh, &[], Nanos(0));
        Journal::with(wal, disk, Log::default(), HardState::default(), Known::default())
    }

    /// Goes on with what was recovered from this disk; `model` is what it is known to hold.
    pub(crate) fn resume(disk: Faulty, settings: WalSettings, recovered: Box<Recovered>, model: Known) -> Journal {
        let wal = Wal::resume(disk.clone(), settings, &recovered, Nanos(0));
        let saved = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        let mut journal = Journal::with(wal, disk, recovered.log, recovered.hard, model);
        (journal.saved, journal.committed) = (saved, saved);
        journal
    }

    fn with(wal: Wal<Faulty>, disk: Faulty, log: Log, hard: HardState, model: Known) -> Journal {
        Journal {
            wal,
            disk,
            hard,
            states: vec![model.clone()],
            begun: Vec::new(),
            acknowledged: 0,
            written: log.last(),
            written_hard: hard,
            log,
            model,
            committed: LogIndex::ZERO,
            now: 0,
            completions: Vec::new(),
            failed: false,
            full: false,
            stalled: false,
            saved: LogIndex::ZERO,
            content: 0,
        }
    }

    pub(crate) fn append(&mut self, bytes: usize) {
        self.content += 1;
        let name = self.content ^ (self.hard.term.0 as u32) << 20;
        let mut body = name.to_le_bytes().to_vec();
        body.resize(bytes.max(4), name as u8);
        self.log.append(header(self.hard.term, &body), &[&body]);
        self.model.entries.push((self.hard.term, name));
    }

    pub(crate) fn vote(&mut self, term: u64, slot: u8) {
        self.hard = HardState { term: Term(term), vote: Some(NodeId::new(slot, 3)) };
        self.model.hard = self.hard;
    }

    /// A newer leader replaces what is not committed.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.committed);
        self.log.truncate(from);
        self.written = self.written.min(from.prev());
        self.model.entries.truncate(from.0 as usize - 1);
    }

    /// What the machine does when it flushes: one write of all that there is, where it has room.
    pub(crate) fn flush(&mut self) {
        let room = self.wal.room_bytes();
        let after = self.written.max(self.log.base());
        let to = self.log.oldest_within(after, room);
        if room == 0 || self.failed || (to == self.written && self.hard == self.written_hard) {
            return;
        }
        let write = Write {
            cluster: CLUSTER,
            hard: self.hard,
            from: after.next(),
            to,
            to_term: self.log.term_at(to).expect("held"),
        };
        self.written = to;
        self.written_hard = self.hard;
        let mut known = self.model.clone();
        known.entries.truncate(to.0 as usize);
        self.states.push(known);
        self.begun.push((write, self.states.len() - 1));
        self.wal.write(write, &self.log);
    }

    /// Saves the state after what is committed.
    pub(crate) fn save(&mut self, bytes: usize) {
        let snapshot = self.snapshot_of(self.committed, self.log.term_at(self.committed).expect("held"), bytes);
        let hash = state_hash(&snapshot.bytes);
        self.wal.save(snapshot, hash);
    }

    pub(crate) fn snapshot_of(&self, index: LogIndex, term: Term, bytes: usize) -> ReceivedSnapshot {
        ReceivedSnapshot {
            index,
            term,
            log_time: 7,
            digest: index.0,
            configuration: Configuration::of_voters(&[member(0, 1)]),
            bytes: Rc::new(state_after(index, bytes)),
        }
    }

    /// A leader's snapshot replaces the log, `ahead` entries beyond its end.
    pub(crate) fn install(&mut self, ahead: u64, bytes: usize) {
        let index = LogIndex(self.log.last().0 + ahead);
        self.model.entries.resize(index.0 as usize, (self.hard.term, 0xffff));
        let snapshot = self.snapshot_of(index, self.hard.term, bytes);
        self.wal.install(CLUSTER, &snapshot);
        self.log = Log::starting_after(index, self.hard.term, 7);
        self.written = LogIndex::ZERO;
        self.committed = index;
    }

    pub(crate) fn tick(&mut self, ns: u64) {
        self.now += ns;
        self.wal.tick(Nanos(self.now));
    }

    /// Takes what has completed.
    pub(crate) fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(completion) = self.wal.poll_completion(&mut cx) {
            match completion {
                Completion::Persisted(write) => {
                    let begun = self.begun.iter().rev().find(|begun| begun.0 == write);
                    // The log's own, which says its end once more.
                    let is_seal = begun.is_none() && write.from == write.to.next();
                    let state = if is_seal { self.acknowledged } else { begun.expect("begun").1 };
                    assert!(state >= self.acknowledged, "acknowledgements go forward");
                    self.acknowledged = state;
                }
                Completion::Failed => self.failed = true,
                Completion::Full(full) => self.full = full,
                Completion::Stalled(stalled) => self.stalled = stalled,
                Completion::Saved(index) => self.saved = index,
            }
            self.completions.push(completion);
        }
    }

    /// Until nothing is under way.
    pub(crate) fn settle(&mut self) {
        self.disk.set(|faults| faults.holds = false);
        for _ in 0..1000 {
            self.poll();
            self.flush();
            if self.disk.in_flight() == 0 {
                return;
            }
        }
        panic!("never at rest: {:?}", self.wal);
    }

    pub(crate) fn last_acknowledged(&self) -> usize {
        self.states[self.acknowledged].entries.len()
    }
}

/// What a start finds on this disk.
pub(crate) fn recovered(platter: &Platter, sabotage: Sabotage) -> Result<Option<Box<Recovered>>, WalError> {
    Ok(match recover_with(platter, &EXPECTED, sabotage)? {
        Recovery::Resumed(recovered) => Some(recovered),
        Recovery::Nothing => None,
        Recovery::Untrusted(report) => panic!("not trusted: {report}"),
    })
}

/// Which of the states after `acknowledged` this is: nothing acknowledged is lost and nothing is invented.
///
/// # Panics
/// It is none.
pub(crate) fn assert_is_one_of(found: Option<&Recovered>, states: &[Known], acknowledged: usize, what: &str) -> usize {
    let Some(found) = found else {
        assert_eq!(acknowledged, 0, "lost: everything, {what}");
        return 0;
    };
    assert_eq!(found.id, ID);
    assert_eq!(found.fence, None, "false damage: {what}\n{}", found.report);
    let base = found.log.base().0 as usize;
    if let Some(snapshot) = &found.snapshot {
        assert_eq!(*snapshot.bytes, state_after(snapshot.index, snapshot.bytes.len()), "invented: another state");
    }
    let held: Vec<(Term, u32)> = (found.log.first().0..=found.log.last().0)
        .map(|at| {
            let mut body = Vec::new();
            found.log.copy_body(LogIndex(at), &mut body);
            (found.log.term_at(LogIndex(at)).expect("held"), crc(&body))
        })
        .collect();
    let same = |known: &Known| known.hard == found.hard && known.entries.get(base..).is_some_and(|rest| rest == held);
    // A snapshot that was installed and not yet followed by a record: the log is what it says, the hard state as before.
    let only_snapshot = |known: &Known| known.hard == found.hard && held.is_empty() && base > known.entries.len();
    let state = (acknowledged..states.len()).rev().find(|at| same(&states[*at]) || only_snapshot(&states[*at]));
    state.unwrap_or_else(|| {
        let wanted = &states[acknowledged];
        let lost = found.hard < wanted.hard || base + held.len() < wanted.entries.len();
        panic!(
            "{}: {what}\nfound {:?} and {} entries after {base} {held:?}\nacknowledged {:?} and {} entries {:?}\n{}",
            if lost { "lost" } else { "invented" },
            found.hard,
            held.len(),
            wanted.hard,
            wanted.entries.len(),
            wanted.entries.get(base..),
            found.report
        )
    })
}

/// Four records, of which the second rots: whatever is still there of the log, the last entry is not denied to have been there.
pub(crate) fn rotten(sabotage: Sabotage) {
    let mut journal = Journal::new(SETTINGS, true);
    for _ in 0..4 {
        journal.vote(2, 1);
        journal.append(100);
        journal.settle();
    }
    let mut platter = journal.disk.platter();
    platter.file_mut("log-00000000")[4096 + 300] ^= 0x40;
    let found = recovered(&platter, sabotage).expect("readable").expect("a life");
    let reached = found.fence.unwrap_or_default().max((found.log.last_term(), found.log.last()));
    assert_eq!(reached, (Term(2), LogIndex(4)), "denied to have been acknowledged\n{}", found.report);
}

/// A snapshot that is saved before the log reaches as far again covers the hole, and what shows that there was one: the records behind it
/// would go on from the snapshot, but for those that have gone on from before the hole meanwhile. What was lost is no less lost.
pub(crate) fn hidden_hole(sabotage: Sabotage) {
    let mut journal = Journal::new(SETTINGS, true);
    journal.vote(2, 1);
    journal.settle();
    for _ in 0..6 {
        journal.append(100);
        journal.settle();
    }
    let mut platter = journal.disk.platter();
    platter.file_mut("log-00000000")[3 * 4096 + 200] ^= 1;
    let mut model = journal.model.clone();
    model.entries.truncate(2);
    let found = recovered(&platter, sabotage).expect("readable").expect("a life");
    let mut next = Journal::resume(Faulty::new(platter, true), SETTINGS, found, model);
    next.settle();
    for _ in 0..2 {
        next.append(50);
        next.settle();
    }
    next.committed = LogIndex(4);
    next.save(5000);
    next.settle();
    for _ in 0..2 {
        let found = recovered(&next.disk.platter(), sabotage).expect("readable").expect("a life");
        let snapshot = found.snapshot.as_ref().map(|held| held.index);
        assert_eq!((snapshot, found.log.last()), (Some(LogIndex(4)), LogIndex(4)));
        let reached = Some((Term(2), LogIndex(6)));
        assert_eq!(found.fence, reached, "denied to have been acknowledged\n{}", found.report);
        let model = next.model.clone();
        next = Journal::resume(Faulty::new(next.disk.platter(), true), SETTINGS, found, model);
        next.vote(3, 1);
        next.settle();
    }
    for _ in 0..2 {
        next.append(50);
        next.settle();
    }
    let found = recovered(&next.disk.platter(), sabotage).expect("readable").expect("a life");
    assert_eq!((found.log.last(), found.fence), (LogIndex(6), None), "{}", found.report);
}

/// Three writes overlap, and the first of them is lost with the power: it was not acknowledged, nor was what follows.
pub(crate) fn torn(sabotage: Sabotage) {
    let mut journal = Journal::new(SETTINGS, true);
    journal.vote(2, 1);
    journal.settle();
    journal.disk.set(|faults| faults.holds = true);
    for _ in 0..3 {
        journal.append(100);
        journal.flush();
    }
    assert_eq!(journal.disk.in_flight(), 3, "they overlap");
    journal.disk.complete(2);
    journal.disk.complete(1);
    journal.poll();
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, sabotage).expect("readable");
    assert_is_one_of(found.as_deref(), &journal.states, journal.acknowledged, "a torn tail");
}

/// A disk has no room for another file: what is left of the one in use is kept for what moves the group on.
pub(crate) fn without_room(sabotage: Sabotage) {
    let mut journal = Journal::new(WalSettings { sabotage, ..SETTINGS }, true);
    journal.vote(2, 1);
    journal.settle();
    journal.disk.set(|faults| faults.no_space = true);
    for _ in 0..60 {
        if journal.full {
            break;
        }
        journal.append(100);
        journal.settle();
    }
    let before = journal.last_acknowledged();
    for _ in 0..3 {
        journal.append(64);
        journal.settle();
    }
    assert_eq!(journal.last_acknowledged(), before + 3, "a full disk keeps nothing in reserve");
}

/// A buffered log with three entries, on a device that needs a sync for what is to last; and what its witness was told last.
fn buffered(sabotage: Sabotage) -> (Journal, Rc<Cell<u64>>) {
    let settings = WalSettings { durability: Durability::Buffered, sabotage, ..SETTINGS };
    let mut journal = Journal::new(settings, false);
    let told = Rc::new(Cell::new(0));
    let witness = Rc::clone(&told);
    journal.wal.set_witness(move |sequence| witness.set(sequence));
    journal.vote(2, 1);
    journal.settle();
    for _ in 0..3 {
        journal.append(100);
        journal.settle();
    }
    assert_eq!(journal.last_acknowledged(), 3);
    (journal, told)
}

/// The disk as a loss of power leaves it at worst: a start either begins another life, or goes on with all that was acknowledged.
fn assert_not_denied(journal: &Journal, expected: &Expected, sabotage: Sabotage) {
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    if let Recovery::Resumed(found) = recover_with(&platter, expected, sabotage).expect("its own disk") {
        assert_is_one_of(Some(&found), &journal.states, journal.acknowledged, "resumed");
    }
}

/// A buffered log that was not closed, and the power.
pub(crate) fn buffered_and_powerless(sabotage: Sabotage) {
    let (journal, _) = buffered(sabotage);
    assert_not_denied(&journal, &Expected { boot: SETTINGS.boot + 1, ..EXPECTED }, sabotage);
}

/// A buffered log in the same run of the machine, on a disk that has not kept what it had.
pub(crate) fn buffered_and_put_back(sabotage: Sabotage) {
    let (journal, told) = buffered(sabotage);
    assert_not_denied(&journal, &Expected { witness: Some(told.get()), ..EXPECTED }, sabotage);
}

/// A buffered log is closed, opened again after the power was lost, and has acknowledged one entry when that happens once more.
pub(crate) fn buffered_and_reopened(sabotage: Sabotage) {
    let (mut journal, _) = buffered(sabotage);
    journal.wal.close();
    journal.settle();
    assert!(journal.wal.is_closed());
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let [second, third] = [1, 2].map(|later| Expected { boot: SETTINGS.boot + later, ..EXPECTED });
    let Ok(Recovery::Resumed(found)) = recover_with(&platter, &second, sabotage) else {
        panic!("closed, so to be resumed")
    };
    let settings = WalSettings { durability: Durability::Buffered, boot: second.boot, sabotage, ..SETTINGS };
    let mut next = Journal::resume(Faulty::new(platter, false), settings, found, journal.model.clone());
    next.append(100);
    next.settle();
    assert_eq!(next.last_acknowledged(), 4);
    assert_not_denied(&next, &third, sabotage);
}
