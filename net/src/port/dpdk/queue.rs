//! One pair of queues of a device: how one core receives and sends frames.

use super::device::{Device, DeviceStats};
use super::mbuf::{self, MBUF_BYTES, MbufBuffer};
use super::mempool::Mempool;
use super::opened::Opened;
use super::sleep::{SleepKind, Sleeper};
use super::sockets::QueueSocket;
use super::thread;
use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::offload::Offloads;
use crate::packet::{HEAD_ROOM_BYTES, Packet, ROOM_BYTES};
use crate::port::{FramePort, PortDescription, lower_timer_slack};
use crate::socket::Priority;
use crate::stack::{HEADERS_BYTES, MacAddr};
use crate::stats::PortStats;
use dpdk_sys::{dpdk_shim_frame, dpdk_shim_received};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use trimaran_runtime::Instant;

const _: () = assert!(BURST_PACKETS == dpdk_sys::DPDK_SHIM_BURST as usize);

/// One part in so many of the pool is kept free for the device.
const LOW_SHARE: u32 = 8;

/// Longest frame that a fresh packet has room for, be it on the heap or in an mbuf, whatever the device could carry.
pub(super) const FRAME_MAX_BYTES: usize = {
    let (heap, mbuf) = (HEADERS_BYTES + ROOM_BYTES, MBUF_BYTES - HEAD_ROOM_BYTES);
    if heap < mbuf { heap } else { mbuf }
};

/// A receive queue and a transmit queue of a device. May be moved to another thread, belongs to one.
///
/// Nothing here blocks or fails; what is lost is counted. The device stays open while any of its queues is held.
#[derive(Debug)]
pub struct FrameQueue {
    /// Before the device, which closes the socket.
    sleeper: Sleeper,
    device: Arc<Opened>,
    number: u16,
    mac: MacAddr,
    frame_bytes: usize,
    /// With fewer free mbufs, received frames are copied to the heap.
    low_mbufs: u32,
    /// The last burst was not taken whole.
    full: bool,
    /// The last time seen.
    now: Instant,
    stats: PortStats,
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
        let low_mbufs = device.pool.mbufs() / LOW_SHARE;
        let (now, stats) = (Instant::ZERO, PortStats::default());
        FrameQueue { device, number, mac, frame_bytes, sleeper, low_mbufs, full: false, now, stats }
    }

    /// How its core sleeps.
    pub fn sleep_kind(&self) -> SleepKind {
        self.sleeper.kind()
    }

    /// The pool in which frames are received, from which packets may be taken that are sent without a copy.
    pub fn pool(&self) -> &Mempool {
        &self.device.pool
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

    fn offloads(&self) -> Offloads {
        self.device.offloads
    }

    /// Frames are not copied while enough mbufs are free. Below that mark they are, as long as there are heap packets to be had, so that
    /// packets which somebody keeps never starve the device. Those of an unknown form are dropped, and counted as truncated.
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        self.now = now;
        let max = max.min(out.room());
        if max == 0 {
            return 0;
        }
        let mut frames = [const { MaybeUninit::<dpdk_shim_frame>::uninit() }; BURST_PACKETS];
        let mut also = dpdk_shim_received { free_mbufs: 0, odd: 0 };
        // SAFETY: the port runs while `device` is held, `&mut self` makes this the only use of its queue, and `max` is at most the
        // length of the array, of which the shim fills as much as it says.
        let received = unsafe {
            let (port, pool, frames) = (self.device.port, self.pool().as_ptr(), frames.as_mut_ptr().cast());
            dpdk_sys::dpdk_shim_rx_burst(port, self.number, pool, frames, max as u16, &mut also)
        };
        if received + also.odd > 0 {
            self.sleeper.rise(now);
        }
        // SAFETY: the shim has filled so many.
        let frames = unsafe { std::slice::from_raw_parts(frames.as_ptr().cast(), usize::from(received)) };
        // SAFETY: the shim has just received these frames, and here each is taken over once.
        let copied = unsafe {
            if also.free_mbufs < self.low_mbufs {
                take_copies(frames, out)
            } else {
                out.extend(frames.iter().map(|frame| packet_over(frame)));
                0
            }
        };
        self.stats.rx_packets += u64::from(received);
        self.stats.rx_copied += copied;
        self.stats.rx_truncated += u64::from(also.odd);
        usize::from(received + also.odd)
    }

    /// Packets over mbufs go as they are; heap packets are copied into mbufs of the pool, and stay where it is empty.
    fn tx_burst(&mut self, _now: Instant, queue: &mut PacketQueue) -> usize {
        let mut frames = [const { MaybeUninit::<dpdk_shim_frame>::uninit() }; BURST_PACKETS];
        let mut count = 0;
        let mut on_heap = 0;
        let (front, back) = queue.slices();
        for packets in [front, back] {
            for (packet, frame) in packets.iter().zip(&mut frames[count..]) {
                let frame = frame.write(packet.device_frame());
                on_heap += usize::from(frame.mbuf.is_null());
            }
            count = BURST_PACKETS.min(count + packets.len());
        }
        if count == 0 {
            self.full = false;
            return 0;
        }
        // SAFETY: the port runs while `device` is held, `&mut self` makes this the only use of its queue, `count` frames are filled, and
        // each is an mbuf that only `queue` owns, or bytes that live there.
        let sent = unsafe {
            let (port, pool, frames) = (self.device.port, self.pool().as_ptr(), frames.as_ptr().cast());
            usize::from(dpdk_sys::dpdk_shim_tx_burst(port, self.number, pool, frames, count as u16))
        };
        if on_heap == 0 {
            queue.leave_to_device(sent);
        } else {
            for frame in &frames[..sent] {
                let Some(packet) = queue.pop() else { break };
                // SAFETY: `sent` is no more than were filled.
                if !unsafe { frame.assume_init_ref() }.mbuf.is_null() {
                    packet.leave_to_device();
                }
            }
        }
        self.full = sent < count;
        self.stats.tx_packets += sent as u64;
        self.stats.tx_full += u64::from(self.full);
        sent
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.sleeper.sleep(self.now, timeout, self.full, wake);
    }

    fn prepare_sleep(&mut self) -> Option<Duration> {
        self.sleeper.prepare(self.now, self.full)
    }

    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sleeper.fd())
    }

    fn woken(&mut self) {
        self.sleeper.wait(Some(Duration::ZERO));
    }

    /// In frames. `rx_truncated` counts those of an unknown form, `tx_full` bursts of which the device or the pool had no room for all. What
    /// the device has lost or refused is known for all its queues together: the first tells it, and asks the driver for it.
    fn stats(&self) -> PortStats {
        let device = if self.number == 0 { self.device.stats().unwrap_or_default() } else { DeviceStats::default() };
        let dropped = self.sleeper.socket().map_or(0, QueueSocket::dropped);
        PortStats {
            rx_overrun: device.rx_missed + dropped,
            rx_no_buffer: device.rx_no_mbuf,
            rx_errors: device.rx_errors,
            tx_refused: device.tx_errors,
            ..self.stats
        }
    }

    fn describe(&self) -> PortDescription {
        let device = Device::of(&self.device);
        PortDescription {
            kind: "dpdk".to_owned(),
            device: self.device.name.to_string_lossy().into_owned(),
            driver: device.info().map(|info| info.driver).unwrap_or_default(),
            link_up: device.link().ok().map(|link| link.up),
            sleeps: self.sleep_kind().to_string(),
        }
    }

    /// The driver's own statistics, told by the first queue for all: `device.rx_good_packets`.
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        if self.number == 0 {
            let xstats = Device::of(&self.device).xstats().unwrap_or_default();
            xstats.iter().for_each(|stat| tell(&format!("device.{}", stat.name), stat.value));
        }
    }
}

/// A packet over a received frame, in place.
///
/// # Safety
///
/// As for [`MbufBuffer::from_frame`].
unsafe fn packet_over(frame: &dpdk_shim_frame) -> Packet {
    // SAFETY: as the caller promises.
    let mut packet = Packet::from_mbuf(unsafe { MbufBuffer::from_frame(frame) }, frame.head, frame.len);
    packet.set_checksums(mbuf::said_of(frame));
    packet
}

/// Copies of received frames, as long as there are heap packets, and how many; their mbufs go back at once.
///
/// # Safety
///
/// As for [`MbufBuffer::from_frame`], for each.
unsafe fn take_copies(frames: &[dpdk_shim_frame], out: &mut Burst) -> u64 {
    let mut copied = 0;
    for frame in frames {
        // SAFETY: as the caller promises. Where there is a copy, this packet ends here, and its mbuf with it.
        let packet = unsafe { packet_over(frame) };
        let copy = copy_out(frame);
        copied += u64::from(copy.is_some());
        let pushed = out.push(copy.unwrap_or(packet));
        debug_assert!(pushed.is_ok(), "no more were asked for than fit");
    }
    copied
}

/// A heap packet with the bytes of a received frame, laid out as a fresh one once the stack has taken the headers off. `None` where the
/// pool of the heap is at its limit or the frame is longer than any that is sent.
fn copy_out(frame: &dpdk_shim_frame) -> Option<Packet> {
    let mut copy = Packet::alloc(Priority::Normal)?;
    copy.prepend(HEADERS_BYTES)?;
    copy.truncate(0);
    // SAFETY: the shim has just received this frame: so many bytes of its buffer are its own, and nobody else has the mbuf.
    let bytes = unsafe { std::slice::from_raw_parts(frame.buffer.add(frame.head.into()), frame.len.into()) };
    copy.extend_from_slice(bytes).ok()?;
    copy.set_checksums(mbuf::said_of(frame));
    Some(copy)
}
