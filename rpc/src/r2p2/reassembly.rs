//! The server's side: requests from packets, with a bound on everything.
//!
//! The caller's duties: hand in each datagram with the turn's `now`; do what the [`Outcome`] says; call
//! [`Requests::expire`] when [`Requests::deadline`] has come, before handing in the next datagram.

use super::assembly::Assembly;
use super::block::RequestBlock;
use super::counters::{Counters, DropReason};
use super::header::{Header, MessageType, Triple};
use super::message::PACKETS_MAX;
use super::policy::Policy;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_runtime::Instant;

/// How many ended multi-packet requests are remembered, so that a late copy of a first packet gets no second ACK.
const ENDED_MAX: usize = 1024;

/// Bounds on multi-packet requests. Requests of one packet need none: they are never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pending messages in all.
    pub pending_messages: usize,
    /// Pending messages of one client address, whatever its ports.
    pub pending_per_source: usize,
    /// Bytes held by all pending messages together, 64 per stored packet included.
    pub pending_bytes: usize,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Packets of one request.
    pub packets: u16,
    /// Time from the first packet to the last, whatever comes in between.
    pub reassembly: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            pending_messages: 4096,
            pending_per_source: 64,
            pending_bytes: 16 << 20,
            request_bytes: 370_406,
            packets: PACKETS_MAX,
            reassembly: Duration::from_millis(200),
        }
    }
}

/// A request put together from several packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whom to answer.
    pub triple: Triple,
    /// Policy of its first packet.
    pub policy: Policy,
    /// Whether the body begins with a [`RequestBlock`], already checked to be there and of our version.
    pub own_block: bool,
    /// The message, block included.
    pub body: Vec<u8>,
}

/// What to do about a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The packet is a whole request and its payload the message. Nothing was stored.
    Complete,
    /// The packet completed a request of several.
    Assembled(Message),
    /// First packet of a new request: send one ACK.
    Begun,
    /// Stored; send nothing.
    Pending,
    /// Refused, counted, and nothing of it is held any more: tell the client, by DROP, or by a response block where
    /// the request has a block.
    Refused {
        /// The bound that was met.
        reason: DropReason,
        /// What the request says of itself, if a client of ours sent it.
        block: Option<RequestBlock>,
    },
    /// Not used, counted; send nothing.
    Dropped(DropReason),
}

#[derive(Debug)]
struct Pending {
    assembly: Assembly,
    policy: Policy,
    block: Option<RequestBlock>,
    deadline: Instant,
}

/// A pending request that was given up, as told to the caller of [`Requests::expire`] and [`Requests::abandon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// Whom to tell.
    pub triple: Triple,
    /// Policy of its first packet.
    pub policy: Policy,
    /// What it says of itself, if a client of ours sent it: one that understands a response block.
    pub block: Option<RequestBlock>,
}

/// The pending multi-packet requests of one service socket.
#[derive(Debug)]
pub struct Requests {
    limits: Limits,
    pending: BTreeMap<Triple, Pending>,
    deadlines: BTreeSet<(Instant, Triple)>,
    per_source: BTreeMap<Ipv4Addr, usize>,
    held_bytes: usize,
    ended: BTreeMap<Triple, Instant>,
    ended_order: VecDeque<(Instant, Triple)>,
    counters: Counters,
}

impl Requests {
    /// An empty table. Allocates as requests come.
    pub fn new(limits: Limits) -> Requests {
        Requests {
            limits,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            per_source: BTreeMap::new(),
            held_bytes: 0,
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Parses a datagram and takes it in. Header, payload and [`Outcome`], or the reason for which it was dropped and
    /// counted.
    ///
    /// # Errors
    /// Those of [`Header::parse`].
    pub fn on_datagram<'a>(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        datagram: &'a [u8],
    ) -> Result<(Header, &'a [u8], Outcome), DropReason> {
        match Header::parse(datagram) {
            Ok((header, payload)) => Ok((header, payload, self.on_packet(now, from, &header, payload))),
            Err(reason) => {
                self.counters.record(reason);
                Err(reason)
            }
        }
    }

    /// Takes in a packet whose header has been parsed. `from` is the client, also where a follower forwarded the packet.
    ///
    /// A request of one packet costs a few compares and allocates nothing.
    pub fn on_packet(&mut self, now: Instant, from: SocketAddrV4, header: &Header, payload: &[u8]) -> Outcome {
        let outcome = self.decide(now, from, header, payload);
        match outcome {
            Outcome::Refused { reason, .. } | Outcome::Dropped(reason) => self.counters.record(reason),
            _ => {}
        }
        outcome
    }

    fn decide(&mut self, now: Instant, from: SocketAddrV4, header: &Header, payload: &[u8]) -> Outcome {
        if let Some(reason) = unexpected(header.kind, payload) {
            return Outcome::Dropped(reason);
        }
        let mut block = None;
        if header.flags.first && header.flags.own_block {
            // The whole block is in the first packet or nowhere, so it is checked before anything is stored.
            match RequestBlock::parse(payload) {
                Ok((parsed, _)) => block = Some(parsed),
                Err(reason) => return Outcome::Dropped(reason),
            }
        }
        let triple = Triple { client: from, rid: header.rid };
        if header.flags.is_single() {
            return match header.p_order {
                1 => Outcome::Complete,
                _ => Outcome::Dropped(DropReason::SingleCount),
            };
        }
        match self.pending.get(&triple) {
            Some(pending) if pending.deadline <= now => {
                self.end(now, triple);
                Outcome::Dropped(DropReason::Expired)
            }
            Some(Pending { block: Some(former), .. })
                if header.flags.first && block.is_some_and(|block| block.echo() != former.echo()) =>
            {
                // The request id has come round again. Of what follows nobody could say whose it is: neither call is put together,
                // and their client asks again under other ids.
                self.end(now, triple);
                Outcome::Dropped(DropReason::Abandoned)
            }
            Some(_) => self.next_packet(now, triple, header, payload),
            None if header.flags.first => self.first_packet(now, triple, header, block, payload),
            None if header.p_order == 0 => Outcome::Dropped(DropReason::OrderOutOfRange),
            None => Outcome::Dropped(DropReason::NoPendingMessage),
        }
    }

    fn first_packet(
        &mut self,
        now: Instant,
        triple: Triple,
        header: &Header,
        block: Option<RequestBlock>,
        payload: &[u8],
    ) -> Outcome {
        let mut assembly = Assembly::default();
        match assembly.check(header, self.limits.packets) {
            Ok(()) => {}
            Err(reason @ DropReason::TooManyPackets) => return Outcome::Refused { reason, block },
            Err(reason) => return Outcome::Dropped(reason),
        }
        self.forget_ended(now);
        if self.ended.contains_key(&triple) {
            return Outcome::Dropped(DropReason::FirstReplayed);
        }
        let of_source = self.per_source.get(triple.client.ip()).copied().unwrap_or(0);
        let bound = if self.pending.len() >= self.limits.pending_messages {
            Some(DropReason::PendingMessages)
        } else if of_source >= self.limits.pending_per_source {
            Some(DropReason::PendingPerSource)
        } else {
            self.bytes_bound(&assembly, payload.len())
        };
        if let Some(reason) = bound {
            return Outcome::Refused { reason, block };
        }
        assembly.store(header, payload);
        let deadline = now + self.limits.reassembly;
        self.held_bytes += assembly.charged_bytes();
        self.per_source.insert(*triple.client.ip(), of_source + 1);
        self.deadlines.insert((deadline, triple));
        self.pending.insert(triple, Pending { assembly, policy: header.policy, block, deadline });
        Outcome::Begun
    }

    fn next_packet(&mut self, now: Instant, triple: Triple, header: &Header, payload: &[u8]) -> Outcome {
        let Some(pending) = self.pending.get(&triple) else {
            return Outcome::Dropped(DropReason::NoPendingMessage);
        };
        if let Err(reason) = pending.assembly.check(header, self.limits.packets) {
            return Outcome::Dropped(reason);
        }
        let block = pending.block;
        if let Some(reason) = self.bytes_bound(&pending.assembly, payload.len()) {
            self.end(now, triple);
            return Outcome::Refused { reason, block };
        }
        let Some(pending) = self.pending.get_mut(&triple) else {
            return Outcome::Dropped(DropReason::NoPendingMessage);
        };
        let charged_before = pending.assembly.charged_bytes();
        let complete = pending.assembly.store(header, payload);
        self.held_bytes += pending.assembly.charged_bytes() - charged_before;
        if !complete {
            return Outcome::Pending;
        }
        match self.end(now, triple) {
            Some(Pending { assembly, policy, block, .. }) => {
                let own_block = block.is_some();
                Outcome::Assembled(Message { triple, policy, own_block, body: assembly.into_body() })
            }
            None => Outcome::Pending,
        }
    }

    /// The bound that `more` bytes for `assembly` would break, if any.
    fn bytes_bound(&self, assembly: &Assembly, more: usize) -> Option<DropReason> {
        if assembly.payload_bytes() + more > self.limits.request_bytes {
            Some(DropReason::RequestBytes)
        } else if self.held_bytes + more + super::assembly::PACKET_COST_BYTES > self.limits.pending_bytes {
            Some(DropReason::PendingBytes)
        } else {
            None
        }
    }

    /// Takes a message out of every table and remembers that it ended.
    fn end(&mut self, now: Instant, triple: Triple) -> Option<Pending> {
        let pending = self.pending.remove(&triple)?;
        self.deadlines.remove(&(pending.deadline, triple));
        self.held_bytes -= pending.assembly.charged_bytes();
        if let Some(count) = self.per_source.get_mut(triple.client.ip()) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(triple.client.ip());
            }
        }
        self.remember_ended(now, triple);
        Some(pending)
    }

    fn remember_ended(&mut self, now: Instant, triple: Triple) {
        if self.ended_order.len() >= ENDED_MAX
            && let Some((until, oldest)) = self.ended_order.pop_front()
            && self.ended.get(&oldest) == Some(&until)
        {
            self.ended.remove(&oldest);
        }
        let until = now + self.limits.reassembly;
        self.ended.insert(triple, until);
        self.ended_order.push_back((until, triple));
    }

    fn forget_ended(&mut self, now: Instant) {
        while let Some(&(until, triple)) = self.ended_order.front()
            && until <= now
        {
            self.ended_order.pop_front();
            if self.ended.get(&triple) == Some(&until) {
                self.ended.remove(&triple);
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do, `None` while nothing is pending.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives up the requests whose deadline has come, counts each as [`DropReason::Expired`] and tells `given_up`, so
    /// that the caller may send DROP. O(log n) for each.
    pub fn expire(&mut self, now: Instant, mut given_up: impl FnMut(GivenUp)) {
        while let Some(&(deadline, triple)) = self.deadlines.first()
            && deadline <= now
        {
            let Some(pending) = self.end(now, triple) else { break };
            self.counters.record(DropReason::Expired);
            given_up(GivenUp { triple, policy: pending.policy, block: pending.block });
        }
    }

    /// Gives up the pending requests that `which` picks by policy, counts each as [`DropReason::Abandoned`] and tells
    /// `given_up`: for a leader that is leader no more. O(n).
    pub fn abandon(&mut self, now: Instant, which: impl Fn(Policy) -> bool, mut given_up: impl FnMut(GivenUp)) {
        let picked: Vec<Triple> =
            self.pending.iter().filter(|(_, pending)| which(pending.policy)).map(|(triple, _)| *triple).collect();
        for triple in picked {
            if let Some(pending) = self.end(now, triple) {
                self.counters.record(DropReason::Abandoned);
                given_up(GivenUp { triple, policy: pending.policy, block: pending.block });
            }
        }
    }

    /// How many requests are pending.
    pub fn pending_messages(&self) -> usize {
        self.pending.len()
    }

    /// Bytes held by pending requests, 64 per stored packet included. Never over [`Limits::pending_bytes`].
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// What was not used, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// For a reason that only the caller can know, such as [`DropReason::PolicyMismatch`].
    pub fn record(&mut self, reason: DropReason) {
        self.counters.record(reason);
    }
}

/// Why a packet of this type has no place at a service port, `None` for a REQUEST.
fn unexpected(kind: MessageType, payload: &[u8]) -> Option<DropReason> {
    match kind {
        MessageType::Request => None,
        MessageType::Response => Some(DropReason::ResponseWithoutCall),
        MessageType::Ack => Some(DropReason::AckWithoutCall),
        MessageType::Drop => Some(DropReason::DropWithoutCall),
        MessageType::Feedback => Some(super::message::stray_feedback(payload)),
        MessageType::RaftReq
        | MessageType::RaftRep
        | MessageType::RaftMsg
        | MessageType::Peer
        | MessageType::Forward => Some(DropReason::PeerType),
    }
}
