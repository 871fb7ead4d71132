//! Many datagrams per system call: `recvmmsg` and `sendmmsg` behind a safe face.

use super::BATCH_PACKETS;
use crate::burst::PacketQueue;
use crate::packet::Packet;
use libc::{AF_INET, MSG_DONTWAIT, MSG_TRUNC, c_int, c_uint, iovec, mmsghdr, sockaddr_in, socklen_t};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// The arrays that the kernel reads and fills, reused from call to call. The pointers in them are set anew before each
/// call and never followed after it.
pub(super) struct Mmsg {
    headers: Box<[mmsghdr; BATCH_PACKETS]>,
    vectors: Box<[iovec; BATCH_PACKETS]>,
    names: Box<[sockaddr_in; BATCH_PACKETS]>,
}

const NAME_BYTES: socklen_t = mem::size_of::<sockaddr_in>() as socklen_t;

impl Mmsg {
    pub(super) fn new() -> Self {
        // SAFETY: all three are plain C structs of integers and raw pointers, for which zero bytes are a valid value.
        unsafe {
            Mmsg { headers: Box::new(mem::zeroed()), vectors: Box::new(mem::zeroed()), names: Box::new(mem::zeroed()) }
        }
    }

    /// Receives into the first of `slots`, at most [`BATCH_PACKETS`], and returns how many were filled. Their payload
    /// and sender are set. Never blocks: an empty socket is `WouldBlock`.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, slots: &mut [Packet]) -> io::Result<usize> {
        let count = slots.len().min(BATCH_PACKETS);
        for (at, slot) in slots.iter_mut().take(count).enumerate() {
            slot.clear();
            let spare = slot.spare_mut();
            self.vectors[at] = iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() };
            self.point_header(at);
        }
        // SAFETY: the first `count` headers point to one iovec and one name each, owned by `self`, and the iovecs to the
        // tail rooms of distinct packets borrowed mutably for the whole call; the lengths are those of the buffers.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as c_uint,
                MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = counted(received)?;
        for (at, slot) in slots.iter_mut().take(received).enumerate() {
            let header = &self.headers[at];
            // The kernel writes no more than the tail room it was shown.
            let fits = slot.claim(header.msg_len as usize);
            debug_assert_eq!(fits, Ok(()));
            slot.set_src(address(&self.names[at]));
        }
        Ok(received)
    }

    /// Datagram `at` of the last [`Mmsg::receive`] was longer than its buffer; the rest of it is lost.
    pub(super) fn truncated(&self, at: usize) -> bool {
        self.headers[at].msg_hdr.msg_flags & MSG_TRUNC != 0
    }

    /// Sends the first `count` packets of `queue`, at most [`BATCH_PACKETS`], to their destinations, and returns how
    /// many the kernel took. They stay in the queue. An error is about the first packet, or about the socket.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, queue: &PacketQueue, count: usize) -> io::Result<usize> {
        let mut filled = 0;
        for (at, packet) in queue.iter().take(count.min(BATCH_PACKETS)).enumerate() {
            let data = packet.data();
            self.vectors[at] = iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
            self.names[at] = name(packet.dst());
            self.point_header(at);
            filled = at + 1;
        }
        // SAFETY: the first `filled` headers point to one iovec and one name each, owned by `self`, and the iovecs to the
        // payloads of packets borrowed for the whole call, which sendmmsg only reads.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), filled as c_uint, MSG_DONTWAIT) };
        counted(sent)
    }

    fn point_header(&mut self, at: usize) {
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = (&raw mut self.names[at]).cast();
        header.msg_namelen = NAME_BYTES;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        header.msg_flags = 0;
    }
}

fn counted(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn address(name: &sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)), u16::from_be(name.sin_port))
}

fn name(addr: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_family: AF_INET as libc::sa_family_t,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: addr.ip().to_bits().to_be() },
        sin_zero: [0; 8],
    }
}
