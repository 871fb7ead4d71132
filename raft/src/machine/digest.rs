//! Comparing states: acknowledgements carry the digest after the newest applied entry, and replicas that applied the same
//! log must have the same one.
//!
//! A digest is a chain over all entries before, so two replicas that differ at an index differ at every later one, and two
//! that agree at an index agreed at every earlier one. That is why one difference and one agreement for each peer are all
//! the leader keeps. It decides by a majority of the voters, itself included: who differs from it is fenced; where it is
//! itself not among a majority, or none can be found in time, it is fenced and hands over, and the next leader compares anew.
//! Pairs are facts about committed entries: a repeated or late acknowledgement brings an old fact, never a false one.

use std::collections::VecDeque;

use super::{Action, Machine, Outgoing, ReplyKind, Role};
use crate::error::DropReason;
use crate::id::{LogIndex, Nanos, NodeId};
use crate::message::{Ack, Envelope, Fence, Verdict};
use crate::quorum::{self, VoteResult};
use crate::sabotage::Fault;

/// Pairs of this node's own that are kept. About an older index nothing is said.
const TRAIL: usize = 4096;
/// Pairs of a peer that has applied more than this node, kept until this node gets there. More are dropped: the next one
/// says as much.
const AHEAD: usize = 32;

/// What a state was after an entry. Digest 0 means that it is not known.
type Pair = (LogIndex, u64);

/// The newest pairs of this node's own state, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Trail {
    pairs: VecDeque<Pair>,
}

impl Trail {
    /// Adds the pair after all others. Allocates until the trail is full, then no more.
    pub(super) fn push(&mut self, index: LogIndex, digest: u64) {
        if digest == 0 || self.pairs.back().is_some_and(|newest| newest.0 >= index) {
            return;
        }
        if self.pairs.len() == TRAIL {
            self.pairs.pop_front();
        }
        self.pairs.push_back((index, digest));
    }

    /// The digest after exactly this entry, if it is kept.
    pub(super) fn digest_at(&self, index: LogIndex) -> Option<u64> {
        let first = self.pairs.front()?.0;
        // Where every entry was reported, its place is known.
        let guess = self.pairs.get(usize::try_from(index.0.checked_sub(first.0)?).ok()?);
        if let Some(pair) = guess.filter(|pair| pair.0 == index) {
            return Some(pair.1);
        }
        let at = self.pairs.binary_search_by_key(&index, |pair| pair.0).ok()?;
        Some(self.pairs[at].1)
    }
}

/// Where a peer's state is known to differ from this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Difference {
    /// The first index at which it was seen.
    first: LogIndex,
    /// The newest one, and this node's digest there.
    newest: Pair,
    since: Nanos,
}

/// What a leader knows of a peer's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Compared {
    ahead: VecDeque<Pair>,
    /// Equal up to here.
    agreed: LogIndex,
    differs: Option<Difference>,
    /// To be told so, until it says that it knows.
    fence_due: Option<Verdict>,
}

impl Compared {
    /// Whether the peer's state is known to be another than this node's.
    pub(super) fn differs(&self) -> bool {
        self.differs.is_some()
    }
}

impl Machine {
    /// Where this node's state was found to differ from a majority's, or from so many that no majority is left. It then
    /// neither leads nor reads nor hands its state out; it goes on voting and acknowledging.
    pub fn fenced(&self) -> Option<LogIndex> {
        self.fenced.map(|(index, _)| index)
    }

    /// Where a majority's state is known to be another than this node's: only theirs is of any use. None where nobody can say who is right.
    pub fn outvoted(&self) -> Option<LogIndex> {
        let any = self.sabotaged(Fault::NobodyOutvotes);
        self.fenced.filter(|(_, verdict)| *verdict == Verdict::Minority || any).map(|(index, _)| index)
    }

    /// This node's digest after exactly this entry, if that is among the newest it applied.
    pub fn digest_at(&self, index: LogIndex) -> Option<u64> {
        self.trail.digest_at(index)
    }

    /// A peer of this leader's says what its state is.
    pub(super) fn on_digest(&mut self, from: NodeId, ack: &Ack) {
        let applied = self.applied;
        let Some(at) = self.peers.iter().position(|peer| peer.id() == from) else { return };
        let peer = &mut self.peers[at];
        peer.fenced = peer.fenced.max(ack.fenced);
        if ack.digest == 0 {
            return;
        }
        if ack.applied <= applied {
            self.compare(at, (ack.applied, ack.digest));
            self.judge();
        } else {
            let ahead = &mut peer.compared.ahead;
            if ahead.len() < AHEAD && ahead.back().is_none_or(|newest| newest.0 < ack.applied) {
                ahead.push_back((ack.applied, ack.digest));
            }
        }
    }

    /// This leader has applied more: peers that were ahead can be compared.
    pub(super) fn compare_ahead(&mut self) {
        let applied = self.applied;
        let mut compared = false;
        for at in 0..self.peers.len() {
            while let Some(pair) = self.peers[at].compared.ahead.front().copied().filter(|pair| pair.0 <= applied) {
                self.peers[at].compared.ahead.pop_front();
                self.compare(at, pair);
                compared = true;
            }
        }
        if compared {
            self.judge();
        }
    }

    fn compare(&mut self, at: usize, (index, digest): Pair) {
        let Some(mine) = self.trail.digest_at(index) else { return };
        if self.sabotaged(Fault::IgnoreDigests) {
            return;
        }
        let compared = &mut self.peers[at].compared;
        if mine == digest {
            compared.agreed = compared.agreed.max(index);
        } else if let Some(differs) = &mut compared.differs {
            differs.first = differs.first.min(index);
            differs.newest = differs.newest.max((index, mine));
        } else {
            compared.differs = Some(Difference { first: index, newest: (index, mine), since: self.now });
        }
    }

    /// Decides about every peer that differs, as far as the others have said enough.
    pub(super) fn judge(&mut self) {
        for at in 0..self.peers.len() {
            let Some(differs) = self.peers[at].compared.differs else { continue };
            let known = self.peers[at].fenced;
            // A voter that has said nothing for so long is not waited for.
            let patience_ns = self.patience_with_silence_ns();
            match quorum::votes(self.configuration(), |id| self.agrees(id, differs.first)) {
                VoteResult::Lost | VoteResult::Pending if self.sabotaged(Fault::GoOnWithoutMajority) => {}
                VoteResult::Won if known != Some(Verdict::Minority) => {
                    self.peers[at].compared.fence_due = Some(Verdict::Minority);
                }
                VoteResult::Lost => return self.fence(differs.first, Verdict::NoMajority),
                // About one that a majority has already outvoted there is nothing left to find out.
                VoteResult::Pending
                    if self.now.since(differs.since) >= patience_ns && known != Some(Verdict::Minority) =>
                {
                    return self.halt_all(differs.first);
                }
                VoteResult::Won | VoteResult::Pending => {}
            }
        }
    }

    /// With no majority, this node and all that differ from it halt.
    fn halt_all(&mut self, at: LogIndex) {
        for peer in 0..self.peers.len() {
            if let Some(Difference { newest: (index, digest), .. }) = self.peers[peer].compared.differs {
                let fence = Fence { index, digest, verdict: Verdict::NoMajority };
                // Where the list is full or the message is lost, that one finds the same when it leads.
                let _ = self.owe(self.peers[peer].member, ReplyKind::Fence(fence));
            }
        }
        self.fence(at, Verdict::NoMajority);
    }

    /// Whether a voter's state is this leader's at `index`. One that agreed there and differs later will be judged by its own
    /// difference.
    fn agrees(&self, id: NodeId, index: LogIndex) -> Option<bool> {
        if id == self.settings.me.id {
            return Some(true);
        }
        let peer = self.peers.iter().find(|peer| peer.id() == id)?;
        if peer.compared.agreed >= index {
            return Some(true);
        }
        (peer.compared.differs.is_some() || peer.fenced.is_some()).then_some(false)
    }

    /// This node's state is not to be trusted from `index` on, at the latest.
    fn fence(&mut self, index: LogIndex, verdict: Verdict) {
        let known = self.fenced.map_or(verdict, |(_, known)| known.max(verdict));
        self.fenced = Some((self.fenced().unwrap_or(index), known));
        self.ack_due |= self.role == Role::Follower && self.leader.is_some();
        match self.role {
            Role::Leader if self.sabotaged(Fault::MinorityLeads) => {}
            Role::Leader => self.farewell(),
            Role::PreCandidate | Role::Candidate => self.stand_down(),
            Role::Follower | Role::Uninitialised | Role::Joining { .. } => {}
        }
    }

    /// The leader of this term says that this node's state is in the minority: believed where the digests indeed differ.
    pub(super) fn on_fence(&mut self, header: &Envelope, fence: Fence) -> Result<(), DropReason> {
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        if header.term > self.hard.term || self.leader != Some(header.from) {
            return Err(DropReason::Unexpected);
        }
        match self.trail.digest_at(fence.index) {
            Some(mine) if mine != fence.digest => {
                self.fence(fence.index, fence.verdict);
                Ok(())
            }
            Some(_) => Err(DropReason::Contradiction),
            None => Err(DropReason::Unexpected),
        }
    }

    /// Tells those that differ, in each flush in which something asks for it.
    pub(super) fn flush_fences(&mut self, out: &mut Vec<Action>) {
        let term = self.hard.term;
        for peer in &mut self.peers {
            let due = peer.compared.fence_due.take().filter(|verdict| peer.fenced < Some(*verdict));
            if let Some((Difference { newest: (index, digest), .. }, verdict)) = peer.compared.differs.zip(due) {
                let fence = Fence { index, digest, verdict };
                out.push(Action::Send(peer.member, term, Outgoing::Fence(fence)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trail_finds_what_it_keeps_whether_reported_one_by_one_or_not() {
        let mut trail = Trail::default();
        assert_eq!(trail.digest_at(LogIndex(1)), None);
        for index in (1..=10).chain((20..12_000).step_by(3)) {
            trail.push(LogIndex(index), index * 7);
            trail.push(LogIndex(index), 1);
        }
        assert_eq!(trail.digest_at(LogIndex(5)), Some(35));
        assert_eq!(trail.digest_at(LogIndex(23)), Some(161));
        assert_eq!(trail.digest_at(LogIndex(24)), None);
        for index in 12_000..20_000 {
            trail.push(LogIndex(index), index * 7);
        }
        assert_eq!((trail.pairs.len(), trail.digest_at(LogIndex(12_000))), (TRAIL, None));
        assert_eq!(trail.digest_at(LogIndex(19_999)), Some(19_999 * 7));
        assert_eq!(trail.digest_at(LogIndex(20_000)), None);
    }
}
