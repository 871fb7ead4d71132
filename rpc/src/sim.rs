//! What a simulated (or demonstrated) cluster is judged by.
//!
//! Clients write what they asked and what they were told into a [`history::History`]; [`linearizability::check`] decides
//! whether one copy of the service, handling one operation after the other, could have answered so.

pub mod history;
pub mod linearizability;
