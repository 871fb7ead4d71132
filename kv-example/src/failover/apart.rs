//! A process for each node, a leader is killed by SIGKILL and started again with an empty memory: what a crash costs a service
//! that has a machine, or its share of one, for each node.

use super::{Findings, PATIENCE, Puts, failed, plan, progress};
use crate::cli::BenchFailover;
use crate::load::{self, Measured};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::admin;
use trimaran_rpc::program::Program;
use trimaran_rpc::program::cluster::{LOOK_EVERY, LocalCluster};
use trimaran_rpc::program::config::{Profile, Timing};
use trimaran_rpc::program::connect::{Target, panicked, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{self, Nodes};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_runtime::{now, spawn};

/// One look at the members.
const LOOK_WITHIN: Duration = Duration::from_millis(200);
/// Between a whole cluster and the next kill, in milliseconds.
const REST_MS: std::ops::Range<u64> = 50..250;

pub(super) fn run(bench: &BenchFailover, program: &Program) -> Result<Findings, Error> {
    let signals = Signals::watch()?;
    let plan = nodes::Plan { service: program.service, count: bench.nodes, ..nodes::Plan::default() };
    let nodes = Nodes::start(Site::Loopback, plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let target = Target { port: nodes.client_port(), ..Target::new(servers, super::CALL_DEADLINE) };
    let (bench, service) = (bench.clone(), program.service);
    with_connection(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        cluster.form(service, PATIENCE).await?;
        kill_again(&mut cluster, &bench).await
    })
}

async fn kill_again(cluster: &mut LocalCluster, bench: &BenchFailover) -> Result<Findings, Error> {
    let puts = Puts::new(bench.seed);
    let measured = Rc::new(RefCell::new(Measured::default()));
    let load = spawn(load::run(cluster.connection.clone(), puts.clone(), plan(bench), measured.clone()));
    let mut rng = Pcg64Mcg::seed_from_u64(bench.seed);
    let (mut outages, mut repairs) = (Vec::new(), Vec::new());
    let bar = progress(bench.kills);
    for _ in 0..bench.kills {
        cluster.wait(Duration::from_millis(rng.random_range(REST_MS))).await?;
        settle(cluster).await?;
        let leader = cluster.leading(PATIENCE).await?;
        let killed_at = now();
        // Waits until the process is gone, which takes some of the time that is measured.
        cluster.nodes.kill(leader)?;
        puts.borrow_mut().killed(killed_at);
        let outage = loop {
            if let Some(outage) = puts.borrow().outage() {
                break outage;
            }
            if now() >= killed_at + PATIENCE {
                return Err(failed(format!("nothing is committed within {PATIENCE:?}")));
            }
            cluster.wait(LOOK_EVERY).await?;
        };
        outages.push(outage);
        bar.set_message(format!("{:.0} ms", outage.as_secs_f64() * 1e3));
        bar.inc(1);
        cluster.nodes.spawn(leader)?;
        if !cluster.whole(now() + PATIENCE).await? {
            return Err(failed(format!("node {leader} is no voter again {PATIENCE:?} after its start")));
        }
        repairs.push(now().saturating_since(killed_at));
    }
    bar.finish_and_clear();
    puts.borrow_mut().is_over = true;
    load.await.and_then(|ended| ended).map_err(panicked)?;
    let (puts, election_max) = (measured.take(), Timing::of(Profile::Shared).election_max);
    Ok(Findings { outages, elections: Vec::new(), repairs, puts, election_max, probe: None })
}

/// Waits until no change of the members is under way: a leader killed in the middle of one may leave its cluster without a majority.
async fn settle(cluster: &mut LocalCluster) -> Result<(), Error> {
    let give_up = now() + PATIENCE;
    loop {
        let servers = cluster.members();
        let seen = admin::members_of(cluster.connection.client(), &servers, LOOK_WITHIN).await;
        if seen.is_ok_and(|members| !members.changing && members.voters.len() == servers.len()) {
            return Ok(());
        }
        if now() >= give_up {
            return Err(failed(format!("the members still change after {PATIENCE:?}")));
        }
        cluster.wait(LOOK_EVERY).await?;
    }
}
