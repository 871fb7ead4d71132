//! Forming a cluster: every member is asked who it is, then told with whom it is one, shard by shard.

use super::{Admin, MemberInfo, Probe, ask, is_one, is_zero, one, probe};
use crate::client::{CallError, Client};
use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_net::shard_address;
use trimaran_raft::{ClusterId, LogIndex, Member};
use trimaran_runtime::{now, sleep};

/// Log time at which every cluster begins: equal for all members, whoever tells them and when.
const FIRST_LOG_TIME_NS: u64 = 0;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InitRequest {
    name: String,
    cluster: String,
    members: Vec<MemberInfo>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    shards: u16,
    #[serde(default, skip_serializing_if = "is_zero")]
    shard: u16,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InitReply {
    pub(super) error: Option<String>,
}

impl Admin {
    pub(super) fn init(&self, init: &InitRequest) -> Result<(), String> {
        if init.name != self.name {
            return Err(format!("this node's configuration names the cluster {:?}, not {:?}", self.name, init.name));
        }
        let place = self.node.place;
        if (init.shard, init.shards) != (place.shard(), place.map().shards()) {
            return Err(format!("is {place}, not shard {} of {}", init.shard, init.shards));
        }
        let cluster = u128::from_str_radix(&init.cluster, 16).map_err(|_| "malformed cluster id".to_owned())?;
        let members: Option<Vec<Member>> = init.members.iter().map(MemberInfo::member).collect();
        let members = members.ok_or("malformed incarnation")?;
        self.node.shard.bootstrap(ClusterId(cluster), &members, FIRST_LOG_TIME_NS).map_err(|error| error.to_string())
    }

    /// Waits until the cluster's first entry lasts: a node that ended before would wait for another `init`.
    pub(super) async fn formed(&self) -> Result<(), String> {
        let deadline = now() + FORMED_WITHIN;
        while self.node.shard.with_machine(|machine| machine.durable()) == LogIndex::ZERO {
            if now() >= deadline {
                return Err("its disk does not take the first entry; `status` says whether it has by now".to_owned());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// How long a node's disk may take to hold that it belongs to a cluster.
const FORMED_WITHIN: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Why a cluster could not be formed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A listed member does not answer.
    #[error("{address} does not answer: {error}")]
    Unreachable {
        /// Its client address.
        address: SocketAddrV4,
        /// What the call ended with.
        error: CallError,
    },
    /// A listed member already belongs to a cluster, and not all the others wait for that one.
    #[error("{address} already belongs to cluster {cluster}")]
    AlreadyMember {
        /// Its client address.
        address: SocketAddrV4,
        /// That cluster's id.
        cluster: String,
    },
    /// A listed member says something else than its place in the list.
    #[error("{address} {why}")]
    Refused {
        /// Its client address.
        address: SocketAddrV4,
        /// What it says.
        why: String,
    },
}

/// Forms a cluster of the nodes at `addresses`, which must all answer and belong to none, and returns its id: `fresh`,
/// or the id of an earlier attempt that reached only some of them, which this one completes. With several shards each node must
/// have as many; the addresses are those of their shards 0, and every shard becomes a group of its own under the one id.
pub async fn init(
    client: &Client,
    name: &str,
    addresses: &[SocketAddrV4],
    fresh: ClusterId,
    within: Duration,
) -> Result<ClusterId, InitError> {
    init_shards(client, name, addresses, fresh, within).await.map(|(cluster, _)| cluster)
}

/// As [`init`]; tells the number of shards, too.
pub async fn init_shards(
    client: &Client,
    name: &str,
    addresses: &[SocketAddrV4],
    fresh: ClusterId,
    within: Duration,
) -> Result<(ClusterId, u16), InitError> {
    let mut probes = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let probe = probe(client, address, within).await.map_err(|error| InitError::Unreachable { address, error })?;
        if probe.name != name {
            let why = format!("names its cluster {:?}, not {name:?}", probe.name);
            return Err(InitError::Refused { address, why });
        }
        if let Some((first, other)) =
            probes.first().filter(|(_, other): &&(_, Probe)| other.durability != probe.durability)
        {
            let why = format!("is {}, but {first} is {}: one durability for all", probe.durability, other.durability);
            return Err(InitError::Refused { address, why });
        }
        if let Some((first, other)) = probes.first().filter(|(_, other)| other.shards != probe.shards) {
            let why = format!("has {} shards, but {first} has {}: all must have as many", probe.shards, other.shards);
            return Err(InitError::Refused { address, why });
        }
        probes.push((address, probe));
    }
    let shards = probes.first().map_or(1, |(_, probe)| probe.shards);
    let mut groups = vec![probes];
    for shard in 1..shards {
        let mut probes = Vec::with_capacity(addresses.len());
        for &base in addresses {
            let nowhere = || InitError::Refused { address: base, why: format!("leaves no UDP port for shard {shard}") };
            let address = shard_address(base, shard).ok_or_else(nowhere)?;
            let probe = probe(client, address, within).await;
            probes.push((address, probe.map_err(|error| InitError::Unreachable { address, error })?));
        }
        groups.push(probes);
    }
    let all = || groups.iter().flatten();
    let mut cluster = fresh.to_string();
    if let Some((address, member)) = all().find(|(_, probe)| probe.cluster.is_some()) {
        let known = member.cluster.clone().unwrap_or_default();
        let completes = all().any(|(_, probe)| probe.cluster.is_none())
            && all().all(|(_, probe)| probe.cluster.as_ref().is_none_or(|id| *id == known))
            && groups.iter().all(|group| is_begun_by(group));
        if !completes {
            return Err(InitError::AlreadyMember { address: *address, cluster: known });
        }
        cluster = known;
    }
    for (shard, group) in groups.iter().enumerate() {
        let members: Vec<MemberInfo> = group.iter().map(|(_, probe)| probe.node.clone()).collect();
        let (name, cluster, shard) = (name.to_owned(), cluster.clone(), shard as u16);
        let request = InitRequest { name, cluster, members, shards, shard };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        for (address, probe) in group {
            if probe.cluster.is_some() {
                continue;
            }
            let reply: InitReply = ask(client, *address, "trimaran.init/1", &body, within)
                .await
                .map_err(|error| InitError::Unreachable { address: *address, error })?;
            if let Some(why) = reply.error {
                return Err(InitError::Refused { address: *address, why });
            }
        }
    }
    Ok((ClusterId(u128::from_str_radix(&cluster, 16).unwrap_or(fresh.0)), shards))
}

/// Whether those of a group that belong to a cluster already know exactly these nodes as its members.
fn is_begun_by(group: &[(SocketAddrV4, Probe)]) -> bool {
    let members: Vec<MemberInfo> = group.iter().map(|(_, probe)| probe.node.clone()).collect();
    group.iter().filter(|(_, probe)| probe.cluster.is_some()).all(|(_, probe)| same_members(&probe.members, &members))
}

fn same_members(left: &[MemberInfo], right: &[MemberInfo]) -> bool {
    left.len() == right.len() && left.iter().all(|member| right.contains(member))
}
