//! What a log has done since its start.

/// Counts of one log; they only grow, but for the two that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalCounters {
    /// Records written.
    pub records: u64,
    /// Their bytes, in whole blocks.
    pub record_bytes: u64,
    /// Times that files were made durable by a sync of their own.
    pub syncs: u64,
    /// Records under way now.
    pub under_way: u64,
    /// The most that were at once.
    pub under_way_max: u64,
    /// Times that the device has not answered for [`super::WalSettings::stall`].
    pub stalls: u64,
    /// Times that there was no room but what is kept for entries without which nothing moves.
    pub full: u64,
    /// Snapshots that are durable.
    pub snapshots: u64,
    /// Bytes of the files of the log that are in use, now.
    pub file_bytes: u64,
}
