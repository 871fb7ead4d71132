//! What goes into the machine and what comes out of it.

use std::net::SocketAddrV4;

use crate::config::Configuration;
use crate::entry::Proposal;
use crate::error::{DropReason, Error};
use crate::id::{ClusterId, LogIndex, Member, NodeId, Term};
use crate::log::Snapshot;
use crate::message::{
    Ack, Answer, AppendHead, Ask, ChunkAck, ChunkHead, Fence, Message, ReadAsk, ReadReply, SnapshotAsk,
};
use crate::storage::Write;

/// What a node is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Knows no cluster.
    Uninitialised,
    /// Knows no cluster of its own, but was told of one that may take it in.
    Joining {
        /// The cluster that answered.
        cluster: ClusterId,
        /// Its leader, where the answer named one.
        leader: Option<Member>,
    },
    /// Follows, or waits for a leader.
    Follower,
    /// Asks whether it could win, without changing anything.
    PreCandidate,
    /// Asks for votes in its term.
    Candidate,
    /// Leads its term.
    Leader,
}

/// What can happen to a machine.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Time has passed; deadlines at or before `now` fire.
    Tick,
    /// A message came from this address.
    Message(SocketAddrV4, &'a Message<'a>),
    /// Append an entry.
    Propose(&'a Proposal<'a>),
    /// A linearizable read on the leader wants an index to wait for.
    Read,
    /// A linearizable read on any replica wants one: who does not lead asks the leader.
    ReadHere,
    /// Somebody waits here for what only the leader can do: if it is gone, that should not go unnoticed for long.
    LeaderWanted,
    /// This write and all before it are durable.
    Persisted(Write),
    /// The log device failed for good.
    StorageFailed,
    /// The log device has stopped answering (true) or answers again (false).
    StorageStalled(bool),
    /// The log device has no room but what is kept for entries without which nothing moves (true), or has some again (false).
    StorageFull(bool),
    /// A snapshot on the disk holds what the log says up to here, as [`crate::Log::offset_bytes`] counts: what comes after it is what a start
    /// would read back, and is bounded as the log in memory is. Never told where nothing is read back.
    StorageSaved(u64),
    /// The next write may have so many bytes of entries, headers included; with 0 none may begin. Without limit at first.
    StorageRoom(u64),
    /// The state machine has applied these entries, oldest first; with each the digest of the state after it. One is enough.
    Applied(&'a [(LogIndex, u64)]),
    /// The apply task cannot go on: nothing more will be applied in this life.
    Stopped,
    /// The apply task gives out a snapshot, with [`crate::state_hash`] of its bytes.
    Offer(&'a Snapshot, u64),
    /// The apply task gives none out: the state has at least so many bytes, which is more than [`crate::Limits::snapshot_bytes`].
    TooLarge(u64),
    /// Change the members to these voters and learners; a leader then does so step by step.
    ChangeMembers(&'a Configuration),
    /// Take the change back, where that is still possible.
    CancelChange,
    /// Hand leadership over, to this voter or to the best there is; begun when accepted.
    Transfer(Option<NodeId>),
    /// This node is about to stop: give up leadership and say so.
    Farewell,
}

/// What a step did, where it is worth saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// The state is up to date.
    Done,
    /// The proposal is the entry at this index.
    Appended(LogIndex),
    /// The read got this ticket, larger than all before.
    Read(u64),
}

/// Why a step changed nothing that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// A message, dropped and to be counted.
    Dropped(DropReason),
    /// A request, to be answered.
    Request(Error),
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Refused::Dropped(reason)
    }
}

/// What [`crate::Machine::flush`] asks for. Carry out in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write the hard state and these entries; report completion.
    Persist(Write),
    /// Send to a peer, with this term in the header.
    Send(Member, Term, Outgoing),
    /// Entries up to here may be applied.
    Commit(LogIndex),
    /// All reads with tickets up to this one may run once this index is applied.
    ReadsReady(u64, LogIndex),
    /// All reads with tickets up to this one have failed: this node does not lead any more.
    ReadsFailed(u64),
    /// Entries up to here have left the log in memory.
    Trim(LogIndex),
    /// This peer needs the log from this entry on, which is no longer held: it stays out until it has a snapshot.
    OutOfReach(NodeId, LogIndex),
    /// A peer needs a snapshot of this node: have the apply task offer one, see [`Input::Offer`].
    SnapshotWanted,
    /// The log begins anew after a snapshot, see [`Log::take_received`](crate::Log::take_received): what is stored is void,
    /// and the state with it.
    Install,
    /// This node's state is in the minority at this entry, or no majority is left: apply and read nothing any more.
    Fenced(LogIndex),
    /// Role, term or known leader has changed, or a transfer of leadership has begun or ended.
    LeadershipChanged,
    /// Stop: nothing may be acknowledged any more.
    Halt,
}

/// What to send; appends name a range of the log, which the caller cuts into datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outgoing {
    /// See [`crate::Body::PreVote`].
    PreVote(Ask),
    /// See [`crate::Body::PreVoteReply`].
    PreVoteReply(Answer),
    /// See [`crate::Body::Vote`].
    Vote(Ask),
    /// See [`crate::Body::VoteReply`].
    VoteReply(Answer),
    /// The entries after `head.prev` up to this one; none makes it a heartbeat. `head.offset` bytes of the first are there.
    Append(AppendHead, LogIndex),
    /// See [`crate::Body::Ack`].
    Ack(Ack),
    /// See [`crate::Body::Farewell`].
    Farewell,
    /// See [`crate::Body::TimeoutNow`].
    TimeoutNow,
    /// See [`crate::Body::Chunk`]; so many bytes of it.
    Chunk(ChunkHead, u32),
    /// See [`crate::Body::ChunkAck`].
    ChunkAck(ChunkAck),
    /// See [`crate::Body::SnapshotAsk`].
    SnapshotAsk(SnapshotAsk),
    /// See [`crate::Body::ReadAsk`].
    ReadAsk(ReadAsk),
    /// See [`crate::Body::ReadReply`].
    ReadReply(ReadReply),
    /// See [`crate::Body::Fence`].
    Fence(Fence),
    /// See [`crate::Body::Join`].
    Join(Member),
    /// See [`crate::Body::JoinReply`].
    JoinReply(Option<Member>),
}

/// Whether another flush right away would find something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum More {
    /// Flush again after carrying the actions out.
    Yes,
    /// Nothing is left until the next step.
    No,
}
