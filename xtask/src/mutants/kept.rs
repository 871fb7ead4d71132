//! What earlier runs found, as lines of JSON. What a test has caught stays caught until the file with the fault changes; what
//! has survived is tried again as soon as any source or test has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::copy::Copy;
use super::list::Mutant;
use super::trial::Outcome;

/// Outcomes by the fault's name.
pub(crate) struct Kept {
    outcomes: BTreeMap<String, Outcome>,
    /// What has survived some test suite, this one or an earlier: no test may be able to tell.
    survived: BTreeSet<String>,
    file: File,
    hashes: BTreeMap<String, u64>,
    all: u64,
}

impl Kept {
    /// Reads what still counts, and goes on writing behind it.
    pub(crate) fn load(path: &Path, copy: &Copy<'_>, afresh: bool) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        if afresh && path.exists() {
            fs::remove_file(path).map_err(failed)?;
        }
        let (text, all) = (fs::read_to_string(path).unwrap_or_default(), copy.hash_of_all());
        let (mut outcomes, mut survived, hashes) = (BTreeMap::new(), BTreeSet::new(), copy.hashes());
        for line in text.lines() {
            let Some((name, file, outcome, hash, of_all)) = parse(line) else { continue };
            if outcome.is_survivor() {
                survived.insert(name.clone());
            }
            if hashes.get(&file) == Some(&hash) && (!outcome.is_survivor() || of_all == all) {
                outcomes.insert(name, outcome);
            }
        }
        let file = File::options().create(true).append(true).open(path).map_err(failed)?;
        Ok(Kept { outcomes, survived, file, hashes, all })
    }

    /// What is known of a fault.
    pub(crate) fn of(&self, mutant: &Mutant) -> Option<&Outcome> {
        self.outcomes.get(&mutant.name)
    }

    /// Whether it has survived before, other sources or tests perhaps.
    pub(crate) fn has_survived(&self, mutant: &Mutant) -> bool {
        self.survived.contains(&mutant.name)
    }

    /// Keeps what became of a fault.
    pub(crate) fn push(&mut self, mutant: &Mutant, outcome: Outcome) -> Result<&Outcome, String> {
        let (word, by) = match &outcome {
            Outcome::Killed(by) => ("killed", json!(by)),
            Outcome::TimedOut(by) => ("timeout", json!(by)),
            Outcome::Survived(tests) => ("survived", json!(tests)),
            Outcome::Unviable => ("unviable", Value::Null),
        };
        let line = json!({ "mutant": mutant.name, "file": mutant.file, "outcome": word, "by": by,
            "hash": self.hashes.get(&mutant.file), "all": self.all });
        writeln!(self.file, "{line}").map_err(|error| format!("outcomes: {error}"))?;
        Ok(self.outcomes.entry(mutant.name.clone()).insert_entry(outcome).into_mut())
    }
}

fn parse(line: &str) -> Option<(String, String, Outcome, u64, u64)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let outcome = match value["outcome"].as_str()? {
        "killed" => Outcome::Killed(text("by")?),
        "timeout" => Outcome::TimedOut(text("by")?),
        "survived" => Outcome::Survived(usize::try_from(value["by"].as_u64()?).ok()?),
        "unviable" => Outcome::Unviable,
        _ => return None,
    };
    Some((text("mutant")?, text("file")?, outcome, value["hash"].as_u64()?, value["all"].as_u64()?))
}
