//! The names of the files of a log.

use crate::id::{LogIndex, Term};

/// A snapshot that is being written.
pub(super) const NEW_SNAPSHOT: &str = "snapshot.new";

pub(super) fn log(number: u32) -> String {
    format!("log-{number:08x}")
}

pub(super) fn log_number(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name.strip_prefix("log-")?, 16).ok()?;
    (log(number) == name).then_some(number)
}

pub(super) fn is_log(name: &str) -> bool {
    log_number(name).is_some()
}

pub(super) fn snapshot(index: LogIndex, term: Term) -> String {
    format!("snapshot-{:016x}-{:016x}", index.0, term.0)
}

/// Term and index of the last entry in a snapshot.
pub(super) fn snapshot_place(name: &str) -> Option<(Term, LogIndex)> {
    let (index, term) = name.strip_prefix("snapshot-")?.split_once('-')?;
    let (index, term) = (u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(term, 16).ok()?);
    let place = (Term(term), LogIndex(index));
    (snapshot(place.1, place.0) == name).then_some(place)
}

pub(super) fn snapshot_index(name: &str) -> Option<LogIndex> {
    snapshot_place(name).map(|(_, index)| index)
}

pub(super) fn is_snapshot(name: &str) -> bool {
    snapshot_index(name).is_some()
}
