//! Changing who takes part: joint consensus, and the healing of seats whose node has lost its memory.
//!
//! A configuration counts from the moment it is appended. A change of voters goes through a joint configuration, in which
//! every count needs a majority of the old voters and one of the new; it is left only once it is committed under both, also
//! by a leader that inherited it. Everything here is derived anew at each tick and each commit from the newest configuration,
//! which must be committed before there is a next one: so one change is in flight, and a new leader goes on where the last
//! one was. Only the target of an operator's change is a leader's own, and forgotten with its leadership. While it waits for a
//! new voter, seats that it leaves alone heal; one whose new voter stays silent for long is given up.

use super::{Machine, Peer, PeerState, Role};
use crate::config::{Configuration, LIST_MEMBERS};
use crate::entry::{EntryHeader, EntryKind};
use crate::error::Error;
use crate::id::{LogIndex, Member, Nanos, NodeId, Slot};
use crate::log::Log;
use crate::quorum::majority;
use crate::sabotage::Fault;

/// A change is taken back whose new voter has said nothing for so long: a minute.
const PATIENCE_WITH_NEW_VOTERS_NS: u64 = 60_000_000_000;

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

impl Goal {
    /// The learners of `config` without those that this change has brought, and with those that it has taken the place of.
    fn taken_back(&self, config: &Configuration) -> Vec<Member> {
        let stays = |learner: &&Member| self.learners.contains(learner) || !self.target.voters.contains(learner);
        let mut learners: Vec<Member> = config.learners.iter().filter(stays).copied().collect();
        for learner in &self.learners {
            let is_free = learners.iter().all(|other| other.id.slot != learner.id.slot);
            if is_free && !config.is_voter(learner.id) {
                learners.push(*learner);
            }
        }
        learners
    }

    /// A seat has a new life: the change means that one from now on.
    fn follow(&mut self, heir: &Member) {
        let seats = self.target.voters.iter_mut().filter(|voter| voter.is_earlier_life_of(heir));
        seats.for_each(|seat| *seat = *heir);
        self.target.learners.retain(|learner| learner != heir);
    }
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

    /// The voters to come that a change waits for, since they have not caught up; they may be silent.
    pub fn change_waits_for(&self, log: &Log) -> impl Iterator<Item = Member> {
        let new = |voter: &&Member| !self.configuration().is_voter(voter.id) && !self.has_caught_up(voter.id, log);
        self.goal.iter().flat_map(|goal| &goal.target.voters).filter(new).copied()
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
        let open = index > self.commit || self.sabotaged(Fault::CancelCommitted);
        let own = (log.term_at(index) == Some(self.hard.term) || inherits) && open;
        let back = if config.is_joint() {
            if !own {
                return Err(Error::ChangeInProgress);
            }
            let back = config.back_to_old().ok_or(Error::ChangeInProgress)?;
            // With a change that still waits, it is a healing.
            let learners = self.goal.as_ref().map(|goal| goal.taken_back(&back));
            Configuration { learners: learners.unwrap_or_else(|| back.learners.clone()), ..back }
        } else {
            let Some(goal) = self.goal.take() else { return Err(Error::ChangeInProgress) };
            // Learners count nowhere, so that a second entry about them may be in flight.
            Configuration { learners: goal.taken_back(&config), ..config }
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
        let (mut ends, mut heals) = (false, false);
        let next = if config.is_joint() {
            config.leave_joint()
        } else if !config.is_voter(self.settings.me.id) {
            // The others have what removed this node, and may elect one of theirs.
            return self.farewell();
        } else {
            let step;
            (step, ends) = self.next_to_goal(log);
            heals = step.is_none() && self.settings.heals;
            if heals { self.next_to_heal(log) } else { step }
        };
        // Without room it is tried again at the next tick.
        if next.is_some_and(|next| !self.append_configuration(next, log)) {
            return;
        }
        if ends {
            self.goal = None;
        }
        let config = self.history.newest();
        if let Some(goal) = self.goal.as_mut().filter(|_| heals && config.is_joint()) {
            config.voters.iter().filter(|voter| !config.old_voters.contains(voter)).for_each(|heir| goal.follow(heir));
        }
    }

    /// The next configuration on the way to the operator's target, and whether the change is then no longer the leader's to
    /// remember.
    fn next_to_goal(&self, log: &Log) -> (Option<Configuration>, bool) {
        let Some(goal) = &self.goal else { return (None, false) };
        let (config, target) = (self.configuration(), &goal.target);
        let unless_there = |next: Configuration| (next != *config).then_some(next);
        if target.voters == config.voters {
            return (unless_there(target.clone()), true);
        }
        let new_voters = || target.voters.iter().filter(|member| !config.is_voter(member.id));
        let missing = || new_voters().filter(|member| config.member(member.id).is_none());
        if missing().next().is_some() {
            let mut learners = config.learners.clone();
            learners.retain(|learner| !missing().any(|member| member.id.slot == learner.id.slot));
            learners.extend(missing());
            let fits = learners.len() <= LIST_MEMBERS;
            return (fits.then(|| Configuration { learners, ..config.clone() }), false);
        }
        let given_up = |member: &Member| self.silence_ns(member.id) >= PATIENCE_WITH_NEW_VOTERS_NS;
        if new_voters().any(given_up) {
            return (unless_there(Configuration { learners: goal.taken_back(config), ..config.clone() }), true);
        }
        // Those that remain may have fallen silent since. Until enough are back, or the change is taken back, the old ones go on.
        let dead = self.live_voters(target) < majority(target.voters.len());
        if dead || !new_voters().all(|member| self.has_caught_up(member.id, log)) {
            return (None, false);
        }
        (config.enter_joint(target).ok(), true)
    }

    /// Whether the operator's change gives the seat to somebody else than who votes there: then nothing else does.
    fn is_goals(&self, seat: Slot) -> bool {
        let other = |member: &Member| member.id.slot == seat && !self.configuration().is_voter(member.id);
        self.goal.as_ref().is_some_and(|goal| goal.target.members().any(other))
    }

    /// A voter that is silent, whose seat has a new life: that one becomes a learner, catches up, and takes the vote over. One
    /// at a time, so that a majority of those that remember decides each.
    fn next_to_heal(&self, log: &Log) -> Option<Configuration> {
        let config = self.configuration();
        let gone = |id| self.is_silent(id) || self.sabotaged(Fault::ReplaceTheLiving);
        let lost = |new: &Member| {
            let old = |voter: &Member| voter.is_earlier_life_of(new) && gone(voter.id);
            config.voters.iter().any(old) && !self.is_goals(new.id.slot)
        };
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
        self.silence_ns(id) >= self.settings.election_max_ns
    }

    /// For how long it has said nothing; for ever where it is not known.
    fn silence_ns(&self, id: NodeId) -> u64 {
        let silence_ns = |peer: &Peer| self.now.since(peer.heard.unwrap_or(peer.since));
        if id == self.settings.me.id { 0 } else { self.peer(id).map_or(u64::MAX, silence_ns) }
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
