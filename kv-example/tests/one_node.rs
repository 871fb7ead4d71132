//! A cluster of one real process, from its start to its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A node that ends with the test, and its configuration.
struct Node {
    child: Child,
    config: PathBuf,
}

impl Node {
    /// Starts a node on free ports and returns when it says that it serves.
    fn start(name: &str) -> Self {
        let sockets = [UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")];
        let [client, peer] = sockets.map(|socket| socket.and_then(|socket| socket.local_addr()).expect("a free port"));
        let config = std::env::temp_dir().join(format!("kv-test-{}-{name}.toml", std::process::id()));
        let text = format!(
            "cluster = \"t\"\nslot = 1\ndurability = \"volatile\"\n[[member]]\nslot = 1\nclient = \"{client}\"\npeer = \"{peer}\"\n"
        );
        fs::write(&config, text).expect("the temporary directory is writable");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kv"))
            .args(["serve", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("kv runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("serves clients on")));
        assert!(said.is_some(), "the node says that it serves");
        Node { child, config }
    }

    fn kv(&self, args: &[&str]) -> Output {
        let config = self.config.to_str().expect("a plain path");
        Command::new(env!("CARGO_BIN_EXE_kv")).args(args).args(["--config", config]).output().expect("kv runs")
    }

    /// Runs a command that must succeed; returns what it printed.
    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.kv(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command that must fail; returns its exit code and the first line of its complaint.
    fn refuses(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.kv(args);
        let complaint = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("").to_owned();
        (output.status.code(), complaint)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

#[test]
fn a_node_waits_for_init_then_serves() {
    let node = Node::start("serves");
    assert_eq!(node.refuses(&["set", "k", "v", "--deadline", "200ms"]).0, Some(4));
    assert!(node.says(&["status"]).contains("not formed: `kv init --config node.toml`"));
    assert!(node.says(&["init"]).starts_with("formed cluster "));

    assert_eq!(node.says(&["set", "k", "v"]), "OK\n");
    assert_eq!(node.says(&["get", "k"]), "v\n");
    assert_eq!(node.says(&["get", "k", "--stale"]), "v\n");
    assert_eq!(node.says(&["get", "none"]), "(nil)\n");
    assert_eq!(node.says(&["incr", "n"]), "1\n");
    assert_eq!(node.says(&["del", "k", "none"]), "1\n");
    assert_eq!(node.says(&["set", "n", "text"]), "OK\n");
    let (code, complaint) = node.refuses(&["incr", "n"]);
    assert_eq!(
        (code, complaint.as_str()),
        (Some(1), "error[E0308]: the service refused: ERR value is not an integer or out of range")
    );

    let status = node.says(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("one JSON object");
    assert_eq!((&status["role"], &status["total"]), (&"leader".into(), &1.into()));

    let (code, complaint) = node.refuses(&["init"]);
    assert_eq!(code, Some(4));
    assert!(complaint.starts_with("error[E0304]: ") && complaint.contains("already belongs to cluster"), "{complaint}");
}

#[test]
fn bench_measures_what_it_did() {
    let node = Node::start("bench");
    node.says(&["init"]);
    for (op, pace) in [("put", ["--outstanding", "8"]), ("get", ["--rate", "500"]), ("echo", ["--outstanding", "1"])] {
        let args = ["bench", "--op", op, pace[0], pace[1], "--keys", "50", "--seconds", "1", "--warmup", "0", "--json"];
        let result: serde_json::Value = serde_json::from_str(&node.says(&args)).expect("one JSON object");
        assert!(result["answered"].as_u64() > Some(0), "{result}");
        assert_eq!((&result["op"], &result["refused"]), (&op.into(), &0.into()), "{result}");
        assert!(result["latency_ns"]["p50"].as_u64() <= result["latency_ns"]["max"].as_u64(), "{result}");
    }
}

#[test]
fn a_signal_ends_a_node_in_good_order() {
    let mut node = Node::start("signal");
    let pid = node.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert_eq!(node.child.wait().expect("it ends").code(), Some(0));
}
