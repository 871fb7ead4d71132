//! Histories in which something would go wrong if one rule were broken: scenarios, and negative controls with a fault on.
//! Each says in words what went wrong.

use std::cell::Cell;
use std::rc::Rc;

use super::{Cluster, LATENCY_NS, MS, member, reads, staged};
use trimaran_raft::{
    AppendHead, Ask, Body, ChunkHead, ClusterId, DropReason, ENTRY_HEADER_BYTES, Entries, EntryKind, Envelope, Error,
    Fence, Input, LogIndex, Message, Proposal, Refused, Sabotage, ShardConfig, SnapshotId, Verdict,
};

fn of(nodes: &[usize]) -> Vec<(usize, u64)> {
    nodes.iter().map(|index| (*index, 1)).collect()
}

fn sabotaged(sabotage: Sabotage) -> impl Fn(&mut ShardConfig) {
    move |config| config.sabotage = sabotage
}

/// Somebody starts a second node in the seat of a voter that is there.
pub(crate) fn second_node_in_a_seat(sabotage: Sabotage) {
    let mut cluster = Cluster::with(4, sabotaged(sabotage));
    cluster.elect(0);
    cluster.crash(3);
    cluster.restart_empty(3, 1);
    let mut config = cluster.nodes[3].config.clone();
    config.me = trimaran_raft::Member { id: member(2, 9).id, ..member(3, 9) };
    cluster.replace(3, config);
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.voters(0), of(&[0, 1, 2, 3]), "a living voter is replaced");
    assert!(cluster.machine(0).configuration().learners.is_empty(), "a living voter is replaced");
    assert!(cluster.machine(0).joiners().any(|joiner| joiner.id == member(2, 9).id), "it asks");
}

/// The only copy of the last configuration is with a node that it leaves out: it must stand once more, and be heard by one
/// that does not know it as a member any more, or nobody could win.
pub(crate) fn the_complete_log_is_outside(sabotage: Sabotage) {
    let mut cluster = Cluster::of_some_with(3, 2, sabotaged(sabotage));
    cluster.elect(0);
    cluster.change(0, &of(&[2])).expect("possible");
    for _ in 0..1000 {
        if cluster.voters(0) == of(&[2]) {
            break;
        }
        match cluster.flights.is_empty() {
            true => cluster.run_for(LATENCY_NS),
            false => {
                let flight = cluster.flights.remove(0);
                cluster.deliver(&flight);
            }
        }
    }
    let left = (cluster.voters(0), cluster.voters(1)) == (of(&[2]), vec![]);
    assert!(left, "a log outside the configuration is not heard: the change does not get so far");
    cluster.flights.clear();
    cluster.crash(0);
    cluster.run_for(1000 * MS);
    assert_eq!(cluster.leader(), None, "of two old voters both are needed");
    cluster.restart(0);
    cluster.flush(0);
    cluster.run_for(2000 * MS);
    let healed = (cluster.leader(), cluster.voters(2)) == (Some(2), of(&[2]));
    assert!(healed, "a log outside the configuration is not heard: nobody leads");
}

/// A leader inherits a joint configuration, which its predecessor may have committed.
pub(crate) fn inherited_joint_configuration(sabotage: Sabotage) {
    let mut cluster = Cluster::with(5, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster.filter = Some(Box::new(|_, to, message| to != 0 || !matches!(message.body, Body::Ack(_))));
    cluster.change(0, &of(&[0, 1, 2])).expect("possible");
    cluster.settle();
    cluster.crash(0);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Ack(_))));
    cluster.elect(1);
    assert!(cluster.machine(1).configuration().is_joint());
    assert!(cluster.step(1, Input::CancelChange).is_err(), "an inherited change is taken back");
    cluster.filter = None;
    cluster.run_for(100 * MS);
    assert_eq!(cluster.voters(1), of(&[0, 1, 2]), "an inherited change is taken back");
}

/// Somebody who does not lead says farewell, and asks for the vote that this would free.
pub(crate) fn a_strangers_farewell(sabotage: Sabotage) {
    let mut cluster = reads::leased(sabotage);
    let term = cluster.machine(2).term();
    cluster.inject(1, 2, term, Body::Farewell);
    let ask = Ask { campaign: term.next(), last: LogIndex(9), last_term: term, told: false };
    cluster.inject(1, 2, term.next(), Body::Vote(ask));
    let votes = cluster.take(|from, _, body| from == 2 && matches!(body, Body::VoteReply(a) if a.granted));
    let now = cluster.local(0);
    let read = cluster.lease_read(0, now);
    assert!(votes.is_empty() || read.is_err(), "stale read: a vote is given away while a leader holds a lease");
}

fn fill(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        node.applies = false;
    }
    for length in [500, 0] {
        while cluster.propose(0, &[1; 500][..length]).is_ok() {
            cluster.settle();
        }
    }
}

/// A new leader inherits a full log: it must be able to commit, or nothing would ever be applied and forgotten.
pub(crate) fn full_log_inherited(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 16 << 10;
        config.sabotage = sabotage;
    });
    cluster.elect(0);
    fill(&mut cluster);
    cluster.crash(0);
    cluster.elect(1);
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(1).commit(), cluster.log(1).last(), "a full log stops its new leader");
    assert_eq!(cluster.log(2).header(cluster.log(1).last()).map(|header| header.kind), Some(EntryKind::Noop));
    // Log time goes on, whether the tick arrives or is lost the first time.
    let tick = Proposal { kind: EntryKind::Tick, ..Proposal::default() };
    assert!(cluster.step(1, Input::Propose(&tick)).is_ok(), "a full log stops its new leader");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(1).commit(), cluster.log(1).last(), "what has reserved room waits for credit");
    assert!(cluster.step(1, Input::Propose(&tick)).is_ok(), "a full log stops its new leader");
    cluster.flights.clear();
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(1).commit(), cluster.log(1).last(), "who has no room is not probed");
}

/// Two nodes that have saved no snapshot begin again from their disks, knowing of nothing that it is committed, while the third is gone:
/// the one that lacks what the other has must have room for it.
pub(crate) fn two_that_begin_again(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.sabotage = sabotage;
    });
    let on_disks = |cluster: &mut Cluster, index: usize| {
        cluster.nodes[index].disk.keeps_all = true;
        cluster.step(index, Input::StorageSaved(0)).expect("an input that is never refused");
    };
    (0..3).for_each(|index| on_disks(&mut cluster, index));
    cluster.elect(0);
    let write = |cluster: &mut Cluster, bytes: usize| {
        for _ in 0..bytes / 500 {
            if cluster.propose(0, &[1; 500 - ENTRY_HEADER_BYTES]).is_ok() {
                cluster.run_for(MS);
            }
        }
        cluster.run_for(50 * MS);
    };
    write(&mut cluster, 40_000);
    cluster.isolate(&[1]);
    cluster.run_for(3000 * MS);
    write(&mut cluster, 200_000);
    // Nor must log time use up what the leader to come needs.
    let tick = Proposal { kind: EntryKind::Tick, ..Proposal::default() };
    for _ in 0..200 {
        let _ = cluster.step(0, Input::Propose(&tick));
        cluster.run_for(MS);
    }
    assert_eq!(cluster.machine(0).commit(), cluster.log(0).last());
    let lacks = cluster.log(0).last().0 - cluster.log(1).last().0;
    assert!(lacks > 20, "{lacks} entries");
    // The third never comes back.
    (0..3).for_each(|index| cluster.crash(index));
    cluster.heal();
    for index in [0, 1] {
        cluster.restart(index);
        on_disks(&mut cluster, index);
    }
    cluster.run_for(3000 * MS);
    let leader = cluster.leader().expect("one of two leads");
    assert_eq!(leader, 0, "the other lacks what is committed");
    let last = cluster.log(0).last();
    assert_eq!(
        (cluster.machine(0).commit(), cluster.machine(1).commit()),
        (last, last),
        "what was read back stays uncommitted"
    );
    // Until a snapshot is saved there is no room; then there is.
    assert_eq!(cluster.propose(0, &[1; 1000]), Err(Error::Overloaded));
    for index in [0, 1] {
        assert!(cluster.machine(index).is_short_of_saved(cluster.log(index)));
        let saved = cluster.log(index).offset_bytes(cluster.machine(index).applied_index());
        cluster.step(index, Input::StorageSaved(saved)).expect("an input that is never refused");
        assert!(!cluster.machine(index).is_short_of_saved(cluster.log(index)));
        assert_eq!(cluster.machine(index).unsaved_bytes(cluster.log(index)), 0);
    }
    let index = cluster.propose(0, &[1; 1000]).expect("there is room");
    cluster.run_for(50 * MS);
    assert_eq!(cluster.machine(0).commit(), index);
}

/// A log that is full to the brim with what another leader never committed takes the new leader's entries in its place.
pub(crate) fn full_of_what_is_replaced(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 16 << 10;
        config.sabotage = sabotage;
    });
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster.isolate(&[0]);
    let tick = Proposal { kind: EntryKind::Tick, ..Proposal::default() };
    for _ in 0..3 {
        while cluster.propose(0, &[1; 500]).is_ok() {}
        while cluster.step(0, Input::Propose(&tick)).is_ok() {}
        // What is applied has been forgotten by now, and makes no room later.
        let (applied, digest) = (cluster.machine(0).applied_index(), cluster.machine(0).digest());
        let _ = cluster.step(0, Input::Applied(&[(applied, digest)]));
    }
    // What is left is for new leaders: it is one again and again, and nobody hears of it.
    cluster.flights.clear();
    cluster.heal();
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Append(..) | Body::Fragment(..))));
    while cluster.log(0).bytes() + ENTRY_HEADER_BYTES as u64 <= cluster.machine(0).log_limit_bytes() {
        cluster.elect(1);
        cluster.elect(0);
    }
    cluster.filter = None;
    cluster.isolate(&[0]);
    cluster.flights.clear();
    cluster.run_for(1000 * MS);
    let leader = cluster.leader().expect("the other two elect");
    let index = cluster.propose(leader, b"x").expect("leads");
    cluster.heal();
    cluster.run_for(300 * MS);
    assert_eq!(cluster.machine(0).commit(), index, "a log full of what is to go takes nothing in");
}

/// A replica whose state was found wrong is the only one left that could win: it does not stand.
pub(crate) fn fenced_and_alone(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let at = cluster.propose(0, b"x").expect("leads");
    cluster.nodes[2].goes_wrong_at = Some((at, 7));
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(2).fenced(), Some(at));
    cluster.isolate(&[1]);
    cluster.propose(0, b"only 0 and 2 have it").expect("leads");
    cluster.run_for(50 * MS);
    cluster.crash(0);
    cluster.heal();
    for _ in 0..3000 {
        cluster.run_for(MS);
        assert!(!cluster.machine(2).is_leader(), "a replica whose state is wrong leads");
    }
    assert_eq!(cluster.leader(), None, "and the other one lacks an entry");
}

/// The last append of a burst is lost to both followers.
pub(crate) fn lost_last_append(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(100 * MS);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.flights.clear();
    let heartbeat = cluster.nodes[0].config.timing.heartbeat.as_nanos() as u64;
    cluster.run_for(heartbeat / 4);
    assert_eq!(cluster.machine(0).commit(), index, "a lost append waits for the next heartbeat");
}

/// A leader's disk answers no more while reads keep arriving, at the leader and elsewhere. Reads need no disk, but must not keep
/// a leader in place that can take no write.
pub(crate) fn stalled_and_asked(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    cluster.nodes[0].disk.holds = true;
    // What it has in flight when the disk stalls is overdue soon, and would be sent again.
    cluster.propose(0, b"not written here").expect("leads");
    cluster.flights.clear();
    let _ = cluster.step(0, Input::StorageStalled(true));
    let patience = cluster.nodes[0].config.timing.election_max.as_nanos() as u64;
    let mut waited = 0;
    while cluster.machine(0).is_leader() || cluster.leader().is_none() {
        assert!(waited < 2 * patience, "reads keep a stalled leader in place");
        for index in 0..3 {
            let _ = cluster.read_here(index);
        }
        cluster.run_for(5 * MS);
        waited += 5 * MS;
    }
    let leader = cluster.leader().expect("another");
    cluster.propose(leader, b"writes go on").expect("leads");
    cluster.run_for(patience);
    assert_eq!(cluster.machine(leader).commit(), cluster.log(leader).last());
    assert!(cluster.nodes.iter().all(|node| node.reads.is_empty()), "a read hangs");
}

/// A node of another cluster, at an address that this one's nodes know, says that it leads a later term.
pub(crate) fn another_clusters_leader(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let (before, term) = (cluster.machine(2).term(), cluster.machine(2).term().next());
    let header = Envelope { cluster: ClusterId(0xbad), ..cluster.envelope(1, 2, term) };
    let body = Body::Append(AppendHead { round: 1, ..AppendHead::default() }, Entries::default());
    let _ = cluster.step(2, Input::Message(member(1, 1).peer, &Message { header, body }));
    assert_eq!(cluster.machine(2).term(), before, "another cluster's term is adopted");
    assert_eq!(cluster.nodes[2].dropped, [DropReason::WrongCluster]);
}

/// A joint configuration is committed when the operator wants it back: others may have finished it by now.
pub(crate) fn committed_joint_configuration(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(30 * MS);
    cluster.change(0, &of(&[0, 1])).expect("possible");
    // So that the next step does not follow at once.
    cluster.step(0, Input::StorageStalled(true)).expect("an input that is never refused");
    cluster.settle();
    assert!(cluster.machine(0).configuration().is_joint());
    assert_eq!(cluster.machine(0).configuration_index(), cluster.machine(0).commit());
    let refused = cluster.step(0, Input::CancelChange);
    assert_eq!(refused, Err(Refused::Request(Error::ChangeInProgress)), "what is committed is taken back");
    cluster.step(0, Input::StorageStalled(false)).expect("an input that is never refused");
    cluster.run_for(100 * MS);
    assert_eq!((cluster.voters(0), cluster.voters(1)), (of(&[0, 1]), of(&[0, 1])), "it is finished");
}

/// An answer is late, and arrives when the follower has asked again, for reads that came in after a newer write.
pub(crate) fn answer_to_an_earlier_question(sabotage: Sabotage) {
    let mut cluster = reads::leased(sabotage);
    cluster.read_here(2).expect("a leader is known");
    let mut late = Vec::new();
    while late.is_empty() {
        let flight = cluster.flights.remove(0);
        cluster.deliver(&flight);
        late = cluster.take(|_, to, body| to == 2 && matches!(body, Body::ReadReply(_)));
    }
    cluster.propose(0, b"newer").expect("leads");
    cluster.settle_until(|cluster| cluster.machine(0).commit() == cluster.log(0).last());
    cluster.flights.clear();
    cluster.cut.insert((2, 0));
    cluster.read_here(2).expect("a leader is known");
    late.iter().for_each(|reply| cluster.deliver(reply));
    assert_eq!((cluster.nodes[2].answered.len(), cluster.nodes[2].reads.len()), (1, 1), "the first, not the second");
}

/// It is the leader's own state that goes wrong.
pub(crate) fn the_leaders_state_goes_wrong(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let at = cluster.propose(0, b"x").expect("leads");
    cluster.nodes[0].goes_wrong_at = Some((at, 7));
    cluster.run_for(3000 * MS);
    assert_eq!(cluster.machine(0).fenced(), Some(at));
    assert!(!cluster.machine(0).is_leader(), "a state in the minority leads");
    assert!(matches!(cluster.leader(), Some(1 | 2)));
}

/// A follower sends a snapshot to one that has heard nothing of its leader in this term yet.
pub(crate) fn a_chunk_before_the_leader_is_heard(sabotage: Sabotage) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let term = cluster.machine(0).term();
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.machine(2).leader(), None);
    let id = SnapshotId { index: LogIndex(1000), term, hash: 1 };
    let head = ChunkHead { id, state_bytes: 900, total_bytes: 1000, offset: 0 };
    cluster.inject(1, 2, term, Body::Chunk(head, &[7; 100]));
    let answers = cluster.take(|from, to, body| (from, to) == (2, 1) && matches!(body, Body::ChunkAck(_)));
    assert_eq!(answers.len(), 1, "it takes it");
    cluster.run_for(30 * MS);
    assert_eq!(cluster.machine(2).leader(), Some(member(0, 1)), "a donor is taken for the leader");
}

/// Three states of which no two are the same, or two of which one is as good as the other while the third replica is dead.
pub(crate) fn no_state_has_a_majority(sabotage: Sabotage, third_is_dead: bool) -> Cluster {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    if third_is_dead {
        cluster.crash(2);
    }
    let at = cluster.propose(0, b"x").expect("leads");
    for (index, way) in [(1, 7), (2, 8)] {
        cluster.nodes[index].goes_wrong_at = Some((at, way));
    }
    cluster.run_for(5000 * MS);
    let up = if third_is_dead { 0..2 } else { 0..3 };
    let halted = up.clone().all(|index| cluster.machine(index).fenced() == Some(at));
    assert!(halted && cluster.leader().is_none(), "states without a majority go on");
    let outvoted = up.filter_map(|index| cluster.machine(index).outvoted()).count();
    assert_eq!(outvoted, 0, "a state is thrown away that no majority has outvoted");
    cluster
}

/// A replica whose state was found wrong is asked for a read.
pub(crate) fn fenced_and_asked(sabotage: Sabotage) {
    let mut cluster = staged::a_state_goes_wrong(sabotage);
    let read = cluster.read_here(2);
    cluster.run_for(50 * MS);
    assert!(cluster.nodes[2].answered.is_empty(), "a wrong state is read");
    assert_eq!(read, Err(Error::NotServing));
}

/// A replica whose state was found wrong is needed: for a commit while another is away, and for a vote when the leader is dead.
pub(crate) fn fenced_and_needed(sabotage: Sabotage) {
    let mut cluster = staged::a_state_goes_wrong(sabotage);
    cluster.isolate(&[1]);
    let index = cluster.propose(0, b"x").expect("leads");
    cluster.run_for(5 * MS);
    assert_eq!(cluster.machine(0).commit(), index, "one whose state is wrong does not acknowledge");
    cluster.heal();
    cluster.run_for(100 * MS);
    cluster.crash(0);
    cluster.run_for(1500 * MS);
    assert_eq!(cluster.leader(), Some(1), "one whose state is wrong does not vote");
}

/// Three nodes with small logs and a state of many chunks.
fn with_small_logs(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.sabotage = sabotage;
    });
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 200_000);
    cluster.elect(0);
    cluster
}

/// How many chunks are sent from now on, of those that `counts` picks by sender and receiver.
fn count_chunks(cluster: &mut Cluster, counts: impl Fn(usize, usize) -> bool + 'static) -> Rc<Cell<usize>> {
    let chunks = Rc::new(Cell::new(0));
    let counter = chunks.clone();
    cluster.filter = Some(Box::new(move |from, to, message| {
        counter.set(counter.get() + usize::from(counts(from, to) && matches!(message.body, Body::Chunk(..))));
        true
    }));
    chunks
}

/// The leader says that this node's state is wrong.
fn fence(cluster: &mut Cluster, index: usize) {
    let (at, term) = (cluster.machine(index).applied_index(), cluster.machine(0).term());
    let digest = cluster.machine(index).digest() ^ 1;
    cluster.nodes[index].goes_wrong_at = Some((at, 1));
    cluster.inject(0, index, term, Body::Fence(Fence { index: at, digest, verdict: Verdict::Minority }));
    assert_eq!(cluster.machine(index).fenced(), Some(at));
}

/// Runs until some of a snapshot, and not all of it, has been sent to this node.
fn run_until_half_way(cluster: &mut Cluster, index: usize) {
    let chunks = count_chunks(cluster, move |_, to| to == index);
    for _ in 0..100_000 {
        if chunks.get() > 50 {
            break;
        }
        cluster.run_for(10_000);
    }
    cluster.filter = None;
    assert!(chunks.get() > 50 && cluster.nodes[index].installed.is_empty(), "half way");
}

/// A state is found to be wrong while a snapshot is on its way to it: it is to be looked into, not replaced.
pub(crate) fn fenced_midway(sabotage: Sabotage) -> Cluster {
    let mut cluster = with_small_logs(sabotage);
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    fence(&mut cluster, 2);
    cluster.run_for(500 * MS);
    assert!(cluster.nodes[2].installed.is_empty(), "a wrong state is replaced by a snapshot");
    cluster
}

/// A follower's state is found to be wrong while it sends that to another.
pub(crate) fn fenced_donor(sabotage: Sabotage) {
    let mut cluster = with_small_logs(sabotage);
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    run_until_half_way(&mut cluster, 2);
    assert_eq!(cluster.machine(1).donates_to(), Some(member(2, 1).id));
    fence(&mut cluster, 1);
    let chunks = count_chunks(&mut cluster, |from, _| from == 1);
    cluster.run_for(MS);
    assert_eq!(chunks.get(), 0, "a wrong state is given out");
    cluster.run_for(500 * MS);
    assert_eq!(cluster.machine(2).commit(), cluster.machine(0).commit(), "another sends it");
}

/// A follower has installed a snapshot, and no append reaches it for a while.
pub(crate) fn installed_and_no_append(sabotage: Sabotage) {
    let mut cluster = with_small_logs(sabotage);
    staged::leave_behind(&mut cluster, 2);
    cluster.heal();
    while cluster.nodes[2].installed.is_empty() {
        cluster.run_for(10_000);
    }
    cluster.take(|_, to, body| to == 2 && matches!(body, Body::Append(..)));
    cluster.filter = Some(Box::new(|_, to, message| to != 2 || !matches!(message.body, Body::Append(..))));
    cluster.run_for(5 * MS);
    let peer = cluster.machine(0).peers().iter().find(|peer| peer.id().slot.0 == 3).expect("a peer");
    assert_eq!(peer.matched, cluster.nodes[2].installed[0], "what was installed is not acknowledged");
}

/// A leader that is cut off has much on its disk that never commits. It returns by a snapshot of an earlier index, and the disk
/// is slow to take that in.
pub(crate) fn installed_over_a_longer_log(sabotage: Sabotage) {
    let mut cluster = with_small_logs(sabotage);
    cluster.run_for(50 * MS);
    let agreed = cluster.machine(0).commit();
    cluster.isolate(&[0]);
    while cluster.log(0).last().0 < agreed.0 + 500 {
        cluster.propose(0, b"").expect("leads");
    }
    cluster.flights.clear();
    cluster.run_for(1000 * MS);
    let leader = cluster.leader().expect("the other two elect");
    while cluster.log(leader).base() <= agreed {
        cluster.propose(leader, &[1; 500]).expect("leads");
        cluster.run_for(MS);
    }
    let durable = cluster.machine(0).durable();
    cluster.heal();
    run_until_half_way(&mut cluster, 0);
    cluster.nodes[0].disk.holds = true;
    cluster.run_for(50 * MS);
    assert!(cluster.nodes[0].installed.iter().any(|index| *index > agreed && *index < durable), "it is replaced");
    cluster.nodes[0].disk.holds = false;
    cluster.complete(0, true);
    cluster.flush(0);
    cluster.run_for(100 * MS);
    assert_eq!(cluster.machine(0).commit(), cluster.machine(leader).commit(), "it goes on from there");
}
