//! `kv bench-failover`: the leader is killed again and again under a load of puts; how long is nothing committed?
//!
//! ```text
//! form the cluster -> puts, as they are due ........................................................................
//!                     each time: kill the leader -> the first put asked for since is answered -> start it again -> whole -> rest
//! ```
//!
//! A time ends when a put is answered that was asked for after the kill: a follower's entry of the old leader's, or an answer that
//! was on its way, does not count. So it holds the election, the client's search for whom was elected, and a commit.

mod apart;
mod inside;
mod table;

use crate::cli::{BenchFailover, FailoverProfile};
use crate::load::{Answered, Ask, Failure, Measured, Pace, Plan, Workload};
use crate::requests;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::{Program, say};
use trimaran_rpc::r2p2::Status;
use trimaran_runtime::{Instant, now};

/// Keys that puts are spread over.
const KEYS: u64 = 1000;
const VALUE_BYTES: usize = 64;
/// Each put of the load.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// Without a commit for so long the run has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// No load goes on for longer.
const LOAD_MAX: Duration = Duration::from_secs(86_400);

/// What came of all kills.
#[derive(Debug)]
pub(crate) struct Findings {
    /// From each kill to the first new commit, as a client sees it.
    outages: Vec<Duration>,
    /// From each kill to a leader, where nodes can be looked at.
    elections: Vec<Duration>,
    /// From each kill until all nodes were voters again.
    repairs: Vec<Duration>,
    /// The load's puts.
    puts: Measured,
    /// Longest election timeout.
    election_max: Duration,
    /// After how long without an answer the client asks the next server, where that is not as usual.
    probe: Option<Duration>,
}

/// Runs the benchmark and prints its result.
///
/// # Errors
/// Those of the nodes and the cluster, among them one that does not come back.
pub fn run(bench: &BenchFailover, program: &Program) -> Result<(), Error> {
    let findings = match bench.profile {
        FailoverProfile::Us => inside::run(bench)?,
        FailoverProfile::Shared => apart::run(bench, program)?,
    };
    match bench.json {
        true => say(&format!("{}\n", table::json(bench, &findings))),
        false => say(&table::text(bench, &findings)),
    }
}

fn failed(what: impl Into<String>) -> Error {
    Error::BenchFailed { what: what.into() }
}

/// The load's plan: puts that go on until their workload is over.
fn plan(bench: &BenchFailover) -> Plan {
    let pace = Pace::Open { per_second: bench.rate };
    let (warmup, measure) = (Duration::ZERO, LOAD_MAX);
    Plan { pace, start: now(), warmup, measure, deadline: CALL_DEADLINE, calls_max: u64::MAX }
}

/// Puts, of which each remembers when it was asked for.
struct Puts {
    rng: Pcg64Mcg,
    key: Vec<u8>,
    killed_at: Option<Instant>,
    /// The first answer to a put asked for at or after `killed_at`.
    committed_at: Option<Instant>,
    is_over: bool,
}

impl Puts {
    fn new(seed: u64) -> Rc<RefCell<Puts>> {
        let rng = Pcg64Mcg::seed_from_u64(seed);
        Rc::new(RefCell::new(Puts { rng, key: Vec::new(), killed_at: None, committed_at: None, is_over: false }))
    }

    /// From now on the next new commit is waited for.
    fn killed(&mut self, at: Instant) {
        (self.killed_at, self.committed_at) = (Some(at), None);
    }

    /// From the kill to the first new commit, once there is one.
    fn outage(&self) -> Option<Duration> {
        Some(self.committed_at?.saturating_since(self.killed_at?))
    }
}

impl Workload for Puts {
    type Call = Instant;

    fn begin(&mut self, body: &mut Vec<u8>, at: Instant) -> (Ask, Instant) {
        let number = self.rng.random_range(0..KEYS);
        self.key.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.key, "key:{number:012}");
        (requests::put(&self.key, &[b'v'; VALUE_BYTES], None, body), at)
    }

    fn end(&mut self, asked_at: Instant, result: &Result<Answered, Failure>, at: Instant) -> bool {
        let is_answered = result.as_ref().is_ok_and(|answered| answered.status == Status::Ok);
        // The turn of the kill has one stamp: what was asked for in it may have been asked before.
        if is_answered && self.killed_at.is_some_and(|killed_at| asked_at > killed_at) {
            self.committed_at.get_or_insert(at);
        }
        is_answered
    }

    fn goes_on(&self) -> bool {
        !self.is_over
    }
}

/// How far it is, on a terminal.
fn progress(kills: u32) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(kills.into());
    // The template is a constant that the library accepts.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} kills, the last {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_put_asked_for_after_the_kill_ends_an_outage() {
        let at = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
        let ok = Ok(Answered { status: Status::Ok, body: Vec::new() });
        let puts = Puts::new(1);
        let mut puts = puts.borrow_mut();
        puts.killed(at(100));
        assert!(puts.end(at(99), &ok, at(101)), "an old leader's commit, or one it left to the new one");
        assert!(puts.end(at(100), &ok, at(102)), "perhaps asked for before");
        assert!(!puts.end(at(101), &Err(Failure::Unknown), at(103)));
        assert_eq!(puts.outage(), None);
        assert!(puts.end(at(104), &ok, at(108)) && puts.end(at(101), &ok, at(109)));
        assert_eq!(puts.outage(), Some(Duration::from_millis(8)));
        puts.killed(at(200));
        assert_eq!(puts.outage(), None, "the next one");
    }
}
