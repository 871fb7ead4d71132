//! `kv bench`: load on a cluster, one that runs or one of its own, and what it measured.
//!
//! ```text
//! command line -> loads: every combination of what was given as a list
//! each load:  fill the keys -> warm up -> measure: latencies from when requests were due, CPU and memory of own nodes
//! ```

pub mod choice;
pub mod cost;
mod table;
pub mod workload;

use crate::cli::{Bench, Choice, Mix, Op};
use crate::connect;
use crate::load::{self, Answered, Ask, Failure, Measured, Pace, Plan};
use crate::requests;
use cost::{Cost, Watched};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::program::cluster::LocalCluster;
use trimaran_rpc::program::connect::{Connection, Target, panicked, run_many};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{self, Nodes, Placement};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, say};
use trimaran_rpc::storage::Durability;
use trimaran_runtime::{Instant, now, sleep, spawn};
use workload::{BenchWorkload, Kind};

/// Keys written before reads are measured are written by so many tasks.
const FILLERS: u64 = 64;
/// How long own nodes may take to start and to elect.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys are tried to be written for so long.
const FILL_PATIENCE: Duration = Duration::from_secs(60);
/// Between a cluster's start and its first load.
const SETTLE: Duration = Duration::from_millis(300);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Always the same.
    One(Op),
    /// Linearizable reads in so many of a hundred requests, else writes.
    Reads(u8),
    /// A mix of YCSB's.
    Mix(Mix),
}

impl Asking {
    /// As it is printed.
    pub fn name(self) -> String {
        match self {
            Asking::One(op) => op.name().to_owned(),
            Asking::Reads(percent) => format!("{percent} % reads"),
            Asking::Mix(mix) => format!("mix {}", mix.name()),
        }
    }
}

/// One load to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What is asked for.
    pub asking: Asking,
    /// When.
    pub pace: Pace,
    /// Bytes of a value.
    pub value: u32,
    /// Keys that there are at first.
    pub keys: u64,
    /// How they are chosen, where not as usual.
    pub chosen: Option<Choice>,
    /// How long to run before the measurement.
    pub warmup: Duration,
    /// How long to measure.
    pub measure: Duration,
    /// How long one call may take.
    pub deadline: Duration,
}

impl Load {
    /// A closed loop of one for a second; the rest as usual.
    pub fn of(op: Op, warmup: Duration) -> Load {
        Load {
            asking: Asking::One(op),
            pace: Pace::Closed { outstanding: 1 },
            value: 64,
            keys: 10_000,
            chosen: None,
            warmup,
            measure: Duration::from_secs(1),
            deadline: Duration::from_secs(1),
        }
    }

    /// How keys are chosen.
    pub fn choice(&self) -> Choice {
        self.chosen.unwrap_or(self.asking.usual_choice())
    }
}

/// What one load measured.
pub struct Outcome {
    /// The load.
    pub load: Load,
    /// All calls.
    pub measured: Measured,
    /// The latencies of each kind of call.
    pub kinds: Vec<(Kind, Histogram<u64>)>,
    /// Read-modify-writes that were overtaken and began anew.
    pub conflicts: u64,
    /// What own nodes cost.
    pub cost: Option<Cost>,
}

/// Every combination of what was given as a list.
fn loads(bench: &Bench) -> Vec<Load> {
    let askings: Vec<Asking> = match (bench.mix.as_slice(), bench.reads.as_slice()) {
        ([], []) => bench.op.iter().map(|&op| Asking::One(op)).collect(),
        ([], reads) => reads.iter().map(|&percent| Asking::Reads(percent)).collect(),
        (mixes, _) => mixes.iter().map(|&mix| Asking::Mix(mix)).collect(),
    };
    let paces: Vec<Pace> = match bench.rate.as_slice() {
        [] => bench.outstanding.iter().map(|&n| Pace::Closed { outstanding: n as usize }).collect(),
        rates => rates.iter().map(|&per_second| Pace::Open { per_second }).collect(),
    };
    let (keys, chosen, warmup, measure) = (bench.keys, bench.choice, bench.warmup, bench.seconds);
    let deadline = bench.servers.deadline;
    let mut loads = Vec::new();
    for &value in &bench.value {
        for &asking in &askings {
            let of = |&pace: &Pace| Load { asking, pace, value, keys, chosen, warmup, measure, deadline };
            loads.extend(paces.iter().map(of));
        }
    }
    loads
}

/// Runs the benchmark and prints its results.
///
/// # Errors
/// Those of the cluster, and of own nodes those of the environment.
pub fn run(bench: &Bench, program: &Program) -> Result<(), Error> {
    let (loads, connections, json, idle) = (loads(bench), bench.connections, bench.json, bench.idle);
    let tell = move |outcome: &Outcome| match json {
        true => say(&format!("{}\n", table::json(outcome, connections))),
        false => say(&table::text(outcome)),
    };
    let Some(count) = bench.nodes else {
        return run_many(bench.servers.target()?, connections.into(), move |connections| async move {
            let mut filled = None;
            for load in loads {
                fill_once(&connections, &load, &mut filled).await?;
                tell(&measure(&connections, &load, None).await?)?;
            }
            Ok(())
        });
    };
    let own = Own { count, placement: bench.placement, data: bench.data.clone(), service: program.service };
    own.run(connections.into(), move |mut cluster, connections| async move {
        if let Some(time) = idle {
            let watched = cluster.watched();
            let cost = watched.between(now(), now() + time).await;
            say(&table::idle(cost.as_ref(), json))?;
        }
        let mut filled = None;
        for load in loads {
            fill_once(&connections, &load, &mut filled).await?;
            cluster.check()?;
            tell(&measure(&connections, &load, Some(cluster.watched())).await?)?;
        }
        Ok(())
    })
}

/// A cluster of a benchmark's own.
pub struct Own {
    /// Nodes.
    pub count: u8,
    /// Which processes run them.
    pub placement: Placement,
    /// Where they keep their logs, if they do.
    pub data: Option<std::path::PathBuf>,
    /// What they serve.
    pub service: &'static str,
}

/// A cluster of a benchmark's own that runs. Dropping it ends it.
pub struct OwnCluster(LocalCluster);

impl OwnCluster {
    /// Fails where a node has ended, or a signal has come.
    ///
    /// # Errors
    /// As it says.
    pub fn check(&mut self) -> Result<(), Error> {
        self.0.signals.check()?;
        self.0.nodes.check()
    }

    /// What is to be looked at to know its costs.
    pub fn watched(&self) -> Watched {
        let known = self.0.connection.client().leader();
        let leader = self.0.nodes.addresses().into_iter().find(|(_, client)| Some(*client) == known);
        Watched::of(&self.0.nodes, leader.map(|(slot, _)| slot))
    }
}

impl Own {
    /// Starts the nodes, forms the cluster, connects to it so many times and runs `main`.
    ///
    /// # Errors
    /// Those of the nodes, of the cluster and of `main`.
    pub fn run<F>(
        self,
        connections: usize,
        main: impl FnOnce(OwnCluster, Rc<[Connection]>) -> F + 'static,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + 'static,
    {
        let signals = Signals::watch()?;
        let Own { count, placement, data, service } = self;
        if let Some(data) = &data {
            crate::demo::refuse_used(data)?;
        }
        let durability = if data.is_some() { Durability::Durable } else { Durability::Volatile };
        let plan = nodes::Plan { service, count, placement, data, durability, ..nodes::Plan::default() };
        let nodes = Nodes::start(Site::Loopback, plan)?;
        let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
        let target = Target { port: nodes.client_port(), ..Target::new(servers, Duration::from_secs(1)) };
        run_many(target, connections, move |connections| async move {
            let connection = connections.first().cloned().ok_or(Error::Interrupted)?;
            let mut cluster = LocalCluster { nodes, connection, signals };
            cluster.form(service, PATIENCE).await?;
            cluster.wait(SETTLE).await?;
            main(OwnCluster(cluster), connections.into()).await
        })
    }
}

/// Writes what a load reads, unless it is there already: so many keys, values of such a length.
async fn fill_once(connections: &[Connection], load: &Load, filled: &mut Option<(u64, u32)>) -> Result<(), Error> {
    let wanted = Some((load.keys, load.value));
    if load.asking.reads() && *filled != wanted {
        let Some(connection) = connections.first() else { return Ok(()) };
        fill(connection, load).await?;
        *filled = wanted;
    }
    Ok(())
}

/// Writes every key once, so that reads find values.
///
/// # Errors
/// Those of the cluster.
pub async fn fill(connection: &Connection, load: &Load) -> Result<(), Error> {
    let give_up = now() + FILL_PATIENCE;
    let writers = (0..FILLERS.min(load.keys)).map(|first| {
        let (connection, keys, value) = (connection.clone(), load.keys, workload::value_of(load.value));
        async move {
            let (mut key, mut body) = (Vec::new(), Vec::new());
            for number in (first..keys).step_by(FILLERS as usize) {
                workload::write_key(number, &mut key);
                body.clear();
                let ask = requests::put(&key, &value, None, &mut body);
                // An election on a busy machine is no reason to measure nothing.
                while let Err(error) = connect::call::<u64>(&connection, ask, &body).await {
                    if now() >= give_up {
                        return Err(error);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Ok(())
        }
    });
    futures::future::try_join_all(writers).await.map(drop)
}

/// Several connections that take turns.
#[derive(Clone)]
struct InTurn {
    connections: Rc<[Connection]>,
    next: Rc<Cell<usize>>,
}

impl load::Target for InTurn {
    async fn call(&self, ask: Ask, body: &[u8], deadline: Instant) -> Result<Answered, Failure> {
        let at = self.next.get();
        self.next.set((at + 1) % self.connections.len().max(1));
        match self.connections.get(at) {
            Some(connection) => load::Target::call(connection, ask, body, deadline).await,
            None => Err(Failure::NotApplied),
        }
    }
}

/// Puts the load on and tells what came of it, once it has ended.
///
/// # Errors
/// A fault of this program.
pub async fn measure(connections: &[Connection], load: &Load, watched: Option<Watched>) -> Result<Outcome, Error> {
    let Load { pace, warmup, measure, deadline, .. } = *load;
    let start = now();
    let plan = Plan { pace, start, warmup, measure, deadline, calls_max: u64::MAX };
    let measured = Rc::new(RefCell::new(Measured::default()));
    let _progress = std::io::stderr().is_terminal().then(|| spawn(show_progress(plan, load.asking, measured.clone())));
    let from = start + warmup;
    let watching = watched.map(|watched| spawn(watched.between(from, from + measure)));
    let workload = Rc::new(RefCell::new(BenchWorkload::new(load)));
    let target = InTurn { connections: connections.into(), next: Rc::default() };
    load::run(target, workload.clone(), plan, measured.clone()).await.map_err(panicked)?;
    let cost = match watching {
        Some(watching) => watching.await.map_err(panicked)?,
        None => None,
    };
    let mut workload = workload.borrow_mut();
    let (kinds, conflicts) = (workload.times(), workload.conflicts());
    let measured = measured.take();
    Ok(Outcome { load: *load, measured, kinds, conflicts, cost })
}

async fn show_progress(plan: Plan, asking: Asking, measured: Rc<RefCell<Measured>>) {
    let total = plan.warmup + plan.measure;
    let bar = ProgressBar::new(total.as_millis() as u64);
    // The template is a constant that the library accepts.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(asking.name());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    pub(super) fn loads(line: &str) -> Vec<Load> {
        match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::Bench(bench)) => super::loads(&bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_combination_is_measured() {
        let all = loads("kv bench --op put,get --outstanding 1,8,64 --value 64,1024 --seconds .5 --warmup 0");
        assert_eq!(all.len(), 12);
        assert_eq!(all[0].measure, Duration::from_millis(500));
        let last = all[11];
        assert_eq!((last.asking, last.value), (Asking::One(Op::Get), 1024));
        assert_eq!(last.pace, Pace::Closed { outstanding: 64 });
        let rates = loads("kv bench --rate 100,200 --reads 0,50,100");
        assert_eq!((rates.len(), rates[5].pace), (6, Pace::Open { per_second: 200 }));
    }

    #[test]
    fn a_mix_says_how_keys_are_chosen_unless_somebody_else_does() {
        let choices = |line: &str| loads(line).iter().map(Load::choice).collect::<Vec<_>>();
        assert_eq!(choices("kv bench --mix a,d"), [Choice::Zipfian, Choice::Latest]);
        assert_eq!(choices("kv bench --mix a,d --choice uniform"), [Choice::Uniform; 2]);
        assert_eq!(choices("kv bench --op get"), [Choice::Uniform]);
    }
}
