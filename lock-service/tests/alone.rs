//! The service as a replica runs it, alone: calls, log time and timers, but no cluster.

use lock_service::{Grant, LOCKS_PER_OWNER_MAX, LockError, LockInfo, Locks, LocksCalls, Renewal, Token};
use std::convert::Infallible;
use trimaran_rpc::alone::Alone;
use trimaran_rpc::client::{Kind, Request};
use trimaran_rpc::codec::encode;
use trimaran_rpc::prelude::*;
use trimaran_rpc::serde::de::DeserializeOwned;

/// The service, called as clients call it.
struct Calls(Alone<Locks>);

impl Calls {
    fn new() -> Self {
        Calls(Alone::new(Locks::default()))
    }

    #[track_caller]
    fn call<K: Kind, T: DeserializeOwned>(&mut self, call: Request<K, T, LockError>) -> Result<T, LockError> {
        self.0.run(call)
    }

    /// A call that returns no error.
    #[track_caller]
    fn plain<K: Kind, T: DeserializeOwned>(&mut self, call: Request<K, T, Infallible>) -> T {
        let Ok(reply) = self.0.run(call);
        reply
    }

    fn acquire(&mut self, name: &str, owner: &str, lease_s: u64) -> Result<Grant, LockError> {
        self.call(LocksCalls::acquire(name, owner, Duration::from_secs(lease_s)))
    }

    fn renew(&mut self, owner: &str, lease_s: u64) -> Result<Renewal, LockError> {
        self.call(LocksCalls::renew(owner, Duration::from_secs(lease_s)))
    }

    #[track_caller]
    fn holder(&mut self, name: &str) -> Option<(String, u64)> {
        let LockInfo { holder, .. } = self.plain(LocksCalls::holder(name));
        holder.map(|holder| (holder.owner, holder.token.0))
    }

    fn advance(&mut self, seconds: u64) {
        self.0.advance(Duration::from_secs(seconds));
    }
}

#[test]
fn a_lease_ends_in_log_time_unless_it_is_renewed() {
    let mut locks = Calls::new();
    let grant = locks.acquire("l", "a", 10).expect("free");
    assert_eq!(grant.expires.saturating_since(LogTime::ZERO), Duration::from_secs(10));
    assert!(matches!(locks.acquire("l", "b", 60), Err(LockError::Queued { ahead: 0, .. })));
    for _ in 0..5 {
        locks.advance(9);
        assert_eq!(locks.renew("a", 10).map(|renewal| renewal.held["l"]), Ok(grant.token));
        assert!(locks.renew("b", 60).is_ok_and(|renewal| renewal.held.is_empty()));
    }
    locks.advance(9);
    assert_eq!(locks.holder("l"), Some(("a".into(), 1)));
    locks.advance(1);
    assert_eq!(locks.holder("l"), Some(("b".into(), 2)), "at the moment of its end, without any call");
    assert_eq!(locks.renew("a", 10), Err(LockError::NoSession));
    assert_eq!(locks.call(LocksCalls::release("l", "a", grant.token)), Err(LockError::NoSession));
    assert_eq!(locks.renew("b", 60).map(|renewal| renewal.held["l"]), Ok(Token(2)));
}

/// One timer for each owner, however often it renews: a table of timers that grows with every renewal would fill up.
#[test]
fn an_owner_has_one_timer() {
    let mut locks = Calls::new();
    locks.acquire("l", "a", 10).expect("free");
    for _ in 0..1000 {
        locks.renew("a", 10).expect("alive");
        locks.plain(LocksCalls::close("a"));
        locks.acquire("l", "a", 10).expect("free");
    }
    let first = locks.0.next_timer().expect("pending");
    locks.advance(9);
    locks.renew("a", 10).expect("alive");
    locks.advance(1);
    let second = locks.0.next_timer().expect("pending");
    assert_eq!(second.saturating_since(first), Duration::from_secs(9), "moved to the end of the lease, not doubled");
    locks.advance(9);
    assert_eq!((locks.0.next_timer(), locks.holder("l")), (None, None));
}

#[test]
fn tokens_grow_over_all_locks() {
    let mut locks = Calls::new();
    let mut tokens = Vec::new();
    for round in 0..20 {
        let (name, owner) = (format!("l{}", round % 3), format!("o{}", round % 4));
        tokens.push(locks.acquire(&name, &owner, 5).expect("free").token);
        locks.advance(6);
    }
    assert!(tokens.is_sorted_by(|before, after| before < after), "{tokens:?}");
}

#[test]
fn whoever_does_not_wait_is_told_at_once() {
    let mut locks = Calls::new();
    let ask = LocksCalls::try_acquire("l", "b", Duration::from_secs(1));
    locks.acquire("l", "a", 10).expect("free");
    assert_eq!(locks.call(ask), Err(LockError::Held { version: 1 }));
    assert_eq!(locks.call(LocksCalls::cancel("l", "b")), Err(LockError::NotHeld));
    assert!(matches!(locks.acquire("l", "b", 20), Err(LockError::Queued { .. })));
    assert_eq!(locks.call(LocksCalls::cancel("l", "b")), Ok(()));
    locks.advance(11);
    assert_eq!(locks.holder("l"), None, "who left the queue does not get it");
}

#[test]
fn nonsense_is_refused_before_it_opens_a_lease() {
    let mut locks = Calls::new();
    let long = "x".repeat(200);
    for (name, owner, lease_s, error) in [
        ("", "a", 1, LockError::BadName),
        ("l", "", 1, LockError::BadName),
        (&long, "a", 1, LockError::BadName),
        ("l", "a", 0, LockError::BadLease),
        ("l", "a", 601, LockError::BadLease),
        ("l", "a", u64::MAX, LockError::BadLease),
    ] {
        assert_eq!(locks.acquire(name, owner, lease_s), Err(error));
    }
    assert_eq!((locks.renew("a", 1), locks.0.next_timer()), (Err(LockError::NoSession), None));
}

/// Many leases that end at one moment are more than one entry may fire; nothing is lost, nobody is early.
#[test]
fn many_leases_end_together() {
    let mut locks = Calls::new();
    for owner in 0..100 {
        locks.acquire(&format!("l{owner}"), &format!("o{owner}"), 10).expect("free");
    }
    locks.advance(10);
    let held = locks.plain(LocksCalls::list("", "", 100));
    assert!(held.is_empty() && locks.0.next_timer().is_none());
}

#[test]
fn a_saved_state_goes_on_as_if_nothing_had_happened() {
    let run = |reload_every: usize| {
        let mut locks = Calls::new();
        let mut answers = Vec::new();
        for step in 0..200_usize {
            let (name, owner) = (format!("l{}", step % 3), format!("o{}", step * 7 % 5));
            answers.push(match step % 11 {
                0..=5 => format!("{:?}", locks.acquire(&name, &owner, 3)),
                6 | 7 => format!("{:?}", locks.renew(&owner, 2)),
                8 => format!("{:?}", locks.plain(LocksCalls::close(&owner))),
                _ => format!("{:?}", locks.plain(LocksCalls::holder(&name))),
            });
            locks.0.advance(Duration::from_millis(300));
            if step % reload_every == 0 {
                locks.0.reload().expect("what was saved");
            }
        }
        (answers, locks.0.bytes())
    };
    assert_eq!(run(1), run(usize::MAX));
}

#[test]
fn the_largest_answer_fits_into_a_reply() {
    let mut locks = Calls::new();
    for owner in 0..4 {
        for lock in 0..LOCKS_PER_OWNER_MAX {
            let name = format!("{:0>128}", owner * LOCKS_PER_OWNER_MAX + lock);
            locks.acquire(&name, &format!("{owner:0>128}"), 10).expect("room");
        }
    }
    let held = locks.plain(LocksCalls::list("", "", u32::MAX));
    assert_eq!(held.len(), lock_service::LIST_MAX);
    assert!(encode(&held).expect("a form").len() < 254 * 1000, "of 254 packets");
}

trimaran_rpc::check_schema!(Locks, "schema.txt");
