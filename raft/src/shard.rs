//! The asynchronous shell of the machine: awaits messages, deadlines and completions, and carries the actions out.
//!
//! One task, [`Shard::run`], on the Control lane does all the work; handles only change state and wake it. It runs once for
//! everything that happened since, so the proposals of a turn leave in one append per peer.

mod futures;
mod reads;
mod snapshots;
mod waiters;

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use trimaran_runtime::channel::Signal;
use trimaran_runtime::time::Sleep;
use trimaran_runtime::{Instant, now, sleep_until, yield_now};

use crate::config::Configuration;
use crate::entry::{CommittedEntry, Proposal};
use crate::error::{BootstrapError, ChangeError, DropReason, Error, Fatal, ProposeError, TransferError};
use crate::id::{ClusterId, Incarnation, LogIndex, Member, Nanos, NodeId, Slot};
use crate::log::{Log, ReceivedSnapshot};
use crate::machine::{Accepted, Action, Input, Machine, More, Refused};
use crate::message::{Envelope, Message};
use crate::settings::ShardConfig;
use crate::status::{Counters, Status};
use crate::storage::wal::Recovered;
use crate::storage::{Completion, MemoryStorage, Storage};
use crate::transmit::transmit;
use crate::transport::Transport;

use futures::Wait;
use waiters::{ReadTable, Waiters};

pub use futures::{Leadership, ReadBarrier};
pub use reads::{Consistency, ReadPermit};

/// Bursts taken from the transport before what they changed is flushed.
const BURSTS: usize = 4;
/// Flushes in a row before other tasks have their turn.
const FLUSHES: usize = 8;

/// A handle to one replica of one group. Cheap to clone; stays on its core.
pub struct Shard<T: Transport, S: Storage = MemoryStorage> {
    inner: Rc<RefCell<Inner<T, S>>>,
}

impl<T: Transport, S: Storage> Clone for Shard<T, S> {
    fn clone(&self) -> Self {
        Shard { inner: Rc::clone(&self.inner) }
    }
}

impl<T: Transport, S: Storage> fmt::Debug for Shard<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

struct Inner<T, S> {
    machine: Machine,
    log: Log,
    transport: T,
    storage: S,
    /// Reused by every flush.
    actions: Vec<Action>,
    counters: Counters,
    /// The task that runs the shard, and whether it knows already that there is something to do.
    runner: Option<Waker>,
    woken: bool,
    /// Entries up to here have been handed to the apply task.
    delivered: LogIndex,
    committed: Waiters,
    applied: Waiters,
    reads: ReadTable,
    leadership: Waiters,
    leadership_changes: LogIndex,
    fences: Waiters,
    /// A snapshot that waits for the apply task; no entry is delivered before it is taken.
    received: Option<ReceivedSnapshot>,
    snapshots: Waiters,
    wanted: Waiters,
    /// The snapshot that the storage is making durable, and its [`Log::offset_bytes`].
    saving: Option<(LogIndex, u64)>,
    /// Raised with each of `committed`, `fences`, `snapshots` and `wanted`.
    work: Signal,
    /// Reads the clock, where the stamp of the turn is not enough.
    clock: Option<Box<dyn Fn() -> Instant>>,
    /// Reads that wait for the apply task, and for how long each may.
    waiting_applies: usize,
    read_patience: Duration,
    halted: bool,
}

impl<T: Transport, S: Storage> Shard<T, S> {
    /// A replica that knows no cluster yet. Call on its core; spawn [`Shard::run`] on the Control lane.
    pub fn new(config: ShardConfig, transport: T, storage: S) -> Self {
        let machine = Machine::new(&config, transport.payload_bytes(), stamp());
        Shard::with(&config, machine, Log::default(), transport, storage)
    }

    /// The life of a replica goes on that was found on a disk: `storage` is what was resumed from it, and the identity in `config` is
    /// replaced by the one that was found. [`Shard::next_snapshot`] hands the state over that the log goes on from, if there is one,
    /// as if it had arrived; what was committed after it is learnt from the leader and delivered again.
    pub fn resume(mut config: ShardConfig, transport: T, storage: S, recovered: Recovered) -> Self {
        config.me.id = recovered.id;
        let mut machine = Machine::new(&config, transport.payload_bytes(), stamp());
        let Recovered { cluster, hard, snapshot, log, fence, .. } = recovered;
        if let Some(cluster) = cluster {
            let at_base = snapshot.as_ref().map(|snapshot| snapshot.configuration.clone()).unwrap_or_default();
            machine.recover(cluster, hard, at_base, &log);
        }
        if let Some((term, index)) = fence {
            machine.remember_damage(term, index);
        }
        let shard = Shard::with(&config, machine, log, transport, storage);
        let inner = &mut *shard.inner.borrow_mut();
        inner.delivered = inner.log.base();
        inner.received = snapshot;
        shard.clone()
    }

    fn with(config: &ShardConfig, machine: Machine, log: Log, transport: T, storage: S) -> Self {
        let inner = Inner {
            machine,
            log,
            transport,
            storage,
            actions: Vec::new(),
            counters: Counters::default(),
            runner: None,
            woken: false,
            delivered: LogIndex::ZERO,
            committed: Waiters::default(),
            applied: Waiters::default(),
            reads: ReadTable::default(),
            leadership: Waiters::default(),
            leadership_changes: LogIndex::ZERO,
            fences: Waiters::default(),
            received: None,
            snapshots: Waiters::default(),
            wanted: Waiters::default(),
            saving: None,
            work: Signal::new(),
            clock: None,
            waiting_applies: 0,
            read_patience: config.reads.patience,
            halted: false,
        };
        let shard = Shard { inner: Rc::new(RefCell::new(inner)) };
        {
            let inner = &mut *shard.inner.borrow_mut();
            if inner.storage.reads_back() {
                inner.step(Input::StorageSaved(inner.log.offset_bytes(inner.log.base())));
            }
        }
        shard
    }

    /// Drives the replica until its storage fails. Each wake takes what has arrived, then the deadlines, then flushes.
    pub async fn run(self) -> Fatal {
        let mut sleep = sleep_until(Instant::FAR);
        poll_fn(|cx| self.inner.borrow_mut().turn(cx, &mut sleep)).await
    }

    /// Takes the first configuration on. Every member must be given the same `cluster`, `members` and `log_time` (nanoseconds).
    /// Repeating it for the same cluster does nothing.
    pub fn bootstrap(&self, cluster: ClusterId, members: &[Member], log_time: u64) -> Result<(), BootstrapError> {
        let inner = &mut *self.inner.borrow_mut();
        inner.machine.bootstrap(cluster, members, log_time, &mut inner.log)?;
        inner.wake();
        Ok(())
    }

    /// Appends an entry on the leader, copying the body once. It leaves with the others of this turn when [`Shard::run`] is
    /// polled; being appended is no promise that it commits. A refusal is proof that nothing was appended.
    pub fn propose(&self, proposal: Proposal<'_>) -> Result<LogIndex, ProposeError> {
        let inner = &mut *self.inner.borrow_mut();
        match inner.ask(Input::Propose(&proposal)) {
            Ok(Accepted::Appended(index)) => {
                inner.counters.proposed += 1;
                inner.wake();
                Ok(index)
            }
            Ok(_) => Err(Error::Overloaded),
            Err(refused) => Err(inner.refused(refused)),
        }
    }

    /// On the leader, an index such that state applied up to it is linearizable for a read that begins now. Costs a round to a
    /// quorum, shared by all reads that wait.
    pub fn read_barrier(&self) -> ReadBarrier<T, S> {
        self.begin_read(Input::Read)
    }

    /// Waits for the next committed entry in log order and copies it over `entry`. For one task, the one that applies.
    pub async fn next_committed(&self, entry: &mut CommittedEntry) {
        let mut wait = Wait { shard: self, list: |inner| &mut inner.committed, key: None };
        let mut is_there =
            |inner: &mut Inner<T, S>| inner.next_committed(entry).then_some(()).ok_or(inner.delivered.next());
        poll_fn(|cx| wait.poll(cx, &mut is_there)).await;
    }

    /// As [`Shard::next_committed`], if there is one now; else `false`, and `entry` is as it was.
    pub fn try_next_committed(&self, entry: &mut CommittedEntry) -> bool {
        self.inner.borrow_mut().next_committed(entry)
    }

    /// Ready where there may be news for the task that applies since it was last ready: an entry, a snapshot, a wish for one, or the end of
    /// its state's use. Costs less than to wait for each of them. For that one task.
    pub fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.borrow().work.poll_raised(cx)
    }

    /// The apply task has applied these entries, oldest first; with each the digest of the state after it, which rides in
    /// acknowledgements. Told of several at once it costs a few instructions for each.
    pub fn set_applied(&self, states: &[(LogIndex, u64)]) {
        let inner = &mut *self.inner.borrow_mut();
        let Some((newest, _)) = states.last() else { return };
        debug_assert!(*newest <= inner.delivered, "it has applied what it was given");
        inner.step(Input::Applied(states));
        inner.applied.reach(inner.machine.applied_index());
        if inner.machine.wants_flush(&inner.log) {
            inner.wake();
        }
    }

    /// The apply task cannot go on. This replica then votes and acknowledges as ever, says that it applies nothing more, and
    /// delivers no further entries; the log is not kept for it, and where another voter can serve, that one leads. Never
    /// undone.
    pub fn stop_applying(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.step(Input::Stopped);
        inner.applied.reach(LogIndex(u64::MAX));
        inner.wake();
    }

    /// Waits until this replica has applied up to `index`.
    pub async fn applied_at_least(&self, index: LogIndex) {
        let mut wait = Wait { shard: self, list: |inner| &mut inner.applied, key: None };
        let reached = |inner: &mut Inner<T, S>| if inner.state_reaches(index) { Ok(()) } else { Err(index) };
        poll_fn(|cx| wait.poll(cx, reached)).await;
    }

    /// Whether this node leads. A deposed leader may not know yet: only a committed entry or a read barrier proves it.
    pub fn is_leader(&self) -> bool {
        self.inner.borrow().machine.is_leader()
    }

    /// Somebody waits here for what only the leader can do. In a quiet group nobody else might notice for long that it is gone.
    /// [`Shard::propose`] and reads tell so by themselves.
    pub fn want_leader(&self) {
        let _ = self.inner.borrow_mut().ask(Input::LeaderWanted);
    }

    /// The leader of the newest term seen, as far as known.
    pub fn leader(&self) -> Option<Member> {
        self.inner.borrow().machine.leader()
    }

    /// A watch on role, term, leader, and transfers of leadership, beginning now.
    pub fn leadership(&self) -> Leadership<T, S> {
        Leadership::of(self.clone())
    }

    /// Where this node's state was found to differ from a majority's, or from so many that no majority is left: the state
    /// must not be used from here on. The shard then delivers no further entries, does not lead, and goes on voting.
    pub fn fenced(&self) -> Option<LogIndex> {
        self.inner.borrow().machine.fenced()
    }

    /// Waits until [`Shard::fenced`] is set, and returns it; for the task that serves from the state. Never undone.
    pub async fn fence_changed(&self) -> LogIndex {
        let mut wait = Wait { shard: self, list: |inner| &mut inner.fences, key: None };
        poll_fn(|cx| wait.poll(cx, |inner| inner.machine.fenced().ok_or(LogIndex::ZERO))).await
    }

    /// Begins a change of the members to the voters and learners of `target`, which the leader then takes step by step: new
    /// voters learn first, then old and new voters decide together, then the new alone. Done when [`Status::changing`] is
    /// false and [`Status::configuration`] is the target; forgotten when leadership moves before the voters are decided on.
    ///
    /// # Errors
    /// This node does not lead, another change is under way, the target is impossible, or would replace a voter that is heard.
    pub fn change_members(&self, target: &Configuration) -> Result<(), ChangeError> {
        self.request(Input::ChangeMembers(target))
    }

    /// Takes a change back that was begun here.
    ///
    /// # Errors
    /// This node does not lead, there is none, or it is too late: what is committed, or another leader's, can only be finished.
    pub fn cancel_change(&self) -> Result<(), ChangeError> {
        self.request(Input::CancelChange)
    }

    fn request(&self, input: Input<'_>) -> Result<(), Error> {
        let inner = &mut *self.inner.borrow_mut();
        let result = inner.ask(input);
        inner.wake();
        result.map(|_| ()).map_err(|refused| inner.refused(refused))
    }

    /// Begins to hand leadership over to the voter in this seat, or to the one that has most of the log. This node goes on
    /// leading and answers reads meanwhile, but takes no proposals; once the other holds the whole log it is told to stand for
    /// election at once. Ends within the longest election timeout, with a new leader or with this one as before:
    /// [`Shard::leadership`] reports both, [`Status::transferring`] says which node it is. Costs the service a few round trips.
    ///
    /// # Errors
    /// This node does not lead, another transfer is under way, or the voter is not fit, with the reason.
    pub fn transfer(&self, to: Option<Slot>) -> Result<(), TransferError> {
        let id_in = |slot| {
            let inner = self.inner.borrow();
            let voter = inner.machine.configuration().voters.iter().find(|voter| voter.id.slot == slot);
            voter.map_or(NodeId { slot, incarnation: Incarnation(0) }, |voter| voter.id)
        };
        let to = to.map(id_in);
        self.request(Input::Transfer(to))
    }

    /// Gives leadership up and tells the peers, of whom the best is to stand for election at once. For a node about to stop;
    /// reads fail first.
    pub fn farewell(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.step(Input::Farewell);
        inner.wake();
    }

    /// The log time in nanoseconds that an entry appended now would get on this node. Means something on the leader only.
    pub fn log_time(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.machine.log_time_at(stamp(), &inner.log)
    }

    /// A copy of everything worth showing.
    pub fn status(&self) -> Status {
        let inner = self.inner.borrow();
        Status::of(&inner.machine, &inner.log, inner.counters)
    }

    /// Counts since the start; [`Shard::status`] has them too, beside much else.
    pub fn counters(&self) -> Counters {
        self.inner.borrow().counters
    }

    /// Looks at the machine, for tests and invariants.
    pub fn with_machine<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        look(&self.inner.borrow().machine)
    }

    /// Looks at the storage, and may ask it to end its work: the replica goes on afterwards, if only to hear that it has.
    pub fn with_storage<R>(&self, look: impl FnOnce(&mut S) -> R) -> R {
        let inner = &mut *self.inner.borrow_mut();
        let seen = look(&mut inner.storage);
        inner.wake();
        seen
    }

    /// Looks at the log, for tests and invariants.
    pub fn with_log<R>(&self, look: impl FnOnce(&Log) -> R) -> R {
        look(&self.inner.borrow().log)
    }
}

impl<T: Transport, S: Storage> Inner<T, S> {
    fn turn(&mut self, cx: &mut Context<'_>, sleep: &mut Sleep) -> Poll<Fatal> {
        if !self.runner.as_ref().is_some_and(|runner| runner.will_wake(cx.waker())) {
            self.runner = Some(cx.waker().clone());
        }
        self.woken = true;
        let mut busy = self.receive(cx);
        self.storage.tick(stamp());
        self.complete(cx);
        if stamp() >= self.machine.next_deadline() {
            self.step(Input::Tick);
        }
        busy |= self.flush(cx) == More::Yes;
        if self.halted {
            return Poll::Ready(Error::StorageFailed);
        }
        self.woken = busy;
        if busy {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // A timer set early enough is left alone: firing once in vain is cheaper than moving it at every message.
        let deadline = Instant::from_nanos(self.machine.next_deadline().min(self.storage.next_deadline()).0);
        if sleep.deadline() > deadline || sleep.deadline() <= now() {
            sleep.reset(deadline);
            if Pin::new(sleep).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Takes what has arrived; true when more may be waiting.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let Inner { machine, log, transport, counters, .. } = self;
        let time = stamp();
        let mut deliver = |from: SocketAddrV4, bytes: &[u8]| {
            counters.received += 1;
            let Some(message) = Message::decode(bytes) else {
                counters.drop_one(DropReason::Malformed);
                return;
            };
            if let Err(Refused::Dropped(reason)) = machine.step(time, Input::Message(from, &message), log) {
                counters.drop_one(reason);
            }
        };
        (0..BURSTS).all(|_| transport.poll_recv(cx, &mut deliver).is_ready())
    }

    /// Takes what the storage has completed; true where there was something.
    fn complete(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(completion) = self.storage.poll_completion(cx) {
            any = true;
            match completion {
                Completion::Persisted(write) => self.step(Input::Persisted(write)),
                Completion::Failed => self.step(Input::StorageFailed),
                Completion::Stalled(stalled) => self.step(Input::StorageStalled(stalled)),
                Completion::Full(full) => {
                    tracing::warn!(node = %self.machine.me().id, full, "room for the log");
                    self.step(Input::StorageFull(full));
                }
                Completion::Saved(index) => self.saved(index),
            }
        }
        if self.saves_now() {
            self.want_snapshot();
        }
        any
    }

    /// Whether the storage wants this replica's own state.
    fn saves_now(&self) -> bool {
        let used = self.machine.fenced().is_none() && !self.machine.has_stopped() && self.received.is_none();
        let pressed = self.machine.is_short_of_saved(&self.log);
        used && self.storage.wants_snapshot(self.machine.applied_index(), pressed)
    }

    fn saved(&mut self, index: LogIndex) {
        tracing::info!(node = %self.machine.me().id, %index, "a snapshot is saved");
        // One that was received was counted when it replaced the log.
        if let Some((_, offset_bytes)) = self.saving.take_if(|(saving, _)| *saving == index) {
            self.step(Input::StorageSaved(offset_bytes));
        }
    }

    /// Takes what a client wants. Where that ends the group's quiet, the deadlines are others now.
    fn ask(&mut self, input: Input<'_>) -> Result<Accepted, Refused> {
        let was_quiet = self.machine.is_quiet();
        let result = self.machine.step(stamp(), input, &mut self.log);
        if was_quiet {
            self.wake();
        }
        result
    }

    /// An input that cannot be refused.
    fn step(&mut self, input: Input<'_>) {
        let _ = self.machine.step(stamp(), input, &mut self.log);
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> More {
        for _ in 0..FLUSHES {
            let room_bytes = self.storage.room_bytes();
            if room_bytes != self.machine.room_bytes() {
                self.step(Input::StorageRoom(room_bytes));
            }
            let mut actions = std::mem::take(&mut self.actions);
            let more = self.machine.flush(stamp(), &self.log, &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            self.actions = actions;
            // What it has completed may be acknowledged, and where it had no room it may have some now.
            let completed = self.complete(cx);
            let waits = room_bytes == 0 && self.storage.room_bytes() > 0;
            if more == More::No && !completed && !waits {
                return More::No;
            }
        }
        More::Yes
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Persist(write) => self.storage.write(write, &self.log),
            Action::Send(to, term, outgoing) => {
                let cluster = self.machine.cluster().unwrap_or_default();
                let (shard, from) = (self.machine.shard(), self.machine.me().id);
                let header = Envelope { shard, cluster, from, to: to.id, term };
                let sent = transmit(&mut self.transport, &to, &header, outgoing, &self.log);
                self.counters.sent += sent.datagrams;
                self.counters.unsent += sent.lost;
            }
            Action::Commit(index) => {
                self.committed.reach(index);
                self.work.raise();
            }
            Action::ReadsReady(ticket, index) => self.reads.settle(ticket, &Ok(index)),
            Action::ReadsFailed(ticket) => {
                self.reads.settle(ticket, &Err(Error::NotLeader { leader: self.machine.leader() }));
            }
            Action::Trim(to) => self.storage.trim(to),
            Action::OutOfReach(peer, needs) => {
                tracing::warn!(%peer, %needs, first = %self.log.first(), "a peer needs entries already trimmed; it stays out until it has a snapshot");
            }
            Action::SnapshotWanted => self.want_snapshot(),
            Action::Install => {
                if let Some(snapshot) = self.log.take_received() {
                    tracing::info!(node = %self.machine.me().id, index = %snapshot.index, bytes = snapshot.bytes.len(), "snapshot");
                    self.storage.install(self.machine.cluster().unwrap_or_default(), &snapshot);
                    self.counters.snapshots_installed += 1;
                    self.saving = None;
                    self.delivered = snapshot.index;
                    self.received = Some(snapshot);
                    self.snapshots.reach(LogIndex(u64::MAX));
                    self.work.raise();
                }
            }
            Action::Fenced(index) => {
                tracing::error!(node = %self.machine.me().id, %index, "this replica's state differs from a majority's; it is used no more");
                self.fences.reach(LogIndex(u64::MAX));
                self.work.raise();
                self.applied.reach(LogIndex(u64::MAX));
            }
            Action::LeadershipChanged => {
                self.counters.leadership_changes += 1;
                self.leadership_changes = self.leadership_changes.next();
                self.leadership.reach(LogIndex(u64::MAX));
                let machine = &self.machine;
                tracing::info!(node = %machine.me().id, role = ?machine.role(), term = %machine.term(), "leadership");
            }
            Action::Halt => self.halted = true,
        }
    }

    /// Somebody needs a snapshot of this replica's state.
    fn want_snapshot(&mut self) {
        self.wanted.reach(LogIndex(u64::MAX));
        self.work.raise();
    }

    fn next_committed(&mut self, entry: &mut CommittedEntry) -> bool {
        let index = self.delivered.next();
        let used = self.machine.fenced().is_none() && !self.machine.has_stopped();
        if index > self.machine.commit() || !used || self.received.is_some() {
            return false;
        }
        let Some((header, body)) = self.log.entry(index) else { return false };
        entry.index = index;
        entry.header = *header;
        entry.body.clear();
        body.for_each(|piece| entry.body.extend_from_slice(piece));
        self.delivered = index;
        true
    }

    fn refused(&mut self, refused: Refused) -> Error {
        let error = match refused {
            Refused::Request(error) => error,
            Refused::Dropped(_) => Error::Overloaded,
        };
        self.counters.overloaded += u64::from(error == Error::Overloaded);
        error
    }

    fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(runner) = &self.runner
        {
            runner.wake_by_ref();
        }
    }
}

fn stamp() -> Nanos {
    Nanos(now().as_nanos())
}
