//! Leadership handed over on request.

use crate::harness::{Cluster, LATENCY_NS, MS, member};
use trimaran_raft::{
    Body, Configuration, DropReason, Error, Fence, Input, LogIndex, NodeId, Refused, Role, ShardConfig, Term, Unfit,
    Verdict,
};

fn transfer(cluster: &mut Cluster, from: usize, to: Option<usize>) -> Result<(), Error> {
    match cluster.step(from, Input::Transfer(to.map(cluster_id))) {
        Ok(_) => Ok(()),
        Err(Refused::Request(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn cluster_id(index: usize) -> NodeId {
    member(index, 1).id
}

fn led(count: usize) -> Cluster {
    let mut cluster = Cluster::new(count);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster
}

fn unfit(node: usize, reason: Unfit) -> Result<(), Error> {
    Err(Error::CannotLead { node: cluster_id(node), reason })
}

#[test]
fn leadership_moves_in_a_few_round_trips_and_nothing_is_lost() {
    let mut cluster = led(5);
    let term = cluster.machine(0).term();
    let last = (0..10).map(|byte| cluster.propose(0, &[byte; 100]).expect("leads")).last().expect("ten");
    assert_eq!(transfer(&mut cluster, 0, Some(3)), Ok(()));
    assert_eq!(cluster.machine(0).transferring(), Some(cluster_id(3)));
    assert_eq!(cluster.propose(0, b"x"), Err(Error::TransferInProgress { to: cluster_id(3) }));
    assert_eq!(cluster.log(0).last(), last, "a refusal is proof that nothing was appended");
    cluster.run_for(8 * LATENCY_NS);
    assert_eq!((cluster.leader(), cluster.machine(3).term()), (Some(3), term.next()));
    assert_eq!(cluster.machine(0).transferring(), None);
    assert!(matches!(cluster.propose(0, b"x"), Err(Error::NotLeader { .. })));
    let index = cluster.propose(3, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert!((0..5).all(|node| cluster.machine(node).commit() == index));
    assert_eq!(index, LogIndex(last.0 + 2));
}

#[test]
fn a_target_that_lags_is_refused_and_one_with_a_little_on_its_way_is_waited_for() {
    let mut cluster = Cluster::with(3, |config| config.limits.window_bytes = 4000);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    // Its acknowledgements arrive, entries do not reach it.
    cluster.filter = Some(Box::new(|_, to, message| match &message.body {
        Body::Append(_, entries) => to != 2 || entries.remaining() == 0,
        _ => true,
    }));
    for _ in 0..10 {
        cluster.propose(0, &[1; 1000]).expect("leads");
        cluster.run_for(5 * MS);
    }
    cluster.run_for(30 * MS);
    assert_eq!(transfer(&mut cluster, 0, Some(2)), unfit(2, Unfit::Behind));
    cluster.filter = None;
    cluster.run_for(100 * MS);
    cluster.propose(0, &[2; 1000]).expect("leads");
    assert!(cluster.machine(0).peers().iter().all(|peer| peer.matched < cluster.log(0).last()));
    assert_eq!(transfer(&mut cluster, 0, Some(2)), Ok(()));
    let early = cluster.take(|_, _, body| matches!(body, Body::TimeoutNow));
    assert!(early.is_empty(), "it does not hold the newest entry yet");
    cluster.run_for(10 * LATENCY_NS);
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn a_dead_target_is_refused_and_one_that_dies_meanwhile_costs_one_timeout() {
    let mut cluster = led(3);
    cluster.crash(1);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()), "nobody knows yet");
    let term = cluster.machine(0).term();
    cluster.run_for(199 * MS);
    assert!(matches!(cluster.propose(0, b"x"), Err(Error::TransferInProgress { .. })));
    cluster.run_for(2 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    let index = cluster.propose(0, b"x").expect("as before");
    cluster.run_for(10 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), unfit(1, Unfit::Silent));
}

#[test]
fn only_voters_of_the_newest_configuration_are_targets() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    let learner = member(3, 1);
    let voters: Vec<_> = (0..3).map(|index| member(index, 1)).collect();
    let target = Configuration { voters, learners: vec![learner], ..Configuration::default() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(200 * MS);
    assert_eq!(cluster.machine(3).commit(), cluster.machine(0).commit());
    assert_eq!(transfer(&mut cluster, 0, Some(3)), unfit(3, Unfit::NotVoter));
    let other_life = NodeId::new(2, 99);
    let refused = cluster.step(0, Input::Transfer(Some(other_life)));
    let expected = Error::CannotLead { node: other_life, reason: Unfit::NotVoter };
    assert_eq!(refused, Err(Refused::Request(expected)));
    // And a learner that is told to all the same does nothing.
    let (term, before) = (cluster.machine(0).term(), cluster.machine(3).clone());
    cluster.inject(0, 3, term, Body::TimeoutNow);
    assert_eq!((cluster.machine(3).role(), cluster.machine(3).term()), (before.role(), before.term()));
    assert_eq!(cluster.nodes[3].dropped.last(), Some(&DropReason::Unexpected));
}

#[test]
fn a_transfer_to_itself_is_refused_and_one_alone_has_nobody() {
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(0)), unfit(0, Unfit::Leads));
    assert!(matches!(transfer(&mut cluster, 1, Some(1)), Err(Error::NotLeader { .. })));
    assert!(cluster.propose(0, b"x").is_ok());
    let mut alone = Cluster::new(1);
    alone.elect(0);
    assert_eq!(transfer(&mut alone, 0, None), Err(Error::NobodyToLead));
}

#[test]
fn without_a_name_the_one_with_most_of_the_log_is_chosen() {
    let mut cluster = led(5);
    cluster.cut.extend([(0, 1), (0, 2), (0, 4)]);
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(2 * LATENCY_NS);
    cluster.heal();
    assert_eq!(transfer(&mut cluster, 0, None), Ok(()));
    assert_eq!(cluster.machine(0).transferring(), Some(cluster_id(3)));
    cluster.run_for(50 * MS);
    assert_eq!(cluster.leader(), Some(3));
}

#[test]
fn those_that_do_not_apply_are_no_targets() {
    let mut cluster = led(3);
    cluster.stop(1);
    cluster.run_for(30 * MS);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), unfit(1, Unfit::DoesNotApply));
    assert_eq!(transfer(&mut cluster, 0, None), Ok(()));
    assert_eq!(cluster.machine(0).transferring(), Some(cluster_id(2)));
}

/// Whatever gets lost: the leader goes on after one timeout, and what it may not assume any more stays so.
#[test]
fn a_stuck_transfer_ends() {
    let mut cluster = led(3);
    let term = cluster.machine(0).term();
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::TimeoutNow)));
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    cluster.run_for(199 * MS);
    assert_eq!(cluster.machine(0).transferring(), Some(cluster_id(1)));
    cluster.run_for(MS);
    assert_eq!(cluster.machine(0).transferring(), None);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    assert!(cluster.propose(0, b"x").is_ok());
    cluster.filter = None;
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()), "and it can be tried again");
    cluster.run_for(100 * MS);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn a_lost_word_is_said_again_with_the_next_heartbeat() {
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    assert_eq!(cluster.take(|_, _, body| matches!(body, Body::TimeoutNow)).len(), 1);
    cluster.run_for(25 * MS);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn a_second_transfer_is_refused_until_the_first_has_ended() {
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    let busy = Err(Error::TransferInProgress { to: cluster_id(1) });
    assert_eq!(transfer(&mut cluster, 0, Some(2)), busy);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), busy);
    assert_eq!(cluster.change(0, &[(0, 1)]), busy, "nor do the members change");
    cluster.run_for(100 * MS);
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(transfer(&mut cluster, 1, Some(2)), Ok(()));
    cluster.run_for(100 * MS);
    assert_eq!(cluster.leader(), Some(2));
}

/// hashicorp/raft #696: a leader that was deposed in the middle of a transfer must not refuse proposals when it leads again.
#[test]
fn stepping_down_forgets_the_transfer() {
    let mut cluster = led(3);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::TimeoutNow)));
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    let term = Term(cluster.machine(0).term().0 + 5);
    cluster.inject(2, 0, term, Body::Ack(Default::default()));
    assert_eq!((cluster.machine(0).is_leader(), cluster.machine(0).transferring()), (false, None));
    cluster.flights.clear();
    cluster.elect(0);
    assert_eq!(cluster.machine(0).transferring(), None);
    assert!(cluster.propose(0, b"x").is_ok());
}

/// A read that began before, and one in the middle: each is answered by a round of this leader's, or fails.
#[test]
fn reads_during_a_transfer_are_right_or_fail() {
    let mut cluster = led(3);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::TimeoutNow)));
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    cluster.read(0).expect("it still leads");
    cluster.settle();
    assert_eq!(cluster.nodes[0].answered.len(), 1);
    cluster.filter = None;
    cluster.run_for(25 * MS);
    assert_eq!(cluster.leader(), Some(1));
    assert!(matches!(cluster.read(0), Err(Error::NotLeader { .. })));
    // The old leader hears nothing of what happens: it answers nothing, since the rounds that it opens are not echoed.
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    cluster.cut.extend([(1, 0), (2, 0)]);
    cluster.run_for(10 * LATENCY_NS);
    assert!(cluster.machine(1).is_leader() && cluster.machine(0).is_leader());
    cluster.propose(1, b"newer").expect("leads");
    cluster.run_for(10 * LATENCY_NS);
    cluster.read(0).expect("it does not know better");
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.nodes[0].answered.len(), cluster.nodes[0].failed_reads), (0, 1));
}

#[test]
fn nobody_stands_because_of_anyone_elses_word() {
    let mut cluster = led(3);
    let term = cluster.machine(0).term();
    cluster.inject(1, 2, term, Body::TimeoutNow);
    cluster.inject(0, 2, Term(term.0 - 1), Body::TimeoutNow);
    cluster.inject(0, 2, Term(term.0 + 1), Body::TimeoutNow);
    assert_eq!((cluster.machine(2).term(), cluster.leader()), (term, Some(0)));
    assert_eq!(cluster.nodes[2].dropped, [DropReason::Unexpected, DropReason::StaleTerm, DropReason::Unexpected]);
}

/// The word arrives when the leader has long given up: an election more, and nothing lost.
#[test]
fn a_late_word_costs_an_election_and_no_entry() {
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    let late = cluster.take(|_, _, body| matches!(body, Body::TimeoutNow));
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::TimeoutNow)));
    cluster.run_for(250 * MS);
    let index = cluster.propose(0, b"x").expect("leads again");
    cluster.run_for(10 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
    cluster.deliver(&late[0]);
    cluster.run_for(100 * MS);
    assert_eq!(cluster.leader(), Some(1));
    assert!(cluster.machine(1).commit() > index);
    // Again: it has stood in that term already.
    cluster.deliver(&late[0]);
    assert_eq!(cluster.nodes[1].dropped.last(), Some(&DropReason::StaleTerm));
}

/// A heir that cannot win leaves the group with one that can.
#[test]
fn a_heir_that_loses_does_no_harm() {
    let mut cluster = led(3);
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    cluster.settle_until(|cluster| cluster.machine(1).term() > cluster.machine(0).term());
    cluster.crash(1);
    cluster.flights.retain(|flight| flight.from != 1);
    cluster.run_for(500 * MS);
    let leader = cluster.leader().expect("somebody leads");
    assert_eq!(cluster.machine(leader).transferring(), None);
    assert!(cluster.propose(leader, b"x").is_ok());
    cluster.restart(1);
    cluster.flush(1);
    cluster.run_for(1000 * MS);
    let leader = cluster.leader().expect("somebody leads");
    let term = cluster.machine(leader).term();
    assert!((0..3).all(|node| cluster.machine(node).term() == term));
}

/// A voter that hears its leader refuses candidates, but not the one that this leader wants in its place.
#[test]
fn only_the_word_of_the_leader_overrides_what_voters_hear() {
    for (told, granted) in [(false, 0), (true, 1)] {
        let mut cluster = led(3);
        let term = cluster.machine(2).term().next();
        let ask = trimaran_raft::Ask { campaign: term, last: LogIndex(9), last_term: Term(2), told };
        cluster.inject(1, 2, term, Body::Vote(ask));
        let votes = cluster.take(|from, _, body| from == 2 && matches!(body, Body::VoteReply(a) if a.granted));
        assert_eq!(votes.len(), granted);
    }
}

/// A leader that must stop names the best of the others, which stands without a pause.
#[test]
fn who_says_farewell_names_an_heir() {
    let mut cluster = led(5);
    cluster.cut.extend([(0, 1), (0, 2), (0, 4)]);
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(2 * LATENCY_NS);
    cluster.heal();
    let _ = cluster.step(0, Input::Farewell);
    assert!(!cluster.machine(0).is_leader());
    cluster.crash(0);
    cluster.run_for(4 * LATENCY_NS);
    assert_eq!(cluster.leader(), Some(3), "a word, a question, an answer");
}

/// Where the leader's own state is in the minority, it does not know who is right: nobody is named.
#[test]
fn a_leader_in_the_minority_names_nobody() {
    let mut cluster = led(3);
    let at = cluster.propose(0, b"x").expect("leads");
    cluster.nodes[0].goes_wrong_at = Some((at, 7));
    let seen = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
    let counter = seen.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        let (named, told) = counter.get();
        match message.body {
            Body::TimeoutNow => counter.set((named + 1, told)),
            Body::Farewell => counter.set((named, told + 1)),
            _ => {}
        }
        true
    }));
    cluster.run_for(100 * MS);
    assert!(cluster.machine(0).fenced().is_some());
    assert_eq!(seen.get(), (0, 2));
}

#[test]
fn a_transfer_while_many_propose_neither_loses_nor_stalls() {
    let mut cluster = Cluster::with(3, |config: &mut ShardConfig| config.seed += 40);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    let mut accepted = 0;
    for round in 0..60u64 {
        if let Some(leader) = cluster.leader() {
            accepted += u64::from(cluster.propose(leader, &[round as u8; 200]).is_ok());
            if round % 10 == 5 {
                transfer(&mut cluster, leader, None).expect("all are near");
            }
        }
        cluster.run_for(MS);
    }
    assert!(accepted > 50, "{accepted} of 60");
    assert_eq!(cluster.invariants.elections(), 7);
}

#[test]
fn the_heir_is_told_once_and_again_with_each_heartbeat() {
    let mut cluster = led(3);
    let told = |cluster: &mut Cluster| cluster.take(|_, _, body| matches!(body, Body::TimeoutNow)).len();
    assert_eq!(transfer(&mut cluster, 0, Some(1)), Ok(()));
    assert_eq!(told(&mut cluster), 1);
    cluster.flush(0);
    assert_eq!(told(&mut cluster), 0);
    cluster.now += cluster.nodes[0].config.timing.heartbeat.as_nanos() as u64;
    let _ = cluster.step(0, Input::Tick);
    assert_eq!(told(&mut cluster), 1);
}

/// Its state is of no use, whoever asks it to lead.
#[test]
fn one_that_has_stopped_applying_or_whose_state_is_wrong_does_not_stand_when_told_to() {
    for stops in [true, false] {
        let mut cluster = led(3);
        let term = cluster.machine(0).term();
        if stops {
            cluster.stop(1);
        } else {
            let (index, digest) = (cluster.machine(1).applied_index(), cluster.machine(1).digest() ^ 1);
            cluster.nodes[1].goes_wrong_at = Some((index, 1));
            cluster.inject(0, 1, term, Body::Fence(Fence { index, digest, verdict: Verdict::Minority }));
            assert!(cluster.machine(1).fenced().is_some());
        }
        cluster.inject(0, 1, term, Body::TimeoutNow);
        assert_eq!((cluster.machine(1).role(), cluster.machine(1).term()), (Role::Follower, term));
        assert_eq!(cluster.nodes[1].dropped.last(), Some(&DropReason::Unexpected));
    }
}

/// It may hold as much as anybody, but nobody's vote makes it a leader.
#[test]
fn a_leader_that_stops_tells_no_learner_to_stand() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(3, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    cluster.run_for(200 * MS);
    cluster.filter = Some(Box::new(|_, to, message| !matches!(message.body, Body::Append(..)) || to == 3));
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    assert_eq!(
        cluster.machine(0).peers().iter().map(|peer| peer.matched == index).collect::<Vec<_>>(),
        [false, false, true]
    );
    let _ = cluster.step(0, Input::Farewell);
    let told = cluster.take(|_, _, body| matches!(body, Body::TimeoutNow));
    assert!(told.len() == 1 && told[0].to != 3, "{told:?}");
}
