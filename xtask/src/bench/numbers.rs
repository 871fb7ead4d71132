//! Numbers by name, out of what the parts of a run have printed: `put.64.per_second` and the like, which goals and tables ask for.

use serde_json::{Value, json};

use super::goals::Metrics;
use super::texts;

/// Bytes of a value where nothing else is said.
pub(crate) const USUAL_BYTES: u32 = 64;
/// Columns of the table that compares systems; tabs separate them.
const PEER_COLUMNS: usize = 13;

/// The objects of JSON among the lines of a program's output.
pub(crate) fn rows(output: &str) -> Vec<Value> {
    output.lines().filter(|line| line.starts_with('{')).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The rows of a part's output: objects of JSON, or what some programs print for people instead.
pub(crate) fn printed(part: &str, output: &str) -> Vec<Value> {
    let rows = rows(output);
    match part {
        "dpdk" if rows.is_empty() => texts::dpdk(output),
        "scaling" if rows.is_empty() => texts::scaling(output),
        "instructions" if rows.is_empty() => texts::counts(output),
        "ring" if rows.is_empty() => texts::ring(output),
        _ => rows,
    }
}

/// A number inside a value; `path` names keys, separated by `/`.
pub(crate) fn number(value: &Value, path: &str) -> Option<f64> {
    value.pointer(&format!("/{path}")).and_then(Value::as_f64)
}

fn word<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.get(path).and_then(Value::as_str)
}

/// How a load is called: what is asked for, at which pace, and the size of values where it is not the usual one.
pub(crate) fn load_name(row: &Value) -> Option<String> {
    let asked = match (word(row, "op"), word(row, "mix"), number(row, "reads_percent")) {
        (Some(op), ..) => op.to_owned(),
        (_, Some(mix), _) => format!("mix-{mix}"),
        (.., Some(percent)) => format!("reads-{percent}"),
        _ => return None,
    };
    let pace = match (number(row, "outstanding"), number(row, "rate")) {
        (Some(outstanding), _) => outstanding.to_string(),
        (_, Some(rate)) => format!("rate-{rate}"),
        _ => return None,
    };
    Some(format!("{asked}.{pace}{}", size_name(row)))
}

/// Whether a load has values of the usual size.
pub(crate) fn is_usual(row: &Value) -> bool {
    number(row, "value_bytes").is_none_or(|bytes| bytes == f64::from(USUAL_BYTES))
}

/// Ends the name of a load whose values are not of the usual size.
fn size_name(row: &Value) -> String {
    match number(row, "value_bytes") {
        Some(bytes) if !is_usual(row) => format!(".v{bytes}"),
        _ => String::new(),
    }
}

/// The numbers of one part.
pub(crate) fn of(part: &str, rows: &[Value]) -> Metrics {
    let mut found: Vec<(String, Option<f64>)> = Vec::new();
    let mut put = |name: String, value: Option<f64>| found.push((name, value));
    for row in rows {
        match part {
            "micro" => {
                if let Some(id) = word(row, "id") {
                    put(format!("micro.{id}"), number(row, "value"));
                }
            }
            // Their ids begin with the part's name.
            "applier" | "snapshot" => {
                if let Some(id) = word(row, "id") {
                    put(id.to_owned(), number(row, "value"));
                }
            }
            "dpdk" => {
                for key in ["bare_of_testpmd", "loop_of_testpmd"] {
                    put(format!("dpdk.{key}"), number(row, key));
                }
            }
            "peers" => {
                let name = ["system", "op"].map(|key| word(row, key).unwrap_or_default()).join(".");
                let name = format!("peer.{name}.{}{}", number(row, "out").unwrap_or(0.0), size_name(row));
                for key in ["per_second", "p50_us", "p99_us", "p999_us", "server_us"] {
                    put(format!("{name}.{key}"), number(row, key));
                }
                // A row is measured for a second or longer: no more than this share.
                let calls = number(row, "per_second").zip(number(row, "errors"));
                put(format!("{name}.failed_share"), calls.map(|(rate, errors)| share(errors, rate)));
            }
            "failover-us" | "failover-shared" => {
                let name = part.replace('-', ".");
                for key in ["p50", "p99", "max"] {
                    put(format!("{name}.{key}_ms"), number(row, &format!("outage_ms/{key}")));
                }
                put(format!("{name}.share_within_bound"), number(row, "share_within_bound"));
            }
            "faults" => {
                // One follower dead, one stopped, or a share of packets lost.
                let condition = word(row, "condition").unwrap_or_default();
                let kinds = [("healthy", "healthy"), ("lost", "lossy"), ("dead", "dead"), ("stopped", "stopped")];
                if let Some((_, kind)) = kinds.iter().find(|(word, _)| condition.ends_with(word)) {
                    put(format!("faults.{kind}.p99"), number(row, "times_healthy/p99"));
                    put(format!("faults.{kind}.failed_share"), failed_share(row));
                    put(
                        format!("faults.{kind}.mib"),
                        number(row, "resident_bytes").map(|bytes| bytes / f64::from(1 << 20)),
                    );
                }
            }
            "scaling" => {
                put("scaling.one_to_two".into(), number(row, "one_to_two"));
                if let Some(cores) = number(row, "cores") {
                    for key in ["per_second", "per_cpu_second"] {
                        put(format!("scaling.{cores}.{key}"), number(row, key));
                    }
                }
            }
            "instructions" => {
                if let (Some(name), Some(count)) = (word(row, "name"), number(row, "instructions")) {
                    put(format!("instructions.{name}"), Some(count));
                }
            }
            "ring" => {
                let names = ["layout", "op"].map(|key| word(row, key).unwrap_or_default());
                put(format!("ring.{}", names.join(".")), number(row, "per_second"));
            }
            _ => load(part, row, &mut put),
        }
    }
    let mut metrics = Metrics::new();
    for (name, value) in found.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        // The same fault under several loads: the worst counts. Rings at several numbers of outstanding requests: the most. Of
        // anything else there is one.
        metrics.entry(name).and_modify(|other| *other = value.max(*other)).or_insert(value);
    }
    metrics
}

/// Calls that were not answered as they should be: refused, certainly without effect, of unknown outcome, or never sent.
pub(crate) fn failed(row: &Value) -> Option<f64> {
    let counts = ["refused", "not_applied", "unknown", "unsent"].map(|key| number(row, key));
    counts.into_iter().flatten().reduce(|sum, count| sum + count)
}

fn share(failed: f64, answered: f64) -> f64 {
    if failed > 0.0 { failed / (failed + answered) } else { 0.0 }
}

/// What share of all calls that was.
pub(crate) fn failed_share(row: &Value) -> Option<f64> {
    Some(share(failed(row)?, number(row, "answered")?))
}

/// The numbers of one load of `kv bench`, or of its idle cluster.
fn load(part: &str, row: &Value, put: &mut impl FnMut(String, Option<f64>)) {
    let nodes = row.pointer("/cost/nodes").and_then(Value::as_array);
    let most = |key: &str| nodes.and_then(|nodes| nodes.iter().filter_map(|node| number(node, key)).reduce(f64::max));
    let all = |key: &str| nodes.map(|nodes| nodes.iter().filter_map(|node| number(node, key)).sum::<f64>());
    let mib = most("resident_bytes").map(|bytes| bytes / f64::from(1 << 20));
    if row.get("idle_seconds").is_some() {
        put("idle.mib".into(), mib);
        put("idle.cores".into(), all("cores"));
        return;
    }
    let Some(name) = load_name(row) else { return };
    let name = format!("{part}.{name}");
    put(format!("{name}.per_second"), number(row, "per_second"));
    for (key, path) in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"), ("p9999", "p99.99")] {
        put(format!("{name}.{key}_us"), number(row, &format!("latency_ns/{path}")).map(|ns| ns / 1e3));
    }
    put(format!("{name}.failed_share"), failed_share(row));
    put(format!("{name}.nodes_us"), number(row, "cost/nodes_us_each"));
    put(format!("{name}.cores"), all("cores"));
    put(format!("{name}.mib"), mib);
}

/// The rows of a file of the harness's, measured with values of one size, of each system, operation and number of outstanding requests the one with the most operations.
pub(crate) fn peers(text: &str, value_bytes: u32) -> Vec<Value> {
    let mut best: Vec<Value> = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let numbers: Vec<Option<f64>> = columns.iter().map(|column| column.parse().ok()).collect();
        // Which leaves out what else programs print, and the header.
        let (PEER_COLUMNS, Some(Some(out)), Some(Some(per_second))) = (columns.len(), numbers.get(2), numbers.get(3))
        else {
            continue;
        };
        let row = json!({
            "system": columns[0], "op": columns[1], "out": out, "per_second": per_second, "p50_us": numbers[4], "p99_us": numbers[5],
            "p999_us": numbers[6], "errors": numbers[7], "other_cores": numbers[8], "client_cores": numbers[9], "server_cores": columns[10],
            "server_us": numbers[11], "rss_mib": columns[12], "value_bytes": value_bytes,
        });
        let same = |other: &&mut Value| ["system", "op", "out"].iter().all(|key| other[key] == row[key]);
        match best.iter_mut().find(same) {
            Some(other) if number(other, "per_second") >= Some(*per_second) => {}
            Some(other) => *other = row,
            None => best.push(row),
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_named_by_what_was_asked_for_and_how() {
        let name = |row: Value| load_name(&row);
        assert_eq!(name(json!({ "op": "put", "outstanding": 64, "value_bytes": 64 })).as_deref(), Some("put.64"));
        assert_eq!(
            name(json!({ "mix": "a", "rate": 500, "value_bytes": 1024 })).as_deref(),
            Some("mix-a.rate-500.v1024")
        );
        assert_eq!(name(json!({ "reads_percent": 0, "outstanding": 8 })).as_deref(), Some("reads-0.8"));
        assert_eq!(name(json!({ "idle_seconds": 1 })), None);
    }

    #[test]
    fn a_load_has_rates_latencies_and_costs() {
        let row = json!({
            "op": "put", "outstanding": 256, "per_second": 1e5, "latency_ns": { "p50": 1500, "p99": 3000, "p99.9": 4000 },
            "cost": { "nodes": [{ "cores": 0.25, "resident_bytes": 1048576 }, { "cores": 0.5, "resident_bytes": 2097152 }], "nodes_us_each": 7.5 },
        });
        let metrics = of(
            "throughput",
            &[row, json!({ "idle_seconds": 2, "cost": { "nodes": [{ "cores": 0.1, "resident_bytes": 5242880 }] } })],
        );
        let expected = [
            ("throughput.put.256.per_second", 1e5),
            ("throughput.put.256.p50_us", 1.5),
            ("throughput.put.256.p999_us", 4.0),
            ("throughput.put.256.nodes_us", 7.5),
            ("throughput.put.256.cores", 0.75),
            ("throughput.put.256.mib", 2.0),
            ("idle.mib", 5.0),
            ("idle.cores", 0.1),
        ];
        for (name, value) in expected {
            assert_eq!(metrics.get(name), Some(&value), "{name} of {metrics:?}");
        }
    }

    #[test]
    fn of_a_systems_repeated_rows_the_best_is_kept_and_everything_else_is_passed_over() {
        let row = |system: &str, ops: &str| {
            format!("{system}\tput\t64\t{ops}\t1\t2\t3\t0\t0.5\t0.4\t0.1/0.2/0.3\t4.5\t9/9/9")
        };
        let text = [
            "system\top\tout\tops/s\tp50us\tp99us\tp999us\terr\tother_cores\tclient_cores\tserver_cores\tserver_us/op\trss_MiB".to_owned(),
            row("null", "100"),
            row("null", "300"),
            row("null", "200"),
            "etcd-tmpfs failed".into(),
            row("echo", "9"),
        ];
        let rows = peers(&text.join("\n"), 64);
        assert_eq!(rows.len(), 2, "{rows:?}");
        let metrics = of("peers", &rows);
        assert_eq!(metrics.get("peer.null.put.64.per_second"), Some(&300.0));
        assert_eq!(metrics.get("peer.echo.put.64.server_us"), Some(&4.5));
        assert_eq!(metrics.get("peer.echo.put.64.failed_share"), Some(&0.0));
        let failing = row("null", "99").replace("\t0\t0.5", "\t1\t0.5");
        assert_eq!(of("peers", &peers(&failing, 64)).get("peer.null.put.64.failed_share"), Some(&0.01));
        let large = of("peers", &peers(&text.join("\n"), 8192));
        assert_eq!(large.get("peer.null.put.64.v8192.per_second"), Some(&300.0), "beside those of the usual size");
        assert!(!large.contains_key("peer.null.put.64.per_second"));
    }

    #[test]
    fn of_a_fault_under_several_loads_the_worst_counts() {
        let row = |condition: &str, ratio: f64| json!({ "condition": condition, "times_healthy": { "p99": ratio } });
        let mut rows = [
            row("healthy", 1.0),
            row("0.1 % of packets lost", 2.0),
            row("one follower dead", 1.1),
            row("0.1 % of packets lost", 1.5),
        ];
        let metrics = of("faults", &rows);
        assert_eq!(metrics.len(), 3, "{metrics:?}");
        assert_eq!((metrics["faults.lossy.p99"], metrics["faults.dead.p99"]), (2.0, 1.1));
        for (row, unknown) in rows.iter_mut().zip([0, 0, 2, 1]) {
            for (key, count) in [("answered", 97), ("unknown", unknown), ("not_applied", unknown), ("unsent", 0)] {
                row[key] = json!(count);
            }
            row["resident_bytes"] = json!(9 << 20);
        }
        let metrics = of("faults", &rows);
        let shares = ["healthy", "dead"].map(|kind| metrics[&format!("faults.{kind}.failed_share")]);
        assert_eq!((shares, metrics["faults.dead.mib"]), ([0.0, 4.0 / 101.0], 9.0));
        assert!((metrics["faults.lossy.failed_share"] - 2.0 / 99.0).abs() < 1e-9, "of the worse");
    }

    #[test]
    fn rows_are_the_objects_among_the_lines() {
        let rows = rows("warming up\n{\"id\":\"runtime.turn\",\"value\":7.5,\"unit\":\"ns\"}\n{ broken\n");
        assert_eq!(of("micro", &rows).get("micro.runtime.turn"), Some(&7.5));
        assert_eq!(of("applier", &rows).get("runtime.turn"), Some(&7.5), "whose ids say where they are from");
        let failover = [json!({ "outage_ms": { "p50": 5.0, "p99": 9.0 }, "share_within_bound": 0.99 })];
        assert_eq!(of("failover-us", &failover).get("failover.us.p99_ms"), Some(&9.0));
    }
}
