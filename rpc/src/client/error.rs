//! How a call can fail, by what is known about its effect.

use crate::r2p2::message::TooLarge;
use crate::r2p2::replies::TooManyCalls;
use crate::r2p2::{Refusal, ResponseBlock, Status};
use crate::session::CallId;
use std::convert::Infallible;
use std::fmt::Debug;

/// Why a call has no reply. `E` is the error of the method called; a method that has none, and a call by bytes, cannot
/// fail by [`CallError::App`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Infallible> {
    /// Applied, or read, and the service said no.
    #[error("the service says no: {0:?}")]
    App(E),
    /// Certainly not applied; calling again is safe. Every server that was sent a copy of the call has refused it, and drops the
    /// copy where the network delivers it once more, however late. Not covered, as no protocol without synchronised clocks can:
    /// a datagram that the network holds back until the server that refused it has started anew.
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
    Unknown {
        /// The call's name. Called again under it, by [`Call::call_id`](super::Call::call_id) and with the same arguments,
        /// the call is applied once at most, and tells what came of it for as long as the cluster remembers. `None` for
        /// calls without a session.
        call_id: Option<CallId>,
    },
    /// Another cluster has taken the place of the one that this client belongs to, which has lost all that it held. No
    /// call of this client is answered any more.
    #[error("the cluster was replaced by another one")]
    ClusterReplaced,
    /// The reply is not of the type that the client expects: it was built for another revision of the service. A write
    /// has been applied.
    #[error("the reply cannot be decoded: client and service do not agree on the method's types")]
    BadReply,
    /// The handler failed on the server, for instance by a panic. Whether a write was applied is not known.
    #[error("the service failed while it handled the call")]
    Internal,
}

impl CallError {
    /// The same failure of a method that has errors of its own.
    pub fn widen<E>(self) -> CallError<E> {
        match self {
            CallError::App(never) => match never {},
            CallError::NotApplied(reason) => CallError::NotApplied(reason),
            CallError::NoQuorum { reachable, total, quorum } => CallError::NoQuorum { reachable, total, quorum },
            CallError::Unknown { call_id } => CallError::Unknown { call_id },
            CallError::ClusterReplaced => CallError::ClusterReplaced,
            CallError::BadReply => CallError::BadReply,
            CallError::Internal => CallError::Internal,
        }
    }
}

/// The proof that a call was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// The arguments have no encoded form, such as a sequence of unknown length.
    #[error("the arguments cannot be encoded")]
    BadArguments,
    /// The client waits for as many calls as it may.
    #[error(transparent)]
    TooManyCalls(TooManyCalls),
    /// Every session has as many writes without an answer as it may, and none of them ended in time; or as many calls wait for
    /// that already.
    #[error("{0} writes are waiting for an answer, as many as the client's sessions allow")]
    SessionsFull(usize),
    /// Nothing left this machine: no packet buffer, or the socket's transmit queue stayed full.
    #[error("not sent: the transmit queue is full")]
    NotSent,
    /// In time, no server asked for the rest of a request of several packets, or none was found to send a write to.
    #[error("no server took the request")]
    NotTaken,
    /// The client was given no server to ask.
    #[error("no servers configured")]
    NoServers,
    /// The cluster has no member in this seat.
    #[error("the cluster has no member in slot {0}")]
    NoReplica(u8),
    /// The client's background thread has ended.
    #[error("the client's thread has ended")]
    Ended,
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
        Status::SessionExpired => Some(CallError::Unknown { call_id: None }),
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

/// Whether the server had no room for the call.
pub(super) fn is_busy(error: &CallError) -> bool {
    matches!(error, CallError::NotApplied(NotApplied::Refused(Refusal::Busy)))
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
        assert_eq!(error.widen::<u8>().to_string(), error.to_string());
    }

    /// An expired session may hide an applied write: reporting it as refused would let the caller apply it twice.
    #[test]
    fn an_expired_session_is_an_unknown_outcome() {
        let block = ResponseBlock { status: Status::SessionExpired, ..ResponseBlock::default() };
        let unknown = CallError::Unknown { call_id: None };
        assert_eq!(of_block(&block), Some(unknown));
        assert!(!is_passing(&unknown) && !is_passing(&CallError::Internal));
    }
}
