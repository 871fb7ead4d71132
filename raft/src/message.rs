//! Peer messages: what travels between nodes, in explicit little-endian bytes.
//!
//! A message is one datagram: a 48-byte envelope, the kind's body, and a crc32c of both. Reading is total: any bytes give
//! a message or `None`, never a panic, and nothing is reserved from an announced length.

mod append;
mod codec;
mod foreign;
mod snapshot;

pub use append::{AppendHead, AppendWriter, Entries, FRAGMENT_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES, write_fragment};
pub use foreign::{FOREIGN_OVERHEAD_BYTES, read_foreign, write_foreign};
pub(crate) use snapshot::{CHUNK_OVERHEAD_BYTES, write_chunk};
pub use snapshot::{ChunkAck, ChunkHead, SnapshotAsk, SnapshotId};

use crate::entry::EntryHeader;
use crate::id::{ClusterId, LogIndex, Member, NodeId, ShardId, Term};

/// Version of the peer protocol: the first byte of each message.
pub const PEER_VERSION: u8 = 4;

/// What every datagram between peers begins with, Raft's messages and forwarded requests alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Envelope {
    /// The group that the message is about.
    pub shard: ShardId,
    /// The sender's cluster; 0 only from a node that has none yet and asks to join.
    pub cluster: ClusterId,
    /// The sender, in its present incarnation.
    pub from: NodeId,
    /// The receiver for whom it is meant; incarnation 0 only where the sender cannot know it.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
}

/// A message as read: borrowed from the datagram, which is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Sender, receiver, cluster, term.
    pub header: Envelope,
    /// What it says.
    pub body: Body<'a>,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// Would you vote for me? Changes nothing at the receiver.
    PreVote(Ask),
    /// Answer to [`Body::PreVote`].
    PreVoteReply(Answer),
    /// Vote for me in this term.
    Vote(Ask),
    /// Answer to [`Body::Vote`].
    VoteReply(Answer),
    /// Entries after a given one; without entries, a heartbeat.
    Append(AppendHead, Entries<'a>),
    /// A part of one entry that is larger than a datagram: head, entry header, bytes from `head.offset` on.
    Fragment(AppendHead, EntryHeader, &'a [u8]),
    /// What a follower has, and what it heard.
    Ack(Ack),
    /// A part of a snapshot, from the leader or from whom it has asked: it says nothing of who leads.
    Chunk(ChunkHead, &'a [u8]),
    /// Answer to [`Body::Chunk`].
    ChunkAck(ChunkAck),
    /// The leader of this term wants the receiver to send its snapshot to another.
    SnapshotAsk(SnapshotAsk),
    /// The leader of this term stops; it has stopped serving reads.
    Farewell,
    /// The leader of this term wants the receiver in its place: it is to stand for election now.
    TimeoutNow,
    /// A replica has reads that want an index to wait for.
    ReadAsk(ReadAsk),
    /// Answer to [`Body::ReadAsk`].
    ReadReply(ReadReply),
    /// The leader found the receiver's state to differ.
    Fence(Fence),
    /// A node without state asks to be taken in.
    Join(Member),
    /// The cluster heard it; the leader, where known.
    JoinReply(Option<Member>),
}

/// A candidate's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The term campaigned for; one more than the asker's own in a pre-vote.
    pub campaign: Term,
    /// The candidate's last entry.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Whether the leader of the term before told it to stand: then voters need not wait for that leader to fall silent.
    pub told: bool,
}

/// A voter's answer; the voter's own term is in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The term that was asked about.
    pub campaign: Term,
    /// Whether the vote is given.
    pub granted: bool,
}

/// What a follower tells its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ack {
    /// Durable here, and verified with this leader in this term: what counts for commit.
    pub matched: LogIndex,
    /// Verified with this leader in this term, durable or not: what need not be sent again.
    pub verified: LogIndex,
    /// Bytes held, without a gap, of the entry after `verified`.
    pub offset: u32,
    /// Highest round seen from this leader in this term.
    pub round: u64,
    /// Bytes of entries after `matched` that fit.
    pub credit_bytes: u64,
    /// Applied up to here.
    pub applied: LogIndex,
    /// The state machine's digest at `applied`; 0 where it is not known.
    pub digest: u64,
    /// Set when the state is not to be trusted, and not used; the log is as good as ever.
    pub fenced: Option<Verdict>,
    /// Set when nothing more is applied here; the log is as good as ever.
    pub stopped: bool,
    /// Set when somebody has wanted something of this replica within [`crate::Timing::quiet_after`]: the group is not to go quiet.
    pub in_use: bool,
    /// Set when the state was too large to be given out of late.
    pub outgrown: bool,
    /// Set when the disk leaves less room than the log in memory, or none: forgetting entries would not make the credit more.
    pub disk_bound: bool,
    /// Set when an append did not fit the log.
    pub conflict: Option<Conflict>,
    /// Bytes held, without a gap, of a snapshot that is not yet whole.
    pub snapshot_bytes: u32,
    /// The sender's own mark of the time, which only it can read; 0 where it has none.
    pub mark: u64,
}

/// A replica's question: what must be applied to answer the reads that it has numbered up to here?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReadAsk {
    /// Drawn by the asker at its start, so that no answer to an earlier run is taken for one to this.
    pub boot: u64,
    /// The newest of its questions; one answer serves all before.
    pub number: u64,
}

/// The leader's answer: a quorum has echoed a round that was opened after the question arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReadReply {
    /// To which question.
    pub ask: ReadAsk,
    /// What must be applied.
    pub index: LogIndex,
}

/// Why a replica's state is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It differs from so many that no majority for it was found.
    NoMajority,
    /// A majority has another.
    Minority,
}

/// What the leader's state was after an entry, told to a replica whose state was another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The entry.
    pub index: LogIndex,
    /// The leader's digest after it.
    pub digest: u64,
    /// What the leader found out.
    pub verdict: Verdict,
}

/// Why an append did not fit, and where to look next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// The `prev` of the append that was refused.
    pub rejected: LogIndex,
    /// The last entry of the follower's that may agree.
    pub hint: LogIndex,
    /// Its term.
    pub hint_term: Term,
}
