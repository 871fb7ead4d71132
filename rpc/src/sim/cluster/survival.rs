//! Who is up, and whether what is up is enough: a majority of every configuration that may yet decide, in every shard.

use super::{Cluster, NodeIndex};
use crate::node::Node;
use crate::service::Service;
use trimaran_raft::{Configuration, LogIndex, Member, NodeId};

impl<S: Service> Cluster<S> {
    /// The nodes that are up, each in its present life, as they are called in shard 0.
    pub fn living(&self) -> Vec<NodeId> {
        self.living_in(0)
    }

    fn living_in(&self, shard: u16) -> Vec<NodeId> {
        self.replicas(shard).map(|node| node.shard().with_machine(|machine| machine.me().id)).collect()
    }

    /// The replicas of a shard that are up.
    fn replicas(&self, shard: u16) -> impl Iterator<Item = &Node> {
        self.seats.iter().filter_map(move |seat| seat.shards.get(usize::from(shard)))
    }

    /// The node that is up and has this identity in one of its shards.
    pub fn seat_of(&self, id: NodeId) -> Option<NodeIndex> {
        let is = |node: &Node| node.shard().with_machine(|machine| machine.me().id == id);
        self.seats.iter().position(|seat| seat.shards.iter().any(is)).map(NodeIndex)
    }

    /// The newest configuration that a living node knows to be committed, and all newer ones in their logs: those that may
    /// yet decide. Of a node that was taken out long ago nothing is left in it. Those of shard 0.
    pub fn configurations(&self) -> Vec<Configuration> {
        self.configurations_in(0)
    }

    fn configurations_in(&self, shard: u16) -> Vec<Configuration> {
        let known = |node: &Node| {
            node.shard().with_machine(|machine| {
                let at = machine.configuration_index();
                (at, at <= machine.commit(), machine.configuration().clone())
            })
        };
        let known: Vec<_> = self.replicas(shard).map(known).collect();
        let committed = known.iter().filter(|(_, committed, _)| *committed).map(|(at, ..)| *at);
        let newest = committed.max().unwrap_or(LogIndex::ZERO);
        known.into_iter().filter(|(at, ..)| *at >= newest).map(|(.., config)| config).collect()
    }

    /// Whether the cluster can go on with nothing lost when this node is killed now. A node that lost its memory is a voter
    /// again only when its new life was taken in, so what counts is not who is up but which voters still are: a majority of
    /// every configuration that may yet decide must remain, in every shard.
    pub fn can_lose(&self, node: NodeIndex) -> bool {
        self.can_lose_under(node, &[])
    }

    /// As [`Cluster::can_lose`], where the voters of shard 0 may also become those of `planned`.
    pub fn can_lose_under(&self, node: NodeIndex, planned: &[Configuration]) -> bool {
        (0..self.config.shards).all(|shard| {
            let id = self.replica(node, shard).map(|node| node.shard().with_machine(|machine| machine.me().id));
            let remain: Vec<_> = self.living_in(shard).into_iter().filter(|other| Some(*other) != id).collect();
            let planned = if shard == 0 { planned } else { &[] };
            self.configurations_in(shard).iter().chain(planned).all(|config| has_majority(config, &remain))
        })
    }

    /// Whether a majority of the voters of every configuration that may yet decide is up and remembers, in every shard.
    pub fn has_quorum(&self) -> bool {
        (0..self.config.shards).all(|shard| {
            let living = self.living_in(shard);
            self.configurations_in(shard).iter().all(|config| has_majority(config, &living))
        })
    }

    /// Whether there is a leader, no change is under way, every voter is up, and all of them know the same configuration and
    /// have applied what it has: nothing is left to heal, in any shard.
    pub fn is_whole(&self) -> bool {
        (0..self.config.shards).all(|shard| self.is_whole_in(shard))
    }

    fn is_whole_in(&self, shard: u16) -> bool {
        let Some(leader) = self.leader_of(shard).and_then(|leader| self.replica(leader, shard)) else { return false };
        let (config, commit, changing) = leader
            .shard()
            .with_machine(|machine| (machine.configuration().clone(), machine.commit(), machine.is_changing()));
        // Where a node has its configuration from, the log or a snapshot, makes no difference.
        let follows = |voter: &Member| {
            let node = self.seat_of(voter.id).and_then(|node| self.replica(node, shard));
            node.is_some_and(|node| {
                node.shard()
                    .with_machine(|machine| *machine.configuration() == config && machine.applied_index() >= commit)
            })
        };
        !changing && !config.is_joint() && config.voters.iter().all(follows)
    }
}

fn has_majority(config: &Configuration, living: &[NodeId]) -> bool {
    let majority = |voters: &[Member]| {
        let left = voters.iter().filter(|voter| living.contains(&voter.id)).count();
        voters.is_empty() || left > voters.len() / 2
    };
    majority(&config.voters) && majority(&config.old_voters)
}
