//! How a core sleeps while its queue is empty.

use super::interrupt::RxInterrupt;
use super::sockets::QueueSocket;
use super::{DpdkError, refused};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use trimaran_runtime::Instant;

/// Longest sleep where no descriptor tells of room in a full device, and shortest where none tells of a frame.
const NAP: Duration = Duration::from_micros(50);
/// Longest sleep where no descriptor tells of a frame, however long none has come.
const NAP_MAX: Duration = Duration::from_millis(2);
/// Such a sleep is that part of the time since the last frame: who comes after a pause waits half of it at most, and a core that
/// hears heartbeats every 20 ms looks some twenty times in between. With naps of 50 us these would be 400, and a tenth of its time.
const NAP_SHARE: u32 = 2;

const SOCKET_KEY: u64 = 1;
const WAKE_KEY: u64 = 2;
const INTERRUPT_KEY: u64 = 3;

/// What ends the sleep of a core when a frame comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepKind {
    /// The device's own socket (af_packet, af_xdp). An idle core costs nothing.
    Socket,
    /// The card's interrupt. An idle core costs nothing.
    Interrupt,
    /// Nothing: the device has neither a socket nor interrupts, so the core looks every 50 us, and less often, up to every 2 ms, the longer no frame
    /// has come.
    Naps,
}

impl fmt::Display for SleepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SleepKind::Socket => "until the device's socket wakes it",
            SleepKind::Interrupt => "until the card's interrupt wakes it",
            SleepKind::Naps => "50 us to 2 ms at a time",
        })
    }
}

/// The sleep of one queue's core.
#[derive(Debug)]
pub(super) struct Sleeper {
    epoll: OwnedFd,
    socket: Option<QueueSocket>,
    interrupt: Option<RxInterrupt>,
    wake: Option<RawFd>,
    /// When the last frames came.
    risen: Instant,
}

impl Sleeper {
    /// For a queue that the driver serves by `socket`, where that is known.
    pub(super) fn new(socket: Option<QueueSocket>) -> Result<Sleeper, DpdkError> {
        let refuse = |errno: rustix::io::Errno| refused("prepare to sleep", errno.raw_os_error());
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(refuse)?;
        if let Some(socket) = &socket {
            epoll::add(&epoll, socket.as_fd(), EventData::new_u64(SOCKET_KEY), EventFlags::IN).map_err(refuse)?;
        }
        Ok(Sleeper { epoll, socket, interrupt: None, wake: None, risen: Instant::ZERO })
    }

    /// For a queue that has an interrupt. Its port must run for as long as this is used.
    pub(super) fn with_interrupt(interrupt: RxInterrupt) -> Result<Sleeper, DpdkError> {
        let mut sleeper = Sleeper::new(None)?;
        // SAFETY: the port keeps the descriptor open.
        let fd = unsafe { BorrowedFd::borrow_raw(interrupt.fd()) };
        let added = epoll::add(&sleeper.epoll, fd, EventData::new_u64(INTERRUPT_KEY), EventFlags::IN);
        added.map_err(|errno| refused("prepare to sleep", errno.raw_os_error()))?;
        sleeper.interrupt = Some(interrupt);
        Ok(sleeper)
    }

    /// Frames have come: the next sleep must prepare for more of them anew.
    #[inline]
    pub(super) fn rise(&mut self, now: Instant) {
        self.risen = now;
        if let Some(interrupt) = &mut self.interrupt {
            interrupt.frames_came(now);
        }
    }

    /// What wakes it.
    pub(super) fn socket(&self) -> Option<&QueueSocket> {
        self.socket.as_ref()
    }

    pub(super) fn kind(&self) -> SleepKind {
        let interrupt = self.interrupt.as_ref().filter(|interrupt| !interrupt.is_broken());
        match (&self.socket, interrupt) {
            (Some(_), _) => SleepKind::Socket,
            (None, Some(_)) => SleepKind::Interrupt,
            (None, None) => SleepKind::Naps,
        }
    }

    /// Sleeps until a frame may be there, `wake` is readable, or `timeout` has passed; only for a moment where the device is `full`, since
    /// no descriptor tells of room. Frames that came before the sleep end it at once: sockets are watched by level, and the first sleep after
    /// frames have come only arms the interrupt and returns, so that the caller looks at the queue once more.
    pub(super) fn sleep(&mut self, now: Instant, timeout: Option<Duration>, full: bool, wake: Option<BorrowedFd<'_>>) {
        if let Some(wake) = wake {
            self.watch(wake);
        }
        match self.prepare(now, full) {
            Some(Duration::ZERO) => {}
            longest => self.wait(timeout.into_iter().chain(longest).min()),
        }
    }

    /// The first half of a sleep: how long it may last at most, and not at all where an interrupt has just been armed.
    pub(super) fn prepare(&mut self, now: Instant, full: bool) -> Option<Duration> {
        let is_late = self.interrupt.as_ref().is_some_and(|interrupt| interrupt.is_late(now));
        if !is_late && self.interrupt.as_mut().is_some_and(RxInterrupt::arm) {
            return Some(Duration::ZERO);
        }
        if full || is_late {
            return Some(NAP);
        }
        (self.kind() == SleepKind::Naps).then(|| (now.saturating_since(self.risen) / NAP_SHARE).clamp(NAP, NAP_MAX))
    }

    /// Readable when a frame has come.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The second half: waits, and takes note of what has happened.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        // A duration that does not fit a timespec is 292 billion years.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [const { MaybeUninit::<Event>::uninit() }; 3];
        // An error (a signal, most likely) looks like a sleep that ended early, which every caller expects.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) else { return };
        let failed = |event: &Event| {
            let (key, flags) = (event.data.u64(), event.flags);
            key == SOCKET_KEY && flags.contains(EventFlags::ERR)
        };
        let interrupted = events.iter().any(|event| event.data.u64() == INTERRUPT_KEY);
        if let Some(interrupt) = self.interrupt.as_mut().filter(|_| interrupted) {
            interrupt.take();
        }
        if let Some(socket) = self.socket.take_if(|socket| events.iter().any(failed) && !socket.clear_error()) {
            tracing::warn!("a device's descriptor stays in error: the core sleeps {} from now on", SleepKind::Naps);
            let _ = epoll::delete(&self.epoll, socket.as_fd());
        }
    }

    fn watch(&mut self, wake: BorrowedFd<'_>) {
        if self.wake == Some(wake.as_raw_fd()) {
            return;
        }
        match epoll::add(&self.epoll, wake, EventData::new_u64(WAKE_KEY), EventFlags::IN) {
            Ok(()) => self.wake = Some(wake.as_raw_fd()),
            Err(errno) => tracing::error!(%errno, "cannot watch the core's wake fd: wakes from other threads are late"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_grow_with_the_time_since_the_last_frame() {
        let mut sleeper = Sleeper::new(None).expect("an epoll instance");
        let at = |us: u64| Instant::from_nanos(1_000_000_000 + 1_000 * us);
        let us = |us| Some(Duration::from_micros(us));
        sleeper.rise(at(0));
        let naps = [0, 100, 200, 1_000, 4_000, 1_000_000].map(|us| sleeper.prepare(at(us), false));
        assert_eq!(naps, [us(50), us(50), us(100), us(500), us(2_000), us(2_000)]);
        assert_eq!(sleeper.prepare(at(1_000_000), true), us(50), "room in a full device comes sooner than a frame");
        sleeper.rise(at(1_000_000));
        assert_eq!(sleeper.prepare(at(1_000_000), false), us(50));
    }
}
