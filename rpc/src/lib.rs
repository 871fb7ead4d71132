//! R2P2 requests in, replies out, replicated when they ask for it.
//!
//! ```text
//!                                   r2p2/ (pure: headers, segmentation, reassembly, blocks)
//!                                      |
//!  client port --> endpoint.rs --------+--> admin.rs (init, status)
//!                      |                \
//!                      |                 +--> replicated.rs --(leader)--> raft::Shard --> apply.rs --> service.rs
//!                      |                          |  \(follower)             |                |
//!  client port <-- answer.rs <-- flow.rs <--------+   forward.rs             |                |
//!                      ^                                  |                  |                |
//!                      +----------------------------------|------------------|----------------+
//!  peer port  <-----------------------> peer.rs <---------+------------------+
//!
//!  node.rs puts one replica together on a core          client.rs is the other end
//!  sim.rs  runs whole clusters of it in virtual time    program.rs makes a command line of both
//! ```
#![forbid(unsafe_code)]

// So that the macros, which name everything from here, work in this crate's own tests too.
extern crate self as trimaran_rpc;

pub mod admin;
pub mod alone;
mod answer;
mod apply;
mod background;
pub mod backup;
pub mod client;
pub mod codec;
mod consistency;
mod endpoint;
pub mod flow;
mod forward;
#[doc(hidden)]
pub mod generated;
mod late_copies;
pub mod log_rng;
pub mod log_time;
pub mod node;
mod open_reads;
pub mod outbox;
mod peer;
mod pending;
mod pins;
pub mod prelude;
pub mod program;
pub mod r2p2;
mod reads;
mod replica;
mod replicated;
mod request;
pub mod schema;
pub mod service;
pub mod session;
pub mod shards;
pub mod sim;
mod snapshot;
pub mod state;
pub mod stats;
pub mod storage;
pub mod timers;

/// The serialization framework that typed methods use; `#[data]` derives its traits for types of yours.
pub use serde;

/// Sleeping, timeouts, tasks and channels: what handlers of one replica, and tests in the simulator, may await.
pub use trimaran_runtime as runtime;

pub use trimaran_macros::{State, check_schema, data, effect, local, read, replicated, service, test, timer};

pub use apply::{Halt, StateDigest};
pub use program::entry::serve;
