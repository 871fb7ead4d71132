//! What a handler's body must not name: replicas that each look at their own clock, dice, files or threads come apart.
//!
//! The scan sees the tokens of one body, closures and macro arguments included, and no further: what a helper function
//! does is up to the helper. It is a net for honest mistakes; the digests that replicas compare catch the rest.

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

use super::mark::Mark;
use crate::mistakes::Mistakes;
use crate::types::{is_punct, is_word};

/// Reports everything in the body of a replicated method that differs between replicas.
pub(crate) fn outside_the_log(body: &impl ToTokens, mark: Mark, mistakes: &mut Mistakes) {
    walk(body.to_token_stream(), &mut |place| {
        if let Some((tokens, offence)) = offence_at(place) {
            mistakes.add(tokens, format_args!("{} method {}", mark.with_article(), offence.problem()), offence.help());
        }
    });
}

/// Reports every `.await` in the body of a read method, which runs in one go.
pub(crate) fn awaits(body: &impl ToTokens, mistakes: &mut Mistakes) {
    walk(body.to_token_stream(), &mut |place| {
        if is_word(place.here(), "await") && place.follows_dot() {
            mistakes.add(
                place.here(),
                "a `#[read]` method runs in one go and cannot wait",
                "remove the `.await`; a method that waits is a `#[local]` one, which sees state through `cx.with_state(..)`",
            );
        }
    });
}

/// One identifier and what stands around it.
struct Place<'t> {
    tokens: &'t [TokenTree],
    at: usize,
}

impl<'t> Place<'t> {
    fn here(&self) -> &'t TokenTree {
        &self.tokens[self.at]
    }

    fn before(&self, distance: usize) -> Option<&'t TokenTree> {
        self.at.checked_sub(distance).map(|i| &self.tokens[i])
    }

    /// A method or field, not the end of a range.
    fn follows_dot(&self) -> bool {
        self.before(1).is_some_and(|token| is_punct(token, '.'))
            && !self.before(2).is_some_and(|token| is_punct(token, '.'))
    }

    fn follows_word(&self, word: &str) -> bool {
        self.before(1).is_some_and(|token| is_word(token, word))
    }

    /// A segment of a path, but not its first.
    fn follows_colons(&self) -> bool {
        let colon = |distance| self.before(distance).is_some_and(|token| is_punct(token, ':'));
        // `::std` at the start of a path has no identifier in front of its colons; a turbofish has a `>`.
        colon(1) && colon(2) && matches!(self.before(3), Some(TokenTree::Ident(_)))
    }

    /// The path that begins here and the tokens after it.
    fn path(&self) -> (Vec<&'t Ident>, &'t [TokenTree]) {
        let mut segments = Vec::new();
        let mut rest = &self.tokens[self.at..];
        while let [TokenTree::Ident(segment), after @ ..] = rest {
            segments.push(segment);
            rest = after;
            match rest {
                [TokenTree::Punct(a), TokenTree::Punct(b), next @ ..]
                    if a.as_char() == ':'
                        && a.spacing() == Spacing::Joint
                        && b.as_char() == ':'
                        && matches!(next, [TokenTree::Ident(_), ..]) =>
                {
                    rest = next;
                }
                _ => break,
            }
        }
        (segments, rest)
    }
}

/// Calls `visit` for every identifier, at every depth.
fn walk(stream: TokenStream, visit: &mut dyn FnMut(Place<'_>)) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => walk(group.stream(), visit),
            TokenTree::Ident(_) => visit(Place { tokens: &tokens, at }),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// What makes replicas differ.
#[derive(Clone, Copy)]
enum Offence {
    Clock,
    Randomness,
    Thread,
    ThreadLocal,
    Environment,
    File,
    Socket,
    Process,
    HashedMap,
    HashedSet,
    HashSeed,
    OtherExecutor,
    Sleep,
    StaticMut,
}

impl Offence {
    fn problem(self) -> &'static str {
        match self {
            Offence::Clock => "cannot read a clock: each replica would see another time",
            Offence::Randomness => "cannot draw from this source of randomness: each replica would draw something else",
            Offence::Thread => "cannot use threads: their order differs between replicas",
            Offence::ThreadLocal => "cannot keep state outside of `self`: snapshots do not carry it",
            Offence::Environment => "cannot read the environment: it differs between replicas",
            Offence::File => "cannot use files: each replica has its own",
            Offence::Socket => "cannot use the network: every replica would send, and receive something else",
            Offence::Process => "cannot use processes: each replica has its own",
            Offence::HashedMap | Offence::HashedSet => {
                "cannot use a map or set with the default hasher: its order differs between replicas"
            }
            Offence::HashSeed => "cannot use a hasher seeded by the system: its hashes differ between replicas",
            Offence::OtherExecutor => "cannot await another executor: only the log decides what happens next",
            Offence::Sleep => "cannot sleep: the log would stand still on this replica",
            Offence::StaticMut => "cannot keep state outside of `self`: snapshots do not carry it",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Offence::Clock => "use `cx.now()`, the time that the log gives this entry",
            Offence::Randomness => "use `cx.rng()`, seeded by the log and the same on every replica",
            Offence::Thread => {
                "move the work to a `#[local]` method or an `#[effect]`; long work here may `cx.yield_now().await`"
            }
            Offence::ThreadLocal | Offence::StaticMut => "make it a field of the state",
            Offence::Environment => "read it where the caller is, and pass it as an argument",
            Offence::File => {
                "read files where the caller is, and pass what they hold as an argument; write them in an `#[effect]`"
            }
            Offence::Socket => "do it in an `#[effect]`, started by `cx.after_commit(..)`: it runs on the leader only",
            Offence::Process => "do it in an `#[effect]`, started by `cx.after_commit(..)`: it runs on the leader only",
            Offence::HashedMap => "use `BTreeMap`, or pass a hasher with a fixed seed",
            Offence::HashedSet => "use `BTreeSet`, or pass a hasher with a fixed seed",
            Offence::HashSeed => "use a hasher with a fixed seed",
            Offence::OtherExecutor => "await only `cx.yield_now()`; wait in a `#[local]` method or an `#[effect]`",
            Offence::Sleep => "use `cx.set_timer(..)` and a `#[timer]` method: timers fire in the log",
        }
    }
}

/// The offence that begins at this identifier, and the tokens to underline.
fn offence_at(place: Place<'_>) -> Option<(TokenStream, Offence)> {
    if place.follows_dot() || place.follows_colons() || place.follows_word("fn") {
        return None;
    }
    if is_word(place.here(), "static") {
        let next = place.tokens.get(place.at + 1).filter(|next| is_word(next, "mut"))?;
        return Some(([place.here(), next].into_iter().cloned().collect(), Offence::StaticMut));
    }
    let (path, rest) = place.path();
    let offence = offence_of(&path, rest)?;
    let length = place.tokens.len() - place.at - rest.len();
    let tokens = place.tokens[place.at..place.at + length].iter().cloned().collect();
    Some((tokens, offence))
}

fn offence_of(path: &[&Ident], rest: &[TokenTree]) -> Option<Offence> {
    let names: Vec<String> = path.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let has = |name: &str| names.contains(&name);
    // `parent::child`, side by side; a brace after the last segment is a list of children.
    let in_module = |module: &str| {
        names.iter().rposition(|name| *name == module).is_some_and(|i| i + 1 < names.len() || opens_list(rest))
    };
    let begins_with = |root: &str| names[0] == root && (names.len() > 1 || opens_list(rest));
    let ends_with = |of: &str, name: &str| names.ends_with(&[of, name]);
    let is_called = matches!(rest, [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Parenthesis);
    let is_macro = matches!(rest, [TokenTree::Punct(punct), ..] if punct.as_char() == '!');
    let calls = |name: &str| is_called && names.last() == Some(&name);

    let is_executor = ["tokio", "async_std", "smol"].iter().any(|executor| begins_with(executor));
    if is_macro {
        // `env!` and the like are done when the program is built.
        let kept = has("thread_local").then_some(Offence::ThreadLocal);
        return kept.or(is_executor.then_some(Offence::OtherExecutor));
    }
    if ["Instant", "Utc", "Local", "OffsetDateTime"].iter().any(|clock| ends_with(clock, "now"))
        || ends_with("OffsetDateTime", "now_utc")
        || has("SystemTime")
        || has("UNIX_EPOCH")
    {
        return Some(Offence::Clock);
    }
    // Traits and distributions of `rand` are what one uses `cx.rng()` with.
    let with_our_rng = ["Rng", "RngExt", "RngCore", "SeedableRng", "seq", "distr", "distributions"];
    if (begins_with("rand") && !names.get(1).is_some_and(|name| with_our_rng.contains(name)))
        || begins_with("fastrand")
        || begins_with("getrandom")
        || ["thread_rng", "random", "from_os_rng", "from_entropy"].iter().any(|name| calls(name))
        || has("OsRng")
        || has("ThreadRng")
        || ends_with("Uuid", "new_v4")
    {
        return Some(Offence::Randomness);
    }
    if is_executor {
        return Some(Offence::OtherExecutor);
    }
    if calls("sleep") || calls("sleep_until") {
        return Some(Offence::Sleep);
    }
    if in_module("thread") {
        return Some(Offence::Thread);
    }
    if in_module("env") {
        return Some(Offence::Environment);
    }
    if in_module("fs") || has("OpenOptions") || ["open", "create", "create_new"].iter().any(|f| ends_with("File", f)) {
        return Some(Offence::File);
    }
    if ["UdpSocket", "TcpStream", "TcpListener", "UnixStream", "UnixListener", "UnixDatagram"].iter().any(|s| has(s)) {
        return Some(Offence::Socket);
    }
    if begins_with("std") && in_module("process")
        || names.starts_with(&["process", "id"])
        || ends_with("Command", "new")
    {
        return Some(Offence::Process);
    }
    if has("RandomState") {
        return Some(Offence::HashSeed);
    }
    for (name, types, offence) in [("HashMap", 2, Offence::HashedMap), ("HashSet", 1, Offence::HashedSet)] {
        let seeded = has("with_hasher") || has("with_capacity_and_hasher") || type_arguments(rest) > types;
        if has(name) && !seeded {
            return Some(offence);
        }
    }
    None
}

/// `::{`, as in `use std::{..}`.
fn opens_list(rest: &[TokenTree]) -> bool {
    match rest {
        [a, b, TokenTree::Group(group), ..] => {
            is_punct(a, ':') && is_punct(b, ':') && group.delimiter() == Delimiter::Brace
        }
        _ => false,
    }
}

/// How many types stand in the angle brackets that follow, as in `<String, u64>` or `::<String, u64>`.
fn type_arguments(rest: &[TokenTree]) -> usize {
    let after_colons = match rest {
        [a, b, after @ ..] if is_punct(a, ':') && is_punct(b, ':') => after,
        _ => rest,
    };
    let [open, inside @ ..] = after_colons else { return 0 };
    if !is_punct(open, '<') {
        return 0;
    }
    let (mut depth, mut count, mut arrow) = (0, 1, false);
    for token in inside {
        match token {
            TokenTree::Punct(punct) => match punct.as_char() {
                '<' => depth += 1,
                // The end of `->` closes nothing.
                '>' if arrow => {}
                '>' if depth == 0 => return count,
                '>' => depth -= 1,
                ',' if depth == 0 => count += 1,
                _ => {}
            },
            TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Literal(_) => {}
        }
        arrow = is_punct(token, '-');
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(body: &str) -> Vec<String> {
        let tokens: TokenStream = body.parse().expect("tokens");
        let mut mistakes = Mistakes::default();
        outside_the_log(&tokens, Mark::Replicated, &mut mistakes);
        mistakes.texts()
    }

    #[test]
    fn what_differs_between_replicas_is_named_with_its_replacement() {
        for (body, help) in [
            ("let t = std::time::Instant::now();", "cx.now()"),
            ("Instant::now()", "cx.now()"),
            ("::std::time::SystemTime::now()", "cx.now()"),
            ("t.duration_since(UNIX_EPOCH)", "cx.now()"),
            ("rand::random::<u64>()", "cx.rng()"),
            ("rand::rng().random()", "cx.rng()"),
            ("let r = thread_rng();", "cx.rng()"),
            ("random()", "cx.rng()"),
            ("Uuid::new_v4()", "cx.rng()"),
            ("std::thread::spawn(|| ())", "#[local]"),
            ("thread::yield_now()", "#[local]"),
            ("thread_local! { static A: u8 = 1; }", "field of the state"),
            ("static mut A: u8 = 1;", "field of the state"),
            ("std::env::var(\"HOME\")", "pass it as an argument"),
            ("env::args()", "pass it as an argument"),
            ("std::fs::read(path)", "#[effect]"),
            ("File::open(path)", "#[effect]"),
            ("UdpSocket::bind(a)", "after_commit"),
            ("HashMap::new()", "BTreeMap"),
            ("let m: HashMap<String, Vec<(u8, u8)>> = x;", "BTreeMap"),
            ("iter.collect::<HashSet<_>>()", "BTreeSet"),
            ("tokio::time::timeout(d, f).await", "cx.yield_now()"),
            ("tokio::select! { a = b => {} }", "cx.yield_now()"),
            ("sleep(d).await", "cx.set_timer"),
            ("std::process::id()", "after_commit"),
            ("use std::fs::{read, write};", "#[effect]"),
            ("use rand::{random, Rng};", "cx.rng()"),
        ] {
            let found = problems(body);
            assert_eq!(found.len(), 1, "{body}: {found:?}");
            assert!(found[0].contains(help), "{body}: {found:?}");
        }
    }

    #[test]
    fn closures_and_macro_arguments_are_looked_into() {
        assert_eq!(problems("self.f(|| { vec![Instant::now(), HashMap::new()] })").len(), 2);
        assert_eq!(problems("println!(\"{:?}\", std::time::Instant::now())").len(), 1);
    }

    #[test]
    fn what_only_looks_alike_is_left_alone() {
        for body in [
            "cx.rng().random::<u64>()",
            "cx.now() + ttl",
            "self.env.get(random)",
            "let thread = self.thread; thread.sleep(1)",
            "println!(\"HashMap Instant::now()\")",
            "eprintln!(\"{}\", env!(\"CARGO_PKG_NAME\"))",
            "HashMap::with_hasher(Fixed)",
            "let m: HashMap<String, u8, Fixed> = x; let s: HashSet<u8, Fixed> = y;",
            "let file = File { name };",
            "use rand::RngExt; use rand::seq::SliceRandom;",
            "fn random() -> u8 { 4 }",
            "for i in 0..sleep { }",
            "std::net::Ipv4Addr::LOCALHOST",
            "cx.yield_now().await",
        ] {
            assert_eq!(problems(body), Vec::<String>::new(), "{body}");
        }
    }

    #[test]
    fn a_read_that_awaits_is_found_at_any_depth() {
        let count = |body: &str| {
            let tokens: TokenStream = body.parse().expect("tokens");
            let mut mistakes = Mistakes::default();
            awaits(&tokens, &mut mistakes);
            mistakes.len()
        };
        assert_eq!(count("if x { select!(a.b().await, c.await) }"), 2);
        assert_eq!(count("let awaits = self.awaits(); awaits"), 0);
    }
}
