//! `cargo xtask bench`: measures everything once, says which goals are met, and writes one report.
//!
//! ```text
//!   parts.rs    what is run: commands that print rows of JSON       peers.rs   the harness that runs other systems
//!   texts.rs    rows out of tables for people
//!   numbers.rs  rows -> numbers by name                             goals.rs   goals.toml: which of them are good enough
//!   model.rs    what larger machines should do                      machine.rs where it was measured, and how restless that was
//!   report.rs   all of it as one page, with plots by svg.rs
//! ```
//!
//! A part that fails, or that this machine cannot run, is named in the report, and the others go on. One that fails makes the command
//! fail at its end; goals that are missed do not.

mod goals;
mod machine;
mod model;
mod numbers;
mod parts;
mod peers;
mod report;
mod svg;
mod texts;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::step;
use crate::workspace::Workspace;
use goals::Metrics;
use parts::{Context, Part, Work};

/// A command of a part that takes longer has hung, or builds something on a slow machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(20 * 60);
/// A part is measured again where the host withheld more of the processors' time than this, and the least disturbed of so many times counts:
/// chosen by what the host did, not by what came out. Some seconds of a full run are always somebody else's.
const WITHHELD_MAX: f64 = 0.02;
const TIMES_MAX: u32 = 3;
/// What all repetitions of a run may take.
const AGAIN_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Lines of a failed command's output that are repeated.
const TAIL_LINES: usize = 5;

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one bench of the crate `benches` as it is, without a report: runtime, mesh, codec, ports, raft_commit, ring, rpc, applier, snapshot,
    /// disk or dpdk.
    ///
    /// `dpdk` needs DPDK, `dpdk-testpmd` and `valgrind`, and installs none of them.
    #[arg(conflicts_with_all = ["quick", "peers", "only"])]
    name: Option<String>,
    /// Measure everything for a short time: less than six minutes once it is built.
    #[arg(long)]
    quick: bool,
    /// Run other systems too, with the harness in this directory. Its `setup.sh` installs them, once; `run.sh` runs them.
    #[arg(long, value_name = "PATH")]
    peers: Option<PathBuf>,
    /// Only these parts of the run.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the report goes, and what is needed on the way; below the target directory where nothing is said.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// What became of a part.
pub(crate) struct Outcome {
    part: &'static Part,
    /// What it has printed, also where it failed later.
    rows: Vec<Value>,
    /// Why that is not everything, or nothing.
    why: Option<String>,
    /// It is not there to be run.
    is_absent: bool,
    took: Duration,
    /// Of the processors' time that was wanted meanwhile, the share that the machine's host gave to others; none where it is not told.
    withheld: Option<f64>,
    /// How often it was measured, until the host withheld little.
    times: u32,
}

/// Everything that a run has found.
pub(crate) struct Findings {
    machine: Value,
    /// Before the parts and after them: what comes in between may be restless alone.
    noise: [Option<machine::Noise>; 2],
    outcomes: Vec<Outcome>,
    metrics: Metrics,
    goals: Vec<(goals::Goal, goals::Verdict)>,
    quick: bool,
}

/// Runs the parts and ends with the goals and the report.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    if let Some(name) = &args.name {
        return one(workspace, name);
    }
    match measure(workspace, args) {
        Ok(findings) if findings.failures().next().is_none() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(3)
        }
    }
}

/// One bench, on this terminal.
fn one(workspace: &Workspace, name: &str) -> ExitCode {
    let mut cargo = match name {
        "dpdk" => workspace.cargo(&parts::DPDK_BENCH),
        name => workspace.cargo(&["bench", "--quiet", "--package", "trimaran-benches", "--bench", name]),
    };
    step::pass_through(&mut cargo)
}

fn measure(workspace: &Workspace, args: &Args) -> Result<Findings, String> {
    let goals = goals::load()?;
    let parts = parts::chosen(&args.only)?;
    let scratch = args.output.clone().unwrap_or_else(|| workspace.target().join("xtask/bench"));
    let told = |error: io::Error| format!("cannot write {}: {error}", scratch.display());
    fs::create_dir_all(&scratch).map_err(told)?;
    let scratch = fs::canonicalize(&scratch).map_err(told)?;
    let peers = args.peers.as_ref().map(fs::canonicalize).transpose();
    let peers = peers.map_err(|error| format!("--peers: {error}"))?;
    let context = Context { workspace, quick: args.quick, peers, scratch: scratch.clone() };

    build(&context, &parts)?;
    println!("{:<18} a loop of arithmetic, again and again", "machine");
    let (machine, before) = (machine::describe(workspace), machine::noise());
    let bar = Bar::new(&parts, args.quick);
    // In a quick run there is no time for it.
    let mut again = Again { left: if args.quick { Duration::ZERO } else { AGAIN_LIMIT } };
    let outcomes: Vec<Outcome> = parts
        .into_iter()
        .map(|part| {
            let expected = bar.expected(part);
            again.least_disturbed(expected, || bar.bar.inc_length(expected.as_secs()), || play(&context, part, &bar))
        })
        .collect();
    bar.end();
    println!("{:<18} the same loop once more", "machine");
    let noise = [before, machine::noise()];

    let mut metrics = Metrics::new();
    for outcome in &outcomes {
        metrics.extend(numbers::of(outcome.part.name, &outcome.rows));
    }
    let judged = |goal: goals::Goal| {
        let verdict = goal.judge(&metrics);
        (goal, verdict)
    };
    let goals = goals.into_iter().map(judged).collect();
    let findings = Findings { machine, noise, outcomes, metrics, goals, quick: args.quick };
    let (page, data) = (scratch.join("report.html"), scratch.join("report.json"));
    fs::write(&page, report::html(&findings)).map_err(told)?;
    fs::write(&data, format!("{:#}\n", findings.json())).map_err(told)?;
    findings.tell();
    println!("report: {}\n        {}", page.display(), data.display());
    Ok(findings)
}

/// Builds what the parts run.
fn build(context: &Context<'_>, parts: &[&Part]) -> Result<(), String> {
    let kv = context.workspace.cargo(&["build", "--release", "--quiet", "--package", "kv-example"]);
    let benches = context.workspace.cargo(&["bench", "--no-run", "--quiet", "--package", "trimaran-benches"]);
    let mut all = vec![("kv", kv), ("the micro benches", benches)];
    let is_dpdk = |part: &&Part| part.name == "dpdk" && matches!(context.work(part), Work::Run(_));
    if parts.iter().any(is_dpdk) {
        let mut dpdk = context.workspace.cargo(&parts::DPDK_BENCH);
        dpdk.arg("--no-run");
        all.push(("the bench over DPDK", dpdk));
    }
    for (what, mut command) in all {
        println!("{:<18} {what}", "building");
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("{what} cannot be built: cargo ended with {status}")),
            Err(error) => return Err(format!("cargo cannot be started: {error}")),
        }
    }
    Ok(())
}

/// How far the run is, by the time that parts are expected to take.
struct Bar {
    bar: ProgressBar,
    quick: bool,
}

impl Bar {
    fn new(parts: &[&Part], quick: bool) -> Bar {
        let quick_or_not = usize::from(!quick);
        let seconds = parts.iter().map(|part| u64::from(part.seconds[quick_or_not])).sum();
        let bar = if io::stderr().is_terminal() { ProgressBar::new(seconds) } else { ProgressBar::hidden() };
        // The template is a constant that the library accepts.
        if let Ok(style) = ProgressStyle::with_template("{prefix:<18} {wide_bar} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Bar { bar, quick }
    }

    fn expected(&self, part: &Part) -> Duration {
        Duration::from_secs(part.seconds[usize::from(!self.quick)].into())
    }

    /// A line above the bar.
    fn say(&self, line: &str) {
        match self.bar.is_hidden() {
            true => println!("{line}"),
            false => self.bar.println(line),
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// What is left for measuring again what the host has disturbed.
struct Again {
    left: Duration,
}

impl Again {
    /// A part's least disturbed outcome; `again` is told before each repetition. One that failed is never tried again: what fails now and then has to be seen.
    fn least_disturbed(&mut self, expected: Duration, again: impl Fn(), mut play: impl FnMut() -> Outcome) -> Outcome {
        let mut best = play();
        while best.times < TIMES_MAX
            && best.why.is_none()
            && best.withheld.is_some_and(|withheld| withheld > WITHHELD_MAX)
            && expected <= self.left
        {
            again();
            let next = play();
            self.left = self.left.saturating_sub(next.took);
            let times = best.times + 1;
            if next.why.is_some() || next.withheld < best.withheld {
                best = next;
            }
            best.times = times;
        }
        best
    }
}

#[allow(clippy::disallowed_methods, reason = "times a child process, not a task of a core")]
fn play(context: &Context<'_>, part: &'static Part, bar: &Bar) -> Outcome {
    let (started, ticks) = (Instant::now(), machine::Ticks::now());
    let (before, expected) = (bar.bar.position(), bar.expected(part).as_secs());
    bar.bar.set_prefix(part.name);
    bar.bar.set_message(part.what);
    let tick = || bar.bar.set_position(before + started.elapsed().as_secs().min(expected));
    let (rows, why, is_absent) = done(context, part, context.work(part), &tick);
    let why = why.or_else(|| rows.is_empty().then(|| "it printed no rows".to_owned()));
    bar.bar.set_position(before + expected);
    let withheld = machine::Ticks::now().zip(ticks).and_then(|(now, before)| now.withheld_since(before));
    let outcome = Outcome { part, rows, why, is_absent, took: started.elapsed(), withheld, times: 1 };
    let why = outcome.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let (state, seconds, rows) = (outcome.state(), outcome.took.as_secs_f64(), outcome.rows.len());
    let withheld =
        outcome.withheld_percent().map_or(String::new(), |percent| format!(", {percent} % of the time withheld"));
    bar.say(&format!("{:<18} {seconds:>6.1} s  {state}, {rows} rows{withheld}{why}", part.name));
    outcome
}

/// The rows of a part's work, why they are not all, and whether it is not there to be run.
fn done(context: &Context<'_>, part: &Part, work: Work, tick: &dyn Fn()) -> (Vec<Value>, Option<String>, bool) {
    match work {
        Work::Absent(why) => (Vec::new(), Some(why), true),
        Work::Failed(why) => (Vec::new(), Some(why), false),
        Work::Run(commands) => {
            let (output, why) = output_of(context, part, commands, tick);
            (numbers::printed(part.name, &output), why, false)
        }
        Work::Peers(commands, expected) => {
            let (_, why) = output_of(context, part, commands, tick);
            let rows = expected.rows();
            let log = fs::read_to_string(context.place(part, "log")).unwrap_or_default();
            let why = why.or_else(|| expected.missing(&rows, &log));
            (rows, why, false)
        }
    }
}

/// Runs the commands; what they print stays in a file for each stream. Their standard output, and why it is not all, if so.
fn output_of(context: &Context<'_>, part: &Part, commands: Vec<Command>, tick: &dyn Fn()) -> (String, Option<String>) {
    let (out, log) = (context.place(part, "out"), context.place(part, "log"));
    let why = run_all(&out, &log, commands, tick).unwrap_or_else(|error| Some(format!("cannot run: {error}")));
    (fs::read_to_string(&out).unwrap_or_default(), why)
}

/// Why not all of the commands have succeeded; the first that has not is the last.
fn run_all(out: &Path, log: &Path, commands: Vec<Command>, tick: &dyn Fn()) -> io::Result<Option<String>> {
    let (out_file, log_file) = (File::create(out)?, File::create(log)?);
    for mut command in commands {
        command.stdin(Stdio::null()).stdout(out_file.try_clone()?).stderr(log_file.try_clone()?);
        // A panic's trace is for its developer; the log gets one line.
        command.env("RUST_BACKTRACE", "0").env("CARGO_TERM_COLOR", "never");
        match step::wait_ticking(command.spawn()?, deadline(), tick)? {
            Some(status) if status.success() => {}
            Some(status) => return Ok(Some(format!("{status}; {}", tail(log)))),
            None => return Ok(Some(format!("it still ran after {} s and was killed", COMMAND_LIMIT.as_secs()))),
        }
    }
    Ok(None)
}

#[allow(clippy::disallowed_methods, reason = "for a child process, not a task of a core")]
fn deadline() -> Instant {
    Instant::now() + COMMAND_LIMIT
}

/// The end of a log in one line.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or(&[]).join(" | ");
    if last.is_empty() { format!("nothing in {}", log.display()) } else { last }
}

impl Findings {
    /// The rows of a part that ran; none of one that did not.
    fn rows(&self, part: &str) -> &[Value] {
        let outcome = self.outcomes.iter().find(|outcome| outcome.part.name == part);
        outcome.map_or(&[], |outcome| &outcome.rows)
    }

    fn json(&self) -> Value {
        let part = |outcome: &Outcome| {
            let (state, seconds) = (outcome.state(), outcome.took.as_secs_f64());
            let value = json!({
                "state": state, "why": outcome.why, "seconds": seconds, "withheld": outcome.withheld, "times": outcome.times,
                "rows": outcome.rows,
            });
            (outcome.part.name.to_owned(), value)
        };
        json!({
            "machine": self.machine,
            "noise": self.noise[0].map(machine::Noise::json),
            "noise_after": self.noise[1].map(machine::Noise::json),
            "quick": self.quick,
            "parts": self.outcomes.iter().map(part).collect::<BTreeMap<_, _>>(),
            "metrics": self.metrics,
            "goals": self.goals.iter().map(|(goal, verdict)| goal.json(*verdict)).collect::<Vec<_>>(),
        })
    }

    /// The goals, and what to think of them.
    fn tell(&self) {
        println!();
        self.goals.iter().for_each(|(goal, verdict)| println!("{}", goals::line(goal, *verdict)));
        let count = |word: &str| self.goals.iter().filter(|(_, verdict)| verdict.word() == word).count();
        println!("\n{} met, {} missed, {} not measured", count("met"), count("missed"), count("not measured"));
        self.noises().iter().for_each(|(when, noise)| println!("noise {when}: {noise}"));
        if let Some(withheld) = self.withheld() {
            println!("{withheld}");
        }
        for outcome in &self.outcomes {
            if let Some(why) = &outcome.why {
                println!("part {} {}: {why}", outcome.part.name, outcome.state());
            }
        }
    }

    /// How restless the machine was, in words.
    fn noises(&self) -> [(&'static str, String); 2] {
        let text = |noise: Option<machine::Noise>| noise.map_or("not measured".to_owned(), machine::Noise::text);
        let [before, after] = self.noise.map(text);
        [("before the parts", before), ("after them", after)]
    }

    /// In which parts the host gave the processors to others, in words: what was measured then says little of these systems.
    fn withheld(&self) -> Option<String> {
        let part = |outcome: &Outcome| {
            let times =
                if outcome.times > 1 { format!(" (the least of {} times)", outcome.times) } else { String::new() };
            Some(format!("{} % in {}{times}", outcome.withheld_percent()?, outcome.part.name))
        };
        let parts: Vec<String> = self.outcomes.iter().filter_map(part).collect();
        (!parts.is_empty())
            .then(|| format!("of the processors' time the machine's host gave to others: {}", parts.join(", ")))
    }

    /// The parts that were to run and could not, or not to their end.
    fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.why.is_some() && !outcome.is_absent)
    }
}

impl Outcome {
    /// Where it is worth a word.
    fn withheld_percent(&self) -> Option<u64> {
        self.withheld.map(|share| (share * 100.0).round() as u64).filter(|percent| *percent > 0)
    }

    fn state(&self) -> &'static str {
        match (&self.why, self.is_absent, self.rows.is_empty()) {
            (None, ..) => "measured",
            (_, true, _) => "not measured",
            (.., true) => "failed",
            (.., false) => "measured in part",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn findings(parts: &[(&str, Result<Vec<Value>, String>)]) -> Findings {
        let outcome = |(name, result): &(&str, Result<Vec<Value>, String>)| Outcome {
            part: parts::PARTS.iter().find(|part| part.name == *name).unwrap(),
            rows: result.clone().unwrap_or_default(),
            why: result.clone().err(),
            is_absent: false,
            took: Duration::from_secs(1),
            withheld: None,
            times: 1,
        };
        let outcomes: Vec<Outcome> = parts.iter().map(outcome).collect();
        let mut metrics = Metrics::new();
        parts.iter().for_each(|(name, result)| metrics.extend(numbers::of(name, result.as_deref().unwrap_or(&[]))));
        let goals = goals::load().unwrap().into_iter().map(|goal| (goal.clone(), goal.judge(&metrics))).collect();
        let machine = json!({ "cpu": "<a processor>", "cores": 2, "date": "today" });
        Findings { machine, noise: [None; 2], outcomes, metrics, goals, quick: true }
    }

    #[test]
    fn a_part_that_failed_does_not_take_the_others_with_it() {
        let row = json!({ "outage_ms": { "p50": 5.0, "p99": 9.0, "max": 9.5 }, "outages_ms": [5.0, 9.5] });
        let findings = findings(&[("ycsb", Err("exit status: 1".into())), ("failover-us", Ok(vec![row]))]);
        assert_eq!(findings.failures().map(|outcome| outcome.part.name).collect::<Vec<_>>(), ["ycsb"]);
        let data = findings.json();
        assert_eq!(
            (&data["parts"]["ycsb"]["state"], &data["parts"]["ycsb"]["why"]),
            (&json!("failed"), &json!("exit status: 1"))
        );
        assert_eq!(data["parts"]["failover-us"]["state"], json!("measured"));
        let goal = data["goals"].as_array().unwrap().iter().find(|goal| goal["value"] == json!(9.0)).unwrap();
        assert_eq!(goal["verdict"], json!("met"));
    }

    /// Outcomes of so much withheld, one after the other, and which of them counts: what it took tells it.
    fn least(left_s: u64, tries: &[(Option<f64>, Option<&str>)]) -> (u64, u32) {
        let mut played = tries.iter().zip(1..).map(|((withheld, why), took)| Outcome {
            part: &parts::PARTS[0],
            rows: vec![json!({})],
            why: why.map(str::to_owned),
            is_absent: false,
            took: Duration::from_secs(took),
            withheld: *withheld,
            times: 1,
        });
        let mut again = Again { left: Duration::from_secs(left_s) };
        let outcome = again.least_disturbed(Duration::from_secs(2), || (), || played.next().unwrap());
        (outcome.took.as_secs(), outcome.times)
    }

    #[test]
    fn what_the_host_disturbs_is_measured_again_and_the_least_disturbed_counts() {
        assert_eq!(least(60, &[(Some(0.02), None)]), (1, 1), "quiet enough");
        assert_eq!(least(60, &[(None, None)]), (1, 1), "nobody knows");
        assert_eq!(least(60, &[(Some(0.28), None), (Some(0.01), None)]), (2, 2));
        assert_eq!(least(60, &[(Some(0.28), None), (Some(0.05), None), (Some(0.09), None)]), (2, 3));
    }

    #[test]
    fn measuring_again_has_limits_and_hides_no_failure() {
        assert_eq!(least(0, &[(Some(0.28), None)]), (1, 1), "no time for it");
        // The second try uses up what the third would have needed.
        assert_eq!(least(3, &[(Some(0.28), None), (Some(0.3), None)]), (1, 2));
        assert_eq!(least(60, &[(Some(0.28), Some("exit status: 1"))]), (1, 1), "a failure stays one");
        assert_eq!(least(60, &[(Some(0.28), None), (Some(0.5), Some("exit status: 1"))]), (2, 2));
    }

    /// A machine without DPDK, or a run without a harness, has not failed.
    #[test]
    fn what_is_absent_is_no_failure() {
        let mut findings = findings(&[("ycsb", Err("no harness".into()))]);
        findings.outcomes[0].is_absent = true;
        assert_eq!((findings.failures().count(), findings.outcomes[0].state()), (0, "not measured"));
    }

    #[test]
    fn what_a_command_has_printed_before_it_failed_is_kept() {
        let place = std::env::temp_dir().join(format!("xtask-bench-run-{}", std::process::id()));
        let (out, log) = (place.with_extension("out"), place.with_extension("log"));
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let ticks = std::cell::Cell::new(0);
        let commands =
            vec![shell("echo '{\"id\":\"a\"}'"), shell("echo '{}'; echo broken >&2; exit 4"), shell("echo '{}'")];
        let why = run_all(&out, &log, commands, &|| ticks.set(ticks.get() + 1)).unwrap();
        assert_eq!(why.as_deref(), Some("exit status: 4; broken"));
        assert_eq!(numbers::rows(&fs::read_to_string(&out).unwrap()).len(), 2);
        assert!(ticks.get() >= 2);
        let missing = run_all(&out, &log, vec![Command::new("/nowhere")], &|| ());
        assert!(missing.is_err());
        [out, log].iter().for_each(|file| fs::remove_file(file).unwrap());
    }

    /// As harnesses do: it says which system has failed, goes on, and ends well.
    #[test]
    fn a_harness_that_goes_on_after_a_system_has_failed_is_no_success() {
        let scratch = std::env::temp_dir().join(format!("xtask-bench-harness-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let workspace = Workspace::load().unwrap();
        let context = Context { workspace: &workspace, quick: true, peers: None, scratch: scratch.clone() };
        let part = parts::PARTS.iter().find(|part| part.name == "peers").unwrap();
        let results = scratch.join("results.tsv");
        let run = |systems: &[&str]| {
            let row = "null\\tput\\t64\\t300\\t1\\t2\\t3\\t0\\t0.5\\t0.4\\t0.1\\t4.5\\t9\\n";
            let mut harness = Command::new("sh");
            harness.args(["-c", &format!("printf '{row}' > '{}'; echo 'etcd-disk failed' >&2", results.display())]);
            let systems = systems.iter().map(|system| (*system).to_owned()).collect();
            let table = peers::Expectation { results: results.clone(), value_bytes: 64, systems };
            let expected = peers::Expected { tables: vec![table], programs: Vec::new() };
            let (rows, why, is_absent) = done(&context, part, Work::Peers(vec![harness], expected), &|| ());
            assert_eq!((rows.len(), is_absent), (1, false), "what was measured is kept");
            why
        };
        assert_eq!(
            run(&["null", "etcd-disk"]).as_deref(),
            Some("no rows of etcd-disk; the harness says: etcd-disk failed")
        );
        assert_eq!(run(&["null"]), None);
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn the_end_of_a_log_is_told_in_one_line() {
        let log = std::env::temp_dir().join(format!("xtask-bench-tail-{}", std::process::id()));
        fs::write(&log, "1\n2\n\n3\n4\n5\nlast\n").unwrap();
        assert_eq!(tail(&log), "2 | 3 | 4 | 5 | last");
        fs::remove_file(&log).unwrap();
        assert!(tail(&log).starts_with("nothing in "));
    }
}
