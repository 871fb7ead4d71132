//! A complete request on its way through the server.

use crate::r2p2::block::RequestBlock;
use crate::r2p2::header::{Header, Triple};
use crate::r2p2::policy::Policy;
use trimaran_net::Packet;

/// The bytes of a request or reply: still in the packet that brought them, or put together from several.
#[derive(Debug)]
pub(crate) enum Body {
    /// The packet's data from the given offset on.
    Packet(Packet, usize),
    /// The message's bytes from the given offset on.
    Assembled(Vec<u8>, usize),
}

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Body::Packet(packet, from) => packet.data().get(*from..).unwrap_or_default(),
            Body::Assembled(message, from) => message.get(*from..).unwrap_or_default(),
        }
    }

    /// The bytes, of their own.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Assembled(message, 0) => message,
            other => other.bytes().to_vec(),
        }
    }

    /// Leaves out the first `bytes` from now on.
    pub(crate) fn skip(&mut self, bytes: usize) {
        match self {
            Body::Packet(_, from) | Body::Assembled(_, from) => *from += bytes,
        }
    }
}

/// A complete request, its own-client block already taken off the body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) triple: Triple,
    pub(crate) policy: Policy,
    pub(crate) block: Option<RequestBlock>,
    /// A follower sent it on: it is never forwarded again and never answered by DROP.
    pub(crate) forwarded: bool,
    pub(crate) body: Body,
}

impl Request {
    /// The client's datagram, where the request came in one, block included.
    pub(crate) fn datagram(&self) -> Option<(Header, &[u8])> {
        match &self.body {
            Body::Packet(packet, _) => Header::parse(packet.data()).ok(),
            Body::Assembled(..) => None,
        }
    }

    /// The request's bytes; the packet that brought them is free again.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        let taken = self.body.bytes().to_vec();
        self.body = Body::Assembled(Vec::new(), 0);
        taken
    }

    /// The method key, 0 without a block.
    pub(crate) fn method(&self) -> u32 {
        self.block.map_or(0, |block| block.method)
    }
}
