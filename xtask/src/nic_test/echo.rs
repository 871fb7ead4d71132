//! The first program on a card: net/examples/udp_echo.rs, which sends back what it gets, with the number of the queue in front.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::Card;
use super::lab::{CARD_IP, HOST, HOST_MAC, Run, SOON};

const PORT: u16 = 7000;
const LOG: &str = "/tmp/echo.log";
const PID: &str = "/tmp/echo.pid";
const PINGS: u32 = 100;
/// Of a processor, by a program that nobody talks to: it looks for a signal ten times a second.
const IDLE_PERCENT_MAX: f64 = 5.0;
/// Two queues get some of so many senders, unless chance is against it once in 2^63 times.
const FLOWS: u16 = 64;
/// Questions of each sender.
const ROUNDS: usize = 10;
/// Questions that are asked at once. Their answers fit into the buffer of a socket of this machine's kernel.
const BURST: usize = 64;
/// Largest payload of a frame of 1514 bytes.
const LARGEST: usize = 1472;

pub(super) fn check(run: &mut Run) -> Result<(), String> {
    let mut start = format!("udp_echo {} {CARD_IP}/24 {}", Card::ADDRESS, run.card.queues());
    if run.card.queues() > 1 {
        start.push_str(&format!(" {HOST}={HOST_MAC}"));
    }
    if run.card.needs_huge_pages() {
        start.push_str(" huge");
    }
    let said = run.guest.run_failing(&start, SOON)?;
    let mend = format!("dpdk-devbind.py --bind={} {}", run.card.user_driver(), Card::ADDRESS);
    if !said.contains(&mend) {
        return Err(format!("a card that is not bound is not said to be mended by `{mend}`: {said}"));
    }
    run.passed("a card without a driver for user space: one cause, and the command that mends it");
    run.bind()?;
    serve(run, &start)?;
    let before = run.interrupts()?;
    let times = run.ping(PINGS)?;
    let interrupts = run.interrupts()? - before;
    if interrupts < u64::from(PINGS) / 2 {
        return Err(format!("{interrupts} interrupts for {PINGS} pings to an idle core: {times}"));
    }
    run.passed(&format!("ping: {PINGS} of {PINGS} answered, {interrupts} interrupts, {times}"));
    let idle = run.cpu_percent(PID)?;
    if idle > IDLE_PERCENT_MAX {
        return Err(format!("an idle core takes {idle:.1}% of a processor"));
    }
    run.passed(&format!("idle: {idle:.1}% of a processor"));
    flows(run.card)?;
    run.passed("echoes: every flow on one queue, every queue with flows");
    burst()?;
    run.passed(&format!("echoes: {BURST} at once, 1 to {LARGEST} bytes"));
    end(run)?;
    serve(run, &format!("{start} software"))?;
    flows(run.card)?;
    run.ping(20)?;
    end(run)?;
    run.passed("the same card again, its checksums by the stack");
    Ok(())
}

/// Starts the program and waits until it serves.
fn serve(run: &mut Run, start: &str) -> Result<(), String> {
    run.guest.run(&format!("{start} >{LOG} 2>&1 & echo $! >{PID}"), SOON)?;
    let ready = run.line(LOG, "ready:")?;
    if !ready.contains(run.card.dpdk_driver()) {
        return Err(format!("not the driver {}: {ready}", run.card.dpdk_driver()));
    }
    run.first_answer()?;
    run.passed(&ready);
    Ok(())
}

/// Ends the program, which then counts its mbufs.
fn end(run: &mut Run) -> Result<(), String> {
    run.guest.run(&format!("kill -TERM $(cat {PID})"), SOON)?;
    let left = run.line(LOG, "mbufs in use:")?;
    if left != "0" {
        return Err(format!("{left} mbufs are in use when the device is closed"));
    }
    run.line(LOG, "ended")?;
    run.guest.run(&format!("wait $(cat {PID})"), SOON)?;
    run.passed("ends when asked to, with no mbuf in use");
    Ok(())
}

/// Many senders, one question at a time.
fn flows(card: Card) -> Result<(), String> {
    let mut flows_of = [0u32; 256];
    for flow in 0..FLOWS {
        let socket = sender(10_000 + flow)?;
        let mut queue = None;
        for round in 0..ROUNDS {
            let question = pattern(1 + round * 131, flow);
            socket.send(&question).map_err(|error| format!("cannot send: {error}"))?;
            let mut answer = [0; 2048];
            let bytes = socket.recv(&mut answer).map_err(|error| format!("flow {flow}, question {round}: {error}"))?;
            if answer[1..bytes] != question {
                return Err(format!("flow {flow}, question {round}: another answer of {bytes} bytes"));
            }
            if *queue.get_or_insert(answer[0]) != answer[0] {
                return Err(format!("flow {flow} has moved from queue {queue:?} to {}", answer[0]));
            }
        }
        flows_of[usize::from(queue.unwrap_or(0))] += 1;
    }
    let used = flows_of.iter().filter(|flows| **flows > 0).count();
    let queues = usize::from(card.queues());
    if used == queues { Ok(()) } else { Err(format!("{used} queues of {queues} got flows: {:?}", &flows_of[..queues])) }
}

/// One sender, many questions of all sizes before the first answer is read.
fn burst() -> Result<(), String> {
    let socket = sender(20_000)?;
    let sizes = (0..BURST).map(|at| 1 + at * (LARGEST - 2) / (BURST - 1));
    let mut missing: Vec<Vec<u8>> = sizes.map(|bytes| pattern(bytes, bytes as u16)).collect();
    for question in &missing {
        socket.send(question).map_err(|error| format!("cannot send: {error}"))?;
    }
    while !missing.is_empty() {
        let mut answer = [0; 2048];
        let bytes = socket
            .recv(&mut answer)
            .map_err(|error| format!("{} answers of {BURST} missing: {error}", missing.len()))?;
        let place = missing.iter().position(|question| *question == answer[1..bytes]);
        missing.swap_remove(place.ok_or_else(|| format!("an answer of {bytes} bytes that nobody has asked for"))?);
    }
    Ok(())
}

/// A socket of this machine's kernel. The answer has one byte more than the question.
fn sender(port: u16) -> Result<UdpSocket, String> {
    let open = || {
        let socket = UdpSocket::bind(SocketAddrV4::new(HOST, port))?;
        socket.connect(SocketAddrV4::new(CARD_IP, PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(15)))?;
        std::io::Result::Ok(socket)
    };
    open().map_err(|error| format!("cannot open a socket: {error}"))
}

/// `bytes` bytes that differ from flow to flow; the first two say how many.
fn pattern(bytes: usize, flow: u16) -> Vec<u8> {
    let byte = |at: usize| (at as u16).wrapping_mul(31).wrapping_add(flow.wrapping_mul(7)) as u8;
    let mut pattern: Vec<u8> = (0..bytes).map(byte).collect();
    for (place, byte) in pattern.iter_mut().zip((bytes as u16).to_be_bytes()) {
        *place = byte;
    }
    pattern
}
