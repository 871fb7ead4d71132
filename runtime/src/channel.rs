//! Ways for tasks of one core to hand things to each other. Bounded, and without atomics: none of it is `Send`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Places allocated at once for a queue; a larger one grows when it must.
const FIRST_PLACES: usize = 1024;

/// Tasks that wait, in order of arrival. Bounded by the core's live tasks.
#[derive(Debug, Default)]
struct Waiters {
    queue: VecDeque<(u64, Waker)>,
    next: u64,
}

impl Waiters {
    /// Waits under `ticket`, drawing one the first time. A ticket that was served already goes back to its old place.
    fn wait(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        let ticket = *ticket.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        match self.queue.binary_search_by_key(&ticket, |waiter| waiter.0) {
            Ok(at) => self.queue[at].1.clone_from(waker),
            Err(at) => self.queue.insert(at, (ticket, waker.clone())),
        }
    }

    /// Takes the one that has waited longest.
    fn serve(&mut self) -> Option<Waker> {
        self.queue.pop_front().map(|(_, waker)| waker)
    }

    fn is_waiting(&self, ticket: u64) -> bool {
        self.queue.binary_search_by_key(&ticket, |waiter| waiter.0).is_ok()
    }

    /// Gives up a ticket. True where it was being waited under, false where it was served before.
    fn leave(&mut self, ticket: u64) -> bool {
        match self.queue.binary_search_by_key(&ticket, |waiter| waiter.0) {
            Ok(at) => self.queue.remove(at).is_some(),
            Err(_) => false,
        }
    }
}

/// A queue of at most `capacity` items (at least one) from many senders to one receiver.
pub fn mpsc<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(1);
    let channel = Rc::new(RefCell::new(Channel {
        items: VecDeque::with_capacity(capacity.min(FIRST_PLACES)),
        capacity,
        senders: 1,
        receiver: None,
        receiver_alive: true,
        waiting: Waiters::default(),
    }));
    (Sender { channel: channel.clone() }, Receiver { channel })
}

#[derive(Debug)]
struct Channel<T> {
    items: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver: Option<Waker>,
    receiver_alive: bool,
    waiting: Waiters,
}

/// The item was not queued and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// As many items as the channel holds are waiting: the receiver is behind. Drop and count, or wait with `send`.
    #[error("the channel is full")]
    Full(T),
    /// The receiver is gone; no item will be received any more.
    #[error("the receiver is gone")]
    Closed(T),
}

/// The other end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the channel is gone")]
pub struct Closed;

/// The receiver is gone, and the item comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct SendError<T>(pub T);

/// The sending end of [`mpsc`]. The channel closes when the last clone is dropped.
#[derive(Debug)]
pub struct Sender<T> {
    channel: Rc<RefCell<Channel<T>>>,
}

impl<T> Sender<T> {
    /// Queues the item or gives it back.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut channel = self.channel.borrow_mut();
        if !channel.receiver_alive {
            return Err(TrySendError::Closed(item));
        }
        if channel.items.len() >= channel.capacity {
            return Err(TrySendError::Full(item));
        }
        channel.items.push_back(item);
        let receiver = channel.receiver.take();
        drop(channel);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Waits for room, in order of arrival, and queues the item. Dropped before its end, it has queued nothing.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut turn = SendTurn { channel: &self.channel, ticket: None };
        let mut item = Some(item);
        poll_fn(|cx| {
            let Some(taken) = item.take() else { return Poll::Ready(Ok(())) };
            match self.try_send(taken) {
                Ok(()) => {
                    turn.finish();
                    Poll::Ready(Ok(()))
                }
                Err(TrySendError::Closed(taken)) => Poll::Ready(Err(SendError(taken))),
                Err(TrySendError::Full(taken)) => {
                    item = Some(taken);
                    turn.wait(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether [`Sender::try_send`] would be refused for want of room.
    pub fn is_full(&self) -> bool {
        let channel = self.channel.borrow();
        channel.items.len() >= channel.capacity
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.channel.borrow().receiver_alive
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.borrow_mut().senders += 1;
        Sender { channel: self.channel.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut channel = self.channel.borrow_mut();
        channel.senders -= 1;
        let receiver = if channel.senders == 0 { channel.receiver.take() } else { None };
        drop(channel);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// One sender's place among those that wait for room.
struct SendTurn<'a, T> {
    channel: &'a RefCell<Channel<T>>,
    ticket: Option<u64>,
}

impl<T> SendTurn<'_, T> {
    fn wait(&mut self, cx: &mut Context<'_>) {
        self.channel.borrow_mut().waiting.wait(&mut self.ticket, cx.waker());
    }

    fn finish(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.channel.borrow_mut().waiting.leave(ticket);
        }
    }
}

impl<T> Drop for SendTurn<'_, T> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut channel = self.channel.borrow_mut();
        // Served but cancelled before it could send: the room is for the next one.
        let next = if channel.waiting.leave(ticket) { None } else { channel.waiting.serve() };
        drop(channel);
        if let Some(next) = next {
            next.wake();
        }
    }
}

/// The receiving end of [`mpsc`].
#[derive(Debug)]
pub struct Receiver<T> {
    channel: Rc<RefCell<Channel<T>>>,
}

impl<T> Receiver<T> {
    /// The next item; `None` when the channel is empty and every sender is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Takes an item that is already there.
    pub fn try_recv(&mut self) -> Option<T> {
        let mut channel = self.channel.borrow_mut();
        let item = channel.items.pop_front()?;
        let sender = channel.waiting.serve();
        drop(channel);
        if let Some(sender) = sender {
            sender.wake();
        }
        Some(item)
    }

    /// The poll form of [`Receiver::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.try_recv() {
            return Poll::Ready(Some(item));
        }
        let mut channel = self.channel.borrow_mut();
        if channel.senders == 0 {
            return Poll::Ready(None);
        }
        channel.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.channel.borrow().items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut channel = self.channel.borrow_mut();
        channel.receiver_alive = false;
        let items = std::mem::take(&mut channel.items);
        let waiting = std::mem::take(&mut channel.waiting.queue);
        drop(channel);
        for (_, sender) in waiting {
            sender.wake();
        }
        // Items run code of their own when dropped, so not within the borrow.
        drop(items);
    }
}

/// A channel for exactly one item.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { item: None, receiver: None, sender_alive: true, receiver_alive: true }));
    (OneshotSender { slot: slot.clone() }, OneshotReceiver { slot })
}

#[derive(Debug)]
struct Slot<T> {
    item: Option<T>,
    receiver: Option<Waker>,
    sender_alive: bool,
    receiver_alive: bool,
}

/// The sending end of [`oneshot`].
#[derive(Debug)]
pub struct OneshotSender<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> OneshotSender<T> {
    /// Gives the item to the receiver, or back where the receiver is gone.
    pub fn send(self, item: T) -> Result<(), T> {
        let mut slot = self.slot.borrow_mut();
        if !slot.receiver_alive {
            return Err(item);
        }
        slot.item = Some(item);
        // Dropping `self` wakes the receiver.
        Ok(())
    }

    /// Whether the receiver is gone, so that the work for it can be spared.
    pub fn is_closed(&self) -> bool {
        !self.slot.borrow().receiver_alive
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let mut slot = self.slot.borrow_mut();
        slot.sender_alive = false;
        let receiver = slot.receiver.take();
        drop(slot);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// The receiving end of [`oneshot`]: a future of the item, or [`Closed`] where the sender was dropped without one.
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct OneshotReceiver<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.borrow_mut();
        if let Some(item) = slot.item.take() {
            return Poll::Ready(Ok(item));
        }
        if !slot.sender_alive {
            return Poll::Ready(Err(Closed));
        }
        slot.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let mut slot = self.slot.borrow_mut();
        slot.receiver_alive = false;
        let item = slot.item.take();
        drop(slot);
        drop(item);
    }
}

/// Tells one task that something happened, over and over: as a [`Notify`] for a task that looks at several things at once and comes back
/// often. Its waker stays from one wait to the next, so that a wait that another thing ends costs nothing.
#[derive(Debug, Default)]
pub struct Signal {
    is_raised: Cell<bool>,
    is_awaited: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Not raised.
    pub fn new() -> Self {
        Signal::default()
    }

    /// Wakes the task that waits. Where none does, the next wait ends at once; raised twice before that is raised once.
    pub fn raise(&self) {
        self.is_raised.set(true);
        if self.is_awaited.take()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Ready, and lowered, where it was raised since this was last ready. Else the task is woken when it is; another that waits is forgotten.
    pub fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_raised.take() {
            return Poll::Ready(());
        }
        self.is_awaited.set(true);
        let waker = &mut *self.waker.borrow_mut();
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits as [`Signal::poll_raised`] does.
    pub async fn raised(&self) {
        poll_fn(|cx| self.poll_raised(cx)).await;
    }
}

/// Tells tasks that something happened. A notification with nobody waiting is kept, one at most, for the next who waits.
#[derive(Debug, Default)]
pub struct Notify {
    state: RefCell<NotifyState>,
}

#[derive(Debug, Default)]
struct NotifyState {
    permit: bool,
    waiting: Waiters,
}

impl Notify {
    /// Without a permit.
    pub fn new() -> Self {
        Notify::default()
    }

    /// Wakes the task that has waited longest, or keeps a permit for the next.
    pub fn notify(&self) {
        let mut state = self.state.borrow_mut();
        let waiter = state.waiting.serve();
        state.permit |= waiter.is_none();
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Waits for a notification, or takes the permit. Its place among the waiting counts from the first poll. Dropped
    /// after it was notified, it passes the notification on.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, ticket: None }
    }
}

/// See [`Notify::notified`].
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    ticket: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.notify.state.borrow_mut();
        let ready = match self.ticket {
            // No longer waiting means served.
            Some(ticket) => !state.waiting.is_waiting(ticket),
            None => std::mem::take(&mut state.permit),
        };
        if ready {
            drop(state);
            self.ticket = None;
            return Poll::Ready(());
        }
        let mut ticket = self.ticket;
        state.waiting.wait(&mut ticket, cx.waker());
        drop(state);
        self.ticket = ticket;
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket
            && !self.notify.state.borrow_mut().waiting.leave(ticket)
        {
            self.notify.notify();
        }
    }
}
