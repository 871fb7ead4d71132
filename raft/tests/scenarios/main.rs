//! One readable test per case.

#[path = "../harness/mod.rs"]
mod harness;

mod digests;
mod elections;
mod joining;
mod leadership;
mod limits;
mod reads;
mod replication;
mod snapshots;
