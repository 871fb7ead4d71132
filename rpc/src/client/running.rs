//! One call on its way: when it is sent again, and what its caller learns in the end.

mod early_copies;

use super::error::{is_busy, is_passing, of_block};
use super::exchange::{Event, Shared, Tries, What};
use super::{CallError, Consistency, MethodCall, NotApplied, PROBE_METHOD, Reply, too_large};
use crate::r2p2::layout::REQUEST_BLOCK_BYTES;
use crate::r2p2::{Flags, Header, MessageType, Policy, Refusal, RequestBlock, ResponseBlock, Rid, Segments, Status};
use crate::session::CallId;
use early_copies::Copies;
use futures::future::{Either, select};
use std::net::SocketAddrV4;
use std::pin::pin;
use std::time::Duration;
use trimaran_runtime::{Instant, now};

/// Answers that send a call on to the leader at once, before it pauses between tries.
const REDIRECTS_MAX: u32 = 3;
/// Tries of a call that follow each other at the pace of probes; later ones take longer and longer, so that many calls
/// without an answer do not use up the request ids.
const PROMPT_TRIES: u32 = 8;
/// Longest wait for an answer to a write, or for the ACK of a request of several packets, before another server is asked.
const PATIENCE_MAX: Duration = Duration::from_millis(160);

/// Longest pause between later tries of a read: a quarter of its age until then, so that a read that takes long is seldom asked for
/// again.
const SLOW_PAUSE_MAX: Duration = Duration::from_millis(500);

/// What is known about a call's repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It has no effect: another server is asked whenever one is silent.
    Anywhere,
    /// The cluster recognises a copy: it is sent again to whoever leads, and while it is unanswered others are asked who
    /// that is.
    Recognised,
    /// A copy would be another call.
    Never,
}

/// What the request's block says of session and consistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Nothing.
    Nothing,
    /// Nothing: the call opens a session, and the body names it.
    Registration,
    /// The cluster that must answer, and what a read must see there.
    Cluster(Consistency),
    /// The call's name.
    Call(CallId),
}

/// Why a call ended without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Call(CallError),
    /// The server does not know the session, or serves another cluster. `untouched`: no copy of the call can have been
    /// applied, nor will one be.
    SessionExpired {
        untouched: bool,
    },
    /// The server says that the call is another shard's, or chosen by a wrong map. `untouched` as above.
    WrongShard {
        untouched: bool,
    },
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure::Call(error)
    }
}

/// One call of [`Client::call`](super::Client::call) on its way.
pub(super) struct Running<'a> {
    shared: &'a Shared,
    call: &'a MethodCall<'a>,
    /// The server to ask, where it is not for the client to choose.
    server: Option<SocketAddrV4>,
    naming: Naming,
    repeat: Repeat,
    /// Of the map by which its shard was chosen.
    map_version: u32,
    /// Of a call without a name in a session: this client's number for it, on all of its copies.
    number: u64,
    message: Header,
    segments: Segments,
    /// As of the latest try.
    block: [u8; REQUEST_BLOCK_BYTES],
    begun: Instant,
    deadline: Instant,
    /// When to try again or to probe.
    next_at: Instant,
    /// When a call that is recognised is sent again to a server that it was sent to already.
    again_at: Instant,
    /// When it was sent last, copies not counted.
    sent_at: Instant,
    /// The early copies of the last try.
    copies: Option<Copies>,
    /// It was sent once, so that its answer tells how long answers take.
    sent_once: bool,
    /// How long the next slow try waits.
    patience: Duration,
    /// How long a server that was full is left in peace the next time.
    busy_pause: Duration,
    redirects: u32,
    /// Tries so far.
    asked: u32,
    /// The last proof that no try so far was applied.
    refusal: Option<CallError>,
    tries: Tries<'a>,
    /// Questions who leads, while a write is unanswered, or waits to be sent to a leader.
    probes: Option<Tries<'a>>,
    /// Set while a write of which nothing is on the way waits to hear where to go.
    search: Option<Search>,
}

/// A write's search for the leader, before it is sent. The first answer ends it, to whichever call's probe it is.
#[derive(Clone, Copy)]
struct Search {
    /// [`Route::answers`](super::route::Route::answers) when it began.
    since: u64,
    /// Servers still to be asked. One that another call has just asked counts, too.
    left: usize,
}

impl<'a> Running<'a> {
    /// How a call is cut into packets, where it is not too large.
    pub(super) fn segments(shared: &Shared, call: &MethodCall<'_>) -> Result<Segments, CallError> {
        shared.segmenter.own_request(REQUEST_BLOCK_BYTES + call.body.len()).map_err(too_large)
    }

    /// Nothing is sent yet.
    pub(super) fn new(
        shared: &'a Shared,
        call: &'a MethodCall<'a>,
        server: Option<SocketAddrV4>,
        segments: Segments,
        (naming, repeat): (Naming, Repeat),
        map_version: u32,
        deadline: Instant,
    ) -> Running<'a> {
        let now = now();
        Running {
            shared,
            call,
            server,
            naming,
            repeat,
            map_version,
            number: if let Naming::Call(_) = naming { 0 } else { shared.next_number() },
            message: own_header(call.policy),
            segments,
            block: [0; REQUEST_BLOCK_BYTES],
            begun: now,
            deadline,
            next_at: now,
            again_at: now,
            sent_at: now,
            copies: None,
            sent_once: false,
            patience: shared.config.probe,
            busy_pause: shared.config.probe,
            redirects: 0,
            asked: 0,
            refusal: None,
            tries: Tries::new(shared),
            probes: None,
            search: None,
        }
    }

    /// The reply, or by the deadline an error.
    pub(super) async fn run(&mut self) -> Result<Reply, Failure> {
        self.shared.pace.borrow_mut().begun();
        loop {
            // What is sent at the deadline is not answered in time and only costs the certainty.
            if now() >= self.next_at && now() < self.deadline {
                self.ask()?;
            } else if now() < self.deadline {
                self.copy();
            }
            let until = self.next_at.min(self.deadline);
            let until = self.copies.map_or(until, |copies| copies.at.min(until));
            let event = match self.search {
                Some(search) => {
                    self.listen(search, until).await;
                    None
                }
                None => self.tries.event(until).await,
            };
            match event {
                Some(event) => {
                    if let Some(reply) = self.on_event(event).await? {
                        return Ok(reply);
                    }
                }
                None if now() >= self.deadline => return Err(self.failure().into()),
                None => {}
            }
            self.hear_probes();
        }
    }

    /// Sends a try where that is due and harmless, else asks another server who leads.
    fn ask(&mut self) -> Result<(), CallError> {
        let pause = self.shared.config.probe;
        self.next_at = now() + pause;
        self.copies = None;
        if self.tries.are_being_answered(pause) {
            return Ok(());
        }
        if let Some(silent) = self.tries.last_asked() {
            match self.repeat {
                Repeat::Recognised | Repeat::Never => {
                    self.shared.route.borrow_mut().avoid_if_silent(silent, self.sent_at);
                }
                Repeat::Anywhere => self.avoid(silent),
            }
            if self.segments.packets() > 1 && self.repeat == Repeat::Never {
                // Only the first packet is out, so nothing can have been applied.
                self.tries.close_untaken();
                self.refusal = Some(CallError::NotApplied(NotApplied::NotTaken));
            }
        }
        if !self.tries.is_empty() && !self.may_send_again() {
            if self.repeat == Repeat::Never {
                // It may well be a handler that waits for something: nothing hangs on who leads but where the next call goes.
                self.next_at = now() + self.next_patience();
            }
            // A probe that cannot be sent is as good as lost.
            let _ = self.probe(pause);
            return Ok(());
        }
        if self.go_on_searching(pause)? {
            return Ok(());
        }
        let picked = self.server.or_else(|| {
            let route = self.shared.route.borrow();
            if self.is_for_any() { route.pick_any() } else { route.pick() }
        });
        let Some(to) = picked else { return Err(CallError::NotApplied(NotApplied::NoServers)) };
        self.asked += 1;
        self.sent_at = now();
        if self.repeat == Repeat::Recognised {
            self.again_at = now() + self.next_patience();
        } else if self.segments.packets() > 1 || self.asked > PROMPT_TRIES {
            let slow = if self.segments.packets() > 1 { Duration::ZERO } else { (now() - self.begun) / 4 };
            self.next_at = now() + self.next_patience().max(slow.min(SLOW_PAUSE_MAX));
        }
        let echo = self.write_block();
        let sent = self.tries.send(to, self.message, &self.segments, [&self.block, self.call.body], Some(echo));
        self.sent_once = self.asked == 1;
        if sent.is_ok() {
            self.prepare_copies(to);
        }
        match sent {
            // Earlier tries may still be answered.
            Err(_) if !self.tries.is_empty() => Ok(()),
            Err(error) if is_passing(&error) => {
                self.again_at = self.next_at;
                self.refusal = Some(error);
                Ok(())
            }
            // A try that was given up may have been applied all the same.
            Err(_) if self.tries.lost_one() => Err(CallError::Unknown { call_id: None }),
            sent => sent,
        }
    }

    /// Each wait is twice as long as the one before, up to [`PATIENCE_MAX`].
    fn next_patience(&mut self) -> Duration {
        let doubled = (self.patience * 2).min(PATIENCE_MAX);
        std::mem::replace(&mut self.patience, doubled)
    }

    /// Whether a call that is on its way may be sent once more now.
    fn may_send_again(&self) -> bool {
        match self.repeat {
            Repeat::Anywhere => true,
            Repeat::Never => false,
            Repeat::Recognised => {
                // Somebody leads who has not been asked since, or those who were have been silent for too long.
                let route = self.shared.route.borrow();
                let is_news = |leader| !self.tries.asks(leader) || route.leads_since(self.sent_at);
                now() >= self.again_at || route.leader().is_some_and(is_news)
            }
        }
    }

    /// Whether any replica may answer.
    fn is_for_any(&self) -> bool {
        self.server.is_none() && matches!(self.naming, Naming::Cluster(wanted) if wanted.is_for_any_replica())
    }

    /// Whether the replica that is asked shall answer a read itself.
    fn is_here(&self) -> bool {
        let is_read = self.call.policy == Policy::ReplicatedRouteNoSideEffects;
        is_read && (self.server.is_some() || self.is_for_any())
    }

    /// A server was silent, or could not help.
    fn avoid(&self, server: SocketAddrV4) {
        let mut route = self.shared.route.borrow_mut();
        match self.is_for_any() {
            // It may well lead all the same.
            true => route.avoid_any(server),
            false => route.avoid(server),
        }
    }

    /// Each copy that is sent has a block of its own. What its answer must repeat.
    fn write_block(&mut self) -> u64 {
        let (shard, map_version, method) = (self.shared.shard, self.map_version, self.call.method);
        let block = RequestBlock { shard, map_version, method, acked: self.number, ..RequestBlock::default() };
        let mut pool = self.shared.pool.borrow_mut();
        let block = match self.naming {
            Naming::Nothing | Naming::Registration => block,
            Naming::Cluster(wanted) => {
                let (consistency, seq) = wanted.to_wire();
                let flags = if self.is_here() { RequestBlock::HERE } else { 0 };
                RequestBlock { flags, consistency, session: pool.pin(), seq, ..block }
            }
            Naming::Call(id) => {
                let (copy, acked) = (pool.next_copy(id), pool.acked(id));
                RequestBlock { copy, session: id.session, seq: id.seq, acked, ..block }
            }
        };
        self.block = block.emit();
        block.echo()
    }

    /// Asks the next server who leads, unless that was done less than `pause` ago, by this call or another.
    fn probe(&mut self, pause: Duration) -> Result<(), CallError> {
        let Some(to) = self.shared.route.borrow_mut().probe(now(), pause) else { return Ok(()) };
        let (shard, acked) = (self.shared.shard, self.shared.next_number());
        let block = RequestBlock { shard, method: PROBE_METHOD, acked, ..RequestBlock::default() };
        let (echo, block) = (block.echo(), block.emit());
        let segments = self.shared.segmenter.own_request(block.len()).map_err(too_large)?;
        let probes = self.probes.get_or_insert_with(|| Tries::new(self.shared));
        probes.send(to, own_header(Policy::FixedRoute), &segments, [&block, &[]], Some(echo))
    }

    /// `true`: a write is still better held back, and the next server has been asked who leads. It is sent to one server
    /// only: better to one that leads, or at least is there, than to one that may be dead.
    fn go_on_searching(&mut self, pause: Duration) -> Result<bool, CallError> {
        let search = self.search.take();
        let is_once = self.call.policy == Policy::ReplicatedRoute && self.repeat == Repeat::Never;
        if !is_once || self.server.is_some() {
            return Ok(false);
        }
        let mut search = {
            let route = self.shared.route.borrow();
            // With a single server there is nothing to choose.
            let left = if route.servers() > 1 { route.servers() } else { 0 };
            let search = search.unwrap_or(Search { since: route.answers(), left });
            if route.leader().is_some() || route.answers() != search.since || search.left == 0 {
                return Ok(false);
            }
            search
        };
        match self.probe(pause) {
            Ok(()) => search.left -= 1,
            // That server has not been asked: the search takes a turn longer.
            Err(error) if is_passing(&error) => self.refusal = Some(error),
            Err(error) => return Err(error),
        }
        self.search = Some(search);
        Ok(true)
    }

    /// Waits for something that ends the search: an answer to a probe of this call, or what another call has learned.
    /// Nothing of the write is on the way, so there is no other event to miss.
    async fn listen(&mut self, search: Search, until: Instant) {
        let shared = self.shared;
        let probes = self.probes.get_or_insert_with(|| Tries::new(shared));
        let heard = match select(pin!(probes.event(until)), pin!(shared.told(search.since))).await {
            Either::Left((None, _)) => return,
            Either::Left((event, _)) => event,
            Either::Right(_) => None,
        };
        if let Some(event) = heard {
            self.on_probe(event);
        }
        self.next_at = now();
    }

    /// Learns what probes have brought by now.
    fn hear_probes(&mut self) {
        while let Some(event) = self.probes.as_mut().and_then(|probes| probes.try_event()) {
            self.on_probe(event);
        }
    }

    fn on_probe(&mut self, Event { rid, from, what }: Event) {
        if let Some(probes) = &mut self.probes {
            probes.close(rid);
        }
        if let What::Answered(message) = what
            && let Ok((block, _)) = ResponseBlock::parse(message.bytes())
        {
            self.shared.learn(from, Policy::FixedRoute, &block);
            self.shared.route.borrow_mut().heard(from, now());
        }
        self.shared.answered(from);
    }

    /// The reply, `None` where the call goes on, or the error that ends it.
    async fn on_event(&mut self, event: Event) -> Result<Option<Reply>, Failure> {
        let answer = match event.what {
            What::SendRest => {
                // It is there, and long: another copy can wait.
                self.again_at = self.again_at.max(now() + PATIENCE_MAX);
                let (message, deadline) = (self.message, self.deadline);
                let parts = [&self.block[..], self.call.body];
                self.tries.send_rest(&event, message, &self.segments, parts, deadline).await;
                return Ok(None);
            }
            What::Refused => {
                let asked = self.tries.close(event.rid);
                self.avoid(asked.unwrap_or(event.from));
                self.go_on(CallError::NotApplied(NotApplied::Dropped), false, event.rid)?;
                return Ok(None);
            }
            What::Answered(answer) => answer,
        };
        let asked = self.tries.close(event.rid);
        // `Replies` has looked at the block already; a broken one is as good as silence.
        let Ok((block, body)) = ResponseBlock::parse(answer.bytes()) else { return Ok(None) };
        self.shared.learn(event.from, self.call.policy, &block);
        let route = &self.shared.route;
        route.borrow_mut().heard(event.from, now());
        let Some(error) = of_block(&block) else {
            self.time_answer(asked);
            let reply = Reply { status: block.status, body: body.to_vec(), block, from: event.from };
            return Ok(Some(reply));
        };
        if block.status == Status::SessionExpired && matches!(self.naming, Naming::Cluster(_) | Naming::Call(_)) {
            // Forgotten is what was known once.
            let untouched = block.reason != Refusal::Forgotten && self.all_refused();
            return Err(Failure::SessionExpired { untouched });
        }
        if block.status == Status::WrongShard {
            self.avoid(asked.unwrap_or(event.from));
            return Err(Failure::WrongShard { untouched: self.all_refused() });
        }
        if block.index == 0 && !is_passing(&error) && self.repeat == Repeat::Recognised && !self.all_refused() {
            // What one server will never do, another may have done.
            return Err(CallError::Unknown { call_id: None }.into());
        }
        let leader = route.borrow().leader().filter(|leader| Some(*leader) != asked && *leader != event.from);
        let redirected = block.status == Status::NotApplied && block.reason == Refusal::NotLeader;
        if self.is_for_any() || leader.is_none() && block.reason != Refusal::Busy {
            self.avoid(asked.unwrap_or(event.from));
        }
        // Of others that may know more one is asked at once, too.
        let is_elsewhere = match self.is_for_any() {
            true => route.borrow().servers() > 1,
            false => redirected && leader.is_some() && self.server.is_none(),
        };
        self.go_on(error, is_elsewhere, event.rid)?;
        Ok(None)
    }

    /// After a refusal of the try `rid`: tries again, at once where somebody else may do better, unless the refusal is final.
    fn go_on(&mut self, refusal: CallError, is_elsewhere: bool, rid: Rid) -> Result<(), CallError> {
        if !is_passing(&refusal) {
            return Err(refusal);
        }
        self.refusal = Some(refusal);
        if self.naming == Naming::Registration {
            self.shared.pool.borrow_mut().refusal = Some(refusal);
        }
        if is_elsewhere && self.redirects < REDIRECTS_MAX {
            self.redirects += 1;
            self.next_at = now();
        } else {
            self.redirects = 0;
            let mut pause = self.shared.config.probe;
            if is_busy(&refusal) {
                // A full server is not helped by being asked as often as ever, nor by all who were refused together coming back together.
                pause = self.busy_pause + self.busy_pause / 64 * u32::from(rid.0 % 16);
                self.busy_pause = (self.busy_pause * 2).min(PATIENCE_MAX);
            }
            self.next_at = now() + pause;
        }
        self.again_at = self.again_at.min(self.next_at);
        Ok(())
    }

    /// Whether there is proof for every try that it was not applied.
    fn all_refused(&self) -> bool {
        self.tries.is_empty() && !self.tries.lost_one()
    }

    /// What is known when the deadline has come.
    fn failure(&mut self) -> CallError {
        if self.segments.packets() > 1 {
            self.tries.close_untaken();
        }
        let all_refused = self.all_refused();
        match self.refusal {
            Some(refusal) if all_refused || self.repeat == Repeat::Anywhere => refusal,
            _ if all_refused => CallError::NotApplied(NotApplied::NotTaken),
            _ => CallError::Unknown { call_id: None },
        }
    }
}

pub(super) fn own_header(policy: Policy) -> Header {
    let flags = Flags { own_block: true, ..Flags::SINGLE };
    Header { flags, ..Header::single(MessageType::Request, policy, Rid(0)) }
}
