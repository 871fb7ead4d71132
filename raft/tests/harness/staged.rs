//! Histories that random walks find too rarely, staged step by step: used as scenarios, and with a fault switched on as
//! negative controls.

use super::{Cluster, MS, Node};
use trimaran_raft::{
    AppendHead, AppendWriter, Ask, Body, Entries, EntryHeader, EntryKind, Input, LogIndex, Message, Sabotage,
    ShardConfig, Term,
};

fn sabotaged(sabotage: Sabotage) -> impl Fn(&mut ShardConfig) {
    move |config| config.sabotage = sabotage
}

/// Figure 8 of the Raft paper: an entry of an old term on a majority is not committed by being there, for a node with a newer
/// last term may still replace it. Returns the commit index of the node that counted, and the cluster at the end.
pub(crate) fn figure_eight(sabotage: Sabotage) -> (LogIndex, Cluster) {
    let mut cluster = Cluster::with(5, sabotaged(sabotage));
    // a: node 0 leads; its large entry reaches node 1 only.
    cluster.elect(0);
    let base = cluster.machine(0).commit();
    cluster.isolate(&[0, 1]);
    cluster.propose(0, &[1; 1280]).expect("leads");
    cluster.settle();
    // b: node 4 leads with the votes of 2 and 3; nothing of its term leaves it.
    cluster.crash(0);
    cluster.heal();
    cluster.isolate(&[2, 3, 4]);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Append(..))));
    cluster.elect(4);
    // c: node 0 is back and leads with the votes of 1 and 2; its old entry reaches 2, its new one does not.
    cluster.crash(4);
    cluster.restart(0);
    cluster.heal();
    cluster.isolate(&[0, 1, 2]);
    cluster.filter = None;
    cluster.nodes[3].up = false;
    let patience = 400 * MS;
    cluster.now += patience;
    for _ in 0..2 {
        // The first refusal tells it the term that it must exceed.
        cluster.now += patience;
        let _ = cluster.step(0, Input::Tick);
        cluster.settle_until(|cluster| {
            let acknowledged = cluster.machine(0).peers().iter().filter(|peer| peer.matched > base).count();
            cluster.machine(0).is_leader() && acknowledged == 2
        });
    }
    assert!(cluster.machine(0).is_leader());
    let counted = cluster.machine(0).commit();
    // d: node 4 leads again, its last term being newer than that of 1, 2 and 3.
    cluster.flights.clear();
    cluster.crash(0);
    cluster.nodes[3].up = true;
    cluster.restart(4);
    cluster.heal();
    cluster.isolate(&[2, 3, 4]);
    cluster.run_for(2000 * MS);
    assert_eq!(cluster.leader(), Some(4));
    (counted, cluster)
}

/// A heartbeat whose commit index is beyond what it verifies, over a log with another leader's tail: the tail is not what was
/// committed.
pub(crate) fn heartbeat_over_a_foreign_tail(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    let agreed = cluster.machine(0).commit();
    cluster.isolate(&[0]);
    cluster.propose(0, b"only here").expect("leads");
    cluster.elect(1);
    cluster.propose(1, b"committed there").expect("leads");
    cluster.settle();
    let (term, commit) = (cluster.machine(1).term(), cluster.machine(1).commit());
    assert!(commit >= cluster.log(0).last());
    let prev_term = cluster.log(1).term_at(agreed).expect("held");
    let head = AppendHead { prev: agreed, prev_term, commit, round: 1, ..AppendHead::default() };
    cluster.inject(1, 0, term, Body::Append(head, Entries::default()));
    assert_eq!(cluster.machine(0).term(), term);
    assert_eq!(cluster.machine(0).commit(), agreed, "what is not verified is not committed");
    cluster
}

/// A write of an entry completes after the entry was replaced by another leader's, at the same index: it proves nothing
/// about the new one.
pub(crate) fn late_persisted(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    // Node 2 takes an entry of node 0's that its disk is slow with; nobody else has it.
    cluster.isolate(&[0, 2]);
    cluster.nodes[2].disk.holds = true;
    cluster.propose(0, b"to be replaced").expect("leads");
    cluster.settle();
    // Node 2 has forgotten node 0, and votes for node 1 without its disk knowing either.
    cluster.heal();
    cluster.isolate(&[0]);
    let lost = cluster.log(2).last();
    cluster.replace_log_of(2, lost);
    cluster
}

/// A voter that acknowledged, and forgot: with its seat's new life counted as the old, a committed entry is lost.
pub(crate) fn amnesia(sabotage: Sabotage) -> (Cluster, LogIndex) {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.isolate(&[2]);
    let index = cluster.propose(0, b"acknowledged by 0 and 1").expect("leads");
    cluster.settle();
    assert_eq!(cluster.machine(0).commit(), index);
    cluster.heal();
    cluster.crash(1);
    cluster.restart_empty(1, 2);
    cluster.isolate(&[0]);
    cluster.run_for(2000 * MS);
    (cluster, index)
}

/// One of three states goes wrong: the other two must find out, and say so.
pub(crate) fn a_state_goes_wrong(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::with(3, sabotaged(sabotage));
    cluster.elect(0);
    cluster.run_for(50 * MS);
    let at = cluster.propose(0, b"x").expect("leads");
    cluster.nodes[2].goes_wrong_at = Some((at, 7));
    cluster.run_for(100 * MS);
    let fenced: Vec<_> = (0..3).map(|index| cluster.machine(index).fenced()).collect();
    assert_eq!(fenced, [None, None, Some(at)], "a wrong state: the one that differs is fenced, and only that one");
    cluster
}

/// Cuts `index` off and lets the others go on until the log has forgotten what it lacks.
pub(crate) fn leave_behind(cluster: &mut Cluster, index: usize) {
    cluster.isolate(&[index]);
    // So long that no snapshot is taken for it while it is away.
    cluster.run_for(500 * MS);
    let needs = cluster.log(index).last().next();
    for round in 0..5000 {
        let leader = cluster.leader().expect("the others have a leader");
        let _ = cluster.propose(leader, &[round as u8; 500]);
        cluster.run_for(MS);
        if cluster.log(leader).first() > LogIndex(needs.0 + 20) {
            return;
        }
    }
    panic!("the log is kept for ever");
}

/// The leader is gone when half of its snapshot has arrived; the next one has a snapshot of the very same entry, with the
/// same bytes or others. Returns the chunks that the second leader sent.
pub(crate) fn sender_changes(sabotage: Sabotage, same_bytes: bool) -> (Cluster, usize) {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.log_bytes = 64 << 10;
        config.donors = false;
        config.sabotage = sabotage;
    });
    cluster.nodes.iter_mut().for_each(|node| node.state_bytes = 200_000);
    cluster.elect(0);
    leave_behind(&mut cluster, 2);
    cluster.run_for(100 * MS);
    let first = cluster.snapshot(0);
    let mut second = cluster.snapshot(1);
    assert_eq!(first, second);
    if !same_bytes {
        // As a service might that encodes its state in no particular order.
        let mut bytes = (*second.bytes).clone();
        bytes[8..].reverse();
        second.bytes = bytes.into();
    }
    cluster.nodes[0].offers = false;
    cluster.nodes[1].offers = false;
    cluster.heal();
    cluster.run_for(30 * MS);
    cluster.step(0, Input::Offer(&first, trimaran_raft::state_hash(&first.bytes))).expect("wanted");
    let half = |cluster: &Cluster| {
        let peer = cluster.machine(0).peers().iter().find(|peer| peer.id().slot.0 == 3);
        peer.and_then(|peer| peer.snapshot_bytes()) > Some(100_000)
    };
    while !half(&cluster) {
        cluster.run_for(10_000);
    }
    cluster.crash(0);
    let chunks = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = chunks.clone();
    cluster.filter = Some(Box::new(move |from, _, message| {
        counter.set(counter.get() + usize::from(from == 1 && matches!(message.body, Body::Chunk(..))));
        true
    }));
    cluster.run_for(1000 * MS);
    assert_eq!(cluster.leader(), Some(1));
    cluster.step(1, Input::Offer(&second, trimaran_raft::state_hash(&second.bytes))).expect("wanted");
    cluster.run_for(200 * MS);
    let installed = cluster.nodes[2].state.clone().expect("a snapshot: none was installed");
    assert!(installed == *second.bytes, "a mixed snapshot was installed");
    assert_eq!(cluster.machine(2).applied_index(), cluster.machine(1).applied_index());
    (cluster, chunks.get())
}

/// Two of three voters are replaced, and the two that are to go hear nothing of it: what is committed without them may
/// contradict what they commit.
pub(crate) fn a_change_that_the_old_voters_miss(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::unformed(5, |config| {
        config.sabotage = sabotage;
        config.contacts.clear();
    });
    let members: Vec<_> = (0..3).map(|index| super::member(index, 1)).collect();
    for index in 0..3 {
        let node = &mut cluster.nodes[index];
        node.machine.bootstrap(super::CLUSTER, &members, 7, &mut node.log).expect("a fresh node");
    }
    cluster.elect(0);
    let target = [(0, 1), (3, 1), (4, 1)];
    cluster.change(0, &target).expect("possible");
    cluster.settle_until(|cluster| cluster.machine(0).configuration().is_voter(super::member(3, 1).id));
    cluster.isolate(&[0, 3, 4]);
    cluster.flights.clear();
    for _ in 0..20 {
        cluster.run_for(5 * MS);
        let _ = cluster.propose(0, b"x");
    }
    cluster.run_for(1500 * MS);
    let other = (1..3).find(|index| cluster.machine(*index).is_leader()).expect("the old voters elect");
    cluster.propose(other, b"y").expect("leads");
    cluster.run_for(50 * MS);
    cluster
}

impl Cluster {
    /// Delivers in order until `done`.
    pub(crate) fn settle_until(&mut self, done: impl Fn(&Cluster) -> bool) {
        while !self.flights.is_empty() && !done(self) {
            let flight = self.flights.remove(0);
            self.deliver(&flight);
        }
    }

    /// An append of these configurations, of `entries` each, after what `to` has committed, with one more of them committed.
    pub(crate) fn append_configurations(
        &mut self,
        from: usize,
        to: usize,
        term: Term,
        entries: Term,
        list: &[Vec<u8>],
    ) {
        let mut log = self.nodes[to].log.clone();
        let prev = self.machine(to).commit();
        log.truncate(prev.next());
        let head = AppendHead {
            prev,
            prev_term: log.last_term(),
            commit: prev.next(),
            ack_wanted: true,
            round: 1,
            ..AppendHead::default()
        };
        let header = self.envelope(from, to, term);
        let mut bytes = vec![0; self.payload_bytes];
        let mut append = AppendWriter::new(&mut bytes, &header, &head);
        for body in list {
            let body_crc32c = crc32c::crc32c(body);
            let entry = EntryHeader { kind: EntryKind::Config, term: entries, body_crc32c, ..EntryHeader::default() };
            let at = log.append(EntryHeader { body_len: body.len() as u32, ..entry }, &[body]);
            assert!(append.push(&log, at), "one datagram");
        }
        let length = append.finish();
        let message = Message::decode(&bytes[..length]).expect("just written");
        let _ = self.step(to, Input::Message(super::member(from, 1).peer, &message));
    }

    /// Has node `index` vote for node 1 and take another entry than its own at `lost`, with no write finished, and then
    /// finishes the writes one by one.
    fn replace_log_of(&mut self, index: usize, lost: LogIndex) {
        let term = Term(self.machine(index).term().0 + 1);
        let candidate = super::member(1, 1).id;
        let ask = Ask { campaign: term, last: LogIndex(99), last_term: term, told: false };
        self.now += 400 * MS;
        self.inject(1, index, term, Body::Vote(ask));
        self.append_one(1, index, term, lost);
        assert_eq!(self.machine(index).hard_state().vote, Some(candidate));
        assert_eq!(self.log(index).term_at(lost), Some(term), "the entry is replaced");
        while self.nodes[index].disk.unfinished() > 0 {
            self.complete_one(index);
            self.flush(index);
        }
    }

    fn complete_one(&mut self, index: usize) {
        let now = self.local(index);
        let Node { machine, log, disk, .. } = &mut self.nodes[index];
        if let Some(write) = disk.complete(true) {
            let _ = machine.step(now, Input::Persisted(write), log);
        }
    }
}
