//! Exactly-once calls over whole clusters: whatever becomes of datagrams, leaders and clients, what a client names once is
//! executed once, and answered the same each time.

mod cluster_support;
mod ledger_support;

use cluster_support::{SECOND, agreed, ask, status};
use ledger_support::{Ended, Ledger, METHOD, MILLI, READ, WRITE, leader, ledger, times, worker, write};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::Link;
use trimaran_rpc::client::{
    AnyRequest, CallError, CallId, Caller, Client, ClientConfig, MethodCall, NotApplied, OwnedCall,
};
use trimaran_rpc::r2p2::Refusal;
use trimaran_rpc::sim::cluster::{Cluster, NodeIndex, node_ip};
use trimaran_runtime::{TaskGroup, sleep, timeout};

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
