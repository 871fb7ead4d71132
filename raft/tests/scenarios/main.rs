//! One readable test per case.

#[path = "../harness/mod.rs"]
mod harness;

mod digests;
mod elections;
mod healing;
mod joining;
mod leadership;
mod limits;
mod membership;
mod reads;
mod replication;
mod snapshots;
mod stopped;
mod transfer;
