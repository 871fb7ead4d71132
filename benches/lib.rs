//! What trimaran costs, layer by layer: `cargo bench -p trimaran-benches`, or one of them with `--bench NAME`.
//!
//! | bench | what it measures |
//! |---|---|
//! | `runtime` | spawn, switch, timers, turns, and the world |
//! | `ports` | packets through kernel UDP and the simulated network |
//! | `raft_commit` | a commit in machines, logs and messages alone |
//! | `codec` | messages of Raft and headers of R2P2, written and read |
//! | `mesh` | messages from one core to another, and back |
//! | `applier` | handlers that take long, on the node's core and on one of their own; `-- N` for N seconds under load |
//! | `snapshot` | the longest turn while a node saves a state of 1 GB |
//! | `disk` | durable writes of a core, beside fio's where that is installed |
//! | `dpdk` | the loop over DPDK's devices beside testpmd, and its instructions; needs `--features dpdk` |
//! | `ring` | whole nodes over rings of packets, which cost next to nothing: what is left is trimaran's own |
//! | `rpc` | requests through whole nodes in one process: unreplicated, replicated, read |
//!
//! Times are of one run on one machine: compare ratios within a run. With `BENCH_JSON` in the environment each figure is an object of
//! JSON on a line of its own, as `cargo xtask bench` reads them; with `BENCH_QUICK` each is measured for a tenth of the time.

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

/// So many rounds, or a tenth of them in a quick run.
pub fn rounds(usual: u64) -> u64 {
    if std::env::var_os("BENCH_QUICK").is_some() { (usual / 10).max(1) } else { usual }
}

/// Tells one figure: `id` names it for programs, `line` shows it to people, unless it is empty: then another line has it.
pub fn tell(id: &str, value: f64, unit: &str, line: &str) {
    match std::env::var_os("BENCH_JSON") {
        Some(_) => println!("{}", object(id, value, unit)),
        None if line.is_empty() => {}
        None => println!("{line}"),
    }
}

/// As JSON; what is no number is `null`. The names are plain words.
fn object(id: &str, value: f64, unit: &str) -> String {
    let value = if value.is_finite() { value.to_string() } else { "null".to_owned() };
    format!("{{\"id\":\"{id}\",\"value\":{value},\"unit\":\"{unit}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_objects_of_json() {
        assert_eq!(object("runtime.turn", 7.25, "ns"), "{\"id\":\"runtime.turn\",\"value\":7.25,\"unit\":\"ns\"}");
        assert_eq!(object("a", 2e9, "/s"), "{\"id\":\"a\",\"value\":2000000000,\"unit\":\"/s\"}");
        assert_eq!(object("a", f64::NAN, "ns"), "{\"id\":\"a\",\"value\":null,\"unit\":\"ns\"}");
    }
}
