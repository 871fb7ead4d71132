//! `cargo xtask test`: the steps that a change must pass, cheapest and most telling first.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::preflight::{self, Dpdk, Programs, Tools};
use crate::step::{Failed, Steps};
use crate::workspace::Workspace;

const SWARM_SEEDS: &str = "300";
/// The crate whose integration tests start processes.
const EXAMPLE: &str = "kv-example";
/// Steps that choose the same packages share their builds: cargo unites features over what is chosen.
const ALL: [&str; 1] = ["--workspace"];
const DENY_VERSION: &str = "0.20.2";
/// What counts instructions, and its package.
pub(crate) const VALGRIND: (&str, &str) = ("valgrind", "valgrind");
/// Counts them, and fails where there are more than there were.
pub(crate) const COUNTS: [&str; 8] =
    ["bench", "--quiet", "--package", "trimaran-benches", "--bench", "ring", "--", "counts"];

/// Runs all steps, or the quick ones; stops at the first that fails.
pub(crate) fn run(workspace: &Workspace, fail_fast: bool, quick: bool) -> ExitCode {
    let log_dir = match workspace.log_dir() {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("xtask: cannot make the directory for logs: {error}");
            return ExitCode::from(3);
        }
    };
    let mut run = Run {
        workspace,
        steps: Steps::new(log_dir, if quick { 6 } else { 17 }),
        tools: preflight::look(),
        fail_fast,
        closing: String::new(),
    };
    let outcome = run.quick_steps().and_then(|()| if quick { Ok(()) } else { run.long_steps() });
    // The runner's own closing lines come last: whoever reads only the end sees the tests counted.
    match outcome {
        Ok(()) => {
            run.steps.finish();
            print!("{}", run.closing);
            ExitCode::SUCCESS
        }
        Err(failed) => {
            print!("{}", closing_lines(&failed.explain()));
            ExitCode::FAILURE
        }
    }
}

struct Run<'w> {
    workspace: &'w Workspace,
    steps: Steps,
    tools: Tools,
    fail_fast: bool,
    /// The closing lines of each test run so far.
    closing: String,
}

impl Run<'_> {
    fn quick_steps(&mut self) -> Result<(), Failed> {
        let installs = std::mem::take(&mut self.tools.installs);
        self.steps.run("preflight", installs)?;
        for note in &self.tools.notes {
            println!("      note: {note}");
        }
        self.steps.run("format", vec![self.cargo(&["fmt", "--all", "--check", "--", "--color", "never"])])?;
        self.steps.run(
            "lints",
            vec![
                self.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
                self.cargo(&[
                    "clippy",
                    "-p",
                    "trimaran-raft",
                    "--all-targets",
                    "--features",
                    "sabotage,trace",
                    "--",
                    "-D",
                    "warnings",
                ]),
            ],
        )?;
        // Consensus first: when Raft is broken, every later failure is only an echo. The feature adds the tests that break it
        // on purpose; the next step tests it as it ships.
        self.test(
            "consensus tests",
            vec![self.runner(&["-p", "trimaran-raft", "--tests", "--features", "sabotage,trace"])],
        )?;
        // The same for the checks that rpc rests its reads on, and for what is executed exactly once or at least once.
        let controls = ["reads_controls", "exactly_once_controls"];
        let sabotaged = ["-p", "trimaran-rpc", "--features", "sabotage"];
        self.test("controls of rpc", vec![self.runner(&[&sabotaged[..], &targets(&controls)].concat())])?;
        let selection = self.workspace.tests(|package| package != EXAMPLE);
        self.test("tests", vec![self.runner(&[&ALL[..], &["--lib", "--bins"], &targets(&selection)[..]].concat())])
    }

    fn long_steps(&mut self) -> Result<(), Failed> {
        let mut doc = self.cargo(&["doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        self.steps.run("docs", vec![self.cargo(&["test", "--workspace", "--doc"]), doc])?;
        let swarm = ["run", "--release", "-p", "kv-example", "--", "sim", "--seeds", SWARM_SEEDS];
        self.steps.run("simulator", vec![self.cargo(&swarm)])?;
        // That the swarm notices what breaks the promise of a disk.
        let control = ["-p", EXAMPLE, "--features", "sabotage", "--lib", "swarm"];
        self.test("control of the simulator", vec![self.runner(&control)])?;
        match preflight::programs(&[VALGRIND]) {
            Ok(()) => _ = self.steps.run("instructions", vec![self.cargo(&COUNTS)])?,
            Err(missing) => self.steps.skip("instructions", &missing),
        }
        let selection = self.workspace.tests(|package| package == EXAMPLE);
        self.test("real processes", vec![self.runner(&[&ALL[..], &targets(&selection)[..]].concat())])?;
        self.dpdk()?;
        self.steps.run("readme", vec![self.cargo(&["run", "--quiet", "--package", "xtask", "--", "readme"])])?;
        self.dependencies()
    }

    /// Lints and tests the port over DPDK, on virtual devices: needs DPDK, but neither a card nor huge pages.
    fn dpdk(&mut self) -> Result<(), Failed> {
        const HOW: &str = "DPDK 22.11 is not here; `apt-get install libdpdk-dev` as root to test the port over it";
        let there = match std::mem::replace(&mut self.tools.dpdk, Dpdk::Missing) {
            Dpdk::Installed => {
                self.steps.skip("libdpdk", "already installed");
                true
            }
            Dpdk::Installable(commands) => self.steps.attempt("libdpdk", commands),
            Dpdk::Missing => {
                self.steps.skip("libdpdk", "only root can install it");
                false
            }
        };
        if !there {
            self.steps.skip("dpdk programs", "the tests over DPDK do not run here");
            self.steps.skip("dpdk", HOW);
            return Ok(());
        }
        match std::mem::replace(&mut self.tools.dpdk_programs, Programs::Installed) {
            Programs::Installed => self.steps.skip("dpdk programs", "already installed"),
            // No attempt: without one of them most tests below would pass without having tested anything.
            Programs::Installable(commands) => _ = self.steps.run("dpdk programs", commands)?,
            Programs::Missing(packages) => {
                let why = format!("{packages} missing, and not to be installed here: tests that need them do nothing");
                self.steps.skip("dpdk programs", &why);
            }
        }
        let net = ["-p", "trimaran-net", "--features", "dpdk"];
        let lints = [&["clippy"], &net[..], &["--all-targets", "--", "-D", "warnings"]].concat();
        let tests = [&net[..], &["--lib", "--test", "dpdk*"]].concat();
        // A node that answers a capture, whole.
        let replay = ["-p", "trimaran-rpc", "--features", "dpdk", "--test", "pcap_replay"];
        let replay_lints = [&["clippy"], &replay[..], &["--", "-D", "warnings"]].concat();
        // Nodes and clients as processes; most of it needs root.
        let processes = ["-p", EXAMPLE, "--features", "dpdk", "--test", "dpdk"];
        let processes_lints = [&["clippy"], &processes[..], &["--bins", "--", "-D", "warnings"]].concat();
        let commands = vec![
            self.cargo(&lints),
            self.runner(&tests),
            self.cargo(&replay_lints),
            self.runner(&replay),
            self.cargo(&processes_lints),
            self.runner(&processes),
        ];
        self.test("dpdk", commands)
    }

    /// Checks deny.toml. Last, since a fresh machine first builds cargo-deny for it (one to two minutes).
    fn dependencies(&mut self) -> Result<(), Failed> {
        let Some(deny) = self.deny() else {
            self.steps.skip(
                "dependencies",
                "cargo-deny could not be built here; `cargo install cargo-deny` to check deny.toml",
            );
            return Ok(());
        };
        let check = |args: &[&str]| {
            let mut command = Command::new(&deny);
            command.current_dir(self.workspace.root()).args(args);
            command
        };
        let commands = vec![check(&["check", "licenses", "sources"]), check(&["--exclude-dev", "check", "bans"])];
        self.steps.run("dependencies", commands).map(drop)
    }

    /// The installed cargo-deny, or our own under target/, built now if need be.
    fn deny(&mut self) -> Option<PathBuf> {
        if self.tools.deny {
            self.steps.skip("cargo-deny", "already installed");
            return Some("cargo-deny".into());
        }
        let root = self.steps.log_dir().join("tools");
        let binary = root.join("bin/cargo-deny");
        if binary.exists() {
            self.steps.skip("cargo-deny", "already built");
            return Some(binary);
        }
        let mut install = self.cargo(&[
            "install",
            "--locked",
            "--quiet",
            "--debug",
            "cargo-deny",
            "--version",
            DENY_VERSION,
            "--root",
        ]);
        // It runs for a second: optimising it costs more than it saves.
        install.arg(&root).env("CARGO_PROFILE_DEV_DEBUG", "0");
        self.steps.attempt("cargo-deny", vec![install]).then_some(binary)
    }

    fn test(&mut self, name: &str, commands: Vec<Command>) -> Result<(), Failed> {
        let output = self.steps.run(name, commands)?;
        self.closing.push_str(&closing_lines(&output));
        Ok(())
    }

    /// The test runner over some packages: nextest where it is installed, because it names a hanging test and kills it.
    fn runner(&self, selection: &[&str]) -> Command {
        let mut command = if self.tools.nextest {
            self.cargo(&["nextest", "run", "--no-tests", "pass"])
        } else {
            self.cargo(&["test"])
        };
        command.args(selection);
        if !self.fail_fast {
            command.arg("--no-fail-fast");
        }
        command
    }

    fn cargo(&self, args: &[&str]) -> Command {
        self.workspace.cargo(args)
    }
}

/// Arguments that choose integration tests by name.
fn targets<'n>(names: &[&'n str]) -> Vec<&'n str> {
    names.iter().flat_map(|name| ["--test", name]).collect()
}

/// What the runner said last: nextest's summary with the failed tests below it, or libtest's results and errors.
fn closing_lines(output: &str) -> String {
    let mut closing = String::new();
    let mut in_summary = false;
    for line in output.lines() {
        let text = line.trim_start();
        // A new command of the same step ends the summary of the one before.
        in_summary = !text.starts_with("$ ") && (in_summary || text.starts_with("Summary [") || runner_error(text));
        let result = text.starts_with("test result: ") && !text.contains(" 0 passed; 0 failed");
        if in_summary || result || (text.starts_with("test ") && text.ends_with(" ... FAILED")) {
            closing.push_str(line);
            closing.push('\n');
        }
    }
    closing
}

/// libtest's last words after failed tests; a failed build has none, its errors stand above.
fn runner_error(line: &str) -> bool {
    line.starts_with("error: test failed") || (line.starts_with("error: ") && line.ends_with("failed:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_closes_with_its_summary_and_the_failed_tests() {
        let output = "$ cargo nextest run\n   Compiling a\n  PASS [ 0.1s] a b\n------------\n     Summary [ 0.2s] 2 tests run: 1 passed, 1 failed\n        FAIL [ 0.1s] a c\nerror: test run failed\n";
        assert_eq!(
            closing_lines(output),
            "     Summary [ 0.2s] 2 tests run: 1 passed, 1 failed\n        FAIL [ 0.1s] a c\nerror: test run failed\n"
        );
    }

    #[test]
    fn libtest_closes_with_its_results_but_not_with_empty_ones() {
        let output = "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n\nerror: test failed, to rerun pass `-p a --lib`\n";
        assert_eq!(
            closing_lines(output),
            "test b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\nerror: test failed, to rerun pass `-p a --lib`\n"
        );
    }

    #[test]
    fn a_second_command_starts_a_new_summary() {
        let output = "     Summary [ 1s] 1 test run: 1 passed\n$ cargo nextest run -p b\n   Compiling b\n     Summary [ 2s] 3 tests run: 3 passed\n";
        assert_eq!(
            closing_lines(output),
            "     Summary [ 1s] 1 test run: 1 passed\n     Summary [ 2s] 3 tests run: 3 passed\n"
        );
    }
}
