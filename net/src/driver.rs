//! Moves packets between a port and the sockets, once per turn of the core.

use crate::burst::{BURST_PACKETS, Burst};
use crate::net::{Net, NetConfig, Shared};
use crate::packet::Packet;
use crate::port::Port;
use crate::socket::{Priority, SocketState};
use crate::steer::{Crossed, Crossing, Steering};
use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;
use trimaran_runtime::{Driver, Flushed, Instant, MeshEnd, Polled};

/// The driver of one core: owns its port. Dropping it closes the port; sockets that are left can only fail.
pub struct NetDriver<P: Port> {
    port: Rc<RefCell<P>>,
    shared: Rc<Shared>,
    burst: Burst,
    /// Receivers of the burst in hand, each once. Empty between calls.
    woken: Vec<Waker>,
    /// The last flush stopped at its own limit, not because the port was full: go on without sleeping.
    cut_short: bool,
    /// The other cores' drivers, where this core is one of several.
    crossing: Option<Crossing>,
}

impl<P: Port + 'static> NetDriver<P> {
    /// A driver for `port`, and the handle by which the core's tasks open sockets.
    pub fn new(port: P, config: NetConfig) -> (NetDriver<P>, Net) {
        let payload_bytes = port.capabilities().payload_bytes;
        let port = Rc::new(RefCell::new(port));
        let erased: Rc<RefCell<dyn Port>> = port.clone();
        let weak: Weak<RefCell<dyn Port>> = Rc::downgrade(&erased);
        let shared = Rc::new(Shared::new(config, payload_bytes, weak));
        let net = Net::new(Rc::clone(&shared));
        let (burst, woken) = (Burst::new(), Vec::with_capacity(BURST_PACKETS));
        (NetDriver { port, shared, burst, woken, cut_short: false, crossing: None }, net)
    }
}

impl<P: Port> NetDriver<P> {
    /// The port, to be looked at or adjusted between turns.
    pub fn port_mut(&mut self) -> RefMut<'_, P> {
        self.port.borrow_mut()
    }

    /// Joins the drivers of several cores: a packet that this port receives and another core has the socket of crosses the mesh. What
    /// finds its ring full is dropped, and what crosses is counted on both sides.
    pub fn join(&mut self, steering: Steering, mesh: MeshEnd<Packet>) {
        self.crossing = Some(Crossing { steering, mesh });
    }

    /// Sorts the packets of one burst into the queues of their sockets, then wakes those who wait for them.
    fn deliver(&mut self) {
        if self.burst.is_empty() {
            return;
        }
        let shared = &self.shared;
        let mut demux = shared.demux.borrow_mut();
        for packet in self.burst.drain() {
            let counter = match demux.lookup(packet.dst()) {
                None => match self.crossing.as_mut().map(|crossing| crossing.hand_on(packet)) {
                    Some(Crossed::Sent) => &shared.crossed_out,
                    Some(Crossed::Full) => &shared.crossing_full,
                    Some(Crossed::Unbound) | None => &shared.dropped_unbound,
                },
                Some(socket) => {
                    let queued = socket.deliver(packet);
                    self.woken.extend(socket.take_receiver());
                    if queued { &shared.received } else { &shared.dropped_full }
                }
            };
            counter.add(1);
        }
        // Nothing is borrowed any more: whatever a waker does, it may even drop sockets.
        drop(demux);
        if let Some(crossing) = &mut self.crossing {
            crossing.mesh.notify();
        }
        self.woken.drain(..).for_each(Waker::wake);
    }

    /// As [`deliver`](Self::deliver), what other cores have handed on. It goes no further: who has no socket for it drops it.
    fn deliver_crossed(&mut self) -> usize {
        let Some(crossing) = self.crossing.as_mut().filter(|crossing| crossing.mesh.has_news()) else { return 0 };
        let (shared, woken) = (&self.shared, &mut self.woken);
        let mut demux = shared.demux.borrow_mut();
        let taken = crossing.mesh.drain(BURST_PACKETS, |_, packet| {
            shared.crossed_in.add(1);
            let counter = match demux.lookup(packet.dst()) {
                None => &shared.dropped_unbound,
                Some(socket) => {
                    let queued = socket.deliver(packet);
                    woken.extend(socket.take_receiver());
                    if queued { &shared.received } else { &shared.dropped_full }
                }
            };
            counter.add(1);
        });
        drop(demux);
        self.woken.drain(..).for_each(Waker::wake);
        taken
    }

    /// Transmits for the sockets of one priority in turns of one burst each, at most `limit` packets. Sockets for
    /// which the port has no room step aside and are back in the list afterwards.
    fn transmit(&mut self, now: Instant, priority: Priority, limit: usize) -> usize {
        let mut sockets = self.shared.to_transmit(priority).borrow_mut();
        if sockets.is_empty() {
            return 0;
        }
        let mut port = self.port.borrow_mut();
        let mut refused: VecDeque<Rc<SocketState>> = VecDeque::new();
        let mut sent = 0;
        while sent < limit {
            let Some(socket) = sockets.pop_front() else { break };
            let mut tx = socket.tx.borrow_mut();
            let taken = port.tx_burst(now, &mut tx);
            let left = !tx.is_empty();
            drop(tx);
            sent += taken;
            socket.sent.add(taken);
            if !left {
                socket.listed.set(false);
            } else if taken > 0 {
                sockets.push_back(socket);
            } else {
                refused.push_back(socket);
            }
        }
        self.cut_short |= !sockets.is_empty();
        sockets.append(&mut refused);
        self.shared.sent.add(sent);
        sent
    }
}

impl<P: Port> Driver for NetDriver<P> {
    fn start(&mut self) {
        self.port.borrow_mut().start();
    }

    fn poll(&mut self, now: Instant, budget: usize) -> Polled {
        let crossed = self.deliver_crossed();
        let mut packets = 0;
        while packets < budget {
            let max = (budget - packets).min(BURST_PACKETS);
            let taken = self.port.borrow_mut().rx_burst(now, max, &mut self.burst);
            self.deliver();
            packets += taken;
            if taken < max {
                return Polled { packets: crossed + packets, more: false };
            }
        }
        Polled { packets: crossed + packets, more: budget > 0 }
    }

    fn flush(&mut self, now: Instant) -> Flushed {
        self.cut_short = false;
        let NetConfig { flush_packets, early_packets, .. } = self.shared.config;
        let mut packets = 0;
        if early_packets > 0 && self.shared.queued_of(Priority::Normal) <= early_packets {
            packets += self.transmit(now, Priority::Normal, early_packets);
        }
        packets += self.transmit(now, Priority::Control, usize::MAX);
        packets += self.transmit(now, Priority::Normal, flush_packets);
        self.shared.reap();
        Flushed { packets, left: self.shared.queued() }
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        if !self.cut_short {
            self.port.borrow_mut().park(timeout, wake);
        }
    }

    fn next_arrival(&self) -> Option<Instant> {
        let has_crossed = self.crossing.as_ref().is_some_and(|crossing| crossing.mesh.has_news());
        if has_crossed { Some(Instant::ZERO) } else { self.port.borrow().next_arrival() }
    }
}
