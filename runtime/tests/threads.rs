//! Cores on threads: sleeping and waking, starting and ending. Everything is awaited or counted, nothing is timed.

mod support;

use std::cell::Cell;
use std::future::pending;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;
use support::files::Scratch;
use trimaran_runtime::disk::Engine;
use trimaran_runtime::{
    BLOCK_BYTES, CoreConfig, Disk, DiskConfig, Doorbell, Driver, Flushed, Idle, Instant, NoDevice, Op, Polled, Runtime,
    RuntimeError, Seat, run, sleep, spawn, start, yield_now,
};

/// No packets, but it sleeps as a real device does, and says so from inside of the sleep.
struct Sleeper {
    asleep: Option<Sender<()>>,
}

impl Driver for Sleeper {
    fn poll(&mut self, _: Instant, _: usize) -> Polled {
        Polled::default()
    }

    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        if let Some(asleep) = &self.asleep {
            let _ = asleep.send(());
        }
        let wake = wake.expect("a core that can sleep has an eventfd");
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut fds = [rustix::event::PollFd::new(&wake, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, timeout.as_ref()).unwrap();
    }
}

fn config(idle: Idle) -> CoreConfig {
    CoreConfig { name: "test".into(), idle, ..CoreConfig::default() }
}

/// A flag that a task awaits and any thread raises.
#[derive(Clone, Default)]
struct Flag(Arc<(AtomicBool, Mutex<Option<Waker>>)>);

impl Flag {
    fn raise(&self) {
        self.0.0.store(true, Ordering::Release);
        if let Some(waker) = self.0.1.lock().unwrap().take() {
            waker.wake();
        }
    }

    async fn raised(&self) {
        std::future::poll_fn(|cx| {
            *self.0.1.lock().unwrap() = Some(cx.waker().clone());
            if self.0.0.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[test]
fn a_sleeping_core_is_woken_by_another_thread_through_the_eventfd() {
    let (asleep, is_asleep) = mpsc::channel();
    let flag = Flag::default();
    let wait = flag.clone();
    let driver = move || Sleeper { asleep: Some(asleep) };
    let core = start(config(Idle::Park), driver, move || async move {
        for _ in 0..100 {
            wait.raised().await;
        }
        "woken"
    })
    .unwrap();
    for _ in 0..100 {
        // Each time it sleeps without a timer: nothing but the eventfd can end that.
        is_asleep.recv().unwrap();
        flag.raise();
    }
    let stats = core.stats().clone();
    assert_eq!(core.join().unwrap(), "woken");
    assert_eq!(stats.parks_ended_by_wake.get(), 100);
    assert_eq!(stats.foreign_wakes.get(), 100);
    assert!(stats.turns.get() < 300, "it spun: {} turns", stats.turns.get());
}

#[test]
fn wakes_that_race_with_falling_asleep_are_not_lost() {
    let rounds = 20_000;
    let flag = Flag::default();
    let wait = flag.clone();
    let answered = Arc::new(AtomicU64::new(0));
    let answer = answered.clone();
    let core = start(
        config(Idle::Park),
        || Sleeper { asleep: None },
        move || async move {
            for _ in 0..rounds {
                wait.raised().await;
                answer.fetch_add(1, Ordering::Release);
            }
        },
    )
    .unwrap();
    for round in 0..rounds {
        // The core is anywhere between its last answer and its sleep.
        (0..round % 50).for_each(|_| std::hint::spin_loop());
        flag.raise();
        while answered.load(Ordering::Acquire) <= round {
            thread::yield_now();
        }
    }
    core.join().unwrap();
}

#[test]
fn a_sleeping_core_is_woken_by_its_timer() {
    let stats = {
        let core = start(config(Idle::Park), || Sleeper { asleep: None }, || sleep(Duration::from_millis(3))).unwrap();
        let stats = core.stats().clone();
        core.join().unwrap();
        stats
    };
    assert_eq!(stats.timers_fired.get(), 1);
    assert!(stats.parks.get() >= 1);
    assert_eq!(stats.parks_ended_by_wake.get(), 0);
    assert!(stats.turns.get() < 20, "it spun: {} turns", stats.turns.get());
}

#[test]
fn a_hybrid_core_spins_and_yields_before_it_sleeps() {
    let (asleep, is_asleep) = mpsc::channel();
    let flag = Flag::default();
    let wait = flag.clone();
    let driver = move || Sleeper { asleep: Some(asleep) };
    let main = move || async move { wait.raised().await };
    let core = start(config(Idle::Hybrid { polls: 5, yields: 7 }), driver, main).unwrap();
    is_asleep.recv().unwrap();
    let stats = core.stats().clone();
    // Beside a busy program it stops yielding before its time.
    let yields = stats.yields.get();
    assert!((1..=7).contains(&yields), "{yields}");
    assert_eq!((stats.idle_turns.get(), stats.parks.get()), (5 + yields + 1, 1));
    flag.raise();
    core.join().unwrap();
}

#[test]
fn shutdown_wakes_a_sleeping_core_and_drops_its_futures_at_home() {
    struct Witness(Sender<ThreadId>);
    impl Drop for Witness {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }
    let (asleep, is_asleep) = mpsc::channel();
    let (dropped, drops) = mpsc::channel();
    let (home, homes) = mpsc::channel();
    let driver = move || Sleeper { asleep: Some(asleep) };
    let core = start(config(Idle::default()), driver, move || {
        home.send(thread::current().id()).unwrap();
        let (main, other) = (Witness(dropped.clone()), Witness(dropped));
        async move {
            let _main = main;
            spawn(async move {
                let _other = other;
                pending::<()>().await;
            })
            .detach();
            pending::<()>().await;
        }
    })
    .unwrap();
    is_asleep.recv().unwrap();
    core.shutdown();
    assert!(matches!(core.join(), Err(RuntimeError::Stopped)));
    let home = homes.recv().unwrap();
    assert_ne!(home, thread::current().id());
    assert_eq!(drops.iter().collect::<Vec<_>>(), [home, home]);
}

#[test]
fn run_stays_on_the_calling_thread_and_tells_how_main_ended() {
    let shared = Rc::new(Cell::new(0));
    let inside = shared.clone();
    let output = run(
        config(Idle::default()),
        || Sleeper { asleep: None },
        || async move {
            let other = inside.clone();
            let task = spawn(async move { other.set(other.get() + 1) });
            yield_now().await;
            task.await.unwrap();
            inside.get()
        },
    );
    assert_eq!(output.unwrap(), 1);
    // Neither tasks nor queues hold on to anything.
    assert_eq!(Rc::strong_count(&shared), 1);
    let output = run(config(Idle::default()), || Sleeper { asleep: None }, || async { panic!("on purpose") });
    assert!(matches!(output, Err(RuntimeError::MainPanicked(panicked)) if panicked.message() == "on purpose"));
}

#[test]
fn a_core_is_pinned_where_the_configuration_says_and_only_where_that_exists() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    let pinned = CoreConfig { cpu: Some(cpu), ..config(Idle::default()) };
    let set = start(pinned, || Sleeper { asleep: None }, || async { rustix::thread::sched_getaffinity(None).unwrap() });
    let set = set.unwrap().join().unwrap();
    assert!(set.is_set(cpu) && set.count() == 1);
    for cpu in [1023, 1_000_000] {
        let nowhere = CoreConfig { cpu: Some(cpu), ..config(Idle::default()) };
        let failed = start(nowhere, || Sleeper { asleep: None }, || async {});
        assert!(matches!(failed, Err(RuntimeError::Pin { cpu: told, .. }) if told == cpu));
    }
}

/// What a pinned core starts without a CPU would share that core's, as threads of Linux do, and is mostly there to relieve it.
#[test]
fn what_a_pinned_core_starts_may_run_where_that_core_could_before_it_was_pinned() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    if allowed.count() < 2 {
        println!("only one processor is allowed here: this shows nothing");
    }
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    let pinned = CoreConfig { cpu: Some(cpu), ..config(Idle::default()) };
    let affinity = || async { rustix::thread::sched_getaffinity(None).unwrap() };
    let beside = move || start(config(Idle::default()), || NoDevice, affinity).unwrap().join().unwrap();
    let main = move || async move {
        let free = beside();
        // Also where the one between the two is not pinned, or several belong together.
        let further = start(config(Idle::default()), || NoDevice, move || async move { beside() });
        let boot = move |_: Seat| Ok((NoDevice, move || async move { Ok::<_, String>(affinity().await) }));
        let several = Runtime::start(vec![Doorbell::new()], vec![(config(Idle::default()), boot)]);
        let several = several.unwrap().join().unwrap();
        // A disk's thread is there as long as the disk is, and ready once it has done something.
        let scratch = Scratch::new(&std::env::temp_dir());
        let config = DiskConfig { engine: Engine::Thread, ..DiskConfig::default() };
        let disk = Disk::open(scratch.path(), config).unwrap();
        disk.submit(Op::Create { name: "file".into(), bytes: BLOCK_BYTES as u64 }).unwrap();
        disk.completion().await.result.unwrap();
        [free, further.unwrap().join().unwrap(), several[0], affinity_of_thread("disk"), affinity().await]
    };
    let [free, further, several, disk, own] = start(pinned, || Sleeper { asleep: None }, main).unwrap().join().unwrap();
    assert_eq!(own.count(), 1);
    assert_eq!([free, further, several, disk], [allowed; 4]);
}

/// Of this process's thread of that name.
fn affinity_of_thread(name: &str) -> rustix::thread::CpuSet {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let task = tasks.into_iter().find(is_named).expect("such a thread");
    let id: i32 = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
    rustix::thread::sched_getaffinity(rustix::thread::Pid::from_raw(id)).unwrap()
}
