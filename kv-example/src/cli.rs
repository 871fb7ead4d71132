//! The command line: what may be typed, and what each command needs.

use clap::{Args, Parser, Subcommand, ValueEnum};
use trimaran_rpc::program::cli::{self, Common, Servers};

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
    /// Store a value
    #[command(alias = "put")]
    Set(Set),
    /// Remove keys and print how many there were
    Del(Del),
    /// Add one to a number and print it
    Incr(Incr),
    /// Measure throughput and latency
    Bench(Bench),
    /// Start a cluster here, load it, kill its leader, and judge what clients were told
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
    /// Note every executed write, for `kv demo` to read (24 bytes each)
    #[arg(long)]
    pub journal: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::time::Duration;

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
}
