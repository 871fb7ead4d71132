//! `cargo xtask mutants`: do the tests of consensus and of the wire notice when the code is wrong?
//!
//! cargo-mutants says which small faults ("mutants") could be made in raft, R2P2 and the sessions; a seed draws a sample of them.
//! All of the sample are compiled into one copy of the sources, each behind a question that an environment variable answers, so
//! that a build serves hundreds of them; one run of all tests without a fault says which test reaches which fault, and
//! then each fault meets the tests that reach it until one fails. A fault that does not compile among the others is
//! tried on its own: it may compile there.
//!
//! ```text
//!   mutants/list.rs      what faults there are, and the sample
//!   mutants/weave.rs     many of them in one source
//!   mutants/copy.rs      the copy of the tree, checked and built
//!   mutants/trial.rs     the tests, and one fault against them
//!   mutants/kept.rs      what earlier runs found
//!   mutants/report.rs    the report, and the survivors that are explained
//! ```

mod copy;
mod kept;
mod list;
mod report;
mod trial;
mod weave;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::workspace::Workspace;
use copy::Copy;
use kept::Kept;
use list::Mutant;
use trial::{Outcome, Suite};

/// What a run is asked for.
#[derive(clap::Args)]
pub(crate) struct MutantsArgs {
    /// How many faults are drawn; a larger sample of the same seed contains the smaller.
    #[arg(long, default_value_t = 300, value_name = "N")]
    sample: usize,
    /// What draws them.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Begin no further fault after so long; the next run goes on there.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Forget what earlier runs found.
    #[arg(long)]
    afresh: bool,
}

/// Runs the sample, or what an earlier run has left of it, and writes the report. Fails where a survivor is not explained.
pub(crate) fn run(workspace: &Workspace, args: &MutantsArgs) -> ExitCode {
    match try_run(workspace, args) {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::from(3)
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a limit for a command that a person waits for")]
fn try_run(workspace: &Workspace, args: &MutantsArgs) -> Result<ExitCode, String> {
    let deadline = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let in_time = || deadline.is_none_or(|deadline| Instant::now() < deadline);
    let all = list::all(workspace)?;
    let sample = list::sample(&all, args.seed, args.sample);
    println!("{} faults, of which seed {} draws {}", all.len(), args.seed, sample.len());

    let home = workspace.target().join("xtask/mutants");
    let mut copy = Copy::new(workspace, home.join("tree"))?;
    let mut kept = Kept::load(&home.join("outcomes.jsonl"), &copy, args.afresh)?;
    let open: BTreeSet<usize> = (0..sample.len()).filter(|at| kept.of(&sample[*at]).is_none()).collect();
    if open.is_empty() {
        println!("all have been tried before, with these sources and tests");
    } else {
        let viable = (0..sample.len()).filter(|at| kept.of(&sample[*at]) != Some(&Outcome::Unviable)).collect();
        let woven = copy.weave(&sample, viable)?;
        let alone: Vec<usize> = open.difference(&woven).copied().collect();
        let mut woven: Vec<usize> = open.intersection(&woven).copied().collect();
        // A survivor costs all the tests that reach it: what is new comes first.
        woven.sort_by_key(|at| kept.has_survived(&sample[*at]));
        let key = copy.hash_of_woven(&sample);
        let suite = (!woven.is_empty() && in_time()).then(|| Suite::known(&copy, key, &home)).transpose()?;
        for at in woven {
            let Some(suite) = suite.as_ref().filter(|_| in_time()) else { break };
            tell(&sample[at], kept.push(&sample[at], suite.try_one(at, &sample[at].package)?)?);
        }
        for at in alone {
            if !in_time() {
                break;
            }
            let suite = copy.alone(&sample[at])?;
            let outcome = suite.map_or(Ok(Outcome::Unviable), |suite| suite.try_alone())?;
            tell(&sample[at], kept.push(&sample[at], outcome)?);
        }
    }
    let outcomes: BTreeMap<usize, &Outcome> =
        (0..sample.len()).filter_map(|at| Some((at, kept.of(&sample[at])?))).collect();
    report::write(workspace, &home.join("report.txt"), args.seed, &all, &sample, &outcomes)
}

fn tell(mutant: &Mutant, outcome: &Outcome) {
    if outcome.is_survivor() {
        println!("survives: {}", mutant.name);
    }
}
