//! The table of `kv bench-ports`, and its rows as JSON. Every figure is the median of the rounds: one that a neighbour on the
//! machine has disturbed does not count.

use super::{DPDK, LINKS, LOOPBACK, PLACEMENTS, Round, Row, UDP};
use crate::cli::BenchPorts;
use crate::load::{self, Measured, Percentiles};
use serde_json::{Value, json};
use std::time::Duration;
use trimaran_rpc::program::nodes::Placement;

/// What the rounds say: the middle one and the two ends.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` where there are none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let values: Vec<f64> = values.collect();
        let (min, max) =
            values.iter().fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
        Some(Spread { median: load::median(values)?, min, max })
    }
}

type Calls = fn(&Round) -> &Measured;
const ECHO: Calls = |round| &round.echo;
const PUT: Calls = |round| &round.put;

fn p50_us(measured: &Measured) -> Option<f64> {
    measured.percentiles().map(|percentiles| percentiles.p50 as f64 / 1000.0)
}

/// One percentile of one kind of call in all rounds, in microseconds.
fn latency_us(row: &Row, calls: Calls, percentile: fn(&Percentiles) -> u64) -> Option<Spread> {
    let measured = row.rounds.iter().filter_map(|round| calls(round).percentiles());
    Spread::of(measured.map(|percentiles| percentile(&percentiles) as f64 / 1000.0))
}

/// The median of one kind of call by that of another, both of the same round.
fn ratio(a: (&Row, Calls), b: (&Row, Calls)) -> Option<Spread> {
    let rounds = a.0.rounds.iter().zip(&b.0.rounds);
    Spread::of(rounds.filter_map(|(x, y)| Some(p50_us(a.1(x))? / p50_us(b.1(y)).filter(|us| *us > 0.0)?)))
}

/// Share of a core that the processes of nodes, and that of the client, used while nothing was asked, in percent.
fn idle_percent(row: &Row) -> Option<(Spread, Spread)> {
    let percent = |used: Duration, round: &Round| {
        100.0 * used.as_secs_f64() / round.idle.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    };
    let nodes = Spread::of(row.rounds.iter().map(|round| percent(round.idle.nodes, round)))?;
    Some((nodes, Spread::of(row.rounds.iter().map(|round| percent(round.idle.client, round)))?))
}

/// One row with all that was measured, each round's medians too.
pub(super) fn json(row: &Row, bench: &BenchPorts) -> Value {
    let measured = Duration::from_secs(u64::from(bench.seconds) * u64::from(bench.rounds));
    let all = |calls: Calls| {
        let mut all = Measured::default();
        row.rounds.iter().for_each(|round| all.add(calls(round)));
        let mut value = all.to_json(measured);
        value["p50_us_of_rounds"] = row.rounds.iter().map(|round| p50_us(calls(round))).collect();
        value
    };
    let idle = idle_percent(row);
    json!({
        "port": row.name,
        "placement": row.placement.name(),
        "echo": all(ECHO),
        "put": all(PUT),
        "idle_nodes_percent": idle.map(|(nodes, _)| nodes.median),
        "idle_client_percent": idle.map(|(_, client)| client.median),
    })
}

pub(super) fn text(rows: &[Row], bench: &BenchPorts) -> String {
    let BenchPorts { nodes, outstanding, value, rounds, seconds, .. } = bench;
    let mut out = format!(
        "{nodes} nodes and a client, {outstanding} outstanding, values of {value} bytes, medians of {rounds} rounds of {seconds} s each\n"
    );
    for placement in PLACEMENTS {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.placement == placement).collect();
        if !rows.is_empty() {
            out += &section(placement, &rows);
        }
    }
    out
}

fn section(placement: Placement, rows: &[&Row]) -> String {
    let title = match placement {
        Placement::Apart => "a process for each node",
        Placement::Together => "one process for all nodes",
        Placement::DeviceEach => "the same, a device each",
        Placement::Links => "the same, linked",
    };
    let mut out = format!(
        "\n{title:<26} {:>17}   {:>17}   {}\n",
        "echo, us: p50 p99", "put, us: p50 p99", "idle, % of a core: all nodes, client"
    );
    for row in rows {
        let pair = |calls| match (latency_us(row, calls, |p| p.p50), latency_us(row, calls, |p| p.p99)) {
            (Some(p50), Some(p99)) => format!("{:>8.1} {:>8.1}", p50.median, p99.median),
            _ => "not measured".to_owned(),
        };
        let idle = idle_percent(row).map(|(nodes, client)| format!("{:.2}, {:.2}", nodes.median, client.median));
        let idle = idle.unwrap_or_else(|| "not measured".to_owned());
        out += &format!("  {:<24} {:>17}   {:>17}   {idle}\n", row.name, pair(ECHO), pair(PUT));
    }
    let row = |name| rows.iter().copied().find(|row| row.name == name);
    let [dpdk, udp, loopback] = [DPDK, UDP, LOOPBACK].map(row);
    let dpdk = dpdk.or_else(|| row(LINKS));
    let lines: [(&str, Option<Spread>); 3] = [
        ("put, dpdk / udp", dpdk.zip(udp).and_then(|(dpdk, udp)| ratio((dpdk, PUT), (udp, PUT)))),
        ("put, dpdk / udp, loopback", dpdk.zip(loopback).and_then(|(dpdk, udp)| ratio((dpdk, PUT), (udp, PUT)))),
        ("put / echo, dpdk", dpdk.and_then(|dpdk| ratio((dpdk, PUT), (dpdk, ECHO)))),
    ];
    for (name, spread) in lines.into_iter().filter(|(name, _)| loopback.is_some() || !name.contains("loopback")) {
        out += &match spread {
            Some(Spread { median, min, max }) => format!("  {name:<26} {median:>5.2} ({min:.2} to {max:.2})\n"),
            None => format!("  {name:<26} not measured\n"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts_and_the_ends_are_told() {
        assert_eq!(Spread::of([].into_iter()), None);
        let spread = Spread::of([9.0, 1.0, 30.0, 2.0, 8.0].into_iter());
        assert_eq!(spread, Some(Spread { median: 8.0, min: 1.0, max: 30.0 }));
        assert_eq!(Spread::of([4.0, 2.0].into_iter()).map(|spread| spread.median), Some(3.0));
    }
}
