//! Who is up, and whether what is up is enough: a majority of every configuration that may yet decide, in every shard.

use super::{Cluster, NodeIndex, Seat, known_to};
use crate::node::Node;
use crate::service::Service;
use crate::sim::invariants::{Invariants, Violation};
use trimaran_raft::{Configuration, LogIndex, Member, NodeId};

impl<S: Service> Cluster<S> {
    /// The nodes that are up, each in its present life.
    pub fn living(&self) -> Vec<NodeId> {
        let nodes = self.seats.iter().filter_map(|seat| seat.node.as_ref());
        nodes.map(|node| node.shard().with_machine(|machine| machine.me().id)).collect()
    }

    /// The node that is up and has this identity.
    pub fn seat_of(&self, id: NodeId) -> Option<NodeIndex> {
        let is = |node: &Node| node.shard().with_machine(|machine| machine.me().id == id);
        self.seats.iter().position(|seat| seat.node.as_ref().is_some_and(is)).map(NodeIndex)
    }

    /// The newest configuration that a node knows to be committed which is alive or will remember, and all newer ones in their logs:
    /// those that may yet decide. Of a node that was taken out long ago nothing is left in it.
    pub fn configurations(&self) -> Vec<Configuration> {
        let known = |seat: &Seat<S>| match (&seat.node, &seat.asleep) {
            (Some(node), _) => vec![known_to(node)],
            (None, Some((_, known))) => known.clone(),
            (None, None) => Vec::new(),
        };
        let known: Vec<_> = self.seats.iter().flat_map(known).collect();
        let committed = known.iter().filter(|(_, committed, _)| *committed).map(|(at, ..)| *at);
        let newest = committed.max().unwrap_or(LogIndex::ZERO);
        known.into_iter().filter(|(at, ..)| *at >= newest).map(|(.., config)| config).collect()
    }

    /// Whether the cluster can go on with nothing lost when this node is killed now. A node that lost its memory is a voter
    /// again only when its new life was taken in, so what counts is not who is up but which voters still are: a majority of
    /// every configuration that may yet decide must remain.
    pub fn can_lose(&self, node: NodeIndex) -> bool {
        self.can_lose_under(node, &[])
    }

    /// As [`Cluster::can_lose`], where the voters may also become those of `planned`.
    pub fn can_lose_under(&self, node: NodeIndex, planned: &[Configuration]) -> bool {
        let id = self.node(node).map(|node| node.shard().with_machine(|machine| machine.me().id));
        let remain: Vec<_> = self.living().into_iter().filter(|other| Some(*other) != id).collect();
        self.configurations().iter().chain(planned).all(|config| has_majority(config, &remain))
            && self.more_shards().all(|shard| self.shard_has_majority(shard, Some(node)))
    }

    /// Whether a majority of the voters of every configuration that may yet decide is up and remembers.
    pub fn has_quorum(&self) -> bool {
        let living = self.living();
        self.configurations().iter().all(|config| has_majority(config, &living))
            && self.more_shards().all(|shard| self.shard_has_majority(shard, None))
    }

    /// Whether there is a leader, no change is under way, every voter is up, and all of them know the same configuration and
    /// have applied what it has: nothing is left to heal, in any shard.
    pub fn is_whole(&self) -> bool {
        (0..self.shards()).all(|shard| self.is_shard_whole(shard))
    }

    fn is_shard_whole(&self, shard: u16) -> bool {
        let Some(leader) = self.leader_of(shard).and_then(|leader| self.replica(leader, shard)) else { return false };
        let (config, commit, changing) = leader
            .shard()
            .with_machine(|machine| (machine.configuration().clone(), machine.commit(), machine.is_changing()));
        // Where a node has its configuration from, the log or a snapshot, makes no difference.
        let follows = |voter: &Member| {
            self.replicas(shard).any(|(_, node)| {
                node.shard().with_machine(|machine| {
                    machine.me().id == voter.id
                        && *machine.configuration() == config
                        && machine.applied_index() >= commit
                })
            })
        };
        !changing && !config.is_joint() && config.voters.iter().all(follows)
    }

    /// The replica of a shard on a node that is up.
    pub fn replica(&self, node: NodeIndex, shard: u16) -> Option<&Node> {
        let seat = &self.seats[node.0];
        usize::from(shard).checked_sub(1).map_or(seat.node.as_ref(), |place| seat.more.get(place))
    }

    /// The node that leads a shard in the highest term, if any does.
    pub fn leader_of(&self, shard: u16) -> Option<NodeIndex> {
        let leading = self.replicas(shard).filter(|(_, node)| node.shard().is_leader());
        let leading = leading.map(|(index, node)| (node.shard().with_machine(|machine| machine.term()), index));
        leading.max().map(|(_, index)| index)
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.config.shards
    }

    /// Those beside shard 0, whose state is in memory only.
    fn more_shards(&self) -> std::ops::Range<u16> {
        1..self.config.shards
    }

    /// The replicas of a shard that are up.
    fn replicas(&self, shard: u16) -> impl Iterator<Item = (NodeIndex, &Node)> {
        let of = move |index| self.replica(NodeIndex(index), shard).map(|node| (NodeIndex(index), node));
        (0..self.seats.len()).filter_map(of)
    }

    /// Whether a majority of every configuration that may yet decide in a shard is up, also without that node.
    fn shard_has_majority(&self, shard: u16, without: Option<NodeIndex>) -> bool {
        let known: Vec<_> = self.replicas(shard).map(|(_, node)| known_to(node)).collect();
        let committed = known.iter().filter(|(_, committed, _)| *committed).map(|(at, ..)| *at);
        let newest = committed.max().unwrap_or(LogIndex::ZERO);
        let id = |node: &Node| node.shard().with_machine(|machine| machine.me().id);
        let remain = self.replicas(shard).filter(|(index, _)| Some(*index) != without);
        let remain: Vec<_> = remain.map(|(_, node)| id(node)).collect();
        known.iter().filter(|(at, ..)| *at >= newest).all(|(.., config)| has_majority(config, &remain))
    }

    /// What each shard's replicas have broken at the last step of a node, if anything.
    pub(super) fn check_shards(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let seat = &self.seats[node.0];
        for (replica, invariants) in seat.more.iter().zip(&mut self.more_invariants) {
            invariants.check(node, replica.shard())?;
        }
        Ok(())
    }

    /// As [`Cluster::invariants`], of each shard.
    pub fn all_invariants(&self) -> impl Iterator<Item = &Invariants> {
        std::iter::once(self.invariants()).chain(&self.more_invariants)
    }
}

pub(in crate::sim) fn has_majority(config: &Configuration, living: &[NodeId]) -> bool {
    let majority = |voters: &[Member]| {
        let left = voters.iter().filter(|voter| living.contains(&voter.id)).count();
        voters.is_empty() || left > voters.len() / 2
    };
    majority(&config.voters) && majority(&config.old_voters)
}
