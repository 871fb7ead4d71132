//! Nodes that missed more than the log still holds, in simulated clusters.

mod cluster_support;

use cluster_support::{Counter, SECOND, agreed, ask, call, cluster, config, status, write};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;
use trimaran_raft::Limits;
use trimaran_rpc::client::MethodCall;
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, Mark, ReadCx, Service};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex, node_ip};
use trimaran_rpc::state::{Reader, State, StateError, Turns, Writer};
use trimaran_rpc::timers::Timer;

const PUT: u32 = 1;
const COUNT: u32 = 2;
const EXPIRE: u32 = 3;

/// Keeps what it is given, for five seconds of log time each.
#[derive(Default)]
struct Shelf {
    things: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

thread_local! {
    /// Things written down, whole states or not.
    static SAVED: Cell<u64> = const { Cell::new(0) };
    /// Things given back.
    static DISCARDED: Cell<u64> = const { Cell::new(0) };
    static PANICS_THEN: Cell<bool> = const { Cell::new(false) };
}

impl State for Shelf {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.next).await;
        to.len(self.things.len()).await;
        for thing in &self.things {
            SAVED.set(SAVED.get() + 1);
            to.item(&thing).await;
        }
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut shelf = Shelf { next: from.item().await?, ..Shelf::default() };
        for _ in 0..from.len().await? {
            let (number, thing) = from.item().await?;
            shelf.things.insert(number, thing);
        }
        Ok(shelf)
    }

    async fn discard(self, turns: &mut Turns) {
        DISCARDED.set(DISCARDED.get() + self.things.len() as u64);
        if PANICS_THEN.get() {
            // Not by `panic!`, whose hook would print it.
            std::panic::resume_unwind(Box::new("things that were left half done"));
        }
        turns.drop_each(self.things).await;
    }
}

impl Service for Shelf {
    const NAME: &'static str = "shelf";

    fn mark(method: u32) -> Option<Mark> {
        match method {
            PUT => Some(Mark::Replicated),
            COUNT => Some(Mark::Read),
            EXPIRE => Some(Mark::Timer),
            _ => None,
        }
    }

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        if cx.method() == EXPIRE {
            let number = u64::from_le_bytes(request.try_into().expect("eight bytes"));
            self.things.remove(&number);
            return Answer::Ok;
        }
        let number = self.next;
        self.next += 1;
        self.things.insert(number, request.to_vec());
        let timer = Timer { method: EXPIRE, body: number.to_le_bytes().to_vec() };
        cx.set_timer(cx.now() + SECOND * 5, timer).expect("room");
        reply.extend_from_slice(&number.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&(self.things.len() as u64).to_le_bytes());
        Answer::Ok
    }
}

/// A log so small that a node that is away for long misses something.
fn small(seed: u64) -> Cluster<Shelf> {
    let log_limits =
        Limits { log_bytes: 256 << 10, uncommitted_bytes: 64 << 10, entry_bytes: 16 << 10, ..Limits::default() };
    cluster(seed, ClusterConfig { log_limits, ..config() }, Shelf::default)
}

fn isolate(cluster: &Cluster<Shelf>, node: NodeIndex, cut: bool) {
    for other in (0..cluster.nodes()).filter(|other| *other != node.0) {
        for (from, to) in [(node.0, other), (other, node.0)] {
            match cut {
                true => cluster.network().block(node_ip(from), node_ip(to)),
                false => cluster.network().unblock(node_ip(from), node_ip(to)),
            }
        }
    }
}

fn follower(cluster: &Cluster<Shelf>) -> NodeIndex {
    let leader = cluster.leader().expect("a leader");
    NodeIndex((leader.0 + 1) % cluster.nodes())
}

fn things(cluster: &mut Cluster<Shelf>) -> u64 {
    let reply = call(cluster, COUNT, Policy::ReplicatedRouteNoSideEffects, b"").expect("a count").0;
    u64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

/// The state that comes back is the whole of it: the things, and the timers by which they leave again.
#[test]
fn a_node_that_missed_too_much_comes_back_with_state_and_timers() {
    let mut cluster = small(1);
    let away = follower(&cluster);
    isolate(&cluster, away, true);
    cluster.run_for(SECOND * 3);
    for _ in 0..40 {
        write(&mut cluster, PUT, &[7; 8000]);
    }
    let leader = cluster.leader().expect("a leader");
    let first = status(&mut cluster, leader.0).first;
    assert!(first > status(&mut cluster, away.0).last + 1, "the log has gone on without it");
    isolate(&cluster, away, false);
    cluster.run_for(SECOND);
    let applied = agreed(&mut cluster);
    assert_eq!(status(&mut cluster, away.0).applied, applied);
    assert!(status(&mut cluster, away.0).first >= first, "what is before the snapshot is not its to know");
    assert_eq!(things(&mut cluster), 40);
    // It can lead, and its timers fire for all.
    cluster.kill(leader);
    cluster.run_for(SECOND * 8);
    assert_eq!(things(&mut cluster), 0, "everything has expired");
}

/// What it had is given back as the service wants it, once; and where that fails, the state that came holds all the same.
#[test]
fn the_state_before_a_snapshot_is_given_back() {
    for panics in [false, true] {
        let mut cluster = small(5);
        DISCARDED.set(0);
        PANICS_THEN.set(panics);
        for _ in 0..7 {
            write(&mut cluster, PUT, &[7; 8000]);
        }
        cluster.run_for(SECOND);
        let away = follower(&cluster);
        isolate(&cluster, away, true);
        for _ in 0..40 {
            write(&mut cluster, PUT, &[7; 8000]);
        }
        assert_eq!(DISCARDED.get(), 0);
        isolate(&cluster, away, false);
        cluster.run_for(SECOND);
        // Those of the one that was away; and where it had to be sent a later state, too, those of the first that came.
        match status(&mut cluster, away.0).counters["raft.snapshots_installed"] {
            1 => assert_eq!(DISCARDED.get(), 7),
            2 => assert!((7 + 8..7 + 47).contains(&DISCARDED.get()), "{}", DISCARDED.get()),
            more => panic!("{more} snapshots"),
        }
        assert!(agreed(&mut cluster) > 47);
    }
}

/// A follower, and then the leader, writes no more than what is allowed, ever more rarely, and the leader says so; once it fits the node comes back.
#[test]
fn a_state_too_large_to_travel_is_not_written_again_and_again() {
    let log_limits = Limits {
        log_bytes: 256 << 10,
        uncommitted_bytes: 64 << 10,
        entry_bytes: 16 << 10,
        snapshot_bytes: 100_000,
        ..Limits::default()
    };
    let mut cluster = cluster(1, ClusterConfig { log_limits, ..config() }, Shelf::default);
    let away = follower(&cluster);
    isolate(&cluster, away, true);
    for _ in 0..60 {
        write(&mut cluster, PUT, &[7; 8000]);
    }
    cluster.run_for(SECOND);
    let leader = cluster.leader().expect("a leader");
    assert!(
        status(&mut cluster, leader.0).first > status(&mut cluster, away.0).last + 1,
        "the log has gone on without it"
    );
    SAVED.set(0);
    isolate(&cluster, away, false);
    cluster.run_for(SECOND * 3);
    let saved = SAVED.get();
    assert!(
        (13..13 * 7).contains(&saved),
        "{saved} things written: 12 fit, a follower tries once, and a pause doubles"
    );
    let waiting = status(&mut cluster, leader.0).waiting.expect("says why");
    assert!(waiting.contains("100001 bytes") && waiting.contains("snapshot_bytes"), "{waiting}");
    // Everything expires, and the next try succeeds.
    cluster.run_for(SECOND * 12);
    agreed(&mut cluster);
    assert_eq!(status(&mut cluster, leader.0).waiting, None);
}

/// A snapshot of several megabytes takes its time; elections must not come of it.
#[test]
fn a_large_state_delays_no_heartbeat() {
    let log_limits =
        Limits { log_bytes: 1 << 20, uncommitted_bytes: 512 << 10, entry_bytes: 256 << 10, ..Limits::default() };
    let mut cluster = cluster(2, ClusterConfig { log_limits, ..config() }, Shelf::default);
    let away = follower(&cluster);
    isolate(&cluster, away, true);
    cluster.run_for(SECOND * 3);
    for _ in 0..40 {
        write(&mut cluster, PUT, &[7; 100_000]);
    }
    let before = status(&mut cluster, 0).term;
    isolate(&cluster, away, false);
    let back = cluster.run_until(SECOND * 4, |cluster| {
        let applied = |node: usize| {
            cluster.node(NodeIndex(node)).map(|node| node.shard().with_machine(|machine| machine.applied_index()))
        };
        applied(away.0) == cluster.leader().and_then(|leader| applied(leader.0))
    });
    assert!(back, "four megabytes in four seconds");
    assert_eq!(status(&mut cluster, 0).term, before, "nobody called an election");
    agreed(&mut cluster);
}

/// The leader dies in the middle of it; the next one goes on, or begins again.
#[test]
fn a_transfer_outlives_its_leader() {
    let mut cluster = small(3);
    let away = follower(&cluster);
    isolate(&cluster, away, true);
    cluster.run_for(SECOND * 3);
    for _ in 0..40 {
        write(&mut cluster, PUT, &[7; 8000]);
    }
    isolate(&cluster, away, false);
    cluster.run_for(Duration::from_millis(2));
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 2);
    assert!(status(&mut cluster, away.0).applied > 40);
    assert_eq!(things(&mut cluster), 40);
}

/// What is sent to a dead node is dropped, not kept: neither the log nor the packet buffers grow with the calls that it misses.
#[test]
fn a_node_that_is_dead_for_twenty_thousand_calls_costs_its_leader_no_memory() {
    const ROUNDS: u64 = 10;
    const CALLERS: u64 = 20;
    const CALLS: u64 = 100;
    let log_bytes = 256 << 10;
    let log_limits = Limits { log_bytes, uncommitted_bytes: 64 << 10, entry_bytes: 16 << 10, ..Limits::default() };
    let mut cluster = cluster(4, ClusterConfig { log_limits, ..config() }, Counter::default);
    let leader = cluster.leader().expect("a leader");
    let away = NodeIndex((leader.0 + 1) % cluster.nodes());
    cluster.kill(away);
    cluster.run_for(SECOND * 3);
    let mut looks = Vec::new();
    for _ in 0..ROUNDS {
        let done = ask(&mut cluster, |client| async move {
            let caller = async || {
                for _ in 0..CALLS {
                    let call =
                        MethodCall { method: 1, policy: Policy::ReplicatedRoute, shard: 0, body: b"x", server: None };
                    client.call(call, SECOND).await.expect("applied");
                }
            };
            futures::future::join_all((0..CALLERS).map(|_| caller())).await.len() as u64
        });
        assert_eq!(done, CALLERS);
        let status = status(&mut cluster, leader.0);
        looks.push((status.log_bytes, status.packets_in_use));
    }
    assert!(looks.iter().all(|(bytes, _)| *bytes <= log_bytes), "{looks:?}");
    // The one that asks and the one that is answered, and heartbeats on their way.
    assert!(looks.iter().all(|(_, packets)| *packets <= 32), "{looks:?}");
    let first = status(&mut cluster, leader.0).first;
    cluster.restart(away);
    cluster.run_for(SECOND * 2);
    assert!(agreed(&mut cluster) > ROUNDS * CALLERS * CALLS);
    let status = status(&mut cluster, away.0);
    assert!(first > 10_000 && status.first >= first, "a snapshot stands for what the log has forgotten");
    assert_eq!((status.role.as_str(), status.waiting), ("follower", None));
}
