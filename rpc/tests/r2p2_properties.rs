//! What holds for every input: bounds are kept, bytes come back as they were sent, nothing panics.

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_rpc::r2p2::{
    Call, DropReason, Feedback, Flags, Forwarded, Header, Limits, MessageType, Outcome, Policy, Refusal, Replies,
    Reply, ReplyLimits, RequestBlock, Requests, ResponseBlock, Rid, Segmenter, Triple, response,
};
use trimaran_runtime::Instant;

fn client(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), 33000)
}

fn request_header(rid: u16, multi: bool) -> Header {
    let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(rid));
    if multi { Header { flags: Flags { last: false, ..header.flags }, ..header } } else { header }
}

/// A message in which every byte tells its place.
fn message(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Cuts `body` at arbitrary places into `cuts.len() + 1` packets, as a sender with its own idea of sizes would.
fn fragments(header: Header, body: &[u8], cuts: &[prop::sample::Index]) -> Vec<(Header, Vec<u8>)> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.sort_unstable();
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain(std::iter::once(body.len()));
    let count = at.len() as u16 + 1;
    let packets = starts.zip(ends).enumerate().map(|(index, (start, end))| {
        let index = index as u16;
        let flags = Flags { first: index == 0, last: index + 1 == count, own_block: false };
        let p_order = if index == 0 { count } else { index };
        (Header { flags, p_order, ..header }, body[start..end].to_vec())
    });
    packets.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Segmentation covers each byte once and in order, and no packet is longer than the path allows.
    #[test]
    fn segments_tile_the_message(
        bytes in prop_oneof![0..4500_usize, 365_000..380_000_usize],
        payload_bytes in 548..=1472_usize,
        kind in 0..3,
    ) {
        let segmenter = Segmenter::new(payload_bytes, 254);
        let (cut, first) = match kind {
            0 => (segmenter.request(bytes), 14),
            1 => (segmenter.own_request(bytes), payload_bytes - 8),
            _ => (segmenter.reply(bytes), payload_bytes - 8),
        };
        let full = payload_bytes - 8;
        let needed = if bytes <= full { 1 } else { 1 + (bytes - first).div_ceil(full) };
        let Ok(segments) = cut else {
            prop_assert!(needed > 254);
            return Ok(());
        };
        prop_assert_eq!(usize::from(segments.packets()), needed);
        let mut at = 0;
        for (index, (header, range)) in segments.packets_from(response(Rid(9), false), 0).enumerate() {
            prop_assert_eq!(range.start, at);
            prop_assert!(range.len() <= full);
            prop_assert!(index == 0 || range.len() == full || header.flags.last);
            prop_assert_eq!(header.flags.first, index == 0);
            prop_assert_eq!(header.flags.last, index + 1 == needed);
            at = range.end;
        }
        prop_assert_eq!(at, bytes);
        prop_assert_eq!(segments.packets_from(response(Rid(9), false), 1).count(), needed - 1);
    }

    /// Whatever the sizes, the order and the copies of the later packets: the request comes together once, or every
    /// packet that did not help has been counted.
    #[test]
    fn requests_reassemble_in_any_order(
        bytes in 0..5000_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        arrivals in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let body = message(bytes);
        let packets = fragments(request_header(5, true), &body, &cuts);
        let mut requests = Requests::new(Limits::default());
        let (header, payload) = &packets[0];
        prop_assert_eq!(requests.on_packet(Instant::ZERO, client(1), header, payload), Outcome::Begun);
        let mut arrived = vec![false; packets.len()];
        arrived[0] = true;
        let mut useless = 0;
        let mut assembled = 0;
        for arrival in arrivals {
            let index = arrival.index(packets.len());
            let (header, payload) = &packets[index];
            match requests.on_packet(Instant::ZERO, client(1), header, payload) {
                Outcome::Pending => prop_assert!(!std::mem::replace(&mut arrived[index], true)),
                Outcome::Assembled(done) => {
                    prop_assert!(!std::mem::replace(&mut arrived[index], true));
                    prop_assert_eq!(&done.body, &body);
                    assembled += 1;
                }
                Outcome::Dropped(_) => {
                    prop_assert!(arrived[index]);
                    useless += 1;
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let all = arrived.iter().all(|arrived| *arrived);
        prop_assert_eq!(assembled, u32::from(all));
        prop_assert_eq!(requests.counters().total(), useless);
        prop_assert_eq!(requests.pending_messages(), usize::from(!all));
        prop_assert_eq!(requests.held_bytes() == 0, all);
    }

    /// The same for a reply, whose first packet may come at any time.
    #[test]
    fn replies_reassemble_in_any_order(
        bytes in 0..5000_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        arrivals in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        let body = message(bytes);
        let mut replies = Replies::new(ReplyLimits::default(), Rid(7));
        let call = Call { multi_packet: false, echo: None };
        let rid = replies.begin(Instant::ZERO, call).unwrap();
        let packets = fragments(response(rid, false), &body, &cuts);
        let mut arrived = vec![false; packets.len()];
        let mut useless = 0;
        let mut assembled = 0;
        for arrival in arrivals {
            let index = arrival.index(packets.len());
            let (header, payload) = &packets[index];
            match replies.on_packet(client(9), header, payload) {
                Reply::Pending => prop_assert!(!std::mem::replace(&mut arrived[index], true)),
                Reply::Assembled(done) => {
                    prop_assert!(!std::mem::replace(&mut arrived[index], true));
                    prop_assert_eq!(&done, &body);
                    assembled += 1;
                }
                Reply::Dropped(_) => {
                    prop_assert!(arrived[index]);
                    useless += 1;
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let all = arrived.iter().all(|arrived| *arrived);
        prop_assert_eq!(assembled, u32::from(all));
        prop_assert_eq!(replies.counters().total(), useless);
        prop_assert_eq!(replies.waiting(), usize::from(!all));
    }

    /// Arbitrary packets that look like requests never push a table over its bounds, and when their time is over nothing
    /// is left of them.
    #[test]
    fn bounds_are_never_exceeded(
        packets in prop::collection::vec(
            (1..4_u8, 0..6_u16, 0..12_u16, any::<(bool, bool)>(), 0..200_usize, 0..40_u64), 0..300),
    ) {
        let limits = Limits {
            pending_messages: 7,
            pending_per_source: 3,
            pending_bytes: 2000,
            request_bytes: 600,
            packets: 9,
            reassembly: Duration::from_micros(500),
        };
        let mut requests = Requests::new(limits);
        let mut now = Instant::ZERO;
        for (source, rid, p_order, (first, last), bytes, later) in packets {
            now += Duration::from_micros(later);
            requests.expire(now, |_| {});
            let flags = Flags { first, last, own_block: false };
            let header = Header { flags, p_order, ..request_header(rid, true) };
            let counted = requests.counters().total();
            let outcome = requests.on_packet(now, client(source), &header, &message(bytes));
            let unused = matches!(outcome, Outcome::Dropped(_) | Outcome::Refused { .. });
            prop_assert_eq!(requests.counters().total(), counted + u64::from(unused));
            if let Outcome::Assembled(done) = outcome {
                prop_assert!(done.body.len() <= limits.request_bytes);
            }
            prop_assert!(requests.pending_messages() <= limits.pending_messages);
            prop_assert!(requests.held_bytes() <= limits.pending_bytes);
            prop_assert!(requests.deadline().is_none_or(|at| now < at && at <= now + limits.reassembly));
        }
        requests.expire(now + limits.reassembly, |_| {});
        prop_assert_eq!((requests.pending_messages(), requests.held_bytes(), requests.deadline()), (0, 0, None));
    }

    /// Arbitrary bytes, raw and behind a plausible header, at every entrance.
    #[test]
    fn arbitrary_bytes_never_panic(
        datagrams in prop::collection::vec(
            (any::<bool>(), 0..5_u8, any::<u8>(), 0..4_u16, any::<u16>(),
             prop::collection::vec(any::<u8>(), 0..80)), 0..40),
    ) {
        let mut requests = Requests::new(Limits::default());
        let mut replies = Replies::new(ReplyLimits::default(), Rid(0));
        for own_block in [false, true] {
            for multi_packet in [false, true] {
                replies.begin(Instant::ZERO, Call { multi_packet, echo: own_block.then_some(7) }).unwrap();
            }
        }
        for (plausible, kind, flags, rid, p_order, bytes) in datagrams {
            let mut datagram = Vec::new();
            if plausible {
                let [rid_high, rid_low] = rid.to_be_bytes();
                let [order_high, order_low] = (p_order % 300).to_be_bytes();
                datagram.extend([0xCC, 8, kind << 4 | 1, flags, rid_high, rid_low, order_high, order_low]);
            }
            datagram.extend_from_slice(&bytes);
            let _ = requests.on_datagram(Instant::ZERO, client(1), &datagram);
            let _ = replies.on_datagram(client(9), &datagram);
            let _ = Feedback::parse(&bytes);
            let _ = Forwarded::parse(&bytes);
            let _ = RequestBlock::parse(&bytes);
            let _ = ResponseBlock::parse(&bytes);
        }
        prop_assert!(replies.waiting() <= 4);
    }

    #[test]
    fn blocks_and_headers_come_back(
        numbers in any::<(u16, u32, u32, u64, u64, u64)>(),
        four in any::<[u8; 4]>(),
        consistency in any::<u8>(),
        codes in (0..4_u8, 0..21_u16),
        flags in any::<(bool, bool)>(),
    ) {
        let (shard, map_version, method, session, seq, acked) = numbers;
        let copy = map_version >> 8;
        let block = RequestBlock { flags: four[0], shard, map_version, method, consistency, copy, session, seq, acked };
        let bytes = block.emit();
        prop_assert_eq!(RequestBlock::parse(&bytes), Ok((block, &[][..])));
        let block = ResponseBlock {
            status: Default::default(),
            reason: Refusal::from_wire(codes.1),
            leader: four[0],
            durability: four[1],
            reachable: four[2],
            total: four[3],
            term: session,
            index: seq,
            echo: acked,
        };
        let bytes = block.emit();
        prop_assert_eq!(ResponseBlock::parse(&bytes), Ok((block, &[][..])));
        let policy = Policy::from_wire(codes.0).unwrap();
        let flags = Flags { first: flags.0, last: flags.1, own_block: true };
        let header = Header { kind: MessageType::Response, policy, flags, rid: Rid(shard), p_order: codes.1 };
        let bytes = header.emit();
        prop_assert_eq!(Header::parse(&bytes), Ok((header, &[][..])));
        let triple = Triple { client: SocketAddrV4::new(method.into(), shard), rid: Rid(codes.1) };
        prop_assert_eq!(Feedback::parse(&Feedback { answered: triple }.emit()[8..]), Ok(Feedback { answered: triple }));
    }
}

/// The longest messages there are, sent packet by packet, come out the same.
#[test]
fn the_longest_messages_arrive() {
    let body = message(370_406);
    let mut requests = Requests::new(Limits::default());
    let mut last = None;
    for (header, range) in Segmenter::default().request(body.len()).unwrap().packets_from(request_header(1, true), 0) {
        last = Some(requests.on_packet(Instant::ZERO, client(1), &header, &body[range]));
    }
    let Some(Outcome::Assembled(done)) = last else { panic!("{last:?}") };
    assert!(done.body == body);

    let body = message(371_856);
    let mut replies = Replies::new(ReplyLimits::default(), Rid(1));
    let rid = replies.begin(Instant::ZERO, Call { multi_packet: false, echo: None }).unwrap();
    let mut last = None;
    for (header, range) in Segmenter::default().reply(body.len()).unwrap().packets_from(response(rid, false), 0) {
        last = Some(replies.on_packet(client(9), &header, &body[range]));
    }
    assert_eq!(last, Some(Reply::Assembled(body)));
}

/// A leader that steps down gives up what it has not completed, by policy, and tells each client once.
#[test]
fn abandoned_requests_are_told() {
    let mut requests = Requests::new(Limits::default());
    for (rid, policy) in [(1, Policy::LbRoute), (2, Policy::ReplicatedRoute), (3, Policy::ReplicatedRoute)] {
        let header = Header { policy, p_order: 2, ..request_header(rid, true) };
        assert_eq!(requests.on_packet(Instant::ZERO, client(1), &header, b"x"), Outcome::Begun);
    }
    let mut told = Vec::new();
    requests.abandon(Instant::ZERO, Policy::is_replicated, |given_up| told.push(given_up.triple.rid));
    assert_eq!(told, [Rid(2), Rid(3)]);
    assert_eq!(requests.counters().total(), 2);
    assert_eq!(requests.pending_messages(), 1);
}

/// Ids come round after 65,536 calls. One that a call waits on is passed over, and one whose late answer may still come
/// is, too, until its quarantine is over.
#[test]
fn request_ids_are_not_reused_too_early() {
    let call = Call { multi_packet: false, echo: None };
    let limits = ReplyLimits { quarantine: Duration::from_micros(20), ..ReplyLimits::default() };
    let mut replies = Replies::new(limits, Rid(u16::MAX));
    let waiting = replies.begin(Instant::ZERO, call).unwrap();
    let resting = replies.begin(Instant::ZERO, call).unwrap();
    replies.end(Instant::ZERO, resting);
    let mut round = |now: Instant| -> BTreeSet<Rid> {
        let mut given = BTreeSet::new();
        for _ in 0..70_000 {
            let rid = replies.begin(now, call).unwrap();
            given.insert(rid);
            assert_eq!(replies.on_packet(client(9), &response(rid, false), b""), Reply::Complete);
        }
        given
    };
    let given = round(Instant::ZERO + limits.quarantine / 2);
    assert!(!given.contains(&waiting) && !given.contains(&resting));
    let given = round(Instant::ZERO + limits.quarantine);
    assert!(!given.contains(&waiting) && given.contains(&resting));
}

/// What ended is remembered for a while, and not more than 1024 of it: then the oldest is forgotten first.
#[test]
fn of_ended_requests_the_newest_are_remembered() {
    let mut requests = Requests::new(Limits { pending_per_source: 4096, ..Limits::default() });
    let begin = |requests: &mut Requests, rid: u16| {
        let header = Header { p_order: 2, ..request_header(rid, true) };
        requests.on_packet(Instant::ZERO, client(1), &header, b"first")
    };
    for rid in 0..1025 {
        assert_eq!(begin(&mut requests, rid), Outcome::Begun);
        requests.abandon(Instant::ZERO, |_| true, |_| {});
    }
    assert_eq!(begin(&mut requests, 1024), Outcome::Dropped(DropReason::FirstReplayed));
    assert_eq!(begin(&mut requests, 1), Outcome::Dropped(DropReason::FirstReplayed));
    assert_eq!(begin(&mut requests, 0), Outcome::Begun, "there is no room for it any more");
}

/// A request id that comes round again while the first packet under it waits for the rest: what follows may be either call's, and is put
/// together with neither.
#[test]
fn two_calls_under_one_request_id_are_not_mixed() {
    let mut requests = Requests::new(Limits::default());
    let first = |seq| RequestBlock { session: 1, seq, ..RequestBlock::default() }.emit();
    let flags = |first, last| Flags { first, last, own_block: first };
    let single = Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(3));
    let mut feed = |flags, p_order, bytes: &[u8]| {
        requests.on_packet(Instant::ZERO, client(1), &Header { flags, p_order, ..single }, bytes)
    };
    assert_eq!(feed(flags(true, false), 2, &first(1)), Outcome::Begun);
    assert_eq!(feed(flags(true, false), 2, &first(1)), Outcome::Dropped(DropReason::FirstRepeated));
    assert_eq!(feed(flags(true, false), 2, &first(2)), Outcome::Dropped(DropReason::Abandoned));
    assert_eq!(feed(flags(false, true), 1, b"rest"), Outcome::Dropped(DropReason::NoPendingMessage));
    assert_eq!((requests.pending_messages(), requests.held_bytes()), (0, 0));
    assert_eq!(requests.counters().get(DropReason::Abandoned), 1);
}
