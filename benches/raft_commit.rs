//! Prints what a commit costs in machines, logs and messages alone: three nodes in one process, no sockets, no executor.
//!
//! `cargo bench -p trimaran-benches --bench raft_commit`

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::{Context, Poll};

use trimaran_benches::{rounds, tell};
use trimaran_raft::{
    Action, ClusterId, Envelope, Input, Log, LogIndex, Machine, Member, Message, More, Nanos, NodeId, Proposal,
    ShardConfig, Transport, transmit,
};

const COMMITS: u64 = 2_000_000;
const PAYLOAD_BYTES: usize = 1464;

/// Datagrams between the three, their buffers reused.
#[derive(Default)]
struct Wire {
    queue: VecDeque<(usize, usize, usize, Box<[u8]>)>,
    spare: Vec<Box<[u8]>>,
    from: usize,
}

impl Transport for Wire {
    fn payload_bytes(&self) -> usize {
        PAYLOAD_BYTES
    }

    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; PAYLOAD_BYTES].into_boxed_slice());
        let length = write(&mut buffer);
        self.queue.push_back((self.from, usize::from(to.id.slot.0) - 1, length, buffer));
        true
    }

    fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        Poll::Pending
    }
}

struct Node {
    machine: Machine,
    log: Log,
}

fn main() {
    let members: Vec<Member> = (1..=3).map(member).collect();
    for batch in [1, 4, 8, 32, 64] {
        let mut wire = Wire::default();
        let mut nodes: Vec<Node> = members.iter().map(|me| node(*me, &members)).collect();
        let mut now = Nanos(1_000_000_000);
        step(&mut nodes, 0, now, Input::Tick);
        let mut actions = Vec::new();
        (0..3).for_each(|at| flush(&mut nodes, at, now, &mut wire, &mut actions));
        settle(&mut nodes, now, &mut wire, &mut actions);
        assert!(nodes[0].machine.is_leader());
        let started = trimaran_runtime::clock::Clock::now(&trimaran_runtime::clock::Monotonic);
        let body = [7; 80];
        let commits = rounds(COMMITS);
        for _ in 0..commits / batch {
            now = now.after(1000 * batch);
            for _ in 0..batch {
                step(&mut nodes, 0, now, Input::Propose(&Proposal { body: &[&body], ..Proposal::default() }));
            }
            flush(&mut nodes, 0, now, &mut wire, &mut actions);
            settle(&mut nodes, now, &mut wire, &mut actions);
        }
        let took = trimaran_runtime::clock::Clock::now(&trimaran_runtime::clock::Monotonic) - started;
        assert!(nodes[0].machine.commit() >= LogIndex(commits / batch * batch));
        let ns = took.as_nanos() as f64 / commits as f64;
        let line = format!("{batch:3} a turn: {ns:6.0} ns per commit, all three replicas");
        tell(&format!("raft_commit.{batch}_a_turn"), ns, "ns", &line);
    }
}

fn member(slot: u8) -> Member {
    let address = |port| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, slot), port);
    Member { id: NodeId::new(slot, 1), client: address(8000), peer: address(8100) }
}

fn node(me: Member, members: &[Member]) -> Node {
    let mut config = ShardConfig::new(me, u64::from(me.id.slot.0));
    config.limits.log_bytes = 16 << 20;
    let mut node = Node { machine: Machine::new(&config, PAYLOAD_BYTES, Nanos(0)), log: Log::default() };
    node.machine.bootstrap(ClusterId(1), members, 0, &mut node.log).expect("a fresh node");
    node
}

fn step(nodes: &mut [Node], at: usize, now: Nanos, input: Input<'_>) {
    let node = &mut nodes[at];
    let _ = node.machine.step(now, input, &mut node.log);
}

fn settle(nodes: &mut [Node], now: Nanos, wire: &mut Wire, actions: &mut Vec<Action>) {
    while let Some((from, to, length, buffer)) = wire.queue.pop_front() {
        let message = Message::decode(&buffer[..length]).expect("just written");
        step(nodes, to, now, Input::Message(member(from as u8 + 1).peer, &message));
        wire.spare.push(buffer);
        flush(nodes, to, now, wire, actions);
    }
}

fn flush(nodes: &mut [Node], at: usize, now: Nanos, wire: &mut Wire, actions: &mut Vec<Action>) {
    loop {
        let node = &mut nodes[at];
        let more = node.machine.flush(now, &node.log, actions);
        wire.from = at;
        for action in actions.drain(..) {
            match action {
                Action::Persist(write) => {
                    let _ = node.machine.step(now, Input::Persisted(write), &mut node.log);
                }
                Action::Commit(index) => {
                    let _ = node.machine.step(now, Input::Applied(&[(index, 0)]), &mut node.log);
                }
                Action::Send(to, term, outgoing) => {
                    let from = node.machine.me().id;
                    let header = Envelope { cluster: ClusterId(1), from, to: to.id, term, ..Envelope::default() };
                    transmit(wire, &to, &header, outgoing, &node.log);
                }
                _ => {}
            }
        }
        if more == More::No {
            return;
        }
    }
}
