//! Where packets come from and go to: the seam below the sockets.

pub mod bundle;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod framed;
pub mod multihomed;
mod several;
pub mod sim;
pub mod udp;

use crate::burst::{Burst, PacketQueue};
use crate::error::NetError;
use crate::offload::Offloads;
use crate::socket::SocketOptions;
use crate::stack::MacAddr;
use crate::stats::PortStats;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use trimaran_runtime::Instant;

/// What a port can carry. Fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest payload of one datagram, in bytes.
    pub payload_bytes: usize,
}

/// What a port is, in words for those who operate it. What a port does not know is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortDescription {
    /// `udp` or `dpdk`.
    pub kind: String,
    /// The device's name.
    pub device: String,
    /// The device's driver.
    pub driver: String,
    /// Frames can pass.
    pub link_up: Option<bool>,
    /// How a core with nothing to do sleeps, as in "it sleeps ...".
    pub sleeps: String,
}

/// A device, or what stands for one. Owned by the [`NetDriver`](crate::NetDriver) of one core and called by it alone.
///
/// No call blocks but [`Port::park`]. Packets lost below this line are counted in [`Port::stats`].
pub trait Port {
    /// Called once on the core's own thread before the first turn.
    fn start(&mut self) {}

    /// Begins to receive datagrams for `local` and returns the address they carry; port 0 asks for a free one.
    fn bind(&mut self, local: SocketAddrV4, options: &SocketOptions) -> Result<SocketAddrV4, NetError>;

    /// Stops receiving for an address that [`Port::bind`] returned. What has not been taken is lost.
    fn unbind(&mut self, local: SocketAddrV4);

    /// Keeps `ip` reachable whatever strangers send, as far as that is this port's business: one with a neighbour table of its own pins it
    /// there ([`Stack::pin`](crate::Stack::pin)). `false` where it has no room for more of them, or no way there.
    fn pin(&mut self, ip: Ipv4Addr) -> bool {
        let _ = ip;
        true
    }

    /// Moves at most `max` packets (and no more than `out` has room for) to the end of `out`, and returns how many it
    /// took from the device. That includes those it had to drop, so a full count means that more may wait.
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize;

    /// Takes packets from the front of `queue`, at most one burst, and returns how many it took. Packets that it
    /// removed are sent or counted as lost; those that the device had no room for stay in the queue. Zero from a queue
    /// that is not empty means that trying again in this turn is useless.
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize;

    /// Blocks until a packet may be there, a device that was full may have room, `wake` is readable or `timeout` has
    /// passed. May return early. Every call of one core passes the same `wake`.
    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>);

    /// What the port can carry.
    fn capabilities(&self) -> Capabilities;

    /// What it has carried and lost.
    fn stats(&self) -> PortStats;

    /// Tells what it has counted beyond that, each with a name of its own. May be slow.
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        let _ = tell;
    }

    /// What it is, for those who operate it. May be slow.
    fn describe(&self) -> PortDescription {
        PortDescription::default()
    }

    /// When the next packet arrives, where that can be known.
    fn next_arrival(&self) -> Option<Instant> {
        None
    }
}

/// A device that carries Ethernet frames, without their check sequence. [`framed::Framed`] makes a [`Port`] of it.
///
/// It hands over frames for its own address, for everybody and for any group; the stack sorts them. It pads what is too
/// short for its link. The methods that it shares with [`Port`] mean the same, with frames in place of datagrams: the
/// payload of a packet is the frame, its addresses mean nothing.
pub trait FramePort {
    /// As [`Port::start`].
    fn start(&mut self) {}

    /// Its own address. Fixed for its life.
    fn mac(&self) -> MacAddr;

    /// Longest frame, header included, in bytes. Fixed for its life.
    fn frame_bytes(&self) -> usize;

    /// Which checksums it fills in: those, and no others, may be left to it. Fixed for its life. On receipt it says of each frame
    /// what it knows ([`Packet::checksums`](crate::Packet::checksums)).
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    /// As [`Port::rx_burst`].
    fn rx_burst(&mut self, now: Instant, max: usize, out: &mut Burst) -> usize;

    /// As [`Port::tx_burst`].
    fn tx_burst(&mut self, now: Instant, queue: &mut PacketQueue) -> usize;

    /// As [`Port::park`].
    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>);

    /// In place of [`FramePort::park`] where one core sleeps on several devices: prepares for a sleep, and says how long that may last at
    /// most. Zero where the device has to be looked at once more instead, as is always so for one that knows nothing of such sleeps.
    fn prepare_sleep(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    /// What becomes readable during such a sleep when a frame has come. Always the same.
    fn sleep_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// It has become readable.
    fn woken(&mut self) {}

    /// What it has carried and lost, in frames.
    fn stats(&self) -> PortStats;

    /// As [`Port::counters`].
    fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        let _ = tell;
    }

    /// As [`Port::describe`].
    fn describe(&self) -> PortDescription {
        PortDescription::default()
    }

    /// As [`Port::next_arrival`].
    fn next_arrival(&self) -> Option<Instant> {
        None
    }
}

/// Lets the calling thread's sleeps end when they should. The kernel's default slack of 50 us would be added to each.
fn lower_timer_slack() {
    if let Err(errno) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::warn!(%errno, "cannot lower this thread's timer slack: timers are up to 50 us late");
    }
}
