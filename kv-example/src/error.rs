//! Why the store refuses a call. Whatever it refuses has changed nothing.

use crate::store::limits::{
    KEY_BYTES_MAX, REPLY_BYTES_MAX, SCAN_ITEMS_MAX, STATE_BYTES_MAX, TXN_GUARDS_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX,
};
use thiserror::Error;
use trimaran_rpc::data;

/// What the store says instead of a result.
#[data]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KvError {
    /// An empty key, or one over [`KEY_BYTES_MAX`].
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    BadKey,
    /// A value over [`VALUE_BYTES_MAX`].
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    ValueTooLarge,
    /// A time to live of nothing.
    #[error("a key must be given some time to live")]
    BadTtl,
    /// A CAS found something else than expected.
    #[error("{}", conflict(*version))]
    Conflict {
        /// The version that is there; `None`: the key is absent.
        version: Option<u64>,
    },
    /// An INCR of a value that is no whole number of 64 bits in plain decimal.
    #[error("the value is not an integer or out of range")]
    NotANumber,
    /// An INCR beyond 64 bits.
    #[error("the sum is out of range")]
    Overflow,
    /// The store holds [`STATE_BYTES_MAX`]; deleting makes room.
    #[error("the store is full: it holds {STATE_BYTES_MAX} bytes of keys and values")]
    Full,
    /// As many keys have a time to live as may.
    #[error("too many keys have a time to live")]
    TimersFull,
    /// A scan for nothing, or for more than [`SCAN_ITEMS_MAX`].
    #[error("a scan asks for 1 to {SCAN_ITEMS_MAX} keys")]
    BadLimit,
    /// A transaction over [`TXN_GUARDS_MAX`] or [`TXN_OPS_MAX`].
    #[error("a transaction has at most {TXN_GUARDS_MAX} guards and {TXN_OPS_MAX} operations a branch")]
    TxnTooLong,
    /// The values that a transaction reads are longer together than a reply may be.
    #[error("the transaction reads over {REPLY_BYTES_MAX} bytes, more than one reply carries")]
    ReplyTooLarge,
    /// The replica asked has no state to look at, or too many look at it already.
    #[error("the state of this replica cannot be looked at now")]
    Unavailable,
    /// The replica asked keeps no journal.
    #[error("this replica keeps no journal: start every node with --journal")]
    NoJournal,
    /// One operation of a transaction is refused, and so is the whole.
    #[error("operation {number} of the transaction: {error}")]
    Operation {
        /// Its place in its branch, from 1 on.
        number: u8,
        /// Why.
        error: Box<KvError>,
    },
    /// A key of the call belongs to another shard than the one that was asked.
    #[error(
        "the keys of one call must be of one shard: keys with a common part in braces are, such as {{user1}}.name and {{user1}}.age"
    )]
    OtherShard,
}

fn conflict(version: Option<u64>) -> String {
    match version {
        None => "the key is absent".to_owned(),
        Some(version) => format!("the key has another value, of version {version}"),
    }
}
