//! Reads on their way to the state: who must be asked for each kind, what waits where, and the last look before an answer leaves.
//!
//! ```text
//!   linearizable, at the leader ──► `round`: one ReadIndex for all that wait ──┐
//!   a lease that lasts, an index that is applied, an age that is small enough ─┼──► Jobs ──► apply.rs ──► release ──► answer
//!   the same of this very replica, and what must be waited for ──► `waiting` ──┘
//! ```

use crate::consistency::Consistency;
use crate::open_reads::OpenReads;
use crate::peer::PeerTransport;
use crate::r2p2::block::Refusal;
use crate::r2p2::counters::DropReason;
use crate::replicated::Replicated;
use crate::request::Request;
use crate::stats::Event;
use crate::storage::NodeStorage;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use trimaran_raft::{Consistency as Wanted, Error as RaftError, LogIndex, ReadPermit};
use trimaran_runtime::channel::Notify;

/// A read of at least an index so far beyond this replica's log is refused at once: it would only keep a place from others.
const FAR: u64 = 65_536;

/// Reads that wait for something else than the apply task.
pub(crate) struct Reads {
    /// Linearizable ones that wait for the leader's next round of ReadIndex.
    round: RefCell<VecDeque<Request>>,
    round_added: Notify,
    /// Those that this replica answers by itself and that are not decided at once.
    waiting: RefCell<VecDeque<(Wanted, Request)>>,
    waiting_added: Notify,
    /// How many of these there are, those included that have left the queue.
    open: Cell<usize>,
    /// All of this node's, wherever they wait.
    copies: RefCell<OpenReads>,
    /// Most of each; one more is refused as busy.
    limit: usize,
    /// Whether this node answers by its lease.
    leases: bool,
}

impl Reads {
    pub(crate) fn new(limit: usize, leases: bool) -> Self {
        Reads {
            round: RefCell::default(),
            round_added: Notify::new(),
            waiting: RefCell::default(),
            waiting_added: Notify::new(),
            open: Cell::new(0),
            copies: RefCell::new(OpenReads::new()),
            limit,
            leases,
        }
    }

    /// A request is answered, refused, or sent on: a copy of it is another read from now on.
    pub(crate) fn ended(&self, request: &Request) {
        self.copies.borrow_mut().end(request);
    }

    /// Most requests in each of a node's queues.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

/// What a query must see, and what its answer depends on.
pub(crate) struct Sight {
    /// The state must have got so far.
    pub(crate) at: LogIndex,
    /// What is looked at again before the answer leaves, besides whether this replica serves at all.
    permit: Option<ReadPermit<PeerTransport, NodeStorage>>,
    /// How it is counted.
    kind: Event,
}

impl Sight {
    fn at(at: LogIndex, kind: Event) -> Sight {
        Sight { at, permit: None, kind }
    }

    fn of(permit: ReadPermit<PeerTransport, NodeStorage>, wanted: Wanted) -> Sight {
        let kind = match wanted {
            Wanted::Lease if permit.is_under_lease() => Event::ReadUnderLease,
            Wanted::Linearizable | Wanted::Lease => Event::ReadLinearizable,
            Wanted::AtLeast(_) => Event::ReadAtLeast,
            Wanted::Stale { .. } => Event::ReadStale,
        };
        // What the permit is for is applied already.
        Sight { at: LogIndex::ZERO, permit: Some(permit), kind }
    }
}

impl Replicated {
    /// A read of this replica's own state, whatever that is.
    pub(crate) fn look(&self, request: Request) {
        if self.is_copy(&request) {
            return;
        }
        self.query(Sight::at(LogIndex::ZERO, Event::ReadAny), request);
    }

    /// A read that says what it must see. Clients that know no blocks mean a linearizable one.
    pub(crate) fn read(&self, request: Request) {
        let block = request.block.unwrap_or_default();
        let Some(wanted) = Consistency::from_wire(block.consistency, block.seq) else {
            self.counters.drop_for(DropReason::UnknownConsistency);
            return self.refuse(&request, Refusal::UnknownConsistency);
        };
        if !block.is_here() && !self.shard.is_leader() {
            let leader = self.shard.leader();
            return self.to_leader(request, leader);
        }
        if wanted == Wanted::Lease && !self.reads.leases {
            return self.refuse(&request, Refusal::LeasesOff);
        }
        if self.is_copy(&request) {
            return;
        }
        if wanted == Wanted::Linearizable && !block.is_here() {
            return self.read_in_round(request);
        }
        self.read_here(wanted, request);
    }

    /// Whether a copy of this read is on its way through this node already; that one will be answered.
    fn is_copy(&self, request: &Request) -> bool {
        let is_copy = !self.reads.copies.borrow_mut().begin(request);
        if is_copy {
            self.counters.drop_for(DropReason::CopyPending);
        }
        is_copy
    }

    fn read_in_round(&self, request: Request) {
        let mut round = self.reads.round.borrow_mut();
        if round.len() >= self.reads.limit {
            drop(round);
            return self.refuse(&request, Refusal::Busy);
        }
        round.push_back(request);
        self.reads.round_added.notify();
    }

    /// A read that this replica answers, whether it leads or not.
    fn read_here(&self, wanted: Wanted, request: Request) {
        if self.shard.with_machine(|machine| machine.cluster()).is_none() {
            return self.refuse(&request, Refusal::Uninitialised);
        }
        let wanted = match wanted {
            // Every log begins with an entry: before that is applied there is no state of the cluster's here.
            Wanted::AtLeast(LogIndex(index)) => Wanted::AtLeast(LogIndex(index.max(1))),
            wanted => wanted,
        };
        if let Wanted::AtLeast(LogIndex(index)) = wanted
            && index > self.shard.with_log(|log| log.last()).0.saturating_add(FAR)
        {
            let applied = self.applied();
            return self.refuse_read(&request, &RaftError::NotYet { applied });
        }
        match self.shard.try_read(wanted) {
            Some(Ok(permit)) => self.query(Sight::of(permit, wanted), request),
            Some(Err(error)) => self.read_failed(request, &error),
            None if self.reads.open.get() >= self.reads.limit => self.refuse(&request, Refusal::Busy),
            None => {
                self.reads.open.set(self.reads.open.get() + 1);
                self.reads.waiting.borrow_mut().push_back((wanted, request));
                self.reads.waiting_added.notify();
            }
        }
    }

    fn query(&self, sight: Sight, request: Request) {
        if let Err(request) = self.jobs.push_query(sight, request) {
            self.refuse(&request, Refusal::Busy);
        }
    }

    /// Whether an answer may leave that was made from the state just now; where it may not, its client is told so.
    pub(crate) fn release(&self, request: &Request, sight: Sight) -> bool {
        let Sight { permit, kind, .. } = sight;
        let released = match permit {
            Some(permit) => permit.release(()),
            None if self.shard.with_machine(|machine| machine.fenced().is_some() || machine.has_stopped()) => {
                Err(RaftError::NotServing)
            }
            None => Ok(()),
        };
        match released {
            Ok(()) => self.counters.count(kind),
            Err(ref error) => self.refuse_read(request, error),
        }
        released.is_ok()
    }

    /// The task that asks Raft for a read index once for all the reads that have come in meanwhile.
    pub(crate) async fn run_reads(self: Rc<Self>) {
        // Two queues take turns, so that neither has to grow again.
        let mut batch = VecDeque::new();
        loop {
            self.reads.round_added.notified().await;
            std::mem::swap(&mut batch, &mut *self.reads.round.borrow_mut());
            if batch.is_empty() {
                continue;
            }
            match self.shard.read_barrier().await {
                Ok(index) => {
                    for request in batch.drain(..) {
                        self.query(Sight::at(index, Event::ReadLinearizable), request);
                    }
                }
                Err(error) => {
                    for request in batch.drain(..) {
                        self.read_failed(request, &error);
                    }
                }
            }
        }
    }

    /// The task in which reads wait for a round of their own, for the leader, or for the apply task: each for so long at most as
    /// [`Shard::read`](trimaran_raft::Shard::read) allows. Runs until the node ends.
    pub(crate) async fn run_waiting_reads(self: Rc<Self>) {
        let mut running = FuturesUnordered::new();
        loop {
            let next = self.reads.waiting.borrow_mut().pop_front();
            if let Some((wanted, request)) = next {
                running.push(self.clone().wait_and_query(wanted, request));
                continue;
            }
            let is_idle = running.is_empty();
            let ended = async {
                match is_idle {
                    true => std::future::pending().await,
                    false => running.select_next_some().await,
                }
            };
            let added = self.reads.waiting_added.notified();
            if let Either::Left(((), _)) = select(pin!(ended), pin!(added)).await {
                self.reads.open.set(self.reads.open.get() - 1);
            }
        }
    }

    async fn wait_and_query(self: Rc<Self>, wanted: Wanted, request: Request) {
        match self.shard.read(wanted).await {
            Ok(permit) => self.query(Sight::of(permit, wanted), request),
            Err(error) => self.read_failed(request, &error),
        }
    }

    fn read_failed(&self, request: Request, error: &RaftError) {
        let is_here = request.block.is_some_and(|block| block.is_here());
        match error {
            RaftError::NotLeader { leader } if !is_here => self.to_leader(request, *leader),
            error => self.refuse_read(&request, error),
        }
    }

    fn refuse_read(&self, request: &Request, error: &RaftError) {
        let why = match error {
            RaftError::NotLeader { leader: Some(_) } => Refusal::NotLeader,
            RaftError::NotLeader { leader: None } => Refusal::NoLeader,
            RaftError::TooStale { .. } => Refusal::TooStale,
            RaftError::NotYet { .. } => Refusal::NotYet,
            RaftError::LeaseEnded => Refusal::LeaseEnded,
            RaftError::NotServing => Refusal::Stopped,
            RaftError::Uninitialised => Refusal::Uninitialised,
            _ => Refusal::Busy,
        };
        let event = match why {
            Refusal::TooStale => Some(Event::ReadTooStale),
            Refusal::NotYet => Some(Event::ReadNotYet),
            Refusal::LeaseEnded => Some(Event::ReadLeaseEnded),
            _ => None,
        };
        if let Some(event) = event {
            self.counters.count(event);
        }
        self.refuse(request, why);
    }
}
