//! A run as one page that needs nothing else: tables, plots, and what they were measured on.

mod forecast;
mod tables;

use std::fmt::Write;

use serde_json::Value;

use super::Findings;
use super::goals::{FAILED_MAX, Verdict, short};
use super::numbers::{failed_share, is_usual, number};
use super::svg::{Bars, Lengths, Plot, Series, escape};
use tables::Table;

/// Clusters, as tables name them.
const APART: &str = "in memory";
const TOGETHER: &str = "in memory, one process";
const DURABLE: &str = "durable";
/// Bars of a histogram at most.
const BARS_MAX: f64 = 40.0;

/// The whole page.
pub(crate) fn html(findings: &Findings) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n");
    out += "<meta name=\"viewport\" content=\"width=device-width\">\n<title>trimaran, measured</title>\n";
    let _ = write!(out, "<style>\n{}</style>\n", include_str!("report/style.css"));
    out += &head(findings);
    out += &section("Goals", &goals(findings));
    out += &section(
        "Beside other systems",
        &(plots(&ratios(findings)) + &tables::peers(findings) + &tables::sizes_beside(findings)),
    );
    out += &section("Throughput and latency", &throughput(findings));
    out += &section("Mixes, reads, sizes", &mixes(findings));
    out += &section("When the leader dies", &failover(findings));
    out += &section("Faults, memory, processors", &tables::costs(findings));
    out += &section("Scaling by cores", &scaling(findings));
    out += &section("What larger machines should do", &forecast::section(findings));
    out += &section("Layers on their own", &(plots(&[instructions(findings)]) + &tables::micro(findings)));
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
    let noise = findings.noises().map(|(when, noise)| format!("{when}: {}", escape(&noise)));
    let _ = writeln!(
        out,
        "<p>noise {}. Compare ratios within this run; absolute times of a shared machine mean little.</p>",
        noise.join("; ")
    );
    if let Some(withheld) = findings.withheld() {
        let _ = writeln!(out, "<p class=\"missed\">{}.</p>", escape(&withheld));
    }
    out
}

fn goals(findings: &Findings) -> String {
    let mut table = Table::new(&["goal", "measured", "wanted", "verdict"]);
    for (goal, verdict) in &findings.goals {
        let measured = verdict.value().map_or("-".to_owned(), |value| format!("{} {}", short(value), goal.unit));
        let class = match verdict {
            Verdict::Met(_) => "met",
            Verdict::Missed(_) | Verdict::Failed(..) => "missed",
            Verdict::NotMeasured => "not",
        };
        table.row(&[
            escape(&goal.name),
            escape(&measured),
            escape(&goal.wish()),
            format!("<span class=\"{class}\">{}</span>", escape(&verdict.to_string())),
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
        let is_put = |row: &Value| row["system"] == system && row["op"] == "put" && is_usual(row);
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
    let is_carried = |row: &Value| failed_share(row).is_none_or(|share| share <= FAILED_MAX);
    let of_carried = |row: &Value| row.get("rate").is_some() && is_carried(row);
    let offered = |key| Series::new(format!("put {key}"), points(load, of_carried, "rate", us(key)));
    let closed = load.iter().filter(|row| row.get("outstanding").is_some()).find_map(rate);
    let closed = closed.map_or(String::new(), |rate| {
        let rate = short(rate);
        format!("<p>Latency against load goes up to the {rate} puts a second that a closed loop with 256 outstanding has reached just before.</p>\n")
    });
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
        + &closed
        + &not_carried(load)
        + &tables::loads(&[(APART, apart), (TOGETHER, together), (APART, load)])
}

/// Says which open loops are not in the plot: their latencies are of the calls that were answered.
fn not_carried(load: &[Value]) -> String {
    let of = |row: &Value| {
        let share = failed_share(row).filter(|share| *share > FAILED_MAX)?;
        Some(format!("{} a second ({} %)", short(number(row, "rate")?), short(share * 100.0)))
    };
    let left_out: Vec<String> = load.iter().filter_map(of).collect();
    if left_out.is_empty() {
        return String::new();
    }
    let (most, which) = (FAILED_MAX * 100.0, left_out.join(", "));
    format!(
        "<p>Of these loads more than {most} % of the puts failed, so that their latencies are those of the others, and left out there: {which}.</p>\n"
    )
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
                elected, and a commit. The client asks the next server after so long without an answer as the table's last column says; 10 ms \
                are usual, and where it is 1 ms (timeouts of 3 to 6 ms) a usual client may see up to 9 ms more.</p>\n";
    let all: String = ["failover-us", "failover-shared"].map(|part| missing(findings, part)).concat();
    text.to_owned() + &all + &plots(&drawn.map(Option::unwrap_or_default)) + &tables::failover(findings)
}

/// How often trimaran does an operation while another system does it once, for each operation and number of outstanding requests.
fn ratios(findings: &Findings) -> Vec<String> {
    let rows = findings.rows("peers");
    let is_ours = |row: &&Value| row["system"] == "trimaran" && is_usual(row);
    let plot = |ours: &Value| {
        let is_same = |row: &&Value| row["op"] == ours["op"] && row["out"] == ours["out"] && is_usual(row);
        let is_other = |row: &&Value| !row["system"].as_str().is_some_and(|name| name.starts_with("trimaran"));
        let others = rows.iter().filter(is_same).filter(is_other);
        let ratio = |row: &Value| {
            let ratio = rate(ours)? / rate(row).filter(|rate| *rate > 0.0)?;
            Some((row["system"].as_str()?.to_owned(), ratio))
        };
        let (op, out) = (ours["op"].as_str().unwrap_or_default(), number(ours, "out").unwrap_or(0.0));
        let title = format!("{op}, {out} outstanding: trimaran's operations a second over");
        // Latencies, not rates, are what one request at a time is about.
        (out >= 64.0).then(|| {
            Lengths { title: &title, unit: "x", lengths: others.filter_map(ratio).collect(), mark: Some(1.0) }.draw()
        })
    };
    rows.iter().filter(is_ours).filter_map(plot).collect()
}

fn instructions(findings: &Findings) -> String {
    let rows = findings.rows("instructions").iter();
    let of = |row: &Value| Some((row["name"].as_str()?.to_owned(), number(row, "instructions")?));
    Lengths { title: "instructions, by callgrind", unit: "", lengths: rows.filter_map(of).collect(), mark: None }.draw()
}

/// Of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((lower + upper) / 2.0)
}

/// By the number of cores, the median of the rounds.
fn by_cores(rows: &[Value], key: &str) -> Vec<(f64, f64)> {
    let of = |cores: f64| {
        let rounds = rows.iter().filter(|row| number(row, "cores") == Some(cores));
        Some((cores, median(rounds.filter_map(|row| number(row, key)).collect())?))
    };
    [1.0, 2.0].into_iter().filter_map(of).collect()
}

fn scaling(findings: &Findings) -> String {
    let rows = findings.rows("scaling");
    let [wall, cpu] = ["per_second", "per_cpu_second"].map(|key| by_cores(rows, key));
    let series = vec![
        Series::new("a second, all cores together", wall.clone()),
        Series::new("for each second of a processor", cpu.clone()).dashed(),
    ];
    let drawn =
        Plot { title: "puts by cores, as measured", x: "cores", y: "puts", x_log: true, y_log: false, series }.draw();
    let mut table = Table::new(&["cores", "puts a second, all cores together", "puts for each second of a processor"]);
    for ((cores, wall), (_, cpu)) in wall.iter().zip(&cpu) {
        table.row(&[format!("{cores:.0}"), short(*wall), short(*cpu)]);
    }
    let ratio = findings.metrics.get("scaling.one_to_two");
    let told = ratio.map_or(String::new(), |ratio| {
        format!(
            "<p>Medians of the rounds. Puts for each second of a processor with two loops, of one loop's, corrected for what the machine's \
             cores take from each other: {}. The rates by the clock are not corrected: they have in them what others on the machine took.</p>\n",
            short(*ratio)
        )
    });
    missing(findings, "scaling") + &told + &plots(&[drawn]) + &table.html() + &tables::applier(findings)
}

#[cfg(test)]
mod tests {
    use super::super::tests::findings;
    use super::*;
    use serde_json::json;

    pub(super) fn load(op: &str, outstanding: u32, per_second: f64) -> Value {
        let node = |leads: bool, cores: f64| json!({ "leads": leads, "cores": cores, "resident_bytes": 9437184 });
        json!({
            "op": op, "outstanding": outstanding, "value_bytes": 64, "seconds": 1.0, "per_second": per_second, "answered": 10,
            "latency_ns": { "p50": 70000, "p90": 80000, "p99": 90000, "p99.9": 95000, "p99.99": 99000, "max": 99999 },
            "cost": { "nodes": [node(false, 0.2), node(true, 0.5), node(false, 0.4)], "node_packets_each": 1.5, "nodes_us_each": 11.0 },
        })
    }

    #[test]
    fn what_was_measured_of_loops_is_plotted_as_it_was() {
        let row =
            |cores: u32, wall: f64, cpu: f64| json!({ "cores": cores, "per_second": wall, "per_cpu_second": cpu });
        let rows = [
            row(1, 90.0, 100.0),
            row(2, 150.0, 98.0),
            row(1, 80.0, 101.0),
            row(2, 170.0, 97.0),
            row(1, 95.0, 99.0),
            row(2, 160.0, 99.0),
        ];
        assert_eq!(by_cores(&rows, "per_second"), [(1.0, 90.0), (2.0, 160.0)]);
        assert_eq!(by_cores(&rows, "per_cpu_second"), [(1.0, 100.0), (2.0, 98.0)]);
        assert_eq!(by_cores(&rows[..4], "per_second"), [(1.0, 85.0), (2.0, 160.0)], "of two rounds what lies between");
        assert!(by_cores(&[json!({ "one_to_two": 1.0 })], "per_second").is_empty());
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
    fn a_load_that_was_not_carried_is_no_point_of_the_plot() {
        let offered = |rate: f64, p99_us: f64, unknown: u32| {
            let us = p99_us * 1e3;
            json!({ "op": "put", "rate": rate, "answered": 1000, "unknown": unknown, "latency_ns": { "p50": us, "p99": us, "p99.9": us } })
        };
        let page = |unknown| {
            let rows = vec![offered(1e3, 50.0, 0), offered(1e4, 60.0, 1), offered(4e5, 70.0, unknown)];
            throughput(&findings(&[("load", Ok(rows))]))
        };
        let points = |page: &str| page.matches("<circle").count();
        let (carried, failing) = (page(1), page(250));
        assert_eq!((points(&carried), points(&failing)), (9, 6));
        assert!(
            failing.contains("left out there: 400,000 a second (20.0 %).") && !carried.contains("left out"),
            "{failing}"
        );
    }

    #[test]
    fn the_noise_of_both_ends_of_a_run_is_told() {
        let mut findings = findings(&[("load", Ok(Vec::new()))]);
        let noise = |median| super::super::machine::Noise { median_ms: 5.0, median, p90: 0.2, max: 0.3 };
        findings.noise = [Some(noise(0.01)), Some(noise(0.17))];
        findings.outcomes[0].withheld = Some(0.244);
        let page = html(&findings);
        assert!(page.contains("gave to others: 24 % in load."), "{page}");
        let place = |words: &str| page.find(words).unwrap_or_else(|| panic!("no {words} in {page}"));
        assert!(place("noise before the parts: ") < place("took 1.0 % longer"));
        assert!(
            place("took 1.0 % longer") < place("after them: ") && place("after them: ") < place("took 17.0 % longer")
        );
        let data = findings.json();
        assert_eq!(data["noise"]["median_over_shortest"], json!(0.01));
        assert_eq!(data["noise_after"]["median_over_shortest"], json!(0.17));
        assert_eq!(data["parts"]["load"]["withheld"], json!(0.244));
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
        let kills = json!({ "kills": 3, "profile": "us", "client_probe_ms": 1.0, "outage_ms": { "p50": 5.0, "p99": 9.0, "max": 9.5 }, "outages_ms": [5.0, 6.0, 9.5] });
        let full = html(&findings(&[
            ("throughput", Ok(vec![load("put", 64, 50_000.0), load("get", 64, 90_000.0)])),
            ("failover-us", Ok(vec![kills])),
            ("peers", Ok(vec![peer("trimaran", 120_000.0), peer("etcd-tmpfs", 9_000.0)])),
            ("micro", Ok(vec![json!({ "id": "runtime.turn", "value": 7.5, "unit": "ns" })])),
            (
                "instructions",
                Ok(["commit at the leader", "commit at a follower"]
                    .map(|name| json!({ "name": name, "instructions": 3000.0 }))
                    .into()),
            ),
            ("applier", Ok(vec![json!({ "id": "applier.one.own_core.share", "value": 0.93, "unit": "share" })])),
        ]));
        for title in ["put, 64 outstanding: trimaran&#39;s operations a second over", "instructions, by callgrind"] {
            assert!(full.contains(&title.replace("&#39;", "'")), "{title}");
        }
        assert!(
            full.contains("from this run's instruction counts")
                && full.contains("8.0 entries an append, as on kernel UDP")
        );
        assert!(full.contains("applier.one.own_core.share"));
        assert!(full.contains("<td>1.00 ms</td>"), "after which the client asks the next server");
        assert!(full.matches("<svg").count() >= 8, "{}", full.matches("<svg").count());
        assert!(full.contains("13.3") && full.contains("runtime.turn"), "the ratio to etcd");
        assert_eq!(full.matches("<figure>").count(), full.matches("</svg>").count());
    }
}
