//! From one configuration to the next, as pure functions: what a leader appends, and what others may check it against.
//!
//! ```text
//!   plain --with_learners--> plain              nobody's vote moves: one entry
//!   plain --enter_joint----> joint --leave_joint--> plain
//!                              |
//!                              +---back_to_old----> plain     only by the leader that appended it, before it commits
//! ```
//!
//! In a joint configuration every count needs a majority of the old voters and one of the new ([`crate::quorum`]), so that
//! neither half can decide alone, whoever has heard of the change. Which of these steps a leader may take, and when, is the
//! machine's business: one change at a time, and each committed before the next.

use super::{Configuration, LIST_MEMBERS};
use crate::error::Error;
use crate::id::Member;

impl Configuration {
    /// Whether somebody votes, each list names a seat once and within 1 to 9, every node has an incarnation, and no voter is a
    /// learner too. A new life of a voter's seat may learn beside it. O(members²); the lists are short.
    pub fn is_well_formed(&self) -> bool {
        let list_is = |list: &[Member]| {
            let alone = |at: usize| list[..at].iter().all(|other| other.id.slot != list[at].id.slot);
            let seated = |member: &Member| (1..=LIST_MEMBERS as u8).contains(&member.id.slot.0);
            let lives = |member: &Member| member.id.incarnation.0 != 0;
            (0..list.len()).all(|at| alone(at) && seated(&list[at]) && lives(&list[at]))
        };
        let apart = self.learners.iter().all(|learner| !self.is_voter(learner.id));
        !self.voters.is_empty() && list_is(&self.voters) && list_is(&self.learners) && apart
    }

    /// The joint configuration on the way from this one to the voters and learners of `target`: old and new voters decide
    /// together. Voters stand in the order of their ids.
    ///
    /// # Errors
    /// This one is joint already, or the target is joint or not well formed.
    pub fn enter_joint(&self, target: &Configuration) -> Result<Configuration, Error> {
        if self.is_joint() {
            return Err(Error::ChangeInProgress);
        }
        if target.is_joint() || !target.is_well_formed() {
            return Err(Error::BadConfiguration);
        }
        let mut voters = target.voters.clone();
        voters.sort_unstable_by_key(|member| member.id);
        Ok(Configuration { voters, old_voters: self.voters.clone(), learners: target.learners.clone() })
    }

    /// What follows a joint configuration: the new voters alone, and the learners that did not become one. `None` where this
    /// one is not joint.
    pub fn leave_joint(&self) -> Option<Configuration> {
        if !self.is_joint() {
            return None;
        }
        let voters = self.voters.clone();
        let learners = self.learners.iter().filter(|learner| !voters.contains(learner)).copied().collect();
        Some(Configuration { voters, old_voters: Vec::new(), learners })
    }

    /// A joint configuration taken back: the old voters alone. `None` where this one is not joint.
    pub fn back_to_old(&self) -> Option<Configuration> {
        if !self.is_joint() {
            return None;
        }
        let voters = self.old_voters.clone();
        let learners = self.learners.iter().filter(|learner| !voters.contains(learner)).copied().collect();
        Some(Configuration { voters, old_voters: Vec::new(), learners })
    }

    /// A change in which nobody's vote moves: other learners. Safe in one step, since every quorum stays a quorum.
    ///
    /// # Errors
    /// This one is joint, or the result is not well formed.
    pub fn with_learners(&self, learners: &[Member]) -> Result<Configuration, Error> {
        if self.is_joint() {
            return Err(Error::ChangeInProgress);
        }
        let next = Configuration { learners: learners.to_vec(), ..self.clone() };
        if next.is_well_formed() { Ok(next) } else { Err(Error::BadConfiguration) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::member;
    use crate::id::{LogIndex, NodeId};
    use crate::quorum::{self, VoteResult};
    use proptest::prelude::*;

    fn plain() -> impl Strategy<Value = Configuration> {
        let seats = proptest::collection::vec(0u8..3, 9);
        seats.prop_filter_map("somebody votes", |seats| {
            let of = |kind: u8| {
                let seated = seats.iter().zip(1u8..).filter(|(seat, _)| **seat == kind).map(|(_, slot)| member(slot));
                seated.collect::<Vec<_>>()
            };
            let config = Configuration { voters: of(1), old_voters: Vec::new(), learners: of(2) };
            (!config.voters.is_empty()).then_some(config)
        })
    }

    fn won(config: &Configuration, side: &[bool]) -> bool {
        let vote = |id: NodeId| side[usize::from(id.slot.0) - 1].then_some(true);
        quorum::votes(config, vote) == VoteResult::Won
    }

    proptest! {
        #[test]
        fn through_joint_to_the_target_and_back(from in plain(), to in plain()) {
            let joint = from.enter_joint(&to).expect("both are plain");
            prop_assert_eq!((&joint.voters, &joint.old_voters), (&to.voters, &from.voters));
            prop_assert_eq!(joint.leave_joint(), Some(to.clone()));
            let back = joint.back_to_old().expect("joint");
            prop_assert_eq!(&back.voters, &from.voters);
            prop_assert!(back.learners.iter().all(|learner| !back.voters.contains(learner)));
            prop_assert_eq!(joint.enter_joint(&to), Err(Error::ChangeInProgress));
            prop_assert_eq!(from.enter_joint(&joint), Err(Error::BadConfiguration));
            prop_assert_eq!((from.leave_joint(), from.back_to_old()), (None, None));
        }

        /// Nobody can decide against the joint configuration, under the one before or the one after.
        #[test]
        fn a_joint_decision_needs_a_quorum_of_either_side(
            from in plain(), to in plain(), side in proptest::collection::vec(any::<bool>(), 9),
        ) {
            let joint = from.enter_joint(&to).expect("both are plain");
            let others: Vec<bool> = side.iter().map(|here| !here).collect();
            prop_assert!(!won(&joint, &side) || !won(&from, &others) && !won(&to, &others));
            prop_assert_eq!(won(&joint, &side), won(&from, &side) && won(&to, &side));
        }

        #[test]
        fn learners_move_no_vote(
            from in plain(), to in plain(), side in proptest::collection::vec(any::<bool>(), 9),
            matched in proptest::collection::vec(0u64..9, 9),
        ) {
            let free: Vec<Member> =
                to.learners.iter().filter(|learner| !from.is_voter(learner.id)).copied().collect();
            let next = from.with_learners(&free).expect("no voter among them");
            prop_assert_eq!(won(&next, &side), won(&from, &side));
            let at = |id: NodeId| LogIndex(matched[usize::from(id.slot.0) - 1]);
            prop_assert_eq!(quorum::committed(&next, at), quorum::committed(&from, at));
            let voter = from.voters[0];
            prop_assert_eq!(from.with_learners(&[voter]), Err(Error::BadConfiguration));
        }
    }

    #[test]
    fn what_is_not_well_formed_is_no_target() {
        let good = Configuration::of_voters(&[member(1), member(2)]);
        let nameless = Member { id: NodeId::new(3, 0), ..member(3) };
        let outside = Member { id: NodeId::new(10, 5), ..member(3) };
        let other_life = Member { id: NodeId::new(2, 999), ..member(2) };
        for bad in [vec![], vec![nameless], vec![outside], vec![member(2), other_life], vec![member(1), member(1)]] {
            let target = Configuration { voters: bad, ..Configuration::default() };
            assert_eq!(good.enter_joint(&target), Err(Error::BadConfiguration));
        }
        assert!(good.with_learners(&[other_life]).is_ok(), "it learns beside its earlier life");
        assert_eq!(good.with_learners(&[member(3), member(3)]), Err(Error::BadConfiguration));
    }
}
