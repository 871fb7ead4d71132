//! A snapshot on its way to the disk: a slice at a time into a file of a passing name, which then takes its place in one step.
//!
//! ```text
//!   remove snapshot.new, create it, write slice after slice, sync, close, rename to its name, sync the directory
//!   -> it counts: the log before it is free -> remove the older ones
//! ```
//!
//! Wherever that ends, the newest whole snapshot under its own name and the log after it are all there.

use super::{Completion, Fault, OpOf, Purpose, Wal, image, names};
use crate::id::{Nanos, nanos_of};
use crate::log::{ReceivedSnapshot, state_hash};
use crate::storage::device::{BLOCK_BYTES, Buffer, Device, DeviceError, Done, Op};

/// So often is the time between two tries doubled, at most.
const RETRY_DOUBLINGS: u32 = 5;

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There was no room: begins again.
    Wait,
    RemoveNew,
    Create,
    /// The slice of the file that begins here.
    Write(u64),
    Sync,
    Close,
    Rename,
    SyncDirectory,
    RemoveOld,
}

#[derive(Debug)]
struct Job<F> {
    snapshot: ReceivedSnapshot,
    hash: u64,
    /// It replaces the log: no record is written before it counts.
    installs: bool,
    /// Of the entry bytes counted since the last one, so many are in it.
    covers_bytes: u64,
    step: Step,
    file: Option<F>,
}

#[derive(Debug)]
pub(super) struct Saver<F, B> {
    job: Option<Job<F>>,
    /// Replaces the log, and waits for the one under way.
    next: Option<ReceivedSnapshot>,
    buffer: Option<B>,
    /// Snapshots on the disk, the newest that counts excepted once there is one of this life.
    old: Vec<String>,
    kept: Option<String>,
    pub(super) not_before: Nanos,
    /// Tries in a row for which there was no room.
    refused: u32,
}

impl<F: Copy, B> Saver<F, B> {
    pub(super) fn new(buffer: B, known: Vec<String>) -> Self {
        Saver {
            job: None,
            next: None,
            buffer: Some(buffer),
            old: known,
            kept: None,
            not_before: Nanos::ZERO,
            refused: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.job.is_none() && self.next.is_none()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.step == Step::Wait)
    }

    pub(super) fn holds_writes(&self) -> bool {
        self.next.is_some() || self.job.as_ref().is_some_and(|job| job.installs)
    }
}

impl<D: Device> Wal<D> {
    pub(super) fn install_snapshot(&mut self, snapshot: &ReceivedSnapshot) {
        self.saver.next = Some(snapshot.clone());
        self.forget_seal();
        self.end = snapshot.index;
        self.begin_save();
    }

    pub(super) fn save_snapshot(&mut self, snapshot: ReceivedSnapshot, hash: u64) {
        if self.saver.is_idle() && snapshot.index > self.saved && !self.failed {
            let covers_bytes = self.unsaved_bytes;
            let (installs, step, file) = (false, Step::RemoveNew, None);
            self.saver.job = Some(Job { snapshot, hash, installs, covers_bytes, step, file });
            self.save_step();
        }
    }

    /// Begins with what replaces the log, once nothing else is on its way.
    pub(super) fn begin_save(&mut self) {
        // Records on their way belong to the log before: what they say is void, but they must not come after.
        if self.saver.job.is_some() || !self.flights.is_empty() || !self.ready || self.failed {
            return;
        }
        if let Some(snapshot) = self.saver.next.take() {
            let hash = state_hash(&snapshot.bytes);
            let covers_bytes = self.unsaved_bytes;
            let (installs, step, file) = (true, Step::RemoveNew, None);
            self.saver.job = Some(Job { snapshot, hash, installs, covers_bytes, step, file });
            self.save_step();
        }
    }

    pub(super) fn retry_save(&mut self) {
        if self.saver.is_waiting() && self.now >= self.saver.not_before {
            if let Some(job) = &mut self.saver.job {
                job.step = Step::RemoveNew;
            }
            self.save_step();
        }
        self.begin_save();
    }

    fn save_step(&mut self) {
        if let Some(op) = self.save_op() {
            self.begin(Purpose::Save, op);
        }
    }

    fn save_op(&mut self) -> Option<OpOf<D>> {
        let (cluster, salt, slice_bytes) =
            (self.superblock.cluster.unwrap_or_default(), self.superblock.salt, self.settings.slice_bytes);
        let saver = &mut self.saver;
        let job = saver.job.as_mut()?;
        let new = || names::NEW_SNAPSHOT.to_owned();
        Some(match job.step {
            Step::Wait => return None,
            Step::RemoveNew => Op::Remove { name: new() },
            Step::Create => Op::Create { name: new(), bytes: image::file_bytes(job.snapshot.bytes.len()) },
            Step::Write(offset) => {
                let mut buffer = saver.buffer.take()?;
                let left = image::file_bytes(job.snapshot.bytes.len()) - offset;
                let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(slice_bytes);
                buffer.set_bytes(bytes);
                fill(&job.snapshot, offset, &mut buffer);
                if offset == 0 {
                    image::encode(&job.snapshot, cluster, job.hash, salt, &mut buffer[..BLOCK_BYTES]);
                }
                Op::Write { file: job.file?, offset, buffer }
            }
            Step::Sync => Op::Sync { file: job.file? },
            Step::Close => Op::Close { file: job.file? },
            Step::Rename => Op::Rename { from: new(), to: names::snapshot(job.snapshot.index, job.snapshot.term) },
            Step::SyncDirectory => Op::SyncDirectory,
            Step::RemoveOld => Op::Remove { name: saver.old.pop()? },
        })
    }

    pub(super) fn save_done(&mut self, result: Result<Done<D::File>, DeviceError>, buffer: Option<D::Buffer>) {
        if buffer.is_some() {
            self.saver.buffer = buffer;
        }
        let slice_bytes = self.settings.slice_bytes as u64;
        let skips_sync = self.has(Fault::SkipDirectorySync);
        let Some(job) = &mut self.saver.job else { return };
        let whole = image::file_bytes(job.snapshot.bytes.len());
        job.step = match (job.step, result) {
            (Step::RemoveNew, Ok(_) | Err(DeviceError::NotFound)) => Step::Create,
            (Step::Create, Ok(Done::Opened(file))) => {
                job.file = Some(file);
                Step::Write(0)
            }
            (Step::Create | Step::Write(_) | Step::Sync, Err(DeviceError::NoSpace)) => return self.no_room_to_save(),
            (Step::Write(offset), Ok(_)) if offset + slice_bytes < whole => Step::Write(offset + slice_bytes),
            (Step::Write(_), Ok(_)) => Step::Sync,
            (Step::Sync, Ok(_)) => Step::Close,
            (Step::Close, Ok(_)) => Step::Rename,
            (Step::Rename, Ok(_)) if skips_sync => return self.saved_now(),
            (Step::Rename, Ok(_)) => Step::SyncDirectory,
            (Step::SyncDirectory, Ok(_)) => return self.saved_now(),
            (Step::RemoveOld, Ok(_) | Err(DeviceError::NotFound)) => return self.remove_old(),
            (_, Err(error)) => return self.fail(&error),
            (_, Ok(_)) => Step::Wait,
        };
        self.save_step();
    }

    fn no_room_to_save(&mut self) {
        // Each try costs the replica a copy of its state, during which it applies nothing.
        let retry_ns = nanos_of(self.settings.retry).max(1) << self.saver.refused.min(RETRY_DOUBLINGS);
        self.saver.refused += 1;
        self.saver.not_before = self.now.after(retry_ns);
        match &mut self.saver.job {
            // The log before it is gone from memory: there is no going back.
            Some(job) if job.installs => {
                job.step = Step::Wait;
                self.set_full(true);
            }
            _ => self.saver.job = None,
        }
    }

    fn saved_now(&mut self) {
        let Some(job) = &mut self.saver.job else { return };
        let (index, installs) = (job.snapshot.index, job.installs);
        let name = names::snapshot(index, job.snapshot.term);
        job.installs = false;
        self.saver.refused = 0;
        self.saver.old.extend(self.saver.kept.replace(name.clone()));
        self.saver.old.retain(|old| *old != name);
        self.saved = self.saved.max(index);
        self.unsaved_bytes = self.unsaved_bytes.saturating_sub(job.covers_bytes);
        if installs {
            tracing::info!(%index, "a received snapshot is on the disk");
        }
        self.completions.push_back(Completion::Saved(index));
        self.counters.snapshots += 1;
        self.want_spare();
        self.remove_old();
    }

    fn remove_old(&mut self) {
        match &mut self.saver.job {
            Some(job) if !self.saver.old.is_empty() => {
                job.step = Step::RemoveOld;
                self.save_step();
            }
            _ => {
                self.saver.job = None;
                self.begin_save();
            }
        }
    }
}

/// Fills a slice of the file; the header's block is left to the caller.
fn fill(snapshot: &ReceivedSnapshot, offset: u64, slice: &mut [u8]) {
    let header = BLOCK_BYTES as u64;
    let place = if offset == 0 { slice.get_mut(BLOCK_BYTES..).unwrap_or_default() } else { slice };
    let from = usize::try_from(offset.max(header) - header).unwrap_or(usize::MAX);
    let rest = snapshot.bytes.get(from..).unwrap_or_default();
    let count = rest.len().min(place.len());
    place[..count].copy_from_slice(&rest[..count]);
    place[count..].fill(0);
}
