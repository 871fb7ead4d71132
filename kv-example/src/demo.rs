//! `kv demo`: a cluster of processes on this machine, load, the leader killed in the middle, and a judgement.
//!
//! ```text
//! start nodes -> init -> load ........................................ -> digests, journal, history -> table
//!                          3 s: SIGKILL the leader   6 s: start it again
//!                          --kill-every N: again and again, started at once, killed when the cluster is whole
//! ```
//!
//! The load is one closed loop, or in a long run a rate, and beside it 500 calls a second that are sent when they are due:
//! while the closed loop's calls wait for a dead leader, these find out when the next one serves.

mod table;
mod verdict;
mod workload;

use crate::cli::Demo;
use crate::connect;
use crate::group::Group;
use crate::journal::ExecutedCall;
use crate::load::{self, Measured, Pace, Plan};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use table::{Findings, Kill, Replica};
use trimaran_rpc::admin::{self, Probe};
use trimaran_rpc::program::cluster::{LOOK_EVERY, LocalCluster};
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{Nodes, Placement};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, say};
use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY};
use trimaran_runtime::{Instant, Panicked, Task, now, spawn};
use workload::DemoWorkload;

/// Each call of the load.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// How long nodes may take to start, to elect, to agree.
const PATIENCE: Duration = Duration::from_secs(10);
const KILL_AFTER: Duration = Duration::from_secs(3);
const RESTART_AFTER: Duration = Duration::from_secs(6);
const PROBES_PER_SECOND: u32 = 500;
/// A run up to so long has a closed loop.
const UNLIMITED_SECONDS: u32 = 60;
/// A longer one makes so many calls altogether: each is kept until it is judged, a few hundred bytes, and written into the
/// nodes' journals.
const CALLS_MAX: u32 = 3_000_000;
/// And at most so many a second, which a busy laptop answers too.
const PER_SECOND_MAX: u32 = 5000;
/// The load goes on for so long after the last kill, so that its outage is seen to end.
const QUIET_END: Duration = Duration::from_secs(2);
/// One look at who the members are.
const PROBE_WITHIN: Duration = Duration::from_millis(200);
/// An idle cluster is measured from so long after its start.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs the demo. Succeeds where nothing was lost, the history is linearizable and the digests are equal.
pub fn run(demo: Demo, program: &Program) -> Result<(), Error> {
    let site = Site::of(demo.port, program.service, demo.nodes)?;
    let signals = Signals::watch()?;
    let nodes = Nodes::start(site, program.service, &["--journal"], (demo.nodes, Placement::Apart), demo.keep)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let service = program.service;
    let target = Target { port: nodes.client_port(), ..Target::new(servers, CALL_DEADLINE) };
    with_connection(target, move |connection| async move {
        let mut stage = Stage { demo, cluster: LocalCluster { nodes, connection, signals } };
        let result = stage.play(service).await;
        if let Some(directory) = stage.cluster.nodes.kept() {
            say(&format!("the nodes' configurations and logs are in {}\n", directory.display()))?;
        }
        result
    })
}

/// A load that runs, and what it will have measured.
type Load = Task<Result<Rc<RefCell<Measured>>, Panicked>>;

/// The running cluster and the way to it.
struct Stage {
    demo: Demo,
    cluster: LocalCluster,
}

impl Stage {
    async fn play(&mut self, name: &str) -> Result<(), Error> {
        let leader = self.cluster.form(name, PATIENCE).await?;
        say(&format!("{} nodes run, node {leader} leads\n", self.demo.nodes))?;
        match self.demo.idle {
            Some(seconds) => self.idle(Duration::from_secs(seconds.into())).await,
            None => self.load_and_judge().await,
        }
    }

    async fn idle(&mut self, time: Duration) -> Result<(), Error> {
        self.cluster.wait(SETTLE).await?;
        let (before, from) = (self.cluster.nodes.cpu_time(), now());
        self.cluster.wait(time).await?;
        let (after, to) = (self.cluster.nodes.cpu_time(), now());
        let (Some(before), Some(after)) = (before, after) else {
            return Err(Error::DemoFailed { what: "the nodes' CPU time cannot be read from /proc".into() });
        };
        let (used, elapsed) = (after.saturating_sub(before), to.saturating_since(from));
        say(&format!("{}\n", table::idle_line(self.demo.nodes, used, elapsed)))
    }

    async fn load_and_judge(&mut self) -> Result<(), Error> {
        let length = Duration::from_secs(self.demo.seconds.into());
        let workload = Rc::new(RefCell::new(DemoWorkload::new(u64::from(std::process::id()))));
        let start = now();
        let (pace, load_name) = self.pace();
        let load = self.start_load(pace, start, length, &workload);
        let probes = self.start_load(Pace::Open { per_second: PROBES_PER_SECOND }, start, length, &workload);

        let seconds = length.as_secs();
        say(&format!("load for {seconds} s: {load_name}, and {PROBES_PER_SECOND} calls a second beside them\n"))?;
        let kills = match self.demo.kill_every {
            None => self.kill_once(start).await?,
            Some(seconds) => self.kill_again(start, start + length, Duration::from_secs(seconds.into())).await?,
        };
        self.cluster.wait((start + length).saturating_since(now())).await?;
        let end = now();

        let load = load.await.and_then(|load| load).map_err(panicked)?;
        let probes = probes.await.and_then(|probes| probes).map_err(panicked)?;
        // Whoever was killed last has to be taken in, too; the findings say where it was not.
        self.whole(now() + PATIENCE).await?;
        let replicas = self.agreement().await?;
        let (leader, status) = self.cluster.leader(now() + PATIENCE).await?;
        note(start, &format!("load has ended; node {leader} leads; reading its journal"))?;
        let executed = self.journal(leader).await?;

        let workload = workload.borrow();
        note(start, &format!("judging {} operations", workload.history.len() + workload.group.len()))?;
        let ends = kills.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let outages = kills.iter().zip(ends).map(|((slot, at), end)| Kill {
            slot: *slot,
            outage: verdict::outage(&workload.acknowledged_at, *at, end),
        });
        let findings = Findings {
            length,
            load: load_name,
            asked: workload.asked,
            answered: load.borrow().answered() + probes.borrow().answered(),
            per_second: load.borrow().per_second(length) + probes.borrow().per_second(length),
            not_applied: load.borrow().not_applied() + probes.borrow().not_applied(),
            unknown: load.borrow().unknown() + probes.borrow().unknown(),
            unsent: probes.borrow().unsent(),
            latency: load.borrow().percentiles(),
            kills: outages.collect(),
            new_leader: leader,
            new_term: status.term,
            acknowledged: workload.acknowledged.len(),
            comparison: executed.map(|executed| verdict::compare(&executed, &workload.acknowledged, &workload.puts)),
            linearizability: linearizability::check(&linearizability::Kv, &workload.history, DEFAULT_STEPS_PER_KEY),
            group: linearizability::check(&Group, &workload.group, DEFAULT_STEPS_PER_KEY),
            nonsense: workload.nonsense.clone(),
            replicas,
        };
        say(&format!("\n{}", table::findings(&findings)))?;
        match findings.faults().as_slice() {
            [] => Ok(()),
            faults => Err(Error::DemoFailed { what: faults.join("; ") }),
        }
    }

    /// Kills the leader in the middle and starts it again a while later; returns who was killed, and when.
    async fn kill_once(&mut self, start: Instant) -> Result<Vec<(u8, Instant)>, Error> {
        self.cluster.wait(KILL_AFTER).await?;
        let kill = self.kill_leader(start).await?;
        self.cluster.wait((start + RESTART_AFTER).saturating_since(now())).await?;
        self.start_again(kill.0, start)?;
        Ok(vec![kill])
    }

    /// Kills the leader and starts it again at once, every so often, as long as the load lasts. The next one is killed when
    /// the cluster is whole again: with a member less it could not go on.
    async fn kill_again(&mut self, start: Instant, end: Instant, every: Duration) -> Result<Vec<(u8, Instant)>, Error> {
        let mut kills: Vec<(u8, Instant)> = Vec::new();
        self.cluster.wait(KILL_AFTER).await?;
        while now() + QUIET_END < end {
            let kill = self.kill_leader(start).await?;
            kills.push(kill);
            self.start_again(kill.0, start)?;
            let next = kill.1 + every;
            self.cluster.wait(next.min(end).saturating_since(now())).await?;
            if !self.whole(end).await? {
                break;
            }
        }
        note(start, &format!("{} kills", kills.len()))?;
        Ok(kills)
    }

    async fn kill_leader(&mut self, start: Instant) -> Result<(u8, Instant), Error> {
        // The client has just heard from it. Asking nodes how they are makes them hash their state, which costs time.
        let known = self.cluster.connection.client().leader();
        let known = self.cluster.nodes.addresses().into_iter().find(|(_, client)| Some(*client) == known);
        let slot = match known {
            Some((slot, _)) => slot,
            None => self.cluster.leader(now() + PATIENCE).await?.0,
        };
        let at = now();
        self.cluster.nodes.kill(slot)?;
        note(start, &format!("node {slot}, the leader, is killed"))?;
        Ok((slot, at))
    }

    fn start_again(&mut self, slot: u8, start: Instant) -> Result<(), Error> {
        self.cluster.nodes.spawn(slot)?;
        note(start, &format!("node {slot} is started again, with an empty memory"))
    }

    /// Waits until every node, in its present life, is a member in the eyes of all; tells whether it came to that.
    async fn whole(&mut self, give_up: Instant) -> Result<bool, Error> {
        loop {
            let members = self.cluster.members();
            let asked = members.iter().map(|&node| admin::probe(self.cluster.connection.client(), node, PROBE_WITHIN));
            let probes: Vec<Probe> = futures::future::join_all(asked).await.into_iter().flatten().collect();
            let knows_all = |probe: &Probe| probes.iter().all(|other| probe.members.contains(&other.node));
            if probes.len() == members.len() && probes.iter().all(knows_all) {
                return Ok(true);
            }
            if now() >= give_up {
                return Ok(false);
            }
            self.cluster.wait(LOOK_EVERY).await?;
        }
    }

    /// As much as the cluster takes; in a long run only as many calls as can be remembered and judged.
    fn pace(&self) -> (Pace, String) {
        let outstanding = self.demo.outstanding;
        if self.demo.seconds <= UNLIMITED_SECONDS {
            return (Pace::Closed { outstanding: outstanding as usize }, format!("{outstanding} calls outstanding"));
        }
        let per_second = (CALLS_MAX / self.demo.seconds).min(PER_SECOND_MAX);
        (Pace::Open { per_second }, format!("{per_second} calls a second"))
    }

    fn start_load(&self, pace: Pace, start: Instant, measure: Duration, workload: &Rc<RefCell<DemoWorkload>>) -> Load {
        let plan = Plan { pace, start, warmup: Duration::ZERO, measure, deadline: CALL_DEADLINE };
        let (connection, workload) = (self.cluster.connection.clone(), workload.clone());
        spawn(async move {
            let measured = Rc::new(RefCell::new(Measured::default()));
            load::run(connection, workload, plan, measured.clone()).await?;
            Ok(measured)
        })
    }

    /// Waits until all members that take part have applied the same entries, and returns every node's last word. The
    /// leader's log does not grow any more: the load has ended.
    async fn agreement(&mut self) -> Result<Vec<Replica>, Error> {
        let give_up = now() + PATIENCE;
        loop {
            let replicas: Vec<Replica> =
                self.cluster.statuses().await.into_iter().map(|(slot, status)| Replica::new(slot, status)).collect();
            if table::applied_alike(&replicas) || now() >= give_up {
                return Ok(replicas);
            }
            self.cluster.wait(LOOK_EVERY).await?;
        }
    }

    /// All that a node has executed; `None` where its journal was full, so that it proves nothing.
    async fn journal(&mut self, slot: u8) -> Result<Option<Vec<ExecutedCall>>, Error> {
        let Some((_, client)) = self.cluster.nodes.addresses().into_iter().find(|(other, _)| *other == slot) else {
            return Ok(None);
        };
        let mut executed = Vec::new();
        loop {
            self.cluster.signals.check()?;
            let page = connect::journal(&self.cluster.connection, client, executed.len() as u64).await?;
            if page.not_kept > 0 {
                return Ok(None);
            }
            if page.calls.is_empty() {
                return Ok(Some(executed));
            }
            executed.extend(page.calls);
        }
    }
}

/// A line about what happens now.
fn note(start: Instant, what: &str) -> Result<(), Error> {
    say(&format!("{:>5.1} s  {what}\n", now().saturating_since(start).as_secs_f64()))
}
