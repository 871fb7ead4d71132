//! Reads of every consistency, at the leader and at any other replica, from the client down to Raft.

mod reads_support;

use reads_support::{
    ADD, GET, MS, Slow, begin, call, cut_off, end, hash_slowly, leased, mixed_reads, read, slot,
    stopped_before_the_answer, wait, write, written,
};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use trimaran_net::SocketOptions;
use trimaran_raft::{LogIndex, Sabotage};
use trimaran_rpc::admin::{self, NodeStatus};
use trimaran_rpc::client::{AnyRequest, CallError, Caller, Client, Consistency, NotApplied, OwnedCall};
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Policy, Refusal, RequestBlock, ResponseBlock, Status};
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex};

fn status(cluster: &mut Cluster<Slow>, node: NodeIndex) -> NodeStatus {
    let address = cluster.addresses()[node.0];
    let told = Rc::new(RefCell::new(None));
    let (slot, servers) = (told.clone(), cluster.addresses());
    cluster.client(servers, move |client: Client| async move {
        *slot.borrow_mut() = Some(admin::status(&client, address, MS * 1000).await);
    });
    cluster.run_until(MS * 2000, |_| told.borrow().is_some());
    told.take().expect("an end").expect("a status")
}

fn nodes(cluster: &Cluster<Slow>) -> impl Iterator<Item = NodeIndex> + use<> {
    (0..cluster.nodes()).map(NodeIndex)
}

#[test]
fn every_replica_answers_every_kind_and_counts_it() {
    let mut cluster = leased(2, Sabotage::default());
    let index = written(&mut cluster);
    cluster.run_for(MS * 50);
    let leader = cluster.leader().expect("a leader");
    let kinds = [
        (Consistency::Linearizable, "server.read_linearizable"),
        (Consistency::Lease, "server.read_under_lease"),
        (Consistency::AtLeast(index), "server.read_at_least"),
        (Consistency::Stale { max: MS * 100 }, "server.read_stale"),
        (Consistency::Any, "server.read_any"),
    ];
    for node in nodes(&cluster) {
        let address = cluster.addresses()[node.0];
        for (kind, counter) in kinds {
            // A lease is its leader's; the others ask for a round.
            let counter = if kind == Consistency::Lease && node != leader { kinds[0].1 } else { counter };
            let before = status(&mut cluster, node).counters.get(counter).copied().unwrap_or(0);
            let reply = call(&mut cluster, read(kind, slot(node))).expect("answered");
            // Sessions are opened meanwhile, each by an entry of the log.
            assert!(reply.block.index >= index.0, "{kind} at {node}");
            assert_eq!((reply.from, reply.body[0]), (address, 1), "{kind} at {node}");
            assert_eq!(status(&mut cluster, node).counters.get(counter), Some(&(before + 1)), "{kind} at {node}");
        }
        let leases = status(&mut cluster, node).leases.expect("told");
        assert_eq!((leases.enabled, leases.held, leases.clock_drift_ppm), (true, node == leader, 1000));
    }
}

/// A quiet leader is heard so rarely that its word is older than such reads allow, and its lease has ended: nobody is refused for that.
#[test]
fn reads_of_every_kind_are_answered_in_a_group_that_nobody_has_used_for_long() {
    for (seed, kind) in [
        Consistency::Linearizable,
        Consistency::Lease,
        Consistency::Stale { max: MS * 60 },
        Consistency::AtLeast(LogIndex(1)),
        Consistency::Any,
    ]
    .into_iter()
    .enumerate()
    {
        for at in 0..3 {
            let mut cluster = leased(40 + seed as u64, Sabotage::default());
            written(&mut cluster);
            cluster.run_for(MS * 60_000);
            let is_quiet = |node: NodeIndex| {
                cluster.node(node).expect("runs").shard().with_machine(trimaran_raft::Machine::is_quiet)
            };
            assert!(nodes(&cluster).all(is_quiet), "{kind}");
            let leader = cluster.leader();
            call(&mut cluster, read(kind, slot(NodeIndex(at)))).expect("answered");
            cluster.run_for(MS * 1000);
            assert_eq!(cluster.leader(), leader, "{kind} at {at}");
        }
    }
}

/// What any replica may answer needs no leader to be found; what only a leader can answer finds it.
#[test]
fn without_a_replica_named_who_can_answers() {
    let mut cluster = leased(3, Sabotage::default());
    let index = written(&mut cluster);
    cluster.run_for(MS * 50);
    let leader = cluster.addresses()[cluster.leader().expect("a leader").0];
    let mut answered_by = Vec::new();
    for _ in 0..12 {
        for kind in [Consistency::AtLeast(index), Consistency::Stale { max: MS * 100 }, Consistency::Any] {
            answered_by.push(call(&mut cluster, read(kind, None)).expect("answered").from);
        }
        for kind in [Consistency::Linearizable, Consistency::Lease] {
            assert_eq!(call(&mut cluster, read(kind, None)).expect("answered").from, leader, "{kind}");
        }
    }
    answered_by.sort();
    answered_by.dedup();
    assert_eq!(answered_by.len(), 3, "clients share the work");
}

/// Requests of several packets, too: the first one is not sent on to the leader.
#[test]
fn a_long_read_is_answered_by_the_replica_that_was_asked() {
    let mut cluster = leased(4, Sabotage::default());
    written(&mut cluster);
    for node in nodes(&cluster) {
        for kind in [Consistency::Linearizable, Consistency::Stale { max: MS * 100 }] {
            let request = AnyRequest::read(GET, vec![7; 10_000]);
            let long = OwnedCall { consistency: kind, replica: slot(node), ..OwnedCall::new(request) };
            let reply = call(&mut cluster, long).expect("answered");
            assert_eq!(reply.from, cluster.addresses()[node.0], "{kind}");
        }
    }
}

#[test]
fn faults_never_make_a_read_older_than_it_may_be() {
    assert!(mixed_reads("mixed_reads", 40, Sabotage::default()) > 1000);
}

/// With the checks at the end of an answer: `reads_controls.rs` shows what happens without.
#[test]
fn a_leader_that_was_stopped_gives_no_answer_that_waited_meanwhile() {
    for wanted in [Consistency::Lease, Consistency::Stale { max: MS * 100 }] {
        let (answered, newest) = stopped_before_the_answer(wanted, Sabotage::default());
        assert!(answered >= newest, "{wanted}: {answered} has not seen {newest}");
    }
}

/// The others have elected somebody else; clients still reach the old one, which knows nothing of it.
#[test]
fn a_leader_that_is_cut_off_answers_only_while_nobody_else_can_lead() {
    for kind in [Consistency::Lease, Consistency::Linearizable, Consistency::Stale { max: MS * 80 }] {
        let mut cluster = leased(5, Sabotage::default());
        let old = cluster.leader().expect("a leader");
        let before = written(&mut cluster);
        cut_off(&cluster, old, true);
        // One that only reads there, again and again; one that writes as soon as anybody leads on the other side.
        let reads = Rc::new(RefCell::new(Vec::new()));
        let (told, servers) = (reads.clone(), cluster.addresses());
        cluster.client(servers, move |client: Client| async move {
            loop {
                let begun = trimaran_runtime::now();
                let one = OwnedCall { within: Some(MS * 5), ..read(kind, slot(old)) };
                if let Ok(reply) = client.submit(one).await {
                    told.borrow_mut().push((begun, trimaran_runtime::now(), LogIndex(reply.block.index)));
                }
                wait(MS / 4).await;
            }
        });
        cluster.run_until(MS * 1000, |cluster| cluster.leader().is_some_and(|new| new != old));
        let servers: Vec<_> =
            nodes(&cluster).filter(|node| *node != old).map(|node| cluster.addresses()[node.0]).collect();
        let acked = Rc::new(RefCell::new(None));
        let told = acked.clone();
        cluster.client(servers, move |client: Client| async move {
            let reply = client.submit(write(1)).await.expect("applied");
            *told.borrow_mut() = Some((trimaran_runtime::now(), LogIndex(reply.block.index)));
        });
        cluster.run_for(MS * 500);
        let (acked_at, newest) = acked.take().expect("the others go on");
        assert!(newest > before);
        let reads = reads.borrow();
        let in_time = reads.iter().filter(|(begun, ..)| *begun < acked_at).count();
        assert!(in_time > 20 || kind == Consistency::Linearizable, "{kind}: {in_time} answers while it could");
        let allowed = match kind {
            Consistency::Stale { max } => max,
            _ => std::time::Duration::ZERO,
        };
        for (begun, ended, index) in reads.iter() {
            assert!(
                *index >= newest || *begun < acked_at + allowed,
                "{kind}: {index} at {ended:?}, {newest} at {acked_at:?}"
            );
        }
    }
}

/// A follower that hears nobody says so, and gives out what it was told to be enough.
#[test]
fn a_replica_that_is_cut_off_knows_what_it_does_not_know() {
    let mut cluster = leased(6, Sabotage::default());
    let index = written(&mut cluster);
    cluster.run_for(MS * 50);
    let leader = cluster.leader().expect("a leader");
    let apart = nodes(&cluster).find(|node| *node != leader).expect("a follower");
    cut_off(&cluster, apart, true);
    let next = written(&mut cluster);
    cluster.run_for(MS * 300);
    let mut at = |kind| call(&mut cluster, OwnedCall { within: Some(MS * 400), ..read(kind, slot(apart)) });
    let refused = |why| Err(CallError::NotApplied(NotApplied::Refused(why)));
    assert_eq!(at(Consistency::Stale { max: MS * 100 }), refused(Refusal::TooStale));
    assert_eq!(at(Consistency::AtLeast(next)), refused(Refusal::NotYet));
    assert!(matches!(at(Consistency::Linearizable), Err(CallError::NoQuorum { .. } | CallError::Unknown { .. })));
    assert!(matches!(at(Consistency::Lease), Err(CallError::NoQuorum { .. } | CallError::Unknown { .. })));
    assert_eq!(at(Consistency::AtLeast(index)).expect("it has that").block.index, index.0);
    assert_eq!(at(Consistency::Any).expect("whatever it has").block.index, index.0);
    assert_eq!(at(Consistency::Stale { max: MS * 60_000 }).expect("young enough").block.index, index.0);
    // Whoever names no replica finds one that can.
    for kind in [Consistency::AtLeast(next), Consistency::Stale { max: MS * 100 }] {
        for _ in 0..6 {
            let reply = call(&mut cluster, read(kind, None)).expect("answered");
            assert!(reply.block.index >= next.0 && reply.from != cluster.addresses()[apart.0]);
        }
    }
    let counters = status(&mut cluster, apart).counters;
    assert!(counters["server.read_too_stale"] > 0 && counters["server.read_not_yet"] > 0, "{counters:?}");
}

/// A node that has just started has no state of the cluster's: not even an index that everybody has reached is there.
#[test]
fn a_replica_without_a_state_answers_nothing() {
    let mut cluster = leased(7, Sabotage::default());
    let index = written(&mut cluster);
    let node = nodes(&cluster).find(|node| Some(*node) != cluster.leader()).expect("a follower");
    cluster.kill(node);
    cut_off(&cluster, node, true);
    cluster.restart(node);
    for kind in [
        Consistency::Linearizable,
        Consistency::Lease,
        Consistency::AtLeast(LogIndex(0)),
        Consistency::AtLeast(index),
        Consistency::Stale { max: MS * 3_600_000 },
    ] {
        let told = begin(&mut cluster, OwnedCall { within: Some(MS * 200), ..read(kind, slot(node)) });
        let answer = end(&mut cluster, &told).1;
        assert_eq!(answer, Err(CallError::NotApplied(NotApplied::Refused(Refusal::Uninitialised))), "{kind}");
    }
}

/// A request of our clients' kind, by hand: what the block says of reads is refused where it makes no sense, and never guessed.
#[test]
fn what_a_server_does_not_understand_it_refuses() {
    let mut cluster = leased(8, Sabotage::default());
    written(&mut cluster);
    let leader = cluster.addresses()[cluster.leader().expect("a leader").0];
    let told = Rc::new(RefCell::new(Vec::new()));
    let answers = told.clone();
    let ip = Ipv4Addr::new(10, 0, 2, 1);
    cluster.machine(ip, move |net, rid| async move {
        let socket = net.bind(SocketAddrV4::new(ip, 9000), SocketOptions::default()).expect("a socket");
        for (policy, method, consistency, flags) in [
            (Policy::ReplicatedRouteNoSideEffects, GET, 4, 0),
            (Policy::ReplicatedRouteNoSideEffects, GET, 255, RequestBlock::HERE),
            (Policy::ReplicatedRoute, ADD, 1, 0),
            (Policy::FixedRoute, GET, 3, 0),
            // Flags that nobody has defined are ignored.
            (Policy::ReplicatedRouteNoSideEffects, GET, 0, 0xfe),
        ] {
            let flag = Flags { own_block: true, ..Flags::SINGLE };
            let header = Header { flags: flag, ..Header::single(MessageType::Request, policy, rid) };
            let block = RequestBlock { flags, method, consistency, ..RequestBlock::default() };
            let mut packet = socket.alloc().expect("a packet");
            packet
                .extend_from_slice(&header.emit())
                .and_then(|()| packet.extend_from_slice(&block.emit()))
                .expect("room");
            socket.send_to(packet, leader).expect("sent");
            let answer = socket.recv().await;
            let (block, _) = ResponseBlock::parse(&answer.data()[8..]).expect("a block");
            answers.borrow_mut().push((block.status, block.reason));
        }
    });
    cluster.run_until(MS * 1000, |_| told.borrow().len() == 5);
    let unknown = (Status::NotApplied, Refusal::UnknownConsistency);
    assert_eq!(*told.borrow(), [unknown, unknown, unknown, unknown, (Status::Ok, Refusal::Unspecified)]);
    let leader = cluster.leader().expect("a leader");
    assert_eq!(status(&mut cluster, leader).counters["r2p2.unknown_consistency"], 4);
}

/// A read waits while the state is being hashed, and its client asks again and again: it is executed once, whoever was asked and under
/// whatever request id.
#[test]
fn a_read_that_waits_is_executed_once() {
    let mut cluster = leased(8, Sabotage::default());
    written(&mut cluster);
    let leader = cluster.leader().expect("a leader");
    for (kind, counter, replica) in [
        (Consistency::Linearizable, "server.read_linearizable", None),
        (Consistency::Any, "server.read_any", slot(leader)),
    ] {
        let count = |cluster: &mut Cluster<Slow>| status(cluster, leader).counters.get(counter).copied().unwrap_or(0);
        let before = count(&mut cluster);
        hash_slowly(&mut cluster, leader, 200_000);
        let begun = cluster.now();
        let told = begin(&mut cluster, read(kind, replica));
        let (ended, answer) = end(&mut cluster, &told);
        answer.expect("answered");
        assert!(ended - begun > MS * 50, "the state was hashed too fast: {:?}", ended - begun);
        cluster.run_for(MS * 100);
        assert_eq!(count(&mut cluster) - before, 1, "{kind}");
    }
}

/// Handlers take all the time that there is, on every node: whoever asks how a node is, or what it holds, is told all the same.
#[test]
fn a_node_that_is_never_done_tells_its_status() {
    let mut cluster = leased(9, Sabotage::default());
    written(&mut cluster);
    let servers = cluster.addresses();
    for _ in 0..8 {
        cluster.client(servers.clone(), move |client: Client| async move {
            loop {
                let _ = client.submit(OwnedCall { within: Some(MS * 4000), ..write(2) }).await;
            }
        });
    }
    cluster.run_for(MS * 200);
    for node in nodes(&cluster) {
        let status = status(&mut cluster, node);
        assert!(status.digest.is_some(), "{status:?}");
    }
}
