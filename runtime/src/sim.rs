//! Many cores on one thread and in virtual time, for the simulator.
//!
//! The cores are the very same [`Core`]; the world only decides which of them makes its next turn and what time it is.
//! Everything that is undecided, the order of cores with events at the same time and the order of tasks in a run queue, is
//! drawn from the seed, so one seed gives one history and the trace hash tells whether it did.

pub mod disk;

use crate::clock::{Clock, Virtual};
use crate::core::{Core, CoreConfig, Turn};
use crate::driver::Driver;
use crate::idle::Idle;
use crate::stats::Stats;
use crate::task::{ControlPanic, Lane, Task, spawn_in};
use crate::time::Instant;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a turn takes in virtual time, unless the world is told otherwise.
const TURN: Duration = Duration::from_nanos(500);
/// A device that has left packets untaken is tried again after so long.
const RETRY: Duration = Duration::from_micros(10);

/// Names one core of a [`World`], for ever: a core that is killed and revived keeps its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreIndex(pub usize);

/// Simulated machines of one core each.
pub struct World<D: Driver> {
    seed: u64,
    rng: Pcg64Mcg,
    time: Rc<Cell<Instant>>,
    machines: Vec<Machine<D>>,
    turn_takes: Duration,
    trace: u64,
    steps: u64,
    packets: u64,
    last_core: CoreIndex,
}

struct Machine<D: Driver> {
    name: String,
    clock: Virtual,
    core: Option<Core<D, Virtual>>,
    /// How often it was started.
    life: u64,
    paused_until: Instant,
    /// Its last turn takes until then.
    busy_until: Instant,
    /// The device is full; try again then.
    retry_at: Option<Instant>,
}

impl<D: Driver> Machine<D> {
    /// When, in the world's time, this machine has something to do.
    fn next_event(&self, now: Instant) -> Option<Instant> {
        let core = self.core.as_ref()?;
        let at = if core.has_work() {
            now
        } else {
            let timer = core.next_deadline().map(|at| self.clock.world_time_of(at));
            [timer, core.driver().next_arrival(), core.next_completion(), self.retry_at].into_iter().flatten().min()?
        };
        Some(at.max(self.busy_until).max(self.paused_until).max(now))
    }
}

impl<D: Driver> World<D> {
    /// A world without machines, at [`Instant::ZERO`].
    pub fn new(seed: u64) -> Self {
        World {
            seed,
            rng: Pcg64Mcg::seed_from_u64(seed),
            time: Rc::new(Cell::new(Instant::ZERO)),
            machines: Vec::new(),
            turn_takes: TURN,
            trace: mix(0, seed),
            steps: 0,
            packets: 0,
            last_core: CoreIndex(0),
        }
    }

    /// Adds a running machine whose clock shows the world's time.
    pub fn add_core(&mut self, name: &str, driver: D) -> CoreIndex {
        let index = CoreIndex(self.machines.len());
        self.machines.push(Machine {
            name: name.to_owned(),
            clock: Virtual::new(self.time.clone()),
            core: None,
            life: 0,
            paused_until: Instant::ZERO,
            busy_until: Instant::ZERO,
            retry_at: None,
        });
        self.boot(index, driver);
        index
    }

    fn boot(&mut self, index: CoreIndex, mut driver: D) {
        let seed = mix(mix(self.seed, index.0 as u64), self.machines[index.0].life);
        let machine = &mut self.machines[index.0];
        let config = CoreConfig {
            name: machine.name.clone(),
            core_id: index.0 as u16,
            seed,
            permute: true,
            idle: Idle::Spin,
            control_panic: ControlPanic::Propagate,
            ..CoreConfig::default()
        };
        driver.start();
        machine.core = Some(Core::new(config, machine.clock.clone(), driver));
        machine.life += 1;
        machine.paused_until = Instant::ZERO;
        machine.retry_at = None;
    }

    /// Runs `f` with a core current, so that it may spawn, sleep and tell the time.
    ///
    /// # Panics
    /// Where the core is not alive.
    #[track_caller]
    pub fn enter<R>(&mut self, core: CoreIndex, f: impl FnOnce() -> R) -> R {
        self.core(core).enter(f)
    }

    /// Starts a task on a core.
    ///
    /// # Panics
    /// Where the core is not alive.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&mut self, core: CoreIndex, lane: Lane, future: F) -> Task<F::Output> {
        self.core(core).enter(|| spawn_in(lane, "simulated", future))
    }

    /// The world's time, which is the time of the wire.
    pub fn now(&self) -> Instant {
        self.time.get()
    }

    /// A core's own time.
    pub fn now_at(&self, core: CoreIndex) -> Instant {
        self.machines[core.0].clock.now()
    }

    /// Jumps to the next event and runs one turn of one core. `false`: nothing will ever happen again by itself.
    pub fn step(&mut self) -> bool {
        self.step_by(Instant::FAR)
    }

    /// One step, if its time is not after `limit`.
    fn step_by(&mut self, limit: Instant) -> bool {
        let Some((core, at)) = self.next_event().filter(|&(_, at)| at <= limit && at != Instant::FAR) else {
            return false;
        };
        self.time.set(at);
        let machine = &mut self.machines[core.0];
        let Some(running) = machine.core.as_mut() else { return false };
        let turn = running.turn();
        machine.busy_until = at + self.turn_takes;
        machine.retry_at = (turn.left > 0).then(|| at + RETRY);
        self.last_core = core;
        self.steps += 1;
        self.packets += turn.packets as u64;
        self.record(core, at, &turn);
        true
    }

    /// The earliest event; among equals the seed decides.
    fn next_event(&mut self) -> Option<(CoreIndex, Instant)> {
        let now = self.time.get();
        let mut first: Option<(CoreIndex, Instant)> = None;
        let mut equals = 0u32;
        for (index, machine) in self.machines.iter().enumerate() {
            let Some(at) = machine.next_event(now) else { continue };
            match first {
                Some((_, earliest)) if at > earliest => {}
                Some((_, earliest)) if at == earliest => {
                    equals += 1;
                    if self.rng.random_range(0..=equals) == 0 {
                        first = Some((CoreIndex(index), at));
                    }
                }
                _ => {
                    equals = 0;
                    first = Some((CoreIndex(index), at));
                }
            }
        }
        first
    }

    fn record(&mut self, core: CoreIndex, at: Instant, turn: &Turn) {
        let counts = (turn.packets as u64) << 40 ^ (turn.sent as u64) << 20 ^ u64::from(turn.polls);
        self.trace = mix(mix(mix(self.trace, at.as_nanos()), core.0 as u64), counts ^ (turn.disk_ops as u64) << 52);
    }

    /// Runs until the world's time is `at`, including what happens at that instant.
    pub fn run_until(&mut self, at: Instant) {
        while self.step_by(at) {}
        self.time.set(self.time.get().max(at));
    }

    /// Runs for so long.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now() + duration);
    }

    /// Runs while `condition` holds, asked before each turn, for at most `limit`. True if it ceased to hold; false if the
    /// time is up or nothing will ever happen again.
    pub fn run_while(&mut self, mut condition: impl FnMut(&mut Self) -> bool, limit: Duration) -> bool {
        let until = self.now() + limit;
        while condition(self) {
            if !self.step_by(until) {
                self.time.set(until);
                return !condition(self);
            }
        }
        true
    }

    /// Drops a core's tasks and driver at once, as SIGKILL does. What it has sent stays on the wire. Does nothing to a
    /// core that is dead.
    pub fn kill(&mut self, core: CoreIndex) {
        self.machines[core.0].core = None;
    }

    /// Starts a core again, empty but for `driver`. Its clock has gone on. A core that is alive is killed first.
    pub fn revive(&mut self, core: CoreIndex, driver: D) {
        self.kill(core);
        self.boot(core, driver);
    }

    /// Whether the core runs or is paused.
    pub fn is_alive(&self, core: CoreIndex) -> bool {
        self.machines[core.0].core.is_some()
    }

    /// How often the core was started: 1 for one that was never killed.
    pub fn life(&self, core: CoreIndex) -> u64 {
        self.machines[core.0].life
    }

    /// Gives the core no turn until `until`, as SIGSTOP does: packets pile up at its driver, its clock goes on.
    pub fn pause(&mut self, core: CoreIndex, until: Instant) {
        self.machines[core.0].paused_until = until;
    }

    /// Lets the core's clock gain `ppm` microseconds a second on the world from now on; lose where negative.
    pub fn set_clock_rate(&mut self, core: CoreIndex, ppm: i32) {
        self.machines[core.0].clock.set_rate(ppm);
    }

    /// Moves the core's clock forward at once.
    pub fn jump_clock(&mut self, core: CoreIndex, by: Duration) {
        self.machines[core.0].clock.jump(by);
    }

    /// Sets what one turn takes in virtual time; 500 ns at first. With nothing at all, tasks that yield for ever would
    /// stop time, so at least a nanosecond.
    pub fn set_turn_time(&mut self, takes: Duration) {
        self.turn_takes = takes.max(Duration::from_nanos(1));
    }

    /// A core's driver.
    ///
    /// # Panics
    /// Where the core is not alive.
    #[track_caller]
    pub fn driver_mut(&mut self, core: CoreIndex) -> &mut D {
        self.core(core).driver_mut()
    }

    /// A core's counters, since it was last started. `None` where it is not alive.
    pub fn core_stats(&self, core: CoreIndex) -> Option<&Arc<Stats>> {
        self.machines[core.0].core.as_ref().map(Core::stats)
    }

    /// The name given to a core.
    pub fn name(&self, core: CoreIndex) -> &str {
        &self.machines[core.0].name
    }

    /// The world's generator. What is drawn here is part of the history.
    pub fn rng(&mut self) -> &mut Pcg64Mcg {
        &mut self.rng
    }

    /// A hash over every turn: its time, core, packets and polls. Equal for equal histories.
    pub fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// Turns made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Packets received by all cores.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The core of the last step.
    pub fn last_core(&self) -> CoreIndex {
        self.last_core
    }

    #[track_caller]
    fn core(&mut self, index: CoreIndex) -> &mut Core<D, Virtual> {
        let Machine { core, name, .. } = &mut self.machines[index.0];
        match core {
            Some(core) => core,
            None => panic!("{name} was killed and not revived"),
        }
    }
}

/// Folds a number into a hash; the multiplier is that of the SplitMix64 generator.
fn mix(hash: u64, number: u64) -> u64 {
    let mixed = (hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}
