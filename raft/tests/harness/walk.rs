//! One random walk: a seed decides everything.

use super::{Cluster, MS};
use trimaran_raft::{Input, Sabotage, ShardConfig};

/// What a walk is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) steps: usize,
    pub(crate) sabotage: Sabotage,
}

/// What came of it, so that a walk in which nothing happened is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) elections: u64,
    pub(crate) committed: u64,
    pub(crate) reads: u64,
    pub(crate) crashes: u64,
    pub(crate) snapshots: u64,
    pub(crate) transfers: u64,
    pub(crate) lease_reads: u64,
    pub(crate) stale_reads: u64,
}

impl std::iter::Sum for Outcome {
    fn sum<I: Iterator<Item = Outcome>>(all: I) -> Outcome {
        all.fold(Outcome::default(), |a, b| Outcome {
            elections: a.elections + b.elections,
            committed: a.committed + b.committed,
            reads: a.reads + b.reads,
            crashes: a.crashes + b.crashes,
            snapshots: a.snapshots + b.snapshots,
            transfers: a.transfers + b.transfers,
            lease_reads: a.lease_reads + b.lease_reads,
            stale_reads: a.stale_reads + b.stale_reads,
        })
    }
}

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// Walks; panics when an invariant breaks.
#[allow(clippy::match_overlapping_arm, reason = "what has nothing to deliver falls through to the next chance")]
pub(crate) fn walk(plan: &Walk) -> Outcome {
    let mut dice = Dice(plan.seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    // Small windows, logs and datagrams, so that every limit is met.
    let small = dice.percent(50);
    // So small a log that whoever is away for a while comes back by a snapshot.
    let tiny = plan.seed.is_multiple_of(3);
    let change = |config: &mut ShardConfig| {
        config.sabotage = plan.sabotage;
        config.seed ^= plan.seed << 8;
        config.reads.lease = true;
        // As much as the clocks below may differ.
        config.reads.clock_drift_ppm = 50_000;
        if small {
            config.limits.window_bytes = 400;
            config.limits.window_messages = 3;
            config.limits.log_bytes = 64 << 10;
            config.limits.uncommitted_bytes = 8 << 10;
        }
        if tiny {
            config.limits.log_bytes = 12 << 10;
            config.limits.uncommitted_bytes = 2 << 10;
        }
    };
    let mut cluster = Cluster::with(plan.nodes, change);
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 2000 * dice.below(10) + 8);
    // Half of the walks on clocks that run as differently as is allowed.
    if dice.percent(50) {
        cluster.nodes.iter_mut().for_each(|node| node.ppm = [-50_000, 0, 50_000][dice.below(3)]);
    }
    // Each walk has its own taste in trouble.
    let (loss, repeat, crash, cut) = (dice.below(20), dice.below(10), dice.below(3), dice.below(4));
    let slow_disks = dice.percent(40);
    let mut outcome = Outcome::default();
    for step in 0..plan.steps {
        let index = dice.below(plan.nodes);
        match dice.below(100) {
            0..70 if !cluster.flights.is_empty() => {
                // Mostly in order, sometimes anything.
                let near = if dice.percent(80) { 4 } else { cluster.flights.len() };
                let at = dice.below(near.min(cluster.flights.len()));
                let flight = cluster.flights.remove(at);
                cluster.now += 1 + dice.below(20_000) as u64;
                if dice.percent(repeat) {
                    cluster.flights.push(flight.clone());
                }
                if !dice.percent(loss) {
                    cluster.deliver(&flight);
                }
            }
            0..75 => {
                let up: Vec<usize> = (0..plan.nodes).filter(|index| cluster.nodes[*index].up).collect();
                let first = up.iter().copied().min_by_key(|index| cluster.deadline(*index));
                // Usually the nearest timer; sometimes another node's, as if the first had been paused.
                let pick = if dice.percent(90) { first } else { up.get(dice.below(up.len())).copied() };
                pick.into_iter().for_each(|index| cluster.expire(index));
            }
            0..85 => {
                let body = [step as u8; 300];
                let length = if dice.percent(3) { 4000 } else { dice.below(300) };
                let body = if length > 300 { vec![step as u8; length] } else { body[..length].to_vec() };
                let target = if dice.percent(90) { cluster.leader().unwrap_or(index) } else { index };
                if cluster.nodes[target].up {
                    let _ = cluster.propose(target, &body);
                }
            }
            0..91 if cluster.nodes[index].up => {
                let any = (0..plan.nodes).filter(|node| cluster.machine(*node).is_leader() && cluster.nodes[*node].up);
                // Any who thinks that it leads, the deposed above all.
                let target = any.min_by_key(|node| cluster.machine(*node).term()).unwrap_or(index);
                match dice.below(4) {
                    0 => drop(cluster.read(target)),
                    1 => drop(cluster.read_here(index)),
                    2 => {
                        // At times with the stamp of the turn that it was in the middle of when it was stopped.
                        let stopped = cluster.machine(target).now();
                        let stamp = if dice.percent(50) { stopped } else { cluster.local(target) };
                        let _ = cluster.lease_read(target, stamp);
                    }
                    _ => drop(cluster.stale_read(index, cluster.local(index), dice.below(300) as u64 * MS)),
                }
            }
            0..94 if slow_disks && cluster.nodes[index].up => {
                cluster.nodes[index].disk.holds = dice.percent(60);
                cluster.complete(index, true);
                cluster.flush(index);
            }
            0..96 if dice.percent(crash * 20) => {
                if cluster.nodes[index].up {
                    outcome.crashes += 1;
                    cluster.crash(index);
                } else {
                    cluster.restart(index);
                    cluster.flush(index);
                }
            }
            0..98 if dice.percent(cut * 20) => {
                let pair = (index, dice.below(plan.nodes));
                if !cluster.cut.remove(&pair) && cluster.cut.len() < plan.nodes {
                    cluster.cut.insert(pair);
                }
            }
            98 if cluster.nodes[index].up && dice.percent(20) => drop(cluster.step(index, Input::Farewell)),
            99 => {
                let leader = cluster.leader().unwrap_or(index);
                if cluster.nodes[leader].up {
                    let to = dice.percent(50).then(|| cluster.machine(index).me().id);
                    outcome.transfers += u64::from(cluster.step(leader, Input::Transfer(to)).is_ok());
                }
            }
            _ => {}
        }
        if tiny && step % 500 == 499 {
            long_absence(&mut cluster, index);
        }
        if cluster.flights.len() > 400 {
            cluster.flights.drain(..200);
        }
    }
    finish(&mut cluster);
    outcome.snapshots = cluster.snapshots;
    outcome.elections = cluster.invariants.elections() as u64;
    outcome.committed = cluster.invariants.newest_committed().0;
    outcome.reads = cluster.invariants.reads;
    outcome.lease_reads = cluster.invariants.lease_reads;
    outcome.stale_reads = cluster.invariants.stale_reads;
    outcome
}

/// A node is cut off until the others have stopped keeping the log for it; whoever is up goes on meanwhile.
fn long_absence(cluster: &mut Cluster, index: usize) {
    let before = cluster.cut.clone();
    cluster.isolate(&[index]);
    for round in 0..60u8 {
        if let Some(leader) = cluster.leader() {
            let _ = cluster.propose(leader, &[round; 300]);
        }
        cluster.run_for(50 * MS);
    }
    cluster.cut = before;
}

/// All faults end: within bounded time a leader must commit again and every log must be the same.
fn finish(cluster: &mut Cluster) {
    cluster.heal();
    for index in 0..cluster.nodes.len() {
        if !cluster.nodes[index].up {
            cluster.restart(index);
        }
        cluster.nodes[index].disk.holds = false;
        cluster.complete(index, true);
        cluster.flush(index);
    }
    for flight in &mut cluster.flights {
        flight.due = cluster.now;
    }
    cluster.run_for(1500 * MS);
    let leader = cluster.leader().expect("liveness: no leader after healing");
    let index = cluster.propose(leader, b"after").expect("liveness: a leader after healing takes proposals");
    cluster.run_for(1000 * MS);
    for node in 0..cluster.nodes.len() {
        assert!(cluster.machine(node).commit() >= index, "liveness: node {node} does not follow after healing");
    }
}
