//! R2P2 requests in, replies out, replicated when they ask for it.
#![forbid(unsafe_code)]

pub mod client;
pub mod flow;
pub mod r2p2;

pub mod sim;
