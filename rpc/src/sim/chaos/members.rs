//! An operator who changes the members and moves leadership while everything else goes wrong.
//!
//! The operator is careful in one thing only, as a real one must be: no change is begun to voters of whom a majority is not
//! alive, and while one is under way nobody is killed whom it needs. Whoever forgets that has lost the cluster.

use super::{Chaos, Fault, Later};
use crate::service::Service;
use crate::sim::cluster::{Cluster, NodeIndex};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use trimaran_raft::{Configuration, LIST_MEMBERS, Member, NodeId, Role, Slot, Status};

/// Numbers of voters that the stairs lead over, again and again.
const STAIRS: [usize; 4] = [1, 3, 5, 3];

impl Chaos {
    /// Tells whether it has struck.
    pub(super) fn strike_members<S: Service>(
        &mut self,
        cluster: &mut Cluster<S>,
        fault: Fault,
        target: NodeIndex,
    ) -> bool {
        self.forget_target(cluster);
        match fault {
            Fault::Twin => {
                let is_there = cluster.node(target).is_some() && cluster.add_twin(target).is_some();
                if is_there {
                    self.set_links(cluster, self.links);
                }
                is_there
            }
            Fault::Return => self.bring_back(cluster),
            Fault::Transfer => {
                let to = self.rng.random::<bool>().then_some(cluster.slot(target));
                self.transfer(cluster, to)
            }
            Fault::TransferLame => {
                if cluster.leader() == Some(target) {
                    return false;
                }
                if self.rng.random() {
                    self.stand_still(cluster, target, 50..600);
                }
                // Whether it is refused or given up in the end: asking must do no harm.
                self.transfer(cluster, Some(cluster.slot(target)));
                true
            }
            Fault::Farewell => {
                let Some(leader) = cluster.leader() else { return false };
                if self.rng.random() {
                    let soon = cluster.now() + self.some_ms(0..4);
                    self.later.push((soon, Later::Kill(leader)));
                }
                cluster.at_node(leader, |shard| shard.farewell()).is_some()
            }
            Fault::SnapshotCut => {
                self.awaits_snapshot = true;
                false
            }
            Fault::Cancel => {
                if cluster.cancel_change() {
                    return true;
                }
                // There must be something to take back: it is counted when it is.
                if self.change(cluster, Fault::Grow) || self.change(cluster, Fault::Replace) {
                    let soon = cluster.now() + std::time::Duration::from_micros(self.rng.random_range(0..3_000));
                    self.later.push((soon, Later::Cancel));
                }
                false
            }
            _ => self.change(cluster, fault),
        }
    }

    fn transfer<S: Service>(&mut self, cluster: &mut Cluster<S>, to: Option<Slot>) -> bool {
        let Some(leader) = cluster.leader() else { return false };
        cluster.at_node(leader, |shard| shard.transfer(to).is_ok()) == Some(true)
    }

    /// A change is over when its leader says so; one that was begun by a leader of before is forgotten, or in the log.
    pub(super) fn forget_target<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let Some(leader) = cluster.leader() else { return };
        let changing =
            cluster.node(leader).is_some_and(|node| node.shard().with_machine(|machine| machine.is_changing()));
        if !changing {
            self.target = None;
        }
    }

    /// Starts a node again that belongs to no configuration and does not ask to be taken in: it was taken out.
    fn bring_back<S: Service>(&mut self, cluster: &mut Cluster<S>) -> bool {
        let Some(status) = leader_status(cluster) else { return false };
        let nodes: Vec<_> = (0..cluster.nodes()).map(NodeIndex).collect();
        let outside = |node: &&NodeIndex| {
            cluster.node(**node).is_some_and(|node| {
                node.shard().with_machine(|machine| {
                    let asks = matches!(machine.role(), Role::Joining { .. } | Role::Uninitialised);
                    !asks && status.configuration.member(machine.me().id).is_none()
                })
            })
        };
        let outside: Vec<_> = nodes.iter().filter(outside).copied().collect();
        let Some(&node) = outside.choose(&mut self.rng) else { return false };
        let planned: Vec<_> = self.target.iter().cloned().collect();
        let is_harmless = cluster.can_lose_under(node, &planned) && !self.is_exposed(node);
        if is_harmless {
            cluster.kill(node);
            self.mend(cluster, node);
            cluster.restart(node);
        }
        is_harmless
    }

    /// Disturbs a snapshot that is on its way, if one is.
    pub(super) fn cut_snapshot<S: Service>(&mut self, cluster: &mut Cluster<S>) -> bool {
        let Some(leader) = cluster.leader() else { return false };
        let on_its_way = cluster.node(leader).and_then(|node| {
            node.shard().with_machine(|machine| {
                let mut peers = machine.peers().iter().filter(|peer| peer.snapshot_bytes().is_some());
                peers.next().map(|peer| (peer.donor(), peer.id()))
            })
        });
        let Some((donor, receiver)) = on_its_way else { return false };
        let sender = donor.map_or(Some(leader), |id| cluster.seat_of(id));
        let (Some(sender), Some(receiver)) = (sender, cluster.seat_of(receiver)) else { return false };
        match self.rng.random_range(0..3) {
            0 => self.cut_between(cluster, sender, receiver),
            1 => return self.transfer(cluster, None),
            _ => return self.stand_still(cluster, sender, 50..500),
        }
        true
    }

    /// Begins a change of the members.
    fn change<S: Service>(&mut self, cluster: &mut Cluster<S>, fault: Fault) -> bool {
        let Some(status) = leader_status(cluster) else { return false };
        if status.changing || status.configuration.is_joint() {
            return false;
        }
        let living = cluster.living();
        let Some(target) = self.next_members(&status, fault, &living) else { return false };
        let is_whole = |voter: &&Member| living.contains(&voter.id) && !self.atlas.is_damaged(voter.id);
        let alive = target.voters.iter().filter(is_whole).count();
        if alive <= target.voters.len() / 2 {
            return false;
        }
        let Some(leader) = cluster.leader() else { return false };
        let begun = cluster.at_node(leader, |shard| shard.change_members(&target).is_ok()) == Some(true);
        if begun {
            self.target = Some(target);
            if fault == Fault::Stairs {
                self.stair += 1;
            }
        }
        begun
    }

    fn next_members(&mut self, status: &Status, fault: Fault, living: &[NodeId]) -> Option<Configuration> {
        let mut target = status.configuration.clone();
        let now = target.voters.len();
        let (add, remove) = match fault {
            Fault::Grow => (self.rng.random_range(1..=2), 0),
            Fault::Shrink => (0, self.rng.random_range(1..=2).min(now - 1)),
            Fault::Replace => {
                let some = self.rng.random_range(1..=2).min(now);
                (some, some)
            }
            Fault::Stairs => {
                let to = STAIRS[self.stair % STAIRS.len()];
                (to.saturating_sub(now), now.saturating_sub(to))
            }
            Fault::RemoveLeader => {
                target.voters.retain(|voter| voter.id != status.id);
                return (now > 1).then_some(target);
            }
            Fault::Learner => {
                let joiner = *self.newcomers(status, living).first()?;
                target.learners.push(joiner);
                return (target.learners.len() <= LIST_MEMBERS).then_some(target);
            }
            Fault::Promote => {
                let free =
                    |learner: &&Member| !in_seat(&target.voters, learner.id.slot) && living.contains(&learner.id);
                let learner = *target.learners.iter().find(free)?;
                target.learners.retain(|other| other.id != learner.id);
                target.voters.push(learner);
                return (target.voters.len() <= LIST_MEMBERS).then_some(target);
            }
            _ => return None,
        };
        let newcomers = self.newcomers(status, living);
        if newcomers.len() < add {
            return None;
        }
        target.voters.shuffle(&mut self.rng);
        target.voters.truncate(now - remove);
        target.voters.extend(&newcomers[..add]);
        (target != status.configuration && target.voters.len() <= LIST_MEMBERS).then_some(target)
    }

    /// Who asks to be taken in, is alive, and has a seat of its own.
    fn newcomers(&mut self, status: &Status, living: &[NodeId]) -> Vec<Member> {
        let free =
            |joiner: &&Member| status.configuration.occupant(joiner.id.slot).is_none() && living.contains(&joiner.id);
        let mut newcomers: Vec<_> = status.joiners.iter().filter(free).copied().collect();
        newcomers.shuffle(&mut self.rng);
        newcomers
    }
}

fn in_seat(members: &[Member], slot: Slot) -> bool {
    members.iter().any(|member| member.id.slot == slot)
}

fn leader_status<S: Service>(cluster: &Cluster<S>) -> Option<Status> {
    Some(cluster.node(cluster.leader()?)?.shard().status())
}
