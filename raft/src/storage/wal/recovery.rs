//! From the files to what a node was: a pure function of what the directory holds.
//!
//! All whole records are put in the order of their sequences and replayed over the newest whole snapshot. Each names the one
//! before it. Where that one is missing there is a hole, and
//! * a later record that follows the last one before the hole was written by a later life, which had cut what lies between;
//! * a later record that says that the hole was durable makes it **damage**: nothing is cut. What the log once reached is
//!   remembered as a fence, below which the node neither votes nor stands, until it has been sent that much again. A snapshot that is
//!   broken makes one as well, by its name. Every record written meanwhile bears it, since files that show it are used again;
//! * else it is a **torn tail**: acknowledgements cover contiguous records only, so nobody was ever told of it, nor of what follows.
//!
//! Damage that no later record follows cannot be told from a torn tail. Whether the entries of a record go on from the log so far is
//! decided by the term before its first: logs that agree there agree in all that comes before.

use std::collections::BTreeMap;

use super::files::Known;
use super::record::{self, RECORD_HEADER_BYTES, Record};
use super::report::Report;
use super::scan::{Found, Scan};
use super::superblock::Superblock;
use super::{Durability, Expected, WalError, image, names};
use crate::id::{ClusterId, LogIndex, NodeId, Term};
use crate::log::{Log, ReceivedSnapshot};
use crate::sabotage::{Fault, Sabotage};
use crate::storage::HardState;
use crate::storage::device::{BLOCK_BYTES, Directory};

/// What a directory was found to hold.
#[derive(Debug)]
pub enum Recovery {
    /// Nothing: the node begins its first life here.
    Nothing,
    /// A life that cannot be resumed, since it may have promised what its disk does not know: the node begins another, as another
    /// incarnation.
    Untrusted(Report),
    /// A life to be resumed.
    Resumed(Box<Recovered>),
}

/// A life to be resumed: who the node is, and what it knew.
#[derive(Debug)]
pub struct Recovered {
    /// This node, in the incarnation that made the promises on this disk.
    pub id: NodeId,
    /// Its cluster, once it had one.
    pub cluster: Option<ClusterId>,
    /// Term and vote.
    pub hard: HardState,
    /// The state that the log goes on from.
    pub snapshot: Option<ReceivedSnapshot>,
    /// The entries after it.
    pub log: Log,
    /// Term and index that the log once reached where it does not any more: see [`crate::Machine::remember_damage`].
    pub fence: Option<(Term, LogIndex)>,
    /// What was found, for people.
    pub report: Report,
    pub(super) resume: Resume,
}

/// What the log needs to go on.
#[derive(Debug, Clone)]
pub(super) struct Resume {
    pub(super) superblock: Superblock,
    /// The newest record that counts, and its hash.
    pub(super) last: (u64, u64),
    pub(super) next_sequence: u64,
    /// The files of the log.
    pub(super) files: Vec<Known>,
    /// The file that holds the newest record that counts.
    pub(super) newest_file: Option<u32>,
    pub(super) snapshots: Vec<String>,
    pub(super) saved: LogIndex,
    /// Bytes of the entries after the snapshot.
    pub(super) unsaved_bytes: u64,
}

impl Resume {
    /// A first record, in whatever files there are.
    pub(super) fn fresh(superblock: Superblock, left: &[(String, u64)]) -> Resume {
        let file = |(name, bytes): &(String, u64)| {
            let blocks = u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            names::log_number(name).map(|number| Known { number, blocks, ..Known::default() })
        };
        let snapshots = left.iter().filter(|(name, _)| names::is_snapshot(name));
        Resume {
            superblock,
            last: (0, 0),
            next_sequence: 1,
            files: left.iter().filter_map(file).collect(),
            newest_file: None,
            snapshots: snapshots.map(|(name, _)| name.clone()).collect(),
            saved: LogIndex::ZERO,
            unsaved_bytes: 0,
        }
    }
}

/// Looks at a directory. Reads all of it, allocates no more than it holds, and changes nothing. What it finds counts as durable:
/// where it must survive a loss of power, everything in the directory has to be synced before, for a process that was killed
/// may have left its last writes in a cache.
///
/// # Errors
/// It belongs to somebody else, is of another format, or the device fails.
pub fn recover(directory: &impl Directory, expected: &Expected) -> Result<Recovery, WalError> {
    recover_with(directory, expected, Sabotage::NONE)
}

/// As [`recover`], with rules broken on purpose.
pub fn recover_with(directory: &impl Directory, expected: &Expected, sabotage: Sabotage) -> Result<Recovery, WalError> {
    let files = directory.list()?;
    let Some(superblock) = Superblock::read(directory, &files)? else { return Ok(Recovery::Nothing) };
    check(&superblock, expected)?;
    let mut report = Report::new(superblock.id, superblock.generation);
    let FoundSnapshots { newest: snapshot, names: snapshots, broken } =
        find_snapshots(directory, &files, &superblock, expected, &mut report)?;
    let scan = Scan::of(directory, &files, superblock.salt, &mut report)?;
    let mut replay = Replay::after(snapshot.as_ref(), sabotage);
    let mut cluster = superblock.cluster.or(expected.cluster);
    if let Some((known, _)) = &snapshot {
        cluster.get_or_insert(*known);
    }
    let chosen = choose(&scan.records, &mut report, sabotage);
    for found in chosen.iter().map(|at| &scan.records[*at]) {
        let record = &found.record;
        if record.incarnation != superblock.id.incarnation {
            return Err(WalError::AnotherNode { found: record.incarnation, own: superblock.id });
        }
        match cluster {
            Some(own) if own != record.cluster => {
                return Err(WalError::AnotherCluster { found: record.cluster, expected: own });
            }
            _ => cluster = Some(record.cluster),
        }
        replay.record(directory, record)?;
    }
    let newest = chosen.last().map(|at| &scan.records[*at].record);
    let last = newest.map_or((0, 0), |record| (record.sequence, record.hash));
    replay.lost(&broken);
    report.finish(newest, &replay.log, replay.fence);
    let short = expected.witness.is_some_and(|witness| witness > last.0);
    if short && !sabotage.has(Fault::IgnoreWitness) {
        report.rolled_back(last.0, expected.witness.unwrap_or(0));
        return match superblock.durability {
            Durability::Buffered => Ok(Recovery::Untrusted(report)),
            Durability::Durable => {
                Err(WalError::RolledBack { reached: last.0, witness: expected.witness.unwrap_or(0) })
            }
        };
    }
    let unclean = !superblock.clean && !sabotage.has(Fault::ResumeUnclean);
    if superblock.durability == Durability::Buffered && unclean {
        let same_run = superblock.boot == expected.boot && expected.boot != 0;
        if !same_run || expected.witness.is_none() {
            report.unclean(same_run);
            return Ok(Recovery::Untrusted(report));
        }
    }
    // Not even a term is durable before there is a cluster; a record says which.
    let known = (newest.is_some() || snapshot.is_some()).then_some(cluster).flatten();
    let files = scan.files;
    let seen = scan.highest_sequence.max(expected.witness.unwrap_or(0));
    let snapshot = snapshot.map(|(_, snapshot)| snapshot);
    let resume = Resume {
        superblock,
        last,
        next_sequence: seen.saturating_add(1),
        files,
        newest_file: newest.map(|record| record.place.file),
        snapshots,
        saved: snapshot.as_ref().map_or(LogIndex::ZERO, |snapshot| snapshot.index),
        unsaved_bytes: replay.log.bytes(),
    };
    Ok(Recovery::Resumed(Box::new(Recovered {
        id: superblock.id,
        cluster: known,
        hard: replay.hard,
        snapshot,
        log: replay.log,
        fence: replay.fence,
        report,
        resume,
    })))
}

fn check(superblock: &Superblock, expected: &Expected) -> Result<(), WalError> {
    if superblock.id.slot != expected.slot {
        return Err(WalError::AnotherSlot { found: superblock.id.slot, expected: expected.slot });
    }
    if superblock.shard != expected.shard {
        return Err(WalError::AnotherShard { found: superblock.shard, expected: expected.shard });
    }
    match (superblock.cluster, expected.cluster) {
        (Some(found), Some(expected)) if found != expected => Err(WalError::AnotherCluster { found, expected }),
        _ => Ok(()),
    }
}

/// The snapshots of a directory.
struct FoundSnapshots {
    /// The newest whole one, and whose it is.
    newest: Option<(ClusterId, ReceivedSnapshot)>,
    /// Of all of them.
    names: Vec<String>,
    /// The last entries of newer ones that are broken.
    broken: Vec<(Term, LogIndex)>,
}

fn find_snapshots(
    directory: &impl Directory,
    files: &[(String, u64)],
    superblock: &Superblock,
    expected: &Expected,
    report: &mut Report,
) -> Result<FoundSnapshots, WalError> {
    let mut candidates: Vec<_> = files.iter().filter(|(name, _)| names::is_snapshot(name)).collect();
    candidates.sort_by_key(|(name, _)| std::cmp::Reverse(names::snapshot_index(name)));
    let names = candidates.iter().map(|(name, _)| name.clone()).collect();
    let mut found = FoundSnapshots { newest: None, names, broken: Vec::new() };
    for (name, bytes) in candidates {
        let Some((cluster, snapshot)) = image::read(directory, name, *bytes, superblock.salt)? else {
            report.broken_snapshot(name);
            found.broken.extend(names::snapshot_place(name));
            continue;
        };
        let own = superblock.cluster.or(expected.cluster);
        if let Some(own) = own.filter(|own| *own != cluster) {
            return Err(WalError::AnotherCluster { found: cluster, expected: own });
        }
        report.snapshot(snapshot.index, snapshot.bytes.len());
        found.newest = Some((cluster, snapshot));
        break;
    }
    Ok(found)
}

/// Which of the records, in the order of their sequences, count.
fn choose(records: &[Found], report: &mut Report, sabotage: Sabotage) -> Vec<usize> {
    // The highest claim of any record from a place on.
    let mut claims: Vec<u64> = records.iter().map(|found| found.record.durable).collect();
    for at in (1..claims.len()).rev() {
        claims[at - 1] = claims[at - 1].max(claims[at]);
    }
    let links = records.iter().enumerate().map(|(at, found)| ((found.record.previous, found.record.previous_hash), at));
    let next_of: BTreeMap<(u64, u64), usize> = links.rev().collect();
    let mut chosen = Vec::new();
    let mut at = 0;
    // The record before, by sequence and hash; a disk begins after none.
    let mut before = (0, 0);
    while at < records.len() {
        let record = &records[at].record;
        // One that goes back before the last begins a life that had cut it; what is cut and still found is in the snapshot.
        if (record.previous, record.previous_hash) != before && record.previous >= before.0 {
            if let Some(next) = next_of.get(&before).filter(|next| **next > at) {
                report.cut_before(next - at);
                at = *next;
                continue;
            }
            let was_durable = claims[at] > before.0 || sabotage.has(Fault::TornTailAsDamage);
            // What came before the first one found is mostly a file that was used again: the entries will tell.
            let is_first = before == (0, 0);
            if !was_durable || !is_first && sabotage.has(Fault::DamageAsTornTail) {
                report.cut(before.0, records.len() - at);
                break;
            }
            if !is_first {
                report.damage(before.0, record);
            }
        }
        chosen.push(at);
        before = (record.sequence, record.hash);
        at += 1;
    }
    chosen
}

/// The log as the records so far make it.
struct Replay {
    log: Log,
    hard: HardState,
    fence: Option<(Term, LogIndex)>,
    sabotage: Sabotage,
    /// What is stored up to here contradicts the snapshot, which was sent by a leader: it is void, and nothing is lost with it.
    void_to: Option<LogIndex>,
}

impl Replay {
    fn after(snapshot: Option<&(ClusterId, ReceivedSnapshot)>, sabotage: Sabotage) -> Replay {
        let log = snapshot.map_or_else(Log::default, |(_, snapshot)| {
            Log::starting_after(snapshot.index, snapshot.term, snapshot.log_time)
        });
        Replay { log, hard: HardState::default(), fence: None, sabotage, void_to: None }
    }

    fn record(&mut self, directory: &impl Directory, record: &Record) -> Result<(), WalError> {
        self.hard = record.hard;
        let (base, to) = (self.log.base(), record.to());
        if record.from <= base && to < base {
            // Older than the snapshot.
            self.log.truncate(base.next());
            self.bears(record.fence);
            return Ok(());
        }
        let mut payload = vec![0; record.payload_bytes as usize];
        let offset = u64::from(record.place.block) * BLOCK_BYTES as u64;
        let name = names::log(record.place.file);
        directory.read_at(&name, offset + RECORD_HEADER_BYTES as u64, &mut payload)?;
        let entries = record::entries(&payload, record.count);
        if let Some(entries) = entries {
            self.entries(record, &entries);
        } else {
            self.fence_at(record.to_term, to);
        }
        self.bears(record.fence);
        Ok(())
    }

    /// The log went on like this while it did not reach what it once had.
    fn bears(&mut self, fence: Option<(Term, LogIndex)>) {
        self.fence = self.fence.max(fence.filter(|_| !self.sabotage.has(Fault::ForgetFence)));
        self.mend();
    }

    /// These snapshots are gone: the log reached as far as each.
    fn lost(&mut self, broken: &[(Term, LogIndex)]) {
        self.fence = self.fence.max(broken.iter().max().copied());
        self.mend();
    }

    fn mend(&mut self) {
        let (base, reached) = (self.log.base(), (self.log.last_term(), self.log.last()));
        self.fence = self.fence.filter(|fence| *fence > reached && fence.1 > base);
    }

    fn entries(&mut self, record: &Record, entries: &[(crate::entry::EntryHeader, &[u8])]) {
        let (base, to) = (self.log.base(), record.to());
        let skipped = (base.next().0.saturating_sub(record.from.0) as usize).min(entries.len());
        let goes_on = match skipped.checked_sub(1) {
            // The snapshot's own last entry is among them, or just before.
            Some(at) => entries[at].0.term == self.log.base_term(),
            None => self.log.term_at(record.from.prev()) == Some(record.before_term),
        };
        if goes_on {
            self.void_to = None;
            self.log.truncate(record.from.max(base.next()));
            for (header, body) in &entries[skipped..] {
                self.log.append(*header, &[body]);
            }
        } else if record.from <= base.next() && self.log.last() == base
            || self.void_to.is_some_and(|void_to| record.from <= void_to.next())
        {
            self.void_to = Some(to);
        } else {
            self.fence_at(record.to_term, to);
        }
    }

    fn fence_at(&mut self, term: Term, index: LogIndex) {
        self.fence = self.fence.max(Some((term, index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::storage::wal::record::Place;

    /// A record that follows this one; all up to `durable` were when it was begun.
    fn record(sequence: u64, previous: u64, durable: u64) -> Found {
        let hash = |sequence: u64| if sequence > 0 { sequence + 1000 } else { 0 };
        let record = Record {
            hash: hash(sequence),
            payload_crc32c: 0,
            payload_bytes: 0,
            count: 0,
            cluster: ClusterId(1),
            incarnation: Incarnation(1),
            sequence,
            previous,
            previous_hash: hash(previous),
            durable,
            place: Place::default(),
            hard: HardState::default(),
            from: LogIndex(1),
            before_term: Term(0),
            to_term: Term(0),
            fence: None,
        };
        Found { record }
    }

    fn chosen(records: &[Found]) -> (Vec<u64>, Report) {
        let mut report = Report::new(NodeId::new(1, 1), 0);
        let chosen = choose(records, &mut report, Sabotage::NONE);
        (chosen.into_iter().map(|at| records[at].record.sequence).collect(), report)
    }

    /// Not each record after a hole knows that it was durable: those begun early do not, nor do those of a life that missed it.
    #[test]
    fn one_later_record_that_knows_of_a_hole_is_enough_for_damage() {
        let known = [record(1, 0, 0), record(3, 2, 0), record(4, 3, 2), record(5, 4, 1)];
        let (sequences, report) = chosen(&known);
        assert_eq!((sequences, report.damaged_records, report.cut_records), (vec![1, 3, 4, 5], 1, 0));
        let unknown = [record(1, 0, 0), record(3, 2, 0), record(4, 3, 1), record(5, 4, 1)];
        let (sequences, report) = chosen(&unknown);
        assert_eq!((sequences, report.damaged_records, report.cut_records), (vec![1], 0, 3));
    }
}
