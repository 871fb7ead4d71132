//! What the demo's clients ask: puts with values that never repeat, linearizable reads, counters, and now and then scans and
//! transactions on a few keys of their own.
//!
//! Every call goes into a history, to be judged for linearizability; every acknowledged put is kept with its version,
//! to be looked for in the final leader's log.

use crate::group::{GROUP_KEYS, GroupOp, GroupRet, Numbers};
use crate::journal::CallHash;
use crate::load::{Answered, Ask, Failure, Workload};
use crate::requests;
use crate::store::{Found, Version};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeSet;
use std::io::Write;
use trimaran_rpc::sim::history::{CallId, ClientId, History, OperationId};
use trimaran_rpc::sim::linearizability::{KvOp, KvRet, Value};
use trimaran_runtime::Instant;

/// Keys written and read.
const PUT_KEYS: u32 = 1000;
/// Keys counted on.
const COUNTERS: u32 = 100;
/// Bytes of a value.
const VALUE_BYTES: usize = 64;
/// One call of so many is a scan or a transaction: judging these takes longer, as all are about one object.
const GROUP_SHARE: u32 = 50;

/// A key of the history: its number, counters after the others.
pub(super) type Key = u32;

/// How many calls of each kind were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) puts: u64,
    pub(super) gets: u64,
    pub(super) incrs: u64,
    pub(super) scans: u64,
    pub(super) txns: u64,
}

impl Asked {
    pub(super) fn total(&self) -> u64 {
        self.puts + self.gets + self.incrs + self.scans + self.txns
    }
}

/// The load, and all that is known of it.
#[derive(Debug)]
pub(super) struct DemoWorkload {
    rng: Pcg64Mcg,
    pub(super) asked: Asked,
    pub(super) history: History<Key, KvOp, KvRet>,
    /// Scans and transactions, all on one object.
    pub(super) group: History<(), GroupOp, GroupRet>,
    /// What a scan has last shown.
    numbers: Numbers,
    /// Every put made, acknowledged or not.
    pub(super) puts: BTreeSet<CallHash>,
    /// Every put acknowledged, with the version told to the client.
    pub(super) acknowledged: Vec<(CallHash, Version)>,
    /// When.
    pub(super) acknowledged_at: Vec<Instant>,
    /// Answers that were no possible answer to their question.
    pub(super) nonsense: Vec<String>,
    /// No call is made any more.
    pub(super) is_over: bool,
    /// Instead of anything else, this key is read next, and then those after it.
    pub(super) read_next: Option<Key>,
    calls: u64,
    key: Vec<u8>,
    value: Vec<u8>,
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
    Group(GroupOp),
}

impl DemoWorkload {
    pub(super) fn new(seed: u64) -> Self {
        DemoWorkload {
            rng: Pcg64Mcg::seed_from_u64(seed),
            asked: Asked::default(),
            history: History::new(),
            group: History::new(),
            numbers: Numbers::default(),
            puts: BTreeSet::new(),
            acknowledged: Vec::new(),
            acknowledged_at: Vec::new(),
            nonsense: Vec::new(),
            is_over: false,
            read_next: None,
            calls: 0,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    fn call_id(&self) -> CallId {
        CallId { session: 0, seq: self.calls }
    }

    fn invoked(&mut self, key: Key, op: KvOp, kind: Kind, at: Instant) -> Call {
        let call = self.call_id();
        Call { operation: self.history.invoked(ClientId(0), call, key, op, at), kind }
    }

    /// From now on every key is read once, and then nothing is done any more: a history that ends so tells what became of every
    /// write in it.
    pub(super) fn read_all(&mut self) {
        (self.is_over, self.read_next) = (false, Some(0));
    }

    fn begin_read(&mut self, key: Key, body: &mut Vec<u8>, at: Instant) -> (Ask, Call) {
        match key.checked_sub(PUT_KEYS) {
            None => write_key("key", key, &mut self.key),
            Some(counter) => write_key("counter", counter, &mut self.key),
        }
        self.asked.gets += 1;
        let call = self.invoked(key, KvOp::Get, Kind::Get, at);
        (requests::get(&self.key, body), call)
    }

    fn begin_group(&mut self, body: &mut Vec<u8>, at: Instant) -> (Ask, Call) {
        // No number repeats: the calls' own are counted up, and a transaction's second is the negative of its first.
        let number = i64::try_from(self.calls).unwrap_or(i64::MAX);
        let key = |rng: &mut Pcg64Mcg| rng.random_range(0..GROUP_KEYS as u8);
        let op = match self.rng.random_range(0..3) {
            0 => GroupOp::Scan,
            _ => {
                let (first, second) = (key(&mut self.rng), key(&mut self.rng));
                let expect = (first, self.numbers.get(usize::from(first)).copied().flatten());
                GroupOp::Move { expect, put: [(first, number), (second, -number)] }
            }
        };
        match op {
            GroupOp::Scan => self.asked.scans += 1,
            _ => self.asked.txns += 1,
        }
        let call = self.call_id();
        let operation = self.group.invoked(ClientId(0), call, (), op, at);
        (op.request(body), Call { operation, kind: Kind::Group(op) })
    }

    /// The result that the history notes, where the reply can be an answer at all.
    fn result(&mut self, kind: Kind, answered: &Answered, at: Instant) -> Option<KvRet> {
        match kind {
            Kind::Put(hash) => {
                let version = requests::result::<u64>(answered)?.ok()?;
                self.acknowledged.push((hash, Version(version)));
                self.acknowledged_at.push(at);
                Some(KvRet::Done)
            }
            Kind::Get => {
                let found = requests::result::<Option<Found>>(answered)?.ok()?;
                Some(KvRet::Value(found.map(|found| Value::of_bytes(&found.value))))
            }
            Kind::Incr => {
                let sum = requests::result::<i64>(answered)?.ok()?;
                Some(KvRet::Value(Some(Value::Number(sum))))
            }
            Kind::Group(_) => None,
        }
    }

    fn returned(&mut self, Call { operation, kind }: Call, answered: &Answered, at: Instant) -> bool {
        let is_noted = match kind {
            Kind::Group(op) => op.result(answered).map(|result| {
                if let GroupRet::Numbers(numbers) = result {
                    self.numbers = numbers;
                }
                self.group.returned(operation, at, result);
            }),
            _ => self.result(kind, answered, at).map(|result| self.history.returned(operation, at, result)),
        };
        if is_noted.is_none() {
            // The operation stays open: what it did is not known.
            self.nonsense.push(format!("{kind:?}: {:?} {}", answered.status, answered.body.escape_ascii()));
        }
        is_noted.is_some()
    }

    fn not_applied(&mut self, Call { operation, kind }: Call) {
        match kind {
            Kind::Group(_) => self.group.not_applied(operation),
            _ => self.history.not_applied(operation),
        }
    }
}

fn write_key(name: &str, number: u32, key: &mut Vec<u8>) {
    key.clear();
    // Writing to a Vec cannot fail.
    let _ = write!(key, "{name}:{number:08}");
}

impl Workload for DemoWorkload {
    type Call = Call;

    fn begin(&mut self, body: &mut Vec<u8>, at: Instant) -> (Ask, Call) {
        self.calls += 1;
        if let Some(key) = self.read_next {
            self.read_next = Some(key + 1);
            return self.begin_read(key, body, at);
        }
        if self.rng.random_range(0..GROUP_SHARE) == 0 {
            return self.begin_group(body, at);
        }
        let key = self.rng.random_range(0..PUT_KEYS);
        match self.rng.random_range(0..10) {
            0..7 => {
                write_key("key", key, &mut self.key);
                self.value.clear();
                let _ = write!(self.value, "value {}", self.calls);
                self.value.resize(VALUE_BYTES, b' ');
                let hash = CallHash::of_put(&self.key, &self.value);
                self.asked.puts += 1;
                self.puts.insert(hash);
                let op = KvOp::Set(Value::of_bytes(&self.value));
                let call = self.invoked(key, op, Kind::Put(hash), at);
                (requests::put(&self.key, &self.value, None, body), call)
            }
            7..9 => self.begin_read(key, body, at),
            _ => {
                let counter = key % COUNTERS;
                write_key("counter", counter, &mut self.key);
                self.asked.incrs += 1;
                let call = self.invoked(PUT_KEYS + counter, KvOp::Incr(1), Kind::Incr, at);
                (requests::incr(&self.key, 1, body), call)
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over && self.read_next.is_none_or(|key| key < PUT_KEYS + COUNTERS)
    }

    fn end(&mut self, call: Call, result: &Result<Answered, Failure>, at: Instant) -> bool {
        let is_read = matches!(call.kind, Kind::Get | Kind::Group(GroupOp::Scan));
        match result {
            Ok(answered) => return self.returned(call, answered, at),
            Err(Failure::NotApplied) => self.not_applied(call),
            // A read that was not answered says nothing, whether or not it was executed.
            Err(Failure::Unknown) if is_read => self.not_applied(call),
            Err(Failure::Unknown) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Group;
    use crate::service::Kv;
    use trimaran_rpc::alone::Alone;
    use trimaran_rpc::codec;
    use trimaran_rpc::r2p2::Status;
    use trimaran_rpc::service::Answer;
    use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY, Verdict};

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// Runs the workload against one copy of the store, changing answers as `spoil` says.
    fn run(calls: u64, spoil: impl Fn(u64, Kind, Answered) -> Result<Answered, Failure>) -> DemoWorkload {
        let (mut workload, mut kv) = (DemoWorkload::new(7), Alone::new(Kv::default()));
        for nth in 0..calls {
            let mut body = Vec::new();
            let (ask, call) = workload.begin(&mut body, at(nth * 10));
            let (answer, body) = kv.call(ask.method, &body).expect("a method for clients");
            let status = if answer == Answer::Ok { Status::Ok } else { Status::App };
            let result = spoil(nth, call.kind, Answered { status, body });
            workload.end(call, &result, at(nth * 10 + 5));
        }
        workload
    }

    fn verdict(workload: &DemoWorkload) -> Verdict {
        linearizability::check(&linearizability::Kv, &workload.history, DEFAULT_STEPS_PER_KEY).verdict
    }

    fn group_verdict(workload: &DemoWorkload) -> Verdict {
        linearizability::check(&Group, &workload.group, DEFAULT_STEPS_PER_KEY).verdict
    }

    #[test]
    fn an_honest_store_passes() {
        let workload = run(5000, |_, _, reply| Ok(reply));
        assert_eq!((verdict(&workload), group_verdict(&workload)), (Verdict::Linearizable, Verdict::Linearizable));
        assert_eq!(workload.acknowledged.len() as u64, workload.asked.puts);
        assert_eq!(workload.puts.len() as u64, workload.asked.puts, "no put repeats");
        let Asked { gets, incrs, scans, txns, .. } = workload.asked;
        assert!(gets > 500 && incrs > 200 && scans > 20 && txns > 40);
        assert_eq!(workload.asked.total(), 5000);
        assert!(workload.nonsense.is_empty());
    }

    #[test]
    fn unanswered_calls_are_left_open() {
        let workload = run(5000, |nth, _, reply| if nth % 7 == 0 { Err(Failure::Unknown) } else { Ok(reply) });
        assert_eq!((verdict(&workload), group_verdict(&workload)), (Verdict::Linearizable, Verdict::Linearizable));
        assert!((workload.acknowledged.len() as u64) < workload.asked.puts);
    }

    #[test]
    fn a_write_said_not_to_have_happened_is_found_out() {
        let workload = run(20_000, |nth, _, reply| if nth % 7 == 0 { Err(Failure::NotApplied) } else { Ok(reply) });
        assert!(matches!(verdict(&workload), Verdict::Violated(_)));
        assert!(matches!(group_verdict(&workload), Verdict::Violated(_)));
    }

    #[test]
    fn a_lost_read_is_found_out() {
        let body = codec::encode(&None::<Found>).expect("a form");
        let nil = |_, kind, reply| match kind {
            Kind::Get => Ok(Answered { status: Status::Ok, body: body.clone() }),
            _ => Ok(reply),
        };
        assert!(matches!(verdict(&run(20_000, nil)), Verdict::Violated(_)));
    }

    /// A write that is lost after everything that was asked about it is found by the reads at the end.
    #[test]
    fn the_last_reads_find_a_write_that_was_lost_in_the_end() {
        let judged = |loses: bool| {
            let (mut workload, mut kv) = (DemoWorkload::new(7), Alone::new(Kv::default()));
            let mut nth = 0;
            let mut ask = |workload: &mut DemoWorkload, kv: &mut Alone<Kv>| {
                nth += 1;
                let mut body = Vec::new();
                let (ask, call) = workload.begin(&mut body, at(nth * 10));
                let (answer, body) = kv.call(ask.method, &body).expect("a method for clients");
                let status = if answer == Answer::Ok { Status::Ok } else { Status::App };
                workload.end(call, &Ok(Answered { status, body }), at(nth * 10 + 5));
            };
            for _ in 0..2000 {
                ask(&mut workload, &mut kv);
            }
            if loses {
                kv = Alone::new(Kv::default());
            }
            workload.read_all();
            while workload.goes_on() {
                ask(&mut workload, &mut kv);
            }
            assert_eq!(nth, 2000 + u64::from(PUT_KEYS + COUNTERS));
            verdict(&workload)
        };
        assert_eq!(judged(false), Verdict::Linearizable);
        assert!(matches!(judged(true), Verdict::Violated(_)));
    }

    #[test]
    fn nonsense_is_kept_as_evidence() {
        let workload = run(10, |_, _, _| Ok(Answered { status: Status::Ok, body: b"+OK\r\n".to_vec() }));
        assert_eq!((workload.nonsense.len(), workload.acknowledged.len()), (10, 0));
    }
}
