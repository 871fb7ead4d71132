//! The log on a disk, and what becomes of it: crashes, rot, and devices that fail, stall or fill.

use crate::harness::device::{Faulty, Platter};
use crate::harness::journal::{self, Dice, EXPECTED, ID, Journal, Known, SETTINGS, assert_is_one_of, recovered};
use trimaran_raft::wal::{Durability, Expected, Map, Recovery, Wal, WalError, WalSettings, identify, recover};
use trimaran_raft::{ClusterId, Completion, LogIndex, Nanos, Sabotage, ShardId, Slot, Storage, Term};

const BLOCK: usize = 4096;

/// So many records of one entry each, acknowledged.
fn journal(records: usize) -> Journal {
    let mut journal = Journal::new(SETTINGS, true);
    journal.vote(2, 1);
    journal.settle();
    for _ in 0..records {
        journal.append(100);
        journal.flush();
        journal.settle();
    }
    assert_eq!(journal.last_acknowledged(), records);
    journal
}

fn log_files(platter: &Platter) -> Vec<String> {
    platter.names().into_iter().filter(|name| name.starts_with("log-")).collect()
}

/// The block of the record that was written as number `at`, from 0 on; the first holds the vote alone.
fn rot(platter: &mut Platter, at: usize) {
    let file = log_files(platter)[0].clone();
    platter.file_mut(&file)[at * BLOCK + 200] ^= 1;
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let journal = journal(5);
    let found = recovered(&journal.disk.platter().after(|_, _| false, |_| false), Sabotage::NONE).expect("sound");
    assert_is_one_of(found.as_deref(), &journal.states, journal.acknowledged, "a crash at rest");
    assert!(found.expect("a life").report.is_sound());
}

#[test]
fn a_torn_tail_is_cut() {
    let mut journal = journal(5);
    journal.disk.set(|faults| faults.holds = true);
    journal.append(9000);
    journal.flush();
    let platter = journal.disk.platter().after(|_, sector| sector != 7, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    assert_eq!((found.log.last(), found.fence), (LogIndex(5), None));
    assert!(found.report.is_sound(), "{}", found.report);
}

#[test]
fn overlapping_writes_count_without_a_gap_only() {
    let mut journal = journal(2);
    journal.disk.set(|faults| faults.holds = true);
    for _ in 0..3 {
        journal.append(100);
        journal.flush();
    }
    assert_eq!(journal.disk.in_flight(), 3, "they overlap");
    assert_eq!(journal.wal.counters().under_way, 3);
    journal.disk.complete(2);
    journal.disk.complete(1);
    journal.poll();
    assert_eq!(journal.last_acknowledged(), 2, "the first is still under way");
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    assert_eq!((found.log.last(), found.report.cut_records), (LogIndex(2), 2));
    journal.disk.complete(0);
    journal.poll();
    assert_eq!(journal.last_acknowledged(), 5);
}

/// The life after a cut writes records of its own; those that were cut do not come back.
#[test]
fn what_an_earlier_start_has_cut_stays_cut() {
    let mut first = journal(2);
    first.disk.set(|faults| faults.holds = true);
    (0..3).for_each(|_| {
        first.append(100);
        first.flush();
    });
    first.disk.complete(2);
    let platter = first.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    let model = first.states[first.acknowledged].clone();
    let mut second = Journal::resume(Faulty::new(platter, true), SETTINGS, found, model);
    second.settle();
    second.vote(9, 2);
    second.append(300);
    second.settle();
    let platter = second.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound");
    assert_is_one_of(found.as_deref(), &second.states, second.acknowledged, "the third life");
    assert_eq!(found.expect("a life").hard.term, Term(9));
}

#[test]
fn a_bit_flip_in_the_middle_is_never_cut() {
    let journal = journal(6);
    let mut platter = journal.disk.platter();
    rot(&mut platter, 3);
    let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!(found.log.last(), LogIndex(2), "what comes before it is used");
    assert_eq!(found.fence, Some((Term(2), LogIndex(6))), "what comes after it is not denied");
    assert_eq!((found.report.damaged_records, found.report.is_sound()), (1, false));
    assert!(found.report.to_string().contains("entries 3 to 6"), "{}", found.report);
    assert_eq!(found.hard, journal.hard);
}

/// Rot of the newest record looks like a torn tail, until a log that has nothing to write has said its end once more.
#[test]
fn rot_of_the_newest_record_is_noticed_once_it_is_sealed() {
    let settings = WalSettings { seal: std::time::Duration::from_millis(250), ..SETTINGS };
    let mut journal = Journal::new(settings, true);
    journal.vote(2, 1);
    journal.settle();
    for _ in 0..5 {
        journal.append(100);
        journal.flush();
        journal.settle();
    }
    let rotten = |journal: &Journal| {
        let mut platter = journal.disk.platter();
        rot(&mut platter, 5);
        recovered(&platter, Sabotage::NONE).expect("readable").expect("a life")
    };
    let found = rotten(&journal);
    assert_eq!((found.log.last(), found.fence), (LogIndex(4), None));
    let before = journal.wal.counters().records;
    for _ in 0..4 {
        journal.tick(250_000_000);
        journal.settle();
    }
    assert_eq!(journal.wal.counters().records, before + 1, "once");
    let found = rotten(&journal);
    assert_eq!((found.log.last(), found.fence), (LogIndex(4), Some((Term(2), LogIndex(5)))));
    assert_eq!(found.hard, journal.hard);
}

/// Those who damage a disk on purpose are told what will be noticed, even if the records that were under way are lost as well.
#[test]
fn the_map_knows_which_losses_are_noticed() {
    for records in 1..12_u64 {
        let mut journal = Journal::new(SETTINGS, true);
        journal.vote(2, 1);
        for _ in 0..records {
            journal.append(100);
            journal.settle();
        }
        let map = Map::of(&journal.disk.platter()).expect("readable");
        assert_eq!(map.records.len() as u64, records);
        let noticed = map.noticed_up_to(SETTINGS.window);
        for lost in 1..=records {
            let mut platter = journal.disk.platter();
            let under_way = records.saturating_sub(SETTINGS.window as u64);
            for record in map.records.iter().filter(|record| record.sequence == lost || record.sequence > under_way) {
                platter.file_mut(&record.name)[record.offset as usize] ^= 1;
            }
            let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
            assert_eq!(found.fence.is_some(), lost <= noticed, "{lost} of {records}\n{}", found.report);
        }
    }
}

/// The fence is on the disk as long as the log does not reach as far again, whatever is written meanwhile.
#[test]
fn damage_is_remembered_until_it_is_mended() {
    let journal = journal(6);
    let mut platter = journal.disk.platter();
    rot(&mut platter, 3);
    let mut model = journal.model.clone();
    model.entries.truncate(2);
    for entries in 1..=4 {
        let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
        let mut next = Journal::resume(Faulty::new(platter, true), SETTINGS, found, model.clone());
        next.settle();
        next.append(50);
        next.settle();
        model = next.model.clone();
        platter = next.disk.platter();
        let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
        let fence = (entries < 4).then_some((Term(2), LogIndex(6)));
        assert_eq!((found.log.last(), found.fence), (LogIndex(2 + entries), fence), "{}", found.report);
    }
}

#[test]
fn a_snapshot_does_not_hide_a_hole() {
    journal::hidden_hole(Sabotage::NONE);
}

#[test]
fn a_misdirected_write_is_found_out() {
    let mut journal = journal(3);
    journal.disk.set(|faults| faults.misdirects = true);
    journal.append(100);
    journal.settle();
    journal.disk.set(|faults| faults.misdirects = false);
    journal.append(100);
    journal.append(100);
    journal.settle();
    journal.append(100);
    journal.settle();
    let found = recovered(&journal.disk.platter(), Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!((found.log.last(), found.fence), (LogIndex(3), Some((Term(2), LogIndex(7)))), "{}", found.report);
}

#[test]
fn a_failed_write_ends_acknowledgements() {
    let mut journal = journal(3);
    journal.disk.set(|faults| faults.eio = true);
    journal.append(100);
    journal.settle();
    assert!(journal.failed);
    journal.disk.set(|faults| faults.eio = false);
    journal.append(100);
    journal.settle();
    assert_eq!(journal.last_acknowledged(), 3, "nothing is tried again");
    assert_eq!(journal.completions.iter().filter(|done| **done == Completion::Failed).count(), 1);
}

#[test]
fn a_failed_sync_ends_acknowledgements() {
    let mut journal = Journal::new(SETTINGS, false);
    journal.vote(2, 1);
    journal.settle();
    journal.append(100);
    journal.disk.set(|faults| faults.holds = true);
    journal.flush();
    journal.disk.complete(0);
    journal.poll();
    assert_eq!(journal.last_acknowledged(), 0, "written, not synced");
    journal.disk.set(|faults| faults.eio = true);
    journal.settle();
    assert!(journal.failed && journal.last_acknowledged() == 0);
}

#[test]
fn a_device_that_stalls_is_noticed_and_may_come_back() {
    let mut journal = journal(1);
    journal.disk.set(|faults| faults.holds = true);
    journal.append(100);
    journal.flush();
    let due = journal.wal.next_deadline();
    journal.tick(SETTINGS.stall.as_nanos() as u64 - 1);
    journal.poll();
    assert!(!journal.stalled);
    journal.tick(1);
    journal.poll();
    assert!(journal.stalled && due <= Nanos(journal.now));
    journal.settle();
    assert!(!journal.stalled && journal.last_acknowledged() == 2);
}

/// What was begun before it was known is taken, and so is what moves the group on; and all goes on once there is room.
#[test]
fn a_full_disk_keeps_a_reserve_and_recovers() {
    let mut journal = journal(1);
    journal.disk.set(|faults| faults.no_space = true);
    for _ in 0..40 {
        journal.append(100);
        journal.settle();
        if journal.full {
            break;
        }
    }
    assert!(journal.full && !journal.failed);
    let before = journal.last_acknowledged();
    for _ in 0..3 {
        journal.append(64);
        journal.settle();
    }
    assert_eq!(journal.last_acknowledged(), before + 3, "the reserve");
    for _ in 0..60 {
        journal.append(100);
        journal.settle();
    }
    assert!(journal.last_acknowledged() < before + 63 && !journal.failed, "it ends");
    journal.disk.set(|faults| faults.no_space = false);
    journal.tick(SETTINGS.retry.as_nanos() as u64);
    journal.settle();
    assert!(!journal.full);
    assert_eq!(journal.last_acknowledged(), before + 63);
}

/// A sync that lies loses what it promised; then less is there than was acknowledged, and a witness knows.
#[test]
fn a_lost_sync_is_found_out_by_the_witness() {
    let mut journal = Journal::new(SETTINGS, false);
    let told = std::rc::Rc::new(std::cell::Cell::new(0));
    let witness = std::rc::Rc::clone(&told);
    journal.wal.set_witness(move |sequence| witness.set(sequence));
    journal.vote(2, 1);
    journal.settle();
    journal.disk.set(|faults| faults.lies = true);
    journal.append(100);
    journal.settle();
    assert_eq!(journal.last_acknowledged(), 1);
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let expected = Expected { witness: Some(told.get()), ..EXPECTED };
    assert!(matches!(recover(&platter, &expected), Err(WalError::RolledBack { reached: 1, witness: 2 })));
}

#[test]
fn a_disk_of_somebody_else_is_refused() {
    let journal = journal(2);
    let platter = journal.disk.platter();
    let refused = |expected: Expected| recover(&platter, &expected).expect_err("somebody else's");
    let other = ClusterId(9);
    assert!(matches!(refused(Expected { cluster: Some(other), ..EXPECTED }), WalError::AnotherCluster { .. }));
    assert!(matches!(refused(Expected { slot: Slot(2), ..EXPECTED }), WalError::AnotherSlot { .. }));
    assert!(matches!(refused(Expected { shard: ShardId(1), ..EXPECTED }), WalError::AnotherShard { .. }));
    assert!(recover(&platter, &Expected { cluster: Some(crate::harness::CLUSTER), ..EXPECTED }).is_ok());
}

/// The copies are written in turn, so whichever is lost, the other says whose disk it is.
#[test]
fn either_copy_of_the_superblock_names_the_cluster() {
    let mut journal = journal(2);
    journal.wal.close();
    journal.settle();
    let whole = identify(&journal.disk.platter()).expect("readable").expect("a superblock");
    assert_eq!((whole.id, whole.cluster, whole.clean), (ID, Some(crate::harness::CLUSTER), true));
    for copy in 0..2 {
        let mut platter = journal.disk.platter();
        platter.file_mut("superblock")[copy * BLOCK + 50] ^= 1;
        let other = identify(&platter).expect("readable").expect("a superblock");
        assert_eq!(trimaran_raft::wal::Identity { clean: true, ..other }, whole, "without copy {copy}");
    }
}

#[test]
fn another_format_is_refused() {
    let journal = journal(2);
    for format in [0_u32, 2] {
        let mut platter = journal.disk.platter();
        for copy in platter.file_mut("superblock").chunks_mut(BLOCK) {
            copy[16..20].copy_from_slice(&format.to_le_bytes());
            let hash = xxhash(&copy[8..]);
            copy[..8].copy_from_slice(&hash.to_le_bytes());
        }
        let error = recover(&platter, &EXPECTED).expect_err("of another format");
        assert!(matches!(error, WalError::Format { found, known: 1 } if found == format));
        assert!(error.to_string().contains("this build reads format 1 only"));
    }
}

fn xxhash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

#[test]
fn a_superblock_survives_one_copy_and_not_two() {
    let journal = journal(2);
    let mut platter = journal.disk.platter();
    platter.file_mut("superblock")[BLOCK + 50] ^= 1;
    assert!(recovered(&platter, Sabotage::NONE).expect("the other copy").is_some());
    platter.file_mut("superblock")[50] ^= 1;
    assert_eq!(recovered(&platter, Sabotage::NONE).err(), Some(WalError::SuperblockDamaged));
    platter.remove_file("superblock");
    assert!(matches!(recovered(&platter, Sabotage::NONE), Err(WalError::NoSuperblock { .. })));
}

/// Files are used again, so the disk stays the same size, and a restart replays what came after the snapshot.
#[test]
fn a_log_stays_short() {
    let mut journal = journal(1);
    for _ in 0..300 {
        journal.append(1000);
        journal.settle();
        journal.committed = LogIndex(journal.last_acknowledged() as u64);
        if journal.wal.wants_snapshot(journal.committed, false) {
            journal.save(20_000);
            journal.settle();
        }
    }
    assert!(!journal.full && journal.saved > LogIndex(250));
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    assert!(log_files(&platter).len() <= SETTINGS.files_max);
    assert!(platter.names().iter().filter(|name| name.starts_with("snapshot-")).count() <= 2);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    assert!(found.report.is_sound() && found.log.bytes() < 40_000, "{}", found.report);
    assert_eq!(found.log.last(), LogIndex(301));
}

/// Terms and votes fill files of their own while nobody can commit: they must not keep out the entries by which somebody could,
/// neither in this life nor in the next. Once there is a snapshot, these files are used again.
#[test]
fn terms_alone_never_fill_a_log() {
    let mut journal = journal(3);
    let elections = SETTINGS.files_max * 3 * (SETTINGS.file_bytes as usize / BLOCK);
    for term in 0..elections {
        journal.vote(3 + term as u64, 1);
        journal.settle();
    }
    assert!(!journal.full && !journal.failed);
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let files = log_files(&platter).len();
    assert!(files > SETTINGS.files_max, "{files} files");
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    let model = journal.states.last().expect("a state").clone();
    let mut journal = Journal::resume(Faulty::new(platter, true), SETTINGS, found, model);
    journal.append(100);
    journal.settle();
    assert!(!journal.full && !journal.failed);
    journal.committed = LogIndex(4);
    journal.save(1000);
    journal.settle();
    for term in 0..elections {
        journal.vote(1_000_000 + term as u64, 1);
        journal.settle();
        if term % 40 == 0 {
            journal.append(100);
            journal.settle();
            journal.committed = LogIndex(journal.last_acknowledged() as u64);
            journal.save(1000);
            journal.settle();
        }
    }
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    assert!(log_files(&platter).len() <= files + 1, "what was free is used again");
}

#[test]
fn rot_in_the_snapshot_is_damage_and_not_an_empty_log() {
    let mut journal = journal(10);
    journal.committed = LogIndex(9);
    journal.save(5000);
    journal.settle();
    for _ in 0..40 {
        journal.append(1000);
        journal.settle();
    }
    let mut platter = journal.disk.platter().after(|_, _| false, |_| true);
    let name = platter.names().into_iter().find(|name| name.starts_with("snapshot-")).expect("saved");
    platter.file_mut(&name)[BLOCK + 3] ^= 1;
    // The first file has been used again by then.
    let file = log_files(&platter)[0].clone();
    platter.file_mut(&file).fill(0);
    let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!((found.report.broken_snapshots, found.log.last()), (1, LogIndex::ZERO));
    assert_eq!(found.fence, Some((Term(2), LogIndex(50))), "{}", found.report);
}

/// By its name it is known how far the log had come, though nothing else says so: what a snapshot covers is written over.
#[test]
fn a_broken_snapshot_is_damage_though_nothing_follows_it() {
    let mut journal = journal(5);
    journal.committed = LogIndex(4);
    journal.save(5000);
    journal.settle();
    for _ in 0..5 {
        journal.append(100);
        journal.settle();
    }
    journal.committed = LogIndex(10);
    journal.save(6000);
    journal.settle();
    let mut platter = journal.disk.platter();
    let file = log_files(&platter)[0].clone();
    platter.file_mut(&file)[6 * BLOCK..].fill(0);
    let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!((found.log.last(), found.fence), (LogIndex(10), None), "the snapshot has it all");
    let name = platter.names().into_iter().rfind(|name| name.starts_with("snapshot-")).expect("saved");
    platter.file_mut(&name)[BLOCK + 3] ^= 1;
    let found = recovered(&platter, Sabotage::NONE).expect("readable").expect("a life");
    assert_eq!((found.report.broken_snapshots, found.log.last()), (1, LogIndex(5)), "{}", found.report);
    assert_eq!(found.fence, Some((Term(2), LogIndex(10))), "{}", found.report);
}

fn buffered() -> (Journal, WalSettings) {
    buffered_in(SETTINGS.boot)
}

/// In this run of the machine.
fn buffered_in(boot: u128) -> (Journal, WalSettings) {
    let settings = WalSettings { durability: Durability::Buffered, boot, ..SETTINGS };
    let mut journal = Journal::new(settings, false);
    journal.wal.set_witness(|_| {});
    journal.vote(2, 1);
    journal.settle();
    for _ in 0..3 {
        journal.append(100);
        journal.settle();
    }
    (journal, settings)
}

#[test]
fn a_buffered_log_survives_the_end_of_the_process() {
    let (journal, _) = buffered();
    assert_eq!(journal.last_acknowledged(), 3);
    let seen = journal.disk.platter().as_seen();
    let expected = Expected { witness: Some(4), ..EXPECTED };
    let Ok(Recovery::Resumed(found)) = recover(&seen, &expected) else { panic!("to be resumed") };
    assert_is_one_of(Some(&found), &journal.states, journal.acknowledged, "a process that ended");
    assert!(matches!(recover(&seen, &EXPECTED), Ok(Recovery::Untrusted(_))), "without the witness");
    assert!(matches!(recover(&seen, &Expected { witness: Some(5), ..EXPECTED }), Ok(Recovery::Untrusted(_))));
}

/// What the kernel had may be gone, whatever is known of the records by their numbers.
#[test]
fn a_buffered_log_is_not_resumed_in_another_run_of_the_machine() {
    let witness = Some(4);
    let (journal, _) = buffered();
    let seen = journal.disk.platter().as_seen();
    assert!(matches!(recover(&seen, &Expected { witness, ..EXPECTED }), Ok(Recovery::Resumed(_))));
    assert!(matches!(recover(&seen, &Expected { witness, boot: 6, ..EXPECTED }), Ok(Recovery::Untrusted(_))));
    let (journal, _) = buffered_in(0);
    let seen = journal.disk.platter().as_seen();
    let unknown = Expected { witness, boot: 0, ..EXPECTED };
    assert!(matches!(recover(&seen, &unknown), Ok(Recovery::Untrusted(_))), "nobody knows which run it was");
}

#[test]
fn a_buffered_log_ends_its_life_with_the_power_unless_it_was_closed() {
    let (mut journal, settings) = buffered();
    let later = Expected { boot: 6, ..EXPECTED };
    journal.tick(settings.sync_every.as_nanos() as u64);
    journal.settle();
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    assert!(matches!(recover(&platter, &later), Ok(Recovery::Untrusted(_))));
    journal.wal.close();
    journal.settle();
    assert!(journal.wal.is_closed() && journal.wal.room_bytes() == 0);
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let Ok(Recovery::Resumed(found)) = recover(&platter, &later) else { panic!("closed, so to be resumed") };
    assert_is_one_of(Some(&found), &journal.states, journal.acknowledged, "a closed log");
    // The next life takes the flag back before it takes anything else.
    let mut next = Journal::resume(Faulty::new(platter, false), settings, found, journal.model.clone());
    next.disk.set(|faults| faults.holds = true);
    while next.wal.room_bytes() == 0 {
        assert!(next.disk.in_flight() > 0);
        next.disk.complete(0);
        next.poll();
    }
    let platter = next.disk.platter().after(|_, _| false, |_| true);
    assert!(matches!(recover(&platter, &Expected { boot: 7, ..EXPECTED }), Ok(Recovery::Untrusted(_))));
}

/// A log that says it was closed is believed whatever the power did since: it must not say so a moment too soon.
#[test]
fn a_buffered_log_says_that_it_is_closed_only_once_all_is_on_the_device() {
    let later = Expected { boot: 6, ..EXPECTED };
    // The oldest operation completes first, the newest, or any.
    for order in 0..20 {
        let mut dice = Dice(order);
        let (mut journal, _) = buffered();
        journal.disk.set(|faults| faults.holds = true);
        journal.append(100);
        journal.flush();
        journal.wal.close();
        while !journal.wal.is_closed() {
            let in_flight = journal.disk.in_flight();
            journal.disk.complete(match order {
                0 => 0,
                1 => in_flight - 1,
                _ => dice.below(in_flight),
            });
            journal.poll();
            let platter = journal.disk.platter().after(|_, _| false, |_| true);
            if let Recovery::Resumed(found) = recover(&platter, &later).expect("its own disk") {
                assert_is_one_of(Some(&found), &journal.states, journal.acknowledged, "closed");
            }
        }
        let platter = journal.disk.platter().after(|_, _| false, |_| true);
        assert!(matches!(recover(&platter, &later), Ok(Recovery::Resumed(found)) if found.log.last() == LogIndex(4)));
    }
}

/// Another life in the same directory: what the earlier one wrote means nothing any more.
#[test]
fn a_new_life_in_an_old_directory_begins_with_nothing() {
    let old = journal(3);
    let platter = old.disk.platter().after(|_, _| false, |_| true);
    let left = trimaran_raft::device::Directory::list(&platter).expect("readable");
    let disk = Faulty::new(platter, true);
    let fresh = trimaran_raft::wal::Fresh { id: ID, shard: ShardId(0), salt: 0xdead };
    let wal = Wal::create(disk.clone(), SETTINGS, fresh, &left, Nanos(0));
    drop(wal);
    assert_eq!(disk.in_flight(), 1);
    let mut journal = Journal::new(SETTINGS, true);
    journal.disk = disk.clone();
    journal.wal = Wal::create(disk, SETTINGS, fresh, &left, Nanos(0));
    journal.settle();
    let platter = journal.disk.platter().after(|_, _| false, |_| true);
    let found = recovered(&platter, Sabotage::NONE).expect("sound").expect("a life");
    assert_eq!((found.log.last(), found.cluster, found.fence), (LogIndex::ZERO, None, None), "{}", found.report);
    journal.append(10);
    journal.settle();
    assert_eq!(journal.states.last().map(|known: &Known| known.entries.len()), Some(1));
    assert_eq!(journal.last_acknowledged(), 1);
}
