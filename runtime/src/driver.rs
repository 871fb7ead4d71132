//! The seam between the loop and whatever brings packets.

use crate::time::Instant;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What one [`Driver::poll`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polled {
    /// Packets taken from the device, delivered or dropped.
    pub packets: usize,
    /// The device had at least as many as the budget allowed: poll again soon.
    pub more: bool,
}

/// What one [`Driver::flush`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Packets handed to the device.
    pub packets: usize,
    /// Packets that the device did not take; they stay queued for the next turn.
    pub left: usize,
}

/// Brings packets to the tasks of one core and takes theirs away. Implemented by `trimaran-net`.
///
/// Neither `poll` nor `flush` blocks. `park` is the only call of the loop that does. `now` is the time of the wire: the
/// core's own, except in a simulated world, where machines' clocks may drift and packets in flight must not.
pub trait Driver {
    /// Called once on the core's own thread before the first turn.
    fn start(&mut self) {}

    /// Receives one burst of at most `budget` packets, queues them at their sockets and wakes the waiting tasks.
    fn poll(&mut self, now: Instant, budget: usize) -> Polled;

    /// Transmits what tasks have queued.
    fn flush(&mut self, now: Instant) -> Flushed;

    /// Blocks until a packet may be there, `wake` is readable, or `timeout` has passed (`None`: no timer is pending).
    /// Returns at once where a packet is already there. Spurious returns are allowed; the caller polls again.
    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>);

    /// When the next packet arrives, if the driver can know it. Only simulated drivers do; the world jumps to it.
    fn next_arrival(&self) -> Option<Instant> {
        None
    }
}

/// For a core that only computes: nothing arrives, and it sleeps until another core wakes it or a timer is due.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDevice;

impl Driver for NoDevice {
    fn poll(&mut self, _: Instant, _: usize) -> Polled {
        Polled::default()
    }

    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fd = wake.map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN));
        // An error here is an interrupted sleep, and the core looks again.
        let _ = poll(fd.as_mut_slice(), timeout.as_ref());
    }
}
