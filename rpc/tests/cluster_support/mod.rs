//! Clusters of raw services, and clients that ask one thing and tell.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::admin::{self, NodeStatus};
use trimaran_rpc::client::{CallError, Client, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// Counts writes; a write and a read answer with the sum.
#[derive(Default)]
pub(crate) struct Counter(u64);

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

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The usual cluster; in `appliers.rs`, one whose handlers have cores of their own.
pub(crate) fn config() -> ClusterConfig {
    ClusterConfig { appliers: env!("CARGO_CRATE_NAME") == "appliers", ..ClusterConfig::default() }
}

/// A cluster with a leader that every node has heard of.
pub(crate) fn cluster<S: Service>(seed: u64, config: ClusterConfig, make: impl Fn() -> S + 'static) -> Cluster<S> {
    let mut cluster = Cluster::new(seed, config, make);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody was elected");
    cluster.run_for(Duration::from_millis(100));
    cluster
}

/// Runs `work` on a machine of its own to its end, and checks that no invariant broke meanwhile.
pub(crate) fn ask<S: Service, T: 'static, F: Future<Output = T> + 'static>(
    cluster: &mut Cluster<S>,
    work: impl FnOnce(Client) -> F + 'static,
) -> T {
    let result = Rc::new(RefCell::new(None));
    let told = result.clone();
    let servers = cluster.addresses();
    cluster.client(servers, move |client| async move {
        let value = work(client).await;
        *told.borrow_mut() = Some(value);
    });
    cluster.run_until(SECOND * 20, |_| result.borrow().is_some());
    if let Some(violation) = cluster.violation() {
        panic!("{violation}");
    }
    result.take().expect("the client came to an end")
}

/// One call: the reply and the log index that its block names.
pub(crate) fn call<S: Service>(
    cluster: &mut Cluster<S>,
    method: u32,
    policy: Policy,
    body: &[u8],
) -> Result<(Vec<u8>, u64), CallError> {
    let body = body.to_vec();
    ask(cluster, move |client| async move {
        let call = MethodCall { method, policy, shard: 0, body: &body, server: None };
        client.call(call, SECOND).await.map(|reply| (reply.body, reply.block.index))
    })
}

/// A replicated call that must succeed.
pub(crate) fn write<S: Service>(cluster: &mut Cluster<S>, method: u32, body: &[u8]) -> Vec<u8> {
    call(cluster, method, Policy::ReplicatedRoute, body).expect("applied").0
}

/// How a node is.
pub(crate) fn status<S: Service>(cluster: &mut Cluster<S>, node: usize) -> NodeStatus {
    let address = cluster.addresses()[node];
    ask(cluster, move |client| async move { admin::status(&client, address, SECOND).await }).expect("a status")
}

/// Every node's digest, which must be one as soon as all have applied the same entries; the newest of these.
pub(crate) fn agreed<S: Service>(cluster: &mut Cluster<S>) -> u64 {
    let mut digests: Vec<_> = Vec::new();
    for _ in 0..25 {
        digests = (0..cluster.nodes()).filter_map(|node| status(cluster, node).digest).collect();
        if digests.windows(2).all(|pair| pair[0].applied == pair[1].applied) {
            break;
        }
        cluster.run_for(Duration::from_millis(1));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    digests[0].applied
}
