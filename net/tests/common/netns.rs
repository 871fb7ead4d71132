//! Network namespaces with a pair of interfaces, one end for DPDK and one for the kernel; and nodes that DPDK carries.
//!
//! The two ends lie in two nameless namespaces, which the kernel removes with the process.

use super::mbufs::{Mbufs, watched};
use super::{A, B, Node, addr};
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as Plain};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use trimaran_net::port::dpdk::{DpdkPort, FrameQueue, OpenOptions, open};
use trimaran_net::{MacAddr, Packet, StackConfig, UdpSocket};
use trimaran_runtime::{Clock, Driver, Instant, Monotonic};

/// The address of the node that a test is about, which no kernel owns.
pub(crate) const OURS: Ipv4Addr = A;
/// The address of the kernel at the far end.
pub(crate) const KERNELS: Ipv4Addr = B;

pub(crate) fn now() -> Instant {
    Monotonic.now()
}

/// Moves the calling thread into a network namespace of its own, and gives a handle by which others find it.
pub(crate) fn enter_namespace() -> File {
    // SAFETY: no other thread's descriptors or memory are touched; what this thread opens from now on lies in the namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may");
    // Neighbour discovery of IPv6 would be noise.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
    File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
}

/// What `make` makes in a namespace of its own: sockets stay in the namespace that they were opened in.
pub(crate) fn elsewhere<T: Send + 'static>(make: impl FnOnce(&File) -> T + Send + 'static) -> T {
    #[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread")]
    std::thread::spawn(move || make(&enter_namespace())).join().unwrap()
}

pub(crate) fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

pub(crate) fn run(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// These programs are here; otherwise says which one is not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let lacking = programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(lacking) = lacking {
        println!("skipped: there is no {lacking}: apt-get install iproute2 util-linux ethtool nftables iputils-ping");
    }
    lacking.is_none()
}

/// The hardware address that shows `ip`, as `ip link` wants it.
pub(crate) fn shown(ip: Ipv4Addr) -> String {
    MacAddr::derived(ip).0.map(|byte| format!("{byte:02x}")).join(":")
}

/// The far end of a pair of interfaces, where the kernel has its address; the near one, `near`, is in the namespace of this thread.
/// A test makes it first, and when it goes no mbuf of the test's nodes is in use.
pub(crate) struct Far {
    pub(crate) namespace: File,
    _mbufs: Mbufs,
}

impl Far {
    /// `None`, with the reason printed, where this test cannot run.
    pub(crate) fn new() -> Option<Far> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        if !have(&["ip", "nsenter", "ethtool"]) {
            return None;
        }
        let namespace = elsewhere(|namespace| namespace.try_clone().unwrap());
        enter_namespace();
        let peer = format!("peer name far address {} netns {}", shown(KERNELS), path(&namespace));
        run(&format!("ip link add near address {} type veth {peer}", shown(OURS)));
        run("ip link set near up");
        let far = Far { namespace, _mbufs: Mbufs::watch() };
        far.run("ip link set lo up");
        far.run("ip link set far up");
        far.run(&format!("ip addr add {KERNELS}/24 dev far"));
        far.run("ip route add 224.0.0.0/4 dev far");
        // Or the kernel would leave checksums to a card that is not there.
        far.run("ethtool -K far tx off");
        Some(far)
    }

    pub(crate) fn run(&self, line: &str) {
        run(&format!("nsenter --net={} {line}", path(&self.namespace)));
    }

    /// What `make` makes in the far namespace.
    pub(crate) fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace.try_clone().unwrap();
        elsewhere(move |_| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
            make()
        })
    }

    /// A socket of the kernel's, which never blocks.
    pub(crate) fn socket(&self) -> Plain {
        self.inside(|| {
            let socket = Plain::bind(addr(KERNELS, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }
}

pub(crate) fn queue(interface: &str) -> FrameQueue {
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let number = DEVICES.fetch_add(1, Ordering::Relaxed);
    let device = format!("net_af_packet{number},iface={interface}").parse().unwrap();
    let options = OpenOptions { mbufs: 2047, ..OpenOptions::new(&format!("veth-{}", std::process::id()), device) };
    let (_, mut queues) = open(&options).expect("the interface is there and we are root");
    queues.remove(0)
}

pub(crate) fn node(queue: FrameQueue, ip: Ipv4Addr) -> Node<DpdkPort> {
    let mut node = Node::new(DpdkPort::new(watched(queue), StackConfig::new(ip, 24)));
    node.driver.start();
    node
}

pub(crate) fn turn(node: &mut Node<DpdkPort>) {
    let at = now();
    node.poll(at);
    node.flush(at);
}

/// Turns and parks until `socket` has something.
pub(crate) fn receive(node: &mut Node<DpdkPort>, socket: &UdpSocket) -> Packet {
    loop {
        turn(node);
        if let Some(packet) = socket.try_recv() {
            return packet;
        }
        node.driver.park(None, None);
    }
}

/// Turns until the kernel's socket has something, and returns that with its sender.
pub(crate) fn listen(node: &mut Node<DpdkPort>, socket: &Plain) -> (Vec<u8>, SocketAddrV4) {
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

pub(crate) fn kernel_address(socket: &Plain) -> SocketAddrV4 {
    addr(KERNELS, socket.local_addr().unwrap().port())
}
