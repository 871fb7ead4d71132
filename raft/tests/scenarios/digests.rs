//! States that went wrong: found by comparison, decided by a majority, and not used any more.

use std::cell::Cell;
use std::rc::Rc;

use crate::harness::{Cluster, MS, rules, staged};
use trimaran_raft::{Ack, Body, DropReason, Error, Fence, LogIndex, Sabotage, Verdict};

/// Has the states of these nodes go wrong at the next entry, each in the way given with it.
fn spoil(cluster: &mut Cluster, nodes: &[(usize, u64)]) -> LogIndex {
    let at = cluster.log(cluster.leader().expect("a leader")).last().next();
    for (index, way) in nodes {
        cluster.nodes[*index].goes_wrong_at = Some((at, *way));
    }
    at
}

/// Proposes and lets time pass, whoever leads.
fn load(cluster: &mut Cluster, rounds: usize) {
    for round in 0..rounds {
        if let Some(leader) = cluster.leader() {
            let _ = cluster.propose(leader, &[round as u8; 20]);
        }
        cluster.run_for(5 * MS);
    }
}

fn fenced(cluster: &Cluster) -> Vec<usize> {
    (0..cluster.nodes.len()).filter(|index| cluster.machine(*index).fenced().is_some()).collect()
}

#[test]
fn a_follower_in_the_minority_is_fenced_and_goes_on_acknowledging() {
    let mut cluster = staged::a_state_goes_wrong(Sabotage::default());
    assert_eq!((fenced(&cluster), cluster.leader()), (vec![2], Some(0)));
    // With the other follower gone, commit hangs on its acknowledgements, and an election on its vote.
    cluster.isolate(&[1]);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(5 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
    cluster.heal();
    cluster.run_for(100 * MS);
    cluster.crash(0);
    cluster.run_for(1500 * MS);
    assert_eq!(cluster.leader(), Some(1), "it votes and does not stand");
    assert!(cluster.propose(1, b"y").is_ok());
    let peer = cluster.machine(1).peers().iter().find(|peer| peer.id().slot.0 == 3).expect("a peer");
    assert_eq!(peer.fenced, Some(Verdict::Minority));
}

#[test]
fn a_leader_in_the_minority_hands_over_and_fails_its_reads() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let at = spoil(&mut cluster, &[(0, 7)]);
    cluster.propose(0, b"x").expect("leads");
    let _ = cluster.read(0);
    cluster.filter =
        Some(Box::new(|_, _, message| !matches!(message.body, Body::Ack(ack) if ack.applied == LogIndex::ZERO)));
    let before = cluster.now;
    while cluster.machine(0).fenced().is_none() {
        assert!(cluster.now < before + 100 * MS, "two others that agree are enough, at the next heartbeat");
        cluster.run_for(MS);
    }
    assert_eq!(cluster.machine(0).fenced(), Some(at));
    cluster.run_for(100 * MS);
    let leader = cluster.leader().expect("the notice lets the others elect at once");
    assert_ne!(leader, 0);
    assert!(matches!(cluster.read(0), Err(Error::NotLeader { .. })));
    load(&mut cluster, 20);
    assert_eq!(fenced(&cluster), [0]);
    assert!(cluster.machine(leader).commit() > at);
    cluster.crash(leader);
    cluster.run_for(1500 * MS);
    assert!(cluster.leader().is_some_and(|next| next != 0 && next != leader));
}

#[test]
fn one_against_one_with_the_third_dead_halts_both() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.crash(2);
    spoil(&mut cluster, &[(1, 7)]);
    load(&mut cluster, 4);
    assert_eq!(fenced(&cluster), [0; 0], "the third might still say something");
    cluster.run_for(3000 * MS);
    assert_eq!((fenced(&cluster), cluster.leader()), (vec![0, 1], None));
}

/// A leader that lags behind its followers remembers each of the states that they told of, until it can compare.
#[test]
fn a_leader_that_applies_late_compares_what_it_was_told_meanwhile() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[0].applies = false;
    cluster.propose(0, b"right everywhere").expect("leads");
    cluster.run_for(50 * MS);
    spoil(&mut cluster, &[(2, 7)]);
    let last = cluster.propose(0, b"wrong in one").expect("leads");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(2).applied_index(), last);
    let told = Rc::new(Cell::new(None));
    let seen = told.clone();
    cluster.filter = Some(Box::new(move |_, to, message| {
        if matches!(message.body, Body::Fence(_)) {
            seen.set(Some(to));
        }
        false
    }));
    cluster.apply(0, last);
    cluster.flush(0);
    assert_eq!(told.get(), Some(2), "nothing more had to be heard");
}

/// The one that was not told is elected, and finds the same.
#[test]
fn one_against_one_halts_both_even_where_the_message_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.crash(2);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Fence(_))));
    spoil(&mut cluster, &[(1, 7)]);
    load(&mut cluster, 4);
    cluster.run_for(6000 * MS);
    assert_eq!((fenced(&cluster), cluster.leader()), (vec![0, 1], None));
}

#[test]
fn three_states_of_three_halt_all() {
    let cluster = rules::no_state_has_a_majority(Sabotage::default(), false);
    assert_eq!((fenced(&cluster), cluster.leader()), (vec![0, 1, 2], None));
}

#[test]
fn three_against_two_of_five_whoever_leads() {
    for wrong in [[0, 1], [1, 2], [3, 4]] {
        let mut cluster = Cluster::new(5);
        cluster.elect(0);
        let at = spoil(&mut cluster, &wrong.map(|index| (index, 7)));
        load(&mut cluster, 100);
        cluster.run_for(3000 * MS);
        assert_eq!(fenced(&cluster), wrong);
        let leader = cluster.leader().expect("one of the three");
        assert!(!wrong.contains(&leader));
        let index = cluster.propose(leader, b"x").expect("leads");
        cluster.run_for(50 * MS);
        assert!(index > at && cluster.machine(leader).commit() == index);
    }
}

/// A lost message must not leave a wrong replica in use.
#[test]
fn a_lost_fence_is_said_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let lost = Rc::new(Cell::new(0));
    let counter = lost.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        let lose = matches!(message.body, Body::Fence(_)) && counter.get() < 3;
        counter.set(counter.get() + u32::from(lose));
        !lose
    }));
    spoil(&mut cluster, &[(1, 7)]);
    load(&mut cluster, 1);
    cluster.run_for(200 * MS);
    assert_eq!((fenced(&cluster), lost.get()), (vec![1], 3));
}

#[test]
fn no_false_alarm_with_lagging_repeated_and_late_acknowledgements() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    load(&mut cluster, 5);
    cluster.nodes[2].applies = false;
    let _ = cluster.propose(0, b"x");
    let old = cluster.take(|_, _, body| matches!(body, Body::Ack(_)));
    load(&mut cluster, 20);
    // The leader is the one that applies late: what the others report is kept until it gets there.
    cluster.nodes[0].applies = false;
    let mut acks = old;
    for round in 0..60u8 {
        let _ = cluster.propose(0, &[round]);
        cluster.run_for(MS / 5);
        acks.extend(cluster.flights.iter().filter(|flight| flight.to == 0).cloned());
    }
    for index in [0, 2] {
        cluster.nodes[index].applies = true;
        let commit = cluster.machine(index).commit();
        cluster.apply(index, commit);
    }
    for flight in acks.iter().rev().chain(&acks) {
        cluster.deliver(flight);
    }
    load(&mut cluster, 20);
    // Acknowledgements of one leader at the next, and of a node that comes back from its disk.
    cluster.crash(2);
    load(&mut cluster, 5);
    cluster.restart(2);
    cluster.flush(2);
    load(&mut cluster, 20);
    cluster.crash(0);
    cluster.run_for(1500 * MS);
    cluster.restart(0);
    cluster.flush(0);
    load(&mut cluster, 50);
    assert_eq!(fenced(&cluster), [0; 0]);
    assert!(cluster.leader().is_some());
}

#[test]
fn an_index_no_longer_kept_and_a_digest_not_known_say_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    for round in 0..50u8 {
        for _ in 0..100 {
            let _ = cluster.propose(0, &[round]);
        }
        cluster.run_for(5 * MS);
    }
    let term = cluster.machine(0).term();
    let last = cluster.log(0).last();
    assert!(last > LogIndex(5000) && cluster.machine(0).digest_at(LogIndex(900)).is_none());
    let ack = Ack { matched: last, verified: last, applied: LogIndex(900), digest: 1, ..Ack::default() };
    for from in [1, 2] {
        cluster.inject(from, 0, term, Body::Ack(ack));
        cluster.inject(from, 0, term, Body::Ack(Ack { applied: last, digest: 0, ..ack }));
    }
    cluster.run_for(1000 * MS);
    assert_eq!((fenced(&cluster), cluster.leader()), (vec![], Some(0)));
}

#[test]
fn a_fence_is_believed_from_the_leader_only_and_where_the_digests_differ() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    load(&mut cluster, 5);
    let term = cluster.machine(0).term();
    let index = cluster.machine(1).applied_index();
    let digest = cluster.machine(1).digest_at(index).expect("just applied");
    let wrong = Fence { index, digest: digest ^ 1, verdict: Verdict::Minority };
    cluster.inject(2, 1, term, Body::Fence(wrong));
    cluster.inject(0, 1, term, Body::Fence(Fence { digest, ..wrong }));
    cluster.inject(0, 1, term, Body::Fence(Fence { index: index.next(), ..wrong }));
    // From here on this test makes up what is wrong.
    cluster.nodes[1].goes_wrong_at = Some((index, 1));
    assert_eq!(cluster.nodes[1].dropped, [DropReason::Unexpected, DropReason::Contradiction, DropReason::Unexpected]);
    assert_eq!(cluster.machine(1).fenced(), None);
    cluster.flights.clear();
    cluster.inject(0, 1, term, Body::Fence(wrong));
    assert_eq!(cluster.machine(1).fenced(), Some(index));
    let told = cluster.take(|_, to, body| to == 0 && matches!(body, Body::Ack(ack) if ack.fenced.is_some()));
    assert_eq!(told.len(), 1, "the leader hears of it at once");
}

/// A replica that applies nothing more must not fill its log, or the leader's, for ever.
#[test]
fn a_fenced_replica_does_not_hold_the_log_up() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    spoil(&mut cluster, &[(2, 7)]);
    load(&mut cluster, 10);
    assert_eq!(fenced(&cluster), [2]);
    for round in 0..500 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok());
        cluster.run_for(MS);
    }
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
    assert!(cluster.log(2).first() > LogIndex(300));
}

#[test]
fn a_fenced_replica_answers_no_read() {
    rules::fenced_and_asked(Sabotage::default());
}

#[test]
fn a_fenced_replica_does_not_stand_even_where_nobody_else_can_win() {
    rules::fenced_and_alone(Sabotage::default());
}
