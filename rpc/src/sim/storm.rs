//! Strikes a cluster with the faults that a test has asked for.

use super::chaos::{Chaos, Fault, FaultCounts, pairs};
use super::cluster::{Cluster, NodeIndex, node_ip};
use super::faults::Faults;
use super::net::Net;
use crate::service::Service;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;
use trimaran_runtime::Instant;

/// How long a killed node stays down, in milliseconds.
const DOWN_MS: Range<u64> = 100..600;
/// How long a partition lasts, in milliseconds: from less than an election timeout to more than two.
const CUT_MS: Range<u64> = 50..500;

/// The faults of one cluster, and what they have done so far.
pub(super) struct Storm {
    rng: Pcg64Mcg,
    seed: u64,
    faults: Faults,
    clients: Vec<Ipv4Addr>,
    swarm: Option<Chaos>,
    next_strike: Instant,
    down: Vec<(NodeIndex, Instant)>,
    /// Until when some nodes are cut off.
    cut_until: Option<Instant>,
    counts: FaultCounts,
}

impl Storm {
    pub(super) fn new(seed: u64) -> Storm {
        Storm {
            rng: Pcg64Mcg::seed_from_u64(seed ^ 0x0073_746f_726d),
            seed,
            faults: Faults::none(),
            clients: Vec::new(),
            swarm: None,
            next_strike: Instant::ZERO,
            down: Vec::new(),
            cut_until: None,
            counts: FaultCounts::default(),
        }
    }

    /// Every client so far.
    pub(super) fn clients(&self) -> &[Ipv4Addr] {
        &self.clients
    }

    /// Strikes with these from now on.
    pub(super) fn set_faults(&mut self, now: Instant, faults: Faults) {
        self.faults = faults;
        self.next_strike = now + self.wait();
    }

    pub(super) fn add_client(&mut self, client: Ipv4Addr) {
        self.clients.push(client);
        if let Some(swarm) = &mut self.swarm {
            swarm.add_client(client);
        }
    }

    /// Ends what has lasted long enough, and strikes if it is time to and `strikes` allows it. To be called after every step.
    pub(super) fn tick<S: Service>(&mut self, cluster: &mut Cluster<S>, strikes: bool) {
        let now = cluster.now();
        if self.cut_until.is_some_and(|until| now >= until) {
            cluster.network().partition(&[]);
            self.cut_until = None;
        }
        if let Some(place) = self.down.iter().position(|(_, until)| now >= *until) {
            let (node, _) = self.down.swap_remove(place);
            self.restart(cluster, node);
        }
        if !strikes {
            return;
        }
        if self.faults.swarm {
            let (seed, clients) = (self.seed, &self.clients);
            let swarm = self.swarm.get_or_insert_with(|| {
                let mut swarm = Chaos::new(seed, clients.clone()).duplicate_all(true);
                swarm.begin(cluster);
                swarm
            });
            swarm.tick(cluster);
        }
        if now >= self.next_strike {
            self.strike(cluster);
            self.next_strike = now + self.wait();
        }
    }

    fn wait(&mut self) -> Duration {
        self.faults.every.mul_f64(0.5 + self.rng.random::<f64>())
    }

    fn some_ms(&mut self, span: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(span))
    }

    fn strike<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let Some(&fault) = self.faults.kinds().choose(&mut self.rng) else { return };
        let now = cluster.now();
        let any = NodeIndex(self.rng.random_range(0..cluster.nodes()));
        let struck = match fault {
            Fault::Kill => self.kill(cluster, any),
            Fault::Partition => self.cut(cluster),
            Fault::Pause => {
                let longest = self.faults.longest_pause.unwrap_or_default();
                let core = cluster.core(any);
                cluster.world().pause(core, now + longest.mul_f64(self.rng.random()));
                cluster.node(any).is_some()
            }
            Fault::ClockRate => {
                let most = i32::try_from(self.faults.drift_ppm).unwrap_or(i32::MAX);
                let (core, ppm) = (cluster.core(any), self.rng.random_range(-most..=most));
                cluster.world().set_clock_rate(core, ppm);
                true
            }
            _ => false,
        };
        self.counts.add(fault, u64::from(struck));
    }

    fn kill<S: Service>(&mut self, cluster: &mut Cluster<S>, any: NodeIndex) -> bool {
        let leader = self.faults.crash_leader && (!self.faults.crash_any || self.rng.random());
        let Some(target) = (if leader { cluster.leader() } else { Some(any) }) else { return false };
        let is_harmless = cluster.node(target).is_some() && cluster.can_lose(target);
        if is_harmless {
            cluster.kill(target);
            let until = cluster.now() + self.some_ms(DOWN_MS);
            self.down.push((target, until));
        }
        is_harmless
    }

    /// Cuts some nodes off; every other node and all clients stay together.
    fn cut<S: Service>(&mut self, cluster: &Cluster<S>) -> bool {
        if self.cut_until.is_some() || self.faults.partition >= cluster.nodes() {
            return false;
        }
        let mut order: Vec<_> = (0..cluster.nodes()).map(node_ip).collect();
        order.shuffle(&mut self.rng);
        let (apart, rest) = order.split_at(self.faults.partition);
        let rest: Vec<_> = rest.iter().chain(&self.clients).copied().collect();
        cluster.network().partition(&[apart, &rest]);
        self.cut_until = Some(cluster.now() + self.some_ms(CUT_MS));
        true
    }

    fn restart<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) {
        // The test may have done so by hand.
        if cluster.node(node).is_none() {
            cluster.restart(node);
            self.counts.add(Fault::Restart, 1);
        }
    }

    /// Ends every fault at once: whom it killed starts again, partitions, blocks and pauses end, clocks run true, and links
    /// are as `net` says.
    pub(super) fn end<S: Service>(&mut self, cluster: &mut Cluster<S>, net: &Net) {
        if let Some(mut swarm) = self.swarm.take() {
            swarm.heal(cluster);
            self.counts.merge(swarm.counts());
        }
        let network = cluster.network().clone();
        network.heal();
        self.cut_until = None;
        let now = cluster.now();
        for node in (0..cluster.nodes()).map(NodeIndex) {
            let core = cluster.core(node);
            cluster.world().pause(core, now);
            cluster.world().set_clock_rate(core, 0);
        }
        for (node, _) in std::mem::take(&mut self.down) {
            self.restart(cluster, node);
        }
        set_net(cluster, net);
    }

    /// What has struck so far, but for what links do by themselves.
    pub(super) fn counts(&self) -> FaultCounts {
        let mut counts = self.counts;
        if let Some(swarm) = &self.swarm {
            counts.merge(swarm.counts());
        }
        counts
    }
}

/// Gives every link the faults that the test has asked for.
pub(super) fn set_net<S: Service>(cluster: &Cluster<S>, net: &Net) {
    let (network, link) = (cluster.network(), net.link());
    network.set_default_link(link);
    for (from, to) in pairs(cluster.nodes()) {
        network.set_link(node_ip(from), node_ip(to), link);
    }
}
