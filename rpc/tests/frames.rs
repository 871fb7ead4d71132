//! Clusters whose machines are plugged into a switch: the same nodes, over the stack for raw ports.

mod cluster_support;

use cluster_support::{SECOND, agreed, call, cluster, status, write};
use trimaran_net::Link;
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// Counts, and says what it was asked.
#[derive(Default)]
struct Echo {
    executed: u64,
}

impl State for Echo {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.executed).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Echo { executed: from.item().await? })
    }
}

impl Service for Echo {
    const NAME: &'static str = "echo";

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.executed += 1;
        reply.extend_from_slice(request);
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.executed.to_le_bytes());
        Answer::Ok
    }
}

#[test]
fn a_cluster_lives_through_a_bad_switch_and_the_loss_of_its_leader() {
    let mut corrupted = 0;
    for seed in 0..20 {
        let config = ClusterConfig { frames: true, ..ClusterConfig::default() };
        let mut cluster = cluster(seed, config, Echo::default);
        assert_eq!(write(&mut cluster, 1, b"before"), b"before");
        // Plain datagrams of clients would not survive damage; frames have checksums.
        let bad = Link { loss: 0.02, corrupt: 0.02, truncate: 0.02, reorder: 0.05, ..Link::default() };
        cluster.network().set_default_link(bad);
        let mut acknowledged = 1u64;
        for number in 0..20u8 {
            let body = vec![number; 900];
            if let Ok((reply, _)) = call(&mut cluster, 1, Policy::ReplicatedRoute, &body) {
                assert!(reply == body, "seed {seed}: damage got through");
                acknowledged += 1;
            }
        }
        corrupted += cluster.network().counters().faults.corrupted;
        cluster.network().set_default_link(Link::default());
        let leader = cluster.leader().unwrap_or(NodeIndex(0));
        cluster.kill(leader);
        let other = |cluster: &Cluster<Echo>| cluster.leader().is_some_and(|node| node != leader);
        assert!(cluster.run_until(SECOND * 5, other), "seed {seed}: nobody leads");
        cluster.restart(leader);
        cluster.run_for(SECOND * 5);
        assert_eq!(write(&mut cluster, 1, b"after"), b"after", "seed {seed}");
        let (reply, _) = call(&mut cluster, 2, Policy::ReplicatedRouteNoSideEffects, b"").expect("a majority is there");
        let executed = u64::from_le_bytes(reply.try_into().expect("a count"));
        assert!((acknowledged + 1..=22).contains(&executed), "seed {seed}: {executed} of {acknowledged}");
        agreed(&mut cluster);
    }
    assert!(corrupted > 100, "only {corrupted} frames were damaged");
}

/// Each node pins the others that its configuration lists, running or not, so that no flood from made-up addresses cuts it off from them.
#[test]
fn nodes_pin_each_other() {
    let config = ClusterConfig { frames: true, spare_addresses: 1, ..ClusterConfig::default() };
    let mut cluster = cluster(1, config, Echo::default);
    write(&mut cluster, 1, b"any");
    for node in 0..3 {
        let counters = status(&mut cluster, node).counters;
        assert_eq!((counters.get("stack.pins"), counters.get("stack.pins_refused")), (Some(&3), None), "{node}");
    }
}
