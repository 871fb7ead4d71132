//! One core: the turn, its lanes and its budgets.
//!
//! ```text
//!   turn:  stamp now -> inbox, mesh -> disk, wake -> receive a burst, wake -> timers, wake -> Control, Normal lanes -> transmit -> disk
//!   rest:  spin -> yield -> park (the only call that blocks)
//! ```

use crate::clock::{Clock, Monotonic};
use crate::driver::Driver;
use crate::idle::{Idle, Idler, Rest};
use crate::local::{Job, Local, LocalParts};
use crate::mesh::{Doorbell, MeshEnd};
use crate::stall::{StallWatch, Suspect};
use crate::stats::Stats;
use crate::task::{ControlPanic, Lane, Panicked, Runnable, Task, spawn_in};
use crate::time::Instant;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// After so long without a turn the core drains what has piled up at the driver before it looks at any timer.
const AWAY: Duration = Duration::from_millis(1);
/// Bursts received in such a turn, at most.
const BURSTS_AFTER_AWAY: usize = 8;
/// Closures of each other core that are run in one turn.
const JOBS_PER_TURN: usize = 16;
/// The longest sleep where no eventfd could be had, or the device has left packets untaken.
const SHORT_PARK: Duration = Duration::from_millis(1);

/// How a core behaves. The defaults suit production.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// For logs and the thread's name.
    pub name: String,
    /// The core's number among the process's cores, for logs.
    pub core_id: u16,
    /// The CPU to pin the thread to; `None` leaves the choice to the kernel, also where a pinned core starts this one: its thread may
    /// run wherever that one could before it was pinned.
    pub cpu: Option<usize>,
    /// For run-queue order, where that is drawn.
    pub seed: u64,
    /// Draws run-queue order inside a lane from the seed instead of first in, first out: finds hidden dependences on order.
    pub permute: bool,
    /// What to do when there is nothing to do.
    pub idle: Idle,
    /// Packets in one receive burst.
    pub burst_packets: usize,
    /// Polls of each lane in one turn.
    pub turn_polls: u32,
    /// Microseconds after which a turn starts no further poll of the Normal lane (looked at every few polls).
    pub turn_us: u64,
    /// Polls that take so many microseconds are counted and logged.
    pub slow_poll_us: u64,
    /// Live tasks; one more panics the spawner.
    pub tasks_max: usize,
    /// What a panic of a Control task does.
    pub control_panic: ControlPanic,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            name: "core".into(),
            core_id: 0,
            cpu: None,
            seed: 0,
            permute: false,
            idle: Idle::default(),
            burst_packets: 32,
            turn_polls: 64,
            turn_us: 50,
            slow_poll_us: 1000,
            tasks_max: 1 << 20,
            control_panic: ControlPanic::default(),
        }
    }
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Anything at all. If not, the caller may rest.
    pub worked: bool,
    /// Packets received.
    pub packets: usize,
    /// Timers that fired.
    pub timers: usize,
    /// Polls of tasks.
    pub polls: u32,
    /// Packets given to the device.
    pub sent: usize,
    /// Packets that the device did not take; they wait for the next turn.
    pub left: usize,
    /// Operations on disks that were handed on or have completed.
    pub disk_ops: usize,
}

/// An executor, its timers and its driver, all polled in turns by one thread. Several can share a thread.
pub struct Core<D: Driver, C: Clock + 'static = Monotonic> {
    local: Rc<Local>,
    clock: Rc<C>,
    driver: D,
    config: CoreConfig,
    idler: Idler,
    stalls: StallWatch,
    last_turn: Instant,
    /// The device did not take all: look again soon.
    left: bool,
    /// Operations on a disk have completed since the last sleep: the eventfd may be readable for no reason.
    is_bell_stale: bool,
}

impl<D: Driver, C: Clock + 'static> Core<D, C> {
    /// A core without tasks. It takes an eventfd unless its idle policy never sleeps; failing that, it sleeps for at
    /// most a millisecond at a time.
    pub fn new(config: CoreConfig, clock: C, driver: D) -> Self {
        Core::with_bell(config, clock, driver, None)
    }

    /// As [`Core::new`], woken by a bell that others know already.
    pub fn with_bell(config: CoreConfig, clock: C, driver: D, bell: Option<Doorbell>) -> Self {
        let parts = LocalParts {
            permute: config.permute.then_some(config.seed),
            tasks_max: config.tasks_max,
            eventfd: config.idle != Idle::Spin,
            inbox: bell.map(|Doorbell(inbox)| inbox),
            control_panic: config.control_panic,
        };
        let (now, clock) = (clock.now(), Rc::new(clock));
        Core {
            local: Local::new(now, clock.clone(), parts),
            idler: Idler::new(config.idle),
            stalls: StallWatch::new(Duration::from_micros(config.slow_poll_us)),
            last_turn: now,
            left: false,
            is_bell_stale: false,
            clock,
            driver,
            config,
        }
    }

    /// Runs `f` with this core current, so that it may spawn, sleep and tell the time, which is stamped anew.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.local.timers.now.set(self.clock.now());
        let _entered = self.local.enter();
        f()
    }

    /// One turn. Never blocks, and takes about 50 us at most where no single poll takes longer.
    pub fn turn(&mut self) -> Turn {
        let now = self.clock.now();
        self.local.timers.now.set(now);
        let _entered = self.local.enter();
        let mut turn = Turn::default();
        let wire_now = self.clock.wire_time(now);
        let woken = self.local.inbox.drain(&self.local.lanes) + self.run_jobs();
        let completed = self.local.disks.sum(|disk| disk.reap(wire_now));
        self.is_bell_stale |= completed > 0;
        self.receive(now, &mut turn);
        turn.timers = self.fire_timers(now);
        self.run_lanes(now, &mut turn);
        let flushed = self.driver.flush(wire_now);
        (turn.sent, turn.left) = (flushed.packets, flushed.left);
        // After the packets: others' disks are to start no later than this one.
        turn.disk_ops = completed + self.local.disks.sum(|disk| disk.flush(wire_now));
        turn.worked = turn.packets + turn.timers + turn.sent + turn.disk_ops + woken > 0 || turn.polls > 0;
        self.left = turn.left > 0;
        self.last_turn = now;
        self.count(&turn, woken);
        turn
    }

    /// Does what other cores have sent. One at a time: it may send something itself.
    fn run_jobs(&self) -> usize {
        let has_news = self.local.jobs.borrow().as_ref().is_some_and(MeshEnd::has_news);
        if !has_news {
            return 0;
        }
        let mut jobs: Vec<Job> = Vec::new();
        if let Some(end) = self.local.jobs.borrow_mut().as_mut() {
            end.drain(JOBS_PER_TURN, |_, job| jobs.push(job));
        }
        let count = jobs.len();
        jobs.into_iter().for_each(|job| job());
        count
    }

    /// All that waits after an absence, else one burst.
    fn receive(&mut self, now: Instant, turn: &mut Turn) {
        let bursts = if now - self.last_turn >= AWAY { BURSTS_AFTER_AWAY } else { 1 };
        let wire_now = self.clock.wire_time(now);
        for burst in 0..bursts {
            let polled = self.driver.poll(wire_now, self.config.burst_packets);
            turn.packets += polled.packets;
            if !polled.more || polled.packets == 0 {
                break;
            }
            if burst == 1 {
                self.local.stats.long_receives.add(1);
            }
        }
    }

    fn fire_timers(&mut self, now: Instant) -> usize {
        let mut fired = 0;
        loop {
            // One at a time: a waker may run code that arms timers.
            let Some(waker) = self.local.timers.wheel.borrow_mut().pop(now) else { return fired };
            waker.wake();
            fired += 1;
        }
    }

    /// Control before each Normal poll, so that what a Normal task wakes there runs in this turn.
    fn run_lanes(&mut self, now: Instant, turn: &mut Turn) {
        let until = now + Duration::from_micros(self.config.turn_us);
        let polls = self.config.turn_polls;
        let (mut control, mut normal, mut time_left) = (0, 0, true);
        let mut last = None;
        self.stalls.begin(now);
        loop {
            let Some(next) = self.pop(control < polls, normal < polls && time_left) else { break };
            match next.metadata().lane {
                Lane::Control => control += 1,
                Lane::Normal => normal += 1,
            }
            let suspect = Suspect::from(&next);
            last = Some(suspect);
            next.run();
            let read = self.stalls.polled(suspect, || self.clock.now(), &self.local.stats);
            time_left &= read.is_none_or(|read| read < until);
        }
        turn.polls = control + normal;
        if self.local.lanes.borrow_mut().end_turn() {
            self.local.stats.budget_ends.add(1);
        }
        if let Some(suspect) = last {
            self.stalls.end(suspect, || self.clock.now(), &self.local.stats);
        }
    }

    #[inline]
    fn pop(&self, control: bool, normal: bool) -> Option<Runnable> {
        self.local.lanes.borrow_mut().pop(control, normal)
    }

    fn count(&self, turn: &Turn, woken: usize) {
        let stats = &self.local.stats;
        stats.turns.add(1);
        if !turn.worked {
            stats.idle_turns.add(1);
            return;
        }
        stats.tasks_spawned.add(self.local.live.take_begun());
        stats.polls.add(u64::from(turn.polls));
        stats.packets_received.add(turn.packets as u64);
        stats.packets_sent.add(turn.sent as u64);
        stats.timers_fired.add(turn.timers as u64);
        stats.foreign_wakes.add(woken as u64);
        stats.disk_ops.add(turn.disk_ops as u64);
    }
}

impl<D: Driver, C: Clock + 'static> Core<D, C> {
    /// Whether a turn now would find a task to run, or an operation on a disk to hand on or to end.
    pub fn has_work(&self) -> bool {
        let has_jobs = || self.local.jobs.borrow().as_ref().is_some_and(MeshEnd::has_news);
        let has_task = !self.local.lanes.borrow().is_empty() || self.local.inbox.bell.is_ready() || has_jobs();
        has_task || self.local.disks.sum(|disk| usize::from(disk.has_work())) > 0
    }

    /// When the next operation on a disk completes, in the time of the wire, if that can be known.
    pub(crate) fn next_completion(&self) -> Option<Instant> {
        let mut first = None;
        self.local.disks.each(|disk| disk.next_completion(), |at| first = first.into_iter().chain(at).min());
        first
    }

    /// When this core's clock must show for the next timer to fire. `None`: no timer is pending. Exact to a timer tick
    /// (1.024 us), or early where many timers are due about the same time far ahead.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.local.timers.wheel.borrow().next_deadline()
    }

    /// Sleeps until a packet may be there, a timer is due, an operation on a disk completes, or another thread wakes a task.
    /// Returns at once where a task is ready to run. The only call that blocks; it may return early.
    pub fn park(&mut self) {
        if std::mem::take(&mut self.is_bell_stale) {
            // Before the look at the disks: what completes after this makes it readable again.
            self.local.inbox.bell.hush();
        }
        if self.has_work() {
            return;
        }
        let now = self.clock.now();
        let until_timer = self.next_deadline().map(|at| at - now);
        if until_timer == Some(Duration::ZERO) {
            return;
        }
        let bell = &self.local.inbox.bell;
        let short = self.left || !bell.can_be_rung();
        let timeout = if short { Some(until_timer.map_or(SHORT_PARK, |at| at.min(SHORT_PARK))) } else { until_timer };
        self.local.stats.parks.add(1);
        if bell.sleep(|wake| self.driver.park(timeout, wake)) {
            self.local.stats.parks_ended_by_wake.add(1);
        }
    }

    /// Runs turns until `future` ends, resting as the idle policy says. Other tasks run along.
    ///
    /// # Panics
    /// Where the future does.
    #[track_caller]
    pub fn block_on<F: Future + 'static>(&mut self, future: F) -> F::Output {
        let main = self.enter(|| spawn_in(Lane::Normal, "main", future));
        match self.run_main(main, || false) {
            Some(Ok(output)) => output,
            Some(Err(panicked)) => panic!("{panicked}"),
            None => unreachable!("nothing stops this loop but the end of the task"),
        }
    }

    /// Runs turns until `main` ends or `stop` says so, which is asked once a turn.
    pub(crate) fn run_main<T>(&mut self, mut main: Task<T>, stop: impl Fn() -> bool) -> Option<Result<T, Panicked>> {
        while !stop() {
            let turn = self.turn();
            if let Some(output) = main.take_output() {
                return Some(output);
            }
            match self.idler.after_turn(self.last_turn, turn.worked) {
                Rest::None => {}
                Rest::Yield => {
                    self.local.stats.yields.add(1);
                    let from = self.clock.now();
                    std::thread::yield_now();
                    self.idler.yielded(from, self.clock.now());
                }
                Rest::Park => {
                    let from = self.clock.now();
                    self.park();
                    self.idler.slept(from, self.clock.now());
                }
            }
        }
        None
    }

    /// The driver, for its owner to set up and ask.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    pub(crate) fn driver(&self) -> &D {
        &self.driver
    }

    /// The clock.
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// What wakes this core.
    pub fn doorbell(&self) -> Doorbell {
        Doorbell(self.local.inbox.clone())
    }

    /// The counters; any thread may keep them and read.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.local.stats
    }

    /// Live tasks.
    pub fn tasks(&self) -> usize {
        self.local.live.get()
    }

    /// Armed timers that have not fired.
    pub fn timers(&self) -> usize {
        self.local.timers.wheel.borrow().pending()
    }

    pub(crate) fn config(&self) -> &CoreConfig {
        &self.config
    }

    pub(crate) fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// Drops every task's future, on this thread, then transmits what they had queued and lets no task be woken any
    /// more. Handles still held tell that the core was shut down. Dropping the core does the same.
    pub fn shutdown(mut self) {
        self.end();
        self.driver.flush(self.clock.wire_time(self.clock.now()));
    }

    /// Closes every task: wakes it, which queues its Runnable, and drops that, which drops its future.
    fn end(&mut self) {
        let _entered = self.local.enter();
        while self.tasks() > 0 {
            for waker in self.local.waiting.borrow().wakers() {
                waker.wake();
            }
            let mut dropped = 0;
            loop {
                self.local.inbox.drain(&self.local.lanes);
                self.local.lanes.borrow_mut().end_turn();
                let Some(runnable) = self.pop(false, true).or_else(|| self.pop(true, false)) else { break };
                drop(runnable);
                dropped += 1;
            }
            if dropped == 0 {
                // Another thread has woken a task and is about to put it into the inbox.
                std::thread::yield_now();
            }
        }
        self.local.stats.tasks_spawned.add(self.local.live.take_begun());
        self.local.close();
        // A task that was leaked abroad keeps the rest of the core; nobody shall wait for what is in the rings.
        let jobs = self.local.jobs.take();
        drop(jobs);
    }
}

impl<D: Driver, C: Clock + 'static> Drop for Core<D, C> {
    fn drop(&mut self) {
        self.end();
    }
}
