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

/// Why a task has no output. One pointer: it is rare, and each task has room for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{}` spawned at {} ended early: {}", .0.name, .0.site, .0.message)]
pub struct Panicked(Box<Ended>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    name: &'static str,
    site: &'static Location<'static>,
    message: String,
}

impl Panicked {
    fn new(name: &'static str, site: &'static Location<'static>, message: String) -> Panicked {
        Panicked(Box::new(Ended { name, site, message }))
    }

    /// The name given at the spawn.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Where it was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.0.site
    }

    /// The panic's message, or that the task's core was shut down.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

/// Starts a task of the Normal lane on the current core. It is polled first after this poll or call has returned.
///
/// One allocation, none later (the core's own tables apart, while they grow). The future needs neither `Send` nor locks: it stays on this core.
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
    // Where it is refused it is dropped at the end of this function: by then no core is borrowed, which its drop may enter.
    let mut future = Some(future);
    let spawned = Local::with(|local| {
        local.live.begin()?;
        let Some(future) = future.take() else { unreachable!("nobody else takes it") };
        let meta = Meta { core: local.key, lane, name, site };
        let member = Member { local: local.clone(), key: None };
        let cell = move |meta| TaskCell { future, meta, member };
        // Captures nothing: async-task then counts no reference to the task while it is scheduled.
        let schedule = |runnable: Runnable, info: ScheduleInfo| schedule(runnable, info.woken_while_running);
        // SAFETY: `cell` is 'static and may be neither Send nor touched by another thread: its Runnable is run and dropped by
        // its own core only, because `schedule` queues it there or, when the core is gone, forgets it; `schedule` itself is
        // Send, Sync and 'static.
        let (runnable, task) =
            unsafe { async_task::Builder::new().metadata(meta).spawn_unchecked(cell, WithInfo(schedule)) };
        // As its `schedule` would, which would have to find the core again.
        local.lanes.borrow_mut().push(runnable, false);
        Ok(task)
    });
    let task = match spawned {
        Ok(task) => task,
        Err(TooMany { limit }) => panic!("more than {limit} tasks on one core: something spawns without bound"),
    };
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
        let shut_down = || Err(Panicked::new(self.name, self.site, "its core was shut down".into()));
        Poll::Ready(output.unwrap_or_else(shut_down))
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
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => {
                this.member.waits(cx);
                Poll::Pending
            }
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
    let error = Panicked::new(meta.name, meta.site, panic_message(payload.as_ref()));
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
    /// Its place in the slab, once it has waited for something.
    key: Option<u32>,
}

impl Member {
    /// The task waits: from now on, where it is in no queue, a shutdown finds it by its waker.
    #[inline]
    fn waits(&mut self, cx: &mut Context<'_>) {
        if self.key.is_none() {
            self.keep(cx.waker());
        }
    }

    #[inline(never)]
    fn keep(&mut self, waker: &Waker) {
        self.key = Some(self.local.waiting.borrow_mut().keep(waker.clone()));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.local.live.end();
        if let Some(key) = self.key {
            let waker = self.local.waiting.borrow_mut().release(key);
            drop(waker);
        }
    }
}

/// How many tasks of a core live.
#[derive(Debug)]
pub(crate) struct Live {
    now: Cell<usize>,
    limit: usize,
    /// Since this was asked last.
    begun: Cell<u64>,
}

/// As many tasks live as may.
struct TooMany {
    limit: usize,
}

impl Live {
    pub(crate) fn new(limit: usize) -> Live {
        Live { now: Cell::new(0), limit: limit.min(u32::MAX as usize), begun: Cell::new(0) }
    }

    /// Counts one more, up to the limit.
    #[inline]
    fn begin(&self) -> Result<(), TooMany> {
        let live = self.now.get();
        if live >= self.limit {
            return Err(TooMany { limit: self.limit });
        }
        self.now.set(live + 1);
        self.begun.set(self.begun.get() + 1);
        Ok(())
    }

    #[inline]
    fn end(&self) {
        self.now.set(self.now.get() - 1);
    }

    pub(crate) fn get(&self) -> usize {
        self.now.get()
    }

    /// How many have been spawned since this was asked before.
    pub(crate) fn take_begun(&self) -> u64 {
        self.begun.take()
    }
}

/// The slab of the wakers of those tasks of a core that have waited for something, so that a shutdown reaches each of them. The others
/// have been in a run queue ever since they were spawned. No longer than there were ever live tasks.
#[derive(Default)]
pub(crate) struct Waiting {
    entries: Vec<Entry>,
    free: Option<u32>,
}

enum Entry {
    Waits(Waker),
    Free { next: Option<u32> },
}

impl Waiting {
    /// Keeps the waker of a live task, which has kept none yet.
    fn keep(&mut self, waker: Waker) -> u32 {
        let entry = Entry::Waits(waker);
        let Some(key) = self.free else {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32; // live tasks are fewer
        };
        if let Entry::Free { next } = std::mem::replace(&mut self.entries[key as usize], entry) {
            self.free = next;
        }
        key
    }

    /// Gives back the waker that was kept.
    fn release(&mut self, key: u32) -> Option<Waker> {
        let entry = std::mem::replace(&mut self.entries[key as usize], Entry::Free { next: self.free });
        self.free = Some(key);
        match entry {
            Entry::Waits(waker) => Some(waker),
            Entry::Free { .. } => None,
        }
    }

    /// Of the tasks that are in no queue, and of some that are.
    pub(crate) fn wakers(&self) -> Vec<Waker> {
        let waiting = self.entries.iter().filter_map(|entry| match entry {
            Entry::Waits(waker) => Some(waker.clone()),
            Entry::Free { .. } => None,
        });
        waiting.collect()
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
