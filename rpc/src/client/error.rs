//! How a call can fail, by what is known about its effect.

use crate::r2p2::message::TooLarge;
use crate::r2p2::replies::TooManyCalls;
use crate::r2p2::{Refusal, ResponseBlock, Status};

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Certainly not applied; calling again is safe.
    #[error("not applied: {0}")]
    NotApplied(NotApplied),
    /// Never appended to the log: too few replicas are reachable. Calling again is safe.
    #[error("no quorum: {reachable} of {total} replicas reachable, {quorum} needed")]
    NoQuorum {
        /// Replicas the answering one has heard of, itself included.
        reachable: u8,
        /// Voters of the configuration.
        total: u8,
        /// How many of them it takes.
        quorum: u8,
    },
    /// The request was sent and its outcome is not known: it may have been applied, or may yet be.
    #[error("outcome unknown: sent, and not answered in time")]
    Unknown,
    /// The handler failed on the server, for instance by a panic. Whether a write was applied is not known.
    #[error("the service failed while it handled the call")]
    Internal,
}

/// The proof that a call was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// A server said so.
    #[error("refused by the server ({0:?})")]
    Refused(Refusal),
    /// A server sent DROP: overloaded, without a leader, or not serving this.
    #[error("dropped by the server")]
    Dropped,
    /// Another shard is responsible.
    #[error("another shard is responsible")]
    WrongShard,
    /// Longer than the client may send.
    #[error(transparent)]
    TooLarge(TooLarge),
    /// The client waits for as many calls as it may.
    #[error(transparent)]
    TooManyCalls(TooManyCalls),
    /// Nothing left this machine: no packet buffer, or the socket's transmit queue stayed full.
    #[error("not sent: the transmit queue is full")]
    NotSent,
    /// In time, no server asked for the rest of a request of several packets, or none was found to send a write to.
    #[error("no server took the request")]
    NotTaken,
    /// The client was given no server to ask.
    #[error("no servers configured")]
    NoServers,
}

/// The error that a response block stands for, `None` for [`Status::Ok`] and [`Status::App`].
pub(super) fn of_block(block: &ResponseBlock) -> Option<CallError> {
    match block.status {
        Status::Ok | Status::App => None,
        Status::NotApplied => Some(CallError::NotApplied(NotApplied::Refused(block.reason))),
        Status::NoQuorum => {
            Some(CallError::NoQuorum { reachable: block.reachable, total: block.total, quorum: block.total / 2 + 1 })
        }
        Status::WrongShard => Some(CallError::NotApplied(NotApplied::WrongShard)),
        Status::SessionExpired => Some(CallError::Unknown),
        Status::Internal => Some(CallError::Internal),
    }
}

/// Whether the same call may succeed a little later or elsewhere, having certainly not been applied.
pub(super) fn is_passing(error: &CallError) -> bool {
    match error {
        CallError::NotApplied(NotApplied::Refused(refusal)) => refusal.is_passing(),
        CallError::NotApplied(NotApplied::Dropped | NotApplied::NotSent) | CallError::NoQuorum { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_quorum_says_what_is_missing() {
        let block = ResponseBlock { status: Status::NoQuorum, reachable: 1, total: 3, ..ResponseBlock::default() };
        let error = of_block(&block).unwrap();
        assert_eq!(error.to_string(), "no quorum: 1 of 3 replicas reachable, 2 needed");
        assert!(is_passing(&error));
    }

    /// An expired session may hide an applied write: reporting it as refused would let the caller apply it twice.
    #[test]
    fn an_expired_session_is_an_unknown_outcome() {
        let block = ResponseBlock { status: Status::SessionExpired, ..ResponseBlock::default() };
        assert_eq!(of_block(&block), Some(CallError::Unknown));
        assert!(!is_passing(&CallError::Unknown) && !is_passing(&CallError::Internal));
    }
}
