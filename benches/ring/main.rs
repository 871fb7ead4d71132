//! Requests through whole nodes over a device that costs next to nothing: a client and three replicas on one core of this
//! process, with the real wire formats. What trimaran itself costs.
//!
//! `cargo bench --bench ring` prints operations per second, by the processor's time, of the quickest of several runs. `-- counts` prints the instructions of a commit at
//! each of the roles, and of a few single steps, by callgrind, and fails where one takes more than it did: `cargo xtask counts`.
//! `-- once OPERATION OUTSTANDING CALLS` is one run, for callgrind's or perf's own reports. An operation is `echo`, `put`, `read`, or
//! `plain-put`: puts of clients that know no more than the wire, which shows what the cluster can do and what the client library costs.

mod cluster;
mod counts;
mod plain;
mod port;

use cluster::{Cluster, Layout, Time};
use std::process::ExitCode;
use std::rc::Rc;
use trimaran_benches::{cpu_seconds, rounds};
use trimaran_rpc::r2p2::Policy;

/// Calls that are timed at once: enough for heartbeats to be among them, few enough to be over before a neighbour on the machine comes.
const CALLS: u64 = 50_000;
/// How often, and in a quick run. The shortest counts: whatever else goes on only adds to it.
const SLICES: u64 = 16;
const SLICES_MIN: u64 = 4;

fn policy(operation: &str) -> Policy {
    match operation {
        "echo" => Policy::LbRoute,
        "put" => Policy::ReplicatedRoute,
        "read" => Policy::ReplicatedRouteNoSideEffects,
        other => panic!("no such operation: {other}"),
    }
}

const OPERATIONS: [&str; 4] = ["echo", "put", "plain-put", "read"];

/// Seconds of the processor that the quickest of several runs takes, after one that only warms up.
fn shortest(mut run: impl FnMut()) -> f64 {
    run();
    let slices = rounds(SLICES).max(SLICES_MIN);
    (0..slices).map(|_| cpu_seconds(&mut run)).fold(f64::MAX, f64::min)
}

fn table(layout: Layout) {
    for outstanding in [1, 8, 64, 256] {
        let mut cluster = Cluster::new(layout, Time::Real);
        print!("{outstanding:>12}");
        let calls = if outstanding == 1 { CALLS / 4 } else { CALLS };
        let mut echo = 0.0;
        for operation in OPERATIONS {
            let seconds = if operation == "plain-put" {
                let mut clients = Some(cluster.plain(outstanding));
                shortest(|| clients = clients.take().map(|clients| cluster.run_plain(clients, calls, false)))
            } else {
                shortest(|| cluster.run(policy(operation), outstanding, calls, false))
            };
            let rate = calls as f64 / seconds;
            echo = if operation == "echo" { rate } else { echo };
            print!(" {rate:>12.0} ({:>4.2})", rate / echo);
        }
        println!();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["counts"] => return counts::print(),
        ["counted"] => counts::run(),
        ["once", operation, outstanding, calls, ref layout @ ..] => {
            let layout = if layout == ["together"] { Layout::Together } else { Layout::Apart };
            let (outstanding, calls) = (outstanding.parse().expect("a number"), calls.parse().expect("a number"));
            let mut cluster = Cluster::new(layout, Time::Steps(Rc::default()));
            if operation == "plain-put" {
                let clients = cluster.plain(outstanding);
                cluster.run_plain(clients, calls, true);
            } else {
                cluster.run(policy(operation), outstanding, calls, true);
            }
        }
        _ => {
            for (layout, name) in [(Layout::Apart, "one core each, one thread"), (Layout::Together, "one core for all")]
            {
                println!("{name}, operations per second (of unreplicated)");
                let [echo, put, plain, read] = ["unreplicated", "put", "put, plain client", "linearizable read"];
                println!("{:>12} {echo:>19} {put:>19} {plain:>19} {read:>19}", "outstanding");
                table(layout);
            }
        }
    }
    ExitCode::SUCCESS
}
