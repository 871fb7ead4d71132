//! Waiting for a lock, as a client does it: ask, watch, ask again.

use crate::service::{LocksClient, WATCH_MAX};
use crate::types::{Grant, LockError};
use std::time::Duration;
use trimaran_rpc::client::{CallError, Caller};

/// What a watch may take beyond its patience: the way there and back, and a busy replica.
const WATCH_MARGIN: Duration = Duration::from_secs(1);

/// Who wants which lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The lock.
    pub name: &'a str,
    /// The owner, unique to this life of this client.
    pub owner: &'a str,
    /// How long the owner is believed to live without a word. It is renewed at least three times as often while it waits.
    pub lease: Duration,
}

impl Wanted<'_> {
    /// Asks for the lock and waits for it, for `rounds` questions at most, each with a watch of up to a third of the lease. A
    /// question without an answer is asked again: it is the same question.
    ///
    /// `clock` is read before each question. What it said before the one that was granted is returned: the caller holds
    /// the lock from now until its lease after that, by the same clock, unless it renews.
    ///
    /// # Errors
    /// The last question's. The owner has left the queue then, as far as the cluster could be reached; if it could not, the end
    /// of the lease does it.
    pub async fn wait<C: Caller, T>(
        &self,
        locks: &LocksClient<C>,
        rounds: u32,
        clock: impl Fn() -> T,
    ) -> Result<(Grant, T), CallError<LockError>> {
        let patience = (self.lease / 3).min(WATCH_MAX);
        let mut asked = self.ask(locks, &clock).await;
        for _ in 1..rounds {
            match &asked {
                Ok(_) => return asked,
                Err(CallError::App(LockError::Queued { version, .. })) => {
                    // Whatever comes of it, the next question tells.
                    let watch = locks.watch(self.name, *version, patience);
                    let _ = watch.deadline(patience + WATCH_MARGIN).await;
                }
                Err(CallError::App(_)) => return asked,
                Err(_) => {}
            }
            asked = self.ask(locks, &clock).await;
        }
        if asked.is_err()
            && matches!(locks.cancel(self.name, self.owner).await, Err(CallError::App(LockError::NotHeld)))
        {
            // It was granted in between.
            asked = self.ask(locks, &clock).await;
        }
        asked
    }

    async fn ask<C: Caller, T>(
        &self,
        locks: &LocksClient<C>,
        clock: &impl Fn() -> T,
    ) -> Result<(Grant, T), CallError<LockError>> {
        let before = clock();
        locks.acquire(self.name, self.owner, self.lease).await.map(|grant| (grant, before))
    }
}
