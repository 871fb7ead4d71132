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
//! Which operation to try first is the other half: see [`Search::candidate`].

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::super::history::Stamp;
use super::plan::{Event, Facts, Plan, Return};
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
    let (order, seen) = (Vec::new(), BTreeMap::new());
    let mut search = Search { model, calls, limit, steps: 0, states, plan, order, seen };
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

/// A point before the return of a call without a place, and the choices tried there.
struct Frame {
    point: Point,
    open: Bits,
    /// Length of the order there.
    ordered: usize,
    choice: usize,
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<'a, M>],
    limit: u64,
    steps: u64,
    states: States<M::State>,
    plan: Plan,
    order: Vec<usize>,
    /// Points searched or being searched, each with the open calls that were placed.
    seen: BTreeMap<Point, SmallVec<[Bits; 1]>>,
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self) -> Found {
        let start = Point { event: 0, state: 0, placed: Bits::none(self.plan.width) };
        let open = Bits::none(self.plan.open.len());
        let mut frames = Vec::new();
        if !self.walk(start, open, &mut frames) {
            return Found::Order(std::mem::take(&mut self.order));
        }
        while let Some(frame) = frames.last_mut() {
            if self.steps == self.limit {
                return Found::OutOfSteps;
            }
            self.steps += 1;
            let choice = frame.choice;
            frame.choice += 1;
            self.order.truncate(frame.ordered);
            let Some(call) = self.candidate(frame, choice) else {
                if choice > self.last_choice(frame.point.event) {
                    frames.pop();
                }
                continue;
            };
            let (mut point, mut open) = (frame.point.clone(), frame.open.clone());
            if self.place(call, &mut point, &mut open) && !self.walk(point, open, &mut frames) {
                return Found::Order(std::mem::take(&mut self.order));
            }
        }
        Found::None
    }

    fn at_return(&self, event: usize) -> &Return {
        match &self.plan.events[event] {
            Event::Returned(at) => at,
            Event::Invoked(_) => unreachable!("frames stand before returns only"),
        }
    }

    fn last_choice(&self, event: usize) -> usize {
        let at = self.at_return(event);
        2 * (at.writes.len() + at.open)
    }

    /// The call that a choice stands for, where it makes sense: first the one that returns, then those that bring about
    /// the state its answer needs, then all others, nearest deadline first.
    fn candidate(&self, frame: &Frame, choice: usize) -> Option<usize> {
        let at = self.at_return(frame.point.event);
        let Some(helper) = choice.checked_sub(1) else { return Some(at.call) };
        let helpers = at.writes.len() + at.open;
        let needed = self.plan.facts[at.call].requires;
        if helper >= 2 * helpers {
            return None;
        }
        let place = helper % helpers;
        let call = *at.writes.get(place).unwrap_or_else(|| &self.plan.open[place - at.writes.len()]);
        let facts = &self.plan.facts[call];
        let direct = needed.is_some_and(|state| facts.effect == Effect::Writes(state));
        let taken = if facts.open { &frame.open } else { &frame.point.placed };
        let twin_waits = facts.twin.is_some_and(|twin| !frame.open.has(self.plan.facts[twin].bit));
        (direct == (helper < helpers) && !taken.has(facts.bit) && !twin_waits).then_some(call)
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

    /// Places `call`, and the reads that its state answers. False where that cannot lead to an order.
    fn place(&mut self, call: usize, point: &mut Point, open: &mut Bits) -> bool {
        let Some(next) = self.fits(call, point.state) else { return false };
        let left = std::mem::replace(&mut point.state, next);
        let facts = &self.plan.facts[call];
        if facts.open { &mut *open } else { &mut point.placed }.insert(facts.bit);
        if left != next && self.is_missed(left, point, open) {
            return false;
        }
        self.order.push(call);
        for i in 0..self.at_return(point.event).reads.len() {
            let read = self.at_return(point.event).reads[i];
            self.place_read(read, point);
        }
        true
    }

    fn place_read(&mut self, read: usize, point: &mut Point) {
        let bit = self.plan.facts[read].bit;
        if !point.placed.has(bit) && self.fits(read, point.state).is_some() {
            point.placed.insert(bit);
            self.order.push(read);
        }
    }

    /// Those of `list`, latest return first, that have no place yet.
    fn remaining<'l>(
        &'l self,
        list: Option<&'l Vec<usize>>,
        point: &'l Point,
        open: &'l Bits,
    ) -> impl Iterator<Item = &'l Facts> {
        let facts = list.into_iter().flatten().map(|&call| &self.plan.facts[call]);
        facts.take_while(|facts| facts.returned >= point.event).filter(move |facts| {
            facts.invoked > point.event || !if facts.open { open } else { &point.placed }.has(facts.bit)
        })
    }

    /// Whether an answer still needs `state` and nothing that remains brings it about.
    fn is_missed(&self, state: u32, point: &Point, open: &Bits) -> bool {
        let any_remains = |list| self.remaining(list, point, open).next().is_some();
        any_remains(self.plan.needed_by.get(&state))
            && !any_remains(Some(&self.plan.bring_any))
            && !any_remains(self.plan.brought_by.get(&state))
    }

    /// Passes events until a call returns that has no place, and adds a frame there if that point is new. False at the
    /// end of the events.
    fn walk(&mut self, mut point: Point, open: Bits, frames: &mut Vec<Frame>) -> bool {
        loop {
            match self.plan.events.get(point.event) {
                None => return false,
                Some(&Event::Invoked(call)) => {
                    let facts = &self.plan.facts[call];
                    if facts.effect == Effect::Reads && !facts.open {
                        self.place_read(call, &mut point);
                    }
                }
                Some(Event::Returned(at)) => {
                    let bit = self.plan.facts[at.call].bit;
                    if !point.placed.has(bit) {
                        break;
                    }
                    point.placed.remove(bit);
                }
            }
            point.event += 1;
        }
        let seen = self.seen.entry(point.clone()).or_default();
        if !seen.iter().any(|fewer| fewer.within(&open)) {
            seen.push(open.clone());
            frames.push(Frame { point, open, ordered: self.order.len(), choice: 0 });
        }
        true
    }
}
