//! What the kills came to, in words and as JSON.

use super::Findings;
use crate::cli::BenchFailover;
use serde_json::{Value, json};
use std::time::Duration;
use trimaran_rpc::client::ClientConfig;

/// Rows of the histogram in words.
const ROWS_MAX: usize = 24;
/// Columns of its longest bar.
const BAR_COLUMNS: usize = 50;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Of sorted times the one that so many of a hundred do not pass: the smallest with that share at or below it.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied()
}

/// `p50`, `p99` and the longest.
fn three(times: &[Duration]) -> Option<[Duration; 3]> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    Some([percentile(&sorted, 50)?, percentile(&sorted, 99)?, *sorted.last()?])
}

/// Twice the longest election timeout and five round trips: what an outage shall not pass in 99 of 100 kills. A put takes two
/// round trips; the quickest has waited for nothing else.
fn bound(findings: &Findings) -> Duration {
    let quickest_ns = findings.puts.latency_ns();
    let quickest_ns = if quickest_ns.is_empty() { 0 } else { quickest_ns.min() };
    findings.election_max * 2 + Duration::from_nanos(quickest_ns * 5 / 2)
}

fn share_within(findings: &Findings) -> f64 {
    let bound = bound(findings);
    let within = findings.outages.iter().filter(|outage| **outage <= bound).count();
    within as f64 / findings.outages.len().max(1) as f64
}

/// Counts of times in steps of one width: the width, and how many are in each step from 0 on.
fn histogram(times: &[Duration]) -> (Duration, Vec<usize>) {
    let longest = times.iter().max().copied().unwrap_or_default();
    let widths_ms = (0..6).flat_map(|power| [1, 2, 5].map(|first| first * 10u64.pow(power)));
    let mut widths = widths_ms.map(Duration::from_millis);
    let width = widths.find(|width| longest < *width * ROWS_MAX as u32).unwrap_or(Duration::from_secs(1000));
    let mut counts = vec![0; ROWS_MAX];
    for time in times {
        let at = (time.as_nanos() / width.as_nanos()) as usize;
        if let Some(count) = counts.get_mut(at.min(ROWS_MAX - 1)) {
            *count += 1;
        }
    }
    counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
    (width, counts)
}

pub(super) fn text(bench: &BenchFailover, findings: &Findings) -> String {
    let (profile, nodes, rate) = (bench.profile.name(), bench.nodes, bench.rate);
    let kills = findings.outages.len();
    let mut out =
        format!("{kills} leaders of {nodes} nodes killed, profile `{profile}`, {rate} puts a second all the while\n");
    out += &format!("{:<38} {:>8} {:>8} {:>8}\n", "from the kill, ms", "p50", "p99", "max");
    let rows = [
        ("to the first new put that is answered", &findings.outages),
        ("to a leader", &findings.elections),
        ("to a whole cluster, started again", &findings.repairs),
    ];
    for (name, times) in rows {
        if let Some(row) = three(times) {
            out += &format!("  {name:<36}");
            row.iter().for_each(|time| out += &format!(" {:>8.2}", ms(*time)));
            out += "\n";
        }
    }
    out += &format!(
        "  {:.1} % within twice the longest timeout and 5 round trips, {:.1} ms\n",
        100.0 * share_within(findings),
        ms(bound(findings))
    );
    if let Some(probe) = findings.probe {
        out += &format!(
            "  by a client that asks the next server after {} ms without an answer, where a usual one waits {} ms and may see as much more\n",
            ms(probe),
            ms(ClientConfig::default().probe)
        );
    }
    let (width, counts) = histogram(&findings.outages);
    let most = counts.iter().max().copied().unwrap_or(0).max(1);
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    for (step, count) in counts.iter().enumerate().skip(first) {
        let bar = "#".repeat((count * BAR_COLUMNS).div_ceil(most));
        out += &format!("  {:>6} ms {count:>6} {bar}\n", (width * step as u32).as_millis());
    }
    out
}

pub(super) fn json(bench: &BenchFailover, findings: &Findings) -> Value {
    let named = |times: &[Duration]| {
        three(times).map(|[p50, p99, max]| json!({ "p50": ms(p50), "p99": ms(p99), "max": ms(max) }))
    };
    json!({
        "profile": bench.profile.name(),
        "kills": findings.outages.len(),
        "nodes": bench.nodes,
        "rate": bench.rate,
        "client_probe_ms": ms(findings.probe.unwrap_or(ClientConfig::default().probe)),
        "outage_ms": named(&findings.outages),
        "election_ms": named(&findings.elections),
        "repair_ms": named(&findings.repairs),
        "bound_ms": ms(bound(findings)),
        "share_within_bound": share_within(findings),
        "outages_ms": findings.outages.iter().map(|outage| ms(*outage)).collect::<Vec<_>>(),
        "puts": { "answered": findings.puts.answered(), "unknown": findings.puts.unknown(), "not_applied": findings.puts.not_applied() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::load::Measured;
    use clap::Parser;

    fn times(ms: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        ms.into_iter().map(Duration::from_millis).collect()
    }

    fn findings(outages: Vec<Duration>) -> Findings {
        let puts = Measured::of([400, 90_000].map(Duration::from_micros));
        let election_max = Duration::from_millis(6);
        Findings { outages, elections: Vec::new(), repairs: Vec::new(), puts, election_max, probe: None }
    }

    fn bench() -> BenchFailover {
        match Cli::try_parse_from(["kv", "bench-failover", "--kills", "100"]).map(|cli| cli.command) {
            Ok(Command::BenchFailover(bench)) => bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let hundred = times(1..=100);
        assert_eq!(three(&hundred).map(|three| three.map(|time| time.as_millis())), Some([50, 99, 100]));
        assert_eq!(three(&times([7])).map(|three| three.map(|time| time.as_millis())), Some([7, 7, 7]));
        assert_eq!(three(&times(1..=50)).map(|three| three[1].as_millis()), Some(50), "of 50 the longest");
        assert_eq!(three(&[]), None);
    }

    #[test]
    fn steps_are_as_wide_as_needed_and_hold_every_time() {
        assert_eq!(histogram(&times([0, 3, 3, 5])), (Duration::from_millis(1), vec![1, 0, 0, 2, 0, 1]));
        let (width, counts) = histogram(&times([150, 199, 200, 450]));
        assert_eq!((width, counts.iter().sum::<usize>(), counts.len()), (Duration::from_millis(20), 4, 23));
        assert_eq!(histogram(&[]).1, Vec::<usize>::new());
        let (_, counts) = histogram(&[Duration::from_secs(1_000_000)]);
        assert_eq!(counts.iter().sum::<usize>(), 1);
    }

    #[test]
    fn a_client_that_is_not_as_others_are_is_told() {
        let usual = findings(times([5]));
        assert!(!text(&bench(), &usual).contains("without an answer"));
        assert_eq!(json(&bench(), &usual)["client_probe_ms"], json!(10.0));
        let quicker = Findings { probe: Some(Duration::from_millis(1)), ..usual };
        let said = text(&bench(), &quicker);
        assert!(said.contains("after 1 ms without an answer, where a usual one waits 10 ms"), "{said}");
        assert_eq!(json(&bench(), &quicker)["client_probe_ms"], json!(1.0));
    }

    #[test]
    fn the_bound_is_told_with_the_share_that_keeps_it() {
        // 2 * 6 ms and 5 * 0.2 ms.
        let found = findings(times((1..=10).chain([13, 14])));
        assert!((ms(bound(&found)) - 13.0).abs() < 0.01, "{:?}", bound(&found));
        assert!((share_within(&found) - 10.0 / 12.0).abs() < 0.1);
        let said = text(&bench(), &found);
        assert!(said.contains("12 leaders of 3 nodes killed, profile `us`"), "{said}");
        assert!(said.contains("      13 ms      1 ####"), "{said}");
        assert!(!said.contains("to a leader"), "nobody looked: {said}");
        let value = json(&bench(), &found);
        assert_eq!((&value["outage_ms"]["p50"], &value["election_ms"]), (&json!(6.0), &Value::Null));
    }
}
