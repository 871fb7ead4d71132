//! A replicated key-value store on trimaran, and the program `kv` around it.
//!
//! ```text
//!  kv get|put|cas|del|incr|scan|txn|size     kv bench      kv demo       kv sim     kv init|status|call|...
//!          ask.rs, syntax.rs             bench.rs, peer.rs  demo.rs      sim.rs                 |
//!               |                          failover.rs, load.rs  demo/      |                   |
//!               |                                 \          |             /                    |
//!           KvClient                         requests.rs, connect.rs, group.rs                  |
//!               |                                      |                                        |
//!            trimaran_rpc: client, sessions, program: command line, nodes, configuration, errors
//!                              |
//!                          UDP, R2P2
//!                              |
//!  kv serve     trimaran_rpc: replicated methods through the log, reads after it, local ones beside it
//!                              |
//!                         service.rs        the methods; bytes go to resp.rs -> command.rs -> raw.rs
//!                        /          \
//!                   store.rs     journal.rs
//!        keys, txn.rs, store/    what was executed, for the demo
//! ```
#![forbid(unsafe_code)]

pub mod ask;
pub mod bench;
pub mod cli;
pub mod command;
pub mod connect;
pub mod demo;
pub mod error;
pub mod failover;
pub mod faults;
pub mod group;
pub mod journal;
pub mod load;
pub mod peer;
pub mod ports;
pub mod raw;
pub mod requests;
pub mod resp;
pub mod restart;
pub mod scale;
pub mod service;
pub mod sim;
pub mod store;
pub mod syntax;
pub mod txn;
