//! Could one copy of the object, handling one operation after the other, have answered so?
//!
//! A history is linearizable where every operation can be given one moment between its invocation and its return such
//! that a sequential [`Model`], run in the order of these moments, gives every result that a client was told. An open
//! operation may be given any moment after its invocation, or none; one that was not applied gets none.
//!
//! Objects are independent: a history is linearizable exactly where each key's part is (Herlihy and Wing), so keys are
//! judged one by one. The search (module `search`) is that of Wing and Gong, with Lowe's just-in-time order and
//! memory of configurations. The question is NP-complete: a search has a limit of steps, and says
//! [`Verdict::Undecided`] when it is reached. It never says `Violated` of a history that has an order.

mod kv;
mod plan;
mod search;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

pub use kv::{Kv, KvOp, KvRet, Value};
use search::{Call, Found};

use super::history::{History, Operation, OperationId, Outcome, Stamp};

/// Steps for one key that a few seconds and about a gigabyte suffice for. A history without deep concurrency on one
/// key needs about one step per operation.
pub const DEFAULT_STEPS_PER_KEY: u64 = 5_000_000;

/// What one object does when operations come one after the other.
///
/// [`effect`](Self::effect) and [`requires`](Self::requires) are hints that save the search most of its work; the
/// defaults say nothing and are always right. A wrong hint makes wrong verdicts: test them against
/// [`step`](Self::step).
pub trait Model {
    /// What a client asks. Equal operations must do the same.
    type Op: Ord + Debug;
    /// What a client is told.
    type Ret: PartialEq + Debug;
    /// All that the object remembers. Each distinct one is kept twice during a search.
    type State: Clone + Ord + Debug;

    /// The object before any operation.
    fn initial(&self) -> Self::State;

    /// The object after `op`, and the answer.
    fn step(&self, state: &Self::State, op: &Self::Op) -> (Self::State, Self::Ret);

    /// What `op` does in any state in which it can answer `ret`; `None` is an answer that nobody knows.
    fn effect(&self, op: &Self::Op, ret: Option<&Self::Ret>) -> Effect<Self::State> {
        let _ = (op, ret);
        Effect::Unknown
    }

    /// The one state in which `op` answers `ret`, where there is only one.
    fn requires(&self, op: &Self::Op, ret: &Self::Ret) -> Option<Self::State> {
        let _ = (op, ret);
        None
    }
}

/// What an operation leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<S> {
    /// The state that it found.
    Reads,
    /// This state, whatever it found.
    Writes(S),
    /// This state, or the one that it found.
    MayWrite(S),
    /// It depends.
    Unknown,
}

/// What a check found, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The finding.
    pub verdict: Verdict,
    /// Operations judged: all but those not applied.
    pub operations: usize,
    /// Distinct keys.
    pub keys: usize,
    /// Steps taken by the first search of every key judged.
    pub steps: u64,
}

/// Whether a history is linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every key has an order.
    Linearizable,
    /// This key has none. Where several have none, it is the first in the order of keys.
    Violated(Box<Violation>),
    /// No key was found to lack an order, but these used up their steps.
    Undecided {
        /// The keys, as `Debug` writes them.
        keys: Vec<String>,
    },
}

/// Where a history stops making sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The key, as `Debug` writes it.
    pub key: String,
    /// Up to just before this operation's return there is an order; from there on there is none.
    pub offender: OperationId,
    /// Whether the prefix that ends with `offender` is the smallest without an order. False where the steps did not
    /// suffice to look at smaller ones.
    pub smallest: bool,
    /// The key's operations that might have taken effect at the same time as `offender`, in order of invocation.
    pub concurrent: Vec<OperationId>,
    /// An order for everything that returned before the offender. Other orders may exist; none has a place for
    /// the offender's answer. The offender itself may be among them, with another answer.
    pub witness: Vec<OperationId>,
    /// The same in words, operations named.
    pub explanation: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explanation)
    }
}

impl Report {
    /// Panics with the explanation unless the history was found linearizable: for tests.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        match &self.verdict {
            Verdict::Linearizable => {}
            Verdict::Violated(violation) => panic!("{violation}"),
            Verdict::Undecided { keys } => panic!("undecided after {} steps: keys {}", self.steps, keys.join(", ")),
        }
    }
}

/// Judges `history` by `model`, key by key, with at most `steps_per_key` steps for each search.
///
/// Costs time and memory in proportion to operations times operations in flight on one key, where few of those fight
/// over their order; up to the limit where many do. A violated key is searched up to `2 log2(its operations)` times
/// more, to find the smallest prefix.
pub fn check<K: Ord + Debug, M: Model>(model: &M, history: &History<K, M::Op, M::Ret>, steps_per_key: u64) -> Report {
    let mut keys: BTreeMap<&K, Vec<(OperationId, Call<'_, M>)>> = BTreeMap::new();
    for (index, operation) in history.operations().iter().enumerate() {
        if let Some(call) = call_of(operation) {
            keys.entry(&operation.key).or_default().push((OperationId(index), call));
        }
    }
    let operations = keys.values().map(Vec::len).sum();
    let mut report = Report { verdict: Verdict::Linearizable, operations, keys: keys.len(), steps: 0 };
    let mut undecided = Vec::new();
    for (key, mut part) in keys {
        part.sort_by_key(|(_, call)| call.invoked);
        let calls: Vec<Call<'_, M>> = part.iter().map(|(_, call)| *call).collect();
        let (found, steps) = search::search(model, &calls, steps_per_key);
        report.steps += steps;
        match found {
            Found::Order(_) => {}
            Found::OutOfSteps => undecided.push(format!("{key:?}")),
            Found::None => {
                let part =
                    Part { model, history, ids: part.into_iter().map(|(id, _)| id).collect(), calls, steps_per_key };
                report.verdict = Verdict::Violated(Box::new(part.violation(key)));
                return report;
            }
        }
    }
    if !undecided.is_empty() {
        report.verdict = Verdict::Undecided { keys: undecided };
    }
    report
}

fn call_of<K, M: Model>(operation: &Operation<K, M::Op, M::Ret>) -> Option<Call<'_, M>> {
    let returned = match &operation.outcome {
        Outcome::Returned { returned, result } => Some((*returned, result)),
        Outcome::Open => None,
        Outcome::NotApplied => return None,
    };
    Some(Call { op: &operation.op, invoked: operation.invoked, returned })
}

/// The part of a history that one key has and that has no order.
struct Part<'a, K, M: Model> {
    model: &'a M,
    history: &'a History<K, M::Op, M::Ret>,
    /// In order of invocation, as `calls`.
    ids: Vec<OperationId>,
    calls: Vec<Call<'a, M>>,
    steps_per_key: u64,
}

/// What a search was given, as indexes into a [`Part`], and what it found.
struct Prefix {
    members: Vec<usize>,
    found: Found,
}

impl<K: Debug, M: Model> Part<'_, K, M> {
    /// Searches what was known once the operation that returned at `last` had returned: later results are unknown
    /// yet, later invocations did not happen.
    fn prefix(&self, last: Stamp, with_last: bool) -> Prefix {
        let known = |at: Stamp| at < last || (with_last && at == last);
        let members: Vec<usize> = (0..self.calls.len()).filter(|&i| self.calls[i].invoked < last).collect();
        let calls: Vec<Call<'_, M>> = members
            .iter()
            .map(|&i| Call { returned: self.calls[i].returned.filter(|(at, _)| known(*at)), ..self.calls[i] })
            .collect();
        let (found, _) = search::search(self.model, &calls, self.steps_per_key);
        Prefix { members, found }
    }

    /// Every prefix of a history with an order has one too, so the smallest without is found by halving.
    fn violation(&self, key: &K) -> Violation {
        let mut returns: Vec<(Stamp, usize)> = Vec::new();
        returns.extend(self.calls.iter().enumerate().filter_map(|(i, call)| Some((call.returned?.0, i))));
        returns.sort_unstable();
        // The prefix of `good` returns has an order, that of `bad` has none.
        let (mut good, mut bad, mut smallest) = (0, returns.len(), true);
        while bad - good > 1 {
            let middle = (good + bad) / 2;
            match self.prefix(returns[middle - 1].0, true).found {
                Found::Order(_) => good = middle,
                Found::None => bad = middle,
                Found::OutOfSteps => {
                    smallest = false;
                    good = middle;
                }
            }
        }
        let (end, offender) = returns[bad - 1];
        let before = self.prefix(end, false);
        let mut witness = match before.found {
            Found::Order(order) => order.into_iter().map(|i| before.members[i]).collect(),
            Found::None | Found::OutOfSteps => Vec::new(),
        };
        // What follows the last answer that the order has to explain explains nothing.
        let explained = witness.iter().rposition(|&i: &usize| self.calls[i].returned.is_some_and(|(at, _)| at < end));
        witness.truncate(explained.map_or(0, |last| last + 1));
        let beside = |&i: &usize| {
            let call = &self.calls[i];
            i != offender && call.invoked < end && call.returned.is_none_or(|(at, _)| at > self.calls[offender].invoked)
        };
        let concurrent: Vec<usize> = (0..self.calls.len()).filter(beside).collect();
        Violation {
            key: format!("{key:?}"),
            offender: self.ids[offender],
            smallest,
            explanation: self.explain(key, offender, &concurrent, &witness),
            concurrent: concurrent.into_iter().map(|i| self.ids[i]).collect(),
            witness: witness.into_iter().map(|i| self.ids[i]).collect(),
        }
    }

    fn explain(&self, key: &K, offender: usize, concurrent: &[usize], witness: &[usize]) -> String {
        /// Operations listed of each kind: the newest.
        const LISTED: usize = 12;
        let list = |title: &str, members: &[usize]| {
            let skipped = members.len().saturating_sub(LISTED);
            let mut text = format!("\n{title}:");
            if members.is_empty() {
                text += " none";
            }
            if skipped > 0 {
                text += &format!("\n  ({skipped} earlier ones)");
            }
            for &i in &members[skipped..] {
                text += &format!("\n  {}", self.name(i));
            }
            text
        };
        let state = witness.iter().fold(self.model.initial(), |state, &i| self.model.step(&state, self.calls[i].op).0);
        let mut text = format!("key {key:?} is not linearizable: no place for\n  {}", self.name(offender));
        text += &list("an order for what returned before it", witness);
        text += &format!("\n  which leaves {state:?}");
        text += &list("in flight beside it", concurrent);
        text
    }

    fn name(&self, i: usize) -> String {
        let operation = &self.history.operations()[self.ids[i].0];
        let invoked = operation.invoked.at().as_nanos();
        let end = match &operation.outcome {
            Outcome::Returned { returned, result } => {
                format!("-> {result:?} [{invoked}..{} ns]", returned.at().as_nanos())
            }
            Outcome::Open | Outcome::NotApplied => format!("-> unknown [{invoked} ns..]"),
        };
        let (client, call) = (operation.client.0, operation.call);
        format!("#{} client {client} call {}.{}: {:?} {end}", self.ids[i].0, call.session, call.seq, operation.op)
    }
}
