//! Who takes part in a cluster, and changing it: what `member list`, `add`, `promote`, `remove` and `transfer` ask.
//!
//! Any node tells the members that it knows. A change is for the leader, which begins it and answers at once; whoever asked
//! looks at the members until it is done. Nodes that are to be taken in ask for it themselves, so that a change names seats
//! only, never addresses.

use super::{Admin, MemberInfo, PeerInfo, Probe, ask, probe, question};
use crate::client::{CallError, Client};
use crate::pins::Pins;
use crate::shards::ShardMap;
use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_net::shard_address;
use trimaran_raft::{Configuration, Member, Slot, Status, TransferError, Unfit};
use trimaran_runtime::{Instant, now, sleep};

pub(crate) const MEMBERS: &str = "trimaran.members/1";
pub(super) const CHANGE: &str = "trimaran.change/1";
/// Between two looks at a change that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For one node to say who it is.
const PROBE_WITHIN: Duration = Duration::from_millis(300);
/// A last look is not cut shorter than this.
const LOOK_WITHIN: Duration = Duration::from_millis(100);
/// How long a change waits for a leader to begin it: several elections of the slowest profile.
const ELECTION_WITHIN: Duration = Duration::from_secs(3);

/// A change of the members, for the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Takes the node in that asks for this seat: first to learn the log, then, unless it is to learn only, as a voter.
    Add {
        /// The seat, 1 to 9, which must be empty.
        slot: u8,
        /// Whether it stays a learner, which has all data and no vote.
        learner: bool,
    },
    /// Makes a learner a voter once it has caught up.
    Promote {
        /// Its seat.
        slot: u8,
    },
    /// Takes a voter or learner out, dead or alive. A leader that is taken out hands over first.
    Remove {
        /// Its seat.
        slot: u8,
    },
    /// Hands leadership over.
    Transfer {
        /// To the voter in this seat; `None`: to the one that has most of the log.
        to: Option<u8>,
    },
    /// Takes back a change that is under way, where that is still possible.
    Cancel,
}

/// The members of a cluster, in the eyes of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// That node's seat.
    pub seen_by: u8,
    /// The id of its cluster, hexadecimal; `None` before `init`.
    pub cluster: Option<String>,
    /// The term that it is in.
    pub term: u64,
    /// The leader's seat, 0 for none known.
    pub leader: u8,
    /// Voters; those to come, while there are `leaving` ones.
    pub voters: Vec<MemberInfo>,
    /// The voters of before, which also decide until the change is done.
    pub leaving: Vec<MemberInfo>,
    /// Members without a vote.
    pub learners: Vec<MemberInfo>,
    /// Nodes that ask to be taken in; known to a leader.
    pub asking: Vec<MemberInfo>,
    /// Whether a change is under way.
    pub changing: bool,
    /// The seats of voters to come that the change waits for; known to a leader.
    #[serde(default)]
    pub waits_for: Vec<u8>,
    /// To whose seat leadership is being handed over.
    pub transferring_to: Option<u8>,
    /// The newest entry of the log.
    pub last: u64,
    /// How the others stand; known to a leader.
    pub peers: Vec<PeerInfo>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChangeReply {
    error: Option<String>,
    /// Set where another node leads.
    leader: Option<SocketAddrV4>,
}

/// Why the members were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// None of the servers answers, or none knows a leader.
    #[error("no leader was found")]
    NoLeader,
    /// The leader refuses.
    #[error("{0}")]
    Refused(String),
    /// It was begun, and is not done yet. It goes on; look at the members.
    #[error("the change has begun and is not done yet")]
    Pending(Box<Members>),
    /// The leader's answer did not come: the change may have begun.
    #[error(transparent)]
    Call(CallError),
}

impl Members {
    fn of(status: &Status) -> Members {
        let list = |members: &[Member]| members.iter().map(MemberInfo::of).collect();
        let configuration = &status.configuration;
        Members {
            seen_by: status.id.slot.0,
            cluster: status.cluster.map(|cluster| cluster.to_string()),
            term: status.term.0,
            leader: status.leader.map_or(0, |leader| leader.id.slot.0),
            voters: list(&configuration.voters),
            leaving: list(&configuration.old_voters),
            learners: list(&configuration.learners),
            asking: list(&status.joiners),
            changing: status.changing,
            waits_for: status.change_waits_for.iter().map(|member| member.id.slot.0).collect(),
            transferring_to: status.transferring.map(|to| to.slot.0),
            last: status.last.0,
            peers: status.peers.iter().map(PeerInfo::of).collect(),
        }
    }

    /// Everybody in a list of members, a voter of both halves once.
    pub fn all(&self) -> impl Iterator<Item = &MemberInfo> {
        let leaving = self.leaving.iter().filter(|member| !self.voters.contains(member));
        self.voters.iter().chain(leaving).chain(&self.learners)
    }

    /// Where the leader serves clients, if one is known.
    pub fn leader_address(&self) -> Option<SocketAddrV4> {
        self.all().find(|member| member.slot == self.leader).map(|member| member.client)
    }

    /// Whether it has come to what was asked for.
    fn shows(&self, change: Change, before: &Members) -> bool {
        let sits = |list: &[MemberInfo], slot| list.iter().any(|member| member.slot == slot);
        let settled = !self.changing && self.leaving.is_empty();
        match change {
            Change::Add { slot, learner: true } => settled && sits(&self.learners, slot),
            Change::Add { slot, .. } | Change::Promote { slot } => settled && sits(&self.voters, slot),
            Change::Remove { slot } => settled && !self.all().any(|member| member.slot == slot),
            Change::Transfer { to } => {
                let moved = self.leader != 0 && self.leader != before.leader;
                self.transferring_to.is_none() && to.map_or(moved, |to| to == self.leader)
            }
            Change::Cancel => settled,
        }
    }
}

impl Admin {
    pub(super) fn members(&self) -> Members {
        Members::of(&self.node.shard.status())
    }

    pub(super) fn change(&self, change: Change) -> ChangeReply {
        let shard = &self.node.shard;
        if !shard.is_leader() {
            let leader = shard.leader().map(|leader| leader.client);
            return ChangeReply { error: Some("another node leads".into()), leader };
        }
        let status = shard.status();
        let done = match change {
            // What is asked for is so already: whoever asks twice, or whose answer was lost, is told the same again.
            Change::Transfer { to } => match shard.transfer(to.map(Slot)) {
                Err(TransferError::CannotLead { reason: Unfit::Leads, .. }) => Ok(()),
                done => done.map_err(|error| error.to_string()),
            },
            Change::Cancel => shard.cancel_change().map_err(|error| error.to_string()),
            // The other members pin whom the log brings when they next hear of another leader.
            change => target(&status, change).and_then(|target| {
                shard.change_members(&target).map_err(|error| error.to_string())?;
                Pins::new(self.net.clone()).pin_members(&target);
                Ok(())
            }),
        };
        ChangeReply { error: done.err(), leader: None }
    }
}

/// The configuration that a change of it leads to.
fn target(status: &Status, change: Change) -> Result<Configuration, String> {
    let mut target = status.configuration.clone();
    if target.is_joint() {
        return Err("another change is under way".into());
    }
    let in_seat = |slot: u8| move |member: &Member| member.id.slot == Slot(slot);
    match change {
        Change::Add { slot, learner } => {
            if let Some(member) = target.occupant(Slot(slot)) {
                let what = if target.voters.contains(member) { "a voter" } else { "a learner" };
                return Err(format!("slot {slot} is taken: {what} at {} sits there", member.client));
            }
            let Some(joiner) = status.joiners.iter().copied().find(in_seat(slot)) else {
                return Err(format!(
                    "no node of slot {slot} asks to be taken in: start it first, with the present members in its configuration"
                ));
            };
            if learner { target.learners.push(joiner) } else { target.voters.push(joiner) }
        }
        Change::Promote { slot } => {
            let Some(at) = target.learners.iter().position(in_seat(slot)) else {
                return Err(format!("no learner sits in slot {slot}"));
            };
            let learner = target.learners.remove(at);
            target.voters.push(learner);
        }
        Change::Remove { slot } => {
            if target.occupant(Slot(slot)).is_none() {
                return Err(format!("no member sits in slot {slot}"));
            }
            target.voters.retain(|member| member.id.slot != Slot(slot));
            target.learners.retain(|member| member.id.slot != Slot(slot));
            if target.voters.is_empty() {
                return Err("the last voter cannot be removed".into());
            }
        }
        Change::Transfer { .. } | Change::Cancel => {}
    }
    Ok(target)
}

/// Asks a node for the members that it knows.
///
/// # Errors
/// Those of the call.
pub async fn members(client: &Client, node: SocketAddrV4, within: Duration) -> Result<Members, CallError> {
    question(client, node, MEMBERS, within).await
}

/// The members as the leader knows them, or where none is found as the node of the newest term does. `servers` are some nodes of
/// the cluster; the leader need not be among them.
///
/// # Errors
/// [`ChangeError::NoLeader`] where nobody answers.
pub async fn members_of(client: &Client, servers: &[SocketAddrV4], within: Duration) -> Result<Members, ChangeError> {
    let asked = servers.iter().map(|&server| members(client, server, within));
    let answers = futures::future::join_all(asked).await.into_iter().flatten();
    let newest = answers.max_by_key(|members| (members.term, members.leader != 0, members.leader == members.seen_by));
    let newest = newest.ok_or(ChangeError::NoLeader)?;
    match newest.leader_address().filter(|_| newest.leader != newest.seen_by) {
        None => Ok(newest),
        Some(leader) => Ok(members(client, leader, within).await.unwrap_or(newest)),
    }
}

/// As [`members_of`], once there is a leader: an election is waited for, [`ELECTION_WITHIN`] at most and until `deadline`. Without one by
/// then, and at once where the nodes belong to no cluster, it is [`ChangeError::NoLeader`].
async fn members_led(client: &Client, servers: &[SocketAddrV4], deadline: Instant) -> Result<Members, ChangeError> {
    let until = deadline.min(now() + ELECTION_WITHIN);
    loop {
        let members = members_of(client, servers, deadline.saturating_since(now()) / 4).await?;
        if members.leader_address().is_some() {
            return Ok(members);
        }
        if members.cluster.is_none() || now() >= until {
            return Err(ChangeError::NoLeader);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Changes the members and waits until that is done, at most `within`; returns how they are then. `servers` as for
/// [`members_of`]. A leader that is to be removed hands over first, so that nobody has to wait for an election. One that is under way, as
/// it is right after the cluster was formed, is waited for.
///
/// Asked again after a failure it does no harm: what is there already is refused, or done.
///
/// # Errors
/// [`ChangeError`].
pub async fn change(
    client: &Client,
    servers: &[SocketAddrV4],
    change: Change,
    within: Duration,
) -> Result<Members, ChangeError> {
    let deadline = now() + within;
    let before = members_led(client, servers, deadline).await?;
    if change == (Change::Remove { slot: before.leader }) && before.voters.len() > 1 {
        // Where nobody is fit to take over, it steps down when it is out.
        let _ = apply(client, servers, Change::Transfer { to: None }, deadline).await;
    }
    if let Change::Add { slot, .. } = change {
        check_durability(client, &before, slot, within / 4).await?;
    }
    apply(client, servers, change, deadline).await
}

/// A node that is to be taken in must keep its word as the others keep theirs.
async fn check_durability(client: &Client, before: &Members, slot: u8, within: Duration) -> Result<(), ChangeError> {
    let joiner = before.asking.iter().find(|node| node.slot == slot);
    let (Some(joiner), Some(leader)) = (joiner, before.leader_address()) else {
        // Whoever begins the change will say what is missing.
        return Ok(());
    };
    let (new, old) = futures::join!(probe(client, joiner.client, within), probe(client, leader, within));
    let old = old.map_err(ChangeError::Call)?.durability;
    let new = new.map_err(|error| {
        ChangeError::Refused(format!("the node of slot {slot} does not answer at {}: {error}", joiner.client))
    })?;
    if new.durability != old {
        let why =
            format!("the node of slot {slot} is {}, but the cluster is {old}: one durability for all", new.durability);
        return Err(ChangeError::Refused(why));
    }
    Ok(())
}

/// What came of a change in one shard.
pub type Changed = (u16, Result<Members, ChangeError>);

/// Asks the nodes how many shards there are, and where the nodes of shards 0 differ in that, refuses.
///
/// # Errors
/// [`ChangeError::NoLeader`] where nobody answers, [`ChangeError::Refused`] where they disagree.
pub async fn shards_of(client: &Client, servers: &[SocketAddrV4], within: Duration) -> Result<ShardMap, ChangeError> {
    let deadline = now() + within;
    let mut probes: Vec<Probe> = Vec::new();
    while probes.is_empty() {
        // Somebody who is dead is not waited for as long as one who is slow may need.
        let within = PROBE_WITHIN.min(deadline.saturating_since(now()));
        let asked = servers.iter().map(|&server| probe(client, server, within));
        probes = futures::future::join_all(asked).await.into_iter().flatten().collect();
        if now() >= deadline {
            break;
        }
    }
    // Nodes that belong to the cluster know better than one that is yet to be taken in.
    let (in_it, others): (Vec<_>, Vec<_>) = probes.iter().partition(|probe| probe.cluster.is_some());
    let mut counts: Vec<u16> =
        if in_it.is_empty() { &others } else { &in_it }.iter().map(|probe| probe.shards).collect();
    counts.sort_unstable();
    counts.dedup();
    match counts[..] {
        [] => Err(ChangeError::NoLeader),
        [shards] => ShardMap::new(shards).ok_or_else(|| ChangeError::Refused(format!("the nodes say {shards} shards"))),
        _ => Err(ChangeError::Refused(format!("the nodes differ in their number of shards: {counts:?}"))),
    }
}

/// Changes the members of every shard of a cluster, or of one, each as [`change`] does; of each is told what came of it. The shards
/// are changed one after the other, and all are tried, whatever comes of the first. With several shards, one in which all is so
/// already as is asked for is done: whoever asks again after a part has failed brings the rest about.
///
/// # Errors
/// As [`shards_of`]; nothing was changed.
pub async fn change_all(
    client: &Client,
    servers: &[SocketAddrV4],
    only: Option<u16>,
    change: Change,
    within: Duration,
) -> Result<Vec<Changed>, ChangeError> {
    let map = shards_of(client, servers, within / 4).await?;
    if let Some(shard) = only.filter(|shard| *shard >= map.shards()) {
        return Err(ChangeError::Refused(format!("there is no shard {shard}: there are {}", map.shards())));
    }
    let mut ends = Vec::new();
    for shard in map.all().filter(|shard| only.is_none_or(|only| only == *shard)) {
        let servers = of_shard(servers, shard);
        let before = match map {
            ShardMap::ONE => None,
            _ => members_of(client, &servers, within / 4).await.ok(),
        };
        let end = match before.filter(|before| before.shows(change, before) && before.leader != 0) {
            Some(done) if change != Change::Cancel => Ok(done),
            _ => self::change(client, &servers, change, within).await,
        };
        ends.push((shard, end));
    }
    Ok(ends)
}

/// Hands the leadership of each shard to a node of its own: shard n to the member that is n-th, and round again. Returns the shards
/// in which that did not work; they go on under the leader that they have.
pub async fn spread(client: &Client, servers: &[SocketAddrV4], within: Duration) -> Result<Vec<Changed>, ChangeError> {
    let map = shards_of(client, servers, within / 4).await?;
    let mut failed = Vec::new();
    for shard in map.all().filter(|_| map != ShardMap::ONE) {
        let servers = of_shard(servers, shard);
        let spread = async {
            let deadline = now() + within;
            let mut members = members_of(client, &servers, within / 4).await?;
            while members.leader == 0 && now() < deadline {
                sleep(LOOK_EVERY).await;
                members = members_of(client, &servers, within / 4).await?;
            }
            let mut slots: Vec<u8> = members.voters.iter().map(|voter| voter.slot).collect();
            slots.sort_unstable();
            let to = slots.get(usize::from(shard) % slots.len().max(1)).copied();
            match to {
                Some(to) if to != members.leader => {
                    self::change(client, &servers, Change::Transfer { to: Some(to) }, within).await
                }
                _ => Ok(members),
            }
        };
        let end = spread.await;
        if end.is_err() {
            failed.push((shard, end));
        }
    }
    Ok(failed)
}

/// Where one shard of these nodes is reached.
pub fn of_shard(servers: &[SocketAddrV4], shard: u16) -> Vec<SocketAddrV4> {
    servers.iter().filter_map(|server| shard_address(*server, shard)).collect()
}

/// Has the leader begin the change, and watches it.
async fn apply(
    client: &Client,
    servers: &[SocketAddrV4],
    change: Change,
    deadline: Instant,
) -> Result<Members, ChangeError> {
    let each = || deadline.saturating_since(now()) / 4;
    let before = members_led(client, servers, deadline).await?;
    let mut to = before.leader_address().ok_or(ChangeError::NoLeader)?;
    let body = serde_json::to_vec(&change).unwrap_or_default();
    loop {
        let reply: ChangeReply = ask(client, to, CHANGE, &body, each()).await.map_err(ChangeError::Call)?;
        match (reply.error, reply.leader) {
            (None, _) => break,
            // Leadership has just moved.
            (Some(_), Some(leader)) if leader != to && now() < deadline => to = leader,
            (Some(error), _) => return Err(ChangeError::Refused(error)),
        }
    }
    loop {
        let seen = members_of(client, servers, each().max(LOOK_WITHIN)).await;
        match seen {
            Ok(members) if members.shows(change, &before) => return Ok(members),
            Ok(members) if now() >= deadline => return Err(ChangeError::Pending(Box::new(members))),
            Err(error) if now() >= deadline => return Err(error),
            _ => {
                sleep(LOOK_EVERY).await;
            }
        }
    }
}
