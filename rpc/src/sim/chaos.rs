//! Faults for a simulated cluster: each seed enables some kinds, at a strength of its own, and strikes with them at
//! random times. What each kind has done is counted, since a fault that never fired proves nothing.

mod disks;
mod halted;
mod members;
mod network;

use super::cluster::{Cluster, NodeIndex, node_ip};
use crate::r2p2::{Header, MessageType};
use crate::service::Service;
use disks::Atlas;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{FaultCounters, Link};
use trimaran_raft::Configuration;
use trimaran_runtime::Instant;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)+ }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// The kind's name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)+ }
            }
        }
    };
}

kinds! {
    /// Datagrams vanish.
    Loss = "loss",
    /// Datagrams arrive twice: those between peers, and others where [`Chaos::duplicate_all`] allows it.
    Duplicate = "duplicate",
    /// Datagrams overtake others.
    Reorder = "reorder",
    /// Bits of peer datagrams flip.
    Corrupt = "corrupt",
    /// Peer datagrams are cut short.
    Truncate = "truncate",
    /// Links take longer than a heartbeat.
    Delay = "delay",
    /// The nodes fall apart into two groups.
    Partition = "partition",
    /// One node hears another but is not heard.
    OneWay = "one_way",
    /// Two nodes see each other only through a third.
    Bridge = "bridge",
    /// A client loses the leader, and only the leader.
    ClientCut = "client_cut",
    /// A node is killed.
    Kill = "kill",
    /// A killed node starts again, empty.
    Restart = "restart",
    /// A node stands still for up to three election timeouts.
    Pause = "pause",
    /// A node stands still for less than half an election timeout.
    ShortPause = "short_pause",
    /// A node's clock runs fast or slow.
    ClockRate = "clock_rate",
    /// A node's clock jumps ahead.
    ClockJump = "clock_jump",
    /// A leader's clock jumps over the whole life of every session.
    ClockLeap = "clock_leap",
    /// A node stands still for up to three seconds: for the others it is long dead, and remembers.
    LongPause = "long_pause",
    /// A node stands still again and again, each time for less than half an election timeout.
    Stutter = "stutter",
    /// Datagrams of more than 1000 bytes vanish.
    LargeLoss = "large_loss",
    /// Old datagrams arrive once more, also at those who have been started again since.
    Replay = "replay",
    /// Old datagrams arrive once more, from a source that has not sent them.
    Spoof = "spoof",
    /// Hundreds of datagrams of noise arrive at a node at once.
    Flood = "flood",
    /// Each node sees its two neighbours of a row only.
    Chain = "chain",
    /// A link between two nodes goes down and up many times.
    Flap = "flap",
    /// A node is cut off from everybody for up to three seconds.
    LongCut = "long_cut",
    /// Nodes that ask to be taken in become voters.
    Grow = "grow",
    /// Voters are taken out, dead or alive.
    Shrink = "shrink",
    /// Voters give way to others in one joint change.
    Replace = "replace",
    /// The cluster goes from one voter to three, five, three and one.
    Stairs = "stairs",
    /// The leader is taken out.
    RemoveLeader = "remove_leader",
    /// A node that asks to be taken in becomes a learner.
    Learner = "learner",
    /// A learner becomes a voter.
    Promote = "promote",
    /// A change is taken back while it is under way.
    Cancel = "cancel",
    /// A second node claims the seat of another.
    Twin = "twin",
    /// A node that was taken out starts again and asks to be taken in.
    Return = "return",
    /// Leadership is handed over.
    Transfer = "transfer",
    /// Leadership is to be handed to a node that is dead, stands still or is no voter.
    TransferLame = "transfer_lame",
    /// A leader says farewell, and may be killed right afterwards.
    Farewell = "farewell",
    /// Who is sending a snapshot is cut off from the receiver or stands still, or leadership moves.
    SnapshotCut = "snapshot_cut",
    /// The power of a node's machine is lost.
    PowerCut = "power_cut",
    /// The power of all machines is lost at one moment.
    Blackout = "blackout",
    /// A write that was not durable is undone by a loss of power, as a whole or in part.
    UnsyncedLoss = "unsynced_loss",
    /// A write that was not durable is left in part by a loss of power.
    TornWrite = "torn_write",
    /// A change of a file's name is undone by a loss of power.
    LostName = "lost_name",
    /// Bits of a record in a log flip.
    LogRot = "log_rot",
    /// A bit of the newest snapshot flips.
    SnapshotRot = "snapshot_rot",
    /// A bit of a copy of a superblock flips.
    SuperblockRot = "superblock_rot",
    /// A write goes elsewhere, and nobody is told.
    Misdirect = "misdirected_write",
    /// A durable write is not, and nobody is told.
    LostWrite = "lost_write",
    /// A disk fails to write or to sync.
    DiskError = "disk_error",
    /// A disk answers nothing for up to three seconds, in some seeds for longer than any log can hold.
    DiskStall = "disk_stall",
    /// A disk takes long for every other operation.
    DiskSlow = "disk_slow",
    /// A disk has no room.
    DiskFull = "disk_full",
    /// An empty disk takes the place of a node's own.
    DiskWipe = "disk_wipe",
}

impl Fault {
    /// Whether it needs somebody who decides on the members: those have a part of the swarm of their own.
    pub const fn is_of_members(self) -> bool {
        use Fault::{
            Cancel, Farewell, Grow, Learner, Promote, RemoveLeader, Replace, Return, Shrink, SnapshotCut, Stairs,
        };
        use Fault::{Transfer, TransferLame, Twin};
        matches!(
            self,
            Grow | Shrink
                | Replace
                | Stairs
                | RemoveLeader
                | Learner
                | Promote
                | Cancel
                | Twin
                | Return
                | Transfer
                | TransferLame
                | Farewell
                | SnapshotCut
        )
    }

    /// Whether it needs nodes that have disks.
    pub const fn is_of_disks(self) -> bool {
        self as usize >= Fault::PowerCut as usize
    }

    /// Whether services that count on log time may be struck by it without being asked.
    const fn is_harmless(self) -> bool {
        !self.is_of_members() && !self.is_of_disks() && !matches!(self, Fault::ClockLeap)
    }
}

/// How often each kind has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        FaultCounts([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// How often one kind has struck.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &FaultCounts) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    pub(super) fn add_links(&mut self, faults: FaultCounters) {
        for (fault, count) in [
            (Fault::Loss, faults.lost),
            (Fault::LargeLoss, faults.lost_large),
            (Fault::Duplicate, faults.duplicated),
            (Fault::Reorder, faults.reordered),
            (Fault::Corrupt, faults.corrupted),
            (Fault::Truncate, faults.truncated),
        ] {
            self.add(fault, count);
        }
    }

    pub(super) fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }
}

/// How far a leader's clock leaps: longer than any session lives without a call.
const LEAP: Duration = Duration::from_secs(700);
/// Leaps in one run: keys and locks of an hour outlive them.
const LEAPS_MAX: u32 = 4;
/// How many times as long as elsewhere disks stall and are full in some seeds: mostly until all is healed.
const LONG: u32 = 8;
/// Datagrams kept for a replay.
const KEPT_PACKETS: usize = 256;
/// Strikes before which the network is healed, of a hundred: so that faults also meet a cluster that works.
const HEALED_PERCENT: u32 = 15;

/// How often a snapshot is looked for that is to be disturbed: each takes about a millisecond.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// What follows a strike at a later time.
#[derive(Debug, Clone, Copy)]
enum Later {
    Pause(NodeIndex, Duration),
    Link { from: NodeIndex, to: NodeIndex, up: bool },
    Join(NodeIndex),
    Cancel,
    Kill(NodeIndex),
    PowerCycle(NodeIndex),
    PowerBack(NodeIndex),
    MendDisk(NodeIndex),
}

/// Strikes a cluster with the faults that one seed has drawn.
pub struct Chaos {
    rng: Pcg64Mcg,
    enabled: Vec<Fault>,
    links: Link,
    clients: Vec<Ipv4Addr>,
    duplicates_all: bool,
    dead: Vec<NodeIndex>,
    atlas: Atlas,
    later: Vec<(Instant, Later)>,
    /// What the voters may become by a change that was begun.
    target: Option<Configuration>,
    stair: usize,
    /// The next snapshot is to be disturbed.
    awaits_snapshot: bool,
    leaps: u32,
    /// How many times as long as drawn disks stall and are full.
    disk_patience: u32,
    every: Duration,
    next_strike: Instant,
    counts: FaultCounts,
}

impl Chaos {
    /// Draws which faults strike, how hard and how often; none that changes the members or lets sessions expire.
    pub fn new(seed: u64, clients: Vec<Ipv4Addr>) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(seed ^ 0x0063_6861_6f73);
        let kinds = Fault::ALL.iter().copied().filter(|fault| fault.is_harmless());
        Chaos::drawn(rng, clients, kinds.collect(), 30..400)
    }

    /// As [`Chaos::new`], from every kind there is but those of disks. Of three seeds one is mostly about the members.
    pub fn of_everything(seed: u64, clients: Vec<Ipv4Addr>) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x0063_6861_6f73);
        let mut kinds: Vec<_> = Fault::ALL.iter().copied().filter(|fault| !fault.is_of_disks()).collect();
        kinds.shuffle(&mut rng);
        if rng.random_range(0..3) == 0 {
            // Half of the others at most, so that the drawn ones are mostly of this kind.
            let (mut members, others): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|fault| fault.is_of_members());
            let few = rng.random_range(0..others.len() / 2);
            members.extend(&others[..few]);
            return Chaos::drawn(rng, clients, members, 10..100);
        }
        Chaos::drawn(rng, clients, kinds, 20..300)
    }

    /// For clusters whose nodes have disks: those faults, and some of all others.
    pub fn of_disks(seed: u64, clients: Vec<Ipv4Addr>) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x0064_6973_6b73);
        let mut kinds = Fault::ALL.to_vec();
        kinds.shuffle(&mut rng);
        let (mut disks, others): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|fault| fault.is_of_disks());
        let some = rng.random_range(0..others.len());
        disks.extend(&others[..some]);
        // By the seed alone, so that the draws of all seeds stay as they were: in some, what a disk suffers outlasts what a log can hold.
        let disk_patience = if seed / 2 % 4 == 3 { LONG } else { 1 };
        Chaos { disk_patience, ..Chaos::drawn(rng, clients, disks, 10..150) }
    }

    fn drawn(
        mut rng: Pcg64Mcg,
        clients: Vec<Ipv4Addr>,
        mut enabled: Vec<Fault>,
        every_ms: std::ops::Range<u64>,
    ) -> Self {
        enabled.shuffle(&mut rng);
        let kinds = rng.random_range(0..=enabled.len());
        enabled.truncate(kinds);
        let mut strength = |fault, most: f64| match enabled.contains(&fault) {
            true => most * rng.random::<f64>().powi(2),
            false => 0.0,
        };
        let mut links = Link {
            loss: strength(Fault::Loss, 0.5),
            loss_large: strength(Fault::LargeLoss, 1.0),
            duplicate: strength(Fault::Duplicate, 0.2),
            reorder: strength(Fault::Reorder, 0.3),
            corrupt: strength(Fault::Corrupt, 0.05),
            truncate: strength(Fault::Truncate, 0.05),
            ..Link::new(Duration::from_micros(20), Duration::from_micros(100))
        };
        links.reorder_delay = Duration::from_micros(rng.random_range(50..10_000));
        let every = Duration::from_millis(rng.random_range(every_ms));
        Chaos {
            rng,
            enabled,
            links,
            clients,
            duplicates_all: false,
            dead: Vec::new(),
            atlas: Atlas::default(),
            later: Vec::new(),
            target: None,
            stair: 0,
            awaits_snapshot: false,
            leaps: 0,
            disk_patience: 1,
            every,
            next_strike: Instant::ZERO,
            counts: FaultCounts::default(),
        }
    }

    /// Lets client datagrams and forwarded requests arrive twice, too. Only for clients that give each write a session
    /// and a number: plain R2P2 has no identity for its requests, and a copy of one is another one.
    pub fn duplicate_all(mut self, allowed: bool) -> Self {
        self.duplicates_all = allowed;
        self
    }

    /// One more client that may be cut off.
    pub fn add_client(&mut self, client: Ipv4Addr) {
        self.clients.push(client);
    }

    /// Applies the links' own faults. Client datagrams are never corrupted or cut: plain R2P2 has no checksum beside UDP's.
    pub fn begin<S: Service>(&mut self, cluster: &Cluster<S>) {
        if !self.duplicates_all {
            // Raft's own may come twice whatever the clients are.
            cluster.network().set_duplicate_filter(Rc::new(|packet| {
                Header::parse(packet.data()).is_ok_and(|(header, _)| header.kind == MessageType::Peer)
            }));
        }
        if self.enabled.iter().any(|fault| matches!(fault, Fault::Replay | Fault::Spoof)) {
            cluster.network().keep_packets(KEPT_PACKETS);
        }
        self.set_links(cluster, self.links);
        self.next_strike = cluster.now() + self.pause();
    }

    fn pause(&mut self) -> Duration {
        self.every.mul_f64(0.5 + self.rng.random::<f64>())
    }

    /// Runs the cluster for `span`, striking now and then.
    pub fn run<S: Service>(&mut self, cluster: &mut Cluster<S>, span: Duration) {
        let end = cluster.now() + span;
        while cluster.now() < end && cluster.violation().is_none() {
            let later = self.later.iter().map(|(at, _)| *at).min().unwrap_or(end);
            let look = if self.awaits_snapshot { cluster.now() + LOOK_EVERY } else { end };
            cluster.run_for(self.next_strike.min(later).min(look).min(end).saturating_since(cluster.now()));
            self.tick(cluster);
        }
    }

    /// Strikes if it is time to.
    pub fn tick<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let now = cluster.now();
        self.find_dead(cluster);
        while let Some(place) = self.later.iter().position(|(at, _)| now >= *at) {
            let (_, what) = self.later.swap_remove(place);
            self.follow_up(cluster, what);
        }
        if self.awaits_snapshot && self.cut_snapshot(cluster) {
            self.awaits_snapshot = false;
            self.counts.add(Fault::SnapshotCut, 1);
        }
        if now >= self.next_strike {
            self.strike(cluster);
            self.next_strike = now + self.pause();
        }
    }

    /// Ends every fault, restarts whom it killed, and counts what links have done since the network began.
    pub fn end<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        self.heal(cluster);
        self.count_disks(cluster);
        self.counts.add_links(cluster.network().counters().faults);
    }

    /// Ends every fault, restarts whom it killed, and lets clocks run true again.
    pub(super) fn heal<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        self.later.clear();
        self.awaits_snapshot = false;
        cluster.network().heal();
        cluster.network().keep_packets(0);
        self.set_links(cluster, Link::new(Duration::from_micros(20), Duration::from_micros(100)));
        let now = cluster.now();
        for node in 0..cluster.nodes() {
            let core = cluster.core(NodeIndex(node));
            cluster.world().set_clock_rate(core, 0);
            cluster.world().pause(core, now);
        }
        self.heal_disks(cluster);
        self.later.clear();
        for node in std::mem::take(&mut self.dead) {
            self.restart(cluster, node);
        }
    }

    /// How often each kind has struck; complete after [`Chaos::end`].
    pub fn counts(&self) -> &FaultCounts {
        &self.counts
    }

    /// The kinds that this seed may strike with.
    pub fn enabled(&self) -> &[Fault] {
        &self.enabled
    }

    fn strike<S: Service>(&mut self, cluster: &mut Cluster<S>) {
        let Some(&fault) = self.enabled.choose(&mut self.rng) else { return };
        if self.rng.random_range(0..100) < HEALED_PERCENT {
            cluster.network().heal();
        }
        let target = self.target(cluster);
        let struck = match fault {
            _ if fault.is_of_members() => self.strike_members(cluster, fault, target),
            _ if fault.is_of_disks() => self.strike_disks(cluster, fault, target),
            Fault::Kill => self.kill(cluster, target),
            Fault::Restart => {
                if !self.dead.is_empty() {
                    let node = self.dead.swap_remove(self.rng.random_range(0..self.dead.len()));
                    self.restart(cluster, node);
                }
                false
            }
            Fault::Pause => self.stand_still(cluster, target, 1..600),
            Fault::ShortPause => self.stand_still(cluster, target, 1..50),
            Fault::LongPause => self.stand_still(cluster, target, 600..3_000),
            Fault::Stutter => {
                let mut at = cluster.now();
                for _ in 0..self.rng.random_range(5..30) {
                    let span = self.some_ms(1..50);
                    self.later.push((at, Later::Pause(target, span)));
                    at = at + span + self.some_ms(1..20);
                }
                true
            }
            Fault::ClockRate => {
                let ppm = self.rng.random_range(-200_000..=200_000);
                let core = cluster.core(target);
                cluster.world().set_clock_rate(core, ppm);
                true
            }
            Fault::ClockJump => {
                let by = self.some_ms(1..1_000);
                let core = cluster.core(target);
                cluster.world().jump_clock(core, by);
                true
            }
            Fault::ClockLeap => {
                self.leaps += 1;
                let leader = cluster.leader().filter(|_| self.leaps <= LEAPS_MAX);
                if let Some(core) = leader.map(|leader| cluster.core(leader)) {
                    cluster.world().jump_clock(core, LEAP);
                }
                leader.is_some()
            }
            _ => self.strike_network(cluster, fault, target),
        };
        self.counts.add(fault, u64::from(struck));
    }

    /// Half of the strikes look for the leader, where they hurt most.
    fn target<S: Service>(&mut self, cluster: &Cluster<S>) -> NodeIndex {
        let any = NodeIndex(self.rng.random_range(0..cluster.nodes()));
        match cluster.leader() {
            Some(leader) if self.rng.random() => leader,
            _ => any,
        }
    }

    fn some_ms(&mut self, span: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(span))
    }

    fn follow_up<S: Service>(&mut self, cluster: &mut Cluster<S>, what: Later) {
        match what {
            Later::Pause(node, span) => {
                let (core, until) = (cluster.core(node), cluster.now() + span);
                cluster.world().pause(core, until);
            }
            Later::Link { from, to, up } => {
                for (from, to) in [(from, to), (to, from)] {
                    match up {
                        true => cluster.network().unblock(node_ip(from.0), node_ip(to.0)),
                        false => cluster.network().block(node_ip(from.0), node_ip(to.0)),
                    }
                }
            }
            Later::Join(node) => self.isolate(cluster, node, false),
            Later::Cancel => {
                let cancelled = cluster.cancel_change();
                self.counts.add(Fault::Cancel, u64::from(cancelled));
            }
            Later::Kill(node) => {
                let killed = self.kill(cluster, node);
                self.counts.add(Fault::Kill, u64::from(killed));
            }
            Later::PowerCycle(node) => self.power_cycle(cluster, node),
            Later::PowerBack(node) => {
                self.dead.retain(|dead| *dead != node);
                self.restart(cluster, node);
            }
            Later::MendDisk(node) => self.mend(cluster, node),
        }
    }

    fn stand_still<S: Service>(
        &mut self,
        cluster: &mut Cluster<S>,
        node: NodeIndex,
        span_ms: std::ops::Range<u64>,
    ) -> bool {
        let until = cluster.now() + self.some_ms(span_ms);
        let core = cluster.core(node);
        let lives = cluster.node(node).is_some();
        if lives {
            cluster.world().pause(core, until);
        }
        lives
    }

    /// Kills a node, where nothing is lost by it: neither now nor by the change of the members that is under way. One with a disk remembers.
    fn kill<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) -> bool {
        self.forget_target(cluster);
        let planned: Vec<_> = self.target.iter().cloned().collect();
        let remembers = cluster.durability().is_some();
        let is_harmless = cluster.node(node).is_some()
            && !self.is_exposed(node)
            && (remembers || cluster.can_lose_under(node, &planned));
        if is_harmless {
            cluster.kill(node);
            self.dead.push(node);
        }
        is_harmless
    }

    /// Starts a node again, unless the caller has done so by hand.
    fn restart<S: Service>(&mut self, cluster: &mut Cluster<S>, node: NodeIndex) {
        if cluster.node(node).is_none() {
            self.mend(cluster, node);
            cluster.restart(node);
            self.counts.add(Fault::Restart, 1);
        }
    }
}

pub(super) fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| (0..nodes).filter(move |&to| to != from).map(move |to| (from, to)))
}
