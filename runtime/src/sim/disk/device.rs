//! The device behind a simulated disk: which operation ends when and how.

use crate::disk::{
    Aligned, BLOCK_BYTES, Backend, Completion, DiskConfig, DiskError, Done, FileEntry, FileId, Op, Ticket, Writes,
    check_name,
};
use crate::local::Inbox;
use crate::sim::disk::faults::{DiskFaultCounters, DiskFaults};
use crate::sim::disk::store::{Change, Inode, Store};
use crate::sim::disk::trace::{Step, Trace, apply_in_flight};
use crate::time::Instant;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const EIO: DiskError = DiskError::Device { errno: 5 };

pub(super) struct Device {
    pub(super) store: Store,
    pub(super) faults: DiskFaults,
    pub(super) counters: DiskFaultCounters,
    pub(super) trace: Option<Trace>,
    /// The next write goes elsewhere.
    pub(super) misdirects_next: bool,
    /// The next write that is to be durable is not, and nobody is told.
    pub(super) loses_next: bool,
    rng: Pcg64Mcg,
    in_flight: Vec<InFlight>,
    open: BTreeMap<FileId, Inode>,
    /// Blocks before their last write, where reads may be stale.
    before: BTreeMap<(Inode, u64), Box<[u8]>>,
    now: Instant,
    stalled_until: Instant,
    /// Programs that have mounted it.
    life: u64,
    files: u32,
    ops: u64,
}

struct InFlight {
    /// In the trace.
    number: u64,
    ticket: Ticket,
    /// When it ends, unless the disk stalls.
    at: Instant,
    what: What,
    buffer: Option<Aligned>,
}

/// An operation with its file found.
enum What {
    Open { name: String },
    Read { inode: Inode, offset: u64 },
    Change { change: Change, opens: bool },
    Close,
}

impl Device {
    pub(super) fn new(rng: Pcg64Mcg, store: Store) -> Device {
        Device {
            store,
            faults: DiskFaults::default(),
            counters: DiskFaultCounters::default(),
            trace: None,
            misdirects_next: false,
            loses_next: false,
            rng,
            in_flight: Vec::new(),
            open: BTreeMap::new(),
            before: BTreeMap::new(),
            now: Instant::ZERO,
            stalled_until: Instant::ZERO,
            life: 0,
            files: 0,
            ops: 0,
        }
    }

    fn strikes(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.random_bool(chance.min(1.0))
    }

    pub(super) fn stall(&mut self, time: Duration) {
        self.stalled_until = self.stalled_until.max(self.now + time);
        self.counters.stalls += 1;
    }

    pub(super) fn end_stall(&mut self) {
        self.stalled_until = self.now;
    }

    pub(super) fn change(&mut self, change: Change) {
        self.store.apply(&change);
        self.step(|| Step::Change(change));
    }

    fn step(&mut self, step: impl FnOnce() -> Step) {
        if let Some(trace) = &mut self.trace {
            trace.steps.push(step());
        }
    }

    pub(super) fn end_process(&mut self) {
        for InFlight { number, what, .. } in std::mem::take(&mut self.in_flight) {
            self.counters.cut_short += 1;
            if let What::Change { change, .. } = what
                && self.rng.random_bool(0.5)
                && let Some(change) = change.in_flight()
                && self.store.check(&change).is_ok()
            {
                self.change(change);
            }
            self.step(|| Step::End(number));
        }
        self.open.clear();
        (self.misdirects_next, self.loses_next) = (false, false);
        self.life += 1;
        self.store.forget_nameless(|_| false);
    }

    pub(super) fn power_cut(&mut self) {
        for InFlight { what, .. } in std::mem::take(&mut self.in_flight) {
            if let What::Change { change, .. } = what {
                apply_in_flight(&mut self.store, &change);
            }
        }
        self.end_process();
        let lost = self.store.power_cut(&mut self.rng);
        self.counters.power_cuts += 1;
        self.counters.lost_writes += lost.writes;
        self.counters.torn_writes += lost.torn;
        self.counters.lost_names += lost.names;
        if let Some(trace) = &mut self.trace {
            // What was is no longer what a crash leaves: begin anew.
            *trace = Trace { start: self.store.clone(), steps: Vec::new() };
        }
    }

    /// An operation reaches the device.
    fn begin(&mut self, ticket: Ticket, what: What, buffer: Option<Aligned>) {
        let faults = self.faults;
        let spread = faults.delay_max.saturating_sub(faults.delay_min).as_nanos() as u64;
        let mut delay = faults.delay_min + Duration::from_nanos(self.rng.random_range(0..=spread));
        if self.strikes(faults.slow) {
            self.counters.slowed += 1;
            delay += faults.slow_delay;
        }
        if self.strikes(faults.stall) {
            self.stall(faults.stall_time);
        }
        self.ops += 1;
        let number = self.ops;
        if let What::Change { change, .. } = &what {
            let change = change.clone();
            self.step(|| Step::Begin(number, change));
        }
        self.in_flight.push(InFlight { number, ticket, at: self.now + delay, what, buffer });
    }

    fn next_completion(&self) -> Option<Instant> {
        self.in_flight.iter().map(|op| op.at).min().map(|at| at.max(self.stalled_until))
    }

    /// Ends the next operation whose time has come.
    fn end_next(&mut self, files_max: usize) -> Option<Completion> {
        if self.now < self.stalled_until {
            return None;
        }
        let (index, _) = self.in_flight.iter().enumerate().min_by_key(|(_, op)| (op.at, op.number))?;
        if self.in_flight[index].at > self.now {
            return None;
        }
        let InFlight { number, ticket, what, mut buffer, .. } = self.in_flight.remove(index);
        let result = match what {
            What::Open { name } => self.store.find(&name).and_then(|inode| self.opened(inode, files_max)),
            What::Read { inode, offset } => {
                let buffer = buffer.as_deref_mut().unwrap_or_default();
                self.read(inode, offset, buffer).map(|bytes| Done::Read { bytes })
            }
            What::Change { change, opens: true } => self.create(change, files_max),
            What::Change { change, .. } => self.make(change).map(|()| Done::Finished),
            What::Close => Ok(Done::Finished),
        };
        self.step(|| Step::End(number));
        let (open, in_flight) = (&self.open, &self.in_flight);
        self.store.forget_nameless(|inode| {
            open.values().any(|&open| open == inode) || in_flight.iter().any(|op| op.what.inode() == Some(inode))
        });
        Some(Completion { ticket, result, buffer })
    }

    fn opened(&mut self, inode: Inode, files_max: usize) -> Result<Done, DiskError> {
        if self.open.len() >= files_max {
            return Err(DiskError::TooManyFiles);
        }
        let file = FileId(self.files);
        self.files += 1;
        self.open.insert(file, inode);
        Ok(Done::Opened { file, bytes: self.store.file_bytes(inode) })
    }

    fn create(&mut self, change: Change, files_max: usize) -> Result<Done, DiskError> {
        let Change::Create { inode, bytes, .. } = change else { return Err(EIO) };
        self.store.check(&change)?;
        self.make_room(bytes)?;
        if self.strikes(self.faults.write_error) {
            self.counters.write_errors += 1;
            return Err(EIO);
        }
        self.change(change);
        self.opened(inode, files_max)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), DiskError> {
        if self.store.used_bytes().saturating_add(bytes) > self.faults.space_bytes {
            self.counters.no_space += 1;
            return Err(DiskError::NoSpace);
        }
        Ok(())
    }

    fn make(&mut self, change: Change) -> Result<(), DiskError> {
        self.store.check(&change)?;
        match change {
            Change::Write { inode, offset, content, through } => self.write(inode, offset, content, through),
            Change::Sync { .. } | Change::SyncNames { .. } => {
                if self.strikes(self.faults.sync_error) {
                    self.counters.sync_errors += 1;
                    return Err(EIO);
                }
                if self.strikes(self.faults.lost_sync) {
                    self.counters.lost_syncs += 1;
                    return Ok(());
                }
                self.change(change);
                Ok(())
            }
            change => {
                self.change(change);
                Ok(())
            }
        }
    }

    fn write(&mut self, inode: Inode, offset: u64, content: Rc<[u8]>, through: bool) -> Result<(), DiskError> {
        let faults = self.faults;
        let file_bytes = self.store.file_bytes(inode);
        let end = offset + content.len() as u64;
        self.make_room(end.saturating_sub(file_bytes))?;
        if self.strikes(faults.write_error) {
            self.counters.write_errors += 1;
            if self.rng.random_bool(0.5) {
                self.change(Change::Write { inode, offset, content, through: false });
            }
            return Err(EIO);
        }
        let mut offset = offset;
        let places = file_bytes.saturating_sub(content.len() as u64) / BLOCK_BYTES as u64;
        if places > 0 && (std::mem::take(&mut self.misdirects_next) || self.strikes(faults.misdirect)) {
            let place = self.rng.random_range(0..places) * BLOCK_BYTES as u64;
            // Of `places + 1` places all but the right one.
            offset = if place >= offset { place + BLOCK_BYTES as u64 } else { place };
            self.counters.misdirected += 1;
        }
        if faults.stale_read > 0.0 {
            for at in (offset..offset + content.len() as u64).step_by(BLOCK_BYTES) {
                let mut before = vec![0; BLOCK_BYTES].into_boxed_slice();
                self.store.read(inode, at, &mut before);
                self.before.insert((inode, at), before);
            }
        }
        let lost = through && (std::mem::take(&mut self.loses_next) || self.strikes(faults.lost_sync));
        self.counters.lost_syncs += u64::from(lost);
        let through = through && !lost;
        self.change(Change::Write { inode, offset, content, through });
        if self.strikes(faults.rot) {
            let byte = self.rng.random_range(0..self.store.file_bytes(inode));
            let bit = self.rng.random_range(0..8);
            self.change(Change::Rot { inode, byte, bit });
            self.counters.rotted += 1;
        }
        Ok(())
    }

    fn read(&mut self, inode: Inode, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let faults = self.faults;
        if self.strikes(faults.read_error) {
            self.counters.read_errors += 1;
            return Err(EIO);
        }
        let bytes = self.store.read(inode, offset, buffer);
        if self.strikes(faults.stale_read) {
            let within = (inode, offset)..(inode, offset + bytes as u64);
            let known = self
                .before
                .range(within.clone())
                .filter(|((_, at), _)| at + BLOCK_BYTES as u64 <= offset + bytes as u64);
            let count = known.count();
            if count > 0 {
                let which = self.rng.random_range(0..count);
                if let Some(((_, at), before)) = self.before.range(within).nth(which) {
                    let start = (at - offset) as usize;
                    buffer[start..start + BLOCK_BYTES].copy_from_slice(before);
                    self.counters.stale_reads += 1;
                }
            }
        }
        Ok(bytes)
    }
}

impl What {
    fn inode(&self) -> Option<Inode> {
        match self {
            What::Read { inode, .. } => Some(*inode),
            What::Change { change: Change::Write { inode, .. } | Change::Sync { inode, .. }, .. } => Some(*inode),
            _ => None,
        }
    }
}

/// The device as one program has it.
pub(super) struct Mounted {
    device: Rc<RefCell<Device>>,
    life: u64,
    config: DiskConfig,
    queued: VecDeque<(Ticket, Op)>,
    refused: VecDeque<Completion>,
}

impl Mounted {
    pub(super) fn new(device: Rc<RefCell<Device>>, config: DiskConfig) -> Self {
        device.borrow_mut().end_process();
        let life = device.borrow().life;
        Mounted { device, life, config, queued: VecDeque::new(), refused: VecDeque::new() }
    }

    fn is_alive(&self) -> bool {
        self.device.borrow().life == self.life
    }

    /// Finds the operation's file and what it is to change.
    fn resolve(&self, device: &mut Device, op: &Op) -> Result<What, DiskError> {
        let find = |file: &FileId| device.open.get(file).copied().ok_or(DiskError::Closed(*file));
        let aligned =
            |bytes: u64| if bytes.is_multiple_of(BLOCK_BYTES as u64) { Ok(()) } else { Err(DiskError::Misaligned) };
        let change = match op {
            Op::Create { name, bytes } => {
                check_name(name)?;
                aligned(*bytes)?;
                let inode = device.store.new_inode();
                let change = Change::Create { name: name.clone(), inode, bytes: *bytes, done: true };
                return Ok(What::Change { change, opens: true });
            }
            Op::Open { name } => {
                check_name(name)?;
                return Ok(What::Open { name: name.clone() });
            }
            Op::Read { file, offset, .. } => {
                aligned(*offset)?;
                return Ok(What::Read { inode: find(file)?, offset: *offset });
            }
            Op::Close { file } => {
                find(file)?;
                device.open.remove(file);
                return Ok(What::Close);
            }
            Op::Write { file, offset, buffer } => {
                aligned(*offset)?;
                let through = self.config.writes == Writes::Durable;
                Change::Write { inode: find(file)?, offset: *offset, content: buffer[..].into(), through }
            }
            Op::Sync { file } => Change::Sync { inode: find(file)?, writes: device.store.writes() },
            Op::SyncDirectory => Change::SyncNames { changes: device.store.changes() },
            Op::Rename { from, to } => {
                check_name(from)?;
                check_name(to)?;
                Change::Rename { from: from.clone(), to: to.clone() }
            }
            Op::Remove { name } => {
                check_name(name)?;
                Change::Remove { name: name.clone() }
            }
        };
        Ok(What::Change { change, opens: false })
    }
}

impl Backend for Mounted {
    fn attach(&mut self, _inbox: &Arc<Inbox>) {}

    fn submit(&mut self, ticket: Ticket, op: Op) {
        self.queued.push_back((ticket, op));
    }

    fn flush(&mut self, now: Instant) -> usize {
        if !self.is_alive() {
            self.queued.clear();
        }
        let device = self.device.clone();
        let mut device = device.borrow_mut();
        device.now = device.now.max(now);
        let count = self.queued.len();
        while let Some((ticket, op)) = self.queued.pop_front() {
            match self.resolve(&mut device, &op) {
                Ok(what) => device.begin(ticket, what, op.into_buffer()),
                Err(error) => {
                    self.refused.push_back(Completion { ticket, result: Err(error), buffer: op.into_buffer() });
                }
            }
        }
        count
    }

    fn reap(&mut self, now: Instant, done: &mut VecDeque<Completion>) {
        if !self.is_alive() {
            return;
        }
        done.append(&mut self.refused);
        let mut device = self.device.borrow_mut();
        device.now = device.now.max(now);
        while let Some(completion) = device.end_next(self.config.files_max) {
            done.push_back(completion);
        }
    }

    fn has_work(&self) -> bool {
        self.is_alive() && !(self.queued.is_empty() && self.refused.is_empty())
    }

    fn next_completion(&self) -> Option<Instant> {
        self.is_alive().then(|| self.device.borrow().next_completion()).flatten()
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn lock(&mut self) -> Result<(), DiskError> {
        // A later program has mounted it: there is never a second.
        if self.is_alive() { Ok(()) } else { Err(DiskError::Held) }
    }

    fn list(&self) -> Result<Vec<FileEntry>, DiskError> {
        Ok(self.device.borrow().store.list())
    }

    fn file_bytes(&self, name: &str) -> Result<u64, DiskError> {
        let device = self.device.borrow();
        Ok(device.store.file_bytes(device.store.find(name)?))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut device = self.device.borrow_mut();
        let inode = device.store.find(name)?;
        device.read(inode, offset, buffer)
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        let mut device = self.device.borrow_mut();
        for FileEntry { name, .. } in device.store.list() {
            let (inode, writes) = (device.store.find(&name)?, device.store.writes());
            device.make(Change::Sync { inode, writes })?;
        }
        let changes = device.store.changes();
        device.make(Change::SyncNames { changes })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_alive() {
            self.device.borrow_mut().end_process();
        }
    }
}
