//! Three replicas and a client over rings, turned one after the other by one thread.

use crate::plain::{self, Plain};
use crate::port::{RingPort, Rings};
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetConfig, NetDriver, SocketOptions};
use trimaran_raft::{ClusterId, Incarnation, Limits, ReadSettings, Sabotage, Slot, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::client::{Client, ClientConfig, MethodCall};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::{Policy, reassembly};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::{Clock, Core, CoreConfig, Idle, Instant, Lane, Monotonic, spawn_in};

const REQUEST: [u8; 64] = [7; 64];
const NODES: u8 = 3;
const CLUSTER: ClusterId = ClusterId(9);

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

pub(crate) type Machine = Core<NetDriver<RingPort>, Time>;

/// The machine's clock, or one that moves on by a step with each round of turns: equal runs then take equal instructions.
/// (And valgrind cannot run rustix's way to the real one.)
#[derive(Clone)]
pub(crate) enum Time {
    Real,
    Steps(Rc<Cell<Instant>>),
}

/// What a round takes, by the clock of steps.
pub(crate) const STEP: Duration = Duration::from_micros(20);

impl Time {
    pub(crate) fn step(&self) {
        if let Time::Steps(now) = self {
            now.set(now.get() + STEP);
        }
    }
}

impl Clock for Time {
    fn now(&self) -> Instant {
        match self {
            Time::Real => Monotonic.now(),
            Time::Steps(now) => now.get(),
        }
    }
}

/// Where nodes and client run: each on a core of its own that the thread turns one after the other, or all on one.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    Apart,
    Together,
}

pub(crate) struct Cluster {
    /// The client's first. One, where all run together.
    machines: Vec<Machine>,
    nodes: Vec<Node>,
    client: Client,
    /// The clients' network.
    net: Net,
    leader: usize,
    time: Time,
}

fn ip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, node)
}

pub(crate) fn machine(rings: &Rings, ips: &[Ipv4Addr], time: &Time) -> (Machine, Net) {
    let (driver, net) = NetDriver::new(rings.port(ips), NetConfig::default());
    let config = CoreConfig { idle: Idle::Spin, burst_packets: 64, ..CoreConfig::default() };
    (Core::new(config, time.clone(), driver), net)
}

fn node_config(node: u8) -> NodeConfig {
    NodeConfig {
        cluster_name: "ring".into(),
        slot: Slot(node),
        place: trimaran_rpc::shards::ShardPlace::ALONE,
        incarnation: Incarnation(u64::from(node)),
        client: SocketAddrV4::new(ip(node), 8000),
        peer: SocketAddrV4::new(ip(node), 8100),
        contacts: (1..=NODES).map(|node| SocketAddrV4::new(ip(node), 8100)).collect(),
        timing: Timing::SHARED,
        log_limits: Limits::default(),
        request_limits: reassembly::Limits::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: ReadSettings::default(),
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: u64::from(node),
        sabotage: Sabotage::default(),
    }
}

impl Cluster {
    pub(crate) fn new(layout: Layout, time: Time) -> Cluster {
        let rings = Rings::default();
        let ips: Vec<Ipv4Addr> = (0..=NODES).map(ip).collect();
        let groups: Vec<&[Ipv4Addr]> = match layout {
            Layout::Apart => ips.chunks(1).collect(),
            Layout::Together => vec![&ips],
        };
        let (machines, nets): (Vec<_>, Vec<_>) = groups.into_iter().map(|ips| machine(&rings, ips, &time)).unzip();
        let at = |node: usize| if layout == Layout::Together { 0 } else { node };
        let servers: Vec<_> = (1..=NODES).map(|node| SocketAddrV4::new(ip(node), 8000)).collect();
        let start = |node: u8| {
            let place = at(usize::from(node));
            machines[place].enter(|| Node::start(&nets[place], node_config(node), Counter(0)).expect("a node"))
        };
        let nodes: Vec<Node> = (1..=NODES).map(start).collect();
        let local = SocketAddrV4::new(ip(0), 0);
        let config = ClientConfig { nonce: Some(7), ..ClientConfig::default() };
        let client = machines[0].enter(|| Client::new(&nets[0], local, servers.clone(), config).expect("a client"));
        let formed = Rc::new(Cell::new(false));
        let (told, asker) = (formed.clone(), client.clone());
        let init = async move {
            let end = admin::init(&asker, "ring", &servers, CLUSTER, Duration::from_secs(10)).await;
            assert!(end.is_ok(), "the cluster did not form");
            told.set(true);
        };
        machines[0].enter(|| spawn_in(Lane::Normal, "init", init).detach());
        let mut cluster = Cluster { machines, nodes, client, net: nets[0].clone(), leader: 0, time };
        cluster.turn_until(false, |cluster| formed.get() && cluster.nodes.iter().any(|node| node.shard().is_leader()));
        cluster.leader = 1 + cluster.nodes.iter().position(|node| node.shard().is_leader()).expect("a leader");
        cluster
    }

    fn turn_until(&mut self, is_counted: bool, done: impl Fn(&Cluster) -> bool) {
        while !done(self) {
            self.time.step();
            for at in 0..self.machines.len() {
                match at {
                    at if !is_counted => _ = self.machines[at].turn(),
                    0 => counted_client(&mut self.machines[at]),
                    at if at == self.leader => counted_leader(&mut self.machines[at]),
                    at => counted_follower(&mut self.machines[at]),
                }
            }
        }
    }

    /// Runs `calls` with so many outstanding. Where they are counted, under the names of `counted_` functions.
    pub(crate) fn run(&mut self, policy: Policy, outstanding: u64, calls: u64, is_counted: bool) {
        let answered = Rc::new(Cell::new(0));
        let tasks = Rc::new(RefCell::new(Vec::new()));
        self.machines[0].enter(|| {
            for _ in 0..outstanding {
                let load = load(self.client.clone(), policy, answered.clone(), calls);
                tasks.borrow_mut().push(spawn_in(Lane::Normal, "load", load));
            }
        });
        self.turn_until(is_counted, |_| answered.get() >= calls);
    }

    /// So many clients without the library, as [`Cluster::run_plain`] wants them.
    pub(crate) fn plain(&mut self, clients: u64) -> Plain {
        let local = SocketAddrV4::new(ip(0), 0);
        let socket = self.net.bind(local, SocketOptions::default()).expect("a free address");
        let leader = SocketAddrV4::new(ip(self.leader as u8), 8000);
        let opened = Rc::new(Cell::new(None));
        let (to, from) = (opened.clone(), opened);
        let open = async move { to.set(Some(Plain::open(socket, leader, CLUSTER, clients as usize).await)) };
        self.machines[0].enter(|| spawn_in(Lane::Normal, "plain", open).detach());
        self.turn_until_there(&from, false)
    }

    /// As [`Cluster::run`], with clients that make their calls by themselves.
    pub(crate) fn run_plain(&mut self, plain: Plain, calls: u64, is_counted: bool) -> Plain {
        let (answered, back) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
        let load = plain::load(plain, &REQUEST, answered, calls, back.clone());
        self.machines[0].enter(|| spawn_in(Lane::Normal, "plain", load).detach());
        self.turn_until_there(&back, is_counted)
    }

    fn turn_until_there<T>(&mut self, place: &Cell<Option<T>>, is_counted: bool) -> T {
        let found = Cell::new(None);
        self.turn_until(is_counted, |_| {
            found.set(place.take());
            let there = found.take();
            let is_there = there.is_some();
            found.set(there);
            is_there
        });
        found.take().expect("it was waited for")
    }
}

// One name for each role, so that callgrind can tell them apart. The numbers keep the compiler from making one function of several.

#[inline(never)]
fn counted_client(machine: &mut Machine) {
    black_box(0);
    machine.turn();
}

#[inline(never)]
fn counted_leader(machine: &mut Machine) {
    black_box(1);
    machine.turn();
}

#[inline(never)]
fn counted_follower(machine: &mut Machine) {
    black_box(2);
    machine.turn();
}

async fn load(client: Client, policy: Policy, answered: Rc<Cell<u64>>, calls: u64) {
    while answered.get() < calls {
        let call = MethodCall { method: 1, policy, shard: 0, body: &REQUEST, server: None };
        if client.call(call, Duration::from_secs(1)).await.is_ok() {
            answered.set(answered.get() + 1);
        }
    }
}
