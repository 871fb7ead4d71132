//! The handle by which a core's tasks open sockets, and what it shares with the driver.

use crate::demux::Demux;
use crate::error::NetError;
use crate::pool;
use crate::port::{Port, PortDescription};
use crate::socket::{Priority, SocketOptions, SocketState, UdpSocket};
use crate::stats::{Counter, NetStats};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::{Rc, Weak};

/// Limits of one core's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// Sockets that may be bound at once.
    pub sockets: usize,
    /// Packets of Normal sockets transmitted in one flush; the rest waits for the next turn, so that a flood of
    /// replies does not delay the next heartbeat. Control sockets are only limited by their queues.
    pub flush_packets: usize,
    /// Up to so many packets of Normal sockets, if there are no more, are transmitted before those of Control sockets. They
    /// delay a heartbeat by nothing; but a peer that shares the processor and is woken by one would delay these replies.
    pub early_packets: usize,
}

impl Default for NetConfig {
    /// 1024 sockets, 512 packets a flush (about half a millisecond of kernel UDP), Control always first.
    fn default() -> Self {
        NetConfig { sockets: 1024, flush_packets: 512, early_packets: 0 }
    }
}

/// Opens sockets on this core's port. Cheap to clone; belongs to one core.
#[derive(Clone)]
pub struct Net {
    shared: Rc<Shared>,
}

impl Net {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        Net { shared }
    }

    /// Binds a socket to `local`; port 0 asks for a free one, see [`UdpSocket::local_addr`].
    ///
    /// On kernel ports this makes a few system calls. An address is free again as soon as the socket bound to it has
    /// been dropped; packets that the old socket had queued and not transmitted are then dropped and counted.
    pub fn bind(&self, local: SocketAddrV4, options: SocketOptions) -> Result<UdpSocket, NetError> {
        let shared = &self.shared;
        let port = shared.port.upgrade().ok_or(NetError::Closed)?;
        shared.abandon(local);
        let limit = shared.config.sockets;
        if shared.demux.borrow().len() >= limit {
            return Err(NetError::TooManySockets { limit });
        }
        let local = port.borrow_mut().bind(local, &options)?;
        let state = Rc::new(SocketState::new(local, &options));
        shared.demux.borrow_mut().insert(Rc::clone(&state));
        Ok(UdpSocket::new(state, Rc::clone(shared)))
    }

    /// Keeps `ip` reachable whatever strangers send, as long as this port is open: for the members of a cluster. See [`Port::pin`];
    /// `false` where the port refuses or is closed.
    pub fn pin(&self, ip: Ipv4Addr) -> bool {
        self.shared.port.upgrade().is_some_and(|port| port.borrow_mut().pin(ip))
    }

    /// Largest payload of one datagram on this port, in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.shared.payload_bytes
    }

    /// Counters of all sockets of this core, its port and its thread's buffer pool. Costs a walk over the sockets.
    pub fn stats(&self) -> NetStats {
        self.shared.stats()
    }

    /// What the port is; nothing where it is closed.
    pub fn describe(&self) -> PortDescription {
        self.shared.port.upgrade().map(|port| port.borrow().describe()).unwrap_or_default()
    }

    /// Tells every count of packets by its name, zeroes too: what [`Net::stats`] has, and what the port knows beyond it. For people and
    /// logs: a device may be asked for dozens of registers.
    pub fn counters(&self, tell: &mut dyn FnMut(&str, u64)) {
        self.stats().each(tell);
        if let Some(port) = self.shared.port.upgrade() {
            port.borrow().counters(tell);
        }
    }
}

/// What the sockets, the handle and the driver of one core share.
pub(crate) struct Shared {
    pub(crate) config: NetConfig,
    pub(crate) payload_bytes: usize,
    /// Weak, so that the port dies with its driver however many sockets are still held.
    port: Weak<RefCell<dyn Port>>,
    pub(crate) demux: RefCell<Demux>,
    /// Sockets with something to transmit, per priority, each once.
    to_transmit: [RefCell<VecDeque<Rc<SocketState>>>; 2],
    /// Dropped sockets whose last packets have not left yet; their addresses are still bound.
    closing: RefCell<Vec<Rc<SocketState>>>,
    pub(crate) received: Counter,
    pub(crate) dropped_full: Counter,
    pub(crate) dropped_unbound: Counter,
    pub(crate) crossed_out: Counter,
    pub(crate) crossed_in: Counter,
    pub(crate) crossing_full: Counter,
    pub(crate) sent: Counter,
    dropped_closed: Counter,
}

impl Shared {
    pub(crate) fn new(config: NetConfig, payload_bytes: usize, port: Weak<RefCell<dyn Port>>) -> Self {
        Shared {
            config,
            payload_bytes,
            port,
            demux: RefCell::new(Demux::new()),
            to_transmit: Default::default(),
            closing: RefCell::default(),
            received: Counter::default(),
            dropped_full: Counter::default(),
            dropped_unbound: Counter::default(),
            crossed_out: Counter::default(),
            crossed_in: Counter::default(),
            crossing_full: Counter::default(),
            sent: Counter::default(),
            dropped_closed: Counter::default(),
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.port.strong_count() == 0
    }

    /// The sockets of one priority that have something to transmit, longest waiting first.
    pub(crate) fn to_transmit(&self, priority: Priority) -> &RefCell<VecDeque<Rc<SocketState>>> {
        &self.to_transmit[priority as usize]
    }

    pub(crate) fn list_for_transmit(&self, socket: &Rc<SocketState>) {
        if !socket.listed.replace(true) {
            self.to_transmit(socket.priority).borrow_mut().push_back(Rc::clone(socket));
        }
    }

    /// Packets that wait for the port.
    pub(crate) fn queued(&self) -> usize {
        self.queued_of(Priority::Control) + self.queued_of(Priority::Normal)
    }

    /// Those of the sockets of one priority.
    pub(crate) fn queued_of(&self, priority: Priority) -> usize {
        self.to_transmit(priority).borrow().iter().map(|socket| socket.tx.borrow().len()).sum()
    }

    /// A socket has been dropped: stop delivering to it now, and give its address back now or after its last packet.
    pub(crate) fn close(&self, socket: &Rc<SocketState>) {
        self.demux.borrow_mut().remove(socket.local());
        if socket.tx.borrow().is_empty() {
            self.unbind(socket);
        } else {
            self.closing.borrow_mut().push(Rc::clone(socket));
        }
    }

    /// Gives back the addresses of dropped sockets that have transmitted everything.
    pub(crate) fn reap(&self) {
        if self.closing.borrow().is_empty() {
            return;
        }
        let done: Vec<_> = self.closing.borrow_mut().extract_if(.., |socket| socket.tx.borrow().is_empty()).collect();
        done.iter().for_each(|socket| self.unbind(socket));
    }

    /// Gives back `local` if only a dropped socket holds it, whatever that has not transmitted.
    fn abandon(&self, local: SocketAddrV4) {
        let held: Vec<_> = self.closing.borrow_mut().extract_if(.., |socket| socket.local() == local).collect();
        for socket in held {
            let mut tx = socket.tx.borrow_mut();
            self.dropped_closed.add(tx.len());
            tx.clear();
            self.unbind(&socket);
        }
    }

    fn unbind(&self, socket: &SocketState) {
        let Some(port) = self.port.upgrade() else { return };
        port.borrow_mut().unbind(socket.local());
    }

    fn stats(&self) -> NetStats {
        NetStats {
            received: self.received.get(),
            dropped_full: self.dropped_full.get(),
            dropped_unbound: self.dropped_unbound.get(),
            crossed_out: self.crossed_out.get(),
            crossed_in: self.crossed_in.get(),
            crossing_full: self.crossing_full.get(),
            sent: self.sent.get(),
            dropped_closed: self.dropped_closed.get(),
            sockets: self.demux.borrow().len(),
            queued: self.queued(),
            port: self.port.upgrade().map(|port| port.borrow().stats()).unwrap_or_default(),
            pool: pool::stats(),
        }
    }
}
