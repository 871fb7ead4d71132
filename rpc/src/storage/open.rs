//! From a directory to what a node was: opened, locked, looked at, and gone on with.

use super::device::NodeDisk;
use super::witness::Witness;
use super::{Durability, NodeStorage};
use crate::shards::ShardPlace;
use std::fmt;
use trimaran_raft::device::Directory;
use trimaran_raft::wal::{self, Expected, Fresh, Recovery, Report, Wal, WalError, WalSettings};
use trimaran_raft::{HardState, Incarnation, LogIndex, Nanos, NodeId, Shard, ShardConfig, Slot, Term, Transport};
use trimaran_runtime::{Disk, DiskError, now};

/// Whose directory is wanted, and how it is kept.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// The seat of the node.
    pub slot: Slot,
    /// Which shard's it is.
    pub place: ShardPlace,
    /// The incarnation of the life that begins where none can be resumed.
    pub incarnation: Incarnation,
    /// Random, and never shown: marks what that life writes.
    pub salt: u64,
    /// How the log is kept; its `durability` is the mode, which the disk must have been used in before.
    pub settings: WalSettings,
    /// The mode may be another than before.
    pub changes_durability: bool,
    /// For `buffered`: how far was acknowledged in this run of the machine, which [`WalSettings::boot`] names.
    pub witness: Witness,
}

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It cannot be locked.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What it holds does not fit.
    #[error(transparent)]
    Log(#[from] WalError),
    /// It was used in another mode.
    #[error("it was used as `{}` so far, and is to be `{}` now", .found.name(), .asked.name())]
    Mode {
        /// The mode so far.
        found: Durability,
        /// The mode asked for.
        asked: Durability,
    },
    /// The witness of a buffered log cannot be kept.
    #[error("the number of the newest acknowledgement cannot be kept: {0}")]
    Witness(std::io::Error),
}

/// What was found in a directory.
#[derive(Debug, Clone)]
pub enum Found {
    /// Nothing: a first life begins.
    Nothing,
    /// A life that is over, since it may have promised what is not there any more: the node begins another.
    Untrusted(Report),
    /// A life that goes on.
    Resumed {
        /// Who the node is.
        id: NodeId,
        /// The newest entry on the disk.
        last: LogIndex,
        /// What else was found.
        report: Report,
    },
}

/// A directory that is this node's alone, read and ready to go on.
pub struct DataDirectory {
    disk: NodeDisk,
    config: DataConfig,
    recovery: Recovery,
    left: Vec<(String, u64)>,
}

impl fmt::Debug for DataDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDirectory").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl DataDirectory {
    /// Locks the directory and reads all of it: blocks, for as long as that takes.
    ///
    /// # Errors
    /// Somebody else has it, it is somebody else's, or it cannot be read; see [`DataError`].
    pub fn open(disk: Disk, config: DataConfig) -> Result<DataDirectory, DataError> {
        disk.lock()?;
        if config.settings.durability == wal::Durability::Durable {
            // What is read counts as durable from now on, though the last process may have been killed before it was.
            disk.sync_all()?;
        }
        let disk = NodeDisk::new(disk);
        let identity = wal::identify(&disk)?;
        let settings = config.settings;
        let mut expected =
            Expected { slot: config.slot, shard: config.place.group(), boot: settings.boot, ..Expected::default() };
        let mut before = None;
        if let Some(identity) = identity.filter(|identity| identity.id.slot == config.slot) {
            if identity.durability != settings.durability && !config.changes_durability {
                return Err(DataError::Mode { found: identity.durability.into(), asked: settings.durability.into() });
            }
            expected.witness = config.witness.read(identity.id.incarnation);
            before = Some(identity.id.incarnation);
        }
        let recovery = wal::recover(&disk, &expected)?;
        if let (Recovery::Untrusted(_), Some(before)) = (&recovery, before) {
            config.witness.forget(before);
        }
        let left = disk.list().map_err(WalError::from)?;
        Ok(DataDirectory { disk, config, recovery, left })
    }

    /// Whatever was found counts no more: another life begins, with nothing. What the old one had promised is its own affair; its members
    /// know the new one for another.
    pub fn begin_anew(mut self) -> DataDirectory {
        if let Recovery::Resumed(recovered) = &self.recovery {
            self.config.witness.forget(recovered.id.incarnation);
        }
        self.recovery = Recovery::Nothing;
        self
    }

    /// Who the node is, in the life that begins or goes on.
    pub fn id(&self) -> NodeId {
        match &self.recovery {
            Recovery::Resumed(recovered) => recovered.id,
            _ => NodeId { slot: self.config.slot, incarnation: self.config.incarnation },
        }
    }

    /// What was found.
    pub fn found(&self) -> Found {
        match &self.recovery {
            Recovery::Nothing => Found::Nothing,
            Recovery::Untrusted(report) => Found::Untrusted(report.clone()),
            Recovery::Resumed(recovered) => {
                Found::Resumed { id: recovered.id, last: recovered.log.last(), report: recovered.report.clone() }
            }
        }
    }

    /// The newest entry on the disk.
    pub(crate) fn last(&self) -> LogIndex {
        match &self.recovery {
            Recovery::Resumed(recovered) => recovered.log.last(),
            _ => LogIndex::ZERO,
        }
    }

    /// Term and vote, and the latest entry that it has or knows to have had; for the simulator, which knows what was promised.
    pub(crate) fn kept(&self) -> Option<(HardState, (Term, LogIndex))> {
        match &self.recovery {
            Recovery::Resumed(recovered) => {
                let last = (recovered.log.last_term(), recovered.log.last());
                Some((recovered.hard, last.max(recovered.fence.unwrap_or_default())))
            }
            _ => None,
        }
    }

    /// The mode.
    pub fn durability(&self) -> Durability {
        self.config.settings.durability.into()
    }

    /// Goes on, or begins, on the current core.
    pub(crate) fn shard<T: Transport>(
        self,
        shard: ShardConfig,
        transport: T,
    ) -> Result<Shard<T, NodeStorage>, DataError> {
        let id = self.id();
        let DataDirectory { disk, config, recovery, left } = self;
        let time = Nanos(now().as_nanos());
        let is_buffered = config.settings.durability == wal::Durability::Buffered;
        let witness = |first| match is_buffered {
            true => config.witness.writer(id.incarnation, first).map_err(DataError::Witness),
            false => Ok(None),
        };
        match recovery {
            Recovery::Resumed(recovered) => {
                // What was witnessed before is on the disk, else it would not be resumed.
                let before = config.witness.read(id.incarnation).unwrap_or(0);
                let mut wal = Wal::resume(disk, config.settings, &recovered, time);
                if let Some(witness) = witness(before)? {
                    wal.set_witness(witness);
                }
                Ok(Shard::resume(shard, transport, NodeStorage::Disk(Box::new(wal)), *recovered))
            }
            Recovery::Nothing | Recovery::Untrusted(_) => {
                let fresh = Fresh { id, shard: config.place.group(), salt: config.salt };
                let mut wal = Wal::create(disk, config.settings, fresh, &left, time);
                if let Some(witness) = witness(0)? {
                    wal.set_witness(witness);
                }
                Ok(Shard::new(shard, transport, NodeStorage::Disk(Box::new(wal))))
            }
        }
    }
}
