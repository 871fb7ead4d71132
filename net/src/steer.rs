//! Which UDP port, core and queue belong to which shard: pure arithmetic, the same at servers, clients and devices.
//!
//! ```text
//!   shard s of S on C cores:   client port = client base + s     peer port = peer base + s
//!                              core = queue = s mod C
//! ```
//!
//! A device that can be told puts each port on its core's queue; the kernel has a socket for each port, which its core alone
//! reads. What reaches another core all the same, since a card spreads flows by a hash of its own, crosses the mesh: nobody
//! computes that hash anew.

use crate::packet::Packet;
use std::net::SocketAddrV4;
use trimaran_runtime::{MESH_CORES_MAX, MeshEnd};

/// Most shards of a cluster: so many UDP ports are reserved from each base on.
pub const SHARDS_MAX: u16 = 64;

/// How many shards lie on how many cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    shards: u16,
    cores: usize,
}

impl Layout {
    /// One shard on one core.
    pub const ALONE: Layout = Layout { shards: 1, cores: 1 };

    /// `None` where a number is 0 or too large, or there are more cores than shards: those beyond would have nothing to do.
    pub fn new(shards: u16, cores: usize) -> Option<Layout> {
        let fits = (1..=SHARDS_MAX).contains(&shards) && (1..=MESH_CORES_MAX).contains(&cores);
        (fits && cores <= usize::from(shards)).then_some(Layout { shards, cores })
    }

    /// How many shards there are.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// How many cores there are.
    pub fn cores(self) -> usize {
        self.cores
    }

    /// The core of a shard, which is also the number of its queue on a device of several.
    pub fn core_of(self, shard: u16) -> usize {
        usize::from(shard) % self.cores
    }

    /// The shards of a core.
    pub fn shards_of(self, core: usize) -> impl Iterator<Item = u16> {
        (0..self.shards).filter(move |shard| self.core_of(*shard) == core)
    }

    /// The shard that has a port, where shard 0 has `base`.
    pub fn shard_at(self, base: u16, port: u16) -> Option<u16> {
        port.checked_sub(base).filter(|shard| *shard < self.shards)
    }
}

/// Where a shard is reached whose shard 0 is reached at `base`; `None` beyond the last UDP port.
pub fn shard_address(base: SocketAddrV4, shard: u16) -> Option<SocketAddrV4> {
    Some(SocketAddrV4::new(*base.ip(), base.port().checked_add(shard)?))
}

/// Knows the core of every address that the shards of a process have.
#[derive(Debug, Clone)]
pub struct Steering {
    layout: Layout,
    /// Of shard 0: of each node its client and its peer address.
    bases: Vec<SocketAddrV4>,
}

impl Steering {
    /// Of nodes whose shards 0 have these addresses, for clients and for peers.
    pub fn new(layout: Layout, bases: Vec<SocketAddrV4>) -> Steering {
        Steering { layout, bases }
    }

    /// The core whose socket an address is; `None` for one that is no shard's. O(addresses): for what finds no socket here.
    pub fn core_of(&self, address: SocketAddrV4) -> Option<usize> {
        let shard_at = |base: &SocketAddrV4| {
            let same_host = base.ip() == address.ip() || base.ip().is_unspecified();
            self.layout.shard_at(base.port(), address.port()).filter(|_| same_host)
        };
        self.bases.iter().find_map(shard_at).map(|shard| self.layout.core_of(shard))
    }
}

/// What a driver needs to hand on what is another core's.
#[derive(Debug)]
pub(crate) struct Crossing {
    pub(crate) steering: Steering,
    pub(crate) mesh: MeshEnd<Packet>,
}

/// What became of a packet that has no socket here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossed {
    /// It is on its way to its core.
    Sent,
    /// The ring to its core is full, or that core has ended; it is gone.
    Full,
    /// It is nobody's.
    Unbound,
}

impl Crossing {
    pub(crate) fn hand_on(&mut self, packet: Packet) -> Crossed {
        match self.steering.core_of(packet.dst()).filter(|core| *core != self.mesh.core()) {
            None => Crossed::Unbound,
            Some(core) => match self.mesh.send(core, packet) {
                Ok(()) => Crossed::Sent,
                Err(_) => Crossed::Full,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_lie_on_cores_in_turn_and_each_on_one() {
        let layout = Layout::new(5, 2).expect("fits");
        assert_eq!(layout.shards_of(0).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(layout.shards_of(1).collect::<Vec<_>>(), [1, 3]);
        for cores in 1..=64 {
            for shards in cores as u16..=64 {
                let layout = Layout::new(shards, cores).expect("fits");
                let mut all: Vec<u16> = (0..cores).flat_map(|core| layout.shards_of(core)).collect();
                all.sort_unstable();
                assert_eq!(all, (0..shards).collect::<Vec<_>>());
                assert!((0..cores).all(|core| layout.shards_of(core).count() > 0), "no core is idle");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_no_layout() {
        for (shards, cores) in [(0, 1), (1, 0), (65, 1), (2, 3), (64, 65)] {
            assert_eq!(Layout::new(shards, cores), None, "{shards} on {cores}");
        }
        assert_eq!(Layout::new(1, 1), Some(Layout::ALONE));
    }

    #[test]
    fn a_port_names_its_shard_and_that_its_core() {
        let base = |text: &str| text.parse::<SocketAddrV4>().expect("an address");
        let layout = Layout::new(4, 2).expect("fits");
        let steering = Steering::new(layout, vec![base("10.0.0.1:8000"), base("10.0.0.1:8100"), base("0.0.0.0:9000")]);
        let core = |text: &str| steering.core_of(base(text));
        assert_eq!((core("10.0.0.1:8000"), core("10.0.0.1:8003"), core("10.0.0.1:8102")), (Some(0), Some(1), Some(0)));
        assert_eq!((core("10.0.0.1:7999"), core("10.0.0.1:8004"), core("10.0.0.2:8000")), (None, None, None));
        assert_eq!(core("10.0.0.7:9001"), Some(1), "bound on every address");
        assert_eq!(shard_address(base("10.0.0.1:8000"), 3), Some(base("10.0.0.1:8003")));
        assert_eq!(shard_address(base("10.0.0.1:65535"), 1), None);
    }
}
