//! Deliberate faults, compiled in by the feature `sabotage` only: each breaks one rule that the invariants must defend.
//!
//! A test suite that passes with one of these switched on proves nothing.

/// A rule that can be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fault {
    /// Half of the voters count as a majority.
    HalfIsMajority,
    /// A second candidate of the same term gets a vote too.
    VoteTwice,
    /// A candidate with a shorter log gets votes.
    VoteForStaleLog,
    /// Entries of earlier terms are committed by counting.
    CommitOldTerm,
    /// A follower acknowledges its whole log, verified with this leader or not.
    AcknowledgeUnverified,
    /// A follower takes the leader's commit index as it is.
    CommitUnclamped,
    /// A linearizable read is released without asking anyone.
    ReadWithoutRound,
    /// An append is accepted whatever comes before it.
    SkipPreviousCheck,
    /// `persisted` counts whatever the log holds now.
    PersistedByIndexOnly,
    /// An acknowledgement counts before it is durable.
    AcknowledgeVolatile,
    /// States are not compared.
    IgnoreDigests,
    /// Chunks of two snapshots of one index are put together, and the result is believed.
    MixSnapshots,
    /// A joint configuration is left before it is committed.
    LeaveJointEarly,
    /// The newest acknowledgements answer a read, whatever round they echo.
    AckAnswersRead,
    /// A leader answers reads before it has committed an entry of its term.
    ReadBeforeCommit,
    /// An answer to a question of an earlier run releases reads.
    AnswerOfAnyRun,
    /// A lease runs from the arrival of an echo.
    LeaseFromAnswer,
    /// A lease goes on while leadership is handed over.
    LeaseInTransfer,
    /// A node votes as soon as it has started.
    VoteAfterStart,
    /// A node that has heard a leader votes for another once it has seen a newer term.
    VoteAfterNewTerm,
    /// What an append says of its age counts from its arrival.
    AgeFromArrival,
    /// A voter that is heard is replaced by another life of its seat.
    ReplaceTheLiving,
    /// Messages from outside the own configuration are dropped.
    ShutStrangersOut,
    /// A leader takes a joint configuration back that it inherited.
    InheritorCancels,
    /// Anyone's farewell is believed.
    BelieveAnyFarewell,
    /// No room is kept for what a leader cannot do without.
    NoReservedRoom,
    /// What is on the disk after its newest snapshot grows beyond what memory holds.
    UnboundedUnsaved,
    /// Whether an entry has room is asked before what it replaces is gone.
    RoomBeforeTruncation,
    /// A replica whose state is wrong stands for election.
    FencedStands,
    /// What was lost is sent again with the next heartbeat only.
    ResendAtHeartbeat,
    /// A record counts as soon as it is begun.
    AcknowledgeBeforeWritten,
    /// Names of files are relied on before they last.
    SkipDirectorySync,
    /// Damage in the middle of a log is cut off as if a crash had torn its tail.
    DamageAsTornTail,
    /// A message for an earlier life of this node is taken for this one, and counted by slot.
    IgnoreIncarnation,
    /// An answer leaves without a look at the lease, the age and the state that it depends on.
    ReleaseUnchecked,
    /// A read looks at the state before that has come far enough.
    ReadUnapplied,
    /// A leader whose log device has stalled falls silent for its heartbeats only.
    StalledRounds,
    /// Messages of another cluster are taken in.
    IgnoreCluster,
    /// A leader takes a joint configuration of its own back that is committed.
    CancelCommitted,
    /// An answer releases reads too whose question is later than the one it answers.
    AnswerReleasesLater,
    /// A leader whose state is in the minority goes on leading.
    MinorityLeads,
    /// Whoever sends a part of a snapshot is taken for the leader.
    ChunkFromLeader,
    /// A leader that has said farewell goes on leading.
    LeadAfterFarewell,
    /// Entries that a leader cannot do without wait for credit as others do.
    CreditBindsReserved,
    /// Who has no room is not probed.
    CreditBindsProbes,
    /// Where no state has a majority, all go on.
    GoOnWithoutMajority,
    /// A state without a majority counts as outvoted by one.
    NobodyOutvotes,
    /// A replica whose state is wrong asks its leader for reads.
    FencedReads,
    /// A replica whose state is wrong takes another's.
    FencedTakesSnapshots,
    /// A replica whose state is wrong goes on giving it out.
    FencedGivesOut,
    /// A replica whose state is wrong acknowledges nothing.
    FencedAcknowledgesNot,
    /// A replica whose state is wrong gives no vote.
    FencedVotesNot,
    /// A disk says that it is full once nothing is left of it.
    NoDiskReserve,
    /// What records say of a log's lost part is not heard.
    ForgetFence,
    /// What a crash has torn off the tail of a log counts as damage.
    TornTailAsDamage,
    /// What was verified before a snapshot was installed is all that is verified after it.
    VerifiedAcrossInstall,
    /// What was durable of the log that a snapshot replaces counts for the one after it.
    DurableAcrossInstall,
    /// A buffered log that is opened again acknowledges while its disk may still say that it was closed.
    AcknowledgeWhileClean,
    /// A buffered log acknowledges without telling its witness.
    SkipWitness,
    /// A log is resumed that does not reach its witness.
    IgnoreWitness,
    /// A buffered log that was not closed is resumed in another run of the machine.
    ResumeUnclean,
    /// An effect is called done when it is begun.
    DoneWhenBegun,
    /// A leader carries out the effects of its own term only.
    OwnEffectsOnly,
    /// A table of sessions that is full closes one in use for a new one.
    EvictTheLive,
}

/// The set of rules broken; always empty without the feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sabotage {
    #[cfg(feature = "sabotage")]
    faults: u128,
}

impl Sabotage {
    /// Breaks nothing.
    pub const NONE: Sabotage = Sabotage {
        #[cfg(feature = "sabotage")]
        faults: 0,
    };

    /// Breaks exactly `fault`.
    #[cfg(feature = "sabotage")]
    pub const fn only(fault: Fault) -> Self {
        Sabotage { faults: 1 << fault as u128 }
    }

    /// Whether `fault` is switched on.
    #[cfg(feature = "sabotage")]
    pub const fn has(self, fault: Fault) -> bool {
        self.faults & (1 << fault as u128) != 0
    }

    /// Without the feature nothing is ever broken.
    #[cfg(not(feature = "sabotage"))]
    pub const fn has(self, _fault: Fault) -> bool {
        false
    }
}
