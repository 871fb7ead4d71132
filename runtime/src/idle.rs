//! From spinning to sleep, and the bell that ends the sleep.

use crate::handshake::Handshake;
use crate::time::Instant;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A yield that took so long gave the processor to somebody who uses up his share of it. Cores among themselves give it back
/// within some microseconds, and what else interrupts a thread is shorter.
const YIELD_LONG: Duration = Duration::from_millis(1);
/// After so many others a long yield is an accident, not a neighbour's habit.
const GOOD_YIELDS: u32 = 1000;
/// Who has slept for so long has little to do: a heartbeat now and then,
const LONG_SLEEP: Duration = Duration::from_millis(1);
/// and until so many turns have found work it looks only a part as often before it sleeps again,
const FEW_TURNS: u32 = 4;
/// one in so many.
const BRIEF: u32 = 8;
/// After such a yield a core sleeps instead, for so long; again and again for twice as long,
const SHY_MIN: Duration = Duration::from_millis(20);
/// up to this.
const SHY_MAX: Duration = Duration::from_secs(1);

/// What a core does when it has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls for ever: the shortest reaction, for a core that nothing else uses.
    Spin,
    /// Polls so many times, then as often with a yield of the thread after each, then sleeps. After a long sleep it does so less often
    /// until there is more to do than a heartbeat. Where a yield turns out to cost
    /// milliseconds, since a busy program shares the processor, it sleeps without yielding for a while: a sleeper that a packet
    /// wakes is let in at once, one that has yielded waits for its turn.
    Hybrid {
        /// Empty turns before the first yield.
        polls: u32,
        /// Empty turns, each followed by a yield, before sleeping.
        yields: u32,
    },
    /// Sleeps at once.
    Park,
}

impl Default for Idle {
    /// As long as a sleep and its end would take. The first few polls, some microseconds together, keep the processor: an answer of a
    /// peer may be as near as that. After them whoever else wants it gets it.
    fn default() -> Self {
        Idle::Hybrid { polls: 16, yields: 120 }
    }
}

/// What to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    None,
    Yield,
    Park,
}

/// Counts empty turns in a row.
#[derive(Debug)]
pub(crate) struct Idler {
    policy: Idle,
    empty: u32,
    /// No yields before this.
    shy_until: Instant,
    shy: Duration,
    /// Yields since the last long one.
    good: u32,
    /// Turns with work since the last long sleep.
    worked: u32,
}

impl Idler {
    pub(crate) fn new(policy: Idle) -> Self {
        Idler { policy, empty: 0, shy_until: Instant::ZERO, shy: SHY_MIN, good: GOOD_YIELDS, worked: FEW_TURNS }
    }

    /// What to do after a turn that began at `now`.
    pub(crate) fn after_turn(&mut self, now: Instant, worked: bool) -> Rest {
        if worked {
            self.empty = 0;
            self.worked = self.worked.saturating_add(1);
            return Rest::None;
        }
        self.empty = self.empty.saturating_add(1);
        match self.policy {
            Idle::Spin => Rest::None,
            Idle::Park => Rest::Park,
            Idle::Hybrid { polls, .. } if self.empty <= polls => Rest::None,
            Idle::Hybrid { polls, yields } if now >= self.shy_until => {
                let yields = if self.worked < FEW_TURNS { yields.div_ceil(BRIEF) } else { yields };
                if self.empty <= polls.saturating_add(yields) { Rest::Yield } else { Rest::Park }
            }
            Idle::Hybrid { .. } => Rest::Park,
        }
    }

    /// A sleep has ended that began then.
    pub(crate) fn slept(&mut self, from: Instant, to: Instant) {
        if to.saturating_since(from) >= LONG_SLEEP {
            self.worked = 0;
        }
    }

    /// A yield began and ended then.
    pub(crate) fn yielded(&mut self, from: Instant, to: Instant) {
        if to.saturating_since(from) < YIELD_LONG {
            self.good = self.good.saturating_add(1);
            return;
        }
        let is_habit = std::mem::take(&mut self.good) < GOOD_YIELDS;
        self.shy = if is_habit { (2 * self.shy).min(SHY_MAX) } else { SHY_MIN };
        self.shy_until = to + self.shy;
    }
}

/// Sleeps that nobody has ended by the bell, after which its eventfd is read all the same: a waker may be between its exchange and
/// its write, and what it writes then must not make every later sleep return at once.
const SLEEPS_UNHUSHED: u8 = 16;

/// Both sides of the sleep: [`Handshake`] with the eventfd that it speaks of.
#[derive(Debug)]
pub(crate) struct Bell {
    handshake: Handshake,
    /// Sleeps since the eventfd was read. The core's alone, atomic since the bell is shared.
    unhushed: AtomicU8,
    /// None where the core never sleeps by itself (simulation) or the process is out of descriptors; the core then
    /// sleeps in short spells.
    eventfd: Option<OwnedFd>,
}

impl Bell {
    pub(crate) fn new(with_eventfd: bool) -> Self {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let eventfd = with_eventfd.then(|| eventfd(0, flags)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "no eventfd: the core will sleep for at most a millisecond at a time");
            None
        });
        Bell { handshake: Handshake::new(), unhushed: AtomicU8::new(0), eventfd }
    }

    /// Any thread: there is work in the inbox.
    pub(crate) fn ring(&self) {
        if self.handshake.ring()
            && let Some(eventfd) = &self.eventfd
        {
            // It fails only where the counter is at its maximum, and then the sleeper wakes anyway.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// The core: is there work? Cheap.
    pub(crate) fn is_ready(&self) -> bool {
        self.handshake.is_ready()
    }

    /// The core: takes note that it is about to look into the inbox.
    pub(crate) fn take_ready(&self) -> bool {
        self.handshake.take_ready()
    }

    /// The core: runs `sleep`, unless work came before. True where another thread ended the sleep.
    pub(crate) fn sleep(&self, sleep: impl FnOnce(Option<BorrowedFd<'_>>)) -> bool {
        let slept = self.handshake.fall_asleep();
        if slept {
            sleep(self.eventfd());
        }
        let woken = self.handshake.rise();
        let unhushed = self.unhushed.load(Ordering::Relaxed) + 1;
        if woken || unhushed == SLEEPS_UNHUSHED {
            self.hush();
        } else {
            self.unhushed.store(unhushed, Ordering::Relaxed);
        }
        slept && woken
    }

    /// The core, awake: forgets what was written to the eventfd meanwhile.
    pub(crate) fn hush(&self) {
        self.unhushed.store(0, Ordering::Relaxed);
        if let Some(eventfd) = &self.eventfd {
            let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
        }
    }

    /// The descriptor that ends the sleep, for a kernel's ring to write to as well.
    pub(crate) fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.eventfd.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn can_be_rung(&self) -> bool {
        self.eventfd.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(fd: Option<BorrowedFd<'_>>) -> bool {
        let fd = fd.expect("an eventfd");
        let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn hybrid_spins_then_yields_then_parks_and_work_starts_over() {
        let mut idler = Idler::new(Idle::Hybrid { polls: 2, yields: 1 });
        let rests: Vec<Rest> = [false, false, false, false, false, true, false, false, false]
            .into_iter()
            .map(|worked| idler.after_turn(Instant::ZERO, worked))
            .collect();
        use Rest::*;
        assert_eq!(rests, [None, None, Yield, Park, Park, None, None, None, Yield]);
    }

    #[test]
    fn spin_never_rests_and_park_always_does() {
        let mut spin = Idler::new(Idle::Spin);
        assert!((0..1000).all(|_| spin.after_turn(Instant::ZERO, false) == Rest::None));
        assert_eq!(Idler::new(Idle::Park).after_turn(Instant::ZERO, false), Rest::Park);
    }

    #[test]
    fn a_core_that_is_woken_by_a_heartbeat_goes_to_sleep_soon() {
        let mut idler = Idler::new(Idle::Hybrid { polls: 1, yields: 16 });
        let looks = |idler: &mut Idler, worked: u32| {
            for _ in 0..worked {
                idler.after_turn(Instant::ZERO, true);
            }
            (0..).take_while(|_| idler.after_turn(Instant::ZERO, false) != Rest::Park).count()
        };
        assert_eq!(looks(&mut idler, 1), 17);
        idler.slept(Instant::ZERO, Instant::from_nanos(20_000_000));
        assert_eq!((looks(&mut idler, 1), looks(&mut idler, 1)), (3, 3), "a heartbeat, and another right after it");
        assert_eq!(looks(&mut idler, 2), 17, "there is more to do");
        idler.slept(Instant::ZERO, Instant::from_nanos(900_000));
        assert_eq!(looks(&mut idler, 1), 17, "a short sleep says nothing");
    }

    #[test]
    fn a_core_beside_a_busy_program_sleeps_instead_of_yielding() {
        let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut idler = Idler::new(Idle::Hybrid { polls: 0, yields: 9 });
        // Each yield takes 4 ms, as beside a program that only computes: ever fewer of them, and never none for good.
        let (mut at, mut yields) = (ms(1000), Vec::new());
        while at < ms(6000) {
            idler.after_turn(at, true);
            if idler.after_turn(at, false) == Rest::Yield {
                yields.push(at.as_nanos() / 1_000_000);
                idler.yielded(at, at + Duration::from_millis(4));
            }
            at += Duration::from_millis(1);
        }
        assert_eq!(yields[..4], [1000, 1024, 1068, 1152], "{yields:?}");
        let longest = yields.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(longest, Some(1004), "{yields:?}");
        // One among many short ones is soon forgotten.
        for _ in 0..1000 {
            idler.yielded(ms(20_000), ms(20_000));
        }
        idler.yielded(ms(20_000), ms(20_001));
        idler.after_turn(ms(20_021), true);
        assert_eq!(idler.after_turn(ms(20_021), false), Rest::Yield);
    }

    #[test]
    fn work_before_the_sleep_prevents_it() {
        let bell = Bell::new(true);
        bell.ring();
        bell.sleep(|_| panic!("slept although there was work"));
        assert!(bell.take_ready());
        assert!(!bell.take_ready());
    }

    #[test]
    fn a_ring_in_the_sleep_makes_the_eventfd_readable_and_only_then() {
        let bell = Bell::new(true);
        // Awake: no system call for the waker.
        bell.ring();
        assert!(bell.take_ready());
        assert!(!bell.sleep(|fd| assert!(!readable(fd))));
        // Asleep: the descriptor, and the next sleep starts with a clean one.
        assert!(bell.sleep(|fd| {
            bell.ring();
            assert!(readable(fd));
        }));
        assert!(bell.take_ready());
        assert!(!bell.sleep(|fd| assert!(!readable(fd))));
    }

    /// A waker was interrupted between its exchange and its write: the core has risen by then, and read nothing.
    #[test]
    fn a_late_write_does_not_end_every_sleep() {
        let bell = Bell::new(true);
        assert!(bell.sleep(|_| assert!(bell.handshake.ring())));
        bell.take_ready();
        rustix::io::write(bell.eventfd.as_ref().expect("an eventfd"), &1u64.to_ne_bytes()).expect("room");
        let mut ended_at_once = 0;
        for _ in 0..40 {
            bell.sleep(|fd| ended_at_once += usize::from(readable(fd)));
        }
        assert!((1..=16).contains(&ended_at_once), "{ended_at_once}");
    }
}
