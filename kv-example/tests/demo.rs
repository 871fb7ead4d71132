//! The demo itself: it succeeds, it says what it measured, and nothing of it stays behind.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Demos choose free ports and then start nodes on them: one at a time, or two could choose the same.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.arg("demo").args(args);
    command
}

/// Runs a demo that must succeed; returns what it said.
fn succeeds(args: &[&str]) -> String {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = demo(args).output().expect("kv runs");
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaint}");
    said.into_owned()
}

/// The value of a row of the table.
fn value(said: &str, name: &str) -> String {
    let line = said.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

fn assert_nothing_lost(said: &str) {
    let value = |name| value(said, name);
    assert_eq!(
        (value("lost"), value("doubled"), value("linearizable")),
        ("0".into(), "0".into(), "yes".into()),
        "{said}"
    );
    assert!(value("answered").parse::<u64>().is_ok_and(|answered| answered > 1000), "{said}");
    assert!(value("outage").parse::<u64>().is_ok_and(|ms| ms >= 20), "a dead leader is noticed after a while: {said}");
    let members = said.lines().filter(|line| line.contains("digest, node ") && line.contains(" at index "));
    assert_eq!(members.count(), 3, "{said}");
}

#[test]
fn a_cluster_is_killed_rolled_grown_and_shrunk_and_nothing_is_lost() {
    let said = succeeds(&["--outstanding", "8"]);
    assert_nothing_lost(&said);
    for phase in ["leader killed", "nodes rolled", "grown 3 -> 5", "shrunk 5 -> 3"] {
        assert!(value(&said, phase).parse::<u64>().is_ok(), "{phase}: {said}");
    }
    // In the middle there were five.
    assert!(said.contains("node 5 is added") && said.contains("node 5 is removed and has ended"), "{said}");
}

#[test]
fn a_follower_is_away_for_long_and_returns_by_a_snapshot() {
    let said = succeeds(&["--long", "100000"]);
    assert!(value(&said, "entries").parse::<u64>().is_ok_and(|entries| entries >= 100_000), "{said}");
    assert_eq!(value(&said, "linearizable"), "yes", "{said}");
    let members = said.lines().filter(|line| line.contains("digest, node ") && line.contains(" at index "));
    assert_eq!(members.count(), 3, "{said}");
}

#[test]
fn leaders_die_one_after_the_other_and_nothing_is_lost() {
    let said = succeeds(&["--seconds", "9", "--kill-every", "2", "--outstanding", "8"]);
    assert_nothing_lost(&said);
    assert!(value(&said, "kill 2").parse::<u64>().is_ok(), "{said}");
}

/// On disks, with snapshots all the time: one, several or all nodes at random.
#[test]
fn nodes_with_directories_are_killed_again_and_again_and_nothing_is_lost() {
    let data = std::env::temp_dir().join(format!("kv-demo-data-{}", std::process::id()));
    let said = succeeds(&["--data", data.to_str().expect("a plain path"), "--rounds", "4", "--outstanding", "8"]);
    let _ = fs::remove_dir_all(&data);
    let value = |name| value(&said, name);
    assert_eq!(
        (value("lost"), value("doubled"), value("linearizable")),
        ("0".into(), "0".into(), "yes".into()),
        "{said}"
    );
    assert_eq!(said.lines().filter(|line| line.contains("acknowledged writes looked for")).count(), 4, "{said}");
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let is_child = |stat: &String| {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let pids = stats.filter(is_child).filter_map(|stat| stat.split(' ').next().and_then(|pid| pid.parse().ok()));
    pids.filter_map(Pid::from_raw).collect()
}

/// However a demo ends, its nodes and its files end too: here by SIGKILL, which it cannot notice, and by Ctrl-C.
#[test]
fn a_killed_demo_leaves_no_node_behind() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for signal in ["-KILL", "-INT"] {
        let mut child = demo(&["--idle", "60"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kv runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let said = lines.next().and_then(Result::ok).unwrap_or_default();
        assert!(said.starts_with("3 nodes run"), "{said}");
        // Three nodes, and the one who removes the directory when nobody else can.
        let nodes = children(child.id());
        assert_eq!(nodes.len(), 4);
        let watched: Vec<_> = nodes.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it runs")).collect();
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        child.wait().expect("it ends");
        for node in &watched {
            let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(node, PollFlags::IN)], Some(&patience)).expect("poll works");
            assert_eq!(ended, 1, "a node outlives a demo ended by {signal}");
        }
        let directory = std::env::temp_dir().join(format!("kv-demo-{}", child.id()));
        assert!(!directory.exists(), "a demo ended by {signal} leaves its files");
    }
}
