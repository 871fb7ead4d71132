//! The commands that measure, from their start to their end, with clusters of their own. What they measure is not looked at: only
//! that all of it is there.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Two that look for free ports at the same time could choose the same.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn kv(args: &[&str]) -> String {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_kv")).args(args).output().expect("kv runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// Calls that ended, in whatever way: a busy machine may answer none in so short a time.
fn calls(row: &serde_json::Value) -> u64 {
    ["answered", "refused", "not_applied", "unknown"].iter().filter_map(|key| row[key].as_u64()).sum()
}

fn objects(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

#[test]
fn every_load_of_a_cluster_of_its_own_is_measured() {
    let few = ["bench", "--nodes", "3", "--json", "--seconds", "0.2", "--warmup", "0", "--keys", "50"];
    let more = ["--mix", "a,d,e,f", "--outstanding", "4", "--connections", "3", "--idle", "0.1"];
    let rows = objects(&kv(&[&few[..], &more].concat()));
    let [idle, loads @ ..] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(idle["cost"]["nodes"].as_array().map(Vec::len), Some(3), "{idle}");
    let mixes: Vec<&str> = loads.iter().filter_map(|row| row["mix"].as_str()).collect();
    assert_eq!(mixes, ["a", "d", "e", "f"]);
    for row in loads {
        assert!(calls(row) > 0, "{row}");
        assert_eq!(row["connections"], 3);
        let kinds: u64 =
            row["kinds_ns"].as_array().into_iter().flatten().filter_map(|kind| kind["answered"].as_u64()).sum();
        assert_eq!(Some(kinds), row["answered"].as_u64(), "{row}");
        let leads = |node: &&serde_json::Value| node["leads"] == true;
        let nodes = row["cost"]["nodes"].as_array().expect("what nodes cost");
        assert!(nodes.len() == 3 && nodes.iter().filter(leads).count() <= 1, "{row}");
    }
}

#[test]
fn durable_nodes_keep_their_logs_where_they_were_told_and_only_in_an_empty_place() {
    let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kv-bench-{}", std::process::id()));
    let place = data.to_str().expect("a plain path");
    let few =
        ["bench", "--nodes", "1", "--json", "--seconds", "0.2", "--warmup", "0", "--rate", "200", "--data", place];
    let rows = objects(&kv(&few));
    assert!(rows.len() == 1 && calls(&rows[0]) > 0, "{rows:?}");
    assert!(data.join("node1").is_dir());
    let again = Command::new(env!("CARGO_BIN_EXE_kv")).args(few).output().expect("kv runs");
    assert_eq!(again.status.code(), Some(2), "it is not empty any more");
    std::fs::remove_dir_all(data).expect("it is there");
}

#[test]
fn rows_for_a_table_of_systems_have_its_columns() {
    let out =
        kv(&["bench-peer", "--out", "1,8", "--ops", "put,read", "--value", "64", "--warmup", "0", "--measure", ".2"]);
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    let is_number = |column: &&str| column.parse::<f64>().is_ok();
    assert!(rows.iter().all(|row| row.len() == 13 && row[2..10].iter().all(is_number)), "{out}");
    let names: Vec<String> = rows.iter().map(|row| row[..3].join(" ")).collect();
    let of = |system: &str, ops: &[&str]| -> Vec<String> {
        ["1", "8"].iter().flat_map(|out| ops.iter().map(move |op| format!("{system} {op} {out}"))).collect()
    };
    let expected =
        [of("trimaran", &["put", "read"]), of("trimaran-together", &["put", "read"]), of("trimaran-echo", &["put"])];
    assert_eq!(names, expected.concat());
}

#[test]
fn leaders_are_killed_and_come_back_in_either_way() {
    for profile in ["us", "shared"] {
        let rows = objects(&kv(&["bench-failover", "--kills", "2", "--profile", profile, "--rate", "200", "--json"]));
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!(
            (&row["kills"], row["outages_ms"].as_array().map(Vec::len)),
            (&serde_json::json!(2), Some(2)),
            "{row}"
        );
        assert!(row["outage_ms"]["p50"].as_f64() > Some(0.0), "{row}");
    }
}
