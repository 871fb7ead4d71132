//! The second program on a card: a node of a cluster of three, whose other two nodes and whose clients use this machine's kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::lab::{CARD_IP, NEIGHBOURS, PREFIX_BITS, Run, SOON};
use super::{Card, output, stop};

const LOG: &str = "/tmp/kv.log";
/// Bytes of a value that takes many packets each way. No more than fit into a command line.
const LARGE_BYTES: usize = 100_000;
/// Calls that the load must get answered, in as many seconds as it takes.
const CALLS_MIN: u64 = 3_000;
/// Rounds of load before that is given up.
const LOAD_ROUNDS: u32 = 20;

/// A node on this machine's kernel. It ends with this.
struct Neighbour(Child);

impl Drop for Neighbour {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

pub(super) fn check(run: &mut Run, directory: &Path) -> Result<(), String> {
    let cluster = Cluster { kv: directory.join("root/bin/kv"), config: directory.join(format!("{}-2.toml", run.card)) };
    let write = format!("printf '{}' >/tmp/node.toml", config(run.card, 1).replace('\n', "\\n"));
    run.guest.run(&write, SOON)?;
    run.guest.run(&format!("kv serve --config /tmp/node.toml >{LOG} 2>&1 & echo $! >/tmp/kv.pid"), SOON)?;
    let second = neighbour(&cluster, run.card, directory, 2)?;
    let third = neighbour(&cluster, run.card, directory, 3)?;
    cluster.form()?;
    run.passed("a cluster of three: one node on the card, two on this machine's kernel");

    cluster.kv(&["put", "small", "1"])?;
    let large: String = (0..LARGE_BYTES).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    cluster.kv(&["put", "large", &large])?;
    // Of the card's own replica, by its address alone.
    let card = format!("{CARD_IP}:8000");
    run.caught_up(&cluster, &card, "large", &large)?;
    cluster.direct(&card, &["put", "by-card", "2"])?;
    expect("by-card", &cluster.kv(&["get", "by-card"])?, "2")?;
    run.passed(&format!("calls by every node's address, values of 1 and {LARGE_BYTES} bytes"));

    let calls = cluster.load()?;
    // The emulated processor lags behind the others, and a card that is busy with what it missed may lose an echo.
    cluster.kv(&["put", "after-load", "4"])?;
    run.caught_up(&cluster, &card, "after-load", "4")?;
    run.ping(20)?;
    run.passed(&format!("{calls} writes of 2000 bytes, and pings after them"));
    let status = cluster.direct(&card, &["status", "--json"])?;
    if !status.contains("\"device.") {
        return Err(format!("no counters of the device in the node's status: {status}"));
    }
    // From here on nothing is committed without the node on the card.
    drop(third);
    cluster.put_without(&["put", "without-3", "3"])?;
    run.passed("a node of three is gone: the one on the card is of the majority");
    let idle = run.cpu_percent("/tmp/kv.pid")?;
    run.passed(&format!("a node with heartbeats and no calls: {idle:.1}% of a processor"));

    run.guest.run("kill -TERM $(cat /tmp/kv.pid); wait $(cat /tmp/kv.pid)", SOON)?;
    drop(second);
    let left = run.guest.run("ls /dev/hugepages /run/dpdk 2>/dev/null", SOON).unwrap_or_default();
    if left.lines().any(|line| !line.trim().is_empty() && !line.ends_with(':')) {
        return Err(format!("the node leaves files behind: {left}"));
    }
    run.passed("ends when asked to, and leaves nothing behind");
    Ok(())
}

/// The program and a node's configuration by which clients find the cluster.
struct Cluster {
    kv: PathBuf,
    config: PathBuf,
}

impl Cluster {
    /// One command of `kv`, to the whole cluster.
    fn kv(&self, words: &[&str]) -> Result<String, String> {
        output(Command::new(&self.kv).args(words).args(["--deadline", "20s", "--config"]).arg(&self.config))
    }

    /// One command to one address.
    fn direct(&self, address: &str, words: &[&str]) -> Result<String, String> {
        output(Command::new(&self.kv).args(words).args(["--deadline", "20s", "--servers", address]))
    }

    /// Forms the cluster, as soon as all nodes answer.
    #[allow(clippy::disallowed_methods, reason = "waits for processes, on no core")]
    fn form(&self) -> Result<(), String> {
        let end = Instant::now() + SOON;
        loop {
            let mut init = Command::new(&self.kv);
            match output(init.args(["init", "--deadline", "5s", "--config"]).arg(&self.config)) {
                Ok(_) => return Ok(()),
                Err(problem) if Instant::now() > end => return Err(problem),
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    /// A write while the others may first have to agree on a leader: asked again until it is answered.
    #[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
    fn put_without(&self, words: &[&str]) -> Result<(), String> {
        let end = Instant::now() + SOON;
        loop {
            let mut put = Command::new(&self.kv);
            match output(put.args(words).args(["--deadline", "3s", "--config"]).arg(&self.config)) {
                Ok(_) => return Ok(()),
                Err(problem) if Instant::now() > end => {
                    return Err(format!("{problem}\n{}", self.kv(&["status"]).unwrap_or_default()));
                }
                Err(_) => {}
            }
        }
    }

    /// Load until enough calls are answered; how many were.
    fn load(&self) -> Result<u64, String> {
        let mut calls = 0;
        for _ in 0..LOAD_ROUNDS {
            let words = ["bench", "--outstanding", "16", "--value", "2000", "--seconds", "2", "--json"];
            let said = self.kv(&words)?;
            let answered = said
                .split_once("\"answered\":")
                .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok());
            calls += answered.ok_or_else(|| format!("no result: {said}"))?;
            if calls >= CALLS_MIN {
                return Ok(calls);
            }
        }
        Err(format!("{calls} calls were answered, not {CALLS_MIN}"))
    }
}

impl Run {
    /// Waits until the replica on the card has a value.
    #[allow(clippy::disallowed_methods, reason = "waits for processes, on no core")]
    fn caught_up(&self, cluster: &Cluster, card: &str, key: &str, value: &str) -> Result<(), String> {
        let end = Instant::now() + SOON;
        loop {
            let got = cluster.direct(card, &["get", key, "--stale"]);
            if got.as_ref().is_ok_and(|got| got.trim() == value) {
                return Ok(());
            }
            if Instant::now() > end {
                let said: String = got.map_or_else(|problem| problem, |got| got.chars().take(80).collect());
                return Err(format!("the replica on the card has not got `{key}`: {said}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn neighbour(cluster: &Cluster, card: Card, directory: &Path, slot: usize) -> Result<Neighbour, String> {
    let path = directory.join(format!("{card}-{slot}.toml"));
    fs::write(&path, config(card, slot)).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let log = directory.join(format!("{card}-node{slot}.log"));
    let log = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let mut command = Command::new(&cluster.kv);
    command.args(["serve", "--config"]).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map(Neighbour).map_err(|error| format!("cannot run {}: {error}", cluster.kv.display()))
}

/// The configuration of one node of three. The first is on the card.
fn config(card: Card, slot: usize) -> String {
    let mut config = format!("cluster = \"kv\"\nslot = {slot}\ndurability = \"volatile\"\n[net]\n");
    if slot == 1 {
        let huge = card.node_has_huge_pages();
        config += "port = \"dpdk\"\n[dpdk]\n";
        config += &format!("device = \"{}\"\nprefix_bits = {PREFIX_BITS}\nhuge_pages = {huge}\n", Card::ADDRESS);
    }
    for (at, ip) in [CARD_IP, NEIGHBOURS[0], NEIGHBOURS[1]].into_iter().enumerate() {
        config += &format!("[[member]]\nslot = {}\nclient = \"{ip}:8000\"\npeer = \"{ip}:8100\"\n", at + 1);
    }
    config
}

fn expect(asked: &str, answer: &str, expected: &str) -> Result<(), String> {
    if answer.trim() == expected { Ok(()) } else { Err(format!("`{asked}` is {answer:?}, not {expected:?}")) }
}
