//! One core, one loop: tasks, timers, disks and a driver polled in turns. Knows no protocol.
//!
//! ```text
//!                      +----------------------- core.rs: the turn ------------------------+
//!                      |                                                                  |
//!   device --> driver.poll --> wake --+                                                   |
//!                      |              +--> Control lane --> Normal lane --> driver.flush --> device
//!   time ----> wheel.rs -----> wake --+      (task.rs: spawn, Task; channel.rs between)   |
//!                      |              |                                                   |
//!   other threads --> local.rs inbox -+        nothing to do: idle.rs spin, yield, park   |
//!   other cores ----> mesh.rs rings --+                                                   |
//!                      +------------------------------------------------------------------+
//!
//!   disk.rs   files, in the same turn: io_uring or a thread; sim/disk.rs, a disk with faults
//!   handoff.rs  a few values between two cores
//!   run.rs    one core per thread, pinned, on the machine's clock       sim.rs    many cores on one thread, in virtual
//!   clock.rs  where time comes from                                               time: the same core, one seed, one trace
//!   time.rs   now, sleep, timeout, interval        stats.rs, stall.rs   what is counted, and slow polls
//! ```
//!
//! The rules of the turn: packets are received before timers fire, and both before tasks run, so that a task which asks
//! "did it come in time?" sees all that came. A task that wakes itself runs once a turn. A turn never blocks; `park` is
//! the only call that does.

mod affinity;
pub mod channel;
pub mod clock;
pub mod core;
mod departure;
pub mod disk;
pub mod driver;
mod error;
mod flags;
mod handoff;
mod handshake;
mod idle;
mod local;
pub mod mesh;
pub mod run;
pub mod sim;
mod stall;
pub mod stats;
pub mod task;
pub mod time;
mod wheel;

/// What the handshake, the flags of a mesh and the end of a core in it are made of. Its test puts loom's atomics in this place.
mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
}

pub use crate::core::{Core, CoreConfig, Turn};
pub use clock::{Clock, Monotonic, Virtual};
pub use disk::{Aligned, BLOCK_BYTES, Completion, Disk, DiskConfig, DiskError, Done, FileId, Full, Op, Ticket};
pub use driver::{Driver, Flushed, NoDevice, Polled};
pub use error::RuntimeError;
pub use handoff::{Handoff, handoff};
pub use idle::Idle;
pub use mesh::{Doorbell, MESH_CORES_MAX, MeshEnd, MeshStats, NotTaken, mesh};
pub use run::{Abroad, CoreFailure, CoreHandle, Failure, Lost, Runtime, Seat, core_number, run, spawn_on, start};
pub use stats::{Counter, Stats};
pub use task::{ControlPanic, Lane, Panicked, Task, TaskGroup, YieldNow, spawn, spawn_in, yield_now};
pub use time::{
    Elapsed, Instant, Interval, RecvOrDeadline, Sleep, Timeout, interval, now, read_clock, recv_or_deadline, sleep,
    sleep_until, timeout, timeout_at,
};
