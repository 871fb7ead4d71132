//! Whom the port under a node or a client keeps reachable whatever strangers send: the members of its cluster.

use std::net::Ipv4Addr;
use trimaran_net::Net;
use trimaran_raft::{Configuration, LogIndex};

/// Pins members on one core's port, for as long as that is open. A member that is removed stays pinned until then.
pub(crate) struct Pins {
    net: Net,
    /// The configuration whose members are pinned.
    followed: LogIndex,
}

impl Pins {
    pub(crate) fn new(net: Net) -> Self {
        Pins { net, followed: LogIndex::ZERO }
    }

    /// Pins these hosts. One for which the port has no room is served as strangers are.
    pub(crate) fn pin(&self, hosts: impl IntoIterator<Item = Ipv4Addr>) {
        for host in hosts {
            if !self.net.pin(host) {
                tracing::warn!("{host} is not pinned: a flood from made-up addresses may cut it off");
            }
        }
    }

    /// Pins the members of the configuration that stands at `index` of the log, once.
    pub(crate) fn follow(&mut self, index: LogIndex, configuration: &Configuration) {
        if index != self.followed {
            self.followed = index;
            self.pin_members(configuration);
        }
    }

    /// Pins the members of a configuration that begins to be in force.
    pub(crate) fn pin_members(&self, configuration: &Configuration) {
        self.pin(configuration.members().flat_map(|member| [*member.peer.ip(), *member.client.ip()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;
    use trimaran_net::{Framed, NetConfig, NetDriver, SimNet, StackConfig};
    use trimaran_raft::{Incarnation, Member, NodeId, Slot};

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn member(last: u8) -> Member {
        let id = NodeId { slot: Slot(last), incarnation: Incarnation(1) };
        let address = |port| SocketAddrV4::new(ip(last), port);
        Member { id, client: address(1), peer: address(2) }
    }

    #[test]
    fn members_are_pinned_as_the_log_brings_them_and_stay_so() {
        let port = Framed::new(SimNet::new(1).frame_port(ip(1)), StackConfig::new(ip(1), 24));
        let (driver, net) = NetDriver::new(port, NetConfig::default());
        let pinned = || {
            let mut pinned = 0;
            net.counters(&mut |name, count| pinned += if name == "stack.pins" { count } else { 0 });
            pinned
        };
        let mut pins = Pins::new(net.clone());
        pins.pin([1, 2].map(ip));
        assert_eq!(pinned(), 1, "a host is no neighbour of its own");
        let configuration = |voters: &[u8], learners: &[u8]| Configuration {
            voters: voters.iter().copied().map(member).collect(),
            learners: learners.iter().copied().map(member).collect(),
            ..Configuration::default()
        };
        pins.follow(LogIndex(7), &configuration(&[1, 2], &[3]));
        assert_eq!(pinned(), 2);
        pins.follow(LogIndex(7), &configuration(&[1, 4], &[]));
        assert_eq!(pinned(), 2, "followed already");
        pins.follow(LogIndex(8), &configuration(&[1, 4], &[]));
        assert_eq!(pinned(), 3);
        drop(driver);
        assert!(!net.pin(ip(5)), "closed");
    }
}
