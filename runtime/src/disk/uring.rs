//! Reads, writes and syncs through io_uring: handed to the kernel once a turn, several at once in flight.
//!
//! The kernel reads and writes the buffers of operations in flight whenever it likes. So a buffer belongs to this ring from
//! `submit` until the kernel has answered, nobody else can reach it, and when the ring ends it waits for the answers; where the
//! device does not give them, it leaks the buffers rather than free them.

use crate::disk::directory::Job;
use crate::disk::{Aligned, Completion, DiskError, Done, Ticket};
use crate::local::Inbox;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Waits of 100 ms for what is in flight when the ring ends.
const LAST_WAITS: usize = 50;
/// The most that the kernel is asked to move at once.
const PIECE_BYTES: usize = 1 << 30;

pub(super) struct Ring {
    ring: ManuallyDrop<IoUring>,
    /// By the ticket's slot.
    in_flight: ManuallyDrop<Vec<Option<InFlight>>>,
    count: usize,
    /// In the submission queue, not known to the kernel yet.
    queued: usize,
    /// Slots whose operation was done in part and goes on.
    again: Vec<usize>,
    /// Keeps the eventfd open that the kernel writes to.
    inbox: Option<Arc<Inbox>>,
}

/// An operation and all that the kernel may touch for its sake.
struct InFlight {
    ticket: Ticket,
    what: What,
    file: Arc<OwnedFd>,
    offset: u64,
    buffer: Option<Aligned>,
    /// Bytes of a write that are done.
    done: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Write,
    Read,
    Sync,
}

impl Ring {
    /// A ring for so many operations at once. Fails where the kernel has none or forbids it.
    pub(super) fn new(ops_max: usize) -> io::Result<Ring> {
        let entries = ops_max.next_power_of_two() as u32;
        // Completions are worked off when this thread asks for them, not by interrupting it. Since Linux 6.1; else the default.
        let modern = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(entries);
        let mut ring = match modern {
            Ok(ring) => ring,
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => IoUring::new(entries)?,
            Err(error) => return Err(error),
        };
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Write::CODE, opcode::Read::CODE, opcode::Fsync::CODE, opcode::Nop::CODE];
        if !needed.iter().all(|&code| probe.is_supported(code)) || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        // One to see that entering is not forbidden either, as some sandboxes do.
        // SAFETY: an operation without memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        ring.completion().for_each(drop);
        Ok(Ring {
            ring: ManuallyDrop::new(ring),
            in_flight: ManuallyDrop::new((0..ops_max).map(|_| None).collect()),
            count: 0,
            queued: 0,
            again: Vec::with_capacity(ops_max),
            inbox: None,
        })
    }

    /// Completions end the sleep of this core from now on.
    pub(super) fn attach(&mut self, inbox: &Arc<Inbox>) {
        // A core without an eventfd never sleeps for long.
        if let Some(eventfd) = inbox.bell.eventfd() {
            match self.ring.submitter().register_eventfd(eventfd.as_raw_fd()) {
                Ok(()) => self.inbox = Some(inbox.clone()),
                Err(error) => tracing::error!(%error, "a sleeping core will not be woken by its disk"),
            }
        }
    }

    /// Takes the job, or gives it back where it is none for a ring.
    pub(super) fn submit(&mut self, ticket: Ticket, job: Job) -> Result<(), Job> {
        let (what, file, offset, buffer) = match job {
            Job::Write { file, offset, buffer } => (What::Write, file, offset, Some(buffer)),
            Job::Read { file, offset, buffer } => (What::Read, file, offset, Some(buffer)),
            Job::Sync { file } => (What::Sync, file, 0, None),
            job => return Err(job),
        };
        let slot = ticket.slot();
        self.in_flight[slot] = Some(InFlight { ticket, what, file, offset, buffer, done: 0 });
        self.count += 1;
        self.push(slot);
        Ok(())
    }

    /// Puts the operation of a slot, or what is left of it, into the submission queue.
    fn push(&mut self, slot: usize) {
        let Some(in_flight) = &mut self.in_flight[slot] else { return };
        let entry = in_flight.entry(slot as u64);
        // SAFETY: the entry's descriptor and buffer are kept in `in_flight`, untouched, until the kernel has answered it; the
        // buffer's memory does not move with its owner.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // The queue has a place for each slot, and each slot is in it at most once.
        assert!(pushed.is_ok(), "the ring is as large as the table of operations");
        self.queued += 1;
    }

    /// Hands the queue to the kernel and tells how many it took. What it did not take, for want of memory, stays for the next turn.
    pub(super) fn flush(&mut self) -> usize {
        if self.queued == 0 {
            return 0;
        }
        match self.ring.submit() {
            Ok(taken) => {
                self.queued -= taken.min(self.queued);
                taken
            }
            // Busy or interrupted: the next turn tries again.
            Err(_) => 0,
        }
    }

    /// Takes what the kernel has answered.
    pub(super) fn reap(&mut self, done: &mut VecDeque<Completion>) {
        let asks = {
            let queue = self.ring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        if asks {
            // The kernel has results and wants this thread to fetch them; what is queued goes along.
            if let Ok(taken) = self.ring.submit() {
                self.queued -= taken.min(self.queued);
            }
        }
        for answer in self.ring.completion() {
            let slot = answer.user_data() as usize;
            let Some(in_flight) = self.in_flight.get_mut(slot) else { continue };
            let Some(operation) = in_flight else { continue };
            match operation.end(answer.result()) {
                None => self.again.push(slot),
                Some(result) => {
                    let ticket = operation.ticket;
                    let buffer = in_flight.take().and_then(|operation| operation.buffer);
                    self.count -= 1;
                    done.push_back(Completion { ticket, result, buffer });
                }
            }
        }
        while let Some(slot) = self.again.pop() {
            self.push(slot);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        // SAFETY: nobody else holds a view of the queues while `self` is borrowed, and these views do not outlive this line.
        let (submission, completion) = unsafe { (self.ring.submission_shared(), self.ring.completion_shared()) };
        self.queued > 0 || submission.taskrun() || submission.cq_overflow() || !completion.is_empty()
    }
}

impl InFlight {
    fn entry(&mut self, user_data: u64) -> Entry {
        let fd = Fd(self.file.as_raw_fd());
        let at = self.offset + self.done as u64;
        let rest = self.buffer.as_mut().map_or(&mut [][..], |buffer| &mut buffer[self.done..]);
        let bytes = rest.len().min(PIECE_BYTES) as u32;
        let entry = match self.what {
            What::Write => opcode::Write::new(fd, rest.as_ptr(), bytes).offset(at).build(),
            What::Read => opcode::Read::new(fd, rest.as_mut_ptr(), bytes).offset(at).build(),
            What::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(user_data)
    }

    /// What the kernel's answer means; `None`: there is more to do.
    fn end(&mut self, result: i32) -> Option<Result<Done, DiskError>> {
        if result < 0 {
            let errno = Errno::from_raw_os_error(-result);
            let retry = matches!(errno, Errno::INTR | Errno::AGAIN);
            return (!retry).then(|| Err(errno.into()));
        }
        let bytes = result as usize;
        let len = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        match self.what {
            What::Sync => Some(Ok(Done::Finished)),
            What::Write if bytes == 0 => Some(Err(DiskError::NoSpace)),
            What::Write | What::Read => {
                self.done += bytes;
                // A read that ends within a sector has come to the end of the file.
                let is_end = self.what == What::Read && (bytes == 0 || !bytes.is_multiple_of(512));
                match self.what {
                    _ if self.done < len && !is_end => None,
                    What::Read => Some(Ok(Done::Read { bytes: self.done })),
                    _ => Some(Ok(Done::Finished)),
                }
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut ended = VecDeque::new();
        for _ in 0..LAST_WAITS {
            self.reap(&mut ended);
            if self.count == 0 {
                break;
            }
            let wait = Timespec::new().nsec(100_000_000);
            // It fails when the time is up, among others.
            if let Ok(taken) = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait)) {
                self.queued -= taken.min(self.queued);
            }
        }
        if self.count > 0 {
            tracing::error!(ops = self.count, "the disk does not answer: the buffers of its operations are given up");
            return;
        }
        // SAFETY: both are dropped here and nowhere else, and not used afterwards; the kernel has answered everything, so that no
        // buffer is in its hands.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.in_flight);
        }
    }
}
