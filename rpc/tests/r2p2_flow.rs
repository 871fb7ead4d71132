//! Replies on a simulated wire: the pace of long ones, the bound, and that nothing is lost or reordered.

mod r2p2_support;

use r2p2_support::{Lab, Machine, body};
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Link, SocketOptions};
use trimaran_rpc::flow::{Flow, FlowConfig, FlowError, FlowStats};
use trimaran_rpc::r2p2::{Call, Header, Replies, Reply, ReplyLimits, Rid, response};
use trimaran_runtime::{Instant, Lane, now};

const GAP: Duration = Duration::from_micros(400);
const MILLI: Duration = Duration::from_millis(1);

/// What arrived at a client: when, and the datagram.
type Arrivals = Rc<RefCell<Vec<(Instant, Vec<u8>)>>>;

/// A server with a flow, on a wire on which every packet takes the same time.
fn server(lab: &mut Lab, config: FlowConfig, options: SocketOptions) -> (Machine, Flow) {
    lab.wire.set_default_link(Link::new(Duration::from_micros(10), Duration::from_micros(10)));
    let machine = lab.machine(9);
    let bind = || machine.net.bind(machine.addr(8000), options).unwrap();
    let flow = Flow::new(Rc::new(lab.world.enter(machine.core, bind)), config);
    lab.world.spawn(machine.core, Lane::Normal, flow.clone().run()).detach();
    (machine, flow)
}

fn listen(lab: &mut Lab, number: u8) -> (SocketAddrV4, Arrivals) {
    let machine = lab.machine(number);
    let socket = lab.bind(&machine, 33000);
    let arrivals = Arrivals::default();
    let kept = Rc::clone(&arrivals);
    let task = async move {
        loop {
            let packet = socket.recv().await;
            kept.borrow_mut().push((now(), packet.data().to_vec()));
        }
    };
    lab.world.spawn(machine.core, Lane::Normal, task).detach();
    (machine.addr(33000), arrivals)
}

/// How many packets arrived in each burst; packets less than half a gap apart are one burst.
fn bursts(arrivals: &Arrivals) -> Vec<(Instant, usize)> {
    let mut bursts: Vec<(Instant, usize)> = Vec::new();
    let mut latest = None;
    for (at, _) in arrivals.borrow().iter() {
        match bursts.last_mut() {
            Some((_, count)) if latest.is_some_and(|latest| *at - latest < GAP / 2) => *count += 1,
            _ => bursts.push((*at, 1)),
        }
        latest = Some(*at);
    }
    bursts
}

/// Puts the reply to `rid` together from packets that must come in order.
fn assemble(arrivals: &Arrivals, rid: u16) -> Option<Vec<u8>> {
    let mut replies = Replies::new(ReplyLimits::default(), Rid(rid));
    let call = Call { multi_packet: false, echo: None };
    assert_eq!(replies.begin(Instant::ZERO, call), Ok(Rid(rid)));
    let mut order = 0;
    let from = SocketAddrV4::new([10, 0, 0, 9].into(), 8000);
    for (_, datagram) in arrivals.borrow().iter() {
        let (header, payload) = Header::parse(datagram).unwrap();
        if header.rid != Rid(rid) {
            continue;
        }
        assert_eq!(header.flags.first, order == 0);
        assert!(header.flags.first || header.p_order == order, "packet {} after {order}", header.p_order);
        order += 1;
        match replies.on_packet(from, &header, payload) {
            Reply::Complete => return Some(payload.to_vec()),
            Reply::Assembled(body) => return Some(body),
            Reply::Pending => {}
            other => panic!("{other:?}"),
        }
    }
    None
}

#[test]
fn a_long_reply_comes_in_bursts_of_32() {
    let mut lab = Lab::new(1);
    let (machine, flow) = server(&mut lab, FlowConfig::default(), SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    lab.world.enter(machine.core, || flow.reply(client, response(Rid(5), false), b"head", &body(371_852)).unwrap());
    lab.world.run_for(10 * MILLI);
    let bursts = bursts(&arrivals);
    assert_eq!(bursts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [32, 32, 32, 32, 32, 32, 32, 30]);
    assert!(bursts.windows(2).all(|two| two[1].0 - two[0].0 >= GAP), "{bursts:?}");
    assert!(bursts[7].0 - bursts[0].0 < 7 * GAP + GAP);
    assert!(assemble(&arrivals, 5) == Some([b"head", &body(371_852)[..]].concat()));
    assert_eq!(flow.stats(), FlowStats { sent: 1, paced: 1, ..FlowStats::default() });
    assert_eq!(flow.held_bytes(), 0);
}

/// 32 packets are no more than one burst: they leave in the turn in which the reply is given.
#[test]
fn a_reply_of_one_burst_does_not_wait() {
    let mut lab = Lab::new(1);
    let (machine, flow) = server(&mut lab, FlowConfig::default(), SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    lab.world.enter(machine.core, || flow.reply(client, response(Rid(5), false), &[], &body(32 * 1464)).unwrap());
    assert_eq!((flow.stats().sent, flow.stats().paced, flow.held_bytes()), (1, 0, 0));
    lab.world.run_for(GAP / 4);
    assert_eq!(arrivals.borrow().len(), 32);
    assert!(assemble(&arrivals, 5) == Some(body(32 * 1464)));
}

/// Others' replies, and short ones to the same client, do not wait behind a long one.
#[test]
fn short_replies_pass_long_ones() {
    let mut lab = Lab::new(1);
    let (machine, flow) = server(&mut lab, FlowConfig::default(), SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    let (other, other_arrivals) = listen(&mut lab, 2);
    lab.world.enter(machine.core, || {
        flow.reply(client, response(Rid(1), false), &[], &body(200 * 1464)).unwrap();
        flow.reply(client, response(Rid(2), false), &[], b"short").unwrap();
        flow.reply(other, response(Rid(3), false), &[], &body(100 * 1464)).unwrap();
    });
    lab.world.run_for(GAP / 2);
    assert_eq!(assemble(&arrivals, 2), Some(b"short".to_vec()));
    assert_eq!(other_arrivals.borrow().len(), 32);
    lab.world.run_for(10 * MILLI);
    assert!(assemble(&arrivals, 1) == Some(body(200 * 1464)));
    assert!(assemble(&other_arrivals, 3) == Some(body(100 * 1464)));
}

/// Two long replies to one client follow each other, at the pace of one: its socket is what the pace is for.
#[test]
fn two_long_replies_to_one_client_share_its_pace() {
    let mut lab = Lab::new(1);
    let (machine, flow) = server(&mut lab, FlowConfig::default(), SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    lab.world.enter(machine.core, || {
        for rid in [1, 2] {
            flow.reply(client, response(Rid(rid), false), &[], &body(64 * 1464)).unwrap();
        }
    });
    lab.world.run_for(10 * MILLI);
    let bursts = bursts(&arrivals);
    assert_eq!(bursts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [32; 4]);
    assert!(bursts.windows(2).all(|two| two[1].0 - two[0].0 >= GAP), "{bursts:?}");
    assert!(assemble(&arrivals, 1).is_some() && assemble(&arrivals, 2).is_some());
}

#[test]
fn the_bound_refuses_and_frees() {
    let mut lab = Lab::new(1);
    let config = FlowConfig { reply_bytes: 150_000, ..FlowConfig::default() };
    let (machine, flow) = server(&mut lab, config, SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    let long = body(100_000);
    lab.world.enter(machine.core, || {
        assert_eq!(flow.reply(client, response(Rid(1), false), &[], &long), Ok(()));
        let full = FlowError::Full { held_bytes: 100_256 };
        assert_eq!(flow.reply(client, response(Rid(2), false), &[], &long), Err(full));
        // A single packet needs no place to wait.
        assert_eq!(flow.reply(client, response(Rid(3), false), &[], b"short"), Ok(()));
        let large = flow.reply(client, response(Rid(4), false), &[], &body(371_857));
        assert!(matches!(large, Err(FlowError::TooLarge(_))));
    });
    lab.world.run_for(10 * MILLI);
    let stats = FlowStats { sent: 2, paced: 1, refused_full: 1, refused_large: 1, ..FlowStats::default() };
    assert_eq!((flow.stats(), flow.held_bytes()), (stats, 0));
    assert!(assemble(&arrivals, 1).is_some() && assemble(&arrivals, 3).is_some());
    assert!(arrivals.borrow().iter().all(|(_, datagram)| ![2, 4].contains(&datagram[5])));
    lab.world.enter(machine.core, || assert_eq!(flow.reply(client, response(Rid(5), false), &[], &long), Ok(())));
}

/// A full transmit queue delays replies; it neither loses nor reorders their packets.
#[test]
fn a_full_queue_is_waited_for() {
    let mut lab = Lab::new(1);
    let options = SocketOptions { tx_packets: 5, ..SocketOptions::default() };
    let (machine, flow) = server(&mut lab, FlowConfig::default(), options);
    let (client, arrivals) = listen(&mut lab, 1);
    let (other, other_arrivals) = listen(&mut lab, 2);
    lab.world.enter(machine.core, || {
        for rid in 1..=3 {
            flow.reply(client, response(Rid(rid), false), &[], &body(40 * 1464)).unwrap();
            flow.reply(other, response(Rid(rid), false), &[], &body(2 * 1464)).unwrap();
        }
    });
    lab.world.run_for(50 * MILLI);
    for rid in 1..=3 {
        assert!(assemble(&arrivals, rid) == Some(body(40 * 1464)), "reply {rid}");
        assert!(assemble(&other_arrivals, rid) == Some(body(2 * 1464)), "reply {rid}");
    }
    assert_eq!((flow.stats().sent, flow.held_bytes()), (6, 0));
}

/// The router hears of each reply once, after its last packet has left.
#[test]
fn feedback_follows_each_reply() {
    let mut lab = Lab::new(1);
    let (router, tokens) = listen(&mut lab, 3);
    let config = FlowConfig { router: Some(router), ..FlowConfig::default() };
    let (machine, flow) = server(&mut lab, config, SocketOptions::default());
    let (client, arrivals) = listen(&mut lab, 1);
    lab.world.enter(machine.core, || {
        flow.reply(client, response(Rid(1), false), &[], &body(50_000)).unwrap();
        flow.reply(client, response(Rid(2), false), &[], b"short").unwrap();
    });
    lab.world.run_for(10 * MILLI);
    let tokens: Vec<_> = tokens.borrow().clone();
    let bytes: Vec<_> = tokens.iter().map(|(_, token)| token[8..].to_vec()).collect();
    assert_eq!(bytes, [*b"\0\x02\x80\xE8\x0A\0\0\x01", *b"\0\x01\x80\xE8\x0A\0\0\x01"]);
    assert_eq!(tokens[1].0 - arrivals.borrow().last().unwrap().0, Duration::ZERO);
}
