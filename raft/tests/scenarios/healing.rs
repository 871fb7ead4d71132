//! Nodes that lost their memory: they come back as voters by themselves, one at a time, as long as a majority remembers.

use crate::harness::{Cluster, LATENCY_NS, MS, member, rules};
use trimaran_raft::{Configuration, EntryKind, Input, LogIndex, Role, Sabotage};

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

fn votes(cluster: &Cluster, index: usize, incarnation: u64) -> bool {
    let leader = cluster.leader().expect("a leader");
    !cluster.machine(leader).is_changing() && cluster.voters(leader).contains(&(index, incarnation))
}

/// Runs, with load, until `index` votes in this life.
fn heal(cluster: &mut Cluster, index: usize, incarnation: u64) {
    for _ in 0..300 {
        load(cluster, 10);
        if cluster.leader().is_some() && votes(cluster, index, incarnation) {
            return;
        }
    }
    panic!("node {index} in life {incarnation} does not vote after three seconds");
}

fn small(log_bytes: u64) -> Cluster {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = log_bytes);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 20_000);
    cluster
}

#[test]
fn a_restarted_node_is_a_voter_again_within_a_second() {
    for log_bytes in [256 << 20, 32 << 10] {
        let mut cluster = small(log_bytes);
        cluster.elect(0);
        load(&mut cluster, 300);
        cluster.crash(2);
        cluster.restart_empty(2, 2);
        assert!(load(&mut cluster, 1000) == 1000, "nobody notices");
        assert!(votes(&cluster, 2, 2));
        assert_eq!(cluster.nodes[2].installed.is_empty(), log_bytes > 1 << 20);
        // Its acknowledgement and its vote count.
        cluster.settle();
        cluster.crash(1);
        let index = cluster.propose(0, b"x").expect("leads");
        cluster.run_for(5 * MS);
        assert_eq!(cluster.machine(0).commit(), index);
        cluster.restart(1);
        cluster.flush(1);
        cluster.run_for(100 * MS);
        cluster.crash(0);
        cluster.run_for(1500 * MS);
        assert!(cluster.leader().is_some());
    }
}

/// A rolling restart, the leader among the others, twenty times: every write that was acknowledged is still there, which the
/// invariants check, and the group takes writes all the time.
#[test]
fn restarts_one_after_the_other_heal_twenty_times() {
    for log_bytes in [256 << 20, 32 << 10] {
        let mut cluster = small(log_bytes);
        cluster.elect(0);
        let mut lives = [1u64; 3];
        let mut taken = 0;
        for round in 0..20 {
            taken += load(&mut cluster, 50);
            let index = if round % 2 == 0 { cluster.leader().expect("a leader") } else { round % 3 };
            cluster.crash(index);
            taken += load(&mut cluster, round * 20);
            lives[index] += 1;
            cluster.restart_empty(index, lives[index]);
            heal(&mut cluster, index, lives[index]);
        }
        cluster.run_for(100 * MS);
        let leader = cluster.leader().expect("a leader");
        assert_eq!(cluster.voters(leader), [(0, lives[0]), (1, lives[1]), (2, lives[2])]);
        assert!((0..3).all(|index| cluster.log(index).last() == cluster.log(leader).last()));
        assert!((0..3).all(|index| cluster.nodes[index].digest == cluster.nodes[leader].digest));
        assert!(cluster.machine(leader).commit() > LogIndex(taken as u64) && taken > 2500, "{taken} were taken");
    }
}

/// The new life of a lost voter takes a place among the learners, and nobody else's.
#[test]
fn healing_leaves_other_learners_where_they_are() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(3, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    load(&mut cluster, 30);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    heal(&mut cluster, 2, 2);
    assert_eq!(cluster.machine(0).configuration().learners, [member(3, 1)]);
}

#[test]
fn two_of_five_heal_and_one_more_than_that_stays_down() {
    let mut cluster = Cluster::new(5);
    cluster.elect(0);
    load(&mut cluster, 20);
    cluster.crash(3);
    cluster.crash(4);
    cluster.restart_empty(3, 2);
    cluster.restart_empty(4, 2);
    heal(&mut cluster, 3, 2);
    heal(&mut cluster, 4, 2);
    load(&mut cluster, 20);
    for index in [1, 2, 3] {
        cluster.crash(index);
        cluster.restart_empty(index, 7);
    }
    cluster.run_for(5000 * MS);
    assert_eq!(cluster.leader(), None, "two that remember are no majority of five, and none is pretended");
    for index in [1, 2, 3] {
        assert!(matches!(cluster.machine(index).role(), Role::Joining { .. }), "and it says so");
        assert_eq!(cluster.log(index).last(), LogIndex::ZERO);
    }
    assert!((0..5).all(|index| cluster.machine(index).reachable() < 3));
}

#[test]
fn a_node_that_restarts_again_and_again_heals_in_its_last_life() {
    let mut cluster = small(32 << 10);
    cluster.elect(0);
    load(&mut cluster, 100);
    for pause in [0, 1, 5, 30, 100, 150, 190, 201, 205, 210, 230, 260, 300, 400] {
        let life = u64::try_from(pause).expect("small") + 10;
        cluster.crash(2);
        cluster.restart_empty(2, life);
        load(&mut cluster, pause);
        cluster.crash(2);
        cluster.restart_empty(2, life + 1000);
        load(&mut cluster, 2);
        cluster.crash(2);
        cluster.restart_empty(2, life + 2000);
        heal(&mut cluster, 2, life + 2000);
    }
    let config = cluster.machine(0).configuration();
    assert!(config.learners.is_empty() && config.voters.len() == 3);
}

/// The leader dies after every number of steps of a healing: the next one goes on with it.
#[test]
fn the_leader_dies_while_another_rejoins() {
    for steps in 0..60 {
        let mut cluster = Cluster::new(5);
        cluster.elect(0);
        load(&mut cluster, 30);
        cluster.crash(4);
        cluster.restart_empty(4, 2);
        cluster.run_for(200 * MS);
        for _ in 0..steps {
            if cluster.flights.is_empty() {
                cluster.run_for(LATENCY_NS);
            } else {
                let flight = cluster.flights.remove(0);
                cluster.deliver(&flight);
            }
        }
        cluster.crash(0);
        cluster.flights.clear();
        cluster.run_for(1000 * MS);
        heal(&mut cluster, 4, 2);
        cluster.restart_empty(0, 2);
        heal(&mut cluster, 0, 2);
    }
}

/// In a group of three the one that rejoins may be needed for a majority at once. It never votes before it is one.
#[test]
fn with_the_leader_gone_too_the_rest_waits_for_one_that_remembers() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    load(&mut cluster, 20);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    cluster.crash(0);
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.leader(), None, "one of three remembers");
    // The old leader was only away.
    cluster.restart(0);
    cluster.flush(0);
    cluster.run_for(500 * MS);
    heal(&mut cluster, 2, 2);
}

#[test]
fn a_voter_that_is_heard_is_not_replaced_by_another_life_of_its_seat() {
    rules::second_node_in_a_seat(Sabotage::default());
}

/// The entry that took a joiner in is lost with its leader: the joiner, which has entered the cluster, asks again.
#[test]
fn a_joiner_whose_entry_was_cut_off_asks_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    load(&mut cluster, 20);
    cluster.crash(2);
    cluster.run_for(200 * MS);
    // Only the joiner hears what the leader now appends.
    cluster.cut.extend([(0, 1)]);
    cluster.restart_empty(2, 2);
    for _ in 0..2000 {
        cluster.run_for(MS / 10);
        if cluster.machine(0).configuration().member(member(2, 2).id).is_some() {
            break;
        }
    }
    cluster.run_for(2 * MS);
    assert_eq!(cluster.machine(2).role(), Role::Follower, "it was taken in");
    cluster.crash(0);
    cluster.heal();
    cluster.restart(0);
    // Without its last entries, as a group of which a part came back from an older disk would be.
    cluster.flush(0);
    heal(&mut cluster, 2, 2);
}

#[test]
fn a_cluster_may_be_told_not_to_heal() {
    let mut cluster = Cluster::with(3, |config| config.heals = false);
    cluster.elect(0);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.voters(0), [(0, 1), (1, 1), (2, 1)]);
    cluster.change(0, &[(0, 1), (1, 1), (2, 2)]).expect("the operator may");
    cluster.run_for(500 * MS);
    assert!(votes(&cluster, 2, 2));
}

/// The new life is lost too, before it had its vote, and stays away for long: the seat is not kept for it.
#[test]
fn a_learner_that_was_to_take_a_seat_over_and_is_gone_makes_room_for_the_next_life() {
    let mut cluster = small(256 << 20);
    cluster.elect(0);
    load(&mut cluster, 100);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    for _ in 0..10_000 {
        cluster.run_for(LATENCY_NS / 4);
        if !cluster.machine(0).configuration().learners.is_empty() {
            break;
        }
    }
    cluster.crash(2);
    load(&mut cluster, 1000);
    assert_eq!(cluster.machine(0).configuration().learners, [member(2, 2)], "it never had the vote");
    cluster.restart_empty(2, 3);
    heal(&mut cluster, 2, 3);
}

/// Runs with load for so many milliseconds; never more than one configuration of the leader's is open.
fn watch(cluster: &mut Cluster, ms: usize) {
    for _ in 0..ms {
        load(cluster, 1);
        let Some(leader) = cluster.leader() else { continue };
        let (log, commit) = (cluster.log(leader), cluster.machine(leader).commit());
        let is_config = |at: &u64| log.header(LogIndex(*at)).is_some_and(|header| header.kind == EntryKind::Config);
        assert!((commit.0 + 1..=log.last().0).filter(is_config).count() <= 1, "two changes at a time");
    }
}

/// Node 3 is to vote too and is not heard; meanwhile voter 2 forgets.
fn a_change_waits_and_a_voter_restarts() -> Cluster {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    load(&mut cluster, 20);
    cluster.isolate(&[3]);
    cluster.change(0, &[(0, 1), (1, 1), (2, 1), (3, 1)]).expect("possible");
    watch(&mut cluster, 50);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    cluster
}

#[test]
fn a_restarted_voter_heals_while_a_change_waits() {
    let mut cluster = a_change_waits_and_a_voter_restarts();
    watch(&mut cluster, 1000);
    assert_eq!(cluster.voters(0), [(0, 1), (1, 1), (2, 2)]);
    assert!(cluster.machine(0).is_changing());
    assert_eq!(
        cluster.machine(0).change_waits_for(cluster.log(0)).collect::<Vec<_>>(),
        [member(3, 1)],
        "and it says for whom"
    );
    // The change goes on when it can, with the new life in the seat.
    cluster.heal();
    watch(&mut cluster, 500);
    assert_eq!(cluster.voters(0), [(0, 1), (1, 1), (2, 2), (3, 1)]);
    assert!(!cluster.machine(0).is_changing() && cluster.machine(0).configuration().learners.is_empty());
    assert_eq!(cluster.machine(0).change_waits_for(cluster.log(0)).count(), 0);
}

/// The operator takes the change back after every number of messages: nothing of it stays, and the healing comes to its end.
#[test]
fn a_change_is_taken_back_in_the_midst_of_a_healing() {
    let mut joints = 0;
    for steps in 0..80 {
        let mut cluster = a_change_waits_and_a_voter_restarts();
        let at = cluster.machine(0).configuration_index();
        for _ in 0..20_000 {
            if cluster.machine(0).configuration_index() > at {
                break;
            }
            cluster.run_for(LATENCY_NS / 2);
        }
        for _ in 0..steps {
            if cluster.flights.is_empty() {
                cluster.run_for(LATENCY_NS);
            } else {
                let flight = cluster.flights.remove(0);
                cluster.deliver(&flight);
            }
        }
        joints += usize::from(cluster.machine(0).configuration().is_joint());
        let refused = |cluster: &mut Cluster| cluster.step(0, Input::CancelChange).is_err();
        let mut attempts = 0;
        while refused(&mut cluster) {
            attempts += 1;
            assert!(attempts < 100, "what is joint is committed, and left soon");
            cluster.run_for(LATENCY_NS);
        }
        heal(&mut cluster, 2, 2);
        assert_eq!(cluster.voters(0), [(0, 1), (1, 1), (2, 2)], "after {steps} steps");
        assert!(cluster.machine(0).configuration().learners.is_empty(), "after {steps} steps");
    }
    assert!(joints > 5, "{joints} were in the midst of it");
}

/// A seat that the change gives to one life is not given to another meanwhile: the two would take it from each other for ever.
/// When the first has not been heard for a minute, the change is given up, and the seat heals.
#[test]
fn a_change_and_a_healing_do_not_fight_for_a_seat() {
    let mut cluster = Cluster::of_some(4, 3);
    cluster.elect(0);
    cluster.crash(2);
    cluster.run_for(300 * MS);
    cluster.restart_empty(2, 2);
    cluster.isolate(&[2]);
    cluster.change(0, &[(0, 1), (1, 1), (2, 2)]).expect("possible");
    load(&mut cluster, 50);
    cluster.crash(2);
    cluster.heal();
    cluster.restart_empty(2, 3);
    let at = cluster.machine(0).configuration_index();
    cluster.run_for(10_000 * MS);
    assert_eq!(cluster.machine(0).configuration_index(), at);
    assert_eq!(cluster.machine(0).change_waits_for(cluster.log(0)).collect::<Vec<_>>(), [member(2, 2)]);
    cluster.run_for(50_000 * MS);
    heal(&mut cluster, 2, 3);
}

#[test]
fn a_change_whose_new_voter_is_silent_for_a_minute_is_given_up() {
    let mut cluster = Cluster::of_some(5, 3);
    cluster.elect(0);
    let target = Configuration { learners: vec![member(4, 1)], ..cluster.machine(0).configuration().clone() };
    cluster.step(0, Input::ChangeMembers(&target)).expect("possible");
    load(&mut cluster, 30);
    cluster.isolate(&[3]);
    cluster.change(0, &[(0, 1), (1, 1), (2, 1), (3, 1)]).expect("possible");
    cluster.run_for(59_000 * MS);
    assert!(cluster.machine(0).is_changing());
    cluster.run_for(1500 * MS);
    assert!(!cluster.machine(0).is_changing());
    assert_eq!(cluster.machine(0).configuration().learners, [member(4, 1)], "as it was before");
    // Not so where it is heard now and then.
    cluster.change(0, &[(0, 1), (1, 1), (2, 1), (3, 1)]).expect("possible");
    cluster.run_for(40_000 * MS);
    cluster.heal();
    cluster.run_for(500 * MS);
    assert_eq!(cluster.voters(0).len(), 4);
}
