//! A load's result in words, and as JSON.

use super::cost::Cost;
use super::{Asking, Load, Outcome};
use crate::load::{Measured, Pace, Percentiles};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// How one load is called.
fn title(load: &Load) -> String {
    let pace = match load.pace {
        Pace::Open { per_second } => format!("open loop, {per_second} a second"),
        Pace::Closed { outstanding } => format!("closed loop, {outstanding} outstanding"),
    };
    let (name, value, seconds) = (load.asking.name(), load.value, load.measure.as_secs_f64());
    let keys = match load.asking {
        Asking::One(_) => String::new(),
        _ => format!(", {} keys, {}", load.keys, load.choice().name()),
    };
    format!("{name}, {pace}, values of {value} bytes{keys}, {seconds} s\n")
}

pub(super) fn text(outcome: &Outcome) -> String {
    let Outcome { load, measured, .. } = outcome;
    let rate = measured.per_second(load.measure);
    let mut out = title(load);
    out += &format!("  answered     {:>12}   {rate:.0} a second\n", measured.answered());
    let others = [
        ("refused", measured.refused(), "the service said no"),
        ("not applied", measured.not_applied(), "certainly without effect"),
        ("unknown", measured.unknown(), "sent, no answer within the deadline"),
        ("unsent", measured.unsent(), "due, but too many were on their way: the rate was not reached"),
        ("conflicts", outcome.conflicts, "compare and swap was overtaken, and began anew"),
    ];
    for (name, count, meaning) in others.into_iter().filter(|(_, count, _)| *count > 0) {
        out += &format!("  {name:<12} {count:>12}   {meaning}\n");
    }
    match measured.percentiles() {
        Some(Percentiles { p50, p90, p99, p999, p9999, max }) => {
            let row = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("p99.99", p9999), ("max", max)];
            out += "  latency, us ";
            row.iter().for_each(|(name, ns)| out += &format!("  {name} {:.1}", *ns as f64 / 1000.0));
            out += "\n";
        }
        None => out += "  latency      not measured: nothing was answered\n",
    }
    if outcome.kinds.len() > 1 {
        for (kind, times) in &outcome.kinds {
            let us = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
            let (p50, p99, p999) = (us(0.5), us(0.99), us(0.999));
            let (name, count) = (kind.name(), times.len());
            out += &format!("    {name:<18} {count:>8}   p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}\n");
        }
    }
    if let Some(cost) = &outcome.cost {
        out += &cost_text(cost, measured);
    }
    out
}

fn cost_text(cost: &Cost, measured: &Measured) -> String {
    let cores = |cpu| format!("{:.2}", cost.cores(cpu));
    let nodes: Vec<String> = cost.nodes.iter().map(|node| cores(node.cpu)).collect();
    let memory: Vec<String> =
        cost.nodes.iter().map(|node| format!("{:.0}", node.resident_bytes as f64 / f64::from(1 << 20))).collect();
    let mut out = format!("  cores         nodes {}  client {}", nodes.join("/"), cores(cost.client));
    out += &format!("  others {}   MiB {}", cores(cost.others), memory.join("/"));
    let each_us = us_each(cost, measured.per_second(cost.elapsed));
    out += &each_us.map_or_else(String::new, |us| format!("   {us:.2} us of all nodes' CPU a call"));
    out + "\n"
}

/// CPU time of all nodes for each call, in microseconds.
pub(crate) fn us_each(cost: &Cost, per_second: f64) -> Option<f64> {
    (per_second > 0.0).then(|| cost.cores(cost.of_nodes()) * 1e6 / per_second)
}

/// One load's result; of an open loop the share of the closed one's rate that it was to have, in percent, where it was given so.
pub(super) fn json(outcome: &Outcome, share: Option<u8>, connections: u16) -> Value {
    let Outcome { load, measured, .. } = outcome;
    let mut result = measured.to_json(load.measure);
    match load.asking {
        Asking::One(op) => result["op"] = json!(op.name()),
        Asking::Reads(percent) => result["reads_percent"] = json!(percent),
        Asking::Mix(mix) => result["mix"] = json!(mix.name()),
    }
    match load.pace {
        Pace::Open { per_second } => result["rate"] = json!(per_second),
        Pace::Closed { outstanding } => result["outstanding"] = json!(outstanding),
    }
    if let Some(percent) = share {
        result["share_percent"] = json!(percent);
    }
    result["value_bytes"] = json!(load.value);
    result["seconds"] = json!(load.measure.as_secs_f64());
    result["keys"] = json!(load.keys);
    result["choice"] = json!(load.choice().name());
    result["connections"] = json!(connections);
    result["conflicts"] = json!(outcome.conflicts);
    result["distribution_ns"] = distribution(measured.latency_ns());
    let kind = |(kind, times): &(super::Kind, Histogram<u64>)| {
        let at = |quantile| times.value_at_quantile(quantile);
        json!({ "kind": kind.name(), "answered": times.len(), "p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "max": times.max() })
    };
    result["kinds_ns"] = outcome.kinds.iter().map(kind).collect();
    result["cost"] = outcome.cost.as_ref().map_or(Value::Null, |cost| cost_json(cost, measured));
    result
}

fn cost_json(cost: &Cost, measured: &Measured) -> Value {
    let node = |node: &super::cost::NodeCost| json!({ "cores": cost.cores(node.cpu), "resident_bytes": node.resident_bytes, "leads": node.leads });
    json!({
        "nodes": cost.nodes.iter().map(node).collect::<Vec<_>>(),
        "client_cores": cost.cores(cost.client),
        "other_cores": cost.cores(cost.others),
        "nodes_us_each": us_each(cost, measured.per_second(cost.elapsed)),
        "node_packets_each": cost.node_packets_each(measured.per_second(cost.elapsed)),
    })
}

/// The share of calls that took no longer than a latency, with that latency, towards the slow ones in smaller and smaller steps.
pub(crate) fn distribution(latency_ns: &Histogram<u64>) -> Value {
    let steps = latency_ns.iter_quantiles(2).map(|step| json!([step.quantile_iterated_to(), step.value_iterated_to()]));
    steps.collect()
}

/// What nodes without requests cost.
pub(super) fn idle(cost: Option<&Cost>, as_json: bool) -> String {
    let Some(cost) = cost else { return "idle: /proc does not tell what the nodes use\n".into() };
    if as_json {
        let seconds = cost.elapsed.as_secs_f64();
        return format!("{}\n", json!({ "idle_seconds": seconds, "cost": cost_json(cost, &Measured::default()) }));
    }
    let seconds = cost.elapsed.as_secs_f64();
    format!("idle, {seconds:.1} s\n{}", cost_text(cost, &Measured::default()))
}

#[cfg(test)]
mod tests {
    use super::super::cost::NodeCost;
    use super::super::tests::loads;
    use super::*;
    use std::time::Duration;

    fn outcome(line: &str, measured: Measured) -> Outcome {
        let load = loads(line)[0];
        Outcome { load, measured, kinds: Vec::new(), keys: load.keys, conflicts: 0, cost: None }
    }

    #[test]
    fn nothing_measured_is_said_so() {
        let expected = "\
put, closed loop, 8 outstanding, values of 64 bytes, 10 s
  answered                0   0 a second
  latency      not measured: nothing was answered
";
        assert_eq!(text(&outcome("kv bench --outstanding 8", Measured::default())), expected);
    }

    #[test]
    fn costs_are_told_in_words_and_as_json() {
        let mut outcome = outcome("kv bench --seconds 1 --mix f", Measured::of((1..=1000).map(Duration::from_micros)));
        let node = NodeCost { pid: 1, cpu: Duration::from_millis(2), resident_bytes: 9 << 20, leads: true };
        let (elapsed, client, others) = (Duration::from_secs(1), Duration::from_millis(500), Duration::ZERO);
        outcome.cost = Some(Cost { elapsed, nodes: vec![node, node], client, others, node_packets: Some(2500.0) });
        outcome.conflicts = 3;
        let said = text(&outcome);
        assert!(
            said.starts_with("mix f, closed loop, 64 outstanding, values of 64 bytes, 10000 keys, zipfian, 1 s\n"),
            "{said}"
        );
        assert!(said.contains("conflicts               3"), "{said}");
        assert!(said.contains("nodes 0.00/0.00  client 0.50  others 0.00   MiB 9/9   4.00 us of all"), "{said}");
        let value = json(&outcome, None, 1);
        assert_eq!(
            (&value["share_percent"], &json(&outcome, Some(90), 1)["share_percent"]),
            (&Value::Null, &json!(90))
        );
        assert_eq!((&value["mix"], &value["outstanding"], &value["conflicts"]), (&json!("f"), &json!(64), &json!(3)));
        assert_eq!(value["cost"]["nodes"][1]["leads"], json!(true));
        assert_eq!(value["cost"]["node_packets_each"], json!(2.5));
        assert!((value["cost"]["nodes_us_each"].as_f64().expect("a number") - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_distribution_goes_up_to_the_slowest() {
        let value = distribution(Measured::of((1..=1000).map(Duration::from_micros)).latency_ns());
        let steps = value.as_array().expect("steps");
        let ns = |step: &Value| step[1].as_u64().expect("nanoseconds");
        assert!(steps.len() > 10 && steps.windows(2).all(|pair| ns(&pair[0]) <= ns(&pair[1])));
        assert_eq!(steps.last().expect("one")[0], json!(1.0));
        assert!(ns(steps.last().expect("one")).abs_diff(1_000_000) < 1000);
        assert!(distribution(Measured::default().latency_ns()).as_array().is_some_and(Vec::is_empty));
    }
}
