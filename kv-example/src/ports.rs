//! `kv bench-ports`: the same cluster on each port in turn, in one run: what a call takes, and what an idle node costs.
//!
//! ```text
//! rounds x ports:  start nodes -> init -> idle ... -> echo, one at a time ... -> put, one at a time ... -> end
//! ```
//!
//! The nodes are on the hosts of a lab ([`trimaran_rpc::program::lab`]): both ports carry their packets over the same pairs of
//! virtual interfaces and the same bridge. The kernel's sockets are measured on the loopback interface, too, where they have no
//! bridge to cross.

use crate::bench;
use crate::cli::{Bench, BenchPorts, Op};
use crate::load::Measured;
use serde_json::{Value, json};
use std::time::Duration;
use trimaran_rpc::program::cluster::LocalCluster;
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::machine;
use trimaran_rpc::program::nodes::{self, Nodes};
use trimaran_rpc::program::port::PortKind;
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, say};
use trimaran_runtime::{now, spawn};

const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// How long nodes may take to start and to elect.
const PATIENCE: Duration = Duration::from_secs(10);
/// An idle cluster is measured from so long after its start.
const SETTLE: Duration = Duration::from_secs(1);
/// Each kind of call is made for so long before it is measured.
const WARMUP_SECONDS: u32 = 1;

/// One port at one place, and what was measured there in all rounds.
struct Row {
    name: &'static str,
    site: Site,
    echo: Measured,
    put: Measured,
    idle: Idle,
}

/// CPU time used while nothing was asked.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    nodes: Duration,
    client: Duration,
    elapsed: Duration,
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// E0109 and E0110 where there can be no lab; those of the nodes and the cluster.
pub fn run(bench: &BenchPorts, program: &Program) -> Result<(), Error> {
    let dpdk = Site::lab(PortKind::Dpdk, program.service, bench.nodes)?;
    let udp = dpdk.with_port(PortKind::Udp);
    let sites = [("dpdk, veth and bridge", dpdk), ("udp, veth and bridge", udp), ("udp, loopback", Site::Loopback)];
    let new_row =
        |(name, site)| Row { name, site, echo: Measured::default(), put: Measured::default(), idle: Idle::default() };
    let mut rows = sites.map(new_row);
    for round in 1..=bench.rounds {
        for row in &mut rows {
            eprintln!("round {round} of {}: {}", bench.rounds, row.name);
            row.site.address(bench.nodes)?;
            let (echo, put, idle) = measure(&row.site, bench, program.service)?;
            row.site.unaddress(bench.nodes)?;
            row.echo.add(&echo);
            row.put.add(&put);
            row.idle.nodes += idle.nodes;
            row.idle.client += idle.client;
            row.idle.elapsed += idle.elapsed;
        }
    }
    match bench.json {
        true => rows.iter().try_for_each(|row| say(&format!("{}\n", row_json(row, bench)))),
        false => say(&table(&rows, bench)),
    }
}

/// One cluster from its start to its end.
fn measure(site: &Site, bench: &BenchPorts, service: &'static str) -> Result<(Measured, Measured, Idle), Error> {
    let signals = Signals::watch()?;
    let plan = nodes::Plan { service, count: bench.nodes, ..nodes::Plan::default() };
    let nodes = Nodes::start(site.clone(), plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let target = Target { port: nodes.client_port(), ..Target::new(servers, CALL_DEADLINE) };
    let (seconds, idle_seconds) = (bench.seconds, bench.idle);
    let (echo, put) = (asked(bench, Op::Echo), asked(bench, Op::Put));
    with_connection(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        cluster.form(service, PATIENCE).await?;
        cluster.wait(SETTLE).await?;
        let idle = idle(&mut cluster, Duration::from_secs(idle_seconds.into())).await?;
        let mut results = Vec::new();
        for bench in [echo, put] {
            let connection = cluster.connection.clone();
            let running = spawn(async move { bench::measure(connection, &bench).await });
            cluster.wait(Duration::from_secs((WARMUP_SECONDS + seconds).into())).await?;
            let measured = running.await.and_then(|measured| measured).map_err(panicked)?;
            results.push(measured.take());
        }
        let put = results.pop().unwrap_or_default();
        Ok((results.pop().unwrap_or_default(), put, idle))
    })
}

async fn idle(cluster: &mut LocalCluster, time: Duration) -> Result<Idle, Error> {
    let used = |cluster: &LocalCluster| Some((cluster.nodes.cpu_time()?, machine::cpu_time(std::process::id())?));
    let (before, from) = (used(cluster), now());
    cluster.wait(time).await?;
    match (before, used(cluster)) {
        (Some((nodes_before, client_before)), Some((nodes, client))) => Ok(Idle {
            nodes: nodes.saturating_sub(nodes_before),
            client: client.saturating_sub(client_before),
            elapsed: now().saturating_since(from),
        }),
        _ => Err(Error::DemoFailed { what: "the nodes' CPU time cannot be read from /proc".into() }),
    }
}

fn asked(bench: &BenchPorts, op: Op) -> Bench {
    let BenchPorts { outstanding, value, seconds, .. } = *bench;
    Bench { outstanding, value, seconds, ..bench::of(op, WARMUP_SECONDS) }
}

fn median_us(measured: &Measured) -> Option<f64> {
    measured.percentiles().map(|percentiles| percentiles.p50 as f64 / 1000.0)
}

fn percent(used: Duration, elapsed: Duration) -> f64 {
    100.0 * used.as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn row_json(row: &Row, bench: &BenchPorts) -> Value {
    let measured = Duration::from_secs(u64::from(bench.seconds) * u64::from(bench.rounds));
    json!({
        "port": row.name,
        "echo": row.echo.to_json(measured),
        "put": row.put.to_json(measured),
        "idle_nodes_percent": percent(row.idle.nodes, row.idle.elapsed),
        "idle_client_percent": percent(row.idle.client, row.idle.elapsed),
    })
}

fn table(rows: &[Row; 3], bench: &BenchPorts) -> String {
    let BenchPorts { nodes, outstanding, value, rounds, seconds, .. } = bench;
    let mut out = format!(
        "{nodes} nodes and a client, {outstanding} outstanding, values of {value} bytes, {rounds} rounds of {seconds} s each\n\n"
    );
    out += &format!(
        "  {:<22} {:>17}   {:>17}   {:>22}\n",
        "", "echo, us: p50 p99", "put, us: p50 p99", "idle, % of a core each"
    );
    for Row { name, echo, put, idle, .. } in rows {
        let pair = |measured: &Measured| match measured.percentiles() {
            Some(p) => format!("{:>8.1} {:>8.1}", p.p50 as f64 / 1000.0, p.p99 as f64 / 1000.0),
            None => "not measured".to_owned(),
        };
        let each = percent(idle.nodes, idle.elapsed) / f64::from(*nodes).max(1.0);
        let client = percent(idle.client, idle.elapsed);
        out += &format!(
            "  {name:<22} {:>17}   {:>17}   {:>9}\n",
            pair(echo),
            pair(put),
            format!("node {each:.2}, client {client:.2}")
        );
    }
    let [dpdk, udp, loopback] = rows;
    let ratio = |a: &Measured, b: &Measured| match (median_us(a), median_us(b)) {
        (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
        _ => "not measured".to_owned(),
    };
    out += &format!("\n  put, dpdk / udp              {:>6}\n", ratio(&dpdk.put, &udp.put));
    out += &format!("  put, dpdk / udp on loopback  {:>6}\n", ratio(&dpdk.put, &loopback.put));
    out + &format!("  put / echo, dpdk             {:>6}\n", ratio(&dpdk.put, &dpdk.echo))
}
