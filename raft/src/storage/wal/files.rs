//! The files of the log: one in use, one spare, and those that are kept because a restart would need them.

use super::record::Place;
use crate::id::LogIndex;

/// One file.
#[derive(Debug, Clone, Copy)]
struct LogFile<F> {
    number: u32,
    blocks: u32,
    id: Option<F>,
    /// No record in it reaches further.
    max_to: LogIndex,
    /// As far reach those of its records that hold entries. The others say terms and votes, and bear the end of the log.
    entries_to: LogIndex,
    /// Records in it that do not count yet.
    flights: usize,
    /// `Buffered`: something in it is not on the device.
    unsynced: bool,
}

/// What can be had as the next file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// One that is there, open or not.
    Used(usize),
    /// One to be made, of this number.
    New(u32),
    /// Nothing.
    None,
}

/// A file as a start has found it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) blocks: u32,
    /// The highest index that any record in it reaches, whether it counts or not.
    pub(super) max_to: LogIndex,
    /// The highest of those that hold entries.
    pub(super) entries_to: LogIndex,
}

#[derive(Debug)]
pub(super) struct Files<F> {
    files: Vec<LogFile<F>>,
    active: Option<usize>,
    next_block: u32,
    spare: Option<usize>,
    /// The file of the newest record that counts: hard state and tail are in it.
    newest: Option<usize>,
}

impl<F: Copy> Files<F> {
    pub(super) fn new(known: &[Known], newest: Option<u32>) -> Self {
        let file = |&Known { number, blocks, max_to, entries_to }: &Known| LogFile {
            number,
            blocks,
            id: None,
            max_to,
            entries_to,
            flights: 0,
            unsynced: false,
        };
        let newest = newest.and_then(|number| known.iter().position(|known| known.number == number));
        Files { files: known.iter().map(file).collect(), active: None, next_block: 0, spare: None, newest }
    }

    pub(super) fn blocks_left(&self) -> u32 {
        self.active.map_or(0, |active| self.files[active].blocks - self.next_block)
    }

    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Files that hold entries which a restart needs, where a snapshot has all up to `saved`. Those that hold only terms are not
    /// among them: while nobody can commit there are ever more, and none of them must keep an entry out by which somebody could.
    pub(super) fn in_use(&self, saved: LogIndex) -> usize {
        self.files.iter().filter(|file| file.entries_to > saved).count()
    }

    /// Files with records that reach beyond the end of the log: a leader has cut them, or they lie behind damage. They are kept, for a
    /// start must know how far the log once reached, until it reaches as far again.
    pub(super) fn beyond(&self, end: LogIndex) -> usize {
        self.files.iter().filter(|file| file.entries_to > end).count()
    }

    /// Goes on in the spare file.
    pub(super) fn switch(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.active = Some(spare);
            self.next_block = 0;
        }
    }

    /// A place for a record that reaches `to`, with entries or without.
    pub(super) fn take(&mut self, blocks: u32, to: LogIndex, has_entries: bool) -> Option<(usize, F, Place)> {
        let active = self.active?;
        let file = &mut self.files[active];
        let id = file.id?;
        let place = Place { file: file.number, block: self.next_block };
        self.next_block = self.next_block.checked_add(blocks).filter(|end| *end <= file.blocks)?;
        file.max_to = file.max_to.max(to);
        if has_entries {
            file.entries_to = file.entries_to.max(to);
        }
        file.flights += 1;
        Some((active, id, place))
    }

    pub(super) fn id(&self, file: usize) -> Option<F> {
        self.files.get(file)?.id
    }

    pub(super) fn written(&mut self, file: usize) {
        self.files[file].unsynced = true;
    }

    pub(super) fn counts(&mut self, file: usize) {
        self.files[file].flights -= 1;
        self.newest = Some(file);
    }

    /// A file to be synced, which then counts as synced.
    pub(super) fn next_unsynced(&mut self) -> Option<(usize, F)> {
        let at = self.files.iter().position(|file| file.unsynced && file.id.is_some())?;
        self.files[at].unsynced = false;
        self.files[at].id.map(|id| (at, id))
    }

    /// The next file, if one of those there is not needed beyond `saved`, or another may be made. Those that hold only terms do not
    /// count: what is left of them is found again as soon as something has been committed and saved.
    pub(super) fn next(&self, saved: LogIndex, file_blocks: u32, files_max: usize) -> Next {
        let free = |at: &usize| {
            let file = &self.files[*at];
            let kept = Some(*at) == self.active || Some(*at) == self.newest || Some(*at) == self.spare;
            !kept && file.flights == 0 && file.max_to <= saved && file.blocks >= file_blocks
        };
        if let Some(at) = (0..self.files.len()).find(free) {
            return Next::Used(at);
        }
        let number = self.files.iter().map(|file| file.number).max().map_or(0, |highest| highest.saturating_add(1));
        let has_terms_only = |file: &&LogFile<F>| file.max_to > saved && file.entries_to <= saved;
        if self.files.len() - self.files.iter().filter(has_terms_only).count() < files_max {
            Next::New(number)
        } else {
            Next::None
        }
    }

    pub(super) fn number(&self, at: usize) -> u32 {
        self.files[at].number
    }

    pub(super) fn add(&mut self, number: u32, blocks: u32, id: F) -> usize {
        let (max_to, entries_to) = (LogIndex::ZERO, LogIndex::ZERO);
        self.files.push(LogFile { number, blocks, id: Some(id), max_to, entries_to, flights: 0, unsynced: false });
        self.files.len() - 1
    }

    pub(super) fn opened(&mut self, at: usize, id: F) {
        self.files[at].id = Some(id);
    }

    /// Nothing in it counts any more: it is the next.
    pub(super) fn make_spare(&mut self, at: usize) {
        (self.files[at].max_to, self.files[at].entries_to) = (LogIndex::ZERO, LogIndex::ZERO);
        self.spare = Some(at);
    }
}
