//! Where each term begins in the log, so that conflicts, votes and previous terms never touch an entry.

use std::collections::VecDeque;

use crate::id::{LogIndex, Term};

/// Consecutive entries of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Run {
    term: Term,
    first: LogIndex,
}

/// The terms of the entries after `base` up to `last`, as runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct TermRuns {
    base: LogIndex,
    base_term: Term,
    runs: VecDeque<Run>,
    last: LogIndex,
}

impl TermRuns {
    /// No entries yet after `base`.
    pub(super) fn starting_at(base: LogIndex, base_term: Term) -> Self {
        TermRuns { base, base_term, runs: VecDeque::new(), last: base }
    }

    pub(super) fn base(&self) -> LogIndex {
        self.base
    }

    pub(super) fn base_term(&self) -> Term {
        self.base_term
    }

    pub(super) fn last(&self) -> LogIndex {
        self.last
    }

    pub(super) fn last_term(&self) -> Term {
        self.runs.back().map_or(self.base_term, |run| run.term)
    }

    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.base || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(match after.checked_sub(1) {
            Some(at) => self.runs[at].term,
            None => self.base_term,
        })
    }

    pub(super) fn append(&mut self, term: Term) {
        self.last = self.last.next();
        if self.runs.back().is_none_or(|run| run.term != term) {
            self.runs.push_back(Run { term, first: self.last });
        }
    }

    /// Drops `from` and everything after it.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        self.last = self.last.min(from.prev().max(self.base));
        while self.runs.back().is_some_and(|run| run.first > self.last) {
            self.runs.pop_back();
        }
    }

    /// Drops everything up to and including `to`; its term is kept, for the check of what follows.
    pub(super) fn trim(&mut self, to: LogIndex) {
        let to = to.min(self.last);
        let Some(term) = self.term_at(to) else { return };
        while self.runs.get(1).is_some_and(|second| second.first <= to.next()) {
            self.runs.pop_front();
        }
        if to == self.last {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(to.next());
        }
        self.base = to;
        self.base_term = term;
    }

    /// The last index at or before `index` whose term is at most `term`: no entry between it and `index` can be
    /// shared with a log whose entry at `index` has `term`. Each use skips at least one term on one of the sides.
    pub(super) fn not_after(&self, index: LogIndex, term: Term) -> LogIndex {
        let index = index.min(self.last);
        let after = self.runs.partition_point(|run| run.first <= index && run.term <= term);
        let end = self.runs.get(after).map_or(self.last, |next| next.first.prev());
        end.min(index).max(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Runs must say of each entry what a plain list of terms says, through truncation and trimming.
        #[test]
        fn behaves_as_a_list_of_terms(
            steps in proptest::collection::vec((0u8..3, 0u64..12), 0..60),
            probe in 0u64..40, probe_term in 0u64..10,
        ) {
            let mut runs = TermRuns::default();
            let mut model = vec![Term(0)];
            let mut base = 0usize;
            let mut term = 1;
            for (step, by) in steps {
                match step {
                    0 => {
                        term += by / 10;
                        runs.append(Term(term));
                        model.push(Term(term));
                    }
                    1 => {
                        let from = model.len().saturating_sub(by as usize).max(base + 1);
                        runs.truncate(LogIndex(from as u64));
                        model.truncate(from);
                    }
                    _ => {
                        base = (base + by as usize).min(model.len() - 1);
                        runs.trim(LogIndex(base as u64));
                    }
                }
                prop_assert_eq!(runs.last(), LogIndex(model.len() as u64 - 1));
                prop_assert_eq!(runs.last_term(), *model.last().unwrap());
                for (at, expected) in model.iter().enumerate() {
                    let expected = (at >= base).then_some(*expected);
                    prop_assert_eq!(runs.term_at(LogIndex(at as u64)), expected);
                }
                prop_assert_eq!(runs.term_at(LogIndex(model.len() as u64)), None);
                let expected = (base..model.len())
                    .rev()
                    .find(|at| *at as u64 <= probe && model[*at] <= Term(probe_term))
                    .unwrap_or(base);
                prop_assert_eq!(runs.not_after(LogIndex(probe), Term(probe_term)), LogIndex(expected as u64));
            }
        }
    }
}
