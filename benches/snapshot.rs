//! Prints the longest turn while a node saves a state of 1 GB: `cargo bench -p trimaran-benches --bench snapshot`,
//! `-- N` of N MiB instead.
//!
//! One durable replica over the kernel's sockets, in the directory DISK_BENCH_DIR, else where cargo keeps its output, which needs room
//! for the state once; memory is needed for it twice. A few puts are always on their way. A task of the Control lane that is never
//! done looks at the clock in every turn: the longest time between two looks is the longest turn. It stands beside the longest of some
//! seconds before, since another program that gets the processor for a while looks like a long turn.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use trimaran_benches::{rounds, tell};
use trimaran_net::port::udp::{UdpConfig, UdpPort};
use trimaran_net::{Net, NetConfig, NetDriver, SocketOptions};
use trimaran_raft::wal::{self, WalSettings};
use trimaran_raft::{ClusterId, Incarnation, Limits, ReadSettings, Sabotage, Slot, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::client::{Client, ClientConfig, MethodCall};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::{Policy, reassembly};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::shards::ShardPlace;
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_rpc::storage::{DataConfig, DataDirectory, Witness};
use trimaran_runtime::{
    Clock, CoreConfig, Disk, DiskConfig, Instant, Lane, Monotonic, TaskGroup, now, read_clock, run, sleep, spawn_in,
    yield_now,
};

const VALUE_BYTES: usize = 1024;
const STATE_BYTES: u64 = 1 << 30;
/// A snapshot is due after so many bytes of entries.
const SNAPSHOT_AFTER: u64 = 256 << 10;
const REQUEST: [u8; 1024] = [7; 1024];
const OUTSTANDING: usize = 8;
const BEFORE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(300);
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Values that are there from the beginning, and a count.
struct Large {
    values: Vec<String>,
    puts: u64,
}

impl State for Large {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.puts).await;
        to.len(self.values.len()).await;
        for value in &self.values {
            to.item(value).await;
        }
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let (puts, count): (u64, usize) = (from.item().await?, from.item().await?);
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(from.item().await?);
        }
        Ok(Large { values, puts })
    }
}

impl Service for Large {
    const NAME: &'static str = "large";

    async fn apply(&mut self, _: &mut Cx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.puts += 1;
        reply.extend_from_slice(&self.puts.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.puts.to_le_bytes());
        Answer::Ok
    }
}

/// What came of it.
struct Figures {
    before: Duration,
    meanwhile: Duration,
    took: Duration,
}

fn main() {
    let parent = std::env::var_os("DISK_BENCH_DIR").map_or(PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = parent.join(format!("snapshot-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a new directory");
    let mib: Option<u64> = std::env::args().find_map(|argument| argument.parse().ok());
    let bytes = mib.map_or_else(|| rounds(STATE_BYTES), |mib| mib << 20);
    let (driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).expect("a port"), NetConfig::default());
    let place = directory.clone();
    let work = move || async move { measure(&net, &place, bytes).await };
    let figures = run(CoreConfig { name: "node".into(), ..CoreConfig::default() }, || driver, work);
    // Before anything is said of a failure, so that none leaves a gigabyte.
    std::fs::remove_dir_all(&directory).expect("the directory made above");
    let Figures { before, meanwhile, took } = figures.expect("the core ends well");
    let heartbeats = meanwhile.as_secs_f64() / Timing::SHARED.heartbeat.as_secs_f64();
    let us = |span: Duration| span.as_secs_f64() * 1e6;
    let line = format!(
        "a state of {} MiB, saved in {:.1} s: longest turn {:.0} us, {heartbeats:.2} of a heartbeat of {:?}; {:.0} us in {BEFORE:?} before",
        bytes >> 20,
        took.as_secs_f64(),
        us(meanwhile),
        Timing::SHARED.heartbeat,
        us(before)
    );
    tell("snapshot.longest_turn_us", us(meanwhile), "us", &line);
    for (name, value, unit) in [
        ("longest_turn_heartbeats", heartbeats, "heartbeats of 20 ms"),
        ("longest_turn_before_us", us(before), "us"),
        ("state_mib", (bytes >> 20) as f64, "MiB"),
        ("seconds", took.as_secs_f64(), "s"),
    ] {
        tell(&format!("snapshot.{name}"), value, unit, "");
    }
}

fn data(directory: &Path) -> DataDirectory {
    let settings = WalSettings {
        durability: wal::Durability::Durable,
        snapshot_every_bytes: SNAPSHOT_AFTER,
        ..WalSettings::default()
    };
    let disk = DiskConfig { files_max: settings.files_max + 8, ..DiskConfig::default() };
    let disk = Disk::open(directory, disk).expect("a directory to write in");
    let data = DataConfig {
        slot: Slot(1),
        place: ShardPlace::ALONE,
        incarnation: Incarnation(1),
        salt: 1,
        settings,
        changes_durability: false,
        witness: Witness::Nowhere,
    };
    DataDirectory::open(disk, data).expect("an empty directory")
}

fn free_address(net: &Net) -> SocketAddrV4 {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    net.bind(any, SocketOptions::default()).expect("a free port").local_addr()
}

/// The longest time between two turns since the last question.
#[derive(Clone, Default)]
struct Longest(Rc<Cell<Duration>>);

impl Longest {
    async fn watch(self) {
        let mut last = read_clock();
        loop {
            yield_now().await;
            let at = read_clock();
            self.0.set(self.0.get().max(at - last));
            last = at;
        }
    }
}

async fn measure(net: &Net, directory: &Path, bytes: u64) -> Figures {
    let (at, peer) = (free_address(net), free_address(net));
    let config = NodeConfig {
        cluster_name: "bench".into(),
        slot: Slot(1),
        place: ShardPlace::ALONE,
        incarnation: Incarnation(1),
        client: at,
        peer,
        contacts: vec![peer],
        timing: Timing::SHARED,
        log_limits: Limits { snapshot_bytes: u32::MAX, ..Limits::default() },
        request_limits: reassembly::Limits::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: ReadSettings::default(),
        sabotage: Sabotage::NONE,
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: 1,
    };
    let values = (0..bytes / VALUE_BYTES as u64).map(|_| "v".repeat(VALUE_BYTES)).collect();
    let node = Node::start_in(net, config, Large { values, puts: 0 }, Some(data(directory))).expect("a node");
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let client = Client::new(net, any, vec![at], ClientConfig::default()).expect("a client");
    admin::init(&client, "bench", &[at], ClusterId(1), DEADLINE).await.expect("a cluster");
    while !node.shard().is_leader() {
        sleep(LOOK_EVERY).await;
    }
    let longest = Longest::default();
    let watching = spawn_in(Lane::Control, "watch", longest.clone().watch());
    sleep(BEFORE).await;
    let before = longest.0.take();
    let from = Monotonic.now();
    let is_saved = Rc::new(Cell::new(false));
    let mut group = TaskGroup::new();
    for _ in 0..OUTSTANDING {
        let (client, is_saved) = (client.clone(), is_saved.clone());
        group.spawn(async move {
            while !is_saved.get() {
                let call =
                    MethodCall { method: 1, policy: Policy::ReplicatedRoute, shard: 0, body: &REQUEST, server: None };
                // What fails is asked for again; whether the snapshot comes decides.
                let _ = client.call(call, DEADLINE).await;
            }
        });
    }
    let give_up = now() + PATIENCE;
    while saved(&client, at).await == 0 {
        assert!(now() < give_up, "no snapshot was saved");
        sleep(LOOK_EVERY).await;
    }
    is_saved.set(true);
    let _ = group.join_all().await;
    drop(watching);
    Figures { before, meanwhile: longest.0.take(), took: elapsed(from) }
}

fn elapsed(from: Instant) -> Duration {
    Monotonic.now() - from
}

/// Snapshots that are durable.
async fn saved(client: &Client, node: SocketAddrV4) -> u64 {
    let status = admin::status(client, node, DEADLINE).await;
    status.ok().and_then(|status| status.counters.get("log.snapshots").copied()).unwrap_or(0)
}
