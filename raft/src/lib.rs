//! Raft as a pure machine, with the asynchronous shard that drives it.
//!
//! ```text
//!        peers' datagrams                              rpc: propose, read_barrier, next_committed
//!               |                                                       ^   |
//!   transport.poll_recv                                                 |   v
//!               |                        +------------------------------+---------+
//!               +---- message::decode -->|  shard: awaits, steps, flushes once a  |
//!                                        |  wake, carries the actions out         |
//!                                        +----+------------------+----------------+
//!                                 step(input) |      ^ actions   | entries
//!                                             v      | flush     v
//!                                        +----+------+---+   +---+------+
//!                                        |    machine    |-->|   log    |  headers and bodies apart,
//!                                        | pure, a value |   |          |  terms as runs
//!                                        +---------------+   +---+------+
//!                                                                | write(range)      | gathered in place
//!                                                                v                   v
//!                                                             storage       transport.send -> peers
//! ```
//!
//! | file | what it is about |
//! |---|---|
//! | `id` `entry` `config` | names, the 64-byte entry header, who takes part |
//! | `message` | peer messages as bytes |
//! | `log` | entries in memory |
//! | `quorum` | counting, in each half of a joint configuration |
//! | `config/steps` | from one configuration to the next |
//! | `machine` | elections, transfers, replication, commit, reads and leases, membership, comparison of states: decisions, without clock or I/O |
//! | `storage` | making the log durable; `memory` is the volatile mode, `wal` a log on a disk, `device` the disk below it |
//! | `shard` | the task that runs a machine; the only file that knows the runtime |
//! | `trace` | every event as a line of JSON, with the feature of that name |
//! | `sabotage` | faults on purpose, to prove that the tests bite |

#![forbid(unsafe_code)]

mod config;
mod entry;
mod error;
mod id;
mod log;
mod machine;
mod message;
pub mod quorum;
mod sabotage;
mod settings;
mod shard;
mod status;
mod storage;
#[cfg(feature = "trace")]
pub mod trace;
#[cfg(not(feature = "trace"))]
mod trace;
mod transmit;
mod transport;
mod wire;

pub use config::{Configuration, LIST_MEMBERS};
pub use entry::{CommittedEntry, ENTRY_HEADER_BYTES, EntryHeader, EntryKind, Proposal};
pub use error::{
    BootstrapError, ChangeError, DropReason, Error, Fatal, ProposeError, ReadError, SnapshotError, TransferError, Unfit,
};
pub use id::{ClusterId, Incarnation, LogIndex, Member, Nanos, NodeId, ShardId, Slot, Term};
pub use log::{Log, ReceivedSnapshot, Snapshot, state_hash};
pub use machine::{Accepted, Action, Input, MAX_TERM_JUMP, Machine, More, Outgoing, Peer, PeerState, Refused, Role};
pub use message::{
    Ack, Answer, AppendHead, AppendWriter, Ask, Body, ChunkAck, ChunkHead, Conflict, Entries, Envelope,
    FOREIGN_OVERHEAD_BYTES, FRAGMENT_OVERHEAD_BYTES, Fence, MESSAGE_OVERHEAD_BYTES, Message, PEER_VERSION, ReadAsk,
    ReadReply, SnapshotAsk, SnapshotId, Verdict, read_foreign, write_foreign, write_fragment,
};
pub use sabotage::{Fault, Sabotage};
pub use settings::{Limits, ReadSettings, ShardConfig, Timing};
pub use shard::{Consistency, Leadership, ReadBarrier, ReadPermit, Shard};
pub use status::{Counters, PeerStatus, Status};
pub use storage::{Completion, HardState, MemoryStorage, Storage, Write, device, seed, wal};
pub use transmit::{Sent, transmit};
pub use transport::Transport;
