//! Nodes and clients over DPDK, as processes: the demo in its lab, what it leaves behind, and both ports talking to each other.
//!
//! All but one need root, for namespaces of the network; without it they say so and pass. What they start ends with them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use trimaran_rpc::program::lab::{self, Lab};

const KV: &str = env!("CARGO_BIN_EXE_kv");
/// Set in a test that runs in a network namespace of its own.
const INSIDE: &str = "KV_TEST_LAB";

/// Whether the test may go on; it says why not.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        println!("skipped: only root makes network namespaces");
    }
    is_root
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
    if !found {
        println!("skipped: `{program}` is not here");
    }
    found
}

/// Runs the test `name` again in a network namespace of its own; `true` there.
fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if is_root() {
        let this = std::env::current_exe().expect("this test's own file");
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(this).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
        assert!(command.status().expect("unshare runs").success(), "the test failed in its namespace");
    }
    false
}

#[test]
fn the_demo_kills_its_leader_over_dpdk_and_loses_nothing() {
    if !is_root() {
        return;
    }
    let interfaces = || fs::read_to_string("/proc/net/dev").map(|text| text.lines().count()).expect("/proc");
    let before = interfaces();
    let child = Command::new(KV)
        .args(["demo", "--port", "dpdk", "--quick", "--outstanding", "4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("kv runs");
    let pid = child.id();
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let (said, complaint) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}\n{complaint}");
    assert_eq!(complaint, "", "DPDK keeps to itself");
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let found = ["lost", "doubled", "linearizable"].map(value);
    assert_eq!(found, ["0", "0", "yes"], "{said}");
    assert!(value("answered").parse::<u64>().is_ok_and(|answered| answered > 500), "{said}");
    assert!(said.contains("the leader, is killed") && said.contains("is started again"), "{said}");
    assert_eq!(interfaces(), before);
    assert_nothing_left(pid, &BTreeSet::new());
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// The network namespace of a process, `net:[...]`.
fn namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// No process is in one of the namespaces, no mount holds one, and the demo's files are gone. An interface is in a namespace,
/// and a namespace that nobody is in and nothing holds does not exist.
fn assert_nothing_left(demo: u32, namespaces: &BTreeSet<PathBuf>) {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let inside = processes.filter_map(|process| {
        let pid = process.file_name().into_string().ok()?;
        namespace(&pid).filter(|space| namespaces.contains(space)).map(|_| pid)
    });
    assert_eq!(inside.collect::<Vec<_>>(), Vec::<String>::new(), "still in a namespace of the demo");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let held = |space: &PathBuf| mounts.contains(&*space.to_string_lossy());
    assert!(!namespaces.iter().any(held), "{mounts}");
    let files = std::env::temp_dir().join(format!("kv-demo-{demo}"));
    assert!(!files.exists(), "{} is left", files.display());
    for runtime in ["/var/run/dpdk", "/run/dpdk"] {
        assert!(!Path::new(runtime).join(format!("trimaran-{demo}")).exists(), "a directory in {runtime} is left");
    }
}

/// However a demo ends: here by SIGKILL, which it cannot notice, and by Ctrl-C.
#[test]
fn a_killed_demo_leaves_nothing_of_its_lab() {
    if !is_root() {
        return;
    }
    for signal in ["-KILL", "-INT"] {
        let mut demo = Command::new(KV);
        demo.args(["demo", "--port", "dpdk", "--idle", "60"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut demo = demo.spawn().expect("kv runs");
        let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines();
        let said = lines.next().and_then(Result::ok).unwrap_or_default();
        assert!(said.starts_with("3 nodes run"), "{said}");
        let pids = children(demo.id());
        // Three nodes, three holders of namespaces, and the one who removes the directory when nobody else can.
        assert_eq!(pids.len(), 7);
        let all = pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).chain([demo.id().to_string()]);
        let own = namespace("self").expect("/proc");
        let spaces: BTreeSet<PathBuf> = all.filter_map(|pid| namespace(&pid)).filter(|space| *space != own).collect();
        assert_eq!(spaces.len(), 4, "one for each node, one for the bridge: {spaces:?}");
        let watched: Vec<_> = pids.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it runs")).collect();
        let kill = Command::new("kill").args([signal, &demo.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        demo.wait().expect("it ends");
        for process in &watched {
            let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).expect("poll works");
            assert_eq!(ended, 1, "a process outlives a demo ended by {signal}");
        }
        assert_nothing_left(demo.id(), &spaces);
    }
}

/// A configuration of a member on DPDK's port, over the interface `eth0`.
fn write_config(path: &Path, slot: u8, slots: &[u8], port: &str) {
    write_config_on(path, slot, slots, port, "net_af_packet0,iface=eth0");
}

fn write_config_on(path: &Path, slot: u8, slots: &[u8], port: &str, device: &str) {
    let mut text = format!("cluster = \"t\"\nslot = {slot}\ndurability = \"volatile\"\n[net]\nport = \"{port}\"\n");
    if port == "dpdk" {
        text += &format!("[dpdk]\ndevice = \"{device}\"\n");
    }
    for slot in slots {
        let ip = lab::address(*slot);
        text += &format!("[[member]]\nslot = {slot}\nclient = \"{ip}:8000\"\npeer = \"{ip}:8100\"\n");
    }
    fs::write(path, text).expect("the temporary directory is writable");
}

#[test]
fn an_ordinary_user_is_told_once_what_is_missing() {
    let config = std::env::temp_dir().join(format!("kv-test-{}-dpdk.toml", std::process::id()));
    write_config(&config, 1, &[1], "dpdk");
    let config = config.to_string_lossy().into_owned();
    let kv = |args: &[&str]| {
        let mut command = Command::new(if geteuid().is_root() { "setpriv" } else { KV });
        if geteuid().is_root() {
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", KV]);
        }
        command.args(args).output().expect("it runs")
    };
    let sockets = "error[E0110]: net_af_packet needs the right to open packet sockets\n  = help: ";
    let demo = "error[E0110]: only root may make the network namespaces that this needs\n  = help: `sudo ";
    let device = ["--device", "net_af_packet0,iface=lo", "--address", "10.0.0.9/24"];
    let cases: [(&[&str], &str); 3] = [
        (&["demo", "--port", "dpdk"], demo),
        (&["serve", "--config", &config], sockets),
        (&[&["get", "k"], &device[..]].concat(), sockets),
    ];
    for (args, expected) in cases {
        let Output { status, stdout, stderr } = kv(args);
        let stderr = String::from_utf8_lossy(&stderr);
        if matches!(status.code(), Some(126 | 127)) {
            println!("skipped: an ordinary user cannot reach {KV}");
            break;
        }
        assert!(stderr.starts_with(expected) && stderr.lines().count() == 2, "{args:?}: {stderr}");
        assert_eq!((status.code(), stdout.len()), (Some(3), 0), "{args:?}");
    }
    fs::remove_file(config).expect("just made");
}

/// Three nodes in a lab that this process is in; killed at the end.
struct Cluster {
    dir: PathBuf,
    nodes: Vec<Child>,
    lab: Lab,
}

impl Cluster {
    /// Nodes on `port`, and interfaces whose kernels leave no checksum to a card.
    fn start(port: &str) -> Self {
        let lab = Lab::build(3).expect("a lab");
        let dir = std::env::temp_dir().join(format!("kv-dpdk-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let mut cluster = Cluster { dir, nodes: Vec::new(), lab };
        for slot in [1, 2, 3] {
            let config = cluster.config(slot);
            write_config(&config, slot, &[1, 2, 3], port);
            if port == "udp" {
                cluster.lab.address_host(slot, slot).expect("an address");
                checksums(cluster.lab.command(slot, "ethtool"), lab::HOST_INTERFACE);
            }
            let mut command = cluster.lab.command(slot, KV);
            command.args(["serve", "--log", "warn", "--config"]).arg(config).stdin(Stdio::null());
            command.env("RUNTIME_DIRECTORY", &cluster.dir);
            cluster.nodes.push(command.spawn().expect("kv runs"));
        }
        cluster
    }

    /// Nodes over DPDK, all in one process on the first host.
    fn together() -> Self {
        Self::in_one_process(|_| "net_af_packet0,iface=eth0".to_owned())
    }

    /// The same, but that each has a device of its own.
    fn on_a_device_each() -> Self {
        Self::in_one_process(|slot| format!("net_af_packet{slot},iface={}", lab::interface(slot)))
    }

    fn in_one_process(device: impl Fn(u8) -> String) -> Self {
        let lab = Lab::build(1).expect("a lab");
        lab.attach(3).expect("interfaces");
        let dir = std::env::temp_dir().join(format!("kv-dpdk-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let mut cluster = Cluster { dir, nodes: Vec::new(), lab };
        let mut command = cluster.lab.command(1, KV);
        command.args(["serve", "--log", "warn"]).stdin(Stdio::null()).env("RUNTIME_DIRECTORY", &cluster.dir);
        for slot in [1, 2, 3] {
            write_config_on(&cluster.config(slot), slot, &[1, 2, 3], "dpdk", &device(slot));
            command.arg("--config").arg(cluster.config(slot));
        }
        cluster.nodes.push(command.spawn().expect("kv runs"));
        cluster
    }

    fn config(&self, slot: u8) -> PathBuf {
        self.dir.join(format!("node{slot}.toml"))
    }

    /// Runs `kv` here with a client on `port` until it succeeds: nodes take a moment to start. Returns what it said.
    fn kv(&self, args: &[&str], port: &[&str]) -> String {
        let mut last = String::new();
        for _ in 0..20 {
            let output = Command::new(KV).args(args).arg("--config").arg(self.config(1)).args(port).output();
            let Output { status, stdout, stderr } = output.expect("kv runs");
            if status.success() {
                return String::from_utf8_lossy(&stdout).into_owned();
            }
            last = String::from_utf8_lossy(&stderr).into_owned();
        }
        panic!("{args:?} {port:?}: {last}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Lets the kernel compute the checksums of what it sends by an interface.
fn checksums(mut ethtool: Command, interface: &str) {
    let output = ethtool.args(["-K", interface, "tx", "off"]).output().expect("ethtool runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A client's options for DPDK's port on an interface of this namespace.
const DPDK_CLIENT: [&str; 4] = ["--device", "net_af_packet0,iface=client", "--address", "10.0.0.100/24"];

#[test]
fn clients_of_the_kernels_sockets_talk_to_nodes_over_dpdk() {
    if !is_inside("clients_of_the_kernels_sockets_talk_to_nodes_over_dpdk") || !has("ethtool") || !has("python3") {
        return;
    }
    let cluster = Cluster::start("dpdk");
    cluster.lab.address_own(lab::GUEST, 101).expect("an address");
    checksums(Command::new("ethtool"), lab::GUEST);
    let formed = cluster.kv(&["init"], &[]);
    assert!(formed.starts_with("formed cluster "), "{formed}");
    assert_eq!(cluster.kv(&["put", "ship", "trimaran"], &[]), "version 1\n");
    assert_eq!(cluster.kv(&["get", "ship"], &DPDK_CLIENT), "trimaran\n", "and so does one over DPDK");
    let status = cluster.kv(&["status"], &[]);
    assert!(status.contains("over dpdk: net_af_packet"), "{status}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/r2p2_client.py");
    let large = "x".repeat(60_000);
    for slot in [1, 2, 3] {
        // A client that shares no code with the nodes, asking leader and followers, also with more than a packet.
        let call = |policy: &str, words: &[&str]| {
            let server = format!("{}:8000", lab::address(slot));
            let mut client = Command::new("python3");
            client.arg(&script).args(["--server", &server, "call", "--policy", policy]).args(words);
            let Output { status, stdout, stderr } = client.output().expect("python3 runs");
            assert!(status.success(), "{policy} {}: {}", words[0], String::from_utf8_lossy(&stderr));
            String::from_utf8_lossy(&stdout).into_owned()
        };
        assert!(call("2", &["SET", "from", server_name(slot)]).contains("OK"));
        assert!(call("3", &["GET", "from"]).contains(server_name(slot)));
        assert!(call("2", &["SET", "large", &large]).contains("OK"));
        assert!(call("3", &["GET", "large"]).contains(&large));
        assert!(call("0", &["PING"]).contains("PONG"));
    }
}

fn server_name(slot: u8) -> &'static str {
    ["zero", "one", "two", "three"][usize::from(slot)]
}

#[test]
fn a_client_over_dpdk_talks_to_nodes_of_the_kernels_sockets() {
    if !is_inside("a_client_over_dpdk_talks_to_nodes_of_the_kernels_sockets") || !has("ethtool") {
        return;
    }
    let cluster = Cluster::start("udp");
    let formed = cluster.kv(&["init"], &DPDK_CLIENT);
    assert!(formed.starts_with("formed cluster "), "{formed}");
    assert_eq!(cluster.kv(&["put", "ship", "trimaran"], &DPDK_CLIENT), "version 1\n");
    // More than a packet, there and back.
    let large = "x".repeat(100_000);
    assert_eq!(cluster.kv(&["put", "large", &large], &DPDK_CLIENT), "version 2\n");
    assert_eq!(cluster.kv(&["get", "large"], &DPDK_CLIENT), format!("{large}\n"));
}

/// One process on one device, which has the addresses of three nodes: each is found by its own, whoever asks, and answers from it.
#[test]
fn three_nodes_on_one_device_serve_clients_of_both_ports() {
    if !is_inside("three_nodes_on_one_device_serve_clients_of_both_ports") || !has("ethtool") {
        return;
    }
    let cluster = Cluster::together();
    assert!(cluster.kv(&["init"], &DPDK_CLIENT).starts_with("formed cluster "));
    let leader = cluster.leader(2);
    assert_eq!(cluster.kv(&["put", "ship", "trimaran"], &DPDK_CLIENT), "version 1\n");
    let large = "x".repeat(100_000);
    assert_eq!(cluster.kv(&["put", "large", &large], &DPDK_CLIENT), "version 2\n");

    cluster.lab.address_own(lab::GUEST, 101).expect("an address");
    checksums(Command::new("ethtool"), lab::GUEST);
    for slot in [1, 2, 3] {
        let server = format!("{}:8000", lab::address(slot));
        let value = slot.to_string();
        let output = Command::new(KV).args(["put", "ship", &value, "--servers", &server]).output().expect("kv runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "node {slot}, where node {leader} leads: {said}");
        assert_eq!(cluster.kv(&["get", "ship"], &DPDK_CLIENT), format!("{value}\n"));
    }
    assert_eq!(cluster.kv(&["get", "large"], &DPDK_CLIENT), format!("{large}\n"));
}

/// Frames that the bridge has sent by one of its ports, to whoever is at its other end.
fn frames_to(port: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").expect("/proc");
    let counts =
        text.lines().find_map(|line| line.trim().strip_prefix(port)?.strip_prefix(':')).expect("the port is there");
    // Bytes, packets and six more that were received; then bytes and packets that were sent.
    counts.split_whitespace().nth(9).and_then(|count| count.parse().ok()).expect("a count")
}

/// One process with three devices: what its nodes tell each other is on the network, where it can be counted and cut.
#[test]
fn nodes_of_one_process_on_devices_of_their_own_replicate_over_the_network() {
    if !is_inside("nodes_of_one_process_on_devices_of_their_own_replicate_over_the_network") || !has("nft") {
        return;
    }
    const PUTS: u64 = 50;
    let cluster = Cluster::on_a_device_each();
    assert!(cluster.kv(&["init"], &DPDK_CLIENT).starts_with("formed cluster "));
    let leader = cluster.leader(2);
    // Each put the leader tells both others, and each of them acknowledges it.
    let ports = ["host1", "also2", "also3"];
    let before = ports.map(frames_to);
    let mut version = 0;
    for number in 0..PUTS {
        let said = cluster.kv(&["put", "ship", &number.to_string()], &DPDK_CLIENT);
        version = said.trim().trim_start_matches("version ").parse().expect("a version");
    }
    assert_eq!(version, PUTS);
    let crossed = [0, 1, 2].map(|at| frames_to(ports[at]) - before[at]);
    for (slot, crossed) in (1..).zip(crossed) {
        let least = if slot == leader { 2 * PUTS } else { PUTS };
        assert!(crossed >= least, "{crossed} frames to node {slot}, {PUTS} puts, node {leader} leads");
    }
    let status = cluster.kv(&["status"], &DPDK_CLIENT);
    assert!(status.contains("net_af_packet_1, net_af_packet_2, net_af_packet_3"), "{status}");
    // The nodes have nothing but the network: who is cut off from it hears nothing of the others in the same process.
    let others = ports.iter().enumerate().filter(|(at, _)| at + 1 != usize::from(leader)).map(|(_, port)| port);
    cut(&others.map(|port| format!("oifname {port} iifname {}", ports[usize::from(leader) - 1])).collect::<Vec<_>>());
    assert!(cluster.kv(&["put", "ship", "cut"], &DPDK_CLIENT).starts_with("version "));
    assert_ne!(cluster.leader(1), leader);
    cut(&[]);
    assert_ne!(cluster.leader(2), 0, "all follow one");
    assert_eq!(cluster.kv(&["get", "ship"], &DPDK_CLIENT), "cut\n");
}

/// From now on the bridge drops the frames that one of these rules matches, and no others.
fn cut(rules: &[String]) {
    // The first line is for the second: only what is there can be deleted.
    let mut script = "add table bridge cuts\ndelete table bridge cuts\nadd table bridge cuts\n".to_owned();
    script += "add chain bridge cuts forwarded { type filter hook forward priority 0; }\n";
    for rule in rules {
        script += &format!("add rule bridge cuts forwarded {rule} drop\n");
    }
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
    nft.stdin.take().expect("piped").write_all(script.as_bytes()).expect("it reads");
    assert!(nft.wait().expect("it ends").success(), "{script}");
}

impl Cluster {
    /// The nodes that say so, as (slot, role and term, leader), whether all do or not.
    fn members(&self) -> Vec<(u8, String, String)> {
        let mut status = Command::new(KV);
        status.args(["status", "--config"]).arg(self.config(1)).args(DPDK_CLIENT);
        let said = status.output().expect("kv runs").stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let member = |line: &str| {
            let (slot, rest) = line.split_once("  node ")?.1.split_once("  ")?;
            let mut parts = rest.split(", ");
            let role = format!("{}, {}", parts.next()?, parts.next()?);
            Some((slot.trim().parse().ok()?, role, parts.next()?.to_owned()))
        };
        said.lines().filter_map(member).collect()
    }

    /// The slot of the leader that `followers` others follow, or more, once there is one: who is cut off one way may hear its successor.
    fn leader(&self, followers: usize) -> u8 {
        let mut last = Vec::new();
        for _ in 0..60 {
            last = self.members();
            let leaders: Vec<u8> =
                last.iter().filter(|member| member.1.starts_with("leader")).map(|member| member.0).collect();
            if let [leader] = leaders[..]
                && last.iter().filter(|member| member.2 == format!("leader {leader}")).count() > followers
            {
                return leader;
            }
        }
        panic!("no leader with {followers} followers: {last:?}");
    }
}

#[test]
fn a_leader_that_is_cut_off_one_way_or_both_is_replaced_and_follows_again() {
    if !is_inside("a_leader_that_is_cut_off_one_way_or_both_is_replaced_and_follows_again") || !has("nft") {
        return;
    }
    let cluster = Cluster::start("dpdk");
    cluster.kv(&["init"], &DPDK_CLIENT);
    for (number, ways) in [&["iifname", "oifname"][..], &["oifname"], &["iifname"]].into_iter().enumerate() {
        let leader = cluster.leader(2);
        let value = number.to_string();
        // A leader that is heard but hears nobody must not keep the others from electing another; nor one that only hears.
        cut(&ways.iter().map(|way| format!("{way} host{leader}")).collect::<Vec<_>>());
        assert!(cluster.kv(&["put", "ship", &value], &DPDK_CLIENT).starts_with("version "));
        assert_ne!(cluster.leader(1), leader);
        cut(&[]);
        assert_ne!(cluster.leader(2), 0, "all follow one");
        assert_eq!(cluster.kv(&["get", "ship"], &DPDK_CLIENT), format!("{value}\n"));
    }
}

/// One end of a link of shared memory between two of these names; the server comes first.
fn link(own: &str, other: &str, role: &str) -> String {
    let (first, second) = if role == "server" { (own, other) } else { (other, own) };
    let socket = format!("kv-test-{}-{first}-{second}", std::process::id());
    format!("net_memif_{own}{other},role={role},socket-abstract=yes,socket={socket}")
}

/// Three nodes in one process and clients in others, which no network joins.
#[test]
fn nodes_with_a_link_between_any_two_serve_clients_that_come_and_go() {
    let dir = std::env::temp_dir().join(format!("kv-links-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the temporary directory is writable");
    let config = |slot: u8| dir.join(format!("node{slot}.toml"));
    let mut serve = Command::new(KV);
    serve.args(["serve", "--log", "warn"]).stdin(Stdio::null()).env("RUNTIME_DIRECTORY", &dir);
    for slot in [1u8, 2, 3] {
        let others = [1u8, 2, 3].into_iter().filter(|other| *other != slot);
        let role = |other: u8| if slot < other { "server" } else { "client" };
        let links: Vec<_> = others.map(|other| link(&slot.to_string(), &other.to_string(), role(other))).collect();
        write_config_on(&config(slot), slot, &[1, 2, 3], "dpdk", &link(&slot.to_string(), "c", "server"));
        let text = fs::read_to_string(config(slot)).expect("just written");
        let text = text.replace("[[member]]\nslot = 1\n", &format!("links = {links:?}\n[[member]]\nslot = 1\n"));
        fs::write(config(slot), text).expect("the temporary directory is writable");
        serve.arg("--config").arg(config(slot));
    }
    let mut nodes = serve.spawn().expect("kv runs");
    let client: Vec<String> = ["1", "2", "3"].map(|slot| link("c", slot, "client")).into();
    let kv = |args: &[&str], servers: &[String]| {
        let mut last = String::new();
        for _ in 0..60 {
            let mut command = Command::new(KV);
            command.args(args).args(servers).args(["--device", &client[0], "--link", &client[1], "--link", &client[2]]);
            let output = command.args(["--address", "10.0.0.100/24"]).env("RUNTIME_DIRECTORY", &dir).output();
            let Output { status, stdout, stderr } = output.expect("kv runs");
            if status.success() {
                return Ok(String::from_utf8_lossy(&stdout).into_owned());
            }
            last = String::from_utf8_lossy(&stderr).into_owned();
        }
        Err(last)
    };
    let of = ["--config".to_owned(), config(1).to_string_lossy().into_owned()];
    let large = "x".repeat(100_000);
    let said = [
        kv(&["init"], &of),
        // Each is another process, with the same address and the same links as the one before.
        kv(&["put", "ship", "trimaran"], &of),
        kv(&["put", "large", &large], &of),
        kv(&["get", "large"], &of),
        kv(&["status"], &of),
    ];
    let ended = nodes.try_wait();
    let _ = nodes.kill();
    let _ = nodes.wait();
    let _ = fs::remove_dir_all(&dir);
    assert!(matches!(ended, Ok(None)), "the nodes still ran: {ended:?}");
    let [init, put, put_large, get, status] = said.map(|said| said.unwrap_or_else(|error| panic!("{error}")));
    assert!(init.starts_with("formed cluster "), "{init}");
    assert_eq!((put.as_str(), put_large.as_str()), ("version 1\n", "version 2\n"));
    assert_eq!(get, format!("{large}\n"));
    assert!(status.contains("net_memif_1c, net_memif_12, net_memif_13"), "{status}");
}
