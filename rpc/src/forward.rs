//! Requests on their way from follower to leader: sent on once, joined again where one datagram needed two.

use crate::peer::PeerSocket;
use crate::r2p2::counters::DropReason;
use crate::r2p2::forward::{CHECK_BYTES, Forwarded};
use crate::r2p2::header::{Header, Triple};
use crate::r2p2::layout::FORWARD_BYTES;
use crate::stats::{Event, ServerCounters};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;
use trimaran_raft::{ClusterId, Member};
use trimaran_runtime::Instant;

/// The follower's side: sends a request to the leader and remembers that it did.
pub(crate) struct Forwarder {
    peers: Rc<PeerSocket>,
    recent: RefCell<Recent>,
    counters: Rc<ServerCounters>,
}

impl Forwarder {
    /// `limit` requests are remembered for `memory` each.
    pub(crate) fn new(peers: Rc<PeerSocket>, limit: usize, memory: Duration, counters: Rc<ServerCounters>) -> Self {
        let recent = RefCell::new(Recent { limit, memory, order: VecDeque::new(), until: BTreeMap::new() });
        Forwarder { peers, recent, counters }
    }

    /// Sends one datagram of a client to the leader, unless it did so a moment ago. `false`: no room here, or no buffer
    /// at the peer socket; the leader cannot have it whole, so the client may be told no.
    pub(crate) fn forward(
        &self,
        cluster: ClusterId,
        leader: &Member,
        client: SocketAddrV4,
        header: &Header,
        payload: &[u8],
    ) -> bool {
        let triple = Triple { client, rid: header.rid };
        match self.recent.borrow_mut().add(trimaran_runtime::now(), triple) {
            Added::New => {}
            Added::Copy => {
                self.counters.drop_for(DropReason::CopyForwarded);
                return true;
            }
            Added::Full => return false,
        }
        let room = self.peers.forward_room_bytes().saturating_sub(FORWARD_BYTES).max(1);
        let with_check;
        let (payload, checked) = match payload.len() <= room {
            true => (payload, false),
            false => {
                with_check = [payload, &crc32c::crc32c(payload).to_le_bytes()].concat();
                (with_check.as_slice(), true)
            }
        };
        let Ok(total) = u16::try_from(payload.len()) else { return false };
        let mut offset = 0;
        loop {
            let part = &payload[offset..payload.len().min(offset + room)];
            let framing = Forwarded { client, header: *header, offset: offset as u16, total, checked }.emit();
            if !self.peers.send_forward(cluster, leader, &framing, part) {
                self.counters.count(Event::ForwardUnsent);
                if offset == 0 {
                    self.recent.borrow_mut().forget_newest();
                }
                return false;
            }
            offset += part.len();
            if offset >= payload.len() {
                self.counters.count(Event::Forwarded);
                return true;
            }
        }
    }
}

/// Which requests were sent on a moment ago, oldest first.
struct Recent {
    limit: usize,
    memory: Duration,
    order: VecDeque<(Instant, Triple)>,
    until: BTreeMap<Triple, Instant>,
}

enum Added {
    New,
    Copy,
    Full,
}

impl Recent {
    fn add(&mut self, now: Instant, triple: Triple) -> Added {
        while let Some(&(until, old)) = self.order.front() {
            if until > now {
                break;
            }
            self.order.pop_front();
            self.until.remove(&old);
        }
        if self.until.contains_key(&triple) {
            return Added::Copy;
        }
        if self.order.len() >= self.limit {
            return Added::Full;
        }
        let until = now + self.memory;
        self.order.push_back((until, triple));
        self.until.insert(triple, until);
        Added::New
    }

    /// The request added last was not sent after all: its client was refused and may ask again.
    fn forget_newest(&mut self) {
        if let Some((_, triple)) = self.order.pop_back() {
            self.until.remove(&triple);
        }
    }
}

/// A client's first datagram as the leader gets it from a follower.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) triple: Triple,
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

/// Takes the check sum off; `None` where the two halves are not of one datagram.
fn take_check(mut payload: Vec<u8>, checked: bool) -> Option<Vec<u8>> {
    if checked {
        let (bytes, check) = payload.split_last_chunk::<CHECK_BYTES>()?;
        if crc32c::crc32c(bytes).to_le_bytes() != *check {
            return None;
        }
        payload.truncate(payload.len() - CHECK_BYTES);
    }
    Some(payload)
}

/// The leader's side: joins the two parts of a datagram that did not fit into one with its framing.
pub(crate) struct Joiner {
    halves: BTreeMap<Triple, Half>,
    limit: usize,
    memory: Duration,
}

struct Half {
    until: Instant,
    offset: u16,
    total: u16,
    bytes: Vec<u8>,
}

impl Joiner {
    pub(crate) fn new(limit: usize, memory: Duration) -> Self {
        Joiner { halves: BTreeMap::new(), limit, memory }
    }

    /// Takes one part and returns the datagram once it is whole. A part that fits nowhere is counted.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        framing: &Forwarded,
        part: &[u8],
        counters: &ServerCounters,
    ) -> Option<Arrived> {
        let triple = framing.triple();
        let whole = |payload| Some(Arrived { triple, header: framing.header, payload });
        if part.len() == usize::from(framing.total) {
            return take_check(part.to_vec(), framing.checked).and_then(whole);
        }
        let expired = self.halves.len();
        self.halves.retain(|_, half| half.until > now);
        for _ in self.halves.len()..expired {
            counters.count(Event::ForwardHalfLost);
        }
        if let Some(half) = self.halves.get(&triple) {
            let (front, back) = match half.offset < framing.offset {
                true => (half.bytes.as_slice(), part),
                false => (part, half.bytes.as_slice()),
            };
            let back_at = half.offset.max(framing.offset);
            let joins = half.total == framing.total
                && half.offset.min(framing.offset) == 0
                && front.len() == usize::from(back_at)
                && front.len() + back.len() == usize::from(framing.total);
            let payload =
                joins.then(|| [front, back].concat()).and_then(|payload| take_check(payload, framing.checked));
            if half.offset == framing.offset {
                return None; // a copy of the half that is here already
            }
            self.halves.remove(&triple);
            if payload.is_none() {
                counters.count(Event::ForwardHalfLost);
            }
            return payload.and_then(whole);
        }
        if self.halves.len() >= self.limit {
            counters.count(Event::ForwardHalfLost);
            return None;
        }
        let half =
            Half { until: now + self.memory, offset: framing.offset, total: framing.total, bytes: part.to_vec() };
        self.halves.insert(triple, half);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::r2p2::header::{MessageType, Rid};
    use crate::r2p2::policy::Policy;

    fn framing(rid: u16, offset: u16, total: u16) -> Forwarded {
        Forwarded {
            client: "10.0.0.9:33000".parse().unwrap(),
            header: Header::single(MessageType::Request, Policy::ReplicatedRoute, Rid(rid)),
            offset,
            total,
            checked: false,
        }
    }

    /// A client that uses an id again at once may have two datagrams on the way in halves: they must not be mixed.
    #[test]
    fn halves_of_two_datagrams_do_not_join() {
        let (mut joiner, counters) = (Joiner::new(4, Duration::from_millis(200)), ServerCounters::default());
        let now = Instant::ZERO;
        let halves = |payload: &[u8]| {
            let whole = [payload, &crc32c::crc32c(payload).to_le_bytes()].concat();
            (whole[..3].to_vec(), whole[3..].to_vec())
        };
        let checked = |offset| Forwarded { checked: true, ..framing(1, offset, 9) };
        let (old, new) = (halves(b"abcde"), halves(b"abxyz"));
        assert!(joiner.add(now, &checked(0), &old.0, &counters).is_none());
        assert!(joiner.add(now, &checked(3), &new.1, &counters).is_none());
        assert_eq!(counters.get(Event::ForwardHalfLost), 1);
        assert!(joiner.add(now, &checked(0), &new.0, &counters).is_none());
        assert_eq!(joiner.add(now, &checked(3), &new.1, &counters).expect("whole").payload, b"abxyz");
    }

    #[test]
    fn halves_join_in_either_order() {
        for swap in [false, true] {
            let (mut joiner, counters) = (Joiner::new(4, Duration::from_millis(200)), ServerCounters::default());
            let mut parts = [(0, &b"abc"[..]), (3, &b"de"[..])];
            if swap {
                parts.reverse();
            }
            let now = Instant::ZERO;
            assert!(joiner.add(now, &framing(1, parts[0].0, 5), parts[0].1, &counters).is_none());
            // A copy of a half changes nothing.
            assert!(joiner.add(now, &framing(1, parts[0].0, 5), parts[0].1, &counters).is_none());
            let whole = joiner.add(now, &framing(1, parts[1].0, 5), parts[1].1, &counters).unwrap();
            assert_eq!(whole.payload, b"abcde");
            assert_eq!(joiner.halves.len(), 0);
            assert_eq!(counters.get(Event::ForwardHalfLost), 0);
        }
    }

    #[test]
    fn halves_that_disagree_are_dropped_and_counted() {
        let (mut joiner, counters) = (Joiner::new(4, Duration::from_millis(200)), ServerCounters::default());
        assert!(joiner.add(Instant::ZERO, &framing(1, 0, 5), b"abc", &counters).is_none());
        assert!(joiner.add(Instant::ZERO, &framing(1, 4, 5), b"e", &counters).is_none());
        assert_eq!(counters.get(Event::ForwardHalfLost), 1);
        assert_eq!(joiner.halves.len(), 0);
    }

    #[test]
    fn halves_are_bounded_and_age() {
        let (mut joiner, counters) = (Joiner::new(1, Duration::from_millis(200)), ServerCounters::default());
        assert!(joiner.add(Instant::ZERO, &framing(1, 0, 5), b"abc", &counters).is_none());
        assert!(joiner.add(Instant::ZERO, &framing(2, 0, 5), b"abc", &counters).is_none());
        assert_eq!(counters.get(Event::ForwardHalfLost), 1);
        let later = Instant::ZERO + Duration::from_millis(200);
        assert!(joiner.add(later, &framing(1, 3, 5), b"de", &counters).is_none(), "its first half is too old");
        assert_eq!(counters.get(Event::ForwardHalfLost), 2);
    }

    #[test]
    fn a_copy_is_forwarded_again_only_after_the_memory() {
        let mut recent =
            Recent { limit: 2, memory: Duration::from_millis(200), order: VecDeque::new(), until: BTreeMap::new() };
        let triple = |rid| framing(rid, 0, 1).triple();
        assert!(matches!(recent.add(Instant::ZERO, triple(1)), Added::New));
        assert!(matches!(recent.add(Instant::ZERO, triple(1)), Added::Copy));
        assert!(matches!(recent.add(Instant::ZERO, triple(4)), Added::New));
        recent.forget_newest();
        assert!(matches!(recent.add(Instant::ZERO, triple(1)), Added::Copy), "only the newest is forgotten");
        assert!(matches!(recent.add(Instant::ZERO, triple(2)), Added::New));
        assert!(matches!(recent.add(Instant::ZERO, triple(3)), Added::Full));
        let later = Instant::ZERO + Duration::from_millis(200);
        assert!(matches!(recent.add(later, triple(1)), Added::New));
    }
}
