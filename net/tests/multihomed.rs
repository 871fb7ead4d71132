//! One core with several devices of frames, and its neighbours on a simulated switch.

mod common;

use common::{A, B, C, Node, addr, at, packet};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{
    Burst, FramePort, Framed, MacAddr, MultiHomed, NetError, PacketQueue, Port, PortStats, SimFramePort, SimNet,
    SocketOptions, StackConfig,
};
use trimaran_runtime::{Driver, Instant};

type Host = Node<MultiHomed<SimFramePort>>;

const LIMIT: Instant = Instant::from_nanos(10_000_000_000);

fn framed(sim: &SimNet, ip: Ipv4Addr) -> Framed<SimFramePort> {
    Framed::new(sim.frame_port(ip), StackConfig::new(ip, 8))
}

/// A host with a device for each of two addresses.
fn host(sim: &SimNet, first: Ipv4Addr, second: Ipv4Addr) -> Host {
    Node::new(MultiHomed::new(framed(sim, first), [framed(sim, second)]))
}

/// Turns the host, each time that something is due, until nothing is; returns when.
fn settle(host: &mut Host, start: Instant) -> Instant {
    let mut now = start;
    host.flush(now);
    while let Some(next) = host.driver.next_arrival().filter(|next| *next <= LIMIT) {
        now = now.max(next);
        host.poll(now);
        host.flush(now);
    }
    now
}

/// Datagrams and questions of ARP that a device has sent, and answers.
fn sent(host: &mut Host) -> Vec<(u64, u64, u64)> {
    let mut port = host.driver.port_mut();
    let of = |member: &mut Framed<SimFramePort>| {
        let counters = member.stack_mut().counters();
        (counters.tx_datagrams, counters.arp_asked, counters.arp_answered)
    };
    port.members_mut().iter_mut().map(of).collect()
}

#[test]
fn what_the_devices_of_one_core_tell_each_other_crosses_the_link() {
    let sim = SimNet::new(1);
    let mut host = host(&sim, A, B);
    let (one, two) = (host.bind(addr(A, 1)), host.bind(addr(B, 1)));
    one.send_to(packet(b"over"), addr(B, 1)).unwrap();
    let now = settle(&mut host, at(0));
    let got = two.try_recv().expect("it came");
    assert_eq!((got.data(), got.src(), got.dst()), (&b"over"[..], addr(A, 1), addr(B, 1)));
    two.send_to(packet(b"back"), addr(A, 1)).unwrap();
    settle(&mut host, now);
    assert_eq!(one.try_recv().map(|packet| packet.src()), Some(addr(B, 1)));
    // Each has asked for the other's station, and each datagram was a frame.
    assert_eq!(sent(&mut host), [(1, 1, 1), (1, 1, 1)]);
    assert_eq!(sim.counters().sent, 6);
    let stats = host.net.stats().port;
    assert_eq!((stats.tx_packets, stats.rx_packets), (6, 6), "of both together");
    let mut asked = 0;
    host.net.counters(&mut |name, count| asked += if name == "stack.arp_asked" { count } else { 0 });
    assert_eq!(asked, 2, "one count of this name, of both together");
}

#[test]
fn a_socket_is_on_the_device_that_has_its_address() {
    let sim = SimNet::new(1);
    let host = host(&sim, A, B);
    let any = host.bind(addr(Ipv4Addr::UNSPECIFIED, 7));
    assert_eq!(any.local_addr(), addr(A, 7), "the first");
    let free = host.bind(addr(B, 0));
    assert_eq!(*free.local_addr().ip(), B);
    let refused = |local| host.net.bind(local, SocketOptions::default()).map(|_| ());
    assert!(matches!(refused(addr(C, 1)), Err(NetError::AddressNotAvailable { .. })));
    assert!(matches!(refused(addr(A, 7)), Err(NetError::AddressInUse { .. })));
    assert!(refused(addr(B, 7)).is_ok(), "another address, another socket");
    drop(any);
    assert!(refused(addr(A, 7)).is_ok());
}

/// A device that has any number of frames, and that sleeps on a descriptor.
struct Flood {
    /// Frames that are left.
    left: Rc<Cell<usize>>,
    bell: Rc<OwnedFd>,
    longest: Option<Duration>,
    said: Rc<RefCell<Vec<&'static str>>>,
    payload_bytes: usize,
}

impl Flood {
    fn new(left: usize) -> Flood {
        let bell = Rc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"));
        Flood { left: Rc::new(Cell::new(left)), bell, longest: None, said: Rc::default(), payload_bytes: 1500 }
    }
}

impl FramePort for Flood {
    fn mac(&self) -> MacAddr {
        MacAddr::derived(A)
    }

    fn frame_bytes(&self) -> usize {
        self.payload_bytes + 14
    }

    /// What they hold is no frame: the stack drops them, and they count as taken.
    fn rx_burst(&mut self, _now: Instant, max: usize, out: &mut Burst) -> usize {
        self.said.borrow_mut().push("looked");
        let taken = self.left.get().min(max);
        self.left.set(self.left.get() - taken);
        (0..taken).for_each(|_| assert!(out.push(packet(b"x")).is_ok(), "no more were asked for than fit"));
        taken
    }

    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        let taken = queue.len();
        queue.clear();
        taken
    }

    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {
        panic!("one of several does not sleep alone");
    }

    fn prepare_sleep(&mut self) -> Option<Duration> {
        self.said.borrow_mut().push("prepared");
        self.longest
    }

    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn woken(&mut self) {
        self.said.borrow_mut().push("woken");
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

fn port(devices: [Flood; 3]) -> MultiHomed<Flood> {
    let mut members = (1..).zip(devices).map(|(last, device)| {
        let ip = Ipv4Addr::new(10, 0, 0, last);
        Framed::new(device, StackConfig::new(ip, 8))
    });
    let mut port = MultiHomed::new(members.next().expect("three"), members);
    port.start();
    port
}

#[test]
fn a_busy_device_leaves_the_others_their_share_of_each_burst() {
    let devices = [1000, 4, 1000].map(Flood::new);
    let left = [0, 1, 2].map(|at| Rc::clone(&devices[at].left));
    let mut port = port(devices);
    let mut burst = Burst::new();
    assert_eq!(port.rx_burst(at(0), 30, &mut burst), 30, "more may wait");
    let taken = [1000 - left[0].get(), 4 - left[1].get(), 1000 - left[2].get()];
    assert_eq!(taken, [16, 4, 10], "what one leaves is another's");
    // Over many bursts none is first more often than others; not even where a burst is shorter than the devices are many.
    for _ in 0..300 {
        assert_eq!(port.rx_burst(at(0), 2, &mut burst), 2);
    }
    let taken = [1000 - left[0].get(), 1000 - left[2].get()];
    assert!(taken.iter().all(|taken| taken.abs_diff(313) < 120), "{taken:?}");
}

#[test]
fn a_device_without_frames_is_looked_at_once_a_turn() {
    let devices = [0, 0, 5].map(Flood::new);
    let said = [0, 1, 2].map(|at| Rc::clone(&devices[at].said));
    let mut port = port(devices);
    assert_eq!(port.rx_burst(at(0), 32, &mut Burst::new()), 5);
    assert_eq!(said.map(|said| said.borrow().len()), [1, 1, 1]);
}

#[test]
fn a_sleep_ends_with_a_frame_of_any_device_and_only_that_one_is_told() {
    let devices = [0, 0, 0].map(Flood::new);
    let said = [0, 1, 2].map(|at| Rc::clone(&devices[at].said));
    let bell = Rc::clone(&devices[1].bell);
    let mut port = port(devices);
    let wake = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
    rustix::io::write(&*bell, &1u64.to_ne_bytes()).expect("it rings");
    // Without an end of its own: it would never return.
    port.park(None, Some(wake.as_fd()));
    let [first, second, third] = said.map(|said| said.take());
    assert_eq!((first, second, third), (vec!["prepared"], vec!["prepared", "woken"], vec!["prepared"]));
    rustix::io::read(&*bell, &mut [0u8; 8]).expect("it has rung");
    rustix::io::write(&wake, &1u64.to_ne_bytes()).expect("it rings");
    port.park(None, Some(wake.as_fd()));
}

#[test]
fn a_device_that_must_be_looked_at_again_or_soon_keeps_the_core_from_a_long_sleep() {
    for longest in [Duration::ZERO, Duration::from_micros(50)] {
        let mut devices = [0, 0, 0].map(Flood::new);
        devices[2].longest = Some(longest);
        // It returns, although nobody rings.
        port(devices).park(None, None);
    }
}

#[test]
fn the_smallest_device_says_how_much_a_datagram_carries() {
    let mut devices = [0, 0, 0].map(Flood::new);
    devices[1].payload_bytes = 1000;
    assert_eq!(port(devices).capabilities().payload_bytes, 972);
}
