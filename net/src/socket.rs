//! Datagram sockets: bounded queues between the tasks of a core and its port.

use crate::burst::PacketQueue;
use crate::error::{Refusal, SendError};
use crate::net::Shared;
use crate::packet::Packet;
use crate::stats::{Counter, SocketStats};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use trimaran_runtime::{Instant, recv_or_deadline};

/// Whose packets go first, and who may use the last buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Elections and heartbeats: transmitted and received before Normal, with a share of the buffer pool of its own.
    Control,
    /// Everything else.
    #[default]
    Normal,
}

/// How a socket is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Received packets that may wait for the task. A packet that finds the queue full is dropped and counted.
    pub rx_packets: usize,
    /// Packets that may wait for the port. One more is given back to the sender.
    pub tx_packets: usize,
    /// Whose packets go first.
    pub priority: Priority,
    /// Receive buffer asked of the kernel, in bytes. Where the kernel grants less the socket works with that, and a
    /// warning names the `sysctl` that allows it. Ports without a kernel ignore it.
    pub rcvbuf_bytes: usize,
}

impl Default for SocketOptions {
    /// 2048 packets either way, Normal priority, 4 MiB: the kernel's usual 208 KiB would lose every request of 254
    /// packets.
    fn default() -> Self {
        SocketOptions { rx_packets: 2048, tx_packets: 2048, priority: Priority::Normal, rcvbuf_bytes: 4 << 20 }
    }
}

/// The part of a socket that the driver sees too.
pub(crate) struct SocketState {
    local: SocketAddrV4,
    pub(crate) priority: Priority,
    rx: RefCell<PacketQueue>,
    pub(crate) tx: RefCell<PacketQueue>,
    receiver: Cell<Option<Waker>>,
    /// Listed among the sockets that have something to transmit.
    pub(crate) listed: Cell<bool>,
    /// The [`UdpSocket`] is gone; what is in `tx` is still sent.
    pub(crate) closed: Cell<bool>,
    received: Counter,
    dropped_full: Counter,
    pub(crate) sent: Counter,
    refused: Counter,
    no_buffer: Counter,
}

impl SocketState {
    pub(crate) fn new(local: SocketAddrV4, options: &SocketOptions) -> Self {
        SocketState {
            local,
            priority: options.priority,
            rx: RefCell::new(PacketQueue::new(options.rx_packets)),
            tx: RefCell::new(PacketQueue::new(options.tx_packets)),
            receiver: Cell::new(None),
            listed: Cell::new(false),
            closed: Cell::new(false),
            received: Counter::default(),
            dropped_full: Counter::default(),
            sent: Counter::default(),
            refused: Counter::default(),
            no_buffer: Counter::default(),
        }
    }

    pub(crate) fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Queues a received packet; false where the queue was full and the packet is gone.
    #[inline]
    pub(crate) fn deliver(&self, packet: Packet) -> bool {
        let queued = self.rx.borrow_mut().push(packet).is_ok();
        let counter = if queued { &self.received } else { &self.dropped_full };
        counter.add(1);
        queued
    }

    /// The task that waits for a packet, once.
    #[inline]
    pub(crate) fn take_receiver(&self) -> Option<Waker> {
        self.receiver.take()
    }
}

/// A bound datagram socket. It belongs to one core and touches only queues of that core; no call makes a system call
/// or blocks. Dropping it gives the address back once the packets queued by then have been transmitted.
///
/// Many tasks may send through one socket; one task at a time receives.
pub struct UdpSocket {
    state: Rc<SocketState>,
    shared: Rc<Shared>,
}

impl UdpSocket {
    pub(crate) fn new(state: Rc<SocketState>, shared: Rc<Shared>) -> Self {
        UdpSocket { state, shared }
    }

    /// The address it receives on.
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.state.local
    }

    /// Largest payload that [`UdpSocket::send_to`] takes, in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.shared.payload_bytes
    }

    /// An empty packet from this core's pool, `None` (counted) where the pool is at its limit for this priority.
    pub fn alloc(&self) -> Option<Packet> {
        let packet = Packet::alloc(self.state.priority);
        if packet.is_none() {
            self.state.no_buffer.add(1);
        }
        packet
    }

    /// Queues `packet` for transmission to `to` at the end of this turn. From then on it may be lost without notice.
    ///
    /// Gives the packet back where the transmit queue is full or the payload too large.
    pub fn send_to(&self, mut packet: Packet, to: SocketAddrV4) -> Result<(), SendError> {
        packet.set_src(self.state.local);
        packet.set_dst(to);
        let refuse = |packet, reason| {
            self.state.refused.add(1);
            Err(SendError { packet, reason })
        };
        if packet.len() > self.shared.payload_bytes {
            return refuse(packet, Refusal::TooLarge);
        }
        if self.shared.is_shut_down() {
            return refuse(packet, Refusal::Closed);
        }
        let pushed = self.state.tx.borrow_mut().push(packet);
        match pushed {
            Ok(()) => {
                self.shared.list_for_transmit(&self.state);
                Ok(())
            }
            Err(packet) => refuse(packet, Refusal::QueueFull),
        }
    }

    /// The oldest received packet, if one waits.
    #[inline]
    pub fn try_recv(&self) -> Option<Packet> {
        self.state.rx.borrow_mut().pop()
    }

    /// The oldest received packet. Pending: the task of `cx` is woken when one arrives; an earlier call by another
    /// task is forgotten.
    #[inline]
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Packet> {
        if let Some(packet) = self.try_recv() {
            return Poll::Ready(packet);
        }
        // The same task asks again and again: keep its waker unless it has changed.
        let waker = match self.state.receiver.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.state.receiver.set(Some(waker));
        Poll::Pending
    }

    /// Waits for a packet. Nothing is lost when the future is dropped.
    pub fn recv(&self) -> impl Future<Output = Packet> + '_ {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// Waits for a packet until `at` by this core's clock: `None` then. A packet that is already queued wins even where
    /// the deadline has passed, so that a core which was stopped sees what came meanwhile.
    pub fn recv_or_deadline(&self, at: Instant) -> impl Future<Output = Option<Packet>> + '_ {
        recv_or_deadline(self.recv(), at)
    }

    /// This socket's counters.
    pub fn stats(&self) -> SocketStats {
        let state = &self.state;
        SocketStats {
            received: state.received.get(),
            sent: state.sent.get(),
            dropped_full: state.dropped_full.get(),
            refused: state.refused.get(),
            no_buffer: state.no_buffer.get(),
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.state.closed.set(true);
        // A receiver must not be kept alive by a socket that nobody can receive on.
        self.state.receiver.take();
        self.state.rx.borrow_mut().clear();
        self.shared.close(&self.state);
    }
}
