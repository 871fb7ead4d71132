//! `cargo xtask crash`: nodes of real processes with data directories, killed again and again under load.
//!
//! The rounds themselves are `kv demo --data DIR --rounds N`: one, several or all of three nodes get SIGKILL at random moments, and after
//! each round every acknowledged write is looked for. With `--power-cut` each node's directory is a file system of its own, which stops
//! in the middle of whatever it does before the process is killed: what was not durable is gone.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::step;
use crate::workspace::Workspace;

const SLOTS: [&str; 3] = ["1", "2", "3"];
const POWER: &str = "xtask/src/crash/power.sh";

/// What is asked for.
#[derive(clap::Args)]
pub struct Args {
    /// How often nodes are killed.
    #[arg(long, default_value_t = 20, value_name = "N")]
    rounds: u32,
    /// Decides who is killed when.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Cut the power of the nodes' disks as well: file systems in files, over loop devices. Needs root, mkfs.ext4 and python3.
    #[arg(long)]
    power_cut: bool,
    /// Acknowledge what is in the kernels of a majority, not on their disks: survives the kills, and no power cut.
    #[arg(long, conflicts_with = "power_cut")]
    buffered: bool,
}

/// Runs the rounds. The nodes' directories are made anew in target/xtask/crash/, and removed at the end.
pub fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let root = workspace.root();
    let place = &workspace.target().join("xtask/crash");
    let power = |word: &str| {
        let mut command = Command::new(root.join(POWER));
        command.env("CRASH_DIR", place).arg(word).args(SLOTS);
        command
    };
    // What an earlier run, killed itself, has left mounted.
    clear(place, power("end"));
    if let Err(error) = fs::create_dir_all(place) {
        eprintln!("xtask: cannot make {}: {error}", place.display());
        return ExitCode::from(3);
    }
    let mut cargo = workspace.cargo(&["run", "--release", "--quiet", "--package", "kv-example", "--", "demo"]);
    cargo.arg("--data").arg(place.join("data"));
    cargo.args(["--rounds", &args.rounds.to_string(), "--seed", &args.seed.to_string()]);
    if args.buffered {
        cargo.arg("--buffered");
    }
    if args.power_cut {
        let made = power("make").status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("xtask: cannot mount file systems over loop devices: run it as root, with mkfs.ext4 and python3");
            clear(place, power("end"));
            return ExitCode::from(3);
        }
        cargo.env("CRASH_DIR", place).arg("--hook").arg(root.join(POWER));
    }
    let code = step::pass_through(&mut cargo);
    clear(place, power("end"));
    code
}

fn clear(place: &Path, mut end: Command) {
    if place.exists() {
        // Nothing to unmount is no error; what cannot be removed is made anew by the next run, or refused there.
        let _ = end.status();
        let _ = fs::remove_dir_all(place);
    }
}
