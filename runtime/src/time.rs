//! Points in time of one core's monotonic clock, and the futures that wait for them.

use crate::local::{Local, Timers};
use crate::wheel::TimerKey;
use pin_project::pin_project;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A point on a core's monotonic clock, in nanoseconds since an unspecified origin.
///
/// Real clocks count from the machine's start, simulated ones from the start of the world. Instants of different
/// machines must not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Instant = Instant(0);
    /// Later than any deadline that can be waited for (584 years after the origin).
    pub const FAR: Instant = Instant(u64::MAX);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero where `earlier` is later.
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates at [`Instant::FAR`].
    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero where `earlier` is later.
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// The stamp of the current turn: the same for every task of the turn, and free of any clock call. Inside of
/// [`Core::enter`](crate::Core::enter), the time of entering.
///
/// # Panics
/// Outside of a core.
#[inline]
#[track_caller]
pub fn now() -> Instant {
    Local::stamp()
}

/// The core's clock as it is at this moment, for what a stamp is too old for: the process may have been stopped since the turn
/// began. Costs a reading of the clock, tens of nanoseconds.
///
/// # Panics
/// Outside of a core.
#[track_caller]
pub fn read_clock() -> Instant {
    Local::current().clock.now()
}

/// Waits for `duration` from the stamp of this turn. See [`sleep_until`].
///
/// # Panics
/// Outside of a core.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `at`, never less, and tells how much later it is: up to about a microsecond by the timers' grain, more
/// where the core was busy or stopped. [`Instant::FAR`] never comes.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at, timer: None }
}

/// See [`sleep_until`]. Arming, re-arming and dropping it are O(1).
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    at: Instant,
    timer: Option<(Rc<Timers>, TimerKey)>,
}

impl Sleep {
    /// Waits for another instant from now on, whether this one has passed or not. Takes effect when next polled; keeps
    /// the timer's place.
    pub fn reset(&mut self, at: Instant) {
        self.at = at;
    }

    /// What it waits for.
    pub fn deadline(&self) -> Instant {
        self.at
    }
}

impl Future for Sleep {
    type Output = Duration;

    /// # Panics
    /// Outside of a core.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Duration> {
        let at = self.at;
        if let Some((timers, key)) = &self.timer {
            let now = timers.now.get();
            if now >= at {
                return Poll::Ready(now - at);
            }
            timers.wheel.borrow_mut().arm(*key, at, cx.waker());
            return Poll::Pending;
        }
        let now = now();
        if now >= at {
            return Poll::Ready(now - at);
        }
        let waker = cx.waker().clone();
        self.timer = Some(Local::with(|local| {
            let key = local.timers.wheel.borrow_mut().add(at, waker);
            (local.timers.clone(), key)
        }));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((timers, key)) = self.timer.take() {
            // Apart from the borrow: the last waker of a foreign executor may run code of its own.
            let waker = timers.wheel.borrow_mut().remove(key);
            drop(waker);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}

/// The time was up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct Elapsed;

/// Gives `future` so long from this turn's stamp. See [`timeout_at`].
///
/// # Panics
/// Outside of a core.
#[track_caller]
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(now() + duration, future)
}

/// Gives `future` until `at`, else [`Elapsed`]. The future is polled first: if it is ready it wins, however late it is.
pub fn timeout_at<F: Future>(at: Instant, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until(at) }
}

/// See [`timeout_at`].
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
#[pin_project]
pub struct Timeout<F> {
    #[pin]
    future: F,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|_lateness| Err(Elapsed))
    }
}

/// Awaits what `receive` brings, until `at`: `None` then. An item that is already queued wins even when the deadline has
/// passed, so that a core which was stopped sees the heartbeats that waited for it before it concludes that there were
/// none.
pub fn recv_or_deadline<F: Future>(receive: F, at: Instant) -> RecvOrDeadline<F> {
    RecvOrDeadline { timeout: timeout_at(at, receive) }
}

/// See [`recv_or_deadline`].
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
#[pin_project]
pub struct RecvOrDeadline<F> {
    #[pin]
    timeout: Timeout<F>,
}

impl<F: Future> Future for RecvOrDeadline<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().timeout.poll(cx).map(Result::ok)
    }
}

/// Ticks every `period`, at least a nanosecond, first one period from this turn's stamp.
///
/// # Panics
/// Outside of a core.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    let period = period.max(Duration::from_nanos(1));
    Interval { next: sleep(period), period }
}

/// See [`interval`].
#[derive(Debug)]
pub struct Interval {
    next: Sleep,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick and gives the instant it was due. Ticks that were missed are skipped, not made up for;
    /// the rhythm stays. Cancel safe.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next.deadline();
        let late = (&mut self.next).await;
        let missed = late.as_nanos() / self.period.as_nanos();
        let ahead = u64::try_from((missed + 1) * self.period.as_nanos()).unwrap_or(u64::MAX);
        self.next.reset(due + Duration::from_nanos(ahead));
        due
    }
}
