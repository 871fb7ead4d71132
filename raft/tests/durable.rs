//! A shard on a simulated core with its log on a disk: what was committed is there when it starts again, under the same identity,
//! from its own snapshot and the log after it.

mod harness;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use harness::device::{Faulty, Platter};
use harness::journal::{EXPECTED, ID, SETTINGS};
use harness::{CLUSTER, member};
use trimaran_raft::seed::{Legacy, Seeding};
use trimaran_raft::wal::{Fresh, Recovery, Wal, WalSettings, recover};
use trimaran_raft::{
    CommittedEntry, Configuration, EntryHeader, EntryKind, Error, Limits, Log, LogIndex, Member, Nanos, Proposal,
    ReceivedSnapshot, Shard, ShardConfig, ShardId, Snapshot, Term, Transport,
};
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::task::Lane;
use trimaran_runtime::{Driver, Flushed, Instant, Polled};

/// No wires: a group of one.
struct Nothing;

impl Driver for Nothing {
    fn poll(&mut self, _now: Instant, _budget: usize) -> Polled {
        Polled { packets: 0, more: false }
    }

    fn flush(&mut self, _now: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<BorrowedFd<'_>>) {}
}

impl Transport for Nothing {
    fn payload_bytes(&self) -> usize {
        1464
    }

    fn send(&mut self, _to: &Member, _write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        false
    }

    fn poll_recv(&mut self, _cx: &mut Context<'_>, _deliver: &mut dyn FnMut(SocketAddrV4, &[u8])) -> Poll<()> {
        Poll::Pending
    }
}

type Handle = Shard<Nothing, Wal<Faulty>>;
/// The state: every body applied, in order.
type State = Rc<RefCell<Vec<u8>>>;

struct One {
    world: World<Nothing>,
    core: CoreIndex,
    shard: Handle,
    state: State,
    disk: Faulty,
    /// States loaded from snapshots.
    loaded: Rc<RefCell<Vec<LogIndex>>>,
}

impl One {
    /// A node on this disk: a first life where there is none yet.
    fn start(seed: u64, platter: Platter) -> One {
        One::start_with(seed, platter, SETTINGS, Limits::default())
    }

    fn start_with(seed: u64, platter: Platter, settings: WalSettings, limits: Limits) -> One {
        let mut world = World::new(seed);
        let core = world.add_core("node", Nothing);
        let found = recover(&platter, &EXPECTED).expect("its own disk");
        let disk = Faulty::new(platter, true);
        let mut me = member(0, 1);
        me.id = ID;
        let config = ShardConfig { limits, ..ShardConfig::new(me, seed) };
        let shard = world.enter(core, || match found {
            Recovery::Resumed(found) => {
                let wal = Wal::resume(disk.clone(), settings, &found, Nanos(0));
                Shard::resume(config, Nothing, wal, *found)
            }
            Recovery::Nothing => {
                let fresh = Fresh { id: ID, shard: ShardId(0), salt: 1 };
                let shard = Shard::new(config, Nothing, Wal::create(disk.clone(), settings, fresh, &[], Nanos(0)));
                shard.bootstrap(CLUSTER, &[me], 0).expect("fresh");
                shard
            }
            Recovery::Untrusted(report) => panic!("{report}"),
        });
        let (state, loaded) = (State::default(), Rc::default());
        world.spawn(core, Lane::Control, shard.clone().run()).detach();
        world.spawn(core, Lane::Normal, apply(shard.clone(), Rc::clone(&state), Rc::clone(&loaded))).detach();
        One { world, core, shard, state, disk, loaded }
    }

    fn run(&mut self, ms: u64) {
        self.world.run_for(Duration::from_millis(ms));
    }

    fn propose(&mut self, body: &[u8]) -> Result<LogIndex, Error> {
        let shard = &self.shard;
        self.world.enter(self.core, || shard.propose(Proposal { body: &[body], ..Proposal::default() }))
    }
}

async fn apply(shard: Handle, state: State, loaded: Rc<RefCell<Vec<LogIndex>>>) {
    enum Next {
        Entry,
        Load(ReceivedSnapshot),
        Save,
    }
    let mut entry = CommittedEntry::default();
    loop {
        let next = {
            let mut snapshot = pin!(shard.next_snapshot());
            let mut wanted = pin!(shard.snapshot_wanted());
            let mut committed = pin!(shard.next_committed(&mut entry));
            poll_fn(|cx| {
                if let Poll::Ready(snapshot) = snapshot.as_mut().poll(cx) {
                    return Poll::Ready(Next::Load(snapshot));
                }
                if wanted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Save);
                }
                committed.as_mut().poll(cx).map(|()| Next::Entry)
            })
            .await
        };
        match next {
            Next::Entry => {
                if entry.header.kind == EntryKind::Normal {
                    state.borrow_mut().extend_from_slice(&entry.body[..1]);
                }
                shard.set_applied(&[(entry.index, entry.index.0)]);
            }
            Next::Load(snapshot) => {
                *state.borrow_mut() = snapshot.bytes.to_vec();
                loaded.borrow_mut().push(snapshot.index);
                shard.set_applied(&[(snapshot.index, snapshot.digest)]);
            }
            Next::Save => {
                let bytes = Rc::new(state.borrow().clone());
                let snapshot = Snapshot { index: shard.status().applied, log_time: 1, bytes };
                shard.offer_snapshot(snapshot).await.expect("it was asked for");
            }
        }
    }
}

#[test]
fn a_node_goes_on_where_its_disk_is() {
    let mut platter = Platter::default();
    let mut expected = Vec::new();
    let mut loads = 0;
    for life in 0..4u8 {
        let mut node = One::start(u64::from(life) + 1, platter);
        node.run(1000);
        assert!(node.shard.is_leader(), "life {life}: {:?}", node.shard.status());
        assert_eq!(*node.state.borrow(), expected, "life {life}");
        loads += node.loaded.borrow().len();
        for at in 0..60u8 {
            let mut body = vec![at ^ life; 400];
            body[0] = at.wrapping_mul(7) ^ life;
            node.propose(&body).expect("leads and has room");
            expected.push(body[0]);
            node.run(1);
        }
        node.run(20);
        let status = node.shard.status();
        assert_eq!((status.applied, status.storage_full, status.damaged), (status.last, false, None));
        assert_eq!(*node.state.borrow(), expected);
        // Whatever was not durable is lost.
        platter = node.disk.platter().after(|_, _| false, |_| false);
    }
    assert!(loads >= 3, "restarts begin from snapshots: {loads}");
}

/// The node of a new cluster that begins with an old one's data leads it alone, with all of that applied.
#[test]
fn a_node_goes_on_with_an_old_clusters_data() {
    const BASE: LogIndex = LogIndex(9);
    let snapshot = ReceivedSnapshot {
        index: BASE,
        term: Term(3),
        log_time: 7,
        digest: BASE.0,
        configuration: Configuration::of_voters(&[member(3, 1), member(4, 1)]),
        bytes: Rc::new(vec![1, 2, 3]),
    };
    let mut log = Log::starting_after(BASE, snapshot.term, snapshot.log_time);
    for body in 10..60_u8 {
        let header = EntryHeader { term: Term(3), body_len: 400, log_time: 7, ..EntryHeader::default() };
        log.append(EntryHeader { body_crc32c: crc32c::crc32c(&[body; 400]), ..header }, &[&[body; 400]]);
    }
    let expected: Vec<u8> = [1, 2, 3].into_iter().chain(10..60).collect();
    let legacy = Legacy { snapshot: Some(snapshot), log, term: Term(6) };
    let disk = Faulty::new(Platter::default(), true);
    let fresh = Fresh { id: ID, shard: ShardId(0), salt: 1 };
    let mut seeding = Seeding::new(disk.clone(), SETTINGS, fresh, (CLUSTER, member(0, 1)), legacy, Nanos(0));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let seeded = std::iter::repeat_with(|| seeding.poll(Nanos(0), &mut cx)).take(1000).find(Poll::is_ready);
    assert_eq!(seeded, Some(Poll::Ready(Ok(()))));

    let mut node = One::start(1, disk.platter().after(|_, _| false, |_| false));
    node.run(1000);
    assert!(node.shard.is_leader() && node.shard.status().term > Term(6), "{:?}", node.shard.status());
    assert_eq!((&*node.state.borrow(), &*node.loaded.borrow()), (&expected, &vec![BASE]));
    node.propose(&[77]).expect("leads");
    node.run(20);
    assert_eq!(node.state.borrow().last(), Some(&77));
}

#[test]
fn a_full_disk_refuses_proposals_until_there_is_room() {
    let mut node = One::start(9, Platter::default());
    node.run(1000);
    node.disk.set(|faults| faults.no_space = true);
    let mut refused = 0;
    for _ in 0..200 {
        match node.propose(&[7; 400]) {
            Ok(_) => {}
            Err(Error::StorageFull) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        node.run(1);
    }
    assert!(refused > 50 && node.shard.status().storage_full, "{refused}");
    node.disk.set(|faults| faults.no_space = false);
    node.run(200);
    assert!(node.shard.is_leader() && !node.shard.status().storage_full);
    node.propose(&[7; 400]).expect("there is room");
}

/// What a start reads back stays in memory until its commit is learnt: however seldom a snapshot is due, the log must not be let grow
/// beyond what memory holds.
#[test]
fn what_a_start_reads_back_is_bounded_however_seldom_snapshots_are_due() {
    let settings = WalSettings { files_max: 64, snapshot_every_bytes: u64::MAX, ..SETTINGS };
    let limits =
        Limits { log_bytes: 128 << 10, uncommitted_bytes: 32 << 10, entry_bytes: 8 << 10, ..Limits::default() };
    let mut node = One::start_with(12, Platter::default(), settings, limits);
    node.run(1000);
    let (mut written, mut unsaved, mut most, mut snapshots) = (0, 0, 0, 0);
    for life in 0..3 {
        for at in 0..1000_u32 {
            match node.propose(&[at as u8; 400]) {
                Ok(_) => written += 464,
                Err(Error::Overloaded) => {}
                Err(other) => panic!("{other}"),
            }
            node.run(1);
            let shard = &node.shard;
            unsaved = unsaved.max(shard.with_log(|log| shard.with_machine(|machine| machine.unsaved_bytes(log))));
        }
        snapshots += node.shard.with_storage(|wal| wal.counters().snapshots);
        let platter = node.disk.platter().after(|_, _| false, |_| false);
        let Recovery::Resumed(found) = recover(&platter, &EXPECTED).expect("its own disk") else { panic!("a life") };
        most = most.max(found.log.bytes());
        node = One::start_with(13 + life, platter, settings, limits);
        node.run(1000);
        assert!(node.shard.is_leader(), "{:?}", node.shard.status());
    }
    assert!(written > 1_300_000, "seldom refused: {written} bytes");
    assert!((48 << 10..=128 << 10).contains(&unsaved) && most <= unsaved, "{unsaved} bytes unsaved, {most} read back");
    assert!((12..60).contains(&snapshots), "{snapshots} snapshots");
}

#[test]
fn a_failed_disk_ends_the_node() {
    let mut node = One::start(10, Platter::default());
    node.run(1000);
    node.disk.set(|faults| faults.eio = true);
    let index = node.propose(&[1]).expect("leads");
    node.run(10);
    assert!(!node.shard.is_leader() && node.shard.status().commit < index);
}

/// A leader whose device answers no more refuses at once, and stops leading.
#[test]
fn a_stalled_disk_is_noticed() {
    let mut node = One::start(11, Platter::default());
    node.run(1000);
    node.disk.set(|faults| faults.holds = true);
    let index = node.propose(&[1]).expect("leads");
    node.run(150);
    assert_eq!(node.propose(&[1]), Err(Error::Overloaded));
    assert!(node.shard.status().commit < index);
    node.disk.set(|faults| faults.holds = false);
    node.run(1000);
    assert!(node.shard.status().commit >= index, "it may come back");
}
