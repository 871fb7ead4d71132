//! A disk in virtual time that outlives the machine it is in, and does all that a bad disk does.
//!
//! ```text
//!   Disk --submit--> in flight --(a drawn time)--> cache --sync, or a durable write--> durable
//!                       |                            |                                    |
//!   the process ends:   done or not, by lot          stays                                stays
//!   the power is lost:  any of its sectors           any of its sectors, any name         stays, bit rot apart
//! ```

mod device;
mod faults;
mod store;
mod trace;

use crate::disk::{Disk, DiskConfig, DiskError, FileEntry};
use device::{Device, Mounted};
pub use faults::{DiskFaultCounters, DiskFaults};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use store::{Change, Store};
pub use trace::{CrashStates, Trace};

/// A simulated disk. Clones are the same disk. It needs no [`World`](crate::sim::World): what is read at the start of a
/// program is read from it without one.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Device>>);

impl SimDisk {
    /// An empty disk. The seed decides how long its operations take, which faults strike and what a crash leaves.
    pub fn new(seed: u64, faults: DiskFaults) -> SimDisk {
        let disk = SimDisk::with_store(seed, Store::default());
        disk.set_faults(faults);
        disk
    }

    fn with_store(seed: u64, store: Store) -> SimDisk {
        SimDisk(Rc::new(RefCell::new(Device::new(Pcg64Mcg::seed_from_u64(seed), store))))
    }

    /// The disk as a program sees it that has just started. Handles of programs before it, if any are left, get no answers any
    /// more.
    pub fn mount(&self, config: DiskConfig) -> Disk {
        let config = config.bounded();
        Disk::with_backend(Box::new(Mounted::new(self.0.clone(), config)), config)
    }

    /// The process has died, its machine has not: each operation in flight is done or is not, what was done stays. Dropping the
    /// last handle does the same, as [`World::kill`](crate::sim::World::kill) does.
    pub fn end_process(&self) {
        self.0.borrow_mut().end_process();
    }

    /// The power is lost, and with it what was in the cache, as far as the seed will have it. Ends the process, too.
    pub fn power_cut(&self) {
        self.0.borrow_mut().power_cut();
    }

    /// From now on these faults strike.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.borrow_mut().faults = faults;
    }

    /// The faults that strike at present.
    pub fn faults(&self) -> DiskFaults {
        self.0.borrow().faults
    }

    /// From now on, as its mounted program's world goes, the disk answers nothing for so long.
    pub fn stall(&self, time: Duration) {
        self.0.borrow_mut().stall(time);
    }

    /// The disk answers again, however long it was to stand still.
    pub fn end_stall(&self) {
        self.0.borrow_mut().end_stall();
    }

    /// Flips a bit of what is durable of a file.
    pub fn rot(&self, name: &str, byte: u64, bit: u8) -> Result<(), DiskError> {
        let mut device = self.0.borrow_mut();
        let inode = device.store.find(name)?;
        device.change(Change::Rot { inode, byte, bit });
        device.counters.rotted += 1;
        Ok(())
    }

    /// The next write of this process to a file with room for it elsewhere goes there, and nobody is told.
    pub fn misdirect_next_write(&self) {
        self.0.borrow_mut().misdirects_next = true;
    }

    /// The next write of this process that is to be durable stays in the cache, and nobody is told: the next loss of power undoes it, or a part of it.
    pub fn lose_next_write(&self) {
        self.0.borrow_mut().loses_next = true;
    }

    /// Everything on it is gone, as with another disk in its place. Ends the process, too.
    pub fn wipe(&self) {
        let mut device = self.0.borrow_mut();
        device.end_process();
        device.store = Store::default();
        (device.misdirects_next, device.loses_next) = (false, false);
        if let Some(trace) = &mut device.trace {
            *trace = Trace { start: Store::default(), steps: Vec::new() };
        }
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.0.borrow().store.used_bytes()
    }

    /// The files as a program would find them that started now; for tests that look beside the program.
    pub fn list(&self) -> Vec<FileEntry> {
        self.0.borrow().store.list()
    }

    /// Reads what a program would read, without faults; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// [`DiskError::NotFound`].
    pub fn peek(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let device = self.0.borrow();
        Ok(device.store.read(device.store.find(name)?, offset, buffer))
    }

    /// How often each fault has struck.
    pub fn counters(&self) -> DiskFaultCounters {
        self.0.borrow().counters
    }

    /// Keeps what happens from now on, with a copy of what is there, until [`SimDisk::take_trace`].
    pub fn record(&self) {
        let mut device = self.0.borrow_mut();
        let start = device.store.clone();
        device.trace = Some(Trace { start, steps: Vec::new() });
    }

    /// Steps recorded so far: what was answered before this moment must survive a crash at or after this step.
    pub fn trace_steps(&self) -> usize {
        self.0.borrow().trace.as_ref().map_or(0, Trace::steps)
    }

    /// What happened since [`SimDisk::record`], after which nothing is kept any more. `None` where nothing was being recorded.
    pub fn take_trace(&self) -> Option<Trace> {
        self.0.borrow_mut().trace.take()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.borrow().store.list()).finish()
    }
}
