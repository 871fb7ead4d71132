//! Following: taking entries in, and saying what is held.

use super::membership::OPEN_CONFIGURATIONS;
use super::{Machine, ReplyKind, Role};
use crate::config::Configuration;
use crate::entry::{EntryHeader, EntryKind};
use crate::error::DropReason;
use crate::id::{LogIndex, Member, Term};
use crate::log::Log;
use crate::message::{Ack, AppendHead, Conflict, Entries};
use crate::sabotage::Fault;

impl Machine {
    pub(super) fn on_append(
        &mut self,
        from: Member,
        term: Term,
        head: &AppendHead,
        entries: Entries<'_>,
        log: &mut Log,
    ) -> Result<(), DropReason> {
        self.hear_append(from, term, head)?;
        if !self.fits_previous(head, log) {
            return Ok(());
        }
        let mut index = head.prev;
        self.verified = self.verified.max(index.min(log.last()));
        for (entry, body) in entries {
            index = index.next();
            if !self.take(index, &entry, head.commit, log, |log| {
                log.append(entry, &[body]);
            })? {
                break;
            }
        }
        self.follow_commit(head.commit, log);
        log.forget_inbound(self.commit);
        Ok(())
    }

    pub(super) fn on_fragment(
        &mut self,
        from: Member,
        term: Term,
        head: &AppendHead,
        entry: &EntryHeader,
        piece: &[u8],
        log: &mut Log,
    ) -> Result<(), DropReason> {
        self.hear_append(from, term, head)?;
        if !self.fits_previous(head, log) {
            return Ok(());
        }
        self.verified = self.verified.max(head.prev.min(log.last()));
        if entry.kind == EntryKind::Config || entry.body_len > self.settings.limits.entry_bytes {
            return Err(DropReason::Contradiction);
        }
        self.take(head.prev.next(), entry, head.commit, log, |log| log.assemble(term, *entry, head.offset, piece))?;
        self.follow_commit(head.commit, log);
        Ok(())
    }

    /// Recognises the sender as the leader of its term, which may say that it is `quiet`, or answers that there is a newer one.
    pub(super) fn hear(&mut self, from: Member, term: Term, quiet: bool) -> Result<(), DropReason> {
        if term < self.hard.term {
            self.owe(from, ReplyKind::NewerTerm)?;
            return Err(DropReason::StaleTerm);
        }
        if term > self.hard.term || matches!(self.role, Role::PreCandidate | Role::Candidate) {
            self.adopt_term(term);
        }
        if self.role == Role::Leader || self.leader.is_some_and(|leader| leader != from.id) {
            return Err(DropReason::Contradiction);
        }
        self.leader = Some(from.id);
        self.leader_address = from.peer;
        self.leader_heard = Some(self.now);
        self.promise_no_vote();
        self.quiet = quiet;
        self.reset_election_timer();
        Ok(())
    }

    fn hear_append(&mut self, from: Member, term: Term, head: &AppendHead) -> Result<(), DropReason> {
        self.hear(from, term, head.quiet)?;
        self.echo = self.echo.max(head.round);
        self.floor = head.floor;
        self.learn_age(head);
        self.ack_due |= head.ack_wanted;
        Ok(())
    }

    /// Whether this log holds the entry before the append's first. What is committed here every leader has.
    fn fits_previous(&mut self, head: &AppendHead, log: &Log) -> bool {
        let fits = head.prev <= self.commit
            || log.term_at(head.prev) == Some(head.prev_term)
            || self.sabotaged(Fault::SkipPreviousCheck) && head.prev <= log.last();
        if !fits {
            let hint = log.not_after(head.prev, head.prev_term);
            let hint_term = log.term_at(hint).unwrap_or_default();
            self.conflict = Some(Conflict { rejected: head.prev, hint, hint_term });
            self.ack_due = true;
        }
        fits
    }

    /// Takes the leader's entry for `index`, putting it in with `append` where it is not there already. False where it
    /// does not fit the budget: the rest is dropped and comes again when there is credit.
    fn take(
        &mut self,
        index: LogIndex,
        entry: &EntryHeader,
        leader_commit: LogIndex,
        log: &mut Log,
        append: impl FnOnce(&mut Log),
    ) -> Result<bool, DropReason> {
        if index <= self.commit || log.term_at(index) == Some(entry.term) {
            self.verified = self.verified.max(index);
            return Ok(true);
        }
        let before = log.term_at(index.prev()).unwrap_or_default();
        let replaces_verified = index <= self.verified && !self.sabotaged(Fault::SkipPreviousCheck);
        let too_deep = index <= log.last() && !self.history.may_cut(index);
        if entry.term > self.hard.term || entry.term < before || replaces_verified || too_deep {
            return Err(DropReason::Contradiction);
        }
        if self.sabotaged(Fault::RoomBeforeTruncation) && !self.has_room(entry, log) {
            return Ok(false);
        }
        if index <= log.last() {
            self.truncate(index, log);
        }
        if !self.has_room(entry, log) {
            return Ok(false);
        }
        let last = log.last();
        append(log);
        if log.last() == last {
            return Ok(true);
        }
        self.last_entry_at = self.now;
        self.verified = self.verified.max(index);
        if entry.kind == EntryKind::Config && !self.learn_configuration(index, leader_commit, log) {
            log.truncate(index);
            self.verified = self.verified.min(index.prev());
            return Err(DropReason::Contradiction);
        }
        self.mend(log);
        Ok(true)
    }

    fn truncate(&mut self, from: LogIndex, log: &mut Log) {
        log.truncate(from);
        self.written = self.written.min(from.prev());
        self.durable = self.durable.min(from.prev());
        self.history.truncate(from);
        self.rebuild_peers(log);
    }

    /// False where the body is none, or its leader cannot have appended it: not before it knew of the commit of all but
    /// [`OPEN_CONFIGURATIONS`] of its term. Of earlier terms it may know of none.
    fn learn_configuration(&mut self, index: LogIndex, leader_commit: LogIndex, log: &Log) -> bool {
        let is_own = |at: &LogIndex| log.term_at(*at) == Some(self.hard.term);
        let open = self.history.after(self.commit.max(leader_commit)).filter(is_own).count();
        if is_own(&index) && open >= OPEN_CONFIGURATIONS {
            return false;
        }
        let mut body = Vec::new();
        log.copy_body(index, &mut body);
        let Some(config) = Configuration::decode(&body) else { return false };
        self.history.push(index, config);
        self.rebuild_peers(log);
        true
    }

    /// The leader's commit index counts here as far as this log is known to be the leader's.
    fn follow_commit(&mut self, commit: LogIndex, log: &mut Log) {
        let known = if self.sabotaged(Fault::CommitUnclamped) { log.last() } else { self.verified };
        self.commit_to(commit.min(known));
        // The leader may just have said that more can be forgotten.
        self.relieve_pressure(log);
    }

    /// The acknowledgement as it is now true.
    pub(super) fn acknowledgement(&mut self, log: &Log) -> Ack {
        let verified = if self.sabotaged(Fault::AcknowledgeUnverified) { log.last() } else { self.verified };
        let durable = if self.sabotaged(Fault::AcknowledgeVolatile) { log.last() } else { self.durable };
        let matched = durable.min(verified);
        let credit_bytes = self.credit_bytes(matched, log);
        self.credit_advertised = credit_bytes;
        let conflict = self.conflict.take().filter(|conflict| conflict.rejected > self.verified);
        Ack {
            matched,
            verified,
            offset: if verified == log.last() { log.assembled_bytes(self.hard.term) } else { 0 },
            round: self.echo,
            credit_bytes,
            applied: self.applied,
            digest: self.digest,
            fenced: self.fenced.map(|(_, verdict)| verdict),
            stopped: self.stopped,
            in_use: self.is_in_use(),
            outgrown: self.outgrown_bytes().is_some(),
            disk_bound: self.is_bound_by_disk(log),
            conflict,
            snapshot_bytes: log.inbound_bytes(),
            mark: self.mark(),
        }
    }
}
