//! Handlers on a core of their own: the apply task lends the replica, with runs of the log and the queries behind them, and hears what
//! came of each.
//!
//! ```text
//!   the node's core    lend k ─► lend k+1    answer k ─► lend k+2    answer k+1 ─► lend k+3 ..
//!                        │          └──────┐ ▲              └──────┐ ▲
//!   the applier's        └─ execute k ─────┼─┴─ execute k+1 ───────┼─┴─ execute k+2 ..
//! ```
//!
//! One loan waits while another is executed, so that the applier never waits for the node's core, which may be in the middle of a long
//! turn. The state goes with the first of them, as a pointer, and stays with the applier until the node asks for it back; it is in one
//! place at any moment and needs no lock. Requests are in the copies that are made of the log's in any case, replies are written where
//! they are sent from; the same buffers go round. While the replica is away, packets and elections have their core to themselves.
//! Snapshots, digests and looks at the service wait until it is back, and are done on the node's core.

use super::{Apply, Halt, Intake, Share, read_cx};
use crate::log_time::LogTime;
use crate::reads::Sight;
use crate::replica::{Outcome, Replica, panic_message};
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{Answer, ReadCx, Service};
use crate::shards::ShardPlace;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use trimaran_raft::{CommittedEntry, LogIndex};
use trimaran_runtime::{Handoff, read_clock, yield_now};

/// Loans that are away at most: one that is executed, and one that waits for that.
pub(crate) const LOANS: usize = 2;
/// A buffer that a large request or reply has blown up is given back.
const KEPT_BYTES: usize = 64 << 10;

/// The node's end.
pub(crate) type Loans<S> = Handoff<Box<Loan<S>>>;

/// What is lent, and given back.
pub(crate) struct Loan<S> {
    /// With the first loan of several, and when the last comes back, or one that has come to an entry that could not be executed.
    replica: Option<Box<Replica<S>>>,
    work: Work,
    /// The replica shall come back with it.
    is_last: bool,
}

/// Executes a node's handlers: the other end of its loans. Run it on another core than the node's.
pub struct Applier<S>(Loans<S>);

impl<S: Service> Applier<S> {
    pub(crate) fn new(loans: Loans<S>) -> Self {
        Applier(loans)
    }

    /// Until the node ends. A node whose applier ends before stops applying (E0313).
    pub async fn run(self) {
        let mut lent = None;
        while let Some(mut loan) = self.0.take().await {
            lent = loan.replica.take().or(lent);
            // What comes after an entry that could not be executed goes back as it came.
            if let Some(replica) = &mut lent {
                loan.work.run(replica).await;
            }
            if loan.is_last || loan.work.halt.is_some() {
                loan.replica = lent.take();
            }
            if self.0.give(loan).is_err() {
                return;
            }
            // Another one may wait already.
            yield_now().await;
        }
    }
}

impl<S> std::fmt::Debug for Applier<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Applier").finish()
    }
}

/// A run of the log, queries that see the state behind it, and what came of both.
#[derive(Default)]
pub(crate) struct Work {
    entries: Slots<Entry>,
    queries: Slots<Query>,
    /// Entries executed.
    done: usize,
    /// The entry after those could not be.
    halt: Option<Box<Halt>>,
    took: Duration,
    queries_took: Duration,
}

#[derive(Default)]
struct Entry {
    committed: CommittedEntry,
    reply: Vec<u8>,
    outcome: Option<Outcome>,
    /// Of the replica behind it.
    chain: u64,
    next_timer_at: Option<LogTime>,
    adds_effects: bool,
}

#[derive(Default)]
struct Query {
    cx: Option<ReadCx>,
    request: Vec<u8>,
    reply: Vec<u8>,
    /// `Err`: the panic's message.
    answer: Option<Result<Answer, String>>,
}

/// Elements that keep their buffers when they are used again.
struct Slots<T> {
    all: Vec<T>,
    used: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { all: Vec::new(), used: 0 }
    }
}

impl<T: Default> Slots<T> {
    /// The next one, as it was left.
    fn next(&mut self) -> &mut T {
        if self.used == self.all.len() {
            self.all.push(T::default());
        }
        self.used += 1;
        &mut self.all[self.used - 1]
    }

    /// Takes the one back that [`Slots::next`] gave last.
    fn undo(&mut self) {
        self.used -= 1;
    }

    fn used(&mut self) -> &mut [T] {
        &mut self.all[..self.used]
    }
}

impl Work {
    /// On the applier's core.
    async fn run<S: Service>(&mut self, replica: &mut Replica<S>) {
        let from = read_clock();
        for entry in self.entries.used() {
            let CommittedEntry { index, ref header, ref body } = entry.committed;
            match replica.entry(index, header, body, &mut entry.reply).await {
                Ok(outcome) => entry.outcome = outcome,
                Err(halt) => {
                    self.halt = Some(halt);
                    return;
                }
            }
            entry.chain = replica.chain;
            entry.next_timer_at = replica.cx.timers.next_at();
            entry.adds_effects = replica.cx.outbox.newest().is_some_and(|id| id.index == index.0);
            self.done += 1;
        }
        let between = read_clock();
        self.took = between.saturating_since(from);
        for query in self.queries.used() {
            let Some(cx) = &mut query.cx else { continue };
            (cx.applied, cx.now) = (replica.cx.index, replica.cx.now);
            query.reply.clear();
            let call = || replica.service.query(cx, &query.request, &mut query.reply);
            let answer = std::panic::catch_unwind(AssertUnwindSafe(call));
            query.answer = Some(answer.map_err(|panic| panic_message(panic.as_ref())));
        }
        self.queries_took = read_clock().saturating_since(between);
    }

    /// For the next loan. What large requests and replies have taken is given back.
    fn clear(&mut self) {
        let fit = |buffer: &mut Vec<u8>| {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        };
        self.entries
            .used()
            .iter_mut()
            .for_each(|entry| [&mut entry.committed.body, &mut entry.reply].into_iter().for_each(fit));
        self.queries
            .used()
            .iter_mut()
            .for_each(|query| [&mut query.request, &mut query.reply].into_iter().for_each(fit));
        (self.entries.used, self.queries.used, self.done) = (0, 0, 0);
    }
}

/// Work, and who has asked the queries in it, in the same order; these stay with the node.
#[derive(Default)]
struct Batch {
    work: Work,
    asked: Vec<(Sight, Request)>,
    /// What the node is told of the entries. Empty between calls.
    passed: Vec<(LogIndex, u64)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.work.entries.used == 0 && self.work.queries.used == 0
    }

    /// Answers what is done, on the node's core, and is empty afterwards.
    fn settle(&mut self, node: &Replicated) {
        let done = self.work.done;
        self.passed.extend(self.work.entries.used()[..done].iter().map(|entry| (entry.committed.index, entry.chain)));
        node.passed(&self.passed);
        self.passed.clear();
        for entry in &self.work.entries.used()[..done] {
            node.timer_at(entry.next_timer_at, LogTime::from_nanos(entry.committed.header.log_time));
            if entry.adds_effects {
                node.effects_added.notify();
            }
            if let Some(outcome) = &entry.outcome {
                node.answer_applied(entry.committed.index, &entry.committed.header, outcome, &entry.reply);
            }
        }
        let mut queries = self.work.queries.used().iter_mut();
        for (sight, request) in self.asked.drain(..) {
            let Some(query) = queries.next() else {
                // It went with the applier.
                node.refuse_halted(&request);
                continue;
            };
            match (query.answer.take(), query.cx) {
                // The lease may have ended, or the state have been found to be wrong, since the query was let in.
                (Some(Ok(answer)), Some(cx)) => {
                    if node.release(&request, sight) {
                        node.answer(&request, cx.applied, answer, &query.reply);
                    }
                }
                (Some(Err(message)), _) => node.handler_panicked(&request, &message),
                // The replica has halted before it.
                _ => node.refuse_halted(&request),
            }
        }
        self.work.clear();
    }
}

/// The node's end: what is gathered, and what is away.
struct Lender<S> {
    loans: Loans<S>,
    place: ShardPlace,
    /// How many entries a loan holds: the first reply of it waits for the last.
    entries_share: Share,
    queries_share: Share,
    /// Gathered, and not lent yet.
    batch: Batch,
    /// Oldest first, without their work.
    away: VecDeque<Batch>,
    /// Buffers for the next ones.
    spare: Vec<Batch>,
    /// What the replica will have applied with all that is gathered or away.
    last: LogIndex,
}

/// Why nothing is applied any more. The replica comes back unless the applier ended with it.
type End<S> = (Box<Halt>, Option<Box<Replica<S>>>);

/// Runs until the replica halts, and says why.
pub(super) async fn run<S: Service>(mut apply: Apply<S>, loans: Loans<S>) -> End<S> {
    let mut lender = Lender {
        loans,
        place: apply.replica.cx.place,
        entries_share: Share::new(),
        queries_share: Share::new(),
        batch: Batch::default(),
        away: VecDeque::with_capacity(LOANS),
        spare: Vec::with_capacity(LOANS),
        last: LogIndex::ZERO,
    };
    loop {
        // Not while an entry is in hand: a snapshot that is taken on may hold it, and it would be executed twice.
        if let Err(halt) = apply.snapshots().await {
            return (halt, Some(apply.replica));
        }
        while apply.other_jobs().await {
            yield_now().await;
        }
        lender.last = apply.replica.cx.index;
        lender.gather(&apply.intake);
        while lender.batch.is_empty() && !apply.intake.wants_replica() {
            lender.look(&mut apply.intake).await;
        }
        if lender.batch.is_empty() {
            continue;
        }
        apply.learn_cluster();
        let Apply { node, mut intake, replica, reply, entries_share, queries_share, passed } = apply;
        match lender.lend(&mut intake, replica).await {
            Ok(replica) => apply = Apply { node, intake, replica, reply, entries_share, queries_share, passed },
            Err(end) => return end,
        }
    }
}

/// What ends a lender's wait.
enum Woken<S> {
    /// `None`: the applier has ended.
    Back(Option<Box<Loan<S>>>),
    /// It is in hand.
    Entry,
    Look,
}

impl<S: Service> Lender<S> {
    /// Lends the replica with what is gathered, and all that follows, until something is to be done here that needs it. Nothing is away
    /// before and after, nor gathered after.
    async fn lend(&mut self, intake: &mut Intake, replica: Box<Replica<S>>) -> Result<Box<Replica<S>>, End<S>> {
        let node = intake.node.clone();
        // Until it knows its cluster it comes back after each loan, to be told (`learn_cluster`): queries come before `init`, too.
        let is_nameless = replica.cx.cluster == 0;
        let mut replica = Some(replica);
        let (mut is_called_back, mut owes_turn) = (false, false);
        loop {
            // What is gathered goes first: a snapshot that is taken on may hold it, and it would be executed twice.
            let calls_back = !is_called_back && self.batch.is_empty() && intake.wants_replica();
            if !is_called_back && !calls_back {
                self.gather(intake);
            }
            if (calls_back || !self.batch.is_empty()) && self.away.len() < LOANS {
                is_called_back = calls_back || is_nameless;
                if !self.give(replica.take(), is_called_back) {
                    return Err(self.ended(&node));
                }
                continue;
            }
            // Where loans come back as fast as they go, others of this core have their turn in between.
            if std::mem::take(&mut owes_turn) {
                yield_now().await;
            }
            let may_look = !is_called_back && !calls_back && self.batch.is_empty();
            match self.woken(intake, may_look).await {
                Woken::Entry => self.first(intake),
                Woken::Look => {}
                Woken::Back(None) => return Err(self.ended(&node)),
                Woken::Back(Some(loan)) => {
                    owes_turn = true;
                    let Loan { replica, work, .. } = *loan;
                    if let Some(halt) = self.settle(&node, work) {
                        self.settle_the_rest(&node).await;
                        return Err((halt, replica));
                    }
                    if let Some(replica) = replica {
                        return Ok(replica);
                    }
                }
            }
        }
    }

    /// What is gathered goes away, or nothing, to call the replica back. `false`: the applier has ended.
    fn give(&mut self, replica: Option<Box<Replica<S>>>, is_last: bool) -> bool {
        let mut batch = std::mem::replace(&mut self.batch, self.spare.pop().unwrap_or_default());
        let work = std::mem::take(&mut batch.work);
        self.away.push_back(batch);
        self.loans.give(Box::new(Loan { replica, work, is_last })).is_ok()
    }

    async fn woken(&mut self, intake: &mut Intake, may_look: bool) -> Woken<S> {
        let mut next = pin!(intake.next());
        poll_fn(|cx| match self.loans.poll_take(cx) {
            Poll::Ready(loan) => Poll::Ready(Woken::Back(loan)),
            Poll::Pending if may_look => {
                next.as_mut().poll(cx).map(|is_entry| if is_entry { Woken::Entry } else { Woken::Look })
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Waits for something to do while the replica is here, and gathers it.
    async fn look(&mut self, intake: &mut Intake) {
        if intake.next().await {
            self.first(intake);
        }
        self.gather(intake);
    }

    /// Answers what has come back, the oldest that was away.
    fn settle(&mut self, node: &Replicated, work: Work) -> Option<Box<Halt>> {
        let mut batch = self.away.pop_front()?;
        batch.work = work;
        self.entries_share.learn(batch.work.took, batch.work.done);
        self.queries_share.learn(batch.work.queries_took, batch.work.queries.used);
        let halt = batch.work.halt.take();
        batch.settle(node);
        self.spare.push(batch);
        halt
    }

    /// After an entry that could not be executed: what was away behind it comes back as it went, and its queries are refused, as are
    /// those that are gathered.
    async fn settle_the_rest(&mut self, node: &Replicated) {
        while !self.away.is_empty() {
            let Some(loan) = self.loans.take().await else { break };
            self.settle(node, loan.work);
        }
        self.refuse_all(node);
    }

    /// What was away went with the applier.
    fn ended(&mut self, node: &Replicated) -> End<S> {
        self.refuse_all(node);
        let message = "the core that executes this replica's handlers has ended, and its state with it".to_owned();
        let index = node.applied().next().0;
        (Box::new(Halt { code: Halt::PANICKED.into(), index, method: 0, request_hash: 0, message }), None)
    }

    fn refuse_all(&mut self, node: &Replicated) {
        self.away.drain(..).chain([std::mem::take(&mut self.batch)]).for_each(|mut batch| batch.settle(node));
    }

    /// Takes what is committed and the queries that may see the state behind it.
    fn gather(&mut self, intake: &Intake) {
        let limit = self.entries_share.limit();
        let Batch { work, asked, .. } = &mut self.batch;
        while work.entries.used < limit {
            let entry = work.entries.next();
            if !intake.node.shard.try_next_committed(&mut entry.committed) {
                work.entries.undo();
                break;
            }
            self.last = entry.committed.index;
        }
        let jobs = &intake.node.jobs;
        let (limit, mut looks) = (self.queries_share.limit(), jobs.queries.borrow().len());
        while work.queries.used < limit
            && let Some((sight, request)) = jobs.next_query(self.last, &mut looks)
        {
            let query = work.queries.next();
            query.request.extend_from_slice(request.body.bytes());
            query.cx = Some(read_cx(&request, self.last, LogTime::ZERO, self.place));
            asked.push((sight, request));
        }
    }

    /// The entry that was waited for.
    fn first(&mut self, intake: &mut Intake) {
        self.last = intake.entry.index;
        std::mem::swap(&mut self.batch.work.entries.next().committed, &mut intake.entry);
    }
}

impl Intake {
    /// Whether something is to be done here, on the node's core, with the replica.
    fn wants_replica(&self) -> bool {
        self.is_interrupted() || !self.node.jobs.others.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_round_but_not_large_ones() {
        let mut work = Work::default();
        work.entries.next().committed.body.extend_from_slice(&[1; 100]);
        work.entries.next().reply.resize(1 << 20, 0);
        let first = work.entries.all[0].committed.body.as_ptr();
        work.clear();
        assert_eq!((work.entries.used, work.queries.used), (0, 0));
        let again = work.entries.next();
        assert!(again.committed.body.is_empty() && again.committed.body.as_ptr() == first);
        assert!(work.entries.next().reply.capacity() <= KEPT_BYTES);
    }
}
