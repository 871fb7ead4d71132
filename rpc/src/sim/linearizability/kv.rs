//! One key of a key-value store, as a model.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Effect, Model};
use crate::sim::history::edn::{Completion, Described, Edn};

/// A stored value, as far as a checker needs to tell values apart: 16 bytes, however long the value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A whole number, which [`KvOp::Incr`] can count on from.
    Number(i64),
    /// xxh3 of anything else. Two values of one hash would pass for equal: workloads write random or numbered ones.
    Hash(u64),
}

impl Value {
    /// A number where `bytes` are one in plain decimal (no sign but `-`, no leading zero), else their hash.
    pub fn of_bytes(bytes: &[u8]) -> Value {
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
        match number {
            Some(number) if number.to_string().as_bytes() == bytes => Value::Number(number),
            _ => Value::Hash(xxh3_64(bytes)),
        }
    }
}

/// What a client asks of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvOp {
    /// Answers [`KvRet::Value`].
    Get,
    /// Answers [`KvRet::Done`].
    Set(Value),
    /// Answers [`KvRet::Changed`]: whether there was a value.
    Del,
    /// Adds to a number, counting from 0 where there is no value. Answers the sum as [`KvRet::Value`], or
    /// [`KvRet::Refused`] where the value is no number or the sum leaves `i64`.
    Incr(i64),
    /// Sets `new` where the value equals `expect`. Answers [`KvRet::Changed`].
    Cas {
        /// What must be there; `None` is no value.
        expect: Option<Value>,
        /// What comes in its place.
        new: Value,
    },
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvRet {
    /// The value read or counted up to.
    Value(Option<Value>),
    /// Stored.
    Done,
    /// Whether the operation changed anything.
    Changed(bool),
    /// Could not be done; nothing changed.
    Refused,
}

impl From<Value> for Edn {
    /// A number as it is, a hash as text.
    fn from(value: Value) -> Edn {
        match value {
            Value::Number(number) => Edn::Int(number),
            Value::Hash(hash) => Edn::Text(format!("x{hash:016x}")),
        }
    }
}

/// Reads, writes and comparisons as Knossos' `cas-register` names them; the rest by their own names.
impl Described<KvRet> for KvOp {
    fn f(&self) -> &'static str {
        match self {
            KvOp::Get => "read",
            KvOp::Set(_) => "write",
            KvOp::Del => "delete",
            KvOp::Incr(_) => "incr",
            KvOp::Cas { .. } => "cas",
        }
    }

    fn argument(&self) -> Edn {
        match *self {
            KvOp::Get | KvOp::Del => Edn::Nil,
            KvOp::Set(value) => value.into(),
            KvOp::Incr(by) => Edn::Int(by),
            KvOp::Cas { expect, new } => Edn::Vector(vec![expect.map_or(Edn::Nil, Edn::from), new.into()]),
        }
    }

    fn completion(&self, result: &KvRet) -> Completion {
        match (self, *result) {
            (_, KvRet::Refused) | (KvOp::Cas { .. }, KvRet::Changed(false)) => Completion::Fail,
            (KvOp::Del, KvRet::Changed(was_there)) => Completion::Ok(Edn::Bool(was_there)),
            (KvOp::Get | KvOp::Incr(_), KvRet::Value(value)) => Completion::Ok(value.map_or(Edn::Nil, Edn::from)),
            _ => Completion::Ok(self.argument()),
        }
    }
}

/// Every key starts without a value and is an object of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kv;

impl Model for Kv {
    type Op = KvOp;
    type Ret = KvRet;
    type State = Option<Value>;

    fn initial(&self) -> Option<Value> {
        None
    }

    fn step(&self, state: &Option<Value>, op: &KvOp) -> (Option<Value>, KvRet) {
        match *op {
            KvOp::Get => (*state, KvRet::Value(*state)),
            KvOp::Set(value) => (Some(value), KvRet::Done),
            KvOp::Del => (None, KvRet::Changed(state.is_some())),
            KvOp::Incr(by) => {
                let sum = match state {
                    None => Some(by),
                    Some(Value::Number(number)) => number.checked_add(by),
                    Some(Value::Hash(_)) => None,
                };
                match sum.map(Value::Number) {
                    Some(sum) => (Some(sum), KvRet::Value(Some(sum))),
                    None => (*state, KvRet::Refused),
                }
            }
            KvOp::Cas { expect, new } if *state == expect => (Some(new), KvRet::Changed(true)),
            KvOp::Cas { .. } => (*state, KvRet::Changed(false)),
        }
    }

    fn effect(&self, op: &KvOp, ret: Option<&KvRet>) -> Effect<Option<Value>> {
        match (*op, ret.copied()) {
            (KvOp::Get, _) => Effect::Reads,
            (_, Some(KvRet::Changed(false) | KvRet::Refused)) => Effect::Reads,
            (KvOp::Set(value), _) => Effect::Writes(Some(value)),
            (KvOp::Del, _) => Effect::Writes(None),
            (KvOp::Incr(_), Some(KvRet::Value(sum))) => Effect::Writes(sum),
            (KvOp::Cas { new, .. }, Some(KvRet::Changed(true))) => Effect::Writes(Some(new)),
            (KvOp::Cas { new, .. }, _) => Effect::MayWrite(Some(new)),
            (KvOp::Incr(_), _) => Effect::Unknown,
        }
    }

    fn requires(&self, op: &KvOp, ret: &KvRet) -> Option<Option<Value>> {
        match (*op, *ret) {
            (KvOp::Get, KvRet::Value(value)) => Some(value),
            (KvOp::Cas { expect, .. }, KvRet::Changed(true)) => Some(expect),
            (KvOp::Del, KvRet::Changed(false)) => Some(None),
            // A sum of exactly `by` came from 0 or from no value: two states.
            (KvOp::Incr(by), KvRet::Value(Some(Value::Number(sum)))) if sum != by => {
                sum.checked_sub(by).map(|before| Some(Value::Number(before)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [Option<Value>; 5] =
        [None, Some(Value::Number(0)), Some(Value::Number(1)), Some(Value::Number(i64::MAX)), Some(Value::Hash(1))];

    /// A hint that contradicts `step` would make the search drop good orders: every bad hint is an innocent accused.
    #[test]
    fn the_hints_agree_with_the_steps() {
        let mut ops = vec![KvOp::Get, KvOp::Del, KvOp::Incr(0), KvOp::Incr(1), KvOp::Incr(-1)];
        for new in VALUES.into_iter().flatten() {
            ops.push(KvOp::Set(new));
            ops.extend(VALUES.map(|expect| KvOp::Cas { expect, new }));
        }
        for state in VALUES {
            for op in &ops {
                let (next, ret) = Kv.step(&state, op);
                for known in [None, Some(&ret)] {
                    match Kv.effect(op, known) {
                        Effect::Reads => assert_eq!(next, state, "{op:?} -> {ret:?}"),
                        Effect::Writes(written) => assert_eq!(next, written, "{op:?} -> {ret:?}"),
                        Effect::MayWrite(written) => assert!(next == written || next == state, "{op:?} -> {ret:?}"),
                        Effect::Unknown => {}
                    }
                }
                if let Some(before) = Kv.requires(op, &ret) {
                    assert_eq!(state, before, "{op:?} -> {ret:?}");
                }
            }
        }
    }

    #[test]
    fn only_plain_decimals_are_numbers() {
        assert_eq!(Value::of_bytes(b"-12"), Value::Number(-12));
        for text in ["+1", "01", "-0", "", "1 ", "9223372036854775808", "x"] {
            assert!(matches!(Value::of_bytes(text.as_bytes()), Value::Hash(_)), "{text}");
        }
        assert_ne!(Value::of_bytes(b"a"), Value::of_bytes(b"b"));
    }
}
