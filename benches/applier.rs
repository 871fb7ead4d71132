//! Handlers that take ten microseconds, on a core of their own and on the node's: what one replica serves over the kernel's
//! loopback, with the client on the node's core; and whether elections notice. Those are counted where heartbeats matter: three replicas,
//! each with a thread of its own as it would have a machine, under less load than they can bear.
//!
//! `cargo bench -p trimaran-benches --bench applier`, `-- N` for N seconds of that load; 60 where nothing is said.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use trimaran_benches::{rounds, tell};
use trimaran_net::port::udp::{UdpConfig, UdpPort};
use trimaran_net::{Net, NetConfig, NetDriver};
use trimaran_raft::{ClusterId, Incarnation, Limits, Machine, ReadSettings, Sabotage, Slot, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::client::{Client, ClientConfig, MethodCall};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::{Policy, reassembly};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::shards::ShardPlace;
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::{
    CoreConfig, CoreHandle, Idle, Instant, NoDevice, TaskGroup, now, read_clock, run, sleep, sleep_until, spawn, start,
};

/// What a handler takes.
const HANDLER: Duration = Duration::from_micros(10);
const WARMUP: Duration = Duration::from_secs(1);
/// A closed loop is counted in windows, one after the other.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: u64 = 6;
/// How long elections are counted, where nothing else is said.
const MINUTE_S: u64 = 60;
/// Share of what the cluster can do that is asked for meanwhile.
const LOAD: f64 = 0.8;
const OUTSTANDING: usize = 128;
const DEADLINE: Duration = Duration::from_secs(1);
/// The open loop asks in bursts so far apart.
const BURST_EVERY: Duration = Duration::from_micros(500);
/// Between two looks of a node's thread at its counters.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a cluster may take to be formed and led.
const PATIENCE: Duration = Duration::from_secs(5);
/// As those of `serve`: seven threads that look for long take the two processors from each other.
const IDLE: Idle = Idle::Hybrid { polls: 10, yields: 20 };

struct Slow(u64);

impl State for Slow {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.0).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Slow(from.item().await?))
    }
}

impl Service for Slow {
    const NAME: &'static str = "slow";

    async fn apply(&mut self, _: &mut Cx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        let until = read_clock() + HANDLER;
        while read_clock() < until {
            std::hint::spin_loop();
        }
        self.0 += 1;
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.0.to_le_bytes());
        Answer::Ok
    }
}

/// What three replicas have done under less than full load.
struct Figures {
    /// In a closed loop, before that.
    per_second: f64,
    answered_per_second: f64,
    /// Of the calls asked for then those that were not answered within their deadline.
    failed_share: f64,
    /// Changes of role, term or leader that the replicas have counted: an attempt to be elected is one.
    changes: u64,
    /// Terms that have begun.
    terms: u64,
}

fn main() {
    let seconds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(rounds(MINUTE_S));
    let possible = 1.0 / HANDLER.as_secs_f64();
    let windows = rounds(WINDOWS).max(2) as usize;
    for (id, place, with_applier) in
        [("nodes_core", "on the node's core", false), ("own_core", "on a core of their own", true)]
    {
        let each = one(with_applier, windows);
        // Ten microseconds are ten also where the machine's host gives a core to somebody else meanwhile: what was possible then is less.
        let rate = each.iter().copied().fold(0.0, f64::max);
        let share = rate / possible;
        let line = format!(
            "one replica, handlers of {HANDLER:?} {place:<24} {rate:>8.0} /s of {possible:.0} ({share:.2}) in the best of {windows} seconds, \
             {:.0} in all",
            mean(&each)
        );
        tell(&format!("applier.one.{id}.per_second"), rate, "/s", &line);
        tell(&format!("applier.one.{id}.per_second_in_all"), mean(&each), "/s", "");
        tell(&format!("applier.one.{id}.share"), share, "share", "");
        let Figures { per_second, answered_per_second, failed_share, changes, terms } =
            three(with_applier, windows, Duration::from_secs(seconds));
        let asked = per_second * LOAD;
        let line = format!(
            "three replicas, handlers {place:<24} {per_second:>8.0} /s; {seconds} s at {asked:.0} /s: {answered_per_second:.0} /s, \
             {:.2} % not answered, {changes} changes of role, term or leader, {terms} new terms",
            100.0 * failed_share
        );
        tell(&format!("applier.three.{id}.per_second"), per_second, "/s", &line);
        for (name, value, unit) in [
            ("seconds_at_80_percent", seconds as f64, "s"),
            ("answered_of_asked", answered_per_second / asked, "share"),
            ("failed_share", failed_share, "share"),
            ("leadership_changes", changes as f64, ""),
            ("new_terms", terms as f64, ""),
        ] {
            tell(&format!("applier.three.{id}.{name}"), value, unit, "");
        }
    }
}

/// Addresses of this host that nobody else has, or had a moment ago.
fn free_addresses(count: usize) -> Vec<SocketAddrV4> {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    // All are held until the last is drawn, so that they differ.
    let held: Vec<UdpSocket> = (0..count).map(|_| UdpSocket::bind(any).expect("a free port")).collect();
    let address = |socket: &UdpSocket| match socket.local_addr() {
        Ok(SocketAddr::V4(address)) => address,
        other => panic!("no address: {other:?}"),
    };
    held.iter().map(address).collect()
}

fn config(slot: u8, client: SocketAddrV4, peers: &[SocketAddrV4]) -> NodeConfig {
    NodeConfig {
        cluster_name: "bench".into(),
        slot: Slot(slot),
        place: ShardPlace::ALONE,
        incarnation: Incarnation(1),
        client,
        peer: peers[usize::from(slot) - 1],
        contacts: peers.to_vec(),
        timing: Timing::SHARED,
        log_limits: Limits::default(),
        request_limits: reassembly::Limits::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: ReadSettings::default(),
        sabotage: Sabotage::NONE,
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: slot.into(),
    }
}

/// A node, and the core of its applier where it has one. That core ends with the node, which has to be let go first.
fn start_node(net: &Net, config: NodeConfig, with_applier: bool) -> (Node, Option<CoreHandle<()>>) {
    if !with_applier {
        return (Node::start_in(net, config, Slow(0), None).expect("a node"), None);
    }
    let core_id = 10 + u16::from(config.slot.0);
    let (node, applier) = Node::start_with_applier(net, config, Slow(0), None).expect("a node");
    let core = CoreConfig { name: "applier".into(), core_id, ..CoreConfig::default() };
    (node, Some(start(core, || NoDevice, move || applier.run()).expect("a core for the handlers")))
}

fn client_of(net: &Net, servers: &[SocketAddrV4]) -> Client {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    Client::new(net, any, servers.to_vec(), ClientConfig::default()).expect("a client")
}

/// A core of this thread over the kernel's sockets.
fn on_this_thread<T: 'static, F: Future<Output = T> + 'static>(core: CoreConfig, work: impl FnOnce(Net) -> F) -> T {
    let (driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).expect("a port"), NetConfig::default());
    run(core, || driver, move || work(net)).expect("the core ends well")
}

fn mean(each: &[f64]) -> f64 {
    each.iter().sum::<f64>() / each.len().max(1) as f64
}

/// Calls a second of one replica with its client on its core, window by window.
fn one(with_applier: bool, windows: usize) -> Vec<f64> {
    let work = move |net: Net| async move {
        let [at, peer] = free_addresses(2)[..] else { panic!("two addresses") };
        let (node, applying) = start_node(&net, config(1, at, &[peer]), with_applier);
        let client = client_of(&net, &[at]);
        admin::init(&client, "bench", &[at], ClusterId(1), PATIENCE).await.expect("a cluster");
        while !node.shard().is_leader() {
            sleep(LOOK_EVERY).await;
        }
        (closed_loop(&client, windows).await, applying)
    };
    let (rates, applying) = on_this_thread(CoreConfig { name: "node".into(), ..CoreConfig::default() }, work);
    if let Some(applying) = applying {
        applying.join().expect("the applier ends with its node");
    }
    rates
}

/// What the thread of a node tells of it.
#[derive(Default)]
struct Seen {
    changes: AtomicU64,
    term: AtomicU64,
}

/// Three replicas with a thread each, the client on this one.
fn three(with_applier: bool, windows: usize, minute: Duration) -> Figures {
    let addresses = free_addresses(6);
    let (clients, peers) = addresses.split_at(3);
    let seen: Arc<[Seen; 3]> = Arc::default();
    let ended = Arc::new(AtomicBool::new(false));
    let mut figures = None;
    // Cores with a port of their own, which cannot leave the thread that made it.
    std::thread::scope(|scope| {
        for slot in 1..=3u8 {
            let at = usize::from(slot) - 1;
            let (config, seen, ended) = (config(slot, clients[at], peers), seen.clone(), ended.clone());
            scope.spawn(move || host(config, with_applier, at, seen, ended));
        }
        let (servers, seen) = (clients.to_vec(), seen.clone());
        let core = CoreConfig { name: "client".into(), core_id: 9, idle: IDLE, ..CoreConfig::default() };
        let work = move |net: Net| async move {
            under_load(&client_of(&net, &servers), &servers, &seen, windows, minute).await
        };
        let _ending = Ending(ended);
        figures = Some(on_this_thread(core, work));
    });
    figures.expect("the client has measured")
}

/// Tells the threads of the nodes to end, also where the client panics: else the scope would wait for them for ever.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A replica, until all has been measured.
fn host(config: NodeConfig, with_applier: bool, at: usize, seen: Arc<[Seen; 3]>, ended: Arc<AtomicBool>) {
    let core = CoreConfig { name: "node".into(), core_id: config.slot.0.into(), idle: IDLE, ..CoreConfig::default() };
    let applying = on_this_thread(core, move |net| async move {
        let (node, applying) = start_node(&net, config, with_applier);
        while !ended.load(Ordering::Acquire) {
            seen[at].changes.store(node.shard().counters().leadership_changes, Ordering::Relaxed);
            seen[at].term.store(node.shard().with_machine(Machine::term).0, Ordering::Relaxed);
            sleep(LOOK_EVERY).await;
        }
        applying
    });
    if let Some(applying) = applying {
        applying.join().expect("the applier ends with its node");
    }
}

async fn under_load(
    client: &Client,
    servers: &[SocketAddrV4],
    seen: &[Seen; 3],
    windows: usize,
    minute: Duration,
) -> Figures {
    admin::init(client, "bench", servers, ClusterId(1), PATIENCE).await.expect("a cluster");
    let give_up = now() + PATIENCE;
    while !put(client).await {
        assert!(now() < give_up, "the cluster takes no put");
        sleep(LOOK_EVERY).await;
    }
    let look = || {
        let changes: u64 = seen.iter().map(|node| node.changes.load(Ordering::Relaxed)).sum();
        (changes, seen.iter().map(|node| node.term.load(Ordering::Relaxed)).max().unwrap_or(0))
    };
    let per_second = mean(&closed_loop(client, windows).await);
    let before = look();
    let Asked { asked, answered, .. } = open_loop(client, per_second * LOAD, minute).await;
    let after = look();
    Figures {
        per_second,
        answered_per_second: answered as f64 / minute.as_secs_f64(),
        failed_share: (asked - answered) as f64 / asked.max(1) as f64,
        changes: after.0 - before.0,
        terms: after.1 - before.1,
    }
}

async fn put(client: &Client) -> bool {
    let call = MethodCall { method: 1, policy: Policy::ReplicatedRoute, shard: 0, body: &[7; 64], server: None };
    client.call(call, DEADLINE).await.is_ok()
}

/// Calls a second with a fixed number outstanding, window by window.
async fn closed_loop(client: &Client, windows: usize) -> Vec<f64> {
    let answered = Rc::new(RefCell::new(vec![0u32; windows]));
    let from = now() + WARMUP;
    let until = from + WINDOW * windows as u32;
    let mut group = TaskGroup::new();
    for _ in 0..OUTSTANDING {
        let (client, answered) = (client.clone(), answered.clone());
        group.spawn(async move {
            while now() < until {
                if put(&client).await && now() >= from {
                    let window = now().saturating_since(from).as_nanos() / WINDOW.as_nanos();
                    // Those that end after the last belong to none.
                    answered.borrow_mut().get_mut(window as usize).into_iter().for_each(|count| *count += 1);
                }
            }
        });
    }
    let _ = group.join_all().await;
    let answered = answered.borrow();
    answered.iter().map(|count| f64::from(*count) / WINDOW.as_secs_f64()).collect()
}

/// What became of an open loop's calls.
#[derive(Clone, Copy, Default)]
struct Asked {
    asked: u64,
    answered: u64,
    ended: u64,
}

/// Asks for so many calls a second, whatever is answered, until the last has been answered or has come to its deadline.
async fn open_loop(client: &Client, per_second: f64, span: Duration) -> Asked {
    let counts = Rc::new(Cell::new(Asked::default()));
    let from = now();
    let mut asked = 0u64;
    let mut at: Instant = from;
    while at < from + span {
        at += BURST_EVERY;
        sleep_until(at).await;
        let due = (now().saturating_since(from).as_secs_f64() * per_second) as u64;
        for _ in asked..due {
            let (client, counts) = (client.clone(), counts.clone());
            spawn(async move {
                let more = u64::from(put(&client).await);
                let Asked { asked, answered, ended } = counts.get();
                counts.set(Asked { asked, answered: answered + more, ended: ended + 1 });
            })
            .detach();
        }
        asked = due;
    }
    // Calls end by their deadline, but for a core that is late.
    let give_up = now() + 2 * DEADLINE;
    while counts.get().ended < asked && now() < give_up {
        sleep(LOOK_EVERY).await;
    }
    Asked { asked, ..counts.get() }
}
