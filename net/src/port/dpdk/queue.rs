//! One pair of queues of a device: how one core receives and sends frames.

use super::device::Opened;
use super::mbuf::MbufBuffer;
use super::mempool::{Frames, Mempool, no_frames};
use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::packet::Packet;
use crate::stats::PortStats;
use std::sync::Arc;

const _: () = assert!(BURST_PACKETS == dpdk_sys::DPDK_SHIM_BURST as usize);

/// A receive queue and a transmit queue of a device. May be moved to another thread, belongs to one.
///
/// Nothing here blocks or fails; what is lost is counted. The device stays open while any of its queues is held.
#[derive(Debug)]
pub struct FrameQueue {
    device: Arc<Opened>,
    number: u16,
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
    pub(super) fn new(device: Arc<Opened>, number: u16) -> FrameQueue {
        FrameQueue { device, number, stats: PortStats::default() }
    }

    /// The pool in which frames are received, from which packets may be taken that are sent without a copy.
    pub fn pool(&self) -> &Mempool {
        &self.device.pool
    }

    /// Moves at most `max` frames (and no more than `out` has room for) to the end of `out` without copying, and returns how many it
    /// took from the device. That includes frames of an unknown form, which it dropped.
    pub fn rx_burst(&mut self, max: usize, out: &mut Burst) -> usize {
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

    /// Takes frames from the front of `queue`, at most one burst, and returns how many it took. Those that the device had no room
    /// for stay in the queue.
    ///
    /// Packets over mbufs go as they are; heap packets are copied into mbufs of the pool, and stay where it is empty.
    pub fn tx_burst(&mut self, queue: &mut PacketQueue) -> usize {
        let staged = self.stage(queue);
        if staged.count == 0 {
            self.stats.tx_full += u64::from(!queue.is_empty());
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
        self.stats.tx_full += u64::from(sent < staged.count);
        sent
    }

    /// The front of `queue` as frames, heap packets as copies. Ends where the pool is empty.
    fn stage(&self, queue: &PacketQueue) -> Staged {
        let mut staged = Staged { frames: no_frames(), count: 0, copied: [false; BURST_PACKETS] };
        for (at, packet) in queue.iter().take(BURST_PACKETS).enumerate() {
            staged.frames[at] = match packet.mbuf_frame() {
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

    /// What it has received and sent, in frames. `rx_truncated` counts frames of an unknown form, `tx_full` bursts of which the
    /// device or the pool had no room for all.
    pub fn stats(&self) -> PortStats {
        self.stats
    }
}
