//! How far a cluster should scale, from what one put costs: commits a second for a core that leads, for nodes of one leader, and for
//! a cluster whose shards' leaders are spread over all nodes; and what runs out first: processors, packets or bandwidth.
//!
//! What is put in is measured on a small cluster; what comes out is arithmetic, and no promise: memory bandwidth, caches and the
//! network between are not in it.
//!
//! ```text
//! packet ends at the leader, n nodes, b entries an append:   2 + 2 (n - 1) / b        (3 nodes, one by one: 6)
//!         clients multicast, replies are balanced:           1 + 1 / n + 2 (n - 1) / b
//! at a follower:                                             2 / b
//! ```

/// What carries a datagram on the wire: preamble and gap 20 bytes, Ethernet 18 with its check sum, IPv4 20, UDP 8.
const WIRE_BYTES: f64 = 66.0;
/// The shortest frame with preamble and gap.
const FRAME_BYTES_MIN: f64 = 84.0;
/// Payload of a datagram.
const PAYLOAD_BYTES: f64 = 1472.0;
/// In front of a request's arguments: R2P2's first header and the block.
const REQUEST_HEAD_BYTES: f64 = 54.0;
/// A reply to a put with its headers.
const REPLY_BYTES: f64 = 40.0;
/// In front of an append's entries, with its check sum.
const APPEND_HEAD_BYTES: f64 = 116.0;
/// In front of an entry's body.
const ENTRY_HEAD_BYTES: f64 = 64.0;
/// An acknowledgement.
const ACK_BYTES: f64 = 96.0;
/// Packets a second and direction that a card carries, whatever its link would.
const CARD_PACKETS_MAX: f64 = 60e6;

/// Processor time of one put, in nanoseconds, in a cluster of three.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Costs {
    /// Of the node that leads.
    pub(crate) leader_ns: f64,
    /// Of each other node.
    pub(crate) follower_ns: f64,
}

/// What is asked for, and how it travels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Traffic {
    /// Entries that an append carries, at least one.
    pub(crate) batch: f64,
    /// Bytes of a key and its value.
    pub(crate) body_bytes: f64,
    /// Clients multicast their requests, and replies come from all replicas in turn.
    pub(crate) balanced: bool,
}

/// What it runs on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Machines {
    /// Nodes, each on a machine of its own.
    pub(crate) nodes: u32,
    /// Cores of each that run trimaran.
    pub(crate) cores: u32,
    /// Of each one's link, each way.
    pub(crate) link_gbit: f64,
}

/// What runs out first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Processors,
    Packets,
    Bandwidth,
}

impl Limit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Limit::Processors => "CPU",
            Limit::Packets => "packets",
            Limit::Bandwidth => "bandwidth",
        }
    }
}

/// Commits a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forecast {
    /// Of a core that leads and does nothing else, as far as processors go.
    pub(crate) leading_core: f64,
    /// Where one node leads all shards, and what limits it.
    pub(crate) one_leads: (f64, Limit),
    /// Where every node leads its share of the shards.
    pub(crate) spread: (f64, Limit),
}

/// Packets received and sent at the leader, for each put.
pub(crate) fn leader_packet_ends(nodes: u32, traffic: &Traffic) -> f64 {
    let others = f64::from(nodes.saturating_sub(1));
    let client = if traffic.balanced { 1.0 + 1.0 / f64::from(nodes.max(1)) } else { 2.0 };
    client + 2.0 * others / traffic.batch.max(1.0)
}

/// Packets and bytes on the wire for each put, of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Way {
    packets: f64,
    bytes: f64,
}

impl Way {
    fn of(datagrams: f64, payload_bytes: f64) -> Way {
        let full = (datagrams * payload_bytes / PAYLOAD_BYTES).max(datagrams);
        Way { packets: full, bytes: (datagrams * payload_bytes + full * WIRE_BYTES).max(full * FRAME_BYTES_MIN) }
    }

    fn and(self, other: Way) -> Way {
        Way { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }

    fn times(self, factor: f64) -> Way {
        Way { packets: self.packets * factor, bytes: self.bytes * factor }
    }
}

/// What the leader and one follower receive and send for each put.
struct Ways {
    leader: [Way; 2],
    follower: [Way; 2],
}

fn ways(nodes: u32, traffic: &Traffic) -> Ways {
    let (batch, others) = (traffic.batch.max(1.0), f64::from(nodes.saturating_sub(1)));
    let request = Way::of(1.0, REQUEST_HEAD_BYTES + traffic.body_bytes);
    let reply = Way::of(1.0, REPLY_BYTES);
    // The entries of clients' multicasts are with the followers already.
    let entry = ENTRY_HEAD_BYTES + if traffic.balanced { 0.0 } else { traffic.body_bytes };
    let append = Way::of(1.0 / batch, APPEND_HEAD_BYTES + batch * entry);
    let ack = Way::of(1.0 / batch, ACK_BYTES);
    if traffic.balanced {
        let part = reply.times(1.0 / f64::from(nodes.max(1)));
        Ways {
            leader: [request.and(ack.times(others)), part.and(append.times(others))],
            follower: [request.and(append), part.and(ack)],
        }
    } else {
        Ways { leader: [request.and(ack.times(others)), reply.and(append.times(others))], follower: [append, ack] }
    }
}

/// What `machines` should commit.
pub(crate) fn forecast(costs: &Costs, traffic: &Traffic, machines: &Machines) -> Forecast {
    let Machines { nodes, cores, link_gbit } = *machines;
    let (others, cores) = (f64::from(nodes.saturating_sub(1)), f64::from(cores));
    // Processor time goes with packet ends: those of more followers than were measured cost as much as those that were.
    let measured = leader_packet_ends(3, traffic);
    let leader_ns = costs.leader_ns * leader_packet_ends(nodes, traffic) / measured;
    let ways = ways(nodes, traffic);
    let link_bytes = link_gbit * 1e9 / 8.0;
    let packets = (link_bytes / FRAME_BYTES_MIN).min(CARD_PACKETS_MAX);
    let leading_core = 1e9 / leader_ns;

    let of = |processors: f64, [receive, send]: [Way; 2]| {
        let by_packets = packets / receive.packets.max(send.packets);
        let by_bytes = link_bytes / receive.bytes.max(send.bytes);
        let all = [(processors, Limit::Processors), (by_packets, Limit::Packets), (by_bytes, Limit::Bandwidth)];
        all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((processors, Limit::Processors))
    };
    // Each node leads one put of so many as there are nodes, and follows in the others.
    let shared =
        [0, 1].map(|way| ways.leader[way].and(ways.follower[way].times(others)).times(1.0 / f64::from(nodes.max(1))));
    let all_cores = f64::from(nodes) * cores * 1e9;
    Forecast {
        leading_core,
        one_leads: of(cores * leading_core, ways.leader),
        spread: of(all_cores / (leader_ns + others * costs.follower_ns), shared),
    }
}

/// Entries of an append, from the packets that all nodes together receive for each put in a cluster of `nodes`: a request, and an
/// append and its acknowledgement for every follower. At least one.
pub(crate) fn batch_of(node_packets: f64, nodes: u32) -> f64 {
    let others = f64::from(nodes.saturating_sub(1));
    let of_peers = node_packets - 1.0;
    if of_peers > 0.0 { (2.0 * others / of_peers).clamp(1.0, 1024.0) } else { 1024.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Traffic = Traffic { batch: 16.0, body_bytes: 80.0, balanced: false };
    const COSTS: Costs = Costs { leader_ns: 350.0, follower_ns: 150.0 };

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 0.01
    }

    #[test]
    fn packet_ends_are_those_on_paper() {
        let of = |nodes, batch, balanced| leader_packet_ends(nodes, &Traffic { batch, balanced, ..SMALL });
        assert!(near(of(3, 1.0, false), 6.0), "unbatched");
        assert!(near(of(3, 8.0, false), 2.5) && near(of(3, 64.0, false), 2.0625), "2 + 4 / b");
        assert!(near(of(3, 4.0, true), 4.0 / 3.0 + 1.0), "4 / 3 + 4 / b");
        assert!(near(of(1, 1.0, false), 2.0), "unreplicated");
        assert!(near(of(5, 1.0, false), 10.0));
    }

    #[test]
    fn a_core_leads_as_many_commits_as_its_cycles_allow() {
        // 550 and 1050 cycles at 3 GHz: 5 and 2.8 million a second.
        let core = |cycles: f64| {
            let costs = Costs { leader_ns: cycles / 3.0, follower_ns: 100.0 };
            forecast(&costs, &SMALL, &Machines { nodes: 3, cores: 1, link_gbit: 100.0 }).leading_core
        };
        assert!(near(core(550.0), 5.45e6) && near(core(1050.0), 2.857e6));
    }

    #[test]
    fn processors_limit_few_cores_and_bandwidth_many() {
        let of = |cores, link_gbit| forecast(&COSTS, &SMALL, &Machines { nodes: 3, cores, link_gbit });
        let one = of(1, 100.0);
        assert_eq!((one.one_leads.1, one.spread.1), (Limit::Processors, Limit::Processors));
        assert!(near(one.one_leads.0, 1e9 / 350.0) && near(one.spread.0, 3e9 / 650.0));
        let two = of(2, 100.0);
        assert!(near(two.spread.0, 2.0 * one.spread.0), "as long as processors limit it");
        let many = of(64, 10.0);
        assert_eq!((many.one_leads.1, many.spread.1), (Limit::Bandwidth, Limit::Bandwidth));
        assert!(near(of(64, 25.0).one_leads.0, 2.5 * many.one_leads.0), "which goes with the link");
    }

    #[test]
    fn a_full_link_carries_no_more_than_its_bytes() {
        // 8 KiB values: the leader sends each twice, in whole datagrams.
        let large = Traffic { batch: 1.0, body_bytes: 8192.0, balanced: false };
        let (rate, limit) = forecast(&COSTS, &large, &Machines { nodes: 3, cores: 64, link_gbit: 10.0 }).one_leads;
        assert_eq!(limit, Limit::Bandwidth);
        let sent = rate * 2.0 * 8192.0;
        assert!((0.9..1.0).contains(&(sent / 1.25e9)), "{sent} bytes a second of values");
    }

    #[test]
    fn packets_run_out_where_frames_are_small_and_the_card_is_slow() {
        let unbatched = Traffic { batch: 1.0, body_bytes: 0.0, balanced: false };
        let (rate, limit) = forecast(&COSTS, &unbatched, &Machines { nodes: 9, cores: 64, link_gbit: 400.0 }).one_leads;
        assert_eq!(limit, Limit::Packets);
        // The leader of nine sends eight appends and a reply.
        assert!(near(rate, CARD_PACKETS_MAX / 9.0), "{rate}");
    }

    #[test]
    fn more_followers_cost_what_their_packets_cost() {
        let of = |nodes| forecast(&COSTS, &SMALL, &Machines { nodes, cores: 1, link_gbit: 100.0 }).leading_core;
        assert!(near(of(3) / of(9), 3.0 / 2.25), "2 + 16 / 16 ends instead of 2 + 4 / 16");
    }

    #[test]
    fn balanced_replies_relieve_the_leader_of_large_values() {
        let machines = Machines { nodes: 3, cores: 64, link_gbit: 10.0 };
        let plain = forecast(&COSTS, &Traffic { body_bytes: 1024.0, ..SMALL }, &machines).one_leads.0;
        let balanced =
            forecast(&COSTS, &Traffic { body_bytes: 1024.0, balanced: true, ..SMALL }, &machines).one_leads.0;
        assert!(balanced > 1.8 * plain, "{balanced} {plain}");
    }

    #[test]
    fn the_batch_follows_from_the_packets_that_nodes_received() {
        for batch in [1.0, 4.0, 32.0] {
            assert!(near(batch_of(1.0 + 4.0 / batch, 3), batch));
        }
        assert!(near(batch_of(0.9, 3), 1024.0) && near(batch_of(50.0, 3), 1.0));
    }
}
