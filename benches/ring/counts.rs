//! What must not become dearer unnoticed: instructions of a commit at each of the roles, and of single steps below it.

use crate::cluster::{Cluster, Layout, Machine, Time, machine};
use crate::port::Rings;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use trimaran_benches::callgrind::count;
use trimaran_net::{SocketOptions, UdpSocket};
use trimaran_rpc::r2p2::Policy;
use trimaran_runtime::{sleep, spawn};

/// How much more than written down a row may take. Another compiler, or another processor's copying routines, are worth less.
const TOLERANCE: f64 = 0.08;
/// Puts, counted and before that, and how many are on their way.
const PUTS: u64 = 16_000;
const WARM_PUTS: u64 = 6_000;
const OUTSTANDING: u64 = 64;
/// Counted rounds of a single step, and before that.
const ROUNDS: u64 = 200;
const WARM_ROUNDS: u64 = 20;
const BURST: u64 = 32;
const ONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 9);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 9);

/// A row of the table: a function, what it does, how often in a run, and the instructions that it takes each time.
const ROWS: [(&str, &str, u64, f64); 6] = [
    ("counted_client", "call at the client", PUTS, 4068.0),
    ("counted_leader", "commit at the leader", PUTS, 5022.0),
    ("counted_follower", "commit at a follower", 2 * PUTS, 2020.0),
    ("counted_packets_in", "packet received by a task, 32 a turn", ROUNDS * BURST, 298.0),
    ("counted_packets_out", "packet made and sent, 32 a turn", ROUNDS * BURST, 280.0),
    ("counted_timers", "timer armed and fired, its task polled", ROUNDS * BURST, 605.0),
];

/// Counts, prints, and fails where a row takes too much.
pub(crate) fn print() -> ExitCode {
    let counts = match count(&["counted"]) {
        Ok(counts) => counts,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    let mut is_dearer = false;
    println!("{:>12} {:>12}", "instructions", "were");
    for (function, what, times, expected) in ROWS {
        let each = counts.get(function).copied().unwrap_or(0) as f64 / times as f64;
        let change = each / expected - 1.0;
        // A function that was not counted has been renamed, or made one with another: the guard would be blind.
        let verdict = match change {
            _ if each == 0.0 => "  NOT COUNTED",
            change if change > TOLERANCE => "  DEARER",
            change if change < -TOLERANCE => "  cheaper: write the new number into benches/ring/counts.rs",
            _ => "",
        };
        is_dearer |= each == 0.0 || change > TOLERANCE;
        println!("{each:>12.0} {expected:>12.0} {:>+5.1}%  {what}{verdict}", 100.0 * change);
    }
    // Whoever reads the numbers judges by himself.
    if is_dearer && std::env::var_os("BENCH_JSON").is_none() {
        println!("what takes more than it did, and is worth it, gets its new number in benches/ring/counts.rs");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The counted process.
pub(crate) fn run() {
    let mut cluster = Cluster::new(Layout::Apart, Time::Steps(Rc::default()));
    cluster.run(Policy::ReplicatedRoute, OUTSTANDING, WARM_PUTS, false);
    cluster.run(Policy::ReplicatedRoute, OUTSTANDING, PUTS, true);
    packets();
    timers();
}

// The number in each step keeps the compiler from making one function of several.

#[inline(never)]
fn counted_packets_in(machine: &mut Machine) {
    black_box(11u8);
    machine.turn();
}

#[inline(never)]
fn counted_packets_out(machine: &mut Machine, socket: &UdpSocket) {
    black_box(12u8);
    machine.enter(|| send(socket));
    machine.turn();
}

#[inline(never)]
fn counted_timers(machine: &mut Machine) {
    black_box(13u8);
    machine.turn();
}

fn send(socket: &UdpSocket) {
    for _ in 0..BURST {
        let mut packet = socket.alloc().expect("the pool is larger than a burst");
        packet.extend_from_slice(&[7; 64]).expect("a packet has room");
        socket.send_to(packet, OTHER).expect("a burst fits");
    }
}

fn packets() {
    let (rings, time) = (Rings::default(), Time::Steps(Rc::default()));
    let (mut sender, net) = machine(&rings, &[*ONE.ip()], &time);
    let socket = net.bind(ONE, SocketOptions::default()).expect("a free address");
    let (mut receiver, net) = machine(&rings, &[*OTHER.ip()], &time);
    let receiving = net.bind(OTHER, SocketOptions::default()).expect("a free address");
    receiver.enter(|| {
        spawn(async move {
            loop {
                drop(receiving.recv().await);
            }
        })
        .detach();
    });
    for round in 0..WARM_ROUNDS + ROUNDS {
        if round < WARM_ROUNDS {
            sender.enter(|| send(&socket));
            sender.turn();
            receiver.turn();
        } else {
            counted_packets_out(&mut sender, &socket);
            counted_packets_in(&mut receiver);
        }
    }
    assert_eq!(socket.stats().sent, (WARM_ROUNDS + ROUNDS) * BURST);
}

fn timers() {
    let time = Time::Steps(Rc::default());
    let (mut machine, _) = machine(&Rings::default(), &[*ONE.ip()], &time);
    machine.enter(|| {
        for _ in 0..BURST {
            spawn(async {
                loop {
                    // Less than a step of the clock: each fires once a turn.
                    sleep(Duration::from_micros(10)).await;
                }
            })
            .detach();
        }
    });
    for round in 0..WARM_ROUNDS + ROUNDS {
        time.step();
        match round {
            0..WARM_ROUNDS => _ = machine.turn(),
            _ => counted_timers(&mut machine),
        }
    }
}
