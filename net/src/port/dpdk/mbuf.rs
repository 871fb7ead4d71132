//! The buffer of a packet that lives in DPDK's memory.

use dpdk_sys::{DPDK_SHIM_FRAME_MIN_BYTES, DPDK_SHIM_MBUF_BYTES, dpdk_shim_frame, rte_mbuf};
use std::ptr::NonNull;

/// Bytes of such a buffer: 128 more than a heap packet's, since cards want 2048 behind the head room.
pub(crate) const MBUF_BYTES: usize = DPDK_SHIM_MBUF_BYTES as usize;

// Whatever a heap packet holds fits behind the head room of an mbuf.
const _: () = assert!(MBUF_BYTES >= crate::pool::BUFFER_BYTES + crate::packet::HEAD_ROOM_BYTES);
const _: () = assert!(MBUF_BYTES >= crate::pool::BUFFER_BYTES && MBUF_BYTES <= u16::MAX as usize);

/// An mbuf that nobody else uses, with its buffer. Dropping it gives it back to its pool, on whatever thread: one call and,
/// outside DPDK's own threads, a few atomic operations.
pub(crate) struct MbufBuffer {
    mbuf: NonNull<rte_mbuf>,
    bytes: NonNull<[u8; MBUF_BYTES]>,
}

// SAFETY: the mbuf has this one owner, and pools made by `Mempool` may be given mbufs by any number of threads at once.
unsafe impl Send for MbufBuffer {}

impl MbufBuffer {
    /// Takes over the mbuf of a frame; `None` where there is none.
    ///
    /// # Safety
    ///
    /// The frame must come from the shim's receive or allocation, and this must be the only time that it is taken over.
    pub(crate) unsafe fn from_frame(frame: &dpdk_shim_frame) -> Option<MbufBuffer> {
        let (mbuf, bytes) = (NonNull::new(frame.mbuf)?, NonNull::new(frame.buffer)?);
        Some(MbufBuffer { mbuf, bytes: bytes.cast() })
    }

    /// The frame `head..head + len` of this buffer, for the shim.
    pub(crate) fn frame(&self, head: u16, len: u16) -> dpdk_shim_frame {
        dpdk_shim_frame { mbuf: self.mbuf.as_ptr(), buffer: self.bytes.as_ptr().cast(), head, len }
    }

    /// A frame that begins at `head` can be made as long as Ethernet's shortest without leaving the buffer.
    pub(crate) fn can_be_padded(&self, head: u16) -> bool {
        usize::from(head) + DPDK_SHIM_FRAME_MIN_BYTES as usize <= MBUF_BYTES
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the shim hands out only unshared mbufs with buffers of MBUF_BYTES in memory that stays mapped; DPDK zeroed it once.
        unsafe { self.bytes.as_ref() }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes this the only reference.
        unsafe { self.bytes.as_mut() }
    }
}

impl Drop for MbufBuffer {
    fn drop(&mut self) {
        // SAFETY: the mbuf is ours and is not used again; its pool lives as long as the process.
        unsafe { dpdk_sys::dpdk_shim_free(&self.frame(0, 0), 1) };
    }
}
