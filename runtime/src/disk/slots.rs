//! The places of operations under way: they bound their number, name them and remember since when they wait.

use crate::disk::{OpKind, Ticket};
use crate::time::Instant;

/// Bits of a ticket that say which slot it is; the rest counts.
const SLOT_BITS: u32 = 12;

impl Ticket {
    /// Which of the disk's `ops_max` slots this operation has until its completion is taken.
    pub(crate) fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    kind: OpKind,
    since: Instant,
    waits: bool,
}

impl Slots {
    pub(crate) fn new(ops_max: usize) -> Self {
        assert!(ops_max <= 1 << SLOT_BITS);
        let empty = Slot { kind: OpKind::Close, since: Instant::ZERO, waits: false };
        Slots { slots: vec![empty; ops_max], free: (0..ops_max as u16).rev().collect(), count: 0 }
    }

    /// A slot, unless all are taken.
    pub(crate) fn take(&mut self, kind: OpKind, since: Instant) -> Option<Ticket> {
        let slot = self.free.pop()?;
        self.slots[usize::from(slot)] = Slot { kind, since, waits: true };
        self.count += 1;
        Some(Ticket(self.count << SLOT_BITS | u64::from(slot)))
    }

    /// The operation has completed.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        self.slots[ticket.slot()].waits = false;
    }

    /// Its completion was taken.
    pub(crate) fn give_back(&mut self, ticket: Ticket) {
        self.free.push(ticket.slot() as u16);
    }

    pub(crate) fn oldest(&self) -> Option<(OpKind, Instant)> {
        let waiting = self.slots.iter().filter(|slot| slot.waits);
        waiting.min_by_key(|slot| slot.since).map(|slot| (slot.kind, slot.since))
    }

    pub(crate) fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
