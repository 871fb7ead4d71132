//! What happened on a simulated disk, and the states in which a loss of power at each moment could have left it.

use crate::sim::disk::SimDisk;
use crate::sim::disk::store::{Change, Choose, Store};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// An operation reached the device: at a loss of power from now on it may be done in part.
    Begin(u64, Change),
    /// It has completed, or failed.
    End(u64),
    /// The store has changed.
    Change(Change),
}

/// The recorded history of a disk; see [`SimDisk::record`].
#[derive(Debug, Clone)]
pub struct Trace {
    pub(super) start: Store,
    pub(super) steps: Vec<Step>,
}

impl Trace {
    /// Moments between which something has happened: from 0, where recording began, up to this one.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The disk as a loss of power after `step` steps may have left it, drawn by `seed`. Costs a replay.
    pub fn crash(&self, step: usize, seed: u64) -> SimDisk {
        let mut store = self.undecided(step);
        store.power_cut(&mut Pcg64Mcg::seed_from_u64(seed));
        SimDisk::with_store(seed, store)
    }

    /// All states in which a loss of power after `step` steps may have left the disk, at most `limit` of them. With w writes of
    /// b bytes in flight these are 2^(w b / 512): draw with [`Trace::crash`] where that is too many.
    pub fn crash_states(&self, step: usize, limit: usize) -> CrashStates {
        CrashStates { store: self.undecided(step), path: Some(Path::default()), left: limit }
    }

    /// The store after so many steps, with the operations that were in flight in its cache.
    fn undecided(&self, step: usize) -> Store {
        let mut store = self.start.clone();
        let mut in_flight = BTreeMap::new();
        for step in &self.steps[..step.min(self.steps.len())] {
            match step {
                Step::Begin(op, change) => drop(in_flight.insert(*op, change)),
                Step::End(op) => drop(in_flight.remove(op)),
                Step::Change(change) => store.apply(change),
            }
        }
        in_flight.into_values().for_each(|change| apply_in_flight(&mut store, change));
        store
    }
}

/// Puts into the cache what an operation that has not completed may have done.
pub(super) fn apply_in_flight(store: &mut Store, change: &Change) {
    if let Some(change) = change.in_flight()
        && store.check(&change).is_ok()
    {
        store.apply(&change);
    }
}

/// The states of a disk after a loss of power, one after the other; see [`Trace::crash_states`].
#[derive(Debug)]
pub struct CrashStates {
    store: Store,
    path: Option<Path>,
    left: usize,
}

impl CrashStates {
    /// No state is left out: the limit was not reached.
    pub fn is_complete(&self) -> bool {
        self.path.is_none()
    }
}

impl Iterator for CrashStates {
    type Item = SimDisk;

    fn next(&mut self) -> Option<SimDisk> {
        let path = self.path.as_mut().filter(|_| self.left > 0)?;
        self.left -= 1;
        let mut store = self.store.clone();
        store.power_cut(path);
        if !path.advance() {
            self.path = None;
        }
        Some(SimDisk::with_store(0, store))
    }
}

/// Walks all sequences of choices: repeats the last one up to its last choice that can be another, and takes the next there.
#[derive(Debug, Default)]
struct Path {
    /// What was chosen, of how many.
    choices: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, options)) = self.choices.last_mut() {
            *chosen += 1;
            if *chosen < *options {
                return true;
            }
            self.choices.pop();
        }
        false
    }
}

impl Choose for Path {
    fn choose(&mut self, options: usize) -> usize {
        if self.at == self.choices.len() {
            self.choices.push((0, options));
        }
        self.at += 1;
        self.choices[self.at - 1].0
    }
}
