//! One call on its way: when it is sent again, and what its caller learns in the end.

use super::error::{is_passing, of_block};
use super::exchange::{Event, Tries, What};
use super::{Call, CallError, Client, NotApplied, PROBE_METHOD, Reply, too_large};
use crate::r2p2::{Flags, Header, MessageType, Policy, Refusal, RequestBlock, ResponseBlock, Rid, Segments, Status};
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::{Instant, now};

/// Answers that send a call on to the leader at once, before it pauses between tries.
const REDIRECTS_MAX: u32 = 3;
/// Tries of a call that follow each other at the pace of probes; later ones take longer and longer, so that many calls
/// without an answer do not use up the request ids.
const PROMPT_TRIES: u32 = 8;
/// Longest wait for an answer, or for the ACK of a request of several packets, before another server is asked.
const PATIENCE_MAX: Duration = Duration::from_millis(160);

/// One call of [`Client::call`] on its way.
pub(super) struct Running<'a> {
    client: &'a Client,
    call: Call<'a>,
    message: Header,
    segments: Segments,
    body: Vec<u8>,
    deadline: Instant,
    /// When to try again or to probe.
    next_at: Instant,
    /// How long the next slow try waits.
    patience: Duration,
    redirects: u32,
    /// Tries so far.
    asked: u32,
    /// The last proof that no try so far was applied.
    refusal: Option<CallError>,
    tries: Tries<'a>,
    /// Questions who leads, while a write is unanswered.
    probes: Option<Tries<'a>>,
}

impl<'a> Running<'a> {
    /// Nothing is sent yet.
    pub(super) fn new(client: &'a Client, call: Call<'a>, within: Duration) -> Result<Running<'a>, CallError> {
        let shared = &*client.core.shared;
        let block = RequestBlock { shard: call.shard, method: call.method, ..RequestBlock::default() };
        let body = [&block.emit(), call.body].concat();
        let segments = shared.segmenter.own_request(body.len()).map_err(too_large)?;
        Ok(Running {
            client,
            call,
            message: own_header(call.policy),
            segments,
            body,
            deadline: now() + within,
            next_at: now(),
            patience: client.core.config.probe,
            redirects: 0,
            asked: 0,
            refusal: None,
            tries: Tries::new(shared),
            probes: None,
        })
    }

    /// The reply, or by the deadline an error.
    pub(super) async fn run(&mut self) -> Result<Reply, CallError> {
        loop {
            if now() >= self.next_at {
                self.ask()?;
            }
            let until = self.next_at.min(self.deadline);
            if let Some(event) = self.tries.event(until).await {
                if let Some(reply) = self.on_event(event).await? {
                    return Ok(reply);
                }
            } else if now() >= self.deadline {
                return Err(self.failure());
            }
            self.hear_probes();
        }
    }

    /// Sends a try where that is harmless, else asks another server who leads.
    fn ask(&mut self) -> Result<(), CallError> {
        let pause = self.client.core.config.probe;
        self.next_at = now() + pause;
        if let Some(silent) = self.tries.last_asked() {
            self.client.core.shared.route.borrow_mut().avoid(silent);
            if self.segments.packets() > 1 && !self.call.is_read() {
                // Only the first packet is out, so nothing can have been applied.
                self.tries.close_untaken();
                self.refusal = Some(CallError::NotApplied(NotApplied::NotTaken));
            }
        }
        if !self.tries.is_empty() && !self.call.is_read() {
            return self.probe(pause);
        }
        let picked = self.call.server.or_else(|| self.client.core.shared.route.borrow().pick());
        let Some(to) = picked else { return Err(CallError::NotApplied(NotApplied::NoServers)) };
        self.asked += 1;
        if self.segments.packets() > 1 || self.asked > PROMPT_TRIES {
            self.next_at = now() + self.patience;
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        match self.tries.send(to, self.message, &self.segments, &self.body) {
            // Earlier tries may still be answered.
            Err(_) if !self.tries.is_empty() => Ok(()),
            Err(error) if is_passing(&error) => {
                self.refusal = Some(error);
                Ok(())
            }
            sent => sent,
        }
    }

    /// Asks the next server who leads, unless another call has just done so.
    fn probe(&mut self, pause: Duration) -> Result<(), CallError> {
        let shared = &self.client.core.shared;
        let Some(to) = shared.route.borrow_mut().probe(now(), pause) else { return Ok(()) };
        let block = RequestBlock { shard: self.call.shard, method: PROBE_METHOD, ..RequestBlock::default() }.emit();
        let Ok(segments) = shared.segmenter.own_request(block.len()) else { return Ok(()) };
        let probes = self.probes.get_or_insert_with(|| Tries::new(shared));
        // A probe that cannot be sent is as good as lost.
        let _ = probes.send(to, own_header(Policy::FixedRoute), &segments, &block);
        Ok(())
    }

    /// Learns what probes have brought by now.
    fn hear_probes(&mut self) {
        let Some(probes) = &mut self.probes else { return };
        while let Some(Event { rid, from, what }) = probes.try_event() {
            probes.close(rid);
            if let What::Answered(message) = what
                && let Ok((block, _)) = ResponseBlock::parse(&message)
            {
                self.client.core.shared.route.borrow_mut().learn(from, Policy::FixedRoute, &block);
            }
        }
    }

    /// The reply, `None` where the call goes on, or the error that ends it.
    async fn on_event(&mut self, event: Event) -> Result<Option<Reply>, CallError> {
        let answer = match event.what {
            What::SendRest => {
                let (message, deadline) = (self.message, self.deadline);
                self.tries.send_rest(&event, message, &self.segments, &self.body, deadline).await;
                return Ok(None);
            }
            What::Refused => {
                let asked = self.tries.close(event.rid);
                self.client.core.shared.route.borrow_mut().avoid(asked.unwrap_or(event.from));
                return self.go_on(CallError::NotApplied(NotApplied::Dropped), None).map(|()| None);
            }
            What::Answered(answer) => answer,
        };
        let asked = self.tries.close(event.rid);
        // `Replies` has looked at the block already; a broken one is as good as silence.
        let Ok((block, body)) = ResponseBlock::parse(&answer) else { return Ok(None) };
        let route = &self.client.core.shared.route;
        route.borrow_mut().learn(event.from, self.call.policy, &block);
        let Some(error) = of_block(&block) else {
            let reply = Reply { status: block.status, body: body.to_vec(), block, from: event.from };
            return Ok(Some(reply));
        };
        let leader = route.borrow().leader().filter(|leader| Some(*leader) != asked && *leader != event.from);
        let redirected = block.status == Status::NotApplied && block.reason == Refusal::NotLeader;
        if leader.is_none() && block.reason != Refusal::Busy {
            route.borrow_mut().avoid(asked.unwrap_or(event.from));
        }
        self.go_on(error, leader.filter(|_| redirected)).map(|()| None)
    }

    /// After a refusal: tries again, at once where it named a leader, unless the refusal is final.
    fn go_on(&mut self, refusal: CallError, leader: Option<SocketAddrV4>) -> Result<(), CallError> {
        if !is_passing(&refusal) {
            return Err(refusal);
        }
        self.refusal = Some(refusal);
        if leader.is_some() && self.redirects < REDIRECTS_MAX {
            self.redirects += 1;
            self.next_at = now();
        } else {
            self.redirects = 0;
            self.next_at = now() + self.client.core.config.probe;
        }
        Ok(())
    }

    /// What is known when the deadline has come.
    fn failure(&mut self) -> CallError {
        if self.segments.packets() > 1 {
            self.tries.close_untaken();
        }
        let proven = self.call.is_read() || self.tries.is_empty();
        match self.refusal {
            Some(refusal) if proven => refusal,
            _ if self.tries.is_empty() => CallError::NotApplied(NotApplied::NotTaken),
            _ => CallError::Unknown,
        }
    }
}

fn own_header(policy: Policy) -> Header {
    let flags = Flags { own_block: true, ..Flags::SINGLE };
    Header { flags, ..Header::single(MessageType::Request, policy, Rid(0)) }
}
