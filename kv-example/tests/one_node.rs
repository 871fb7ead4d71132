//! A cluster of one real process, from its start to its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A node that ends with the test, and its configuration.
struct Node {
    child: Child,
    config: PathBuf,
}

impl Node {
    /// Starts a node on free ports and returns when it says that it serves.
    fn start(name: &str) -> Self {
        Node::start_with(name, "")
    }

    /// With `more` in its configuration.
    fn start_with(name: &str, more: &str) -> Self {
        let sockets = [UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")];
        let [client, peer] = sockets.map(|socket| socket.and_then(|socket| socket.local_addr()).expect("a free port"));
        let config = std::env::temp_dir().join(format!("kv-test-{}-{name}.toml", std::process::id()));
        let text = format!(
            "cluster = \"t\"\nslot = 1\ndurability = \"volatile\"\n{more}\n[[member]]\nslot = 1\nclient = \"{client}\"\npeer = \"{peer}\"\n"
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

/// What a node answers does not depend on the thread that its handlers have.
#[test]
fn handlers_may_have_a_thread_of_their_own() {
    let node = Node::start_with("applier", "[cores]\napplier = true");
    assert!(node.says(&["init"]).starts_with("formed cluster "));
    assert_eq!(node.says(&["put", "k", "v"]), "version 1\n");
    assert_eq!(node.says(&["get", "k"]), "v\n");
    assert_eq!(node.says(&["get", "k", "--stale"]), "v\n");
    assert_eq!(node.says(&["put", "gone", "soon", "--ttl", "1ms"]), "version 2\n");
    let is_gone = || node.says(&["get", "gone"]) == "(nil)\n";
    assert!((0..1000).any(|_| is_gone()), "a timer of the log fires there, too");
    let tasks = fs::read_dir(format!("/proc/{}/task", node.child.id())).expect("Linux");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    assert!(names.collect::<Vec<_>>().iter().any(|name| name.starts_with("applier 1")));
}

/// Beside a pinned core, which it is to relieve, and not on that core's processor as a thread of Linux would be.
#[test]
fn an_applier_stays_where_it_is_told_to_or_goes_where_the_process_may() {
    let allowed = processors("/proc/self/status");
    let numbers: Vec<&str> = allowed.split([',', '-']).collect();
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    if first == last {
        println!("only one processor is allowed here: this shows little");
    }
    for (of, key, expected) in
        [("free", String::new(), allowed.as_str()), ("pinned", format!("applier_cpus = [{last}]"), last)]
    {
        let node = Node::start_with(of, &format!("[cores]\ncpus = [{first}]\napplier = true\n{key}"));
        let process = format!("/proc/{}", node.child.id());
        let tasks = fs::read_dir(format!("{process}/task")).expect("Linux").map(|task| task.expect("a task").path());
        let is_applier =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("applier 1"));
        let applier = tasks.into_iter().find(is_applier).expect("an applier");
        assert_eq!(processors(applier.join("status")), expected, "{of}");
        assert_eq!(processors(format!("{process}/status")), first, "{of}");
    }
}

/// Those on which a thread may run, as the kernel lists them: `0-3,8`.
fn processors(status: impl AsRef<Path>) -> String {
    let status = fs::read_to_string(status).expect("Linux");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a thread has some");
    list.trim().to_owned()
}

#[test]
fn a_node_waits_for_init_then_serves() {
    let node = Node::start("serves");
    assert_eq!(node.refuses(&["set", "k", "v", "--deadline", "200ms"]).0, Some(4));
    assert!(node.says(&["status"]).contains("not formed: `kv init --config node.toml`"));
    assert!(node.says(&["init"]).starts_with("formed cluster "));

    assert_eq!(node.says(&["put", "k", "v"]), "version 1\n");
    assert_eq!(node.says(&["get", "k"]), "v\n");
    assert_eq!(node.says(&["get", "k", "--stale"]), "v\n");
    assert_eq!(node.says(&["get", "none"]), "(nil)\n");
    assert_eq!(node.says(&["incr", "n"]), "1\n");
    assert_eq!(node.says(&["del", "k", "none"]), "1\n");
    assert_eq!(node.says(&["set", "n", "text"]), "version 4\n");
    let (code, complaint) = node.refuses(&["incr", "n"]);
    assert_eq!(
        (code, complaint.as_str()),
        (Some(1), "error[E0308]: the service refused: the value is not an integer or out of range")
    );

    let status = node.says(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("one JSON object");
    assert_eq!((&status["role"], &status["total"]), (&"leader".into(), &1.into()));

    let (code, complaint) = node.refuses(&["init"]);
    assert_eq!(code, Some(4));
    assert!(complaint.starts_with("error[E0304]: ") && complaint.contains("already belongs to cluster"), "{complaint}");
}

/// Every command once, and the answers that scripts read.
#[test]
fn every_call_can_be_made_from_a_terminal() {
    let node = Node::start("calls");
    node.says(&["init"]);
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&node.says(&[args, &["--json"]].concat())).expect("one JSON object")
    };

    assert_eq!(node.says(&["cas", "k", "a", "--if-absent"]), "version 1\n");
    assert_eq!(node.says(&["cas", "k", "b", "--if-value", "a"]), "version 2\n");
    let put = json(&["put", "k", "c", "--if-version", "2"]);
    assert_eq!(put["version"], 3);
    let own = format!("at-least={}", put["index"]);
    for how in [&own, "linearizable", "stale=500ms", "any"] {
        assert_eq!(node.says(&["get", "k", "--consistency", how, "--replica", "1"]), "c\n", "{how}");
    }
    let (code, complaint) = node.refuses(&["get", "k", "--consistency", "lease"]);
    assert!(code == Some(4) && complaint.contains("[reads]"), "{complaint}");
    let (code, complaint) = node.refuses(&["get", "k", "--consistency", "at-least=99999999", "--deadline", "200ms"]);
    assert!(code == Some(4) && complaint.contains("no replica asked has come so far"), "{complaint}");
    let (code, complaint) = node.refuses(&["get", "k", "--replica", "2"]);
    assert!(code == Some(4) && complaint.contains("no member in slot 2"), "{complaint}");
    assert!(node.says(&["status"]).contains("leases off; reads: "));
    assert_eq!(
        node.refuses(&["cas", "k", "d", "--if-version", "2"]),
        (Some(1), "error[E0308]: the service refused: the key has another value, of version 3".to_owned())
    );
    assert_eq!(json(&["get", "k"]), serde_json::json!({ "value": "c", "version": 3, "ttl_ms": null }));

    node.says(&["put", "lease", "mine", "--ttl", "3600s"]);
    assert!(json(&["get", "lease"])["ttl_ms"].as_u64().is_some_and(|ms| ms > 3_000_000 && ms <= 3_600_000));
    node.says(&["put", "short", "lived", "--ttl", "1us"]);
    // The next write carries the log time on.
    node.says(&["incr", "n", "--by", "-7"]);
    assert_eq!(node.says(&["get", "short"]), "(nil)\n");

    for (key, value) in [("u:1", "ada"), ("u:2", "bob"), ("u:3", "cyd")] {
        node.says(&["put", key, value]);
    }
    assert_eq!(node.says(&["scan", "--prefix", "u:"]), "u:1\tada\nu:2\tbob\nu:3\tcyd\n");
    assert_eq!(node.says(&["scan", "u:2", "--to", "u:3", "--stale"]), "u:2\tbob\n");
    assert_eq!(node.says(&["scan", "--prefix", "u:", "--limit", "1"]), "u:1\tada\n");
    assert_eq!(json(&["scan", "u:3"])["value"], "cyd");

    let moves =
        ["txn", "--if", "n < 0", "--if", "u:4 absent", "--then", "incr n 10; put u:4 'dan d'", "--else", "get n"];
    assert_eq!(node.says(&moves), "then\n3\nversion 10\n");
    assert_eq!(node.says(&moves), "else\n3\n");
    let expected =
        serde_json::json!({ "held": true, "results": [{ "removed": true }, { "value": null, "version": null }] });
    assert_eq!(json(&["txn", "--then", "del u:4; get u:4"]), expected);
    let (code, complaint) = node.refuses(&["txn", "--then", "put x 1; incr k"]);
    assert_eq!(code, Some(1));
    assert!(
        complaint.ends_with("operation 2 of the transaction: the value is not an integer or out of range"),
        "{complaint}"
    );
    assert_eq!(node.says(&["get", "x"]), "(nil)\n", "all or nothing");

    let size = json(&["size"]);
    assert_eq!((&size["keys"], &size["version"]), (&6.into(), &11.into()), "{size}");
    assert!(node.says(&["size"]).contains(" 6 keys, "));
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
