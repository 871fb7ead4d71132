//! Locks as Chubby and ZooKeeper offer them: leases, queues, fencing tokens, and a way to wait without asking.
//!
//! ```text
//!  waiting.rs    a client that wants a lock: ask, watch, ask again
//!     |
//!  service.rs    what can be called: acquire, try_acquire, renew, release, .. in the log; holder, list; watch
//!     |
//!  table.rs      who holds what, who waits, until when owners are believed to live
//!
//!  guarded.rs    what a lock protects, and how it refuses a holder that was overtaken
//!  types.rs      what callers give and get
//! ```
//!
//! An *owner* is one life of one client, by a name of its own choosing (`host/pid/start`). Its first call opens a lease, each
//! further one prolongs it, and when it ends, all that the owner holds goes to those who wait. The lease is counted in log
//! time: no clock of any machine decides, and every replica sees the same end at the same entry. While there is no leader,
//! who could not be asked anyway, no lease ends; the next one counts the time that has passed.
#![forbid(unsafe_code)]

mod guarded;
mod service;
mod table;
mod types;
mod waiting;

pub use guarded::{Guarded, Stale};
pub use service::{LocksCalls, LocksClient, WATCH_MAX};
pub use table::{LIST_MAX, LOCKS_MAX, LOCKS_PER_OWNER_MAX, Locks, OWNERS_MAX, QUEUE_MAX};
pub use types::{Grant, Holder, LEASE_MAX, LEASE_MIN, LockError, LockInfo, NAME_BYTES_MAX, Renewal, Token};
pub use waiting::Wanted;
