//! Members of a cluster stay reachable for a stack that strangers flood: from addresses that nobody has, each of which it asks for.

mod common;

use common::frame::{arp, ethernet};
use common::{A, B, C, Node, addr, packet};
use std::net::Ipv4Addr;
use std::time::Duration;
use trimaran_net::{FaultInjector, Framed, Link, MacAddr, MultiHomed, PcapWriter, SimNet, Stack, StackConfig, Tap};
use trimaran_runtime::Instant;

const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 9);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);

/// A stack, and the link as its frames show it.
struct Scene {
    stack: Stack,
    now: Instant,
    spoofed: u32,
    /// Questions for the member.
    asked: usize,
    /// Datagrams to the member's station.
    sent: usize,
}

impl Scene {
    fn new(pinned: &[Ipv4Addr]) -> Self {
        let config = StackConfig { gateway: Some(GATEWAY), ..StackConfig::new(A, 16) };
        let mut stack = Stack::new(config, MacAddr::derived(A), 1_514);
        assert!(pinned.iter().all(|ip| stack.pin(*ip, None)));
        Scene { stack, now: Instant::from_nanos(1_000_000_000), spoofed: 0, asked: 0, sent: 0 }
    }

    fn send(&mut self, to: Ipv4Addr) {
        let mut datagram = packet(b"to whom it concerns");
        datagram.set_dst(addr(to, 9));
        self.stack.send(self.now, datagram);
        self.look();
    }

    /// Two replies to each of so many hosts that are not there.
    fn flood(&mut self, replies: u32) {
        for _ in 0..replies {
            self.spoofed += 1;
            // Below the member's address, and so asked for before it where that is the order.
            let [_, _, high, low] = (self.spoofed % 0x0700).to_be_bytes();
            let nobody = Ipv4Addr::new(10, 0, 1 + high, low);
            self.send(nobody);
            self.send(nobody);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.stack.advance(self.now);
        self.look();
    }

    fn look(&mut self) {
        while let Some(frame) = self.stack.frames().pop() {
            let frame = frame.data();
            self.asked += usize::from(frame[12..14] == [8, 6] && frame[38..42] == MEMBER.octets());
            self.sent += usize::from(frame[12..14] == [8, 0] && frame[..6] == MacAddr::derived(MEMBER).0);
        }
    }

    fn answer(&mut self) {
        let frame = ethernet(MacAddr::derived(A), MacAddr::derived(MEMBER), 0x0806, &arp(2, MEMBER, A));
        self.stack.receive(self.now, packet(&frame));
        self.look();
    }
}

const MS: Duration = Duration::from_millis(1);

/// The address is old, and each answer to the question for a new one is lost for a while.
#[test]
fn a_flood_while_a_member_is_asked_for_again_does_not_make_it_forgotten() {
    let mut scene = Scene::new(&[MEMBER]);
    scene.send(MEMBER);
    scene.answer();
    assert_eq!((scene.asked, scene.sent), (1, 1));
    scene.pass(Duration::from_secs(30));
    for ms in 1..=1_000 {
        scene.flood(20);
        scene.send(MEMBER);
        assert_eq!(scene.sent, 1 + ms, "after {ms} ms");
        scene.pass(MS);
    }
    assert!((20..=25).contains(&scene.asked), "{} questions, though a flood used up the pace of others", scene.asked);
    scene.send(MEMBER);
    scene.answer();
    scene.pass(Duration::from_secs(20));
    let before = scene.asked;
    scene.send(MEMBER);
    assert_eq!(scene.asked, before, "fresh again");
    let counters = scene.stack.counters();
    assert!(counters.arp_ask_limited > 1_000, "{counters:?}");
}

/// Nothing is known of the member yet, and strangers have all that is common.
#[test]
fn a_member_is_found_in_the_middle_of_a_flood() {
    let mut scene = Scene::new(&[MEMBER]);
    for _ in 0..100 {
        scene.flood(20);
        scene.pass(MS);
    }
    let (rows, waiting, _) = scene.stack.neighbors();
    assert_eq!((rows, waiting), (256, 256), "rows, packets");
    scene.send(MEMBER);
    assert_eq!(scene.asked, 1, "at once");
    for _ in 0..40 {
        scene.flood(20);
        scene.pass(MS);
    }
    scene.answer();
    assert_eq!(scene.sent, 1);
}

/// The one without a pin shows that the flood is one.
#[test]
fn a_neighbour_that_is_not_pinned_has_no_such_rights() {
    let mut scene = Scene::new(&[]);
    for _ in 0..100 {
        scene.flood(20);
        scene.pass(MS);
    }
    scene.send(MEMBER);
    assert_eq!((scene.asked, scene.stack.neighbors().1), (0, 256));
}

#[test]
fn of_a_member_on_another_link_the_gateway_is_pinned() {
    let far = [1, 2].map(|last| Ipv4Addr::new(192, 168, 0, last));
    let mut scene = Scene::new(&far);
    assert_eq!(scene.stack.neighbors().0, 1);
    let nowhere = [A, Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 255, 255)];
    assert!(nowhere.iter().all(|ip| !scene.stack.pin(*ip, None)));
    let room = (1..=200).filter(|last| scene.stack.pin(Ipv4Addr::new(10, 0, 0, 50 + last), None)).count();
    assert_eq!(
        (room, scene.stack.counters().pins_refused),
        (127, 3 + 73),
        "half of 256 rows, of which the gateway has one"
    );
}

/// As nodes pin: through their handle, whatever is around the port, on each of several devices.
#[test]
fn a_handle_pins_through_whatever_is_around_the_port() {
    let sim = SimNet::new(1);
    let framed = |ip| Framed::new(sim.frame_port(ip), StackConfig::new(ip, 24));
    let (pcap, link) = (PcapWriter::new(Vec::new(), u64::MAX).unwrap(), Link::new(Duration::ZERO, Duration::ZERO));
    let mut node = Node::new(FaultInjector::new(Tap::new(MultiHomed::new(framed(A), [framed(B)]), pcap), link, 1, 1));
    let far = Ipv4Addr::new(192, 168, 0, 1);
    assert_eq!([A, B, C, C, far].map(|ip| node.net.pin(ip)), [true, true, true, true, false], "no gateway");
    let mut port = node.driver.port_mut();
    let pins = port.port_mut().port_mut().members_mut().iter_mut().map(|member| {
        let counters = member.stack_mut().counters();
        (counters.pins, counters.pins_refused)
    });
    assert_eq!(pins.collect::<Vec<_>>(), [(2, 1), (2, 1)], "the other device's address, and the third");
}
