//! A replicated key-value store on trimaran, and the program `kv` around it.
//!
//! ```text
//!  kv get|set|del|incr|init     kv bench      kv demo         kv status        kv sim
//!          ask.rs               bench.rs      demo.rs         status.rs        sim.rs
//!              \                 load.rs     load.rs, demo/     /
//!               +------------------- connect.rs ---------------+      the client's core
//!                                        |
//!                                     UDP, R2P2
//!                                        |
//!  kv serve     serve.rs: a node   trimaran_rpc: policy 2 through the log, the others not
//!                                        |
//!                                   service.rs        bytes in, bytes out
//!                                        |
//!                       resp.rs -> command.rs -> store.rs -> resp.rs
//!                       the wire     checked      the state    the reply
//!                                        \
//!                                     journal.rs      what was executed, for the demo
//! ```
//!
//! Beside the way: [`config`] and [`cli`] are what users write, [`error`] and [`report`] what they read when it is
//! wrong, [`machine`] and [`signals`] what the operating system says.
#![forbid(unsafe_code)]

pub mod ask;
pub mod bench;
pub mod cli;
pub mod command;
pub mod config;
pub mod connect;
pub mod demo;
pub mod error;
pub mod journal;
pub mod load;
pub mod machine;
pub mod report;
pub mod resp;
pub mod serve;
pub mod service;
pub mod signals;
pub mod sim;
pub mod status;
pub mod store;
