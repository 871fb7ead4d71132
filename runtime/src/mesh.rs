//! Between the cores of a process: a ring from each core to each other one, polled in the turn.
//!
//! ```text
//!   core 0: send(1, m) --> ring 0->1 --> drain          a bit for core 0 among core 1's flags (flags.rs),
//!           notify() ------ bit, bell ---> core 1       and a ring of core 1's bell, which ends its sleep (handshake.rs)
//! ```
//!
//! A ring has one writer and one reader, so neither locks anything. It is bounded: what does not fit is given back to whoever
//! sends, and counted. What is sent in one go, such as the packets of a burst, is announced once, by [`MeshEnd::notify`].
//!
//! What a core that has ended was sent is dropped with its end of the mesh, or by the sender when it notices (departure.rs): it waits
//! for nobody. What is sent later is given back.

use crate::departure::Departure;
use crate::flags::Flags;
use crate::idle::Bell;
use crate::local::Inbox;
use std::fmt;
use std::sync::Arc;

/// Most cores that a mesh can join: there are so many flags.
pub const MESH_CORES_MAX: usize = 64;

/// Ends the sleep of one core. Any thread may hold it, and make it before the core is started.
#[derive(Clone)]
pub struct Doorbell(pub(crate) Arc<Inbox>);

impl Doorbell {
    /// A bell for a core that is yet to start.
    pub fn new() -> Doorbell {
        Doorbell(Arc::new(Inbox::new(Bell::new(true))))
    }

    /// Wakes the core if it sleeps. Costs a few locked instructions where it does not.
    pub fn ring(&self) {
        self.0.bell.ring();
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Doorbell::new()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Doorbell").finish()
    }
}

/// A message that was given back: the ring to that core is full, or there is no such core, or it has ended, or it is the sender's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken<M>(pub M);

/// What one end of a mesh has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeshStats {
    /// Put into rings.
    pub sent: u64,
    /// Given back since a ring was full.
    pub full: u64,
    /// Taken out of rings.
    pub received: u64,
}

/// One core's end of a mesh. It may be sent to the core's thread, and then stays there.
pub struct MeshEnd<M> {
    core: usize,
    outlets: Vec<Option<Outlet<M>>>,
    inlets: Vec<Option<rtrb::Consumer<M>>>,
    /// Who has put something into the inlets.
    flags: Arc<Flags>,
    departure: Arc<Departure>,
    /// Who has been sent something and has not been told.
    untold: u64,
    stats: MeshStats,
}

/// What leads to one peer.
pub(crate) struct Outlet<M> {
    ring: rtrb::Producer<M>,
    flags: Arc<Flags>,
    departure: Arc<Departure>,
    bell: Doorbell,
}

/// A mesh between the cores that these bells wake: an end for each, in their order. Each ring holds `capacity` messages.
///
/// # Panics
/// With more than [`MESH_CORES_MAX`] bells.
pub fn mesh<M: Send>(bells: &[Doorbell], capacity: usize) -> Vec<MeshEnd<M>> {
    assert!(bells.len() <= MESH_CORES_MAX, "a mesh joins at most {MESH_CORES_MAX} cores");
    let mut ends: Vec<MeshEnd<M>> = (0..bells.len()).map(|core| MeshEnd::alone(core, bells.len())).collect();
    for from in 0..bells.len() {
        for to in (0..bells.len()).filter(|to| *to != from) {
            let (ring, inlet) = rtrb::RingBuffer::new(capacity);
            let (flags, departure) = (ends[to].flags.clone(), ends[to].departure.clone());
            ends[from].outlets[to] = Some(Outlet { ring, flags, departure, bell: bells[to].clone() });
            ends[to].inlets[from] = Some(inlet);
        }
    }
    ends
}

impl<M> MeshEnd<M> {
    fn alone(core: usize, cores: usize) -> MeshEnd<M> {
        MeshEnd {
            core,
            outlets: (0..cores).map(|_| None).collect(),
            inlets: (0..cores).map(|_| None).collect(),
            flags: Arc::new(Flags::new()),
            departure: Arc::new(Departure::new()),
            untold: 0,
            stats: MeshStats::default(),
        }
    }

    /// Whose end this is.
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores are joined.
    pub fn cores(&self) -> usize {
        self.inlets.len()
    }

    /// Puts a message into the ring to another core, which hears of it after [`MeshEnd::notify`]. Costs some nanoseconds. Taken is not
    /// delivered: a core that ends drops what it was sent.
    ///
    /// # Errors
    /// The message, where there is no room for it, or nobody to take it.
    pub fn send(&mut self, to: usize, message: M) -> Result<(), NotTaken<M>> {
        let Some(outlet) = self.outlets.get_mut(to).and_then(Option::as_mut) else { return Err(NotTaken(message)) };
        // The other core may be asleep, and must be told all the same of what is there already.
        self.untold |= 1 << to;
        if outlet.departure.is_announced() {
            return Err(NotTaken(message));
        }
        match outlet.ring.push(message) {
            Ok(()) => {
                self.stats.sent += 1;
                Ok(())
            }
            Err(rtrb::PushError::Full(message)) => {
                self.stats.full += 1;
                Err(NotTaken(message))
            }
        }
    }

    /// Tells every core that was sent something since the last call, and wakes those that sleep. Call it in the turn that sends. Drops
    /// what was sent to cores that have ended.
    pub fn notify(&mut self) {
        drop(self.announce());
    }

    /// As [`MeshEnd::notify`], but returns what leads to cores that have ended, and with it what is left in there, for the caller to
    /// drop: what that runs may want to send, too.
    #[must_use = "dropping it may run foreign code"]
    pub(crate) fn announce(&mut self) -> Vec<Outlet<M>> {
        let mut departed = Vec::new();
        let mut untold = std::mem::take(&mut self.untold);
        while untold != 0 {
            let to = untold.trailing_zeros() as usize;
            untold &= untold - 1;
            let Some(outlet) = &self.outlets[to] else { continue };
            outlet.flags.raise(self.core);
            outlet.bell.ring();
            // Not before the bell: its fence is what makes sure that either this look or the core's last one finds the message.
            if outlet.departure.is_announced() {
                departed.extend(self.outlets[to].take());
            }
        }
        departed
    }

    /// Whether a peer has announced something that has not been taken. Costs a plain load.
    pub fn has_news(&self) -> bool {
        self.flags.any()
    }

    /// Takes the messages of the peers that have announced some, at most `limit` of each, and tells from whom each is. Returns how
    /// many; what is left is taken by the next call. Costs a plain load where nobody has sent anything.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(usize, M)) -> usize {
        let mut news = self.flags.take();
        let mut taken = 0;
        while news != 0 {
            let from = news.trailing_zeros() as usize;
            news &= news - 1;
            let Some(inlet) = self.inlets.get_mut(from).and_then(Option::as_mut) else { continue };
            for _ in 0..limit {
                let Ok(message) = inlet.pop() else { break };
                taken += 1;
                take(from, message);
            }
            if !inlet.is_empty() {
                self.flags.raise(from);
            }
        }
        self.stats.received += taken as u64;
        taken
    }

    /// The counts so far.
    pub fn stats(&self) -> MeshStats {
        self.stats
    }
}

impl<M> Drop for MeshEnd<M> {
    /// A ring is dropped with the last of its two ends, and the sender may keep his for long: what waits in there, and whoever waits for
    /// it, must not.
    fn drop(&mut self) {
        self.departure.announce();
        for inlet in self.inlets.iter_mut().flatten() {
            // So many, and no more: who sends after this look sees for himself that nobody is there.
            for _ in 0..inlet.slots() {
                drop(inlet.pop());
            }
        }
    }
}

impl<M> fmt::Debug for MeshEnd<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshEnd").field("core", &self.core).field("stats", &self.stats).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Job;
    use crate::local::tests::local;
    use crate::run::spawn_on;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn three() -> [MeshEnd<u32>; 3] {
        let bells: Vec<_> = (0..3).map(|_| Doorbell::new()).collect();
        mesh(&bells, 4).try_into().expect("an end for each bell")
    }

    fn drained(end: &mut MeshEnd<u32>, limit: usize) -> Vec<(usize, u32)> {
        let mut taken = Vec::new();
        end.drain(limit, |from, message| taken.push((from, message)));
        taken
    }

    #[test]
    fn messages_arrive_in_order_once_they_are_announced() {
        let [mut a, mut b, mut c] = three();
        assert_eq!((a.send(1, 1), a.send(1, 2), a.send(2, 3), c.send(1, 4)), (Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!(drained(&mut b, 9), [], "nobody has said so yet");
        a.notify();
        c.notify();
        assert_eq!(drained(&mut b, 9), [(0, 1), (0, 2), (2, 4)]);
        assert_eq!(drained(&mut c, 9), [(0, 3)]);
        assert!(!b.has_news() && drained(&mut a, 9).is_empty());
    }

    #[test]
    fn a_full_ring_gives_back_and_counts() {
        let [mut a, mut b, _c] = three();
        (0..4).for_each(|number| assert_eq!(a.send(1, number), Ok(())));
        assert_eq!((a.send(1, 4), a.send(2, 5)), (Err(NotTaken(4)), Ok(())), "the others have rings of their own");
        assert_eq!((a.send(0, 6), a.send(3, 7)), (Err(NotTaken(6)), Err(NotTaken(7))), "itself, and nobody");
        assert_eq!(a.stats(), MeshStats { sent: 5, full: 1, received: 0 });
        a.notify();
        assert_eq!(drained(&mut b, 9).len(), 4);
        assert_eq!(a.send(1, 8), Ok(()));
    }

    #[test]
    fn what_a_limit_leaves_is_news_again() {
        let [mut a, mut b, mut c] = three();
        (0..3).for_each(|number| assert_eq!(a.send(1, number), Ok(())));
        assert_eq!(c.send(1, 9), Ok(()));
        a.notify();
        c.notify();
        assert_eq!(drained(&mut b, 2), [(0, 0), (0, 1), (2, 9)], "one peer's flood keeps no other waiting");
        assert!(b.has_news());
        assert_eq!(drained(&mut b, 2), [(0, 2)]);
        assert!(!b.has_news());
    }

    /// A sender that finds the ring full may have been the one to fill it, and not have said so.
    #[test]
    fn a_refused_message_announces_those_before_it() {
        let [mut a, mut b, _c] = three();
        for number in 0..5 {
            let _ = a.send(1, number);
        }
        a.notify();
        assert_eq!(drained(&mut b, 9).len(), 4);
    }

    /// Two ends, and something to send that tells whether it is still there.
    fn two() -> (MeshEnd<Arc<()>>, MeshEnd<Arc<()>>, Arc<()>) {
        let mut ends = mesh(&[Doorbell::new(), Doorbell::new()], 2);
        let (other, one) = (ends.pop(), ends.pop());
        (one.expect("two ends"), other.expect("two ends"), Arc::new(()))
    }

    #[test]
    fn what_an_ended_core_was_sent_is_dropped_while_the_sender_lives_on() {
        let (mut one, other, held) = two();
        assert!(one.send(1, held.clone()).is_ok());
        one.notify();
        assert!(one.send(1, held.clone()).is_ok(), "not announced yet");
        drop(other);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn an_ended_core_is_sent_nothing() {
        let (mut one, other, held) = two();
        drop(other);
        for _ in 0..2 {
            assert!(one.send(1, held.clone()).is_err());
            one.notify();
        }
        assert_eq!((Arc::strong_count(&held), one.stats()), (1, MeshStats::default()));
    }

    /// The sender had looked before the other core ended, and fills the ring after that one's last look.
    #[test]
    fn what_is_sent_past_the_last_look_of_a_core_is_dropped_by_the_sender() {
        let (mut one, other, held) = two();
        assert!(one.send(1, held.clone()).is_ok());
        drop(other);
        let outlet = one.outlets[1].as_mut().expect("a ring");
        outlet.ring.push(held.clone()).expect("room");
        assert_eq!(Arc::strong_count(&held), 2);
        one.notify();
        assert_eq!(Arc::strong_count(&held), 1);
    }

    /// One end lets go while the other is about to: whoever is the last takes the ring along.
    #[test]
    fn what_is_sent_to_a_core_about_to_let_go_is_dropped_when_it_has() {
        let (mut one, mut other, held) = two();
        other.departure.announce();
        one.outlets[1].as_mut().expect("a ring").ring.push(held.clone()).expect("room");
        one.untold = 1 << 1;
        one.notify();
        assert!(one.outlets[1].is_none());
        // As in the end of a drop, after the last look.
        other.inlets.clear();
        assert_eq!(Arc::strong_count(&held), 1);
    }

    /// What a closure holds may send something when it is dropped: the end that the sender has in hand must be free again by then.
    #[test]
    fn a_closure_that_the_sender_drops_may_send_in_its_end() {
        struct Sends(Arc<AtomicUsize>);
        impl Drop for Sends {
            fn drop(&mut self) {
                assert!(spawn_on(1, "farewell", || async {}).is_err());
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut ends = mesh::<Job>(&[Doorbell::new(), Doorbell::new()], 2);
        let (other, mut one) = (ends.pop(), ends.pop().expect("two ends"));
        drop(other);
        let dropped = Arc::new(AtomicUsize::new(0));
        let sends = Sends(dropped.clone());
        let outlet = one.outlets[1].as_mut().expect("a ring");
        assert!(outlet.ring.push(Box::new(move || drop(sends))).is_ok());
        let local = local();
        *local.jobs.borrow_mut() = Some(one);
        let _entered = local.enter();
        assert!(spawn_on(1, "guest", || async {}).is_err());
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}
