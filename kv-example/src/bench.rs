//! `kv bench`: load on a running cluster, and what it measured.

use crate::cli::{Bench, Op};
use crate::connect;
use crate::load::{self, Answered, Ask, Failure, Measured, Pace, Percentiles, Plan, Workload};
use crate::{requests, resp};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::json;
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::program::cli::{ClientPort, Servers};
use trimaran_rpc::program::connect::{Connection, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_runtime::{Instant, Panicked, now, sleep, spawn};

/// Keys written before reads are measured are written by so many tasks.
const FILLERS: u64 = 64;

/// Runs the benchmark and prints its result.
pub fn run(bench: Bench) -> Result<(), Error> {
    with_connection(bench.servers.target()?, move |connection| async move {
        if matches!(bench.op, Op::Get | Op::Stale) {
            fill(&connection, &bench).await?;
        }
        let measured = measure(connection, &bench).await.map_err(panicked)?;
        print(&bench, &measured.borrow());
        Ok(())
    })
}

/// A closed loop of one for a cluster that the caller has at hand; the rest as usual.
pub(crate) fn of(op: Op, warmup: u32) -> Bench {
    let deadline = Duration::from_secs(1);
    let servers = Servers { servers: Vec::new(), config: None, deadline, port: ClientPort::default() };
    Bench { servers, outstanding: 1, rate: None, op, value: 64, keys: 10_000, seconds: 1, warmup, json: false }
}

/// Writes every key once, so that reads find values.
async fn fill(connection: &Connection, bench: &Bench) -> Result<(), Error> {
    let writers = (0..FILLERS.min(bench.keys)).map(|first| {
        let (connection, keys, value) = (connection.clone(), bench.keys, value_of(bench));
        async move {
            let (mut key, mut body) = (Vec::new(), Vec::new());
            for number in (first..keys).step_by(FILLERS as usize) {
                write_key(number, &mut key);
                body.clear();
                let ask = requests::put(&key, &value, None, &mut body);
                connect::call::<u64>(&connection, ask, &body).await?;
            }
            Ok(())
        }
    });
    futures::future::try_join_all(writers).await.map(drop)
}

/// Puts the load on and tells what came of it, once it has ended.
pub(crate) async fn measure(connection: Connection, bench: &Bench) -> Result<Rc<RefCell<Measured>>, Panicked> {
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
        calls_max: u64::MAX,
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

fn write_key(number: u64, key: &mut Vec<u8>) {
    key.clear();
    // Writing to a Vec cannot fail.
    let _ = write!(key, "key:{number:012}");
}

fn value_of(bench: &Bench) -> Vec<u8> {
    vec![b'v'; bench.value as usize]
}

/// One operation on evenly chosen keys.
struct BenchWorkload {
    op: Op,
    keys: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    rng: Pcg64Mcg,
}

impl BenchWorkload {
    fn new(bench: &Bench) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(1);
        BenchWorkload { op: bench.op, keys: bench.keys, key: Vec::new(), value: value_of(bench), rng }
    }
}

impl Workload for BenchWorkload {
    type Call = ();

    fn begin(&mut self, body: &mut Vec<u8>, _at: Instant) -> (Ask, ()) {
        write_key(self.rng.random_range(0..self.keys), &mut self.key);
        let ask = match self.op {
            Op::Put => requests::put(&self.key, &self.value, None, body),
            Op::Get => requests::get(&self.key, body),
            Op::Stale => Ask { policy: Policy::LbRoute, ..requests::get(&self.key, body) },
            Op::Echo => {
                resp::emit_command(&[b"ECHO", &self.value], body);
                requests::raw(Policy::LbRoute)
            }
        };
        (ask, ())
    }

    fn end(&mut self, _call: (), result: &Result<Answered, Failure>, _at: Instant) -> bool {
        result.as_ref().is_ok_and(|answered| match self.op {
            // A command says in its reply whether it was refused.
            Op::Echo => !answered.body.starts_with(b"-"),
            Op::Put | Op::Get | Op::Stale => answered.status == Status::Ok,
        })
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
    use crate::service::Kv;
    use clap::Parser;
    use trimaran_rpc::codec;
    use trimaran_rpc::service::Service;

    fn bench(line: &str) -> Bench {
        match Cli::try_parse_from(line.split(' ')).expect("correct").command {
            Command::Bench(bench) => bench,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_operation_asks_what_it_says_under_its_policy() {
        let key = |body: &[u8]| codec::decode::<(&[u8],)>(body).map(|(key,)| key.len());
        for (op, policy) in [("put", 2), ("get", 3), ("stale", 0), ("echo", 0)] {
            let mut workload = BenchWorkload::new(&bench(&format!("kv bench --op {op} --value 100")));
            let mut body = Vec::new();
            let (ask, ()) = workload.begin(&mut body, Instant::ZERO);
            assert_eq!(ask.policy.to_wire(), policy);
            let name = Kv::methods().iter().find(|method| method.key == ask.method).map_or("raw", |method| method.name);
            match op {
                "put" => {
                    let (key, value, ttl): (&[u8], &[u8], Option<Duration>) = codec::decode(&body).expect("a put");
                    assert_eq!((name, key.len(), value.len(), ttl), ("put", 16, 100, None));
                }
                "get" | "stale" => assert_eq!((name, key(&body)), ("get", Ok(16))),
                _ => {
                    let command = command::Command::parse(&body);
                    assert!(
                        name == "raw" && matches!(command, Ok(command::Command::Echo(value)) if value.len() == 100)
                    );
                }
            }
        }
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let answered = |op: &str, status, body: &[u8]| {
            let mut workload = BenchWorkload::new(&bench(&format!("kv bench --op {op}")));
            workload.end((), &Ok(Answered { status, body: body.to_vec() }), Instant::ZERO)
        };
        // Version 45 is the byte that a refused command begins with.
        assert!(answered("put", Status::Ok, b"-") && !answered("put", Status::App, b"-"));
        assert!(answered("echo", Status::Ok, b"$2\r\nhi\r\n") && !answered("echo", Status::Ok, b"-ERR no\r\n"));
        let mut workload = BenchWorkload::new(&bench("kv bench"));
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
