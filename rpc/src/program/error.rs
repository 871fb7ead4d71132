//! Everything that can go wrong for whoever runs a node or asks one: a code, one cause, and the command or line that
//! mends it.
//!
//! E01xx is the environment (exit code 3), E02xx the command line and the configuration (2), E03xx the cluster (4).

use crate::program::config::place::Place;
use std::fmt::Write;
use std::net::SocketAddrV4;
use std::time::Duration;
use thiserror::Error;

/// A failure, printed once, by [`report`](crate::program::report).
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message is its documentation; its fields are what the message names")]
pub enum Error {
    #[error("{address}/udp is in use{}", by(owner))]
    AddressInUse { address: SocketAddrV4, owner: Option<String> },
    #[error("{address} is no address of this machine")]
    AddressElsewhere { address: SocketAddrV4 },
    #[error("no permission to {what}")]
    NoPermission { what: String },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the `us` profile needs cores of its own, and this machine has none isolated")]
    SharedCores,
    #[error("node {slot} ended ({status}){}", tail(output))]
    NodeEnded { slot: u8, status: String, output: String },
    #[error("this program is at fault: {what}")]
    Panicked { what: String },
    #[error("interrupted")]
    Interrupted,
    #[error("this program was built without the DPDK port")]
    DpdkNotBuilt,
    #[error("{problem}")]
    MachineLacks { problem: String, help: String },
    #[error("{problem}")]
    DpdkRefused { problem: String, help: String },
    #[error("{problem}")]
    DataRefused { code: &'static str, problem: String, help: String },
    #[error("{path} {what}")]
    DataDamaged { path: String, what: &'static str },
    #[error("the log's disk has failed; this node has stopped acknowledging, and ends")]
    LogDeviceFailed,

    #[error("cannot read the configuration {path}: {source}")]
    ConfigUnreadable { path: String, source: std::io::Error },
    #[error("{message}")]
    ConfigSyntax { message: String, place: Box<Place> },
    #[error("unknown key `{key}` in {section}")]
    UnknownKey { key: String, section: String, hint: String, place: Box<Place> },
    #[error("`{key}` is missing in {section}")]
    MissingKey { key: &'static str, section: String, example: &'static str, place: Box<Place> },
    #[error("`{key}` must be {expected}, not {found}")]
    BadValue { key: String, expected: String, found: String, place: Box<Place> },
    #[error("slot {slot} is given twice, first on line {first_line}")]
    DuplicateSlot { slot: u8, first_line: usize, place: Box<Place> },
    #[error("the address {address} is given twice, first on line {first_line}")]
    DuplicateAddress { address: SocketAddrV4, first_line: usize, place: Box<Place> },
    #[error("slot {slot} is no member; the members are {members}")]
    SlotNotMember { slot: u8, members: String, place: Box<Place> },
    #[error("nothing says how durable an acknowledgement is: there is neither `durability` nor `data_dir`")]
    DurabilityMissing { place: Box<Place> },
    #[error("`durability = \"{durability}\"` {problem}")]
    DurabilityContradicts { durability: &'static str, problem: &'static str, help: &'static str, place: Box<Place> },
    #[error(
        "an election timeout of {election_min:?} is too short for a heartbeat of {heartbeat:?}: one lost packet would cost the leader its office"
    )]
    TimingTight { heartbeat: Duration, election_min: Duration, place: Box<Place> },
    #[error("{smaller} may not exceed {larger}")]
    LimitsContradict { smaller: &'static str, larger: &'static str, place: Box<Place> },
    #[error("{problem}")]
    KeysContradict { problem: String, help: String, place: Box<Place> },
    #[error("{problem}")]
    Usage { problem: String, help: String },

    #[error("no quorum: {reachable} of {total} replicas reachable, {quorum} needed")]
    NoQuorum { reachable: u8, total: u8, quorum: u8 },
    #[error("no answer from {servers} within {within:?}")]
    Unreachable { servers: String, within: Duration },
    #[error("the cluster has not been formed: {who} waits for `init`")]
    Uninitialised { who: String },
    #[error("{who} already belongs to cluster {cluster}")]
    AlreadyInitialised { who: String, cluster: String },
    #[error("{who} refused to be part of the cluster: it {why}")]
    InitRefused { who: String, why: String },
    #[error("the outcome is unknown: the request was sent, and no answer came within {within:?}{}", and(cluster))]
    Unknown { within: Duration, cluster: Option<String> },
    #[error("the service failed while it handled the call; whether a write took effect is not known")]
    ServiceFailed,
    #[error("certainly not applied: {reason}")]
    NotApplied { reason: String },
    #[error("the service refused: {message}")]
    Refused { message: String },
    #[error("the answer makes no sense: {what}")]
    BadAnswer { what: String },
    #[error("the cluster that was asked first is gone: another was formed in its place")]
    ClusterReplaced,
    #[error("none of {servers} knows a leader")]
    NoLeader { servers: String },
    #[error("the members were not changed: {why}")]
    ChangeRefused { why: String },
    #[error("the change has begun and is not done yet; it goes on")]
    ChangePending,
    #[error("the members were changed in {done}, but not in {failed}")]
    ChangePartial { done: String, failed: String },
    #[error("the demo failed: {what}")]
    DemoFailed { what: String },
    #[error("the benchmark failed: {what}")]
    BenchFailed { what: String },
    #[error("the simulation found a fault: {what}")]
    SimulationFailed { what: String },
}

fn by(owner: &Option<String>) -> String {
    owner.as_ref().map_or_else(String::new, |owner| format!(" by {owner}"))
}

fn and(cluster: &Option<String>) -> String {
    cluster.as_ref().map_or_else(String::new, |state| format!("; now {state}"))
}

fn tail(output: &str) -> String {
    if output.is_empty() { " without a word".to_owned() } else { format!("; its last words:\n{}", output.trim_end()) }
}

impl Error {
    /// An operating system's refusal, in the words "cannot `what`".
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => Error::NoPermission { what },
            _ => Error::Io { what, source },
        }
    }

    /// The stable code, to search for.
    pub fn code(&self) -> &'static str {
        match self {
            Error::AddressInUse { .. } => "E0101",
            Error::AddressElsewhere { .. } => "E0102",
            Error::NoPermission { .. } => "E0103",
            Error::Io { .. } => "E0104",
            Error::SharedCores => "E0105",
            Error::NodeEnded { .. } => "E0106",
            Error::Interrupted => "E0107",
            Error::Panicked { .. } => "E0108",
            Error::DpdkNotBuilt => "E0109",
            Error::MachineLacks { .. } => "E0110",
            Error::DpdkRefused { .. } => "E0111",
            Error::DataRefused { code, .. } => code,
            Error::LogDeviceFailed => "E0113",
            Error::DataDamaged { .. } => "E0223",
            Error::ConfigUnreadable { .. } => "E0201",
            Error::ConfigSyntax { .. } => "E0202",
            Error::UnknownKey { .. } => "E0203",
            Error::MissingKey { .. } => "E0204",
            Error::BadValue { .. } => "E0205",
            Error::DuplicateSlot { .. } => "E0206",
            Error::DuplicateAddress { .. } => "E0207",
            Error::SlotNotMember { .. } => "E0208",
            Error::DurabilityMissing { .. } => "E0209",
            Error::DurabilityContradicts { .. } => "E0210",
            Error::TimingTight { .. } => "E0212",
            Error::LimitsContradict { .. } => "E0213",
            Error::Usage { .. } => "E0215",
            Error::KeysContradict { .. } => "E0216",
            Error::NoQuorum { .. } => "E0301",
            Error::Unreachable { .. } => "E0302",
            Error::Uninitialised { .. } => "E0303",
            Error::AlreadyInitialised { .. } => "E0304",
            Error::InitRefused { .. } => "E0312",
            Error::Unknown { .. } => "E0305",
            Error::ServiceFailed => "E0306",
            Error::NotApplied { .. } => "E0307",
            Error::Refused { .. } => "E0308",
            Error::BadAnswer { .. } => "E0309",
            Error::ClusterReplaced => "E0310",
            Error::NoLeader { .. } => "E0316",
            Error::ChangeRefused { .. } => "E0317",
            Error::ChangePending => "E0318",
            Error::ChangePartial { .. } => "E0319",
            Error::DemoFailed { .. } => "E0320",
            Error::SimulationFailed { .. } => "E0321",
            Error::BenchFailed { .. } => "E0322",
        }
    }

    /// The process's exit code: 2 usage or configuration, 3 environment, 4 cluster, 1 a run that found a fault or a
    /// service that refused, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted => 130,
            Error::Refused { .. }
            | Error::DemoFailed { .. }
            | Error::SimulationFailed { .. }
            | Error::BenchFailed { .. }
            | Error::DataDamaged { .. } => 1,
            _ => match self.code().get(..3) {
                Some("E01") => 3,
                Some("E02") => 2,
                _ => 4,
            },
        }
    }

    /// The line of the configuration that is to blame.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::ConfigSyntax { place, .. }
            | Error::UnknownKey { place, .. }
            | Error::MissingKey { place, .. }
            | Error::BadValue { place, .. }
            | Error::DuplicateSlot { place, .. }
            | Error::DuplicateAddress { place, .. }
            | Error::SlotNotMember { place, .. }
            | Error::DurabilityMissing { place }
            | Error::DurabilityContradicts { place, .. }
            | Error::TimingTight { place, .. }
            | Error::KeysContradict { place, .. }
            | Error::LimitsContradict { place, .. } => Some(place),
            _ => None,
        }
    }

    /// What to type or to write so that it works. `program` is what the user typed to get here.
    pub fn help(&self, program: &str) -> String {
        match self {
            Error::AddressInUse { address, owner } => {
                let mut help = String::new();
                if let Some(pid) = owner.as_ref().and_then(|owner| owner.rsplit_once("pid ")) {
                    // Writing to a String cannot fail.
                    let _ = write!(help, "`kill {}`, or ", pid.1.trim_end_matches(')'));
                }
                help + &format!(
                    "give this member another port than {} in the configuration of every node",
                    address.port()
                )
            }
            Error::AddressElsewhere { address } => {
                format!("`ip -4 addr` lists this machine's addresses; write one of them in place of {}", address.ip())
            }
            Error::NoPermission { .. } => "run it as a user who may, or choose a port from 1024 up".into(),
            Error::Io { .. } => "mend what the operating system complains about, then try again".into(),
            Error::SharedCores => {
                format!(
                    "write `profile = \"shared\"`, boot with isolcpus=..., or insist with `{program} serve --force`"
                )
            }
            Error::NodeEnded { .. } => format!("the last line says why; `{program} serve --config` shows it alone"),
            Error::Panicked { .. } => "report it with the whole command line and what was printed before".into(),
            Error::Interrupted => "nothing is left behind: run it again".into(),
            Error::ConfigUnreadable { path, .. } => {
                format!("`ls -l {path}`; `{program} example-config` prints one to begin with")
            }
            Error::ConfigSyntax { .. } => "this is TOML: `key = value`, texts in quotes".into(),
            Error::UnknownKey { hint, .. } => hint.clone(),
            Error::MissingKey { example, .. } => format!("add `{example}`"),
            Error::BadValue { expected, .. } => format!("write {expected}"),
            Error::DuplicateSlot { .. } => "give each [[member]] a slot of its own, 1 to 9".into(),
            Error::DuplicateAddress { .. } => {
                "every `client` and every `peer` needs an address and port of its own".into()
            }
            Error::SlotNotMember { .. } => "set `slot` to this node's member, or add a [[member]] for it".into(),
            Error::DurabilityMissing { .. } => {
                "add `data_dir = \"/var/lib/name\"` for a log on disk, or `durability = \"volatile\"` (memory only: a power loss of all nodes loses everything)".into()
            }
            Error::DurabilityContradicts { help, .. } => (*help).into(),
            Error::TimingTight { heartbeat, .. } => {
                format!(
                    "let the election timeout begin at {:?} or later",
                    *heartbeat * crate::program::config::ELECTION_HEARTBEATS_MIN
                )
            }
            Error::LimitsContradict { smaller, larger, .. } => format!("lower {smaller}, or raise {larger}"),
            Error::Usage { help, .. }
            | Error::KeysContradict { help, .. }
            | Error::MachineLacks { help, .. }
            | Error::DpdkRefused { help, .. }
            | Error::DataRefused { help, .. } => help.clone(),
            Error::DataDamaged { .. } => {
                "look at the device; as long as a majority of the others is whole, nothing is lost".into()
            }
            Error::LogDeviceFailed => format!(
                "look for the device's errors (`dmesg`); then `{program} check DIR`, or replace the disk and start the node with an empty directory: it joins as a new one"
            ),
            Error::DpdkNotBuilt => "build it with `cargo build --release --features dpdk`, which needs libdpdk-dev (`apt-get install libdpdk-dev`); or use port \"udp\"".into(),
            Error::NoQuorum { .. } => {
                format!("start the missing nodes: `{program} serve --config node.toml`; `{program} status` shows which")
            }
            Error::Unreachable { .. } => {
                format!(
                    "`{program} serve --config node.toml` starts a node; check --servers; whether a write took effect is not known"
                )
            }
            Error::Uninitialised { .. } => format!("`{program} init --config node.toml` forms a new, empty cluster"),
            Error::AlreadyInitialised { .. } => {
                format!(
                    "`{program} status` shows its cluster; to begin anew, stop all nodes and start them without their data"
                )
            }
            Error::InitRefused { .. } => {
                "give all members configurations that differ in `slot` only, restart those you changed, and try again"
                    .into()
            }
            Error::Unknown { .. } => {
                "read what it would have changed before you write again: the first write may have happened".into()
            }
            Error::ServiceFailed => format!("`{program} status` shows which replica stopped, at which entry and why"),
            Error::NotApplied { .. } => format!("try again: `{program} status` shows whether there is a leader"),
            Error::Refused { .. } => "correct the command; nothing was changed".into(),
            Error::BadAnswer { .. } => "check that --servers names nodes of this program and version".into(),
            Error::ClusterReplaced => "run it again: it then talks to the new cluster, which began empty".into(),
            Error::NoLeader { .. } => format!("`{program} status` shows who is there; a change needs a majority of the voters"),
            Error::ChangeRefused { .. } | Error::ChangePending => {
                format!("`{program} member list` shows who takes part now")
            }
            Error::ChangePartial { .. } => {
                format!("run it again: it does what is missing; `{program} member list` shows who takes part in each shard")
            }
            Error::DemoFailed { .. } => {
                format!("that is a bug of this program: `{program} demo --keep` leaves the nodes' logs")
            }
            Error::BenchFailed { .. } => {
                format!("more load than the machine carries may do that; `{program} demo` says whether the cluster is sound")
            }
            Error::SimulationFailed { .. } => {
                format!("`{program} sim --seed N` runs a seed again, step by step the same")
            }
        }
    }
}
