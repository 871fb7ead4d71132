//! What trimaran costs, layer by layer: `cargo bench -p trimaran-benches`, or one of them with `--bench NAME`.
//!
//! | bench | what it measures |
//! |---|---|
//! | `runtime` | spawn, switch, timers, turns, and the world |
//! | `ports` | packets through kernel UDP and the simulated network |
//! | `raft_commit` | a commit in machines, logs and messages alone |
//! | `applier` | handlers that take long, on the node's core and on one of their own; `-- N` for N seconds under load |
//! | `dpdk` | the loop over DPDK's devices beside testpmd, and its instructions; needs `--features dpdk` |
//! | `ring` | the same over rings of packets, which cost next to nothing: what is left is trimaran's own |
//! | `rpc` | requests through whole nodes in one process: unreplicated, replicated, read |
//!
//! Times are of one run on one machine: compare ratios within a run.

pub mod callgrind;

use rustix::time::{ClockId, clock_gettime};

/// Wall-clock seconds that `work` takes.
#[allow(clippy::disallowed_methods)] // a bench measures the real clock
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Seconds of the processor that `work` takes on this thread: what a busy machine gives to others does not count.
pub fn cpu_seconds(work: impl FnOnce()) -> f64 {
    let read = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = read();
    work();
    read() - start
}
