//! Whole clusters in virtual time, and what they are judged by.
//!
//! [`cluster::Cluster`] runs the nodes of a service and its clients on one thread; [`chaos::Chaos`] strikes it with
//! faults; [`invariants::Invariants`] are checked after every step. Clients write what they asked and what they were told
//! into a [`history::History`]; [`linearizability::check`] decides whether one copy of the service, handling one
//! operation after the other, could have answered so.

pub mod chaos;
pub mod cluster;
pub mod history;
pub mod invariants;
pub mod linearizability;
