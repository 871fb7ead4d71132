//! Every whole record of a directory, in the order of sequences.

use super::files::Known;
use super::record::{Place, RECORD_HEADER_BYTES, Record};
use super::report::Report;
use super::{WalError, names};
use crate::storage::device::{BLOCK_BYTES, Directory};

/// Read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A whole record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) record: Record,
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) files: Vec<Known>,
    pub(super) records: Vec<Found>,
    /// Of any header that could be read, also where the rest could not.
    pub(super) highest_sequence: u64,
}

impl Scan {
    pub(super) fn of(
        directory: &impl Directory,
        files: &[(String, u64)],
        salt: u64,
        report: &mut Report,
    ) -> Result<Scan, WalError> {
        let mut scan = Scan::default();
        for (name, bytes) in files {
            let Some(number) = names::log_number(name) else { continue };
            let blocks = u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            let mut file = Known { number, blocks, ..Known::default() };
            scan.file(&mut Window::new(directory, name), &mut file, salt, report)?;
            scan.files.push(file);
        }
        scan.records.sort_by_key(|found| found.record.sequence);
        Ok(scan)
    }

    fn file(
        &mut self,
        window: &mut Window<'_, impl Directory>,
        file: &mut Known,
        salt: u64,
        report: &mut Report,
    ) -> Result<(), WalError> {
        let mut block = 0;
        while block < file.blocks {
            let here = Place { file: file.number, block };
            let Some(record) = Record::decode(window.at(offset_of(block), RECORD_HEADER_BYTES)?, salt) else {
                block += 1;
                continue;
            };
            self.highest_sequence = self.highest_sequence.max(record.sequence);
            file.max_to = file.max_to.max(record.to());
            if record.count > 0 {
                file.entries_to = file.entries_to.max(record.to());
            }
            let end = block.checked_add(record.blocks()).filter(|end| *end <= file.blocks);
            match end {
                _ if record.place != here => report.misdirected(&record, here),
                Some(end) if window.crc32c(offset_of(block), &record)? == record.payload_crc32c => {
                    self.records.push(Found { record });
                    block = end;
                    continue;
                }
                _ => report.torn(&record),
            }
            // What is not whole may lie over something that is.
            block += 1;
        }
        Ok(())
    }
}

fn offset_of(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

/// A file, read a stretch at a time.
struct Window<'a, D> {
    directory: &'a D,
    name: &'a str,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, D: Directory> Window<'a, D> {
    fn new(directory: &'a D, name: &'a str) -> Self {
        Window { directory, name, start: 0, bytes: Vec::new() }
    }

    /// Up to `length` bytes from `offset` on; fewer at the end of the file.
    fn at(&mut self, offset: u64, length: usize) -> Result<&[u8], WalError> {
        let held = offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            self.bytes.resize(WINDOW_BYTES, 0);
            let count = self.directory.read_at(self.name, offset, &mut self.bytes)?;
            self.bytes.truncate(count);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        let until = (from + length).min(self.bytes.len());
        Ok(self.bytes.get(from..until).unwrap_or_default())
    }

    fn crc32c(&mut self, offset: u64, record: &Record) -> Result<u32, WalError> {
        let mut at = offset + RECORD_HEADER_BYTES as u64;
        let end = at + u64::from(record.payload_bytes);
        let mut crc = 0;
        while at < end {
            let piece = self.at(at, ((end - at) as usize).min(WINDOW_BYTES / 4))?;
            if piece.is_empty() {
                break;
            }
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
        }
        Ok(crc)
    }
}
