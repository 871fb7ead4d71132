//! A few values that go to and fro between two tasks, on one core or on two: who holds one owns it.
//!
//! For work that one core lends to another. A locked queue of a few places for each direction: a hand-over costs two uncontended locks
//! and a wake-up of the other side, so what is handed over should be worth some microseconds. What passes in streams belongs into a ring.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The two ends of a hand-over. Neither holds anything yet. So many values, one at least, may wait at each to be taken.
pub fn handoff<T: Send>(places: usize) -> (Handoff<T>, Handoff<T>) {
    let places = places.max(1);
    let queues = Arc::new([Queue::new(places), Queue::new(places)]);
    (Handoff { queues: queues.clone(), own: 0, places }, Handoff { queues, own: 1, places })
}

/// One end: gives to the other, and takes what that one gave. Goes to any thread.
pub struct Handoff<T> {
    queues: Arc<[Queue<T>; 2]>,
    /// Where the other end puts what it gives.
    own: usize,
    places: usize,
}

struct Queue<T>(Mutex<Content<T>>);

struct Content<T> {
    values: VecDeque<T>,
    /// The task that waits for a value.
    waiting: Option<Waker>,
    /// One of the ends is gone: nothing comes any more.
    closed: bool,
}

impl<T> Queue<T> {
    fn new(places: usize) -> Self {
        Queue(Mutex::new(Content { values: VecDeque::with_capacity(places), waiting: None, closed: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Content<T>> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes outside of the lock: the woken one wants it at once.
    fn close(&self) {
        let waiting = {
            let mut content = self.lock();
            content.closed = true;
            content.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T: Send> Handoff<T> {
    /// Gives `value` to the other end and wakes who waits there. Never waits.
    ///
    /// # Errors
    /// The value, where the other end is gone, or has not taken those before and no place is left.
    pub fn give(&self, value: T) -> Result<(), T> {
        let waiting = {
            let mut content = self.queues[1 - self.own].lock();
            if content.closed || content.values.len() >= self.places {
                return Err(value);
            }
            content.values.push_back(value);
            content.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Waits for what the other end gives, oldest first; `None` once that is gone and what it gave last is taken. Of several tasks that
    /// wait at one end only the last is woken.
    pub fn take(&self) -> impl Future<Output = Option<T>> + '_ {
        poll_fn(|cx| self.poll_take(cx))
    }

    /// As [`Handoff::take`], for a task that waits for something else, too.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut content = self.queues[self.own].lock();
        match content.values.pop_front() {
            Some(value) => Poll::Ready(Some(value)),
            None if content.closed => Poll::Ready(None),
            None => {
                content.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Handoff<T> {
    fn drop(&mut self) {
        self.queues.iter().for_each(Queue::close);
    }
}

impl<T> fmt::Debug for Handoff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoff").field("own", &self.own).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_value_is_at_one_end_or_the_other() {
        let (here, there) = handoff(1);
        assert_eq!(now(there.take()), None);
        assert_eq!(here.give(1), Ok(()));
        // Nothing is taken back or overwritten.
        assert_eq!((here.give(2), now(here.take())), (Err(2), None));
        assert_eq!(now(there.take()), Some(Some(1)));
        assert_eq!(there.give(3), Ok(()));
        assert_eq!(now(here.take()), Some(Some(3)));
    }

    #[test]
    fn as_many_wait_as_there_are_places_and_leave_in_order() {
        let (here, there) = handoff(2);
        assert_eq!((here.give(1), here.give(2), here.give(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(now(there.take()), Some(Some(1)));
        assert_eq!(here.give(4), Ok(()));
        assert_eq!((now(there.take()), now(there.take()), now(there.take())), (Some(Some(2)), Some(Some(4)), None));
    }

    /// What was given before the end is not lost; who waits is told.
    #[test]
    fn an_end_that_is_gone_gives_no_more_and_takes_none() {
        let (here, there) = handoff(1);
        assert_eq!(there.give(1), Ok(()));
        drop(there);
        assert_eq!(here.give(2), Err(2));
        assert_eq!((now(here.take()), now(here.take())), (Some(Some(1)), Some(None)));
    }
}
