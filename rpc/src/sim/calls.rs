//! What the clients of a simulation asked and were told, judged by the service itself run alone.

use super::history::{History, Operation, Outcome};
use super::linearizability::{self, Effect, Model, Report, Verdict};
use crate::alone::Alone;
use crate::r2p2::Policy;
use crate::service::{Answer, Method, Service};
use serde::{Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt::{self, Debug};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Steps for one search, each of which loads a saved state, runs a handler and saves the state again. A few seconds for a
/// small state.
const STEPS: u64 = 1_000_000;
/// Bytes of a state that are shown as they are.
const SHOWN_BYTES: usize = 96;

/// A request as a history knows it.
#[derive(Clone)]
pub struct Asked {
    method: u32,
    is_read: bool,
    request: Vec<u8>,
    known: Option<&'static Method>,
}

impl Asked {
    pub(super) fn new(method: u32, policy: Policy, request: Vec<u8>, methods: &'static [Method]) -> Asked {
        let known = methods.iter().find(|known| known.key == method);
        Asked { method, is_read: policy == Policy::ReplicatedRouteNoSideEffects, request, known }
    }

    /// The method's key.
    pub fn method(&self) -> u32 {
        self.method
    }

    /// The method's name, or for services of bytes its key in hexadecimal.
    pub fn name(&self) -> String {
        self.known.map_or_else(|| format!("{:08x}", self.method), |known| known.name.to_owned())
    }

    /// Whether it is a linearizable read; else it went through the log.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// The request's bytes: the encoded arguments.
    pub fn request(&self) -> &[u8] {
        &self.request
    }
}

impl Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_read { "read" } else { "write" };
        write!(f, "{kind} {}(\"{}\")", self.name(), self.request.escape_ascii())
    }
}

impl Ord for Asked {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.method, self.is_read, &self.request).cmp(&(other.method, other.is_read, &other.request))
    }
}

impl PartialOrd for Asked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Asked {}

impl Serialize for Asked {
    fn serialize<Z: Serializer>(&self, to: Z) -> Result<Z::Ok, Z::Error> {
        (self.name(), if self.is_read { "read" } else { "write" }, self.request.escape_ascii().to_string())
            .serialize(to)
    }
}

/// An answer as a history knows it.
#[derive(Clone)]
pub struct Told {
    answer: Answer,
    reply: Vec<u8>,
    known: Option<&'static Method>,
}

impl Told {
    pub(super) fn new(asked: &Asked, answer: Answer, reply: Vec<u8>) -> Told {
        Told { answer, reply, known: asked.known }
    }

    /// How the handler ended.
    pub fn answer(&self) -> Answer {
        self.answer
    }

    /// The reply's bytes: the encoded result, or the service's encoded error.
    pub fn reply(&self) -> &[u8] {
        &self.reply
    }

    fn text(&self) -> String {
        let decoded = self.known.and_then(|known| (known.decode_json)(self.answer, &self.reply).ok());
        decoded.unwrap_or_else(|| format!("\"{}\"", self.reply.escape_ascii()))
    }
}

impl Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.answer, self.text())
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        (self.answer, &self.reply) == (other.answer, &other.reply)
    }
}

impl Serialize for Told {
    fn serialize<Z: Serializer>(&self, to: Z) -> Result<Z::Ok, Z::Error> {
        (format!("{:?}", self.answer), self.text()).serialize(to)
    }
}

/// What is judged by itself: the whole service, or a part of it that other parts do not touch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Object(String);

impl Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("(whole service)") } else { self.0.fmt(f) }
    }
}

impl Object {
    pub(super) const WHOLE: Object = Object(String::new());
}

/// Operations as they are recorded while clients run.
pub(super) type Record = History<Object, Asked, Told>;

/// Everything that clients asked since the simulation began, and what they were told.
pub struct CallHistory<S> {
    record: Record,
    make: Rc<dyn Fn() -> S>,
}

impl<S> Debug for CallHistory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallHistory").field("operations", &self.record.len()).finish_non_exhaustive()
    }
}

impl<S: Service> CallHistory<S> {
    pub(super) fn new(record: Record, make: Rc<dyn Fn() -> S>) -> Self {
        CallHistory { record, make }
    }

    /// Each operation, in the order of their beginnings.
    pub fn operations(&self) -> &[Operation<Object, Asked, Told>] {
        self.record.operations()
    }

    /// Number of operations, whatever came of them.
    pub fn len(&self) -> usize {
        self.record.len()
    }

    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
    }

    /// Operations whose outcome nobody knows: they may take effect at any time after they began, or never.
    pub fn open(&self) -> usize {
        self.record.open()
    }

    /// Operations that returned a result.
    pub fn returned(&self) -> usize {
        self.operations().iter().filter(|operation| matches!(operation.outcome, Outcome::Returned { .. })).count()
    }

    /// Panics, with the operation that has no place, unless one copy of the service that handles one call after the other
    /// could have given every answer. That copy is the service itself: its handlers run on the state as saved.
    ///
    /// So the check needs [`State::load`](crate::state::State::load) to give back what `save` wrote, and it cannot judge
    /// answers that depend on log time, log index, random numbers of the context or timers: the copy has no log. Judge these by
    /// [`CallHistory::check_linearizable_with`]. A service of many independent keys is checked much faster by
    /// [`CallHistory::check_linearizable_by`].
    ///
    /// # Panics
    /// Also where the search gives up: too many calls of unknown outcome, or in flight at once, on one object.
    #[track_caller]
    pub fn check_linearizable(&self) {
        self.check_linearizable_by(|_| String::new());
    }

    /// As [`CallHistory::check_linearizable`], with operations of different keys judged apart. Right where the answer of a
    /// call depends on no call of another key: for gets and puts of one key, not for a count of all keys.
    ///
    /// # Panics
    /// As [`CallHistory::check_linearizable`].
    #[track_caller]
    pub fn check_linearizable_by(&self, mut key: impl FnMut(&Asked) -> String) {
        let record = self.record.with_keys(|operation| Object(key(&operation.op)));
        let report = linearizability::check(&Alike { make: self.make.clone() }, &record, STEPS);
        conclude(&report);
    }

    /// As [`CallHistory::check_linearizable`], with a model in place of the service.
    ///
    /// # Panics
    /// As [`CallHistory::check_linearizable`].
    #[track_caller]
    pub fn check_linearizable_with<M: Model<Op = Asked, Ret = Told>>(&self, model: &M) {
        conclude(&linearizability::check(model, &self.record, linearizability::DEFAULT_STEPS_PER_KEY));
    }

    /// Writes a JSON array with one operation a line: client, call, request, times in nanoseconds, outcome.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: impl Write) -> io::Result<()> {
        write_json(&self.record, out)
    }
}

#[track_caller]
fn conclude(report: &Report) {
    match &report.verdict {
        Verdict::Linearizable => {}
        Verdict::Violated(violation) => panic!("{violation}"),
        Verdict::Undecided { .. } => panic!(
            "whether {} operations are linearizable is undecided after {} steps: use fewer clients or faults, longer \
             deadlines, or `check_linearizable_by` where keys are independent",
            report.operations, report.steps
        ),
    }
}

pub(super) fn write_json(record: &Record, mut out: impl Write) -> io::Result<()> {
    for (number, operation) in record.operations().iter().enumerate() {
        out.write_all(if number == 0 { b"[\n" } else { b",\n" })?;
        serde_json::to_writer(&mut out, operation)?;
    }
    out.write_all(if record.is_empty() { b"[]\n" } else { b"\n]\n" })?;
    out.flush()
}

/// The service as its own model.
struct Alike<S> {
    make: Rc<dyn Fn() -> S>,
}

/// A state as saved. `None`: a handler has panicked, as it would have on every replica; nothing can follow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Saved(Option<Rc<[u8]>>);

impl Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("a panic"),
            Some(bytes) if bytes.len() <= SHOWN_BYTES => write!(f, "the state \"{}\"", bytes.escape_ascii()),
            Some(bytes) => write!(f, "a state of {} bytes", bytes.len()),
        }
    }
}

impl<S: Service> Model for Alike<S> {
    type Op = Asked;
    type Ret = Told;
    type State = Saved;

    fn initial(&self) -> Saved {
        Saved(Some(Alone::new((self.make)()).bytes().into()))
    }

    fn step(&self, state: &Saved, op: &Asked) -> (Saved, Told) {
        // No server answers a call so, so nothing has a place after a panic.
        let never = || (Saved(None), Told::new(op, Answer::Refused(crate::r2p2::Refusal::Stopped), Vec::new()));
        let Some(bytes) = &state.0 else { return never() };
        let mut alone = match Alone::<S>::from_bytes(bytes) {
            Ok(alone) => alone,
            Err(error) => panic!("`State::load` of {} does not read what its `save` wrote: {error}", S::NAME),
        };
        if op.is_read {
            let (answer, reply) = alone.read(op.method, &op.request);
            return (state.clone(), Told::new(op, answer, reply));
        }
        // In an order that never was a handler may meet what it need not expect.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let (answer, reply) = alone.write(op.method, &op.request);
            (alone.bytes(), answer, reply)
        }));
        let Ok((bytes, answer, reply)) = ran else { return never() };
        (Saved(Some(bytes.into())), Told::new(op, answer, reply))
    }

    fn effect(&self, op: &Asked, _: Option<&Told>) -> Effect<Saved> {
        if op.is_read { Effect::Reads } else { Effect::Unknown }
    }
}
