//! `kv demo`: a cluster of processes on this machine, load, a programme of trouble and of work on the cluster, and a judgement.
//!
//! ```text
//! start nodes -> init -> load ........................................ -> digests, journal, history -> table
//!                         the leader is killed -> every node is rolled -> grown by two -> shrunk by two
//!                         --data: all killed at once, too; --data --rounds N: crashes.rs
//!                         --quick: the first of these; --kill-every N: again and again; --long: another demo (long.rs)
//! ```
//!
//! The load is one closed loop, or in a long run a rate, and beside it 500 calls a second that are sent when they are due:
//! while the closed loop's calls wait for a dead leader, these find out when the next one serves.

mod crashes;
mod long;
mod phases;
mod table;
mod verdict;
mod workload;

use crate::cli::Demo;
use crate::connect;
use crate::group::Group;
use crate::journal::ExecutedCall;
use crate::load::{self, Measured, Pace, Plan, Workload};
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use table::{Findings, Replica};
use trimaran_rpc::admin;
use trimaran_rpc::program::cluster::{LOOK_EVERY, LocalCluster};
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::demo::cores_text;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{self, Nodes};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, say};
use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY};
use trimaran_rpc::storage::Durability;
use trimaran_runtime::{Instant, Panicked, Task, now, spawn};
use workload::DemoWorkload;

pub(crate) use crashes::refuse_used;

/// Each call of the load.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// How long nodes may take to start, to elect, to agree, to be taken in.
const PATIENCE: Duration = Duration::from_secs(10);
const PROBES_PER_SECOND: u32 = 500;
/// A run up to so long has a closed loop.
const UNLIMITED_SECONDS: u32 = 60;
/// A longer one makes so many calls altogether: each is kept until it is judged, a few hundred bytes, and written into the
/// nodes' journals. A closed loop ends there, too.
const CALLS_MAX: u32 = 3_000_000;
/// And at most so many a second, which a busy laptop answers too.
const PER_SECOND_MAX: u32 = 5000;
/// No load goes on for longer.
const LOAD_MAX: Duration = Duration::from_secs(3700);
/// An idle cluster is measured from so long after its start.
const SETTLE: Duration = Duration::from_secs(1);
/// Where killing one node leaves a majority.
const NODES_MIN: u8 = 3;
/// Members that come and go.
const SPARE: u8 = 2;
const NODES_MAX: u8 = 9;

/// Runs the demo. Succeeds where nothing was lost, the history is linearizable and the digests are equal.
pub fn run(demo: Demo, program: &Program) -> Result<(), Error> {
    if demo.idle.is_none() && demo.nodes < NODES_MIN {
        return Err(Error::Usage {
            problem: format!("of {} nodes none may die", demo.nodes),
            help: "`--nodes 3` or more, or `--idle 10`".into(),
        });
    }
    if let Some(data) = &demo.data {
        refuse_used(data)?;
    }
    let grows = demo.rounds.is_none()
        && demo.idle.is_none()
        && demo.kill_every.is_none()
        && demo.long.is_none()
        && !demo.quick
        && demo.shards == 1;
    let spare = if grows { SPARE.min(NODES_MAX.saturating_sub(demo.nodes)) } else { 0 };
    let site = Site::of(demo.port, program.service, demo.nodes + spare)?;
    let signals = Signals::watch()?;
    let plan = nodes::Plan {
        service: program.service,
        count: demo.nodes,
        spare,
        placement: nodes::Placement::Apart,
        // A journal of all calls would be the largest part of a long run's memory.
        arguments: if demo.long.is_some() { Vec::new() } else { vec!["--journal".into()] },
        config: match demo.rounds {
            Some(_) => crashes::CONFIG.into(),
            None => demo.long.map_or_else(String::new, long::config),
        } + &cores_text(demo.shards, demo.cores),
        keep: demo.keep,
        durability: match (&demo.data, demo.buffered) {
            (None, _) => Durability::Volatile,
            (Some(_), true) => Durability::Buffered,
            (Some(_), false) => Durability::Durable,
        },
        data: demo.data.clone(),
    };
    let nodes = Nodes::start(site, plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let service = program.service;
    let target = Target { port: nodes.client_port(), ..Target::new(servers, CALL_DEADLINE) };
    with_connection(target, move |connection| async move {
        let mut stage = Stage { demo, spare, cluster: LocalCluster { nodes, connection, signals } };
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
    /// So many members may be added.
    spare: u8,
    cluster: LocalCluster,
}

impl Stage {
    async fn play(&mut self, name: &str) -> Result<(), Error> {
        let leader = self.cluster.form(name, PATIENCE).await?;
        say(&format!("{} nodes run, node {leader} leads\n", self.demo.nodes))?;
        match (self.demo.idle, self.demo.long) {
            (Some(seconds), _) => self.idle(Duration::from_secs(seconds.into())).await,
            (None, Some(entries)) => self.play_long(entries).await,
            (None, None) => self.load_and_judge().await,
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
        let workload = Rc::new(RefCell::new(DemoWorkload::new(u64::from(std::process::id()))));
        let start = now();
        let (pace, load_name) = self.pace();
        let load = self.start_load(pace, start, CALLS_MAX.into(), &workload);
        let probes = self.start_load(Pace::Open { per_second: PROBES_PER_SECOND }, start, u64::MAX, &workload);

        say(&format!(
            "load: {load_name}, and {PROBES_PER_SECOND} calls a second beside them; clients repeat what is not answered\n"
        ))?;
        let phases = match self.demo.rounds {
            Some(rounds) => self.crash_again(start, rounds, &workload).await?,
            None => self.phases(start).await?,
        };
        let least = Duration::from_secs(self.demo.seconds.unwrap_or(0).into());
        self.cluster.wait((start + least).saturating_since(now())).await?;
        workload.borrow_mut().is_over = true;
        let end = now();

        let load = load.await.and_then(|load| load).map_err(panicked)?;
        let probes = probes.await.and_then(|probes| probes).map_err(panicked)?;
        let replicas = self.agreement().await?;
        let (leader, status) = self.cluster.leader(now() + PATIENCE).await?;
        note(start, &format!("load has ended; node {leader} leads; reading its journal"))?;
        let executed = self.journal(leader).await?;

        let workload = workload.borrow();
        note(start, &format!("judging {} operations", workload.history.len() + workload.group.len()))?;
        let length = end.saturating_since(start);
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
            phases: phases.into_iter().map(|phase| phase.seen(&workload.acknowledged_at)).collect(),
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

    /// As much as the cluster takes; in a long run only as many calls as can be remembered and judged.
    fn pace(&self) -> (Pace, String) {
        let outstanding = self.demo.outstanding;
        match self.demo.seconds.filter(|&seconds| seconds > UNLIMITED_SECONDS) {
            None => (Pace::Closed { outstanding: outstanding as usize }, format!("{outstanding} calls outstanding")),
            Some(seconds) => {
                let per_second = (CALLS_MAX / seconds).min(PER_SECOND_MAX);
                (Pace::Open { per_second }, format!("{per_second} calls a second"))
            }
        }
    }

    fn start_load<W: Workload>(&self, pace: Pace, start: Instant, calls_max: u64, workload: &Rc<RefCell<W>>) -> Load {
        let plan = Plan { pace, start, warmup: Duration::ZERO, measure: LOAD_MAX, deadline: CALL_DEADLINE, calls_max };
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

    /// All that a node has executed, and of the other shards their leaders; `None` where a journal was full, so that it proves nothing.
    async fn journal(&mut self, slot: u8) -> Result<Option<Vec<ExecutedCall>>, Error> {
        let Some((_, client)) = self.cluster.nodes.addresses().into_iter().find(|(other, _)| *other == slot) else {
            return Ok(None);
        };
        let mut all = Vec::new();
        for shard in 0..self.demo.shards {
            let node = match shard {
                0 => client,
                shard => self.leader_of(shard).await?,
            };
            let mut executed = Vec::new();
            loop {
                self.cluster.signals.check()?;
                let page = connect::journal(&self.cluster.connection, node, shard, executed.len() as u64).await?;
                if page.not_kept > 0 {
                    return Ok(None);
                }
                if page.calls.is_empty() {
                    break;
                }
                executed.extend(page.calls);
            }
            all.extend(executed);
        }
        Ok(Some(all))
    }

    /// Where the leader of one shard serves it.
    async fn leader_of(&self, shard: u16) -> Result<SocketAddrV4, Error> {
        let servers = admin::of_shard(&self.cluster.members(), shard);
        let members = admin::members_of(self.cluster.connection.client(), &servers, PATIENCE).await.ok();
        let leader = members.and_then(|members| members.leader_address());
        leader.ok_or_else(|| Error::DemoFailed { what: format!("nobody leads shard {shard}") })
    }
}

/// A line about what happens now.
fn note(start: Instant, what: &str) -> Result<(), Error> {
    say(&format!("{:>5.1} s  {what}\n", now().saturating_since(start).as_secs_f64()))
}
