//! The simulator as authors of services use it: a correct service passes, and each planted bug is found and named.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trimaran_rpc::client::{CallError, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, Mark, ReadCx, Service};
use trimaran_rpc::sim::{self, AnyRequest, Faults, Net, Sim, SimRng, Workload};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

const ADD: u32 = 0xadd;
const GET: u32 = 0x9e7;

/// A sum, and what a test wants to be wrong with it.
#[derive(Default)]
struct Counter<const BUG: u8> {
    sum: u64,
    adds: u64,
    address: u64,
}

/// Replies depend on where in the process the replica is.
const REPLIES_ADDRESS: u8 = 1;
/// Only the saved state does.
const SAVES_ADDRESS: u8 = 2;
/// The hundredth add is one too many.
const PANICS: u8 = 3;

/// Stands for an address: another one for every replica made in this process.
static REPLICAS: AtomicU64 = AtomicU64::new(1);

impl<const BUG: u8> State for Counter<BUG> {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.sum).await;
        to.item(&self.adds).await;
        to.item(&if BUG == SAVES_ADDRESS { self.address } else { 0 }).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Counter { sum: from.item().await?, adds: from.item().await?, address: from.item().await? })
    }
}

impl<const BUG: u8> Service for Counter<BUG> {
    const NAME: &'static str = "counter";

    fn mark(method: u32) -> Option<Mark> {
        match method {
            ADD => Some(Mark::Replicated),
            GET => Some(Mark::Read),
            _ => None,
        }
    }

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.adds += 1;
        assert!(BUG != PANICS || self.adds < 100, "the counter is full");
        self.sum += u64::from(request[0]);
        if self.address == 0 {
            self.address = REPLICAS.fetch_add(1, Ordering::Relaxed);
        }
        let shown = self.sum + if BUG == REPLIES_ADDRESS { self.address } else { 0 };
        reply.extend(shown.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend(self.sum.to_le_bytes());
        Answer::Ok
    }
}

fn adds_and_gets(count: u64) -> Workload<impl FnMut(&mut SimRng) -> AnyRequest> {
    sim::ops(count, |rng| match rng.chance(0.5) {
        true => AnyRequest::write(ADD, [1 + rng.below(9) as u8]),
        false => AnyRequest::read(GET, []),
    })
}

/// The message of a run that must fail.
fn failure(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the bug was not found");
    panic.downcast_ref::<String>().cloned().expect("a message")
}

#[test]
fn a_correct_service_passes_under_faults() {
    sim::run_seeds("a_correct_service_passes_under_faults", 50, |sim: Sim<Counter<0>>| async move {
        sim.net(Net::lossy(0.01).reorder(0.05).duplicate(0.05)).faults(Faults::crash_leader().every_ms(50));
        let history = sim.clients(4).deadline(Duration::from_millis(500)).run(adds_and_gets(400)).await;
        assert_eq!(history.len(), 400);
        history.check_linearizable();
        sim.assert_replicas_agree();
    });
}

#[test]
fn every_kind_of_fault_strikes_and_does_no_harm() {
    sim::run_seeds("every_kind_of_fault_strikes", 20, |sim: Sim<Counter<0>>| async move {
        let storm = Faults::crash_any().partition(2).pause(Duration::from_millis(300)).clock_drift(100_000);
        sim.nodes(5).faults(storm.every_ms(60));
        let history = sim.clients(3).deadline(Duration::from_millis(500)).run(adds_and_gets(300)).await;
        history.check_linearizable();
        sim.assert_replicas_agree();
    });
}

#[test]
fn the_swarm_of_faults_finds_nothing_in_a_correct_service() {
    sim::run_seeds("swarm", 20, |sim: Sim<Counter<0>>| async move {
        sim.nodes(3).faults(Faults::swarm());
        let history = sim.clients(4).deadline(Duration::from_millis(400)).run(adds_and_gets(200)).await;
        history.check_linearizable();
        sim.assert_replicas_agree();
    });
}

#[test]
fn a_write_that_is_made_again_after_an_unknown_outcome_is_found() {
    let told = failure(|| {
        sim::run_seeds("retries_unknown_writes", 50, |sim: Sim<Counter<0>>| async move {
            sim.net(Net::lossy(0.2));
            let history = sim.clients(2).each(|client, mut me| async move {
                for _ in 0..30 {
                    let request = AnyRequest::write(ADD, [1]);
                    let recording = me.begin(&request);
                    let end = loop {
                        // A new call each time, and one operation: what at-most-once is there to prevent.
                        match sim::submit(&client, &request, Duration::from_millis(30)).await {
                            Err(CallError::Unknown { .. }) => {}
                            end => break end,
                        }
                    };
                    recording.end(end.as_ref());
                }
            });
            history.await.check_linearizable();
        });
    });
    assert!(told.contains("is not linearizable: no place for") && told.contains("write 00000add(\"\\x01\")"), "{told}");
    assert!(told.contains("TRIMARAN_SEED=") && told.contains("retries_unknown_writes: seed "), "{told}");
    let artefacts = told.rsplit_once("packets and history: ").expect("where they are").1;
    let history = std::fs::read_to_string(format!("{artefacts}/history.json")).expect("a history");
    assert!(history.starts_with("[\n{\"client\":") && history.ends_with("}\n]\n"), "{history}");
    let packets = std::fs::read(format!("{artefacts}/trace.pcap")).expect("packets");
    assert!(packets.len() > 10_000, "{} bytes", packets.len());
}

#[test]
fn replies_that_differ_between_replicas_are_found() {
    let told = failure(|| {
        sim::run_seeds("replies_differ", 50, |sim: Sim<Counter<REPLIES_ADDRESS>>| async move {
            sim.clients(1).run(adds_and_gets(10)).await;
            sim.assert_replicas_agree();
        });
    });
    assert!(told.contains("replied otherwise") && told.contains("00000add"), "{told}");
}

#[test]
fn states_that_differ_behind_equal_replies_are_found() {
    let told = failure(|| {
        sim::run_seeds("states_differ", 50, |sim: Sim<Counter<SAVES_ADDRESS>>| async move {
            sim.clients(1).run(adds_and_gets(10)).await;
            sim.assert_replicas_agree();
        });
    });
    assert!(told.contains("save other states") && told.contains("nodes 0: state "), "{told}");
}

#[test]
fn a_stale_read_that_passes_for_a_linearizable_one_is_found() {
    let told = failure(|| {
        sim::run_seeds("stale_reads", 50, |sim: Sim<Counter<0>>| async move {
            let history = sim.clients(3).each(|client, mut me| async move {
                for _ in 0..100 {
                    if me.rng.chance(0.5) {
                        let request = AnyRequest::write(ADD, [1]);
                        let recording = me.begin(&request);
                        recording.end(sim::submit(&client, &request, Duration::from_millis(200)).await.as_ref());
                    } else {
                        let recording = me.begin(&AnyRequest::read(GET, []));
                        let server = Some(*me.rng.pick(&me.servers));
                        let call = MethodCall { method: GET, policy: Policy::FixedRoute, shard: 0, body: &[], server };
                        recording.end(client.call(call, Duration::from_millis(200)).await.as_ref());
                    }
                }
            });
            history.await.check_linearizable();
        });
    });
    assert!(told.contains("no place for") && told.contains("read 000009e7"), "{told}");
}

#[test]
fn a_handler_that_panics_is_named() {
    let told = failure(|| {
        sim::run_seeds("panics", 50, |sim: Sim<Counter<PANICS>>| async move {
            sim.clients(4).pace(Duration::ZERO).run(adds_and_gets(400)).await;
        });
    });
    assert!(told.contains("stopped applying at entry") && told.contains("method 00000add"), "{told}");
    assert!(told.contains("E0313") && told.contains("the counter is full"), "{told}");
}

#[test]
fn the_test_may_steer_while_clients_work() {
    sim::run_seeds("steered", 5, |sim: Sim<Counter<0>>| async move {
        let steer = async {
            sim.run_for(Duration::from_millis(100)).await;
            let old = sim.leader().expect("a leader");
            sim.partition(&[old]);
            assert!(sim.run_until(Duration::from_secs(3), |sim| sim.leader().is_some_and(|new| new != old)).await);
            sim.heal().pause(old, Duration::from_millis(50));
            assert_eq!(sim.status(old).map(|status| status.total), Some(3));
        };
        let (history, ()) = futures::join!(sim.clients(2).run(adds_and_gets(200)), steer);
        history.check_linearizable_by(|_| "the sum".to_owned());
        assert!(history.returned() > 150 && sim.now() > Duration::from_millis(100), "{history:?}");
        sim.kill(0).restart(0);
        sim.assert_replicas_agree();
    });
}

/// A node without memory is no replacement for the voter that it was.
#[test]
fn faults_know_what_the_cluster_can_lose() {
    use trimaran_rpc::sim::cluster::NodeIndex;
    sim::run_seeds("can_lose", 1, |sim: Sim<Counter<0>>| async move {
        let can_lose = |node| sim.with_cluster(|cluster| cluster.can_lose(NodeIndex(node)));
        assert!((0..3).all(can_lose));
        sim.kill(0);
        assert_eq!([1, 2].map(can_lose), [false, false]);
        sim.restart(0);
        assert_eq!([0, 1, 2].map(can_lose), [true, false, false]);
    });
}

/// One seed, one run: whatever a test does in between.
#[test]
fn what_comes_from_outside_of_the_simulation_is_found() {
    let runs = AtomicU64::new(1);
    let told = failure(|| {
        sim::run_seeds("from_outside", 1, async |sim: Sim<Counter<0>>| {
            let extra = runs.fetch_add(1, Ordering::Relaxed);
            sim.clients(1).run(adds_and_gets(extra)).await;
        });
    });
    assert!(told.contains("two runs of this seed differ"), "{told}");
}

#[test]
fn a_fault_that_never_strikes_is_a_failure() {
    let told = failure(|| {
        sim::run_seeds("never_strikes", 20, |sim: Sim<Counter<0>>| async move {
            sim.nodes(1).faults(Faults::crash_leader());
            sim.clients(1).run(adds_and_gets(1)).await;
        });
    });
    assert!(told.contains("in none of 20 seeds") && told.contains("kill"), "{told}");
}

#[test]
fn a_clients_panic_is_the_tests() {
    let told = failure(|| {
        sim::run_seeds("client_panics", 1, |sim: Sim<Counter<0>>| async move {
            sim.clients(2).each(|_, me| async move { assert_eq!(me.number(), 0, "only the first is welcome") }).await;
        });
    });
    assert!(told.contains("only the first is welcome"), "{told}");
}
