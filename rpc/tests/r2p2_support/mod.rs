//! Machines on a simulated wire, and servers written by hand.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetConfig, NetDriver, SimNet, SimPort, SocketOptions, UdpSocket};
use trimaran_rpc::admin::method_key;
use trimaran_rpc::r2p2::{Header, MessageType, Refusal, RequestBlock, ResponseBlock, Segmenter, Status, response};
use trimaran_runtime::Lane;
use trimaran_runtime::sim::{CoreIndex, World};

/// Longer than any call of these tests, in virtual time.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) world: World<NetDriver<SimPort>>,
    pub(crate) wire: SimNet,
}

#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) core: CoreIndex,
    pub(crate) net: Net,
    pub(crate) ip: Ipv4Addr,
}

impl Machine {
    pub(crate) fn addr(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, port)
    }
}

impl Lab {
    pub(crate) fn new(seed: u64) -> Lab {
        Lab { world: World::new(seed), wire: SimNet::new(seed) }
    }

    /// A machine with address 10.0.0.`number`.
    pub(crate) fn machine(&mut self, number: u8) -> Machine {
        let ip = Ipv4Addr::new(10, 0, 0, number);
        let (driver, net) = NetDriver::new(self.wire.port(ip), NetConfig::default());
        Machine { core: self.world.add_core(&ip.to_string(), driver), net, ip }
    }

    pub(crate) fn bind(&mut self, machine: &Machine, port: u16) -> Rc<UdpSocket> {
        let socket = self.world.enter(machine.core, || machine.net.bind(machine.addr(port), SocketOptions::default()));
        Rc::new(socket.unwrap())
    }

    /// Runs the world until `future`, a task of `machine`, has its output.
    pub(crate) fn finish<F: Future + 'static>(&mut self, machine: &Machine, future: F) -> F::Output {
        let output = Rc::new(RefCell::new(None));
        let filled = Rc::clone(&output);
        let task = async move { *filled.borrow_mut() = Some(future.await) };
        self.world.spawn(machine.core, Lane::Normal, task).detach();
        let watched = Rc::clone(&output);
        self.world.run_while(|_| watched.borrow().is_none(), LIMIT);
        output.borrow_mut().take().expect("the task ends within a virtual minute")
    }

    /// Gives each datagram that reaches `machine` on port 8000 to `handle`, and keeps a copy of it; but for questions about the
    /// members, which clients ask beside their calls and which such a server knows nothing of.
    pub(crate) fn serve(&mut self, machine: &Machine, mut handle: impl FnMut(&UdpSocket, &Seen) + 'static) -> Log {
        let socket = self.bind(machine, 8000);
        let log = Log::default();
        let kept = Rc::clone(&log);
        let task = async move {
            loop {
                let packet = socket.recv().await;
                let (header, payload) = Header::parse(packet.data()).unwrap();
                if let Ok((block, _)) = RequestBlock::parse(payload)
                    && block.method == method_key("trimaran.members/1")
                {
                    let unknown = ResponseBlock {
                        status: Status::NotApplied,
                        reason: Refusal::UnknownMethod,
                        echo: block.echo(),
                        ..ResponseBlock::default()
                    };
                    let seen = Seen { from: packet.src(), header, payload: Vec::new() };
                    answer(&socket, &seen, true, &unknown.emit());
                    continue;
                }
                let seen = Seen { from: packet.src(), header, payload: payload.to_vec() };
                kept.borrow_mut().push(seen.clone());
                handle(&socket, &seen);
            }
        };
        self.world.spawn(machine.core, Lane::Normal, task).detach();
        log
    }
}

/// A datagram that a server has seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) from: SocketAddrV4,
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

pub(crate) type Log = Rc<RefCell<Vec<Seen>>>;

pub(crate) fn send(socket: &UdpSocket, to: SocketAddrV4, bytes: &[u8]) {
    let mut packet = socket.alloc().unwrap();
    packet.extend_from_slice(bytes).unwrap();
    socket.send_to(packet, to).unwrap();
}

/// Answers `seen` with `body` in as many packets as it takes.
pub(crate) fn answer(socket: &UdpSocket, seen: &Seen, own_block: bool, body: &[u8]) {
    let message = response(seen.header.rid, own_block);
    for (header, range) in Segmenter::default().reply(body.len()).unwrap().packets_from(message, 0) {
        send(socket, seen.from, &[&header.emit(), &body[range]].concat());
    }
}

/// How many requests a server has seen, by their first packets.
pub(crate) fn requests(log: &Log) -> usize {
    log.borrow().iter().filter(|seen| seen.header.kind == MessageType::Request && seen.header.flags.first).count()
}

/// A body in which every byte tells its place.
pub(crate) fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ (at >> 8)) as u8).collect()
}
