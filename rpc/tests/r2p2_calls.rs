//! Calls with our own block and no session on a simulated wire: who is asked, when, how often, and what the caller learns.

mod r2p2_support;

use r2p2_support::{Lab, Log, Machine, Seen, answer, body, requests, send};
use std::cell::Cell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_rpc::client::{CallError, Client, ClientConfig, MethodCall, NotApplied, PROBE_METHOD, Reply};
use trimaran_rpc::r2p2::{
    Limits, Outcome, Policy, Refusal, RequestBlock, Requests, ResponseBlock, Status, ack, drop_packet,
};
use trimaran_runtime::{now, sleep};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WRITE: Policy = Policy::ReplicatedRoute;
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;
const METHOD: u32 = 0xABCD;

/// What a server does with a request that is there whole.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Nothing at all, as if it were dead.
    Silent,
    /// Answers with this block; [`Status::Ok`] with the request's arguments.
    Says(ResponseBlock),
    /// DROP.
    Drops,
}

fn leads(slot: u8) -> Mood {
    Mood::Says(ResponseBlock { leader: slot, term: 5, index: 77, ..ResponseBlock::default() })
}

fn refuses(reason: Refusal, leader: u8) -> Mood {
    Mood::Says(ResponseBlock { status: Status::NotApplied, reason, leader, term: 5, ..ResponseBlock::default() })
}

struct Cluster {
    lab: Lab,
    user: Machine,
    client: Client,
    moods: Vec<Rc<Cell<Mood>>>,
    logs: Vec<Log>,
}

/// A server of own requests: takes them whole, answers by its mood, and answers probes with what its mood says of the
/// leader.
fn server(mood: Rc<Cell<Mood>>) -> impl FnMut(&UdpSocket, &Seen) + 'static {
    let mut pending = Requests::new(Limits::default());
    move |socket, seen| {
        let mood = mood.get();
        if mood == Mood::Silent {
            return;
        }
        let message = match pending.on_packet(now(), seen.from, &seen.header, &seen.payload) {
            Outcome::Complete => seen.payload.clone(),
            Outcome::Assembled(done) => done.body,
            Outcome::Begun if mood == Mood::Drops => return send(socket, seen.from, &drop_packet(seen.header.rid)),
            Outcome::Begun => return send(socket, seen.from, &ack(seen.header.rid)),
            _ => return,
        };
        let (request, arguments) = RequestBlock::parse(&message).unwrap();
        let mood = match mood {
            Mood::Says(block) => Mood::Says(ResponseBlock { echo: request.echo(), ..block }),
            other => other,
        };
        match mood {
            Mood::Says(block) if request.method == PROBE_METHOD => {
                let told = ResponseBlock { status: Status::NotApplied, reason: Refusal::UnknownMethod, ..block };
                answer(socket, seen, true, &told.emit());
            }
            Mood::Says(block) if block.status == Status::Ok => {
                answer(socket, seen, true, &[&block.emit(), arguments].concat());
            }
            Mood::Says(block) => answer(socket, seen, true, &block.emit()),
            Mood::Drops => send(socket, seen.from, &drop_packet(seen.header.rid)),
            Mood::Silent => {}
        }
    }
}

impl Cluster {
    /// Servers in slots 1, 2, ... with these moods.
    fn new(moods: &[Mood]) -> Cluster {
        let mut lab = Lab::new(3);
        let user = lab.machine(100);
        let moods: Vec<_> = moods.iter().map(|mood| Rc::new(Cell::new(*mood))).collect();
        let machines: Vec<_> = (1..=moods.len() as u8).map(|slot| lab.machine(slot)).collect();
        let logs =
            machines.iter().zip(&moods).map(|(machine, mood)| lab.serve(machine, server(mood.clone()))).collect();
        let servers = machines.iter().map(|machine| machine.addr(8000)).collect();
        let config = ClientConfig { sessions: false, ..ClientConfig::default() };
        let client = lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), servers, config).unwrap());
        Cluster { lab, user, client, moods, logs }
    }

    fn call(&mut self, policy: Policy, arguments: &[u8], within: Duration) -> (Result<Reply, CallError>, Duration) {
        let (client, arguments) = (self.client.clone(), arguments.to_vec());
        self.lab.finish(&self.user, async move {
            let call = MethodCall { method: METHOD, policy, shard: 0, body: &arguments, server: None };
            let begun = now();
            (client.call(call, within).await, now() - begun)
        })
    }

    /// Requests for [`METHOD`] that reached each server, by their first packets.
    fn asked(&self) -> Vec<usize> {
        let of_method = |log: &Log| {
            let log = log.borrow();
            let firsts = log.iter().filter(|seen| seen.header.flags.first);
            firsts.filter(|seen| RequestBlock::parse(&seen.payload).unwrap().0.method == METHOD).count()
        };
        self.logs.iter().map(of_method).collect()
    }

    /// Probes that reached each server.
    fn probed(&self) -> Vec<usize> {
        self.logs.iter().zip(self.asked()).map(|(log, asked)| requests(log) - asked).collect()
    }

    fn set(&self, slot: usize, mood: Mood) {
        self.moods[slot - 1].set(mood);
    }
}

fn at(slot: u8) -> SocketAddrV4 {
    SocketAddrV4::new([10, 0, 0, slot].into(), 8000)
}

#[test]
fn a_call_brings_back_the_whole_block() {
    let mut cluster = Cluster::new(&[leads(1)]);
    let (result, took) = cluster.call(WRITE, b"arguments", SECOND);
    let reply = result.unwrap();
    assert_eq!((reply.status, reply.body, reply.from), (Status::Ok, b"arguments".to_vec(), at(1)));
    assert_eq!((reply.block.term, reply.block.index, reply.block.leader), (5, 77, 1));
    assert!(took < MILLI);
    let sent = cluster.logs[0].borrow()[0].clone();
    assert_eq!(sent.header.emit()[2..4], [0x02, 0xE0]);
    let (block, arguments) = RequestBlock::parse(&sent.payload).unwrap();
    assert_eq!((block.method, block.session, arguments), (METHOD, 0, &b"arguments"[..]));
}

/// One redirection, at once; from then on straight to the leader, without a question.
#[test]
fn follows_the_leader_and_remembers_it() {
    let mut cluster = Cluster::new(&[leads(1), Mood::Silent, Mood::Silent]);
    cluster.call(READ, b"w", SECOND).0.unwrap();
    for (slot, mood) in [(1, refuses(Refusal::NotLeader, 3)), (2, refuses(Refusal::NotLeader, 3)), (3, leads(3))] {
        cluster.set(slot, mood);
    }
    let (result, took) = cluster.call(WRITE, b"x", SECOND);
    assert_eq!(result.unwrap().from, at(3));
    assert!(took < MILLI, "{took:?}");
    cluster.call(WRITE, b"y", SECOND).0.unwrap();
    cluster.call(READ, b"z", SECOND).0.unwrap();
    assert_eq!(cluster.asked(), [2, 0, 3]);
    assert_eq!(cluster.probed(), [0, 0, 0]);
    assert_eq!(cluster.client.leader(), Some(at(3)));
}

/// One question, and the write is with the leader at once, past the first server, which is dead.
#[test]
fn a_first_write_asks_who_leads() {
    let mut cluster = Cluster::new(&[Mood::Silent, refuses(Refusal::NotLeader, 3), leads(3)]);
    let (result, took) = cluster.call(WRITE, b"x", SECOND);
    assert_eq!(result.unwrap().from, at(3));
    assert!(took < MILLI, "{took:?}");
    assert_eq!((cluster.asked(), cluster.probed()), (vec![0, 0, 1], vec![0, 1, 0]));
    assert_eq!(cluster.client.waiting(), 0);
}

/// Each server is asked once, 10 ms after the one before, until one answers: that may be the last.
#[test]
fn a_search_goes_round_all_servers() {
    let mut cluster = Cluster::new(&[leads(1), Mood::Silent, Mood::Silent]);
    let (result, took) = cluster.call(WRITE, b"x", SECOND);
    assert_eq!(result.unwrap().from, at(1));
    assert!(took >= 20 * MILLI && took < 21 * MILLI, "{took:?}");
    assert_eq!((cluster.asked(), cluster.probed()), (vec![1, 0, 0], vec![1, 1, 1]));
}

/// No leader is known, but who answers is there: the write waits with it until it knows one.
#[test]
fn a_write_goes_to_who_answers_where_nobody_leads() {
    let no_leader = ResponseBlock { status: Status::Ok, leader: 0, term: 5, ..ResponseBlock::default() };
    let mut cluster = Cluster::new(&[Mood::Silent, Mood::Silent, Mood::Says(no_leader)]);
    let (result, took) = cluster.call(WRITE, b"x", SECOND);
    assert_eq!(result.unwrap().from, at(3));
    assert!(took >= 10 * MILLI && took < 11 * MILLI, "{took:?}");
    assert_eq!((cluster.asked(), cluster.probed()), (vec![0, 0, 1], vec![0, 1, 1]));
}

/// Only one server is left: whatever the order, no repetition of the refused write may go to a dead one, which would
/// turn a certain answer into an unknown one.
#[test]
fn a_write_without_any_leader_keeps_its_proof() {
    let no_quorum = ResponseBlock {
        status: Status::NoQuorum,
        reason: Refusal::NoLeader,
        reachable: 1,
        total: 3,
        term: 5,
        ..ResponseBlock::default()
    };
    for alive in 1..=3 {
        let mut moods = [Mood::Silent; 3];
        moods[alive - 1] = Mood::Says(no_quorum);
        let mut cluster = Cluster::new(&moods);
        let (result, took) = cluster.call(WRITE, b"x", SECOND);
        assert_eq!(result, Err(CallError::NoQuorum { reachable: 1, total: 3, quorum: 2 }), "{alive} is alive");
        assert!(took >= SECOND && took < SECOND + MILLI, "{took:?}");
        let asked = cluster.asked();
        assert_eq!(asked.iter().sum::<usize>(), asked[alive - 1], "{asked:?}");
        assert!((20..=50).contains(&asked[alive - 1]), "{asked:?}");
        assert!(cluster.probed().iter().sum::<usize>() <= 100);
        assert_eq!(cluster.client.waiting(), 0);
    }
}

/// After the search a write takes its chance, once. A deadline that comes before leaves the certainty.
#[test]
fn a_write_among_silent_servers_is_sent_once_after_the_search() {
    let mut cluster = Cluster::new(&[Mood::Silent; 3]);
    let (result, took) = cluster.call(WRITE, b"x", 100 * MILLI);
    assert_eq!(result, Err(CallError::Unknown { call_id: None }));
    assert!(took >= 100 * MILLI && took < 101 * MILLI, "{took:?}");
    assert_eq!(cluster.asked(), [1, 0, 0]);
    let probed = cluster.probed();
    assert!(probed.iter().sum::<usize>() <= 10 && probed.iter().all(|times| *times > 0), "{probed:?}");
    assert_eq!(cluster.client.waiting(), 0);

    // At 30 ms the search ends, and there is no time left.
    for within in [0, 1, 25, 30] {
        let mut cluster = Cluster::new(&[Mood::Silent; 3]);
        let (result, took) = cluster.call(WRITE, b"x", within * MILLI);
        assert_eq!(result, Err(CallError::NotApplied(NotApplied::NotTaken)), "{within} ms");
        assert!(took >= within * MILLI && took < (within + 1) * MILLI, "{took:?}");
        assert_eq!(cluster.asked(), [0, 0, 0]);
        assert_eq!(cluster.client.waiting(), 0);
    }
}

/// A named leader may have died since: the write is lost with it, but not sent again, and the next one finds the new
/// leader.
#[test]
fn a_named_leader_that_is_dead_costs_one_write() {
    let mut cluster = Cluster::new(&[Mood::Silent, refuses(Refusal::NotLeader, 1), Mood::Silent]);
    assert_eq!(cluster.call(WRITE, b"x", 100 * MILLI).0, Err(CallError::Unknown { call_id: None }));
    assert_eq!(cluster.asked(), [1, 0, 0]);
    let elected = ResponseBlock { leader: 3, term: 6, ..ResponseBlock::default() };
    cluster.set(2, Mood::Says(ResponseBlock { status: Status::NotApplied, reason: Refusal::NotLeader, ..elected }));
    cluster.set(3, Mood::Says(elected));
    assert_eq!(cluster.call(READ, b"y", SECOND).0.unwrap().block.term, 6);
    assert_eq!(cluster.call(WRITE, b"z", SECOND).0.unwrap().from, at(3));
}

/// Calls of one client share the pace of the questions and hear each other's answers: none is late for it, none takes
/// the pace for a search that found nobody.
#[test]
fn writes_at_once_search_together() {
    for writes in [2, 50] {
        let mut cluster = Cluster::new(&[Mood::Silent, Mood::Silent, refuses(Refusal::NotLeader, 4), leads(4)]);
        let (client, user) = (cluster.client.clone(), cluster.user.clone());
        let results = cluster.lab.finish(&user, async move {
            let begun = now();
            let write = |number: u64| {
                let client = client.clone();
                trimaran_runtime::spawn(async move {
                    // Some begin while the first question is open.
                    sleep(MILLI * (number % 4) as u32).await;
                    let call = MethodCall { method: METHOD, policy: WRITE, shard: 0, body: b"x", server: None };
                    (client.call(call, SECOND).await, now() - begun)
                })
            };
            let tasks: Vec<_> = (0..writes).map(write).collect();
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await.unwrap());
            }
            results
        });
        for (result, took) in results {
            assert_eq!(result.unwrap().from, at(4));
            assert!(took >= 10 * MILLI && took < 11 * MILLI, "{took:?}");
        }
        assert_eq!((cluster.asked(), cluster.probed()), (vec![0, 0, 0, writes as usize], vec![0, 1, 1, 0]));
        assert_eq!(cluster.client.waiting(), 0);
    }
}

/// The call whose question it was may be gone: the others go on asking.
#[test]
fn a_search_survives_the_call_that_began_it() {
    let mut cluster = Cluster::new(&[Mood::Silent, Mood::Silent, leads(3)]);
    let (client, user) = (cluster.client.clone(), cluster.user.clone());
    let (result, took) = cluster.lab.finish(&user, async move {
        let call = MethodCall { method: METHOD, policy: WRITE, shard: 0, body: b"x", server: None };
        let first = client.clone();
        let first = trimaran_runtime::spawn(async move { first.call(call, SECOND).await });
        sleep(MILLI).await;
        let second = client.clone();
        let second = trimaran_runtime::spawn(async move { (second.call(call, SECOND).await, now()) });
        sleep(MILLI).await;
        drop(first);
        let begun = now();
        let (result, at) = second.await.unwrap();
        (result, at - begun)
    });
    assert_eq!(result.unwrap().from, at(3));
    assert!(took < 20 * MILLI, "{took:?}");
    assert_eq!(cluster.asked(), [0, 0, 1]);
}

/// Two followers that name each other must not be asked at the speed of the wire.
#[test]
fn redirections_in_a_circle_are_slowed_down() {
    let mut cluster = Cluster::new(&[refuses(Refusal::NotLeader, 2), refuses(Refusal::NotLeader, 1)]);
    let (result, took) = cluster.call(WRITE, b"x", 100 * MILLI);
    assert_eq!(result, Err(CallError::NotApplied(NotApplied::Refused(Refusal::NotLeader))));
    assert!(took >= 100 * MILLI);
    let asked: usize = cluster.asked().iter().sum();
    assert!((10..=44).contains(&asked), "{asked}");
}

#[test]
fn a_read_asks_another_server_after_ten_milliseconds() {
    let mut cluster = Cluster::new(&[Mood::Silent, leads(2), Mood::Silent]);
    let (result, took) = cluster.call(READ, b"x", SECOND);
    assert_eq!(result.unwrap().from, at(2));
    assert!(took >= 10 * MILLI && took < 11 * MILLI, "{took:?}");
    assert_eq!(cluster.asked(), [1, 1, 0]);
}

/// The slow server's answer counts, too: asking elsewhere does not give the first try up.
#[test]
fn a_slow_read_is_still_heard() {
    let mut lab = Lab::new(3);
    let (user, slow, dead) = (lab.machine(100), lab.machine(1), lab.machine(2));
    let socket = lab.bind(&slow, 8000);
    let task = async move {
        let packet = socket.recv().await;
        let (header, payload) = trimaran_rpc::r2p2::Header::parse(packet.data()).unwrap();
        let seen = Seen { from: packet.src(), header, payload: payload.to_vec() };
        sleep(35 * MILLI).await;
        let echo = RequestBlock::parse(&seen.payload).unwrap().0.echo();
        answer(&socket, &seen, true, &ResponseBlock { index: 9, echo, ..ResponseBlock::default() }.emit());
        std::future::pending::<()>().await;
    };
    lab.world.spawn(slow.core, trimaran_runtime::Lane::Normal, task).detach();
    let servers = vec![slow.addr(8000), dead.addr(8000)];
    let open = || {
        Client::new(&user.net, user.addr(0), servers, ClientConfig { sessions: false, ..ClientConfig::default() })
            .unwrap()
    };
    let client = lab.world.enter(user.core, open);
    let calling = client.clone();
    let reply = lab.finish(&user, async move {
        let call = MethodCall { method: METHOD, policy: READ, shard: 0, body: b"", server: None };
        calling.call(call, SECOND).await
    });
    assert_eq!(reply.unwrap().block.index, 9);
    assert_eq!(client.waiting(), 0);
}

/// A write that may have been applied is never sent twice. Others are asked who leads, so that the next call fares
/// better.
#[test]
fn a_silent_write_is_sent_once_and_the_leader_is_looked_for() {
    let not_leader = refuses(Refusal::NotLeader, 3);
    let mut cluster = Cluster::new(&[leads(1), not_leader, leads(3)]);
    cluster.call(READ, b"w", SECOND).0.unwrap();
    cluster.set(1, Mood::Silent);
    let (result, took) = cluster.call(WRITE, b"x", 100 * MILLI);
    assert_eq!(result, Err(CallError::Unknown { call_id: None }));
    assert!(took >= 100 * MILLI && took < 101 * MILLI, "{took:?}");
    assert_eq!(cluster.asked(), [2, 0, 0]);
    let probed = cluster.probed();
    assert!(probed.iter().sum::<usize>() <= 10 && probed[1] > 0 && probed[2] > 0, "{probed:?}");
    assert_eq!(cluster.client.waiting(), 0);
    let (result, took) = cluster.call(WRITE, b"y", SECOND);
    assert_eq!(result.unwrap().from, at(3));
    assert!(took < MILLI, "{took:?}");
}

/// Refused is proof: the same write is tried again until the deadline, and the last proof is what the caller gets.
#[test]
fn a_refused_write_is_tried_again() {
    let no_quorum = ResponseBlock { status: Status::NoQuorum, reachable: 1, total: 3, ..ResponseBlock::default() };
    let mut cluster = Cluster::new(&[Mood::Says(no_quorum)]);
    let (result, took) = cluster.call(WRITE, b"x", 100 * MILLI);
    assert_eq!(result, Err(CallError::NoQuorum { reachable: 1, total: 3, quorum: 2 }));
    assert!(took >= 100 * MILLI);
    let asked = cluster.asked()[0];
    assert!((5..=10).contains(&asked), "{asked}");

    for mood in [refuses(Refusal::Busy, 1), refuses(Refusal::NoLeader, 0), Mood::Drops] {
        let mut cluster = Cluster::new(&[mood, mood]);
        let (client, user) = (cluster.client.clone(), cluster.user.clone());
        let (first, second) = (Rc::clone(&cluster.moods[0]), Rc::clone(&cluster.moods[1]));
        let result = cluster.lab.finish(&user, async move {
            let mended = trimaran_runtime::spawn(async move {
                sleep(35 * MILLI).await;
                first.set(leads(1));
                second.set(leads(1));
            });
            let call = MethodCall { method: METHOD, policy: WRITE, shard: 0, body: b"x", server: None };
            let result = client.call(call, SECOND).await;
            mended.await.unwrap();
            result
        });
        assert_eq!(result.unwrap().status, Status::Ok);
        assert!(cluster.asked().iter().sum::<usize>() <= 6);
    }
}

/// A server that says that another shard is responsible has applied nothing: the map is asked for, and the call made again. Where
/// that is the last word of all, it is the caller's.
#[test]
fn a_server_that_is_wrong_about_the_shards_is_not_the_last_one_asked() {
    let wrong = || {
        let status = Status::WrongShard;
        Mood::Says(ResponseBlock { status, term: 5, ..ResponseBlock::default() })
    };
    let mut cluster = Cluster::new(&[leads(1), leads(2)]);
    cluster.call(READ, b"w", SECOND).0.unwrap();
    cluster.set(1, wrong());
    assert_eq!(cluster.call(WRITE, b"x", SECOND).0.unwrap().status, Status::Ok);
    let mut cluster = Cluster::new(&[wrong(), wrong()]);
    let (result, took) = cluster.call(WRITE, b"x", SECOND);
    assert_eq!(result, Err(CallError::NotApplied(NotApplied::WrongShard)));
    assert!(took < SECOND, "a few times, not until the deadline");
}

/// What waiting cannot mend is told at once.
#[test]
fn final_refusals_end_the_call() {
    let says = |status, reason| Mood::Says(ResponseBlock { status, reason, term: 5, ..ResponseBlock::default() });
    let refused = |reason| CallError::NotApplied(NotApplied::Refused(reason));
    let cases = [
        (Status::NotApplied, Refusal::UnknownMethod, refused(Refusal::UnknownMethod)),
        (Status::NotApplied, Refusal::BadArguments, refused(Refusal::BadArguments)),
        (Status::NotApplied, Refusal::TooLarge, refused(Refusal::TooLarge)),
        (Status::NotApplied, Refusal::PolicyMismatch, refused(Refusal::PolicyMismatch)),
        (Status::SessionExpired, Refusal::Unspecified, CallError::Unknown { call_id: None }),
        (Status::Internal, Refusal::Unspecified, CallError::Internal),
    ];
    for (status, reason, expected) in cases {
        let mut cluster = Cluster::new(&[leads(1), leads(2)]);
        cluster.call(READ, b"w", SECOND).0.unwrap();
        cluster.set(1, says(status, reason));
        let (result, took) = cluster.call(WRITE, b"x", SECOND);
        assert_eq!(result, Err(expected));
        assert!(took < MILLI);
        assert_eq!(cluster.asked(), [2, 0], "{status:?} {reason:?}");
    }
    let mut cluster = Cluster::new(&[says(Status::App, Refusal::Unspecified)]);
    assert_eq!(cluster.call(WRITE, b"x", SECOND).0.unwrap().status, Status::App);
}

/// A write of several packets of which nobody asked for more than the first cannot have been applied: it may go
/// elsewhere.
#[test]
fn a_long_write_leaves_a_dead_server() {
    let mut cluster = Cluster::new(&[leads(1), leads(2)]);
    cluster.call(READ, b"w", SECOND).0.unwrap();
    cluster.set(1, Mood::Silent);
    let (result, took) = cluster.call(WRITE, &body(5000), SECOND);
    assert_eq!(result.unwrap().body, body(5000));
    assert!(took >= 10 * MILLI && took < 12 * MILLI, "{took:?}");
    assert_eq!((cluster.asked(), cluster.probed()), (vec![2, 1], vec![0, 1]));
    // The read, and the first packet only; the question, and all four packets.
    assert_eq!((cluster.logs[0].borrow().len(), cluster.logs[1].borrow().len()), (2, 5));

    cluster.set(2, Mood::Silent);
    let (result, _) = cluster.call(WRITE, &body(5000), 100 * MILLI);
    assert_eq!(result, Err(CallError::NotApplied(NotApplied::NotTaken)));
    assert_eq!(cluster.client.waiting(), 0);
}

/// A server may refuse one of our own clients by a block before it asks for the rest.
#[test]
fn a_block_in_place_of_the_ack() {
    let mut lab = Lab::new(3);
    let (user, machine) = (lab.machine(100), lab.machine(1));
    let log = lab.serve(&machine, |socket, seen| {
        let reason = Refusal::TooLarge;
        let echo = RequestBlock::parse(&seen.payload).unwrap().0.echo();
        let block = ResponseBlock { status: Status::NotApplied, reason, echo, ..ResponseBlock::default() };
        answer(socket, seen, true, &block.emit());
    });
    let open = || {
        Client::new(
            &user.net,
            user.addr(0),
            vec![machine.addr(8000)],
            ClientConfig { sessions: false, ..ClientConfig::default() },
        )
        .unwrap()
    };
    let client = lab.world.enter(user.core, open);
    let result = lab.finish(&user, async move {
        let request = body(5000);
        let call = MethodCall { method: METHOD, policy: WRITE, shard: 0, body: &request, server: None };
        client.call(call, SECOND).await
    });
    assert_eq!(result, Err(CallError::NotApplied(NotApplied::Refused(Refusal::TooLarge))));
    assert_eq!(log.borrow().len(), 1);
}

#[test]
fn a_client_without_servers_says_so() {
    let mut cluster = Cluster::new(&[]);
    assert_eq!(cluster.call(WRITE, b"x", SECOND).0, Err(CallError::NotApplied(NotApplied::NoServers)));
}

/// [`Policy::FixedRoute`] goes where the caller says, whoever leads.
#[test]
fn a_named_server_is_asked() {
    let mut cluster = Cluster::new(&[leads(1), leads(1)]);
    cluster.call(WRITE, b"x", SECOND).0.unwrap();
    let client = cluster.client.clone();
    let reply = cluster.lab.finish(&cluster.user, async move {
        let call = MethodCall { method: METHOD, policy: Policy::FixedRoute, shard: 0, body: b"", server: Some(at(2)) };
        client.call(call, SECOND).await
    });
    assert_eq!(reply.unwrap().from, at(2));
    assert_eq!(cluster.asked(), [1, 1]);
}
