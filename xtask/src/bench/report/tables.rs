//! The tables of the report.

use serde_json::Value;

use super::super::Findings;
use super::super::goals::short;
use super::super::numbers::{failed, is_usual, number};
use super::super::svg::escape;

/// What is longer than so many bytes may take several lines.
const LONG_CELL: usize = 80;

/// A table of cells that are HTML already.
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|cell| escape(cell)).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// Nothing where there are no rows. Words stand at the left, numbers at the right.
    pub(super) fn html(self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let is_word = |cell: &String| cell.starts_with(|c: char| c.is_alphabetic() || c == '<');
        let words = |at: usize| self.rows.iter().any(|row| row.get(at).is_some_and(is_word));
        let is_long = |at: usize| self.rows.iter().any(|row| row.get(at).is_some_and(|cell| cell.len() > LONG_CELL));
        let class = |at: usize| match (at == 0 || words(at), is_long(at)) {
            (true, true) => " class=\"left long\"",
            (true, false) => " class=\"left\"",
            _ => "",
        };
        let classes: Vec<&str> = (0..self.head.len()).map(class).collect();
        let line = |tag: &str, cells: &[String]| {
            let cells = cells.iter().zip(&classes).map(|(cell, class)| format!("<{tag}{class}>{cell}</{tag}>"));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let rows: String = self.rows.iter().map(|row| line("td", row)).collect();
        format!("<div class=\"wide\"><table>\n{}{rows}</table></div>\n", line("th", &self.head))
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), short)
}

fn word(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::String(text) => escape(text),
        Value::Null => "-".into(),
        other => escape(&other.to_string()),
    }
}

/// The systems in one table, with how often trimaran does each operation while another does it once.
pub(super) fn peers(findings: &Findings) -> String {
    if findings.rows("peers").is_empty() {
        return super::missing(findings, "peers");
    }
    let rows: Vec<&Value> = findings.rows("peers").iter().filter(|row| is_usual(row)).collect();
    let head = [
        "system",
        "operation",
        "outstanding",
        "a second",
        "trimaran / it",
        "p50 us",
        "p99 us",
        "server us each",
        "server cores",
        "MiB",
        "errors",
    ];
    let mut table = Table::new(&head);
    for &row in &rows {
        let ratio = over_it(&rows, row);
        let numbers = ["p50_us", "p99_us", "server_us"].map(|key| shown(number(row, key)));
        let mut cells = vec![
            word(row, "system"),
            word(row, "op"),
            shown_count(number(row, "out")),
            shown(number(row, "per_second")),
        ];
        cells.push(ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
        cells.extend(numbers);
        cells.extend([word(row, "server_cores"), word(row, "rss_mib"), shown_count(number(row, "errors"))]);
        table.row(&cells);
    }
    super::missing(findings, "peers")
        + &format!(
            "<p>Clusters of three on this machine, one at a time; what is unreplicated appears as put.</p>\n{}",
            table.html()
        )
}

/// How often trimaran does what a row is about while that row's system does it once.
fn over_it(rows: &[&Value], row: &Value) -> Option<f64> {
    let is_ours = |other: &&&Value| {
        other["system"] == "trimaran" && ["op", "out", "value_bytes"].iter().all(|key| other[key] == row[key])
    };
    Some(number(rows.iter().find(is_ours)?, "per_second")? / number(row, "per_second").filter(|rate| *rate > 0.0)?)
}

/// Systems that answer with values of several sizes, and what they use while little is asked.
pub(super) fn sizes_beside(findings: &Findings) -> String {
    let all: Vec<&Value> = findings.rows("peers").iter().filter(|row| row["op"] == "put").collect();
    let sizes_of = |system: &Value| {
        let mut sizes: Vec<&&Value> = all.iter().filter(|row| row["system"] == *system && row["out"] == 64.0).collect();
        sizes.sort_by_key(|row| row["value_bytes"].as_u64());
        sizes
    };
    let mut systems: Vec<&Value> = Vec::new();
    for row in all.iter().filter(|row| !is_usual(row)) {
        if !systems.contains(&&row["system"]) {
            systems.push(&row["system"]);
        }
    }
    let head = [
        "system",
        "bytes of a value",
        "puts a second",
        "trimaran / it",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "server us each",
        "errors",
    ];
    let mut sizes = Table::new(&head);
    let mut little = Table::new(&["system", "puts a second", "servers' cores", "server us each"]);
    for &system in &systems {
        for &row in sizes_of(system) {
            let ratio = over_it(&all, row).map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let mut cells = vec![
                word(row, "system"),
                shown_count(number(row, "value_bytes")),
                shown(number(row, "per_second")),
                ratio,
            ];
            cells.extend(["p50_us", "p99_us", "p999_us", "server_us"].map(|key| shown(number(row, key))));
            cells.push(shown_count(number(row, "errors")));
            sizes.row(&cells);
        }
        for row in all.iter().filter(|row| row["system"] == *system && row["out"] == 1.0 && is_usual(row)) {
            let [rate, each] = ["per_second", "server_us"].map(|key| shown(number(row, key)));
            little.row(&[word(row, "system"), rate, word(row, "server_cores"), each]);
        }
    }
    if systems.is_empty() {
        return String::new();
    }
    format!(
        "<p>Values of several sizes, puts, 64 outstanding. The harness tells no p99.99; trimaran's are with its own loads below.</p>\n{}\
         <p>What servers use while little is asked. The harness has closed loops only, so that it cannot tell what others use at 100 to 10,000 \
         requests a second, as the table of trimaran's own open loops does below, or at none; one request at a time is the least that it asks \
         for.</p>\n{}",
        sizes.html(),
        little.html()
    )
}

fn shown_count(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.0}"))
}

/// Loads of `kv bench`, one a row, each behind the name of what was loaded.
pub(super) fn loads(clusters: &[(&str, &[Value])]) -> String {
    let head = [
        "cluster",
        "load",
        "pace",
        "bytes",
        "a second",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "p99.99 us",
        "nodes' us each",
        "nodes' cores",
        "MiB a node",
        "not answered",
    ];
    let mut table = Table::new(&head);
    let rows = clusters.iter().flat_map(|(cluster, rows)| rows.iter().map(move |row| (*cluster, row)));
    for (cluster, row) in rows.filter(|(_, row)| row.get("idle_seconds").is_none()) {
        let name = match (row.get("op"), row.get("mix"), row.get("reads_percent")) {
            (Some(_), ..) => word(row, "op"),
            (_, Some(_), _) => format!("mix {}", word(row, "mix")),
            _ => format!("{} % reads", word(row, "reads_percent")),
        };
        let pace = match (number(row, "outstanding"), number(row, "rate")) {
            (Some(outstanding), _) => format!("{outstanding} outstanding"),
            (_, rate) => match number(row, "share_percent") {
                Some(percent) => format!("{} a second ({percent} % of the closed loop's)", shown(rate)),
                None => format!("{} a second", shown(rate)),
            },
        };
        let us = |key: &str| shown(number(row, &format!("latency_ns/{key}")).map(|ns| ns / 1e3));
        let lost = failed(row).unwrap_or(0.0);
        let size = shown_count(number(row, "value_bytes"));
        let mut cells = vec![cluster.to_owned(), name, pace, size, shown(number(row, "per_second"))];
        cells.extend(["p50", "p99", "p99.9", "p99.99"].map(us));
        cells.extend([shown(number(row, "cost/nodes_us_each")), cores(row), memory(row), format!("{lost:.0}")]);
        table.row(&cells);
    }
    table.html()
}

fn nodes(row: &Value) -> &[Value] {
    row.pointer("/cost/nodes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn cores(row: &Value) -> String {
    let each = nodes(row).iter().filter_map(|node| number(node, "cores"));
    let each: Vec<String> = each.map(|cores| format!("{cores:.2}")).collect();
    if each.is_empty() { "-".into() } else { each.join(" / ") }
}

fn memory(row: &Value) -> String {
    let most = nodes(row).iter().filter_map(|node| number(node, "resident_bytes")).reduce(f64::max);
    shown_count(most.map(|bytes| bytes / f64::from(1 << 20)))
}

pub(super) fn failover(findings: &Findings) -> String {
    let head = [
        "profile",
        "kills",
        "to a commit: p50 ms",
        "p99",
        "max",
        "to a leader: p50 ms",
        "p99",
        "whole again: p50 ms",
        "p99",
        "within bound",
        "client asks the next after",
    ];
    let mut table = Table::new(&head);
    for row in ["failover-us", "failover-shared"].iter().flat_map(|part| findings.rows(part)) {
        let ms = |path: &str| shown(number(row, path));
        let within = format!(
            "{} % of {} ms",
            shown(number(row, "share_within_bound").map(|share| share * 100.0)),
            ms("bound_ms")
        );
        let mut cells = vec![word(row, "profile"), word(row, "kills")];
        let paths = [
            "outage_ms/p50",
            "outage_ms/p99",
            "outage_ms/max",
            "election_ms/p50",
            "election_ms/p99",
            "repair_ms/p50",
            "repair_ms/p99",
        ];
        cells.extend(paths.map(ms));
        cells.extend([within, format!("{} ms", ms("client_probe_ms"))]);
        table.row(&cells);
    }
    table.html()
}

/// What faults do to latencies, and what nodes cost while little or nothing is asked.
pub(super) fn costs(findings: &Findings) -> String {
    let mut idle = Table::new(&["load", "nodes' cores", "% of a core, all nodes", "MiB a node", "p99 us", "p99.99 us"]);
    for row in findings.rows("throughput").iter().filter(|row| row.get("idle_seconds").is_some()) {
        idle.row(&["none".into(), cores(row), percent(row), memory(row), "-".into(), "-".into()]);
    }
    let is_slow = |row: &&Value| number(row, "rate").is_some_and(|rate| rate <= 10_000.0);
    for row in findings.rows("load").iter().filter(is_slow) {
        let us = |key: &str| shown(number(row, &format!("latency_ns/{key}")).map(|ns| ns / 1e3));
        idle.row(&[
            format!("{} puts a second", shown(number(row, "rate"))),
            cores(row),
            percent(row),
            memory(row),
            us("p99"),
            us("p99.99"),
        ]);
    }
    let mut faults = Table::new(&[
        "load",
        "condition",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "p99, times healthy",
        "answered",
        "unknown",
        "not applied",
        "refused",
        "unsent",
        "MiB a node",
    ]);
    for row in findings.rows("faults") {
        let us = |key: &str| shown(number(row, &format!("latency_ns/{key}")).map(|ns| ns / 1e3));
        let mut cells = vec![word(row, "load"), word(row, "condition")];
        cells.extend(["p50", "p99", "p99.9"].map(us));
        cells.push(shown(number(row, "times_healthy/p99")));
        cells.extend(
            ["answered", "unknown", "not_applied", "refused", "unsent"].map(|key| shown_count(number(row, key))),
        );
        cells.push(shown_count(number(row, "resident_bytes").map(|bytes| bytes / f64::from(1 << 20))));
        faults.row(&cells);
    }
    let missing: String = ["load", "faults", "snapshot"].map(|part| super::missing(findings, part)).concat();
    idle.html() + &faults.html() + &told(findings.rows("snapshot")) + &missing
}

fn percent(row: &Value) -> String {
    let all: f64 = nodes(row).iter().filter_map(|node| number(node, "cores")).sum();
    format!("{:.1}", all * 100.0)
}

/// Figures of the crate `benches`.
fn figures(rows: &[Value]) -> Table {
    let mut table = Table::new(&["what", "value", "unit"]);
    for row in rows {
        table.row(&[word(row, "id"), shown(number(row, "value")), word(row, "unit")]);
    }
    table
}

fn told(rows: &[Value]) -> String {
    figures(rows).html()
}

/// Handlers that take long, on the node's core and on one of their own.
pub(super) fn applier(findings: &Findings) -> String {
    let rows = findings.rows("applier");
    let text = "<p>Handlers of 10 us. One replica with its client on its core; and three replicas with a thread each, of which changes of role, \
                term or leader are counted while they have 80 % of what they bear; failed_share are the calls that were not answered then: \
                a load that was not carried would say nothing of elections.</p>\n";
    super::missing(findings, "applier") + if rows.is_empty() { "" } else { text } + &told(rows)
}

pub(super) fn micro(findings: &Findings) -> String {
    let mut table = figures(findings.rows("micro"));
    for row in findings.rows("instructions") {
        table.row(&[
            format!("instructions: {}", word(row, "name")),
            shown(number(row, "instructions")),
            "instructions".into(),
        ]);
    }
    for row in findings.rows("ring") {
        let name =
            format!("ring, {}, {}, {} outstanding", word(row, "layout"), word(row, "op"), word(row, "outstanding"));
        table.row(&[name, shown(number(row, "per_second")), "per CPU-second".into()]);
    }
    for row in findings.rows("dpdk") {
        for (key, name) in [("bare_of_testpmd", "a bare loop"), ("loop_of_testpmd", "the runtime's loop")] {
            table.row(&[format!("{name} over memif, of testpmd's frames"), shown(number(row, key)), "share".into()]);
        }
    }
    let missing: String = ["micro", "ring", "instructions", "dpdk"].map(|part| super::missing(findings, part)).concat();
    missing + &table.html()
}

pub(super) fn parts(findings: &Findings) -> String {
    let mut table = Table::new(&["part", "what", "state", "seconds", "why"]);
    for outcome in &findings.outcomes {
        let why = outcome.why.as_ref().map_or(String::new(), |why| escape(why));
        let seconds = format!("{:.0}", outcome.took.as_secs_f64());
        table.row(&[outcome.part.name.into(), escape(outcome.part.what), outcome.state().into(), seconds, why]);
    }
    table.html()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::findings;
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_of_values_stand_beside_other_systems_and_out_of_the_usual_rows() {
        let row = |system: &str, out: f64, bytes: u32, rate: f64| json!({ "system": system, "op": "put", "out": out, "value_bytes": bytes, "per_second": rate, "p50_us": 5.0, "p99_us": 9.0, "server_cores": "0.1/0.2/0.3" });
        let rows = vec![
            row("null", 64.0, 64, 900_000.0),
            row("etcd-tmpfs", 1.0, 64, 2_345.0),
            row("etcd-tmpfs", 64.0, 64, 20_000.0),
            row("trimaran", 64.0, 64, 240_000.0),
            row("etcd-tmpfs", 64.0, 8192, 7_000.0),
            row("trimaran", 64.0, 8192, 35_000.0),
        ];
        let findings = findings(&[("peers", Ok(rows))]);
        let sizes = sizes_beside(&findings);
        assert!(sizes.contains("<td>8192</td><td>7,000</td><td>5.00</td>"), "of the same size: {sizes}");
        assert!(sizes.contains("<td>64</td><td>20,000</td><td>12.00</td>") && !sizes.contains("null"), "{sizes}");
        assert!(sizes.contains("no p99.99") && sizes.contains("<td>2,345</td>"), "{sizes}");
        let usual = peers(&findings);
        assert!(usual.contains("20,000") && !usual.contains("7,000") && !usual.contains("35,000"), "{usual}");
        assert_eq!(sizes_beside(&super::super::super::tests::findings(&[("peers", Ok(Vec::new()))])), "");
    }

    #[test]
    fn words_stand_at_the_left_and_numbers_at_the_right() {
        let mut table = Table::new(&["a < b", "n", "why"]);
        assert_eq!(Table::new(&["a"]).html(), "");
        table.row(&["1".into(), "-".into(), String::new()]);
        table.row(&["2".into(), "3.5".into(), "because".into()]);
        let out = table.html();
        assert!(!out.contains("long"), "{out}");
        let mut long = Table::new(&["a"]);
        long.row(&["word ".repeat(20)]);
        assert!(long.html().contains("<td class=\"left long\">"));
        assert!(out.contains("<th class=\"left\">a &lt; b</th><th>n</th><th class=\"left\">why</th>"), "{out}");
        assert!(out.contains("<td class=\"left\">2</td><td>3.5</td><td class=\"left\">because</td>"), "{out}");
    }
}
