//! The replicated state: who holds what, who waits, until when each owner is believed to live.
//!
//! A function of the calls executed so far and the log times they carry, nothing else. Limits are constants for the same
//! reason: from a configuration they could differ between replicas.

use crate::types::{Grant, Holder, LEASE_MAX, LEASE_MIN, LockError, LockInfo, NAME_BYTES_MAX, Renewal, Token};
use std::collections::VecDeque;
use std::ops::Bound;
use trimaran_rpc::prelude::*;

/// Locks remembered at a time. Free ones are forgotten, the longest free first, to make room; where all are held, a new one
/// is refused.
pub const LOCKS_MAX: usize = 65_536;
/// Owners with a lease at a time.
pub const OWNERS_MAX: usize = 16_384;
/// Locks that one owner may hold or wait for.
pub const LOCKS_PER_OWNER_MAX: usize = 64;
/// Owners that may wait for one lock.
pub const QUEUE_MAX: usize = 256;
/// Locks that one answer lists.
pub const LIST_MAX: usize = 256;

/// The state of one replica.
#[derive(Debug, Default, State)]
pub struct Locks {
    locks: BTreeMap<String, Lock>,
    owners: BTreeMap<String, Session>,
    /// Locks that nobody holds, by their version: the longest free first.
    free: BTreeMap<u64, String>,
    /// The newest token.
    token: u64,
    /// The newest version.
    version: u64,
    /// The newest version of a lock that was forgotten. Who asks for a lock that is not there is told this one.
    forgotten: u64,
}

#[data]
#[derive(Debug, Default)]
struct Lock {
    holder: Option<Held>,
    /// In the order in which they get it. Empty where there is no holder.
    queue: VecDeque<String>,
    version: u64,
}

#[data]
#[derive(Debug)]
struct Held {
    owner: String,
    token: Token,
}

/// One owner: exactly one timer is pending for it.
#[data]
#[derive(Debug)]
struct Session {
    expires: LogTime,
    held: BTreeMap<String, Token>,
    waits: BTreeSet<String>,
}

/// What the timer of an owner's lease finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// The lease ends later than it did when the timer was set.
    NotBefore(LogTime),
    /// It has ended now, or earlier.
    Over,
}

impl Locks {
    /// Prolongs an owner's lease, never shortens it. `false`: it has none.
    pub(crate) fn prolong(&mut self, owner: &str, until: LogTime) -> bool {
        let session = self.owners.get_mut(owner);
        session.map(|session| session.expires = session.expires.max(until)).is_some()
    }

    /// Whether one more owner may come.
    pub(crate) fn has_room_for_owner(&self) -> bool {
        self.owners.len() < OWNERS_MAX
    }

    /// Gives an owner a lease that has none.
    pub(crate) fn open(&mut self, owner: &str, until: LogTime) {
        let session = Session { expires: until, held: BTreeMap::new(), waits: BTreeSet::new() };
        self.owners.insert(owner.to_owned(), session);
    }

    /// The timer of the owner's lease has fired. Where the lease is over, the owner loses all that it held.
    pub(crate) fn lapse(&mut self, owner: &str, now: LogTime) -> Lapse {
        match self.owners.get(owner) {
            Some(session) if session.expires > now => Lapse::NotBefore(session.expires),
            _ => {
                self.end(owner);
                Lapse::Over
            }
        }
    }

    /// The owner's lease is over, and all that it held.
    pub(crate) fn end(&mut self, owner: &str) {
        self.give_up(owner);
        self.owners.remove(owner);
    }

    /// Takes an owner's locks and its places in queues. Its lease runs on.
    pub(crate) fn give_up(&mut self, owner: &str) {
        let Some(session) = self.owners.get_mut(owner) else { return };
        let (held, waits) = (std::mem::take(&mut session.held), std::mem::take(&mut session.waits));
        for name in &waits {
            self.leave_queue(name, owner);
        }
        for name in held.keys() {
            self.pass_on(name);
        }
    }

    /// The lock for an owner with a lease, at once or, if it waits, later. Asking again changes nothing.
    pub(crate) fn take(&mut self, name: &str, owner: &str, waits: bool) -> Result<Grant, LockError> {
        let session = self.owners.get(owner).ok_or(LockError::NoSession)?;
        let expires = session.expires;
        if let Some(&token) = session.held.get(name) {
            return Ok(Grant { token, expires });
        }
        let is_known = session.waits.contains(name);
        if !is_known && session.held.len() + session.waits.len() >= LOCKS_PER_OWNER_MAX {
            return Err(LockError::TooMany);
        }
        if !self.locks.contains_key(name) {
            self.make_room()?;
        }
        let lock = self.locks.entry(name.to_owned()).or_default();
        if lock.holder.is_none() {
            return Ok(Grant { token: self.grant(name, owner), expires });
        }
        let version = lock.version;
        if is_known {
            let ahead = lock.queue.iter().position(|other| other == owner).unwrap_or(lock.queue.len());
            return Err(LockError::Queued { ahead: ahead as u32, version });
        }
        if !waits {
            return Err(LockError::Held { version });
        }
        if lock.queue.len() >= QUEUE_MAX {
            return Err(LockError::QueueFull);
        }
        let ahead = lock.queue.len() as u32;
        lock.queue.push_back(owner.to_owned());
        self.session(owner, |session| {
            session.waits.insert(name.to_owned());
        });
        Err(LockError::Queued { ahead, version })
    }

    /// Gives back a lock held under `token`, or leaves its queue where `token` is `None`.
    pub(crate) fn put_back(&mut self, name: &str, owner: &str, token: Option<Token>) -> Result<(), LockError> {
        let session = self.owners.get_mut(owner).ok_or(LockError::NoSession)?;
        match token {
            Some(token) if session.held.get(name) == Some(&token) => {
                session.held.remove(name);
                self.pass_on(name);
                Ok(())
            }
            None if session.waits.remove(name) => {
                self.leave_queue(name, owner);
                Ok(())
            }
            _ => Err(LockError::NotHeld),
        }
    }

    /// What an owner holds.
    pub(crate) fn renewal(&self, owner: &str) -> Result<Renewal, LockError> {
        let session = self.owners.get(owner).ok_or(LockError::NoSession)?;
        Ok(Renewal { expires: session.expires, held: session.held.clone() })
    }

    /// How a lock is; of one that is not known, that it is free.
    pub(crate) fn info(&self, name: &str) -> LockInfo {
        match self.locks.get(name) {
            Some(lock) => self.describe(name, lock),
            None => LockInfo { name: name.to_owned(), holder: None, waiting: 0, version: self.forgotten },
        }
    }

    /// The locks that are held, by name: those that begin with `prefix` and come after `after`.
    pub(crate) fn named(&self, prefix: &str, after: &str, limit: usize) -> Vec<LockInfo> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let named =
            self.locks.range::<str, _>((from, Bound::Unbounded)).take_while(|(name, _)| name.starts_with(prefix));
        let held = named.filter(|(_, lock)| lock.holder.is_some());
        held.take(limit.min(LIST_MAX)).map(|(name, lock)| self.describe(name, lock)).collect()
    }

    fn describe(&self, name: &str, lock: &Lock) -> LockInfo {
        let holder = lock.holder.as_ref().map(|Held { owner, token }| Holder {
            owner: owner.clone(),
            token: *token,
            expires: self.owners.get(owner).map_or(LogTime::ZERO, |session| session.expires),
        });
        LockInfo { name: name.to_owned(), holder, waiting: lock.queue.len() as u32, version: lock.version }
    }

    /// Room for one more lock.
    fn make_room(&mut self) -> Result<(), LockError> {
        if self.locks.len() < LOCKS_MAX {
            return Ok(());
        }
        let (version, name) = self.free.pop_first().ok_or(LockError::Full)?;
        self.locks.remove(&name);
        self.forgotten = self.forgotten.max(version);
        Ok(())
    }

    /// Makes `owner` the holder of a lock that nobody holds.
    fn grant(&mut self, name: &str, owner: &str) -> Token {
        self.token += 1;
        self.version += 1;
        let token = Token(self.token);
        if let Some(lock) = self.locks.get_mut(name) {
            self.free.remove(&lock.version);
            lock.version = self.version;
            lock.holder = Some(Held { owner: owner.to_owned(), token });
        }
        self.session(owner, |session| {
            session.waits.remove(name);
            session.held.insert(name.to_owned(), token);
        });
        token
    }

    /// The holder has gone: the next in the queue gets the lock, or it is free.
    fn pass_on(&mut self, name: &str) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        lock.holder = None;
        if let Some(next) = lock.queue.pop_front() {
            self.grant(name, &next);
            return;
        }
        self.version += 1;
        lock.version = self.version;
        self.free.insert(self.version, name.to_owned());
    }

    /// O(length of the queue).
    fn leave_queue(&mut self, name: &str, owner: &str) {
        if let Some(lock) = self.locks.get_mut(name) {
            lock.queue.retain(|other| other != owner);
        }
    }

    fn session(&mut self, owner: &str, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.owners.get_mut(owner) {
            change(session);
        }
    }
}

/// A name of a lock or an owner.
pub(crate) fn check_name(name: &str) -> Result<(), LockError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) { Ok(()) } else { Err(LockError::BadName) }
}

/// A lease that neither ends on its way nor keeps others out for ever.
pub(crate) fn check_lease(lease: Duration) -> Result<(), LockError> {
    if (LEASE_MIN..=LEASE_MAX).contains(&lease) { Ok(()) } else { Err(LockError::BadLease) }
}

#[cfg(test)]
mod tests;
