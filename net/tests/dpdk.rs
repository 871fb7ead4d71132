//! Frames through DPDK's virtual devices, in ordinary memory and without a card.
//!
//! DPDK starts once in a process, whether the tests run in one or each in its own: `eal` sees to it, and each test names its own
//! pool and device. A test's pool must be empty of users when its devices and packets are gone.

use std::sync::OnceLock;
use trimaran_net::port::dpdk::{
    Device, DeviceConfig, DpdkError, Eal, EalOptions, FrameQueue, Lack, Memory, Mempool, OpenOptions, Vdev, open,
};
use trimaran_net::{Burst, FramePort, Offloads, Packet, PacketQueue, Priority};
use trimaran_runtime::Instant;

/// Devices do not look at the clock.
const NOW: Instant = Instant::ZERO;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        let affinity = || rustix::thread::sched_getaffinity(None).unwrap();
        let before = affinity();
        let prefix = format!("test-{}", std::process::id());
        let eal = Eal::start(&EalOptions::new(&prefix)).expect("DPDK starts in ordinary memory");
        assert_eq!(affinity(), before, "DPDK pins the thread that starts it");
        eal
    })
}

fn pool(name: &str, mbufs: u32) -> Mempool {
    Mempool::create(eal(), name, mbufs).expect("64 MiB hold the pools of all tests")
}

fn ring(name: &str, pool: &Mempool) -> (Device, FrameQueue) {
    let vdev = Vdev::Ring { name: name.to_owned() };
    let (device, mut queues) = Device::open(eal(), &vdev, &DeviceConfig::default(), pool).expect("a ring opens");
    (device, queues.remove(0))
}

/// A frame that knows its number and is as long as the number says.
fn write(packet: &mut Packet, number: u16) {
    packet.extend_from_slice(&number.to_be_bytes()).unwrap();
    packet.extend_from_slice(&vec![number as u8; 60 + usize::from(number) % 1400]).unwrap();
}

fn check(packet: &Packet, number: u16) {
    assert_eq!(packet.data()[..2], number.to_be_bytes());
    assert_eq!(packet.len(), 62 + usize::from(number) % 1400);
    assert!(packet.data()[2..].iter().all(|byte| *byte == number as u8));
}

/// Every other frame is in the pool's memory, the rest on the heap.
fn frames(pool: &Mempool, count: u16) -> PacketQueue {
    let mut queue = PacketQueue::new(usize::from(count));
    for number in 0..count {
        let packet = if number % 2 == 0 { pool.alloc() } else { Packet::alloc(Priority::Normal) };
        let mut packet = packet.expect("pools are large enough");
        write(&mut packet, number);
        queue.push(packet).unwrap();
    }
    queue
}

#[test]
fn bursts_come_back_from_a_ring_whole_and_in_order() {
    let pool = pool("loop", 1023);
    let (device, mut queue) = ring("loop", &pool);
    let mut tx = frames(&pool, 300);
    for burst in [64, 64, 64, 64, 44, 0] {
        assert_eq!(queue.tx_burst(NOW, &mut tx), burst);
    }
    let mut burst = Burst::new();
    let mut next = 0;
    while next < 300 {
        let taken = queue.rx_burst(NOW, usize::MAX, &mut burst);
        assert_eq!(taken, burst.len());
        assert!(taken > 0, "frames are missing after {next}");
        for packet in burst.drain() {
            check(&packet, next);
            next += 1;
        }
    }
    assert_eq!(queue.rx_burst(NOW, usize::MAX, &mut burst), 0);
    assert_eq!((queue.stats().tx_packets, queue.stats().rx_packets), (300, 300));
    let stats = device.stats().unwrap();
    assert_eq!((stats.tx_frames, stats.rx_frames), (300, 300));
    drop((device, queue));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_received_frame_is_edited_and_sent_again_in_place() {
    let pool = pool("edit", 255);
    let (_device, mut queue) = ring("edit", &pool);
    let mut tx = PacketQueue::new(1);
    let mut packet = pool.alloc().unwrap();
    packet.extend_from_slice(b"header: body").unwrap();
    packet.extend_from_slice(&[7; 60]).unwrap();
    let at = packet.data().as_ptr();
    tx.push(packet).unwrap();
    assert_eq!(queue.tx_burst(NOW, &mut tx), 1);
    let mut burst = Burst::new();
    queue.rx_burst(NOW, 1, &mut burst);
    let mut packet = burst.drain().next().unwrap();
    assert_eq!(
        (&packet.data()[..12], packet.data().as_ptr()),
        (&b"header: body"[..], at),
        "the very bytes, not a copy"
    );
    packet.trim_front(8);
    packet.prepend(2).unwrap().copy_from_slice(b"a ");
    tx.push(packet).unwrap();
    queue.tx_burst(NOW, &mut tx);
    queue.rx_burst(NOW, 1, &mut burst);
    assert_eq!(burst.drain().next().unwrap().data()[..6], b"a body"[..]);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_a_ring_cannot_hold_stays_with_the_caller() {
    let pool = pool("full", 2047);
    let (device, mut queue) = ring("full", &pool);
    let mut tx = frames(&pool, 1200);
    let mut sent = 0;
    loop {
        let taken = queue.tx_burst(NOW, &mut tx);
        sent += taken as u16;
        if taken == 0 {
            break;
        }
    }
    assert_eq!((usize::from(sent), tx.len()), (1023, 1200 - 1023));
    assert!(queue.stats().tx_full >= 1);
    // Copies that the device did not take are free again: 1023 frames in the ring, and those left here that are no heap packets.
    let left_in_pool = (sent..1200).filter(|number| number % 2 == 0).count() as u32;
    assert_eq!(pool.in_use(), 1023 + left_in_pool);
    check(tx.front().unwrap(), sent);
    let mut burst = Burst::new();
    assert_eq!(queue.rx_burst(NOW, 10, &mut burst), 10);
    assert_eq!(queue.tx_burst(NOW, &mut tx), 10);
    check(tx.front().unwrap(), sent + 10);
    // The device closes over a full ring; a packet that was received outlives it.
    let kept = burst.drain().next().unwrap();
    drop((device, queue, tx));
    check(&kept, 0);
    assert_eq!(pool.in_use(), 1);
    drop(kept);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn an_empty_pool_refuses_and_heap_packets_wait_for_it() {
    let pool = pool("empty", 63);
    let (_device, mut queue) = ring("empty", &pool);
    let mut held: Vec<Packet> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((held.len(), pool.in_use()), (63, 63));
    let mut tx = PacketQueue::new(1);
    let mut packet = Packet::alloc(Priority::Normal).unwrap();
    write(&mut packet, 7);
    tx.push(packet).unwrap();
    assert_eq!((queue.tx_burst(NOW, &mut tx), tx.len()), (0, 1));
    held.pop();
    assert_eq!((queue.tx_burst(NOW, &mut tx), tx.len()), (1, 0));
}

#[test]
fn packets_may_be_dropped_on_another_thread() {
    let pool = pool("abroad", 127);
    let held: Vec<Packet> = (0..100).filter_map(|_| pool.alloc()).collect();
    assert_eq!(pool.in_use(), 100);
    #[allow(clippy::disallowed_methods, reason = "a thread that is no core, and unknown to DPDK")]
    std::thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn the_null_device_gives_and_swallows_on_every_queue() {
    let pool = pool("null", 1023);
    let config = DeviceConfig { queues: 2, ..DeviceConfig::default() };
    let (device, mut queues) = Device::open(eal(), &Vdev::Null { name: "null".to_owned() }, &config, &pool).unwrap();
    let mut burst = Burst::new();
    for queue in &mut queues {
        let mut tx = frames(&pool, 50);
        assert_eq!((queue.tx_burst(NOW, &mut tx), tx.len()), (50, 0));
        assert_eq!(pool.in_use(), 0, "what was sent is free");
        assert_eq!(queue.rx_burst(NOW, 32, &mut burst), 32);
        assert!(burst.drain().all(|packet| packet.len() == 64));
    }
    assert_eq!(queues.len(), 2);
    assert!(device.mtu_bytes().unwrap() >= 1500);
    assert_ne!(device.mac().unwrap(), [0; 6]);
    assert!(device.link_up().unwrap());
    // The handle alone keeps nothing from closing, and a queue alone keeps the device open.
    drop(device);
    assert_eq!(queues[1].rx_burst(NOW, 1, &mut burst), 1);
    drop((queues, burst));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_driver_names_its_own_statistics() {
    let pool = pool("xstats", 255);
    let (device, mut queue) = ring("xstats", &pool);
    let mut tx = frames(&pool, 50);
    queue.tx_burst(NOW, &mut tx);
    let mut burst = Burst::new();
    queue.rx_burst(NOW, 20, &mut burst);
    let xstats = device.xstats().unwrap();
    let value = |name: &str| xstats.iter().find(|stat| stat.name == name).map(|stat| stat.value);
    assert_eq!((value("tx_good_packets"), value("rx_good_packets")), (Some(50), Some(20)));
    assert_eq!(value("rx_q0_packets"), Some(20));
    let mut names: Vec<&str> = xstats.iter().map(|stat| stat.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), xstats.len(), "each once");
    assert!(device.link().unwrap().up);
}

#[test]
fn a_name_is_free_again_once_its_device_has_closed() {
    let pool = pool("again", 63);
    for _ in 0..3 {
        let (_device, mut queue) = ring("again", &pool);
        let twice = Device::open(eal(), &Vdev::Ring { name: "again".to_owned() }, &DeviceConfig::default(), &pool);
        assert!(matches!(twice, Err(DpdkError::NameInUse { .. })), "two devices of one name");
        // The first is none the worse for it.
        let mut tx = frames(&pool, 3);
        let mut burst = Burst::new();
        assert_eq!((queue.tx_burst(NOW, &mut tx), queue.rx_burst(NOW, 64, &mut burst)), (3, 3));
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let pool = pool("why", 63);
    let open = |vdev: Vdev, queues| {
        let config = DeviceConfig { queues, ..DeviceConfig::default() };
        Device::open(eal(), &vdev, &config, &pool).map(drop).expect_err("cannot be opened")
    };
    let ring = |name: &str| Vdev::Ring { name: name.to_owned() };
    assert!(matches!(open(ring("why"), 0), DpdkError::TooManyQueues { wanted: 0, .. }));
    assert!(matches!(open(ring("why"), 60_000), DpdkError::TooManyQueues { wanted: 60_000, .. }));
    assert!(matches!(open(ring("a,b"), 1), DpdkError::BadName { .. }));
    let absent = Vdev::AfPacket { name: "why".to_owned(), interface: "no-such-if".to_owned() };
    // Without the right to packet sockets that is said first.
    assert!(matches!(open(absent, 1), DpdkError::Lacking(Lack::Interface { .. } | Lack::PacketSockets)));
    assert!(matches!(Mempool::create(eal(), "why", 63), Err(DpdkError::Refused { .. })), "two pools of one name");
}

#[test]
fn dpdk_starts_once_and_says_what_the_machine_lacks() {
    eal();
    assert!(matches!(Eal::start(&EalOptions::new("twice")), Err(DpdkError::StartedBefore)));
    let memory = Memory::Ordinary { mib: u32::MAX };
    let greedy = Eal::start(&EalOptions { memory, ..EalOptions::new("greedy") });
    assert!(matches!(greedy, Err(DpdkError::Lacking(Lack::Memory { .. }))));
}

#[test]
fn an_mtu_is_taken_as_far_as_a_packet_holds_it() {
    let pool = pool("mtu", 127);
    let open = |mtu_bytes| {
        let config = DeviceConfig { mtu_bytes, ..DeviceConfig::default() };
        Device::open(eal(), &Vdev::Null { name: "mtu".to_owned() }, &config, &pool)
    };
    for (mtu_bytes, frame_bytes) in [(None, 1514), (Some(1_400), 1414), (Some(1_948), 1962)] {
        let (device, queues) = open(mtu_bytes).expect("the MTU fits");
        assert_eq!(usize::from(device.mtu_bytes().unwrap()) + 14, frame_bytes);
        assert_eq!(queues[0].frame_bytes(), frame_bytes);
    }
    assert!(matches!(open(Some(1_949)), Err(DpdkError::MtuTooLarge { wanted: 1_949, limit: 1_948, .. })));
}

#[test]
fn a_virtual_device_says_what_it_is_and_leaves_the_rest_to_the_stack() {
    let pool = pool("info", 127);
    let (device, queue) = ring("info", &pool);
    let info = device.info().unwrap();
    assert_eq!(info.driver, "net_ring");
    assert!(info.queues >= 1 && !info.fills_udp && !info.checks_udp, "{info}");
    assert_eq!(queue.offloads(), Offloads::default());
    assert!(!device.steer(7000, 0), "there are no rules in a ring");
}

#[test]
fn a_card_that_is_not_there_is_missed_before_dpdk_starts() {
    let absent = "ffff:1f:1f.7".parse().expect("an address");
    let refused = open(&OpenOptions::new("absent", absent)).expect_err("no machine has so many buses");
    assert!(matches!(refused, DpdkError::Lacking(Lack::Card { .. })), "{refused}");
}
