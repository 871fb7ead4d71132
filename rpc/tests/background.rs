//! What the log does by itself, in simulated clusters: timers, effects, randomness; and what one replica does alone.

mod cluster_support;

use cluster_support::{SECOND, agreed, ask, call, config, status, write};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::client::{CallError, MethodCall, NotApplied};
use trimaran_rpc::outbox::{Effect, EffectId};
use trimaran_rpc::r2p2::{Policy, Refusal};
use trimaran_rpc::service::{Answer, Cx, LocalCx, Mark, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_rpc::timers::Timer;

const ADD: u32 = 1;
const LATER: u32 = 2;
const MAIL: u32 = 3;
const RANDOM: u32 = 4;
const COUNT: u32 = 5;
const HERE: u32 = 6;
const WATCH: u32 = 7;
const FIRED: u32 = 8;
const POST: u32 = 9;

thread_local! {
    /// Effects as the world outside has seen them: which node carried out what.
    static POSTED: RefCell<Vec<EffectId>> = const { RefCell::new(Vec::new()) };
    /// How many effects panic from now on.
    static PANICS: Cell<u32> = const { Cell::new(0) };
    /// How long an effect takes.
    static TAKES_MS: Cell<u64> = const { Cell::new(1) };
}

/// Counts, at once and later, and mails.
#[derive(Default)]
struct Clock {
    added: u64,
    fired: Vec<(u64, u64)>,
}

impl State for Clock {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.added).await;
        to.item(&self.fired).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Clock { added: from.item().await?, fired: from.item().await? })
    }
}

impl Service for Clock {
    const NAME: &'static str = "clock";

    fn mark(method: u32) -> Option<Mark> {
        Some(match method {
            ADD | LATER | MAIL | RANDOM => Mark::Replicated,
            COUNT => Mark::Read,
            HERE | WATCH => Mark::Local,
            FIRED => Mark::Timer,
            POST => Mark::Effect,
            _ => return None,
        })
    }

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        match cx.method() {
            ADD => self.added += 1,
            LATER => {
                let wait = Duration::from_millis(u64::from(request[0]));
                cx.set_timer(cx.now() + wait, Timer { method: FIRED, body: request.to_vec() }).expect("room");
            }
            MAIL => drop(cx.after_commit(Effect { method: POST, body: request.to_vec() }).expect("room")),
            FIRED => self.fired.push((u64::from(request[0]), cx.now().as_nanos() / 1_000_000)),
            _ => {
                let drawn = cx.rng().next_u64();
                self.added ^= drawn;
                reply.extend_from_slice(&drawn.to_le_bytes());
            }
        }
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.added.to_le_bytes());
        Answer::Ok
    }

    async fn local(cx: LocalCx<Self>, request: Vec<u8>) -> (Answer, Vec<u8>) {
        let look = || cx.with_state(|clock: &Clock| clock.added);
        if cx.method() == HERE {
            return (Answer::Ok, look().await.map_or(Vec::new(), |added| added.to_le_bytes().to_vec()));
        }
        // A long poll: answers when the count has passed what the client knows.
        loop {
            let seen = cx.applied();
            let added = look().await.expect("a state");
            if added > u64::from(request[0]) {
                return (Answer::App, vec![added as u8]);
            }
            cx.applied_past(seen).await;
        }
    }

    async fn effect(cx: LocalCx<Self>, body: Vec<u8>) -> Answer {
        assert!(cx.is_leader(), "only the leader speaks to the world");
        match body.as_slice() {
            b"stuck" => std::future::pending().await,
            b"of tomorrow" => return Answer::Refused(Refusal::UnknownMethod),
            _ => {}
        }
        if PANICS.get() > 0 {
            PANICS.set(PANICS.get() - 1);
            panic!("asked to");
        }
        trimaran_runtime::sleep(Duration::from_millis(TAKES_MS.get())).await;
        POSTED.with_borrow_mut(|posted| posted.extend(cx.effect()));
        Answer::Ok
    }
}

fn cluster(seed: u64) -> Cluster<Clock> {
    POSTED.take();
    PANICS.set(0);
    TAKES_MS.set(1);
    cluster_support::cluster(seed, config(), Clock::default)
}

#[test]
fn timers_fire_in_an_idle_cluster_in_order_and_on_every_replica() {
    let mut cluster = cluster(1);
    write(&mut cluster, LATER, &[90]);
    write(&mut cluster, LATER, &[30]);
    let before = agreed(&mut cluster);
    cluster.run_for(SECOND);
    let after = agreed(&mut cluster);
    assert_eq!(after, before + 2, "one tick for each of the two moments, and no more");
    cluster.run_for(SECOND);
    assert_eq!(agreed(&mut cluster), after, "nothing is pending, so nothing ticks");
}

/// The next leader knows the timers from the log, and its log time goes on where the last one's stood.
#[test]
fn a_timer_survives_its_leader() {
    let mut cluster = cluster(2);
    write(&mut cluster, LATER, &[250]);
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 2);
    let left: Vec<_> = (0..3).filter(|node| *node != leader.0).collect();
    let statuses: Vec<_> = left.iter().map(|node| status(&mut cluster, *node)).collect();
    assert!(statuses.iter().any(|status| status.role == "leader"));
    let chains: Vec<_> = statuses.iter().map(|status| status.digest.expect("a digest").chain).collect();
    assert_eq!(chains[0], chains[1]);
    // Election, then the tick: entries beyond the write's own.
    let applied = statuses[0].applied;
    cluster.run_for(SECOND * 2);
    assert_eq!(status(&mut cluster, left[0]).applied, applied, "it fires once");
}

#[test]
fn many_timers_of_one_moment_all_fire() {
    let mut cluster = cluster(3);
    for _ in 0..20 {
        write(&mut cluster, LATER, &[200]);
    }
    let before = agreed(&mut cluster);
    cluster.run_for(SECOND);
    assert!((before + 3..=before + 20).contains(&agreed(&mut cluster)), "eight with each tick");
}

#[test]
fn an_effect_is_carried_out_by_the_leader_and_leaves_the_outbox() {
    let mut cluster = cluster(4);
    write(&mut cluster, MAIL, b"one");
    write(&mut cluster, MAIL, b"two");
    cluster.run_for(SECOND);
    assert_eq!(POSTED.with_borrow(Vec::len), 2);
    // A new leader finds nothing left to do.
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 2);
    assert_eq!(POSTED.with_borrow(Vec::len), 2);
}

/// The leader dies while the effect is under way: the next one does it again, since nobody can know how far it came.
#[test]
fn an_effect_outlives_its_leader() {
    let mut cluster = cluster(5);
    TAKES_MS.set(400);
    write(&mut cluster, MAIL, b"one");
    cluster.run_for(Duration::from_millis(200));
    assert_eq!(POSTED.with_borrow(Vec::len), 0);
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 3);
    let posted = POSTED.take();
    assert_eq!(posted.len(), 1, "{posted:?}");
}

#[test]
fn an_effect_that_panics_is_tried_again() {
    let mut cluster = cluster(6);
    PANICS.set(3);
    write(&mut cluster, MAIL, b"one");
    cluster.run_for(SECOND * 2);
    assert_eq!((POSTED.with_borrow(Vec::len), PANICS.get()), (1, 0));
    let counted: u64 =
        (0..3).filter_map(|node| status(&mut cluster, node).counters.get("server.effect_failed").copied()).sum();
    assert_eq!(counted, 3);
}

/// As many as may run at a time wait for a world that does not answer; the next one has its turn all the same.
#[test]
fn effects_that_never_end_keep_no_other_from_its_turn() {
    let mut cluster = cluster(11);
    for _ in 0..64 {
        write(&mut cluster, MAIL, b"stuck");
    }
    write(&mut cluster, MAIL, b"one");
    cluster.run_for(SECOND);
    assert_eq!(POSTED.with_borrow(Vec::len), 0);
    cluster.run_for(SECOND * 35);
    assert_eq!(POSTED.with_borrow(Vec::len), 1);
}

/// A build that does not know an effect must not call it done: another may know it.
#[test]
fn an_effect_that_this_build_does_not_know_stays_open() {
    let mut cluster = cluster(12);
    write(&mut cluster, MAIL, b"of tomorrow");
    cluster.run_for(SECOND);
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 2);
    let left: Vec<_> = (0..3).filter(|node| *node != leader.0).map(|node| status(&mut cluster, node)).collect();
    let met: u64 = left.iter().filter_map(|status| status.counters.get("server.effect_unknown")).sum();
    assert_eq!(met, 1, "the next leader meets it again");
}

#[test]
fn every_replica_draws_the_same_and_every_entry_something_else() {
    let mut cluster = cluster(7);
    let first = write(&mut cluster, RANDOM, b"");
    let second = write(&mut cluster, RANDOM, b"");
    assert_ne!(first, second);
    cluster.run_for(Duration::from_millis(100));
    agreed(&mut cluster);
}

#[test]
fn the_mark_decides_whatever_the_policy_says() {
    let mut cluster = cluster(8);
    let refused = |why| Err(CallError::NotApplied(NotApplied::Refused(why)));
    for (method, policy, why) in [
        (ADD, Policy::LbRoute, Refusal::PolicyMismatch),
        (ADD, Policy::ReplicatedRouteNoSideEffects, Refusal::PolicyMismatch),
        (COUNT, Policy::ReplicatedRoute, Refusal::PolicyMismatch),
        (HERE, Policy::ReplicatedRoute, Refusal::PolicyMismatch),
        (HERE, Policy::ReplicatedRouteNoSideEffects, Refusal::PolicyMismatch),
        (FIRED, Policy::ReplicatedRoute, Refusal::UnknownMethod),
        (POST, Policy::LbRoute, Refusal::UnknownMethod),
        (77, Policy::ReplicatedRoute, Refusal::UnknownMethod),
    ] {
        assert_eq!(call(&mut cluster, method, policy, &[1]), refused(why), "{method} {policy:?}");
    }
    let counts: Vec<u64> = ["r2p2.policy_mismatch", "r2p2.unknown_method"]
        .map(|name| (0..3).filter_map(|node| status(&mut cluster, node).counters.get(name).copied()).sum())
        .into();
    assert_eq!(counts, [5, 3]);
    let count = call(&mut cluster, COUNT, Policy::ReplicatedRouteNoSideEffects, b"").expect("a count").0;
    assert_eq!(count, 0u64.to_le_bytes(), "nothing was changed");
}

#[test]
fn a_local_handler_sees_the_state_and_may_wait_for_it_to_change() {
    let mut cluster = cluster(9);
    write(&mut cluster, ADD, b"");
    let here = call(&mut cluster, HERE, Policy::LbRoute, b"").expect("an answer").0;
    assert!(here == 1u64.to_le_bytes() || here == 0u64.to_le_bytes(), "any replica, however old");
    let waited = Rc::new(Cell::new(None));
    let told = waited.clone();
    let servers = cluster.addresses();
    let server = Some(servers[0]);
    cluster.client(servers, move |client| async move {
        let call = MethodCall { method: WATCH, policy: Policy::FixedRoute, shard: 0, body: &[1], server };
        let reply = client.call(call, SECOND * 10).await.expect("a change");
        told.set(Some((reply.status, reply.body[0])));
    });
    cluster.run_for(SECOND);
    assert_eq!(waited.get(), None);
    write(&mut cluster, ADD, b"");
    cluster.run_for(Duration::from_millis(200));
    assert_eq!(waited.get(), Some((trimaran_rpc::r2p2::Status::App, 2)));
}

/// A read may ask for a state no older than what its client has seen.
#[test]
fn a_read_of_any_replica_waits_for_the_index_it_names() {
    let mut cluster = cluster(10);
    let (_, index) = call(&mut cluster, ADD, Policy::ReplicatedRoute, b"").expect("applied");
    assert!(index > 0);
    let NodeIndex(follower) = (0..3).map(NodeIndex).find(|node| Some(*node) != cluster.leader()).expect("a follower");
    let address = cluster.addresses()[follower];
    let read = ask(&mut cluster, move |client| async move {
        let call = MethodCall { method: COUNT, policy: Policy::FixedRoute, shard: 0, body: b"", server: Some(address) };
        client.call(call, SECOND).await.map(|reply| reply.body)
    });
    assert!(read.is_ok());
}
