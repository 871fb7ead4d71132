//! One datagram and the buffer that holds it.

use crate::offload::{Checksums, Packed};
use crate::pool::{self, BUFFER_BYTES, HeapBuffer};
#[cfg(feature = "dpdk")]
use crate::port::dpdk::mbuf::{self, MbufBuffer};
use crate::socket::Priority;
use std::fmt;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes kept free before the payload of a fresh packet, for link, network and transport headers.
pub const HEAD_ROOM_BYTES: usize = 128;

/// Bytes of payload that a fresh packet can hold.
pub const ROOM_BYTES: usize = BUFFER_BYTES - HEAD_ROOM_BYTES;

const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// An owned datagram: payload, source and destination.
///
/// `Send`, because packets cross cores; not `Clone`, because a buffer has one owner: sharing a payload among receivers was measured,
/// and saves little or costs more, see ARCHITECTURE.md. Dropping it returns the buffer to
/// the pool of the thread that drops it, or the device's memory where it came from, so a leak or a double free cannot be
/// written.
///
/// The buffer is [`BUFFER_BYTES`] long (a little longer in a device's memory): head room, payload, tail room. No method panics, whatever its argument.
pub struct Packet {
    storage: Storage,
    head: u16,
    len: u16,
    src: SocketAddrV4,
    dst: SocketAddrV4,
    checksums: Packed,
}

/// Where the bytes live. A port with memory of its own adds a variant.
enum Storage {
    /// Without memory in a packet that is being dropped.
    Heap(HeapBuffer),
    #[cfg(feature = "dpdk")]
    Mbuf(MbufBuffer),
}

/// The tail room of a packet is too small. The packet is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for {wanted_bytes} bytes: {room_bytes} are left in the packet's buffer")]
pub struct NoRoom {
    /// Bytes that were to be added.
    pub wanted_bytes: usize,
    /// Bytes that could have been.
    pub room_bytes: usize,
}

impl Packet {
    /// An empty packet with [`HEAD_ROOM_BYTES`] before it and [`ROOM_BYTES`] after it.
    ///
    /// `None` (counted in [`pool::stats`]) where this thread already holds as many buffers as its limit allows
    /// `priority`. Costs a pop from a thread-local list; the bytes are not cleared.
    pub fn alloc(priority: Priority) -> Option<Packet> {
        let buffer = pool::take(priority)?;
        Some(Packet {
            storage: Storage::Heap(buffer),
            head: HEAD_ROOM_BYTES as u16,
            len: 0,
            src: NOWHERE,
            dst: NOWHERE,
            checksums: Packed::default(),
        })
    }

    #[inline]
    fn buffer(&self) -> &[u8] {
        match &self.storage {
            Storage::Heap(buffer) => buffer.bytes(),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(buffer) => buffer.bytes(),
        }
    }

    #[inline]
    fn buffer_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Heap(buffer) => buffer.bytes_mut(),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(buffer) => buffer.bytes_mut(),
        }
    }

    #[inline]
    fn start(&self) -> usize {
        usize::from(self.head)
    }

    #[inline]
    fn end(&self) -> usize {
        usize::from(self.head) + usize::from(self.len)
    }

    /// The payload.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.buffer()[self.start()..self.end()]
    }

    /// The payload, to be changed in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start(), self.end());
        &mut self.buffer_mut()[start..end]
    }

    /// Bytes of payload.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// No payload. A datagram may well be empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can still be appended: the tail room. A port may carry less, see
    /// [`Net::payload_bytes`](crate::Net::payload_bytes).
    pub fn room(&self) -> usize {
        self.buffer().len() - self.end()
    }

    /// Appends `bytes`, all or nothing.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        self.extend_from_slices([bytes])
    }

    /// Appends one of `parts` after the other, all or nothing.
    #[inline]
    pub fn extend_from_slices<const N: usize>(&mut self, parts: [&[u8]; N]) -> Result<(), NoRoom> {
        let wanted_bytes = parts.iter().map(|part| part.len()).sum();
        let spare = self.spare_mut();
        let room_bytes = spare.len();
        let Some(mut target) = spare.get_mut(..wanted_bytes) else {
            return Err(NoRoom { wanted_bytes, room_bytes });
        };
        for part in parts {
            let (place, rest) = target.split_at_mut(part.len());
            place.copy_from_slice(part);
            target = rest;
        }
        self.len += wanted_bytes as u16; // no more than the room, which is at most BUFFER_BYTES
        Ok(())
    }

    /// The tail room, to be written in place and then [claimed](Packet::claim). Holds whatever an earlier packet left.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let end = self.end();
        &mut self.buffer_mut()[end..]
    }

    /// Makes the first `bytes` of the tail room part of the payload.
    pub fn claim(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let room_bytes = self.room();
        if bytes > room_bytes {
            return Err(NoRoom { wanted_bytes: bytes, room_bytes });
        }
        self.len += bytes as u16; // bytes <= BUFFER_BYTES
        Ok(())
    }

    /// Adds `bytes` before the payload and returns them, to be written; `None` where the head room is smaller.
    #[inline]
    pub fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let start = self.start().checked_sub(bytes)?;
        self.head = start as u16;
        self.len += bytes as u16; // bytes <= head <= BUFFER_BYTES
        self.buffer_mut().get_mut(start..start + bytes)
    }

    /// Drops the first `bytes` of the payload, all of it where there are fewer. They become head room.
    #[inline]
    pub fn trim_front(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len()) as u16;
        self.head += bytes;
        self.len -= bytes;
    }

    /// Keeps the first `bytes` of the payload; nothing changes where there are fewer.
    #[inline]
    pub fn truncate(&mut self, bytes: usize) {
        self.len = bytes.min(self.len()) as u16;
    }

    /// Empties the payload and restores the head room, for a packet that is used again.
    pub fn clear(&mut self) {
        self.head = HEAD_ROOM_BYTES as u16;
        self.len = 0;
    }

    /// Who sent it. On receipt as the network says, which anybody can forge.
    #[inline]
    pub fn src(&self) -> SocketAddrV4 {
        self.src
    }

    /// Where it goes; on receipt the local address of the socket that got it.
    #[inline]
    pub fn dst(&self) -> SocketAddrV4 {
        self.dst
    }

    /// Sets the sender.
    #[inline]
    pub fn set_src(&mut self, src: SocketAddrV4) {
        self.src = src;
    }

    /// What a device says of its checksums, or shall do. Of frames only; sockets neither read nor set it.
    #[inline]
    pub fn checksums(&self) -> Checksums {
        self.checksums.unpack()
    }

    /// Sets what a device says or shall do.
    #[inline]
    pub fn set_checksums(&mut self, checksums: Checksums) {
        self.checksums = Packed::of(checksums);
    }

    /// Sets the receiver.
    #[inline]
    pub fn set_dst(&mut self, dst: SocketAddrV4) {
        self.dst = dst;
    }
}

#[cfg(feature = "dpdk")]
impl Packet {
    /// A packet over an mbuf whose payload is `head..head + len`, cut to what the buffer holds.
    #[inline]
    pub(crate) fn from_mbuf(buffer: MbufBuffer, head: u16, len: u16) -> Packet {
        let bytes = buffer.bytes().len() as u16; // asserted to fit where it is defined
        let head = head.min(bytes);
        let (len, checksums) = (len.min(bytes - head), Packed::default());
        Packet { storage: Storage::Mbuf(buffer), head, len, src: NOWHERE, dst: NOWHERE, checksums }
    }

    /// The payload as a device takes it: in its mbuf, or as bytes to be copied. Valid until the packet is changed or dropped.
    #[inline]
    pub(crate) fn device_frame(&self) -> dpdk_sys::dpdk_shim_frame {
        match &self.storage {
            Storage::Mbuf(buffer) if buffer.can_be_padded(self.head) => {
                buffer.frame(self.head, self.len, self.checksums())
            }
            _ => mbuf::borrowed_frame(self.data().as_ptr(), self.len, self.checksums()),
        }
    }

    /// Ends the packet without returning its mbuf, which a device has taken over. A heap packet's buffer is freed.
    #[inline]
    pub(crate) fn leave_to_device(self) {
        if matches!(self.storage, Storage::Mbuf(_)) {
            // Nothing in it but the mbuf wants to be freed.
            mem::forget(self);
        }
    }
}

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        match &mut self.storage {
            Storage::Heap(buffer) => pool::give(mem::take(buffer)),
            // It goes back by itself.
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(_) => {}
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({} -> {}, {} bytes)", self.src, self.dst, self.len)
    }
}

// The absence of a packet is told by a pointer of it.
#[cfg(not(feature = "dpdk"))]
const _: () = assert!(size_of::<Option<Packet>>() == size_of::<Packet>());
const _: () = assert!(HEAD_ROOM_BYTES + 1500 <= BUFFER_BYTES && BUFFER_BYTES <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fresh() -> Packet {
        Packet::alloc(Priority::Normal).expect("the pool is far from its limit")
    }

    fn is_send<T: Send>() {}

    #[test]
    fn a_packet_may_cross_threads() {
        is_send::<Packet>();
    }

    #[test]
    fn a_fresh_packet_has_the_promised_rooms() {
        let mut packet = fresh();
        assert!(packet.is_empty());
        assert_eq!(packet.room(), BUFFER_BYTES - HEAD_ROOM_BYTES);
        assert_eq!(packet.prepend(HEAD_ROOM_BYTES).map(|head| head.len()), Some(HEAD_ROOM_BYTES));
        assert!(packet.prepend(1).is_none());
        assert_eq!(packet.len(), HEAD_ROOM_BYTES);
        assert_eq!(packet.room(), BUFFER_BYTES - HEAD_ROOM_BYTES);
    }

    #[test]
    fn an_overlong_append_changes_nothing() {
        let mut packet = fresh();
        packet.extend_from_slice(b"kept").unwrap();
        let room_bytes = packet.room();
        let refused = packet.extend_from_slice(&vec![7; room_bytes + 1]);
        assert_eq!(refused, Err(NoRoom { wanted_bytes: room_bytes + 1, room_bytes }));
        assert_eq!(packet.data(), b"kept");
        packet.extend_from_slice(&vec![7; room_bytes]).unwrap();
        assert_eq!(packet.room(), 0);
        assert!(packet.claim(1).is_err());
    }

    #[test]
    fn a_reused_buffer_starts_empty_and_clear_restores_the_head_room() {
        let mut packet = fresh();
        packet.extend_from_slice(b"old").unwrap();
        packet.trim_front(2);
        drop(packet);
        let mut packet = fresh();
        assert_eq!((packet.len(), packet.room()), (0, BUFFER_BYTES - HEAD_ROOM_BYTES));
        assert_eq!(packet.src(), NOWHERE);
        packet.extend_from_slice(b"new").unwrap();
        packet.trim_front(3);
        packet.clear();
        assert_eq!((packet.len(), packet.room()), (0, BUFFER_BYTES - HEAD_ROOM_BYTES));
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Append(Vec<u8>),
        Prepend(Vec<u8>),
        TrimFront(usize),
        Truncate(usize),
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..700);
        let edit = prop_oneof![
            bytes().prop_map(Edit::Append),
            bytes().prop_map(Edit::Prepend),
            (0..3000usize).prop_map(Edit::TrimFront),
            (0..3000usize).prop_map(Edit::Truncate),
        ];
        prop::collection::vec(edit, 0..40)
    }

    proptest! {
        /// The payload behaves like a plain vector whose growth at either end is refused, whole, where room ends.
        #[test]
        fn behaves_like_a_vector(edits in edits()) {
            let mut packet = fresh();
            let mut model: Vec<u8> = Vec::new();
            let mut head = HEAD_ROOM_BYTES;
            for edit in edits {
                match edit {
                    Edit::Append(bytes) => {
                        let fits = head + model.len() + bytes.len() <= BUFFER_BYTES;
                        prop_assert_eq!(packet.extend_from_slice(&bytes).is_ok(), fits);
                        if fits {
                            model.extend_from_slice(&bytes);
                        }
                    }
                    Edit::Prepend(bytes) => {
                        let fits = bytes.len() <= head;
                        let room = packet.prepend(bytes.len());
                        prop_assert_eq!(room.is_some(), fits);
                        if let Some(room) = room {
                            room.copy_from_slice(&bytes);
                            head -= bytes.len();
                            model.splice(0..0, bytes);
                        }
                    }
                    Edit::TrimFront(bytes) => {
                        packet.trim_front(bytes);
                        let gone = bytes.min(model.len());
                        head += gone;
                        model.drain(..gone);
                    }
                    Edit::Truncate(bytes) => {
                        packet.truncate(bytes);
                        model.truncate(bytes);
                    }
                }
                prop_assert_eq!(packet.data(), &model[..]);
                prop_assert_eq!(packet.room(), BUFFER_BYTES - head - model.len());
            }
        }
    }
}
