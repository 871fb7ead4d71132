//! So many a second, evenly, with a burst: for answers that anybody can provoke.

use std::time::Duration;
use trimaran_runtime::Instant;

const NANOS_PER_S: u64 = 1_000_000_000;

/// Allows `per_s` events a second in the long run and `burst` at once. Two words of state, whatever comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limiter {
    interval: Duration,
    ahead: Duration,
    /// When an evenly spaced series of what was allowed would have its next event.
    next: Instant,
}

impl Limiter {
    /// Both at least one.
    pub(super) fn new(per_s: u32, burst: u32) -> Self {
        let interval = Duration::from_nanos(NANOS_PER_S / u64::from(per_s.max(1)));
        Limiter { interval, ahead: interval * (burst.max(1) - 1), next: Instant::ZERO }
    }

    /// Whether one more is allowed now; if so it counts.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        if self.next.saturating_since(now) > self.ahead {
            return false;
        }
        self.next = self.next.max(now) + self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limiter = Limiter::new(10, 3);
        let at = |ms: u64| Instant::from_nanos(5_000_000_000 + ms * 1_000_000);
        let allowed = |limiter: &mut Limiter, ms| (0..100).filter(|_| limiter.allow(at(ms))).count();
        assert_eq!(allowed(&mut limiter, 0), 3);
        assert_eq!(allowed(&mut limiter, 99), 0);
        assert_eq!(allowed(&mut limiter, 100), 1);
        assert_eq!(allowed(&mut limiter, 10_000), 3, "unused time is not saved up beyond the burst");
        let flood = (0..10_000).filter(|ms| limiter.allow(at(20_000 + ms))).count();
        assert_eq!(flood, 3 + 99);
    }
}
