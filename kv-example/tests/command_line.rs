//! The program as its user meets it: exit codes, messages, and what it leaves behind.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output};

fn kv(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv")).args(args).output().expect("kv runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration file of its own for each test, removed at its end.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kv-test-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).expect("the temporary directory is writable");
        ConfigFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn config_text(client: &str, peer: &str) -> String {
    format!(
        "cluster = \"t\"\nslot = 1\ndurability = \"volatile\"\n[[member]]\nslot = 1\nclient = \"{client}\"\npeer = \"{peer}\"\n"
    )
}

/// Addresses that were free a moment ago.
fn free_addresses() -> (String, String) {
    let sockets = [UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")];
    let [client, peer] = sockets.map(|socket| socket.and_then(|socket| socket.local_addr()).expect("a free port"));
    (client.to_string(), peer.to_string())
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [&[][..], &["get"], &["nonsense"], &["bench", "--rate", "0"], &["serve"]] {
        let output = kv(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_transaction_that_is_none_is_explained() {
    let output = kv(&["txn", "--if", "stock > = 1", "--then", "get stock"]);
    assert_eq!(output.status.code(), Some(2));
    let expected = "\
error[E0215]: `stock > = 1` is no condition
  = help: a condition is `KEY exists`, `KEY absent`, `KEY version N` or `KEY == VALUE` (also != < <= > >=)
";
    assert_eq!(stderr(&output), expected);
    assert!(String::from_utf8_lossy(&kv(&["txn", "--help"]).stdout).contains("incr stock -1; put order:7 ada"));
}

#[test]
fn the_example_configuration_is_accepted_as_printed() {
    let output = kv(&["example-config"]);
    assert!(output.status.success());
    let file = ConfigFile::new("example", &String::from_utf8_lossy(&output.stdout));
    // Its members are elsewhere, so that the configuration is read and the environment refuses.
    let output = kv(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("error[E0102]: 10.0.0.1:8000 is no address of this machine\n"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn configuration_errors_exit_with_2_and_show_the_line() {
    let file =
        ConfigFile::new("typo", &config_text("127.0.0.1:8000", "127.0.0.1:8100").replace("durability", "durabilty"));
    let output = kv(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(2));
    let expected = format!(
        "error[E0203]: unknown key `durabilty` in the top level\n --> {}:3:1\n  |\n3 | durabilty = \"volatile\"\n  | ^^^^^^^^^\n  = help: did you mean `durability`?\n",
        file.path()
    );
    assert_eq!(stderr(&output), expected);
}

#[test]
fn a_port_in_use_names_who_uses_it() {
    let holder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let client = holder.local_addr().expect("bound").to_string();
    let file = ConfigFile::new("taken", &config_text(&client, &free_addresses().1));
    let output = kv(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(3));
    let pid = std::process::id();
    let message = stderr(&output);
    assert!(message.contains(&format!("error[E0101]: {client}/udp is in use by ")), "{message}");
    assert!(
        message.contains(&format!("(pid {pid})\n  = help: `kill {pid}`, or give this member another port")),
        "{message}"
    );
}

#[test]
fn nobody_there_exits_with_4() {
    let (nobody, _) = free_addresses();
    for args in [&["get", "k"][..], &["set", "k", "v"], &["scan"], &["size"], &["status"]] {
        let output = kv(&[args, &["--servers", &nobody, "--deadline", "100ms"]].concat());
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        assert!(output.status.code() != Some(0) && !stderr(&output).is_empty());
    }
    let output = kv(&["get", "k", "--servers", &nobody, "--deadline", "100ms"]);
    assert!(
        stderr(&output).starts_with(&format!("error[E0302]: no answer from {nobody} within 100ms\n")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_us_profile_wants_cores_of_its_own() {
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated").is_ok_and(|list| !list.trim().is_empty());
    if isolated {
        return;
    }
    let (client, peer) = free_addresses();
    let file = ConfigFile::new("us", &format!("profile = \"us\"\n{}", config_text(&client, &peer)));
    let output = kv(&["serve", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("error[E0105]: the `us` profile needs cores of its own"), "{}", stderr(&output));
}
