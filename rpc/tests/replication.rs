//! Whole nodes in the simulator: what R2P2 clients of either kind get to see of replication.

mod cluster_support;

use cluster_support::{SECOND, ask};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::SocketOptions;
use trimaran_raft::{ClusterId, Role};
use trimaran_rpc::admin::{self, InitError};
use trimaran_rpc::client::{CallError, MethodCall, NotApplied};
use trimaran_rpc::r2p2::{Header, MessageType, Policy, Refusal, Rid};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// Remembers how many requests it has executed and the last one; some requests make it misbehave.
#[derive(Default)]
struct Notebook {
    executed: u64,
    last: Vec<u8>,
}

impl State for Notebook {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.executed).await;
        to.item(&self.last).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Notebook { executed: from.item().await?, last: from.item().await? })
    }
}

impl Service for Notebook {
    const NAME: &'static str = "notebook";

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        match request {
            b"panic" => panic!("asked to"),
            b"sleep" => drop(trimaran_runtime::sleep(Duration::from_millis(1)).await),
            b"long" => {
                for _ in 0..1000 {
                    cx.yield_now().await;
                }
            }
            _ => {}
        }
        self.executed += 1;
        self.last = request.to_vec();
        reply.extend_from_slice(&self.executed.to_le_bytes());
        reply.extend_from_slice(request);
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        match request {
            b"panic" => panic!("asked to"),
            b"last" => reply.extend_from_slice(&self.last),
            _ => reply.extend_from_slice(&self.executed.to_le_bytes()),
        }
        Answer::Ok
    }
}

fn cluster(seed: u64) -> Cluster<Notebook> {
    let mut cluster = Cluster::new(seed, ClusterConfig::default(), Notebook::default);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody was elected");
    // Every node has heard of the leader by then.
    cluster.run_for(Duration::from_millis(100));
    cluster
}

fn leader(cluster: &Cluster<Notebook>) -> NodeIndex {
    cluster.leader().expect("a leader")
}

fn follower(cluster: &Cluster<Notebook>) -> NodeIndex {
    NodeIndex((leader(cluster).0 + 1) % cluster.nodes())
}

/// Runs `work` on a client machine to its end and gives what it returned.
fn raw(cluster: &mut Cluster<Notebook>, to: NodeIndex, policy: Policy, body: Vec<u8>) -> Result<Vec<u8>, CallError> {
    let to = cluster.addresses()[to.0];
    ask(cluster, move |client| async move { client.call_raw(to, policy, &body, SECOND).await })
}

fn own(cluster: &mut Cluster<Notebook>, policy: Policy, body: Vec<u8>) -> Result<Vec<u8>, CallError> {
    ask(cluster, move |client| async move {
        let call = MethodCall { method: 7, policy, shard: 0, body: &body, server: None };
        client.call(call, SECOND).await.map(|reply| reply.body)
    })
}

fn executed(cluster: &mut Cluster<Notebook>) -> u64 {
    let reply = own(cluster, Policy::ReplicatedRouteNoSideEffects, b"count".to_vec()).expect("a count");
    u64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

fn status(cluster: &mut Cluster<Notebook>, node: NodeIndex) -> admin::NodeStatus {
    let address = cluster.addresses()[node.0];
    ask(cluster, move |client| async move { admin::status(&client, address, SECOND).await }).expect("a status")
}

fn counter(cluster: &mut Cluster<Notebook>, node: NodeIndex, name: &str) -> u64 {
    status(cluster, node).counters.get(name).copied().unwrap_or(0)
}

#[test]
fn requests_of_every_size_are_replicated_by_leader_and_follower() {
    let mut cluster = cluster(1);
    let mut count = 0;
    // 1,464 is the largest single packet, which needs two datagrams to be forwarded; 370,406 the largest of 254 packets.
    for bytes in [0, 1, 14, 1_350, 1_400, 1_463, 1_464, 1_465, 1_478, 1_479, 20_000, 370_406] {
        for to in [leader(&cluster), follower(&cluster)] {
            count += 1;
            let body: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
            let reply = raw(&mut cluster, to, Policy::ReplicatedRoute, body.clone());
            let reply = reply.unwrap_or_else(|error| panic!("{bytes} bytes to {to:?}: {error}"));
            assert_eq!(reply[..8], u64::to_le_bytes(count), "{bytes} bytes to {to:?} executed once");
            assert!(reply[8..] == body, "{bytes} bytes to {to:?}");
        }
    }
    assert_eq!(executed(&mut cluster), count);
    cluster.run_for(SECOND);
    let digests: Vec<_> = (0..3).map(|node| status(&mut cluster, NodeIndex(node)).digest.expect("a digest")).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn a_long_reply_arrives_whole() {
    let mut cluster = cluster(2);
    // With its eight bytes of count in front the reply is of 254 packets too.
    let body = vec![9; 370_406];
    let leader = leader(&cluster);
    assert_eq!(raw(&mut cluster, leader, Policy::ReplicatedRoute, body).expect("a reply").len(), 370_414);
    let read = raw(&mut cluster, leader, Policy::ReplicatedRouteNoSideEffects, b"last".to_vec());
    assert_eq!(read.expect("a reply").len(), 370_406);
}

#[test]
fn unreplicated_policies_are_answered_by_the_node_asked_and_change_nothing() {
    let mut cluster = cluster(3);
    own(&mut cluster, Policy::ReplicatedRoute, b"one".to_vec()).expect("a reply");
    cluster.run_for(SECOND);
    for policy in [Policy::LbRoute, Policy::FixedRoute, Policy::ReplicatedRouteNoSideEffects] {
        for node in 0..3 {
            let reply = raw(&mut cluster, NodeIndex(node), policy, b"two".to_vec());
            assert_eq!(reply.expect("a reply"), 1u64.to_le_bytes(), "{policy:?}");
        }
    }
    assert_eq!(executed(&mut cluster), 1);
}

#[test]
fn without_a_leader_reference_clients_get_drop_and_ours_no_quorum() {
    let mut cluster = cluster(4);
    let lone = follower(&cluster);
    for node in (0..3).map(NodeIndex).filter(|node| *node != lone) {
        cluster.kill(node);
    }
    cluster.run_for(SECOND);
    for policy in [Policy::ReplicatedRoute, Policy::ReplicatedRouteNoSideEffects] {
        for bytes in [10, 3_000] {
            let dropped = raw(&mut cluster, lone, policy, vec![1; bytes]);
            assert_eq!(dropped, Err(CallError::NotApplied(NotApplied::Dropped)), "{policy:?}, {bytes} bytes");
        }
        let refused = own(&mut cluster, policy, b"x".to_vec());
        assert_eq!(refused, Err(CallError::NoQuorum { reachable: 1, total: 3, quorum: 2 }), "{policy:?}");
    }
    // What needs no leader goes on.
    assert!(raw(&mut cluster, lone, Policy::LbRoute, b"count".to_vec()).is_ok());
}

#[test]
fn a_copy_of_a_pending_request_is_not_appended_again() {
    let mut cluster = cluster(5);
    let to = cluster.addresses()[leader(&cluster).0];
    let answers = Rc::new(Cell::new(0));
    let told = answers.clone();
    cluster.machine(Ipv4Addr::new(10, 0, 2, 1), move |net, _| async move {
        let local = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 1), 0);
        let socket = net.bind(local, SocketOptions::default()).expect("a socket");
        let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(77));
        for _ in 0..3 {
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slice(&header.emit()).and_then(|()| packet.extend_from_slice(b"once")).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
        }
        loop {
            socket.recv().await;
            told.set(told.get() + 1);
        }
    });
    cluster.run_for(SECOND);
    assert_eq!((answers.get(), executed(&mut cluster)), (1, 1));
    let leader = leader(&cluster);
    assert_eq!(counter(&mut cluster, leader, "r2p2.copy_pending"), 2);
}

#[test]
fn a_copy_of_a_forwarded_request_is_not_forwarded_again() {
    let mut cluster = cluster(6);
    let follower = follower(&cluster);
    let to = cluster.addresses()[follower.0];
    cluster.machine(Ipv4Addr::new(10, 0, 2, 1), move |net, _| async move {
        let local = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 1), 0);
        let socket = net.bind(local, SocketOptions::default()).expect("a socket");
        let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(77));
        // The second copy comes when the first has been executed and answered: only the follower's memory stops it.
        for _ in 0..2 {
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slice(&header.emit()).and_then(|()| packet.extend_from_slice(b"once")).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
            socket.recv_or_deadline(trimaran_runtime::now() + Duration::from_millis(50)).await;
        }
    });
    cluster.run_for(SECOND);
    assert_eq!(executed(&mut cluster), 1);
    assert_eq!(counter(&mut cluster, follower, "r2p2.copy_forwarded"), 1);
}

#[test]
fn a_client_on_a_loopback_address_is_refused_by_a_follower_whose_leader_is_elsewhere() {
    let mut cluster = cluster(7);
    let follower = follower(&cluster);
    let to = cluster.addresses()[follower.0];
    let result = Rc::new(RefCell::new(None));
    let told = result.clone();
    cluster.client_at(Ipv4Addr::new(127, 0, 0, 9), vec![to], move |client| async move {
        *told.borrow_mut() = Some(client.call_raw(to, Policy::ReplicatedRoute, b"x", SECOND).await);
    });
    cluster.run_until(SECOND * 2, |_| result.borrow().is_some());
    assert_eq!(result.take(), Some(Err(CallError::NotApplied(NotApplied::Dropped))));
    assert_eq!(counter(&mut cluster, follower, "r2p2.loopback_client"), 1);
}

#[test]
fn a_panicking_handler_halts_every_replica_at_the_same_entry_and_they_go_on_voting() {
    let mut cluster = cluster(8);
    own(&mut cluster, Policy::ReplicatedRoute, b"fine".to_vec()).expect("a reply");
    let before = leader(&cluster);
    let end = own(&mut cluster, Policy::ReplicatedRoute, b"panic".to_vec());
    assert!(matches!(end, Err(CallError::Unknown { .. })), "{end:?}");
    let halts: Vec<_> = (0..3).map(|node| status(&mut cluster, NodeIndex(node)).halted.expect("halted")).collect();
    assert!(halts.iter().all(|halt| halt.code == "E0313" && halt.index == halts[0].index), "{halts:?}");
    assert_eq!(halts[0].message, "asked to");
    let refused = own(&mut cluster, Policy::ReplicatedRoute, b"fine".to_vec());
    assert_eq!(refused, Err(CallError::NotApplied(NotApplied::Refused(Refusal::Stopped))));
    cluster.kill(before);
    assert!(cluster.run_until(SECOND, |cluster| cluster.leader().is_some()), "the others still elect a leader");
}

#[test]
fn a_handler_that_awaits_anything_but_its_turn_halts_the_replica() {
    let mut cluster = cluster(9);
    let end = own(&mut cluster, Policy::ReplicatedRoute, b"sleep".to_vec());
    assert!(matches!(end, Err(CallError::Unknown { .. })), "{end:?}");
    for node in (0..3).map(NodeIndex) {
        let halt = status(&mut cluster, node).halted.expect("halted");
        assert_eq!(halt.code, "E0311");
    }
}

#[test]
fn a_handler_may_yield_as_often_as_it_likes_without_losing_the_leader() {
    let mut cluster = cluster(10);
    let before = leader(&cluster);
    let term = status(&mut cluster, before).term;
    for _ in 0..20 {
        own(&mut cluster, Policy::ReplicatedRoute, b"long".to_vec()).expect("a reply");
    }
    assert_eq!(status(&mut cluster, before).term, term);
}

#[test]
fn a_panicking_query_is_an_error_of_its_caller_only() {
    let mut cluster = cluster(11);
    let failed = own(&mut cluster, Policy::ReplicatedRouteNoSideEffects, b"panic".to_vec());
    assert_eq!(failed, Err(CallError::Internal));
    assert_eq!(executed(&mut cluster), 0);
}

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let mut cluster = cluster(12);
    for _ in 0..50 {
        own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).expect("a reply");
    }
    let dead = leader(&cluster);
    cluster.kill(dead);
    assert!(cluster.run_until(SECOND, |cluster| cluster.leader().is_some()));
    assert_eq!(executed(&mut cluster), 50);
}

#[test]
fn a_node_that_forgot_is_a_voter_again_by_itself() {
    let mut cluster = cluster(13);
    for _ in 0..20 {
        own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).expect("a reply");
    }
    let forgetful = follower(&cluster);
    cluster.kill(forgetful);
    cluster.run_for(Duration::from_millis(50));
    cluster.restart(forgetful);
    cluster.run_for(SECOND * 2);
    assert_eq!(status(&mut cluster, forgetful).role, "follower");
    // Its vote counts: without the third node the leader still commits.
    let other = (0..3).map(NodeIndex).find(|node| *node != forgetful && *node != leader(&cluster)).expect("a third");
    cluster.kill(other);
    own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).expect("a reply");
    cluster.run_for(SECOND);
    let old = leader(&cluster);
    assert_eq!(status(&mut cluster, forgetful).applied, status(&mut cluster, old).applied);
}

#[test]
fn nodes_that_forgot_wait_as_strangers_and_say_so_where_too_few_remember() {
    let mut cluster = cluster(13);
    let forgetful: Vec<NodeIndex> = (0..3).map(NodeIndex).filter(|node| *node != leader(&cluster)).collect();
    for node in &forgetful {
        cluster.kill(*node);
    }
    cluster.run_for(Duration::from_millis(50));
    for node in &forgetful {
        cluster.restart(*node);
    }
    cluster.run_for(SECOND * 2);
    assert_eq!(cluster.leader(), None);
    for node in forgetful {
        let status = status(&mut cluster, node);
        assert_eq!(status.role, "joining");
        assert!(status.waiting.is_some_and(|why| why.contains("waits to be taken in")));
    }
    assert!(own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).is_err());
}

#[test]
fn a_formed_cluster_is_not_formed_again() {
    let mut cluster = cluster(14);
    let addresses = cluster.addresses();
    let again =
        ask(
            &mut cluster,
            move |client| async move { admin::init(&client, "sim", &addresses, ClusterId(99), SECOND).await },
        );
    assert!(matches!(again, Err(InitError::AlreadyMember { .. })), "{again:?}");
}

#[test]
fn nodes_of_another_name_are_refused() {
    let mut cluster = cluster(15);
    let addresses = cluster.addresses();
    let again = ask(&mut cluster, move |client| async move {
        admin::init(&client, "other", &addresses, ClusterId(99), SECOND).await
    });
    assert!(matches!(again, Err(InitError::Refused { .. })), "{again:?}");
}

#[test]
fn five_nodes_go_on_without_two() {
    let config = ClusterConfig { nodes: 5, ..ClusterConfig::default() };
    let mut cluster = Cluster::new(16, config, Notebook::default);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()));
    own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).expect("a reply");
    for _ in 0..2 {
        let dead = leader(&cluster);
        cluster.kill(dead);
        assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()));
    }
    own(&mut cluster, Policy::ReplicatedRoute, b"x".to_vec()).expect("a reply");
    assert_eq!(executed(&mut cluster), 2);
    let roles = (0..5).filter_map(|node| cluster.node(NodeIndex(node))).map(|node| node.shard().status().role);
    assert_eq!(roles.filter(|role| *role == Role::Leader).count(), 1);
}
