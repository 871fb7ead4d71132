//! Does the suite bite? Each rule of `Fault` is broken on purpose, and the random walk's invariants must notice, or the history
//! that was written for it. The design's numbered rules, and the control of each part (`the_table_is_true` keeps it so):
//!
//! | rule | control |
//! |---|---|
//! | 1 exact counting by (slot, incarnation) | `a_new_life_taken_for_the_old` `lives_mixed_up_while_members_change` |
//! | 1 a sender outside the configuration is heard | `strangers_shut_out` |
//! | 1 a message of another cluster is dropped | `another_clusters_leader_heard` |
//! | 1 only a silent voter is swapped | `a_living_voter_replaced` |
//! | 2 who may cancel a joint entry | `an_inherited_change_taken_back` |
//! | 2 before it commits | `a_committed_change_taken_back` |
//! | 2 an inheritor finishes it under both halves | `a_joint_configuration_left_early` `joint_configurations_left_early_at_random` |
//! | 3 a read needs a round of its own | `a_read_without_a_round` `reads_before_the_terms_first_commit` |
//! | 3 acknowledgements answer no read | `a_delayed_acknowledgement_answers_a_read` |
//! | 3 boot nonce of a follower's read | `an_answer_to_another_run` |
//! | 3 an answer releases reads numbered earlier only | `an_answer_to_an_earlier_question` |
//! | 4 a lease runs from the send time of its round | `a_lease_from_the_arrival_of_an_echo` |
//! | 4 no vote for one lease after a start | `a_vote_right_after_the_start` |
//! | 4 no vote for one lease after the leader was heard | `a_vote_right_after_a_newer_term` |
//! | 4 TimeoutNow ends leasing | `a_lease_that_goes_on_in_a_transfer` |
//! | 4 whose death notice counts | `a_strangers_farewell_believed` |
//! | 4 a death notice leaves once reads have stopped | `a_leader_that_goes_on_after_its_farewell` |
//! | 4 the clock is read again | `an_answer_that_leaves_without_a_second_look_at_the_clock` |
//! | 5 acknowledgements cover what is durable, without a gap | `an_acknowledgement_before_it_is_durable` `persisted_by_index_only` |
//! | 5 a record counts once it is durable | `a_record_that_counts_before_it_is_written` |
//! | 5 damage is never cut | `damage_taken_for_a_torn_tail` |
//! | 5 nor hidden by a snapshot | `a_hole_hidden_by_a_snapshot` |
//! | 5 an unacknowledged tail is cut | `a_torn_tail_taken_for_damage` |
//! | a leader whose log device has stalled falls silent | `a_stalled_leader_that_opens_rounds` |
//! | names last before they are relied on | `a_directory_that_is_not_synced` |
//! | 6 reserved room | `no_room_reserved` |
//! | 6 reserved disk | `no_disk_reserved` |
//! | 6 what has reserved room passes beyond credit | `reserved_room_that_waits_for_credit` |
//! | 6 a probe ignores zero credit | `no_probe_without_credit` |
//! | 6 what a start reads back is bounded as memory is | `a_disk_that_holds_more_than_memory` |
//! | 6 conflict truncated before checking room | `room_asked_for_before_the_truncation` |
//! | 7 a majority of states decides | `states_not_compared` |
//! | 7 a minority leader hands over | `a_wrong_state_that_goes_on_leading` |
//! | 7 with no majority all halt | `three_states_that_go_on` `two_states_that_go_on` |
//! | 7 and fetch nothing | `a_state_thrown_away_unoutvoted` |
//! | 7 a fenced replica does not stand | `a_wrong_state_that_stands` |
//! | 7 a fenced replica goes on acknowledging and voting | `a_wrong_state_that_is_silent` `a_wrong_state_that_gives_no_vote` |
//! | 7 a fenced replica stops reads | `a_wrong_state_that_is_read` |
//! | 7 a fenced replica gives out no snapshot | `a_wrong_state_that_is_given_out` |
//! | 7 a fenced replica takes no snapshot | `a_wrong_state_that_is_replaced` |
//! | 8 a snapshot is one frozen point | `chunks_of_two_snapshots_mixed` |
//! | 8 a follower that sends one is not taken for the leader | `a_donor_taken_for_the_leader` |
//! | 8 what is verified resets on install | `verified_as_before_the_snapshot` |
//! | 8 what is durable resets on install | `durable_as_before_the_snapshot` |
//! | 9 an effect is open until it is done | `exactly_once_controls::an_effect_called_done_too_early` |
//! | 9 a new leader runs what is open | `exactly_once_controls::a_leader_that_runs_its_own_effects_only` |
//! | 10 the clean flag is cleared before the first acknowledgement | `acknowledged_while_the_disk_says_closed` |
//! | 10 the witness is told before an acknowledgement | `a_witness_that_is_not_told` |
//! | 10 no old incarnation short of its witness | `a_witness_that_is_not_heard` |
//! | 10 nor unclean in another run of the machine | `an_unclean_log_resumed` |
//! | 11 a lost last append is resent early | `a_lost_append_that_waits_for_the_heartbeat` |
//! | 11 the age of the leader's last quorum round | `an_age_from_the_arrival` |
//! | 11 Register evicts nobody live | `exactly_once_controls::a_table_that_evicts_the_live` |
//!
//! `exactly_once_controls` is a test program of rpc's.

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};

use harness::churn::{Churn, churn};
use harness::crashes::{Crashes, History};
use harness::walk::{Walk, walk};
use harness::{journal, reads, rules, staged};
use trimaran_raft::{Fault, Sabotage};

/// The words with which `history` breaks, if it does.
fn broken<R>(history: impl FnOnce() -> R) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(history)).err()?;
    let words = panic.downcast_ref::<String>().cloned();
    Some(words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned())).unwrap_or_default())
}

/// Some walk with the fault must break one of `invariants`.
#[track_caller]
fn assert_caught(fault: Fault, nodes: usize, invariants: &[&str]) {
    let plan = |seed| Walk { seed, nodes, steps: 2500, sabotage: Sabotage::only(fault) };
    let mut all = (0..400).filter_map(|seed| broken(|| walk(&plan(seed))));
    let found = all.find(|words| invariants.iter().any(|invariant| words.contains(invariant)));
    println!("{fault:?}: {found:?}");
    assert!(found.is_some(), "{fault:?} breaks no invariant in 400 walks");
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
    let words = broken(|| staged::figure_eight(Sabotage::only(Fault::CommitOldTerm)));
    assert!(words.is_some_and(|words| SAFETY.iter().any(|invariant| words.contains(invariant))));
}

#[test]
fn an_unverified_log_acknowledged() {
    assert_caught(Fault::AcknowledgeUnverified, 3, &SAFETY);
}

#[test]
fn a_commit_index_beyond_what_is_verified() {
    let words = broken(|| staged::heartbeat_over_a_foreign_tail(Sabotage::only(Fault::CommitUnclamped)));
    assert!(words.is_some_and(|words| SAFETY.iter().any(|invariant| words.contains(invariant))));
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
    let words = broken(|| staged::late_persisted(Sabotage::only(Fault::PersistedByIndexOnly)));
    assert!(words.is_some_and(|words| words.contains("durable acknowledgement")));
}

#[test]
fn an_acknowledgement_before_it_is_durable() {
    assert_caught(Fault::AcknowledgeVolatile, 3, &["durable acknowledgement"]);
}

#[test]
fn a_new_life_taken_for_the_old() {
    let words = broken(|| staged::amnesia(Sabotage::only(Fault::IgnoreIncarnation)));
    assert!(words.is_some_and(|words| words.contains("leader completeness")));
}

#[test]
fn states_not_compared() {
    let words = broken(|| staged::a_state_goes_wrong(Sabotage::only(Fault::IgnoreDigests)));
    assert!(words.is_some_and(|words| words.contains("a wrong state")));
}

#[test]
fn chunks_of_two_snapshots_mixed() {
    let words = broken(|| staged::sender_changes(Sabotage::only(Fault::MixSnapshots), false));
    assert!(words.is_some_and(|words| words.contains("a mixed snapshot")));
}

#[test]
fn a_joint_configuration_left_early() {
    let words = broken(|| staged::a_change_that_the_old_voters_miss(Sabotage::only(Fault::LeaveJointEarly)));
    println!("{words:?}");
    assert!(words.is_some_and(|words| SAFETY.iter().any(|invariant| words.contains(invariant))));
}

/// Some walk in which nodes forget and members change must break an invariant.
#[track_caller]
fn assert_caught_in_churn(fault: Fault) {
    let plan = |seed| Churn { seed, steps: 3000, gentle: false, sabotage: Sabotage::only(fault) };
    let mut all = (0..400).filter_map(|seed| broken(|| churn(&plan(seed))));
    let found = all.find(|words| SAFETY.iter().any(|invariant| words.contains(invariant)));
    println!("{fault:?}: {found:?}");
    assert!(found.is_some(), "{fault:?} breaks no invariant in 400 walks");
}

#[test]
fn lives_mixed_up_while_members_change() {
    assert_caught_in_churn(Fault::IgnoreIncarnation);
}

#[test]
fn joint_configurations_left_early_at_random() {
    assert_caught_in_churn(Fault::LeaveJointEarly);
}

/// A history about reads, with the fault on, must end in a stale read.
#[track_caller]
fn assert_stale<R>(fault: Fault, history: impl FnOnce(Sabotage) -> R) {
    let words = broken(|| history(Sabotage::only(fault)));
    println!("{fault:?}: {words:?}");
    assert!(words.is_some_and(|words| words.contains("stale read")));
}

#[test]
fn a_delayed_acknowledgement_answers_a_read() {
    assert_stale(Fault::AckAnswersRead, reads::delayed_acknowledgement);
}

#[test]
fn reads_before_the_terms_first_commit() {
    assert_stale(Fault::ReadBeforeCommit, reads::read_before_the_first_commit);
}

#[test]
fn an_answer_to_another_run() {
    let words = broken(|| reads::answer_to_another_run(Sabotage::only(Fault::AnswerOfAnyRun)));
    assert!(words.is_some_and(|words| words.contains("stale read") || words.contains("another run")));
}

#[test]
fn a_lease_from_the_arrival_of_an_echo() {
    assert_stale(Fault::LeaseFromAnswer, reads::late_echo);
}

#[test]
fn a_lease_that_goes_on_in_a_transfer() {
    assert_stale(Fault::LeaseInTransfer, reads::lease_in_transfer);
}

#[test]
fn a_leader_that_goes_on_after_its_farewell() {
    assert_stale(Fault::LeadAfterFarewell, reads::lease_after_a_farewell);
}

#[test]
fn a_vote_right_after_the_start() {
    assert_stale(Fault::VoteAfterStart, reads::restarted_voter);
}

#[test]
fn a_vote_right_after_a_newer_term() {
    assert_stale(Fault::VoteAfterNewTerm, reads::newer_term_meanwhile);
}

#[test]
fn an_answer_that_leaves_without_a_second_look_at_the_clock() {
    let words = broken(|| reads::paused_leader(false));
    assert!(words.is_some_and(|words| words.contains("stale read")));
}

#[test]
fn an_age_from_the_arrival() {
    assert_stale(Fault::AgeFromArrival, reads::paused_follower);
}

/// A history, with the fault on, must go wrong in these words.
#[track_caller]
fn assert_goes_wrong(fault: Fault, history: fn(Sabotage), expected: &str) {
    let words = broken(|| history(Sabotage::only(fault)));
    println!("{fault:?}: {words:?}");
    assert!(words.is_some_and(|words| words.contains(expected)), "{fault:?} is not noticed");
}

#[test]
fn a_living_voter_replaced() {
    assert_goes_wrong(Fault::ReplaceTheLiving, rules::second_node_in_a_seat, "a living voter is replaced");
}

#[test]
fn strangers_shut_out() {
    assert_goes_wrong(Fault::ShutStrangersOut, rules::the_complete_log_is_outside, "is not heard");
}

#[test]
fn an_inherited_change_taken_back() {
    assert_goes_wrong(Fault::InheritorCancels, rules::inherited_joint_configuration, "is taken back");
}

#[test]
fn a_strangers_farewell_believed() {
    assert_goes_wrong(Fault::BelieveAnyFarewell, rules::a_strangers_farewell, "stale read");
}

#[test]
fn no_room_reserved() {
    assert_goes_wrong(Fault::NoReservedRoom, rules::full_log_inherited, "a full log stops its new leader");
}

#[test]
fn reserved_room_that_waits_for_credit() {
    assert_goes_wrong(Fault::CreditBindsReserved, rules::full_log_inherited, "waits for credit");
}

#[test]
fn no_probe_without_credit() {
    assert_goes_wrong(Fault::CreditBindsProbes, rules::full_log_inherited, "is not probed");
}

#[test]
fn a_disk_that_holds_more_than_memory() {
    assert_goes_wrong(Fault::UnboundedUnsaved, rules::two_that_begin_again, "what was read back stays uncommitted");
}

#[test]
fn room_asked_for_before_the_truncation() {
    assert_goes_wrong(Fault::RoomBeforeTruncation, rules::full_of_what_is_replaced, "takes nothing in");
}

#[test]
fn a_wrong_state_that_stands() {
    assert_goes_wrong(Fault::FencedStands, rules::fenced_and_alone, "a replica whose state is wrong leads");
}

#[test]
fn a_lost_append_that_waits_for_the_heartbeat() {
    assert_goes_wrong(Fault::ResendAtHeartbeat, rules::lost_last_append, "waits for the next heartbeat");
}

#[test]
fn a_stalled_leader_that_opens_rounds() {
    assert_goes_wrong(Fault::StalledRounds, rules::stalled_and_asked, "reads keep a stalled leader in place");
}

#[test]
fn another_clusters_leader_heard() {
    assert_goes_wrong(Fault::IgnoreCluster, rules::another_clusters_leader, "another cluster's term is adopted");
}

#[test]
fn a_committed_change_taken_back() {
    assert_goes_wrong(Fault::CancelCommitted, rules::committed_joint_configuration, "what is committed is taken back");
}

#[test]
fn an_answer_to_an_earlier_question() {
    assert_goes_wrong(Fault::AnswerReleasesLater, rules::answer_to_an_earlier_question, "stale read");
}

#[test]
fn a_wrong_state_that_goes_on_leading() {
    assert_goes_wrong(Fault::MinorityLeads, rules::the_leaders_state_goes_wrong, "a state in the minority leads");
}

#[test]
fn a_donor_taken_for_the_leader() {
    let history = rules::a_chunk_before_the_leader_is_heard;
    assert_goes_wrong(Fault::ChunkFromLeader, history, "a donor is taken for the leader");
}

#[test]
fn three_states_that_go_on() {
    let history = |sabotage| drop(rules::no_state_has_a_majority(sabotage, false));
    assert_goes_wrong(Fault::GoOnWithoutMajority, history, "states without a majority go on");
}

#[test]
fn two_states_that_go_on() {
    let history = |sabotage| drop(rules::no_state_has_a_majority(sabotage, true));
    assert_goes_wrong(Fault::GoOnWithoutMajority, history, "states without a majority go on");
}

#[test]
fn a_state_thrown_away_unoutvoted() {
    let history = |sabotage| drop(rules::no_state_has_a_majority(sabotage, false));
    assert_goes_wrong(Fault::NobodyOutvotes, history, "a state is thrown away");
}

#[test]
fn a_wrong_state_that_is_read() {
    assert_goes_wrong(Fault::FencedReads, rules::fenced_and_asked, "a wrong state is read");
}

#[test]
fn a_wrong_state_that_is_silent() {
    assert_goes_wrong(Fault::FencedAcknowledgesNot, rules::fenced_and_needed, "does not acknowledge");
}

#[test]
fn a_wrong_state_that_gives_no_vote() {
    assert_goes_wrong(Fault::FencedVotesNot, rules::fenced_and_needed, "does not vote");
}

#[test]
fn a_wrong_state_that_is_given_out() {
    assert_goes_wrong(Fault::FencedGivesOut, rules::fenced_donor, "a wrong state is given out");
}

#[test]
fn a_wrong_state_that_is_replaced() {
    let history = |sabotage| drop(rules::fenced_midway(sabotage));
    assert_goes_wrong(Fault::FencedTakesSnapshots, history, "a wrong state is replaced");
}

#[test]
fn verified_as_before_the_snapshot() {
    assert_goes_wrong(Fault::VerifiedAcrossInstall, rules::installed_and_no_append, "durable acknowledgement");
}

#[test]
fn durable_as_before_the_snapshot() {
    assert_goes_wrong(Fault::DurableAcrossInstall, rules::installed_over_a_longer_log, "durable acknowledgement");
}

#[test]
fn the_table_is_true() {
    let rows = harness::table::rows(include_str!("negative_controls.rs"));
    assert!(rows.len() > 40, "{} rows", rows.len());
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/negative_controls.rs");
    for (rule, tests) in rows {
        for test in tests {
            let there = test.split_once("::").map(|(program, name)| {
                (format!("{}/../rpc/tests/{program}.rs", env!("CARGO_MANIFEST_DIR")), name.to_owned())
            });
            let (path, name) = there.unwrap_or_else(|| (here.to_owned(), test.clone()));
            assert!(harness::table::has_test(&path, &name), "{rule}: {test} is not there");
        }
    }
}

/// The walk with the very same plan and nothing broken passes: the controls fail for their fault alone.
#[test]
fn nothing_broken_nothing_caught() {
    for nodes in 3..=5 {
        for seed in 0..10 {
            walk(&Walk { seed, nodes, steps: 2500, sabotage: Sabotage::default() });
        }
    }
    for seed in 0..10 {
        churn(&Churn { seed, steps: 3000, gentle: false, sabotage: Sabotage::default() });
    }
    staged::figure_eight(Sabotage::default());
    staged::heartbeat_over_a_foreign_tail(Sabotage::default());
    staged::late_persisted(Sabotage::default());
    staged::amnesia(Sabotage::default());
    staged::a_state_goes_wrong(Sabotage::default());
    staged::sender_changes(Sabotage::default(), false);
    staged::a_change_that_the_old_voters_miss(Sabotage::default());
    let none = Sabotage::default();
    reads::delayed_acknowledgement(none);
    reads::read_before_the_first_commit(none);
    reads::answer_to_another_run(none);
    let ended = [
        reads::late_echo(none),
        reads::lease_in_transfer(none),
        reads::lease_after_a_farewell(none),
        reads::paused_leader(true),
    ];
    assert!(ended.iter().all(Result::is_err));
    assert!(reads::restarted_voter(none).is_ok() && reads::newer_term_meanwhile(none).is_ok());
    assert!(reads::paused_follower(none).is_err());
    rules::second_node_in_a_seat(none);
    rules::the_complete_log_is_outside(none);
    rules::inherited_joint_configuration(none);
    rules::a_strangers_farewell(none);
    rules::full_log_inherited(none);
    rules::full_of_what_is_replaced(none);
    rules::fenced_and_alone(none);
    rules::lost_last_append(none);
    rules::stalled_and_asked(none);
    rules::another_clusters_leader(none);
    rules::committed_joint_configuration(none);
    rules::answer_to_an_earlier_question(none);
    rules::the_leaders_state_goes_wrong(none);
    rules::a_chunk_before_the_leader_is_heard(none);
    rules::no_state_has_a_majority(none, false);
    rules::no_state_has_a_majority(none, true);
    rules::fenced_and_asked(none);
    rules::fenced_and_needed(none);
    rules::fenced_midway(none);
    rules::fenced_donor(none);
    rules::installed_and_no_append(none);
    rules::installed_over_a_longer_log(none);
    journal::torn(none);
    journal::without_room(none);
    journal::buffered_and_powerless(none);
    journal::buffered_and_put_back(none);
    journal::buffered_and_reopened(none);
}

/// Some history of a log with the fault must lose what was acknowledged.
#[track_caller]
fn assert_loses(fault: Fault) {
    let history = |seed| History {
        seed,
        operations: 60,
        lives: 2,
        subsets: 12,
        sabotage: Sabotage::only(fault),
        ..History::default()
    };
    let words = (0..20).filter_map(|seed| broken(|| Crashes::of(&history(seed)))).find(|words| words.contains("lost"));
    println!("{fault:?}: {words:?}");
    assert!(words.is_some(), "{fault:?} loses nothing in 20 histories");
}

#[test]
fn a_record_that_counts_before_it_is_written() {
    assert_loses(Fault::AcknowledgeBeforeWritten);
}

#[test]
fn a_directory_that_is_not_synced() {
    assert_loses(Fault::SkipDirectorySync);
}

#[test]
fn damage_taken_for_a_torn_tail() {
    let words = broken(|| journal::rotten(Sabotage::only(Fault::DamageAsTornTail)));
    assert!(words.is_some_and(|words| words.contains("denied")));
    journal::rotten(Sabotage::NONE);
}

#[test]
fn a_hole_hidden_by_a_snapshot() {
    assert_goes_wrong(Fault::ForgetFence, journal::hidden_hole, "denied");
}

#[test]
fn a_torn_tail_taken_for_damage() {
    assert_goes_wrong(Fault::TornTailAsDamage, journal::torn, "false damage");
}

#[test]
fn no_disk_reserved() {
    assert_goes_wrong(Fault::NoDiskReserve, journal::without_room, "keeps nothing in reserve");
}

#[test]
fn acknowledged_while_the_disk_says_closed() {
    assert_goes_wrong(Fault::AcknowledgeWhileClean, journal::buffered_and_reopened, "lost");
}

#[test]
fn a_witness_that_is_not_told() {
    assert_goes_wrong(Fault::SkipWitness, journal::buffered_and_put_back, "lost");
}

#[test]
fn a_witness_that_is_not_heard() {
    assert_goes_wrong(Fault::IgnoreWitness, journal::buffered_and_put_back, "lost");
}

#[test]
fn an_unclean_log_resumed() {
    assert_goes_wrong(Fault::ResumeUnclean, journal::buffered_and_powerless, "lost");
}
