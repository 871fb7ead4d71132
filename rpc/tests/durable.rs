//! Clusters whose nodes have disks: what was acknowledged survives the end of all of them, whatever a crash leaves on the disks.

mod cluster_support;

use cluster_support::{Counter, SECOND, agreed, ask, call, cluster, status, write};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::SocketOptions;
use trimaran_raft::wal::{Durability, WalSettings};
use trimaran_rpc::client::MethodCall;
use trimaran_rpc::r2p2::{Header, MessageType, Policy, Rid};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, DiskPlan, NodeIndex};
use trimaran_runtime::sim::disk::DiskFaults;

const ALL: [NodeIndex; 3] = [NodeIndex(0), NodeIndex(1), NodeIndex(2)];
const MS: Duration = Duration::from_millis(1);

fn with_disks(plan: DiskPlan) -> ClusterConfig {
    ClusterConfig { disks: Some(plan), ..ClusterConfig::default() }
}

fn buffered() -> DiskPlan {
    let plan = DiskPlan::default();
    DiskPlan { settings: WalSettings { durability: Durability::Buffered, ..plan.settings }, ..plan }
}

/// What clients know of the counter.
#[derive(Default)]
struct Known {
    begun: Cell<u64>,
    acknowledged: Cell<u64>,
}

/// Two clients that count for as long as the cluster lives.
fn count_on(cluster: &mut Cluster<Counter>) -> Rc<Known> {
    let known = Rc::new(Known::default());
    for _ in 0..2 {
        let (known, servers) = (known.clone(), cluster.addresses());
        cluster.client(servers, move |client| async move {
            loop {
                known.begun.set(known.begun.get() + 1);
                let body = [0; 300];
                let call =
                    MethodCall { method: 7, policy: Policy::ReplicatedRoute, shard: 0, body: &body, server: None };
                if let Ok(reply) = client.call(call, SECOND).await {
                    let sum = u64::from_le_bytes(reply.body.try_into().expect("eight bytes"));
                    known.acknowledged.set(known.acknowledged.get().max(sum));
                }
            }
        });
    }
    known
}

fn sum(cluster: &mut Cluster<Counter>) -> u64 {
    for _ in 0..20 {
        if let Ok((reply, _)) = call(cluster, 7, Policy::ReplicatedRouteNoSideEffects, b"") {
            return u64::from_le_bytes(reply.try_into().expect("eight bytes"));
        }
    }
    panic!("no read is answered")
}

fn restart_all(cluster: &mut Cluster<Counter>, nodes: &[NodeIndex]) {
    nodes.iter().for_each(|&node| cluster.restart(node));
    assert!(cluster.run_until(SECOND * 10, |cluster| cluster.leader().is_some()), "nobody was elected");
}

/// Whatever was acknowledged before, and nothing twice.
fn assert_kept(cluster: &mut Cluster<Counter>, known: &Known, seed: u64) {
    let (before, found) = (known.acknowledged.get(), sum(cluster));
    assert!(found >= before, "seed {seed}: {before} were acknowledged, and {found} are there");
    assert!(found <= known.begun.get(), "seed {seed}: {} were begun, and {found} are there", known.begun.get());
}

/// Cuts the power of all nodes, again and again, on disks that lose and tear whatever is not durable.
#[test]
fn fifty_clusters_lose_all_power_again_and_again_and_no_acknowledged_write() {
    let mut acknowledged = 0;
    for seed in 0..50 {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut cluster = cluster(seed, with_disks(DiskPlan::default()), Counter::default);
        let known = count_on(&mut cluster);
        for _ in 0..3 {
            cluster.run_for(MS * rng.random_range(20..300));
            let before = known.acknowledged.get();
            cluster.power_cut(&ALL);
            cluster.run_for(MS * rng.random_range(0..50));
            restart_all(&mut cluster, &ALL);
            assert!(before <= known.acknowledged.get());
            assert_kept(&mut cluster, &known, seed);
        }
        assert!(ALL.iter().all(|&node| cluster.disk(node).is_some_and(|disk| disk.counters().power_cuts == 3)));
        acknowledged += known.acknowledged.get();
    }
    assert!(acknowledged > 5000, "{acknowledged}");
}

/// A killed process leaves in the drive's cache what it had begun to write. The next one reads it and counts it as durable, so it
/// must be when the power goes before anything else is written.
#[test]
fn what_a_killed_process_left_in_a_cache_is_durable_before_it_counts() {
    for seed in 0..60 {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut cluster = cluster(seed, with_disks(DiskPlan::default()), Counter::default);
        let known = count_on(&mut cluster);
        for _ in 0..3 {
            cluster.run_for(MS * rng.random_range(20..100));
            ALL.iter().for_each(|&node| cluster.kill(node));
            ALL.iter().for_each(|&node| cluster.restart(node));
            cluster.run_for(MS);
            cluster.power_cut(&ALL);
            restart_all(&mut cluster, &ALL);
            assert!(cluster.violation().is_none(), "seed {seed}: {}", cluster.violation().expect("one"));
            assert_kept(&mut cluster, &known, seed);
        }
    }
}

/// Every process ends at once, and the machines go on: in both modes nothing is lost, and every node is who it was.
#[test]
fn all_processes_end_and_go_on_as_who_they_were() {
    for (seed, plan, byte) in [(1, DiskPlan::default(), 2), (2, buffered(), 1)] {
        let mut cluster = cluster(seed, with_disks(plan), Counter::default);
        let known = count_on(&mut cluster);
        cluster.run_for(MS * 200);
        let ids = |cluster: &Cluster<Counter>| {
            ALL.map(|node| cluster.node(node).expect("up").shard().with_machine(|machine| machine.me().id))
        };
        let (before, sum_before) = (ids(&cluster), known.acknowledged.get());
        assert!(sum_before > 50, "{sum_before}");
        ALL.iter().for_each(|&node| cluster.kill(node));
        restart_all(&mut cluster, &ALL);
        assert_eq!(ids(&cluster), before);
        assert_kept(&mut cluster, &known, seed);
        let answered = ask(&mut cluster, |client| async move {
            let call = MethodCall { method: 7, policy: Policy::ReplicatedRoute, shard: 0, body: b"", server: None };
            client.call(call, SECOND).await.map(|reply| reply.block.durability)
        });
        assert_eq!(answered.expect("applied"), byte, "the reply says what it is worth");
    }
}

/// A buffered node whose machine lost its power does not know what it has promised: it begins another life, and is taken in.
#[test]
fn a_buffered_node_that_lost_its_power_comes_back_as_another() {
    let mut cluster = cluster(3, with_disks(buffered()), Counter::default);
    for _ in 0..20 {
        write(&mut cluster, 7, b"");
    }
    let id = |cluster: &Cluster<Counter>| {
        cluster.node(NodeIndex(2)).expect("up").shard().with_machine(|machine| machine.me().id)
    };
    let before = id(&cluster);
    cluster.power_cut(&[NodeIndex(2)]);
    cluster.restart(NodeIndex(2));
    assert_ne!(id(&cluster), before);
    cluster.run_for(SECOND * 3);
    assert_eq!(status(&mut cluster, 2).waiting, None, "it was taken in");
    assert_eq!(sum(&mut cluster), 20);
    agreed(&mut cluster);
}

/// The log is cut by snapshots, which every node takes of its own state, and a node starts from one.
#[test]
fn nodes_start_from_their_snapshots() {
    let mut cluster = cluster(4, with_disks(DiskPlan::default()), Counter::default);
    let body = vec![7; 60_000];
    for _ in 0..60 {
        write(&mut cluster, 7, &body);
    }
    let saved = |cluster: &mut Cluster<Counter>, node| {
        status(cluster, node).counters.get("log.snapshots").copied().unwrap_or(0)
    };
    for node in 0..3 {
        assert!(saved(&mut cluster, node) >= 2, "node {node}");
    }
    cluster.power_cut(&ALL);
    restart_all(&mut cluster, &ALL);
    assert_eq!(sum(&mut cluster), 60);
    assert!(status(&mut cluster, 0).first > 20, "not from the first entry");
    agreed(&mut cluster);
}

/// A disk that fails ends its node, which has acknowledged nothing that it did not have; the others go on.
#[test]
fn a_failed_disk_ends_its_node_and_nobody_elses() {
    for seed in 0..10 {
        let mut cluster = cluster(seed, with_disks(DiskPlan::default()), Counter::default);
        let known = count_on(&mut cluster);
        cluster.run_for(MS * 50);
        let victim = cluster.leader().expect("a leader");
        let disk = cluster.disk(victim).expect("a disk").clone();
        disk.set_faults(DiskFaults { write_error: 1.0, ..DiskFaults::default() });
        assert!(cluster.run_until(SECOND * 2, |cluster| cluster.node(victim).is_none()), "seed {seed}: it goes on");
        assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "seed {seed}: nobody leads");
        let before = known.acknowledged.get();
        cluster.run_for(MS * 300);
        assert!(known.acknowledged.get() > before, "seed {seed}: the others stand still");
        assert_kept(&mut cluster, &known, seed);
    }
}

/// A leader whose disk answers nothing loses its office, and is a follower again once the disk answers.
#[test]
fn a_leader_with_a_stalled_disk_is_replaced() {
    let mut cluster = cluster(5, with_disks(DiskPlan::default()), Counter::default);
    let known = count_on(&mut cluster);
    cluster.run_for(MS * 50);
    let old = cluster.leader().expect("a leader");
    cluster.disk(old).expect("a disk").stall(SECOND * 3);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some_and(|leader| leader != old)));
    let before = known.acknowledged.get();
    cluster.run_for(MS * 300);
    assert!(known.acknowledged.get() > before);
    cluster.run_for(SECOND * 4);
    assert!(status(&mut cluster, old.0).counters.contains_key("log.stalls"));
    assert_kept(&mut cluster, &known, 5);
}

/// No room on any disk: writes are refused, reads are answered, and all goes on once there is room.
#[test]
fn full_disks_refuse_writes_and_serve_reads_until_there_is_room() {
    let mut plan = DiskPlan::default();
    // The superblock, two files of the log, and half of the smallest snapshot.
    plan.faults.space_bytes = (4 << 20) + 8192 + 4096;
    let mut cluster = cluster(6, with_disks(plan), Counter::default);
    let body = vec![7; 60_000];
    let mut written = 0;
    while call(&mut cluster, 7, Policy::ReplicatedRoute, &body).is_ok() {
        written += 1;
        assert!(written < 200, "the disks never fill");
    }
    assert!(written > 20, "{written}");
    let read = sum(&mut cluster);
    assert!((written..=written + 1).contains(&read), "{written} acknowledged, {read} read");
    for node in ALL {
        let disk = cluster.disk(node).expect("a disk");
        disk.set_faults(DiskFaults { space_bytes: u64::MAX, ..disk.faults() });
    }
    cluster.run_for(SECOND);
    write(&mut cluster, 7, b"");
    assert!(sum(&mut cluster) > read);
    cluster.power_cut(&ALL);
    restart_all(&mut cluster, &ALL);
    assert!(sum(&mut cluster) > read);
}

/// By the time that a log is replayed, a client may use the request ids in it for other calls: it must get no answers to the old ones.
#[test]
fn what_is_replayed_after_a_start_is_not_answered_again() {
    let stranger = Ipv4Addr::new(10, 0, 2, 1);
    let mut cluster = cluster(7, with_disks(DiskPlan::default()), Counter::default);
    let heard = Rc::new(Cell::new(0));
    let counts = heard.clone();
    let leader = cluster.addresses()[cluster.leader().expect("a leader").0];
    cluster.machine(stranger, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(stranger, 0), SocketOptions::default()).expect("a socket");
        for rid in 0..10 {
            let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(rid));
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slice(&header.emit()).expect("room");
            assert!(socket.send_to(packet, leader).is_ok());
        }
        loop {
            socket.recv().await;
            counts.set(counts.get() + 1);
        }
    });
    cluster.run_for(SECOND);
    assert_eq!((heard.get(), sum(&mut cluster)), (10, 10));
    cluster.power_cut(&ALL);
    restart_all(&mut cluster, &ALL);
    assert_eq!(sum(&mut cluster), 10);
    assert_eq!(heard.get(), 10);
}
