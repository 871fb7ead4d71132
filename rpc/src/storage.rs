//! Where a node keeps its log: in memory, or in a directory that outlives it.
//!
//! ```text
//!   Disk (runtime) --device.rs--> Wal (raft) --> NodeStorage --> Shard
//!     opened, locked, looked at: DataDirectory; what the node was goes on from there
//! ```

mod device;
mod open;
mod witness;

use std::task::{Context, Poll};
use trimaran_raft::wal::{Wal, WalCounters};
use trimaran_raft::{ClusterId, Completion, Log, LogIndex, MemoryStorage, Nanos, ReceivedSnapshot, Storage, Write};

pub use device::{DiskBuffer, NodeDisk};
pub use open::{DataConfig, DataDirectory, DataError, Found};
pub use witness::Witness;

/// What an acknowledgement survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Durability {
    /// A majority's memory has the write: it survives as long as a majority does.
    #[default]
    Volatile = 0,
    /// A majority's kernel has it: it survives the end of every process.
    Buffered = 1,
    /// A majority's disk has it: it survives the loss of all power.
    Durable = 2,
}

impl Durability {
    /// All of them, the least first.
    pub const ALL: [Durability; 3] = [Durability::Volatile, Durability::Buffered, Durability::Durable];

    /// As it is written in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Volatile => "volatile",
            Durability::Buffered => "buffered",
            Durability::Durable => "durable",
        }
    }

    /// What the byte of a response block says; `None` for what this build does not know.
    pub fn from_wire(byte: u8) -> Option<Durability> {
        Durability::ALL.into_iter().find(|durability| *durability as u8 == byte)
    }
}

impl From<trimaran_raft::wal::Durability> for Durability {
    fn from(durability: trimaran_raft::wal::Durability) -> Self {
        match durability {
            trimaran_raft::wal::Durability::Buffered => Durability::Buffered,
            trimaran_raft::wal::Durability::Durable => Durability::Durable,
        }
    }
}

/// The storage of a node's shard.
#[derive(Debug)]
pub enum NodeStorage {
    /// Nothing outlives the node.
    Memory(MemoryStorage),
    /// A log in a directory.
    Disk(Box<Wal<NodeDisk>>),
}

impl NodeStorage {
    pub(crate) fn memory() -> NodeStorage {
        NodeStorage::Memory(MemoryStorage::default())
    }

    /// Makes everything durable and says so on the disk; nothing is acknowledged afterwards.
    pub(crate) fn close(&mut self) {
        if let NodeStorage::Disk(wal) = self {
            wal.close();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            NodeStorage::Memory(_) => true,
            NodeStorage::Disk(wal) => wal.is_closed(),
        }
    }

    /// How the log is carried; empty in memory.
    pub(crate) fn describe(&self) -> String {
        match self {
            NodeStorage::Memory(_) => String::new(),
            NodeStorage::Disk(wal) => wal.device().describe(),
        }
    }

    pub(crate) fn counters(&self) -> Option<WalCounters> {
        match self {
            NodeStorage::Memory(_) => None,
            NodeStorage::Disk(wal) => Some(wal.counters()),
        }
    }
}

impl Storage for NodeStorage {
    fn write(&mut self, write: Write, log: &Log) {
        match self {
            NodeStorage::Memory(memory) => memory.write(write, log),
            NodeStorage::Disk(wal) => wal.write(write, log),
        }
    }

    fn room_bytes(&self) -> u64 {
        match self {
            NodeStorage::Memory(memory) => memory.room_bytes(),
            NodeStorage::Disk(wal) => wal.room_bytes(),
        }
    }

    fn install(&mut self, cluster: ClusterId, snapshot: &ReceivedSnapshot) {
        match self {
            NodeStorage::Memory(memory) => memory.install(cluster, snapshot),
            NodeStorage::Disk(wal) => wal.install(cluster, snapshot),
        }
    }

    fn reads_back(&self) -> bool {
        match self {
            NodeStorage::Memory(memory) => memory.reads_back(),
            NodeStorage::Disk(wal) => wal.reads_back(),
        }
    }

    fn wants_snapshot(&self, applied: LogIndex, pressed: bool) -> bool {
        match self {
            NodeStorage::Memory(memory) => memory.wants_snapshot(applied, pressed),
            NodeStorage::Disk(wal) => wal.wants_snapshot(applied, pressed),
        }
    }

    fn save(&mut self, snapshot: ReceivedSnapshot, state_hash: u64) {
        match self {
            NodeStorage::Memory(memory) => memory.save(snapshot, state_hash),
            NodeStorage::Disk(wal) => wal.save(snapshot, state_hash),
        }
    }

    fn trim(&mut self, to: LogIndex) {
        match self {
            NodeStorage::Memory(memory) => memory.trim(to),
            NodeStorage::Disk(wal) => wal.trim(to),
        }
    }

    fn tick(&mut self, now: Nanos) {
        match self {
            NodeStorage::Memory(memory) => memory.tick(now),
            NodeStorage::Disk(wal) => wal.tick(now),
        }
    }

    fn next_deadline(&self) -> Nanos {
        match self {
            NodeStorage::Memory(memory) => memory.next_deadline(),
            NodeStorage::Disk(wal) => wal.next_deadline(),
        }
    }

    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        match self {
            NodeStorage::Memory(memory) => memory.poll_completion(cx),
            NodeStorage::Disk(wal) => wal.poll_completion(cx),
        }
    }
}
