//! Clients without a library: each knows the wire, the leader and its session, and calls as soon as it is answered. What the cluster
//! itself can do, as load generators measure it; nothing is repeated and nobody is looked for, since the rings lose nothing.

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use trimaran_net::{Packet, UdpSocket};
use trimaran_raft::{ClusterId, LogIndex};
use trimaran_rpc::r2p2::{Flags, Header, MessageType, Policy, RequestBlock, ResponseBlock, Rid, Status};
use trimaran_rpc::service::method_key;
use trimaran_rpc::session::{REGISTER, SessionId};

/// Clients at most: the low bits of a request id say whose it is.
pub(crate) const CLIENTS_MAX: usize = 256;

/// Several clients behind one socket, with one call on its way each.
pub(crate) struct Plain {
    socket: UdpSocket,
    leader: SocketAddrV4,
    cluster: ClusterId,
    clients: Vec<One>,
}

#[derive(Clone, Copy)]
struct One {
    session: SessionId,
    /// Of the call that was sent last.
    seq: u64,
}

impl Plain {
    /// Opens sessions, so that every call is applied exactly once, whatever the network does with it.
    pub(crate) async fn open(socket: UdpSocket, leader: SocketAddrV4, cluster: ClusterId, clients: usize) -> Plain {
        assert!(clients <= CLIENTS_MAX);
        let mut plain = Plain { socket, leader, cluster, clients: Vec::new() };
        for place in 0..clients {
            let block = RequestBlock { method: method_key(REGISTER), ..RequestBlock::default() };
            plain.send(Rid(place as u16), block, &(0xC0DE_0000 + place as u128).to_le_bytes());
            let packet = plain.socket.recv().await;
            let (_, answer) = answered(&packet);
            plain.clients.push(One { session: SessionId::new(plain.cluster, LogIndex(answer.index)), seq: 0 });
        }
        plain
    }

    /// Makes calls until `answered` says that there were enough; no answer is left on its way.
    pub(crate) async fn run(&mut self, body: &[u8], answered: &Cell<u64>, calls: u64) {
        let from = answered.get();
        let mut sent = from;
        for place in 0..self.clients.len() {
            self.call(place, body);
            sent += 1;
        }
        while answered.get() < sent {
            let packet = self.socket.recv().await;
            let (rid, _) = self::answered(&packet);
            answered.set(answered.get() + 1);
            if sent < calls {
                self.call(usize::from(rid.0) % CLIENTS_MAX, body);
                sent += 1;
            }
        }
    }

    fn call(&mut self, place: usize, body: &[u8]) {
        let One { session, seq } = &mut self.clients[place];
        *seq += 1;
        let (session, seq) = (session.0, *seq);
        let rid = Rid((seq as u16) << 8 | place as u16);
        let block =
            RequestBlock { method: 1, copy: seq as u32, session, seq, acked: seq - 1, ..RequestBlock::default() };
        self.send(rid, block, body);
    }

    fn send(&self, rid: Rid, block: RequestBlock, body: &[u8]) {
        let header = Header::single(MessageType::Request, Policy::ReplicatedRoute, rid);
        let header = Header { flags: Flags { own_block: true, ..header.flags }, ..header };
        let mut packet = self.socket.alloc().expect("the pool is larger than what is on its way");
        packet.extend_from_slices([&header.emit(), &block.emit(), body]).expect("a packet has room");
        self.socket.send_to(packet, self.leader).expect("the queue is longer than what is on its way");
    }
}

/// Which call an answer is for, and what it says: that it was applied, or the bench is broken.
fn answered(packet: &Packet) -> (Rid, ResponseBlock) {
    let (header, payload) = Header::parse(packet.data()).expect("an answer");
    let (block, _) = ResponseBlock::parse(payload).expect("an answer");
    assert_eq!((header.kind, block.status), (MessageType::Response, Status::Ok), "{:?}", block.reason);
    (header.rid, block)
}

/// As [`Plain::run`], as a task that gives the clients back.
pub(crate) async fn load(
    mut plain: Plain,
    body: &[u8],
    answered: Rc<Cell<u64>>,
    calls: u64,
    back: Rc<Cell<Option<Plain>>>,
) {
    plain.run(body, &answered, calls).await;
    back.set(Some(plain));
}
