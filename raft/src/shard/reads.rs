//! Reads of every kind, on any replica.
//!
//! | [`Consistency`] | sees | asks | where |
//! |---|---|---|---|
//! | `Linearizable` | all that was acknowledged before it began | one round to a quorum, shared | everywhere |
//! | `Lease` | the same, if clocks keep their bound | nobody while the lease lasts, else as above | leader; elsewhere as above |
//! | `AtLeast` | what its token stands for: the caller's own writes, or what it has read before | nobody | everywhere |
//! | `Stale` | all that was acknowledged so long ago | nobody | everywhere |
//!
//! ```text
//! let permit = shard.read(Consistency::Lease).await?;     // the state has got far enough
//! let reply = look_at(&state);                            // may await, may take its time
//! send(permit.release(reply)?);                           // looks at the clock again: only now may it leave
//! ```

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::futures::{ReadBarrier, Wait};
use super::{Inner, Instant, Shard, now, sleep_until, stamp};
use crate::error::{Error, ReadError};
use crate::id::{LogIndex, Nanos, Term, nanos_of};
use crate::machine::{Accepted, Input};
use crate::sabotage::Fault;
use crate::storage::{MemoryStorage, Storage};
use crate::transport::Transport;

/// What a read must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Everything that was acknowledged to anyone before the read began.
    Linearizable,
    /// The same, without asking anyone while this leader's lease lasts. Needs [`crate::ReadSettings::lease`] and
    /// [`Shard::set_clock`]; else, and on other replicas, as `Linearizable`.
    Lease,
    /// At least the entry at this index. Any replica can serve it; it waits for [`crate::ReadSettings::patience`] at most.
    AtLeast(LogIndex),
    /// Everything that was acknowledged this long ago. Any replica that hears its leader can serve it, down to about two
    /// heartbeats; refused where what is known is older. In a quiet group the leader is asked.
    Stale {
        /// How old the state may be.
        max: Duration,
    },
}

/// What a permit depends on until its answer leaves.
#[derive(Debug, Clone, Copy)]
enum Basis {
    /// Nothing more.
    Settled,
    /// The lease of this term.
    Lease(Term),
    /// The age of what was fresh at this time.
    Age(Nanos, u64),
}

/// Leave to look at the applied state, see [`Shard::read`]. The answer leaves through [`ReadPermit::release`].
#[derive(Debug)]
#[must_use = "an answer that does not pass through `release` may be stale"]
pub struct ReadPermit<T: Transport, S: Storage = MemoryStorage> {
    shard: Shard<T, S>,
    basis: Basis,
    index: LogIndex,
}

impl<T: Transport, S: Storage> ReadPermit<T, S> {
    /// What was applied at least when the permit was given.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// Whether nobody was asked, because of a lease.
    pub fn is_under_lease(&self) -> bool {
        matches!(self.basis, Basis::Lease(_))
    }

    /// Gives the answer back if it may leave, with the clock read anew. Costs a reading of the clock; asks nobody.
    ///
    /// # Errors
    /// Meanwhile the lease has ended, the answer has grown too old, or this state was found to be wrong. The read may be
    /// tried again.
    pub fn release<R>(self, answer: R) -> Result<R, ReadError> {
        let inner = self.shard.inner.borrow();
        let (machine, now) = (&inner.machine, inner.clock());
        if machine.sabotaged(Fault::ReleaseUnchecked) {
            return Ok(answer);
        }
        inner.check_serving()?;
        match self.basis {
            Basis::Settled => Ok(answer),
            Basis::Lease(term) if machine.lease_holds(now, term) => Ok(answer),
            Basis::Lease(_) => Err(Error::LeaseEnded),
            Basis::Age(at, max_ns) if machine.age_is_within(now, at, max_ns) => Ok(answer),
            Basis::Age(at, _) => Err(Error::TooStale { age_ns: Some(now.since(at)) }),
        }
    }
}

impl<T: Transport, S: Storage> Shard<T, S> {
    /// Gives the shard a clock that is read each time it is called: the monotonic clock in production, the core's own in a
    /// simulation. The stamp of a turn, which everything else goes by, is too old after a pause inside of the turn. Without
    /// it no lease is used, and ages go by the stamp.
    pub fn set_clock(&self, clock: impl Fn() -> Instant + 'static) {
        self.inner.borrow_mut().clock = Some(Box::new(clock));
    }

    /// Waits until the state applied here may answer a read of this kind, and gives leave to look at it. Costs what the table
    /// of this module says, and at most [`crate::Limits::waiting_applies`] wait for the apply task at once.
    ///
    /// # Errors
    /// No leader is known or it has changed meanwhile; this replica's state is not used any more; what it knows is too old, or
    /// it does not get far enough within [`crate::ReadSettings::patience`]; too many wait. Nothing has happened, and the read may be
    /// tried again, here or elsewhere.
    pub async fn read(&self, how: Consistency) -> Result<ReadPermit<T, S>, ReadError> {
        let (basis, index) = match self.without_asking(how) {
            Some(known) => known?,
            None => (Basis::Settled, self.read_anywhere().await?),
        };
        self.applied_soon(index).await?;
        Ok(ReadPermit { shard: self.clone(), basis, index })
    }

    /// As [`Shard::read`], where that is decided at once: nobody is asked, nothing is waited for, and nothing allocated. `None`: it
    /// takes more, and nothing has begun.
    pub fn try_read(&self, how: Consistency) -> Option<Result<ReadPermit<T, S>, ReadError>> {
        let (basis, index) = match self.without_asking(how)? {
            Ok(known) => known,
            Err(error) => return Some(Err(error)),
        };
        let applied = self.inner.borrow().has_applied(index)?;
        Some(applied.map(|()| ReadPermit { shard: self.clone(), basis, index }))
    }

    /// What a read depends on, and what must be applied for it, where this node knows both by itself.
    fn without_asking(&self, how: Consistency) -> Option<Result<(Basis, LogIndex), ReadError>> {
        if how == Consistency::Linearizable {
            return None;
        }
        // Reads that ask nobody are use all the same, without which the leader might not know of any.
        let was_quiet = {
            let inner = &mut *self.inner.borrow_mut();
            let was_quiet = inner.machine.is_quiet();
            let _ = inner.ask(Input::LeaderWanted);
            was_quiet
        };
        match how {
            Consistency::Linearizable => None,
            Consistency::Lease => self.under_lease().map(|(term, index)| Ok((Basis::Lease(term), index))),
            Consistency::AtLeast(index) => Some(Ok((Basis::Settled, index))),
            Consistency::Stale { max } => {
                let (inner, max_ns) = (self.inner.borrow(), nanos_of(max));
                let known = inner.machine.stale_read(inner.clock(), max_ns);
                // A quiet leader is heard so rarely that what it says is old: it is asked instead, which is never less.
                if was_quiet && known.is_err() {
                    return None;
                }
                Some(known.map(|(at, index)| (Basis::Age(at, max_ns), index)))
            }
        }
    }

    fn under_lease(&self) -> Option<(Term, LogIndex)> {
        let inner = self.inner.borrow();
        let clock = inner.clock.as_ref()?;
        inner.machine.lease_read(Nanos(clock().as_nanos())).ok()
    }

    /// As [`Shard::read_barrier`], on any replica: the leader is asked where this is not the one.
    pub fn read_anywhere(&self) -> ReadBarrier<T, S> {
        self.begin_read(Input::ReadHere)
    }

    pub(super) fn begin_read(&self, input: Input<'_>) -> ReadBarrier<T, S> {
        let inner = &mut *self.inner.borrow_mut();
        let ticket = match inner.ask(input) {
            Ok(Accepted::Read(ticket)) => {
                inner.reads.open(ticket);
                inner.wake();
                Ok(ticket)
            }
            Ok(_) => Err(Error::Overloaded),
            Err(refused) => Err(inner.refused(refused)),
        };
        ReadBarrier { shard: self.clone(), ticket }
    }

    /// As [`Shard::applied_at_least`], within limits.
    async fn applied_soon(&self, index: LogIndex) -> Result<(), ReadError> {
        let _place = {
            let inner = &mut *self.inner.borrow_mut();
            if let Some(applied) = inner.has_applied(index) {
                return applied;
            }
            if inner.waiting_applies >= inner.machine.limits().waiting_applies {
                inner.counters.overloaded += 1;
                return Err(Error::Overloaded);
            }
            inner.waiting_applies += 1;
            Place { shard: self }
        };
        let mut wait = Wait { shard: self, list: |inner| &mut inner.applied, key: None };
        let reached = |inner: &mut Inner<T, S>| inner.has_applied(index).ok_or(index);
        let mut patience = pin!(sleep_until(now() + self.inner.borrow().read_patience));
        poll_fn(|cx| match wait.poll(cx, reached) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => patience.as_mut().poll(cx).map(|_| {
                let applied = self.inner.borrow().machine.applied_index();
                Err(Error::NotYet { applied })
            }),
        })
        .await
    }
}

/// One of the places among those that wait for the apply task.
struct Place<'a, T: Transport, S: Storage> {
    shard: &'a Shard<T, S>,
}

impl<T: Transport, S: Storage> Drop for Place<'_, T, S> {
    fn drop(&mut self) {
        self.shard.inner.borrow_mut().waiting_applies -= 1;
    }
}

impl<T, S> Inner<T, S> {
    /// The clock as it is now, or as it was when the turn began.
    fn clock(&self) -> Nanos {
        self.clock.as_ref().map_or_else(stamp, |clock| Nanos(clock().as_nanos()))
    }

    /// Whether the state is at least the one after `index`.
    pub(super) fn state_reaches(&self, index: LogIndex) -> bool {
        // A state that waits to be loaded is none yet.
        self.received.is_none() && self.machine.applied_index() >= index
    }

    /// Whether the state may be looked at for what was known at `index`; `None`: not yet.
    fn has_applied(&self, index: LogIndex) -> Option<Result<(), Error>> {
        let there = self.state_reaches(index) || self.machine.sabotaged(Fault::ReadUnapplied);
        match self.check_serving() {
            Ok(()) => there.then_some(Ok(())),
            refused => Some(refused),
        }
    }

    fn check_serving(&self) -> Result<(), Error> {
        let unused = self.machine.fenced().is_some() || self.machine.has_stopped();
        if unused { Err(Error::NotServing) } else { Ok(()) }
    }
}
