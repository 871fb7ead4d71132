//! `cargo xtask asan`: the tests of the port over DPDK under AddressSanitizer, after faults on purpose that it must find.
//!
//! It watches the heap, the stack and, by `net/dpdk-sys/shim.c`, who owns the buffers of mbufs; what DPDK's own libraries do with
//! their memory it does not see.

use std::process::{Command, ExitCode};

use crate::step;
use crate::workspace::Workspace;

/// Sanitizers are for nightly compilers only, says the stable one, unless it is told otherwise.
const UNSTABLE: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");
/// Named, so that build scripts and macros are built without.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Tests that break a rule of memory each, in `net/src/port/dpdk/mbuf.rs`.
const FAULTS: &str = "port::dpdk::mbuf::faults::";

/// Runs them, by nextest where that is here. Needs libdpdk-dev; as root, the tests over af_packet run, too.
pub(crate) fn run(workspace: &Workspace, nextest: bool) -> ExitCode {
    let built = step::pass_through(&mut cargo(workspace, &["test", "--no-run"], &["--lib", "--test", "dpdk*"]));
    if built != ExitCode::SUCCESS {
        return built;
    }
    let Some(faults) = faults(workspace) else {
        eprintln!("xtask: cannot list the faults on purpose");
        return ExitCode::FAILURE;
    };
    for fault in &faults {
        if !is_found(workspace, fault) {
            eprintln!("xtask: AddressSanitizer has not found {fault}: what it says of the tests means nothing");
            return ExitCode::FAILURE;
        }
        println!("found, as it should be: {fault}");
    }
    // In a process each, where that can be had: one that is found to leak is then known by its name.
    let task: &[&str] = if nextest { &["nextest", "run", "--no-fail-fast"] } else { &["test", "--no-fail-fast"] };
    step::pass_through(&mut cargo(workspace, task, &["--lib", "--test", "dpdk*"]))
}

fn cargo(workspace: &Workspace, task: &[&str], rest: &[&str]) -> Command {
    let mut command = workspace.cargo(task);
    command.args(["-p", "trimaran-net", "--features", "dpdk", "--target", TARGET]).args(rest);
    command.env(UNSTABLE.0, UNSTABLE.1).env("RUSTFLAGS", "-Zsanitizer=address");
    command.env("CARGO_TARGET_DIR", workspace.target().join("asan"));
    let options = |name| format!("suppressions={}", workspace.root().join("net/dpdk-sys/asan").join(name).display());
    command.env("ASAN_OPTIONS", options("access.supp"));
    command.env("LSAN_OPTIONS", options("leaks.supp") + ":print_suppressions=0");
    command
}

/// The names of the faults; `None` where there is none.
fn faults(workspace: &Workspace) -> Option<Vec<String>> {
    let output = cargo(workspace, &["test", "-q"], &["--lib", "--", "--ignored", "--list"]).output().ok()?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let faults: Vec<String> = names.filter(|name| name.starts_with(FAULTS)).map(str::to_owned).collect();
    (!faults.is_empty()).then_some(faults)
}

fn is_found(workspace: &Workspace, fault: &str) -> bool {
    let output = cargo(workspace, &["test", "-q"], &["--lib", "--", "--ignored", "--exact", fault]).output();
    output.is_ok_and(|output| {
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("ERROR: AddressSanitizer")
    })
}
