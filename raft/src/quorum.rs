//! Counting: what a majority has, and who won. Pure, by exact (slot, incarnation), in each half of a joint
//! configuration. The machine counts with nothing else; public, so that tests and models can.

use smallvec::SmallVec;

use crate::config::{Configuration, LIST_MEMBERS};
use crate::id::{LogIndex, Member, NodeId};

/// Where an election stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VoteResult {
    /// Neither can be said yet.
    Pending,
    /// A majority of each half granted.
    Won,
    /// A majority of some half can no longer be reached.
    Lost,
}

/// Voters needed of `voters`.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// What is committed where `matched` is what each voter has durable: the largest index that a majority of each half has
/// reached; 0 without voters. That the entry there is of the leader's own term is for the caller to see to. O(voters log voters).
pub fn committed(config: &Configuration, matched: impl Fn(NodeId) -> LogIndex) -> LogIndex {
    reached(config, matched)
}

/// The largest value that a majority of each half has reached, `T::default()` without voters. O(voters log voters).
pub fn reached<T: Copy + Ord + Default>(config: &Configuration, value: impl Fn(NodeId) -> T) -> T {
    reached_by(config, value, majority)
}

/// As [`reached`], with `needed(voters)` in the majority's place.
pub(crate) fn reached_by<T: Copy + Ord + Default>(
    config: &Configuration,
    value: impl Fn(NodeId) -> T,
    needed: fn(usize) -> usize,
) -> T {
    let half = |voters: &[Member]| {
        let mut values: SmallVec<[T; LIST_MEMBERS]> = voters.iter().map(|member| value(member.id)).collect();
        values.sort_unstable_by(|a, b| b.cmp(a));
        needed(voters.len()).checked_sub(1).and_then(|at| values.get(at).copied()).unwrap_or_default()
    };
    let new = half(&config.voters);
    if config.is_joint() { new.min(half(&config.old_voters)) } else { new }
}

/// Counts `vote` over the configuration: `Some(true)` granted, `Some(false)` refused, `None` not heard.
pub fn votes(config: &Configuration, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    votes_by(config, vote, majority)
}

/// As [`votes`], with `needed(voters)` in the majority's place.
pub(crate) fn votes_by(
    config: &Configuration,
    vote: impl Fn(NodeId) -> Option<bool>,
    needed: fn(usize) -> usize,
) -> VoteResult {
    let half = |voters: &[Member]| {
        let needed = needed(voters.len());
        let granted = voters.iter().filter(|member| vote(member.id) == Some(true)).count();
        let refused = voters.iter().filter(|member| vote(member.id) == Some(false)).count();
        if granted >= needed {
            VoteResult::Won
        } else if voters.len() - refused < needed {
            VoteResult::Lost
        } else {
            VoteResult::Pending
        }
    };
    let new = half(&config.voters);
    if !config.is_joint() {
        return new;
    }
    match (new, half(&config.old_voters)) {
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        _ => VoteResult::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn config(new: &[u8], old: &[u8]) -> Configuration {
        Configuration {
            voters: new.iter().map(|slot| member(*slot)).collect(),
            old_voters: old.iter().map(|slot| member(*slot)).collect(),
            learners: Vec::new(),
        }
    }

    fn halves() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let half = proptest::sample::subsequence((1u8..=9).collect::<Vec<_>>(), 0..=9);
        (half.clone(), half)
    }

    proptest! {
        /// `reached` is the largest value that a strict majority of each half has: checked by counting.
        #[test]
        fn reached_is_the_largest_majority_value(
            (new, old) in halves(), values in proptest::collection::vec(0u64..6, 9),
        ) {
            let config = config(&new, &old);
            let of = |id: NodeId| values[usize::from(id.slot.0) - 1];
            let has = |half: &[u8], at: u64| {
                half.is_empty() || half.iter().filter(|s| values[usize::from(**s) - 1] >= at).count() * 2 > half.len()
            };
            let expected =
                if new.is_empty() { 0 } else { (0..6).rev().find(|at| has(&new, *at) && has(&old, *at)).unwrap_or(0) };
            prop_assert_eq!(reached(&config, of), expected);
        }

        /// Two disjoint sets of granting voters can never both win; unheard voters decide nothing.
        #[test]
        fn two_winners_share_a_voter((new, old) in halves(), side in proptest::collection::vec(0u8..3, 9)) {
            let config = config(&new, &old);
            let vote = |mine: u8| {
                let side = &side;
                votes(&config, move |id: NodeId| (side[usize::from(id.slot.0) - 1] == mine).then_some(true))
            };
            prop_assert!(!(vote(0) == VoteResult::Won && vote(1) == VoteResult::Won));
            if !new.is_empty() {
                prop_assert_eq!(votes(&config, |_| None), VoteResult::Pending);
                prop_assert_eq!(votes(&config, |_| Some(true)), VoteResult::Won);
            }
        }

        /// A verdict never changes as more votes come in.
        #[test]
        fn a_verdict_is_final((new, old) in halves(), ballots in proptest::collection::vec((1u8..=9, any::<bool>()), 0..20)) {
            let config = config(&new, &old);
            let mut heard = BTreeMap::new();
            let mut verdict = VoteResult::Pending;
            for (slot, granted) in ballots {
                heard.entry(slot).or_insert(granted);
                let now = votes(&config, |id| heard.get(&id.slot.0).copied());
                prop_assert!(verdict == VoteResult::Pending || verdict == now);
                verdict = now;
            }
        }
    }

    #[test]
    fn another_incarnation_of_a_voter_does_not_count() {
        let config = config(&[1, 2, 3], &[]);
        let stranger = NodeId::new(2, 999);
        assert_eq!(votes(&config, |id| (id == stranger || id.slot.0 == 1).then_some(true)), VoteResult::Pending);
    }

    #[test]
    fn without_voters_nothing_is_reached() {
        let empty = Configuration::default();
        assert_eq!(reached(&empty, |_| 7u64), 0);
        assert_ne!(votes(&empty, |_| Some(true)), VoteResult::Won);
    }
}
