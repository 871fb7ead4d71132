//! A log's directory with whatever in it: recovery says what it finds, without a panic, and makes nothing larger than what it reads.
//!
//! Records get the hashes and check sums that they ought to have, which no fuzzer guesses: what they say is arbitrary.

use arbitrary::{Arbitrary, Result, Unstructured};
use std::collections::BTreeMap;
use trimaran_raft::device::{DeviceError, Directory};
use trimaran_raft::wal::{Expected, Recovery, recover};
use trimaran_raft::{LogIndex, Slot};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const BLOCK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 144;
const SALT: u64 = 3;
const INCARNATION: u64 = 7;
const CLUSTER: u128 = 1;

#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Directory for Files {
    fn list(&self) -> std::result::Result<Vec<(String, u64)>, DeviceError> {
        Ok(self.0.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn read_at(&self, name: &str, offset: u64, place: &mut [u8]) -> std::result::Result<usize, DeviceError> {
        let bytes = self.0.get(name).ok_or(DeviceError::NotFound)?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(place.len());
        place[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// What one record says.
#[derive(Debug, Arbitrary)]
struct Says {
    sequence: u8,
    previous: u8,
    follows: bool,
    durable: u8,
    term: u8,
    vote: Option<u8>,
    from: u8,
    before_term: u8,
    to_term: u8,
    count: u8,
    bodies: u8,
    claims: Option<u32>,
    torn: bool,
    file: bool,
}

fn superblock() -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[8..16].copy_from_slice(b"trimawal");
    block[16] = 1;
    block[20] = 1;
    block[32..40].copy_from_slice(&INCARNATION.to_le_bytes());
    block[40..48].copy_from_slice(&SALT.to_le_bytes());
    let hash = xxh3_64(&block[8..]);
    block[..8].copy_from_slice(&hash.to_le_bytes());
    block
}

fn record(says: &Says, hashes: &BTreeMap<u8, u64>, block: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..says.count % 8 {
        let mut header = [0; 64];
        header[0] = says.bodies % 7;
        header[4] = says.bodies;
        header[56] = says.to_term;
        payload.extend_from_slice(&header);
        payload.resize(payload.len() + usize::from(says.bodies), 9);
    }
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(&0x3157_5254_u32.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&says.claims.unwrap_or(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&u32::from(says.count % 8).to_le_bytes());
    bytes.extend_from_slice(&CLUSTER.to_le_bytes());
    let previous_hash = if says.follows { hashes.get(&says.previous).copied().unwrap_or(0) } else { 1 };
    let wide = |small: u8| if small == u8::MAX { u64::MAX } else { u64::from(small) };
    for number in [INCARNATION, wide(says.sequence), wide(says.previous), previous_hash, wide(says.durable)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&u32::from(says.file).to_le_bytes());
    bytes.extend_from_slice(&(block as u32).to_le_bytes());
    for number in [wide(says.term), u64::from(says.vote.unwrap_or(0))] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[says.vote.unwrap_or(0), u8::from(says.vote.is_some()), 0, 0, 0, 0, 0, 0]);
    for number in [wide(says.from), wide(says.before_term), wide(says.to_term)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 8]);
    assert_eq!(bytes.len(), HEADER_BYTES);
    let hash = xxh3_64_with_seed(&bytes[8..], SALT);
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    bytes.extend_from_slice(&payload);
    if says.torn {
        bytes.truncate(HEADER_BYTES + payload.len() / 2);
    }
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn directory(input: &mut Unstructured<'_>) -> Result<Files> {
    let mut files = Files::default();
    let mut logs = [Vec::new(), Vec::new()];
    let mut hashes = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=24)? {
        let says = Says::arbitrary(input)?;
        let log = &mut logs[usize::from(says.file)];
        let bytes = record(&says, &hashes, log.len() / BLOCK_BYTES);
        hashes.insert(says.sequence, u64::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 8])));
        log.extend_from_slice(&bytes);
    }
    for (number, mut log) in logs.into_iter().enumerate() {
        log.extend_from_slice(input.bytes(input.len().min(64))?);
        files.0.insert(format!("log-{number:08x}"), log);
    }
    files.0.insert("superblock".to_owned(), superblock());
    files.0.insert("snapshot-0000000000000005-0000000000000001".to_owned(), input.take_rest_bytes());
    Ok(files)
}

trait Rest {
    fn take_rest_bytes(&mut self) -> Vec<u8>;
}

impl Rest for Unstructured<'_> {
    fn take_rest_bytes(&mut self) -> Vec<u8> {
        self.bytes(self.len()).map(<[u8]>::to_vec).unwrap_or_default()
    }
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(content: &[u8]) {
    let expected = Expected { slot: Slot(1), ..Expected::default() };
    // As they are, as files of their own.
    let raw =
        [("superblock", content), ("log-00000000", content), ("snapshot-0000000000000001-0000000000000001", content)];
    let raw = Files(raw.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect());
    let _ = recover(&raw, &expected);
    let Ok(files) = directory(&mut Unstructured::new(content)) else { return };
    let bytes: usize = files.0.values().map(Vec::len).sum();
    if let Ok(Recovery::Resumed(found)) = recover(&files, &expected) {
        assert!(found.log.bytes() <= bytes as u64, "nothing is made up");
        assert!(found.log.last() == LogIndex::ZERO || found.cluster.is_some());
        assert!(found.fence.is_none_or(|fence| fence > (found.log.last_term(), found.log.last())));
        assert!(!found.report.to_string().is_empty());
        // The same again: it changes nothing, and depends on nothing else.
        let again = recover(&files, &expected);
        assert!(matches!(again, Ok(Recovery::Resumed(again)) if again.log == found.log && again.hard == found.hard));
    }
}
