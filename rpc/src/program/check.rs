//! `check`: looks at a data directory and says in words what is in it.

use crate::program::data;
use crate::program::error::Error;
use crate::program::say;
use crate::storage::{Durability, NodeDisk, Witness};
use clap::Args;
use std::path::PathBuf;
use trimaran_raft::wal::{self, Expected, Recovery};

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// The data directory of a node that does not run
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Reads the whole directory and changes nothing. Succeeds where a node would go on from it as if nothing had happened, or began a first
/// life there.
///
/// # Errors
/// E0223 where there is damage, and the reasons for which a node would not start: E0112, E0219, E0220.
pub fn run(check: &Check) -> Result<(), Error> {
    let path = &check.directory;
    let disk = data::open_disk(path, &data::tool_settings(wal::Durability::Buffered))?;
    disk.lock().map_err(|error| data::refused(path, error.into()))?;
    let disk = NodeDisk::new(disk);
    let refused = |error| data::log_refused(path, &error);
    let Some(identity) = wal::identify(&disk).map_err(refused)? else {
        return say(&format!(
            "{}: no node has a log here; one that starts here begins its first life\n",
            path.display()
        ));
    };
    let witness = Witness::Directory(data::MEMORY_FILES.into()).read(identity.id.incarnation);
    let (slot, shard, boot) = (identity.id.slot, identity.shard, data::boot());
    let expected = Expected { slot, shard, cluster: None, boot, witness: witness.filter(|_| identity.boot == boot) };
    let recovery = wal::recover(&disk, &expected).map_err(refused)?;
    let cluster = identity.cluster.map_or("no cluster yet".to_owned(), |cluster| format!("cluster {cluster}"));
    let closed = if identity.clean { "closed" } else { "not closed: its node runs no more, or was killed" };
    let mode = Durability::from(identity.durability).name();
    say(&format!("{}: node {}, {cluster}, {mode}, {closed}\n", path.display(), identity.id))?;
    let damaged = |what| Err(Error::DataDamaged { path: path.display().to_string(), what });
    match recovery {
        Recovery::Nothing => Ok(()),
        Recovery::Untrusted(report) => {
            say(&report.to_string())?;
            damaged("cannot be trusted: a node that starts here begins another life, and asks to be taken in anew")
        }
        Recovery::Resumed(recovered) => {
            say(&recovered.report.to_string())?;
            match recovered.report.is_sound() && recovered.fence.is_none() {
                true => say("sound: a node that starts here goes on\n"),
                false => {
                    damaged("has damage: a node that starts here goes on, and fetches from the others what is missing")
                }
            }
        }
    }
}
