//! Reads of a state that may be so and so old.

use crate::harness::reads::{self, leased};
use crate::harness::{Cluster, MS};
use trimaran_raft::{AppendHead, Body, Entries, Error, LogIndex, Nanos, Sabotage};

fn age_ms(cluster: &Cluster, index: usize) -> Option<u64> {
    let (at, _) = cluster.machine(index).freshness()?;
    Some(cluster.local(index).since(at) / MS)
}

fn read(cluster: &mut Cluster, index: usize, max_ms: u64) -> Result<LogIndex, Error> {
    let stamp = cluster.local(index);
    cluster.stale_read(index, stamp, max_ms * MS)
}

#[test]
fn every_replica_that_hears_its_leader_knows_of_about_two_heartbeats_ago() {
    let mut cluster = leased(Sabotage::default());
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(65 * MS);
    for node in 0..3 {
        assert_eq!(read(&mut cluster, node, 70), Ok(index));
        for _ in 0..100 {
            cluster.run_for(MS);
            assert!(age_ms(&cluster, node).expect("known") <= 45);
        }
    }
    assert!(matches!(read(&mut cluster, 1, 0), Err(Error::TooStale { age_ns: Some(_) })));
}

#[test]
fn a_replica_that_is_cut_off_says_how_old_its_state_is() {
    let mut cluster = leased(Sabotage::default());
    cluster.isolate(&[2]);
    cluster.run_for(500 * MS);
    let Err(Error::TooStale { age_ns: Some(age_ns) }) = read(&mut cluster, 2, 400) else { panic!("it is too old") };
    assert!((500 * MS..560 * MS).contains(&age_ns), "{age_ns}");
    assert!(read(&mut cluster, 2, 600).is_ok());
    cluster.heal();
    cluster.run_for(100 * MS);
    assert!(read(&mut cluster, 2, 60).is_ok());
}

/// What a leader that nobody else hears says is as old as its last round, however fresh its heartbeats.
#[test]
fn a_leader_without_a_quorum_makes_nobody_fresh() {
    let mut cluster = Cluster::new(5);
    cluster.elect(0);
    cluster.run_for(70 * MS);
    cluster.isolate(&[0, 1]);
    cluster.run_for(150 * MS);
    assert!(cluster.machine(0).is_leader());
    for node in [0, 1] {
        assert!(matches!(read(&mut cluster, node, 100), Err(Error::TooStale { .. })), "node {node}");
        assert!(read(&mut cluster, node, 250).is_ok());
    }
}

/// How long an append was on its way, or in a socket's queue, only the receiver's own clock can tell.
#[test]
fn heartbeats_that_waited_while_a_follower_was_stopped_are_old() {
    let refused = reads::paused_follower(Sabotage::default());
    assert!(matches!(refused, Err(Error::TooStale { age_ns: Some(age) }) if age > 1900 * MS), "{refused:?}");
}

#[test]
fn nothing_is_known_before_the_terms_first_commit() {
    let fresh = Cluster::new(3);
    assert_eq!(fresh.machine(1).freshness(), None);
    assert_eq!(fresh.machine(1).stale_read(Nanos(0), u64::MAX), Err(Error::TooStale { age_ns: None }));
    let mut cluster = reads::leads_without_commit(Sabotage::default());
    cluster.run_for(100 * MS);
    for node in [1, 2] {
        assert!(age_ms(&cluster, node).expect("from the leader before") >= 150, "node {node}");
    }
    reads::commits_at_last(&mut cluster);
    for node in [1, 2] {
        assert!(age_ms(&cluster, node).expect("known") <= 45, "node {node}");
    }
}

/// A mark that another run has given out says nothing about this one's clock; nor does one of the future.
#[test]
fn marks_of_another_run_are_not_believed() {
    let mut cluster = leased(Sabotage::default());
    cluster.expire(0);
    let old = cluster.take(|_, to, body| to == 2 && matches!(body, Body::Append(..)));
    cluster.crash(2);
    cluster.restart(2);
    cluster.flush(2);
    old.iter().for_each(|append| cluster.deliver(append));
    assert_eq!(cluster.machine(2).freshness(), None);
    let (term, prev) = (cluster.machine(0).term(), cluster.log(0).last());
    for mark in [0, 1, u64::MAX] {
        let head = AppendHead { prev, prev_term: term, mark, ..AppendHead::default() };
        cluster.inject(0, 2, term, Body::Append(head, Entries::default()));
        assert_eq!(cluster.machine(2).freshness(), None);
    }
    cluster.run_for(100 * MS);
    assert!(read(&mut cluster, 2, 60).is_ok());
}

#[test]
fn knowledge_survives_a_change_of_leader() {
    let mut cluster = leased(Sabotage::default());
    cluster.crash(0);
    cluster.run_for(50 * MS);
    let before = cluster.machine(2).freshness().expect("known");
    cluster.elect(1);
    cluster.run_for(100 * MS);
    let after = cluster.machine(2).freshness().expect("known");
    assert!(after > before);
    assert!(read(&mut cluster, 2, 60).is_ok() && read(&mut cluster, 1, 60).is_ok());
}

/// A slow clock measures too little: the bound on its drift is added.
#[test]
fn ages_allow_for_slow_clocks() {
    let mut cluster = Cluster::with(3, |config| config.reads.clock_drift_ppm = 500_000);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    cluster.isolate(&[1]);
    cluster.run_for(300 * MS);
    let Err(Error::TooStale { age_ns: Some(age_ns) }) = read(&mut cluster, 1, 500) else { panic!("it may be old") };
    assert!((600 * MS..800 * MS).contains(&age_ns), "{age_ns}");
}
