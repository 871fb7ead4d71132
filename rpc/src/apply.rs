//! The apply task: it alone owns the state, executes what Raft has committed, and answers queries in between.

use crate::replicated::Replicated;
use crate::request::Request;
use crate::service::{Cx, ReadCx, Service};
use futures::FutureExt;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use trimaran_raft::{EntryHeader, EntryKind, LogIndex};
use trimaran_runtime::channel::{Notify, OneshotSender};
use xxhash_rust::xxh3::xxh3_64;

/// Entries executed, and queries answered, before other tasks of the core get a turn. Each has a share of its own: a log
/// that is never short of entries must not keep the readers waiting.
const JOBS_PER_TURN: usize = 64;

/// Why a replica has stopped applying. It goes on voting and replicating, so that the others keep their quorum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Halt {
    /// E0311: the handler awaited something other than [`Cx::yield_now`]; E0313: it panicked.
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

/// Something to do with the state besides applying entries.
pub(crate) enum Job {
    /// Answer the request from the state at `at` or later.
    Query { at: LogIndex, request: Request },
    /// Hash the whole state.
    Digest(OneshotSender<StateDigest>),
}

/// The hash of a replica's state and of the way it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateDigest {
    /// The newest applied entry.
    pub applied: u64,
    /// [`Service::state_digest`] after that entry.
    pub state: u64,
    /// The chain over (index, method, request hash, reply hash) of every entry up to it.
    pub chain: u64,
}

/// Queries waiting for the apply task, at most `limit` of them.
pub(crate) struct Jobs {
    queue: RefCell<VecDeque<Job>>,
    limit: usize,
    added: Notify,
}

impl Jobs {
    pub(crate) fn new(limit: usize) -> Self {
        Jobs { queue: RefCell::default(), limit, added: Notify::new() }
    }

    /// Queues a job, or gives it back where the queue is full.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= self.limit {
            return Err(job);
        }
        queue.push_back(job);
        self.added.notify();
        Ok(())
    }
}

/// Runs until the node ends. On a handler that misbehaves the replica halts: nothing is applied or answered any more.
pub(crate) async fn run<S: Service>(node: Rc<Replicated>, service: S) {
    let mut apply = Apply { node, service, cx: Cx::new(), request: Vec::new(), reply: Vec::new(), chain: 0 };
    if let Err((halt, _discarded)) = apply.run().await {
        tracing::error!(
            code = halt.code,
            index = halt.index,
            method = halt.method,
            request_hash = halt.request_hash,
            message = halt.message,
            "this replica stops applying; it keeps replicating and voting"
        );
        apply.node.halt(halt);
        // The half-changed state is never read again; waiting queries are refused, later ones by the server.
        let Apply { node, service, .. } = apply;
        drop(service);
        loop {
            let job = node.jobs.queue.borrow_mut().pop_front();
            match job {
                Some(Job::Query { request, .. }) => node.refuse_halted(&request),
                Some(Job::Digest(_)) => {}
                None => node.jobs.added.notified().await,
            }
        }
    }
}

struct Discarded;

struct Apply<S> {
    node: Rc<Replicated>,
    service: S,
    cx: Cx,
    request: Vec<u8>,
    reply: Vec<u8>,
    chain: u64,
}

impl<S: Service> Apply<S> {
    async fn run(&mut self) -> Result<(), (Halt, Discarded)> {
        loop {
            let mut left = JOBS_PER_TURN;
            while left > 0 {
                let Some((index, header)) = self.node.shard.try_next_committed(&mut self.request) else { break };
                self.entry(index, &header).await.map_err(|halt| (halt, Discarded))?;
                left -= 1;
            }
            if self.queries(JOBS_PER_TURN) == 0 || left == 0 {
                trimaran_runtime::yield_now().await;
                continue;
            }
            let next = {
                let mut committed = pin!(self.node.shard.next_committed(&mut self.request).fuse());
                let mut added = pin!(self.node.jobs.added.notified().fuse());
                futures::select_biased! { next = committed => Some(next), _ = added => None }
            };
            if let Some((index, header)) = next {
                self.entry(index, &header).await.map_err(|halt| (halt, Discarded))?;
            }
        }
    }

    async fn entry(&mut self, index: LogIndex, header: &EntryHeader) -> Result<(), Halt> {
        self.cx.index = index;
        self.cx.term = header.term;
        self.cx.log_time_ns = header.log_time;
        self.cx.method = header.method;
        if header.kind == EntryKind::Normal {
            self.reply.clear();
            self.execute(index, header.method).await?;
            let step = [index.0, u64::from(header.method), xxh3_64(&self.request), xxh3_64(&self.reply)];
            self.chain = chain(self.chain, step);
            self.node.applied(index, header, &self.reply, self.chain);
        } else {
            self.chain = chain(self.chain, [index.0, 0, 0, 0]);
            self.node.passed(index, self.chain);
        }
        Ok(())
    }

    /// Polls the handler to its end, letting it suspend only by [`Cx::yield_now`].
    async fn execute(&mut self, index: LogIndex, method: u32) -> Result<(), Halt> {
        let yielded = self.cx.yielded.clone();
        yielded.set(false);
        let request = self.request.as_slice();
        let end = {
            // The call itself is inside, since what runs before there is a future may panic as well.
            let call = async { self.service.apply(&mut self.cx, request, &mut self.reply).await };
            let mut handler = pin!(AssertUnwindSafe(call).catch_unwind());
            poll_fn(|cx| match handler.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(panic)) => Poll::Ready(Err(("E0313", panic_message(panic.as_ref())))),
                Poll::Pending if yielded.take() => Poll::Pending,
                Poll::Pending => {
                    Poll::Ready(Err(("E0311", "a replicated handler awaited something the log does not order".into())))
                }
            })
            .await
        };
        end.map_err(|(code, message): (&str, String)| Halt {
            code: code.into(),
            index: index.0,
            method,
            request_hash: xxh3_64(&self.request),
            message,
        })
    }

    /// Answers queued queries whose index is reached; returns what is left of the budget.
    fn queries(&mut self, mut left: usize) -> usize {
        let mut waiting = self.node.jobs.queue.borrow().len();
        while left > 0 && waiting > 0 {
            waiting -= 1;
            let Some(job) = self.node.jobs.queue.borrow_mut().pop_front() else { break };
            match job {
                Job::Query { at, request } if at > self.cx.index => {
                    // Its index comes with a later entry; the others need not wait for it.
                    self.node.jobs.queue.borrow_mut().push_back(Job::Query { at, request });
                }
                Job::Query { request, .. } => {
                    left -= 1;
                    self.query(&request);
                }
                Job::Digest(to) => {
                    left -= 1;
                    // A panic is the asker's loss, who gets no digest; the asker may also have given up.
                    let state = std::panic::catch_unwind(AssertUnwindSafe(|| self.service.state_digest()));
                    let _ =
                        state.map(|state| to.send(StateDigest { applied: self.cx.index.0, state, chain: self.chain }));
                }
            }
        }
        left
    }

    fn query(&mut self, request: &Request) {
        let cx = ReadCx {
            policy: request.policy,
            method: request.method(),
            client: request.triple.client,
            applied: self.cx.index,
            log_time_ns: self.cx.log_time_ns,
        };
        self.reply.clear();
        let service = &self.service;
        let reply = &mut self.reply;
        let bytes = request.body.bytes();
        match std::panic::catch_unwind(AssertUnwindSafe(|| service.query(&cx, bytes, reply))) {
            Ok(()) => self.node.answer_query(request, self.cx.index, &self.reply),
            Err(panic) => self.node.query_panicked(request, &panic_message(panic.as_ref())),
        }
    }
}

fn chain(before: u64, step: [u64; 4]) -> u64 {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&before.to_le_bytes());
    for (field, value) in bytes[8..].chunks_exact_mut(8).zip(step) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    xxh3_64(&bytes)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
