//! A follower is away while ten million entries are committed, some six hundred times what its leader's log may hold: the leader's
//! memory stays as it is, and the follower returns by a snapshot and the entries after it.
//!
//! Machines and logs alone, with messages as bytes; nothing here remembers entries. `kv demo --long` does the same in processes.

mod harness;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use harness::{CLUSTER, MS, PAYLOAD_BYTES, member};
use std::net::SocketAddrV4;
use trimaran_raft::{
    Action, Envelope, Error, Input, Log, LogIndex, Machine, Member, Message, More, Nanos, PeerState, Proposal, Refused,
    ShardConfig, Snapshot, Transport, state_hash, transmit,
};

const ENTRIES: u64 = 10_000_000;
/// Holds some 10,000 entries.
const LOG_BYTES: u64 = 1 << 20;
/// Proposed together, as they come in one turn.
const BURST: u64 = 512;
/// Longer than a leader waits for one that says nothing.
const SILENCE_MS: u64 = 2500;
/// Datagrams on their way at a time: an append or two of each peer, and their answers.
const DATAGRAMS_MAX: usize = 64;

struct Node {
    machine: Machine,
    log: Log,
    /// Of all entries applied.
    digest: u64,
    installed: Vec<LogIndex>,
}

/// Three nodes; what is sent to one that is away is lost.
struct Trio {
    nodes: Vec<Node>,
    away: Option<usize>,
    air: VecDeque<(usize, usize, Vec<u8>)>,
    most_in_air: usize,
    most_log_bytes: u64,
    now: u64,
}

struct Wire<'a>(usize, &'a mut VecDeque<(usize, usize, Vec<u8>)>);

impl Transport for Wire<'_> {
    fn payload_bytes(&self) -> usize {
        PAYLOAD_BYTES
    }

    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        let mut bytes = vec![0; PAYLOAD_BYTES];
        let length = write(&mut bytes);
        bytes.truncate(length);
        self.1.push_back((self.0, usize::from(to.id.slot.0) - 1, bytes));
        true
    }

    fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        Poll::Pending
    }
}

impl Trio {
    fn new() -> Trio {
        let members = [member(0, 1), member(1, 1), member(2, 1)];
        let node = |index: usize| {
            let mut config = ShardConfig::new(members[index], index as u64 + 1);
            config.limits.log_bytes = LOG_BYTES;
            let mut machine = Machine::new(&config, PAYLOAD_BYTES, Nanos::ZERO);
            let mut log = Log::default();
            machine.bootstrap(CLUSTER, &members, 7, &mut log).expect("a fresh node");
            Node { machine, log, digest: 0, installed: Vec::new() }
        };
        let nodes = (0..3).map(node).collect();
        let mut trio = Trio { nodes, away: None, air: VecDeque::new(), most_in_air: 0, most_log_bytes: 0, now: 0 };
        (0..3).for_each(|index| trio.flush(index));
        trio.run_for(1000);
        trio
    }

    fn leader(&self) -> usize {
        self.nodes.iter().position(|node| node.machine.is_leader()).expect("a leader")
    }

    fn step(&mut self, index: usize, input: Input<'_>) -> Result<(), Refused> {
        let Node { machine, log, .. } = &mut self.nodes[index];
        machine.step(Nanos(self.now), input, log).map(drop)
    }

    /// Milliseconds pass, one by one: timers when they are due, and every message arrives within the millisecond.
    fn run_for(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += MS;
            for index in (0..3).filter(|index| self.away != Some(*index)).collect::<Vec<_>>() {
                if self.nodes[index].machine.next_deadline() <= Nanos(self.now) {
                    let _ = self.step(index, Input::Tick);
                }
                self.flush(index);
            }
            while let Some((from, to, bytes)) = self.air.pop_front() {
                if self.away == Some(to) {
                    continue;
                }
                let message = Message::decode(&bytes).expect("what is sent can be read");
                let _ = self.step(to, Input::Message(member(from, 1).peer, &message));
                self.flush(to);
            }
        }
    }

    fn flush(&mut self, index: usize) {
        let mut actions = Vec::new();
        loop {
            let node = &mut self.nodes[index];
            let more = node.machine.flush(Nanos(self.now), &node.log, &mut actions);
            let mut offers = false;
            for action in actions.drain(..) {
                offers |= self.carry_out(index, action);
            }
            self.most_log_bytes = self.most_log_bytes.max(self.nodes[index].log.bytes());
            self.most_in_air = self.most_in_air.max(self.air.len());
            if more == More::No && !offers {
                return;
            }
        }
    }

    /// True where the machine wants to be flushed again.
    fn carry_out(&mut self, index: usize, action: Action) -> bool {
        let node = &mut self.nodes[index];
        match action {
            Action::Persist(write) => {
                let _ = self.step(index, Input::Persisted(write));
                return true;
            }
            Action::Send(to, term, outgoing) => {
                let from = node.machine.me().id;
                let header = Envelope { cluster: CLUSTER, from, to: to.id, term, ..Envelope::default() };
                transmit(&mut Wire(index, &mut self.air), &to, &header, outgoing, &node.log);
            }
            Action::Commit(commit) => {
                for at in node.machine.applied_index().0 + 1..=commit.0 {
                    let header = node.log.header(LogIndex(at)).expect("held until it is applied");
                    node.digest = (node.digest ^ header.log_time ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                }
                let digest = node.digest;
                let _ = self.step(index, Input::Applied(&[(commit, digest)]));
                return true;
            }
            Action::SnapshotWanted => {
                let at = node.machine.applied_index();
                let log_time = node.log.header(at).map_or(0, |header| header.log_time);
                let snapshot = Snapshot { index: at, log_time, bytes: node.digest.to_le_bytes().to_vec().into() };
                let _ = self.step(index, Input::Offer(&snapshot, state_hash(&snapshot.bytes)));
                return true;
            }
            Action::Install => {
                let snapshot = node.log.take_received().expect("just installed");
                node.digest = u64::from_le_bytes(*snapshot.bytes.first_chunk().expect("a state"));
                node.installed.push(snapshot.index);
                let digest = node.digest;
                let _ = self.step(index, Input::Applied(&[(snapshot.index, digest)]));
                return true;
            }
            _ => {}
        }
        false
    }

    /// A burst of small entries, as many of them as there is room for.
    fn propose(&mut self, leader: usize) -> u64 {
        for nth in 0..BURST {
            let proposal = Proposal { body: &[b"x"], ..Proposal::default() };
            match self.step(leader, Input::Propose(&proposal)) {
                Ok(()) => {}
                Err(Refused::Request(Error::Overloaded)) => return nth,
                Err(other) => panic!("{other:?}"),
            }
        }
        BURST
    }

    fn peer(&self, leader: usize, index: usize) -> (PeerState, usize, u64) {
        let id = member(index, 1).id;
        let peer = self.nodes[leader].machine.peers().iter().find(|peer| peer.id() == id).expect("a peer");
        (peer.state, peer.in_flight(), peer.in_flight_bytes())
    }
}

#[test]
fn a_follower_away_for_ten_million_entries_costs_its_leader_nothing_and_returns_by_snapshot_and_tail() {
    let mut trio = Trio::new();
    let leader = trio.leader();
    let follower = (leader + 1) % 3;
    trio.away = Some(follower);
    trio.run_for(SILENCE_MS);
    let from = trio.nodes[leader].machine.commit();
    while trio.nodes[leader].machine.commit().0 - from.0 < ENTRIES {
        assert_eq!(trio.propose(leader), BURST, "one that is away holds nobody up");
        trio.run_for(1);
    }
    assert!(trio.most_log_bytes <= LOG_BYTES, "{} bytes of log", trio.most_log_bytes);
    assert!(trio.most_in_air <= DATAGRAMS_MAX, "{} datagrams at a time", trio.most_in_air);
    let (state, in_flight, bytes) = trio.peer(leader, follower);
    assert!(state != PeerState::Replicate && in_flight == 0 && bytes == 0, "{state:?}, {in_flight}, {bytes}");
    assert!(trio.nodes[leader].log.first() > trio.nodes[follower].log.last().next(), "the log has moved on");

    // It returns while the others go on.
    trio.away = None;
    for _ in 0..2000 {
        trio.propose(leader);
        trio.run_for(1);
    }
    trio.run_for(100);
    let digests: Vec<u64> = trio.nodes.iter().map(|node| node.digest).collect();
    assert_eq!(digests, [digests[0]; 3]);
    assert_eq!(trio.peer(leader, follower).0, PeerState::Replicate);
    let [snapshot] = trio.nodes[follower].installed[..] else {
        panic!("{:?} snapshots", trio.nodes[follower].installed)
    };
    assert!(snapshot.0 - from.0 >= ENTRIES && snapshot < trio.nodes[follower].machine.applied_index());
    assert!(trio.most_log_bytes <= LOG_BYTES && trio.nodes[leader].machine.is_leader());
}
