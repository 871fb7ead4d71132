//! Which small faults could be made, as cargo-mutants lists them, and a sample of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::step;
use crate::workspace::Workspace;

const VERSION: &str = "27.1.0";
/// What is examined: consensus, the wire format and the sessions.
const FILES: [&str; 5] =
    ["raft/src/**/*.rs", "rpc/src/r2p2.rs", "rpc/src/r2p2/*.rs", "rpc/src/session.rs", "rpc/src/session/*.rs"];
/// Instruments of the tests themselves, compiled in by features of their own.
const NOT: [&str; 4] = ["raft/src/trace.rs", "raft/src/trace/*.rs", "raft/src/sabotage.rs", "rpc/src/session/tests.rs"];

/// What kind of fault it is: how it is written into a source depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Genre {
    /// A function returns a value at once.
    FnValue,
    BinaryOperator,
    /// An operator is left out.
    UnaryOperator,
    /// An arm of a match is left out.
    MatchArm,
    MatchArmGuard,
    /// A field is taken from the base of a struct expression.
    StructField,
}

/// One small fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// Where and what, as cargo-mutants says it.
    pub(crate) name: String,
    pub(crate) package: String,
    /// Path from the root.
    pub(crate) file: String,
    pub(crate) genre: Genre,
    /// Line and column, from 1, of the first character that changes and of the one after the last.
    pub(crate) from: (usize, usize),
    pub(crate) to: (usize, usize),
    pub(crate) replacement: String,
}

impl Mutant {
    /// What it does, without where.
    pub(crate) fn what(&self) -> &str {
        self.name.splitn(4, ':').nth(3).unwrap_or(&self.name).trim()
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let place = |key: &str| {
            let number = |part: &str| usize::try_from(value["span"][key][part].as_u64()?).ok();
            Some((number("line")?, number("column")?))
        };
        let genre = match value["genre"].as_str()? {
            "FnValue" => Genre::FnValue,
            "BinaryOperator" => Genre::BinaryOperator,
            "UnaryOperator" => Genre::UnaryOperator,
            "MatchArm" => Genre::MatchArm,
            "MatchArmGuard" => Genre::MatchArmGuard,
            "StructField" => Genre::StructField,
            _ => return None,
        };
        Some(Mutant {
            name: text("name")?,
            package: text("package")?,
            file: text("file")?,
            genre,
            from: place("start")?,
            to: place("end")?,
            replacement: text("replacement")?,
        })
    }
}

/// Every fault of the examined files, in a fixed order.
pub(crate) fn all(workspace: &Workspace) -> Result<Vec<Mutant>, String> {
    let mut command = Command::new(tool(workspace)?);
    command.current_dir(workspace.root()).args(["mutants", "--list", "--json"]);
    command.args(FILES.iter().flat_map(|file| ["--file", file]));
    command.args(NOT.iter().flat_map(|file| ["--exclude", file]));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo-mutants: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo-mutants ended with {}", output.status));
    }
    let listed: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo-mutants: {error}"))?;
    let mut mutants = listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|value| Mutant::parse(value).ok_or_else(|| format!("cargo-mutants lists something new: {value}")))
        .collect::<Result<Vec<_>, _>>()?;
    mutants.sort_by(|a, b| (&a.file, a.from, &a.name).cmp(&(&b.file, b.from, &b.name)));
    mutants.dedup_by(|a, b| a.name == b.name);
    Ok(mutants)
}

/// Draws `count` of them; what a smaller count draws comes first. Each is ranked by what it is, not by where it stands in the list
/// or the file: a change of the sources changes the sample as little as them.
pub(crate) fn sample(all: &[Mutant], seed: u64, count: usize) -> Vec<Mutant> {
    let mut alike: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let rank = |mutant: &'_ Mutant, number: u64| {
        let bytes = mutant.file.bytes().chain(mutant.what().bytes());
        // FNV-1a, and the end of splitmix64.
        let mut z = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        for word in [number, seed] {
            z = (z ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
        }
        z
    };
    let mut ranked = Vec::with_capacity(all.len());
    for mutant in all {
        let number = alike.entry((&mutant.file, mutant.what())).or_default();
        ranked.push((rank(mutant, *number), mutant));
        *number += 1;
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().take(count).map(|(_, mutant)| mutant.clone()).collect()
}

/// The installed cargo-mutants, or our own under target/, built now if need be.
fn tool(workspace: &Workspace) -> Result<PathBuf, String> {
    let root = workspace.log_dir().map_err(|error| error.to_string())?.join("tools");
    let binary = root.join("bin/cargo-mutants");
    if !binary.exists() {
        println!("building cargo-mutants {VERSION}, once");
        let args = ["install", "--locked", "--quiet", "--debug", "cargo-mutants", "--version", VERSION, "--root"];
        let mut install = workspace.cargo(&args);
        // It runs for some seconds: optimising it costs more than it saves.
        install.arg(&root).env("CARGO_PROFILE_DEV_DEBUG", "0");
        step::pass_through(&mut install);
    }
    let missing = || format!("cargo-mutants is missing: cargo install --locked cargo-mutants --version {VERSION}");
    binary.exists().then_some(binary).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(line: usize) -> Mutant {
        Mutant {
            name: format!("a.rs:{line}:1: replace == with != in A::b"),
            package: "a".into(),
            file: "a.rs".into(),
            genre: Genre::BinaryOperator,
            from: (line, 1),
            to: (line, 3),
            replacement: "!=".into(),
        }
    }

    #[test]
    fn a_larger_sample_of_the_same_seed_contains_the_smaller() {
        let all: Vec<Mutant> = (0..100).map(mutant).collect();
        let (small, large) = (sample(&all, 7, 10), sample(&all, 7, 40));
        assert_eq!(small, large[..10]);
        assert_ne!(small, sample(&all, 8, 10));
        let mut every = sample(&all, 7, 1000);
        every.sort_by_key(|mutant| mutant.from);
        assert_eq!(every, all);
    }

    #[test]
    fn a_new_fault_leaves_the_sample_nearly_as_it_was() {
        let named = |line: usize| Mutant { name: format!("a.rs:{line}:1: replace f{line} with ()"), ..mutant(line) };
        let before: Vec<Mutant> = (0..100).map(named).collect();
        let mut after = before.clone();
        after.insert(0, Mutant { name: "a.rs:0:9: replace g with ()".into(), ..mutant(0) });
        let (old, new) = (sample(&before, 7, 30), sample(&after, 7, 30));
        assert!(old.iter().filter(|mutant| new.contains(mutant)).count() >= 29);
    }

    #[test]
    fn what_a_fault_does_is_told_without_its_place() {
        assert_eq!(mutant(3).what(), "replace == with != in A::b");
        let value = |name: &str| Mutant { name: name.into(), ..mutant(3) };
        assert_eq!(value("a.rs:3:1: replace f -> B with ::std::x()").what(), "replace f -> B with ::std::x()");
    }
}
