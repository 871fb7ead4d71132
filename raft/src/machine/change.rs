//! Changing who takes part: joint consensus, and the healing of seats whose node has lost its memory.
//!
//! A configuration counts from the moment it is appended. A change of voters goes through a joint configuration, in which
//! every count needs a majority of the old voters and one of the new; it is left only once it is committed under both, also
//! by a leader that inherited it. Everything here is derived anew at each tick and each commit from the newest configuration,
//! which must be committed before there is a next one: so one change is in flight, and a new leader goes on where the last
//! one was. Only the target of an operator's change is a leader's own, and forgotten with its leadership.

use super::{Machine, Peer, PeerState, Role};
use crate::config::{Configuration, LIST_MEMBERS};
use crate::entry::{EntryHeader, EntryKind};
use crate::error::Error;
use crate::id::{LogIndex, Member, Nanos, NodeId};
use crate::log::Log;
use crate::quorum::majority;
use crate::sabotage::Fault;

/// A node outside the configuration that asked to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Joiner {
    pub(super) member: Member,
    pub(super) heard: Nanos,
}

/// Where an operator's change is to lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Goal {
    target: Configuration,
    /// The learners from before, for a cancellation.
    learners: Vec<Member>,
}

impl Machine {
    /// Where the configuration in force stands in the log; committed or not.
    pub fn configuration_index(&self) -> LogIndex {
        self.history.newest_at()
    }

    /// Whether a change is under way: an operator's, or one that the log says is not complete.
    pub fn is_changing(&self) -> bool {
        self.goal.is_some() || self.configuration().is_joint() || self.history.newest_at() > self.commit
    }

    /// Begins a change to the voters and learners of `target`. New voters become learners first, and voters once they have
    /// caught up.
    pub(super) fn change_members(&mut self, target: &Configuration, log: &mut Log) -> Result<(), Error> {
        if self.role != Role::Leader {
            return Err(self.not_leader());
        }
        if let Some(to) = self.transferring() {
            return Err(Error::TransferInProgress { to });
        }
        if self.is_changing() || self.commit < self.term_start {
            return Err(Error::ChangeInProgress);
        }
        if !self.is_possible(target) {
            return Err(Error::BadConfiguration);
        }
        let mut target = target.clone();
        target.voters.sort_unstable_by_key(|member| member.id);
        let replaces =
            |new: &Member| self.configuration().voters.iter().find(|old| old.is_earlier_life_of(new)).copied();
        let alive = target.voters.iter().filter_map(replaces).find(|old| !self.is_silent(old.id));
        if let Some(voter) = alive {
            return Err(Error::StillAlive { voter });
        }
        let (voters, live) = (target.voters.len(), self.live_voters(&target));
        if live < majority(voters) {
            return Err(Error::NoLiveMajority { voters, live });
        }
        self.goal = Some(Goal { target, learners: self.configuration().learners.clone() });
        self.drive(log);
        Ok(())
    }

    /// Voters of `target` that are not silent. Those that are no members yet count as alive: they have to catch up before
    /// anything waits for them.
    fn live_voters(&self, target: &Configuration) -> usize {
        let knows = |id| self.configuration().member(id).is_some();
        target.voters.iter().filter(|voter| !knows(voter.id) || !self.is_silent(voter.id)).count()
    }

    /// Well formed, each seat with one node, and each known node where it is known to be.
    fn is_possible(&self, target: &Configuration) -> bool {
        let known = |member: &Member| self.configuration().member(member.id).is_none_or(|known| known == member);
        let alone = |learner: &Member| target.voters.iter().all(|voter| voter.id.slot != learner.id.slot);
        let seats = target.learners.iter().all(alone);
        !target.is_joint() && target.is_well_formed() && seats && target.members().all(known)
    }

    /// Takes an operator's change back: before anything joint is appended, or while what this leader appended in this term is
    /// not committed. After that it can only be finished, and changed back by another.
    pub(super) fn cancel_change(&mut self, log: &mut Log) -> Result<(), Error> {
        if self.role != Role::Leader {
            return Err(self.not_leader());
        }
        let (index, config) = (self.history.newest_at(), self.configuration().clone());
        let inherits = self.sabotaged(Fault::InheritorCancels);
        let own = (log.term_at(index) == Some(self.hard.term) || inherits) && index > self.commit;
        let back = if config.is_joint() {
            if !own {
                return Err(Error::ChangeInProgress);
            }
            config.back_to_old().ok_or(Error::ChangeInProgress)?
        } else {
            let Some(goal) = self.goal.take() else { return Err(Error::ChangeInProgress) };
            // Learners count nowhere, so that a second entry about them may be in flight.
            Configuration { learners: goal.learners, ..config }
        };
        self.goal = None;
        if back != *self.configuration() && !self.append_configuration(back, log) {
            return Err(Error::Overloaded);
        }
        Ok(())
    }

    /// Leading: takes the next step of a change, if the last one is committed and something is left to do.
    pub(super) fn drive(&mut self, log: &mut Log) {
        let settled = self.role == Role::Leader && self.commit >= self.term_start;
        let config = self.configuration();
        let early = config.is_joint() && self.sabotaged(Fault::LeaveJointEarly);
        if !settled || self.history.newest_at() > self.commit && !early || self.stalled || self.handover.is_some() {
            return;
        }
        let next = if config.is_joint() {
            config.leave_joint()
        } else if !config.is_voter(self.settings.me.id) {
            // The others have what removed this node, and may elect one of theirs.
            return self.farewell();
        } else if self.goal.is_some() {
            self.next_to_goal(log)
        } else if self.settings.heals {
            self.next_to_heal(log)
        } else {
            None
        };
        if let Some(next) = next {
            // Without room it is tried again at the next tick.
            self.append_configuration(next, log);
        }
    }

    /// The next configuration on the way to the operator's target.
    fn next_to_goal(&mut self, log: &Log) -> Option<Configuration> {
        let goal = self.goal.clone()?;
        let (config, target) = (self.configuration().clone(), goal.target);
        if target.voters == config.voters {
            self.goal = None;
            return (target != config).then_some(target);
        }
        let new_voters = || target.voters.iter().filter(|member| !config.is_voter(member.id));
        let missing = || new_voters().filter(|member| config.member(member.id).is_none());
        if missing().next().is_some() {
            let mut learners = config.learners.clone();
            learners.retain(|learner| !missing().any(|member| member.id.slot == learner.id.slot));
            learners.extend(missing());
            return (learners.len() <= LIST_MEMBERS).then_some(Configuration { learners, ..config });
        }
        if !new_voters().all(|member| self.has_caught_up(member.id, log)) {
            return None;
        }
        // Those that remain may have fallen silent since. Until enough are back, or the change is taken back, the old ones go on.
        let dead = self.live_voters(&target) < majority(target.voters.len());
        if dead {
            return None;
        }
        self.goal = None;
        config.enter_joint(&target).ok()
    }

    /// A voter that is silent, whose seat has a new life: that one becomes a learner, catches up, and takes the vote over. One
    /// at a time, so that a majority of those that remember decides each.
    fn next_to_heal(&self, log: &Log) -> Option<Configuration> {
        let config = self.configuration();
        let gone = |id| self.is_silent(id) || self.sabotaged(Fault::ReplaceTheLiving);
        let lost = |new: &Member| config.voters.iter().any(|voter| voter.is_earlier_life_of(new) && gone(voter.id));
        let mut heirs = config.learners.iter().filter(|learner| lost(learner));
        if let Some(heir) = heirs.clone().find(|heir| self.has_caught_up(heir.id, log)) {
            let mut voters = config.voters.clone();
            let seats = voters.iter_mut().filter(|voter| voter.is_earlier_life_of(heir));
            seats.for_each(|seat| *seat = *heir);
            let learners = config.learners.iter().filter(|learner| *learner != heir).copied().collect();
            return config.enter_joint(&Configuration { voters, old_voters: Vec::new(), learners }).ok();
        }
        if heirs.any(|heir| !self.is_silent(heir.id)) {
            return None;
        }
        let lives = |joiner: &&Joiner| self.now.since(joiner.heard) < self.patience_with_silence_ns();
        let joiner = self.joiners.iter().filter(lives).find(|joiner| lost(&joiner.member))?.member;
        let mut learners = config.learners.clone();
        learners.retain(|learner| learner.id.slot != joiner.id.slot);
        learners.push(joiner);
        (learners.len() <= LIST_MEMBERS).then(|| Configuration { learners, ..config.clone() })
    }

    pub(super) fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id() == id)
    }

    /// Not heard for the longest election timeout, or not known.
    pub(super) fn is_silent(&self, id: NodeId) -> bool {
        let heard = |peer: &Peer| peer.heard.unwrap_or(peer.since);
        let silent = |peer: &Peer| self.now.since(heard(peer)) >= self.settings.election_max_ns;
        id != self.settings.me.id && self.peer(id).is_none_or(silent)
    }

    /// Whether what this one lacks is on its way.
    pub(super) fn has_caught_up(&self, id: NodeId, log: &Log) -> bool {
        let near = |peer: &Peer| {
            peer.state == PeerState::Replicate
                && log.bytes_between(peer.matched, log.last()) <= self.settings.limits.window_bytes
        };
        !self.is_silent(id) && self.peer(id).is_some_and(near)
    }

    /// Appends a configuration, which counts from now on. False without room.
    fn append_configuration(&mut self, config: Configuration, log: &mut Log) -> bool {
        let body = config.encode();
        let header = EntryHeader {
            kind: EntryKind::Config,
            term: self.hard.term,
            body_len: body.len() as u32,
            body_crc32c: crc32c::crc32c(&body),
            log_time: self.log_time(log),
            ..EntryHeader::default()
        };
        if !self.has_room(&header, log) {
            return false;
        }
        self.last_entry_at = self.now;
        let index = log.append(header, &[&body]);
        self.history.push(index, config);
        self.rebuild_peers(log);
        true
    }
}
