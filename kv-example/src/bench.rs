//! `kv bench`: load on a cluster, one that runs or one of its own, and what it measured.
//!
//! ```text
//! command line -> loads: every combination of what was given as a list; open loops may be given as shares of a closed one's rate
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
use trimaran_runtime::{Idle, Instant, now, sleep, spawn};
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
    /// Keys that there are afterwards, those that it has inserted among them.
    pub keys: u64,
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

/// The loads in their order, each closed loop followed by the open ones that are shares of it, in percent.
fn plan(bench: &Bench) -> Vec<(Load, Option<u8>)> {
    let shares = || bench.share.iter().copied().map(Some);
    loads(bench)
        .into_iter()
        .flat_map(|load| [None].into_iter().chain(shares()).map(move |share| (load, share)))
        .collect()
}

/// The load whose rate is a share of what a closed loop has reached.
fn share_of(load: Load, percent: u8, reached: f64) -> Load {
    let per_second = (reached * f64::from(percent) / 100.0).clamp(1.0, f64::from(u32::MAX)) as u32;
    Load { pace: Pace::Open { per_second }, ..load }
}

/// Puts one load after the other on and tells what came of each.
async fn run_loads(
    bench: &Bench,
    connections: &[Connection],
    mut watched: impl FnMut() -> Result<Option<Watched>, Error>,
) -> Result<(), Error> {
    let (mut there, mut reached) = (There::default(), 0.0);
    for (load, share) in plan(bench) {
        let load = there.known_to(share.map_or(load, |percent| share_of(load, percent, reached)));
        fill_once(connections, &load, &mut there).await?;
        let outcome = measure(connections, &load, watched()?).await?;
        there.keys = there.keys.max(outcome.keys);
        if share.is_none() {
            reached = outcome.measured.per_second(load.measure);
        }
        match bench.json {
            true => say(&format!("{}\n", table::json(&outcome, share, bench.connections)))?,
            false => say(&table::text(&outcome))?,
        }
    }
    Ok(())
}

/// Runs the benchmark and prints its results.
///
/// # Errors
/// Those of the cluster, and of own nodes those of the environment.
pub fn run(bench: &Bench, program: &Program) -> Result<(), Error> {
    let (connections, json, idle) = (bench.connections, bench.json, bench.idle);
    let bench = bench.clone();
    let Some(count) = bench.nodes else {
        return run_many(bench.servers.target()?, connections.into(), move |connections| async move {
            run_loads(&bench, &connections, || Ok(None)).await
        });
    };
    let (placement, data, service) = (bench.placement, bench.data.clone(), program.service);
    let own = Own { count, placement, data, service, spins: false };
    own.run(connections.into(), move |mut cluster, connections| async move {
        if let Some(time) = idle {
            let watched = cluster.watched();
            let cost = watched.between(now(), now() + time).await;
            say(&table::idle(cost.as_ref(), json))?;
        }
        let watched = || cluster.check().map(|()| Some(cluster.watched()));
        run_loads(&bench, &connections, watched).await
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
    /// Neither they nor the client ever sleep.
    pub spins: bool,
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
        Watched::of(&self.0.nodes, leader.map(|(slot, _)| slot), self.0.connection.clone())
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
        let Own { count, placement, data, service, spins } = self;
        if let Some(data) = &data {
            crate::demo::refuse_used(data)?;
        }
        let durability = if data.is_some() { Durability::Durable } else { Durability::Volatile };
        let arguments = if spins { vec!["--spin".into()] } else { Vec::new() };
        let idle = if spins { Idle::Spin } else { Idle::default() };
        let plan = nodes::Plan { service, count, placement, arguments, data, durability, ..nodes::Plan::default() };
        let nodes = Nodes::start(Site::Loopback, plan)?;
        let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
        let target = Target { port: nodes.client_port(), idle, ..Target::new(servers, Duration::from_secs(1)) };
        run_many(target, connections, move |connections| async move {
            let connection = connections.first().cloned().ok_or(Error::Interrupted)?;
            let mut cluster = LocalCluster { nodes, connection, signals };
            cluster.form(service, PATIENCE).await?;
            cluster.wait(SETTLE).await?;
            main(OwnCluster(cluster), connections.into()).await
        })
    }
}

/// What earlier loads have left in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct There {
    /// Keys; an insert is of one beyond them.
    keys: u64,
    /// Length of the values with which all of them were filled.
    filled_with: Option<u32>,
}

impl There {
    /// The load with the keys that earlier ones have inserted: its own inserts would be overwrites of those.
    fn known_to(self, load: Load) -> Load {
        Load { keys: load.keys.max(self.keys), ..load }
    }

    /// Whether the load finds what it reads.
    fn serves(self, load: &Load) -> bool {
        !load.asking.reads() || (self.filled_with == Some(load.value) && self.keys >= load.keys)
    }
}

/// Writes what a load reads, unless it is there already: so many keys, values of such a length.
async fn fill_once(connections: &[Connection], load: &Load, there: &mut There) -> Result<(), Error> {
    if let (Some(connection), false) = (connections.first(), there.serves(load)) {
        fill(connection, load).await?;
        *there = There { keys: load.keys, filled_with: Some(load.value) };
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
    let (kinds, keys, conflicts) = (workload.times(), workload.keys(), workload.conflicts());
    let measured = measured.take();
    Ok(Outcome { load: *load, measured, kinds, keys, conflicts, cost })
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
    fn a_share_is_of_the_closed_loop_before_it() {
        let bench = match Cli::try_parse_from("kv bench --op put,get --outstanding 256 --share 10,100".split(' ')) {
            Ok(Cli { command: Command::Bench(bench) }) => bench,
            other => panic!("{other:?}"),
        };
        let shares: Vec<(Asking, Option<u8>)> =
            plan(&bench).iter().map(|(load, share)| (load.asking, *share)).collect();
        let of = |op| [None, Some(10), Some(100)].map(|share| (Asking::One(op), share));
        assert_eq!(shares, [of(Op::Put), of(Op::Get)].concat());
        let load = plan(&bench)[0].0;
        assert_eq!(load.pace, Pace::Closed { outstanding: 256 });
        assert_eq!(share_of(load, 10, 123_456.7).pace, Pace::Open { per_second: 12_345 });
        assert_eq!(share_of(load, 10, 0.0).pace, Pace::Open { per_second: 1 }, "nothing was answered");
        assert!(Cli::try_parse_from("kv bench --rate 5 --share 10".split(' ')).is_err());
    }

    /// YCSB's E inserts as D has done before it, on the same cluster.
    #[test]
    fn a_load_goes_on_behind_the_keys_that_earlier_ones_have_inserted() {
        let all = loads("kv bench --mix d,e,f --keys 100 --value 64,1024");
        let mut there = There::default();
        assert!(!there.serves(&all[0]), "nothing is there");
        there = There { keys: 100, filled_with: Some(64) };
        // What the first has inserted.
        there.keys = 130;
        let [e, f, larger] = [1, 2, 3].map(|at| there.known_to(all[at]));
        assert_eq!((e.asking, e.keys, f.keys), (Asking::Mix(Mix::E), 130, 130));
        assert!(there.serves(&e) && there.serves(&f), "none is written anew");
        assert!(larger.keys == 130 && !there.serves(&larger), "all of them get values of the new length");
        assert_eq!(BenchWorkload::new(&e).keys(), 130, "the next insert is of a new key");
    }

    #[test]
    fn a_mix_says_how_keys_are_chosen_unless_somebody_else_does() {
        let choices = |line: &str| loads(line).iter().map(Load::choice).collect::<Vec<_>>();
        assert_eq!(choices("kv bench --mix a,d"), [Choice::Zipfian, Choice::Latest]);
        assert_eq!(choices("kv bench --mix a,d --choice uniform"), [Choice::Uniform; 2]);
        assert_eq!(choices("kv bench --op get"), [Choice::Uniform]);
    }
}
