//! `snapshot save`: a node's state into a file, while it serves. `snapshot restore`: a new cluster that begins with that file.

use crate::admin;
use crate::backup::Backup;
use crate::program::cli::Servers;
use crate::program::config::{Config, Durability, SHARD_PORTS};
use crate::program::connect;
use crate::program::data;
use crate::program::error::Error;
use crate::program::say;
use clap::{Args, Subcommand};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use trimaran_raft::seed::Legacy;
use trimaran_raft::{Configuration, Incarnation, Log, LogIndex, Member, NodeId, ReceivedSnapshot, Slot, Term, wal};

/// `snapshot`
#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "the command line's help says it")]
pub enum What {
    /// Write the state of the node that leads, or else has applied most, into a file
    Save(Save),
    /// Begin a new cluster with a saved state, in one node's empty data directory
    Restore(Restore),
}

/// `snapshot save`
#[derive(Debug, Args)]
pub struct Save {
    /// The file, which must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Of several shards the one whose state it is: a file holds one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..i64::from(SHARD_PORTS)))]
    pub shard: Option<u16>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// `snapshot restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// What `snapshot save` has written
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The configuration of the node that begins; its data directory must be empty, or not exist
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs either.
///
/// # Errors
/// E0104 for files, E03xx for the cluster, E0225 for what is no backup of this service.
pub fn run(snapshot: &Snapshot, service: &str) -> Result<(), Error> {
    match &snapshot.what {
        What::Save(save) => save_to(save),
        What::Restore(restore) => restore_from(restore, service),
    }
}

fn save_to(save: &Save) -> Result<(), Error> {
    let target = save.servers.target()?;
    let only = save.shard;
    let servers = admin::of_shard(&target.servers, only.unwrap_or(0));
    let bytes = connect::once(target, move |connection| async move {
        let asked = servers.iter().map(|&server| {
            let connection = connection.clone();
            async move { (server, connection.status(server).await) }
        });
        let answers = futures::future::join_all(asked).await;
        let rank = |status: &admin::NodeStatus| (status.halted.is_none(), status.role == "leader", status.applied);
        let known = answers.iter().filter_map(|(server, answer)| Some((*server, rank(answer.as_ref().ok()?))));
        let Some((server, _)) = known.max_by_key(|(_, rank)| *rank) else {
            return Err(answers.into_iter().find_map(|(_, answer)| answer.err()).unwrap_or(Error::Interrupted));
        };
        let shards = answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.probe.shards)).max();
        if let (None, Some(shards @ 2..)) = (only, shards) {
            return Err(Error::Usage {
                problem: format!("the cluster has {shards} shards, and a file holds the state of one"),
                help: format!("add `--shard N`, once for each from 0 to {}", shards - 1),
            });
        }
        let backup = admin::backup(connection.client(), server, connection.deadline()).await;
        backup.map_err(|error| connection.error(error))
    })?;
    let shown = save.file.display();
    let backup = Backup::decode(&bytes).map_err(|error| Error::BadAnswer { what: error.to_string() })?;
    let failed = |error| Error::io(format!("write {shown}"), error);
    let mut file = fs::File::options().write(true).create_new(true).open(&save.file).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    let header = &backup.header;
    say(&format!(
        "{shown}: the state of cluster {} {} after entry {}, from node {}, {} bytes\n",
        header.name,
        header.cluster,
        header.index,
        header.slot,
        bytes.len()
    ))
}

fn restore_from(restore: &Restore, service: &str) -> Result<(), Error> {
    let (config, _) = Config::load(&restore.config)?;
    let shown = restore.file.display();
    let bytes = fs::read(&restore.file).map_err(|error| Error::io(format!("read {shown}"), error))?;
    let no_backup = |problem: String| Error::DataRefused {
        code: "E0225",
        problem: format!("{shown}: {problem}"),
        help: "name a file that `snapshot save` of this program has written".to_owned(),
    };
    let Backup { header, state } = Backup::decode(&bytes).map_err(|error| no_backup(error.to_string()))?;
    if header.service != service {
        return Err(no_backup(format!("it is a backup of {}, and this is {service}", header.service)));
    }
    let (Some(path), Some(me), false) = (&config.data_dir, config.me(), config.durability == Durability::Volatile)
    else {
        return Err(Error::Usage {
            problem: "a state is restored into a data directory, and the configuration names none".into(),
            help: "write `data_dir = \"...\"` into it".into(),
        });
    };
    let id = NodeId { slot: Slot(config.slot), incarnation: Incarnation(0) };
    let member = Member { id, client: me.client, peer: me.peer };
    let (index, term) = (LogIndex(header.index), Term(header.term));
    let snapshot = ReceivedSnapshot {
        index,
        term,
        log_time: header.log_time,
        digest: header.digest,
        configuration: Configuration::of_voters(&[member]),
        bytes: state,
    };
    let log = Log::starting_after(index, term, header.log_time);
    let durability = match config.durability {
        Durability::Durable => wal::Durability::Durable,
        Durability::Buffered | Durability::Volatile => wal::Durability::Buffered,
    };
    let cluster = data::seed(path, durability, 0, member, Legacy { snapshot: Some(snapshot), log, term })?;
    say(&format!(
        "cluster {cluster} begins with the state after entry {index} of cluster {}; node {} is its only voter\n\
         start this node, start the others with empty directories, and `member add` each\n",
        header.cluster, config.slot
    ))
}
