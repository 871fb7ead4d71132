//! What is on a disk after its newest snapshot is bounded as memory is, so that a start finds room for what it reads back, and for what others
//! have beyond it.

use crate::harness::{Cluster, MS, member, rules, staged};
use trimaran_raft::{EntryKind, Error, Input, LogIndex, Proposal, Sabotage};

/// A directory of a larger budget, or of a build that had none for its disk: what was read back is committed all the same, and then forgotten.
#[test]
fn a_log_read_back_that_is_longer_than_the_budget_is_committed() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    (0..3).for_each(|index| cluster.nodes[index].disk.keeps_all = true);
    cluster.elect(0);
    for round in 0..400u64 {
        cluster.propose(0, &[round as u8; 500]).expect("it is forgotten in memory");
        cluster.run_for(MS);
    }
    cluster.run_for(50 * MS);
    (0..3).for_each(|index| cluster.crash(index));
    for index in 0..3 {
        cluster.restart(index);
        assert!(cluster.log(index).bytes() > 200_000, "all of it is read back");
        cluster.step(index, Input::StorageSaved(0)).expect("an input that is never refused");
    }
    let leader = cluster.run_to_leader(3000 * MS);
    cluster.run_for(200 * MS);
    for index in 0..3 {
        let (machine, log) = (cluster.machine(index), cluster.log(index));
        assert_eq!(machine.commit(), log.last());
        assert!(machine.is_short_of_saved(log) && log.bytes() < 64 << 10, "{} bytes", log.bytes());
    }
    assert_eq!(cluster.propose(leader, &[1; 500]), Err(Error::Overloaded));
    for index in 0..3 {
        let saved = cluster.log(index).offset_bytes(cluster.machine(index).applied_index());
        cluster.step(index, Input::StorageSaved(saved)).expect("an input that is never refused");
    }
    cluster.run_for(50 * MS);
    cluster.propose(leader, &[1; 500]).expect("there is room");
    cluster.settle();
    assert_eq!(cluster.machine(leader).commit(), cluster.log(leader).last());
}

/// Each snapshot costs the whole state: one is not taken for every few entries that a slow service applies.
#[test]
fn no_snapshot_is_saved_for_a_few_entries_that_were_applied() {
    let mut cluster = Cluster::with(1, |config| config.limits.log_bytes = 64 << 10);
    cluster.step(0, Input::StorageSaved(0)).expect("an input that is never refused");
    cluster.elect(0);
    cluster.nodes[0].applies = false;
    while cluster.propose(0, &[1; 500]).is_ok() {}
    let is_short = |cluster: &Cluster| cluster.machine(0).is_short_of_saved(cluster.log(0));
    let (first, last) = (cluster.machine(0).applied_index(), cluster.machine(0).commit());
    assert!(last.0 - first.0 > 90 && !is_short(&cluster), "it would free nothing");
    let (few, many) = (LogIndex(first.0 + 5), LogIndex(first.0 + 20));
    cluster.apply(0, few);
    assert!(!is_short(&cluster));
    cluster.apply(0, many);
    assert!(is_short(&cluster), "there would be room for the largest");
    let saved = cluster.log(0).offset_bytes(LogIndex(last.0 - 3));
    cluster.apply(0, last);
    cluster.step(0, Input::StorageSaved(saved)).expect("an input that is never refused");
    assert!(!is_short(&cluster));
    cluster.nodes[0].applies = true;
    while cluster.propose(0, &[1; 500]).is_ok() {}
    assert!(is_short(&cluster), "all is applied");
}

/// The ticks of a service's timers must not use up what new leaders need.
#[test]
fn ticks_end_where_the_disk_holds_as_much_as_memory_may() {
    let mut cluster = Cluster::with(1, |config| config.limits.log_bytes = 64 << 10);
    cluster.step(0, Input::StorageSaved(0)).expect("an input that is never refused");
    cluster.elect(0);
    let tick = Proposal { kind: EntryKind::Tick, ..Proposal::default() };
    let mut refused = None;
    for at in 0..2000 {
        if cluster.step(0, Input::Propose(&tick)).is_err() {
            refused.get_or_insert(at);
        }
    }
    let unsaved = cluster.machine(0).unsaved_bytes(cluster.log(0));
    // Half of the reserve, an eighth of the budget, is left.
    let most = 60 << 10;
    assert!(refused.is_some() && (most - 64..=most).contains(&unsaved), "{refused:?}: {unsaved} bytes");
    assert!(cluster.log(0).bytes() < 8 << 10, "in memory there is room");
    let saved = cluster.log(0).offset_bytes(cluster.machine(0).applied_index());
    cluster.step(0, Input::StorageSaved(saved)).expect("an input that is never refused");
    assert!(cluster.step(0, Input::Propose(&tick)).is_ok());
}

/// The log that a snapshot of this replica's was saved of has been replaced by another's snapshot in the same turn: its place means nothing
/// in the new one.
#[test]
fn a_place_in_a_log_that_was_replaced_counts_for_nothing() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    (0..3).for_each(|index| drop(cluster.step(index, Input::StorageSaved(0))));
    cluster.elect(0);
    for _ in 0..60 {
        cluster.propose(0, &[1; 500]).expect("leads");
        cluster.run_for(MS);
    }
    let at = cluster.log(2).offset_bytes(cluster.machine(2).applied_index());
    (0..2).for_each(|index| drop(cluster.step(index, Input::StorageSaved(at))));
    staged::leave_behind(&mut cluster, 2);
    let all = cluster.log(0).offset_bytes(cluster.machine(0).applied_index());
    (0..2).for_each(|index| drop(cluster.step(index, Input::StorageSaved(all))));
    cluster.heal();
    cluster.nodes[2].applies = false;
    let mut late = false;
    for _ in 0..500 {
        cluster.run_for(MS);
        if late {
            let _ = cluster.propose(0, &[1; 100]);
        } else if !cluster.nodes[2].installed.is_empty() {
            late = true;
            cluster.step(2, Input::StorageSaved(at)).expect("an input that is never refused");
        }
        let (machine, log) = (cluster.machine(2), cluster.log(2));
        assert!(!late || machine.unsaved_bytes(log) == log.bytes(), "the bound is lost");
    }
    assert!(cluster.log(2).bytes() > 1000, "entries follow");
    assert!(late, "it was given a snapshot");
}

/// A follower whose disk gives no credit has room in memory: whom the log is kept for is none of its business.
#[test]
fn a_follower_that_saves_slowly_puts_no_other_out() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 256 << 10);
    cluster.step(1, Input::StorageSaved(0)).expect("an input that is never refused");
    cluster.elect(0);
    let write = |cluster: &mut Cluster, entries: usize| {
        for _ in 0..entries {
            cluster.propose(0, &[7; 500]).expect("two of three are well");
            cluster.run_for(4 * MS);
        }
    };
    write(&mut cluster, 280);
    let from = cluster.machine(2).applied_index();
    cluster.nodes[2].applies = false;
    write(&mut cluster, 150);
    let credit =
        cluster.machine(0).peers().iter().find(|peer| peer.id() == member(1, 1).id).map(|peer| peer.credit_bytes);
    assert!(credit.is_some_and(|credit| credit < 32 << 10), "{credit:?}");
    assert!(cluster.log(0).base() <= from, "it lags by no more than it may");
}

#[test]
fn two_that_begin_again_have_room_for_what_the_other_has() {
    rules::two_that_begin_again(Sabotage::default());
}
