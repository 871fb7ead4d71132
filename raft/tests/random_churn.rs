//! Random walks in which operators change the members and nodes forget everything, with the invariants checked after every
//! step.

mod harness;

use harness::churn::{Churn, Outcome, churn};
use trimaran_raft::Sabotage;

fn walks(seeds: std::ops::Range<u64>, gentle: bool) -> Outcome {
    seeds.map(|seed| churn(&Churn { seed, steps: 3000, gentle, sabotage: Sabotage::default() })).sum()
}

fn assert_busy(total: Outcome, walks: u64) {
    println!("{total:?}");
    assert!(total.elections > walks && total.committed > 20 * walks && total.forgot > walks / 2);
    assert!(total.changes > walks / 2 && total.cancelled > 0 && total.snapshots > 0 && total.transfers > 0);
}

#[test]
fn whoever_forgets_one_at_a_time_comes_back() {
    assert_busy(walks(0..60, true), 60);
}

/// However many forget: the group may stay down, and never contradicts itself.
#[test]
fn whoever_forgets_nothing_committed_is_contradicted() {
    assert_busy(walks(1000..1060, false), 60);
}
