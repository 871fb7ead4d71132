//! Random walks over pure machines: any order of deliveries, losses, repeats, timers, proposals, reads, crashes and slow
//! disks, with the invariants checked after every step.

mod harness;

use harness::walk::{Outcome, Walk, walk};
use trimaran_raft::Sabotage;

fn walks(seeds: std::ops::Range<u64>, nodes: usize) -> Outcome {
    seeds.map(|seed| walk(&Walk { seed, nodes, steps: 2500, sabotage: Sabotage::default() })).sum()
}

/// A walk in which nothing happens proves nothing.
fn assert_busy(total: Outcome, walks: u64) {
    println!("{total:?}");
    assert!(total.snapshots > walks / 10 && total.transfers > walks);
    assert!(total.lease_reads > walks && total.stale_reads > walks);
    assert!(total.elections > walks && total.committed > 20 * walks && total.reads > walks && total.crashes > 0);
}

#[test]
fn three_nodes_keep_the_invariants() {
    assert_busy(walks(0..100, 3), 100);
}

#[test]
fn five_nodes_keep_the_invariants() {
    assert_busy(walks(1000..1040, 5), 40);
}

#[test]
fn two_nodes_and_one_keep_the_invariants() {
    let two = walks(2000..2020, 2);
    assert!(two.elections > 20 && two.committed > 400 && two.crashes > 0, "{two:?}");
    assert!(walks(3000..3010, 1).committed > 100);
}

#[test]
fn one_seed_is_one_walk() {
    assert_eq!(walks(7..8, 3), walks(7..8, 3));
}
