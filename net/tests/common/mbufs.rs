//! That no mbuf is lost: what a test has taken from its pools is back when the test ends.

use std::cell::RefCell;
use trimaran_net::port::dpdk::{FrameQueue, Mempool};

thread_local! {
    static WATCHED: RefCell<Vec<Mempool>> = const { RefCell::new(Vec::new()) };
}

/// Looks at the pools of this thread's queues when it is dropped, by when their devices have to be closed. A test makes it before
/// anything else, so that it goes last.
pub(crate) struct Mbufs(());

impl Mbufs {
    pub(crate) fn watch() -> Mbufs {
        Mbufs(())
    }
}

/// Has the pool of `queue` looked at, too.
pub(crate) fn watched(queue: FrameQueue) -> FrameQueue {
    WATCHED.with_borrow_mut(|pools| pools.push(queue.pool().clone()));
    queue
}

impl Drop for Mbufs {
    fn drop(&mut self) {
        let in_use: Vec<u32> = WATCHED.take().iter().map(Mempool::in_use).collect();
        // A test that has failed says why itself.
        if !std::thread::panicking() {
            assert!(!in_use.is_empty(), "no pool was watched");
            assert!(in_use.iter().all(|mbufs| *mbufs == 0), "mbufs are lost, by pool: {in_use:?}");
        }
    }
}
