//! What the kernel is asked to do with a directory and its files, one blocking call after the other.

use crate::disk::{Aligned, BLOCK_BYTES, DiskError, Done, FileEntry, Writes};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held by who works in the directory. No operation may name it.
const LOCK: &str = "LOCK";
/// Zeroes written at once into a new file.
const ZEROES_BYTES: usize = 1 << 20;
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// Refuses what is not a plain name.
pub(crate) fn check_name(name: &str) -> Result<(), DiskError> {
    let plain = (1..=200).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain && name != LOCK { Ok(()) } else { Err(DiskError::Name) }
}

/// An operation with its file at hand.
#[derive(Debug)]
pub(super) enum Job {
    Create { name: String, bytes: u64 },
    Open { name: String },
    Write { file: Arc<OwnedFd>, offset: u64, buffer: Aligned },
    Read { file: Arc<OwnedFd>, offset: u64, buffer: Aligned },
    Sync { file: Arc<OwnedFd> },
    SyncDirectory,
    Rename { from: String, to: String },
    Remove { name: String },
    Close { file: Arc<OwnedFd> },
}

/// What a job has come to: as [`Done`], but a file that was opened has no id yet.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened(OwnedFd, u64),
    Done(Done),
}

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    writes: Writes,
    is_direct: bool,
}

impl Directory {
    pub(super) fn open(path: &Path, writes: Writes) -> Result<Directory, DiskError> {
        let fd = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut directory = Directory { path: path.to_owned(), fd, writes, is_direct: false };
        directory.is_direct = directory.probe_direct().is_ok();
        Ok(directory)
    }

    /// Whether the file system takes direct writes of one block, tried on a file of its own.
    fn probe_direct(&self) -> Result<(), Errno> {
        let name = format!(".probe-{}", std::process::id());
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT;
        let opened = rustix::fs::openat(&self.fd, &name, flags, MODE);
        let block = Aligned::zeroed(BLOCK_BYTES);
        let written = opened.and_then(|file| rustix::io::pwrite(&file, &block, 0));
        let _ = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
        if written? == block.len() { Ok(()) } else { Err(Errno::IO) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files are written past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.is_direct
    }

    pub(super) fn writes(&self) -> Writes {
        self.writes
    }

    /// The descriptor that holds the lock for as long as it is open.
    pub(super) fn lock(&self) -> Result<OwnedFd, DiskError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&self.fd, LOCK, flags, MODE)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(Errno::WOULDBLOCK) => Err(DiskError::Held),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<FileEntry>, DiskError> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { continue };
            if check_name(&name).is_err() {
                continue;
            }
            let stat = rustix::fs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
                entries.push(FileEntry { name, bytes: stat.st_size as u64 });
            }
        }
        entries.sort();
        Ok(entries)
    }

    pub(super) fn file_bytes(&self, name: &str) -> Result<u64, DiskError> {
        Ok(rustix::fs::statat(&self.fd, name, AtFlags::empty())?.st_size as u64)
    }

    pub(super) fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let file = rustix::fs::openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        read_full(&file, offset, buffer)
    }

    pub(super) fn sync_all(&self) -> Result<(), DiskError> {
        for FileEntry { name, .. } in self.list()? {
            let file = rustix::fs::openat(&self.fd, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::fs::fdatasync(&file)?;
        }
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Does a job, and gives the buffer back.
    pub(super) fn run(&self, job: Job) -> (Result<Outcome, DiskError>, Option<Aligned>) {
        let finished = |result: Result<(), Errno>| Ok(result.map(|()| Outcome::Done(Done::Finished))?);
        match job {
            Job::Create { name, bytes } => (self.create(&name, bytes), None),
            Job::Open { name } => (self.open_file(&name), None),
            Job::Write { file, offset, buffer } => {
                let result = write_full(&file, offset, &buffer);
                (finished(result), Some(buffer))
            }
            Job::Read { file, offset, mut buffer } => {
                let result = read_full(&file, offset, &mut buffer);
                (result.map(|bytes| Outcome::Done(Done::Read { bytes })), Some(buffer))
            }
            Job::Sync { file } => (finished(rustix::fs::fdatasync(&file)), None),
            Job::SyncDirectory => (finished(rustix::fs::fsync(&self.fd)), None),
            Job::Rename { from, to } => (finished(rustix::fs::renameat(&self.fd, &from, &self.fd, &to)), None),
            Job::Remove { name } => (finished(rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty())), None),
            Job::Close { file } => {
                // The last one closes it, here, where that may take its time.
                drop(file);
                (finished(Ok(())), None)
            }
        }
    }

    fn create(&self, name: &str, bytes: u64) -> Result<Outcome, DiskError> {
        let flags = OFlags::CREATE | OFlags::EXCL | self.flags().difference(OFlags::DSYNC);
        let file = rustix::fs::openat(&self.fd, name, flags, MODE)?;
        let filled = fill(&file, bytes);
        drop(file);
        if let Err(errno) = filled {
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
            return Err(errno.into());
        }
        self.open_file(name)
    }

    fn open_file(&self, name: &str) -> Result<Outcome, DiskError> {
        let file = rustix::fs::openat(&self.fd, name, self.flags(), Mode::empty())?;
        let bytes = rustix::fs::fstat(&file)?.st_size as u64;
        Ok(Outcome::Opened(file, bytes))
    }

    fn flags(&self) -> OFlags {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        flags.set(OFlags::DIRECT, self.is_direct);
        flags.set(OFlags::DSYNC, self.writes == Writes::Durable);
        flags
    }
}

/// Allocates and writes the whole file: blocks that are only allocated would be marked as written by the file system's journal at
/// their first write, in the middle of a commit.
fn fill(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    if bytes > 0 {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    let mut zeroes = Aligned::zeroed(ZEROES_BYTES);
    let mut offset = 0;
    while offset < bytes {
        zeroes.set_bytes(ZEROES_BYTES.min((bytes - offset) as usize));
        write_full(file, offset, &zeroes)?;
        offset += zeroes.len() as u64;
    }
    rustix::fs::fsync(file)
}

fn write_full(file: &OwnedFd, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pwrite(file, &buffer[done..], offset + done as u64) {
            // What a full disk looks like to some file systems.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn read_full(file: &OwnedFd, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if done % 512 != 0 {
            // The end of the file; a direct read from there would be refused.
            break;
        }
    }
    Ok(done)
}
