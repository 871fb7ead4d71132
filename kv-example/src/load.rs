//! Load on a cluster: many calls at a time from one core, and what became of each.
//!
//! ```text
//! Pace --ticket--> slot task: wait until due, ask the Workload, call the Target, tell the Workload, record
//! ```
//!
//! A closed loop keeps a number of calls on their way. An open loop gives each call the moment at which it is due and
//! measures from there, not from when it was sent, so that a slow answer does not hide those that had to wait behind
//! it. A call that is due while every slot is taken is sent late and its latency says so.

mod measure;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_runtime::{Instant, Panicked, TaskGroup, now, sleep, sleep_until};

pub use measure::{Measured, Percentiles, median};

/// Calls that an open loop may have on their way; more that are due wait, and their latency grows.
pub const OPEN_LOOP_SLOTS: usize = 8192;

/// How long a slot rests after a call that failed at once.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(1);

/// What a call ended with, other than a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It certainly had no effect.
    NotApplied,
    /// It may have had its effect.
    Unknown,
}

/// What to call; the encoded arguments go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Key of the method.
    pub method: u32,
    /// Fits the method's mark.
    pub policy: Policy,
    /// The hash of the key that decides on the shard; `None`: shard 0.
    pub key: Option<u64>,
}

/// What the service has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// [`Status::Ok`], or [`Status::App`] where the body is the service's error.
    pub status: Status,
    /// The encoded result.
    pub body: Vec<u8>,
}

/// Where calls go.
pub trait Target: Clone + 'static {
    /// Sends one request and waits for its reply, at most until `deadline`.
    fn call(&self, ask: Ask, body: &[u8], deadline: Instant) -> impl Future<Output = Result<Answered, Failure>>;
}

/// What is asked, and who wants to know the answers. Calls of all slots come through one value.
pub trait Workload: 'static {
    /// What connects an answer with its question.
    type Call;
    /// Writes the next call's arguments into `body`, which is empty, about to be sent at `at`.
    fn begin(&mut self, body: &mut Vec<u8>, at: Instant) -> (Ask, Self::Call);
    /// What follows a reply within the same call, such as the write after its read; its arguments are written into `body`, which
    /// is empty. It gets a deadline of its own, and the latency is that of all together.
    fn goes_on_with(
        &mut self,
        _call: &mut Self::Call,
        _result: &Result<Answered, Failure>,
        _body: &mut Vec<u8>,
    ) -> Option<Ask> {
        None
    }
    /// Hears the latency of the call that [`Workload::end`] has just taken, if that counts as answered and is measured.
    fn answered_in(&mut self, _latency: Duration) {}
    /// Takes the end of a call; says whether it counts as answered. A reply that refuses does not.
    fn end(&mut self, call: Self::Call, result: &Result<Answered, Failure>, at: Instant) -> bool;
    /// Whether there is to be another call. The first `false` ends the run, before its plan's end.
    fn goes_on(&self) -> bool {
        true
    }
}

/// When calls are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many calls are always on their way.
    Closed {
        /// How many.
        outstanding: usize,
    },
    /// Calls are due at even distances.
    Open {
        /// How many a second.
        per_second: u32,
    },
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// When calls are sent.
    pub pace: Pace,
    /// The first call.
    pub start: Instant,
    /// Calls that end before `start + warmup` are made but not measured.
    pub warmup: Duration,
    /// How long after the warm-up calls are made.
    pub measure: Duration,
    /// How long one call may take.
    pub deadline: Duration,
    /// No more calls than these.
    pub calls_max: u64,
}

impl Plan {
    fn end(&self) -> Instant {
        self.start + self.warmup + self.measure
    }
}

/// Hands out calls to slots.
struct Tickets {
    plan: Plan,
    taken: u64,
}

impl Tickets {
    /// The moment at which the next call is due; `None` at the end of the run. An open loop that is behind gets one
    /// deadline more to send what was due, then leaves the rest.
    fn take(&mut self, at: Instant) -> Option<Instant> {
        let end = self.plan.end();
        let due = match self.plan.pace {
            Pace::Closed { .. } => at.max(self.plan.start),
            Pace::Open { per_second } => self.due(self.taken, per_second),
        };
        if due >= end || at >= end + self.plan.deadline || self.taken >= self.plan.calls_max {
            return None;
        }
        self.taken += 1;
        Some(due)
    }

    fn due(&self, nth: u64, per_second: u32) -> Instant {
        let after_ns = u128::from(nth) * 1_000_000_000 / u128::from(per_second.max(1));
        self.plan.start + Duration::from_nanos(u64::try_from(after_ns).unwrap_or(u64::MAX))
    }

    /// Calls that were due and never sent, in a run that went on to its plan's end.
    fn left(&self) -> u64 {
        match self.plan.pace {
            Pace::Closed { .. } => 0,
            Pace::Open { per_second } => {
                let length_ns = self.plan.end().saturating_since(self.plan.start).as_nanos();
                let all = (length_ns * u128::from(per_second)).div_ceil(1_000_000_000);
                u64::try_from(all).unwrap_or(u64::MAX).min(self.plan.calls_max).saturating_sub(self.taken)
            }
        }
    }
}

/// Runs `plan` to its end: every call made has ended when it returns. `measured` may be looked at meanwhile.
///
/// # Errors
/// A panic of the workload or the target.
pub async fn run<T: Target, W: Workload>(
    target: T,
    workload: Rc<RefCell<W>>,
    plan: Plan,
    measured: Rc<RefCell<Measured>>,
) -> Result<(), Panicked> {
    let slots = match plan.pace {
        Pace::Closed { outstanding } => outstanding,
        // No more slots than calls that can be on their way within one deadline.
        Pace::Open { per_second } => {
            let within_deadline = plan.deadline.as_secs_f64() * f64::from(per_second);
            (within_deadline.ceil() as usize).clamp(16, OPEN_LOOP_SLOTS)
        }
    };
    let tickets = Rc::new(RefCell::new(Tickets { plan, taken: 0 }));
    let mut group = TaskGroup::new();
    for _ in 0..slots {
        group.spawn(slot(target.clone(), workload.clone(), tickets.clone(), measured.clone()));
    }
    group.join_all().await?;
    if workload.borrow().goes_on() {
        measured.borrow_mut().left(tickets.borrow().left());
    }
    Ok(())
}

async fn slot<T: Target, W: Workload>(
    target: T,
    workload: Rc<RefCell<W>>,
    tickets: Rc<RefCell<Tickets>>,
    measured: Rc<RefCell<Measured>>,
) {
    let plan = tickets.borrow().plan;
    let measured_from = plan.start + plan.warmup;
    let mut body = Vec::new();
    while workload.borrow().goes_on() {
        let Some(due) = tickets.borrow_mut().take(now()) else { return };
        sleep_until(due).await;
        if !workload.borrow().goes_on() {
            return;
        }
        body.clear();
        let sent = now();
        let (mut ask, mut call) = workload.borrow_mut().begin(&mut body, sent);
        let mut result = target.call(ask, &body, sent + plan.deadline).await;
        loop {
            body.clear();
            let next = workload.borrow_mut().goes_on_with(&mut call, &result, &mut body);
            ask = match next {
                Some(next) => next,
                None => break,
            };
            result = target.call(ask, &body, now() + plan.deadline).await;
        }
        let done = now();
        let answered = workload.borrow_mut().end(call, &result, done);
        if result.is_err() && done == sent {
            // Refused before anything was sent. Another try in the same turn would end alike.
            sleep(PAUSE_AFTER_REFUSAL).await;
        }
        if done >= measured_from {
            if answered {
                workload.borrow_mut().answered_in(done.saturating_since(due));
            }
            measured.borrow_mut().record(done.saturating_since(due), &result, answered, done < plan.end());
        }
    }
}

#[cfg(test)]
mod tests;
