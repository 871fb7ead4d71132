//! A host with a link to each of its neighbours, and no switch between them.

mod common;

use common::{A, B, C, Node, addr, at, packet};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{
    Bundle, Burst, FramePort, Framed, MacAddr, MultiHomed, PacketQueue, Port, PortStats, SimFramePort, SimNet,
    StackConfig,
};
use trimaran_runtime::{Driver, Instant};

type Host = Node<Framed<Bundle<SimFramePort>>>;

const LIMIT: Instant = Instant::from_nanos(10_000_000_000);

/// A host `ip` with an end of each of these links.
fn host(ip: Ipv4Addr, links: &[&SimNet]) -> Host {
    let mut ends = links.iter().map(|link| link.frame_port(ip));
    let first = ends.next().expect("a link");
    Node::new(Framed::new(Bundle::new(first, ends), StackConfig::new(ip, 8)))
}

/// Turns the hosts, each time that something is due, until nothing is; returns when.
fn settle(hosts: &mut [&mut Host], start: Instant) -> Instant {
    let mut now = start;
    hosts.iter_mut().for_each(|host| _ = host.flush(now));
    while let Some(next) = hosts.iter().filter_map(|host| host.driver.next_arrival()).min().filter(|at| *at <= LIMIT) {
        now = now.max(next);
        for host in hosts.iter_mut() {
            host.poll(now);
            host.flush(now);
        }
    }
    now
}

#[test]
fn neighbours_are_found_on_their_links_and_hear_nothing_that_is_for_others() {
    let [ab, ac, bc] = [1, 2, 3].map(SimNet::new);
    let (mut a, mut b, mut c) = (host(A, &[&ab, &ac]), host(B, &[&ab, &bc]), host(C, &[&ac, &bc]));
    let (at_a, at_b, at_c) = (a.bind(addr(A, 1)), b.bind(addr(B, 1)), c.bind(addr(C, 1)));
    at_a.send_to(packet(b"to b"), addr(B, 1)).unwrap();
    at_a.send_to(packet(b"to c"), addr(C, 1)).unwrap();
    let now = settle(&mut [&mut a, &mut b, &mut c], at(0));
    assert_eq!(common::drain(&at_b), [b"to b"]);
    assert_eq!(common::drain(&at_c), [b"to c"]);
    // Two questions by each link of A, an answer on each, and one datagram.
    assert_eq!([&ab, &ac, &bc].map(|link| link.counters().sent), [4, 4, 0]);
    for _ in 0..10 {
        at_a.send_to(packet(b"again"), addr(C, 1)).unwrap();
    }
    settle(&mut [&mut a, &mut b, &mut c], now);
    assert_eq!([&ab, &ac, &bc].map(|link| link.counters().sent), [4, 14, 0]);
    assert_eq!(common::drain(&at_c).len(), 10);
    let mut flooded = 0;
    a.net.counters(&mut |name, count| flooded += if name == "links.flooded" { count } else { 0 });
    assert_eq!(flooded, 2, "the questions alone");
}

/// One end of a link, and the other one's hand.
#[derive(Clone)]
struct End {
    /// Frames that are to come.
    coming: Rc<RefCell<Vec<Vec<u8>>>>,
    sent: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Takes no more frames than this.
    room: Rc<Cell<usize>>,
    /// How often it was told that nothing waits.
    told_empty: Rc<Cell<usize>>,
    bell: Rc<OwnedFd>,
    woken: Rc<Cell<usize>>,
    /// How often it was asked for frames.
    looks: Rc<Cell<usize>>,
    longest: Option<Duration>,
}

impl End {
    fn new() -> End {
        End {
            coming: Rc::default(),
            sent: Rc::default(),
            room: Rc::new(Cell::new(usize::MAX)),
            told_empty: Rc::default(),
            bell: Rc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")),
            woken: Rc::default(),
            looks: Rc::default(),
            longest: None,
        }
    }

    fn comes(&self, from: u8, to: u8) {
        self.coming.borrow_mut().push(frame(from, to));
    }

    /// What was sent since the last look: by whom, to whom.
    fn took(&self) -> Vec<(u8, u8)> {
        self.sent.borrow_mut().drain(..).map(|frame| (frame[11], frame[5])).collect()
    }
}

/// A frame between two stations of these numbers; 0 is everybody.
fn frame(from: u8, to: u8) -> Vec<u8> {
    let station = |number: u8| if number == 0 { [0xFF; 6] } else { [2, 0, 0, 0, 0, number] };
    [&station(to)[..], &station(from)[..], &[0x08, 0x00], &[0; 46]].concat()
}

impl FramePort for End {
    fn mac(&self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, 1])
    }

    fn frame_bytes(&self) -> usize {
        1514
    }

    fn rx_burst(&mut self, _now: Instant, max: usize, out: &mut Burst) -> usize {
        self.looks.set(self.looks.get() + 1);
        let mut coming = self.coming.borrow_mut();
        let count = coming.len().min(max);
        coming.drain(..count).for_each(|frame| assert!(out.push(packet(&frame)).is_ok(), "no more than fit"));
        count
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        if queue.is_empty() {
            self.told_empty.set(self.told_empty.get() + 1);
        }
        let mut taken = 0;
        while self.room.get() > 0
            && let Some(frame) = queue.pop()
        {
            self.room.set(self.room.get() - 1);
            self.sent.borrow_mut().push(frame.data().to_vec());
            taken += 1;
        }
        taken
    }

    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {
        panic!("one of several does not sleep alone");
    }

    fn prepare_sleep(&mut self) -> Option<Duration> {
        self.longest
    }

    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn woken(&mut self) {
        self.woken.set(self.woken.get() + 1);
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

fn bundle(ends: &[End; 3]) -> Bundle<End> {
    let [first, others @ ..] = ends.clone();
    let mut bundle = Bundle::new(first, others);
    bundle.start();
    bundle
}

fn send(bundle: &mut Bundle<End>, now: Instant, to: u8) {
    let mut queue = PacketQueue::new(1);
    queue.push(packet(&frame(1, to))).unwrap();
    assert_eq!((bundle.tx_burst(now, &mut queue), queue.len()), (1, 0), "it is never in the way of others");
}

/// All that comes, in one call.
fn receive(bundle: &mut Bundle<End>, now: Instant) -> usize {
    bundle.rx_burst(now, 32, &mut Burst::new())
}

#[test]
fn a_frame_leaves_by_the_link_on_which_its_receiver_was_last_heard() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    let took = || ends.each_ref().map(|end| end.took().len());
    send(&mut bundle, at(0), 7);
    assert_eq!(took(), [1, 1, 1], "nobody knows where it is");
    ends[1].comes(7, 1);
    assert_eq!(receive(&mut bundle, at(1)), 1);
    send(&mut bundle, at(1), 7);
    assert_eq!(took(), [0, 1, 0]);
    send(&mut bundle, at(1), 0);
    assert_eq!(took(), [1, 1, 1], "for everybody");
    // It moves, and comes back.
    for there in [2, 1] {
        ends[there].comes(7, 1);
        receive(&mut bundle, at(2));
        send(&mut bundle, at(2), 7);
        let sent = took();
        assert_eq!((sent[there], sent.iter().sum::<usize>()), (1, 1), "{there}");
    }
    // A sender that is a group is a lie.
    ends[0].comes(0, 1);
    receive(&mut bundle, at(3));
    send(&mut bundle, at(3), 0);
    assert_eq!(took(), [1, 1, 1]);
}

#[test]
fn a_link_that_takes_nothing_keeps_no_other_waiting_and_loses_what_waits() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    ends[1].comes(7, 1);
    ends[2].comes(8, 1);
    receive(&mut bundle, at(0));
    ends[1].room.set(1);
    for _ in 0..3 {
        send(&mut bundle, at(0), 7);
        send(&mut bundle, at(0), 8);
    }
    assert_eq!(ends.each_ref().map(|end| end.took().len()), [0, 1, 3]);
    // Room is found by the next receipt.
    ends[1].room.set(1);
    receive(&mut bundle, at(1000));
    assert_eq!((ends[1].took().len(), bundle.stats().tx_refused), (1, 0));
    // Two milliseconds after that nothing is left, and the device knows.
    receive(&mut bundle, at(2999));
    assert_eq!((bundle.stats().tx_refused, ends[1].told_empty.get()), (0, 0));
    receive(&mut bundle, at(3001));
    assert_eq!((bundle.stats().tx_refused, ends[1].told_empty.get()), (1, 1));
    ends[1].room.set(usize::MAX);
    receive(&mut bundle, at(3002));
    assert_eq!(ends[1].took(), []);
    // Before that time there is a limit to what waits.
    ends[1].room.set(0);
    (0..300).for_each(|_| send(&mut bundle, at(4000), 7));
    assert_eq!(bundle.stats().tx_refused, 1 + 300 - 256);
}

#[test]
fn frames_for_one_link_keep_their_order_where_it_takes_them_and_where_they_wait() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    ends[1].comes(7, 1);
    ends[2].comes(8, 1);
    receive(&mut bundle, at(0));
    let mut send_all = |frames: &[(u8, u8)]| {
        let mut queue = PacketQueue::new(frames.len());
        frames.iter().for_each(|(from, to)| queue.push(packet(&frame(*from, *to))).unwrap());
        assert_eq!((bundle.tx_burst(at(0), &mut queue), queue.len()), (frames.len(), 0));
    };
    ends[1].room.set(2);
    send_all(&[(11, 7), (12, 7), (13, 7)]);
    assert_eq!(ends[1].took(), [(11, 7), (12, 7)]);
    // One waits: it goes before what comes now.
    ends[1].room.set(2);
    send_all(&[(14, 7)]);
    assert_eq!(ends[1].took(), [(13, 7), (14, 7)]);
    ends[1].room.set(9);
    send_all(&[(15, 7), (16, 8), (17, 7)]);
    assert_eq!((ends[1].took(), ends[2].took()), (vec![(15, 7), (17, 7)], vec![(16, 8)]));
}

#[test]
fn a_silent_link_is_looked_at_seldom_until_a_frame_comes_or_the_core_has_slept() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    let looks = |bundle: &mut Bundle<End>, receipts: u32| {
        ends.iter().for_each(|end| end.looks.set(0));
        for _ in 0..receipts {
            ends[0].comes(7, 1);
            receive(bundle, at(0));
        }
        ends.each_ref().map(|end| end.looks.get())
    };
    assert_eq!(looks(&mut bundle, 256)[1..], [256, 256]);
    // Who was heard in this call is asked for more.
    assert_eq!(looks(&mut bundle, 64)[1..], [8, 8]);
    ends[2].comes(8, 1);
    let looked = looks(&mut bundle, 64)[2];
    assert!((56..=64).contains(&looked), "{looked}");
    looks(&mut bundle, 256);
    // What has come during a sleep is found at once.
    ends[1].comes(8, 1);
    ends[2].comes(9, 1);
    bundle.prepare_sleep();
    assert_eq!(receive(&mut bundle, at(0)), 2);
}

#[test]
fn stations_beyond_the_limit_are_heard_anew() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    let heard = |bundle: &mut Bundle<End>, link: usize, high: u8, low: u8| {
        let mut frame = frame(1, 1);
        frame[10..12].copy_from_slice(&[high, low]);
        ends[link].coming.borrow_mut().push(frame);
        // A link that has been silent is looked at seldom.
        while !ends[link].coming.borrow().is_empty() {
            receive(bundle, at(0));
        }
    };
    heard(&mut bundle, 1, 0, 7);
    (0..=255).for_each(|low| heard(&mut bundle, 2, 1, low));
    send(&mut bundle, at(0), 7);
    assert_eq!(ends.each_ref().map(|end| end.took().len()), [1, 1, 1], "one more than there is room for");
    heard(&mut bundle, 1, 0, 7);
    send(&mut bundle, at(0), 7);
    assert_eq!(ends.each_ref().map(|end| end.took().len()), [0, 1, 0]);
}

#[test]
fn each_link_has_its_share_of_a_burst() {
    let ends = [End::new(), End::new(), End::new()];
    let mut bundle = bundle(&ends);
    for end in [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2] {
        ends[end].comes(7, 1);
    }
    let mut burst = Burst::new();
    assert_eq!(bundle.rx_burst(at(0), 9, &mut burst), 9);
    assert_eq!(ends.each_ref().map(|end| end.coming.borrow().len()), [4, 0, 6], "what one leaves is another's");
}

#[test]
fn a_sleep_ends_with_a_frame_on_any_link_of_any_host_and_only_that_one_is_told() {
    let (here, there) = ([End::new(), End::new(), End::new()], [End::new(), End::new(), End::new()]);
    let framed = |ends: &[End; 3], ip| Framed::new(bundle(ends), StackConfig::new(ip, 8));
    let mut port = MultiHomed::new(framed(&here, A), [framed(&there, B)]);
    port.start();
    rustix::io::write(&*there[2].bell, &1u64.to_ne_bytes()).expect("it rings");
    // Without an end of its own: it would never return.
    port.park(None, None);
    let woken = |ends: &[End; 3]| ends.each_ref().map(|end| end.woken.get());
    assert_eq!((woken(&here), woken(&there)), ([0, 0, 0], [0, 0, 1]));
}

#[test]
fn a_link_that_must_be_looked_at_again_or_soon_keeps_the_core_from_a_long_sleep() {
    for longest in [Duration::ZERO, Duration::from_micros(50)] {
        let mut ends = [End::new(), End::new(), End::new()];
        ends[1].longest = Some(longest);
        let mut bundle = bundle(&ends);
        // It returns, although nobody rings.
        bundle.park(None, None);
        assert_eq!(bundle.prepare_sleep(), Some(longest));
    }
    // Who has not been started has nothing to wait on.
    let [first, others @ ..] = [End::new(), End::new()];
    assert_eq!(Bundle::new(first, others).prepare_sleep(), Some(Duration::ZERO));
}
