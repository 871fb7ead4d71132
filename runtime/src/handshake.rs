//! The handshake that loses no wake between a core that falls asleep and a thread that brings it work.
//!
//! ```text
//!   the core, going to sleep            another thread, waking a task of it
//!   1 state = SLEEPING                  a puts the task into the inbox, ready = true
//!   2 fence                             b fence
//!   3 looks at ready: work? stay awake  c looks at state: SLEEPING? write the eventfd
//!   4 sleeps on the eventfd
//! ```
//!
//! Of the two looks, 3 and c, at least one sees the other side's store, because each side puts a full fence between its
//! store and its look. So either the core stays awake or the eventfd is written; a running core costs the waker no
//! system call. `tests/handshake.rs` compiles this file against loom's atomics and tries the interleavings.

use super::atomic::{AtomicBool, AtomicU8, Ordering, fence};

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const WOKEN: u8 = 2;

/// The state that both sides share.
#[derive(Debug)]
pub(crate) struct Handshake {
    state: AtomicU8,
    ready: AtomicBool,
}

impl Handshake {
    /// Awake, without work.
    pub(crate) fn new() -> Self {
        Handshake { state: AtomicU8::new(AWAKE), ready: AtomicBool::new(false) }
    }

    /// Any thread, after it has put work into the inbox. True: the core may be asleep, and this caller, no other, must
    /// end its sleep. A full fence for the caller, too: departure.rs counts on it.
    pub(crate) fn ring(&self) -> bool {
        // An exchange, not a store: a store would hide the one of a waker just before from the core, and with it what that
        // one put into the inbox.
        self.ready.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        self.state.compare_exchange(SLEEPING, WOKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The core: is there work in the inbox? A plain load.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The core, about to look into the inbox: is there work? What comes later rings again.
    pub(crate) fn take_ready(&self) -> bool {
        // The load first: the exchange locks the bus, and nearly always there is nothing.
        self.is_ready() && self.ready.swap(false, Ordering::AcqRel)
    }

    /// The core: true if it may sleep now. In either case it must call [`Handshake::rise`] afterwards.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.store(SLEEPING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.is_ready()
    }

    /// The core is awake. True where another thread has ended the sleep, or is about to.
    pub(crate) fn rise(&self) -> bool {
        self.state.swap(AWAKE, Ordering::AcqRel) == WOKEN
    }
}
