//! A log on a disk that loses whatever it may: after each step of each history, every state that a loss of power could leave is
//! recovered, and is one that the log was in since its last acknowledgement.

mod harness;

use harness::crashes::{Crashes, History};

/// Every event of a hundred operations; every subset of what was under way, where that is no more than a few, with tears.
#[test]
fn every_state_that_a_crash_can_leave_is_one_that_was() {
    let crashes = Crashes::of(&History { seed: 1, writes: 100, subsets: 256, ..History::default() });
    println!("{crashes:?}");
    assert!(crashes.states > 1_000 && crashes.cut > 100, "{crashes:?}");
}

#[test]
fn so_it_is_where_writes_need_a_sync() {
    let history = History { seed: 2, writes: 100, durable_writes: false, ..History::default() };
    let crashes = Crashes::of(&history);
    println!("{crashes:?}");
    assert!(crashes.states > 1_000 && crashes.cut > 100, "{crashes:?}");
}

/// Many short histories, each with several lives.
#[test]
fn and_in_any_history() {
    let mut total = Crashes::default();
    for seed in 0..60 {
        let history =
            History { seed, operations: 40, lives: 4, subsets: 12, durable_writes: seed % 3 > 0, ..History::default() };
        total.add(&Crashes::of(&history));
    }
    println!("{total:?}");
    assert!(total.states > 20_000 && total.lives > 100 && total.snapshots > 20 && total.installs > 20, "{total:?}");
}
