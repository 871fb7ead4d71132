//! `recover`: when a majority of the nodes is lost for good, a new cluster begins with what one of the others has.

use crate::program::data;
use crate::program::error::Error;
use crate::program::say;
use crate::storage::{NodeDisk, Witness};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use trimaran_raft::seed::Legacy;
use trimaran_raft::wal::{self, Expected, Recovery};
use trimaran_raft::{ENTRY_HEADER_BYTES, LogIndex, Machine, Member, Nanos, ShardConfig, ShardId};

/// `recover`
#[derive(Debug, Args)]
pub struct Recover {
    /// Acknowledged writes that this directory lacks are lost; say so
    #[arg(long, required = true)]
    pub accept_data_loss: bool,
    /// The data directory of a node that does not run: of all that are left, the one whose log reaches furthest
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Makes of a node's directory that of the only voter of a new cluster, which has a new id and all that the directory holds. The old
/// content is kept beside it, under `DIR.before-recovery`.
///
/// # Errors
/// The reasons for which a node would not start there; E0224 where it never was a member.
pub fn run(recover: &Recover) -> Result<(), Error> {
    let path = recover.directory.as_path();
    let disk = data::open_disk(path, &data::tool_settings(wal::Durability::Buffered))?;
    disk.lock().map_err(|error| data::refused(path, error.into()))?;
    let disk = NodeDisk::new(disk);
    let refused = |error| data::log_refused(path, &error);
    let no_member = |what: &str| Error::DataRefused {
        code: "E0224",
        problem: format!("{}: {what}", path.display()),
        help: "name the directory of another node, or form a new, empty cluster".to_owned(),
    };
    let identity = wal::identify(&disk).map_err(refused)?.ok_or_else(|| no_member("no node has a log here"))?;
    if identity.shard != ShardId(0) {
        return Err(Error::DataRefused {
            code: "E0224",
            problem: format!("{} is one of several shards of a node, which this tool cannot recover", path.display()),
            help: "as long as a majority of the nodes is there, nothing is lost; else `snapshot save --shard N` from one that still runs".to_owned(),
        });
    }
    let id = identity.id;
    let witness = Witness::Directory(data::MEMORY_FILES.into()).read(id.incarnation);
    let (slot, shard, boot) = (id.slot, identity.shard, data::boot());
    let expected = Expected { slot, shard, cluster: None, boot, witness };
    // What a node may not go on from is all there is: the loss is accepted.
    let recovered = match wal::recover(&disk, &expected).map_err(refused)? {
        Recovery::Resumed(recovered) => recovered,
        _ => return Err(no_member("its log cannot be trusted, and this tool takes no such log")),
    };
    let Some(cluster) = recovered.cluster else { return Err(no_member("its node never belonged to a cluster")) };
    let at_base = recovered.snapshot.as_ref().map(|snapshot| snapshot.configuration.clone()).unwrap_or_default();
    let nobody = Member { id, client: data::NOWHERE, peer: data::NOWHERE };
    let mut machine = Machine::new(&ShardConfig::new(nobody, 1), 1472, Nanos::ZERO);
    machine.recover(cluster, recovered.hard, at_base, &recovered.log);
    let Some(member) = machine.configuration().member(id).copied() else {
        return Err(no_member("its node was no member of its cluster"));
    };
    let legacy = Legacy { snapshot: recovered.snapshot, log: recovered.log, term: recovered.hard.term };
    let (last, largest) = (legacy.log.last(), largest_entry(&legacy));
    let fresh = beside(path, "recovered");
    let old = beside(path, "before-recovery");
    if old.exists() {
        return Err(Error::io(
            format!("keep the old content as {}", old.display()),
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let _ = fs::remove_dir_all(&fresh);
    let began = data::seed(&fresh, identity.durability, largest, member, legacy)?;
    let moved = |error| Error::io(format!("put {} in the place of {}", fresh.display(), path.display()), error);
    fs::rename(path, &old).map_err(moved)?;
    fs::rename(&fresh, path).map_err(moved)?;
    say(&format!(
        "cluster {cluster} is given up; cluster {began} begins with entries up to {last} of node {id}, its only voter\n\
         the old content is in {}\n\
         start this node, give the others empty directories, start them, and `member add` each\n",
        old.display()
    ))
}

/// Bytes of the largest entry.
fn largest_entry(legacy: &Legacy) -> usize {
    let log = &legacy.log;
    let indexes = (log.first().0..=log.last().0).map(LogIndex);
    let bodies = indexes.filter_map(|index| log.header(index).map(|header| header.body_len as usize));
    bodies.max().unwrap_or(0) + ENTRY_HEADER_BYTES
}

/// A directory of almost the same name.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}
