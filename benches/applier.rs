//! Handlers that take ten microseconds, on a core of their own and on the node's: what one replica serves over the kernel's
//! loopback, with the client on the node's core, and whether its elections notice.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::port::udp::{UdpConfig, UdpPort};
use trimaran_net::{Net, NetConfig, NetDriver};
use trimaran_raft::{ClusterId, Incarnation, Limits, ReadSettings, Sabotage, Slot, Timing};
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
const MEASURE: Duration = Duration::from_secs(3);
/// Share of what is possible that is asked for while elections are counted.
const LOAD: f64 = 0.8;
const OUTSTANDING: usize = 128;
const DEADLINE: Duration = Duration::from_secs(1);
/// The open loop asks in bursts so far apart.
const BURST_EVERY: Duration = Duration::from_micros(500);

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

/// What came of one way to run the handlers.
struct Figures {
    per_second: f64,
    /// Of the minute under less than full load: answered, and changes of leadership.
    answered_per_second: f64,
    leadership_changes: u64,
}

fn main() {
    let seconds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(10);
    let possible = 1.0 / HANDLER.as_secs_f64();
    for (name, with_applier) in [("on the node's core", false), ("on a core of their own", true)] {
        let config = CoreConfig { name: "node".into(), idle: Idle::default(), ..CoreConfig::default() };
        let (driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).expect("a port"), NetConfig::default());
        let work = move || measure(net, with_applier, Duration::from_secs(seconds));
        let (figures, applying) = run(config, || driver, work).expect("the core ends well");
        // The applier ends with its node, which this core has to let go first.
        if let Some(applying) = applying {
            applying.join().expect("the applier ends with its node");
        }
        println!(
            "handlers of {HANDLER:?} {name:<24} {:>8.0} /s of {possible:.0} ({:.2}); {seconds} s at {:.0} /s: {:.0} /s, {} changes of leadership",
            figures.per_second,
            figures.per_second / possible,
            figures.per_second * LOAD,
            figures.answered_per_second,
            figures.leadership_changes,
        );
    }
}

fn free_address(net: &Net) -> SocketAddrV4 {
    let any = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
    net.bind(any, trimaran_net::SocketOptions::default()).expect("a free port").local_addr()
}

async fn measure(net: Net, with_applier: bool, minute: Duration) -> (Figures, Option<CoreHandle<()>>) {
    let (client_at, peer) = (free_address(&net), free_address(&net));
    let config = NodeConfig {
        cluster_name: "bench".into(),
        slot: Slot(1),
        place: ShardPlace::ALONE,
        incarnation: Incarnation(1),
        client: client_at,
        peer,
        contacts: vec![peer],
        timing: Timing::SHARED,
        log_limits: Limits::default(),
        request_limits: reassembly::Limits::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: ReadSettings::default(),
        sabotage: Sabotage::NONE,
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: 1,
    };
    let mut applying = None;
    let node = if with_applier {
        let (node, applier) = Node::start_with_applier(&net, config, Slow(0), None).expect("a node");
        let core = CoreConfig { name: "applier".into(), core_id: 1, ..CoreConfig::default() };
        applying = Some(start(core, || NoDevice, move || applier.run()).expect("a second core"));
        node
    } else {
        Node::start_in(&net, config, Slow(0), None).expect("a node")
    };
    let any = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
    let client = Client::new(&net, any, vec![client_at], ClientConfig::default()).expect("a client");
    admin::init(&client, "bench", &[client_at], ClusterId(1), Duration::from_secs(5)).await.expect("a cluster");
    while !node.shard().is_leader() {
        sleep(Duration::from_millis(1)).await;
    }
    let per_second = closed_loop(&client).await;
    let before = node.shard().counters().leadership_changes;
    let answered_per_second = open_loop(&client, per_second * LOAD, minute).await;
    let leadership_changes = node.shard().counters().leadership_changes - before;
    (Figures { per_second, answered_per_second, leadership_changes }, applying)
}

async fn put(client: &Client) -> bool {
    let call = MethodCall { method: 1, policy: Policy::ReplicatedRoute, shard: 0, body: &[7; 64], server: None };
    client.call(call, DEADLINE).await.is_ok()
}

/// Calls a second with a fixed number outstanding.
async fn closed_loop(client: &Client) -> f64 {
    let answered = Rc::new(Cell::new(0u64));
    let from = now() + WARMUP;
    let until = from + MEASURE;
    let mut group = TaskGroup::new();
    for _ in 0..OUTSTANDING {
        let (client, answered) = (client.clone(), answered.clone());
        group.spawn(async move {
            while now() < until {
                if put(&client).await && (from..until).contains(&now()) {
                    answered.set(answered.get() + 1);
                }
            }
        });
    }
    let _ = group.join_all().await;
    answered.get() as f64 / MEASURE.as_secs_f64()
}

/// Asks for so many calls a second, whatever is answered; returns what was.
async fn open_loop(client: &Client, per_second: f64, span: Duration) -> f64 {
    let answered = Rc::new(Cell::new(0u64));
    let from = now();
    let mut asked = 0u64;
    let mut at: Instant = from;
    while at < from + span {
        at += BURST_EVERY;
        sleep_until(at).await;
        let due = (now().saturating_since(from).as_secs_f64() * per_second) as u64;
        for _ in asked..due {
            let (client, answered) = (client.clone(), answered.clone());
            spawn(async move {
                let more = u64::from(put(&client).await);
                answered.set(answered.get() + more);
            })
            .detach();
        }
        asked = due;
    }
    sleep(Duration::from_millis(200)).await;
    answered.get() as f64 / span.as_secs_f64()
}
