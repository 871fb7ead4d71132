//! The sessions of one client: which numbers are free, and how far the cluster may forget.

use super::error::CallError;
use crate::session::{CallId, SessionId, WINDOW};
use trimaran_raft::{ClusterId, LogIndex};

/// Bits of a copy's number in the block of a request.
const COPY_BITS: u32 = 24;

/// Another cluster answers than the one that this client belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replaced;

/// What is to become of a call's number when the call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody will ask again: the cluster may forget it.
    Forget,
    /// The caller may call again under this name, as long as the window can stay where it is.
    Keep,
}

/// One session as its client sees it.
#[derive(Debug)]
struct Window {
    id: SessionId,
    /// Everything up to here has been answered or given up.
    acked: u64,
    /// The number of the next call.
    next: u64,
    /// Copies of its calls sent so far.
    copies: u32,
    /// Calls on their way; bit i stands for number `acked + 1 + i`, here and below.
    open: u64,
    /// Calls that ended without an answer and may be called again.
    kept: u64,
}

impl Window {
    fn new(id: SessionId) -> Window {
        Window { id, acked: 0, next: 1, copies: 0, open: 0, kept: 0 }
    }

    fn take(&mut self) -> Option<u64> {
        if self.next - self.acked > WINDOW {
            // The window must move past the oldest, if nobody waits for it any more.
            self.kept &= !1;
            self.advance();
        }
        if self.next - self.acked > WINDOW {
            return None;
        }
        let seq = self.next;
        self.open |= self.bit(seq);
        self.next += 1;
        Some(seq)
    }

    fn end(&mut self, seq: u64, end: End) {
        let bit = self.bit(seq);
        self.open &= !bit;
        match end {
            End::Keep => self.kept |= bit,
            End::Forget => self.kept &= !bit,
        }
        self.advance();
    }

    /// Lets `acked` pass what nobody needs.
    fn advance(&mut self) {
        let given = self.next - self.acked - 1;
        let free = u64::from((self.open | self.kept).trailing_zeros()).min(given);
        self.acked += free;
        let shift = |bits: u64| bits.checked_shr(free as u32).unwrap_or(0);
        (self.open, self.kept) = (shift(self.open), shift(self.kept));
    }

    /// 0 for a number outside of the window.
    fn bit(&self, seq: u64) -> u64 {
        let place = seq.wrapping_sub(self.acked).wrapping_sub(1);
        if place < WINDOW { 1 << place } else { 0 }
    }
}

/// All sessions of one client, and the cluster that they belong to.
#[derive(Debug)]
pub(super) struct Pool {
    cluster: Option<ClusterId>,
    is_replaced: bool,
    windows: Vec<Window>,
    /// Where a free number was found last.
    current: usize,
    limit: usize,
    /// Names the next registration: one session comes of it, however often it is sent.
    nonce: u128,
    /// Registrations that have ended, whatever came of them.
    pub(super) rounds: u64,
    /// A registration is on its way.
    pub(super) is_registering: bool,
    /// Why the registration on its way, or the last one, has not succeeded yet.
    pub(super) refusal: Option<CallError>,
}

impl Pool {
    /// No session yet, and `limit` at most. `nonce` must be drawn at random: nobody else may ever use the same.
    pub(super) fn new(limit: usize, nonce: u128) -> Pool {
        Pool {
            cluster: None,
            is_replaced: false,
            windows: Vec::new(),
            current: 0,
            limit: limit.max(1),
            nonce,
            rounds: 0,
            is_registering: false,
            refusal: None,
        }
    }

    pub(super) fn nonce(&self) -> u128 {
        self.nonce
    }

    /// What calls without a session carry, 0 before the cluster is known.
    pub(super) fn pin(&self) -> u64 {
        self.cluster.map_or(0, |cluster| SessionId::pin(cluster).0)
    }

    pub(super) fn check(&self) -> Result<(), Replaced> {
        if self.is_replaced { Err(Replaced) } else { Ok(()) }
    }

    /// Whether another session may be opened.
    pub(super) fn has_room(&self) -> bool {
        self.windows.len() < self.limit
    }

    /// Writes that may be on their way at a time.
    pub(super) fn writes_max(&self) -> usize {
        self.limit * WINDOW as usize
    }

    /// A number for a new call, `None` where every session has a full window. O(1) while one session has room.
    pub(super) fn take(&mut self) -> Option<CallId> {
        for step in 0..self.windows.len() {
            let place = (self.current + step) % self.windows.len();
            let window = &mut self.windows[place];
            if let Some(seq) = window.take() {
                self.current = place;
                return Some(CallId { session: window.id.0, seq });
            }
        }
        None
    }

    /// Takes the number of a call that ended with [`End::Keep`]. `false`: it is not, or no longer, kept here; it may be
    /// sent all the same, and the cluster decides.
    pub(super) fn resume(&mut self, call: CallId) -> bool {
        let Some(window) = self.window(call) else { return false };
        let bit = window.kept & window.bit(call.seq);
        window.kept &= !bit;
        window.open |= bit;
        bit != 0
    }

    /// Gives back a number that was taken.
    pub(super) fn end(&mut self, call: CallId, end: End) {
        if let Some(window) = self.window(call) {
            window.end(call.seq, end);
        }
    }

    /// What a copy of this call sent now says of the calls before it.
    pub(super) fn acked(&self, call: CallId) -> u64 {
        let window = self.windows.iter().find(|window| window.id.0 == call.session);
        window.map_or(0, |window| window.acked.min(call.seq.saturating_sub(1)))
    }

    /// The number of another copy of this call, never 0; 0 for a call of a session that is not, or no longer, this client's own:
    /// somebody else may count its copies.
    pub(super) fn next_copy(&mut self, call: CallId) -> u32 {
        let Some(window) = self.window(call) else { return 0 };
        window.copies = (window.copies + 1) & ((1 << COPY_BITS) - 1);
        if window.copies == 0 {
            window.copies = 1;
        }
        window.copies
    }

    /// The cluster has opened a session for this client.
    pub(super) fn opened(&mut self, cluster: ClusterId, index: LogIndex) {
        self.nonce = self.nonce.wrapping_add(1);
        self.refusal = None;
        match self.cluster {
            Some(pinned) if pinned != cluster => self.is_replaced = true,
            _ => self.cluster = Some(cluster),
        }
        let id = SessionId::new(cluster, index);
        if !self.is_replaced && self.has_room() && self.windows.iter().all(|window| window.id != id) {
            self.current = self.windows.len();
            self.windows.push(Window::new(id));
        }
    }

    /// The cluster knows this session no more.
    pub(super) fn expired(&mut self, session: u64) {
        self.windows.retain(|window| window.id.0 != session);
        self.current = 0;
    }

    fn window(&mut self, call: CallId) -> Option<&mut Window> {
        self.windows.iter_mut().find(|window| window.id.0 == call.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId(99);

    fn pool(limit: usize) -> Pool {
        let mut pool = Pool::new(limit, 5);
        pool.opened(CLUSTER, LogIndex(1));
        pool
    }

    fn taken(pool: &mut Pool) -> CallId {
        pool.take().expect("a number")
    }

    #[test]
    fn what_is_answered_in_any_order_moves_the_window() {
        let mut pool = pool(1);
        let calls: Vec<_> = (0..64).map(|_| taken(&mut pool)).collect();
        assert_eq!(pool.take(), None);
        calls[1..].iter().for_each(|call| pool.end(*call, End::Forget));
        assert_eq!((pool.take(), pool.acked(calls[0])), (None, 0), "the oldest is still open");
        pool.end(calls[0], End::Forget);
        let next = taken(&mut pool);
        assert_eq!((next.seq, pool.acked(next), pool.acked(calls[9])), (65, 64, 9));
    }

    /// A name that may be called again stays until room is needed, and then the oldest goes first.
    #[test]
    fn a_kept_number_stays_until_the_window_must_move() {
        let mut pool = pool(1);
        let kept = taken(&mut pool);
        pool.end(kept, End::Keep);
        let second = taken(&mut pool);
        pool.end(second, End::Keep);
        for _ in 0..62 {
            let call = taken(&mut pool);
            assert_eq!(pool.acked(call), 0);
            pool.end(call, End::Forget);
        }
        assert!(pool.resume(kept));
        assert!(!pool.resume(kept), "it is on its way");
        assert_eq!(pool.take(), None);
        pool.end(kept, End::Keep);
        let call = taken(&mut pool);
        assert_eq!((call.seq, pool.acked(call)), (65, 1));
        assert!(!pool.resume(kept) && pool.resume(second));
    }

    #[test]
    fn another_session_takes_over_and_an_expired_one_is_gone() {
        let mut pool = pool(2);
        let first: Vec<_> = (0..64).map(|_| taken(&mut pool)).collect();
        assert!(pool.take().is_none() && pool.has_room());
        pool.opened(CLUSTER, LogIndex(9));
        pool.opened(CLUSTER, LogIndex(9));
        let second = taken(&mut pool);
        assert_eq!(SessionId(second.session).index(), LogIndex(9));
        assert!(!pool.has_room());
        pool.expired(first[0].session);
        pool.end(first[0], End::Keep);
        assert!(!pool.resume(first[0]) && pool.has_room());
        assert_eq!(taken(&mut pool).session, second.session);
    }

    #[test]
    fn copies_are_numbered_in_each_session_of_its_own() {
        let mut pool = pool(2);
        let calls: Vec<_> = (0..65).filter_map(|_| pool.take()).collect();
        assert_eq!([0, 1, 0].map(|place| pool.next_copy(calls[place])), [1, 2, 3]);
        pool.opened(CLUSTER, LogIndex(9));
        let other = taken(&mut pool);
        assert_eq!((pool.next_copy(other), pool.next_copy(calls[0])), (1, 4));
        pool.windows[0].copies = (1 << 24) - 2;
        assert_eq!([0; 2].map(|_| pool.next_copy(calls[0])), [(1 << 24) - 1, 1]);
        pool.expired(other.session);
        assert_eq!(pool.next_copy(other), 0);
    }

    #[test]
    fn another_cluster_is_seen_and_gets_no_session() {
        let mut pool = pool(4);
        assert_eq!(pool.pin(), SessionId::pin(CLUSTER).0);
        let nonce = pool.nonce();
        pool.opened(ClusterId(7), LogIndex(1));
        assert_eq!((pool.check(), pool.nonce()), (Err(Replaced), nonce + 1));
        assert_eq!(taken(&mut pool).session, SessionId::new(CLUSTER, LogIndex(1)).0);
    }

    proptest! {
        /// Numbers are given out once each and in order; `acked` never passes an open call, nor one that is kept while
        /// there is room; and open calls never span more than a window.
        #[test]
        fn a_window_never_loses_a_call(steps in prop::collection::vec((0..3u8, any::<prop::sample::Index>()), 1..400)) {
            let mut window = Window::new(SessionId(1));
            let (mut open, mut next) = (Vec::new(), 1);
            for (step, which) in steps {
                match step {
                    0 => match window.take() {
                        Some(seq) => {
                            prop_assert_eq!(seq, next);
                            next += 1;
                            open.push(seq);
                        }
                        None => prop_assert_eq!(open.iter().min().copied(), Some(window.acked + 1)),
                    },
                    _ if open.is_empty() => {}
                    step => {
                        let seq = open.swap_remove(which.index(open.len()));
                        window.end(seq, if step == 1 { End::Forget } else { End::Keep });
                    }
                }
                prop_assert!(open.iter().all(|seq| *seq > window.acked && *seq <= window.acked + WINDOW));
                prop_assert_eq!(window.open.count_ones() as usize, open.len());
                prop_assert!(window.open & window.kept == 0 && window.next <= window.acked + WINDOW + 1);
            }
        }
    }
}
