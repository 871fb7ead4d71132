//! Where on a disk everything is: for those who damage it on purpose and must know what they leave whole.

use super::report::Report;
use super::scan::Scan;
use super::superblock::Superblock;
use super::{WalError, names};
use crate::storage::device::{BLOCK_BYTES, Directory};

/// A whole record, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    /// The file.
    pub name: String,
    /// Where in it the record begins.
    pub offset: u64,
    /// Its length without the padding.
    pub bytes: u64,
    /// Its number.
    pub sequence: u64,
    /// All records up to this number were durable when it was begun: what it says if one of them is missing.
    pub durable: u64,
}

/// What is whole on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map {
    /// Which copy of the superblock can be read.
    pub superblocks: [bool; 2],
    /// In the order of their numbers.
    pub records: Vec<RecordPlace>,
    /// Names of the snapshots, the newest first; whole or not.
    pub snapshots: Vec<String>,
}

impl Map {
    /// Looks at a directory; an empty map where there is no superblock. Reads all of the log.
    ///
    /// # Errors
    /// As [`super::recover`].
    pub fn of(directory: &impl Directory) -> Result<Map, WalError> {
        let files = directory.list()?;
        let Some(superblock) = Superblock::read(directory, &files)? else { return Ok(Map::default()) };
        let mut report = Report::new(superblock.id, superblock.generation);
        let scan = Scan::of(directory, &files, superblock.salt, &mut report)?;
        let place = |record: &super::record::Record| RecordPlace {
            name: names::log(record.place.file),
            offset: u64::from(record.place.block) * BLOCK_BYTES as u64,
            bytes: (super::record::RECORD_HEADER_BYTES + record.payload_bytes as usize) as u64,
            sequence: record.sequence,
            durable: record.durable,
        };
        let mut snapshots: Vec<_> =
            files.iter().map(|(name, _)| name.clone()).filter(|name| names::is_snapshot(name)).collect();
        snapshots.sort_by_key(|name| std::cmp::Reverse(names::snapshot_index(name)));
        Ok(Map {
            superblocks: Superblock::copies(directory)?.map(|copy| copy.is_some()),
            records: scan.records.iter().map(|found| place(&found.record)).collect(),
            snapshots,
        })
    }

    /// Up to which number the loss of a record would be noticed, even if the power is lost now, with `window` records under way at
    /// most; 0: none. What gives it away is a record that is itself durable by now.
    pub fn noticed_up_to(&self, window: usize) -> u64 {
        let newest = self.records.last().map_or(0, |newest| newest.sequence);
        let durable = newest.saturating_sub(window as u64);
        let witness = self.records.iter().rev().find(|record| record.sequence <= durable);
        witness.map_or(0, |witness| witness.durable.min(witness.sequence.saturating_sub(1)))
    }
}
