//! The end of a core that others send to: what they have put into their rings to it is dropped, whichever comes first.
//!
//! ```text
//!   the core, ending                     a peer, sending
//!   1 departed = true                    a puts a message into its ring
//!   2 fence                              b fence, that of the bell (handshake.rs)
//!   3 drops what is in the rings         c looks at departed: lets go of its end of the ring
//!   4 lets go of its ends of the rings
//! ```
//!
//! Of the two looks, 3 and c, at least one sees the other side's store, because each side puts a full fence between its store and
//! its look. So a message that 3 misses is in a ring whose ends are both let go of, and with the last of them it is dropped.
//! `tests/handshake.rs` compiles this file against loom's atomics together with the handshake.

use super::atomic::{AtomicBool, Ordering, fence};

/// Whether a core has ended. In a cache line of its own: peers look at it for each message, and write to what else they share.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Departure(AtomicBool);

impl Departure {
    /// The core is there.
    pub(crate) fn new() -> Self {
        Departure(AtomicBool::new(false))
    }

    /// The core, about to look into its rings for the last time: it takes nothing any more.
    pub(crate) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// A peer: has the core ended? A plain load. Of what was sent before, it tells reliably after the bell was rung.
    pub(crate) fn is_announced(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
