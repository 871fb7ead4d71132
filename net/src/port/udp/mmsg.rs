//! Many datagrams per system call: `recvmmsg` and `sendmmsg` behind a safe face.
//!
//! Datagrams of one length that follow upon each other to one address are given to the kernel as one message to be cut
//! (UDP_SEGMENT): it then looks for the route once, and carries one buffer through its layers. On the wire nothing is different. Nor are
//! they cut where they never leave the machine, or come from a card that puts together what belongs together: a socket that says so
//! (UDP_GRO) is given all in one message. What of it does not fit into a packet's buffer lies in one behind that.

use super::BATCH_PACKETS;
use crate::burst::PacketQueue;
use crate::packet::{Packet, ROOM_BYTES};
use libc::{
    AF_INET, MSG_CTRUNC, MSG_DONTWAIT, MSG_TRUNC, c_int, c_uint, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_in,
    socklen_t,
};
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
    controls: Box<[SegmentControl; BATCH_PACKETS]>,
    /// Packets in each message of the last send.
    packets: [u8; BATCH_PACKETS],
    inbound: Box<[Inbound; RECEIVED_MAX]>,
    /// Of each message to be received, what is beyond its slot. The kernel gives pages to it as they are needed.
    rests: Box<[u8]>,
}

/// Messages of one receipt, at most. Each may hold many datagrams.
pub(super) const RECEIVED_MAX: usize = 16;
/// No message is longer.
const REST_BYTES: usize = 1 << 16;
/// From the beginning of one rest to that of the next: not a multiple of the caches' sets.
const REST_STRIDE: usize = REST_BYTES + 320;

/// What a message to be received is made of beside its slot.
#[repr(C)]
struct Inbound {
    vectors: [iovec; 2],
    control: ReceivedControl,
}

/// The control message that tells where the kernel has not cut.
#[repr(C)]
struct ReceivedControl {
    header: cmsghdr,
    segment_bytes: c_int,
    padding: [u8; 4],
}

/// A message that was received: datagrams of one length, the last of which may be shorter, from one sender.
pub(super) struct Received<'a> {
    /// What the slot had no room for: it begins where that ends.
    pub(super) rest: &'a [u8],
    /// Bytes of all datagrams.
    pub(super) bytes: usize,
    /// Bytes of each but the last.
    pub(super) segment_bytes: usize,
    /// Something is missing.
    pub(super) truncated: bool,
}

/// Datagrams in one message: what Linux cuts and joins at most.
const DATAGRAMS_MAX: usize = 128;

impl Received<'_> {
    /// How many datagrams it holds. It is to be dropped, and that many are lost, where they do not fit into packets or are more than a
    /// kernel joins: a guest, or whoever owns a tunnel, may hand in what it likes.
    pub(super) fn datagrams(&self) -> Result<usize, usize> {
        let datagrams = self.bytes.div_ceil(self.segment_bytes.max(1)).max(1);
        let is_sound = !self.truncated && self.segment_bytes <= ROOM_BYTES && datagrams <= DATAGRAMS_MAX;
        if is_sound { Ok(datagrams) } else { Err(datagrams) }
    }
}

/// Packets in one message to be cut, at most: 44 full ones stay below the 64 KiB of a datagram.
pub(super) const SEGMENTS_MAX: u8 = 44;
/// Bytes of such a message.
const SEGMENTS_BYTES_MAX: usize = 44 * 1472;

/// The control message that tells the kernel where to cut.
#[repr(C)]
struct SegmentControl {
    header: cmsghdr,
    segment_bytes: u16,
    padding: [u8; 6],
}

const NAME_BYTES: socklen_t = mem::size_of::<sockaddr_in>() as socklen_t;

impl Mmsg {
    pub(super) fn new() -> Self {
        // SAFETY: all five are plain C structs of integers and raw pointers, for which zero bytes are a valid value.
        unsafe {
            Mmsg {
                headers: Box::new(mem::zeroed()),
                vectors: Box::new(mem::zeroed()),
                names: Box::new(mem::zeroed()),
                controls: Box::new(mem::zeroed()),
                packets: [0; BATCH_PACKETS],
                inbound: Box::new(mem::zeroed()),
                rests: vec![0; RECEIVED_MAX * REST_STRIDE].into_boxed_slice(),
            }
        }
    }

    /// Receives a message into each of the first of `slots`, at most [`RECEIVED_MAX`], and returns how many were filled. Their payload,
    /// as far as they have room for it, and their sender are set; [`Mmsg::received`] has the rest. Never blocks: an empty socket is
    /// `WouldBlock`.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, slots: &mut [Packet]) -> io::Result<usize> {
        let count = slots.len().min(RECEIVED_MAX);
        let rests = self.rests.chunks_exact_mut(REST_STRIDE);
        for ((at, slot), rest) in slots.iter_mut().take(count).enumerate().zip(rests) {
            slot.clear();
            let (spare, inbound) = (slot.spare_mut(), &mut self.inbound[at]);
            inbound.vectors = [spare, &mut rest[..REST_BYTES]]
                .map(|part| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
            let header = &mut self.headers[at].msg_hdr;
            point(header, &mut self.names[at], &mut inbound.vectors);
            header.msg_control = (&raw mut inbound.control).cast();
            header.msg_controllen = mem::size_of::<ReceivedControl>();
        }
        // SAFETY: the first `count` headers point to two iovecs, a name and a control message each, owned by `self`, and the iovecs to the
        // tail rooms of distinct packets borrowed mutably for the whole call and to distinct parts of `rests`; the lengths are those of
        // the buffers.
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
            // The kernel writes no more than the tail room that it was shown, and into the rest after that only.
            let fits = slot.claim(slot.room().min(self.headers[at].msg_len as usize));
            debug_assert_eq!(fits, Ok(()));
            slot.set_src(address(&self.names[at]));
        }
        Ok(received)
    }

    /// Message `at` of the last [`Mmsg::receive`], whose slot has so many bytes of it.
    pub(super) fn received(&self, at: usize, slot_bytes: usize) -> Received<'_> {
        let (header, control) = (&self.headers[at], &self.inbound[at].control);
        let bytes = header.msg_len as usize;
        let is_told = header.msg_hdr.msg_controllen >= mem::offset_of!(ReceivedControl, padding)
            && (control.header.cmsg_level, control.header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        let told = usize::try_from(control.segment_bytes).ok().filter(|segment_bytes| is_told && *segment_bytes > 0);
        let rest = &self.rests[at * REST_STRIDE..][..REST_BYTES];
        Received {
            rest: &rest[..bytes.saturating_sub(slot_bytes).min(REST_BYTES)],
            bytes,
            segment_bytes: told.unwrap_or(bytes).min(bytes),
            truncated: header.msg_hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC) != 0,
        }
    }

    /// Sends the first `count` packets of `queue`, at most [`BATCH_PACKETS`], to their destinations, and returns how
    /// many the kernel took. They stay in the queue. An error is about the first message, or about the socket; how many packets
    /// are in that message, [`Mmsg::first_packets`] tells. Without `cut` each has one.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        queue: &PacketQueue,
        count: usize,
        cut: bool,
    ) -> io::Result<usize> {
        let (mut filled, mut messages) = (0, 0);
        let mut packets = queue.iter().take(count.min(BATCH_PACKETS)).peekable();
        while let Some(first) = packets.next() {
            let (to, segment_bytes, start) = (first.dst(), first.len(), filled);
            let (mut last_bytes, mut bytes) = (segment_bytes, segment_bytes);
            self.vectors[filled] = vector(first);
            filled += 1;
            // All but the last have the same length, and the last is no longer.
            while cut
                && last_bytes == segment_bytes
                && let Some(next) = packets.next_if(|next| {
                    next.dst() == to
                        && (1..=segment_bytes).contains(&next.len())
                        && bytes + next.len() <= SEGMENTS_BYTES_MAX
                        && filled - start < usize::from(SEGMENTS_MAX)
                })
            {
                last_bytes = next.len();
                bytes += last_bytes;
                self.vectors[filled] = vector(next);
                filled += 1;
            }
            self.names[messages] = name(to);
            self.packets[messages] = (filled - start) as u8; // at most SEGMENTS_MAX
            let header = &mut self.headers[messages].msg_hdr;
            point(header, &mut self.names[messages], &mut self.vectors[start..filled]);
            if filled - start > 1 {
                let control = &mut self.controls[messages];
                control.header.cmsg_level = libc::SOL_UDP;
                control.header.cmsg_type = libc::UDP_SEGMENT;
                control.header.cmsg_len = mem::offset_of!(SegmentControl, padding);
                control.segment_bytes = segment_bytes as u16; // a packet's length fits
                header.msg_control = (&raw mut *control).cast();
                header.msg_controllen = mem::size_of::<SegmentControl>();
            }
            messages += 1;
        }
        // SAFETY: the first `messages` headers point to one name each, to iovecs and, where they have a control message, to that,
        // all owned by `self`, and the iovecs to the payloads of packets borrowed for the whole call, which sendmmsg only reads.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), messages as c_uint, MSG_DONTWAIT) };
        let sent = counted(sent)?;
        Ok(self.packets[..sent].iter().map(|packets| usize::from(*packets)).sum())
    }

    /// Packets in the first message of the last [`Mmsg::send`].
    pub(super) fn first_packets(&self) -> usize {
        usize::from(self.packets[0])
    }
}

/// Has a header tell of the sender's or receiver's address and of the bytes, and of nothing else.
fn point(header: &mut msghdr, name: &mut sockaddr_in, vectors: &mut [iovec]) {
    header.msg_name = (&raw mut *name).cast();
    header.msg_namelen = NAME_BYTES;
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    header.msg_control = ptr::null_mut();
    header.msg_controllen = 0;
    header.msg_flags = 0;
}

fn vector(packet: &Packet) -> iovec {
    let data = packet.data();
    iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
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

// As the kernel's CMSG_LEN and CMSG_SPACE of two bytes would have it.
const _: () = assert!(mem::offset_of!(SegmentControl, padding) == mem::size_of::<cmsghdr>() + 2);
const _: () = assert!(mem::size_of::<SegmentControl>().is_multiple_of(mem::align_of::<cmsghdr>()));
// And of an integer.
const _: () = assert!(mem::offset_of!(ReceivedControl, padding) == mem::size_of::<cmsghdr>() + mem::size_of::<c_int>());
const _: () = assert!(mem::size_of::<ReceivedControl>().is_multiple_of(mem::align_of::<cmsghdr>()));

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: usize, segment_bytes: usize) -> Received<'static> {
        Received { rest: &[], bytes, segment_bytes, truncated: false }
    }

    #[test]
    fn a_message_holds_as_many_datagrams_as_the_kernel_joins_and_no_more() {
        for (bytes, segment_bytes, datagrams) in
            [(0, 0, 1), (5, 5, 1), (6, 5, 2), (10, 5, 2), (128, 1, 128), (65_507, 1472, 45)]
        {
            assert_eq!(received(bytes, segment_bytes).datagrams(), Ok(datagrams), "{bytes} by {segment_bytes}");
        }
        assert_eq!(received(129, 1).datagrams(), Err(129));
        assert_eq!(received(REST_BYTES + ROOM_BYTES, 1).datagrams(), Err(REST_BYTES + ROOM_BYTES));
        assert_eq!(received(2 * ROOM_BYTES, ROOM_BYTES).datagrams(), Ok(2));
        assert_eq!(received(2 * ROOM_BYTES, ROOM_BYTES + 1).datagrams(), Err(2), "no packet has room for it");
        assert_eq!(Received { truncated: true, ..received(1472, 1472) }.datagrams(), Err(1));
    }
}
