//! The reference implementation's own bytes: we accept each captured datagram, and what we would have sent in its place
//! is the same to the last byte.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use trimaran_rpc::r2p2::{
    Call, Feedback, Header, Limits, MessageType, Outcome, Policy, Replies, Reply, ReplyLimits, Requests, Rid,
    Segmenter, Segments, Triple, ack, drop_packet, response,
};
use trimaran_runtime::Instant;

struct Datagram {
    at: Instant,
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Vec<u8>,
}

/// Reads a little-endian, microsecond pcap of Ethernet, IPv4 and UDP.
fn read(name: &str) -> Vec<Datagram> {
    let path = format!("{}/tests/vectors/{name}.pcap", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    assert_eq!(file[..4], 0xA1B2_C3D4_u32.to_le_bytes(), "{name}: a microsecond pcap");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let mut datagrams = Vec::new();
    let mut at = 24;
    let epoch = word(at);
    while at < file.len() {
        let micros = u64::from(word(at) - epoch) * 1_000_000 + u64::from(word(at + 4));
        let captured = word(at + 8) as usize;
        let frame = &file[at + 16..at + 16 + captured];
        at += 16 + captured;
        assert_eq!(frame[12..14], [8, 0], "{name}: IPv4");
        let ip = &frame[14..];
        let udp = &ip[usize::from(ip[0] & 15) * 4..];
        let short = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        datagrams.push(Datagram {
            at: Instant::from_nanos(micros * 1000),
            from: SocketAddrV4::new(address(12), short(0)),
            to: SocketAddrV4::new(address(16), short(2)),
            payload: udp[8..usize::from(short(4))].to_vec(),
        });
    }
    datagrams
}

/// What one capture held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    request_bytes: Vec<usize>,
    reply_bytes: Vec<usize>,
    acks: usize,
    drops: usize,
    feedbacks: usize,
}

/// The datagrams that we would send for `body`.
fn cut(segments: Segments, message: Header, body: &[u8]) -> Vec<Vec<u8>> {
    let packets = segments.packets_from(message, 0);
    packets.map(|(header, range)| [&header.emit(), &body[range]].concat()).collect()
}

/// Plays all ends of a capture: each server and router that sees requests, and for each request the client that made it.
fn replay(name: &str) -> Tally {
    let mut tally = Tally::default();
    let mut servers: BTreeMap<SocketAddrV4, Requests> = BTreeMap::new();
    let mut clients: BTreeMap<Triple, Replies> = BTreeMap::new();
    let mut seen: BTreeMap<(SocketAddrV4, Triple), Vec<Vec<u8>>> = BTreeMap::new();
    let mut answered: BTreeMap<(SocketAddrV4, Triple), Vec<Vec<u8>>> = BTreeMap::new();
    for Datagram { at, from, to, payload: datagram } in read(name) {
        let (header, payload) = Header::parse(&datagram).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        match header.kind {
            MessageType::Request => {
                let triple = Triple { client: from, rid: header.rid };
                if header.flags.first {
                    let mut client = Replies::new(ReplyLimits::default(), header.rid);
                    let call = Call { multi_packet: !header.flags.last, echo: None };
                    assert_eq!(client.begin(at, call), Ok(header.rid));
                    clients.insert(triple, client);
                }
                seen.entry((to, triple)).or_default().push(datagram.clone());
                let server = servers.entry(to).or_insert_with(|| Requests::new(Limits::default()));
                let body = match server.on_packet(at, from, &header, payload) {
                    Outcome::Complete => payload.to_vec(),
                    Outcome::Assembled(message) => message.body,
                    Outcome::Begun if header.flags.first => continue,
                    Outcome::Pending if !header.flags.first => continue,
                    other => panic!("{name}: {other:?}"),
                };
                let ours = cut(Segmenter::default().request(body.len()).unwrap(), header, &body);
                assert_eq!(Some(ours), seen.remove(&(to, triple)), "{name}: request");
                tally.request_bytes.push(body.len());
            }
            MessageType::Feedback => {
                let feedback = Feedback::parse(payload).unwrap();
                assert!(clients.contains_key(&feedback.answered), "{name}: {feedback:?}");
                let ours = feedback.emit();
                assert_eq!((ours.len(), ours[0], ours[2]), (datagram.len(), datagram[0], datagram[2]));
                assert_eq!(ours[8..], datagram[8..], "{name}: feedback");
                tally.feedbacks += 1;
            }
            kind => {
                assert_eq!(header.policy, Policy::FixedRoute);
                let triple = Triple { client: to, rid: header.rid };
                let reply = clients.get_mut(&triple).unwrap().on_packet(from, &header, payload);
                if kind == MessageType::Response {
                    answered.entry((from, triple)).or_default().push(datagram.clone());
                }
                match (kind, reply) {
                    (MessageType::Ack, Reply::SendRest) => {
                        assert_eq!(ack(header.rid)[..], datagram, "{name}: ack");
                        tally.acks += 1;
                    }
                    (MessageType::Drop, Reply::Refused) => {
                        assert_eq!(drop_packet(header.rid)[..], datagram, "{name}: drop");
                        tally.drops += 1;
                    }
                    (MessageType::Response, Reply::Pending) => {}
                    (MessageType::Response, Reply::Complete) => {
                        check_reply(name, header.rid, payload, answered.remove(&(from, triple)));
                        tally.reply_bytes.push(payload.len());
                    }
                    (MessageType::Response, Reply::Assembled(body)) => {
                        check_reply(name, header.rid, &body, answered.remove(&(from, triple)));
                        tally.reply_bytes.push(body.len());
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    }
    assert!(servers.values().all(|server| server.counters().total() == 0), "{name}: nothing captured is bad input");
    assert!(clients.values().all(|client| client.counters().total() == 0), "{name}");
    tally
}

fn check_reply(name: &str, rid: Rid, body: &[u8], captured: Option<Vec<Vec<u8>>>) {
    let ours = cut(Segmenter::default().reply(body.len()).unwrap(), response(rid, false), body);
    assert_eq!(Some(ours), captured, "{name}: reply");
}

fn tally(request_bytes: &[usize], reply_bytes: &[usize], acks: usize, drops: usize, feedbacks: usize) -> Tally {
    Tally { request_bytes: request_bytes.to_vec(), reply_bytes: reply_bytes.to_vec(), acks, drops, feedbacks }
}

#[test]
fn single_packet_requests() {
    assert_eq!(replay("01-single"), tally(&[4; 10], &[4; 10], 0, 0, 0));
    assert_eq!(replay("07-zero"), tally(&[0], &[0], 0, 0, 0));
    assert_eq!(replay("09-policy1"), tally(&[4; 2], &[4; 2], 0, 0, 0));
}

#[test]
fn multi_packet_requests_and_replies() {
    assert_eq!(replay("03-multi-req-multi-rep"), tally(&[3000], &[3000], 1, 0, 0));
    assert_eq!(replay("08-multi-rep"), tally(&[24], &[5008], 0, 0, 0));
}

#[test]
fn boundaries_of_segmentation() {
    assert_eq!(replay("04-boundary-1464"), tally(&[1464], &[1464], 0, 0, 0));
    assert_eq!(replay("05-boundary-1465"), tally(&[1465], &[1465], 1, 0, 0));
    assert_eq!(replay("06-boundary-1478"), tally(&[1478], &[1478], 1, 0, 0));
}

#[test]
fn refusals() {
    assert_eq!(replay("12-drop"), tally(&[4; 2], &[], 0, 2, 0));
    assert_eq!(replay("13-drop-multi"), tally(&[], &[], 0, 1, 0));
}

/// The capture ends with the refused first packet, so its message is not known; any of this length begins the same way.
#[test]
fn the_refused_first_packet_is_ours_too() {
    let captured = read("13-drop-multi").remove(0).payload;
    let (header, payload) = Header::parse(&captured).unwrap();
    let body = [payload, &[0; 2986]].concat();
    assert_eq!(cut(Segmenter::default().request(3000).unwrap(), header, &body)[0], captured);
}

#[test]
fn feedback_to_the_router() {
    assert_eq!(replay("14-feedback"), tally(&[4; 3], &[4; 3], 0, 0, 3));
}

#[test]
fn the_reference_dpdk_server() {
    assert_eq!(replay("17-dpdk-stss"), tally(&[24, 24, 24, 3000], &[108, 108, 5008, 5008], 1, 0, 0));
}

#[test]
fn a_client_behind_the_router() {
    // Each request is captured twice, before and behind the router; the rest of the last one goes straight to the server.
    let request_bytes = [&[24; 10][..], &[3000]].concat();
    assert_eq!(replay("23-router-client"), tally(&request_bytes, &[24; 5], 1, 0, 5));
}
