//! The client on a simulated wire against servers written by hand: plain R2P2 calls.

mod r2p2_support;

use r2p2_support::{Lab, Log, Machine, Seen, answer, body, requests, send};
use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Link, UdpSocket};
use trimaran_rpc::client::{CallError, Client, ClientConfig, NotApplied};
use trimaran_rpc::r2p2::replies::TooManyCalls;
use trimaran_rpc::r2p2::{
    DropReason, Flags, Header, Limits, MessageType, Outcome, Policy, ReplyLimits, Requests, Rid, Segmenter, ack,
    drop_packet, response,
};
use trimaran_runtime::{TaskGroup, now, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const POLICY: Policy = Policy::ReplicatedRoute;
const NOT_TAKEN: CallError = CallError::NotApplied(NotApplied::NotTaken);
const DROPPED: CallError = CallError::NotApplied(NotApplied::Dropped);

fn open(lab: &mut Lab, machine: &Machine, config: ClientConfig) -> Client {
    lab.world.enter(machine.core, || Client::new(&machine.net, machine.addr(33000), vec![server()], config).unwrap())
}

/// One client, one server.
fn pair(handle: impl FnMut(&UdpSocket, &Seen) + 'static) -> (Lab, Machine, Client, Log) {
    let mut lab = Lab::new(1);
    let (user, machine) = (lab.machine(1), lab.machine(9));
    let log = lab.serve(&machine, handle);
    let client = open(&mut lab, &user, ClientConfig::default());
    (lab, user, client, log)
}

fn server() -> SocketAddrV4 {
    "10.0.0.9:8000".parse().unwrap()
}

/// A server that takes requests of any length, acknowledges them as it must and sends them back.
fn echo() -> impl FnMut(&UdpSocket, &Seen) + 'static {
    let mut pending = Requests::new(Limits::default());
    move |socket, seen| {
        pending.expire(now(), |_| {});
        match pending.on_packet(now(), seen.from, &seen.header, &seen.payload) {
            Outcome::Complete => answer(socket, seen, false, &seen.payload),
            Outcome::Assembled(done) => answer(socket, seen, false, &done.body),
            Outcome::Begun => send(socket, seen.from, &ack(seen.header.rid)),
            _ => {}
        }
    }
}

/// A call from a task of its own, with the time it took.
fn call(lab: &mut Lab, user: &Machine, client: &Client, request: Vec<u8>, within: Duration) -> Called {
    let client = client.clone();
    lab.finish(user, async move {
        let begun = now();
        let result = client.call_raw(server(), POLICY, &request, within).await;
        (result, now() - begun)
    })
}

type Called = (Result<Vec<u8>, CallError>, Duration);

#[test]
fn a_single_packet_each_way() {
    let (mut lab, user, client, log) = pair(echo());
    assert_eq!(call(&mut lab, &user, &client, b"1234".to_vec(), SECOND).0, Ok(b"1234".to_vec()));
    assert_eq!(call(&mut lab, &user, &client, Vec::new(), SECOND).0, Ok(Vec::new()));
    let headers: Vec<_> = log.borrow().iter().map(|seen| seen.header.emit()).collect();
    assert_eq!(headers, [*b"\xCC\x08\x02\xC0\0\x01\0\x01", *b"\xCC\x08\x02\xC0\0\x02\0\x01"]);
    assert_eq!((client.waiting(), client.counters().total()), (0, 0));
}

#[test]
fn the_longest_request_and_its_reply() {
    let (mut lab, user, client, log) = pair(echo());
    let request = body(370_406);
    let (result, _) = call(&mut lab, &user, &client, request.clone(), SECOND);
    assert!(result == Ok(request));
    assert_eq!(log.borrow().len(), 254);
    assert!(
        log.borrow().windows(2).all(|two| two[0].header.flags.first || two[0].header.p_order < two[1].header.p_order)
    );
    let (result, took) = call(&mut lab, &user, &client, body(370_407), SECOND);
    assert!(matches!(result, Err(CallError::NotApplied(NotApplied::TooLarge(_)))), "{result:?}");
    assert_eq!((took, log.borrow().len()), (Duration::ZERO, 254));
}

/// A follower passes the first packet on; the leader asks for the rest, gets it, and answers. Its packets come in reverse.
#[test]
fn the_rest_goes_to_the_sender_of_the_ack_and_the_reply_may_come_from_there() {
    let mut lab = Lab::new(1);
    let (user, follower, leader) = (lab.machine(1), lab.machine(9), lab.machine(8));
    let pending = Rc::new(RefCell::new(Requests::new(Limits::default())));
    let at_leader = leader.addr(8000);
    let taken = Rc::clone(&pending);
    let follower_log = lab.serve(&follower, move |socket, seen| {
        let outcome = taken.borrow_mut().on_packet(now(), seen.from, &seen.header, &seen.payload);
        assert_eq!(outcome, Outcome::Begun);
        let poke = Header { flags: Flags::SINGLE, p_order: 1, ..seen.header };
        send(socket, at_leader, &poke.emit());
    });
    let (at_client, at_follower) = (user.addr(33000), follower.addr(8000));
    let leader_log = lab.serve(&leader, move |socket, seen| {
        if seen.from == at_follower {
            return send(socket, at_client, &ack(seen.header.rid));
        }
        let outcome = pending.borrow_mut().on_packet(now(), seen.from, &seen.header, &seen.payload);
        if let Outcome::Assembled(done) = outcome {
            let segments = Segmenter::default().reply(done.body.len()).unwrap();
            let packets: Vec<_> = segments.packets_from(response(seen.header.rid, false), 0).collect();
            for (header, range) in packets.into_iter().rev() {
                send(socket, seen.from, &[&header.emit(), &done.body[range]].concat());
            }
        }
    });
    let client = open(&mut lab, &user, ClientConfig::default());
    assert_eq!(call(&mut lab, &user, &client, body(5000), SECOND).0, Ok(body(5000)));
    assert_eq!((follower_log.borrow().len(), leader_log.borrow().len()), (1, 1 + 4));
    assert_eq!(client.counters().total(), 0);
}

#[test]
fn drop_ends_a_call_at_once() {
    let (mut lab, user, client, log) = pair(|socket, seen| send(socket, seen.from, &drop_packet(seen.header.rid)));
    for bytes in [4, 5000] {
        let (result, took) = call(&mut lab, &user, &client, body(bytes), SECOND);
        assert_eq!(result, Err(DROPPED));
        assert!(took < MILLI);
    }
    // Of the second request only the first packet: the DROP came in place of an ACK.
    assert_eq!(log.borrow().len(), 2);
}

/// A server refuses when it already has the whole request: legal at any time before completion.
#[test]
fn drop_after_the_ack() {
    let (mut lab, user, client, _log) = pair(|socket, seen| {
        if seen.header.flags.first {
            send(socket, seen.from, &ack(seen.header.rid));
        } else if seen.header.flags.last {
            send(socket, seen.from, &drop_packet(seen.header.rid));
        }
    });
    assert_eq!(call(&mut lab, &user, &client, body(5000), SECOND).0, Err(DROPPED));
}

#[test]
fn a_second_ack_does_not_send_the_rest_again() {
    let mut inner = echo();
    let (mut lab, user, client, log) = pair(move |socket, seen| {
        if seen.header.flags.first {
            send(socket, seen.from, &ack(seen.header.rid));
        }
        inner(socket, seen);
    });
    assert_eq!(call(&mut lab, &user, &client, body(5000), SECOND).0, Ok(body(5000)));
    assert_eq!(log.borrow().len(), 5);
    assert_eq!(client.counters().get(DropReason::AckRepeated), 1);
    assert_eq!(client.counters().total(), 1);
}

/// What is lost decides what is known: without an ACK the request cannot have been applied, after it it may have been.
#[test]
fn lost_packets_end_at_the_deadline() {
    let (mut lab, user, client, _log) = pair(|_, _| {});
    let (result, took) = call(&mut lab, &user, &client, body(5000), 50 * MILLI);
    assert_eq!(result, Err(NOT_TAKEN));
    assert!(took >= 50 * MILLI && took < 51 * MILLI, "{took:?}");
    assert_eq!(call(&mut lab, &user, &client, body(4), 50 * MILLI).0, Err(CallError::Unknown { call_id: None }));

    let (mut lab, user, client, log) = pair(|socket, seen| {
        if seen.header.flags.first {
            send(socket, seen.from, &ack(seen.header.rid));
        }
    });
    assert_eq!(call(&mut lab, &user, &client, body(5000), 50 * MILLI).0, Err(CallError::Unknown { call_id: None }));
    assert_eq!((log.borrow().len(), client.waiting()), (5, 0));
}

/// A reply of which one packet is lost must not be given out in part.
#[test]
fn a_reply_with_a_hole_is_no_reply() {
    let (mut lab, user, client, _log) = pair(|socket, seen| {
        let reply = body(5000);
        let segments = Segmenter::default().reply(reply.len()).unwrap();
        for (header, range) in segments.packets_from(response(seen.header.rid, false), 0) {
            if header.p_order != 2 {
                send(socket, seen.from, &[&header.emit(), &reply[range]].concat());
            }
        }
    });
    assert_eq!(call(&mut lab, &user, &client, body(4), 50 * MILLI).0, Err(CallError::Unknown { call_id: None }));
    assert_eq!((client.waiting(), client.counters().total()), (0, 0));
}

/// The reply to the first call comes when the second is on its way: it must be counted, not taken for the second's.
#[test]
fn a_late_reply_belongs_to_nobody() {
    let mut first: Option<Seen> = None;
    let (mut lab, user, client, log) = pair(move |socket, seen| match first.take() {
        None => first = Some(seen.clone()),
        Some(late) => {
            answer(socket, &late, false, &late.payload);
            answer(socket, seen, false, &seen.payload);
        }
    });
    assert_eq!(
        call(&mut lab, &user, &client, b"first".to_vec(), 20 * MILLI).0,
        Err(CallError::Unknown { call_id: None })
    );
    assert_eq!(call(&mut lab, &user, &client, b"second".to_vec(), SECOND).0, Ok(b"second".to_vec()));
    assert_ne!(log.borrow()[0].header.rid, log.borrow()[1].header.rid);
    assert_eq!(client.counters().get(DropReason::ResponseWithoutCall), 1);
}

/// 65,536 calls go by while one waits: its id comes round again and is passed over.
#[test]
fn a_wrapped_request_id_passes_over_the_pending_call() {
    let mut slow: Option<Seen> = None;
    let mut lab = Lab::new(1);
    let (user, machine) = (lab.machine(1), lab.machine(9));
    let used = Rc::new(RefCell::new(Vec::new()));
    let seen_rids = Rc::clone(&used);
    let log = lab.serve(&machine, move |socket, seen| {
        seen_rids.borrow_mut().push(seen.header.rid);
        match &seen.payload[..] {
            b"slow" => slow = Some(seen.clone()),
            b"end" => {
                let slow = slow.take().unwrap();
                answer(socket, &slow, false, &slow.payload);
                answer(socket, seen, false, &seen.payload);
            }
            _ => answer(socket, seen, false, &seen.payload),
        }
    });
    let client = open(&mut lab, &user, ClientConfig { first_rid: Rid(u16::MAX), ..ClientConfig::default() });
    let calling = client.clone();
    let slow = lab.finish(&user, async move {
        let mut group = TaskGroup::new();
        let result = Rc::new(Cell::new(None));
        let (waiting, filled) = (calling.clone(), Rc::clone(&result));
        group.spawn(async move {
            let reply = waiting.call_raw(server(), POLICY, b"slow", 50 * SECOND).await;
            filled.set(Some(reply == Ok(b"slow".to_vec())));
        });
        sleep(MILLI).await;
        for number in 0..65_600_u32 {
            let bytes = number.to_le_bytes();
            assert_eq!(calling.call_raw(server(), POLICY, &bytes, SECOND).await, Ok(bytes.to_vec()));
        }
        calling.call_raw(server(), POLICY, b"end", SECOND).await.unwrap();
        sleep(MILLI).await;
        result.get()
    });
    assert_eq!(slow, Some(true));
    assert_eq!(used.borrow().iter().filter(|rid| **rid == Rid(u16::MAX)).count(), 1);
    assert_eq!(used.borrow().iter().filter(|rid| **rid == Rid(0)).count(), 2);
    assert_eq!((log.borrow().len(), client.counters().total()), (65_602, 0));
}

#[test]
fn calls_are_bounded_and_say_so() {
    let mut lab = Lab::new(1);
    let user = lab.machine(1);
    let replies = ReplyLimits { calls: 2, ..ReplyLimits::default() };
    let client = open(&mut lab, &user, ClientConfig { replies, ..ClientConfig::default() });
    let calling = client.clone();
    lab.finish(&user, async move {
        let mut group = TaskGroup::new();
        for _ in 0..2 {
            let waiting = calling.clone();
            group.spawn(async move {
                assert_eq!(
                    waiting.call_raw(server(), POLICY, b"x", SECOND).await,
                    Err(CallError::Unknown { call_id: None })
                );
            });
        }
        sleep(MILLI).await;
        let full = CallError::NotApplied(NotApplied::TooManyCalls(TooManyCalls { calls: 2 }));
        assert_eq!(calling.call_raw(server(), POLICY, b"x", SECOND).await, Err(full));
        assert_eq!(full.to_string(), "not applied: 2 calls are waiting for an answer, as many as allowed");
        sleep(SECOND).await;
        assert_eq!(calling.waiting(), 0);
        assert_eq!(calling.call_raw(server(), POLICY, b"x", MILLI).await, Err(CallError::Unknown { call_id: None }));
    });
}

#[test]
fn a_dropped_call_gives_its_place_back() {
    let (mut lab, user, client, _log) = pair(|_, _| {});
    let calling = client.clone();
    lab.finish(&user, async move {
        let call = calling.call_raw(server(), POLICY, b"x", SECOND);
        assert!(timeout(MILLI, call).await.is_err());
        assert_eq!(calling.waiting(), 0);
    });
}

#[test]
fn the_last_clone_closes_the_socket() {
    let (mut lab, user, client, _log) = pair(echo());
    let clone = client.clone();
    lab.world.enter(user.core, || drop(client));
    assert_eq!(call(&mut lab, &user, &clone, b"x".to_vec(), SECOND).0, Ok(b"x".to_vec()));
    lab.world.enter(user.core, || drop(clone));
    lab.world.run_for(MILLI);
    let again = open(&mut lab, &user, ClientConfig::default());
    assert_eq!(again.local_addr(), user.addr(33000));
}

/// What is not for the client is counted and disturbs no call.
#[test]
fn strangers_are_counted() {
    let (mut lab, user, client, _log) = pair(|socket, seen| {
        for kind in [MessageType::Request, MessageType::Peer] {
            send(socket, seen.from, &Header { kind, ..seen.header }.emit());
        }
        send(socket, seen.from, &[0; 32]);
        answer(socket, seen, false, &seen.payload);
    });
    assert_eq!(call(&mut lab, &user, &client, b"x".to_vec(), SECOND).0, Ok(b"x".to_vec()));
    let counters = client.counters();
    let raised: Vec<_> = counters.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(raised, [(DropReason::WrongMagic, 1), (DropReason::PeerType, 1), (DropReason::RequestAtClient, 1)]);
}

/// Many tasks, requests of every shape, and a wire that loses, copies and reorders: each answer is the right one, and
/// when all is over nothing is held.
#[test]
fn every_answer_is_the_right_one_on_a_bad_wire() {
    let mut answered = 0;
    for seed in 0..20 {
        let mut lab = Lab::new(seed);
        let link = Link { loss: 0.02, duplicate: 0.05, reorder: 0.1, ..Link::default() };
        lab.wire.set_default_link(link);
        let (user, machine) = (lab.machine(1), lab.machine(9));
        let log = lab.serve(&machine, echo());
        let client = open(&mut lab, &user, ClientConfig::default());
        let calling = client.clone();
        let good = Rc::new(Cell::new(0));
        let counted = Rc::clone(&good);
        lab.finish(&user, async move {
            let mut group = TaskGroup::new();
            for task in 0..16_usize {
                let (client, good) = (calling.clone(), Rc::clone(&counted));
                group.spawn(async move {
                    for number in 0..10 {
                        let mut request = body((task * 1000 + number * 37) % 9000);
                        request.extend([task as u8, number as u8]);
                        match client.call_raw(server(), POLICY, &request, 50 * MILLI).await {
                            Ok(reply) => {
                                assert!(reply == request, "seed {seed}: task {task}, call {number}");
                                good.set(good.get() + 1);
                            }
                            Err(CallError::Unknown { .. } | NOT_TAKEN) => {}
                            Err(other) => panic!("seed {seed}: {other}"),
                        }
                    }
                });
            }
            group.join_all().await.unwrap();
        });
        assert_eq!(client.waiting(), 0, "seed {seed}");
        assert!(requests(&log) > 0);
        answered += good.get();
    }
    // 20 x 160 calls; most requests and replies have several packets, each lost with one chance in fifty.
    assert!(answered > 1600, "{answered} answers");
}
