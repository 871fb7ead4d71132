//! All nodes and the client on one core of this process, over the kernel's sockets: a leader is killed by dropping its node, with
//! its sockets, its tasks and its memory. What is left of a failover are timeouts, messages and the client's search.

use super::{Findings, PATIENCE, Puts, failed, plan, progress};
use crate::cli::BenchFailover;
use crate::load;
use crate::service::Kv;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::Net;
use trimaran_raft::{ClusterId, Incarnation, Limits, ReadSettings, Sabotage, Slot, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::client::{Client, ClientConfig};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::program::connect::{net_error, panicked, random_u128};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::port::{Between, PortPlan};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::r2p2::reassembly;
use trimaran_rpc::shards::ShardPlace;
use trimaran_runtime::{CoreConfig, Instant, now, sleep, spawn};

const NAME: &str = "failover";
/// A client of such a cluster asks the next server after so long without an answer: the usual wait is longer than its elections.
const PROBE: Duration = Duration::from_millis(1);
/// Between two looks at who leads.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Between a whole cluster and the next kill, in microseconds.
const REST_US: std::ops::Range<u64> = 5_000..15_000;
const RCVBUF_BYTES: usize = 1 << 20;
const REPLY_BYTES: usize = 1 << 20;

pub(super) fn run(bench: &BenchFailover) -> Result<Findings, Error> {
    let bench = bench.clone();
    let config = CoreConfig { name: "failover".into(), ..CoreConfig::default() };
    let signals = Signals::watch()?;
    PortPlan::default().run(config, &Between::default(), move |net| async move {
        let mut cluster = Cluster::start(net, bench.nodes, signals)?;
        cluster.form().await?;
        cluster.kill_again(&bench).await
    })
}

struct Cluster {
    net: Net,
    client: Client,
    /// Client and peer address of each slot.
    places: Vec<[SocketAddrV4; 2]>,
    nodes: Vec<Option<Node>>,
    signals: Signals,
}

/// Addresses of this machine that are free now.
fn free_places(count: u8) -> Result<Vec<[SocketAddrV4; 2]>, Error> {
    // All are held until the last is found, so that none is found twice.
    let mut held = Vec::new();
    let mut free = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| Error::io("find a free port", error))?;
        let address = socket.local_addr().map_err(|error| Error::io("find a free port", error))?;
        held.push(socket);
        match address {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => Err(failed("127.0.0.1 is an address of IPv6")),
        }
    };
    (0..count).map(|_| Ok([free()?, free()?])).collect()
}

impl Cluster {
    fn start(net: Net, count: u8, signals: Signals) -> Result<Cluster, Error> {
        let places = free_places(count)?;
        let servers = places.iter().map(|[client, _]| *client).collect();
        let config = ClientConfig { probe: PROBE, ..ClientConfig::default() };
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let client = Client::new(&net, local, servers, config).map_err(net_error)?;
        let nodes = places.iter().map(|_| None).collect();
        let mut cluster = Cluster { net, client, places, nodes, signals };
        (0..usize::from(count)).try_for_each(|at| cluster.boot(at))?;
        Ok(cluster)
    }

    /// Starts a node with an empty memory.
    fn boot(&mut self, at: usize) -> Result<(), Error> {
        let (Some(&[client, peer]), Some(seat)) = (self.places.get(at), self.nodes.get_mut(at)) else { return Ok(()) };
        let random = random_u128()?;
        let config = NodeConfig {
            cluster_name: NAME.into(),
            slot: Slot(u8::try_from(at + 1).unwrap_or(u8::MAX)),
            place: ShardPlace::ALONE,
            incarnation: Incarnation((random >> 64) as u64),
            client,
            peer,
            contacts: self.places.iter().map(|[_, peer]| *peer).collect(),
            timing: Timing::US,
            log_limits: Limits { log_bytes: 64 << 20, ..Limits::default() },
            request_limits: reassembly::Limits::default(),
            reply_bytes: REPLY_BYTES,
            queued_reads: 1024,
            reads: ReadSettings { patience: Timing::US.election_max, ..ReadSettings::default() },
            rcvbuf_bytes: RCVBUF_BYTES,
            router: None,
            seed: random as u64,
            sabotage: Sabotage::NONE,
        };
        let node = Node::start(&self.net, config, Kv::new(None));
        *seat = Some(node.map_err(|error| failed(format!("node {} does not start: {error}", at + 1)))?);
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddrV4> {
        self.places.iter().map(|[client, _]| *client).collect()
    }

    async fn form(&mut self) -> Result<(), Error> {
        let formed = admin::init(&self.client, NAME, &self.addresses(), ClusterId(random_u128()?), PATIENCE).await;
        formed.map_err(|error| failed(format!("no cluster is formed: {error}")))?;
        self.leader(now() + PATIENCE).await.map(drop)
    }

    /// The node that leads, in the highest term.
    fn leading(&self) -> Option<usize> {
        let leading = self.nodes.iter().enumerate().filter_map(|(at, node)| {
            let status = node.as_ref()?.shard();
            status.is_leader().then(|| (status.status().term, at))
        });
        leading.max().map(|(_, at)| at)
    }

    async fn leader(&self, give_up: Instant) -> Result<usize, Error> {
        loop {
            self.signals.check()?;
            match self.leading() {
                Some(at) => return Ok(at),
                None if now() >= give_up => return Err(failed(format!("no leader within {PATIENCE:?}"))),
                None => _ = sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Whether there is a leader, no change is under way, every voter is a node in its present life, and all of them know the same
    /// configuration and have applied what was committed. A leader killed before that may leave its cluster without a majority of
    /// those who still are in the configuration, which stays down by design.
    fn is_whole(&self) -> bool {
        let Some(leader) = self.leading().and_then(|at| self.nodes.get(at)?.as_ref()) else { return false };
        let leader = leader.shard().status();
        let config = &leader.configuration;
        let follows = |node: &Option<Node>| {
            let Some(status) = node.as_ref().map(|node| node.shard().status()) else { return false };
            let is_voter = config.voters.iter().any(|voter| voter.id == status.id);
            is_voter && status.configuration == *config && status.applied >= leader.commit
        };
        let is_settled = !leader.changing && !config.is_joint() && config.voters.len() == self.nodes.len();
        is_settled && self.nodes.iter().all(follows)
    }

    async fn whole(&self, give_up: Instant) -> Result<(), Error> {
        while !self.is_whole() {
            self.signals.check()?;
            if now() >= give_up {
                return Err(failed(format!("a node is no voter again {PATIENCE:?} after its start")));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn kill_again(&mut self, bench: &BenchFailover) -> Result<Findings, Error> {
        let puts = Puts::new(bench.seed);
        let measured = Rc::new(RefCell::new(load::Measured::default()));
        let load = spawn(load::run(self.client.clone(), puts.clone(), plan(bench), measured.clone()));
        let mut rng = Pcg64Mcg::seed_from_u64(bench.seed);
        let (mut outages, mut elections, mut repairs) = (Vec::new(), Vec::new(), Vec::new());
        let bar = progress(bench.kills);
        for _ in 0..bench.kills {
            self.whole(now() + PATIENCE).await?;
            sleep(Duration::from_micros(rng.random_range(REST_US))).await;
            // What the rest has undone, such as an election, is waited for.
            self.whole(now() + PATIENCE).await?;
            let leader = self.leader(now() + PATIENCE).await?;
            let killed_at = now();
            drop(self.nodes.get_mut(leader).and_then(Option::take));
            puts.borrow_mut().killed(killed_at);
            self.leader(killed_at + PATIENCE).await?;
            elections.push(now().saturating_since(killed_at));
            let outage = loop {
                if let Some(outage) = puts.borrow().outage() {
                    break outage;
                }
                self.signals.check()?;
                if now() >= killed_at + PATIENCE {
                    return Err(failed(format!("nothing is committed within {PATIENCE:?}")));
                }
                sleep(LOOK_EVERY).await;
            };
            outages.push(outage);
            bar.set_message(format!("{:.1} ms", outage.as_secs_f64() * 1e3));
            bar.inc(1);
            self.boot(leader)?;
            self.whole(now() + PATIENCE).await?;
            repairs.push(now().saturating_since(killed_at));
        }
        bar.finish_and_clear();
        puts.borrow_mut().is_over = true;
        load.await.and_then(|ended| ended).map_err(panicked)?;
        let puts = measured.take();
        Ok(Findings { outages, elections, repairs, puts, election_max: Timing::US.election_max, probe: Some(PROBE) })
    }
}
