//! Fuzz targets: whatever the network, a peer or a file may say, nothing panics and nothing goes past its limits.
//!
//! | target | what it is fed to |
//! |---|---|
//! | [`frames`] | the stack for raw ports: Ethernet, ARP, IPv4, ICMP, IGMP, UDP, as time passes |
//! | [`r2p2`] | both ends of R2P2: reassembly of requests and of replies, as time passes |
//! | [`peer_messages`] | the codec of messages between peers |
//! | [`raft_machine`] | one replica's consensus machine, among peers that say whatever they like |
//! | [`snapshot_chunks`] | a replica that is sent snapshots in chunks, some of them wrong |
//! | [`values`] | arguments of calls, and saved states |
//! | [`wal`] | recovery of a log from a directory |
//! | [`config`] | configuration files |
//!
//! `cargo xtask fuzz` runs them under libFuzzer with AddressSanitizer (package cargo-fuzz); the crate's test runs each on
//! random bytes and on what was once found, in `found/`.

#![forbid(unsafe_code)]

pub mod config;
pub mod frames;
pub mod peer_messages;
pub mod r2p2;
pub mod raft_machine;
pub mod snapshot_chunks;
pub mod values;
pub mod wal;

/// A target's name, and what runs it.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("config", config::run),
    ("frames", frames::run),
    ("peer_messages", peer_messages::run),
    ("r2p2", r2p2::run),
    ("raft_machine", raft_machine::run),
    ("snapshot_chunks", snapshot_chunks::run),
    ("values", values::run),
    ("wal", wal::run),
];
