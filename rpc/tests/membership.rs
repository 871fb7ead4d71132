//! Operators change who takes part while clients call: nothing fails, nothing is lost, and clients find the new members.

mod cluster_support;

use cluster_support::{Counter, SECOND, agreed, ask, cluster};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::admin::{self, Change, ChangeError, Members};
use trimaran_rpc::client::{Client, MethodCall};
use trimaran_rpc::r2p2::Policy;
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig, NodeIndex};
use trimaran_runtime::sleep;

fn of(nodes: usize, voters: usize, seed: u64) -> Cluster<Counter> {
    cluster(seed, ClusterConfig { nodes, voters: Some(voters), ..ClusterConfig::default() }, Counter::default)
}

/// What an operator does, with the addresses of all nodes at hand.
fn operate(cluster: &mut Cluster<Counter>, change: Change) -> Result<Members, String> {
    let servers = cluster.addresses();
    ask(cluster, move |client| async move {
        admin::change(&client, &servers, change, SECOND * 5).await.map_err(|error| error.to_string())
    })
}

fn seats(members: &Members) -> (Vec<u8>, Vec<u8>) {
    let slots = |list: &[admin::MemberInfo]| list.iter().map(|member| member.slot).collect();
    (slots(&members.voters), slots(&members.learners))
}

/// Writes and reads in turn until it is told to stop; each must succeed, and each write must count once.
#[derive(Default)]
struct Calls {
    writes: u64,
    /// The slowest of them.
    longest: Duration,
    stop: bool,
    stopped: bool,
}

async fn work(client: Client, calls: Rc<RefCell<Calls>>) {
    let call = |policy| MethodCall { method: 1, policy, shard: 0, body: b"", server: None };
    while !calls.borrow().stop {
        let before = calls.borrow().writes;
        let asked = trimaran_runtime::now();
        let written = client.call(call(Policy::ReplicatedRoute), SECOND * 2).await.expect("a write");
        let took = trimaran_runtime::now().saturating_since(asked);
        let longest = calls.borrow().longest.max(took);
        calls.borrow_mut().longest = longest;
        assert_eq!(written.body, (before + 1).to_le_bytes(), "each counts once");
        calls.borrow_mut().writes += 1;
        let read = client.call(call(Policy::ReplicatedRouteNoSideEffects), SECOND * 2).await.expect("a read");
        assert_eq!(read.body, (before + 1).to_le_bytes());
        sleep(Duration::from_millis(1)).await;
    }
    calls.borrow_mut().stopped = true;
}

#[test]
fn a_cluster_grows_and_moves_to_other_machines_while_it_is_used() {
    for seed in 0..5 {
        let mut cluster = of(6, 3, seed);
        let calls = Rc::new(RefCell::new(Calls::default()));
        let (told, servers) = (calls.clone(), cluster.addresses()[..3].to_vec());
        // Knows the first three only.
        cluster.client(servers, move |client| work(client, told));
        for slot in [4, 5, 6] {
            let members = operate(&mut cluster, Change::Add { slot, learner: false }).expect("taken in");
            assert!(seats(&members).0.contains(&slot), "seed {seed}: {members:?}");
        }
        for slot in [1, 2, 3] {
            let members = operate(&mut cluster, Change::Remove { slot }).expect("taken out");
            assert!(!seats(&members).0.contains(&slot), "seed {seed}: {members:?}");
        }
        let longest = calls.borrow().longest;
        assert!(longest < Duration::from_millis(50), "seed {seed}: {longest:?}: as long as an election");
        for node in 0..3 {
            cluster.kill(NodeIndex(node));
        }
        let before = calls.borrow().writes;
        cluster.run_for(SECOND);
        assert!(calls.borrow().writes > before + 10, "seed {seed}: the client does not find the new members");
        calls.borrow_mut().stop = true;
        assert!(cluster.run_until(SECOND * 5, |_| calls.borrow().stopped), "seed {seed}");
        let leader = cluster.leader().expect("a leader");
        assert!(leader.0 >= 3);
        if let Some(violation) = cluster.violation() {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn leadership_is_handed_to_whom_the_operator_names() {
    let mut cluster = of(3, 3, 7);
    let calls = Rc::new(RefCell::new(Calls::default()));
    let (told, servers) = (calls.clone(), cluster.addresses());
    cluster.client(servers, move |client| work(client, told));
    for to in [1u8, 2, 3, 1] {
        if cluster.leader() == Some(NodeIndex(usize::from(to) - 1)) {
            continue;
        }
        let members = operate(&mut cluster, Change::Transfer { to: Some(to) }).expect("handed over");
        assert_eq!(members.leader, to);
    }
    assert!(calls.borrow().longest < Duration::from_millis(50), "{:?}: as long as an election", calls.borrow().longest);
    let before = cluster.leader();
    operate(&mut cluster, Change::Transfer { to: None }).expect("handed over");
    cluster.run_for(SECOND);
    assert_ne!(cluster.leader(), before);
    calls.borrow_mut().stop = true;
    assert!(cluster.run_until(SECOND * 5, |_| calls.borrow().stopped));
    agreed(&mut cluster);
}

/// One node after the other is stopped as a signal would stop it, and started again with an empty memory.
#[test]
fn every_node_is_replaced_in_turn_and_nobody_waits_for_an_election() {
    for seed in 20..25 {
        let mut cluster = of(3, 3, seed);
        let calls = Rc::new(RefCell::new(Calls::default()));
        let (told, servers) = (calls.clone(), cluster.addresses());
        cluster.client(servers, move |client| work(client, told));
        cluster.run_for(SECOND / 10);
        for node in [0, 1, 2, 0, 1, 2].map(NodeIndex) {
            let ended = Rc::new(Cell::new(false));
            let (told, core) = (ended.clone(), cluster.core(node));
            let leaving = cluster.node(node).expect("it runs").hand_over(SECOND / 2);
            cluster.world().enter(core, || {
                let task = trimaran_runtime::spawn(async move {
                    leaving.await;
                    told.set(true);
                });
                task.detach();
            });
            assert!(cluster.run_until(SECOND, |_| ended.get()), "seed {seed}");
            cluster.kill(node);
            cluster.restart(node);
            let incarnations =
                |members: &Members| members.voters.iter().map(|v| v.incarnation.clone()).collect::<Vec<_>>();
            let is_back = |cluster: &mut Cluster<Counter>| {
                let servers = cluster.addresses();
                ask(cluster, move |client| async move {
                    let all = admin::members_of(&client, &servers, SECOND).await.expect("members");
                    let me = admin::probe(&client, servers[node.0], SECOND).await.expect("it answers");
                    incarnations(&all).contains(&me.node.incarnation) && me.members.contains(&me.node)
                })
            };
            assert!(
                (0..100).any(|_| {
                    cluster.run_for(SECOND / 20);
                    is_back(&mut cluster)
                }),
                "seed {seed}: never healed"
            );
        }
        let longest = calls.borrow().longest;
        assert!(longest < Duration::from_millis(50), "seed {seed}: {longest:?}: as long as an election");
        calls.borrow_mut().stop = true;
        assert!(cluster.run_until(SECOND * 5, |_| calls.borrow().stopped), "seed {seed}");
        agreed(&mut cluster);
    }
}

/// As an operator's script does it: the next command follows at once.
#[test]
fn a_change_while_nobody_leads_yet_waits_for_the_election() {
    for seed in 30..35 {
        let mut cluster = Cluster::new(seed, ClusterConfig { nodes: 4, ..ClusterConfig::default() }, Counter::default);
        assert_eq!(cluster.leader(), None, "seed {seed}");
        let members = operate(&mut cluster, Change::Remove { slot: 4 }).expect("taken out");
        assert_eq!(seats(&members), (vec![1, 2, 3], vec![]), "seed {seed}");
        // And after a leader's death.
        let leader = cluster.leader().expect("a leader");
        cluster.kill(leader);
        cluster.run_for(Duration::from_millis(20));
        let to = (0..3).find(|node| *node != leader.0).expect("another") as u8 + 1;
        let members = operate(&mut cluster, Change::Transfer { to: Some(to) });
        assert_eq!(members.map(|members| members.leader), Ok(to), "seed {seed}");
    }
}

#[test]
fn a_learner_has_the_data_and_no_vote_until_it_is_promoted() {
    let mut cluster = of(4, 3, 8);
    let members = operate(&mut cluster, Change::Add { slot: 4, learner: true }).expect("taken in");
    assert_eq!(seats(&members), (vec![1, 2, 3], vec![4]));
    // Without two of three voters nothing goes on, learner or not.
    let leader = cluster.leader().expect("a leader");
    let others: Vec<NodeIndex> = (0..3).map(NodeIndex).filter(|node| *node != leader).collect();
    let members = operate(&mut cluster, Change::Promote { slot: 4 }).expect("promoted");
    assert_eq!(seats(&members), (vec![1, 2, 3, 4], vec![]));
    // Now three of four are left where one is dead.
    cluster.kill(others[0]);
    let done = ask(&mut cluster, |client| async move {
        let call = MethodCall { method: 1, policy: Policy::ReplicatedRoute, shard: 0, body: b"", server: None };
        client.call(call, SECOND).await.is_ok()
    });
    assert!(done);
}

#[test]
fn what_cannot_be_is_refused_and_said() {
    let mut cluster = of(4, 3, 9);
    let refused = |cluster: &mut Cluster<Counter>, change| operate(cluster, change).expect_err("refused");
    assert!(refused(&mut cluster, Change::Add { slot: 5, learner: false }).contains("no node of slot 5 asks"));
    assert!(refused(&mut cluster, Change::Add { slot: 2, learner: false }).contains("slot 2 is taken: a voter"));
    assert!(refused(&mut cluster, Change::Promote { slot: 2 }).contains("no learner"));
    assert!(refused(&mut cluster, Change::Remove { slot: 9 }).contains("no member"));
    assert!(!refused(&mut cluster, Change::Transfer { to: Some(4) }).is_empty());
    refused(&mut cluster, Change::Cancel);
    let servers = cluster.addresses();
    let members = ask(&mut cluster, move |client| async move { admin::members_of(&client, &servers, SECOND).await });
    let members = members.expect("members");
    assert_eq!(seats(&members), (vec![1, 2, 3], vec![]));
    assert_eq!(members.asking.iter().map(|node| node.slot).collect::<Vec<_>>(), [4]);
    assert_eq!(members.leader, members.seen_by, "the leader was asked");
    assert_eq!(members.peers.len(), 2);

    // Without a majority there is no leader, and so nobody to change anything.
    cluster.kill(NodeIndex(0));
    cluster.kill(NodeIndex(1));
    cluster.run_for(SECOND);
    let servers = cluster.addresses();
    let error = ask(&mut cluster, move |client| async move {
        admin::change(&client, &servers, Change::Remove { slot: 1 }, SECOND).await.expect_err("no majority")
    });
    assert!(matches!(error, ChangeError::NoLeader), "{error:?}");
}
