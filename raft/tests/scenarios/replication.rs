//! Getting the leader's log to everyone, over a network that loses, repeats and reorders.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules, staged};
use trimaran_raft::{
    Ack, AppendHead, Body, DropReason, Entries, Input, LogIndex, Message, PeerState, Proposal, Sabotage, Term,
};

#[test]
fn figure_eight() {
    let (counted, cluster) = staged::figure_eight(Sabotage::default());
    assert!(counted < LogIndex(3), "the old entry is on three of five and not committed");
    assert_eq!(cluster.leader(), Some(4), "who may still replace it");
    assert!(cluster.log(2).term_at(LogIndex(3)) > Some(Term(2)));
}

#[test]
fn a_late_persisted_does_not_count_for_another_entry() {
    let cluster = staged::late_persisted(Sabotage::default());
    assert_eq!(cluster.machine(2).durable(), cluster.log(2).last());
}

#[test]
fn a_commit_index_beyond_what_is_verified_is_clamped() {
    staged::heartbeat_over_a_foreign_tail(Sabotage::default());
}

/// Two logs that part at the beginning, with a term for each entry on both sides: the search takes a message for each term,
/// not for each entry.
#[test]
fn back_tracking_takes_a_message_for_each_term() {
    let mut cluster = Cluster::new(3);
    // Node 0 and node 1 lead by turns, alone; each leaves fifty entries a term to itself.
    for _ in 0..4 {
        for index in [0, 1] {
            cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Append(..))));
            let mut tries = 0;
            while !cluster.machine(index).is_leader() {
                tries += 1;
                assert!(tries < 100, "node {index} is never elected");
                cluster.now += 400 * MS;
                let _ = cluster.step(index, Input::Tick);
                cluster.settle();
            }
            for byte in 0..50 {
                cluster.propose(index, &[byte]).expect("leads");
            }
        }
    }
    let runs = |index: usize| {
        let mut terms = cluster.terms(index);
        terms.dedup();
        terms.len()
    };
    let terms = runs(0) + runs(1);
    assert!(terms > 3 && cluster.log(0).last() > LogIndex(50), "two logs of several terms: {terms}");
    let probes = Rc::new(Cell::new(0));
    let counter = probes.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        counter.set(counter.get() + u32::from(matches!(message.body, Body::Ack(ack) if ack.conflict.is_some())));
        true
    }));
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.log(0), cluster.log(1));
    assert!(probes.get() as usize <= 2 * terms + 4, "{} refusals for {terms} terms", probes.get());
}

#[test]
fn loss_repetition_and_reordering_within_the_window() {
    for seed in 0..20u64 {
        let mut cluster = Cluster::with(3, |config| config.limits.window_messages = 8);
        cluster.elect(0);
        let mut dice = seed;
        for round in 0..200u64 {
            let _ = cluster.propose(0, &round.to_le_bytes());
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let count = cluster.flights.len() as u64;
            match (dice >> 33) % 6 {
                0 if count > 0 => drop(cluster.flights.remove(((dice >> 40) % count) as usize)),
                1 if count > 0 => cluster.flights.push(cluster.flights[((dice >> 40) % count) as usize].clone()),
                2 if count > 1 => cluster.flights.swap(0, ((dice >> 40) % count) as usize),
                _ => cluster.run_for(LATENCY_NS),
            }
        }
        cluster.run_for(200 * MS);
        assert_eq!((cluster.leader(), cluster.log(0).last()), (Some(0), LogIndex(202)));
        assert!((1..3).all(|index| cluster.log(index) == cluster.log(0)));
        assert!((0..3).all(|index| cluster.machine(index).commit() == LogIndex(202)));
    }
}

#[test]
fn a_burst_of_proposals_is_one_append_per_peer() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    for byte in 0..10 {
        let proposal = Proposal { body: &[&[byte]], ..Default::default() };
        cluster.step_only(0, Input::Propose(&proposal)).expect("leads");
    }
    cluster.flush(0);
    let appends = cluster.take(|from, _, _| from == 0);
    assert_eq!(appends.len(), 2);
    for append in &appends {
        cluster.deliver(append);
    }
    assert_eq!(cluster.take(|_, to, _| to == 0).len(), 2, "and one acknowledgement from each");
}

#[test]
fn the_commit_index_needs_no_further_round_trip() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    let index = cluster.propose(0, b"x").expect("leads");
    // There, back, and there again: well before any heartbeat.
    cluster.run_for(3 * LATENCY_NS);
    assert!((0..3).all(|node| cluster.machine(node).commit() == index));
    // The notice asks for no answer, and nothing more is said.
    assert!(cluster.flights.is_empty());
}

#[test]
fn a_lost_last_append_is_sent_again_after_a_few_round_trips() {
    rules::lost_last_append(Sabotage::default());
}

#[test]
fn a_follower_acknowledges_only_what_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(5 * MS);
    cluster.isolate(&[0, 1]);
    cluster.nodes[1].disk.holds = true;
    let before = cluster.machine(0).commit();
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(10 * MS);
    assert_eq!((cluster.log(1).last(), cluster.machine(0).commit()), (index, before));
    cluster.complete(1, true);
    cluster.flush(1);
    cluster.run_for(LATENCY_NS);
    assert_eq!(cluster.machine(0).commit(), index);
}

/// The leader counts itself by its disk too: two followers may commit an entry that the leader has not written yet.
#[test]
fn replication_does_not_wait_for_the_leaders_disk() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.nodes[0].disk.holds = true;
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.isolate(&[2]);
    cluster.settle();
    assert!(cluster.machine(0).commit() < index, "one follower and an unwritten log are no majority");
    cluster.heal();
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
}

#[test]
fn a_follower_acknowledges_only_what_this_leader_verified() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    assert_eq!(cluster.machine(2).durable(), LogIndex(3));
    // Another leader, of which it has verified entry 1 so far: that is what it has of it.
    let head = AppendHead { prev: LogIndex(1), prev_term: Term(1), ack_wanted: true, ..AppendHead::default() };
    cluster.inject(1, 2, Term(3), Body::Append(head, Entries::default()));
    let acks = cluster.take(|from, to, body| {
        from == 2 && to == 1 && matches!(body, Body::Ack(ack) if ack.matched == LogIndex(1) && ack.conflict.is_none())
    });
    assert_eq!(acks.len(), 1);
}

#[test]
fn an_unpersisted_suffix_is_replaced() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.nodes[0].disk.holds = true;
    cluster.isolate(&[0]);
    for byte in 0..5 {
        cluster.propose(0, &[byte]).expect("leads");
    }
    assert_eq!((cluster.machine(0).durable(), cluster.log(0).last()), (LogIndex(2), LogIndex(7)));
    cluster.elect(1);
    cluster.heal();
    cluster.run_for(100 * MS);
    assert_eq!(cluster.log(0), cluster.log(1));
    assert_eq!(cluster.machine(0).durable(), LogIndex(2));
    cluster.nodes[0].disk.holds = false;
    cluster.complete(0, true);
    cluster.flush(0);
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(0).durable(), cluster.log(0).last());
    assert_eq!(cluster.nodes[0].disk.log(), cluster.nodes[1].disk.log());
}

#[test]
fn log_time_goes_on_from_the_newest_entry() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let time = |cluster: &Cluster| cluster.log(0).last_header().expect("an entry").log_time;
    let before = (cluster.now, time(&cluster));
    assert!(before.1 >= 7, "it starts at the first entry's");
    cluster.run_for(70 * MS);
    cluster.propose(0, b"x").expect("leads");
    assert_eq!(time(&cluster) - before.1, cluster.now - before.0);
    // Another leader, whose clock is its own, continues.
    cluster.settle();
    let before = time(&cluster);
    cluster.crash(0);
    cluster.elect(1);
    let header = *cluster.log(1).last_header().expect("an entry");
    assert!(header.log_time > before && header.term == cluster.machine(1).term());
}

/// qdrant #1172: whatever the apply task says, nothing counts as applied that is not known to be committed, after a restart
/// least of all.
#[test]
fn nothing_is_applied_before_it_is_known_to_be_committed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    cluster.crash(2);
    cluster.restart(2);
    let before = cluster.machine(2).commit();
    let _ = cluster.step(2, Input::Applied(&[(cluster.log(0).last(), 7)]));
    assert_eq!((cluster.machine(2).applied_index(), cluster.machine(2).commit()), (before, before));
    assert!(before < cluster.log(2).last());
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(2).applied_index(), cluster.log(0).last());
}

/// With a commit notice that waits, the next entry carries the news; without one it comes after the delay, and costs no round trip.
#[test]
fn news_of_a_commit_waits_a_little_for_the_next_entry() {
    const DELAY_NS: u64 = 5 * MS;
    let mut cluster = Cluster::with(3, |config| config.commit_notice = Duration::from_nanos(DELAY_NS));
    cluster.elect(0);
    cluster.run_for(10 * MS);
    let empty = Rc::new(Cell::new(0));
    let seen = empty.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        if let Body::Append(_, entries) = message.body {
            seen.set(seen.get() + u64::from(entries.remaining() == 0));
        }
        true
    }));
    let first = cluster.propose(0, b"first").expect("leads");
    cluster.settle();
    assert_eq!(cluster.machine(0).commit(), first);
    assert!(cluster.machine(1).commit() < first && empty.get() == 0, "no follower is woken for the news alone");
    let second = cluster.propose(0, b"second").expect("leads");
    cluster.settle();
    assert_eq!((cluster.machine(1).commit(), empty.get()), (first, 0), "the next entry carries it");
    cluster.run_for(DELAY_NS - 2 * LATENCY_NS);
    assert!(cluster.machine(1).commit() < second);
    cluster.run_for(4 * LATENCY_NS);
    assert_eq!((cluster.machine(1).commit(), cluster.machine(2).commit()), (second, second));
    assert_eq!(empty.get(), 2, "one notice each");
    // A dead member holds nobody's news up, and costs no notices again and again.
    cluster.isolate(&[2]);
    let third = cluster.propose(0, b"third").expect("leads");
    cluster.run_for(DELAY_NS + 4 * LATENCY_NS);
    assert_eq!(cluster.machine(1).commit(), third);
}

/// What a leader has verified with a follower it does not replace: one that does contradicts itself, and changes nothing.
#[test]
fn a_leader_that_replaces_what_it_has_verified_is_not_believed() {
    let mut cluster = Cluster::new(3);
    cluster.append_one(0, 1, Term(2), LogIndex(2));
    let head = AppendHead { prev: LogIndex(2), prev_term: Term(2), round: 1, ..AppendHead::default() };
    cluster.inject(0, 1, Term(3), Body::Append(head, Entries::default()));
    assert!(cluster.nodes[1].dropped.is_empty());
    cluster.append_one(0, 1, Term(3), LogIndex(2));
    assert_eq!(cluster.nodes[1].dropped, [DropReason::Contradiction]);
    assert_eq!(cluster.terms(1), [1, 2]);
}

/// A range larger than one flush takes leaves all the same, in the flushes of the same turn.
#[test]
fn what_one_flush_does_not_send_the_next_one_does() {
    let mut cluster = Cluster::with(2, |config| config.limits.window_bytes = 4 << 20);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    for byte in 0..10 {
        let proposal = Proposal { body: &[&[byte; 50_000]], ..Proposal::default() };
        cluster.step_only(0, Input::Propose(&proposal)).expect("leads");
    }
    cluster.flush(0);
    assert_eq!(cluster.machine(0).peers()[0].next(), cluster.log(0).last().next());
    cluster.settle();
    assert_eq!(cluster.machine(1).commit(), cluster.log(0).last());
}

/// An answer that comes twice says nothing new: what is overdue stays so.
#[test]
fn repeated_acknowledgements_do_not_put_a_resend_off() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    // The next heartbeat is far.
    cluster.expire(0);
    cluster.settle();
    cluster.propose(0, b"arrives").expect("leads");
    let append = cluster.flights.remove(0);
    cluster.deliver(&append);
    let acknowledgement = cluster.flights[0].clone();
    cluster.settle();
    cluster.propose(0, b"is lost").expect("leads");
    cluster.flights.clear();
    let due = cluster.deadline(0);
    for _ in 0..5 {
        cluster.now += 10_000;
        cluster.deliver(&acknowledgement);
        cluster.flights.clear();
    }
    assert!(cluster.now < due);
    assert_eq!(cluster.deadline(0), due);
    cluster.expire(0);
    let sent = cluster.take(|_, _, body| matches!(body, Body::Append(_, entries) if entries.remaining() > 0));
    assert_eq!(sent.len(), 1, "what is overdue is sent, not only asked for");
    cluster.deliver(&sent[0]);
    assert_eq!(cluster.log(1).last(), cluster.log(0).last());
}

/// For callers that flush only when something is due.
#[test]
fn an_owed_acknowledgement_wants_a_flush_and_a_settled_replica_none() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.flights.clear();
    let wants = |cluster: &Cluster| cluster.machine(1).wants_flush(cluster.log(1));
    assert!(!wants(&cluster));
    let head = AppendHead { prev: LogIndex(2), prev_term: Term(2), ack_wanted: true, ..AppendHead::default() };
    let message = Message { header: cluster.envelope(0, 1, Term(2)), body: Body::Append(head, Entries::default()) };
    let _ = cluster.step_only(1, Input::Message(cluster.machine(0).me().peer, &message));
    assert!(wants(&cluster));
    cluster.flush(1);
    assert!(!wants(&cluster));
}

/// Two appends change places on their way and are read in one turn: the answer is about the log as it then is.
#[test]
fn an_append_that_came_too_early_is_not_refused_once_what_it_lacked_is_there() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[1].disk.holds = true;
    let first = cluster.propose(0, b"first").expect("leads");
    cluster.propose(0, b"second").expect("leads");
    let appends = cluster.take(|from, _, _| from == 0);
    assert_eq!(appends.len(), 2);
    for append in appends.iter().rev() {
        let message = Message::decode(&append.bytes).expect("whole");
        cluster.step_only(1, Input::Message(member(0, 1).peer, &message)).expect("from its leader");
    }
    cluster.flush(1);
    cluster.settle();
    let peer = &cluster.machine(0).peers()[0];
    assert_eq!((peer.verified, peer.state), (first, PeerState::Replicate), "nothing is searched for");
}

/// The datagrams of one append change places, and then their answers do.
#[test]
fn a_refusal_that_an_acknowledgement_has_overtaken_takes_nothing_back() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    for byte in 0..40 {
        cluster
            .step_only(0, Input::Propose(&Proposal { body: &[&[byte; 100]], ..Proposal::default() }))
            .expect("leads");
    }
    cluster.flush(0);
    let appends = cluster.take(|from, _, _| from == 0);
    let [first, second, ..] = &appends[..] else { panic!("one datagram holds all of it") };
    cluster.deliver(second);
    cluster.deliver(first);
    let answers = cluster.take(|from, _, _| from == 1);
    let [refusal, acknowledgement] = &answers[..] else { panic!("{} answers", answers.len()) };
    let matched = |cluster: &Cluster| cluster.machine(0).peers()[0].matched;
    let before = matched(&cluster);
    cluster.deliver(acknowledgement);
    let acknowledged = matched(&cluster);
    cluster.deliver(refusal);
    assert!(acknowledged > before && matched(&cluster) == acknowledged);
}

#[test]
fn an_acknowledgement_of_what_cannot_be_is_dropped() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(50 * MS);
    let (last, term, peers) = (cluster.log(0).last(), cluster.machine(0).term(), cluster.machine(0).peers().to_vec());
    let good = Ack { matched: last, verified: last, ..Ack::default() };
    let beyond = last.next();
    cluster.nodes[0].dropped.clear();
    for bad in [
        Ack { matched: beyond, verified: beyond, ..good },
        Ack { verified: beyond, ..good },
        Ack { verified: last.prev(), ..good },
        Ack { round: u64::MAX, ..good },
    ] {
        cluster.inject(1, 0, term, Body::Ack(bad));
        assert_eq!(cluster.nodes[0].dropped.pop(), Some(DropReason::Contradiction), "{bad:?}");
        assert_eq!(cluster.machine(0).peers(), peers);
    }
    cluster.inject(1, 0, term, Body::Ack(good));
    assert!(cluster.nodes[0].dropped.is_empty());
}
