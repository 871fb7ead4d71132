//! Elections: pre-vote, vote, stickiness, and giving up.
//!
//! Two deadlocks are avoided by one rule: every refusal carries the voter's term, and the asker adopts it. A node with a
//! longer log and an older term thus learns the term it must exceed.

use super::snapshot::Wanted;
use super::{Machine, ReplyKind, Role, stopped};
use crate::entry::{EntryHeader, EntryKind};
use crate::error::DropReason;
use crate::id::{Member, Nanos, NodeId, Term};
use crate::log::Log;
use crate::message::{Answer, Ask, Envelope};
use crate::quorum::{self, VoteResult, majority};
use crate::sabotage::Fault;

impl Machine {
    pub(super) fn tick_election(&mut self, log: &mut Log) {
        if self.now >= self.election_at {
            self.campaign_first(log);
        } else if self.role == Role::Follower {
            self.tick_asks();
        } else if self.now >= self.ask_again_at {
            self.ask(false);
        }
    }

    pub(super) fn reset_election_timer(&mut self) {
        let spread = self.settings.election_max_ns - self.settings.election_min_ns;
        let mut patience = self.settings.election_min_ns + self.random_below(spread + 1);
        if self.stopped {
            // Whoever still applies is to win; where nobody does, somebody must lead all the same.
            patience = patience.saturating_mul(stopped::PATIENCE);
        }
        patience = patience.saturating_mul(self.patience_factor());
        self.election_at = self.now.after(patience);
    }

    /// Asks whether an election could be won. The term does not move: a node that nobody hears stays harmless.
    fn campaign_first(&mut self, log: &mut Log) {
        self.quiet = false;
        self.reset_election_timer();
        // Without a committed entry that says so, it may be a member in nobody's eyes but its own.
        let me = self.settings.me.id;
        self.join_due |= !self.history.at(self.commit).is_some_and(|config| config.is_voter(me));
        // One that a change leaves out may be the only one that has the entry which says so, until it is known to be committed.
        let fenced = self.fenced.is_some() && !self.sabotaged(Fault::FencedStands);
        let unfit = self.failed || self.stalled || self.damage.is_some();
        if !self.history.may_need(me, self.commit) || unfit || fenced {
            return;
        }
        self.role = Role::PreCandidate;
        self.fail_reads();
        self.leader = None;
        self.leader_heard = None;
        self.ask(true);
        self.count_votes(log);
    }

    pub(super) fn campaign(&mut self, log: &mut Log) {
        self.adopt_term(self.hard.term.next());
        self.hard.vote = Some(self.settings.me.id);
        self.role = Role::Candidate;
        self.reset_election_timer();
        self.ask(true);
        self.count_votes(log);
    }

    /// Marks the question due to those who have not answered, or to all anew.
    fn ask(&mut self, anew: bool) {
        self.ask_again_at = self.now.after(self.settings.heartbeat_ns);
        for peer in &mut self.peers {
            if anew {
                peer.vote = None;
            }
            peer.ask_due = peer.vote.is_none();
        }
    }

    pub(super) fn question(&self, log: &Log) -> Ask {
        let campaign = if self.role == Role::PreCandidate { self.hard.term.next() } else { self.hard.term };
        Ask { campaign, last: log.last(), last_term: log.last_term(), told: self.stood_in == campaign }
    }

    /// A candidate's own vote counts once it is durable; a pre-vote promises nothing.
    pub(super) fn count_votes(&mut self, log: &mut Log) {
        let me = self.settings.me.id;
        let own = self.role == Role::PreCandidate || self.hard_durable == self.hard;
        let needed = self.needed();
        let vote = |id: NodeId| {
            if id == me {
                return own.then_some(true);
            }
            self.peers.iter().find(|peer| peer.id() == id).and_then(|peer| peer.vote)
        };
        match (self.role, quorum::votes_by(self.configuration(), vote, needed)) {
            (Role::PreCandidate, VoteResult::Won) if self.hard.term.next() > self.hard.term => self.campaign(log),
            (Role::Candidate, VoteResult::Won) => self.lead(log),
            (Role::PreCandidate | Role::Candidate, VoteResult::Lost) => self.role = Role::Follower,
            _ => {}
        }
    }

    pub(super) fn needed(&self) -> fn(usize) -> usize {
        if self.sabotaged(Fault::HalfIsMajority) { |voters| voters.div_ceil(2) } else { majority }
    }

    fn lead(&mut self, log: &mut Log) {
        self.role = Role::Leader;
        self.leader = Some(self.settings.me.id);
        self.leader_heard = None;
        self.led_since = self.now;
        self.quorum_heard_at = self.now;
        self.heartbeat_at = self.now.after(self.settings.heartbeat_ns);
        self.notice_at = Nanos::FAR;
        self.round = 0;
        self.term_start = log.last().next();
        let next = self.term_start;
        for peer in &mut self.peers {
            *peer = super::Peer::new(peer.member, next, self.now);
        }
        let noop = EntryHeader {
            kind: EntryKind::Noop,
            term: self.hard.term,
            log_time: self.log_time(log),
            ..EntryHeader::default()
        };
        self.last_entry_at = self.now;
        self.wanted = Wanted::default();
        self.told_to_stand = false;
        self.rounds.begin();
        log.append(noop, &[]);
    }

    pub(super) fn on_pre_vote(&mut self, from: Member, term: Term, ask: &Ask, log: &Log) -> Result<(), DropReason> {
        if ask.campaign != term.next() {
            return Err(DropReason::Contradiction);
        }
        let granted = ask.campaign > self.hard.term && !self.is_content() && self.is_up_to_date(ask, log);
        self.owe(from, ReplyKind::PreVote(Answer { campaign: ask.campaign, granted }))
    }

    pub(super) fn on_vote(&mut self, from: Member, term: Term, ask: &Ask, log: &Log) -> Result<(), DropReason> {
        if ask.campaign != term {
            return Err(DropReason::Contradiction);
        }
        // Sticky: who hears its leader does not help to depose it, nor moves its term for a stranger; unless that leader itself
        // wants the candidate in its place.
        // Not either when it has heard of that term already, from somebody else.
        let withheld = self.fenced.is_some() && self.sabotaged(Fault::FencedVotesNot);
        let may = (ask.told || !self.is_content()) && !withheld;
        if ask.campaign > self.hard.term && may {
            self.adopt_term(ask.campaign);
        }
        let free = self.hard.vote.is_none_or(|vote| vote == from.id) || self.sabotaged(Fault::VoteTwice);
        let asked = ask.campaign == self.hard.term && self.role != Role::Leader && self.leader.is_none();
        if may && asked && free && self.is_up_to_date(ask, log) {
            self.hard.vote = Some(from.id);
            self.role = Role::Follower;
            self.reset_election_timer();
        }
        self.owe(from, ReplyKind::Vote(ask.campaign))
    }

    pub(super) fn on_vote_reply(
        &mut self,
        asked_as: Role,
        header: &Envelope,
        answer: Answer,
        log: &mut Log,
    ) -> Result<(), DropReason> {
        if header.term > self.hard.term && !answer.granted {
            self.adopt_term(header.term);
            return Ok(());
        }
        let campaign = if asked_as == Role::PreCandidate { self.hard.term.next() } else { self.hard.term };
        if self.role != asked_as || answer.campaign != campaign {
            return Err(DropReason::Unexpected);
        }
        let now = self.now;
        let peer = self.peer_mut(header.from).ok_or(DropReason::NotMember)?;
        peer.heard = Some(now);
        peer.vote.get_or_insert(answer.granted);
        self.count_votes(log);
        Ok(())
    }

    /// Whether this node hears a leader, or is one that a quorum answers.
    fn is_content(&self) -> bool {
        match self.role {
            Role::Leader => self.now.since(self.quorum_heard()) < self.settings.election_min_ns,
            // Whatever has happened to that leader's term since: its lease does not know.
            _ => {
                let forgets = self.sabotaged(Fault::VoteAfterNewTerm) && self.leader_heard.is_none();
                self.now < self.no_vote_before && !forgets
            }
        }
    }

    fn is_up_to_date(&self, ask: &Ask, log: &Log) -> bool {
        (ask.last_term, ask.last) >= self.reached(log) || self.sabotaged(Fault::VoteForStaleLog)
    }

    /// Enters `term`, which must not be older, as a follower of nobody yet.
    pub(super) fn adopt_term(&mut self, term: Term) {
        if term > self.hard.term {
            self.hard.term = term;
            self.hard.vote = None;
            self.verified = crate::id::LogIndex::ZERO;
            self.echo = 0;
            self.conflict = None;
            self.ack_due = false;
        }
        self.stand_down();
    }

    /// Stops leading or campaigning, within the term.
    pub(super) fn stand_down(&mut self) {
        self.fail_reads();
        self.quiet = false;
        if matches!(self.role, Role::Leader) {
            self.goal = None;
            self.handover = None;
            self.heartbeat_at = Nanos::FAR;
            self.tidy_due |= self.wanted != Wanted::default();
            self.reset_election_timer();
        }
        self.role = Role::Follower;
        self.leader = None;
        self.leader_heard = None;
    }
}
