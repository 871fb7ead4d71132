//! A replicated key-value store on trimaran.

pub mod command;
pub mod config;
pub mod error;
pub mod journal;
pub mod report;
pub mod resp;
pub mod service;
pub mod store;
