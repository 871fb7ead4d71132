//! Bad input, one file each: which counter rises, by exactly one, and that nothing else changes.
//! The format is described in `corpus/README.md`.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;
use trimaran_rpc::r2p2::{
    Call, Counters, DropReason, Forwarded, Limits, Outcome, Replies, Reply, ReplyLimits, Requests, Rid,
};
use trimaran_runtime::Instant;

/// What a case feeds: a service port, a client, or the parser of forwarded requests.
enum Side {
    Server(Requests),
    Client(Replies),
    Forward(Counters),
}

/// All that a dropped datagram must leave alone.
type Held = (usize, usize, Option<Instant>);

impl Side {
    fn counters(&self) -> Counters {
        match self {
            Side::Server(requests) => requests.counters().clone(),
            Side::Client(replies) => replies.counters().clone(),
            Side::Forward(counters) => counters.clone(),
        }
    }

    fn held(&self) -> Held {
        match self {
            Side::Server(requests) => (requests.pending_messages(), requests.held_bytes(), requests.deadline()),
            Side::Client(replies) => (replies.waiting(), replies.held_bytes(), None),
            Side::Forward(_) => (0, 0, None),
        }
    }

    /// Feeds a datagram and says in the corpus's words what came of it, and the assembled body.
    fn feed(&mut self, now: Instant, from: SocketAddrV4, datagram: &[u8]) -> (String, Vec<u8>) {
        let dropped = |reason: DropReason| (format!("dropped {}", reason.name()), Vec::new());
        let plain = |word: &str| (word.to_owned(), Vec::new());
        match self {
            Side::Server(requests) => match requests.on_datagram(now, from, datagram) {
                Err(reason) | Ok((_, _, Outcome::Dropped(reason))) => dropped(reason),
                Ok((_, _, Outcome::Refused { reason, block })) => {
                    plain(&format!("refused {}{}", reason.name(), if block.is_some() { " own" } else { "" }))
                }
                Ok((_, _, Outcome::Assembled(message))) => (format!("assembled {}", message.body.len()), message.body),
                Ok((_, _, Outcome::Complete)) => plain("complete"),
                Ok((_, _, Outcome::Begun)) => plain("begun"),
                Ok((_, _, Outcome::Pending)) => plain("pending"),
            },
            Side::Client(replies) => match replies.on_datagram(from, datagram) {
                Err(reason) | Ok((_, _, Reply::Dropped(reason))) => dropped(reason),
                Ok((_, _, Reply::Assembled(body))) => (format!("assembled {}", body.len()), body),
                Ok((_, _, Reply::Complete)) => plain("complete"),
                Ok((_, _, Reply::Refused)) => plain("refused_call"),
                Ok((_, _, Reply::SendRest)) => plain("send_rest"),
                Ok((_, _, Reply::Pending)) => plain("pending"),
            },
            Side::Forward(counters) => match Forwarded::parse(datagram) {
                Err(reason) => {
                    counters.record(reason);
                    dropped(reason)
                }
                Ok(_) => plain("forwarded"),
            },
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace().filter(|word| *word != "-") {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let once = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let once: Vec<u8> = once.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        bytes.extend(once.repeat(times.parse().unwrap()));
    }
    bytes
}

fn micros(text: &str) -> Instant {
    Instant::from_nanos(text.parse::<u64>().unwrap() * 1000)
}

/// Builds the side from the `side`, `limit` and `call` lines.
fn prepare(lines: &[&str]) -> Side {
    let mut side = "";
    let mut limits = Limits::default();
    let mut reply_limits = ReplyLimits::default();
    let mut calls = Vec::new();
    for line in lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["side", name] => side = name,
            ["limit", name, value] => {
                let value: usize = value.parse().unwrap();
                match name {
                    "pending_messages" => limits.pending_messages = value,
                    "pending_per_source" => limits.pending_per_source = value,
                    "pending_bytes" => limits.pending_bytes = value,
                    "request_bytes" => limits.request_bytes = value,
                    "packets" => limits.packets = value as u16,
                    "reassembly_us" => limits.reassembly = Duration::from_micros(value as u64),
                    "reply_bytes" => reply_limits.reply_bytes = value,
                    "held_bytes" => reply_limits.held_bytes = value,
                    other => panic!("limit {other}"),
                }
            }
            ["call", packets, block] => {
                calls.push(Call { multi_packet: packets == "multi", echo: (block == "own").then_some(0) });
            }
            _ => {}
        }
    }
    match side {
        "server" => Side::Server(Requests::new(limits)),
        "client" => {
            let mut replies = Replies::new(reply_limits, Rid(1));
            for call in calls {
                replies.begin(Instant::ZERO, call).unwrap();
            }
            Side::Client(replies)
        }
        "forward" => Side::Forward(Counters::default()),
        other => panic!("side {other:?}"),
    }
}

/// Replays one case; the reasons for which it saw something dropped or refused.
fn run(name: &str, text: &str) -> BTreeSet<&'static str> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut side = prepare(&lines);
    let mut reasons = BTreeSet::new();
    for (number, line) in lines.iter().enumerate() {
        let place = format!("{name}, statement {}: {line}", number + 1);
        let counters_before = side.counters();
        if let Some(rest) = line.strip_prefix("at ") {
            let (input, expected) = rest.split_once(" -> ").expect("an outcome");
            let mut words = input.splitn(3, ' ');
            let (at, from, datagram) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let (expected, expected_body) = match expected.split(' ').collect::<Vec<_>>()[..] {
                ["assembled", bytes, body] => (format!("assembled {bytes}"), Some(hex(body))),
                _ => (expected.to_owned(), None),
            };
            let held_before = side.held();
            let (outcome, body) = side.feed(micros(at), from.parse().unwrap(), &hex(datagram));
            assert_eq!(outcome, expected, "{place}");
            assert!(expected_body.is_none_or(|expected| body == expected), "{place}: body");
            let mut counters_expected = counters_before;
            let mut words = expected.split(' ');
            let word = words.next();
            if word == Some("dropped") || word == Some("refused") {
                let reason = words.next().unwrap();
                let reason = DropReason::ALL.iter().find(|known| known.name() == reason).expect("a known reason");
                counters_expected.record(*reason);
                reasons.insert(reason.name());
            }
            assert_eq!(side.counters(), counters_expected, "{place}: counters");
            if word == Some("dropped") && expected != "dropped expired" {
                assert_eq!(side.held(), held_before, "{place}: tables");
            }
        } else if let Some(rest) = line.strip_prefix("expire ") {
            let (at, expected) = rest.split_once(" -> ").unwrap();
            let Side::Server(requests) = &mut side else { panic!("{place}") };
            let mut given_up = 0;
            requests.expire(micros(at), |_| given_up += 1);
            assert_eq!(given_up, expected.parse::<u64>().unwrap(), "{place}");
            let expired = DropReason::Expired;
            assert_eq!(requests.counters().get(expired), counters_before.get(expired) + given_up, "{place}");
            assert_eq!(requests.counters().total(), counters_before.total() + given_up, "{place}");
            if given_up > 0 {
                reasons.insert(expired.name());
            }
        } else if let Some(rid) = line.strip_prefix("end ") {
            let Side::Client(replies) = &mut side else { panic!("{place}") };
            replies.end(Instant::ZERO, Rid(rid.parse().unwrap()));
        } else {
            assert!(["side ", "limit ", "call "].iter().any(|word| line.starts_with(word)), "{place}");
        }
    }
    reasons
}

#[test]
fn every_case_raises_its_counter_and_changes_nothing_else() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut cases = 0;
    let mut reasons = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "case") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let seen = run(&name, &std::fs::read_to_string(&path).unwrap());
            assert!(!seen.is_empty(), "{name}: nothing is bad here");
            reasons.extend(seen);
            cases += 1;
        }
    }
    assert!(cases >= 250, "{cases} cases: the corpus has lost files");
    // What only an endpoint can know is tested with the endpoint.
    let beyond: BTreeSet<_> = [
        DropReason::Abandoned,
        DropReason::UnknownMethod,
        DropReason::PolicyMismatch,
        DropReason::UnknownConsistency,
        DropReason::NothingReplicated,
        DropReason::NoLeader,
        DropReason::Overloaded,
        DropReason::LoopbackClient,
        DropReason::CopyForwarded,
        DropReason::CopyPending,
        DropReason::CopySeen,
    ]
    .map(DropReason::name)
    .into();
    let missing: Vec<_> =
        DropReason::ALL.iter().map(|r| r.name()).filter(|r| !reasons.contains(r) && !beyond.contains(r)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
