//! Groups that nobody wants anything of, and how they wake up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::{Cluster, MS, member};
use trimaran_raft::{
    Ask, Body, ClusterId, DropReason, Envelope, Error, Input, LogIndex, Message, Refused, Role, ShardConfig,
};

/// Silence after which the groups here go quiet.
const QUIET_AFTER_NS: u64 = 300 * MS;
/// All have gone quiet so long after the last use: followers tell of theirs for as long.
const SETTLED_NS: u64 = 2 * QUIET_AFTER_NS + 5 * HEARTBEAT_NS;
/// A heartbeat, the longest election timeout, and both in a quiet group.
const HEARTBEAT_NS: u64 = 20 * MS;
const ELECTION_MAX_NS: u64 = 200 * MS;
const QUIET_HEARTBEAT_NS: u64 = 25 * HEARTBEAT_NS;
const QUIET_ELECTION_MAX_NS: u64 = 25 * ELECTION_MAX_NS;

fn soon_quiet(config: &mut ShardConfig) {
    config.timing.quiet_after = Duration::from_nanos(QUIET_AFTER_NS);
}

/// Three nodes led by the first, all quiet.
fn quiet() -> Cluster {
    quiet_with(|_| {})
}

fn quiet_with(change: impl Fn(&mut ShardConfig)) -> Cluster {
    let mut cluster = Cluster::with(3, |config| {
        soon_quiet(config);
        change(config);
    });
    cluster.elect(0);
    cluster.propose(0, b"x").expect("leads");
    cluster.run_for(SETTLED_NS);
    assert_eq!(are_quiet(&cluster), [true; 3]);
    cluster
}

fn are_quiet(cluster: &Cluster) -> Vec<bool> {
    cluster.nodes.iter().map(|node| node.machine.is_quiet()).collect()
}

/// Counts what is sent from now on.
fn counted(cluster: &mut Cluster) -> Rc<Cell<u64>> {
    let sent = Rc::new(Cell::new(0));
    let count = sent.clone();
    cluster.filter = Some(Box::new(move |_, _, _| {
        count.set(count.get() + 1);
        true
    }));
    sent
}

#[test]
fn an_idle_group_goes_quiet_and_stays_one_for_an_hour() {
    let mut cluster = quiet();
    let (terms, commit) = (cluster.machine(0).term(), cluster.machine(0).commit());
    let sent = counted(&mut cluster);
    const HOUR_NS: u64 = 3600 * 1000 * MS;
    cluster.run_for(HOUR_NS);
    // To two followers and back.
    let expected = 4 * HOUR_NS / QUIET_HEARTBEAT_NS;
    assert!((expected - 8..=expected + 8).contains(&sent.get()), "{} instead of {expected}", sent.get());
    assert_eq!((cluster.leader(), cluster.machine(0).term(), cluster.machine(0).commit()), (Some(0), terms, commit));
    assert_eq!(are_quiet(&cluster), [true; 3]);
    for _ in 0..QUIET_HEARTBEAT_NS / HEARTBEAT_NS {
        cluster.run_for(HEARTBEAT_NS);
        assert_eq!((0..3).map(|index| cluster.machine(index).reachable()).collect::<Vec<_>>(), [3, 2, 2]);
    }
}

#[test]
fn a_group_that_is_used_now_and_then_does_not_go_quiet() {
    let mut cluster = Cluster::with(3, soon_quiet);
    cluster.elect(0);
    for _ in 0..20 {
        cluster.propose(0, b"x").expect("leads");
        cluster.run_for(QUIET_AFTER_NS - 5 * HEARTBEAT_NS);
        let _ = cluster.step(0, Input::Read);
        cluster.run_for(QUIET_AFTER_NS - 5 * HEARTBEAT_NS);
        assert_eq!(are_quiet(&cluster), [false; 3]);
    }
}

/// Reads that ask nobody are use, too: without the group's leader hearing of it, they would find its state old one day.
#[test]
fn a_group_of_which_a_follower_is_used_does_not_go_quiet() {
    let mut cluster = Cluster::with(3, soon_quiet);
    cluster.elect(0);
    for _ in 0..40 {
        cluster.run_for(QUIET_AFTER_NS / 2);
        cluster.step(2, Input::LeaderWanted).expect("said to anybody");
        assert_eq!(are_quiet(&cluster), [false; 3]);
    }
    cluster.run_for(SETTLED_NS);
    assert_eq!(are_quiet(&cluster), [true; 3]);
}

#[test]
fn without_a_limit_no_group_goes_quiet() {
    let mut cluster = Cluster::with(3, |config| config.timing.quiet_after = Duration::ZERO);
    cluster.elect(0);
    cluster.run_for(100_000 * MS);
    assert_eq!(are_quiet(&cluster), [false; 3]);
}

/// It was silent for longer than a leader's quorum may be, and is refused nothing for it.
#[test]
fn a_proposal_wakes_a_quiet_group_and_commits_at_once() {
    for wait in [0, 7, 130, 251, 400, 499] {
        let mut cluster = quiet();
        cluster.run_for(10 * QUIET_HEARTBEAT_NS + wait * MS);
        let index = cluster.propose(0, b"y").expect("its quorum is not silent, only seldom asked");
        cluster.settle();
        assert_eq!(cluster.machine(0).commit(), index);
        assert_eq!(are_quiet(&cluster), [false; 3]);
        let term = cluster.machine(0).term();
        cluster.run_for(QUIET_AFTER_NS / 2);
        assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
        cluster.run_for(SETTLED_NS);
        assert_eq!(are_quiet(&cluster), [true; 3], "and goes back to sleep");
    }
}

#[test]
fn reads_wake_a_quiet_group_wherever_they_arrive() {
    for at in 0..3 {
        let mut cluster = quiet();
        cluster.run_for(3 * QUIET_HEARTBEAT_NS + 123 * MS);
        cluster.read_here(at).expect("a leader is known");
        cluster.settle();
        assert_eq!(cluster.nodes[at].answered.len(), 1, "asked at {at}, {} failed", cluster.nodes[at].failed_reads);
        assert!(!cluster.machine(0).is_quiet());
        let term = cluster.machine(0).term();
        cluster.run_for(2 * ELECTION_MAX_NS);
        assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    }
}

/// Leases are as long as ever: a quiet leader has none.
#[test]
fn a_quiet_leader_holds_no_lease_and_gets_one_with_the_first_round() {
    let mut cluster = quiet_with(|config| config.reads.lease = true);
    cluster.run_for(QUIET_HEARTBEAT_NS + 300 * MS);
    let stamp = cluster.local(0);
    assert_eq!(cluster.lease_read(0, stamp), Err(Error::LeaseEnded));
    let _ = cluster.step(0, Input::Read).expect("leads");
    cluster.settle();
    let stamp = cluster.local(0);
    assert!(cluster.lease_read(0, stamp).is_ok());
}

#[test]
fn a_dead_leader_of_a_quiet_group_is_replaced_though_nobody_asks() {
    let mut cluster = quiet();
    cluster.crash(0);
    cluster.run_for(ELECTION_MAX_NS * 2);
    assert_eq!(cluster.leader(), None, "they are patient");
    let died = cluster.now;
    cluster.run_for(QUIET_ELECTION_MAX_NS / 2 - 3 * ELECTION_MAX_NS);
    assert_eq!(cluster.leader(), None, "all of them");
    cluster.run_to_leader(2 * QUIET_ELECTION_MAX_NS);
    assert!(cluster.now - died <= QUIET_ELECTION_MAX_NS + 4 * ELECTION_MAX_NS, "{}", cluster.now - died);
}

/// Whoever wants something first does not wait for their patience to end: a client asks every node in turn.
#[test]
fn a_dead_leader_of_a_quiet_group_is_replaced_as_soon_as_somebody_asks() {
    for asked in [[Some(1), None], [Some(2), Some(1)]] {
        for seed in 0..20 {
            let mut cluster = quiet_with(|config| config.seed = config.seed.wrapping_add(seed * 1000));
            cluster.run_for(QUIET_HEARTBEAT_NS + seed * 17 * MS);
            cluster.crash(0);
            cluster.run_for(50 * MS);
            for at in asked.into_iter().flatten() {
                let refused = cluster.step(at, Input::LeaderWanted);
                assert!(refused.is_ok());
            }
            let wanted = cluster.now;
            cluster.run_to_leader(QUIET_ELECTION_MAX_NS);
            // With one only woken, the other one is woken by its question.
            let most = if asked[1].is_some() { 2 } else { 3 } * ELECTION_MAX_NS;
            assert!(cluster.now - wanted <= most, "{asked:?}, seed {seed}: {} ms", (cluster.now - wanted) / MS);
        }
    }
}

/// A proposal that is refused for want of leadership tells too.
#[test]
fn a_proposal_at_a_follower_wakes_it() {
    let mut cluster = quiet();
    assert!(matches!(cluster.propose(1, b"y"), Err(Error::NotLeader { leader: Some(_) })));
    assert_eq!(are_quiet(&cluster), [true, false, true]);
    let term = cluster.machine(0).term();
    // It hears nothing and asks; its leader wakes, and stays.
    cluster.run_for(2 * ELECTION_MAX_NS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    assert_eq!(cluster.machine(1).role(), Role::Follower);
}

/// One that starts again knows nothing of the others' patience, and campaigns.
#[test]
fn a_follower_that_starts_again_does_not_depose_a_quiet_leader() {
    for seed in 0..20 {
        let mut cluster = quiet_with(|config| config.seed = config.seed.wrapping_add(seed * 1000));
        cluster.run_for(QUIET_HEARTBEAT_NS + seed * 23 * MS);
        let term = cluster.machine(0).term();
        cluster.crash(2);
        cluster.restart(2);
        cluster.run_for(4 * ELECTION_MAX_NS);
        assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term), "seed {seed}");
        cluster.run_for(SETTLED_NS + QUIET_HEARTBEAT_NS);
        assert_eq!(are_quiet(&cluster), [true; 3]);
    }
}

/// Nor where it is heard by another follower only, which the leader has not yet told that it lives.
#[test]
fn a_follower_that_starts_again_and_hears_no_leader_does_not_depose_a_quiet_one() {
    for seed in 0..20 {
        let mut cluster = quiet_with(|config| config.seed = config.seed.wrapping_add(seed * 1000));
        cluster.run_for(seed * 13 * MS);
        let term = cluster.machine(0).term();
        cluster.crash(2);
        cluster.restart(2);
        cluster.cut.extend([(0, 2), (2, 0)]);
        cluster.run_for(10 * ELECTION_MAX_NS);
        assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term), "seed {seed}");
    }
}

/// Its process was stopped, say. It is a follower like any other then, and no more patient.
#[test]
fn who_ends_its_quiet_by_itself_is_as_impatient_as_ever() {
    let mut cluster = quiet();
    cluster.isolate(&[0]);
    cluster.now += QUIET_ELECTION_MAX_NS + QUIET_HEARTBEAT_NS;
    let _ = cluster.step(0, Input::Tick);
    let _ = cluster.step(1, Input::Tick);
    assert_eq!([0, 1].map(|index| cluster.machine(index).role()), [Role::Follower, Role::PreCandidate]);
    for index in [0, 1] {
        assert!(!cluster.machine(index).is_quiet());
        assert!(cluster.machine(index).next_deadline().since(cluster.local(index)) <= ELECTION_MAX_NS);
    }
}

/// There is something to do yet, and the leader is to hear of it at the usual pace.
#[test]
fn a_group_that_has_not_applied_or_written_everything_does_not_go_quiet() {
    for late in 0..3 {
        for writes in [false, true] {
            let mut cluster = Cluster::with(3, soon_quiet);
            cluster.elect(0);
            cluster.run_for(5 * HEARTBEAT_NS);
            let node = &mut cluster.nodes[late];
            if writes {
                node.applies = false;
            } else {
                node.disk.holds = true;
            }
            cluster.propose(0, b"x").expect("leads");
            cluster.run_for(10 * QUIET_AFTER_NS);
            assert_eq!(are_quiet(&cluster), [false; 3], "node {late}, writes: {writes}");
        }
    }
}

#[test]
fn a_group_without_one_of_its_members_does_not_go_quiet() {
    let mut cluster = quiet();
    cluster.crash(2);
    let term = cluster.machine(0).term();
    cluster.run_for(2 * QUIET_HEARTBEAT_NS + ELECTION_MAX_NS);
    assert_eq!(are_quiet(&cluster)[..2], [false; 2]);
    cluster.run_for(100 * ELECTION_MAX_NS);
    assert_eq!(are_quiet(&cluster)[..2], [false; 2]);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
    cluster.restart(2);
    cluster.run_for(SETTLED_NS + QUIET_HEARTBEAT_NS);
    assert_eq!(are_quiet(&cluster), [true; 3]);
}

/// The group's other half must not take a leader for alive that is cut off, nor it itself for one.
#[test]
fn a_quiet_leader_that_is_cut_off_steps_down_and_is_replaced() {
    let mut cluster = quiet();
    cluster.isolate(&[0]);
    cluster.run_for(QUIET_ELECTION_MAX_NS + 4 * ELECTION_MAX_NS);
    assert!(!cluster.machine(0).is_leader());
    assert!(matches!(cluster.leader(), Some(1 | 2)));
    cluster.heal();
    cluster.run_for(2 * ELECTION_MAX_NS);
    assert_eq!(
        cluster.machine(0).leader().map(|leader| leader.id),
        Some(cluster.machine(cluster.leader().expect("led")).me().id)
    );
}

/// What belongs to another cluster is nobody's wish.
#[test]
fn a_stranger_does_not_wake_a_quiet_group() {
    let mut cluster = quiet();
    let term = cluster.machine(0).term();
    let ask = Ask { campaign: term.next(), last: LogIndex(9), last_term: term, told: false };
    for to in [0, 1] {
        let header = Envelope { cluster: ClusterId(77), ..cluster.envelope(2, to, term) };
        let message = Message { header, body: Body::PreVote(ask) };
        let refused = cluster.step(to, Input::Message(member(2, 1).peer, &message));
        assert_eq!(refused, Err(Refused::Dropped(DropReason::WrongCluster)));
    }
    assert_eq!(are_quiet(&cluster), [true; 3]);
}

#[test]
fn lost_messages_do_not_wake_a_quiet_group_into_an_election() {
    let mut cluster = quiet();
    let term = cluster.machine(0).term();
    let mut number = 0u64;
    cluster.filter = Some(Box::new(move |_, _, _| {
        number += 1;
        !number.is_multiple_of(3)
    }));
    cluster.run_for(200 * QUIET_HEARTBEAT_NS);
    assert_eq!((cluster.leader(), cluster.machine(0).term()), (Some(0), term));
}

#[test]
fn leadership_is_handed_over_in_a_quiet_group() {
    let mut cluster = quiet();
    cluster.run_for(QUIET_HEARTBEAT_NS + 200 * MS);
    let heir = cluster.machine(2).me().id;
    cluster.step(0, Input::Transfer(Some(heir))).expect("fit");
    cluster.run_for(2 * HEARTBEAT_NS);
    assert_eq!(cluster.leader(), Some(2));
    let mut cluster = quiet();
    cluster.run_for(QUIET_HEARTBEAT_NS + 200 * MS);
    cluster.step(0, Input::Farewell).expect("leads");
    cluster.run_for(3 * HEARTBEAT_NS);
    assert!(matches!(cluster.leader(), Some(1 | 2)));
}

/// A stale message of the quiet time makes a follower patient once, until the next heartbeat.
#[test]
fn a_late_quiet_heartbeat_costs_one_timeout_at_most() {
    let mut cluster = quiet();
    cluster.expire(0);
    let late = cluster.take(|from, to, _| (from, to) == (0, 1));
    assert!(!late.is_empty());
    cluster.propose(0, b"y").expect("leads");
    cluster.settle();
    cluster.deliver(&late[0]);
    assert!(cluster.machine(1).is_quiet());
    cluster.run_for(2 * HEARTBEAT_NS);
    assert!(!cluster.machine(1).is_quiet());
}
