//! Where every mbuf is: whatever is sent, received, kept, edited and sent again, frames come out as they went in, packets that are kept
//! starve nobody, and in the end the pool is whole. On net_ring and net_null, without privileges.

use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::OnceLock;
use trimaran_net::pool::{self, PoolLimits};
use trimaran_net::port::dpdk::{Device, DeviceConfig, Eal, EalOptions, FrameQueue, Mempool, Vdev};
use trimaran_net::{Burst, FramePort, Packet, PacketQueue, PortStats, Priority};
use trimaran_runtime::Instant;

/// Devices do not look at the clock.
const NOW: Instant = Instant::ZERO;
/// Ethernet's shortest frame.
const SHORTEST: usize = 60;
/// Frames that a ring holds.
const RING: usize = 1023;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| Eal::start(&EalOptions::new(&format!("pool-{}", std::process::id()))).expect("DPDK starts"))
}

/// A device of its own with a pool of `mbufs`.
fn open(vdev: Vdev, mbufs: u32) -> (Mempool, FrameQueue) {
    let name = vdev.to_string();
    let pool = Mempool::create(eal(), &name, mbufs).expect("64 MiB hold the pools of all tests");
    let (_, mut queues) = Device::open(eal(), &vdev, &DeviceConfig::default(), &pool).expect("the device opens");
    (pool, queues.remove(0))
}

fn ring(name: &str, mbufs: u32) -> (Mempool, FrameQueue) {
    open(Vdev::Ring { name: name.to_owned() }, mbufs)
}

fn packet(pool: Option<&Mempool>, payload: &[u8]) -> Option<Packet> {
    let mut packet = pool.map_or_else(|| Packet::alloc(Priority::Normal), Mempool::alloc)?;
    packet.extend_from_slice(payload).expect("no test sends more than fits");
    Some(packet)
}

/// What arrives where `payload` was sent.
fn padded(payload: &[u8]) -> Vec<u8> {
    let mut frame = payload.to_vec();
    frame.resize(payload.len().max(SHORTEST), 0);
    frame
}

/// Sends one frame and receives it.
fn pass(queue: &mut FrameQueue, packet: Packet) -> Packet {
    let (mut tx, mut rx) = (PacketQueue::new(1), Burst::new());
    tx.push(packet).unwrap();
    assert_eq!((queue.tx_burst(NOW, &mut tx), queue.rx_burst(NOW, 64, &mut rx)), (1, 1));
    rx.drain().next().unwrap()
}

#[test]
fn short_frames_are_filled_up_with_zeroes() {
    let (pool, mut queue) = ring("short", 255);
    for memory in [None, Some(&pool)] {
        for len in 0..=SHORTEST + 1 {
            // What an earlier packet left behind the payload must not go out.
            let mut frame = packet(memory, &[0xEE; 200]).unwrap();
            frame.truncate(len);
            assert_eq!(pass(&mut queue, frame).data(), padded(&vec![0xEE; len]), "{len} bytes");
        }
    }
    // A frame at the very end of its buffer has no room behind it.
    let mut frame = packet(Some(&pool), &[0; 2040]).unwrap();
    frame.extend_from_slice(b"the end").unwrap();
    frame.trim_front(2040);
    assert_eq!((frame.room(), pass(&mut queue, frame).data()), (1, &padded(b"the end")[..]));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn packets_that_are_kept_starve_nobody() {
    for registered in [false, true] {
        let (pool, mut queue) = ring(if registered { "known" } else { "unknown" }, 1023);
        if registered {
            queue.start();
        }
        let (mut tx, mut rx) = (PacketQueue::new(16), Burst::new());
        let mut kept: Vec<Packet> = Vec::new();
        for round in 0..300u16 {
            for number in 0..16 {
                let payload = vec![number as u8; 60 + usize::from(round + number) % 1850];
                tx.push(packet(None, &payload).unwrap()).unwrap();
            }
            assert_eq!(queue.tx_burst(NOW, &mut tx), 16, "round {round}");
            assert_eq!(queue.rx_burst(NOW, 64, &mut rx), 16, "round {round}");
            kept.extend(rx.drain());
            // An eighth of the pool stays for the device, but for the burst that found it at the mark, and what a thread has at hand.
            assert!(pool.in_use() <= 1023 - 127 + 16);
        }
        let copied = queue.stats().rx_copied;
        assert!(copied >= 4800 - 1023, "{copied}");
        assert_eq!((pool::stats().in_use(), u64::from(pool.in_use())), (copied, 4800 - copied));
        for (at, packet) in kept.iter().enumerate() {
            let (round, number) = (at / 16, at % 16);
            assert!(packet.data().iter().all(|byte| usize::from(*byte) == number), "packet {at}");
            assert_eq!(packet.len(), 60 + (round + number) % 1850);
        }
        // Once the headers are off, a copy has as much head room as a fresh packet, and room for them again.
        let copy = kept.last_mut().unwrap();
        copy.trim_front(42);
        assert!(copy.prepend(128).is_some());
        drop(kept);
        assert_eq!((pool.in_use(), pool::stats().in_use()), (0, 0));
        // With the pool whole again nothing is copied.
        let frame = packet(None, &[1; 100]).unwrap();
        pass(&mut queue, frame);
        assert_eq!(queue.stats().rx_copied, copied);
    }
}

#[test]
fn without_heap_packets_the_last_mbufs_are_used_and_then_senders_wait() {
    let (pool, mut queue) = ring("both", 255);
    // Copies may take ten; what is sent comes from the rest.
    pool::set_limits(PoolLimits { in_use: 12, reserved: 2, idle: 10 });
    let (mut tx, mut rx) = (PacketQueue::new(1), Burst::new());
    let mut kept: Vec<Packet> = Vec::new();
    loop {
        if tx.is_empty() {
            let mut frame = Packet::alloc(Priority::Control).expect("the rest is for this");
            frame.extend_from_slice(&[kept.len() as u8; 80]).unwrap();
            tx.push(frame).unwrap();
        }
        if queue.tx_burst(NOW, &mut tx) == 0 {
            break;
        }
        assert_eq!(queue.rx_burst(NOW, 1, &mut rx), 1);
        kept.extend(rx.drain());
        assert!(kept.len() <= 255 + 10, "more packets than buffers");
    }
    assert_eq!((kept.len(), pool.in_use(), queue.stats().rx_copied), (255 + 10, 255, 10));
    assert!(kept.iter().enumerate().all(|(at, packet)| packet.data() == [at as u8; 80]));
    kept.clear();
    tx.clear();
    assert_eq!((pool.in_use(), pool::stats().in_use()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    /// Queues frames of this length, on the heap or in the pool, from which so many bytes are cut off in front.
    Queue { count: usize, in_pool: bool, len: usize, cut: usize },
    /// Sends bursts until the device takes no more, or so many times.
    Send { bursts: usize },
    /// Receives at most so many frames, and drops or keeps them.
    Receive { max: usize, keep: bool },
    /// Sends so many of those that were kept, with another header.
    Again { count: usize },
    /// Drops so many of them.
    Drop { count: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let queue = (1..200usize, any::<bool>(), 0..1960usize, 0..1960usize)
        .prop_map(|(count, in_pool, len, cut)| Step::Queue { count, in_pool, len, cut });
    let step = prop_oneof![
        4 => queue,
        4 => (1..20usize).prop_map(|bursts| Step::Send { bursts }),
        3 => (0..100usize, any::<bool>()).prop_map(|(max, keep)| Step::Receive { max, keep }),
        1 => (1..100usize).prop_map(|count| Step::Again { count }),
        1 => (1..300usize).prop_map(|count| Step::Drop { count }),
    ];
    vec(step, 1..60)
}

/// A queue of a ring, beside what should be in it.
struct Checked {
    pool: Mempool,
    queue: FrameQueue,
    tx: PacketQueue,
    /// The payloads of `tx`.
    waiting: VecDeque<Vec<u8>>,
    /// Frames in the ring.
    under_way: VecDeque<Vec<u8>>,
    kept: Vec<Packet>,
    numbers: u32,
}

impl Checked {
    fn queue(&mut self, mut packet: Packet, cut: usize) {
        // Each frame has its own number, as far as it is long enough.
        self.numbers += 1;
        let number = self.numbers.to_be_bytes();
        packet.trim_front(cut);
        let len = packet.len().min(4);
        packet.data_mut()[..len].copy_from_slice(&number[4 - len..]);
        let payload = packet.data().to_vec();
        if self.tx.push(packet).is_ok() {
            self.waiting.push_back(payload);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Queue { count, in_pool, len, cut } => {
                // The longest heap frame has headers in its head room.
                let len = if in_pool { len } else { len.min(1920) };
                for _ in 0..count {
                    let pool = self.pool.clone();
                    let Some(packet) = packet(in_pool.then_some(&pool), &vec![len as u8; len]) else { break };
                    self.queue(packet, cut);
                }
            }
            Step::Send { bursts } => {
                for _ in 0..bursts {
                    let sent = self.queue.tx_burst(NOW, &mut self.tx);
                    self.under_way.extend(self.waiting.drain(..sent).map(|payload| padded(&payload)));
                    assert_eq!(self.tx.len(), self.waiting.len());
                    let front = self.tx.front().map(|packet| packet.data().to_vec());
                    assert_eq!(front.as_ref(), self.waiting.front(), "what stays behind is as it was");
                    if sent == 0 {
                        break;
                    }
                }
                assert!(self.under_way.len() <= RING);
            }
            Step::Receive { max, keep } => {
                let mut rx = Burst::new();
                let received = self.queue.rx_burst(NOW, max, &mut rx);
                assert_eq!(received, max.min(64).min(self.under_way.len()));
                for packet in rx.drain() {
                    assert_eq!(Some(packet.data()), self.under_way.pop_front().as_deref());
                    if keep {
                        self.kept.push(packet);
                    }
                }
            }
            Step::Again { count } => {
                for _ in 0..count.min(self.kept.len()) {
                    let mut packet = self.kept.swap_remove(0);
                    packet.trim_front(14);
                    packet.prepend(20).expect("more was cut off in front of every frame").fill(0xAB);
                    self.queue(packet, 0);
                }
            }
            Step::Drop { count } => {
                let left = self.kept.len().saturating_sub(count);
                self.kept.truncate(left);
            }
        }
        // Not less, or one mbuf has two owners; not more, or one has none.
        let copies = self.queue.stats().rx_copied as usize;
        let (most, in_ring) = (self.under_way.len() + self.tx.len() + self.kept.len(), self.under_way.len());
        let in_use = self.pool.in_use() as usize;
        assert!((in_ring..=most).contains(&in_use), "{in_use} of {in_ring} to {most} mbufs in use, {copies} copies");
    }

    /// Drops and receives everything; nothing may be in use then.
    fn finish(&mut self) {
        self.kept.clear();
        self.tx.clear();
        self.waiting.clear();
        while !self.under_way.is_empty() {
            self.step(&Step::Receive { max: 64, keep: false });
        }
        assert_eq!((self.pool.in_use(), pool::stats().in_use()), (0, 0));
        assert_eq!(self.queue.rx_burst(NOW, 64, &mut Burst::new()), 0);
    }
}

/// Runs many lists of steps on one device, whose pool is whole after each. Gives the statistics of all.
fn run(name: &str, mbufs: u32) -> PortStats {
    let (pool, queue) = ring(name, mbufs);
    let checked = Checked {
        pool,
        queue,
        tx: PacketQueue::new(2048),
        waiting: VecDeque::new(),
        under_way: VecDeque::new(),
        kept: Vec::new(),
        numbers: 0,
    };
    let checked = std::cell::RefCell::new(checked);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&steps(), |steps| {
        let mut checked = checked.borrow_mut();
        steps.iter().for_each(|step| checked.step(step));
        checked.finish();
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    checked.into_inner().queue.stats()
}

#[test]
fn frames_come_out_as_they_went_in_from_a_small_pool() {
    let stats = run("small", 127);
    assert!(stats.rx_copied > 0 && stats.tx_full > 0, "{stats:?}");
}

#[test]
fn frames_come_out_as_they_went_in_where_the_ring_is_what_fills() {
    let stats = run("large", 4095);
    assert!(stats.rx_copied == 0 && stats.tx_full > 0, "{stats:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// A device that takes everything frees everything, too.
    #[test]
    fn what_is_swallowed_is_free_again(frames in vec((any::<bool>(), 0..1920usize), 0..300), bursts in 0..8usize) {
        static OPEN: OnceLock<std::sync::Mutex<(Mempool, FrameQueue)>> = OnceLock::new();
        let open = OPEN.get_or_init(|| std::sync::Mutex::new(open(Vdev::Null { name: "any".to_owned() }, 511)));
        let mut open = open.lock().unwrap();
        let (pool, queue) = &mut *open;
        let mut tx = PacketQueue::new(300);
        for (in_pool, len) in frames {
            tx.push(packet(in_pool.then_some(&*pool), &vec![1; len]).unwrap()).unwrap();
        }
        while !tx.is_empty() {
            let expected = tx.len().min(64);
            prop_assert_eq!(queue.tx_burst(NOW, &mut tx), expected);
        }
        prop_assert_eq!(pool.in_use(), 0);
        let mut rx = Burst::new();
        let mut kept: Vec<Packet> = Vec::new();
        for _ in 0..bursts {
            prop_assert_eq!(queue.rx_burst(NOW, 64, &mut rx), 64);
            kept.extend(rx.drain());
        }
        prop_assert!(kept.iter().all(|packet| packet.len() == 64));
        prop_assert!(kept.len() >= pool.in_use() as usize);
        drop(kept);
        prop_assert_eq!((pool.in_use(), pool::stats().in_use()), (0, 0));
    }
}
