//! The judge is judged: histories whose verdict is known by name, random ones against a brute force, against
//! stateright's tester and against itself without hints.

mod named;
mod random;

use std::fmt::Debug;

use trimaran_rpc::sim::history::{CallId, ClientId, History, Outcome};
use trimaran_rpc::sim::linearizability::{
    Kv, KvOp, KvRet, Model, Report, Value, Verdict, Violation, check as check_by,
};
use trimaran_runtime::Instant;

type KvHistory = History<&'static str, KvOp, KvRet>;

fn check(history: &KvHistory) -> Report {
    check_by(&Kv, history, 1_000_000)
}

/// Client, request, from when, and until when with the result, or open.
type Asked<O = KvOp, R = KvRet> = (u32, O, u64, Option<(u64, R)>);

/// The history of operations on one key, in the order of their invocation.
fn record<K: Clone, O, R>(key: K, operations: Vec<Asked<O, R>>) -> History<K, O, R> {
    let mut history = History::new();
    let mut returns = Vec::new();
    for (seq, (client, op, from, end)) in (0..).zip(operations) {
        let call = CallId { session: u64::from(client), seq };
        let id = history.invoked(ClientId(client), call, key.clone(), op, Instant::from_nanos(from));
        returns.extend(end.map(|(until, result)| (until, id, result)));
    }
    returns.sort_by_key(|(until, ..)| *until);
    for (until, id, result) in returns {
        history.returned(id, Instant::from_nanos(until), result);
    }
    history
}

/// Tries every order: any operation may come next before whose invocation none of the others returned.
fn has_an_order<K, M: Model>(model: &M, history: &History<K, M::Op, M::Ret>) -> bool {
    fn place<K, M: Model>(model: &M, history: &History<K, M::Op, M::Ret>, left: &[usize], state: &M::State) -> bool {
        let returned = |i: usize| match &history.operations()[i].outcome {
            Outcome::Returned { returned, result } => Some((*returned, result)),
            Outcome::Open | Outcome::NotApplied => None,
        };
        left.iter().all(|&i| returned(i).is_none())
            || left.iter().any(|&i| {
                let operation = &history.operations()[i];
                let others: Vec<usize> = left.iter().copied().filter(|&other| other != i).collect();
                let (next, ret) = model.step(state, &operation.op);
                others.iter().all(|&other| returned(other).is_none_or(|(at, _)| at > operation.invoked))
                    && returned(i).is_none_or(|(_, result)| *result == ret)
                    && place(model, history, &others, &next)
            })
    }
    let applied = |&i: &usize| !matches!(history.operations()[i].outcome, Outcome::NotApplied);
    let all: Vec<usize> = (0..history.len()).filter(applied).collect();
    place(model, history, &all, &model.initial())
}

/// The witness is an order for all that returned before the offender did: time and every answer agree.
fn assert_witness_explains<K, M: Model>(model: &M, history: &History<K, M::Op, M::Ret>, violation: &Violation)
where
    M::Ret: Debug,
{
    let operations = history.operations();
    let Outcome::Returned { returned: end, .. } = operations[violation.offender.0].outcome else {
        panic!("an open operation explains itself");
    };
    let mut state = model.initial();
    for (place, id) in violation.witness.iter().enumerate() {
        let (next, ret) = model.step(&state, &operations[id.0].op);
        if let Outcome::Returned { returned, result } = &operations[id.0].outcome
            && *returned < end
        {
            assert_eq!(*result, ret, "operation {}", id.0);
            for earlier in &violation.witness[..place] {
                assert!(operations[earlier.0].invoked < *returned, "{} after {}", earlier.0, id.0);
            }
        }
        state = next;
    }
    for (index, operation) in operations.iter().enumerate() {
        if let Outcome::Returned { returned, .. } = operation.outcome
            && returned < end
        {
            assert!(violation.witness.iter().any(|id| id.0 == index), "{index} returned and has no place");
        }
    }
}

fn violation(report: Report) -> Violation {
    match report.verdict {
        Verdict::Violated(violation) => *violation,
        other => panic!("a violation was expected: {other:?}"),
    }
}

fn number(value: i64) -> KvRet {
    KvRet::Value(Some(Value::Number(value)))
}

fn set(value: i64) -> KvOp {
    KvOp::Set(Value::Number(value))
}

/// [`Kv`] without its hints: the search has to find everything out.
struct Mute;

impl Model for Mute {
    type Op = KvOp;
    type Ret = KvRet;
    type State = Option<Value>;

    fn initial(&self) -> Option<Value> {
        Kv.initial()
    }

    fn step(&self, state: &Option<Value>, op: &KvOp) -> (Option<Value>, KvRet) {
        Kv.step(state, op)
    }
}
