//! Counters of one node's request path. A drop on this path is a count, never an error.

use crate::r2p2::counters::{Counters, DropReason};
use std::cell::{Cell, RefCell};

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What can happen to a request or a peer datagram besides being answered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event { $($(#[$doc])* $variant,)+ }

        impl Event {
            /// Every event, in the order of the counters.
            pub const ALL: &'static [Event] = &[$(Event::$variant,)+];

            /// The counter's name in status output.
            pub const fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)+ }
            }
        }
    };
}

events! {
    /// A replicated request was appended to the leader's log.
    Proposed = "proposed",
    /// A follower sent a request on to the leader.
    Forwarded = "forwarded",
    /// The peer socket had no buffer or a full queue; the request was not sent on.
    ForwardUnsent = "forward_unsent",
    /// A request sent on by a follower reached a node that does not lead.
    ForwardedAgain = "forwarded_again",
    /// A request sent on by a follower could not be appended; its client hears nothing.
    ForwardedRefused = "forwarded_refused",
    /// Half a request sent on in two parts waited too long or found no place for the other half.
    ForwardHalfLost = "forward_half_lost",
    /// A peer datagram that does not parse, or comes from another cluster, or is meant for an earlier life of this node.
    PeerDatagramBad = "peer_datagram_bad",
    /// The queue of forwarded requests is full; the request is lost and its client's deadline decides.
    ForwardQueueFull = "forward_queue_full",
    /// Refused with DROP, or with a block for our own clients.
    Refused = "refused",
    /// A query or a local handler panicked.
    HandlerPanicked = "handler_panicked",
    /// An effect panicked or took too long; it is tried again.
    EffectFailed = "effect_failed",
    /// An effect that this build does not know stays in the outbox.
    EffectUnknown = "effect_unknown",
    /// A local handler did not end in time; its client hears nothing.
    LocalTooLong = "local_too_long",
    /// No buffer or queue space was left for an answer; the client's deadline decides.
    AnswerUnsent = "answer_unsent",
    /// A request named a session of another cluster.
    ForeignSession = "foreign_session",
    /// A reply longer than R2P2 can carry was withheld.
    AnswerTooLarge = "answer_too_large",
    /// A linearizable read was answered after a round to a quorum, or this node's leader has asked for one.
    ReadLinearizable = "read_linearizable",
    /// A linearizable read was answered under this leader's lease.
    ReadUnderLease = "read_under_lease",
    /// A read of at least an index was answered.
    ReadAtLeast = "read_at_least",
    /// A read of a bounded age was answered.
    ReadStale = "read_stale",
    /// A read of whatever this node has was answered.
    ReadAny = "read_any",
    /// What this node knew was older than a read allowed.
    ReadTooStale = "read_too_stale",
    /// This node had not applied in time what a read must see.
    ReadNotYet = "read_not_yet",
    /// A lease ended before an answer under it could leave.
    ReadLeaseEnded = "read_lease_ended",
}

/// One counter per [`Event`], and one per reason for which a complete request was not used. Written by one core only.
#[derive(Debug, Default)]
pub struct ServerCounters {
    counts: [Cell<u64>; Event::ALL.len()],
    drops: RefCell<Counters>,
}

impl ServerCounters {
    /// Counts one event.
    pub fn count(&self, event: Event) {
        let cell = &self.counts[event as usize];
        cell.set(cell.get() + 1);
    }

    /// Counts a request that was not used.
    pub fn drop_for(&self, reason: DropReason) {
        self.drops.borrow_mut().record(reason);
    }

    /// How many requests were not used for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.borrow().get(reason)
    }

    /// The drop counters, to be added to those of the wire.
    pub fn add_drops_to(&self, total: &mut Counters) {
        total.merge(&self.drops.borrow());
    }

    /// How often the event has happened.
    pub fn get(&self, event: Event) -> u64 {
        self.counts[event as usize].get()
    }

    /// Every event's counter with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Event::ALL.iter().map(|&event| (event.name(), self.get(event)))
    }
}
