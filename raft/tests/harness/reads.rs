//! Histories in which a read would be stale if one rule were broken: scenarios, and negative controls with a fault on.
//! In each, one node has answered another's newer write before an old leader or an old answer is asked.

use super::{Cluster, LATENCY_NS, MS, member};
use trimaran_raft::{Answer, Body, Error, Input, LogIndex, Nanos, Sabotage, Term};

/// Three nodes with leases, the first leading for a while.
pub(crate) fn leased(sabotage: Sabotage) -> Cluster {
    let mut cluster = Cluster::with(3, |config| {
        config.reads.lease = true;
        config.sabotage = sabotage;
    });
    cluster.elect(0);
    cluster.run_for(70 * MS);
    cluster
}

/// The newest leader commits something that the old one does not hear of.
fn commit_elsewhere(cluster: &mut Cluster, leader: usize) -> LogIndex {
    assert!(cluster.machine(leader).is_leader(), "the history needs another leader");
    let index = cluster.propose(leader, b"newer").expect("leads");
    cluster.settle_until(|cluster| cluster.machine(leader).commit() >= index);
    assert_eq!(cluster.machine(leader).commit(), index);
    index
}

/// etcd #20418. The leader is stopped in the middle of a turn, just after looking at the clock; others go on. When it runs
/// again, a read that has come in meanwhile is seen with the time of before.
pub(crate) fn paused_leader(look_again: bool) -> Result<LogIndex, Error> {
    let mut cluster = leased(Sabotage::default());
    let stamp = cluster.machine(0).now();
    cluster.nodes[0].up = false;
    cluster.run_for(1000 * MS);
    let leader = cluster.leader().expect("another");
    commit_elsewhere(&mut cluster, leader);
    cluster.nodes[0].up = true;
    if look_again {
        return cluster.lease_read(0, stamp);
    }
    let seen = cluster.invariants.newest_committed();
    let (_, at) = cluster.machine(0).lease_read(stamp)?;
    cluster.invariants.read_answered(seen, at);
    Ok(at)
}

/// A voter's echo is on its way for so long that the voter has lost patience when it arrives.
pub(crate) fn late_echo(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = leased(sabotage);
    cluster.cut.extend([(2, 0), (0, 2)]);
    cluster.expire(0);
    cluster.settle_until(|cluster| cluster.flights.iter().any(|flight| flight.from == 1));
    let late = cluster.take(|from, to, body| (from, to) == (1, 0) && matches!(body, Body::Ack(_)));
    assert!(!late.is_empty());
    cluster.isolate(&[0]);
    cluster.flights.clear();
    cluster.now += 110 * MS;
    cluster.expire(2);
    cluster.settle();
    let leader = if cluster.machine(2).is_leader() { 2 } else { 1 };
    commit_elsewhere(&mut cluster, leader);
    // Both its voters have left it; the first one's echo is only now there.
    late.iter().for_each(|ack| cluster.deliver(ack));
    let now = cluster.local(0);
    cluster.lease_read(0, now)
}

/// A voter hears its leader, then of a newer term, and is asked for its vote in that.
pub(crate) fn newer_term_meanwhile(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = Cluster::with(3, |config| {
        config.reads.lease = true;
        config.sabotage = sabotage;
    });
    // Node 2 wins two pre-votes while nobody leads, and its questions are lost.
    cluster.filter = Some(Box::new(|from, _, message| !(from == 2 && matches!(message.body, Body::Vote(_)))));
    for term in 2..=3 {
        cluster.now += 400 * MS;
        let _ = cluster.step(2, Input::Tick);
        cluster.settle();
        assert_eq!(cluster.machine(2).term(), Term(term));
    }
    cluster.cut.extend([(0, 2), (2, 0)]);
    // Node 0 is elected by node 1, in a term that node 2 has left behind.
    cluster.filter = Some(Box::new(|from, to, _| from != 2 && to != 2));
    cluster.now += 110 * MS;
    let _ = cluster.step(0, Input::Tick);
    cluster.settle();
    assert!(cluster.machine(0).is_leader() && cluster.machine(0).term() < Term(4));
    let behind = cluster.machine(0).term() < cluster.machine(2).term();
    assert!(behind, "{} {}", cluster.machine(0).term(), cluster.machine(2).term());
    cluster.run_for(30 * MS);
    let term = cluster.machine(2).term();
    // An old refusal tells node 1 of the term.
    cluster.filter = Some(Box::new(|from, to, _| from != 0 && to != 0));
    cluster.inject(2, 1, term, Body::PreVoteReply(Answer { campaign: term, granted: false }));
    assert_eq!(cluster.machine(1).term(), term);
    // Node 2 has the log of before: only its own entry 1 and what it is given now.
    let (ask_term, last) = (term, cluster.log(1).last());
    let ask = trimaran_raft::Ask { campaign: ask_term, last: last.next(), last_term: ask_term, told: false };
    cluster.inject(2, 1, ask_term, Body::Vote(ask));
    let votes = cluster.take(|from, to, body| (from, to) == (1, 2) && matches!(body, Body::VoteReply(a) if a.granted));
    let now = cluster.local(0);
    let read = cluster.lease_read(0, now);
    assert!(votes.is_empty() || read.is_err(), "stale read: a vote is given away while a leader holds a lease");
    read
}

/// A voter echoes a round, is killed, starts again from its disk, and is asked for its vote.
pub(crate) fn restarted_voter(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = leased(sabotage);
    // Node 2 has heard nothing for long; node 1 makes the lease last.
    cluster.cut.extend([(0, 2), (2, 0)]);
    cluster.run_for(90 * MS);
    cluster.crash(1);
    cluster.restart(1);
    cluster.flush(1);
    cluster.isolate(&[0]);
    cluster.flights.clear();
    cluster.expire(2);
    cluster.settle();
    if cluster.machine(2).is_leader() {
        commit_elsewhere(&mut cluster, 2);
    }
    let now = cluster.local(0);
    cluster.lease_read(0, now)
}

/// Somebody was told to stand, and was elected, while the old leader hears of nothing.
pub(crate) fn lease_in_transfer(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = leased(sabotage);
    cluster.step(0, Input::Transfer(Some(member(1, 1).id))).expect("fit");
    cluster.cut.extend([(1, 0), (2, 0)]);
    cluster.settle();
    commit_elsewhere(&mut cluster, 1);
    let now = cluster.local(0);
    cluster.lease_read(0, now)
}

/// A leader says farewell; another is elected at once, while the old one hears of nothing.
pub(crate) fn lease_after_a_farewell(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = leased(sabotage);
    cluster.cut.extend([(1, 0), (2, 0)]);
    cluster.step(0, Input::Farewell).expect("an input that is never refused");
    cluster.settle();
    let leader = if cluster.machine(1).is_leader() { 1 } else { 2 };
    commit_elsewhere(&mut cluster, leader);
    let now = cluster.local(0);
    cluster.lease_read(0, now)
}

/// A follower is stopped for two seconds; heartbeats of before wait in its socket, and are all it gets to see first.
pub(crate) fn paused_follower(sabotage: Sabotage) -> Result<LogIndex, Error> {
    let mut cluster = leased(sabotage);
    cluster.nodes[2].up = false;
    cluster.expire(0);
    let waiting = cluster.take(|_, to, body| to == 2 && matches!(body, Body::Append(..)));
    assert!(!waiting.is_empty());
    cluster.run_for(1000 * MS);
    cluster.propose(0, b"newer").expect("leads");
    cluster.run_for(1000 * MS);
    cluster.flights.clear();
    cluster.nodes[2].up = true;
    cluster.cut.insert((2, 0));
    waiting.iter().for_each(|append| cluster.deliver(append));
    let now = cluster.local(2);
    cluster.stale_read(2, now, 200 * MS)
}

/// A follower's question, and its own crash; the answer arrives in its next run, when it has asked for other reads.
pub(crate) fn answer_to_another_run(sabotage: Sabotage) -> Cluster {
    let mut cluster = leased(sabotage);
    for _ in 0..3 {
        cluster.read_here(2).expect("a leader is known");
    }
    let mut late = Vec::new();
    while late.is_empty() {
        let flight = cluster.flights.remove(0);
        cluster.deliver(&flight);
        late = cluster.take(|_, to, body| to == 2 && matches!(body, Body::ReadReply(_)));
    }
    cluster.crash(2);
    cluster.restart(2);
    cluster.flush(2);
    cluster.run_for(50 * MS);
    cluster.propose(0, b"newer").expect("leads");
    cluster.run_for(50 * MS);
    // Its question does not arrive; the old answer does.
    cluster.cut.insert((2, 0));
    cluster.read_here(2).expect("a leader is known");
    late.iter().for_each(|reply| cluster.deliver(reply));
    assert!(cluster.nodes[2].answered.is_empty(), "an answer to another run");
    cluster
}

/// A read is begun, and only then an acknowledgement arrives that is older.
pub(crate) fn delayed_acknowledgement(sabotage: Sabotage) -> Cluster {
    let mut cluster = leased(sabotage);
    cluster.propose(0, b"x").expect("leads");
    for append in cluster.take(|from, _, _| from == 0) {
        cluster.deliver(&append);
    }
    let late = cluster.take(|_, to, _| to == 0);
    assert_eq!(late.len(), 2);
    cluster.isolate(&[0]);
    cluster.flights.clear();
    cluster.now += 210 * MS;
    let _ = cluster.step(2, Input::Tick);
    cluster.settle();
    commit_elsewhere(&mut cluster, 2);
    // It was stopped: its own clock has not fired yet.
    cluster.read(0).expect("it does not know better");
    late.iter().for_each(|ack| cluster.deliver(ack));
    cluster
}

/// Node 1 leads a new term, and does not know what its predecessor has committed. Its rounds are echoed; what it appends
/// becomes durable nowhere else.
pub(crate) fn leads_without_commit(sabotage: Sabotage) -> Cluster {
    let mut cluster = leased(sabotage);
    cluster.propose(0, b"x").expect("leads");
    cluster.settle_until(|cluster| cluster.machine(0).commit() == cluster.log(0).last());
    cluster.flights.clear();
    cluster.crash(0);
    cluster.filter = Some(Box::new(|_, _, message| !matches!(message.body, Body::Append(..))));
    cluster.elect(1);
    cluster.filter = None;
    cluster.nodes[2].disk.holds = true;
    cluster.run_for(60 * MS);
    let machine = cluster.machine(1);
    assert!(machine.is_leader() && machine.commit() < cluster.log(1).last().prev());
    assert!(cluster.machine(2).leader() == Some(machine.me()), "its heartbeats are heard");
    cluster
}

/// A leader of a new term is asked before it knows what its predecessor has committed.
pub(crate) fn read_before_the_first_commit(sabotage: Sabotage) -> Cluster {
    let mut cluster = leads_without_commit(sabotage);
    cluster.read(1).expect("leads");
    cluster.run_for(50 * MS);
    assert!(cluster.nodes[1].answered.is_empty());
    cluster
}

/// The disk that held everything back does its work.
pub(crate) fn commits_at_last(cluster: &mut Cluster) {
    cluster.nodes[2].disk.holds = false;
    cluster.complete(2, true);
    cluster.flush(2);
    cluster.run_for(60 * MS);
    assert_eq!(cluster.machine(1).commit(), cluster.log(1).last());
}

/// The old leader's voters lose patience as early as their clocks allow, and its own clock is as slow as it may be.
pub(crate) fn clocks_apart(ppm: i64, bound_ppm: u32, hold_ns: u64) -> (u64, u64) {
    let mut cluster = Cluster::with(3, |config| {
        config.reads.lease = true;
        config.reads.clock_drift_ppm = bound_ppm;
        // Node 1 is always first, and as early as it may be.
        if config.me.id.slot.0 == 2 {
            config.timing.election_max = config.timing.election_min;
        }
    });
    for node in 0..3 {
        cluster.nodes[node].ppm = if node == 0 { -ppm } else { ppm };
    }
    cluster.now += 400 * MS;
    let _ = cluster.step(0, Input::Tick);
    cluster.settle();
    assert!(cluster.machine(0).is_leader());
    cluster.run_for(hold_ns);
    cluster.isolate(&[0]);
    let (mut served, mut refused) = (0, 0);
    for _ in 0..4000 {
        cluster.run_for(LATENCY_NS);
        let leader = [1, 2].into_iter().find(|node| cluster.machine(*node).is_leader());
        if let Some(leader) = leader {
            let _ = cluster.propose(leader, b"newer");
        }
        let now = cluster.local(0);
        match cluster.lease_read(0, now) {
            Ok(_) => served += 1,
            Err(_) => refused += 1,
        }
    }
    assert!([1, 2].into_iter().any(|node| cluster.machine(node).is_leader()), "the others go on");
    (served, refused)
}

/// So much later.
pub(crate) fn later(now: Nanos, by_ns: u64) -> Nanos {
    Nanos(now.0 + by_ns)
}
