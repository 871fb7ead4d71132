//! The log on a disk: a write-ahead log with group commit, and snapshots that keep it short.
//!
//! ```text
//!   superblock            whose disk this is, twice                                      wal/superblock.rs
//!   log-00000000 ..       files of one size, made once and used again and again:         wal/files.rs
//!     | record | record | record | ..    each of whole blocks, never written over        wal/record.rs
//!   snapshot-INDEX-TERM   the state from which the records are replayed                   wal/image.rs, wal/saver.rs
//! ```
//!
//! What a turn has to write is one record. While it is under way, the next turns begin further ones, up to a window; what comes up
//! while the window is full becomes one record when it opens: groups form by themselves. Records complete in any order and
//! count in their own: an acknowledgement covers those that are durable without a gap.
//!
//! A file is used again once a snapshot on the disk holds all that its records say. Where no further file can be had, the rest of
//! the one in use is kept for the entries without which nothing moves: proposals are refused, and reads go on.
//!
//! `wal/recovery.rs` finds out, after a start, what the node was.

mod chores;
mod counters;
mod data;
mod files;
mod identity;
mod image;
mod map;
mod names;
mod record;
mod recovery;
mod report;
mod saver;
mod scan;
mod superblock;

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use super::device::{BLOCK_BYTES, Device, DeviceCompletion, DeviceError, Op};
use super::{Completion, Storage, Write};
use crate::id::{ClusterId, Incarnation, LogIndex, Nanos, NodeId, ShardId, Slot, Term, nanos_of};
use crate::log::{Log, ReceivedSnapshot};
use crate::sabotage::{Fault, Sabotage};

use chores::Chore;
use data::Flight;
use files::Files;
use recovery::Resume;
use saver::Saver;
use superblock::Superblock;

pub use counters::WalCounters;
pub use identity::{Identity, identify};
pub use map::{Map, RecordPlace};
pub use recovery::{Recovered, Recovery, recover, recover_with};
pub use report::Report;

/// What an acknowledgement of this node survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Durability {
    /// The loss of power: a write counts once it is on the device.
    Durable = 0,
    /// The end of the process: a write counts once the kernel has it, and is on the device a while later.
    Buffered = 1,
}

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSettings {
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// Bytes of one file of the log; whole blocks, at least two records.
    pub file_bytes: u64,
    /// Files at most: beyond that proposals are refused until a snapshot is saved. Those with records beyond the end of the log, as
    /// damage leaves them, are not counted, and a start always gets one more: it cannot go on in an earlier life's.
    pub files_max: usize,
    /// Bytes of one record at most; whole blocks. More than the largest entry, else that is never written.
    pub record_bytes: usize,
    /// Records under way at most. Each has a buffer of `record_bytes`.
    pub window: usize,
    /// A snapshot is asked for after so many bytes of entries; before the budget of the log in memory ([`crate::Limits::log_bytes`]) is used up
    /// in any case.
    pub snapshot_every_bytes: u64,
    /// Bytes of a snapshot written at once; whole blocks.
    pub slice_bytes: usize,
    /// A write that takes longer says that the device has stalled.
    pub stall: Duration,
    /// Between two attempts where there was no room.
    pub retry: Duration,
    /// `Buffered`: between a write and its way to the device.
    pub sync_every: Duration,
    /// `Buffered`: names this run of the machine, as the kernel does; 0 where it is not known.
    pub boot: u128,
    /// `Durable`: a log that has nothing to write for so long says its end once more, so that rot of the newest record is noticed.
    pub seal: Duration,
    /// Rules broken on purpose; empty without the feature `sabotage`.
    pub sabotage: Sabotage,
}

impl Default for WalSettings {
    /// 16 files of 32 MiB, 16 records of 2 MiB under way, a snapshot every 64 MiB, a stall after 100 ms.
    fn default() -> Self {
        WalSettings {
            durability: Durability::Durable,
            file_bytes: 32 << 20,
            files_max: 16,
            record_bytes: 2 << 20,
            window: 16,
            snapshot_every_bytes: 64 << 20,
            slice_bytes: 256 << 10,
            stall: Duration::from_millis(100),
            retry: Duration::from_millis(100),
            sync_every: Duration::from_millis(50),
            boot: 0,
            seal: Duration::from_millis(250),
            sabotage: Sabotage::NONE,
        }
    }
}

/// Whose disk is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// The seat.
    pub slot: Slot,
    /// The group.
    pub shard: ShardId,
    /// The cluster, where it is known.
    pub cluster: Option<ClusterId>,
    /// This run of the machine, see [`WalSettings::boot`].
    pub boot: u128,
    /// What [`Wal::set_witness`] was told last in this run of the machine.
    pub witness: Option<u64>,
}

/// A new life on an empty directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// This node, with a fresh incarnation.
    pub id: NodeId,
    /// The group.
    pub shard: ShardId,
    /// A random number that never leaves the disk.
    pub salt: u64,
}

/// Why a directory is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The device failed.
    #[error("the disk cannot be read: {0}")]
    Device(#[from] DeviceError),
    /// Written by an older or newer build.
    #[error("the disk has format {found}; this build reads format {known} only")]
    Format {
        /// The format found.
        found: u32,
        /// The one known here.
        known: u32,
    },
    /// Neither copy of the superblock is whole.
    #[error("neither copy of the superblock is whole: whose disk this is cannot be told")]
    SuperblockDamaged,
    /// There are files of a log, and no superblock.
    #[error("there is {name}, but no superblock: files are missing")]
    NoSuperblock {
        /// One of the files.
        name: String,
    },
    /// The disk of another seat.
    #[error("this is the disk of the node in slot {}, not of slot {}", .found.0, .expected.0)]
    AnotherSlot {
        /// Whose it is.
        found: Slot,
        /// Who wants to use it.
        expected: Slot,
    },
    /// The disk of another group.
    #[error("this is the disk of shard {}, not of shard {}", .found.0, .expected.0)]
    AnotherShard {
        /// Whose it is.
        found: ShardId,
        /// Who wants to use it.
        expected: ShardId,
    },
    /// The disk of another cluster, or files of two.
    #[error("this is the disk of cluster {found}, not of cluster {expected}")]
    AnotherCluster {
        /// Whose it is.
        found: ClusterId,
        /// Which was expected, or named elsewhere on the disk.
        expected: ClusterId,
    },
    /// A record of another node.
    #[error("a record of incarnation {:x} is on the disk of {own}: files of two nodes are mixed", .found.0)]
    AnotherNode {
        /// Whose it is.
        found: Incarnation,
        /// Whose disk it is.
        own: NodeId,
    },
    /// Less is on the disk than was acknowledged in this run of the machine.
    #[error(
        "record {witness} was acknowledged, but the disk reaches record {reached} only: an older image was put back"
    )]
    RolledBack {
        /// The newest record found.
        reached: u64,
        /// The newest acknowledged.
        witness: u64,
    },
}

/// What an operation under way is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The write of this record.
    Record(u64),
    /// Making the records of this file durable.
    Sync(usize),
    /// What keeps the files in order.
    Chore,
    /// The snapshot.
    Save,
}

type OpOf<D> = Op<<D as Device>::File, <D as Device>::Buffer>;

/// A log on a device. See the module.
pub struct Wal<D: Device> {
    device: D,
    settings: WalSettings,
    superblock: Superblock,
    superblock_file: Option<D::File>,
    now: Nanos,
    /// Ready to write: the directory is in order.
    ready: bool,
    failed: bool,
    stalled: bool,
    full: bool,
    /// Not before this time is anything tried again for which there was no room.
    retry_at: Nanos,
    /// Operations that wait for the device, and those it has.
    waiting: VecDeque<(Purpose, OpOf<D>)>,
    under_way: Vec<(D::Ticket, Purpose, Nanos)>,

    buffers: Vec<D::Buffer>,
    flights: VecDeque<Flight>,
    next_sequence: u64,
    /// The record written last, and its hash.
    previous: (u64, u64),
    /// All records up to this one are durable.
    durable: u64,
    /// The last entry of the log as written.
    end: LogIndex,
    /// What the log once reached, until it does again: each record says so.
    fence: Option<(Term, LogIndex)>,
    /// What was written last, and when it is to be said again.
    last_write: Option<Write>,
    seal_at: Option<Nanos>,
    files: Files<D::File>,
    /// `Buffered`: when the oldest write that is not on the device was done.
    unsynced_since: Option<Nanos>,

    chores: VecDeque<Chore>,
    chore_under_way: bool,
    chore_buffer: Option<D::Buffer>,
    saver: Saver<D::File, D::Buffer>,
    /// The newest snapshot that is durable, and entry bytes since.
    saved: LogIndex,
    unsaved_bytes: u64,

    completions: VecDeque<Completion>,
    counters: WalCounters,
    witness: Option<Box<dyn FnMut(u64)>>,
    closing: bool,
}

impl<D: Device> fmt::Debug for Wal<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Wal");
        out.field("durable", &self.durable).field("ready", &self.ready).field("saved", &self.saved);
        out.field("failed", &self.failed).field("full", &self.full).finish_non_exhaustive()
    }
}

impl<D: Device> Wal<D> {
    /// Begins a life in a directory that is empty, or whose life is over: `left` is what [`super::device::Directory::list`] says of it,
    /// and what earlier lives wrote means nothing from then on. Nothing is acknowledged before the directory is in order.
    pub fn create(device: D, settings: WalSettings, fresh: Fresh, left: &[(String, u64)], now: Nanos) -> Wal<D> {
        let superblock = Superblock {
            generation: 0,
            id: fresh.id,
            shard: fresh.shard,
            salt: fresh.salt,
            cluster: None,
            durability: settings.durability,
            clean: false,
            boot: settings.boot,
        };
        let resume = Resume::fresh(superblock, left);
        let mut wal = Wal::with(device, settings, resume, now);
        wal.chores.extend(Chore::FORMAT);
        wal.begin_chores();
        wal
    }

    /// Goes on with a life that was recovered from this device.
    pub fn resume(device: D, settings: WalSettings, recovered: &Recovered, now: Nanos) -> Wal<D> {
        let mut wal = Wal::with(device, settings, recovered.resume.clone(), now);
        wal.superblock.clean = false;
        wal.superblock.durability = settings.durability;
        wal.superblock.boot = settings.boot;
        wal.superblock.cluster = wal.superblock.cluster.or(recovered.cluster);
        wal.end = recovered.log.last();
        wal.fence = recovered.fence;
        if let Some(cluster) = recovered.cluster
            && settings.durability == Durability::Durable
        {
            let (hard, to, to_term) = (recovered.hard, recovered.log.last(), recovered.log.last_term());
            wal.last_write = Some(Write { cluster, hard, from: to.next(), to, to_term });
            wal.seal_at = Some(now.after(nanos_of(settings.seal)));
        }
        wal.chores.extend(Chore::REOPEN);
        wal.begin_chores();
        wal
    }

    fn with(mut device: D, settings: WalSettings, resume: Resume, now: Nanos) -> Wal<D> {
        let window = settings.window.max(1);
        let buffers = (0..window).map(|_| device.buffer(settings.record_bytes)).collect();
        let chore_buffer = Some(device.buffer(superblock::BYTES));
        let saver = Saver::new(device.buffer(settings.slice_bytes), resume.snapshots);
        Wal {
            device,
            settings,
            superblock: resume.superblock,
            superblock_file: None,
            now,
            ready: false,
            failed: false,
            stalled: false,
            full: false,
            retry_at: Nanos::ZERO,
            waiting: VecDeque::with_capacity(window + 4),
            under_way: Vec::with_capacity(window + 4),
            buffers,
            flights: VecDeque::with_capacity(window),
            next_sequence: resume.next_sequence,
            previous: resume.last,
            durable: resume.last.0,
            end: LogIndex::ZERO,
            fence: None,
            last_write: None,
            seal_at: None,
            files: Files::new(&resume.files, resume.newest_file),
            unsynced_since: None,
            chores: VecDeque::new(),
            chore_under_way: false,
            chore_buffer,
            saver,
            saved: resume.saved,
            unsaved_bytes: resume.unsaved_bytes,
            completions: VecDeque::with_capacity(8),
            counters: WalCounters::default(),
            witness: None,
            closing: false,
        }
    }

    /// Has `witness` told the number of the newest record that is about to be acknowledged, before it is. What keeps it must survive
    /// the end of the process, and may go with the power: [`Expected::witness`] of the next start.
    pub fn set_witness(&mut self, witness: impl FnMut(u64) + 'static) {
        self.witness = Some(Box::new(witness));
    }

    /// Looks at the device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Looks at the device, and may change it.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// What it has done since its start.
    pub fn counters(&self) -> WalCounters {
        WalCounters { under_way: self.flights.len() as u64, file_bytes: self.file_bytes(), ..self.counters }
    }

    fn has(&self, fault: Fault) -> bool {
        self.settings.sabotage.has(fault)
    }

    fn begin(&mut self, purpose: Purpose, op: OpOf<D>) {
        self.waiting.push_back((purpose, op));
        self.submit();
    }

    fn submit(&mut self) {
        while let Some((purpose, op)) = self.waiting.pop_front() {
            match self.device.submit(op) {
                Ok(ticket) => self.under_way.push((ticket, purpose, self.now)),
                Err(op) => return self.waiting.push_front((purpose, op)),
            }
        }
    }

    fn fail(&mut self, error: &DeviceError) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::error!(node = %self.superblock.id, %error, "the log device failed");
            self.completions.push_back(Completion::Failed);
        }
    }

    fn set_full(&mut self, full: bool) {
        if self.has(Fault::NoDiskReserve) && self.files.blocks_left() > 0 {
            return;
        }
        if std::mem::replace(&mut self.full, full) != full {
            self.completions.push_back(Completion::Full(full));
            self.counters.full += u64::from(full);
        }
        if full {
            self.retry_at = self.now.after(nanos_of(self.settings.retry).max(1));
        }
    }

    fn completed(&mut self, completion: DeviceCompletion<D::Ticket, D::File, D::Buffer>) {
        let DeviceCompletion { ticket, result, buffer } = completion;
        let Some(at) = self.under_way.iter().position(|(known, ..)| *known == ticket) else { return };
        let (_, purpose, _) = self.under_way.swap_remove(at);
        match purpose {
            Purpose::Record(sequence) => self.record_written(sequence, result.map(|_| ()), buffer),
            Purpose::Sync(file) => self.file_synced(file, result.map(|_| ())),
            Purpose::Chore => self.chore_done(result, buffer),
            Purpose::Save => self.save_done(result, buffer),
        }
        self.look_for_stall();
        self.begin_save();
        self.submit();
    }

    /// The oldest operation that acknowledgements wait for.
    fn oldest(&self) -> Option<Nanos> {
        let data = |purpose: &Purpose| matches!(purpose, Purpose::Record(_) | Purpose::Sync(_));
        self.under_way.iter().filter(|(_, purpose, _)| data(purpose)).map(|(.., begun)| *begun).min()
    }

    fn look_for_stall(&mut self) {
        let stall_ns = nanos_of(self.settings.stall);
        let stalled = self.oldest().is_some_and(|begun| self.now.since(begun) >= stall_ns);
        if !self.failed && std::mem::replace(&mut self.stalled, stalled) != stalled {
            self.completions.push_back(Completion::Stalled(stalled));
            self.counters.stalls += u64::from(stalled);
        }
    }
}

impl<D: Device> Storage for Wal<D> {
    fn write(&mut self, write: Write, log: &Log) {
        self.write_record(write, log);
    }

    fn room_bytes(&self) -> u64 {
        self.record_room()
    }

    fn install(&mut self, cluster: ClusterId, snapshot: &ReceivedSnapshot) {
        self.learn_cluster(cluster);
        self.install_snapshot(snapshot);
    }

    fn reads_back(&self) -> bool {
        true
    }

    fn wants_snapshot(&self, applied: LogIndex, pressed: bool) -> bool {
        let room = self.files.in_use(self.saved) * 2 > self.settings.files_max || self.full;
        // What was written while the last one was saved counts as in it, even if it is not.
        let due = pressed
            || self.unsaved_bytes >= self.settings.snapshot_every_bytes
            || room && (self.unsaved_bytes > 0 || self.full);
        self.ready
            && !self.failed
            && due
            && applied > self.saved
            && self.saver.is_idle()
            && self.now >= self.saver.not_before
    }

    fn save(&mut self, snapshot: ReceivedSnapshot, state_hash: u64) {
        self.save_snapshot(snapshot, state_hash);
    }

    fn trim(&mut self, _to: LogIndex) {}

    fn tick(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        self.look_for_stall();
        if self.full && self.now >= self.retry_at {
            self.retry_at = self.now.after(nanos_of(self.settings.retry).max(1));
            match self.files.has_spare() {
                // What was in use when it was made may be saved by now.
                true => self.set_full(self.files.in_use(self.saved) >= self.files_max()),
                false => self.want_spare(),
            }
        }
        self.retry_save();
        self.sync_now_and_then();
        self.seal();
    }

    fn next_deadline(&self) -> Nanos {
        if self.failed {
            return Nanos::FAR;
        }
        let stall = self.oldest().filter(|_| !self.stalled).map(|begun| begun.after(nanos_of(self.settings.stall)));
        let sync = self.unsynced_since.map(|since| since.after(nanos_of(self.settings.sync_every)));
        let retry = self.full.then_some(self.retry_at);
        let save = self.saver.is_waiting().then_some(self.saver.not_before);
        let seal = self.seal_at.filter(|_| !self.full && self.record_room() > 0);
        [stall, sync, retry, save, seal].into_iter().flatten().min().unwrap_or(Nanos::FAR)
    }

    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        loop {
            if let Some(completion) = self.completions.pop_front() {
                return Poll::Ready(completion);
            }
            match self.device.poll_completion(cx) {
                Poll::Ready(completion) => self.completed(completion),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Bytes in blocks.
fn bytes_of(blocks: u32) -> u64 {
    u64::from(blocks) * BLOCK_BYTES as u64
}
