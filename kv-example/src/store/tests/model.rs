//! Random calls to the store and to a map that does the same in the plainest way.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Call {
    Put(Vec<u8>, Vec<u8>, Option<Duration>),
    Cas(Vec<u8>, Expected, Vec<u8>, Option<Duration>),
    Del(Vec<Vec<u8>>),
    Incr(Vec<u8>, i64),
    Txn(Txn),
    Scan(Vec<u8>, Option<Vec<u8>>, u32),
    /// Time goes on; the timers that are due fire, or are late.
    Wait(Duration, bool),
    /// The replica returns by a snapshot.
    Reload,
}

/// What there is: keys that have expired are taken out at once.
#[derive(Debug, Clone, Default)]
struct Naive {
    map: BTreeMap<Vec<u8>, (Vec<u8>, u64, Option<LogTime>)>,
    version: u64,
}

impl Naive {
    fn put(&mut self, now: LogTime, key: &[u8], value: &[u8], version: u64, ttl: Option<Duration>) {
        self.map.insert(key.to_vec(), (value.to_vec(), version, ttl.map(|ttl| now + ttl)));
        self.version = version;
    }

    fn incr(&mut self, key: &[u8], by: i64, version: u64) -> Result<i64, KvError> {
        let (value, _, end) = self.map.get(key).cloned().unwrap_or((b"0".to_vec(), 0, None));
        let text = String::from_utf8(value).map_err(|_| KvError::NotANumber)?;
        let number: i64 = text.parse().map_err(|_| KvError::NotANumber)?;
        if number.to_string() != text {
            return Err(KvError::NotANumber);
        }
        let sum = number.checked_add(by).ok_or(KvError::Overflow)?;
        self.map.insert(key.to_vec(), (sum.to_string().into_bytes(), version, end));
        self.version = version;
        Ok(sum)
    }

    fn cas(
        &mut self,
        now: LogTime,
        key: &[u8],
        expected: &Expected,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Version, KvError> {
        let there = self.map.get(key);
        let as_expected = match expected {
            Expected::Absent => there.is_none(),
            Expected::Version(version) => there.is_some_and(|there| there.1 == *version),
            Expected::Value(value) => there.is_some_and(|there| there.0 == *value),
        };
        if !as_expected {
            return Err(KvError::Conflict { version: there.map(|there| there.1) });
        }
        self.put(now, key, value, self.version + 1, ttl);
        Ok(Version(self.version))
    }

    fn holds(&self, guard: &Guard) -> bool {
        let there = self.map.get(&guard.key);
        let number = |bytes: &[u8]| -> Option<i64> {
            let text = std::str::from_utf8(bytes).ok()?;
            text.parse().ok().filter(|number: &i64| number.to_string() == text)
        };
        match &guard.test {
            Test::Exists => there.is_some(),
            Test::Absent => there.is_none(),
            Test::Version(version) => there.is_some_and(|there| there.1 == *version),
            Test::Value(comparison, value) => there.is_some_and(|(there, ..)| {
                let (less, equal) = match (number(there), number(value)) {
                    (Some(there), Some(value)) => (there < value, there == value),
                    _ => (there < value, there == value),
                };
                match comparison {
                    Comparison::Equal => equal,
                    Comparison::NotEqual => !equal,
                    Comparison::Less => less,
                    Comparison::LessOrEqual => less || equal,
                    Comparison::Greater => !less && !equal,
                    Comparison::GreaterOrEqual => !less,
                }
            }),
        }
    }

    fn txn(&mut self, now: LogTime, txn: &Txn) -> Result<TxnResult, KvError> {
        let held = txn.guards.iter().all(|guard| self.holds(guard));
        let (mut copy, version) = (self.clone(), self.version + 1);
        let mut results = Vec::new();
        for (at, op) in (if held { &txn.then } else { &txn.otherwise }).iter().enumerate() {
            results.push(match op {
                Op::Put { key, value, ttl } => {
                    copy.put(now, key, value, version, *ttl);
                    OpResult::Put(version)
                }
                Op::Get { key } => OpResult::Got(copy.get(now, key)),
                Op::Del { key } => {
                    let there = copy.map.remove(key).is_some();
                    copy.version = if there { version } else { copy.version };
                    OpResult::Deleted(there)
                }
                Op::Incr { key, by } => OpResult::Sum(
                    copy.incr(key, *by, version)
                        .map_err(|error| KvError::Operation { number: at as u8 + 1, error: Box::new(error) })?,
                ),
            });
        }
        *self = copy;
        Ok(TxnResult { held, results })
    }

    fn get(&self, now: LogTime, key: &[u8]) -> Option<Found> {
        let (value, version, end) = self.map.get(key)?.clone();
        Some(Found { value, version, ttl: end.map(|end| end.saturating_since(now)) })
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    (0u8..5).prop_map(|letter| vec![b'a' + letter])
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec!["", "0", "1", "-7", "12", "text", "9223372036854775807"])
        .prop_map(|text| text.as_bytes().to_vec())
}

fn ttl() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![2 => Just(None), 1 => (1u64..5).prop_map(|seconds| Some(Duration::from_secs(seconds)))]
}

fn by() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![1, -1, 5, i64::MAX, i64::MIN])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (key(), value(), ttl()).prop_map(|(key, value, ttl)| Op::Put { key, value, ttl }),
        key().prop_map(|key| Op::Get { key }),
        key().prop_map(|key| Op::Del { key }),
        (key(), by()).prop_map(|(key, by)| Op::Incr { key, by }),
    ]
}

fn guard() -> impl Strategy<Value = Guard> {
    use Comparison::*;
    let comparison = prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual]);
    let test = prop_oneof![
        Just(Test::Exists),
        Just(Test::Absent),
        (0u64..30).prop_map(Test::Version),
        (comparison, value()).prop_map(|(comparison, value)| Test::Value(comparison, value)),
    ];
    (key(), test).prop_map(|(key, test)| Guard { key, test })
}

fn call() -> impl Strategy<Value = Call> {
    let expected =
        prop_oneof![Just(Expected::Absent), (0u64..30).prop_map(Expected::Version), value().prop_map(Expected::Value)];
    let many = |max| prop::collection::vec(op(), 0..max);
    let txn = (prop::collection::vec(guard(), 0..3), many(6), many(6));
    prop_oneof![
        4 => (key(), value(), ttl()).prop_map(|(key, value, ttl)| Call::Put(key, value, ttl)),
        3 => (key(), expected, value(), ttl()).prop_map(|(key, expected, value, ttl)| Call::Cas(key, expected, value, ttl)),
        2 => prop::collection::vec(key(), 1..4).prop_map(Call::Del),
        2 => (key(), by()).prop_map(|(key, by)| Call::Incr(key, by)),
        5 => txn.prop_map(|(guards, then, otherwise)| Call::Txn(Txn { guards, then, otherwise })),
        1 => (key(), prop::option::of(key()), 1u32..4).prop_map(|(from, to, limit)| Call::Scan(from, to, limit)),
        4 => (0u64..2500, any::<bool>()).prop_map(|(ms, fires)| Call::Wait(Duration::from_millis(ms), fires)),
        1 => Just(Call::Reload),
    ]
}

proptest! {
    #[test]
    fn the_store_does_what_the_naive_one_does(calls in prop::collection::vec(call(), 0..80)) {
        let (mut store, mut line, mut naive) = (Store::default(), Line::default(), Naive::default());
        for call in calls {
            let now = line.now;
            match call {
                Call::Put(key, value, ttl) => {
                    naive.put(now, &key, &value, naive.version + 1, ttl);
                    prop_assert_eq!(store.put(&mut line, &key, &value, ttl), Ok(Version(naive.version)));
                }
                Call::Cas(key, expected, value, ttl) => {
                    let expect = naive.cas(now, &key, &expected, &value, ttl);
                    prop_assert_eq!(store.cas(&mut line, &key, &expected, &value, ttl), expect);
                }
                Call::Del(keys) => {
                    let there = keys.iter().filter(|key| naive.map.remove(*key).is_some()).count() as u64;
                    naive.version += u64::from(there > 0);
                    prop_assert_eq!(store.del(&mut line, keys.iter().map(Vec::as_slice)), Ok(there));
                }
                Call::Incr(key, by) => {
                    let version = naive.version + 1;
                    prop_assert_eq!(store.incr(&mut line, &key, by), naive.incr(&key, by, version));
                }
                Call::Txn(txn) => prop_assert_eq!(store.txn(&mut line, &txn), naive.txn(now, &txn)),
                Call::Scan(from, to, limit) => {
                    let page = store.scan(now, &from, to.as_deref(), limit).expect("in range");
                    let inside = |key: &&Vec<u8>| **key >= from && to.as_ref().is_none_or(|to| *key < to);
                    let mut keys = naive.map.keys().filter(inside);
                    let expect: Vec<_> = keys.by_ref().take(limit as usize).cloned().collect();
                    prop_assert_eq!(page.items.into_iter().map(|item| item.key).collect::<Vec<_>>(), expect);
                    prop_assert_eq!(page.next.as_ref(), keys.next());
                }
                Call::Wait(time, fires) => {
                    line.now = line.now + time;
                    naive.map.retain(|_, (.., end)| end.is_none_or(|end| end > line.now));
                    if fires {
                        line.fire(&mut store);
                    }
                }
                Call::Reload => {
                    let bytes = saved(&store);
                    let loaded = Store::load(&mut Reader::new(&bytes).at_once()).now_or_never().expect("at once");
                    store = loaded.expect("a store");
                }
            }
            prop_assert_eq!(store.version(), Version(naive.version));
            for letter in b'a'..=b'e' {
                prop_assert_eq!(store.get(line.now, &[letter]), naive.get(line.now, &[letter]));
            }
            let bytes: usize = store.map.iter().map(|(key, entry)| cost_bytes(key, &entry.value)).sum();
            prop_assert_eq!(store.bytes, bytes);
            let timed = store.map.values().filter_map(|entry| entry.expiry.map(|expiry| expiry.timer));
            let mut timed: Vec<TimerId> = timed.collect();
            timed.sort_unstable();
            prop_assert_eq!(timed, line.timers.keys().copied().collect::<Vec<_>>(), "each expiry has its timer");
        }
    }
}
