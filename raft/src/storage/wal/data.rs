//! Records on their way: begun in order, completed in any, counted in order again.

use super::record::{self, Place, RECORD_HEADER_BYTES, Record};
use super::{Completion, Durability, Fault, Purpose, Wal, bytes_of};
use crate::id::{LogIndex, Term, nanos_of};
use crate::log::Log;
use crate::storage::Write;
use crate::storage::device::{BLOCK_BYTES, Buffer, Device, DeviceError, Op};

/// How far a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Writing,
    /// The device has it; a sync must follow.
    Written,
    /// One that covers it is under way.
    Syncing,
    Counts,
}

/// A record on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    sequence: u64,
    write: Write,
    file: usize,
    stage: Stage,
    /// It says nothing new.
    is_seal: bool,
}

impl<D: Device> Wal<D> {
    pub(super) fn record_room(&self) -> u64 {
        let idle = self.ready && !self.failed && !self.closing && !self.saver.holds_writes();
        if !idle || self.buffers.is_empty() || self.flights.len() >= self.settings.window.max(1) {
            return 0;
        }
        let left = bytes_of(self.files.blocks_left());
        let whole = self.settings.record_bytes as u64;
        let room = if left >= whole || self.files.has_spare() { whole } else { left };
        room.saturating_sub(RECORD_HEADER_BYTES as u64)
    }

    pub(super) fn write_record(&mut self, write: Write, log: &Log) {
        if self.failed {
            return;
        }
        let Some(mut buffer) = self.buffers.pop() else {
            return self.fail(&DeviceError::Failed("a write without room: a fault of the program".to_owned()));
        };
        buffer.set_bytes(self.settings.record_bytes);
        let Some(payload) = record::gather(&write, log, &mut buffer) else {
            return self.fail(&DeviceError::Failed("a write larger than its room: a fault of the program".to_owned()));
        };
        let before_term = log.term_at(write.from.prev()).unwrap_or_default();
        self.begin_record(write, before_term, payload, buffer, false);
    }

    /// Says once more what was said last, where nothing has followed for a while. The record before it then has one after it that names
    /// it: if it rots it is missed, as any other is.
    pub(super) fn seal(&mut self) {
        let due = self.seal_at.is_some_and(|at| self.now >= at);
        // Where there is no further file, what is left of this one is kept for others.
        if !due || self.full || !self.flights.is_empty() || self.record_room() == 0 {
            return;
        }
        self.seal_at = None;
        let Some(last) = self.last_write else { return };
        let Some(mut buffer) = self.buffers.pop() else { return };
        buffer.set_bytes(self.settings.record_bytes);
        let write = Write { from: last.to.next(), ..last };
        self.begin_record(write, last.to_term, (0, 0), buffer, true);
    }

    /// Nothing of the log's end is left to be said again: it begins anew.
    pub(super) fn forget_seal(&mut self) {
        (self.seal_at, self.last_write) = (None, None);
    }

    fn begin_record(
        &mut self,
        write: Write,
        before_term: Term,
        (payload_bytes, payload_crc32c): (u32, u32),
        mut buffer: D::Buffer,
        is_seal: bool,
    ) {
        let blocks = record::blocks_of(payload_bytes as usize);
        if self.files.blocks_left() < blocks {
            self.files.switch();
            self.want_spare();
        }
        let Some((file, id, place)) = self.files.take(blocks, write.to, write.to >= write.from) else {
            return self.fail(&DeviceError::Failed("a write without a file: a fault of the program".to_owned()));
        };
        let sequence = self.next_sequence;
        self.fence = self.fence.filter(|fence| *fence > (write.to_term, write.to));
        let mut record = Record {
            hash: 0,
            payload_crc32c,
            payload_bytes,
            count: (write.to.0 + 1 - write.from.0) as u32,
            cluster: write.cluster,
            incarnation: self.superblock.id.incarnation,
            sequence,
            previous: self.previous.0,
            previous_hash: self.previous.1,
            durable: self.durable,
            place,
            hard: write.hard,
            from: write.from,
            before_term,
            to_term: write.to_term,
            fence: self.fence,
        };
        record.encode(&mut buffer, self.superblock.salt);
        let used = RECORD_HEADER_BYTES + payload_bytes as usize;
        let bytes = bytes_of(blocks) as usize;
        buffer[used..bytes].fill(0);
        buffer.set_bytes(bytes);
        self.counters.records += 1;
        self.counters.record_bytes += bytes as u64;
        self.previous = (sequence, record.hash);
        self.next_sequence += 1;
        self.unsaved_bytes += u64::from(payload_bytes);
        self.learn_cluster(write.cluster);
        let early = self.has(Fault::AcknowledgeBeforeWritten);
        let stage = if early { Stage::Counts } else { Stage::Writing };
        self.flights.push_back(Flight { sequence, write, file, stage, is_seal });
        self.last_write = Some(write);
        self.end = write.to;
        self.seal_at = None;
        self.counters.under_way_max = self.counters.under_way_max.max(self.flights.len() as u64);
        let Place { block, .. } = place;
        self.begin(
            Purpose::Record(sequence),
            Op::Write { file: id, offset: u64::from(block) * BLOCK_BYTES as u64, buffer },
        );
        if early {
            self.count();
        }
    }

    pub(super) fn record_written(&mut self, sequence: u64, result: Result<(), DeviceError>, buffer: Option<D::Buffer>) {
        self.buffers.extend(buffer);
        if let Err(error) = result {
            return self.fail(&error);
        }
        let counts = self.device.writes_are_durable() || self.settings.durability == Durability::Buffered;
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.sequence == sequence) {
            flight.stage = if counts { Stage::Counts } else { Stage::Written };
            self.files.written(flight.file);
        }
        if counts {
            if !self.device.writes_are_durable() {
                self.unsynced_since.get_or_insert(self.now);
            }
            self.count();
            self.close_when_synced();
        } else {
            self.sync_written();
        }
    }

    /// One sync at a time covers all that was written before it: groups form here as well.
    fn sync_written(&mut self) {
        if self.flights.iter().any(|flight| flight.stage == Stage::Syncing) {
            return;
        }
        let Some(file) = self.flights.iter().find(|flight| flight.stage == Stage::Written).map(|flight| flight.file)
        else {
            return;
        };
        for flight in self.flights.iter_mut().filter(|flight| flight.file == file) {
            if flight.stage == Stage::Written {
                flight.stage = Stage::Syncing;
            }
        }
        if let Some(id) = self.files.id(file) {
            self.begin(Purpose::Sync(file), Op::Sync { file: id });
        }
    }

    pub(super) fn file_synced(&mut self, file: usize, result: Result<(), DeviceError>) {
        if let Err(error) = result {
            return self.fail(&error);
        }
        self.counters.syncs += 1;
        for flight in self.flights.iter_mut().filter(|flight| flight.file == file) {
            if flight.stage == Stage::Syncing {
                flight.stage = Stage::Counts;
            }
        }
        self.count();
        self.sync_written();
        self.close_when_synced();
    }

    /// Reports the longest run of records without a gap.
    fn count(&mut self) {
        if self.failed {
            return;
        }
        let mut newest = None;
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.stage == Stage::Counts) {
            self.files.counts(flight.file);
            newest = Some(flight);
        }
        let Some(Flight { sequence, write, is_seal, .. }) = newest else { return };
        self.durable = sequence;
        let skips = self.has(Fault::SkipWitness);
        if let Some(witness) = self.witness.as_mut().filter(|_| !skips) {
            witness(sequence);
        }
        // Of a seal as well: the caller may wait for the room that it took.
        self.completions.push_back(Completion::Persisted(write));
        let seals = !is_seal && self.flights.is_empty() && self.settings.durability == Durability::Durable;
        self.seal_at = seals.then(|| self.now.after(nanos_of(self.settings.seal)));
        if self.full {
            self.want_spare();
        }
    }

    /// `Buffered`: what the kernel has goes on to the device after a while.
    pub(super) fn sync_now_and_then(&mut self) {
        let due = self.unsynced_since.is_some_and(|since| self.now.since(since) >= nanos_of(self.settings.sync_every));
        if due && !self.failed {
            self.sync_all();
        }
    }

    pub(super) fn sync_all(&mut self) {
        self.unsynced_since = None;
        while let Some((file, id)) = self.files.next_unsynced() {
            self.begin(Purpose::Sync(file), Op::Sync { file: id });
        }
    }

    /// Whether a data operation or a sync is under way.
    pub(super) fn is_writing(&self) -> bool {
        let data = |purpose: &Purpose| matches!(purpose, Purpose::Record(_) | Purpose::Sync(_));
        !self.flights.is_empty() || self.under_way.iter().any(|(_, purpose, _)| data(purpose))
    }

    /// The highest index that a snapshot must reach for a file to be free.
    pub(super) fn saved_up_to(&self) -> LogIndex {
        self.saved
    }
}
