//! Requests through whole nodes: a client and three replicas on one core of this process, with the real wire formats, over
//! the simulated network without faults. What the layers cost once the kernel is out of the way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use trimaran_benches::{rounds, seconds, tell};
use trimaran_net::Link;
use trimaran_rpc::client::{Client, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

const REQUEST: [u8; 64] = [7; 64];
const CALLS: u64 = 300_000;

/// Costs nothing itself.
struct Counter(u64);

impl State for Counter {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.0).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Counter(from.item().await?))
    }
}

impl Service for Counter {
    const NAME: &'static str = "counter";

    async fn apply(&mut self, _: &mut Cx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.0 += 1;
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }
}

async fn load(client: Client, policy: Policy, answered: Rc<Cell<u64>>) {
    let calls = rounds(CALLS);
    while answered.get() < calls {
        let call = MethodCall { method: 1, policy, shard: 0, body: &REQUEST, server: None };
        if client.call(call, Duration::from_secs(1)).await.is_ok() {
            answered.set(answered.get() + 1);
        }
    }
}

fn measure(what: &str, policy: Policy, outstanding: u64) -> f64 {
    let mut cluster = Cluster::new(1, ClusterConfig::default(), || Counter(0));
    cluster.network().set_default_link(Link::new(Duration::from_micros(5), Duration::from_micros(5)));
    cluster.run_until(Duration::from_secs(2), |cluster| cluster.leader().is_some());
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
    let world = cluster.world();
    let calls = rounds(CALLS);
    let seconds = seconds(|| while answered.get() < calls && world.step() {});
    let rate = answered.get() as f64 / seconds;
    let id = format!("rpc.{}.{outstanding}", what.replace(' ', "_"));
    let line = format!("{what:<28} {outstanding:>4} outstanding {rate:>10.0} /s {:>8.0} ns each", 1e9 / rate);
    tell(&id, 1e9 / rate, "ns", &line);
    rate
}

fn main() {
    for outstanding in [1, 8, 64, 256] {
        let echo = measure("unreplicated", Policy::LbRoute, outstanding);
        let put = measure("replicated by three", Policy::ReplicatedRoute, outstanding);
        let read = measure("linearizable read", Policy::ReplicatedRouteNoSideEffects, outstanding);
        let line = format!("{:>28}      of unreplicated: put {:.2}, read {:.2}", "", put / echo, read / echo);
        tell(&format!("rpc.replicated_of_unreplicated.{outstanding}"), put / echo, "share", &line);
    }
}
