//! Who may lead, and how a group gets out of a tie.

use std::collections::BTreeSet;

use crate::harness::{Cluster, MS};
use trimaran_raft::{Ask, Body, DropReason, Input, LogIndex, MAX_TERM_JUMP, Role, Term, Timing};

#[test]
fn a_group_elects_one_leader_and_follows_it() {
    for count in 1..=5 {
        let mut cluster = Cluster::new(count);
        let leader = cluster.run_to_leader(1000 * MS);
        cluster.run_for(100 * MS);
        for index in 0..count {
            assert_eq!(cluster.machine(index).leader().map(|m| m.id), Some(cluster.machine(leader).me().id));
            assert_eq!(cluster.terms(index), [1, cluster.machine(leader).term().0]);
            assert_eq!(cluster.machine(index).commit(), LogIndex(2));
        }
    }
}

#[test]
fn split_votes_end() {
    for seed in 0..30 {
        // Equal seeds: all four begin at the same time, again and again, until jitter tells them apart.
        let mut cluster = Cluster::with(4, |config| {
            config.seed = seed;
            config.timing = Timing { election_max: config.timing.election_min, ..config.timing };
        });
        let deadline = cluster.machine(0).next_deadline();
        assert!((1..4).all(|index| cluster.machine(index).next_deadline() == deadline));
        cluster.now = deadline.0;
        for index in 0..4 {
            let _ = cluster.step(index, Input::Tick);
        }
        cluster.settle();
        assert_eq!(cluster.leader(), None, "two against two");
        let mut tie = Cluster::with(4, |config| config.seed = seed);
        tie.run_to_leader(3000 * MS);
    }
}

#[test]
fn a_crash_between_vote_and_reply_does_not_free_the_vote() {
    let mut cluster = Cluster::new(3);
    cluster.now += 400 * MS;
    let ask = Ask { campaign: Term(2), last: LogIndex(1), last_term: Term(1), told: false };
    cluster.inject(0, 2, Term(2), Body::Vote(ask));
    assert_eq!(cluster.take(|from, _, _| from == 2).len(), 1, "the reply that is lost");
    cluster.crash(2);
    cluster.restart(2);
    cluster.now += 400 * MS;
    cluster.inject(1, 2, Term(2), Body::Vote(ask));
    let replies =
        cluster.take(|from, to, body| from == 2 && to == 1 && matches!(body, Body::VoteReply(a) if a.granted));
    assert!(replies.is_empty(), "its vote is given");
    cluster.inject(0, 2, Term(2), Body::Vote(ask));
    let replies =
        cluster.take(|from, to, body| from == 2 && to == 0 && matches!(body, Body::VoteReply(a) if a.granted));
    assert_eq!(replies.len(), 1, "to the same candidate it may be said again");
}

#[test]
fn a_candidate_asks_only_when_its_own_vote_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].disk.holds = true;
    cluster.now += 400 * MS;
    let _ = cluster.step(0, Input::Tick);
    cluster.settle();
    assert_eq!(cluster.machine(0).role(), Role::Candidate);
    assert!(cluster.flights.is_empty());
    cluster.complete(0, true);
    cluster.flush(0);
    assert_eq!(cluster.take(|_, _, body| matches!(body, Body::Vote(_))).len(), 2);
}

/// With nobody else to ask, nothing but its own vote decides.
#[test]
fn a_single_voter_leads_only_when_its_own_vote_is_durable() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].disk.holds = true;
    cluster.now += 400 * MS;
    let _ = cluster.step(0, Input::Tick);
    assert_eq!((cluster.machine(0).role(), cluster.machine(0).term()), (Role::Candidate, Term(2)));
    cluster.complete(0, true);
    assert_eq!(cluster.machine(0).role(), Role::Leader);
}

#[test]
fn a_vote_is_answered_only_when_it_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[2].disk.holds = true;
    cluster.now += 400 * MS;
    let ask = Ask { campaign: Term(2), last: LogIndex(1), last_term: Term(1), told: false };
    cluster.inject(0, 2, Term(2), Body::Vote(ask));
    assert!(cluster.flights.is_empty());
    cluster.complete(2, true);
    cluster.flush(2);
    assert_eq!(cluster.take(|_, _, body| matches!(body, Body::VoteReply(a) if a.granted)).len(), 1);
}

#[test]
fn a_shorter_log_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.isolate(&[2]);
    cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    cluster.crash(0);
    cluster.heal();
    cluster.now += 400 * MS;
    let _ = cluster.step(2, Input::Tick);
    cluster.settle();
    assert_eq!((cluster.machine(2).role(), cluster.machine(2).term()), (Role::PreCandidate, Term(2)), "node 1 refuses");
    cluster.elect(1);
}

/// The pre-vote has asked the same, but the log may have grown since; and one that was told to stand asks for none.
#[test]
fn a_vote_is_refused_to_a_shorter_log_whatever_the_pre_vote_said() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    assert_eq!((cluster.log(2).last(), cluster.log(2).last_term()), (LogIndex(2), Term(2)));
    let mut granted = |last, last_term, told| {
        cluster.now += 400 * MS;
        let campaign = cluster.machine(2).term().next();
        let ask = Ask { campaign, last: LogIndex(last), last_term: Term(last_term), told };
        cluster.inject(1, 2, campaign, Body::Vote(ask));
        cluster.take(|_, _, body| matches!(body, Body::VoteReply(answer) if answer.granted)).len() == 1
    };
    for told in [false, true] {
        assert!(!granted(1, 2, told), "shorter");
        assert!(!granted(9, 1, told), "longer, but older");
    }
    assert!(granted(2, 2, false), "as good as its own");
    assert!(granted(3, 2, false), "longer");
    assert!(granted(1, 3, false), "newer");
}

/// Else the voter's own timer, about to fire, would take the election it has just decided into another round.
#[test]
fn a_voter_waits_for_the_candidate_it_chose_and_for_no_other() {
    let mut cluster = Cluster::new(3);
    let due = cluster.deadline(2);
    cluster.now = due - 1;
    let ask = |campaign, last| Body::Vote(Ask { campaign, last, last_term: Term(1), told: false });
    cluster.inject(0, 2, Term(2), ask(Term(2), LogIndex(0)));
    assert_eq!((cluster.machine(2).term(), cluster.deadline(2)), (Term(2), due), "a stale log costs no time");
    cluster.inject(1, 2, Term(3), ask(Term(3), LogIndex(1)));
    assert_eq!(cluster.machine(2).hard_state().vote, Some(cluster.machine(1).me().id));
    let patience = cluster.nodes[2].config.timing.election_min.as_nanos() as u64;
    assert!(cluster.deadline(2) >= cluster.now + patience);
}

#[test]
fn patience_lies_between_the_bounds_and_differs() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut cluster = Cluster::with(1, |config| config.seed = seed);
        let timing = cluster.nodes[0].config.timing;
        let bounds = timing.election_min.as_nanos() as u64..=timing.election_max.as_nanos() as u64;
        let patience = cluster.deadline(0) - cluster.now;
        assert!(bounds.contains(&patience), "{patience} ns");
        seen.insert(patience);
        cluster.flights.clear();
    }
    assert!(seen.len() > 190);
}

#[test]
fn a_minority_keeps_its_term() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.run_to_leader(1000 * MS);
    let cut: Vec<usize> = (0..5).filter(|index| *index != leader).take(2).collect();
    let term = cluster.machine(leader).term();
    cluster.isolate(&cut);
    cluster.run_for(5000 * MS);
    assert!(cut.iter().all(|index| cluster.machine(*index).term() == term));
}

#[test]
fn an_isolated_node_comes_back_without_disrupting() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let term = cluster.machine(0).term();
    cluster.isolate(&[2]);
    cluster.run_for(3000 * MS);
    cluster.heal();
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    assert_eq!(cluster.machine(2).leader().map(|m| m.id), Some(cluster.machine(0).me().id));
}

/// Voters that hear their leader refuse pre-votes too: else a node behind a link that works one way only would raise its
/// term for ever, and depose the leader with it once the link heals.
#[test]
fn a_node_that_cannot_hear_the_leader_keeps_its_term_while_others_can() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    let term = cluster.machine(0).term();
    cluster.run_for(100 * MS);
    cluster.cut.insert((0, 2));
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.machine(2).term(), term);
    cluster.heal();
    cluster.run_for(1000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
}

/// Three nodes have the longer log of an older term, three a newer term and a shorter log; four must agree on one of the
/// first. Refusals tell them the term that they must exceed.
#[test]
fn six_nodes_with_long_old_and_short_new_logs_find_a_leader() {
    let mut cluster = Cluster::new(6);
    cluster.elect(0);
    cluster.isolate(&[0, 1, 2]);
    for byte in 0..3 {
        cluster.propose(0, &[byte]).expect("leads");
        cluster.settle();
    }
    // The others move on in terms: votes are granted and never counted.
    for round in 1..=3 {
        for index in 3..6 {
            cluster.now += 400 * MS;
            let term = Term(cluster.machine(index).term().0 + 1);
            let other = if index == 5 { 3 } else { index + 1 };
            let ask = Ask { campaign: term, last: LogIndex(2), last_term: Term(2), told: false };
            cluster.inject(other, index, term, Body::Vote(ask));
        }
        assert!(cluster.machine(4).term() >= Term(2 + round));
    }
    cluster.flights.clear();
    cluster.heal();
    let newer = cluster.machine(3).term();
    assert!(newer > cluster.machine(1).term() && cluster.log(1).last() > cluster.log(3).last());
    cluster.crash(0);
    cluster.run_for(4000 * MS);
    let leader = cluster.leader().expect("a leader");
    assert!(leader == 1 || leader == 2, "one of the longer logs");
    assert!(cluster.machine(leader).term() > newer);
}

/// Two of three are left: one with the longer log, the other with the newer term. Neither can win before it learns what the
/// other has.
#[test]
fn a_longer_log_of_a_lower_term_learns_the_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.isolate(&[2]);
    cluster.propose(0, b"x").expect("leads");
    cluster.settle();
    cluster.crash(0);
    cluster.heal();
    cluster.now += 400 * MS;
    let ask = Ask { campaign: Term(9), last: LogIndex(2), last_term: Term(2), told: false };
    cluster.inject(0, 2, Term(9), Body::Vote(ask));
    cluster.flights.clear();
    assert_eq!((cluster.machine(1).term(), cluster.machine(2).term()), (Term(2), Term(9)));
    cluster.run_for(1500 * MS);
    assert_eq!(cluster.leader(), Some(1));
    assert!(cluster.machine(1).term() > Term(9));
}

/// The winner of a pre-vote is cut off with its new term. It comes back to a group that a leader holds: its answer tells that
/// leader of the newer term, and the group moves on instead of shunning it for ever.
#[test]
fn cut_off_just_after_the_pre_vote() {
    let mut cluster = Cluster::new(3);
    cluster.filter = Some(Box::new(|from, _, message| !(from == 2 && matches!(message.body, Body::Vote(_)))));
    cluster.now += 400 * MS;
    let _ = cluster.step(2, Input::Tick);
    cluster.settle();
    assert_eq!((cluster.machine(2).role(), cluster.machine(2).term()), (Role::Candidate, Term(2)));
    cluster.filter = None;
    cluster.isolate(&[2]);
    cluster.run_for(1000 * MS);
    let first = cluster.leader().expect("the other two elect");
    assert_ne!(first, 2);
    cluster.heal();
    cluster.run_for(2000 * MS);
    let leader = cluster.leader().expect("a leader");
    let term = cluster.machine(leader).term();
    assert!((0..3).all(|index| cluster.machine(index).term() == term && cluster.machine(index).leader().is_some()));
}

#[test]
fn an_append_of_its_own_term_ends_a_candidacy() {
    let mut cluster = Cluster::new(3);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Vote(_))));
    cluster.now += 400 * MS;
    let _ = cluster.step(0, Input::Tick);
    cluster.settle();
    assert_eq!((cluster.machine(0).role(), cluster.machine(0).term()), (Role::Candidate, Term(2)));
    cluster.append_one(1, 0, Term(2), LogIndex(2));
    assert_eq!(cluster.machine(0).role(), Role::Follower);
    assert_eq!(cluster.machine(0).leader().map(|m| m.id), Some(cluster.machine(1).me().id));
    assert_eq!(cluster.terms(0), [1, 2]);
}

#[test]
fn a_second_leader_of_one_term_is_not_believed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.append_one(1, 2, Term(2), LogIndex(3));
    cluster.append_one(1, 0, Term(2), LogIndex(3));
    assert_eq!(cluster.nodes[2].dropped, [DropReason::Contradiction]);
    assert_eq!(cluster.nodes[0].dropped.last(), Some(&DropReason::Contradiction));
    assert_eq!(cluster.log(2).last(), LogIndex(2));
}

/// Terms may run ahead by long absence or many elections and are followed; what no cluster can have reached is noise.
#[test]
fn an_absurd_term_is_dropped_and_a_large_one_followed() {
    let mut cluster = Cluster::new(3);
    cluster.now += 400 * MS;
    let large = Term(1 + MAX_TERM_JUMP);
    let ask = |campaign| Body::Vote(Ask { campaign, last: LogIndex(9), last_term: Term(1), told: false });
    cluster.inject(1, 0, Term(large.0 + 1), ask(Term(large.0 + 1)));
    cluster.inject(1, 0, Term(u64::MAX), ask(Term(u64::MAX)));
    assert_eq!(cluster.nodes[0].dropped, [DropReason::AbsurdTerm, DropReason::AbsurdTerm]);
    assert_eq!(cluster.machine(0).term(), Term(1));
    cluster.inject(1, 0, large, ask(large));
    assert_eq!(cluster.machine(0).term(), large);
    // A term inside of the question is no way around it.
    cluster.inject(1, 0, large, ask(Term(u64::MAX)));
    assert_eq!(cluster.machine(0).term(), large);
    assert_eq!(cluster.nodes[0].dropped.pop(), Some(DropReason::Contradiction));
    cluster.run_for(2000 * MS);
    assert!(cluster.leader().is_some(), "the group goes on from there");
}
