//! The files below a log: the seam between raft, which knows no I/O, and whatever disk there is.
//!
//! What holds of every device:
//! * Operations run at the same time and complete in any order. Whoever needs an order waits.
//! * Where [`Device::writes_are_durable`], a completed write survives a loss of power; else it does once a later [`Op::Sync`] has
//!   completed. A changed name does after [`Op::SyncDirectory`].
//! * A crash leaves of a write in flight any subset of its 512-byte sectors.
//! * After [`DeviceError::Failed`] of a write or sync nobody knows what the file holds: nothing is tried again.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

/// What offsets and lengths of writes are multiples of, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// A buffer that a device can write from: whole blocks, of a length that can be set.
pub trait Buffer: Deref<Target = [u8]> + DerefMut + Debug {
    /// Makes it longer or shorter, up to what it was made with, without an allocation. `bytes` is a multiple of [`BLOCK_BYTES`], and
    /// not zero. What is added has any content.
    fn set_bytes(&mut self, bytes: usize);
}

/// What is to be done. Names are plain names in the one directory.
#[derive(Debug)]
pub enum Op<F, B> {
    /// Makes a file of `bytes` zeroes, allocated on the device. Completes with [`Done::Opened`]. Its content is then durable, its name
    /// after [`Op::SyncDirectory`]. [`DeviceError::Exists`] where there is one.
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
    /// Writes the whole buffer.
    Write {
        /// The file.
        file: F,
        /// Where to.
        offset: u64,
        /// What; comes back with the completion.
        buffer: B,
    },
    /// Makes durable what had been written to the file when this was submitted.
    Sync {
        /// The file.
        file: F,
    },
    /// Makes durable all changes of names that had completed when this was submitted.
    SyncDirectory,
    /// Gives a file another name, taking that from the file that had it.
    Rename {
        /// Its name.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Removes a name.
    Remove {
        /// The name.
        name: String,
    },
    /// Gives up a file.
    Close {
        /// The file.
        file: F,
    },
}

/// What an operation has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<F> {
    /// A file is open under this id.
    Opened(F),
    /// Any other operation is done in full.
    Finished,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no room. Nothing else is wrong.
    #[error("the disk is full")]
    NoSpace,
    /// There is no file of this name.
    #[error("there is no such file")]
    NotFound,
    /// There is a file of this name already.
    #[error("there is such a file already")]
    Exists,
    /// The device failed, in its own words: what it holds now nobody knows.
    #[error("{0}")]
    Failed(String),
}

/// The end of an operation.
#[derive(Debug)]
pub struct DeviceCompletion<T, F, B> {
    /// Which operation.
    pub ticket: T,
    /// What it has come to.
    pub result: Result<Done<F>, DeviceError>,
    /// The buffer of a write, whatever the result.
    pub buffer: Option<B>,
}

/// What a directory holds, for the start and for tools: these block.
pub trait Directory {
    /// Names and lengths in bytes of the files.
    fn list(&self) -> Result<Vec<(String, u64)>, DeviceError>;

    /// Fills `place` from `offset` on and tells how many bytes there were; fewer only at the end of the file.
    fn read_at(&self, name: &str, offset: u64, place: &mut [u8]) -> Result<usize, DeviceError>;
}

/// A directory whose files are written without ever blocking.
pub trait Device {
    /// An operation under way.
    type Ticket: Copy + Eq + Debug;
    /// An open file.
    type File: Copy + Eq + Debug;
    /// What is written from.
    type Buffer: Buffer;

    /// A buffer of `bytes`, a multiple of [`BLOCK_BYTES`]. Allocates.
    fn buffer(&mut self, bytes: usize) -> Self::Buffer;

    /// Whether a completed write survives a loss of power.
    fn writes_are_durable(&self) -> bool;

    /// Begins an operation; the operation comes back where as many as the device takes are under way.
    fn submit(&mut self, op: Op<Self::File, Self::Buffer>) -> Result<Self::Ticket, Op<Self::File, Self::Buffer>>;

    /// The next operation that has completed, in whatever order they did; else the task is woken by one.
    fn poll_completion(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<DeviceCompletion<Self::Ticket, Self::File, Self::Buffer>>;
}
