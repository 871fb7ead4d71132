//! The tests as single processes, and one fault against those that reach it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::copy::Copy;
use crate::step;

/// A test may use this much processor time beyond ten times what it uses without a fault, and wait that long.
const EXTRA_CPU: Duration = Duration::from_secs(5);
const EXTRA_WAIT: Duration = Duration::from_secs(60);
/// A fault may make a queue grow for ever: the address space of a test, in KiB.
const ADDRESS_SPACE_KIB: u64 = 4 << 20;

/// A built program of tests.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) package: &'static str,
    pub(crate) path: PathBuf,
    /// Where its tests expect to run.
    pub(crate) dir: PathBuf,
}

/// What became of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A test failed: this one.
    Killed(String),
    /// A test ran for ever, or would not have ended within its limits.
    TimedOut(String),
    /// So many tests reach it, and pass.
    Survived(usize),
    /// It does not compile.
    Unviable,
}

impl Outcome {
    pub(crate) fn is_survivor(&self) -> bool {
        matches!(self, Outcome::Survived(_))
    }
}

struct Test {
    program: usize,
    name: String,
    took: Duration,
    reaches: BTreeSet<usize>,
}

/// All tests, and which fault each of them reaches.
pub(crate) struct Suite {
    programs: Vec<Program>,
    tests: Vec<Test>,
    /// How many faults each test has caught: those that catch much come first.
    caught: RefCell<BTreeMap<usize, usize>>,
}

impl Suite {
    /// Asks programs for their tests.
    pub(crate) fn list(mut programs: Vec<Program>) -> Result<Self, String> {
        // cargo tells of them as they are built, and what is known of their tests is kept by order.
        programs.sort_by(|a, b| (a.package, &a.name).cmp(&(b.package, &b.name)));
        let mut tests = Vec::new();
        for (at, program) in programs.iter().enumerate() {
            let output = Command::new(&program.path).args(["--list", "--format", "terse"]).output();
            let output = output.map_err(|error| format!("{}: {error}", program.path.display()))?;
            let listed = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
            tests.extend(names.map(|name| Test {
                program: at,
                name: name.to_owned(),
                took: Duration::from_secs(6),
                reaches: BTreeSet::new(),
            }));
        }
        Ok(Suite { programs, tests, caught: RefCell::default() })
    }

    /// Builds the copy, and runs every test without a fault: how long it takes, and what it reaches. `key` tells the copy
    /// from others: what is known of it is kept.
    pub(crate) fn known(copy: &Copy<'_>, key: u64, home: &Path) -> Result<Self, String> {
        println!("building the tests with all faults in them");
        let mut suite = Suite::list(copy.build(None)?)?;
        let knowledge = home.join("reached.json");
        if fs::read(&knowledge).is_ok_and(|text| suite.recall(key, &text).is_some()) {
            return Ok(suite);
        }
        println!("running {} tests without a fault", suite.tests.len());
        let note = home.join("reached");
        for at in 0..suite.tests.len() {
            let _ = fs::remove_file(&note);
            let started = now();
            let status = suite.run(at, &[("XTASK_MUTANTS_REACHED", &note.to_string_lossy())])?;
            let test = &mut suite.tests[at];
            test.took = started.elapsed();
            if status != Ended::Passed {
                return Err(format!("{} does not pass without a fault", suite.shown(at)));
            }
            let reached = fs::read_to_string(&note).unwrap_or_default();
            test.reaches = reached.lines().filter_map(|line| line.parse().ok()).collect();
        }
        let tests = |test: &Test| json!({ "name": test.name, "took_us": test.took.as_micros() as u64, "reaches": test.reaches });
        let text = json!({ "key": key, "tests": suite.tests.iter().map(tests).collect::<Vec<_>>() });
        fs::write(&knowledge, text.to_string()).map_err(|error| format!("{}: {error}", knowledge.display()))?;
        Ok(suite)
    }

    /// What an earlier run over the same copy has found out.
    fn recall(&mut self, key: u64, text: &[u8]) -> Option<()> {
        let known: Value = serde_json::from_slice(text).ok()?;
        let tests = known["tests"].as_array()?;
        if known["key"].as_u64()? != key || tests.len() != self.tests.len() {
            return None;
        }
        for (test, known) in self.tests.iter_mut().zip(tests) {
            if known["name"] != test.name.as_str() {
                return None;
            }
            test.took = Duration::from_micros(known["took_us"].as_u64()?);
            let reaches = known["reaches"].as_array()?.iter().filter_map(Value::as_u64);
            test.reaches = reaches.filter_map(|at| usize::try_from(at).ok()).collect();
        }
        Some(())
    }

    /// Turns one fault on, and runs the tests that reach it, those of its package first, until one fails.
    pub(crate) fn try_one(&self, mutant: usize, package: &str) -> Result<Outcome, String> {
        let mut reaching: Vec<usize> = (0..self.tests.len()).collect();
        reaching.retain(|at| self.tests[*at].reaches.contains(&mutant));
        let caught = self.caught.borrow().clone();
        reaching.sort_by_key(|at| {
            let is_abroad = self.programs[self.tests[*at].program].package != package;
            (is_abroad, Reverse(caught.get(at).copied().unwrap_or(0)), self.tests[*at].took)
        });
        self.until_one_fails(&reaching, &[("XTASK_MUTANT", &mutant.to_string())])
    }

    /// Runs the tests of programs that hold one fault, on at all times.
    pub(crate) fn try_alone(&self) -> Result<Outcome, String> {
        self.until_one_fails(&(0..self.tests.len()).collect::<Vec<_>>(), &[])
    }

    fn until_one_fails(&self, tests: &[usize], env: &[(&str, &str)]) -> Result<Outcome, String> {
        for at in tests {
            let ended = self.run(*at, env)?;
            if ended != Ended::Passed {
                *self.caught.borrow_mut().entry(*at).or_default() += 1;
            }
            match ended {
                Ended::Passed => {}
                Ended::Failed => return Ok(Outcome::Killed(self.shown(*at))),
                Ended::OverLimit => return Ok(Outcome::TimedOut(self.shown(*at))),
            }
        }
        Ok(Outcome::Survived(tests.len()))
    }

    fn run(&self, at: usize, env: &[(&str, &str)]) -> Result<Ended, String> {
        let test = &self.tests[at];
        let program = &self.programs[test.program];
        let cpu = (EXTRA_CPU + 10 * test.took).as_secs();
        let mut command = Command::new("sh");
        let limits = format!("ulimit -c 0 && ulimit -t {cpu} && ulimit -v {ADDRESS_SPACE_KIB}");
        command.args(["-c", &format!("{limits} && exec \"$@\""), "sh"]);
        command.arg(&program.path).args(["--exact", &test.name]).current_dir(&program.dir);
        command.env("CARGO_MANIFEST_DIR", &program.dir).envs(env.iter().copied());
        // What one fault made proptest find must not be tried on the next.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_RNG_SEED", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("sh: {error}"))?;
        let ended = step::wait(child, now() + EXTRA_WAIT + 20 * test.took).map_err(|error| format!("sh: {error}"))?;
        Ok(match ended {
            Some(status) if status.success() => Ended::Passed,
            Some(status) if matches!(status.signal(), Some(9 | 24)) => Ended::OverLimit,
            Some(_) => Ended::Failed,
            None => Ended::OverLimit,
        })
    }

    fn shown(&self, at: usize) -> String {
        let test = &self.tests[at];
        let program = &self.programs[test.program];
        format!("{} {} {}", program.package, program.name, test.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    OverLimit,
}

#[allow(clippy::disallowed_methods, reason = "times tests as processes, not a task of a core")]
fn now() -> Instant {
    Instant::now()
}
