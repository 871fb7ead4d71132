//! What an operator does about a replica that applies nothing any more: starts its node again.

use super::{Chaos, Fault};
use crate::node::Node;
use crate::service::Service;
use crate::sim::cluster::{Cluster, NodeIndex};
use trimaran_raft::wal::Durability;

impl Chaos {
    /// Whether a disk may forget what was acknowledged. A replica that has halted and whose disk is full keeps what it has and takes nothing
    /// more: it and one that has forgotten are two of three, and only an operator can help.
    pub fn damages_disks<S: Service>(&self, cluster: &Cluster<S>) -> bool {
        use Fault::{DiskWipe, LogRot, LostWrite, Misdirect, PowerCut, SnapshotRot};
        let is_durable = cluster.durability() == Some(Durability::Durable);
        self.enabled.iter().any(|fault| match fault {
            DiskWipe | LogRot | LostWrite | Misdirect | SnapshotRot => true,
            PowerCut => !is_durable,
            _ => false,
        })
    }

    /// Starts a node again whose handlers have stopped, where nothing is lost by it at this moment; tells whether none is left.
    pub fn restart_halted<S: Service>(&mut self, cluster: &mut Cluster<S>) -> bool {
        if cluster.durability().is_some() {
            self.survey(cluster);
        }
        let has_halted = |node: NodeIndex| {
            (0..cluster.shards())
                .filter_map(|shard| cluster.replica(node, shard))
                .any(|node| Node::halted(node).is_some())
        };
        let halted: Vec<_> = (0..cluster.nodes()).map(NodeIndex).filter(|node| has_halted(*node)).collect();
        for node in &halted {
            if self.kill(cluster, *node) {
                self.dead.retain(|dead| dead != node);
                self.restart(cluster, *node);
                // Who comes back with nothing is to be whole before another one goes.
                return halted.len() == 1;
            }
        }
        halted.is_empty()
    }
}
