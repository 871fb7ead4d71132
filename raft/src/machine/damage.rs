//! What a disk has lost of a log that it may have acknowledged.
//!
//! Acknowledged is acknowledged: a log that has lost its middle does not deny what came after. Until it holds an entry as late as the
//! last it once had, by term and index, this node gives its vote only to logs that reach as far, and does not stand itself. What it has
//! left it acknowledges, and the leader sends the rest as to anyone who lags. A later leader whose log is another's is believed: its
//! first entry is later than all that was lost.

use super::Machine;
use crate::id::{LogIndex, Term};
use crate::log::Log;

impl Machine {
    /// The log of this recovered node once reached `index` in `term`, and does not any more. Call before the first step.
    pub fn remember_damage(&mut self, term: Term, index: LogIndex) {
        self.damage = Some((term, index));
    }

    /// How far the log once reached, until it does again.
    pub fn damage(&self) -> Option<(Term, LogIndex)> {
        self.damage
    }

    /// What this node's log counts as in votes.
    pub(super) fn reached(&self, log: &Log) -> (Term, LogIndex) {
        self.damage.unwrap_or_default().max((log.last_term(), log.last()))
    }

    /// Forgets damage once the log has grown beyond it.
    pub(super) fn mend(&mut self, log: &Log) {
        if let Some(damage) = self.damage
            && ((log.last_term(), log.last()) >= damage || self.commit >= damage.1)
        {
            self.damage = None;
        }
    }
}
