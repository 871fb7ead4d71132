//! One replica among peers that say whatever they like, in any order, as time passes: no panic; term, commit and what is
//! applied never go back; one vote a term; no budget is exceeded; and it comes to rest.

use arbitrary::{Arbitrary, Result, Unstructured};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use trimaran_raft::{
    Ack, Action, Answer, AppendHead, AppendWriter, Ask, Body, ChunkAck, ChunkHead, ClusterId, Configuration, Conflict,
    EntryHeader, EntryKind, Envelope, Fence, Input, Limits, Log, LogIndex, Machine, Member, Message, More, Nanos,
    NodeId, Proposal, ReadAsk, ReadReply, ShardConfig, ShardId, Snapshot, SnapshotAsk, SnapshotId, Term, Verdict,
    Write, state_hash,
};

const CLUSTER: ClusterId = ClusterId(1);
const PAYLOAD_BYTES: usize = 1472;
const LIMITS: Limits = Limits {
    log_bytes: 16 << 10,
    max_lag_bytes: 8 << 10,
    uncommitted_bytes: 4 << 10,
    entry_bytes: 1 << 10,
    snapshot_bytes: 8 << 10,
    window_bytes: 4 << 10,
    window_messages: 4,
    waiting_reads: 4,
    waiting_applies: 4,
};
/// More would mean that it never comes to rest.
const FLUSHES: usize = 64;

fn member(number: u8) -> Member {
    let ip = Ipv4Addr::new(10, 0, 0, number);
    Member { id: NodeId::new(number, 1), client: SocketAddrV4::new(ip, 8000), peer: SocketAddrV4::new(ip, 8100) }
}

/// The machine with what surrounds it: all writes under way, and what is applied.
struct Replica {
    machine: Machine,
    log: Log,
    writes: Vec<Write>,
    commit: LogIndex,
    now: u64,
}

impl Replica {
    fn step(&mut self, input: Input<'_>) {
        let before = (self.machine.hard_state(), self.machine.commit());
        let _ = self.machine.step(Nanos(self.now), input, &mut self.log);
        let mut actions = Vec::new();
        for round in 0.. {
            assert!(round < FLUSHES, "it never comes to rest");
            let more = self.machine.flush(Nanos(self.now), &self.log, &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::Persist(write) => self.writes.push(write),
                    Action::Commit(index) => {
                        assert!(index >= self.commit && index <= self.log.last());
                        self.commit = index;
                    }
                    Action::Install => {
                        let snapshot = self.log.take_received().expect("just installed");
                        assert!(snapshot.index >= self.commit);
                        self.commit = snapshot.index;
                    }
                    _ => {}
                }
            }
            if more == More::No {
                break;
            }
        }
        let (hard, commit) = (self.machine.hard_state(), self.machine.commit());
        assert!(hard.term >= before.0.term && commit >= before.1, "nothing goes back");
        assert!(hard.term > before.0.term || before.0.vote.is_none() || hard.vote == before.0.vote, "one vote a term");
        assert!(self.machine.applied_index() <= commit && commit <= self.log.last());
        assert!(self.machine.durable() <= self.log.last());
        // Reserved kinds may exceed the budget, one configuration at a time.
        assert!(self.log.bytes() <= LIMITS.log_bytes * 2, "{} bytes of log", self.log.bytes());
    }
}

/// Mostly a number near what the replica has, sometimes any.
fn number(input: &mut Unstructured<'_>, near: u64) -> Result<u64> {
    Ok(match u8::arbitrary(input)? {
        255 => u64::arbitrary(input)?,
        254 => near.wrapping_add(u64::from(u8::arbitrary(input)?)),
        small @ 128.. => near.wrapping_add(u64::from(small)).wrapping_sub(128 + 8),
        small => u64::from(small) % 16,
    })
}

fn ask(input: &mut Unstructured<'_>, replica: &Replica) -> Result<Ask> {
    Ok(Ask {
        campaign: Term(number(input, replica.machine.term().0 + 1)?),
        last: LogIndex(number(input, replica.log.last().0)?),
        last_term: Term(number(input, replica.log.last_term().0)?),
        told: bool::arbitrary(input)?,
    })
}

fn answer(input: &mut Unstructured<'_>, replica: &Replica) -> Result<Answer> {
    Ok(Answer { campaign: Term(number(input, replica.machine.term().0)?), granted: bool::arbitrary(input)? })
}

fn head(input: &mut Unstructured<'_>, replica: &Replica) -> Result<AppendHead> {
    let prev = LogIndex(number(input, replica.log.last().0)?);
    // The right term half of the time: else hardly any append would fit.
    let known = replica.log.term_at(prev).filter(|_| bool::arbitrary(input).unwrap_or_default());
    let prev_term = match known {
        Some(term) => term,
        None => Term(number(input, replica.log.last_term().0)?),
    };
    Ok(AppendHead {
        prev,
        prev_term,
        commit: LogIndex(number(input, replica.commit.0)?),
        round: number(input, 1)?,
        floor: LogIndex(number(input, replica.commit.0)?),
        age_ns: number(input, 1_000_000)?,
        mark: number(input, replica.now)?,
        offset: u32::from(u16::arbitrary(input)?),
        ack_wanted: bool::arbitrary(input)?,
        quiet: bool::arbitrary(input)?,
    })
}

fn entry(input: &mut Unstructured<'_>, replica: &Replica, body_len: u32) -> Result<EntryHeader> {
    let kinds =
        [EntryKind::Noop, EntryKind::Config, EntryKind::Normal, EntryKind::Tick, EntryKind::Register, EntryKind::Done];
    Ok(EntryHeader {
        kind: *input.choose(&kinds)?,
        body_len,
        log_time: number(input, replica.log.newest_log_time())?,
        term: Term(number(input, replica.machine.term().0)?),
        ..EntryHeader::default()
    })
}

/// Of few nodes, most often of none; now and then joint.
fn configuration(input: &mut Unstructured<'_>) -> Result<Configuration> {
    let (voters, old, learners) = (u8::arbitrary(input)?, u8::arbitrary(input)?, u8::arbitrary(input)?);
    let list = |bits: u8| (1..=4).filter(|number| bits >> 4 == 15 && bits >> number & 1 == 1).map(member).collect();
    Ok(Configuration { voters: list(voters), old_voters: list(old), learners: list(learners) })
}

fn snapshot_id(input: &mut Unstructured<'_>, replica: &Replica) -> Result<SnapshotId> {
    Ok(SnapshotId {
        index: LogIndex(number(input, replica.commit.0)?),
        term: Term(number(input, replica.machine.term().0)?),
        hash: u64::from(u8::arbitrary(input)?),
    })
}

/// A datagram that says anything, with a right check sum.
fn datagram(input: &mut Unstructured<'_>, replica: &Replica) -> Result<Vec<u8>> {
    let mut bytes = vec![0; PAYLOAD_BYTES];
    let header = Envelope {
        shard: ShardId::default(),
        cluster: CLUSTER,
        from: NodeId::new(u8::arbitrary(input)? % 5, u64::from(u8::arbitrary(input)? % 3)),
        to: replica.machine.me().id,
        term: Term(number(input, replica.machine.term().0)?),
    };
    let body = match u8::arbitrary(input)? % 18 {
        0 => Body::PreVote(ask(input, replica)?),
        1 => Body::PreVoteReply(answer(input, replica)?),
        2 => Body::Vote(ask(input, replica)?),
        3 => Body::VoteReply(answer(input, replica)?),
        4..=6 => {
            let mut append = AppendWriter::new(&mut bytes, &header, &head(input, replica)?);
            let mut entries = Log::default();
            // Now and then a burst of configurations, as many as fit, of one term.
            let count = u8::arbitrary(input)? % 32;
            let burst = if count >= 24 { Some(Term(number(input, replica.machine.term().0)?)) } else { None };
            for _ in 0..if burst.is_some() { count } else { count % 4 } {
                let any = if burst.is_some() { &[] } else { <&[u8]>::arbitrary(input)? };
                let mut header = entry(input, replica, 0)?;
                if let Some(term) = burst {
                    (header.kind, header.term) = (EntryKind::Config, term);
                }
                // Any bytes are seldom a configuration.
                let config = configuration(input)?.encode();
                let is_one = header.kind == EntryKind::Config && any.len() % 8 != 1;
                let body = if is_one { &config[..] } else { any };
                header.body_len = body.len() as u32;
                let index = entries.append(header, &[body]);
                if !append.push(&entries, index) {
                    break;
                }
            }
            let length = append.finish();
            bytes.truncate(length);
            return Ok(bytes);
        }
        7 => {
            let (head, length) = (head(input, replica)?, u32::from(u16::arbitrary(input)?));
            Body::Fragment(head, entry(input, replica, length)?, <&[u8]>::arbitrary(input)?)
        }
        8 => Body::Ack(Ack {
            matched: LogIndex(number(input, replica.log.last().0)?),
            verified: LogIndex(number(input, replica.log.last().0)?),
            offset: u32::from(u16::arbitrary(input)?),
            round: number(input, 1)?,
            credit_bytes: number(input, 1 << 10)?,
            applied: LogIndex(number(input, replica.commit.0)?),
            digest: u64::from(u8::arbitrary(input)? % 3),
            fenced: *input.choose(&[None, None, Some(Verdict::Minority), Some(Verdict::NoMajority)])?,
            stopped: bool::arbitrary(input)?,
            in_use: bool::arbitrary(input)?,
            outgrown: bool::arbitrary(input)?,
            disk_bound: bool::arbitrary(input)?,
            snapshot_bytes: u32::arbitrary(input)?,
            mark: number(input, replica.now)?,
            conflict: match bool::arbitrary(input)? {
                false => None,
                true => Some(Conflict {
                    rejected: LogIndex(number(input, replica.log.last().0)?),
                    hint: LogIndex(number(input, replica.log.last().0)?),
                    hint_term: Term(number(input, replica.machine.term().0)?),
                }),
            },
        }),
        9 => {
            let head = ChunkHead {
                id: snapshot_id(input, replica)?,
                state_bytes: u32::from(u16::arbitrary(input)?),
                total_bytes: u32::from(u16::arbitrary(input)?),
                offset: u32::from(u16::arbitrary(input)?),
            };
            Body::Chunk(head, <&[u8]>::arbitrary(input)?)
        }
        10 => {
            let id = snapshot_id(input, replica)?;
            Body::ChunkAck(ChunkAck { id, offset: u32::arbitrary(input)?, gap_end: u32::arbitrary(input)? })
        }
        16 => {
            let to = member(u8::arbitrary(input)? % 5).id;
            Body::SnapshotAsk(SnapshotAsk { to, least: LogIndex(number(input, replica.commit.0)?) })
        }
        11 => Body::Farewell,
        13 => Body::TimeoutNow,
        14 => Body::ReadAsk(ReadAsk { boot: number(input, 1)?, number: number(input, 1)? }),
        15 => {
            let ask = ReadAsk { boot: number(input, 1)?, number: number(input, 1)? };
            Body::ReadReply(ReadReply { ask, index: LogIndex(number(input, replica.commit.0)?) })
        }
        12 => {
            let index = LogIndex(number(input, replica.commit.0)?);
            let verdict = *input.choose(&[Verdict::Minority, Verdict::NoMajority])?;
            Body::Fence(Fence { index, digest: u64::from(u8::arbitrary(input)? % 3), verdict })
        }
        _ => Body::Join(member(u8::arbitrary(input)?)),
    };
    let length = Message { header, body }.encode(&mut bytes);
    bytes.truncate(length);
    Ok(bytes)
}

fn act(input: &mut Unstructured<'_>, replica: &mut Replica) -> Result<()> {
    match u8::arbitrary(input)? % 16 {
        0 | 1 => {
            replica.now = replica.now.saturating_add(u64::from(u16::arbitrary(input)?) * 10_000);
            replica.step(Input::Tick);
        }
        2 => {
            replica.now = replica.machine.next_deadline().0.min(replica.now.saturating_add(1 << 40)).max(replica.now);
            replica.step(Input::Tick);
        }
        3 => {
            let body = <&[u8]>::arbitrary(input)?;
            replica.step(Input::Propose(&Proposal { body: &[body], ..Proposal::default() }));
        }
        4 => replica.step(if bool::arbitrary(input)? { Input::Read } else { Input::ReadHere }),
        5 | 6 => {
            let at = usize::from(u8::arbitrary(input)?) % replica.writes.len().max(1);
            if at < replica.writes.len() {
                // Completed in order; one that stands for all before it.
                let write = replica.writes.drain(..=at).next_back();
                write.into_iter().for_each(|write| replica.step(Input::Persisted(write)));
            }
        }
        7 => {
            let to =
                LogIndex(number(input, replica.commit.0)?.clamp(replica.machine.applied_index().0, replica.commit.0));
            replica.step(Input::Applied(&[(to, u64::from(u8::arbitrary(input)? % 3))]));
        }
        8 => {
            let voters = (1..=u8::arbitrary(input)? % 6).map(member).collect();
            let learners = (4..=u8::arbitrary(input)? % 7).map(member).collect();
            let target = Configuration { voters, learners, ..Configuration::default() };
            replica.step(Input::ChangeMembers(&target));
        }
        9 => match u8::arbitrary(input)? % 10 {
            8 => replica.step(Input::Transfer(None)),
            9 => replica.step(Input::Transfer(Some(member(u8::arbitrary(input)? % 5).id))),
            0 => replica.step(Input::CancelChange),
            1 => replica.step(Input::Farewell),
            2 => replica.step(Input::StorageStalled(true)),
            3 => replica.step(Input::StorageStalled(false)),
            4 => replica.step(Input::Stopped),
            5 => replica.step(Input::StorageFailed),
            _ => {
                let bytes = Rc::new(<Vec<u8>>::arbitrary(input)?);
                let hash = state_hash(&bytes);
                let index = replica.machine.applied_index();
                replica.step(Input::Offer(&Snapshot { index, log_time: 0, bytes }, hash));
            }
        },
        _ => {
            let bytes = datagram(input, replica)?;
            if let Some(message) = Message::decode(&bytes) {
                let from = message.header.from.slot.0;
                replica.step(Input::Message(member(from).peer, &message));
            }
        }
    }
    Ok(())
}

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(data: &[u8]) {
    let mut config = ShardConfig::new(member(1), 1);
    config.limits = LIMITS;
    let machine = Machine::new(&config, PAYLOAD_BYTES, Nanos(0));
    let mut replica = Replica { machine, log: Log::default(), writes: Vec::new(), commit: LogIndex::ZERO, now: 0 };
    let mut input = Unstructured::new(data);
    // Some only ever ask to join.
    if bool::arbitrary(&mut input).unwrap_or_default() {
        let members: Vec<Member> = (1..=3).map(member).collect();
        replica.machine.bootstrap(CLUSTER, &members, 0, &mut replica.log).expect("a fresh node");
    }
    replica.step(Input::Tick);
    while !input.is_empty() && act(&mut input, &mut replica).is_ok() {}
}
