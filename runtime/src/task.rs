//! Tasks: a future on the heap, the handle that owns it, and the slab through which its core reaches it.

use crate::local::{CoreKey, Local, schedule};
use async_task::{FallibleTask, ScheduleInfo, WithInfo};
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Which queue a task waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Elections, heartbeats, what keeps the node alive: before all else, and a panic here is fatal.
    Control,
    /// Everything else.
    Normal,
}

/// What a panic of a Control task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlPanic {
    /// Ends the process: half-changed consensus state must not speak. The default.
    #[default]
    Abort,
    /// Leaves [`Core::turn`](crate::Core::turn), so that a simulated seed fails.
    Propagate,
}

/// What async-task keeps beside the future.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) core: CoreKey,
    pub(crate) lane: Lane,
    pub(crate) name: &'static str,
    pub(crate) site: &'static Location<'static>,
}

pub(crate) type Runnable = async_task::Runnable<Meta>;

/// Why a task has no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{name}` spawned at {site} ended early: {message}")]
pub struct Panicked {
    name: &'static str,
    site: &'static Location<'static>,
    message: String,
}

impl Panicked {
    /// The name given at the spawn.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.site
    }

    /// The panic's message, or that the task's core was shut down.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Starts a task of the Normal lane on the current core. It is polled first after this poll or call has returned.
///
/// One allocation, none later. The future needs neither `Send` nor locks: it stays on this core.
///
/// # Panics
/// Outside of a core, and beyond the core's `tasks_max`, which guards against a leak: bound your own work far below.
#[track_caller]
pub fn spawn<F: Future + 'static>(future: F) -> Task<F::Output> {
    spawn_in(Lane::Normal, "task", future)
}

/// Like [`spawn`], in a lane of choice and with a name for the logs.
///
/// # Panics
/// As [`spawn`].
#[track_caller]
pub fn spawn_in<F: Future + 'static>(lane: Lane, name: &'static str, future: F) -> Task<F::Output> {
    let site = Location::caller();
    let local = Local::current();
    let key = local.tasks.borrow_mut().reserve();
    local.stats.tasks_spawned.add(1);
    let inbox = local.inbox.clone();
    let meta = Meta { core: local.key, lane, name, site };
    let member = Member { local: local.clone(), key };
    let schedule = move |runnable: Runnable, info: ScheduleInfo| schedule(runnable, &inbox, info.woken_while_running);
    let cell = move |meta| TaskCell { future, meta, member };
    // SAFETY: `cell` is 'static and may be neither Send nor touched by another thread: its Runnable is run and dropped by
    // its own core only, because `schedule` queues it there or, when the core is gone, forgets it; `schedule` itself is
    // Send, Sync and 'static.
    let (runnable, task) =
        unsafe { async_task::Builder::new().metadata(meta).spawn_unchecked(cell, WithInfo(schedule)) };
    local.tasks.borrow_mut().fill(key, runnable.waker());
    runnable.schedule();
    Task { task: task.fallible(), name, site, _core_local: PhantomData }
}

/// The handle of a task. Dropping it cancels the task: its future is dropped by its core, soon. Awaiting it gives the
/// output, or [`Panicked`].
#[must_use = "dropping the handle cancels the task; detach() lets it run"]
#[derive(Debug)]
pub struct Task<T> {
    task: FallibleTask<Result<T, Panicked>, Meta>,
    name: &'static str,
    site: &'static Location<'static>,
    /// Outputs need not be Send.
    _core_local: PhantomData<Rc<()>>,
}

impl<T> Task<T> {
    /// Lets the task run to its end on its own. A panic is logged with its name and where it was spawned.
    pub fn detach(self) {
        self.task.detach();
    }

    /// Whether the task has ended, by itself, by a panic, or with its core.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// The name given at the spawn.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The output, where the task has ended; to be called once.
    pub(crate) fn take_output(&mut self) -> Option<Result<T, Panicked>> {
        match Pin::new(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let output = ready!(Pin::new(&mut self.task).poll(cx));
        Poll::Ready(output.unwrap_or_else(|| {
            Err(Panicked { name: self.name, site: self.site, message: "its core was shut down".into() })
        }))
    }
}

/// The future together with what must happen around each poll and at its end.
#[pin_project::pin_project]
struct TaskCell<'a, F> {
    #[pin]
    future: F,
    meta: &'a Meta,
    /// Dropped after the future, so that the slab is empty only when all futures are gone.
    member: Member,
}

impl<F: Future> Future for TaskCell<'_, F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // What the unwound future leaves behind is dropped and never polled again.
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(panicked(&this.member.local, this.meta, payload))),
        }
    }
}

/// What somebody who panicked had to say.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a message".to_owned(),
    }
}

#[cold]
fn panicked(local: &Local, meta: &Meta, payload: Box<dyn Any + Send>) -> Panicked {
    let message = panic_message(payload.as_ref());
    let error = Panicked { name: meta.name, site: meta.site, message };
    tracing::error!(lane = ?meta.lane, "{error}");
    match (meta.lane, local.control_panic) {
        (Lane::Control, ControlPanic::Abort) => {
            eprintln!("{error}; it kept this node alive, so the process aborts");
            std::process::abort()
        }
        (Lane::Control, ControlPanic::Propagate) => resume_unwind(payload),
        (Lane::Normal, _) => local.stats.panics.add(1),
    }
    error
}

/// A task's membership of its core.
struct Member {
    local: Rc<Local>,
    key: u32,
}

impl Drop for Member {
    fn drop(&mut self) {
        let waker = self.local.tasks.borrow_mut().release(self.key);
        drop(waker);
    }
}

/// The slab of a core's live tasks: their wakers, so that a shutdown reaches each of them.
pub(crate) struct Tasks {
    entries: Vec<Entry>,
    free: Option<u32>,
    live: usize,
    limit: usize,
}

enum Entry {
    Live(Waker),
    Reserved,
    Free { next: Option<u32> },
}

impl Tasks {
    pub(crate) fn new(limit: usize) -> Self {
        Tasks { entries: Vec::new(), free: None, live: 0, limit: limit.min(u32::MAX as usize) }
    }

    #[track_caller]
    fn reserve(&mut self) -> u32 {
        assert!(self.live < self.limit, "more than {} tasks on one core: something spawns without bound", self.limit);
        self.live += 1;
        let Some(key) = self.free else {
            self.entries.push(Entry::Reserved);
            return (self.entries.len() - 1) as u32;
        };
        if let Entry::Free { next } = self.entries[key as usize] {
            self.free = next;
        }
        self.entries[key as usize] = Entry::Reserved;
        key
    }

    fn fill(&mut self, key: u32, waker: Waker) {
        self.entries[key as usize] = Entry::Live(waker);
    }

    fn release(&mut self, key: u32) -> Option<Waker> {
        self.live -= 1;
        let entry = std::mem::replace(&mut self.entries[key as usize], Entry::Free { next: self.free });
        self.free = Some(key);
        match entry {
            Entry::Live(waker) => Some(waker),
            Entry::Reserved | Entry::Free { .. } => None,
        }
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn wakers(&self) -> Vec<Waker> {
        let live = self.entries.iter().filter_map(|entry| match entry {
            Entry::Live(waker) => Some(waker.clone()),
            Entry::Reserved | Entry::Free { .. } => None,
        });
        live.collect()
    }
}

/// Lets other tasks run: ready in the next turn.
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: Cell::new(false) }
}

/// See [`yield_now`].
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct YieldNow {
    yielded: Cell<bool>,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded.replace(true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Tasks with one owner. Dropping the group cancels those that still run.
#[derive(Debug, Default)]
pub struct TaskGroup {
    tasks: Vec<Task<()>>,
    first_panic: Option<Panicked>,
    /// At this many handles the ended ones are swept out, so that each spawn costs O(1) on average.
    sweep_at: usize,
}

impl TaskGroup {
    /// An empty group. Only the core's `tasks_max` bounds it.
    pub fn new() -> Self {
        TaskGroup::default()
    }

    /// Starts a task of the Normal lane in this group.
    ///
    /// # Panics
    /// As [`spawn`].
    #[track_caller]
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.spawn_in(Lane::Normal, "task of a group", future);
    }

    /// Starts a task in this group.
    ///
    /// # Panics
    /// As [`spawn`].
    #[track_caller]
    pub fn spawn_in(&mut self, lane: Lane, name: &'static str, future: impl Future<Output = ()> + 'static) {
        if self.tasks.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = (2 * self.tasks.len()).max(16);
        }
        self.tasks.push(spawn_in(lane, name, future));
    }

    /// Tasks that still run. O(n).
    pub fn len(&mut self) -> usize {
        self.sweep();
        self.tasks.len()
    }

    /// Whether no task runs. O(n).
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Waits for all; the first panic in order of spawning is the error.
    pub async fn join_all(mut self) -> Result<(), Panicked> {
        self.sweep();
        let mut first_panic = self.first_panic.take();
        for task in std::mem::take(&mut self.tasks) {
            if let Err(panicked) = task.await {
                first_panic.get_or_insert(panicked);
            }
        }
        first_panic.map_or(Ok(()), Err)
    }

    fn sweep(&mut self) {
        self.tasks.retain_mut(|task| match task.is_finished().then(|| task.take_output()).flatten() {
            None => true,
            Some(Ok(())) => false,
            Some(Err(panicked)) => {
                self.first_panic.get_or_insert(panicked);
                false
            }
        });
    }
}
