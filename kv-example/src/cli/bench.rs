//! What may be typed to the commands that measure a cluster.

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use trimaran_rpc::program::cli::Servers;
use trimaran_rpc::program::nodes::Placement;

/// One operation, again and again.
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

/// One of YCSB's core workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Half reads, half writes; zipfian
    A,
    /// 95 % reads, the rest writes; zipfian
    B,
    /// Only reads; zipfian
    C,
    /// 95 % reads of what was inserted last, the rest inserts
    D,
    /// 95 % scans of 1 to 100 keys, the rest inserts; zipfian
    E,
    /// Half reads, half reads followed by a write of the same key, by compare and swap; zipfian
    F,
}

impl Mix {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Mix::A => "a",
            Mix::B => "b",
            Mix::C => "c",
            Mix::D => "d",
            Mix::E => "e",
            Mix::F => "f",
        }
    }
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Each is as likely as any other
    Uniform,
    /// A few are asked for most of the time, wherever they are in order (exponent 0.99)
    Zipfian,
    /// As zipfian, the last inserted one most often
    Latest,
}

impl Choice {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Uniform => "uniform",
            Choice::Zipfian => "zipfian",
            Choice::Latest => "latest",
        }
    }
}

/// `kv bench`: each combination of what is given as a list is measured in turn.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
    /// Closed loop: so many requests are always on their way
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub outstanding: Vec<u32>,
    /// Open loop: so many requests a second, sent when they are due whether or not answers came, and measured from then
    #[arg(long, value_name = "PER SECOND,...", value_delimiter = ',', conflicts_with = "outstanding", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Vec<u32>,
    /// After each closed loop, open loops with so many percent of the requests a second that it has reached
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', conflicts_with = "rate", value_parser = clap::value_parser!(u8).range(1..=200))]
    pub share: Vec<u8>,
    /// What to ask for
    #[arg(long, value_enum, value_name = "OP,...", value_delimiter = ',', default_value = "put")]
    pub op: Vec<Op>,
    /// Mixes of operations, as YCSB names them, instead of one operation
    #[arg(long, value_enum, value_name = "MIX,...", value_delimiter = ',', conflicts_with_all = ["op", "reads"])]
    pub mix: Vec<Mix>,
    /// Linearizable reads in so many of a hundred requests, and writes in the others, instead of one operation
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', conflicts_with = "op", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: Vec<u8>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub value: Vec<u32>,
    /// Keys to choose from
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// How they are chosen [default: uniform, or what a mix says]
    #[arg(long, value_enum)]
    pub choice: Option<Choice>,
    /// Clients in this process, each with a socket and sessions of its own, which take turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// How long to measure each
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_length)]
    pub seconds: Duration,
    /// How long to run before that
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_warmup)]
    pub warmup: Duration,
    /// Start so many nodes here for it, instead of asking a running cluster, and tell what they cost
    #[arg(long, value_name = "N", conflicts_with_all = ["servers", "config", "device"], value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: Option<u8>,
    /// With --nodes: which processes run them
    #[arg(long, value_enum, default_value_t, requires = "nodes")]
    pub placement: Placement,
    /// With --nodes: they keep their logs on disk, durably, each in a directory of its own below this one, which must be empty or not exist
    #[arg(long, value_name = "DIR", requires = "nodes")]
    pub data: Option<PathBuf>,
    /// With --nodes: first tell what they cost in so many seconds without a request
    #[arg(long, value_name = "SECONDS", requires = "nodes", value_parser = parse_length)]
    pub idle: Option<Duration>,
    /// The results as JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Which way of running nodes a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// A process for each of three nodes, in memory
    Apart,
    /// One process for all three
    Together,
    /// Unreplicated: one node sends back what it gets
    Echo,
    /// A task over the same port that sends back what it gets, asked without the library: no R2P2
    Raw,
    /// One process for all three nodes, and neither it nor the client ever sleeps
    Spinning,
    /// As echo, and neither the node nor the client ever sleeps
    EchoSpinning,
    /// A process for each of three nodes, durable, in a directory below the present one
    Durable,
}

/// `kv bench-peer`
#[derive(Debug, Clone, Args)]
pub struct BenchPeer {
    /// Requests always on their way
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,64,256", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub out: Vec<u32>,
    /// What is asked for
    #[arg(long, value_enum, value_name = "OP,...", value_delimiter = ',', default_value = "put,read")]
    pub ops: Vec<PeerOp>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub value: u32,
    /// How long each row runs before it is measured
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_warmup)]
    pub warmup: Duration,
    /// How long each row is measured
    #[arg(long, value_name = "SECONDS", default_value = "4", value_parser = parse_length)]
    pub measure: Duration,
    /// Which ways of running nodes
    #[arg(long, value_enum, value_name = "SYSTEM,...", value_delimiter = ',', default_value = "apart,together,echo")]
    pub systems: Vec<System>,
}

/// An operation as the table of systems names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PeerOp {
    Put,
    Read,
}

/// Heartbeats and timeouts, and with them the way the leader is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailoverProfile {
    /// 0.5 ms and 3 to 6 ms: all nodes in this process, a leader is killed by dropping it
    Us,
    /// 20 ms and 100 to 200 ms: a process for each node, a leader is killed by SIGKILL
    Shared,
}

impl FailoverProfile {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            FailoverProfile::Us => "us",
            FailoverProfile::Shared => "shared",
        }
    }
}

/// `kv bench-failover`
#[derive(Debug, Clone, Args)]
pub struct BenchFailover {
    /// Leaders killed
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub kills: u32,
    /// Heartbeats and timeouts; `us` kills nodes within one process, `shared` kills processes
    #[arg(long, value_enum, default_value = "us")]
    pub profile: FailoverProfile,
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    pub nodes: u8,
    /// Puts a second, sent when they are due
    #[arg(long, value_name = "PER SECOND", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub rate: u32,
    /// Decides how long the cluster is left alone between two kills
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Longest time that may be asked for, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

/// A time in seconds, above zero.
fn parse_length(text: &str) -> Result<Duration, String> {
    parse_warmup(text).ok().filter(|time| !time.is_zero()).ok_or_else(|| "seconds, such as 10 or 0.5".to_owned())
}

/// A time in seconds.
fn parse_warmup(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let seconds = seconds.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds, such as 1, 0.5 or 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_and_nothing_else() {
        assert_eq!(parse_length("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_length(".5"), Ok(Duration::from_millis(500)), "as the table of systems writes it");
        assert_eq!(parse_warmup("0"), Ok(Duration::ZERO));
        for wrong in ["0", "-1", "", "1e9", "NaN", "inf", "ten"] {
            assert!(parse_length(wrong).is_err(), "{wrong}");
        }
    }
}
