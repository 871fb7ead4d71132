//! The machine without time, for exhaustive exploration.
//!
//! With its clock stopped and every timer due, a machine is one of finitely many as long as terms and logs are: two that differ
//! only in when things happened become one. What it then does is a superset of what clocks allow, as far as elections go: a
//! timer may fire at any moment, and no voter is kept from voting by having heard a leader.

use super::{Machine, Nanos, Peer, Rounds};

/// A time that has come, unless it never comes.
fn due(at: &mut Nanos) {
    if *at != Nanos::FAR {
        *at = Nanos::ZERO;
    }
}

impl Machine {
    /// This machine with its clock at 0, every timer that is set due, and everything forgotten that only measures time: round
    /// trips, rounds (so that it is good for no reads), jitter. A step of the result at time 0 is a step of a machine whose
    /// clock stands still. O(size of the machine).
    pub fn timeless(&self) -> Machine {
        let mut machine = self.clone();
        machine.now = Nanos::ZERO;
        machine.random = 0;
        machine.no_vote_before = Nanos::ZERO;
        machine.quiet = false;
        for at in [&mut machine.election_at, &mut machine.ask_again_at, &mut machine.join_at, &mut machine.heartbeat_at]
        {
            due(at);
        }
        for at in
            [&mut machine.active_at, &mut machine.led_since, &mut machine.quorum_heard_at, &mut machine.last_entry_at]
        {
            *at = Nanos::ZERO;
        }
        machine.leader_heard = machine.leader_heard.map(|_| Nanos::ZERO);
        (machine.round, machine.echo) = (0, 0);
        machine.rounds = Rounds::default();
        machine.fresh = None;
        machine.joiners.iter_mut().for_each(|joiner| joiner.heard = Nanos::ZERO);
        machine.peers.iter_mut().for_each(Peer::forget_time);
        machine
    }
}

impl Peer {
    fn forget_time(&mut self) {
        self.heard = self.heard.map(|_| Nanos::ZERO);
        self.stuck_since = self.stuck_since.map(|_| Nanos::ZERO);
        for at in [&mut self.since, &mut self.echoed_from, &mut self.mark_at] {
            *at = Nanos::ZERO;
        }
        due(&mut self.resend_at);
        (self.echo, self.round_sent, self.mark) = (0, 0, 0);
        self.forget_round_trips();
    }
}
