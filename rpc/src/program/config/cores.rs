//! The `[cores]` section: into how many shards the data is cut, and on how many cores they lie.

use super::section::{self, Section};
use super::subsection;
use crate::program::config::place::Document;
use crate::program::error::Error;
use toml::Spanned;
use toml::de::DeTable;
use trimaran_net::{Layout, SHARDS_MAX};

/// The `[cores]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Raft groups of the cluster, 1 to 64; the same on every node, and fixed when the cluster is formed.
    pub shards: u16,
    /// Threads of this process, each with a core of the runtime: shard n lies on core n mod count.
    pub count: usize,
    /// The processors on which they stay, one for each; empty: the kernel chooses.
    pub cpus: Vec<usize>,
    /// The handlers of each shard have a thread of their own, beside the one that its packets and elections have.
    pub applier: bool,
    /// The processors on which these threads stay, one for each core, whose shards' appliers share it; empty: the kernel chooses among
    /// those of the process. Only with `applier`.
    pub applier_cpus: Vec<usize>,
}

impl Default for Cores {
    fn default() -> Self {
        Cores { shards: 1, count: 1, cpus: Vec::new(), applier: false, applier_cpus: Vec::new() }
    }
}

impl Cores {
    /// Which shard lies where.
    ///
    /// # Errors
    /// E0215 where the numbers do not fit each other.
    pub fn layout(&self) -> Result<Layout, Error> {
        let Cores { shards, count, .. } = *self;
        let refuse = |problem: String, help: String| Err(Error::Usage { problem, help });
        if count > usize::from(shards) {
            let problem = format!("{count} cores for {shards} shards: a core without a shard has nothing to do");
            return refuse(
                problem,
                format!("use {shards} cores at most; more shards must be there when the cluster is formed"),
            );
        }
        for (key, cpus) in self.processors() {
            if !cpus.is_empty() && cpus.len() != count {
                let problem = format!("`{key}` names {} processors for {count} cores", cpus.len());
                return refuse(problem, "name one for each core, or none".into());
            }
        }
        let layout = Layout::new(shards, count);
        layout.ok_or_else(|| Error::Usage {
            problem: format!("{shards} shards on {count} cores"),
            help: format!("1 to {SHARDS_MAX} shards, and no more cores than shards"),
        })
    }

    /// What names processors, with the key for it.
    fn processors(&self) -> [(&'static str, &[usize]); 2] {
        [("cpus", &self.cpus), ("applier_cpus", &self.applier_cpus)]
    }
}

pub(super) fn read(document: &Document<'_>, root: &Section<'_>) -> Result<Cores, Error> {
    let (found, empty) = (root.find("cores"), Spanned::new(0..0, DeTable::new()));
    let section = subsection(document, &found, &empty, "[cores]", section::CORES)?;
    let most = u64::from(SHARDS_MAX);
    let cpus = |key| section.find(key).map_or(Ok(Vec::new()), |found| found.integers(0, 1023));
    let cores = Cores {
        shards: section.integer_or("shards", 1, 1, most)? as u16,
        count: section.integer_or("count", 1, 1, most)?,
        cpus: cpus("cpus")?,
        applier: section.find("applier").map_or(Ok(false), |found| found.boolean())?,
        applier_cpus: cpus("applier_cpus")?,
    };
    let contradicts = |smaller, larger, key| {
        let place = section.find(key).map_or_else(|| section.place(), |found| found.place());
        Err(Error::LimitsContradict { smaller, larger, place })
    };
    if cores.count > usize::from(cores.shards) {
        return contradicts("count", "shards", "count");
    }
    for (key, cpus) in cores.processors() {
        if let Some(found) = section.find(key).filter(|_| !cpus.is_empty() && cpus.len() != cores.count) {
            return Err(found.bad(format!("a list of {}, one for each core", cores.count)));
        }
    }
    if let Some(found) = section.find("applier_cpus").filter(|_| !cores.applier) {
        return Err(Error::KeysContradict {
            problem: "`applier_cpus` is for threads that this node does not have".into(),
            help: "write `applier = true` as well, or leave `applier_cpus` out".into(),
            place: found.place(),
        });
    }
    Ok(cores)
}
