//! Calls that are answered late, on a simulated wire in virtual time: that they are answered at all, how often they are sent meanwhile, and that no
//! answer is taken for another call's.

mod r2p2_support;

use r2p2_support::{Lab, Log, Machine, Seen, answer, send};
use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::UdpSocket;
use trimaran_rpc::client::{CallError, Client, ClientConfig, MethodCall, NotApplied, PROBE_METHOD, Reply};
use trimaran_rpc::r2p2::{Policy, Refusal, RequestBlock, ResponseBlock, Rid, Segmenter, Status, response};
use trimaran_runtime::{Instant, now, sleep, spawn};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const METHOD: u32 = 0xABCD;
const WRITE: Policy = Policy::ReplicatedRoute;
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;

fn leads() -> ResponseBlock {
    ResponseBlock { leader: 1, term: 5, index: 77, ..ResponseBlock::default() }
}

/// Answers with this block and the arguments.
fn say(socket: &UdpSocket, seen: &Seen, block: ResponseBlock) {
    let (request, arguments) = RequestBlock::parse(&seen.payload).unwrap();
    let block = ResponseBlock { echo: request.echo(), ..block };
    answer(socket, seen, true, &[&block.emit()[..], arguments].concat());
}

struct Bench {
    lab: Lab,
    user: Machine,
    server: SocketAddrV4,
    client: Client,
    log: Log,
}

impl Bench {
    /// One server, which leads and says so when it is probed. The other requests are for `handle`.
    fn new(config: ClientConfig, mut handle: impl FnMut(&Rc<UdpSocket>, &Seen) + 'static) -> Bench {
        let mut lab = Lab::new(7);
        let (user, server) = (lab.machine(1), lab.machine(9));
        let socket = lab.bind(&server, 8000);
        let log = Log::default();
        let kept = log.clone();
        let task = async move {
            loop {
                let packet = socket.recv().await;
                let (header, payload) = trimaran_rpc::r2p2::Header::parse(packet.data()).unwrap();
                let seen = Seen { from: packet.src(), header, payload: payload.to_vec() };
                kept.borrow_mut().push(seen.clone());
                match RequestBlock::parse(payload).unwrap().0.method {
                    METHOD => handle(&socket, &seen),
                    _ => say(
                        &socket,
                        &seen,
                        ResponseBlock { status: Status::NotApplied, reason: Refusal::UnknownMethod, ..leads() },
                    ),
                }
            }
        };
        lab.world.spawn(server.core, trimaran_runtime::Lane::Normal, task).detach();
        let server = server.addr(8000);
        let config = ClientConfig { sessions: false, ..config };
        let client = lab.world.enter(user.core, || Client::new(&user.net, user.addr(0), vec![server], config).unwrap());
        Bench { lab, user, server, client, log }
    }

    /// One server whose handler takes so long, and which executes the first copy that arrives; what `loses` says of the copies from 0
    /// on never does.
    fn slow(takes: Duration, mut loses: impl FnMut(usize) -> bool + 'static) -> Bench {
        let (mut copies, is_open) = (0, Rc::new(Cell::new(false)));
        Bench::new(ClientConfig::default(), move |socket, seen| {
            copies += 1;
            if loses(copies - 1) || is_open.replace(true) {
                return;
            }
            let (socket, seen, is_open) = (socket.clone(), seen.clone(), is_open.clone());
            spawn(async move {
                sleep(takes).await;
                is_open.set(false);
                say(&socket, &seen, leads());
            })
            .detach();
        })
    }

    fn call(&mut self, policy: Policy, within: Duration) -> (Result<Reply, CallError>, Duration) {
        self.call_at(policy, None, within)
    }

    fn call_at(
        &mut self,
        policy: Policy,
        server: Option<SocketAddrV4>,
        within: Duration,
    ) -> (Result<Reply, CallError>, Duration) {
        let client = self.client.clone();
        self.lab.finish(&self.user, async move {
            let begun = now();
            let call = MethodCall { method: METHOD, policy, shard: 0, body: b"x", server };
            (client.call(call, within).await, now() - begun)
        })
    }

    /// How many requests for this method the server has seen.
    fn seen(&self, method: u32) -> usize {
        let log = self.log.borrow();
        log.iter().filter(|seen| RequestBlock::parse(&seen.payload).unwrap().0.method == method).count()
    }
}

/// However long the handler takes, the first try is waited for, and the others become rare.
#[test]
fn a_read_that_takes_long_is_answered_by_its_first_try() {
    for (takes, most) in [(60 * MILLI, 8), (200 * MILLI, 13), (1500 * MILLI, 20), (20 * SECOND, 60)] {
        let mut bench = Bench::slow(takes, |_| false);
        let (end, took) = bench.call(READ, 50 * SECOND);
        end.expect("answered");
        assert!(took >= takes && took < takes + MILLI, "{takes:?}: {took:?}");
        assert!(bench.seen(METHOD) <= most, "{takes:?}: {} copies", bench.seen(METHOD));
        assert_eq!(bench.client.waiting(), 0);
    }
}

/// The node executes another try than the client's first, and drops the later ones as copies of that.
#[test]
fn a_read_that_takes_long_is_answered_though_its_first_tries_are_lost() {
    for takes in [200 * MILLI, 1500 * MILLI, 20 * SECOND] {
        let mut bench = Bench::slow(takes, |copy| copy < 3);
        let (end, took) = bench.call(READ, 50 * SECOND);
        end.expect("answered");
        assert!(took < takes + 40 * MILLI, "{takes:?}: {took:?}");
    }
}

/// A reply of a hundred packets that come one after the other, for a tenth of a second: it is not asked for again meanwhile. Where they cease to
/// come it is.
#[test]
fn a_long_reply_that_is_arriving_is_not_asked_for_again() {
    for (stops, copies) in [(false, 1), (true, 2)] {
        let mut count = 0;
        let mut bench = Bench::new(ClientConfig::default(), move |socket, seen| {
            let (socket, seen, is_first) = (socket.clone(), seen.clone(), count == 0);
            count += 1;
            spawn(async move {
                let echo = RequestBlock::parse(&seen.payload).unwrap().0.echo();
                let body = [&ResponseBlock { echo, ..leads() }.emit()[..], &vec![7; 140_000]].concat();
                let message = response(seen.header.rid, true);
                let packets = Segmenter::default().reply(body.len()).unwrap().packets_from(message, 0);
                for (number, (header, range)) in packets.enumerate() {
                    if stops && is_first && number == 50 {
                        return;
                    }
                    send(&socket, seen.from, &[&header.emit(), &body[range]].concat());
                    sleep(MILLI).await;
                }
            })
            .detach();
        });
        let (end, _) = bench.call(READ, 50 * SECOND);
        assert_eq!(end.expect("answered").body.len(), 140_000);
        assert_eq!(bench.seen(METHOD), copies);
    }
}

/// A full server hears less and less of a call that it has refused.
#[test]
fn a_busy_server_is_asked_ever_more_rarely() {
    for policy in [READ, WRITE] {
        let mut bench = Bench::new(ClientConfig::default(), |socket, seen| {
            say(socket, seen, ResponseBlock { status: Status::NotApplied, reason: Refusal::Busy, ..leads() });
        });
        let (end, _) = bench.call(policy, 2 * SECOND);
        assert_eq!(end, Err(CallError::NotApplied(NotApplied::Refused(Refusal::Busy))));
        assert!((8..=17).contains(&bench.seen(METHOD)), "{policy:?}: {} copies", bench.seen(METHOD));
    }
}

/// A handler that waits for something holds its answer back for long: that is no reason to look for another leader all the time.
#[test]
fn a_long_poll_is_no_reason_to_ask_who_leads_all_the_time() {
    let mut bench = Bench::slow(3 * SECOND, |_| false);
    let server = Some(bench.server);
    let (end, took) = bench.call_at(Policy::FixedRoute, server, 50 * SECOND);
    end.expect("answered");
    assert!(took >= 3 * SECOND && took < 3 * SECOND + MILLI, "{took:?}");
    assert_eq!(bench.seen(METHOD), 1, "it is never sent twice");
    assert!((1..=30).contains(&bench.seen(PROBE_METHOD)), "{} probes", bench.seen(PROBE_METHOD));
    let others = bench.log.borrow().len() - 1 - bench.seen(PROBE_METHOD);
    assert!(others <= 2, "{others} questions about the members");
}

/// A request id comes round again after 65,536 calls, and the answer to a call that was given up long before may still come: an entry that
/// commits at last, or a node that was stopped. The caller of today must not take it for the answer to his own call.
#[test]
fn an_answer_of_long_ago_is_not_another_calls() {
    for (policy, late) in [
        (WRITE, leads()),
        (READ, leads()),
        (WRITE, ResponseBlock { status: Status::NotApplied, reason: Refusal::UnknownMethod, ..leads() }),
    ] {
        let held: Rc<RefCell<Option<Seen>>> = Rc::default();
        let (keep, met) = (held.clone(), Rc::new(Cell::new(0)));
        let meets = met.clone();
        let config = ClientConfig { first_rid: Rid(7), ..ClientConfig::default() };
        let mut bench = Bench::new(config, move |socket, seen| {
            let first = keep.borrow_mut().get_or_insert_with(|| seen.clone()).clone();
            if seen.header.rid != first.header.rid {
                return say(socket, seen, leads());
            }
            if seen.payload == first.payload {
                // The first call: nobody answers it in time.
                return;
            }
            meets.set(meets.get() + 1);
            let (request, _) = RequestBlock::parse(&first.payload).unwrap();
            let block = ResponseBlock { index: 1, echo: request.echo(), ..late };
            answer(socket, &first, true, &[&block.emit()[..], b"long ago"].concat());
            say(socket, seen, leads());
        });
        let (end, _) = bench.call(policy, 5 * MILLI);
        assert!(end.is_err(), "{end:?}");
        let client = bench.client.clone();
        let replies = bench.lab.finish(&bench.user, async move {
            // Until the first id may be used again.
            sleep(3 * SECOND).await;
            for number in 0..65_600_u32 {
                let body = number.to_le_bytes();
                let call = MethodCall { method: METHOD, policy, shard: 0, body: &body, server: None };
                let reply = client.call(call, SECOND).await.expect("applied");
                assert_eq!((&reply.body[..], reply.block.index), (&body[..], 77));
            }
            now()
        });
        assert!(replies > Instant::ZERO);
        assert_eq!(met.get(), 1, "{policy:?}: the two have met");
        assert_eq!(bench.client.counters().total(), 1, "{policy:?}");
    }
}
