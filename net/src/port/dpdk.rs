//! Frames from DPDK's devices: whole Ethernet frames in bursts, polled, without the kernel in between. Feature `dpdk`.
//!
//! ```text
//!   Eal::start ---> Mempool ---> Device::open ---> one FrameQueue for each core
//!   once a process  mbufs        a virtual device  rx_burst, tx_burst of Packets over mbufs
//! ```
//!
//! * [`setup`], [`spec`]: all of it in one call, from a name as people write it
//! * [`preflight`]: what the machine lacks, with the command that mends it, before DPDK is asked
//! * [`eal`]: DPDK itself, started once in the life of a process
//! * [`mempool`], `mbuf`: packets whose bytes the device reads and writes in place
//! * [`device`], `opened`, [`queue`]: a device, and the pair of queues by which one core uses it
//! * [`info`]: what it is and can do, and the rules it can be given
//! * [`status`]: its link, and the driver's own statistics
//! * [`sleep`], `interrupt`: what wakes a core whose queue is empty
//!
//! A [`FrameQueue`] is a [`FramePort`](crate::FramePort): the addresses of its packets mean nothing, and the payload begins with the
//! Ethernet header. [`DpdkPort`] puts the stack on top, so that sockets can use it.
//!
//! [`FrameTap`](crate::FrameTap) around a queue writes down what passes it. DPDK's own dpdk-dumpcap does not work with a process of
//! ours: it attaches as a second process, for which this one would have to run on huge pages, without `--no-shconf`, and call
//! `rte_pdump_init` of librte_pdump.
//!
//! af_packet asks the kernel to join fragments before it hands frames over (PACKET_FANOUT_FLAG_DEFRAG): a datagram that came in parts arrives
//! whole there, and may be longer than the link's frames. What a filter of the kernel drops where af_packet puts it out (nftables'
//! netdev egress), the kernel sends again: to lose frames, drop them behind that.
//!
//! A kernel that sends by a virtual interface (veth, tap) leaves UDP's checksum to a card that never comes, and the stack drops what
//! arrives so. Turn that off where kernel sockets talk to a DPDK port: `ethtool -K <the sender's end> tx off`.

pub mod device;
pub mod eal;
pub mod info;
mod interface;
mod interrupt;
pub(crate) mod mbuf;
pub mod mempool;
mod opened;
pub mod preflight;
pub mod queue;
pub mod setup;
pub mod sleep;
mod sockets;
pub mod spec;
pub mod status;
mod thread;

pub use device::{Device, DeviceConfig, DeviceStats, SocketRole, Vdev};
pub use eal::{Eal, EalOptions, Memory};
pub use info::DeviceInfo;
pub use mempool::Mempool;
pub use preflight::Lack;
pub use queue::FrameQueue;
pub use setup::{OpenOptions, open, open_links};
pub use sleep::SleepKind;
pub use spec::{DeviceSpec, PciAddress};
pub use status::{LinkState, LinkWatch, Xstat};

use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Datagrams over one queue of a device.
pub type DpdkPort = crate::port::framed::Framed<FrameQueue>;

/// Why DPDK, a pool or a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// The machine lacks something; likely nobody has set it up yet. The message ends with the command that does.
    #[error(transparent)]
    Lacking(#[from] Lack),
    /// DPDK starts once in a process, and was started, or failed to start, before. A mistake in this program.
    #[error("DPDK was started in this process before")]
    StartedBefore,
    /// A name with a zero byte, a comma or nothing in it, or longer than DPDK allows.
    #[error(
        "`{name}` cannot be the name of something in DPDK: use 1 to 24 (a device: 15) letters, digits, `_` and `-`"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A socket's name that DPDK would read as something else.
    #[error("`{socket}` cannot be where two devices meet: use 1 to 100 letters, digits, `_`, `-`, `.` and `/`")]
    BadSocket {
        /// The name.
        socket: String,
    },
    /// A capture that cannot be played or made.
    #[error("cannot use the capture `{file}`: {reason}")]
    BadFile {
        /// Its path.
        file: String,
        /// Why.
        reason: String,
    },
    /// Not the name of a device.
    #[error(
        "`{text}` names no device of DPDK's: write net_af_packet0,iface=eth0 or a card's address such as 0000:03:00.0"
    )]
    BadDevice {
        /// What was written.
        text: String,
    },
    /// An open device of this process has the name.
    #[error("there is a device {name} already")]
    NameInUse {
        /// The name, with its driver's in front.
        name: String,
    },
    /// The device has fewer queues than were asked for.
    #[error("{device} has {limit} queues, not {wanted}")]
    TooManyQueues {
        /// The device's name.
        device: String,
        /// Asked for; none at all is also wrong.
        wanted: u16,
        /// What it has.
        limit: u16,
    },
    /// More than the device carries, or than fits into a packet's buffer.
    #[error("{device} carries {limit} bytes in a frame at most, not {wanted}: lower the MTU")]
    MtuTooLarge {
        /// The device's name.
        device: String,
        /// Asked for, in bytes.
        wanted: u16,
        /// The largest there is, in bytes.
        limit: u16,
    },
    /// DPDK refused for a reason of its own.
    #[error("cannot {action}: {reason}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// What DPDK calls the reason.
        reason: String,
    },
}

/// DPDK's calls that change devices and pools are not made for many threads at once; whoever makes one holds this.
fn control() -> MutexGuard<'static, ()> {
    static CONTROL: Mutex<()> = Mutex::new(());
    // It guards no data that a panic could have left half changed.
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of one of DPDK's calls: zero or more is good, an error is its number negated.
fn checked(action: &'static str, result: i32) -> Result<i32, DpdkError> {
    if result >= 0 { Ok(result) } else { Err(refused(action, result.saturating_neg())) }
}

/// The reason that DPDK has left in its errno for this thread.
fn last_refusal(action: &'static str) -> DpdkError {
    // SAFETY: reads one variable of the calling thread.
    let errno = unsafe { dpdk_sys::dpdk_shim_errno() };
    refused(action, errno)
}

fn refused(action: &'static str, errno: i32) -> DpdkError {
    // SAFETY: any number may be asked about; the answer is a string that is never null and valid until this thread asks again.
    let reason = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(errno)) };
    DpdkError::Refused { action, reason: reason.to_string_lossy().into_owned() }
}

/// A name that DPDK takes for pools, devices and files. Its own limits are 25 characters and more.
fn checked_name(name: &str) -> Result<CString, DpdkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let good = (1..=24).contains(&name.len()) && name.chars().all(plain);
    let c_name = CString::new(name).ok().filter(|_| good);
    c_name.ok_or_else(|| DpdkError::BadName { name: name.to_owned() })
}
