//! `kv bench-peer`: this store as one of the systems of a table that compares several on one machine.
//!
//! The harness of that table calls a program with `--out 1,8,64,256 --ops put,read --value 64 --warmup S --measure S`. The program
//! starts a cluster of its own and prints a row for each operation and number of outstanding requests: [`HEADER`] names the
//! columns, which tabs separate. Each load is a closed loop from one client on one core; keys have 16 bytes, and there are 1000.

mod echo;

use crate::bench::cost::Cost;
use crate::bench::{Asking, Load, Outcome, Own, fill, measure};
use crate::cli::{BenchPeer, Op, PeerOp, System};
use crate::load::{Measured, Pace};
use std::path::PathBuf;
use trimaran_rpc::program::connect::Connection;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::Placement;
use trimaran_rpc::program::{Program, say};

/// The names of the columns.
pub const HEADER: &str =
    "system\top\tout\tops/s\tp50us\tp99us\tp999us\terr\tother_cores\tclient_cores\tserver_cores\tserver_us/op\trss_MiB";

/// Keys to choose from, as the other systems' clients do.
const KEYS: u64 = 1000;
/// Nodes of a replicated cluster.
const NODES: u8 = 3;

/// Runs every system in turn and prints its rows.
///
/// # Errors
/// Those of the nodes and the clusters, once all systems have had their turn.
pub fn run(bench: &BenchPeer, program: &Program) -> Result<(), Error> {
    each(&bench.systems, |system| run_one(system, bench, program.service))
}

/// Gives every system its turn: rows of one are no worse because another has failed. Only whoever interrupts the program wants no more of
/// them.
fn each(systems: &[System], mut run: impl FnMut(System) -> Result<(), Error>) -> Result<(), Error> {
    let mut failed = Vec::new();
    for &system in systems {
        match run(system) {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => failed.push(format!("{} ended with {}: {error}", name(system), error.code())),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::BenchFailed { what: failed.join("; ") }) }
}

/// How a system is called in the table.
fn name(system: System) -> &'static str {
    match system {
        System::Apart => "trimaran",
        System::Together => "trimaran-together",
        System::Echo => "trimaran-echo",
        System::Raw => "trimaran-raw",
        System::Spinning => "trimaran-spin",
        System::EchoSpinning => "trimaran-echo-spin",
        System::Durable => "trimaran-durable",
    }
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about it here.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run_one(system: System, bench: &BenchPeer, service: &'static str) -> Result<(), Error> {
    let label = name(system);
    if system == System::Raw {
        return echo::run(bench, |outstanding, measured| say(&raw_row(label, outstanding, bench, measured)));
    }
    let scratch = Scratch(PathBuf::from(format!("kv-bench-peer-{}", std::process::id())));
    let data = (system == System::Durable).then(|| scratch.0.clone());
    let count = if is_echo(system) { 1 } else { NODES };
    let is_one_process = matches!(system, System::Together | System::Spinning);
    let placement = if is_one_process { Placement::Together } else { Placement::Apart };
    let spins = matches!(system, System::Spinning | System::EchoSpinning);
    let rows = rows(system, bench);
    Own { count, placement, data, service, spins }.run(1, move |mut cluster, connections| async move {
        for (op, load) in rows {
            if load.asking.reads() {
                let connection: Option<&Connection> = connections.first();
                fill(connection.ok_or(Error::Interrupted)?, &load).await?;
            }
            cluster.check()?;
            let outcome = measure(&connections, &load, Some(cluster.watched())).await?;
            say(&row(label, op, &outcome))?;
        }
        Ok(())
    })
}

/// Whether it is unreplicated.
fn is_echo(system: System) -> bool {
    matches!(system, System::Echo | System::Raw | System::EchoSpinning)
}

/// The loads with the names of their operations. What is unreplicated has no operations to tell apart, and appears as `put`.
fn rows(system: System, bench: &BenchPeer) -> Vec<(&'static str, Load)> {
    let mut rows = Vec::new();
    for &out in &bench.out {
        for &op in &bench.ops {
            let (name, op) = match (system, op) {
                (system, PeerOp::Put) if is_echo(system) => ("put", Op::Echo),
                (system, PeerOp::Read) if is_echo(system) => continue,
                (_, PeerOp::Put) => ("put", Op::Put),
                (_, PeerOp::Read) => ("read", Op::Get),
            };
            let load = Load {
                asking: Asking::One(op),
                pace: Pace::Closed { outstanding: out as usize },
                value: bench.value,
                keys: KEYS,
                measure: bench.measure,
                ..Load::of(op, bench.warmup)
            };
            rows.push((name, load));
        }
    }
    rows
}

fn row(label: &str, op: &str, outcome: &Outcome) -> String {
    let Outcome { load, measured, cost, .. } = outcome;
    let out = match load.pace {
        Pace::Closed { outstanding } => outstanding,
        Pace::Open { .. } => 0,
    };
    let per_second = measured.per_second(load.measure);
    let [p50, p99, p999] = latencies_us(measured);
    let errors = measured.refused() + measured.not_applied() + measured.unknown();
    let none = Cost::default();
    let cost = cost.as_ref().unwrap_or(&none);
    let joined = |values: Vec<String>| values.join("/");
    let cores = joined(cost.nodes.iter().map(|node| format!("{:.2}", cost.cores(node.cpu))).collect());
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let memory = joined(cost.nodes.iter().map(|node| mib(node.resident_bytes)).collect());
    let each_us = if per_second > 0.0 { cost.cores(cost.of_nodes()) * 1e6 / per_second } else { 0.0 };
    format!(
        "{label}\t{op}\t{out}\t{per_second:.0}\t{p50:.1}\t{p99:.1}\t{p999:.1}\t{errors}\t{:.2}\t{:.2}\t{cores}\t{each_us:.1}\t{memory}\n",
        cost.cores(cost.others),
        cost.cores(cost.client),
    )
}

fn latencies_us(measured: &Measured) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|quantile| measured.latency_ns().value_at_quantile(quantile) as f64 / 1e3)
}

/// A row of what has no process of its own: what it costs is not known apart.
fn raw_row(label: &str, outstanding: u32, bench: &BenchPeer, measured: &Measured) -> String {
    let (per_second, [p50, p99, p999]) = (measured.per_second(bench.measure), latencies_us(measured));
    let errors = measured.unknown();
    format!("{label}\tput\t{outstanding}\t{per_second:.0}\t{p50:.1}\t{p99:.1}\t{p999:.1}\t{errors}\t-\t-\t-\t-\t-\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cost::NodeCost;
    use crate::cli::{Cli, Command};
    use crate::load::Measured;
    use clap::Parser;
    use std::time::Duration;

    fn parse(line: &str) -> BenchPeer {
        match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::BenchPeer(bench)) => bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_of_the_harness_are_taken_as_it_writes_them() {
        let bench = parse("kv bench-peer --out 1,8,64,256 --ops put,read --value 64 --warmup .5 --measure 1");
        let all = rows(System::Apart, &bench);
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["put", "read"].repeat(4));
        let (_, load) = all[7];
        assert_eq!((load.asking, load.pace), (Asking::One(Op::Get), Pace::Closed { outstanding: 256 }));
        assert_eq!((load.value, load.keys, load.warmup), (64, 1000, Duration::from_millis(500)));
        for system in [System::Echo, System::EchoSpinning] {
            let echo = rows(system, &bench);
            let is_echo = |(name, load): &(&str, Load)| *name == "put" && load.asking == Asking::One(Op::Echo);
            assert!(echo.len() == 4 && echo.iter().all(is_echo), "{system:?}");
        }
        assert_eq!(rows(System::Spinning, &bench).len(), 8);
    }

    #[test]
    fn a_system_that_fails_does_not_take_the_later_ones_with_it() {
        let systems = [System::Apart, System::Durable, System::Echo];
        let broken = || Error::BenchFailed { what: "no disk".into() };
        let mut ran = Vec::new();
        let ended = each(&systems, |system| {
            ran.push(system);
            if system == System::Durable { Err(broken()) } else { Ok(()) }
        });
        assert_eq!(ran, systems);
        let told = ended.expect_err("one has failed").to_string();
        assert!(told.contains("trimaran-durable ended with E0322: ") && told.contains("no disk"), "{told}");
        assert!(each(&systems, |_| Ok(())).is_ok());
        ran.clear();
        let ended = each(&systems, |system| {
            ran.push(system);
            Err(Error::Interrupted)
        });
        assert!(matches!(ended, Err(Error::Interrupted)) && ran.len() == 1, "nobody waits for more after Ctrl-C");
    }

    #[test]
    fn a_row_has_the_columns_of_the_header() {
        let (_, load) = rows(System::Apart, &parse("kv bench-peer --out 8 --measure 1"))[0];
        let node = NodeCost { pid: 1, cpu: Duration::from_millis(1), resident_bytes: 9 << 20, leads: false };
        let cost = Cost {
            elapsed: Duration::from_secs(1),
            nodes: vec![node; 3],
            client: Duration::from_millis(250),
            others: Duration::from_millis(500),
            node_packets: None,
        };
        let measured = Measured::of((1..=1000).map(Duration::from_micros));
        let outcome = Outcome { load, measured, kinds: Vec::new(), keys: load.keys, conflicts: 0, cost: Some(cost) };
        let row = row("trimaran", "put", &outcome);
        assert_eq!(row, "trimaran\tput\t8\t1000\t500.2\t990.2\t999.4\t0\t0.50\t0.25\t0.00/0.00/0.00\t3.0\t9/9/9\n");
        assert_eq!(row.trim_end().split('\t').count(), HEADER.split('\t').count());
        let raw =
            raw_row("trimaran-raw", 8, &parse("kv bench-peer --measure 1"), &Measured::of([Duration::from_micros(5)]));
        assert!(raw.starts_with("trimaran-raw\tput\t8\t1\t5.0\t"), "{raw}");
        assert_eq!(raw.trim_end().split('\t').count(), HEADER.split('\t').count());
    }
}
