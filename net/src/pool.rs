//! The buffers of heap packets: one bounded pool per thread, no locks.
//!
//! A buffer is charged to the thread that took it (its home) until it is dropped, wherever that happens. Dropped at
//! home, it costs two plain additions. Dropped on another thread it joins that thread's list and one atomic addition
//! tells the home that its charge is over, so a core that only sends packets away never runs dry.

use crate::socket::Priority;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one buffer: a full Ethernet frame with room before and after it.
pub const BUFFER_BYTES: usize = 2048;

/// Limits of one thread's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Buffers that this thread may have in use at once. Beyond it, allocation answers `None`.
    pub in_use: usize,
    /// The last part of `in_use`, which only Control-priority sockets may take: client traffic that uses up the pool
    /// cannot silence heartbeats and elections.
    pub reserved: usize,
    /// Free buffers kept for reuse; a buffer freed beyond them goes back to the allocator.
    pub idle: usize,
}

impl Default for PoolLimits {
    /// 32768 buffers (64 MiB) in use, 2048 of them reserved for Control, 4096 (8 MiB) kept while idle.
    fn default() -> Self {
        PoolLimits { in_use: 32_768, reserved: 2_048, idle: 4_096 }
    }
}

/// What this thread's pool has done. All counts are buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Handed out.
    pub taken: u64,
    /// Taken here and dropped since, on whatever thread.
    pub returned: u64,
    /// Taken on another thread and dropped here.
    pub adopted: u64,
    /// Requests refused because the limit was reached.
    pub exhausted: u64,
    /// Made by the allocator because the free list was empty.
    pub allocated: u64,
    /// In the free list now.
    pub idle: usize,
}

impl PoolStats {
    /// Buffers taken on this thread that still live somewhere.
    pub fn in_use(&self) -> u64 {
        self.taken - self.returned
    }
}

/// Memory of one heap packet and the pool it is charged to. By default no memory: what stays behind where a buffer was taken out.
///
/// A slice, since an empty one costs nothing to leave behind; an enum would do as well, but a packet would be moved in odd pieces.
#[derive(Default)]
pub(crate) struct HeapBuffer {
    bytes: Box<[u8]>,
    /// `None` without memory.
    home: Option<Arc<Home>>,
}

impl HeapBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// The part of a pool that other threads may touch.
#[derive(Default)]
struct Home {
    returned_abroad: AtomicU64,
}

struct Pool {
    home: Arc<Home>,
    limits: Cell<PoolLimits>,
    free: RefCell<Vec<HeapBuffer>>,
    taken: Cell<u64>,
    returned_here: Cell<u64>,
    adopted: Cell<u64>,
    exhausted: Cell<u64>,
    allocated: Cell<u64>,
}

thread_local! {
    static POOL: Pool = Pool {
        home: Arc::default(),
        limits: Cell::new(PoolLimits::default()),
        free: RefCell::new(Vec::new()),
        taken: Cell::new(0),
        returned_here: Cell::new(0),
        adopted: Cell::new(0),
        exhausted: Cell::new(0),
        allocated: Cell::new(0),
    };
}

fn bump(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Pool {
    fn returned(&self) -> u64 {
        // Relaxed: only a count; the buffers themselves travel inside packets.
        self.returned_here.get() + self.home.returned_abroad.load(Ordering::Relaxed)
    }

    fn take(&self, priority: Priority) -> Option<HeapBuffer> {
        let limits = self.limits.get();
        let allowed = match priority {
            Priority::Control => limits.in_use,
            Priority::Normal => limits.in_use.saturating_sub(limits.reserved),
        };
        if self.taken.get() - self.returned() >= allowed as u64 {
            bump(&self.exhausted);
            return None;
        }
        bump(&self.taken);
        let reused = self.free.borrow_mut().pop();
        Some(reused.unwrap_or_else(|| {
            bump(&self.allocated);
            HeapBuffer { bytes: Box::new([0; BUFFER_BYTES]), home: Some(Arc::clone(&self.home)) }
        }))
    }

    fn give(&self, mut buffer: HeapBuffer) {
        let Some(home) = &mut buffer.home else { return };
        if Arc::ptr_eq(home, &self.home) {
            bump(&self.returned_here);
        } else {
            home.returned_abroad.fetch_add(1, Ordering::Relaxed);
            *home = Arc::clone(&self.home);
            bump(&self.adopted);
        }
        let mut free = self.free.borrow_mut();
        if free.len() < self.limits.get().idle {
            free.push(buffer);
        }
    }
}

/// A buffer from this thread's list, `None` at the limit.
pub(crate) fn take(priority: Priority) -> Option<HeapBuffer> {
    POOL.try_with(|pool| pool.take(priority)).ok().flatten()
}

/// Puts a buffer into this thread's list.
pub(crate) fn give(buffer: HeapBuffer) {
    // A packet can outlive the list while its thread ends; the buffer is then simply freed.
    let _ = POOL.try_with(|pool| pool.give(buffer));
}

/// Counters of the calling thread's pool.
pub fn stats() -> PoolStats {
    POOL.with(|pool| PoolStats {
        taken: pool.taken.get(),
        returned: pool.returned(),
        adopted: pool.adopted.get(),
        exhausted: pool.exhausted.get(),
        allocated: pool.allocated.get(),
        idle: pool.free.borrow().len(),
    })
}

/// Changes the calling thread's limits. Buffers in use beyond a lowered limit stay valid; free ones beyond it are
/// released at once.
pub fn set_limits(limits: PoolLimits) {
    POOL.with(|pool| {
        pool.limits.set(limits);
        let mut free = pool.free.borrow_mut();
        free.truncate(limits.idle);
        free.shrink_to(limits.idle);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use std::sync::mpsc;

    // The test harness gives each test a thread and with it a pool of its own.

    fn limit(in_use: usize, reserved: usize, idle: usize) {
        set_limits(PoolLimits { in_use, reserved, idle });
    }

    #[test]
    fn the_limit_holds_and_a_drop_makes_room() {
        limit(3, 0, 8);
        let mut held: Vec<Packet> = (0..3).filter_map(|_| Packet::alloc(Priority::Normal)).collect();
        assert_eq!(held.len(), 3);
        assert!(Packet::alloc(Priority::Normal).is_none());
        assert!(Packet::alloc(Priority::Control).is_none());
        assert_eq!(stats().exhausted, 2);
        held.pop();
        assert!(Packet::alloc(Priority::Normal).is_some());
        drop(held);
        assert_eq!(stats().in_use(), 0);
    }

    #[test]
    fn control_has_a_share_that_normal_cannot_take() {
        limit(4, 2, 8);
        let normal: Vec<Packet> = std::iter::from_fn(|| Packet::alloc(Priority::Normal)).collect();
        let control: Vec<Packet> = std::iter::from_fn(|| Packet::alloc(Priority::Control)).collect();
        assert_eq!((normal.len(), control.len()), (2, 2));
    }

    #[test]
    fn buffers_are_reused_and_the_idle_list_is_bounded() {
        limit(100, 0, 2);
        let held: Vec<Packet> = (0..5).filter_map(|_| Packet::alloc(Priority::Normal)).collect();
        assert_eq!(stats().allocated, 5);
        drop(held);
        assert_eq!(stats().idle, 2);
        let held: Vec<Packet> = (0..3).filter_map(|_| Packet::alloc(Priority::Normal)).collect();
        assert_eq!((held.len(), stats().allocated, stats().idle), (3, 6, 0));
        limit(100, 0, 0);
        drop(held);
        assert_eq!(stats().idle, 0);
    }

    #[test]
    fn a_packet_dropped_abroad_is_no_longer_charged_to_its_home() {
        limit(2, 0, 8);
        let (send, receive) = mpsc::channel::<Packet>();
        #[allow(clippy::disallowed_methods)] // the point of the test is a second thread without a core
        let abroad = std::thread::spawn(move || {
            receive.iter().for_each(drop);
            let adopted = stats();
            // Taken and dropped again, a buffer is charged to its new home.
            drop(Packet::alloc(Priority::Normal));
            assert_eq!((stats().taken, stats().returned, stats().adopted), (1, 1, 2));
            adopted
        });
        let here: Vec<Packet> = (0..2).filter_map(|_| Packet::alloc(Priority::Normal)).collect();
        assert!(Packet::alloc(Priority::Normal).is_none());
        here.into_iter().for_each(|packet| send.send(packet).unwrap());
        drop(send);
        let abroad = abroad.join().unwrap();
        assert_eq!((abroad.adopted, abroad.idle, abroad.taken), (2, 2, 0));
        assert_eq!(stats().in_use(), 0);
        assert!(Packet::alloc(Priority::Normal).is_some());
    }
}
