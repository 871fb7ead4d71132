//! Handlers on a core of their own: the apply task lends the replica, with a run of the log and the queries behind it, and gets it
//! back with what came of them.
//!
//! ```text
//!   the node's core    gather k+1 ─► lend ─► answer k ────────► gather k+2 ─► lend ─► answer k+1 ..
//!                                     │                 ▲                      │
//!   the applier's                     └─ execute k+1 ───┘                      └─ execute k+2 ..
//! ```
//!
//! The state goes to and fro as a pointer, so it is in one place at any moment and needs no lock. Requests are in the copies that are
//! made of the log's in any case, replies are written where they are sent from; the same buffers go round. While the replica is
//! away, packets and elections have their core to themselves. Snapshots, digests and looks at the service wait until it is back,
//! and are done on the node's core.

use super::{Apply, Halt, JOBS_PER_TURN, Job, Next};
use crate::log_time::LogTime;
use crate::reads::Sight;
use crate::replica::{Outcome, Replica, panic_message};
use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{Answer, ReadCx, Service};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;
use trimaran_raft::{CommittedEntry, LogIndex};
use trimaran_runtime::{Handoff, read_clock};

/// A loan is as long as brings this much work, by what an entry has taken lately: the first reply of it waits for the last.
const LOAN_WORK: Duration = Duration::from_micros(200);
/// A buffer that a large request or reply has blown up is given back.
const KEPT_BYTES: usize = 64 << 10;

/// The node's end.
pub(crate) type Loans<S> = Handoff<Box<Loan<S>>>;

/// What is lent.
pub(crate) struct Loan<S> {
    replica: Box<Replica<S>>,
    work: Work,
}

/// Executes a node's handlers: the other end of its loans. Run it on another core than the node's.
pub struct Applier<S>(Loans<S>);

impl<S: Service> Applier<S> {
    pub(crate) fn new(loans: Loans<S>) -> Self {
        Applier(loans)
    }

    /// Until the node ends. A node whose applier ends before stops applying (E0313).
    pub async fn run(self) {
        while let Some(mut loan) = self.0.take().await {
            let Loan { replica, work } = &mut *loan;
            work.run(replica).await;
            if self.0.give(loan).is_err() {
                return;
            }
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
        self.took = read_clock().saturating_since(from);
        for query in self.queries.used() {
            let Some(cx) = &mut query.cx else { continue };
            (cx.applied, cx.now) = (replica.cx.index, replica.cx.now);
            query.reply.clear();
            let call = || replica.service.query(cx, &query.request, &mut query.reply);
            let answer = std::panic::catch_unwind(AssertUnwindSafe(call));
            query.answer = Some(answer.map_err(|panic| panic_message(panic.as_ref())));
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.used == 0 && self.queries.used == 0
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

/// How many entries a loan holds.
struct Length {
    entry_takes: Duration,
}

impl Length {
    fn limit(&self) -> usize {
        let fit = LOAN_WORK.as_nanos() / self.entry_takes.as_nanos().max(1);
        (fit as usize).clamp(1, JOBS_PER_TURN)
    }

    /// An eighth of what is new counts: one slow entry does not make all loans short.
    fn learn(&mut self, took: Duration, entries: usize) {
        if entries > 0 {
            self.entry_takes = (self.entry_takes * 7 + took / entries as u32) / 8;
        }
    }
}

/// Runs until the replica halts, and says why. The replica comes back unless the applier ended with it.
pub(super) async fn run<S: Service>(mut apply: Apply<S>, loans: Loans<S>) -> (Box<Halt>, Option<Box<Replica<S>>>) {
    let mut length = Length { entry_takes: Duration::ZERO };
    // What is gathered next, and what has come back and is not answered yet.
    let (mut batch, mut done) = (Batch::default(), Batch::default());
    loop {
        // Not while an entry is in hand: a snapshot that is taken on may hold it, and it would be executed twice.
        if batch.work.is_empty() && apply.has_other_work() {
            done.settle(&apply.node);
            if let Err(halt) = apply.snapshots().await {
                return (halt, Some(apply.replica));
            }
            apply.other_jobs().await;
        }
        apply.gather(&mut batch, length.limit());
        if batch.work.is_empty() {
            done.settle(&apply.node);
            match apply.next().await {
                Next::Entry => apply.first(&mut batch),
                Next::Snapshot(snapshot) => {
                    if let Err(halt) = apply.install(*snapshot).await {
                        return (halt, Some(apply.replica));
                    }
                }
                Next::SnapshotWanted => apply.give_out().await,
                Next::Look => {}
            }
            continue;
        }
        apply.learn_cluster();
        let Apply { node, replica, entry, reply, passed, snapshot_not_before } = apply;
        let work = std::mem::take(&mut batch.work);
        let lent = loans.give(Box::new(Loan { replica, work })).is_ok();
        done.settle(&node);
        std::mem::swap(&mut batch, &mut done);
        let back = if lent { loans.take().await } else { None };
        let Some(Loan { replica, work }) = back.map(|loan| *loan) else {
            done.settle(&node);
            return (ended(&node), None);
        };
        length.learn(work.took, work.done);
        done.work = work;
        if let Some(halt) = done.work.halt.take() {
            done.settle(&node);
            return (halt, Some(replica));
        }
        apply = Apply { node, replica, entry, reply, passed, snapshot_not_before };
    }
}

fn ended(node: &Rc<Replicated>) -> Box<Halt> {
    let message = "the core that executes this replica's handlers has ended, and its state with it".to_owned();
    let index = node.applied().next().0;
    Box::new(Halt { code: Halt::PANICKED.into(), index, method: 0, request_hash: 0, message })
}

impl<S: Service> Apply<S> {
    /// Whether something is to be done here, on the node's core, before the next loan.
    fn has_other_work(&self) -> bool {
        let shard = &self.node.shard;
        let is_query = |job: &Job| matches!(job, Job::Query { .. });
        shard.fenced().is_some()
            || shard.has_snapshot()
            || self.is_snapshot_due()
            || !self.node.jobs.queue.borrow().iter().all(is_query)
    }

    /// Does the queued jobs that are no queries.
    async fn other_jobs(&mut self) {
        let waiting = self.node.jobs.queue.borrow().len();
        for _ in 0..waiting {
            let Some(job) = self.node.jobs.queue.borrow_mut().pop_front() else { break };
            match job {
                Job::Query { .. } => self.node.jobs.queue.borrow_mut().push_back(job),
                job => self.other_job(job).await,
            }
        }
    }

    /// Takes what is committed and the queries that may see the state behind it.
    fn gather(&mut self, batch: &mut Batch, limit: usize) {
        let Batch { work, asked, .. } = batch;
        while work.entries.used < limit {
            let entry = work.entries.next();
            if !self.node.shard.try_next_committed(&mut entry.committed) {
                work.entries.undo();
                break;
            }
        }
        let last = work.entries.used().last().map_or(self.replica.cx.index, |entry| entry.committed.index);
        let mut queue = self.node.jobs.queue.borrow_mut();
        for _ in 0..queue.len() {
            match queue.pop_front() {
                Some(Job::Query { sight, request }) if sight.at <= last && work.queries.used < JOBS_PER_TURN => {
                    let query = work.queries.next();
                    query.request.extend_from_slice(request.body.bytes());
                    query.cx = Some(self.read_cx(&request));
                    asked.push((sight, request));
                }
                // Its index comes with a later entry, or its turn with a later loan.
                Some(job) => queue.push_back(job),
                None => break,
            }
        }
    }

    /// The entry that was waited for.
    fn first(&mut self, batch: &mut Batch) {
        std::mem::swap(&mut batch.work.entries.next().committed, &mut self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_is_as_long_as_its_entries_allow() {
        let mut length = Length { entry_takes: Duration::ZERO };
        assert_eq!(length.limit(), JOBS_PER_TURN);
        (0..64).for_each(|_| length.learn(Duration::from_micros(640), 64));
        assert_eq!(length.limit(), 20);
        // One that is slow, and one that takes longer than a whole loan should.
        length.learn(Duration::from_millis(1), 10);
        assert!((8..20).contains(&length.limit()), "{}", length.limit());
        (0..64).for_each(|_| length.learn(Duration::from_millis(1), 1));
        assert_eq!(length.limit(), 1);
        length.learn(Duration::ZERO, 0);
        assert_eq!(length.limit(), 1);
    }

    #[test]
    fn buffers_go_round_but_not_large_ones() {
        let mut work = Work::default();
        work.entries.next().committed.body.extend_from_slice(&[1; 100]);
        work.entries.next().reply.resize(1 << 20, 0);
        let first = work.entries.all[0].committed.body.as_ptr();
        work.clear();
        assert!(work.is_empty());
        let again = work.entries.next();
        assert!(again.committed.body.is_empty() && again.committed.body.as_ptr() == first);
        assert!(work.entries.next().reply.capacity() <= KEPT_BYTES);
    }
}
