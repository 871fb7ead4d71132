//! The `[disk]` section: how the log is laid out below `data_dir`.

use super::section::{self, Section};
use super::{Limits, subsection};
use crate::program::config::place::Document;
use crate::program::error::Error;
use toml::Spanned;
use toml::de::DeTable;
use trimaran_raft::ENTRY_HEADER_BYTES;
use trimaran_raft::device::BLOCK_BYTES;
use trimaran_raft::wal::WalSettings;

/// What a record adds to its entries.
const RECORD_OVERHEAD_BYTES: usize = BLOCK_BYTES;

/// The `[disk]` section. Without a `data_dir` it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// One file of the log.
    pub file_bytes: usize,
    /// Files of the log at most; beyond that writes are refused until a snapshot is saved.
    pub files: usize,
    /// A snapshot is saved after so many bytes of the log, or earlier: `log_bytes` is the limit of what comes after one.
    pub snapshot_every_bytes: usize,
}

impl DiskLimits {
    /// Bytes of the largest record: two of them fit into a file, and the largest request into one.
    pub fn record_bytes(&self, limits: &Limits) -> usize {
        let usual = WalSettings::default().record_bytes.min(self.file_bytes / 2 / BLOCK_BYTES * BLOCK_BYTES);
        usual.max(least_record_bytes(limits))
    }
}

fn least_record_bytes(limits: &Limits) -> usize {
    (limits.request_bytes + ENTRY_HEADER_BYTES + RECORD_OVERHEAD_BYTES).next_multiple_of(BLOCK_BYTES)
}

pub(super) fn read(
    document: &Document<'_>,
    root: &Section<'_>,
    limits: &Limits,
    is_used: bool,
) -> Result<DiskLimits, Error> {
    let (found, empty) = (root.find("disk"), Spanned::new(0..0, DeTable::new()));
    let section = subsection(document, &found, &empty, "[disk]", section::DISK)?;
    let file_bytes = section.bytes_or("file_bytes", 32 << 20, 1 << 20, 1 << 30)?;
    let disk = DiskLimits {
        file_bytes: file_bytes / BLOCK_BYTES * BLOCK_BYTES,
        files: section.integer_or("files", 16, 2, 1024)?,
        snapshot_every_bytes: section.bytes_or("snapshot_every_bytes", 64 << 20, 1 << 20, 1 << 40)?,
    };
    if is_used && 2 * least_record_bytes(limits) > disk.file_bytes {
        let blamed = section.find("file_bytes").map_or_else(|| section.place(), |found| found.place());
        return Err(Error::LimitsContradict { smaller: "request_bytes", larger: "half of file_bytes", place: blamed });
    }
    Ok(disk)
}
