//! An entry larger than a datagram, put together at the tail of the log from its fragments.

use super::pieces::Pieces;
use crate::entry::EntryHeader;
use crate::id::{LogIndex, Term};

/// One entry under construction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Assembly {
    /// Term of the leader that sends the fragments; another leader's fragments start anew.
    pub(super) leader_term: Term,
    pub(super) index: LogIndex,
    pub(super) header: EntryHeader,
    pub(super) body: Pieces,
}

impl Assembly {
    pub(super) fn new(leader_term: Term, index: LogIndex, header: EntryHeader) -> Self {
        Assembly { leader_term, index, header, body: Pieces::new(header.body_len) }
    }
}
