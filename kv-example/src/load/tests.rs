//! The generator on virtual time, against targets that answer as told.

use super::*;
use std::cell::Cell;
use trimaran_runtime::sim::World;
use trimaran_runtime::{Driver, Flushed, Lane, Polled, sleep};

const MS: Duration = Duration::from_millis(1);

struct NoDevice;

impl Driver for NoDevice {
    fn poll(&mut self, _now: Instant, _budget: usize) -> Polled {
        Polled::default()
    }
    fn flush(&mut self, _now: Instant) -> Flushed {
        Flushed::default()
    }
    fn park(&mut self, _timeout: Option<Duration>, _wake: Option<std::os::fd::BorrowedFd<'_>>) {}
}

/// Takes `time` for each answer; from `stall.0` to `stall.1` it answers nobody.
#[derive(Clone)]
struct Fake {
    time: Duration,
    stall: (Instant, Instant),
    flying: Rc<Cell<usize>>,
    most_flying: Rc<Cell<usize>>,
}

impl Fake {
    fn new(time: Duration) -> Self {
        let (flying, most_flying) = Default::default();
        Fake { time, stall: (Instant::ZERO, Instant::ZERO), flying, most_flying }
    }
}

impl Target for Fake {
    async fn call(&self, _ask: Ask, _body: &[u8], deadline: Instant) -> Result<Answered, Failure> {
        self.flying.set(self.flying.get() + 1);
        self.most_flying.set(self.most_flying.get().max(self.flying.get()));
        let ready = now() + self.time;
        let ready = if (self.stall.0..self.stall.1).contains(&ready) { self.stall.1 } else { ready };
        sleep_until(ready.min(deadline)).await;
        self.flying.set(self.flying.get() - 1);
        if ready <= deadline { Ok(Answered { status: Status::Ok, body: Vec::new() }) } else { Err(Failure::Unknown) }
    }
}

#[derive(Default)]
struct Count {
    begun: u64,
    ended: u64,
    enough: Option<u64>,
}

impl Workload for Count {
    type Call = ();
    fn begin(&mut self, _body: &mut Vec<u8>, _at: Instant) -> (Ask, ()) {
        self.begun += 1;
        (Ask { method: 1, policy: Policy::ReplicatedRoute, key: None }, ())
    }
    fn end(&mut self, _call: (), result: &Result<Answered, Failure>, _at: Instant) -> bool {
        self.ended += 1;
        result.is_ok()
    }
    fn goes_on(&self) -> bool {
        self.enough.is_none_or(|enough| self.ended < enough)
    }
}

/// Runs to the end of the plan; returns what was measured and how many calls were made.
fn drive(target: Fake, pace: Pace, warmup: Duration, measure: Duration, deadline: Duration) -> (Measured, u64) {
    drive_until(target, pace, (warmup, measure, deadline), Count::default(), u64::MAX)
}

fn drive_until(
    target: Fake,
    pace: Pace,
    (warmup, measure, deadline): (Duration, Duration, Duration),
    count: Count,
    calls_max: u64,
) -> (Measured, u64) {
    let mut world = World::new(1);
    let core = world.add_core("client", NoDevice);
    let measured = Rc::new(RefCell::new(Measured::default()));
    let workload = Rc::new(RefCell::new(count));
    let done = Rc::new(Cell::new(false));
    let (shared, asked, ended) = (measured.clone(), workload.clone(), done.clone());
    let task = world.spawn(core, Lane::Normal, async move {
        let plan = Plan { pace, start: now() + 5 * MS, warmup, measure, deadline, calls_max };
        run(target, asked, plan, shared).await.expect("no panic");
        ended.set(true);
    });
    assert!(world.run_while(|_| !done.get(), Duration::from_secs(60)) || done.get(), "the run ends");
    drop(task);
    let Count { begun, ended, .. } = *workload.borrow();
    assert_eq!(begun, ended);
    (measured.take(), begun)
}

#[test]
fn a_closed_loop_keeps_so_many_on_their_way_and_no_more() {
    let target = Fake::new(MS);
    let (measured, _) = drive(target.clone(), Pace::Closed { outstanding: 7 }, 10 * MS, 100 * MS, 50 * MS);
    assert_eq!(target.most_flying.get(), 7);
    assert_eq!(target.flying.get(), 0, "every call has ended");
    assert!((680..=707).contains(&measured.answered()), "{}", measured.answered());
    let p = measured.percentiles().expect("answers");
    assert!(p.p50 >= 1_000_000 && p.max < 1_100_000, "{p:?}");
}

#[test]
fn warm_up_calls_are_made_and_not_measured() {
    let (measured, made) = drive(Fake::new(MS), Pace::Open { per_second: 1000 }, 40 * MS, 60 * MS, 50 * MS);
    // The call due at 39 ms ends after the warm-up.
    assert_eq!((measured.answered(), made), (61, 100));
}

#[test]
fn an_open_loop_measures_from_when_a_call_was_due() {
    // 1000 calls a second for 200 ms; for 50 ms nobody is answered, so the calls due then wait 50 ms to 1 ms.
    let ms = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
    let mut stalling = Fake::new(MS / 10);
    stalling.stall = (ms(105), ms(155));
    let (measured, made) = drive(stalling, Pace::Open { per_second: 1000 }, Duration::ZERO, 200 * MS, 60 * MS);
    assert_eq!((measured.answered(), made), (200, 200));
    let p = measured.percentiles().expect("answers");
    assert!(p.p50 < 1_000_000, "three quarters were quick: {p:?}");
    assert!((24_000_000..=36_000_000).contains(&p.p90), "a tenth waited 30 ms or more: {p:?}");
    assert!((48_000_000..=51_000_000).contains(&p.max), "{p:?}");
}

#[test]
fn a_call_that_had_to_wait_for_a_slot_is_late_and_its_latency_says_so() {
    // 8192 slots of 14 ms each carry 585,000 a second; 2,000,000 are due.
    let target = Fake::new(14 * MS);
    let (measured, made) =
        drive(target.clone(), Pace::Open { per_second: 2_000_000 }, Duration::ZERO, 20 * MS, 15 * MS);
    assert_eq!(target.most_flying.get(), OPEN_LOOP_SLOTS);
    let p = measured.percentiles().expect("answers");
    assert!(p.p50 > 20_000_000 && p.max > 25_000_000, "though each call took 14 ms: {p:?}");
    assert_eq!((measured.answered(), measured.unsent()), (made, 40_000 - made), "none is forgotten");
    assert!((20_000..30_000).contains(&made), "after one more deadline the rest is left: {made}");
}

#[test]
fn calls_without_an_answer_are_counted_not_timed() {
    let (measured, made) = drive(Fake::new(10 * MS), Pace::Open { per_second: 1000 }, Duration::ZERO, 100 * MS, 5 * MS);
    assert_eq!((measured.answered(), measured.unknown(), made), (0, 100, 100));
    assert_eq!(measured.percentiles(), None);
}

#[test]
fn a_target_that_refuses_at_once_does_not_stop_the_clock() {
    let mut refusing = Fake::new(Duration::ZERO);
    refusing.stall = (Instant::ZERO, Instant::FAR);
    let (measured, made) = drive(refusing, Pace::Closed { outstanding: 2 }, Duration::ZERO, 10 * MS, Duration::ZERO);
    assert_eq!((measured.answered(), measured.unknown()), (0, made));
    assert!((10..=30).contains(&made), "{made}");
}

#[test]
fn a_load_waits_for_its_start() {
    let mut world = World::new(1);
    let core = world.add_core("client", NoDevice);
    let target = Fake::new(MS);
    let (measured, workload) = (Rc::default(), Rc::new(RefCell::new(Count::default())));
    let calls = workload.clone();
    let run = {
        let target = target.clone();
        async move {
            let plan = Plan {
                pace: Pace::Closed { outstanding: 3 },
                start: now() + 20 * MS,
                warmup: Duration::ZERO,
                measure: 10 * MS,
                deadline: MS * 5,
                calls_max: u64::MAX,
            };
            sleep(MS).await;
            let _ = run(target, workload, plan, measured).await;
        }
    };
    let _task = world.spawn(core, Lane::Normal, run);
    world.run_for(19 * MS);
    assert_eq!(calls.borrow().begun, 0);
    world.run_for(3 * MS);
    assert!(calls.borrow().begun >= 3);
}

#[test]
fn a_load_ends_early_when_the_workload_has_enough_or_the_plan_allows_no_more() {
    let times = (Duration::ZERO, 100 * MS, 50 * MS);
    for pace in [Pace::Open { per_second: 1000 }, Pace::Closed { outstanding: 2 }] {
        let enough = Count { enough: Some(20), ..Count::default() };
        let (measured, made) = drive_until(Fake::new(MS), pace, times, enough, u64::MAX);
        assert!((20..=22).contains(&made) && measured.answered() == made, "{pace:?}: {made}");
        assert_eq!(measured.unsent(), 0, "what was due later is not missed");
        let (measured, made) = drive_until(Fake::new(MS), pace, times, Count::default(), 30);
        assert_eq!((measured.answered(), made, measured.unsent()), (30, 30, 0), "{pace:?}");
    }
}
