//! `cargo xtask readme`: does what the README tells a newcomer to do. Its service becomes a crate outside the workspace with
//! one dependency, is tested, runs as a cluster, and its test finds a mistake that is put in.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::workspace::Workspace;

/// What the README's test asks for, as it stands there.
const WORKLOAD: &str = r#"run(ops(200, |rng| match rng.below(3) {
            0 => CounterCalls::get("apples").erase(),
            _ => CounterCalls::add("apples", 1).erase(),
        }));"#;

/// The same by hand, with a mistake that many a client has made.
const MISTAKEN: &str = r#"each(|client, mut me| async move {
            let client = CounterClient::on(client);
            for _ in 0..50 {
                let recording = me.begin(&CounterCalls::add("apples", 1).erase());
                let mut end = client.add("apples", 1).deadline(Duration::from_millis(15)).await;
                while matches!(end, Err(trimaran_rpc::client::CallError::Unknown { .. })) {
                    // A call of its own, though the first may have taken effect.
                    end = client.add("apples", 1).deadline(Duration::from_millis(15)).await;
                }
                recording.end_typed(&end);
            }
        });"#;

/// How long a cluster of the service runs here.
const DEMO_SECONDS: &str = "20";
/// How long the cluster may take to answer its first call.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn run(workspace: &Workspace) -> ExitCode {
    match Newcomer::new(workspace).and_then(|newcomer| newcomer.follow()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: the README's service: {problem}");
            ExitCode::FAILURE
        }
    }
}

struct Newcomer<'w> {
    workspace: &'w Workspace,
    directory: PathBuf,
    source: String,
}

impl<'w> Newcomer<'w> {
    fn new(workspace: &'w Workspace) -> Result<Self, String> {
        let readme = fs::read_to_string(workspace.root().join("README.md")).map_err(|error| error.to_string())?;
        let source = rust_block(&readme).ok_or("the README has no block of Rust")?;
        if !source.contains(WORKLOAD) {
            return Err("its test has changed: change WORKLOAD in xtask/src/readme.rs with it".into());
        }
        let directory = std::env::temp_dir().join(format!("trimaran-readme-{}", std::process::id()));
        Ok(Newcomer { workspace, directory, source })
    }

    fn follow(&self) -> Result<(), String> {
        let result = self.write_crate().and_then(|()| self.steps());
        // What is left behind in the temporary directory is not worth a failure.
        let _ = fs::remove_dir_all(&self.directory);
        result
    }

    fn steps(&self) -> Result<(), String> {
        self.write_source(&self.source)?;
        println!("its test passes");
        let (passed, output) = self.cargo(&["test"])?;
        if !passed || output.contains("warning: unused") {
            return Err(format!("`cargo test` fails:\n{output}"));
        }
        println!("it runs as a cluster");
        let (built, output) = self.cargo(&["build"])?;
        if !built {
            return Err(format!("`cargo build` fails:\n{output}"));
        }
        self.try_cluster()?;
        println!("its test finds a retry under a new id");
        self.write_source(&self.source.replace(WORKLOAD, MISTAKEN))?;
        let (passed, output) = self.cargo(&["test"])?;
        if passed || !output.contains("not linearizable") || !output.contains("TRIMARAN_SEED=") {
            return Err(format!("the mistake was not found, or not explained:\n{output}"));
        }
        Ok(())
    }

    fn write_crate(&self) -> Result<(), String> {
        let rpc = self.workspace.root().join("rpc");
        let manifest = format!(
            "[package]\nname = \"counter\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\ntrimaran-rpc = {{ path = {rpc:?} }}\n\n\
             [profile.dev]\ndebug = \"line-tables-only\"\n\n[profile.test]\nopt-level = 1\ndebug = \"line-tables-only\"\n"
        );
        fs::create_dir_all(self.directory.join("src"))
            .and_then(|()| fs::write(self.directory.join("Cargo.toml"), manifest))
            // The versions that everything else was tested with.
            .and_then(|()| fs::copy(self.workspace.root().join("Cargo.lock"), self.directory.join("Cargo.lock")))
            .map(drop)
            .map_err(|error| format!("cannot write {}: {error}", self.directory.display()))
    }

    fn write_source(&self, source: &str) -> Result<(), String> {
        fs::write(self.directory.join("src/main.rs"), source).map_err(|error| error.to_string())
    }

    /// Whether it succeeded, and all that it said.
    fn cargo(&self, args: &[&str]) -> Result<(bool, String), String> {
        let mut command = self.workspace.cargo(args);
        command.current_dir(&self.directory).env("CARGO_TARGET_DIR", self.target());
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run cargo: {error}"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// The workspace's own, where its dependencies are built already.
    fn target(&self) -> PathBuf {
        self.workspace.target()
    }

    fn try_cluster(&self) -> Result<(), String> {
        let counter = self.target().join("debug/counter");
        let mut demo = Demo(spawn_quiet(Command::new(&counter).args(["demo", "--seconds", DEMO_SECONDS]))?);
        let first = self.first_answer(&counter, &mut demo)?;
        expect("add apples 3", &first, "3")?;
        for (words, answer) in [
            (&["call", "add", "apples", "4"][..], "7"),
            (&["call", "get", r#"{"name": "apples"}"#], "7"),
            (&["call", "get", "pears"], "0"),
        ] {
            expect(&words.join(" "), &say(&counter, words)?, answer)?;
        }
        let full = Command::new(&counter).args(["call", "add", "apples", &u64::MAX.to_string()]).output();
        let full = full.map_err(|error| error.to_string())?;
        if full.status.code() != Some(1) || !String::from_utf8_lossy(&full.stderr).contains("the counter is full") {
            return Err(format!("the service's own error is not passed on: {full:?}"));
        }
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "waits for processes, on no core")]
    fn first_answer(&self, counter: &Path, demo: &mut Demo) -> Result<String, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            // Refused while the cluster forms; certainly not applied then, so that it may be asked again.
            match say(counter, &["call", "add", "apples", "3"]) {
                Ok(answer) => return Ok(answer),
                Err(problem) if Instant::now() >= end => return Err(problem),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
            if let Ok(Some(status)) = demo.0.try_wait() {
                return Err(format!("`counter demo` ended ({status}): {}", demo.last_words()));
            }
        }
    }
}

/// A cluster that is stopped when nobody needs it any more; its nodes end with it.
struct Demo(Child);

impl Demo {
    fn last_words(&mut self) -> String {
        let mut words = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            // Nothing more can be said about a cluster whose words cannot be read.
            let _ = stderr.read_to_string(&mut words);
        }
        words
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn_quiet(command: &mut Command) -> Result<Child, String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start `counter demo`: {error}"))
}

fn say(counter: &Path, words: &[&str]) -> Result<String, String> {
    let output = Command::new(counter).args(words).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn expect(asked: &str, answer: &str, expected: &str) -> Result<(), String> {
    if answer == expected { Ok(()) } else { Err(format!("`{asked}` answers {answer:?}, not {expected:?}")) }
}

/// The first block of Rust.
fn rust_block(readme: &str) -> Option<String> {
    let (_, rest) = readme.split_once("```rust\n")?;
    let (block, _) = rest.split_once("```\n")?;
    Some(block.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_of_rust_is_the_service() {
        let readme = "a\n```sh\nls\n```\n```rust\nfn a() {}\n```\n```rust\nfn b() {}\n```\n";
        assert_eq!(rust_block(readme).as_deref(), Some("fn a() {}\n"));
        assert_eq!(rust_block("nothing"), None);
    }
}
