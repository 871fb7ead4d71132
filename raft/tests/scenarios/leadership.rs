//! Keeping leadership, losing it, and giving it up.

use crate::harness::{Cluster, MS};
use trimaran_raft::{Body, DropReason, Error, Input, Term};

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
