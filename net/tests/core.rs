//! Sockets under the executor they are made for: kernel UDP on real cores that really sleep, and simulated ports in a
//! world of many cores. What a test waits for is always an event; if it did not come the test would hang.

mod common;

use common::{A, B, addr};
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use trimaran_net::{Link, Net, NetConfig, NetDriver, SimNet, SimPort, SocketOptions, UdpConfig, UdpPort, UdpSocket};
use trimaran_runtime::sim::World;
use trimaran_runtime::{Core, CoreConfig, Driver, Idle, Instant, Lane, Monotonic, now, sleep, spawn, start};

fn any_port() -> SocketAddrV4 {
    "127.0.0.1:0".parse().unwrap()
}

fn sleeper() -> CoreConfig {
    CoreConfig { idle: Idle::Park, ..CoreConfig::default() }
}

fn udp_core() -> (Core<NetDriver<UdpPort>>, Net) {
    let (mut driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).unwrap(), NetConfig::default());
    driver.start();
    (Core::new(sleeper(), Monotonic, driver), net)
}

fn send(socket: &UdpSocket, payload: &[u8], to: SocketAddrV4) {
    let mut packet = socket.alloc().expect("the pool is far from its limit");
    packet.extend_from_slice(payload).expect("the payload fits");
    socket.send_to(packet, to).expect("the queue has room");
}

/// Sends everything back where it came from.
async fn echo(socket: UdpSocket) {
    loop {
        let packet = socket.recv().await;
        let from = packet.src();
        let _ = socket.send_to(packet, from);
    }
}

thread_local! {
    // Driver and main task are made by two closures on the new thread, and the handle must go from one to the other.
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

#[test]
fn an_echo_between_two_threads_that_sleep_between_packets() {
    let (ready, server) = sync_channel(1);
    let driver = || {
        let (driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).unwrap(), NetConfig::default());
        NET.set(Some(net));
        driver
    };
    let main = move || async move {
        let net = NET.take().expect("the driver was made first");
        let socket = net.bind(any_port(), SocketOptions::default()).unwrap();
        ready.send(socket.local_addr()).unwrap();
        echo(socket).await;
    };
    let handle = start(sleeper(), driver, main).unwrap();
    let server = server.recv().unwrap();

    let (mut core, net) = udp_core();
    let client = net.bind(any_port(), SocketOptions::default()).unwrap();
    let rounds = core.block_on(async move {
        for round in 0..500u32 {
            send(&client, &round.to_le_bytes(), server);
            let answer = client.recv().await;
            assert_eq!((answer.data(), answer.src()), (&round.to_le_bytes()[..], server));
        }
        client.stats()
    });
    assert_eq!((rounds.sent, rounds.received), (500, 500));
    // A shutdown from outside ends the sleep of a core that waits for packets only.
    handle.shutdown();
    assert!(handle.join().is_err());
}

#[test]
fn a_deadline_ends_the_wait_but_a_queued_packet_wins_over_it() {
    let (mut core, net) = udp_core();
    let (a, b) = (
        net.bind(any_port(), SocketOptions::default()).unwrap(),
        net.bind(any_port(), SocketOptions::default()).unwrap(),
    );
    core.block_on(async move {
        let at = now() + Duration::from_micros(300);
        assert!(b.recv_or_deadline(at).await.is_none());
        assert!(now() >= at);
        send(&a, b"in time", b.local_addr());
        // Until the packet is there, without taking it.
        while b.stats().received == 0 {
            sleep(Duration::from_micros(50)).await;
        }
        let passed = at;
        assert_eq!(b.recv_or_deadline(passed).await.expect("it was there").data(), b"in time");
        assert!(b.recv_or_deadline(passed).await.is_none());
        send(&a, b"wakes", b.local_addr());
        assert_eq!(b.recv_or_deadline(Instant::FAR).await.expect("no deadline").data(), b"wakes");
    });
}

#[test]
fn a_burst_through_a_core_arrives_whole() {
    let (mut core, net) = udp_core();
    let (a, b) = (
        net.bind(any_port(), SocketOptions::default()).unwrap(),
        net.bind(any_port(), SocketOptions::default()).unwrap(),
    );
    core.block_on(async move {
        let to = b.local_addr();
        let sender = spawn(async move {
            for number in 0..1000u16 {
                while a.stats().sent + 64 <= u64::from(number) {
                    sleep(Duration::from_micros(20)).await;
                }
                send(&a, &number.to_le_bytes(), to);
            }
        });
        for number in 0..1000u16 {
            assert_eq!(b.recv().await.data(), number.to_le_bytes());
        }
        sender.await.unwrap();
    });
}

struct Simulated {
    world: World<NetDriver<SimPort>>,
    sim: SimNet,
}

impl Simulated {
    fn new(seed: u64, link: Link) -> Self {
        let sim = SimNet::new(seed);
        sim.set_default_link(link);
        Simulated { world: World::new(seed), sim }
    }
}

/// A client that asks until it has a number of answers, and what it saw.
async fn ask(socket: UdpSocket, to: SocketAddrV4, answers: u32) -> Vec<(u64, u32)> {
    let mut log = Vec::new();
    for number in 0..answers {
        loop {
            send(&socket, &number.to_le_bytes(), to);
            let deadline = now() + Duration::from_millis(1);
            let answer = socket.recv_or_deadline(deadline).await;
            log.push((now().as_nanos(), answer.as_ref().map_or(u32::MAX, |packet| u32::from(packet.data()[0]))));
            if answer.is_some_and(|answer| answer.data() == number.to_le_bytes()) {
                break;
            }
        }
    }
    log
}

#[test]
fn a_lossy_world_is_the_same_each_time() {
    let run = |seed| {
        let link = Link { loss: 0.2, duplicate: 0.1, reorder: 0.1, ..Link::default() };
        let Simulated { mut world, sim } = Simulated::new(seed, link);
        let (driver_a, net_a) = NetDriver::new(sim.port(A), NetConfig::default());
        let (driver_b, net_b) = NetDriver::new(sim.port(B), NetConfig::default());
        let (a, b) = (world.add_core("a", driver_a), world.add_core("b", driver_b));
        // Clocks that disagree must not disturb what is on the wire.
        world.set_clock_rate(a, 200);
        world.jump_clock(b, Duration::from_secs(9));
        let server = net_b.bind(addr(B, 1), SocketOptions::default()).unwrap();
        let client = net_a.bind(addr(A, 1), SocketOptions::default()).unwrap();
        world.spawn(b, Lane::Normal, echo(server)).detach();
        let mut asked = world.spawn(a, Lane::Normal, ask(client, addr(B, 1), 100));
        assert!(world.run_while(|_| !asked.is_finished(), Duration::from_secs(10)));
        let log = std::pin::Pin::new(&mut asked);
        let log = world.enter(a, || futures_poll(log));
        (log, sim.counters(), sim.trace_hash(), world.trace_hash())
    };
    let (log, counters, ..) = run(3);
    assert!(counters.faults.lost > 0 && counters.faults.duplicated > 0 && counters.faults.reordered > 0);
    assert!(log.len() > 100, "losses cost retries");
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).2, run(4).2);
}

/// The output of a task that has ended.
fn futures_poll<F: Future<Output = Result<T, trimaran_runtime::Panicked>>, T>(task: std::pin::Pin<&mut F>) -> T {
    match task.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(Ok(output)) => output,
        std::task::Poll::Ready(Err(panicked)) => panic!("{panicked}"),
        std::task::Poll::Pending => panic!("the task has not ended"),
    }
}

#[test]
fn a_killed_core_is_silent_and_its_next_life_answers() {
    let Simulated { mut world, sim } = Simulated::new(1, Link::default());
    let (driver_a, net_a) = NetDriver::new(sim.port(A), NetConfig::default());
    let (driver_b, net_b) = NetDriver::new(sim.port(B), NetConfig::default());
    let (a, b) = (world.add_core("a", driver_a), world.add_core("b", driver_b));
    let client = net_a.bind(addr(A, 1), SocketOptions::default()).unwrap();
    let server = net_b.bind(addr(B, 1), SocketOptions::default()).unwrap();
    world.spawn(b, Lane::Normal, echo(server)).detach();
    world.kill(b);
    let asked = world.spawn(a, Lane::Normal, ask(client, addr(B, 1), 1));
    world.run_for(Duration::from_millis(20));
    assert!(!asked.is_finished());
    assert!(sim.counters().unreachable > 10);
    // A handle from the old life opens nothing.
    assert!(net_b.bind(addr(B, 1), SocketOptions::default()).is_err());
    let (driver_b, net_b) = NetDriver::new(sim.port(B), NetConfig::default());
    world.revive(b, driver_b);
    let server = net_b.bind(addr(B, 1), SocketOptions::default()).unwrap();
    world.spawn(b, Lane::Normal, echo(server)).detach();
    assert!(world.run_while(|_| !asked.is_finished(), Duration::from_secs(1)));
}
