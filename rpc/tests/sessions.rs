//! Exactly-once calls over whole clusters: whatever becomes of datagrams, leaders and clients, what a client names once is
//! executed once, and answered the same each time.

mod cluster_support;

use cluster_support::{SECOND, agreed, ask, call, cluster, config, status};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Link, SocketOptions};
use trimaran_raft::{ClusterId, LogIndex};
use trimaran_rpc::client::{
    AnyRequest, CallError, CallId, Caller, Client, ClientConfig, MethodCall, NotApplied, OwnedCall, Reply,
};
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Policy, Refusal, RequestBlock, ResponseBlock, Rid, Status};
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service, method_key};
use trimaran_rpc::session::{REGISTER, SessionId};
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex, node_ip};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::{TaskGroup, sleep, timeout};

const MILLI: Duration = Duration::from_millis(1);
const METHOD: u32 = 7;
const WRITE: Policy = Policy::ReplicatedRoute;
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;

/// Counts how often it has executed each request, and answers with the number of all.
#[derive(Default)]
struct Ledger {
    executed: u64,
    times: BTreeMap<Vec<u8>, u64>,
}

impl State for Ledger {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.executed).await;
        to.item(&self.times).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Ledger { executed: from.item().await?, times: from.item().await? })
    }
}

impl Service for Ledger {
    const NAME: &'static str = "ledger";

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.executed += 1;
        *self.times.entry(request[..request.len().min(16)].to_vec()).or_default() += 1;
        reply.extend_from_slice(&self.executed.to_le_bytes());
        if request.starts_with(b"long") {
            reply.resize(350_000, 7);
        }
        if request.starts_with(b"echo") {
            reply.extend_from_slice(request);
        }
        if request.starts_with(b"no") { Answer::App } else { Answer::Ok }
    }

    fn query(&self, _: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        let times = if request.is_empty() { self.executed } else { self.times.get(request).copied().unwrap_or(0) };
        reply.extend_from_slice(&times.to_le_bytes());
        Answer::Ok
    }
}

type Ended = Result<Reply, CallError>;

fn ledger(seed: u64) -> Cluster<Ledger> {
    cluster(seed, config(), Ledger::default)
}

fn leader(cluster: &Cluster<Ledger>) -> NodeIndex {
    cluster.leader().expect("a leader")
}

/// How often a request has been executed; all of them without one.
fn times(cluster: &mut Cluster<Ledger>, request: &[u8]) -> u64 {
    let (reply, _) = call(cluster, METHOD, READ, request).expect("a count");
    u64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

/// How often each of many requests has been executed.
fn all_times(cluster: &mut Cluster<Ledger>, requests: Vec<Vec<u8>>) -> Vec<u64> {
    ask(cluster, move |client| async move {
        let mut times = Vec::new();
        for request in &requests {
            let count = MethodCall { method: METHOD, policy: READ, shard: 0, body: request, server: None };
            let reply = client.call(count, SECOND).await.expect("a count");
            times.push(u64::from_le_bytes(reply.body.try_into().expect("eight bytes")));
        }
        times
    })
}

async fn write(client: &Client, body: &[u8], within: Duration) -> Ended {
    client.call(MethodCall { method: METHOD, policy: WRITE, shard: 0, body, server: None }, within).await
}

/// The call once more, under a name that it had before.
async fn again(client: &Client, body: &[u8], id: CallId, within: Duration) -> Ended {
    let request = AnyRequest { method: METHOD, policy: WRITE, body: body.to_vec(), shard_key: None };
    client.submit(OwnedCall { call_id: Some(id), within: Some(within), ..OwnedCall::new(request) }).await
}

fn name_of(end: &Ended) -> CallId {
    match end {
        Err(CallError::Unknown { call_id: Some(id) }) => *id,
        other => panic!("{other:?}"),
    }
}

/// A client whose session is open, at work on its own machine while the test plays with the network.
struct Worker<T> {
    ip: Ipv4Addr,
    ready: Rc<Cell<bool>>,
    go: Rc<Cell<bool>>,
    end: Rc<RefCell<Option<T>>>,
}

/// `work` begins when the test says so.
fn worker<T: 'static, F: Future<Output = T> + 'static>(
    cluster: &mut Cluster<Ledger>,
    work: impl FnOnce(Client) -> F + 'static,
) -> Worker<T> {
    let (ready, go, end) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    let (is_ready, may_go, filled) = (ready.clone(), go.clone(), end.clone());
    let ip = cluster.client(cluster.addresses(), move |client| async move {
        write(&client, b"warm up", SECOND).await.expect("applied");
        is_ready.set(true);
        while !may_go.get() {
            sleep(MILLI / 10).await;
        }
        let value = work(client).await;
        *filled.borrow_mut() = Some(value);
    });
    assert!(cluster.run_until(SECOND, |_| ready.get()), "no session");
    Worker { ip, ready, go, end }
}

impl<T> Worker<T> {
    fn start(&self, cluster: &mut Cluster<Ledger>, within: Duration) {
        assert!(self.ready.get());
        self.go.set(true);
        cluster.run_for(within);
    }

    fn finish(&self, cluster: &mut Cluster<Ledger>) -> T {
        cluster.run_until(SECOND * 60, |_| self.end.borrow().is_some());
        assert!(cluster.violation().is_none(), "{:?}", cluster.violation());
        self.end.borrow_mut().take().expect("the client came to an end")
    }
}

/// The answer is lost: the same leader recognises the copy.
#[test]
fn a_retry_to_the_same_leader_is_not_executed() {
    let mut cluster = ledger(1);
    let worker = worker(&mut cluster, |client| async move { write(&client, b"once", SECOND).await });
    let to = node_ip(leader(&cluster).0);
    let network = cluster.network().clone();
    network.block(to, worker.ip);
    worker.start(&mut cluster, 50 * MILLI);
    network.unblock(to, worker.ip);
    let reply = worker.finish(&mut cluster).expect("applied");
    assert_eq!((reply.body, times(&mut cluster, b"once")), (2u64.to_le_bytes().to_vec(), 1));
    agreed(&mut cluster);
}

/// The leader has executed it and dies before it can say so. The next one has the answer from the log.
#[test]
fn a_retry_to_a_new_leader_gets_the_first_answer() {
    for (seed, lost) in [(2, b"echo single".to_vec()), (3, [b"echo".to_vec(), vec![1; 20_000]].concat())] {
        let mut cluster = ledger(seed);
        let request = lost.clone();
        let worker = worker(&mut cluster, move |client| async move { write(&client, &request, SECOND * 2).await });
        let old = leader(&cluster);
        let network = cluster.network().clone();
        if lost.len() < 1000 {
            network.block(node_ip(old.0), worker.ip);
        }
        // Else the ACK must get through, and the leader dies with most of its reply still to send.
        worker.go.set(true);
        let before = cluster.node(old).expect("alive").shard().status().applied;
        let other = NodeIndex((old.0 + 1) % 3);
        cluster.run_until(SECOND, |cluster| cluster.node(other).unwrap().shard().status().commit > before);
        cluster.run_until(SECOND, |cluster| cluster.node(old).unwrap().shard().status().applied > before);
        cluster.kill(old);
        let reply = worker.finish(&mut cluster).expect("applied");
        assert_eq!(reply.block.index, before.0 + 1, "where the first try was executed");
        assert_eq!(reply.body, [&2u64.to_le_bytes()[..], &lost[..]].concat());
        assert_eq!(times(&mut cluster, &lost[..lost.len().min(16)]), 1);
    }
}

/// Appended by a leader that cannot commit it, sent to the next one as well, and then both logs meet.
#[test]
fn a_copy_of_an_uncommitted_call_is_executed_once() {
    for (seed, cut) in [(4, 60 * MILLI), (5, SECOND)] {
        let mut cluster = ledger(seed);
        let worker = worker(&mut cluster, |client| async move { write(&client, b"once", SECOND * 5).await });
        let old = leader(&cluster);
        let network = cluster.network().clone();
        let others: Vec<_> = (0..3).filter(|node| *node != old.0).collect();
        for other in &others {
            network.block(node_ip(old.0), node_ip(*other));
            network.block(node_ip(*other), node_ip(old.0));
        }
        worker.start(&mut cluster, cut);
        network.heal();
        for other in &others {
            network.unblock(node_ip(old.0), node_ip(*other));
            network.unblock(node_ip(*other), node_ip(old.0));
        }
        worker.finish(&mut cluster).expect("applied");
        cluster.run_for(SECOND);
        assert_eq!(times(&mut cluster, b"once"), 1, "cut off for {cut:?}");
        agreed(&mut cluster);
    }
}

/// More calls at a time than one session holds, over a wire that delivers everything twice and some things late.
#[test]
fn many_calls_at_once_over_a_wire_that_repeats_everything() {
    for seed in 10..14 {
        let mut cluster = ledger(seed);
        let link = Link { duplicate: 1.0, reorder: 0.2, loss: 0.05, ..Link::default() };
        let worker = worker(&mut cluster, |client| async move {
            let tasks: Vec<_> = (0..256u32)
                .map(|number| {
                    let client = client.clone();
                    trimaran_runtime::spawn(async move { write(&client, &number.to_le_bytes(), SECOND * 5).await })
                })
                .collect();
            let mut ends = Vec::new();
            for task in tasks {
                ends.push(task.await.expect("no panic"));
            }
            (ends, client.waiting())
        });
        for node in 0..3 {
            cluster.network().set_link(node_ip(node), worker.ip, link);
            cluster.network().set_link(worker.ip, node_ip(node), link);
        }
        worker.start(&mut cluster, MILLI);
        let (ends, waiting) = worker.finish(&mut cluster);
        assert!(ends.iter().all(|end| end.is_ok()), "{ends:?}");
        let mut indexes: Vec<_> = ends.iter().flatten().map(|reply| reply.block.index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        assert_eq!((indexes.len(), waiting, times(&mut cluster, b"")), (256, 0, 257));
        agreed(&mut cluster);
    }
}

/// A call whose caller is gone must hold nobody up: neither the window at the client nor the one at the cluster.
#[test]
fn dropped_calls_do_not_wedge_the_window() {
    let mut cluster = ledger(20);
    let worker = worker(&mut cluster, |client| async move {
        for number in 0..1000u32 {
            let body = number.to_le_bytes();
            // Some are on their way, some answered, some not even sent.
            let _ = timeout(MILLI * (number % 3) / 10, write(&client, &body, SECOND)).await;
        }
        let mut group = TaskGroup::new();
        for number in 0..300u32 {
            let client = client.clone();
            group.spawn(async move {
                drop(write(&client, &[b"dropped", &number.to_le_bytes()[..]].concat(), SECOND).await)
            });
        }
        sleep(MILLI / 10).await;
        drop(group);
        let mut ends = Vec::new();
        for number in 0..200u64 {
            ends.push(write(&client, &number.to_le_bytes(), SECOND).await);
        }
        (ends, client.waiting())
    });
    worker.start(&mut cluster, MILLI);
    let (ends, waiting) = worker.finish(&mut cluster);
    assert!(ends.iter().all(|end| end.is_ok()) && waiting == 0, "{ends:?}");
    let requests = (0..1000u32).map(|number| number.to_le_bytes().to_vec()).collect();
    assert!(all_times(&mut cluster, requests).iter().all(|times| *times <= 1));
    agreed(&mut cluster);
}

/// After Unknown the same name may be used again, and tells what came of the first try.
#[test]
fn a_name_is_good_for_later() {
    let mut cluster = ledger(21);
    let worker = worker(&mut cluster, |client| async move {
        let first = write(&client, b"no, thanks", 20 * MILLI).await;
        let id = name_of(&first);
        sleep(50 * MILLI).await;
        let others = write(&client, b"other", SECOND).await;
        let second = again(&client, b"no, thanks", id, SECOND).await;
        let third = again(&client, b"no, thanks", id, SECOND).await;
        let changed = again(&client, b"yes, please", id, SECOND).await;
        (others, second, third, changed)
    });
    let to = node_ip(leader(&cluster).0);
    let network = cluster.network().clone();
    network.block(to, worker.ip);
    worker.start(&mut cluster, 40 * MILLI);
    network.unblock(to, worker.ip);
    let (others, second, third, changed) = worker.finish(&mut cluster);
    let second = second.expect("the service's answer");
    assert_eq!(second.status, trimaran_rpc::r2p2::Status::App);
    assert_eq!((second.body, others.unwrap().body), (2u64.to_le_bytes().to_vec(), 3u64.to_le_bytes().to_vec()));
    // The answer has arrived, which the cluster may have heard by now.
    assert!(matches!(&third, Err(CallError::Unknown { .. })) || third.unwrap().body == 2u64.to_le_bytes());
    let reused = CallError::NotApplied(NotApplied::Refused(Refusal::CallIdReused));
    assert!(matches!(&changed, Err(CallError::Unknown { .. })) || changed == Err(reused), "{changed:?}");
    assert_eq!((times(&mut cluster, b"no, thanks"), times(&mut cluster, b"yes, please")), (1, 0));
}

/// The reply had to make room for others before it was fetched: executed once, and nobody can say with what result.
#[test]
fn an_evicted_reply_is_an_unknown_outcome() {
    let mut cluster = ledger(22);
    let worker = worker(&mut cluster, |client| async move {
        let first = write(&client, b"once", 20 * MILLI).await;
        let id = name_of(&first);
        sleep(50 * MILLI).await;
        for _ in 0..100 {
            // Nobody fetches these, either: no acknowledgement frees them.
            drop(write(&client, b"long", MILLI / 2).await);
            sleep(MILLI).await;
        }
        again(&client, b"once", id, SECOND).await
    });
    let to = node_ip(leader(&cluster).0);
    let network = cluster.network().clone();
    network.block(to, worker.ip);
    worker.start(&mut cluster, 300 * MILLI);
    network.unblock(to, worker.ip);
    assert!(matches!(worker.finish(&mut cluster), Err(CallError::Unknown { call_id: Some(_) })));
    assert_eq!(times(&mut cluster, b"once"), 1);
    agreed(&mut cluster);
}

/// Ten minutes of silence, and the session is gone. A new call gets another one and does not notice; an old name is nobody's.
#[test]
fn an_expired_session_is_replaced_where_nothing_can_have_happened() {
    let mut cluster = ledger(23);
    let worker = worker(&mut cluster, |client| async move {
        let first = name_of(&write(&client, b"first", 20 * MILLI).await);
        sleep(SECOND * 602).await;
        let second = write(&client, b"second", SECOND).await;
        let old = again(&client, b"first", first, SECOND).await;
        let third = write(&client, b"third", SECOND).await;
        (second, old, third)
    });
    let to = node_ip(leader(&cluster).0);
    let network = cluster.network().clone();
    network.block(to, worker.ip);
    worker.start(&mut cluster, 40 * MILLI);
    network.unblock(to, worker.ip);
    cluster.run_for(SECOND * 602);
    let (second, old, third) = worker.finish(&mut cluster);
    assert!(second.is_ok() && third.is_ok(), "{second:?} {third:?}");
    assert!(matches!(old, Err(CallError::Unknown { .. })), "{old:?}");
    for request in [&b"first"[..], b"second", b"third"] {
        assert_eq!(times(&mut cluster, request), 1, "{}", request.escape_ascii());
    }
    agreed(&mut cluster);
}

/// Arguments and a reply of as many packets as there may be, over a wire that loses some.
#[test]
fn a_write_of_many_packets_is_repeated_whole_and_executed_once() {
    let mut cluster = ledger(25);
    let request = [b"echo".to_vec(), (0..370_000u32).map(|at| (at * 31 % 251) as u8).collect()].concat();
    let sent = request.clone();
    let worker = worker(&mut cluster, move |client| async move { write(&client, &sent, SECOND * 20).await });
    let link = Link { loss: 0.002, ..Link::default() };
    for node in 0..3 {
        cluster.network().set_link(worker.ip, node_ip(node), link);
    }
    worker.start(&mut cluster, MILLI);
    let reply = worker.finish(&mut cluster).expect("applied");
    assert!(reply.body[8..] == request);
    assert_eq!(times(&mut cluster, &request[..16]), 1);
}

/// Leaders that are cut off again and again, a bad wire, several clients: what was answered was executed once, what was
/// refused never, and all replicas hold the same table.
#[test]
fn nothing_is_executed_twice_under_faults() {
    let mut repeated = 0;
    for seed in 100..130 {
        let mut cluster = ledger(seed);
        let ends: Rc<RefCell<BTreeMap<Vec<u8>, Option<Ended>>>> = Rc::default();
        let open = Rc::new(Cell::new(0));
        let clients: Vec<_> = (0..4u8)
            .map(|client_number| {
                let (ends, open) = (ends.clone(), open.clone());
                open.set(open.get() + 1);
                cluster.client(cluster.addresses(), move |client| async move {
                    for number in 0..150u8 {
                        let request = vec![client_number, number];
                        ends.borrow_mut().insert(request.clone(), None);
                        let mut end = write(&client, &request, 150 * MILLI).await;
                        if let Err(CallError::Unknown { call_id: Some(id) }) = end
                            && number % 2 == 0
                        {
                            end = again(&client, &request, id, 400 * MILLI).await;
                        }
                        ends.borrow_mut().insert(request, Some(end));
                    }
                    open.set(open.get() - 1);
                })
            })
            .collect();
        let link = Link { loss: 0.1, duplicate: 0.3, reorder: 0.2, ..Link::default() };
        for (client, node) in clients.iter().flat_map(|client| (0..3).map(move |node| (*client, node_ip(node)))) {
            cluster.network().set_link(client, node, link);
            cluster.network().set_link(node, client, link);
        }
        let network = cluster.network().clone();
        for _ in 0..20 {
            if let Some(leader) = cluster.leader() {
                let others: Vec<_> = (0..3).filter(|node| *node != leader.0).map(node_ip).collect();
                others.iter().for_each(|other| {
                    network.block(node_ip(leader.0), *other);
                    network.block(*other, node_ip(leader.0));
                });
                cluster.run_for(300 * MILLI);
                others.iter().for_each(|other| {
                    network.unblock(node_ip(leader.0), *other);
                    network.unblock(*other, node_ip(leader.0));
                });
            }
            cluster.run_for(200 * MILLI);
        }
        assert!(cluster.run_until(SECOND * 100, |_| open.get() == 0), "clients hang");
        assert!(cluster.violation().is_none(), "{:?}", cluster.violation());
        cluster.run_for(SECOND);
        let times = all_times(&mut cluster, ends.borrow().keys().cloned().collect());
        for ((request, end), times) in ends.borrow().iter().zip(times) {
            match end.as_ref().expect("every call has ended") {
                Ok(_) => assert_eq!(times, 1, "seed {seed}: {request:?}"),
                Err(CallError::NotApplied(_) | CallError::NoQuorum { .. }) => {
                    assert_eq!(times, 0, "seed {seed}: {request:?}: {end:?}");
                }
                Err(_) => assert!(times <= 1, "seed {seed}: {request:?} {times} times"),
            }
        }
        agreed(&mut cluster);
        for node in 0..3 {
            repeated += status(&mut cluster, node).counters.get("r2p2.copy_pending").copied().unwrap_or(0);
        }
    }
    assert!(repeated > 0, "no copy has met its original");
}

/// Cuts the nodes off from each other, so that soon nobody leads and writes are refused.
fn scatter(cluster: &mut Cluster<Ledger>) {
    cluster.network().partition(&[&[node_ip(0)], &[node_ip(1)], &[node_ip(2)]]);
    assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_none()), "somebody leads without a majority");
}

/// Delivers old datagrams once more, in any order and most of them several times.
fn replay(cluster: &mut Cluster<Ledger>) {
    for _ in 0..400 {
        cluster.network().replay(cluster.now(), None);
        cluster.run_for(MILLI / 10);
    }
}

/// A write whose every copy was refused is reported as not applied. Its datagrams, delivered once more when there is a leader
/// again, change nothing.
#[test]
fn late_copies_of_what_was_refused_are_not_executed() {
    for seed in 300..310 {
        let mut cluster = ledger(seed);
        let worker = worker(&mut cluster, |client| async move { write(&client, b"refused", 300 * MILLI).await });
        scatter(&mut cluster);
        cluster.network().keep_packets(100_000);
        worker.start(&mut cluster, MILLI);
        let end = worker.finish(&mut cluster);
        assert!(matches!(end, Err(CallError::NotApplied(_) | CallError::NoQuorum { .. })), "seed {seed}: {end:?}");
        cluster.network().heal();
        assert!(cluster.run_until(SECOND * 2, |cluster| cluster.leader().is_some()), "nobody leads");
        replay(&mut cluster);
        cluster.run_for(SECOND);
        assert_eq!(times(&mut cluster, b"refused"), 0, "seed {seed}");
    }
}

/// A write was applied; its datagram, delivered once more while nobody leads, is not answered as one that was refused. Another
/// copy of the call is.
#[test]
fn late_copies_of_what_was_applied_are_not_refused() {
    let mut cluster = ledger(320);
    let to = cluster.addresses()[leader(&cluster).0];
    let (is_scattered, told) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
    let (scattered, tell) = (is_scattered.clone(), told.clone());
    let ip = Ipv4Addr::new(10, 0, 2, 1);
    cluster.machine(ip, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(ip, 0), SocketOptions::default()).expect("a socket");
        let flags = Flags { own_block: true, ..Flags::SINGLE };
        let ask = async |rid: u16, block: RequestBlock, body: &[u8]| {
            let header = Header { flags, ..Header::single(MessageType::Request, WRITE, Rid(rid)) };
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slices([&header.emit(), &block.emit(), body]).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
            let answer = socket.recv_or_deadline(trimaran_runtime::now() + 100 * MILLI).await?;
            let (block, body) = ResponseBlock::parse(&answer.data()[8..]).expect("a block");
            Some((block, body.to_vec()))
        };
        let register = RequestBlock { method: method_key(REGISTER), ..RequestBlock::default() };
        let (opened, id) = ask(1, register, &77u128.to_le_bytes()).await.expect("a session");
        let cluster = ClusterId(u128::from_le_bytes(id.try_into().expect("the cluster's id")));
        let session = SessionId::new(cluster, LogIndex(opened.index)).0;
        let first = RequestBlock { method: METHOD, copy: 1, session, seq: 1, ..RequestBlock::default() };
        for (rid, copy) in [(2, 1), (2, 1), (3, 2)] {
            let answer = ask(rid, RequestBlock { copy, ..first }, b"applied").await;
            tell.borrow_mut().push(answer.map(|(block, _)| block.status));
            while !scattered.get() {
                sleep(MILLI).await;
            }
        }
    });
    cluster.run_for(200 * MILLI);
    assert_eq!(*told.borrow(), [Some(Status::Ok)]);
    scatter(&mut cluster);
    is_scattered.set(true);
    cluster.run_for(300 * MILLI);
    assert_eq!(*told.borrow(), [Some(Status::Ok), None, Some(Status::NoQuorum)]);
    cluster.network().heal();
    cluster.run_for(SECOND);
    assert_eq!(times(&mut cluster, b"applied"), 1);
    let counters: Vec<_> = (0..3).map(|node| status(&mut cluster, node).counters).collect();
    assert_eq!(counters.iter().filter_map(|of| of.get("r2p2.copy_seen")).sum::<u64>(), 1);
}

/// A write of several packets of which the last was missing was refused; all of them, delivered much later, execute nothing. Another
/// copy of the call does.
#[test]
fn late_packets_of_what_was_given_up_as_incomplete_execute_nothing() {
    let mut cluster = ledger(321);
    let to = cluster.addresses()[leader(&cluster).0];
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = told.clone();
    let ip = Ipv4Addr::new(10, 0, 2, 1);
    cluster.machine(ip, move |net, _| async move {
        let socket = net.bind(SocketAddrV4::new(ip, 0), SocketOptions::default()).expect("a socket");
        let send = |rid: u16, flags: Flags, p_order: u16, parts: [&[u8]; 2]| {
            let header = Header { flags, p_order, ..Header::single(MessageType::Request, WRITE, Rid(rid)) };
            let mut packet = socket.alloc().expect("a packet");
            packet.extend_from_slices([&header.emit(), parts[0], parts[1]]).expect("room");
            assert!(socket.send_to(packet, to).is_ok());
        };
        let hear = async || {
            let answer = socket.recv_or_deadline(trimaran_runtime::now() + 600 * MILLI).await?;
            let (header, payload) = Header::parse(answer.data()).expect("a header");
            match header.kind {
                MessageType::Response => ResponseBlock::parse(payload).ok().map(|(block, body)| (block, body.to_vec())),
                _ => Some((ResponseBlock::default(), b"ack".to_vec())),
            }
        };
        let register = RequestBlock { method: method_key(REGISTER), ..RequestBlock::default() };
        send(1, Flags { own_block: true, ..Flags::SINGLE }, 1, [&register.emit(), &77u128.to_le_bytes()]);
        let (opened, id) = hear().await.expect("a session");
        let cluster = ClusterId(u128::from_le_bytes(id.try_into().expect("the cluster's id")));
        let session = SessionId::new(cluster, LogIndex(opened.index)).0;
        // All but the last packet of a copy; later all of it, and at last another copy.
        for (rid, copy, packets) in [(2, 1, 2), (2, 1, 3), (3, 2, 3)] {
            let block = RequestBlock { method: METHOD, copy, session, seq: 1, ..RequestBlock::default() };
            let [first, middle, last] = [(true, false), (false, false), (false, true)].map(|(first, last)| Flags {
                first,
                last,
                own_block: first,
            });
            send(rid, first, 3, [&block.emit(), b"in three"]);
            send(rid, middle, 1, [b" packets", b""]);
            if packets == 3 {
                send(rid, last, 2, [b" or none", b""]);
            }
            while let Some((block, body)) = hear().await {
                tell.borrow_mut().push((copy, (body != b"ack").then_some((block.status, block.reason))));
            }
        }
    });
    cluster.run_for(SECOND * 4);
    let (acked, refused) = (None, Some((Status::NotApplied, Refusal::Incomplete)));
    assert_eq!(*told.borrow(), [(1, acked), (1, refused), (2, acked), (2, Some((Status::Ok, Refusal::Unspecified)))]);
    assert_eq!(times(&mut cluster, b"in three packets"), 1);
    let counters: Vec<_> = (0..3).map(|node| status(&mut cluster, node).counters).collect();
    assert_eq!(counters.iter().filter_map(|of| of.get("r2p2.copy_seen")).sum::<u64>(), 1);
}

/// As many writes as all sessions hold: one more waits for its turn, or is told.
#[test]
fn full_sessions_make_calls_wait() {
    let mut cluster = ledger(26);
    let config = ClientConfig::default();
    let replies = trimaran_rpc::r2p2::ReplyLimits { calls: 2048, ..config.replies };
    let end = Rc::new(RefCell::new(None));
    let told = end.clone();
    let ip = cluster.client_with(cluster.addresses(), ClientConfig { replies, ..config }, move |client| async move {
        let calls: Vec<_> = (0..600u32)
            .map(|number| {
                let client = client.clone();
                trimaran_runtime::spawn(async move { write(&client, &number.to_le_bytes(), SECOND * 10).await })
            })
            .collect();
        let mut ok = 0;
        for call in calls {
            ok += u32::from(call.await.expect("no panic").is_ok());
        }
        *told.borrow_mut() = Some(ok);
    });
    assert!(cluster.run_until(SECOND * 20, |_| end.borrow().is_some()), "{ip} hangs");
    assert_eq!((end.borrow_mut().take(), times(&mut cluster, b"")), (Some(600), 600));
}

/// Numbers may come in any order within the window; beyond it nothing is executed, and that is certain.
#[test]
fn the_window_takes_numbers_in_any_order() {
    let mut cluster = ledger(27);
    let worker = worker(&mut cluster, |client| async move {
        let CallId { session, seq } = name_of(&write(&client, b"lost", 20 * MILLI).await);
        sleep(50 * MILLI).await;
        let mut ends = Vec::new();
        for ahead in [40, 63, 20, 63, 64, 1000] {
            let request = format!("ahead {ahead}");
            ends.push(again(&client, request.as_bytes(), CallId { session, seq: seq + ahead }, SECOND).await);
        }
        ends
    });
    let to = node_ip(leader(&cluster).0);
    let network = cluster.network().clone();
    network.block(to, worker.ip);
    worker.start(&mut cluster, 40 * MILLI);
    network.unblock(to, worker.ip);
    let ends = worker.finish(&mut cluster);
    let beyond = CallError::NotApplied(NotApplied::Refused(Refusal::OutOfWindow));
    let indexes: Vec<_> = ends.iter().map(|end| end.as_ref().map(|reply| reply.block.index).ok()).collect();
    assert!(indexes[0] < indexes[1] && indexes[1] < indexes[2] && indexes[3] == indexes[1], "{indexes:?}");
    // The first of the client's own is still unknown, so the window ends 64 from there.
    assert_eq!((&ends[4], &ends[5]), (&Err(beyond), &Err(beyond)), "{indexes:?}");
    assert_eq!((times(&mut cluster, b"ahead 63"), times(&mut cluster, b"ahead 64")), (1, 0));
    agreed(&mut cluster);
}
