//! Snapshots that a follower sends in its leader's place.

use std::cell::Cell;
use std::rc::Rc;

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules, staged};
use trimaran_raft::{
    Ack, Body, ChunkAck, ChunkHead, DropReason, Error, Input, LogIndex, NodeId, PeerState, Refused, Sabotage, Snapshot,
    SnapshotAsk, SnapshotId, Term, state_hash,
};

const STATE_BYTES: usize = 200_000;
/// Datagrams that such a state takes.
const CHUNKS: usize = 146;

/// Nodes with small logs; those of `away` are cut off until the log has forgotten what they lack.
fn lagging(count: usize, away: &[usize]) -> Cluster {
    let mut cluster = Cluster::with(count, |config| config.limits.log_bytes = 64 << 10);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = STATE_BYTES);
    cluster.elect(0);
    cluster.isolate(away);
    staged::leave_behind(&mut cluster, away[0]);
    cluster.isolate(away);
    cluster
}

/// Counts the chunks by who sends them.
fn watch_chunks(cluster: &mut Cluster) -> Rc<[Cell<usize>; 5]> {
    let counts: Rc<[Cell<usize>; 5]> = Rc::default();
    let counters = counts.clone();
    cluster.filter = Some(Box::new(move |from, _, message| {
        let count = &counters[from];
        count.set(count.get() + usize::from(matches!(message.body, Body::Chunk(..))));
        true
    }));
    counts
}

fn sent(counts: &[Cell<usize>; 5]) -> [usize; 5] {
    counts.each_ref().map(Cell::get)
}

fn run_until_caught_up(cluster: &mut Cluster, index: usize, within_ns: u64) {
    let end = cluster.now + within_ns;
    loop {
        let leader = cluster.leader();
        if leader.is_some_and(|leader| cluster.machine(index).applied_index() >= cluster.machine(leader).commit()) {
            return;
        }
        assert!(cluster.now < end, "node {index} is at {}", cluster.machine(index).applied_index());
        cluster.run_for(MS);
    }
}

/// Runs until half of the snapshot is with node `index`.
fn run_until_half_way(cluster: &mut Cluster, index: usize) -> SnapshotId {
    let seen: Rc<Cell<Option<ChunkAck>>> = Rc::default();
    let see = seen.clone();
    cluster.filter = Some(Box::new(move |from, _, message| {
        if let Body::ChunkAck(ack) = message.body
            && from == index
        {
            see.set(Some(ack));
        }
        true
    }));
    for _ in 0..10_000 {
        cluster.run_for(LATENCY_NS / 4);
        if let Some(ack) = seen.get().filter(|ack| ack.offset > STATE_BYTES as u32 / 2) {
            cluster.filter = None;
            return ack.id;
        }
    }
    panic!("no transfer");
}

fn state_of(cluster: &Cluster, leader: usize, index: usize) -> (PeerState, Option<NodeId>) {
    let id = member(index, 1).id;
    let peer = cluster.machine(leader).peers().iter().find(|peer| peer.id() == id).expect("a peer");
    (peer.state, peer.donor())
}

#[test]
fn a_follower_sends_the_snapshot_and_the_leader_goes_on() {
    let mut cluster = lagging(3, &[2]);
    let chunks = watch_chunks(&mut cluster);
    let term = cluster.machine(0).term();
    cluster.heal();
    for round in 0..200u8 {
        let index = cluster.propose(0, &[round; 100]).expect("leads");
        cluster.run_for(2 * LATENCY_NS);
        assert_eq!(cluster.machine(0).commit(), index, "commit takes a round trip, transfer or not");
    }
    run_until_caught_up(&mut cluster, 2, 50 * MS);
    let sent = sent(&chunks);
    assert!((CHUNKS..CHUNKS + 4).contains(&sent[1]) && sent[0] == 0, "each chunk once, by the follower: {sent:?}");
    assert_eq!((cluster.nodes[2].installed.len(), cluster.machine(0).term()), (1, term));
    assert_eq!(state_of(&cluster, 0, 2), (PeerState::Replicate, None));
    assert_eq!(cluster.machine(1).donates_to(), None);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.nodes[2].digest, cluster.nodes[0].digest);
    assert!(cluster.offer(1).is_err(), "nothing is wanted of it any more");
}

/// Also through many losses: who gets further is not given another donor.
#[test]
fn a_leader_hears_how_far_the_one_has_got_that_is_sent_a_snapshot() {
    let mut cluster = lagging(3, &[2]);
    let lost = Cell::new(0);
    cluster.filter = Some(Box::new(move |_, _, message| {
        lost.set(lost.get() + usize::from(matches!(message.body, Body::Chunk(..))));
        !matches!(message.body, Body::Chunk(..)) || lost.get().is_multiple_of(30)
    }));
    cluster.heal();
    let mut seen = Vec::new();
    let from = cluster.now;
    while cluster.nodes[2].installed.is_empty() {
        assert!(cluster.now < from + 90_000 * MS, "it gets nowhere");
        cluster.run_for(10 * MS);
        let peer = &cluster.machine(0).peers()[1];
        if let Some(donor) = peer.donor() {
            assert_eq!((donor, cluster.machine(1).donates_to()), (member(1, 1).id, Some(member(2, 1).id)));
            seen.extend(peer.snapshot_bytes());
        }
    }
    seen.dedup();
    assert!(seen.is_sorted() && seen.len() > 20);
    assert!(cluster.now > from + 11_000 * MS, "longer than a donor may take without progress");
}

#[test]
fn where_a_donor_dies_midway_the_leader_goes_on_with_the_same_bytes() {
    let mut cluster = lagging(3, &[2]);
    cluster.run_for(100 * MS);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    let chunks = watch_chunks(&mut cluster);
    cluster.crash(1);
    run_until_caught_up(&mut cluster, 2, 1000 * MS);
    let sent = sent(&chunks);
    assert!(sent[0] > 0 && sent[0] < CHUNKS - 40, "{sent:?}: what was there was not sent again");
    assert_eq!(cluster.nodes[2].installed.len(), 1);
}

#[test]
fn where_a_donor_gives_nothing_the_leader_sends_its_own() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[1].offers = false;
    let chunks = watch_chunks(&mut cluster);
    cluster.heal();
    let from = cluster.now;
    run_until_caught_up(&mut cluster, 2, 20_000 * MS);
    let sent = sent(&chunks);
    assert!(sent[0] >= CHUNKS && sent[1] == 0, "{sent:?}");
    assert!(cluster.now - from >= 1000 * MS, "writing a large state takes a while");
    // Next time the follower is asked again.
    cluster.nodes[1].offers = true;
    cluster.filter = None;
    staged::leave_behind(&mut cluster, 2);
    let chunks = watch_chunks(&mut cluster);
    cluster.heal();
    run_until_caught_up(&mut cluster, 2, 1000 * MS);
    assert!(chunks[0].get() == 0 && chunks[1].get() >= CHUNKS);
}

#[test]
fn a_snapshot_that_the_leader_has_already_is_sent_by_itself() {
    let mut cluster = lagging(5, &[3, 4]);
    cluster.nodes.iter_mut().for_each(|node| node.offers = node.config.me.id.slot.0 == 1);
    cluster.heal();
    cluster.isolate(&[4]);
    cluster.run_for(15_000 * MS);
    // No donor has given anything, so node 3 has the leader's by now; and while that is kept, node 4 gets the same.
    assert_eq!(cluster.nodes[3].installed.len(), 1);
    assert!(cluster.nodes[4].installed.is_empty());
}

#[test]
fn two_that_need_one_are_served_by_two_followers() {
    let mut cluster = lagging(5, &[3, 4]);
    let chunks = watch_chunks(&mut cluster);
    cluster.heal();
    for _ in 0..100 {
        cluster.run_for(LATENCY_NS);
        let donors: Vec<_> = [3, 4].iter().filter_map(|index| state_of(&cluster, 0, *index).1).collect();
        assert!(donors.len() < 2 || donors[0] != donors[1], "one at a time: {donors:?}");
    }
    run_until_caught_up(&mut cluster, 3, 500 * MS);
    run_until_caught_up(&mut cluster, 4, 500 * MS);
    let sent = sent(&chunks);
    assert!(sent[0] == 0 && sent[1] >= CHUNKS && sent[2] >= CHUNKS, "{sent:?}");
}

#[test]
fn a_follower_whose_state_is_wrong_gives_nothing() {
    let mut cluster = lagging(5, &[4]);
    let at = cluster.log(0).last().next();
    cluster.nodes[1].goes_wrong_at = Some((at, 7));
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(200 * MS);
    assert!(cluster.machine(1).fenced().is_some());
    let chunks = watch_chunks(&mut cluster);
    cluster.heal();
    run_until_caught_up(&mut cluster, 4, 500 * MS);
    assert_eq!(chunks[1].get(), 0);
    let ask = SnapshotAsk { to: member(4, 1).id, least: LogIndex(1) };
    cluster.inject(0, 1, cluster.machine(0).term(), Body::SnapshotAsk(ask));
    assert_eq!(cluster.nodes[1].dropped.last(), Some(&DropReason::Unexpected));
}

#[test]
fn the_next_leader_goes_on_with_what_its_donation_was() {
    let mut cluster = lagging(3, &[2]);
    cluster.run_for(100 * MS);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    let chunks = watch_chunks(&mut cluster);
    cluster.crash(0);
    cluster.run_for(1000 * MS);
    assert_eq!(cluster.leader(), Some(1));
    run_until_caught_up(&mut cluster, 2, 1000 * MS);
    assert!(chunks[1].get() < CHUNKS - 40, "{}", chunks[1].get());
    assert_eq!(cluster.nodes[2].installed.len(), 1);
}

/// A peer that has heard nothing of its leader yet takes what its donor sends, and takes it for no leader.
#[test]
fn a_chunk_says_nothing_of_who_leads() {
    rules::a_chunk_before_the_leader_is_heard(Sabotage::default());
}

#[test]
fn a_donor_stops_once_it_is_asked_no_more() {
    let mut cluster = lagging(3, &[2]);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    // The one that needs it is gone, and so is the leader's wish.
    cluster.crash(2);
    let chunks = watch_chunks(&mut cluster);
    cluster.run_for(4000 * MS);
    assert_eq!((cluster.machine(1).donates_to(), state_of(&cluster, 0, 2)), (None, (PeerState::OutOfReach, None)));
    let before = chunks[1].get();
    cluster.run_for(3000 * MS);
    assert_eq!(chunks[1].get(), before);
    let ticks = cluster.machine(1).next_deadline();
    assert!(ticks.0 > cluster.now, "nothing is left to do");
}

/// What follows the state of the moment at which a donor was asked stays, while there is room.
#[test]
fn the_log_waits_for_what_a_donor_sends() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[1].offers = false;
    cluster.heal();
    while cluster.machine(1).donates_to().is_none() {
        cluster.run_for(LATENCY_NS);
    }
    let snapshot = cluster.snapshot(1);
    for _ in 0..60 {
        cluster.propose(0, &[1; 100]).expect("leads");
        cluster.run_for(2 * LATENCY_NS);
    }
    assert!(cluster.log(0).base() <= snapshot.index);
    let hash = state_hash(&snapshot.bytes);
    cluster.step(1, Input::Offer(&snapshot, hash)).expect("what follows it is with the leader");
    run_until_caught_up(&mut cluster, 2, 200 * MS);
    assert_eq!(cluster.nodes[2].installed, [snapshot.index]);
}

/// Where the load goes on and the transfer is slow, the log moves on beyond the snapshot: another is sent, and none pins the log.
#[test]
fn a_donation_whose_rest_has_left_the_log_is_begun_anew() {
    let mut cluster = lagging(3, &[2]);
    let count = Cell::new(0);
    cluster.filter = Some(Box::new(move |_, to, message| {
        count.set(count.get() + usize::from(matches!(message.body, Body::Chunk(..))));
        to != 2 || !matches!(message.body, Body::Chunk(..)) || count.get().is_multiple_of(10)
    }));
    cluster.heal();
    let own = Rc::new(Cell::new(0));
    let sent = own.clone();
    let mut lossy = cluster.filter.take().expect("set");
    cluster.filter = Some(Box::new(move |from, to, message| {
        sent.set(sent.get() + usize::from(from == 0 && matches!(message.body, Body::Chunk(..))));
        lossy(from, to, message)
    }));
    for round in 0..14_000 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok(), "a transfer never pins the log");
        cluster.run_for(MS);
    }
    assert!(cluster.nodes[2].installed.is_empty());
    assert!(own.get() > 0, "to begin anew is no progress: the leader tries its own");
    cluster.filter = None;
    run_until_caught_up(&mut cluster, 2, 500 * MS);
    assert_eq!(cluster.nodes[2].digest, cluster.nodes[0].digest);
}

#[test]
fn only_this_terms_leader_may_ask_and_only_for_another_member() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    let ask = |to| Body::SnapshotAsk(SnapshotAsk { to, least: LogIndex(1) });
    let (leader, donor, needy) = (member(0, 1).id, member(1, 1).id, member(2, 1).id);
    let cases = [
        (2, term, needy, DropReason::Unexpected),
        (0, Term(term.0 - 1), needy, DropReason::StaleTerm),
        (0, term, donor, DropReason::Contradiction),
        (0, term, leader, DropReason::Contradiction),
        (0, term, member(2, 9).id, DropReason::NotMember),
    ];
    for (from, term, to, reason) in cases {
        cluster.inject(from, 1, term, ask(to));
        assert_eq!(cluster.nodes[1].dropped.pop(), Some(reason), "{from} {term} {to}");
        assert_eq!(cluster.machine(1).donates_to(), None);
    }
    cluster.inject(1, 0, term, ask(needy));
    assert_eq!(cluster.nodes[0].dropped.pop(), Some(DropReason::Unexpected), "a leader is asked by nobody");
    cluster.inject(0, 1, term, ask(needy));
    assert_eq!(cluster.machine(1).donates_to(), Some(needy));
    // An answer to what it does not send.
    let chunk = ChunkAck { id: SnapshotId { index: LogIndex(1), term, hash: 1 }, ..ChunkAck::default() };
    cluster.inject(2, 1, term, Body::ChunkAck(chunk));
    assert_eq!(cluster.nodes[1].dropped.pop(), Some(DropReason::Unexpected));
    cluster.inject(0, 1, term.next(), ask(needy));
    assert_eq!((cluster.machine(1).term(), cluster.machine(1).donates_to()), (term.next(), None));
}

#[test]
fn no_more_for_one_peer_ends_nothing_for_another() {
    let mut cluster = Cluster::new(4);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    let (needy, other) = (member(2, 1).id, member(3, 1).id);
    for (to, least, donates_to) in [
        (needy, LogIndex(1), Some(needy)),
        (other, SnapshotAsk::NOTHING, Some(needy)),
        (needy, SnapshotAsk::NOTHING, None),
    ] {
        cluster.inject(0, 1, term, Body::SnapshotAsk(SnapshotAsk { to, least }));
        assert_eq!(cluster.machine(1).donates_to(), donates_to, "{to} {least}");
    }
}

/// Two send at once for a moment, when a leader has given its donor up and the donor does not know yet: the leader's goes on.
#[test]
fn the_leaders_snapshot_goes_on_while_a_donors_still_arrives() {
    let mut cluster = lagging(3, &[2]);
    cluster.heal();
    run_until_caught_up(&mut cluster, 2, 500 * MS);
    let term = cluster.machine(0).term();
    let id = |index, hash| SnapshotId { index: LogIndex(index), term, hash };
    let mut chunk = |from: usize, id| {
        let head = ChunkHead { id, state_bytes: 900, total_bytes: 1000, offset: 0 };
        let before = cluster.nodes[2].dropped.len();
        cluster.inject(from, 2, term, Body::Chunk(head, &[7; 100]));
        cluster.nodes[2].dropped.get(before).copied()
    };
    assert_eq!(chunk(1, id(90_000, 1)), None);
    assert_eq!(chunk(0, id(80_000, 2)), None, "also where it is older");
    assert_eq!(chunk(1, id(90_000, 1)), Some(DropReason::Unexpected));
    assert_eq!(chunk(0, id(70_000, 3)), Some(DropReason::Unexpected), "an older one of the same sender");
    assert_eq!(chunk(1, id(80_000, 2)), None, "the same bytes are as good from anybody");
    assert_eq!(chunk(0, id(95_000, 4)), None);
    // What nothing has come of for long may never be finished.
    cluster.run_for(500 * MS);
    let head = ChunkHead { id: id(60_000, 5), state_bytes: 900, total_bytes: 1000, offset: 0 };
    cluster.nodes[2].dropped.clear();
    cluster.inject(1, 2, term, Body::Chunk(head, &[7; 100]));
    assert_eq!(cluster.nodes[2].dropped, []);
}

#[test]
fn a_donor_whose_snapshot_would_be_too_old_is_not_troubled() {
    let mut cluster = lagging(3, &[2]);
    let term = cluster.machine(0).term();
    cluster.nodes[1].offers = false;
    let least = cluster.machine(1).applied_index().next();
    let ask = |least| Body::SnapshotAsk(SnapshotAsk { to: member(2, 1).id, least });
    cluster.inject(0, 1, term, ask(least));
    assert_eq!(cluster.machine(1).snapshot_wanted(cluster.log(1)), None);
    let refused = cluster.offer(1);
    assert!(matches!(refused, Err(Refused::Request(_))));
    cluster.inject(0, 1, term, ask(least.prev()));
    assert_eq!(cluster.machine(1).snapshot_wanted(cluster.log(1)), Some(least.prev()));
    cluster.offer(1).expect("it reaches that far");
}

/// Then so is everybody's: the leader finds that out at once, and says so.
#[test]
fn a_donor_whose_state_is_too_large_says_so() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[0].offers = false;
    cluster.nodes[1].offers = false;
    cluster.heal();
    while cluster.machine(1).donates_to().is_none() {
        cluster.run_for(LATENCY_NS);
    }
    cluster.step(1, Input::TooLarge(300 << 20)).expect("taken in");
    cluster.run_for(30 * MS);
    assert_eq!(state_of(&cluster, 0, 2), (PeerState::OutOfReach, None));
    assert!(cluster.machine(0).snapshot_wanted(cluster.log(0)).is_some(), "it tries its own");
    cluster.step(0, Input::TooLarge(300 << 20)).expect("taken in");
    cluster.run_for(5000 * MS);
    assert_eq!((state_of(&cluster, 0, 2), cluster.machine(1).donates_to()), ((PeerState::OutOfReach, None), None));
    cluster.offer(0).expect("small enough by now, and wanted again");
    cluster.flush(0);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.nodes[2].digest, cluster.nodes[0].digest);
}

/// Has node 1 asked for a snapshot in its leader's place, and gives it.
fn give(cluster: &mut Cluster) -> Snapshot {
    cluster.nodes[1].offers = false;
    cluster.heal();
    let end = cluster.now + 1000 * MS;
    while cluster.machine(1).snapshot_wanted(cluster.log(1)).is_none() {
        assert!(cluster.now < end, "nothing is wanted of it");
        cluster.run_for(LATENCY_NS);
    }
    let snapshot = cluster.snapshot(1);
    cluster.step(1, Input::Offer(&snapshot, state_hash(&snapshot.bytes))).expect("wanted");
    assert_eq!(Rc::strong_count(&snapshot.bytes), 2, "it is kept");
    snapshot
}

/// A follower that hears its leader campaigns never, and must drop what it has kept all the same.
#[test]
fn what_a_donor_kept_goes_when_it_is_done() {
    let mut cluster = lagging(3, &[2]);
    let snapshot = give(&mut cluster);
    run_until_caught_up(&mut cluster, 2, 500 * MS);
    cluster.run_for(LATENCY_NS);
    assert_eq!(Rc::strong_count(&snapshot.bytes), 1);
    assert!(cluster.machine(1).next_deadline().0 > cluster.now);
}

#[test]
fn what_a_donor_kept_goes_with_its_term() {
    let mut cluster = lagging(3, &[2]);
    let snapshot = give(&mut cluster);
    cluster.cut.extend([(1, 2), (2, 1)]);
    let term = cluster.machine(1).term().next();
    cluster.append_one(2, 1, term, cluster.log(1).last().next());
    assert_eq!(cluster.machine(1).leader(), Some(member(2, 1)));
    cluster.run_for(MS);
    assert_eq!(Rc::strong_count(&snapshot.bytes), 1);
}

/// So does a leader's own, once it leads no more.
#[test]
fn what_a_leader_kept_goes_with_its_leadership() {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.donors = false;
    });
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = STATE_BYTES);
    cluster.elect(0);
    staged::leave_behind(&mut cluster, 2);
    cluster.nodes[0].offers = false;
    cluster.heal();
    cluster.run_for(50 * MS);
    let snapshot = cluster.snapshot(0);
    cluster.step(0, Input::Offer(&snapshot, state_hash(&snapshot.bytes))).expect("wanted");
    assert_eq!(Rc::strong_count(&snapshot.bytes), 2);
    let term = cluster.machine(0).term().next();
    cluster.append_one(1, 0, term, cluster.log(0).last().next());
    cluster.run_for(MS);
    assert_eq!((cluster.machine(0).leader(), Rc::strong_count(&snapshot.bytes)), (Some(member(1, 1)), 1));
}

/// A state is written for a while. A wish that has become void meanwhile is not written for again and again.
#[test]
fn a_wish_ends_with_its_term() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[1].offers = false;
    cluster.heal();
    while cluster.machine(1).donates_to().is_none() {
        cluster.run_for(LATENCY_NS);
    }
    let snapshot = cluster.snapshot(1);
    let term = cluster.machine(1).term().next();
    cluster.append_one(2, 1, term, cluster.log(1).last().next());
    assert_eq!(cluster.machine(1).snapshot_wanted(cluster.log(1)), None);
    let refused = cluster.step(1, Input::Offer(&snapshot, state_hash(&snapshot.bytes)));
    assert!(matches!(refused, Err(Refused::Request(Error::NotLeader { .. }))));
    // The next leader's wish is a new one.
    cluster.nodes[1].offers = true;
    let ask = SnapshotAsk { to: member(0, 1).id, least: LogIndex(1) };
    cluster.inject(2, 1, term, Body::SnapshotAsk(ask));
    let chunks = cluster.take(|from, to, body| (from, to) == (1, 0) && matches!(body, Body::Chunk(..)));
    assert_eq!(chunks.len(), 1, "it is given out at once");
}

/// The leader finds out that its donor's state is another than its own, and does not wait for who of them is right: with the
/// receiver's help a wrong state would win.
#[test]
fn a_donor_in_doubt_is_stopped_at_once() {
    let mut cluster = lagging(3, &[2]);
    cluster.run_for(100 * MS);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    // Nothing more arrives of the donor's.
    cluster.filter = Some(Box::new(|from, _, message| from != 1 || !matches!(message.body, Body::Chunk(..))));
    cluster.flights.retain(|flight| flight.from != 1 || flight.to != 2);
    let at = cluster.log(0).last().next();
    cluster.nodes[1].goes_wrong_at = Some((at, 7));
    cluster.nodes[0].offers = false;
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert_eq!((cluster.machine(1).fenced(), cluster.machine(1).donates_to()), (None, None));
    cluster.filter = None;
    cluster.offer(0).expect("wanted");
    cluster.flush(0);
    run_until_caught_up(&mut cluster, 2, 1000 * MS);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.nodes[2].digest, cluster.nodes[0].digest);
    assert_eq!((cluster.machine(0).fenced(), cluster.machine(1).fenced()), (None, Some(at)));
}

/// What it may have kept of before would lack what the leader forgets meanwhile.
#[test]
fn a_donor_is_asked_for_what_it_has_applied_at_least() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[1].offers = false;
    let asked: Rc<Cell<Option<LogIndex>>> = Rc::default();
    let ask = asked.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        if let Body::SnapshotAsk(wish) = message.body {
            ask.set(Some(wish.least));
        }
        true
    }));
    cluster.run_for(100 * MS);
    let (base, applied) = (cluster.log(0).base(), cluster.machine(1).applied_index());
    cluster.heal();
    cluster.run_for(100 * MS);
    assert!(base < applied && asked.get() == Some(applied), "{base} {applied} {asked:?}");
}

/// As one does that is overtaken by its leader's log again and again.
#[test]
fn a_donor_that_begins_anew_and_gets_no_further_is_given_up() {
    let mut cluster = lagging(3, &[2]);
    cluster.nodes[1].offers = false;
    cluster.heal();
    cluster.run_for(100 * MS);
    assert_eq!(state_of(&cluster, 0, 2).1, Some(member(1, 1).id));
    cluster.filter = Some(Box::new(|from, _, message| from != 2 || !matches!(message.body, Body::Ack(_))));
    cluster.flights.clear();
    let term = cluster.machine(0).term();
    let from = cluster.now;
    while state_of(&cluster, 0, 2).1.is_some() {
        for snapshot_bytes in [500, 1000] {
            cluster.inject(2, 0, term, Body::Ack(Ack { snapshot_bytes, ..Ack::default() }));
            cluster.run_for(50 * MS);
        }
        assert!(cluster.now < from + 12_000 * MS, "it begins anew for ever");
    }
    assert!(cluster.now > from + 9_000 * MS, "a large state is written first");
}
