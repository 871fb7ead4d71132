//! A replicated key-value store on trimaran, and the program `kv` around it.
//!
//! ```text
//!  kv get|set|del|incr     kv bench      kv demo       kv sim     kv init|status|example-config
//!          ask.rs          bench.rs      demo.rs       sim.rs                 |
//!              \            load.rs     load.rs, demo/                        |
//!               +-------- connect.rs ------+                                 |
//!                              |                                             |
//!                   trimaran_rpc::program: command line, client's core, nodes, configuration, errors
//!                              |
//!                          UDP, R2P2
//!                              |
//!  kv serve     trimaran_rpc: policy 2 through the log, the others not
//!                              |
//!                         service.rs        bytes in, bytes out
//!                              |
//!             resp.rs -> command.rs -> store.rs -> resp.rs
//!             the wire     checked      the state    the reply
//!                              \
//!                           journal.rs      what was executed, for the demo
//! ```
#![forbid(unsafe_code)]

pub mod ask;
pub mod bench;
pub mod cli;
pub mod command;
pub mod connect;
pub mod demo;
pub mod journal;
pub mod load;
pub mod resp;
pub mod service;
pub mod sim;
pub mod store;
