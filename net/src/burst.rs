//! Groups of packets: what a port hands over in one call, and what waits for it.

use crate::packet::Packet;
use std::collections::VecDeque;

/// Most packets that cross a port in one call.
pub const BURST_PACKETS: usize = 64;

/// Up to [`BURST_PACKETS`] received packets in the order of their arrival. Reused from turn to turn: memory is taken once.
#[derive(Debug)]
pub struct Burst {
    packets: Vec<Packet>,
}

impl Default for Burst {
    fn default() -> Self {
        Burst { packets: Vec::with_capacity(BURST_PACKETS) }
    }
}

impl Burst {
    /// An empty burst.
    pub fn new() -> Self {
        Burst::default()
    }

    /// Packets in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        BURST_PACKETS - self.packets.len()
    }

    /// Adds a packet, or gives it back where the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.room() == 0 {
            return Err(packet);
        }
        self.packets.push(packet);
        Ok(())
    }

    /// Adds packets, at most as many as there is room for.
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(crate) fn extend(&mut self, packets: impl Iterator<Item = Packet>) {
        self.packets.extend(packets.take(self.room()));
    }

    /// Takes all packets out, oldest first.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.packets.drain(..)
    }

    /// The packets, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter()
    }
}

/// A bounded first-in first-out queue of packets. At its limit it gives a packet back rather than grow.
#[derive(Debug)]
pub struct PacketQueue {
    packets: VecDeque<Packet>,
    limit_packets: usize,
}

impl PacketQueue {
    /// An empty queue for at most `limit_packets`. Memory is taken as it fills.
    pub fn new(limit_packets: usize) -> Self {
        PacketQueue { packets: VecDeque::new(), limit_packets }
    }

    /// Appends a packet, or gives it back where the queue is full.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_full() {
            return Err(packet);
        }
        self.packets.push_back(packet);
        Ok(())
    }

    /// Takes the oldest packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// The packets in two parts, oldest first.
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(crate) fn slices(&self) -> (&[Packet], &[Packet]) {
        self.packets.as_slices()
    }

    /// [`Packet::leave_to_device`] for the oldest, so many or all, which are all over mbufs: others would leak.
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(crate) fn leave_to_device(&mut self, packets: usize) {
        let packets = packets.min(self.packets.len());
        // Nothing in them but the mbufs wants to be freed.
        self.packets.drain(..packets).for_each(std::mem::forget);
    }

    /// The oldest packet.
    pub fn front(&self) -> Option<&Packet> {
        self.packets.front()
    }

    /// The packets, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter()
    }

    /// Packets in the queue.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The next [`PacketQueue::push`] would give its packet back.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.packets.len() >= self.limit_packets
    }

    /// Drops everything in it.
    pub fn clear(&mut self) {
        self.packets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Priority;

    fn numbered(number: u8) -> Packet {
        let mut packet = Packet::alloc(Priority::Normal).unwrap();
        packet.extend_from_slice(&[number]).unwrap();
        packet
    }

    #[test]
    fn a_full_burst_gives_the_packet_back() {
        let mut burst = Burst::new();
        for number in 0..BURST_PACKETS as u8 {
            burst.push(numbered(number)).unwrap();
        }
        let back = burst.push(numbered(200)).unwrap_err();
        assert_eq!(back.data(), [200]);
        let order: Vec<u8> = burst.drain().map(|packet| packet.data()[0]).collect();
        assert_eq!(order, (0..BURST_PACKETS as u8).collect::<Vec<_>>());
        assert_eq!(burst.room(), BURST_PACKETS);
    }

    #[test]
    fn a_full_queue_gives_the_newest_back_and_keeps_order() {
        let mut queue = PacketQueue::new(2);
        queue.push(numbered(1)).unwrap();
        queue.push(numbered(2)).unwrap();
        assert_eq!(queue.push(numbered(3)).unwrap_err().data(), [3]);
        assert_eq!(queue.pop().unwrap().data(), [1]);
        queue.push(numbered(4)).unwrap();
        assert_eq!(queue.iter().map(|packet| packet.data()[0]).collect::<Vec<_>>(), [2, 4]);
    }
}
