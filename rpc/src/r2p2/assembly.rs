//! One message being put together from its packets, in whatever order they come.

use super::counters::DropReason;
use super::header::Header;
use std::collections::BTreeMap;

/// Charged for each stored packet on top of its bytes, so that a flood of tiny packets meets the byte bounds too.
pub(super) const PACKET_COST_BYTES: usize = 64;

/// Collects the packets of one message.
///
/// Packets in order are appended to one buffer; early ones wait in a map. Memory grows with the bytes that have arrived,
/// never with the count that was announced.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The packet count, once the first packet is there.
    count: Option<u16>,
    /// The index of the last packet, once that is there.
    last: Option<u16>,
    /// Index of the next packet for `body`.
    next: u16,
    body: Vec<u8>,
    early: BTreeMap<u16, Vec<u8>>,
    payload_bytes: usize,
    packets: usize,
}

impl Assembly {
    /// Message bytes that have arrived.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// What this message counts for in a bound on memory.
    pub(super) fn charged_bytes(&self) -> usize {
        self.payload_bytes + self.packets * PACKET_COST_BYTES
    }

    /// Whether a packet with this header would be stored. Changes nothing.
    pub(super) fn check(&self, header: &Header, packets_max: u16) -> Result<(), DropReason> {
        if header.flags.first {
            self.check_first(header.p_order, packets_max)
        } else {
            self.check_later(header, packets_max)
        }
    }

    fn check_first(&self, count: u16, packets_max: u16) -> Result<(), DropReason> {
        if count < 2 {
            return Err(DropReason::CountTooSmall);
        }
        if count > packets_max {
            return Err(DropReason::TooManyPackets);
        }
        if self.count.is_some() {
            return Err(DropReason::FirstRepeated);
        }
        let highest = self.early.last_key_value().map_or(0, |(index, _)| *index);
        let agrees = match self.last {
            Some(last) => last == count - 1,
            // The packet that would be the last came without the flag, or later ones came.
            None => highest < count - 1,
        };
        if agrees { Ok(()) } else { Err(DropReason::CountDiffers) }
    }

    fn check_later(&self, header: &Header, packets_max: u16) -> Result<(), DropReason> {
        let index = header.p_order;
        let is_last = header.flags.last;
        if index == 0 {
            return Err(DropReason::OrderOutOfRange);
        }
        if index >= packets_max {
            return Err(DropReason::TooManyPackets);
        }
        let final_index = self.count.map(|count| count - 1).or(self.last);
        match final_index {
            Some(end) if index > end => {
                return Err(if is_last { DropReason::CountDiffers } else { DropReason::OrderOutOfRange });
            }
            Some(end) if is_last && index < end => return Err(DropReason::EarlyLast),
            Some(end) if !is_last && index == end => return Err(DropReason::MissingLast),
            Some(_) => {}
            None => {
                let highest = self.early.last_key_value().map_or(0, |(index, _)| *index);
                if is_last && index < highest {
                    return Err(DropReason::EarlyLast);
                }
            }
        }
        if index < self.next || self.early.contains_key(&index) {
            return Err(DropReason::OrderRepeated);
        }
        Ok(())
    }

    /// Stores a packet that [`check`](Self::check) has let through. Returns whether the message is complete.
    pub(super) fn store(&mut self, header: &Header, payload: &[u8]) -> bool {
        let index = if header.flags.first { 0 } else { header.p_order };
        if header.flags.first {
            self.count = Some(header.p_order);
        } else if header.flags.last {
            self.last = Some(index);
        }
        self.packets += 1;
        self.payload_bytes += payload.len();
        if index == self.next {
            self.body.extend_from_slice(payload);
            self.next += 1;
            while let Some(early) = self.early.remove(&self.next) {
                self.body.extend_from_slice(&early);
                self.next += 1;
            }
        } else {
            self.early.insert(index, payload.to_vec());
        }
        self.count == Some(self.next)
    }

    /// The message, once [`store`](Self::store) has returned true.
    pub(super) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{Flags, MessageType, Rid};
    use super::super::policy::Policy;
    use super::*;

    fn packet(first: bool, last: bool, p_order: u16) -> Header {
        let flags = Flags { first, last, own_block: false };
        Header { kind: MessageType::Response, policy: Policy::FixedRoute, flags, rid: Rid(1), p_order }
    }

    fn add(assembly: &mut Assembly, header: Header, payload: &[u8]) -> Result<bool, DropReason> {
        assembly.check(&header, 254)?;
        Ok(assembly.store(&header, payload))
    }

    #[test]
    fn any_order_gives_the_same_message() {
        let packets = [
            (packet(true, false, 3), b"ab".as_slice()),
            (packet(false, false, 1), b"c"),
            (packet(false, true, 2), b"def"),
        ];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut assembly = Assembly::default();
            let mut done = Vec::new();
            for index in order {
                let (header, payload) = packets[index];
                done.push(add(&mut assembly, header, payload).unwrap());
            }
            assert_eq!(done, [false, false, true]);
            assert_eq!(assembly.into_body(), b"abcdef");
        }
    }

    /// A count of 254 must cost the attacker 254 packets, not one.
    #[test]
    fn nothing_is_reserved_from_the_announced_count() {
        let mut assembly = Assembly::default();
        add(&mut assembly, packet(true, false, 254), b"x").unwrap();
        assert!(assembly.body.capacity() < 64);
        assert_eq!(assembly.charged_bytes(), 1 + PACKET_COST_BYTES);
    }

    #[test]
    fn conflicts_before_the_first_packet() {
        let mut assembly = Assembly::default();
        add(&mut assembly, packet(false, true, 5), b"").unwrap();
        assert_eq!(add(&mut assembly, packet(false, true, 4), b""), Err(DropReason::EarlyLast));
        assert_eq!(add(&mut assembly, packet(false, true, 6), b""), Err(DropReason::CountDiffers));
        assert_eq!(add(&mut assembly, packet(false, false, 6), b""), Err(DropReason::OrderOutOfRange));
        assert_eq!(add(&mut assembly, packet(false, false, 5), b""), Err(DropReason::MissingLast));
        assert_eq!(add(&mut assembly, packet(true, false, 5), b""), Err(DropReason::CountDiffers));
        assert_eq!(add(&mut assembly, packet(true, false, 6), b""), Ok(false));
        assert_eq!(add(&mut assembly, packet(true, false, 6), b""), Err(DropReason::FirstRepeated));

        let mut assembly = Assembly::default();
        add(&mut assembly, packet(false, false, 3), b"").unwrap();
        assert_eq!(add(&mut assembly, packet(false, true, 2), b""), Err(DropReason::EarlyLast));
        assert_eq!(add(&mut assembly, packet(true, false, 4), b""), Err(DropReason::CountDiffers));
        assert_eq!(add(&mut assembly, packet(true, false, 5), b""), Ok(false));
    }
}
