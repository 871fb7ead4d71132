//! Where a core's time comes from.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A monotonic clock. One of the three seams: the simulator puts [`Virtual`] here.
pub trait Clock {
    /// The present. Never before an earlier answer.
    fn now(&self) -> Instant;

    /// The time of the wire at the core's time `now`, which is what drivers are told. The same, except in a simulated
    /// world where clocks of machines drift against each other and packets in flight must not.
    fn wire_time(&self, now: Instant) -> Instant {
        now
    }
}

/// The machine's monotonic clock, CLOCK_MONOTONIC: unmoved by changes of the wall clock, and it runs on while the
/// process is stopped. A reading costs tens of nanoseconds and no system call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// The clock of one simulated machine: follows the world's time at its own rate. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Virtual {
    world: Rc<Cell<Instant>>,
    course: Rc<Cell<Course>>,
}

/// A straight line from world time to local time.
#[derive(Debug, Clone, Copy)]
struct Course {
    world: Instant,
    local: Instant,
    /// Local nanoseconds in a million nanoseconds of the world.
    rate: u64,
}

/// Nanoseconds of the world over which [`Course::rate`] is given.
const RATE_BASE: u64 = 1_000_000;

impl Virtual {
    /// A clock that shows the world's time, until it is told otherwise. Whoever holds `world` moves time on.
    pub fn new(world: Rc<Cell<Instant>>) -> Self {
        let course = Course { world: world.get(), local: world.get(), rate: RATE_BASE };
        Virtual { world, course: Rc::new(Cell::new(course)) }
    }

    /// From now on the clock gains `ppm` microseconds a second on the world, loses where negative. At least -900,000:
    /// a clock that stands still would never let a timer fire.
    pub fn set_rate(&self, ppm: i32) {
        let rate = (RATE_BASE as i64 + i64::from(ppm.max(-900_000))) as u64;
        self.course.set(Course { world: self.world.get(), local: self.now(), rate });
    }

    /// Moves the clock forward at once.
    pub fn jump(&self, by: Duration) {
        let course = self.course.get();
        self.course.set(Course { world: self.world.get(), local: self.now() + by, rate: course.rate });
    }

    /// When, in the world's time, this clock first shows `local` or later, on its present course.
    pub fn world_time_of(&self, local: Instant) -> Instant {
        let course = self.course.get();
        let ahead = u128::from(local.as_nanos().saturating_sub(course.local.as_nanos()));
        let world = (ahead * u128::from(RATE_BASE)).div_ceil(u128::from(course.rate));
        Instant::from_nanos(course.world.as_nanos().saturating_add(u64::try_from(world).unwrap_or(u64::MAX)))
    }
}

impl Clock for Virtual {
    fn now(&self) -> Instant {
        let course = self.course.get();
        let elapsed = u128::from((self.world.get() - course.world).as_nanos() as u64);
        let local = elapsed * u128::from(course.rate) / u128::from(RATE_BASE);
        Instant::from_nanos(course.local.as_nanos().saturating_add(u64::try_from(local).unwrap_or(u64::MAX)))
    }

    fn wire_time(&self, _now: Instant) -> Instant {
        self.world.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_real_clock_does_not_go_back() {
        let mut last = Monotonic.now();
        for _ in 0..1000 {
            let now = Monotonic.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn rate_and_jump_add_up_and_the_wire_keeps_the_worlds_time() {
        let world = Rc::new(Cell::new(Instant::ZERO));
        let clock = Virtual::new(world.clone());
        clock.set_rate(100_000);
        world.set(Instant::from_nanos(1000));
        assert_eq!(clock.now().as_nanos(), 1100);
        clock.jump(Duration::from_nanos(50));
        clock.set_rate(-500_000);
        world.set(Instant::from_nanos(2000));
        assert_eq!(clock.now().as_nanos(), 1650);
        assert_eq!(clock.wire_time(clock.now()).as_nanos(), 2000);
    }

    proptest! {
        /// Sleeping until `world_time_of` must be enough, and a nanosecond less must not be.
        #[test]
        fn world_time_of_is_the_first_moment(ppm in -900_000i32..2_000_000, start in 0u64..1 << 40, ahead in 1u64..1 << 40) {
            let world = Rc::new(Cell::new(Instant::from_nanos(start)));
            let clock = Virtual::new(world.clone());
            clock.set_rate(ppm);
            let target = clock.now() + Duration::from_nanos(ahead);
            let at = clock.world_time_of(target);
            world.set(at);
            prop_assert!(clock.now() >= target);
            world.set(Instant::from_nanos(at.as_nanos() - 1));
            prop_assert!(clock.now() < target);
        }
    }
}
