//! A device of two queues that spreads packets by a hash of its own, as a card without rules does: each core's sockets get theirs
//! all the same.

use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trimaran_net::{
    Burst, Capabilities, Layout, Net, NetConfig, NetDriver, NetError, Packet, PacketQueue, Port, PortStats, Priority,
    SocketOptions, Steering, UdpSocket,
};
use trimaran_runtime::{Core, CoreConfig, Doorbell, Idle, Instant, Monotonic, Runtime, mesh};

/// What waits in the two queues of a card, and what it has sent.
#[derive(Default)]
struct Card {
    queues: [Vec<Packet>; 2],
    sent: Vec<(SocketAddrV4, SocketAddrV4, Vec<u8>)>,
}

/// One queue of a card.
struct Queue {
    card: Arc<Mutex<Card>>,
    number: usize,
}

impl Port for Queue {
    fn bind(&mut self, local: SocketAddrV4, _: &SocketOptions) -> Result<SocketAddrV4, NetError> {
        Ok(local)
    }

    fn unbind(&mut self, _: SocketAddrV4) {}

    fn rx_burst(&mut self, _: Instant, max: usize, out: &mut Burst) -> usize {
        let mut card = self.card.lock().unwrap();
        let queue = &mut card.queues[self.number];
        let count = queue.len().min(max).min(out.room());
        queue.drain(..count).for_each(|packet| assert!(out.push(packet).is_ok()));
        count
    }

    fn tx_burst(&mut self, _: Instant, queue: &mut PacketQueue) -> usize {
        let mut card = self.card.lock().unwrap();
        let mut count = 0;
        while let Some(packet) = queue.pop() {
            card.sent.push((packet.src(), packet.dst(), packet.data().to_vec()));
            count += 1;
        }
        count
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut fds = [rustix::event::PollFd::new(wake.as_ref().unwrap(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, timeout.as_ref()).unwrap();
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { payload_bytes: 1472 }
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

fn addr(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn base() -> SocketAddrV4 {
    addr("10.0.0.1:8000")
}

fn steering() -> Steering {
    Steering::new(Layout::new(4, 2).unwrap(), vec![base()])
}

/// A datagram from some client to the port of a shard.
fn packet(shard: u16, byte: u8) -> Packet {
    let mut packet = Packet::alloc(Priority::Normal).unwrap();
    packet.extend_from_slice(&[byte]).unwrap();
    packet.set_src(addr("10.0.0.9:5000"));
    packet.set_dst(SocketAddrV4::new(*base().ip(), base().port() + shard));
    packet
}

/// One of the cores, and its network.
type Joined = (Core<NetDriver<Queue>>, Net);

/// Two cores on this thread, each with a queue of the card, joined.
fn joined(ring: usize) -> (Arc<Mutex<Card>>, Vec<Joined>) {
    let card = Arc::new(Mutex::new(Card::default()));
    let bells = [Doorbell::new(), Doorbell::new()];
    let ends = mesh(&bells, ring);
    let cores = ends.into_iter().zip(bells).enumerate().map(|(number, (end, bell))| {
        let (mut driver, net) = NetDriver::new(Queue { card: card.clone(), number }, NetConfig::default());
        driver.join(steering(), end);
        let config = CoreConfig { idle: Idle::Park, ..CoreConfig::default() };
        (Core::with_bell(config, Monotonic, driver, Some(bell)), net)
    });
    let cores = cores.collect();
    (card, cores)
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    std::iter::from_fn(|| socket.try_recv()).map(|packet| packet.data()[0]).collect()
}

fn bind(net: &Net, shard: u16) -> UdpSocket {
    net.bind(SocketAddrV4::new(*base().ip(), base().port() + shard), SocketOptions::default()).unwrap()
}

#[test]
fn a_packet_in_the_wrong_queue_reaches_the_socket_of_its_shard_and_is_counted() {
    let (card, mut cores) = joined(8);
    let sockets: Vec<_> = (0..4u16).map(|shard| bind(&cores[usize::from(shard) % 2].1, shard)).collect();
    // Shards 1 and 3 are core 1's; all arrives at core 0.
    card.lock().unwrap().queues[0].extend([packet(0, 10), packet(1, 11), packet(2, 12), packet(3, 13), packet(1, 14)]);
    assert!(!cores[1].0.has_work());
    assert_eq!(cores[0].0.turn().packets, 5);
    assert!(cores[1].0.has_work(), "its bell has rung");
    let turn = cores[1].0.turn();
    assert!(turn.worked && turn.packets == 3);
    let all: Vec<_> = sockets.iter().map(received).collect();
    assert_eq!(all, [vec![10], vec![11, 14], vec![12], vec![13]]);
    let (first, second) = (cores[0].1.stats(), cores[1].1.stats());
    assert_eq!((first.received, first.crossed_out, first.crossed_in, first.dropped_unbound), (2, 3, 0, 0));
    assert_eq!((second.received, second.crossed_out, second.crossed_in, second.dropped_unbound), (3, 0, 3, 0));
}

#[test]
fn what_is_nobodys_goes_nowhere_and_nothing_goes_back_and_forth() {
    let (card, mut cores) = joined(8);
    let _socket = bind(&cores[0].1, 0);
    // Shard 1 is core 1's, which has not bound it; shard 2 is core 0's own, not bound; and port 8004 is no shard's.
    card.lock().unwrap().queues[0].extend([packet(1, 1), packet(2, 2), packet(4, 3)]);
    for _ in 0..3 {
        cores[0].0.turn();
        cores[1].0.turn();
    }
    let (first, second) = (cores[0].1.stats(), cores[1].1.stats());
    assert_eq!((first.crossed_out, first.crossed_in, first.dropped_unbound), (1, 0, 2));
    assert_eq!((second.crossed_out, second.crossed_in, second.dropped_unbound), (0, 1, 1));
}

#[test]
fn a_full_ring_drops_and_counts_and_is_used_again() {
    let (card, mut cores) = joined(4);
    let socket = bind(&cores[1].1, 1);
    card.lock().unwrap().queues[0].extend((0..6).map(|byte| packet(1, byte)));
    cores[0].0.turn();
    assert_eq!((cores[0].1.stats().crossed_out, cores[0].1.stats().crossing_full), (4, 2));
    cores[1].0.turn();
    card.lock().unwrap().queues[0].push(packet(1, 6));
    cores[0].0.turn();
    cores[1].0.turn();
    assert_eq!(received(&socket), [0, 1, 2, 3, 6]);
}

/// On threads: the other core sleeps in its port, and only the bell can wake it; each buffer is charged to the core that took it
/// until it is dropped by the other one.
#[test]
fn a_sleeping_core_is_woken_for_a_packet_that_another_has_received() {
    const BOUND: u8 = 255;
    let card = Arc::new(Mutex::new(Card::default()));
    let bells = vec![Doorbell::new(), Doorbell::new()];
    let (told, telling) = channel();
    let cores = mesh(&bells, 64).into_iter().enumerate().map(|(number, end)| {
        let (card, told) = (card.clone(), told.clone());
        let boot = move |_| {
            let (mut driver, net) = NetDriver::new(Queue { card, number }, NetConfig::default());
            driver.join(steering(), end);
            let main = move || async move {
                if number == 1 {
                    let socket = bind(&net, 1);
                    // What came before would have been for nobody.
                    let _ = told.send(BOUND);
                    for _ in 0..100 {
                        let _ = told.send(socket.recv().await.data()[0]);
                    }
                    let stats = net.stats();
                    assert_eq!((stats.crossed_in, stats.pool.adopted), (100, 100));
                }
                std::future::pending::<()>().await;
                Ok::<_, String>(())
            };
            Ok((driver, main))
        };
        (CoreConfig { name: format!("core {number}"), idle: Idle::Park, ..CoreConfig::default() }, boot)
    });
    let cores = cores.collect();
    let runtime = Runtime::start(bells, cores).unwrap();
    assert_eq!(telling.recv().unwrap(), BOUND);
    for byte in 0..100 {
        card.lock().unwrap().queues[0].push(packet(1, byte));
        // The card's interrupt.
        runtime.bells()[0].ring();
        assert_eq!(telling.recv().unwrap(), byte);
    }
    runtime.shutdown().unwrap();
}
