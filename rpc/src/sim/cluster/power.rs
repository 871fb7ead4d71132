//! The machines below a cluster's nodes: their power, and their disks.

use super::{Cluster, NodeIndex};
use crate::service::Service;
use crate::sim::disks::Beside;
use trimaran_raft::wal::{Durability, Map};
use trimaran_runtime::sim::disk::SimDisk;

impl<S: Service> Cluster<S> {
    /// The power of these nodes' machines is lost at one moment: what was not durable on their disks is gone, or a part of it.
    pub fn power_cut(&mut self, nodes: &[NodeIndex]) {
        for &node in nodes {
            if let Some(disks) = &mut self.disks {
                disks.power_cut(node);
            }
            self.kill(node);
            if self.durability() == Some(Durability::Buffered) {
                self.seats[node.0].asleep = None;
            }
        }
    }

    /// Ends a node and puts an empty disk into its machine.
    pub fn wipe(&mut self, node: NodeIndex) {
        self.kill(node);
        self.seats[node.0].asleep = None;
        if let Some(disks) = &mut self.disks {
            disks.wipe(node);
        }
    }

    /// What an acknowledgement of these nodes survives; `None` where they have no disks.
    pub fn durability(&self) -> Option<Durability> {
        self.disks.as_ref().map(|disks| disks.plan().settings.durability)
    }

    /// Records that a node's log has under way at most; 0 without disks.
    pub(in crate::sim) fn log_window(&self) -> usize {
        self.disks.as_ref().map_or(0, |disks| disks.plan().settings.window)
    }

    /// What is whole on a node's disk; `None` where it has none, or nothing can be told.
    pub(in crate::sim) fn map(&self, node: NodeIndex) -> Option<Map> {
        Map::of(&Beside(self.disk(node)?)).ok()
    }

    /// The disk of a node's machine, for faults; `None` where nodes have none.
    pub fn disk(&self, node: NodeIndex) -> Option<&SimDisk> {
        self.disks.as_ref().map(|disks| disks.disk(node))
    }
}
