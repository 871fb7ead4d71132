//! Several machines and their logs in one test: messages as bytes in a list, disks that complete when told, a clock that
//! only the test moves. After every flush the invariants are checked over all nodes.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod churn;
pub(crate) mod clocks;
pub(crate) mod crashes;
pub(crate) mod device;
pub(crate) mod disk;
pub(crate) mod invariants;
pub(crate) mod journal;
pub(crate) mod reads;
pub(crate) mod rules;
pub(crate) mod staged;
pub(crate) mod table;
pub(crate) mod walk;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::{Context, Poll};

use disk::Disk;
use invariants::Invariants;
use trimaran_raft::{
    Accepted, Action, AppendHead, AppendWriter, Body, ClusterId, Configuration, DropReason, EntryHeader, Envelope,
    Error, Input, Log, LogIndex, Machine, Member, Message, More, Nanos, NodeId, Outgoing, Proposal, ReceivedSnapshot,
    Refused, Role, ShardConfig, Snapshot, Storage, Term, Transport, state_hash, transmit,
};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);
pub(crate) const MS: u64 = 1_000_000;
/// One way between any two nodes, unless the test delivers by hand.
pub(crate) const LATENCY_NS: u64 = 50_000;
pub(crate) const PAYLOAD_BYTES: usize = 1464;

/// A datagram on its way.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) due: u64,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Node {
    /// Its clock gains so many millionths on the cluster's time, and has jumped ahead by so much.
    pub(crate) ppm: i64,
    pub(crate) ahead_ns: u64,
    pub(crate) config: ShardConfig,
    pub(crate) machine: Machine,
    pub(crate) log: Log,
    pub(crate) disk: Disk,
    pub(crate) up: bool,
    /// Applies what is committed at once.
    pub(crate) applies: bool,
    pub(crate) digest: u64,
    /// Its state goes wrong at this entry, in a way of its own.
    pub(crate) goes_wrong_at: Option<(LogIndex, u64)>,
    /// Reads under way: ticket, and the index that the read must at least see.
    pub(crate) reads: Vec<(u64, LogIndex)>,
    pub(crate) answered: Vec<(u64, LogIndex)>,
    pub(crate) failed_reads: u64,
    pub(crate) halted: bool,
    pub(crate) dropped: Vec<DropReason>,
    /// Gives out a snapshot of `state_bytes` when one is wanted.
    pub(crate) offers: bool,
    pub(crate) state_bytes: usize,
    received: Option<ReceivedSnapshot>,
    /// The last state that it was sent.
    pub(crate) state: Option<Vec<u8>>,
    /// Snapshots that replaced its state.
    pub(crate) installed: Vec<LogIndex>,
}

type Filter = Box<dyn FnMut(usize, usize, &Message<'_>) -> bool>;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) now: u64,
    /// One-way links that lose everything.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Sees every message before it leaves; false loses it.
    pub(crate) filter: Option<Filter>,
    pub(crate) invariants: Invariants,
    pub(crate) payload_bytes: usize,
    wanted: bool,
    /// Snapshots that replaced a state, in all lives.
    pub(crate) snapshots: u64,
}

pub(crate) fn member(index: usize, incarnation: u64) -> Member {
    let ip = Ipv4Addr::new(127, 0, 0, index as u8 + 1);
    Member {
        id: NodeId::new(index as u8 + 1, incarnation),
        client: SocketAddrV4::new(ip, 8000),
        peer: SocketAddrV4::new(ip, 8100),
    }
}

/// Puts what is sent into the list of flights.
struct Wire<'a> {
    from: usize,
    due: u64,
    payload_bytes: usize,
    out: &'a mut Vec<Flight>,
}

impl Transport for Wire<'_> {
    fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        let mut bytes = vec![0; self.payload_bytes];
        let length = write(&mut bytes);
        bytes.truncate(length);
        assert!(length > 0, "an empty datagram");
        let to = usize::from(to.peer.ip().octets()[3]) - 1;
        self.out.push(Flight { from: self.from, to, due: self.due, bytes });
        true
    }

    fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        Poll::Pending
    }
}

impl Cluster {
    /// `count` nodes of one cluster, formed, at time 0.
    pub(crate) fn new(count: usize) -> Cluster {
        Cluster::with(count, |_| {})
    }

    /// As [`Cluster::new`], with a change to each node's configuration.
    pub(crate) fn with(count: usize, change: impl Fn(&mut ShardConfig)) -> Cluster {
        let mut cluster = Cluster::unformed(count, change);
        let members: Vec<Member> = (0..count).map(|index| member(index, 1)).collect();
        for index in 0..count {
            let node = &mut cluster.nodes[index];
            node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log).expect("a fresh node");
            cluster.flush(index);
        }
        cluster
    }

    /// `count` nodes, of which the first `voters` form a cluster; the others ask to be taken in.
    pub(crate) fn of_some(count: usize, voters: usize) -> Cluster {
        Cluster::of_some_with(count, voters, |_| {})
    }

    /// As [`Cluster::of_some`], with a change to each node's configuration.
    pub(crate) fn of_some_with(count: usize, voters: usize, change: impl Fn(&mut ShardConfig)) -> Cluster {
        let mut cluster = Cluster::unformed(count, change);
        let members: Vec<Member> = (0..voters).map(|index| member(index, 1)).collect();
        for index in 0..voters {
            let node = &mut cluster.nodes[index];
            node.machine.bootstrap(CLUSTER, &members, 7, &mut node.log).expect("a fresh node");
            cluster.flush(index);
        }
        cluster
    }

    /// `count` nodes that know no cluster.
    pub(crate) fn unformed(count: usize, change: impl Fn(&mut ShardConfig)) -> Cluster {
        let node = |index: usize| {
            let mut config = ShardConfig::new(member(index, 1), index as u64 + 1);
            config.contacts = (0..count).map(|other| member(other, 1).peer).collect();
            change(&mut config);
            Node::new(config, 0, PAYLOAD_BYTES)
        };
        Cluster {
            nodes: (0..count).map(node).collect(),
            flights: Vec::new(),
            now: 0,
            cut: BTreeSet::new(),
            filter: None,
            invariants: Invariants::default(),
            payload_bytes: PAYLOAD_BYTES,
            wanted: false,
            snapshots: 0,
        }
    }

    pub(crate) fn machine(&self, index: usize) -> &Machine {
        &self.nodes[index].machine
    }

    pub(crate) fn log(&self, index: usize) -> &Log {
        &self.nodes[index].log
    }

    pub(crate) fn terms(&self, index: usize) -> Vec<u64> {
        let log = self.log(index);
        (log.first().0..=log.last().0).map(|at| log.term_at(LogIndex(at)).expect("held").0).collect()
    }

    /// The leader of the highest term among the nodes that are up.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leaders = (0..self.nodes.len()).filter(|index| self.nodes[*index].up && self.machine(*index).is_leader());
        leaders.max_by_key(|index| self.machine(*index).term())
    }

    /// Takes an input in and flushes.
    pub(crate) fn step(&mut self, index: usize, input: Input<'_>) -> Result<Accepted, Refused> {
        let result = self.step_only(index, input);
        self.flush(index);
        result
    }

    /// Takes an input in without a flush, as the second of two in one turn.
    pub(crate) fn step_only(&mut self, index: usize, input: Input<'_>) -> Result<Accepted, Refused> {
        let now = self.local(index);
        let node = &mut self.nodes[index];
        let result = node.machine.step(now, input, &mut node.log);
        if let Err(Refused::Dropped(reason)) = result {
            node.dropped.push(reason);
        }
        result
    }

    /// Asks a leader for these voters, by place and incarnation.
    pub(crate) fn change(&mut self, index: usize, voters: &[(usize, u64)]) -> Result<(), Error> {
        let voters: Vec<Member> = voters.iter().map(|(index, incarnation)| member(*index, *incarnation)).collect();
        let target = Configuration { voters, ..Configuration::default() };
        match self.step(index, Input::ChangeMembers(&target)) {
            Ok(_) => Ok(()),
            Err(Refused::Request(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// The voters of a node's configuration, by place and incarnation; none while it is joint.
    pub(crate) fn voters(&self, index: usize) -> Vec<(usize, u64)> {
        let config = self.machine(index).configuration();
        let plain = |member: &Member| (usize::from(member.id.slot.0) - 1, member.id.incarnation.0);
        if config.is_joint() { Vec::new() } else { config.voters.iter().map(plain).collect() }
    }

    pub(crate) fn propose(&mut self, index: usize, body: &[u8]) -> Result<LogIndex, Error> {
        match self.step(index, Input::Propose(&Proposal { body: &[body], ..Proposal::default() })) {
            Ok(Accepted::Appended(at)) => Ok(at),
            Err(Refused::Request(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Flushes until nothing is left, carries everything out, checks the invariants.
    pub(crate) fn flush(&mut self, index: usize) {
        for _ in 0..1000 {
            let now = self.local(index);
            let node = &mut self.nodes[index];
            let mut actions = Vec::new();
            let more = node.machine.flush(now, &node.log, &mut actions);
            for action in actions {
                self.carry_out(index, action);
            }
            self.complete(index, false);
            let offered = std::mem::take(&mut self.wanted) && self.offer(index).is_ok();
            self.check(index);
            if more == More::No && !offered {
                return;
            }
        }
        panic!("node {index} never stops flushing");
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        let node = &mut self.nodes[index];
        match action {
            Action::Persist(write) => node.disk.write(write, &node.log),
            Action::Send(to, term, outgoing) => self.send(index, &to, term, outgoing),
            Action::Commit(commit) if node.applies => self.apply(index, commit),
            Action::ReadsReady(ticket, at) => {
                while let Some((read, seen)) = node.reads.first().copied().filter(|read| read.0 <= ticket) {
                    node.reads.remove(0);
                    node.answered.push((read, at));
                    self.invariants.read_answered(seen, at);
                }
            }
            Action::ReadsFailed(ticket) => {
                node.failed_reads += node.reads.iter().filter(|read| read.0 <= ticket).count() as u64;
                node.reads.retain(|read| read.0 > ticket);
            }
            Action::Halt => node.halted = true,
            Action::Trim(to) => node.disk.trim(to),
            Action::SnapshotWanted => self.wanted = node.offers,
            Action::Install => {
                let snapshot = node.log.take_received().expect("just installed");
                node.disk.install(CLUSTER, &snapshot);
                node.installed.push(snapshot.index);
                self.snapshots += 1;
                let at = snapshot.index;
                node.received = Some(snapshot);
                if node.applies {
                    self.apply(index, at);
                }
            }
            Action::Fenced(_) => node.applies = false,
            Action::Commit(_) | Action::OutOfReach(..) | Action::LeadershipChanged => {}
        }
    }

    pub(crate) fn apply(&mut self, index: usize, to: LogIndex) {
        let now = self.local(index);
        let node = &mut self.nodes[index];
        let mut digests = Vec::new();
        let mut applied = node.machine.applied_index();
        if let Some(snapshot) = node.received.take() {
            applied = snapshot.index;
            node.digest = u64::from_le_bytes(*snapshot.bytes.first_chunk().expect("a state"));
            assert!(
                [0, node.digest].contains(&snapshot.digest),
                "a snapshot is what its sender had, where that was known"
            );
            self.invariants.applied(applied, node.digest);
            digests.push((applied, node.digest));
            node.state = Some(snapshot.bytes.to_vec());
        }
        for at in applied.0 + 1..=to.0 {
            let entry = node.log.header(LogIndex(at)).expect("committed entries are held until they are applied");
            node.digest = invariants::chain(node.digest, at, entry);
            let wrong = node.goes_wrong_at.filter(|(from, _)| from.0 <= at);
            match wrong {
                Some((from, way)) if from.0 == at => node.digest ^= way,
                Some(_) => {}
                None => self.invariants.applied(LogIndex(at), node.digest),
            }
            digests.push((LogIndex(at), node.digest));
        }
        for (at, digest) in digests {
            let _ = node.machine.step(now, Input::Applied(&[(at, digest)]), &mut node.log);
        }
    }

    /// The state of a node, as every node in that state would give it out.
    pub(crate) fn snapshot(&self, index: usize) -> Snapshot {
        let node = &self.nodes[index];
        let at = node.machine.applied_index();
        let mut bytes = node.digest.to_le_bytes().to_vec();
        bytes.extend((8..node.state_bytes).map(|byte| (byte / 5) as u8));
        let log_time = node.log.header(at).map_or(0, |header| header.log_time);
        Snapshot { index: at, log_time, bytes: bytes.into() }
    }

    pub(crate) fn offer(&mut self, index: usize) -> Result<Accepted, Refused> {
        let snapshot = self.snapshot(index);
        let hash = state_hash(&snapshot.bytes);
        self.step_only(index, Input::Offer(&snapshot, hash))
    }

    fn send(&mut self, index: usize, to: &Member, term: Term, outgoing: Outgoing) {
        let node = &self.nodes[index];
        self.invariants.sends(node, to, term, &outgoing);
        let header = Envelope {
            cluster: node.machine.cluster().unwrap_or_default(),
            from: node.machine.me().id,
            to: to.id,
            term,
            ..Envelope::default()
        };
        let mut out = Vec::new();
        let (due, payload_bytes) = (self.now + LATENCY_NS, self.payload_bytes);
        transmit(&mut Wire { from: index, due, payload_bytes, out: &mut out }, to, &header, outgoing, &node.log);
        for flight in out {
            let message = Message::decode(&flight.bytes).expect("what is sent can be read");
            let passes = self.filter.as_mut().is_none_or(|filter| filter(flight.from, flight.to, &message));
            if passes && !self.cut.contains(&(flight.from, flight.to)) {
                self.flights.push(flight);
            }
        }
    }

    /// Reports completed writes; `held` also those that the disk was told to hold back.
    pub(crate) fn complete(&mut self, index: usize, held: bool) {
        let now = self.local(index);
        let node = &mut self.nodes[index];
        while let Some(write) = node.disk.complete(held) {
            let _ = node.machine.step(now, Input::Persisted(write), &mut node.log);
        }
    }

    /// Hands a datagram over, wherever it is in the list.
    pub(crate) fn deliver(&mut self, flight: &Flight) {
        if self.nodes[flight.to].up
            && let Some(message) = Message::decode(&flight.bytes)
        {
            let from = member(flight.from, 0).peer;
            let _ = self.step(flight.to, Input::Message(from, &message));
        }
    }

    /// Hands a message made up by the test over, from a member to a node.
    pub(crate) fn inject(&mut self, from: usize, to: usize, term: Term, body: Body<'_>) {
        let header = self.envelope(from, to, term);
        let _ = self.step(to, Input::Message(member(from, 1).peer, &Message { header, body }));
    }

    /// An append of one entry of `term` at `index`, as a leader `from` would send it.
    pub(crate) fn append_one(&mut self, from: usize, to: usize, term: Term, index: LogIndex) {
        let mut log = self.nodes[to].log.clone();
        log.truncate(index);
        let (prev, prev_term) = (log.last(), log.last_term());
        log.append(EntryHeader { term, ..EntryHeader::default() }, &[]);
        let head = AppendHead { prev, prev_term, ack_wanted: true, round: 1, ..AppendHead::default() };
        let header = self.envelope(from, to, term);
        let mut bytes = vec![0; self.payload_bytes];
        let mut append = AppendWriter::new(&mut bytes, &header, &head);
        assert!(append.push(&log, index));
        let length = append.finish();
        let message = Message::decode(&bytes[..length]).expect("just written");
        let _ = self.step(to, Input::Message(member(from, 1).peer, &message));
    }

    pub(crate) fn envelope(&self, from: usize, to: usize, term: Term) -> Envelope {
        let to = self.machine(to).me().id;
        Envelope { cluster: CLUSTER, from: member(from, 1).id, to, term, ..Envelope::default() }
    }

    /// Delivers everything in order, and what that causes, without time passing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.flights.is_empty() {
                return;
            }
            let flight = self.flights.remove(0);
            self.deliver(&flight);
        }
        panic!("messages never end");
    }

    /// Moves the clock to the node's deadline, if that is later, and lets it fire.
    pub(crate) fn expire(&mut self, index: usize) {
        let deadline = self.deadline(index);
        assert_ne!(deadline, u64::MAX, "node {index} waits for nothing");
        self.now = self.now.max(deadline);
        let _ = self.step(index, Input::Tick);
    }

    /// Has a node campaign now, whoever else's timer is nearer, and delivers what that causes.
    pub(crate) fn elect(&mut self, index: usize) {
        let patience = self.nodes[index].config.timing.election_max.as_nanos() as u64;
        self.now += patience;
        let _ = self.step(index, Input::Tick);
        self.settle();
        assert_eq!(self.machine(index).role(), Role::Leader, "node {index} was to be elected");
    }

    /// Runs everything for `ns` nanoseconds: datagrams after their latency, timers when they are due.
    pub(crate) fn run_for(&mut self, ns: u64) {
        let end = self.now + ns;
        let mut at_once = (self.now, 0);
        loop {
            at_once = if at_once.0 == self.now { (self.now, at_once.1 + 1) } else { (self.now, 0) };
            assert!(
                at_once.1 < 1_000_000,
                "time stands still at {}: something asks for a tick again and again",
                self.now
            );
            let flight = (0..self.flights.len()).min_by_key(|at| self.flights[*at].due);
            let arrival = flight.map_or(u64::MAX, |at| self.flights[at].due);
            let up = (0..self.nodes.len()).filter(|index| self.nodes[*index].up);
            let timer = up.min_by_key(|index| self.deadline(*index));
            let deadline = timer.map_or(u64::MAX, |index| self.deadline(index));
            if arrival.min(deadline) > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(arrival.min(deadline));
            match (flight, timer) {
                (Some(at), _) if arrival <= deadline => {
                    let flight = self.flights.remove(at);
                    self.deliver(&flight);
                }
                (_, Some(index)) => drop(self.step(index, Input::Tick)),
                _ => return,
            }
        }
    }

    /// Runs until some node leads, at most for `ns` nanoseconds.
    pub(crate) fn run_to_leader(&mut self, ns: u64) -> usize {
        let end = self.now + ns;
        while self.now < end {
            self.run_for(MS);
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("no leader within {ns} ns");
    }

    /// The node's apply task cannot go on.
    pub(crate) fn stop(&mut self, index: usize) {
        self.nodes[index].applies = false;
        let _ = self.step(index, Input::Stopped);
    }

    /// Cuts a group of nodes off from all others, both ways.
    pub(crate) fn isolate(&mut self, group: &[usize]) {
        for inside in group {
            for outside in (0..self.nodes.len()).filter(|index| !group.contains(index)) {
                self.cut.insert((*inside, outside));
                self.cut.insert((outside, *inside));
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// SIGKILL: memory is gone, what the disk completed stays.
    pub(crate) fn crash(&mut self, index: usize) {
        self.nodes[index].up = false;
        self.nodes[index].disk.lose_unfinished();
    }

    /// Starts again from the disk, as the same incarnation.
    pub(crate) fn restart(&mut self, index: usize) {
        let old = &self.nodes[index];
        let mut config = old.config.clone();
        // Drawn at each start.
        config.seed = config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.now;
        let mut node = Node::new(config, self.local(index).0, self.payload_bytes);
        (node.ppm, node.ahead_ns) = (old.ppm, old.ahead_ns);
        node.disk = old.disk.clone();
        node.state_bytes = old.state_bytes;
        node.offers = old.offers;
        let at_base;
        (node.log, at_base) = node.disk.log();
        // The state as a snapshot at the log's beginning would bring it back.
        node.digest = self.invariants.digest_at(node.log.base());
        if node.disk.hard().is_some() || node.log.last() > LogIndex::ZERO {
            node.machine.recover(CLUSTER, node.disk.hard().unwrap_or_default(), at_base, &node.log);
        }
        self.nodes[index] = node;
        self.invariants.restarted(index);
    }

    /// Starts again with nothing, as another incarnation.
    pub(crate) fn restart_empty(&mut self, index: usize, incarnation: u64) {
        let mut config = self.nodes[index].config.clone();
        config.me = member(index, incarnation);
        let Node { offers, state_bytes, ppm, ahead_ns, .. } = self.nodes[index];
        let now = self.local(index).0;
        self.nodes[index] = Node { offers, state_bytes, ppm, ahead_ns, ..Node::new(config, now, self.payload_bytes) };
        self.invariants.restarted(index);
    }

    /// Starts another node in the place of one that is down.
    pub(crate) fn replace(&mut self, index: usize, config: ShardConfig) {
        self.nodes[index] = Node::new(config, self.now, self.payload_bytes);
        self.invariants.restarted(index);
    }

    pub(crate) fn check(&mut self, index: usize) {
        self.invariants.now = self.now;
        self.invariants.check(index, &self.nodes[index], &self.nodes);
    }

    /// Everything in flight of which `wanted` approves, taken out of the list.
    pub(crate) fn take(&mut self, wanted: impl Fn(usize, usize, &Body<'_>) -> bool) -> Vec<Flight> {
        let fits = |flight: &Flight| {
            Message::decode(&flight.bytes).is_some_and(|message| wanted(flight.from, flight.to, &message.body))
        };
        let (taken, left) = std::mem::take(&mut self.flights).into_iter().partition(fits);
        self.flights = left;
        taken
    }
}

impl Node {
    fn new(config: ShardConfig, now: u64, payload_bytes: usize) -> Node {
        Node {
            ppm: 0,
            ahead_ns: 0,
            machine: Machine::new(&config, payload_bytes, Nanos(now)),
            config,
            log: Log::default(),
            disk: Disk::default(),
            up: true,
            applies: true,
            digest: 0,
            goes_wrong_at: None,
            reads: Vec::new(),
            answered: Vec::new(),
            failed_reads: 0,
            halted: false,
            dropped: Vec::new(),
            offers: true,
            state_bytes: 5000,
            received: None,
            state: None,
            installed: Vec::new(),
        }
    }
}
