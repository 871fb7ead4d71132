//! Clocks of their own for the nodes, and what reads rest on them.

use super::Cluster;
use trimaran_raft::{Accepted, Error, Input, LogIndex, Nanos, Refused};

impl Cluster {
    /// A node's own clock.
    pub(crate) fn local(&self, index: usize) -> Nanos {
        self.local_at(index, self.now)
    }

    /// When, in the cluster's time, a node waits for its next deadline to pass.
    pub(crate) fn deadline(&self, index: usize) -> u64 {
        let (node, deadline) = (&self.nodes[index], self.machine(index).next_deadline().0);
        if deadline == u64::MAX || node.ppm == 0 {
            return if deadline == u64::MAX { deadline } else { deadline.saturating_sub(node.ahead_ns) };
        }
        let local = u128::from(deadline.saturating_sub(node.ahead_ns));
        let mut now = (local * 1_000_000 / (1_000_000 + i128::from(node.ppm)) as u128) as u64;
        while self.local_at(index, now).0 < deadline {
            now += 1;
        }
        now
    }

    fn local_at(&self, index: usize, now: u64) -> Nanos {
        let node = &self.nodes[index];
        let gained = (i128::from(now) * i128::from(node.ppm)).div_euclid(1_000_000) as i64;
        Nanos(now.saturating_add_signed(gained) + node.ahead_ns)
    }

    /// Begins a read on the leader; it must see what any node knows to be committed now.
    pub(crate) fn read(&mut self, index: usize) -> Result<u64, Error> {
        self.begin_read(index, Input::Read)
    }

    /// As [`Cluster::read`], on any replica.
    pub(crate) fn read_here(&mut self, index: usize) -> Result<u64, Error> {
        self.begin_read(index, Input::ReadHere)
    }

    /// A read under the lease, answered on the spot. `stamp` is what the node thinks that the time is when the read arrives;
    /// the clock is looked at again before the answer leaves.
    pub(crate) fn lease_read(&mut self, index: usize, stamp: Nanos) -> Result<LogIndex, Error> {
        let seen = self.invariants.newest_committed();
        let machine = &self.nodes[index].machine;
        let (term, at) = machine.lease_read(stamp)?;
        if !machine.lease_holds(self.local(index), term) {
            return Err(Error::LeaseEnded);
        }
        self.invariants.lease_reads += 1;
        self.invariants.read_answered(seen, at);
        Ok(at)
    }

    /// A read of a state at most `max_ns` old, answered on the spot.
    pub(crate) fn stale_read(&mut self, index: usize, stamp: Nanos, max_ns: u64) -> Result<LogIndex, Error> {
        let machine = &self.nodes[index].machine;
        let (at, known) = machine.stale_read(stamp, max_ns)?;
        let now = self.local(index);
        if !machine.age_is_within(now, at, max_ns) {
            return Err(Error::TooStale { age_ns: Some(now.since(at)) });
        }
        self.invariants.stale_read_answered(self.now.saturating_sub(max_ns), known);
        Ok(known)
    }

    fn begin_read(&mut self, index: usize, input: Input<'_>) -> Result<u64, Error> {
        let seen = self.invariants.newest_committed();
        match self.step_only(index, input) {
            Ok(Accepted::Read(ticket)) => {
                self.nodes[index].reads.push((ticket, seen));
                self.flush(index);
                Ok(ticket)
            }
            Err(Refused::Request(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}
