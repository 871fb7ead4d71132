//! Our client with sessions on a simulated wire, against servers written by hand: what it sends, when it sends it again,
//! and what it makes of answers that no honest cluster gives twice.

mod r2p2_support;

use r2p2_support::{Lab, Log, Machine, Seen, answer};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_raft::{ClusterId, LogIndex};
use trimaran_rpc::client::{CallError, CallId, Client, ClientConfig, MethodCall, NotApplied, PROBE_METHOD, Reply};
use trimaran_rpc::r2p2::{Policy, Refusal, ReplyLimits, RequestBlock, ResponseBlock, Status};
use trimaran_rpc::service::method_key;
use trimaran_rpc::session::{REGISTER, SessionId};
use trimaran_runtime::{Instant, now, sleep, timeout};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WRITE: Policy = Policy::ReplicatedRoute;
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;
const METHOD: u32 = 0xABCD;
const CLUSTER: ClusterId = ClusterId(0xc1);

/// What a server says to a request; `None`: nothing.
type Script = Rc<RefCell<dyn FnMut(u8, &RequestBlock, &[u8]) -> Option<(ResponseBlock, Vec<u8>)>>>;

struct Bench {
    lab: Lab,
    user: Machine,
    client: Client,
    logs: Vec<Log>,
}

fn block(status: Status, reason: Refusal) -> ResponseBlock {
    ResponseBlock { status, reason, leader: 1, term: 5, index: 77, ..ResponseBlock::default() }
}

fn ok() -> ResponseBlock {
    block(Status::Ok, Refusal::Unspecified)
}

/// The session opened by the `number`th registration.
fn registered(number: u64) -> Option<(ResponseBlock, Vec<u8>)> {
    Some((ResponseBlock { index: number, ..ok() }, CLUSTER.0.to_le_bytes().to_vec()))
}

fn session(number: u64) -> u64 {
    SessionId::new(CLUSTER, LogIndex(number)).0
}

impl Bench {
    /// `servers` of them, which answer as the script says: it hears the slot, the block and the arguments. Registrations
    /// that it does not answer itself open sessions 1, 2, ...
    fn new(
        servers: u8,
        config: ClientConfig,
        script: impl FnMut(u8, &RequestBlock, &[u8]) -> Option<(ResponseBlock, Vec<u8>)> + 'static,
    ) -> Bench {
        let mut lab = Lab::new(3);
        let user = lab.machine(100);
        let script: Script = Rc::new(RefCell::new(script));
        let mut addresses = Vec::new();
        let mut logs = Vec::new();
        for slot in 1..=servers {
            let machine = lab.machine(slot);
            addresses.push(machine.addr(8000));
            let script = script.clone();
            logs.push(lab.serve(&machine, move |socket: &UdpSocket, seen: &Seen| {
                let Ok((request, arguments)) = RequestBlock::parse(&seen.payload) else { return };
                if let Some((block, body)) = script.borrow_mut()(slot, &request, arguments) {
                    let block = ResponseBlock { echo: request.echo(), ..block };
                    answer(socket, seen, true, &[&block.emit()[..], &body].concat());
                }
            }));
        }
        let config = ClientConfig { nonce: Some(1000), ..config };
        let client = lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), addresses, config).unwrap());
        Bench { lab, user, client, logs }
    }

    fn finish<F: Future + 'static>(&mut self, work: impl FnOnce(Client) -> F) -> F::Output {
        let work = work(self.client.clone());
        self.lab.finish(&self.user, work)
    }

    fn write(&mut self, body: &'static [u8], within: Duration) -> (Result<Reply, CallError>, Duration) {
        self.finish(|client| async move {
            let begun = now();
            (write(&client, body, within).await, now() - begun)
        })
    }

    /// The blocks of all requests for a method at a server, in order.
    fn seen(&self, slot: usize, method: u32) -> Vec<RequestBlock> {
        let log = self.logs[slot - 1].borrow();
        let firsts = log.iter().filter(|seen| seen.header.flags.first);
        let blocks = firsts.map(|seen| RequestBlock::parse(&seen.payload).unwrap().0);
        blocks.filter(|block| block.method == method).collect()
    }

    fn names(&self, slot: usize) -> Vec<(u64, u64, u64)> {
        self.seen(slot, METHOD).iter().map(|block| (block.session, block.seq, block.acked)).collect()
    }
}

async fn write(client: &Client, body: &[u8], within: Duration) -> Result<Reply, CallError> {
    client.call(MethodCall { method: METHOD, policy: WRITE, shard: 0, body, server: None }, within).await
}

/// A server that opens sessions and leads, and does with calls what `with` says.
fn leader(
    mut with: impl FnMut(&RequestBlock, &[u8]) -> Option<(ResponseBlock, Vec<u8>)>,
) -> impl FnMut(u8, &RequestBlock, &[u8]) -> Option<(ResponseBlock, Vec<u8>)> {
    let mut sessions = 0;
    move |_, request, arguments| match request.method {
        PROBE_METHOD => Some((block(Status::NotApplied, Refusal::UnknownMethod), Vec::new())),
        method if method == method_key(REGISTER) => {
            sessions += 1;
            registered(sessions)
        }
        _ => with(request, arguments),
    }
}

fn echo(_: &RequestBlock, arguments: &[u8]) -> Option<(ResponseBlock, Vec<u8>)> {
    Some((ok(), arguments.to_vec()))
}

/// One session, one datagram for each call, and each tells the cluster what it may forget.
#[test]
fn a_write_costs_one_datagram() {
    let mut bench = Bench::new(3, ClientConfig::default(), leader(echo));
    for _ in 0..3 {
        bench.write(b"x", SECOND).0.expect("applied");
    }
    assert_eq!(bench.names(1), [(session(1), 1, 0), (session(1), 2, 1), (session(1), 3, 2)]);
    assert_eq!(bench.seen(1, method_key(REGISTER)).len(), 1);
    assert_eq!(bench.logs.iter().map(|log| log.borrow().len()).collect::<Vec<_>>(), [4, 0, 0]);
    assert_eq!(bench.client.waiting(), 0);
}

/// Sixty-four at a time in one session; the sixty-fifth opens another.
#[test]
fn a_full_session_opens_another() {
    // Nobody is answered before all have come.
    let mut names = BTreeSet::new();
    let together = leader(move |request, arguments| {
        names.insert((request.session, request.seq));
        if names.len() < 65 { None } else { echo(request, arguments) }
    });
    let mut bench = Bench::new(1, ClientConfig::default(), together);
    let ends = bench.finish(|client| async move {
        let calls: Vec<_> = (0..65)
            .map(|_| {
                let client = client.clone();
                trimaran_runtime::spawn(async move { write(&client, b"x", SECOND).await })
            })
            .collect();
        let mut ends = Vec::new();
        for call in calls {
            ends.push(call.await.unwrap());
        }
        ends
    });
    assert!(ends.iter().all(Result::is_ok));
    let of_second: BTreeSet<_> = bench.names(1).into_iter().filter(|(of, ..)| *of == session(2)).collect();
    assert_eq!((of_second.len(), bench.seen(1, method_key(REGISTER)).len()), (1, 2));
}

/// Unanswered, it goes out again under the same name, at longer and longer intervals; in between others are asked who
/// leads.
#[test]
fn a_silent_write_is_sent_again_under_its_name() {
    let at: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let times = at.clone();
    let mut bench = Bench::new(
        2,
        ClientConfig::default(),
        leader(move |_, arguments| {
            if arguments == b"silence" {
                times.borrow_mut().push(now());
                return None;
            }
            Some((ok(), Vec::new()))
        }),
    );
    bench.write(b"first", SECOND).0.expect("applied");
    let (end, took) = bench.write(b"silence", SECOND);
    let name = CallId { session: session(1), seq: 2 };
    assert_eq!(end, Err(CallError::Unknown { call_id: Some(name) }));
    assert!(took >= SECOND && took < SECOND + MILLI, "{took:?}");
    let millis = |pair: &[Instant]| (pair[1] - pair[0] + MILLI / 2).as_millis();
    // Early copies to the same server after one, two and four milliseconds, and then the pace of probes.
    let gaps: Vec<_> = at.borrow().windows(2).map(millis).collect();
    assert_eq!(gaps, [1, 2, 4, 3, 20, 40, 80, 160, 160, 160, 160, 160]);
    let rids: Vec<_> = bench.logs[0].borrow().iter().map(|seen| seen.header.rid).collect();
    assert!(rids.windows(2).all(|pair| pair[0] != pair[1]));
    // Whoever wants to know may ask again: the name is kept, so the next call acknowledges only what came before it.
    bench.write(b"next", SECOND).0.expect("applied");
    assert_eq!(bench.names(1).last(), Some(&(session(1), 3, 1)));
    assert_eq!(bench.client.waiting(), 0);
}

/// The leader has gone, another one is heard of: the write is there within two questions, not when its patience ends.
#[test]
fn a_write_follows_the_leader_at_once() {
    let mut sessions = 0;
    let since: Rc<RefCell<Option<Instant>>> = Rc::default();
    let moved = since.clone();
    let mut bench = Bench::new(3, ClientConfig::default(), move |slot, request, _| {
        let dead_since = *moved.borrow();
        let leader = match dead_since {
            Some(at) if now() - at > 100 * MILLI => 3,
            _ => 1,
        };
        if slot == 1 && dead_since.is_some() {
            return None;
        }
        let block = ResponseBlock { leader, term: 5 + u64::from(leader), ..ok() };
        match request.method {
            PROBE_METHOD => Some((
                ResponseBlock { status: Status::NotApplied, reason: Refusal::UnknownMethod, ..block },
                Vec::new(),
            )),
            method if method == method_key(REGISTER) => {
                sessions += 1;
                registered(sessions)
            }
            _ if slot == leader => Some((block, Vec::new())),
            // A follower passes it on to a leader that is gone.
            _ => None,
        }
    });
    bench.write(b"x", SECOND).0.expect("applied");
    *since.borrow_mut() = Some(bench.lab.world.enter(bench.user.core, now));
    let (end, took) = bench.write(b"y", SECOND);
    assert!(end.is_ok() && took < 125 * MILLI, "{end:?} {took:?}");
    assert_eq!(bench.names(3).last(), Some(&(session(1), 2, 1)));
}

/// The session is not known, and the call was sent once: it gets a new name, and the caller does not notice.
#[test]
fn an_expired_session_is_replaced_unseen() {
    let mut bench = Bench::new(
        1,
        ClientConfig::default(),
        leader(|request, _| {
            let expired = request.session == session(1) && request.seq > 1;
            Some((if expired { block(Status::SessionExpired, Refusal::Unspecified) } else { ok() }, Vec::new()))
        }),
    );
    bench.write(b"x", SECOND).0.expect("applied");
    bench.write(b"y", SECOND).0.expect("applied");
    assert_eq!(bench.names(1), [(session(1), 1, 0), (session(1), 2, 1), (session(2), 1, 0)]);
    let log = bench.logs[0].borrow();
    let nonces: Vec<_> = log
        .iter()
        .filter_map(|seen| RequestBlock::parse(&seen.payload).ok())
        .filter(|(block, _)| block.method == method_key(REGISTER))
        .map(|(_, nonce)| u128::from_le_bytes(nonce.try_into().unwrap()))
        .collect();
    assert_eq!(nonces, [1000, 1001], "another session, so another nonce");
}

/// The session is known and the reply is not: the call was executed, and must not get another name.
#[test]
fn a_forgotten_reply_is_an_unknown_outcome() {
    let mut bench = Bench::new(
        1,
        ClientConfig::default(),
        leader(|_, _| Some((block(Status::SessionExpired, Refusal::Forgotten), Vec::new()))),
    );
    let (end, took) = bench.write(b"x", SECOND);
    assert_eq!(end, Err(CallError::Unknown { call_id: Some(CallId { session: session(1), seq: 1 }) }));
    assert!(took < MILLI && bench.names(1).len() == 1);
}

/// Sent twice, and the second copy finds the session gone: what became of the first nobody knows.
#[test]
fn an_expired_session_after_a_second_try_is_an_unknown_outcome() {
    let mut tries = 0;
    let mut bench = Bench::new(
        1,
        ClientConfig::default(),
        leader(move |_, _| {
            tries += 1;
            (tries > 1).then(|| (block(Status::SessionExpired, Refusal::Unspecified), Vec::new()))
        }),
    );
    assert!(matches!(bench.write(b"x", SECOND).0, Err(CallError::Unknown { call_id: Some(_) })));
    assert_eq!(bench.names(1).len(), 2);
}

/// One server has not answered, another one knows no such method: the first may have executed it.
#[test]
fn a_final_refusal_beside_an_open_try_proves_nothing() {
    let mut tries = 0;
    let mut bench = Bench::new(
        1,
        ClientConfig::default(),
        leader(move |_, _| {
            tries += 1;
            let refused = block(Status::NotApplied, Refusal::UnknownMethod);
            (tries > 1).then_some((ResponseBlock { index: 0, ..refused }, Vec::new()))
        }),
    );
    assert!(matches!(bench.write(b"x", SECOND).0, Err(CallError::Unknown { call_id: Some(_) })));
    // The first try of the next call is refused at once, and that is proof.
    let refused = CallError::NotApplied(NotApplied::Refused(Refusal::UnknownMethod));
    assert_eq!(bench.write(b"y", SECOND).0, Err(refused));
}

/// The answer to a registration is lost: the same nonce goes out again, so that no session is left over.
#[test]
fn a_lost_registration_is_repeated_with_its_nonce() {
    let nonces: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let seen = nonces.clone();
    let mut bench = Bench::new(1, ClientConfig::default(), move |_, request, arguments| {
        if request.method == method_key(REGISTER) {
            seen.borrow_mut().push(arguments.to_vec());
            return if seen.borrow().len() < 4 { None } else { registered(9) };
        }
        Some((ok(), Vec::new()))
    });
    bench.write(b"x", SECOND).0.expect("applied");
    assert!(nonces.borrow().len() >= 4 && nonces.borrow().iter().all(|nonce| *nonce == 1000u128.to_le_bytes()));
    assert_eq!(bench.names(1), [(session(9), 1, 0)]);
}

/// Without a quorum no session can be opened, so nothing of the write has been sent: that is certain, and says why.
#[test]
fn a_write_that_finds_no_session_was_not_applied() {
    let mut bench = Bench::new(1, ClientConfig::default(), |_, _, _| {
        Some((ResponseBlock { reachable: 1, total: 3, ..block(Status::NoQuorum, Refusal::NoLeader) }, Vec::new()))
    });
    let (end, took) = bench.write(b"x", 100 * MILLI);
    assert_eq!(end, Err(CallError::NoQuorum { reachable: 1, total: 3, quorum: 2 }));
    assert!(took >= 100 * MILLI && took < 101 * MILLI && bench.names(1).is_empty(), "{took:?}");

    let mut bench = Bench::new(1, ClientConfig::default(), |_, _, _| None);
    assert_eq!(bench.write(b"x", 100 * MILLI).0, Err(CallError::NotApplied(NotApplied::NotTaken)));

    let full = block(Status::NotApplied, Refusal::SessionsFull);
    let mut bench = Bench::new(1, ClientConfig::default(), move |_, _, _| Some((full, Vec::new())));
    let (end, took) = bench.write(b"x", SECOND);
    assert_eq!(end, Err(CallError::NotApplied(NotApplied::Refused(Refusal::SessionsFull))));
    assert!(took < MILLI, "waiting does not mend it: {took:?}");
}

/// The first call of each of four sessions is slow, and the others fill their windows behind it: the next one waits for one
/// of the four to end, or is told what it waited for.
#[test]
fn windows_behind_slow_calls_fill_up() {
    let config =
        ClientConfig { replies: ReplyLimits { calls: 128, ..ReplyLimits::default() }, ..ClientConfig::default() };
    let mut bench = Bench::new(1, config, leader(|request, _| (request.seq > 1).then(|| (ok(), Vec::new()))));
    bench.finish(|client| async move {
        let mut slow = Vec::new();
        for _ in 0..4 {
            let calling = client.clone();
            slow.push(trimaran_runtime::spawn(async move { write(&calling, b"x", SECOND * 5).await }));
            sleep(MILLI).await;
            for _ in 0..63 {
                write(&client, b"y", SECOND).await.expect("applied");
            }
        }
        let begun = now();
        let full = CallError::NotApplied(NotApplied::SessionsFull(256));
        assert_eq!(write(&client, b"z", 50 * MILLI).await, Err(full));
        assert!(now() - begun >= 50 * MILLI);
        let waiting = client.clone();
        let waiting = trimaran_runtime::spawn(async move { write(&waiting, b"z", SECOND).await });
        sleep(5 * MILLI).await;
        slow.pop();
        assert_eq!(waiting.await.unwrap().map(|reply| reply.status), Ok(Status::Ok));
    });
}

/// Another cluster answers the next registration: this client is at an end, whatever it asks.
#[test]
fn another_cluster_ends_the_client() {
    let mut registrations = 0;
    let mut bench = Bench::new(1, ClientConfig::default(), move |_, request, _| {
        if request.method == method_key(REGISTER) {
            registrations += 1;
            let cluster = if registrations == 1 { CLUSTER } else { ClusterId(0xdead) };
            return Some((ResponseBlock { index: 1, ..ok() }, cluster.0.to_le_bytes().to_vec()));
        }
        let is_known = registrations == 1 && request.seq < 2;
        Some((if is_known { ok() } else { block(Status::SessionExpired, Refusal::Unspecified) }, Vec::new()))
    });
    bench.write(b"x", SECOND).0.expect("applied");
    assert_eq!(bench.write(b"y", SECOND).0, Err(CallError::ClusterReplaced));
    let read = bench.finish(|client| async move {
        client.call(MethodCall { method: METHOD, policy: READ, shard: 0, body: b"", server: None }, SECOND).await
    });
    assert_eq!(read, Err(CallError::ClusterReplaced));
    assert_eq!(bench.names(1).len(), 2, "the second is the one that was refused");
}

/// Reads name the cluster that they want to hear of, as soon as it is known, and learn it in passing.
#[test]
fn reads_are_pinned() {
    let mut bench = Bench::new(1, ClientConfig::default(), leader(echo));
    for _ in 0..2 {
        bench.finish(|client| async move {
            let read = MethodCall { method: METHOD, policy: READ, shard: 0, body: b"", server: None };
            client.call(read, SECOND).await.expect("read");
            sleep(MILLI).await;
        });
    }
    let names = bench.names(1);
    let sessions: Vec<_> = names.iter().map(|(session, seq, _)| (*session, *seq)).collect();
    assert_eq!(sessions, [(0, 0), (SessionId::pin(CLUSTER).0, 0)]);
    assert_ne!(names[0].2, names[1].2, "each read has a number of its own");
}

/// Dropped, a call's number is given up at once; its late answer belongs to nobody.
#[test]
fn a_dropped_call_gives_its_number_up() {
    let mut bench =
        Bench::new(1, ClientConfig::default(), leader(|_, arguments| (arguments != b"x").then(|| (ok(), Vec::new()))));
    bench.finish(|client| async move {
        for _ in 0..200 {
            assert!(timeout(2 * MILLI, write(&client, b"x", SECOND)).await.is_err());
        }
        write(&client, b"y", SECOND).await.expect("applied");
    });
    assert_eq!(bench.names(1).last(), Some(&(session(1), 201, 200)));
    assert_eq!((bench.client.waiting(), bench.seen(1, method_key(REGISTER)).len()), (0, 1));
}
