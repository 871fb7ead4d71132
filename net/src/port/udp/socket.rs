//! One kernel socket and what its port remembers about it.

use crate::error::NetError;
use crate::socket::{Priority, SocketOptions};
use rustix::net::sockopt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// A bound, unconnected, non-blocking kernel socket.
pub(super) struct KernelSocket {
    pub(super) key: u64,
    pub(super) local: SocketAddrV4,
    pub(super) priority: Priority,
    socket: UdpSocket,
    /// The last look at it left datagrams behind, or epoll said so.
    pub(super) readable: bool,
    /// The kernel had no room for its last packet.
    pub(super) blocked: bool,
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
        size_receive_buffer(&socket, local, options.rcvbuf_bytes);
        Ok(KernelSocket {
            key: key(options.priority, local),
            local,
            priority: options.priority,
            socket,
            readable: false,
            blocked: false,
            watched_for_room: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for `wanted_bytes` of receive buffer and warns where the kernel grants less.
fn size_receive_buffer(socket: &UdpSocket, local: SocketAddrV4, wanted_bytes: usize) {
    // The first form goes beyond net.core.rmem_max and needs CAP_NET_ADMIN.
    let asked = sockopt::set_socket_recv_buffer_size_force(socket, wanted_bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, wanted_bytes));
    let granted = asked.and_then(|()| granted_receive_bytes(socket));
    match granted {
        Ok(granted_bytes) if granted_bytes >= wanted_bytes => {}
        Ok(granted_bytes) => tracing::warn!(
            %local, wanted_bytes, granted_bytes,
            "the kernel grants a smaller receive buffer, bursts of large requests will be lost; \
             allow it with: sysctl -w net.core.rmem_max={wanted_bytes}"
        ),
        Err(errno) => {
            tracing::warn!(%local, wanted_bytes, errno = %io::Error::from(errno), "cannot size the receive buffer")
        }
    }
}

/// The receive buffer in bytes of the caller's counting: the kernel reports twice that, to cover its own overhead.
fn granted_receive_bytes(socket: &UdpSocket) -> rustix::io::Result<usize> {
    Ok(sockopt::socket_recv_buffer_size(socket)? / 2)
}
