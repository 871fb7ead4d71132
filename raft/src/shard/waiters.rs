//! Tasks that wait for the log to get somewhere, and reads that wait for their round.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::error::Error;
use crate::id::LogIndex;

/// Wakers by the index they wait for. The caller bounds their number: one per task.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<(u64, LogIndex, Waker)>,
    next_key: u64,
    /// Nobody waits for less than this.
    lowest: LogIndex,
}

impl Waiters {
    /// Registers or renews a waiter; `key` is filled in at the first call.
    pub(super) fn wait(&mut self, key: &mut Option<u64>, index: LogIndex, cx: &Context<'_>) {
        let known = key.and_then(|key| self.waiting.iter_mut().find(|waiter| waiter.0 == key));
        if let Some(waiter) = known {
            waiter.2.clone_from(cx.waker());
            return;
        }
        self.next_key += 1;
        *key = Some(self.next_key);
        self.lowest = if self.waiting.is_empty() { index } else { self.lowest.min(index) };
        self.waiting.push((self.next_key, index, cx.waker().clone()));
    }

    pub(super) fn forget(&mut self, key: Option<u64>) {
        if let Some(key) = key {
            self.waiting.retain(|waiter| waiter.0 != key);
        }
    }

    /// Wakes who waits for `index` or less.
    pub(super) fn reach(&mut self, index: LogIndex) {
        if self.waiting.is_empty() || index < self.lowest {
            return;
        }
        self.waiting.retain(|(_, wanted, waker)| {
            let reached = *wanted <= index;
            if reached {
                waker.wake_by_ref();
            }
            !reached
        });
        self.lowest = self.waiting.iter().map(|waiter| waiter.1).min().unwrap_or_default();
    }
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Settled(Result<LogIndex, Error>),
    Gone,
}

/// Reads by ticket, oldest first. The machine bounds those that wait; a settled one stays until its task looks.
#[derive(Debug, Default)]
pub(super) struct ReadTable {
    slots: VecDeque<Slot>,
    /// Tickets before this one are gone, and before `unsettled` settled.
    first: u64,
    unsettled: u64,
}

impl ReadTable {
    /// Takes the next ticket in. Tickets come in sequence.
    pub(super) fn open(&mut self, ticket: u64) {
        if self.slots.is_empty() {
            self.first = ticket;
            self.unsettled = ticket;
        }
        self.slots.push_back(Slot::Waiting(None));
    }

    /// Settles all tickets up to this one.
    pub(super) fn settle(&mut self, up_to: u64, result: &Result<LogIndex, Error>) {
        while self.unsettled <= up_to {
            let Some(slot) = self.slots.get_mut((self.unsettled - self.first) as usize) else { return };
            self.unsettled += 1;
            if let Slot::Waiting(waker) = slot {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
                *slot = Slot::Settled(result.clone());
            }
        }
    }

    pub(super) fn poll(&mut self, ticket: u64, cx: &Context<'_>) -> Poll<Result<LogIndex, Error>> {
        let slot = ticket.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize));
        match slot {
            Some(Slot::Waiting(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(slot) => match std::mem::replace(slot, Slot::Gone) {
                Slot::Settled(result) => Poll::Ready(result),
                Slot::Waiting(_) | Slot::Gone => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }

    /// The read's task is done with it, answered or not.
    pub(super) fn close(&mut self, ticket: u64) {
        if let Some(slot) = ticket.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize)) {
            *slot = Slot::Gone;
        }
        while self.first < self.unsettled && matches!(self.slots.front(), Some(Slot::Gone)) {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn reads_settle_in_order_and_leave_nothing_behind() {
        let mut table = ReadTable::default();
        (1..=3).for_each(|ticket| table.open(ticket));
        assert!(table.poll(2, &cx()).is_pending());
        table.close(1);
        table.settle(2, &Ok(LogIndex(9)));
        assert_eq!(table.poll(2, &cx()), Poll::Ready(Ok(LogIndex(9))));
        assert!(table.poll(3, &cx()).is_pending());
        table.close(2);
        table.settle(3, &Err(Error::Overloaded));
        assert_eq!(table.poll(3, &cx()), Poll::Ready(Err(Error::Overloaded)));
        table.close(3);
        assert!(table.slots.is_empty());
        table.open(4);
        table.settle(4, &Ok(LogIndex(10)));
        assert_eq!(table.poll(4, &cx()), Poll::Ready(Ok(LogIndex(10))));
    }

    #[test]
    fn a_read_abandoned_before_its_round_does_not_shift_the_others() {
        let mut table = ReadTable::default();
        table.open(1);
        table.close(1);
        table.open(2);
        table.settle(1, &Ok(LogIndex(1)));
        assert!(table.poll(2, &cx()).is_pending());
        table.settle(2, &Ok(LogIndex(2)));
        assert_eq!(table.poll(2, &cx()), Poll::Ready(Ok(LogIndex(2))));
    }

    #[test]
    fn waiters_leave_when_reached_or_forgotten() {
        let mut waiters = Waiters::default();
        let (mut early, mut late) = (None, None);
        waiters.wait(&mut early, LogIndex(5), &cx());
        waiters.wait(&mut late, LogIndex(9), &cx());
        waiters.wait(&mut late, LogIndex(9), &cx());
        assert_eq!(waiters.waiting.len(), 2);
        waiters.reach(LogIndex(4));
        assert_eq!(waiters.waiting.len(), 2);
        waiters.reach(LogIndex(5));
        assert_eq!(waiters.waiting.len(), 1);
        waiters.forget(late);
        assert!(waiters.waiting.is_empty());
    }
}
