//! A cluster in words, for a report of what went wrong.

use super::fuse::Fused;
use trimaran_raft::Member;
use trimaran_rpc::node::Node;
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex};

/// How each node sees things, for a report.
pub(super) fn views(cluster: &Cluster<Fused>) -> String {
    let nodes = (0..cluster.nodes()).filter_map(|index| cluster.node(NodeIndex(index)).map(|node| (index, node)));
    let view = |(index, node): (usize, &Node)| {
        let status = node.shard().status();
        let leader = status.leader.map_or(0, |leader| leader.id.slot.0);
        let peers =
            status.peers.iter().map(|peer| format!(" {}:{:?}@{}", peer.member.id.slot.0, peer.state, peer.matched));
        let ids = |members: &[Member]| members.iter().map(|member| format!(" {}", member.id)).collect::<String>();
        let config = &status.configuration;
        let mut config =
            format!("voters{}, old{}, learners{}", ids(&config.voters), ids(&config.old_voters), ids(&config.learners));
        for (what, at) in [("damaged to", status.damaged), ("wrong at", status.fenced)] {
            config.extend(at.map(|at| format!(", {what} {at}")));
        }
        format!(
            "\n  node {} is {}: {:?} in term {}, follows {leader}, log {}..{} of {} bytes, commit {}, applied {}, hears {} of {}; {config};{} {:?}",
            index + 1,
            status.id,
            status.role,
            status.term,
            status.first,
            status.last,
            status.log_bytes,
            status.commit,
            status.applied,
            status.reachable,
            status.total,
            peers.collect::<String>(),
            node.shard().with_storage(|storage| format!("{storage:?}"))
        )
    };
    nodes.map(view).collect()
}
