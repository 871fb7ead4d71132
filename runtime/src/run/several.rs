//! Several cores that belong together: started as one, joined by a mesh, ended as one.
//!
//! ```text
//!   Runtime::start ──► a thread for each core: pin, boot (driver and main are made there), turns until main ends
//!        │                      │ core 0 ◄── rings ──► core 1 ◄── rings ──► ..        spawn_on(core, || future)
//!        ▼                      ▼
//!   join: all outputs, or the first failure: a core that fails or panics ends all others
//! ```

use super::{Stop, run_until};
use crate::affinity::start_thread;
use crate::core::CoreConfig;
use crate::driver::Driver;
use crate::error::RuntimeError;
use crate::local::{Job, Local};
use crate::mesh::{Doorbell, MESH_CORES_MAX, MeshEnd, NotTaken, mesh};
use crate::stats::Stats;
use crate::task::{Lane, panic_message, spawn_in};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};

/// Closures that may wait for another core, of each pair of cores.
const JOBS_MAX: usize = 256;

/// What a core is told when it boots.
#[derive(Debug)]
pub struct Seat {
    /// Which of the cores it is, from 0 on.
    pub core: usize,
    /// How many there are.
    pub cores: usize,
}

/// Why several cores ended that should not have: what came first.
#[derive(Debug)]
pub struct Failure<E> {
    /// Which core.
    pub core: usize,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub why: CoreFailure<E>,
}

/// What can happen to one of several cores.
#[derive(Debug)]
pub enum CoreFailure<E> {
    /// It could not be booted, or its main task said so at its end.
    Said(E),
    /// It could not be run, or its main task panicked.
    Runtime(RuntimeError),
    /// Its thread panicked outside of any task that could be blamed.
    Panicked(String),
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { core, name, why } = self;
        write!(f, "core {core} ({name}): ")?;
        match why {
            CoreFailure::Said(error) => error.fmt(f),
            CoreFailure::Runtime(error) => error.fmt(f),
            CoreFailure::Panicked(message) => write!(f, "its thread panicked: {message}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Failure<E> {}

/// Cores of this process, each on a thread of its own. Dropped, it ends them all, as [`Runtime::shutdown`] does.
pub struct Runtime<T, E> {
    cores: Vec<Running<T>>,
    shared: Arc<Shared<E>>,
}

struct Running<T> {
    name: String,
    /// `None` once it was joined.
    thread: Option<JoinHandle<Option<T>>>,
    stats: Option<Arc<Stats>>,
}

/// What the threads share.
struct Shared<E> {
    bells: Vec<Doorbell>,
    stops: Vec<AtomicBool>,
    failure: Mutex<Option<Failure<E>>>,
}

impl<E> Shared<E> {
    /// Notes a failure, unless there was one before, and ends all cores.
    fn fail(&self, failure: Failure<E>) {
        self.failure().get_or_insert(failure);
        (0..self.bells.len()).for_each(|core| self.stop(core));
    }

    fn stop(&self, core: usize) {
        self.stops[core].store(true, Ordering::Release);
        self.bells[core].ring();
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure<E>>> {
        // Nothing in here panics half-way.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static, E: Send + 'static> Runtime<T, E> {
    /// Starts these cores, woken by these bells, and returns when each has booted. `boot` runs on the core's own thread and makes
    /// driver and main task there, so that neither need be `Send`; a mesh of the caller's own, made of the same bells, reaches a
    /// core through its `boot`. Names, numbers and CPUs are those of the configurations.
    ///
    /// # Errors
    /// The first failure of a core until then; no core is left.
    ///
    /// # Panics
    /// Where there are more cores than [`MESH_CORES_MAX`], or not one bell for each.
    pub fn start<B, D, M, F>(bells: Vec<Doorbell>, cores: Vec<(CoreConfig, B)>) -> Result<Self, Failure<E>>
    where
        B: FnOnce(Seat) -> Result<(D, M), E> + Send + 'static,
        D: Driver,
        M: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + 'static,
    {
        assert!(bells.len() == cores.len() && cores.len() <= MESH_CORES_MAX, "a bell for each core, of few");
        let count = cores.len();
        let jobs = mesh::<Job>(&bells, JOBS_MAX);
        let stops = (0..count).map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { bells, stops, failure: Mutex::new(None) });
        let mut runtime = Runtime { cores: Vec::with_capacity(count), shared };
        let mut waits = Vec::with_capacity(count);
        for (core, ((config, boot), jobs)) in cores.into_iter().zip(jobs).enumerate() {
            let (started, wait) = sync_channel(1);
            let name = config.name.clone();
            let shared = runtime.shared.clone();
            let thread = move || run_one(&shared, Seat { core, cores: count }, config, jobs, boot, started);
            match start_thread(Builder::new().name(name.clone()), thread) {
                Ok(thread) => {
                    runtime.cores.push(Running { name, thread: Some(thread), stats: None });
                    waits.push(wait);
                }
                Err(error) => {
                    let why = CoreFailure::Runtime(RuntimeError::Thread(error));
                    runtime.shared.fail(Failure { core, name, why });
                    break;
                }
            }
        }
        for (running, wait) in runtime.cores.iter_mut().zip(waits) {
            // One that ended before it began has said why.
            running.stats = wait.recv().ok();
        }
        if runtime.shared.failure().is_some() {
            return Err(runtime.end().expect_err("there is a failure"));
        }
        Ok(runtime)
    }

    /// Waits until the main task of every core has ended, and returns their outputs in the order of the cores.
    ///
    /// # Errors
    /// What went wrong first, once all cores have ended for it.
    pub fn join(mut self) -> Result<Vec<T>, Failure<E>> {
        let outputs: Vec<Option<T>> = (0..self.cores.len()).map(|core| self.join_one(core)).collect();
        self.outcome(outputs)
    }

    /// Ends the cores one after the other, the last one first, each wherever its tasks are, and waits for it before the next is told:
    /// what a core serves the others with is there as long as they are, if it has a lower number. Outputs of main tasks that had
    /// ended are dropped.
    ///
    /// # Errors
    /// What had gone wrong before.
    pub fn shutdown(mut self) -> Result<(), Failure<E>> {
        self.end()
    }

    /// The counters of one core.
    pub fn stats(&self, core: usize) -> Option<&Arc<Stats>> {
        self.cores.get(core)?.stats.as_ref()
    }

    /// What wakes the cores, in their order.
    pub fn bells(&self) -> &[Doorbell] {
        &self.shared.bells
    }

    fn outcome(&self, outputs: Vec<Option<T>>) -> Result<Vec<T>, Failure<E>> {
        if let Some(failure) = self.shared.failure().take() {
            return Err(failure);
        }
        let missing = outputs.iter().position(Option::is_none);
        match missing {
            None => Ok(outputs.into_iter().flatten().collect()),
            // Nobody but `end` stops a core that has not failed.
            Some(core) => {
                let name = self.cores[core].name.clone();
                Err(Failure { core, name, why: CoreFailure::Runtime(RuntimeError::Stopped) })
            }
        }
    }
}

impl<T, E> Runtime<T, E> {
    fn end(&mut self) -> Result<(), Failure<E>> {
        for core in (0..self.cores.len()).rev() {
            self.shared.stop(core);
            let _ = self.join_one(core);
        }
        self.shared.failure().take().map_or(Ok(()), Err)
    }

    fn join_one(&mut self, core: usize) -> Option<T> {
        let thread = self.cores[core].thread.take()?;
        // What panics in there is caught in there.
        thread.join().ok().flatten()
    }
}

impl<T, E> Drop for Runtime<T, E> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl<T, E> fmt::Debug for Runtime<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.cores.iter().map(|core| core.name.as_str()).collect();
        f.debug_struct("Runtime").field("cores", &names).finish_non_exhaustive()
    }
}

/// The thread of one core: the output of its main task, if that has ended well.
fn run_one<B, D, M, F, T, E>(
    shared: &Shared<E>,
    seat: Seat,
    config: CoreConfig,
    jobs: MeshEnd<Job>,
    boot: B,
    started: SyncSender<Arc<Stats>>,
) -> Option<T>
where
    B: FnOnce(Seat) -> Result<(D, M), E>,
    D: Driver,
    M: FnOnce() -> F,
    F: Future<Output = Result<T, E>> + 'static,
    T: 'static,
    E: 'static,
{
    let (core, name) = (seat.core, config.name.clone());
    let stop = Stop { flag: &shared.stops[core], bell: Some(shared.bells[core].clone()), jobs: Some(jobs) };
    let tell = |_, stats| drop(started.send(stats));
    let ran = catch_unwind(AssertUnwindSafe(|| run_until(config, || boot(seat), stop, tell)));
    let why = match ran {
        Ok(Ok(Ok(Some(Ok(Ok(output)))))) => return Some(output),
        // It was told to stop.
        Ok(Ok(Ok(None))) => return None,
        Ok(Ok(Ok(Some(Ok(Err(error)))))) | Ok(Ok(Err(error))) => CoreFailure::Said(error),
        Ok(Ok(Ok(Some(Err(panicked))))) => CoreFailure::Runtime(RuntimeError::MainPanicked(panicked)),
        Ok(Err(error)) => CoreFailure::Runtime(error),
        Err(panic) => CoreFailure::Panicked(panic_message(panic.as_ref())),
    };
    shared.fail(Failure { core, name, why });
    None
}

/// The number of the current core among those of its [`Runtime`]; 0 for a core that is alone.
///
/// # Panics
/// Outside of any core.
#[track_caller]
pub fn core_number() -> usize {
    Local::current().jobs.borrow().as_ref().map_or(0, MeshEnd::core)
}

/// Sends `build` to another core of this one's [`Runtime`], where it makes a future that is started as a task of the Normal lane.
/// The future need not be `Send`, its output must be. To a core's own number it is started here.
///
/// # Errors
/// The closure, where 256 are already on their way to that core, where there is no such core or it has ended, or this one is alone. Where
/// that core ends after it was taken, the output is [`Lost`].
///
/// # Panics
/// Outside of any core. A `build` that panics ends the core that it is sent to, and with it all others.
#[track_caller]
pub fn spawn_on<B, F>(core: usize, name: &'static str, build: B) -> Result<Abroad<F::Output>, NotTaken<Job>>
where
    B: FnOnce() -> F + Send + 'static,
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let slot = Arc::new(Mutex::new(Slot { state: State::Running, waker: None }));
    let promise = Promise(slot.clone());
    let job: Job = Box::new(move || {
        let future = build();
        spawn_in(Lane::Normal, name, async move { promise.keep(future.await) }).detach();
    });
    let local = Local::current();
    let mut jobs = local.jobs.borrow_mut();
    match jobs.as_mut() {
        Some(end) if end.core() == core => {
            drop(jobs);
            job();
        }
        Some(end) => {
            let sent = end.send(core, job);
            let departed = end.announce();
            drop(jobs);
            // Closures that nobody runs, and what they hold may want to send something itself.
            drop(departed);
            sent?;
        }
        None => return Err(NotTaken(job)),
    }
    Ok(Abroad(slot))
}

/// A task on another core, started by [`spawn_on`], that its output is awaited of; it ends with [`Lost`] at the latest when that core does.
/// Dropped, the task goes on.
#[must_use = "its output is lost where nobody awaits it"]
pub struct Abroad<T>(Arc<Mutex<Slot<T>>>);

/// The task on the other core panicked, or that core ended before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task on another core has ended without an output")]
pub struct Lost;

struct Slot<T> {
    state: State<T>,
    waker: Option<Waker>,
}

enum State<T> {
    Running,
    Ended(Result<T, Lost>),
    Told,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    // Nothing in here panics half-way.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kept with an output, or broken when it is dropped.
struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    fn keep(self, output: T) {
        lock(&self.0).state = State::Ended(Ok(output));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut slot = lock(&self.0);
        if let State::Running = slot.state {
            slot.state = State::Ended(Err(Lost));
        }
        let waker = slot.waker.take();
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Future for Abroad<T> {
    type Output = Result<T, Lost>;

    /// # Panics
    /// Polled again after its end.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.0);
        match std::mem::replace(&mut slot.state, State::Told) {
            State::Ended(output) => Poll::Ready(output),
            State::Running => {
                slot.state = State::Running;
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Told => panic!("awaited again after its end"),
        }
    }
}

impl<T> fmt::Debug for Abroad<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Abroad").finish()
    }
}
