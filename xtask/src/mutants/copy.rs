//! The copy of the tree that the faults are written into. It shares the target directory, and so what the tree depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::Message;
use cargo_metadata::diagnostic::DiagnosticLevel;

use super::list::Mutant;
use super::trial::{Program, Suite};
use super::weave::{self, Woven};
use crate::workspace::Workspace;

/// What is tested with what. Left out: tests of the sources as text, and of what only whole nodes do.
const TESTS: [(&str, &[&str]); 2] = [
    (
        "trimaran-raft",
        &["durable", "exhaustive", "negative_controls", "random_churn", "random_walk", "scenarios", "shard", "wal"],
    ),
    (
        "trimaran-rpc",
        &[
            "client_copies",
            "durable",
            "membership",
            "r2p2_calls",
            "r2p2_client",
            "r2p2_corpus",
            "r2p2_flow",
            "r2p2_properties",
            "r2p2_vectors",
            "reads",
            "replication",
            "session_client",
            "sessions",
            "snapshots",
        ],
    ),
];
/// Directories whose files decide what a test says.
const DECISIVE: [&str; 5] = ["runtime/", "net/", "raft/", "rpc/", "Cargo.lock"];
/// Rounds of checking until all that do not compile together are out: a compiler tells of types only once all names are right.
const ROUNDS: usize = 12;

/// A copy of the tree, with faults in it.
pub(crate) struct Copy<'w> {
    workspace: &'w Workspace,
    dir: PathBuf,
    /// The files of the tree, as they are there.
    files: BTreeMap<String, Vec<u8>>,
    /// The faults that compile together.
    woven: BTreeSet<usize>,
}

impl<'w> Copy<'w> {
    /// Reads the tree: all that git knows or would add.
    pub(crate) fn new(workspace: &'w Workspace, dir: PathBuf) -> Result<Self, String> {
        let mut git = Command::new("git");
        git.current_dir(workspace.root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        let output = git.stderr(Stdio::inherit()).output().map_err(|error| format!("git: {error}"))?;
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        // What is deleted but not yet committed is listed too.
        let read = |name: &str| Some((name.to_owned(), fs::read(workspace.root().join(name)).ok()?));
        let files: BTreeMap<_, _> = names.split('\0').filter_map(read).collect();
        if files.is_empty() {
            return Err("git lists no files".to_owned());
        }
        Ok(Copy { workspace, dir, files, woven: BTreeSet::new() })
    }

    /// A number that changes with a file.
    fn hash_of(&self, file: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.get(file).hash(&mut hasher);
        hasher.finish()
    }

    /// That number of each file.
    pub(crate) fn hashes(&self) -> BTreeMap<String, u64> {
        self.files.keys().map(|file| (file.clone(), self.hash_of(file))).collect()
    }

    /// A number that changes with the faults that are written into the copy, too.
    pub(crate) fn hash_of_woven(&self, sample: &[Mutant]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_of_all().hash(&mut hasher);
        self.woven.iter().for_each(|at| (at, &sample[*at].name).hash(&mut hasher));
        hasher.finish()
    }

    /// A number that changes with whatever tests or is tested.
    pub(crate) fn hash_of_all(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let decisive = self.files.iter().filter(|(name, _)| DECISIVE.iter().any(|start| name.starts_with(start)));
        decisive.for_each(|file| file.hash(&mut hasher));
        hasher.finish()
    }

    /// Writes all faults into the copy that compile together, of those not known to compile never, and says which these are.
    pub(crate) fn weave(&mut self, sample: &[Mutant], viable: BTreeSet<usize>) -> Result<BTreeSet<usize>, String> {
        self.woven = viable.clone();
        let mut keep_const = false;
        for _ in 0..ROUNDS {
            let woven = self.write_woven(sample, keep_const)?;
            let placed: BTreeSet<usize> =
                woven.values().flat_map(|woven| woven.owners.iter().map(|(_, at)| *at)).collect();
            self.woven = placed;
            let (good, errors) = self.check(&TESTS.map(|(package, _)| package))?;
            if good {
                return Ok(self.woven.clone());
            }
            let mut blamed = BTreeSet::new();
            for error in &errors {
                // A compiler names the place first, then what it has to do with.
                let at = error.places.iter().find_map(|(file, place)| {
                    let found = woven.get(file)?.blamed(place);
                    (!found.is_empty()).then_some(found)
                });
                blamed.extend(at.into_iter().flatten());
            }
            if blamed.is_empty() && !keep_const {
                // Some constant needs a function that was one.
                (keep_const, self.woven) = (true, viable.clone());
                continue;
            }
            if blamed.is_empty() {
                // What is laid to the wrong one here is tried alone.
                let nearest = |(file, place): &(String, std::ops::Range<usize>)| woven.get(file)?.nearest(place);
                blamed.extend(errors.iter().find_map(|error| error.places.iter().find_map(nearest)));
            }
            if blamed.is_empty() {
                let said: Vec<&str> = errors.iter().map(|error| error.said.as_str()).collect();
                return Err(format!("the copy does not compile, and no fault is to blame:\n{}", said.join("\n")));
            }
            self.woven.retain(|at| !blamed.contains(at));
        }
        Err(format!("the copy does not compile after {ROUNDS} rounds"))
    }

    /// Writes one fault alone into the copy, and builds the tests of its package; none where these or it do not compile.
    pub(crate) fn alone(&mut self, mutant: &Mutant) -> Result<Option<Suite>, String> {
        self.write_alone(mutant)?;
        if !self.check(&[&mutant.package])?.0 {
            return Ok(None);
        }
        self.build(Some(&mutant.package)).ok().map(Suite::list).transpose()
    }

    fn write_alone(&self, mutant: &Mutant) -> Result<(), String> {
        let source = self.text(&mutant.file)?;
        let text = weave::alone(source, mutant).ok_or_else(|| format!("{}: no such place", mutant.name))?;
        self.write(BTreeMap::from([(mutant.file.clone(), text)]))
    }

    fn write_woven(&self, sample: &[Mutant], keep_const: bool) -> Result<BTreeMap<String, Woven>, String> {
        let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
        for at in &self.woven {
            by_file.entry(&sample[*at].file).or_default().push((*at, &sample[*at]));
        }
        let mut woven = BTreeMap::new();
        for (file, mutants) in by_file {
            let done =
                weave::weave(self.text(file)?, &mutants, keep_const).map_err(|error| format!("{file}: {error}"))?;
            woven.insert(file.to_owned(), done);
        }
        let mut changed: BTreeMap<String, String> =
            woven.iter().map(|(file, woven)| (file.clone(), woven.text.clone())).collect();
        for root in ["raft/src", "rpc/src"] {
            let lib = format!("{root}/lib.rs");
            let text = match changed.get(&lib) {
                Some(text) => text.clone(),
                None => self.text(&lib)?.to_owned(),
            };
            changed.insert(lib, format!("{text}\nmod mutant;\n"));
            changed.insert(format!("{root}/mutant.rs"), weave::module(sample.len()));
        }
        self.write(changed)?;
        Ok(woven)
    }

    fn text(&self, file: &str) -> Result<&str, String> {
        let bytes = self.files.get(file).ok_or_else(|| format!("{file} is not there"))?;
        std::str::from_utf8(bytes).map_err(|error| format!("{file}: {error}"))
    }

    /// Makes the copy the tree, but for `changed`. A file that is right already is left alone, so that builds stay small.
    fn write(&self, changed: BTreeMap<String, String>) -> Result<(), String> {
        let untouched = self.files.iter().filter(|(name, _)| !changed.contains_key(*name));
        let wanted = untouched.map(|(name, bytes)| (name, &bytes[..]));
        for (name, bytes) in wanted.chain(changed.iter().map(|(name, text)| (name, text.as_bytes()))) {
            let path = self.dir.join(name);
            if fs::read(&path).is_ok_and(|there| there == bytes) {
                continue;
            }
            let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
            made.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        remove_others(&self.dir, &self.dir, &|name| self.files.contains_key(name) || changed.contains_key(name))
            .map_err(|error| format!("{}: {error}", self.dir.display()))
    }

    fn cargo(&self, task: &str) -> Command {
        let mut cargo = self.workspace.cargo(&[task, "--quiet", "--message-format", "json"]);
        cargo.current_dir(&self.dir).env("CARGO_TARGET_DIR", self.workspace.target()).stderr(Stdio::null());
        cargo
    }

    fn check(&self, packages: &[&str]) -> Result<(bool, Vec<Complaint>), String> {
        let mut cargo = self.cargo("check");
        cargo.args(packages.iter().flat_map(|package| ["--package", package])).arg("--keep-going");
        let (good, messages) = run(cargo)?;
        let errors = messages.into_iter().filter_map(|message| match message {
            Message::CompilerMessage(said) if said.message.level == DiagnosticLevel::Error => Some(said.message),
            _ => None,
        });
        let complaint = |error: cargo_metadata::diagnostic::Diagnostic| {
            let (first, others): (Vec<_>, Vec<_>) = error.spans.into_iter().partition(|span| span.is_primary);
            let place = |span: cargo_metadata::diagnostic::DiagnosticSpan| {
                (span.file_name, span.byte_start as usize..span.byte_end as usize)
            };
            Complaint {
                places: first.into_iter().chain(others).map(place).collect(),
                said: error.rendered.unwrap_or_default(),
            }
        };
        Ok((good, errors.map(complaint).collect()))
    }

    /// Builds the tests over what the copy now holds, all or those of one package.
    pub(crate) fn build(&self, only: Option<&str>) -> Result<Vec<Program>, String> {
        let mut cargo = self.cargo("test");
        cargo.args(["--no-run", "--features", "trimaran-raft/sabotage", "--lib"]);
        for (package, tests) in TESTS.iter().filter(|(package, _)| only.is_none_or(|only| only == *package)) {
            cargo.args(["--package", package]).args(tests.iter().flat_map(|test| ["--test", test]));
        }
        let (good, messages) = run(cargo)?;
        let mut programs = Vec::new();
        for message in messages {
            match message {
                Message::CompilerArtifact(built) if built.profile.test => {
                    let dir = built.manifest_path.parent().map(|dir| dir.as_std_path().to_owned());
                    if let (Some(path), Some(dir)) = (built.executable, dir) {
                        let home = dir.file_name().and_then(|name| name.to_str());
                        let mut packages = TESTS.iter().map(|(package, _)| *package);
                        let package = packages.find(|package| package.strip_prefix("trimaran-") == home);
                        let package = package.unwrap_or_default();
                        programs.push(Program { name: built.target.name, package, path: path.into(), dir });
                    }
                }
                Message::CompilerMessage(said) if !good && said.message.level == DiagnosticLevel::Error => {
                    return Err(said.message.rendered.unwrap_or(said.message.message));
                }
                _ => {}
            }
        }
        if good { Ok(programs) } else { Err("the tests cannot be built".to_owned()) }
    }
}

/// What a compiler complains about, and where: the places to blame first.
struct Complaint {
    places: Vec<(String, std::ops::Range<usize>)>,
    said: String,
}

fn run(mut cargo: Command) -> Result<(bool, Vec<Message>), String> {
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    let messages = Message::parse_stream(&output.stdout[..]).filter_map(Result::ok).collect();
    Ok((output.status.success(), messages))
}

fn remove_others(root: &Path, dir: &Path, wanted: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, wanted)?;
        } else if !path.strip_prefix(root).ok().and_then(Path::to_str).is_some_and(wanted) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
