//! `trimaran_rpc::serve::<Locks>()` as its user meets it: a demo of real processes, called from a command line.
#![allow(clippy::disallowed_methods, reason = "the test's own files and processes; the service is elsewhere")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

fn locks(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_locks")).args(args).output().expect("locks runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Three nodes that end with the test.
struct Demo {
    child: Child,
    servers: String,
}

impl Demo {
    /// Starts a demo and returns once it has formed its cluster and said where it is.
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_locks"))
            .args(["demo", "--keep"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("locks runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let said: Vec<String> = lines.take_while(|line| !line.starts_with("Ctrl-C")).collect();
        assert!(said.iter().any(|line| line.starts_with("3 nodes run, node ")), "{said:?}");
        assert!(said.iter().any(|line| line.contains("locks call acquire <name> <owner> <lease>")), "{said:?}");
        let directory = Demo::directory(&child);
        let config = directory.join("node1.toml");
        let config = fs::read_to_string(&config).expect("the demo's configuration");
        let clients = config.lines().filter_map(|line| line.strip_prefix("client = "));
        let servers = clients.map(|address| address.trim_matches('"')).collect::<Vec<_>>().join(",");
        let told = said.iter().filter_map(|line| line.split_once(" --servers ")).all(|(_, told)| told == servers);
        assert!(told, "{said:?}");
        Demo { child, servers }
    }

    fn directory(child: &Child) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("locks-demo-{}", child.id()))
    }

    fn call(&self, args: &[&str]) -> Output {
        locks(&[&["call"], args, &["--servers", &self.servers, "--deadline", "5s"]].concat())
    }

    /// A call that succeeds, and its reply.
    #[track_caller]
    fn says(&self, args: &[&str]) -> Value {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_str(&stdout(&output)).expect("JSON")
    }

    /// A call that the service refuses, and its complaint.
    #[track_caller]
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}{}", stdout(&output), stderr(&output));
        stderr(&output)
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(Demo::directory(&self.child));
    }
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<Pid> {
    let stats = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = stats.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let of_parent = stats.filter(|stat| {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    });
    of_parent
        .filter_map(|stat| stat.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw))
        .collect()
}

#[test]
fn a_demo_is_called_from_the_command_line() {
    let mut demo = Demo::start();
    let grant = demo.says(&["acquire", "db", "a", "60s"]);
    assert_eq!(grant["token"], 1);
    assert_eq!(demo.says(&["acquire", r#"{"name":"db","owner":"a","lease":{"secs":60,"nanos":0}}"#])["token"], 1);
    assert!(demo.refuses(&["acquire", "db", "b", "60s"]).starts_with("error[E0308]: the service refused: "));
    assert_eq!(demo.says(&["holder", "db"])["holder"]["owner"], "a");
    assert_eq!(demo.says(&["list", "", "", "10"])[0]["waiting"], 1);

    // A watcher hears of the change that is made while it waits.
    let version = demo.says(&["holder", "db", "--stale"])["version"].to_string();
    // Its patience is longer than its deadline: only the change can end it well.
    let watch = ["call", "watch", "db", &version, "30s", "--deadline", "10s", "--servers", &demo.servers];
    let watcher = Command::new(env!("CARGO_BIN_EXE_locks")).args(watch).stdout(Stdio::piped()).spawn().expect("runs");
    assert_eq!(demo.says(&["release", "db", "a", "1"]), json!(null));
    let told: Value = serde_json::from_slice(&watcher.wait_with_output().expect("it ends").stdout).expect("JSON");
    assert_eq!((&told["holder"]["owner"], &told["holder"]["token"]), (&json!("b"), &json!(2)));
    // And one whose patience ends hears how it is.
    assert_eq!(demo.says(&["watch", "db", &told["version"].to_string(), "1ms"]), told);

    let status = stdout(&locks(&["status", "--servers", &demo.servers]));
    assert_eq!(status.matches("cluster locks ").count(), 3, "{status}");

    let nodes = children(demo.child.id());
    assert_eq!(nodes.len(), 3);
    let watched: Vec<_> = nodes.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it runs")).collect();
    demo.signal("-INT");
    assert_eq!(demo.child.wait().expect("it ends").code(), Some(0), "Ctrl-C is how a demo ends");
    for node in &watched {
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(node, PollFlags::IN)], Some(&patience)).expect("poll works"), 1);
    }
}

#[test]
fn methods_are_listed_as_they_were_written() {
    let said = stdout(&locks(&["methods"]));
    let first = "#[replicated] acquire(name: &str, owner: &str, lease: Duration) -> Result<Grant, LockError>";
    assert!(said.starts_with(&format!("{first}\n    Asks for a lock and waits for it: ")), "{said}");
    assert!(said.contains("#[local] watch(") && !said.contains("lease_ends"), "{said}");
    let lines = stdout(&locks(&["methods", "--json"]));
    let methods: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let holder = methods.iter().find(|method| method["name"] == "holder").expect("a method");
    assert_eq!((&holder["mark"], &holder["arguments"][0]["type"]), (&json!("read"), &json!("&str")));
}

#[test]
fn calls_that_do_not_fit_exit_with_2() {
    for (args, complaint) in [
        (&["call", "acquire", "db"][..], "`owner` is missing in acquire <name> <owner> <lease>"),
        (&["call", "acquire", "db", "a", "soon"], "`lease` is no Duration: soon"),
        (&["call", "aquire"], "did you mean `acquire`?"),
        (&["call", "lease_ends", "a"], "locks has no method `lease_ends`"),
        (&["call", "release", "db", "a", "one"], "release does not take these arguments: "),
        (&["call", "renew", "a", "1s", "--stale"], "--stale is for reads"),
    ] {
        let output = locks(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(complaint), "{args:?}: {}", stderr(&output));
    }
}

/// This crate lives by the rules that the program hands out.
#[test]
fn the_lints_are_those_of_this_crate() {
    let own = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/clippy.toml")).expect("beside Cargo.toml");
    assert_eq!(stdout(&locks(&["lints"])), own);
}

#[test]
fn the_configuration_is_the_services_own() {
    let example = stdout(&locks(&["example-config"]));
    assert!(example.starts_with("cluster = \"locks\"") && example.contains("`locks init`"), "{example}");
    let (config, warnings) = trimaran_rpc::program::config::Config::parse("example.toml", &example).expect("correct");
    assert_eq!((config.cluster.as_str(), warnings.len()), ("locks", 0));
}
