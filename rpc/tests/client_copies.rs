//! Early copies of our client on a simulated wire, in virtual time: how soon what is lost is sent again, and that slow answers
//! are not taken for lost ones.

mod r2p2_support;

use r2p2_support::{Lab, Log, Machine, Seen, answer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Link, UdpSocket};
use trimaran_raft::ClusterId;
use trimaran_rpc::client::{CallError, Client, ClientConfig, MethodCall, PROBE_METHOD, Reply};
use trimaran_rpc::r2p2::{Policy, Refusal, RequestBlock, ResponseBlock, Status};
use trimaran_rpc::service::method_key;
use trimaran_rpc::session::REGISTER;
use trimaran_runtime::{Instant, now, sleep, spawn};

const MICRO: Duration = Duration::from_micros(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const METHOD: u32 = 0xABCD;
const WRITE: Policy = Policy::ReplicatedRoute;
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;

/// A call by session and number, and when a copy of it came.
type Copy = ((u64, u64), Instant);

struct Bench {
    lab: Lab,
    user: Machine,
    server: Machine,
    client: Client,
    _log: Log,
    /// Copies of calls as they come to the server.
    seen: Rc<RefCell<Vec<Copy>>>,
}

impl Bench {
    /// One server that opens sessions and leads, and leaves unanswered what `loses` says: it hears the number of the copy, of
    /// all, from 0 on.
    fn new(mut loses: impl FnMut(usize) -> bool + 'static) -> Bench {
        let mut lab = Lab::new(5);
        let (user, server) = (lab.machine(1), lab.machine(9));
        let seen: Rc<RefCell<Vec<Copy>>> = Rc::default();
        let (kept, mut sessions) = (seen.clone(), 0);
        let log = lab.serve(&server, move |socket: &UdpSocket, seen: &Seen| {
            let Ok((request, arguments)) = RequestBlock::parse(&seen.payload) else { return };
            let echo = request.echo();
            let ok =
                ResponseBlock { status: Status::Ok, leader: 1, term: 5, index: 77, echo, ..ResponseBlock::default() };
            let (block, body) = match request.method {
                PROBE_METHOD => {
                    let (status, reason) = (Status::NotApplied, Refusal::UnknownMethod);
                    (ResponseBlock { status, reason, ..ok }, Vec::new())
                }
                method if method == method_key(REGISTER) => {
                    sessions += 1;
                    (ResponseBlock { index: sessions, ..ok }, ClusterId(0xc1).0.to_le_bytes().to_vec())
                }
                _ => {
                    let number = kept.borrow().len();
                    kept.borrow_mut().push(((request.session, request.seq), now()));
                    if loses(number) {
                        return;
                    }
                    (ok, arguments.to_vec())
                }
            };
            answer(socket, seen, true, &[&block.emit()[..], &body].concat());
        });
        let config = ClientConfig { nonce: Some(1000), ..ClientConfig::default() };
        let servers = vec![server.addr(8000)];
        let client = lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), servers, config).unwrap());
        let mut bench = Bench { lab, user, server, client, _log: log, seen };
        bench.round_trip(100 * MICRO);
        bench
    }

    /// From now on it takes a datagram so long to the server and back.
    fn round_trip(&mut self, takes: Duration) {
        let link = Link { delay_min: takes / 2, delay_max: takes / 2, ..Link::default() };
        self.lab.wire.set_link(self.user.ip, self.server.ip, link);
        self.lab.wire.set_link(self.server.ip, self.user.ip, link);
    }

    fn call(&mut self, policy: Policy) -> (Result<Reply, CallError>, Duration) {
        let client = self.client.clone();
        self.lab.finish(&self.user, async move {
            let begun = now();
            (call(&client, policy, b"x").await, now() - begun)
        })
    }

    fn writes(&mut self, count: u32) {
        for _ in 0..count {
            self.call(WRITE).0.expect("applied");
        }
    }

    fn copies(&self) -> usize {
        self.seen.borrow().len()
    }

    /// How far apart the copies from the `first` on came, in milliseconds.
    fn gaps(&self, first: usize) -> Vec<u128> {
        let millis = |pair: &[Copy]| (pair[1].1 - pair[0].1 + MILLI / 2).as_millis();
        self.seen.borrow()[first..].windows(2).map(millis).collect()
    }

    /// So many writes at once, again and again; how many copies came of each `round`.
    fn crowd(&mut self, at_once: usize, rounds: usize) -> Vec<usize> {
        let mut copies = Vec::new();
        for _ in 0..rounds {
            let before = self.copies();
            let client = self.client.clone();
            self.lab.finish(&self.user, async move {
                let calls: Vec<_> = (0..at_once)
                    .map(|_| {
                        let client = client.clone();
                        spawn(async move { call(&client, WRITE, b"x").await.expect("applied") })
                    })
                    .collect();
                for call in calls {
                    call.await.unwrap();
                }
            });
            copies.push(self.copies() - before);
        }
        copies
    }
}

async fn call(client: &Client, policy: Policy, body: &[u8]) -> Result<Reply, CallError> {
    client.call(MethodCall { method: METHOD, policy, shard: 0, body, server: None }, SECOND).await
}

/// One datagram lost costs a millisecond, not the ten after which somebody else is asked; for a read and a write.
#[test]
fn a_lost_datagram_costs_little() {
    for policy in [WRITE, READ] {
        let mut bench = Bench::new(|number| number == 3);
        for number in 0..6 {
            let (end, took) = bench.call(policy);
            end.expect("answered");
            let lost = number == 3;
            let expected = if lost { MILLI + 100 * MICRO } else { 100 * MICRO };
            // The first write opens a session.
            assert!(number == 0 || took >= expected && took < expected + 50 * MICRO, "{policy:?} {number}: {took:?}");
        }
        assert_eq!(bench.copies(), 7);
        assert_eq!(bench.client.waiting(), 0);
    }
}

/// Before anything is measured the pace is that of probes.
#[test]
fn the_first_call_of_all_waits_as_long_as_ever() {
    let mut bench = Bench::new(|number| number == 0);
    let (end, took) = bench.call(READ);
    end.expect("answered");
    assert!(took >= 10 * MILLI && took < 11 * MILLI, "{took:?}");
}

/// Later and later, until the slow pace takes over where it would have been anyway.
#[test]
fn copies_come_later_and_later() {
    let mut bench = Bench::new(|number| (1..8).contains(&number));
    bench.writes(2);
    assert_eq!(bench.gaps(1), [1, 2, 4, 3, 20, 40, 80]);
    let names: Vec<_> = bench.seen.borrow()[1..].iter().map(|(name, _)| *name).collect();
    assert!(names.windows(2).all(|pair| pair[0] == pair[1]), "one name, whatever the number of copies: {names:?}");
}

/// The patience is a few round trips where these are longer than the floor.
#[test]
fn copies_follow_the_round_trip() {
    let mut bench = Bench::new(|number| number == 40);
    bench.round_trip(2 * MILLI);
    bench.writes(41);
    assert_eq!(bench.gaps(40), [4], "twice the round trip");
}

/// An answer to a call that was sent twice says nothing of round trips: here it comes half a millisecond after the last copy.
#[test]
fn a_call_sent_twice_is_no_sample() {
    let mut bench = Bench::new(|_| false);
    bench.writes(20);
    bench.round_trip(7500 * MICRO);
    let first = bench.copies();
    bench.writes(1);
    // The last copy arrives after the answer.
    bench.lab.finish(&bench.user, async { sleep(10 * MILLI).await });
    assert_eq!(bench.gaps(first), [1, 2, 4], "nobody knows yet");
    // The patience stays doubled, to eight milliseconds, so that the next call is timed. Then it is known.
    let first = bench.copies();
    bench.writes(30);
    assert_eq!(bench.copies() - first, 30);
}

/// Ten times the round trip, with many calls on their way: a few copies until that is known, then none.
#[test]
fn slow_but_steady_answers_are_not_lost_ones() {
    let mut bench = Bench::new(|_| false);
    bench.crowd(100, 3);
    bench.round_trip(5 * MILLI);
    let copies = bench.crowd(100, 12);
    let extra: Vec<_> = copies.iter().map(|copies| copies - 100).collect();
    // The last of them may come while the next calls are under way.
    assert!((1..=4).contains(&(extra[0] + extra[1])), "{extra:?}");
    assert_eq!(extra[2..], [0; 10], "{extra:?}");
}

/// A server that answers nothing for a while is sent few copies early, however many calls wait for it.
#[test]
fn copies_are_paid_from_a_budget() {
    // 64 calls are lost, and whatever is sent early beside them.
    let mut bench = Bench::new({
        let mut until = None;
        move |number| match (number, until) {
            (64.., None) => {
                until = Some(now() + 9 * MILLI);
                true
            }
            (_, Some(until)) => now() < until,
            _ => false,
        }
    });
    bench.crowd(64, 1);
    let copies = bench.crowd(64, 1)[0];
    // Each was sent, and sent again at the pace of probes.
    let early = copies - 2 * 64;
    assert!((1..=10).contains(&early), "{early} early copies");
    // Nothing is left: a tenth of a copy for each call, so one lost in two gets none early.
    let mut per_call: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    bench.seen.borrow().iter().for_each(|(name, _)| *per_call.entry(*name).or_default() += 1);
    assert!(per_call.values().all(|copies| *copies <= 5), "{per_call:?}");
}

/// Every second call is lost once, for ever: a tenth of the calls, and what was saved, are sent early, the others at the old
/// pace.
#[test]
fn without_a_budget_the_old_pace_remains() {
    let mut bench = Bench::new(|number| number % 3 == 1);
    bench.writes(200);
    let seen = bench.seen.borrow();
    let waits = seen.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1 - pair[0].1);
    let (early, late): (Vec<_>, Vec<_>) = waits.partition(|wait| *wait < 9 * MILLI);
    assert_eq!(early.len() + late.len(), 100, "each was lost once");
    assert!((25..=10 + 20).contains(&early.len()), "{}", early.len());
    assert!(late.iter().all(|wait| *wait < 11 * MILLI), "{late:?}");
}

/// Without a name a copy would be another call.
#[test]
fn a_write_without_a_session_gets_no_copy() {
    let mut bench = Bench::new(|number| number == 5);
    let config = ClientConfig { sessions: false, ..ClientConfig::default() };
    let (user, servers) = (bench.user.clone(), vec![bench.server.addr(8000)]);
    bench.client = bench.lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), servers, config).unwrap());
    bench.writes(5);
    assert!(matches!(bench.call(WRITE).0, Err(CallError::Unknown { .. })));
    assert_eq!(bench.copies(), 6);
}
