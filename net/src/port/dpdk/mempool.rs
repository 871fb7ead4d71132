//! Pools of mbufs.

use super::mbuf::MbufBuffer;
use super::{DpdkError, Eal, checked_name, control, last_refusal};
use crate::packet::Packet;
use dpdk_sys::{DPDK_SHIM_MBUF_BYTES, dpdk_shim_frame, rte_mempool};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Mbufs that each of DPDK's own threads keeps at hand. Other threads go to the pool's ring.
const CACHE_MBUFS: u32 = 256;
/// DPDK's name for: wherever.
const ANY_NUMA_NODE: i32 = -1;

/// A pool with a fixed number of mbufs, in which devices receive and which any thread may use. Clones are handles.
///
/// A pool lives as long as the process: packets over its mbufs may be anywhere. Make a few at the start, not one for each need.
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: NonNull<rte_mempool>,
    mbufs: u32,
}

// SAFETY: pools are made for many producers and consumers at once, and are never freed.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `mbufs`, which takes some 2.4 KiB of DPDK's memory for each, and a page of 4 KiB where that is ordinary memory.
    /// Fails where that is not free, or where the
    /// name is in use. A number one less than a power of two wastes least.
    pub fn create(_eal: Eal, name: &str, mbufs: u32) -> Result<Mempool, DpdkError> {
        let name = checked_name(name)?;
        let _control = control();
        // What a thread has at hand is out of the others' reach: a small part of a small pool.
        let cache = CACHE_MBUFS.min(mbufs / 8);
        // SAFETY: the EAL runs, the name is a string and copied.
        let pool = unsafe {
            let room = DPDK_SHIM_MBUF_BYTES as u16; // asserted to fit in mbuf.rs
            dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, cache, 0, room, ANY_NUMA_NODE)
        };
        NonNull::new(pool).map(|pool| Mempool { pool, mbufs }).ok_or_else(|| last_refusal("make a pool of mbufs"))
    }

    /// An empty packet over an mbuf: 128 bytes of head room and 2048 of room. `None` where all mbufs are in use.
    pub fn alloc(&self) -> Option<Packet> {
        let mut frame = MaybeUninit::<dpdk_shim_frame>::uninit();
        // SAFETY: the pool is valid, and the shim writes the one frame where it answers zero.
        let frame = unsafe {
            if dpdk_sys::dpdk_shim_alloc(self.pool.as_ptr(), frame.as_mut_ptr(), 1) != 0 {
                return None;
            }
            frame.assume_init()
        };
        // SAFETY: the frame has just been allocated and is taken over here only.
        let buffer = unsafe { MbufBuffer::from_frame(&frame) };
        Some(Packet::from_mbuf(buffer, frame.head, 0))
    }

    /// Mbufs that it has, used or not.
    pub fn mbufs(&self) -> u32 {
        self.mbufs
    }

    /// Mbufs in use now: in packets, and in the queues of devices. Walks over the caches of all threads.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool is valid; the count is only a snapshot while other threads use it.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    pub(super) fn as_ptr(&self) -> *mut rte_mempool {
        self.pool.as_ptr()
    }
}
