//! What can go wrong with a file.

use crate::disk::FileId;
use rustix::io::Errno;

/// Why an operation on a disk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DiskError {
    /// The device or the kernel failed. After a write or sync nobody knows what the file holds, and a later sync that
    /// succeeds proves nothing: stop using it.
    #[error("the disk failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    Device {
        /// The kernel's number for it: 5 is EIO.
        errno: i32,
    },
    /// The disk or its owner's quota is full. Nothing else is wrong; free some and go on. A write may have been done in part.
    #[error("the disk is full")]
    NoSpace,
    /// There is no file of this name.
    #[error("there is no such file")]
    NotFound,
    /// There is a file of this name already.
    #[error("there is such a file already")]
    Exists,
    /// Not a plain name of 1 to 200 bytes without `/` and without a leading dot. A fault of the program.
    #[error("not a plain file name")]
    Name,
    /// Not an open file: closed, or never opened. A fault of the program.
    #[error("{0:?} is not open")]
    Closed(FileId),
    /// Offset or length is no multiple of [`BLOCK_BYTES`](crate::disk::BLOCK_BYTES). A fault of the program.
    #[error("offset or length is no multiple of a block")]
    Misaligned,
    /// As many files as the configuration allows are open.
    #[error("too many files are open")]
    TooManyFiles,
    /// Another process, or another handle of this one, works in this directory.
    #[error("the directory is in use by another process")]
    Held,
    /// This process may not. Probably a mistake in the directory's ownership.
    #[error("not permitted")]
    Denied,
}

impl From<Errno> for DiskError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DiskError::NoSpace,
            Errno::NOENT => DiskError::NotFound,
            Errno::EXIST => DiskError::Exists,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => DiskError::Denied,
            Errno::MFILE | Errno::NFILE => DiskError::TooManyFiles,
            other => DiskError::Device { errno: other.raw_os_error() },
        }
    }
}

impl From<std::io::Error> for DiskError {
    fn from(error: std::io::Error) -> Self {
        // An error that the kernel did not make, as of a read that ended early, counts as one of the device.
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}
