//! The rules as functions from sources or edges to complaints, so that each can be shown to fail on a bad sample.
//! A complaint says where, what and what to do instead.

use crate::source::Source;

/// Longest source file, in lines.
pub(crate) const FILE_LINES: usize = 600;

/// A dependency of one package on another of this workspace, of whatever kind.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Who may import whom. Later columns of a packet's way know earlier ones, never the other way round.
const IMPORTS: &[(&str, &[&str])] = &[
    ("trimaran-runtime", &[]),
    ("trimaran-net", &["trimaran-runtime", "dpdk-sys"]),
    ("trimaran-raft", &["trimaran-runtime"]),
    ("trimaran-macros", &[]),
    ("trimaran-rpc", &["trimaran-net", "trimaran-raft", "trimaran-runtime", "trimaran-macros"]),
    ("kv-example", &["trimaran-rpc", "trimaran-net", "trimaran-raft", "trimaran-runtime"]),
    ("lock-service", &["trimaran-rpc"]),
    ("trimaran-fuzz", &["trimaran-rpc", "trimaran-net", "trimaran-raft", "trimaran-runtime"]),
    ("trimaran-benches", &["trimaran-rpc", "trimaran-net", "trimaran-raft", "trimaran-runtime", "kv-example"]),
    ("dpdk-sys", &[]),
    ("xtask", &[]),
];

pub(crate) fn imports(packages: &[String], edges: &[Edge]) -> Vec<String> {
    let allowed = |package: &str| IMPORTS.iter().find(|(name, _)| *name == package).map(|(_, to)| *to);
    let mut complaints: Vec<String> = packages
        .iter()
        .filter(|package| allowed(package).is_none())
        .map(|package| format!("{package} is new: say in IMPORTS of xtask/tests/house/rules.rs what it may import"))
        .collect();
    for Edge { from, to } in edges {
        // A package may name itself among its dev-dependencies to switch a feature on for its own tests.
        if from != to && allowed(from).is_some_and(|list| !list.contains(&to.as_str())) {
            complaints.push(format!(
                "{from} depends on {to}: remove it from {from}'s Cargo.toml; pass what it needs through a trait of {from} that a later crate implements"
            ));
        }
    }
    complaints
}

/// raft is a pure machine: only its shell, the shard, knows the runtime.
pub(crate) fn raft_is_pure(raft: &[Source]) -> Vec<String> {
    let outside = raft.iter().filter(|s| s.path != "raft/src/shard.rs" && !s.path.starts_with("raft/src/shard/"));
    find(
        outside,
        Source::words,
        |words, i| words[i].1 == "trimaran_runtime",
        |_| {
            "imports trimaran_runtime: take the time as an argument (Nanos) and leave tasks, clocks and waiting to raft/src/shard.rs".to_owned()
        },
    )
}

/// Each crate root of these packages must forbid unsafe code.
pub(crate) fn forbids_unsafe(roots: &[Source]) -> Vec<String> {
    let forbids = |source: &&Source| {
        let code: String = source.words().into_iter().map(|(_, word)| word).collect();
        code.contains("#![forbid(unsafe_code)]")
    };
    let missing = roots.iter().filter(|root| !forbids(root));
    missing.map(|root| format!("{}: write #![forbid(unsafe_code)] below its module docs", root.path)).collect()
}

/// `unsafe` stays where it has been argued for.
pub(crate) fn unsafe_only_in(sources: &[Source], allowed: &[&str]) -> Vec<String> {
    let inside =
        |path: &str| allowed.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)));
    let outside = sources.iter().filter(|source| !inside(&source.path));
    find(
        outside,
        Source::words,
        |words, i| words[i].1 == "unsafe",
        |_| {
            format!(
                "unsafe code: move it to {} behind a safe function, or use a safe crate (rustix, zerocopy)",
                allowed.join(" or ")
            )
        },
    )
}

/// What a module without clock, socket, thread or file may not name, and what it does instead.
const IMPURE: &[(&[&str], &str)] = &[
    (&["now", "(", ")"], "reads a clock: take `now` as an argument"),
    (&["SystemTime"], "reads a clock: take `now` as an argument"),
    (
        &["std", ":", ":", "time", ":", ":", "Instant"],
        "uses the system's clock: take trimaran_runtime::Instant as an argument",
    ),
    (&["sleep"], "waits: return the deadline and let the caller wait"),
    (&["sleep_until"], "waits: return the deadline and let the caller wait"),
    (&["spawn"], "starts a task: return what is to be done"),
    (&["UdpSocket"], "uses a socket: take and return bytes"),
    (&["TcpStream"], "uses a socket: take and return bytes"),
    (&["trimaran_net"], "uses a socket: take and return bytes"),
    (&["async"], "waits: return what is to be done"),
    (&["std", ":", ":", "fs"], "opens files: take and return bytes"),
    (&["std", ":", ":", "thread"], "uses threads: return what is to be done"),
];

/// Code that is fed bytes and times and returns what to do. The tests at its foot may feed it as they like.
pub(crate) fn pure<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (pattern, instead) in IMPURE {
            let starts = |words: &[(usize, String)], i: usize| {
                words[i..].len() >= pattern.len() && pattern.iter().zip(&words[i..]).all(|(p, (_, word))| p == word)
            };
            complaints.extend(find([source], Source::words_without_tests, starts, |_| (*instead).to_owned()));
        }
    }
    complaints
}

/// A file tells one story.
pub(crate) fn short(sources: &[Source]) -> Vec<String> {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources.iter().filter(|source| lines(source) > FILE_LINES);
    long.map(|source| {
        format!(
            "{} has {} lines, more than {FILE_LINES}: split it where its story has chapters",
            source.path,
            lines(source)
        )
    })
    .collect()
}

/// Complaints `path:line: what` for each place where `matches` holds.
fn find<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    words: impl Fn(&Source) -> Vec<(usize, String)>,
    matches: impl Fn(&[(usize, String)], usize) -> bool,
    what: impl Fn(&str) -> String,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let words = words(source);
        let hits = (0..words.len()).filter(|&i| matches(&words, i));
        complaints.extend(hits.map(|i| format!("{}:{}: {}", source.path, words[i].0, what(&words[i].1))));
    }
    complaints
}

#[cfg(test)]
mod can_fail {
    use super::*;

    fn edge(from: &str, to: &str) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn an_import_against_the_order() {
        let packages = ["trimaran-net".to_owned(), "trimaran-raft".to_owned()];
        let good = [edge("trimaran-net", "trimaran-runtime"), edge("trimaran-raft", "trimaran-raft")];
        assert!(imports(&packages, &good).is_empty());
        let bad = [edge("trimaran-raft", "trimaran-net"), edge("trimaran-runtime", "trimaran-net")];
        assert_eq!(imports(&packages, &bad).len(), 2);
        assert_eq!(imports(&["trimaran-fourth-hull".to_owned()], &[]).len(), 1);
    }

    #[test]
    fn the_runtime_in_the_machine() {
        let line = "use trimaran_runtime::now;";
        assert!(
            raft_is_pure(&[Source::sample("raft/src/shard.rs", line), Source::sample("raft/src/shard/flow.rs", line)])
                .is_empty()
        );
        assert!(raft_is_pure(&[Source::sample("raft/src/log.rs", "// not trimaran_runtime")]).is_empty());
        let complaints = raft_is_pure(&[Source::sample("raft/src/machine/commit.rs", &format!("//! Commit.\n{line}"))]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("raft/src/machine/commit.rs:2: "), "{complaints:?}");
    }

    #[test]
    fn a_crate_root_that_does_not_forbid_unsafe() {
        assert!(forbids_unsafe(&[Source::sample("rpc/src/lib.rs", "//! Doc.\n#![forbid(unsafe_code)]")]).is_empty());
        assert_eq!(forbids_unsafe(&[Source::sample("rpc/src/lib.rs", "// #![forbid(unsafe_code)]")]).len(), 1);
        assert_eq!(forbids_unsafe(&[Source::sample("rpc/src/lib.rs", "#![deny(unsafe_code)]")]).len(), 1);
    }

    #[test]
    fn unsafe_outside_its_place() {
        let block = "fn f() { unsafe { g() } }";
        let allowed = ["runtime/src/task.rs", "net/src/port/"];
        assert!(unsafe_only_in(&[Source::sample("net/src/port/udp/batch.rs", block)], &allowed).is_empty());
        assert!(
            unsafe_only_in(&[Source::sample("net/src/pool.rs", "// unsafe\n#![deny(unsafe_code)]")], &allowed)
                .is_empty()
        );
        assert_eq!(unsafe_only_in(&[Source::sample("net/src/pool.rs", block)], &allowed).len(), 1);
        assert_eq!(unsafe_only_in(&[Source::sample("runtime/src/task.rs.rs", block)], &allowed).len(), 1);
    }

    #[test]
    fn a_clock_or_socket_in_a_pure_module() {
        let pure_code = "fn expire(now: Instant) -> Option<Instant> { let now = now; None }\n#[cfg(test)]\nmod tests { fn t() { Instant::now(); } }";
        assert!(pure(&[Source::sample("rpc/src/r2p2/reassembly.rs", pure_code)]).is_empty());
        for bad in [
            "fn f() { trimaran_runtime::now(); }",
            "fn f() -> std::time::Instant;",
            "use trimaran_net::Packet;",
            "let socket = UdpSocket::bind(a);",
            "async fn f() {}",
        ] {
            assert_eq!(pure(&[Source::sample("rpc/src/r2p2/header.rs", bad)]).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_file_of_many_stories() {
        assert!(short(&[Source::sample("net/src/a.rs", &"x\n".repeat(FILE_LINES))]).is_empty());
        assert_eq!(short(&[Source::sample("net/src/a.rs", &"x\n".repeat(FILE_LINES + 1))]).len(), 1);
    }
}
