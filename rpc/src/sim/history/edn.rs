//! A history in the form of Jepsen's, for checkers outside: Knossos, Elle, or whatever else reads `history.edn`.
//!
//! ```text
//! {:index 0, :time 5, :process 0, :type :invoke, :f :write, :value [7 1]}
//! {:index 1, :time 6, :process 0, :type :ok, :f :write, :value [7 1]}
//! ```
//!
//! One map a line and event, in the order of their stamps. Each value is a pair of the object's key and the operation's
//! own value, as Jepsen's `independent` checkers expect. `:ok` took effect, `:fail` certainly did not, `:info` nobody knows.
//!
//! A process of Jepsen's does one thing at a time, and never anything again after an `:info`. Our clients have many
//! calls on their way at once, so processes are handed out here: the lowest one that is free.

use super::{History, Operation, Outcome, Stamp};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter, Write as _};
use std::io::{self, Write};

/// A value of EDN's, as far as histories need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edn {
    /// `nil`
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// `"text"`
    Text(String),
    /// `:name`; of letters, digits, `-` and `_`.
    Keyword(String),
    /// `[a b]`
    Vector(Vec<Edn>),
    /// `{a b, c d}`
    Map(Vec<(Edn, Edn)>),
}

/// What became of an operation that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// It took effect; this is the value with its result.
    Ok(Edn),
    /// It found that it had nothing to do: Jepsen's `cas` that did not match.
    Fail,
}

/// An operation as Jepsen's checkers name it.
pub trait Described<R> {
    /// `:f`: `read`, `write`, `cas` ...
    fn f(&self) -> &'static str;

    /// `:value` when it is invoked.
    fn argument(&self) -> Edn;

    /// What to say of it when `result` came.
    fn completion(&self, result: &R) -> Completion;
}

impl Edn {
    /// What `value` is as JSON, in EDN: the names of an object's fields become keywords, numbers beyond `i64` text.
    ///
    /// # Errors
    /// Where JSON cannot hold it.
    pub fn of(value: &impl Serialize) -> io::Result<Edn> {
        Ok(Edn::from(serde_json::to_value(value)?))
    }
}

impl From<Json> for Edn {
    fn from(json: Json) -> Edn {
        match json {
            Json::Null => Edn::Nil,
            Json::Bool(is) => Edn::Bool(is),
            Json::Number(number) => number.as_i64().map_or_else(|| Edn::Text(number.to_string()), Edn::Int),
            Json::String(text) => Edn::Text(text),
            Json::Array(items) => Edn::Vector(items.into_iter().map(Edn::from).collect()),
            Json::Object(fields) => {
                Edn::Map(fields.into_iter().map(|(name, value)| (Edn::Keyword(name), Edn::from(value))).collect())
            }
        }
    }
}

impl Display for Edn {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Edn::Nil => out.write_str("nil"),
            Edn::Bool(is) => is.fmt(out),
            Edn::Int(number) => number.fmt(out),
            Edn::Text(text) => {
                out.write_char('"')?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(out, "\\{c}")?,
                        '\n' => out.write_str("\\n")?,
                        c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
                        c => out.write_char(c)?,
                    }
                }
                out.write_char('"')
            }
            Edn::Keyword(name) => {
                let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
                write!(out, ":{}", name.chars().map(plain).collect::<String>())
            }
            Edn::Vector(items) => {
                out.write_char('[')?;
                for (place, item) in items.iter().enumerate() {
                    write!(out, "{}{item}", if place == 0 { "" } else { " " })?;
                }
                out.write_char(']')
            }
            Edn::Map(pairs) => {
                out.write_char('{')?;
                for (place, (key, value)) in pairs.iter().enumerate() {
                    write!(out, "{}{key} {value}", if place == 0 { "" } else { ", " })?;
                }
                out.write_char('}')
            }
        }
    }
}

/// One line to be.
struct Event<'h, K, O, R> {
    at: Stamp,
    operation: &'h Operation<K, O, R>,
    is_end: bool,
    place: usize,
}

impl<K: Serialize, O: Described<R>, R> History<K, O, R> {
    /// Writes the history for Jepsen's checkers. Operations whose outcome nobody knows end in `:info` after all others.
    ///
    /// Takes memory for two events an operation, and the time to sort them.
    ///
    /// # Errors
    /// Those of `out`, and of a key that JSON cannot hold.
    pub fn write_edn(&self, mut out: impl Write) -> io::Result<()> {
        let mut events = Vec::with_capacity(self.operations.len() * 2);
        for (place, operation) in self.operations.iter().enumerate() {
            events.push(Event { at: operation.invoked, operation, is_end: false, place });
            if let Outcome::Returned { returned, .. } = &operation.outcome {
                events.push(Event { at: *returned, operation, is_end: true, place });
            }
        }
        events.sort_by_key(|event| event.at);
        let mut lines = Lines { out: &mut out, index: 0 };
        let mut free = BTreeSet::new();
        let mut processes = vec![0_usize; self.operations.len()];
        let mut taken = 0;
        for event in &events {
            let (operation, process) = (event.operation, &mut processes[event.place]);
            if event.is_end {
                let Outcome::Returned { result, .. } = &operation.outcome else { continue };
                match operation.op.completion(result) {
                    Completion::Ok(value) => lines.write(event.at, *process, "ok", operation, value)?,
                    Completion::Fail => lines.write(event.at, *process, "fail", operation, operation.op.argument())?,
                }
                free.insert(*process);
                continue;
            }
            *process = free.pop_first().unwrap_or_else(|| {
                taken += 1;
                taken - 1
            });
            lines.write(event.at, *process, "invoke", operation, operation.op.argument())?;
            if matches!(operation.outcome, Outcome::NotApplied) {
                // When the proof came was not recorded; it says nothing of the others' order.
                lines.write(event.at, *process, "fail", operation, operation.op.argument())?;
                free.insert(*process);
            }
        }
        let end = events.last().map(|event| event.at);
        for (operation, process) in self.operations.iter().zip(&processes) {
            if let (Outcome::Open, Some(end)) = (&operation.outcome, end) {
                lines.write(end, *process, "info", operation, operation.op.argument())?;
            }
        }
        out.flush()
    }
}

struct Lines<'o, W: Write> {
    out: &'o mut W,
    index: usize,
}

impl<W: Write> Lines<'_, W> {
    fn write<K: Serialize, O: Described<R>, R>(
        &mut self,
        at: Stamp,
        process: usize,
        kind: &str,
        operation: &Operation<K, O, R>,
        value: Edn,
    ) -> io::Result<()> {
        let value = Edn::Vector(vec![Edn::of(&operation.key)?, value]);
        let (index, time, f) = (self.index, at.at_ns, operation.op.f());
        self.index += 1;
        writeln!(
            self.out,
            "{{:index {index}, :time {time}, :process {process}, :type :{kind}, :f :{f}, :value {value}}}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CallId, ClientId};
    use super::*;
    use crate::sim::linearizability::{KvOp, KvRet, Value};
    use trimaran_runtime::Instant;

    const CALL: CallId = CallId { session: 7, seq: 1 };

    fn lines(history: &History<String, KvOp, KvRet>) -> Vec<String> {
        let mut out = Vec::new();
        history.write_edn(&mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn events_stand_in_the_order_of_their_stamps_each_process_does_one_thing_at_a_time() {
        let mut history = History::new();
        let invoke = |history: &mut History<_, _, _>, at, op| {
            history.invoked(ClientId(1), CALL, "k".to_owned(), op, Instant::from_nanos(at))
        };
        let write = invoke(&mut history, 1, KvOp::Set(Value::Number(4)));
        let read = invoke(&mut history, 2, KvOp::Get);
        history.returned(write, Instant::from_nanos(3), KvRet::Done);
        let cas = invoke(&mut history, 3, KvOp::Cas { expect: None, new: Value::Hash(10) });
        history.returned(cas, Instant::from_nanos(4), KvRet::Changed(false));
        history.returned(read, Instant::from_nanos(5), KvRet::Value(None));
        invoke(&mut history, 6, KvOp::Incr(2));
        let refused = invoke(&mut history, 7, KvOp::Del);
        history.not_applied(refused);
        assert_eq!(
            lines(&history),
            [
                r#"{:index 0, :time 1, :process 0, :type :invoke, :f :write, :value ["k" 4]}"#,
                r#"{:index 1, :time 2, :process 1, :type :invoke, :f :read, :value ["k" nil]}"#,
                r#"{:index 2, :time 3, :process 0, :type :ok, :f :write, :value ["k" 4]}"#,
                r#"{:index 3, :time 3, :process 0, :type :invoke, :f :cas, :value ["k" [nil "x000000000000000a"]]}"#,
                r#"{:index 4, :time 4, :process 0, :type :fail, :f :cas, :value ["k" [nil "x000000000000000a"]]}"#,
                r#"{:index 5, :time 5, :process 1, :type :ok, :f :read, :value ["k" nil]}"#,
                r#"{:index 6, :time 6, :process 0, :type :invoke, :f :incr, :value ["k" 2]}"#,
                r#"{:index 7, :time 7, :process 1, :type :invoke, :f :delete, :value ["k" nil]}"#,
                r#"{:index 8, :time 7, :process 1, :type :fail, :f :delete, :value ["k" nil]}"#,
                r#"{:index 9, :time 7, :process 0, :type :info, :f :incr, :value ["k" 2]}"#,
            ]
        );
    }

    #[test]
    fn no_process_goes_on_after_it_is_unknown_how_its_call_ended() {
        let mut history = History::new();
        for at in 0..3 {
            history.invoked(ClientId(1), CALL, "k".to_owned(), KvOp::Get, Instant::from_nanos(at));
        }
        let processes: BTreeSet<String> = lines(&history)
            .iter()
            .filter(|line| line.contains(":invoke"))
            .map(|line| line.split(", ").nth(2).unwrap_or_default().to_owned())
            .collect();
        assert_eq!(processes.len(), 3);
        assert!(lines(&History::new()).is_empty());
    }

    #[test]
    fn text_is_quoted_and_json_translated() {
        let json = serde_json::json!({"a b": [null, true, -1, u64::MAX, "q\"\\\n\u{1}é"]});
        let expected = r#"{:a-b [nil true -1 "18446744073709551615" "q\"\\\n\u0001é"]}"#;
        assert_eq!(Edn::from(json).to_string(), expected);
    }
}
