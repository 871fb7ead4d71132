//! One readable test per case. What the design lists, and where it is; `the_table_is_true` keeps it so.
//!
//! | scenario | test |
//! |---|---|
//! | **Elections** | |
//! | basic | `elections::a_group_elects_one_leader_and_follows_it` |
//! | split votes over seeds | `elections::split_votes_end` |
//! | crash between vote and reply | `elections::a_crash_between_vote_and_reply_does_not_free_the_vote` |
//! | vote for self persisted | `elections::a_candidate_asks_only_when_its_own_vote_is_durable` |
//! | term and vote written separately (hashicorp/raft #661) | `elections::a_vote_is_answered_only_when_it_is_durable` |
//! | stale log refused | `elections::a_shorter_log_is_refused` `elections::a_vote_is_refused_to_a_shorter_log_whatever_the_pre_vote_said` |
//! | election timer and votes | `elections::a_voter_waits_for_the_candidate_it_chose_and_for_no_other` |
//! | minority keeps its term under pre-vote | `elections::a_minority_keeps_its_term` |
//! | the six-node state (openraft #1796) | `elections::six_nodes_with_long_old_and_short_new_logs_find_a_leader` |
//! | longer log of a lower term (etcd #8243, canonical/raft #279) | `elections::a_longer_log_of_a_lower_term_learns_the_term` |
//! | partitioned just after pre-vote | `elections::cut_off_just_after_the_pre_vote` |
//! | check-quorum step-down | `leadership::a_leader_without_a_quorum_steps_down` |
//! | isolated node rejoins without disruption | `elections::an_isolated_node_comes_back_without_disrupting` |
//! | one-way links: leader to follower | `elections::a_node_that_cannot_hear_the_leader_keeps_its_term_while_others_can` |
//! | one-way links: followers to leader | `leadership::a_leader_that_is_only_heard_steps_down` |
//! | one-way links: out of the leader | `leadership::a_leader_that_only_hears_is_replaced` |
//! | one-way links: out of a follower | `leadership::a_follower_that_cannot_answer_does_not_disrupt` |
//! | duplicated and delayed heartbeats of an old leader | `leadership::repeated_and_late_heartbeats_of_an_old_leader_change_nothing` |
//! | append of the candidate's own term | `elections::an_append_of_its_own_term_ends_a_candidacy` |
//! | absurd term jumps | `elections::an_absurd_term_is_dropped_and_a_large_one_followed` |
//! | stalled disk (hashicorp/raft #503, etcd #13527) | `leadership::a_leader_with_a_stalled_disk_loses_leadership` |
//! | failed fsync | `leadership::a_failed_disk_ends_leadership_and_the_node` |
//! | **Replication** | |
//! | Figure 8 | `replication::figure_eight` |
//! | back-tracking bound asserted | `replication::back_tracking_takes_a_message_for_each_term` |
//! | reordered, duplicated, lost appends and acks, window > 1 | `replication::loss_repetition_and_reordering_within_the_window` |
//! | window full by messages | `limits::the_window_closes_by_messages_and_opens_by_acknowledgements` |
//! | window full by bytes | `limits::the_window_closes_by_bytes` |
//! | zero-credit recovery | `limits::a_follower_without_room_is_sent_nothing_until_it_has_some` |
//! | acks of the durable prefix | `replication::a_follower_acknowledges_only_what_is_durable` |
//! | acks of the verified prefix | `replication::a_follower_acknowledges_only_what_this_leader_verified` |
//! | a late "persisted" (append ABA) | `replication::a_late_persisted_does_not_count_for_another_entry` |
//! | truncation of an unpersisted suffix | `replication::an_unpersisted_suffix_is_replaced` |
//! | commit index without a further round trip | `replication::the_commit_index_needs_no_further_round_trip` |
//! | heartbeat breaking log matching (hashicorp/raft #695) | `replication::a_commit_index_beyond_what_is_verified_is_clamped` |
//! | a lost last append | `replication::a_lost_last_append_is_sent_again_after_a_few_round_trips` |
//! | empty, oversized and largest entries | `limits::empty_largest_and_oversized_entries` |
//! | uncommitted budget | `limits::the_uncommitted_budget_refuses_and_frees` |
//! | no quorum, no growth | `limits::without_a_quorum_nothing_grows` |
//! | full log inherited | `limits::a_new_leader_of_a_full_log_commits_its_first_entry` |
//! | what a start reads back fits | `room::two_that_begin_again_have_room_for_what_the_other_has` |
//! | conflict truncated before checking room | `limits::a_log_full_of_what_is_replaced_takes_in_what_replaces_it` |
//! | applied > commit at restart (qdrant #1172) | `replication::nothing_is_applied_before_it_is_known_to_be_committed` |
//! | **Membership** | |
//! | add, remove | `membership::one_three_five_three_one_under_load` |
//! | replace | `membership::a_voter_is_replaced_by_another_seat` |
//! | leader removes itself | `membership::a_leader_removes_itself_and_says_so` |
//! | leader crash in every phase | `membership::the_leader_crashes_at_every_step` |
//! | inherited uncommitted joint entry (etcd #12136 #12359) | `membership::an_inherited_joint_configuration_is_finished_under_both_halves` |
//! | configuration effective on append (etcd #11284 #7280 #12133) | `membership::a_configuration_counts_from_the_moment_it_is_appended` |
//! | roll-back on truncation | `membership::a_configuration_that_is_cut_off_counts_no_more` |
//! | second change refused | `membership::a_second_change_is_refused` |
//! | removed node disruptive | `membership::a_removed_node_does_not_disrupt` |
//! | 2 -> 1 | `membership::from_two_to_one` |
//! | learner does not count | `membership::a_learner_follows_and_does_not_count` |
//! | learner promoted | `membership::a_learner_is_promoted_once_it_has_caught_up` |
//! | id reuse refused | `healing::a_voter_that_is_heard_is_not_replaced_by_another_life_of_its_seat` |
//! | the complete log outside the configuration | `membership::a_node_that_is_left_out_stands_until_that_is_committed` |
//! | configuration inside a snapshot | `membership::the_configuration_is_in_the_snapshot` |
//! | cancel a stuck change | `membership::a_stuck_change_is_taken_back_by_the_leader_that_began_it` |
//! | an inheritor does not cancel | `membership::an_inheritor_does_not_take_a_joint_configuration_back` |
//! | **Snapshots** | |
//! | lagging follower | `snapshots::a_lagging_follower_returns_while_the_others_go_on` |
//! | chunk lost, duplicated, reordered | `snapshots::chunks_lost_repeated_and_reordered` |
//! | receiver cut off and resumes | `snapshots::a_receiver_cut_off_midway_goes_on_where_it_was` |
//! | receiver crash | `snapshots::a_receiver_that_crashes_midway_begins_anew` |
//! | sender change | `snapshots::another_leader_goes_on_with_the_same_snapshot` |
//! | sender change at another hash | `snapshots::another_leaders_snapshot_of_the_same_entry_does_not_mix` |
//! | sender is a follower | `donors::a_follower_sends_the_snapshot_and_the_leader_goes_on` |
//! | sender dies midway | `donors::where_a_donor_dies_midway_the_leader_goes_on_with_the_same_bytes` |
//! | older snapshot late | `snapshots::an_older_snapshot_that_comes_late_is_ignored` |
//! | over a conflicting suffix | `snapshots::a_snapshot_replaces_a_conflicting_suffix` |
//! | duplicated append after a snapshot (willemt/raft #118) | `snapshots::a_repeated_append_after_a_snapshot_changes_nothing` |
//! | compaction during transfer | `snapshots::a_snapshot_whose_rest_has_left_the_log_is_taken_anew` |
//! | carries configuration and log time | `snapshots::it_votes_leads_and_tells_the_time_with_what_it_was_sent` |
//! | **Reads and transfer** | |
//! | before the first commit of the term (etcd #7331) | `reads::no_read_before_the_terms_first_commit` |
//! | partitioned old leader | `reads::a_partitioned_old_leader_answers_nothing` |
//! | paused old leader | `reads::a_paused_old_leader_answers_nothing` |
//! | paused old leader with a lease (etcd #20418) | `leases::a_leader_paused_in_the_middle_of_a_turn_answers_nothing` |
//! | a delayed acknowledgement | `reads::a_delayed_acknowledgement_releases_no_read` |
//! | clock rate | `leases::clocks_that_differ_as_much_as_is_allowed` |
//! | clock jumps | `leases::a_clock_that_jumps_ends_the_lease` |
//! | a vote after a start | `leases::a_voter_that_has_just_started_keeps_the_promise_it_may_have_given` |
//! | a vote after a newer term | `leases::a_voter_that_hears_of_a_newer_term_keeps_its_promise` |
//! | age of a paused follower's state | `freshness::heartbeats_that_waited_while_a_follower_was_stopped_are_old` |
//! | follower reads released by number | `asks::an_answer_releases_only_reads_that_were_numbered_earlier` |
//! | stale replies after a node rejoins (raft-rs #571) | `asks::an_answer_to_another_run_releases_nothing` |
//! | read during transfer (openraft #1747 #1749) | `transfer::reads_during_a_transfer_are_right_or_fail` |
//! | lease during transfer (openraft #1747 #1749) | `leases::no_lease_in_a_transfer` |
//! | transfer to a lagging target | `transfer::a_target_that_lags_is_refused_and_one_with_a_little_on_its_way_is_waited_for` |
//! | transfer to a dead target | `transfer::a_dead_target_is_refused_and_one_that_dies_meanwhile_costs_one_timeout` |
//! | transfer to a non-voter | `transfer::only_voters_of_the_newest_configuration_are_targets` |
//! | transfer to itself | `transfer::a_transfer_to_itself_is_refused_and_one_alone_has_nobody` |
//! | transfer stuck | `transfer::a_stuck_transfer_ends` |
//! | transfer stuck after step-down (hashicorp/raft #696) | `transfer::stepping_down_forgets_the_transfer` |
//! | two transfers | `transfer::a_second_transfer_is_refused_until_the_first_has_ended` |
//! | **Storage** | |
//! | crash at every write boundary | `storage::what_was_acknowledged_is_there_after_a_crash` |
//! | torn tail | `storage::a_torn_tail_is_cut` |
//! | overlapping writes | `storage::overlapping_writes_count_without_a_gap_only` |
//! | a tail that was cut | `storage::what_an_earlier_start_has_cut_stays_cut` |
//! | bit flip in the middle | `storage::a_bit_flip_in_the_middle_is_never_cut` |
//! | damage across restarts | `storage::damage_is_remembered_until_it_is_mended` |
//! | damage and votes | `damage::a_node_with_damage_gives_no_vote_to_a_log_without_what_it_lost` |
//! | damage is fetched | `damage::damage_is_mended_by_the_leader` |
//! | misdirected write | `storage::a_misdirected_write_is_found_out` |
//! | EIO | `storage::a_failed_write_ends_acknowledgements` |
//! | failed fsync | `storage::a_failed_sync_ends_acknowledgements` |
//! | stall | `storage::a_device_that_stalls_is_noticed_and_may_come_back` |
//! | ENOSPC | `storage::a_full_disk_keeps_a_reserve_and_recovers` |
//! | ENOSPC of a leader | `damage::a_leader_with_a_full_disk_refuses_and_recovers` |
//! | ENOSPC of a follower | `damage::a_follower_with_a_full_disk_takes_what_moves_the_group_on` |
//! | lost fsync | `storage::a_lost_sync_is_found_out_by_the_witness` |
//! | another cluster's log | `storage::a_disk_of_somebody_else_is_refused` |
//! | old format | `storage::another_format_is_refused` |
//! | rot in the superblock | `storage::a_superblock_survives_one_copy_and_not_two` |
//! | rot in a snapshot | `storage::rot_in_the_snapshot_is_damage_and_not_an_empty_log` |
//! | a log that grows | `storage::a_log_stays_short` |
//! | buffered, process killed | `storage::a_buffered_log_survives_the_end_of_the_process` |
//! | buffered, power lost | `storage::a_buffered_log_ends_its_life_with_the_power_unless_it_was_closed` |
//! | buffered, closed | `storage::a_buffered_log_says_that_it_is_closed_only_once_all_is_on_the_device` |
//! | buffered, another run of the machine | `storage::a_buffered_log_is_not_resumed_in_another_run_of_the_machine` |
//! | files used up | `upkeep::a_snapshot_is_wanted_once_more_than_half_of_the_files_are_in_use` |
//! | ENOSPC of a received snapshot | `upkeep::a_received_snapshot_without_room_is_tried_again_at_growing_intervals` |
//! | a received snapshot on a new disk | `upkeep::a_received_snapshot_waits_until_the_directory_is_in_order` |
//! | seals | `upkeep::a_log_that_is_slow_to_open_is_sealed_once_it_is_open` `upkeep::a_closed_log_is_not_sealed` |
//! | an old cluster's data | `seeding::a_seeded_disk_holds_exactly_what_it_was_given` |
//! | seeding, slow disk | `seeding::however_slow_the_disk_and_in_whatever_order_it_is_filled` |
//! | seeding, crash | `seeding::a_crash_meanwhile_leaves_a_part_and_nothing_else` |
//! | seeding, EIO | `seeding::a_disk_that_fails_at_any_moment_is_not_seeded` |
//! | seeding, ENOSPC | `seeding::a_disk_without_room_is_said_to_be_full` |
//! | a new life on an old disk | `storage::a_new_life_in_an_old_directory_begins_with_nothing` |
//! | **Volatile** | |
//! | amnesiac vote refused | `joining::a_vote_of_one_that_forgot_does_not_count` |
//! | a reused id asks and has no vote (openraft FAQ 09) | `joining::a_new_life_of_a_seat_asks_to_join_and_has_no_vote` |
//! | rejoin while the leader dies | `healing::the_leader_dies_while_another_rejoins` |
//! | f restarts heal, f + 1 stay down | `healing::two_of_five_heal_and_one_more_than_that_stays_down` |
//! | rolling restart | `healing::restarts_one_after_the_other_heal_twenty_times` |
//! | **States** | |
//! | minority fenced | `digests::a_follower_in_the_minority_is_fenced_and_goes_on_acknowledging` |
//! | no majority halts | `digests::three_states_of_three_halt_all` |
//! | a fenced replica answers nothing | `digests::a_fenced_replica_answers_no_read` |
//! | a fenced replica stands for nothing | `digests::a_fenced_replica_does_not_stand_even_where_nobody_else_can_win` |
//! | **Quiet groups** | |
//! | goes quiet and wakes | `quiet::an_idle_group_goes_quiet_and_stays_one_for_an_hour` `quiet::a_proposal_wakes_a_quiet_group_and_commits_at_once` |
//! | dead leader of a quiet group | `quiet::a_dead_leader_of_a_quiet_group_is_replaced_as_soon_as_somebody_asks` |
//! | a restart does not disrupt | `quiet::a_follower_that_starts_again_does_not_depose_a_quiet_leader` |
//! | **Memory** | |
//! | follower down (etcd #7162, scylladb #11559) | `limits::a_member_that_is_down_for_long_costs_a_cursor` |
//! | slow follower | `limits::a_slow_follower_costs_no_commit` |
//! | stuck follower that answers | `limits::a_live_follower_with_a_stalled_disk_costs_a_cursor` |
//! | follower slower than the load | `limits::a_follower_slower_than_the_load_does_not_throttle_it` |
//! | slow quorum | `limits::two_of_three_that_are_slow_hold_the_load_back` `limits::what_a_quorum_has_not_applied_stays` |
//! | full log of a lone voter | `limits::a_full_log_of_a_lone_voter_stops_waiting_for_a_silent_learner` |
//! | slow apply | `limits::a_slow_apply_task_refuses_early_and_recovers` |
//!
//! Not here: sessions, and that snapshots carry them (rpc's tests);
//! OmniPaxos's constrained election, in which Raft makes no progress: where only one node can reach a majority and another has
//! the newer entries, nobody wins until a link comes back.

#[path = "../harness/mod.rs"]
mod harness;

mod asks;
mod damage;
mod digests;
mod donors;
mod elections;
mod freshness;
mod healing;
mod joining;
mod leadership;
mod leases;
mod limits;
mod membership;
mod quiet;
mod reads;
mod replication;
mod room;
mod seeding;
mod snapshots;
mod stopped;
mod storage;
mod transfer;
mod upkeep;

/// Every test that the table names is there.
#[test]
fn the_table_is_true() {
    let rows = harness::table::rows(include_str!("main.rs"));
    assert!(rows.len() > 80, "{} rows", rows.len());
    for (scenario, tests) in rows {
        for test in tests {
            let (module, name) = test.split_once("::").expect("module::test");
            let path = format!("{}/tests/scenarios/{module}.rs", env!("CARGO_MANIFEST_DIR"));
            assert!(harness::table::has_test(&path, name), "{scenario}: {test} is not there");
        }
    }
}
