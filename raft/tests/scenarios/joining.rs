//! Which messages a node takes for its own, and how one without state finds a cluster.

use std::cell::Cell;
use std::rc::Rc;

use crate::harness::{CLUSTER, Cluster, MS, member, staged};
use trimaran_raft::{
    AppendHead, Body, ClusterId, DropReason, Entries, Envelope, Error, Input, LogIndex, Message, Role, Sabotage,
    ShardId, Term,
};

fn deliver(cluster: &mut Cluster, header: Envelope) {
    let message = Message { header, body: Body::Farewell };
    let _ = cluster.step(0, Input::Message(member(1, 1).peer, &message));
}

#[test]
fn messages_of_others_are_dropped_and_counted() {
    let mut cluster = Cluster::new(3);
    let good = cluster.envelope(1, 0, cluster.machine(0).term());
    let before = cluster.machine(0).clone();
    let cases = [
        (Envelope { cluster: ClusterId(9), ..good }, DropReason::WrongCluster),
        (Envelope { to: member(0, 2).id, ..good }, DropReason::WrongDestination),
        (Envelope { to: member(1, 1).id, ..good }, DropReason::WrongDestination),
        (Envelope { shard: ShardId(1), ..good }, DropReason::WrongShard),
        (Envelope { from: member(0, 1).id, ..good }, DropReason::FromMyself),
    ];
    for (header, reason) in cases {
        deliver(&mut cluster, header);
        assert_eq!(cluster.nodes[0].dropped.pop(), Some(reason));
    }
    assert_eq!(*cluster.machine(0), before);
}

#[test]
fn only_init_forms_a_cluster_and_it_may_be_repeated() {
    let mut cluster = Cluster::unformed(3, |_| {});
    cluster.run_for(2000 * MS);
    assert!((0..3).all(|index| cluster.machine(index).role() == Role::Uninitialised));
    let members: Vec<_> = (0..3).map(|index| member(index, 1)).collect();
    let node = &mut cluster.nodes[0];
    let stranger = [member(0, 2), member(1, 1)];
    assert_eq!(node.machine.bootstrap(CLUSTER, &stranger, 7, &mut node.log), Err(Error::BadConfiguration));
    let twice = [member(0, 1), member(1, 1), member(1, 2)];
    assert_eq!(node.machine.bootstrap(CLUSTER, &twice, 7, &mut node.log), Err(Error::BadConfiguration));
    assert_eq!(node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log), Ok(()));
    let (entry, body) = node.log.entry(LogIndex(1)).expect("the members");
    let body: Vec<u8> = body.flatten().copied().collect();
    assert_eq!((entry.body_len as usize, entry.body_crc32c), (body.len(), crc32c::crc32c(&body)));
    let before = node.machine.clone();
    assert_eq!(node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log), Ok(()));
    assert_eq!(node.machine, before);
    let other = ClusterId(5);
    let refused = node.machine.bootstrap(other, &members, 7, &mut node.log);
    assert_eq!(refused, Err(Error::AlreadyInitialised { cluster: CLUSTER }));
}

#[test]
fn a_cluster_begins_with_nine_members_at_most() {
    let mut cluster = Cluster::unformed(1, |_| {});
    let members: Vec<_> = (0..10).map(|index| member(index, 1)).collect();
    let node = &mut cluster.nodes[0];
    assert_eq!(node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log), Err(Error::BadConfiguration));
    assert_eq!(node.machine.bootstrap(CLUSTER, &members[..9], 7, &mut node.log), Ok(()));
    assert_eq!(node.machine.configuration().voters, members[..9]);
}

#[test]
fn an_append_that_names_no_cluster_takes_nobody_in() {
    let mut cluster = Cluster::unformed(2, |_| {});
    for (id, expected) in [(ClusterId(0), Some(DropReason::Uninitialised)), (CLUSTER, None)] {
        let header = Envelope { cluster: id, ..cluster.envelope(1, 0, Term(2)) };
        let message = Message { header, body: Body::Append(AppendHead::default(), Entries::default()) };
        let _ = cluster.step(0, Input::Message(member(1, 1).peer, &message));
        assert_eq!(cluster.nodes[0].dropped.pop(), expected);
        assert_eq!(cluster.machine(0).cluster().is_some(), expected.is_none());
    }
    // It follows one whom it may soon not hear any more, in a cluster that need not know it: it goes on asking.
    cluster.flights.clear();
    cluster.expire(0);
    assert_eq!(cluster.take(|from, to, body| (from, to) == (0, 1) && matches!(body, Body::Join(_))).len(), 1);
}

#[test]
fn a_node_without_state_asks_every_ten_heartbeats() {
    let mut cluster = Cluster::unformed(2, |_| {});
    let asked = Rc::new(Cell::new(0));
    let count = asked.clone();
    cluster.filter = Some(Box::new(move |from, _, message| {
        count.set(count.get() + u32::from(from == 0 && matches!(message.body, Body::Join(_))));
        false
    }));
    let heartbeat_ns = cluster.nodes[0].config.timing.heartbeat.as_nanos() as u64;
    cluster.run_for(100 * heartbeat_ns - 1);
    assert_eq!(asked.get(), 10);
}

/// While init goes round, a node that asks to join may hear of the cluster from one that init has reached already.
#[test]
fn a_member_that_hears_of_its_cluster_before_init_comes_is_initialised_all_the_same() {
    let mut cluster = Cluster::unformed(3, |_| {});
    let members: Vec<_> = (0..3).map(|index| member(index, 1)).collect();
    let node = &mut cluster.nodes[0];
    node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log).expect("fresh");
    // Nothing but answers to join: votes and entries take longer.
    cluster.filter = Some(Box::new(|_, _, message| matches!(message.body, Body::Join(_) | Body::JoinReply(_))));
    cluster.run_for(400 * MS);
    assert_eq!(cluster.machine(1).role(), Role::Joining { cluster: CLUSTER, leader: None });
    let node = &mut cluster.nodes[1];
    let other = node.machine.bootstrap(ClusterId(5), &members, 7, &mut node.log);
    assert_eq!(other, Err(Error::AlreadyInitialised { cluster: CLUSTER }));
    assert_eq!(node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log), Ok(()));
    assert_eq!((node.machine.role(), node.log.last()), (Role::Follower, LogIndex(1)));
}

/// A member that init did not reach is in the configuration by its very incarnation: what its peers send takes it in.
#[test]
fn a_member_that_init_missed_adopts_the_cluster() {
    let mut cluster = Cluster::unformed(3, |_| {});
    let members: Vec<_> = (0..3).map(|index| member(index, 1)).collect();
    let node = &mut cluster.nodes[0];
    node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log).expect("fresh");
    cluster.flush(0);
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.leader(), Some(0), "only its log can win");
    assert!((1..3).all(|index| cluster.log(index) == cluster.log(0)));
    assert!((0..3).all(|index| cluster.machine(index).commit() == LogIndex(2)));
}

#[test]
fn a_new_life_of_a_seat_asks_to_join_and_has_no_vote() {
    let mut cluster = Cluster::with(3, |config| config.heals = false);
    cluster.elect(0);
    cluster.crash(2);
    cluster.restart_empty(2, 2);
    let requests = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = requests.clone();
    cluster.filter = Some(Box::new(move |_, _, message| {
        counter.set(counter.get() + u32::from(matches!(message.body, Body::Join(_))));
        true
    }));
    cluster.run_for(1000 * MS);
    let leader = cluster.machine(0).me();
    assert_eq!(cluster.machine(2).role(), Role::Joining { cluster: CLUSTER, leader: Some(leader) });
    assert!(cluster.machine(0).joiners().any(|joiner| *joiner == member(2, 2)));
    assert!((6..=12).contains(&requests.get()), "{} requests in a second", requests.get());
    assert_eq!(cluster.log(2).last(), LogIndex::ZERO);
    // With another member down there is no majority of those that remember, and none is pretended.
    cluster.crash(1);
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.leader(), None);
}

#[test]
fn a_vote_of_one_that_forgot_does_not_count() {
    let (cluster, index) = staged::amnesia(Sabotage::default());
    assert_eq!(cluster.leader(), None, "two of three are left, and one of them forgot");
    assert!(cluster.log(2).last() < index);
}
