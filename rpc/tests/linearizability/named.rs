//! Histories that have a name.

use trimaran_rpc::sim::history::OperationId;
use trimaran_rpc::sim::linearizability::{DEFAULT_STEPS_PER_KEY, Effect};

use super::*;

const NOTHING: KvRet = KvRet::Value(None);

fn good(operations: Vec<Asked>) {
    let history = record("k", operations);
    assert!(has_an_order(&Kv, &history), "the test itself is wrong");
    check(&history).assert_linearizable();
}

/// Violated, and by the operation at this place.
fn bad(offender: usize, operations: Vec<Asked>) -> Violation {
    let history = record("k", operations);
    assert!(!has_an_order(&Kv, &history), "the test itself is wrong");
    let violation = violation(check(&history));
    assert_eq!((violation.offender, violation.smallest), (OperationId(offender), true), "{violation}");
    assert_witness_explains(&Kv, &history, &violation);
    violation
}

#[test]
fn nothing_happened() {
    good(vec![]);
    good(vec![(1, KvOp::Get, 0, None)]);
}

#[test]
fn a_read_beside_a_write_may_see_either_value() {
    for seen in [NOTHING, number(1)] {
        good(vec![(1, set(1), 0, Some((10, KvRet::Done))), (2, KvOp::Get, 5, Some((15, seen)))]);
    }
}

#[test]
fn stale_read() {
    let violation = bad(
        2,
        vec![
            (1, set(1), 0, Some((1, KvRet::Done))),
            (1, set(2), 2, Some((3, KvRet::Done))),
            (2, KvOp::Get, 4, Some((5, number(1)))),
        ],
    );
    assert_eq!(violation.witness, [OperationId(0), OperationId(1)]);
    assert_eq!(
        violation.to_string(),
        r#"key "k" is not linearizable: no place for
  #2 client 2 call 2.2: Get -> Value(Some(Number(1))) [4..5 ns]
an order for what returned before it:
  #0 client 1 call 1.0: Set(Number(1)) -> Done [0..1 ns]
  #1 client 1 call 1.1: Set(Number(2)) -> Done [2..3 ns]
  which leaves Some(Number(2))
in flight beside it: none"#
    );
}

#[test]
fn own_write_not_read_within_one_instant() {
    let mut history = KvHistory::new();
    let at = Instant::from_nanos(5);
    let call = |seq| CallId { session: 1, seq };
    let put = history.invoked(ClientId(1), call(1), "k", set(1), at);
    history.returned(put, at, KvRet::Done);
    let get = history.invoked(ClientId(1), call(2), "k", KvOp::Get, at);
    history.returned(get, at, NOTHING);
    assert_eq!(violation(check(&history)).offender, get);
}

#[test]
fn lost_update() {
    bad(
        1,
        vec![
            (1, KvOp::Incr(1), 0, Some((10, number(1)))),
            (2, KvOp::Incr(1), 5, Some((15, number(1)))),
            (3, KvOp::Get, 20, Some((21, number(2)))),
        ],
    );
}

#[test]
fn acknowledged_write_gone() {
    bad(1, vec![(1, set(1), 0, Some((1, KvRet::Done))), (2, KvOp::Get, 2, Some((3, NOTHING)))]);
}

#[test]
fn read_from_the_future() {
    bad(0, vec![(1, KvOp::Get, 0, Some((1, number(7)))), (2, set(7), 2, Some((3, KvRet::Done)))]);
}

#[test]
fn read_of_what_nobody_wrote() {
    bad(1, vec![(2, set(7), 0, Some((3, KvRet::Done))), (1, KvOp::Get, 2, Some((4, number(8))))]);
}

#[test]
fn doubly_applied_increment() {
    bad(1, vec![(1, KvOp::Incr(1), 0, Some((1, number(1)))), (2, KvOp::Get, 2, Some((3, number(2))))]);
}

#[test]
fn unknown_increment_applied_once_but_not_twice() {
    let start = |seen| {
        vec![
            (1, KvOp::Incr(1), 0, None),
            (2, KvOp::Incr(1), 2, Some((3, number(1)))),
            (3, KvOp::Get, 4, Some((5, number(seen)))),
        ]
    };
    good(start(1));
    good(start(2));
    bad(2, start(3));
}

#[test]
fn unknown_write_that_takes_effect_late() {
    good(vec![
        (1, set(1), 0, None),
        (2, set(2), 1, Some((2, KvRet::Done))),
        (2, KvOp::Get, 3, Some((4, number(2)))),
        (2, KvOp::Get, 1_000, Some((1_001, number(1)))),
    ]);
}

#[test]
fn unknown_write_that_never_takes_effect() {
    good(vec![(1, set(1), 0, None), (2, KvOp::Get, 1, Some((2, NOTHING))), (2, KvOp::Get, 3, Some((4, NOTHING)))]);
}

#[test]
fn unknown_write_that_takes_effect_twice() {
    bad(
        3,
        vec![
            (1, set(1), 0, None),
            (2, KvOp::Get, 1, Some((2, number(1)))),
            (2, set(2), 3, Some((4, KvRet::Done))),
            (2, KvOp::Get, 5, Some((6, number(1)))),
        ],
    );
}

#[test]
fn a_write_that_was_not_applied_is_seen_by_nobody() {
    let mut history = record("k", vec![(1, set(1), 0, None), (2, KvOp::Get, 1, Some((2, number(1))))]);
    check(&history).assert_linearizable();
    history.not_applied(OperationId(0));
    assert_eq!(violation(check(&history)).offender, OperationId(1));
}

#[test]
fn reordered_reads() {
    let reads = |first, second| {
        vec![
            (1, set(1), 0, Some((1, KvRet::Done))),
            (1, set(2), 2, Some((20, KvRet::Done))),
            (2, KvOp::Get, 3, Some((4, number(first)))),
            (3, KvOp::Get, 5, Some((6, number(second)))),
        ]
    };
    good(reads(1, 2));
    good(reads(2, 2));
    bad(3, reads(2, 1));
}

#[test]
fn aba() {
    let values = |last| {
        vec![
            (1, set(1), 0, Some((1, KvRet::Done))),
            (1, set(2), 2, Some((3, KvRet::Done))),
            (2, set(1), 4, Some((30, KvRet::Done))),
            (3, KvOp::Get, 5, Some((6, number(2)))),
            (3, KvOp::Get, 7, Some((8, number(1)))),
            (3, KvOp::Get, 9, Some((10, number(last)))),
        ]
    };
    good(values(1));
    bad(5, values(2));
}

#[test]
fn deleted_value_comes_back() {
    bad(
        2,
        vec![
            (1, set(1), 0, Some((1, KvRet::Done))),
            (1, KvOp::Del, 2, Some((3, KvRet::Changed(true)))),
            (2, KvOp::Get, 4, Some((5, number(1)))),
        ],
    );
}

#[test]
fn two_winners_of_one_compare_and_set() {
    let cas = |new| KvOp::Cas { expect: None, new: Value::Number(new) };
    bad(1, vec![(1, cas(1), 0, Some((10, KvRet::Changed(true)))), (2, cas(2), 1, Some((11, KvRet::Changed(true))))]);
}

#[test]
fn keys_are_judged_apart_and_the_first_bad_one_is_named() {
    let mut history = record("a", vec![(1, set(1), 0, Some((1, KvRet::Done)))]);
    history.append(record("c", vec![(1, KvOp::Get, 2, Some((3, number(1))))]));
    history.append(record("b", vec![(1, KvOp::Get, 4, Some((5, number(1))))]));
    let found = violation(check(&history));
    assert_eq!((found.key.as_str(), found.offender), ("\"b\"", OperationId(2)));
}

#[test]
fn histories_of_two_recorders_are_one() {
    let mut history = record("k", vec![(1, KvOp::Get, 8, Some((9, number(1)))), (1, set(7), 8, None)]);
    history.append(record("k", vec![(2, set(1), 0, Some((1, KvRet::Done)))]));
    check(&history).assert_linearizable();
    history.append(record("k", vec![(3, set(2), 2, Some((3, KvRet::Done))), (3, set(8), 6, None)]));
    let found = violation(check(&history));
    assert_eq!((found.offender, found.concurrent), (OperationId(0), vec![OperationId(4), OperationId(1)]));
}

/// A write that stays in the way of the others for long is found at the place where it hurts, not where it began.
#[test]
fn the_smallest_prefix_ends_with_the_offender_in_a_long_history() {
    let mut operations = Vec::new();
    for i in 0..500_i64 {
        let from = i as u64 * 10;
        operations.push((1, set(i), from, Some((from + 12, KvRet::Done))));
        operations.push((2, KvOp::Get, from + 5, Some((from + 9, number(if i == 321 { 319 } else { i })))));
    }
    let history = record("k", operations);
    let found = violation(check(&history));
    assert_eq!((found.offender, found.smallest), (OperationId(643), true), "{found}");
    assert_witness_explains(&Kv, &history, &found);
}

/// Forty open writes have 2^40 subsets; only the values that they leave matter, hints or none.
#[test]
fn many_unknown_writes_do_not_drown_the_search() {
    let mut operations: Vec<_> = (0..40).map(|i| (i, set(i.into()), 0, None)).collect();
    operations.push((50, set(99), 1, Some((2, KvRet::Done))));
    for i in 0..40 {
        operations.push((51, KvOp::Get, 10 + 2 * i, Some((11 + 2 * i, number((i * 7 % 40) as i64)))));
    }
    let mut history = record("k", operations);
    check(&history).assert_linearizable();
    history.append(record("k", vec![(51, KvOp::Get, 100, Some((101, number(99))))]));
    violation(check(&history));

    let mut history = record("k", (0..40).map(|i| (i, set(i.into()), 0, None)).collect());
    history.append(record("k", vec![(51, KvOp::Get, 1, Some((2, number(99))))]));
    violation(check_by(&Mute, &history, 10_000));
}

/// Which of `n` sums an unknown set of equal increments adds up to is one question, not 2^n.
#[test]
fn equal_unknown_increments_are_interchangeable() {
    let mut operations: Vec<_> = (0..60).map(|i| (i, KvOp::Incr(1), 0, None)).collect();
    operations.push((70, KvOp::Get, 1, Some((2, number(60)))));
    check(&record("k", operations.clone())).assert_linearizable();
    operations.push((70, KvOp::Get, 3, Some((4, number(61)))));
    violation(check(&record("k", operations)));
}

/// Sums of distinct powers of two: every subset is another state, so nothing but the limit ends the search.
#[test]
fn a_hopeless_search_ends_undecided_and_another_key_still_speaks() {
    let mut operations: Vec<_> = (0..40).map(|i| (i, KvOp::Incr(1 << i), 0, None)).collect();
    operations.push((70, KvOp::Get, 1, Some((2, number(-5)))));
    let mut history = record("hopeless", operations);
    let report = check_by(&Kv, &history, 10_000);
    assert_eq!(report.verdict, Verdict::Undecided { keys: vec!["\"hopeless\"".into()] });
    assert_eq!(report.steps, 10_000);
    history.append(record("later", vec![(1, KvOp::Get, 4, Some((5, number(1))))]));
    assert_eq!(violation(check(&history)).key, "\"later\"");
}

/// A group of keys is one object of another model; this one gives no hints at all.
struct Accounts;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ask {
    Move(usize, usize),
    Scan,
}

impl Model for Accounts {
    type Op = Ask;
    type Ret = Option<[i64; 3]>;
    type State = [i64; 3];

    fn initial(&self) -> [i64; 3] {
        [10; 3]
    }

    fn step(&self, state: &[i64; 3], op: &Ask) -> ([i64; 3], Option<[i64; 3]>) {
        let mut next = *state;
        let Ask::Move(from, to) = *op else { return (next, Some(next)) };
        next[from] -= 1;
        next[to] += 1;
        (next, None)
    }
}

#[test]
fn a_group_of_keys_is_checked_as_one_object() {
    let scans = |second| {
        let history = record(
            (),
            vec![
                (1, Ask::Move(0, 1), 0, Some((10, None))),
                (2, Ask::Move(1, 2), 1, Some((11, None))),
                (3, Ask::Scan, 2, Some((5, Some([9, 11, 10])))),
                (4, Ask::Scan, 3, Some((9, Some(second)))),
            ],
        );
        check_by(&Accounts, &history, DEFAULT_STEPS_PER_KEY)
    };
    scans([9, 10, 11]).assert_linearizable();
    scans([10, 10, 10]).assert_linearizable();
    // Each account by itself could look so: money in both places at once, then in the other order.
    assert_eq!(violation(scans([10, 9, 11])).offender, OperationId(3));
    assert_eq!(Accounts.effect(&Ask::Scan, None), Effect::Unknown);
}
