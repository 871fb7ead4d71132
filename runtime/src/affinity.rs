//! On which processors threads may run: a pinned one on one of them; what it starts, where it could itself before.
//!
//! A thread of Linux begins with the affinity of the one that starts it. So what a pinned core starts beside itself, such as a core
//! without a CPU of its own or the thread of a disk, would be held to the very processor that it is to relieve.

use crate::error::RuntimeError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::cell::Cell;
use std::io;
use std::thread::{Builder, JoinHandle};

thread_local! {
    /// Where this thread was allowed to run before it was pinned. Of the thread, not of the process: whoever embeds the runtime may
    /// give each of its threads processors of its own.
    static BEFORE: Cell<Option<CpuSet>> = const { Cell::new(None) };
}

/// Pins the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<(), RuntimeError> {
    let refused = |source| RuntimeError::Pin { cpu, source };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(rustix::io::Errno::INVAL.into()));
    }
    let before = sched_getaffinity(None);
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|errno| refused(errno.into()))?;
    match before {
        // Pinned again, it keeps what it had at first.
        Ok(before) => BEFORE.set(BEFORE.get().or(Some(before))),
        Err(errno) => tracing::warn!(%errno, cpu, "what this core starts shares its CPU: its affinity is unknown"),
    }
    Ok(())
}

/// Starts a thread, which may run wherever the caller could before the runtime pinned it.
pub(crate) fn start_thread<T: Send + 'static>(
    builder: Builder,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let before = BEFORE.get();
    let thread = move || {
        if let Some(before) = before
            && let Err(errno) = sched_setaffinity(None, &before)
        {
            tracing::warn!(%errno, "a thread shares the CPU of the core that started it: its affinity cannot be restored");
        }
        body()
    };
    // All threads of the runtime are started here.
    #[allow(clippy::disallowed_methods)]
    builder.spawn(thread)
}
