//! The command line: what may be typed, and what each command needs.

mod bench;

use crate::store::limits::TXN_OPS_MAX;
use crate::syntax;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use trimaran_rpc::program::cli::{self, Common, Reading, Servers};
use trimaran_rpc::program::nodes::Placement;
use trimaran_rpc::program::port::{self, PortKind};

pub use bench::{Bench, BenchFailover, BenchPeer, Choice, FailoverProfile, Mix, Op, PeerOp, System};

/// A replicated key-value store on trimaran.
///
/// Exit codes: 0 done, 1 the service refused or a run found a fault, 2 usage or configuration, 3 environment, 4 cluster.
#[derive(Debug, Parser)]
#[command(name = "kv", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node until it is told to end
    Serve(Serve),
    /// Print the value of a key; (nil) where there is none
    Get(Get),
    /// Store a value and print its version
    #[command(visible_alias = "set")]
    Put(Put),
    /// Store a value where the key is as expected, and print its version
    Cas(Cas),
    /// Remove keys and print how many there were
    Del(Del),
    /// Add to a number and print the sum
    Incr(Incr),
    /// Print keys and their values in order
    Scan(Scan),
    /// Look at keys, then change others, all at one moment or not at all
    Txn(Txn),
    /// Print how much each replica holds
    Size(Size),
    /// Measure throughput and latency, of a running cluster or of one that it starts
    Bench(Bench),
    /// Kill the leader again and again, and measure how long nothing is committed
    BenchFailover(BenchFailover),
    /// Measure a cluster started here, in the rows of a table that compares systems
    BenchPeer(BenchPeer),
    /// Measure a cluster on DPDK's port and on the kernel's sockets, in one run; as root
    BenchPorts(BenchPorts),
    /// Measure what lost packets, and a dead or stopped replica, do to latencies: against a healthy cluster, in one run
    BenchFaults(BenchFaults),
    /// Measure what a core's work costs when another core works beside it, with a shard on each
    BenchScale(BenchScale),
    /// Measure how long a node with a long log takes to start, and how much memory
    BenchRestart(BenchRestart),
    /// Start a cluster here, load it, kill its leader, roll, grow and shrink it, and judge what clients were told
    Demo(Demo),
    /// Run simulated clusters under faults, one seed each
    Sim(Sim),
    #[command(flatten)]
    #[allow(missing_docs)]
    Common(Common),
}

/// `kv serve`
#[derive(Debug, Args)]
#[group(skip)]
pub struct Serve {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub serve: cli::Serve,
    /// Note every executed write, for `kv demo` to read (24 bytes each). On every node of a cluster, or on none
    #[arg(long)]
    pub journal: bool,
}

/// `kv get`
#[derive(Debug, Args)]
pub struct Get {
    /// The key
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reading: Reading,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv put`
#[derive(Debug, Args)]
pub struct Put {
    /// The key
    pub key: String,
    /// The value
    pub value: String,
    /// Only where the key's last write made this version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// After this time the key is absent again: 500ms, 30s
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv cas`
#[derive(Debug, Args)]
#[group(skip)]
pub struct Cas {
    /// The key
    pub key: String,
    /// The value that it shall have
    pub value: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub expected: If,
    /// After this time the key is absent again: 500ms, 30s
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// What `kv cas` expects: one of these.
#[derive(Debug, Args)]
#[group(id = "expected", required = true, multiple = false)]
pub struct If {
    /// Only where the key's last write made this version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Only where the key has this value
    #[arg(long, value_name = "VALUE")]
    pub if_value: Option<String>,
    /// Only where there is no such key
    #[arg(long)]
    pub if_absent: bool,
}

/// `kv del`
#[derive(Debug, Args)]
pub struct Del {
    /// The keys, removed together
    #[arg(required = true, num_args = 1..=TXN_OPS_MAX)]
    pub keys: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv incr`
#[derive(Debug, Args)]
pub struct Incr {
    /// The key of the number
    pub key: String,
    /// What to add
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub by: i64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv scan`
#[derive(Debug, Args)]
pub struct Scan {
    /// The first key; without it, from the beginning
    #[arg(default_value = "", conflicts_with = "prefix")]
    pub from: String,
    /// Up to this key, without it
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub to: Option<String>,
    /// The keys that begin so
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reading: Reading,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv txn`
#[derive(Debug, Args)]
#[command(after_help = syntax::HELP)]
pub struct Txn {
    /// A condition; where several are given, all must hold
    #[arg(long = "if", value_name = "CONDITION")]
    pub guards: Vec<String>,
    /// What to do where they hold
    #[arg(long, value_name = "OPERATIONS", required = true)]
    pub then: Vec<String>,
    /// What to do where one does not
    #[arg(long = "else", value_name = "OPERATIONS")]
    pub otherwise: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv size`
#[derive(Debug, Args)]
pub struct Size {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Args)]
#[group(skip)]
pub struct Output {
    /// As JSON, one object a line; bytes that are no UTF-8 as a list of numbers
    #[arg(long)]
    pub json: bool,
}

/// Reads a time to live, above zero.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    syntax::time(text).ok_or_else(|| "a time such as 500ms or 30s, above zero".to_owned())
}

/// `kv bench-scale`
#[derive(Debug, Clone, Args)]
pub struct BenchScale {
    /// Times that one loop and two have their turns; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub rounds: u8,
    /// How long to measure in each turn
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
}

/// `kv bench-ports`
#[derive(Debug, Clone, Args)]
pub struct BenchPorts {
    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Requests always on their way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub outstanding: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub value: u32,
    /// Only with the nodes so placed [default: each in turn]
    #[arg(long, value_enum)]
    pub placement: Option<Placement>,
    /// Times that each port has its turn in each placement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// How long to measure echoes, and puts, in each round
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How long to measure the idle cluster in each round
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub idle: u32,
    /// The results as JSON, one object a port
    #[arg(long)]
    pub json: bool,
}

/// `kv bench-faults`
#[derive(Debug, Clone, Args)]
pub struct BenchFaults {
    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    pub nodes: u8,
    /// Puts a second, sent when they are due: some quarter of what the machine carries
    #[arg(long, value_name = "PER SECOND", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    /// And so many puts always on their way, each measured on its own
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub outstanding: Vec<u32>,
    /// The share of packets that is lost, of clients and of peers, each way
    #[arg(long, value_name = "SHARE", default_value = "0.001", value_parser = port::parse_share)]
    pub loss: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub value: u32,
    /// Times that each fault has its turn, in changing order
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// How long to measure each load in each round
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// The results as JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// `kv bench-restart`
#[derive(Debug, Clone, Args)]
pub struct BenchRestart {
    /// Bytes of values in the log
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = cli::parse_size)]
    pub log: u64,
    /// Where the node keeps its log; takes a little more than --log. It must be empty, or not exist, and is left behind
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub value: u32,
    /// Times that the node is killed and started
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// The results as JSON, one object a round
    #[arg(long)]
    pub json: bool,
}

/// `kv demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Nodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Shards, each with a leader of its own. With several the members stay the same
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cli::shards())]
    pub shards: u16,
    /// Cores of each node, at most as many as there are shards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cli::shards())]
    pub cores: u16,
    /// How long the load lasts at least; by itself, as long as there is something to do to the cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// Only kill the leader, once, and take it in again
    #[arg(long)]
    pub quick: bool,
    /// Only kill whoever leads so often, for 14 s or --seconds, and start it again at once; later where the cluster is not whole by then
    #[arg(long, value_name = "SECONDS", conflicts_with = "quick", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub kill_every: Option<u32>,
    /// Only kill a follower, commit so many entries without it (10 million), watch the leader's memory, and take it in again
    #[arg(
        long,
        value_name = "ENTRIES",
        num_args = 0..=1,
        default_missing_value = "10000000",
        conflicts_with_all = ["quick", "kill_every", "seconds", "idle"],
        value_parser = clap::value_parser!(u64).range(100_000..=1_000_000_000),
    )]
    pub long: Option<u64>,
    /// Keep the nodes' logs on disk, in this directory, and kill all nodes at once as well. It must be empty, or not exist
    #[arg(long, value_name = "DIR", conflicts_with_all = ["long", "idle", "kill_every"])]
    pub data: Option<PathBuf>,
    /// With --data: an acknowledged write is in a majority's kernels, not on its disks
    #[arg(long, requires = "data")]
    pub buffered: bool,
    /// With --data: only kill one, several or all nodes, again and again, so many times, and look for every acknowledged write each time
    #[arg(long, value_name = "N", requires = "data", conflicts_with = "quick", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: Option<u32>,
    /// Decides who is killed when
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Called as `HOOK cut SLOT...` before nodes are killed and as `HOOK mend SLOT...` before they are started again
    #[arg(long, value_name = "HOOK", requires = "rounds", hide = true)]
    pub hook: Option<PathBuf>,
    /// Requests always on their way
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub outstanding: u32,
    /// No load: print the CPU time that the idle nodes use in so many seconds, and end
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub idle: Option<u32>,
    /// What carries the packets. dpdk, as root: the nodes get namespaces of their own, and virtual devices between them
    #[arg(long, value_enum, default_value_t)]
    pub port: PortKind,
    /// Leave the nodes' configurations and logs behind
    #[arg(long)]
    pub keep: bool,
}

/// `kv sim`
#[derive(Debug, Args)]
#[group(skip)]
pub struct Sim {
    /// Run N seeds
    #[arg(long, value_name = "N", required_unless_present = "seed", value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,
    /// Begin with seed N instead of 0
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "seed")]
    pub from: u64,
    /// Run this seed only, and say what happens in it
    #[arg(long, conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// No node has a disk; else those of every second seed have, which lose power and fail
    #[arg(long)]
    pub no_disks: bool,
    /// Processes at a time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn commands_are_read() {
        let Ok(Cli { command: Command::Get(get) }) = parse("kv get k --servers 127.0.0.1:8000,127.0.0.2:8000") else {
            panic!("get")
        };
        assert_eq!(get.servers.addresses().map(|servers| servers.len()).ok(), Some(2));
        let Ok(Cli { command: Command::Bench(bench) }) = parse("kv bench --rate 5000 --op get --deadline 50ms") else {
            panic!("bench")
        };
        assert_eq!((bench.rate, bench.op), (vec![5000], vec![Op::Get]));
        assert_eq!(bench.servers.deadline, Duration::from_millis(50));
        assert!(matches!(parse("kv set k v"), Ok(Cli { command: Command::Put(_) })));
        let Ok(Cli { command: Command::Put(put) }) = parse("kv put k v --ttl 36000s --if-version 7 --json") else {
            panic!("put")
        };
        assert_eq!((put.ttl, put.if_version, put.output.json), (Some(Duration::from_secs(36_000)), Some(7), true));
        assert!(parse("kv cas k v --if-absent").is_ok() && parse("kv incr n --by -5").is_ok());
        assert!(parse("kv scan --prefix a --limit 3").is_ok() && parse("kv scan a --to b").is_ok());
        assert!(parse("kv sim --seeds 300 --jobs 2").is_ok());
        let Ok(Cli { command: Command::Demo(demo) }) = parse("kv demo --long --nodes 5") else { panic!("demo") };
        assert_eq!((demo.long, demo.nodes), (Some(10_000_000), 5));
    }

    #[test]
    fn nonsense_is_refused_with_exit_code_2() {
        let lines = [
            "kv",
            "kv get",
            "kv del",
            "kv sim",
            "kv sim --seeds 3 --seed 1",
            "kv bench --rate 1 --outstanding 1",
            "kv bench --mix a --op put",
            "kv bench --reads 101",
            "kv bench --nodes 3 --servers 127.0.0.1:8000",
            "kv bench --idle 1s",
            "kv bench --seconds 0",
            "kv bench-peer --ops scan",
            "kv bench-failover --kills 0",
            "kv get k --servers localhost",
            "kv get k --deadline 0s",
            "kv put k v --ttl 0s",
            "kv put k v --ttl soon",
            "kv cas k v",
            "kv cas k v --if-absent --if-version 3",
            "kv scan a --prefix b",
            "kv txn --if a",
            "kv demo --nodes 10",
            "kv demo --quick --kill-every 2",
            "kv demo --long 10",
            "kv demo --long --seconds 20",
            "kv serve",
            "kv get k --servers 127.0.0.1:1 --config f",
        ];
        for line in lines {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
