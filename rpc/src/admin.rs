//! What operators ask a node, over the client port: who it is, how it is, and to join a new cluster.
//!
//! Requests are ordinary calls with an own-client block, bodies are JSON: these paths are cold, and a newer tool must
//! understand an older node.

mod backups;
mod formation;
mod members;

use crate::apply::{Halt, Job, StateDigest};
use crate::backup::Kept;
use crate::client::{CallError, Client, MethodCall, NotApplied};
use crate::endpoint::drop_counters;
use crate::r2p2::block::Refusal;
use crate::r2p2::policy::Policy;
use crate::r2p2::reassembly::Requests;
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::Answer;
pub use crate::service::method_key;
pub use backups::backup;
pub use formation::{InitError, init, init_shards};
use formation::{InitReply, InitRequest};
use futures::stream::{FuturesUnordered, StreamExt};
pub(crate) use members::MEMBERS;
pub use members::{
    Change, ChangeError, Changed, Members, change, change_all, members, members_of, of_shard, shards_of, spread,
};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, PortDescription};
use trimaran_raft::wal::WalCounters;
use trimaran_raft::{
    DropReason, Incarnation, Member, Nanos, NodeId, PeerState, PeerStatus, ReadSettings, Role, Slot, Status,
};
use trimaran_runtime::channel::{Notify, oneshot};
use trimaran_runtime::{now, sleep};

/// The question who a node is.
pub(crate) const PROBE: &str = "trimaran.probe/1";

/// Status requests that may wait; one more is refused as busy.
const STATUS_WAITING: usize = 16;

/// Method keys of the operator's calls.
#[derive(Debug, Clone, Copy)]
struct Methods {
    probe: u32,
    init: u32,
    status: u32,
    members: u32,
    change: u32,
    backup: u32,
}

impl Methods {
    fn new() -> Self {
        Methods {
            probe: method_key(PROBE),
            init: method_key("trimaran.init/1"),
            status: method_key("trimaran.status/1"),
            members: method_key(members::MEMBERS),
            change: method_key(members::CHANGE),
            backup: method_key(backups::BACKUP),
        }
    }
}

/// A member as JSON carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Seat in the cluster, 1 to 9.
    pub slot: u8,
    /// This life's random number, hexadecimal.
    pub incarnation: String,
    /// Where it serves clients.
    pub client: SocketAddrV4,
    /// Where it hears its peers.
    pub peer: SocketAddrV4,
}

impl MemberInfo {
    fn of(member: &Member) -> Self {
        MemberInfo {
            slot: member.id.slot.0,
            incarnation: format!("{:016x}", member.id.incarnation.0),
            client: member.client,
            peer: member.peer,
        }
    }

    fn member(&self) -> Option<Member> {
        let incarnation = Incarnation(u64::from_str_radix(&self.incarnation, 16).ok()?);
        Some(Member { id: NodeId { slot: Slot(self.slot), incarnation }, client: self.client, peer: self.peer })
    }
}

/// Who a node is, as it answers a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The cluster's name in the node's configuration.
    pub name: String,
    /// The node itself.
    pub node: MemberInfo,
    /// The id of the cluster that it belongs to, hexadecimal; `None` before `init`.
    pub cluster: Option<String>,
    /// The voters that it knows.
    pub members: Vec<MemberInfo>,
    /// What its acknowledgements survive; empty from a node that does not say.
    #[serde(default)]
    pub durability: String,
    /// How many shards it has; left out where that is one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub shards: u16,
    /// Which of them answers, as its port says.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shard: u16,
}

fn one() -> u16 {
    1
}

fn is_one(number: &u16) -> bool {
    *number == 1
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// How one peer stands in the eyes of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Seat in the cluster.
    pub slot: u8,
    /// The newest entry that it is known to hold.
    pub matched: u64,
    /// Milliseconds since it last answered; `None`: never in this term.
    pub silent_ms: Option<u64>,
    /// It needs entries that are no longer in the log, and stays out.
    pub out_of_reach: bool,
}

/// What carries a node's packets. What it does not know is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// `udp` or `dpdk`.
    pub kind: String,
    /// The device's name.
    pub device: String,
    /// The device's driver.
    pub driver: String,
    /// Frames can pass.
    pub link_up: Option<bool>,
    /// How the node's core sleeps when it has nothing to do.
    pub sleeps: String,
}

/// Whether and how a node answers reads by a lease when it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Whether its configuration allows it.
    pub enabled: bool,
    /// Whether it leads and holds one now.
    pub held: bool,
    /// The bound on the members' clocks that leases and ages rest on, in millionths.
    pub clock_drift_ppm: u32,
}

impl From<PortDescription> for PortInfo {
    fn from(PortDescription { kind, device, driver, link_up, sleeps }: PortDescription) -> Self {
        PortInfo { kind, device, driver, link_up, sleeps }
    }
}

impl PeerInfo {
    fn of(peer: &PeerStatus) -> Self {
        PeerInfo {
            slot: peer.member.id.slot.0,
            matched: peer.matched.0,
            silent_ms: peer.silent_ns.map(|silent| silent / 1_000_000),
            out_of_reach: peer.state == PeerState::OutOfReach,
        }
    }
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who it is and to which cluster it belongs.
    pub probe: Probe,
    /// uninitialised, joining, follower, pre-candidate, candidate, leader.
    pub role: String,
    /// What keeps it from taking part, in words, if something does.
    pub waiting: Option<String>,
    /// Current term.
    pub term: u64,
    /// The leader's slot, 0 for none known.
    pub leader: u8,
    /// Newest entry known to be committed.
    pub commit: u64,
    /// Newest entry applied to the state.
    pub applied: u64,
    /// Oldest entry in the log.
    pub first: u64,
    /// Newest entry in the log.
    pub last: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// What an acknowledgement means: `volatile`, a majority's memory has it; `buffered`, their kernels; `durable`, their disks.
    pub durability: String,
    /// What carries the log; empty where it is in memory only.
    #[serde(default)]
    pub log_device: String,
    /// Voters heard of within an election timeout, this node included.
    pub reachable: u8,
    /// Voters.
    pub total: u8,
    /// Voters needed to commit.
    pub quorum: u8,
    /// Hash of the state and of the way to it; `None` where the replica has stopped applying.
    pub digest: Option<StateDigest>,
    /// Why it has stopped applying, if so.
    pub halted: Option<Halt>,
    /// The leader's view of the others.
    pub peers: Vec<PeerInfo>,
    /// How it answers reads by a lease; `None` of a node that says nothing of it.
    #[serde(default)]
    pub leases: Option<LeaseInfo>,
    /// What carries its packets.
    #[serde(default)]
    pub port: PortInfo,
    /// Packet buffers of this node's thread in somebody's hands, waiting to be read or sent. DPDK's are its driver's counters.
    #[serde(default)]
    pub packets_in_use: u64,
    /// Every counter that is not 0: of this node's requests and consensus, its sockets, its port and its device.
    pub counters: BTreeMap<String, u64>,
}

/// The server's side of the operator's calls.
pub(crate) struct Admin {
    methods: Methods,
    name: String,
    me: Member,
    reads: ReadSettings,
    net: Net,
    node: Rc<Replicated>,
    requests: Rc<RefCell<Requests>>,
    asking: RefCell<VecDeque<Request>>,
    asked: Notify,
    kept: RefCell<Kept>,
}

impl Admin {
    pub(crate) fn new(
        name: String,
        me: Member,
        reads: ReadSettings,
        net: Net,
        node: Rc<Replicated>,
        requests: Rc<RefCell<Requests>>,
    ) -> Rc<Self> {
        Rc::new(Admin {
            methods: Methods::new(),
            name,
            me,
            reads,
            net,
            node,
            requests,
            asking: RefCell::default(),
            asked: Notify::new(),
            kept: RefCell::default(),
        })
    }

    pub(crate) fn serves(&self, method: u32) -> bool {
        let Methods { probe, init, status, members, change, backup } = self.methods;
        [probe, init, status, members, change, backup].contains(&method)
    }

    pub(crate) fn submit(&self, request: Request) {
        let method = request.method();
        self.kept.borrow_mut().forget_old();
        if request.policy.is_replicated() {
            self.node.refuse(&request, Refusal::PolicyMismatch);
        } else if method == self.methods.probe {
            self.answer(&request, &self.probe());
        } else if method == self.methods.init {
            match serde_json::from_slice::<InitRequest>(request.body.bytes()) {
                Ok(init) => match self.init(&init) {
                    Ok(()) => self.answer_later(request),
                    Err(why) => self.answer(&request, &InitReply { error: Some(why) }),
                },
                Err(_) => self.node.refuse(&request, Refusal::BadArguments),
            }
        } else if method == self.methods.members {
            self.answer(&request, &self.members());
        } else if method == self.methods.change {
            match serde_json::from_slice::<Change>(request.body.bytes()) {
                Ok(change) => self.answer(&request, &self.change(change)),
                Err(_) => self.node.refuse(&request, Refusal::BadArguments),
            }
        } else {
            self.answer_later(request);
        }
    }

    /// What is answered in its turn.
    fn answer_later(&self, request: Request) {
        if self.asking.borrow().len() >= STATUS_WAITING {
            return self.node.refuse(&request, Refusal::Busy);
        }
        self.asking.borrow_mut().push_back(request);
        self.asked.notify();
    }

    /// Answers how this node is, one request after the other, since that goes over the whole state; who asks meanwhile is told the same.
    /// Runs until the node ends.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            let next = self.asking.borrow_mut().pop_front();
            match next {
                Some(request) if request.method() == self.methods.backup => self.backup(&request).await,
                Some(request) if request.method() == self.methods.init => {
                    let error = self.formed().await.err();
                    self.answer(&request, &InitReply { error });
                }
                Some(request) => {
                    let status = self.status().await;
                    self.answer(&request, &status);
                    let others = [self.methods.backup, self.methods.init];
                    self.asking.borrow_mut().retain(|request| {
                        let asks_another = others.contains(&request.method());
                        if !asks_another {
                            self.answer(request, &status);
                        }
                        asks_another
                    });
                }
                None => self.asked.notified().await,
            }
        }
    }

    fn answer<T: Serialize>(&self, request: &Request, body: &T) {
        match serde_json::to_vec(body) {
            Ok(json) => self.node.answer(request, self.node.shard.status().applied, Answer::Ok, &json),
            Err(error) => self.node.handler_panicked(request, &error.to_string()),
        }
    }

    fn probe(&self) -> Probe {
        let status = self.node.shard.status();
        Probe {
            name: self.name.clone(),
            node: MemberInfo::of(&self.me),
            cluster: status.cluster.map(|cluster| cluster.to_string()),
            members: status.configuration.voters.iter().map(MemberInfo::of).collect(),
            durability: self.node.durability.name().to_owned(),
            shards: self.node.place.map().shards(),
            shard: self.node.place.shard(),
        }
    }

    fn leases(&self) -> LeaseInfo {
        let now = Nanos(trimaran_runtime::read_clock().as_nanos());
        let held = self.node.shard.with_machine(|machine| machine.lease(now)).is_some();
        LeaseInfo { enabled: self.reads.lease, held, clock_drift_ppm: self.reads.clock_drift_ppm }
    }

    async fn status(&self) -> NodeStatus {
        let halted = self.node.halted();
        let digest = match halted {
            Some(_) => None,
            None => {
                let (to, digest) = oneshot();
                match self.node.jobs.push(Job::Digest(to)) {
                    Ok(()) => digest.await.ok(),
                    Err(_) => None,
                }
            }
        };
        let status = self.node.shard.status();
        let mut counters = BTreeMap::new();
        let drops = drop_counters(&self.requests, &self.node);
        let drops = drops.iter().map(|(reason, count)| (format!("r2p2.{}", reason.name()), count));
        let server = self.node.counters.iter().map(|(name, count)| (format!("server.{name}"), count));
        let raft = raft_counters(&status.counters).map(|(name, count)| (format!("raft.{name}"), count));
        counters.extend(drops.chain(server).chain(raft).filter(|(_, count)| *count > 0));
        let (log_device, wal) =
            self.node.shard.with_storage(|storage| (storage.describe(), storage.counters().unwrap_or_default()));
        let wal = wal_counters(&wal).map(|(name, count)| (format!("log.{name}"), count));
        counters.extend(wal.filter(|(_, count)| *count > 0));
        self.net.counters(&mut |name, count| {
            if count > 0 {
                counters.insert(name.to_owned(), count);
            }
        });
        NodeStatus {
            probe: self.probe(),
            role: role_name(status.role).to_owned(),
            waiting: waiting(&status),
            term: status.term.0,
            leader: status.leader.as_ref().map_or(0, |leader| leader.id.slot.0),
            commit: status.commit.0,
            applied: status.applied.0,
            first: status.first.0,
            last: status.last.0,
            log_bytes: status.log_bytes,
            durability: self.node.durability.name().to_owned(),
            log_device,
            reachable: status.reachable as u8,
            total: status.total as u8,
            quorum: status.quorum as u8,
            digest,
            halted,
            peers: status.peers.iter().map(PeerInfo::of).collect(),
            leases: Some(self.leases()),
            port: self.net.describe().into(),
            packets_in_use: self.net.stats().pool.in_use(),
            counters,
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Uninitialised => "uninitialised",
        Role::Joining { .. } => "joining",
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn waiting(status: &Status) -> Option<String> {
    if let Some(index) = status.damaged {
        return Some(format!(
            "its disk has lost entries up to {index}, which it may have acknowledged: until the others have sent them again it does \
             not stand, and gives no vote to a log without them"
        ));
    }
    if status.storage_full {
        return Some("its disk is full: it takes no new writes until there is room, and serves reads".to_owned());
    }
    if let Some(bytes) = status.outgrown_bytes {
        return Some(format!(
            "its state has at least {bytes} bytes, more than `snapshot_bytes` in [limits] allows: a node that needs it stays out"
        ));
    }
    match status.role {
        Role::Uninitialised => Some("belongs to no cluster: waits for `init`, or to be heard by one".into()),
        Role::Joining { cluster, .. } => Some(format!(
            "started without memory: is no voter of cluster {cluster} and waits to be taken in by a membership change"
        )),
        _ => None,
    }
}

fn raft_counters(counters: &trimaran_raft::Counters) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let counted = [
        ("received", counters.received),
        ("sent", counters.sent),
        ("unsent", counters.unsent),
        ("proposed", counters.proposed),
        ("overloaded", counters.overloaded),
        ("leadership_changes", counters.leadership_changes),
        ("snapshots_installed", counters.snapshots_installed),
    ];
    let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason)));
    counted.into_iter().chain(dropped)
}

fn wal_counters(counters: &WalCounters) -> impl Iterator<Item = (&'static str, u64)> {
    let WalCounters { records, record_bytes, syncs, under_way, under_way_max, stalls, full, snapshots, file_bytes } =
        *counters;
    [
        ("records", records),
        ("record_bytes", record_bytes),
        ("syncs", syncs),
        ("under_way", under_way),
        ("under_way_max", under_way_max),
        ("stalls", stalls),
        ("full", full),
        ("snapshots", snapshots),
        ("file_bytes", file_bytes),
    ]
    .into_iter()
}

/// Asks a node who it is. A question or an answer that is lost is made good, as it changes nothing: so is that of [`status`].
pub async fn probe(client: &Client, address: SocketAddrV4, within: Duration) -> Result<Probe, CallError> {
    question(client, address, PROBE, within).await
}

/// Asks a node how it is.
pub async fn status(client: &Client, address: SocketAddrV4, within: Duration) -> Result<NodeStatus, CallError> {
    question(client, address, "trimaran.status/1", within).await
}

/// When a question is asked, and asked once more while nothing has been heard. Each copy may be answered until the end: an answer
/// may take longer than the time between two of them.
const COPIES_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(700),
    Duration::from_millis(2_500),
];

/// Asks what has no effect.
async fn question<T: for<'de> Deserialize<'de>>(
    client: &Client,
    address: SocketAddrV4,
    method: &str,
    within: Duration,
) -> Result<T, CallError> {
    let deadline = now() + within;
    let copy = async |after: Duration| {
        sleep(after).await;
        (after, ask(client, address, method, &[], deadline.saturating_since(now())).await)
    };
    let mut copies: FuturesUnordered<_> = COPIES_AT.into_iter().filter(|after| *after < within).map(copy).collect();
    while let Some((after, end)) = copies.next().await {
        match end {
            Err(CallError::Unknown { .. }) => {}
            // The server may answer an earlier one all the same.
            Err(_) if after > Duration::ZERO => {}
            end => return end,
        }
    }
    Err(CallError::Unknown { call_id: None })
}

async fn ask<T: for<'de> Deserialize<'de>>(
    client: &Client,
    address: SocketAddrV4,
    method: &str,
    body: &[u8],
    within: Duration,
) -> Result<T, CallError> {
    let call =
        MethodCall { method: method_key(method), policy: Policy::FixedRoute, shard: 0, body, server: Some(address) };
    let reply = client.call(call, within).await?;
    serde_json::from_slice(&reply.body).map_err(|_| CallError::NotApplied(NotApplied::Refused(Refusal::Unspecified)))
}
