//! The sleep handshake under loom: the interleavings of a core that falls asleep with threads that bring it work. A lost
//! wake is a deadlock, which loom reports.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
}

#[path = "../src/handshake.rs"]
mod handshake;

use handshake::Handshake;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};

/// Stands for the eventfd: a counter to sleep on.
#[derive(Default)]
struct Eventfd {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Eventfd {
    fn write(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.changed.wait(count).unwrap();
        }
    }

    fn drain(&self) {
        *self.count.lock().unwrap() = 0;
    }
}

/// `wakers` threads bring one piece of work each; the core sleeps whenever it finds none. No more than `preemptions`
/// forced switches between threads in one history, which keeps their number finite in practice.
fn model(wakers: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let shared = Arc::new((Handshake::new(), Eventfd::default(), AtomicUsize::new(0)));
        let threads: Vec<_> = (0..wakers)
            .map(|_| {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let (handshake, eventfd, work) = &*shared;
                    work.fetch_add(1, Ordering::Relaxed);
                    if handshake.ring() {
                        eventfd.write();
                    }
                })
            })
            .collect();
        let (handshake, eventfd, work) = &*shared;
        let mut done = 0;
        while done < wakers {
            if handshake.take_ready() {
                done += work.swap(0, Ordering::Relaxed);
                continue;
            }
            if handshake.fall_asleep() {
                eventfd.sleep();
            }
            handshake.rise();
            eventfd.drain();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn one_waker_is_never_missed() {
    model(1, 5);
}

#[test]
fn of_two_wakers_none_is_missed() {
    model(2, 3);
}
