//! A directory of this machine: its open files, and who does what with them.

use crate::disk::directory::{Directory, Job, Outcome, check_name};
use crate::disk::uring::Ring;
use crate::disk::worker::{Ended, Worker};
use crate::disk::{
    Aligned, BLOCK_BYTES, Backend, Completion, DiskConfig, DiskError, Done, Engine, FileEntry, FileId, Op, Ticket,
    Writes,
};
use crate::local::Inbox;
use crate::time::Instant;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Real {
    // The order of the fields is that of their ends: operations first, the lock last.
    ring: Option<Ring>,
    worker: Worker,
    files: Files,
    directory: Arc<Directory>,
    /// Operations that were wrong from the start.
    refused: VecDeque<Completion>,
    /// Why there is no ring.
    no_ring: &'static str,
    lock: Option<OwnedFd>,
}

impl Real {
    pub(super) fn open(path: &Path, config: DiskConfig) -> Result<Real, DiskError> {
        let directory = Arc::new(Directory::open(path, config.writes)?);
        let (ring, no_ring) = match config.engine {
            Engine::Thread => (None, "by configuration"),
            Engine::Best if !directory.is_direct() => (None, "the file system refuses direct I/O"),
            Engine::Best => match Ring::new(config.ops_max) {
                Ok(ring) => (Some(ring), ""),
                Err(error) => {
                    tracing::info!(%error, "no io_uring: a thread does the disk's work");
                    (None, "the kernel refuses io_uring")
                }
            },
        };
        Ok(Real {
            ring,
            worker: Worker::start(directory.clone(), config.ops_max)?,
            files: Files::new(config.files_max),
            directory,
            refused: VecDeque::with_capacity(config.ops_max),
            no_ring,
            lock: None,
        })
    }

    /// The job of an operation, or what is wrong with it.
    fn job(&mut self, op: Op) -> Result<Job, (DiskError, Option<Aligned>)> {
        let named = |name: String| check_name(&name).map(|()| name).map_err(|error| (error, None));
        match op {
            Op::Create { bytes, .. } if !bytes.is_multiple_of(BLOCK_BYTES as u64) => Err((DiskError::Misaligned, None)),
            Op::Create { name, bytes } => {
                let name = named(name)?;
                self.files.reserve().map_err(|error| (error, None))?;
                Ok(Job::Create { name, bytes })
            }
            Op::Open { name } => {
                let name = named(name)?;
                self.files.reserve().map_err(|error| (error, None))?;
                Ok(Job::Open { name })
            }
            Op::Write { offset, buffer, .. } | Op::Read { offset, buffer, .. }
                if !offset.is_multiple_of(BLOCK_BYTES as u64) =>
            {
                Err((DiskError::Misaligned, Some(buffer)))
            }
            Op::Write { file, offset, buffer } => match self.files.get(file) {
                Ok(file) => Ok(Job::Write { file, offset, buffer }),
                Err(error) => Err((error, Some(buffer))),
            },
            Op::Read { file, offset, buffer } => match self.files.get(file) {
                Ok(file) => Ok(Job::Read { file, offset, buffer }),
                Err(error) => Err((error, Some(buffer))),
            },
            Op::Sync { file } => Ok(Job::Sync { file: self.files.get(file).map_err(|error| (error, None))? }),
            Op::SyncDirectory => Ok(Job::SyncDirectory),
            Op::Rename { from, to } => Ok(Job::Rename { from: named(from)?, to: named(to)? }),
            Op::Remove { name } => Ok(Job::Remove { name: named(name)? }),
            Op::Close { file } => Ok(Job::Close { file: self.files.close(file).map_err(|error| (error, None))? }),
        }
    }
}

impl Backend for Real {
    fn attach(&mut self, inbox: &Arc<Inbox>) {
        self.worker.attach(inbox);
        if let Some(ring) = &mut self.ring {
            ring.attach(inbox);
        }
    }

    fn submit(&mut self, ticket: Ticket, op: Op) {
        let job = match self.job(op) {
            Ok(job) => job,
            Err((error, buffer)) => {
                self.refused.push_back(Completion { ticket, result: Err(error), buffer });
                return;
            }
        };
        let job = match &mut self.ring {
            Some(ring) => match ring.submit(ticket, job) {
                Ok(()) => return,
                Err(job) => job,
            },
            None => job,
        };
        if let Err(job) = self.worker.submit(ticket, job) {
            let buffer = match job {
                Job::Write { buffer, .. } | Job::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            // The thread has panicked, or the slots have not bounded its queue: a fault of this program either way.
            self.refused.push_back(Completion { ticket, result: Err(DiskError::Device { errno: 5 }), buffer });
        }
    }

    fn flush(&mut self, _now: Instant) -> usize {
        self.ring.as_mut().map_or(0, Ring::flush)
    }

    fn reap(&mut self, _now: Instant, done: &mut VecDeque<Completion>) {
        done.append(&mut self.refused);
        if let Some(ring) = &mut self.ring {
            ring.reap(done);
        }
        let files = &mut self.files;
        self.worker.reap(|Ended { ticket, opens, result, buffer }| {
            if opens {
                files.opening -= 1;
            }
            let result = match result {
                Ok(Outcome::Opened(file, bytes)) => Ok(Done::Opened { file: files.add(file), bytes }),
                Ok(Outcome::Done(done)) => Ok(done),
                Err(error) => Err(error),
            };
            done.push_back(Completion { ticket, result, buffer });
        });
    }

    fn has_work(&self) -> bool {
        !self.refused.is_empty() || self.worker.has_ended() || self.ring.as_ref().is_some_and(Ring::has_work)
    }

    fn describe(&self) -> String {
        let path = self.directory.path().display();
        let writes = match self.directory.writes() {
            Writes::Durable => "each write is durable when it completes",
            Writes::Cached => "writes are durable after a sync",
        };
        let direct = if self.directory.is_direct() { "direct" } else { "cached by the kernel" };
        match &self.ring {
            Some(_) => format!("{path}: io_uring, {direct}; {writes}"),
            None => format!("{path}: a thread ({}), {direct}; {writes}", self.no_ring),
        }
    }

    fn lock(&mut self) -> Result<(), DiskError> {
        if self.lock.is_none() {
            self.lock = Some(self.directory.lock()?);
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<FileEntry>, DiskError> {
        self.directory.list()
    }

    fn file_bytes(&self, name: &str) -> Result<u64, DiskError> {
        self.directory.file_bytes(name)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.directory.read_at(name, offset, buffer)
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.directory.sync_all()
    }
}

/// The open files by their ids, which are given out once.
#[derive(Debug)]
struct Files {
    open: Vec<(FileId, Arc<OwnedFd>)>,
    opening: usize,
    files_max: usize,
    next: u32,
}

impl Files {
    fn new(files_max: usize) -> Self {
        Files { open: Vec::with_capacity(files_max), opening: 0, files_max, next: 0 }
    }

    /// Keeps a place for a file that is about to be opened.
    fn reserve(&mut self) -> Result<(), DiskError> {
        if self.open.len() + self.opening >= self.files_max {
            return Err(DiskError::TooManyFiles);
        }
        self.opening += 1;
        Ok(())
    }

    fn add(&mut self, file: OwnedFd) -> FileId {
        let id = FileId(self.next);
        // Four billion files later they begin anew, and a program that still holds one of the first is at fault.
        self.next = self.next.wrapping_add(1);
        self.open.push((id, Arc::new(file)));
        id
    }

    fn get(&self, id: FileId) -> Result<Arc<OwnedFd>, DiskError> {
        let found = self.open.iter().find(|open| open.0 == id);
        found.map(|open| open.1.clone()).ok_or(DiskError::Closed(id))
    }

    fn close(&mut self, id: FileId) -> Result<Arc<OwnedFd>, DiskError> {
        let at = self.open.iter().position(|open| open.0 == id).ok_or(DiskError::Closed(id))?;
        Ok(self.open.swap_remove(at).1)
    }
}
