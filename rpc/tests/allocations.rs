//! What a node allocates once it has settled: nothing for each request, on the leader and on followers, outside the service.

mod cluster_support;

use cluster_support::cluster;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::Link;
use trimaran_raft::Limits;
use trimaran_rpc::client::{Client, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{ClusterConfig, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// Does nothing, and answers so many bytes.
struct Nothing {
    reply_bytes: usize,
}

impl State for Nothing {
    async fn save(&self, _: &mut Writer) {}

    async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Nothing { reply_bytes: 0 })
    }
}

impl Service for Nothing {
    const NAME: &'static str = "nothing";

    async fn apply(&mut self, _: &mut Cx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.resize(self.reply_bytes, 7);
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.resize(self.reply_bytes, 7);
        Answer::Ok
    }
}

async fn load(client: Client, policy: Policy, answered: Rc<Cell<u64>>) {
    loop {
        let call = MethodCall { method: 1, policy, shard: 0, body: &[7; 64], server: None };
        client.call(call, Duration::from_secs(1)).await.expect("nothing is lost here");
        answered.set(answered.get() + 1);
    }
}

/// Until it has settled.
const WARM_CALLS: u64 = 20_000;
const CALLS: u64 = 10_000;
/// A table may still find its size.
const STRAY: u64 = CALLS / 1000;
/// In virtual time; all of them take less than a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Of each node: whether it leads, and the allocations in its turns while `CALLS` are answered.
fn allocations(policy: Policy, outstanding: usize, reply_bytes: usize) -> Vec<(bool, u64)> {
    // A log that has soon grown to its size.
    let log_limits = Limits { log_bytes: 1 << 20, ..Limits::default() };
    let config = ClusterConfig { log_limits, ..ClusterConfig::default() };
    let mut cluster = cluster(1, config, move || Nothing { reply_bytes });
    cluster.network().set_default_link(Link::new(Duration::from_micros(5), Duration::from_micros(5)));
    let answered = Rc::new(Cell::new(0));
    let told = answered.clone();
    let servers = cluster.addresses();
    cluster.client(servers, move |client| async move {
        let mut group = trimaran_runtime::TaskGroup::new();
        for _ in 0..outstanding {
            group.spawn(load(client.clone(), policy, told.clone()));
        }
        let _ = group.join_all().await;
    });
    let nodes: Vec<NodeIndex> = (0..cluster.nodes()).map(NodeIndex).collect();
    let cores: Vec<_> = nodes.iter().map(|node| cluster.core(*node)).collect();
    let world = cluster.world();
    let give_up = world.now() + LIMIT;
    while answered.get() < WARM_CALLS && world.now() < give_up {
        world.step();
    }
    let mut counts = vec![0; nodes.len()];
    while answered.get() < WARM_CALLS + CALLS {
        assert!(world.now() < give_up, "only {} calls were answered", answered.get());
        let turn = allocation_counter::measure(|| assert!(world.step()));
        if let Some(node) = cores.iter().position(|core| *core == world.last_core()) {
            counts[node] += turn.count_total;
        }
    }
    let leader = cluster.leader();
    nodes.iter().zip(counts).map(|(node, count)| (leader == Some(*node), count)).collect()
}

#[test]
fn a_settled_node_allocates_nothing_for_a_request() {
    for policy in [Policy::ReplicatedRoute, Policy::ReplicatedRouteNoSideEffects, Policy::LbRoute] {
        for (outstanding, reply_bytes) in [(1, 0), (16, 64), (64, 1000)] {
            let counts = allocations(policy, outstanding, reply_bytes);
            let what = format!("{policy:?}, {outstanding} outstanding, replies of {reply_bytes} bytes");
            assert_eq!(counts.iter().filter(|(leads, _)| *leads).count(), 1);
            assert!(counts.iter().all(|(_, count)| *count <= STRAY), "{what}: (leads, allocations) {counts:?}");
        }
    }
}
