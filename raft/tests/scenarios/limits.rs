//! Every budget has an end, and something defined happens there.

use std::cell::Cell;
use std::rc::Rc;

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules};
use trimaran_raft::{AppendHead, Body, Configuration, Entries, Error, Input, LogIndex, PeerState, Sabotage, Term};

#[test]
fn the_window_closes_by_messages_and_opens_by_acknowledgements() {
    let mut cluster = Cluster::with(2, |config| config.limits.window_messages = 3);
    cluster.elect(0);
    let mut sent = Vec::new();
    for byte in 0..10 {
        cluster.propose(0, &[byte]).expect("leads");
        sent.extend(cluster.take(|from, _, _| from == 0));
    }
    assert_eq!(sent.len(), 3);
    assert_eq!(cluster.machine(0).peers()[0].in_flight(), 3);
    cluster.flights = sent;
    cluster.settle();
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

#[test]
fn the_window_closes_by_bytes() {
    let mut cluster = Cluster::with(2, |config| config.limits.window_bytes = 1000);
    cluster.elect(0);
    for byte in 0..10 {
        cluster.propose(0, &[byte; 200]).expect("leads");
        assert!(cluster.machine(0).peers()[0].in_flight_bytes() <= 1000);
    }
    assert_eq!(cluster.machine(0).peers()[0].in_flight(), 3);
    cluster.settle();
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

#[test]
fn one_entry_larger_than_the_window_passes_alone() {
    let mut cluster = Cluster::with(3, |config| config.limits.window_bytes = 1000);
    cluster.elect(0);
    let index = cluster.propose(0, &[7; 5000]).expect("leads");
    cluster.settle();
    assert!((0..3).all(|node| cluster.machine(node).commit() == index));
}

#[test]
fn empty_largest_and_oversized_entries() {
    let largest = 370_406;
    let mut cluster = Cluster::with(3, |config| config.limits.entry_bytes = largest as u32);
    cluster.elect(0);
    let body: Vec<u8> = (0..=largest).map(|byte| byte as u8).collect();
    cluster.propose(0, &[]).expect("empty is legal");
    cluster.propose(0, &body[..largest]).expect("fits");
    let last = cluster.log(0).last();
    let refused = cluster.propose(0, &body);
    assert_eq!(refused, Err(Error::TooLarge { body_bytes: largest as u64 + 1, limit_bytes: largest as u32 }));
    assert_eq!(cluster.log(0).last(), last);
    cluster.settle();
    assert!((0..3).all(|node| cluster.machine(node).commit() == last));
    let mut read = Vec::new();
    cluster.log(2).copy_body(last, &mut read);
    assert_eq!(read, body[..largest]);
}

#[test]
fn fragments_lost_and_shuffled_are_made_up_for() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let index = cluster.propose(0, &[9; 100_000]).expect("leads");
    let count = cluster.flights.len();
    assert!(count > 100, "{count} datagrams");
    cluster.flights.reverse();
    let mut at = 0;
    cluster.flights.retain(|_| {
        at += 1;
        at % 7 != 0
    });
    cluster.run_for(60 * MS);
    assert!((0..3).all(|node| cluster.machine(node).commit() == index));
}

#[test]
fn what_a_follower_holds_of_an_entry_is_not_sent_again() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    let index = cluster.propose(0, &[9; 100_000]).expect("leads");
    cluster.flights.truncate(40);
    let lowest = Rc::new(Cell::new(u32::MAX));
    let seen = lowest.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        if let Body::Fragment(head, ..) = message.body {
            seen.set(seen.get().min(head.offset));
        }
        true
    }));
    cluster.run_for(60 * MS);
    assert_eq!(cluster.machine(1).commit(), index);
    assert!((50_000..60_000).contains(&lowest.get()), "from {} on", lowest.get());
}

/// With no other follower whose answers come in, time alone must end the waiting.
#[test]
fn a_single_voter_does_not_wait_for_ever_for_a_learner_that_is_down() {
    let mut cluster = Cluster::of_some_with(2, 1, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(1, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(50 * MS);
    cluster.isolate(&[1]);
    while cluster.propose(0, &[7; 500]).is_ok() {
        cluster.run_for(MS);
    }
    cluster.run_for(2500 * MS);
    assert!(cluster.propose(0, &[7; 500]).is_ok(), "the log is full of what only the learner lacks");
}

/// A follower with so many bytes in a log of 8 KiB, which has just been told that all have applied what is in it.
fn relieved_of(bytes: u64) -> Cluster {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 8 << 10);
    while cluster.log(1).bytes() < bytes {
        cluster.append_one(0, 1, Term(2), cluster.log(1).last().next());
    }
    let last = cluster.log(1).last();
    cluster.flights.clear();
    let head = AppendHead { prev: last, prev_term: Term(2), commit: last, floor: last, ..AppendHead::default() };
    cluster.inject(0, 1, Term(2), Body::Append(head, Entries::default()));
    cluster.flush(1);
    cluster
}

/// A follower that has told of little room tells at once when there is more, not with the next heartbeat.
#[test]
fn room_that_comes_back_is_told_at_once() {
    let mut cluster = relieved_of(6500);
    assert!(cluster.log(1).bytes() < 5 << 10, "what all have applied is forgotten");
    assert_eq!(cluster.take(|_, to, body| to == 0 && matches!(body, Body::Ack(_))).len(), 1);
}

/// It has told of enough already: a message for every entry that it forgets would tell nobody anything.
#[test]
fn a_follower_with_room_forgets_in_silence() {
    let cluster = relieved_of(4000);
    assert!(cluster.log(1).bytes() < 1000, "what all have applied is forgotten");
    assert!(cluster.flights.is_empty());
}

/// The leader counts from what is acknowledged: entries that are there but not durable take none of the credit away.
#[test]
fn credit_is_what_fits_after_the_acknowledged_entries() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let credit = |cluster: &Cluster| cluster.machine(0).peers()[0].credit_bytes;
    let before = credit(&cluster);
    cluster.nodes[1].disk.holds = true;
    let index = cluster.propose(0, &[7; 10_000]).expect("leads");
    cluster.run_for(30 * MS);
    assert_eq!((cluster.log(1).last(), credit(&cluster)), (index, before));
}

#[test]
fn the_uncommitted_budget_refuses_and_frees() {
    let mut cluster = Cluster::with(3, |config| config.limits.uncommitted_bytes = 1000);
    cluster.elect(0);
    let mut accepted = 0;
    while cluster.propose(0, &[0; 136]).is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, 5, "a thousand bytes of two hundred each");
    assert_eq!(cluster.propose(0, b""), Err(Error::Overloaded));
    cluster.settle();
    assert!(cluster.propose(0, b"").is_ok());
}

#[test]
fn without_a_quorum_nothing_grows() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.isolate(&[0]);
    cluster.propose(0, b"x").expect("its quorum was heard just now");
    cluster.run_for(110 * MS);
    assert!(cluster.machine(0).is_leader());
    let last = cluster.log(0).last();
    assert_eq!(cluster.propose(0, b"y"), Err(Error::Overloaded));
    cluster.run_for(500 * MS);
    assert!(matches!(cluster.propose(0, b"y"), Err(Error::NotLeader { .. })));
    assert_eq!(cluster.log(0).last(), last);
    assert!(cluster.machine(0).peers().iter().all(|peer| peer.in_flight_bytes() <= 65));
}

/// Fills the log of every node with entries that nobody applies, so that nothing can be forgotten.
fn fill(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        node.applies = false;
    }
    while cluster.propose(0, &[1; 500]).is_ok() {
        cluster.settle();
    }
}

#[test]
fn a_full_log_refuses_proposals_and_never_grows() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 16 << 10);
    cluster.elect(0);
    fill(&mut cluster);
    assert_eq!(cluster.propose(0, &[1; 500]), Err(Error::Overloaded));
    assert!(cluster.log(0).bytes() <= 14 << 10, "an eighth is reserved");
    // Applied everywhere, it is forgotten, and there is room again.
    for index in 0..3 {
        cluster.nodes[index].applies = true;
        let commit = cluster.machine(index).commit();
        cluster.apply(index, commit);
    }
    cluster.run_for(100 * MS);
    for round in 0..200 {
        cluster.propose(0, &[round; 500]).expect("room");
        cluster.run_for(2 * LATENCY_NS);
    }
    cluster.run_for(50 * MS);
    assert!((0..3).all(|node| cluster.machine(node).commit() == cluster.log(0).last()));
    assert!((0..3).all(|node| cluster.log(node).first() > LogIndex(150)));
}

/// A new leader that inherits a full log must be able to commit, or nothing would ever be applied and forgotten.
#[test]
fn a_new_leader_of_a_full_log_commits_its_first_entry() {
    rules::full_log_inherited(Sabotage::default());
}

#[test]
fn a_follower_without_room_is_sent_nothing_until_it_has_some() {
    let mut cluster = Cluster::with(3, |config| {
        if config.me == member(2, 1) {
            config.limits.log_bytes = 8 << 10;
        }
    });
    cluster.elect(0);
    cluster.nodes[2].applies = false;
    for _ in 0..40 {
        cluster.propose(0, &[1; 500]).expect("the other two go on");
        cluster.run_for(MS);
    }
    assert_eq!(cluster.machine(0).commit(), cluster.log(0).last());
    let held = cluster.log(2).last();
    assert!(held < cluster.log(0).last() && cluster.log(2).bytes() <= 8 << 10);
    let bytes = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = bytes.clone();
    cluster.filter = Some(Box::new(move |_, to, message| {
        if let (2, Body::Append(_, entries)) = (to, &message.body) {
            counter.set(counter.get() + entries.remaining());
        }
        true
    }));
    cluster.run_for(100 * MS);
    assert_eq!(bytes.get(), 0, "without credit no entries");
    cluster.filter = None;
    cluster.nodes[2].applies = true;
    let commit = cluster.machine(2).commit();
    cluster.apply(2, commit);
    cluster.flush(2);
    cluster.run_for(200 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
}

#[test]
fn a_member_that_is_silent_for_long_stays_out_until_there_is_a_snapshot() {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 16 << 10;
        config.donors = false;
    });
    cluster.elect(0);
    cluster.nodes[0].offers = false;
    cluster.isolate(&[2]);
    let mut refused = 0;
    for round in 0..3000 {
        refused += u32::from(cluster.propose(0, &[round as u8; 500]).is_err());
        cluster.run_for(MS);
    }
    assert!(refused > 0 && cluster.log(0).first() > LogIndex(500), "first it is waited for, then not");
    cluster.heal();
    cluster.run_for(1000 * MS);
    let peer = cluster.machine(0).peers().iter().find(|peer| peer.id() == cluster.machine(2).me().id).expect("a peer");
    assert_eq!(peer.state, PeerState::OutOfReach);
    assert_eq!(cluster.leader(), Some(0), "and does not disrupt");
    assert!(cluster.propose(0, b"x").is_ok());
    cluster.offer(0).expect("it is still wanted");
    cluster.flush(0);
    cluster.run_for(200 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
}

#[test]
fn what_all_have_applied_leaves_early_and_what_one_lacks_stays() {
    let budget = 256 << 10;
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = budget);
    cluster.elect(0);
    let (mut largest, mut smallest) = (0, u64::MAX);
    for round in 0..500 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok());
        cluster.run_for(MS);
        largest = largest.max(cluster.log(0).bytes()).max(cluster.log(1).bytes());
        if round > 100 {
            smallest = smallest.min(cluster.log(0).bytes()).min(cluster.log(1).bytes());
        }
    }
    assert!(largest < budget / 16, "{largest} bytes were held with nobody to send them to");
    assert!(largest > budget / 48, "{largest} bytes: it forgets many at once, not each entry by itself");
    assert!(smallest > budget / 64 - 600, "{smallest} bytes: a little stays for those that are a little behind");
    let missed = cluster.log(2).last();
    cluster.isolate(&[2]);
    // Silent for far longer than a pressed log would wait.
    for round in 0..200 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok());
        cluster.run_for(20 * MS);
    }
    assert!(cluster.log(0).first() <= missed.next(), "the log is kept for the one that is away while there is room");
    let held = cluster.log(0).bytes();
    assert!(held > budget / 4 && held < budget / 4 * 3, "{held} bytes: much, and not too much");
    cluster.heal();
    cluster.run_for(1000 * MS);
    assert_eq!(cluster.log(2).last(), cluster.log(0).last());
    assert!((0..3).all(|node| cluster.log(node).bytes() < budget / 32), "and no longer than that");
}

/// A follower forgets what its leader says, and a leader with much room says so for one that has little. Seed 1112 of the swarm
/// showed it: the follower's log was full of what only the dead lacked, its leader's was not, and nothing committed any more.
#[test]
fn a_follower_with_less_room_than_its_leader_does_not_wait_for_one_that_is_down() {
    let small = 64 << 10;
    let mut cluster = Cluster::with(3, |config| {
        if config.me.id.slot.0 == 2 {
            config.limits.log_bytes = small;
        }
    });
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.crash(2);
    cluster.run_for(3000 * MS);
    for round in 0..500 {
        cluster.propose(0, &[round as u8; 500]).expect("what is committed leaves the small log");
        cluster.run_for(2 * MS);
        assert!(cluster.log(1).bytes() <= small);
    }
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

#[test]
fn a_log_full_of_what_is_replaced_takes_in_what_replaces_it() {
    rules::full_of_what_is_replaced(Sabotage::default());
}

/// However long a member stays away, what it costs the others does not grow.
#[test]
fn a_member_that_is_down_for_long_costs_a_cursor() {
    let budget = 64 << 10;
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = budget);
    cluster.elect(0);
    cluster.crash(2);
    let mut most = 0;
    let mut taken = 0u64;
    for round in 0..100_000u64 {
        taken += u64::from(cluster.propose(0, &round.to_le_bytes()).is_ok());
        cluster.run_for(4 * LATENCY_NS);
        if round > 20_000 {
            most = most.max(cluster.log(0).bytes()).max(cluster.log(1).bytes());
        }
        assert!(cluster.flights.len() < 20);
    }
    assert!(taken > 90_000, "{taken}");
    assert!(most < budget / 2, "{most} bytes are kept for one that is away");
    cluster.restart(2);
    cluster.flush(2);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
}

/// A state machine that applies slowly makes its own log fill, and then the leader refuses: nothing is lost, nothing grows.
#[test]
fn a_slow_apply_task_refuses_early_and_recovers() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 32 << 10);
    cluster.elect(0);
    cluster.nodes.iter_mut().for_each(|node| node.applies = false);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..500u64 {
        match cluster.propose(0, &[round as u8; 200]) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error, Error::Overloaded);
                refused += 1;
            }
        }
        cluster.run_for(MS);
        for node in 0..3 {
            let next = cluster.machine(node).applied_index().next();
            if round % 4 == 0 && next <= cluster.machine(node).commit() {
                cluster.apply(node, next);
                cluster.flush(node);
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} {refused}");
    assert_eq!(cluster.leader(), Some(0), "and it costs no election");
    for node in 0..3 {
        cluster.nodes[node].applies = true;
        let commit = cluster.machine(node).commit();
        cluster.apply(node, commit);
        cluster.flush(node);
    }
    cluster.run_for(100 * MS);
    assert!(cluster.propose(0, b"room again").is_ok());
}

/// Seed 648 of the swarm: nobody acknowledges, nothing is applied since nothing fits, and the log waited for a learner that was
/// never heard.
#[test]
fn a_full_log_of_a_lone_voter_stops_waiting_for_a_silent_learner() {
    let mut cluster = Cluster::of_some_with(2, 1, |config| config.limits.log_bytes = 16 << 10);
    cluster.elect(0);
    cluster.isolate(&[1]);
    let target = Configuration { learners: vec![member(1, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    while cluster.propose(0, &[7; 500]).is_ok() {
        cluster.run_for(LATENCY_NS);
    }
    cluster.run_for(3000 * MS);
    cluster.propose(0, &[7; 500]).expect("there is room again");
}

/// A new leader with a full log has heard nothing of a learner that is gone: writes wait for that one some election timeouts,
/// not as long as for one that was heard of late. It comes back by a snapshot, so that nothing but time is at stake.
#[test]
fn a_new_leader_with_a_full_log_waits_a_few_elections_for_a_member_it_never_heard() {
    let mut cluster = Cluster::of_some_with(4, 3, |config| config.limits.log_bytes = 16 << 10);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(3, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(50 * MS);
    cluster.isolate(&[3]);
    while cluster.propose(0, &[7; 500]).is_ok() {
        cluster.run_for(MS);
    }
    let lacks = cluster.log(3).last();
    cluster.elect(1);
    cluster.run_for(300 * MS);
    assert!(cluster.machine(1).commit() >= cluster.log(0).last().prev(), "it commits, but has no room");
    assert_eq!(cluster.propose(1, &[7; 500]), Err(Error::Overloaded), "perhaps it answers yet");
    assert!(cluster.log(1).first() <= lacks.next());
    cluster.run_for(400 * MS);
    cluster.propose(1, &[7; 500]).expect("three elections are enough");
    cluster.heal();
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.machine(3).commit(), cluster.log(1).last(), "back by a snapshot");
    assert!(cluster.log(3).first() > lacks.next());
}

/// One slow follower holds neither the other nor the service up.
#[test]
fn a_slow_follower_costs_no_commit() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.nodes[2].disk.holds = true;
    for round in 0..200u64 {
        let index = cluster.propose(0, &[round as u8; 100]).expect("two are fast");
        cluster.run_for(4 * LATENCY_NS);
        assert_eq!(cluster.machine(0).commit(), index);
    }
    cluster.nodes[2].disk.holds = false;
    cluster.complete(2, true);
    cluster.flush(2);
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
}

/// Its device hangs, its answers come: beyond the budget for those that lag it costs a cursor. The others have all that was
/// acknowledged, so nobody waits for it; healed, it comes back by a snapshot and what follows.
#[test]
fn a_live_follower_with_a_stalled_disk_costs_a_cursor() {
    let budget = 256 << 10;
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = budget);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[2].disk.holds = true;
    let snapshots = cluster.snapshots;
    for round in 0..2000u64 {
        cluster.propose(0, &[round as u8; 500]).expect("two of three are well");
        cluster.run_for(2 * MS);
        assert!((0..3).all(|node| cluster.log(node).bytes() <= budget));
    }
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
    assert_eq!(cluster.snapshots, snapshots, "one that has not written what it has gets no snapshot");
    assert_eq!(cluster.machine(0).peers()[1].state, PeerState::OutOfReach);
    cluster.nodes[2].disk.holds = false;
    cluster.complete(2, true);
    cluster.flush(2);
    for round in 0..100u64 {
        cluster.propose(0, &[round as u8; 500]).expect("and while it comes back");
        cluster.run_for(2 * MS);
    }
    cluster.run_for(50 * MS);
    assert_eq!(cluster.snapshots, snapshots + 1);
    assert_eq!(
        (cluster.machine(2).durable(), cluster.machine(2).commit()),
        (cluster.log(0).last(), cluster.log(0).last())
    );
    assert_eq!(cluster.machine(0).peers()[1].state, PeerState::Replicate);
}

#[test]
fn a_follower_slower_than_the_load_does_not_throttle_it() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[2].disk.holds = true;
    for round in 0..5000u64 {
        cluster.propose(0, &[round as u8; 500]).expect("two of three keep up");
        cluster.run_for(MS);
        if round % 50 == 0 {
            cluster.complete(2, true);
            cluster.flush(2);
        }
    }
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

/// Without both of them nothing commits: what they lack stays, and writes wait.
#[test]
fn two_of_three_that_are_slow_hold_the_load_back() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let snapshots = cluster.snapshots;
    for held in [1, 2] {
        cluster.nodes[held].disk.holds = true;
    }
    let mut refused = 0;
    for round in 0..2000u64 {
        refused += u64::from(cluster.propose(0, &[round as u8; 500]).is_err());
        cluster.run_for(MS);
        // The one is a little behind the other, neither is beyond what the log is kept for.
        for (slow, held) in [1, 2].into_iter().enumerate() {
            if round % 200 == 100 * slow as u64 {
                cluster.complete(held, true);
                cluster.flush(held);
            }
        }
        assert!(cluster.machine(0).peers().iter().all(|peer| peer.state != PeerState::OutOfReach));
    }
    assert!(refused > 100, "{refused}");
    assert_eq!((cluster.snapshots, cluster.leader()), (snapshots, Some(0)));
}

/// A lag is measured against the quorum: where that is slow, a full log waits for it, however long.
#[test]
fn what_a_quorum_has_not_applied_stays() {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = if config.me.id.slot.0 == 1 { 64 << 10 } else { 256 << 10 };
    });
    cluster.elect(0);
    cluster.run_for(50 * MS);
    (1..3).for_each(|node| cluster.nodes[node].applies = false);
    while cluster.propose(0, &[7; 500]).is_ok() {
        cluster.run_for(2 * MS);
    }
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.propose(0, &[7; 500]), Err(Error::Overloaded));
    assert!(cluster.log(0).base() <= cluster.machine(1).applied_index());
}

/// The smaller log is full before its leader's is pressed, and forgets what its leader says.
#[test]
fn a_follower_with_a_small_log_does_not_wait_for_one_that_is_stuck() {
    let small = 64 << 10;
    let mut cluster = Cluster::with(3, |config| {
        if config.me.id.slot.0 == 2 {
            config.limits.log_bytes = small;
        }
    });
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[2].applies = false;
    for round in 0..500u64 {
        cluster.propose(0, &[round as u8; 500]).expect("two of three are well");
        cluster.run_for(2 * MS);
        assert!(cluster.log(1).bytes() <= small);
    }
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

/// The budget is a setting: a smaller one lets the log go earlier.
#[test]
fn how_far_a_live_follower_may_lag_is_a_setting() {
    let kept_for_it = |max_lag_bytes| {
        let mut cluster = Cluster::with(3, |config| {
            config.limits.log_bytes = 256 << 10;
            config.limits.max_lag_bytes = max_lag_bytes;
        });
        cluster.elect(0);
        cluster.run_for(50 * MS);
        cluster.nodes[2].applies = false;
        let from = cluster.machine(2).applied_index();
        while cluster.log(0).base() <= from {
            cluster.propose(0, &[7; 500]).expect("two of three are well");
            cluster.run_for(4 * MS);
        }
        (cluster.log(0).last().0 - from.0) * 564
    };
    let (small, large) = (kept_for_it(8 << 10), kept_for_it(u64::MAX));
    assert!((8 << 10..64 << 10).contains(&small), "{small}");
    assert!((128 << 10..180 << 10).contains(&large), "more than half of the log is never kept: {large}");
}
