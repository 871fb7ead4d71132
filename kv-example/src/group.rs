//! A few keys as one object, for what looks at or changes several of them at one moment: scans and transactions.
//!
//! Histories are judged key by key, which says nothing of calls that span keys. These keys are therefore used by nothing
//! else, and judged together by a model that has all of them as its state.

use crate::load::Ask;
use crate::requests;
use crate::store::{Page, prefix_end};
use crate::txn::{Comparison, Guard, Op, OpResult, Test, Txn, TxnResult};
use trimaran_rpc::sim::linearizability::{Effect, Model};

/// Keys of the group.
pub const GROUP_KEYS: usize = 4;

/// In braces: all of them lie in one shard.
const PREFIX: &str = "{group}:";

/// The number that each key holds.
pub type Numbers = [Option<i64>; GROUP_KEYS];

/// What a client asks of the group. Keys are their numbers, below [`GROUP_KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupOp {
    /// All keys, by one scan.
    Scan,
    /// Stores one number, by a plain put.
    Put(u8, i64),
    /// A transaction: where the first key holds the number expected, both keys get new ones; else all keys are read.
    Move {
        /// The key that is looked at, and what it must hold; `None`: nothing.
        expect: (u8, Option<i64>),
        /// Two keys and their new numbers.
        put: [(u8, i64); 2],
    },
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRet {
    /// Stored.
    Done,
    /// What all keys hold: of a scan, or of a move whose guard failed.
    Numbers(Numbers),
}

/// The group as one object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Group;

impl Model for Group {
    type Op = GroupOp;
    type Ret = GroupRet;
    type State = Numbers;

    fn initial(&self) -> Numbers {
        Numbers::default()
    }

    fn step(&self, state: &Numbers, op: &GroupOp) -> (Numbers, GroupRet) {
        let mut next = *state;
        let mut store = |(key, number): (u8, i64)| {
            if let Some(place) = next.get_mut(usize::from(key)) {
                *place = Some(number);
            }
        };
        match *op {
            GroupOp::Scan => (*state, GroupRet::Numbers(*state)),
            GroupOp::Put(key, number) => {
                store((key, number));
                (next, GroupRet::Done)
            }
            GroupOp::Move { expect: (key, number), put } if state.get(usize::from(key)) == Some(&number) => {
                put.into_iter().for_each(store);
                (next, GroupRet::Done)
            }
            GroupOp::Move { .. } => (*state, GroupRet::Numbers(*state)),
        }
    }

    fn effect(&self, op: &GroupOp, ret: Option<&GroupRet>) -> Effect<Numbers> {
        match (op, ret) {
            (GroupOp::Scan, _) | (_, Some(GroupRet::Numbers(_))) => Effect::Reads,
            _ => Effect::Unknown,
        }
    }

    fn requires(&self, _op: &GroupOp, ret: &GroupRet) -> Option<Numbers> {
        match ret {
            GroupRet::Numbers(numbers) => Some(*numbers),
            GroupRet::Done => None,
        }
    }
}

/// The key of this number.
pub fn key(number: u8) -> Vec<u8> {
    format!("{PREFIX}{number}").into_bytes()
}

impl GroupOp {
    /// The request that does it.
    pub fn request(&self, body: &mut Vec<u8>) -> Ask {
        match *self {
            GroupOp::Scan => {
                requests::scan(PREFIX.as_bytes(), prefix_end(PREFIX.as_bytes()).as_deref(), GROUP_KEYS as u32 + 1, body)
            }
            GroupOp::Put(number, value) => requests::put(&key(number), value.to_string().as_bytes(), None, body),
            GroupOp::Move { expect: (first, expected), put } => {
                let test = match expected {
                    None => Test::Absent,
                    Some(number) => Test::Value(Comparison::Equal, number.to_string().into_bytes()),
                };
                let put = put.map(|(number, value)| Op::Put {
                    key: key(number),
                    value: value.to_string().into_bytes(),
                    ttl: None,
                });
                let txn = Txn {
                    guards: vec![Guard { key: key(first), test }],
                    then: put.to_vec(),
                    otherwise: (0..GROUP_KEYS as u8).map(|number| Op::Get { key: key(number) }).collect(),
                };
                requests::txn(&txn, body)
            }
        }
    }

    /// What the reply says; `None` where it can be no answer to this.
    pub fn result(&self, answered: &crate::load::Answered) -> Option<GroupRet> {
        match self {
            GroupOp::Put(..) => requests::result::<u64>(answered)?.ok().map(|_| GroupRet::Done),
            GroupOp::Scan => {
                let page: Page = requests::result(answered)?.ok()?;
                let mut numbers = Numbers::default();
                for item in &page.items {
                    let place = (0..GROUP_KEYS).find(|place| key(*place as u8) == item.key)?;
                    numbers[place] = Some(number(&item.value)?);
                }
                page.next.is_none().then_some(GroupRet::Numbers(numbers))
            }
            GroupOp::Move { .. } => match requests::result::<TxnResult>(answered)?.ok()? {
                TxnResult { held: true, results } => match results.as_slice() {
                    [OpResult::Put(first), OpResult::Put(second)] if first == second => Some(GroupRet::Done),
                    _ => None,
                },
                TxnResult { held: false, results } => {
                    let mut numbers = Numbers::default();
                    if results.len() != GROUP_KEYS {
                        return None;
                    }
                    for (place, result) in numbers.iter_mut().zip(results) {
                        let OpResult::Got(found) = result else { return None };
                        *place =
                            found.map(|found| number(&found.value)).map_or(Some(None), |number| number.map(Some))?;
                    }
                    Some(GroupRet::Numbers(numbers))
                }
            },
        }
    }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Answered;
    use crate::service::Kv;
    use trimaran_rpc::alone::Alone;
    use trimaran_rpc::r2p2::Status;
    use trimaran_rpc::service::Answer;

    /// The model and the store must say the same, or honest histories are accused.
    #[test]
    fn the_model_is_the_store() {
        let (mut kv, mut state) = (Alone::new(Kv::default()), Group.initial());
        let moves = |key, number, a, b| GroupOp::Move { expect: (key, number), put: [(0, a), (3, b)] };
        for op in [
            GroupOp::Scan,
            moves(1, Some(5), 1, 2),
            moves(1, None, 3, 4),
            GroupOp::Scan,
            GroupOp::Put(2, -6),
            moves(0, Some(3), 7, 8),
            moves(0, Some(3), 9, 10),
            GroupOp::Scan,
        ] {
            let mut body = Vec::new();
            let ask = op.request(&mut body);
            let (answer, body) = kv.call(ask.method, &body).expect("a method for clients");
            assert_eq!(answer, Answer::Ok);
            let (next, ret) = Group.step(&state, &op);
            assert_eq!(op.result(&Answered { status: Status::Ok, body }), Some(ret), "{op:?}");
            match Group.effect(&op, Some(&ret)) {
                Effect::Reads => assert_eq!(next, state),
                effect => assert_eq!(effect, Effect::Unknown),
            }
            assert!(Group.requires(&op, &ret).is_none_or(|before| before == state));
            state = next;
        }
        assert_eq!(state, [Some(7), None, Some(-6), Some(8)]);
    }

    #[test]
    fn another_answer_is_nonsense() {
        let answered = Answered { status: Status::Ok, body: vec![1, 2, 3] };
        let ops = [GroupOp::Scan, GroupOp::Put(0, 1), GroupOp::Move { expect: (0, None), put: [(0, 1), (1, 1)] }];
        for op in ops {
            assert_eq!(op.result(&answered), None);
        }
    }
}
