//! Do the tests of reads bite? Each check that they are about is left out on purpose, and must be missed.

mod reads_support;

use reads_support::{MS, mixed_reads, stopped_before_the_answer};
use std::panic::{AssertUnwindSafe, catch_unwind};
use trimaran_raft::{Fault, Sabotage};
use trimaran_rpc::client::Consistency;

#[test]
fn an_answer_that_leaves_unchecked_is_old() {
    for wanted in [Consistency::Lease, Consistency::Stale { max: MS * 100 }] {
        let (answered, newest) = stopped_before_the_answer(wanted, Sabotage::only(Fault::ReleaseUnchecked));
        assert!(answered < newest, "{wanted}: {answered} has seen {newest}");
    }
}

#[test]
fn a_state_that_is_looked_at_too_early_is_found() {
    let run = || mixed_reads("too_early", 60, Sabotage::only(Fault::ReadUnapplied));
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("a state was looked at too early, and nobody noticed");
    let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(words.contains("it must see") || words.contains("no place for"), "{words}");
}
