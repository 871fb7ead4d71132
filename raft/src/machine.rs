//! The consensus machine: pure, level-triggered, and a value.
//!
//! The caller's duties, in this order:
//! 1. [`Machine::step`] with every input: messages first, then [`Input::Tick`] once [`Machine::next_deadline`] has passed.
//! 2. [`Machine::flush`] once per turn; carry the actions out in their order, and flush again while it says [`More::Yes`].
//! 3. Report what the storage completed with [`Input::Persisted`], what was applied with [`Input::Applied`].
//!
//! A step changes state and marks what is due; it never queues messages. A flush derives at most one append per peer from the
//! state as it then is, so a burst of proposals costs one append and one write. The machine reads no clock, does no
//! I/O and draws jitter from its own generator: equal inputs give equal machines.

mod actions;
mod ask;
mod change;
mod commit;
mod damage;
mod digest;
mod donor;
mod election;
mod flush;
mod follower;
mod fresh;
mod lag;
mod lease;
mod membership;
mod peer;
mod propose;
mod quiet;
mod read;
mod replication;
mod room;
mod snapshot;
mod stopped;
mod timeless;
mod transfer;

use std::net::SocketAddrV4;

use crate::config::Configuration;
use crate::entry::ENTRY_HEADER_BYTES;
use crate::error::DropReason;
use crate::id::{ClusterId, LogIndex, Member, Nanos, NodeId, ShardId, Term, nanos_of};
use crate::log::Log;
use crate::message::{Answer, Body, CHUNK_OVERHEAD_BYTES, ChunkAck, Conflict, Fence, Message, SnapshotAsk, Verdict};
use crate::sabotage::{Fault, Sabotage};
use crate::settings::{Limits, ShardConfig};
use crate::storage::HardState;
use crate::trace;

use ask::Asks;
use change::{Goal, Joiner};
use digest::Trail;
use donor::Donation;
use lease::Rounds;
use membership::History;
use read::Reads;
use snapshot::Wanted;
use transfer::Handover;

pub use actions::{Accepted, Action, Input, More, Outgoing, Refused, Role};
pub use peer::{Peer, PeerState};

/// A message whose term is further ahead than this is not believed: at one election per microsecond, nobody gets there in
/// eighteen years.
pub const MAX_TERM_JUMP: u64 = 1 << 49;

/// Vote answers and the like waiting for the next flush; the votes of more candidates than seats are dropped.
const REPLIES: usize = 32;

/// An answer owed to someone who need not be a member of this configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Reply {
    to: Member,
    kind: ReplyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ReplyKind {
    PreVote(Answer),
    /// Granted or not is read from the hard state when it is sent.
    Vote(Term),
    /// An old leader or candidate learns the newer term.
    NewerTerm,
    Farewell,
    TimeoutNow,
    Fence(Fence),
    Chunk(ChunkAck),
    SnapshotAsk(SnapshotAsk),
    Join,
}

/// What the machine needs of its configuration, in its own units.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Settings {
    me: Member,
    heartbeat_ns: u64,
    election_min_ns: u64,
    election_max_ns: u64,
    /// Zero: never.
    quiet_after_ns: u64,
    limits: Limits,
    /// Entry bytes that fit a datagram.
    datagram_bytes: u64,
    /// Snapshot bytes that fit a datagram.
    chunk_bytes: u32,
    contacts: Vec<SocketAddrV4>,
    heals: bool,
    donors: bool,
    commit_notice_ns: u64,
    shard: ShardId,
    /// A lease's length; none where there are no leases.
    lease_ns: Option<u64>,
    clock_drift_ppm: u32,
    sabotage: Sabotage,
}

/// One replica's consensus state. With its [`Log`] it is the whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    settings: Settings,
    now: Nanos,
    random: u64,

    cluster: Option<ClusterId>,
    role: Role,
    history: History,

    /// Term and vote as decided, as handed to the storage, as durable.
    hard: HardState,
    hard_written: HardState,
    hard_durable: HardState,
    /// Entries handed to the storage, and durable.
    written: LogIndex,
    durable: LogIndex,
    stalled: bool,
    failed: bool,
    /// No room on the disk but what is kept for entries without which nothing moves.
    full: bool,
    /// How far a snapshot on the disk reaches, in [`Log::offset_bytes`]; none where nothing is on a disk.
    saved_bytes: Option<u64>,
    /// What the log held when this node was recovered.
    read_back_bytes: u64,
    /// Bytes of entries that the next write may have.
    room_bytes: u64,
    /// The log once reached this, and may have acknowledged it, but lost it to its disk.
    damage: Option<(Term, LogIndex)>,

    leader: Option<NodeId>,
    /// Where its last append came from: it may be outside this node's configuration.
    leader_address: SocketAddrV4,
    /// No vote is given before, since a leader that this node heard, or may have heard before it started, may hold a lease.
    no_vote_before: Nanos,
    /// When the leader of this term was last heard; none where it is free to elect another.
    leader_heard: Option<Nanos>,
    election_at: Nanos,
    /// The leader of this term says, or this one has said, that it will be heard less often.
    quiet: bool,
    /// When somebody last wanted something here, or of a replica that has said so since.
    active_at: Nanos,
    /// Candidates ask the silent ones again at this time.
    ask_again_at: Nanos,
    join_at: Nanos,
    join_due: bool,

    /// Prefix verified with this term's leader, and the highest round seen from it.
    verified: LogIndex,
    echo: u64,
    ack_due: bool,
    conflict: Option<Conflict>,
    credit_advertised: u64,

    commit: LogIndex,
    applied: LogIndex,
    digest: u64,
    trail: Trail,
    /// Where this node's state was found to be wrong.
    fenced: Option<(LogIndex, Verdict)>,
    /// The apply task applies nothing more.
    stopped: bool,
    /// Every live member has applied up to here, as its leader says.
    floor: LogIndex,
    /// When the newest entry was appended or received: log time goes on from there.
    last_entry_at: Nanos,

    peers: Vec<Peer>,
    replies: Vec<Reply>,
    /// Nodes without state that ask to be taken in, newest life of each slot.
    joiners: Vec<Joiner>,
    goal: Option<Goal>,

    /// Leader: the round now open, the first entry of the term, the next heartbeat.
    round: u64,
    term_start: LogIndex,
    heartbeat_at: Nanos,
    /// When the peers are told of the commit without anything else to send.
    notice_at: Nanos,
    led_since: Nanos,
    /// A time at which a quorum had been heard; the true one may be later.
    quorum_heard_at: Nanos,
    reads: Reads,
    asks: Asks,
    /// When the rounds of this leadership were opened.
    rounds: Rounds,
    /// What was committed anywhere before that time of this node's clock is at or before this index.
    fresh: Option<(Nanos, LogIndex)>,
    wanted: Wanted,
    donation: Option<Donation>,
    /// This node has given out snapshots, or was to, and nobody wants them of it any more.
    tidy_due: bool,
    handover: Option<Handover>,
    /// Somebody was told to stand for election in this leader's place: what a leader may assume without asking ends here.
    told_to_stand: bool,
    /// The term in which this node campaigns because its leader told it to.
    stood_in: Term,

    /// What the last flush told.
    told_commit: LogIndex,
    told_leadership: (Role, Term, Option<NodeId>, Option<NodeId>),
    told_base: LogIndex,
    told_halt: bool,
    told_fenced: bool,
    install_due: bool,
}

impl Machine {
    /// A node that knows no cluster. `payload_bytes` is the transport's largest message.
    pub fn new(config: &ShardConfig, payload_bytes: usize, now: Nanos) -> Self {
        let overhead = crate::message::MESSAGE_OVERHEAD_BYTES;
        let mut settings = Settings {
            me: config.me,
            heartbeat_ns: nanos_of(config.timing.heartbeat).max(1),
            election_min_ns: nanos_of(config.timing.election_min).max(1),
            election_max_ns: nanos_of(config.timing.election_max.max(config.timing.election_min)).max(1),
            quiet_after_ns: nanos_of(config.timing.quiet_after),
            limits: config.limits,
            datagram_bytes: payload_bytes.saturating_sub(overhead) as u64,
            chunk_bytes: u32::try_from(payload_bytes.saturating_sub(CHUNK_OVERHEAD_BYTES)).unwrap_or(u32::MAX),
            contacts: config.contacts.clone(),
            heals: config.heals,
            donors: config.donors,
            commit_notice_ns: nanos_of(config.commit_notice),
            shard: config.shard,
            lease_ns: None,
            clock_drift_ppm: config.reads.clock_drift_ppm,
            sabotage: config.sabotage,
        };
        // Between where a log is relieved and where it is full there is room for the largest entry.
        let entry_bytes = (config.limits.log_bytes / 8).saturating_sub(ENTRY_HEADER_BYTES as u64);
        settings.limits.entry_bytes = settings.limits.entry_bytes.min(u32::try_from(entry_bytes).unwrap_or(u32::MAX));
        // Beyond half of a log it might be full before anybody is found to lag.
        settings.limits.max_lag_bytes = settings.limits.max_lag_bytes.min(config.limits.log_bytes / 2);
        settings.lease_ns = config.reads.lease.then(|| settings.lease_length_ns());
        let hard = HardState::default();
        let mut machine = Machine {
            settings,
            now,
            // Nodes that were given equal seeds must not tie for ever.
            random: config.seed ^ config.me.id.incarnation.0 ^ u64::from(config.me.id.slot.0) << 56,
            cluster: None,
            role: Role::Uninitialised,
            history: History::default(),
            hard,
            hard_written: hard,
            hard_durable: hard,
            written: LogIndex::ZERO,
            durable: LogIndex::ZERO,
            stalled: false,
            failed: false,
            full: false,
            saved_bytes: None,
            read_back_bytes: 0,
            room_bytes: u64::MAX,
            damage: None,
            leader: None,
            leader_address: config.me.peer,
            no_vote_before: Nanos::ZERO,
            leader_heard: None,
            election_at: Nanos::FAR,
            quiet: false,
            active_at: now,
            ask_again_at: Nanos::FAR,
            join_at: now,
            join_due: false,
            verified: LogIndex::ZERO,
            echo: 0,
            ack_due: false,
            conflict: None,
            credit_advertised: 0,
            commit: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            digest: 0,
            trail: Trail::default(),
            fenced: None,
            stopped: false,
            floor: LogIndex::ZERO,
            last_entry_at: now,
            peers: Vec::new(),
            replies: Vec::new(),
            joiners: Vec::new(),
            goal: None,
            round: 0,
            term_start: LogIndex::ZERO,
            heartbeat_at: Nanos::FAR,
            notice_at: Nanos::FAR,
            led_since: now,
            quorum_heard_at: now,
            reads: Reads::default(),
            asks: Asks::default(),
            rounds: Rounds::default(),
            fresh: None,
            wanted: Wanted::default(),
            donation: None,
            tidy_due: false,
            handover: None,
            told_to_stand: false,
            stood_in: Term::ZERO,
            told_commit: LogIndex::ZERO,
            told_leadership: (Role::Uninitialised, Term::ZERO, None, None),
            told_base: LogIndex::ZERO,
            told_halt: false,
            told_fenced: false,
            install_due: false,
        };
        let boot = machine.random_below(u64::MAX);
        machine.asks = Asks::new(boot);
        trace::life("start", &machine, &Log::default());
        machine
    }

    /// Takes one input. `now` must not go back (an earlier one counts as the latest seen).
    pub fn step(&mut self, now: Nanos, input: Input<'_>, log: &mut Log) -> Result<Accepted, Refused> {
        let before = trace::Before::of(self, log);
        let result = self.take_in(now, input, log);
        trace::stepped(&before, self, log, &input, &result);
        result
    }

    fn take_in(&mut self, now: Nanos, input: Input<'_>, log: &mut Log) -> Result<Accepted, Refused> {
        self.now = self.now.max(now);
        if !matches!(input, Input::Message(..)) {
            self.notice(&input);
        }
        match input {
            Input::Tick => self.tick(log),
            Input::Message(from, message) => {
                self.admit(message)?;
                // Not before: a stranger's words are no use of this group.
                self.notice(&input);
                self.receive(from, message, log)?;
            }
            Input::Propose(proposal) => return self.propose(proposal, log).map(Accepted::Appended),
            Input::Read => return self.read().map(Accepted::Read),
            Input::ReadHere => return self.read_here().map(Accepted::Read),
            Input::Persisted(write) => self.persisted(write, log),
            Input::StorageFailed => self.storage_failed(),
            Input::StorageStalled(stalled) => self.stalled = stalled,
            Input::StorageFull(full) => self.storage_full(full),
            Input::StorageRoom(bytes) => self.room_bytes = bytes,
            Input::StorageSaved(offset_bytes) => self.storage_saved(offset_bytes, log),
            Input::Applied(states) => self.applied(states, log),
            Input::Stopped => self.stop_applying(log),
            // That somebody waits for it has been noticed.
            Input::LeaderWanted => {}
            Input::Transfer(to) => self.transfer(to, log).map_err(Refused::Request)?,
            Input::Farewell => self.farewell(),
            Input::ChangeMembers(target) => self.change_members(target, log).map_err(Refused::Request)?,
            Input::CancelChange => self.cancel_change(log).map_err(Refused::Request)?,
            Input::Offer(snapshot, state_hash) => self.offer(snapshot, state_hash, log).map_err(Refused::Request)?,
            Input::TooLarge(body_bytes) => self.outgrown(body_bytes),
        }
        Ok(Accepted::Done)
    }

    /// When [`Input::Tick`] is next wanted. Changes with every step and flush.
    pub fn next_deadline(&self) -> Nanos {
        match self.role {
            Role::Uninitialised | Role::Joining { .. } if self.settings.contacts.is_empty() => Nanos::FAR,
            Role::Uninitialised | Role::Joining { .. } => self.join_at,
            Role::Follower if self.tidy_due => self.now,
            Role::Follower => {
                let donation_at = self.donation.map_or(Nanos::FAR, |donation| donation.deadline());
                self.election_at.min(self.asks.ask_again_at()).min(donation_at)
            }
            Role::PreCandidate | Role::Candidate => self.election_at.min(self.ask_again_at),
            Role::Leader => {
                let at = self.handover.map_or(self.heartbeat_at, |handover| self.heartbeat_at.min(handover.until));
                // Once it has come, whatever still holds a notice up is told by an acknowledgement.
                let at = if self.notice_at > self.now { at.min(self.notice_at) } else { at };
                self.peers.iter().fold(at, |at, peer| at.min(peer.deadline()))
            }
        }
    }

    fn tick(&mut self, log: &mut Log) {
        self.tick_donation();
        self.tidy_snapshots(log);
        match self.role {
            Role::Uninitialised | Role::Joining { .. } => self.tick_join(),
            Role::Leader => self.tick_leader(log),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.tick_election(log),
        }
    }

    fn receive(&mut self, from: SocketAddrV4, message: &Message<'_>, log: &mut Log) -> Result<(), DropReason> {
        let header = &message.header;
        let sender = self.sender(header.from, from);
        match message.body {
            Body::PreVote(ask) => self.on_pre_vote(sender, header.term, &ask, log),
            Body::Vote(ask) => self.on_vote(sender, header.term, &ask, log),
            Body::PreVoteReply(answer) => self.on_vote_reply(Role::PreCandidate, header, answer, log),
            Body::VoteReply(answer) => self.on_vote_reply(Role::Candidate, header, answer, log),
            Body::Append(head, entries) => self.on_append(sender, header.term, &head, entries, log),
            Body::Fragment(head, entry, piece) => self.on_fragment(sender, header.term, &head, &entry, piece, log),
            Body::Ack(ack) => self.on_ack(header, &ack, log),
            Body::Chunk(head, piece) => self.on_chunk(sender, header.term, &head, piece, log),
            Body::ChunkAck(ack) => self.on_chunk_ack(header, &ack, log),
            Body::SnapshotAsk(ask) => self.on_snapshot_ask(header, &ask),
            Body::Farewell => self.on_farewell(header),
            Body::TimeoutNow => self.on_timeout_now(header, log),
            Body::ReadAsk(ask) => self.on_read_ask(header, ask),
            Body::ReadReply(reply) => self.on_read_reply(header, &reply),
            Body::Fence(fence) => self.on_fence(header, fence),
            Body::Join(member) => self.on_join(sender, member),
            Body::JoinReply(leader) => self.on_join_reply(header.cluster, leader),
        }
    }

    /// A number below `bound`, from the machine's own splitmix64.
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// Whether `fault` is switched on; never without the feature `sabotage`.
    pub fn sabotaged(&self, fault: Fault) -> bool {
        self.settings.sabotage.has(fault)
    }

    /// Sends `kind` to `to` at the next flush; a newer answer of the same kind replaces an unsent one.
    fn owe(&mut self, to: Member, kind: ReplyKind) -> Result<(), DropReason> {
        let same = |reply: &Reply| {
            reply.to.id == to.id && std::mem::discriminant(&reply.kind) == std::mem::discriminant(&kind)
        };
        self.replies.retain(|reply| !same(reply));
        if self.replies.len() >= REPLIES {
            return Err(DropReason::Busy);
        }
        self.replies.push(Reply { to, kind });
        Ok(())
    }

    fn peer_mut(&mut self, id: NodeId) -> Option<&mut Peer> {
        let by_slot = self.sabotaged(Fault::IgnoreIncarnation);
        self.peers.iter_mut().find(|peer| peer.id() == id || by_slot && peer.id().slot == id.slot)
    }

    /// This node.
    pub fn me(&self) -> Member {
        self.settings.me
    }

    /// The cluster this node belongs to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// What this node is at the moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this node leads its term.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// The newest term seen.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Term and vote as decided; durable only once [`Machine::durable_hard_state`] says the same.
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Term and vote as durable.
    pub fn durable_hard_state(&self) -> HardState {
        self.hard_durable
    }

    /// The leader of this term as far as known, with its addresses.
    pub fn leader(&self) -> Option<Member> {
        let id = self.leader?;
        if id == self.settings.me.id {
            return Some(self.settings.me);
        }
        self.configuration().member(id).copied()
    }

    /// The leader of this term as far as known, a member or not.
    #[cfg(feature = "trace")]
    pub(crate) fn leader_id(&self) -> Option<NodeId> {
        self.leader
    }

    /// Entries up to here are committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Entries up to here are applied.
    pub fn applied_index(&self) -> LogIndex {
        self.applied
    }

    /// The state's digest after [`Machine::applied_index`], as the caller told it.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The budgets in force.
    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Entries up to here are durable on this node.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// The configuration in force: the newest in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        self.history.newest()
    }

    /// The other members, with what is known of their progress while this node leads.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Nodes without state that have asked to be taken in.
    pub fn joiners(&self) -> impl Iterator<Item = &Member> {
        self.joiners.iter().map(|joiner| &joiner.member)
    }

    /// The group this machine replicates.
    pub fn shard(&self) -> ShardId {
        self.settings.shard
    }

    /// Voters heard within two of the longest election timeouts, as long as they are now, this node included if it votes.
    pub fn reachable(&self) -> usize {
        let window_ns = (2 * self.settings.election_max_ns).saturating_mul(self.patience_factor());
        let recent = |at: Option<Nanos>| at.is_some_and(|at| self.now.since(at) <= window_ns);
        let heard = |id: NodeId| {
            let peer = self.peers.iter().find(|peer| peer.id() == id);
            id == self.settings.me.id
                || peer.is_some_and(|peer| recent(peer.heard))
                || self.leader == Some(id) && recent(self.leader_heard)
        };
        self.configuration().voters.iter().filter(|member| heard(member.id)).count()
    }

    /// Whether a flush now would acknowledge or trim something: for callers that changed only what was applied.
    pub fn wants_flush(&self, log: &Log) -> bool {
        self.ack_due || self.told_base != log.base()
    }

    /// Bytes of entries that the next write may have, as last told.
    pub fn room_bytes(&self) -> u64 {
        self.room_bytes
    }

    /// The latest time seen.
    pub fn now(&self) -> Nanos {
        self.now
    }
}
