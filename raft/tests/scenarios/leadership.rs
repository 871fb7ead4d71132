//! Keeping leadership, losing it, and giving it up.

use crate::harness::{Cluster, MS, member, rules, staged};
use trimaran_raft::{Body, Configuration, DropReason, Error, Input, Sabotage, Term};

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.isolate(&[0]);
    cluster.run_for(90 * MS);
    assert!(cluster.machine(0).is_leader());
    cluster.run_for(120 * MS);
    assert!(!cluster.machine(0).is_leader());
    assert_eq!(cluster.propose(0, b"x"), Err(Error::NotLeader { leader: None }));
}

#[test]
fn a_leader_that_is_only_heard_steps_down() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    // Its messages arrive, no answer does.
    cluster.cut.extend([(1, 0), (2, 0)]);
    cluster.run_for(1500 * MS);
    let leader = cluster.leader().expect("another");
    assert_ne!(leader, 0);
    assert!(!cluster.machine(0).is_leader());
}

#[test]
fn a_leader_that_only_hears_is_replaced() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.cut.extend([(0, 1), (0, 2)]);
    cluster.run_for(1500 * MS);
    assert!(matches!(cluster.leader(), Some(1 | 2)));
    assert!(!cluster.machine(0).is_leader());
}

#[test]
fn a_follower_that_cannot_answer_does_not_disrupt() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let term = cluster.machine(0).term();
    cluster.cut.extend([(2, 0), (2, 1)]);
    cluster.run_for(2000 * MS);
    cluster.cut.clear();
    // And one that hears nothing but is heard: its pre-votes are refused by those that hear their leader.
    cluster.cut.extend([(0, 2), (1, 2)]);
    cluster.run_for(2000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
}

#[test]
fn repeated_and_late_heartbeats_of_an_old_leader_change_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster.now = cluster.machine(0).next_deadline().0;
    let _ = cluster.step(0, Input::Tick);
    let old = cluster.take(|from, _, body| from == 0 && matches!(body, Body::Append(..)));
    assert_eq!(old.len(), 2);
    cluster.crash(0);
    cluster.elect(1);
    let before = cluster.machine(2).clone();
    for flight in old.iter().chain(&old) {
        cluster.deliver(flight);
    }
    assert_eq!(cluster.machine(2).leader(), before.leader());
    assert_eq!(cluster.machine(2).next_deadline(), before.next_deadline(), "the old leader is no reason to wait");
    assert!(cluster.nodes[2].dropped.contains(&DropReason::StaleTerm));
    assert!(cluster.machine(1).is_leader());
    // The old leader, if it lives, learns the term from the answer.
    cluster.nodes[0].up = true;
    cluster.settle();
    assert_eq!(cluster.machine(0).term(), cluster.machine(1).term());
}

#[test]
fn a_leader_with_a_stalled_disk_loses_leadership() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let _ = cluster.step(0, Input::StorageStalled(true));
    assert_eq!(cluster.propose(0, b"x"), Err(Error::Overloaded));
    cluster.run_for(1500 * MS);
    let leader = cluster.leader().expect("another");
    assert_ne!(leader, 0);
    assert!(!cluster.machine(0).is_leader());
}

/// hashicorp/raft #503, etcd #13527, with reads arriving more often than a follower's patience.
#[test]
fn a_leader_with_a_stalled_disk_loses_leadership_also_while_it_is_asked_for_reads() {
    rules::stalled_and_asked(Sabotage::default());
}

/// Nothing that restarts a follower's timer leaves a stalled leader: no heartbeat, no round, nothing again, and no chunk.
#[test]
fn a_leader_with_a_stalled_disk_sends_nothing_that_keeps_a_follower() {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.donors = false;
    });
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 200_000);
    cluster.elect(0);
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    let end = cluster.now + 1000 * MS;
    while cluster.machine(0).peers()[1].snapshot_bytes() < Some(50_000) {
        assert!(cluster.now < end, "no transfer");
        cluster.run_for(10_000);
    }
    cluster.propose(0, b"lost on its way").expect("leads");
    cluster.flights.clear();
    let _ = cluster.step(0, Input::StorageStalled(true));
    cluster.filter = Some(Box::new(|from, _, message| {
        let keeps = matches!(message.body, Body::Append(..) | Body::Fragment(..) | Body::Chunk(..));
        assert!(from != 0 || !keeps, "{message:?}");
        true
    }));
    // As long as the most impatient follower waits.
    for _ in 0..18 {
        let _ = cluster.read(0);
        cluster.run_for(5 * MS);
    }
    assert!(cluster.machine(0).is_leader());
    cluster.filter = None;
    let _ = cluster.step(0, Input::StorageStalled(false));
    cluster.run_for(300 * MS);
    let leader = cluster.leader().expect("it, or another");
    assert_eq!(cluster.machine(2).commit(), cluster.machine(leader).commit(), "the snapshot goes on");
}

/// A short stall costs nothing: what waited, reads too, leaves as soon as the disk answers.
#[test]
fn a_disk_that_answers_again_in_time_costs_no_leadership() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    let _ = cluster.step(0, Input::StorageStalled(true));
    cluster.read(0).expect("it leads");
    cluster.run_for(50 * MS);
    assert_eq!((cluster.nodes[0].answered.len(), cluster.nodes[0].failed_reads), (0, 0), "it waits");
    let _ = cluster.step(0, Input::StorageStalled(false));
    cluster.settle();
    assert_eq!(cluster.nodes[0].answered.len(), 1, "without waiting for the next heartbeat");
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
}

/// Whoever votes alone asks nobody, and is replaced by nobody: reads need no disk.
#[test]
fn a_single_voter_answers_reads_while_its_disk_is_stalled() {
    for count in [1, 2] {
        let mut cluster = Cluster::of_some(count, 1);
        cluster.elect(0);
        if count == 2 {
            let learners = vec![member(1, 1)];
            let target = Configuration { learners, ..cluster.machine(0).configuration().clone() };
            cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
            cluster.run_for(50 * MS);
        }
        let _ = cluster.step(0, Input::StorageStalled(true));
        for _ in 0..3 {
            cluster.read(0).expect("it leads");
            cluster.run_for(500 * MS);
        }
        assert_eq!((cluster.nodes[0].answered.len(), cluster.nodes[0].reads.len()), (3, 0), "of {count}");
    }
}

/// Leadership that is handed over ends: a stalled leader may still do that.
#[test]
fn a_leader_with_a_stalled_disk_can_hand_over() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let _ = cluster.step(0, Input::StorageStalled(true));
    cluster.step(0, Input::Transfer(Some(member(1, 1).id))).expect("fit");
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn a_failed_disk_ends_leadership_and_the_node() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let _ = cluster.step(0, Input::StorageFailed);
    assert!(cluster.nodes[0].halted && !cluster.machine(0).is_leader());
    assert_eq!(
        cluster.take(|_, _, body| !matches!(body, Body::Farewell | Body::TimeoutNow)).len(),
        0,
        "nothing is promised any more"
    );
    cluster.flights.clear();
    cluster.append_one(1, 0, Term(3), cluster.log(0).last().next());
    assert!(cluster.flights.is_empty(), "and nothing acknowledged");
}

#[test]
fn a_death_notice_of_the_leader_starts_an_election_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let _ = cluster.step(0, Input::Farewell);
    cluster.crash(0);
    cluster.run_for(30 * MS);
    assert!(matches!(cluster.leader(), Some(1 | 2)), "within a heartbeat and a few round trips");
}

#[test]
fn a_death_notice_of_anyone_else_is_not_believed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let deadline = cluster.machine(2).next_deadline();
    let term = cluster.machine(0).term();
    cluster.inject(1, 2, term, Body::Farewell);
    cluster.inject(0, 2, Term(term.0 - 1), Body::Farewell);
    assert_eq!(cluster.machine(2).next_deadline(), deadline);
    assert_eq!(cluster.nodes[2].dropped, [DropReason::Unexpected, DropReason::StaleTerm]);
}

/// What the exhaustive search relies on: it would look at the same state again and again, each time a little later.
#[test]
fn machines_that_differ_only_in_when_things_happened_are_one_without_time() {
    let history = |pause_ns: u64| {
        let mut cluster = Cluster::new(3);
        cluster.nodes.iter_mut().for_each(|node| node.applies = false);
        cluster.elect(0);
        for byte in 0..3 {
            cluster.now += pause_ns;
            cluster.propose(0, &[byte]).expect("leads");
            while !cluster.flights.is_empty() {
                cluster.now += pause_ns;
                let flight = cluster.flights.remove(0);
                cluster.deliver(&flight);
            }
        }
        cluster
    };
    let (slow, fast) = (history(MS), history(10_000));
    for index in 0..3 {
        assert_ne!(slow.machine(index), fast.machine(index));
        assert_eq!(slow.machine(index).timeless(), fast.machine(index).timeless(), "node {index}");
    }
}
