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

/// Checksums that a device fills in as it sends. None by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// IPv4's, of frames whose [`Checksums::udp`] it fills in, too. The stack leaves zero in the field.
    pub ipv4: bool,
    /// UDP's. The stack leaves the sum of the pseudo header in the field, not complemented.
    pub udp: bool,
}
