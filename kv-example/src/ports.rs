//! `kv bench-ports`: the same cluster on each port in turn, in one run: what a call takes, and what an idle node costs.
//!
//! ```text
//! rounds x ports:  start nodes -> init -> idle ... -> echo, one at a time ... -> put, one at a time ... -> end
//! ```
//!
//! The nodes are on the hosts of a lab ([`trimaran_rpc::program::lab`]): both ports carry their packets over the same pairs of
//! virtual interfaces and the same bridge. The kernel's sockets are measured on the loopback interface, too, where they have no
//! bridge to cross. All of this in four placements:
//!
//! * `apart`: a process for each node, which on a machine of few cores run one after the other
//! * `together`: one process for all nodes, which talk among themselves without a wake-up, and without a network: on the stack's way
//!   back to its own host, or on the kernel's loopback
//! * `device-each`: one process for all nodes, each of which has a virtual interface of its own; what they tell each other crosses two of
//!   these and the bridge, on either port. The kernel would use its loopback here, too, and is told by rules of routing not to
//!   ([`lab`](trimaran_rpc::program::lab::Lab::address_apart))
//! * `links`: one process for all nodes, each of which has a link of shared memory (DPDK's memif) to each of the others and one to the
//!   client: no frame crosses the kernel. The kernel's sockets have no such links, and stay as for `device-each`, and on the loopback

mod table;

use crate::bench::{self, Load};
use crate::cli::{BenchPorts, Op};
use crate::load::{Measured, Pace};
use std::time::Duration;
use trimaran_rpc::program::cluster::LocalCluster;
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::machine;
use trimaran_rpc::program::nodes::{self, Nodes, Placement};
use trimaran_rpc::program::port::{MEMORY_MIB, PortKind, PortPlan};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, say};
use trimaran_runtime::{now, spawn};

const DPDK: &str = "dpdk, veth and bridge";
const LINKS: &str = "dpdk, memif";
const UDP: &str = "udp, veth and bridge";
const LOOPBACK: &str = "udp, loopback";

const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// How long nodes may take to start and to elect.
const PATIENCE: Duration = Duration::from_secs(10);
/// An idle cluster is measured from so long after its start.
const SETTLE: Duration = Duration::from_secs(1);
/// What the client's buffers take of DPDK's memory each time that its device is opened: once in each placement and round.
const OPENING_MIB: u32 = 10;
/// DPDK has room for 32 devices in a process, and each node has one for each of the others and one for the client.
const LINKED_NODES_MAX: u8 = 5;
/// Each kind of call is made for so long before it is measured.
const WARMUP: Duration = Duration::from_secs(1);

/// In the order of the table.
const PLACEMENTS: [Placement; 4] = [Placement::Apart, Placement::Together, Placement::DeviceEach, Placement::Links];

/// One port at one place, and what was measured there, round by round.
struct Row {
    name: &'static str,
    placement: Placement,
    site: Site,
    rounds: Vec<Round>,
}

/// What one cluster took.
struct Round {
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
    if bench.placement == Some(Placement::Links) && !can_link(bench.nodes) {
        return Err(Error::Usage {
            problem: format!(
                "{} nodes with a link between any two need more devices than DPDK has room for",
                bench.nodes
            ),
            help: format!("write `--nodes {LINKED_NODES_MAX}` or fewer"),
        });
    }
    let dpdk = Site::lab(PortKind::Dpdk, program.service, bench.nodes)?;
    let udp = dpdk.with_port(PortKind::Udp);
    let sites = [(DPDK, dpdk), (UDP, udp), (LOOPBACK, Site::Loopback)];
    let placements = PLACEMENTS.into_iter().filter(|placement| *placement != Placement::Links || can_link(bench.nodes));
    let asked = placements.filter(|placement| bench.placement.is_none_or(|asked| asked == *placement));
    let of = |placement| {
        // On the loopback interface there are no devices to have one each.
        let places =
            sites.clone().into_iter().filter(move |(name, _)| placement != Placement::DeviceEach || *name != LOOPBACK);
        let name = move |name| if (name, placement) == (DPDK, Placement::Links) { LINKS } else { name };
        places.map(move |(place, site)| Row { name: name(place), placement, site, rounds: Vec::new() })
    };
    let mut rows: Vec<Row> = asked.flat_map(of).collect();
    for round in 1..=bench.rounds {
        for row in &mut rows {
            eprintln!("round {round} of {}: {}, {}", bench.rounds, row.name, row.placement.name());
            row.site.prepare(bench.nodes, row.placement)?;
            row.rounds.push(measure(row, bench, program.service)?);
            row.site.clear(bench.nodes, row.placement)?;
        }
    }
    match bench.json {
        true => rows.iter().try_for_each(|row| say(&format!("{}\n", table::json(row, bench)))),
        false => say(&table::text(&rows, bench)),
    }
}

fn can_link(nodes: u8) -> bool {
    nodes <= LINKED_NODES_MAX
}

/// One cluster from its start to its end.
fn measure(row: &Row, bench: &BenchPorts, service: &'static str) -> Result<Round, Error> {
    let signals = Signals::watch()?;
    let plan = nodes::Plan { service, count: bench.nodes, placement: row.placement, ..nodes::Plan::default() };
    let mut nodes = Nodes::start(row.site.clone(), plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let mut port = nodes.await_client_port(PATIENCE)?;
    if let PortPlan::Dpdk(plan) = &mut port {
        // DPDK starts once, and each opening of the client's device takes buffers anew.
        plan.memory_mib = MEMORY_MIB + OPENING_MIB * PLACEMENTS.len() as u32 * bench.rounds;
    }
    let target = Target { port, ..Target::new(servers, CALL_DEADLINE) };
    let (seconds, idle_seconds) = (bench.seconds, bench.idle);
    let (echo, put) = (asked(bench, Op::Echo), asked(bench, Op::Put));
    // The nodes outlive the client's port: DPDK would take a link's memory away from under it.
    let (round, nodes) = with_connection(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        cluster.form(service, PATIENCE).await?;
        cluster.wait(SETTLE).await?;
        let idle = idle(&mut cluster, Duration::from_secs(idle_seconds.into())).await?;
        let mut results = Vec::new();
        for load in [echo, put] {
            let connections = [cluster.connection.clone()];
            let running = spawn(async move { bench::measure(&connections, &load, None).await });
            cluster.wait(WARMUP + Duration::from_secs(seconds.into())).await?;
            results.push(running.await.map_err(panicked)??.measured);
        }
        let put = results.pop().unwrap_or_default();
        let round = Round { echo: results.pop().unwrap_or_default(), put, idle };
        Ok((round, cluster.nodes))
    })?;
    drop(nodes);
    Ok(round)
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

fn asked(bench: &BenchPorts, op: Op) -> Load {
    let BenchPorts { outstanding, value, seconds, .. } = *bench;
    let (pace, measure) = (Pace::Closed { outstanding: outstanding as usize }, Duration::from_secs(seconds.into()));
    Load { pace, value, measure, ..Load::of(op, WARMUP) }
}
