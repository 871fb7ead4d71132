//! One readable test per case.

#[path = "../harness/mod.rs"]
mod harness;

mod asks;
mod digests;
mod elections;
mod freshness;
mod healing;
mod joining;
mod leadership;
mod leases;
mod limits;
mod membership;
mod reads;
mod replication;
mod snapshots;
mod stopped;
mod transfer;
