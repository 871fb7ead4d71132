//! How messages leave and arrive; rpc implements it over the peer socket.

use std::net::SocketAddrV4;
use std::task::{Context, Poll};

use crate::id::Member;

/// Carries peer messages as single datagrams, unreliably. Must not call back into the shard.
pub trait Transport {
    /// Bytes of the largest message that travels whole.
    fn payload_bytes(&self) -> usize;

    /// Has `write` fill a buffer of [`Transport::payload_bytes`] for the member's peer address and sends as many bytes as
    /// it returns; 0 sends nothing. Returns false when there is no buffer or the queue is full: `write` may not have run,
    /// the message is lost, and Raft's own timers heal it.
    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool;

    /// Hands every queued message, at most a burst, to `deliver` with its sender's address. Ready when there was at least
    /// one; else the task is woken by the next.
    fn poll_recv(&mut self, cx: &mut Context<'_>, deliver: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()>;
}
