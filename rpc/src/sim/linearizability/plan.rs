//! What can be known of one object's operations before any search.
//!
//! Where only one operation brings a state about, all that need this state follow it closely: nothing that leaves the
//! state comes in between. That gives the operation a [`deadline`](Facts::deadline), and the group a zone in time that
//! may not cross other zones (Gibbons and Korach, "Testing shared memories", for registers whose values are all
//! different). Most broken histories fall here, however many operations are in flight.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::history::Stamp;
use super::search::{Call, States};
use super::{Effect, Model};

/// What is known of a call before the search. Moments are indexes into [`Plan::events`].
pub(super) struct Facts {
    /// Its place in a set of calls in flight, free again after the return; for an open call, its index in
    /// [`Plan::open`].
    pub(super) bit: usize,
    pub(super) open: bool,
    pub(super) invoked: usize,
    /// `usize::MAX` where open.
    pub(super) returned: usize,
    /// The return before which it has to be placed, its own or that of a call that needs what only it brings.
    pub(super) deadline: usize,
    pub(super) effect: Effect<u32>,
    /// The state that its answer needs.
    pub(super) requires: Option<u32>,
    /// The newest earlier open call that asks the same.
    pub(super) twin: Option<usize>,
}

pub(super) enum Event {
    Invoked(usize),
    Returned(Return),
}

/// A return, and what is in flight then, without the one that returns; nearest deadline first.
pub(super) struct Return {
    pub(super) call: usize,
    /// Calls that may change the state, but no open ones without a deadline.
    pub(super) writes: Vec<usize>,
    /// Calls that do not.
    pub(super) reads: Vec<usize>,
    /// Open calls invoked so far: a prefix of [`Plan::open`].
    pub(super) open: usize,
}

/// Everything that does not change during a search.
pub(super) struct Plan {
    /// One for each call.
    pub(super) facts: Vec<Facts>,
    pub(super) events: Vec<Event>,
    /// Open calls that may change the state, by invocation.
    pub(super) open: Vec<usize>,
    /// For each state known beforehand, the calls whose answers need it; latest return first, as the next two.
    pub(super) needed_by: BTreeMap<u32, Vec<usize>>,
    /// The calls that bring this state about, or may.
    pub(super) brought_by: BTreeMap<u32, Vec<usize>>,
    /// The calls that may bring about any state.
    pub(super) bring_any: Vec<usize>,
    /// Most returning calls in flight at once.
    pub(super) width: usize,
}

/// The state before all calls.
const INITIAL: u32 = 0;

impl Plan {
    /// Costs operations times operations in flight, in time and memory. `calls` are sorted by invocation; `states`
    /// holds the initial one.
    pub(super) fn new<M: Model>(model: &M, calls: &[Call<'_, M>], states: &mut States<M::State>) -> Self {
        let mut plan = Plan {
            facts: Vec::with_capacity(calls.len()),
            events: Vec::with_capacity(2 * calls.len()),
            open: Vec::new(),
            needed_by: BTreeMap::new(),
            brought_by: BTreeMap::new(),
            bring_any: Vec::new(),
            width: 0,
        };
        for call in calls {
            let ret = call.returned.map(|(_, ret)| ret);
            let effect = match model.effect(call.op, ret) {
                Effect::Reads => Effect::Reads,
                Effect::Unknown => Effect::Unknown,
                Effect::Writes(state) => Effect::Writes(states.id(state)),
                Effect::MayWrite(state) => Effect::MayWrite(states.id(state)),
            };
            plan.facts.push(Facts {
                bit: 0,
                open: ret.is_none(),
                invoked: 0,
                returned: usize::MAX,
                deadline: usize::MAX,
                effect,
                requires: ret.and_then(|ret| model.requires(call.op, ret)).map(|state| states.id(state)),
                twin: None,
            });
        }
        plan.lay_out(calls);
        plan.relate();
        plan.set_deadlines();
        plan.list_flying();
        plan
    }

    /// Events in the order of time.
    fn lay_out<M: Model>(&mut self, calls: &[Call<'_, M>]) {
        let mut moments: Vec<(Stamp, usize)> = Vec::with_capacity(2 * calls.len());
        for (i, call) in calls.iter().enumerate() {
            moments.push((call.invoked, i));
            moments.extend(call.returned.map(|(at, _)| (at, i)));
        }
        moments.sort_unstable();
        let mut free = Vec::new();
        let mut newest_open: BTreeMap<&M::Op, usize> = BTreeMap::new();
        for (at, i) in moments {
            let (event, facts) = (self.events.len(), &mut self.facts[i]);
            if at != calls[i].invoked {
                facts.returned = event;
                free.push(facts.bit);
                let (writes, reads) = (Vec::new(), Vec::new());
                self.events.push(Event::Returned(Return { call: i, writes, reads, open: self.open.len() }));
                continue;
            }
            if !facts.open {
                facts.bit = free.pop().unwrap_or(self.width);
                self.width = self.width.max(facts.bit + 1);
            } else if facts.effect == Effect::Reads {
                continue;
            } else {
                facts.twin = newest_open.insert(calls[i].op, i);
                facts.bit = self.open.len();
                self.open.push(i);
            }
            facts.invoked = event;
            self.events.push(Event::Invoked(i));
        }
    }

    /// Who needs and who brings about which state.
    fn relate(&mut self) {
        let mut latest: Vec<usize> = (0..self.facts.len()).collect();
        latest.sort_by_key(|&i| Reverse(self.facts[i].returned));
        for i in latest {
            match self.facts[i].effect {
                Effect::Reads => {}
                Effect::Writes(state) | Effect::MayWrite(state) => self.brought_by.entry(state).or_default().push(i),
                Effect::Unknown => self.bring_any.push(i),
            }
            if let Some(state) = self.facts[i].requires {
                self.needed_by.entry(state).or_default().push(i);
            }
        }
    }

    /// The only call that brings `state` about.
    fn only_source(&self, state: u32) -> Option<usize> {
        match self.brought_by.get(&state).map(Vec::as_slice) {
            Some(&[only]) if state != INITIAL && self.bring_any.is_empty() => Some(only),
            _ => None,
        }
    }

    fn needing(&self, state: u32) -> impl Iterator<Item = &Facts> {
        self.needed_by.get(&state).into_iter().flatten().map(|&i| &self.facts[i])
    }

    fn set_deadlines(&mut self) {
        for i in 0..self.facts.len() {
            let mut deadline = self.facts[i].returned;
            if let Effect::Writes(state) | Effect::MayWrite(state) = self.facts[i].effect
                && self.only_source(state) == Some(i)
            {
                deadline = self.needing(state).map(|reader| reader.returned).fold(deadline, usize::min);
            }
            self.facts[i].deadline = deadline;
        }
    }

    /// Fills in what is in flight at each return.
    fn list_flying(&mut self) {
        let mut flying: Vec<usize> = Vec::new();
        for (now, event) in self.events.iter_mut().enumerate() {
            match event {
                &mut Event::Invoked(i) => {
                    let deadline = self.facts[i].deadline;
                    if deadline != usize::MAX {
                        flying.insert(flying.partition_point(|&other| self.facts[other].deadline < deadline), i);
                    }
                }
                Event::Returned(at) => {
                    // An open call whose deadline is over has its place already.
                    flying.retain(|&i| i != at.call && !(self.facts[i].open && self.facts[i].deadline < now));
                    let reads = |&i: &usize| self.facts[i].effect == Effect::Reads;
                    (at.reads, at.writes) = flying.iter().copied().partition(reads);
                }
            }
        }
    }

    /// The return that is this event.
    pub(super) fn at_return(&self, event: usize) -> &Return {
        match &self.events[event] {
            Event::Returned(at) => at,
            Event::Invoked(_) => unreachable!("calls are placed before returns only"),
        }
    }

    /// What may come next before a return: the call that returns, then the others in flight that may help it, nearest
    /// deadline first. `None` after the last.
    pub(super) fn choice(&self, event: usize, choice: usize) -> Option<usize> {
        let at = self.at_return(event);
        let Some(helper) = choice.checked_sub(1) else { return Some(at.call) };
        let without_deadline = || self.open[..at.open].get(helper - at.writes.len());
        at.writes.get(helper).or_else(without_deadline).copied()
    }

    /// Whether there is certainly no order. False proves nothing.
    pub(super) fn is_absurd(&self) -> bool {
        self.some_answer_comes_from_nowhere() || self.some_zones_cross()
    }

    /// An answer needs a state that nothing before its return can bring about.
    fn some_answer_comes_from_nowhere(&self) -> bool {
        let in_time =
            |list: &[usize], reader: usize| list.iter().any(|&i| self.facts[i].invoked < self.facts[reader].returned);
        let brought = |state: u32, reader: usize| {
            state == INITIAL
                || self.brought_by.get(&state).is_some_and(|list| in_time(list, reader))
                || in_time(&self.bring_any, reader)
        };
        self.needed_by.iter().any(|(&state, readers)| readers.iter().any(|&reader| !brought(state, reader)))
    }

    /// A zone goes from the first return of a group to its last invocation. One in which these come in this order is
    /// closed: the group's state holds all that time. No other group's returns and invocations can lie around a moment
    /// of it on both sides, or in it with all its calls.
    fn some_zones_cross(&self) -> bool {
        let (mut closed, mut points) = (Vec::new(), Vec::new());
        let mut add = |first_return: usize, last_invocation: usize| {
            let list = if first_return < last_invocation { &mut closed } else { &mut points };
            list.push((first_return, last_invocation));
        };
        for facts in &self.facts {
            let Effect::Writes(state) = facts.effect else { continue };
            let unique = self.only_source(state).is_some();
            let readers = self.needing(state).filter(|_| unique);
            let last_invocation = readers.map(|reader| reader.invoked).fold(facts.invoked, usize::max);
            if facts.deadline != usize::MAX {
                add(facts.deadline, last_invocation);
            }
        }
        if !self.brought_by.contains_key(&INITIAL) && self.bring_any.is_empty() {
            add(0, self.needing(INITIAL).map(|reader| reader.invoked).fold(0, usize::max));
        }
        closed.sort_unstable();
        closed.windows(2).any(|pair| pair[1].0 < pair[0].1)
            || points.iter().any(|&(first_return, last_invocation)| {
                let before = closed.partition_point(|zone| zone.0 < last_invocation);
                before > 0 && first_return < closed[before - 1].1
            })
    }
}
