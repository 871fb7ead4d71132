//! Calls of sessions named once more after the table has moved: in a snapshot to another leader, past the entries that made it, and
//! by a replay of the log. Each is answered as the first time, and executed once.

mod cluster_support;
mod ledger_support;

use cluster_support::{SECOND, agreed, cluster, config, status};
use ledger_support::{Ended, Ledger, METHOD, MILLI, WRITE, Worker, leader, times, worker, write};
use std::cell::Cell;
use std::rc::Rc;
use trimaran_raft::Limits;
use trimaran_rpc::client::{AnyRequest, CallError, Caller, OwnedCall};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, DiskPlan, NodeIndex, node_ip};
use trimaran_runtime::sleep;

const CALL: &[u8] = b"echo, moved";

/// A call that the leader executes and whose answer is lost; the client names it again when it is told to.
fn lost_answer(cluster: &mut Cluster<Ledger>) -> (Worker<Ended>, Rc<Cell<bool>>) {
    let again = Rc::new(Cell::new(false));
    let may = again.clone();
    let worker = worker(cluster, |client| async move {
        let id = match write(&client, CALL, 20 * MILLI).await {
            Err(CallError::Unknown { call_id: Some(id) }) => id,
            other => panic!("{other:?}"),
        };
        while !may.get() {
            sleep(MILLI).await;
        }
        let request = AnyRequest { method: METHOD, policy: WRITE, body: CALL.to_vec(), shard_key: None };
        client.submit(OwnedCall { call_id: Some(id), within: Some(SECOND), ..OwnedCall::new(request) }).await
    });
    let from = node_ip(leader(cluster).0);
    cluster.network().block(from, worker.ip);
    worker.start(cluster, 50 * MILLI);
    cluster.network().unblock(from, worker.ip);
    (worker, again)
}

/// The first answer, from the table alone.
fn assert_remembered(cluster: &mut Cluster<Ledger>, worker: &Worker<Ended>, again: &Cell<bool>) {
    let executed = times(cluster, b"");
    again.set(true);
    let reply = worker.finish(cluster).expect("applied, and answered");
    assert_eq!(reply.body, [&2u64.to_le_bytes()[..], CALL].concat(), "the second of all calls");
    assert_eq!((times(cluster, CALL), times(cluster, b"")), (1, executed));
    agreed(cluster);
}

fn isolate(cluster: &Cluster<Ledger>, node: NodeIndex, cut: bool) {
    for other in (0..cluster.nodes()).filter(|other| *other != node.0) {
        for (from, to) in [(node.0, other), (other, node.0)] {
            match cut {
                true => cluster.network().block(node_ip(from), node_ip(to)),
                false => cluster.network().unblock(node_ip(from), node_ip(to)),
            }
        }
    }
}

fn small(seed: u64) -> Cluster<Ledger> {
    let log_limits =
        Limits { log_bytes: 256 << 10, uncommitted_bytes: 64 << 10, entry_bytes: 16 << 10, ..Limits::default() };
    cluster(seed, ClusterConfig { log_limits, ..config() }, Ledger::default)
}

/// Other calls until the log holds nothing of before.
fn go_on(cluster: &mut Cluster<Ledger>) {
    let leader = leader(cluster);
    let before = status(cluster, leader.0).last;
    for _ in 0..100 {
        cluster_support::write(cluster, METHOD, &[7; 8000]);
        if status(cluster, leader.0).first > before + 1 {
            return;
        }
    }
    panic!("the log is kept for ever");
}

/// The next leader has heard of neither the session nor the call but by the snapshot.
#[test]
fn a_snapshot_carries_the_sessions_to_the_next_leader() {
    let mut cluster = small(31);
    let old = leader(&cluster);
    let away = NodeIndex((old.0 + 1) % 3);
    isolate(&cluster, away, true);
    let (worker, again) = lost_answer(&mut cluster);
    cluster.run_for(SECOND * 3);
    go_on(&mut cluster);
    isolate(&cluster, away, false);
    cluster.run_for(SECOND);
    let shard = cluster.node(away).expect("alive").shard();
    assert_eq!(shard.status().counters.snapshots_installed, 1);
    let seat = cluster.slot(away);
    let (core, shard) = (cluster.core(old), cluster.node(old).expect("alive").shard().clone());
    cluster.world().enter(core, || shard.transfer(Some(seat))).expect("it has caught up");
    assert!(cluster.run_until(SECOND, |cluster| cluster.leader() == Some(away)));
    assert_remembered(&mut cluster, &worker, &again);
}

/// The same leader, which no longer holds the entry.
#[test]
fn a_retry_after_the_log_has_forgotten_the_call_is_answered() {
    let mut cluster = small(32);
    let (worker, again) = lost_answer(&mut cluster);
    go_on(&mut cluster);
    assert_remembered(&mut cluster, &worker, &again);
}

/// All nodes end and read their logs again: the table is what the log makes of it.
#[test]
fn a_retry_after_a_replay_of_the_log_is_answered() {
    for killed in [3, 2] {
        let disks = Some(DiskPlan::default());
        let mut cluster = cluster(33, ClusterConfig { disks, ..ClusterConfig::default() }, Ledger::default);
        let (worker, again) = lost_answer(&mut cluster);
        // The one that led among them.
        let led = leader(&cluster).0;
        let nodes: Vec<_> = (0..killed).map(|step| NodeIndex((led + step) % 3)).collect();
        nodes.iter().for_each(|node| cluster.kill(*node));
        cluster.run_for(SECOND);
        nodes.iter().for_each(|node| cluster.restart(*node));
        assert!(cluster.run_until(SECOND * 10, |cluster| cluster.leader().is_some()), "nobody was elected");
        assert_remembered(&mut cluster, &worker, &again);
    }
}
