//! The client's side: ACK, DROP and RESPONSE matched to pending calls by request id, from whatever server they come; those of our own
//! calls also by what their blocks repeat of the request.
//!
//! The caller's duties: [`Replies::begin`] before a call's first packet leaves; do what each [`Reply`] says;
//! [`Replies::end`] at the call's deadline or when its caller loses interest.

use super::assembly::{Assembly, PACKET_COST_BYTES};
use super::by_rid::ByRid;
use super::counters::{Counters, DropReason};
use super::header::{Header, MessageType, Rid};
use super::layout::{ACK_BODY, DROP_BODY};
use super::message::{PACKETS_MAX, stray_feedback};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Bounds on what a client holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Calls without an answer yet, at most 32,768.
    pub calls: usize,
    /// Bytes of one reply.
    pub reply_bytes: usize,
    /// Packets of one reply.
    pub packets: u16,
    /// Bytes held by all unfinished replies together, 64 per stored packet included.
    pub held_bytes: usize,
    /// How long the request id of a call that ended without its answer stays unused, so that a late reply cannot be
    /// taken for another call's.
    pub quarantine: Duration,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        ReplyLimits {
            calls: 1024,
            reply_bytes: 371_856,
            packets: PACKETS_MAX,
            held_bytes: 32 << 20,
            quarantine: Duration::from_secs(2),
        }
    }
}

/// What the reply path must know of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The request has more than one packet: an ACK must ask for the rest.
    pub multi_packet: bool,
    /// The request carries a block of our own clients, so its answer does, too: one that repeats this
    /// ([`RequestBlock::echo`](super::RequestBlock::echo)).
    pub echo: Option<u64>,
}

/// What to do about a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The datagram's payload is the whole reply. The call has ended.
    Complete,
    /// The whole reply, from several packets. The call has ended.
    Assembled(Vec<u8>),
    /// The server refused: the copy of the request that it speaks of was not applied. The call has ended.
    Refused,
    /// Send the remaining packets of the request to where this came from.
    SendRest,
    /// Stored; the call goes on.
    Pending,
    /// Not used, counted; nothing has changed.
    Dropped(DropReason),
}

/// More calls are waiting than [`ReplyLimits::calls`] allows, or every request id is in use or in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{calls} calls are waiting for an answer, as many as allowed")]
pub struct TooManyCalls {
    /// How many wait.
    pub calls: usize,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    acked: bool,
    /// The reply so far and the server it comes from.
    assembly: Option<Box<(SocketAddrV4, Assembly)>>,
}

/// The pending calls of one client socket.
#[derive(Debug)]
pub struct Replies {
    limits: ReplyLimits,
    waiting: ByRid<Waiting>,
    next_rid: u16,
    held_bytes: usize,
    quarantine: BTreeMap<Rid, Instant>,
    quarantine_order: VecDeque<(Instant, Rid)>,
    counters: Counters,
}

impl Replies {
    /// No calls yet; the first gets `first_rid`.
    pub fn new(limits: ReplyLimits, first_rid: Rid) -> Replies {
        Replies {
            limits: ReplyLimits { calls: limits.calls.min(1 << 15), ..limits },
            waiting: ByRid::default(),
            next_rid: first_rid.0,
            held_bytes: 0,
            quarantine: BTreeMap::new(),
            quarantine_order: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Registers a call and picks its request id: the next one that no pending call uses and no quarantine holds.
    ///
    /// # Errors
    /// [`TooManyCalls`] at the bound.
    pub fn begin(&mut self, now: Instant, call: Call) -> Result<Rid, TooManyCalls> {
        while let Some(&(until, rid)) = self.quarantine_order.front()
            && until <= now
        {
            self.quarantine_order.pop_front();
            self.quarantine.remove(&rid);
        }
        let full = TooManyCalls { calls: self.waiting.len() };
        if self.waiting.len() >= self.limits.calls {
            return Err(full);
        }
        for _ in 0..=u16::MAX {
            let rid = Rid(self.next_rid);
            self.next_rid = self.next_rid.wrapping_add(1);
            if self.quarantine.contains_key(&rid) {
                continue;
            }
            if self.waiting.insert(rid, Waiting { call, acked: false, assembly: None }) {
                return Ok(rid);
            }
        }
        Err(full)
    }

    /// Ends a call that has no answer. Its id goes into quarantine. Nothing happens where the call has already ended.
    pub fn end(&mut self, now: Instant, rid: Rid) {
        if self.finish(rid).is_some() {
            let until = now + self.limits.quarantine;
            self.quarantine.insert(rid, until);
            self.quarantine_order.push_back((until, rid));
        }
    }

    /// Takes in a datagram: the call it belongs to and what to do. A reply of one packet allocates nothing.
    ///
    /// # Errors
    /// Those of [`Header::parse`], counted.
    pub fn on_datagram<'a>(
        &mut self,
        from: SocketAddrV4,
        datagram: &'a [u8],
    ) -> Result<(Header, &'a [u8], Reply), DropReason> {
        match Header::parse(datagram) {
            Ok((header, payload)) => Ok((header, payload, self.on_packet(from, &header, payload))),
            Err(reason) => {
                self.counters.record(reason);
                Err(reason)
            }
        }
    }

    /// Takes in a packet whose header has been parsed.
    pub fn on_packet(&mut self, from: SocketAddrV4, header: &Header, payload: &[u8]) -> Reply {
        let decided = match header.kind {
            MessageType::Response => self.on_response(from, header, payload),
            MessageType::Ack => self.on_ack(header, payload),
            MessageType::Drop => self.on_drop(header, payload),
            MessageType::Request => Err(DropReason::RequestAtClient),
            MessageType::Feedback => Err(stray_feedback(payload)),
            MessageType::RaftReq
            | MessageType::RaftRep
            | MessageType::RaftMsg
            | MessageType::Peer
            | MessageType::Forward => Err(DropReason::PeerType),
        };
        decided.unwrap_or_else(|reason| {
            self.counters.record(reason);
            Reply::Dropped(reason)
        })
    }

    fn on_ack(&mut self, header: &Header, payload: &[u8]) -> Result<Reply, DropReason> {
        check_control(header, payload, ACK_BODY)?;
        let waiting = self.waiting.get_mut(header.rid).ok_or(DropReason::AckWithoutCall)?;
        if !waiting.call.multi_packet {
            return Err(DropReason::AckUnexpected);
        }
        if waiting.acked {
            return Err(DropReason::AckRepeated);
        }
        waiting.acked = true;
        Ok(Reply::SendRest)
    }

    fn on_drop(&mut self, header: &Header, payload: &[u8]) -> Result<Reply, DropReason> {
        check_control(header, payload, DROP_BODY)?;
        self.finish(header.rid).map(|_| Reply::Refused).ok_or(DropReason::DropWithoutCall)
    }

    fn on_response(&mut self, from: SocketAddrV4, header: &Header, payload: &[u8]) -> Result<Reply, DropReason> {
        let waiting = self.waiting.get_mut(header.rid).ok_or(DropReason::ResponseWithoutCall)?;
        if waiting.call.multi_packet && !waiting.acked && waiting.call.echo.is_none() {
            // One of our own calls may be refused by a response block instead of the ACK.
            return Err(DropReason::ResponseBeforeAck);
        }
        match waiting.call.echo {
            // What follows says nothing of whose reply it is: before the first packet it may be any call's that had this request id.
            Some(_) if !header.flags.first && waiting.assembly.is_none() => return Err(DropReason::ReplyUnopened),
            Some(_) if !header.flags.first => {}
            Some(_) if !header.flags.own_block => return Err(DropReason::BlockMissing),
            Some(echo) if super::block::ResponseBlock::parse(payload)?.0.echo != echo => {
                return Err(DropReason::ResponseOfAnother);
            }
            None if header.flags.first && header.flags.own_block => return Err(DropReason::ResponseOfAnother),
            _ => {}
        }
        if header.flags.is_single() {
            if header.p_order != 1 {
                return Err(DropReason::SingleCount);
            }
            if payload.len() > self.limits.reply_bytes {
                return Err(DropReason::ReplyBytes);
            }
            self.finish(header.rid);
            return Ok(Reply::Complete);
        }
        let (payload_before, charged_before) = match &waiting.assembly {
            Some(begun) => {
                let (source, assembly) = &**begun;
                if *source != from {
                    return Err(DropReason::ReplySource);
                }
                assembly.check(header, self.limits.packets)?;
                (assembly.payload_bytes(), assembly.charged_bytes())
            }
            None => {
                Assembly::default().check(header, self.limits.packets)?;
                (0, 0)
            }
        };
        if payload_before + payload.len() > self.limits.reply_bytes {
            return Err(DropReason::ReplyBytes);
        }
        if self.held_bytes + payload.len() + PACKET_COST_BYTES > self.limits.held_bytes {
            return Err(DropReason::PendingBytes);
        }
        let (_, assembly) = &mut **waiting.assembly.get_or_insert_with(|| Box::new((from, Assembly::default())));
        let complete = assembly.store(header, payload);
        self.held_bytes += assembly.charged_bytes() - charged_before;
        if !complete {
            return Ok(Reply::Pending);
        }
        let body = self.finish(header.rid).and_then(|waiting| waiting.assembly).map(|done| done.1.into_body());
        Ok(Reply::Assembled(body.unwrap_or_default()))
    }

    fn finish(&mut self, rid: Rid) -> Option<Waiting> {
        let waiting = self.waiting.remove(rid)?;
        if let Some(begun) = &waiting.assembly {
            self.held_bytes -= begun.1.charged_bytes();
        }
        Some(waiting)
    }

    /// How many calls wait for an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes held by unfinished replies, 64 per stored packet included. Never over [`ReplyLimits::held_bytes`].
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What was not used, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// An ACK or DROP is one packet of count 1 with exactly its name as payload.
fn check_control(header: &Header, payload: &[u8], body: &[u8]) -> Result<(), DropReason> {
    if !header.flags.is_single() || header.p_order != 1 {
        return Err(DropReason::ControlShape);
    }
    if payload != body {
        return Err(DropReason::ControlBody);
    }
    Ok(())
}
