//! Real processes with data directories: what they find again, what they refuse, and what tools make of their directories.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// One node's place: a directory for its configuration and its data, removed with the test.
struct Place {
    directory: PathBuf,
    addresses: [SocketAddr; 2],
    child: Option<Child>,
}

impl Place {
    fn new(name: &str) -> Place {
        let directory = std::env::temp_dir().join(format!("kv-durable-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).expect("the temporary directory is writable");
        let sockets = [UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")];
        let addresses = sockets.map(|socket| socket.and_then(|socket| socket.local_addr()).expect("a free port"));
        let place = Place { directory, addresses, child: None };
        place.configure(1, "durable");
        place
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    fn configure(&self, slot: u8, durability: &str) {
        let [client, peer] = self.addresses;
        let text = format!(
            "cluster = \"t\"\nslot = {slot}\ndurability = \"{durability}\"\ndata_dir = {:?}\n[disk]\nfile_bytes = \"2MiB\"\n\
             [[member]]\nslot = {slot}\nclient = \"{client}\"\npeer = \"{peer}\"\n",
            self.data()
        );
        fs::write(self.config(), text).expect("writable");
    }

    fn serve(&self, more: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
        command.arg("serve").args(more).arg("--config").arg(self.config()).stderr(Stdio::piped());
        command.spawn().expect("kv runs")
    }

    /// Starts the node; it must come to serve.
    fn start(&mut self, more: &[&str]) {
        let mut child = self.serve(more);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("serves clients on")));
        self.child = Some(child);
        assert!(said.is_some(), "the node says that it serves");
    }

    /// As a crash does.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it has ended");
        }
    }

    /// A start that must fail: its exit code and the first line of its complaint.
    fn refused(&self) -> (Option<i32>, String) {
        let mut child = self.serve(&["--log", "error"]);
        let mut complaint = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("text");
        let code = child.wait().expect("it has ended").code();
        (code, complaint.lines().find(|line| line.starts_with("error[")).unwrap_or("").to_owned())
    }

    fn kv(&self, args: &[&str]) -> Output {
        let server = self.addresses[0].to_string();
        let args = args.iter().map(|arg| if *arg == "SERVER" { &server } else { *arg });
        Command::new(env!("CARGO_BIN_EXE_kv")).args(args).output().expect("kv runs")
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.kv(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn init(&self) {
        self.says(&["init", "--config", self.config().to_str().expect("a plain path")]);
    }

    fn put(&self, value: &str) {
        self.says(&["set", "k", value, "--deadline", "5s", "--servers", "SERVER"]);
    }

    #[track_caller]
    fn assert_holds(&self, value: &str) {
        let found = self.says(&["get", "k", "--deadline", "5s", "--servers", "SERVER"]);
        assert!(found.contains(value), "{found}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("readable");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("writable");
}

#[test]
fn a_node_that_keeps_its_word_in_another_way_is_not_taken_in() {
    let mut first = Place::new("first");
    first.start(&[]);
    first.init();
    // A change needs a leader.
    first.put("first");
    let mut second = Place::new("second");
    let [client, peer] = second.addresses;
    let [known_client, known_peer] = first.addresses;
    let members = format!(
        "[[member]]\nslot = 1\nclient = \"{known_client}\"\npeer = \"{known_peer}\"\n\
         [[member]]\nslot = 2\nclient = \"{client}\"\npeer = \"{peer}\"\n"
    );
    fs::write(second.config(), format!("cluster = \"t\"\nslot = 2\ndurability = \"volatile\"\n{members}"))
        .expect("writable");
    second.start(&[]);
    // It asks to be taken in as soon as it runs; until it is heard there is nobody to add.
    let waits = || first.says(&["member", "list", "--servers", "SERVER"]).contains("  2  waits");
    assert!((0..2000).any(|_| waits()), "it is never heard");
    let output = first.kv(&["member", "add", "2", "--deadline", "10s", "--servers", "SERVER"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("the node of slot 2 is volatile, but the cluster is durable"),
        "{said}"
    );
}

#[test]
fn a_killed_node_goes_on_with_all_that_it_has_acknowledged() {
    for durability in ["durable", "buffered"] {
        let mut node = Place::new(durability);
        node.configure(1, durability);
        node.start(&[]);
        node.init();
        for round in 0..3 {
            node.put(&format!("value {round}"));
            node.kill();
            node.start(&[]);
            node.assert_holds(&format!("value {round}"));
        }
        let status = node.says(&["status", "--servers", "SERVER"]);
        assert!(status.contains(&format!("KiB, {durability})")) && status.contains("    log on /"), "{status}");
    }
}

#[test]
fn a_directory_that_does_not_fit_is_refused_with_one_error() {
    let mut node = Place::new("refused");
    node.start(&[]);
    node.init();
    // What `init` has answered is on the disk, however soon a kill follows.
    assert_eq!(node.refused().0, Some(3), "the same node twice");
    assert!(node.refused().1.starts_with("error[E0112]: "), "{}", node.refused().1);
    node.kill();

    node.configure(2, "durable");
    let (code, complaint) = node.refused();
    assert!(code == Some(2) && complaint.starts_with("error[E0218]: "), "{complaint}");
    node.configure(1, "buffered");
    let (code, complaint) = node.refused();
    assert!(code == Some(2) && complaint.starts_with("error[E0221]: "), "{complaint}");
    node.start(&["--change-durability"]);
    // The change is on the disk before anything is acknowledged under it.
    node.put("x");
    node.kill();
    node.start(&[]);
    node.kill();

    let superblock = node.data().join("superblock");
    let whole = fs::read(&superblock).expect("readable");
    flip(&superblock, 100);
    flip(&superblock, 4196);
    let (code, complaint) = node.refused();
    assert!(code == Some(2) && complaint.starts_with("error[E0220]: "), "{complaint}");
    fs::write(&superblock, whole).expect("writable");
    node.start(&[]);
    node.kill();

    fs::remove_dir_all(node.data()).expect("removable");
    fs::write(node.data(), "a file").expect("writable");
    let (code, complaint) = node.refused();
    assert!(code == Some(3) && complaint.starts_with("error[E0104]: "), "{complaint}");
}

#[test]
fn check_tells_a_whole_directory_from_a_damaged_one() {
    let mut node = Place::new("check");
    node.start(&[]);
    node.init();
    (0..20).for_each(|round| node.put(&format!("value {round}")));
    let data = node.data();
    let data = data.to_str().expect("a plain path");
    let output = node.kv(&["check", data]);
    assert_eq!(output.status.code(), Some(3), "its node runs");
    node.kill();
    let said = node.says(&["check", data]);
    assert!(said.contains("durable") && said.ends_with("sound: a node that starts here goes on\n"), "{said}");
    // The third record of the log: those after it say that it was durable.
    flip(&Path::new(data).join("log-00000000"), 2 * 4096 + 20);
    let output = node.kv(&["check", data]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && complaint.starts_with("error[E0223]: "), "{complaint}");
}

#[test]
fn a_backup_and_a_lone_directory_each_begin_a_new_cluster() {
    let mut node = Place::new("legacy");
    node.start(&[]);
    node.init();
    node.put("treasure");
    let backup = node.directory.join("backup");
    let backup = backup.to_str().expect("a plain path");
    let said = node.says(&["snapshot", "save", backup, "--servers", "SERVER"]);
    assert!(said.contains("the state of cluster t "), "{said}");
    assert!(!node.kv(&["snapshot", "save", backup, "--servers", "SERVER"]).status.success(), "the file is there");

    let mut other = Place::new("restored");
    let config = other.config();
    let said = other.says(&["snapshot", "restore", backup, "--config", config.to_str().expect("a plain path")]);
    assert!(said.contains("begins with the state after entry"), "{said}");
    other.start(&[]);
    other.assert_holds("treasure");
    other.put("more");
    other.kill();
    other.start(&[]);
    other.assert_holds("more");

    node.put("the last");
    let cluster = |status: String| {
        status.split_whitespace().skip_while(|word| *word != "cluster").nth(2).map(str::to_owned).expect("an id")
    };
    let before = cluster(node.says(&["status", "--servers", "SERVER"]));
    node.kill();
    let data = node.data();
    let data = data.to_str().expect("a plain path");
    assert_eq!(node.kv(&["recover", data]).status.code(), Some(2), "the loss must be accepted");
    node.says(&["recover", "--accept-data-loss", data]);
    node.start(&[]);
    node.assert_holds("the last");
    assert_ne!(cluster(node.says(&["status", "--servers", "SERVER"])), before);
    assert!(node.directory.join("data.before-recovery").exists());
}
