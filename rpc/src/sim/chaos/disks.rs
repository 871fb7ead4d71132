//! Faults of disks and of power, and the atlas that keeps them fair.
//!
//! Whatever strikes, what was acknowledged must stay repairable: a majority of every configuration that may yet decide has disks on
//! which all is whole. The atlas knows who is not among them:
//! * **damaged**: something that counts is not on the disk any more. Such a node starts with what is left and fetches the rest; it counts
//!   again once it was started and has all that is committed.
//! * **exposed**: a write was lost or went elsewhere, and nothing on the disk would tell so yet. What was acknowledged last is
//!   forgotten by such a disk without a trace, as by one that has rotted in its newest record: no log can notice that. So its
//!   node is not ended before later records have been written that name the missing one.

use super::{Chaos, Fault, Later};
use crate::service::Service;
use crate::sim::cluster::{Cluster, NodeIndex, has_majority};
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::time::Duration;
use trimaran_raft::wal::Durability;
use trimaran_raft::{LogIndex, NodeId};
use trimaran_runtime::Instant;
use trimaran_runtime::sim::disk::DiskFaults;

/// So long a node has to have everything again before it counts as whole: what it knows is then on its disk.
const WHOLE_FOR: Duration = Duration::from_millis(200);
/// A node that must not be ended yet is looked at again after this.
const LATER: Duration = Duration::from_millis(50);
/// Newest records among which rot strikes every other time: older ones are mostly in a snapshot.
const RECENT: usize = 64;
/// Rotten records of one strike at most.
const ROTTEN_MAX: u32 = 3;

#[derive(Debug, Clone, Copy)]
struct Damaged {
    node: NodeIndex,
    id: NodeId,
    /// The life in which it was damaged, and the losses of power before.
    life: u64,
    /// It is seen only after a loss of power, of which there had been so many.
    power_cuts: Option<u64>,
    whole_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Exposed {
    node: NodeIndex,
    life: u64,
    /// The disk must be able to tell that a record of this number is missing.
    notices: u64,
}

/// Which disks are not whole.
#[derive(Debug, Default)]
pub(super) struct Atlas {
    damaged: Vec<Damaged>,
    exposed: Vec<Exposed>,
}

impl Atlas {
    pub(super) fn is_damaged(&self, id: NodeId) -> bool {
        self.damaged.iter().any(|damaged| damaged.id == id)
    }
}

impl Chaos {
    /// Tells whether it has struck; what is counted by the disks themselves is not counted here.
    pub(super) fn strike_disks<S: Service>(&mut self, cluster: &mut Cluster<S>, fault: Fault, node: NodeIndex) -> bool {
        let Some(durability) = cluster.durability() else { return false };
        self.survey(cluster);
        if cluster.node(node).is_none() || self.is_exposed(node) {
            return false;
        }
        let is_durable = durability == Durability::Durable;
        let Some(disk) = cluster.disk(node).cloned() else { return false };
        let faults = disk.faults();
        match fault {
            Fault::PowerCut => return (is_durable || self.may_damage(cluster, node)) && self.power_cut(cluster, node),
            Fault::Blackout => return is_durable && self.blackout(cluster),
            Fault::DiskWipe => {
                let is_fair = self.may_damage(cluster, node);
                if is_fair {
                    cluster.wipe(node);
                    self.dead.push(node);
                    self.power_back(cluster, node);
                }
                return is_fair;
            }
            Fault::LogRot | Fault::SnapshotRot if is_durable => {
                let struck = self.may_damage(cluster, node)
                    && if fault == Fault::LogRot {
                        self.rot_log(cluster, node)
                    } else {
                        self.rot_snapshot(cluster, node)
                    };
                if struck {
                    self.damage(cluster, node, false);
                }
                return struck;
            }
            // The other copy has all that counts.
            Fault::SuperblockRot if is_durable => {
                let whole = cluster.map(node).is_some_and(|map| map.superblocks == [true, true]);
                let byte = self.rng.random_range(0..90) + 4096 * self.rng.random_range(0..2);
                return whole && disk.rot("superblock", byte, self.rng.random_range(0..8)).is_ok();
            }
            // A node whose disk reports errors ends by itself, exposed or not.
            Fault::Misdirect | Fault::LostWrite if faults.write_error > 0.0 || faults.sync_error > 0.0 => {}
            Fault::Misdirect | Fault::LostWrite if is_durable && self.may_damage(cluster, node) => {
                match fault {
                    Fault::Misdirect => disk.misdirect_next_write(),
                    _ => disk.lose_next_write(),
                }
                self.damage(cluster, node, fault == Fault::LostWrite);
                self.expose(cluster, node);
            }
            Fault::DiskError => {
                let is_write = self.rng.random();
                disk.set_faults(match is_write {
                    true => DiskFaults { write_error: 1.0, ..faults },
                    false => DiskFaults { sync_error: 1.0, ..faults },
                });
                self.mend_later(cluster, node, 50..500);
            }
            Fault::DiskStall => disk.stall(self.some_ms(10..3_000) * self.disk_patience),
            Fault::DiskSlow => {
                let slow_delay = self.some_ms(1..20);
                disk.set_faults(DiskFaults { slow: 0.5, slow_delay, ..faults });
                self.mend_later(cluster, node, 50..1_000);
            }
            Fault::DiskFull => {
                let space_bytes = disk.used_bytes() + self.rng.random_range(0..64 << 10);
                disk.set_faults(DiskFaults { space_bytes, ..faults });
                let at = cluster.now() + self.some_ms(200..2_000) * self.disk_patience;
                self.later.push((at, Later::MendDisk(node)));
            }
            _ => {}
        }
        false
    }

    /// What the disks have counted.
    pub(super) fn count_disks<S: Service>(&mut self, cluster: &Cluster<S>) {
        for node in (0..cluster.nodes()).map(NodeIndex) {
            let Some(disk) = cluster.disk(node) else { return };
            let seen = disk.counters();
            for (fault, count) in [
                (Fault::DiskError, seen.write_errors + seen.sync_errors),
                (Fault::DiskStall, seen.stalls),
                (Fault::DiskSlow, seen.slowed),
                (Fault::DiskFull, seen.no_space),
                (Fault::Misdirect, seen.misdirected),
                (Fault::LostWrite, seen.lost_syncs),
                (Fault::TornWrite, seen.torn_writes),
                (Fault::UnsyncedLoss, seen.lost_writes + seen.torn_writes),
                (Fault::LostName, seen.lost_names),
            ] {
                self.counts.add(fault, count);
            }
        }
    }

    /// Nodes that have ended by themselves, since their disks failed, are dead like others.
    pub(super) fn find_dead<S: Service>(&mut self, cluster: &Cluster<S>) {
        if cluster.durability().is_some() {
            let down = (0..cluster.nodes()).map(NodeIndex).filter(|node| cluster.node(*node).is_none());
            let new: Vec<_> = down.filter(|node| !self.dead.contains(node)).collect();
            self.dead.extend(new);
        }
    }

    /// Every disk answers and has room again. Who was damaged is started anew, so that it has to be repaired.
    pub(super) fn heal_disks<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        if cluster.durability().is_none() {
            return;
        }
        self.find_dead(cluster);
        self.survey(cluster);
        for node in (0..cluster.nodes()).map(NodeIndex) {
            self.mend(cluster, node);
        }
        for Damaged { node, life, .. } in self.atlas.damaged.clone() {
            if cluster.life(node) == life && cluster.node(node).is_some() && !self.is_exposed(node) {
                self.power_cut(cluster, node);
            }
        }
    }

    pub(super) fn mend<S: Service>(&self, cluster: &Cluster<S>, node: NodeIndex) {
        if let Some(disk) = cluster.disk(node) {
            disk.set_faults(DiskFaults::default());
            disk.end_stall();
        }
    }

    /// The end of a node would make its disk forget what nobody would miss.
    pub(super) fn is_exposed(&self, node: NodeIndex) -> bool {
        self.atlas.exposed.iter().any(|exposed| exposed.node == node)
    }

    pub(super) fn power_cut<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) -> bool {
        cluster.power_cut(&[node]);
        self.dead.push(node);
        self.power_back(cluster, node);
        true
    }

    /// Ends a damaged node soon, so that the damage is met.
    pub(super) fn power_cycle<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) {
        self.survey(cluster);
        if self.is_exposed(node) {
            self.later.push((cluster.now() + LATER, Later::PowerCycle(node)));
        } else if cluster.node(node).is_some() {
            self.power_cut(cluster, node);
            self.counts.add(Fault::PowerCut, 1);
        }
    }

    fn blackout<S: Service>(&mut self, cluster: &mut Cluster<S>) -> bool {
        let up: Vec<_> = (0..cluster.nodes()).map(NodeIndex).filter(|node| cluster.node(*node).is_some()).collect();
        let is_fair = up.len() > 1 && !up.iter().any(|node| self.is_exposed(*node));
        if is_fair {
            cluster.power_cut(&up);
            self.dead.extend(&up);
            up.iter().for_each(|node| self.power_back(cluster, *node));
        }
        is_fair
    }

    fn power_back<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex) {
        let at = cluster.now() + self.some_ms(0..500);
        self.later.push((at, Later::PowerBack(node)));
    }

    fn mend_later<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex, span_ms: std::ops::Range<u64>) {
        let at = cluster.now() + self.some_ms(span_ms);
        self.later.push((at, Later::MendDisk(node)));
    }

    /// Records whose loss a durable one gives away.
    fn rot_log<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex) -> bool {
        let (Some(map), Some(disk)) = (cluster.map(node), cluster.disk(node)) else { return false };
        let noticed = map.noticed_up_to(cluster.log_window());
        let mut records: Vec<_> = map.records.iter().filter(|record| record.sequence <= noticed).collect();
        if self.rng.random() {
            records.drain(..records.len().saturating_sub(RECENT));
        }
        let mut struck = false;
        for _ in 0..self.rng.random_range(1..=ROTTEN_MAX) {
            let Some(record) = records.choose(&mut self.rng) else { continue };
            let byte = record.offset + self.rng.random_range(0..record.bytes);
            struck |= disk.rot(&record.name, byte, self.rng.random_range(0..8)).is_ok();
        }
        struck
    }

    fn rot_snapshot<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex) -> bool {
        let (Some(map), Some(disk)) = (cluster.map(node), cluster.disk(node)) else { return false };
        let Some(name) = map.snapshots.first() else { return false };
        let bytes = disk.list().iter().find(|file| file.name == *name).map_or(0, |file| file.bytes);
        bytes > 0 && disk.rot(name, self.rng.random_range(0..bytes), self.rng.random_range(0..8)).is_ok()
    }

    /// Whether what was acknowledged survives what this node's disk forgets from now on.
    fn may_damage<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) -> bool {
        self.forget_target(cluster);
        let Some(own) = id_of(cluster, node) else { return false };
        let mut whole = cluster.living();
        whole.retain(|id| *id != own && !self.atlas.is_damaged(*id));
        cluster.configurations().iter().chain(&self.target).all(|config| has_majority(config, &whole))
    }

    fn damage<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex, hides: bool) {
        let Some(id) = id_of(cluster, node) else { return };
        let power_cuts = cluster.disk(node).filter(|_| hides).map(|disk| disk.counters().power_cuts);
        let life = cluster.life(node);
        self.atlas.damaged.push(Damaged { node, id, life, power_cuts, whole_since: None });
        if self.rng.random_range(0..4) > 0 {
            let soon = cluster.now() + self.some_ms(0..500);
            self.later.push((soon, Later::PowerCycle(node)));
        }
    }

    fn expose<S: Service>(&mut self, cluster: &Cluster<S>, node: NodeIndex) {
        let newest = cluster.map(node).and_then(|map| map.records.last().map(|record| record.sequence)).unwrap_or(0);
        // The one after those under way.
        let notices = newest + 1 + cluster.log_window() as u64;
        self.atlas.exposed.push(Exposed { node, life: cluster.life(node), notices });
    }

    /// Who is whole again, and whose disk would notice by now.
    pub(super) fn survey<S: Service>(&mut self, cluster: &Cluster<S>) {
        self.atlas.exposed.retain(|exposed| {
            let noticed = cluster.map(exposed.node).map_or(0, |map| map.noticed_up_to(cluster.log_window()));
            cluster.life(exposed.node) == exposed.life && noticed < exposed.notices
        });
        let (now, committed) = (cluster.now(), LogIndex(cluster.invariants().committed()));
        self.atlas.damaged.retain_mut(|damaged| {
            let node = damaged.node;
            let is_whole = cluster.node(node).is_some_and(|node| {
                node.shard().with_machine(|machine| {
                    machine.damage().is_none() && machine.applied_index() >= committed && machine.durable() >= committed
                })
            });
            let cuts = cluster.disk(node).map_or(0, |disk| disk.counters().power_cuts);
            let was_met = cluster.life(node) > damaged.life && damaged.power_cuts.is_none_or(|before| cuts > before);
            if !is_whole || !was_met {
                damaged.whole_since = None;
                // Another life of this seat has promised nothing of it.
                return id_of(cluster, node).is_none_or(|id| id == damaged.id);
            }
            now.saturating_since(*damaged.whole_since.get_or_insert(now)) < WHOLE_FOR
        });
    }
}

fn id_of<S: Service>(cluster: &Cluster<S>, node: NodeIndex) -> Option<NodeId> {
    cluster.node(node).map(|node| node.shard().with_machine(|machine| machine.me().id))
}
