//! What a log does by itself, or at a time of its own: its files, its snapshots, tries for which there was no room, and seals.

use crate::harness::MS;
use crate::harness::device::Faulty;
use crate::harness::journal::{Journal, SETTINGS, recovered};
use std::time::Duration;
use trimaran_raft::wal::WalSettings;
use trimaran_raft::{LogIndex, Nanos, Sabotage, Storage, Term};

const SEALS: WalSettings = WalSettings { seal: Duration::from_millis(250), ..SETTINGS };
const SEAL_NS: u64 = 250 * MS;

fn voted(settings: WalSettings) -> Journal {
    let mut journal = Journal::new(settings, true);
    journal.vote(2, 1);
    journal.settle();
    journal
}

/// So many records of one entry each, of one block each.
fn append(journal: &mut Journal, records: usize) {
    for _ in 0..records {
        journal.append(100);
        journal.settle();
    }
}

/// Files in which anything was ever written.
fn written_files(journal: &Journal) -> usize {
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let logs = platter.names().into_iter().filter(|name| name.starts_with("log-"));
    logs.filter(|name| platter.file(name).iter().any(|byte| *byte != 0)).count()
}

#[test]
fn a_file_is_filled_before_the_next_is_begun() {
    let mut journal = voted(SETTINGS);
    append(&mut journal, SETTINGS.file_bytes as usize / 4096 - 1);
    assert_eq!(written_files(&journal), 1);
    append(&mut journal, 1);
    assert_eq!(written_files(&journal), 2);
}

/// Early enough that there is room while it is taken, however few bytes were written.
#[test]
fn a_snapshot_is_wanted_once_more_than_half_of_the_files_are_in_use() {
    let settings = WalSettings { snapshot_every_bytes: u64::MAX, ..SETTINGS };
    let mut journal = voted(settings);
    assert!(!journal.wal.wants_snapshot(LogIndex(1), false), "nothing is in use");
    let mut last = LogIndex::ZERO;
    for _ in 0..60 {
        append(&mut journal, 1);
        last = LogIndex(journal.last_acknowledged() as u64);
        let used = written_files(&journal);
        assert_eq!(journal.wal.wants_snapshot(last, false), used > settings.files_max / 2, "{used} files");
        assert_eq!(journal.wal.counters().file_bytes, used as u64 * settings.file_bytes);
    }
    assert!(journal.wal.wants_snapshot(last, false) && !journal.wal.wants_snapshot(LogIndex::ZERO, false));
    // One that frees next to nothing is not followed by the next at once, but when more has been written.
    journal.committed = LogIndex(1);
    journal.save(1000);
    journal.settle();
    assert!(!journal.wal.wants_snapshot(last, false));
    append(&mut journal, 1);
    last = last.next();
    assert!(journal.wal.wants_snapshot(last, false));
    journal.committed = last;
    journal.save(1000);
    journal.settle();
    append(&mut journal, 1);
    assert_eq!(journal.saved, last);
    assert!(!journal.wal.wants_snapshot(last.next(), false), "the files are free again");
    assert_eq!(journal.wal.counters().file_bytes, settings.file_bytes);
}

#[test]
fn a_log_with_all_its_files_in_use_is_full_until_a_snapshot_is_saved() {
    let mut journal = voted(SETTINGS);
    while !journal.full {
        append(&mut journal, 1);
    }
    let last = LogIndex(journal.last_acknowledged() as u64);
    for _ in 0..3 {
        journal.tick(SETTINGS.retry.as_nanos() as u64);
        journal.settle();
        assert!(journal.full && journal.wal.wants_snapshot(last, false), "only a snapshot helps");
    }
    journal.committed = last;
    journal.save(1000);
    journal.settle();
    journal.tick(SETTINGS.retry.as_nanos() as u64);
    journal.settle();
    assert!(!journal.full);
    append(&mut journal, 40);
    assert_eq!((journal.last_acknowledged() as u64, journal.full), (last.0 + 40, false));
}

#[test]
fn a_full_log_looks_for_room_when_it_is_due_and_not_before() {
    let mut journal = voted(SETTINGS);
    journal.disk.set(|faults| faults.no_space = true);
    while !journal.full {
        append(&mut journal, 1);
    }
    for _ in 0..3 {
        let (due, before) = (journal.wal.next_deadline(), journal.disk.events());
        assert_eq!(due, Nanos(journal.now).after(SETTINGS.retry.as_nanos() as u64));
        journal.tick(due.0 - journal.now - 1);
        journal.settle();
        assert_eq!(journal.disk.events(), before);
        journal.tick(1);
        journal.settle();
        assert!(journal.disk.events() > before && journal.full);
    }
}

/// Its superblock has to be there first: without one, nobody could tell whose snapshot it is.
#[test]
fn a_received_snapshot_waits_until_the_directory_is_in_order() {
    let mut journal = Journal::new(SETTINGS, true);
    journal.disk.set(|faults| faults.holds = true);
    journal.vote(2, 1);
    journal.install(3, 9000);
    while journal.saved == LogIndex::ZERO {
        // The newest first: what does not wait overtakes.
        journal.disk.complete(journal.disk.in_flight() - 1);
        journal.poll();
        for named in [false, true] {
            let platter = journal.disk.platter().after(|_, _| true, |_| named);
            recovered(&platter, Sabotage::NONE).expect("nobody's, or its own");
        }
    }
    let platter = journal.disk.platter().after(|_, _| false, |_| false);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    assert_eq!(found.snapshot.map(|snapshot| snapshot.index), Some(LogIndex(3)));
}

/// Nobody knows what such a device holds: not even a snapshot is written to it.
#[test]
fn a_failed_log_saves_nothing() {
    let mut journal = voted(WalSettings { snapshot_every_bytes: 1, ..SETTINGS });
    append(&mut journal, 3);
    assert!(journal.wal.wants_snapshot(LogIndex(3), false), "one is due");
    journal.disk.set(|faults| faults.eio = true);
    append(&mut journal, 1);
    assert!(journal.failed);
    journal.disk.set(|faults| faults.eio = false);
    let before = journal.disk.events();
    assert!(!journal.wal.wants_snapshot(LogIndex(3), false));
    journal.committed = LogIndex(3);
    journal.save(100);
    journal.settle();
    journal.install(2, 100);
    journal.settle();
    assert_eq!((journal.saved, journal.disk.events()), (LogIndex::ZERO, before));
    assert_eq!(journal.wal.next_deadline(), Nanos::FAR);
}

/// It is all there is of the log, so it is tried for ever; each try costs, so they become rare. The log says when it is to be called.
#[test]
fn a_received_snapshot_without_room_is_tried_again_at_growing_intervals() {
    let mut journal = voted(SETTINGS);
    append(&mut journal, 3);
    let begun = journal.now;
    journal.disk.set(|faults| faults.no_space = true);
    journal.install(3, 9000);
    journal.settle();
    assert!(journal.full && journal.wal.room_bytes() == 0);
    let mut tries_ms = Vec::new();
    while tries_ms.len() < 8 {
        let (due, before) = (journal.wal.next_deadline().0, journal.disk.events());
        assert!(due > journal.now, "what was due has been done");
        assert!(due < Nanos::FAR.0, "given up after {tries_ms:?}");
        journal.tick(due - journal.now);
        journal.settle();
        if journal.disk.events() > before {
            tries_ms.push((journal.now - begun) / MS);
        }
    }
    // Ten milliseconds after the first, then twice as long, up to five times.
    assert_eq!(tries_ms, [10, 30, 70, 150, 310, 630, 950, 1270]);
    assert_eq!(journal.saved, LogIndex::ZERO);
    journal.disk.set(|faults| faults.no_space = false);
    while journal.saved == LogIndex::ZERO {
        let due = journal.wal.next_deadline().0;
        journal.tick(due - journal.now);
        journal.settle();
    }
    assert_eq!(journal.saved, LogIndex(6));
    append(&mut journal, 1);
    assert_eq!((journal.last_acknowledged(), journal.full), (7, false));
}

/// Nothing is called for a time that has passed: a task that waits for it would never sleep.
#[test]
fn a_log_at_rest_wants_no_time_but_that_of_its_seal() {
    let mut journal = Journal::new(SEALS, true);
    assert_eq!(journal.wal.next_deadline(), Nanos::FAR, "nothing is written");
    journal.settle();
    assert_eq!(journal.wal.next_deadline(), Nanos::FAR);
    journal.tick(5 * MS);
    journal.vote(2, 1);
    append(&mut journal, 1);
    assert_eq!(journal.wal.next_deadline(), Nanos(5 * MS + SEAL_NS));
    journal.committed = LogIndex(1);
    journal.disk.set(|faults| faults.holds = true);
    journal.save(9000);
    assert_eq!(journal.wal.next_deadline(), Nanos(5 * MS + SEAL_NS), "a snapshot on its way wants none");
    journal.tick(SEAL_NS);
    journal.settle();
    assert_eq!((journal.wal.counters().records, journal.saved), (2, LogIndex(1)));
    assert_eq!(journal.wal.next_deadline(), Nanos::FAR, "sealed and saved");
}

#[test]
fn a_closed_log_is_not_sealed() {
    let mut journal = voted(SEALS);
    append(&mut journal, 3);
    journal.wal.close();
    journal.settle();
    assert!(journal.wal.is_closed());
    let (records, events) = (journal.wal.counters().records, journal.disk.events());
    assert_eq!(journal.wal.next_deadline(), Nanos::FAR);
    journal.tick(SEAL_NS);
    journal.settle();
    assert!(!journal.failed);
    assert_eq!((journal.wal.counters().records, journal.disk.events()), (records, events), "nothing follows");
}

/// What is left of the last file is kept for what moves the group on.
#[test]
fn a_full_log_is_not_sealed() {
    let mut journal = voted(SEALS);
    journal.disk.set(|faults| faults.no_space = true);
    while !journal.full {
        append(&mut journal, 1);
    }
    let records = journal.wal.counters().records;
    for _ in 0..30 {
        let due = journal.wal.next_deadline().0;
        assert!(due > journal.now && due < Nanos::FAR.0, "due at {due}, now {}", journal.now);
        journal.tick(due - journal.now);
        journal.settle();
    }
    assert!(journal.now > SEAL_NS && journal.full && !journal.failed);
    assert_eq!(journal.wal.counters().records, records);
}

#[test]
fn a_log_that_is_slow_to_open_is_sealed_once_it_is_open() {
    let mut first = voted(SEALS);
    append(&mut first, 5);
    let platter = first.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    let mut journal = Journal::resume(Faulty::new(platter, true), SEALS, found, first.model.clone());
    journal.disk.set(|faults| faults.holds = true);
    journal.tick(2 * SEAL_NS);
    journal.poll();
    assert!(!journal.failed && journal.wal.next_deadline() > Nanos(journal.now), "not before");
    journal.settle();
    assert_eq!(journal.wal.counters().records, 0);
    assert!(journal.wal.next_deadline() <= Nanos(journal.now), "as soon as it is open");
    journal.tick(0);
    journal.settle();
    assert_eq!(journal.wal.counters().records, 1);
    // The newest record of the life before: number 6, in the sixth block.
    let mut platter = journal.disk.platter().after(|_, _| false, |_| true);
    platter.file_mut("log-00000000")[5 * 4096 + 200] ^= 1;
    let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!((found.log.last(), found.fence), (LogIndex(4), Some((Term(2), LogIndex(5)))), "{}", found.report);
}
