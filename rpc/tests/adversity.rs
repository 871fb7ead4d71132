//! Whole nodes in the simulator, where leadership, time or a handler plays foul.

mod cluster_support;

use cluster_support::{SECOND, ask};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trimaran_net::{Link, SocketOptions, UdpSocket};
use trimaran_rpc::admin;
use trimaran_rpc::client::{CallError, MethodCall};
use trimaran_rpc::r2p2::reassembly::Limits;
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Policy, Rid};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex, node_ip};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// Counts what it executes; some requests make it misbehave.
#[derive(Default)]
struct Tally {
    executed: u64,
    undigestible: bool,
    saved: Arc<AtomicU64>,
}

impl State for Tally {
    async fn save(&self, to: &mut Writer) {
        assert!(!self.undigestible, "asked to");
        self.saved.fetch_add(1, Ordering::Relaxed);
        to.item(&self.executed).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Tally { executed: from.item().await?, ..Tally::default() })
    }
}

impl Service for Tally {
    const NAME: &'static str = "tally";

    // Not an `async fn`: what runs before the future exists may panic as well.
    fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> impl Future<Output = Answer> {
        assert!(request != b"panic at once", "asked to");
        self.executed += 1;
        self.undigestible |= request == b"undigestible";
        match request {
            b"huge" => reply.resize(400_000, 7),
            _ => reply.extend_from_slice(&self.executed.to_le_bytes()),
        }
        std::future::ready(Answer::Ok)
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.executed.to_le_bytes());
        Answer::Ok
    }
}

const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

fn cluster(seed: u64, config: ClusterConfig) -> Cluster<Tally> {
    let mut cluster = Cluster::new(seed, config, Tally::default);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody was elected");
    cluster.run_for(Duration::from_millis(100));
    cluster
}

fn leader(cluster: &Cluster<Tally>) -> NodeIndex {
    cluster.leader().expect("a leader")
}

fn own(cluster: &mut Cluster<Tally>, policy: Policy, body: &'static [u8]) -> Result<Vec<u8>, CallError> {
    ask(cluster, move |client| async move {
        let call = MethodCall { method: 7, policy, shard: 0, body, server: None };
        client.call(call, SECOND).await.map(|reply| reply.body)
    })
}

fn executed(cluster: &mut Cluster<Tally>) -> u64 {
    let reply = own(cluster, Policy::ReplicatedRouteNoSideEffects, b"count").expect("a count");
    u64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

fn status(cluster: &mut Cluster<Tally>, node: NodeIndex) -> admin::NodeStatus {
    let address = cluster.addresses()[node.0];
    ask(cluster, move |client| async move { admin::status(&client, address, SECOND).await }).expect("a status")
}

/// A socket on a machine of its own, for clients that speak R2P2 by hand.
fn stranger<F: Future<Output = ()> + 'static>(
    cluster: &mut Cluster<Tally>,
    work: impl FnOnce(UdpSocket) -> F + 'static,
) {
    cluster.machine(STRANGER, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(STRANGER, 0), SocketOptions::default()).expect("a socket");
        work(socket).await;
    });
}

fn send(socket: &UdpSocket, to: SocketAddrV4, header: Header, payload: &[u8]) {
    let mut packet = socket.alloc().expect("a packet");
    packet.extend_from_slice(&header.emit()).and_then(|()| packet.extend_from_slice(payload)).expect("room");
    assert!(socket.send_to(packet, to).is_ok());
}

fn between_nodes(cluster: &Cluster<Tally>, mut change: impl FnMut(Ipv4Addr, Ipv4Addr)) {
    for from in 0..cluster.nodes() {
        for to in (0..cluster.nodes()).filter(|to| *to != from) {
            change(node_ip(from), node_ip(to));
        }
    }
}

/// A leader that is cut off, steps down and leads again has the write of its earlier term still in its log: it will
/// commit, and a copy of it must not be appended beside it.
#[test]
fn a_copy_is_not_appended_while_the_original_of_an_earlier_term_is_in_the_log() {
    let mut cluster = cluster(21, ClusterConfig::default());
    let old = leader(&cluster);
    let to = cluster.addresses()[old.0];
    let network = cluster.network().clone();
    between_nodes(&cluster, |from, to| network.block(from, to));
    let (again, answers) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let (send_again, told) = (again.clone(), answers.clone());
    stranger(&mut cluster, move |socket| async move {
        let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(77));
        send(&socket, to, header, b"once");
        while !send_again.get() {
            trimaran_runtime::sleep(Duration::from_micros(100)).await;
        }
        send(&socket, to, header, b"once");
        loop {
            socket.recv().await;
            told.set(told.get() + 1);
        }
    });
    assert!(cluster.run_until(SECOND, |cluster| cluster.leader().is_none()), "check-quorum");
    assert_eq!(cluster.node(old).map(|node| node.pending_writes()), Some(1));
    // Slow enough for the copy to arrive between the election and the commit.
    let slow = Link::new(Duration::from_millis(5), Duration::from_millis(6));
    let other = node_ip((old.0 + 1) % cluster.nodes());
    for (from, to) in [(node_ip(old.0), other), (other, node_ip(old.0))] {
        network.unblock(from, to);
        network.set_link(from, to, slow);
    }
    let led = cluster.run_until(SECOND * 3, |cluster| cluster.leader() == Some(old));
    assert!(led, "of the two that make a quorum only one has the longer log");
    again.set(true);
    cluster.run_for(SECOND);
    assert_eq!((answers.get(), executed(&mut cluster)), (1, 1));
}

/// What another leader has cut from a deposed one's log is nobody's pending request.
#[test]
fn writes_that_were_cut_from_the_log_are_forgotten() {
    let mut cluster = cluster(22, ClusterConfig::default());
    let old = leader(&cluster);
    let to = cluster.addresses()[old.0];
    let network = cluster.network().clone();
    between_nodes(&cluster, |from, to| {
        if from == node_ip(old.0) || to == node_ip(old.0) {
            network.block(from, to);
        }
    });
    stranger(&mut cluster, move |socket| async move {
        for rid in 1..=20 {
            send(&socket, to, Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(rid)), b"lost");
        }
    });
    cluster.run_for(Duration::from_millis(1));
    assert_eq!(cluster.node(old).map(|node| node.pending_writes()), Some(20));
    cluster.run_for(SECOND);
    between_nodes(&cluster, |from, to| network.unblock(from, to));
    cluster.run_for(SECOND);
    for _ in 0..30 {
        own(&mut cluster, Policy::ReplicatedRoute, b"kept").expect("a reply");
    }
    cluster.run_for(SECOND);
    assert_eq!(executed(&mut cluster), 30);
    assert_eq!(cluster.node(old).map(|node| node.pending_writes()), Some(0));
}

/// The clock comes first: a last packet that finds its request too old must not end it in silence.
#[test]
fn a_request_that_outlived_its_deadline_in_a_pause_is_dropped_and_not_forgotten() {
    let mut cluster = cluster(23, ClusterConfig::default());
    let node = leader(&cluster);
    let to = cluster.addresses()[node.0];
    let heard = Rc::new(RefCell::new(Vec::new()));
    let told = heard.clone();
    stranger(&mut cluster, move |socket| async move {
        let flags = |first, last| Flags { first, last, own_block: false };
        let header = |flags, p_order| Header {
            flags,
            p_order,
            ..Header::single(MessageType::Request, Policy::FixedRoute, Rid(5))
        };
        send(&socket, to, header(flags(true, false), 2), &[0; 14]);
        let note = |packet: trimaran_net::Packet| {
            told.borrow_mut().push(Header::parse(packet.data()).expect("a header").0.kind);
        };
        note(socket.recv().await);
        trimaran_runtime::sleep(Duration::from_millis(50)).await;
        send(&socket, to, header(flags(false, true), 1), b"rest");
        note(socket.recv().await);
    });
    cluster.run_for(Duration::from_millis(10));
    let until = cluster.now() + Duration::from_millis(400);
    let core = cluster.core(node);
    cluster.world().pause(core, until);
    cluster.run_for(SECOND);
    assert_eq!(*heard.borrow(), [MessageType::Ack, MessageType::Drop]);
}

#[test]
fn a_reply_too_long_for_r2p2_is_internal_to_our_clients() {
    let mut cluster = cluster(24, ClusterConfig::default());
    assert_eq!(own(&mut cluster, Policy::ReplicatedRoute, b"huge"), Err(CallError::Internal));
    assert_eq!(executed(&mut cluster), 1);
}

#[test]
fn a_panic_before_the_handlers_future_exists_halts_the_replica_too() {
    let mut cluster = cluster(25, ClusterConfig::default());
    assert!(matches!(own(&mut cluster, Policy::ReplicatedRoute, b"panic at once"), Err(CallError::Unknown { .. })));
    for node in (0..3).map(NodeIndex) {
        assert_eq!(status(&mut cluster, node).halted.expect("halted").code, "E0313");
    }
}

#[test]
fn a_state_that_cannot_be_hashed_costs_the_digest_and_nothing_else() {
    let mut cluster = cluster(26, ClusterConfig::default());
    own(&mut cluster, Policy::ReplicatedRoute, b"undigestible").expect("a reply");
    let node = leader(&cluster);
    // More often than status requests may wait at the same time.
    for _ in 0..20 {
        let status = status(&mut cluster, node);
        assert_eq!((status.digest, status.halted), (None, None));
    }
    own(&mut cluster, Policy::ReplicatedRoute, b"more").expect("a reply");
    assert_eq!(executed(&mut cluster), 2);
}

#[test]
fn a_full_table_raises_its_own_counter_only() {
    let request_limits = Limits { pending_per_source: 1, ..Limits::default() };
    let mut cluster = cluster(27, ClusterConfig { request_limits, ..ClusterConfig::default() });
    let node = leader(&cluster);
    let to = cluster.addresses()[node.0];
    stranger(&mut cluster, move |socket| async move {
        for rid in 1..=2 {
            let header = Header {
                flags: Flags { first: true, last: false, own_block: false },
                p_order: 2,
                ..Header::single(MessageType::Request, Policy::FixedRoute, Rid(rid))
            };
            send(&socket, to, header, &[0; 14]);
        }
    });
    cluster.run_for(Duration::from_millis(50));
    let counters = status(&mut cluster, node).counters;
    let drops: Vec<_> = counters.iter().filter(|(name, _)| name.starts_with("r2p2.")).collect();
    assert_eq!(drops, [(&"r2p2.pending_per_source".to_owned(), &1)]);
}

/// One datagram that is lost, on its way there or back, makes no node silent to its operator: a question changes nothing.
#[test]
fn an_operators_question_that_is_lost_is_asked_again() {
    for is_answer in [false, true] {
        let mut cluster = cluster(24, ClusterConfig::default());
        let (address, network) = (cluster.addresses()[0], cluster.network().clone());
        let seen = ask(&mut cluster, move |client| async move {
            let (here, there) = (*client.local_addr().ip(), *address.ip());
            let (from, to) = if is_answer { (there, here) } else { (here, there) };
            network.block(from, to);
            let mend = async {
                trimaran_runtime::sleep(Duration::from_millis(20)).await;
                network.unblock(from, to);
            };
            futures::future::join(admin::probe(&client, address, SECOND), mend).await.0
        });
        assert!(seen.is_ok_and(|probe| probe.cluster.is_some()), "answer lost: {is_answer}");
    }
}

/// Each status goes over the whole state: who asks while one is made is told the same.
#[test]
fn questions_how_a_node_is_are_answered_together() {
    let saved = Arc::new(AtomicU64::new(0));
    let counter = saved.clone();
    let make = move || Tally { saved: counter.clone(), ..Tally::default() };
    let mut cluster = Cluster::new(25, ClusterConfig::default(), make);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody was elected");
    let (address, before) = (cluster.addresses()[0], saved.load(Ordering::Relaxed));
    let seen = ask(&mut cluster, move |client| async move {
        futures::future::join_all((0..8).map(|_| admin::status(&client, address, SECOND))).await
    });
    assert!(seen.iter().all(Result::is_ok), "{:?}", seen.iter().map(|one| one.as_ref().err()).collect::<Vec<_>>());
    let digests = saved.load(Ordering::Relaxed) - before;
    // Those that came when the first was done already have another.
    assert!((1..=4).contains(&digests), "{digests}");
}
