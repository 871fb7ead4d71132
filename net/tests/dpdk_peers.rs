//! Frames between two processes through memory that they share: memif, and a virtual network card with its host.
//!
//! Each test is one end and starts this very program as the other, which sends back what it gets. Needs neither root nor
//! huge pages.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use trimaran_net::port::dpdk::{
    Device, DeviceConfig, DpdkError, Eal, EalOptions, FrameQueue, LinkWatch, Memory, Mempool, SocketRole, Vdev,
};
use trimaran_net::{Burst, FramePort, Packet, PacketQueue};
use trimaran_runtime::Instant;

/// Devices do not look at the clock.
const NOW: Instant = Instant::ZERO;

const PEER: &str = "TRIMARAN_TEST_PEER";
/// Both queues of a card hold 1024, whether frames are in them or not.
const MBUFS: u32 = 4095;
/// Frames on the way at once: fewer than any of the rings holds.
const WINDOW: u16 = 200;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        let prefix = format!("peer-{}", std::process::id());
        let memory = Memory::Ordinary { mib: 192 };
        Eal::start(&EalOptions { memory, ..EalOptions::new(&prefix) }).expect("DPDK starts in ordinary memory")
    })
}

/// The pair of drivers that a test is about.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Memif,
    /// The server is the host, the client the card.
    Virtio,
}

impl Pair {
    fn vdev(self, name: &str, role: SocketRole, socket: &str) -> Vdev {
        let (name, socket) = (name.to_owned(), socket.to_owned());
        match (self, role) {
            (Pair::Memif, _) => Vdev::Memif { name, socket, role },
            (Pair::Virtio, SocketRole::Server) => Vdev::Vhost { name, socket, role },
            (Pair::Virtio, SocketRole::Client) => Vdev::VirtioUser { name, socket, role },
        }
    }
}

/// A socket that no other test of any process uses. Its file, if it is one, goes when the test ends.
struct Socket(String);

impl Socket {
    fn new(test: &str) -> Socket {
        let path = std::env::temp_dir().join(format!("trimaran-{test}-{}.sock", std::process::id()));
        Socket(path.to_string_lossy().into_owned())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One end, opened.
struct End {
    pool: Mempool,
    device: Device,
    queue: FrameQueue,
    received: Burst,
    /// Frames that the device had no room for.
    waiting: PacketQueue,
}

impl End {
    fn open(vdev: &Vdev, pool: &Mempool) -> Result<End, DpdkError> {
        let (device, mut queues) = Device::open(eal(), vdev, &DeviceConfig::default(), pool)?;
        let (queue, pool) = (queues.remove(0), pool.clone());
        Ok(End { pool, device, queue, received: Burst::new(), waiting: PacketQueue::new(usize::from(WINDOW)) })
    }

    /// Returns once the link is in this state. A test that waits in vain is killed by its runner.
    fn wait_for_link(&self, up: bool) {
        while self.device.link_up().unwrap() != up {
            std::thread::yield_now();
        }
    }

    /// Sends the frames `0..count` and takes them back, in order and whole.
    fn exchange(&mut self, count: u16) {
        let (mut sent, mut back) = (0, 0);
        while back < count {
            while sent < count && sent - back < WINDOW && !self.waiting.is_full() {
                self.waiting.push(frame(&self.pool, sent)).unwrap();
                sent += 1;
            }
            self.queue.tx_burst(NOW, &mut self.waiting);
            if self.queue.rx_burst(NOW, 64, &mut self.received) == 0 {
                std::thread::yield_now();
            }
            for packet in self.received.drain() {
                check(&packet, back);
                back += 1;
            }
        }
    }
}

/// A frame that knows its number, of a length that depends on it, up to a full frame.
fn frame(pool: &Mempool, number: u16) -> Packet {
    let mut packet = pool.alloc().expect("the pool is larger than the window");
    packet.extend_from_slice(&number.to_be_bytes()).unwrap();
    packet.extend_from_slice(&vec![number as u8; 58 + usize::from(number) % 1455]).unwrap();
    packet
}

fn check(packet: &Packet, number: u16) {
    assert_eq!(packet.data()[..2], number.to_be_bytes());
    assert_eq!(packet.len(), 60 + usize::from(number) % 1455);
    assert!(packet.data()[2..].iter().all(|byte| *byte == number as u8));
}

/// The other process, which sends back all that it gets until it is told to stop.
struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(pair: Pair, role: SocketRole, socket: &Socket) -> Peer {
        let role = if role == SocketRole::Server { "server" } else { "client" };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_other_end", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(PEER, format!("{pair:?} {role} {}", socket.0));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Peer { child, orders, answers };
        assert_eq!(peer.next_answer(), "open");
        peer
    }

    /// What it says next; the test harness talks in between.
    fn next_answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the other end has failed");
            if let Some(answer) = line.trim_end().strip_prefix("peer: ") {
                return answer.to_owned();
            }
        }
    }

    /// Ends it; `received` frames and an empty pool are expected of it.
    fn stop(mut self, received: usize) {
        self.orders.write_all(b"stop\n").unwrap();
        assert_eq!(self.next_answer(), format!("received {received} sent {received}"));
        assert_eq!(self.next_answer(), "mbufs 0");
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gone already, but where the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "started by the other tests"]
fn the_other_end() {
    let Ok(orders) = std::env::var(PEER) else { return };
    let words: Vec<&str> = orders.split(' ').collect();
    let [pair, role, socket] = words[..] else { panic!("three words") };
    let pair = if pair == "Memif" { Pair::Memif } else { Pair::Virtio };
    let role = if role == "server" { SocketRole::Server } else { SocketRole::Client };
    let pool = Mempool::create(eal(), "peer", MBUFS).unwrap();
    let mut end = End::open(&pair.vdev("peer", role, socket), &pool).unwrap();
    let told = std::sync::mpsc::channel();
    #[allow(clippy::disallowed_methods, reason = "waits for the order to stop while the test polls")]
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0; 8]);
        let _ = told.0.send(());
    });
    println!("\npeer: open");
    while told.1.try_recv().is_err() {
        if end.queue.rx_burst(NOW, 64, &mut end.received) == 0 {
            std::thread::yield_now();
        }
        for packet in end.received.drain() {
            end.waiting.push(packet).expect("no more come than a window");
        }
        end.queue.tx_burst(NOW, &mut end.waiting);
    }
    let stats = end.queue.stats();
    println!("\npeer: received {} sent {}", stats.rx_packets, stats.tx_packets);
    drop(end);
    println!("\npeer: mbufs {}", pool.in_use());
}

/// Frames both ways, then the other end goes and leaves nothing behind.
fn there_and_back(pair: Pair, role: SocketRole, test: &str) {
    let (socket, pool) = (Socket::new(test), Mempool::create(eal(), test, MBUFS).unwrap());
    let (mut peer, mut end);
    if role == SocketRole::Server {
        end = End::open(&pair.vdev(test, role, &socket.0), &pool).unwrap();
        assert!(!end.device.link_up().unwrap(), "nobody is there yet");
        peer = Peer::start(pair, SocketRole::Client, &socket);
    } else {
        peer = Peer::start(pair, SocketRole::Server, &socket);
        end = End::open(&pair.vdev(test, role, &socket.0), &pool).unwrap();
    }
    end.wait_for_link(true);
    let mut watch = LinkWatch::new(&end.device).unwrap();
    end.exchange(5000);
    assert_eq!((watch.look().unwrap(), watch.last().up), (None, true));
    let stats = end.device.stats().unwrap();
    assert_eq!((stats.tx_frames, stats.rx_frames), (5000, 5000));
    assert!(matches!(peer.child.try_wait(), Ok(None)));
    peer.stop(5000);
    end.wait_for_link(false);
    assert!(watch.look().unwrap().is_some_and(|link| !link.up));
    assert_eq!((watch.look().unwrap(), watch.changes()), (None, 1));
    drop((end, watch));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn memif_from_server_to_client_and_back() {
    there_and_back(Pair::Memif, SocketRole::Server, "memif-server");
}

#[test]
fn memif_from_client_to_server_and_back() {
    there_and_back(Pair::Memif, SocketRole::Client, "memif-client");
}

#[test]
fn a_host_and_its_card() {
    there_and_back(Pair::Virtio, SocketRole::Server, "vhost");
}

#[test]
fn a_card_and_its_host() {
    there_and_back(Pair::Virtio, SocketRole::Client, "virtio-user");
}

/// The last peer of a test: it is served as the first, and nothing is left behind.
fn exchange_and_part(mut end: End, peer: Peer, pool: &Mempool) {
    end.wait_for_link(true);
    end.exchange(300);
    peer.stop(300);
    drop(end);
    assert_eq!(pool.in_use(), 0);
}

/// Whoever waits on the socket serves one peer after another, however they end.
fn clients_come_and_go(pair: Pair, test: &str) {
    let (socket, pool) = (Socket::new(test), Mempool::create(eal(), test, MBUFS).unwrap());
    let mut end = End::open(&pair.vdev(test, SocketRole::Server, &socket.0), &pool).unwrap();
    for _ in 0..2 {
        let mut peer = Peer::start(pair, SocketRole::Client, &socket);
        end.wait_for_link(true);
        end.exchange(300);
        // In silence: see `Vdev::Memif`.
        peer.kill();
        end.wait_for_link(false);
        end.waiting.push(frame(&pool, 0)).unwrap();
        assert_eq!(end.queue.tx_burst(NOW, &mut end.waiting), 0, "nobody is there");
        assert_eq!((end.queue.rx_burst(NOW, 64, &mut end.received), end.waiting.len()), (0, 1));
        end.waiting.clear();
    }
    exchange_and_part(end, Peer::start(pair, SocketRole::Client, &socket), &pool);
}

#[test]
fn a_memif_server_takes_the_next_client_after_one_was_killed() {
    clients_come_and_go(Pair::Memif, "memif-clients");
}

#[test]
fn a_host_takes_the_next_card_after_one_was_killed() {
    clients_come_and_go(Pair::Virtio, "vhost-clients");
}

/// A client that opens and goes at once, while the server is busy with something else: DPDK would end the server's process for it.
#[test]
fn a_memif_client_goes_only_after_its_server_has_heard_it() {
    let (socket, pool) = (Socket::new("memif-busy"), Mempool::create(eal(), "memif-busy", MBUFS).unwrap());
    let peer = Peer::start(Pair::Memif, SocketRole::Server, &socket);
    let server = Pid::from_child(&peer.child);
    kill_process(server, Signal::STOP).unwrap();
    #[allow(clippy::disallowed_methods, reason = "the other process goes on while this one opens")]
    let busy = std::thread::spawn(move || {
        // Nothing rests on how long: a client that does not wait has gone by then, one that does is still there after a longer one.
        std::thread::sleep(Duration::from_millis(200));
        kill_process(server, Signal::CONT).unwrap();
    });
    let client = Pair::Memif.vdev("memif-busy", SocketRole::Client, &socket.0);
    drop(End::open(&client, &pool).unwrap());
    busy.join().unwrap();
    exchange_and_part(End::open(&client, &pool).unwrap(), peer, &pool);
}

/// A client whose server has gone finds the next one when it opens anew.
fn a_server_comes_back(pair: Pair, test: &str) {
    let (socket, pool) = (Socket::new(test), Mempool::create(eal(), test, MBUFS).unwrap());
    let client = pair.vdev(test, SocketRole::Client, &socket.0);
    assert!(End::open(&client, &pool).is_err(), "nobody is there yet");
    let mut peer = Peer::start(pair, SocketRole::Server, &socket);
    let mut end = End::open(&client, &pool).unwrap();
    end.wait_for_link(true);
    end.exchange(300);
    peer.kill();
    end.wait_for_link(false);
    drop(end);
    assert_eq!(pool.in_use(), 0);
    assert!(End::open(&client, &pool).is_err(), "the socket leads to nobody");
    // A killed host leaves its file.
    let _ = std::fs::remove_file(&socket.0);
    let peer = Peer::start(pair, SocketRole::Server, &socket);
    exchange_and_part(End::open(&client, &pool).unwrap(), peer, &pool);
}

#[test]
fn a_memif_client_finds_the_next_server() {
    a_server_comes_back(Pair::Memif, "memif-servers");
}

#[test]
fn a_card_finds_the_next_host() {
    a_server_comes_back(Pair::Virtio, "vhost-servers");
}
