//! Whole clusters in virtual time, and what they are judged by: for services and their tests.
//!
//! A test of a service holds a [`Sim`] and is run by [`run_seeds`] once for each seed; `#[trimaran_rpc::test]` writes that call:
//!
//! ```text
//!   run_seeds ──► Sim ──► Cluster: nodes and clients, one thread, virtual time, one seed
//!                  │         ▲            │ after every step
//!                  │         │ Net,       └──► invariants, halted replicas
//!                  │         │ Faults
//!                  ├── clients(4).run(ops(..)) ──► CallHistory ──► check_linearizable: the service itself, run alone
//!                  └── assert_replicas_agree: every state, hashed
//! ```
//!
//! Below it, for tests of the framework: [`cluster::Cluster`] runs the nodes of a service and its clients on one thread;
//! [`chaos::Chaos`] strikes it with faults; [`invariants::Invariants`] are checked after every step. Clients write what they
//! asked and what they were told into a [`history::History`]; [`linearizability::check`] decides whether one copy of the service,
//! handling one operation after the other, could have answered so.

mod agree;
mod calls;
pub mod chaos;
mod clients;
pub mod cluster;
mod disks;
mod faults;
mod handle;
pub mod history;
pub mod invariants;
pub mod linearizability;
mod net;
pub mod reading;
mod rng;
mod seat;
mod seeds;
mod storm;
mod wire;

pub use crate::client::AnyRequest;
pub use calls::{Asked, CallHistory, Object, Told};
pub use clients::{Clients, Workload, ops};
pub use faults::Faults;
pub use handle::Sim;
pub use net::Net;
pub use rng::SimRng;
pub use seat::{ClientSeat, Recording, sleep, submit};
pub use seeds::{run_seeds, run_seeds_with};
pub use trimaran_raft::{Role, Status};
