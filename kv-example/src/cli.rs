//! The command line: what may be typed, and what each command needs.

use crate::config::{self, Config};
use crate::error::Error;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

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
    /// Form a new, empty cluster of nodes that run and belong to none
    Init(Init),
    /// Print the value of a key; (nil) where there is none
    Get(Get),
    /// Store a value
    #[command(alias = "put")]
    Set(Set),
    /// Remove keys and print how many there were
    Del(Del),
    /// Add one to a number and print it
    Incr(Incr),
    /// Show each node's role, log and digest
    Status(Status),
    /// Measure throughput and latency
    Bench(Bench),
    /// Start a cluster here, load it, kill its leader, and judge what clients were told
    Demo(Demo),
    /// Run simulated clusters under faults, one seed each
    Sim(Sim),
    /// Print a configuration to begin with
    ExampleConfig,
}

/// Which cluster a client command talks to.
#[derive(Debug, Clone, Args)]
pub struct Servers {
    /// Client addresses of the nodes, separated by commas [default: port 8000 of 127.0.0.1, .2 and .3]
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT,...")]
    pub servers: Vec<SocketAddrV4>,
    /// A node's configuration, for its members
    #[arg(long, value_name = "FILE", conflicts_with = "servers")]
    pub config: Option<PathBuf>,
    /// How long one call may take
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub deadline: Duration,
}

/// `kv serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Run the `us` profile on cores that are not isolated
    #[arg(long)]
    pub force: bool,
    /// Note every executed write, for `kv demo` to read (24 bytes each)
    #[arg(long)]
    pub journal: bool,
    /// How much to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing::Level,
    /// End when this process, the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<i32>,
}

/// `kv init`
#[derive(Debug, Args)]
pub struct Init {
    /// The configuration of any of the nodes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How long to wait for all of them
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub deadline: Duration,
}

/// `kv get`
#[derive(Debug, Args)]
pub struct Get {
    /// The key
    pub key: String,
    /// Take the answer of any replica, however old
    #[arg(long)]
    pub stale: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv set`
#[derive(Debug, Args)]
pub struct Set {
    /// The key
    pub key: String,
    /// The value
    pub value: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv del`
#[derive(Debug, Args)]
pub struct Del {
    /// The keys
    #[arg(required = true, num_args = 1..=15)]
    pub keys: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv incr`
#[derive(Debug, Args)]
pub struct Incr {
    /// The key of the number
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `kv status`
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
    /// One JSON object per node, all that the nodes tell
    #[arg(long)]
    pub json: bool,
}

/// What `kv bench` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Replicated writes
    Put,
    /// Linearizable reads
    Get,
    /// Reads of one replica, however old
    Stale,
    /// Unreplicated: bytes back from one node
    Echo,
}

impl Op {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Stale => "stale",
            Op::Echo => "echo",
        }
    }
}

/// `kv bench`
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
    /// Closed loop: so many requests are always on their way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub outstanding: u32,
    /// Open loop: so many requests a second, sent when they are due whether or not answers came
    #[arg(long, value_name = "PER SECOND", conflicts_with = "outstanding", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// What to ask for
    #[arg(long, value_enum, default_value = "put")]
    pub op: Op,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub value: u32,
    /// Keys to choose from, evenly
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// How long to run before that
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub warmup: u32,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `kv demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Nodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// How long the load lasts; the leader is killed 3 s after its begin
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(6..=600))]
    pub seconds: u32,
    /// Requests always on their way
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub outstanding: u32,
    /// No load: print the CPU time that the idle nodes use in so many seconds, and end
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub idle: Option<u32>,
    /// Leave the nodes' configurations and logs behind
    #[arg(long)]
    pub keep: bool,
}

/// `kv sim`
#[derive(Debug, Args)]
#[group(skip)]
pub struct Sim {
    /// Run the seeds 0 to N - 1
    #[arg(long, value_name = "N", required_unless_present = "seed", value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,
    /// Run this seed only, and say what happens in it
    #[arg(long, conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Processes at a time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

impl Servers {
    /// The client addresses named on the command line or in the configuration; where neither is given, those of a
    /// cluster of three on this machine, as `kv demo` and the README start it.
    pub fn addresses(&self) -> Result<Vec<SocketAddrV4>, Error> {
        if let Some(path) = &self.config {
            let (config, _) = Config::load(path)?;
            return Ok(config.members.iter().map(|member| member.client).collect());
        }
        match self.servers.as_slice() {
            [] => Ok((1..=3).map(|host| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 8000)).collect()),
            servers if servers.len() > 9 => Err(Error::Usage {
                problem: format!("{} servers are given; a cluster has at most 9", servers.len()),
                help: "leave some out: any one of them leads to the leader".into(),
            }),
            servers => Ok(servers.to_vec()),
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = config::units::duration(text).filter(|time| !time.is_zero() && *time <= Duration::from_secs(3600));
    time.ok_or_else(|| "a time such as 500ms or 2s, up to 3600s".to_owned())
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
        assert_eq!((bench.rate, bench.op, bench.servers.deadline), (Some(5000), Op::Get, Duration::from_millis(50)));
        assert!(matches!(parse("kv put k v"), Ok(Cli { command: Command::Set(_) })));
        assert!(parse("kv sim --seeds 300 --jobs 2").is_ok());
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
            "kv get k --servers localhost",
            "kv get k --deadline 0s",
            "kv demo --nodes 10",
            "kv serve",
            "kv get k --servers 127.0.0.1:1 --config f",
        ];
        for line in lines {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn without_servers_the_local_three_are_meant() {
        let Ok(Cli { command: Command::Get(get) }) = parse("kv get k") else { panic!("get") };
        let addresses = get.servers.addresses().expect("a default");
        assert_eq!(addresses.last().map(ToString::to_string).as_deref(), Some("127.0.0.3:8000"));
        let many = (1..=10).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let Ok(Cli { command: Command::Get(get) }) = parse(&format!("kv get k --servers {many}")) else {
            panic!("get")
        };
        assert_eq!(
            crate::report::error(&get.servers.addresses().expect_err("too many")),
            "error[E0215]: 10 servers are given; a cluster has at most 9\n  = help: leave some out: any one of them leads to the leader\n"
        );
    }
}
