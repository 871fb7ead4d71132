//! Whether the replicas of a simulated cluster hold the same state when everything has come to rest.

use super::cluster::{Cluster, NodeIndex};
use super::handle::{Inner, Sim};
use super::net::Net;
use crate::admin;
use crate::apply::StateDigest;
use crate::service::Service;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long the replicas of a healed cluster may take to apply the same entries. Fifty of the longest election timeouts.
const REST_WITHIN: Duration = Duration::from_secs(10);
/// How long one replica may take to hash its state.
const DIGEST_WITHIN: Duration = Duration::from_secs(5);
/// Times that states are asked for anew because log timers have moved some of them on.
const ROUNDS: usize = 20;

impl<S: Service> Sim<S> {
    /// Ends every fault and lets the network be quiet, waits until every voter that is up has applied the same entries, and
    /// compares what they came to: the chain over every request and reply, and the state as saved, timers, outbox and sessions
    /// included. The network is then as it was.
    ///
    /// # Panics
    /// Where they differ, with the nodes' numbers; where they do not come to rest within 10 s of virtual time; and where a state
    /// cannot be saved.
    #[track_caller]
    pub fn assert_replicas_agree(&self) {
        self.inner().formed();
        self.inner().end_faults(&Net::lan());
        let mut digests = Vec::new();
        for _ in 0..ROUNDS {
            if !self.drive(REST_WITHIN, |inner| voters_at_rest(inner.formed()).is_some()) {
                let views = self.with_cluster(|cluster| views(cluster));
                panic!("the replicas did not come to rest within {REST_WITHIN:?} of the last fault:{views}");
            }
            let voters = self.with_cluster(|cluster| voters_at_rest(cluster)).unwrap_or_default();
            digests = self.digests(&voters);
            if digests.iter().all(|(_, digest)| digest.applied == digests[0].1.applied) {
                break;
            }
        }
        if let Err(difference) = compare(&digests) {
            panic!("{difference}");
        }
        let mut inner = self.inner();
        let net = inner.net();
        inner.end_faults(&net);
    }

    /// What each of these nodes says of its own state.
    #[track_caller]
    fn digests(&self, nodes: &[NodeIndex]) -> Vec<(NodeIndex, StateDigest)> {
        let found: Rc<RefCell<Vec<Result<StateDigest, String>>>> = Rc::default();
        let told = found.clone();
        self.with_cluster(|cluster| {
            let servers = cluster.addresses();
            let asked: Vec<_> = nodes.iter().map(|node| servers[node.0]).collect();
            cluster.client(servers, move |client| async move {
                for node in asked {
                    let status = admin::status(&client, node, DIGEST_WITHIN).await;
                    let digest = match status.map(|status| status.digest) {
                        Ok(Some(digest)) => Ok(digest),
                        Ok(None) => Err("its state cannot be saved: `State::save` panics".to_owned()),
                        Err(error) => Err(error.to_string()),
                    };
                    told.borrow_mut().push(digest);
                }
            });
        });
        self.drive(DIGEST_WITHIN * 10, |_: &mut Inner<S>| found.borrow().len() == nodes.len());
        let found = found.take();
        let digests = nodes.iter().zip(found).map(|(&node, digest)| match digest {
            Ok(digest) => (node, digest),
            Err(error) => panic!("node {node} does not tell its state: {error}"),
        });
        digests.collect()
    }
}

/// The voters that are up, where there is a leader and all of them have applied all it has. `None` before.
fn voters_at_rest<S: Service>(cluster: &Cluster<S>) -> Option<Vec<NodeIndex>> {
    let leader = cluster.node(cluster.leader()?)?.shard().status();
    let mut voters = Vec::new();
    for index in (0..cluster.nodes()).map(NodeIndex) {
        let Some(node) = cluster.node(index) else { continue };
        let (id, applied) = node.shard().with_machine(|machine| (machine.me().id, machine.applied_index()));
        if leader.configuration.is_voter(id) {
            voters.push(index);
            if applied != leader.last {
                return None;
            }
        }
    }
    Some(voters)
}

/// Replicas that have applied the same entries came the same way and hold the same state.
fn compare(digests: &[(NodeIndex, StateDigest)]) -> Result<(), String> {
    let Some((_, first)) = digests.first() else { return Err("no replica is a voter".to_owned()) };
    if digests.iter().any(|(_, digest)| digest.applied != first.applied) {
        return Err(format!("the replicas never stood at the same entry: {digests:?}"));
    }
    let mut camps: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for (node, digest) in digests {
        camps.entry((digest.chain, digest.state)).or_default().push(node.to_string());
    }
    if camps.len() == 1 {
        return Ok(());
    }
    let is_way = camps.keys().any(|(chain, _)| *chain != first.chain);
    let what =
        if is_way { "gave other replies to the same requests" } else { "gave the same replies, but save other states" };
    let camps: Vec<_> = camps
        .iter()
        .map(|((chain, state), nodes)| {
            format!("\n  nodes {}: state {state:016x}, chain {chain:016x}", nodes.join(", "))
        })
        .collect();
    Err(format!(
        "the replicas do not agree after entry {}: they {what}. Handlers and `State::save` must be deterministic: no clock, \
         no addresses, no hashed collections, nothing outside of the state{}",
        first.applied,
        camps.concat()
    ))
}

/// How each node sees things, for a report.
fn views<S: Service>(cluster: &Cluster<S>) -> String {
    let view = |index: NodeIndex| match cluster.node(index) {
        None => format!("\n  node {index} is down"),
        Some(node) => {
            let status = node.shard().status();
            format!(
                "\n  node {index}: {:?} in term {}, log {}..{}, commit {}, applied {}, hears {} of {} voters",
                status.role,
                status.term,
                status.first,
                status.last,
                status.commit,
                status.applied,
                status.reachable,
                status.total
            )
        }
    };
    (0..cluster.nodes()).map(|index| view(NodeIndex(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(node: usize, applied: u64, state: u64, chain: u64) -> (NodeIndex, StateDigest) {
        (NodeIndex(node), StateDigest { applied, state, chain })
    }

    #[test]
    fn a_difference_names_the_nodes_and_says_of_which_kind_it_is() {
        assert_eq!(compare(&[digest(0, 7, 1, 3), digest(2, 7, 1, 3)]), Ok(()));
        let states = compare(&[digest(0, 7, 1, 3), digest(1, 7, 2, 3), digest(2, 7, 1, 3)]).unwrap_err();
        assert!(states.contains("save other states") && states.contains("nodes 0, 2: "), "{states}");
        let ways = compare(&[digest(0, 7, 1, 3), digest(1, 7, 1, 4)]).unwrap_err();
        assert!(ways.contains("other replies"), "{ways}");
        assert!(compare(&[digest(0, 7, 1, 3), digest(1, 8, 1, 3)]).is_err() && compare(&[]).is_err());
    }
}
