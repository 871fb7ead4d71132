//! One pair of queues of a device: how one core receives and sends frames.

use super::device::Opened;
use super::mbuf::{MBUF_BYTES, MbufBuffer};
use super::mempool::{Frames, Mempool, no_frames};
use super::sleep::{SleepKind, Sleeper};
use super::thread;
use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::packet::{HEAD_ROOM_BYTES, Packet, ROOM_BYTES};
use crate::port::{FramePort, lower_timer_slack};
use crate::stack::{HEADERS_BYTES, MacAddr};
use crate::stats::PortStats;
use dpdk_sys::dpdk_shim_frame;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use trimaran_runtime::Instant;

const _: () = assert!(BURST_PACKETS == dpdk_sys::DPDK_SHIM_BURST as usize);

/// Ethernet's shortest frame; the shim fills up what is shorter.
const FRAME_MIN_BYTES: usize = dpdk_sys::DPDK_SHIM_FRAME_MIN_BYTES as usize;

/// Longest frame that a fresh packet has room for, be it on the heap or in an mbuf, whatever the device could carry.
const FRAME_MAX_BYTES: usize = {
    let (heap, mbuf) = (HEADERS_BYTES + ROOM_BYTES, MBUF_BYTES - HEAD_ROOM_BYTES);
    if heap < mbuf { heap } else { mbuf }
};

/// A receive queue and a transmit queue of a device. May be moved to another thread, belongs to one.
///
/// Nothing here blocks or fails; what is lost is counted. The device stays open while any of its queues is held.
#[derive(Debug)]
pub struct FrameQueue {
    device: Arc<Opened>,
    number: u16,
    mac: MacAddr,
    frame_bytes: usize,
    sleeper: Sleeper,
    /// The last burst was not taken whole.
    full: bool,
    stats: PortStats,
}

/// Mbufs that a burst of heap packets was copied into: free from `sent` on unless the device took them.
struct Staged {
    frames: Frames,
    /// Frames of the burst, in its order.
    count: usize,
    /// Frames, by their place, that are copies.
    copied: [bool; BURST_PACKETS],
}

impl FrameQueue {
    /// `sleeper` may use what the device keeps open.
    pub(super) fn new(
        device: Arc<Opened>,
        number: u16,
        mac: MacAddr,
        frame_bytes: usize,
        sleeper: Sleeper,
    ) -> FrameQueue {
        let frame_bytes = frame_bytes.min(FRAME_MAX_BYTES);
        FrameQueue { device, number, mac, frame_bytes, sleeper, full: false, stats: PortStats::default() }
    }

    /// How its core sleeps.
    pub fn sleep_kind(&self) -> SleepKind {
        self.sleeper.kind()
    }

    /// The pool in which frames are received, from which packets may be taken that are sent without a copy.
    pub fn pool(&self) -> &Mempool {
        &self.device.pool
    }

    /// The front of `queue` as frames, heap packets as copies. Ends where the pool is empty.
    fn stage(&self, queue: &PacketQueue) -> Staged {
        let mut staged = Staged { frames: no_frames(), count: 0, copied: [false; BURST_PACKETS] };
        for (at, packet) in queue.iter().take(BURST_PACKETS).enumerate() {
            staged.frames[at] = match packet.mbuf_frame().filter(has_room_to_pad) {
                Some(frame) => frame,
                None => {
                    let Some(mut copy) = self.device.pool.alloc() else { break };
                    // A heap packet's buffer is smaller than an mbuf's.
                    let fits = copy.extend_from_slice(packet.data());
                    debug_assert_eq!(fits, Ok(()));
                    let Some(frame) = copy.mbuf_frame() else { break };
                    copy.leave_to_device();
                    staged.copied[at] = true;
                    frame
                }
            };
            staged.count = at + 1;
        }
        staged
    }
}

impl FramePort for FrameQueue {
    /// Makes the thread one of DPDK's, for the sake of its pools, and its sleeps exact.
    fn start(&mut self) {
        thread::register();
        lower_timer_slack();
        tracing::info!(device = ?self.device.name, queue = self.number, "an idle core sleeps {}", self.sleep_kind());
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The device's MTU and Ethernet's header, 1962 at most.
    fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Frames are not copied. Those of an unknown form are dropped, and counted as truncated.
    fn rx_burst(&mut self, _now: Instant, max: usize, out: &mut Burst) -> usize {
        let max = max.min(out.room());
        if max == 0 {
            return 0;
        }
        let mut frames = no_frames();
        let mut odd = 0;
        // SAFETY: the port runs while `device` is held, `&mut self` makes this the only use of its queue, and `max` is at most the
        // length of the array.
        let kept = unsafe {
            let (port, frames) = (self.device.port, frames.as_mut_ptr());
            dpdk_sys::dpdk_shim_rx_burst(port, self.number, frames, max as u16, &mut odd)
        };
        for frame in &frames[..usize::from(kept)] {
            // SAFETY: the shim has just received this frame, and it is taken over here only.
            let buffer = unsafe { MbufBuffer::from_frame(frame) };
            let Some(buffer) = buffer else { continue };
            let pushed = out.push(Packet::from_mbuf(buffer, frame.head, frame.len));
            debug_assert!(pushed.is_ok(), "no more were asked for than fit");
        }
        self.stats.rx_packets += u64::from(kept);
        self.stats.rx_truncated += u64::from(odd);
        usize::from(kept + odd)
    }

    /// Packets over mbufs go as they are; heap packets are copied into mbufs of the pool, and stay where it is empty.
    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        let staged = self.stage(queue);
        self.full = false;
        if staged.count == 0 {
            self.full = !queue.is_empty();
            self.stats.tx_full += u64::from(self.full);
            return 0;
        }
        // SAFETY: the port runs while `device` is held, `&mut self` makes this the only use of its queue, and each frame is an mbuf
        // that only `queue` or `staged` owns.
        let sent = unsafe {
            let (port, frames) = (self.device.port, staged.frames.as_ptr());
            usize::from(dpdk_sys::dpdk_shim_tx_burst(port, self.number, frames, staged.count as u16))
        };
        for copied in &staged.copied[..sent] {
            let packet = queue.pop();
            if !copied && let Some(packet) = packet {
                packet.leave_to_device();
            }
        }
        for at in (sent..staged.count).filter(|at| staged.copied[*at]) {
            // SAFETY: the device did not take this copy, and nobody else knows it.
            unsafe { dpdk_sys::dpdk_shim_free(&staged.frames[at], 1) };
        }
        self.stats.tx_packets += sent as u64;
        self.full = sent < staged.count;
        self.stats.tx_full += u64::from(self.full);
        sent
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.sleeper.sleep(timeout, self.full, wake);
    }

    /// What it has received and sent, in frames. `rx_truncated` counts frames of an unknown form, `tx_full` bursts of which the
    /// device or the pool had no room for all.
    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// A short frame is filled up in place, unless it lies at the very end of its buffer: then it is sent as a copy.
fn has_room_to_pad(frame: &dpdk_shim_frame) -> bool {
    usize::from(frame.head) + FRAME_MIN_BYTES <= MBUF_BYTES || usize::from(frame.len) >= FRAME_MIN_BYTES
}
