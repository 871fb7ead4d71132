//! DPDK's af_packet over a real pair of virtual interfaces, against kernel sockets and against itself. Needs root, `ip`, `nsenter` and
//! `ethtool`; without them the tests say so and pass.
//!
//! The two ends lie in two nameless network namespaces, which the kernel removes with the process. Nothing here sleeps by the clock:
//! `park` returns because of the event that a test waits for, and would otherwise hang it.

mod common;

use common::mbufs::{Mbufs, watched};
use common::netns::{
    Far, KERNELS, OURS, enter_namespace, have, kernel_address, listen, node, now, queue, receive, run, turn,
};
use common::{addr, drain, packet};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;
use trimaran_net::port::dpdk::{DeviceConfig, OpenOptions, SleepKind, open};
use trimaran_net::{Burst, FramePort};
use trimaran_runtime::Driver;

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
}

#[test]
fn two_dpdk_ports_talk_with_full_bursts() {
    let Some(far) = Far::new() else { return };
    far.run("ip addr flush dev far");
    let mut near = node(queue("near"), OURS);
    let mut far = node(far.inside(|| queue("far")), KERNELS);
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

/// As above: the interface decides.
#[test]
fn an_interfaces_mtu_counts_whatever_else_the_driver_is_told() {
    let Some(_far) = Far::new() else { return };
    run("ip link set near mtu 1400");
    let device = "net_af_packet_told,iface=near,qdisc_bypass=0".parse().unwrap();
    let options = OpenOptions::new(&format!("veth-{}", std::process::id()), device);
    let (_device, queues) = open(&OpenOptions { mbufs: 2047, ..options }).unwrap();
    let frames: Vec<_> = queues.into_iter().map(|queue| watched(queue).frame_bytes()).collect();
    assert_eq!(frames, [1414]);
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

#[test]
fn what_came_too_fast_is_counted() {
    let Some(far) = Far::new() else { return };
    let mut near = node(queue("near"), OURS);
    let (ours, theirs) = (near.bind(addr(OURS, 7)), far.socket());
    theirs.send_to(b"first", addr(OURS, 7)).unwrap();
    receive(&mut near, &ours);
    for _ in 0..1500 {
        theirs.send_to(b"flood", addr(OURS, 7)).unwrap();
    }
    let mut got = 0;
    while near.poll(now()) > 0 {
        got += drain(&ours).len() as u64;
    }
    let stats = near.net.stats();
    assert!(got > 0 && stats.port.rx_overrun > 0, "{stats:?}");
    assert_eq!(got + stats.dropped_full + stats.port.rx_overrun, 1500, "{stats:?}");
    // All of it can be told by name: of the sockets, the port, the stack, and the driver itself.
    let mut told = BTreeMap::new();
    near.net.counters(&mut |name, count| assert_eq!(told.insert(name.to_owned(), count), None));
    let expected = [
        ("net.received", stats.received),
        ("port.rx_overrun", stats.port.rx_overrun),
        ("stack.rx_datagrams", stats.received),
        ("device.rx_good_packets", stats.port.rx_packets),
    ];
    for (name, count) in expected {
        assert_eq!(told.get(name), Some(&count), "{name}");
    }
}

/// Each queue has its own socket. One that slept on another's would miss its own frames.
#[test]
fn each_queue_sleeps_on_its_own_socket() {
    let Some(far) = Far::new() else { return };
    let device = "net_af_packet_two,iface=near".parse().unwrap();
    let config = DeviceConfig { queues: 3, ..DeviceConfig::default() };
    let options = OpenOptions::new(&format!("veth-{}", std::process::id()), device);
    let (_device, queues) = open(&OpenOptions { config, ..options }).unwrap();
    // They share a pool.
    let mut queues: Vec<_> = queues.into_iter().map(watched).collect();
    let mac = queues[0].mac().0.map(|byte| format!("{byte:02x}")).join(":");
    far.run(&format!("ip neigh replace {OURS} lladdr {mac} dev far"));
    let mut burst = Burst::new();
    let mut used = [0; 3];
    for _ in 0..32 {
        let theirs = far.socket();
        // Which queue a flow belongs to is the kernel's choice, and remains what it is.
        theirs.send_to(b"whose", addr(OURS, 7)).unwrap();
        let owner = (0..3).cycle().find(|queue| queues[*queue].rx_burst(now(), 1, &mut burst) > 0).unwrap();
        theirs.send_to(b"yours", addr(OURS, 7)).unwrap();
        queues[owner].park(None, None);
        assert_eq!(queues[owner].rx_burst(now(), 1, &mut burst), 1);
        used[owner] += 1;
        // Nobody else is woken: these sleeps last as long as they may.
        for other in (0..3).filter(|other| *other != owner) {
            queues[other].park(Some(Duration::from_millis(1)), None);
            assert_eq!(queues[other].rx_burst(now(), 1, &mut burst), 0);
        }
        let payloads: Vec<Vec<u8>> = burst.drain().map(|packet| packet.data()[42..47].to_vec()).collect();
        assert_eq!(payloads, [b"whose", b"yours"]);
    }
    assert!(used.iter().all(|flows| *flows > 0), "{used:?}");
}

/// The kernel at the other end of a tap, which DPDK makes and takes away.
#[test]
fn a_tap_carries_datagrams_and_wakes() {
    if !rustix::process::geteuid().is_root() || !have(&["ip", "ethtool"]) {
        return;
    }
    let _mbufs = Mbufs::watch();
    enter_namespace();
    let device = "net_tap0,iface=near".parse().unwrap();
    let (_device, mut queues) = open(&OpenOptions::new(&format!("tap-{}", std::process::id()), device)).unwrap();
    assert_eq!(queues[0].sleep_kind(), SleepKind::Socket);
    // The driver gives the kernel's end its own address; two stations need two.
    run("ip link set near address 02:00:00:00:00:99");
    run("ip link set near up");
    run(&format!("ip addr add {KERNELS}/24 dev near"));
    run("ethtool -K near tx off");
    let mut near = node(queues.remove(0), OURS);
    let (ours, theirs) = (near.bind(addr(OURS, 7)), UdpSocket::bind(addr(KERNELS, 0)).unwrap());
    theirs.set_nonblocking(true).unwrap();
    for number in 0..50 {
        theirs.send_to(&payload(number), addr(OURS, 7)).unwrap();
        let question = receive(&mut near, &ours);
        assert_eq!(question.data(), payload(number));
        let back = question.src();
        ours.send_to(question, back).unwrap();
        assert_eq!(listen(&mut near, &theirs), (payload(number), addr(OURS, 7)));
    }
    let mut parks = || {
        let (mut parks, until) = (0, now() + Duration::from_millis(100));
        while now() < until {
            near.driver.park(Some(until.saturating_since(now())), None);
            turn(&mut near);
            parks += 1;
        }
        parks
    };
    let idle = parks();
    assert!(idle < 50, "{idle} sleeps in 100 ms");
    // Its descriptor is in error from now on, and the core sleeps as where there is none.
    run("ip link del near");
    let gone = parks();
    assert!(gone <= 2_000, "{gone} sleeps in 100 ms");
    assert_eq!(near.driver.port_mut().device_mut().sleep_kind(), SleepKind::Naps);
}

/// Frames that nobody can carry must not hold the core up, though the driver polls its socket for room, without a limit of time.
#[test]
fn a_dead_link_does_not_block_senders() {
    let Some(far) = Far::new() else { return };
    for down in ["near", "far"] {
        let mut near = node(queue("near"), OURS);
        let (ours, theirs) = (near.bind(addr(OURS, 7)), far.socket());
        theirs.send_to(b"first", addr(OURS, 7)).unwrap();
        let back = receive(&mut near, &ours).src();
        ours.send_to(packet(b"first"), back).unwrap();
        listen(&mut near, &theirs);
        if down == "near" {
            run("ip link set near down")
        } else {
            far.run("ip link set far down")
        }
        for number in 0..2000 {
            let _ = ours.send_to(packet(&payload(number)), back);
            turn(&mut near);
            if number % 100 == 0 {
                near.driver.park(Some(Duration::from_micros(10)), None);
            }
        }
        if down == "near" {
            run("ip link set near up")
        } else {
            far.run("ip link set far up")
        }
        // What was sent long ago may still come, and more of it at once than the kernel's socket holds.
        let mut bytes = [0; 2048];
        let mut came = false;
        while !came {
            let _ = ours.send_to(packet(b"again"), back);
            turn(&mut near);
            near.driver.park(Some(Duration::from_millis(1)), None);
            while let Ok(len) = theirs.recv(&mut bytes) {
                came |= bytes[..len] == *b"again";
            }
        }
    }
}
