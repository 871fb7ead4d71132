//! A service that counts what it executes, and clients that begin when the test says so.

#![allow(dead_code, reason = "each test program uses a part of it")]

use super::cluster_support::{SECOND, call, cluster, config};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::client::{CallError, Client, MethodCall, Reply};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::sleep;

pub(crate) const MILLI: Duration = Duration::from_millis(1);
pub(crate) const METHOD: u32 = 7;
pub(crate) const WRITE: Policy = Policy::ReplicatedRoute;
pub(crate) const READ: Policy = Policy::ReplicatedRouteNoSideEffects;

/// Counts how often it has executed each request, and answers with the number of all.
#[derive(Default)]
pub(crate) struct Ledger {
    executed: u64,
    times: BTreeMap<Vec<u8>, u64>,
}

impl State for Ledger {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.executed).await;
        to.item(&self.times).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Ledger { executed: from.item().await?, times: from.item().await? })
    }
}

impl Service for Ledger {
    const NAME: &'static str = "ledger";

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.executed += 1;
        *self.times.entry(request[..request.len().min(16)].to_vec()).or_default() += 1;
        reply.extend_from_slice(&self.executed.to_le_bytes());
        if request.starts_with(b"long") {
            reply.resize(350_000, 7);
        }
        if request.starts_with(b"echo") {
            reply.extend_from_slice(request);
        }
        if request.starts_with(b"no") { Answer::App } else { Answer::Ok }
    }

    fn query(&self, _: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        let times = if request.is_empty() { self.executed } else { self.times.get(request).copied().unwrap_or(0) };
        reply.extend_from_slice(&times.to_le_bytes());
        Answer::Ok
    }
}

pub(crate) type Ended = Result<Reply, CallError>;

pub(crate) fn ledger(seed: u64) -> Cluster<Ledger> {
    cluster(seed, config(), Ledger::default)
}

pub(crate) fn leader(cluster: &Cluster<Ledger>) -> NodeIndex {
    cluster.leader().expect("a leader")
}

/// How often a request has been executed; all of them without one.
pub(crate) fn times(cluster: &mut Cluster<Ledger>, request: &[u8]) -> u64 {
    let (reply, _) = call(cluster, METHOD, READ, request).expect("a count");
    u64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

pub(crate) async fn write(client: &Client, body: &[u8], within: Duration) -> Ended {
    client.call(MethodCall { method: METHOD, policy: WRITE, shard: 0, body, server: None }, within).await
}

/// A client whose session is open, at work on its own machine while the test plays with the network.
pub(crate) struct Worker<T> {
    pub(crate) ip: Ipv4Addr,
    ready: Rc<Cell<bool>>,
    pub(crate) go: Rc<Cell<bool>>,
    end: Rc<RefCell<Option<T>>>,
}

/// `work` begins when the test says so.
pub(crate) fn worker<T: 'static, F: Future<Output = T> + 'static>(
    cluster: &mut Cluster<Ledger>,
    work: impl FnOnce(Client) -> F + 'static,
) -> Worker<T> {
    let (ready, go, end) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    let (is_ready, may_go, filled) = (ready.clone(), go.clone(), end.clone());
    let ip = cluster.client(cluster.addresses(), move |client| async move {
        write(&client, b"warm up", SECOND).await.expect("applied");
        is_ready.set(true);
        while !may_go.get() {
            sleep(MILLI / 10).await;
        }
        let value = work(client).await;
        *filled.borrow_mut() = Some(value);
    });
    assert!(cluster.run_until(SECOND, |_| ready.get()), "no session");
    Worker { ip, ready, go, end }
}

impl<T> Worker<T> {
    pub(crate) fn start(&self, cluster: &mut Cluster<Ledger>, within: Duration) {
        assert!(self.ready.get());
        self.go.set(true);
        cluster.run_for(within);
    }

    pub(crate) fn finish(&self, cluster: &mut Cluster<Ledger>) -> T {
        cluster.run_until(SECOND * 60, |_| self.end.borrow().is_some());
        assert!(cluster.violation().is_none(), "{:?}", cluster.violation());
        self.end.borrow_mut().take().expect("the client came to an end")
    }
}
