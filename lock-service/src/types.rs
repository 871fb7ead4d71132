//! What callers give and get.

use std::error::Error;
use std::fmt;
use trimaran_rpc::prelude::*;

/// Longest name of a lock, and of an owner.
pub const NAME_BYTES_MAX: usize = 128;
/// Shortest lease: a shorter one would end while its renewal is on the way.
pub const LEASE_MIN: Duration = Duration::from_millis(10);
/// Longest lease: so long a dead holder keeps the others waiting.
pub const LEASE_MAX: Duration = Duration::from_secs(600);

/// Proves which grant a holder acts under. Every grant has a greater one than all before it, over all locks, so that
/// whatever the lock protects can refuse a holder that does not know yet that it has lost the lock: see
/// [`Guarded`](crate::Guarded).
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The caller holds the lock.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// To be shown to whatever the lock protects.
    pub token: Token,
    /// When the owner's lease ends in log time, which the caller cannot read. Its own clock must count the lease from
    /// before it sent the request: then it never believes to hold what it has lost, if clocks keep their rate.
    pub expires: LogTime,
}

/// The owner's lease was prolonged.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// When it ends now.
    pub expires: LogTime,
    /// All that the owner holds: also what it has waited for and got since.
    pub held: BTreeMap<String, Token>,
}

/// Who holds a lock.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// As it named itself.
    pub owner: String,
    /// Of this grant.
    pub token: Token,
    /// When its lease ends, unless it is renewed.
    pub expires: LogTime,
}

/// How a lock is.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// How many wait for it.
    pub waiting: u32,
    /// Greater with each change of holder.
    pub version: u64,
}

/// Why a call did nothing. Nothing is changed, but for the lease, which any call with one prolongs.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockError {
    /// Another owner holds the lock, and the caller does not wait for it.
    Held {
        /// To be watched from.
        version: u64,
    },
    /// Another owner holds the lock; the caller stands in its queue and will be given it in its turn.
    Queued {
        /// Who gets it before the caller, the holder not counted.
        ahead: u32,
        /// To be watched from.
        version: u64,
    },
    /// As many as may wait for this lock do.
    QueueFull,
    /// The owner holds, or waits for, as many locks as it may.
    TooMany,
    /// There are as many locks, or owners, as there may be.
    Full,
    /// The owner does not hold the lock under this token, nor wait for it.
    NotHeld,
    /// The owner's lease has ended, and what it held is lost.
    NoSession,
    /// An empty name, or one over [`NAME_BYTES_MAX`].
    BadName,
    /// A lease below [`LEASE_MIN`] or over [`LEASE_MAX`].
    BadLease,
    /// This replica has stopped, or too much waits for it: ask another.
    Unavailable,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { .. } => f.write_str("another owner holds the lock"),
            LockError::Queued { ahead, .. } => {
                write!(f, "another owner holds the lock; {ahead} get it before the caller")
            }
            LockError::QueueFull => f.write_str("too many wait for the lock"),
            LockError::TooMany => f.write_str("the owner has too many locks"),
            LockError::Full => f.write_str("there are too many locks or owners"),
            LockError::NotHeld => f.write_str("the owner does not hold the lock under this token"),
            LockError::NoSession => f.write_str("the owner's lease has ended"),
            LockError::BadName => write!(f, "a name has 1 to {NAME_BYTES_MAX} bytes"),
            LockError::BadLease => write!(f, "a lease lasts from {LEASE_MIN:?} to {LEASE_MAX:?}"),
            LockError::Unavailable => f.write_str("this replica cannot be asked"),
        }
    }
}

impl Error for LockError {}
