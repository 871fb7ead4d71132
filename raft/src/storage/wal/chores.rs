//! What keeps the directory in order, one operation after the other: the superblock, and the next file of the log.

use super::files::Next;
use super::superblock::{self, Superblock};
use super::{Fault, OpOf, Purpose, Wal, bytes_of, names};
use crate::id::ClusterId;
use crate::storage::device::{BLOCK_BYTES, Buffer, Device, DeviceError, Done, Op};

/// One operation, or what follows from those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chore {
    RemoveNew,
    CreateNew,
    WriteNew,
    SyncNew,
    CloseNew,
    RenameNew,
    SyncDirectory,
    OpenSuperblock,
    WriteSuperblock,
    SyncSuperblock,
    RemoveNewSnapshot,
    Ready,
    CreateLog(u32),
    OpenLog(usize),
    Spare(usize),
}

impl Chore {
    /// A new superblock takes the place of whatever there was, in one step.
    pub(super) const FORMAT: [Chore; 9] = [
        Chore::RemoveNew,
        Chore::CreateNew,
        Chore::WriteNew,
        Chore::SyncNew,
        Chore::CloseNew,
        Chore::RenameNew,
        Chore::SyncDirectory,
        Chore::OpenSuperblock,
        Chore::Ready,
    ];
    /// The clean flag goes before anything is acknowledged.
    pub(super) const REOPEN: [Chore; 6] = [
        Chore::RemoveNew,
        Chore::RemoveNewSnapshot,
        Chore::OpenSuperblock,
        Chore::WriteSuperblock,
        Chore::SyncSuperblock,
        Chore::Ready,
    ];
    pub(super) const REWRITE: [Chore; 2] = [Chore::WriteSuperblock, Chore::SyncSuperblock];
}

impl<D: Device> Wal<D> {
    pub(super) fn begin_chores(&mut self) {
        while !self.chore_under_way && !self.failed {
            let Some(chore) = self.chores.front().copied() else { return };
            match chore {
                Chore::Ready => {
                    self.chores.pop_front();
                    self.ready = true;
                    self.want_spare();
                }
                Chore::Spare(at) => {
                    self.chores.pop_front();
                    self.files.make_spare(at);
                    self.set_full(self.files.in_use(self.saved) >= self.files_max());
                    if self.files.blocks_left() == 0 {
                        self.files.switch();
                        self.want_spare();
                    }
                }
                _ if self.skips(chore) => drop(self.chores.pop_front()),
                _ => match self.chore_op(chore) {
                    Some(op) => {
                        self.chore_under_way = true;
                        self.begin(Purpose::Chore, op);
                    }
                    None => drop(self.chores.pop_front()),
                },
            }
        }
    }

    fn skips(&self, chore: Chore) -> bool {
        match chore {
            Chore::SyncDirectory => self.has(Fault::SkipDirectorySync),
            Chore::SyncSuperblock => !self.ready && self.has(Fault::AcknowledgeWhileClean),
            _ => false,
        }
    }

    fn chore_op(&mut self, chore: Chore) -> Option<OpOf<D>> {
        let new = || superblock::NEW_NAME.to_owned();
        Some(match chore {
            Chore::RemoveNew => Op::Remove { name: new() },
            Chore::CreateNew => Op::Create { name: new(), bytes: superblock::BYTES as u64 },
            Chore::WriteNew => {
                let mut buffer = self.chore_buffer.take()?;
                buffer.set_bytes(superblock::BYTES);
                let (first, second) = buffer.split_at_mut(BLOCK_BYTES);
                self.superblock.encode(first);
                Superblock { generation: self.superblock.generation + 1, ..self.superblock }.encode(second);
                self.superblock.generation += 1;
                Op::Write { file: self.superblock_file?, offset: 0, buffer }
            }
            Chore::SyncNew | Chore::SyncSuperblock => Op::Sync { file: self.superblock_file? },
            Chore::CloseNew => Op::Close { file: self.superblock_file? },
            Chore::RenameNew => Op::Rename { from: new(), to: superblock::NAME.to_owned() },
            Chore::SyncDirectory => Op::SyncDirectory,
            Chore::OpenSuperblock => Op::Open { name: superblock::NAME.to_owned() },
            Chore::WriteSuperblock => {
                let file = self.superblock_file?;
                let mut buffer = self.chore_buffer.take()?;
                buffer.set_bytes(BLOCK_BYTES);
                self.superblock.generation += 1;
                self.superblock.encode(&mut buffer);
                Op::Write { file, offset: self.superblock.offset(), buffer }
            }
            Chore::RemoveNewSnapshot => Op::Remove { name: names::NEW_SNAPSHOT.to_owned() },
            Chore::CreateLog(number) => Op::Create { name: names::log(number), bytes: self.settings.file_bytes },
            Chore::OpenLog(at) => Op::Open { name: names::log(self.files.number(at)) },
            Chore::Ready | Chore::Spare(_) => return None,
        })
    }

    pub(super) fn chore_done(&mut self, result: Result<Done<D::File>, DeviceError>, buffer: Option<D::Buffer>) {
        if buffer.is_some() {
            self.chore_buffer = buffer;
        }
        self.chore_under_way = false;
        let Some(chore) = self.chores.pop_front() else { return };
        match (chore, result) {
            (Chore::CreateNew | Chore::OpenSuperblock, Ok(Done::Opened(file))) => self.superblock_file = Some(file),
            (Chore::OpenLog(at), Ok(Done::Opened(file))) => self.files.opened(at, file),
            (Chore::CreateLog(number), Ok(Done::Opened(file))) => {
                let blocks = u32::try_from(self.settings.file_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
                let at = self.files.add(number, blocks, file);
                // Its name has to last before anything in it is acknowledged.
                self.chores.extend([Chore::SyncDirectory, Chore::Spare(at)]);
            }
            (Chore::RemoveNew | Chore::RemoveNewSnapshot, Err(DeviceError::NotFound)) => {}
            (Chore::CreateLog(_), Err(DeviceError::NoSpace)) => self.set_full(true),
            // A crash has left it without its name made durable; it is found by the next start.
            (_, Err(error)) => return self.fail(&error),
            (_, Ok(_)) => {}
        }
        self.begin_chores();
        self.close_when_synced();
    }

    /// Says on the disk whose it is, as soon as that is known. Nothing waits for it: records and snapshots say it as well.
    pub(super) fn learn_cluster(&mut self, cluster: ClusterId) {
        if self.superblock.cluster.is_none() {
            self.superblock.cluster = Some(cluster);
            self.chores.extend(Chore::REWRITE);
            self.begin_chores();
        }
    }

    /// Sees to the next file, where there is none and none is on its way.
    pub(super) fn want_spare(&mut self) {
        let coming = |chore: &Chore| matches!(chore, Chore::CreateLog(_) | Chore::OpenLog(_) | Chore::Spare(_));
        if !self.ready || self.failed || self.files.has_spare() || self.chores.iter().any(coming) {
            return;
        }
        let blocks = u32::try_from(self.settings.file_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        // Where not even a term can be written, nothing would ever be freed: another file is made, for that and no proposals.
        let files_max = if self.files.blocks_left() == 0 { usize::MAX } else { self.files_max() };
        match self.files.next(self.saved_up_to(), blocks, files_max) {
            Next::Used(at) if self.files.id(at).is_some() => self.chores.push_back(Chore::Spare(at)),
            Next::Used(at) => self.chores.extend([Chore::OpenLog(at), Chore::Spare(at)]),
            Next::New(number) => self.chores.push_back(Chore::CreateLog(number)),
            Next::None => self.set_full(true),
        }
        self.begin_chores();
    }

    /// Files at most. What is kept although it is cut must not keep the log from growing: it would never be as long again.
    pub(super) fn files_max(&self) -> usize {
        self.settings.files_max.max(2) + self.files.beyond(self.end)
    }

    /// Makes everything durable and says on the disk that nothing is missing. Nothing is written afterwards.
    pub fn close(&mut self) {
        self.closing = true;
        self.sync_all();
        self.close_when_synced();
    }

    /// Whether [`Wal::close`] has done its work.
    pub fn is_closed(&self) -> bool {
        self.closing && self.superblock.clean && self.chores.is_empty()
    }

    pub(super) fn close_when_synced(&mut self) {
        let idle = !self.is_writing() && self.chores.is_empty() && self.ready && !self.failed;
        if self.closing && idle && !self.superblock.clean {
            // What was written while the first sync was under way.
            if self.unsynced_since.is_some() {
                return self.sync_all();
            }
            self.superblock.clean = true;
            self.chores.extend(Chore::REWRITE);
            self.begin_chores();
        }
    }

    /// Bytes of the files of the log.
    pub fn file_bytes(&self) -> u64 {
        let blocks = u32::try_from(self.settings.file_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        bytes_of(blocks) * self.files.in_use(self.saved) as u64
    }
}
