//! Linearizable reads on replicas that do not lead.

use crate::harness::reads::{self, leased};
use crate::harness::{Cluster, LATENCY_NS, MS};
use trimaran_raft::{Body, DropReason, Error, Input, LogIndex, ReadAsk, ReadReply, Sabotage};

#[test]
fn a_follower_asks_its_leader_and_gets_what_is_committed() {
    let mut cluster = leased(Sabotage::default());
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(10 * MS);
    cluster.read_here(2).expect("a leader is known");
    cluster.run_for(4 * LATENCY_NS);
    assert_eq!(cluster.nodes[2].answered, [(1, index)], "to the leader, a round, and back");
    cluster.read_here(0).expect("leads");
    cluster.run_for(2 * LATENCY_NS);
    assert_eq!(cluster.nodes[0].answered.len(), 1, "the leader asks itself");
}

#[test]
fn one_question_serves_all_reads_of_a_moment() {
    let mut cluster = leased(Sabotage::default());
    cluster.settle();
    for _ in 0..20 {
        cluster.step_only(2, Input::ReadHere).expect("a leader is known");
    }
    cluster.nodes[2].reads.extend((1..=20).map(|ticket| (ticket, LogIndex(2))));
    cluster.flush(2);
    assert_eq!(cluster.flights.len(), 1);
    cluster.settle();
    assert_eq!(cluster.nodes[2].answered.len(), 20);
}

#[test]
fn a_lost_question_and_a_lost_answer_are_made_up_for() {
    for lost in [0, 1] {
        let mut cluster = leased(Sabotage::default());
        let counter = std::cell::Cell::new(0);
        cluster.filter = Some(Box::new(move |_, _, message| {
            let hit = match message.body {
                Body::ReadAsk(_) => lost == 0,
                Body::ReadReply(_) => lost == 1,
                _ => false,
            };
            counter.set(counter.get() + u32::from(hit));
            !hit || counter.get() > 1
        }));
        cluster.read_here(2).expect("a leader is known");
        cluster.run_for(21 * MS);
        assert_eq!(cluster.nodes[2].answered.len(), 1);
        assert_eq!(cluster.machine(2).next_deadline().0.min(cluster.now + 30 * MS), cluster.now + 30 * MS);
    }
}

/// The leader is heard, and does not hear: such a read ends with the longest election timeout.
#[test]
fn a_question_that_is_never_heard_fails_in_time() {
    let mut cluster = leased(Sabotage::default());
    cluster.cut.insert((2, 0));
    cluster.read_here(2).expect("a leader is known");
    cluster.run_for(190 * MS);
    assert_eq!(cluster.nodes[2].failed_reads, 0);
    cluster.run_for(40 * MS);
    assert_eq!((cluster.nodes[2].failed_reads, cluster.nodes[2].answered.len()), (1, 0));
    cluster.heal();
    cluster.read_here(2).expect("a leader is known");
    cluster.run_for(MS);
    assert_eq!(cluster.nodes[2].answered.len(), 1);
}

/// Rule 3: an answer serves the reads whose question it answers, and those before; what has come in since waits for its own.
#[test]
fn an_answer_releases_only_reads_that_were_numbered_earlier() {
    let mut cluster = leased(Sabotage::default());
    cluster.settle();
    cluster.read_here(2).expect("a leader is known");
    let first = cluster.take(|_, _, body| matches!(body, Body::ReadAsk(_)));
    cluster.read_here(2).expect("a leader is known");
    cluster.read_here(2).expect("a leader is known");
    let later = cluster.take(|_, _, body| matches!(body, Body::ReadAsk(_)));
    assert_eq!((first.len(), later.len()), (1, 2));
    cluster.deliver(&first[0]);
    cluster.settle();
    assert_eq!(cluster.nodes[2].answered.len(), 1);
    // The newest answer serves all three, and what is repeated or late changes nothing.
    cluster.deliver(&later[1]);
    cluster.deliver(&first[0]);
    cluster.settle();
    assert_eq!(cluster.nodes[2].answered.len(), 3);
    cluster.deliver(&later[0]);
    cluster.deliver(&later[0]);
    cluster.settle();
    assert_eq!(cluster.nodes[2].answered.len(), 3);
}

/// raft-rs #571: an answer to a question of before a restart is older than the reads it would be taken for.
#[test]
fn an_answer_to_another_run_releases_nothing() {
    let mut cluster = reads::answer_to_another_run(Sabotage::default());
    assert_eq!(cluster.nodes[2].dropped.last(), Some(&DropReason::Unexpected));
    cluster.heal();
    cluster.run_for(50 * MS);
    assert_eq!(cluster.nodes[2].answered.len(), 1);
}

#[test]
fn a_change_of_leader_fails_what_waits() {
    let mut cluster = leased(Sabotage::default());
    cluster.cut.extend([(0, 1), (0, 2)]);
    cluster.read_here(2).expect("a leader is known");
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.nodes[2].failed_reads, cluster.nodes[2].answered.len()), (1, 0));
    let farewell = |cluster: &mut Cluster| {
        cluster.read_here(2).expect("a leader is known");
        let leader = cluster.leader().expect("somebody");
        let _ = cluster.step(leader, Input::Farewell);
        cluster.run_for(100 * MS);
    };
    let mut cluster = leased(Sabotage::default());
    farewell(&mut cluster);
    assert_eq!((cluster.nodes[2].failed_reads, cluster.nodes[2].answered.len()), (1, 0));
}

/// Nobody answers for a leader that others have left: not it, and not those that still believe in it.
#[test]
fn a_deposed_leader_answers_no_question() {
    let mut cluster = Cluster::new(5);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.isolate(&[0, 1]);
    cluster.run_for(190 * MS);
    cluster.read_here(1).expect("it still hears its leader");
    cluster.run_for(1000 * MS);
    assert!(cluster.nodes[1].answered.is_empty());
    assert_eq!(cluster.nodes[1].failed_reads, 1);
    let refused = cluster.read_here(1);
    assert_eq!(refused, Err(Error::NotLeader { leader: None }));
}

#[test]
fn a_learner_may_ask_and_a_stranger_may_not() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    cluster.inject(3, 0, term, Body::ReadAsk(ReadAsk { boot: 1, number: 1 }));
    assert_eq!(cluster.nodes[0].dropped.last(), Some(&DropReason::NotMember));
    let voters = (0..3).map(|index| crate::harness::member(index, 1)).collect();
    let learners = vec![crate::harness::member(3, 1)];
    let target = trimaran_raft::Configuration { voters, learners, ..Default::default() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(100 * MS);
    cluster.read_here(3).expect("a leader is known");
    cluster.run_for(MS);
    assert_eq!(cluster.nodes[3].answered, [(1, cluster.machine(0).commit())]);
}

#[test]
fn no_answer_before_the_terms_first_commit() {
    let mut cluster = reads::leads_without_commit(Sabotage::default());
    cluster.read_here(2).expect("a leader is known");
    cluster.run_for(50 * MS);
    assert!(cluster.nodes[2].answered.is_empty());
    reads::commits_at_last(&mut cluster);
    assert_eq!(cluster.nodes[2].answered, [(1, cluster.machine(1).commit())]);
}

/// However many questions come, a leader keeps the newest of each replica and a few rounds.
#[test]
fn questions_are_bounded() {
    let mut cluster = Cluster::with(3, |config| config.limits.waiting_reads = 4);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    let counter = std::rc::Rc::new(std::cell::Cell::new(0));
    let rounds = counter.clone();
    cluster.filter = Some(Box::new(move |from, _, message| {
        rounds.set(rounds.get() + u32::from(from == 0 && matches!(message.body, Body::Append(..))));
        from == 0
    }));
    for number in 1..1000 {
        cluster.inject(2, 0, term, Body::ReadAsk(ReadAsk { boot: 5, number }));
    }
    assert!(counter.get() <= 8, "{} appends", counter.get());
    cluster.filter = None;
    for _ in 0..4 {
        cluster.read_here(2).expect("room");
    }
    assert_eq!(cluster.read_here(2), Err(Error::Overloaded));
    cluster.run_for(50 * MS);
    assert_eq!(cluster.nodes[2].answered.len(), 4);
    assert!(cluster.read_here(2).is_ok(), "room again");
}

#[test]
fn a_replica_whose_state_is_not_used_asks_nothing() {
    let mut cluster = leased(Sabotage::default());
    cluster.stop(2);
    assert_eq!(cluster.read_here(2), Err(Error::NotServing));
}

#[test]
fn answers_that_nobody_asked_for_are_dropped() {
    let mut cluster = leased(Sabotage::default());
    let term = cluster.machine(0).term();
    let reply = |boot, number| Body::ReadReply(ReadReply { ask: ReadAsk { boot, number }, index: LogIndex(9) });
    cluster.read_here(2).expect("a leader is known");
    let asked = cluster.take(|from, _, body| from == 2 && matches!(body, Body::ReadAsk(_)));
    let Some(Body::ReadAsk(ask)) = trimaran_raft::Message::decode(&asked[0].bytes).map(|m| m.body) else { panic!() };
    cluster.inject(0, 2, term, reply(ask.boot ^ 1, 1));
    cluster.inject(0, 2, term, reply(ask.boot, 2));
    cluster.inject(1, 2, term, reply(ask.boot, 1));
    cluster.inject(0, 2, trimaran_raft::Term(term.0 - 1), reply(ask.boot, 1));
    let expected = [DropReason::Unexpected, DropReason::Contradiction, DropReason::Unexpected, DropReason::StaleTerm];
    assert_eq!(cluster.nodes[2].dropped, expected);
    assert!(cluster.nodes[2].answered.is_empty());
    cluster.inject(0, 2, term, reply(ask.boot, 1));
    assert_eq!(cluster.nodes[2].answered, [(1, LogIndex(9))]);
}
