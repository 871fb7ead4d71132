//! Does the suite bite? Each rule of `Fault` is broken on purpose, and the random walk's invariants must notice.

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::walk::{Walk, walk};
use trimaran_raft::{Fault, Sabotage};

/// Walks with the fault until an invariant breaks; the words that it broke with.
fn caught_by(fault: Fault, nodes: usize, seeds: u64) -> Option<String> {
    (0..seeds).find_map(|seed| {
        let plan = Walk { seed, nodes, steps: 2500, sabotage: Sabotage::only(fault) };
        let broken = catch_unwind(AssertUnwindSafe(|| walk(&plan))).err()?;
        let words = broken.downcast_ref::<String>().cloned();
        println!("{fault:?} after {seed} walks: {words:?}");
        Some(words.or_else(|| broken.downcast_ref::<&str>().map(|words| (*words).to_owned())).unwrap_or_default())
    })
}

/// One of `invariants` must be what breaks: a fault that shows as something else is not understood.
#[track_caller]
fn assert_caught(fault: Fault, nodes: usize, invariants: &[&str]) {
    let words = caught_by(fault, nodes, 400).expect("the invariants do not notice");
    assert!(invariants.iter().any(|invariant| words.contains(invariant)), "{fault:?} shows as: {words}");
}

const SAFETY: [&str; 5] =
    ["election safety", "leader completeness", "state machine safety", "log matching", "stale read"];

#[test]
fn half_a_majority() {
    assert_caught(Fault::HalfIsMajority, 4, &SAFETY);
}

#[test]
fn a_vote_given_twice() {
    assert_caught(Fault::VoteTwice, 3, &["one vote", "durable vote"]);
}

#[test]
fn a_vote_for_a_shorter_log() {
    assert_caught(Fault::VoteForStaleLog, 3, &SAFETY);
}

#[test]
fn an_old_term_committed_by_counting() {
    assert_caught(Fault::CommitOldTerm, 5, &SAFETY);
}

#[test]
fn an_unverified_log_acknowledged() {
    assert_caught(Fault::AcknowledgeUnverified, 3, &SAFETY);
}

#[test]
fn a_commit_index_beyond_what_is_verified() {
    assert_caught(Fault::CommitUnclamped, 3, &SAFETY);
}

#[test]
fn a_read_without_a_round() {
    assert_caught(Fault::ReadWithoutRound, 3, &["stale read"]);
}

#[test]
fn an_append_after_anything() {
    assert_caught(Fault::SkipPreviousCheck, 3, &SAFETY);
}

#[test]
fn persisted_by_index_only() {
    assert_caught(Fault::PersistedByIndexOnly, 3, &["durable acknowledgement"]);
}

#[test]
fn an_acknowledgement_before_it_is_durable() {
    assert_caught(Fault::AcknowledgeVolatile, 3, &["durable acknowledgement"]);
}

/// The walk with the very same plan and nothing broken passes: the controls fail for their fault alone.
#[test]
fn nothing_broken_nothing_caught() {
    for nodes in 3..=5 {
        (0..10).for_each(|seed| drop(walk(&Walk { seed, nodes, steps: 2500, sabotage: Sabotage::default() })));
    }
}
