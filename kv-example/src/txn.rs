//! Transactions: the MultiOp of "Paxos Made Live" (Chandra, Griesemer, Redstone, 2007).
//!
//! A list of guards about single keys; where all hold, one list of operations is executed, else the other. All of it happens
//! at one point of the log: nobody sees a part, and where one operation is refused none happens.

use crate::store::Found;
use std::time::Duration;
use trimaran_rpc::data;

/// What to look at and what to do then.
#[data]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold for `then`; without guards it is always `then`.
    pub guards: Vec<Guard>,
    /// What happens where they hold, in this order.
    pub then: Vec<Op>,
    /// What happens where one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Every key that it names, in the order in which they are written, some perhaps more than once.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let guards = self.guards.iter().map(|guard| guard.key.as_slice());
        guards.chain(self.then.iter().chain(&self.otherwise).map(Op::key))
    }
}

/// One condition of one key.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: Vec<u8>,
    /// What must hold of it.
    pub test: Test,
}

/// What a guard asks.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// The key has a value.
    Exists,
    /// It has none.
    Absent,
    /// Its last write made this version.
    Version(u64),
    /// Its value stands to this one as told; an absent key never does. Two whole numbers of 64 bits in plain decimal are
    /// compared as numbers, everything else byte by byte.
    Value(Comparison, Vec<u8>),
}

/// How the value of a key stands to a given one.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// It is the same, byte by byte.
    Equal,
    /// It is another.
    NotEqual,
    /// It is before.
    Less,
    /// It is before or the same.
    LessOrEqual,
    /// It is behind.
    Greater,
    /// It is behind or the same.
    GreaterOrEqual,
}

/// One operation of a branch. It sees what those before it have done.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores a value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// After which the key is absent again; `None`: it stays.
        ttl: Option<Duration>,
    },
    /// Looks at a key.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Removes a key.
    Del {
        /// The key.
        key: Vec<u8>,
    },
    /// Adds to a number, as the method `incr` does.
    Incr {
        /// The key.
        key: Vec<u8>,
        /// What to add.
        by: i64,
    },
}

impl Op {
    /// The key that it is about.
    pub fn key(&self) -> &[u8] {
        match self {
            Op::Put { key, .. } | Op::Get { key } | Op::Del { key } | Op::Incr { key, .. } => key,
        }
    }
}

/// What became of a transaction.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the guards held: which branch was executed.
    pub held: bool,
    /// One for each operation of that branch.
    pub results: Vec<OpResult>,
}

/// What became of one operation.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// Stored, under the version that all writes of the transaction share.
    Put(u64),
    /// What the key holds; `None`: it is absent.
    Got(Option<Found>),
    /// Whether there was a value to remove.
    Deleted(bool),
    /// The sum.
    Sum(i64),
}
