//! A whole state as a file: taken from a node that runs, for a cluster that is to begin with it.
//!
//! ```text
//!   magic 8 | format u32 | header_bytes u32 | header, JSON | state | xxh3 of all before, u64
//! ```
//!
//! A node makes it when it is asked for its first slice and keeps it in memory, one at a time, until a minute after its last slice
//! was asked for: as much memory as the state has bytes.

use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::{Instant, now};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"trimabak";
const FORMAT: u32 = 1;
const FIXED_BYTES: usize = 16;
const HASH_BYTES: usize = 8;
/// Bytes of one slice: a reply stays under 254 packets.
pub(crate) const SLICE_BYTES: usize = 256 << 10;
/// In front of each slice: which backup, and how long it is.
pub(crate) const SLICE_HEADER_BYTES: usize = 16;
/// A backup that nobody asks for is kept so long.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Where a state comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The service's name.
    pub service: String,
    /// The cluster's name.
    pub name: String,
    /// The cluster's id, hexadecimal.
    pub cluster: String,
    /// The slot of the node that gave it.
    pub slot: u8,
    /// It is the state after this entry.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// That entry's log time, nanoseconds.
    pub log_time: u64,
    /// The chain of digests there.
    pub digest: u64,
}

/// A state and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where it comes from.
    pub header: BackupHeader,
    /// The state, as snapshots carry it.
    pub state: Rc<Vec<u8>>,
}

/// Why bytes are no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It begins otherwise.
    #[error("it is no backup of a trimaran service")]
    NoBackup,
    /// Written by another build.
    #[error("it has format {0}; this build reads format {FORMAT} only")]
    Format(u32),
    /// It was cut short or changed.
    #[error("it is damaged: its check sum does not fit")]
    Damaged,
}

impl Backup {
    /// As a file.
    pub fn encode(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap_or_default();
        let mut bytes = Vec::with_capacity(FIXED_BYTES + header.len() + self.state.len() + HASH_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&self.state);
        let hash = xxh3_64(&bytes);
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes
    }

    /// From a file.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn decode(bytes: &[u8]) -> Result<Backup, BackupError> {
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(BackupError::NoBackup);
        }
        match word(8) {
            Some(FORMAT) => {}
            Some(other) => return Err(BackupError::Format(other)),
            None => return Err(BackupError::Damaged),
        }
        let (whole, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(BackupError::Damaged)?;
        if xxh3_64(whole) != u64::from_le_bytes(*hash) {
            return Err(BackupError::Damaged);
        }
        let header_bytes = word(12).ok_or(BackupError::Damaged)? as usize;
        let rest = whole.get(FIXED_BYTES..).unwrap_or_default();
        let (header, state) = rest.split_at_checked(header_bytes).ok_or(BackupError::Damaged)?;
        let header = serde_json::from_slice(header).map_err(|_| BackupError::Damaged)?;
        Ok(Backup { header, state: Rc::new(state.to_vec()) })
    }
}

/// What a slice is asked for with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SliceRequest {
    /// Which backup; 0: a new one.
    pub(crate) id: u64,
    /// From where.
    pub(crate) offset: u64,
}

/// The backup that a node holds.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    id: u64,
    bytes: Vec<u8>,
    used: Option<Instant>,
}

impl Kept {
    /// Takes the place of the one before.
    pub(crate) fn put(&mut self, bytes: Vec<u8>) -> u64 {
        *self = Kept { id: self.id + 1, bytes, used: Some(now()) };
        self.id
    }

    /// The slice at an offset; `None` where that backup is gone.
    pub(crate) fn slice(&mut self, id: u64, offset: u64) -> Option<Vec<u8>> {
        if self.id != id || self.used.is_none() {
            return None;
        }
        self.used = Some(now());
        let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
        let slice = rest.get(..SLICE_BYTES).unwrap_or(rest);
        let mut reply = Vec::with_capacity(SLICE_HEADER_BYTES + slice.len());
        reply.extend_from_slice(&id.to_le_bytes());
        reply.extend_from_slice(&(self.bytes.len() as u64).to_le_bytes());
        reply.extend_from_slice(slice);
        Some(reply)
    }

    /// Frees what nobody has asked for lately.
    pub(crate) fn forget_old(&mut self) {
        if self.used.is_some_and(|used| now().saturating_since(used) > KEPT_FOR) {
            (self.bytes, self.used) = (Vec::new(), None);
        }
    }
}

/// Takes a slice apart: which backup, its length, and the bytes.
pub(crate) fn read_slice(reply: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (head, bytes) = reply.split_first_chunk::<SLICE_HEADER_BYTES>()?;
    let (id, total) = (head.first_chunk()?, head.last_chunk()?);
    Some((u64::from_le_bytes(*id), u64::from_le_bytes(*total), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_comes_back_as_it_was_and_no_changed_byte_passes() {
        let header = BackupHeader {
            service: "kv".into(),
            name: "kv".into(),
            cluster: "7".into(),
            slot: 1,
            index: 9,
            term: 2,
            log_time: 5,
            digest: 6,
        };
        let backup = Backup { header, state: Rc::new((0..200).collect()) };
        let bytes = backup.encode();
        assert_eq!(Backup::decode(&bytes), Ok(backup));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Backup::decode(&changed).is_err(), "byte {at}");
            assert!(Backup::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
