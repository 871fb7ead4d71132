//! Reads of every consistency in a workload, and the check of those that no order of operations binds.
//!
//! What a client was told bears a log index. So it is enough to note when which index was acknowledged to anyone: a read of at least
//! an index may not answer from an earlier one, and a read of a state at most so old must know what was acknowledged so long before
//! it began.

use super::rng::SimRng;
use crate::client::{CallError, Consistency, OwnedCall, Replica, Reply};
use crate::r2p2::{Policy, Status};
use std::time::Duration;
use trimaran_raft::LogIndex;
use trimaran_runtime::Instant;

/// Ages in milliseconds that are drawn for stale reads: from what a follower can only just keep to far more.
pub const AGE_MS: std::ops::Range<u64> = 30..300;

/// What all clients of one shard have been told so far.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// When an index was first known to be acknowledged, both growing.
    known: Vec<(Instant, LogIndex)>,
    /// Reads that were held against it.
    pub(super) checked: u64,
}

impl Acknowledged {
    fn note(&mut self, at: Instant, index: LogIndex) {
        if self.known.last().is_none_or(|newest| newest.1 < index) {
            self.known.push((at, index));
        }
    }

    /// The newest index that somebody had been told by then.
    fn by(&self, at: Instant) -> LogIndex {
        let after = self.known.partition_point(|known| known.0 <= at);
        after.checked_sub(1).map_or(LogIndex::ZERO, |newest| self.known[newest].1)
    }

    /// The newest index that somebody was told.
    pub fn newest(&self) -> LogIndex {
        self.known.last().map_or(LogIndex::ZERO, |newest| newest.1)
    }

    /// Gives a read a consistency, and half of them a replica that must answer.
    pub(super) fn draw(&self, call: &mut OwnedCall, rng: &mut SimRng, replicas: u8, leases: bool) {
        if call.request.policy != Policy::ReplicatedRouteNoSideEffects {
            return;
        }
        call.consistency = match rng.below(8) {
            0 | 1 => Consistency::Linearizable,
            2..=4 if leases => Consistency::Lease,
            2..=4 => Consistency::Linearizable,
            // Not its own newest alone: anybody may hand an index on.
            5 => Consistency::AtLeast(self.newest()),
            6 => Consistency::Stale { max: Duration::from_millis(AGE_MS.start + rng.below(AGE_MS.end - AGE_MS.start)) },
            _ => Consistency::Any,
        };
        call.replica = rng.chance(0.5).then(|| Replica::Slot(rng.below(u64::from(replicas)) as u8 + 1));
    }

    /// Notes what a call that began at `begun` was told, and checks it.
    ///
    /// # Errors
    /// An answer is from an earlier state than its consistency allows: which, in words.
    pub fn check(
        &mut self,
        call: &OwnedCall,
        begun: Instant,
        now: Instant,
        end: &Result<Reply, CallError>,
    ) -> Result<(), String> {
        let Ok(reply) = end else { return Ok(()) };
        if !matches!(reply.status, Status::Ok | Status::App) {
            return Ok(());
        }
        let index = LogIndex(reply.block.index);
        let is_read = call.request.policy == Policy::ReplicatedRouteNoSideEffects;
        let least = match call.consistency {
            _ if !is_read && call.request.policy != Policy::ReplicatedRoute => return Ok(()),
            _ if !is_read => LogIndex::ZERO,
            Consistency::Linearizable | Consistency::Lease => self.by(begun),
            Consistency::AtLeast(index) => index,
            Consistency::Stale { max } => self.by(Instant::from_nanos(
                begun.as_nanos().saturating_sub(u64::try_from(max.as_nanos()).unwrap_or(u64::MAX)),
            )),
            Consistency::Any => return Ok(()),
        };
        if index < least {
            return Err(format!(
                "a read of consistency {} was answered by {} from entry {index}; by what clients had been told it must see {least}",
                call.consistency, reply.from
            ));
        }
        self.checked += u64::from(is_read);
        self.note(now, index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::AnyRequest;
    use crate::r2p2::ResponseBlock;

    const SECOND: u64 = 1_000_000_000;

    fn told(
        consistency: Consistency,
        request: AnyRequest,
        begun_s: u64,
        index: u64,
        known: &mut Acknowledged,
    ) -> Result<(), String> {
        let from = "10.0.0.1:8000".parse().expect("an address");
        let block = ResponseBlock { index, ..ResponseBlock::default() };
        let reply = Reply { status: Status::Ok, body: Vec::new(), block, from };
        let call = OwnedCall { consistency, ..OwnedCall::new(request) };
        let begun = Instant::from_nanos(begun_s * SECOND);
        known.check(&call, begun, begun + Duration::from_millis(1), &Ok(reply))
    }

    /// Writes at 10, 20 and 30 s with their indexes, then a read that begins at 31 s.
    fn read(consistency: Consistency, index: u64) -> bool {
        let mut known = Acknowledged::default();
        for write in [10, 20, 30] {
            told(Consistency::Linearizable, AnyRequest::write(1, []), write, write, &mut known).expect("a write");
        }
        told(consistency, AnyRequest::read(1, []), 31, index, &mut known).is_ok()
    }

    #[test]
    fn answers_are_held_against_what_was_told_before() {
        let stale = |seconds| Consistency::Stale { max: Duration::from_secs(seconds) };
        for (consistency, least) in [
            (Consistency::Linearizable, 30),
            (Consistency::Lease, 30),
            (Consistency::AtLeast(LogIndex(7)), 7),
            (stale(0), 30),
            (stale(2), 20),
            (stale(12), 10),
            (stale(60), 0),
            (Consistency::Any, 0),
        ] {
            assert!(read(consistency, least), "{consistency} from {least}");
            assert!(least == 0 || !read(consistency, least - 1), "{consistency} from {}", least - 1);
        }
    }
}
