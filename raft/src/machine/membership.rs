//! Who belongs: admitting messages, taking a cluster on, asking to be taken in, and the configurations in the log.

use std::net::{Ipv4Addr, SocketAddrV4};

use smallvec::SmallVec;

use super::change::Joiner;
use super::{MAX_TERM_JUMP, Machine, Peer, ReplyKind, Role};
use crate::config::{Configuration, LIST_MEMBERS};
use crate::entry::{EntryHeader, EntryKind};
use crate::error::{DropReason, Error};
use crate::id::{ClusterId, LogIndex, Member, NodeId, Term};
use crate::log::Log;
use crate::message::{Body, Message};
use crate::sabotage::Fault;
use crate::storage::HardState;
use crate::trace;

/// Heartbeats between two requests to join.
const JOIN_HEARTBEATS: u64 = 10;

/// The configurations of the log that can still come into force: the newest counts from the moment it is appended, the
/// ones before it are kept until it is committed and applied.
///
/// At most [`KEPT`]. What a truncation can bring back is always among them: a leader appends a configuration when it knows the
/// last but one before it to be committed at the latest, so in a log there are never more than two that are not, whether the
/// log's owner knows so or not. A cut below the oldest one kept is no leader's, and refused ([`History::may_cut`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct History {
    /// A node without a configuration has the one without members, at 0.
    oldest: (LogIndex, Configuration),
    later: SmallVec<[(LogIndex, Configuration); 2]>,
}

/// Configurations kept, for snapshots too of a state that is far behind its log.
const KEPT: usize = 16;
/// Configurations of its own term that a leader may have without knowing them to be committed: one, and what takes it back.
pub(super) const OPEN_CONFIGURATIONS: usize = 2;

impl History {
    pub(super) fn newest(&self) -> &Configuration {
        &self.later.last().unwrap_or(&self.oldest).1
    }

    /// Where the newest one stands in the log.
    pub(super) fn newest_at(&self) -> LogIndex {
        self.later.last().unwrap_or(&self.oldest).0
    }

    pub(super) fn push(&mut self, index: LogIndex, config: Configuration) {
        self.later.push((index, config));
        // A state that applies nothing more must not make this grow.
        if self.later.len() >= KEPT {
            self.oldest = self.later.remove(0);
        }
    }

    /// Whether the configuration is known that counts when the log is cut from this entry on.
    pub(super) fn may_cut(&self, from: LogIndex) -> bool {
        self.oldest.0 < from
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        self.later.retain(|(index, _)| *index < from);
    }

    /// Forgets what came before the configuration in force at `index`, which is committed and applied.
    pub(super) fn settled(&mut self, index: LogIndex) {
        let settled = self.later.iter().rposition(|(from, _)| *from <= index).map_or(0, |at| at + 1);
        if let Some(in_force) = self.later.drain(..settled).next_back() {
            self.oldest = in_force;
        }
    }

    /// Where the ones after `index` stand.
    pub(super) fn after(&self, index: LogIndex) -> impl Iterator<Item = LogIndex> {
        self.later.iter().map(|(at, _)| *at).filter(move |at| *at > index)
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &(LogIndex, Configuration)> {
        std::iter::once(&self.oldest).chain(&self.later)
    }

    /// Whether `id` votes in the newest configuration or in one that may come back in its place.
    pub(super) fn may_need(&self, id: NodeId, commit: LogIndex) -> bool {
        let may_count = |at: usize| self.later.get(at).is_none_or(|(next, _)| *next > commit);
        self.iter().enumerate().any(|(at, (_, config))| may_count(at) && config.is_voter(id))
    }

    /// The configuration in force after the entry at `index`, if it is kept.
    pub(super) fn at(&self, index: LogIndex) -> Option<&Configuration> {
        self.iter().rev().find(|(from, _)| *from <= index).map(|(_, config)| config)
    }

    /// Begins anew with the configuration in force at `index`.
    pub(super) fn reset(&mut self, index: LogIndex, config: Configuration) {
        *self = History { oldest: (index, config), later: SmallVec::new() };
    }
}

impl Machine {
    /// Takes the first configuration on, as entry 1 of term 1, committed: every member is given the same one. Repeating
    /// it for the same cluster changes nothing.
    pub fn bootstrap(
        &mut self,
        cluster: ClusterId,
        members: &[Member],
        log_time: u64,
        log: &mut Log,
    ) -> Result<(), Error> {
        match (self.cluster, self.role) {
            (Some(own), _) if own == cluster => return Ok(()),
            (Some(cluster), _) => return Err(Error::AlreadyInitialised { cluster }),
            (None, Role::Joining { cluster: heard, .. }) if heard != cluster => {
                return Err(Error::AlreadyInitialised { cluster: heard });
            }
            // Or it has heard of this very cluster, from a member that was told a moment earlier.
            (None, _) => {}
        }
        let config = Configuration::of_voters(members);
        let unique = config.voters.windows(2).all(|pair| pair[0].id.slot != pair[1].id.slot);
        if members.len() > LIST_MEMBERS || !unique || !config.is_voter(self.settings.me.id) || cluster.0 == 0 {
            return Err(Error::BadConfiguration);
        }
        let body = config.encode();
        let header = EntryHeader {
            kind: EntryKind::Config,
            body_len: body.len() as u32,
            body_crc32c: crc32c::crc32c(&body),
            log_time,
            term: Term(1),
            ..EntryHeader::default()
        };
        self.enter_cluster(cluster);
        let index = log.append(header, &[&body]);
        self.last_entry_at = self.now;
        self.adopt_term(Term(1));
        self.history.push(index, config);
        self.rebuild_peers(log);
        self.commit_to(index);
        trace::life("bootstrap", self, log);
        Ok(())
    }

    /// Resumes a life whose cluster, hard state and log were durable; `at_base` is the configuration in force where the log
    /// begins. The machine must be new. What was committed after the base is learnt again from the leader.
    pub fn recover(&mut self, cluster: ClusterId, hard: HardState, at_base: Configuration, log: &Log) {
        self.history.reset(log.base(), at_base);
        self.hard = hard;
        self.hard_written = hard;
        self.hard_durable = hard;
        self.written = log.last();
        self.durable = log.last();
        self.read_back_bytes = log.bytes();
        self.commit = log.base();
        self.applied = log.base();
        self.last_entry_at = self.now;
        if !self.sabotaged(Fault::VoteAfterStart) {
            self.promise_no_vote();
        }
        let mut body = Vec::new();
        for index in (log.first().0..=log.last().0).map(LogIndex) {
            if log.header(index).is_some_and(|header| header.kind == EntryKind::Config) {
                log.copy_body(index, &mut body);
                if let Some(config) = Configuration::decode(&body) {
                    self.history.push(index, config);
                }
            }
        }
        self.enter_cluster(cluster);
        self.rebuild_peers(log);
        trace::life("recover", self, log);
    }

    fn enter_cluster(&mut self, cluster: ClusterId) {
        self.cluster = Some(cluster);
        self.role = Role::Follower;
        self.reset_election_timer();
    }

    /// Whether a message is for this node: by cluster and by exact destination. The sender need not be a member: one outside
    /// my configuration may hold the only complete log.
    pub(super) fn admit(&mut self, message: &Message<'_>) -> Result<(), DropReason> {
        let header = &message.header;
        let me = self.settings.me.id;
        if header.shard != self.settings.shard {
            return Err(DropReason::WrongShard);
        }
        if header.from == me {
            return Err(DropReason::FromMyself);
        }
        if matches!(message.body, Body::Join(_)) {
            let own = self.cluster.ok_or(DropReason::Uninitialised)?;
            let free = header.cluster.0 == 0 || header.cluster == own;
            return if free { Ok(()) } else { Err(DropReason::WrongCluster) };
        }
        let mine = header.to == me || self.sabotaged(Fault::IgnoreIncarnation) && header.to.slot == me.slot;
        if !mine {
            return Err(DropReason::WrongDestination);
        }
        let stranger = self.cluster.is_some() && self.configuration().member(header.from).is_none();
        if stranger && self.sabotaged(Fault::ShutStrangersOut) {
            return Err(DropReason::NotMember);
        }
        if header.term.0.saturating_sub(self.hard.term.0) > MAX_TERM_JUMP {
            return Err(DropReason::AbsurdTerm);
        }
        match (self.cluster, message.body) {
            (Some(cluster), _) if cluster != header.cluster && !self.sabotaged(Fault::IgnoreCluster) => {
                Err(DropReason::WrongCluster)
            }
            (Some(_), Body::JoinReply(_)) => Err(DropReason::Unexpected),
            (Some(_), _) | (None, Body::JoinReply(_)) => Ok(()),
            // Whoever names this very incarnation has it in a configuration, and it has promised nothing yet.
            (None, Body::Append(..) | Body::Fragment(..) | Body::Vote(_) | Body::PreVote(_))
                if header.cluster.0 != 0 =>
            {
                self.enter_cluster(header.cluster);
                Ok(())
            }
            (None, _) => Err(DropReason::Uninitialised),
        }
    }

    /// The sender with the addresses to answer to.
    pub(super) fn sender(&self, id: NodeId, from: SocketAddrV4) -> Member {
        let unknown = Member { id, client: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), peer: from };
        self.configuration().member(id).copied().unwrap_or(unknown)
    }

    /// Brings the list of peers in line with the configuration; those that stay keep what is known of them.
    pub(super) fn rebuild_peers(&mut self, log: &Log) {
        let mut members: SmallVec<[Member; LIST_MEMBERS]> = self.configuration().members().copied().collect();
        members.sort_unstable_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members.retain(|member| member.id != self.settings.me.id);
        let now = self.now;
        let mut old = std::mem::take(&mut self.peers);
        self.peers = members
            .iter()
            .map(|member| {
                let known = old.iter().position(|peer| peer.id() == member.id);
                let mut peer =
                    known.map_or_else(|| Peer::new(*member, log.last().next(), now), |at| old.swap_remove(at));
                peer.member = *member;
                peer
            })
            .collect();
        let peers = &self.peers;
        self.joiners.retain(|joiner| !peers.iter().any(|peer| peer.id() == joiner.member.id));
    }

    pub(super) fn tick_join(&mut self) {
        if self.now >= self.join_at && !self.settings.contacts.is_empty() {
            self.join_at = self.now.after(JOIN_HEARTBEATS * self.settings.heartbeat_ns);
            self.join_due = true;
        }
    }

    /// A node that lost its state, or never had any, asks. It is remembered for whoever changes the configuration, one life
    /// per slot, and told who leads.
    pub(super) fn on_join(&mut self, sender: Member, joiner: Member) -> Result<(), DropReason> {
        if joiner.id != sender.id || !(1..=LIST_MEMBERS as u8).contains(&joiner.id.slot.0) {
            return Err(DropReason::Contradiction);
        }
        if self.configuration().member(joiner.id).is_none() {
            self.joiners.retain(|known| known.member.id.slot != joiner.id.slot);
            self.joiners.push(Joiner { member: joiner, heard: self.now });
        }
        self.owe(Member { client: joiner.client, ..sender }, ReplyKind::Join)
    }

    pub(super) fn on_join_reply(&mut self, cluster: ClusterId, leader: Option<Member>) -> Result<(), DropReason> {
        if cluster.0 == 0 {
            return Err(DropReason::Contradiction);
        }
        self.role = Role::Joining { cluster, leader };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;

    /// One configuration for each of the first `count` entries, all different.
    fn history(count: u64) -> History {
        let mut history = History::default();
        for index in 1..=count {
            history.push(LogIndex(index), Configuration::of_voters(&[member(index as u8)]));
        }
        history
    }

    #[test]
    fn what_came_before_the_configuration_in_force_is_forgotten_once_that_is_settled() {
        let mut history = history(5);
        history.settled(LogIndex(3));
        assert_eq!(history.at(LogIndex(2)), None, "nobody goes back there");
        assert!(history.at(LogIndex(3)).is_some_and(|config| config.is_voter(member(3).id)));
        assert!(history.newest().is_voter(member(5).id));
        history.settled(LogIndex(9));
        assert_eq!((history.iter().count(), history.newest_at()), (1, LogIndex(5)), "the newest stays");
    }

    #[test]
    fn a_state_that_applies_nothing_more_keeps_a_bounded_number_of_configurations() {
        let mut history = history(100);
        assert_eq!((history.iter().count(), history.newest_at()), (KEPT, LogIndex(100)));
        assert!(!history.may_cut(LogIndex(85)) && history.may_cut(LogIndex(86)));
        history.settled(LogIndex::ZERO);
        assert_eq!(history.iter().count(), KEPT);
        // Whatever is cut, one counts.
        history.truncate(LogIndex(1));
        assert_eq!(history.newest_at(), LogIndex(85));
    }

    /// What counts at `commit`, and what may come after it.
    #[test]
    fn who_may_be_needed_votes_in_force_or_later() {
        let history = history(5);
        let needed = |commit| (1..=5).filter(|slot| history.may_need(member(*slot).id, LogIndex(commit))).min();
        assert_eq!([0, 1, 3, 9].map(needed), [Some(1), Some(1), Some(3), Some(5)]);
    }
}
