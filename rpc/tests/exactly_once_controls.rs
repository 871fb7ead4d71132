//! Do the tests of sessions and effects bite? Each rule is broken on purpose, and the history that was written for it must go wrong.

mod cluster_support;

use cluster_support::{SECOND, config, write};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use trimaran_raft::{ClusterId, Fault, LogIndex, Sabotage};
use trimaran_rpc::log_time::LogTime;
use trimaran_rpc::outbox::Effect;
use trimaran_rpc::service::{Answer, Cx, LocalCx, Mark, ReadCx, Service};
use trimaran_rpc::session::{Admission, CallId, SESSIONS_MAX, SessionId, Sessions, SessionsFull};
use trimaran_rpc::sim::cluster::ClusterConfig;
use trimaran_rpc::state::{Reader, State, StateError, Writer};

const MAIL: u32 = 1;
const POST: u32 = 2;

thread_local! {
    /// Effects that the world outside has seen.
    static POSTED: Cell<u32> = const { Cell::new(0) };
}

/// Mails, which takes 400 ms.
#[derive(Default)]
struct Office;

impl State for Office {
    async fn save(&self, _: &mut Writer) {}

    async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Office)
    }
}

impl Service for Office {
    const NAME: &'static str = "office";

    fn mark(method: u32) -> Option<Mark> {
        match method {
            MAIL => Some(Mark::Replicated),
            POST => Some(Mark::Effect),
            _ => None,
        }
    }

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], _: &mut Vec<u8>) -> Answer {
        cx.after_commit(Effect { method: POST, body: request.to_vec() }).expect("room");
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], _: &mut Vec<u8>) -> Answer {
        Answer::Ok
    }

    async fn effect(_: LocalCx<Self>, _: Vec<u8>) -> Answer {
        trimaran_runtime::sleep(Duration::from_millis(400)).await;
        POSTED.set(POSTED.get() + 1);
        Answer::Ok
    }
}

/// The leader dies while an effect is under way, which no other entry asks for.
fn an_effect_and_its_leader(sabotage: Sabotage) {
    POSTED.set(0);
    let config = ClusterConfig { sabotage, ..config() };
    let mut cluster = cluster_support::cluster(5, config, Office::default);
    write(&mut cluster, MAIL, b"one");
    cluster.run_for(Duration::from_millis(200));
    assert_eq!(POSTED.get(), 0, "it is under way");
    let leader = cluster.leader().expect("a leader");
    cluster.kill(leader);
    cluster.run_for(SECOND * 3);
    assert!(POSTED.get() >= 1, "an effect is lost with its leader");
}

/// As many sessions as may be are in use when one more is wanted.
fn a_full_table(mut table: Sessions) {
    let (cluster, now) = (ClusterId(1), LogTime::ZERO);
    let mut open = |nonce: usize| table.register(LogIndex(nonce as u64), cluster, nonce as u128, now);
    let sessions: Vec<SessionId> = (1..=SESSIONS_MAX).map(|nonce| open(nonce).expect("room")).collect();
    let one_more = open(SESSIONS_MAX + 1);
    for SessionId(session) in sessions {
        let admitted = table.admit(CallId { session, seq: 1 }, 0, 0, now);
        assert_eq!(admitted, Admission::Execute, "a session in use is closed");
    }
    assert_eq!(one_more, Err(SessionsFull { sessions: SESSIONS_MAX }));
}

/// What is broken must go wrong in these words.
#[track_caller]
fn assert_goes_wrong(history: impl FnOnce(), expected: &str) {
    let panic = catch_unwind(AssertUnwindSafe(history)).expect_err("nobody noticed");
    let words = panic.downcast_ref::<String>().cloned();
    let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned())).unwrap_or_default();
    println!("{words}");
    assert!(words.contains(expected), "{words}");
}

#[test]
fn an_effect_called_done_too_early() {
    assert_goes_wrong(|| an_effect_and_its_leader(Sabotage::only(Fault::DoneWhenBegun)), "an effect is lost");
}

#[test]
fn a_leader_that_runs_its_own_effects_only() {
    assert_goes_wrong(|| an_effect_and_its_leader(Sabotage::only(Fault::OwnEffectsOnly)), "an effect is lost");
}

#[test]
fn a_table_that_evicts_the_live() {
    let table = Sessions::broken(Sabotage::only(Fault::EvictTheLive));
    assert_goes_wrong(|| a_full_table(table), "a session in use is closed");
}

#[test]
fn nothing_broken_nothing_caught() {
    an_effect_and_its_leader(Sabotage::NONE);
    a_full_table(Sessions::new());
}
