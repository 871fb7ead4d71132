//! What a device does for the stack: checksums, where it has the means.
//!
//! A device says for each frame what it found ([`Checksum::Good`], [`Checksum::Bad`]) and fills in what the stack has left to it
//! ([`Checksum::Fill`]). Whatever it says nothing about, the stack checks and makes itself.

/// A checksum of a packet: what is known of it, or to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Nothing is known: whoever receives it checks it, and it is sent as it stands in the packet.
    #[default]
    Unknown,
    /// What it covers is as it was sent. The field itself may be unfinished, where the packet never left the machine.
    Good,
    /// The packet was damaged on its way.
    Bad,
    /// The device fills it in as it sends the packet.
    Fill,
}

/// The checksums of an Ethernet frame that holds IPv4 and UDP, both without options. They mean nothing of any other frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksums {
    /// Of IPv4's header.
    pub ipv4: Checksum,
    /// Of UDP's pseudo header, header and payload.
    pub udp: Checksum,
}

/// [`Checksums`] as a packet holds them: a byte of which each value is valid. With the enums themselves in it, the compiler would mark the
/// absence of a packet in the middle of one, and every move would be made in pieces that the processor reads back slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Packed(u8);

impl Packed {
    pub(crate) const fn of(checksums: Checksums) -> Packed {
        Packed(checksums.ipv4 as u8 | (checksums.udp as u8) << 4)
    }

    pub(crate) const fn unpack(self) -> Checksums {
        Checksums { ipv4: unpack(self.0 & 0xF), udp: unpack(self.0 >> 4) }
    }
}

const fn unpack(bits: u8) -> Checksum {
    match bits {
        1 => Checksum::Good,
        2 => Checksum::Bad,
        3 => Checksum::Fill,
        _ => Checksum::Unknown,
    }
}

/// Checksums that a device fills in as it sends. None by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// IPv4's, of frames whose [`Checksums::udp`] it fills in, too. The stack leaves zero in the field.
    pub ipv4: bool,
    /// UDP's. The stack leaves the sum of the pseudo header in the field, not complemented.
    pub udp: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let all = [Checksum::Unknown, Checksum::Good, Checksum::Bad, Checksum::Fill];
        for (ipv4, udp) in all.iter().flat_map(|ipv4| all.map(|udp| (*ipv4, udp))) {
            let checksums = Checksums { ipv4, udp };
            assert_eq!(Packed::of(checksums).unpack(), checksums);
        }
        assert_eq!(Packed::default().unpack(), Checksums::default());
    }
}
