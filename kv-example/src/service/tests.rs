//! Methods and commands as a replica executes them.

use super::*;
use crate::resp;
use crate::store::Item;
use crate::txn::{Comparison, Guard, Op, OpResult, Test};
use trimaran_rpc::alone::Alone;
use trimaran_rpc::codec;
use trimaran_rpc::serde::Serialize;
use trimaran_rpc::serde::de::DeserializeOwned;
use trimaran_rpc::service::{Answer, method_key};

trimaran_rpc::check_schema!(Kv, "schema/kv.txt");

const RAW: u32 = 0;
const SECOND: Duration = Duration::from_secs(1);
const NO_TTL: Option<Duration> = None;

/// Calls a method by its name and tuple of arguments.
fn call<T: DeserializeOwned>(kv: &mut Alone<Kv>, method: &str, arguments: impl Serialize) -> Result<T, KvError> {
    let request = codec::encode(&arguments).expect("a form");
    let (answer, reply) = kv.call(method_key(&format!("kv.{method}/1")), &request).expect("a method for clients");
    match answer {
        Answer::Ok => Ok(codec::decode(&reply).expect("a result")),
        Answer::App => Err(codec::decode(&reply).expect("an error")),
        Answer::Refused(refusal) => panic!("{method}: {refusal:?}"),
    }
}

fn put(kv: &mut Alone<Kv>, key: &str, value: &str, ttl: Option<Duration>) -> Result<u64, KvError> {
    call(kv, "put", (key, value, ttl))
}

fn value(kv: &mut Alone<Kv>, key: &str) -> Option<String> {
    let found: Option<Found> = call(kv, "get", (key,)).expect("a key");
    found.map(|found| String::from_utf8(found.value).expect("text"))
}

fn request(words: &[&str]) -> Vec<u8> {
    let (mut out, words) = (Vec::new(), words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    resp::emit_command(&words, &mut out);
    out
}

/// A command through the log.
fn command(kv: &mut Alone<Kv>, words: &[&str]) -> String {
    let (answer, reply) = kv.write(RAW, &request(words));
    assert_eq!(answer, Answer::Ok);
    String::from_utf8(reply).expect("text")
}

/// A command that one replica answers.
fn look(kv: &Alone<Kv>, is_local: bool, words: &[&str]) -> String {
    let mut reply = Vec::new();
    kv.service().look(ShardPlace::ALONE, is_local, kv.now(), &request(words), &mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

fn journal(kv: &Alone<Kv>) -> Vec<ExecutedCall> {
    kv.service().journal.as_ref().expect("it keeps one").page(0).calls
}

#[test]
fn methods_work_on_one_store() {
    let mut kv = Alone::new(Kv::default());
    assert_eq!(put(&mut kv, "k", "1", None), Ok(1));
    assert_eq!(call(&mut kv, "incr", ("k", 41)), Ok(42i64));
    let expected = Expected::Value(b"42".to_vec());
    assert_eq!(call(&mut kv, "cas", ("k", &expected, "x", NO_TTL)), Ok(3u64));
    assert_eq!(call::<u64>(&mut kv, "cas", ("k", &expected, "y", NO_TTL)), Err(KvError::Conflict { version: Some(3) }));
    assert_eq!(call(&mut kv, "get", ("k",)), Ok(Some(Found { value: b"x".to_vec(), version: 3, ttl: None })));
    assert_eq!(put(&mut kv, "l", "", None), Ok(4));
    let items = [("k", "x", 3), ("l", "", 4)];
    let items = items.map(|(key, value, version)| Item { key: key.into(), value: value.into(), version });
    let page: Page = call(&mut kv, "scan", ("", None::<Vec<u8>>, 1u32)).expect("a page");
    assert_eq!((page.items.as_slice(), page.next.as_deref()), (&items[..1], Some(&b"l"[..])));
    let page: Page = call(&mut kv, "scan", ("l", Some(b"z".to_vec()), 9u32)).expect("a page");
    assert_eq!((page.items.as_slice(), page.next), (&items[1..], None));
    assert_eq!(call(&mut kv, "del", ("k",)), Ok(true));
    assert_eq!(call(&mut kv, "del", ("k",)), Ok(false));
    assert_eq!(put(&mut kv, "", "", None), Err(KvError::BadKey));
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let mut kv = Alone::new(Kv::default());
    let op = |key: &str, by| Op::Incr { key: key.into(), by };
    let guards = vec![Guard { key: b"a".to_vec(), test: Test::Value(Comparison::GreaterOrEqual, b"10".to_vec()) }];
    let txn = Txn { guards, then: vec![op("a", -10), op("b", 10)], otherwise: vec![] };
    let held = |result: Result<TxnResult, KvError>| result.map(|result| (result.held, result.results.len()));
    assert_eq!(held(call(&mut kv, "txn", (&txn,))), Ok((false, 0)));
    put(&mut kv, "a", "15", None).expect("room");
    let result = TxnResult { held: true, results: vec![OpResult::Sum(5), OpResult::Sum(10)] };
    assert_eq!(call(&mut kv, "txn", (&txn,)), Ok(result));
    put(&mut kv, "a", "15", None).expect("room");
    put(&mut kv, "b", "no number", None).expect("room");
    let before = kv.bytes();
    let refusal = KvError::Operation { number: 2, error: Box::new(KvError::NotANumber) };
    assert_eq!(call::<TxnResult>(&mut kv, "txn", (&txn,)), Err(refusal));
    assert_eq!(kv.bytes(), before);
}

#[test]
fn a_key_lives_as_long_as_it_was_given() {
    let mut kv = Alone::new(Kv::default());
    put(&mut kv, "k", "v", Some(SECOND)).expect("room");
    assert_eq!(command(&mut kv, &["set", "l", "w", "px", "1500"]), "+OK\r\n");
    kv.advance(SECOND - Duration::from_nanos(1));
    assert_eq!(value(&mut kv, "k").as_deref(), Some("v"));
    let found: Option<Found> = call(&mut kv, "get", ("l",)).expect("a key");
    assert!(found.and_then(|found| found.ttl) > Some(SECOND / 2));
    kv.reload().expect("its own bytes");
    kv.advance(Duration::from_nanos(1));
    assert_eq!((value(&mut kv, "k"), kv.service().store.len()), (None, 1), "absent, and its memory given back");
    assert_eq!(command(&mut kv, &["set", "l", "w"]), "+OK\r\n");
    assert_eq!(kv.next_timer(), None, "a SET without a time takes it back");
    kv.advance(SECOND * 100);
    assert_eq!(value(&mut kv, "l").as_deref(), Some("w"));
}

#[test]
fn commands_answer_as_redis_does() {
    let mut kv = Alone::new(Kv::default());
    for (words, reply) in [
        (&["get", "k"][..], "$-1\r\n"),
        (&["set", "k", "v1"], "+OK\r\n"),
        (&["set", "k", "longer"], "+OK\r\n"),
        (&["get", "k"], "$6\r\nlonger\r\n"),
        (&["setv", "l", ""], ":3\r\n"),
        (&["del", "k", "missing", "l", "k"], ":2\r\n"),
        (&["incr", "n"], ":1\r\n"),
        (&["set", "n", "9223372036854775807"], "+OK\r\n"),
        (&["incr", "n"], "-ERR increment or decrement would overflow\r\n"),
        (&["set", "n", "x"], "+OK\r\n"),
        (&["incr", "n"], "-ERR value is not an integer or out of range\r\n"),
        (&["set", "n", "x", "ex", "0"], "-ERR invalid expire time in 'set' command\r\n"),
        (&["ping"], "+PONG\r\n"),
        (&["ping", "hi"], "$2\r\nhi\r\n"),
        (&["echo", "hi"], "$2\r\nhi\r\n"),
        (&["journal", "0"], "-ERR this command asks one replica: send it under policy 0 or 1\r\n"),
    ] {
        assert_eq!(command(&mut kv, words), reply, "{words:?}");
    }
}

#[test]
fn a_write_needs_the_log_and_a_look_does_not() {
    let mut kv = Alone::new(Kv::default());
    command(&mut kv, &["set", "k", "v", "ex", "1"]);
    let before = kv.bytes();
    for is_local in [true, false] {
        assert_eq!(look(&kv, is_local, &["get", "k"]), "$1\r\nv\r\n");
        for write in [&["set", "k", "x"][..], &["setv", "k", "x"], &["del", "k"], &["incr", "n"]] {
            assert!(look(&kv, is_local, write).starts_with("-ERR a write must be replicated"));
        }
    }
    assert_eq!(kv.bytes(), before);
    kv.advance(SECOND);
    assert_eq!(look(&kv, false, &["get", "k"]), "$-1\r\n");
    assert_eq!(look(&kv, true, &["nonsense"]), "-ERR unknown command 'nonsense'\r\n");
}

#[test]
fn garbage_in_the_log_is_answered_and_changes_nothing() {
    let mut kv = Alone::new(Kv::new(Some(Journal::default())));
    let before = kv.bytes();
    let (_, reply) = kv.write(RAW, &[0xff; 100]);
    assert!(reply.starts_with(b"-ERR Protocol error"));
    let (answer, _) = kv.write(method_key("kv.put/1"), &[0xff; 100]);
    assert!(matches!(answer, Answer::Refused(_)));
    assert_eq!(kv.bytes(), before);
}

#[test]
fn the_journal_holds_what_changed_the_store() {
    let mut kv = Alone::new(Kv::new(Some(Journal::default())));
    put(&mut kv, "k", "v", None).expect("room");
    call::<Option<Found>>(&mut kv, "get", ("k",)).expect("a key");
    call::<i64>(&mut kv, "incr", ("k", 1)).expect_err("no number");
    call::<bool>(&mut kv, "del", ("none",)).expect("a key");
    command(&mut kv, &["set", "k", "v"]);
    command(&mut kv, &["incr", "n"]);
    call::<i64>(&mut kv, "incr", ("n", 1)).expect("a number");
    put(&mut kv, "t", "v", Some(SECOND)).expect("room");
    kv.advance(SECOND);
    let calls = journal(&kv);
    assert_eq!(calls.iter().map(|call| call.version.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(calls.iter().map(|call| call.index).collect::<Vec<_>>(), [1, 4, 5, 6, 7]);
    assert_eq!(calls[0].call, CallHash::of_put(b"k", b"v"));
    assert_eq!(calls[0].call, calls[1].call, "the same put, whatever it is called");
    assert_ne!(CallHash::of_put(b"ab", b"c"), CallHash::of_put(b"a", b"bc"));
    assert_ne!(calls[2].call, calls[3].call);

    kv.reload().expect("its own bytes");
    assert_eq!(journal(&kv), calls, "who returns by a snapshot has it");
    assert!(look(&kv, true, &["journal", "3"]).starts_with("$72\r\n"));
    assert!(look(&kv, false, &["journal", "0"]).starts_with("-ERR"), "a linearizable read may run anywhere");
    let none = Alone::new(Kv::default());
    assert!(look(&none, true, &["journal", "0"]).starts_with("-ERR this replica keeps no journal"));
}
