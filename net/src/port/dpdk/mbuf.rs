//! The buffer of a packet that lives in DPDK's memory.

use crate::offload::{Checksum, Checksums};
use dpdk_sys::{DPDK_SHIM_FRAME_MIN_BYTES, DPDK_SHIM_MBUF_BYTES, dpdk_shim_frame, rte_mbuf};
use std::ptr::{self, NonNull};

/// Bytes of such a buffer: 128 more than a heap packet's, since cards want 2048 behind the head room.
pub(crate) const MBUF_BYTES: usize = DPDK_SHIM_MBUF_BYTES as usize;

// Whatever a heap packet holds fits behind the head room of an mbuf.
const _: () = assert!(MBUF_BYTES >= crate::pool::BUFFER_BYTES + crate::packet::HEAD_ROOM_BYTES);
const _: () = assert!(MBUF_BYTES >= crate::pool::BUFFER_BYTES && MBUF_BYTES <= u16::MAX as usize);
const _: () = assert!(dpdk_sys::DPDK_SHIM_CHECKSUM_UNKNOWN == 0, "`said_of` looks at two at once");
// Each has the other's number, so that `to_shim` costs nothing.
const _: () = assert!(
    Checksum::Unknown as u32 == dpdk_sys::DPDK_SHIM_CHECKSUM_UNKNOWN
        && Checksum::Good as u32 == dpdk_sys::DPDK_SHIM_CHECKSUM_GOOD
        && Checksum::Bad as u32 == dpdk_sys::DPDK_SHIM_CHECKSUM_BAD
        && Checksum::Fill as u32 == dpdk_sys::DPDK_SHIM_CHECKSUM_FILL
);

/// An mbuf that nobody else uses, with its buffer. Dropping it gives it back to its pool, on whatever thread: one call and,
/// outside DPDK's own threads, a few atomic operations.
pub(crate) struct MbufBuffer {
    mbuf: NonNull<rte_mbuf>,
    bytes: NonNull<[u8; MBUF_BYTES]>,
}

// SAFETY: the mbuf has this one owner, and pools made by `Mempool` may be given mbufs by any number of threads at once.
unsafe impl Send for MbufBuffer {}

impl MbufBuffer {
    /// Takes over the mbuf of a frame.
    ///
    /// # Safety
    ///
    /// The frame must come from the shim's receive or allocation, and this must be the only time that it is taken over.
    #[inline]
    pub(crate) unsafe fn from_frame(frame: &dpdk_shim_frame) -> MbufBuffer {
        // SAFETY: what the shim gives is an mbuf, and its buffer.
        unsafe {
            MbufBuffer { mbuf: NonNull::new_unchecked(frame.mbuf), bytes: NonNull::new_unchecked(frame.buffer).cast() }
        }
    }

    /// The frame `head..head + len` of this buffer, for the shim.
    #[inline]
    pub(crate) fn frame(&self, head: u16, len: u16, checksums: Checksums) -> dpdk_shim_frame {
        let (mbuf, buffer) = (self.mbuf.as_ptr(), self.bytes.as_ptr().cast());
        dpdk_shim_frame { mbuf, head, ..borrowed_frame(buffer, len, checksums) }
    }

    /// A frame that begins at `head` can be made as long as Ethernet's shortest without leaving the buffer.
    #[inline]
    pub(crate) fn can_be_padded(&self, head: u16) -> bool {
        usize::from(head) + DPDK_SHIM_FRAME_MIN_BYTES as usize <= MBUF_BYTES
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the shim hands out only unshared mbufs with buffers of MBUF_BYTES in memory that stays mapped; DPDK zeroed it once.
        unsafe { self.bytes.as_ref() }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes this the only reference.
        unsafe { self.bytes.as_mut() }
    }
}

/// A frame of `len` bytes that are in no mbuf, for the shim to copy. Valid as long as they are.
#[inline]
pub(crate) fn borrowed_frame(bytes: *const u8, len: u16, checksums: Checksums) -> dpdk_shim_frame {
    dpdk_shim_frame {
        mbuf: ptr::null_mut(),
        buffer: bytes.cast_mut(),
        head: 0,
        len,
        ipv4_checksum: to_shim(checksums.ipv4),
        udp_checksum: to_shim(checksums.udp),
    }
}

/// What the device said of a frame's checksums.
#[inline]
pub(crate) fn said_of(frame: &dpdk_shim_frame) -> Checksums {
    // Devices that check nothing are many.
    if u32::from(frame.ipv4_checksum | frame.udp_checksum) == dpdk_sys::DPDK_SHIM_CHECKSUM_UNKNOWN {
        return Checksums::default();
    }
    Checksums { ipv4: from_shim(frame.ipv4_checksum), udp: from_shim(frame.udp_checksum) }
}

fn from_shim(checksum: u8) -> Checksum {
    match u32::from(checksum) {
        dpdk_sys::DPDK_SHIM_CHECKSUM_GOOD => Checksum::Good,
        dpdk_sys::DPDK_SHIM_CHECKSUM_BAD => Checksum::Bad,
        _ => Checksum::Unknown,
    }
}

/// The shim looks for what is to be done alone.
#[inline]
fn to_shim(checksum: Checksum) -> u8 {
    checksum as u8
}

impl Drop for MbufBuffer {
    fn drop(&mut self) {
        // SAFETY: the mbuf is ours and is not used again; its pool lives as long as the process.
        unsafe { dpdk_sys::dpdk_shim_free(&self.frame(0, 0, Checksums::default()), 1) };
    }
}

/// Faults made on purpose, each to end with a report of AddressSanitizer's: `cargo xtask asan` runs them one by one. Without it they
/// would prove nothing.
#[cfg(test)]
mod faults {
    use super::*;
    use crate::burst::PacketQueue;
    use crate::port::FramePort;
    use crate::port::dpdk::{OpenOptions, open};
    use trimaran_runtime::Instant;

    fn queue() -> crate::port::dpdk::FrameQueue {
        let options =
            OpenOptions::new(&format!("fault-{}", std::process::id()), "net_ring0".parse().expect("a device"));
        open(&options).expect("a ring opens").1.remove(0)
    }

    /// An mbuf as its owner holds it, and where its bytes are.
    fn owned(queue: &crate::port::dpdk::FrameQueue) -> (crate::Packet, *const u8) {
        let mut packet = queue.pool().alloc().expect("the pool is fresh");
        packet.extend_from_slice(&[7; 100]).expect("there is room");
        let at = packet.data().as_ptr();
        (packet, at)
    }

    /// The fault itself.
    fn read(at: *const u8) {
        // SAFETY: the memory stays mapped; that it is another's is what shall be seen.
        std::hint::black_box(unsafe { at.read_volatile() });
    }

    #[test]
    #[ignore = "a fault on purpose, for cargo xtask asan"]
    fn a_read_after_free() {
        let (packet, at) = owned(&queue());
        drop(packet);
        read(at);
    }

    #[test]
    #[ignore = "a fault on purpose, for cargo xtask asan"]
    fn a_second_free() {
        let (packet, _) = owned(&queue());
        let frame = packet.device_frame();
        // SAFETY: none; two owners are the fault.
        let twice = unsafe { MbufBuffer::from_frame(&frame) };
        drop(packet);
        drop(twice);
    }

    #[test]
    #[ignore = "a fault on purpose, for cargo xtask asan"]
    fn a_read_after_sending() {
        let mut queue = queue();
        let (packet, at) = owned(&queue);
        let mut tx = PacketQueue::new(1);
        assert!(tx.push(packet).is_ok());
        assert_eq!(queue.tx_burst(Instant::ZERO, &mut tx), 1);
        read(at);
    }

    #[test]
    #[ignore = "a fault on purpose, for cargo xtask asan"]
    fn a_read_past_the_room_of_a_heap_packet() {
        let packet = crate::Packet::alloc(crate::Priority::Normal).expect("the pool is fresh");
        read(packet.data().as_ptr().wrapping_add(crate::packet::ROOM_BYTES));
    }
}
