//! Whose directory it is, before anything else of it is read.

use super::superblock::Superblock;
use super::{Durability, WalError};
use crate::id::{ClusterId, NodeId, ShardId};
use crate::storage::device::Directory;

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The node, in the incarnation whose promises are on this disk.
    pub id: NodeId,
    /// The group.
    pub shard: ShardId,
    /// The cluster, once there was one; a crash may lose this, the records do not.
    pub cluster: Option<ClusterId>,
    /// What its acknowledgements survived.
    pub durability: Durability,
    /// Everything is on the device, and nothing was acknowledged since.
    pub clean: bool,
    /// See [`super::WalSettings::boot`].
    pub boot: u128,
}

/// Reads the superblock; `None` where there is none. Reads two blocks.
///
/// # Errors
/// As [`super::recover`]: no superblock beside other files, a damaged one, another format, or the device fails.
pub fn identify(directory: &impl Directory) -> Result<Option<Identity>, WalError> {
    let files = directory.list()?;
    let superblock = Superblock::read(directory, &files)?;
    Ok(superblock.map(|Superblock { id, shard, cluster, durability, clean, boot, .. }| Identity {
        id,
        shard,
        cluster,
        durability,
        clean,
        boot,
    }))
}
