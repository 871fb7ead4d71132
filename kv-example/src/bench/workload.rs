//! What a benchmark asks for, request by request, and how long each kind of it took.

use super::choice::Chooser;
use super::{Asking, Load};
use crate::cli::{Choice, Mix, Op};
use crate::error::KvError;
use crate::load::{Answered, Ask, Failure, Workload};
use crate::store::{Expected, Found};
use crate::{requests, resp};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::io::Write;
use std::time::Duration;
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_runtime::Instant;

/// Keys of one scan, chosen evenly, as YCSB's.
const SCAN_ITEMS: std::ops::RangeInclusive<u32> = 1..=100;
/// A read-modify-write that others overtake so often is given up and counts as refused.
const TRIES_MAX: u32 = 16;
/// Longest latency told apart.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Put,
    Get,
    Stale,
    Echo,
    Insert,
    Scan,
    ReadModifyWrite,
}

/// All kinds in the order of their tables.
pub const KINDS: [Kind; 7] =
    [Kind::Put, Kind::Get, Kind::Stale, Kind::Echo, Kind::Insert, Kind::Scan, Kind::ReadModifyWrite];

impl Kind {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Stale => "stale",
            Kind::Echo => "echo",
            Kind::Insert => "insert",
            Kind::Scan => "scan",
            Kind::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// Writes the name of a key: 16 bytes.
pub fn write_key(number: u64, key: &mut Vec<u8>) {
    key.clear();
    // Writing to a Vec cannot fail.
    let _ = write!(key, "key:{number:012}");
}

/// A value of so many bytes.
pub fn value_of(bytes: u32) -> Vec<u8> {
    vec![b'v'; bytes as usize]
}

/// One load's requests.
pub struct BenchWorkload {
    asking: Asking,
    chooser: Chooser,
    /// Keys that there are with those whose insert is under way.
    inserted: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    rng: Pcg64Mcg,
    times: Vec<(Kind, Histogram<u64>)>,
    /// Of the call that ended last.
    ended: Kind,
    conflicts: u64,
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
pub struct Doing {
    kind: Kind,
    key: u64,
    /// Of a read-modify-write: reads so far, and whether its write is on its way.
    tries: u32,
    writes: bool,
}

impl BenchWorkload {
    pub(super) fn new(load: &Load) -> Self {
        BenchWorkload {
            asking: load.asking,
            chooser: Chooser::new(load.choice(), load.keys),
            inserted: load.keys,
            key: Vec::new(),
            value: value_of(load.value),
            rng: Pcg64Mcg::seed_from_u64(1),
            times: Vec::new(),
            ended: Kind::Echo,
            conflicts: 0,
        }
    }

    /// The latencies in nanoseconds of each kind that was answered, in the order of [`KINDS`].
    pub(super) fn times(&mut self) -> Vec<(Kind, Histogram<u64>)> {
        let mut times = std::mem::take(&mut self.times);
        times.sort_by_key(|(kind, _)| KINDS.iter().position(|other| other == kind));
        times
    }

    /// Keys that there are with those whose insert is under way.
    pub(super) fn keys(&self) -> u64 {
        self.inserted
    }

    /// Writes of a read-modify-write that found another version.
    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts
    }

    fn kind(&mut self) -> Kind {
        let mut percent = |share: u32| self.rng.random_range(0..100) < share;
        match self.asking {
            Asking::One(Op::Put) => Kind::Put,
            Asking::One(Op::Get) => Kind::Get,
            Asking::One(Op::Stale) => Kind::Stale,
            Asking::One(Op::Echo) => Kind::Echo,
            Asking::Reads(share) if percent(share.into()) => Kind::Get,
            Asking::Reads(_) => Kind::Put,
            Asking::Mix(Mix::A) if percent(50) => Kind::Put,
            Asking::Mix(Mix::B) if percent(5) => Kind::Put,
            Asking::Mix(Mix::D | Mix::E) if percent(5) => Kind::Insert,
            Asking::Mix(Mix::E) => Kind::Scan,
            Asking::Mix(Mix::F) if percent(50) => Kind::ReadModifyWrite,
            Asking::Mix(_) => Kind::Get,
        }
    }
}

impl Asking {
    /// How keys are chosen where nobody says otherwise.
    pub(super) fn usual_choice(self) -> Choice {
        match self {
            Asking::One(_) | Asking::Reads(_) => Choice::Uniform,
            Asking::Mix(Mix::D) => Choice::Latest,
            Asking::Mix(_) => Choice::Zipfian,
        }
    }

    /// Whether values must be there before.
    pub(crate) fn reads(self) -> bool {
        !matches!(self, Asking::One(Op::Put | Op::Echo) | Asking::Reads(0))
    }
}

impl Workload for BenchWorkload {
    type Call = Doing;

    fn begin(&mut self, body: &mut Vec<u8>, _at: Instant) -> (Ask, Doing) {
        let kind = self.kind();
        let key = if kind == Kind::Insert { self.inserted } else { self.chooser.draw(&mut self.rng) };
        self.inserted += u64::from(kind == Kind::Insert);
        write_key(key, &mut self.key);
        let ask = match kind {
            Kind::Put | Kind::Insert => requests::put(&self.key, &self.value, None, body),
            Kind::Get | Kind::ReadModifyWrite => requests::get(&self.key, body),
            Kind::Stale => Ask { policy: Policy::LbRoute, ..requests::get(&self.key, body) },
            Kind::Scan => requests::scan(&self.key, None, self.rng.random_range(SCAN_ITEMS), body),
            Kind::Echo => {
                resp::emit_command(&[b"ECHO", &self.value], body);
                requests::raw(Policy::LbRoute)
            }
        };
        (ask, Doing { kind, key, tries: 1, writes: false })
    }

    fn goes_on_with(
        &mut self,
        call: &mut Doing,
        result: &Result<Answered, Failure>,
        body: &mut Vec<u8>,
    ) -> Option<Ask> {
        let (Kind::ReadModifyWrite, Ok(answered)) = (call.kind, result) else { return None };
        write_key(call.key, &mut self.key);
        if !call.writes {
            let found: Option<Found> = requests::result(answered)?.ok()?;
            let expected = found.map_or(Expected::Absent, |found| Expected::Version(found.version));
            call.writes = true;
            return Some(requests::cas(&self.key, &expected, &self.value, None, body));
        }
        let overtaken = matches!(requests::result::<u64>(answered), Some(Err(KvError::Conflict { .. })));
        self.conflicts += u64::from(overtaken);
        (overtaken && call.tries < TRIES_MAX).then(|| {
            (call.writes, call.tries) = (false, call.tries + 1);
            requests::get(&self.key, body)
        })
    }

    fn end(&mut self, call: Doing, result: &Result<Answered, Failure>, _at: Instant) -> bool {
        let is_answered = result.as_ref().is_ok_and(|answered| match call.kind {
            // A command says in its reply whether it was refused.
            Kind::Echo => !answered.body.starts_with(b"-"),
            _ => answered.status == Status::Ok,
        });
        if is_answered && call.kind == Kind::Insert {
            self.chooser.grow();
        }
        self.ended = call.kind;
        is_answered
    }

    fn answered_in(&mut self, latency: Duration) {
        let at = match self.times.iter().position(|(kind, _)| *kind == self.ended) {
            Some(at) => at,
            None => {
                let Ok(histogram) = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3) else { return };
                self.times.push((self.ended, histogram));
                self.times.len() - 1
            }
        };
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).clamp(1, LATENCY_NS_MAX);
        if let Some((_, histogram)) = self.times.get_mut(at) {
            histogram.saturating_record(latency_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::loads;
    use super::*;
    use crate::command;
    use crate::service::Kv;
    use trimaran_rpc::codec;
    use trimaran_rpc::service::Service;

    fn workload(line: &str) -> BenchWorkload {
        BenchWorkload::new(&loads(line)[0])
    }

    fn method(ask: Ask) -> &'static str {
        Kv::methods().iter().find(|method| method.key == ask.method).map_or("raw", |method| method.name)
    }

    #[test]
    fn each_operation_asks_what_it_says_under_its_policy() {
        let key = |body: &[u8]| codec::decode::<(&[u8],)>(body).map(|(key,)| key.len());
        for (op, policy) in [("put", 2), ("get", 3), ("stale", 0), ("echo", 0)] {
            let mut workload = workload(&format!("kv bench --op {op} --value 100"));
            let mut body = Vec::new();
            let (ask, _) = workload.begin(&mut body, Instant::ZERO);
            assert_eq!(ask.policy.to_wire(), policy);
            match op {
                "put" => {
                    let (key, value, ttl): (&[u8], &[u8], Option<Duration>) = codec::decode(&body).expect("a put");
                    assert_eq!((method(ask), key.len(), value.len(), ttl), ("put", 16, 100, None));
                }
                "get" | "stale" => assert_eq!((method(ask), key(&body)), ("get", Ok(16))),
                _ => {
                    let command = command::Command::parse(&body);
                    assert!(
                        method(ask) == "raw"
                            && matches!(command, Ok(command::Command::Echo(value)) if value.len() == 100)
                    );
                }
            }
        }
    }

    fn ok(body: Result<Vec<u8>, trimaran_rpc::codec::CodecError>) -> Result<Answered, Failure> {
        Ok(Answered { status: Status::Ok, body: body.expect("a form") })
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let answered = |op: &str, status, body: &[u8]| {
            let mut workload = workload(&format!("kv bench --op {op}"));
            let (_, call) = workload.begin(&mut Vec::new(), Instant::ZERO);
            workload.end(call, &Ok(Answered { status, body: body.to_vec() }), Instant::ZERO)
        };
        // Version 45 is the byte that a refused command begins with.
        assert!(answered("put", Status::Ok, b"-") && !answered("put", Status::App, b"-"));
        assert!(answered("echo", Status::Ok, b"$2\r\nhi\r\n") && !answered("echo", Status::Ok, b"-ERR no\r\n"));
        let mut workload = workload("kv bench");
        let (_, call) = workload.begin(&mut Vec::new(), Instant::ZERO);
        assert!(!workload.end(call, &Err(Failure::Unknown), Instant::ZERO));
    }

    /// How many of 10,000 requests were of each kind.
    fn kinds(line: &str) -> Vec<(Kind, usize)> {
        let mut workload = workload(line);
        let mut counts = KINDS.map(|kind| (kind, 0));
        for _ in 0..10_000 {
            let (_, call) = workload.begin(&mut Vec::new(), Instant::ZERO);
            counts.iter_mut().filter(|(kind, _)| *kind == call.kind).for_each(|(_, count)| *count += 1);
        }
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn mixes_have_the_shares_of_ycsb() {
        use Kind::{Get, Insert, Put, ReadModifyWrite, Scan};
        let cases: [(&str, &[(Kind, usize)]); 9] = [
            ("--mix a", &[(Put, 5000), (Get, 5000)]),
            ("--mix b", &[(Put, 500), (Get, 9500)]),
            ("--mix c", &[(Get, 10_000)]),
            ("--mix d", &[(Get, 9500), (Insert, 500)]),
            ("--mix e", &[(Insert, 500), (Scan, 9500)]),
            ("--mix f", &[(Get, 5000), (ReadModifyWrite, 5000)]),
            ("--reads 0", &[(Put, 10_000)]),
            ("--reads 30", &[(Put, 7000), (Get, 3000)]),
            ("--reads 100", &[(Get, 10_000)]),
        ];
        for (arguments, expected) in cases {
            let seen = kinds(&format!("kv bench {arguments}"));
            let near = |(a, b): (&(Kind, usize), &(Kind, usize))| a.0 == b.0 && a.1.abs_diff(b.1) < 200;
            assert!(seen.len() == expected.len() && seen.iter().zip(expected).all(near), "{arguments}: {seen:?}");
        }
    }

    #[test]
    fn inserts_are_new_keys_that_are_read_once_they_are_there() {
        let mut workload = workload("kv bench --mix d --keys 10");
        let (mut next, mut body) = (10, Vec::new());
        for _ in 0..2000 {
            body.clear();
            let (_, call) = workload.begin(&mut body, Instant::ZERO);
            if call.kind == Kind::Insert {
                assert_eq!(call.key, next);
                next += 1;
            }
            assert!(call.key < workload.inserted);
            assert!(workload.end(call, &ok(codec::encode(&1u64)), Instant::ZERO));
        }
        assert!(next > 50 && workload.chooser.count() == next);
    }

    #[test]
    fn a_read_modify_write_writes_what_it_has_read_and_begins_anew_when_overtaken() {
        let mut workload = workload("kv bench --mix f");
        let mut body = Vec::new();
        let mut call = loop {
            body.clear();
            let (_, call) = workload.begin(&mut body, Instant::ZERO);
            if call.kind == Kind::ReadModifyWrite {
                break call;
            }
        };
        let found = |version| ok(codec::encode(&Some(Found { value: b"v".to_vec(), version, ttl: None })));
        let conflict = codec::encode(&KvError::Conflict { version: Some(9) }).expect("a form");
        let conflict = Ok(Answered { status: Status::App, body: conflict });
        for version in [7, 9] {
            body.clear();
            let ask = workload.goes_on_with(&mut call, &found(version), &mut body).expect("a write");
            let (_, expected, ..): (&[u8], Expected, &[u8], Option<Duration>) = codec::decode(&body).expect("a cas");
            assert_eq!((method(ask), expected), ("cas", Expected::Version(version)));
            body.clear();
            let ask = workload.goes_on_with(&mut call, &conflict, &mut body).expect("another read");
            assert_eq!(method(ask), "get");
        }
        let _ = workload.goes_on_with(&mut call, &found(10), &mut body);
        assert!(workload.goes_on_with(&mut call, &ok(codec::encode(&11u64)), &mut body).is_none(), "done");
        assert_eq!(workload.conflicts(), 2);
        call.tries = TRIES_MAX;
        assert!(workload.goes_on_with(&mut call, &conflict, &mut body).is_none(), "given up");
        assert!(workload.goes_on_with(&mut call, &Err(Failure::Unknown), &mut body).is_none());
    }

    #[test]
    fn each_kind_has_its_own_latencies() {
        let mut workload = workload("kv bench --mix a");
        for _ in 0..100 {
            let (_, call) = workload.begin(&mut Vec::new(), Instant::ZERO);
            let is_put = call.kind == Kind::Put;
            workload.end(call, &ok(codec::encode(&1u64)), Instant::ZERO);
            workload.answered_in(Duration::from_micros(if is_put { 500 } else { 5 }));
        }
        let times = workload.times();
        let kinds: Vec<(Kind, u64)> = times.iter().map(|(kind, times)| (*kind, times.max() / 5000)).collect();
        assert_eq!(kinds, [(Kind::Put, 100), (Kind::Get, 1)]);
    }
}
