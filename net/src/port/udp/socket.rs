//! One kernel socket and what its port remembers about it.

use crate::error::NetError;
use crate::packet::Packet;
use crate::socket::{Priority, SocketOptions};
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A bound, unconnected, non-blocking kernel socket.
pub(super) struct KernelSocket {
    pub(super) key: u64,
    pub(super) local: SocketAddrV4,
    pub(super) priority: Priority,
    /// Receive buffer that the kernel granted.
    pub(super) rcvbuf_bytes: usize,
    socket: UdpSocket,
    /// The last look at it left datagrams behind, or epoll said so.
    pub(super) readable: bool,
    /// Received with others in one message, and more than were asked for: at most those of one receipt, which is as short as the
    /// messages of the last one have been long.
    pub(super) waiting: VecDeque<Packet>,
    /// Datagrams in the longest message of the last receipt.
    pub(super) in_message: usize,
    /// The kernel had no room for its last packet.
    pub(super) blocked: bool,
    /// So many packets more go to the kernel one by one, since it has refused to cut a message into datagrams.
    pub(super) uncut_packets: usize,
    /// Epoll has been asked to tell when there is room.
    pub(super) watched_for_room: bool,
}

/// Sorts by priority, then address.
pub(super) fn key(priority: Priority, addr: SocketAddrV4) -> u64 {
    (priority as u64) << 48 | u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port())
}

impl KernelSocket {
    pub(super) fn bind(local: SocketAddrV4, options: &SocketOptions) -> Result<Self, NetError> {
        let socket = UdpSocket::bind(local).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => NetError::AddressInUse { addr: local },
            ErrorKind::AddrNotAvailable => NetError::AddressNotAvailable { addr: local },
            _ => NetError::Io { action: "bind a UDP socket", source: error },
        })?;
        socket.set_nonblocking(true).map_err(|source| NetError::Io { action: "make a socket non-blocking", source })?;
        let local = match socket.local_addr() {
            Ok(SocketAddr::V4(local)) => local,
            Ok(SocketAddr::V6(_)) => local, // a socket bound to an IPv4 address has one
            Err(source) => return Err(NetError::Io { action: "read a socket's address", source }),
        };
        let rcvbuf_bytes = size_receive_buffer(&socket, options.rcvbuf_bytes)?;
        take_uncut(&socket);
        Ok(KernelSocket {
            key: key(options.priority, local),
            local,
            priority: options.priority,
            rcvbuf_bytes,
            socket,
            readable: false,
            waiting: VecDeque::new(),
            in_message: 1,
            blocked: false,
            uncut_packets: 0,
            watched_for_room: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Datagrams that the kernel has dropped so far because the receive buffer was full. Costs a system call.
    pub(super) fn overrun(&self) -> u64 {
        // linux/sock_diag.h; libc does not name them.
        const SO_MEMINFO: libc::c_int = 55;
        const DROPS: usize = 8;
        let mut memory_info = [0u32; 9];
        let mut bytes = mem::size_of_val(&memory_info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes, the size of the array, and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                memory_info.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        // A kernel before 4.12 does not know and leaves the zero.
        if result == 0 { u64::from(memory_info[DROPS]) } else { 0 }
    }
}

/// Asks for `wanted_bytes` of receive buffer and returns what the kernel grants, in bytes of the same counting: it
/// reports twice that, to cover its own overhead.
fn size_receive_buffer(socket: &UdpSocket, wanted_bytes: usize) -> Result<usize, NetError> {
    // The first form goes beyond net.core.rmem_max and needs CAP_NET_ADMIN.
    sockopt::set_socket_recv_buffer_size_force(socket, wanted_bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, wanted_bytes))
        .and_then(|()| sockopt::socket_recv_buffer_size(socket))
        .map(|reported_bytes| reported_bytes / 2)
        .map_err(|errno| NetError::Io { action: "size a socket's receive buffer", source: errno.into() })
}

/// Has the kernel deliver in one message what it has in one piece. Before Linux 5.0 it does not know how, and each datagram comes alone.
fn take_uncut(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an integer, which outlives the call.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
}
