//! What a shard says of itself: plain data, copied out.

use crate::config::Configuration;
use crate::error::DropReason;
use crate::id::{ClusterId, LogIndex, Member, Nanos, NodeId, Term};
use crate::log::Log;
use crate::machine::{Machine, PeerState, Role};
use crate::message::Verdict;
use crate::quorum::majority;

/// One replica's view, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its cluster, once it has one.
    pub cluster: Option<ClusterId>,
    /// What it is.
    pub role: Role,
    /// The newest term it has seen.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<Member>,
    /// Entries up to here are committed.
    pub commit: LogIndex,
    /// Entries up to here are applied.
    pub applied: LogIndex,
    /// Where this node's state was found to be in the minority, or without a majority: it serves nothing any more.
    pub fenced: Option<LogIndex>,
    /// Whether its apply task has stopped: it votes and acknowledges, and applies nothing after `applied`.
    pub stopped: bool,
    /// Its disk has lost entries up to this one, which it may have acknowledged, and peers have not sent all of them again.
    pub damaged: Option<LogIndex>,
    /// Its disk takes nothing but what moves the group on: proposals are refused.
    pub storage_full: bool,
    /// A leader's state is too large to travel: it has at least so many bytes, and who needs a snapshot stays out.
    pub outgrown_bytes: Option<u64>,
    /// The first entry held in memory.
    pub first: LogIndex,
    /// The last entry.
    pub last: LogIndex,
    /// Bytes of the entries held.
    pub log_bytes: u64,
    /// The configuration in force.
    pub configuration: Configuration,
    /// The other members; progress is known to a leader only.
    pub peers: Vec<PeerStatus>,
    /// Nodes without state that ask to be taken in.
    pub joiners: Vec<Member>,
    /// Whether a change of the members is under way.
    pub changing: bool,
    /// The voters to come that an operator's change waits for; a leader knows. One that stays silent for a minute is given up.
    pub change_waits_for: Vec<Member>,
    /// To whom this leader is handing leadership over.
    pub transferring: Option<NodeId>,
    /// Voters heard lately, this node included if it votes.
    pub reachable: usize,
    /// Voters in all.
    pub total: usize,
    /// Voters needed.
    pub quorum: usize,
    /// Counts since the start.
    pub counters: Counters,
}

/// What is known of one other member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who and where.
    pub member: Member,
    /// How entries go to it; [`PeerState::OutOfReach`] says that it needs entries no longer held, and no snapshot is on its way.
    pub state: PeerState,
    /// Durable and verified there.
    pub matched: LogIndex,
    /// Applied there.
    pub applied: LogIndex,
    /// Its state digest at `applied`.
    pub digest: u64,
    /// Why its state is not used, as it says itself.
    pub fenced: Option<Verdict>,
    /// Whether it applies nothing more, as it says itself.
    pub stopped: bool,
    /// Bytes of a snapshot that it has, while it is being sent one.
    pub snapshot_bytes: Option<u32>,
    /// Nanoseconds since it last answered.
    pub silent_ns: Option<u64>,
    /// Smoothed round trip in nanoseconds, 0 before the first.
    pub rtt_ns: u64,
}

/// Counts since the start; they only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages taken in.
    pub received: u64,
    /// Datagrams handed to the transport.
    pub sent: u64,
    /// Datagrams the transport had no room for.
    pub unsent: u64,
    /// Entries proposed here.
    pub proposed: u64,
    /// Proposals and reads refused as overloaded.
    pub overloaded: u64,
    /// Changes of role, term or leader.
    pub leadership_changes: u64,
    /// Snapshots received whole and handed to the apply task.
    pub snapshots_installed: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Messages dropped for this reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(crate) fn drop_one(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

impl Status {
    pub(crate) fn of(machine: &Machine, log: &Log, counters: Counters) -> Status {
        let now = machine.now();
        let configuration = machine.configuration().clone();
        let peers = machine.peers().iter().map(|peer| PeerStatus {
            member: peer.member,
            state: peer.state,
            matched: peer.matched,
            applied: peer.applied,
            digest: peer.digest,
            fenced: peer.fenced,
            stopped: peer.stopped,
            snapshot_bytes: peer.snapshot_bytes(),
            silent_ns: peer.heard.map(|at: Nanos| now.since(at)),
            rtt_ns: peer.rtt_ns(),
        });
        Status {
            id: machine.me().id,
            cluster: machine.cluster(),
            role: machine.role(),
            term: machine.term(),
            leader: machine.leader(),
            commit: machine.commit(),
            applied: machine.applied_index(),
            fenced: machine.fenced(),
            stopped: machine.has_stopped(),
            damaged: machine.damage().map(|(_, index)| index),
            storage_full: machine.is_full(),
            outgrown_bytes: machine.outgrown_bytes(),
            first: log.first(),
            last: log.last(),
            log_bytes: log.bytes(),
            peers: peers.collect(),
            joiners: machine.joiners().copied().collect(),
            changing: machine.is_changing(),
            change_waits_for: machine.change_waits_for(log).collect(),
            transferring: machine.transferring(),
            reachable: machine.reachable(),
            total: configuration.voters.len(),
            quorum: majority(configuration.voters.len()),
            configuration,
            counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_by_their_reason() {
        let mut counters = Counters::default();
        counters.drop_one(DropReason::Malformed);
        counters.drop_one(DropReason::Malformed);
        counters.drop_one(DropReason::StaleTerm);
        let counts =
            [DropReason::Malformed, DropReason::StaleTerm, DropReason::TooLarge].map(|why| counters.dropped(why));
        assert_eq!(counts, [2, 1, 0]);
    }
}
