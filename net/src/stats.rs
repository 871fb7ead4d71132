//! Counters. Plain additions by one core; read whenever somebody asks.

use crate::pool::PoolStats;
use std::cell::Cell;

/// A count that one core increments through a shared reference.
#[derive(Debug, Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, more: usize) {
        self.0.set(self.0.get() + more as u64);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Packets of one socket since it was bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketStats {
    /// Queued for the receiving task.
    pub received: u64,
    /// Taken by the port.
    pub sent: u64,
    /// Arrived while [`rx_packets`](crate::SocketOptions::rx_packets) were waiting, and dropped.
    pub dropped_full: u64,
    /// Given back by [`send_to`](crate::UdpSocket::send_to), for whatever reason.
    pub refused: u64,
    /// Times that [`alloc`](crate::UdpSocket::alloc) found the pool at its limit.
    pub no_buffer: u64,
}

/// Packets of all sockets of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetStats {
    /// Delivered to a socket's queue.
    pub received: u64,
    /// Dropped because the socket's queue was full.
    pub dropped_full: u64,
    /// Dropped because nobody is bound to their destination.
    pub dropped_unbound: u64,
    /// Received for another core of this process, and handed on to it.
    pub crossed_out: u64,
    /// Received by another core and handed on to this one.
    pub crossed_in: u64,
    /// Received for another core and dropped, since too many were on their way to it.
    pub crossing_full: u64,
    /// Taken by the port.
    pub sent: u64,
    /// Never sent because their socket was dropped and its address bound again.
    pub dropped_closed: u64,
    /// Sockets bound now.
    pub sockets: usize,
    /// Packets waiting to be transmitted now.
    pub queued: usize,
    /// What the port below counted.
    pub port: PortStats,
    /// The buffer pool of this thread, which other cores on the same thread share.
    pub pool: PoolStats,
}

impl NetStats {
    /// Tells each count of packets with its name, zeroes too: `net.received`, `port.rx_packets`. The pool is the thread's, and left out.
    pub(crate) fn each(&self, tell: &mut dyn FnMut(&str, u64)) {
        let NetStats { received, dropped_full, dropped_unbound, crossed_out, crossed_in, .. } = *self;
        let NetStats { crossing_full, sent, dropped_closed, .. } = *self;
        tell("net.received", received);
        tell("net.dropped_full", dropped_full);
        tell("net.dropped_unbound", dropped_unbound);
        tell("net.crossed_out", crossed_out);
        tell("net.crossed_in", crossed_in);
        tell("net.crossing_full", crossing_full);
        tell("net.sent", sent);
        tell("net.dropped_closed", dropped_closed);
        self.port.each(&mut |name, count| tell(&format!("port.{name}"), count));
    }
}

/// Lets the fields of a struct of counts be told one by one, by their names. The struct is as it stands between the braces.
macro_rules! counted {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: u64,)+ }) => {
        $(#[$about])*
        pub struct $name { $($(#[$doc])* pub $field: u64,)+ }

        impl $name {
            /// Tells each count with its name, zeroes too.
            pub fn each(&self, tell: &mut dyn FnMut(&str, u64)) {
                $(tell(stringify!($field), self.$field);)+
            }

            /// Both together.
            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                $name { $($field: self.$field + other.$field,)+ }
            }
        }
    };
}
pub(crate) use counted;

counted! {
/// Packets of one port. A kind of loss that a port does not know stays zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Received and handed over.
    pub rx_packets: u64,
    /// Longer than a packet buffer, cut off by the device and dropped.
    pub rx_truncated: u64,
    /// Dropped because the buffer pool was at its limit.
    pub rx_no_buffer: u64,
    /// Dropped by the device because its receive buffer was full: this core was too slow or the buffer too small.
    pub rx_overrun: u64,
    /// Of those received, copied to the heap since the device's own memory ran low: its packets are kept somewhere for long.
    pub rx_copied: u64,
    /// Errors that the device reported while receiving, most of them somebody's ICMP answer. The socket goes on.
    pub rx_errors: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Refused by the device for good (too large, no route, forbidden, sender not bound) and dropped.
    pub tx_refused: u64,
    /// Errors on sending that were not about the packet in hand (an ICMP answer to an earlier one).
    pub tx_errors: u64,
    /// Times that the device had no room. The packets stayed with their socket.
    pub tx_full: u64,
}
}
