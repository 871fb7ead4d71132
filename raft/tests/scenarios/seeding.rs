//! A new cluster that begins with an old one's data: what is on the disk in the end, and what becomes of it where that is slow, fails
//! or has no room.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::harness::device::{Faulty, Platter};
use crate::harness::journal::{Dice, EXPECTED, ID, Journal, SETTINGS};
use crate::harness::{MS, member};
use trimaran_raft::seed::{Legacy, SeedError, Seeding};
use trimaran_raft::wal::{Durability, Expected, Fresh, Recovered, Recovery, WalSettings, recover};
use trimaran_raft::{
    ClusterId, Configuration, EntryHeader, EntryKind, HardState, Log, LogIndex, Nanos, ReceivedSnapshot, ShardId, Term,
};

/// Not the one that the data is from.
const CLUSTER: ClusterId = ClusterId(0x5eed);
const SEALS: WalSettings = WalSettings { seal: std::time::Duration::from_millis(250), ..SETTINGS };

/// Entries of all sizes, up to three blocks.
fn legacy(base: u64, entries: u64) -> Legacy {
    legacy_of(base, entries, &[0, 100, 3000, 11_000])
}

/// Entries of these sizes in turn, in two terms; after a snapshot where there is a base.
fn legacy_of(base: u64, entries: u64, sizes: &[usize]) -> Legacy {
    let base = LogIndex(base);
    let snapshot = (base > LogIndex::ZERO).then(|| ReceivedSnapshot {
        index: base,
        term: Term(3),
        log_time: 40,
        digest: 41,
        configuration: Configuration::of_voters(&[member(4, 9), member(5, 9)]),
        bytes: Rc::new((0..20_000_u32).map(|at| (at % 251) as u8).collect()),
    });
    let mut log = match &snapshot {
        Some(snapshot) => Log::starting_after(base, snapshot.term, snapshot.log_time),
        None => Log::default(),
    };
    for at in 0..entries {
        let body = vec![at as u8; sizes[at as usize % sizes.len()]];
        let header = EntryHeader {
            term: Term(if at < entries / 2 { 3 } else { 5 }),
            body_len: body.len() as u32,
            body_crc32c: crc32c::crc32c(&body),
            log_time: 50 + at,
            session: at,
            ..EntryHeader::default()
        };
        log.append(header, &[&body]);
    }
    Legacy { snapshot, log, term: Term(8) }
}

type Entry = (EntryHeader, Vec<u8>);

fn entries(log: &Log) -> Vec<Entry> {
    let entry = |at: u64| {
        let mut body = Vec::new();
        log.copy_body(LogIndex(at), &mut body);
        (*log.header(LogIndex(at)).expect("held"), body)
    };
    (log.first().0..=log.last().0).map(entry).collect()
}

struct Filling {
    seeding: Seeding<Faulty>,
    disk: Faulty,
    now: u64,
}

impl Filling {
    fn new(platter: Platter, durable_writes: bool, settings: WalSettings, legacy: Legacy) -> Filling {
        let disk = Faulty::new(platter, durable_writes);
        let fresh = Fresh { id: ID, shard: ShardId(0), salt: 3 };
        // The life of the seat is the fresh one; only the addresses are this member's.
        let seeding = Seeding::new(disk.clone(), settings, fresh, (CLUSTER, member(0, 1)), legacy, Nanos(0));
        Filling { seeding, disk, now: 0 }
    }

    fn poll(&mut self) -> Poll<Result<(), SeedError>> {
        self.seeding.poll(Nanos(self.now), &mut Context::from_waker(Waker::noop()))
    }

    /// To its end, one operation every so often; `choose` says which of those under way, and looks at the disk.
    fn run(&mut self, every_ns: u64, mut choose: impl FnMut(&Faulty) -> usize) -> Result<(), SeedError> {
        self.disk.set(|faults| faults.holds = true);
        loop {
            if let Poll::Ready(result) = self.poll() {
                return result;
            }
            assert!(self.disk.in_flight() > 0, "nothing would ever wake it: {:?}", self.seeding);
            self.now += every_ns;
            let chosen = choose(&self.disk);
            self.disk.complete(chosen);
        }
    }

    /// What is left of the disk if the power is lost now, and nothing lasts that need not.
    fn platter(&self) -> Platter {
        self.disk.platter().after(|_, _| false, |_| false)
    }
}

fn found(platter: &Platter, expected: &Expected) -> Option<Box<Recovered>> {
    match recover(platter, expected).expect("its own disk") {
        Recovery::Resumed(found) => Some(found),
        Recovery::Nothing => None,
        Recovery::Untrusted(report) => panic!("not trusted: {report}"),
    }
}

/// All of it, in the name of the new cluster, with one entry more: that the one node is the only voter.
fn assert_holds(platter: &Platter, given: &Legacy) {
    let later = Expected { cluster: Some(CLUSTER), boot: EXPECTED.boot + 1, ..EXPECTED };
    let found = found(platter, &later).expect("a life");
    assert!(found.report.is_sound(), "{}", found.report);
    assert_eq!((found.id, found.cluster, found.fence), (ID, Some(CLUSTER), None));
    assert_eq!((found.log.base(), found.log.base_term()), (given.log.base(), given.log.base_term()));
    assert_eq!(found.snapshot, given.snapshot);
    let (mut held, given_entries) = (entries(&found.log), entries(&given.log));
    let (header, body) = held.pop().expect("at least the configuration");
    assert_eq!(held, given_entries);
    // Newer than whatever the old cluster's members have seen.
    let term = given.term.max(given.log.last_term()).next();
    assert_eq!((header.kind, header.term, header.log_time), (EntryKind::Config, term, given.log.newest_log_time()));
    let mut me = member(0, 1);
    me.id = ID;
    assert_eq!(Configuration::decode(&body), Some(Configuration::of_voters(&[me])));
    assert_eq!(found.hard, HardState { term, vote: None });
}

#[test]
fn a_seeded_disk_holds_exactly_what_it_was_given() {
    let buffered = WalSettings { durability: Durability::Buffered, ..SETTINGS };
    for (settings, durable_writes) in [(SETTINGS, true), (SETTINGS, false), (buffered, true), (buffered, false)] {
        for (base, entries) in [(0, 0), (0, 1), (0, 30), (20, 0), (20, 30)] {
            let given = legacy(base, entries);
            let mut filling = Filling::new(Platter::default(), durable_writes, settings, given.clone());
            assert_eq!(filling.run(MS, |_| 0), Ok(()));
            assert_holds(&filling.platter(), &given);
        }
    }
}

/// The newest term is that of the log where nothing newer was heard of.
#[test]
fn the_new_cluster_begins_in_a_term_that_the_old_one_never_had() {
    for term in [Term(0), Term(5), Term(6)] {
        let given = Legacy { term, ..legacy(0, 4) };
        let mut filling = Filling::new(Platter::default(), true, SETTINGS, given.clone());
        assert_eq!(filling.run(MS, |_| 0), Ok(()));
        assert_holds(&filling.platter(), &given);
    }
}

/// A file that is made last of all, a device that stalls at each operation and a log that seals itself between two of them.
#[test]
fn however_slow_the_disk_and_in_whatever_order_it_is_filled() {
    for order in 0..20 {
        let mut dice = Dice(order);
        let given = legacy(20 * (order % 2), 30);
        let mut filling = Filling::new(Platter::default(), order % 3 > 0, SEALS, given.clone());
        let chosen = |disk: &Faulty| match order {
            0 | 1 => disk.in_flight() - 1,
            _ => dice.below(disk.in_flight()),
        };
        assert_eq!(filling.run(300 * MS, chosen), Ok(()), "order {order}");
        assert_holds(&filling.platter(), &given);
    }
}

/// Five records of three blocks fill a file of sixteen all but one: while the next file is made, there is room, but not enough.
#[test]
fn an_entry_that_does_not_fit_into_the_rest_of_a_file_waits_for_the_next() {
    let given = legacy_of(0, 20, &[11_000]);
    let mut filling = Filling::new(Platter::default(), true, SETTINGS, given.clone());
    assert_eq!(filling.run(MS, |disk| disk.in_flight() - 1), Ok(()));
    assert_holds(&filling.platter(), &given);
}

/// Each in a block of its own, they would not fit.
#[test]
fn small_entries_share_what_there_is_of_room() {
    let given = legacy_of(0, 1000, &[100]);
    assert!(1000 * 4096 > SETTINGS.files_max as u64 * SETTINGS.file_bytes);
    let mut filling = Filling::new(Platter::default(), true, SETTINGS, given.clone());
    assert_eq!(filling.run(MS, |_| 0), Ok(()));
    assert_holds(&filling.platter(), &given);
}

/// The entry that lets the node lead is the last: what was not filled to its end is of no use, and does no harm.
#[test]
fn a_crash_meanwhile_leaves_a_part_and_nothing_else() {
    let given = legacy(20, 12);
    let mut filling = Filling::new(Platter::default(), true, SETTINGS, given.clone());
    assert_eq!(filling.run(MS, |_| 0), Ok(()));
    let all = entries(&found(&filling.platter(), &EXPECTED).expect("a life").log);
    let mut dice = Dice(1);
    let mut parts = 0;
    let mut filling = Filling::new(Platter::default(), false, SETTINGS, given.clone());
    let look = |disk: &Faulty| {
        for bits in [0, dice.below(usize::MAX), usize::MAX] {
            let platter =
                disk.platter().after(|at, _| bits >> (at % 32) & 1 == 1, |at| bits >> (32 + at % 32) & 1 == 1);
            let Some(found) = found(&platter, &EXPECTED) else { continue };
            let held = entries(&found.log);
            parts += usize::from(!held.is_empty() && held.len() < all.len());
            match &found.snapshot {
                Some(_) => assert_eq!((&found.snapshot, &held[..]), (&given.snapshot, &all[..held.len()])),
                None => assert_eq!(held, []),
            }
        }
        0
    };
    assert_eq!(filling.run(MS, look), Ok(()));
    assert!(parts > 10, "{parts}");
}

#[test]
fn a_disk_that_fails_at_any_moment_is_not_seeded() {
    let mut whole = Filling::new(Platter::default(), false, SETTINGS, legacy(20, 12));
    assert_eq!(whole.run(MS, |_| 0), Ok(()));
    for failing_from in 0..whole.disk.events() {
        let mut filling = Filling::new(Platter::default(), false, SETTINGS, legacy(20, 12));
        let fail = |disk: &Faulty| {
            let fails = disk.events() >= failing_from;
            disk.set(|faults| faults.eio = fails);
            0
        };
        assert_eq!(filling.run(MS, fail), Err(SeedError::Failed), "from event {failing_from} on");
    }
}

/// Whatever it was that still found room.
#[test]
fn a_disk_without_room_is_said_to_be_full() {
    for last in ["superblock", "log-00000000", "log-00000001", "snapshot-"] {
        let mut filling = Filling::new(Platter::default(), true, SETTINGS, legacy(20, 30));
        let fill = |disk: &Faulty| {
            let is_made = disk.platter().as_seen().names().iter().any(|name| name.starts_with(last));
            disk.set(|faults| faults.no_space |= is_made);
            0
        };
        assert_eq!(filling.run(MS, fill), Err(SeedError::Full), "no room after {last}");
    }
}

/// Its own limit, not the disk's.
#[test]
fn data_for_more_files_than_a_log_may_have_is_refused() {
    let mut filling = Filling::new(Platter::default(), true, SETTINGS, legacy(0, 400));
    assert_eq!(filling.run(MS, |_| 0), Err(SeedError::Full));
}

/// Whoever calls has looked whether it is empty; still no file of a log is written over.
#[test]
fn a_directory_that_holds_a_log_is_not_seeded() {
    let mut journal = Journal::new(SETTINGS, true);
    journal.vote(2, 1);
    journal.append(100);
    journal.settle();
    let old = journal.disk.platter().after(|_, _| false, |_| true);
    let mut filling = Filling::new(old.clone(), true, SETTINGS, legacy(20, 12));
    assert_eq!(filling.run(MS, |_| 0), Err(SeedError::Failed));
    let now = filling.disk.platter().after(|_, _| true, |_| true);
    for name in old.names().iter().filter(|name| name.starts_with("log-")) {
        assert_eq!(now.file(name), old.file(name), "{name}");
    }
}
