//! One core, one loop.
pub mod driver;
pub mod time;
pub use driver::{Driver, Flushed, Polled};
pub use time::Instant;
