//! The packet sockets that a driver of DPDK's has opened for a device, found among this process's descriptors.
//!
//! The driver keeps them to itself, and polls. But a core that wants to sleep needs something that wakes it.

use rustix::net::sockopt;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Descriptors that are open now.
pub(super) fn open_descriptors() -> BTreeSet<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    // One of these is the directory itself, which is closed when this returns and harmless.
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The packet and XDP sockets that were opened since `before`, in the order of their queues: the kernel gives out the lowest number.
pub(super) fn opened_since(before: &BTreeSet<RawFd>) -> Vec<RawFd> {
    open_descriptors().difference(before).copied().filter(|fd| is_packet_socket(*fd)).collect()
}

fn is_packet_socket(fd: RawFd) -> bool {
    // SAFETY: a number that is no open descriptor is an error, here; nothing is changed or closed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let Ok(domain) = sockopt::socket_domain(fd) else { return false };
    matches!(i32::from(domain.as_raw()), libc::AF_PACKET | libc::AF_XDP)
}

/// Makes a packet socket receive what a device of frames should: any group, as long as the socket is open; and not what the kernel
/// itself sends by the same interface. What a socket refuses (an XDP socket all of it) is left as it is.
pub(super) fn widen(socket: BorrowedFd<'_>) {
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut bytes = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel fills at most so many bytes of the struct, in which any bytes are valid.
    let named = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &mut bytes) };
    if named != 0 || i32::from(address.sll_family) != libc::AF_PACKET {
        return;
    }
    let groups = libc::packet_mreq {
        mr_ifindex: address.sll_ifindex,
        mr_type: libc::PACKET_MR_ALLMULTI as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let (yes, level) = (1i32, libc::SOL_PACKET);
    // SAFETY: both options only read the value that they are shown, of the length they are told.
    let set = unsafe {
        [
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const groups).cast(),
                size_of_val(&groups) as libc::socklen_t,
            ),
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const yes).cast(),
                size_of_val(&yes) as libc::socklen_t,
            ),
        ]
    };
    tracing::debug!(?set, "options of a packet socket");
}
