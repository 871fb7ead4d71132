//! One replica as a state machine: a service, and what the framework keeps for it, moved on by the entries of the log.
//!
//! Pure but for the handlers themselves: equal entries give equal replicas, which the chain of hashes shows.

use crate::apply::Halt;
use crate::log_time::LogTime;
use crate::outbox::{Outbox, decode_done};
use crate::r2p2::block::{Refusal, Status};
use crate::service::{Answer, Cx, Mark, Service};
use crate::session::{Admission, CallId, Sessions};
use crate::state::{Reader, StateError, Turns, Writer};
use crate::timers::Timers;
use std::future::{Future, poll_fn};
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use trimaran_raft::{ClusterId, EntryHeader, EntryKind, LogIndex};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Timers that fire with one entry; those left over fire with the next ones.
pub(crate) const TIMERS_PER_ENTRY: u64 = 8;

/// How an entry ended for the client that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) reason: Refusal,
    /// Where it was executed.
    pub(crate) index: LogIndex,
}

/// A service with its sessions, timers, outbox and place in the log.
pub(crate) struct Replica<S> {
    pub(crate) service: S,
    pub(crate) cx: Cx,
    /// The context's.
    yielded: Arc<AtomicBool>,
    sessions: Sessions,
    /// Over (index, method, request hash, reply hash, outcome) of everything that was executed.
    pub(crate) chain: u64,
    /// What a timer's handler replied, which nobody reads.
    timer_reply: Vec<u8>,
}

/// What the log has made of a replica: all that can be large.
#[must_use = "dropped, it holds the core up"]
pub(crate) struct Contents<S> {
    service: S,
    timers: Timers,
    outbox: Outbox,
    sessions: Sessions,
}

impl<S: Service> Contents<S> {
    /// Gives the memory back, a slice at a time as far as the service does.
    pub(crate) async fn discard(self, turns: &mut Turns) {
        self.service.discard(turns).await;
        self.timers.discard(turns).await;
        self.outbox.discard(turns).await;
        self.sessions.discard(turns).await;
    }
}

impl<S: Service> Replica<S> {
    pub(crate) fn new(service: S) -> Self {
        let cx = Cx::new();
        let yielded = cx.yielded.clone();
        Replica { service, cx, yielded, sessions: Sessions::new(), chain: 0, timer_reply: Vec::new() }
    }

    /// Executes one entry. The reply is in `reply`, the outcome says whether anybody is to get it.
    ///
    /// On an error the state is half changed and must not be looked at again.
    pub(crate) async fn entry(
        &mut self,
        index: LogIndex,
        header: &EntryHeader,
        body: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Outcome>, Box<Halt>> {
        reply.clear();
        self.cx.index = index;
        self.cx.term = header.term;
        self.cx.now = LogTime::from_nanos(header.log_time);
        self.fire_timers().await?;
        self.cx.method = header.method;
        self.cx.stream = 0;
        let request_hash = hash_of(header.method, body);
        let outcome = match header.kind {
            EntryKind::Normal => Some(self.request(header, body, request_hash, reply).await?),
            EntryKind::Register => Some(self.register(body, reply)),
            EntryKind::Done => {
                decode_done(body).for_each(|id| self.cx.outbox.done(id));
                None
            }
            _ => None,
        };
        self.link(index.0, header.method, request_hash, reply, outcome.as_ref());
        Ok(outcome)
    }

    /// Executes a request, unless its session knows what came of it, or that nothing may come of it any more.
    async fn request(
        &mut self,
        header: &EntryHeader,
        body: &[u8],
        hash: u64,
        reply: &mut Vec<u8>,
    ) -> Result<Outcome, Box<Halt>> {
        let index = self.cx.index;
        let call = CallId { session: header.session, seq: header.seq };
        self.cx.call = (header.session != 0).then_some(call);
        if self.cx.call.is_none() {
            return Ok(Outcome::of(self.execute(header.method, body, reply).await?, index));
        }
        let (status, reason) = match self.sessions.admit(call, header.acked, hash, self.cx.now) {
            Admission::Execute => {
                let answer = self.execute(header.method, body, reply).await?;
                self.sessions.complete(call, hash, answer, reply, index);
                return Ok(Outcome::of(answer, index));
            }
            Admission::Done { status, body, index } => {
                reply.extend_from_slice(body);
                return Ok(Outcome::of(status, index));
            }
            Admission::Expired => (Status::SessionExpired, Refusal::Unspecified),
            Admission::Forgotten => (Status::SessionExpired, Refusal::Forgotten),
            Admission::OutOfWindow => (Status::NotApplied, Refusal::OutOfWindow),
            Admission::Mismatch => (Status::NotApplied, Refusal::CallIdReused),
        };
        Ok(Outcome { status, reason, index })
    }

    async fn execute(&mut self, method: u32, body: &[u8], reply: &mut Vec<u8>) -> Result<Answer, Box<Halt>> {
        match S::mark(method) {
            Some(Mark::Replicated | Mark::Raw) => self.run(body, reply).await,
            // Another build let it in.
            _ => Ok(Answer::Refused(Refusal::UnknownMethod)),
        }
    }

    /// Opens a session. The reply is the cluster's id, the outcome's index that of the session.
    fn register(&mut self, nonce: &[u8], reply: &mut Vec<u8>) -> Outcome {
        let cluster = ClusterId(self.cx.cluster);
        let Ok(nonce) = nonce.try_into().map(u128::from_le_bytes) else {
            return Outcome::of(Answer::Refused(Refusal::BadArguments), self.cx.index);
        };
        match self.sessions.register(self.cx.index, cluster, nonce, self.cx.now) {
            Ok(session) => {
                reply.extend_from_slice(&cluster.0.to_le_bytes());
                Outcome::of(Answer::Ok, session.index())
            }
            Err(_) => Outcome::of(Answer::Refused(Refusal::SessionsFull), self.cx.index),
        }
    }

    async fn fire_timers(&mut self) -> Result<(), Box<Halt>> {
        for stream in 1..=TIMERS_PER_ENTRY {
            let due = self.cx.timers.pop_due(self.cx.now);
            let Some(timer) = due else { return Ok(()) };
            self.cx.method = timer.method;
            self.cx.stream = stream;
            let mut reply = std::mem::take(&mut self.timer_reply);
            reply.clear();
            self.cx.call = None;
            let answer = match S::mark(timer.method) {
                Some(Mark::Timer) => self.run(&timer.body, &mut reply).await?,
                _ => Answer::Refused(Refusal::UnknownMethod),
            };
            if let Answer::Refused(why) = answer {
                let (method, index) = (timer.method, self.cx.index.0);
                tracing::error!(method, index, ?why, "a timer that this build does not know has fired in vain");
            }
            let outcome = Outcome::of(answer, self.cx.index);
            self.link(self.cx.index.0, timer.method, hash_of(timer.method, &timer.body), &reply, Some(&outcome));
            self.timer_reply = reply;
        }
        Ok(())
    }

    /// Adds a step to the chain: what was asked, what was answered, and how it ended.
    fn link(&mut self, index: u64, method: u32, request_hash: u64, reply: &[u8], outcome: Option<&Outcome>) {
        let end = outcome.map_or(0, |end| 1 << 32 | (end.status as u64) << 16 | u64::from(end.reason.to_wire()));
        let at = outcome.map_or(0, |end| end.index.0);
        let mut bytes = [0; 56];
        let step = [self.chain, index, u64::from(method), request_hash, xxh3_64(reply), end, at];
        for (field, value) in bytes.chunks_exact_mut(8).zip(step) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        self.chain = xxh3_64(&bytes);
    }

    /// Polls the handler to its end, letting it suspend only by [`Cx::yield_now`].
    async fn run(&mut self, request: &[u8], reply: &mut Vec<u8>) -> Result<Answer, Box<Halt>> {
        let yielded = &*self.yielded;
        yielded.store(false, Ordering::Relaxed);
        self.cx.rng = None;
        let end = {
            // The call itself is inside, since what runs before there is a future may panic as well.
            let mut handler = pin!(async { self.service.apply(&mut self.cx, request, reply).await });
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
                Ok(Poll::Ready(answer)) => Poll::Ready(Ok(answer)),
                Err(panic) => Poll::Ready(Err((Halt::PANICKED, panic_message(panic.as_ref())))),
                Ok(Poll::Pending) if yielded.swap(false, Ordering::Relaxed) => Poll::Pending,
                Ok(Poll::Pending) => {
                    let message = "a replicated handler awaited something the log does not order";
                    Poll::Ready(Err((Halt::AWAITED, message.to_owned())))
                }
            })
            .await
        };
        end.map_err(|(code, message)| {
            Box::new(Halt {
                code: code.to_owned(),
                index: self.cx.index.0,
                method: self.cx.method,
                request_hash: xxh3_64(request),
                message,
            })
        })
    }

    /// Writes everything that the log has made: the service's state and what the framework keeps beside it.
    pub(crate) async fn save(&self, to: &mut Writer) {
        self.service.save(to).await;
        self.cx.timers.save(to).await;
        self.cx.outbox.save(to).await;
        self.sessions.save(to).await;
    }

    /// Takes on what [`Replica::save`] wrote under that version of the service's state, all that is left of `from`, and returns what
    /// was there before. On an error nothing has changed.
    pub(crate) async fn load(&mut self, version: u32, mut from: Reader<'_>) -> Result<Contents<S>, StateError> {
        let service = S::load(version, &mut from).await?;
        let timers = Timers::load(&mut from).await?;
        let outbox = Outbox::load(&mut from).await?;
        let sessions = Sessions::load(&mut from).await?;
        from.finish()?;
        Ok(Contents {
            service: replace(&mut self.service, service),
            timers: replace(&mut self.cx.timers, timers),
            outbox: replace(&mut self.cx.outbox, outbox),
            sessions: replace(&mut self.sessions, sessions),
        })
    }

    /// What it holds, for a replica that has come to its end.
    pub(crate) fn into_contents(self) -> Contents<S> {
        let Replica { service, cx, sessions, .. } = self;
        Contents { service, timers: cx.timers, outbox: cx.outbox, sessions }
    }
}

/// Tells requests apart, for the sessions and for the chain.
fn hash_of(method: u32, body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, u64::from(method))
}

impl Outcome {
    /// What the handler said.
    pub(crate) fn answer(&self) -> Answer {
        match self.status {
            Status::Ok => Answer::Ok,
            Status::App => Answer::App,
            _ => Answer::Refused(self.reason),
        }
    }

    fn of(answer: Answer, index: LogIndex) -> Outcome {
        let (status, reason) = status_of(answer);
        Outcome { status, reason, index }
    }
}

/// What the response block says of a handler's answer.
pub(crate) fn status_of(answer: Answer) -> (Status, Refusal) {
    match answer {
        Answer::Ok => (Status::Ok, Refusal::Unspecified),
        Answer::App => (Status::App, Refusal::Unspecified),
        Answer::Refused(reason) => (Status::NotApplied, reason),
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
