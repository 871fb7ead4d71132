//! `kv bench`: load on a running cluster, and what it measured.

use crate::cli::{Bench, Op};
use crate::connect;
use crate::load::{self, Failure, Measured, Pace, Percentiles, Plan, Workload};
use crate::resp;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::json;
use std::cell::RefCell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::program::connect::{Connection, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_runtime::{Instant, Panicked, now, sleep, spawn};

/// Keys written before reads are measured are written by so many tasks.
const FILLERS: u64 = 64;

/// Runs the benchmark and prints its result.
pub fn run(bench: Bench) -> Result<(), Error> {
    let (servers, deadline) = (bench.servers.addresses()?, bench.servers.deadline);
    with_connection(servers, deadline, move |connection| async move {
        if matches!(bench.op, Op::Get | Op::Stale) {
            fill(&connection, &bench).await?;
        }
        let measured = measure(connection, &bench).await.map_err(panicked)?;
        print(&bench, &measured.borrow());
        Ok(())
    })
}

/// Writes every key once, so that reads find values.
async fn fill(connection: &Connection, bench: &Bench) -> Result<(), Error> {
    let writers = (0..FILLERS.min(bench.keys)).map(|first| {
        let (connection, keys, value) = (connection.clone(), bench.keys, value_of(bench));
        async move {
            for key in (first..keys).step_by(FILLERS as usize) {
                let mut request = Vec::new();
                resp::emit_command(&[b"SET", key_of(key).as_bytes(), &value], &mut request);
                let reply = connect::command(&connection, Policy::ReplicatedRoute, &request).await?;
                connect::accepted(&reply)?;
            }
            Ok(())
        }
    });
    futures::future::try_join_all(writers).await.map(drop)
}

async fn measure(connection: Connection, bench: &Bench) -> Result<Rc<RefCell<Measured>>, Panicked> {
    let pace = match bench.rate {
        Some(per_second) => Pace::Open { per_second },
        None => Pace::Closed { outstanding: bench.outstanding as usize },
    };
    let plan = Plan {
        pace,
        start: now(),
        warmup: Duration::from_secs(bench.warmup.into()),
        measure: Duration::from_secs(bench.seconds.into()),
        deadline: bench.servers.deadline,
    };
    let measured = Rc::new(RefCell::new(Measured::default()));
    let _progress = std::io::stderr().is_terminal().then(|| spawn(show_progress(plan, measured.clone())));
    load::run(connection, Rc::new(RefCell::new(BenchWorkload::new(bench))), plan, measured.clone()).await?;
    Ok(measured)
}

async fn show_progress(plan: Plan, measured: Rc<RefCell<Measured>>) {
    let total = plan.warmup + plan.measure;
    let bar = ProgressBar::new(total.as_millis() as u64);
    // The template is a constant that the library accepts.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style);
    }
    loop {
        sleep(Duration::from_millis(100)).await;
        let elapsed = now().saturating_since(plan.start);
        if elapsed >= total {
            return bar.finish_and_clear();
        }
        bar.set_position(elapsed.as_millis() as u64);
        let text = match elapsed.checked_sub(plan.warmup).filter(|time| !time.is_zero()) {
            Some(time) => format!("{:.0}/s", measured.borrow().per_second(time)),
            None => "warming up".to_owned(),
        };
        bar.set_message(text);
    }
}

fn key_of(number: u64) -> String {
    format!("key:{number:012}")
}

fn value_of(bench: &Bench) -> Vec<u8> {
    vec![b'v'; bench.value as usize]
}

/// One operation on evenly chosen keys.
struct BenchWorkload {
    op: Op,
    keys: u64,
    value: Vec<u8>,
    rng: Pcg64Mcg,
}

impl BenchWorkload {
    fn new(bench: &Bench) -> Self {
        BenchWorkload { op: bench.op, keys: bench.keys, value: value_of(bench), rng: Pcg64Mcg::seed_from_u64(1) }
    }
}

impl Workload for BenchWorkload {
    type Call = ();

    fn begin(&mut self, request: &mut Vec<u8>, _at: Instant) -> (Policy, ()) {
        let key = key_of(self.rng.random_range(0..self.keys));
        let policy = match self.op {
            Op::Put => {
                resp::emit_command(&[b"SET", key.as_bytes(), &self.value], request);
                Policy::ReplicatedRoute
            }
            Op::Get => {
                resp::emit_command(&[b"GET", key.as_bytes()], request);
                Policy::ReplicatedRouteNoSideEffects
            }
            Op::Stale => {
                resp::emit_command(&[b"GET", key.as_bytes()], request);
                Policy::LbRoute
            }
            Op::Echo => {
                resp::emit_command(&[b"ECHO", &self.value], request);
                Policy::LbRoute
            }
        };
        (policy, ())
    }

    fn end(&mut self, _call: (), result: &Result<Vec<u8>, Failure>, _at: Instant) -> bool {
        result.as_ref().is_ok_and(|reply| !reply.starts_with(b"-"))
    }
}

fn print(bench: &Bench, measured: &Measured) {
    if bench.json {
        let mut result = measured.to_json(Duration::from_secs(bench.seconds.into()));
        result["op"] = json!(bench.op.name());
        result["value_bytes"] = json!(bench.value);
        result["seconds"] = json!(bench.seconds);
        match bench.rate {
            Some(rate) => result["rate"] = json!(rate),
            None => result["outstanding"] = json!(bench.outstanding),
        }
        println!("{result}");
    } else {
        print!("{}", table(bench, measured));
    }
}

fn table(bench: &Bench, measured: &Measured) -> String {
    let pace = match bench.rate {
        Some(rate) => format!("open loop, {rate} a second"),
        None => format!("closed loop, {} outstanding", bench.outstanding),
    };
    let (op, value, seconds) = (bench.op.name(), bench.value, bench.seconds);
    let mut out = format!("{op}, {pace}, values of {value} bytes, {seconds} s\n");
    let rate = measured.per_second(Duration::from_secs(seconds.into()));
    out += &format!("  answered     {:>12}   {rate:.0} a second\n", measured.answered());
    let others = [
        ("refused", measured.refused(), "the service said no"),
        ("not applied", measured.not_applied(), "certainly without effect"),
        ("unknown", measured.unknown(), "sent, no answer within the deadline"),
        ("unsent", measured.unsent(), "due, but too many were on their way: the rate was not reached"),
    ];
    for (name, count, meaning) in others.into_iter().filter(|(_, count, _)| *count > 0) {
        out += &format!("  {name:<12} {count:>12}   {meaning}\n");
    }
    match measured.percentiles() {
        Some(Percentiles { p50, p90, p99, p999, p9999, max }) => {
            let row = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("p99.99", p9999), ("max", max)];
            out += "  latency, us ";
            row.iter().for_each(|(name, ns)| out += &format!("  {name} {:.1}", *ns as f64 / 1000.0));
            out += "\n";
        }
        None => out += "  latency      not measured: nothing was answered\n",
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::command;
    use clap::Parser;

    fn bench(line: &str) -> Bench {
        match Cli::try_parse_from(line.split(' ')).expect("correct").command {
            Command::Bench(bench) => bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_operation_asks_what_it_says_under_its_policy() {
        for (op, policy) in [("put", 2), ("get", 3), ("stale", 0), ("echo", 0)] {
            let mut workload = BenchWorkload::new(&bench(&format!("kv bench --op {op} --value 100")));
            let mut request = Vec::new();
            let (used, ()) = workload.begin(&mut request, Instant::ZERO);
            assert_eq!(used.to_wire(), policy);
            match (op, command::Command::parse(&request)) {
                ("put", Ok(command::Command::Set(key, value))) => assert_eq!((key.len(), value.len()), (16, 100)),
                ("get" | "stale", Ok(command::Command::Get(key))) => assert_eq!(key.len(), 16),
                ("echo", Ok(command::Command::Echo(value))) => assert_eq!(value.len(), 100),
                (op, other) => panic!("{op}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let mut workload = BenchWorkload::new(&bench("kv bench"));
        let mut answered = |reply: &[u8]| workload.end((), &Ok(reply.to_vec()), Instant::ZERO);
        assert!(answered(b"+OK\r\n") && answered(b"$-1\r\n") && !answered(b"-OOM full\r\n"));
        assert!(!workload.end((), &Err(Failure::Unknown), Instant::ZERO));
    }

    #[test]
    fn nothing_measured_is_said_so() {
        let expected = "\
put, closed loop, 8 outstanding, values of 64 bytes, 10 s
  answered                0   0 a second
  latency      not measured: nothing was answered
";
        assert_eq!(table(&bench("kv bench --outstanding 8"), &Measured::default()), expected);
    }
}
