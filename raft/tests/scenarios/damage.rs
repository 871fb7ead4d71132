//! What a replica does whose disk has lost something, or has no room: in a group.

use crate::harness::{Cluster, MS};
use trimaran_raft::{Accepted, EntryKind, Error, Input, LogIndex, Proposal, Refused, Role, Term};

/// Three nodes, five entries on all; then node 2 starts again and has only the first two left.
fn damaged() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    for at in 0..4 {
        cluster.propose(0, &[at]).expect("leads");
    }
    cluster.settle();
    cluster.run_for(50 * MS);
    let (term, last) = (cluster.log(2).last_term(), cluster.log(2).last());
    cluster.crash(2);
    cluster.nodes[2].disk.lose_after(LogIndex(2));
    cluster.restart(2);
    cluster.nodes[2].machine.remember_damage(term, last);
    assert_eq!((cluster.log(2).last(), cluster.machine(2).damage()), (LogIndex(2), Some((term, last))));
    cluster
}

/// It was the one that had acknowledged: without its vote a log that lacks the entries does not win, and it does not win itself.
#[test]
fn a_node_with_damage_gives_no_vote_to_a_log_without_what_it_lost() {
    let mut cluster = damaged();
    // The others: one that has everything and is cut off, and one that has forgotten as much.
    cluster.crash(0);
    cluster.crash(1);
    cluster.nodes[1].disk.lose_after(LogIndex(2));
    cluster.restart(1);
    cluster.run_for(3000 * MS);
    assert!(
        (1..3).all(|index| cluster.machine(index).role() != Role::Leader),
        "entries that were committed would be lost"
    );
    cluster.restart(0);
    let leader = cluster.run_to_leader(3000 * MS);
    assert_eq!(leader, 0);
    cluster.run_for(300 * MS);
    assert!((0..3).all(|index| cluster.log(index).last() == cluster.log(0).last()));
    assert_eq!(cluster.machine(2).damage(), None);
}

#[test]
fn damage_is_mended_by_the_leader() {
    let mut cluster = damaged();
    cluster.run_for(500 * MS);
    assert_eq!(cluster.machine(2).damage(), None);
    assert_eq!(cluster.terms(2), cluster.terms(0));
    // It can lead again.
    cluster.crash(0);
    cluster.run_for(500 * MS);
    cluster.elect(2);
}

#[test]
fn a_leader_with_a_full_disk_refuses_and_recovers() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let index = cluster.propose(0, b"one").expect("leads");
    cluster.step(0, Input::StorageFull(true)).expect("an input that is never refused");
    assert_eq!(cluster.propose(0, b"two"), Err(Error::StorageFull));
    let tick = Proposal { kind: EntryKind::Tick, ..Proposal::default() };
    assert!(matches!(cluster.step(0, Input::Propose(&tick)), Ok(Accepted::Appended(_))), "what is reserved passes");
    cluster.settle();
    assert!(cluster.machine(0).commit() > index);
    assert!(matches!(cluster.step(0, Input::Read), Ok(Accepted::Read(_))), "reads go on");
    cluster.step(0, Input::StorageFull(false)).expect("an input that is never refused");
    assert!(cluster.propose(0, b"two").is_ok());
}

#[test]
fn a_follower_with_a_full_disk_takes_what_moves_the_group_on() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.isolate(&[1]);
    cluster.step(2, Input::StorageFull(true)).expect("an input that is never refused");
    cluster.settle();
    let last = cluster.log(2).last();
    let _ = cluster.propose(0, b"one").expect("leads");
    cluster.run_for(60 * MS);
    assert_eq!(cluster.log(2).last(), last, "no room for it");
    cluster.step(2, Input::StorageFull(false)).expect("an input that is never refused");
    cluster.run_for(60 * MS);
    assert_eq!(cluster.log(2).last(), cluster.log(0).last());
    assert_eq!(cluster.machine(0).commit(), cluster.log(0).last());
}

/// While the device takes nothing, nothing is written; then all that came up meanwhile is one write.
#[test]
fn what_comes_up_while_the_device_is_busy_is_one_write() {
    let mut cluster = Cluster::new(1);
    cluster.elect(0);
    cluster.step(0, Input::StorageRoom(0)).expect("an input that is never refused");
    cluster.nodes[0].disk.holds = true;
    for at in 0..10 {
        cluster.propose(0, &[at]).expect("leads");
    }
    assert_eq!(cluster.nodes[0].disk.unfinished(), 0);
    cluster.step(0, Input::StorageRoom(1 << 20)).expect("an input that is never refused");
    assert_eq!(cluster.nodes[0].disk.unfinished(), 1);
    // A smaller one takes what fits.
    for at in 0..10 {
        cluster.step_only(0, Input::Propose(&Proposal { body: &[&[at]], ..Proposal::default() })).expect("leads");
    }
    cluster.step(0, Input::StorageRoom(300)).expect("an input that is never refused");
    assert_eq!(cluster.nodes[0].disk.unfinished(), 4, "4, 4 and 2 entries");
    assert!(matches!(cluster.step(0, Input::Transfer(None)), Err(Refused::Request(Error::NobodyToLead))));
    cluster.complete(0, true);
    assert_eq!((cluster.machine(0).commit(), cluster.machine(0).term()), (cluster.log(0).last(), Term(2)));
}
