//! What clients asked, when, and what they were told.
//!
//! A [`History`] is written by the clients of a run, simulated or real, and read by a checker. It holds one
//! [`Operation`] per call: a retry of the same call is part of the same operation. Three things can be known of one:
//!
//! * it **returned** a result: it took effect once, between invocation and return;
//! * it is **open**: no answer, or `Unknown`. It may take effect at any time after its invocation, or never;
//! * it was **not applied**: the service proved that it never took effect, so it says nothing about the state.
//!
//! Stamp an invocation *before* the request leaves and a return *after* the reply came in, both by one clock: the
//! world's in the simulator (a node's own may be skewed), the recording process's elsewhere.

pub mod edn;

use std::io::{self, BufRead, Write};

pub use crate::session::CallId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trimaran_runtime::Instant;

/// Number of a client within one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub u32);

/// Place of an operation in its history: 0 is the first one invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub usize);

/// When something happened. At equal nanoseconds, what was recorded first happened first: a client that gets a reply
/// and sends the next request within one turn of its core has the same instant for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    at_ns: u64,
    order: u64,
}

impl Stamp {
    /// The instant that the recorder gave.
    pub fn at(self) -> Instant {
        Instant::from_nanos(self.at_ns)
    }
}

/// What is known of an operation's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome<R> {
    /// Took effect, with this result, before this moment.
    Returned {
        /// When the client had the result.
        returned: Stamp,
        /// What it was told.
        result: R,
    },
    /// Unknown: takes effect at any time after its invocation, or never.
    Open,
    /// Certainly never took effect.
    NotApplied,
}

/// One call of one client: key `K`, request `O`, result `R`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<K, O, R> {
    /// Who called.
    pub client: ClientId,
    /// The call's name, one through all its retries.
    #[serde(flatten)]
    pub call: CallId,
    /// The object asked; objects are judged one by one.
    pub key: K,
    /// What was asked.
    pub op: O,
    /// When it was asked.
    pub invoked: Stamp,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome<R>,
}

/// Operations in the order of their recording.
///
/// It grows by one operation per invocation and drops none; how long a run may be is up to its workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<K, O, R> {
    operations: Vec<Operation<K, O, R>>,
    /// Events recorded so far: the next stamp's `order`.
    events: u64,
}

impl<K, O, R> Default for History<K, O, R> {
    fn default() -> Self {
        History { operations: Vec::new(), events: 0 }
    }
}

impl<K, O, R> History<K, O, R> {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that `client` is about to send `op` on `key`. Until [`returned`](Self::returned) or
    /// [`not_applied`](Self::not_applied) the operation is open, and stays so where neither ever comes.
    pub fn invoked(&mut self, client: ClientId, call: CallId, key: K, op: O, at: Instant) -> OperationId {
        let invoked = self.stamp(at);
        self.operations.push(Operation { client, call, key, op, invoked, outcome: Outcome::Open });
        OperationId(self.operations.len() - 1)
    }

    /// Records the operation's result.
    ///
    /// # Panics
    /// Where `id` is of another history, already has an end, or `at` is before its invocation: the recorder is wrong,
    /// and any verdict on what it wrote would be too.
    #[track_caller]
    pub fn returned(&mut self, id: OperationId, at: Instant, result: R) {
        let returned = self.stamp(at);
        let operation = self.open_operation(id);
        assert!(operation.invoked < returned, "operation {} returned before it was invoked", id.0);
        operation.outcome = Outcome::Returned { returned, result };
    }

    /// Records proof that the operation never took effect. Anything less than proof leaves it open.
    ///
    /// # Panics
    /// Where `id` is of another history or already has an end.
    #[track_caller]
    pub fn not_applied(&mut self, id: OperationId) {
        self.open_operation(id).outcome = Outcome::NotApplied;
    }

    #[track_caller]
    fn open_operation(&mut self, id: OperationId) -> &mut Operation<K, O, R> {
        let operation = self.operations.get_mut(id.0).expect("an operation of this history");
        assert!(matches!(operation.outcome, Outcome::Open), "operation {} has an end already", id.0);
        operation
    }

    fn stamp(&mut self, at: Instant) -> Stamp {
        self.events += 1;
        Stamp { at_ns: at.as_nanos(), order: self.events }
    }

    /// Adds another recorder's operations, which keep their instants; at equal ones `self` came first. Its
    /// [`OperationId`]s move up by `self.len()`.
    pub fn append(&mut self, mut other: Self) {
        for operation in &mut other.operations {
            operation.invoked.order += self.events;
            if let Outcome::Returned { returned, .. } = &mut operation.outcome {
                returned.order += self.events;
            }
        }
        self.events += other.events;
        self.operations.append(&mut other.operations);
    }

    /// The same operations, with keys by `key`: to judge other parts of the object by themselves.
    pub fn with_keys<L>(&self, mut key: impl FnMut(&Operation<K, O, R>) -> L) -> History<L, O, R>
    where
        O: Clone,
        R: Clone,
    {
        let operations = self.operations.iter().map(|operation| Operation {
            client: operation.client,
            call: operation.call,
            key: key(operation),
            op: operation.op.clone(),
            invoked: operation.invoked,
            outcome: operation.outcome.clone(),
        });
        History { operations: operations.collect(), events: self.events }
    }

    /// All operations; an [`OperationId`] is an index into them.
    pub fn operations(&self) -> &[Operation<K, O, R>] {
        &self.operations
    }

    /// Number of operations, whatever came of them.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Operations whose outcome nobody knows.
    pub fn open(&self) -> usize {
        self.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Open)).count()
    }
}

impl<K: Serialize, O: Serialize, R: Serialize> History<K, O, R> {
    /// Writes one JSON object per operation and line, for tools outside and for [`read_json_lines`](Self::read_json_lines).
    ///
    /// # Errors
    /// Those of `out`, and of a key, operation or result that JSON cannot hold.
    pub fn write_json_lines(&self, mut out: impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut out, operation)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

impl<K: DeserializeOwned, O: DeserializeOwned, R: DeserializeOwned> History<K, O, R> {
    /// Reads what [`write_json_lines`](Self::write_json_lines) wrote, to judge it again. Blank lines are skipped.
    ///
    /// # Errors
    /// Those of `input`; `InvalidData` with the line's number where it is no operation or returns before its invocation.
    pub fn read_json_lines(input: impl BufRead) -> io::Result<Self> {
        let mut history = Self::new();
        for (index, line) in input.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {why}", index + 1));
            let operation: Operation<K, O, R> = serde_json::from_str(&line).map_err(|e| refuse(e.to_string()))?;
            let mut newest = operation.invoked.order;
            if let Outcome::Returned { returned, .. } = &operation.outcome {
                if *returned <= operation.invoked {
                    return Err(refuse("the operation returned before it was invoked".into()));
                }
                newest = newest.max(returned.order);
            }
            history.events = history.events.max(newest);
            history.operations.push(operation);
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = History<String, u8, u64>;

    const CALL: CallId = CallId { session: 7, seq: 1 };

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn invoke(history: &mut Numbers, nanos: u64) -> OperationId {
        history.invoked(ClientId(1), CALL, "k".into(), 9, at(nanos))
    }

    fn one_of_each() -> Numbers {
        let mut history = Numbers::new();
        let (answered, refused) = (invoke(&mut history, 5), invoke(&mut history, 5));
        invoke(&mut history, 6);
        history.returned(answered, at(6), u64::MAX);
        history.not_applied(refused);
        history
    }

    #[test]
    fn a_reply_and_the_next_request_of_one_turn_keep_their_order() {
        let mut history = Numbers::new();
        let first = invoke(&mut history, 5);
        history.returned(first, at(5), 1);
        invoke(&mut history, 5);
        let [a, b] = history.operations() else { panic!("two operations") };
        let Outcome::Returned { returned, .. } = a.outcome else { panic!("returned") };
        assert!(a.invoked < returned && returned < b.invoked);
    }

    #[test]
    fn the_lines_say_what_outside_tools_read() {
        let mut lines = Vec::new();
        one_of_each().write_json_lines(&mut lines).unwrap();
        let expected = r#"{"client":1,"session":7,"seq":1,"key":"k","op":9,"invoked":{"at_ns":5,"order":1},"outcome":"returned","returned":{"at_ns":6,"order":4},"result":18446744073709551615}
{"client":1,"session":7,"seq":1,"key":"k","op":9,"invoked":{"at_ns":5,"order":2},"outcome":"not_applied"}
{"client":1,"session":7,"seq":1,"key":"k","op":9,"invoked":{"at_ns":6,"order":3},"outcome":"open"}
"#;
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
    }

    #[test]
    fn reading_gives_back_what_was_written() {
        let (history, mut lines) = (one_of_each(), Vec::new());
        history.write_json_lines(&mut lines).unwrap();
        assert_eq!(Numbers::read_json_lines(&lines[..]).unwrap(), history);
    }

    #[test]
    fn reading_names_the_bad_line() {
        let early = r#"{"client":1,"session":7,"seq":1,"key":"k","op":9,"invoked":{"at_ns":5,"order":1},
            "outcome":"returned","returned":{"at_ns":4,"order":2},"result":1}"#
            .replace('\n', "");
        for bad in ["{}", &early] {
            let error = Numbers::read_json_lines(format!("\n{bad}\n").as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().starts_with("line 2: "), "{error}");
        }
    }

    #[test]
    fn appended_operations_keep_their_order_and_never_share_a_stamp() {
        let mut history = one_of_each();
        history.append(one_of_each());
        let mut stamps: Vec<Stamp> = history.operations().iter().map(|operation| operation.invoked).collect();
        assert!(stamps[3] < stamps[4] && stamps[4] < stamps[5]);
        stamps.sort();
        stamps.dedup();
        assert_eq!((stamps.len(), history.open()), (6, 2));
    }

    #[test]
    #[should_panic(expected = "operation 0 has an end already")]
    fn a_second_end_is_the_recorders_fault() {
        let mut history = one_of_each();
        history.returned(OperationId(0), at(9), 2);
    }

    #[test]
    #[should_panic(expected = "operation 0 returned before it was invoked")]
    fn time_does_not_run_backwards() {
        let mut history = Numbers::new();
        let id = invoke(&mut history, 5);
        history.returned(id, at(4), 2);
    }
}
