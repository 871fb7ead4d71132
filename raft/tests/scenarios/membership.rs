//! Changing the members: step by step, through crashes, and never without a majority of both.

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules, staged};
use trimaran_raft::{Body, Configuration, DropReason, Error, Input, LogIndex, Refused, Role, Sabotage, Term};

/// Proposes for a while, whoever leads; returns how many were taken.
fn load(cluster: &mut Cluster, rounds: usize) -> usize {
    let mut taken = 0;
    for round in 0..rounds {
        if let Some(leader) = cluster.leader() {
            taken += usize::from(cluster.propose(leader, &[round as u8; 50]).is_ok());
        }
        cluster.run_for(MS);
    }
    taken
}

fn of(nodes: &[usize]) -> Vec<(usize, u64)> {
    nodes.iter().map(|index| (*index, 1)).collect()
}

/// Changes the voters to these nodes and waits until all of them know.
fn change_to(cluster: &mut Cluster, nodes: &[usize]) {
    let leader = cluster.leader().expect("a leader");
    cluster.change(leader, &of(nodes)).expect("possible");
    load(cluster, 100);
    let leader = cluster.leader().expect("a leader");
    assert!(nodes.contains(&leader) && !cluster.machine(leader).is_changing());
    for index in nodes {
        assert_eq!(cluster.voters(*index), of(nodes), "node {index}");
        assert_eq!(cluster.machine(*index).commit(), cluster.machine(leader).commit());
    }
}

#[test]
fn one_three_five_three_one_under_load() {
    let mut cluster = Cluster::of_some(5, 1);
    cluster.elect(0);
    load(&mut cluster, 20);
    for nodes in [&[0, 1, 2][..], &[0, 1, 2, 3, 4], &[2, 3, 4], &[3]] {
        change_to(&mut cluster, nodes);
        if !nodes.contains(&0) {
            cluster.run_for(1500 * MS);
        }
    }
    assert_eq!(cluster.leader(), Some(3));
    assert!(load(&mut cluster, 20) == 20);
    assert_eq!(cluster.machine(3).commit(), cluster.log(3).last());
}

#[test]
fn a_voter_is_replaced_by_another_seat() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    change_to(&mut cluster, &[0, 1, 3]);
    // The new one counts, the old one does not.
    cluster.isolate(&[1]);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(5 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
    assert!(cluster.machine(0).peers().iter().all(|peer| peer.member != member(2, 1)));
}

#[test]
fn a_removed_node_does_not_disrupt() {
    let mut cluster = Cluster::new(4);
    cluster.elect(0);
    change_to(&mut cluster, &[0, 1, 2]);
    let term = cluster.machine(0).term();
    cluster.run_for(3000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    assert_eq!(cluster.voters(0), of(&[0, 1, 2]), "it is not taken in again by itself");
}

#[test]
fn a_leader_removes_itself_and_says_so() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.change(0, &of(&[1, 2])).expect("possible");
    cluster.run_for(60 * MS);
    assert!(!cluster.machine(0).is_leader());
    let leader = cluster.leader().expect("the notice lets the others elect at once");
    assert_eq!(cluster.voters(leader), of(&[1, 2]));
    let removed = cluster.log(0).last();
    load(&mut cluster, 20);
    assert_eq!(cluster.log(0).last(), removed);
    cluster.run_for(3000 * MS);
    assert_eq!((cluster.leader(), cluster.machine(0).role()), (Some(leader), Role::Follower));
}

#[test]
fn from_two_to_one() {
    let mut cluster = Cluster::new(2);
    cluster.elect(0);
    change_to(&mut cluster, &[0]);
    cluster.crash(1);
    assert!(load(&mut cluster, 20) == 20);
    assert_eq!(cluster.machine(0).commit(), cluster.log(0).last());
}

#[test]
fn a_learner_follows_and_does_not_count() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(3, 1)], ..cluster.machine(0).configuration().clone() };
    let before = cluster.log(0).last_header().expect("an entry").log_time;
    cluster.run_for(MS);
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    let at = cluster.machine(0).configuration_index();
    assert!(cluster.log(0).header(at).is_some_and(|header| header.log_time > before), "log time goes on");
    load(&mut cluster, 30);
    assert_eq!(cluster.log(3).last(), cluster.log(0).last());
    assert_eq!(*cluster.machine(3).configuration(), target);
    cluster.isolate(&[0, 3]);
    let commit = cluster.machine(0).commit();
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(0).commit(), commit, "one of three and a learner are no majority");
    cluster.run_for(1500 * MS);
    assert!(!cluster.machine(0).is_leader() && !cluster.machine(3).is_leader());
    assert_eq!(cluster.machine(3).role(), Role::Follower, "it does not stand");
}

#[test]
fn a_second_change_is_refused() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    cluster.change(0, &of(&[0, 1, 2, 3])).expect("possible");
    for _ in 0..40 {
        if cluster.machine(0).is_changing() {
            assert_eq!(cluster.change(0, &of(&[0, 1, 2, 4])), Err(Error::ChangeInProgress));
        }
        cluster.run_for(LATENCY_NS / 2);
    }
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3]));
    assert_eq!(cluster.change(0, &of(&[0, 1, 2, 4])), Ok(()));
}

#[test]
fn impossible_changes_are_refused() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    let leader = Some(cluster.machine(0).me());
    assert_eq!(cluster.change(1, &of(&[0, 1])), Err(Error::NotLeader { leader }));
    let bad = Err(Error::BadConfiguration);
    assert_eq!(cluster.change(0, &[]), bad);
    assert_eq!(cluster.change(0, &[(0, 1), (1, 1), (1, 2)]), bad, "a seat twice");
    assert_eq!(cluster.change(0, &[(0, 1), (1, 1), (3, 0)]), bad, "no incarnation");
    // A known id somewhere else is a reused one.
    let mut moved = member(2, 1);
    moved.peer = member(3, 1).peer;
    let target = Configuration { voters: vec![member(0, 1), member(1, 1), moved], ..Configuration::default() };
    let refused = cluster.step(0, Input::ChangeMembers(&target));
    assert_eq!(refused, Err(Refused::Request(Error::BadConfiguration)));
    let joint = Configuration { old_voters: vec![member(0, 1)], ..cluster.machine(0).configuration().clone() };
    let refused = cluster.step(0, Input::ChangeMembers(&joint));
    assert_eq!(refused, Err(Refused::Request(Error::BadConfiguration)));
    // Another life of a seat whose node is heard.
    cluster.run_for(50 * MS);
    let alive = Err(Error::StillAlive { voter: member(2, 1) });
    assert_eq!(cluster.change(0, &[(0, 1), (1, 1), (2, 2)]), alive);
    assert_eq!(cluster.voters(0), of(&[0, 1, 2]));
}

/// What would leave no majority that answers is refused, as long as it is not begun: once joint, every write would wait for
/// the dead.
#[test]
fn a_change_to_voters_without_a_live_majority_is_refused() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.crash(2);
    cluster.run_for(250 * MS);
    assert_eq!(cluster.change(0, &of(&[0, 2])), Err(Error::NoLiveMajority { voters: 2, live: 1 }));
    assert_eq!(cluster.change(0, &of(&[2])), Err(Error::NoLiveMajority { voters: 1, live: 0 }));
    assert!(!cluster.machine(0).is_changing());
    assert_eq!(load(&mut cluster, 10), 10);
    // A majority that answers is enough, and the one that does not may be named or left out.
    cluster.change(0, &of(&[0, 1, 2, 3])).expect("three of four");
    cluster.run_for(200 * MS);
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3]));
    cluster.change(0, &of(&[0, 1, 3])).expect("the living");
    cluster.run_for(200 * MS);
    assert_eq!((cluster.voters(0), cluster.machine(0).is_changing()), (of(&[0, 1, 3]), false));
}

/// Voters that are to remain fall silent while the new one catches up: the change waits, nothing else does, and it can be taken back.
#[test]
fn a_change_that_has_lost_its_majority_can_be_taken_back() {
    let mut cluster = Cluster::of_some(6, 5);
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.isolate(&[5]);
    cluster.change(0, &of(&[0, 3, 4, 5])).expect("all that are known answer");
    cluster.run_for(20 * MS);
    cluster.isolate(&[5, 3, 4]);
    cluster.run_for(250 * MS);
    cluster.heal();
    cluster.crash(3);
    cluster.crash(4);
    cluster.run_for(300 * MS);
    let newcomer = cluster.machine(0).peers().iter().find(|peer| peer.id() == member(5, 1).id).expect("a learner");
    assert_eq!(newcomer.matched, cluster.log(0).last(), "it has caught up");
    assert!(!cluster.machine(0).configuration().is_joint(), "two of four would be no majority");
    assert_eq!(load(&mut cluster, 10), 10);
    cluster.step(0, Input::CancelChange).expect("nothing is joint");
    cluster.run_for(50 * MS);
    assert!(!cluster.machine(0).is_changing());
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3, 4]));
}

/// The leader is killed after every number of messages that the change takes: whoever leads then finishes what is joint, and
/// the operator can repeat what was not begun.
#[test]
fn the_leader_crashes_at_every_step() {
    let mut joints = 0;
    for steps in 0..80 {
        let mut cluster = Cluster::of_some(5, 3);
        cluster.elect(0);
        load(&mut cluster, 5);
        let target = of(&[1, 3, 4]);
        cluster.change(0, &target).expect("possible");
        for _ in 0..steps {
            if cluster.flights.is_empty() {
                cluster.run_for(LATENCY_NS);
            } else {
                let flight = cluster.flights.remove(0);
                cluster.deliver(&flight);
            }
        }
        joints += usize::from((1..5).any(|index| cluster.machine(index).configuration().is_joint()));
        cluster.crash(0);
        cluster.run_for(2500 * MS);
        let leader = cluster.leader().expect("a leader of one configuration or the other");
        assert!(!cluster.machine(leader).is_changing(), "after {steps} steps");
        let voters = cluster.voters(leader);
        assert!(voters == target || voters == of(&[0, 1, 2]), "after {steps} steps: {voters:?}");
        if voters != target {
            cluster.change(leader, &target).expect("possible");
            cluster.run_for(1500 * MS);
        }
        let leader = cluster.leader().expect("a leader");
        assert_eq!(cluster.voters(leader), target, "after {steps} steps");
        assert!(load(&mut cluster, 10) == 10);
        assert_eq!(cluster.machine(leader).commit(), cluster.log(leader).last());
    }
    assert!(joints > 5, "{joints} crashes were in the midst of it");
}

#[test]
fn an_inherited_joint_configuration_is_finished_under_both_halves() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    cluster.change(0, &of(&[0, 3, 4])).expect("possible");
    cluster.settle_until(|cluster| cluster.machine(3).configuration().is_joint());
    assert!(cluster.machine(0).configuration_index() > cluster.machine(0).commit());
    cluster.settle_until(|cluster| cluster.machine(1).configuration().is_joint());
    cluster.crash(0);
    cluster.flights.clear();
    // Node 1 is the only old voter that is left. With the new ones alone nobody leads.
    cluster.isolate(&[2]);
    cluster.now += 400 * MS;
    for index in [1, 3] {
        let _ = cluster.step(index, Input::Tick);
    }
    cluster.settle();
    cluster.run_for(500 * MS);
    assert_eq!(cluster.leader(), None, "of the old voters it has one of three");
    cluster.heal();
    cluster.run_for(2000 * MS);
    let leader = cluster.leader().expect("a leader");
    assert_eq!(cluster.voters(leader), of(&[0, 3, 4]));
}

/// The only copy of the last configuration is with a node that it leaves out: it must stand once more, or nobody could win.
#[test]
fn a_node_that_is_left_out_stands_until_that_is_committed() {
    rules::the_complete_log_is_outside(Sabotage::default());
}

#[test]
fn a_configuration_that_is_cut_off_counts_no_more() {
    let mut cluster = Cluster::new(5);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster.isolate(&[0, 1]);
    cluster.change(0, &of(&[0, 1])).expect("possible");
    cluster.run_for(5 * MS);
    assert!(cluster.machine(0).configuration().is_joint() && cluster.machine(1).configuration().is_joint());
    cluster.run_for(1500 * MS);
    let other = cluster.leader().expect("the others elect");
    cluster.heal();
    cluster.run_for(100 * MS);
    assert!((0..5).all(|index| cluster.voters(index) == of(&[0, 1, 2, 3, 4])));
    assert!((0..5).all(|index| !cluster.machine(index).is_changing()));
    // And counts as before.
    cluster.crash(other);
    cluster.run_for(1500 * MS);
    assert!(cluster.leader().is_some());
}

#[test]
fn a_stuck_change_is_taken_back_by_the_leader_that_began_it() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    assert_eq!(cluster.step(0, Input::CancelChange), Err(Refused::Request(Error::ChangeInProgress)), "there is none");
    // A new voter that never catches up.
    cluster.isolate(&[4]);
    cluster.change(0, &of(&[0, 1, 2, 3, 4])).expect("possible");
    cluster.run_for(500 * MS);
    assert!(cluster.machine(0).is_changing());
    assert_eq!(cluster.machine(0).configuration().learners.len(), 2);
    cluster.step(0, Input::CancelChange).expect("nothing joint yet");
    cluster.run_for(50 * MS);
    assert!(!cluster.machine(0).is_changing() && cluster.machine(0).configuration().learners.is_empty());
    // And a joint one that the new voters do not acknowledge.
    cluster.heal();
    cluster.filter = Some(Box::new(|from, _, message| {
        from < 3 || !matches!(message.body, Body::Ack(ack) if ack.matched > LogIndex(5))
    }));
    cluster.change(0, &of(&[2, 3, 4])).expect("possible");
    cluster.run_for(100 * MS);
    cluster.step(0, Input::CancelChange).expect("joint or not, nothing of it is committed");
    cluster.filter = None;
    cluster.run_for(100 * MS);
    assert!(!cluster.machine(0).is_changing());
    assert_eq!((cluster.voters(0), cluster.voters(1)), (of(&[0, 1, 2]), of(&[0, 1, 2])));
}

/// A new voter takes the place of a learner that is an earlier life of its seat, until the change is taken back.
#[test]
fn a_learner_whose_place_a_new_voter_took_is_back_once_that_is_taken_back() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    let with = |learners| Configuration { learners, ..cluster_of_three() };
    cluster.step(0, Input::ChangeMembers(&with(vec![member(3, 1)]))).expect("possible");
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(0).configuration().learners, [member(3, 1)]);
    // Of that life nothing is heard.
    cluster.change(0, &[(0, 1), (1, 1), (2, 1), (3, 2)]).expect("possible");
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(0).configuration().learners, [member(3, 2)]);
    cluster.step(0, Input::CancelChange).expect("nothing joint yet");
    cluster.run_for(100 * MS);
    assert_eq!((cluster.machine(0).is_changing(), cluster.voters(0)), (false, of(&[0, 1, 2])));
    assert_eq!(cluster.machine(0).configuration().learners, [member(3, 1)]);
}

fn cluster_of_three() -> Configuration {
    Configuration { voters: (0..3).map(|index| member(index, 1)).collect(), ..Configuration::default() }
}

#[test]
fn a_joint_configuration_is_taken_back_before_it_is_committed_and_not_by_another() {
    let mut cluster = Cluster::new(5);
    cluster.elect(0);
    cluster.run_for(30 * MS);
    // Three of the new voters are three of the old: only acknowledgements are missing.
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Ack(_))));
    cluster.change(0, &of(&[0, 1, 2])).expect("possible");
    cluster.settle();
    assert!((0..5).all(|index| cluster.machine(index).configuration().is_joint()));
    cluster.step(0, Input::CancelChange).expect("its own, and not committed");
    cluster.filter = None;
    cluster.run_for(100 * MS);
    assert!((0..5).all(|index| cluster.voters(index) == of(&[0, 1, 2, 3, 4])));
    assert!(load(&mut cluster, 10) == 10);
}

#[test]
fn an_inheritor_does_not_take_a_joint_configuration_back() {
    rules::inherited_joint_configuration(Sabotage::default());
}

#[test]
fn old_voters_that_miss_a_change_prevent_it() {
    let cluster = staged::a_change_that_the_old_voters_miss(Sabotage::default());
    assert!(cluster.machine(0).configuration().is_joint(), "it was never left");
}

/// A node that comes back by a snapshot has the configuration from it, and counts by it.
#[test]
fn the_configuration_is_in_the_snapshot() {
    let mut cluster = Cluster::of_some_with(4, 3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    cluster.isolate(&[2]);
    let commit = cluster.machine(2).commit();
    cluster.change(0, &of(&[0, 1, 2, 3])).expect("possible");
    load(&mut cluster, 50);
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3]));
    staged::leave_behind(&mut cluster, 2);
    assert!(cluster.log(0).base() > LogIndex(commit.0 + 10));
    cluster.heal();
    cluster.run_for(100 * MS);
    assert_eq!((cluster.nodes[2].installed.len(), cluster.voters(2)), (1, of(&[0, 1, 2, 3])));
    cluster.settle();
    cluster.crash(0);
    cluster.crash(1);
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.leader(), None, "two of four are no majority, as it must know");
}

/// A state that is behind the log is given out with the configuration that was in force where it stands.
#[test]
fn the_configuration_in_a_snapshot_is_the_one_of_its_entry() {
    let mut cluster = Cluster::of_some_with(4, 3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.donors = false;
    });
    cluster.elect(0);
    staged::leave_behind(&mut cluster, 2);
    cluster.run_for(100 * MS);
    cluster.nodes[0].applies = false;
    let applied = cluster.machine(0).applied_index();
    cluster.change(0, &of(&[0, 1, 2, 3])).expect("possible");
    load(&mut cluster, 50);
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3]));
    assert!(!cluster.machine(0).is_changing() && cluster.machine(0).applied_index() == applied);
    cluster.heal();
    cluster.run_for(300 * MS);
    assert_eq!((&cluster.nodes[2].installed, &cluster.nodes[3].installed), (&vec![applied], &vec![applied]));
    assert_eq!((cluster.voters(2), cluster.log(2).last()), (of(&[0, 1, 2, 3]), cluster.log(0).last()));
}

/// A learner that is far behind does not get its vote before it has caught up.
#[test]
fn a_learner_is_promoted_once_it_has_caught_up() {
    let mut cluster = Cluster::of_some_with(4, 3, |config| config.limits.window_bytes = 4000);
    cluster.elect(0);
    load(&mut cluster, 300);
    cluster.change(0, &of(&[0, 1, 2, 3])).expect("possible");
    let mut learnt = 0;
    while cluster.voters(0) != of(&[0, 1, 2, 3]) {
        cluster.run_for(LATENCY_NS);
        let config = cluster.machine(0).configuration();
        if config.learners.contains(&member(3, 1)) {
            learnt += 1;
        } else if config.is_joint() {
            let peer = cluster.machine(0).peers().iter().find(|peer| peer.id() == member(3, 1).id).expect("a peer");
            let lacks = cluster.log(0).bytes_between(peer.matched, cluster.log(0).last());
            assert!(lacks <= 4000 + 1000, "a voter that lacks {lacks} bytes");
        }
    }
    assert!(learnt > 2, "it was a learner first");
}

/// etcd #11284, #7280, #12133: not when it is applied, and not when it is committed either.
#[test]
fn a_configuration_counts_from_the_moment_it_is_appended() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    cluster.nodes.iter_mut().for_each(|node| node.applies = false);
    cluster.change(0, &of(&[0, 3, 4])).expect("possible");
    while !cluster.machine(0).configuration().is_joint() {
        cluster.run_for(LATENCY_NS);
    }
    assert!(cluster.machine(0).configuration_index() > cluster.machine(0).commit());
    // The old voters alone commit nothing any more.
    cluster.flights.clear();
    cluster.isolate(&[0, 1, 2]);
    let commit = cluster.machine(0).commit();
    cluster.run_for(90 * MS);
    assert_eq!(cluster.machine(0).commit(), commit);
    cluster.heal();
    cluster.run_for(500 * MS);
    assert_eq!(cluster.voters(0), of(&[0, 3, 4]), "and nothing of it was applied");
    assert!(cluster.machine(0).applied_index() < cluster.machine(0).configuration_index());
}

/// The next step may be held up when a joint configuration commits: from then on other leaders may finish it.
#[test]
fn a_joint_configuration_that_is_committed_is_not_taken_back() {
    rules::committed_joint_configuration(Sabotage::default());
}

/// Forged configurations, as many as fit a datagram, of which the next leader knows nothing: it conflicts right after the first.
fn forged(own_term: bool) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    let (old, term) = (cluster.machine(2).term(), Term(cluster.machine(2).term().0 + 1));
    let empty = vec![Configuration::default().encode(); 18];
    cluster.append_configurations(1, 2, term, if own_term { term } else { old }, &empty);
    let at = cluster.machine(2).commit().next();
    cluster.append_one(0, 2, term.next(), at);
    cluster
}

/// A leader has two configurations of its own term at most that it does not know to be committed: one that is taken back, and
/// what takes it back. More are refused when they come, so that what they replaced comes back when they are cut off.
#[test]
fn more_open_configurations_than_a_leader_can_have_are_refused() {
    let mut cluster = forged(true);
    assert_eq!(cluster.nodes[2].dropped.first(), Some(&DropReason::Contradiction));
    assert!(cluster.machine(2).configuration_index() <= cluster.machine(2).commit(), "{:?}", cluster.machine(2));
    assert_eq!(cluster.log(2).last(), cluster.machine(2).commit().next(), "what conflicts is replaced");
    cluster.check(2);
}

/// With terms of before, whose leaders may have had many in a row, they are taken: more than are kept, and nothing is cut off
/// below those.
#[test]
fn a_cut_below_the_configurations_that_are_kept_is_refused() {
    let cluster = forged(false);
    assert_eq!(cluster.nodes[2].dropped, [DropReason::Contradiction]);
    assert_eq!(cluster.machine(2).configuration_index(), cluster.log(2).last());
}

/// After a restart of all, a leader knows of no commit before its own: a follower takes any number of configurations from it.
#[test]
fn a_follower_that_missed_many_changes_takes_them_from_a_leader_that_has_just_started() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    cluster.crash(2);
    let learners = vec![member(3, 1)];
    for round in 0..40 {
        let learners = if round % 2 == 0 { learners.clone() } else { Vec::new() };
        let target = Configuration { learners, ..cluster.machine(0).configuration().clone() };
        cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
        cluster.run_for(5 * MS);
    }
    cluster.crash(0);
    cluster.crash(1);
    for index in [0, 2] {
        cluster.restart(index);
        cluster.flush(index);
    }
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.leader(), Some(0), "the only one that has it all");
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
    assert_eq!(cluster.voters(2), of(&[0, 1, 2]));
}
