//! The harness that runs other systems as clusters on this machine, one at a time, in one table: copied, built and set up once, and
//! run with trimaran among them.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::numbers::{self, number};
use super::parts::{Context, Work};

/// What a copy leaves behind: what the original has built and measured.
const NOT_COPIED: [&str; 2] = ["target", "results.tsv"];

/// What says with which sources the copy was set up.
const STAMP: &str = ".set-up";
/// The variable that names some of our ways to run nodes; without it there are all.
const OURS_KEY: &str = "TRIMARAN_SYSTEMS";
/// Our ways to run nodes that join its table: as `kv bench-peer` takes them, and as it calls them there.
const OURS: [[&str; 2]; 7] = [
    ["apart", "trimaran"],
    ["together", "trimaran-together"],
    ["echo", "trimaran-echo"],
    ["raw", "trimaran-raw"],
    ["spinning", "trimaran-spin"],
    ["echo-spinning", "trimaran-echo-spin"],
    ["durable", "trimaran-durable"],
];

/// Sizes of values of which a full run has a row each of these systems, besides the usual ones.
const LARGE_VALUES: [u32; 2] = [1024, 8192];
const WITH_LARGE_VALUES: [&str; 2] = ["etcd-tmpfs", "zk-tmpfs"];

/// What the runs of the harness are to bring.
pub(crate) struct Expected {
    pub(crate) tables: Vec<Expectation>,
    /// The programs among those that it was told to run.
    pub(crate) programs: Vec<String>,
}

/// What one run of it is to bring.
pub(crate) struct Expectation {
    /// Its rows.
    pub(crate) results: PathBuf,
    /// Of values of so many bytes, which the rows do not say.
    pub(crate) value_bytes: u32,
    /// The systems that they are about.
    pub(crate) systems: Vec<String>,
}

impl Expectation {
    /// As its rows are called, those of the usual size by their system alone.
    fn absent<'a>(&'a self, rows: &'a [Value]) -> impl Iterator<Item = String> + 'a {
        let bytes = self.value_bytes;
        let is_measured = move |system: &&String| {
            let is_one = |row: &Value| {
                let is_of_size =
                    number(row, "value_bytes").map_or(bytes == numbers::USUAL_BYTES, |of| of == f64::from(bytes));
                row["system"] == system.as_str() && is_of_size && number(row, "per_second") > Some(0.0)
            };
            rows.iter().any(is_one)
        };
        let name = move |system: &String| match bytes == numbers::USUAL_BYTES {
            true => system.clone(),
            false => format!("{system} with values of {bytes} bytes"),
        };
        self.systems.iter().filter(move |system| !is_measured(system)).map(name)
    }
}

impl Expected {
    /// All rows that there are.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let of = |table: &Expectation| {
            numbers::peers(&fs::read_to_string(&table.results).unwrap_or_default(), table.value_bytes)
        };
        self.tables.iter().flat_map(of).collect()
    }

    /// Which systems are not among the rows, and which calls the harness says have failed, by its log: it goes on after them and ends
    /// well. `None` where nothing is missing.
    pub(crate) fn missing(&self, rows: &[Value], log: &str) -> Option<String> {
        let absent: Vec<String> = self.tables.iter().flat_map(|table| table.absent(rows)).collect();
        let systems = self.tables.iter().flat_map(|table| &table.systems).chain(&self.programs);
        let known: Vec<&str> = systems.map(String::as_str).collect();
        let mut failed: Vec<&str> = Vec::new();
        for system in log.lines().filter_map(|line| line.trim().strip_suffix(" failed")) {
            // Other programs write into the log, too.
            if known.contains(&system) && !failed.contains(&system) {
                failed.push(system);
            }
        }
        let rows = (!absent.is_empty()).then(|| format!("no rows of {}", absent.join(", ")));
        let told = (!failed.is_empty()).then(|| format!("the harness says: {} failed", failed.join(", ")));
        let all: Vec<String> = [rows, told].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Copies the harness, unless it is there, and says what is to be run.
pub(crate) fn work(context: &Context<'_>, harness: &Path) -> Work {
    match prepare(context, harness) {
        Ok(work) => work,
        Err(error) => Work::Failed(format!("the harness at {} cannot be used: {error}", harness.display())),
    }
}

fn prepare(context: &Context<'_>, harness: &Path) -> io::Result<Work> {
    let copy = context.scratch.join("peers");
    fs::create_dir_all(&copy)?;
    let mut sources = DefaultHasher::new();
    copy_tree(harness, &copy, &mut sources)?;
    stand_alone(&copy.join("bench/Cargo.toml"))?;

    let ours = copy.join("trimaran");
    // The harness calls a program with its own options only.
    let (kv, systems) = (context.kv().display().to_string(), OURS.map(|[system, _]| system).join(","));
    let script = format!("#!/bin/sh\nexec '{kv}' bench-peer --systems \"${{{OURS_KEY}:-{systems}}}\" \"$@\"\n");
    fs::write(&ours, script)?;
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o755))?;

    let mut commands = Vec::new();
    commands.extend(set_up(&copy, sources.finish()));
    let run = |results: &Path| {
        let _ = fs::remove_file(results);
        let mut run = Command::new("bash");
        run.current_dir(&copy).arg("run.sh").env("RESULTS", results).env("DISK", &copy);
        run
    };
    let results = copy.join("results.tsv");
    let mut usual = run(&results);
    let (out, warmup, measure, repeat) =
        if context.quick { ("1,64,256", "0.3", "1", "1") } else { ("1,8,64,256", "0.5", "1.5", "2") };
    usual.env("OUT", out).env("WARMUP", warmup).env("MEASURE", measure).env("REPEAT", repeat);
    // ZooKeeper on a disk is no goal's.
    let others = ["echo", "null", "raftrs", "etcd-tmpfs", "etcd-disk", "zk-tmpfs", "echo-spin", "zk-disk"];
    let others = &others[..if context.quick { 6 } else { 8 }];
    usual.args(others).arg(&ours);
    commands.push(usual);
    let systems = others.iter().copied().chain(OURS.map(|[_, name]| name)).map(str::to_owned).collect();
    let mut tables = vec![Expectation { results, value_bytes: numbers::USUAL_BYTES, systems }];
    for value_bytes in LARGE_VALUES.into_iter().filter(|_| !context.quick) {
        let results = copy.join(format!("results-{value_bytes}.tsv"));
        let mut large = run(&results);
        large.env("VALUE", value_bytes.to_string()).env("OPS", "put").env("OUT", "64").env(OURS_KEY, OURS[0][0]);
        large.env("WARMUP", warmup).env("MEASURE", measure).env("REPEAT", repeat);
        large.args(WITH_LARGE_VALUES).arg(&ours);
        commands.push(large);
        let systems = WITH_LARGE_VALUES.into_iter().chain([OURS[0][1]]).map(str::to_owned).collect();
        tables.push(Expectation { results, value_bytes, systems });
    }
    Ok(Work::Peers(commands, Expected { tables, programs: vec![ours.display().to_string()] }))
}

/// Sets the copy up, unless that was done with these very sources. The stamp is written by whoever has done it.
fn set_up(copy: &Path, sources: u64) -> Option<Command> {
    let sources = format!("{sources:016x}");
    if fs::read_to_string(copy.join(STAMP)).is_ok_and(|stamp| stamp.trim() == sources) {
        return None;
    }
    let mut setup = Command::new("sh");
    setup.current_dir(copy).args(["-c", &format!("bash setup.sh && echo {sources} > {STAMP}")]);
    Some(setup)
}

/// Copies what has changed, and feeds all of it to `sources`.
fn copy_tree(from: &Path, to: &Path, sources: &mut DefaultHasher) -> io::Result<()> {
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    // The order of a directory is its file system's.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if NOT_COPIED.iter().any(|other| name == *other) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&source, &target, sources)?;
        } else {
            // What is the same stays as it is: else cargo would build it anew.
            let bytes = fs::read(&source)?;
            for part in [name.as_encoded_bytes(), &bytes] {
                sources.write_usize(part.len());
                sources.write(part);
            }
            if !fs::read(&target).is_ok_and(|there| there == bytes || is_same_manifest(&there, &bytes)) {
                fs::write(&target, bytes)?;
            }
        }
    }
    Ok(())
}

const OWN_WORKSPACE: &[u8] = b"\n[workspace]\n";

/// Whether a file is the other one with what [`stand_alone`] has added.
fn is_same_manifest(there: &[u8], source: &[u8]) -> bool {
    there.strip_suffix(OWN_WORKSPACE) == Some(source)
}

/// The copy is below this repository, but no part of its workspace.
fn stand_alone(manifest: &PathBuf) -> io::Result<()> {
    let mut text = fs::read(manifest)?;
    let has_one = String::from_utf8_lossy(&text).lines().any(|line| line.trim() == "[workspace]");
    if !has_one {
        text.extend_from_slice(OWN_WORKSPACE);
        fs::write(manifest, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_system_that_the_harness_went_on_without_is_missed() {
        let table = |value_bytes, systems: &[&str]| Expectation {
            results: PathBuf::new(),
            value_bytes,
            systems: systems.iter().map(|system| (*system).to_owned()).collect(),
        };
        let usual = table(64, &["null", "etcd-disk", "trimaran", "trimaran-durable"]);
        let mut expected = Expected { tables: vec![usual], programs: vec!["/scratch/trimaran".into()] };
        let row = |system: &str, per_second: f64| json!({ "system": system, "op": "put", "per_second": per_second });
        let mut rows = vec![row("null", 9.0), row("trimaran", 5.0), row("trimaran-durable", 3.0)];
        let told = expected.missing(&rows, "null\tput\t1\netcd-disk failed\nlogin failed\netcd-disk failed\n");
        assert_eq!(told.as_deref(), Some("no rows of etcd-disk; the harness says: etcd-disk failed"));
        rows.push(row("etcd-disk", 0.0));
        assert_eq!(expected.missing(&rows, "").as_deref(), Some("no rows of etcd-disk"), "nothing was answered");
        rows[3] = row("etcd-disk", 1.0);
        assert_eq!(expected.missing(&rows, "the election failed\n"), None);
        expected.tables.push(table(8192, &["trimaran"]));
        assert_eq!(expected.missing(&rows, "").as_deref(), Some("no rows of trimaran with values of 8192 bytes"));
        rows.push(json!({ "system": "trimaran", "op": "put", "per_second": 4.0, "value_bytes": 8192 }));
        assert_eq!(expected.missing(&rows, ""), None);
        rows.remove(2);
        assert_eq!(
            expected.missing(&rows, "/scratch/trimaran failed\n").as_deref(),
            Some("no rows of trimaran-durable; the harness says: /scratch/trimaran failed")
        );
    }

    /// A harness that brings a row of each system that it is told to run, with the size of values as its rate.
    const FAKE: &str = r#"for system in "$@"; do
    case $system in */*) system=${TRIMARAN_SYSTEMS:+trimaran} ;; esac
    for name in ${system:-trimaran trimaran-together trimaran-echo trimaran-raw trimaran-spin trimaran-echo-spin trimaran-durable}; do
        printf '%s\t%s\t%s\t%s\t1\t2\t3\t0\t0\t0\t0\t1\t9\n' "$name" "${OPS:-put}" "${OUT##*,}" "${VALUE:-64}" >> "$RESULTS"
    done
done
"#;

    #[test]
    fn a_full_run_puts_large_values_into_the_systems_that_keep_them() {
        let place = std::env::temp_dir().join(format!("xtask-peers-sizes-{}", std::process::id()));
        let harness = place.join("harness");
        fs::create_dir_all(harness.join("bench")).unwrap();
        fs::write(harness.join("bench/Cargo.toml"), "[package]\n").unwrap();
        fs::write(harness.join("setup.sh"), "exit 0\n").unwrap();
        fs::write(harness.join("run.sh"), FAKE).unwrap();
        let workspace = crate::workspace::Workspace::load().unwrap();
        for quick in [true, false] {
            let context = Context { workspace: &workspace, quick, peers: None, scratch: place.clone() };
            let Work::Peers(commands, expected) = work(&context, &harness) else { panic!("commands") };
            for mut command in commands {
                assert!(command.status().unwrap().success(), "{command:?}");
            }
            let rows = expected.rows();
            assert_eq!(expected.missing(&rows, ""), None, "{rows:?}");
            let large = rows.iter().filter(|row| !numbers::is_usual(row));
            let large: Vec<_> = large.map(|row| (row["system"].as_str().unwrap(), number(row, "per_second"))).collect();
            let systems = ["etcd-tmpfs", "zk-tmpfs", "trimaran"];
            let of = |bytes: f64| systems.map(|system| (system, Some(bytes)));
            assert_eq!(large, if quick { Vec::new() } else { [of(1024.0), of(8192.0)].concat() });
            assert!(
                rows.iter().filter(|row| numbers::is_usual(row)).all(|row| number(row, "per_second") == Some(64.0))
            );
        }
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_copy_stands_alone_and_is_not_touched_again_while_its_original_stays() {
        let place = std::env::temp_dir().join(format!("xtask-peers-{}", std::process::id()));
        let (from, to) = (place.join("from"), place.join("to"));
        fs::create_dir_all(from.join("bench/target")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("bench/Cargo.toml"), "[package]\n").unwrap();
        fs::write(from.join("results.tsv"), "old").unwrap();
        let manifest = to.join("bench/Cargo.toml");
        let copy = || {
            let mut sources = DefaultHasher::new();
            copy_tree(&from, &to, &mut sources).unwrap();
            stand_alone(&manifest).unwrap();
            sources.finish()
        };
        let first = copy();
        assert!(set_up(&to, first).is_some(), "it was never set up");
        fs::write(to.join(STAMP), format!("{first:016x}\n")).unwrap();
        assert_eq!(fs::read_to_string(&manifest).unwrap(), "[package]\n\n[workspace]\n");
        assert!(!to.join("results.tsv").exists() && !to.join("bench/target").exists());
        let changed = fs::metadata(&manifest).unwrap().modified().unwrap();
        assert!(copy() == first && set_up(&to, first).is_none());
        assert_eq!(fs::metadata(&manifest).unwrap().modified().unwrap(), changed);
        fs::write(from.join("bench/Cargo.toml"), "[package]\nname = \"n\"\n").unwrap();
        let changed = copy();
        assert!(changed != first && set_up(&to, changed).is_some(), "other sources want to be set up again");
        assert_eq!(fs::read_to_string(&manifest).unwrap(), "[package]\nname = \"n\"\n\n[workspace]\n");
        fs::remove_dir_all(place).unwrap();
    }
}
