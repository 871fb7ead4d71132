//! A device made of a list, and a core on a clock that the test moves.
#![allow(dead_code, reason = "each test file uses its part of this")]

pub(crate) mod files;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::channel::{self, Receiver, Sender};
use trimaran_runtime::{Core, CoreConfig, Driver, Flushed, Instant, Polled, Virtual};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// Packets with their times of arrival.
pub(crate) type Wire = Rc<RefCell<VecDeque<(Instant, u32)>>>;

/// Delivers what has arrived on `wire` into a channel. Blocks never: a turn or park that relies on blocking would hang the
/// test only by spinning.
pub(crate) struct Device {
    pub(crate) wire: Wire,
    pub(crate) received: Sender<u32>,
    pub(crate) log: Log,
    /// Packets that each flush reports as not taken.
    pub(crate) left: usize,
    pub(crate) parked: Rc<Cell<Option<Option<Duration>>>>,
}

impl Driver for Device {
    fn poll(&mut self, now: Instant, budget: usize) -> Polled {
        self.log.add("poll");
        let mut packets = 0;
        while packets < budget
            && let Some((_, packet)) = self.wire.borrow_mut().pop_front_if(|packet| packet.0 <= now)
        {
            packets += 1;
            // A packet that finds the queue full is dropped.
            let _ = self.received.try_send(packet);
        }
        Polled { packets, more: packets == budget }
    }

    fn flush(&mut self, _: Instant) -> Flushed {
        self.log.add("flush");
        Flushed { packets: 0, left: self.left }
    }

    fn park(&mut self, timeout: Option<Duration>, _: Option<BorrowedFd<'_>>) {
        self.parked.set(Some(timeout));
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.wire.borrow().front().map(|packet| packet.0)
    }
}

/// A device on an empty wire, and the receiver of its packets.
pub(crate) fn device() -> (Device, Receiver<u32>) {
    let (received, packets) = channel::mpsc(4096);
    (Device { wire: Wire::default(), received, log: Log::default(), left: 0, parked: Rc::default() }, packets)
}

/// A core whose time the test sets.
pub(crate) struct Bench {
    pub(crate) core: Core<Device, Virtual>,
    pub(crate) time: Rc<Cell<Instant>>,
    pub(crate) packets: Option<Receiver<u32>>,
    pub(crate) wire: Wire,
    pub(crate) log: Log,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Bench::with(CoreConfig::default())
    }

    pub(crate) fn with(config: CoreConfig) -> Self {
        let (device, packets) = device();
        let (wire, log) = (device.wire.clone(), device.log.clone());
        let time = Rc::new(Cell::new(at_us(0)));
        let core = Core::new(config, Virtual::new(time.clone()), device);
        Bench { core, time, packets: Some(packets), wire, log }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.time.set(self.time.get() + time);
    }

    pub(crate) fn send(&self, at: Instant, packet: u32) {
        self.wire.borrow_mut().push_back((at, packet));
    }
}

pub(crate) fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A moment of a test; the first is away from the clock's origin.
pub(crate) fn at_us(count: u64) -> Instant {
    Instant::from_nanos(1_000_000_000) + us(count)
}
