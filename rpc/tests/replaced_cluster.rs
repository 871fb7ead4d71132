//! A cluster that has lost its memory and was formed anew: its old clients must not mistake it for the one that they knew.

mod cluster_support;
mod r2p2_support;

use cluster_support::Counter;
use r2p2_support::{Lab, Machine};
use std::time::Duration;
use trimaran_net::{NetConfig, NetDriver};
use trimaran_raft::{ClusterId, Incarnation, Limits, Slot, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::client::{
    AnyRequest, CallError, CallId, Caller, Client, ClientConfig, Consistency, OwnedCall, Reply,
};
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::session::SessionId;
use trimaran_runtime::{Lane, sleep};

const SECOND: Duration = Duration::from_secs(1);
const METHOD: u32 = 7;

fn config(machine: &Machine, life: u64) -> NodeConfig {
    let (client, peer) = (machine.addr(8000), machine.addr(8100));
    NodeConfig {
        cluster_name: "one".into(),
        slot: Slot(1),
        place: trimaran_rpc::shards::ShardPlace::ALONE,
        incarnation: Incarnation(life),
        client,
        peer,
        contacts: vec![peer],
        timing: Timing::SHARED,
        log_limits: Limits::default(),
        request_limits: Default::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: Default::default(),
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: life,
        sabotage: Default::default(),
    }
}

/// Starts the node with no memory, and forms a cluster of it.
fn form(lab: &mut Lab, machine: &Machine, operator: &Machine, life: u64) -> Node {
    let start = || Node::start(&machine.net, config(machine, life), Counter::default()).expect("a node");
    let node = lab.world.enter(machine.core, start);
    let (net, local, server) = (operator.net.clone(), operator.addr(0), machine.addr(8000));
    lab.finish(operator, async move {
        let asking = Client::new(&net, local, vec![server], ClientConfig::default()).expect("a client");
        admin::init(&asking, "one", &[server], ClusterId(u128::from(life) * 1000), SECOND).await.expect("a cluster");
        sleep(SECOND).await;
    });
    node
}

fn call(lab: &mut Lab, user: &Machine, client: &Client, call: OwnedCall) -> Result<Reply, CallError> {
    let client = client.clone();
    lab.finish(user, async move { client.submit(call).await })
}

fn any(policy: Policy) -> OwnedCall {
    OwnedCall::new(AnyRequest { method: METHOD, policy, body: Vec::new(), shard_key: None })
}

#[test]
fn nothing_of_a_replaced_cluster_is_taken_for_the_old_one() {
    let mut lab = Lab::new(1);
    let (mut machine, user, operator) = (lab.machine(1), lab.machine(2), lab.machine(3));
    let node = form(&mut lab, &machine, &operator, 1);
    let servers = vec![machine.addr(8000)];
    let open = |lab: &mut Lab, nonce| {
        let config = ClientConfig { nonce: Some(nonce), ..ClientConfig::default() };
        lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), servers.clone(), config).expect("a client"))
    };
    // One writes, some only read or look: each its own way to find out.
    let clients: Vec<_> = (1..=7u128).map(|number| open(&mut lab, number << 64)).collect();
    let write = any(Policy::ReplicatedRoute);
    let read = any(Policy::ReplicatedRouteNoSideEffects);
    let stale = OwnedCall { consistency: Consistency::Any, ..read.clone() };
    let local = any(Policy::LbRoute);
    // Of the new cluster's log this index means something else.
    let own = OwnedCall { consistency: Consistency::AtLeast(trimaran_raft::LogIndex(1)), ..read.clone() };
    let young = OwnedCall { consistency: Consistency::Stale { max: SECOND }, ..read.clone() };
    let old = CallId { session: SessionId::new(ClusterId(1000), trimaran_raft::LogIndex(3)).0, seq: 1 };
    for (client, first) in clients.iter().zip([&write, &read, &stale, &local, &write, &write, &read]) {
        call(&mut lab, &user, client, first.clone()).expect("answered");
    }
    lab.world.run_for(SECOND);

    drop(node);
    lab.world.kill(machine.core);
    let (driver, net) = NetDriver::new(lab.wire.port(machine.ip), NetConfig::default());
    lab.world.revive(machine.core, driver);
    machine.net = net;
    let _node = form(&mut lab, &machine, &operator, 2);

    let replaced = Err(CallError::ClusterReplaced);
    let unused = &clients[4];
    for (client, then) in clients
        .iter()
        .filter(|client| !std::ptr::eq(*client, unused))
        .zip([&write, &read, &stale, &local, &own, &young])
    {
        assert_eq!(call(&mut lab, &user, client, then.clone()), replaced, "{then:?}");
    }
    for then in [&write, &read, &stale, &own, &young] {
        assert_eq!(call(&mut lab, &user, &clients[0], then.clone()), replaced, "for good");
    }
    // An old name is nobody's there.
    let again = OwnedCall { call_id: Some(old), ..write.clone() };
    assert!(matches!(call(&mut lab, &user, unused, again), Err(CallError::Unknown { .. })));

    let fresh = open(&mut lab, 1 << 100);
    let count = call(&mut lab, &user, &fresh, read).expect("a count");
    assert_eq!(count.body, 0u64.to_le_bytes(), "none of the writes was executed");
    // An operator's question goes to a node, not to a cluster.
    let status = lab.finish(&user, {
        let (client, node) = (clients[0].clone(), servers[0]);
        async move { admin::status(&client, node, SECOND).await }
    });
    assert_eq!(status.expect("a status").role, "leader");
}

/// States that are on other cores when the cluster is formed: each opens sessions under that cluster, and all come to the same.
#[test]
fn a_state_that_was_lent_before_init_learns_its_cluster() {
    let mut lab = Lab::new(2);
    let (machines, user): (Vec<_>, _) = ([1, 2, 3].map(|number| lab.machine(number)).into(), lab.machine(9));
    let contacts: Vec<_> = machines.iter().map(|machine| machine.addr(8100)).collect();
    let nodes: Vec<Node> = (1..=3u8)
        .map(|slot| {
            let (machine, handlers) = (&machines[usize::from(slot) - 1], lab.machine(10 + slot));
            let contacts = contacts.clone();
            let config = NodeConfig { slot: Slot(slot), contacts, ..config(machine, u64::from(slot)) };
            let start = || Node::start_with_applier(&machine.net, config, Counter::default(), None).expect("a node");
            let (node, applier) = lab.world.enter(machine.core, start);
            lab.world.spawn(handlers.core, Lane::Normal, applier.run()).detach();
            node
        })
        .collect();
    let servers: Vec<_> = machines.iter().map(|machine| machine.addr(8000)).collect();
    let (net, local) = (user.net.clone(), user.addr(0));
    let open = || Client::new(&net, local, servers.clone(), ClientConfig::default()).expect("a client");
    let client = lab.world.enter(user.core, open);
    let (asking, asked) = (client.clone(), servers.clone());
    lab.finish(&user, async move {
        for server in asked {
            asking.call_raw(server, Policy::LbRoute, b"how much", SECOND).await.expect("an answer");
        }
    });
    let (asking, asked) = (client.clone(), servers.clone());
    let formed = lab.finish(&user, async move { admin::init(&asking, "one", &asked, ClusterId(77), SECOND).await });
    assert!(formed.is_ok(), "{formed:?}");
    let written = call(&mut lab, &user, &client, any(Policy::ReplicatedRoute));
    assert!(written.is_ok(), "{written:?}");
    lab.world.run_for(SECOND);
    let (asking, asked) = (client.clone(), servers.clone());
    let digests = lab.finish(&user, async move {
        let seen = asked.iter().map(|server| admin::status(&asking, *server, SECOND));
        let seen = futures::future::join_all(seen).await;
        seen.into_iter().map(|status| status.expect("a status").digest).collect::<Vec<_>>()
    });
    assert!(digests[0].is_some() && digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert!(nodes.iter().all(|node| node.shard().fenced().is_none()));
}
