//! A node on DPDK's af_packet beside hosts that test it: the kernel's `ping`, frames of every bad kind, and a flood of them all.
//! Needs root, `ip`, `nsenter`, `ethtool` and `ping`; without them the tests say so and pass.

mod common;

use common::corpus::{Bad, bad_frames};
use common::frame::{arp, echo, ethernet, from_b, ipv4, udp, with_header_byte};
use common::netns::{Far, OURS, have, node, path, queue, run, turn};
use common::{A, B, Node, addr};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use trimaran_net::port::dpdk::{DpdkPort, Mempool};
use trimaran_net::{MacAddr, SocketOptions, StackCounters, UdpSocket, pool};
use trimaran_runtime::Driver;

/// A packet socket on the far interface: sends whatever it is given, of 14 bytes at least.
struct Wire(OwnedFd);

impl Wire {
    fn open(far: &Far) -> Wire {
        let fd = far.inside(|| {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
            let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
            let index = rustix::net::netdevice::name_to_index(&fd, "far").unwrap();
            // SAFETY: a plain C struct of integers, for which zero bytes are valid.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            (to.sll_family, to.sll_ifindex) = (libc::AF_PACKET as u16, index as i32);
            let bytes = size_of_val(&to) as u32;
            // SAFETY: the socket is open and the address as long as it says.
            let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const to).cast(), bytes) };
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            fd
        });
        Wire(fd)
    }

    fn send(&self, frame: &[u8]) {
        // A full queue of the interface is as good as a loss.
        let _ = rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty());
    }
}

fn counters(node: &mut Node<DpdkPort>) -> StackCounters {
    node.driver.port_mut().stack_mut().counters()
}

fn mbufs(node: &mut Node<DpdkPort>) -> Mempool {
    node.driver.port_mut().device_mut().pool().clone()
}

/// Sends back all that has come to `socket`.
fn echo_all(socket: &UdpSocket) {
    while let Some(packet) = socket.try_recv() {
        let from = packet.src();
        let _ = socket.send_to(packet, from);
    }
}

/// Runs `ping` at the far end until it ends; what it says at last.
fn ping(far: &Far, near: &mut Node<DpdkPort>, arguments: &str) -> String {
    let words = arguments.split(' ').map(str::to_owned).chain([OURS.to_string()]);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(&far.namespace))).arg("ping").args(words);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        turn(near);
        near.driver.park(Some(Duration::from_millis(1)), None);
    }
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[test]
fn the_kernel_pings_a_node_and_loses_nothing() {
    if !have(&["ping"]) {
        return;
    }
    let Some(far) = Far::new() else { return };
    let mut near = node(queue("near"), OURS);
    // No kernel owns the address: only the node can have answered.
    for arguments in ["-q -c 40 -i 0.003 -W 5", "-q -c 40 -i 0.003 -W 5 -s 1400", "-q -c 10 -i 0.003 -W 5 -s 1472"] {
        let said = ping(&far, &mut near, arguments);
        assert!(said.contains(" 0% packet loss") && !said.contains("wrong data"), "{arguments}: {said}");
    }
    assert_eq!(counters(&mut near).icmp_answered, 90);
    // Of a larger one the kernel joins the parts before DPDK gets them; the answer would not fit, and the device goes on.
    let said = ping(&far, &mut near, "-q -c 1 -W 1 -s 1473");
    let counted = counters(&mut near);
    assert!(said.contains(" 100% packet loss"), "{said}");
    assert_eq!((counted.tx_too_large, counted.icmp_answered), (1, 90));
    // Where the node's own kernel has the address as well, both answer.
    run(&format!("ip addr add {OURS}/24 dev near"));
    let said = ping(&far, &mut near, "-q -c 5 -i 0.003 -W 5");
    assert!(said.contains(" 0% packet loss"), "{said}");
    let pool = mbufs(&mut near);
    drop(near);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn each_bad_frame_is_counted_by_a_real_device_too() {
    let Some(far) = Far::new() else { return };
    let wire = Wire::open(&far);
    let mut near = node(queue("near"), OURS);
    // The link's own noise first: a good frame is the last of it.
    let ours = near.bind(addr(OURS, 8_000));
    wire.send(&from_b(0x0800, &ipv4(B, A, 17, &udp(B, A, b"hey"))));
    while ours.try_recv().is_none() {
        turn(&mut near);
    }
    // Fragments do not come this far: DPDK asks the kernel to join them, and the kernel keeps them until it can.
    let arrives = |bad: &Bad| bad.frame.len() >= 14 && !bad.what.contains("fragment");
    for bad in bad_frames().into_iter().filter(arrives) {
        let mut expected = counters(&mut near);
        *(bad.counter)(&mut expected) += 1;
        wire.send(&bad.frame);
        let before = near.net.stats().port.rx_packets;
        while near.net.stats().port.rx_packets == before {
            turn(&mut near);
        }
        assert_eq!(counters(&mut near), expected, "{}: {:02x?}", bad.what, bad.frame);
    }
    assert!(ours.try_recv().is_none());
    let pool = mbufs(&mut near);
    drop((near, ours));
    assert_eq!(pool.in_use(), 0);
}

/// A frame of the flood, which no honest host would send: by turns of every kind, with sources and contents by chance.
fn hostile(dice: &mut Pcg64Mcg) -> Vec<u8> {
    let number = dice.next_u64();
    // Anybody but the host at the far end and the node itself.
    let from = Ipv4Addr::new(10, 0, 0, 3 + (number >> 8) as u8 % 250);
    let payload: Vec<u8> = (0..(number >> 16) % 1_400).map(|at| (number >> (at % 50)) as u8).collect();
    let framed = |ethertype, payload: &[u8]| ethernet(MacAddr::derived(A), MacAddr::derived(from), ethertype, payload);
    match number % 8 {
        0 => ethernet(MacAddr::BROADCAST, MacAddr::derived(from), 0x0806, &arp(1, from, A)),
        1 => framed(0x0806, &arp(2, from, A)),
        2 => framed(0x0800, &ipv4(from, A, 1, &echo(&payload))),
        3 => framed(0x0800, &with_header_byte(ipv4(from, A, 17, &udp(from, A, &payload)), 6, 0x20)),
        4 => framed(0x0800, &with_header_byte(ipv4(from, A, 17, &payload), 7, 1 | (number >> 40) as u8)),
        // To port 8000, where nobody reads, and to the echo, which answers stations that are not there.
        5 => framed(0x0800, &ipv4(from, A, 17, &udp(from, A, &payload))),
        6 => {
            let mut datagram = udp(from, A, &payload);
            datagram[2..4].copy_from_slice(&7u16.to_be_bytes());
            datagram[6..8].fill(0);
            framed(0x0800, &ipv4(from, A, 17, &datagram))
        }
        _ => framed(0x0800, &payload),
    }
}

#[test]
fn an_echo_goes_on_in_a_flood_and_nothing_grows() {
    const ECHOES: u64 = 200;
    const FLOOD: u64 = 200_000;
    let Some(far) = Far::new() else { return };
    let wire = Wire::open(&far);
    let mut near = node(queue("near"), OURS);
    let pool = mbufs(&mut near);
    let (heap_before, mbufs_before) = (pool::stats().in_use(), pool.in_use());
    let brief = SocketOptions { rx_packets: 256, tx_packets: 256, ..SocketOptions::default() };
    let (ours, theirs) = (near.net.bind(addr(OURS, 7), brief).unwrap(), far.socket());
    let unread = near.net.bind(addr(OURS, 8_000), brief).unwrap();
    theirs.set_nonblocking(false).unwrap();
    theirs.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    // The node learns who asks before anybody can lie about it; an address lasts for 30 s.
    theirs.send_to(&[0; 8], addr(OURS, 7)).unwrap();
    while counters(&mut near).arp_learned == 0 {
        echo_all(&ours);
        turn(&mut near);
    }

    let (echoed, sent, stop) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    #[allow(clippy::disallowed_methods, reason = "the far end is no core")]
    let (client, attacker) = {
        let (echoed, sent, stop) = (Arc::clone(&echoed), Arc::clone(&sent), Arc::clone(&stop));
        let client = std::thread::spawn(move || {
            let mut answer = [0; 64];
            for number in 1..=ECHOES {
                // Until it is answered: the flood may cost one, and the next, but not all.
                while {
                    theirs.send_to(&number.to_be_bytes(), addr(OURS, 7)).unwrap();
                    !matches!(theirs.recv(&mut answer), Ok(8) if answer[..8] == number.to_be_bytes())
                } {}
                echoed.store(number, Ordering::Relaxed);
            }
        });
        let attacker = std::thread::spawn(move || {
            let mut dice = Pcg64Mcg::seed_from_u64(1);
            let mut frames: Vec<Vec<u8>> = bad_frames().into_iter().map(|bad| bad.frame).collect();
            frames.retain(|frame| frame.len() >= 14);
            frames.extend((0..4_000).map(|_| hostile(&mut dice)));
            while !stop.load(Ordering::Relaxed) {
                let at = dice.next_u64() as usize % frames.len();
                wire.send(&frames[at]);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        (client, attacker)
    };
    let mut most = (0u64, 0u64);
    while echoed.load(Ordering::Relaxed) < ECHOES || sent.load(Ordering::Relaxed) < FLOOD {
        turn(&mut near);
        echo_all(&ours);
        let (rows, waiting, _) = near.driver.port_mut().stack_mut().neighbors();
        assert!(rows <= 256 && waiting <= 256, "{rows} rows, {waiting} packets");
        most = (most.0.max(u64::from(pool.in_use() - mbufs_before)), most.1.max(pool::stats().in_use() - heap_before));
    }
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
    attacker.join().unwrap();

    let counted = counters(&mut near);
    for count in [counted.arp_limited, counted.icmp_limited, counted.arp_unsolicited, counted.tx_unresolved] {
        assert!(count > 0, "{counted:?}");
    }
    // The queues of two sockets, what waits for addresses, the stack's frames, the device's, and a burst or two.
    assert!(most.0 + most.1 <= 3 * 256 + 256 + 512 + 1_024 + 2 * 64, "{most:?}");
    drop((unread, ours));
    // What still waits for an address is given up in its time.
    while pool.in_use() > mbufs_before || near.driver.port_mut().stack_mut().neighbors().1 > 0 {
        turn(&mut near);
    }
    assert_eq!(pool::stats().in_use(), heap_before);
    println!("{} hostile frames, most buffers in use {most:?}: {counted:?}", sent.load(Ordering::Relaxed));
}
