//! Leading: what each peer is sent, and what its answers mean.

use super::snapshot::Transfer;
use super::{Action, Machine, Outgoing, Peer, PeerState, Role};
use crate::error::DropReason;
use crate::id::{LogIndex, Nanos};
use crate::log::Log;
use crate::message::{Ack, AppendHead, Conflict, Envelope};
use crate::quorum;
use crate::sabotage::Fault;

/// Bytes that one flush sends to one peer; a single larger entry passes whole. The rest follows in the next flush, after
/// the transport has been looked at again.
const FLUSH_BYTES: u64 = 128 << 10;

impl Machine {
    pub(super) fn tick_leader(&mut self, log: &mut Log) {
        let patience_ns = self.settings.election_max_ns.saturating_mul(self.patience_factor());
        if self.now.since(self.quorum_heard()) >= patience_ns {
            // Nobody can learn anything from a leader that no quorum answers.
            self.stand_down();
            return;
        }
        if self.now >= self.heartbeat_at {
            self.settle(log);
            self.heartbeat_at = self.heartbeat_in();
            // A leader that cannot append must lose leadership: it falls silent.
            let beat = !self.stalled;
            self.peers.iter_mut().for_each(|peer| peer.beat_due |= beat);
            self.repeat_handover();
            // There may be nobody left whose answers would bring it about, nor room for an entry whose application would.
            self.relieve_pressure(log);
        }
        self.end_handover();
        self.judge();
        let now = self.now;
        if self.sabotaged(Fault::ResendAtHeartbeat) {
            self.peers.iter_mut().for_each(|peer| peer.resend_at = Nanos::FAR);
        }
        self.peers.iter_mut().filter(|peer| now >= peer.resend_at).for_each(Peer::resend);
        let transfers = self.peers.iter_mut().filter_map(|peer| peer.transfer.as_mut());
        transfers.filter(|transfer| now >= transfer.deadline()).for_each(Transfer::resend);
        self.watch_donors();
        self.drive(log);
    }

    /// When a quorum, this node included, was last heard; never before leadership began.
    pub(super) fn quorum_heard(&self) -> Nanos {
        let heard = |id| match self.peers.iter().find(|peer| peer.id() == id) {
            Some(peer) => peer.heard.unwrap_or(self.led_since).max(self.led_since),
            None => self.now,
        };
        quorum::reached_by(self.configuration(), heard, self.needed())
    }

    pub(super) fn on_ack(&mut self, header: &Envelope, ack: &Ack, log: &mut Log) -> Result<(), DropReason> {
        if header.term > self.hard.term {
            self.adopt_term(header.term);
            return Ok(());
        }
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        if self.role != Role::Leader {
            return Err(DropReason::Unexpected);
        }
        if ack.matched > log.last() || ack.verified > log.last() || ack.matched > ack.verified || ack.round > self.round
        {
            return Err(DropReason::Contradiction);
        }
        let (now, heartbeat_ns) = (self.now, self.settings.heartbeat_ns);
        let opened = self.lease_runs_from(ack.round);
        let (donor_patience_ns, pause_ns) = (self.patience_with_silence_ns(), self.settings.election_max_ns);
        let peer = self.peer_mut(header.from).ok_or(DropReason::NotMember)?;
        // A later answer lacks what an earlier one had: the peer has lost it to its disk, and says so. It is counted, and sent, anew.
        if ack.conflict.is_some() && ack.round > peer.echo && ack.verified < peer.matched {
            (peer.matched, peer.verified) = (ack.matched, ack.verified);
        }
        let progressed = ack.matched > peer.matched || ack.verified > peer.verified;
        if ack.verified >= peer.verified {
            peer.offset = ack.offset;
        }
        peer.matched = peer.matched.max(ack.matched);
        peer.verified = peer.verified.max(ack.verified).max(peer.matched);
        if ack.applied >= peer.applied {
            peer.applied = ack.applied;
            peer.digest = ack.digest;
        }
        if ack.round >= peer.echo {
            peer.credit_bytes = ack.credit_bytes;
            (peer.stopped, peer.outgrown, peer.disk_bound) = (ack.stopped, ack.outgrown, ack.disk_bound);
            peer.unwritten = ack.verified > ack.matched;
            let is_stuck = ack.stopped && ack.credit_bytes == 0;
            peer.stuck_since = is_stuck.then(|| peer.stuck_since.unwrap_or(now));
            // An older mark than the newest is true too.
            (peer.mark, peer.mark_at) = (ack.mark, now);
        }
        peer.echoed_from = peer.echoed_from.max(opened);
        peer.arrived(peer.verified);
        peer.watch_progress(ack, log.base(), now, donor_patience_ns, pause_ns);
        match ack.conflict {
            Some(conflict) => peer.on_conflict(conflict, log),
            None if peer.state == PeerState::Probe && peer.verified >= peer.next.prev() => {
                peer.state = PeerState::Replicate;
                peer.probe_due = false;
            }
            None if peer.is_out() && peer.verified >= log.base() => {
                if peer.transfer.is_some() {
                    peer.given(now);
                }
                peer.probe_from(peer.verified.next());
            }
            None => {}
        }
        if !peer.is_out() {
            peer.next = peer.next.max(peer.verified.next());
        }
        peer.answered(now, ack.round, progressed, heartbeat_ns);
        self.on_digest(header.from, ack);
        self.count_commit(log);
        self.drive(log);
        self.relieve_pressure(log);
        self.leave_if_stopped(log);
        Ok(())
    }

    /// Opens a round where something leaves, and derives one append per peer.
    pub(super) fn flush_leader(&mut self, log: &Log, out: &mut Vec<Action>) -> bool {
        self.flush_fences(out);
        self.flush_handover(log, out);
        let round = self.round + 1;
        let mut more = false;
        let mut sent = false;
        let asked = self.open_read_round(round);
        if asked {
            self.peers.iter_mut().for_each(|peer| peer.beat_due = true);
        }
        // Whatever a follower takes for a sign of its leader waits until the log device answers: rounds of reads, what is sent again,
        // chunks. What ends this leadership has left already, and answers to rounds echoed before say nothing but the truth.
        if self.stalled && !self.sabotaged(Fault::StalledRounds) {
            if asked {
                // Who votes alone answers all the same; any later round answers for others.
                self.open_round(round);
            }
            return false;
        }
        self.start_transfers(log);
        let round_at = self.known_round_at();
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            if peer.next <= log.base() && !peer.is_out() {
                peer.fall_out(self.now, self.settings.election_max_ns);
                out.push(Action::OutOfReach(peer.id(), peer.next));
            }
            let Some((head, last)) = self.plan(at, round, round_at, log) else { continue };
            let peer = &mut self.peers[at];
            if head.ack_wanted {
                peer.expect_answer(self.now, round, self.settings.heartbeat_ns);
            }
            if peer.state == PeerState::Replicate && last > head.prev {
                peer.sent(last, log.bytes_between(head.prev, last));
                peer.next = last.next();
                more |= last < log.last();
            }
            peer.commit_sent = self.commit;
            peer.beat_due = false;
            peer.probe_due = false;
            out.push(Action::Send(peer.member, self.hard.term, Outgoing::Append(head, last)));
            sent = true;
        }
        if self.peers.iter().all(|peer| peer.commit_sent >= self.commit || peer.state != PeerState::Replicate) {
            self.notice_at = Nanos::FAR;
        }
        if sent || self.peers.is_empty() {
            self.open_round(round);
        }
        self.flush_transfers(log, out);
        more
    }

    fn open_round(&mut self, round: u64) {
        self.round = round;
        self.rounds.opened(round, self.now, self.settings.election_min_ns);
    }

    /// What this peer is to be sent now, if anything: the head, and the last entry.
    fn plan(&self, at: usize, round: u64, round_at: Option<Nanos>, log: &Log) -> Option<(AppendHead, LogIndex)> {
        let limits = &self.settings.limits;
        let peer = &self.peers[at];
        let prev = if peer.is_out() { log.last() } else { peer.next.prev() };
        let budget = match peer.state {
            PeerState::OutOfReach | PeerState::Snapshot => None,
            PeerState::Probe if !peer.probe_due && !peer.beat_due => None,
            PeerState::Probe if self.sabotaged(Fault::CreditBindsProbes) && !peer.has_credit(log) => return None,
            PeerState::Probe => Some(self.settings.datagram_bytes),
            PeerState::Replicate if peer.in_flight() >= limits.window_messages => None,
            PeerState::Replicate => Some(limits.window_bytes.saturating_sub(peer.in_flight_bytes()).min(FLUSH_BYTES)),
        };
        let binds = self.sabotaged(Fault::CreditBindsReserved);
        let last = budget.map_or(prev, |budget| peer.last_within(prev, budget, binds, log));
        let is_time = self.settings.commit_notice_ns == 0 || self.now >= self.notice_at;
        let idle = peer.in_flight() == 0 && peer.state == PeerState::Replicate;
        let notice = is_time && idle && peer.commit_sent < self.commit;
        let ack_wanted = last > prev || peer.beat_due || peer.probe_due;
        if !ack_wanted && !notice {
            return None;
        }
        let head = AppendHead {
            prev,
            prev_term: log.term_at(prev)?,
            commit: self.commit,
            round,
            floor: self.floor,
            age_ns: round_at.map_or(AppendHead::UNKNOWN, |at| peer.mark_at.since(at)),
            mark: peer.mark,
            offset: if prev == peer.verified { peer.offset } else { 0 },
            ack_wanted,
            quiet: self.quiet,
        };
        Some((head, last))
    }
}

impl Peer {
    /// Whether it needs what the log no longer holds.
    pub(super) fn is_out(&self) -> bool {
        matches!(self.state, PeerState::OutOfReach | PeerState::Snapshot)
    }

    /// Whether it says that what it is to be sent next fits.
    fn has_credit(&self, log: &Log) -> bool {
        log.header(self.next).is_none_or(|first| first.cost_bytes() <= self.credit_bytes)
    }

    /// The last entry of those after `prev` that may be sent within `budget`, the peer's credit considered. `binds`: also for what
    /// has reserved room.
    fn last_within(&self, prev: LogIndex, budget: u64, binds: bool, log: &Log) -> LogIndex {
        let credit = self.credit_bytes.saturating_sub(log.bytes_between(self.matched, prev));
        let Some(first) = log.header(prev.next()) else { return prev };
        let allowed = budget.min(credit);
        if first.cost_bytes() > allowed {
            // Alone, an entry may exceed the window but not the credit; a probe stays one datagram. What a leader
            // cannot do without has reserved room at the follower.
            let alone = self.in_flight() == 0 && self.state == PeerState::Replicate;
            let pass = alone && (first.cost_bytes() <= credit || first.kind.is_reserved() && !binds);
            return if pass { prev.next() } else { prev };
        }
        // Most often all of them.
        if log.bytes_between(prev, log.last()) <= allowed {
            return log.last();
        }
        // The largest index whose entries fit: the sum of their bytes grows with it.
        let (mut fits, mut over) = (prev.next().0, log.last().next().0);
        while over - fits > 1 {
            let middle = fits + (over - fits) / 2;
            if log.bytes_between(prev, LogIndex(middle)) <= allowed {
                fits = middle;
            } else {
                over = middle;
            }
        }
        LogIndex(fits)
    }

    /// An append did not fit the peer's log: goes back to where both may agree, unless the news is old.
    fn on_conflict(&mut self, conflict: Conflict, log: &Log) {
        let stale = conflict.rejected <= self.matched
            || self.state == PeerState::Probe && conflict.rejected != self.next.prev()
            || self.is_out();
        if stale {
            return;
        }
        let agreed = log.not_after(conflict.hint, conflict.hint_term).min(conflict.rejected.prev());
        self.verified = self.matched;
        self.offset = 0;
        self.probe_from(agreed.max(self.matched).next());
    }
}
