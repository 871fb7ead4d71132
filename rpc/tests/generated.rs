//! What `#[service]`, `#[derive(State)]` and `#[data]` write, run: every kind of method and argument, called by its key.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use trimaran_rpc::alone::Alone;
use trimaran_rpc::client::{CallError, Client, Consistency};
use trimaran_rpc::codec::{decode, encode};
use trimaran_rpc::prelude::*;
use trimaran_rpc::r2p2::Refusal;
use trimaran_rpc::schema;
use trimaran_rpc::service::{Answer, Mark, Method, RawHandler, method_key};
use trimaran_rpc::sim::cluster::{Cluster, ClusterConfig};
use trimaran_rpc::sim::{AnyRequest, Faults, Net, Sim, SimRng, ops};
use trimaran_rpc::state::{Reader, StateError, Turns, Writer};

/// Why a store says no.
#[data]
#[derive(Debug, Clone, PartialEq)]
pub enum StoreError {
    /// Nothing is stored there.
    NoSuchKey(String),
    /// No room.
    Full {
        /// Keys that there may be.
        limit: u32,
    },
}

#[data]
#[derive(Debug, Clone, PartialEq, Default)]
struct Entry {
    value: Vec<u8>,
    #[serde(default)]
    note: Option<String>,
}

/// A type that only this module knows.
#[data]
struct Secret {
    number: u64,
}

#[derive(Debug, Default, PartialEq, State)]
struct Store {
    map: BTreeMap<String, Entry>,
    seen: BTreeSet<u64>,
    order: VecDeque<String>,
    blob: Vec<u8>,
    expired: u32,
    pair: (u8, String),
}

const LIMIT: u32 = 3;

thread_local! {
    /// What the leader has mailed.
    static MAILED: RefCell<Vec<(String, u8)>> = const { RefCell::new(Vec::new()) };
}

#[service]
impl Store {
    /// Stores `value`
    /// and returns how many keys there are.
    ///
    /// Details that a list of methods leaves out.
    #[replicated]
    pub(crate) async fn put(
        &mut self,
        cx: &mut Cx,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<u64, StoreError> {
        if self.map.len() as u32 == LIMIT {
            return Err(StoreError::Full { limit: LIMIT });
        }
        if let Some(ttl) = ttl {
            cx.set_timer(cx.now() + ttl, StoreTimers::expire(key)).expect("room for a timer");
        }
        self.insert(key, value);
        self.order.push_back(key.to_owned());
        cx.yield_now().await;
        Ok(self.map.len() as u64)
    }

    /// Arguments named like what generated code might name its own variables.
    #[replicated]
    async fn hygiene(&mut self, _cx: &mut Cx, request: &str, reply: u8, cx: &[u64], method: (u8, u8)) -> String {
        format!("{request} {reply} {cx:?} {method:?}")
    }

    #[replicated]
    async fn clear(&mut self, cx: &mut Cx) {
        self.map.clear();
        cx.after_commit(StoreEffects::mail("ada".to_owned(), 7)).expect("room for an effect");
    }

    #[replicated(rev = 2)]
    async fn whole(&mut self, _: &mut Cx, entry: &Entry, mut own: Entry, many: &[Entry], text: String) -> Entry {
        own.note = Some(format!("{text} {} {:?}", many.len(), entry.note));
        own
    }

    #[read]
    async fn get(&self, _cx: &ReadCx, key: &str) -> Result<Entry, StoreError> {
        self.map.get(key).cloned().ok_or_else(|| StoreError::NoSuchKey(key.to_owned()))
    }

    #[read]
    async fn r#match(&self, _cx: &ReadCx, r#type: u8) -> u8 {
        r#type + 1
    }

    #[read]
    async fn secret(&self, _cx: &ReadCx, secret: Secret) -> u64 {
        secret.number
    }

    #[local]
    async fn size(cx: &LocalCx<Self>, at_least: u64) -> Result<u64, String> {
        let size = cx.with_state(|store| store.map.len() as u64).await.map_err(|error| error.to_string())?;
        Ok(size.max(at_least))
    }

    #[timer]
    async fn expire(&mut self, _cx: &mut Cx, key: &str) {
        self.map.remove(key);
        self.expired += 1;
    }

    #[effect]
    async fn mail(cx: &LocalCx<Self>, to: String, number: u8) {
        assert!(cx.is_leader(), "effects are the leader's");
        MAILED.with_borrow_mut(|mailed| mailed.push((to, number)));
    }

    fn insert(&mut self, key: &str, value: &[u8]) {
        self.map.insert(key.to_owned(), Entry { value: value.to_vec(), note: None });
    }
}

fn method(name: &str) -> &'static Method {
    Store::methods().iter().find(|method| method.name == name).expect(name)
}

/// Calls a method the way a command line does: JSON in, JSON out.
fn json(store: &mut Alone<Store>, name: &str, arguments: &str) -> (Answer, String) {
    let method = method(name);
    let request = (method.encode_json)(arguments).expect(name);
    let (answer, reply) = store.call(method.key, &request).expect(name);
    (answer, (method.decode_json)(answer, &reply).unwrap_or_else(|error| error))
}

#[test]
fn a_write_and_a_read_by_bytes() {
    let mut store = Alone::new(Store::default());
    let put = method_key("store.put/1");
    let (answer, reply) = store.write(put, &encode(&("a", &[1u8, 2][..], None::<Duration>)).unwrap());
    assert_eq!((answer, decode::<u64>(&reply)), (Answer::Ok, Ok(1)));
    let (answer, reply) = store.read(method_key("store.get/1"), &encode(&("a",)).unwrap());
    assert_eq!((answer, decode(&reply)), (Answer::Ok, Ok(Entry { value: vec![1, 2], note: None })));
    let (answer, reply) = store.read(method_key("store.get/1"), &encode(&("b",)).unwrap());
    assert_eq!((answer, decode(&reply)), (Answer::App, Ok(StoreError::NoSuchKey("b".to_owned()))));
}

#[test]
fn methods_by_json() {
    let mut store = Alone::new(Store::default());
    let ok = |text: &str| (Answer::Ok, text.to_owned());
    assert_eq!(json(&mut store, "put", r#"{"key":"a","value":"text"}"#), ok("1"));
    let ttl = r#"{"value":[7],"ttl":{"secs":1,"nanos":0},"key":"b"}"#;
    assert_eq!(json(&mut store, "put", ttl), ok("2"));
    assert_eq!(json(&mut store, "get", r#"{"key":"b"}"#), ok(r#"{"value":[7],"note":null}"#));
    assert_eq!(json(&mut store, "get", r#"{"key":"z"}"#), (Answer::App, r#"{"NoSuchKey":"z"}"#.to_owned()));
    let names = r#"{"request":"r","reply":1,"cx":[5,6],"method":[8,9]}"#;
    assert_eq!(json(&mut store, "hygiene", names), ok(r#""r 1 [5, 6] (8, 9)""#));
    let whole = r#"{"entry":{"value":[],"note":"n"},"own":{"value":[1]},"many":[{"value":[]}],"text":"t"}"#;
    assert_eq!(json(&mut store, "whole", whole), ok(r#"{"value":[1],"note":"t 1 Some(\"n\")"}"#));
    assert_eq!(json(&mut store, "match", r#"{"type":4}"#), ok("5"));
    assert_eq!(json(&mut store, "secret", r#"{"secret":{"number":12}}"#), ok("12"));
    assert_eq!(json(&mut store, "clear", ""), ok("null"));
}

#[test]
fn json_that_is_not_the_arguments_is_explained() {
    let encode = |name: &str, text: &str| (method(name).encode_json)(text).unwrap_err();
    assert!(encode("put", "[1]").contains("not a JSON object"));
    assert_eq!(encode("put", r#"{"value":""}"#), "argument `key` is missing");
    assert!(encode("put", r#"{"key":1,"value":""}"#).starts_with("argument `key`: invalid type"));
    assert_eq!(
        encode("put", r#"{"kye":"a","value":""}"#),
        "there is no argument `kye`: the method takes `key`, `value`, `ttl`"
    );
    assert_eq!(encode("clear", r#"{"a":1}"#), "there is no argument `a`: the method takes none");
    let refused = Answer::Refused(Refusal::BadArguments);
    assert_eq!((method("put").decode_json)(refused, &[]), Err("refused: BadArguments".to_owned()));
}

#[test]
fn what_is_no_call_changes_nothing() {
    let mut store = Alone::new(Store::default());
    let untouched = store.bytes();
    let put = method_key("store.put/1");
    let mut request = encode(&("a", &[1u8][..], None::<Duration>)).unwrap();
    request.push(0);
    assert_eq!(store.write(put, &request).0, Answer::Refused(Refusal::BadArguments), "a byte too many");
    assert_eq!(store.write(put, &request[..3]).0, Answer::Refused(Refusal::BadArguments), "cut off");
    assert_eq!(store.write(0x1234_5678, &[]).0, Answer::Refused(Refusal::UnknownMethod));
    assert_eq!(store.read(put, &[]).0, Answer::Refused(Refusal::UnknownMethod), "a write is no read");
    let get = method_key("store.get/1");
    assert_eq!(store.write(get, &encode(&("a",)).unwrap()).0, Answer::Refused(Refusal::UnknownMethod));
    assert_eq!(store.bytes(), untouched);
}

#[test]
fn timers_fire_and_effects_wait_for_the_leader() {
    let mut store = Alone::new(Store::default());
    let ttl = r#"{"key":"a","value":"","ttl":{"secs":2,"nanos":0}}"#;
    assert_eq!(json(&mut store, "put", ttl), (Answer::Ok, "1".to_owned()));
    store.advance(Duration::from_millis(1999));
    assert_eq!(store.service().expired, 0);
    store.advance(Duration::from_millis(1));
    assert_eq!((store.service().expired, store.service().map.len()), (1, 0));
    json(&mut store, "clear", "");
    assert_eq!(store.effects(), [StoreEffects::mail("ada".to_owned(), 7)]);
    assert_eq!(store.effects()[0].method, method_key("store.mail/1"));
}

/// Keys are on the wire and in logs. A failure here is a change of everyone's protocol.
#[test]
fn marks_and_keys_are_stable() {
    let methods: Vec<(&str, Mark, u32)> =
        Store::methods().iter().map(|method| (method.name, method.mark, method.key)).collect();
    let key = |name: &str, rev: u16| method_key(&format!("store.{name}/{rev}"));
    let expected = [
        ("put", Mark::Replicated, key("put", 1)),
        ("hygiene", Mark::Replicated, key("hygiene", 1)),
        ("clear", Mark::Replicated, key("clear", 1)),
        ("whole", Mark::Replicated, key("whole", 2)),
        ("get", Mark::Read, key("get", 1)),
        ("match", Mark::Read, key("match", 1)),
        ("secret", Mark::Read, key("secret", 1)),
        ("size", Mark::Local, key("size", 1)),
        ("expire", Mark::Timer, key("expire", 1)),
        ("mail", Mark::Effect, key("mail", 1)),
    ];
    assert_eq!(methods, expected);
    for (_, mark, key) in expected {
        assert_eq!(Store::mark(key), Some(mark));
    }
    assert_eq!(Store::mark(0), None, "no handler of bytes");
    assert_eq!(Store::mark(key("put", 2)), None);
    assert_eq!(method_key("store.put/1"), 0x627a_5192);
    let put = method("put");
    assert_eq!(put.doc, "Stores `value` and returns how many keys there are.");
    let arguments: Vec<(&str, &str)> = put.arguments.iter().map(|argument| (argument.name, argument.kind)).collect();
    assert_eq!(arguments, [("key", "&str"), ("value", "&[u8]"), ("ttl", "Option<Duration>")]);
    assert_eq!((put.rev, put.returns), (1, "Result<u64, StoreError>"));
}

#[test]
fn the_schema_lists_the_methods_by_name() {
    let text = schema::render::<Store>();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "service store");
    assert_eq!(lines.len(), 1 + Store::methods().len());
    assert!(text.contains("  put      rev 1  replicated  (key: &str, value: &[u8], ttl: Option<Duration>) -> Result<u64, StoreError>\n"), "{text}");
}

trimaran_rpc::check_schema!(Store, "tests/vectors/store_schema.txt");

#[test]
fn a_state_comes_back_from_its_bytes() {
    let mut store = Alone::new(Store::default());
    for key in ["a", "b"] {
        json(&mut store, "put", &format!(r#"{{"key":"{key}","value":"v"}}"#));
    }
    let mut copy = Alone::<Store>::from_bytes(&store.bytes()).expect("the bytes of a store");
    assert_eq!(copy.service(), store.service());
    assert_eq!(copy.service().order, ["a", "b"]);
    copy.reload().expect("again");
    // The form is that of postcard for a tuple of the fields: a state may be read by hand.
    type Fields = (BTreeMap<String, Entry>, BTreeSet<u64>, VecDeque<String>, Vec<u8>, u32, (u8, String));
    let fields: Fields = decode(&save(store.service())).expect("a tuple of the fields");
    assert_eq!(fields.0.len(), 2);
    assert_eq!(fields.2, ["a", "b"]);
}

fn save<S: State>(state: &S) -> Vec<u8> {
    let mut to = Writer::bytes().at_once();
    trimaran_rpc::generated::in_one_go(state.save(&mut to));
    to.into_bytes().expect("a form")
}

fn load<S: State>(version: u32, bytes: &[u8]) -> Result<S, StateError> {
    let mut from = Reader::new(bytes).at_once();
    let state = trimaran_rpc::generated::in_one_go(S::load(version, &mut from))?;
    from.finish().map(|()| state)
}

#[derive(Debug, PartialEq, State)]
#[state(version = 3, load_with = load_old)]
struct Evolved(Vec<u32>, u8);

async fn load_old(version: u32, from: &mut Reader<'_>) -> Result<Evolved, StateError> {
    match version {
        2 => Ok(Evolved(vec![from.item().await?], 9)),
        other => Err(StateError::Invalid(format!("version {other} is too old"))),
    }
}

#[derive(Debug, PartialEq, State)]
struct Nothing;

#[data]
#[derive(Debug, PartialEq, State)]
enum Phase {
    Closed,
    Open { since: u64 },
}

#[data]
#[derive(Debug, PartialEq)]
struct Wrapped<T> {
    inner: T,
}

#[derive(Debug, PartialEq, State)]
struct Generic<T> {
    items: BTreeMap<u8, T>,
}

#[test]
fn every_shape_of_state_comes_back() {
    let evolved = Evolved(vec![1, 2], 3);
    assert_eq!(Evolved::VERSION, 3);
    assert_eq!(load(3, &save(&evolved)), Ok(evolved));
    assert_eq!(load(2, &encode(&7u32).unwrap()), Ok(Evolved(vec![7], 9)));
    assert!(matches!(load::<Evolved>(1, &[]), Err(StateError::Invalid(_))));
    assert_eq!(load(1, &save(&Nothing)), Ok(Nothing));
    assert_eq!(load::<Nothing>(2, &[]), Err(StateError::Version { found: 2, known: 1 }));
    for phase in [Phase::Closed, Phase::Open { since: 5 }] {
        assert_eq!(load(1, &save(&phase)), Ok(phase));
    }
    let generic = Generic { items: BTreeMap::from([(1, Wrapped { inner: "x".to_owned() })]) };
    assert_eq!(load(1, &save(&generic)), Ok(generic));
}

thread_local! {
    /// Elements dropped, and clones of them.
    static DROPPED: Cell<usize> = const { Cell::new(0) };
}

#[data]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Counted(u64);

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

/// Collections with the names and the methods of persistent ones, of which the derive knows no more.
mod persistent {
    use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map, btree_set, vec_deque};

    pub(super) struct OrdMap<K, V>(BTreeMap<K, V>);

    impl<K: Ord + Clone, V: Clone> OrdMap<K, V> {
        pub(super) fn new() -> Self {
            OrdMap(BTreeMap::new())
        }

        pub(super) fn len(&self) -> usize {
            self.0.len()
        }

        pub(super) fn iter(&self) -> btree_map::Iter<'_, K, V> {
            self.0.iter()
        }

        pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
            self.0.insert(key, value)
        }

        pub(super) fn remove(&mut self, key: &K) -> Option<V> {
            self.0.remove(key)
        }
    }

    pub(super) struct OrdSet<T>(BTreeSet<T>);

    impl<T: Ord + Clone> OrdSet<T> {
        pub(super) fn new() -> Self {
            OrdSet(BTreeSet::new())
        }

        pub(super) fn len(&self) -> usize {
            self.0.len()
        }

        pub(super) fn iter(&self) -> btree_set::Iter<'_, T> {
            self.0.iter()
        }

        pub(super) fn insert(&mut self, element: T) {
            self.0.insert(element);
        }

        pub(super) fn remove(&mut self, element: &T) -> Option<T> {
            self.0.take(element)
        }
    }

    pub(super) struct Vector<T>(VecDeque<T>);

    impl<T: Clone> Vector<T> {
        pub(super) fn new() -> Self {
            Vector(VecDeque::new())
        }

        pub(super) fn len(&self) -> usize {
            self.0.len()
        }

        pub(super) fn iter(&self) -> vec_deque::Iter<'_, T> {
            self.0.iter()
        }

        pub(super) fn push_back(&mut self, element: T) {
            self.0.push_back(element);
        }

        pub(super) fn pop_back(&mut self) -> Option<T> {
            self.0.pop_back()
        }
    }
}

#[derive(State)]
struct Shelves {
    list: Vec<Counted>,
    queue: VecDeque<Counted>,
    set: BTreeSet<Counted>,
    map: BTreeMap<u64, Counted>,
    ord_map: persistent::OrdMap<u64, Counted>,
    ord_set: persistent::OrdSet<Counted>,
    vector: persistent::Vector<Counted>,
    name: String,
}

/// Nothing can be moved out of it.
impl Drop for Shelves {
    fn drop(&mut self) {
        assert_eq!((self.list.len(), self.queue.len(), self.set.len(), self.map.len()), (0, 0, 0, 0));
        assert_eq!((self.ord_map.len(), self.ord_set.len(), self.vector.len()), (0, 0, 0));
        assert_eq!(self.name, "shelves");
    }
}

/// Others get a turn while each of the collections is emptied.
#[test]
fn a_state_is_given_back_a_slice_at_a_time() {
    const EACH: u64 = 10_000;
    let mut shelves = Shelves {
        list: (0..EACH).map(Counted).collect(),
        queue: (0..EACH).map(Counted).collect(),
        set: (0..EACH).map(Counted).collect(),
        map: (0..EACH).map(|number| (number, Counted(number))).collect(),
        ord_map: persistent::OrdMap::new(),
        ord_set: persistent::OrdSet::new(),
        vector: persistent::Vector::new(),
        name: "shelves".to_owned(),
    };
    for number in 0..EACH {
        shelves.ord_map.insert(number, Counted(number));
        shelves.ord_set.insert(Counted(number));
        shelves.vector.push_back(Counted(number));
    }
    DROPPED.set(0);
    let mut turns = Turns::new();
    let mut given_back = std::pin::pin!(shelves.discard(&mut turns));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let (mut most, mut is_done) = (0, false);
    while !is_done {
        let before = DROPPED.get();
        is_done = given_back.as_mut().poll(&mut cx).is_ready();
        most = most.max(DROPPED.get() - before);
    }
    // Seven collections; what is removed by its key takes a clone of that, which counts here.
    assert_eq!(DROPPED.get() as u64, EACH * 8);
    assert!((800..2000).contains(&most), "{most} in one turn");
}

#[derive(Default, State)]
struct Counter {
    count: u64,
}

#[service(raw, name = "tally")]
impl Counter {
    #[replicated]
    async fn add(&mut self, _cx: &mut Cx, by: u64) -> u64 {
        self.count += by;
        self.count
    }
}

impl RawHandler for Counter {
    fn apply(&mut self, _cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) {
        self.count += request.len() as u64;
        reply.extend_from_slice(&self.count.to_le_bytes());
    }

    fn query(&self, _cx: &ReadCx, _request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.count.to_le_bytes());
    }
}

#[test]
fn bytes_beside_typed_methods() {
    let mut counter = Alone::new(Counter::default());
    let (raw, add) = (method_key("tally.raw/1"), method_key("tally.add/1"));
    assert_eq!(Counter::NAME, "tally");
    assert_eq!([Counter::mark(0), Counter::mark(raw)], [Some(Mark::Raw); 2]);
    assert_eq!(Counter::mark(add), Some(Mark::Replicated));
    assert_eq!(counter.write(0, b"abc"), (Answer::Ok, 3u64.to_le_bytes().to_vec()));
    assert_eq!(counter.write(raw, b"d"), (Answer::Ok, 4u64.to_le_bytes().to_vec()));
    let (answer, reply) = counter.write(add, &encode(&(6u64,)).unwrap());
    assert_eq!((answer, decode::<u64>(&reply)), (Answer::Ok, Ok(10)));
    assert_eq!(counter.read(0, b""), (Answer::Ok, 10u64.to_le_bytes().to_vec()));
}

/// Every kind of call over the simulated network, and what it starts.
async fn call_everything(client: Client) {
    let store = StoreClient::on(client);
    let again = store.clone();
    assert_eq!(store.put("a", b"1", None).deadline(Duration::from_secs(2)).await, Ok(1));
    assert_eq!(again.put("b", b"2", Some(Duration::from_millis(500))).await, Ok(2));
    assert_eq!(store.get("b").await.map(|entry| entry.value), Ok(b"2".to_vec()));
    assert_eq!(store.get("z").await, Err(CallError::App(StoreError::NoSuchKey("z".to_owned()))));
    assert!(store.get("a").consistency(Consistency::Any).await.is_ok());
    assert_eq!(store.put("c", &[], None).await, Ok(3));
    assert_eq!(store.put("d", &[], None).await, Err(CallError::App(StoreError::Full { limit: LIMIT })));
    assert_eq!(store.size(7).await, Ok(7));
    assert_eq!(store.hygiene("r", 1, &[2], (3, 4)).await, Ok("r 1 [2] (3, 4)".to_owned()));
    let entry = Entry { value: vec![5], note: None };
    let whole = store.whole(&entry, entry.clone(), &[], "t".to_owned()).await.expect("an entry");
    assert_eq!((whole.value, whole.note.as_deref()), (vec![5], Some("t 0 None")));
    assert_eq!(store.r#match(1).await, Ok(2));
    trimaran_runtime::sleep(Duration::from_secs(1)).await;
    assert!(matches!(store.get("b").await, Err(CallError::App(_))), "its time is over");
    assert_eq!(store.clear().await, Ok(()));
    trimaran_runtime::sleep(Duration::from_secs(1)).await;
}

#[test]
fn the_client_calls_a_cluster() {
    let mut cluster = Cluster::new(7, ClusterConfig::default(), Store::default);
    assert!(cluster.run_until(Duration::from_secs(2), |cluster| cluster.leader().is_some()), "nobody was elected");
    let done = Rc::new(RefCell::new(false));
    let tell = done.clone();
    let servers = cluster.addresses();
    cluster.client(servers, move |client| async move {
        call_everything(client).await;
        *tell.borrow_mut() = true;
    });
    assert!(cluster.run_until(Duration::from_secs(30), |_| *done.borrow()), "a call did not come back as expected");
    assert_eq!(MAILED.take(), [("ada".to_owned(), 7)]);
    assert!(cluster.violation().is_none());
}

#[test]
fn calls_are_values_with_a_key_and_a_shard() {
    let put = StoreCalls::put("a", b"1", None);
    assert_eq!(put.method(), method_key("store.put/1"));
    assert_eq!(put.shard_key(), Some(trimaran_rpc::generated::shard_key(b"a")), "the first text");
    assert_eq!(StoreCalls::clear().shard_key(), None);
    let json = (method("put").encode_json)(r#"{"key":"a","value":[49],"ttl":null}"#).expect("arguments");
    assert_eq!(put.erase().body, json, "a client and a command line send the same bytes");
}

#[test]
fn a_client_of_any_thread_needs_addresses() {
    assert!(StoreClient::connect("nowhere").is_err());
}

fn put_or_get(rng: &mut SimRng) -> AnyRequest {
    let key = *rng.pick(&["a", "b", "c", "d"]);
    if rng.chance(0.5) { StoreCalls::put(key, &rng.bytes(2), None).into() } else { StoreCalls::get(key).into() }
}

/// The generated service, its calls as values, its state and the attribute, all in one simulation.
#[trimaran_rpc::test(seeds = 20)]
async fn typed_calls_are_linearizable(sim: Sim<Store>) {
    sim.nodes(3).net(Net::lossy(0.02)).faults(Faults::crash_leader().every_ms(100));
    let history = sim.clients(3).run(ops(60, put_or_get)).await;
    history.check_linearizable();
    sim.assert_replicas_agree();
}
