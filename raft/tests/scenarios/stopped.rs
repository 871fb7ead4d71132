//! Replicas whose apply task cannot go on: they cost the others nothing, and lead only where nobody else can.

use crate::harness::{Cluster, LATENCY_NS, MS};
use trimaran_raft::{Body, Error, Input, LogIndex, Term};

/// These nodes stop at an entry that the others apply, each as soon as it is committed there.
fn poison(cluster: &mut Cluster, nodes: &[usize]) -> LogIndex {
    let leader = cluster.leader().expect("a leader");
    cluster.run_for(100 * MS);
    nodes.iter().for_each(|node| cluster.nodes[*node].applies = false);
    let at = cluster.propose(leader, b"poison").expect("leads");
    for _ in 0..2000 {
        cluster.run_for(LATENCY_NS);
        for node in nodes {
            if cluster.machine(*node).commit() >= at && !cluster.machine(*node).has_stopped() {
                cluster.apply(*node, at.prev());
                cluster.stop(*node);
            }
        }
    }
    assert!(nodes.iter().all(|node| cluster.machine(*node).has_stopped()));
    at
}

fn stays(cluster: &mut Cluster, ns: u64) -> (usize, Term) {
    let leader = cluster.leader().expect("a leader");
    let term = cluster.machine(leader).term();
    for _ in 0..ns / (10 * MS) {
        cluster.run_for(10 * MS);
        assert_eq!((cluster.leader(), cluster.machine(leader).term()), (Some(leader), term));
    }
    (leader, term)
}

fn says_stopped(cluster: &Cluster, leader: usize, node: usize) -> bool {
    let id = cluster.machine(node).me().id;
    cluster.machine(leader).peers().iter().any(|peer| peer.id() == id && peer.stopped)
}

#[test]
fn a_stopped_follower_does_not_hold_the_log_up_and_goes_on_acknowledging() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    poison(&mut cluster, &[2]);
    assert!(says_stopped(&cluster, 0, 2));
    for round in 0..500 {
        assert!(cluster.propose(0, &[round as u8; 500]).is_ok());
        cluster.run_for(MS);
    }
    cluster.run_for(100 * MS);
    let last = cluster.log(0).last();
    assert!((0..3).all(|node| cluster.log(node).first() > LogIndex(300)));
    assert_eq!(cluster.machine(2).commit(), last);
    // With the other follower gone, commit hangs on its acknowledgements.
    cluster.isolate(&[1]);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(5 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
    cluster.heal();
    cluster.crash(2);
    cluster.restart(2);
    cluster.flush(2);
    cluster.run_for(500 * MS);
    assert_eq!(cluster.machine(2).applied_index(), index);
    assert!(!says_stopped(&cluster, 0, 2) && !cluster.machine(2).has_stopped());
    assert_eq!(cluster.leader(), Some(0));
}

/// Large entries in a small log: a few on their way must not put it out of reach, since it gets no snapshot.
#[test]
fn a_stopped_follower_a_little_behind_is_not_left_behind() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 1 << 20);
    cluster.elect(0);
    poison(&mut cluster, &[2]);
    for round in 0..100 {
        cluster.cut.insert((0, 2));
        for _ in 0..3 {
            cluster.propose(0, &[round; 32 << 10]).expect("room");
        }
        cluster.run_for(30 * MS);
        cluster.cut.clear();
        cluster.run_for(50 * MS);
    }
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.log(0).last());
}

/// Its log goes nowhere, since its state goes nowhere, and its disk has no room for more. The swarm's seed 271: the leader kept its own log
/// for it until that was full, and nothing was written until the stopped node was started again.
#[test]
fn a_stopped_follower_whose_disk_is_full_does_not_fill_its_leaders_log() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 64 << 10);
    cluster.elect(0);
    poison(&mut cluster, &[2]);
    cluster.step(2, Input::StorageFull(true)).expect("a disk's word");
    let mut written = 0;
    for round in 0..5000 {
        written += usize::from(cluster.propose(0, &[round as u8; 500]).is_ok());
        cluster.run_for(MS);
    }
    assert!(written > 3000, "{written} of 5000 were written");
    let (commit, last) = (cluster.machine(0).commit(), cluster.log(0).last());
    assert!(commit == last && cluster.log(0).first() > cluster.log(2).last(), "{commit} of {last}");
}

#[test]
fn a_stopped_leader_hands_over_for_good_and_fails_its_reads() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    cluster.nodes[0].applies = false;
    let at = cluster.propose(0, b"poison").expect("leads");
    cluster.settle();
    cluster.stop(0);
    assert!(cluster.machine(0).is_leader(), "nobody is known to have got further");
    cluster.read(0).expect("leads");
    cluster.settle();
    assert_eq!((cluster.machine(0).is_leader(), cluster.nodes[0].failed_reads), (false, 1));
    cluster.run_for(50 * MS);
    let (leader, _) = stays(&mut cluster, 10_000 * MS);
    assert_ne!(leader, 0);
    assert!(matches!(cluster.read(0), Err(Error::NotLeader { .. })));
    let index = cluster.propose(leader, b"x").expect("leads");
    cluster.run_for(50 * MS);
    assert!(cluster.machine(leader).applied_index() == index && index > at);
    // It votes, and waits for the healthy one to stand.
    cluster.crash(leader);
    cluster.run_for(1500 * MS);
    let (next, _) = stays(&mut cluster, 5000 * MS);
    assert!(next != 0 && next != leader);
    // Restarted, it is as good as any.
    cluster.crash(0);
    for node in [0, leader] {
        cluster.restart(node);
        cluster.flush(node);
    }
    cluster.run_for(500 * MS);
    let last = cluster.log(next).last();
    assert!((0..3).all(|node| cluster.machine(node).applied_index() == last));
}

#[test]
fn where_all_have_stopped_one_leads_and_stays_until_one_is_healthy() {
    for count in [1, 3, 5] {
        let mut cluster = Cluster::new(count);
        cluster.elect(0);
        let at = poison(&mut cluster, &(0..count).collect::<Vec<_>>());
        let (leader, _) = stays(&mut cluster, 10_000 * MS);
        assert_eq!(leader, 0, "nobody has got further, so that nothing is won by another leader");
        assert_eq!(cluster.propose(0, b"x"), Err(Error::Overloaded));
        if count == 1 {
            continue;
        }
        cluster.crash(0);
        cluster.run_for(5000 * MS);
        let (next, _) = stays(&mut cluster, 10_000 * MS);
        let healed = (1..count).find(|node| *node != next).expect("another");
        cluster.restart(0);
        cluster.nodes[0].applies = false;
        cluster.stop(0);
        cluster.crash(healed);
        cluster.restart(healed);
        cluster.flush(healed);
        cluster.run_for(1000 * MS);
        assert_eq!(stays(&mut cluster, 10_000 * MS).0, healed);
        assert!(cluster.machine(healed).applied_index() > at);
    }
}

/// The others hold more, and would not elect it: leadership would go round and round.
#[test]
fn nothing_is_handed_over_to_one_that_lacks_entries() {
    let mut cluster = Cluster::new(3);
    cluster.elect(0);
    cluster.run_for(100 * MS);
    cluster.nodes[0].applies = false;
    cluster.nodes[2].applies = false;
    let at = cluster.propose(0, b"poison").expect("leads");
    cluster.run_for(50 * MS);
    cluster.filter = Some(Box::new(|_, to, message| match &message.body {
        Body::Append(_, entries) => to != 1 || entries.remaining() == 0,
        _ => true,
    }));
    cluster.propose(0, b"tail").expect("leads");
    cluster.settle();
    cluster.stop(2);
    cluster.stop(0);
    assert_eq!(stays(&mut cluster, 1000 * MS).0, 0);
    let peer = cluster.machine(0).peers().iter().find(|peer| peer.id() == cluster.machine(1).me().id).expect("a peer");
    assert!(peer.applied == at && !peer.stopped && peer.matched < cluster.log(0).last());
    cluster.filter = None;
    cluster.run_for(200 * MS);
    assert_eq!(stays(&mut cluster, 1000 * MS).0, 1);
}

#[test]
fn a_healthy_one_stands_for_election_first() {
    for seed in 0..30 {
        let mut cluster = Cluster::with(3, |config| config.seed += 10 * seed);
        cluster.elect(0);
        poison(&mut cluster, &[2]);
        cluster.crash(0);
        while cluster.leader().is_none() {
            cluster.run_for(LATENCY_NS);
            assert!(!cluster.machine(2).is_leader(), "seed {seed}");
        }
        assert_eq!(stays(&mut cluster, 1000 * MS).0, 1);
    }
}

/// A healthy one that lacks what only a snapshot would bring cannot win: nobody hands over to it, again and again.
#[test]
fn nothing_is_handed_over_to_one_that_is_out_of_reach() {
    let mut cluster = Cluster::with(3, |config| config.limits.log_bytes = 16 << 10);
    cluster.elect(0);
    cluster.nodes[0].offers = false;
    cluster.isolate(&[2]);
    for round in 0..3000 {
        let _ = cluster.propose(0, &[round as u8; 500]);
        cluster.run_for(MS);
    }
    poison(&mut cluster, &[0, 1]);
    cluster.heal();
    cluster.run_for(1000 * MS);
    assert_eq!(stays(&mut cluster, 20_000 * MS).0, 0);
}
