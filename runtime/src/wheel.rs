//! The timers of one core: a hierarchical wheel.
//!
//! ```text
//!   level 5  |  |  |  | ...  64 slots of 18 min each         a timer moves down a level when time reaches its slot,
//!     ...                                                     at most five times in its life
//!   level 1  |  |  |  | ...  64 slots of 65 us each
//!   level 0  |  |  |  | ...  64 slots of one tick (1.024 us): reached, the timer fires
//! ```
//!
//! A timer's level is the highest group of six bits in which its tick differs from the wheel's. Therefore every timer
//! of a level is due before every timer of the level above, slots behind the wheel's own are empty, and the earliest
//! timer is found by two bit scans. Timers live in a slab and in doubly linked lists of slab indices: inserting,
//! cancelling and re-arming are O(1), and none allocates once the slab has grown to the most timers ever pending.

use crate::time::Instant;
use std::task::Waker;

/// One tick is `1 << TICK_SHIFT` nanoseconds.
const TICK_SHIFT: u32 = 10;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
/// Timers beyond the top level (19.5 hours) wait in one more list, looked through when time reaches the next multiple
/// of the wheel's span.
const BEYOND: u16 = (LEVELS * SLOTS) as u16;
/// Not in any list: fired, or not armed yet.
const IDLE: u16 = BEYOND + 1;
const NONE: u32 = u32::MAX;
/// Timers of a slot looked at for the exact next deadline; with more in one slot, its first tick is the answer.
const EXACT_SCAN: usize = 16;

/// Names one timer. Stale keys (of a removed timer whose place was taken again) are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Timer {
    tick: u64,
    generation: u32,
    previous: u32,
    next: u32,
    /// `level * 64 + slot`, or [`BEYOND`], or [`IDLE`].
    place: u16,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// See the module. At most `u32::MAX - 1` timers; a core has as many as it has live `Sleep`s.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// All timers before this tick have fired or moved down.
    tick: u64,
    timers: Vec<Timer>,
    free: u32,
    pending: usize,
    /// A bit per level and per slot that has timers.
    levels: u8,
    slots: [u64; LEVELS],
    lists: [List; BEYOND as usize + 1],
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Wheel {
            tick: now.as_nanos() >> TICK_SHIFT,
            timers: Vec::new(),
            free: NONE,
            pending: 0,
            levels: 0,
            slots: [0; LEVELS],
            lists: [List { head: NONE, tail: NONE }; BEYOND as usize + 1],
        }
    }

    /// A timer, armed as by [`Wheel::arm`]. It holds its place until [`Wheel::remove`].
    pub(crate) fn add(&mut self, at: Instant, waker: Waker) -> TimerKey {
        let tick = tick_of_deadline(at);
        let index = self.free;
        let key = match self.timers.get_mut(index as usize) {
            Some(timer) => {
                self.free = timer.next;
                (timer.tick, timer.waker) = (tick, Some(waker));
                TimerKey { index, generation: timer.generation }
            }
            // No place is free.
            None => {
                let (index, waker) = (self.timers.len() as u32, Some(waker));
                self.timers.push(Timer { tick, generation: 0, previous: NONE, next: NONE, place: IDLE, waker });
                TimerKey { index, generation: 0 }
            }
        };
        if at != Instant::FAR {
            self.link(key.index);
        }
        key
    }

    /// Arms a timer, whether it is pending or not, to wake `waker` in the first [`Wheel::pop`] at or after `at`.
    /// [`Instant::FAR`] means never.
    pub(crate) fn arm(&mut self, key: TimerKey, at: Instant, waker: &Waker) {
        let Some(index) = self.find(key) else { return };
        self.unlink(index);
        let timer = &mut self.timers[index as usize];
        timer.tick = tick_of_deadline(at);
        match &mut timer.waker {
            Some(old) => old.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
        if at != Instant::FAR {
            self.link(index);
        }
    }

    /// Disarms a timer and frees its place. The waker comes back to be dropped outside of the caller's borrow.
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<Waker> {
        let index = self.find(key)?;
        self.unlink(index);
        let timer = &mut self.timers[index as usize];
        timer.generation = timer.generation.wrapping_add(1);
        timer.next = self.free;
        self.free = index;
        timer.waker.take()
    }

    /// Takes the waker of one timer due at `now`, earliest tick first; call until it returns `None`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Waker> {
        let until = now.as_nanos() >> TICK_SHIFT;
        loop {
            let Some((place, start)) = self.first().filter(|&(_, start)| start <= until) else {
                self.tick = self.tick.max(until);
                return None;
            };
            self.tick = self.tick.max(start);
            if (place as usize) < SLOTS {
                let index = self.lists[place as usize].head;
                self.unlink(index);
                if let Some(waker) = self.timers[index as usize].waker.take() {
                    return Some(waker);
                }
            } else {
                self.cascade(place);
            }
        }
    }

    /// When [`Wheel::pop`] must be called next: the deadline of the earliest timer rounded up to a tick, or the start of
    /// its slot where that slot holds many. `None`: no timer is pending.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (place, start) = self.first()?;
        if (place as usize) < SLOTS {
            return Some(instant_of_tick(start));
        }
        let mut earliest = u64::MAX;
        let mut index = self.lists[place as usize].head;
        for _ in 0..EXACT_SCAN {
            earliest = earliest.min(self.timers[index as usize].tick);
            index = self.timers[index as usize].next;
            if index == NONE {
                return Some(instant_of_tick(earliest));
            }
        }
        Some(instant_of_tick(start))
    }

    /// Armed timers that have not fired.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    fn find(&self, key: TimerKey) -> Option<u32> {
        let timer = self.timers.get(key.index as usize)?;
        (timer.generation == key.generation).then_some(key.index)
    }

    /// The first list with timers and the tick at which it is reached.
    fn first(&self) -> Option<(u16, u64)> {
        if self.levels == 0 {
            let span = SLOT_BITS * LEVELS as u32;
            let reached = (self.tick >> span).saturating_add(1) << span;
            return (self.lists[BEYOND as usize].head != NONE).then_some((BEYOND, reached));
        }
        let level = self.levels.trailing_zeros();
        let slot = self.slots[level as usize].trailing_zeros();
        let shift = level * SLOT_BITS;
        let above = self.tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some(((level * SLOTS as u32 + slot) as u16, above | u64::from(slot) << shift))
    }

    /// Time has reached a list of an upper level: its timers move down.
    fn cascade(&mut self, place: u16) {
        let mut index = self.lists[place as usize].head;
        let last = self.lists[place as usize].tail;
        while index != NONE {
            let next = self.timers[index as usize].next;
            self.unlink(index);
            self.link(index);
            if index == last {
                break;
            }
            index = next;
        }
    }

    fn link(&mut self, index: u32) {
        // A deadline in the past fires from the slot of the present.
        let tick = self.timers[index as usize].tick.max(self.tick);
        let difference = tick ^ self.tick;
        let level = (63 - (difference | 1).leading_zeros()) / SLOT_BITS;
        let place = if level as usize >= LEVELS {
            BEYOND
        } else {
            let slot = (tick >> (level * SLOT_BITS)) as u32 % SLOTS as u32;
            self.levels |= 1 << level;
            self.slots[level as usize] |= 1 << slot;
            (level * SLOTS as u32 + slot) as u16
        };
        let list = &mut self.lists[place as usize];
        let tail = list.tail;
        list.tail = index;
        if tail == NONE {
            list.head = index;
        } else {
            self.timers[tail as usize].next = index;
        }
        let timer = &mut self.timers[index as usize];
        timer.place = place;
        timer.previous = tail;
        timer.next = NONE;
        self.pending += 1;
    }

    fn unlink(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        let (place, previous, next) = (timer.place, timer.previous, timer.next);
        if place == IDLE {
            return;
        }
        timer.place = IDLE;
        self.pending -= 1;
        match previous {
            NONE => self.lists[place as usize].head = next,
            previous => self.timers[previous as usize].next = next,
        }
        match next {
            NONE => self.lists[place as usize].tail = previous,
            next => self.timers[next as usize].previous = previous,
        }
        if place != BEYOND && self.lists[place as usize].head == NONE {
            let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
            self.slots[level] &= !(1 << slot);
            if self.slots[level] == 0 {
                self.levels &= !(1 << level);
            }
        }
    }
}

/// Rounded up, so that no timer is early.
fn tick_of_deadline(at: Instant) -> u64 {
    at.as_nanos().div_ceil(1 << TICK_SHIFT)
}

fn instant_of_tick(tick: u64) -> Instant {
    Instant::from_nanos(tick.saturating_mul(1 << TICK_SHIFT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    struct Fired(AtomicU64);

    impl Wake for Fired {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A timer of the model: where its waker counts and when it is due.
    struct Subject {
        key: TimerKey,
        fired: Arc<Fired>,
        due: Option<u64>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        Rearm(usize, u64),
        Remove(usize),
        /// Move time on by so many nanoseconds.
        Pass(u64),
        /// Move time exactly to the next deadline.
        PassToNext,
    }

    /// Spans of every size, so that each level and the list beyond the wheel come up.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (0u32..56).prop_flat_map(|bits| 0..=(1u64 << bits)),
            1 => Just(0),
            1 => Just(u64::MAX),
            // A few timers in one far slot: more than are scanned for the exact deadline.
            2 => 5_000_000u64..5_060_000,
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => span().prop_map(Step::Add),
            3 => (any::<usize>(), span()).prop_map(|(which, span)| Step::Rearm(which, span)),
            2 => any::<usize>().prop_map(Step::Remove),
            3 => (0u32..48).prop_flat_map(|bits| 0..=(1u64 << bits)).prop_map(Step::Pass),
            3 => Just(Step::PassToNext),
        ]
    }

    /// Takes what is due and compares with the model: all of it, nothing else, in order of ticks.
    fn check(wheel: &mut Wheel, now: u64, subjects: &mut [Subject]) {
        let mut due: BTreeMap<u64, usize> = BTreeMap::new();
        for subject in subjects.iter_mut() {
            // Due at the end of the tick that holds the deadline.
            let Some(at) = subject.due.filter(|at| at.div_ceil(1 << TICK_SHIFT) <= now >> TICK_SHIFT) else { continue };
            assert!(at <= now);
            *due.entry(at).or_default() += 1;
        }
        let before: Vec<u64> = subjects.iter().map(|subject| subject.fired.0.load(Ordering::Relaxed)).collect();
        let mut last_tick = 0;
        while let Some(waker) = wheel.pop(Instant::from_nanos(now)) {
            waker.wake();
            let fired = subjects.iter_mut().zip(&before).find_map(|(subject, before)| {
                let more = subject.fired.0.load(Ordering::Relaxed) > *before;
                more.then(|| subject.due.take()).flatten()
            });
            let at = fired.expect("a timer fired that was not armed, or twice");
            assert!(at <= now, "early");
            assert!(at.div_ceil(1 << TICK_SHIFT) >= last_tick, "out of order");
            last_tick = at.div_ceil(1 << TICK_SHIFT);
            let count = due.get_mut(&at).expect("a timer fired that was not due");
            *count -= 1;
        }
        assert!(due.values().all(|&count| count == 0), "a due timer did not fire");
    }

    fn walk(start: u64, steps: Vec<Step>) {
        let mut now = start;
        let mut wheel = Wheel::new(Instant::from_nanos(now));
        let mut subjects: Vec<Subject> = Vec::new();
        for step in steps {
            match step {
                Step::Add(span) => {
                    let at = now.saturating_add(span);
                    let fired = Arc::new(Fired(AtomicU64::new(0)));
                    let key = wheel.add(Instant::from_nanos(at), Waker::from(fired.clone()));
                    subjects.push(Subject { key, fired, due: (at != u64::MAX).then_some(at) });
                }
                Step::Rearm(which, span) if !subjects.is_empty() => {
                    let which = which % subjects.len();
                    let at = now.saturating_add(span);
                    let subject = &mut subjects[which];
                    wheel.arm(subject.key, Instant::from_nanos(at), &Waker::from(subject.fired.clone()));
                    subject.due = (at != u64::MAX).then_some(at);
                }
                Step::Remove(which) if !subjects.is_empty() => {
                    let which = which % subjects.len();
                    let subject = subjects.swap_remove(which);
                    wheel.remove(subject.key);
                    assert!(wheel.remove(subject.key).is_none(), "a stale key reached a timer");
                }
                Step::Pass(span) => now = now.saturating_add(span).min(1 << 62),
                Step::PassToNext => {
                    if let Some(next) = wheel.next_deadline() {
                        now = now.max(next.as_nanos()).min(1 << 62);
                    }
                }
                Step::Rearm(..) | Step::Remove(_) => {}
            }
            let earliest = subjects.iter().filter_map(|subject| subject.due).min();
            let next = wheel.next_deadline().map(Instant::as_nanos);
            assert_eq!(next.is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (next, earliest) {
                assert!(next.max(now) <= earliest.max(now).next_multiple_of(1 << TICK_SHIFT), "would oversleep");
            }
            check(&mut wheel, now, &mut subjects);
            assert_eq!(wheel.pending(), subjects.iter().filter(|subject| subject.due.is_some()).count());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_sorted_map(start in 0u64..1 << 50, steps in prop::collection::vec(step(), 1..80)) {
            walk(start, steps);
        }
    }

    #[test]
    fn a_lone_deadline_is_told_exactly_at_every_level() {
        for bits in 0..45 {
            let mut wheel = Wheel::new(Instant::from_nanos(0));
            wheel.add(Instant::from_nanos((1 << TICK_SHIFT) * ((1 << bits) + 1)), Waker::noop().clone());
            let next = wheel.next_deadline().map(Instant::as_nanos);
            assert_eq!(next, Some((1 << TICK_SHIFT) * ((1 << bits) + 1)), "2^{bits} ticks");
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once() {
        let now = Instant::from_nanos(1 << 40);
        let mut wheel = Wheel::new(now);
        assert!(wheel.pop(now).is_none());
        for past in [1 << 39, (1 << 40) - (1 << TICK_SHIFT), 0] {
            wheel.add(Instant::from_nanos(past), Waker::noop().clone());
            // In the slot of the present: found without moving down level by level.
            assert_eq!(wheel.next_deadline(), Some(now));
            assert!(wheel.pop(now).is_some());
        }
    }

    #[test]
    fn places_are_used_again() {
        let mut wheel = Wheel::new(Instant::from_nanos(0));
        for round in 0..1000u64 {
            let key = wheel.add(Instant::from_nanos(round * 777), Waker::noop().clone());
            wheel.remove(key);
        }
        assert_eq!(wheel.timers.len(), 1);
    }
}
