//! The packet sockets and tap descriptors that a driver of DPDK's has opened for a device, found among this process's own.
//!
//! The driver keeps them to itself, and polls. But a core that wants to sleep needs something that wakes it.

use rustix::net::sockopt;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

/// Descriptors that are open now.
pub(super) fn open_descriptors() -> BTreeSet<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    // One of these is the directory itself, which is closed when this returns and harmless.
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What was opened since `before` to receive by, in the order of the queues, since the kernel gives out the lowest number: packet sockets,
/// XDP sockets, or the ends of taps.
pub(super) fn opened_since(before: &BTreeSet<RawFd>) -> Vec<RawFd> {
    let opened: Vec<RawFd> = open_descriptors().difference(before).copied().collect();
    let sockets: Vec<RawFd> = opened.iter().copied().filter(|fd| is_packet_socket(*fd)).collect();
    if !sockets.is_empty() {
        return sockets;
    }
    // The driver duplicates each of them, to send by.
    opened.into_iter().filter(|fd| is_tap(*fd)).step_by(2).collect()
}

fn is_packet_socket(fd: RawFd) -> bool {
    let mut domain: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // A number and not a `BorrowedFd`, which would have to be open: one of the list is closed again.
    // SAFETY: the kernel fills one number, or says that the descriptor is closed or no socket.
    let told = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &mut bytes) };
    told == 0 && matches!(domain, libc::AF_PACKET | libc::AF_XDP)
}

/// The end of a tap that carries frames. The driver has another one, by which it keeps the interface, and which is detached.
fn is_tap(fd: RawFd) -> bool {
    // SAFETY: a plain C struct of integers and pointers, for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills one such struct with a name and flags, or says that the descriptor is nothing of the kind.
    let flags = unsafe {
        if libc::ioctl(fd, libc::TUNGETIFF, &mut request) != 0 {
            return false;
        }
        i32::from(request.ifr_ifru.ifru_flags)
    };
    flags & libc::IFF_TAP != 0 && flags & libc::IFF_DETACH_QUEUE == 0
}

/// The socket of one queue. It belongs to the driver, and is open for as long as the device is.
#[derive(Debug)]
pub(super) struct QueueSocket {
    fd: RawFd,
    /// Frames that the kernel had no room for, as far as it was asked: it forgets them when it has told them.
    dropped: Cell<u64>,
}

impl QueueSocket {
    /// # Safety
    ///
    /// `fd` must be an open socket until this is dropped.
    pub(super) unsafe fn new(fd: RawFd) -> QueueSocket {
        QueueSocket { fd, dropped: Cell::new(0) }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open, as `new` demands.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// Makes a packet socket receive what a device of frames should: any group, as long as the socket is open; and not what the kernel
    /// itself sends by the same interface. What a socket refuses (an XDP socket all of it) is left as it is.
    pub(super) fn widen(&self) {
        // SAFETY: a plain C struct of integers, for which zero bytes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut bytes = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel fills at most so many bytes of the struct, in which any bytes are valid.
        let named = unsafe { libc::getsockname(self.fd, (&raw mut address).cast(), &mut bytes) };
        if named != 0 || i32::from(address.sll_family) != libc::AF_PACKET {
            return;
        }
        let groups = libc::packet_mreq {
            mr_ifindex: address.sll_ifindex,
            mr_type: libc::PACKET_MR_ALLMULTI as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let done = (self.set(libc::PACKET_ADD_MEMBERSHIP, &groups), self.set(libc::PACKET_IGNORE_OUTGOING, &1i32));
        if done != (true, true) {
            tracing::warn!(?done, "a packet socket hears no groups, or what the kernel itself sends");
        }
    }

    /// Sets an option whose value is of the C type `T`.
    fn set<T>(&self, option: libc::c_int, value: &T) -> bool {
        // SAFETY: the kernel only reads the value, of the length that it is told.
        let set = unsafe {
            let bytes = size_of::<T>() as libc::socklen_t;
            libc::setsockopt(self.fd, libc::SOL_PACKET, option, (&raw const *value).cast(), bytes)
        };
        set == 0
    }

    /// Takes an error from the socket (its interface went down, say), which would end every later sleep at once. `false` where it stays:
    /// a tap whose interface is gone.
    pub(super) fn clear_error(&self) -> bool {
        let error = sockopt::socket_error(self.as_fd());
        tracing::warn!(?error, "a device's packet socket reports an error");
        error.is_ok()
    }

    /// Frames that the kernel had no room for since the device was opened; of XDP sockets the driver itself tells. A system call.
    pub(super) fn dropped(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut bytes = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel fills at most so many bytes of the struct, in which any bytes are valid.
        let told = unsafe {
            let stats = (&raw mut stats).cast();
            libc::getsockopt(self.fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, stats, &mut bytes)
        };
        if told == 0 {
            self.dropped.set(self.dropped.get() + u64::from(stats.tp_drops));
        }
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::os::fd::AsRawFd;

    /// The list has the directory's own descriptor, which is closed by then.
    #[test]
    fn a_number_that_is_closed_or_something_else_is_no_socket_of_packets() {
        let udp = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        let closed = RawFd::MAX;
        for number in [udp.as_raw_fd(), closed, -1] {
            assert!(!is_packet_socket(number) && !is_tap(number), "{number}");
        }
        let packets = socket(AddressFamily::PACKET, SocketType::DGRAM, None);
        // Root's alone.
        assert!(packets.is_err() || packets.is_ok_and(|packets| is_packet_socket(packets.as_raw_fd())));
    }
}
