//! The tasks of this repository, as one command: `cargo xtask test`, `cargo xtask sim`, `cargo xtask bench` ...
//!
//! ```text
//!   main.rs       what the user typed
//!   test.rs       the steps that must pass before a change goes in, in order
//!   step.rs       runs one step: its line, its log file, its limit
//!   readme.rs     does what the README tells a newcomer to do
//!   asan.rs       the tests of DPDK's port, under AddressSanitizer
//!   fuzz.rs       the fuzz targets, under libFuzzer
//!   mutants.rs    small faults in consensus and the wire, to see whether the tests notice
//!   nic_test.rs   programs over DPDK on network cards, in machines of QEMU's
//!   bench.rs      everything that can be measured, and one report about it
//!   crash.rs      nodes with data directories, killed again and again
//!   bindings.rs   reads DPDK's headers for net/dpdk-sys
//!   preflight.rs  installs what a fresh machine lacks
//!   workspace.rs  the root, and what each crate has to offer
//! ```
#![forbid(unsafe_code)]

mod asan;
mod bench;
mod bindings;
mod crash;
mod fuzz;
mod mutants;
mod nic_test;
mod preflight;
mod readme;
mod step;
mod test;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use workspace::Workspace;

/// The tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check everything that a change must pass: formatting, lints, tests, docs, simulator, real processes.
    ///
    /// Prints one line per step and stops at the first that fails, with that step's whole output. The output of every
    /// step is also kept in target/xtask/. Needs no configuration: on a fresh machine it installs what it lacks.
    Test(TestArgs),
    /// Run whole clusters in the simulator: many seeds, or one again.
    ///
    /// A failing seed prints how to replay it. The same seed on the same commit gives the same run, packet for packet.
    Sim(SimArgs),
    /// Measure everything once, say which goals are met, and write one report as a page and as JSON.
    ///
    /// The parts: micro benches, throughput and latency of clusters on kernel UDP, mixes of YCSB, durable nodes, failover, faults;
    /// with --peers other systems beside it. Ends with success where the run itself worked, whatever it found. Compare ratios within
    /// one run: absolute times on a shared machine mean little.
    Bench(bench::Args),
    /// Count the instructions of a commit at leader, follower and client, and of single steps; fail where one takes more than it did.
    ///
    /// Needs valgrind, and installs it where it may. The numbers do not depend on how busy the machine is; what they were is in
    /// benches/ring/counts.rs.
    Counts,
    /// Feed random input to whatever reads what others have written: one target, or each.
    ///
    /// Installs cargo-fuzz where it is missing. Inputs that make a target fail are kept.
    Fuzz(FuzzArgs),
    /// Make small faults in raft, R2P2 and the sessions, one at a time, and see whether a test notices each.
    ///
    /// Fails where one survives that xtask/mutants.toml does not explain. Installs cargo-mutants under target/ where it is
    /// missing. A later run with the same sample goes on where the last one stopped.
    Mutants(mutants::MutantsArgs),
    /// Run the tests of the port over DPDK under AddressSanitizer, after faults on purpose that it must find.
    ///
    /// Needs libdpdk-dev. Builds into a directory of its own under the target directory.
    Asan,
    /// Do what the README tells a newcomer to do: its service as a crate of its own, tested and run as a cluster.
    Readme,
    /// Run a node on network cards with real drivers, in machines of QEMU's, and drive it from this machine's kernel.
    ///
    /// Needs QEMU, but no KVM, no card and no root; downloads a kernel of Debian's once. Takes about a minute for each card
    /// once everything is built. All output is kept in target/xtask/nic-test/.
    NicTest(NicTestArgs),
    /// What `nic-test` runs in namespaces of its own.
    #[command(hide = true)]
    NicTestInside(NicTestInsideArgs),
    /// Kill nodes with data directories again and again under load, one, several or all at once, and look for every acknowledged write.
    ///
    /// Prints each round, and at the end what was lost (nothing). The seed decides who is killed when.
    Crash(crash::Args),
    /// Write the bindings of net/dpdk-sys anew from the installed headers. Needs libdpdk-dev and libclang-dev.
    Bindings,
}

#[derive(Args)]
struct TestArgs {
    /// Stop at the first failing test instead of running the rest of its step.
    #[arg(long)]
    fail_fast: bool,
    /// Only formatting, lints and the crates' own tests: no docs, no simulator, no real processes.
    #[arg(long)]
    quick: bool,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
struct SimArgs {
    /// Run this many seeds, one on each core at a time.
    #[arg(long, group = "which", value_name = "N")]
    seeds: Option<u64>,
    /// Run this one seed again.
    #[arg(long, group = "which", value_name = "N")]
    seed: Option<u64>,
    /// Passed on to `kv sim` as they are; see `cargo run -p kv-example -- sim --help`.
    #[arg(last = true, value_name = "MORE")]
    more: Vec<String>,
}

#[derive(Args)]
struct FuzzArgs {
    /// Only this one: config, frames, peer_messages, r2p2, raft_machine, snapshot_chunks, values or wal.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
}

#[derive(Args)]
struct NicTestArgs {
    /// Only this card, instead of all.
    #[arg(long, value_enum)]
    device: Option<nic_test::Card>,
}

#[derive(Args)]
struct NicTestInsideArgs {
    #[arg(value_enum)]
    device: nic_test::Card,
    directory: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let workspace = match Workspace::load() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("xtask: cannot read the workspace: {error}");
            return ExitCode::from(3);
        }
    };
    match cli.task {
        Task::Test(args) => test::run(&workspace, args.fail_fast, args.quick),
        Task::Sim(args) => sim(&workspace, &args),
        Task::Bench(args) => bench::run(&workspace, &args),
        Task::Counts => counts(&workspace),
        Task::Fuzz(args) => fuzz::run(&workspace, args.target.as_deref(), args.seconds),
        Task::Mutants(args) => mutants::run(&workspace, &args),
        Task::Asan => asan::run(&workspace, preflight::look().nextest),
        Task::Readme => readme::run(&workspace),
        Task::NicTest(args) => nic_test::run(&workspace, args.device),
        Task::NicTestInside(args) => nic_test::inside(args.device, &args.directory),
        Task::Crash(args) => crash::run(&workspace, &args),
        Task::Bindings => bindings::run(&workspace),
    }
}

fn sim(workspace: &Workspace, args: &SimArgs) -> ExitCode {
    let mut cargo = workspace.cargo(&["run", "--release", "--quiet", "--package", "kv-example", "--", "sim"]);
    if let Some(seeds) = args.seeds {
        cargo.args(["--seeds", &seeds.to_string()]);
    }
    if let Some(seed) = args.seed {
        cargo.args(["--seed", &seed.to_string()]);
    }
    step::pass_through(cargo.args(&args.more))
}

fn counts(workspace: &Workspace) -> ExitCode {
    if let Err(missing) = preflight::programs(&[test::VALGRIND]) {
        eprintln!("xtask: {missing}");
        return ExitCode::from(3);
    }
    step::pass_through(&mut workspace.cargo(&test::COUNTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sim_takes_seeds_or_a_seed_but_not_both_and_not_neither() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("xtask sim --seeds 3 -- --nodes 5").is_ok());
        assert!(parse("xtask sim --seed 7").is_ok());
        assert!(parse("xtask sim --seed 7 --seeds 3").is_err());
        assert!(parse("xtask sim").is_err());
    }

    #[test]
    fn bench_prints_one_or_reports_on_many() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("xtask bench disk").is_ok() && parse("xtask bench --quick --only ycsb,load --peers /x").is_ok());
        assert!(parse("xtask bench disk --quick").is_err());
    }
}
