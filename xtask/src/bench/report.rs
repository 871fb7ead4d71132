//! A run as one page that needs nothing else: tables, plots, and what they were measured on.

mod tables;

use std::fmt::Write;

use serde_json::Value;

use super::Findings;
use super::goals::{Metrics, Verdict, short};
use super::model::{self, Costs, Machines, Traffic};
use super::numbers::number;
use super::svg::{Bars, Plot, Series, escape};
use tables::Table;

/// Clusters, as tables name them.
const APART: &str = "in memory";
const TOGETHER: &str = "in memory, one process";
const DURABLE: &str = "durable";
/// Bars of a histogram at most.
const BARS_MAX: f64 = 40.0;
/// Cores of the model's plots and tables.
const CORES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Links, in Gbit/s.
const LINKS: [f64; 4] = [10.0, 25.0, 40.0, 100.0];
/// Key and value that the model's puts carry.
const BODY_BYTES: f64 = 80.0;

/// The whole page.
pub(crate) fn html(findings: &Findings) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n");
    out += "<meta name=\"viewport\" content=\"width=device-width\">\n<title>trimaran, measured</title>\n";
    let _ = write!(out, "<style>\n{}</style>\n", include_str!("report/style.css"));
    out += &head(findings);
    out += &section("Goals", &goals(findings));
    out += &section("Beside other systems", &tables::peers(findings));
    out += &section("Throughput and latency", &throughput(findings));
    out += &section("Mixes, reads, sizes", &mixes(findings));
    out += &section("When the leader dies", &failover(findings));
    out += &section("Faults, memory, processors", &tables::costs(findings));
    out += &section("Scaling by cores", &scaling(findings));
    out += &section("What larger machines should do", &forecast(findings));
    out += &section("Layers on their own", &tables::micro(findings));
    out += &section("Parts of this run", &tables::parts(findings));
    out + "</html>\n"
}

fn section(title: &str, body: &str) -> String {
    let body = if body.is_empty() { "<p class=\"not\">not measured</p>\n" } else { body };
    format!("<h2>{}</h2>\n{body}", escape(title))
}

/// Says that something is missing, and why where that is known.
fn missing(findings: &Findings, part: &str) -> String {
    let outcome = findings.outcomes.iter().find(|outcome| outcome.part.name == part);
    let state = match outcome.map(|outcome| (outcome.state(), &outcome.why)) {
        Some((_, None)) => return String::new(),
        Some((state, Some(why))) => format!("{state}: {}", escape(why)),
        None => "not measured: not among the parts of this run".to_owned(),
    };
    format!("<p class=\"not\">{part}: {state}</p>\n")
}

fn plots(drawn: &[String]) -> String {
    let figures: String =
        drawn.iter().filter(|svg| !svg.is_empty()).map(|svg| format!("<figure>{svg}</figure>\n")).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"plots\">\n{figures}</div>\n") }
}

fn head(findings: &Findings) -> String {
    let word = |key: &str| match &findings.machine[key] {
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    };
    let kind = if findings.machine["virtual"] == true { "virtual machine" } else { "machine" };
    let length = if findings.quick { "a quick run" } else { "a full run" };
    let mut out = format!(
        "<h1>trimaran, measured</h1>\n<p class=\"faint\">{}, commit {}, {length}</p>\n",
        word("date"),
        word("commit")
    );
    let (cpu, cores, memory, kernel, load) = (word("cpu"), word("cores"), word("memory"), word("kernel"), word("load"));
    let _ = writeln!(out, "<p>{kind}: {cpu}, {cores} cores, {memory}; Linux {kernel}; load before the run {load}</p>");
    let noise = findings.noise.map_or("not measured".to_owned(), |noise| noise.text());
    let _ = writeln!(
        out,
        "<p>noise: {}. Compare ratios within this run; absolute times of a shared machine mean little.</p>",
        escape(&noise)
    );
    out
}

fn goals(findings: &Findings) -> String {
    let mut table = Table::new(&["goal", "measured", "wanted", "verdict"]);
    for (goal, verdict) in &findings.goals {
        let measured = verdict.value().map_or("-".to_owned(), |value| format!("{} {}", short(value), goal.unit));
        let class = match verdict {
            Verdict::Met(_) => "met",
            Verdict::Missed(_) => "missed",
            Verdict::NotMeasured => "not",
        };
        table.row(&[
            escape(&goal.name),
            escape(&measured),
            escape(&goal.wish()),
            format!("<span class=\"{class}\">{}</span>", verdict.word()),
        ]);
    }
    table.html()
}

/// The points of one kind of row, in the order of `x`.
fn points(
    rows: &[Value],
    belongs: impl Fn(&Value) -> bool,
    x: &str,
    y: impl Fn(&Value) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> =
        rows.iter().filter(|row| belongs(row)).filter_map(|row| Some((number(row, x)?, y(row)?))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn rate(row: &Value) -> Option<f64> {
    number(row, "per_second")
}

/// A latency in microseconds.
fn us(key: &'static str) -> impl Fn(&Value) -> Option<f64> {
    move |row| Some(number(row, &format!("latency_ns/{key}"))? / 1e3)
}

fn throughput(findings: &Findings) -> String {
    let (apart, together, load) = (findings.rows("throughput"), findings.rows("together"), findings.rows("load"));
    let is = |op: &'static str| move |row: &Value| row["op"] == op;
    let of =
        |name: &str, rows, op, y: fn(&Value) -> Option<f64>| Series::new(name, points(rows, is(op), "outstanding", y));
    let mut rates = vec![
        of("put", apart, "put", rate),
        of("linearizable read", apart, "get", rate),
        of("read of one replica", apart, "stale", rate),
        of("unreplicated echo", apart, "echo", rate),
        of("put, one process", together, "put", rate).dashed(),
        of("read, one process", together, "get", rate).dashed(),
    ];
    let peers = findings.rows("peers");
    for system in ["etcd-tmpfs", "zk-tmpfs"] {
        let is_put = |row: &Value| row["system"] == system && row["op"] == "put";
        rates.push(Series::new(format!("{system}, put"), points(peers, is_put, "out", rate)).dashed());
    }
    let p50: fn(&Value) -> Option<f64> = |row| Some(number(row, "latency_ns/p50")? / 1e3);
    let p99: fn(&Value) -> Option<f64> = |row| Some(number(row, "latency_ns/p99")? / 1e3);
    let times = vec![
        of("put p50", apart, "put", p50),
        of("put p99", apart, "put", p99).dashed(),
        of("read p50", apart, "get", p50),
        of("read p99", apart, "get", p99).dashed(),
        of("put p50, one process", together, "put", p50),
        of("put p99, one process", together, "put", p99).dashed(),
    ];
    let offered =
        |key| Series::new(format!("put {key}"), points(load, |row| row.get("rate").is_some(), "rate", us(key)));
    let drawn = [
        Plot {
            title: "operations a second, values of 64 bytes",
            x: "outstanding requests",
            y: "a second",
            x_log: true,
            y_log: true,
            series: rates,
        }
        .draw(),
        Plot {
            title: "latency of a closed loop",
            x: "outstanding requests",
            y: "microseconds",
            x_log: true,
            y_log: true,
            series: times,
        }
        .draw(),
        Plot {
            title: "latency against load, from when puts were due",
            x: "puts a second, offered",
            y: "microseconds",
            x_log: true,
            y_log: true,
            series: vec![offered("p50"), offered("p99"), offered("p99.9")],
        }
        .draw(),
    ];
    missing(findings, "throughput")
        + &plots(&drawn)
        + &tables::loads(&[(APART, apart), (TOGETHER, together), (APART, load)])
}

fn mixes(findings: &Findings) -> String {
    let reads = findings.rows("reads");
    let drawn = [
        Plot {
            title: "throughput against the share of reads, 64 outstanding",
            x: "linearizable reads, percent",
            y: "a second",
            x_log: false,
            y_log: false,
            series: vec![Series::new("operations", points(reads, |_| true, "reads_percent", rate))],
        }
        .draw(),
        Plot {
            title: "values, 64 outstanding",
            x: "bytes of a value",
            y: "a second",
            x_log: true,
            y_log: false,
            series: ["put", "get"]
                .map(|op| Series::new(op, points(findings.rows("values"), |row| row["op"] == op, "value_bytes", rate)))
                .into(),
        }
        .draw(),
    ];
    let apart = ["ycsb", "reads", "values"].map(|part| (APART, findings.rows(part)));
    let missing: String = ["ycsb", "reads", "values", "durable"].map(|part| missing(findings, part)).concat();
    missing + &plots(&drawn) + &tables::loads(&[&apart[..], &[(DURABLE, findings.rows("durable"))]].concat())
}

/// Counts of values in steps of a round width: where the first begins, the width, and the counts.
fn histogram(values: &[f64]) -> Option<(f64, f64, Vec<f64>)> {
    let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(least, most), v| (least.min(*v), most.max(*v)));
    if values.is_empty() {
        return None;
    }
    let widths = (-2..6).flat_map(|power| [1.0, 2.0, 5.0].map(|first| first * 10f64.powi(power)));
    let width = widths.into_iter().find(|width| (most / width).floor() - (least / width).floor() < BARS_MAX)?;
    let first = (least / width).floor();
    let mut counts = vec![0.0; (most / width).floor() as usize - first as usize + 1];
    for value in values {
        if let Some(count) = counts.get_mut(((value / width).floor() - first) as usize) {
            *count += 1.0;
        }
    }
    Some((first * width, width, counts))
}

fn failover(findings: &Findings) -> String {
    let draw = |part: &str, title: &str| {
        let row = findings.rows(part).first()?;
        let values: Vec<f64> = row["outages_ms"].as_array()?.iter().filter_map(Value::as_f64).collect();
        let (from, width, counts) = histogram(&values)?;
        let marks = ["p50", "p99"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), number(row, &format!("outage_ms/{key}"))?)));
        let title = format!("{title}, {} kills", values.len());
        Some(
            Bars {
                title: &title,
                x: "milliseconds to the first new commit",
                y: "kills",
                from,
                width,
                counts,
                marks: marks.collect(),
            }
            .draw(),
        )
    };
    let drawn = [
        draw("failover-us", "one process, timeouts of 3 to 6 ms"),
        draw("failover-shared", "processes, timeouts of 100 to 200 ms"),
    ];
    let text = "<p>From the kill to the answer of a put that was asked for after it: the election, the client's search for whom was \
                elected, and a commit.</p>\n";
    let all: String = ["failover-us", "failover-shared"].map(|part| missing(findings, part)).concat();
    text.to_owned() + &all + &plots(&drawn.map(Option::unwrap_or_default)) + &tables::failover(findings)
}

fn scaling(findings: &Findings) -> String {
    let rows = findings.rows("scaling");
    let series = vec![Series::new("operations", points(rows, |_| true, "cores", rate))];
    let drawn =
        Plot { title: "operations by cores", x: "cores", y: "a second", x_log: true, y_log: false, series }.draw();
    let ratio = findings.metrics.get("scaling.one_to_two");
    let told = ratio.map_or(String::new(), |ratio| {
        format!("<p>Operations for each second of a processor with two loops, of one loop's, corrected for what the machine's cores take from each other: {}.</p>\n", short(*ratio))
    });
    missing(findings, "scaling") + &told + &plots(&[drawn])
}

/// What the model is fed: costs of a put at the leader and at a follower, and the batch, of the busiest measured load of puts.
fn measured_costs(rows: &[Value]) -> Option<(Costs, Traffic, f64)> {
    let is_put = |row: &&Value| row["op"] == "put" && row["value_bytes"] == 64 && row.pointer("/cost/nodes").is_some();
    let row = rows.iter().filter(is_put).max_by(|a, b| rate(a).unwrap_or(0.0).total_cmp(&rate(b).unwrap_or(0.0)))?;
    let nodes = row.pointer("/cost/nodes")?.as_array()?;
    let per_second = rate(row).filter(|rate| *rate > 0.0)?;
    let ns = |leads: bool| -> Option<f64> {
        let cores: Vec<f64> =
            nodes.iter().filter(|node| node["leads"] == leads).filter_map(|node| number(node, "cores")).collect();
        (!cores.is_empty()).then(|| cores.iter().sum::<f64>() / cores.len() as f64 / per_second * 1e9)
    };
    let datagrams =
        number(row, "cost/datagrams").zip(number(row, "seconds")).map(|(all, seconds)| all / seconds / per_second);
    let nodes = u32::try_from(nodes.len()).unwrap_or(3);
    let batch = datagrams.map_or(1.0, |datagrams| model::batch_of(datagrams, nodes));
    let traffic = Traffic { batch, body_bytes: BODY_BYTES, balanced: false };
    Some((Costs { leader_ns: ns(true)?, follower_ns: ns(false)? }, traffic, per_second))
}

fn forecast(findings: &Findings) -> String {
    let kernel = measured_costs(findings.rows("throughput"));
    let instructions = from_instructions(&findings.metrics);
    let mut out = String::new();
    if let Some((costs, traffic, per_second)) = kernel {
        let _ = writeln!(
            out,
            "<p>From this run's busiest load of puts, {} a second on kernel UDP: {} ns of the leader's processor time for each put, {} ns of \
             each follower's, {:.1} entries an append. Each node leads its share of the shards. What runs out first is said behind each \
             number.</p>",
            short(per_second),
            short(costs.leader_ns),
            short(costs.follower_ns),
            traffic.batch
        );
        out += &forecast_table(&costs, &traffic);
    } else {
        out += "<p class=\"not\">from measured processor time: not measured</p>\n";
    }
    match instructions {
        Some((costs, traffic)) => {
            let _ = writeln!(
                out,
                "<p>From instruction counts, at one a cycle and 3 GHz: {} ns at the leader, {} ns at a follower.</p>",
                short(costs.leader_ns),
                short(costs.follower_ns)
            );
            out += &forecast_table(&costs, &traffic);
        }
        None => out += "<p class=\"not\">from instruction counts: not measured</p>\n",
    }
    // What the design reckons with when no kernel is in between: 550 to 1050 cycles at 3 GHz.
    let paper = Costs { leader_ns: 350.0, follower_ns: 150.0 };
    let traffic = Traffic { batch: 16.0, body_bytes: BODY_BYTES, balanced: false };
    out += "<p>On paper, with kernel bypass, 1050 cycles of a leader and 450 of a follower at 3 GHz, 16 entries an append:</p>\n";
    out += &forecast_table(&paper, &traffic);
    let line = |link_gbit: f64, traffic: Traffic, rate: fn(model::Forecast) -> f64, name: String| {
        let of = |cores: &u32| {
            let machines = Machines { nodes: 3, cores: *cores, link_gbit };
            (f64::from(*cores), rate(model::forecast(&paper, &traffic, &machines)))
        };
        Series::new(name, CORES.iter().map(of).collect())
    };
    let spread: fn(model::Forecast) -> f64 = |forecast| forecast.spread.0;
    let one: fn(model::Forecast) -> f64 = |forecast| forecast.one_leads.0;
    let mut series: Vec<Series> =
        LINKS.iter().map(|link| line(*link, traffic, spread, format!("{link} Gbit/s"))).collect();
    let large = Traffic { body_bytes: 1024.0, ..traffic };
    series.push(line(10.0, large, one, "10 Gbit/s, 1 KiB, one node leads".into()).dashed());
    let balanced = Traffic { balanced: true, ..large };
    series.push(line(10.0, balanced, one, "the same, clients multicast".into()).dashed());
    let title = "commits a second of three nodes, on paper, kernel bypass";
    out + &plots(&[Plot { title, x: "cores a node", y: "commits a second", x_log: true, y_log: true, series }.draw()])
}

/// Costs at one instruction a cycle and 3 GHz.
fn from_instructions(metrics: &Metrics) -> Option<(Costs, Traffic)> {
    let ns = |name: &str| Some(metrics.get(&format!("instructions.{name}"))? / 3.0);
    let costs = Costs { leader_ns: ns("commit at the leader")?, follower_ns: ns("commit at a follower")? };
    Some((costs, Traffic { batch: 16.0, body_bytes: BODY_BYTES, balanced: false }))
}

fn forecast_table(costs: &Costs, traffic: &Traffic) -> String {
    let mut head = vec!["cores a node".to_owned(), "a core that leads".to_owned()];
    for nodes in [3, 5, 9] {
        head.extend([10.0, 100.0].map(|link| format!("{nodes} nodes, {link} Gbit/s")));
    }
    head.push("one node of 3 leads, 25 Gbit/s".into());
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for cores in CORES {
        let of = |nodes, link_gbit| model::forecast(costs, traffic, &Machines { nodes, cores, link_gbit });
        let told = |(rate, limit): (f64, model::Limit)| {
            format!("{} <span class=\"faint\">{}</span>", short(rate), limit.name())
        };
        let mut row = vec![cores.to_string(), short(of(3, 10.0).leading_core)];
        for nodes in [3, 5, 9] {
            row.extend([10.0, 100.0].map(|link| told(of(nodes, link).spread)));
        }
        row.push(told(of(3, 25.0).one_leads));
        table.row(&row);
    }
    table.html()
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;
    use super::*;
    use serde_json::json;

    fn load(op: &str, outstanding: u32, per_second: f64) -> Value {
        let node = |leads: bool, cores: f64| json!({ "leads": leads, "cores": cores, "resident_bytes": 9437184 });
        json!({
            "op": op, "outstanding": outstanding, "value_bytes": 64, "seconds": 1.0, "per_second": per_second, "answered": 10,
            "latency_ns": { "p50": 70000, "p90": 80000, "p99": 90000, "p99.9": 95000, "p99.99": 99000, "max": 99999 },
            "cost": { "nodes": [node(false, 0.2), node(true, 0.5), node(false, 0.4)], "datagrams": per_second * 2.5, "nodes_us_each": 11.0 },
        })
    }

    #[test]
    fn the_model_is_fed_by_the_busiest_load_of_puts() {
        let (costs, traffic, per_second) =
            measured_costs(&[load("put", 64, 50_000.0), load("put", 256, 100_000.0), load("get", 256, 300_000.0)])
                .unwrap();
        assert_eq!(per_second, 100_000.0);
        assert!((costs.leader_ns - 5000.0).abs() < 1.0 && (costs.follower_ns - 3000.0).abs() < 1.0, "{costs:?}");
        assert!((traffic.batch - 8.0).abs() < 1e-6, "{traffic:?}");
        assert_eq!(measured_costs(&[load("get", 1, 1.0)]), None);
    }

    #[test]
    fn a_histogram_has_every_value_in_round_steps() {
        let (from, width, counts) = histogram(&[3.2, 3.9, 4.0, 9.99]).unwrap();
        assert_eq!((from, width, counts.iter().sum::<f64>()), (3.2, 0.2, 4.0));
        assert!(counts.len() as f64 <= BARS_MAX);
        let (from, _, counts) = histogram(&[150.0]).unwrap();
        assert!((from - 150.0).abs() < 0.02 && counts == [1.0]);
        assert_eq!(histogram(&[]), None);
    }

    #[test]
    fn a_page_of_nothing_says_so_in_every_section_and_of_something_shows_it() {
        let empty = html(&findings(&[("throughput", Err("exit status: 1 <bad>".into()))]));
        assert!(
            empty.contains("throughput: failed: exit status: 1 &lt;bad&gt;") && empty.contains("&lt;a processor&gt;")
        );
        assert!(
            !empty.contains("http://") && !empty.contains("https://") && !empty.contains("<script"),
            "needs nothing else"
        );
        let peer = |system: &str, per_second: f64| json!({ "system": system, "op": "put", "out": 64, "per_second": per_second, "p50_us": 5.0, "p99_us": 9.0 });
        let kills = json!({ "kills": 3, "profile": "us", "outage_ms": { "p50": 5.0, "p99": 9.0, "max": 9.5 }, "outages_ms": [5.0, 6.0, 9.5] });
        let full = html(&findings(&[
            ("throughput", Ok(vec![load("put", 64, 50_000.0), load("get", 64, 90_000.0)])),
            ("failover-us", Ok(vec![kills])),
            ("peers", Ok(vec![peer("trimaran", 120_000.0), peer("etcd-tmpfs", 9_000.0)])),
            ("micro", Ok(vec![json!({ "id": "runtime.turn", "value": 7.5, "unit": "ns" })])),
        ]));
        assert!(full.matches("<svg").count() >= 4, "{}", full.matches("<svg").count());
        assert!(full.contains("13.3") && full.contains("runtime.turn"), "the ratio to etcd");
        assert_eq!(full.matches("<figure>").count(), full.matches("</svg>").count());
    }
}
