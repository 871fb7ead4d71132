//! `serve`: the server's side of the wiring, from a configuration to a running node.

use crate::node::{Node, NodeConfig, NodeError};
use crate::program::cli::Serve;
use crate::program::config::Warning;
use crate::program::config::{Config, Profile};
use crate::program::connect::{net_error, random_u128};
use crate::program::data;
use crate::program::error::Error;
use crate::program::machine;
use crate::program::port::{Between, Capture, DpdkPlan, Loss, PortKind, PortPlan};
use crate::program::report;
use crate::program::signals::Signals;
use crate::r2p2::reassembly;
use crate::service::Service;
use crate::storage::DataDirectory;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::path::Path;
use std::time::Duration;
use trimaran_net::{Net, device_payload_bytes};
use trimaran_raft::{Incarnation, Limits, Slot, Timing};
use trimaran_runtime::{CoreConfig, Idle, sleep};

/// Reads that may wait at a time.
const QUEUED_READS: usize = 65_536;
/// For the kernel's sockets. Each look at them is a system call: looking for long after every heartbeat would cost an idle node more than
/// a sleep's wake-up costs a busy one.
const IDLE: Idle = Idle::Hybrid { polls: 10, yields: 20 };
/// How long a leader that is told to end may take to find a successor.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);
/// For what is on its way to the disk when a node is told to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs a node until a signal asks it to end. `service` makes the state of a replica that has applied nothing.
///
/// # Errors
/// The configuration's (E02xx) and the environment's (E01xx).
pub fn run<S: Service>(serve: &Serve, service: impl FnOnce() -> S + 'static) -> Result<(), Error> {
    end_with_parent(serve)?;
    let (mut config, warnings) = Config::load(&serve.config)?;
    config.net.port = serve.port.unwrap_or(config.net.port);
    let is_moot =
        |warning: &Warning| matches!(warning, Warning::UnusedDpdk { .. }) && config.net.port == PortKind::Dpdk;
    warnings.iter().filter(|warning| !is_moot(warning)).for_each(|warning| eprint!("{}", report::warning(warning)));
    let port = port_plan(&config)?;
    init_log(serve.log);
    if config.timing.profile == Profile::Us && !serve.force && !machine::has_isolated_cores() {
        return Err(Error::SharedCores);
    }
    let signals = Signals::watch()?;
    let node = node_config(&config)?;
    let core =
        CoreConfig { name: format!("node {}", config.slot), seed: node.seed, idle: IDLE, ..CoreConfig::default() };
    let capture = serve.capture.as_ref().map(|path| Capture { path: path.clone(), limit_bytes: serve.capture_bytes });
    let loss = serve.inject_loss.map(|per_million| Loss { per_million, seed: config.slot.into() });
    if loss.is_some_and(|loss| loss.per_million > 0) {
        tracing::warn!("loses packets on purpose: --inject-loss");
    }
    let changes_durability = serve.change_durability;
    port.run(core, &Between { capture, loss }, move |net| async move {
        if net.payload_bytes() < config.net.payload_bytes {
            let bytes = net.payload_bytes();
            tracing::info!("datagrams carry {bytes} bytes at most: the device's MTU allows no more");
        }
        let directory = data::open(&config, node.incarnation, changes_durability)?;
        let node = start(&net, node, service(), directory, &config)?;
        while signals.check().is_ok() {
            if node.failed().is_some() {
                return Err(Error::LogDeviceFailed);
            }
            sleep(LOOK_EVERY).await;
        }
        tracing::info!("ending: a signal came");
        node.hand_over(HAND_OVER_WITHIN).await;
        node.close(CLOSE_WITHIN).await;
        Ok(())
    })
}

/// The port that the configuration asks for.
fn port_plan(config: &Config) -> Result<PortPlan, Error> {
    match (config.net.port, &config.dpdk) {
        (PortKind::Udp, _) => {
            let locals = config.me().map(|me| [me.client, me.peer]).into_iter().flatten();
            let carried = locals.filter_map(|local| device_payload_bytes(*local.ip())).min();
            let payload_bytes = config.net.payload_bytes;
            Ok(PortPlan::Udp { payload_bytes: carried.map_or(payload_bytes, |carried| payload_bytes.min(carried)) })
        }
        (PortKind::Dpdk, Some(plan)) => {
            Ok(PortPlan::Dpdk(DpdkPlan { payload_bytes: config.net.payload_bytes, ..plan.clone() }))
        }
        (PortKind::Dpdk, None) => Err(Error::Usage {
            problem: "--port dpdk needs a [dpdk] section in the configuration, which names a device".into(),
            help: "add [dpdk] with `device = \"net_af_packet0,iface=eth0\"`, or a card's PCI address".into(),
        }),
    }
}

fn start<S: Service>(
    net: &Net,
    node: NodeConfig,
    service: S,
    directory: Option<DataDirectory>,
    config: &Config,
) -> Result<Node, Error> {
    let (slot, client, peer, durability) = (node.slot.0, node.client, node.peer, config.durability);
    let node = Node::start_in(net, node, service, directory).map_err(|error| match error {
        NodeError::Bind { source, .. } => net_error(source),
        NodeError::Data(error) => data::refused(config.data_dir.as_deref().unwrap_or(Path::new("")), error),
    })?;
    tracing::info!("node {slot} serves clients on {client} and peers on {peer}, {}", durability.name());
    Ok(node)
}

fn init_log(level: tracing::Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // A node whose standard error has been closed goes on without a log, instead of complaining there and dying of it.
    log.log_internal_errors(false).init();
}

/// Where a demo started this node: the kernel shall end it when the demo ends, however that happens.
fn end_with_parent(serve: &Serve) -> Result<(), Error> {
    let Some(parent) = serve.parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| Error::io("follow the parent", errno.into()))?;
    // The parent may have ended before the kernel was asked.
    if getppid() == Pid::from_raw(parent) { Ok(()) } else { Err(Error::Interrupted) }
}

fn node_config(config: &Config) -> Result<NodeConfig, Error> {
    let random = random_u128()?;
    let me = config.me().ok_or_else(|| Error::Usage {
        problem: format!("slot {} is no member", config.slot),
        help: "add a [[member]] for it".into(),
    })?;
    let limits = &config.limits;
    Ok(NodeConfig {
        cluster_name: config.cluster.clone(),
        slot: Slot(config.slot),
        incarnation: Incarnation((random >> 64) as u64),
        client: me.client,
        peer: me.peer,
        contacts: config.members.iter().map(|member| member.peer).collect(),
        timing: Timing {
            heartbeat: config.timing.heartbeat,
            election_min: config.timing.election_min,
            election_max: config.timing.election_max,
        },
        log_limits: Limits {
            log_bytes: limits.log_bytes as u64,
            uncommitted_bytes: limits.uncommitted_bytes as u64,
            entry_bytes: u32::try_from(limits.request_bytes).unwrap_or(u32::MAX),
            ..Limits::default()
        },
        request_limits: reassembly::Limits {
            pending_messages: limits.pending_messages,
            pending_per_source: limits.pending_per_source,
            pending_bytes: limits.pending_bytes,
            request_bytes: limits.request_bytes,
            reassembly: limits.reassembly,
            ..reassembly::Limits::default()
        },
        reply_bytes: limits.reply_bytes,
        queued_reads: QUEUED_READS,
        rcvbuf_bytes: config.net.rcvbuf_bytes,
        router: config.net.router,
        seed: random as u64,
    })
}
