//! Random walks in which the members change: by an operator, and because nodes forget everything. A seed decides everything.

use super::walk::Dice;
use super::{Cluster, MS, member};
use trimaran_raft::{Input, Sabotage, ShardConfig};

/// What a walk is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Churn {
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    /// At most one voter forgets at a time, and only while all others are there: then the group must come back. Else now and
    /// then one more does.
    pub(crate) gentle: bool,
    pub(crate) sabotage: Sabotage,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) elections: u64,
    pub(crate) committed: u64,
    pub(crate) forgot: u64,
    pub(crate) changes: u64,
    pub(crate) cancelled: u64,
    pub(crate) snapshots: u64,
    pub(crate) transfers: u64,
}

impl std::iter::Sum for Outcome {
    fn sum<I: Iterator<Item = Outcome>>(all: I) -> Outcome {
        all.fold(Outcome::default(), |a, b| Outcome {
            elections: a.elections + b.elections,
            committed: a.committed + b.committed,
            forgot: a.forgot + b.forgot,
            changes: a.changes + b.changes,
            cancelled: a.cancelled + b.cancelled,
            snapshots: a.snapshots + b.snapshots,
            transfers: a.transfers + b.transfers,
        })
    }
}

const NODES: usize = 5;

struct Walker {
    cluster: Cluster,
    dice: Dice,
    /// Which life each node is in.
    lives: [u64; NODES],
    outcome: Outcome,
}

/// Walks; panics when an invariant breaks.
pub(crate) fn churn(plan: &Churn) -> Outcome {
    let mut dice = Dice(plan.seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let small = dice.percent(50);
    let change = |config: &mut ShardConfig| {
        config.sabotage = plan.sabotage;
        config.seed ^= plan.seed << 8;
        if small {
            config.limits.log_bytes = 24 << 10;
            config.limits.uncommitted_bytes = 4 << 10;
        }
    };
    let voters = 1 + dice.below(NODES);
    let mut cluster = Cluster::of_some_with(NODES, voters, change);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 1000 * dice.below(10) + 8);
    let mut walker = Walker { cluster, dice, lives: [1; NODES], outcome: Outcome::default() };
    let (loss, repeat) = (walker.dice.below(15), walker.dice.below(8));
    for step in 0..plan.steps {
        walker.step(plan, step, loss, repeat);
    }
    walker.finish(plan.gentle);
    let Walker { cluster, mut outcome, .. } = walker;
    outcome.elections = cluster.invariants.elections() as u64;
    outcome.committed = cluster.invariants.newest_committed().0;
    outcome.snapshots = cluster.snapshots;
    outcome
}

impl Walker {
    fn step(&mut self, plan: &Churn, step: usize, loss: usize, repeat: usize) {
        let index = self.dice.below(NODES);
        match self.dice.below(100) {
            0..74 => self.deliver(loss, repeat),
            74..79 => {
                let up = (0..NODES).filter(|index| self.cluster.nodes[*index].up);
                let waiting = up.filter(|index| self.cluster.machine(*index).next_deadline().0 != u64::MAX);
                let waiting: Vec<usize> = waiting.collect();
                let first = waiting.iter().copied().min_by_key(|index| self.cluster.machine(*index).next_deadline());
                let any = waiting.get(self.dice.below(waiting.len())).copied();
                let pick = if self.dice.percent(90) { first } else { any };
                pick.into_iter().for_each(|index| self.cluster.expire(index));
            }
            79..89 => {
                let target = if self.dice.percent(90) { self.cluster.leader().unwrap_or(index) } else { index };
                if self.cluster.nodes[target].up {
                    let length = self.dice.below(300);
                    let _ = self.cluster.propose(target, &vec![step as u8; length]);
                }
            }
            89..91 => {
                if self.cluster.nodes[index].up {
                    self.cluster.crash(index);
                } else {
                    self.cluster.restart(index);
                    self.cluster.flush(index);
                }
            }
            91..93 => self.forget(index, plan.gentle),
            93..95 => self.change(),
            95 if self.dice.percent(30) => {
                if let Some(leader) = self.cluster.leader() {
                    self.outcome.cancelled += u64::from(self.cluster.step(leader, Input::CancelChange).is_ok());
                }
            }
            95 => {
                if let Some(leader) = self.cluster.leader() {
                    let to = self.cluster.machine(index).me().id;
                    self.outcome.transfers += u64::from(self.cluster.step(leader, Input::Transfer(Some(to))).is_ok());
                }
            }
            96..98 => {
                let pair = (index, self.dice.below(NODES));
                if !self.cluster.cut.remove(&pair) && self.cluster.cut.len() < NODES {
                    self.cluster.cut.insert(pair);
                }
            }
            98 if self.dice.percent(30) => {
                let ns = (50 + self.dice.below(500) as u64) * MS;
                self.cluster.run_for(ns);
            }
            _ => {}
        }
        if self.cluster.flights.len() > 400 {
            self.cluster.flights.drain(..200);
        }
    }

    fn deliver(&mut self, loss: usize, repeat: usize) {
        let count = self.cluster.flights.len();
        if count == 0 {
            return;
        }
        // Mostly in order, sometimes anything.
        let near = if self.dice.percent(85) { 4 } else { count };
        let flight = self.cluster.flights.remove(self.dice.below(near.min(count)));
        self.cluster.now += 1 + self.dice.below(20_000) as u64;
        if self.dice.percent(repeat) {
            self.cluster.flights.push(flight.clone());
        }
        if !self.dice.percent(loss) {
            self.cluster.deliver(&flight);
        }
    }

    /// A node starts anew without memory.
    fn forget(&mut self, index: usize, gentle: bool) {
        if !self.can_spare() && (gentle || !self.dice.percent(4)) {
            return;
        }
        self.outcome.forgot += 1;
        self.lives[index] += 1;
        self.cluster.crash(index);
        self.cluster.restart_empty(index, self.lives[index]);
    }

    /// Whether all voters of a configuration that is settled are there, in the life that it names.
    fn can_spare(&self) -> bool {
        let Some(leader) = self.cluster.leader() else { return false };
        let machine = self.cluster.machine(leader);
        let alive = |(index, life): &(usize, u64)| self.lives[*index] == *life;
        let voters = self.cluster.voters(leader);
        let newest = (0..NODES).all(|index| self.cluster.machine(index).term() <= machine.term());
        newest && machine.is_leader() && !machine.is_changing() && voters.len() > 2 && voters.iter().all(alive)
    }

    fn change(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let count = 1 + self.dice.below(NODES);
        let mut wanted: Vec<(usize, u64)> = Vec::new();
        while wanted.len() < count {
            let index = self.dice.below(NODES);
            if wanted.iter().all(|(known, _)| *known != index) {
                wanted.push((index, self.lives[index]));
            }
        }
        self.outcome.changes += u64::from(self.cluster.change(leader, &wanted).is_ok());
    }

    /// All faults end. Where it was gentle, the group must commit in bounded time, and be whole again.
    fn finish(&mut self, gentle: bool) {
        let cluster = &mut self.cluster;
        cluster.heal();
        for index in 0..NODES {
            if !cluster.nodes[index].up {
                cluster.restart(index);
            }
            cluster.flush(index);
        }
        for flight in &mut cluster.flights {
            flight.due = cluster.now;
        }
        cluster.run_for(6000 * MS);
        if !gentle {
            return;
        }
        let leader = cluster.leader().expect("liveness: no leader after healing");
        let index = cluster.propose(leader, b"after").expect("liveness: a leader after healing takes proposals");
        cluster.run_for(1000 * MS);
        let voters = cluster.voters(leader);
        assert!(!voters.is_empty(), "liveness: a joint configuration is not left");
        for (node, life) in voters {
            assert_eq!(member(node, life), cluster.machine(node).me(), "liveness: a seat is not healed");
            assert!(cluster.machine(node).commit() >= index, "liveness: node {node} does not follow after healing");
        }
    }
}
