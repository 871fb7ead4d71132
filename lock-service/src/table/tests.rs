//! The rules one by one, without log and contexts.

use super::*;

fn at(seconds: u64) -> LogTime {
    LogTime::ZERO + Duration::from_secs(seconds)
}

/// A table with these owners, whose leases end at 100 s.
fn with_owners(owners: &[&str]) -> Locks {
    let mut locks = Locks::default();
    owners.iter().for_each(|owner| locks.open(owner, at(100)));
    locks
}

fn holder(locks: &Locks, name: &str) -> Option<(String, u64)> {
    locks.info(name).holder.map(|holder| (holder.owner, holder.token.0))
}

fn held_by(owner: &str, token: u64) -> Option<(String, u64)> {
    Some((owner.to_owned(), token))
}

#[test]
fn one_holder_and_a_queue_in_order() {
    let mut locks = with_owners(&["a", "b", "c"]);
    let grant = locks.take("l", "a", true).expect("free");
    assert_eq!(grant, Grant { token: Token(1), expires: at(100) });
    assert_eq!(locks.take("l", "b", true), Err(LockError::Queued { ahead: 0, version: 1 }));
    assert_eq!(locks.take("l", "c", true), Err(LockError::Queued { ahead: 1, version: 1 }));
    assert_eq!(locks.put_back("l", "a", Some(Token(1))), Ok(()));
    assert_eq!(holder(&locks, "l"), held_by("b", 2));
    assert_eq!(locks.info("l").waiting, 1);
    assert_eq!(locks.take("l", "b", true).map(|grant| grant.token), Ok(Token(2)), "given without asking again");
    assert_eq!(locks.put_back("l", "b", Some(Token(2))), Ok(()));
    assert_eq!(holder(&locks, "l"), held_by("c", 3));
}

#[test]
fn asking_again_changes_nothing() {
    let mut locks = with_owners(&["a", "b"]);
    let first = locks.take("l", "a", true);
    assert_eq!(locks.take("l", "a", true), first);
    assert_eq!(locks.take("l", "a", false), first);
    let queued = locks.take("l", "b", true);
    assert_eq!(locks.take("l", "b", true), queued);
    assert_eq!(locks.take("l", "b", false), queued, "who waits goes on waiting");
    assert_eq!(locks.info("l").waiting, 1);
}

#[test]
fn a_late_release_does_not_give_back_a_newer_grant() {
    let mut locks = with_owners(&["a", "b"]);
    let old = locks.take("l", "a", true).expect("free").token;
    assert_eq!(locks.put_back("l", "a", Some(old)), Ok(()));
    let new = locks.take("l", "a", true).expect("free").token;
    assert!(new > old);
    assert_eq!(locks.put_back("l", "a", Some(old)), Err(LockError::NotHeld));
    assert_eq!(locks.put_back("l", "b", Some(new)), Err(LockError::NotHeld), "another's token is no key");
    assert_eq!(holder(&locks, "l"), held_by("a", new.0));
    assert_eq!(locks.put_back("l", "nobody", Some(new)), Err(LockError::NoSession));
}

#[test]
fn a_lease_that_ends_passes_everything_on() {
    let mut locks = with_owners(&["a", "b"]);
    for name in ["l", "m"] {
        locks.take(name, "a", true).expect("free");
    }
    locks.take("n", "b", true).expect("free");
    assert!(locks.take("l", "b", true).is_err() && locks.take("n", "a", true).is_err());
    assert!(locks.prolong("a", at(150)) && locks.prolong("a", at(120)));
    assert_eq!(locks.lapse("a", at(100)), Lapse::NotBefore(at(150)), "prolonged, and not shortened since");
    assert_eq!(holder(&locks, "l"), held_by("a", 1));
    assert_eq!(locks.lapse("a", at(150)), Lapse::Over);
    assert_eq!((holder(&locks, "l"), holder(&locks, "m")), (held_by("b", 4), None));
    assert_eq!(locks.info("n").waiting, 0, "the dead do not wait");
    assert!(!locks.prolong("a", at(200)), "it has to begin anew");
    assert_eq!(locks.take("m", "a", true), Err(LockError::NoSession));
}

#[test]
fn closing_gives_back_everything_and_keeps_the_lease() {
    let mut locks = with_owners(&["a", "b"]);
    locks.take("l", "a", true).expect("free");
    locks.take("m", "b", true).expect("free");
    assert!(locks.take("l", "b", true).is_err() && locks.take("m", "a", true).is_err());
    locks.give_up("a");
    assert_eq!((holder(&locks, "l"), locks.info("m").waiting), (held_by("b", 3), 0));
    assert_eq!(locks.renewal("a"), Ok(Renewal { expires: at(100), held: BTreeMap::new() }));
}

#[test]
fn a_version_grows_with_each_change_of_holder_also_of_a_lock_that_was_forgotten() {
    let mut locks = with_owners(&["a", "b"]);
    let mut seen = vec![locks.info("l").version];
    let token = locks.take("l", "a", true).expect("free").token;
    seen.push(locks.info("l").version);
    assert!(locks.take("l", "b", true).is_err());
    assert_eq!(Some(&locks.info("l").version), seen.last(), "a queue is no change of holder");
    locks.put_back("l", "a", Some(token)).expect("held");
    seen.push(locks.info("l").version);
    locks.give_up("b");
    seen.push(locks.info("l").version);
    let (version, _) = locks.free.pop_first().expect("free");
    locks.locks.remove("l");
    locks.forgotten = version;
    assert_eq!(locks.info("l").version, version, "whoever has seen it free need not be woken");
    locks.take("l", "a", true).expect("free");
    seen.push(locks.info("l").version);
    assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
}

#[test]
fn free_locks_are_forgotten_to_make_room_and_held_ones_are_not() {
    let mut locks = Locks::default();
    let owners = LOCKS_MAX / LOCKS_PER_OWNER_MAX;
    for owner in 0..owners {
        locks.open(&owner.to_string(), at(100));
        for lock in 0..LOCKS_PER_OWNER_MAX {
            locks.take(&format!("{owner}/{lock}"), &owner.to_string(), true).expect("room");
        }
    }
    locks.open("late", at(100));
    assert_eq!(locks.take("one more", "late", true), Err(LockError::Full));
    let token = locks.take("7/7", "7", true).expect("held").token;
    locks.put_back("7/7", "7", Some(token)).expect("held");
    let freed = locks.info("7/7").version;
    let newest = locks.take("one more", "late", true).expect("room again").token;
    assert_eq!((locks.locks.len(), newest.0), (LOCKS_MAX, LOCKS_MAX as u64 + 1));
    assert_eq!(locks.info("7/7").version, freed);
}

#[test]
fn limits_refuse_and_change_nothing() {
    let mut locks = with_owners(&["a", "b"]);
    for lock in 0..LOCKS_PER_OWNER_MAX {
        locks.take(&lock.to_string(), "a", true).expect("room");
    }
    assert_eq!(locks.take("one more", "a", true), Err(LockError::TooMany));
    assert!(locks.take("0", "a", true).is_ok(), "what it holds it may ask for");
    for waiter in 0..QUEUE_MAX {
        locks.open(&format!("w{waiter}"), at(100));
        assert!(matches!(locks.take("0", &format!("w{waiter}"), true), Err(LockError::Queued { .. })));
    }
    assert_eq!(locks.take("0", "b", true), Err(LockError::QueueFull));
    assert_eq!(locks.take("0", "b", false), Err(LockError::Held { version: 1 }));
    assert_eq!(locks.put_back("0", "b", None), Err(LockError::NotHeld));
    assert_eq!(locks.put_back("0", "w0", None), Ok(()));
    assert_eq!(locks.take("0", "b", true), Err(LockError::Queued { ahead: QUEUE_MAX as u32 - 1, version: 1 }));
}

#[test]
fn held_locks_are_listed_in_pages() {
    let mut locks = with_owners(&["a"]);
    for name in ["db/1", "db/2", "db/3", "web"] {
        locks.take(name, "a", true).expect("free");
    }
    let token = locks.take("db/2", "a", true).expect("held").token;
    locks.put_back("db/2", "a", Some(token)).expect("held");
    let names = |prefix: &str, after: &str, limit: usize| -> Vec<String> {
        locks.named(prefix, after, limit).into_iter().map(|info| info.name).collect()
    };
    assert_eq!(names("", "", 10), ["db/1", "db/3", "web"]);
    assert_eq!(names("db/", "", 1), ["db/1"]);
    assert_eq!(names("db/", "db/1", 10), ["db/3"]);
    assert!(names("db/", "web", 10).is_empty() && names("x", "", 10).is_empty());
}

#[test]
fn names_and_leases_have_bounds() {
    assert!(check_name("l").is_ok() && check_name(&"l".repeat(NAME_BYTES_MAX)).is_ok());
    assert!(check_name("").is_err() && check_name(&"l".repeat(NAME_BYTES_MAX + 1)).is_err());
    assert!(check_lease(LEASE_MIN).is_ok() && check_lease(LEASE_MAX).is_ok());
    assert!(check_lease(Duration::ZERO).is_err() && check_lease(LEASE_MAX + Duration::from_nanos(1)).is_err());
}

/// What every table must be, whatever was called.
fn assert_sound(locks: &Locks) {
    let mut tokens = BTreeSet::new();
    for (name, lock) in &locks.locks {
        let is_free = locks.free.get(&lock.version) == Some(name);
        assert_eq!(lock.holder.is_none(), is_free, "{name} is free, or held, and not both");
        assert!(lock.holder.is_some() || lock.queue.is_empty(), "{name} is free and waited for");
        assert!(lock.version <= locks.version);
        for waiter in &lock.queue {
            assert!(locks.owners.get(waiter).is_some_and(|session| session.waits.contains(name)), "{waiter}: {name}");
        }
        if let Some(Held { owner, token }) = &lock.holder {
            assert!(tokens.insert(*token) && token.0 <= locks.token, "{token:?} was given twice");
            assert_eq!(locks.owners.get(owner).and_then(|session| session.held.get(name)), Some(token));
        }
    }
    let counted = |of: fn(&Session) -> usize| -> usize { locks.owners.values().map(of).sum() };
    assert_eq!(counted(|session| session.held.len()), tokens.len());
    assert_eq!(
        counted(|session| session.waits.len()),
        locks.locks.values().map(|lock| lock.queue.len()).sum::<usize>()
    );
    assert_eq!(locks.free.len(), locks.locks.len() - tokens.len());
}

#[test]
fn random_calls_leave_the_table_sound_and_tokens_growing() {
    for seed in 1..=50_u64 {
        let (mut locks, mut now, mut random) =
            (Locks::default(), LogTime::ZERO, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut newest: BTreeMap<String, Token> = BTreeMap::new();
        for _ in 0..400 {
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (name, owner, call) = (format!("l{}", draw(3)), format!("o{}", draw(5)), draw(10));
            now = now + Duration::from_secs(draw(3));
            let until = now + Duration::from_secs(draw(10));
            match call {
                0..=4 => {
                    if !locks.prolong(&owner, until) {
                        locks.open(&owner, until);
                    }
                    let _ = locks.take(&name, &owner, call < 4);
                }
                5 | 6 => drop(locks.lapse(&owner, now)),
                7 => locks.give_up(&owner),
                8 => drop(locks.put_back(&name, &owner, None)),
                _ => {
                    let token = locks.renewal(&owner).ok().and_then(|renewal| renewal.held.get(&name).copied());
                    assert_eq!(locks.put_back(&name, &owner, token.or(Some(Token(0)))).is_ok(), token.is_some());
                }
            }
            assert_sound(&locks);
            if let Some(holder) = locks.info(&name).holder {
                let before = newest.insert(name, holder.token);
                assert!(before.is_none_or(|before| before <= holder.token));
            }
        }
    }
}
