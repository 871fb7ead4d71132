//! The files of one directory, read and written without ever blocking the loop: made for a log whose commits take
//! microseconds.
//!
//! ```text
//!   task --submit--> slot --+-- write, read, sync --> uring.rs, once a turn --> kernel --> reaped in the next turn --+
//!                           +-- create, rename, ... --> worker.rs, a thread of its own --> rings the core's bell ----+--> poll_completion
//!   sim/disk.rs             +-- all of them, on a simulated disk in virtual time ------------------------------------+
//! ```
//!
//! What holds for every kind of disk behind the handle:
//!
//! * With [`Writes::Durable`] a write that has completed survives a loss of power. With [`Writes::Cached`] it does once a
//!   later [`Op::Sync`] of its file has completed.
//! * A name that [`Op::Create`], [`Op::Rename`] or [`Op::Remove`] changed has changed for good once a later
//!   [`Op::SyncDirectory`] has completed; before that each such change may be undone by a loss of power, in any combination.
//! * Operations run at the same time and complete in any order. Whoever needs an order waits for the first to complete
//!   before he submits the second. Of two writes to one place in flight at once either may win, block by block.
//! * A crash leaves of a write in flight any subset of its 512-byte sectors.
//! * After [`DiskError::Device`] of a write or sync nobody knows what the file holds: never try it again as if nothing had been.

mod aligned;
mod directory;
mod error;
mod real;
mod slots;
#[cfg(target_os = "linux")]
mod uring;
mod worker;

use crate::local::{Inbox, Local};
use crate::time::Instant;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub use aligned::{Aligned, BLOCK_BYTES};
pub(crate) use directory::check_name;
pub use error::DiskError;
use slots::Slots;

/// An open file of one [`Disk`]. Never means another file, also after it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) u32);

/// One operation under way. No two of a [`Disk`] are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// How a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskConfig {
    /// Operations at once, those whose completions nobody has taken included; at most 4096. One more is [`Full`].
    pub ops_max: usize,
    /// Open files at once; one more is [`DiskError::TooManyFiles`]. At most 65,535.
    pub files_max: usize,
    /// What a completed write is worth.
    pub writes: Writes,
    /// Who does the work on a real disk.
    pub engine: Engine,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig { ops_max: 256, files_max: 64, writes: Writes::Durable, engine: Engine::Best }
    }
}

/// What a completed write is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// It is on the device, and survives the loss of power.
    Durable,
    /// The kernel has it: it survives the end of this process, and the loss of power after the next [`Op::Sync`].
    Cached,
}

/// Who does the work on a real disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// io_uring with direct I/O where the kernel and the file system allow both, else a thread.
    Best,
    /// A thread that does one operation after the other.
    Thread,
}

/// What is to be done. Names are plain names of files in the disk's directory: 1 to 200 bytes, no `/`, no leading dot.
/// Offsets and lengths are multiples of [`BLOCK_BYTES`].
#[derive(Debug)]
pub enum Op {
    /// Makes a file of `bytes` zeroes, all of them allocated on the device, so that writing to them changes no metadata;
    /// takes milliseconds a MiB. Its content is durable when this completes, its name after [`Op::SyncDirectory`].
    /// [`DiskError::Exists`] where there is one of that name. Completes with [`Done::Opened`].
    Create {
        /// Name of the file.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// Opens a file. Completes with [`Done::Opened`].
    Open {
        /// Name of the file.
        name: String,
    },
    /// Writes the whole buffer. Beyond its end the file grows, which costs a journal's write.
    Write {
        /// The file.
        file: FileId,
        /// Where to.
        offset: u64,
        /// What. Comes back with the completion.
        buffer: Aligned,
    },
    /// Fills the buffer. Completes with [`Done::Read`], which says how much there was.
    Read {
        /// The file.
        file: FileId,
        /// From where.
        offset: u64,
        /// Where to. Comes back with the completion.
        buffer: Aligned,
    },
    /// Makes durable all writes to the file that had completed when this was submitted.
    Sync {
        /// The file.
        file: FileId,
    },
    /// Makes durable all changes of names that had completed when this was submitted.
    SyncDirectory,
    /// Gives a file another name, and takes that name from the file that had it. Open files stay open.
    Rename {
        /// Its name.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Removes a name. A file that is open can still be written and read; its space is free when it is closed.
    Remove {
        /// The name.
        name: String,
    },
    /// Gives up a file. Its operations in flight go on; new ones are refused with [`DiskError::Closed`] from now on.
    Close {
        /// The file.
        file: FileId,
    },
}

/// An [`Op`] without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each stands for the operation of the same name")]
pub enum OpKind {
    Create,
    Open,
    Write,
    Read,
    Sync,
    SyncDirectory,
    Rename,
    Remove,
    Close,
}

impl Op {
    /// Which it is.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Create { .. } => OpKind::Create,
            Op::Open { .. } => OpKind::Open,
            Op::Write { .. } => OpKind::Write,
            Op::Read { .. } => OpKind::Read,
            Op::Sync { .. } => OpKind::Sync,
            Op::SyncDirectory => OpKind::SyncDirectory,
            Op::Rename { .. } => OpKind::Rename,
            Op::Remove { .. } => OpKind::Remove,
            Op::Close { .. } => OpKind::Close,
        }
    }

    /// Its buffer, where it has one.
    pub fn into_buffer(self) -> Option<Aligned> {
        match self {
            Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
            _ => None,
        }
    }
}

/// What an operation has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// A file is open.
    Opened {
        /// Its id from now on.
        file: FileId,
        /// Its length.
        bytes: u64,
    },
    /// The first `bytes` of the buffer were read; fewer than the buffer's only at the end of the file.
    Read {
        /// How many.
        bytes: usize,
    },
    /// Any other operation has been done in full.
    Finished,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub ticket: Ticket,
    /// What it has come to.
    pub result: Result<Done, DiskError>,
    /// The buffer of a write or read, whatever the result. After a failed read its content means nothing.
    pub buffer: Option<Aligned>,
}

/// As many operations as the disk takes at once are under way. The operation was not begun and comes back.
#[derive(Debug)]
pub struct Full(pub Op);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk has as many operations under way as it takes: {:?} was not begun", self.0.kind())
    }
}

impl std::error::Error for Full {}

/// A file as a listing tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A directory whose files one core reads and writes. Clones are the same disk.
///
/// It belongs to the core on which it is first used; operations that were submitted go to the device when that core's
/// turn ends, and a core that sleeps is woken when one completes. An operation costs no allocation once all slots have been
/// in use, names apart. When the last clone goes, operations in flight are awaited, for some seconds where the device is stuck.
#[derive(Clone)]
pub struct Disk {
    shared: Rc<Shared>,
}

impl Disk {
    /// The disk of a directory, which must exist. Blocks for some milliseconds, to find out what the file system can do.
    pub fn open(directory: &Path, config: DiskConfig) -> Result<Disk, DiskError> {
        let config = config.bounded();
        Ok(Disk::with_backend(Box::new(real::Real::open(directory, config)?), config))
    }

    pub(crate) fn with_backend(backend: Box<dyn Backend>, config: DiskConfig) -> Disk {
        Disk {
            shared: Rc::new(Shared {
                backend: RefCell::new(backend),
                slots: RefCell::new(Slots::new(config.ops_max)),
                done: RefCell::new(VecDeque::with_capacity(config.ops_max)),
                waiter: RefCell::new(None),
                is_attached: Cell::new(false),
                writes: config.writes,
            }),
        }
    }

    /// Begins an operation. Never blocks; what is wrong with it is told by its completion.
    ///
    /// # Panics
    /// Outside of any core.
    #[track_caller]
    pub fn submit(&self, op: Op) -> Result<Ticket, Full> {
        let shared = &self.shared;
        let local = Local::current();
        if !shared.is_attached.replace(true) {
            shared.backend.borrow_mut().attach(&local.inbox);
            local.disks.add(Rc::downgrade(shared));
        }
        let Some(ticket) = shared.slots.borrow_mut().take(op.kind(), local.timers.now.get()) else {
            return Err(Full(op));
        };
        shared.backend.borrow_mut().submit(ticket, op);
        Ok(ticket)
    }

    /// The next operation that has completed, in whatever order they did. One task at a time may wait here: a second takes
    /// the place of the first.
    pub fn poll_completion(&self, cx: &mut Context<'_>) -> Poll<Completion> {
        let done = self.shared.done.borrow_mut().pop_front();
        match done {
            Some(completion) => {
                self.shared.slots.borrow_mut().give_back(completion.ticket);
                Poll::Ready(completion)
            }
            None => {
                let mut waiter = self.shared.waiter.borrow_mut();
                match waiter.as_mut() {
                    Some(waiter) => waiter.clone_from(cx.waker()),
                    None => *waiter = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// As [`Disk::poll_completion`], to be awaited.
    pub async fn completion(&self) -> Completion {
        std::future::poll_fn(|cx| self.poll_completion(cx)).await
    }

    /// The oldest operation that has not completed, and the core's time at which it was submitted: a device that is stuck shows
    /// here first. Looks at each slot.
    pub fn oldest(&self) -> Option<(OpKind, Instant)> {
        self.shared.slots.borrow().oldest()
    }

    /// Operations under way, those included whose completion nobody has taken.
    pub fn ops(&self) -> usize {
        self.shared.slots.borrow().taken()
    }

    /// What a completed write is worth on this disk.
    pub fn writes(&self) -> Writes {
        self.shared.writes
    }

    /// How the disk is driven, for those who operate it.
    pub fn describe(&self) -> String {
        self.shared.backend.borrow().describe()
    }
}

/// At the start and for tools: these block, and read what earlier writes have left. Not for a core that serves.
impl Disk {
    /// Keeps other processes from the directory, or other handles of this one, until the last clone of this handle goes.
    /// [`DiskError::Held`] where another has done so.
    pub fn lock(&self) -> Result<(), DiskError> {
        self.shared.backend.borrow_mut().lock()
    }

    /// The files, by name. Files that a [`Disk`] makes for itself are not among them.
    pub fn list(&self) -> Result<Vec<FileEntry>, DiskError> {
        self.shared.backend.borrow().list()
    }

    /// A file's length in bytes.
    pub fn file_bytes(&self, name: &str) -> Result<u64, DiskError> {
        check_name(name)?;
        self.shared.backend.borrow().file_bytes(name)
    }

    /// Reads from `offset` on into `buffer` and tells how many bytes there were; fewer than asked for only at the end. Any
    /// offset and length will do.
    pub fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        check_name(name)?;
        self.shared.backend.borrow().read_at(name, offset, buffer)
    }

    /// Makes durable whatever can be read: contents and names of all files. A process that was killed may have left writes in a
    /// cache; who goes on from what it reads there must not build on it before. Blocks, mostly for no longer than the device's
    /// flush takes.
    pub fn sync_all(&self) -> Result<(), DiskError> {
        self.shared.backend.borrow().sync_all()
    }

    /// A whole file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        let bytes = self.file_bytes(name)?;
        let mut content = vec![0; usize::try_from(bytes).map_err(|_| DiskError::NoSpace)?];
        let read = self.read_at(name, 0, &mut content)?;
        content.truncate(read);
        Ok(content)
    }
}

impl DiskConfig {
    pub(crate) fn bounded(self) -> Self {
        DiskConfig { ops_max: self.ops_max.clamp(1, 4096), files_max: self.files_max.clamp(1, 65_535), ..self }
    }
}

/// What does the work behind a [`Disk`]. It holds as many operations as it is given: the disk's slots bound them.
pub(crate) trait Backend {
    /// This core it is that waits: wake it when operations complete while it sleeps.
    fn attach(&mut self, inbox: &Arc<Inbox>);

    /// Takes an operation. Must not block.
    fn submit(&mut self, ticket: Ticket, op: Op);

    /// The turn ends: hands on what it was given, and tells how many operations.
    fn flush(&mut self, now: Instant) -> usize;

    /// Moves what has completed to `done`.
    fn reap(&mut self, now: Instant, done: &mut VecDeque<Completion>);

    /// Whether a turn now would find something to flush or to reap.
    fn has_work(&self) -> bool;

    /// When the next operation completes, in the time of the wire, if that can be known.
    fn next_completion(&self) -> Option<Instant> {
        None
    }

    fn describe(&self) -> String;
    fn lock(&mut self) -> Result<(), DiskError>;
    fn list(&self) -> Result<Vec<FileEntry>, DiskError>;
    fn file_bytes(&self, name: &str) -> Result<u64, DiskError>;
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;
    fn sync_all(&self) -> Result<(), DiskError>;
}

/// What clones of a [`Disk`] and its core share.
pub(crate) struct Shared {
    backend: RefCell<Box<dyn Backend>>,
    slots: RefCell<Slots>,
    done: RefCell<VecDeque<Completion>>,
    waiter: RefCell<Option<Waker>>,
    is_attached: Cell<bool>,
    writes: Writes,
}

impl Shared {
    /// The turn begins: takes in what has completed, and tells how many operations.
    pub(crate) fn reap(&self, now: Instant) -> usize {
        let mut done = self.done.borrow_mut();
        let before = done.len();
        self.backend.borrow_mut().reap(now, &mut done);
        let mut slots = self.slots.borrow_mut();
        done.range(before..).for_each(|completion| slots.answered(completion.ticket));
        let count = done.len() - before;
        drop((done, slots));
        if count > 0 {
            // Taken out first: whatever a waker does, nothing is borrowed.
            let waiter = self.waiter.borrow_mut().take();
            waiter.into_iter().for_each(Waker::wake);
        }
        count
    }

    /// The turn ends.
    pub(crate) fn flush(&self, now: Instant) -> usize {
        self.backend.borrow_mut().flush(now)
    }

    pub(crate) fn has_work(&self) -> bool {
        self.backend.borrow().has_work()
    }

    pub(crate) fn next_completion(&self) -> Option<Instant> {
        self.backend.borrow().next_completion()
    }
}
