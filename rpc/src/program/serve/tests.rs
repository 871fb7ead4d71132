use super::*;
use crate::admin;
use crate::client::{Client, ClientConfig, MethodCall};
use crate::r2p2::Policy;
use crate::service::{Answer, Cx, ReadCx, method_key};
use crate::sim::cluster::Wire;
use crate::state::{Reader, State, StateError, Writer};
use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use trimaran_net::port::sim::SimNet;
use trimaran_net::{NetConfig, NetDriver};
use trimaran_raft::ClusterId;
use trimaran_runtime::sim::World;
use trimaran_runtime::{Instant, Lane, now};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_outvoted_replica_begins_another_life_three_times_an_hour() {
    let (mut lives, minute) = (Lives::default(), Duration::from_secs(60));
    let at = |minutes: u32| Instant::ZERO + minute * minutes;
    assert_eq!([0, 1, 30].map(|minutes| lives.may_begin_another(at(minutes))), [true; 3]);
    assert_eq!([31, 59].map(|minutes| lives.may_begin_another(at(minutes))), [false; 2]);
    assert_eq!([60, 60, 61].map(|minutes| lives.may_begin_another(at(minutes))), [true, false, true]);
}

/// Counts, and where it is told to `differ`, and its machine does, adds one too many.
struct Sums {
    sum: u64,
    differs: bool,
}

impl State for Sums {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.sum).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Sums { sum: from.item().await?, differs: false })
    }
}

impl Service for Sums {
    const NAME: &'static str = "sums";

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.sum += 1 + u64::from(request == b"differ" && self.differs);
        reply.extend_from_slice(&self.sum.to_le_bytes());
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.sum.to_le_bytes());
        Answer::Ok
    }
}

fn config(slot: u8) -> Config {
    let mut text = format!("cluster = \"sums\"\nslot = {slot}\ndurability = \"volatile\"\n");
    for slot in 1..=3 {
        text += &format!("[[member]]\nslot = {slot}\nclient = \"10.0.0.{slot}:8000\"\npeer = \"10.0.0.{slot}:8100\"\n");
    }
    Config::parse("node.toml", &text).unwrap_or_else(|error| panic!("{error}")).0
}

/// What an operator need not do: the replica stops, says so, drops its state, is taken in anew with the others', and counts again.
#[test]
fn a_served_replica_that_was_outvoted_comes_back_with_the_others_state() {
    let (mut world, network) = (World::new(7), SimNet::new(8));
    let machine =
        |ip| NetDriver::<Wire>::new(Wire::new(&network, Ipv4Addr::new(10, 0, 0, ip), false), NetConfig::default());
    let signals = Arc::new(Signals::watch().expect("signals"));
    for slot in 1..=3u8 {
        let (driver, net) = machine(slot);
        let core = world.add_core(&format!("node{slot}"), driver);
        let config = config(slot);
        let layout = config.cores.layout().expect("one shard");
        let part =
            Part { core: 0, layout, net, changes_durability: false, signals: signals.clone(), configs: vec![config] };
        // Only in its first life.
        let lives = Cell::new(0);
        let service = move || {
            lives.set(lives.get() + 1);
            Sums { sum: 0, differs: slot == 2 && lives.get() == 1 }
        };
        world.spawn(core, Lane::Normal, async move { part.run(service).await.expect("serves") }).detach();
    }
    let (driver, net) = machine(100);
    let core = world.add_core("client", driver);
    let told = Rc::new(RefCell::new(Vec::<[u8; 8]>::new()));
    let seen = told.clone();
    let work = async move {
        let servers: Vec<SocketAddrV4> =
            (1..=3).map(|slot| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, slot), 8000)).collect();
        let any = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 0);
        let client = Client::new(&net, any, servers.clone(), ClientConfig::default()).expect("a client");
        admin::init(&client, "sums", &servers, ClusterId(9), SECOND * 10).await.expect("a cluster");
        let write = async |body: &'static [u8]| {
            let method = method_key("sums.raw/1");
            let call = MethodCall { method, policy: Policy::ReplicatedRoute, shard: 0, body, server: None };
            let reply = client.call(call, SECOND * 5).await;
            reply.map(|reply| <[u8; 8]>::try_from(reply.body).expect("a sum"))
        };
        for _ in 0..20 {
            write(b"add").await.expect("applied");
        }
        let before = admin::status(&client, servers[1], SECOND).await.expect("a status");
        let _ = write(b"differ").await;
        // Its answer may have been the wrong one, if it led; nobody else's is.
        let until = now() + SECOND * 60;
        loop {
            sleep(SECOND).await;
            let sum = write(b"add").await.expect("two of three agree");
            let status = admin::status(&client, servers[1], SECOND).await;
            if let Ok(status) = status
                && status.probe.node.incarnation != before.probe.node.incarnation
                && status.halted.is_none()
                && status.role == "follower"
            {
                seen.borrow_mut().push(sum);
                return;
            }
            assert!(now() < until, "it has not come back");
        }
    };
    world.spawn(core, Lane::Normal, work).detach();
    while told.borrow().is_empty() && world.now() < Instant::ZERO + SECOND * 120 && world.step() {}
    let told = told.borrow();
    let sum = told.first().expect("the client has not ended");
    assert!(u64::from_le_bytes(*sum) >= 22);
}
