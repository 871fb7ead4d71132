//! The sleep handshake and the flags of a mesh under loom: the interleavings of a core that falls asleep, or ends, with threads that bring
//! it work. A lost wake is a deadlock, which loom reports.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
}

#[path = "../src/departure.rs"]
mod departure;
#[path = "../src/flags.rs"]
mod flags;
#[path = "../src/handshake.rs"]
mod handshake;

use departure::Departure;
use flags::Flags;
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

/// `peers` cores put so many messages each into a ring of their own, with one announcement for all of them, or for each. The core
/// looks into the rings of raised flags only, in its turn, and sleeps when a turn has found nothing. Rings are counters here, as
/// relaxed as can be: what is seen of them is seen because of flags and bell.
fn mesh_model(peers: usize, messages: usize, announces_each: bool, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let rings: Vec<_> = (0..peers).map(|_| AtomicUsize::new(0)).collect();
        let shared = Arc::new((Handshake::new(), Eventfd::default(), Flags::new(), rings));
        let threads: Vec<_> = (0..peers)
            .map(|peer| {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    let (handshake, eventfd, flags, rings) = &*shared;
                    let announce = || {
                        flags.raise(peer);
                        if handshake.ring() {
                            eventfd.write();
                        }
                    };
                    for message in 1..=messages {
                        rings[peer].store(message, Ordering::Relaxed);
                        if announces_each || message == messages {
                            announce();
                        }
                    }
                })
            })
            .collect();
        let (handshake, eventfd, flags, rings) = &*shared;
        let mut seen = vec![0; peers];
        while seen.iter().any(|seen| *seen < messages) {
            let rung = handshake.take_ready();
            let mut news = flags.take();
            let found = rung || news != 0;
            while news != 0 {
                let peer = news.trailing_zeros() as usize;
                news &= news - 1;
                seen[peer] = rings[peer].load(Ordering::Relaxed);
            }
            if found {
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
fn a_message_in_a_ring_is_never_slept_over() {
    mesh_model(1, 2, true, 4);
}

#[test]
fn messages_of_two_peers_announced_together_are_all_seen() {
    mesh_model(2, 2, false, 3);
}

/// A core ends while a peer sends so many messages, with one announcement for all of them, or for each. The ring is a counter, ordered as
/// a ring's is. What the core's last look has missed must be in a ring that the peer lets go of.
fn departure_model(messages: usize, announces_each: bool, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let shared = Arc::new((Handshake::new(), Flags::new(), Departure::new(), AtomicUsize::new(0)));
        let peer = {
            let shared = shared.clone();
            loom::thread::spawn(move || {
                let (handshake, flags, departure, ring) = &*shared;
                let announce = || {
                    flags.raise(0);
                    handshake.ring();
                    departure.is_announced()
                };
                let mut sent = 0;
                for message in 1..=messages {
                    if departure.is_announced() {
                        // Refused.
                        return (sent, announce());
                    }
                    ring.store(message, Ordering::Release);
                    sent = message;
                    if (announces_each || message == messages) && announce() {
                        return (sent, true);
                    }
                }
                (sent, false)
            })
        };
        let (_, _, departure, ring) = &*shared;
        departure.announce();
        let dropped = ring.load(Ordering::Acquire);
        let (sent, lets_go) = peer.join().unwrap();
        assert!(lets_go || dropped == sent, "{dropped} of {sent} messages are dropped, and the ring stays");
    });
}

#[test]
fn what_is_sent_to_a_core_that_ends_is_never_kept() {
    departure_model(1, true, 5);
    departure_model(2, true, 4);
    departure_model(2, false, 4);
}
