//! A replicated key-value store on trimaran.

pub mod command;
pub mod journal;
pub mod resp;
pub mod service;
pub mod store;
