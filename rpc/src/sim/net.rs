//! What the simulated network does to datagrams, as a test asks for it.

use std::time::Duration;
use trimaran_net::Link;

/// The network of a simulated cluster: every link between nodes, and between clients and nodes, in both directions.
///
/// Chances are between 0 and 1 and drawn for each datagram by itself. A datagram that is neither lost nor held back arrives
/// in the order of sending.
///
/// ```
/// use std::time::Duration;
/// use trimaran_rpc::sim::Net;
///
/// let rough = Net::lossy(0.01).reorder(0.05).duplicate(0.02);
/// let far = Net::lan().delay(Duration::from_millis(1), Duration::from_millis(3));
/// assert_ne!(rough, far);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Net {
    link: Link,
}

impl Default for Net {
    fn default() -> Self {
        Net::lan()
    }
}

impl Net {
    /// A quiet local network: 5 to 15 microseconds on the way, nothing lost.
    pub const fn lan() -> Net {
        Net { link: Link::new(Duration::from_micros(5), Duration::from_micros(15)) }
    }

    /// A local network that loses datagrams at this chance.
    pub const fn lossy(chance: f64) -> Net {
        Net::lan().loss(chance)
    }

    /// Datagrams vanish at this chance.
    pub const fn loss(mut self, chance: f64) -> Net {
        self.link.loss = chance;
        self
    }

    /// Datagrams arrive twice at this chance, each copy after a time of its own.
    pub const fn duplicate(mut self, chance: f64) -> Net {
        self.link.duplicate = chance;
        self
    }

    /// Datagrams are held back at this chance, by up to 1 ms unless [`Net::reorder_by`] says otherwise, while later ones pass.
    pub const fn reorder(mut self, chance: f64) -> Net {
        self.link.reorder = chance;
        self
    }

    /// How long a datagram is held back at most.
    pub const fn reorder_by(mut self, longest: Duration) -> Net {
        self.link.reorder_delay = longest;
        self
    }

    /// Time on the way, drawn evenly between the two.
    pub const fn delay(mut self, shortest: Duration, longest: Duration) -> Net {
        self.link.delay_min = shortest;
        self.link.delay_max = longest;
        self
    }

    pub(super) fn link(&self) -> Link {
        self.link
    }
}
