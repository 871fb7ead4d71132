//! What may go wrong with a simulated disk, and how often it has.

use std::time::Duration;

/// The faults of a disk. Probabilities are between 0 and 1, and drawn for each operation that they concern.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskFaults {
    /// Shortest time that an operation takes.
    pub delay_min: Duration,
    /// Longest time without a fault; drawn evenly between the two, so operations complete in any order.
    pub delay_max: Duration,
    /// Chance to take `slow_delay` longer.
    pub slow: f64,
    /// How much longer.
    pub slow_delay: Duration,
    /// Chance that the whole disk answers nothing for `stall_time`.
    pub stall: f64,
    /// For how long.
    pub stall_time: Duration,
    /// Chance that a write fails with EIO. Any part of it may have been done, and is not durable.
    pub write_error: f64,
    /// Chance that a read fails with EIO.
    pub read_error: f64,
    /// Chance that a sync fails with EIO. What it was to make durable stays in the cache.
    pub sync_error: f64,
    /// Bytes of all files; a write or a new file beyond is refused with [`DiskError::NoSpace`](crate::DiskError::NoSpace).
    pub space_bytes: u64,
    /// Chance, with each write, that a bit of that file flips, wherever in it.
    pub rot: f64,
    /// Chance that a write goes to another block of its file, and that nobody is told.
    pub misdirect: f64,
    /// Chance that a read returns one block as it was before its last write.
    pub stale_read: f64,
    /// Chance that a sync, or a write that is to be durable, is answered although all is in the cache only.
    pub lost_sync: f64,
}

impl Default for DiskFaults {
    /// A disk without faults on which an operation takes 60 to 150 microseconds.
    fn default() -> Self {
        DiskFaults {
            delay_min: Duration::from_micros(60),
            delay_max: Duration::from_micros(150),
            slow: 0.0,
            slow_delay: Duration::from_millis(5),
            stall: 0.0,
            stall_time: Duration::from_millis(500),
            write_error: 0.0,
            read_error: 0.0,
            sync_error: 0.0,
            space_bytes: u64::MAX,
            rot: 0.0,
            misdirect: 0.0,
            stale_read: 0.0,
            lost_sync: 0.0,
        }
    }
}

/// How often each fault of a disk has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaultCounters {
    /// Operations that took longer.
    pub slowed: u64,
    /// Times that the disk stood still.
    pub stalls: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Syncs that failed.
    pub sync_errors: u64,
    /// Writes and new files for which there was no room.
    pub no_space: u64,
    /// Bits that flipped.
    pub rotted: u64,
    /// Writes that went elsewhere.
    pub misdirected: u64,
    /// Reads that told of the past.
    pub stale_reads: u64,
    /// Syncs and durable writes that were neither.
    pub lost_syncs: u64,
    /// Ends of the process with operations in flight, which were done or not.
    pub cut_short: u64,
    /// Losses of power.
    pub power_cuts: u64,
    /// Writes that a loss of power has undone as a whole.
    pub lost_writes: u64,
    /// Writes of which a loss of power has left a part.
    pub torn_writes: u64,
    /// Changes of names that a loss of power has undone.
    pub lost_names: u64,
}
