//! `serve`: the server's side of the wiring, from configurations to running nodes.

mod seat;

use crate::node::{Node, NodeConfig, NodeError};
use crate::program::cli::Serve;
use crate::program::config::Config;
use crate::program::config::Warning;
use crate::program::connect::{net_error, random_u128, runtime_error};
use crate::program::data;
use crate::program::error::Error;
use crate::program::port::{Between, Capture, Loss, PortKind};
use crate::program::signals::Signals;
use crate::program::{hosted, machine, report};
use crate::r2p2::reassembly;
use crate::service::Service;
use crate::shards::{ShardMap, ShardPlace};
use crate::storage::DataDirectory;
use futures::future::join_all;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use seat::{Lives, Seat};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trimaran_net::{Layout, Net, shard_address};
use trimaran_raft::{Incarnation, Limits, ReadSettings, Sabotage, Slot, Timing};
use trimaran_runtime::{CoreConfig, Idle, NoDevice, sleep, start as start_core};

/// Reads that may wait at a time.
const QUEUED_READS: usize = 65_536;
/// For the kernel's sockets. Each look at them is a system call: looking for long after every heartbeat would cost an idle node more than
/// a sleep's wake-up costs a busy one.
pub const IDLE: Idle = Idle::Hybrid { polls: 10, yields: 20 };
/// How long a leader that is told to end may take to find a successor.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);
/// For what is on its way to the disk when a node is told to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Tries to begin another life in the place of one that was ended, one at each look.
const TRIES: u32 = 25;
/// Between two looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs a node, or several in this process, until a signal asks it to end. `service` makes the state of a replica that has applied
/// nothing: of each shard there is one, on the shard's own core.
///
/// # Errors
/// The configurations' (E02xx) and the environment's (E01xx).
pub fn run<S: Service>(serve: &Serve, service: impl Fn() -> S + Clone + Send + 'static) -> Result<(), Error> {
    end_with_parent(serve)?;
    let configs = serve.config.iter().map(|path| load(path, serve)).collect::<Result<Vec<_>, _>>()?;
    hosted::check(&configs)?;
    let port = hosted::port_plan(&configs)?;
    let cores = configs.first().map(|config| config.cores.clone()).unwrap_or_default();
    let layout = cores.layout()?;
    init_log(serve.log);
    if hosted::needs_own_core(&configs) && !serve.force && !machine::has_isolated_cores() {
        return Err(Error::SharedCores);
    }
    let signals = Arc::new(Signals::watch()?);
    let capture = serve.capture.as_ref().map(|path| Capture { path: path.clone(), limit_bytes: serve.capture_bytes });
    let loss = serve
        .inject_loss
        .map(|per_million| Loss { per_million, seed: configs.first().map_or(0, |config| config.slot.into()) });
    if loss.is_some_and(|loss| loss.per_million > 0) {
        tracing::warn!("loses packets on purpose: --inject-loss");
    }
    let between = Between { capture, loss };
    let steering = hosted::steering(&configs, layout);
    let (name, changes_durability) = (hosted::name(&configs), serve.change_durability);
    let seed = random_u128()? as u64;
    let idle = if serve.spin { Idle::Spin } else { IDLE };
    let core_config = |core: usize| {
        let name = if layout.cores() == 1 { name.clone() } else { format!("{name} core {core}") };
        let cpu = cores.cpus.get(core).copied();
        let (core_id, seed) = (core as u16, seed ^ core as u64);
        CoreConfig { name, core_id, cpu, seed, idle, ..CoreConfig::default() }
    };
    let main = move |core: usize, net: Net| {
        let part = Part { core, layout, net, changes_durability, signals: signals.clone(), configs: configs.clone() };
        part.run(service.clone())
    };
    match layout.cores() {
        1 => port.run(core_config(0), &between, move |net| main(0, net)),
        cores => {
            let cores = (0..cores).map(core_config).collect();
            port.run_several(cores, &between, &steering, main).map(|_| ())
        }
    }
}

/// What one core does for this process's nodes: of each it has some shards.
struct Part {
    core: usize,
    layout: Layout,
    net: Net,
    changes_durability: bool,
    signals: Arc<Signals>,
    configs: Vec<Config>,
}

impl Part {
    async fn run<S: Service>(self, service: impl Fn() -> S) -> Result<(), Error> {
        let Part { core, layout, net, changes_durability, signals, configs } = self;
        if core == 0 && configs.iter().any(|config| net.payload_bytes() < config.net.payload_bytes) {
            let bytes = net.payload_bytes();
            tracing::info!("datagrams carry {bytes} bytes at most: the device's MTU allows no more");
        }
        let map = ShardMap::new(layout.shards()).unwrap_or_default();
        let begin = |config: &Config, place, anew: bool| {
            let node = node_config(config, place)?;
            let directory = data::open(config, place, node.incarnation, changes_durability)?;
            let directory = directory.map(|found| if anew { found.begin_anew() } else { found });
            start(&net, core, node, service(), directory, config)
        };
        let mut nodes: Vec<Vec<Seat>> = Vec::new();
        for config in &configs {
            let mut shards = Vec::new();
            for place in layout.shards_of(core).filter_map(|shard| ShardPlace::new(shard, map)) {
                let node = Some(begin(config, place, false)?);
                shards.push(Seat { place, node, tries: 0, lives: Lives::default() });
            }
            nodes.push(shards);
        }
        while signals.check().is_ok() {
            if nodes.iter().flatten().filter_map(|seat| seat.node.as_ref()).any(|node| node.failed().is_some()) {
                return Err(Error::LogDeviceFailed);
            }
            for (config, shards) in configs.iter().zip(&mut nodes) {
                for seat in shards {
                    seat.end_if_outvoted(config.slot);
                }
            }
            sleep(LOOK_EVERY).await;
            // What the old lives had open is closed by now, as a rule: their tasks ended in the turns since.
            for (config, shards) in configs.iter().zip(&mut nodes) {
                for seat in shards.iter_mut().filter(|seat| seat.node.is_none()) {
                    seat.tries += 1;
                    match begin(config, seat.place, true) {
                        Ok(node) => (seat.node, seat.tries) = (Some(node), 0),
                        Err(error) if seat.tries >= TRIES => return Err(error),
                        Err(error) => tracing::warn!(%error, "another life cannot begin yet"),
                    }
                }
            }
        }
        tracing::info!("ending: a signal came");
        // One node after the other, each gone before the next: what this process leads ends up with others where there are any.
        for shards in nodes {
            let shards: Vec<Node> = shards.into_iter().filter_map(|seat| seat.node).collect();
            join_all(shards.iter().map(|shard| shard.hand_over(HAND_OVER_WITHIN))).await;
            join_all(shards.iter().map(|shard| shard.close(CLOSE_WITHIN))).await;
            drop(shards);
        }
        Ok(())
    }
}

/// A node's configuration with the port that it shall use; prints what it warns of.
fn load(path: &Path, serve: &Serve) -> Result<Config, Error> {
    let (mut config, warnings) = Config::load(path)?;
    config.net.port = serve.port.unwrap_or(config.net.port);
    config.cores.shards = serve.shards.unwrap_or(config.cores.shards);
    config.cores.count = serve.cores.map_or(config.cores.count, usize::from);
    let is_moot =
        |warning: &Warning| matches!(warning, Warning::UnusedDpdk { .. }) && config.net.port == PortKind::Dpdk;
    warnings.iter().filter(|warning| !is_moot(warning)).for_each(|warning| eprint!("{}", report::warning(warning)));
    Ok(config)
}

fn start<S: Service>(
    net: &Net,
    on: usize,
    node: NodeConfig,
    service: S,
    directory: Option<DataDirectory>,
    config: &Config,
) -> Result<Node, Error> {
    let (slot, client, peer, durability) = (node.slot.0, node.client, node.peer, config.durability);
    let place = node.place;
    let of = if place == ShardPlace::ALONE { String::new() } else { format!(", {place}") };
    let failed = |error| match error {
        NodeError::Bind { source, .. } => net_error(source),
        NodeError::Data(error) => data::refused(config.data_dir.as_deref().unwrap_or(Path::new("")), error),
    };
    if let Some(may_grow) = S::BYTES_MAX.filter(|most| *most > u64::from(config.limits.snapshot_bytes)) {
        let most = config.limits.snapshot_bytes;
        tracing::warn!(
            "the state may grow to {may_grow} bytes, and travels up to {most} only (`snapshot_bytes` in [limits]): beyond that a node \
             that has lost more than the log holds stays out"
        );
    }
    let node = if config.cores.applier {
        let (node, applier) = Node::start_with_applier(net, node, service, directory).map_err(failed)?;
        let (name, cpu) = (format!("applier {slot}{of}"), config.cores.applier_cpus.get(on).copied());
        let core = CoreConfig { name, cpu, seed: u64::from(slot), ..CoreConfig::default() };
        // It ends with the node.
        start_core(core, || NoDevice, move || applier.run()).map_err(runtime_error)?;
        node
    } else {
        Node::start_in(net, node, service, directory).map_err(failed)?
    };
    tracing::info!("node {slot}{of} serves clients on {client} and peers on {peer}, {}", durability.name());
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

/// What a node of this configuration must be told for one of its shards: each has random numbers of its own, so that its disk's
/// witness is its own, too.
///
/// # Errors
/// E0215 where the configuration has no entry for the node, E0104 where the kernel gives no random numbers.
pub fn node_config(config: &Config, place: ShardPlace) -> Result<NodeConfig, Error> {
    let random = random_u128()?;
    let me = config.me().ok_or_else(|| Error::Usage {
        problem: format!("slot {} is no member", config.slot),
        help: "add a [[member]] for it".into(),
    })?;
    let limits = &config.limits;
    // The configuration leaves room for 64 ports behind each.
    let own = |base: SocketAddrV4| shard_address(base, place.shard()).unwrap_or(base);
    Ok(NodeConfig {
        cluster_name: config.cluster.clone(),
        slot: Slot(config.slot),
        place,
        incarnation: Incarnation((random >> 64) as u64),
        client: own(me.client),
        peer: own(me.peer),
        contacts: config.members.iter().map(|member| own(member.peer)).collect(),
        timing: Timing {
            heartbeat: config.timing.heartbeat,
            election_min: config.timing.election_min,
            election_max: config.timing.election_max,
            quiet_after: config.timing.quiet_after,
        },
        log_limits: Limits {
            log_bytes: limits.log_bytes as u64,
            uncommitted_bytes: limits.uncommitted_bytes as u64,
            entry_bytes: u32::try_from(limits.request_bytes).unwrap_or(u32::MAX),
            snapshot_bytes: limits.snapshot_bytes,
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
        reads: ReadSettings {
            lease: config.reads.lease,
            clock_drift_ppm: config.reads.clock_drift_ppm,
            // By then another leads, or nobody does.
            patience: config.timing.election_max,
        },
        rcvbuf_bytes: config.net.rcvbuf_bytes,
        router: config.net.router,
        seed: random as u64,
        sabotage: Sabotage::NONE,
    })
}

#[cfg(test)]
mod tests;
