//! A disk in memory that forgets, tears, rots, stalls and fails as real ones do.
//!
//! A write in flight may leave any of its sectors behind. One that has completed stays, where writes are durable; else it may be lost
//! until a sync that was begun afterwards has completed. A name that was changed may change back until the directory is synced.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::{Context, Poll};

use trimaran_raft::device::{BLOCK_BYTES, Buffer, Device, DeviceCompletion, DeviceError, Directory, Done, Op};

pub(crate) const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Block(Vec<u8>, usize);

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0[..self.1]
    }
}

impl Buffer for Block {
    fn set_bytes(&mut self, bytes: usize) {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES) && bytes <= self.0.len());
        self.1 = bytes;
    }
}

/// A write that may or may not last.
#[derive(Debug, Clone)]
pub(crate) struct Unsure {
    pub(crate) inode: usize,
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
    /// The operation, while it is under way.
    ticket: Option<u64>,
    /// The event with which it was done.
    done: u64,
}

/// A change of names that may or may not last.
#[derive(Debug, Clone)]
pub(crate) struct Renamed {
    /// The event with which it was done.
    done: u64,
    gone: Option<String>,
    made: Option<(String, usize)>,
}

/// What a loss of power may leave: what lasts for certain, and what may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter {
    inodes: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    pub(crate) writes: Vec<Unsure>,
    pub(crate) renames: Vec<Renamed>,
}

impl Platter {
    /// The disk after a loss of power that keeps these sectors of each write, and these changes of names.
    pub(crate) fn after(&self, keeps: impl Fn(usize, usize) -> bool, named: impl Fn(usize) -> bool) -> Platter {
        let mut after = Platter { inodes: self.inodes.clone(), names: self.names.clone(), ..Platter::default() };
        for (at, write) in self.writes.iter().enumerate() {
            let inode = &mut after.inodes[write.inode];
            for (sector, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                if keeps(at, sector) {
                    put(inode, write.offset + sector * SECTOR_BYTES, bytes);
                }
            }
        }
        for (at, rename) in self.renames.iter().enumerate() {
            if named(at) {
                rename.apply(&mut after.names);
            }
        }
        after
    }

    /// What a process sees that starts while the power stays on.
    pub(crate) fn as_seen(&self) -> Platter {
        self.after(|at, _| self.writes[at].ticket.is_none(), |_| true)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(crate) fn file(&self, name: &str) -> &[u8] {
        &self.inodes[self.names[name]]
    }

    pub(crate) fn file_mut(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.inodes[self.names[name]]
    }

    pub(crate) fn put_file(&mut self, name: &str, bytes: &[u8]) {
        self.inodes.push(bytes.to_vec());
        self.names.insert(name.to_owned(), self.inodes.len() - 1);
    }

    pub(crate) fn remove_file(&mut self, name: &str) {
        self.names.remove(name);
    }
}

impl Renamed {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, inode)) = &self.made {
            names.insert(name.clone(), *inode);
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Directory for Platter {
    fn list(&self) -> Result<Vec<(String, u64)>, DeviceError> {
        Ok(self.names.iter().map(|(name, inode)| (name.clone(), self.inodes[*inode].len() as u64)).collect())
    }

    fn read_at(&self, name: &str, offset: u64, place: &mut [u8]) -> Result<usize, DeviceError> {
        let inode = self.names.get(name).ok_or(DeviceError::NotFound)?;
        let rest = self.inodes[*inode].get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(place.len());
        place[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

type Operation = Op<usize, Block>;

#[derive(Debug, Default)]
struct State {
    platter: Platter,
    /// Names as the running system sees them.
    names: BTreeMap<String, usize>,
    in_flight: Vec<(u64, Operation)>,
    /// Syncs under way cover what was done when they began, at this event.
    covered: BTreeMap<u64, u64>,
    done: VecDeque<DeviceCompletion<u64, usize, Block>>,
    tickets: u64,
    faults: Faults,
    /// Counts what has happened, so that a test can stop after each event.
    events: u64,
}

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Every write and sync fails.
    pub(crate) eio: bool,
    /// Nothing can be created.
    pub(crate) no_space: bool,
    /// Nothing completes by itself.
    pub(crate) holds: bool,
    /// A sync says that it is done and does nothing.
    pub(crate) lies: bool,
    /// A write goes one block further than it should.
    pub(crate) misdirects: bool,
}

/// The disk of one node. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty {
    state: Rc<RefCell<State>>,
    durable_writes: bool,
}

impl Faulty {
    /// With `durable_writes` a completed write lasts; else it takes a sync.
    pub(crate) fn new(platter: Platter, durable_writes: bool) -> Faulty {
        let names = platter.names.clone();
        Faulty { state: Rc::new(RefCell::new(State { platter, names, ..State::default() })), durable_writes }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.borrow_mut().faults);
    }

    pub(crate) fn platter(&self) -> Platter {
        self.state.borrow().platter.clone()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.state.borrow().in_flight.len()
    }

    pub(crate) fn events(&self) -> u64 {
        self.state.borrow().events
    }

    /// Completes one of the operations under way.
    pub(crate) fn complete(&self, at: usize) {
        self.state.borrow_mut().complete(at, self.durable_writes);
    }
}

impl State {
    fn complete(&mut self, at: usize, durable_writes: bool) {
        let (ticket, op) = self.in_flight.remove(at);
        self.events += 1;
        let failed = || DeviceError::Failed("EIO".to_owned());
        let eio = self.faults.eio;
        let finished = Ok(Done::Finished);
        let covered = self.covered.remove(&ticket).unwrap_or(0);
        let mut returned = None;
        let result = match op {
            Op::Create { .. } if self.faults.no_space => Err(DeviceError::NoSpace),
            Op::Create { ref name, .. } if self.names.contains_key(name) => Err(DeviceError::Exists),
            Op::Create { name, bytes } => {
                self.platter.inodes.push(vec![0; bytes as usize]);
                let inode = self.platter.inodes.len() - 1;
                self.rename(None, Some((name, inode)));
                Ok(Done::Opened(inode))
            }
            Op::Open { name } => self.names.get(&name).copied().map(Done::Opened).ok_or(DeviceError::NotFound),
            Op::Write { buffer, .. } => {
                returned = Some(buffer);
                let place = self.platter.writes.iter().position(|write| write.ticket == Some(ticket)).expect("begun");
                self.platter.writes[place].ticket = None;
                self.platter.writes[place].done = self.events;
                if durable_writes && !eio {
                    let write = self.platter.writes.remove(place);
                    put(&mut self.platter.inodes[write.inode], write.offset, &write.bytes);
                }
                if eio { Err(failed()) } else { finished }
            }
            Op::Sync { .. } if eio => Err(failed()),
            Op::Sync { file } => {
                if !self.faults.lies {
                    self.sync(file, covered);
                }
                finished
            }
            Op::SyncDirectory => {
                let (lasting, left) =
                    std::mem::take(&mut self.platter.renames).into_iter().partition(|it| it.done <= covered);
                let lasting: Vec<Renamed> = lasting;
                lasting.iter().for_each(|rename| rename.apply(&mut self.platter.names));
                self.platter.renames = left;
                finished
            }
            Op::Rename { from, to } => match self.names.get(&from).copied() {
                Some(inode) => {
                    self.rename(Some(from), Some((to, inode)));
                    finished
                }
                None => Err(DeviceError::NotFound),
            },
            Op::Remove { name } if self.names.contains_key(&name) => {
                self.rename(Some(name), None);
                finished
            }
            Op::Remove { .. } => Err(DeviceError::NotFound),
            Op::Close { .. } => finished,
        };
        self.done.push_back(DeviceCompletion { ticket, result, buffer: returned });
    }

    fn rename(&mut self, gone: Option<String>, made: Option<(String, usize)>) {
        let change = Renamed { done: self.events, gone, made };
        change.apply(&mut self.names);
        self.platter.renames.push(change);
    }

    /// The writes to this file that had completed at event `covered`.
    fn sync(&mut self, file: usize, covered: u64) {
        let mut kept = Vec::new();
        for write in std::mem::take(&mut self.platter.writes) {
            if write.inode == file && write.ticket.is_none() && write.done <= covered {
                put(&mut self.platter.inodes[file], write.offset, &write.bytes);
            } else {
                kept.push(write);
            }
        }
        self.platter.writes = kept;
    }
}

impl Device for Faulty {
    type Ticket = u64;
    type File = usize;
    type Buffer = Block;

    fn buffer(&mut self, bytes: usize) -> Block {
        Block(vec![0xee; bytes], bytes)
    }

    fn writes_are_durable(&self) -> bool {
        self.durable_writes
    }

    fn submit(&mut self, op: Operation) -> Result<u64, Operation> {
        let state = &mut *self.state.borrow_mut();
        if state.in_flight.len() >= 64 {
            return Err(op);
        }
        state.tickets += 1;
        state.events += 1;
        let ticket = state.tickets;
        match &op {
            Op::Write { file, offset, buffer } => {
                assert!(offset.is_multiple_of(BLOCK_BYTES as u64) && buffer.len().is_multiple_of(BLOCK_BYTES));
                let aside = if state.faults.misdirects { BLOCK_BYTES } else { 0 };
                let offset = *offset as usize + aside;
                let unsure = Unsure { inode: *file, offset, bytes: buffer.to_vec(), ticket: Some(ticket), done: 0 };
                state.platter.writes.push(unsure);
            }
            Op::Sync { .. } | Op::SyncDirectory => drop(state.covered.insert(ticket, state.events)),
            _ => {}
        }
        state.in_flight.push((ticket, op));
        Ok(ticket)
    }

    fn poll_completion(&mut self, _: &mut Context<'_>) -> Poll<DeviceCompletion<u64, usize, Block>> {
        let state = &mut *self.state.borrow_mut();
        if !state.faults.holds && !state.in_flight.is_empty() {
            state.complete(0, self.durable_writes);
        }
        state.done.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
