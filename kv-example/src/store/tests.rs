//! The store by itself: its rules one by one, then at random against a map that does the same naively.

mod model;

use super::limits::*;
use super::*;
use crate::txn::{Comparison, Guard, Op, OpResult, Test, Txn, TxnResult};
use futures::FutureExt;
use trimaran_rpc::codec;

const SECOND: Duration = Duration::from_secs(1);

/// Log time as a test sets it, with a table of timers of any size.
struct Line {
    now: LogTime,
    timers: BTreeMap<TimerId, (LogTime, Vec<u8>, Version)>,
    next: u64,
    timers_max: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line { now: LogTime::ZERO, timers: BTreeMap::new(), next: 0, timers_max: usize::MAX }
    }
}

impl Line {
    /// What the log does at a moment: the timers that are due fire, the earliest first.
    fn fire(&mut self, store: &mut Store) {
        loop {
            let due =
                self.timers.iter().filter(|(_, (at, ..))| *at <= self.now).min_by_key(|(id, (at, ..))| (*at, **id));
            let Some((&id, _)) = due else { return };
            let (_, key, version) = self.timers.remove(&id).expect("just seen");
            store.expire(self.now, &key, version);
        }
    }
}

impl Timeline for Line {
    fn now(&self) -> LogTime {
        self.now
    }

    fn set_expiry(&mut self, at: LogTime, key: &[u8], version: Version) -> Result<TimerId, TimersFull> {
        if self.timers.len() >= self.timers_max {
            return Err(TimersFull);
        }
        let id: TimerId = codec::decode(&codec::encode(&self.next).expect("a number")).expect("a number");
        self.next += 1;
        self.timers.insert(id, (at, key.to_vec(), version));
        Ok(id)
    }

    fn cancel(&mut self, timer: TimerId) {
        assert!(self.timers.remove(&timer).is_some(), "only pending timers are cancelled");
    }
}

fn saved(store: &Store) -> Vec<u8> {
    let mut writer = Writer::bytes().at_once();
    store.save(&mut writer).now_or_never().expect("at once");
    writer.into_bytes().expect("a form")
}

fn put(key: &[u8], value: &[u8]) -> Op {
    Op::Put { key: key.to_vec(), value: value.to_vec(), ttl: None }
}

fn incr(key: &[u8], by: i64) -> Op {
    Op::Incr { key: key.to_vec(), by }
}

fn get(key: &[u8]) -> Op {
    Op::Get { key: key.to_vec() }
}

fn guard(key: &[u8], test: Test) -> Guard {
    Guard { key: key.to_vec(), test }
}

fn txn(guards: Vec<Guard>, then: Vec<Op>, otherwise: Vec<Op>) -> Txn {
    Txn { guards, then, otherwise }
}

#[test]
fn every_write_that_changes_something_has_its_own_version() {
    let (mut store, mut line) = (Store::default(), Line::default());
    assert_eq!(store.put(&mut line, b"a", b"1", None), Ok(Version(1)));
    assert_eq!(store.put(&mut line, b"b", b"1", None), Ok(Version(2)));
    assert_eq!(store.put(&mut line, b"a", b"1", None), Ok(Version(3)), "also where the value stays");
    assert_eq!(store.del(&mut line, [&b"none"[..]].into_iter()), Ok(0));
    assert_eq!(store.version(), Version(3));
    assert_eq!(store.del(&mut line, [&b"a"[..], b"none", b"b", b"a"].into_iter()), Ok(2));
    assert_eq!(store.incr(&mut line, b"n", -5), Ok(-5));
    assert_eq!(store.version(), Version(5));
    assert_eq!(store.get(line.now, b"n"), Some(Found { value: b"-5".to_vec(), version: 5, ttl: None }));
    assert_eq!((store.len(), store.bytes()), (1, KEY_OVERHEAD_BYTES + 3));
}

#[test]
fn numbers_are_plain_and_sums_in_range() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"n", b"9223372036854775806", None).expect("room");
    assert_eq!(store.incr(&mut line, b"n", 1), Ok(i64::MAX));
    let before = saved(&store);
    assert_eq!(store.incr(&mut line, b"n", 1), Err(KvError::Overflow));
    assert_eq!(saved(&store), before);
    store.put(&mut line, b"n", b"-9223372036854775808", None).expect("room");
    assert_eq!(store.incr(&mut line, b"n", -1), Err(KvError::Overflow));
    for value in ["9223372036854775808", "abc", "", " 1", "1 ", "+1", "01", "-0", "1.0", "-", "99999999999999999999"] {
        store.put(&mut line, b"n", value.as_bytes(), None).expect("room");
        assert_eq!(store.incr(&mut line, b"n", 1), Err(KvError::NotANumber), "{value:?}");
        assert_eq!(store.value(line.now, b"n"), Some(value.as_bytes()));
    }
}

#[test]
fn cas_writes_where_the_key_is_as_expected() {
    let (mut store, mut line) = (Store::default(), Line::default());
    let mut cas = |expected: Expected, value: &[u8]| store.cas(&mut line, b"k", &expected, value, None);
    assert_eq!(cas(Expected::Version(0), b"a"), Err(KvError::Conflict { version: None }));
    assert_eq!(cas(Expected::Value(b"".to_vec()), b"a"), Err(KvError::Conflict { version: None }));
    assert_eq!(cas(Expected::Absent, b"a"), Ok(Version(1)));
    assert_eq!(cas(Expected::Absent, b"b"), Err(KvError::Conflict { version: Some(1) }));
    assert_eq!(cas(Expected::Version(2), b"b"), Err(KvError::Conflict { version: Some(1) }));
    assert_eq!(cas(Expected::Version(1), b"b"), Ok(Version(2)));
    assert_eq!(cas(Expected::Value(b"a".to_vec()), b"c"), Err(KvError::Conflict { version: Some(2) }));
    assert_eq!(cas(Expected::Value(b"b".to_vec()), b"c"), Ok(Version(3)));
    assert_eq!(store.value(line.now, b"k"), Some(&b"c"[..]));
}

#[test]
fn what_is_out_of_range_is_refused_and_changes_nothing() {
    let (mut store, mut line) = (Store::default(), Line::default());
    let (long, large) = (vec![b'k'; KEY_BYTES_MAX + 1], vec![0; VALUE_BYTES_MAX + 1]);
    for key in [&b""[..], &long] {
        assert_eq!(store.put(&mut line, key, b"", None), Err(KvError::BadKey));
        assert_eq!(store.cas(&mut line, key, &Expected::Absent, b"", None), Err(KvError::BadKey));
        assert_eq!(store.incr(&mut line, key, 1), Err(KvError::BadKey));
        assert_eq!(store.del(&mut line, [&b"k"[..], key].into_iter()), Err(KvError::BadKey));
    }
    assert_eq!(store.put(&mut line, b"k", &large, None), Err(KvError::ValueTooLarge));
    assert_eq!(store.put(&mut line, b"k", b"", Some(Duration::ZERO)), Err(KvError::BadTtl));
    assert_eq!((store.len(), store.version(), line.timers.len()), (0, Version(0), 0));
    assert_eq!(store.put(&mut line, &long[1..], &large[1..], Some(Duration::MAX)), Ok(Version(1)));
}

#[test]
fn a_full_store_refuses_and_stays_as_it_was() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.bytes = STATE_BYTES_MAX - KEY_OVERHEAD_BYTES - 2;
    assert_eq!(store.put(&mut line, b"k", b"12", Some(SECOND)), Err(KvError::Full));
    assert_eq!(store.incr(&mut line, b"k", 10), Err(KvError::Full));
    assert_eq!(store.txn(&mut line, &txn(vec![], vec![put(b"k", b"12")], vec![])), Err(KvError::Full));
    assert_eq!((store.version(), store.len(), line.timers.len()), (Version(0), 0, 0));
    assert_eq!(store.put(&mut line, b"k", b"1", None), Ok(Version(1)));
    assert_eq!(store.put(&mut line, b"k", b"12", None), Err(KvError::Full));
    let swap = txn(vec![], vec![Op::Del { key: b"k".to_vec() }, put(b"l", b"2")], vec![]);
    assert!(store.txn(&mut line, &swap).is_ok(), "what leaves makes room in the same transaction");
    assert_eq!(store.bytes, STATE_BYTES_MAX);
}

#[test]
fn a_key_is_absent_from_its_end_on_whether_or_not_its_timer_fired() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"k", b"v", Some(SECOND)).expect("room");
    let end = line.now + SECOND;
    assert_eq!(
        store.get(end - Duration::from_nanos(1), b"k").and_then(|found| found.ttl),
        Some(Duration::from_nanos(1))
    );
    line.now = end;
    assert_eq!((store.get(end, b"k"), store.value(end, b"k"), store.len()), (None, None, 1));
    assert_eq!(store.scan(end, b"", None, 10), Ok(Page::default()));
    let exists = txn(vec![guard(b"k", Test::Exists)], vec![], vec![get(b"k")]);
    let expected = TxnResult { held: false, results: vec![OpResult::Got(None)] };
    assert_eq!(store.txn(&mut line, &exists), Ok(expected));
    assert_eq!(store.del(&mut line, [&b"k"[..]].into_iter()), Ok(0));
    assert_eq!((store.version(), store.bytes(), line.timers.len()), (Version(1), 0, 0));
    store.put(&mut line, b"k", b"7", Some(SECOND)).expect("room");
    line.now = line.now + SECOND;
    assert_eq!(store.cas(&mut line, b"k", &Expected::Absent, b"7", Some(SECOND)), Ok(Version(3)));
    line.now = line.now + SECOND;
    assert_eq!(store.incr(&mut line, b"k", 1), Ok(1), "from nothing, and for ever");
    line.now = line.now + SECOND * 9;
    line.fire(&mut store);
    assert_eq!(store.value(line.now, b"k"), Some(&b"1"[..]));
}

#[test]
fn timers_follow_their_keys() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"k", b"1", Some(SECOND)).expect("room");
    store.incr(&mut line, b"k", 1).expect("a number");
    assert_eq!(store.get(line.now, b"k").map(|found| (found.version, found.ttl)), Some((2, Some(SECOND))));
    store.put(&mut line, b"k", b"v", Some(SECOND * 5)).expect("room");
    assert_eq!(line.timers.len(), 1, "the first was taken back");
    line.now = line.now + SECOND;
    line.fire(&mut store);
    assert!(store.value(line.now, b"k").is_some());
    store.put(&mut line, b"k", b"v", None).expect("room");
    assert!(line.timers.is_empty());
    store.put(&mut line, b"k", b"3", Some(SECOND)).expect("room");
    store.incr(&mut line, b"k", 1).expect("a number");
    line.now = line.now + SECOND;
    line.fire(&mut store);
    assert_eq!((store.len(), store.bytes()), (0, 0), "the timer of a number that was counted on finds its key");
    store.put(&mut line, b"k", b"v", Some(SECOND)).expect("room");
    store.del(&mut line, [&b"k"[..]].into_iter()).expect("a key");
    assert!(line.timers.is_empty());
}

/// A timer that fires for another life of its key must not end this one.
#[test]
fn a_timer_removes_only_what_it_was_set_for() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"k", b"v", Some(SECOND)).expect("room");
    store.put(&mut line, b"k", b"w", Some(SECOND)).expect("room");
    store.expire(LogTime::FAR, b"k", Version(1));
    assert_eq!(store.len(), 1);
    store.expire(LogTime::ZERO, b"k", Version(2));
    assert_eq!(store.len(), 1, "not before its time");
    store.expire(LogTime::FAR, b"k", Version(2));
    assert_eq!((store.len(), store.version()), (0, Version(2)));
}

#[test]
fn a_refused_timer_refuses_the_write() {
    let (mut store, mut line) = (Store::default(), Line { timers_max: 2, ..Line::default() });
    store.put(&mut line, b"a", b"1", Some(SECOND)).expect("room");
    let put_two = |ttl| {
        let put = |key: &[u8]| Op::Put { key: key.to_vec(), value: b"2".to_vec(), ttl };
        txn(vec![], vec![put(b"b"), put(b"c")], vec![])
    };
    let before = saved(&store);
    assert_eq!(store.txn(&mut line, &put_two(Some(SECOND))), Err(KvError::TimersFull));
    assert_eq!((saved(&store), line.timers.len()), (before, 1), "the timer of the first was taken back");
    store.put(&mut line, b"b", b"1", Some(SECOND)).expect("room");
    let before = saved(&store);
    assert_eq!(store.put(&mut line, b"c", b"1", Some(SECOND)), Err(KvError::TimersFull));
    assert_eq!(saved(&store), before);
    assert!(store.txn(&mut line, &put_two(None)).is_ok());
    assert_eq!(line.timers.len(), 1);
}

#[test]
fn guards_ask_what_they_say() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"a", b"10", None).expect("room");
    store.put(&mut line, b"b", b"pear", None).expect("room");
    let mut holds =
        |key: &[u8], test: Test| store.txn(&mut line, &txn(vec![guard(key, test)], vec![], vec![])).map(|txn| txn.held);
    let value = |comparison, value: &str| Test::Value(comparison, value.as_bytes().to_vec());
    use Comparison::*;
    for (key, test, expected) in [
        (&b"a"[..], Test::Exists, true),
        (b"c", Test::Exists, false),
        (b"a", Test::Absent, false),
        (b"c", Test::Absent, true),
        (b"a", Test::Version(1), true),
        (b"b", Test::Version(1), false),
        (b"c", Test::Version(0), false),
        (b"a", value(Equal, "10"), true),
        (b"a", value(Equal, "010"), false),
        (b"a", value(NotEqual, "9"), true),
        (b"a", value(Greater, "9"), true),
        (b"a", value(Less, "9"), false),
        (b"a", value(GreaterOrEqual, "10"), true),
        (b"a", value(LessOrEqual, "10"), true),
        (b"a", value(LessOrEqual, "-3"), false),
        (b"a", value(Less, "9x"), true),
        (b"b", value(Less, "plum"), true),
        (b"b", value(Greater, "apple"), true),
        (b"c", value(NotEqual, "x"), false),
    ] {
        assert_eq!(holds(key, test.clone()), Ok(expected), "{} {test:?}", key.escape_ascii());
    }
    let both = txn(vec![guard(b"a", Test::Exists), guard(b"c", Test::Exists)], vec![], vec![]);
    assert_eq!(store.txn(&mut line, &both).map(|txn| txn.held), Ok(false), "one that fails is enough");
}

#[test]
fn one_branch_is_executed_and_each_operation_sees_those_before() {
    let (mut store, mut line) = (Store::default(), Line::default());
    let found = |value: &[u8], version, ttl| OpResult::Got(Some(Found { value: value.to_vec(), version, ttl }));
    let del = |key: &[u8]| Op::Del { key: key.to_vec() };
    let ttl = Some(SECOND);
    let then = vec![
        Op::Put { key: b"a".to_vec(), value: b"1".to_vec(), ttl },
        incr(b"a", 4),
        get(b"a"),
        del(b"a"),
        get(b"a"),
        incr(b"a", 2),
        put(b"b", b"x"),
        del(b"c"),
    ];
    let results = vec![
        OpResult::Put(1),
        OpResult::Sum(5),
        found(b"5", 1, ttl),
        OpResult::Deleted(true),
        OpResult::Got(None),
        OpResult::Sum(2),
        OpResult::Put(1),
        OpResult::Deleted(false),
    ];
    let both = txn(vec![guard(b"a", Test::Absent)], then, vec![put(b"else", b"1")]);
    assert_eq!(store.txn(&mut line, &both), Ok(TxnResult { held: true, results }));
    assert_eq!((store.version(), line.timers.len(), store.len()), (Version(1), 0, 2));
    assert_eq!(store.txn(&mut line, &both), Ok(TxnResult { held: false, results: vec![OpResult::Put(2)] }));
    assert_eq!(store.value(line.now, b"a"), Some(&b"2"[..]), "the other branch did not run");
    let look = txn(vec![], vec![get(b"a")], vec![]);
    assert_eq!(store.txn(&mut line, &look).map(|txn| txn.results), Ok(vec![found(b"2", 1, None)]));
    assert_eq!(store.version(), Version(2), "who only looks makes no version");
}

#[test]
fn a_refused_operation_refuses_all_of_them() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"text", b"abc", Some(SECOND)).expect("room");
    let before = (saved(&store), line.timers.clone());
    let ttl = Some(SECOND);
    let first = Op::Put { key: b"a".to_vec(), value: b"1".to_vec(), ttl };
    for (bad, error) in [
        (incr(b"text", 1), KvError::NotANumber),
        (put(b"", b"1"), KvError::BadKey),
        (put(b"k", &vec![0; VALUE_BYTES_MAX + 1]), KvError::ValueTooLarge),
        (Op::Put { key: b"k".to_vec(), value: vec![], ttl: Some(Duration::ZERO) }, KvError::BadTtl),
    ] {
        let all = txn(vec![], vec![first.clone(), Op::Del { key: b"text".to_vec() }, put(b"text", b"x"), bad], vec![]);
        let refusal = KvError::Operation { number: 4, error: Box::new(error) };
        assert_eq!(store.txn(&mut line, &all), Err(refusal));
        assert_eq!((saved(&store), line.timers.clone()), before);
    }
    let many = |count| vec![get(b"a"); count];
    assert!(store.txn(&mut line, &txn(vec![], many(TXN_OPS_MAX), many(TXN_OPS_MAX))).is_ok());
    assert_eq!(store.txn(&mut line, &txn(vec![], many(TXN_OPS_MAX + 1), vec![])), Err(KvError::TxnTooLong));
    assert_eq!(store.txn(&mut line, &txn(vec![], vec![], many(TXN_OPS_MAX + 1))), Err(KvError::TxnTooLong));
    let guards = vec![guard(b"a", Test::Absent); TXN_GUARDS_MAX + 1];
    assert_eq!(store.txn(&mut line, &txn(guards, vec![], vec![])), Err(KvError::TxnTooLong));
    assert_eq!(store.txn(&mut line, &txn(vec![guard(b"", Test::Absent)], vec![], vec![])), Err(KvError::BadKey));
}

#[test]
fn a_transaction_reads_no_more_than_a_reply_carries() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"large", &vec![0; REPLY_BYTES_MAX / 3], None).expect("room");
    let before = saved(&store);
    let read = |times| txn(vec![], [vec![put(b"k", b"v")], vec![get(b"large"); times]].concat(), vec![]);
    assert_eq!(store.txn(&mut line, &read(3)), Err(KvError::ReplyTooLarge));
    assert_eq!(saved(&store), before);
    let result = store.txn(&mut line, &read(2)).expect("fits");
    assert!(codec::encode(&result).expect("a form").len() < REPLY_BYTES_MAX);
}

#[test]
fn pages_together_are_the_range() {
    let (mut store, mut line) = (Store::default(), Line::default());
    for number in 0..1000u32 {
        let ttl = (number % 3 == 0).then_some(SECOND);
        store.put(&mut line, format!("key:{number:03}").as_bytes(), &vec![7; 1500], ttl).expect("room");
    }
    line.now = line.now + SECOND;
    let (mut from, mut read, mut pages) = (b"key:1".to_vec(), Vec::new(), 0);
    let to = prefix_end(b"key:1");
    loop {
        let page = store.scan(line.now, &from, to.as_deref(), 40).expect("a page");
        assert!(page.items.len() <= 40);
        pages += 1;
        read.extend(page.items.into_iter().map(|item| String::from_utf8(item.key).expect("text")));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let expected: Vec<String> =
        (100..200).filter(|number| number % 3 != 0).map(|number| format!("key:{number}")).collect();
    assert_eq!((read, pages), (expected, 2));
    let page = store.scan(line.now, b"", None, SCAN_ITEMS_MAX).expect("a page");
    let bytes: usize = page.items.iter().map(|item| item.key.len() + item.value.len()).sum();
    assert!(bytes <= PAGE_BYTES_MAX && bytes > PAGE_BYTES_MAX - 2000 && page.next.is_some());
    assert_eq!(store.scan(line.now, b"x", Some(b"a"), 1), Ok(Page::default()));
    for limit in [0, SCAN_ITEMS_MAX + 1] {
        assert_eq!(store.scan(line.now, b"", None, limit), Err(KvError::BadLimit));
    }
    let long = vec![255; KEY_BYTES_MAX + 2];
    assert_eq!(store.scan(line.now, &long, None, 1), Err(KvError::BadKey));
    assert_eq!(store.scan(line.now, b"", Some(&long), 1), Err(KvError::BadKey));
}

#[test]
fn a_page_has_room_for_one_item_of_any_size_and_passes_over_so_many_expired() {
    let (mut store, mut line) = (Store::default(), Line::default());
    store.put(&mut line, b"a", &vec![0; PAGE_BYTES_MAX + 1], None).expect("room");
    store.put(&mut line, b"b", b"", None).expect("room");
    let page = store.scan(line.now, b"", None, 9).expect("a page");
    assert_eq!((page.items.len(), page.next), (1, Some(b"b".to_vec())));
    for number in 0..=SCAN_EXPIRED_MAX {
        store.put(&mut line, format!("c{number:05}").as_bytes(), b"", Some(SECOND)).expect("room");
    }
    line.now = line.now + SECOND;
    let page = store.scan(line.now, b"b", None, 9).expect("a page");
    assert_eq!((page.items.len(), page.next), (1, Some(format!("c{SCAN_EXPIRED_MAX:05}").into_bytes())));
}

#[test]
fn a_prefix_ends_before_the_next_one() {
    assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
    assert_eq!(prefix_end(b"\xff"), None);
    assert_eq!(prefix_end(b""), None);
}

/// Others get a turn for every 64 KiB.
#[test]
fn a_store_is_given_back_a_slice_at_a_time() {
    let (mut store, mut line) = (Store::default(), Line::default());
    for number in 0..10_000u32 {
        store.put(&mut line, &number.to_le_bytes(), &[7; 100], None).expect("room");
    }
    let bytes = store.bytes();
    let mut turns = Turns::new();
    let mut given_back = std::pin::pin!(store.discard(&mut turns));
    let others = std::iter::from_fn(|| given_back.as_mut().now_or_never().is_none().then_some(())).count();
    assert!((30..=bytes / (64 << 10)).contains(&others), "{others} turns for {bytes} bytes");
}

#[test]
fn a_saved_store_is_the_same_store() {
    let (mut store, mut line) = (Store::default(), Line::default());
    for number in 0..100u8 {
        let ttl = (number % 2 == 0).then_some(SECOND);
        store.put(&mut line, &[b'k', number], &vec![number; usize::from(number)], ttl).expect("room");
    }
    store.del(&mut line, [&b"k\x07"[..]].into_iter()).expect("a key");
    let bytes = saved(&store);
    let mut reader = Reader::new(&bytes).at_once();
    let loaded = Store::load(&mut reader).now_or_never().expect("at once").expect("a store");
    assert_eq!(reader.finish(), Ok(()));
    assert_eq!((saved(&loaded), loaded.bytes(), loaded.version()), (bytes, store.bytes(), store.version()));
    // Timers still find their keys.
    let mut loaded = loaded;
    line.now = line.now + SECOND;
    line.fire(&mut loaded);
    assert_eq!(loaded.len(), 49);
}
