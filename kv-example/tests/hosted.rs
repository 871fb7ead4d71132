//! Several nodes in one process: that they are nodes like others, alone and beside those of other processes, and what is refused.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const KV: &str = env!("CARGO_BIN_EXE_kv");

/// Configurations of the members of one cluster, on ports that were free a moment ago. Removed at the end.
struct Files {
    dir: PathBuf,
    members: Vec<[SocketAddr; 2]>,
}

impl Files {
    fn new(name: &str, members: usize) -> Self {
        let dir = std::env::temp_dir().join(format!("kv-hosted-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        // All at once, so that none is given out twice.
        let sockets: Vec<UdpSocket> =
            (0..2 * members).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
        let address = |socket: &UdpSocket| socket.local_addr().expect("bound");
        let members = sockets.chunks(2).map(|pair| [address(&pair[0]), address(&pair[1])]).collect();
        let files = Files { dir, members };
        for slot in 1..=files.members.len() {
            files.write(slot, "");
        }
        files
    }

    /// Writes a node's configuration, with `more` behind its own keys.
    fn write(&self, slot: usize, more: &str) {
        let mut text = format!("cluster = \"t\"\nslot = {slot}\ndurability = \"volatile\"\n{more}\n");
        for (slot, [client, peer]) in (1..).zip(&self.members) {
            text += &format!("[[member]]\nslot = {slot}\nclient = \"{client}\"\npeer = \"{peer}\"\n");
        }
        fs::write(self.path(slot), text).expect("the directory is writable");
    }

    fn path(&self, slot: usize) -> String {
        self.dir.join(format!("node{slot}.toml")).to_string_lossy().into_owned()
    }

    /// `serve` of these slots in one process.
    fn command(&self, slots: &[usize]) -> Command {
        let mut command = Command::new(KV);
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        slots.iter().for_each(|slot| _ = command.args(["--config", &self.path(*slot)]));
        command
    }

    /// Such a process, once all of its nodes say that they serve.
    fn start(&self, slots: &[usize]) -> Process {
        let mut child = self.command(slots).spawn().expect("kv runs");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let serving = lines.map_while(Result::ok).filter(|line| line.contains("serves clients on")).take(slots.len());
        assert_eq!(serving.count(), slots.len(), "all of {slots:?} serve");
        Process(child)
    }

    /// What must be refused: the exit code and all that is said.
    fn refusal(&self, slots: &[usize], more: &[&str]) -> (Option<i32>, String) {
        let Output { status, stderr, .. } = self.command(slots).args(more).output().expect("kv runs");
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Runs a command that must succeed; returns what it printed.
    #[track_caller]
    fn says(&self, slot: usize, args: &[&str]) -> String {
        let command = Command::new(KV).args(args).args(["--config", &self.path(slot)]).output();
        let Output { status, stdout, stderr } = command.expect("kv runs");
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Each node's slot and role, as the nodes that answer say.
    fn roles(&self) -> Vec<(u64, String)> {
        let said = self.says(1, &["status", "--json"]);
        let statuses = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let role = |status: serde_json::Value| {
            Some((status["probe"]["node"]["slot"].as_u64()?, status["role"].as_str()?.to_owned()))
        };
        statuses.filter_map(role).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Ends with the test.
struct Process(Child);

impl Process {
    /// Asks it to end, and returns its exit code.
    fn terminate(&mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_whole_cluster_in_one_process_serves_and_ends_in_good_order() {
    let files = Files::new("all", 3);
    let mut process = files.start(&[1, 2, 3]);
    assert!(files.says(2, &["init"]).starts_with("formed cluster "));
    assert_eq!(files.says(1, &["put", "ship", "trimaran"]), "version 1\n");
    // Each of the three has its own state, and says so of itself.
    for slot in [1, 2, 3] {
        let server = files.members[slot - 1][0].to_string();
        let output = Command::new(KV).args(["status", "--json", "--servers", &server]).output().expect("kv runs");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!((&status["probe"]["node"]["slot"], &status["total"]), (&slot.into(), &3.into()), "{status}");
    }
    let roles = files.roles();
    assert_eq!(roles.iter().filter(|(_, role)| role == "leader").count(), 1, "{roles:?}");
    assert_eq!(roles.iter().filter(|(_, role)| role == "follower").count(), 2, "{roles:?}");
    let large = "x".repeat(100_000);
    assert_eq!(files.says(1, &["put", "large", &large]), "version 2\n");
    assert_eq!(files.says(1, &["get", "large"]), format!("{large}\n"));
    assert_eq!(process.terminate(), Some(0));
}

/// Whichever of two processes ends, a majority in the other goes on, with what was acknowledged.
#[test]
fn processes_of_several_nodes_make_one_cluster() {
    let files = Files::new("two", 5);
    let (mut two, three) = (files.start(&[1, 2]), files.start(&[3, 4, 5]));
    files.says(1, &["init"]);
    assert_eq!(files.says(1, &["put", "k", "before"]), "version 1\n");
    // The process that ends has the lead, so that it has to be handed over. Asked again, the leader has nothing to do.
    for _ in 0..2 {
        let members = files.says(1, &["member", "transfer", "1"]);
        assert!(members.contains("  1  leader "), "{members}");
    }
    assert_eq!(two.terminate(), Some(0));
    assert_eq!(files.says(1, &["get", "k"]), "before\n");
    assert_eq!(files.says(1, &["put", "k", "after"]), "version 2\n");
    // They come back, empty and both at once, and are taken in.
    let back = files.start(&[1, 2]);
    let whole = (0..100).any(|_| files.roles().iter().filter(|(_, role)| role == "follower").count() == 4);
    assert!(whole, "{:?}", files.roles());
    assert_eq!(files.says(1, &["get", "k"]), "after\n");
    drop((back, three));
}

#[test]
fn nodes_that_cannot_share_a_process_are_refused_before_any_serves() {
    let files = Files::new("refused", 3);
    let twice = files.members[0][0];
    let (code, said) = files.refusal(&[1, 1], &[]);
    assert_eq!(code, Some(2));
    assert_eq!(
        said,
        format!(
            "error[E0215]: nodes 1 and 1 of this process both use {twice}\n  \
             = help: name each configuration once; each node has addresses of its own\n"
        )
    );
    files.write(2, "[net]\nport = \"dpdk\"\n[dpdk]\ndevice = \"net_null0\"");
    let (code, said) = files.refusal(&[1, 2], &[]);
    assert_eq!(code, Some(2), "{said}");
    files.write(2, "nonsense = 1");
    let (code, said) = files.refusal(&[1, 2], &[]);
    assert!(code == Some(2) && said.contains("nonsense") && said.contains("node2.toml"), "{said}");
    files.write(2, "");
    // An address that somebody else has: none of the nodes serves.
    let _taken = UdpSocket::bind(files.members[1][1]).expect("it was free");
    let (code, said) = files.refusal(&[1, 2], &[]);
    assert!(code == Some(3) && said.contains(&files.members[1][1].to_string()), "{code:?} {said}");
}
