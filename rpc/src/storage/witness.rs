//! How far a `buffered` node has acknowledged, kept where it survives the process and goes with the power.
//!
//! After a start it tells an end of the process, after which the kernel still has everything, from a loss of power or from an older
//! image of the disk, after which what was acknowledged last may be missing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use trimaran_raft::Incarnation;

/// Writes a number down.
pub(super) type WriteDown = Box<dyn FnMut(u64)>;

/// Where the numbers are kept.
#[derive(Debug, Clone, Default)]
pub enum Witness {
    /// Nowhere: after an end without a farewell such a node begins a new life.
    #[default]
    Nowhere,
    /// In files of a memory file system, such as `/dev/shm`.
    Directory(PathBuf),
    /// In memory: of a simulated machine.
    Memory(Rc<RefCell<BTreeMap<u64, u64>>>),
}

impl Witness {
    /// The newest number of this life.
    pub(crate) fn read(&self, of: Incarnation) -> Option<u64> {
        match self {
            Witness::Nowhere => None,
            Witness::Directory(directory) => {
                let bytes = fs::read(path(directory, of)).ok()?;
                Some(u64::from_le_bytes(*bytes.first_chunk()?))
            }
            Witness::Memory(numbers) => numbers.borrow().get(&of.0).copied(),
        }
    }

    /// What writes the numbers of this life down, from `first` on; one system call each.
    pub(super) fn writer(&self, of: Incarnation, first: u64) -> io::Result<Option<WriteDown>> {
        match self {
            Witness::Nowhere => Ok(None),
            Witness::Directory(directory) => {
                let path = path(directory, of);
                let file = File::options().write(true).create(true).truncate(false).open(&path)?;
                file.write_all_at(&first.to_le_bytes(), 0)?;
                Ok(Some(Box::new(move |number| {
                    // The page is there, so nothing can be in the way. If something is, no witness is better than an old one.
                    if file.write_all_at(&number.to_le_bytes(), 0).is_err() {
                        let _ = fs::remove_file(&path);
                    }
                })))
            }
            Witness::Memory(numbers) => {
                let numbers = numbers.clone();
                numbers.borrow_mut().insert(of.0, first);
                Ok(Some(Box::new(move |number| {
                    numbers.borrow_mut().insert(of.0, number);
                })))
            }
        }
    }

    /// That life is over.
    pub(super) fn forget(&self, of: Incarnation) {
        match self {
            Witness::Nowhere => {}
            Witness::Directory(directory) => drop(fs::remove_file(path(directory, of))),
            Witness::Memory(numbers) => {
                numbers.borrow_mut().remove(&of.0);
            }
        }
    }
}

fn path(directory: &Path, of: Incarnation) -> PathBuf {
    directory.join(format!("trimaran-{:016x}", of.0))
}
