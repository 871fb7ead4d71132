//! Three real nodes against a client that shares no code with them: `wire/r2p2_client.py`, written from the
//! description of R2P2 alone, sends every kind of exchange and every kind of bad input to leader and followers.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const SLOTS: [u8; 3] = [1, 2, 3];

/// Drops that the client's bad input must have brought about on each node.
const COUNTED: [&str; 17] = [
    "too_short",
    "wrong_magic",
    "wrong_header_size",
    "unknown_type",
    "unknown_policy",
    "peer_type",
    "single_count",
    "count_too_small",
    "too_many_packets",
    "no_pending_message",
    "order_out_of_range",
    "order_repeated",
    "early_last",
    "missing_last",
    "expired",
    "pending_per_source",
    "feedback_length",
];

/// Three nodes on addresses of their own, which end with the test.
struct Cluster {
    dir: PathBuf,
    nodes: Vec<(u8, Child)>,
}

impl Cluster {
    /// Starts the processes; does not wait for them.
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("kv-wire-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let mut cluster = Self { dir, nodes: Vec::new() };
        for slot in SLOTS {
            let mut text = format!("cluster = \"wire\"\nslot = {slot}\ndurability = \"volatile\"\n");
            for member in SLOTS {
                let host = host(member);
                text += &format!("[[member]]\nslot = {member}\nclient = \"{host}:8000\"\npeer = \"{host}:8100\"\n");
            }
            fs::write(cluster.config(slot), text).expect("just made");
            let log = File::create(cluster.log(slot)).expect("just made");
            let child = kv(&["serve", "--config"]).arg(cluster.config(slot)).stdin(Stdio::null()).stderr(log).spawn();
            cluster.nodes.push((slot, child.expect("kv runs")));
        }
        cluster
    }

    fn config(&self, slot: u8) -> PathBuf {
        self.dir.join(format!("node{slot}.toml"))
    }

    fn log(&self, slot: u8) -> PathBuf {
        self.dir.join(format!("node{slot}.log"))
    }

    /// Runs a `kv` command that must succeed, with the configuration of node 1; returns what it printed.
    fn says(&self, args: &[&str]) -> String {
        let output = kv(args).arg("--config").arg(self.config(1)).output().expect("kv runs");
        assert!(output.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&output.stderr), self.logs());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs the client against nodes; all its checks must pass.
    fn passes(&self, what: &str, slots: &[u8]) {
        let mut client = Command::new("python3");
        client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/r2p2_client.py"));
        for slot in slots {
            client.args(["--server", &format!("{}:8000", host(*slot))]);
        }
        let output = client.arg(what).stdin(Stdio::null()).output().expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(" checks, "), "{what} ended early: {}", String::from_utf8_lossy(&output.stderr));
        let failed: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
        assert!(output.status.success(), "{what}:\n{}\n{}", failed.join("\n"), self.logs());
    }

    fn kill(&mut self, slot: u8) {
        for (_, child) in self.nodes.iter_mut().filter(|(of, _)| *of == slot) {
            child.kill().and_then(|()| child.wait()).expect("it ran until now");
        }
    }

    fn assert_all_run(&mut self) {
        for (slot, child) in &mut self.nodes {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "node {slot} ended: {ended:?}");
        }
    }

    fn logs(&self) -> String {
        let log = |slot| format!("--- node {slot}\n{}", fs::read_to_string(self.log(slot)).unwrap_or_default());
        SLOTS.map(log).join("")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            let _ = child.kill().and_then(|()| child.wait());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An address of this process's own in 127/8, so that clusters side by side need no free ports.
fn host(slot: u8) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{low}.{slot}", 128 | (high >> 1))
}

fn kv(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(args);
    command
}

#[test]
fn an_independent_client_finds_the_wire_as_described() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: python3 is missing, and the independent client is written in it");
        return;
    }
    let mut cluster = Cluster::start();
    // Nobody has formed the cluster: the client's patience covers the start of the processes.
    cluster.passes("no-leader", &SLOTS);
    cluster.says(&["init", "--deadline", "20s"]);
    cluster.passes("suite", &SLOTS);
    cluster.assert_all_run();
    let status = cluster.says(&["status", "--json"]);
    let nodes: Vec<serde_json::Value> =
        status.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(nodes.len(), SLOTS.len(), "{status}");
    for node in &nodes {
        let counter = |name: &str| node["counters"][format!("r2p2.{name}")].as_u64();
        let silent: Vec<&str> = COUNTED.into_iter().filter(|name| counter(name).is_none_or(|n| n == 0)).collect();
        assert!(silent.is_empty(), "not counted by {}: {silent:?} of {}", node["address"], node["counters"]);
    }
    // A majority dies: whoever is left soon knows that it has no leader, whichever it was before.
    cluster.kill(2);
    cluster.kill(3);
    cluster.passes("no-leader", &[1]);
}
