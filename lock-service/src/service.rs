//! What can be called. The rules are in `table.rs`; here are their names, their limits and their clock.

use crate::table::{Lapse, Locks, check_lease, check_name};
use crate::types::{Grant, LockError, LockInfo, Renewal, Token};
use trimaran_rpc::prelude::*;
use trimaran_rpc::runtime::{sleep_until, timeout_at};

/// Longest that [`Locks::watch`] waits.
pub const WATCH_MAX: Duration = Duration::from_secs(30);
/// Between two looks of one watcher: a change is seen so much later at most, and a thousand watchers cost a busy replica at
/// most so many looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[service]
impl Locks {
    /// Asks for a lock and waits for it: where another owner holds it, the answer is Queued, and the owner gets the lock in
    /// its turn, which `watch` tells. Opens or prolongs the owner's lease. Asking again is harmless.
    #[replicated]
    pub async fn acquire(&mut self, cx: &mut Cx, name: &str, owner: &str, lease: Duration) -> Result<Grant, LockError> {
        self.ask(cx, name, owner, lease, true)
    }

    /// Asks for a lock and does not wait: where another owner holds it, the answer is Held. Opens or prolongs the owner's
    /// lease.
    #[replicated]
    pub async fn try_acquire(
        &mut self,
        cx: &mut Cx,
        name: &str,
        owner: &str,
        lease: Duration,
    ) -> Result<Grant, LockError> {
        self.ask(cx, name, owner, lease, false)
    }

    /// Prolongs the owner's lease, never shortens it, and tells what it holds. NoSession: it has ended, and everything is
    /// lost.
    #[replicated]
    pub async fn renew(&mut self, cx: &mut Cx, owner: &str, lease: Duration) -> Result<Renewal, LockError> {
        check_lease(lease)?;
        self.prolong(owner, cx.now() + lease);
        self.renewal(owner)
    }

    /// Gives back a lock; the next in its queue gets it. The token says which grant is meant, so that a late copy of this
    /// call does not give back a newer one.
    #[replicated]
    pub async fn release(&mut self, cx: &mut Cx, name: &str, owner: &str, token: Token) -> Result<(), LockError> {
        let _ = cx;
        self.put_back(name, owner, Some(token))
    }

    /// Leaves the queue of a lock. NotHeld: the owner does not wait; perhaps it has got the lock.
    #[replicated]
    pub async fn cancel(&mut self, cx: &mut Cx, name: &str, owner: &str) -> Result<(), LockError> {
        let _ = cx;
        self.put_back(name, owner, None)
    }

    /// Gives back all that the owner holds and leaves all queues: the last call of a client that ends in good order.
    #[replicated]
    pub async fn close(&mut self, cx: &mut Cx, owner: &str) {
        let _ = cx;
        self.give_up(owner);
    }

    /// Who holds a lock, and how many wait for it.
    #[read]
    pub async fn holder(&self, _cx: &ReadCx, name: &str) -> LockInfo {
        self.info(name)
    }

    /// The locks that are held, in the order of their names, at most 256: those that begin with `prefix` and come after
    /// `after`.
    #[read]
    pub async fn list(&self, _cx: &ReadCx, prefix: &str, after: &str, limit: u32) -> Vec<LockInfo> {
        self.named(prefix, after, limit as usize)
    }

    /// Waits until the lock has changed hands since `after_version`, at most for `patience` and 30 s, and tells how it is
    /// then. Give the call a deadline that is longer than that.
    #[local]
    pub async fn watch(
        cx: &LocalCx<Self>,
        name: &str,
        after_version: u64,
        patience: Duration,
    ) -> Result<LockInfo, LockError> {
        let give_up = cx.now() + patience.min(WATCH_MAX);
        loop {
            // Before the look: what is applied after it ends the wait below.
            let (applied, wanted) = (cx.applied(), name.to_owned());
            let looked = cx.with_state(move |locks| locks.info(&wanted)).await;
            let info = looked.map_err(|_| LockError::Unavailable)?;
            // A replica that has not come as far as the one that told the version has nothing to say yet.
            if info.version > after_version || cx.now() >= give_up {
                return Ok(info);
            }
            let next_look = give_up.min(cx.now() + LOOK_EVERY);
            // Whether something was applied or the time is over, the next look tells.
            let _ = timeout_at(give_up, cx.applied_past(applied)).await;
            sleep_until(next_look).await;
        }
    }

    /// An owner's lease may have ended.
    #[timer]
    async fn lease_ends(&mut self, cx: &mut Cx, owner: String) {
        let Lapse::NotBefore(at) = self.lapse(&owner, cx.now()) else { return };
        // The timer that has just fired has left its place, so there is room. An owner without a timer would never end.
        if cx.set_timer(at, LocksTimers::lease_ends(owner.clone())).is_err() {
            self.end(&owner);
        }
    }
}

impl Locks {
    fn ask(&mut self, cx: &mut Cx, name: &str, owner: &str, lease: Duration, waits: bool) -> Result<Grant, LockError> {
        check_name(name).and(check_name(owner)).and(check_lease(lease))?;
        let until = cx.now() + lease;
        if !self.prolong(owner, until) {
            if !self.has_room_for_owner() {
                return Err(LockError::Full);
            }
            cx.set_timer(until, LocksTimers::lease_ends(owner.to_owned())).map_err(|_| LockError::Full)?;
            self.open(owner, until);
        }
        self.take(name, owner, waits)
    }
}
