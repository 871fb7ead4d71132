//! Datagrams into both ends of R2P2, from several clients and as time passes: no panic, and no table beyond its limit.

use arbitrary::{Arbitrary, Unstructured};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_rpc::r2p2::reassembly::{Limits, Outcome, Requests};
use trimaran_rpc::r2p2::{Call, Flags, Header, MessageType, Policy, Replies, Reply, ReplyLimits, ResponseBlock, Rid};
use trimaran_runtime::Instant;

const LIMITS: Limits = Limits {
    pending_messages: 8,
    pending_per_source: 3,
    pending_bytes: 16 << 10,
    request_bytes: 8 << 10,
    packets: 16,
    reassembly: Duration::from_millis(200),
};

const CALLS: usize = 8;
const HELD_BYTES: usize = 8 << 10;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Datagram { client: u8, bytes: &'a [u8] },
    Packet { client: u8, rid: u8, first: bool, last: bool, own_block: bool, policy: u8, order: u8, bytes: &'a [u8] },
    Answer { client: u8, rid: u8, kind: u8, first: bool, last: bool, echo: Option<u8>, order: u8, bytes: &'a [u8] },
    Ask { multi_packet: bool, echo: Option<u8> },
    GiveUp { rid: u8 },
    Pass { ms: u8 },
}

fn client(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number % 4), 1000 + u16::from(number / 4 % 4))
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(data: &[u8]) {
    let mut requests = Requests::new(LIMITS);
    let limits = ReplyLimits { calls: CALLS, reply_bytes: 4 << 10, held_bytes: HELD_BYTES, ..ReplyLimits::default() };
    let mut replies = Replies::new(limits, Rid(0));
    let mut now = Instant::ZERO;
    let mut input = Unstructured::new(data);
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Datagram { client: number, bytes } => {
                let _ = requests.on_datagram(now, client(number), bytes);
                let _ = replies.on_datagram(client(number), bytes);
            }
            Step::Packet { client: number, rid, first, last, own_block, policy, order, bytes } => {
                let flags = Flags { first, last, own_block };
                let policies = [
                    Policy::LbRoute,
                    Policy::FixedRoute,
                    Policy::ReplicatedRoute,
                    Policy::ReplicatedRouteNoSideEffects,
                ];
                let policy = policies[usize::from(policy) % policies.len()];
                let single = Header::single(MessageType::Request, policy, Rid(rid.into()));
                let header = Header { flags, p_order: order.into(), ..single };
                match requests.on_packet(now, client(number), &header, bytes) {
                    Outcome::Complete => assert!(flags.is_single()),
                    Outcome::Assembled(message) => {
                        assert!(message.body.len() <= LIMITS.request_bytes);
                        assert_eq!(message.triple.client, client(number));
                    }
                    _ => {}
                }
            }
            Step::Answer { client: number, rid, kind, first, last, echo, order, bytes } => {
                let kind = [MessageType::Response, MessageType::Ack, MessageType::Drop][usize::from(kind) % 3];
                let single = Header::single(kind, Policy::FixedRoute, Rid(rid.into()));
                let flags = Flags { first, last, own_block: echo.is_some() };
                let header = Header { flags, p_order: order.into(), ..single };
                let block = echo.map(|echo| ResponseBlock { echo: u64::from(echo % 4), ..ResponseBlock::default() });
                let bytes = &[block.map_or(Vec::new(), |block| block.emit().to_vec()), bytes.to_vec()].concat();
                if let Reply::Assembled(reply) = replies.on_packet(client(number), &header, bytes) {
                    assert!(reply.len() <= limits.reply_bytes);
                }
            }
            Step::Ask { multi_packet, echo } => {
                let echo = echo.map(|echo| u64::from(echo % 4));
                let asked = replies.begin(now, Call { multi_packet, echo });
                assert!(asked.is_ok() || replies.waiting() == CALLS);
            }
            Step::GiveUp { rid } => replies.end(now, Rid(rid.into())),
            Step::Pass { ms } => {
                now += Duration::from_millis(ms.into());
                while requests.deadline().is_some_and(|deadline| deadline <= now) {
                    requests.expire(now, |_| {});
                }
            }
        }
        assert!(requests.pending_messages() <= LIMITS.pending_messages);
        assert!(requests.held_bytes() <= LIMITS.pending_bytes);
        assert!(replies.waiting() <= CALLS && replies.held_bytes() <= HELD_BYTES);
    }
    requests.expire(now + LIMITS.reassembly, |_| {});
    assert_eq!((requests.pending_messages(), requests.held_bytes()), (0, 0), "everything ends in time");
}
