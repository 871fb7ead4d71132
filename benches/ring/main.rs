//! Requests through whole nodes over a device that costs next to nothing: a client and three replicas on one core of this
//! process, with the real wire formats. What trimaran itself costs.
//!
//! `cargo bench --bench ring` prints operations per second, by the processor's time. `-- counts` prints the instructions of a commit at
//! each of the roles, and of a few single steps, by callgrind, and fails where one takes more than it did: `cargo xtask counts`.
//! `-- once OPERATION OUTSTANDING CALLS` is one run, for callgrind's or perf's own reports.

mod cluster;
mod counts;
mod port;

use cluster::{Cluster, Layout, Time};
use std::process::ExitCode;
use std::rc::Rc;
use trimaran_benches::cpu_seconds;
use trimaran_rpc::r2p2::Policy;

const CALLS: u64 = 400_000;

fn policy(operation: &str) -> Policy {
    match operation {
        "echo" => Policy::LbRoute,
        "put" => Policy::ReplicatedRoute,
        "read" => Policy::ReplicatedRouteNoSideEffects,
        other => panic!("no such operation: {other}"),
    }
}

fn table(layout: Layout) {
    for outstanding in [1, 8, 64, 256] {
        let mut cluster = Cluster::new(layout, Time::Real);
        print!("{outstanding:>12}");
        let calls = if outstanding == 1 { CALLS / 4 } else { CALLS };
        let mut echo = 0.0;
        for operation in ["echo", "put", "read"] {
            cluster.run(policy(operation), outstanding, calls / 10, false);
            let rate = calls as f64 / cpu_seconds(|| cluster.run(policy(operation), outstanding, calls, false));
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
            Cluster::new(layout, Time::Steps(Rc::default())).run(policy(operation), outstanding, calls, true);
        }
        _ => {
            for (layout, name) in [(Layout::Apart, "one core each, one thread"), (Layout::Together, "one core for all")]
            {
                println!("{name}, operations per second (of unreplicated)");
                println!("{:>12} {:>19} {:>19} {:>19}", "outstanding", "unreplicated", "put", "linearizable read");
                table(layout);
            }
        }
    }
    ExitCode::SUCCESS
}
