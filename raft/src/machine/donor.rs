//! Donors: followers that send their snapshot to a peer in the leader's place.
//!
//! A leader has enough to do, and writing a whole state out holds its apply task up. So where a follower is fit, the leader asks it, and
//! repeats that with each heartbeat for as long as the peer needs the snapshot. What is applied anywhere is committed, and
//! what is committed every later leader has: whose state it is makes no difference to the peer, and a chunk says nothing of who leads. The
//! peer tells its leader in its acknowledgements how far it has got. If it gets no further for long, the leader sends its own.

use super::snapshot::Transfer;
use super::{Action, Machine, Outgoing, Peer, PeerState, ReplyKind, Role};
use crate::error::DropReason;
use crate::id::{LogIndex, Member, Nanos, NodeId, Term};
use crate::log::Log;
use crate::message::{Ack, Envelope, SnapshotAsk};
use crate::sabotage::Fault;

/// How long a donor may take until the peer has a first part, in times that a leader bears a silent member: a large state is written first.
const PATIENCES_TO_BEGIN: u64 = 5;

/// Who sends a peer its snapshot, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Donor {
    id: NodeId,
    /// What it had applied when it was chosen: its snapshot reaches as far at least.
    applied: LogIndex,
    /// The most that the peer has said that it has of it. A donor that begins anew again and again is no good.
    seen_bytes: u32,
    /// Without progress it is given up then.
    until: Nanos,
    /// It is to be asked, and is asked again then.
    ask_due: bool,
    ask_at: Nanos,
}

impl Donor {
    pub(super) fn seen_bytes(&self) -> u32 {
        self.seen_bytes
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.until.min(self.ask_at)
    }
}

/// What a follower sends in its leader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Donation {
    to: Member,
    /// The leader of this term has asked, and will again before this time unless it has changed its mind.
    term: Term,
    until: Nanos,
    /// The least index that is of use.
    least: LogIndex,
    transfer: Option<Transfer>,
}

impl Donation {
    pub(super) fn to(&self) -> NodeId {
        self.to.id
    }

    pub(super) fn transfer(&mut self) -> Option<&mut Transfer> {
        self.transfer.as_mut()
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.transfer.map_or(self.until, |transfer| self.until.min(transfer.deadline()))
    }
}

impl Machine {
    /// To whom this follower sends its snapshot in its leader's place.
    pub fn donates_to(&self) -> Option<NodeId> {
        self.donation.filter(|_| self.may_donate()).map(|donation| donation.to.id)
    }

    /// The least index that this follower's snapshot is of use with.
    pub(super) fn least_donated(&self) -> LogIndex {
        self.donation.map_or(LogIndex::ZERO, |donation| donation.least)
    }

    fn may_donate(&self) -> bool {
        let asked = self.donation.is_some_and(|donation| donation.term == self.hard.term && self.now < donation.until);
        let is_right = self.fenced.is_none() || self.sabotaged(Fault::FencedGivesOut);
        asked && self.role == Role::Follower && is_right && !self.stopped
    }

    /// Leading: the fittest follower that could send this peer a snapshot; each sends one at a time.
    pub(super) fn donor_for(&self, needy: &Peer, log: &Log) -> Option<Donor> {
        if !self.settings.donors || needy.donor_failed {
            return None;
        }
        let is_free = |id| !self.peers.iter().any(|peer| peer.donor.is_some_and(|donor| donor.id == id));
        let fit = self.peers.iter().filter(|peer| self.is_fit_to_begin(peer) && peer.applied >= log.base());
        let best = fit.filter(|peer| is_free(peer.id())).max_by_key(|peer| peer.applied)?;
        Some(Donor {
            id: best.id(),
            applied: best.applied,
            seen_bytes: 0,
            until: self.now.after(PATIENCES_TO_BEGIN * self.patience_with_silence_ns()),
            ask_due: true,
            ask_at: self.now.after(self.settings.heartbeat_ns),
        })
    }

    fn is_fit_to_begin(&self, peer: &Peer) -> bool {
        self.is_fit_to_go_on(peer) && peer.state == PeerState::Replicate && self.keeps_up(peer)
    }

    /// A lost append or a short pause is no reason to begin anew with another, whose snapshot is of another entry.
    fn is_fit_to_go_on(&self, peer: &Peer) -> bool {
        let is_there = peer.heard.is_some_and(|heard| self.now.since(heard) < 2 * self.settings.election_max_ns);
        is_there && peer.fenced.is_none() && !peer.stopped && !peer.compared.differs() && !peer.is_out()
    }

    /// Leading: marks donors that are to be asked again, and gives up those that can do no more, or with which a peer gets no further.
    pub(super) fn watch_donors(&mut self) {
        let (now, patience_ns) = (self.now, self.patience_with_silence_ns());
        for at in 0..self.peers.len() {
            let Some(mut donor) = self.peers[at].donor else { continue };
            if now >= donor.ask_at {
                (donor.ask_due, donor.ask_at) = (true, now.after(self.settings.heartbeat_ns));
                self.peers[at].donor = Some(donor);
            }
            let giver = self.peers.iter().find(|peer| peer.id() == donor.id);
            let is_fit = giver.is_some_and(|giver| self.is_fit_to_go_on(giver));
            // So is every other then, and this leader's own tries become ever rarer.
            let outgrown = giver.is_some_and(|giver| giver.outgrown);
            let giver = giver.map(|giver| giver.member);
            let peer = &mut self.peers[at];
            // Nobody can send anything to one that is silent.
            let answers = peer.heard.is_some_and(|heard| now.since(heard) < patience_ns);
            if is_fit && answers && !outgrown && now < donor.until {
                continue;
            }
            peer.donor_failed = is_fit && answers;
            peer.donor = None;
            peer.state = PeerState::OutOfReach;
            if let Some(giver) = giver {
                // At once, since its state may be in doubt. Where this is lost it ends by itself before long.
                let ask = SnapshotAsk { to: peer.id(), least: SnapshotAsk::NOTHING };
                let _ = self.owe(giver, ReplyKind::SnapshotAsk(ask));
            }
        }
    }

    /// Leading: asks the donors whose turn it is.
    pub(super) fn flush_donors(&mut self, log: &Log, out: &mut Vec<Action>) {
        let term = self.hard.term;
        for at in 0..self.peers.len() {
            let (to, Some(donor)) = (self.peers[at].id(), self.peers[at].donor) else { continue };
            if !donor.ask_due {
                continue;
            }
            if let Some(giver) = self.peers.iter().find(|peer| peer.id() == donor.id) {
                // An older one that it has kept would lack what this log may forget meanwhile.
                let ask = SnapshotAsk { to, least: log.base().max(donor.applied) };
                out.push(Action::Send(giver.member, term, Outgoing::SnapshotAsk(ask)));
            }
            self.peers[at].donor = Some(Donor { ask_due: false, ..donor });
        }
    }

    pub(super) fn on_snapshot_ask(&mut self, header: &Envelope, ask: &SnapshotAsk) -> Result<(), DropReason> {
        if header.term > self.hard.term {
            // It asks again once it has been heard as the leader.
            self.adopt_term(header.term);
            return Ok(());
        }
        if header.term < self.hard.term {
            return Err(DropReason::StaleTerm);
        }
        let is_leader = self.role == Role::Follower && self.leader == Some(header.from);
        if !is_leader || self.fenced.is_some() || self.stopped {
            return Err(DropReason::Unexpected);
        }
        if ask.to == self.settings.me.id || ask.to == header.from {
            return Err(DropReason::Contradiction);
        }
        if ask.least == SnapshotAsk::NOTHING {
            // One that comes late is not about what has been asked for since.
            if self.donation.is_some_and(|donation| donation.to.id == ask.to) {
                self.end_donation();
            }
            return Ok(());
        }
        let to = *self.configuration().member(ask.to).ok_or(DropReason::NotMember)?;
        let same = self.donation.filter(|donation| donation.to.id == to.id && donation.term == header.term);
        if same.is_none() {
            self.tell_of_wish_again();
        }
        self.donation = Some(Donation {
            to,
            term: header.term,
            until: self.now.after(2 * self.settings.election_max_ns),
            least: ask.least,
            transfer: same.and_then(|donation| donation.transfer),
        });
        Ok(())
    }

    /// Following: what the leader has asked for is begun with the snapshot there is, or one is wanted; and what the transfer allows is sent.
    pub(super) fn flush_donation(&mut self, log: &Log, out: &mut Vec<Action>) {
        if !self.may_donate() {
            self.end_donation();
        }
        let Some(mut donation) = self.donation.take() else { return };
        let kept = log.kept_snapshot().filter(|(id, ..)| id.index >= donation.least);
        match kept {
            Some(kept) => {
                let mut transfer = donation.transfer.filter(|transfer| transfer.id() == kept.0);
                let heartbeat_ns = self.settings.heartbeat_ns;
                let patience_ns = |resends: u32| ((heartbeat_ns / 2).max(1) << resends).min(heartbeat_ns);
                let transfer = transfer.get_or_insert_with(|| Transfer::new(kept.0));
                let chunk_bytes = self.settings.chunk_bytes.max(1);
                transfer.flush(donation.to, self.hard.term, kept, chunk_bytes, self.now, patience_ns, out);
                donation.transfer = Some(*transfer);
            }
            None => {
                donation.transfer = None;
                // What is applied here may be too old to be of use.
                self.want_snapshot(self.applied >= donation.least);
            }
        }
        self.donation = Some(donation);
        self.flush_wanted(out);
    }

    /// Nothing is to be sent in a leader's place any more. What was kept for it goes with the next tick, which is due now: a follower that
    /// hears its leader has no other.
    pub(super) fn end_donation(&mut self) {
        self.tidy_due |= self.donation.take().is_some();
    }

    /// Following: resends what is overdue, and forgets what is not wanted any more.
    pub(super) fn tick_donation(&mut self) {
        self.tidy_due = false;
        if !self.may_donate() {
            self.donation = None;
        }
        let now = self.now;
        if let Some(transfer) = self.donation.as_mut().and_then(Donation::transfer)
            && now >= transfer.deadline()
        {
            transfer.resend();
        }
    }
}

impl Peer {
    /// Who sends it a snapshot in this leader's place.
    pub fn donor(&self) -> Option<NodeId> {
        self.donor.map(|donor| donor.id)
    }

    /// It says how far it has got with its donor's snapshot. `base` is where this leader's log begins.
    pub(super) fn watch_progress(
        &mut self,
        ack: &Ack,
        base: LogIndex,
        now: Nanos,
        patience_ns: u64,
        first_pause_ns: u64,
    ) {
        let Some(donor) = &mut self.donor else { return };
        if ack.verified >= base {
            self.given(now);
            self.probe_from(ack.verified.next());
        } else if ack.verified >= donor.applied {
            // It has it, but what follows has left the log meanwhile.
            self.given(now);
            self.fall_out(now, first_pause_ns);
        } else if ack.snapshot_bytes > donor.seen_bytes {
            donor.seen_bytes = ack.snapshot_bytes;
            // What it had of another's leaves this one the time to begin.
            donor.until = donor.until.max(now.after(patience_ns));
        }
    }

    /// It has a whole snapshot.
    pub(super) fn given(&mut self, now: Nanos) {
        self.transfer = None;
        self.donor = None;
        self.donor_failed = false;
        self.given_at = Some(now);
    }
}
