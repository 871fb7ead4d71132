//! What trimaran costs, layer by layer: `cargo bench -p trimaran-benches`, or one of them with `--bench NAME`.
//!
//! | bench | what it measures |
//! |---|---|
//! | `runtime` | spawn, switch, timers, turns, and the world |
//! | `ports` | packets through kernel UDP and the simulated network |
//! | `raft_commit` | a commit in machines, logs and messages alone |
//! | `applier` | handlers that take long, on the node's core and on one of their own; `-- N` for N seconds under load |
//! | `dpdk` | the loop over DPDK's devices beside testpmd, and its instructions; needs `--features dpdk` |
//! | `rpc` | requests through whole nodes in one process: unreplicated, replicated, read |
//!
//! Times are of one run on one machine: compare ratios within a run.

/// Wall-clock seconds that `work` takes.
#[allow(clippy::disallowed_methods)] // a bench measures the real clock
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
