//! What can be refused, and what stops a shard; and why a message was dropped, which is a counter and no error.

use crate::id::{ClusterId, LogIndex, Member, NodeId};

/// Why a request to a shard was refused, or why it stopped. Each refusal is proof that nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another node leads, or nobody is known to.
    #[error("this node does not lead ({})", leader_text(.leader))]
    NotLeader {
        /// The leader as far as known.
        leader: Option<Member>,
    },
    /// A byte budget is used up, or no quorum has answered lately.
    #[error("overloaded: a byte budget is used up, or no quorum answers")]
    Overloaded,
    /// The log device has no room for it. Reads go on, and so does this once there is room.
    #[error("overloaded: the log device is full")]
    StorageFull,
    /// The body is larger than an entry may be.
    #[error("a body of {body_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Bytes of the body.
        body_bytes: u64,
        /// The limit in force.
        limit_bytes: u32,
    },
    /// The node belongs to no cluster yet.
    #[error("this node belongs to no cluster yet")]
    Uninitialised,
    /// The node already belongs to a cluster, or was told to ask to join one.
    #[error("this node already knows cluster {cluster}")]
    AlreadyInitialised {
        /// That cluster.
        cluster: ClusterId,
    },
    /// A configuration without voters, with a seat named twice or out of range, with another address for a known node; a first
    /// one without this node in exactly this incarnation.
    #[error(
        "a configuration must name 1 to 9 voters, each slot once and known nodes by their addresses; the first one must name this \
         node in this incarnation"
    )]
    BadConfiguration,
    /// A snapshot that nobody asked for, or of an entry that is not applied or whose followers have left the log.
    #[error("nobody needs this snapshot: not asked for, not applied, or too old for the log to go on from it")]
    SnapshotUnusable,
    /// A change of the members that is not complete, or a leader that has not committed an entry of its own term yet.
    #[error("a change of the members is under way, or this leader has only just begun")]
    ChangeInProgress,
    /// A voter that would be replaced by another life of its seat is still heard.
    #[error("voter {} is alive and cannot be replaced", .voter.id)]
    StillAlive {
        /// That voter.
        voter: Member,
    },
    /// A majority of the voters that are to remain or come would be silent: what they must acknowledge, every write among it,
    /// would wait for them. Bring them back, or name others.
    #[error("of the {voters} voters that there would be only {live} are not silent, which is no majority")]
    NoLiveMajority {
        /// Voters of the target.
        voters: usize,
        /// Of these, those that answer, and those that are new and will be waited for.
        live: usize,
    },
    /// Leadership is being handed over: until that ends nothing is appended, and nothing else of the kind begins.
    #[error("leadership is being handed over to {to}")]
    TransferInProgress {
        /// To whom.
        to: NodeId,
    },
    /// That node cannot take leadership over now.
    #[error("{node} cannot take leadership over: {reason}")]
    CannotLead {
        /// That node.
        node: NodeId,
        /// Why.
        reason: Unfit,
    },
    /// No other voter can take leadership over now.
    #[error("no other voter can take leadership over now")]
    NobodyToLead,
    /// What this replica knows is older than the read allows.
    #[error("what this replica knows is {} ns old, which is more than the read allows", .age_ns.map_or("for ever".to_owned(), |age| age.to_string()))]
    TooStale {
        /// How old, in nanoseconds; none where nothing is known.
        age_ns: Option<u64>,
    },
    /// This replica has not applied in time what the read must see.
    #[error("this replica has applied up to {applied} only")]
    NotYet {
        /// Applied up to here.
        applied: LogIndex,
    },
    /// The lease under which a read began has ended before its answer could leave: the answer may be stale.
    #[error("the leader's lease ended before the answer could leave")]
    LeaseEnded,
    /// This replica's state is not used any more: it is wrong, or its apply task has stopped.
    #[error("this replica's state is not used any more")]
    NotServing,
    /// The log device failed: nothing more is acknowledged.
    #[error("the log device failed; this replica has stopped acknowledging")]
    StorageFailed,
}

fn leader_text(leader: &Option<Member>) -> String {
    leader.map_or_else(|| "no leader is known".to_owned(), |leader| format!("{} at {} does", leader.id, leader.client))
}

/// Why leadership is not handed over to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// It leads already.
    #[error("it leads already")]
    Leads,
    /// It does not vote, or will not after the change that is under way.
    #[error("it is no voter of the newest configuration")]
    NotVoter,
    /// It has not answered for the longest election timeout.
    #[error("it does not answer")]
    Silent,
    /// It lacks more than what may be on its way to it at once, see [`crate::Limits::window_bytes`].
    #[error("its log is too far behind")]
    Behind,
    /// Its state is wrong, or its apply task has stopped.
    #[error("it does not apply")]
    DoesNotApply,
}

/// Why [`crate::Shard::propose`] refused.
pub type ProposeError = Error;
/// Why [`crate::Shard::read_barrier`] or [`crate::Shard::read`] refused.
pub type ReadError = Error;
/// Why [`crate::Shard::bootstrap`] refused.
pub type BootstrapError = Error;
/// Why [`crate::Shard::offer_snapshot`] refused.
pub type SnapshotError = Error;
/// Why [`crate::Shard::change_members`] or [`crate::Shard::cancel_change`] refused.
pub type ChangeError = Error;
/// Why [`crate::Shard::transfer`] refused.
pub type TransferError = Error;
/// Why [`crate::Shard::run`] ended.
pub type Fatal = Error;

/// Why a peer message changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Not a message of this version, or its check sum is wrong.
    Malformed,
    /// Of another cluster.
    WrongCluster,
    /// For another node, or another life of this one.
    WrongDestination,
    /// Of another group.
    WrongShard,
    /// Claims to come from this very node.
    FromMyself,
    /// Of an earlier term.
    StaleTerm,
    /// Of a term too far ahead to be true.
    AbsurdTerm,
    /// An acknowledgement or vote that nobody asked this node for.
    Unexpected,
    /// Contradicts the protocol: a second leader in one term, an acknowledgement beyond the log, entries out of order.
    Contradiction,
    /// From a node outside the configuration, where only members count.
    NotMember,
    /// This node has no cluster yet and the message does not bring one.
    Uninitialised,
    /// More answers are waiting than are kept.
    Busy,
    /// A snapshot larger than this node takes.
    TooLarge,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [DropReason; 13] = [
        DropReason::Malformed,
        DropReason::WrongCluster,
        DropReason::WrongDestination,
        DropReason::WrongShard,
        DropReason::FromMyself,
        DropReason::StaleTerm,
        DropReason::AbsurdTerm,
        DropReason::Unexpected,
        DropReason::Contradiction,
        DropReason::NotMember,
        DropReason::Uninitialised,
        DropReason::Busy,
        DropReason::TooLarge,
    ];

    /// The counter's name in status output.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::WrongCluster => "wrong_cluster",
            DropReason::WrongDestination => "wrong_destination",
            DropReason::WrongShard => "wrong_shard",
            DropReason::FromMyself => "from_myself",
            DropReason::StaleTerm => "stale_term",
            DropReason::AbsurdTerm => "absurd_term",
            DropReason::Unexpected => "unexpected",
            DropReason::Contradiction => "contradiction",
            DropReason::NotMember => "not_member",
            DropReason::Uninitialised => "uninitialised",
            DropReason::Busy => "busy",
            DropReason::TooLarge => "too_large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Status shows them side by side: two of one name could not be told apart.
    #[test]
    fn every_reason_is_listed_once_and_named_as_it_is_written() {
        let names: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            // `WrongCluster` is `wrong_cluster`.
            let written = format!("{reason:?}");
            assert_eq!(reason.name().replace('_', ""), written.to_lowercase());
        }
    }
}
