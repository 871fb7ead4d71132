//! Snapshots: how a peer returns that needs entries the log no longer holds.
//!
//! On demand: when such a peer answers, its leader has a follower send one (`donor.rs`), or asks its own apply task, which gives one
//! out. Chunks of it travel within a window of their own until the peer has it whole; the rest follows as ordinary appends. Heartbeats go
//! on meanwhile. A transfer keeps the log from forgetting the rest only while there is room: if the log is pressed and moves on,
//! another snapshot is asked for. What a receiver holds of a snapshot stays good across senders of the same bytes.

use super::donor::Donation;
use super::{Action, Machine, Outgoing, PeerState, ReplyKind, Role};
use crate::error::{DropReason, Error};
use crate::id::{LogIndex, Member, Nanos, Term};
use crate::log::{Log, ReceivedSnapshot, Snapshot};
use crate::message::{ChunkAck, ChunkHead, Envelope, SnapshotId};
use crate::sabotage::Fault;

/// Chunks to one peer that may be unacknowledged. A receiver takes no chunk further ahead than that.
const WINDOW_CHUNKS: u32 = 32;
/// Between two tries to give a state out that is too large, at most.
const PAUSE_NS_MAX: u64 = 60_000_000_000;
/// More than what follows the state in any snapshot.
const TRAILER_BYTES: u32 = 4096;

/// A snapshot on its way to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    id: SnapshotId,
    /// The peer has this much without a gap, unless it has lost something since.
    acked: u32,
    /// Sent up to here.
    sent: u32,
    /// The peer has said what it already holds. Until then, one chunk at a time.
    started: bool,
    /// A gap to be filled, and the last one that was.
    gap: Option<(u32, u32)>,
    filled: Option<u32>,
    resend_at: Nanos,
    resends: u32,
}

impl Transfer {
    pub(super) fn new(id: SnapshotId) -> Self {
        Transfer { id, acked: 0, sent: 0, started: false, gap: None, filled: None, resend_at: Nanos::FAR, resends: 0 }
    }

    pub(super) fn id(&self) -> SnapshotId {
        self.id
    }

    pub(super) fn acked_bytes(&self) -> u32 {
        self.acked
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.resend_at
    }

    /// Nothing was heard for long: begins again with one chunk, at what the peer then says it has.
    pub(super) fn resend(&mut self) {
        self.sent = self.acked;
        self.started = false;
        self.filled = None;
        self.resends = (self.resends + 1).min(16);
        self.resend_at = Nanos::FAR;
    }

    /// Sends what gap and window allow of the `kept` snapshot; `patience_ns` says how long an answer may take after so many resends.
    #[expect(clippy::too_many_arguments, reason = "where to, what, and when")]
    pub(super) fn flush(
        &mut self,
        to: Member,
        term: Term,
        kept: (SnapshotId, u32, u32),
        chunk_bytes: u32,
        now: Nanos,
        patience_ns: impl Fn(u32) -> u64,
        out: &mut Vec<Action>,
    ) {
        let (id, state_bytes, total_bytes) = kept;
        let mut send = |from: u32, end: u32| {
            for offset in (from..end.min(total_bytes)).step_by(chunk_bytes as usize) {
                let head = ChunkHead { id, state_bytes, total_bytes, offset };
                let count = chunk_bytes.min(total_bytes - offset);
                out.push(Action::Send(to, term, Outgoing::Chunk(head, count)));
            }
        };
        let window = if self.started { WINDOW_CHUNKS } else { 1 };
        if let Some((from, end)) = self.gap.take() {
            send(from, end.min(from.saturating_add(WINDOW_CHUNKS * chunk_bytes)));
        }
        let end = self.acked.saturating_add(window * chunk_bytes).min(total_bytes);
        if self.sent < end {
            send(self.sent, end);
            self.sent = end;
        }
        if self.resend_at == Nanos::FAR {
            self.resend_at = now.after(patience_ns(self.resends));
        }
    }

    fn answered(&mut self, ack: &ChunkAck) -> bool {
        let progressed = ack.offset > self.acked || !self.started;
        if !self.started {
            // It may hold more from another leader, or less than it did.
            (self.acked, self.sent) = (ack.offset, ack.offset);
            self.started = true;
        }
        self.acked = self.acked.max(ack.offset);
        self.sent = self.sent.max(self.acked);
        // Once for each gap: a second loss of the same chunk is noticed by the timer.
        if ack.offset == self.acked && ack.gap_end > ack.offset && self.filled != Some(ack.offset) {
            self.filled = Some(ack.offset);
            self.gap = Some((ack.offset, ack.gap_end.min(self.sent)));
        }
        if progressed {
            self.resends = 0;
            self.resend_at = Nanos::FAR;
        }
        progressed
    }
}

/// What is asked of the apply task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Wanted {
    /// Set while a snapshot is wanted: what was applied when it was first asked for, and until when the log waits for it.
    since: Option<(LogIndex, Nanos)>,
    /// Not again before this time.
    not_before: Nanos,
    told: bool,
    /// How often in a row the state was too large, and how large at least.
    outgrown: u32,
    state_bytes: u64,
}

impl Machine {
    /// While a peer needs a snapshot of this node and there is none: the least index that it must reach.
    pub fn snapshot_wanted(&self, log: &Log) -> Option<LogIndex> {
        let gives = self.role == Role::Leader || self.donates_to().is_some();
        let least = if self.role == Role::Leader { log.base() } else { self.least_donated() };
        self.wanted.since.filter(|_| gives).map(|_| least.max(LogIndex(1)))
    }

    /// The apply task gives a snapshot out. `state_hash` is [`crate::state_hash`] of its bytes.
    pub(super) fn offer(&mut self, snapshot: &Snapshot, state_hash: u64, log: &mut Log) -> Result<(), Error> {
        if self.role != Role::Leader && self.donates_to().is_none() {
            return Err(self.not_leader());
        }
        if self.wanted.since.take().is_none() {
            return Err(Error::SnapshotUnusable);
        }
        self.wanted.told = false;
        self.wanted.not_before = self.now.after(self.settings.election_max_ns);
        let body_bytes = snapshot.bytes.len() as u64;
        let limit_bytes = self.settings.limits.snapshot_bytes;
        if body_bytes > u64::from(limit_bytes) {
            self.outgrown(body_bytes);
            return Err(Error::TooLarge { body_bytes, limit_bytes });
        }
        (self.wanted.outgrown, self.wanted.state_bytes) = (0, 0);
        let least = if self.role == Role::Leader { LogIndex::ZERO } else { self.least_donated() };
        let own = self.own_snapshot(snapshot, log).filter(|own| own.index >= least);
        let Some(own) = own else { return Err(Error::SnapshotUnusable) };
        let kept = log.keep_snapshot(snapshot, own.term, state_hash, own.digest, &own.configuration);
        kept.map(|_| ()).ok_or(Error::SnapshotUnusable)
    }

    /// The state is too large to travel. It seldom shrinks, and each try costs its replica the writing of what does fit: the next one
    /// comes twice as late.
    pub(super) fn outgrown(&mut self, body_bytes: u64) {
        self.wanted.since = None;
        self.wanted.told = false;
        let pause_ns = self.settings.election_max_ns.saturating_mul(1 << self.wanted.outgrown).min(PAUSE_NS_MAX);
        self.wanted.not_before = self.now.after(pause_ns);
        self.wanted.outgrown = (self.wanted.outgrown + 1).min(32);
        self.wanted.state_bytes = body_bytes;
        // A leader that has asked for it need not wait.
        self.ack_due |= self.role == Role::Follower && self.leader.is_some();
    }

    /// How many bytes this node's state has at least, where that is more than may travel as a snapshot: who needs one stays out.
    pub fn outgrown_bytes(&self) -> Option<u64> {
        Some(self.wanted.state_bytes).filter(|_| self.wanted.outgrown > 0)
    }

    /// A state of this replica with what Raft needs to go on from it; `None` where it is not applied, or too old.
    pub fn own_snapshot(&self, snapshot: &Snapshot, log: &Log) -> Option<ReceivedSnapshot> {
        let Snapshot { index, log_time, ref bytes } = *snapshot;
        let term = log.term_at(index).filter(|_| index <= self.applied && index > LogIndex::ZERO)?;
        let configuration = self.history.at(index)?.clone();
        let digest = self.trail.digest_at(index).unwrap_or(0);
        Some(ReceivedSnapshot { index, term, log_time, digest, configuration, bytes: bytes.clone() })
    }

    /// The kept snapshot, if what comes after it is still in the log.
    fn usable_snapshot(&self, log: &Log) -> Option<SnapshotId> {
        log.kept_snapshot().map(|(id, ..)| id).filter(|id| id.index >= log.base())
    }

    /// Entries after this one are needed once the transfers are done; none where nobody waits for a snapshot.
    pub(super) fn kept_for_transfers(&self, log: &Log) -> Option<LogIndex> {
        let transfer = self.peers.iter().any(|peer| peer.state == PeerState::Snapshot);
        let kept = log.kept_snapshot().filter(|_| transfer).map(|(id, ..)| id.index);
        let wanted = self.wanted.since.filter(|(_, until)| self.now < *until).map(|(applied, _)| applied);
        let donated = self.peers.iter().filter_map(|peer| peer.donor.map(|donor| donor.applied())).min();
        kept.into_iter().chain(wanted).chain(donated).min()
    }

    /// Leading: who needs a snapshot begins with the one there is, or one is asked for.
    pub(super) fn start_transfers(&mut self, log: &Log) {
        let usable = self.usable_snapshot(log);
        let (now, pause_ns) = (self.now, self.settings.election_max_ns);
        let patience = 2 * pause_ns;
        let mut wanting = false;
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            let other = peer.transfer.is_some_and(|transfer| Some(transfer.id) != usable);
            if peer.state == PeerState::Snapshot && other {
                peer.fall_out(now, pause_ns);
            }
            // One that is silent costs nothing, and one that uses no state gets none.
            let uses = peer.fenced.is_none() && !peer.stopped;
            let answers = peer.heard.is_some_and(|heard| now.since(heard) < patience) && uses;
            if peer.state == PeerState::OutOfReach && answers && peer.may_have_snapshot(now) {
                // One that is there already costs this leader nothing more.
                let donor = if usable.is_none() { self.donor_for(&self.peers[at], log) } else { None };
                let peer = &mut self.peers[at];
                (peer.transfer, peer.donor) = (usable.map(Transfer::new), donor);
                if peer.transfer.is_some() || peer.donor.is_some() {
                    peer.state = PeerState::Snapshot;
                } else {
                    wanting = true;
                }
            }
        }
        self.want_snapshot(wanting);
    }

    /// Drops what nobody is being sent; for every tick.
    pub(super) fn tidy_snapshots(&mut self, log: &mut Log) {
        if self.role != Role::Leader && self.donation.is_none() {
            self.wanted = Wanted::default();
        }
        let used = match self.role {
            Role::Leader => self.peers.iter().any(|peer| peer.transfer.is_some()),
            _ => self.donation.is_some(),
        };
        // One that was just offered is about to be used.
        if !used && self.now >= self.wanted.not_before {
            log.drop_kept_snapshot();
        }
    }

    /// Has the apply task asked for a snapshot, where that is of `use`; while one was refused of late, later.
    pub(super) fn want_snapshot(&mut self, of_use: bool) {
        if !of_use {
            self.wanted.since = None;
        } else if self.wanted.since.is_none() && self.now >= self.wanted.not_before {
            let wait_ns = self.patience_with_silence_ns();
            self.wanted.since = Some((self.applied, self.now.after(wait_ns)));
            self.wanted.told = false;
        }
    }

    /// The apply task may have looked when nothing was wanted any more.
    pub(super) fn tell_of_wish_again(&mut self) {
        self.wanted.told = false;
    }

    /// Tells the apply task that a snapshot is wanted, once.
    pub(super) fn flush_wanted(&mut self, out: &mut Vec<Action>) {
        if self.wanted.since.is_some() && !std::mem::replace(&mut self.wanted.told, true) {
            out.push(Action::SnapshotWanted);
        }
    }

    /// What the transfers allow to be sent now. After everything else of the flush: entries and heartbeats come first.
    pub(super) fn flush_transfers(&mut self, log: &Log, out: &mut Vec<Action>) {
        self.flush_wanted(out);
        self.flush_donors(log, out);
        let Some(kept) = log.kept_snapshot() else { return };
        let (chunk_bytes, term) = (self.settings.chunk_bytes.max(1), self.hard.term);
        let (now, heartbeat_ns) = (self.now, self.settings.heartbeat_ns);
        for peer in &mut self.peers {
            let Some(mut transfer) = peer.transfer.filter(|transfer| transfer.id == kept.0) else { continue };
            let patience_ns = |resends| peer.patience_of(resends, heartbeat_ns);
            transfer.flush(peer.member, term, kept, chunk_bytes, now, patience_ns, out);
            peer.transfer = Some(transfer);
        }
    }

    pub(super) fn on_chunk_ack(&mut self, header: &Envelope, ack: &ChunkAck, log: &Log) -> Result<(), DropReason> {
        if header.term > self.hard.term {
            self.adopt_term(header.term);
            return Ok(());
        }
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        let now = self.now;
        let transfer = match self.role {
            Role::Leader => {
                let peer = self.peer_mut(header.from).ok_or(DropReason::NotMember)?;
                peer.heard = Some(now);
                peer.transfer.as_mut()
            }
            _ => self.donation.as_mut().filter(|donation| donation.to() == header.from).and_then(Donation::transfer),
        };
        let kept = log.kept_snapshot().filter(|(id, ..)| *id == ack.id);
        let (Some(transfer), Some((id, _, total_bytes))) = (transfer, kept) else {
            return Err(DropReason::Unexpected);
        };
        if transfer.id != id || ack.offset > total_bytes {
            return Err(DropReason::Unexpected);
        }
        if ack.offset < total_bytes {
            transfer.answered(ack);
        } else if self.role != Role::Leader {
            // The leader hears it too.
            self.end_donation();
        } else if let Some(peer) = self.peer_mut(header.from) {
            // Its log reaches as far. If not, the probe is refused and says from where.
            peer.given(now);
            peer.probe_from(id.index.next());
        }
        Ok(())
    }

    pub(super) fn on_chunk(
        &mut self,
        from: Member,
        term: Term,
        head: &ChunkHead,
        piece: &[u8],
        log: &mut Log,
    ) -> Result<(), DropReason> {
        if self.sabotaged(Fault::ChunkFromLeader) {
            self.hear(from, term, false)?;
        }
        if term < self.hard.term {
            self.owe(from, ReplyKind::NewerTerm)?;
            return Err(DropReason::StaleTerm);
        }
        // Somebody leads this term, whoever sends this.
        if term > self.hard.term || matches!(self.role, Role::PreCandidate | Role::Candidate) {
            self.adopt_term(term);
        }
        if self.role == Role::Leader {
            return Err(DropReason::Contradiction);
        }
        let id = head.id;
        if id.index > self.commit {
            if self.fenced.is_some() && !self.sabotaged(Fault::FencedTakesSnapshots) || self.stopped {
                return Err(DropReason::Unexpected);
            }
            if head.total_bytes > self.settings.limits.snapshot_bytes.saturating_add(TRAILER_BYTES) {
                return Err(DropReason::TooLarge);
            }
            let lately = Nanos(self.now.0.saturating_sub(2 * self.settings.election_max_ns));
            if log.prefers_inbound(from.id, self.leader, term, id, lately) {
                return Err(DropReason::Unexpected);
            }
            // What is further ahead than any sender goes takes no memory; the answer says where to go on.
            let window = WINDOW_CHUNKS.saturating_mul(self.settings.chunk_bytes.max(piece.len() as u32));
            if head.offset <= log.inbound_progress(id).0.saturating_add(window) {
                log.add_chunk((from.id, term, self.now), head, piece, self.sabotaged(Fault::MixSnapshots));
            }
            match log.finish_inbound(self.sabotaged(Fault::MixSnapshots)) {
                Some(Some(received)) => self.install(received, log)?,
                Some(None) => return Err(DropReason::Contradiction),
                None => {}
            }
        }
        let (offset, gap_end) = if id.index <= self.commit { (head.total_bytes, 0) } else { log.inbound_progress(id) };
        self.owe(from, ReplyKind::Chunk(ChunkAck { id, offset, gap_end }))
    }

    /// A whole snapshot, of what is committed: this term's leader has it all. Where the log holds its last entry, nothing more is needed
    /// than to know that it is committed; else the log begins anew.
    fn install(&mut self, snapshot: ReceivedSnapshot, log: &mut Log) -> Result<(), DropReason> {
        let (index, term) = (snapshot.index, snapshot.term);
        if term > self.hard.term || snapshot.configuration.voters.is_empty() {
            return Err(DropReason::Contradiction);
        }
        self.ack_due = true;
        if log.term_at(index) == Some(term) {
            self.verified = self.verified.max(index);
            self.commit_to(index);
            return Ok(());
        }
        self.last_entry_at = self.now;
        self.history.reset(index, snapshot.configuration.clone());
        log.install(snapshot);
        self.storage_replaced(log);
        // What was durable belonged to the log before; this one is once its first write is.
        self.written = LogIndex::ZERO;
        self.durable = if self.sabotaged(Fault::DurableAcrossInstall) { self.durable } else { LogIndex::ZERO };
        self.verified = if self.sabotaged(Fault::VerifiedAcrossInstall) { self.verified } else { index };
        self.conflict = None;
        self.commit_to(index);
        self.mend(log);
        self.install_due = true;
        self.rebuild_peers(log);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_filled_once_also_after_answers_that_tell_of_none() {
        let mut transfer = Transfer::new(SnapshotId::default());
        let answer = |offset, gap_end| ChunkAck { id: SnapshotId::default(), offset, gap_end };
        assert!(transfer.answered(&answer(0, 0)), "the first answer says where to begin");
        assert_eq!((transfer.started, transfer.gap), (true, None));
        transfer.sent = 3000;
        assert!(!transfer.answered(&answer(0, 1000)));
        assert_eq!(transfer.gap.take(), Some((0, 1000)));
        assert!(!transfer.answered(&answer(0, 2000)));
        assert_eq!(transfer.gap, None, "filled already");
        assert!(transfer.answered(&answer(2000, 9000)));
        assert_eq!((transfer.acked, transfer.gap.take()), (2000, Some((2000, 3000))), "what was not sent is no gap");
        assert!(!transfer.answered(&answer(1000, 3000)));
        assert_eq!((transfer.acked, transfer.gap), (2000, None), "an older answer");
        transfer.resend();
        assert_eq!((transfer.sent, transfer.started, transfer.resends), (2000, false, 1));
        assert!(transfer.answered(&answer(500, 0)), "it has lost something");
        assert_eq!((transfer.acked, transfer.sent, transfer.resends), (500, 500, 0));
    }
}
