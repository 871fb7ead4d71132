//! Frames into the stack for raw ports, as time passes: no panic, and no table or queue beyond its limit.

use arbitrary::{Arbitrary, Unstructured};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use trimaran_net::stack::{MacAddr, Stack, StackConfig};
use trimaran_net::{Packet, Priority};
use trimaran_runtime::Instant;

const ME: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NEIGHBORS: usize = 8;
const WAITING: usize = 16;
const FRAMES: usize = 32;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Any bytes.
    Frame(&'a [u8]),
    /// A frame for this station, of this type.
    Ours {
        kind: u8,
        rest: &'a [u8],
    },
    Send {
        to: u8,
        port: u16,
        bytes: &'a [u8],
    },
    Join(u8),
    Leave(u8),
    Pass {
        ms: u16,
    },
    /// The device takes what waits.
    Drain,
}

fn packet(bytes: &[u8]) -> Option<Packet> {
    let mut packet = Packet::alloc(Priority::Normal)?;
    packet.extend_from_slice(&bytes[..bytes.len().min(packet.room())]).ok()?;
    Some(packet)
}

fn group(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(239, 0, 0, number)
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(data: &[u8]) {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let config = StackConfig {
        neighbors: NEIGHBORS,
        waiting_each: 4,
        waiting_total: WAITING,
        queued_frames: FRAMES,
        groups: 4,
        ..StackConfig::new(ME, 24)
    };
    let mut stack = Stack::new(config, mac, 1514);
    let mut now = Instant::ZERO;
    let mut joined = [0_u32; 256];
    let mut input = Unstructured::new(data);
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        match step {
            Step::Frame(bytes) => {
                if let Some(packet) = packet(bytes) {
                    let _ = stack.receive(now, packet);
                }
            }
            Step::Ours { kind, rest } => {
                let kind: [u8; 2] = if kind % 2 == 0 { [8, 0] } else { [8, 6] };
                let frame = [&mac.0[..], &[2, 0, 0, 0, 0, 9], &kind, rest].concat();
                if let Some(datagram) = packet(&frame).and_then(|packet| stack.receive(now, packet)) {
                    assert!(
                        datagram.len() <= rest.len() && *datagram.dst().ip() == ME
                            || datagram.dst().ip().is_multicast()
                    );
                }
            }
            Step::Send { to, port, bytes } => {
                if let Some(mut packet) = packet(&bytes[..bytes.len().min(stack.payload_bytes())]) {
                    packet.set_src(SocketAddrV4::new(ME, 8000));
                    packet.set_dst(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, to), port));
                    stack.send(now, packet);
                }
            }
            Step::Join(number) => joined[usize::from(number)] += u32::from(stack.join(group(number))),
            Step::Leave(number) => {
                if let Some(left) = joined[usize::from(number)].checked_sub(1) {
                    joined[usize::from(number)] = left;
                    stack.leave(group(number));
                }
            }
            Step::Pass { ms } => {
                now += Duration::from_millis(ms.into());
                stack.advance(now);
            }
            Step::Drain => {
                while let Some(frame) = stack.frames().pop() {
                    assert!((14..=1514).contains(&frame.len()));
                }
                while stack.looped().pop().is_some() {}
            }
        }
        let (rows, waiting, _) = stack.neighbors();
        assert!(rows <= NEIGHBORS && waiting <= WAITING);
        assert!(stack.frames().len() <= FRAMES);
    }
}
