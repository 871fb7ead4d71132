//! Cores and threads: pin, start, run main, shut down in order.

mod several;

use crate::affinity;
use crate::clock::Monotonic;
use crate::core::{Core, CoreConfig};
use crate::driver::Driver;
use crate::error::RuntimeError;
use crate::local::{Inbox, Job};
use crate::mesh::{Doorbell, MeshEnd};
use crate::stats::Stats;
use crate::task::{Lane, Panicked, spawn_in};
use rustix::thread::set_current_timer_slack;
use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

pub use several::{Abroad, CoreFailure, Failure, Lost, Runtime, Seat, core_number, spawn_on};

/// Runs `main` on a core on the calling thread, which is pinned first where the configuration says so. When `main` ends,
/// the other tasks are dropped, what they sent is transmitted, and `main`'s output is returned.
///
/// `driver` and `main` run on the core, so what they make need not be `Send`.
pub fn run<D, F>(
    config: CoreConfig,
    driver: impl FnOnce() -> D,
    main: impl FnOnce() -> F,
) -> Result<F::Output, RuntimeError>
where
    D: Driver,
    F: Future + 'static,
{
    let never = AtomicBool::new(false);
    match run_alone(config, driver, main, &never, |_, _| {})? {
        Some(Ok(output)) => Ok(output),
        Some(Err(panicked)) => Err(RuntimeError::MainPanicked(panicked)),
        None => Err(RuntimeError::Stopped),
    }
}

/// Starts a core on a thread of its own and returns when its driver is made, or when that failed. Like [`run`] otherwise.
pub fn start<D, F>(
    config: CoreConfig,
    driver: impl FnOnce() -> D + Send + 'static,
    main: impl FnOnce() -> F + Send + 'static,
) -> Result<CoreHandle<F::Output>, RuntimeError>
where
    D: Driver,
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let (started, wait) = sync_channel(1);
    let thread = {
        let stop = stop.clone();
        let name = config.name.clone();
        let run = move || run_alone(config, driver, main, &stop, |inbox, stats| drop(started.send((inbox, stats))));
        affinity::start_thread(Builder::new().name(name), run).map_err(RuntimeError::Thread)?
    };
    match wait.recv() {
        Ok((inbox, stats)) => Ok(CoreHandle { thread, stop, inbox, stats }),
        // It ended before it began: the reason is what the thread returns.
        Err(_) => match thread.join() {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Err(RuntimeError::Stopped),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// A core on a thread of its own. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct CoreHandle<T> {
    thread: JoinHandle<Result<Option<Result<T, Panicked>>, RuntimeError>>,
    stop: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    stats: Arc<Stats>,
}

impl<T> CoreHandle<T> {
    /// Asks the core to stop after its present turn, wherever its tasks are, and wakes it if it sleeps. Returns at once.
    pub fn shutdown(&self) {
        self.stop.store(true, Ordering::Release);
        self.inbox.bell.ring();
    }

    /// Waits for the core to end. [`RuntimeError::Stopped`] where it was shut down before its main task ended.
    ///
    /// # Panics
    /// Where the thread did, outside of any task.
    pub fn join(self) -> Result<T, RuntimeError> {
        match self.thread.join() {
            Ok(Ok(Some(Ok(output)))) => Ok(output),
            Ok(Ok(Some(Err(panicked)))) => Err(RuntimeError::MainPanicked(panicked)),
            Ok(Ok(None)) => Err(RuntimeError::Stopped),
            Ok(Err(error)) => Err(error),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The core's counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

fn run_alone<D, F>(
    config: CoreConfig,
    driver: impl FnOnce() -> D,
    main: impl FnOnce() -> F,
    stop: &AtomicBool,
    started: impl FnOnce(Arc<Inbox>, Arc<Stats>),
) -> Result<Option<Result<F::Output, Panicked>>, RuntimeError>
where
    D: Driver,
    F: Future + 'static,
{
    let boot = || Ok::<_, Infallible>((driver(), main));
    let ran = run_until(config, boot, Stop { flag: stop, bell: None, jobs: None }, started)?;
    match ran {
        Ok(end) => Ok(end),
        Err(never) => match never {},
    }
}

/// What ends a core from outside, and how others reach it.
struct Stop<'a> {
    flag: &'a AtomicBool,
    /// Of one among several.
    bell: Option<Doorbell>,
    jobs: Option<MeshEnd<Job>>,
}

/// What a core has ended with: its main task's output, that task's panic, or nothing where it was stopped before.
type End<T> = Option<Result<T, Panicked>>;

/// Pins the thread, boots the core there, and runs it to its end. The error inside is that of `boot`.
fn run_until<D, M, F, E>(
    config: CoreConfig,
    boot: impl FnOnce() -> Result<(D, M), E>,
    stop: Stop<'_>,
    started: impl FnOnce(Arc<Inbox>, Arc<Stats>),
) -> Result<Result<End<F::Output>, E>, RuntimeError>
where
    D: Driver,
    M: FnOnce() -> F,
    F: Future + 'static,
{
    if let Some(cpu) = config.cpu {
        affinity::pin(cpu)?;
    }
    // A nanosecond, the least there is: by default the kernel may let a sleep end 50 us late.
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::warn!(%error, "timers may be 50 us late: the timer slack could not be set");
    }
    let (driver, main) = match boot() {
        Ok(booted) => booted,
        Err(error) => return Ok(Err(error)),
    };
    let mut core = Core::with_bell(config, Monotonic, driver, stop.bell);
    *core.local().jobs.borrow_mut() = stop.jobs;
    core.driver_mut().start();
    started(core.local().inbox.clone(), core.stats().clone());
    tracing::debug!(name = core.config().name, id = core.config().core_id, "core started");
    let main = core.enter(|| spawn_in(Lane::Normal, "main", main()));
    let end = core.run_main(main, || stop.flag.load(Ordering::Acquire));
    core.shutdown();
    Ok(Ok(end))
}
