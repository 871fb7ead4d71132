//! `cargo xtask fuzz`: the targets of the crate `fuzz` under libFuzzer and AddressSanitizer.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::step;
use crate::workspace::Workspace;

/// The name of every target is that of a module of the crate.
const TARGETS: [&str; 8] =
    ["config", "frames", "peer_messages", "r2p2", "raft_machine", "snapshot_chunks", "values", "wal"];
const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// Sanitizers are for nightly compilers only, says the stable one, unless it is told otherwise.
const UNSTABLE: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");
/// What optimizes across crates throws away what coverage is counted by, and the linker misses it (rust-fuzz/cargo-fuzz #384).
const NO_LTO: (&str, &str) = ("CARGO_PROFILE_RELEASE_LTO", "off");
/// As long as the longest datagram, and some more.
const INPUT_BYTES_MAX: usize = 2_000;

/// Runs one target, or each, for so many seconds. What has been learned is kept in the target directory for the next run, and
/// what makes a target fail there, too, with the command that repeats it.
pub(crate) fn run(workspace: &Workspace, only: Option<&str>, seconds: u32) -> ExitCode {
    if let Some(name) = only.filter(|name| !TARGETS.contains(name)) {
        eprintln!("xtask: there is no target {name}; there are {}", TARGETS.join(", "));
        return ExitCode::from(2);
    }
    if !installed() && !install(workspace) {
        eprintln!("xtask: cargo-fuzz is missing: cargo install --locked cargo-fuzz --version {CARGO_FUZZ_VERSION}");
        return ExitCode::from(3);
    }
    let target_dir = workspace.target().join("fuzz");
    let built = step::pass_through(&mut cargo_fuzz(workspace, "build", &target_dir));
    if built != ExitCode::SUCCESS {
        return built;
    }
    for name in TARGETS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        println!("\n== {name}, {seconds} s");
        let (corpus, found) = (target_dir.join("corpus").join(name), target_dir.join("found").join(name));
        if let Err(error) = [&corpus, &found].into_iter().try_for_each(std::fs::create_dir_all) {
            eprintln!("xtask: cannot make {}: {error}", corpus.display());
            return ExitCode::from(3);
        }
        let mut fuzz = cargo_fuzz(workspace, "run", &target_dir);
        fuzz.arg(name).arg(&corpus).arg("--");
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        fuzz.arg(format!("-artifact_prefix={}/", found.display()));
        let ran = step::pass_through(&mut fuzz);
        if ran != ExitCode::SUCCESS {
            eprintln!(
                "xtask: {name} failed; copy what {} holds to fuzz/found/{name}/ and mend it: `cargo test -p trimaran-fuzz` repeats it",
                found.display()
            );
            return ran;
        }
    }
    ExitCode::SUCCESS
}

fn cargo_fuzz(workspace: &Workspace, task: &str, target_dir: &Path) -> Command {
    let mut command = workspace.cargo(&["fuzz", task, "--fuzz-dir", "fuzz", "--features", "libfuzzer", "--target-dir"]);
    command.arg(target_dir).env(UNSTABLE.0, UNSTABLE.1).env(NO_LTO.0, NO_LTO.1);
    command
}

fn installed() -> bool {
    let quiet = || Stdio::null();
    let asked =
        Command::new("cargo").args(["fuzz", "--version"]).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    asked.is_ok_and(|status| status.success())
}

fn install(workspace: &Workspace) -> bool {
    let args = ["install", "--locked", "--quiet", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION];
    step::pass_through(&mut workspace.cargo(&args)) == ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_an_entry_and_a_module() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        for name in TARGETS {
            assert!(root.join("bin").join(name).with_extension("rs").exists(), "{name}");
            assert!(root.join("src").join(name).with_extension("rs").exists(), "{name}");
        }
        assert_eq!(std::fs::read_dir(root.join("bin")).map(Iterator::count).ok(), Some(TARGETS.len()));
    }
}
