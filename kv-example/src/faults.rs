//! `kv bench-faults`: what lost packets, and a replica that is dead or stopped, do to the latencies of puts.
//!
//! ```text
//! rounds x conditions:  start nodes -> init -> the fault -> open loop ... -> closed loops ... -> end
//! ```
//!
//! Each condition has its turn in every round, in changing order, with nodes of its own; all of it is compared with the healthy
//! cluster of the same run. Packets are lost by an injector at every end, the client's too, so that each is in danger once; the
//! healthy cluster's injectors lose nothing.

use crate::bench::{self, Load};
use crate::cli::{BenchFaults, Op};
use crate::load::{Measured, Pace, Percentiles};
use serde_json::json;
use std::time::Duration;
use trimaran_rpc::program::cluster::LocalCluster;
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{self, Nodes, Signal};
use trimaran_rpc::program::port::Loss;
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, machine, say};
use trimaran_runtime::spawn;

const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// How long nodes may take to start and to elect.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a cluster's start and the fault.
const SETTLE: Duration = Duration::from_millis(500);
/// Each load runs for so long before it is measured.
const WARMUP: Duration = Duration::from_secs(1);
/// The client's; the nodes have their slots.
const CLIENT_SEED: u64 = 100;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Healthy,
    Lossy,
    Dead,
    Stopped,
}

const CONDITIONS: [Condition; 4] = [Condition::Healthy, Condition::Lossy, Condition::Dead, Condition::Stopped];

impl Condition {
    fn name(self, bench: &BenchFaults) -> String {
        match self {
            Condition::Healthy => "healthy".into(),
            Condition::Lossy => format!("{} % of packets lost", f64::from(bench.loss) / 10_000.0),
            Condition::Dead => "one follower dead".into(),
            Condition::Stopped => "one follower stopped".into(),
        }
    }
}

/// The latencies of one load under one condition: of each round, and of all.
#[derive(Debug, Default)]
struct Cell {
    rounds: Vec<Measured>,
    all: Measured,
    /// The most ordinary memory that a node that lives had at the end.
    resident_bytes: Option<u64>,
}

/// Runs the benchmark and prints its tables.
///
/// # Errors
/// Those of the nodes and the cluster.
pub fn run(bench: &BenchFaults, program: &Program) -> Result<(), Error> {
    let loads = loads(bench);
    let mut cells: Vec<[Cell; 4]> = loads.iter().map(|_| Default::default()).collect();
    for round in 0..bench.rounds as usize {
        for turn in 0..CONDITIONS.len() {
            let at = (round + turn) % CONDITIONS.len();
            let Some(&condition) = CONDITIONS.get(at) else { continue };
            eprintln!("round {} of {}: {}", round + 1, bench.rounds, condition.name(bench));
            let measured = measure(condition, bench, program.service)?;
            for (cell, (measured, resident_bytes)) in cells.iter_mut().filter_map(|row| row.get_mut(at)).zip(measured) {
                cell.resident_bytes = cell.resident_bytes.max(resident_bytes);
                cell.all.add(&measured);
                cell.rounds.push(measured);
            }
        }
    }
    loads.iter().zip(&cells).try_for_each(|((name, _), cells)| match bench.json {
        true => lines(name, cells, bench).iter().try_for_each(|line| say(&format!("{line}\n"))),
        false => say(&table(name, cells, bench)),
    })
}

/// The open loop, then the closed ones.
fn loads(bench: &BenchFaults) -> Vec<(String, Option<u32>)> {
    let closed = bench.outstanding.iter().map(|&outstanding| (format!("{outstanding} outstanding"), Some(outstanding)));
    [(format!("{} a second", bench.rate), None)].into_iter().chain(closed).collect()
}

/// One cluster from its start to its end, under each load.
fn measure(
    condition: Condition,
    bench: &BenchFaults,
    service: &'static str,
) -> Result<Vec<(Measured, Option<u64>)>, Error> {
    let signals = Signals::watch()?;
    let per_million = if condition == Condition::Lossy { bench.loss } else { 0 };
    let share = f64::from(per_million) / 1e6;
    let plan = nodes::Plan {
        service,
        count: bench.nodes,
        arguments: vec!["--inject-loss".into(), share.to_string()],
        ..nodes::Plan::default()
    };
    let nodes = Nodes::start(Site::Loopback, plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let loss = Some(Loss { per_million, seed: CLIENT_SEED });
    let target = Target { port: nodes.client_port(), loss, ..Target::new(servers, CALL_DEADLINE) };
    let bench = bench.clone();
    with_connection(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        let leader = cluster.form(service, PATIENCE).await?;
        cluster.wait(SETTLE).await?;
        let follower = (1..=bench.nodes).rev().find(|slot| *slot != leader).unwrap_or(leader);
        match condition {
            Condition::Healthy | Condition::Lossy => {}
            Condition::Dead => cluster.nodes.kill(follower)?,
            Condition::Stopped => cluster.nodes.signal(follower, Signal::STOP)?,
        }
        let mut results = Vec::new();
        for (_, outstanding) in loads(&bench) {
            let (value, measure) = (bench.value, Duration::from_secs(bench.seconds.into()));
            let pace = match outstanding {
                Some(outstanding) => Pace::Closed { outstanding: outstanding as usize },
                None => Pace::Open { per_second: bench.rate },
            };
            let load = Load { value, measure, pace, ..Load::of(Op::Put, WARMUP) };
            let connections = [cluster.connection.clone()];
            let running = spawn(async move { bench::measure(&connections, &load, None).await });
            cluster.wait(WARMUP + measure).await?;
            let measured = running.await.map_err(panicked)??.measured;
            let is_well = |slot: &u8| *slot != follower || !matches!(condition, Condition::Dead | Condition::Stopped);
            let pids = (1..=bench.nodes).filter(is_well).filter_map(|slot| cluster.nodes.pid(slot));
            results.push((measured, pids.filter_map(machine::resident_bytes).max()));
        }
        Ok(results)
    })
}

/// The columns.
fn columns(percentiles: &Percentiles) -> [u64; 3] {
    [percentiles.p50, percentiles.p99, percentiles.p999]
}

/// So many times the healthy cluster's, and the same of each round's 99th percentile.
fn ratios(cell: &Cell, healthy: &Cell) -> Option<([f64; 3], Vec<f64>)> {
    let (ours, theirs) = (columns(&cell.all.percentiles()?), columns(&healthy.all.percentiles()?));
    let ratio = |at: usize| ours[at] as f64 / theirs[at].max(1) as f64;
    let rounds = cell.rounds.iter().zip(&healthy.rounds);
    let rounds = rounds
        .filter_map(|(ours, theirs)| Some(ours.percentiles()?.p99 as f64 / theirs.percentiles()?.p99.max(1) as f64));
    Some(([ratio(0), ratio(1), ratio(2)], rounds.collect()))
}

fn table(load: &str, cells: &[Cell; 4], bench: &BenchFaults) -> String {
    let mut out =
        format!("puts, {load}, values of {} bytes, {} rounds of {} s\n", bench.value, bench.rounds, bench.seconds);
    out += "                              p50 us     p99 us   p99.9 us   times healthy: p50    p99  p99.9   p99 by round\n";
    for (condition, cell) in CONDITIONS.iter().zip(cells) {
        let name = condition.name(bench);
        let Some((percentiles, (ratios, rounds))) = cell.all.percentiles().zip(ratios(cell, &cells[0])) else {
            out += &format!("  {name:<24} nothing was answered\n");
            continue;
        };
        out += &format!("  {name:<24}");
        columns(&percentiles).iter().for_each(|ns| out += &format!(" {:>10.1}", *ns as f64 / 1000.0));
        let rounds: Vec<String> = rounds.iter().map(|ratio| format!("{ratio:.2}")).collect();
        out += &format!("  {:>18.2} {:>7.2} {:>6.2}   {}\n", ratios[0], ratios[1], ratios[2], rounds.join(" "));
        let failed = cell.all.unknown() + cell.all.not_applied() + cell.all.refused() + cell.all.unsent();
        if let Some(bytes) = cell.resident_bytes {
            out += &format!("  {:<24} {:>10} MiB at most of a node that lives\n", "", bytes >> 20);
        }
        if failed > 0 {
            out += &format!("  {:<24} {failed:>10} calls were not answered\n", "");
        }
    }
    out
}

fn lines(load: &str, cells: &[Cell; 4], bench: &BenchFaults) -> Vec<String> {
    let line = |(condition, cell): (&Condition, &Cell)| {
        let mut result = cell.all.to_json(Duration::from_secs((bench.seconds * bench.rounds).into()));
        result["load"] = json!(load);
        result["condition"] = json!(condition.name(bench));
        result["resident_bytes"] = json!(cell.resident_bytes);
        let ratios = ratios(cell, &cells[0]);
        let named = |(ratios, rounds): ([f64; 3], Vec<f64>)| json!({ "p50": ratios[0], "p99": ratios[1], "p99.9": ratios[2], "p99_by_round": rounds });
        result["times_healthy"] = json!(ratios.map(named));
        result.to_string()
    };
    CONDITIONS.iter().zip(cells).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_condition_is_compared_with_the_healthy_cluster() {
        let Ok(Command::BenchFaults(bench)) =
            Cli::try_parse_from(["kv", "bench-faults", "--outstanding", "1,64"]).map(|cli| cli.command)
        else {
            panic!("bench-faults")
        };
        assert_eq!(loads(&bench).len(), 3);
        let cell = |us: u64| {
            let mut cell = Cell::default();
            for us in [us, 2 * us] {
                let measured = Measured::of([Duration::from_micros(us)]);
                cell.all.add(&measured);
                cell.rounds.push(measured);
            }
            cell
        };
        let dead = Cell { resident_bytes: Some(9 << 20), ..cell(100) };
        let cells = [cell(100), cell(150), dead, Cell::default()];
        let said = table("1 outstanding", &cells, &bench);
        let row = |name: &str| said.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lossy = words(&row("0.1 % of packets lost"));
        assert_eq!(lossy[lossy.len() - 5..], ["1.50", "1.50", "1.50", "1.50", "1.50"], "{said}");
        assert!(row("one follower stopped").ends_with("nothing was answered"), "{said}");
        assert!(said.contains("         9 MiB at most"), "{said}");
        let lines = lines("1 outstanding", &cells, &bench);
        assert!(lines.len() == 4 && lines[2].contains("\"resident_bytes\":9437184"), "{lines:?}");
    }
}
