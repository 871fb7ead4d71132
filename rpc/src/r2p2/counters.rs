//! Why input was not used: one reason, one counter.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a datagram, or a message made of several, was not used.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The counter's name in status output and metrics: lower case, underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// A datagram under 8 bytes.
    TooShort = "too_short",
    /// A datagram over 1472 bytes.
    Oversized = "oversized",
    /// The first byte is not 0xCC.
    WrongMagic = "wrong_magic",
    /// The second byte is not 8.
    WrongHeaderSize = "wrong_header_size",
    /// An unassigned message type, 10 to 15.
    UnknownType = "unknown_type",
    /// A policy over 3.
    UnknownPolicy = "unknown_policy",
    /// Raft and peer types, 5 to 9, on a client's or a service's port.
    PeerType = "peer_type",
    /// A REQUEST that reached a client.
    RequestAtClient = "request_at_client",
    /// A FEEDBACK that reached something other than a router.
    FeedbackUnexpected = "feedback_unexpected",
    /// A FEEDBACK that is not 16 bytes long.
    FeedbackLength = "feedback_length",

    /// First and last packet in one, with a count other than 1.
    SingleCount = "single_count",
    /// A first packet that is not the last and announces fewer than 2 packets.
    CountTooSmall = "count_too_small",
    /// A first packet that announces more packets, or a later one of a higher index, than the limit.
    TooManyPackets = "too_many_packets",
    /// A packet that is not the first, of a request that is not pending.
    NoPendingMessage = "no_pending_message",
    /// An index of 0, or one not below the announced count.
    OrderOutOfRange = "order_out_of_range",
    /// An index that has already arrived.
    OrderRepeated = "order_repeated",
    /// The first packet of a message that is already pending.
    FirstRepeated = "first_repeated",
    /// The first packet of a multi-packet request that was completed or refused a moment ago.
    FirstReplayed = "first_replayed",
    /// The last-packet flag on a packet before the last.
    EarlyLast = "early_last",
    /// No last-packet flag on the last packet.
    MissingLast = "missing_last",
    /// The last packet's index and the announced count disagree.
    CountDiffers = "count_differs",

    /// The table of pending multi-packet messages is full.
    PendingMessages = "pending_messages",
    /// One source has as many pending multi-packet requests as it may.
    PendingPerSource = "pending_per_source",
    /// All pending messages together hold as many bytes as they may.
    PendingBytes = "pending_bytes",
    /// A request longer than `request_bytes`.
    RequestBytes = "request_bytes",
    /// A reply longer than `reply_bytes`.
    ReplyBytes = "reply_bytes",
    /// A message whose last fragment did not come in time.
    Expired = "expired",
    /// A pending multi-packet request that the server gave up, for instance when it lost leadership.
    Abandoned = "abandoned",

    /// A RESPONSE that no pending call waits for.
    ResponseWithoutCall = "response_without_call",
    /// A RESPONSE to an earlier call of the same request id.
    ResponseOfAnother = "response_of_another",
    /// A later packet of a RESPONSE with a block whose first packet has not come.
    ReplyUnopened = "reply_unopened",
    /// A RESPONSE to a multi-packet request that no server has asked the rest of.
    ResponseBeforeAck = "response_before_ack",
    /// A reply's fragment from another server than its first one.
    ReplySource = "reply_source",
    /// An ACK that no pending call waits for.
    AckWithoutCall = "ack_without_call",
    /// An ACK for a call of one packet.
    AckUnexpected = "ack_unexpected",
    /// A second ACK for one call.
    AckRepeated = "ack_repeated",
    /// A DROP that no pending call waits for.
    DropWithoutCall = "drop_without_call",
    /// An ACK or DROP that is not one packet of count 1.
    ControlShape = "control_shape",
    /// An ACK or DROP whose payload is not exactly its name.
    ControlBody = "control_body",

    /// The own-client flag without room for the block.
    BlockTooShort = "block_too_short",
    /// An own-client block of a version that we do not speak.
    BlockVersion = "block_version",
    /// A response block with an unknown status.
    BlockStatus = "block_status",
    /// A response without a block, to a call that was made with one.
    BlockMissing = "block_missing",

    /// A forwarded request under 16 bytes.
    ForwardTooShort = "forward_too_short",
    /// A forwarded request whose client address, port, policy or lengths cannot be true.
    ForwardMalformed = "forward_malformed",

    /// A method that the service does not have, or that clients may not call.
    UnknownMethod = "unknown_method",
    /// A policy that the method's mark does not allow.
    PolicyMismatch = "policy_mismatch",
    /// A block that asks for a consistency that the server does not know, or for one of a call that is no read.
    UnknownConsistency = "unknown_consistency",
    /// A replicated policy at a server that serves nothing replicated.
    NothingReplicated = "nothing_replicated",
    /// A replicated request while no leader is known.
    NoLeader = "no_leader",
    /// Refused because a queue of the server is full.
    Overloaded = "overloaded",
    /// A client in 127/8 at a follower whose leader is on another host: it could not be answered.
    LoopbackClient = "loopback_client",
    /// A copy of a request that was forwarded a moment ago.
    CopyForwarded = "copy_forwarded",
    /// A copy of a request that is being executed.
    CopyPending = "copy_pending",
    /// A copy of a session's call that has come before, or is too old for anybody to know.
    CopySeen = "copy_seen",
}

/// One `u64` for each [`DropReason`]. Incrementing costs one add; it never allocates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { counts: [0; DropReason::ALL.len()] }
    }
}

impl Counters {
    /// Adds one.
    pub fn record(&mut self, reason: DropReason) {
        self.counts[reason as usize] += 1;
    }

    /// How often `reason` was recorded.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts[reason as usize]
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every reason with its count, in the order of [`DropReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.counts)
    }

    /// Adds the counts of `other`, for a sum over sockets or shards.
    pub fn merge(&mut self, other: &Counters) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_indexes_match() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn a_record_raises_one_counter() {
        let mut counters = Counters::default();
        counters.record(DropReason::EarlyLast);
        assert_eq!(counters.total(), 1);
        assert_eq!(counters.get(DropReason::EarlyLast), 1);
        let mut sum = counters.clone();
        sum.merge(&counters);
        assert_eq!(sum.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(DropReason::EarlyLast, 2)]);
    }
}
