//! Reads that are on their way through this node, so that a copy of one does not execute it once more.
//!
//! A client that hears nothing asks again, under another request id, and cannot know that its read waits, or takes long: executed each
//! time, slow reads would make a loaded node slower still. The first copy is answered; the client keeps its first tries open to the end. Nothing
//! hangs on a place being kept: a copy that is not recognised is executed, as it would be if the first had been lost.

use crate::r2p2::Policy;
use crate::request::Request;

/// Of 2,048. A read that falls into the place of another takes it over.
const PLACE_BITS: u32 = 11;

/// One number for each read, by who asks and what number the client gave it. 16 KiB.
pub(crate) struct OpenReads {
    /// 0: nobody's.
    places: Box<[u64]>,
}

impl OpenReads {
    pub(crate) fn new() -> Self {
        OpenReads { places: vec![0; 1 << PLACE_BITS].into_boxed_slice() }
    }

    /// Takes note of a read; `false` where a copy of it is on its way.
    pub(crate) fn begin(&mut self, request: &Request) -> bool {
        let Some(key) = key(request) else { return true };
        std::mem::replace(self.place(key), key) != key
    }

    /// It is answered, refused, or sent on. Nothing happens for other requests.
    pub(crate) fn end(&mut self, request: &Request) {
        if let Some(key) = key(request) {
            let place = self.place(key);
            if *place == key {
                *place = 0;
            }
        }
    }

    fn place(&mut self, key: u64) -> &mut u64 {
        &mut self.places[(key >> (u64::BITS - PLACE_BITS)) as usize]
    }
}

/// `None` for what bears no number of its client's.
#[inline]
fn key(request: &Request) -> Option<u64> {
    let block = request.block.filter(|block| block.acked != 0 && request.policy != Policy::ReplicatedRoute)?;
    let (ip, port) = (u32::from(*request.triple.client.ip()), request.triple.client.port());
    let client = u64::from(ip) << 16 | u64::from(port);
    // Of a client's numbers, which follow each other, neighbours lie far apart.
    let key = (client.wrapping_mul(0xa076_1d64_78bd_642f) ^ block.acked).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(key.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::r2p2::{RequestBlock, Rid, Triple};
    use crate::request::Body;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn read(port: u16, number: u64, rid: u16) -> Request {
        let client = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port);
        Request {
            triple: Triple { client, rid: Rid(rid) },
            policy: Policy::ReplicatedRouteNoSideEffects,
            block: Some(RequestBlock { acked: number, ..RequestBlock::default() }),
            forwarded: false,
            body: Body::Assembled(Vec::new(), 0),
        }
    }

    #[test]
    fn a_copy_is_known_until_the_first_ends() {
        let mut open = OpenReads::new();
        assert!(open.begin(&read(1000, 7, 1)));
        assert!(!open.begin(&read(1000, 7, 2)), "whatever its request id");
        assert!(open.begin(&read(1001, 7, 3)) && open.begin(&read(1000, 8, 4)), "others' are not");
        open.end(&read(1000, 9, 5));
        assert!(!open.begin(&read(1000, 7, 6)));
        open.end(&read(1000, 7, 1));
        assert!(open.begin(&read(1000, 7, 7)));
    }

    /// Writes have names, and foreign clients no numbers: each of these is executed.
    #[test]
    fn what_bears_no_number_is_never_a_copy() {
        let mut open = OpenReads::new();
        let write = || Request { policy: Policy::ReplicatedRoute, ..read(1, 7, 1) };
        let foreign = || Request { block: None, ..read(1, 7, 1) };
        for _ in 0..2 {
            assert!(open.begin(&write()) && open.begin(&foreign()) && open.begin(&read(1, 0, 1)));
        }
    }

    /// More than there are places: none is refused, and most of a hundred that are on their way at once are known.
    #[test]
    fn a_full_table_forgets_and_refuses_nobody() {
        let mut open = OpenReads::new();
        assert!((1..=10_000).all(|number| open.begin(&read(1000, number, 1))));
        let copies = (9_901..=10_000).filter(|number| !open.begin(&read(1000, *number, 2))).count();
        assert!(copies >= 90, "{copies}");
    }
}
