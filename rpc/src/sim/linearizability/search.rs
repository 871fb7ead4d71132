//! The search for an order, for one object.
//!
//! Events (invocations and returns) are walked in the order of time. Nothing needs an order until an operation
//! returns that has not been given its place yet (Lowe's "just in time"): then it is placed, alone or after some of the
//! other operations in flight. What was decided before is given up only when no choice here leads to the end.
//! A [`Point`] that was reached once is not searched again. Five more rules keep the search small; none loses an order:
//!
//! * an operation that leaves the state alone is placed as soon as the state gives its answer: a place that costs
//!   nothing is as good as any later one;
//! * open operations that nobody has to place are dropped where they only read, and of two equal ones the earlier goes
//!   first;
//! * a point is not searched where the same one was with a part of its open operations still to be had: these need
//!   not be placed, so more of them left is never worse;
//! * a state is not left while an answer still needs it and no operation that remains can bring it back;
//! * nor is anything searched where an answer needs a state that nothing before its return can bring about.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::super::history::Stamp;
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
    let mut search = Search::new(model, calls, limit);
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
struct States<S> {
    ids: BTreeMap<S, u32>,
    list: Vec<S>,
}

impl<S: Clone + Ord> States<S> {
    fn id(&mut self, state: S) -> u32 {
        let next = self.list.len() as u32;
        *self.ids.entry(state).or_insert_with_key(|state| {
            self.list.push(state.clone());
            next
        })
    }
}

/// What is known of a call before the search.
struct Facts {
    /// Bit in [`Point::placed`], free again after the return; for an open call, in the set of open ones placed.
    bit: usize,
    open: bool,
    /// Indexes into the events; an open call returns after all of them.
    invoked: usize,
    returned: usize,
    effect: Effect<u32>,
    /// The state that its answer needs.
    requires: Option<u32>,
    /// The newest earlier open call that asks the same.
    twin: Option<usize>,
}

enum Event {
    Invoked(usize),
    Returned(Return),
}

/// A return, and what is in flight then.
struct Return {
    call: usize,
    /// Returned calls that may change the state, by time of return, without `call`.
    writes: Vec<usize>,
    /// Returned calls that do not, likewise.
    reads: Vec<usize>,
    /// Open calls invoked so far: a prefix of [`Search::open`].
    open: usize,
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
    /// One for each call.
    facts: Vec<Facts>,
    events: Vec<Event>,
    /// Open calls that may change the state, by invocation.
    open: Vec<usize>,
    /// For each state known before the search, the calls whose answers need it and those that bring it about; then
    /// the calls that may bring about any state. Latest return first.
    needed_by: BTreeMap<u32, Vec<usize>>,
    brought_by: BTreeMap<u32, Vec<usize>>,
    bring_any: Vec<usize>,
    /// Most calls in flight at once.
    width: usize,
    order: Vec<usize>,
    seen: BTreeMap<Point, SmallVec<[Bits; 1]>>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<'a, M>], limit: u64) -> Self {
        let mut states = States { ids: BTreeMap::new(), list: Vec::new() };
        states.id(model.initial());
        let mut search = Search {
            model,
            calls,
            limit,
            steps: 0,
            states,
            facts: Vec::with_capacity(calls.len()),
            events: Vec::with_capacity(2 * calls.len()),
            open: Vec::new(),
            needed_by: BTreeMap::new(),
            brought_by: BTreeMap::new(),
            bring_any: Vec::new(),
            width: 0,
            order: Vec::new(),
            seen: BTreeMap::new(),
        };
        for call in calls {
            search.learn(call);
        }
        search.lay_out();
        search
    }

    /// What the model says of a call.
    fn learn(&mut self, call: &Call<'_, M>) {
        let ret = call.returned.map(|(_, ret)| ret);
        let effect = match self.model.effect(call.op, ret) {
            Effect::Reads => Effect::Reads,
            Effect::Unknown => Effect::Unknown,
            Effect::Writes(state) => Effect::Writes(self.states.id(state)),
        };
        let requires = ret.and_then(|ret| self.model.requires(call.op, ret)).map(|state| self.states.id(state));
        self.facts.push(Facts {
            bit: 0,
            open: call.returned.is_none(),
            invoked: 0,
            returned: usize::MAX,
            effect,
            requires,
            twin: None,
        });
    }

    /// Events in the order of time, with what is in flight at each return.
    fn lay_out(&mut self) {
        let mut moments: Vec<(Stamp, usize)> = Vec::with_capacity(2 * self.calls.len());
        for (i, call) in self.calls.iter().enumerate() {
            moments.push((call.invoked, i));
            moments.extend(call.returned.map(|(at, _)| (at, i)));
        }
        moments.sort_unstable();
        let (mut flying, mut free): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut newest_open: BTreeMap<&M::Op, usize> = BTreeMap::new();
        for (at, i) in moments {
            let event = self.events.len();
            if at != self.calls[i].invoked {
                flying.retain(|&other| other != i);
                let reads = |&other: &usize| self.facts[other].effect == Effect::Reads;
                let (reads, writes) = flying.iter().copied().partition(reads);
                self.events.push(Event::Returned(Return { call: i, writes, reads, open: self.open.len() }));
                self.facts[i].returned = event;
                free.push(self.facts[i].bit);
                continue;
            }
            if self.facts[i].open {
                if self.facts[i].effect == Effect::Reads {
                    continue;
                }
                self.facts[i].twin = newest_open.insert(self.calls[i].op, i);
                self.facts[i].bit = self.open.len();
                self.open.push(i);
            } else {
                self.facts[i].bit = free.pop().unwrap_or(self.width);
                self.width = self.width.max(self.facts[i].bit + 1);
                let returned = |call: usize| self.calls[call].returned.map(|(at, _)| at);
                flying.insert(flying.partition_point(|&other| returned(other) < returned(i)), i);
            }
            self.facts[i].invoked = event;
            self.events.push(Event::Invoked(i));
        }
        let mut latest: Vec<usize> = (0..self.calls.len()).collect();
        latest.sort_by_key(|&i| std::cmp::Reverse(self.facts[i].returned));
        for i in latest {
            match self.facts[i].effect {
                Effect::Reads => {}
                Effect::Writes(state) => self.brought_by.entry(state).or_default().push(i),
                Effect::Unknown => self.bring_any.push(i),
            }
            if let Some(state) = self.facts[i].requires {
                self.needed_by.entry(state).or_default().push(i);
            }
        }
    }

    fn run(&mut self) -> Found {
        if self.some_answer_needs_what_never_was() {
            return Found::None;
        }
        let start = Point { event: 0, state: 0, placed: Bits::none(self.width) };
        let open = Bits::none(self.open.len());
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

    /// The last rule of the module's page.
    fn some_answer_needs_what_never_was(&self) -> bool {
        let in_time = |list: &[usize], reader: usize| {
            list.iter().any(|&i| i != reader && self.facts[i].invoked < self.facts[reader].returned)
        };
        let brought = |state: u32, reader: usize| {
            state == 0
                || self.brought_by.get(&state).is_some_and(|list| in_time(list, reader))
                || in_time(&self.bring_any, reader)
        };
        self.needed_by.iter().any(|(&state, readers)| readers.iter().any(|&reader| !brought(state, reader)))
    }

    fn at_return(&self, event: usize) -> &Return {
        match &self.events[event] {
            Event::Returned(at) => at,
            Event::Invoked(_) => unreachable!("frames stand before returns only"),
        }
    }

    fn last_choice(&self, event: usize) -> usize {
        let at = self.at_return(event);
        2 * (at.writes.len() + at.open)
    }

    /// The call that a choice stands for, where it makes sense: first the one that returns, then those that bring about
    /// the state its answer needs, then all others. Soonest to return first, because these need a place soonest.
    fn candidate(&self, frame: &Frame, choice: usize) -> Option<usize> {
        let at = self.at_return(frame.point.event);
        let Some(helper) = choice.checked_sub(1) else { return Some(at.call) };
        let helpers = at.writes.len() + at.open;
        let needed = self.facts[at.call].requires;
        if helper >= 2 * helpers {
            return None;
        }
        let place = helper % helpers;
        let call = *at.writes.get(place).unwrap_or_else(|| &self.open[place - at.writes.len()]);
        let facts = &self.facts[call];
        let direct = needed.is_some_and(|state| facts.effect == Effect::Writes(state));
        let taken = if facts.open { &frame.open } else { &frame.point.placed };
        let twin_waits = facts.twin.is_some_and(|twin| !frame.open.has(self.facts[twin].bit));
        (direct == (helper < helpers) && !taken.has(facts.bit) && !twin_waits).then_some(call)
    }

    /// The state after `call`, where its answer is right.
    fn fits(&mut self, call: usize, state: u32) -> Option<u32> {
        if self.facts[call].requires.is_some_and(|required| required != state) {
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
        let facts = &self.facts[call];
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
        let bit = self.facts[read].bit;
        if !point.placed.has(bit) && self.fits(read, point.state).is_some() {
            point.placed.insert(bit);
            self.order.push(read);
        }
    }

    /// Whether an answer still needs `state` and nothing that remains brings it about.
    fn is_missed(&self, state: u32, point: &Point, open: &Bits) -> bool {
        let remains = |&call: &usize| {
            let facts = &self.facts[call];
            facts.invoked > point.event || !if facts.open { open } else { &point.placed }.has(facts.bit)
        };
        let any_remains =
            |list: &[usize]| list.iter().take_while(|&&call| self.facts[call].returned >= point.event).any(remains);
        self.needed_by.get(&state).is_some_and(|list| any_remains(list))
            && !any_remains(&self.bring_any)
            && !self.brought_by.get(&state).is_some_and(|list| any_remains(list))
    }

    /// Passes events until a call returns that has no place, and adds a frame there if that point is new. False at the
    /// end of the events.
    fn walk(&mut self, mut point: Point, open: Bits, frames: &mut Vec<Frame>) -> bool {
        loop {
            match self.events.get(point.event) {
                None => return false,
                Some(&Event::Invoked(call)) => {
                    let facts = &self.facts[call];
                    if facts.effect == Effect::Reads && !facts.open {
                        self.place_read(call, &mut point);
                    }
                }
                Some(Event::Returned(at)) => {
                    let bit = self.facts[at.call].bit;
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
            seen.retain(|more| !open.within(more));
            seen.push(open.clone());
            frames.push(Frame { point, open, ordered: self.order.len(), choice: 0 });
        }
        true
    }
}
