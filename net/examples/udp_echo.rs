//! Sends every datagram back that comes to port 7000 of a DPDK device, with the number of the queue that received it in front.
//!
//! ```text
//! udp_echo DEVICE IP/BITS QUEUES [huge] [software] [NEIGHBOUR=MAC ..]
//! udp_echo net_af_packet0,iface=veth1 10.0.0.2/24 1
//! ```
//!
//! DEVICE is a card's address or a virtual device as DPDK writes it. One core serves each queue, and all are the same host. An answer
//! to ARP reaches only one of them, so with more than one queue the neighbours must be named. `huge` takes huge pages, `software`
//! leaves a card's checksums alone. Prints a line that begins with `ready:` when it serves; ends at SIGTERM and SIGINT and says
//! what is left.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::cell::RefCell;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use trimaran_net::port::dpdk::{DeviceSpec, DpdkPort, FrameQueue, Memory, OpenOptions, open};
use trimaran_net::{MacAddr, Net, NetConfig, NetDriver, SocketOptions, StackConfig};
use trimaran_runtime::{CoreConfig, now, start};

const PORT: u16 = 7000;
/// MiB of DPDK's memory.
const MEMORY_MIB: u32 = 64;
/// Between two looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the command line says.
#[derive(Clone)]
struct Host {
    ip: Ipv4Addr,
    bits: u8,
    neighbours: Vec<(Ipv4Addr, MacAddr)>,
}

thread_local! {
    // Driver and main task are made by two closures on the core's own thread.
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let [device, address, queues, more @ ..] = words else {
        return Err("usage: udp_echo DEVICE IP/BITS QUEUES [huge] [software] [NEIGHBOUR=MAC ..]".into());
    };
    let (ip, bits) = address.split_once('/').ok_or("an address such as 10.0.0.2/24 is wanted")?;
    let neighbours = more.iter().filter(|word| word.contains('=')).map(|word| neighbour(word));
    let host = Host { ip: ip.parse()?, bits: bits.parse()?, neighbours: neighbours.collect::<Result<_, _>>()? };
    let mut options = OpenOptions::new(&format!("udp-echo-{}", std::process::id()), device.parse::<DeviceSpec>()?);
    options.config.queues = queues.parse()?;
    if more.iter().any(|word| word == "huge") {
        options.eal.memory = Memory::Huge { mib: MEMORY_MIB };
    }
    options.config.card_checksums = !more.iter().any(|word| word == "software");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let (device, queues) = open(&options)?;
    let pool = queues.first().ok_or("no queue")?.pool().clone();
    let sleeps = queues.first().map(|queue| queue.sleep_kind().to_string()).unwrap_or_default();
    let mut cores = Vec::new();
    for (number, queue) in queues.into_iter().enumerate() {
        let (host, stop) = (host.clone(), Arc::clone(&stop));
        let core = CoreConfig { name: format!("queue {number}"), ..CoreConfig::default() };
        cores.push(start(core, move || driver(queue, host), move || serve(number as u8, ip_of(PORT), stop))?);
    }
    // Only to see whether the card takes rules: nobody here listens on these ports.
    let steered = (0..cores.len() as u16).all(|queue| device.steer(PORT + 1 + queue, queue));
    let rules = if steered { "rules" } else { "no rules" };
    println!("ready: {}, {rules}; {} in use, an idle core sleeps {sleeps}", device.info()?, cores.len());
    for core in cores {
        println!("echoed: {}", core.join()?);
    }
    println!("counted: {:?}", device.stats()?);
    drop(device);
    println!("mbufs in use: {}", pool.in_use());
    println!("ended");
    Ok(())
}

fn driver(queue: FrameQueue, host: Host) -> NetDriver<DpdkPort> {
    let mut port = DpdkPort::new(queue, StackConfig::new(host.ip, host.bits));
    for (ip, mac) in host.neighbours {
        if !port.stack_mut().pin(ip, Some(mac)) {
            eprintln!("there is no room for the neighbour {ip}");
        }
    }
    let (driver, net) = NetDriver::new(port, NetConfig::default());
    NET.set(Some(net));
    driver
}

/// Answers until it is told to stop; how many it has answered.
async fn serve(queue: u8, local: SocketAddrV4, stop: Arc<AtomicBool>) -> u64 {
    let socket = NET.take().and_then(|net| net.bind(local, SocketOptions::default()).ok());
    let Some(socket) = socket else { return 0 };
    let mut echoed = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut packet) = socket.recv_or_deadline(now() + LOOK_EVERY).await else { continue };
        let Some(front) = packet.prepend(1) else { continue };
        front[0] = queue;
        let from = packet.src();
        echoed += u64::from(socket.send_to(packet, from).is_ok());
    }
    echoed
}

/// This host's own address, whatever it is.
fn ip_of(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

/// `10.0.0.1=52:54:00:00:00:01`
fn neighbour(word: &str) -> Result<(Ipv4Addr, MacAddr), Box<dyn Error>> {
    let wrong = || format!("`{word}` is no neighbour such as 10.0.0.1=52:54:00:00:00:01");
    let (ip, mac) = word.split_once('=').ok_or_else(wrong)?;
    let digits: Vec<u8> = mac.split(':').map(|digits| u8::from_str_radix(digits, 16)).collect::<Result<_, _>>()?;
    Ok((ip.parse()?, MacAddr(digits.try_into().map_err(|_| wrong())?)))
}
