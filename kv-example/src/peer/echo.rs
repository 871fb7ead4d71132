//! What the port itself can do: a task on a core of its own that sends back what it gets, and a client that keeps datagrams going
//! round. Neither knows R2P2, calls or deadlines: what the echo of a node takes longer is what those cost.

use crate::cli::BenchPeer;
use crate::load::Measured;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;
use trimaran_net::{Net, SocketOptions, UdpSocket};
use trimaran_rpc::program::connect::net_error;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::port::{Between, PortPlan};
use trimaran_rpc::program::serve;
use trimaran_runtime::{CoreConfig, now, sleep, spawn};

/// Between two looks at what the other thread has said.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What has not come back by then was lost, and another goes in its place.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// As many as the client of a node has room for.
const QUEUE_PACKETS: usize = 32_768;

/// Measures each number of outstanding datagrams and tells it.
///
/// # Errors
/// What keeps the ports from being opened, and those of `tell`.
pub(super) fn run(bench: &BenchPeer, tell: impl Fn(u32, &Measured) -> Result<(), Error>) -> Result<(), Error> {
    let (port, ended) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicBool::new(false)));
    let mut all = Ok(Vec::new());
    // A core beside this one, which runs a port of its own, as a node's process does.
    std::thread::scope(|scope| {
        let (at, until) = (port.clone(), ended.clone());
        let server = scope.spawn(move || {
            let core = CoreConfig { name: "echo".into(), idle: serve::IDLE, ..CoreConfig::default() };
            let served = PortPlan::default().run(core, &Between::default(), |net| serve_until(net, at, until.clone()));
            until.store(true, Ordering::Release);
            served
        });
        let core = CoreConfig { name: "client".into(), core_id: 1, ..CoreConfig::default() };
        let (plan, until) = (bench.clone(), ended.clone());
        all = PortPlan::default().run(core, &Between::default(), |net| ask_all(net, port, until, plan));
        ended.store(true, Ordering::Release);
        if let Ok(Err(error)) = server.join() {
            all = Err(error);
        }
    });
    all?.iter().try_for_each(|(outstanding, measured)| tell(*outstanding, measured))
}

fn bind(net: &Net) -> Result<UdpSocket, Error> {
    let options = SocketOptions { rx_packets: QUEUE_PACKETS, tx_packets: QUEUE_PACKETS, ..SocketOptions::default() };
    net.bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), options).map_err(net_error)
}

async fn serve_until(net: Net, at: Arc<AtomicU16>, ended: Arc<AtomicBool>) -> Result<(), Error> {
    let socket = bind(&net)?;
    at.store(socket.local_addr().port(), Ordering::Release);
    let echo = spawn(async move {
        loop {
            let packet = socket.recv().await;
            let from = packet.src();
            // No room: the client takes it for lost.
            let _ = socket.send_to(packet, from);
        }
    });
    while !ended.load(Ordering::Acquire) {
        sleep(LOOK_EVERY).await;
    }
    drop(echo);
    Ok(())
}

async fn ask_all(
    net: Net,
    port: Arc<AtomicU16>,
    ended: Arc<AtomicBool>,
    bench: BenchPeer,
) -> Result<Vec<(u32, Measured)>, Error> {
    while port.load(Ordering::Acquire) == 0 {
        if ended.load(Ordering::Acquire) {
            return Err(Error::Interrupted);
        }
        sleep(LOOK_EVERY).await;
    }
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.load(Ordering::Acquire));
    let mut all = Vec::new();
    for &outstanding in &bench.out {
        // A socket for each, so that what is late of one does not count for the next.
        let socket = Rc::new(bind(&net)?);
        all.push((outstanding, ask(&socket, to, outstanding, &bench).await));
    }
    Ok(all)
}

/// A datagram with the time of its sending, as long as a value.
fn send(socket: &UdpSocket, to: SocketAddrV4, bytes: usize) {
    // No room is as good as lost: the next time that nothing comes, it is sent again.
    let Some(mut packet) = socket.alloc() else { return };
    let mut payload = [b'v'; MESSAGE_BYTES_MAX];
    payload[..STAMP_BYTES].copy_from_slice(&now().as_nanos().to_le_bytes());
    if packet.extend_from_slice(&payload[..bytes.clamp(STAMP_BYTES, MESSAGE_BYTES_MAX)]).is_ok() {
        let _ = socket.send_to(packet, to);
    }
}

const STAMP_BYTES: usize = 8;
/// What a datagram carries at most.
const MESSAGE_BYTES_MAX: usize = 1400;

async fn ask(socket: &UdpSocket, to: SocketAddrV4, outstanding: u32, bench: &BenchPeer) -> Measured {
    let from = now() + bench.warmup;
    let until = from + bench.measure;
    let mut measured = Measured::default();
    let bytes = bench.value as usize;
    (0..outstanding).for_each(|_| send(socket, to, bytes));
    while now() < until {
        let Some(packet) = socket.recv_or_deadline(now() + LOST_AFTER).await else {
            // All that were on their way.
            measured.add_lost(outstanding.into());
            (0..outstanding).for_each(|_| send(socket, to, bytes));
            continue;
        };
        if now() >= from
            && let Some(stamp) = packet.data().first_chunk()
        {
            let sent_ns = u64::from_le_bytes(*stamp);
            measured.add_answered(Duration::from_nanos(now().as_nanos().saturating_sub(sent_ns)));
        }
        send(socket, to, bytes);
    }
    measured
}
