//! A receive queue's interrupt: armed before a sleep, taken back when frames come.
//!
//! A frame that came before the interrupt was armed raises none. So whoever arms it looks at the queue again before it sleeps:
//! [`RxInterrupt::arm`] says when.

use super::PciAddress;
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;
use trimaran_runtime::Instant;

/// How long after a frame no interrupt is waited for that comes late. Longer than the pauses of a conversation, much shorter than those
/// of an idle cluster.
const LINGER: Duration = Duration::from_millis(2);
/// Drivers that let a card interrupt only every 17 ms, too late for the answer to what was just sent.
const LATE_DRIVERS: [&str; 1] = ["net_e1000_em"];

/// Vendor and device, as /sys has them, of cards with MSI-X that DPDK's driver does not know how to program (Intel 82574).
const WITHOUT_MSIX: [(&str, &str); 2] = [("0x8086", "0x10d3"), ("0x8086", "0x10f6")];

/// The card's interrupts come by MSI only.
pub(super) fn is_without_msix(address: PciAddress) -> bool {
    let read = |name| std::fs::read_to_string(format!("/sys/bus/pci/devices/{address}/{name}")).unwrap_or_default();
    let (vendor, device) = (read("vendor"), read("device"));
    WITHOUT_MSIX.contains(&(vendor.trim(), device.trim()))
}

/// The interrupt of one queue. Belongs to whoever polls the queue.
#[derive(Debug)]
pub(super) struct RxInterrupt {
    port: u16,
    queue: u16,
    fd: RawFd,
    armed: bool,
    /// It comes late, by the driver's design.
    late: bool,
    /// When frames came last.
    last: Option<Instant>,
    /// The driver has refused it once.
    broken: bool,
}

impl RxInterrupt {
    /// The interrupt of a queue of a port that runs and must go on running for as long as this is used; `None` where it has none.
    pub(super) fn of_queue(port: u16, queue: u16, driver: &str) -> Option<RxInterrupt> {
        // SAFETY: the port runs; the call reads a descriptor's number, negative where there is none.
        let fd = unsafe { dpdk_sys::rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue) };
        let mut interrupt = RxInterrupt {
            port,
            queue,
            fd,
            armed: false,
            late: LATE_DRIVERS.contains(&driver),
            last: None,
            broken: fd < 0,
        };
        // Some drivers have a descriptor and yet nothing that would ring it.
        let works = !interrupt.broken && interrupt.arm();
        interrupt.disarm();
        (works && !interrupt.broken).then_some(interrupt)
    }

    /// Readable when the interrupt has come. The driver's; open as long as the port runs.
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Arms it, unless it is. `true`: it was not, so look at the queue again before you sleep.
    pub(super) fn arm(&mut self) -> bool {
        if self.armed || self.broken {
            return false;
        }
        // SAFETY: the port runs, and the queue is the caller's.
        if unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.port, self.queue) } < 0 {
            tracing::warn!(
                port = self.port,
                queue = self.queue,
                "the device refuses its interrupt: its core sleeps in naps"
            );
            self.broken = true;
        }
        self.armed = !self.broken;
        true
    }

    /// Frames have come: no more interrupts until the next sleep. Costs a branch where none was armed.
    #[inline]
    pub(super) fn frames_came(&mut self, now: Instant) {
        self.last = Some(now);
        self.disarm();
    }

    /// It would come too late for frames that are to be expected now: look for them instead.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.late && !self.armed && self.last.is_some_and(|last| now.saturating_since(last) < LINGER)
    }

    fn disarm(&mut self) {
        if self.armed {
            self.armed = false;
            // SAFETY: as above. A driver that cannot disarm it sends interrupts that nobody waits for.
            let _ = unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(self.port, self.queue) };
        }
    }

    /// The descriptor is readable: takes the event from it, so that it rings again.
    pub(super) fn take(&mut self) {
        // SAFETY: the driver keeps the descriptor open while the port runs.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // Eight bytes of an eventfd (vfio), four of a file of uio's, which takes nothing else.
        if rustix::io::read(fd, &mut [0u8; 8]) == Err(Errno::INVAL) {
            let _ = rustix::io::read(fd, &mut [0u8; 4]);
        }
        self.disarm();
    }
}
