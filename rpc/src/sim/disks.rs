//! The disks of a simulated cluster's machines: they outlive the nodes, and lose at a power cut what was not durable.

use super::cluster::NodeIndex;
use crate::node::NodeConfig;
use crate::storage::{DataConfig, DataDirectory, DataError, Witness};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use trimaran_raft::wal::{Durability, WalSettings};
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
    /// Those of the shards from 1 on.
    more: Vec<SimDisk>,
    witness: Rc<RefCell<BTreeMap<u64, u64>>>,
    boot: u128,
}

/// One disk for each shard of each node.
pub(super) struct Disks {
    plan: DiskPlan,
    machines: Vec<Machine>,
}

impl Disks {
    pub(super) fn new(seed: u64, nodes: usize, shards: u16, plan: DiskPlan) -> Disks {
        let seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let machine = |node: usize| Machine {
            disk: SimDisk::new(seed ^ node as u64, plan.faults),
            more: (1..shards)
                .map(|shard| SimDisk::new(seed ^ u64::from(shard) << 16 ^ node as u64, plan.faults))
                .collect(),
            witness: Rc::default(),
            boot: 1,
        };
        Disks { plan, machines: (0..nodes).map(machine).collect() }
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
        let shard = usize::from(config.place.shard());
        let disk = shard.checked_sub(1).map_or(&machine.disk, |place| &machine.more[place]);
        let disk = disk.mount(DiskConfig { writes, ..DiskConfig::default() });
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
        machine.more.iter().for_each(SimDisk::power_cut);
        machine.witness.borrow_mut().clear();
        machine.boot += 1;
    }
}
