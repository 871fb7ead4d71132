//! A node's data directory: made where it is missing, opened, and what is wrong with it in this program's words.

use crate::program::config::Config;
use crate::program::connect::random_u128;
use crate::program::error::Error;
use crate::program::port::{Between, PortPlan};
use crate::shards::{ShardMap, ShardPlace};
use crate::storage::{DataConfig, DataDirectory, DataError, Durability, Found, NodeDisk, Witness};
use std::fs;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use trimaran_raft::device::{BLOCK_BYTES, Directory};
use trimaran_raft::seed::{Legacy, Seeding};
use trimaran_raft::wal::{self, Fresh, WalError, WalSettings};
use trimaran_raft::{ClusterId, Incarnation, Member, Nanos, NodeId, ShardId, Slot};
use trimaran_runtime::disk::{DiskConfig, Writes};
use trimaran_runtime::{CoreConfig, Disk, DiskError, now};

/// Where the kernel keeps files in memory: they survive this process and not the machine's run.
pub(super) const MEMORY_FILES: &str = "/dev/shm";
/// A tool writes a log of any length.
const TOOL_FILES_MAX: usize = 1024;
/// What the directories of shards are called, but for their numbers.
const SHARD_DIRECTORY: &str = "shard-";
/// Which names a run of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the directory that a configuration names, making it where there is none; `None` for a volatile node. Blocks while it is
/// read. Call on the node's core.
///
/// # Errors
/// E0103, E0104 and E0112 where the machine is in the way, E0218 to E0222 where the directory does not fit.
pub fn open(
    config: &Config,
    place: ShardPlace,
    incarnation: Incarnation,
    changes: bool,
) -> Result<Option<DataDirectory>, Error> {
    let Some(path) = config.data_dir.as_deref().filter(|_| config.durability != Durability::Volatile) else {
        return Ok(None);
    };
    make(path)?;
    let path = &shard_directory(path, place)?;
    make(path)?;
    let settings = settings(config);
    let disk = open_disk(path, &settings)?;
    let salt = random_u128()? as u64;
    let witness = Witness::Directory(MEMORY_FILES.into());
    let slot = Slot(config.slot);
    let data = DataConfig { slot, place, incarnation, salt, settings, changes_durability: changes, witness };
    let directory = DataDirectory::open(disk, data).map_err(|error| refused(path, error))?;
    let shown = path.display();
    match directory.found() {
        Found::Nothing => tracing::info!("{shown} is empty: this node begins its first life there"),
        Found::Untrusted(report) => {
            tracing::warn!(
                "{shown} cannot be trusted: this node begins another life, and asks to be taken in anew\n{report}"
            );
        }
        Found::Resumed { id, last, report } if report.is_sound() => {
            tracing::info!("{shown}: node {id} goes on after entry {last}");
        }
        Found::Resumed { id, last, report } => {
            tracing::warn!("{shown}: node {id} goes on after entry {last}, on a disk with damage\n{report}");
        }
    }
    Ok(Some(directory))
}

/// Where one shard's log is kept: in the directory itself where there is one shard, else in one below it.
fn shard_directory(path: &Path, place: ShardPlace) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| Error::io(format!("look at {}", path.display()), error))?;
    let is_shards = |entry: &&fs::DirEntry| entry.file_name().to_string_lossy().starts_with(SHARD_DIRECTORY);
    let below = entries.iter().filter(is_shards).count();
    let refuse = |found: &str, help: &str| {
        let shown = path.display();
        let problem =
            format!("{shown} is the directory of a node of {found}, and this one has {}", place.map().shards());
        Err(Error::DataRefused { code: "E0218", problem, help: format!("{help}; or name another directory") })
    };
    let fixed = "the number of shards is fixed when the cluster is formed: write that one as `shards` in [cores]";
    if place.map() == ShardMap::ONE {
        return if below == 0 { Ok(path.to_owned()) } else { refuse("several shards", fixed) };
    }
    if below > usize::from(place.map().shards()) {
        return refuse(&format!("{below} shards"), fixed);
    }
    if entries.iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        return refuse(
            "one shard",
            "the number of shards is fixed when the cluster is formed: leave `shards` out of [cores]",
        );
    }
    Ok(path.join(format!("{SHARD_DIRECTORY}{}", place.shard())))
}

/// How this configuration keeps its log.
fn settings(config: &Config) -> WalSettings {
    WalSettings {
        durability: match config.durability {
            Durability::Durable => wal::Durability::Durable,
            Durability::Buffered | Durability::Volatile => wal::Durability::Buffered,
        },
        file_bytes: config.disk.file_bytes as u64,
        files_max: config.disk.files,
        record_bytes: config.disk.record_bytes(&config.limits),
        snapshot_every_bytes: config.disk.snapshot_every_bytes as u64,
        boot: boot(),
        ..WalSettings::default()
    }
}

/// This run of the machine; 0 where the kernel does not say, and nothing is believed then.
pub(super) fn boot() -> u128 {
    let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn make(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::io(format!("use {} as data directory", path.display()), ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let failed = |error| Error::io(format!("make the data directory {}", path.display()), error);
            fs::create_dir_all(path).map_err(failed)?;
            // Its own name has to last as well.
            let parent = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
            let synced = parent.map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all());
            synced.map_err(failed)
        }
        Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
    }
}

/// Opens a directory as the log's device.
///
/// # Errors
/// E0103, E0104.
pub(super) fn open_disk(path: &Path, settings: &WalSettings) -> Result<Disk, Error> {
    let writes = match settings.durability {
        wal::Durability::Durable => Writes::Durable,
        wal::Durability::Buffered => Writes::Cached,
    };
    let config = DiskConfig { files_max: settings.files_max + 8, writes, ..DiskConfig::default() };
    Disk::open(path, config).map_err(|error| refused(path, error.into()))
}

/// Why a directory is not used, and what to do.
pub(super) fn refused(path: &Path, error: DataError) -> Error {
    let shown = path.display();
    let (code, problem, help) = match error {
        DataError::Disk(DiskError::Held) => (
            "E0112",
            format!("{shown} is in use by another process"),
            format!("`fuser -v {shown}/LOCK` shows it; end it, or give this node a directory of its own"),
        ),
        DataError::Disk(DiskError::Denied) => {
            return Error::NoPermission { what: format!("use the data directory {shown}") };
        }
        DataError::Disk(error) => {
            return Error::io(format!("use the data directory {shown}"), std::io::Error::other(error));
        }
        DataError::Witness(error) => return Error::io(format!("write to {MEMORY_FILES}"), error),
        DataError::Mode { found, asked } => (
            "E0221",
            format!("{shown} was used as `{}` so far, and the configuration says `{}`", found.name(), asked.name()),
            format!(
                "write `durability = \"{}\"`, or, if the change is meant, start this node once with `--change-durability`",
                found.name()
            ),
        ),
        DataError::Log(error) => return log_refused(path, &error),
    };
    Error::DataRefused { code, problem, help }
}

/// Why the log in a directory is not used, and what to do.
pub(super) fn log_refused(path: &Path, error: &WalError) -> Error {
    let shown = path.display();
    let (code, help) = match error {
        WalError::Device(_) => return Error::io(format!("read the data directory {shown}"), std::io::Error::other(error.to_string())),
        WalError::AnotherSlot { found, .. } => (
            "E0218",
            format!("write `slot = {}`, or name this node's own directory in `data_dir`", found.0),
        ),
        WalError::AnotherShard { found, expected } => {
            let name = |group| ShardPlace::of_group(group).map_or("an unknown shard".to_owned(), |place| place.to_string());
            let problem = format!("{shown} holds the log of {}, not of {}", name(*found), name(*expected));
            let help = "the number of shards is fixed when the cluster is formed: write that one as `shards` in [cores], or name another directory";
            return Error::DataRefused { code: "E0218", problem, help: help.to_owned() };
        }
        WalError::AnotherCluster { .. } | WalError::AnotherNode { .. } => (
            "E0218",
            "name this node's own directory in `data_dir`; an empty one makes it join as a new node".to_owned(),
        ),
        WalError::Format { .. } => ("E0219", "start the build that wrote it".to_owned()),
        WalError::SuperblockDamaged | WalError::NoSuperblock { .. } => (
            "E0220",
            "put the directory back from a copy of the whole, or name an empty one: the node then joins as a new one, and the others send it the data".to_owned(),
        ),
        WalError::RolledBack { .. } => (
            "E0222",
            "put the newer image back, or name an empty directory: the node then joins as a new one".to_owned(),
        ),
    };
    Error::DataRefused { code, problem: format!("{shown}: {error}"), help }
}

/// No address: of nobody.
pub(super) const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// How tools look at a log, and write one.
pub(super) fn tool_settings(durability: wal::Durability) -> WalSettings {
    WalSettings { durability, files_max: TOOL_FILES_MAX, boot: boot(), ..WalSettings::default() }
}

/// Fills an empty directory with the data that a new cluster begins with, whose only voter is `member` under a new incarnation, and
/// returns the cluster's id. `entry_bytes` is the largest entry's length.
///
/// # Errors
/// E0104 where the directory is not empty or the disk fails.
pub(super) fn seed(
    path: &Path,
    durability: wal::Durability,
    entry_bytes: usize,
    member: Member,
    legacy: Legacy,
) -> Result<ClusterId, Error> {
    make(path)?;
    let mut settings = tool_settings(durability);
    settings.record_bytes = settings.record_bytes.max((entry_bytes + 2 * BLOCK_BYTES).next_multiple_of(BLOCK_BYTES));
    settings.file_bytes = settings.file_bytes.max(2 * settings.record_bytes as u64);
    let (random, cluster) = (random_u128()?, ClusterId(random_u128()? | 1));
    let id = NodeId { incarnation: Incarnation((random >> 64) as u64 | 1), ..member.id };
    let fresh = Fresh { id, shard: ShardId(0), salt: random as u64 };
    let path = path.to_owned();
    let core = CoreConfig { name: "seed".into(), ..CoreConfig::default() };
    PortPlan::default().run(core, &Between::default(), move |_net| async move {
        let failed = |error: std::io::Error| Error::io(format!("fill {}", path.display()), error);
        let disk = open_disk(&path, &settings)?;
        disk.lock().map_err(|error| refused(&path, error.into()))?;
        let disk = NodeDisk::new(disk);
        if !disk.list().map_err(|error| failed(std::io::Error::other(error.to_string())))?.is_empty() {
            return Err(failed(ErrorKind::DirectoryNotEmpty.into()));
        }
        let nanos = || Nanos(now().as_nanos());
        let mut seeding = Seeding::new(disk, settings, fresh, (cluster, member), legacy, nanos());
        let seeded = poll_fn(|cx| seeding.poll(nanos(), cx)).await;
        seeded.map(|()| cluster).map_err(|error| failed(std::io::Error::other(error)))
    })
}
