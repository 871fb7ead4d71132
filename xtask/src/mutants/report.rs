//! The report of a sample, and the survivors that `xtask/mutants.toml` explains.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::list::Mutant;
use super::trial::Outcome;
use crate::workspace::Workspace;

const EXPLAINED: &str = "xtask/mutants.toml";

/// Why a fault may survive: told by what it does to which line, since lines move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Explained {
    file: String,
    mutation: String,
    line: String,
    why: String,
}

#[derive(Default)]
struct Count {
    killed: usize,
    timed_out: usize,
    survived: usize,
    unviable: usize,
}

impl Count {
    fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Killed(_) => &mut self.killed,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Survived(_) => &mut self.survived,
            Outcome::Unviable => &mut self.unviable,
        } += 1;
    }

    fn viable(&self) -> usize {
        self.killed + self.timed_out + self.survived
    }

    fn row(&self, name: &str) -> String {
        let Count { killed, timed_out, survived, unviable } = self;
        format!("{killed:>7} {timed_out:>9} {survived:>9} {unviable:>9}  {name}\n")
    }
}

/// Writes the report, prints its end, and says whether all survivors are explained.
pub(crate) fn write(
    workspace: &Workspace,
    path: &Path,
    seed: u64,
    all: &[Mutant],
    sample: &[Mutant],
    outcomes: &BTreeMap<usize, &Outcome>,
) -> Result<ExitCode, String> {
    let text = fs::read_to_string(workspace.root().join(EXPLAINED)).unwrap_or_default();
    let explained = parse(&text).map_err(|error| format!("{EXPLAINED}: {error}"))?;
    let mut sources = BTreeMap::new();
    for mutant in all {
        let read = || fs::read_to_string(workspace.root().join(&mutant.file)).unwrap_or_default();
        sources.entry(mutant.file.as_str()).or_insert_with(read);
    }
    let line =
        |mutant: &Mutant| sources[mutant.file.as_str()].lines().nth(mutant.from.0 - 1).unwrap_or_default().trim();
    let about = |explained: &Explained, mutant: &Mutant| {
        (explained.file.as_str(), explained.mutation.as_str(), explained.line.as_str())
            == (mutant.file.as_str(), mutant.what(), line(mutant))
    };
    let mut report = format!("{} of {} faults, seed {seed}\n\n", sample.len(), all.len());
    let (mut total, mut files) = (Count::default(), BTreeMap::<&str, Count>::new());
    for (at, outcome) in outcomes {
        total.add(outcome);
        files.entry(&sample[*at].file).or_default().add(outcome);
    }
    report.push_str(" killed timed out  survived  unviable\n");
    files.iter().for_each(|(file, count)| report.push_str(&count.row(file)));
    let mut end = total.row("together");
    let (viable, caught) = (total.viable(), total.killed + total.timed_out);
    let _ = writeln!(end, "\n{caught} of {viable} viable faults are caught: {:.1} %", percent(caught, viable));
    let mut unexplained = 0;
    for (at, _) in outcomes.iter().filter(|(_, outcome)| outcome.is_survivor()) {
        let mutant = &sample[*at];
        match explained.iter().find(|explained| about(explained, mutant)) {
            Some(explained) => {
                let _ = writeln!(report, "\nsurvives, explained: {}\n    {}", mutant.name, explained.why);
            }
            None => {
                unexplained += 1;
                let _ = writeln!(end, "survives, not explained: {}\n    {}", mutant.name, line(mutant));
            }
        }
    }
    for explained in &explained {
        let caught = |at: &usize| !outcomes[at].is_survivor() && about(explained, &sample[*at]);
        let gone = !all.iter().any(|mutant| about(explained, mutant));
        let others = outcomes.iter().any(|(at, outcome)| outcome.is_survivor() && about(explained, &sample[*at]));
        if gone || outcomes.keys().any(caught) && !others {
            let why = if gone { "no such fault can be made any more" } else { "a test catches it" };
            let _ = writeln!(end, "stale in {EXPLAINED}, {why}: {}: {}", explained.file, explained.mutation);
        }
    }
    let left = sample.len() - outcomes.len();
    if left > 0 {
        let _ = writeln!(end, "{left} not tried yet: run the same command again");
    }
    report.push_str(&end);
    report.push_str("\nwhat caught each:\n");
    for (at, outcome) in outcomes {
        if let Outcome::Killed(by) | Outcome::TimedOut(by) = outcome {
            let _ = writeln!(report, "    {}\n        {by}", sample[*at].name);
        }
    }
    fs::write(path, report).map_err(|error| format!("{}: {error}", path.display()))?;
    print!(" killed timed out  survived  unviable\n{end}");
    println!("the whole report: {}", path.display());
    Ok(if unexplained == 0 && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::cast_precision_loss, reason = "hundreds")]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn parse(text: &str) -> Result<Vec<Explained>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let survivors = table.get("survivor").and_then(toml::Value::as_array);
    let one = |value: &toml::Value| {
        let text = |key: &str| {
            let found = value.get(key).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
            found.map(str::to_owned).ok_or_else(|| format!("a survivor lacks `{key}`: {value}"))
        };
        Ok(Explained { file: text("file")?, mutation: text("mutation")?, line: text("line")?, why: text("why")? })
    };
    survivors.into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_explanations_are_whole_and_told_once() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants.toml")).unwrap();
        let mut all = parse(&text).unwrap();
        all.sort();
        assert!(all.windows(2).all(|pair| {
            (&pair[0].file, &pair[0].mutation, &pair[0].line) != (&pair[1].file, &pair[1].mutation, &pair[1].line)
        }));
    }

    #[test]
    fn an_explanation_without_a_reason_is_none() {
        assert!(parse("[[survivor]]\nfile = 'a'\nmutation = 'b'\nline = 'c'\nwhy = ''\n").is_err());
    }
}
