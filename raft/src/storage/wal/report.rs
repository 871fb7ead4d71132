//! What a look at a disk has found, in words.

use std::fmt;

use super::record::{Place, Record};
use crate::id::{LogIndex, NodeId, Term};
use crate::log::Log;

/// Lines of a report; further findings are counted only.
const LINES: usize = 64;

/// What was found on a disk. Shown as lines, the most important last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The node whose disk it is.
    pub id: NodeId,
    /// Records that were lost although they may have been acknowledged: damage. Their entries have to come from peers.
    pub damaged_records: u64,
    /// Records above everything that was acknowledged, which a crash has left: they do not count.
    pub cut_records: u64,
    /// Records found where they were not written to.
    pub misdirected_records: u64,
    /// Snapshots that are not whole.
    pub broken_snapshots: u64,
    lines: Vec<String>,
    unsaid: u64,
}

impl Report {
    pub(super) fn new(id: NodeId, generation: u64) -> Report {
        let mut report = Report {
            id,
            damaged_records: 0,
            cut_records: 0,
            misdirected_records: 0,
            broken_snapshots: 0,
            lines: Vec::new(),
            unsaid: 0,
        };
        report.say(format!("the disk of node {id}, generation {generation} of its superblock"));
        report
    }

    /// Whether nothing was found that a whole device would not show after a crash.
    pub fn is_sound(&self) -> bool {
        self.damaged_records == 0 && self.misdirected_records == 0 && self.broken_snapshots == 0
    }

    fn say(&mut self, line: String) {
        if self.lines.len() < LINES {
            self.lines.push(line);
        } else {
            self.unsaid += 1;
        }
    }

    pub(super) fn snapshot(&mut self, index: LogIndex, bytes: usize) {
        self.say(format!("a whole snapshot after entry {index}, {bytes} bytes"));
    }

    pub(super) fn broken_snapshot(&mut self, name: &str) {
        self.broken_snapshots += 1;
        self.say(format!("{name} is not whole, or of an earlier life: not used"));
    }

    pub(super) fn misdirected(&mut self, record: &Record, here: Place) {
        self.misdirected_records += 1;
        let meant = record.place;
        self.say(format!(
            "record {} was found in file {:x} at block {}, but belongs into file {:x} at block {}: a misdirected write",
            record.sequence, here.file, here.block, meant.file, meant.block
        ));
    }

    pub(super) fn torn(&mut self, record: &Record) {
        let to = record.to();
        self.say(format!("record {} (entries {} to {to}) is not whole", record.sequence, record.from));
    }

    pub(super) fn cut_before(&mut self, records: usize) {
        self.say(format!("{records} records do not count: an earlier start has cut them"));
    }

    pub(super) fn cut(&mut self, sequence: u64, records: usize) {
        self.cut_records += records as u64;
        self.say(format!(
            "a torn tail: {records} records follow a gap after record {sequence} and were never acknowledged; they are cut"
        ));
    }

    pub(super) fn damage(&mut self, before: u64, after: &Record) {
        self.damaged_records += after.previous.saturating_sub(before).max(1);
        self.say(format!(
            "damage: records {} to {} were durable and cannot be read",
            before.saturating_add(1),
            after.previous.max(before.saturating_add(1))
        ));
    }

    pub(super) fn rolled_back(&mut self, reached: u64, witness: u64) {
        self.say(format!("rolled back: record {witness} was acknowledged, and the disk reaches record {reached} only"));
    }

    pub(super) fn unclean(&mut self, same_run: bool) {
        let why = if same_run { "the witness of this run is gone" } else { "the machine has been restarted since" };
        self.say(format!(
            "buffered, not closed, and {why}: what was acknowledged last may be lost, so this life is over"
        ));
    }

    pub(super) fn finish(&mut self, newest: Option<&Record>, log: &Log, fence: Option<(Term, LogIndex)>) {
        match newest {
            Some(record) => {
                let HardWords(hard) = HardWords::of(record);
                let (first, last) = (log.first(), log.last());
                self.say(format!("record {} is the newest: {hard}; entries {first} to {last}", record.sequence));
            }
            None => self.say("no record: nothing was ever promised".to_owned()),
        }
        if let Some((term, index)) = fence {
            let from = log.last().next();
            self.say(format!(
                "entries {from} to {index} (term {term}) may have been acknowledged and are gone: until peers have sent them \
                 again this node gives no vote to a log without them, and does not stand"
            ));
        }
    }
}

struct HardWords(String);

impl HardWords {
    fn of(record: &Record) -> HardWords {
        let vote = record.hard.vote.map_or("no vote".to_owned(), |vote| format!("vote for {vote}"));
        HardWords(format!("term {}, {vote}", record.hard.term))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        if self.unsaid > 0 {
            writeln!(f, "and {} further findings", self.unsaid)?;
        }
        Ok(())
    }
}
