//! The configuration of a node: one TOML file, the same on every node but for `slot`.
//!
//! ```text
//! text --place.rs--> lines and columns --section.rs--> keys and values --here--> Config --check.rs--> a Config that fits
//! ```
//!
//! Every key of [`example`] may be written, no other. What is wrong is said with its line and a caret.

mod check;
pub mod cores;
pub mod disk;
mod dpdk;
pub mod place;
mod section;
pub mod units;

use crate::program::error::Error;
use crate::program::port::{DpdkPlan, PortKind};
use cores::Cores;
use disk::DiskLimits;
use place::{Document, Place};
use section::{Found, Section};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::DeTable;

pub use crate::storage::Durability;
pub use check::Warning;

/// A complete configuration with every key and its default, as `example-config` prints it. The cluster is named after
/// the service.
pub fn example(program: &str, service: &str) -> String {
    let cluster = format!("cluster = \"{service}\"");
    format!("{cluster:<28} # a name for people; the 128-bit cluster id is drawn by `{program} init`\n")
        + &include_str!("config/example.toml").replace("{service}", service)
}

/// An election timeout shorter than so many heartbeats is refused: a lost packet or two must not look like a dead leader.
pub const ELECTION_HEARTBEATS_MIN: u32 = 4;

/// A clock that drifts by more than a tenth is broken: no lease would be left of an election timeout.
const CLOCK_DRIFT_PPM_MAX: u64 = 100_000;

/// Ports reserved from the first one: shard `n` uses port `first + n`.
pub const SHARD_PORTS: u16 = trimaran_net::SHARDS_MAX;

/// A node's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A name for people; the 128-bit cluster id is drawn by `init`.
    pub cluster: String,
    /// Which member this node is, 1 to 9.
    pub slot: u8,
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// Where the log is kept, where it is kept.
    pub data_dir: Option<PathBuf>,
    /// Heartbeat and election timeouts.
    pub timing: Timing,
    /// Sockets.
    pub net: Net,
    /// The device of the DPDK port, where the file names one.
    pub dpdk: Option<DpdkPlan>,
    /// Shards, and the cores that they lie on.
    pub cores: Cores,
    /// All members in the order of the file.
    pub members: Vec<Member>,
    /// How reads are answered.
    pub reads: Reads,
    /// Budgets, in bytes and counts.
    pub limits: Limits,
    /// How the log is laid out in `data_dir`.
    pub disk: DiskLimits,
}

/// A named pair of heartbeat and election timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// 20 ms and 100-200 ms: laptops, virtual machines.
    Shared,
    /// 0.5 ms and 3-6 ms: isolated cores only.
    Us,
}

/// When a follower gives up on a leader that sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Where the other values come from, unless the file overrides them.
    pub profile: Profile,
    /// Between two messages of an idle leader.
    pub heartbeat: Duration,
    /// Shortest silence before an election.
    pub election_min: Duration,
    /// Longest; each timeout is drawn between the two.
    pub election_max: Duration,
    /// How long nobody may want anything of a group before its messages become rarer and its elections slower; zero where they never do.
    pub quiet_after: Duration,
}

impl Timing {
    /// The values of a profile.
    pub const fn of(profile: Profile) -> Self {
        let (heartbeat_us, min_us, max_us) = match profile {
            Profile::Shared => (20_000, 100_000, 200_000),
            Profile::Us => (500, 3_000, 6_000),
        };
        Timing {
            profile,
            heartbeat: Duration::from_micros(heartbeat_us),
            election_min: Duration::from_micros(min_us),
            election_max: Duration::from_micros(max_us),
            quiet_after: trimaran_raft::Timing::QUIET_AFTER,
        }
    }
}

/// The `[net]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// What carries the node's packets.
    pub port: PortKind,
    /// Largest UDP payload sent; lowered to the device's MTU - 28.
    pub payload_bytes: usize,
    /// Receive buffer asked of the kernel for each socket.
    pub rcvbuf_bytes: usize,
    /// The R2P2 router that is told of each reply; none where clients ask the nodes themselves.
    pub router: Option<SocketAddrV4>,
}

/// The `[reads]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// Whether this node, when it leads, may answer without asking anyone while its lease lasts.
    pub lease: bool,
    /// How much any member's clock may run faster or slower than true time, in millionths.
    pub clock_drift_ppm: u32,
}

/// One member of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// 1 to 9.
    pub slot: u8,
    /// Where clients reach shard 0.
    pub client: SocketAddrV4,
    /// Where the other members reach shard 0.
    pub peer: SocketAddrV4,
}

/// The chunks of a snapshot are counted in 32 bits, and something is added to the state.
const SNAPSHOT_BYTES_MAX: u64 = 4000 << 20;

/// The `[limits]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The log in memory; beyond it proposals are refused.
    pub log_bytes: usize,
    /// Entries appended but not committed.
    pub uncommitted_bytes: usize,
    /// The largest state that travels to a node that needs it, and that is received.
    pub snapshot_bytes: u32,
    /// Replies waiting to be sent.
    pub reply_bytes: usize,
    /// Largest request.
    pub request_bytes: usize,
    /// Requests of several packets that are not complete, in all.
    pub pending_messages: usize,
    /// The same, of one client address.
    pub pending_per_source: usize,
    /// Their bytes, in all.
    pub pending_bytes: usize,
    /// How long one of them may take, from its first packet.
    pub reassembly: Duration,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), Error> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::ConfigUnreadable { path: name.clone(), source })?;
        Config::parse(&name, &text)
    }

    /// Reads and checks `text`; `name` is the file's name in messages.
    pub fn parse(name: &str, text: &str) -> Result<(Self, Vec<Warning>), Error> {
        let document = Document::new(name, text);
        let table = DeTable::parse(text).map_err(|error| Error::ConfigSyntax {
            message: error.message().to_owned(),
            place: document.place(error.span().unwrap_or(0..0)),
        })?;
        let root = Section::new(&document, "the top level", &table, section::ROOT)?;
        let cluster = root.required("cluster", "cluster = \"name\"")?.text()?.to_owned();
        let slot_found = root.required("slot", "slot = 1")?;
        let slot = slot_found.integer(1, 9)? as u8;
        let (durability, data_dir) = durability(&root)?;
        let timing = timing(&root)?;
        let members = members(&document, &root)?;
        check::members(&members, slot, &slot_found)?;
        let (net, port_place) = net(&document, &root)?;
        let dpdk = dpdk::read(&document, &root, &cluster, slot, &members)?;
        check::port(&net, &dpdk, port_place)?;
        let limits = limits(&document, &root)?;
        let disk = disk::read(&document, &root, &limits, data_dir.is_some())?;
        let mut warnings = check::warnings(&members);
        warnings.extend(check::unused_dpdk(&net, &root));
        let config = Config {
            cluster,
            slot,
            durability,
            data_dir,
            timing,
            net,
            dpdk,
            cores: cores::read(&document, &root)?,
            members: members.iter().map(|(member, _)| *member).collect(),
            reads: reads(&document, &root)?,
            limits,
            disk,
        };
        Ok((config, warnings))
    }

    /// This node's own entry of the member list.
    pub fn me(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.slot == self.slot)
    }
}

/// Each member with the places of its slot, client and peer.
type PlacedMember = (Member, [Place; 3]);

fn members(document: &Document<'_>, root: &Section<'_>) -> Result<Vec<PlacedMember>, Error> {
    let tables = root.required("member", "[[member]]")?.tables()?;
    let mut members = Vec::new();
    for (table, span) in tables {
        let section = Section::of_table(document, "[[member]]", table, span, section::MEMBER)?;
        let slot = section.required("slot", "slot = 1")?;
        let client = section.required("client", "client = \"10.0.0.1:8000\"")?;
        let peer = section.required("peer", "peer = \"10.0.0.1:8100\"")?;
        let member = Member { slot: slot.integer(1, 9)? as u8, client: client.address()?, peer: peer.address()? };
        members.push((member, [*slot.place(), *client.place(), *peer.place()]));
    }
    Ok(members)
}

fn timing(root: &Section<'_>) -> Result<Timing, Error> {
    let profile = match root.find("profile") {
        Some(found) => found.choice(&[("shared", Profile::Shared), ("us", Profile::Us)])?,
        None => Profile::Shared,
    };
    let mut timing = Timing::of(profile);
    let (heartbeat, election) = (root.find("heartbeat"), root.find("election"));
    if let Some(found) = &heartbeat {
        timing.heartbeat = found.duration()?;
    }
    if let Some(found) = &election {
        (timing.election_min, timing.election_max) = found.duration_range()?;
    }
    if let Some(found) = root.find("quiet_after") {
        timing.quiet_after = found.duration_or_never()?;
    }
    if let Some(blamed) = election.or(heartbeat) {
        check::timing(&timing, &blamed)?;
    }
    Ok(timing)
}

fn durability(root: &Section<'_>) -> Result<(Durability, Option<PathBuf>), Error> {
    let data_dir = root.find("data_dir").map(|found| found.text().map(PathBuf::from)).transpose()?;
    let choices = Durability::ALL.map(|mode| (mode.name(), mode));
    let Some(found) = root.find("durability") else {
        let Some(found) = root.find("data_dir") else {
            return Err(Error::DurabilityMissing { place: root.place() });
        };
        return check::durability(Durability::Durable, &data_dir, &found).map(|()| (Durability::Durable, data_dir));
    };
    let durability = found.choice(&choices)?;
    check::durability(durability, &data_dir, &found)?;
    Ok((durability, data_dir))
}

/// The section called `name`, or an empty one.
fn subsection<'a>(
    document: &'a Document<'a>,
    found: &'a Option<Found<'a>>,
    empty: &'a Spanned<DeTable<'a>>,
    name: &'static str,
    known: &'static [&'static str],
) -> Result<Section<'a>, Error> {
    match found {
        Some(found) => Section::of_table(document, name, found.table()?, found.span(), known),
        None => Section::new(document, name, empty, known),
    }
}

/// With the place where the port is named.
fn net(document: &Document<'_>, root: &Section<'_>) -> Result<(Net, Box<Place>), Error> {
    let (found, empty) = (root.find("net"), Spanned::new(0..0, DeTable::new()));
    let section = subsection(document, &found, &empty, "[net]", section::NET)?;
    let ports = [("udp", PortKind::Udp), ("dpdk", PortKind::Dpdk)];
    let port = section.find("port");
    let net = Net {
        port: port.map_or(Ok(PortKind::Udp), |found| found.choice(&ports))?,
        payload_bytes: section.integer_or("payload_bytes", 1472, 548, 1472)?,
        rcvbuf_bytes: section.bytes_or("rcvbuf_bytes", 4 << 20, 4096, 1 << 30)?,
        router: section.find("router").map(|router| router.address()).transpose()?,
    };
    Ok((net, port.map_or_else(|| section.place(), |found| found.place())))
}

fn reads(document: &Document<'_>, root: &Section<'_>) -> Result<Reads, Error> {
    let (found, empty) = (root.find("reads"), Spanned::new(0..0, DeTable::new()));
    let section = subsection(document, &found, &empty, "[reads]", section::READS)?;
    Ok(Reads {
        lease: section.find("lease").map_or(Ok(false), |found| found.boolean())?,
        clock_drift_ppm: section.integer_or("clock_drift_ppm", 1000, 1, CLOCK_DRIFT_PPM_MAX)? as u32,
    })
}

fn limits(document: &Document<'_>, root: &Section<'_>) -> Result<Limits, Error> {
    let (found, empty) = (root.find("limits"), Spanned::new(0..0, DeTable::new()));
    let section = subsection(document, &found, &empty, "[limits]", section::LIMITS)?;
    let reassembly_ms = section.integer_or("reassembly_ms", 200, 1, 60_000)?;
    let limits = Limits {
        log_bytes: section.bytes_or("log_bytes", 256 << 20, 1 << 20, 1 << 40)?,
        uncommitted_bytes: section.bytes_or("uncommitted_bytes", 32 << 20, 64 << 10, 1 << 40)?,
        snapshot_bytes: section.bytes_or("snapshot_bytes", 1280 << 20, 1 << 20, SNAPSHOT_BYTES_MAX)? as u32,
        reply_bytes: section.bytes_or("reply_bytes", 32 << 20, 64 << 10, 1 << 40)?,
        request_bytes: section.bytes_or("request_bytes", 370_406, 1464, 64 << 20)?,
        pending_messages: section.integer_or("pending_messages", 4096, 1, 1 << 20)?,
        pending_per_source: section.integer_or("pending_per_source", 64, 1, 1 << 20)?,
        pending_bytes: section.bytes_or("pending_bytes", 16 << 20, 64 << 10, 1 << 40)?,
        reassembly: Duration::from_millis(reassembly_ms as u64),
    };
    check::limits(&limits, &section).map(|()| limits)
}

#[cfg(test)]
mod tests;
