//! A snapshot as a file: a header block, then the state in whole blocks.
//!
//! ```text
//!   hash u64 | magic u64 | cluster u128 | index u64 | term u64 | log_time u64 | digest u64 | state_bytes u64 | state_hash u64
//!   configuration_bytes u32 | configuration | zeroes          (4096 bytes)
//!   state | zeroes
//! ```
//!
//! `hash` is of the rest of the block, with the disk's salt; `state_hash` is [`crate::state_hash`].

use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::WalError;
use crate::config::Configuration;
use crate::id::{ClusterId, LogIndex, Term};
use crate::log::{ReceivedSnapshot, state_hash};
use crate::storage::device::{BLOCK_BYTES, Directory};
use crate::wire::{Reader, Writer};

const MAGIC: u64 = u64::from_le_bytes(*b"trimasnp");

/// Bytes of the file of a state of this length.
pub(super) fn file_bytes(state_bytes: usize) -> u64 {
    (BLOCK_BYTES + state_bytes.next_multiple_of(BLOCK_BYTES)) as u64
}

/// Fills the header block.
pub(super) fn encode(snapshot: &ReceivedSnapshot, cluster: ClusterId, state_hash: u64, salt: u64, block: &mut [u8]) {
    block.fill(0);
    let configuration = snapshot.configuration.encode();
    let mut w = Writer::new(block);
    w.u64(0);
    w.u64(MAGIC);
    w.u128(cluster.0);
    w.u64(snapshot.index.0);
    w.u64(snapshot.term.0);
    w.u64(snapshot.log_time);
    w.u64(snapshot.digest);
    w.u64(snapshot.bytes.len() as u64);
    w.u64(state_hash);
    w.u32(configuration.len() as u32);
    w.bytes(&configuration);
    let hash = xxh3_64_with_seed(&block[8..], salt);
    block[..8].copy_from_slice(&hash.to_le_bytes());
}

/// The snapshot of a file, with its cluster; `None` where the file is not whole, or another disk's.
pub(super) fn read(
    directory: &impl Directory,
    name: &str,
    bytes: u64,
    salt: u64,
) -> Result<Option<(ClusterId, ReceivedSnapshot)>, WalError> {
    let mut block = vec![0; BLOCK_BYTES];
    if directory.read_at(name, 0, &mut block)? < BLOCK_BYTES {
        return Ok(None);
    }
    let Some((cluster, mut snapshot, state_bytes, hash)) = decode(&block, salt) else { return Ok(None) };
    // No more is read than there is: the header alone must not make anything large.
    if state_bytes > bytes.saturating_sub(BLOCK_BYTES as u64) {
        return Ok(None);
    }
    let Ok(length) = usize::try_from(state_bytes) else { return Ok(None) };
    let mut state = vec![0; length];
    if directory.read_at(name, BLOCK_BYTES as u64, &mut state)? < length || state_hash(&state) != hash {
        return Ok(None);
    }
    snapshot.bytes = Rc::new(state);
    Ok(Some((cluster, snapshot)))
}

fn decode(block: &[u8], salt: u64) -> Option<(ClusterId, ReceivedSnapshot, u64, u64)> {
    let mut r = Reader::new(block);
    if r.u64()? != xxh3_64_with_seed(&block[8..], salt) || r.u64()? != MAGIC {
        return None;
    }
    let cluster = ClusterId(r.u128()?);
    let (index, term) = (LogIndex(r.u64()?), Term(r.u64()?));
    let (log_time, digest, state_bytes, hash) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let length = r.u32()?;
    let configuration = Configuration::decode(r.bytes(length as usize)?)?;
    let snapshot = ReceivedSnapshot { index, term, log_time, digest, configuration, bytes: Rc::default() };
    Some((cluster, snapshot, state_bytes, hash))
}
