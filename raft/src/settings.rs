//! What a shard is told at its start: who it is, how patient, and how much it may hold.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::id::{Member, ShardId};
use crate::sabotage::Sabotage;

/// How often a leader is heard, and how long its silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between heartbeats of an idle leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower campaigns; a voter that heard its leader within it refuses others. The same on
    /// all members: leases rest on it.
    pub election_min: Duration,
    /// The longest; a leader that no quorum answers for this long steps down.
    pub election_max: Duration,
    /// A group of which nobody has wanted anything for so long goes quiet: its heartbeats become 25 times rarer, and its election
    /// timeouts 25 times longer, until somebody does. Zero: never.
    pub quiet_after: Duration,
}

impl Timing {
    /// Where nothing else is said: longer than what uses a service pauses, as a rule.
    pub const QUIET_AFTER: Duration = Duration::from_secs(10);
    /// For shared machines: 20 ms, 100 to 200 ms.
    pub const SHARED: Timing = Timing {
        heartbeat: Duration::from_millis(20),
        election_min: Duration::from_millis(100),
        election_max: Duration::from_millis(200),
        quiet_after: Timing::QUIET_AFTER,
    };
    /// For isolated cores: 0.5 ms, 3 to 6 ms.
    pub const US: Timing = Timing {
        heartbeat: Duration::from_micros(500),
        election_min: Duration::from_millis(3),
        election_max: Duration::from_millis(6),
        quiet_after: Timing::QUIET_AFTER,
    };
}

/// Budgets of a shard. Entries cost their body and 64 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The log in memory, and what is on a disk after the newest snapshot there, which a start reads back. Proposals beyond it are refused
    /// as overloaded; a follower accepts only what fits.
    pub log_bytes: u64,
    /// How far a member may lag behind a quorum, at most half of the log. For one that lags more for an election timeout the log keeps
    /// nothing, live or not: it costs a cursor, and returns by a snapshot and what follows.
    pub max_lag_bytes: u64,
    /// Entries proposed and not committed. Proposals beyond it are refused as overloaded.
    pub uncommitted_bytes: u64,
    /// The largest body of an entry, at most an eighth of the log. A larger proposal is refused as too large.
    pub entry_bytes: u32,
    /// The largest state that travels as a snapshot, and that is received. A larger one is refused as too large: a peer that
    /// needs it stays out.
    pub snapshot_bytes: u32,
    /// Entries sent to one peer and not acknowledged. The peer waits for acknowledgements; a single larger entry passes.
    pub window_bytes: u64,
    /// Appends sent to one peer and not acknowledged.
    pub window_messages: usize,
    /// Linearizable reads waiting for their round. Further ones are refused as overloaded.
    pub waiting_reads: u64,
    /// Reads waiting for this replica to apply what they must see. Further ones are refused as overloaded.
    pub waiting_applies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            log_bytes: 256 << 20,
            max_lag_bytes: 128 << 20,
            uncommitted_bytes: 32 << 20,
            entry_bytes: 1 << 20,
            snapshot_bytes: 256 << 20,
            window_bytes: 1 << 20,
            window_messages: 64,
            waiting_reads: 65_536,
            waiting_applies: 4096,
        }
    }
}

/// How reads are answered; see [`crate::Shard::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadSettings {
    /// Whether this node, when it leads, may answer from its state without asking anyone while its lease lasts. Rests on the
    /// clocks' rates: a clock that stands still (a virtual machine that is suspended, say) breaks it. Off by default.
    pub lease: bool,
    /// How much any member's clock may run faster or slower than true time, in millionths. Shortens leases and lengthens ages.
    pub clock_drift_ppm: u32,
    /// How long a read waits for this replica to apply what it must see.
    pub patience: Duration,
}

impl Default for ReadSettings {
    /// No leases, a thousandth of drift, a second.
    fn default() -> Self {
        ReadSettings { lease: false, clock_drift_ppm: 1000, patience: Duration::from_secs(1) }
    }
}

/// What a shard is built from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShardConfig {
    /// This node: its identity with a fresh incarnation, and its addresses.
    pub me: Member,
    /// Which of the cluster's groups this is; messages of another are dropped and counted.
    pub shard: ShardId,
    /// How patient.
    pub timing: Timing,
    /// How much is held.
    pub limits: Limits,
    /// How reads are answered.
    pub reads: ReadSettings,
    /// Where election jitter starts, and what tells the runs of this node apart: nodes must differ in it, and the starts of one.
    pub seed: u64,
    /// Peer addresses that a node without state asks to be taken in; may contain its own. Empty: it only waits.
    pub contacts: Vec<SocketAddrV4>,
    /// Whether a leader replaces a silent voter by a new life of its seat that asks to be taken in.
    pub heals: bool,
    /// Whether a leader has a follower send the snapshots that others need, where one is fit, and only else sends its own.
    pub donors: bool,
    /// How long a leader with nothing else to send keeps the news of a commit to itself. The next entries usually carry it, and a
    /// follower that is not woken for it leaves the processor to others. Zero: it is told at once.
    pub commit_notice: Duration,
    /// Rules broken on purpose; empty without the feature `sabotage`.
    pub sabotage: Sabotage,
}

impl ShardConfig {
    /// Group 0 with the `shared` timing, default limits, and no contacts.
    pub fn new(me: Member, seed: u64) -> Self {
        ShardConfig {
            me,
            shard: ShardId::default(),
            timing: Timing::SHARED,
            limits: Limits::default(),
            reads: ReadSettings::default(),
            seed,
            contacts: Vec::new(),
            heals: true,
            donors: true,
            commit_notice: Duration::ZERO,
            sabotage: Sabotage::default(),
        }
    }
}
