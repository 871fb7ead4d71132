//! `status`: how each node is.

use crate::admin::{LeaseInfo, NodeStatus, PeerInfo, PortInfo};
use crate::program::cli::Status;
use crate::program::connect;
use crate::program::error::Error;
use crate::program::say;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use trimaran_net::shard_address;

/// A peer that has not answered the leader for so long is worth a line.
const SILENT_MS: u64 = 1000;

/// Whose counters are about packets.
const LAYERS: [&str; 4] = ["net.", "port.", "stack.", "device."];
/// Parts of the names of counters of lost packets.
const LOSSES: [&str; 12] = [
    "dropped",
    "truncated",
    "no_buffer",
    "overrun",
    "errors",
    "refused",
    "missed",
    "malformed",
    "checksum",
    "unresolved",
    "no_route",
    "queue_full",
];

/// Asks every node and prints a line about each, or all it says as JSON. Fails where none answers.
pub fn run(status: &Status, program: &str) -> Result<(), Error> {
    let target = status.servers.target()?;
    let servers = target.servers.clone();
    let answers = connect::once(target, move |connection| async move {
        let asked = servers.iter().map(|&server| {
            let connection = connection.clone();
            async move {
                let first = connection.status(server).await;
                let shards = first.as_ref().map_or(1, |node| node.probe.shards);
                let mut answers = vec![(server, first)];
                for server in (1..shards).filter_map(|shard| shard_address(server, shard)) {
                    answers.push((server, connection.status(server).await));
                }
                answers
            }
        });
        Ok(futures::future::join_all(asked).await.into_iter().flatten().collect::<Vec<_>>())
    })?;
    for (server, answer) in &answers {
        say(&match (answer, status.json) {
            (Ok(node), true) => format!("{}\n", node_json(*server, node)),
            (Err(error), true) => {
                format!("{}\n", json!({ "address": server.to_string(), "error": error.to_string() }))
            }
            (Ok(node), false) => lines(*server, node, program),
            (Err(error), false) => format!("{server}  {error}\n"),
        })?;
    }
    let modes: BTreeSet<&str> =
        answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.durability.as_str())).collect();
    if modes.len() > 1 && !status.json {
        let modes: Vec<&str> = modes.into_iter().collect();
        let all = modes.join(" and ");
        say(&format!(
            "the nodes differ in durability ({all}): an acknowledgement survives what a majority survives\n"
        ))?;
    }
    let shards: BTreeSet<u16> =
        answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.probe.shards)).collect();
    if shards.len() > 1 && !status.json {
        let shards: Vec<String> = shards.iter().map(u16::to_string).collect();
        let all = shards.join(" and ");
        say(&format!("the nodes differ in their number of shards ({all}): none takes part in what the others have\n"))?;
    }
    match answers.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>() {
        answers if answers.iter().any(Result::is_ok) => Ok(()),
        answers => answers.into_iter().next().map_or(Ok(()), |answer| answer.map(drop)),
    }
}

fn node_json(server: SocketAddrV4, node: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(node).unwrap_or_default();
    value["address"] = json!(server.to_string());
    value
}

/// What an operator wants to know of one node: a line, and a line more for everything unusual.
fn lines(server: SocketAddrV4, node: &NodeStatus, program: &str) -> String {
    let NodeStatus { probe, role, term, commit, applied, first, last, log_bytes, .. } = node;
    let leader = if node.leader == 0 { "no leader known".to_owned() } else { format!("leader {}", node.leader) };
    let shard = if probe.shards == 1 { String::new() } else { format!(" shard {}", probe.shard) };
    let mut out = format!(
        "{server}  node {}{shard}  {role}, term {term}, {leader}, committed {commit}, applied {applied}, log {first}..{last} ({} KiB, {})\n",
        probe.node.slot,
        log_bytes / 1024,
        node.durability
    );
    match &probe.cluster {
        Some(cluster) => out += &format!("    cluster {} {cluster}", probe.name),
        None => out += &format!("    cluster {} not formed: `{program} init --config node.toml`", probe.name),
    }
    if role == "leader" {
        out += &format!(", {} of {} replicas reachable, {} needed", node.reachable, node.total, node.quorum);
    }
    if let Some(digest) = &node.digest {
        out += &format!(", digest {:016x} at {}", digest.state, digest.applied);
    }
    out += "\n";
    if let Some(waiting) = &node.waiting {
        out += &format!("    waits: {waiting}\n");
    }
    if let Some(halt) = &node.halted {
        out += &format!(
            "    stopped before entry {} [{}]: {} (method {:08x}, request {:016x})\n",
            halt.index, halt.code, halt.message, halt.method, halt.request_hash
        );
    }
    out += &read_line(node.leases, &node.counters);
    out += &log_lines(node);
    if probe.shard == 0 {
        // A core's port is the same for all of its shards.
        out += &port_lines(&node.port, &node.counters);
    }
    // Only a leader hears from the others.
    for PeerInfo { slot, matched, silent_ms, out_of_reach } in node.peers.iter().filter(|_| role == "leader") {
        let why = match silent_ms {
            _ if *out_of_reach => "lacks entries that are gone from the log, and stays out".to_owned(),
            None => "has not answered this leader yet".to_owned(),
            Some(ms) if *ms > SILENT_MS => format!("has not answered for {:.1} s", *ms as f64 / 1000.0),
            Some(_) => continue,
        };
        out += &format!("    node {slot} {why}; it holds entries up to {matched}\n");
    }
    out
}

/// Whether there are leases, and how many reads of each kind were answered here.
fn read_line(leases: Option<LeaseInfo>, counters: &BTreeMap<String, u64>) -> String {
    let Some(LeaseInfo { enabled, held, clock_drift_ppm }) = leases else { return String::new() };
    let mut out = match (enabled, held) {
        (false, _) => "    leases off".to_owned(),
        (true, false) => format!("    leases on (clocks within {clock_drift_ppm} ppm)"),
        (true, true) => format!("    leases on (clocks within {clock_drift_ppm} ppm), held now"),
    };
    let counts = counters.iter().filter_map(|(name, count)| Some((name.strip_prefix("server.read_")?, count)));
    let counts: Vec<_> = counts.map(|(name, count)| format!("{} {count}", name.replace('_', " "))).collect();
    if !counts.is_empty() {
        out += &format!("; reads: {}", counts.join(", "));
    }
    out + "\n"
}

/// What carries the log, how much it has written, and what was in its way.
fn log_lines(node: &NodeStatus) -> String {
    if node.log_device.is_empty() {
        return String::new();
    }
    let count = |name: &str| node.counters.get(&format!("log.{name}")).copied().unwrap_or(0);
    let mut out = format!(
        "    log on {}\n    {} records ({} KiB), up to {} under way, {} snapshots, files of {} MiB",
        node.log_device,
        count("records"),
        count("record_bytes") / 1024,
        count("under_way_max"),
        count("snapshots"),
        count("file_bytes") >> 20
    );
    for (name, what) in [("stalls", "stalled"), ("full", "full")] {
        if count(name) > 0 {
            out += &format!(", {what} {} times", count(name));
        }
    }
    out + "\n"
}

/// What carries the packets, and which it lost: counters of the port, its stack and its device that speak of a loss.
fn port_lines(port: &PortInfo, counters: &BTreeMap<String, u64>) -> String {
    let PortInfo { kind, device, driver, link_up, sleeps } = port;
    if kind.is_empty() {
        return String::new();
    }
    let mut out = format!("    over {kind}");
    if !device.is_empty() {
        out += &format!(": {device}");
    }
    if !driver.is_empty() {
        out += &format!(" ({driver})");
    }
    if let Some(up) = link_up {
        out += if *up { ", link up" } else { ", LINK DOWN" };
    }
    if !sleeps.is_empty() {
        out += &format!("; sleeps {sleeps}");
    }
    out += "\n";
    let lost = counters.iter().filter(|(name, _)| LOSSES.iter().any(|loss| name.contains(loss)));
    let lost = lost.filter(|(name, _)| LAYERS.iter().any(|layer| name.starts_with(layer)));
    let lost: Vec<_> = lost.map(|(name, count)| format!("{name} {count}")).collect();
    if !lost.is_empty() {
        out += &format!("    lost: {}\n", lost.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_and_reads_are_a_line() {
        let counters = [("server.read_stale", 3), ("server.read_under_lease", 20), ("server.refused", 1)];
        let counters = counters.map(|(name, count)| (name.to_owned(), count)).into();
        let leases = |enabled, held| Some(LeaseInfo { enabled, held, clock_drift_ppm: 1000 });
        let expected = "    leases on (clocks within 1000 ppm), held now; reads: stale 3, under lease 20\n";
        assert_eq!(read_line(leases(true, true), &counters), expected);
        assert_eq!(read_line(leases(true, false), &BTreeMap::new()), "    leases on (clocks within 1000 ppm)\n");
        assert_eq!(read_line(leases(false, false), &BTreeMap::new()), "    leases off\n");
        assert_eq!(read_line(None, &counters), "", "an older node says nothing of it");
    }

    #[test]
    fn the_port_is_a_line_and_what_it_lost_another() {
        let counters = [("port.rx_packets", 9), ("port.rx_overrun", 2), ("stack.udp_checksum", 1), ("refused", 3)];
        let counters = counters.map(|(name, count)| (name.to_owned(), count)).into();
        let port = PortInfo {
            kind: "dpdk".into(),
            device: "net_af_packet_0".into(),
            driver: "net_af_packet".into(),
            link_up: Some(false),
            sleeps: "50 us at a time".into(),
        };
        let expected = "    over dpdk: net_af_packet_0 (net_af_packet), LINK DOWN; sleeps 50 us at a time\n    \
                        lost: port.rx_overrun 2, stack.udp_checksum 1\n";
        assert_eq!(port_lines(&port, &counters), expected);
        assert_eq!(port_lines(&PortInfo::default(), &counters), "", "an older node says nothing of it");
    }
}
