//! The disks of a simulated cluster's machines: they outlive the nodes, and lose at a power cut what was not durable.

use super::cluster::NodeIndex;
use crate::node::{Node, NodeConfig};
use crate::storage::{DataConfig, DataDirectory, DataError, Found, Witness};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use trimaran_raft::device::{DeviceError, Directory};
use trimaran_raft::wal::{Durability, WalSettings};
use trimaran_raft::{HardState, LogIndex, NodeId, Term};
use trimaran_runtime::disk::{DiskConfig, Writes};
use trimaran_runtime::sim::disk::{DiskFaults, SimDisk};

/// What the nodes' disks are like, and how logs are kept on them.
#[derive(Debug, Clone, Copy)]
pub struct DiskPlan {
    /// What goes wrong with each disk from the start.
    pub faults: DiskFaults,
    /// How the log is kept; its durability is the mode.
    pub settings: WalSettings,
}

impl Default for DiskPlan {
    /// Durable, on disks without faults; a log of so few and small files that snapshots are saved all the time.
    fn default() -> Self {
        let settings = WalSettings {
            file_bytes: 2 << 20,
            files_max: 6,
            record_bytes: 512 << 10,
            window: 4,
            snapshot_every_bytes: 1 << 20,
            slice_bytes: 64 << 10,
            ..WalSettings::default()
        };
        DiskPlan { faults: DiskFaults::default(), settings }
    }
}

struct Machine {
    disk: SimDisk,
    witness: Rc<RefCell<BTreeMap<u64, u64>>>,
    boot: u128,
}

/// One disk for each node.
pub(super) struct Disks {
    seed: u64,
    plan: DiskPlan,
    machines: Vec<Machine>,
}

impl Disks {
    pub(super) fn new(seed: u64, nodes: usize, plan: DiskPlan) -> Disks {
        let mut disks = Disks { seed, plan, machines: Vec::new() };
        (0..nodes).for_each(|_| disks.add());
        disks
    }

    /// One more machine, with an empty disk.
    pub(super) fn add(&mut self) {
        let seed = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.machines.len() as u64;
        let disk = SimDisk::new(seed, self.plan.faults);
        self.machines.push(Machine { disk, witness: Rc::default(), boot: 1 });
    }

    pub(super) fn plan(&self) -> &DiskPlan {
        &self.plan
    }

    /// Another disk takes the place of this one.
    pub(super) fn wipe(&mut self, node: NodeIndex) {
        let machine = &mut self.machines[node.0];
        machine.disk.wipe();
        machine.witness.borrow_mut().clear();
    }

    pub(super) fn disk(&self, node: NodeIndex) -> &SimDisk {
        &self.machines[node.0].disk
    }

    /// What a node that starts now finds.
    pub(super) fn open(&self, node: NodeIndex, config: &NodeConfig) -> Result<DataDirectory, DataError> {
        let machine = &self.machines[node.0];
        let settings = WalSettings { boot: machine.boot, ..self.plan.settings };
        let writes = match settings.durability {
            Durability::Durable => Writes::Durable,
            Durability::Buffered => Writes::Cached,
        };
        let disk = machine.disk.mount(DiskConfig { writes, ..DiskConfig::default() });
        let data = DataConfig {
            slot: config.slot,
            place: config.place,
            incarnation: config.incarnation,
            salt: config.incarnation.0.rotate_left(17),
            settings,
            changes_durability: false,
            witness: Witness::Memory(machine.witness.clone()),
        };
        DataDirectory::open(disk, data)
    }

    /// The power of one machine is lost.
    pub(super) fn power_cut(&mut self, node: NodeIndex) {
        let machine = &mut self.machines[node.0];
        machine.disk.power_cut();
        machine.witness.borrow_mut().clear();
        machine.boot += 1;
    }
}

/// A simulated disk, looked at from beside the program that uses it.
pub(super) struct Beside<'a>(pub(super) &'a SimDisk);

impl Directory for Beside<'_> {
    fn list(&self) -> Result<Vec<(String, u64)>, DeviceError> {
        Ok(self.0.list().into_iter().map(|entry| (entry.name, entry.bytes)).collect())
    }

    fn read_at(&self, name: &str, offset: u64, place: &mut [u8]) -> Result<usize, DeviceError> {
        self.0.peek(name, offset, place).map_err(|_| DeviceError::NotFound)
    }
}

/// What a node has told others that it has: term and vote, and the newest entry that it counts as durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    id: NodeId,
    hard: HardState,
    entry: (Term, LogIndex),
}

impl Promise {
    pub(super) fn of(node: &Node) -> Promise {
        node.shard().with_machine(|machine| {
            let durable = machine.durable();
            let term = node.shard().with_log(|log| log.term_at(durable).unwrap_or_default());
            Promise { id: machine.me().id, hard: machine.durable_hard_state(), entry: (term, durable) }
        })
    }

    /// Whether the life goes on that has made the promise, and what it found on its disk is less.
    pub(super) fn is_broken(&self, id: NodeId, kept: Option<(HardState, (Term, LogIndex))>) -> bool {
        let (hard, entry) = kept.unwrap_or_default();
        let forgot_vote = hard.term < self.hard.term
            || hard.term == self.hard.term && self.hard.vote.is_some() && hard.vote != self.hard.vote;
        id == self.id && (forgot_vote || entry < self.entry)
    }

    /// What a directory tells of the same, for a report.
    pub(super) fn told(directory: &DataDirectory) -> String {
        let report = match directory.found() {
            Found::Nothing => "nothing was found".to_owned(),
            Found::Untrusted(report) | Found::Resumed { report, .. } => report.to_string(),
        };
        match directory.kept() {
            Some((hard, entry)) => format!("{} ({report})", Promise { id: directory.id(), hard, entry }),
            None => format!("no life that it could go on with ({report})"),
        }
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (HardState { term, vote }, (of, index)) = (self.hard, self.entry);
        write!(f, "term {term}, its vote {vote:?}, and entry {index} of term {of}")
    }
}
