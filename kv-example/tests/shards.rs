//! Clusters of several shards through real processes: three nodes, two cores each, four shards.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Policy, RequestBlock, ResponseBlock, Rid, Status};

const SHARDS: u16 = 4;

/// Three nodes that end with the test, on addresses of this test's own.
struct Cluster {
    directory: PathBuf,
    net: u8,
    nodes: [Option<Child>; 3],
}

impl Cluster {
    fn new(name: &str, net: u8) -> Cluster {
        let directory = std::env::temp_dir().join(format!("kv-shards-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).expect("the temporary directory is writable");
        Cluster { directory, net, nodes: [None, None, None] }
    }

    fn ip(&self, slot: usize) -> String {
        format!("127.{}.{}.{slot}", 128 + self.net, std::process::id() % 250 + 1)
    }

    /// The configuration of a node, written anew. `cores` is its section of that name.
    fn config(&self, slot: usize, cores: &str) -> PathBuf {
        let data = self.directory.join(format!("data{slot}"));
        let mut text = format!("cluster = \"t\"\nslot = {slot}\ndata_dir = {data:?}\n[cores]\n{cores}\n");
        for slot in 1..=3 {
            let ip = self.ip(slot);
            text += &format!("[[member]]\nslot = {slot}\nclient = \"{ip}:8000\"\npeer = \"{ip}:8100\"\n");
        }
        let path = self.directory.join(format!("node{slot}.toml"));
        fs::write(&path, text).expect("the temporary directory is writable");
        path
    }

    /// Starts a node and returns when each of its shards says that it serves.
    fn start(&mut self, slot: usize) {
        let config = self.config(slot, &format!("shards = {SHARDS}\ncount = 2"));
        let mut child = serve(&config, &[]);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let serving = lines.by_ref().filter(|line| line.contains("serves clients on")).take(SHARDS.into()).count();
        assert_eq!(serving, usize::from(SHARDS), "node {slot} serves all of its shards");
        self.nodes[slot - 1] = Some(child);
    }

    /// As a power cut ends a process.
    fn kill(&mut self, slot: usize) {
        let mut child = self.nodes[slot - 1].take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }

    fn kv(&self, args: &[&str]) -> Output {
        let config = self.directory.join("node1.toml");
        Command::new(env!("CARGO_BIN_EXE_kv")).args(args).arg("--config").arg(config).output().expect("kv runs")
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.kv(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A put, made again until it is acknowledged: a put of the same value may be.
    fn put(&self, key: &str) {
        for _ in 0..20 {
            if self.kv(&["put", key, key, "--deadline", "2s"]).status.success() {
                return;
            }
        }
        panic!("{key} is not acknowledged");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn serve(config: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.args(["serve", "--config"]).arg(config).args(more).stderr(Stdio::piped());
    command.spawn().expect("kv runs")
}

/// What a node that must not start says.
fn refusal(config: &Path, more: &[&str]) -> String {
    let output = serve(config, more).wait_with_output().expect("it ends by itself");
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn four_shards_on_two_cores_lose_nothing_when_a_node_is_killed_and_their_number_is_fixed() {
    let mut cluster = Cluster::new("lose", 0);
    (1..=3).for_each(|slot| cluster.start(slot));
    assert!(cluster.says(&["init", "--deadline", "20s"]).starts_with("formed cluster "));
    let ids: Vec<String> = cluster
        .says(&["status", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object")["probe"]["cluster"].to_string())
        .collect();
    assert_eq!(ids.len(), 3 * usize::from(SHARDS), "each shard of each node");
    assert!(ids.iter().all(|id| *id == ids[0]), "one id for all");

    let keys: Vec<String> = (0..24).map(|number| format!("key{number:02}")).collect();
    keys[..12].iter().for_each(|key| cluster.put(key));
    cluster.kill(2);
    keys[12..].iter().for_each(|key| cluster.put(key));
    let all: String = keys.iter().map(|key| format!("{key}\t{key}\n")).collect();
    assert_eq!(cluster.says(&["scan", "--deadline", "5s"]), all);

    cluster.start(2);
    // It goes on with the log of each shard, and is then asked itself.
    let own = |cluster: &Cluster| cluster.kv(&["scan", "--consistency", "any", "--replica", "2", "--deadline", "5s"]);
    let whole = (0..200).any(|_| String::from_utf8_lossy(&own(&cluster).stdout) == all);
    assert!(whole, "node 2 has all keys of all shards again");
    let found = |shard: u16| cluster.directory.join(format!("data2/shard-{shard}")).is_dir();
    assert!((0..SHARDS).all(found));

    // The number of shards is fixed: no node of another takes part, and none begins anew beside its data.
    cluster.kill(3);
    let config = cluster.config(3, "shards = 2");
    let said = refusal(&config, &[]);
    assert!(said.contains("E0218") && said.contains("4 shards"), "{said}");
    let config = cluster.config(3, "shards = 8");
    let said = refusal(&config, &[]);
    assert!(said.contains("E0218") && said.contains("shard 0 of 4, not of shard 0 of 8"), "{said}");
    let config = cluster.config(3, "shards = 1");
    assert!(refusal(&config, &[]).contains("several shards"));
}

/// Which member a command names, in every shard; again where a part has failed.
#[test]
fn members_change_in_every_shard_and_a_change_may_be_asked_for_again() {
    let mut cluster = Cluster::new("members", 1);
    (1..=3).for_each(|slot| cluster.start(slot));
    cluster.says(&["init", "--deadline", "20s"]);
    let seats = |cluster: &Cluster| -> Vec<usize> {
        let list = cluster.says(&["member", "list", "--json", "--deadline", "5s"]);
        let voters = |line: &str| {
            let members: serde_json::Value = serde_json::from_str(line).expect("an object");
            members["voters"].as_array().map(Vec::len)
        };
        list.lines().filter_map(voters).collect()
    };
    assert_eq!(seats(&cluster), [3; 4]);
    // A part is done already.
    cluster.says(&["member", "remove", "3", "--shard", "1"]);
    assert_eq!(seats(&cluster), [3, 2, 3, 3]);
    cluster.says(&["member", "remove", "3"]);
    assert_eq!(seats(&cluster), [2; 4]);
    cluster.says(&["member", "remove", "3"]);
    // Nobody asks to be taken in, in any shard.
    let output = cluster.kv(&["member", "add", "4", "--within", "2s"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("E0317"));
    cluster.says(&["member", "transfer", "2"]);
    let list = cluster.says(&["member", "list"]);
    assert_eq!(list.matches("  2  leader").count(), 4, "{list}");
}

/// A datagram of a client that has another map, or that goes to another shard's port, is told so and changes nothing.
#[test]
fn what_goes_to_the_wrong_shard_is_told_so_under_every_policy() {
    let mut cluster = Cluster::new("wrong", 2);
    (1..=3).for_each(|slot| cluster.start(slot));
    cluster.says(&["init", "--deadline", "20s"]);
    let socket = UdpSocket::bind((cluster.ip(9), 0)).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut rid = 0;
    let mut ask = |port: u16, policy: u8, shard: u16, map_version: u32| -> Status {
        rid += 1;
        let request = request(rid, policy, shard, map_version);
        socket.send_to(&request, format!("{}:{port}", cluster.ip(1))).expect("sent");
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).expect("an answer");
        let (_, payload) = Header::parse(&answer[..length]).expect("R2P2");
        ResponseBlock::parse(payload).expect("a block").0.status
    };
    const WRONG_SHARD: Status = Status::WrongShard;
    for policy in 0..4 {
        assert_eq!(ask(8000, policy, 0, 0), WRONG_SHARD, "policy {policy}, who believes in one shard");
        assert_eq!(ask(8000, policy, 1, 4), WRONG_SHARD, "policy {policy}, the port of another shard");
        assert_eq!(ask(8001, policy, 1, 3), WRONG_SHARD, "policy {policy}, the map of another cluster");
        assert_ne!(ask(8001, policy, 1, 4), WRONG_SHARD, "policy {policy}, in order");
    }
}

/// One packet with an own-client block, of a method that no service has.
fn request(rid: u16, policy: u8, shard: u16, map_version: u32) -> Vec<u8> {
    let policy = Policy::from_wire(policy).expect("one of four");
    let header = Header {
        flags: Flags { own_block: true, ..Flags::SINGLE },
        ..Header::single(MessageType::Request, policy, Rid(rid))
    };
    let block = RequestBlock { shard, map_version, method: 0x7fff_ffff, ..RequestBlock::default() };
    let mut bytes = header.emit().to_vec();
    bytes.extend_from_slice(&block.emit());
    bytes
}
