//! DPDK's af_packet over a real pair of virtual interfaces, against kernel sockets and against itself. Needs root, `ip`, `nsenter` and
//! `ethtool`; without them the tests say so and pass.
//!
//! The two ends lie in two nameless network namespaces, which the kernel removes with the process. Nothing here sleeps by the clock:
//! `park` returns because of the event that a test waits for, and would otherwise hang it.

mod common;

use common::{Node, addr, drain, packet};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as Plain};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use trimaran_net::port::dpdk::{DpdkPort, FrameQueue, OpenOptions, SleepKind, open};
use trimaran_net::{FramePort, Packet, StackConfig, UdpSocket};
use trimaran_runtime::{Clock, Driver, Instant, Monotonic};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const KERNELS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

fn now() -> Instant {
    Monotonic.now()
}

/// Moves the calling thread into a network namespace of its own, and gives a handle by which others find it.
fn enter_namespace() -> File {
    // SAFETY: no other thread's descriptors or memory are touched; what this thread opens from now on lies in the namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may");
    // Neighbour discovery of IPv6 would be noise.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
    File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
}

/// What `make` makes in a namespace of its own: sockets stay in the namespace that they were opened in.
fn elsewhere<T: Send + 'static>(make: impl FnOnce(&File) -> T + Send + 'static) -> T {
    #[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    std::thread::spawn(move || make(&enter_namespace())).join().unwrap()
}

fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

fn run(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn works(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// The far end of a pair of interfaces, where the kernel has its address; the near one, `near`, is in the namespace of this thread.
struct Far {
    namespace: File,
}

impl Far {
    /// `None`, with the reason printed, where this test cannot run.
    fn new() -> Option<Far> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        if let Some(lacking) = ["ip", "nsenter", "ethtool"].into_iter().find(|program| !works(program)) {
            println!("skipped: there is no {lacking}: apt-get install iproute2 util-linux ethtool");
            return None;
        }
        let namespace = elsewhere(|namespace| namespace.try_clone().unwrap());
        enter_namespace();
        run(&format!("ip link add near type veth peer name far netns {}", path(&namespace)));
        run("ip link set near up");
        let far = Far { namespace };
        far.run("ip link set lo up");
        far.run("ip link set far up");
        far.run(&format!("ip addr add {KERNELS}/24 dev far"));
        far.run("ip route add 224.0.0.0/4 dev far");
        // Or the kernel would leave checksums to a card that is not there.
        far.run("ethtool -K far tx off");
        Some(far)
    }

    fn run(&self, line: &str) {
        run(&format!("nsenter --net={} {line}", path(&self.namespace)));
    }

    /// A socket of the kernel's, which never blocks.
    fn socket(&self) -> Plain {
        let namespace = self.namespace.try_clone().unwrap();
        elsewhere(move |_| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
            let socket = Plain::bind(addr(KERNELS, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }
}

fn queue(interface: &str) -> FrameQueue {
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let number = DEVICES.fetch_add(1, Ordering::Relaxed);
    let device = format!("net_af_packet{number},iface={interface}").parse().unwrap();
    let options = OpenOptions { mbufs: 2047, ..OpenOptions::new(&format!("veth-{}", std::process::id()), device) };
    let (_, mut queues) = open(&options).expect("the interface is there and we are root");
    queues.remove(0)
}

fn node(queue: FrameQueue, ip: Ipv4Addr) -> Node<DpdkPort> {
    let mut node = Node::new(DpdkPort::new(queue, StackConfig::new(ip, 24)));
    node.driver.start();
    node
}

fn turn(node: &mut Node<DpdkPort>) {
    let at = now();
    node.poll(at);
    node.flush(at);
}

/// Turns and parks until `socket` has something.
fn receive(node: &mut Node<DpdkPort>, socket: &UdpSocket) -> Packet {
    loop {
        turn(node);
        if let Some(packet) = socket.try_recv() {
            return packet;
        }
        node.driver.park(None, None);
    }
}

/// Turns until the kernel's socket has something, and returns that with its sender.
fn listen(node: &mut Node<DpdkPort>, socket: &Plain) -> (Vec<u8>, SocketAddrV4) {
    let mut bytes = [0; 2048];
    loop {
        turn(node);
        match socket.recv_from(&mut bytes) {
            Ok((len, SocketAddr::V4(from))) => return (bytes[..len].to_vec(), from),
            Ok((_, from)) => panic!("{from} is no address of IPv4"),
            // Our own question for the kernel's address may have to be answered first.
            Err(_) => node.driver.park(Some(Duration::from_millis(1)), None),
        }
    }
}

fn kernel_address(socket: &Plain) -> SocketAddrV4 {
    addr(KERNELS, socket.local_addr().unwrap().port())
}

/// A size for every number: both ends of what a frame carries, and what is padded.
fn payload(number: usize) -> Vec<u8> {
    let sizes = [0, 1, 17, 18, 19, 64, 500, 1471, 1472];
    vec![number as u8; sizes[number % sizes.len()]]
}

#[test]
fn kernel_sockets_are_echoed_and_echo() {
    let Some(far) = Far::new() else { return };
    let mut near = node(queue("near"), OURS);
    assert_eq!(near.net.payload_bytes(), 1472);
    let (ours, theirs) = (near.bind(addr(OURS, 7)), far.socket());
    for number in 0..200 {
        theirs.send_to(&payload(number), addr(OURS, 7)).unwrap();
        let question = receive(&mut near, &ours);
        assert_eq!((question.data(), question.src()), (&payload(number)[..], kernel_address(&theirs)));
        let back = question.src();
        ours.send_to(question, back).unwrap();
        assert_eq!(listen(&mut near, &theirs), (payload(number), addr(OURS, 7)));
    }
    // And from here to there, with packets of the heap.
    for number in 0..200 {
        ours.send_to(packet(&payload(number)), kernel_address(&theirs)).unwrap();
        let (bytes, from) = listen(&mut near, &theirs);
        assert_eq!((&bytes, from), (&payload(number), addr(OURS, 7)));
        theirs.send_to(&bytes, from).unwrap();
        assert_eq!(receive(&mut near, &ours).data(), payload(number));
    }
    let counters = near.driver.port_mut().stack_mut().counters();
    assert_eq!((counters.udp_checksum, counters.ethernet_malformed, counters.tx_dropped()), (0, 0, 0));
    let pool = near.driver.port_mut().device_mut().pool().clone();
    drop((near, ours));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn two_dpdk_ports_talk_with_full_bursts() {
    let Some(far) = Far::new() else { return };
    far.run("ip addr flush dev far");
    let mut near = node(queue("near"), OURS);
    let namespace = far.namespace.try_clone().unwrap();
    let far = elsewhere(move |_| {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
        queue("far")
    });
    let mut far = node(far, KERNELS);
    let (here, there) = (near.bind(addr(OURS, 1)), far.bind(addr(KERNELS, 2)));
    let mut got = Vec::new();
    for round in 0..20u8 {
        for number in 0..60u8 {
            here.send_to(packet(&[round, number]), addr(KERNELS, 2)).unwrap();
        }
        while got.len() < 60 {
            turn(&mut near);
            turn(&mut far);
            got.extend(drain(&there));
        }
        assert!(got.drain(..).enumerate().all(|(number, payload)| payload == [round, number as u8]));
    }
    assert_eq!(near.net.stats().port.tx_full, 0);
}

#[test]
fn a_sleep_ends_with_a_frame_or_a_wake_and_not_with_a_dead_link() {
    let Some(far) = Far::new() else { return };
    let queue = queue("near");
    assert_eq!(queue.sleep_kind(), SleepKind::Socket);
    let mut near = node(queue, OURS);
    let (ours, theirs) = (near.bind(addr(OURS, 7)), far.socket());
    theirs.send_to(b"first", addr(OURS, 7)).unwrap();
    assert_eq!(receive(&mut near, &ours).data(), b"first");
    // Came before the sleep.
    theirs.send_to(b"before", addr(OURS, 7)).unwrap();
    near.driver.park(None, None);
    assert_eq!(receive(&mut near, &ours).data(), b"before");
    // Comes, most likely, in the sleep.
    #[allow(clippy::disallowed_methods, reason = "the far end is no core")]
    let sender = std::thread::spawn(move || {
        theirs.send_to(b"during", addr(OURS, 7)).unwrap();
        theirs
    });
    assert_eq!(receive(&mut near, &ours).data(), b"during");
    let theirs = sender.join().unwrap();
    // The wake fd ends it, too.
    let wake = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    near.driver.park(None, Some(wake.as_fd()));
    rustix::io::read(&wake, &mut [0; 8]).unwrap();
    // A link that goes down is told once, and then the core sleeps as ever.
    run("ip link set near down");
    near.driver.park(Some(Duration::from_secs(60)), Some(wake.as_fd()));
    let (mut parks, until) = (0, now() + Duration::from_millis(100));
    while now() < until {
        near.driver.park(Some(until.saturating_since(now())), Some(wake.as_fd()));
        turn(&mut near);
        parks += 1;
    }
    assert!(parks < 20, "{parks} sleeps in 100 ms");
    run("ip link set near up");
    theirs.send_to(b"again", addr(OURS, 7)).unwrap();
    assert_eq!(receive(&mut near, &ours).data(), b"again");
}

#[test]
fn groups_and_the_interfaces_mtu() {
    let Some(far) = Far::new() else { return };
    run("ip link set near mtu 1400");
    far.run("ip link set far mtu 1400");
    let queue = queue("near");
    assert_eq!(queue.frame_bytes(), 1414);
    let details = Command::new("ip").args(["-d", "link", "show", "near"]).output().unwrap();
    let details = String::from_utf8_lossy(&details.stdout).into_owned();
    assert!(details.contains("allmulti 1"), "{details}");
    let mut near = node(queue, OURS);
    assert_eq!(near.net.payload_bytes(), 1372);
    let group = addr(Ipv4Addr::new(239, 1, 2, 3), 7);
    let (ours, theirs) = (near.bind(group), far.socket());
    theirs.send_to(b"everybody", group).unwrap();
    let got = receive(&mut near, &ours);
    assert_eq!((got.data(), got.src(), got.dst()), (&b"everybody"[..], kernel_address(&theirs), group));
}

/// Why the far end's offload is off in every other test, and must be wherever kernel sockets talk to a DPDK port over veths.
#[test]
fn an_unfinished_checksum_is_dropped_and_counted() {
    let Some(far) = Far::new() else { return };
    far.run("ethtool -K far tx on");
    let mut near = node(queue("near"), OURS);
    let (ours, theirs) = (near.bind(addr(OURS, 7)), far.socket());
    theirs.send_to(b"unfinished", addr(OURS, 7)).unwrap();
    let mut wrong = || {
        turn(&mut near);
        near.driver.park(Some(Duration::from_millis(1)), None);
        near.driver.port_mut().stack_mut().counters().udp_checksum
    };
    while wrong() == 0 {}
    assert!(ours.try_recv().is_none());
    far.run("ethtool -K far tx off");
    theirs.send_to(b"finished", addr(OURS, 7)).unwrap();
    assert_eq!(receive(&mut near, &ours).data(), b"finished");
}
