//! Faults of links: what they do to datagrams, who reaches whom, and what nobody has sent.

use super::{Chaos, Fault, Later, pairs};
use crate::service::Service;
use crate::sim::cluster::{CLIENT_PORT, Cluster, NodeIndex, PEER_PORT, node_ip};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_net::{Link, Packet, Priority, SimNet};

/// The longest datagram of noise.
const NOISE_BYTES: usize = 200;
/// With which every R2P2 packet begins.
const FIRST_BYTE: u8 = 0xCC;

impl Chaos {
    pub(super) fn set_links<S: Service>(&self, cluster: &Cluster<S>, links: Link) {
        let network = cluster.network();
        let duplicate = if self.duplicates_all { links.duplicate } else { 0.0 };
        network.set_default_link(Link { duplicate, corrupt: 0.0, truncate: 0.0, ..links });
        for (from, to) in pairs(cluster.nodes()) {
            network.set_link(node_ip(from), node_ip(to), links);
        }
    }

    /// Tells whether it has struck.
    pub(super) fn strike_network<S: Service>(
        &mut self,
        cluster: &mut Cluster<S>,
        fault: Fault,
        target: NodeIndex,
    ) -> bool {
        let nodes = cluster.nodes();
        let other = NodeIndex((target.0 + self.rng.random_range(1..nodes.max(2))) % nodes);
        let network = cluster.network().clone();
        match fault {
            Fault::Loss | Fault::LargeLoss | Fault::Duplicate | Fault::Reorder | Fault::Corrupt | Fault::Truncate => {
                // Their strength changes with time; what they did is counted by the network.
                let calm = self.rng.random();
                let quiet = Link::new(self.links.delay_min, self.links.delay_max);
                self.set_links(cluster, if calm { quiet } else { self.links });
                false
            }
            Fault::Delay => {
                let delay = self.some_ms(1..40);
                self.set_links(cluster, Link { delay_min: delay / 2, delay_max: delay, ..self.links });
                true
            }
            Fault::Partition => {
                let order = self.order(nodes);
                let cut = self.rng.random_range(0..nodes);
                let (left, right) = order.split_at(cut);
                network.partition(&[left, right]);
                cut != 0
            }
            Fault::Chain => {
                let order = self.order(nodes);
                let links: Vec<&[Ipv4Addr]> = order.windows(2).collect();
                network.partition(&links);
                nodes > 2
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
            Fault::Flap => {
                let mut at = cluster.now();
                for _ in 0..self.rng.random_range(4..30) {
                    for up in [false, true] {
                        self.later.push((at, Later::Link { from: target, to: other, up }));
                        at += self.some_ms(1..80);
                    }
                }
                target != other
            }
            Fault::LongCut => {
                self.isolate(cluster, target, true);
                let until = cluster.now() + self.some_ms(600..3_000);
                self.later.push((until, Later::Join(target)));
                true
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
            Fault::Replay => {
                (0..self.rng.random_range(1..60)).fold(false, |any, _| network.replay(cluster.now(), None) || any)
            }
            Fault::Spoof => (0..self.rng.random_range(1..60)).fold(false, |any, _| {
                let source = self.stranger(nodes);
                network.replay(cluster.now(), Some(source)) || any
            }),
            Fault::Flood => {
                let mut arrived = false;
                for _ in 0..self.rng.random_range(100..800) {
                    if let Some(noise) = self.noise(nodes, target) {
                        arrived |= network.inject(cluster.now(), noise);
                    }
                }
                arrived
            }
            _ => false,
        }
    }

    fn order(&mut self, nodes: usize) -> Vec<Ipv4Addr> {
        let mut order: Vec<_> = (0..nodes).map(node_ip).collect();
        order.shuffle(&mut self.rng);
        order
    }

    /// An address that is no client's: an answer to a call that somebody else has sent would be taken for that of one's own.
    fn stranger(&mut self, nodes: usize) -> SocketAddrV4 {
        let node = node_ip(self.rng.random_range(0..nodes));
        let ip = *[node, Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED]
            .choose(&mut self.rng)
            .unwrap_or(&node);
        let port = *[CLIENT_PORT, PEER_PORT, 0, 40_000].choose(&mut self.rng).unwrap_or(&0);
        SocketAddrV4::new(ip, port)
    }

    fn noise(&mut self, nodes: usize, target: NodeIndex) -> Option<Packet> {
        let mut packet = Packet::alloc(Priority::Normal)?;
        let mut bytes = [0u8; NOISE_BYTES];
        self.rng.fill(&mut bytes[..]);
        if self.rng.random() {
            // So that some of it is looked at more closely.
            bytes[0] = FIRST_BYTE;
        }
        let len = self.rng.random_range(0..=NOISE_BYTES);
        packet.extend_from_slice(&bytes[..len]).ok()?;
        packet.set_src(self.stranger(nodes));
        let port = if self.rng.random() { CLIENT_PORT } else { PEER_PORT };
        packet.set_dst(SocketAddrV4::new(node_ip(target.0), port));
        Some(packet)
    }

    /// Cuts a node off from every other and from all clients, or joins it to them again.
    pub(super) fn isolate<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex, apart: bool) {
        let network = cluster.network();
        let others = (0..cluster.nodes()).filter(|other| *other != node.0).map(node_ip);
        for other in others.chain(self.clients.iter().copied()) {
            for (from, to) in [(node_ip(node.0), other), (other, node_ip(node.0))] {
                match apart {
                    true => network.block(from, to),
                    false => network.unblock(from, to),
                }
            }
        }
    }

    /// Blocks one direction between two nodes, or opens it again; tells whether it is blocked now.
    fn toggle(&mut self, network: &SimNet, from: NodeIndex, to: NodeIndex) -> bool {
        let block = from != to && self.rng.random();
        match block {
            true => network.block(node_ip(from.0), node_ip(to.0)),
            false => network.unblock(node_ip(from.0), node_ip(to.0)),
        }
        block
    }

    /// Cuts two nodes off from each other for a while.
    pub(super) fn cut_between<S: Service>(&mut self, cluster: &Cluster<S>, from: NodeIndex, to: NodeIndex) {
        let now = cluster.now();
        self.later.push((now, Later::Link { from, to, up: false }));
        let span: Duration = self.some_ms(20..400);
        self.later.push((now + span, Later::Link { from, to, up: true }));
    }
}
