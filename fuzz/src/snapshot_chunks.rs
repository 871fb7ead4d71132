//! A replica is sent snapshots: whole ones, cut into chunks that arrive in any order and more than once, amid chunks that are wrong.
//! What it installs is what was sent; what it holds meanwhile grows with what has arrived, not with what was announced; and in the
//! end it has the newest.
//!
//! Snapshots get the hashes that they ought to have, which no fuzzer guesses: what is in them is arbitrary.

use arbitrary::{Arbitrary, Result, Unstructured};
use std::net::{Ipv4Addr, SocketAddrV4};
use trimaran_raft::{
    Action, Body, ChunkHead, ClusterId, Configuration, Envelope, Input, Limits, Log, LogIndex, Machine, Member,
    Message, More, Nanos, NodeId, ReceivedSnapshot, ShardConfig, SnapshotId, Term, Write, state_hash,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const CLUSTER: ClusterId = ClusterId(1);
const PAYLOAD_BYTES: usize = 1472;
const PIECE_BYTES_MAX: usize = 1300;
const LIMITS: Limits = Limits {
    log_bytes: 1 << 20,
    max_lag_bytes: 1 << 19,
    uncommitted_bytes: 1 << 16,
    entry_bytes: 1 << 10,
    snapshot_bytes: 1 << 20,
    window_bytes: 1 << 16,
    window_messages: 4,
    waiting_reads: 4,
    waiting_applies: 4,
};
/// States are hashed in blocks of so many bytes.
const HASH_BLOCK_BYTES: usize = 64 << 10;
/// A receiver takes no chunk so much further ahead than what it has without a gap.
const AHEAD_BYTES: usize = 33 * PAYLOAD_BYTES;
const CHUNKS: usize = 64;
const TERM: Term = Term(5);
/// More would mean that it never comes to rest.
const FLUSHES: usize = 64;

fn member(number: u8) -> Member {
    let ip = Ipv4Addr::new(10, 0, 0, number);
    Member { id: NodeId::new(number, 1), client: SocketAddrV4::new(ip, 8000), peer: SocketAddrV4::new(ip, 8100) }
}

/// A snapshot, and how it is cut.
struct Sent {
    id: SnapshotId,
    log_time: u64,
    digest: u64,
    configuration: Configuration,
    state: Vec<u8>,
    /// The state and what follows it.
    whole: Vec<u8>,
    chunk_bytes: usize,
}

impl Sent {
    fn arbitrary(input: &mut Unstructured<'_>) -> Result<Sent> {
        // Small, or about as long as a block.
        let bytes = match u8::arbitrary(input)? {
            ..16 => HASH_BLOCK_BYTES - 16 + usize::from(u8::arbitrary(input)?) % 32,
            _ => usize::from(u16::arbitrary(input)?) % 4096,
        };
        let salt = u8::arbitrary(input)?;
        let state: Vec<u8> = (0..bytes).map(|at| (at / 3) as u8 ^ salt).collect();
        let (log_time, digest) = (u64::arbitrary(input)?, u64::from(u8::arbitrary(input)?));
        // One alone would elect itself.
        let voters: Vec<Member> = (1..=2 + u8::arbitrary(input)? % 4).map(member).collect();
        let configuration = Configuration::of_voters(&voters);
        let mut trailer = vec![1];
        trailer.extend_from_slice(&log_time.to_le_bytes());
        trailer.extend_from_slice(&digest.to_le_bytes());
        trailer.extend_from_slice(&configuration.encode());
        let id = SnapshotId {
            index: LogIndex(2 + u64::from(u8::arbitrary(input)? % 4)),
            term: Term(1 + u64::from(u8::arbitrary(input)?) % TERM.0),
            hash: xxh3_64_with_seed(&trailer, state_hash(&state)),
        };
        let whole = [&state[..], &trailer].concat();
        let chunk_bytes = (1 + usize::from(u16::arbitrary(input)?) % PIECE_BYTES_MAX).max(whole.len().div_ceil(CHUNKS));
        Ok(Sent { id, log_time, digest, configuration, state, whole, chunk_bytes })
    }

    fn chunks(&self) -> usize {
        self.whole.len().div_ceil(self.chunk_bytes)
    }

    fn chunk(&self, at: usize) -> (ChunkHead, &[u8]) {
        let offset = at * self.chunk_bytes;
        let piece = &self.whole[offset..self.whole.len().min(offset + self.chunk_bytes)];
        let (state_bytes, total_bytes) = (self.state.len() as u32, self.whole.len() as u32);
        (ChunkHead { id: self.id, state_bytes, total_bytes, offset: offset as u32 }, piece)
    }

    fn is(&self, received: &ReceivedSnapshot) -> bool {
        let ReceivedSnapshot { index, term, log_time, digest, ref configuration, ref bytes } = *received;
        (index, term, log_time, digest) == (self.id.index, self.id.term, self.log_time, self.digest)
            && *configuration == self.configuration
            && **bytes == self.state
    }
}

/// The replica, and what it was sent.
struct Receiver {
    machine: Machine,
    log: Log,
    now: u64,
    sent: Vec<Sent>,
    piece_bytes: usize,
    installed: usize,
}

impl Receiver {
    fn new(sent: Vec<Sent>) -> Receiver {
        let mut config = ShardConfig::new(member(1), 1);
        config.limits = LIMITS;
        let machine = Machine::new(&config, PAYLOAD_BYTES, Nanos(0));
        let mut receiver = Receiver { machine, log: Log::default(), now: 0, sent, piece_bytes: 0, installed: 0 };
        let members: Vec<Member> = (1..=3).map(member).collect();
        receiver.machine.bootstrap(CLUSTER, &members, 0, &mut receiver.log).expect("a fresh node");
        receiver.step(Input::Tick);
        receiver
    }

    /// Takes an input in, with a disk that writes at once.
    fn step(&mut self, input: Input<'_>) {
        let before = self.machine.commit();
        let _ = self.machine.step(Nanos(self.now), input, &mut self.log);
        let (mut actions, mut written): (Vec<Action>, Vec<Write>) = (Vec::new(), Vec::new());
        for round in 0.. {
            assert!(round < FLUSHES, "it never comes to rest");
            let more = self.machine.flush(Nanos(self.now), &self.log, &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::Persist(write) => written.push(write),
                    Action::Install => {
                        let received = self.log.take_received().expect("just installed");
                        assert!(self.sent.iter().any(|sent| sent.is(&received)), "what was installed was never sent");
                        assert!(received.index > before && received.index == self.log.last());
                        self.installed += 1;
                    }
                    _ => {}
                }
            }
            if more == More::No && written.is_empty() {
                break;
            }
            for write in written.drain(..) {
                let _ = self.machine.step(Nanos(self.now), Input::Persisted(write), &mut self.log);
            }
        }
        assert!(self.machine.commit() >= before && self.machine.commit() <= self.log.last());
        assert!(self.machine.durable() <= self.log.last());
        let held = self.log.inbound_memory_bytes();
        // A vector that grows has at most twice the room that it needs.
        assert!(held <= 2 * (self.piece_bytes + AHEAD_BYTES), "{held} bytes for {} that arrived", self.piece_bytes);
    }

    fn deliver(&mut self, from: u8, term: Term, head: ChunkHead, piece: &[u8]) {
        self.piece_bytes += piece.len();
        let to = self.machine.me().id;
        let header = Envelope { cluster: CLUSTER, from: member(from).id, to, term, ..Envelope::default() };
        let mut bytes = vec![0; 2 * PAYLOAD_BYTES];
        let length = Message { header, body: Body::Chunk(head, piece) }.encode(&mut bytes);
        // What contradicts itself is not read.
        let Some(message) = Message::decode(&bytes[..length]) else { return };
        self.step(Input::Message(member(from).peer, &message));
    }
}

/// Makes a chunk wrong, in a way that its snapshot's hash tells.
fn spoil(input: &mut Unstructured<'_>, head: &mut ChunkHead, piece: &mut Vec<u8>) -> Result<()> {
    match u8::arbitrary(input)? % 6 {
        0 => {
            let at = usize::from(u16::arbitrary(input)?) % piece.len();
            piece[at] ^= 1 + u8::arbitrary(input)? % 255;
        }
        1 => piece.truncate(usize::from(u16::arbitrary(input)?) % piece.len()),
        2 => head.offset = u32::arbitrary(input)? % (2 * head.total_bytes),
        3 => head.state_bytes = u32::arbitrary(input)?,
        4 => {
            // Another snapshot, announced to be as large as may be, or larger.
            head.id.hash ^= 1 + u64::from(u8::arbitrary(input)?);
            head.total_bytes = u32::arbitrary(input)? % (2 * LIMITS.snapshot_bytes);
        }
        _ => {
            head.id.hash ^= 1 + u64::from(u8::arbitrary(input)?);
            head.id.index = LogIndex(u64::from(u8::arbitrary(input)?));
            head.id.term = Term(u64::from(u8::arbitrary(input)?));
        }
    }
    Ok(())
}

fn act(input: &mut Unstructured<'_>, receiver: &mut Receiver) -> Result<()> {
    let what = u8::arbitrary(input)?;
    let of = usize::from(u8::arbitrary(input)?) % receiver.sent.len();
    let sent = &receiver.sent[of];
    let (mut head, piece) = sent.chunk(usize::from(u8::arbitrary(input)?) % sent.chunks());
    let mut piece = piece.to_vec();
    match what % 16 {
        0 => {
            receiver.now += u64::from(u8::arbitrary(input)?) * 1_000_000;
            receiver.step(Input::Tick);
            return Ok(());
        }
        1..=4 => spoil(input, &mut head, &mut piece)?,
        _ => {}
    }
    receiver.deliver(2, TERM, head, &piece);
    Ok(())
}

fn deliver_some(input: &mut Unstructured<'_>) -> Result<Receiver> {
    let count = 1 + usize::from(u8::arbitrary(input)?) % 3;
    let sent = (0..count).map(|_| Sent::arbitrary(input)).collect::<Result<Vec<Sent>>>()?;
    let mut receiver = Receiver::new(sent);
    while !input.is_empty() && act(input, &mut receiver).is_ok() {}
    Ok(receiver)
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(data: &[u8]) {
    let Ok(mut receiver) = deliver_some(&mut Unstructured::new(data)) else { return };
    // A later leader sends the newest again, in order, as often as it takes when a chunk is dropped.
    let newest = (0..receiver.sent.len()).max_by_key(|at| receiver.sent[*at].id.index).expect("one at least");
    let index = receiver.sent[newest].id.index;
    for _ in 0..4 {
        for at in 0..receiver.sent[newest].chunks() {
            let (head, piece) = receiver.sent[newest].chunk(at);
            let piece = piece.to_vec();
            receiver.deliver(3, Term(TERM.0 + 1), head, &piece);
        }
    }
    assert_eq!(receiver.machine.commit(), index, "the newest is not installed");
    assert!(receiver.installed > 0, "no entry was sent that would do instead");
}
