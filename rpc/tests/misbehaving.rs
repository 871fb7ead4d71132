//! Services that break the rules of replicated handlers: each replica that cannot go on stops with a named error, serves
//! nothing wrong, and keeps voting.

mod cluster_support;

use cluster_support::{SECOND, ask, config};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, SocketOptions};
use trimaran_rpc::Halt;
use trimaran_rpc::admin::{self, NodeStatus};
use trimaran_rpc::client::{CallError, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service, method_key};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, DiskPlan, NodeIndex};
use trimaran_rpc::state::{Reader, State, StateError, Turns, Writer};

thread_local! {
    static INSTANCES: Cell<u64> = const { Cell::new(0) };
    /// The last one whose state was given back.
    static DISCARDED: Cell<Option<u64>> = const { Cell::new(None) };
    static OUTSIDE: RefCell<Option<Net>> = const { RefCell::new(None) };
}

/// Adds words to a set, in whatever way its `sin` says.
struct Words {
    #[allow(clippy::disallowed_types, reason = "the very mistake that is tested")]
    hashed: std::collections::HashMap<Vec<u8>, u64>,
    instance: u64,
    count: u64,
}

impl Words {
    fn new() -> Words {
        INSTANCES.set(INSTANCES.get() + 1);
        Words { hashed: Default::default(), instance: INSTANCES.get(), count: 0 }
    }
}

impl State for Words {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.count).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Words { count: from.item().await?, ..Words::new() })
    }

    async fn discard(self, turns: &mut Turns) {
        turns.drop_each(self.hashed).await;
        DISCARDED.set(Some(self.instance));
    }
}

impl Service for Words {
    const NAME: &'static str = "words";

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.count += 1;
        match request {
            // Every map has its own order.
            b"iterate" => {
                (0..50u8).for_each(|word| {
                    self.hashed.insert(vec![word], self.count);
                });
                self.hashed.keys().for_each(|word| reply.extend_from_slice(word));
            }
            // One replica of three thinks otherwise, as with a bit flip or another build.
            b"differ" => reply.push(u8::from(self.instance == 2)),
            b"panic" => panic!("asked to"),
            [b'@', instance] if u64::from(*instance) == self.instance => panic!("asked to"),
            b"await" => {
                let net = OUTSIDE.with_borrow(Clone::clone).expect("a network");
                let socket = net.bind(SocketAddrV4::new(SOCKETS, 0), SocketOptions::default());
                drop(socket.expect("a socket").recv().await);
            }
            _ => reply.extend_from_slice(&self.count.to_le_bytes()),
        }
        Answer::Ok
    }

    fn query(&self, _: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        reply.extend_from_slice(&self.count.to_le_bytes());
        Answer::Ok
    }
}

/// A machine that lends its sockets to whoever should not have any.
const SOCKETS: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 1);

fn cluster(seed: u64) -> Cluster<Words> {
    cluster_with(seed, config())
}

fn cluster_with(seed: u64, config: ClusterConfig) -> Cluster<Words> {
    INSTANCES.set(0);
    let mut cluster = Cluster::new(seed, config, Words::new);
    cluster.allow_divergence();
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody was elected");
    cluster.run_for(Duration::from_millis(100));
    cluster
}

fn write(cluster: &mut Cluster<Words>, body: &'static [u8]) -> Result<Vec<u8>, CallError> {
    write_within(cluster, body, SECOND)
}

fn write_within(cluster: &mut Cluster<Words>, body: &'static [u8], within: Duration) -> Result<Vec<u8>, CallError> {
    ask(cluster, move |client| async move {
        let call = MethodCall {
            method: method_key("words.raw/1"),
            policy: Policy::ReplicatedRoute,
            shard: 0,
            body,
            server: None,
        };
        client.call(call, within).await.map(|reply| reply.body)
    })
}

fn statuses(cluster: &mut Cluster<Words>) -> Vec<NodeStatus> {
    let addresses = cluster.addresses();
    ask(cluster, move |client| async move {
        let mut statuses = Vec::new();
        for address in addresses {
            statuses.push(admin::status(&client, address, SECOND).await.expect("a status"));
        }
        statuses
    })
}

fn halts(statuses: &[NodeStatus]) -> Vec<Option<&str>> {
    statuses.iter().map(|status| status.halted.as_ref().map(|halt| halt.code.as_str())).collect()
}

/// Nobody reads it again, so nobody's heartbeat waits for its end, nor does its memory for the node's.
#[test]
fn the_state_of_a_replica_that_has_stopped_is_given_back() {
    let mut cluster = cluster(5);
    write(&mut cluster, b"good").expect("applied");
    assert_eq!(DISCARDED.get(), None);
    let _ = write(&mut cluster, b"@\x02");
    cluster.run_for(SECOND);
    assert_eq!(DISCARDED.get(), Some(2));
}

/// Three replicas, three orders: nobody can say which is right, so nobody goes on.
#[test]
fn iterating_a_hash_map_stops_the_replicas_that_differ() {
    let mut cluster = cluster(1);
    write(&mut cluster, b"good").expect("applied");
    let _ = write(&mut cluster, b"iterate");
    cluster.run_for(SECOND * 3);
    let statuses = statuses(&mut cluster);
    assert!(statuses.iter().any(|status| status.halted.is_some()), "{statuses:?}");
    assert!(halts(&statuses).iter().flatten().all(|code| *code == Halt::DIVERGED), "{statuses:?}");
    // Whoever leads after that serves nothing from a state that may be wrong.
    assert!(write(&mut cluster, b"good").is_err());
}

/// One of three differs: it stops and says at which entry; the two others serve on.
#[test]
fn a_replica_in_the_minority_stops_and_the_others_go_on() {
    for seed in 0..10 {
        let mut cluster = cluster(seed);
        write(&mut cluster, b"good").expect("applied");
        let before = statuses(&mut cluster)[0].applied;
        let _ = write(&mut cluster, b"differ");
        cluster.run_for(SECOND * 3);
        write(&mut cluster, b"good").expect("two of three agree");
        cluster.run_for(SECOND);
        let statuses = statuses(&mut cluster);
        let stopped: Vec<_> = statuses.iter().filter_map(|status| status.halted.as_ref()).collect();
        assert_eq!(stopped.len(), 1, "seed {seed}: {statuses:?}");
        assert_eq!(stopped[0].code, Halt::DIVERGED);
        assert!(stopped[0].index > before, "seed {seed}: {:?}", stopped[0]);
        assert!(statuses[1].halted.is_some(), "seed {seed}: it is the second instance that differs");
        assert!(statuses[1].role != "leader");
    }
}

/// It is of no use any more, nor is what its disk has: another life in its place gets the others' state, and serves.
#[test]
fn another_life_of_an_outvoted_replica_gets_the_majoritys_state() {
    for (seed, disks) in [(20, false), (21, true)] {
        let mut cluster = cluster_with(seed, ClusterConfig { disks: disks.then(DiskPlan::default), ..config() });
        for _ in 0..50 {
            write(&mut cluster, b"good").expect("applied");
        }
        let _ = write(&mut cluster, b"differ");
        cluster.run_for(SECOND * 3);
        write(&mut cluster, b"good").expect("two of three agree");
        let outvoted = |cluster: &Cluster<Words>| -> Vec<usize> {
            let is = |index: &usize| cluster.node(NodeIndex(*index)).is_some_and(|node| node.outvoted().is_some());
            (0..3).filter(is).collect()
        };
        assert_eq!(outvoted(&cluster), [1], "the second instance differs");
        let id = |cluster: &Cluster<Words>| cluster.node(NodeIndex(1)).expect("runs").shard().status().id;
        let old = id(&cluster);
        cluster.begin_anew(NodeIndex(1));
        let new = id(&cluster);
        assert!(new.slot == old.slot && new.incarnation != old.incarnation);
        let votes = |cluster: &Cluster<Words>| {
            let status = cluster.node(NodeIndex(1)).expect("runs").shard().status();
            status.configuration.is_voter(new) && !status.changing && status.applied == status.commit
        };
        assert!(cluster.run_until(SECOND * 20, votes), "seed {seed}: it is not taken in");
        write(&mut cluster, b"good").expect("applied");
        cluster.run_for(SECOND);
        assert!(outvoted(&cluster).is_empty());
        assert_eq!(halts(&statuses(&mut cluster)), [None; 3]);
        let state = |index: usize| {
            let node = cluster.node(NodeIndex(index)).expect("runs");
            node.shard().with_machine(|machine| (machine.applied_index(), machine.digest()))
        };
        assert_eq!([state(0), state(1)], [state(2); 2]);
        // The group needs it, and goes on with it.
        cluster.kill(NodeIndex(0));
        write_within(&mut cluster, b"good", SECOND * 5).expect("two of three");
    }
}

#[test]
fn awaiting_a_socket_stops_every_replica_that_comes_there() {
    let mut cluster = cluster(3);
    let told = Rc::new(Cell::new(false));
    let done = told.clone();
    cluster.machine(SOCKETS, move |net, _| async move {
        OUTSIDE.set(Some(net));
        done.set(true);
        std::future::pending::<()>().await;
    });
    cluster.run_until(SECOND, |_| told.get());
    let _ = write(&mut cluster, b"await");
    cluster.run_for(SECOND);
    let statuses = statuses(&mut cluster);
    assert_eq!(halts(&statuses), [Some(Halt::AWAITED); 3]);
    assert!(write(&mut cluster, b"good").is_err(), "nobody serves from a half-changed state");
}

#[test]
fn a_panic_stops_every_replica_at_the_same_entry_with_the_reason() {
    let mut cluster = cluster(4);
    let _ = write(&mut cluster, b"panic");
    cluster.run_for(SECOND);
    let statuses = statuses(&mut cluster);
    assert_eq!(halts(&statuses), [Some(Halt::PANICKED); 3]);
    let first = statuses[0].halted.as_ref().expect("stopped");
    assert!(statuses.iter().all(|status| status.halted.as_ref() == Some(first)), "{statuses:?}");
    assert_eq!((first.message.as_str(), first.method), ("asked to", method_key("words.raw/1")));
    assert!(statuses.iter().any(|status| status.role == "leader"), "they go on voting");
}

/// Like a bit flip: the request that panics on this node passes on the others.
fn panic_on(cluster: &mut Cluster<Words>, node: usize) -> Result<Vec<u8>, CallError> {
    const BODIES: [&[u8]; 3] = [b"@\x01", b"@\x02", b"@\x03"];
    write_within(cluster, BODIES[node], SECOND / 2)
}

/// A replica that applies nothing more asks for no log: the others' does not fill up.
#[test]
fn a_panic_on_one_follower_alone_does_not_fill_the_log() {
    static BODY: [u8; 32 << 10] = [7; 32 << 10];
    for seed in 0..5 {
        let mut config = config();
        config.log_limits.log_bytes = 1 << 20;
        let mut cluster = cluster_with(seed, config);
        let follower = (cluster.leader().expect("a leader").0 + 1) % 3;
        panic_on(&mut cluster, follower).expect("the two others apply it");
        for round in 0..100 {
            let written = write(&mut cluster, &BODY);
            assert!(written.is_ok(), "seed {seed}, write {round}: {written:?}");
        }
        let statuses = statuses(&mut cluster);
        let stopped: Vec<_> = (0..3).filter(|node| statuses[*node].halted.is_some()).collect();
        assert_eq!(stopped, [follower], "seed {seed}");
        assert!(statuses[follower].commit > statuses[follower].applied + 90, "it goes on acknowledging");
    }
}

/// The healthy two go on without a leader that serves nothing.
#[test]
fn a_panic_on_the_leader_alone_makes_another_lead() {
    for seed in 0..10 {
        let mut cluster = cluster(seed);
        let first = cluster.leader().expect("a leader").0;
        let began = cluster.now();
        // Whether this very call is answered is luck: who applied it was no leader yet.
        let _ = panic_on(&mut cluster, first);
        write(&mut cluster, b"good").expect("another one leads");
        assert!(cluster.now() < began + SECOND, "seed {seed}");
        cluster.run_for(SECOND * 3);
        let statuses = statuses(&mut cluster);
        let stopped: Vec<_> = (0..3).filter(|node| statuses[*node].halted.is_some()).collect();
        assert_eq!(stopped, [first], "seed {seed}");
        assert_ne!(statuses[first].role, "leader");
        assert!(write(&mut cluster, b"good").is_ok());
    }
}
