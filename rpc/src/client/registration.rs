//! How a call gets its name: sessions are opened when the first write wants one, and shared by all calls of the client.

use super::error::{CallError, NotApplied, is_passing};
use super::exchange::Shared;
use super::pool::{End, Replaced};
use super::running::{Failure, Naming, Repeat, Running};
use super::{Lane as ClientLane, MethodCall};
use crate::admin::method_key;
use crate::r2p2::{Policy, Status};
use crate::session::{CallId, REGISTER};
use std::rc::Rc;
use std::time::Duration;
use trimaran_raft::{ClusterId, LogIndex};
use trimaran_runtime::{Instant, Lane, now, recv_or_deadline, spawn_in};

/// A call's name, and what becomes of it when the call has ended. Where the call is dropped instead, nobody asks for it any
/// more.
pub(super) struct Claim<'a> {
    shared: &'a Shared,
    pub(super) id: CallId,
    /// Another call under the same name may be on its way, or the name is not from this client.
    is_ours: bool,
    pub(super) end: End,
}

impl<'a> Claim<'a> {
    fn new(shared: &'a Shared, id: CallId, is_ours: bool) -> Claim<'a> {
        Claim { shared, id, is_ours, end: End::Forget }
    }

    /// A name that a call of earlier had. Where it is this client's, the window waits for it again.
    pub(super) fn again(shared: &'a Shared, id: CallId) -> Claim<'a> {
        let is_ours = shared.pool.borrow_mut().resume(id);
        Claim::new(shared, id, is_ours)
    }
}

/// One of the calls that wait for a name.
struct Place<'a>(&'a Shared);

impl<'a> Place<'a> {
    /// # Errors
    /// As many calls wait as may be on their way: one more would only be late, too.
    fn take(shared: &'a Shared) -> Result<Place<'a>, CallError> {
        let most = shared.pool.borrow().writes_max();
        if shared.nameless.get() >= most {
            return Err(CallError::NotApplied(NotApplied::SessionsFull(most)));
        }
        shared.nameless.set(shared.nameless.get() + 1);
        Ok(Place(shared))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.nameless.set(self.0.nameless.get() - 1);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.is_ours {
            self.shared.pool.borrow_mut().end(self.id, self.end);
            self.shared.pool_changed.notify();
        }
    }
}

impl ClientLane {
    /// A fresh name, at once where a session has room. Else a session is opened, unless there are as many as may be; then
    /// the call waits for another one to end.
    pub(super) async fn claim(&self, map_version: u32, deadline: Instant) -> Result<Claim<'_>, CallError> {
        let mut round = None;
        let mut place = None;
        loop {
            let pool = &self.shared.pool;
            pool.borrow().check().map_err(replaced)?;
            if let Some(id) = pool.borrow_mut().take() {
                if round.is_some() {
                    // One notification wakes one call. There may be room for the next as well.
                    self.shared.pool_changed.notify();
                }
                return Ok(Claim::new(&self.shared, id, true));
            }
            if place.is_none() {
                place = Some(Place::take(&self.shared)?);
            }
            let has_room = pool.borrow().has_room();
            if has_room {
                self.follow_round(map_version, &mut round)?;
            }
            if now() >= deadline {
                let refusal = pool.borrow().refusal.filter(|_| has_room);
                let full = NotApplied::SessionsFull(pool.borrow().writes_max());
                let why = if has_room { NotApplied::NotTaken } else { full };
                return Err(refusal.unwrap_or(CallError::NotApplied(why)));
            }
            round.get_or_insert(0);
            self.pool_changed(deadline).await;
        }
    }

    /// Before its first read, a client that has written nothing learns in passing which cluster it is that answers, so that
    /// another one cannot answer later.
    pub(super) fn get_pinned(&self, map_version: u32) {
        let is_due = {
            let pool = self.shared.pool.borrow();
            pool.pin() == 0 && !pool.is_registering && pool.refusal.is_none_or(|refusal| is_passing(&refusal))
        };
        if is_due && self.shared.config.sessions {
            // Nobody waits for it, so nobody hears why it fails.
            let _ = self.follow_round(map_version, &mut None);
        }
    }

    /// Asks the cluster who it is, by opening one more session: it has just denied that it knows this client.
    pub(super) async fn identify(&self, map_version: u32, deadline: Instant) -> Result<(), CallError> {
        let before = self.shared.pool.borrow().rounds;
        let mut round = None;
        while now() < deadline {
            self.shared.pool.borrow().check().map_err(replaced)?;
            if self.shared.pool.borrow().rounds > before && self.shared.pool.borrow().refusal.is_none() {
                self.shared.pool_changed.notify();
                return Ok(());
            }
            self.follow_round(map_version, &mut round)?;
            self.pool_changed(deadline).await;
        }
        Ok(())
    }

    /// Keeps a registration on its way. `round` is the one that the caller waits for.
    ///
    /// # Errors
    /// Where that has ended for a reason that waiting cannot mend.
    fn follow_round(&self, map_version: u32, round: &mut Option<u64>) -> Result<(), CallError> {
        let (rounds, is_registering, refusal) = {
            let pool = self.shared.pool.borrow();
            (pool.rounds, pool.is_registering, pool.refusal)
        };
        let at = *round.get_or_insert(rounds);
        let is_final = |refusal: &CallError| !is_passing(refusal);
        if let Some(refusal) = refusal.filter(|refusal| at < rounds && is_final(refusal)) {
            self.shared.pool_changed.notify();
            return Err(refusal);
        }
        if !is_registering {
            *round = Some(rounds);
            let mut pool = self.shared.pool.borrow_mut();
            pool.is_registering = true;
            // What was final for that registration need not be for this one.
            pool.refusal = refusal.filter(|refusal| !is_final(refusal));
            drop(pool);
            let shared = Rc::clone(&self.shared);
            let task = spawn_in(Lane::Normal, "client register", async move { register(&shared, map_version).await });
            *self.registering.borrow_mut() = Some(task);
        }
        Ok(())
    }

    /// Waits for news of the sessions, or a little while: a notification wakes one call only, and that one may not pass it
    /// on to the one that it concerns. The more calls wait, the more seldom each of them looks by itself.
    async fn pool_changed(&self, deadline: Instant) {
        let crowd = 1 + self.shared.nameless.get() / LOOKING_AT_A_TIME;
        let until = deadline.min(now() + self.shared.config.probe * crowd as u32);
        recv_or_deadline(self.shared.pool_changed.notified(), until).await;
    }
}

/// Of the calls that wait for a name so many look for one in each `probe`.
const LOOKING_AT_A_TIME: usize = 64;

/// Least time for a registration, for clients whose calls have less.
const REGISTRATION_MIN: Duration = Duration::from_secs(1);

/// One registration, whatever becomes of it. The nonce stays the same until one succeeds, so that one that succeeded unheard
/// leaves no session behind.
async fn register(shared: &Shared, map_version: u32) {
    let nonce = shared.pool.borrow().nonce().to_le_bytes();
    let call = MethodCall {
        method: method_key(REGISTER),
        policy: Policy::ReplicatedRoute,
        shard: shared.shard,
        body: &nonce,
        server: None,
    };
    // No caller waits for it longer than its own deadline allows, and one that gives up before its answer comes opens nothing.
    let deadline = now() + shared.config.deadline.max(REGISTRATION_MIN);
    let manner = (Naming::Registration, Repeat::Recognised);
    let end = match Running::segments(shared, &call) {
        Ok(segments) => Running::new(shared, &call, None, segments, manner, map_version, deadline).run().await,
        Err(error) => Err(error.into()),
    };
    let mut pool = shared.pool.borrow_mut();
    match end {
        Ok(reply) if reply.status == Status::Ok && reply.body.len() == 16 && reply.block.index != 0 => {
            let cluster = reply.body.iter().rev().fold(0, |id, byte| id << 8 | u128::from(*byte));
            pool.opened(ClusterId(cluster), LogIndex(reply.block.index));
        }
        Ok(_) => pool.refusal = Some(CallError::BadReply),
        // Nothing the caller asked for has been sent, so nothing of it is in doubt.
        Err(Failure::Call(CallError::Unknown { .. }) | Failure::SessionExpired { .. }) => {}
        Err(Failure::WrongShard { .. }) => pool.refusal = Some(CallError::NotApplied(NotApplied::WrongShard)),
        Err(Failure::Call(error)) => pool.refusal = Some(error),
    }
    pool.rounds += 1;
    pool.is_registering = false;
    drop(pool);
    shared.pool_changed.notify();
}

pub(super) fn replaced(_: Replaced) -> CallError {
    CallError::ClusterReplaced
}
