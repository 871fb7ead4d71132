//! What the tasks of a core can reach of it, and how they find it: the core that is current on this thread.

use crate::clock::Clock;
use crate::disk;
use crate::idle::Bell;
use crate::mesh::MeshEnd;
use crate::stats::Stats;
use crate::task::{ControlPanic, Lane, Live, Runnable, Waiting};
use crate::time::Instant;
use crate::wheel::Wheel;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg32;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::mem::ManuallyDrop;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

thread_local! {
    /// Has no destructor to look after: whoever enters a core leaves it before the thread ends.
    static CURRENT: RefCell<ManuallyDrop<Option<Rc<Local>>>> = const { RefCell::new(ManuallyDrop::new(None)) };
    /// The stamp of the current core, apart from it: asked some thirty times for each request, and this way without a borrow or a
    /// destructor to look after.
    static STAMP: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Where tasks that are woken outside of their core go. Looked up only there: so a task need not keep its core's inbox.
static INBOXES: RwLock<BTreeMap<CoreKey, Arc<Inbox>>> = RwLock::new(BTreeMap::new());

/// Tells cores apart within the process. One thread can host many, so a thread's identity would not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CoreKey(u64);

impl CoreKey {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CoreKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The part of a core that its tasks reach.
pub(crate) struct Local {
    pub(crate) key: CoreKey,
    pub(crate) timers: Rc<Timers>,
    pub(crate) clock: Rc<dyn Clock>,
    pub(crate) lanes: RefCell<Lanes>,
    pub(crate) live: Live,
    pub(crate) waiting: RefCell<Waiting>,
    pub(crate) inbox: Arc<Inbox>,
    /// What other cores want done here, where this one is among several.
    pub(crate) jobs: RefCell<Option<MeshEnd<Job>>>,
    pub(crate) disks: Disks,
    pub(crate) stats: Arc<Stats>,
    pub(crate) control_panic: ControlPanic,
}

/// The stamp of the turn and the timers. Apart, because a `Sleep` holds on to them.
pub(crate) struct Timers {
    pub(crate) now: Cell<Instant>,
    pub(crate) wheel: RefCell<Wheel>,
}

impl Local {
    pub(crate) fn new(now: Instant, clock: Rc<dyn Clock>, parts: LocalParts) -> Rc<Self> {
        let (key, inbox) =
            (CoreKey::next(), parts.inbox.unwrap_or_else(|| Arc::new(Inbox::new(Bell::new(parts.eventfd)))));
        INBOXES.write().unwrap_or_else(PoisonError::into_inner).insert(key, inbox.clone());
        Rc::new(Local {
            key,
            timers: Rc::new(Timers { now: Cell::new(now), wheel: RefCell::new(Wheel::new(now)) }),
            clock,
            lanes: RefCell::new(Lanes::new(parts.permute)),
            live: Live::new(parts.tasks_max),
            waiting: RefCell::default(),
            inbox,
            jobs: RefCell::default(),
            disks: Disks::default(),
            stats: Arc::default(),
            control_panic: parts.control_panic,
        })
    }

    /// The core of the caller.
    ///
    /// # Panics
    /// Outside of any core.
    #[track_caller]
    pub(crate) fn current() -> Rc<Local> {
        Local::with(Rc::clone)
    }

    /// As [`Local::current`], for `f` to use, which must enter no other core.
    ///
    /// # Panics
    /// Outside of any core.
    #[inline]
    #[track_caller]
    pub(crate) fn with<R>(f: impl FnOnce(&Rc<Local>) -> R) -> R {
        match CURRENT.with_borrow(|current| current.as_ref().map(f)) {
            Some(result) => result,
            None => outside(),
        }
    }

    /// The stamp of the current turn of the caller's core.
    ///
    /// # Panics
    /// Outside of any core.
    #[inline]
    #[track_caller]
    pub(crate) fn stamp() -> Instant {
        match STAMP.get() {
            Some(now) => now,
            None => outside(),
        }
    }

    /// The core, when no task of it is left: whoever still wakes one is refused.
    pub(crate) fn close(&self) {
        INBOXES.write().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.inbox.lock().closed = true;
    }

    /// Makes this core current until the guard is dropped, with the stamp that its timers have.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        let stamp = STAMP.replace(Some(self.timers.now.get()));
        let before = CURRENT.replace(ManuallyDrop::new(Some(self.clone())));
        Entered { before: ManuallyDrop::into_inner(before), stamp }
    }
}

#[cold]
#[track_caller]
fn outside() -> ! {
    panic!("no core is current on this thread: call this from a task, or inside of Core::enter")
}

/// The disks that tasks of the core have used: none, or one for each shard.
#[derive(Default)]
pub(crate) struct Disks(RefCell<Vec<Weak<disk::Shared>>>);

impl Disks {
    pub(crate) fn add(&self, disk: Weak<disk::Shared>) {
        let mut disks = self.0.borrow_mut();
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(disk);
    }

    /// Of each disk that is still in use. Nothing is borrowed meanwhile: what `f` does may add or drop disks.
    pub(crate) fn each<R>(&self, mut f: impl FnMut(&disk::Shared) -> R, mut tell: impl FnMut(R)) {
        let mut at = 0;
        loop {
            let Some(disk) = self.0.borrow().get(at).map(Weak::upgrade) else { return };
            if let Some(disk) = disk {
                tell(f(&disk));
            }
            at += 1;
        }
    }

    /// What `f` counts, of all disks.
    pub(crate) fn sum(&self, f: impl Fn(&disk::Shared) -> usize) -> usize {
        let mut sum = 0;
        self.each(f, |count| sum += count);
        sum
    }
}

/// How a core's local part is made.
pub(crate) struct LocalParts {
    /// Seed for run-queue order; `None` is first in, first out.
    pub(crate) permute: Option<u64>,
    pub(crate) tasks_max: usize,
    pub(crate) eventfd: bool,
    /// One that others know already; `None` makes one.
    pub(crate) inbox: Option<Arc<Inbox>>,
    pub(crate) control_panic: ControlPanic,
}

/// What one core has another do: mostly to build a future there and start it.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Restores the core that was current before.
pub(crate) struct Entered {
    before: Option<Rc<Local>>,
    stamp: Option<Instant>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        STAMP.set(self.stamp);
        let left = CURRENT.replace(ManuallyDrop::new(self.before.take()));
        drop(ManuallyDrop::into_inner(left));
    }
}

/// Puts a woken task where its core finds it: in the core's own queue if that core is current here, else into its inbox.
/// Runs on any thread.
pub(crate) fn schedule(runnable: Runnable, woken_while_running: bool) {
    CURRENT.with_borrow(|current| match &**current {
        Some(local) if local.key == runnable.metadata().core => {
            local.lanes.borrow_mut().push(runnable, woken_while_running);
        }
        _ => schedule_abroad(runnable),
    });
}

/// Costs a look-up, two locks and, where the core sleeps, a system call.
#[cold]
fn schedule_abroad(runnable: Runnable) {
    let inboxes = INBOXES.read().unwrap_or_else(PoisonError::into_inner);
    match inboxes.get(&runnable.metadata().core) {
        Some(inbox) => inbox.push(runnable),
        None => leak(runnable),
    }
}

/// Its core is gone, and with it the only thread that may drop the task's future: leaking it is safe.
fn leak(runnable: Runnable) {
    std::mem::forget(runnable);
}

/// The run queues. Each live task is in at most one place, so their number bounds them.
pub(crate) struct Lanes {
    control: Queues,
    normal: Queues,
    order: Option<Pcg32>,
}

/// Of one lane.
#[derive(Default)]
struct Queues {
    ready: VecDeque<Runnable>,
    /// Woke themselves while they ran: they wait for the next turn.
    next_turn: VecDeque<Runnable>,
}

impl Queues {
    /// Whether tasks were left over; those of the next turn follow them.
    fn end_turn(&mut self) -> bool {
        if self.ready.is_empty() {
            std::mem::swap(&mut self.ready, &mut self.next_turn);
            return false;
        }
        self.ready.append(&mut self.next_turn);
        true
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.next_turn.is_empty()
    }
}

/// One of the queue, by lot.
#[inline(never)]
fn draw(queue: &mut VecDeque<Runnable>, order: &mut Pcg32) -> Option<Runnable> {
    match queue.len() {
        0 | 1 => queue.pop_front(),
        len => queue.swap_remove_back(order.random_range(0..len)),
    }
}

impl Lanes {
    fn new(permute: Option<u64>) -> Self {
        Lanes { control: Queues::default(), normal: Queues::default(), order: permute.map(Pcg32::seed_from_u64) }
    }

    fn lane(&mut self, lane: Lane) -> &mut Queues {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Normal => &mut self.normal,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, runnable: Runnable, to_next_turn: bool) {
        let queues = self.lane(runnable.metadata().lane);
        let queue = if to_next_turn { &mut queues.next_turn } else { &mut queues.ready };
        queue.push_back(runnable);
    }

    /// A task of the Control lane, where it is asked for and one is ready, else one of the Normal lane.
    #[inline]
    pub(crate) fn pop(&mut self, control: bool, normal: bool) -> Option<Runnable> {
        let queue = match () {
            () if control && !self.control.ready.is_empty() => &mut self.control.ready,
            () if normal => &mut self.normal.ready,
            () => return None,
        };
        match &mut self.order {
            Some(order) => draw(queue, order),
            None => queue.pop_front(),
        }
    }

    /// The turn is over: tasks that woke themselves may run again. Tells whether others were left over.
    pub(crate) fn end_turn(&mut self) -> bool {
        let left = [self.control.end_turn(), self.normal.end_turn()];
        left.contains(&true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.normal.is_empty()
    }
}

/// Tasks woken from outside of their core. Bounded by the core's live tasks.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    pub(crate) bell: Bell,
}

#[derive(Debug, Default)]
struct Queue {
    woken: Vec<Runnable>,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(bell: Bell) -> Inbox {
        Inbox { queue: Mutex::default(), bell }
    }

    fn push(&self, runnable: Runnable) {
        let mut queue = self.lock();
        if queue.closed {
            drop(queue);
            return leak(runnable);
        }
        queue.woken.push(runnable);
        drop(queue);
        self.bell.ring();
    }

    /// The core: moves what came to `lanes`, and tells how many.
    pub(crate) fn drain(&self, lanes: &RefCell<Lanes>) -> usize {
        if !self.bell.take_ready() {
            return 0;
        }
        let mut queue = self.lock();
        let mut lanes = lanes.borrow_mut();
        let count = queue.woken.len();
        for runnable in queue.woken.drain(..) {
            lanes.push(runnable, false);
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::task::spawn;
    use std::task::Poll;

    pub(crate) fn local() -> Rc<Local> {
        let control_panic = ControlPanic::Propagate;
        let parts = LocalParts { permute: None, tasks_max: 8, eventfd: false, inbox: None, control_panic };
        Local::new(Instant::ZERO, Rc::new(crate::Monotonic), parts)
    }

    /// A wake after the end: the Runnable must be leaked, because dropping it drops the future, on the wrong thread.
    #[test]
    fn a_closed_inbox_leaks_what_it_is_given() {
        let local = local();
        let held = Rc::new(());
        let inside = held.clone();
        let task = {
            let _entered = local.enter();
            spawn(std::future::poll_fn(move |_| {
                let _held = &inside;
                Poll::<()>::Pending
            }))
        };
        let runnable = local.lanes.borrow_mut().pop(true, true);
        runnable.expect("the new task").run();
        local.close();
        let wakers = local.waiting.borrow().wakers();
        // Here is a thread that is not in the core, as is any other.
        wakers.into_iter().for_each(std::task::Waker::wake);
        assert_eq!(Rc::strong_count(&held), 2);
        assert_eq!(local.inbox.drain(&local.lanes), 0);
        std::mem::forget(task);
    }

    #[test]
    fn entering_is_nested_and_undone() {
        let (outer, inner, at) = (local(), local(), Instant::from_nanos);
        outer.timers.now.set(at(1));
        inner.timers.now.set(at(2));
        let entered = outer.enter();
        {
            let _inner = inner.enter();
            assert_eq!((Local::current().key, Local::stamp()), (inner.key, at(2)));
        }
        assert_eq!((Local::current().key, Local::stamp()), (outer.key, at(1)));
        drop(entered);
        assert!(std::panic::catch_unwind(Local::stamp).is_err(), "no core, no time");
    }
}
