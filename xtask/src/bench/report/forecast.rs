//! What larger machines should do: the model fed with what this run has measured, as tables and plots.

use std::fmt::Write;

use serde_json::Value;

use super::super::Findings;
use super::super::goals::{Metrics, short};
use super::super::model::{self, Costs, Machines, Traffic};
use super::super::numbers::number;
use super::super::svg::{Plot, Series};
use super::tables::Table;
use super::{plots, rate};

/// Cores of the model's plots and tables.
const CORES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Links, in Gbit/s.
const LINKS: [f64; 4] = [10.0, 25.0, 40.0, 100.0];
/// Entries that an append is reckoned to carry where nothing was measured.
const PAPER_BATCH: f64 = 16.0;
/// Key and value that the model's puts carry.
const BODY_BYTES: f64 = 80.0;

/// What a load of puts has shown of itself, for the model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fed {
    /// Of a put at the leader and at a follower.
    costs: Costs,
    /// Entries an append, where the nodes have counted their packets.
    batch: Option<f64>,
    per_second: f64,
}

impl Fed {
    /// Small puts.
    fn traffic(&self) -> Traffic {
        Traffic { batch: self.batch.unwrap_or(1.0), body_bytes: BODY_BYTES, balanced: false }
    }
}

/// Says where a batch is from.
fn batch_words(batch: Option<f64>) -> String {
    match batch {
        Some(batch) => format!("{batch:.1} entries an append, by the packets that the nodes' ports have counted"),
        None => "no packets were counted: one entry an append is assumed".to_owned(),
    }
}

/// What the model is fed, of the busiest measured load of puts.
fn measured_costs(rows: &[Value]) -> Option<Fed> {
    let is_put = |row: &&Value| row["op"] == "put" && row["value_bytes"] == 64 && row.pointer("/cost/nodes").is_some();
    let row = rows.iter().filter(is_put).max_by(|a, b| rate(a).unwrap_or(0.0).total_cmp(&rate(b).unwrap_or(0.0)))?;
    let nodes = row.pointer("/cost/nodes")?.as_array()?;
    let per_second = rate(row).filter(|rate| *rate > 0.0)?;
    let ns = |leads: bool| -> Option<f64> {
        let cores: Vec<f64> =
            nodes.iter().filter(|node| node["leads"] == leads).filter_map(|node| number(node, "cores")).collect();
        (!cores.is_empty()).then(|| cores.iter().sum::<f64>() / cores.len() as f64 / per_second * 1e9)
    };
    let nodes = u32::try_from(nodes.len()).unwrap_or(3);
    let batch = number(row, "cost/node_packets_each").map(|packets| model::batch_of(packets, nodes));
    Some(Fed { costs: Costs { leader_ns: ns(true)?, follower_ns: ns(false)? }, batch, per_second })
}

pub(super) fn section(findings: &Findings) -> String {
    let kernel = measured_costs(findings.rows("throughput"));
    let instructions = from_instructions(&findings.metrics);
    let mut out = String::new();
    if let Some(fed) = kernel {
        let _ = writeln!(
            out,
            "<p>From this run's busiest load of puts, {} a second on kernel UDP: {} ns of the leader's processor time for each put, {} ns of \
             each follower's; {}. Each node leads its share of the shards. What runs out first is said behind each number.</p>",
            short(fed.per_second),
            short(fed.costs.leader_ns),
            short(fed.costs.follower_ns),
            batch_words(fed.batch)
        );
        out += &table(&fed.costs, &fed.traffic());
    } else {
        out += "<p class=\"not\">from measured processor time: not measured</p>\n";
    }
    // The counted puts are 64 at a time; how many of them an append carries there is not counted.
    let at_64 = findings.rows("throughput").iter().filter(|row| row["outstanding"] == 64).cloned().collect::<Vec<_>>();
    let counted = measured_costs(&at_64).and_then(|fed| fed.batch);
    let traffic = Traffic { batch: counted.unwrap_or(PAPER_BATCH), body_bytes: BODY_BYTES, balanced: false };
    match instructions {
        Some(costs) => {
            let batch = match counted {
                Some(batch) => {
                    format!("{batch:.1} entries an append, as on kernel UDP in this run with as many outstanding")
                }
                None => format!("{PAPER_BATCH} entries an append are assumed"),
            };
            let _ = writeln!(
                out,
                "<p>From instruction counts, at one a cycle and 3 GHz: {} ns at the leader, {} ns at a follower; {batch}.</p>",
                short(costs.leader_ns),
                short(costs.follower_ns)
            );
            out += &table(&costs, &traffic);
        }
        None => out += "<p class=\"not\">from instruction counts: not measured</p>\n",
    }
    // What the design reckons with when no kernel is in between: 550 to 1050 cycles at 3 GHz.
    let paper = Costs { leader_ns: 350.0, follower_ns: 150.0 };
    let on_paper = Traffic { batch: PAPER_BATCH, body_bytes: BODY_BYTES, balanced: false };
    let _ = writeln!(
        out,
        "<p>On paper, with kernel bypass, 1050 cycles of a leader and 450 of a follower at 3 GHz, {PAPER_BATCH} entries an append:</p>"
    );
    out += &table(&paper, &on_paper);
    let drawn = [
        kernel.map(|fed| plot("three nodes, from this run's processor time on kernel UDP", &fed.costs, fed.traffic())),
        instructions.map(|costs| plot("three nodes, from this run's instruction counts", &costs, traffic)),
        Some(plot("three nodes, on paper, kernel bypass", &paper, on_paper)),
    ];
    out + &plots(&drawn.map(Option::unwrap_or_default))
        + "<p>The dashed lines are about bandwidth only: processor time is there as for values of 64 bytes that no client multicasts.</p>\n"
}

/// Commits a second by cores and links, the shards' leaders spread; dashed where one node leads all, with larger values. What these cost
/// a processor was not measured: their lines say what the link carries.
fn plot(title: &str, costs: &Costs, traffic: Traffic) -> String {
    let line = |link_gbit: f64, traffic: Traffic, rate: fn(model::Forecast) -> f64, name: String| {
        let of = |cores: &u32| {
            let machines = Machines { nodes: 3, cores: *cores, link_gbit };
            (f64::from(*cores), rate(model::forecast(costs, &traffic, &machines)))
        };
        Series::new(name, CORES.iter().map(of).collect())
    };
    let spread: fn(model::Forecast) -> f64 = |forecast| forecast.spread.0;
    let one: fn(model::Forecast) -> f64 = |forecast| forecast.one_leads.0;
    let mut series: Vec<Series> =
        LINKS.iter().map(|link| line(*link, traffic, spread, format!("{link} Gbit/s"))).collect();
    let large = Traffic { body_bytes: 1024.0, ..traffic };
    series.push(line(10.0, large, one, "10 Gbit/s, 1 KiB, one node leads, bandwidth only".into()).dashed());
    let balanced = Traffic { balanced: true, ..large };
    series.push(line(10.0, balanced, one, "the same, clients multicast".into()).dashed());
    Plot { title, x: "cores a node", y: "commits a second", x_log: true, y_log: true, series }.draw()
}

/// Costs at one instruction a cycle and 3 GHz.
fn from_instructions(metrics: &Metrics) -> Option<Costs> {
    let ns = |name: &str| Some(metrics.get(&format!("instructions.{name}"))? / 3.0);
    Some(Costs { leader_ns: ns("commit at the leader")?, follower_ns: ns("commit at a follower")? })
}

fn table(costs: &Costs, traffic: &Traffic) -> String {
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
    use super::super::tests::load;
    use super::*;

    #[test]
    fn lines_of_loads_that_were_not_measured_say_what_is_left_of_them() {
        let page = section(&super::super::super::tests::findings(&[]));
        assert!(page.contains("1 KiB, one node leads, bandwidth only"), "{page}");
        assert!(page.contains("processor time is there as for values of 64 bytes"), "{page}");
    }

    #[test]
    fn the_model_is_fed_by_the_busiest_load_of_puts() {
        let mut rows = [load("put", 64, 50_000.0), load("put", 256, 100_000.0), load("get", 256, 300_000.0)];
        let fed = measured_costs(&rows).unwrap();
        assert_eq!(fed.per_second, 100_000.0);
        let Costs { leader_ns, follower_ns } = fed.costs;
        assert!((leader_ns - 5000.0).abs() < 1.0 && (follower_ns - 3000.0).abs() < 1.0, "{fed:?}");
        assert!(
            (fed.traffic().batch - 8.0).abs() < 1e-6 && batch_words(fed.batch).starts_with("8.0 entries"),
            "{fed:?}"
        );
        assert_eq!(measured_costs(&[load("get", 1, 1.0)]), None);
        rows[1]["cost"]["node_packets_each"] = Value::Null;
        let fed = measured_costs(&rows).unwrap();
        assert!(
            fed.batch.is_none() && fed.traffic().batch == 1.0 && batch_words(fed.batch).contains("assumed"),
            "{fed:?}"
        );
    }
}
