//! The place of a shard's replica in this process, and the lives that it has there.

use crate::node::Node;
use crate::shards::ShardPlace;
use std::collections::VecDeque;
use std::time::Duration;
use trimaran_runtime::{Instant, now};

/// A shard's replica, or the place of one that has just ended its life.
pub(super) struct Seat {
    pub(super) place: ShardPlace,
    pub(super) node: Option<Node>,
    /// To begin another life, in vain: the old one's files or sockets may still be open.
    pub(super) tries: u32,
    pub(super) lives: Lives,
}

impl Seat {
    /// A replica whose state the others have outvoted is of no use, and never will be: in its place another life begins, which is given
    /// theirs.
    pub(super) fn end_if_outvoted(&mut self, slot: u8) {
        let Some(index) = self.node.as_ref().and_then(Node::outvoted) else { return };
        if self.lives.may_begin_another(now()) {
            tracing::error!(
                slot, shard = self.place.shard(), %index,
                "the others' state is another after this entry: this replica begins another life, and asks for theirs"
            );
            self.node = None;
        }
    }
}

/// When lives of a replica were ended because it had been outvoted.
#[derive(Debug, Default)]
pub(super) struct Lives {
    ended: VecDeque<Instant>,
    is_told: bool,
}

impl Lives {
    /// In one hour. What differs more often has a cause that another life does not mend: then the replica stays as it is, so that
    /// somebody looks.
    const PER_HOUR: usize = 3;
    const HOUR: Duration = Duration::from_secs(3600);

    /// Whether another one may begin now; if so, this one counts.
    pub(super) fn may_begin_another(&mut self, now: Instant) -> bool {
        self.ended.retain(|ended| now - *ended < Lives::HOUR);
        if self.ended.len() < Lives::PER_HOUR {
            self.ended.push_back(now);
            self.is_told = false;
            return true;
        }
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::error!("outvoted {} times within an hour: this replica stays as it is", Lives::PER_HOUR);
        }
        false
    }
}
