//! Histories that chance made: of a real (sequential) object seen through random delays and lost answers, and of the
//! same with one answer changed.

use proptest::collection::vec;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::*;

/// A client, what it asks where it is idle, and its luck.
type Turn = (usize, KvOp, u8);

/// One object, asked by `clients`, a turn of one of them each nanosecond: it asks, its request takes effect, it is
/// answered. Luck below `loss` loses the request or the answer, and luck of 240 and more lets an old lost request take
/// effect after all.
fn observe(clients: usize, loss: u8, turns: impl IntoIterator<Item = Turn>) -> Vec<Asked> {
    #[derive(Clone, Copy)]
    enum Stage {
        Idle,
        Sent(usize),
        Done(usize, KvRet),
    }
    let (mut asked, mut state, mut late) = (Vec::<Asked>::new(), Kv.initial(), Vec::new());
    let mut stages = vec![Stage::Idle; clients];
    for (at, (client, op, luck)) in (0..).zip(turns) {
        let apply = |state: &mut Option<Value>, op| {
            let (next, ret) = Kv.step(state, op);
            *state = next;
            ret
        };
        stages[client] = match stages[client] {
            Stage::Idle => {
                asked.push((client as u32, op, at, None));
                Stage::Sent(asked.len() - 1)
            }
            Stage::Sent(i) if luck < loss => {
                late.push(asked[i].1);
                Stage::Idle
            }
            Stage::Sent(i) => Stage::Done(i, apply(&mut state, &asked[i].1)),
            Stage::Done(..) if luck < loss => Stage::Idle,
            Stage::Done(i, ret) => {
                asked[i].3 = Some((at, ret));
                Stage::Idle
            }
        };
        if luck >= 240 && !late.is_empty() {
            apply(&mut state, &late.swap_remove(client % late.len()));
        }
    }
    asked
}

/// Gives one answer in place of another, or an answer that is off by one.
fn falsify(asked: &mut [Asked], target: usize, source: usize) {
    let answered: Vec<usize> = (0..asked.len()).filter(|&i| asked[i].3.is_some()).collect();
    if answered.is_empty() {
        return;
    }
    let source = asked[answered[source % answered.len()]].3.map(|(_, ret)| ret);
    if let Some((_, ret)) = &mut asked[answered[target % answered.len()]].3 {
        *ret = match (*ret, source) {
            (KvRet::Value(truth), Some(KvRet::Value(other))) if truth != other => KvRet::Value(other),
            (KvRet::Value(Some(Value::Number(truth))), _) => number(truth + 1),
            (KvRet::Value(_), _) => number(1),
            (KvRet::Changed(truth), _) => KvRet::Changed(!truth),
            (KvRet::Done | KvRet::Refused, _) => *ret,
        };
    }
}

fn any_op() -> impl Strategy<Value = KvOp> {
    let value = || (0_i64..3).prop_map(Value::Number);
    prop_oneof![
        4 => Just(KvOp::Get),
        3 => value().prop_map(KvOp::Set),
        1 => Just(KvOp::Del),
        2 => Just(KvOp::Incr(1)),
        1 => (proptest::option::of(value()), value()).prop_map(|(expect, new)| KvOp::Cas { expect, new }),
    ]
}

fn any_turns(clients: usize, longest: usize) -> impl Strategy<Value = Vec<Turn>> {
    vec((0..clients, any_op(), any::<u8>()), 0..longest)
}

fn random_turns(rng: &mut Pcg64, clients: usize, turns: usize, values: i64) -> Vec<Turn> {
    let op = |rng: &mut Pcg64| match rng.random_range(0..10) {
        0..5 => KvOp::Get,
        5..8 => set(rng.random_range(0..values)),
        8 => KvOp::Del,
        _ => KvOp::Incr(1),
    };
    (0..turns).map(|_| (rng.random_range(0..clients), op(rng), rng.random())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_one_object_answered_is_accepted(turns in any_turns(6, 300)) {
        check(&record("k", observe(6, 10, turns))).assert_linearizable();
    }

    #[test]
    fn small_histories_agree_with_brute_force(
        turns in any_turns(4, 24),
        loss in prop_oneof![Just(0_u8), Just(60)],
        (target, source) in any::<(usize, usize)>(),
    ) {
        let mut asked = observe(4, loss, turns);
        asked.truncate(8);
        falsify(&mut asked, target, source);
        let history = record("k", asked);
        match check(&history).verdict {
            Verdict::Linearizable => prop_assert!(has_an_order(&Kv, &history)),
            Verdict::Violated(violation) => {
                prop_assert!(!has_an_order(&Kv, &history));
                assert_witness_explains(&Kv, &history, &violation);
            }
            Verdict::Undecided { .. } => prop_assert!(false, "undecided"),
        }
    }

    #[test]
    fn hints_change_the_cost_but_not_the_verdict(
        turns in any_turns(4, 100),
        (target, source) in any::<(usize, usize)>(),
    ) {
        let mut asked = observe(4, 10, turns);
        falsify(&mut asked, target, source);
        let history = record("k", asked);
        let (hinted, mute) = (check(&history).verdict, check_by(&Mute, &history, 1_000_000).verdict);
        match (hinted, mute) {
            (Verdict::Violated(hinted), Verdict::Violated(mute)) => prop_assert_eq!(hinted.offender, mute.offender),
            (hinted, mute) => prop_assert_eq!(hinted, mute),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Stored(Option<Value>);

impl SequentialSpec for Stored {
    type Op = KvOp;
    type Ret = KvRet;

    fn invoke(&mut self, op: &KvOp) -> KvRet {
        let (next, ret) = Kv.step(&self.0, op);
        self.0 = next;
        ret
    }
}

/// Each operation is a thread of its own there: their tester lets no thread go on after a lost answer.
fn stateright_accepts(history: &KvHistory) -> bool {
    let mut events = Vec::new();
    for (thread, operation) in history.operations().iter().enumerate() {
        events.push((operation.invoked, thread, None));
        if let Outcome::Returned { returned, result } = operation.outcome {
            events.push((returned, thread, Some(result)));
        }
    }
    events.sort_by_key(|(stamp, ..)| *stamp);
    let mut tester = LinearizabilityTester::new(Stored(None));
    for (_, thread, result) in events {
        match result {
            None => tester.on_invoke(thread, history.operations()[thread].op).map(drop),
            Some(result) => tester.on_return(thread, result).map(drop),
        }
        .expect("threads that alternate");
    }
    tester.is_consistent()
}

#[test]
fn stateright_agrees_on_thousands_of_histories() {
    let mut rng = Pcg64::seed_from_u64(0x57a7e);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..6_000 {
        let turns = random_turns(&mut rng, 4, 20, 3);
        let mut asked = observe(4, if round % 2 == 0 { 0 } else { 40 }, turns);
        if round % 4 > 0 {
            falsify(&mut asked, rng.random_range(0..100), rng.random_range(0..100));
        }
        let history = record("k", asked);
        let ours = check(&history).verdict == Verdict::Linearizable;
        assert_eq!(ours, stateright_accepts(&history), "round {round}: {history:#?}");
        *if ours { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 1_000 && refused > 1_000, "one-sided: {accepted} accepted, {refused} refused");
}

/// What is done to a key besides reading it, half the time.
#[derive(Debug, Clone, Copy)]
enum Writes {
    /// A new value each time.
    Values,
    /// Likewise; one in five is a removal.
    ValuesAndDeletes,
    Increments,
}

/// What a key sees of a load that keeps `clients` requests in flight on it, and loses about `loss` in 128.
fn load(rng: &mut Pcg64, writes: Writes, clients: usize, loss: u8, operations: usize) -> Vec<Asked> {
    let turns: Vec<Turn> = (0..3 * operations as i64)
        .map(|value| {
            let op = match (writes, rng.random_range(0..10)) {
                (_, 0..5) => KvOp::Get,
                (Writes::Increments, _) => KvOp::Incr(1),
                (Writes::ValuesAndDeletes, 5) => KvOp::Del,
                _ => set(value),
            };
            (rng.random_range(0..clients), op, rng.random())
        })
        .collect();
    observe(clients, loss, turns)
}

/// Steps, not seconds: they are the same on every machine.
#[test]
fn a_hundred_thousand_operations_over_a_hundred_keys_take_few_steps() {
    let mut rng = Pcg64::seed_from_u64(11);
    let mut history = History::new();
    for key in 0..100 {
        let writes = [Writes::Values, Writes::ValuesAndDeletes, Writes::Increments][key % 3];
        history.append(record(key, load(&mut rng, writes, 4, 1, 1_000)));
    }
    assert!(history.len() > 99_000 && history.open() > 300, "{} and {}", history.len(), history.open());
    let report = check_by(&Kv, &history, 100_000);
    report.assert_linearizable();
    assert!(report.steps < 3 * 100_000, "{} steps", report.steps);
}

#[test]
fn sixty_four_clients_on_one_key_are_judged_in_few_steps() {
    let mut rng = Pcg64::seed_from_u64(12);
    let report = check(&record("k", load(&mut rng, Writes::Values, 64, 1, 20_000)));
    report.assert_linearizable();
    assert!(report.steps < 3 * 20_000, "{} steps", report.steps);
}

/// One read in a thousand operations gets the answer of another: there are too many orders to try them all.
#[test]
fn sixty_four_clients_on_one_key_do_not_hide_a_wrong_read() {
    let mut rng = Pcg64::seed_from_u64(13);
    let mut violated = 0;
    for writes in [Writes::Values, Writes::ValuesAndDeletes] {
        for _ in 0..40 {
            let mut asked = load(&mut rng, writes, 64, 1, 1_000);
            let is_read = |asked: &Asked| asked.1 == KvOp::Get && asked.3.is_some();
            let reads: Vec<usize> = (0..asked.len()).filter(|&i| is_read(&asked[i])).collect();
            let [lie, truth] = [(); 2].map(|()| reads[rng.random_range(0..reads.len())]);
            asked[lie].3 = asked[lie].3.zip(asked[truth].3).map(|((until, _), (_, answer))| (until, answer));
            let history = record("k", asked);
            match check(&history).verdict {
                Verdict::Linearizable => {}
                Verdict::Violated(found) => {
                    violated += 1;
                    assert_witness_explains(&Kv, &history, &found);
                    assert!(found.smallest, "{found}");
                }
                Verdict::Undecided { .. } => panic!("undecided among {writes:?}"),
            }
        }
    }
    assert!(violated > 50, "only {violated} lies showed");
}
