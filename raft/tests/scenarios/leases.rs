//! Reads under the leader's lease.

use crate::harness::reads::{self, clocks_apart, later, leased};
use crate::harness::{Cluster, LATENCY_NS, MS, member};
use trimaran_raft::{Body, Error, Input, Nanos, Sabotage, Term};

fn now(cluster: &Cluster, index: usize) -> Nanos {
    cluster.local(index)
}

#[test]
fn a_lease_read_asks_nobody() {
    let mut cluster = leased(Sabotage::default());
    cluster.settle();
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    let stamp = now(&cluster, 0);
    assert_eq!(cluster.lease_read(0, stamp), Ok(index));
    assert!(cluster.flights.is_empty());
    let leader = Some(member(0, 1));
    assert_eq!(cluster.lease_read(1, stamp), Err(Error::NotLeader { leader }));
}

#[test]
fn leases_are_off_until_they_are_switched_on() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    let stamp = now(&cluster, 0);
    assert_eq!(cluster.lease_read(0, stamp), Err(Error::LeaseEnded));
}

#[test]
fn a_lease_ends_with_the_silence_of_the_quorum_and_comes_back_with_it() {
    let mut cluster = leased(Sabotage::default());
    let until = cluster.machine(0).lease(now(&cluster, 0)).expect("held");
    // A heartbeat is 20 ms, the shortest election timeout 100, and clocks may drift by a thousandth.
    let left = until.since(now(&cluster, 0));
    assert!((79 * MS..=100 * MS).contains(&left), "{left}");
    cluster.isolate(&[0]);
    cluster.flights.clear();
    cluster.now = until.0 - 1;
    let stamp = now(&cluster, 0);
    assert!(cluster.lease_read(0, stamp).is_ok());
    cluster.now = until.0;
    let stamp = now(&cluster, 0);
    assert_eq!(cluster.lease_read(0, stamp), Err(Error::LeaseEnded));
    assert!(cluster.machine(0).is_leader());
    cluster.heal();
    cluster.run_for(25 * MS);
    let stamp = now(&cluster, 0);
    assert!(cluster.lease_read(0, stamp).is_ok());
}

#[test]
fn a_leader_paused_in_the_middle_of_a_turn_answers_nothing() {
    assert_eq!(reads::paused_leader(true), Err(Error::LeaseEnded));
}

#[test]
fn a_lease_runs_from_when_the_round_was_sent() {
    assert_eq!(reads::late_echo(Sabotage::default()), Err(Error::LeaseEnded));
}

#[test]
fn a_voter_that_hears_of_a_newer_term_keeps_its_promise() {
    assert!(reads::newer_term_meanwhile(Sabotage::default()).is_ok());
}

#[test]
fn a_voter_that_has_just_started_keeps_the_promise_it_may_have_given() {
    assert!(reads::restarted_voter(Sabotage::default()).is_ok(), "nobody else was elected");
}

#[test]
fn a_voter_that_has_just_started_votes_after_one_lease() {
    let mut cluster = leased(Sabotage::default());
    cluster.crash(0);
    cluster.crash(1);
    cluster.run_for(1000 * MS);
    cluster.restart(1);
    cluster.flush(1);
    cluster.run_for(90 * MS);
    assert_eq!(cluster.leader(), None);
    cluster.run_for(600 * MS);
    assert!(cluster.leader().is_some());
}

/// openraft #1747, #1749.
#[test]
fn no_lease_in_a_transfer() {
    assert_eq!(reads::lease_in_transfer(Sabotage::default()), Err(Error::LeaseEnded));
}

#[test]
fn a_lease_ends_when_the_transfer_begins_and_a_stuck_one_ends_it_for_the_term() {
    let mut cluster = leased(Sabotage::default());
    let (term, _) = cluster.machine(0).lease_read(now(&cluster, 0)).expect("held");
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::TimeoutNow)));
    cluster.propose(0, b"on its way").expect("leads");
    cluster.step(0, Input::Transfer(Some(member(1, 1).id))).expect("fit");
    assert!(
        !cluster.machine(0).lease_holds(now(&cluster, 0), term),
        "an answer that began before does not leave either"
    );
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.machine(0).transferring(), cluster.leader()), (None, Some(0)));
    assert_eq!(cluster.machine(0).lease(now(&cluster, 0)), None, "nobody knows when that word arrives");
    assert!(cluster.read(0).is_ok(), "reads with a round go on");
    cluster.settle();
    assert_eq!(cluster.nodes[0].answered.len(), 1);
    // In a term of its own it holds leases again.
    cluster.filter = None;
    let newer = Term(cluster.machine(0).term().0 + 3);
    cluster.inject(2, 0, newer, Body::Ack(Default::default()));
    cluster.elect(0);
    cluster.run_for(30 * MS);
    assert!(cluster.machine(0).lease(now(&cluster, 0)).is_some());
}

#[test]
fn a_transfer_that_tells_nobody_gives_the_lease_back() {
    let mut cluster = leased(Sabotage::default());
    // The heir never gets the last entry, so that it is told nothing.
    cluster.propose(0, b"x").expect("leads");
    cluster.flights.clear();
    cluster.cut.insert((0, 1));
    cluster.step(0, Input::Transfer(Some(member(1, 1).id))).expect("it may be on its way");
    cluster.run_for(30 * MS);
    assert_eq!(cluster.machine(0).lease(now(&cluster, 0)), None);
    cluster.run_for(180 * MS);
    assert_eq!(cluster.machine(0).transferring(), None);
    assert!(cluster.machine(0).lease(now(&cluster, 0)).is_some());
}

#[test]
fn no_lease_before_the_terms_first_commit() {
    let mut cluster = reads::leads_without_commit(Sabotage::default());
    assert_eq!(cluster.machine(1).lease(now(&cluster, 1)), None);
    reads::commits_at_last(&mut cluster);
    assert!(cluster.machine(1).lease(now(&cluster, 1)).is_some());
}

#[test]
fn a_joint_configuration_needs_the_echo_of_both_halves() {
    let mut cluster = Cluster::of_some_with(5, 3, |config| config.reads.lease = true);
    cluster.elect(0);
    cluster.run_for(200 * MS);
    // The change gets stuck between its halves.
    cluster.change(0, &[(0, 1), (3, 1), (4, 1)]).expect("possible");
    while !cluster.machine(0).configuration().is_joint() {
        cluster.run_for(LATENCY_NS);
    }
    for old in [1, 2] {
        cluster.nodes[old].disk.holds = true;
    }
    cluster.run_for(50 * MS);
    assert!(cluster.machine(0).configuration().is_joint());
    assert!(cluster.machine(0).lease(now(&cluster, 0)).is_some());
    for half in [[1, 2], [3, 4]] {
        cluster.heal();
        cluster.run_for(100 * MS);
        assert!(cluster.machine(0).lease(now(&cluster, 0)).is_some());
        cluster.cut.extend(half.iter().map(|node| (*node, 0)));
        cluster.run_for(105 * MS);
        assert_eq!(cluster.machine(0).lease(now(&cluster, 0)), None, "{half:?} is silent");
    }
}

#[test]
fn one_alone_needs_nobody() {
    let mut cluster = Cluster::with(1, |config| config.reads.lease = true);
    cluster.elect(0);
    cluster.run_for(1000 * MS);
    let stamp = now(&cluster, 0);
    assert!(cluster.lease_read(0, stamp).is_ok());
}

/// As slow and as fast as the bound allows, wherever in the round of heartbeats the leader is cut off.
#[test]
fn clocks_that_differ_as_much_as_is_allowed() {
    for hold in 0..4 {
        for ppm in [-50_000, 0, 50_000] {
            let (served, refused) = clocks_apart(ppm, 50_000, (30 + 5 * hold) * MS);
            assert!(served > 100 && refused > 100, "{ppm}: {served} {refused}");
        }
    }
}

/// The bound is what leases rest on: clocks beyond it give stale answers. If this passes without a panic, the test above
/// proves nothing.
#[test]
#[should_panic(expected = "stale read")]
fn clocks_that_differ_more_than_is_allowed() {
    for hold in 0..10 {
        clocks_apart(150_000, 1000, (30 + 2 * hold) * MS);
    }
}

/// A jump forward, as if the node had been stopped: the lease is over until a newer round is echoed. A clock that goes back
/// has no rate that anybody could allow for.
#[test]
fn a_clock_that_jumps_ends_the_lease() {
    let mut cluster = leased(Sabotage::default());
    let before = now(&cluster, 0);
    cluster.nodes[0].ahead_ns += 150 * MS;
    let stamp = now(&cluster, 0);
    assert_eq!(cluster.lease_read(0, stamp), Err(Error::LeaseEnded));
    cluster.run_for(25 * MS);
    let stamp = now(&cluster, 0);
    assert!(cluster.machine(0).is_leader() && cluster.lease_read(0, stamp).is_ok());
    assert_eq!(cluster.machine(0).lease(before), None);
    let (term, _) = cluster.machine(0).lease_read(stamp).expect("held");
    assert!(!cluster.machine(0).lease_holds(before, term));
    assert!(!cluster.machine(0).lease_holds(later(stamp, 200 * MS), term));
}

#[test]
fn a_farewell_of_one_that_does_not_lead_frees_no_vote() {
    crate::harness::rules::a_strangers_farewell(Sabotage::default());
}

#[test]
fn a_lease_ends_with_a_farewell() {
    assert!(matches!(reads::lease_after_a_farewell(Sabotage::default()), Err(Error::NotLeader { .. })));
}
