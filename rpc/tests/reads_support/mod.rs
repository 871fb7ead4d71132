//! Histories of reads that end well only because of a check: with all rules kept, and with one broken on purpose.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use trimaran_raft::{LogIndex, ReadSettings, Sabotage};
use trimaran_rpc::admin;
use trimaran_rpc::client::{
    AnyRequest, CallError, Caller, Client, ClientConfig, Consistency, OwnedCall, Replica, Reply,
};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex, node_ip};
use trimaran_rpc::sim::{self, Faults, Net, Sim};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::{Instant, now, sleep, yield_now};

pub(crate) const ADD: u32 = 0xadd;
pub(crate) const GET: u32 = 0x9e7;
pub(crate) const MS: Duration = Duration::from_millis(1);

/// Counts writes. One of several bytes takes so many thousand turns, and is suspended in between.
#[derive(Default)]
pub(crate) struct Slow(u64);

thread_local! {
    /// Turns that it takes to save the state, during which the apply task does nothing else.
    static SAVE_TURNS: Cell<u32> = const { Cell::new(0) };
}

impl State for Slow {
    async fn save(&self, to: &mut Writer) {
        for _ in 0..SAVE_TURNS.get() {
            yield_now().await;
        }
        to.item(&self.0).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Slow(from.item().await?))
    }
}

impl Service for Slow {
    const NAME: &'static str = "slow";

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        for _ in 0..request.len().saturating_sub(1) * 1000 {
            cx.yield_now().await;
        }
        self.0 += 1;
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }
}

/// Three nodes that may use leases, one of which leads.
pub(crate) fn leased(seed: u64, sabotage: Sabotage) -> Cluster<Slow> {
    let reads = ReadSettings { lease: true, ..ClusterConfig::default().reads };
    let config = ClusterConfig { reads, sabotage, ..ClusterConfig::default() };
    let mut cluster = Cluster::new(seed, config, Slow::default);
    assert!(cluster.run_until(MS * 2000, |cluster| cluster.leader().is_some()), "nobody was elected");
    cluster.run_for(MS * 300);
    cluster
}

pub(crate) fn slot(node: NodeIndex) -> Option<Replica> {
    Some(Replica::Slot(node.0 as u8 + 1))
}

pub(crate) fn write(bytes: usize) -> OwnedCall {
    OwnedCall::new(AnyRequest::write(ADD, vec![7; bytes]))
}

pub(crate) fn read(consistency: Consistency, replica: Option<Replica>) -> OwnedCall {
    OwnedCall { consistency, replica, ..OwnedCall::new(AnyRequest::read(GET, [])) }
}

/// What came of a call, and when.
pub(crate) type Told = Rc<RefCell<Option<(Instant, Result<Reply, CallError>)>>>;

/// Makes one call from a machine of its own.
pub(crate) fn begin(cluster: &mut Cluster<Slow>, call: OwnedCall) -> Told {
    begin_with(cluster, ClientConfig::default(), call)
}

fn begin_with(cluster: &mut Cluster<Slow>, config: ClientConfig, call: OwnedCall) -> Told {
    let told = Told::default();
    let (told_then, servers) = (told.clone(), cluster.addresses());
    cluster.client_with(servers, config, move |client: Client| async move {
        let end = client.submit(call).await;
        *told_then.borrow_mut() = Some((now(), end));
    });
    told
}

pub(crate) fn end(cluster: &mut Cluster<Slow>, told: &Told) -> (Instant, Result<Reply, CallError>) {
    cluster.run_until(MS * 10_000, |_| told.borrow().is_some());
    assert!(cluster.violation().is_none(), "{:?}", cluster.violation().map(ToString::to_string));
    told.borrow_mut().take().expect("the call came to an end")
}

pub(crate) fn call(cluster: &mut Cluster<Slow>, call: OwnedCall) -> Result<Reply, CallError> {
    let told = begin(cluster, call);
    end(cluster, &told).1
}

pub(crate) fn written(cluster: &mut Cluster<Slow>) -> LogIndex {
    LogIndex(call(cluster, write(1)).expect("applied").block.index)
}

/// Between a node and all others nothing passes any more, or everything; clients reach all of them.
pub(crate) fn cut_off(cluster: &Cluster<Slow>, apart: NodeIndex, is_cut: bool) {
    for other in (0..cluster.nodes()).filter(|other| *other != apart.0) {
        for (from, to) in [(apart.0, other), (other, apart.0)] {
            let (from, to) = (node_ip(from), node_ip(to));
            match is_cut {
                true => cluster.network().block(from, to),
                false => cluster.network().unblock(from, to),
            }
        }
    }
}

/// From now on a node hashes its state, which takes so many turns; its apply task does nothing else meanwhile.
pub(crate) fn hash_slowly(cluster: &mut Cluster<Slow>, node: NodeIndex, turns: u32) {
    SAVE_TURNS.set(turns);
    let (servers, address) = (cluster.addresses(), cluster.addresses()[node.0]);
    cluster.client(servers, move |client: Client| async move {
        let _ = admin::status(&client, address, MS * 1000).await;
    });
    cluster.run_for(MS / 2);
    SAVE_TURNS.set(0);
}

/// The leader lets a read in, and is stopped before it can look at the state, which is just being hashed. The others go on without it,
/// and it hears of that only a while after it has woken up. The indexes of the answer that its client gets in the end, and of what was acknowledged a while before the leader woke up.
pub(crate) fn stopped_before_the_answer(wanted: Consistency, sabotage: Sabotage) -> (LogIndex, LogIndex) {
    let mut cluster = leased(1, sabotage);
    written(&mut cluster);
    let old = cluster.leader().expect("a leader");
    hash_slowly(&mut cluster, old, 5000);
    // Its first try is still open when the leader wakes up.
    let patient = ClientConfig { probe: MS * 3000, ..ClientConfig::default() };
    let waits = OwnedCall { within: Some(MS * 8000), ..read(wanted, slot(old)) };
    let told = begin_with(&mut cluster, patient, waits);
    cluster.run_for(MS);
    assert!(told.borrow().is_none(), "the state was hashed too fast");
    let (core, until) = (cluster.core(old), cluster.now() + MS * 2000);
    cut_off(&cluster, old, true);
    cluster.world().pause(core, until);
    assert!(
        cluster.run_until(MS * 1000, |cluster| cluster.leader().is_some_and(|new| new != old)),
        "nobody else leads"
    );
    // Its own connections are to the one that stands still; somebody else's find the new leader.
    let newest = written(&mut cluster);
    assert!(cluster.now() + MS * 500 < until, "the leader is to sleep for longer");
    cluster.run_for(until.saturating_since(cluster.now()) + MS * 100);
    cut_off(&cluster, old, false);
    let (_, answer) = end(&mut cluster, &told);
    (LogIndex(answer.expect("answered").block.index), newest)
}

/// A workload of reads of every kind, at any replica, under faults that never break the bound on clocks.
pub(crate) fn mixed_reads(name: &'static str, seeds: u64, sabotage: Sabotage) -> u64 {
    let checked = Rc::new(Cell::new(0));
    let sum = checked.clone();
    sim::run_seeds(name, seeds, move |sim: Sim<Slow>| {
        let sum = sum.clone();
        async move {
            let storm = Faults::crash_leader().every_ms(70).partition(1).pause(MS * 400).clock_drift(900);
            sim.leases(1000).net(Net::lossy(0.02).reorder(0.02).duplicate(0.02)).faults(storm);
            broken(&sim, sabotage);
            let work = sim::ops(250, |rng| match rng.below(10) {
                0..4 => AnyRequest::write(ADD, [1]),
                // Its apply task is behind for a while.
                4 => AnyRequest::write(ADD, [1; 2]),
                _ => AnyRequest::read(GET, []),
            });
            let clients = sim.clients(4).mixed_reads().deadline(MS * 400).run(work);
            let is_over = Cell::new(false);
            let transfers = async {
                while !is_over.get() {
                    sim.run_for(MS * 90).await;
                    sim.with_cluster(|cluster| {
                        let Some(leader) = cluster.leader() else { return };
                        let shard = cluster.node(leader).map(|node| node.shard().clone());
                        let core = cluster.core(leader);
                        // Refused where nobody is fit.
                        let _ = shard.map(|shard| cluster.world().enter(core, || shard.transfer(None)));
                    });
                }
            };
            let clients = async {
                let history = clients.await;
                is_over.set(true);
                history
            };
            let (history, ()) = futures::join!(clients, transfers);
            history.check_linearizable();
            sum.set(sum.get() + sim.reads_checked());
            sim.assert_replicas_agree();
        }
    });
    checked.get()
}

#[cfg(feature = "sabotage")]
fn broken(sim: &Sim<Slow>, sabotage: Sabotage) {
    sim.sabotage(sabotage);
}

#[cfg(not(feature = "sabotage"))]
fn broken(_: &Sim<Slow>, _: Sabotage) {}

/// Lets time pass for a client.
pub(crate) async fn wait(span: Duration) {
    sleep(span).await;
}
