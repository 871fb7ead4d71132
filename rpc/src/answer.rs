//! The way back to a client: a reply, the request for more, or a refusal.

use crate::flow::{Flow, FlowConfig, FlowError};
use crate::r2p2::block::{Refusal, ResponseBlock, Status};
use crate::r2p2::header::Triple;
use crate::r2p2::message::{ack, drop_packet, response};
use crate::stats::{Event, ServerCounters};
use std::future::Future;
use std::rc::Rc;
use trimaran_net::UdpSocket;

/// Answers from the client port of one node. An answer that cannot be sent is counted; the client's deadline decides.
pub(crate) struct Answers {
    socket: Rc<UdpSocket>,
    flow: Flow,
    counters: Rc<ServerCounters>,
}

impl Answers {
    pub(crate) fn new(socket: Rc<UdpSocket>, config: FlowConfig, counters: Rc<ServerCounters>) -> Self {
        Answers { flow: Flow::new(socket.clone(), config), socket, counters }
    }

    /// The task that sends what must be paced.
    pub(crate) fn run(&self) -> impl Future<Output = ()> + 'static {
        let flow = self.flow.clone();
        async move { flow.run().await }
    }

    /// Sends the response to `triple`: plain bytes, or a block and bytes for our own clients.
    pub(crate) fn respond(&self, triple: Triple, block: Option<&ResponseBlock>, body: &[u8]) {
        let message = response(triple.rid, block.is_some());
        let head = block.map(ResponseBlock::emit);
        let head = head.as_ref().map_or(&[][..], |head| head);
        match self.flow.reply(triple.client, message, head, body) {
            Ok(()) => {}
            Err(FlowError::TooLarge(_)) => {
                self.counters.count(Event::AnswerTooLarge);
                if let Some(block) = block {
                    let internal = ResponseBlock { status: Status::Internal, reason: Refusal::Unspecified, ..*block };
                    self.respond(triple, Some(&internal), &[]);
                }
            }
            Err(FlowError::Full { .. }) => self.counters.count(Event::AnswerUnsent),
        }
    }

    /// Asks a client for the rest of its request.
    pub(crate) fn ack(&self, triple: Triple) {
        self.datagram(triple, &ack(triple.rid));
    }

    /// Refuses a request of a client that knows no blocks.
    pub(crate) fn refuse(&self, triple: Triple) {
        self.datagram(triple, &drop_packet(triple.rid));
    }

    fn datagram(&self, triple: Triple, bytes: &[u8]) {
        let sent = self.socket.alloc().is_some_and(|mut packet| {
            packet.extend_from_slice(bytes).is_ok() && self.socket.send_to(packet, triple.client).is_ok()
        });
        if !sent {
            self.counters.count(Event::AnswerUnsent);
        }
    }
}
