//! A whole cluster and its clients on one thread, in virtual time, under faults chosen by the caller.
//!
//! Every node runs what a real one runs: the same loop, sockets, R2P2, Raft and apply task. Only the clock, the network
//! and the order of runnable tasks come from the seed.

mod power;
mod survival;

pub use super::disks::DiskPlan;
use super::disks::{Disks, Promise};
use super::invariants::{Invariants, Violation};
pub use super::wire::Wire;
use crate::admin;
use crate::client::{Client, ClientConfig};
use crate::node::{Node, NodeConfig};
use crate::peer::PeerTransport;
use crate::r2p2::reassembly;
use crate::r2p2::{Header, MessageType, Rid};
use crate::service::Service;
use crate::shards::{ShardMap, ShardPlace};
use crate::storage::NodeStorage;
use rand::RngExt;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
pub(in crate::sim) use survival::has_majority;
use trimaran_net::port::sim::SimNet;
use trimaran_net::{Net, NetConfig, NetDriver, PcapWriter};
use trimaran_raft::{
    ClusterId, Configuration, Incarnation, Limits, LogIndex, ReadSettings, Sabotage, Shard, Slot, Timing,
};
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::{Instant, Lane};

/// Client port of every simulated node.
pub const CLIENT_PORT: u16 = 8000;
/// Peer port of every simulated node.
pub const PEER_PORT: u16 = 8100;

/// Clients that a cluster may have over its life.
pub const CLIENTS_MAX: u16 = 50_000;
/// Client addresses end in 1 to this.
const HOSTS_PER_NET: u16 = 250;

/// Which of the cluster's nodes, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub usize);

impl std::fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a simulated cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Nodes, 1 to 9.
    pub nodes: usize,
    /// How many of them, the first, form the cluster; the others ask to be taken in. `None`: all.
    pub voters: Option<usize>,
    /// Heartbeats and election timeouts.
    pub timing: Timing,
    /// Budgets of the log.
    pub log_limits: Limits,
    /// Bounds on requests of several packets.
    pub request_limits: reassembly::Limits,
    /// How reads are answered: leases, and how much clocks may drift.
    pub reads: ReadSettings,
    /// Rules of Raft's broken on purpose; nothing without the feature `sabotage`.
    pub sabotage: Sabotage,
    /// Addresses beside those of the nodes that everybody's configuration lists too: where [`Cluster::add_twin`] boots.
    pub spare_addresses: usize,
    /// The network is a switch of Ethernet frames, and each machine has the stack that raw ports need.
    pub frames: bool,
    /// Raft groups, 1 to 64, all of a node's on its one core. Those beside the first keep everything in memory, and have no appliers.
    pub shards: u16,
    /// Each machine has a second core, which executes the handlers.
    pub appliers: bool,
    /// Each machine has a disk, which outlives its node. `None`: everything is in memory.
    pub disks: Option<DiskPlan>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            nodes: 3,
            voters: None,
            timing: Timing::SHARED,
            log_limits: Limits::default(),
            request_limits: reassembly::Limits::default(),
            reads: ReadSettings { patience: Timing::SHARED.election_max, ..ReadSettings::default() },
            sabotage: Sabotage::default(),
            spare_addresses: 0,
            frames: false,
            shards: 1,
            appliers: false,
            disks: None,
        }
    }
}

/// A configuration in a log: where, whether it is known to be committed, and what it says.
type Known = (LogIndex, bool, Configuration);

struct Seat<S> {
    core: CoreIndex,
    /// Where its handlers run, if not on `core`.
    applier: Option<CoreIndex>,
    slot: Slot,
    node: Option<Node>,
    /// Those of the shards from 1 on, while it is up.
    more: Vec<Node>,
    life: u64,
    net: Option<Net>,
    /// It shall begin another life, whatever its disk has.
    anew: bool,
    /// Of a node that is down and whose disk is not: what it has promised, and the configurations in its log.
    asleep: Option<(Promise, Vec<Known>)>,
    _service: std::marker::PhantomData<S>,
}

/// A cluster in virtual time.
pub struct Cluster<S: Service> {
    seed: u64,
    config: ClusterConfig,
    world: World<NetDriver<Wire>>,
    network: SimNet,
    make: Box<dyn Fn() -> S>,
    seats: Vec<Seat<S>>,
    disks: Option<Disks>,
    clients: u16,
    client_cores: BTreeMap<Ipv4Addr, CoreIndex>,
    invariants: Invariants,
    /// Those of the shards from 1 on.
    more_invariants: Vec<Invariants>,
    violation: Option<Violation>,
}

impl<S: Service> Cluster<S> {
    /// Boots the nodes and forms the cluster by the same `init` as an operator's. Everything that follows is decided
    /// by `seed`.
    pub fn new(seed: u64, config: ClusterConfig, make: impl Fn() -> S + 'static) -> Self {
        Cluster::tapped(seed, config, make, None)
    }

    /// As [`Cluster::new`], with every packet recorded from the first on.
    pub fn tapped(
        seed: u64,
        config: ClusterConfig,
        make: impl Fn() -> S + 'static,
        tap: Option<PcapWriter<Box<dyn Write>>>,
    ) -> Self {
        let mut cluster = Cluster {
            seed,
            world: World::new(seed),
            network: SimNet::new(seed ^ 0x006e_6574_776f_726b),
            make: Box::new(make),
            seats: Vec::new(),
            disks: config.disks.map(|plan| Disks::new(seed, config.nodes, plan)),
            clients: 0,
            client_cores: BTreeMap::new(),
            invariants: Invariants::new(config.nodes),
            more_invariants: (1..config.shards).map(|_| Invariants::new(config.nodes)).collect(),
            violation: None,
            config,
        };
        if let Some(tap) = tap {
            cluster.network.set_tap(tap);
        }
        for index in 0..cluster.config.nodes {
            cluster.boot(Slot(index as u8 + 1));
        }
        cluster.form();
        cluster
    }

    fn boot(&mut self, slot: Slot) -> NodeIndex {
        let index = self.seats.len();
        let (driver, net) = self.driver(node_ip(index));
        let core = self.world.add_core(&format!("node{}", index + 1), driver);
        let applier = self.config.appliers.then(|| {
            let (driver, _) = self.driver(applier_ip(index));
            self.world.add_core(&format!("applier{}", index + 1), driver)
        });
        let _service = std::marker::PhantomData;
        let seat = Seat {
            core,
            applier,
            slot,
            node: None,
            more: Vec::new(),
            life: 0,
            net: Some(net),
            anew: false,
            asleep: None,
            _service,
        };
        self.seats.push(seat);
        self.start(NodeIndex(index));
        NodeIndex(index)
    }

    /// Boots one more machine, at a spare address, that claims the seat of `node`: two machines of one slot. It counts among
    /// [`Cluster::nodes`] from now on. `None` where no spare address is left.
    pub fn add_twin(&mut self, node: NodeIndex) -> Option<NodeIndex> {
        let free = self.seats.len() < self.config.nodes + self.config.spare_addresses;
        free.then(|| {
            self.invariants.add_node();
            self.more_invariants.iter_mut().for_each(Invariants::add_node);
            if let Some(disks) = &mut self.disks {
                disks.add();
            }
            self.boot(self.slot(node))
        })
    }

    /// What the nodes' configurations list.
    fn listed(&self) -> impl Iterator<Item = Ipv4Addr> + use<S> {
        (0..self.config.nodes + self.config.spare_addresses).map(node_ip)
    }

    /// The seat that a node claims.
    pub fn slot(&self, node: NodeIndex) -> Slot {
        self.seats[node.0].slot
    }

    fn driver(&self, ip: Ipv4Addr) -> (NetDriver<Wire>, Net) {
        NetDriver::new(Wire::new(&self.network, ip, self.config.frames), NetConfig::default())
    }

    fn start(&mut self, node: NodeIndex) {
        let mut places = self.places();
        let config = self.node_config(node, places.next().unwrap_or_default());
        let more: Vec<NodeConfig> = places.map(|place| self.node_config(node, place)).collect();
        let seat = &mut self.seats[node.0];
        let service = (self.make)();
        let net = seat.net.take().unwrap_or_else(|| unreachable!("a seat has its net until its node starts"));
        let disks = self.disks.as_ref();
        let promise = seat.asleep.take().map(|(promise, _)| promise);
        let anew = std::mem::take(&mut seat.anew);
        let mut broken = None;
        let with_applier = seat.applier.is_some();
        let started = self.world.enter(seat.core, || {
            let directory = disks.map(|disks| disks.open(node, &config)).transpose()?;
            let directory = directory.map(|found| if anew { found.begin_anew() } else { found });
            let is_broken = |directory: &crate::storage::DataDirectory| {
                promise.filter(|promise| promise.is_broken(directory.id(), directory.kept()))
            };
            broken = directory.as_ref().and_then(|directory| {
                is_broken(directory).map(|promise| (promise.to_string(), Promise::told(directory)))
            });
            match with_applier {
                true => Node::start_with_applier(&net, config, service, directory)
                    .map(|(node, applier)| (node, Some(applier))),
                false => Node::start_in(&net, config, service, directory).map(|node| (node, None)),
            }
        });
        match started {
            Ok((started, applier)) => {
                seat.node = Some(started);
                if let Some((core, applier)) = seat.applier.zip(applier) {
                    self.world.spawn(core, Lane::Normal, applier.run()).detach();
                }
            }
            Err(error) => panic!("a simulated node could not start: {error}"),
        }
        for config in more {
            let service = (self.make)();
            let started = self.world.enter(seat.core, || Node::start(&net, config, service));
            match started {
                Ok(started) => seat.more.push(started),
                Err(error) => panic!("a simulated node could not start: {error}"),
            }
        }
        if let Some((promised, found)) = broken {
            self.violation.get_or_insert(Violation::Forgot { node, promised, found });
        }
    }

    fn places(&self) -> impl Iterator<Item = ShardPlace> + use<S> {
        let map = ShardMap::new(self.config.shards).unwrap_or_default();
        map.all().filter_map(move |shard| ShardPlace::new(shard, map))
    }

    fn node_config(&mut self, node: NodeIndex, place: ShardPlace) -> NodeConfig {
        let life = self.seats[node.0].life;
        let incarnation: u64 = self.world.rng().random();
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (life << 8) ^ node.0 as u64;
        NodeConfig {
            cluster_name: "sim".into(),
            slot: self.seats[node.0].slot,
            place,
            incarnation: Incarnation(incarnation | 1),
            client: SocketAddrV4::new(node_ip(node.0), CLIENT_PORT + place.shard()),
            peer: SocketAddrV4::new(node_ip(node.0), PEER_PORT + place.shard()),
            contacts: self.listed().map(|ip| SocketAddrV4::new(ip, PEER_PORT + place.shard())).collect(),
            timing: self.config.timing,
            log_limits: self.config.log_limits,
            request_limits: self.config.request_limits,
            reply_bytes: 32 << 20,
            queued_reads: 4096,
            reads: self.config.reads,
            sabotage: self.config.sabotage,
            rcvbuf_bytes: 4 << 20,
            router: None,
            seed: seed ^ u64::from(place.shard()) << 40,
        }
    }

    fn form(&mut self) {
        let voters = self.config.voters.unwrap_or(self.config.nodes);
        let addresses: Vec<_> = self.addresses().into_iter().take(voters).collect();
        let cluster = ClusterId(self.world.rng().random::<u128>() | 1);
        let outcome = Rc::new(RefCell::new(None));
        let told = outcome.clone();
        self.client(addresses.clone(), move |client| async move {
            let end = admin::init(&client, "sim", &addresses, cluster, Duration::from_secs(10)).await;
            *told.borrow_mut() = Some(end.map_err(|error| error.to_string()));
        });
        let formed = self.run_until(Duration::from_secs(20), |_| outcome.borrow().is_some());
        let end = outcome.borrow_mut().take();
        assert!(formed && matches!(end, Some(Ok(_))), "the simulated cluster did not form: {end:?}");
    }

    /// Adds a client on a machine of its own and runs `work` there.
    ///
    /// # Panics
    /// After [`CLIENTS_MAX`] of them: their machines stay, and each costs time at every step.
    pub fn client<F: Future<Output = ()> + 'static>(
        &mut self,
        servers: Vec<SocketAddrV4>,
        work: impl FnOnce(Client) -> F + 'static,
    ) -> Ipv4Addr {
        self.client_with(servers, ClientConfig::default(), work)
    }

    /// As [`Cluster::client`], with a configuration of the caller's; the first request id comes from the seed, and so does a nonce that is not given.
    ///
    /// # Panics
    /// As [`Cluster::client`].
    pub fn client_with<F: Future<Output = ()> + 'static>(
        &mut self,
        servers: Vec<SocketAddrV4>,
        config: ClientConfig,
        work: impl FnOnce(Client) -> F + 'static,
    ) -> Ipv4Addr {
        assert!(self.clients < CLIENTS_MAX, "a simulated cluster has at most {CLIENTS_MAX} clients over its life");
        let (net, host) = (self.clients / HOSTS_PER_NET, self.clients % HOSTS_PER_NET + 1);
        self.clients += 1;
        // 10.0.2.x and what follows is left to machines that tests add by hand.
        let net = if net == 0 { 1 } else { 10 + net };
        let ip = Ipv4Addr::new(10, 0, net as u8, host as u8);
        self.client_from(ip, servers, config, work);
        ip
    }

    /// As [`Cluster::client`], at an address of the caller's choice that no other machine has.
    pub fn client_at<F: Future<Output = ()> + 'static>(
        &mut self,
        ip: Ipv4Addr,
        servers: Vec<SocketAddrV4>,
        work: impl FnOnce(Client) -> F + 'static,
    ) {
        self.client_from(ip, servers, ClientConfig::default(), work);
    }

    fn client_from<F: Future<Output = ()> + 'static>(
        &mut self,
        ip: Ipv4Addr,
        servers: Vec<SocketAddrV4>,
        config: ClientConfig,
        work: impl FnOnce(Client) -> F + 'static,
    ) {
        // Everything comes from the seed.
        let nonce = config.nonce.unwrap_or_else(|| self.world.rng().random());
        self.machine(ip, move |net, first_rid| async move {
            let config = ClientConfig { first_rid, nonce: Some(nonce), ..config };
            match Client::new(&net, SocketAddrV4::new(ip, 0), servers, config) {
                Ok(client) => work(client).await,
                Err(error) => panic!("a simulated client could not start: {error}"),
            }
        });
    }

    /// Adds a machine that runs `work` with the network in hand, for clients that are not ours.
    pub fn machine<F: Future<Output = ()> + 'static>(
        &mut self,
        ip: Ipv4Addr,
        work: impl FnOnce(Net, Rid) -> F + 'static,
    ) {
        let (driver, net) = self.driver(ip);
        let core = self.world.add_core(&format!("client {ip}"), driver);
        self.client_cores.insert(ip, core);
        let first_rid = Rid(self.world.rng().random());
        self.world.enter(core, || trimaran_runtime::spawn_in(Lane::Normal, "client", work(net, first_rid)).detach());
    }

    /// Ends a client's machine as SIGKILL does, in the middle of whatever it sends. Does nothing where there is none.
    pub fn kill_client(&mut self, ip: Ipv4Addr) {
        if let Some(core) = self.client_cores.remove(&ip) {
            self.world.kill(core);
        }
    }

    /// Every node's client address, in order, and the spare ones.
    pub fn addresses(&self) -> Vec<SocketAddrV4> {
        self.listed().map(|ip| SocketAddrV4::new(ip, CLIENT_PORT)).collect()
    }

    /// How many nodes have been booted, dead or alive.
    pub fn nodes(&self) -> usize {
        self.seats.len()
    }

    /// How often a node has been restarted.
    pub fn life(&self, node: NodeIndex) -> u64 {
        self.seats[node.0].life
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// The seeded network, for links, partitions and its fault counters.
    pub fn network(&self) -> &SimNet {
        &self.network
    }

    /// The world, for pauses and clocks.
    pub fn world(&mut self) -> &mut World<NetDriver<Wire>> {
        &mut self.world
    }

    /// The core that a node runs on.
    pub fn core(&self, node: NodeIndex) -> CoreIndex {
        self.seats[node.0].core
    }

    /// A node that is up.
    pub fn node(&self, node: NodeIndex) -> Option<&Node> {
        self.seats[node.0].node.as_ref()
    }

    /// The node that leads shard 0 in the highest term, if any does.
    pub fn leader(&self) -> Option<NodeIndex> {
        self.leader_of(0)
    }

    /// Has a node's shard do something, outside of its turns. `None` where the node is down.
    pub(super) fn at_node<R>(
        &mut self,
        node: NodeIndex,
        ask: impl FnOnce(&Shard<PeerTransport, NodeStorage>) -> R,
    ) -> Option<R> {
        let core = self.core(node);
        let shard = self.node(node)?.own_shard().clone();
        Some(self.world.enter(core, || ask(&shard)))
    }

    /// Takes the change of the members back that is under way, where the leader still can.
    pub fn cancel_change(&mut self) -> bool {
        let Some(leader) = self.leader() else { return false };
        self.at_node(leader, |shard| shard.cancel_change().is_ok()) == Some(true)
    }

    /// The node whose turn the last step was; `None` for a client's.
    pub fn last_node(&self) -> Option<NodeIndex> {
        let ran = self.world.last_core();
        self.seats.iter().position(|seat| seat.core == ran).map(NodeIndex)
    }

    /// Ends a node as SIGKILL does: its memory, its sockets and what was on the way to it are gone.
    pub fn kill(&mut self, node: NodeIndex) {
        let remembers = self.disks.is_some();
        let seat = &mut self.seats[node.0];
        if let Some(node) = seat.node.take().filter(|_| remembers) {
            seat.asleep = Some((Promise::of(&node), vec![known_to(&node)]));
        }
        self.world.kill(seat.core);
        seat.applier.into_iter().for_each(|core| self.world.kill(core));
        seat.more.clear();
        self.invariants.forget(node);
        self.more_invariants.iter_mut().for_each(|invariants| invariants.forget(node));
    }

    /// Starts a killed node again, with what is on its disk, or with nothing of what it knew.
    ///
    /// The network forgets the client's datagrams for it: a node knows late copies only of what came in the same life
    /// ([`CallError::NotApplied`](crate::client::CallError::NotApplied)). Those of its peers may still come.
    pub fn restart(&mut self, node: NodeIndex) {
        let ip = node_ip(node.0);
        self.network.forget_kept(|kept| {
            *kept.dst().ip() == ip
                && Header::parse(kept.data()).is_ok_and(|(header, _)| header.kind == MessageType::Request)
        });
        let (driver, net) = self.driver(node_ip(node.0));
        if let Some(core) = self.seats[node.0].applier {
            let (driver, _) = self.driver(applier_ip(node.0));
            self.world.revive(core, driver);
        }
        let seat = &mut self.seats[node.0];
        seat.life += 1;
        seat.net = Some(net);
        self.world.revive(seat.core, driver);
        self.start(node);
    }

    /// Ends the life of a node and begins another in its place, as `serve` does where a replica was outvoted.
    pub fn begin_anew(&mut self, node: NodeIndex) {
        self.kill(node);
        self.seats[node.0].asleep = None;
        self.seats[node.0].anew = true;
        self.restart(node);
    }

    /// Runs one turn of one core and checks every invariant that it could have broken. `false`: nothing will ever
    /// happen again, or an invariant is broken.
    pub fn step(&mut self) -> bool {
        if self.violation.is_some() || !self.world.step() {
            return false;
        }
        if let Some(index) = self.last_node()
            && let Some(node) = &self.seats[index.0].node
            && let Err(violation) = self.invariants.check(index, node.shard()).and_then(|()| self.check_shards(index))
        {
            self.violation = Some(violation);
            return false;
        }
        if self.disks.is_some()
            && let Some(index) = self.last_node()
            && self.node(index).is_some_and(|node| node.failed().is_some())
        {
            // As its process would.
            self.kill(index);
        }
        true
    }

    /// Runs until `done` or for `limit` of virtual time; tells whether `done`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() >= end || !self.step() {
                return done(self);
            }
        }
        true
    }

    /// Runs for `limit` of virtual time, or until an invariant is broken.
    pub fn run_for(&mut self, limit: Duration) {
        self.run_until(limit, |_| false);
    }

    /// What was broken first, if anything.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// What has been checked so far.
    pub fn invariants(&self) -> &Invariants {
        &self.invariants
    }

    /// As [`Invariants::allow_divergence`].
    pub fn allow_divergence(&mut self) {
        self.invariants.allow_divergence();
        self.more_invariants.iter_mut().for_each(Invariants::allow_divergence);
    }

    /// A hash over every turn so far: equal for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }
}

fn known_to(node: &Node) -> Known {
    node.shard().with_machine(|machine| {
        let at = machine.configuration_index();
        (at, at <= machine.commit(), machine.configuration().clone())
    })
}

/// Of a core that has no sockets, and a driver all the same.
fn applier_ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, index as u8 + 1)
}

/// The address of a node.
pub fn node_ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, index as u8 + 1)
}
