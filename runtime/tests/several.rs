//! Several cores on threads of their own: started together, talking through rings, ended together. Everything is awaited, nothing
//! is timed.

use std::cell::RefCell;
use std::future::pending;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;
use trimaran_runtime::{
    CoreConfig, CoreFailure, Doorbell, Driver, Flushed, Idle, Instant, Lost, MeshEnd, Polled, Runtime, RuntimeError,
    Seat, core_number, mesh, spawn_on, yield_now,
};

/// No device; takes numbers out of the mesh as a driver takes packets, and sleeps as a real one does.
struct Sleeper {
    mesh: Option<MeshEnd<u64>>,
    taken: Sender<(usize, u64)>,
    asleep: Sender<usize>,
    core: usize,
}

impl Driver for Sleeper {
    fn poll(&mut self, _: Instant, budget: usize) -> Polled {
        let Some(mesh) = &mut self.mesh else { return Polled::default() };
        let packets = mesh.drain(budget, |from, number| _ = self.taken.send((from, number)));
        Polled { packets, more: false }
    }

    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let _ = self.asleep.send(self.core);
        let wake = wake.expect("a core that can sleep has an eventfd");
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut fds = [rustix::event::PollFd::new(&wake, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, timeout.as_ref()).unwrap();
    }
}

/// What the cores of a test tell.
struct Told {
    taken: Receiver<(usize, u64)>,
    asleep: Receiver<usize>,
}

type Main = std::pin::Pin<Box<dyn Future<Output = Result<usize, String>>>>;
type Boot = Box<dyn FnOnce(Seat) -> Result<(Sleeper, Box<dyn FnOnce() -> Main>), String> + Send>;

/// Cores that sleep as soon as they may, each with the main task that `main` makes on it.
fn cores<F>(count: usize, main: impl Fn(usize) -> F + Send + Clone + 'static) -> (Vec<(CoreConfig, Boot)>, Told)
where
    F: Future<Output = Result<usize, String>> + 'static,
{
    let (taken, all_taken) = mpsc::channel();
    let (asleep, all_asleep) = mpsc::channel();
    let cores = (0..count)
        .map(|core| {
            let (main, taken, asleep) = (main.clone(), taken.clone(), asleep.clone());
            let config = CoreConfig { name: format!("core {core}"), idle: Idle::Park, ..CoreConfig::default() };
            let boot: Boot = Box::new(move |seat| {
                assert_eq!((seat.core, seat.cores), (core, count));
                let main: Box<dyn FnOnce() -> Main> = Box::new(move || Box::pin(main(core)));
                Ok((Sleeper { mesh: None, taken, asleep, core }, main))
            });
            (config, boot)
        })
        .collect();
    (cores, Told { taken: all_taken, asleep: all_asleep })
}

fn bells(count: usize) -> Vec<Doorbell> {
    (0..count).map(|_| Doorbell::new()).collect()
}

#[test]
fn each_core_has_its_thread_name_and_number_and_its_output_is_returned_in_order() {
    let main = |core| async move {
        assert_eq!(thread::current().name(), Some(format!("core {core}").as_str()));
        Ok(core_number() * 10)
    };
    let (cores, _told) = cores(3, main);
    let runtime = Runtime::start(bells(3), cores).unwrap();
    assert!(runtime.stats(2).is_some() && runtime.stats(3).is_none());
    assert_eq!(runtime.join().unwrap(), [0, 10, 20]);
}

#[test]
fn a_future_is_built_on_the_core_that_it_is_sent_to() {
    let (done, is_done) = mpsc::channel();
    let main = move |core| {
        let done = done.clone();
        async move {
            for to in [0, 1, 2] {
                let abroad = spawn_on(to, "guest", move || {
                    // Neither the future nor what it holds is Send.
                    let here = Rc::new(core_number());
                    async move {
                        yield_now().await;
                        assert_eq!(thread::current().name(), Some(format!("core {to}").as_str()));
                        *here
                    }
                });
                let Ok(abroad) = abroad else { return Err("no room".to_owned()) };
                let _ = done.send((core, to, abroad.await));
            }
            pending().await
        }
    };
    let (cores, _told) = cores(3, main);
    let runtime = Runtime::start(bells(3), cores).unwrap();
    for _ in 0..9 {
        let (from, to, output) = is_done.recv().unwrap();
        assert_eq!(output, Ok(to), "from {from}");
    }
    runtime.shutdown().unwrap();
}

#[test]
fn outputs_come_back_from_sleeping_cores() {
    let (done, is_done) = mpsc::channel();
    let main = move |core| {
        let done = done.clone();
        async move {
            if core == 0 {
                for round in 0..200u64 {
                    let abroad = spawn_on(1, "guest", move || async move { round + 1 });
                    let Ok(abroad) = abroad else { return Err("no room".to_owned()) };
                    assert_eq!(abroad.await, Ok(round + 1));
                }
                let _ = done.send(());
            }
            pending().await
        }
    };
    let (cores, told) = cores(2, main);
    let runtime = Runtime::start(bells(2), cores).unwrap();
    is_done.recv().unwrap();
    // Core 1 sleeps between the rounds, and nothing but the bell ends that.
    assert!(told.asleep.try_iter().filter(|core| *core == 1).count() > 1);
    runtime.shutdown().unwrap();
}

#[test]
fn a_task_that_panics_abroad_is_lost_and_ends_nothing() {
    let (done, is_done) = mpsc::channel();
    let main = move |core| {
        let done = done.clone();
        async move {
            if core == 0 {
                let abroad = spawn_on(1, "guest", || async {
                    if core_number() == 1 {
                        panic!("on purpose")
                    }
                });
                let _ = done.send(abroad.map_err(drop).unwrap().await);
            }
            pending().await
        }
    };
    let (cores, _told) = cores(2, main);
    let runtime = Runtime::start(bells(2), cores).unwrap();
    assert_eq!(is_done.recv().unwrap(), Err(Lost));
    runtime.shutdown().unwrap();
}

/// A core whose main task has ended takes nothing any more, and who waits for it must hear of that.
#[test]
fn what_waits_in_the_ring_of_a_core_that_ends_is_lost() {
    let (ready, sent) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let main = move |core| {
        let (ready, sent) = (ready.clone(), sent.clone());
        async move {
            // The core is held up in here: what it is sent meanwhile would be taken in the next turn, and there is none.
            ready.wait();
            if core == 1 {
                sent.wait();
                return Ok(1);
            }
            let abroad = spawn_on(1, "guest", || async {});
            sent.wait();
            assert_eq!(abroad.map_err(drop).unwrap().await, Err(Lost));
            Ok(0)
        }
    };
    let (cores, _told) = cores(2, main);
    assert_eq!(Runtime::start(bells(2), cores).unwrap().join().unwrap(), [0, 1]);
}

#[test]
fn nothing_is_sent_to_a_core_that_has_ended() {
    struct Ended(Sender<()>);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    thread_local! {
        /// Goes with its thread, when all is gone that the core had.
        static ENDED: RefCell<Option<Ended>> = const { RefCell::new(None) };
    }
    let (ended, has_ended) = mpsc::channel();
    let has_ended = Arc::new(Mutex::new(has_ended));
    let main = move |core| {
        let (ended, has_ended) = (ended.clone(), has_ended.clone());
        async move {
            if core == 1 {
                ENDED.set(Some(Ended(ended)));
                return Ok(1);
            }
            has_ended.lock().unwrap().recv().unwrap();
            for _ in 0..2 {
                assert!(spawn_on(1, "guest", || async {}).is_err());
            }
            Ok(0)
        }
    };
    let (cores, _told) = cores(2, main);
    assert_eq!(Runtime::start(bells(2), cores).unwrap().join().unwrap(), [0, 1]);
}

/// Whichever comes first, each is told how it went.
#[test]
fn whoever_sends_to_a_core_while_it_ends_is_told() {
    for round in 0..300 {
        let main = move |core| async move {
            if core == 1 {
                for _ in 0..round % 8 {
                    yield_now().await;
                }
                return Ok(1);
            }
            let mut taken = Vec::new();
            // Until it has ended, or takes too long.
            while let Ok(abroad) = spawn_on(1, "guest", || async {}) {
                taken.push(abroad);
                if round % 2 == 0 {
                    yield_now().await;
                }
            }
            for abroad in taken {
                assert!(matches!(abroad.await, Ok(()) | Err(Lost)));
            }
            Ok(0)
        };
        let (cores, _told) = cores(2, main);
        assert_eq!(Runtime::start(bells(2), cores).unwrap().join().unwrap(), [0, 1]);
    }
}

#[test]
fn the_own_core_is_no_abroad_and_nobody_is_nowhere() {
    let main = |core| async move {
        let nowhere = spawn_on(7, "guest", || async {}).is_err();
        let here = spawn_on(core, "guest", || async { core_number() });
        let here = here.map_err(drop).unwrap().await.unwrap();
        if nowhere { Ok(here) } else { Err("sent to nobody".to_owned()) }
    };
    let (cores, _told) = cores(2, main);
    assert_eq!(Runtime::start(bells(2), cores).unwrap().join().unwrap(), [0, 1]);
    let alone = trimaran_runtime::run(
        CoreConfig::default(),
        || Sleeper { mesh: None, taken: mpsc::channel().0, asleep: mpsc::channel().0, core: 0 },
        || async { spawn_on(0, "guest", || async {}).is_err() },
    );
    assert!(alone.unwrap(), "a core that is alone has no mesh");
}

#[test]
fn messages_of_a_mesh_of_ones_own_wake_a_sleeping_core() {
    let bells = bells(2);
    let mut ends = mesh::<u64>(&bells, 8);
    let (to, mut from) = (ends.pop().unwrap(), ends.pop().unwrap());
    let (cores, told) = cores(2, |_| pending());
    let mut to = Some(to);
    let cores = cores.into_iter().enumerate().map(|(core, (config, boot))| {
        let end = if core == 1 { to.take() } else { None };
        let boot: Boot = Box::new(move |seat| {
            let (mut driver, main) = boot(seat)?;
            driver.mesh = end;
            Ok((driver, main))
        });
        (config, boot)
    });
    let runtime = Runtime::start(bells, cores.collect()).unwrap();
    for number in 0..100 {
        while told.asleep.recv().unwrap() != 1 {}
        // This thread plays core 0: an end may be used by whoever has it.
        assert!(from.send(1, number).is_ok());
        from.notify();
        assert_eq!(told.taken.recv().unwrap(), (0, number));
    }
    runtime.shutdown().unwrap();
}

#[test]
fn a_core_that_fails_ends_all_and_its_error_is_told() {
    for fails in 0..3 {
        let main = move |core| async move {
            if core == fails { Err(format!("{core} is out of luck")) } else { pending().await }
        };
        let (cores, _told) = cores(3, main);
        let failure = match Runtime::start(bells(3), cores) {
            Ok(runtime) => runtime.join().unwrap_err(),
            Err(failure) => failure,
        };
        assert_eq!(failure.to_string(), format!("core {fails} (core {fails}): {fails} is out of luck"));
    }
}

#[test]
fn a_core_that_panics_ends_all_and_is_named() {
    let main = |core| async move { if core == 1 { panic!("on purpose") } else { pending().await } };
    let (cores, _told) = cores(2, main);
    let failure = match Runtime::start(bells(2), cores) {
        Ok(runtime) => runtime.join().unwrap_err(),
        Err(failure) => failure,
    };
    assert_eq!((failure.core, failure.name.as_str()), (1, "core 1"));
    assert!(
        matches!(failure.why, CoreFailure::Runtime(RuntimeError::MainPanicked(why)) if why.message() == "on purpose")
    );
}

/// A closure that panics takes down the core's own thread, which no task catches.
#[test]
fn a_closure_that_panics_on_another_core_ends_all() {
    let main = |core| async move {
        if core == 0 {
            let abroad = spawn_on(1, "guest", || -> std::future::Ready<()> { panic!("in the closure") });
            assert_eq!(abroad.map_err(drop).unwrap().await, Err(Lost));
        }
        pending().await
    };
    let (cores, _told) = cores(2, main);
    let failure = Runtime::start(bells(2), cores).unwrap().join().unwrap_err();
    assert!(matches!(&failure.why, CoreFailure::Panicked(why) if why == "in the closure"), "{failure}");
}

#[test]
fn cores_that_cannot_boot_leave_none_behind() {
    let (cores, _told) = cores(2, |_| pending());
    let dropped = Arc::new(());
    let held = dropped.clone();
    let cores = cores.into_iter().enumerate().map(|(core, (config, boot))| {
        let held = held.clone();
        let boot: Boot = Box::new(move |seat| {
            let (driver, _main) = boot(seat)?;
            if core == 1 {
                return Err("no port".into());
            }
            let main: Box<dyn FnOnce() -> Main> = Box::new(move || {
                Box::pin(async move {
                    let _held = held;
                    pending().await
                })
            });
            Ok((driver, main))
        });
        (config, boot)
    });
    let cores = cores.collect();
    drop(held);
    let failure = Runtime::start(bells(2), cores).unwrap_err();
    assert_eq!(failure.to_string(), "core 1 (core 1): no port");
    assert_eq!(Arc::strong_count(&dropped), 1, "the other core is gone, with all that it held");
}

#[test]
fn shutdown_ends_the_last_core_first_and_waits_for_it() {
    struct Witness(usize, Sender<usize>);
    impl Drop for Witness {
        fn drop(&mut self) {
            let _ = self.1.send(self.0);
        }
    }
    let (ended, order) = mpsc::channel();
    let main = move |core| {
        let witness = Witness(core, ended.clone());
        async move {
            let _witness = witness;
            pending().await
        }
    };
    let (cores, _told) = cores(3, main);
    let runtime = Runtime::start(bells(3), cores).unwrap();
    runtime.shutdown().unwrap();
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [2, 1, 0]);
}

#[test]
fn a_core_whose_cpu_does_not_exist_is_refused() {
    let (mut cores, _told) = cores(2, |_| pending());
    cores[1].0.cpu = Some(1_000_000);
    let failure = Runtime::start(bells(2), cores).unwrap_err();
    assert!(matches!(failure.why, CoreFailure::Runtime(RuntimeError::Pin { cpu: 1_000_000, .. })));
}
