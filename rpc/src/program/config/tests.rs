//! Each message of the configuration as its reader sees it.

use super::*;
use crate::program::report;
use proptest::prelude::*;

const MEMBERS: &str = r#"
[[member]]
slot = 1
client = "127.0.0.1:8000"
peer = "127.0.0.1:8100"
"#;

fn complaint(text: &str) -> String {
    let error = Config::parse("n.toml", text).expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    report::error(&error, "kv")
}

/// A small correct file with one more line at its top.
fn with_line(line: &str) -> String {
    format!("{line}\ncluster = \"kv\"\nslot = 1\ndurability = \"volatile\"\n{MEMBERS}")
}

fn with_section(section: &str) -> String {
    with_line("") + section
}

#[test]
fn the_example_is_every_default() {
    let (example, warnings) = Config::parse("example.toml", &example("kv", "kv")).expect("correct");
    assert_eq!(warnings, []);
    assert_eq!(example.members.len(), 3);
    assert_eq!(example.me().map(|me| me.peer), "10.0.0.1:8100".parse().ok());
    let (least, _) = Config::parse("n.toml", &with_line("")).expect("correct");
    assert_eq!((example.durability, example.data_dir), (Durability::Durable, Some("/var/lib/kv".into())));
    let same = Config { members: least.members.clone(), durability: Durability::Volatile, data_dir: None, ..example };
    assert_eq!(least, same, "a key left out means what the example says");
    assert_eq!(least.limits.log_bytes, 268_435_456);
    assert_eq!(least.timing.election_max, Duration::from_millis(200));
}

#[test]
fn the_files_keys_are_all_read() {
    let text = with_line(
        "profile = \"us\"\nelection = [\"4ms\", \"9ms\"]\nheartbeat = \"1ms\"\nquiet_after = \"never\"",
    ) + "[reads]\nlease = true\nclock_drift_ppm = 200\n[net]\nport = \"udp\"\npayload_bytes = 1372\nrcvbuf_bytes = \"1MiB\"\nrouter = \"10.0.0.9:9000\"\n\
           [limits]\nlog_bytes = \"2GiB\"\nuncommitted_bytes = 2_000_000\nsnapshot_bytes = \"1GiB\"\nreply_bytes = \"1MiB\"\nrequest_bytes = 65536\n\
           pending_messages = 10\npending_per_source = 3\npending_bytes = \"1MB\"\nreassembly_ms = 50\n";
    let (config, _) = Config::parse("n.toml", &text).expect("correct");
    let ms = Duration::from_millis;
    let quiet_after = Duration::ZERO;
    let timing =
        Timing { profile: Profile::Us, heartbeat: ms(1), election_min: ms(4), election_max: ms(9), quiet_after };
    assert_eq!(config.timing, timing);
    assert_eq!(config.reads, Reads { lease: true, clock_drift_ppm: 200 });
    let router = "10.0.0.9:9000".parse().ok();
    assert_eq!(config.net, Net { port: PortKind::Udp, payload_bytes: 1372, rcvbuf_bytes: 1 << 20, router });
    let limits = Limits {
        log_bytes: 2 << 30,
        uncommitted_bytes: 2_000_000,
        snapshot_bytes: 1 << 30,
        reply_bytes: 1 << 20,
        request_bytes: 65_536,
        pending_messages: 10,
        pending_per_source: 3,
        pending_bytes: 1_000_000,
        reassembly: ms(50),
    };
    assert_eq!(config.limits, limits);
}

#[test]
fn e0201_no_file() {
    let error = Config::load(Path::new("/nowhere/n.toml")).expect_err("no file");
    assert_eq!(
        report::error(&error, "kv"),
        "error[E0201]: cannot read the configuration /nowhere/n.toml: No such file or directory (os error 2)\n  = help: `ls -l /nowhere/n.toml`; `kv example-config` prints one to begin with\n"
    );
}

#[test]
fn e0202_not_toml() {
    let expected = "\
error[E0202]: string values must be quoted, expected literal string
 --> n.toml:1:11
  |
1 | cluster = kv
  |           ^^
  = help: this is TOML: `key = value`, texts in quotes
";
    assert_eq!(complaint("cluster = kv\n"), expected);
}

#[test]
fn e0203_unknown_key() {
    let expected = "\
error[E0203]: unknown key `durabilty` in the top level
 --> n.toml:1:1
  |
1 | durabilty = \"volatile\"
  | ^^^^^^^^^
  = help: did you mean `durability`?
";
    assert_eq!(complaint(&with_line("durabilty = \"volatile\"")), expected);
    assert!(complaint(&with_line("log_bytes = 1")).ends_with("= help: `log_bytes` belongs in [limits]\n"));
    assert!(
        complaint(&with_section("[net]\nprot = \"udp\"")).contains("unknown key `prot` in [net]\n  --> n.toml:11:1\n")
    );
    let list = "= help: the keys of [net] are port, payload_bytes, rcvbuf_bytes, router\n";
    assert!(complaint(&with_section("[net]\ncolour = 1")).ends_with(list));
    assert!(complaint(&with_section("[limit]\n")).ends_with("did you mean `limits`?\n"));
}

#[test]
fn e0204_missing_key() {
    let expected = "\
error[E0204]: `peer` is missing in [[member]]
 --> n.toml:4:1
  |
4 | [[member]]
  | ^
  = help: add `peer = \"10.0.0.1:8100\"`
";
    let text =
        "cluster = \"kv\"\nslot = 1\ndurability = \"volatile\"\n[[member]]\nslot = 1\nclient = \"1.2.3.4:8000\"\n";
    assert_eq!(complaint(text), expected);
    assert!(complaint("slot = 1").starts_with("error[E0204]: `cluster` is missing in the top level\n"));
    assert!(complaint("cluster = \"a\"\nslot = 1\ndurability = \"volatile\"").contains("`member` is missing"));
}

#[test]
fn e0205_bad_value() {
    let expected = "\
error[E0205]: `log_bytes` must be a size such as \"64MiB\", from 1048576 to 1099511627776 bytes, not \"256 megs\"
  --> n.toml:11:13
   |
11 | log_bytes = \"256 megs\"
   |             ^^^^^^^^^^
   = help: write a size such as \"64MiB\", from 1048576 to 1099511627776 bytes
";
    assert_eq!(complaint(&with_section("[limits]\nlog_bytes = \"256 megs\"")), expected);
    let cases = [
        ("profile = \"fast\"", "`profile` must be \"shared\" or \"us\", not \"fast\""),
        ("profile = 3", "`profile` must be \"shared\" or \"us\", not 3"),
        ("heartbeat = \"20\"", "`heartbeat` must be a time such as \"20ms\", from 100us to 60s, not \"20\""),
        ("election = [\"2s\", \"1s\"]", "`election` must be a pair such as"),
        ("quiet_after = \"now\"", "`quiet_after` must be \"never\", or a time such as"),
        ("election = [\"2s\"]", "`election` must be a pair such as"),
        ("net = 1", "`net` must be a section: [net], not 1"),
        ("data_dir = true", "`data_dir` must be a text in quotes, not a boolean"),
    ];
    for (line, message) in cases {
        let found = complaint(&with_line(line));
        assert!(found.starts_with(&format!("error[E0205]: {message}")), "{found}");
    }
    for slot in ["0", "10", "-1", "1.5", "\"1\"", "99999999999999999999"] {
        assert!(
            complaint(&with_line("").replace("slot = 1", &format!("slot = {slot}"))).contains("a number from 1 to 9")
        );
    }
    for bad in ["10.0.0.1", "host:8000", "[::1]:8000", "10.0.0.1:0", "10.0.0.1:65500", "0.0.0.0:8000", "224.0.0.1:80"] {
        let found = complaint(&with_line("").replace("127.0.0.1:8000", bad));
        assert!(found.contains("`client` must be one host's IPv4 address and a port from 1 to 65472"), "{found}");
    }
    assert!(complaint(&with_section("[net]\npayload_bytes = 9000")).contains("a number from 548 to 1472"));
}

#[test]
fn e0206_duplicate_slot() {
    let expected = "\
error[E0206]: slot 1 is given twice, first on line 7
  --> n.toml:12:8
   |
12 | slot = 1
   |        ^
   = help: give each [[member]] a slot of its own, 1 to 9
";
    assert_eq!(complaint(&with_section(MEMBERS)), expected);
}

#[test]
fn e0207_duplicate_address() {
    let expected = "\
error[E0207]: the address 127.0.0.1:8000 is given twice, first on line 8
  --> n.toml:14:8
   |
14 | peer = \"127.0.0.1:8000\"
   |        ^^^^^^^^^^^^^^^^
   = help: every `client` and every `peer` needs an address and port of its own
";
    let second = "\n[[member]]\nslot = 2\nclient = \"127.0.0.2:8000\"\npeer = \"127.0.0.1:8000\"\n";
    assert_eq!(complaint(&with_section(second)), expected);
}

#[test]
fn e0208_slot_not_a_member() {
    let expected = "\
error[E0208]: slot 4 is no member; the members are 1
 --> n.toml:3:8
  |
3 | slot = 4
  |        ^
  = help: set `slot` to this node's member, or add a [[member]] for it
";
    assert_eq!(complaint(&with_line("").replacen("slot = 1", "slot = 4", 1)), expected);
}

#[test]
fn e0209_durability_must_be_spelled_out() {
    let found = complaint(&with_line("").replace("durability = \"volatile\"\n", ""));
    assert!(found.starts_with("error[E0209]: nothing says how durable an acknowledgement is"), "{found}");
    assert!(found.contains("or `durability = \"volatile\"`"));
}

#[test]
fn e0210_durability_and_data_dir_contradict() {
    let expected = "\
error[E0210]: `durability = \"durable\"` needs a `data_dir`
 --> n.toml:4:14
  |
4 | durability = \"durable\"
  |              ^^^^^^^^^
  = help: write `durability = \"volatile\"`, or name a `data_dir`
";
    assert_eq!(complaint(&with_line("").replace("volatile", "durable")), expected);
    let found = complaint(&with_line("data_dir = \"/tmp/kv\""));
    assert!(found.starts_with("error[E0210]: `durability = \"volatile\"` keeps nothing in `data_dir`\n"), "{found}");
}

#[test]
fn a_data_directory_alone_means_durable() {
    let parse = |text: &str| Config::parse("n.toml", text).expect("correct").0;
    let implied = parse(&with_line("data_dir = \"/tmp/kv\"").replace("durability = \"volatile\"\n", ""));
    assert_eq!((implied.durability, implied.data_dir), (Durability::Durable, Some("/tmp/kv".into())));
    let buffered = parse(&with_line("data_dir = \"/tmp/kv\"").replace("volatile", "buffered"));
    assert_eq!(buffered.durability, Durability::Buffered);
}

#[test]
fn the_largest_request_fits_twice_into_a_file() {
    let disk = |file: &str, request: &str| {
        let line = with_line("data_dir = \"/tmp/kv\"").replace("volatile", "durable");
        format!("{line}[limits]\nrequest_bytes = \"{request}\"\n[disk]\nfile_bytes = \"{file}\"\n")
    };
    let (config, _) = Config::parse("n.toml", &disk("3MiB", "1MiB")).expect("fits");
    let record_bytes = config.disk.record_bytes(&config.limits);
    assert!(record_bytes > (1 << 20) && 2 * record_bytes <= config.disk.file_bytes, "{record_bytes}");
    let found = complaint(&disk("2MiB", "1MiB"));
    assert!(found.starts_with("error[E0213]: request_bytes may not exceed half of file_bytes\n"), "{found}");
}

#[test]
fn e0212_election_timeout_too_short_for_the_heartbeat() {
    let expected = "\
error[E0212]: an election timeout of 50ms is too short for a heartbeat of 20ms: one lost packet would cost the leader its office
 --> n.toml:1:12
  |
1 | election = [\"50ms\", \"80ms\"]
  |            ^^^^^^^^^^^^^^^^
  = help: let the election timeout begin at 80ms or later
";
    assert_eq!(complaint(&with_line("election = [\"50ms\", \"80ms\"]")), expected);
    assert!(complaint(&with_line("heartbeat = \"30ms\"")).contains("error[E0212]"));
    assert!(Config::parse("n.toml", &with_line("election = [\"80ms\", \"90ms\"]")).is_ok());
}

#[test]
fn the_profiles_keep_their_own_rule() {
    for profile in [Profile::Shared, Profile::Us] {
        let timing = Timing::of(profile);
        assert!(
            timing.election_min >= timing.heartbeat * ELECTION_HEARTBEATS_MIN
                && timing.election_min < timing.election_max
        );
    }
}

#[test]
fn e0213_limits_contradict() {
    let expected = "\
error[E0213]: uncommitted_bytes may not exceed log_bytes
  --> n.toml:12:21
   |
12 | uncommitted_bytes = \"2MiB\"
   |                     ^^^^^^
   = help: lower uncommitted_bytes, or raise log_bytes
";
    assert_eq!(complaint(&with_section("[limits]\nlog_bytes = \"1MiB\"\nuncommitted_bytes = \"2MiB\"")), expected);
    assert!(
        complaint(&with_section("[limits]\npending_bytes = \"100KiB\""))
            .contains("request_bytes may not exceed pending_bytes")
    );
}

#[test]
fn e0214_an_even_cluster_is_warned_of() {
    let second = "\n[[member]]\nslot = 2\nclient = \"127.0.0.2:8000\"\npeer = \"127.0.0.2:8100\"\n";
    let (_, warnings) = Config::parse("n.toml", &with_section(second)).expect("it works");
    let expected = "\
warning[E0214]: 2 members survive no more failures than 1
  --> n.toml:12:8
   |
12 | slot = 2
   |        ^
   = help: add a [[member]], or remove one: 3, 5 or 7 are sensible
";
    assert_eq!(warnings.iter().map(report::warning).collect::<String>(), expected);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", at in 0_usize..1200) {
        let _ = Config::parse("n.toml", &text).map_err(|error| report::error(&error, "kv"));
        let mut damaged = example("kv", "kv");
        let at = (0..=at.min(damaged.len())).rev().find(|&at| damaged.is_char_boundary(at)).unwrap_or(0);
        damaged.insert_str(at, &text);
        let _ = Config::parse("n.toml", &damaged).map_err(|error| report::error(&error, "kv"));
    }
}

#[test]
fn cores_are_read_and_fit_the_shards() {
    let cores = |section: &str| {
        Config::parse("n.toml", &with_section(&format!("[cores]\n{section}\n"))).expect("correct").0.cores
    };
    let one = Cores { shards: 1, count: 1, cpus: Vec::new(), applier: false, applier_cpus: Vec::new() };
    assert_eq!(cores(""), one);
    let two = Cores { shards: 4, count: 2, cpus: vec![1, 0], ..one };
    assert_eq!(cores("shards = 4\ncount = 2\ncpus = [1, 0]"), two);
    assert_eq!(
        cores("shards = 4\ncount = 2\ncpus = [1, 0]\napplier = true\napplier_cpus = [3, 2]"),
        Cores { applier: true, applier_cpus: vec![3, 2], ..two }
    );
    assert_eq!(cores("shards = 64").layout().map(|layout| layout.cores()).ok(), Some(1));
    for (section, said) in [
        ("shards = 65", "error[E0205]: `shards` must be a number from 1 to 64, not 65"),
        ("count = 2", "error[E0213]: count may not exceed shards"),
        (
            "shards = 2\ncount = 2\ncpus = [1]",
            "error[E0205]: `cpus` must be a list of 2, one for each core, not a list",
        ),
        ("cpus = [1, 1]", "error[E0205]: `cpus` must be a list of different numbers from 0 to 1023, not a list"),
        (
            "shards = 2\ncount = 2\napplier = true\napplier_cpus = [1]",
            "error[E0205]: `applier_cpus` must be a list of 2, one for each core, not a list",
        ),
        (
            "applier = true\napplier_cpus = [1024]",
            "error[E0205]: `applier_cpus` must be a list of different numbers from 0 to 1023, not a list",
        ),
        (
            "applier_cpus = [1]",
            "error[E0216]: `applier_cpus` is for threads that this node does not have\n  --> n.toml:",
        ),
        ("applier = false\napplier_cpus = [1]", "error[E0216]: `applier_cpus` is for threads"),
    ] {
        let found = complaint(&with_section(&format!("[cores]\n{section}\n")));
        assert!(found.starts_with(said), "{found}");
    }
    // What the command line makes of it is looked at as well.
    assert!(Cores { shards: 2, count: 3, ..Cores::default() }.layout().is_err());
    let said = |cores: Cores| cores.layout().map(drop).map_err(|error| (error.code(), error.to_string()));
    let spread = Cores { shards: 2, count: 2, applier: true, applier_cpus: vec![1], ..Cores::default() };
    assert_eq!(said(spread), Err(("E0215", "`applier_cpus` names 1 processors for 2 cores".to_owned())));
}
