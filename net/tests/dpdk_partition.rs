//! Nodes on DPDK's af_packet in processes and network namespaces of their own, on a bridge whose links lose frames and come apart, one
//! way too. Needs root, `ip`, `nsenter`, `ethtool` and `nft`; without them the tests say so and pass.
//!
//! The client asks until it is answered; the server, this very program once more, echoes and says how much it was asked.

mod common;

use common::mbufs::Mbufs;
use common::netns::{elsewhere, have, node, now, path, queue, run, shown, turn};
use common::{A, B, Node, addr, packet};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_net::port::dpdk::DpdkPort;
use trimaran_runtime::Driver;

const SERVER: &str = "TRIMARAN_TEST_SERVER";
const PORT: u16 = 7;

/// The namespace of the bridge, with a link to each of two others.
struct Bridge {
    namespace: File,
    ends: [File; 2],
    _mbufs: Mbufs,
}

impl Bridge {
    fn new() -> Option<Bridge> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        if !have(&["ip", "nsenter", "ethtool", "nft"]) {
            return None;
        }
        let fresh = || elsewhere(|namespace| namespace.try_clone().unwrap());
        let bridge = Bridge { namespace: fresh(), ends: [fresh(), fresh()], _mbufs: Mbufs::watch() };
        bridge.run("ip link add br0 type bridge");
        bridge.run("ip link set br0 up");
        for (number, (end, ip)) in bridge.ends.iter().zip([A, B]).enumerate() {
            let peer = format!("peer name near address {} netns {}", shown(ip), path(end));
            bridge.run(&format!("ip link add port{number} type veth {peer}"));
            bridge.run(&format!("ip link set port{number} master br0 up"));
            inside(end, "ip link set near up");
        }
        Some(bridge)
    }

    fn run(&self, line: &str) {
        inside(&self.namespace, line);
    }

    /// Drops what a rule says of the frames that pass the bridge.
    fn drop_where(&self, rule: &str) {
        self.run("nft add table bridge cuts");
        self.run("nft add chain bridge cuts cut { type filter hook forward priority 0 ; }");
        self.run(&format!("nft add rule bridge cuts cut {rule} counter drop"));
    }

    /// Frames that come from the first port are dropped on their way to the second.
    fn cut(&self, from: usize, to: usize) {
        self.drop_where(&format!("iifname port{from} oifname port{to}"));
    }

    /// Frames that were dropped.
    fn dropped(&self) -> u64 {
        let words = [&format!("--net={}", path(&self.namespace)), "nft", "list", "table", "bridge", "cuts"];
        let output = Command::new("nsenter").args(words).output().unwrap();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = listed.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {listed}"))
    }

    fn heal(&self) {
        self.run("nft delete table bridge cuts");
    }
}

fn inside(namespace: &File, line: &str) {
    run(&format!("nsenter --net={} {line}", path(namespace)));
}

/// The server's process.
struct Server {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(namespace: &File) -> Server {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path(namespace))).arg(std::env::current_exe().unwrap());
        command.args(["the_server", "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env(SERVER, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut server = Server { child, orders, answers };
        server.next_number();
        server
    }

    /// Questions that it has had so far, those that it could not answer too.
    fn asked(&mut self) -> u64 {
        self.orders.write_all(b"asked\n").unwrap();
        self.next_number()
    }

    /// The next number of its own; the test harness talks in between, and in front of the first.
    fn next_number(&mut self) -> u64 {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the server has ended");
            if let Some((_, number)) = line.trim_end().rsplit_once("> ") {
                return number.parse().unwrap();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The other process. Ends with its input.
#[test]
#[ignore = "the server of the other tests"]
fn the_server() {
    if std::env::var_os(SERVER).is_none() {
        return;
    }
    let mut node = node(queue("near"), B);
    let socket = node.bind(addr(B, PORT));
    let orders = orders();
    let mut asked = 0u64;
    println!("> 0");
    loop {
        turn(&mut node);
        while let Some(packet) = socket.try_recv() {
            asked += 1;
            let from = packet.src();
            let _ = socket.send_to(packet, from);
        }
        turn(&mut node);
        match orders.try_recv() {
            Ok(()) => println!("> {asked}"),
            Err(TryRecvError::Empty) => node.driver.park(Some(Duration::from_millis(1)), None),
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

/// One message for each line of the input; it ends with it.
fn orders() -> Receiver<()> {
    let (send, receive) = channel();
    #[allow(clippy::disallowed_methods, reason = "reading the input blocks")]
    std::thread::spawn(move || std::io::stdin().lines().all(|line| line.is_ok() && send.send(()).is_ok()));
    receive
}

struct Client {
    node: Node<DpdkPort>,
    socket: UdpSocket,
    server: Ipv4Addr,
    number: u64,
}

impl Client {
    fn new(namespace: &File) -> Client {
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), None).unwrap();
        let node = node(queue("near"), A);
        let socket = node.bind(addr(A, 0));
        Client { node, socket, server: B, number: 0 }
    }

    /// Asks once and waits for the answer for so long; `false` where none came.
    fn ask(&mut self, patience: Duration) -> bool {
        self.number += 1;
        let question = self.number.to_be_bytes();
        self.socket.send_to(packet(&question), addr(self.server, PORT)).unwrap();
        let until = now() + patience;
        while now() < until {
            turn(&mut self.node);
            while let Some(answer) = self.socket.try_recv() {
                // Answers to earlier questions may come late.
                if answer.data() == question {
                    return true;
                }
            }
            self.node.driver.park(Some(until.saturating_since(now())), None);
        }
        false
    }

    /// Asks until it is answered; how often that took.
    fn insist(&mut self) -> u64 {
        (1..).find(|_| self.ask(Duration::from_millis(10))).unwrap_or_default()
    }
}

#[test]
fn an_echo_gets_through_links_that_lose_every_fifth_frame() {
    const CALLS: u64 = 300;
    let Some(bridge) = Bridge::new() else { return };
    // On the bridge: what a filter drops where the sender's interface puts it out, its kernel sends again for af_packet.
    bridge.drop_where("numgen random mod 100 < 20");
    let mut server = Server::start(&bridge.ends[1]);
    let mut client = Client::new(&bridge.ends[0]);
    let tries: u64 = (0..CALLS).map(|_| client.insist()).sum();
    // By chance 36 of a hundred fail: questions for addresses, requests and answers alike.
    assert!(tries > CALLS + CALLS / 5, "{tries} tries for {CALLS} calls");
    assert!(bridge.dropped() > CALLS / 5);
    let asked = server.asked();
    assert!(asked >= CALLS && asked < tries, "{asked} of {tries} arrived");
}

#[test]
fn a_partition_is_felt_in_its_direction_only_and_heals() {
    const TRIES: u64 = 20;
    let Some(bridge) = Bridge::new() else { return };
    let mut server = Server::start(&bridge.ends[1]);
    let mut client = Client::new(&bridge.ends[0]);
    client.insist();
    let fail = |client: &mut Client| assert!((0..TRIES).all(|_| !client.ask(Duration::from_millis(5))));
    let before = server.asked();
    bridge.cut(0, 1);
    fail(&mut client);
    assert_eq!(server.asked(), before, "requests are cut off");
    bridge.heal();
    assert_eq!(client.insist(), 1, "nothing is left of it");
    let before = server.asked();
    bridge.cut(1, 0);
    fail(&mut client);
    while server.asked() < before + TRIES {}
    assert_eq!(server.asked(), before + TRIES, "only answers are cut off");
    bridge.heal();
    client.insist();
}
