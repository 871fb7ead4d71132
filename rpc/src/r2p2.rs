//! R2P2, the request/response pair protocol: bytes in, decisions out.
//!
//! Everything below this module is pure. It reads no clock (callers pass `now`), opens no socket and starts no task, so
//! that the server, the client, the simulator and the fuzzer run the very same code.
//!
//! ```text
//!   datagram ──► Header::parse ──► Requests::on_packet ──► Complete | Assembled | Begun (ACK) | Refused (DROP)
//!                      │                (server)
//!                      └────────► Replies::on_packet  ──► Complete | Assembled | SendRest | Refused
//!                                       (client)
//!   message  ──► Segmenter ──► Segments ──► (Header, byte range) for each packet
//! ```
//!
//! No input can make this code panic or grow without bound. Input that cannot be used raises exactly one counter of
//! [`Counters`] and changes nothing else.

mod assembly;
pub mod block;
pub(crate) mod by_rid;
pub mod counters;
pub mod forward;
pub mod header;
pub mod layout;
pub mod message;
pub mod policy;
pub mod reassembly;
pub mod replies;

pub use block::{BLOCK_VERSION, Refusal, RequestBlock, ResponseBlock, Status};
pub use counters::{Counters, DropReason};
pub use forward::Forwarded;
pub use header::{Flags, Header, MessageType, Rid, Triple};
pub use layout::{
    FEEDBACK_BYTES, FORWARD_BYTES, HEADER_BYTES, PAYLOAD_BYTES, REQUEST_BLOCK_BYTES, REQUEST_FIRST_BYTES,
    RESPONSE_BLOCK_BYTES,
};
pub use message::{Feedback, PACKETS_MAX, Segmenter, Segments, TooLarge, ack, drop_packet, response};
pub use policy::Policy;
pub use reassembly::{GivenUp, Limits, Message, Outcome, Requests};
pub use replies::{Call, Replies, Reply, ReplyLimits};
