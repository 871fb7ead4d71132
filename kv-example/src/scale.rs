//! `bench-scale`: what a core's work costs when another core works beside it.
//!
//! ```text
//!   one loop:    core 0: shard 0 of three nodes and a client                 operations per second of CPU time: a
//!   two loops:   core 0: shard 0, core 1: shard 1, a client on each          operations per second of CPU time: b
//!   the machine: a loop of plain arithmetic on one thread, and on two        c, d
//!   scaling = (b / a) / (d / c): 1 where cores do not disturb each other beyond what any two threads do here
//! ```
//!
//! All packets go through the kernel's sockets. CPU time is each thread's own, so that others on the machine cost little of the
//! result; what they cost, the caches, they cost both.

use crate::cli::BenchScale;
use crate::load::{self, Answered, Ask, Failure, Measured, Pace, Plan, Target, Workload};
use crate::requests;
use crate::service::Kv;
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use trimaran_net::{Layout, Net, Steering};
use trimaran_raft::ClusterId;
use trimaran_rpc::admin;
use trimaran_rpc::client::{Client, ClientConfig, MethodCall};
use trimaran_rpc::node::Node;
use trimaran_rpc::program::config::Config;
use trimaran_rpc::program::connect::{net_error, panicked, random_u128};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::port::{Between, PortPlan};
use trimaran_rpc::program::{say, serve};
use trimaran_rpc::shards::{ShardMap, ShardPlace, shard_key};
use trimaran_runtime::{CoreConfig, Instant, now, sleep};

/// Nodes of the cluster, all of this process.
const NODES: u8 = 3;
/// Calls that each core has on their way.
const OUTSTANDING: usize = 64;
/// Time for one call.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks at the others.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a cluster may take to be formed and led.
const PATIENCE: Duration = Duration::from_secs(10);
/// Multiplications of one round of the plain loop.
const ROUNDS: u64 = 20_000_000;

/// Runs the loops in turns and prints both ratios.
///
/// # Errors
/// What keeps the nodes from running.
pub fn run(bench: &BenchScale) -> Result<(), Error> {
    let seconds = Duration::from_secs(bench.seconds.into());
    let mut ratios = Vec::new();
    for round in 0..bench.rounds {
        // In turns, so that what changes on the machine meanwhile changes both.
        let one = loops(1, seconds, round * 2)?;
        let plain_one = plain(1);
        let two = loops(2, seconds, round * 2 + 1)?;
        let plain_two = plain(2);
        let (work, machine) = (two.per_cpu_second / one.per_cpu_second, plain_two / plain_one);
        say(&format!(
            "one loop {:>9.0} puts/CPU-s {:>9.0} puts/s   two loops {:>9.0} puts/CPU-s {:>9.0} puts/s ({work:.3})   \
             plain loop alone and beside another {machine:.3}   scaling {:.3}\n",
            one.per_cpu_second,
            one.per_second,
            two.per_cpu_second,
            two.per_second,
            work / machine
        ))?;
        ratios.push(work / machine);
    }
    let rounds = ratios.len();
    let middle = load::median(ratios).ok_or(Error::Interrupted)?;
    say(&format!("scaling from 1 to 2 cores, median of {rounds}: {middle:.3}\n"))
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Rounds of arithmetic per second of CPU time, with so many threads at it.
fn plain(threads: usize) -> f64 {
    let count = || {
        let (from, mut number) = (cpu_time(), 1u64);
        for step in 0..ROUNDS {
            number = std::hint::black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step);
        }
        std::hint::black_box(number);
        1.0 / (cpu_time() - from).as_secs_f64()
    };
    let mut rates = vec![];
    // Plain threads beside the program, which run no task.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        rates = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
    });
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}

/// What so many loops did.
struct Rates {
    /// Puts for each second of a core's CPU time, on average.
    per_cpu_second: f64,
    /// Puts a second of all of them together, by the clock: less than the above where somebody else had the processors.
    per_second: f64,
}

/// Puts of so many cores with a shard each.
fn loops(cores: u16, span: Duration, run: u8) -> Result<Rates, Error> {
    let layout = Layout::new(cores, cores.into()).ok_or(Error::Interrupted)?;
    // Others may run this at the same time, and sockets of the run before may still be there.
    let process = std::process::id().to_le_bytes();
    let ip = |slot: u8| Ipv4Addr::new(127, 64 | process[1] & 63, process[0], slot + 10 * (run % 20) + 1);
    let text = |slot: u8| {
        let member =
            |slot: u8| format!("[[member]]\nslot = {slot}\nclient = \"{0}:8000\"\npeer = \"{0}:8100\"\n", ip(slot));
        let members: String = (1..=NODES).map(member).collect();
        format!("cluster = \"scale\"\nslot = {slot}\ndurability = \"volatile\"\n{members}")
    };
    let configs = (1..=NODES).map(|slot| Config::parse("scale.toml", &text(slot)).map(|(config, _)| config));
    let configs: Vec<Config> = configs.collect::<Result<_, _>>()?;
    let bases = configs.iter().filter_map(Config::me).flat_map(|me| [me.client, me.peer]).collect();
    let core = |core: usize| CoreConfig { name: format!("core {core}"), core_id: core as u16, ..CoreConfig::default() };
    let ready = Arc::new(AtomicU16::new(0));
    let main = move |core: usize, net: Net| {
        let (configs, ready) = (configs.clone(), ready.clone());
        async move { one_core(core as u16, cores, &net, &configs, &ready, span).await }
    };
    let plan = PortPlan::default();
    let steering = Steering::new(layout, bases);
    let rates = plan.run_several((0..cores.into()).map(core).collect(), &Between::default(), &steering, main)?;
    Ok(Rates {
        per_cpu_second: rates.iter().map(|core| core.per_cpu_second).sum::<f64>() / rates.len() as f64,
        per_second: rates.iter().map(|core| core.per_second).sum(),
    })
}

/// What one core does: a shard of every node, and a client that calls it.
async fn one_core(
    shard: u16,
    shards: u16,
    net: &Net,
    configs: &[Config],
    ready: &AtomicU16,
    span: Duration,
) -> Result<Rates, Error> {
    let map = ShardMap::new(shards).unwrap_or_default();
    let mut nodes = Vec::new();
    for config in configs {
        let place = ShardPlace::new(shard, map).unwrap_or_default();
        let node = Node::start(net, serve::node_config(config, place)?, Kv::new(None));
        nodes.push(node.map_err(|error| Error::DemoFailed { what: error.to_string() })?);
    }
    let servers: Vec<SocketAddrV4> = configs.iter().filter_map(Config::me).map(|me| me.client).collect();
    let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let client = Client::new(net, local, servers.clone(), ClientConfig::default()).map_err(net_error)?;
    let all = |wanted: u16| async move {
        let give_up = now() + PATIENCE;
        while ready.load(Ordering::Acquire) < wanted {
            if now() >= give_up {
                return Err(Error::DemoFailed { what: "the other core is not ready".into() });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    ready.fetch_add(1, Ordering::AcqRel);
    if shard == 0 {
        all(shards).await?;
        let formed = admin::init(&client, "scale", &servers, ClusterId(random_u128()? | 1), PATIENCE).await;
        formed.map_err(|error| Error::DemoFailed { what: error.to_string() })?;
    }
    let key =
        (0..).map(|number: u64| format!("key{number}")).find(|key| map.shard_of(shard_key(key.as_bytes())) == shard);
    let puts = Puts { client, key: key.unwrap_or_default() };
    // The client learns the map, its shard a leader, and each a session.
    let give_up = now() + PATIENCE;
    while puts.put(DEADLINE).await.is_err() {
        if now() >= give_up {
            return Err(Error::DemoFailed { what: format!("shard {shard} takes no write") });
        }
        sleep(LOOK_EVERY).await;
    }
    ready.fetch_add(1, Ordering::AcqRel);
    all(2 * shards).await?;
    let load = Rc::new(RefCell::new(Load { puts: puts.clone(), done: 0 }));
    let pace = Pace::Closed { outstanding: OUTSTANDING };
    let warmup = span / 4;
    let plan = Plan { pace, start: now(), warmup, measure: span + span / 4, deadline: DEADLINE, calls_max: u64::MAX };
    let (from, to) = (now() + warmup, now() + warmup + span);
    let running =
        trimaran_runtime::spawn(load::run(puts, load.clone(), plan, Rc::new(RefCell::new(Measured::default()))));
    trimaran_runtime::sleep_until(from).await;
    let (cpu, began, done) = (cpu_time(), now(), load.borrow().done);
    trimaran_runtime::sleep_until(to).await;
    let done = (load.borrow().done - done) as f64;
    let rates = Rates {
        per_cpu_second: done / (cpu_time() - cpu).as_secs_f64(),
        per_second: done / now().saturating_since(began).as_secs_f64(),
    };
    // Both go on until both have been measured.
    running.await.and_then(|end| end).map_err(panicked)?;
    ready.fetch_add(1, Ordering::AcqRel);
    all(3 * shards).await?;
    drop(nodes);
    Ok(rates)
}

/// Calls of one core.
#[derive(Clone)]
struct Puts {
    client: Client,
    key: String,
}

impl Puts {
    async fn put(&self, within: Duration) -> Result<(), Failure> {
        let mut body = Vec::new();
        let ask = requests::put(self.key.as_bytes(), &[7; 64], None, &mut body);
        self.call(ask, &body, now() + within).await.map(drop)
    }
}

impl Target for Puts {
    async fn call(&self, ask: Ask, body: &[u8], deadline: Instant) -> Result<Answered, Failure> {
        let call = MethodCall { method: ask.method, policy: ask.policy, shard: 0, body, server: None };
        match self.client.call_keyed(call, ask.key, deadline.saturating_since(now())).await {
            Ok(reply) => Ok(Answered { status: reply.status, body: reply.body }),
            Err(_) => Err(Failure::Unknown),
        }
    }
}

/// Puts of one key after the other.
struct Load {
    puts: Puts,
    done: u64,
}

impl Workload for Load {
    type Call = ();

    fn begin(&mut self, body: &mut Vec<u8>, _: Instant) -> (Ask, ()) {
        (requests::put(self.puts.key.as_bytes(), &[7; 64], None, body), ())
    }

    fn end(&mut self, (): (), result: &Result<Answered, Failure>, _: Instant) -> bool {
        self.done += u64::from(result.is_ok());
        result.is_ok()
    }
}
