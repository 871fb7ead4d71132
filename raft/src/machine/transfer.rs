//! Leadership changes hands: on request while all is well, or because this node has to stop.
//!
//! On request the leader goes on leading. It takes no proposals, so that its log comes to rest; once the heir holds all of it,
//! the leader tells it to stand for election at once, again with each heartbeat. The heir's question says that it was told
//! to, and voters that hear their leader answer it all the same. Reads with a round stay right throughout; whatever a leader
//! may assume without asking ends with the first such message, for the rest of the term, since nobody knows when it arrives.
//! All of it is forgotten when the leader steps down, and after the longest election timeout: the leader then goes on.
//!
//! A leader that has to stop steps down first and tells everybody; the best of them, if the leader's judgement is worth
//! anything, is told to stand at once, and the others wait for it a moment.

use std::cmp::Reverse;

use super::{Action, Machine, Outgoing, Peer, ReplyKind, Role};
use crate::error::{DropReason, Error, Unfit};
use crate::id::{Nanos, NodeId};
use crate::log::Log;
use crate::message::Envelope;
use crate::sabotage::Fault;

/// A transfer under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Handover {
    to: NodeId,
    /// Given up then.
    pub(super) until: Nanos,
    /// The heir is to be told once it holds the whole log.
    due: bool,
}

impl Machine {
    /// To whom this leader is handing leadership over.
    pub fn transferring(&self) -> Option<NodeId> {
        self.handover.map(|handover| handover.to)
    }

    pub(super) fn transfer(&mut self, to: Option<NodeId>, log: &Log) -> Result<(), Error> {
        if self.role != Role::Leader {
            return Err(self.not_leader());
        }
        if let Some(to) = self.transferring() {
            return Err(Error::TransferInProgress { to });
        }
        let to = match to {
            Some(node) => match self.unfit(node, log) {
                Some(reason) => return Err(Error::CannotLead { node, reason }),
                None => node,
            },
            None => self.heir(|peer| self.unfit(peer.id(), log).is_none()).ok_or(Error::NobodyToLead)?,
        };
        self.handover = Some(Handover { to, until: self.now.after(self.settings.election_max_ns), due: true });
        Ok(())
    }

    /// Why this node could not win, or should not.
    fn unfit(&self, id: NodeId, log: &Log) -> Option<Unfit> {
        if id == self.settings.me.id {
            return Some(Unfit::Leads);
        }
        let voter = self.configuration().voters.iter().any(|voter| voter.id == id);
        let Some(peer) = self.peer(id).filter(|_| voter) else { return Some(Unfit::NotVoter) };
        if self.is_silent(id) {
            return Some(Unfit::Silent);
        }
        if peer.stopped || peer.fenced.is_some() {
            return Some(Unfit::DoesNotApply);
        }
        (!self.has_caught_up(id, log)).then_some(Unfit::Behind)
    }

    /// Of the voters that are heard and approved, the one with most of the log, and the nearest of those.
    fn heir(&self, fit: impl Fn(&Peer) -> bool) -> Option<NodeId> {
        let votes = |peer: &&Peer| self.configuration().voters.iter().any(|voter| voter.id == peer.id());
        let heirs = self.peers.iter().filter(votes).filter(|peer| !self.is_silent(peer.id()) && fit(peer));
        heirs.max_by_key(|peer| (peer.matched, peer.applied, Reverse(peer.rtt_ns()), peer.id())).map(Peer::id)
    }

    /// The heir may not have heard.
    pub(super) fn repeat_handover(&mut self) {
        self.handover.iter_mut().for_each(|handover| handover.due = true);
    }

    pub(super) fn end_handover(&mut self) {
        self.handover = self.handover.filter(|handover| self.now < handover.until);
    }

    /// Tells the heir as soon as it holds what this leader holds. Nothing is appended meanwhile.
    pub(super) fn flush_handover(&mut self, log: &Log, out: &mut Vec<Action>) {
        let Some(handover) = self.handover.filter(|handover| handover.due) else { return };
        let heir = self.peer(handover.to).filter(|peer| peer.matched == log.last()).map(|peer| peer.member);
        if let Some(member) = heir {
            self.told_to_stand = true;
            self.handover = Some(Handover { due: false, ..handover });
            out.push(Action::Send(member, self.hard.term, Outgoing::TimeoutNow));
        }
    }

    /// Believed only from the leader of this very term, and followed only by one that could lead.
    pub(super) fn on_timeout_now(&mut self, header: &Envelope, log: &mut Log) -> Result<(), DropReason> {
        self.check_from_leader(header)?;
        let votes = self.history.may_need(self.settings.me.id, self.commit);
        let unfit = self.failed || self.stalled || self.stopped || self.damage.is_some();
        if !votes || unfit || self.fenced.is_some() {
            return Err(DropReason::Unexpected);
        }
        self.no_vote_before = Nanos::ZERO;
        self.stood_in = self.hard.term.next();
        self.campaign(log);
        Ok(())
    }

    /// This node stops: its peers may elect at once. Reads have failed before the notice leaves.
    pub(super) fn farewell(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        // One whose own state is wrong does not know whose is right.
        let trusted = self.fenced.is_none();
        let heir = self.heir(|peer| trusted && !peer.stopped && peer.fenced.is_none());
        for at in 0..self.peers.len() {
            let member = self.peers[at].member;
            let kind = if heir == Some(member.id) { ReplyKind::TimeoutNow } else { ReplyKind::Farewell };
            // A full list loses a courtesy, not a promise: the peers' timers elect.
            let _ = self.owe(member, kind);
        }
        if !self.sabotaged(Fault::LeadAfterFarewell) {
            self.stand_down();
        }
    }

    /// Believed only from the leader of this very term.
    pub(super) fn on_farewell(&mut self, header: &Envelope) -> Result<(), DropReason> {
        self.check_from_leader(header)?;
        self.fail_reads();
        self.leader = None;
        self.leader_heard = None;
        self.no_vote_before = Nanos::ZERO;
        if self.stopped {
            self.reset_election_timer();
        } else {
            let jitter = self.random_below(self.settings.heartbeat_ns);
            self.election_at = self.now.after(jitter);
        }
        Ok(())
    }

    fn check_from_leader(&self, header: &Envelope) -> Result<(), DropReason> {
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        let known = self.leader == Some(header.from) || self.sabotaged(Fault::BelieveAnyFarewell);
        if header.term > self.hard.term || !known {
            return Err(DropReason::Unexpected);
        }
        Ok(())
    }

    /// A leader that has stopped gives leadership up as soon as a voter is there that can take it and make use of it.
    pub(super) fn leave_if_stopped(&mut self, log: &Log) {
        if !self.stopped || self.role != Role::Leader {
            return;
        }
        let serves = |peer: &Peer| !peer.stopped && peer.fenced.is_none() && peer.applied > self.applied;
        if self.heir(|peer| serves(peer) && peer.matched == log.last()).is_some() {
            self.farewell();
        }
    }
}
