//! The service on whole clusters in virtual time, under faults. `TRIMARAN_SEEDS=1000 cargo test -p lock-service --test simulated`
//! runs more of them, `TRIMARAN_SEED=n` one again.

use lock_service::{Guarded, LockError, Locks, LocksClient, Token, Wanted};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use trimaran_rpc::client::{CallError, Client};
use trimaran_rpc::prelude::*;
use trimaran_rpc::runtime::{Instant, now};
use trimaran_rpc::sim::{self, ClientSeat, Faults, Net, Sim};

const LEASE: Duration = Duration::from_millis(400);
const NAMES: [&str; 2] = ["db", "web"];

/// The time in which a client believed to hold a lock.
#[derive(Debug)]
struct Hold {
    name: &'static str,
    owner: String,
    token: Token,
    from: Instant,
    until: Instant,
}

/// What happened beside the cluster: what clients believed, and what was written to what the locks protect.
#[derive(Default)]
struct Seen {
    holds: Vec<Hold>,
    files: BTreeMap<&'static str, Guarded<Vec<Token>>>,
    /// Writes of holders that had been overtaken.
    refused: u64,
}

impl Seen {
    fn write(&mut self, name: &'static str, token: Token) {
        match self.files.entry(name).or_default().access(token) {
            Ok(file) => file.push(token),
            Err(_) => self.refused += 1,
        }
    }

    /// Panics where two believed to hold a lock at a time, or tokens do not tell who came later.
    fn assert_exclusive(&mut self) {
        let mut owners: BTreeMap<Token, (&str, &str)> = BTreeMap::new();
        self.holds.sort_by_key(|hold| hold.from);
        for hold in &self.holds {
            let of = *owners.entry(hold.token).or_insert((hold.name, &hold.owner));
            assert_eq!(of, (hold.name, hold.owner.as_str()), "{:?} was granted twice", hold.token);
        }
        for name in NAMES {
            let holds: Vec<&Hold> = self.holds.iter().filter(|hold| hold.name == name).collect();
            for pair in holds.windows(2) {
                let [before, after] = [pair[0], pair[1]];
                assert!(before.until <= after.from, "two hold at a time:\n{before:?}\n{after:?}");
                let is_same = before.token == after.token;
                assert!(is_same || before.token < after.token, "an older token:\n{before:?}\n{after:?}");
            }
        }
        for (name, file) in &self.files {
            assert!(file.look().is_sorted(), "{name} was written by {:?}", file.look());
        }
    }
}

/// Wants a lock, works under it, gives it back; sometimes it stops in the midst of it and does not notice.
async fn contend(client: Client, mut me: ClientSeat, seen: Rc<RefCell<Seen>>) {
    let locks = LocksClient::on(client);
    for life in 0..6 {
        let (owner, name) = (format!("client {}, life {life}", me.number()), *me.rng.pick(&NAMES));
        let wanted = Wanted { name, owner: &owner, lease: LEASE };
        let Ok((grant, asked)) = wanted.wait(&locks, 30, now).await else { continue };
        let (from, mut until) = (now(), asked + LEASE);
        while me.rng.chance(0.6) {
            let step = Duration::from_millis(me.rng.below(150));
            sim::sleep(step).await;
            let before = now();
            match locks.renew(&owner, LEASE).deadline(Duration::from_millis(150)).await {
                Ok(renewal) => {
                    assert_eq!(renewal.held.get(name), Some(&grant.token), "whoever lives holds what it has");
                    until = before + LEASE;
                }
                Err(CallError::App(error)) => {
                    assert_eq!(error, LockError::NoSession);
                    assert!(now() >= until, "a lease that ended early");
                    break;
                }
                Err(_) => {}
            }
        }
        let is_paused = me.rng.chance(0.3);
        if is_paused {
            sim::sleep(LEASE * 3).await;
        }
        // A paused holder does not look at its lease before it writes: that it is refused is the file's affair.
        if is_paused || now() < until {
            seen.borrow_mut().write(name, grant.token);
        }
        let until = until.min(now());
        seen.borrow_mut().holds.push(Hold { name, owner: owner.clone(), token: grant.token, from, until });
        if me.rng.chance(0.7) {
            let _ = locks.release(name, &owner, grant.token).await;
        }
    }
}

#[test]
fn one_holder_at_a_time_and_growing_tokens_under_faults() {
    let (refused, holds) = (Cell::new(0), Cell::new(0));
    let storm = || Faults::crash_leader().partition(1).pause(Duration::from_millis(300)).every_ms(150);
    sim::run_seeds("exclusive_under_faults", 50, async |sim: Sim<Locks>| {
        sim.net(Net::lossy(0.01).reorder(0.05).duplicate(0.05)).faults(storm());
        let seen: Rc<RefCell<Seen>> = Rc::default();
        let shared = seen.clone();
        let work = move |client, me| contend(client, me, shared.clone());
        sim.clients(4).deadline(Duration::from_millis(300)).each(work).await;
        let mut seen = seen.borrow_mut();
        seen.assert_exclusive();
        sim.assert_replicas_agree();
        refused.set(refused.get() + seen.refused);
        holds.set(holds.get() + seen.holds.len());
    });
    // A run in which nobody was overtaken, or hardly anybody got a lock, would show nothing.
    assert!(
        std::env::var_os("TRIMARAN_SEED").is_some() || (refused.get() > 0 && holds.get() > 100),
        "{refused:?} {holds:?}"
    );
}

/// Two clients, one of which stops for longer than its lease: what fencing is for, step by step.
#[test]
fn a_holder_that_was_paused_is_refused() {
    sim::run_seeds("paused_holder", 10, async |sim: Sim<Locks>| {
        let file = Rc::new(RefCell::new(Guarded::new(Vec::new())));
        let tokens: Rc<RefCell<Vec<Token>>> = Rc::default();
        let (shared, granted) = (file.clone(), tokens.clone());
        let work = move |client, me: ClientSeat| {
            let (file, granted) = (shared.clone(), granted.clone());
            async move {
                let locks = LocksClient::on(client);
                let owner = format!("client {}", me.number());
                let wanted = Wanted { name: "file", owner: &owner, lease: LEASE };
                // The second one comes a little later.
                sim::sleep(Duration::from_millis(50) * me.number()).await;
                let (grant, _) = wanted.wait(&locks, 20, now).await.expect("no faults");
                granted.borrow_mut().push(grant.token);
                if me.number() == 0 {
                    sim::sleep(LEASE * 2).await;
                    assert!(file.borrow_mut().access(grant.token).is_err(), "overtaken");
                    let late = locks.renew(&owner, LEASE).await;
                    assert_eq!(late, Err(CallError::App(LockError::NoSession)));
                } else {
                    file.borrow_mut().access(grant.token).expect("the newest").push(owner);
                }
            }
        };
        sim.clients(2).each(work).await;
        assert!(tokens.borrow().is_sorted_by(|first, second| first < second) && tokens.borrow().len() == 2);
        assert_eq!(*file.borrow().look(), ["client 1"]);
        sim.assert_replicas_agree();
    });
}

/// Whoever renews in time keeps what it holds, whichever nodes die: a lease is in the log, not in a leader's memory.
#[test]
fn a_lease_outlives_its_leaders() {
    sim::run_seeds("outlives_leaders", 20, async |sim: Sim<Locks>| {
        sim.faults(Faults::crash_leader().every_ms(400));
        let work = |client, me: ClientSeat| async move {
            let locks = LocksClient::on(client);
            let lease = Duration::from_secs(4);
            if me.number() == 0 {
                let grant = locks.acquire("db", "holder", lease).await.expect("free");
                for _ in 0..20 {
                    sim::sleep(Duration::from_millis(250)).await;
                    if let Ok(renewal) = locks.renew("holder", lease).await {
                        assert_eq!(renewal.held.get("db"), Some(&grant.token));
                    }
                }
            } else {
                sim::sleep(Duration::from_millis(20)).await;
                for _ in 0..20 {
                    let tried = locks.try_acquire("db", "other", lease).await;
                    let is_held = |error: &CallError<LockError>| match error {
                        CallError::App(error) => matches!(error, LockError::Held { .. }),
                        _ => true,
                    };
                    assert!(tried.as_ref().is_err_and(is_held), "{tried:?}");
                    sim::sleep(Duration::from_millis(230)).await;
                }
            }
        };
        sim.clients(2).each(work).await;
        sim.assert_replicas_agree();
    });
}

/// Each replica tells its watchers soon after the lock has changed hands, and in any case when their patience ends.
#[test]
fn watchers_are_told_soon() {
    sim::run_seeds("watchers", 10, async |sim: Sim<Locks>| {
        let released: Rc<Cell<Option<Instant>>> = Rc::default();
        let told: Rc<Cell<u32>> = Rc::default();
        let (moment, count) = (released.clone(), told.clone());
        let work = move |client, me: ClientSeat| {
            let (released, told) = (moment.clone(), count.clone());
            async move {
                let locks = LocksClient::on(client);
                if me.number() == 0 {
                    let grant = locks.acquire("db", "a", Duration::from_secs(60)).await.expect("free");
                    sim::sleep(Duration::from_millis(500)).await;
                    released.set(Some(now()));
                    locks.release("db", "a", grant.token).await.expect("held");
                    return;
                }
                sim::sleep(Duration::from_millis(100)).await;
                let server = me.servers[me.number() as usize % me.servers.len()];
                let watch = |version, patience_ms| {
                    let patience = Duration::from_millis(patience_ms);
                    locks.watch("db", version, patience).replica(server).deadline(patience + LEASE)
                };
                let unchanged = watch(1, 50).await.expect("an answer");
                assert_eq!((unchanged.version, released.get()), (1, None), "patience ends");
                let changed = watch(1, 10_000).await.expect("an answer");
                let late = now().saturating_since(released.get().expect("nothing else has changed"));
                assert!(changed.holder.is_none() && changed.version == 2, "{changed:?}");
                // The others hear of a commitment with the leader's next heartbeat, every 20 ms.
                assert!(late < Duration::from_millis(50), "told {late:?} later");
                told.set(told.get() + 1);
            }
        };
        sim.clients(7).each(work).await;
        assert_eq!(told.get(), 6);
    });
}
