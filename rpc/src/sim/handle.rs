//! The simulation as a test holds it: a cluster that is formed when it is first needed, and time that passes only when the
//! test waits for something.

use super::calls::Record;
use super::chaos::FaultCounts;
use super::clients::Clients;
use super::cluster::{Cluster, ClusterConfig, NodeIndex, node_ip};
use super::faults::Faults;
use super::invariants::Violation;
use super::net::Net;
use super::reading::Acknowledged;
use super::rng::SimRng;
use super::storm::{Storm, set_net};
use crate::service::Service;
use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use trimaran_net::PcapWriter;
use trimaran_raft::{ReadSettings, Sabotage, Status};
use trimaran_runtime::Instant;

/// Virtual time that passes before a future of this module lets others look: what waits beside it wakes at most so late.
const SLICE: Duration = Duration::from_micros(10);
/// How long the first leader may take. Fifty of the longest election timeouts.
const FORMED_WITHIN: Duration = Duration::from_secs(10);

/// A cluster of a service and its clients in virtual time, all decided by one seed. Clones are handles of the same one.
///
/// Settings chain. The cluster is formed at the first use: three nodes, a quiet local network and no faults unless the
/// test says otherwise. Time stands still while the test's own code runs, and goes on in its awaits, which may be joined:
/// all of them see the same time. After every step the simulator checks what must hold ([`invariants`](super::invariants))
/// and that no replica has stopped; the test ends with what it finds.
///
/// ```
/// # use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
/// # use trimaran_rpc::state::{Reader, State, StateError, Writer};
/// # #[derive(Default)]
/// # struct Counter(u64);
/// # impl State for Counter {
/// #     async fn save(&self, to: &mut Writer) {
/// #         to.item(&self.0).await;
/// #     }
/// #     async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
/// #         Ok(Counter(from.item().await?))
/// #     }
/// # }
/// # impl Service for Counter {
/// #     const NAME: &'static str = "counter";
/// #     async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
/// #         self.0 += request.len() as u64;
/// #         reply.extend(self.0.to_le_bytes());
/// #         Answer::Ok
/// #     }
/// #     fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
/// #         reply.extend(self.0.to_le_bytes());
/// #         Answer::Ok
/// #     }
/// # }
/// use std::time::Duration;
/// use trimaran_rpc::sim::{self, AnyRequest, Faults, Net, Sim};
///
/// # fn main() {
/// sim::run_seeds("counts_under_faults", 2, |sim: Sim<Counter>| async move {
///     sim.nodes(3).net(Net::lossy(0.01).reorder(0.05)).faults(Faults::crash_leader().every_ms(50));
///     let work = sim::ops(200, |rng| if rng.chance(0.5) { AnyRequest::write(7, b"+") } else { AnyRequest::read(7, b"") });
///     let history = sim.clients(3).run(work).await;
///     history.check_linearizable();
///     sim.assert_replicas_agree();
/// });
/// # }
/// ```
pub struct Sim<S: Service> {
    inner: Rc<RefCell<Inner<S>>>,
}

impl<S: Service> Clone for Sim<S> {
    fn clone(&self) -> Self {
        Sim { inner: self.inner.clone() }
    }
}

impl<S: Service> std::fmt::Debug for Sim<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("service", &S::NAME).finish_non_exhaustive()
    }
}

/// Everything of one simulation.
pub(super) struct Inner<S: Service> {
    seed: u64,
    nodes: usize,
    net: Net,
    reads: ReadSettings,
    sabotage: Sabotage,
    faults: Faults,
    pub(super) make: Rc<dyn Fn() -> S>,
    cluster: Option<Cluster<S>>,
    storm: Storm,
    pub(super) record: Rc<RefCell<Record>>,
    /// What clients of workloads have been told, by log index.
    pub(super) acknowledged: Rc<RefCell<Acknowledged>>,
    /// Clients that have not come to their end.
    pub(super) working: Rc<Cell<u32>>,
    /// Clients so far.
    pub(super) clients: u32,
    pub(super) rng: SimRng,
    tap: Option<PcapWriter<Box<dyn Write>>>,
}

/// What a simulation did.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tally {
    pub(super) virtual_time: Duration,
    pub(super) packets: u64,
    pub(super) operations: usize,
    pub(super) trace_hash: u64,
    pub(super) asked: Faults,
    pub(super) faults: FaultCounts,
}

impl<S: Service + Default> Sim<S> {
    /// A simulation of its own, outside of [`run_seeds`](super::run_seeds): nobody prints its seed when it fails.
    pub fn new(seed: u64) -> Self {
        Sim::with_service(seed, S::default)
    }
}

impl<S: Service> Sim<S> {
    /// As [`Sim::new`], for a service that has no default: every start of a node makes one.
    pub fn with_service(seed: u64, make: impl Fn() -> S + 'static) -> Self {
        let inner = Inner {
            seed,
            nodes: 3,
            net: Net::lan(),
            reads: ClusterConfig::default().reads,
            sabotage: Sabotage::default(),
            faults: Faults::none(),
            make: Rc::new(make),
            cluster: None,
            storm: Storm::new(seed),
            record: Rc::default(),
            acknowledged: Rc::default(),
            working: Rc::default(),
            clients: 0,
            rng: SimRng::new(seed ^ 0x0063_6c69_656e_7473),
            tap: None,
        };
        Sim { inner: Rc::new(RefCell::new(inner)) }
    }

    /// # Panics
    /// Where the simulated world calls the one that simulates it.
    #[track_caller]
    pub(super) fn inner(&self) -> RefMut<'_, Inner<S>> {
        match self.inner.try_borrow_mut() {
            Ok(inner) => inner,
            Err(_) => panic!(
                "code that runs inside of the simulation (a client, a handler) cannot use `Sim`: only the test can"
            ),
        }
    }

    /// Every start of a node makes its service so.
    ///
    /// # Panics
    /// After the cluster was formed; the same holds for [`Sim::nodes`].
    #[track_caller]
    pub fn with(&self, make: impl Fn() -> S + 'static) -> &Self {
        self.inner().unformed("with").make = Rc::new(make);
        self
    }

    /// So many nodes, 1 to 9; 3 at first.
    #[track_caller]
    pub fn nodes(&self, nodes: usize) -> &Self {
        assert!((1..=9).contains(&nodes), "a cluster has 1 to 9 nodes, not {nodes}");
        self.inner().unformed("nodes").nodes = nodes;
        self
    }

    /// Leaders answer reads of consistency `Lease` without asking anyone while their lease lasts, sure that no node's clock drifts by
    /// more than so many microseconds a second. [`Faults::clock_drift`] may stay below that, or leases are wrong;
    /// [`Faults::swarm`] goes beyond all bounds.
    ///
    /// # Panics
    /// After the cluster was formed.
    #[track_caller]
    pub fn leases(&self, clock_drift_ppm: u32) -> &Self {
        let mut inner = self.inner();
        let reads = &mut inner.unformed("leases").reads;
        *reads = ReadSettings { lease: true, clock_drift_ppm, ..*reads };
        drop(inner);
        self
    }

    /// Breaks a rule on purpose, on every node, for tests that show that it is needed.
    ///
    /// # Panics
    /// After the cluster was formed.
    #[track_caller]
    #[cfg(feature = "sabotage")]
    pub fn sabotage(&self, sabotage: Sabotage) -> &Self {
        self.inner().unformed("sabotage").sabotage = sabotage;
        self
    }

    /// How many reads of workloads with [`Clients::mixed_reads`] have been held against their consistency by the log index of the
    /// answer.
    pub fn reads_checked(&self) -> u64 {
        self.inner().acknowledged.borrow().checked
    }

    /// The network from now on.
    pub fn net(&self, net: Net) -> &Self {
        let mut inner = self.inner();
        inner.net = net;
        if let Some(cluster) = &inner.cluster {
            set_net(cluster, &net);
        }
        drop(inner);
        self
    }

    /// What strikes from now on, while clients work.
    pub fn faults(&self, faults: Faults) -> &Self {
        let mut inner = self.inner();
        inner.faults = faults;
        let Inner { cluster, storm, faults, .. } = &mut *inner;
        if let Some(cluster) = cluster {
            storm.set_faults(cluster.now(), faults.clone());
        }
        drop(inner);
        self
    }

    /// What decides everything.
    pub fn seed(&self) -> u64 {
        self.inner().seed
    }

    /// Virtual time since the nodes booted.
    pub fn now(&self) -> Duration {
        self.inner().formed().now() - Instant::ZERO
    }

    /// So many clients, each on a machine of its own; they begin when they are given work.
    pub fn clients(&self, clients: u32) -> Clients<S> {
        Clients::new(self.clone(), clients)
    }

    /// Lets virtual time pass.
    pub fn run_for(&self, span: Duration) -> impl Future<Output = ()> + use<S> {
        let mut end = None;
        Drive::new(self, move |sim| {
            let now = sim.inner().formed().now();
            now >= *end.get_or_insert(now + span)
        })
    }

    /// Lets virtual time pass until `done`, for at most `limit`; tells whether it is.
    pub fn run_until(&self, limit: Duration, mut done: impl FnMut(&Sim<S>) -> bool) -> impl Future<Output = bool> {
        let sim = self.clone();
        async move {
            let end = sim.inner().formed().now() + limit;
            let mut is_done = false;
            Drive::new(&sim, |sim| {
                is_done = done(sim);
                is_done || sim.inner().formed().now() >= end
            })
            .await;
            is_done
        }
    }

    /// The node that leads in the highest term, from 0 on; `None` while there is none.
    pub fn leader(&self) -> Option<usize> {
        self.inner().formed().leader().map(|node| node.0)
    }

    /// How a node sees itself and the others; `None` where it is down.
    ///
    /// # Panics
    /// Where there is no such node; the same holds for all that name nodes.
    #[track_caller]
    pub fn status(&self, node: usize) -> Option<Status> {
        let mut inner = self.inner();
        let node = inner.place(node);
        inner.formed().node(node).map(|node| node.shard().status())
    }

    /// Kills a node as SIGKILL does: its memory is gone. Does nothing to one that is down. Unlike faults this asks nobody:
    /// a cluster that loses a majority stays down.
    #[track_caller]
    pub fn kill(&self, node: usize) -> &Self {
        let mut inner = self.inner();
        let node = inner.place(node);
        if inner.formed().node(node).is_some() {
            inner.formed().kill(node);
        }
        drop(inner);
        self
    }

    /// Starts a node again, empty. Does nothing to one that is up.
    #[track_caller]
    pub fn restart(&self, node: usize) -> &Self {
        let mut inner = self.inner();
        let node = inner.place(node);
        if inner.formed().node(node).is_none() {
            inner.formed().restart(node);
        }
        drop(inner);
        self
    }

    /// Has a node stand still for so long; its clock goes on.
    #[track_caller]
    pub fn pause(&self, node: usize, span: Duration) -> &Self {
        let mut inner = self.inner();
        let node = inner.place(node);
        let cluster = inner.formed();
        let (core, until) = (cluster.core(node), cluster.now() + span);
        cluster.world().pause(core, until);
        drop(inner);
        self
    }

    /// Cuts these nodes, together, off from the others and from the clients so far, until [`Sim::heal`] or the next partition.
    #[track_caller]
    pub fn partition(&self, apart: &[usize]) -> &Self {
        let mut inner = self.inner();
        let apart: Vec<_> = apart.iter().map(|&node| inner.place(node).0).collect();
        inner.formed();
        let Inner { cluster: Some(cluster), storm, .. } = &mut *inner else { unreachable!("formed above") };
        let rest = (0..cluster.nodes()).filter(|node| !apart.contains(node)).map(node_ip);
        let rest: Vec<_> = rest.chain(storm.clients().iter().copied()).collect();
        let apart: Vec<_> = apart.into_iter().map(node_ip).collect();
        cluster.network().partition(&[&apart, &rest]);
        drop(inner);
        self
    }

    /// Ends partitions, pauses and clock drift, and starts the nodes that faults have killed. Links stay as [`Sim::net`] says.
    pub fn heal(&self) -> &Self {
        let mut inner = self.inner();
        inner.formed();
        let net = inner.net;
        inner.end_faults(&net);
        drop(inner);
        self
    }

    /// The cluster itself, for what has no method here.
    pub fn with_cluster<R>(&self, look: impl FnOnce(&mut Cluster<S>) -> R) -> R {
        look(self.inner().formed())
    }

    /// Records every packet from the beginning on.
    pub(super) fn tap(&self, tap: PcapWriter<Box<dyn Write>>) {
        self.inner().tap = Some(tap);
    }

    /// Writes out what was recorded.
    pub(super) fn end_tap(&self) {
        if let Some(cluster) = &self.inner().cluster {
            drop(cluster.network().take_tap());
        }
    }

    /// Runs until `done` or for `limit`, without letting the test's other futures look; tells whether `done`.
    pub(super) fn drive(&self, limit: Duration, mut done: impl FnMut(&mut Inner<S>) -> bool) -> bool {
        let mut inner = self.inner();
        let end = inner.formed().now() + limit;
        loop {
            if done(&mut inner) {
                return true;
            }
            if inner.formed().now() >= end {
                return false;
            }
            inner.step();
        }
    }
}

impl<S: Service> Inner<S> {
    #[track_caller]
    fn unformed(&mut self, what: &str) -> &mut Self {
        assert!(self.cluster.is_none(), "`{what}` comes before the first use of the cluster");
        self
    }

    #[track_caller]
    fn place(&self, node: usize) -> NodeIndex {
        assert!(node < self.nodes, "there is no node {node}: the cluster has nodes 0 to {}", self.nodes - 1);
        NodeIndex(node)
    }

    /// The cluster, which is formed and has had a leader.
    pub(super) fn formed(&mut self) -> &mut Cluster<S> {
        if self.cluster.is_none() {
            let (nodes, reads, sabotage) = (self.nodes, self.reads, self.sabotage);
            let config = ClusterConfig { nodes, reads, sabotage, ..ClusterConfig::default() };
            let make = self.make.clone();
            let tap = self.tap.take();
            let mut cluster = Cluster::tapped(self.seed, config, move || make(), tap);
            assert!(
                cluster.run_until(FORMED_WITHIN, |cluster| cluster.leader().is_some()),
                "nobody was elected within {FORMED_WITHIN:?} of the cluster's forming"
            );
            set_net(&cluster, &self.net);
            self.storm.set_faults(cluster.now(), self.faults.clone());
            self.cluster = Some(cluster);
        }
        match &mut self.cluster {
            Some(cluster) => cluster,
            None => unreachable!("formed above"),
        }
    }

    /// One step, and everything that is checked after each.
    fn step(&mut self) {
        self.formed();
        let Inner { cluster: Some(cluster), storm, working, .. } = self else { unreachable!("formed above") };
        let goes_on = cluster.step();
        if let Some(violation) = cluster.violation() {
            panic!("{}", explained(cluster, violation));
        }
        assert!(goes_on, "nothing will ever happen again: every node is down and no client waits");
        if let Some(node) = cluster.last_node()
            && let Some(halt) = cluster.node(node).and_then(|node| node.halted())
        {
            panic!(
                "node {node} stopped applying at entry {}, method {}: {} {}",
                halt.index,
                name_of::<S>(halt.method),
                halt.code,
                halt.message
            );
        }
        storm.tick(cluster, working.get() > 0);
    }

    pub(super) fn end_faults(&mut self, net: &Net) {
        if let Inner { cluster: Some(cluster), storm, .. } = self {
            storm.end(cluster, net);
        }
    }

    pub(super) fn net(&self) -> Net {
        self.net
    }

    pub(super) fn leases(&self) -> bool {
        self.reads.lease
    }

    pub(super) fn add_client(&mut self, ip: std::net::Ipv4Addr) {
        self.storm.add_client(ip);
    }

    pub(super) fn tally(&self) -> Tally {
        let mut faults = self.storm.counts();
        let network = self.cluster.as_ref().map(Cluster::network);
        let counters = network.map(|network| network.counters()).unwrap_or_default();
        faults.add_links(counters.faults);
        let trace = self.cluster.as_ref().map_or(0, Cluster::trace_hash);
        Tally {
            virtual_time: self.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.now() - Instant::ZERO),
            packets: counters.delivered,
            operations: self.record.borrow().len(),
            trace_hash: trace ^ network.map_or(0, |network| network.trace_hash().rotate_left(32)),
            asked: self.faults.clone(),
            faults,
        }
    }
}

/// The method's name, or for services of bytes its key in hexadecimal.
fn name_of<S: Service>(method: u32) -> String {
    let known = S::methods().iter().find(|known| known.key == method);
    known.map_or_else(|| format!("{method:08x}"), |known| format!("`{}`", known.name))
}

/// What a violation is likely to mean to who has written the service.
fn explained<S: Service>(cluster: &Cluster<S>, violation: &Violation) -> String {
    let Violation::DigestDiffers { index, .. } = violation else { return violation.to_string() };
    let nodes = (0..cluster.nodes()).filter_map(|node| cluster.node(NodeIndex(node)));
    let method = nodes
        .filter_map(|node| node.shard().with_log(|log| log.header(*index).map(|header| header.method)))
        .next()
        .map_or_else(|| "of a forgotten method".to_owned(), |method| format!("of method {}", name_of::<S>(method)));
    format!(
        "{violation}: up to this entry, {method}, some handler replied otherwise there. Handlers must be deterministic: no clock, \
         no randomness but `cx.rng()`, no addresses, no hashed collections, nothing outside of `self`, `cx` and the request"
    )
}

/// Lets the world go on until `done`, a slice at each poll.
pub(super) struct Drive<S: Service, F> {
    sim: Sim<S>,
    done: F,
}

impl<S: Service, F: FnMut(&Sim<S>) -> bool> Drive<S, F> {
    pub(super) fn new(sim: &Sim<S>, done: F) -> Self {
        Drive { sim: sim.clone(), done }
    }
}

impl<S: Service, F> Unpin for Drive<S, F> {}

impl<S: Service, F: FnMut(&Sim<S>) -> bool> Future for Drive<S, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Drive { sim, done } = &mut *self;
        let until = sim.inner().formed().now() + SLICE;
        loop {
            if done(sim) {
                return Poll::Ready(());
            }
            let mut inner = sim.inner();
            inner.step();
            if inner.formed().now() >= until {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Service> Sim<S> {
    pub(super) fn tally(&self) -> Tally {
        self.inner().tally()
    }
}
