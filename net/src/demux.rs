//! From a packet's destination to the socket that wants it.

use crate::socket::SocketState;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

/// The bound sockets of one core, sorted by address: few enough that a binary search beats any hash.
pub(crate) struct Demux {
    sockets: Vec<(u64, Rc<SocketState>)>,
    /// Where the last packet went; packets of one burst mostly go to one socket.
    last: usize,
}

/// An address as one number, so that comparing two is one instruction.
fn key(addr: SocketAddrV4) -> u64 {
    u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port())
}

impl Demux {
    pub(crate) fn new() -> Self {
        Demux { sockets: Vec::new(), last: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Adds a socket. The port has already made sure that its address is free; a leftover of the same address is
    /// replaced.
    pub(crate) fn insert(&mut self, socket: Rc<SocketState>) {
        let key = key(socket.local());
        match self.sockets.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.sockets[at].1 = socket,
            Err(at) => self.sockets.insert(at, (key, socket)),
        }
    }

    pub(crate) fn remove(&mut self, local: SocketAddrV4) -> Option<Rc<SocketState>> {
        let at = self.find(key(local))?;
        Some(self.sockets.remove(at).1)
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.sockets.binary_search_by_key(&key, |(key, _)| *key).ok()
    }

    /// The socket bound to `dst`, else the one bound to its port on every address.
    #[inline]
    pub(crate) fn lookup(&mut self, dst: SocketAddrV4) -> Option<&Rc<SocketState>> {
        let wanted = key(dst);
        let hit = self.sockets.get(self.last).is_some_and(|(key, _)| *key == wanted);
        if !hit {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dst.port());
            self.last = self.find(wanted).or_else(|| self.find(key(any)))?;
        }
        self.sockets.get(self.last).map(|(_, socket)| socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::SocketOptions;

    fn addr(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn demux(locals: &[&str]) -> Demux {
        let mut demux = Demux::new();
        for local in locals {
            demux.insert(Rc::new(SocketState::new(addr(local), &SocketOptions::default())));
        }
        demux
    }

    fn found(demux: &mut Demux, dst: &str) -> Option<SocketAddrV4> {
        demux.lookup(addr(dst)).map(|socket| socket.local())
    }

    #[test]
    fn an_exact_address_wins_over_every_address() {
        let mut demux = demux(&["0.0.0.0:1", "10.0.0.2:1", "10.0.0.1:2"]);
        // Twice over, so that the memory of the last hit is used and must not mislead.
        for _ in 0..2 {
            assert_eq!(found(&mut demux, "10.0.0.2:1"), Some(addr("10.0.0.2:1")));
            assert_eq!(found(&mut demux, "10.0.0.1:1"), Some(addr("0.0.0.0:1")));
            assert_eq!(found(&mut demux, "10.0.0.1:2"), Some(addr("10.0.0.1:2")));
            assert_eq!(found(&mut demux, "10.0.0.2:2"), None);
        }
    }

    #[test]
    fn a_removed_socket_is_not_found_where_it_was_found_last() {
        let mut demux = demux(&["10.0.0.1:1", "10.0.0.1:2"]);
        assert_eq!(found(&mut demux, "10.0.0.1:2"), Some(addr("10.0.0.1:2")));
        assert!(demux.remove(addr("10.0.0.1:2")).is_some());
        assert_eq!(found(&mut demux, "10.0.0.1:2"), None);
        assert_eq!(found(&mut demux, "10.0.0.1:1"), Some(addr("10.0.0.1:1")));
        assert!(demux.remove(addr("10.0.0.1:2")).is_none());
        assert_eq!(demux.len(), 1);
    }
}
