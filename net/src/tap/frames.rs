//! A device of frames that writes down what passes.

use super::PcapWriter;
use crate::burst::{BURST_PACKETS, Burst, PacketQueue};
use crate::offload::Offloads;
use crate::port::{FramePort, PortDescription};
use crate::stack::MacAddr;
use crate::stats::PortStats;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Writes every frame that passes a device, either way, to a pcap file: ARP, echoes and what the stack refuses, too, byte by byte
/// as the device gives and takes them. What the device pads itself is not in it.
///
/// Checksums are not left to a device that is so watched, whatever it offers: it fills them in behind this line, and a capture would show
/// every datagram that is sent as damaged. The stack makes them, at a cost of its own.
///
/// Goes between the device and [`Framed`](crate::Framed). The file ends at its limit, see [`PcapWriter::new`]; traffic goes on and
/// the rest is counted. Writing costs this core's time: some hundred nanoseconds a frame, a write to the file now and then.
pub struct FrameTap<P: FramePort, W: Write> {
    device: P,
    pcap: PcapWriter<W>,
}

impl<P: FramePort, W: Write> FrameTap<P, W> {
    /// Wraps `device`.
    pub fn new(device: P, pcap: PcapWriter<W>) -> Self {
        FrameTap { device, pcap }
    }

    /// The wrapped device.
    pub fn device_mut(&mut self) -> &mut P {
        &mut self.device
    }

    /// The writer, to look at its counters or to flush it.
    pub fn pcap_mut(&mut self) -> &mut PcapWriter<W> {
        &mut self.pcap
    }
}

impl<P: FramePort, W: Write> FramePort for FrameTap<P, W> {
    fn start(&mut self) {
        self.device.start();
    }

    fn mac(&self) -> MacAddr {
        self.device.mac()
    }

    fn frame_bytes(&self) -> usize {
        self.device.frame_bytes()
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize {
        let before = out.len();
        let taken = self.device.rx_burst(now, max, out);
        self.pcap.prepare_frames(now, out.iter().skip(before));
        self.pcap.commit(out.len() - before);
        taken
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize {
        // As in `Tap`: written beforehand, struck out again where the device has left it.
        self.pcap.prepare_frames(now, queue.iter().take(BURST_PACKETS));
        let taken = self.device.tx_burst(now, queue);
        self.pcap.commit(taken);
        taken
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        self.pcap.rest();
        self.device.park(timeout, wake);
    }

    fn prepare_sleep(&mut self) -> Option<Duration> {
        self.pcap.rest();
        self.device.prepare_sleep()
    }

    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.sleep_fd()
    }

    fn woken(&mut self) {
        self.device.woken();
    }

    fn stats(&self) -> PortStats {
        self.device.stats()
    }

    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        self.device.counters(tell);
    }

    fn describe(&self) -> PortDescription {
        self.device.describe()
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.device.next_arrival()
    }
}
