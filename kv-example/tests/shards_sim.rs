//! A store of four shards in virtual time: who finds which key where, what is refused, and that shards know nothing of each other.

use kv_example::error::KvError;
use kv_example::service::{Kv, KvClient};
use kv_example::txn::{Op, Txn};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::admin::{self, Change};
use trimaran_rpc::client::{CallError, Client};
use trimaran_rpc::shards::{ShardMap, shard_key};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex};

const SECOND: Duration = Duration::from_secs(1);

fn cluster(seed: u64, shards: u16) -> Cluster<Kv> {
    Cluster::new(seed, ClusterConfig { shards, ..ClusterConfig::default() }, || Kv::new(None))
}

/// Runs a client's work to its end and returns what came of it.
fn run<T: 'static, F: Future<Output = T> + 'static>(
    cluster: &mut Cluster<Kv>,
    work: impl FnOnce(Client, KvClient<Client>) -> F + 'static,
) -> T {
    let end = Rc::new(RefCell::new(None));
    let told = end.clone();
    let servers = cluster.addresses();
    cluster.client(servers, move |client| async move {
        let output = work(client.clone(), KvClient::on(client)).await;
        *told.borrow_mut() = Some(output);
    });
    assert!(cluster.run_until(SECOND * 60, |_| end.borrow().is_some()), "{:?}", cluster.violation());
    let output = end.borrow_mut().take();
    output.expect("it has ended")
}

fn keys() -> Vec<Vec<u8>> {
    (0..40).map(|number| format!("key{number}").into_bytes()).collect()
}

#[test]
fn a_client_that_knows_nothing_finds_every_key_and_each_lies_in_its_own_shard() {
    let mut cluster = cluster(1, 4);
    let (before, after, found) = run(&mut cluster, |client, kv| async move {
        let before = client.shards();
        for key in keys() {
            kv.put(&key, &key, None).deadline(SECOND * 5).await.expect("stored");
        }
        let mut found = BTreeMap::new();
        for key in keys() {
            let value = kv.get(&key).deadline(SECOND * 5).await.expect("read").expect("there");
            assert_eq!(value.value, key);
        }
        for shard in 0..4 {
            let page = kv.scan(b"", None, 100).shard(shard).deadline(SECOND * 5).await.expect("read");
            found.insert(shard, page.items.into_iter().map(|item| item.key).collect::<Vec<_>>());
        }
        (before, client.shards(), found)
    });
    let map = ShardMap::new(4).expect("a map");
    assert_eq!((before, after), (ShardMap::ONE, map));
    for (shard, keys) in &found {
        assert!(!keys.is_empty() && keys.iter().all(|key| map.shard_of(shard_key(key)) == *shard), "{found:?}");
    }
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), keys().len());
}

/// One shard is what there was before: nobody asks for a map, and the client has one socket.
#[test]
fn with_one_shard_nobody_asks() {
    let mut cluster = cluster(2, 1);
    run(&mut cluster, |client, kv| async move {
        for key in keys() {
            kv.put(&key, &key, None).deadline(SECOND * 5).await.expect("stored");
        }
        assert_eq!(client.shards(), ShardMap::ONE);
        let beyond = kv.put(b"k", b"v", None).shard(1).deadline(SECOND).await;
        assert!(matches!(beyond, Err(CallError::NotApplied(_))), "{beyond:?}");
    });
}

#[test]
fn what_spans_shards_is_refused_whole_and_keys_with_a_common_part_are_together() {
    let mut cluster = cluster(3, 4);
    let of = |shard: u16| {
        let map = ShardMap::new(4).expect("a map");
        keys().into_iter().find(|key| map.shard_of(shard_key(key)) == shard).expect("each has one")
    };
    let put = |key: &[u8]| Op::Put { key: key.to_vec(), value: b"v".to_vec(), ttl: None };
    let apart = Txn { then: vec![put(&of(1)), put(&of(2))], ..Txn::default() };
    let (one, other) = (of(1), of(2));
    run(&mut cluster, move |_, kv| async move {
        let refused = kv.txn(apart).shard_key(&one).deadline(SECOND * 5).await;
        assert_eq!(refused.map_err(|error| error.to_string()), Err(CallError::App(KvError::OtherShard).to_string()));
        assert!(kv.get(&one).await.expect("read").is_none() && kv.get(&other).await.expect("read").is_none());
        let put = |key: &str| Op::Put { key: key.into(), value: b"v".to_vec(), ttl: None };
        let together = Txn { then: vec![put("{u}.a"), put("{u}.b"), put("c{u}")], ..Txn::default() };
        assert!(kv.txn(together).shard_key(b"u").deadline(SECOND * 5).await.expect("done").held);
        assert!(kv.get(b"c{u}").deadline(SECOND).await.expect("read").is_some());
        // Who names another shard for a key is refused as well: it would not be found again.
        let astray = kv.put(&one, b"v", None).shard(2).deadline(SECOND).await;
        assert!(matches!(astray, Err(CallError::App(KvError::OtherShard))), "{astray:?}");
    });
}

/// Two shards that are led by different nodes: the end of one leader is no news in the other shard.
#[test]
fn a_leaders_end_is_felt_in_its_own_shards_only() {
    let mut cluster = cluster(4, 2);
    assert!(cluster.run_until(SECOND * 10, Cluster::is_whole));
    let servers = cluster.addresses();
    let nodes = servers.clone();
    run(&mut cluster, move |client, _| async move {
        for (shard, slot) in [(0, 1), (1, 2)] {
            let transfer = Change::Transfer { to: Some(slot) };
            let ends = admin::change_all(&client, &nodes, Some(shard), transfer, SECOND * 10).await.expect("asked");
            assert!(ends.iter().all(|(_, end)| end.is_ok()), "{ends:?}");
        }
    });
    assert_eq!((cluster.leader_of(0), cluster.leader_of(1)), (Some(NodeIndex(0)), Some(NodeIndex(1))));
    let term = |cluster: &Cluster<Kv>| cluster.replica(NodeIndex(0), 0).map(|node| node.shard().status().term);
    let before = term(&cluster);
    cluster.kill(NodeIndex(1));
    run(&mut cluster, |_, kv| async move {
        for key in keys() {
            kv.put(&key, &key, None).deadline(SECOND * 10).await.expect("stored");
        }
    });
    assert_eq!((term(&cluster), cluster.leader_of(0)), (before, Some(NodeIndex(0))), "shard 0 has not voted");
    assert!(cluster.leader_of(1).is_some_and(|leader| leader != NodeIndex(1)));
    // It comes back without its memory, and both shards take it in.
    cluster.restart(NodeIndex(1));
    assert!(cluster.run_until(SECOND * 30, Cluster::is_whole));
}

/// `spread` gives each shard a leader of its own, and does so again after leaders have moved.
#[test]
fn leaders_are_spread_over_the_nodes() {
    let mut cluster = cluster(5, 3);
    for _ in 0..2 {
        let servers = cluster.addresses();
        let failed = run(&mut cluster, move |client, _| async move {
            admin::spread(&client, &servers, SECOND * 10).await.expect("asked").len()
        });
        assert_eq!(failed, 0);
        let leaders: Vec<_> = (0..3).map(|shard| cluster.leader_of(shard)).collect();
        assert_eq!(leaders, [Some(NodeIndex(0)), Some(NodeIndex(1)), Some(NodeIndex(2))]);
        cluster.kill(NodeIndex(0));
        cluster.restart(NodeIndex(0));
        assert!(cluster.run_until(SECOND * 30, Cluster::is_whole));
    }
}
