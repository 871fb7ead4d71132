//! What can go wrong when a socket is opened or used. Packets lost on the way are counters, not errors.

use crate::packet::Packet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Failure to open a port or bind a socket.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Somebody, perhaps this very process, already receives on this address.
    #[error("{addr} is already in use")]
    AddressInUse {
        /// The address asked for.
        addr: SocketAddrV4,
    },
    /// The address belongs to no interface of this machine, or not to this port. Likely a wrong line in the
    /// configuration.
    #[error("{addr} is not an address of this machine")]
    AddressNotAvailable {
        /// The address asked for.
        addr: SocketAddrV4,
    },
    /// The limit of [`NetConfig::sockets`](crate::NetConfig::sockets) is reached.
    #[error("no more than {limit} sockets can be bound here")]
    TooManySockets {
        /// The limit.
        limit: usize,
    },
    /// The limit of [`StackConfig::groups`](crate::stack::StackConfig::groups) is reached.
    #[error("no more multicast groups can be joined here, so not {group}")]
    TooManyGroups {
        /// The group asked for.
        group: Ipv4Addr,
    },
    /// The driver of this core is gone, so nothing can be sent or received any more.
    #[error("the network of this core has been shut down")]
    Closed,
    /// The kernel refused for a reason of its own.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why a socket did not take a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many packets as [`SocketOptions::tx_packets`](crate::SocketOptions::tx_packets) allows are waiting. Later
    /// there may be room again.
    #[error("the transmit queue is full")]
    QueueFull,
    /// More payload than [`Net::payload_bytes`](crate::Net::payload_bytes). It will never fit.
    #[error("the payload is larger than the port can carry")]
    TooLarge,
    /// The driver of this core is gone.
    #[error("the network of this core has been shut down")]
    Closed,
}

/// A packet that a socket did not take, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// The packet, unchanged but for its addresses, for another try.
    pub packet: Packet,
    /// Why.
    pub reason: Refusal,
}
