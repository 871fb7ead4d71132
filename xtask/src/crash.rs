//! `cargo xtask crash`: nodes of real processes with data directories, killed again and again under load.
//!
//! The rounds themselves are `kv demo --data DIR --rounds N`: one, several or all of three nodes get SIGKILL at random moments, and after
//! each round every acknowledged write is looked for. With `--power-cut` each node's directory is a file system of its own, which stops
//! in the middle of whatever it does before the process is killed: what was not durable is gone. With `--full-disk` there are no
//! rounds: three nodes fill small file systems (`crash/full.sh`).

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::step;
use crate::workspace::Workspace;

const SLOTS: [&str; 3] = ["1", "2", "3"];
const POWER: &str = "xtask/src/crash/power.sh";
const FULL: &str = "xtask/src/crash/full.sh";
/// Bytes of a node's file system: for rounds, and to be filled.
const ROOMY_MIB: &str = "192";
const SMALL_MIB: &str = "64";

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
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
    /// Fill the nodes' disks instead: writes must be refused, reads answered, and both go on once there is room. Needs root and mkfs.ext4.
    #[arg(long, conflicts_with_all = ["power_cut", "buffered"])]
    full_disk: bool,
}

/// Runs the rounds. The nodes' directories are made anew in target/xtask/crash/, and removed at the end.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let root = workspace.root();
    let place = &workspace.target().join("xtask/crash");
    let power = |word: &str| {
        let mut command = Command::new(root.join(POWER));
        command.env("CRASH_DIR", place).arg(word).args(SLOTS);
        command.env("CRASH_MIB", if args.full_disk { SMALL_MIB } else { ROOMY_MIB });
        command
    };
    // What an earlier run, killed itself, has left mounted.
    clear(place, power("end"));
    if let Err(error) = fs::create_dir_all(place) {
        eprintln!("xtask: cannot make {}: {error}", place.display());
        return ExitCode::from(3);
    }
    let has_own_disks = args.power_cut || args.full_disk;
    if has_own_disks && !power("make").status().is_ok_and(|status| status.success()) {
        eprintln!("xtask: cannot mount file systems over loop devices: run it as root, with mkfs.ext4 and python3");
        clear(place, power("end"));
        return ExitCode::from(3);
    }
    let code = if args.full_disk { fill(workspace, place) } else { rounds(workspace, place, args) };
    clear(place, power("end"));
    code
}

fn rounds(workspace: &Workspace, place: &Path, args: &Args) -> ExitCode {
    let mut cargo = workspace.cargo(&["run", "--release", "--quiet", "--package", "kv-example", "--", "demo"]);
    cargo.arg("--data").arg(place.join("data"));
    cargo.args(["--rounds", &args.rounds.to_string(), "--seed", &args.seed.to_string()]);
    if args.buffered {
        cargo.arg("--buffered");
    }
    if args.power_cut {
        cargo.env("CRASH_DIR", place).arg("--hook").arg(workspace.root().join(POWER));
    }
    step::pass_through(&mut cargo)
}

fn fill(workspace: &Workspace, place: &Path) -> ExitCode {
    let built = step::pass_through(&mut workspace.cargo(&["build", "--release", "--quiet", "--package", "kv-example"]));
    if built != ExitCode::SUCCESS {
        return built;
    }
    let mut script = Command::new(workspace.root().join(FULL));
    step::pass_through(script.arg(workspace.target().join("release/kv")).env("CRASH_DIR", place))
}

fn clear(place: &Path, mut end: Command) {
    if place.exists() {
        // Nothing to unmount is no error; what cannot be removed is made anew by the next run, or refused there.
        let _ = end.status();
        let _ = fs::remove_dir_all(place);
    }
}
