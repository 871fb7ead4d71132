//! How much the store takes. Constants, not configuration: a limit that differs between replicas makes them differ.

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value in bytes. One request of R2P2 carries about 370,000, so longer ones cannot be sent today.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most bytes of keys and values, each key counted with [`KEY_OVERHEAD_BYTES`]. A write that would pass it is refused
/// and changes nothing; deleting makes room.
pub const STATE_BYTES_MAX: usize = 1 << 30;
/// What a key costs besides its own bytes and its value's: two allocations, a version, an expiry, its place in the tree.
/// The timer of a key with a time to live comes out of the budget that all timers of a service share.
pub const KEY_OVERHEAD_BYTES: usize = 128;
/// Guards of one transaction.
pub const TXN_GUARDS_MAX: usize = 64;
/// Operations of each of its branches.
pub const TXN_OPS_MAX: usize = 64;
/// Bytes that a transaction may read: what one reply carries, 371,856, less what surrounds them.
pub const REPLY_BYTES_MAX: usize = 360_000;
/// Keys of one page of a scan.
pub const SCAN_ITEMS_MAX: u32 = 10_000;
/// Bytes of keys and values of one page; a single longer item makes a page of its own.
pub const PAGE_BYTES_MAX: usize = 256 << 10;
/// Keys that one page may pass over because they have expired and their timers have not fired yet.
pub const SCAN_EXPIRED_MAX: usize = 10_000;
