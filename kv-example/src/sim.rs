//! `kv sim`: many seeds of simulated clusters under faults, or one of them again.

mod swarm;

use crate::cli::Sim;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use swarm::{MISUSES, Misuses, SeedReport};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::sim::chaos::{Fault, FaultCounts};
use trimaran_runtime::{Clock, Monotonic};

/// Every so many seeds one is run twice: its trace must not differ. An odd number, for odd seeds have disks.
const REPEAT_EVERY: u64 = 51;
/// Failing seeds that are described; all are counted.
const DESCRIBED_MAX: usize = 10;
/// From so many seeds on each kind of fault must have struck.
const SEEDS_FOR_ALL_FAULTS: u64 = 200;

#[derive(Default)]
struct Total {
    seeds: u64,
    repeated: u64,
    virtual_time: Duration,
    packets: u64,
    operations: u64,
    open: u64,
    elections: u64,
    committed: u64,
    checks: u64,
    changes: u64,
    joint_changes: u64,
    snapshots: u64,
    donations: u64,
    quiets: u64,
    faults: FaultCounts,
    misuses: Misuses,
    not_judged: BTreeMap<&'static str, u64>,
    failures: Vec<SeedReport>,
}

impl Total {
    fn add(&mut self, report: SeedReport) {
        self.seeds += 1;
        self.virtual_time += report.virtual_time;
        self.packets += report.packets;
        self.operations += report.operations;
        self.open += report.open;
        self.elections += report.elections;
        self.committed += report.committed;
        self.checks += report.checks;
        self.changes += report.changes;
        self.joint_changes += report.joint_changes;
        self.snapshots += report.snapshots;
        self.donations += report.donations;
        self.quiets += report.quiets;
        self.faults.merge(&report.faults);
        self.misuses.iter_mut().zip(report.misuses).for_each(|(sum, more)| *sum += more);
        if let Some(why) = report.not_judged {
            *self.not_judged.entry(why).or_default() += 1;
        }
        if report.failure.is_some() {
            self.failures.push(report);
        }
    }
}

/// Runs the seeds and prints what they did; an error when one of them failed, or a fault never struck.
pub fn run(sim: &Sim) -> Result<(), Error> {
    match sim.seed {
        Some(seed) => one(seed, sim),
        None => many(sim),
    }
}

fn one(seed: u64, sim: &Sim) -> Result<(), Error> {
    let report = caught(seed, sim, Some(&artefacts()));
    let again = caught(seed, sim, None);
    println!("seed {seed}: trace {:016x}", report.trace_hash);
    let mut total = Total::default();
    let failure = match (again.trace_hash == report.trace_hash, &report.failure) {
        (false, _) => Some("two runs of this seed differ".to_owned()),
        (true, failure) => failure.clone(),
    };
    total.add(report);
    print(&total, None);
    println!("history and packets: {}", artefacts().display());
    match failure {
        Some(what) => Err(Error::SimulationFailed { what: format!("seed {seed}: {what}") }),
        None => Ok(()),
    }
}

fn many(sim: &Sim) -> Result<(), Error> {
    let seeds = sim.seeds.unwrap_or(0);
    let jobs = sim.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get), usize::from);
    let bar = ProgressBar::new(seeds).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let started = Monotonic.now();
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(sim.from);
    let end = sim.from.saturating_add(seeds);
    // Each seed lives on one thread from beginning to end; threads share only the totals.
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = checked(seed, sim);
                    if let Some(failure) = &report.failure {
                        let first = failure.lines().next().unwrap_or_default();
                        bar.suspend(|| eprintln!("seed {seed}: {first}"));
                    }
                    let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    total.repeated += u64::from(seed.is_multiple_of(REPEAT_EVERY));
                    total.add(report);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut total = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    print(&total, Some(Monotonic.now() - started));
    total.failures.sort_by_key(|report| report.seed);
    for report in total.failures.iter().take(DESCRIBED_MAX) {
        println!("seed {} failed: {}", report.seed, report.failure.as_deref().unwrap_or_default());
    }
    if let Some(first) = total.failures.first() {
        caught(first.seed, sim, Some(&artefacts()));
        println!("history and packets of seed {}: {}", first.seed, artefacts().display());
        let what = format!(
            "{} of {} seeds; replay with `--seed {}{}`",
            total.failures.len(),
            total.seeds,
            first.seed,
            if sim.no_disks { " --no-disks" } else { "" }
        );
        return Err(Error::SimulationFailed { what });
    }
    let missing = swarm::never_struck(&total.faults, &total.misuses, !sim.no_disks);
    if total.seeds >= SEEDS_FOR_ALL_FAULTS && !missing.is_empty() {
        return Err(Error::SimulationFailed { what: format!("these never happened: {}", missing.join(", ")) });
    }
    Ok(())
}

/// Runs a seed, now and then a second time to see whether it does the same.
fn checked(seed: u64, sim: &Sim) -> SeedReport {
    let mut report = caught(seed, sim, None);
    if seed.is_multiple_of(REPEAT_EVERY) {
        let again = caught(seed, sim, None);
        if again.trace_hash != report.trace_hash && report.failure.is_none() {
            report.failure = Some("two runs of this seed differ".into());
        }
    }
    report
}

/// Runs a seed; a panic in it is its failure, and not the end of all others.
fn caught(seed: u64, sim: &Sim, artefacts: Option<&Path>) -> SeedReport {
    let nodes = nodes_of(seed, usize::from(sim.nodes));
    let run = AssertUnwindSafe(|| swarm::run(seed, nodes, artefacts, !sim.no_disks));
    catch_unwind(run).unwrap_or_else(|_| SeedReport {
        seed,
        failure: Some("it panicked".into()),
        ..SeedReport::default()
    })
}

/// Every third seed runs a larger cluster than asked for.
fn nodes_of(seed: u64, nodes: usize) -> usize {
    if seed % 3 == 2 { (nodes + 2).min(9) } else { nodes }
}

fn artefacts() -> PathBuf {
    Path::new("target").join("sim")
}

fn print(total: &Total, wall: Option<Duration>) {
    println!(
        "{} seeds ({} of them twice), {:.1} simulated hours, {} packets, {} steps checked",
        total.seeds,
        total.repeated,
        total.virtual_time.as_secs_f64() / 3600.0,
        total.packets,
        total.checks
    );
    println!(
        "{} operations judged ({} of unknown outcome), {} entries committed, {} elections won",
        total.operations, total.open, total.committed, total.elections
    );
    println!(
        "{} configurations committed ({} joint), {} snapshots installed, {} times one was asked of a follower, {} times a group went quiet",
        total.changes, total.joint_changes, total.snapshots, total.donations, total.quiets
    );
    let faults: Vec<_> =
        Fault::ALL.iter().map(|fault| format!("{} {}", fault.name(), total.faults.get(*fault))).collect();
    println!("faults: {}", faults.join(", "));
    let misuses: Vec<_> = MISUSES.iter().zip(total.misuses).map(|(name, count)| format!("{name} {count}")).collect();
    println!("clients: {}", misuses.join(", "));
    let skipped: Vec<_> = total.not_judged.iter().map(|(why, count)| format!("{count} since {why}")).collect();
    println!("liveness not judged: {}", if skipped.is_empty() { "never".to_owned() } else { skipped.join(", ") });
    if let Some(wall) = wall {
        println!("{:.0} s, {:.0} packets a second", wall.as_secs_f64(), total.packets as f64 / wall.as_secs_f64());
    }
}
