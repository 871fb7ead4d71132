//! What a simulated disk holds: what is durable, what is only in its cache, and what a loss of power leaves of that.

use crate::disk::{DiskError, FileEntry};
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a device writes as a whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// Names a file for its life, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(pub(super) u64);

/// All that can happen to a store. Replaying changes gives an equal store.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// `done`: all of it, so that its length is durable.
    Create {
        name: String,
        inode: Inode,
        bytes: u64,
        done: bool,
    },
    /// `through`: past the cache.
    Write {
        inode: Inode,
        offset: u64,
        content: Rc<[u8]>,
        through: bool,
    },
    /// Writes numbered up to this are durable.
    Sync {
        inode: Inode,
        writes: u64,
    },
    /// Changes of names numbered up to this are durable.
    SyncNames {
        changes: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    Rot {
        inode: Inode,
        byte: u64,
        bit: u8,
    },
}

impl Change {
    /// What this change may have come to before it was done: all of it, but not durable. `None`: nothing.
    pub(super) fn in_flight(&self) -> Option<Change> {
        let mut change = self.clone();
        match &mut change {
            Change::Write { through, .. } => *through = false,
            Change::Create { done, .. } => *done = false,
            Change::Rename { .. } | Change::Remove { .. } => {}
            Change::Sync { .. } | Change::SyncNames { .. } | Change::Rot { .. } => return None,
        }
        Some(change)
    }
}

/// Decides what the loss of power left undecided.
pub(super) trait Choose {
    /// One of so many, from 0.
    fn choose(&mut self, options: usize) -> usize;
}

impl Choose for Pcg64Mcg {
    fn choose(&mut self, options: usize) -> usize {
        self.random_range(0..options)
    }
}

/// What a loss of power destroyed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lost {
    pub(super) writes: u64,
    pub(super) torn: u64,
    pub(super) names: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    files: BTreeMap<Inode, File>,
    names: Names,
    durable_names: Names,
    /// In order, the oldest first.
    name_changes: Vec<(u64, Change)>,
    changes: u64,
    writes: u64,
    inodes: u64,
}

type Names = BTreeMap<String, Inode>;

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// As the kernel sees it.
    bytes: u64,
    /// What the cache has of a sector, the oldest first, with the numbers of the writes.
    cached: BTreeMap<u64, Vec<(u64, [u8; SECTOR_BYTES])>>,
}

impl Store {
    pub(super) fn new_inode(&mut self) -> Inode {
        self.inodes += 1;
        Inode(self.inodes)
    }

    /// Writes so far: the number of the last.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Changes of names so far.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn find(&self, name: &str) -> Result<Inode, DiskError> {
        self.names.get(name).copied().ok_or(DiskError::NotFound)
    }

    pub(super) fn list(&self) -> Vec<FileEntry> {
        let entry = |(name, &inode): (&String, &Inode)| FileEntry { name: name.clone(), bytes: self.file_bytes(inode) };
        self.names.iter().map(entry).collect()
    }

    pub(super) fn file_bytes(&self, inode: Inode) -> u64 {
        self.files.get(&inode).map_or(0, |file| file.bytes)
    }

    /// Bytes of all files.
    pub(super) fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Whether the change can be made.
    pub(super) fn check(&self, change: &Change) -> Result<(), DiskError> {
        match change {
            Change::Create { name, .. } if self.names.contains_key(name) => Err(DiskError::Exists),
            Change::Rename { from: name, .. } | Change::Remove { name } => self.find(name).map(drop),
            _ => Ok(()),
        }
    }

    /// Makes a change. Those of names and writes that do not go through are in the cache until a sync.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { inode, bytes, done, .. } => {
                self.inodes = self.inodes.max(inode.0);
                let durable = vec![0; if *done { *bytes as usize } else { 0 }];
                self.files.insert(*inode, File { durable, bytes: *bytes, cached: BTreeMap::new() });
                self.change_name(change);
            }
            Change::Rename { .. } | Change::Remove { .. } => self.change_name(change),
            Change::Write { inode, offset, content, through } => {
                self.writes += 1;
                if let Some(file) = self.files.get_mut(inode) {
                    file.write(self.writes, *offset, content, *through);
                }
            }
            Change::Sync { inode, writes } => {
                if let Some(file) = self.files.get_mut(inode) {
                    file.sync(*writes);
                }
            }
            Change::SyncNames { changes } => {
                let durable = self.name_changes.partition_point(|change| change.0 <= *changes);
                for (_, change) in self.name_changes.drain(..durable) {
                    rename(&mut self.durable_names, &change);
                }
            }
            Change::Rot { inode, byte, bit } => {
                let durable = self.files.get_mut(inode).and_then(|file| file.durable.get_mut(*byte as usize));
                if let Some(byte) = durable {
                    *byte ^= 1 << (bit & 7);
                }
            }
        }
    }

    fn change_name(&mut self, change: &Change) {
        self.changes += 1;
        rename(&mut self.names, change);
        self.name_changes.push((self.changes, change.clone()));
    }

    /// Forgets files that have no name, now or after a loss of power, and are not `used`.
    pub(super) fn forget_nameless(&mut self, used: impl Fn(Inode) -> bool) {
        let named = |names: &Names, inode| names.values().any(|&named| named == inode);
        let (names, durable, changes) = (&self.names, &self.durable_names, &self.name_changes);
        let may_return = |inode| {
            changes
                .iter()
                .any(|(_, change)| matches!(change, Change::Create { inode: created, .. } if *created == inode))
        };
        self.files.retain(|&inode, _| named(names, inode) || named(durable, inode) || may_return(inode) || used(inode));
    }

    /// Reads what the kernel sees; fewer bytes only at the end.
    pub(super) fn read(&self, inode: Inode, offset: u64, buffer: &mut [u8]) -> usize {
        self.files.get(&inode).map_or(0, |file| file.read(offset, buffer))
    }

    /// The power is lost: each change of a name and each sector in the cache becomes durable, or does not.
    pub(super) fn power_cut(&mut self, choose: &mut dyn Choose) -> Lost {
        let mut lost = Lost::default();
        for (_, change) in std::mem::take(&mut self.name_changes) {
            if choose.choose(2) == 1 {
                rename(&mut self.durable_names, &change);
            } else {
                lost.names += 1;
            }
        }
        self.names = self.durable_names.clone();
        self.forget_nameless(|_| false);
        // Of each write, the sectors that survive and those that do not.
        let mut fates: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        self.files.values_mut().for_each(|file| file.power_cut(choose, &mut fates));
        for fate in fates.into_values().filter(|fate| fate.1 > 0) {
            *(if fate.0 > 0 { &mut lost.torn } else { &mut lost.writes }) += 1;
        }
        lost
    }
}

/// Does what it can: a change whose file has gone with an earlier one changes nothing.
fn rename(names: &mut Names, change: &Change) {
    match change {
        Change::Create { name, inode, .. } => {
            names.insert(name.clone(), *inode);
        }
        Change::Rename { from, to } => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Remove { name } => {
            names.remove(name);
        }
        _ => {}
    }
}

impl File {
    fn write(&mut self, number: u64, offset: u64, content: &[u8], through: bool) {
        self.bytes = self.bytes.max(offset + content.len() as u64);
        let first = offset / SECTOR_BYTES as u64;
        for (sector, content) in (first..).zip(content.as_chunks::<SECTOR_BYTES>().0) {
            if through {
                self.put(sector, content);
                self.cached.remove(&sector);
            } else {
                self.cached.entry(sector).or_default().push((number, *content));
            }
        }
    }

    fn put(&mut self, sector: u64, content: &[u8; SECTOR_BYTES]) {
        let start = sector as usize * SECTOR_BYTES;
        if self.durable.len() < start + SECTOR_BYTES {
            self.durable.resize(start + SECTOR_BYTES, 0);
        }
        self.durable[start..start + SECTOR_BYTES].copy_from_slice(content);
    }

    fn sync(&mut self, writes: u64) {
        let mut cached = std::mem::take(&mut self.cached);
        cached.retain(|&sector, versions| {
            let durable = versions.partition_point(|version| version.0 <= writes);
            if let Some((_, content)) = versions[..durable].last() {
                self.put(sector, content);
            }
            versions.drain(..durable);
            !versions.is_empty()
        });
        self.cached = cached;
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let bytes = (self.bytes.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.durable.len());
        let known = bytes.min(self.durable.len() - from);
        buffer[..known].copy_from_slice(&self.durable[from..from + known]);
        buffer[known..bytes].fill(0);
        let sectors = offset / SECTOR_BYTES as u64..(offset + bytes as u64).div_ceil(SECTOR_BYTES as u64);
        for (&sector, versions) in self.cached.range(sectors) {
            let Some((_, content)) = versions.last() else { continue };
            let start = sector * SECTOR_BYTES as u64;
            for (at, &byte) in (start..).zip(content) {
                if let Some(to) = at.checked_sub(offset).filter(|&to| to < bytes as u64) {
                    buffer[to as usize] = byte;
                }
            }
        }
        bytes
    }

    fn power_cut(&mut self, choose: &mut dyn Choose, fates: &mut BTreeMap<u64, (u32, u32)>) {
        let cached_bytes = self.bytes;
        for (sector, versions) in std::mem::take(&mut self.cached) {
            let chosen = choose.choose(versions.len() + 1);
            for (index, (number, content)) in versions.iter().enumerate() {
                let fate = fates.entry(*number).or_default();
                if index + 1 == chosen {
                    self.put(sector, content);
                }
                // What a later write has covered was not lost by the power cut.
                *(if index < chosen { &mut fate.0 } else { &mut fate.1 }) += 1;
            }
        }
        let grows = self.durable.len() < cached_bytes as usize && choose.choose(2) == 1;
        if grows {
            self.durable.resize(cached_bytes as usize, 0);
        }
        self.bytes = self.durable.len() as u64;
    }
}
