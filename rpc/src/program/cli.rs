//! What may be typed to any service's program. A program with commands of its own flattens [`Common`] into them.

use crate::client::{Call, Consistency, Read, Replica};
use crate::program::call;
use crate::program::check::{self, Check};
use crate::program::config::{self, Config};
use crate::program::connect::Target;
use crate::program::error::Error;
use crate::program::member::{self, Member};
use crate::program::methods::{self, Methods};
use crate::program::port::{self, DpdkPlan, HostAddress, PortKind, PortPlan};
use crate::program::recover::{self, Recover};
use crate::program::snapshot::{self, Snapshot};
use crate::program::{LINTS, Program, init, say, status};
use crate::service::Service;
use clap::{Args, Subcommand};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

/// Most servers that a client command may be given: a cluster has no more members.
pub const SERVERS_MAX: usize = 9;

/// The servers meant where none are given: a cluster of three on this machine.
pub const DEFAULT_SERVERS: [SocketAddrV4; 3] = [
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 1), 8000),
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 8000),
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 3), 8000),
];

/// The commands that every program has as they are. `serve` and `demo` are not among them: a program may have more to
/// say about those.
#[derive(Debug, Subcommand)]
pub enum Common {
    /// Form a new, empty cluster of nodes that run and belong to none
    Init(Init),
    /// Show each node's role, log and digest
    Status(Status),
    /// Show or change who takes part
    Member(Member),
    /// Look at a data directory, and explain what is in it
    Check(Check),
    /// Begin a new cluster with what one node has, where a majority of the nodes is lost for good
    Recover(Recover),
    /// Back a running cluster up into a file, or begin a new one with such a file
    Snapshot(Snapshot),
    /// List the service's methods
    Methods(Methods),
    /// Call a method of the service
    Call(call::Call),
    /// Print a configuration to begin with
    ExampleConfig,
    /// Print a clippy.toml that keeps clocks, randomness and threads out of the service
    Lints,
}

impl Common {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run<S: Service>(&self, program: &Program) -> Result<(), Error> {
        match self {
            Common::Init(init) => init::run(init),
            Common::Status(status) => status::run(status, &program.name),
            Common::Member(member) => member::run(member, &program.name),
            Common::Check(check) => check::run(check),
            Common::Recover(recover) => recover::run(recover),
            Common::Snapshot(snapshot) => snapshot::run(snapshot, program.service),
            Common::Methods(methods) => methods::run::<S>(methods),
            Common::Call(call) => call::run::<S>(call),
            Common::ExampleConfig => say(&config::example(&program.name, program.service)),
            Common::Lints => say(LINTS),
        }
    }
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
    #[command(flatten)]
    #[allow(missing_docs)]
    pub port: ClientPort,
}

/// On which port a client command talks. A device alone is enough to say that it is DPDK's.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct ClientPort {
    /// How to reach them: through the kernel's sockets, or over a device of DPDK's [default: udp, or dpdk with --device]
    #[arg(long, value_enum)]
    pub port: Option<PortKind>,
    /// The device of DPDK's: a PCI address, or a virtual one such as net_af_packet0,iface=eth1
    #[arg(long, value_name = "DEVICE", requires = "address", value_parser = parse_device)]
    pub device: Option<String>,
    /// A further device, where this command has a link to each node: give one for each
    #[arg(long = "link", value_name = "DEVICE", requires = "device", value_parser = parse_device)]
    pub links: Vec<String>,
    /// This command's own address on the device's network, which the kernel must not have
    #[arg(long, value_name = "IP/BITS", requires = "device")]
    pub address: Option<HostAddress>,
    /// Who takes packets for other networks
    #[arg(long, value_name = "IP", requires = "device")]
    pub gateway: Option<Ipv4Addr>,
}

impl ClientPort {
    /// The port that was asked for.
    ///
    /// # Errors
    /// A device without the DPDK port, or the reverse.
    pub fn plan(&self) -> Result<PortPlan, Error> {
        match (self.port, &self.device, self.address) {
            (Some(PortKind::Udp) | None, None, _) => Ok(PortPlan::default()),
            (Some(PortKind::Dpdk) | None, Some(device), Some(HostAddress { ip, prefix_bits })) => {
                if self.links.len() > port::LINKS_MAX {
                    return Err(Error::Usage {
                        problem: format!("{} links are too many", self.links.len()),
                        help: format!("give {} at most beside the device", port::LINKS_MAX),
                    });
                }
                let (device, links, gateway) = (device.clone(), self.links.clone(), self.gateway);
                Ok(PortPlan::Dpdk(DpdkPlan { device, links, prefix_bits, gateway, ..DpdkPlan::new(ip) }))
            }
            (Some(PortKind::Udp), Some(_), _) => Err(Error::Usage {
                problem: "--device is for the DPDK port".into(),
                help: "leave out `--port udp`, or --device and --address".into(),
            }),
            _ => Err(Error::Usage {
                problem: "the DPDK port needs a device, and an address on its network".into(),
                help: "add `--device net_af_packet0,iface=eth1 --address 10.0.0.9/24`".into(),
            }),
        }
    }
}

impl Servers {
    /// Whom to ask, how long, and by which port.
    ///
    /// # Errors
    /// As [`Servers::addresses`] and [`ClientPort::plan`].
    pub fn target(&self) -> Result<Target, Error> {
        Ok(Target { port: self.port.plan()?, ..Target::new(self.addresses()?, self.deadline) })
    }

    /// The client addresses named on the command line or in the configuration; where neither is given, those of a
    /// cluster of three on this machine, as `demo` starts it.
    ///
    /// # Errors
    /// More than [`SERVERS_MAX`], or a configuration that is wrong.
    pub fn addresses(&self) -> Result<Vec<SocketAddrV4>, Error> {
        if let Some(path) = &self.config {
            let (config, _) = Config::load(path)?;
            return Ok(config.members.iter().map(|member| member.client).collect());
        }
        match self.servers.as_slice() {
            [] => Ok(DEFAULT_SERVERS.to_vec()),
            servers if servers.len() > SERVERS_MAX => Err(Error::Usage {
                problem: format!("{} servers are given; a cluster has at most {SERVERS_MAX}", servers.len()),
                help: "leave some out: any one of them leads to the leader".into(),
            }),
            servers => Ok(servers.to_vec()),
        }
    }
}

/// What a read must see, and who answers it.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct Reading {
    /// Reads: what they must see: linearizable, lease, at-least=INDEX, stale=50ms, any
    #[arg(long, value_name = "KIND", conflicts_with = "stale")]
    pub consistency: Option<Consistency>,
    /// Reads: take the answer of any replica, however old; the same as --consistency any
    #[arg(long)]
    pub stale: bool,
    /// The replica that answers, by its slot or its client address
    #[arg(long, value_name = "SLOT|IP:PORT", value_parser = parse_replica)]
    pub replica: Option<Replica>,
}

impl Reading {
    /// What the read must see.
    pub fn consistency(&self) -> Consistency {
        self.consistency.unwrap_or(if self.stale { Consistency::Any } else { Consistency::Linearizable })
    }

    /// `call` with these options.
    pub fn of<C, T, E>(&self, call: Call<C, Read, T, E>) -> Call<C, Read, T, E> {
        let call = call.consistency(self.consistency());
        match self.replica {
            Some(replica) => call.replica(replica),
            None => call,
        }
    }
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The node's configuration. Given several times: that many nodes in this process, on one core and one port
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Vec<PathBuf>,
    /// What carries its packets, whatever the configuration says
    #[arg(long, value_enum)]
    pub port: Option<PortKind>,
    /// Cut the data into so many shards, whatever the configuration says; the same on every node, and for good
    #[arg(long, value_name = "N", value_parser = shards())]
    pub shards: Option<u16>,
    /// Serve on so many cores, whatever the configuration says
    #[arg(long, value_name = "N", value_parser = shards())]
    pub cores: Option<u16>,
    /// Never sleep, on the kernel's sockets: look for packets all the time, with a processor for each core that runs nothing else
    #[arg(long)]
    pub spin: bool,
    /// Run the `us` profile on cores that are not isolated
    #[arg(long)]
    pub force: bool,
    /// Let the durability be another than the data directory was used with so far; once
    #[arg(long)]
    pub change_durability: bool,
    /// How much to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing::Level,
    /// Write every packet down, as Wireshark and tcpdump read it; of several devices the second has FILE.2, and so on
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// How long that file may become; what comes then is not in it
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size, requires = "capture")]
    pub capture_bytes: u64,
    /// Lose this share of the packets that the node sends, drawn from a seed: to try out what a bad network does
    #[arg(long, value_name = "SHARE", value_parser = port::parse_share)]
    pub inject_loss: Option<u32>,
    /// End when this process, the parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<i32>,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// The configuration of any of the nodes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How long to wait for all of them
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub deadline: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub port: ClientPort,
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
    /// One JSON object per node, all that the nodes tell
    #[arg(long)]
    pub json: bool,
}

/// A number of shards, or of the cores that they lie on.
pub fn shards() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=i64::from(config::SHARD_PORTS))
}

/// Reads a size such as `64MiB`.
///
/// # Errors
/// Anything else.
pub fn parse_size(text: &str) -> Result<u64, String> {
    config::units::bytes(text).ok_or_else(|| "a number of bytes, or one with KiB, MiB or GiB".to_owned())
}

fn parse_replica(text: &str) -> Result<Replica, String> {
    match text.parse::<u8>() {
        Ok(slot) if (1..=SERVERS_MAX).contains(&usize::from(slot)) => Ok(Replica::Slot(slot)),
        _ => text
            .parse()
            .map(Replica::At)
            .map_err(|_| "a slot from 1 to 9, or an address such as 10.0.0.1:8000".to_owned()),
    }
}

fn parse_device(text: &str) -> Result<String, String> {
    port::check_device(text).map(|()| text.to_owned())
}

/// Reads a time such as `500ms`, above zero and up to an hour.
///
/// # Errors
/// What was expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let time = config::units::duration(text).filter(|time| !time.is_zero() && *time <= Duration::from_secs(3600));
    time.ok_or_else(|| "a time such as 500ms or 2s, up to 3600s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::report;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        common: Common,
    }

    fn status(line: &str) -> Status {
        match Cli::try_parse_from(line.split(' ')).map(|cli| cli.common) {
            Ok(Common::Status(status)) => status,
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn servers_and_times_are_read() {
        let Status { servers, json } = status("kv status --servers 127.0.0.1:8000,127.0.0.2:8000 --deadline 50ms");
        assert_eq!((servers.addresses().map(|servers| servers.len()).ok(), json), (Some(2), false));
        assert_eq!(servers.deadline, Duration::from_millis(50));
    }

    #[test]
    fn a_replica_is_a_slot_or_an_address() {
        assert_eq!(parse_replica("3"), Ok(Replica::Slot(3)));
        assert_eq!(parse_replica("127.0.0.1:8000").ok(), "127.0.0.1:8000".parse().ok().map(Replica::At));
        for wrong in ["0", "10", "300", "-1", "localhost", "10.0.0.1"] {
            assert!(parse_replica(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_and_an_address_make_the_dpdk_port() {
        let plan = |line: &str| status(line).servers.port.plan();
        assert_eq!(plan("kv status").ok(), Some(PortPlan::default()));
        let device = "--device net_af_packet0,iface=eth1 --address 10.0.0.9/16";
        for line in [format!("kv status {device}"), format!("kv status --port dpdk {device}")] {
            let Ok(PortPlan::Dpdk(plan)) = plan(&line) else { panic!("{line}") };
            assert_eq!((plan.device.as_str(), plan.prefix_bits), ("net_af_packet0,iface=eth1", 16));
        }
        let Ok(PortPlan::Dpdk(linked)) = plan(&format!("kv status {device} --link net_memif1 --link net_memif2"))
        else {
            panic!("no plan")
        };
        assert_eq!(linked.links, ["net_memif1", "net_memif2"]);
        let many = " --link net_memif1".repeat(port::LINKS_MAX + 1);
        let too_many = format!("kv status {device}{many}");
        for wrong in ["kv status --port dpdk".to_owned(), format!("kv status --port udp {device}"), too_many] {
            assert_eq!(plan(&wrong).expect_err(&wrong).code(), "E0215");
        }
        assert!(Cli::try_parse_from("kv status --device net_null0".split(' ')).is_err(), "no address");
        assert!(Cli::try_parse_from("kv status --address 10.0.0.9/24".split(' ')).is_err(), "no device");
        assert!(Cli::try_parse_from("kv status --link net_memif1".split(' ')).is_err(), "a link beside nothing");
    }

    #[test]
    fn without_servers_the_local_three_are_meant() {
        let addresses = status("kv status").servers.addresses().expect("a default");
        assert_eq!(addresses.last().map(ToString::to_string).as_deref(), Some("127.0.0.3:8000"));
        let many = (1..=10).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let error = status(&format!("kv status --servers {many}")).servers.addresses().expect_err("too many");
        assert_eq!(
            report::error(&error, "kv"),
            "error[E0215]: 10 servers are given; a cluster has at most 9\n  = help: leave some out: any one of them leads to the leader\n"
        );
    }
}
