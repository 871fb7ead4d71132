//! The apply task: it alone owns the state, executes what Raft has committed, and answers queries in between.

pub(crate) mod elsewhere;

use self::elsewhere::Loans;
use crate::log_time::LogTime;
use crate::outbox::{Effect, EffectId, Outbox};
use crate::reads::Sight;
use crate::replica::{Contents, Replica, panic_message};
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{Cx, ReadCx, Service};
use crate::shards::ShardPlace;
use crate::snapshot::{self, Taken};
use crate::state::{Turns, Writer};
use futures::FutureExt;
use futures::future::join;
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use trimaran_raft::{CommittedEntry, LogIndex, ReceivedSnapshot, Term};
use trimaran_runtime::channel::{OneshotSender, Signal};
use trimaran_runtime::{Instant, now, read_clock, sleep_until};

/// Entries executed, and queries answered, before other tasks of the core get a turn. Each has a share of its own: a log
/// that is never short of entries must not keep the readers waiting.
const JOBS_PER_TURN: usize = 64;
/// Fewer where they take longer than this together, or would by what they have taken lately: elections and heartbeats wait for them, and so do
/// their own answers, which leave when all of them are made.
const TURN_WORK: Duration = Duration::from_micros(100);
/// So many are done between two looks at the clock.
const JOBS_PER_LOOK: usize = 4;

/// Between two tries to save a state that could not be saved.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);

/// Why a replica has stopped applying. It goes on voting and replicating, so that the others keep their quorum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Halt {
    /// [`Halt::AWAITED`], [`Halt::PANICKED`] or [`Halt::DIVERGED`].
    pub code: String,
    /// The entry it could not apply; the state is that of the entry before.
    pub index: u64,
    /// The method key of the request block, 0 without one.
    pub method: u32,
    /// xxh3 of the request's bytes.
    pub request_hash: u64,
    /// The panic's message, or what was awaited.
    pub message: String,
}

impl Halt {
    /// Awaited something other than [`Cx::yield_now`](crate::service::Cx::yield_now).
    pub const AWAITED: &'static str = "E0311";
    /// Panicked.
    pub const PANICKED: &'static str = "E0313";
    /// The others came to another state.
    pub const DIVERGED: &'static str = "E0314";
    /// Was sent a state that this build cannot read.
    pub const BAD_SNAPSHOT: &'static str = "E0315";
}

/// A look at the service, which is the `Any`: the queue knows no services.
pub(crate) type Look = Box<dyn FnOnce(&dyn Any)>;

/// Something to do with the state besides applying entries and answering queries.
pub(crate) enum Job {
    /// Hash the whole state.
    Digest(OneshotSender<StateDigest>),
    /// Write the whole state down.
    Backup(OneshotSender<Option<TakenState>>),
    /// Look at the service.
    Look(Look),
    /// Copy open effects.
    Effects(OpenEffects, OneshotSender<Vec<(EffectId, Effect)>>),
}

/// Which open effects: of these some, then those after another, and how many in all.
pub(crate) struct OpenEffects {
    pub(crate) ids: Vec<EffectId>,
    pub(crate) after: Option<EffectId>,
    pub(crate) most: usize,
}

impl OpenEffects {
    fn of(&self, outbox: &Outbox) -> Vec<(EffectId, Effect)> {
        let again = self.ids.iter().filter_map(|id| outbox.get(*id).map(|effect| (*id, effect)));
        again.chain(outbox.after(self.after)).take(self.most).map(|(id, effect)| (id, effect.clone())).collect()
    }
}

/// A replica's state and its place in the log.
pub(crate) struct TakenState {
    pub(crate) service: &'static str,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) log_time: u64,
    pub(crate) digest: u64,
    pub(crate) bytes: Rc<Vec<u8>>,
}

/// The hash of a replica's state and of the way it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateDigest {
    /// The newest applied entry.
    pub applied: u64,
    /// Hash of the saved state after that entry, and of timers, outbox and sessions.
    pub state: u64,
    /// The chain over (index, method, request hash, reply hash, outcome) of every entry up to it.
    pub chain: u64,
}

/// What waits for the apply task besides the log: at most `limit` queries, and as many other jobs.
pub(crate) struct Jobs {
    queries: RefCell<VecDeque<(Sight, Request)>>,
    others: RefCell<VecDeque<Job>>,
    limit: usize,
    added: Signal,
}

impl Jobs {
    pub(crate) fn new(limit: usize) -> Self {
        Jobs { queries: RefCell::default(), others: RefCell::default(), limit, added: Signal::new() }
    }

    /// Queues a job, or gives it back where the queue is full.
    #[allow(clippy::result_large_err, reason = "a refused job comes back without an allocation")]
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.others.borrow_mut();
        if queue.len() >= self.limit {
            return Err(job);
        }
        queue.push_back(job);
        self.added.raise();
        Ok(())
    }

    /// Queues a request that is to be answered from a state which it may see, or gives it back where the queue is full.
    #[allow(clippy::result_large_err, reason = "a refused request comes back without an allocation")]
    pub(crate) fn push_query(&self, sight: Sight, request: Request) -> Result<(), Request> {
        let mut queue = self.queries.borrow_mut();
        if queue.len() >= self.limit {
            return Err(request);
        }
        queue.push_back((sight, request));
        self.added.raise();
        Ok(())
    }

    /// The next query that may be answered from a state of which entries up to `applied` are part. Each query is looked at once in `looks`:
    /// one whose index comes with a later entry goes to the end, and the others do not wait for it.
    fn next_query(&self, applied: LogIndex, looks: &mut usize) -> Option<(Sight, Request)> {
        let mut queue = self.queries.borrow_mut();
        while *looks > 0 {
            *looks -= 1;
            let (sight, request) = queue.pop_front()?;
            if sight.at <= applied {
                return Some((sight, request));
            }
            queue.push_back((sight, request));
        }
        None
    }
}

/// How many of a kind are done in one go.
struct Share {
    each_takes: Duration,
}

impl Share {
    const fn new() -> Self {
        Share { each_takes: Duration::ZERO }
    }

    fn limit(&self) -> usize {
        let fit = TURN_WORK.as_nanos() / self.each_takes.as_nanos().max(1);
        (fit as usize).clamp(1, JOBS_PER_TURN)
    }

    /// Whether `done` of them, the first of which began at `from`, have taken all the time that there is.
    fn is_used_up(done: usize, from: Instant) -> bool {
        done.is_multiple_of(JOBS_PER_LOOK) && read_clock().saturating_since(from) >= TURN_WORK
    }

    /// An eighth of what is new counts: one slow handler does not make all turns short.
    fn learn(&mut self, took: Duration, count: usize) {
        if count > 0 {
            self.each_takes = (self.each_takes * 7 + took / count as u32) / 8;
        }
    }
}

/// Runs until the node ends. On a handler that misbehaves the replica halts: nothing is applied or answered any more.
pub(crate) async fn run<S: Service>(node: Rc<Replicated>, replica: Replica<S>) {
    let mut apply = Apply::new(node.clone(), replica);
    if let Err(halt) = apply.run().await {
        halted(&node, *halt, Some(apply.replica)).await;
    }
}

/// As [`run`], with an applier elsewhere that executes entries and queries.
pub(crate) async fn run_elsewhere<S: Service>(node: Rc<Replicated>, replica: Replica<S>, loans: Loans<S>) {
    let (halt, replica) = elsewhere::run(Apply::new(node.clone(), replica), loans).await;
    halted(&node, *halt, replica).await;
}

/// Waiting queries are refused, later ones by the server. Runs until the node ends. The replica's state, half changed, is never read
/// again: it is given back.
async fn halted<S: Service>(node: &Replicated, halt: Halt, replica: Option<Box<Replica<S>>>) {
    tracing::error!(
        code = halt.code,
        index = halt.index,
        method = halt.method,
        request_hash = halt.request_hash,
        message = halt.message,
        "this replica stops applying; it keeps replicating and voting"
    );
    node.halt(halt);
    let give_back = async {
        if let Some(replica) = replica {
            discard(replica.into_contents()).await;
        }
    };
    join(refuse_all(node), give_back).await;
}

async fn refuse_all(node: &Replicated) {
    loop {
        // Who asked for something else hears that it is gone.
        node.jobs.others.borrow_mut().clear();
        let query = node.jobs.queries.borrow_mut().pop_front();
        match query {
            Some((_, request)) => node.refuse_halted(&request),
            None => node.jobs.added.raised().await,
        }
    }
}

/// Gives back what a replica has held. A panic in it is nobody's loss: the rest is dropped.
async fn discard<S: Service>(former: Contents<S>) {
    let _ = AssertUnwindSafe(former.discard(&mut Turns::new())).catch_unwind().await;
}

/// What each replica did is a function of the log, unless its service looks at something else.
fn diverged(index: LogIndex) -> Box<Halt> {
    let message = "after this entry the replicas' states differ, and this one is not in the majority: a replicated handler \
                   depends on something that the log does not order";
    Box::new(Halt { code: Halt::DIVERGED.into(), index: index.0, method: 0, request_hash: 0, message: message.into() })
}

/// What there is to do: entries, queries, and what is rare. It stays on the node's core, wherever the replica is.
struct Intake {
    node: Rc<Replicated>,
    /// The entry in hand, where there is one, or an earlier one.
    entry: CommittedEntry,
    snapshot_not_before: Instant,
}

struct Apply<S> {
    node: Rc<Replicated>,
    intake: Intake,
    /// A pointer, since it may be handed to another core and back.
    replica: Box<Replica<S>>,
    reply: Vec<u8>,
    entries_share: Share,
    queries_share: Share,
    /// Entries of this turn that the node has not been told of, and the chain after each.
    passed: Vec<(LogIndex, u64)>,
}

impl Intake {
    /// Whether something goes before any entry: the end of a replica in the wrong, or a snapshot to or from another.
    fn is_interrupted(&self) -> bool {
        let shard = &self.node.shard;
        shard.fenced().is_some() || shard.has_snapshot() || self.is_snapshot_due()
    }

    fn is_snapshot_due(&self) -> bool {
        self.node.shard.snapshot_wanted_now().is_some() && now() >= self.snapshot_not_before
    }

    /// Waits for something to do; true where it is an entry, which is in hand then. What is rare comes first: entries without end must not
    /// hide it.
    async fn next(&mut self) -> bool {
        let Intake { node, entry, snapshot_not_before } = self;
        let shard = &node.shard;
        let mut pause = sleep_until(*snapshot_not_before);
        poll_fn(|cx| {
            loop {
                if shard.fenced().is_some() || shard.has_snapshot() {
                    return Poll::Ready(false);
                }
                if shard.snapshot_wanted_now().is_some() && Pin::new(&mut pause).poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                if shard.try_next_committed(entry) {
                    return Poll::Ready(true);
                }
                if node.jobs.added.poll_raised(cx).is_ready() {
                    return Poll::Ready(false);
                }
                if shard.poll_work(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl<S: Service> Apply<S> {
    fn new(node: Rc<Replicated>, replica: Replica<S>) -> Self {
        let intake =
            Intake { node: node.clone(), entry: CommittedEntry::default(), snapshot_not_before: Instant::ZERO };
        let passed = Vec::with_capacity(JOBS_PER_TURN);
        let (entries_share, queries_share) = (Share::new(), Share::new());
        Apply { node, intake, replica: Box::new(replica), reply: Vec::new(), entries_share, queries_share, passed }
    }

    async fn run(&mut self) -> Result<(), Box<Halt>> {
        let mut is_in_hand = false;
        loop {
            // Not while an entry is in hand: a snapshot that is taken on may hold it, and it would be executed twice.
            if !is_in_hand {
                self.snapshots().await?;
            }
            let mut has_more = self.burst(std::mem::take(&mut is_in_hand)).await?;
            has_more |= self.queries();
            has_more |= self.other_jobs().await;
            if has_more {
                trimaran_runtime::yield_now().await;
                continue;
            }
            is_in_hand = self.intake.next().await;
            if is_in_hand {
                self.let_leader_go_first().await;
            }
        }
    }

    /// Nobody waits for what a follower applies, but the leader waits for its acknowledgement of the next entry, which came in the same
    /// turn and leaves at the end of it. Where the leader is on this core, too, its own turn with the acknowledgements is the next one.
    async fn let_leader_go_first(&self) {
        if !self.node.shard.is_leader() {
            trimaran_runtime::yield_now().await;
            trimaran_runtime::yield_now().await;
        }
    }

    /// What goes before any entry: the end of a replica in the wrong, and snapshots to and from others.
    async fn snapshots(&mut self) -> Result<(), Box<Halt>> {
        if let Some(index) = self.node.shard.fenced() {
            return Err(diverged(index));
        }
        if let Some(snapshot) = self.node.shard.try_next_snapshot() {
            self.install(snapshot).await?;
        }
        if self.intake.is_snapshot_due() {
            self.give_out().await;
        }
        Ok(())
    }

    /// Another replica's state takes the place of this one's.
    async fn install(&mut self, received: ReceivedSnapshot) -> Result<(), Box<Halt>> {
        let former = snapshot::install(&mut self.replica, &received).await?;
        self.node.passed(&[(received.index, self.replica.chain)]);
        self.node.timer_at(self.replica.cx.timers.next_at(), self.replica.cx.now);
        // Not earlier: until all was read, an error had to leave the old state in place. Not later, beside the next entries: another
        // snapshot might come, and there would be three states.
        match Rc::try_unwrap(received.bytes) {
            Ok(bytes) => Turns::new().drop_vec(bytes).await,
            Err(shared) => snapshot::give_back(shared),
        }
        discard(former).await;
        Ok(())
    }

    /// Gives this replica's state out, for a peer that needs what the log no longer holds.
    async fn give_out(&mut self) {
        let limit_bytes = self.node.shard.snapshot_limit_bytes().unwrap_or(u64::MAX);
        let snapshot = match AssertUnwindSafe(snapshot::take(&self.replica, limit_bytes)).catch_unwind().await {
            Ok(Taken::Whole(snapshot)) => snapshot,
            Ok(Taken::TooLarge) => {
                tracing::warn!(limit_bytes, "the state is larger than a snapshot may be: peers that need it stay out");
                return self.node.shard.snapshot_too_large(limit_bytes.saturating_add(1));
            }
            // A state that cannot be saved: the peer stays out, and this replica goes on.
            Ok(Taken::Unsaved) | Err(_) => {
                self.intake.snapshot_not_before = now() + SNAPSHOT_PAUSE;
                return;
            }
        };
        let bytes = snapshot.bytes.len();
        snapshot::give_back(snapshot.bytes.clone());
        match self.node.shard.offer_snapshot(snapshot).await {
            Ok(()) => tracing::info!(bytes, "a snapshot is given out"),
            Err(error) => tracing::warn!(bytes, %error, "a snapshot was not taken"),
        }
    }

    /// Executes what is committed, first of all the entry in hand where there is one, and tells the node of all of it at once. Whether
    /// there may be more than its share.
    async fn burst(&mut self, mut is_in_hand: bool) -> Result<bool, Box<Halt>> {
        self.learn_cluster();
        let (share, from) = (self.entries_share.limit(), read_clock());
        let (mut done, mut end, mut has_more) = (0, Ok(()), false);
        while !has_more
            && (std::mem::take(&mut is_in_hand) || self.node.shard.try_next_committed(&mut self.intake.entry))
        {
            end = self.execute().await;
            if end.is_err() {
                break;
            }
            done += 1;
            has_more = done == share || Share::is_used_up(done, from);
        }
        self.node.passed(&self.passed);
        self.passed.clear();
        if done > 0 {
            self.entries_share.learn(read_clock().saturating_since(from), done);
        }
        end.map(|()| has_more)
    }

    /// The entry in hand.
    async fn execute(&mut self) -> Result<(), Box<Halt>> {
        let CommittedEntry { index, ref header, ref body } = self.intake.entry;
        let outcome = self.replica.entry(index, header, body, &mut self.reply).await?;
        self.passed.push((index, self.replica.chain));
        self.node.timer_at(self.replica.cx.timers.next_at(), self.replica.cx.now);
        if self.replica.cx.outbox.newest().is_some_and(|id| id.index == index.0) {
            self.node.effects_added.notify();
        }
        if let Some(outcome) = outcome {
            self.node.answer_applied(index, header, &outcome, &self.reply);
        }
        Ok(())
    }

    fn learn_cluster(&mut self) {
        if self.replica.cx.cluster == 0 {
            let cluster = self.node.shard.with_machine(|machine| machine.cluster());
            self.replica.cx.cluster = cluster.map_or(0, |cluster| cluster.0);
        }
    }

    /// Answers waiting queries whose index is reached; whether there may be more than their share.
    fn queries(&mut self) -> bool {
        let mut looks = self.node.jobs.queries.borrow().len();
        if looks == 0 {
            return false;
        }
        let (share, from, mut done, mut has_more) = (self.queries_share.limit(), read_clock(), 0, false);
        while !has_more && let Some((sight, request)) = self.node.jobs.next_query(self.replica.cx.index, &mut looks) {
            self.query(sight, &request);
            done += 1;
            has_more = done == share || Share::is_used_up(done, from);
        }
        self.queries_share.learn(read_clock().saturating_since(from), done);
        has_more
    }

    /// Does the jobs that are no queries, each turn some of them: work without end must not hide them. Whether there are more.
    async fn other_jobs(&mut self) -> bool {
        for _ in 0..JOBS_PER_TURN {
            let Some(job) = self.node.jobs.others.borrow_mut().pop_front() else { return false };
            self.other_job(job).await;
        }
        true
    }

    /// Who asked may have given up meanwhile.
    async fn other_job(&mut self, job: Job) {
        match job {
            // A panic is the asker's loss, who gets no answer.
            Job::Look(look) => _ = std::panic::catch_unwind(AssertUnwindSafe(|| look(&self.replica.service))),
            Job::Effects(which, to) => _ = to.send(which.of(&self.replica.cx.outbox)),
            Job::Backup(to) => {
                let taken = AssertUnwindSafe(snapshot::take(&self.replica, u64::MAX)).catch_unwind().await;
                let cx = &self.replica.cx;
                let (index, term, log_time) = (cx.index, cx.term, cx.now.as_nanos());
                let (service, digest) = (S::NAME, self.replica.chain);
                let state = |bytes| TakenState { service, index, term, log_time, digest, bytes };
                let whole = match taken {
                    Ok(Taken::Whole(snapshot)) => {
                        snapshot::give_back(snapshot.bytes.clone());
                        Some(state(snapshot.bytes))
                    }
                    _ => None,
                };
                let _ = to.send(whole);
            }
            Job::Digest(to) => self.digest(to).await,
        }
    }

    /// A panic is the asker's loss, who gets no digest; the asker may also have given up.
    async fn digest(&mut self, to: OneshotSender<StateDigest>) {
        let mut writer = Writer::digest();
        if AssertUnwindSafe(self.replica.save(&mut writer)).catch_unwind().await.is_ok() {
            let (applied, chain) = (self.replica.cx.index.0, self.replica.chain);
            let _ = to.send(StateDigest { applied, state: writer.hash(), chain });
        }
    }

    fn query(&mut self, sight: Sight, request: &Request) {
        let Cx { index, now, place, .. } = self.replica.cx;
        let cx = read_cx(request, index, now, place);
        self.reply.clear();
        let service = &self.replica.service;
        let reply = &mut self.reply;
        let bytes = request.body.bytes();
        match std::panic::catch_unwind(AssertUnwindSafe(|| service.query(&cx, bytes, reply))) {
            // The lease may have ended, or the state have been found to be wrong, since the query was let in.
            Ok(answer) if self.node.release(request, sight) => {
                self.node.answer(request, cx.applied, answer, &self.reply);
            }
            Ok(_) => {}
            Err(panic) => self.node.handler_panicked(request, &panic_message(panic.as_ref())),
        }
    }
}

/// What a query is told that sees the state after `applied`.
fn read_cx(request: &Request, applied: LogIndex, now: LogTime, place: ShardPlace) -> ReadCx {
    ReadCx { policy: request.policy, method: request.method(), client: request.triple.client, applied, now, place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_as_large_as_what_it_takes_allows() {
        let mut share = Share::new();
        assert_eq!(share.limit(), JOBS_PER_TURN);
        (0..64).for_each(|_| share.learn(Duration::from_micros(640), 64));
        assert_eq!(share.limit(), 10);
        // One that is slow, and one that takes longer than a whole turn should.
        share.learn(Duration::from_millis(1), 10);
        assert!((4..10).contains(&share.limit()), "{}", share.limit());
        (0..64).for_each(|_| share.learn(Duration::from_millis(1), 1));
        assert_eq!(share.limit(), 1);
        share.learn(Duration::ZERO, 0);
        assert_eq!(share.limit(), 1);
    }
}
