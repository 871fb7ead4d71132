//! Shards on simulated cores: the very task that runs in production, over a network in memory.

#[cfg(feature = "trace")]
#[path = "harness/traced.rs"]
mod traced;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use trimaran_raft::{
    ClusterId, CommittedEntry, Completion, Consistency, Counters, EntryKind, Error, Log, LogIndex, Machine, Member,
    MemoryStorage, NodeId, Proposal, ReceivedSnapshot, Role, Shard, ShardConfig, Snapshot, Storage, Transport, Unfit,
    Write,
};
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::task::Lane;
use trimaran_runtime::{Driver, Flushed, Instant, Polled};

const LATENCY: Duration = Duration::from_micros(50);
const NODES: usize = 3;

type Datagram = (Instant, SocketAddrV4, Vec<u8>);

/// What is on its way to one node, and what has arrived there.
#[derive(Default)]
struct Inbox {
    coming: VecDeque<Datagram>,
    arrived: VecDeque<(SocketAddrV4, Vec<u8>)>,
    reader: Option<Waker>,
    /// Cut off: nothing arrives and nothing leaves.
    cut: bool,
}

#[derive(Clone)]
struct Wires(Rc<Vec<RefCell<Inbox>>>);

struct Device {
    wires: Wires,
    at: usize,
}

impl Driver for Device {
    fn poll(&mut self, now: Instant, budget: usize) -> Polled {
        let mut inbox = self.wires.0[self.at].borrow_mut();
        let mut packets = 0;
        while packets < budget && inbox.coming.front().is_some_and(|first| first.0 <= now) {
            let arrived = inbox.coming.pop_front().map(|(_, from, bytes)| (from, bytes));
            inbox.arrived.extend(arrived);
            packets += 1;
        }
        if packets > 0
            && let Some(reader) = inbox.reader.take()
        {
            reader.wake();
        }
        Polled { packets, more: packets == budget }
    }

    fn flush(&mut self, _now: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {}

    fn next_arrival(&self) -> Option<Instant> {
        self.wires.0[self.at].borrow().coming.front().map(|first| first.0)
    }
}

struct Wire {
    wires: Wires,
    me: Member,
}

impl Transport for Wire {
    fn payload_bytes(&self) -> usize {
        1464
    }

    fn send(&mut self, to: &Member, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        let mut bytes = vec![0; self.payload_bytes()];
        let length = write(&mut bytes);
        bytes.truncate(length);
        let due = trimaran_runtime::now() + LATENCY;
        let to = usize::from(to.peer.ip().octets()[3]) - 1;
        let from = usize::from(self.me.peer.ip().octets()[3]) - 1;
        if !self.wires.0[from].borrow().cut && !self.wires.0[to].borrow().cut {
            self.wires.0[to].borrow_mut().coming.push_back((due, self.me.peer, bytes));
        }
        true
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, deliver: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        let mut inbox = self.wires.0[usize::from(self.me.peer.ip().octets()[3]) - 1].borrow_mut();
        if inbox.arrived.is_empty() {
            inbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for (from, bytes) in inbox.arrived.drain(..) {
            deliver(from, &bytes);
        }
        Poll::Ready(())
    }
}

type Handle = Shard<Wire, MemoryStorage>;
/// What a node applied: index and body.
type Applied = Rc<RefCell<Vec<(LogIndex, Vec<u8>)>>>;

struct Group {
    world: World<Device>,
    cores: Vec<CoreIndex>,
    shards: Vec<Handle>,
    applied: Vec<Applied>,
    /// What a node's digests are wrong by.
    salts: Vec<Rc<Cell<u64>>>,
    wires: Wires,
}

fn member(at: usize) -> Member {
    let ip = Ipv4Addr::new(127, 0, 0, at as u8 + 1);
    let address = |port| SocketAddrV4::new(ip, port);
    Member { id: NodeId::new(at as u8 + 1, 1), client: address(8000), peer: address(8100) }
}

impl Group {
    fn new(seed: u64) -> Group {
        Group::with(seed, |_| {})
    }

    fn with(seed: u64, change: impl Fn(&mut ShardConfig)) -> Group {
        let wires = Wires(Rc::new((0..NODES).map(|_| RefCell::default()).collect()));
        let mut world = World::new(seed);
        let mut group = Vec::new();
        let members: Vec<Member> = (0..NODES).map(member).collect();
        for at in 0..NODES {
            let core = world.add_core("node", Device { wires: wires.clone(), at });
            let transport = Wire { wires: wires.clone(), me: member(at) };
            let mut config = ShardConfig::new(member(at), seed + at as u64);
            change(&mut config);
            let shard = world.enter(core, || Shard::new(config, transport, MemoryStorage::default()));
            world.spawn(core, Lane::Control, shard.clone().run()).detach();
            let (applied, salt) = (Applied::default(), Rc::<Cell<u64>>::default());
            world.spawn(core, Lane::Normal, apply(shard.clone(), applied.clone(), salt.clone())).detach();
            world.spawn(core, Lane::Normal, give_out(shard.clone(), applied.clone())).detach();
            world.enter(core, || shard.bootstrap(ClusterId(7), &members, 0)).expect("fresh");
            group.push((core, shard, applied, salt));
        }
        let mut cores = Vec::new();
        let mut shards = Vec::new();
        let mut all = Vec::new();
        let mut salts = Vec::new();
        for (core, shard, applied, salt) in group {
            salts.push(salt);
            cores.push(core);
            shards.push(shard);
            all.push(applied);
        }
        Group { world, cores, shards, applied: all, salts, wires }
    }

    fn leader(&mut self) -> usize {
        self.world.run_for(Duration::from_secs(1));
        let leads = |at: &usize| self.world.is_alive(self.cores[*at]) && self.shards[*at].is_leader();
        (0..NODES).find(leads).expect("a leader within a second")
    }

    fn propose(&mut self, at: usize, body: &[u8]) -> Result<LogIndex, Error> {
        let shard = &self.shards[at];
        self.world.enter(self.cores[at], || shard.propose(Proposal { body: &[body], ..Proposal::default() }))
    }
}

async fn apply(shard: Handle, applied: Applied, salt: Rc<Cell<u64>>) {
    let mut entry = CommittedEntry::default();
    loop {
        let next = {
            let mut snapshot = pin!(shard.next_snapshot());
            let mut committed = pin!(shard.next_committed(&mut entry));
            poll_fn(|cx| match snapshot.as_mut().poll(cx) {
                Poll::Ready(snapshot) => Poll::Ready(Err(snapshot)),
                Poll::Pending => committed.as_mut().poll(cx).map(Ok),
            })
            .await
        };
        match next {
            Ok(()) => {
                let CommittedEntry { index, header, body } = &entry;
                if header.kind == EntryKind::Normal {
                    applied.borrow_mut().push((*index, body.clone()));
                }
                shard.set_applied(&[(*index, index.0 ^ salt.get())]);
            }
            Err(snapshot) => {
                *applied.borrow_mut() = decode(&snapshot.bytes);
                shard.set_applied(&[(snapshot.index, snapshot.digest)]);
            }
        }
    }
}

/// Gives snapshots out, each a moment after it was asked for.
async fn give_out(shard: Handle, applied: Applied) {
    loop {
        let least = shard.snapshot_wanted().await;
        let status = shard.status();
        let snapshot = Snapshot { index: status.applied, log_time: 1, bytes: encode(&applied.borrow()).into() };
        assert!(snapshot.index >= least);
        trimaran_runtime::sleep(Duration::from_millis(3)).await;
        let _ = shard.offer_snapshot(snapshot).await;
    }
}

fn encode(state: &[(LogIndex, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, body) in state {
        bytes.extend(index.0.to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(body);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Vec<(LogIndex, Vec<u8>)> {
    let mut state = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let number = |at: usize| u64::from_le_bytes(*head[at..].first_chunk().expect("eight bytes"));
        let (body, rest) = rest.split_at(number(8) as usize);
        state.push((LogIndex(number(0)), body.to_vec()));
        bytes = rest;
    }
    state
}

#[test]
fn what_is_proposed_is_applied_once_everywhere_in_order() {
    let mut group = Group::new(1);
    let leader = group.leader();
    let mut expected = Vec::new();
    for round in 0..50u32 {
        for step in 0..20u32 {
            let body = vec![step as u8; (round + step) as usize % 40];
            let index = group.propose(leader, &body).expect("leads");
            expected.push((index, body));
        }
        group.world.run_for(Duration::from_micros(300));
    }
    group.world.run_for(Duration::from_millis(100));
    for at in 0..NODES {
        assert!(*group.applied[at].borrow() == expected, "node {at}");
        let status = group.shards[at].status();
        assert_eq!((status.applied, status.last), (status.commit, status.commit));
        assert_eq!((status.reachable, status.quorum, status.total), (if at == leader { 3 } else { 2 }, 2, 3));
    }
    // Everything proposed in a turn left in one append to each peer: far fewer datagrams than proposals.
    assert!(group.shards[leader].status().counters.sent < 1000);
}

#[test]
fn the_others_go_on_when_the_leader_is_killed() {
    let mut group = Group::new(2);
    let first = group.leader();
    let index = group.propose(first, b"kept").expect("leads");
    group.world.run_for(Duration::from_millis(5));
    let watching = (first + 1) % NODES;
    let seen = Rc::new(RefCell::new(0));
    let (shard, count) = (group.shards[watching].clone(), seen.clone());
    let watch = async move {
        let mut leadership = shard.leadership();
        loop {
            leadership.changed().await;
            *count.borrow_mut() += 1;
        }
    };
    group.world.spawn(group.cores[watching], Lane::Normal, watch).detach();
    group.world.kill(group.cores[first]);
    let second = group.leader();
    assert_ne!(second, first);
    assert!(*seen.borrow() > 0, "the change was seen");
    group.propose(second, b"new").expect("leads");
    group.world.run_for(Duration::from_millis(50));
    let applied = group.applied[second].borrow();
    assert_eq!(applied[0], (index, b"kept".to_vec()));
    assert_eq!(applied[1].1, b"new");
}

#[test]
fn a_read_barrier_waits_for_a_round_and_names_what_is_committed() {
    let mut group = Group::new(3);
    let leader = group.leader();
    let index = group.propose(leader, b"x").expect("leads");
    group.world.run_for(Duration::from_millis(5));
    let shard = group.shards[leader].clone();
    let read = async move {
        let index = shard.read_barrier().await?;
        shard.applied_at_least(index).await;
        Ok::<_, Error>((index, shard.status().applied))
    };
    let task = group.world.spawn(group.cores[leader], Lane::Normal, read);
    let abandoned = group.world.enter(group.cores[leader], || group.shards[leader].read_barrier());
    drop(abandoned);
    let before = group.world.now();
    let result = Rc::new(RefCell::new(None));
    let slot = result.clone();
    let core = group.cores[leader];
    group.world.spawn(core, Lane::Normal, async move { *slot.borrow_mut() = Some(task.await) }).detach();
    group.world.run_while(|_| result.borrow().is_none(), Duration::from_millis(50));
    let (read, applied) = result.borrow_mut().take().expect("done").expect("no panic").expect("leads");
    assert!(read >= index && applied >= read);
    let took = group.world.now().saturating_since(before);
    assert!(took >= 2 * LATENCY && took < 4 * LATENCY, "one round trip: {took:?}");
}

/// Reads of one kind on a node, and what came of it.
fn read(group: &mut Group, at: usize, how: Consistency) -> Result<LogIndex, Error> {
    let shard = group.shards[at].clone();
    let result = Rc::new(RefCell::new(None));
    let slot = result.clone();
    let task = async move {
        let answer = async {
            let permit = shard.read(how).await?;
            let (index, applied) = (permit.index(), shard.status().applied);
            assert!(applied >= index);
            permit.release(applied)
        };
        *slot.borrow_mut() = Some(answer.await);
    };
    group.world.spawn(group.cores[at], Lane::Normal, task).detach();
    group.world.run_while(|_| result.borrow().is_none(), Duration::from_secs(3));
    result.borrow_mut().take().expect("answered or refused")
}

#[test]
fn reads_of_every_kind_on_every_node() {
    let mut group = Group::with(8, |config| config.reads.lease = true);
    let leader = group.leader();
    for at in 0..NODES {
        let shard = group.shards[at].clone();
        group.world.enter(group.cores[at], || shard.set_clock(trimaran_runtime::now));
    }
    let index = group.propose(leader, b"x").expect("leads");
    group.world.run_for(Duration::from_millis(60));
    let token = Consistency::AtLeast(index);
    let stale = Consistency::Stale { max: Duration::from_millis(60) };
    for at in 0..NODES {
        for how in [Consistency::Linearizable, Consistency::Lease, token, stale] {
            let before = (group.world.now(), group.shards[leader].status().counters.sent);
            assert_eq!(read(&mut group, at, how), Ok(index), "{how:?} at {at}");
            let asks = how == Consistency::Linearizable || how == Consistency::Lease && at != leader;
            let took = group.world.now().saturating_since(before.0);
            assert_eq!(took >= 2 * LATENCY, asks, "{how:?} at {at} took {took:?}");
        }
    }
    // Own writes: the token of one that is still on its way is waited for.
    let next = group.propose(leader, b"y").expect("leads");
    let follower = (leader + 1) % NODES;
    assert!(group.shards[follower].status().applied < next);
    assert_eq!(read(&mut group, follower, Consistency::AtLeast(next)), Ok(next));
    // One that nobody has given out is not waited for for ever.
    let far = Consistency::AtLeast(LogIndex(next.0 + 100));
    let before = group.world.now();
    assert_eq!(read(&mut group, follower, far), Err(Error::NotYet { applied: next }));
    assert_eq!(group.world.now().saturating_since(before).as_millis(), 1000);
    group.wires.0[follower].borrow_mut().cut = true;
    group.world.run_for(Duration::from_secs(1));
    assert!(matches!(read(&mut group, follower, stale), Err(Error::TooStale { age_ns: Some(_) })));
    assert_eq!(read(&mut group, follower, token), Ok(next), "what it has it may give out");
    let refused = read(&mut group, follower, Consistency::Linearizable);
    assert_eq!(refused, Err(Error::NotLeader { leader: None }));
}

/// etcd #20418, with the task that runs in production: the core is stopped between two instructions of a turn, and only the
/// clock itself knows.
#[test]
fn an_answer_under_a_lease_leaves_only_after_another_look_at_the_clock() {
    let mut group = Group::with(9, |config| config.reads.lease = true);
    let leader = group.leader();
    let core = group.cores[leader];
    let shard = group.shards[leader].clone();
    let stopped_for = Rc::new(Cell::new(Duration::ZERO));
    let pause = stopped_for.clone();
    let permit = |group: &mut Group, how| {
        let shard = group.shards[leader].clone();
        let slot = Rc::new(RefCell::new(None));
        let given = slot.clone();
        let task = async move { *given.borrow_mut() = Some(shard.read(how).await.expect("leads")) };
        group.world.spawn(core, Lane::Normal, task).detach();
        group.world.run_while(|_| slot.borrow().is_none(), Duration::from_millis(10));
        slot.borrow_mut().take().expect("given")
    };
    // Without a clock of its own the shard asks the others all the same.
    let before = group.world.now();
    let asked = permit(&mut group, Consistency::Lease);
    assert!(group.world.now().saturating_since(before) >= 2 * LATENCY);
    assert_eq!(group.world.enter(core, || asked.release(7)), Ok(7));
    group.world.enter(core, || shard.set_clock(move || trimaran_runtime::now() + pause.get()));
    let (early, late) = (permit(&mut group, Consistency::Lease), permit(&mut group, Consistency::Lease));
    let aged = permit(&mut group, Consistency::Stale { max: Duration::from_millis(100) });
    assert_eq!(group.world.enter(core, || early.release(7)), Ok(7));
    stopped_for.set(Duration::from_millis(150));
    assert_eq!(group.world.enter(core, || late.release(7)), Err(Error::LeaseEnded));
    let refused = group.world.enter(core, || aged.release(7));
    assert!(matches!(refused, Err(Error::TooStale { age_ns: Some(_) })));
}

#[test]
fn reads_that_wait_for_the_apply_task_are_bounded_and_end_with_it() {
    let mut group = Group::with(10, |config| config.limits.waiting_applies = 3);
    let leader = group.leader();
    let core = group.cores[leader];
    let ended = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..5 {
        let (shard, ended) = (group.shards[leader].clone(), ended.clone());
        let task = async move {
            let permit = shard.read(Consistency::AtLeast(LogIndex(1000))).await;
            ended.borrow_mut().push(permit.map(|permit| permit.index()));
        };
        group.world.spawn(core, Lane::Normal, task).detach();
    }
    group.world.run_for(Duration::from_millis(1));
    assert_eq!(*ended.borrow(), [Err(Error::Overloaded), Err(Error::Overloaded)]);
    let shard = group.shards[leader].clone();
    group.world.enter(core, || shard.stop_applying());
    group.world.run_for(Duration::from_millis(1));
    assert_eq!(ended.borrow()[2..], [Err(Error::NotServing), Err(Error::NotServing), Err(Error::NotServing)]);
    assert_eq!(read(&mut group, leader, Consistency::AtLeast(LogIndex(1))), Err(Error::NotServing));
}

#[test]
fn a_read_that_has_ended_makes_room_for_another() {
    let mut group = Group::with(10, |config| {
        config.limits.waiting_applies = 1;
        config.reads.patience = Duration::from_millis(2);
    });
    let leader = group.leader();
    let ahead = Consistency::AtLeast(LogIndex(1000));
    for _ in 0..3 {
        assert!(matches!(read(&mut group, leader, ahead), Err(Error::NotYet { .. })));
    }
}

#[test]
fn a_wait_that_is_given_up_wakes_nobody_later() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut group = Group::new(11);
    let leader = group.leader();
    let (core, shard) = (group.cores[leader], group.shards[leader].clone());
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let next = shard.status().applied.next();
    group.world.enter(core, || {
        let mut wait = pin!(shard.applied_at_least(next));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    });
    group.propose(leader, b"x").expect("leads");
    group.world.run_for(Duration::from_millis(5));
    assert!(shard.status().applied >= next);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
}

#[test]
fn a_follower_says_who_leads() {
    let mut group = Group::new(4);
    let leader = group.leader();
    let follower = (leader + 1) % NODES;
    let refused = group.propose(follower, b"x");
    assert_eq!(refused, Err(Error::NotLeader { leader: Some(member(leader)) }));
    assert_eq!(group.shards[follower].status().role, Role::Follower);
    let barrier = group.world.enter(group.cores[follower], || group.shards[follower].read_barrier());
    let mut barrier = std::pin::pin!(barrier);
    let polled = std::future::Future::poll(barrier.as_mut(), &mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Err(Error::NotLeader { leader: Some(member(leader)) })));
}

#[test]
fn leadership_is_handed_to_the_seat_that_is_named() {
    let mut group = Group::new(7);
    let first = group.leader();
    let (heir, core) = ((first + 1) % NODES, group.cores[first]);
    let shard = group.shards[first].clone();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (watched, list) = (shard.clone(), seen.clone());
    let watch = async move {
        let mut leadership = watched.leadership();
        loop {
            leadership.changed().await;
            let status = watched.status();
            list.borrow_mut().push((status.transferring.is_some(), status.role == Role::Leader));
        }
    };
    group.world.spawn(core, Lane::Normal, watch).detach();
    group.world.run_for(Duration::from_millis(1));
    let nobody = NodeId::new(9, 0);
    let refused = group.world.enter(core, || shard.transfer(Some(nobody.slot)));
    assert_eq!(refused, Err(Error::CannotLead { node: nobody, reason: Unfit::NotVoter }));
    group.world.enter(core, || shard.transfer(Some(member(heir).id.slot))).expect("fit");
    let busy = Err(Error::TransferInProgress { to: member(heir).id });
    assert_eq!(group.propose(first, b"x"), busy);
    group.world.run_for(Duration::from_millis(1));
    assert!(group.shards[heir].is_leader());
    assert_eq!(seen.borrow().first(), Some(&(true, true)), "its beginning is seen");
    assert_eq!(seen.borrow().last(), Some(&(false, false)), "and its end");
    assert!(group.propose(heir, b"x").is_ok());
}

#[test]
fn one_that_says_farewell_is_succeeded_at_once() {
    let mut group = Group::new(14);
    let first = group.leader();
    let shard = group.shards[first].clone();
    group.world.enter(group.cores[first], || shard.farewell());
    assert!(!shard.is_leader(), "its reads fail before the notice leaves");
    group.world.run_for(Duration::from_millis(1));
    let second = (0..NODES).find(|at| group.shards[*at].is_leader()).expect("nobody's timer is waited for");
    assert_ne!(second, first);
    assert!(group.propose(second, b"x").is_ok());
}

#[test]
fn datagrams_and_changes_of_leadership_are_counted() {
    let mut group = Group::new(13);
    let first = group.leader();
    for byte in 0..50 {
        group.propose(first, &[byte]).expect("leads");
        group.world.run_for(Duration::from_millis(1));
    }
    let counters = |group: &Group| -> Vec<Counters> { group.shards.iter().map(Shard::counters).collect() };
    let before = counters(&group);
    let waiting = |inbox: &RefCell<Inbox>| inbox.borrow().coming.len() + inbox.borrow().arrived.len();
    let on_their_way: usize = group.wires.0.iter().map(waiting).sum();
    let sent: u64 = before.iter().map(|counters| counters.sent).sum();
    let received: u64 = before.iter().map(|counters| counters.received).sum();
    assert!(sent > 200 && sent == received + on_their_way as u64, "{sent} sent, {received} received");
    assert!(before.iter().all(|counters| (counters.unsent, counters.leadership_changes > 0) == (0, true)));
    group.world.kill(group.cores[first]);
    let second = group.leader();
    let after = counters(&group)[second].leadership_changes;
    assert!(after > before[second].leadership_changes);
}

/// Takes what it says it has room for, completes it at once, and has room again for what is trimmed.
struct Narrow {
    room: Rc<Cell<u64>>,
    newest: Option<Write>,
}

impl Storage for Narrow {
    fn write(&mut self, write: Write, log: &Log) {
        let bytes = log.bytes_between(write.from.prev(), write.to);
        assert!(bytes <= self.room.get(), "{bytes} bytes, with room for {}", self.room.get());
        self.newest = Some(write);
    }

    fn room_bytes(&self) -> u64 {
        self.room.get()
    }

    fn install(&mut self, _: ClusterId, _: &ReceivedSnapshot) {}

    fn trim(&mut self, _: LogIndex) {
        self.room.set(u64::MAX);
    }

    fn poll_completion(&mut self, _: &mut Context<'_>) -> Poll<Completion> {
        self.newest.take().map_or(Poll::Pending, |write| Poll::Ready(Completion::Persisted(write)))
    }
}

/// A leader of a group of one whose storage has as much room as the test says.
struct Alone {
    world: World<Device>,
    core: CoreIndex,
    shard: Shard<Wire, Narrow>,
    room: Rc<Cell<u64>>,
}

impl Alone {
    fn new(seed: u64) -> Alone {
        let wires = Wires(Rc::new(vec![RefCell::default()]));
        let mut world = World::new(seed);
        let core = world.add_core("node", Device { wires: wires.clone(), at: 0 });
        let room = Rc::new(Cell::new(u64::MAX));
        let storage = Narrow { room: room.clone(), newest: None };
        let mut config = ShardConfig::new(member(0), seed);
        config.limits.log_bytes = 64 << 10;
        let shard = world.enter(core, || Shard::new(config, Wire { wires, me: member(0) }, storage));
        world.spawn(core, Lane::Control, shard.clone().run()).detach();
        world.enter(core, || shard.bootstrap(ClusterId(7), &[member(0)], 0)).expect("fresh");
        world.run_for(Duration::from_secs(1));
        Alone { world, core, shard, room }
    }

    /// Proposes entries of 172 bytes and lets a millisecond pass.
    fn propose(&mut self, count: u8) {
        for byte in 0..count {
            let proposal = Proposal { body: &[&[byte; 100]], ..Proposal::default() };
            self.world.enter(self.core, || self.shard.propose(proposal)).expect("leads");
        }
        self.world.run_for(Duration::from_millis(1));
    }

    fn durable(&self) -> LogIndex {
        self.shard.with_machine(Machine::durable)
    }
}

#[test]
fn no_write_is_larger_than_the_room_that_the_storage_has() {
    let mut alone = Alone::new(15);
    for (bytes, fit) in [(1, 0), (0, 0), (300, 9), (1, 0), (u64::MAX, 6)] {
        let before = alone.durable();
        alone.room.set(bytes);
        alone.propose(3);
        assert_eq!(alone.durable(), LogIndex(before.0 + fit), "room for {bytes} bytes");
    }
    assert_eq!(alone.durable(), alone.shard.status().last);
}

/// Nobody would wake it a second time: the next heartbeat is far away.
#[test]
fn what_waits_for_room_is_written_as_soon_as_a_trim_makes_some() {
    let mut alone = Alone::new(16);
    alone.propose(60);
    let written = alone.durable();
    alone.room.set(0);
    let steps = alone.world.steps();
    alone.propose(1);
    assert!(alone.durable() == written && alone.shard.status().last > written);
    assert!(alone.world.steps() - steps < 100, "it waits, and does not look again and again");
    alone.world.enter(alone.core, || {
        let mut entry = CommittedEntry::default();
        while alone.shard.try_next_committed(&mut entry) {
            alone.shard.set_applied(&[(entry.index, entry.index.0)]);
        }
    });
    alone.world.run_for(Duration::from_millis(1));
    assert!(alone.shard.status().first > LogIndex(30), "what is applied is forgotten");
    assert_eq!(alone.durable(), alone.shard.status().last);
}

#[test]
fn a_replica_whose_digest_differs_is_told_and_gets_no_more_entries() {
    let mut group = Group::new(5);
    let leader = group.leader();
    let wrong = (leader + 1) % NODES;
    let (shard, told) = (group.shards[wrong].clone(), Rc::new(RefCell::new(None)));
    let slot = told.clone();
    let watch = async move { *slot.borrow_mut() = Some(shard.fence_changed().await) };
    group.world.spawn(group.cores[wrong], Lane::Normal, watch).detach();
    group.salts[wrong].set(1 << 40);
    let at = group.propose(leader, b"x").expect("leads");
    group.world.run_for(Duration::from_millis(200));
    assert_eq!((*told.borrow(), group.shards[wrong].fenced()), (Some(at), Some(at)));
    let before = group.applied[wrong].borrow().len();
    group.propose(leader, b"y").expect("leads");
    group.world.run_for(Duration::from_millis(50));
    assert_eq!(group.applied[wrong].borrow().len(), before);
    assert_eq!(group.applied[leader].borrow().len(), 2);
}

#[test]
fn a_replica_that_was_away_for_long_gets_the_state_and_goes_on() {
    let mut group = Group::with(6, |config| config.limits.log_bytes = 64 << 10);
    let leader = group.leader();
    let away = (leader + 1) % NODES;
    group.wires.0[away].borrow_mut().cut = true;
    for round in 0..400u32 {
        let _ = group.propose(leader, &[round as u8; 600]);
        group.world.run_for(Duration::from_millis(10));
    }
    let missed = group.shards[away].status().last;
    assert!(group.shards[leader].status().first > missed.next());
    group.wires.0[away].borrow_mut().cut = false;
    for round in 0..100u32 {
        assert!(group.propose(leader, &[round as u8; 60]).is_ok());
        group.world.run_for(Duration::from_millis(1));
    }
    group.world.run_for(Duration::from_millis(100));
    assert!(group.shards[away].status().first > missed.next(), "it has begun anew");
    assert!(*group.applied[away].borrow() == *group.applied[leader].borrow());
    let (status, lead) = (group.shards[away].status(), group.shards[leader].status());
    assert_eq!((status.applied, status.fenced), (lead.commit, None));
    group.world.kill(group.cores[leader]);
    let next = group.leader();
    assert!(group.propose(next, b"x").is_ok());
}

#[test]
fn one_seed_is_one_history() {
    let history = |seed| {
        let mut group = Group::new(seed);
        let leader = group.leader();
        group.propose(leader, b"x").expect("leads");
        group.world.run_for(Duration::from_millis(100));
        group.world.trace_hash()
    };
    assert_eq!(history(5), history(5));
    assert_ne!(history(5), history(6));
}

/// What the simulator runs can be recorded as it stands: all its cores share a thread.
#[cfg(feature = "trace")]
#[test]
fn the_trace_of_a_simulation_is_a_history() {
    let lines = traced::record(|| {
        let mut group = Group::new(12);
        let first = group.leader();
        for round in 0..20 {
            let _ = group.propose(first, &[round; 400]);
            group.world.run_for(Duration::from_millis(3));
        }
        group.world.kill(group.cores[first]);
        let second = group.leader();
        group.propose(second, b"x").expect("leads");
        group.world.run_for(Duration::from_millis(50));
    });
    let summary = traced::check(&lines).expect("a history");
    assert!(summary.leaders >= 2 && summary.committed >= 23, "{summary:?}");
}
