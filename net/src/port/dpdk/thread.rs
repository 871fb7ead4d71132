//! Makes a core's thread one that DPDK knows.

use super::{control, last_refusal};
use std::cell::OnceCell;

/// DPDK's number for a thread, by which the thread finds its own stock of mbufs in every pool. Given back when it ends.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: this thread was registered and is the one that ends.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

thread_local! {
    static REGISTRATION: OnceCell<Option<Registration>> = const { OnceCell::new() };
}

/// Registers the calling thread, unless it is known already: as the one that started DPDK, or from an earlier call. A thread that DPDK
/// refuses works as well, but each burst of it goes to the pool's shared ring; the log says so.
pub(super) fn register() {
    REGISTRATION.with(|registration| {
        registration.get_or_init(|| {
            // SAFETY: reads a variable of the calling thread.
            if unsafe { dpdk_sys::dpdk_shim_thread_known() } == 1 {
                return None;
            }
            let _control = control();
            // SAFETY: only code that holds an open device comes here, so DPDK runs.
            if unsafe { dpdk_sys::rte_thread_register() } != 0 {
                let error = last_refusal("register this thread");
                tracing::warn!(%error, "mbufs are taken from the pool's shared ring, which costs more");
                return None;
            }
            Some(Registration)
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::dpdk::{Eal, EalOptions};

    fn known() -> bool {
        // SAFETY: reads a variable of the calling thread.
        unsafe { dpdk_sys::dpdk_shim_thread_known() == 1 }
    }

    /// More threads one after the other than DPDK has numbers for: 128.
    #[test]
    fn threads_are_known_from_their_first_call_to_their_end() {
        let prefix = format!("threads-{}", std::process::id());
        let _eal = Eal::start(&EalOptions::new(&prefix)).expect("DPDK starts");
        assert!(known(), "the one that starts DPDK");
        for _ in 0..200 {
            #[allow(clippy::disallowed_methods, reason = "the threads are what is tested")]
            let thread = std::thread::spawn(|| {
                let before = known();
                register();
                register();
                (before, known())
            });
            assert_eq!(thread.join().ok(), Some((false, true)));
        }
    }
}
