//! Faults for a simulated cluster: each seed enables some kinds, at a strength of its own, and strikes with them at
//! random times. What each kind has done is counted, since a fault that never fired proves nothing.

use super::cluster::{Cluster, NodeIndex, node_ip};
use crate::r2p2::{Header, MessageType};
use crate::service::Service;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{FaultCounters, Link};
use trimaran_runtime::Instant;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)+ }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// The kind's name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)+ }
            }
        }
    };
}

kinds! {
    /// Datagrams vanish.
    Loss = "loss",
    /// Datagrams arrive twice: those between peers, and others where [`Chaos::duplicate_all`] allows it.
    Duplicate = "duplicate",
    /// Datagrams overtake others.
    Reorder = "reorder",
    /// Bits of peer datagrams flip.
    Corrupt = "corrupt",
    /// Peer datagrams are cut short.
    Truncate = "truncate",
    /// Links take longer than a heartbeat.
    Delay = "delay",
    /// The nodes fall apart into two groups.
    Partition = "partition",
    /// One node hears another but is not heard.
    OneWay = "one_way",
    /// Two nodes see each other only through a third.
    Bridge = "bridge",
    /// A client loses the leader, and only the leader.
    ClientCut = "client_cut",
    /// A node is killed.
    Kill = "kill",
    /// A killed node starts again, empty.
    Restart = "restart",
    /// A node stands still for up to three election timeouts.
    Pause = "pause",
    /// A node stands still for less than half an election timeout.
    ShortPause = "short_pause",
    /// A node's clock runs fast or slow.
    ClockRate = "clock_rate",
    /// A node's clock jumps ahead.
    ClockJump = "clock_jump",
}

/// How often each kind has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    /// How often one kind has struck.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &FaultCounts) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    pub(super) fn add_links(&mut self, faults: FaultCounters) {
        for (fault, count) in [
            (Fault::Loss, faults.lost),
            (Fault::Duplicate, faults.duplicated),
            (Fault::Reorder, faults.reordered),
            (Fault::Corrupt, faults.corrupted),
            (Fault::Truncate, faults.truncated),
        ] {
            self.add(fault, count);
        }
    }

    pub(super) fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }
}

/// Strikes a cluster with the faults that one seed has drawn.
pub struct Chaos {
    rng: Pcg64Mcg,
    enabled: Vec<Fault>,
    links: Link,
    clients: Vec<Ipv4Addr>,
    duplicates_all: bool,
    dead: Vec<NodeIndex>,
    every: Duration,
    next_strike: Instant,
    counts: FaultCounts,
}

impl Chaos {
    /// Draws which faults strike, how hard and how often.
    pub fn new(seed: u64, clients: Vec<Ipv4Addr>) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x0063_6861_6f73);
        let mut enabled = Fault::ALL.to_vec();
        enabled.shuffle(&mut rng);
        let kinds = rng.random_range(0..=enabled.len());
        enabled.truncate(kinds);
        let mut strength = |fault, most: f64| match enabled.contains(&fault) {
            true => most * rng.random::<f64>().powi(2),
            false => 0.0,
        };
        let mut links = Link {
            loss: strength(Fault::Loss, 0.3),
            duplicate: strength(Fault::Duplicate, 0.2),
            reorder: strength(Fault::Reorder, 0.3),
            corrupt: strength(Fault::Corrupt, 0.05),
            truncate: strength(Fault::Truncate, 0.05),
            ..Link::new(Duration::from_micros(20), Duration::from_micros(100))
        };
        links.reorder_delay = Duration::from_micros(rng.random_range(50..10_000));
        let every = Duration::from_millis(rng.random_range(30..400));
        Chaos {
            rng,
            enabled,
            links,
            clients,
            duplicates_all: false,
            dead: Vec::new(),
            every,
            next_strike: Instant::ZERO,
            counts: FaultCounts::default(),
        }
    }

    /// Lets client datagrams and forwarded requests arrive twice, too. Only for clients that give each write a session
    /// and a number: plain R2P2 has no identity for its requests, and a copy of one is another one.
    pub fn duplicate_all(mut self, allowed: bool) -> Self {
        self.duplicates_all = allowed;
        self
    }

    /// One more client that may be cut off.
    pub fn add_client(&mut self, client: Ipv4Addr) {
        self.clients.push(client);
    }

    /// Applies the links' own faults. Client datagrams are never corrupted or cut: plain R2P2 has no checksum beside UDP's.
    pub fn begin<S: Service>(&mut self, cluster: &Cluster<S>) {
        if !self.duplicates_all {
            // Raft's own may come twice whatever the clients are.
            cluster.network().set_duplicate_filter(Rc::new(|packet| {
                Header::parse(packet.data()).is_ok_and(|(header, _)| header.kind == MessageType::Peer)
            }));
        }
        self.set_links(cluster, self.links);
        self.next_strike = cluster.now() + self.pause();
    }

    fn pause(&mut self) -> Duration {
        self.every.mul_f64(0.5 + self.rng.random::<f64>())
    }

    fn set_links<S: Service>(&self, cluster: &Cluster<S>, links: Link) {
        let network = cluster.network();
        let duplicate = if self.duplicates_all { links.duplicate } else { 0.0 };
        network.set_default_link(Link { duplicate, corrupt: 0.0, truncate: 0.0, ..links });
        for (from, to) in pairs(cluster.nodes()) {
            network.set_link(node_ip(from), node_ip(to), links);
        }
    }

    /// Runs the cluster for `span`, striking now and then.
    pub fn run<S: Service>(&mut self, cluster: &mut Cluster<S>, span: Duration) {
        let end = cluster.now() + span;
        while cluster.now() < end && cluster.violation().is_none() {
            cluster.run_for(self.next_strike.min(end).saturating_since(cluster.now()));
            self.tick(cluster);
        }
    }

    /// Strikes if it is time to.
    pub fn tick<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        if cluster.now() >= self.next_strike {
            self.strike(cluster);
            self.next_strike = cluster.now() + self.pause();
        }
    }

    /// Ends every fault, restarts whom it killed, and counts what links have done since the network began.
    pub fn end<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        self.heal(cluster);
        self.counts.add_links(cluster.network().counters().faults);
    }

    /// Ends every fault, restarts whom it killed, and lets clocks run true again.
    pub(super) fn heal<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let network = cluster.network().clone();
        network.heal();
        for (from, to) in pairs(cluster.nodes()) {
            network.unblock(node_ip(from), node_ip(to));
        }
        for &client in &self.clients {
            for node in 0..cluster.nodes() {
                network.unblock(client, node_ip(node));
                network.unblock(node_ip(node), client);
            }
        }
        self.set_links(cluster, Link::new(Duration::from_micros(20), Duration::from_micros(100)));
        for node in 0..cluster.nodes() {
            let core = cluster.core(NodeIndex(node));
            cluster.world().set_clock_rate(core, 0);
        }
        for node in std::mem::take(&mut self.dead) {
            self.restart(cluster, node);
        }
    }

    /// How often each kind has struck; complete after [`Chaos::end`].
    pub fn counts(&self) -> &FaultCounts {
        &self.counts
    }

    /// The kinds that this seed may strike with.
    pub fn enabled(&self) -> &[Fault] {
        &self.enabled
    }

    fn strike<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let Some(&fault) = self.enabled.choose(&mut self.rng) else { return };
        let nodes = cluster.nodes();
        // Half of the strikes look for the leader, where they hurt most.
        let any = NodeIndex(self.rng.random_range(0..nodes));
        let target = match cluster.leader() {
            Some(leader) if self.rng.random() => leader,
            _ => any,
        };
        let other = NodeIndex((target.0 + self.rng.random_range(1..nodes.max(2))) % nodes);
        let network = cluster.network().clone();
        let struck = match fault {
            Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Corrupt | Fault::Truncate => {
                // Their strength changes with time; what they did is counted by the network.
                let calm = self.rng.random();
                let quiet = Link::new(self.links.delay_min, self.links.delay_max);
                self.set_links(cluster, if calm { quiet } else { self.links });
                false
            }
            Fault::Delay => {
                let delay = Duration::from_millis(self.rng.random_range(1..40));
                self.set_links(cluster, Link { delay_min: delay / 2, delay_max: delay, ..self.links });
                true
            }
            Fault::Partition => {
                let mut order: Vec<_> = (0..nodes).map(node_ip).collect();
                order.shuffle(&mut self.rng);
                let cut = self.rng.random_range(0..nodes);
                let (left, right) = order.split_at(cut);
                network.partition(&[left, right]);
                cut != 0
            }
            Fault::OneWay => self.toggle(&network, target, other),
            Fault::Bridge => {
                let blocked = self.toggle(&network, target, other);
                match blocked {
                    true => network.block(node_ip(other.0), node_ip(target.0)),
                    false => network.unblock(node_ip(other.0), node_ip(target.0)),
                }
                blocked
            }
            Fault::ClientCut => match self.clients.choose(&mut self.rng) {
                Some(&client) if self.rng.random() => {
                    network.block(client, node_ip(target.0));
                    network.block(node_ip(target.0), client);
                    true
                }
                Some(&client) => {
                    for node in 0..nodes {
                        network.unblock(client, node_ip(node));
                        network.unblock(node_ip(node), client);
                    }
                    false
                }
                None => false,
            },
            Fault::Kill if cluster.node(target).is_some() && cluster.can_lose(target) => {
                cluster.kill(target);
                self.dead.push(target);
                true
            }
            Fault::Restart if !self.dead.is_empty() => {
                let node = self.dead.swap_remove(self.rng.random_range(0..self.dead.len()));
                self.restart(cluster, node);
                false
            }
            Fault::Kill | Fault::Restart => false,
            Fault::Pause | Fault::ShortPause => {
                let longest_ms = if fault == Fault::Pause { 600 } else { 50 };
                let until = cluster.now() + Duration::from_millis(self.rng.random_range(1..longest_ms));
                let core = cluster.core(target);
                !self.dead.contains(&target) && {
                    cluster.world().pause(core, until);
                    true
                }
            }
            Fault::ClockRate => {
                let ppm = self.rng.random_range(-200_000..=200_000);
                let core = cluster.core(target);
                cluster.world().set_clock_rate(core, ppm);
                true
            }
            Fault::ClockJump => {
                let by = Duration::from_millis(self.rng.random_range(1..1_000));
                let core = cluster.core(target);
                cluster.world().jump_clock(core, by);
                true
            }
        };
        self.counts.add(fault, u64::from(struck));
    }

    /// Starts a node again, unless the caller has done so by hand.
    fn restart<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) {
        if cluster.node(node).is_none() {
            cluster.restart(node);
            self.counts.add(Fault::Restart, 1);
        }
    }

    /// Blocks one direction between two nodes, or opens it again; tells whether it is blocked now.
    fn toggle(&mut self, network: &trimaran_net::SimNet, from: NodeIndex, to: NodeIndex) -> bool {
        let block = from != to && self.rng.random();
        match block {
            true => network.block(node_ip(from.0), node_ip(to.0)),
            false => network.unblock(node_ip(from.0), node_ip(to.0)),
        }
        block
    }
}

pub(super) fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| (0..nodes).filter(move |&to| to != from).map(move |to| (from, to)))
}
