//! `kv demo --data DIR --rounds N`: nodes with directories are killed again and again, one, several or all of them at once, at random
//! moments of a load, and started again. After every round each write that was acknowledged before it must be in the leader's journal.

use super::phases::{Phase, list};
use super::workload::DemoWorkload;
use super::{PATIENCE, Stage, note, verdict};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::program::error::Error;
use trimaran_runtime::{Instant, now};

/// Files of the log so small that a run of a minute fills them again and again, and saves snapshots all the time. Together they are
/// larger than the state, of which the journal is most: else a log is full before a snapshot is saved.
pub(super) const CONFIG: &str = "[disk]\nfile_bytes = \"2MiB\"\nfiles = 24\nsnapshot_every_bytes = \"4MiB\"\n";
/// The load alone, before each crash, between these.
const BETWEEN_MS: std::ops::Range<u64> = 50..800;
/// Nodes are away between these.
const AWAY_MS: std::ops::Range<u64> = 0..400;

/// A demo's clusters begin empty.
pub(crate) fn refuse_used(data: &Path) -> Result<(), Error> {
    match std::fs::read_dir(data) {
        Ok(mut entries) => match entries.find(|entry| entry.as_ref().is_ok_and(|entry| holds_files(&entry.path()))) {
            None => Ok(()),
            Some(_) => Err(Error::Usage {
                problem: format!("{} is not empty, and a demo forms a new cluster", data.display()),
                help: "name another directory, or remove this one".into(),
            }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format!("look at {}", data.display()), error)),
    }
}

/// Whether there is anything in a node's place but what a new file system has.
fn holds_files(place: &Path) -> bool {
    std::fs::read_dir(place)
        .map_or(true, |entries| entries.flatten().any(|entry| entry.file_name() != std::ffi::OsStr::new("lost+found")))
}

impl Stage {
    /// So many rounds; the first after which something is missing is the last.
    pub(super) async fn crash_again(
        &mut self,
        start: Instant,
        rounds: u32,
        workload: &Rc<RefCell<DemoWorkload>>,
    ) -> Result<Vec<Phase>, Error> {
        let mut rng = Pcg64Mcg::seed_from_u64(self.demo.seed);
        let mut slots: Vec<u8> = self.cluster.nodes.addresses().into_iter().map(|(slot, _)| slot).collect();
        let mut phases: Vec<Phase> = Vec::new();
        for round in 1..=rounds {
            self.cluster.wait(Duration::from_millis(rng.random_range(BETWEEN_MS))).await?;
            slots.shuffle(&mut rng);
            let count = rng.random_range(1..=slots.len());
            let (crashed, away) = (slots[..count].to_vec(), Duration::from_millis(rng.random_range(AWAY_MS)));
            let from = now();
            let returned = self.crash(&crashed, away, start).await?;
            let known = workload.borrow().acknowledged.clone();
            let (leader, _) = self.cluster.leader(now() + PATIENCE).await?;
            let executed = self.journal(leader).await?;
            let puts = workload.borrow().puts.clone();
            let comparison = executed.map(|executed| verdict::compare(&executed, &known, &puts));
            let fault = match (returned, comparison) {
                (None, _) => Some(format!("the cluster was not whole {} s after the start", PATIENCE.as_secs())),
                (_, None) => Some("the journal is full: it proves nothing more".to_owned()),
                (_, Some(found)) if found.lost + found.doubled > 0 => {
                    Some(format!("{} acknowledged writes are lost, {} doubled", found.lost, found.doubled))
                }
                _ => None,
            };
            note(start, &format!("round {round} of {rounds}: {} acknowledged writes looked for", known.len()))?;
            let (name, what) = (format!("crash {round}"), format!("{} by SIGKILL", list(&crashed)));
            let is_over = fault.is_some();
            phases.push(Phase { name, what, from, to: now(), fault });
            if is_over {
                break;
            }
        }
        Ok(phases)
    }

    /// What is done to the nodes' disks.
    pub(super) fn hook(&self, word: &str, slots: &[u8]) -> Result<(), Error> {
        let Some(hook) = &self.demo.hook else { return Ok(()) };
        let what = format!("run {} {word}", hook.display());
        let status = Command::new(hook).arg(word).args(slots.iter().map(ToString::to_string)).status();
        match status.map_err(|error| Error::io(&what, error))? {
            status if status.success() => Ok(()),
            status => Err(Error::DemoFailed { what: format!("{what}: {status}") }),
        }
    }
}
