//! Linearizable reads by ReadIndex.

use crate::harness::{Cluster, LATENCY_NS, MS};
use trimaran_raft::{Body, Error, Input, LogIndex};

#[test]
fn one_round_answers_all_earlier_reads() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    for _ in 0..20 {
        cluster.step_only(0, Input::Read).expect("leads");
    }
    cluster.nodes[0].reads.extend((1..=20).map(|ticket| (ticket, LogIndex(2))));
    cluster.flush(0);
    assert_eq!(cluster.flights.len(), 2);
    cluster.run_for(2 * LATENCY_NS);
    assert_eq!(cluster.nodes[0].answered.len(), 20);
}

#[test]
fn a_single_node_answers_itself() {
    let mut cluster = Cluster::new(1);
    cluster.elect(0);
    cluster.read(0).expect("leads");
    assert_eq!(cluster.nodes[0].answered, [(1, LogIndex(2))]);
}

#[test]
fn no_read_before_the_terms_first_commit() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    // The next leader does not know yet that this is committed.
    cluster.crash(0);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Append(..))));
    cluster.now += 400 * MS;
    let _ = cluster.step(1, Input::Tick);
    cluster.settle();
    assert!(cluster.machine(1).is_leader());
    cluster.read(1).expect("leads");
    cluster.run_for(10 * MS);
    assert!(cluster.nodes[1].answered.is_empty());
    cluster.filter = None;
    cluster.run_for(100 * MS);
    assert_eq!(cluster.nodes[1].answered.len(), 1);
    assert!(cluster.nodes[1].answered[0].1 > index);
}

#[test]
fn a_partitioned_old_leader_answers_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    cluster.isolate(&[0]);
    cluster.read(0).expect("still leads");
    cluster.run_for(1000 * MS);
    assert!(cluster.nodes[0].answered.is_empty());
    assert_eq!(cluster.nodes[0].failed_reads, 1);
    assert_eq!(cluster.read(0), Err(Error::NotLeader { leader: None }));
}

/// Stopped for a second, deposed meanwhile, and asked at once: its clock has not fired yet, but nobody echoes its round.
#[test]
fn a_paused_old_leader_answers_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    cluster.nodes[0].up = false;
    cluster.run_for(1000 * MS);
    let leader = cluster.leader().expect("another");
    cluster.propose(leader, b"newer").expect("leads");
    cluster.run_for(10 * MS);
    cluster.nodes[0].up = true;
    assert!(cluster.machine(0).is_leader());
    cluster.read(0).expect("it does not know better");
    cluster.run_for(100 * MS);
    assert!(cluster.nodes[0].answered.is_empty());
    assert_eq!(cluster.nodes[0].failed_reads, 1);
}

/// An acknowledgement that is older than the read says nothing about who leads now, whatever it acknowledges.
#[test]
fn a_delayed_acknowledgement_releases_no_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    cluster.propose(0, b"x").expect("leads");
    for append in cluster.take(|from, _, _| from == 0) {
        cluster.deliver(&append);
    }
    let late = cluster.take(|_, to, _| to == 0);
    assert_eq!(late.len(), 2);
    cluster.isolate(&[0]);
    cluster.read(0).expect("leads");
    late.iter().for_each(|ack| cluster.deliver(ack));
    assert_eq!(cluster.machine(0).commit(), LogIndex(3), "they do count for the commit");
    assert!(cluster.nodes[0].answered.is_empty());
}

#[test]
fn a_lost_round_is_asked_again_before_the_next_heartbeat() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    cluster.read(0).expect("leads");
    cluster.flights.clear();
    let heartbeat = cluster.nodes[0].config.timing.heartbeat.as_nanos() as u64;
    cluster.run_for(heartbeat / 4);
    assert_eq!(cluster.nodes[0].answered.len(), 1);
}

#[test]
fn waiting_reads_are_bounded() {
    let mut cluster = Cluster::with(3, |config| config.limits.waiting_reads = 4);
    cluster.elect(0);
    for _ in 0..4 {
        cluster.read(0).expect("room");
    }
    assert_eq!(cluster.read(0), Err(Error::Overloaded));
    cluster.settle();
    assert_eq!(cluster.nodes[0].answered.len(), 4);
    cluster.read(0).expect("room again");
}

#[test]
fn reads_fail_before_the_notice_of_death_leaves() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.read(0).expect("leads");
    let _ = cluster.step(0, Input::Farewell);
    cluster.settle();
    assert_eq!((cluster.nodes[0].failed_reads, cluster.nodes[0].answered.len()), (1, 0));
}
