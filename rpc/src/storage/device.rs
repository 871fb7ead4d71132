//! The runtime's disk as the device below Raft's log: two seams that know nothing of each other, joined.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};
use trimaran_raft::device::{Buffer, Device, DeviceCompletion, DeviceError, Directory, Done, Op};
use trimaran_runtime::disk::{self, Writes};
use trimaran_runtime::{Aligned, Disk, DiskError, FileId, Ticket};

/// A node's disk. Clones are the same disk.
#[derive(Clone)]
pub struct NodeDisk(Disk);

impl NodeDisk {
    /// The directory of this disk.
    pub fn new(disk: Disk) -> Self {
        NodeDisk(disk)
    }

    /// How it is driven, for those who operate it.
    pub fn describe(&self) -> String {
        self.0.describe()
    }
}

impl fmt::Debug for NodeDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeDisk({})", self.describe())
    }
}

/// A buffer of the disk's.
#[derive(Debug)]
pub struct DiskBuffer(Aligned);

impl Deref for DiskBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for DiskBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Buffer for DiskBuffer {
    fn set_bytes(&mut self, bytes: usize) {
        self.0.set_bytes(bytes);
    }
}

impl Directory for NodeDisk {
    fn list(&self) -> Result<Vec<(String, u64)>, DeviceError> {
        let entries = self.0.list().map_err(device_error)?;
        Ok(entries.into_iter().map(|entry| (entry.name, entry.bytes)).collect())
    }

    fn read_at(&self, name: &str, offset: u64, place: &mut [u8]) -> Result<usize, DeviceError> {
        self.0.read_at(name, offset, place).map_err(device_error)
    }
}

impl Device for NodeDisk {
    type Ticket = Ticket;
    type File = FileId;
    type Buffer = DiskBuffer;

    fn buffer(&mut self, bytes: usize) -> DiskBuffer {
        DiskBuffer(Aligned::zeroed(bytes))
    }

    fn writes_are_durable(&self) -> bool {
        self.0.writes() == Writes::Durable
    }

    fn submit(&mut self, op: Op<FileId, DiskBuffer>) -> Result<Ticket, Op<FileId, DiskBuffer>> {
        self.0.submit(to_disk(op)).map_err(|disk::Full(op)| to_raft(op))
    }

    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<DeviceCompletion<Ticket, FileId, DiskBuffer>> {
        self.0.poll_completion(cx).map(|disk::Completion { ticket, result, buffer }| DeviceCompletion {
            ticket,
            result: result.map(done).map_err(device_error),
            buffer: buffer.map(DiskBuffer),
        })
    }
}

fn done(done: disk::Done) -> Done<FileId> {
    match done {
        disk::Done::Opened { file, .. } => Done::Opened(file),
        disk::Done::Read { .. } | disk::Done::Finished => Done::Finished,
    }
}

fn device_error(error: DiskError) -> DeviceError {
    match error {
        DiskError::NoSpace => DeviceError::NoSpace,
        DiskError::NotFound => DeviceError::NotFound,
        DiskError::Exists => DeviceError::Exists,
        error => DeviceError::Failed(error.to_string()),
    }
}

fn to_disk(op: Op<FileId, DiskBuffer>) -> disk::Op {
    match op {
        Op::Create { name, bytes } => disk::Op::Create { name, bytes },
        Op::Open { name } => disk::Op::Open { name },
        Op::Write { file, offset, buffer } => disk::Op::Write { file, offset, buffer: buffer.0 },
        Op::Sync { file } => disk::Op::Sync { file },
        Op::SyncDirectory => disk::Op::SyncDirectory,
        Op::Rename { from, to } => disk::Op::Rename { from, to },
        Op::Remove { name } => disk::Op::Remove { name },
        Op::Close { file } => disk::Op::Close { file },
    }
}

/// What [`to_disk`] has made, taken back. A log never reads through the device, so there is no read to take back.
fn to_raft(op: disk::Op) -> Op<FileId, DiskBuffer> {
    match op {
        disk::Op::Create { name, bytes } => Op::Create { name, bytes },
        disk::Op::Open { name } => Op::Open { name },
        disk::Op::Write { file, offset, buffer } | disk::Op::Read { file, offset, buffer } => {
            Op::Write { file, offset, buffer: DiskBuffer(buffer) }
        }
        disk::Op::Sync { file } => Op::Sync { file },
        disk::Op::SyncDirectory => Op::SyncDirectory,
        disk::Op::Rename { from, to } => Op::Rename { from, to },
        disk::Op::Remove { name } => Op::Remove { name },
        disk::Op::Close { file } => Op::Close { file },
    }
}
