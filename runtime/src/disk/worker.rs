//! A thread that does jobs one after the other: those that the ring cannot, or all of them where there is none.

use crate::affinity::start_thread;
use crate::disk::directory::{Directory, Job, Outcome};
use crate::disk::{Aligned, DiskError, Ticket};
use crate::local::Inbox;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// A job's end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ticket: Ticket,
    /// It was to open a file.
    pub(super) opens: bool,
    pub(super) result: Result<Outcome, DiskError>,
    pub(super) buffer: Option<Aligned>,
}

#[derive(Debug)]
pub(super) struct Worker {
    jobs: Option<SyncSender<(Ticket, Job)>>,
    results: Arc<Results>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Results {
    ended: Mutex<VecDeque<Ended>>,
    /// The core that waits. Apart from `ended` in its own lock, which is taken once a job.
    inbox: Mutex<Option<Arc<Inbox>>>,
    /// There is something in `ended`: spares an idle core the lock.
    any: AtomicBool,
    /// Nobody waits any more.
    stop: AtomicBool,
}

impl Worker {
    /// Starts it. It takes `jobs_max` jobs at once.
    pub(super) fn start(directory: Arc<Directory>, jobs_max: usize) -> Result<Worker, DiskError> {
        let (jobs, queue) = sync_channel(jobs_max);
        let results = Arc::new(Results {
            ended: Mutex::new(VecDeque::with_capacity(jobs_max)),
            inbox: Mutex::new(None),
            any: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let theirs = results.clone();
        // Some calls of a file system always block, and the loop must not: this is the thread that does.
        let thread = start_thread(Builder::new().name("disk".into()), move || work(&directory, &queue, &theirs))?;
        Ok(Worker { jobs: Some(jobs), results, thread: Some(thread) })
    }

    pub(super) fn attach(&self, inbox: &Arc<Inbox>) {
        *lock(&self.results.inbox) = Some(inbox.clone());
    }

    /// Hands over a job; gives it back where the thread is gone.
    pub(super) fn submit(&self, ticket: Ticket, job: Job) -> Result<(), Job> {
        match &self.jobs {
            Some(jobs) => jobs.try_send((ticket, job)).map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full((_, job))
                | std::sync::mpsc::TrySendError::Disconnected((_, job)) => job,
            }),
            None => Err(job),
        }
    }

    /// Takes what has ended.
    pub(super) fn reap(&self, mut take: impl FnMut(Ended)) {
        if self.has_ended() {
            // Before the look: what comes after it sets the flag again.
            self.results.any.store(false, Ordering::Release);
            lock(&self.results.ended).drain(..).for_each(&mut take);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.results.any.load(Ordering::Acquire)
    }
}

impl Drop for Worker {
    /// Waits for the job in hand; those behind it are not begun.
    fn drop(&mut self) {
        self.results.stop.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(directory: &Directory, queue: &Receiver<(Ticket, Job)>, results: &Results) {
    while let Ok((ticket, job)) = queue.recv() {
        if results.stop.load(Ordering::Acquire) {
            return;
        }
        let opens = matches!(job, Job::Create { .. } | Job::Open { .. });
        let (result, buffer) = directory.run(job);
        lock(&results.ended).push_back(Ended { ticket, opens, result, buffer });
        results.any.store(true, Ordering::Release);
        if let Some(inbox) = &*lock(&results.inbox) {
            inbox.bell.ring();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
