//! What happens to the nodes of a simulated cluster while its clients work, as a test asks for it.

use super::chaos::Fault;
use std::time::Duration;

/// Time between two strikes, on average, unless the test says otherwise.
const EVERY: Duration = Duration::from_millis(100);

/// Which faults strike while clients work, and how often. Constructors begin with one kind, methods add others:
///
/// ```
/// use std::time::Duration;
/// use trimaran_rpc::sim::Faults;
///
/// let storm = Faults::crash_leader().every_ms(50).partition(1).pause(Duration::from_millis(300));
/// let both = Faults::crash_any().and(Faults::crash_leader());
/// assert!(storm != both && Faults::default() == Faults::none());
/// ```
///
/// At each strike one of the kinds is drawn. Never is a node killed without which the cluster could not go on, whether
/// others are down or have yet to be taken in again after their restart: such a strike passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub(super) crash_leader: bool,
    pub(super) crash_any: bool,
    /// Nodes that are cut off at a time.
    pub(super) partition: usize,
    pub(super) longest_pause: Option<Duration>,
    pub(super) drift_ppm: u32,
    pub(super) swarm: bool,
    pub(super) every: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Faults::none()
    }
}

impl Faults {
    /// Peace.
    pub const fn none() -> Faults {
        Faults {
            crash_leader: false,
            crash_any: false,
            partition: 0,
            longest_pause: None,
            drift_ppm: 0,
            swarm: false,
            every: EVERY,
        }
    }

    /// The leader is killed, with everything in its memory, and starts again 0.1 to 0.6 s later.
    pub const fn crash_leader() -> Faults {
        Faults { crash_leader: true, ..Faults::none() }
    }

    /// Any node is killed, with everything in its memory, and starts again 0.1 to 0.6 s later.
    pub const fn crash_any() -> Faults {
        Faults { crash_any: true, ..Faults::none() }
    }

    /// Each seed draws its own kinds, strengths and pace, from every [`Fault`](super::chaos::Fault) of network, time and
    /// processes, damaged peer datagrams and one-way links included; the members stay who they are. It sets the links itself, over what the test's [`Net`](super::Net)
    /// says, and keeps its own time instead of [`Faults::every`].
    pub const fn swarm() -> Faults {
        Faults { swarm: true, ..Faults::none() }
    }

    /// Strikes so often on average; between half and one and a half times of it. At first 100 ms.
    pub const fn every(mut self, time: Duration) -> Faults {
        self.every = time;
        self
    }

    /// [`Faults::every`], in milliseconds.
    pub const fn every_ms(self, time_ms: u64) -> Faults {
        self.every(Duration::from_millis(time_ms))
    }

    /// So many nodes are cut off from the others and from the clients, together, for 50 to 500 ms. One partition at a time.
    pub const fn partition(mut self, nodes: usize) -> Faults {
        self.partition = nodes;
        self
    }

    /// A node stands still for up to so long, as a virtual machine that is moved. Election timeouts are 100 to 200 ms.
    pub const fn pause(mut self, longest: Duration) -> Faults {
        self.longest_pause = Some(longest);
        self
    }

    /// Nodes' clocks run fast or slow by up to so many microseconds a second.
    pub const fn clock_drift(mut self, ppm: u32) -> Faults {
        self.drift_ppm = ppm;
        self
    }

    /// Everything of both, at the shorter of the two times.
    pub fn and(self, other: Faults) -> Faults {
        Faults {
            crash_leader: self.crash_leader || other.crash_leader,
            crash_any: self.crash_any || other.crash_any,
            partition: self.partition.max(other.partition),
            longest_pause: self.longest_pause.max(other.longest_pause),
            drift_ppm: self.drift_ppm.max(other.drift_ppm),
            swarm: self.swarm || other.swarm,
            every: self.every.min(other.every),
        }
    }

    /// The kinds asked for one by one, not those that a swarm draws.
    pub(super) fn kinds(&self) -> Vec<Fault> {
        let kinds = [
            (self.crash_leader || self.crash_any, Fault::Kill),
            (self.partition > 0, Fault::Partition),
            (self.longest_pause.is_some(), Fault::Pause),
            (self.drift_ppm > 0, Fault::ClockRate),
        ];
        kinds.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, fault)| fault).collect()
    }
}
