//! The trace is read back as a model outside would read it: is it a history, and does Raft's promise hold on it?

mod harness;

#[path = "harness/traced.rs"]
mod traced;

use harness::churn::{Churn, churn};
use harness::walk::{Walk, walk};
use harness::{Cluster, MS};
use traced::{check, record};
use trimaran_raft::{Input, Sabotage};

fn plan(seed: u64) -> Walk {
    Walk { seed, nodes: 3 + (seed % 3) as usize, steps: 1500, sabotage: Sabotage::default() }
}

#[test]
fn the_traces_of_random_walks_are_histories_on_which_raft_holds() {
    let (mut leaders, mut committed, mut recovered) = (0, 0, 0);
    for seed in 0..12 {
        let lines = record(|| {
            walk(&plan(seed));
        });
        let summary = check(&lines).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(summary.lines > 2000 && summary.received > 500, "{summary:?}");
        leaders += summary.leaders;
        committed += summary.committed;
        recovered += summary.recovered;
    }
    assert!(leaders > 24 && committed > 500 && recovered > 0, "{leaders} {committed} {recovered}");
}

#[test]
fn the_traces_of_changing_members_are_histories_too() {
    for seed in 0..6 {
        let plan = Churn { seed, steps: 1500, gentle: true, sabotage: Sabotage::default() };
        let lines = record(|| {
            churn(&plan);
        });
        let summary = check(&lines).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(summary.leaders > 0, "{summary:?}");
    }
}

/// What the checker is worth: a trace with one line changed is found to be none.
#[test]
fn a_forged_trace_is_found_out() {
    let lines = record(|| {
        let mut cluster = Cluster::new(3);
        cluster.elect(0);
        for byte in 0..5 {
            cluster.propose(0, &[byte]).expect("leads");
            cluster.run_for(5 * MS);
        }
        let _ = cluster.step(0, Input::Farewell);
        cluster.run_for(500 * MS);
    });
    let summary = check(&lines).expect("a history");
    assert_eq!((summary.leaders, summary.committed), (2, 8), "{summary:?}");
    let forge = |wanted: &dyn Fn(&str) -> bool, change: &dyn Fn(&str) -> String| {
        let at = lines.iter().position(|line| wanted(line)).expect("a line to forge");
        let mut forged = lines.clone();
        forged[at] = change(&forged[at]);
        check(&forged).expect_err("the forgery is believed")
    };
    let has = |words: &'static [&'static str]| move |line: &str| words.iter().all(|word| line.contains(word));
    let swap = |from: &'static str, to: &'static str| move |line: &str| line.replacen(from, to, 1);
    let leads = has(&["\"event\":\"receive\"", "\"role\":\"leader\""]);
    let asks = has(&["\"event\":\"send\"", "\"type\":\"vote\""]);
    assert!(forge(&asks, &swap("\"type\":\"vote\"", "\"type\":\"pre_vote\"")).contains("before it was sent"));
    let two =
        forge(&leads, &|line| line.replace("\"event\":\"receive\"", "\"event\":\"other\"").replacen("1#1", "3#1", 1));
    assert!(two.contains("election safety") || two.contains("without a quorum"), "{two}");
    let vote = has(&["\"type\":\"vote_reply\"", "\"event\":\"send\""]);
    assert!(forge(&vote, &swap("\"durable_vote\":\"1#1\"", "\"durable_vote\":null")).contains("not durable"));
    let ack = has(&["\"type\":\"ack\"", "\"event\":\"receive\"", "\"matched\":3"]);
    assert!(forge(&ack, &swap("\"matched\":3", "\"matched\":4")).contains("before it was sent"));
    let commits = has(&["\"role\":\"follower\"", "\"commit\":3", "\"terms\":[[1,1],[2,2]]"]);
    assert!(forge(&commits, &swap("\"terms\":[[1,1],[2,2]]", "\"terms\":[[1,1],[3,2]]")).contains("log matching"));
    let early = has(&["\"event\":\"persisted\"", "\"role\":\"leader\"", "\"last\":4", "\"commit\":3"]);
    assert!(forge(&early, &swap("\"commit\":3", "\"commit\":4")).contains("without a quorum"));
    let mut missing = lines.clone();
    missing.remove(7);
    assert!(check(&missing).is_err());
}

/// A rule that is broken on purpose shows on the trace alone.
#[cfg(feature = "sabotage")]
#[test]
fn a_broken_rule_shows_on_the_trace() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use trimaran_raft::Fault;
    for (fault, words) in [
        (Fault::VoteTwice, "two votes in one term"),
        (Fault::AcknowledgeVolatile, "what is not durable is acknowledged"),
        (Fault::HalfIsMajority, "without a quorum"),
        (Fault::CommitOldTerm, "an entry of an old term is committed by counting"),
    ] {
        let found = (0..400).any(|seed| {
            let plan = Walk { seed, nodes: 4, steps: 1500, sabotage: Sabotage::only(fault) };
            // The walk's own checks may stop it; what happened until then is recorded.
            let lines = record(|| drop(catch_unwind(AssertUnwindSafe(|| walk(&plan)))));
            check(&lines).is_err_and(|what| what.contains(words))
        });
        assert!(found, "{fault:?} does not show");
    }
}

#[test]
fn every_line_says_who_leads_as_far_as_its_node_knows() {
    let lines = record(|| {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
    });
    let of_node = |node: &str| {
        let own = format!("\"node\":\"{node}\"");
        let mut own = lines.iter().filter(|line| line.contains(&own)).map(String::as_str);
        (own.next().expect("a first line"), own.next_back().expect("a last line"))
    };
    for node in ["1#1", "2#1", "3#1"] {
        let (first, last) = of_node(node);
        assert!(first.contains("\"leader\":null"), "{first}");
        assert!(last.contains("\"leader\":\"2#1\""), "{last}");
    }
}

#[test]
fn nothing_is_recorded_before_and_after() {
    let lines = record(|| {});
    assert!(lines.is_empty());
    let mut cluster = Cluster::new(1);
    cluster.elect(0);
    assert!(record(|| drop(cluster.propose(0, b"x"))).len() > 1);
}

#[test]
fn one_seed_is_one_trace() {
    let trace = |seed| {
        record(|| {
            walk(&plan(seed));
        })
    };
    assert!(trace(3) == trace(3));
}
