//! The search for an order, for one object.
//!
//! Events (invocations and returns) are walked in the order of time. Nothing needs an order until an operation
//! returns that has not been given its place yet (Lowe's "just in time"): then it is placed, alone or after some of the
//! other operations in flight. What was decided before is given up only when no choice here leads to the end.
//! A [`Point`] that was reached once is not searched again. Four more rules keep the search small; none loses an order:
//!
//! * an operation that leaves the state alone is placed as soon as the state gives its answer: a place that costs
//!   nothing is as good as any later one;
//! * open operations that only read are dropped, and of two equal ones the earlier goes first;
//! * a point is not searched where the same one was with a part of its open operations still to be had: these need
//!   not be placed, so more of them left is never worse;
//! * a state that an answer still needs is not left where no operation that remains can bring it back.
//!
//! Which operation to try first is the other half: see [`Plan::choice`] and [`Frame::rank`].

use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};

use smallvec::SmallVec;

use super::super::history::Stamp;
use super::plan::{Event, Facts, Plan};
use super::{Effect, Model};

/// An operation as the search sees it.
pub(super) struct Call<'a, M: Model> {
    pub(super) op: &'a M::Op,
    pub(super) invoked: Stamp,
    /// `None` is open.
    pub(super) returned: Option<(Stamp, &'a M::Ret)>,
}

impl<M: Model> Clone for Call<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Model> Copy for Call<'_, M> {}

/// How a search ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order of all returned and some open operations, as indexes into the calls.
    Order(Vec<usize>),
    /// There is no order.
    None,
    /// Nobody knows.
    OutOfSteps,
}

/// Searches `calls`, sorted by invocation, in at most `limit` steps; also says how many it took.
pub(super) fn search<M: Model>(model: &M, calls: &[Call<'_, M>], limit: u64) -> (Found, u64) {
    let mut states = States { ids: BTreeMap::new(), list: Vec::new() };
    states.id(model.initial());
    let plan = Plan::new(model, calls, &mut states);
    if plan.is_absurd() {
        return (Found::None, 0);
    }
    let (trail, frames, seen) = (Vec::new(), BinaryHeap::new(), BTreeMap::new());
    let mut search = Search { model, calls, limit, steps: 0, states, plan, trail, frames, made: 0, seen };
    let found = search.run();
    (found, search.steps)
}

/// A set of small numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bits(SmallVec<[u64; 2]>);

impl Bits {
    fn none(of: usize) -> Self {
        Bits(SmallVec::from_elem(0, of.div_ceil(64)))
    }

    fn has(&self, bit: usize) -> bool {
        self.0[bit / 64] & (1 << (bit % 64)) != 0
    }

    fn insert(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn remove(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }

    fn within(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| mine & !theirs == 0)
    }
}

/// A number for each distinct state met.
pub(super) struct States<S> {
    ids: BTreeMap<S, u32>,
    list: Vec<S>,
}

impl<S: Clone + Ord> States<S> {
    pub(super) fn id(&mut self, state: S) -> u32 {
        let next = self.list.len() as u32;
        *self.ids.entry(state).or_insert_with_key(|state| {
            self.list.push(state.clone());
            next
        })
    }
}

/// Where a search stands: all that what follows depends on, but for the open calls placed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// The event not yet passed. All that returned before it is placed.
    event: usize,
    state: u32,
    /// Which of the calls in flight are placed.
    placed: Bits,
}

/// A way from the start to a point.
#[derive(Clone)]
struct Way {
    point: Point,
    /// The open calls placed, as [`Plan::open`] numbers them.
    open: Bits,
    /// How many of these nothing made necessary so far: those without a deadline.
    spent: usize,
    /// The last step, in [`Search::trail`].
    last: Option<usize>,
}

impl Way {
    /// Whether a call in flight is placed.
    fn has(&self, facts: &Facts) -> bool {
        if facts.open { &self.open } else { &self.point.placed }.has(facts.bit)
    }
}

/// A call placed.
struct Step {
    call: usize,
    before: Option<usize>,
}

/// A way that ends before the return of a call without a place, and the next choice to try there.
struct Frame {
    way: Way,
    made: usize,
    choice: usize,
}

impl Frame {
    /// The greatest is worked on: the one farthest in time; of these the one that spent the fewest open calls, so that
    /// others that spent these and more are known for needless when they come up; of these the newest.
    fn rank(&self) -> (usize, Reverse<usize>, usize) {
        (self.way.point.event, Reverse(self.way.spent), self.made)
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Frame {}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Frame {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<'a, M>],
    limit: u64,
    steps: u64,
    states: States<M::State>,
    plan: Plan,
    /// All ways taken, a tree.
    trail: Vec<Step>,
    frames: BinaryHeap<Frame>,
    /// Frames made so far.
    made: usize,
    /// Points of all frames made, each with the open calls that were placed.
    seen: BTreeMap<Point, SmallVec<[Bits; 1]>>,
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self) -> Found {
        let point = Point { event: 0, state: 0, placed: Bits::none(self.plan.width) };
        let mut next = Some(Way { point, open: Bits::none(self.plan.open.len()), spent: 0, last: None });
        loop {
            if let Some(way) = next.take()
                && let Some(end) = self.walk(way)
            {
                return Found::Order(self.order(end.last));
            }
            let Some(mut frame) = self.frames.peek_mut() else { return Found::None };
            if self.steps == self.limit {
                return Found::OutOfSteps;
            }
            self.steps += 1;
            let Some(call) = self.plan.choice(frame.way.point.event, frame.choice) else {
                PeekMut::pop(frame);
                continue;
            };
            frame.choice += 1;
            let facts = &self.plan.facts[call];
            let twin_waits = facts.twin.is_some_and(|twin| !frame.way.open.has(self.plan.facts[twin].bit));
            if !twin_waits && !frame.way.has(facts) {
                let way = frame.way.clone();
                drop(frame);
                next = self.place(call, way);
            }
        }
    }

    fn order(&self, last: Option<usize>) -> Vec<usize> {
        let back = std::iter::successors(last, |&step| self.trail[step].before);
        let mut order: Vec<usize> = back.map(|step| self.trail[step].call).collect();
        order.reverse();
        order
    }

    fn note(&mut self, call: usize, way: &mut Way) {
        self.trail.push(Step { call, before: way.last });
        way.last = Some(self.trail.len() - 1);
    }

    /// The state after `call`, where its answer is right.
    fn fits(&mut self, call: usize, state: u32) -> Option<u32> {
        if self.plan.facts[call].requires.is_some_and(|required| required != state) {
            return None;
        }
        let (next, ret) = self.model.step(&self.states.list[state as usize], self.calls[call].op);
        match self.calls[call].returned {
            Some((_, known)) if *known != ret => None,
            _ => Some(self.states.id(next)),
        }
    }

    /// Places `call`, and the reads that its state answers. `None` where that cannot lead to an order.
    fn place(&mut self, call: usize, mut way: Way) -> Option<Way> {
        let next = self.fits(call, way.point.state)?;
        let left = std::mem::replace(&mut way.point.state, next);
        let facts = &self.plan.facts[call];
        if facts.open {
            way.open.insert(facts.bit);
            way.spent += usize::from(facts.deadline == usize::MAX);
        } else {
            way.point.placed.insert(facts.bit);
        }
        if left != next && self.is_missed(left, &way) {
            return None;
        }
        self.note(call, &mut way);
        for i in 0..self.plan.at_return(way.point.event).reads.len() {
            let read = self.plan.at_return(way.point.event).reads[i];
            self.place_read(read, &mut way);
        }
        Some(way)
    }

    fn place_read(&mut self, read: usize, way: &mut Way) {
        if !way.has(&self.plan.facts[read]) && self.fits(read, way.point.state).is_some() {
            way.point.placed.insert(self.plan.facts[read].bit);
            self.note(read, way);
        }
    }

    /// Whether an answer still needs `state` and nothing that remains brings it about.
    fn is_missed(&self, state: u32, way: &Way) -> bool {
        let remains = |facts: &Facts| facts.invoked > way.point.event || !way.has(facts);
        let any_remains = |list: &[usize]| {
            let facts = list.iter().map(|&call| &self.plan.facts[call]);
            facts.take_while(|facts| facts.returned >= way.point.event).any(remains)
        };
        self.plan.needed_by.get(&state).is_some_and(|list| any_remains(list))
            && !any_remains(&self.plan.bring_any)
            && !self.plan.brought_by.get(&state).is_some_and(|list| any_remains(list))
    }

    /// Passes events until a call returns that has no place, and adds a frame there if that point is new. Gives the way
    /// back where it meets no such call.
    fn walk(&mut self, mut way: Way) -> Option<Way> {
        loop {
            match self.plan.events.get(way.point.event) {
                None => return Some(way),
                Some(&Event::Invoked(call)) => {
                    let facts = &self.plan.facts[call];
                    if facts.effect == Effect::Reads && !facts.open {
                        self.place_read(call, &mut way);
                    }
                }
                Some(Event::Returned(at)) => {
                    if !way.has(&self.plan.facts[at.call]) {
                        break;
                    }
                    way.point.placed.remove(self.plan.facts[at.call].bit);
                }
            }
            way.point.event += 1;
        }
        let seen = self.seen.entry(way.point.clone()).or_default();
        if !seen.iter().any(|fewer| fewer.within(&way.open)) {
            seen.push(way.open.clone());
            self.made += 1;
            self.frames.push(Frame { way, made: self.made, choice: 0 });
        }
        None
    }
}
