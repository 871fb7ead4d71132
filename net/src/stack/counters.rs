//! What a stack has dropped, and why; what it has said by itself.

use crate::stats::counted;

counted! {
/// Counts of one stack since it was made. Every frame that is not a datagram for a socket, and every datagram that does
/// not leave, is counted in exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StackCounters {
    /// Datagrams handed up.
    pub rx_datagrams: u64,
    /// Shorter than an Ethernet header.
    pub ethernet_malformed: u64,
    /// Sent from a group's address, or from this very station's.
    pub ethernet_source: u64,
    /// For another station, or for a group that is not joined.
    pub ethernet_not_ours: u64,
    /// Neither ARP nor IPv4.
    pub ethernet_other: u64,

    /// Short, not about IPv4 over Ethernet, or at odds with the frame around it.
    pub arp_malformed: u64,
    /// About somebody else.
    pub arp_not_ours: u64,
    /// An answer that nobody asked for. Ignored.
    pub arp_unsolicited: u64,
    /// An announcement of the sender's own address. Ignored.
    pub arp_gratuitous: u64,
    /// Another station uses this host's address. Ignored, but worth an alarm.
    pub arp_conflict: u64,
    /// Answers taken.
    pub arp_learned: u64,
    /// Questions answered.
    pub arp_answered: u64,
    /// Questions not answered, because there were too many.
    pub arp_limited: u64,
    /// Questions asked.
    pub arp_asked: u64,
    /// Questions not asked in their turn, because there were too many.
    pub arp_ask_limited: u64,
    /// Neighbours pinned.
    pub pins: u64,
    /// Neighbours not pinned, because there were too many or there is no way to them.
    pub pins_refused: u64,

    /// Lengths or version do not fit.
    pub ipv4_malformed: u64,
    /// With options, which are not supported.
    pub ipv4_options: u64,
    /// Damaged header.
    pub ipv4_checksum: u64,
    /// Part of a larger packet, which is not supported.
    pub ipv4_fragment: u64,
    /// From a broadcast, group, loopback or reserved address, or from this host's own.
    pub ipv4_source: u64,
    /// For another host, for everybody, for a group that is not joined, or for this host in a frame to everybody.
    pub ipv4_not_ours: u64,
    /// Neither UDP nor ICMP nor IGMP.
    pub ipv4_other: u64,

    /// Shorter than its header.
    pub icmp_malformed: u64,
    /// Damaged.
    pub icmp_checksum: u64,
    /// Not a question for an echo.
    pub icmp_ignored: u64,
    /// Echoed.
    pub icmp_answered: u64,
    /// Not echoed, because there were too many.
    pub icmp_limited: u64,

    /// Short or damaged.
    pub igmp_malformed: u64,
    /// Not a query.
    pub igmp_ignored: u64,
    /// Queries taken.
    pub igmp_queries: u64,
    /// Of these, whose answer was put off because it was given less than a second before.
    pub igmp_limited: u64,
    /// Reports and leaves sent.
    pub igmp_sent: u64,

    /// Lengths do not fit, or a port is zero.
    pub udp_malformed: u64,
    /// Damaged.
    pub udp_checksum: u64,

    /// Datagrams put into frames, or handed to this host itself.
    pub tx_datagrams: u64,
    /// Not sent: no way there (no gateway, or a broadcast).
    pub tx_no_route: u64,
    /// Not sent: larger than the link carries (an echo, too), or no head room for the headers.
    pub tx_too_large: u64,
    /// Not sent: their receiver did not answer for its address, or too many others waited for such answers.
    pub tx_unresolved: u64,
    /// Not sent: the device and the queue before it were full.
    pub tx_queue_full: u64,
    /// ARP or IGMP messages not sent for want of a buffer.
    pub tx_no_buffer: u64,
}
}

impl StackCounters {
    /// Datagrams of sockets that were dropped on their way out.
    pub fn tx_dropped(&self) -> u64 {
        self.tx_no_route + self.tx_too_large + self.tx_unresolved + self.tx_queue_full
    }
}
