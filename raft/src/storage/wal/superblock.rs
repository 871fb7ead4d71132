//! Whose disk it is: two copies of one block, written in turn.
//!
//! ```text
//!   hash u64 | magic u64 | format u32 | slot u8 | mode u8 | clean u8 | zero u8 | generation u64 | incarnation u64 | salt u64
//!   cluster u128 (0: none yet) | boot u128 (0: none) | shard u16
//! ```
//!
//! The newer copy that is whole counts. A torn write leaves the older one, which differs only in what the write was to change.

use xxhash_rust::xxh3::xxh3_64;

use super::{Durability, WalError};
use crate::id::{ClusterId, Incarnation, NodeId, ShardId, Slot};
use crate::storage::device::{BLOCK_BYTES, Directory};
use crate::wire::{Reader, Writer};

pub(super) const NAME: &str = "superblock";
pub(super) const NEW_NAME: &str = "superblock.new";
/// Both copies.
pub(super) const BYTES: usize = 2 * BLOCK_BYTES;
/// The form of everything in the directory.
pub(super) const FORMAT: u32 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"trimawal");
const USED_BYTES: usize = 90;

/// What a directory says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) generation: u64,
    pub(super) id: NodeId,
    pub(super) shard: ShardId,
    pub(super) salt: u64,
    /// The cluster, once it is known; a crash may lose that, the records do not.
    pub(super) cluster: Option<ClusterId>,
    pub(super) durability: Durability,
    /// Everything is on the device, and nothing was acknowledged since.
    pub(super) clean: bool,
    /// Which run of the machine it was last used in.
    pub(super) boot: u128,
}

impl Superblock {
    /// Where this generation belongs.
    pub(super) fn offset(&self) -> u64 {
        (self.generation % 2) * BLOCK_BYTES as u64
    }

    /// Fills one block.
    pub(super) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        let mut w = Writer::new(block);
        w.u64(0);
        w.u64(MAGIC);
        w.u32(FORMAT);
        w.u8(self.id.slot.0);
        w.u8(self.durability as u8);
        w.u8(u8::from(self.clean));
        w.u8(0);
        w.u64(self.generation);
        w.u64(self.id.incarnation.0);
        w.u64(self.salt);
        w.u128(self.cluster.unwrap_or_default().0);
        w.u128(self.boot);
        w.u16(self.shard.0);
        let hash = xxh3_64(&block[8..]);
        block[..8].copy_from_slice(&hash.to_le_bytes());
    }

    /// Reads one block: `Ok(None)` for what is no whole copy.
    fn decode(block: &[u8]) -> Result<Option<Superblock>, WalError> {
        let Some(head) = block.get(..USED_BYTES) else { return Ok(None) };
        if u64::from_le_bytes(*head.first_chunk().unwrap_or(&[0; 8])) != xxh3_64(&block[8..]) {
            return Ok(None);
        }
        let mut r = Reader::new(&head[8..]);
        let mut parse = || {
            let magic = r.u64()?;
            let format = r.u32()?;
            let (slot, mode, clean, _) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
            let (generation, incarnation, salt) = (r.u64()?, r.u64()?, r.u64()?);
            let (cluster, boot, shard) = (r.u128()?, r.u128()?, r.u16()?);
            let id = NodeId { slot: Slot(slot), incarnation: Incarnation(incarnation) };
            let cluster = (cluster != 0).then_some(ClusterId(cluster));
            let durability = if mode == 0 { Durability::Durable } else { Durability::Buffered };
            let shard = ShardId(shard);
            let clean = clean != 0;
            Some((magic, format, Superblock { generation, id, shard, salt, cluster, durability, clean, boot }))
        };
        match parse() {
            Some((MAGIC, FORMAT, superblock)) => Ok(Some(superblock)),
            Some((MAGIC, found, _)) => Err(WalError::Format { found, known: FORMAT }),
            _ => Ok(None),
        }
    }

    /// Both copies, as far as they are whole.
    pub(super) fn copies(directory: &impl Directory) -> Result<[Option<Superblock>; 2], WalError> {
        let mut copies = [None; 2];
        let mut block = vec![0; BLOCK_BYTES];
        for (place, copy) in copies.iter_mut().enumerate() {
            block.fill(0);
            directory.read_at(NAME, (place * BLOCK_BYTES) as u64, &mut block)?;
            *copy = Superblock::decode(&block)?;
        }
        Ok(copies)
    }

    /// The newest whole copy; `Ok(None)` where there is no superblock.
    pub(super) fn read(directory: &impl Directory, files: &[(String, u64)]) -> Result<Option<Superblock>, WalError> {
        if !files.iter().any(|(name, _)| name == NAME) {
            let ours = |name: &str| super::names::is_log(name) || super::names::is_snapshot(name);
            return match files.iter().find(|(name, _)| ours(name)) {
                Some((name, _)) => Err(WalError::NoSuperblock { name: name.clone() }),
                None => Ok(None),
            };
        }
        let copies = Superblock::copies(directory)?;
        let newest = copies.into_iter().flatten().max_by_key(|copy| copy.generation);
        newest.map(Some).ok_or(WalError::SuperblockDamaged)
    }
}
