//! What the demo's clients ask: puts with values that never repeat, linearizable reads, and counters.
//!
//! Every call goes into a history, to be judged for linearizability; every acknowledged put is kept with its version,
//! to be looked for in the final leader's log.

use crate::journal::CallHash;
use crate::load::{Failure, Workload};
use crate::resp::{self, Reply};
use crate::store::Version;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeSet;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::sim::history::{CallId, ClientId, History, OperationId};
use trimaran_rpc::sim::linearizability::{KvOp, KvRet, Value};
use trimaran_runtime::Instant;

/// Keys written and read.
const PUT_KEYS: u32 = 1000;
/// Keys counted on.
const COUNTERS: u32 = 100;
/// Bytes of a value.
const VALUE_BYTES: usize = 64;

/// A key of the history: its number, counters after the others.
pub(super) type Key = u32;

/// How many calls of each kind were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) puts: u64,
    pub(super) gets: u64,
    pub(super) incrs: u64,
}

/// The load, and all that is known of it.
#[derive(Debug)]
pub(super) struct DemoWorkload {
    rng: Pcg64Mcg,
    pub(super) asked: Asked,
    pub(super) history: History<Key, KvOp, KvRet>,
    /// Every put made, acknowledged or not.
    pub(super) puts: BTreeSet<CallHash>,
    /// Every put acknowledged, with the version told to the client.
    pub(super) acknowledged: Vec<(CallHash, Version)>,
    /// When.
    pub(super) acknowledged_at: Vec<Instant>,
    /// Answers that were no possible answer to their question.
    pub(super) nonsense: Vec<String>,
    calls: u64,
}

/// A call that is on its way.
#[derive(Debug)]
pub(super) struct Call {
    operation: OperationId,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put(CallHash),
    Get,
    Incr,
}

impl DemoWorkload {
    pub(super) fn new(seed: u64) -> Self {
        DemoWorkload {
            rng: Pcg64Mcg::seed_from_u64(seed),
            asked: Asked::default(),
            history: History::new(),
            puts: BTreeSet::new(),
            acknowledged: Vec::new(),
            acknowledged_at: Vec::new(),
            nonsense: Vec::new(),
            calls: 0,
        }
    }

    fn invoked(&mut self, key: Key, op: KvOp, at: Instant) -> OperationId {
        self.history.invoked(ClientId(0), CallId { session: 0, seq: self.calls }, key, op, at)
    }

    /// The result that the history notes, where the reply can be an answer at all.
    fn result(&mut self, kind: Kind, reply: &[u8], at: Instant) -> Option<KvRet> {
        match (kind, Reply::parse(reply).ok()?) {
            (Kind::Put(hash), Reply::Integer(version)) => {
                self.acknowledged.push((hash, Version(u64::try_from(version).ok()?)));
                self.acknowledged_at.push(at);
                Some(KvRet::Done)
            }
            (Kind::Get, Reply::Bulk(value)) => Some(KvRet::Value(Some(Value::of_bytes(value)))),
            (Kind::Get, Reply::Nil) => Some(KvRet::Value(None)),
            (Kind::Incr, Reply::Integer(sum)) => Some(KvRet::Value(Some(Value::Number(sum)))),
            _ => None,
        }
    }
}

impl Workload for DemoWorkload {
    type Call = Call;

    fn begin(&mut self, request: &mut Vec<u8>, at: Instant) -> (Policy, Call) {
        self.calls += 1;
        let key = self.rng.random_range(0..PUT_KEYS);
        match self.rng.random_range(0..10) {
            0..7 => {
                let value = format!("{:<VALUE_BYTES$}", format!("value {}", self.calls));
                resp::emit_command(&[b"SETV", format!("key:{key:08}").as_bytes(), value.as_bytes()], request);
                let hash = CallHash::of(request);
                self.asked.puts += 1;
                self.puts.insert(hash);
                let operation = self.invoked(key, KvOp::Set(Value::of_bytes(value.as_bytes())), at);
                (Policy::ReplicatedRoute, Call { operation, kind: Kind::Put(hash) })
            }
            7..9 => {
                resp::emit_command(&[b"GET", format!("key:{key:08}").as_bytes()], request);
                self.asked.gets += 1;
                let operation = self.invoked(key, KvOp::Get, at);
                (Policy::ReplicatedRouteNoSideEffects, Call { operation, kind: Kind::Get })
            }
            _ => {
                let counter = key % COUNTERS;
                resp::emit_command(&[b"INCR", format!("counter:{counter:08}").as_bytes()], request);
                self.asked.incrs += 1;
                let operation = self.invoked(PUT_KEYS + counter, KvOp::Incr(1), at);
                (Policy::ReplicatedRoute, Call { operation, kind: Kind::Incr })
            }
        }
    }

    fn end(&mut self, call: Call, result: &Result<Vec<u8>, Failure>, at: Instant) -> bool {
        let Call { operation, kind } = call;
        match result {
            Ok(reply) => match self.result(kind, reply, at) {
                Some(result) => {
                    self.history.returned(operation, at, result);
                    return true;
                }
                // The operation stays open: what it did is not known.
                None => self.nonsense.push(format!("{kind:?}: {}", reply.escape_ascii())),
            },
            Err(Failure::NotApplied) => self.history.not_applied(operation),
            // A read that was not answered says nothing, whether or not it was executed.
            Err(Failure::Unknown) if matches!(kind, Kind::Get) => self.history.not_applied(operation),
            Err(Failure::Unknown) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::store::Store;
    use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY, Verdict};

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// Runs the workload against one copy of the store, changing answers as `spoil` says.
    fn run(calls: u64, spoil: impl Fn(u64, &[u8], Vec<u8>) -> Result<Vec<u8>, Failure>) -> DemoWorkload {
        let (mut workload, mut store) = (DemoWorkload::new(7), Store::default());
        for nth in 0..calls {
            let (mut request, mut reply) = (Vec::new(), Vec::new());
            let (policy, call) = workload.begin(&mut request, at(nth * 10));
            let command = Command::parse(&request).expect("a command");
            match policy {
                Policy::ReplicatedRoute => store.execute(&command, &mut reply),
                _ => store.answer(&command, &mut reply),
            }
            workload.end(call, &spoil(nth, &request, reply), at(nth * 10 + 5));
        }
        workload
    }

    fn verdict(workload: &DemoWorkload) -> Verdict {
        linearizability::check(&linearizability::Kv, &workload.history, DEFAULT_STEPS_PER_KEY).verdict
    }

    #[test]
    fn an_honest_store_passes() {
        let workload = run(5000, |_, _, reply| Ok(reply));
        assert_eq!(verdict(&workload), Verdict::Linearizable);
        assert_eq!(workload.acknowledged.len() as u64, workload.asked.puts);
        assert_eq!(workload.puts.len() as u64, workload.asked.puts, "no put repeats");
        assert!(workload.asked.gets > 500 && workload.asked.incrs > 200);
        assert!(workload.nonsense.is_empty());
    }

    #[test]
    fn unanswered_calls_are_left_open() {
        let workload = run(5000, |nth, _, reply| if nth % 7 == 0 { Err(Failure::Unknown) } else { Ok(reply) });
        assert_eq!(verdict(&workload), Verdict::Linearizable);
        assert!((workload.acknowledged.len() as u64) < workload.asked.puts);
    }

    #[test]
    fn a_write_said_not_to_have_happened_is_found_out() {
        let workload = run(20_000, |nth, _, reply| if nth % 7 == 0 { Err(Failure::NotApplied) } else { Ok(reply) });
        assert!(matches!(verdict(&workload), Verdict::Violated(_)));
    }

    #[test]
    fn a_lost_read_is_found_out() {
        let nil = |_, request: &[u8], reply| {
            Ok(if request.starts_with(b"*2\r\n$3\r\nGET") { b"$-1\r\n".to_vec() } else { reply })
        };
        assert!(matches!(verdict(&run(20_000, nil)), Verdict::Violated(_)));
    }

    #[test]
    fn nonsense_is_kept_as_evidence() {
        let workload = run(10, |_, _, _| Ok(b"+OK\r\n".to_vec()));
        assert_eq!((workload.nonsense.len(), workload.acknowledged.len()), (10, 0));
    }
}
