//! What the tasks of a core can reach of it, and how they find it: the core that is current on this thread.

use crate::clock::Clock;
use crate::disk;
use crate::idle::Bell;
use crate::mesh::MeshEnd;
use crate::stats::Stats;
use crate::task::{ControlPanic, Lane, Runnable, Tasks};
use crate::time::Instant;
use crate::wheel::Wheel;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg32;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
    /// The stamp of the current core, apart from it: asked some thirty times for each request, and this way without a borrow or a
    /// destructor to look after.
    static STAMP: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Tells cores apart within the process. One thread can host many, so a thread's identity would not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub(crate) tasks: RefCell<Tasks>,
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
        Rc::new(Local {
            key: CoreKey::next(),
            timers: Rc::new(Timers { now: Cell::new(now), wheel: RefCell::new(Wheel::new(now)) }),
            clock,
            lanes: RefCell::new(Lanes::new(parts.permute)),
            tasks: RefCell::new(Tasks::new(parts.tasks_max)),
            inbox: parts.inbox.unwrap_or_else(|| Arc::new(Inbox::new(Bell::new(parts.eventfd)))),
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
        match CURRENT.with_borrow(Clone::clone) {
            Some(local) => local,
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

    /// Makes this core current until the guard is dropped, with the stamp that its timers have.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        let stamp = STAMP.replace(Some(self.timers.now.get()));
        Entered { before: CURRENT.replace(Some(self.clone())), stamp }
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
        CURRENT.set(self.before.take());
    }
}

/// Puts a woken task where its core finds it: in the core's own queue if that core is current here, else into its inbox.
/// Runs on any thread.
pub(crate) fn schedule(runnable: Runnable, inbox: &Inbox, woken_while_running: bool) {
    let mut runnable = Some(runnable);
    // Fails only while the thread's locals are destroyed, where no core is current.
    let _ = CURRENT.try_with(|current| {
        let current = current.borrow();
        if let Some(local) = current.as_ref()
            && let Some(task) = runnable.take_if(|task| task.metadata().core == local.key)
        {
            local.lanes.borrow_mut().push(task, woken_while_running);
        }
    });
    if let Some(runnable) = runnable {
        inbox.push(runnable);
    }
}

/// The run queues. Each live task is in at most one place, so their number bounds them.
pub(crate) struct Lanes {
    control: VecDeque<Runnable>,
    normal: VecDeque<Runnable>,
    /// Woke themselves while they ran: they wait for the next turn.
    next_turn: Vec<Runnable>,
    order: Option<Pcg32>,
}

impl Lanes {
    fn new(permute: Option<u64>) -> Self {
        Lanes {
            control: VecDeque::new(),
            normal: VecDeque::new(),
            next_turn: Vec::new(),
            order: permute.map(Pcg32::seed_from_u64),
        }
    }

    pub(crate) fn push(&mut self, runnable: Runnable, to_next_turn: bool) {
        match (to_next_turn, runnable.metadata().lane) {
            (true, _) => self.next_turn.push(runnable),
            (false, Lane::Control) => self.control.push_back(runnable),
            (false, Lane::Normal) => self.normal.push_back(runnable),
        }
    }

    pub(crate) fn pop(&mut self, lane: Lane) -> Option<Runnable> {
        let queue = match lane {
            Lane::Control => &mut self.control,
            Lane::Normal => &mut self.normal,
        };
        match &mut self.order {
            Some(order) if queue.len() > 1 => queue.swap_remove_back(order.random_range(0..queue.len())),
            _ => queue.pop_front(),
        }
    }

    /// The turn is over: tasks that woke themselves may run again. Tells whether others were left over.
    pub(crate) fn end_turn(&mut self) -> bool {
        let left = !self.control.is_empty() || !self.normal.is_empty();
        for runnable in self.next_turn.drain(..) {
            match runnable.metadata().lane {
                Lane::Control => self.control.push_back(runnable),
                Lane::Normal => self.normal.push_back(runnable),
            }
        }
        left
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.normal.is_empty() && self.next_turn.is_empty()
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
            // The core is gone, and with it the only thread that may drop this task's future: leaking it is safe.
            drop(queue);
            std::mem::forget(runnable);
            return;
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

    /// The core, when no task of it is left: whoever still wakes one is refused.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::spawn;
    use std::task::Poll;

    fn local() -> Rc<Local> {
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
        let runnable = local.lanes.borrow_mut().pop(Lane::Normal);
        runnable.expect("the new task").run();
        local.inbox.close();
        let wakers = local.tasks.borrow().wakers();
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
