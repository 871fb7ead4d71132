//! Coming back when the log has moved on: snapshots in chunks, over a network and through crashes.

use std::cell::Cell;
use std::rc::Rc;

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules, staged};
use trimaran_raft::{
    Body, ChunkAck, ChunkHead, Configuration, DropReason, Error, Input, LogIndex, PeerState, Refused, Sabotage,
    ShardConfig, Snapshot, SnapshotId, state_hash,
};

const STATE_BYTES: usize = 200_000;

/// A small log, and leaders that send their own snapshots.
fn small(config: &mut ShardConfig) {
    config.limits.log_bytes = 64 << 10;
    config.donors = false;
}

/// Three nodes with small logs, whose leaders send their own snapshots; node 2 is cut off until the log has forgotten what it lacks.
fn lagging() -> Cluster {
    let mut cluster = Cluster::with(3, small);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = STATE_BYTES);
    cluster.elect(0);
    staged::leave_behind(&mut cluster, 2);
    cluster
}

/// Runs until node 2 has all that node `leader` has.
fn run_until_caught_up(cluster: &mut Cluster, leader: usize, within_ns: u64) {
    let end = cluster.now + within_ns;
    while cluster.machine(2).applied_index() < cluster.machine(leader).commit() {
        assert!(cluster.now < end, "node 2 is at {}", cluster.machine(2).applied_index());
        cluster.run_for(MS);
    }
    assert_eq!(cluster.nodes[2].digest, cluster.nodes[leader].digest);
}

/// Counts the chunks that are sent to node 2, and loses those that `lose` picks by their number.
fn watch_chunks(cluster: &mut Cluster, lose: impl Fn(usize) -> bool + 'static) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let counter = count.clone();
    cluster.filter = Some(Box::new(move |_, to, message| {
        if to != 2 || !matches!(message.body, Body::Chunk(..)) {
            return true;
        }
        counter.set(counter.get() + 1);
        !lose(counter.get())
    }));
    count
}

fn peer_state(cluster: &Cluster, leader: usize) -> PeerState {
    let peer = cluster.machine(leader).peers().iter().find(|peer| peer.id().slot.0 == 3);
    peer.expect("a peer").state
}

#[test]
fn a_lagging_follower_returns_while_the_others_go_on() {
    let mut cluster = lagging();
    let chunks = watch_chunks(&mut cluster, |_| false);
    let term = cluster.machine(0).term();
    cluster.heal();
    for round in 0..200u8 {
        let index = cluster.propose(0, &[round; 100]).expect("leads");
        cluster.run_for(2 * LATENCY_NS);
        assert_eq!(cluster.machine(0).commit(), index, "commit takes a round trip, transfer or not");
    }
    run_until_caught_up(&mut cluster, 0, 50 * MS);
    assert_eq!((cluster.nodes[2].installed.len(), cluster.machine(0).term()), (1, term));
    assert!((146..150).contains(&chunks.get()), "each chunk once: {}", chunks.get());
    assert_eq!(peer_state(&cluster, 0), PeerState::Replicate);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.log(2).last(), cluster.log(0).last());
    let Err(Refused::Request(error)) = cluster.offer(0) else { panic!("nobody needs one any more") };
    assert_eq!(error, Error::SnapshotUnusable);
}

#[test]
fn it_votes_leads_and_tells_the_time_with_what_it_was_sent() {
    let mut cluster = lagging();
    cluster.heal();
    run_until_caught_up(&mut cluster, 0, 200 * MS);
    cluster.run_for(100 * MS);
    let before = cluster.log(0).last_header().expect("an entry").log_time;
    cluster.settle();
    cluster.crash(0);
    cluster.elect(2);
    let header = *cluster.log(2).last_header().expect("an entry");
    assert!(header.log_time > before);
    let index = cluster.propose(2, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(1).commit(), index);
}

/// A log that a snapshot left without an entry still knows when it is.
#[test]
fn log_time_goes_on_where_the_log_has_no_entry_yet() {
    let mut cluster = lagging();
    // The snapshot is of the newest entry, and no entry follows.
    cluster.run_for(100 * MS);
    cluster.heal();
    run_until_caught_up(&mut cluster, 0, 500 * MS);
    assert_eq!((cluster.log(2).last_header(), cluster.log(2).last()), (None, cluster.log(0).last()));
    let before = cluster.log(0).last_header().expect("an entry").log_time;
    cluster.settle();
    cluster.elect(2);
    assert!(cluster.log(2).last_header().expect("its first entry").log_time > before);
}

#[test]
fn chunks_lost_repeated_and_reordered() {
    for seed in 1..20u64 {
        let mut cluster = lagging();
        let mut dice = seed;
        let mut throw = move || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 40) as usize
        };
        let chunks = watch_chunks(&mut cluster, move |number| (number as u64 * 7 + seed).is_multiple_of(5));
        cluster.heal();
        for _ in 0..3000 {
            let count = cluster.flights.len();
            match throw() % 4 {
                0 if count > 1 => cluster.flights.swap(0, throw() % count),
                1 if count > 0 => {
                    let again = cluster.flights[throw() % count].clone();
                    cluster.flights.push(again);
                }
                _ => {}
            }
            if count > 0 {
                let flight = cluster.flights.remove(0);
                cluster.now += 1000;
                cluster.deliver(&flight);
            } else {
                cluster.run_for(MS / 2);
            }
        }
        run_until_caught_up(&mut cluster, 0, 1000 * MS);
        assert!(chunks.get() < 3 * 146, "{} chunks", chunks.get());
        assert_eq!(cluster.nodes[2].installed.len(), 1);
    }
}

/// Runs until some of the snapshot, and not all of it, has arrived.
fn run_until_half_way(cluster: &mut Cluster, leader: usize) -> LogIndex {
    for _ in 0..10_000 {
        cluster.run_for(LATENCY_NS / 4);
        let peer = cluster.machine(leader).peers().iter().find(|peer| peer.id().slot.0 == 3).expect("a peer");
        if peer.snapshot_bytes() > Some(STATE_BYTES as u32 / 2) {
            return cluster.machine(leader).applied_index();
        }
    }
    panic!("no transfer");
}

#[test]
fn a_receiver_cut_off_midway_goes_on_where_it_was() {
    let mut cluster = lagging();
    let chunks = watch_chunks(&mut cluster, |_| false);
    cluster.heal();
    run_until_half_way(&mut cluster, 0);
    cluster.isolate(&[2]);
    cluster.run_for(150 * MS);
    cluster.heal();
    run_until_caught_up(&mut cluster, 0, 500 * MS);
    assert!(chunks.get() < 146 + 80, "{} chunks: what it had was not sent again", chunks.get());
}

#[test]
fn a_receiver_that_crashes_midway_begins_anew() {
    let mut cluster = lagging();
    cluster.heal();
    run_until_half_way(&mut cluster, 0);
    cluster.crash(2);
    cluster.run_for(30 * MS);
    cluster.restart(2);
    cluster.flush(2);
    run_until_caught_up(&mut cluster, 0, 500 * MS);
    assert_eq!(cluster.nodes[2].installed.len(), 1);
}

#[test]
fn another_leader_goes_on_with_the_same_snapshot() {
    let (cluster, chunks) = staged::sender_changes(Sabotage::default(), true);
    assert_eq!(cluster.nodes[2].installed.len(), 1);
    assert!(chunks < 146 - 40, "{chunks} chunks from the second leader: it went on with what was there");
}

#[test]
fn another_leaders_snapshot_of_the_same_entry_does_not_mix() {
    let (cluster, chunks) = staged::sender_changes(Sabotage::default(), false);
    assert_eq!(cluster.nodes[2].installed.len(), 1);
    assert!(chunks >= 146, "{chunks}");
}

#[test]
fn an_older_snapshot_that_comes_late_is_ignored() {
    let mut cluster = lagging();
    cluster.heal();
    let first = run_until_half_way(&mut cluster, 0);
    let late = cluster.take(|_, to, body| to == 2 && matches!(body, Body::Chunk(..)));
    assert!(!late.is_empty());
    cluster.isolate(&[2]);
    // The log moves on beyond the snapshot.
    while cluster.log(0).base() <= first {
        let _ = cluster.propose(0, &[1; 500]);
        cluster.run_for(MS);
    }
    cluster.heal();
    run_until_half_way(&mut cluster, 0);
    cluster.nodes[2].dropped.clear();
    late.iter().for_each(|flight| cluster.deliver(flight));
    assert!(cluster.nodes[2].dropped.iter().all(|reason| *reason == DropReason::Unexpected));
    assert_eq!(cluster.nodes[2].dropped.len(), late.len());
    run_until_caught_up(&mut cluster, 0, 200 * MS);
    let (log, machine) = (cluster.log(2).clone(), cluster.machine(2).commit());
    late.iter().for_each(|flight| cluster.deliver(flight));
    assert_eq!((cluster.log(2), cluster.machine(2).commit()), (&log, machine));
    assert_eq!(cluster.nodes[2].installed.len(), 1);
}

/// What the last leader began may never be finished: the next one's snapshot counts, although it is older.
#[test]
fn another_leaders_older_snapshot_takes_the_place_of_a_newer_one() {
    let mut cluster = lagging();
    cluster.run_for(100 * MS);
    let older = cluster.snapshot(1);
    for byte in 0..3 {
        cluster.propose(0, &[byte]).expect("leads");
        cluster.run_for(MS);
    }
    cluster.heal();
    assert!(run_until_half_way(&mut cluster, 0) > older.index);
    cluster.crash(0);
    cluster.nodes[1].offers = false;
    cluster.run_for(1000 * MS);
    assert_eq!(cluster.leader(), Some(1));
    cluster.step(1, Input::Offer(&older, state_hash(&older.bytes))).expect("wanted");
    run_until_caught_up(&mut cluster, 1, 200 * MS);
    assert_eq!(cluster.nodes[2].installed, [older.index]);
}

#[test]
fn a_snapshot_replaces_a_conflicting_suffix() {
    let mut cluster = Cluster::with(3, small);
    cluster.elect(2);
    cluster.isolate(&[2]);
    // More than the others will have when its snapshot is taken, and none of it committed.
    for round in 0..100u8 {
        cluster.propose(2, &[round; 100]).expect("its quorum was heard just now");
    }
    cluster.nodes[2].up = false;
    cluster.elect(0);
    let reached = cluster.log(2).last();
    staged::leave_behind(&mut cluster, 2);
    assert!(cluster.log(0).base() > LogIndex(10));
    cluster.nodes[2].up = true;
    cluster.heal();
    run_until_caught_up(&mut cluster, 0, 500 * MS);
    assert_eq!(cluster.nodes[2].installed.len(), 1);
    assert!(reached > LogIndex(100));
    cluster.run_for(100 * MS);
    let last = cluster.log(0).last();
    assert_eq!((cluster.log(2).last(), cluster.log(2).term_at(last)), (last, cluster.log(0).term_at(last)));
}

#[test]
fn a_snapshot_whose_rest_has_left_the_log_is_taken_anew() {
    let mut cluster = lagging();
    // One chunk in ten arrives: the transfer takes longer than the log can wait.
    let chunks = watch_chunks(&mut cluster, |number| !number.is_multiple_of(10));
    cluster.heal();
    let mut largest = 0;
    for round in 0..600 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok(), "a transfer never pins the log");
        cluster.run_for(MS);
        largest = largest.max(cluster.log(0).bytes());
    }
    assert!(largest > 32 << 10, "it waits while there is room: {largest}");
    assert!(chunks.get() > 20 && cluster.nodes[2].installed.is_empty());
    cluster.filter = None;
    run_until_caught_up(&mut cluster, 0, 500 * MS);
}

#[test]
fn a_state_over_the_limit_is_refused_and_not_asked_for_all_the_time() {
    let mut cluster = Cluster::with(3, |config| {
        small(config);
        config.limits.snapshot_bytes = 10_000;
    });
    cluster.elect(0);
    cluster.nodes[0].state_bytes = 10_001;
    staged::leave_behind(&mut cluster, 2);
    cluster.nodes[0].offers = false;
    cluster.heal();
    cluster.run_for(50 * MS);
    let (machine, log) = (cluster.machine(0), cluster.log(0));
    let wanted = machine.snapshot_wanted(log).expect("a peer needs one");
    assert!(wanted >= log.base() && wanted <= machine.applied_index());
    let refused = cluster.offer(0);
    assert_eq!(refused, Err(Refused::Request(Error::TooLarge { body_bytes: 10_001, limit_bytes: 10_000 })));
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(0).snapshot_wanted(cluster.log(0)), None, "not again at once");
    cluster.run_for(500 * MS);
    assert!(cluster.machine(0).snapshot_wanted(cluster.log(0)).is_some());
    assert_eq!(peer_state(&cluster, 0), PeerState::OutOfReach);
    // A receiver has its own limit.
    let term = cluster.machine(0).term();
    let head = ChunkHead { total_bytes: 20_000, ..ChunkHead::default() };
    let id = SnapshotId { index: LogIndex(5000), term, hash: 1 };
    cluster.inject(0, 2, term, Body::Chunk(ChunkHead { id, ..head }, &[0; 100]));
    assert_eq!(cluster.nodes[2].dropped.last(), Some(&DropReason::TooLarge));
    cluster.nodes[0].state_bytes = 10_000;
    cluster.offer(0).expect("fits");
    cluster.flush(0);
    run_until_caught_up(&mut cluster, 0, 200 * MS);
    // What a sender adds to a state of the full size passes, and not a byte more.
    let mut drops_of = |total_bytes: u32| {
        let before = cluster.nodes[2].dropped.len();
        let head = ChunkHead { total_bytes, ..head };
        cluster.inject(0, 2, term, Body::Chunk(ChunkHead { id, ..head }, &[0; 100]));
        cluster.nodes[2].dropped[before..].to_vec()
    };
    assert_eq!(drops_of(10_000 + 4096), []);
    assert_eq!(drops_of(10_000 + 4097), [DropReason::TooLarge]);
}

/// It seldom shrinks, and each try costs the leader the writing of what does fit.
#[test]
fn a_state_over_the_limit_is_asked_for_ever_more_rarely() {
    let mut cluster = Cluster::with(3, |config| {
        small(config);
        config.limits.snapshot_bytes = 10_000;
    });
    cluster.elect(0);
    cluster.nodes[0].offers = false;
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let from = cluster.now;
        while cluster.machine(0).snapshot_wanted(cluster.log(0)).is_none() {
            cluster.run_for(20 * MS);
        }
        pauses.push((cluster.now - from) / (200 * MS));
        cluster.step(0, Input::TooLarge(10_001)).expect("taken in");
        assert_eq!(cluster.machine(0).snapshot_wanted(cluster.log(0)), None);
        assert_eq!(cluster.machine(0).outgrown_bytes(), Some(10_001));
    }
    assert_eq!(pauses[1..], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    cluster.run_for(61_000 * MS);
    cluster.offer(0).expect("small enough by now");
    cluster.flush(0);
    assert_eq!(cluster.machine(0).outgrown_bytes(), None);
    run_until_caught_up(&mut cluster, 0, 500 * MS);
}

#[test]
fn an_answer_about_more_than_the_snapshot_or_about_another_is_dropped() {
    let mut cluster = lagging();
    let sent = Rc::new(Cell::new(None));
    let seen = sent.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        if let Body::Chunk(head, _) = message.body {
            seen.set(Some((head.id, head.total_bytes)));
        }
        true
    }));
    cluster.heal();
    while sent.get().is_none() {
        cluster.run_for(LATENCY_NS / 4);
    }
    let ((id, total_bytes), term) = (sent.get().expect("sent"), cluster.machine(0).term());
    let other = SnapshotId { hash: id.hash ^ 1, ..id };
    for (id, offset) in [(id, total_bytes + 1), (other, 0), (other, total_bytes)] {
        let before = cluster.machine(0).clone();
        cluster.inject(2, 0, term, Body::ChunkAck(ChunkAck { id, offset, gap_end: 0 }));
        assert_eq!(cluster.nodes[0].dropped.pop(), Some(DropReason::Unexpected));
        assert_eq!(cluster.machine(0).peers()[1].snapshot_bytes(), before.peers()[1].snapshot_bytes());
    }
    cluster.filter = None;
    run_until_caught_up(&mut cluster, 0, 200 * MS);
}

/// Also where nobody else follows, what comes after a snapshot stays until it has arrived.
#[test]
fn the_only_follower_gets_one_snapshot_while_the_leader_goes_on() {
    let mut cluster = Cluster::of_some_with(2, 1, small);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = STATE_BYTES);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(1, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(50 * MS);
    staged::leave_behind(&mut cluster, 1);
    cluster.heal();
    while cluster.machine(0).peers()[0].state != PeerState::Snapshot {
        cluster.run_for(LATENCY_NS);
    }
    // Nothing arrives for a while.
    cluster.flights.clear();
    for _ in 0..60 {
        cluster.propose(0, &[1; 100]).expect("leads");
        cluster.flights.clear();
    }
    let end = cluster.now + 300 * MS;
    while cluster.log(1).last() < cluster.log(0).last() {
        assert!(cluster.now < end);
        cluster.run_for(LATENCY_NS);
        assert_ne!(cluster.machine(0).peers()[0].state, PeerState::OutOfReach, "what follows the snapshot is there");
    }
    assert_eq!(cluster.nodes[1].installed.len(), 1);
}

/// Taking one takes a while: until it is there, what follows the state of the moment at which it was asked for stays.
#[test]
fn the_log_waits_for_the_snapshot_that_was_asked_for() {
    let mut cluster = lagging();
    cluster.nodes[0].offers = false;
    cluster.heal();
    while cluster.machine(0).snapshot_wanted(cluster.log(0)).is_none() {
        cluster.run_for(LATENCY_NS);
    }
    let snapshot = cluster.snapshot(0);
    for _ in 0..60 {
        cluster.propose(0, &[1; 100]).expect("leads");
        cluster.run_for(2 * LATENCY_NS);
    }
    cluster.step(0, Input::Offer(&snapshot, state_hash(&snapshot.bytes))).expect("what follows it is there");
    run_until_caught_up(&mut cluster, 0, 200 * MS);
}

#[test]
fn what_is_not_applied_or_too_old_is_no_snapshot() {
    let mut cluster = lagging();
    cluster.nodes[0].offers = false;
    cluster.heal();
    let good = cluster.snapshot(0);
    for index in [LogIndex::ZERO, cluster.log(0).base().prev(), cluster.machine(0).applied_index().next()] {
        cluster.run_for(500 * MS);
        assert!(cluster.machine(0).snapshot_wanted(cluster.log(0)).is_some());
        let bad = Snapshot { index, ..good.clone() };
        let refused = cluster.step(0, Input::Offer(&bad, state_hash(&bad.bytes)));
        assert_eq!(refused, Err(Refused::Request(Error::SnapshotUnusable)), "{index}");
    }
    let refused = cluster.step(1, Input::Offer(&good, 0));
    assert!(matches!(refused, Err(Refused::Request(Error::NotLeader { .. }))));
}

#[test]
fn a_replica_whose_state_is_wrong_gets_no_snapshot() {
    let mut cluster = lagging();
    cluster.heal();
    run_until_caught_up(&mut cluster, 0, 500 * MS);
    let at = cluster.log(0).last().next();
    cluster.nodes[2].goes_wrong_at = Some((at, 7));
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(200 * MS);
    assert!(cluster.machine(2).fenced().is_some());
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    cluster.run_for(500 * MS);
    assert_eq!((peer_state(&cluster, 0), cluster.nodes[2].installed.len()), (PeerState::OutOfReach, 1));
}

/// willemt/raft #118: appends of before the snapshot come again after it.
#[test]
fn a_repeated_append_after_a_snapshot_changes_nothing() {
    let mut cluster = Cluster::with(3, small);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.propose(0, b"old").expect("leads");
    let old = cluster.take(|_, to, body| to == 2 && matches!(body, Body::Append(..)));
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    cluster.run_for(500 * MS);
    assert_eq!(cluster.nodes[2].installed.len(), 1);
    let (last, commit) = (cluster.log(2).last(), cluster.machine(2).commit());
    let header = cluster.log(2).header(last).copied();
    for append in old.iter().chain(&old) {
        cluster.deliver(append);
    }
    assert_eq!((cluster.log(2).last(), cluster.machine(2).commit()), (last, commit));
    assert_eq!(cluster.log(2).header(last).copied(), header);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(2).commit(), index);
}

/// It has no use for a state any more, and what it did get of one is not put in the place of its own.
#[test]
fn a_replica_that_stops_applying_midway_takes_no_more_of_its_snapshot() {
    let mut cluster = lagging();
    cluster.heal();
    run_until_half_way(&mut cluster, 0);
    cluster.stop(2);
    cluster.run_for(500 * MS);
    assert!(cluster.nodes[2].dropped.contains(&DropReason::Unexpected));
    assert!(cluster.nodes[2].installed.is_empty() && cluster.machine(2).has_stopped());
}

/// As one that stopped: a state that was found to be wrong is looked into, not replaced.
#[test]
fn a_replica_that_is_fenced_midway_takes_no_more_of_its_snapshot() {
    let cluster = rules::fenced_midway(Sabotage::default());
    assert!(cluster.nodes[2].dropped.contains(&DropReason::Unexpected));
}

#[test]
fn what_was_installed_is_acknowledged_without_an_append() {
    rules::installed_and_no_append(Sabotage::default());
}

/// What was durable belonged to the log before.
#[test]
fn a_snapshot_over_a_longer_log_counts_once_the_disk_has_it() {
    rules::installed_over_a_longer_log(Sabotage::default());
}
