//! Typed calls: to a cluster in the simulator by a client of the core, and to a node on this machine's loopback by a client
//! on a thread of its own, from any thread and any executor.

mod cluster_support;

use cluster_support::{SECOND, ask, cluster, config};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trimaran_net::{Net, NetConfig, NetDriver, UdpConfig, UdpPort};
use trimaran_raft::{ClusterId, Incarnation, LogIndex, Slot};
use trimaran_rpc::admin;
use trimaran_rpc::client::{
    BadServer, Call, CallError, Caller, Client, ClientConfig, ConnectError, Consistency, Local, NotApplied, Read,
    Remote, Replicated, Request,
};
use trimaran_rpc::codec;
use trimaran_rpc::node::{Node, NodeConfig};
use trimaran_rpc::r2p2::Refusal;
use trimaran_rpc::service::{Answer, Cx, LocalCx, Mark, ReadCx, Service};
use trimaran_rpc::state::{Reader, State, StateError, Writer};
use trimaran_runtime::CoreConfig;

const PUT: u32 = 11;
const GET: u32 = 12;
const WHO: u32 = 13;
const LIES: u32 = 14;

/// One register of bytes; nobody may write `bad`.
#[derive(Default)]
struct Register {
    value: Vec<u8>,
    writes: u64,
}

#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Refused {
    Bad(String),
}

impl State for Register {
    async fn save(&self, to: &mut Writer) {
        to.item(&self.value).await;
        to.item(&self.writes).await;
    }

    async fn load(_: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Register { value: from.item().await?, writes: from.item().await? })
    }
}

impl Service for Register {
    const NAME: &'static str = "register";

    fn mark(method: u32) -> Option<Mark> {
        match method {
            PUT => Some(Mark::Replicated),
            GET | LIES => Some(Mark::Read),
            WHO => Some(Mark::Local),
            _ => None,
        }
    }

    async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        let Ok(value) = codec::decode::<Vec<u8>>(request) else { return Answer::Refused(Refusal::BadArguments) };
        if value == b"bad" {
            codec::encode_to(&Refused::Bad("so it is".into()), reply).expect("a form");
            return Answer::App;
        }
        self.value = value;
        self.writes += 1;
        codec::encode_to(&self.writes, reply).expect("a form");
        Answer::Ok
    }

    fn query(&self, cx: &ReadCx, _: &[u8], reply: &mut Vec<u8>) -> Answer {
        if cx.method() == LIES {
            reply.push(0xff);
            return Answer::Ok;
        }
        codec::encode_to(&(&self.value, self.writes), reply).expect("a form");
        Answer::Ok
    }

    async fn local(cx: LocalCx<Self>, _: Vec<u8>) -> (Answer, Vec<u8>) {
        let _ = cx;
        (Answer::Ok, codec::encode("me").expect("a form"))
    }
}

/// What the macro generates.
struct RegisterClient<C>(C);

impl<C: Caller> RegisterClient<C> {
    fn put(&self, value: &[u8]) -> Call<C, Replicated, u64, Refused> {
        Request::encode(PUT, &value, None).on(self.0.clone())
    }

    fn get(&self) -> Call<C, Read, (Vec<u8>, u64), Infallible> {
        Request::encode_plain(GET, &(), None).on(self.0.clone())
    }

    fn who(&self) -> Call<C, Local, String, Infallible> {
        Call::new(self.0.clone(), Request::plain(WHO, Vec::new(), None))
    }

    fn lies(&self) -> Call<C, Read, String, Infallible> {
        Call::new(self.0.clone(), Request::plain(LIES, Vec::new(), None))
    }

    fn missing(&self) -> Call<C, Replicated, u64, Refused> {
        Call::new(self.0.clone(), Request::new(99, Vec::new(), None))
    }
}

fn big() -> Vec<u8> {
    (0..370_000u32).map(|at| (at * 31 % 251) as u8).collect()
}

/// Every kind of call with its options and errors, whoever makes it.
async fn the_whole_range<C: Caller>(caller: C, nodes: &[SocketAddrV4]) {
    let register = RegisterClient(caller.clone());
    assert_eq!(register.put(b"one").await, Ok(1));
    assert_eq!(register.put(b"bad").deadline(SECOND).await, Err(CallError::App(Refused::Bad("so it is".into()))));
    assert_eq!(register.get().await, Ok((b"one".to_vec(), 1)));
    assert!(register.get().consistency(Consistency::Any).await.is_ok());
    // What nobody has yet is refused.
    let refused = |why| Err(CallError::NotApplied(NotApplied::Refused(why)));
    for far in [LogIndex(1 << 40), LogIndex(u64::MAX)] {
        let future = register.get().consistency(Consistency::AtLeast(far)).deadline(SECOND / 10);
        assert_eq!(future.await, refused(Refusal::NotYet));
    }
    assert_eq!(register.get().consistency(Consistency::Lease).await, refused(Refusal::LeasesOff));
    assert_eq!(register.who().await, Ok("me".to_owned()));
    let own = register.put(b"one").with_index().await.expect("applied");
    assert_eq!(own.value, 2);
    for (slot, node) in (1..).zip(nodes) {
        assert_eq!(register.who().replica(*node).await, Ok("me".to_owned()));
        assert_eq!(register.who().replica(slot).await, Ok("me".to_owned()));
        for how in [Consistency::Linearizable, Consistency::AtLeast(own.index), Consistency::Stale { max: SECOND }] {
            let read = register.get().consistency(how).replica(slot).with_index().await.expect("a value");
            assert!(read.index >= own.index, "{how} at {slot}");
            assert_eq!(read.value, (b"one".to_vec(), 2));
        }
    }
    let nobody = register.get().replica(9).await;
    assert_eq!(nobody, Err(CallError::NotApplied(NotApplied::NoReplica(9))));
    assert_eq!(register.lies().await, Err(CallError::BadReply));
    let unknown = Err(CallError::NotApplied(NotApplied::Refused(Refusal::UnknownMethod)));
    assert_eq!(register.missing().await, unknown);
    let bad: Call<_, Replicated, u64, Refused> = Call::new(caller.clone(), Request::new(PUT, vec![9], None));
    assert_eq!(bad.await, Err(CallError::NotApplied(NotApplied::Refused(Refusal::BadArguments))));
    let too_large = register.put(&vec![0; 400_000]).await;
    assert!(matches!(too_large, Err(CallError::NotApplied(NotApplied::TooLarge(_)))), "{too_large:?}");
    assert_eq!(register.put(&big()).deadline(SECOND * 5).await, Ok(3));
    assert_eq!(register.get().deadline(SECOND * 5).await, Ok((big(), 3)));
    // No time at all: nothing is sent, which is certain.
    let late = register.put(b"late").deadline(Duration::ZERO).await;
    assert!(matches!(late, Err(CallError::NotApplied(_))), "{late:?}");
}

#[test]
fn calls_of_every_kind_from_a_core() {
    let mut cluster = cluster(1, config(), Register::default);
    let nodes = cluster.addresses();
    ask(&mut cluster, move |client| async move { the_whole_range(client, &nodes).await });
}

/// A read at a write's index is answered by any replica that has come so far, and by none before.
#[test]
fn a_read_at_least_as_new_as_a_write_sees_it() {
    let mut cluster = cluster(2, config(), Register::default);
    ask(&mut cluster, |client: Client| async move {
        let register = RegisterClient(client.clone());
        for number in 1..=50u64 {
            let request = Request::<Replicated, u64, Refused>::encode(PUT, &number.to_le_bytes().to_vec(), None);
            let written = request.on(client.clone()).with_index().await.expect("applied");
            let at_least = Consistency::AtLeast(written.index);
            let (_, writes) = register.get().consistency(at_least).await.expect("read");
            assert!(writes >= number, "{writes} of {number}");
        }
    });
}

thread_local! {
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

/// A free port of the loopback address that only this test uses.
fn free(last: u8) -> SocketAddrV4 {
    let ip = Ipv4Addr::new(127, 0, 78, last);
    match UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("a free port") {
        std::net::SocketAddr::V4(address) => address,
        other => panic!("{other}"),
    }
}

/// A cluster of one node on a thread of its own, until the process ends.
fn node(last: u8) -> SocketAddrV4 {
    let (client, peer) = (free(last), free(last));
    let config = NodeConfig {
        cluster_name: "one".into(),
        slot: Slot(1),
        place: trimaran_rpc::shards::ShardPlace::ALONE,
        incarnation: Incarnation(u64::from(last)),
        client,
        peer,
        contacts: vec![peer],
        timing: trimaran_raft::Timing::SHARED,
        log_limits: trimaran_raft::Limits::default(),
        request_limits: Default::default(),
        reply_bytes: 32 << 20,
        queued_reads: 4096,
        reads: Default::default(),
        rcvbuf_bytes: 4 << 20,
        router: None,
        seed: 1,
        sabotage: Default::default(),
    };
    let driver = || {
        let (driver, net) = NetDriver::new(UdpPort::new(UdpConfig::default()).expect("a port"), NetConfig::default());
        NET.set(Some(net));
        driver
    };
    let main = move || async move {
        let net = NET.take().expect("the driver was made first");
        let _node = Node::start(&net, config, Register::default()).expect("a node");
        let asking = Client::new(
            &net,
            SocketAddrV4::new(Ipv4Addr::new(127, 0, 78, last), 0),
            vec![client],
            ClientConfig::default(),
        );
        let id = ClusterId(u128::from(last) + 1);
        admin::init(&asking.expect("a client"), "one", &[client], id, SECOND).await.expect("a cluster");
        std::future::pending::<()>().await;
    };
    let core = CoreConfig { name: "node".into(), ..CoreConfig::default() };
    trimaran_runtime::start(core, driver, main).expect("a thread");
    client
}

/// Other executors move tasks from thread to thread.
fn may_move<T: Send>(_: &T) {}

/// The smallest executor there is: not ours.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn calls_of_every_kind_from_any_executor() {
    let address = node(1);
    // This machine may be busy with something else for a while.
    let config = ClientConfig { deadline: SECOND * 20, ..ClientConfig::default() };
    let remote = Remote::start(vec![address], config).expect("a client");
    run(the_whole_range(remote, &[address]));
}

/// Threads without an executor share one client; what each counts up adds up.
#[test]
fn threads_call_through_one_client() {
    let address = node(2);
    let remote = Remote::connect(&format!(" {address} ")).expect("a client");
    // The node forms its cluster meanwhile.
    let first = RegisterClient(remote.clone()).put(b"first").deadline(SECOND * 20).wait();
    assert_eq!(first, Ok(1));
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let register = RegisterClient(remote.clone());
            let sum = &sum;
            scope.spawn(move || {
                for _ in 0..100 {
                    sum.fetch_add(register.put(b"x").deadline(SECOND * 20).wait().expect("applied"), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), (2..=401).sum::<u64>());
    // A call that is dropped on its way disturbs nobody.
    let register = RegisterClient(remote);
    run(async {
        let call = register.put(b"dropped").into_future();
        may_move(&call);
        drop(call);
    });
    assert!(register.get().deadline(SECOND * 20).wait().is_ok());
}

#[test]
fn a_text_that_names_no_servers_is_explained() {
    let wrong = Remote::connect("127.0.0.1:8000,127.0.0.2").expect_err("no port");
    assert!(matches!(wrong, ConnectError::BadServer { number: 2, why: BadServer::NoPort, .. }), "{wrong}");
    assert!(matches!(Remote::connect(""), Err(ConnectError::NoServers)));
}
