//! What a leader knows of one peer, and what it has on the way to it.

use std::collections::VecDeque;

use super::ask::Asked;
use super::digest::Compared;
use super::donor::Donor;
use super::snapshot::Transfer;
use crate::id::{LogIndex, Member, Nanos, NodeId};
use crate::message::Verdict;

/// How entries go to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Where its log agrees is not known, or an append was lost: one datagram at a time.
    Probe,
    /// Pipelined within the window.
    Replicate,
    /// It needs entries that this log no longer holds, and there is no snapshot yet: it costs only heartbeats.
    OutOfReach,
    /// It is being sent a snapshot.
    Snapshot,
}

/// An append on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct InFlight {
    last: LogIndex,
    bytes: u64,
}

/// One other member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Who and where.
    pub member: Member,
    /// How entries go to it.
    pub state: PeerState,
    /// Durable there and verified with this leader.
    pub matched: LogIndex,
    /// Verified there with this leader.
    pub verified: LogIndex,
    /// Applied there.
    pub applied: LogIndex,
    /// Its digest at `applied`.
    pub digest: u64,
    /// Why its state is not used, as it says itself.
    pub fenced: Option<Verdict>,
    /// It applies nothing more, as it says itself.
    pub stopped: bool,
    /// Bytes of entries after `matched` that it says fit.
    pub credit_bytes: u64,
    /// When it last answered this leader.
    pub heard: Option<Nanos>,
    /// Since when it applies nothing and has no room either, so that it can acknowledge nothing more until it is started again.
    pub(super) stuck_since: Option<Nanos>,
    /// Since when it lags behind a quorum by more than the budget.
    pub(super) lags_since: Option<Nanos>,
    /// When it last had a whole snapshot, how often it has needed another soon afterwards, and when it may have the next.
    pub(super) given_at: Option<Nanos>,
    pub(super) falls: u32,
    pub(super) no_snapshot_before: Nanos,
    /// It holds entries that its device has not.
    pub(super) unwritten: bool,
    /// Since when this leader waits for it.
    pub(super) since: Nanos,

    pub(super) compared: Compared,
    pub(super) vote: Option<bool>,
    pub(super) ask_due: bool,

    pub(super) next: LogIndex,
    pub(super) offset: u32,
    pub(super) echo: u64,
    /// An empty append is owed: heartbeat, read round, or a round to repeat.
    pub(super) beat_due: bool,
    pub(super) probe_due: bool,
    pub(super) commit_sent: LogIndex,
    pub(super) round_sent: u64,
    pub(super) resend_at: Nanos,
    resends: u32,
    /// This leader's snapshot on its way, or who sends another in its place; and that this has not helped.
    pub(super) transfer: Option<Transfer>,
    pub(super) donor: Option<Donor>,
    pub(super) donor_failed: bool,
    /// Its state is too large to be given out, as it says itself.
    pub(super) outgrown: bool,
    /// Its disk gives no more credit, not its memory.
    pub(super) disk_bound: bool,
    /// When the newest round was opened that it has echoed; earlier where that is not known exactly.
    pub(super) echoed_from: Nanos,
    /// A mark of its clock, and when that arrived.
    pub(super) mark: u64,
    pub(super) mark_at: Nanos,
    pub(super) asked: Asked,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// Smoothed round trip and its deviation; 0 before the first sample.
    rtt_ns: u64,
    rtt_deviation_ns: u64,
    sample: Option<(u64, Nanos)>,
}

impl Peer {
    pub(super) fn new(member: Member, next: LogIndex, since: Nanos) -> Self {
        Peer {
            member,
            state: PeerState::Probe,
            matched: LogIndex::ZERO,
            verified: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            digest: 0,
            fenced: None,
            stopped: false,
            compared: Compared::default(),
            credit_bytes: u64::MAX,
            heard: None,
            stuck_since: None,
            lags_since: None,
            given_at: None,
            falls: 0,
            no_snapshot_before: Nanos::ZERO,
            unwritten: false,
            since,
            vote: None,
            ask_due: false,
            next,
            offset: 0,
            echo: 0,
            beat_due: false,
            probe_due: true,
            commit_sent: LogIndex::ZERO,
            round_sent: 0,
            resend_at: Nanos::FAR,
            resends: 0,
            transfer: None,
            donor: None,
            donor_failed: false,
            outgrown: false,
            disk_bound: false,
            echoed_from: Nanos::ZERO,
            mark: 0,
            mark_at: Nanos::ZERO,
            asked: Asked::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            rtt_ns: 0,
            rtt_deviation_ns: 0,
            sample: None,
        }
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.member.id
    }

    /// The next entry it is to be sent.
    pub fn next(&self) -> LogIndex {
        self.next
    }

    /// The smoothed round trip in nanoseconds; 0 before the first sample.
    pub fn rtt_ns(&self) -> u64 {
        self.rtt_ns
    }

    /// Bytes sent and not known to have arrived.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Appends sent and not known to have arrived.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of a snapshot that it has, while it is being sent one.
    pub fn snapshot_bytes(&self) -> Option<u32> {
        let donated = self.donor.map(|donor| donor.seen_bytes());
        self.transfer.map(|transfer| transfer.acked_bytes()).or(donated)
    }

    /// When something sent to it is overdue.
    pub(super) fn deadline(&self) -> Nanos {
        let at = self.transfer.map_or(self.resend_at, |transfer| self.resend_at.min(transfer.deadline()));
        self.donor.map_or(at, |donor| at.min(donor.deadline()))
    }

    pub(super) fn sent(&mut self, last: LogIndex, bytes: u64) {
        self.in_flight.push_back(InFlight { last, bytes });
        self.in_flight_bytes += bytes;
    }

    pub(super) fn arrived(&mut self, verified: LogIndex) {
        while let Some(first) = self.in_flight.front().copied().filter(|first| first.last <= verified) {
            self.in_flight.pop_front();
            self.in_flight_bytes -= first.bytes;
        }
    }

    /// Forgets what is on its way and begins again at `next`, one datagram at a time.
    pub(super) fn probe_from(&mut self, next: LogIndex) {
        self.state = PeerState::Probe;
        self.next = next;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.probe_due = true;
    }

    /// Something that wants an answer leaves now, in `round`.
    pub(super) fn expect_answer(&mut self, now: Nanos, round: u64, heartbeat_ns: u64) {
        self.round_sent = round;
        self.sample.get_or_insert((round, now));
        if self.resend_at == Nanos::FAR {
            self.resend_at = now.after(self.patience_ns(heartbeat_ns));
        }
    }

    /// Whether nothing that wants an answer is without one.
    pub(super) fn has_answered(&self) -> bool {
        self.echo >= self.round_sent && self.in_flight.is_empty()
    }

    /// An answer to `round` came. Progress or not, a later loss is then noticed from here on.
    pub(super) fn answered(&mut self, now: Nanos, round: u64, progressed: bool, heartbeat_ns: u64) {
        self.heard = Some(now);
        let newer = round > self.echo;
        self.echo = self.echo.max(round);
        if let Some((sampled, sent_at)) = self.sample
            && self.echo >= sampled
        {
            self.measure(now.since(sent_at));
            self.sample = None;
        }
        if self.echo >= self.round_sent && self.in_flight.is_empty() && !self.probe_due {
            self.resend_at = Nanos::FAR;
            self.resends = 0;
        } else if newer || progressed {
            self.resends = 0;
            self.resend_at = now.after(self.patience_ns(heartbeat_ns));
        }
    }

    /// The answer is overdue: what is unknown is sent again, with growing patience.
    pub(super) fn resend(&mut self) {
        self.resends = (self.resends + 1).min(16);
        self.resend_at = Nanos::FAR;
        self.sample = None;
        match self.state {
            PeerState::Replicate if !self.in_flight.is_empty() => self.probe_from(self.verified.next()),
            PeerState::Replicate | PeerState::OutOfReach | PeerState::Snapshot => self.beat_due = true,
            PeerState::Probe => self.probe_due = true,
        }
    }

    /// A few measured round trips, never more than a heartbeat, doubled for each resend in vain.
    fn patience_ns(&self, heartbeat_ns: u64) -> u64 {
        self.patience_of(self.resends, heartbeat_ns)
    }

    /// As [`Peer::patience_ns`], after so many resends of something else.
    pub(super) fn patience_of(&self, resends: u32, heartbeat_ns: u64) -> u64 {
        let measured = match self.rtt_ns {
            0 => heartbeat_ns / 2,
            rtt => 2 * rtt + 4 * self.rtt_deviation_ns,
        };
        (measured.max(heartbeat_ns / 16).max(1) << resends).min(heartbeat_ns)
    }

    /// What was measured, and how often in vain something was sent.
    pub(super) fn forget_round_trips(&mut self) {
        (self.rtt_ns, self.rtt_deviation_ns, self.sample, self.resends) = (0, 0, None, 0);
    }

    fn measure(&mut self, sample_ns: u64) {
        let sample_ns = sample_ns.max(1);
        if self.rtt_ns == 0 {
            self.rtt_ns = sample_ns;
            self.rtt_deviation_ns = sample_ns / 2;
        } else {
            let error = sample_ns.abs_diff(self.rtt_ns);
            self.rtt_deviation_ns = (3 * self.rtt_deviation_ns + error) / 4;
            self.rtt_ns = (7 * self.rtt_ns + sample_ns) / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;

    const HEARTBEAT_NS: u64 = 16_000;

    #[test]
    fn patience_follows_what_was_measured_between_a_sixteenth_and_a_whole_heartbeat() {
        let mut peer = Peer::new(member(1), LogIndex(1), Nanos::ZERO);
        assert_eq!(peer.patience_of(0, HEARTBEAT_NS), HEARTBEAT_NS / 2, "nothing is measured yet");
        assert_eq!(peer.patience_of(1, HEARTBEAT_NS), HEARTBEAT_NS);
        peer.measure(1_000);
        assert_eq!((peer.rtt_ns, peer.rtt_deviation_ns), (1_000, 500));
        assert_eq!(peer.patience_of(0, HEARTBEAT_NS), 2 * 1_000 + 4 * 500);
        assert_eq!(peer.patience_of(1, HEARTBEAT_NS), 8_000);
        assert_eq!(peer.patience_of(2, HEARTBEAT_NS), HEARTBEAT_NS, "never longer");
        assert_eq!(peer.patience_of(16, HEARTBEAT_NS), HEARTBEAT_NS);
        peer.measure(1_800);
        assert_eq!((peer.rtt_ns, peer.rtt_deviation_ns), (1_100, 575));
        peer.forget_round_trips();
        peer.measure(0);
        assert_eq!((peer.rtt_ns, peer.rtt_deviation_ns), (1, 0), "a sample counts, however short");
        assert_eq!(peer.patience_of(0, HEARTBEAT_NS), HEARTBEAT_NS / 16, "never shorter");
        assert_eq!(peer.patience_of(0, 0), 0);
    }
}
