//! The names of things: who, which group, which term, which place in the log, when.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

/// A seat in the cluster, 1 to 9, given by the operator. It outlives the machine that sits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slot(pub u8);

/// Drawn at random at each boot without a disk, so that a node that forgot is not taken for the one that promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

/// Who a node is. Votes and acknowledgements count by exact equality of both parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId {
    /// The seat.
    pub slot: Slot,
    /// Which life of that seat.
    pub incarnation: Incarnation,
}

impl NodeId {
    /// The node in seat `slot` with random number `incarnation`.
    pub const fn new(slot: u8, incarnation: u64) -> Self {
        NodeId { slot: Slot(slot), incarnation: Incarnation(incarnation) }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{:x}", self.slot.0, self.incarnation.0)
    }
}

/// The 128-bit name of a cluster, minted when it is formed and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One of the independent replicated logs of a cluster; equal to the core it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub u16);

/// A Raft term. 0 is before the first election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term after this one; stays at the largest, where no election can be won any more.
    pub const fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

/// A place in the log. The first entry is at 1; 0 means "before every entry".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// Before every entry.
    pub const ZERO: LogIndex = LogIndex(0);

    /// The place after this one.
    pub const fn next(self) -> LogIndex {
        LogIndex(self.0.saturating_add(1))
    }

    /// The place before this one; 0 stays 0.
    pub const fn prev(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A time of the machine's own monotonic clock, in nanoseconds. Never compared between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The clock's origin.
    pub const ZERO: Nanos = Nanos(0);
    /// Later than anything that is ever waited for.
    pub const FAR: Nanos = Nanos(u64::MAX);

    /// This time plus `nanos` nanoseconds, at most [`Nanos::FAR`].
    pub const fn after(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanos))
    }

    /// This time less `nanos` nanoseconds, unless the clock had not begun then.
    pub(crate) fn before(self, nanos: u64) -> Option<Nanos> {
        self.0.checked_sub(nanos).map(Nanos)
    }

    /// Nanoseconds since `earlier`, 0 where `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds of a duration, saturating after 584 years.
pub(crate) fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A node with its addresses, as the configuration entry carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Where its clients send requests.
    pub client: SocketAddrV4,
    /// Where its peers send Raft messages.
    pub peer: SocketAddrV4,
}

impl Member {
    /// Whether `other` sits in the same seat as another incarnation.
    pub(crate) fn is_earlier_life_of(&self, other: &Member) -> bool {
        self.id.slot == other.id.slot && self.id.incarnation != other.id.incarnation
    }
}
