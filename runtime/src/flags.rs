//! Who has put something into a core's rings: one bit for each peer, so that a core looks into no ring that is empty.
//!
//! ```text
//!   a peer, after it has put something into its ring      the core, in its turn
//!   a its bit = 1, released                               1 the bell's flag is taken (handshake.rs)
//!   b rings the bell (handshake.rs)                       2 all bits are taken, acquired
//!                                                         3 looks into the rings of those bits
//! ```
//!
//! What b says is seen by 1 or by the next turn, and who sees it sees a. `tests/handshake.rs` compiles this file against loom's
//! atomics together with the handshake.

use super::atomic::{AtomicU64, Ordering};

/// One bit for each of 64 peers.
#[derive(Debug)]
pub(crate) struct Flags(AtomicU64);

impl Flags {
    /// None is set.
    pub(crate) fn new() -> Self {
        Flags(AtomicU64::new(0))
    }

    /// A peer: there is something in its ring. Before it rings the bell.
    pub(crate) fn raise(&self, peer: usize) {
        self.0.fetch_or(1 << peer, Ordering::Release);
    }

    /// The core: is any bit set? A plain load.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// The core, about to look into the rings: whose bits are set. What comes later sets them again.
    pub(crate) fn take(&self) -> u64 {
        // The load first: the exchange locks the bus, and nearly always there is nothing.
        if self.any() { self.0.swap(0, Ordering::Acquire) } else { 0 }
    }
}
