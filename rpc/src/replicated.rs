//! Where a complete request meets Raft: the leader appends it, a follower sends it to the leader, the apply task answers.

use crate::answer::Answers;
use crate::apply::{Halt, Job, Jobs, OpenEffects};
use crate::forward::Forwarder;
use crate::late_copies::Copies;
use crate::log_time::LogTime;
use crate::outbox::{Effect, EffectId};
use crate::peer::PeerTransport;
use crate::pending::{Appended, Name, PendingWrites};
use crate::r2p2::block::{Refusal, RequestBlock, ResponseBlock, Status, echo};
use crate::r2p2::counters::DropReason;
use crate::r2p2::header::{Header, Rid, Triple};
use crate::r2p2::policy::Policy;
use crate::reads::Reads;
use crate::replica::{Outcome, status_of};
use crate::request::Request;
use crate::service::{Answer, Mark};
use crate::session::{CallId, SESSIONS_MAX, SessionId};
use crate::shards::ShardPlace;
use crate::stats::{Event, ServerCounters};
use crate::storage::{Durability, NodeStorage};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::rc::Rc;
use trimaran_raft::{
    ClusterId, EntryHeader, EntryKind, Error as RaftError, LogIndex, Member, NodeId, Proposal, Shard, Term,
};
use trimaran_runtime::channel::{Notify, oneshot};
use trimaran_runtime::{Instant, now};
use xxhash_rust::xxh3::xxh3_64;

/// The replicated half of one node: its Raft shard, what waits for it, and the way back to the clients.
pub(crate) struct Replicated {
    pub(crate) shard: Shard<PeerTransport, NodeStorage>,
    me: NodeId,
    /// Which shard this is.
    pub(crate) place: ShardPlace,
    /// What an acknowledgement of this node survives.
    pub(crate) durability: Durability,
    /// Entries up to here were on the disk when this node started.
    recovered: LogIndex,
    pub(crate) jobs: Jobs,
    pub(crate) answers: Answers,
    pub(crate) counters: Rc<ServerCounters>,
    forwarder: Forwarder,
    pending: RefCell<PendingWrites>,
    /// The copies of sessions' calls that clients have sent to this node.
    copies: RefCell<Copies>,
    pub(crate) reads: Reads,
    /// Requests for local handlers that have not begun.
    locals: RefCell<VecDeque<Request>>,
    locals_limit: usize,
    locals_added: Notify,
    /// When the earliest log timer of the state is due.
    pub(crate) next_timer_at: Cell<Option<LogTime>>,
    /// It is another one than before, or due.
    pub(crate) timers_moved: Notify,
    /// There are new effects.
    pub(crate) effects_added: Notify,
    halted: RefCell<Option<Halt>>,
    /// When, in which term, and how many replicas were last counted as heard of: once a turn is enough.
    reachable: Cell<(Instant, Term, u8)>,
    /// This cluster's tag in the ids of its sessions.
    tag: Cell<Option<(ClusterId, u16)>>,
    mark: fn(u32) -> Option<Mark>,
}

impl Replicated {
    pub(crate) fn new(
        shard: Shard<PeerTransport, NodeStorage>,
        me: NodeId,
        answers: Answers,
        forwarder: Forwarder,
        counters: Rc<ServerCounters>,
        reads: Reads,
        mark: fn(u32) -> Option<Mark>,
    ) -> Self {
        let limit = reads.limit();
        Replicated {
            shard,
            me,
            place: ShardPlace::ALONE,
            durability: Durability::Volatile,
            recovered: LogIndex::ZERO,
            jobs: Jobs::new(limit),
            answers,
            counters,
            forwarder,
            pending: RefCell::new(PendingWrites::new(me.incarnation.0)),
            copies: RefCell::new(Copies::new(SESSIONS_MAX, me.incarnation.0)),
            reads,
            locals: RefCell::default(),
            locals_limit: limit,
            locals_added: Notify::new(),
            next_timer_at: Cell::new(None),
            timers_moved: Notify::new(),
            effects_added: Notify::new(),
            halted: RefCell::default(),
            reachable: Cell::new((Instant::FAR, Term::ZERO, 0)),
            tag: Cell::default(),
            mark,
        }
    }

    /// For a node whose log is on a disk, where it found entries up to `recovered`.
    pub(crate) fn with_durability(self, durability: Durability, recovered: LogIndex) -> Self {
        Replicated { durability, recovered, ..self }
    }

    /// For a node of several shards.
    pub(crate) fn with_place(self, place: ShardPlace) -> Self {
        Replicated { place, ..self }
    }

    /// Takes a complete request whatever its policy and sees to it that it is answered, forwarded, refused or counted.
    pub(crate) fn submit(&self, request: Request) {
        if self.has_come_before(&request) {
            return self.counters.drop_for(DropReason::CopySeen);
        }
        if self.halted.borrow().is_some() {
            return self.refuse(&request, Refusal::Stopped);
        }
        if request.block.is_some_and(|block| block.consistency != 0)
            && request.policy != Policy::ReplicatedRouteNoSideEffects
        {
            self.counters.drop_for(DropReason::UnknownConsistency);
            return self.refuse(&request, Refusal::UnknownConsistency);
        }
        // The method's mark decides, whatever the sender's policy says: the two must fit.
        let way = match ((self.mark)(request.method()), request.policy) {
            (Some(Mark::Replicated | Mark::Raw), Policy::ReplicatedRoute) => Self::write,
            (Some(Mark::Read | Mark::Raw), Policy::ReplicatedRouteNoSideEffects) => Self::read,
            (Some(Mark::Read | Mark::Raw), Policy::LbRoute | Policy::FixedRoute) => Self::look,
            (Some(Mark::Local), Policy::LbRoute | Policy::FixedRoute) => Self::local,
            (Some(Mark::Replicated | Mark::Read | Mark::Local), _) => {
                self.counters.drop_for(DropReason::PolicyMismatch);
                return self.refuse(&request, Refusal::PolicyMismatch);
            }
            (Some(Mark::Timer | Mark::Effect) | None, _) => {
                self.counters.drop_for(DropReason::UnknownMethod);
                return self.refuse(&request, Refusal::UnknownMethod);
            }
        };
        way(self, request);
    }

    fn local(&self, request: Request) {
        let mut locals = self.locals.borrow_mut();
        if locals.len() >= self.locals_limit {
            drop(locals);
            return self.refuse(&request, Refusal::Busy);
        }
        locals.push_back(request);
        self.locals_added.notify();
    }

    /// The next request for a local handler.
    pub(crate) async fn next_local(&self) -> Request {
        loop {
            let next = self.locals.borrow_mut().pop_front();
            match next {
                Some(request) => return request,
                None => self.locals_added.notified().await,
            }
        }
    }

    fn write(&self, request: Request) {
        self.append(EntryKind::Normal, request);
    }

    /// Opens a session for a client of ours.
    pub(crate) fn register(&self, request: Request) {
        if self.halted.borrow().is_some() {
            return self.refuse(&request, Refusal::Stopped);
        }
        match request.policy {
            Policy::ReplicatedRoute => self.append(EntryKind::Register, request),
            _ => self.refuse(&request, Refusal::PolicyMismatch),
        }
    }

    fn append(&self, kind: EntryKind, request: Request) {
        let body = request.body.bytes();
        let hash = xxh3_64(body);
        let block = request.block.unwrap_or_default();
        let name = match block.session {
            0 => Name::Triple(request.triple),
            session => Name::Call(CallId { session, seq: block.seq }),
        };
        if self.is_pending(&name, hash) {
            return self.counters.drop_for(DropReason::CopyPending);
        }
        let proposal = Proposal {
            kind,
            policy: request.policy.to_wire(),
            flags: u8::from(request.block.is_some()),
            method: block.method,
            client_ip: u32::from(*request.triple.client.ip()),
            client_port: request.triple.client.port(),
            rid: request.triple.rid.0,
            session: block.session,
            seq: block.seq,
            acked: block.acked,
            body: &[body],
            ..Proposal::default()
        };
        match self.shard.propose(proposal) {
            Ok(index) => {
                self.counters.count(Event::Proposed);
                let term = self.shard.with_machine(|machine| machine.term());
                self.pending.borrow_mut().add(name, Appended { index, term, hash });
            }
            Err(RaftError::NotLeader { leader }) => self.to_leader(request, leader),
            Err(error) => self.refuse(&request, refusal_of(&error)),
        }
    }

    /// Takes note of the copy of a session's call; `true` where it was delivered before. What was said of it then must stay true.
    fn has_come_before(&self, request: &Request) -> bool {
        let Some(block) = request.block.filter(bears_number) else { return false };
        // The node that it was sent to has taken note of it.
        request.policy == Policy::ReplicatedRoute
            && !request.forwarded
            && !self.copies.borrow_mut().add(block.session, block.copy)
    }

    /// Takes note of a copy that is refused before it is whole: should all of its packets come again, what its client was told
    /// must stay true.
    pub(crate) fn note_copy(&self, block: Option<RequestBlock>) {
        if let Some(block) = block.filter(bears_number) {
            self.copies.borrow_mut().add(block.session, block.copy);
        }
    }

    /// As [`submit`](Self::submit) decides, for the first packet of a request of several; it is taken note of when it is whole,
    /// or given up.
    pub(crate) fn is_late_copy(&self, block: &RequestBlock) -> bool {
        bears_number(block) && self.copies.borrow().has(block.session, block.copy)
    }

    /// Whether the request names a session, or the cluster, of another cluster than this node's: its client believes that
    /// it talks to one that is gone.
    pub(crate) fn is_of_another_cluster(&self, block: &RequestBlock) -> bool {
        if block.session == 0 {
            return false;
        }
        let Some(cluster) = self.shard.with_machine(|machine| machine.cluster()) else { return false };
        let tag = match self.tag.get() {
            Some((known, tag)) if known == cluster => tag,
            _ => SessionId::pin(cluster).tag(),
        };
        self.tag.set(Some((cluster, tag)));
        tag != SessionId(block.session).tag()
    }

    /// Whether the request names its cluster, and this node does not know yet what that cluster has: it would answer from an
    /// empty state.
    pub(crate) fn is_too_young(&self, request: &Request) -> bool {
        let named = request.block.is_some_and(|block| block.session != 0);
        named && !request.policy.is_replicated() && self.applied() == LogIndex::ZERO
    }

    /// Tells a client that its session is none of this cluster's.
    pub(crate) fn refuse_session(&self, request: &Request) {
        self.counters.count(Event::ForeignSession);
        let echo = request.block.unwrap_or_default().echo();
        let block = self.block(Status::SessionExpired, Refusal::Unspecified, LogIndex::ZERO, echo);
        self.answers.respond(request.triple, Some(&block), &[]);
    }

    fn is_pending(&self, name: &Name, hash: u64) -> bool {
        // Another leader may have cut the entry from the log since; then the copy is the request. One of an earlier term
        // that is still there may yet commit.
        let appended = self.pending.borrow().find(name, hash);
        appended.is_some_and(|entry| self.shard.with_log(|log| log.term_at(entry.index)) == Some(entry.term))
    }

    /// The newest entry that the state holds.
    pub(crate) fn applied(&self) -> LogIndex {
        self.shard.with_machine(|machine| machine.applied_index())
    }

    /// Writes appended here and not yet applied.
    pub(crate) fn pending_writes(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Sends a request on, once; what was already sent on, or came from a follower, stops here.
    pub(crate) fn to_leader(&self, request: Request, leader: Option<Member>) {
        self.reads.ended(&request);
        if request.forwarded {
            return self.counters.count(Event::ForwardedAgain);
        }
        let Some(leader) = leader.filter(|leader| leader.id != self.me) else {
            return self.refuse(&request, Refusal::NoLeader);
        };
        if is_foreign_loopback(request.triple.client, leader.peer) {
            self.counters.drop_for(DropReason::LoopbackClient);
            return self.refuse(&request, Refusal::NotLeader);
        }
        // A message put together here was begun while this node led: its parts were ACKed, the leader saw none of them.
        let Some((header, payload)) = request.datagram() else {
            return self.refuse(&request, Refusal::LeadershipLost);
        };
        if !self.forward(&leader, request.triple.client, &header, payload) {
            self.refuse(&request, Refusal::Busy);
        }
    }

    /// Sends the first packet of a multi-packet request to the leader, which asks the client for the rest.
    /// `false`: this node leads and must assemble the request itself.
    pub(crate) fn forward_first(&self, triple: Triple, header: &Header, payload: &[u8]) -> bool {
        if self.shard.is_leader() {
            return false;
        }
        self.shard.want_leader();
        let echo = first_echo(header, payload);
        match self.shard.leader().filter(|leader| leader.id != self.me) {
            // Our own clients follow the leader by the answer's hint, which saves the detour for all the rest.
            Some(_) if echo.is_some() => self.refuse_triple(triple, echo, Refusal::NotLeader),
            Some(leader) if is_foreign_loopback(triple.client, leader.peer) => {
                self.counters.drop_for(DropReason::LoopbackClient);
                self.refuse_triple(triple, echo, Refusal::NotLeader);
            }
            Some(leader) => {
                if !self.forward(&leader, triple.client, header, payload) {
                    self.refuse_triple(triple, echo, Refusal::Busy);
                }
            }
            None => self.refuse_triple(triple, echo, Refusal::NoLeader),
        }
        true
    }

    fn forward(&self, leader: &Member, client: SocketAddrV4, header: &Header, payload: &[u8]) -> bool {
        let cluster = self.shard.with_machine(|machine| machine.cluster());
        cluster.is_some_and(|cluster| self.forwarder.forward(cluster, leader, client, header, payload))
    }

    /// What is open in the outbox; nothing where the replica has halted. What was asked for comes back where too many wait for the
    /// state.
    pub(crate) async fn open_effects(&self, asked: OpenEffects) -> Result<Vec<(EffectId, Effect)>, OpenEffects> {
        let (to, open) = oneshot();
        match self.jobs.push(Job::Effects(asked, to)) {
            Err(Job::Effects(asked, _)) => Err(asked),
            _ => Ok(open.await.unwrap_or_default()),
        }
    }

    /// The earliest log timer is due `at`, by a state whose log time is `now`.
    pub(crate) fn timer_at(&self, at: Option<LogTime>, now: LogTime) {
        if self.next_timer_at.replace(at) != at || at.is_some_and(|at| at <= now) {
            self.timers_moved.notify();
        }
    }

    /// The apply task is past these entries, oldest first; with each the chain after it.
    pub(crate) fn passed(&self, states: &[(LogIndex, u64)]) {
        let Some((newest, _)) = states.last() else { return };
        self.shard.set_applied(states);
        self.pending.borrow_mut().applied(*newest);
    }

    /// The apply task has executed an entry that a client asked for: whoever leads now answers it.
    ///
    /// Of what an earlier life has left in the log nobody waits for an answer under the request id in it: by now a client that knows no
    /// blocks may use that id for another call, for which it would take this answer.
    pub(crate) fn answer_applied(&self, index: LogIndex, header: &EntryHeader, outcome: &Outcome, reply: &[u8]) {
        if index <= self.recovered {
            return;
        }
        let triple =
            Triple { client: SocketAddrV4::new(header.client_ip.into(), header.client_port), rid: Rid(header.rid) };
        let leading =
            self.shard.with_machine(|machine| machine.is_leader().then(|| (machine.me().client, machine.term())));
        let Some((me, term)) = leading.filter(|_| triple.client.port() != 0) else { return };
        if header.term != term && is_foreign_loopback(triple.client, me) {
            // An earlier leader took it on another machine, whose loopback this is: here it would be somebody else's.
            return self.counters.drop_for(DropReason::LoopbackClient);
        }
        let own_block = header.flags & 1 != 0;
        let block = own_block.then(|| {
            let echo = echo(header.session, header.seq, header.acked);
            self.block(outcome.status, outcome.reason, outcome.index, echo)
        });
        match outcome.status {
            // Applied or not, a client that knows no blocks would take an empty reply for a good one.
            Status::NotApplied if !own_block => self.answers.refuse(triple),
            _ => self.answers.respond(triple, block.as_ref(), reply),
        }
    }

    /// A query or a local handler has answered; the state that it saw, if any, was that of `applied`.
    pub(crate) fn answer(&self, request: &Request, applied: LogIndex, answer: Answer, reply: &[u8]) {
        self.reads.ended(request);
        let (status, reason) = status_of(answer);
        match request.block {
            Some(asked) => {
                let block = self.block(status, reason, applied, asked.echo());
                self.answers.respond(request.triple, Some(&block), reply);
            }
            None if status == Status::NotApplied => self.refuse(request, reason),
            None => self.answers.respond(request.triple, None, reply),
        }
    }

    /// A query or a local handler panicked; the state is shared and untouched, so the replica goes on.
    pub(crate) fn handler_panicked(&self, request: &Request, message: &str) {
        tracing::error!(method = request.method(), message, "a handler panicked");
        self.counters.count(Event::HandlerPanicked);
        self.reads.ended(request);
        if let Some(asked) = request.block {
            let block = self.block(Status::Internal, Refusal::Unspecified, LogIndex::ZERO, asked.echo());
            self.answers.respond(request.triple, Some(&block), message.as_bytes());
        }
    }

    /// Whether a call was sent here by another map of the shards than the cluster has, or to another shard.
    pub(crate) fn is_astray(&self, block: &RequestBlock) -> bool {
        block.shard != self.place.shard() || block.map_version != self.place.map().version()
    }

    /// Says no to a call for a shard that this node does not have.
    pub(crate) fn wrong_shard(&self, request: &Request) {
        self.counters.count(Event::Refused);
        let echo = request.block.unwrap_or_default().echo();
        let block = self.block(Status::WrongShard, Refusal::Unspecified, LogIndex::ZERO, echo);
        self.answers.respond(request.triple, Some(&block), &[]);
    }

    /// Stops serving: the apply task cannot go on.
    pub(crate) fn halt(&self, halt: Halt) {
        // That it diverged this node was told by Raft itself.
        if halt.code != Halt::DIVERGED {
            self.shard.stop_applying();
        }
        *self.halted.borrow_mut() = Some(halt);
    }

    /// Why this replica no longer applies, if so.
    pub(crate) fn halted(&self) -> Option<Halt> {
        self.halted.borrow().clone()
    }

    pub(crate) fn refuse_halted(&self, request: &Request) {
        self.refuse(request, Refusal::Stopped);
    }

    /// Says no to a request that was certainly not appended: DROP, or a block for our own clients. A forwarded request
    /// gets silence: another copy of it may be on its way through another node.
    pub(crate) fn refuse(&self, request: &Request, why: Refusal) {
        self.reads.ended(request);
        if request.forwarded {
            return self.counters.count(Event::ForwardedRefused);
        }
        self.refuse_triple(request.triple, request.block.map(|block| block.echo()), why);
    }

    pub(crate) fn refuse_triple(&self, triple: Triple, echo: Option<u64>, why: Refusal) {
        self.counters.count(Event::Refused);
        match why {
            Refusal::NoLeader => self.counters.drop_for(DropReason::NoLeader),
            Refusal::Busy => self.counters.drop_for(DropReason::Overloaded),
            _ => {}
        }
        self.say_no(triple, echo, why);
    }

    /// As [`refuse_triple`](Self::refuse_triple), for a reason that was counted where it was found.
    pub(crate) fn refuse_counted(&self, triple: Triple, echo: Option<u64>, why: Refusal) {
        self.counters.count(Event::Refused);
        self.say_no(triple, echo, why);
    }

    fn say_no(&self, triple: Triple, echo: Option<u64>, why: Refusal) {
        let Some(echo) = echo else { return self.answers.refuse(triple) };
        let status = if why == Refusal::NoLeader { Status::NoQuorum } else { Status::NotApplied };
        self.answers.respond(triple, Some(&self.block(status, why, LogIndex::ZERO, echo)), &[]);
    }

    /// A response block: besides the call's end it says how this node and its cluster are.
    #[inline]
    pub(crate) fn block(&self, status: Status, reason: Refusal, index: LogIndex, echo: u64) -> ResponseBlock {
        let now = now();
        self.shard.with_machine(|machine| {
            let term = machine.term();
            let reachable = match self.reachable.get() {
                (at, of, reachable) if (at, of) == (now, term) => reachable,
                _ => machine.reachable() as u8,
            };
            self.reachable.set((now, term, reachable));
            ResponseBlock {
                status,
                reason,
                leader: machine.leader().map_or(0, |leader| leader.id.slot.0),
                durability: self.durability as u8,
                reachable,
                total: machine.configuration().voters.len() as u8,
                term: term.0,
                index: index.0,
                echo,
            }
        })
    }
}

/// What an answer to this first packet repeats, where its client bears blocks.
fn first_echo(header: &Header, payload: &[u8]) -> Option<u64> {
    let block = header.flags.own_block.then(|| RequestBlock::parse(payload).ok())?;
    block.map(|(block, _)| block.echo())
}

/// Whether copies of this call are told apart.
fn bears_number(block: &RequestBlock) -> bool {
    block.session != 0 && block.copy != 0
}

/// A leader on another machine cannot answer a client that only its own follower can reach.
fn is_foreign_loopback(client: SocketAddrV4, leader: SocketAddrV4) -> bool {
    client.ip().is_loopback() && !leader.ip().is_loopback()
}

fn refusal_of(error: &RaftError) -> Refusal {
    match error {
        RaftError::TooLarge { .. } => Refusal::TooLarge,
        RaftError::Uninitialised => Refusal::Uninitialised,
        _ => Refusal::Busy,
    }
}
