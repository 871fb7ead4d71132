//! The remembered replies of all sessions, oldest first: a list threaded through a table, so that any one can leave it at
//! once.

use super::{REPLY_COST_BYTES, SessionId};
use crate::state::Turns;
use smallvec::SmallVec;

/// Replies up to this length lie in the table itself.
const INLINE_BYTES: usize = 24;
/// Buffers of forgotten replies that unused places keep for the next ones, in bytes: once replies come and go, none is
/// allocated.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Where a reply is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyKey(u32);

#[derive(Debug)]
struct Kept {
    session: SessionId,
    seq: u64,
    body: SmallVec<[u8; INLINE_BYTES]>,
    older: ReplyKey,
    newer: ReplyKey,
}

/// Places are never given back to the allocator; there are at most as many as windows have.
#[derive(Debug)]
pub(super) struct Replies {
    places: Vec<Kept>,
    /// Unused places, linked by `newer`.
    free: ReplyKey,
    oldest: ReplyKey,
    newest: ReplyKey,
    bytes: usize,
    /// Held by unused places.
    spare_bytes: usize,
}

impl Replies {
    /// No reply.
    pub(super) const NONE: ReplyKey = ReplyKey(u32::MAX);

    pub(super) fn new() -> Replies {
        let none = Replies::NONE;
        Replies { places: Vec::new(), free: none, oldest: none, newest: none, bytes: 0, spare_bytes: 0 }
    }

    /// Appends the newest.
    pub(super) fn add(&mut self, session: SessionId, seq: u64, body: &[u8]) -> ReplyKey {
        let older = self.newest;
        let key = match self.places.get_mut(self.free.0 as usize) {
            Some(place) => {
                let key = self.free;
                self.free = std::mem::replace(&mut place.newer, Replies::NONE);
                (place.session, place.seq, place.older) = (session, seq, older);
                self.spare_bytes -= held(&place.body);
                // A buffer far too large would hold more than is counted.
                if held(&place.body) > 2 * body.len() {
                    place.body = SmallVec::new();
                }
                // In place, and empty so far: a reply that was made elsewhere and moved here took several times as long.
                place.body.reserve_exact(body.len());
                place.body.extend_from_slice(body);
                key
            }
            None => {
                let body = SmallVec::from_slice(body);
                self.places.push(Kept { session, seq, body, older, newer: Replies::NONE });
                ReplyKey(self.places.len() as u32 - 1)
            }
        };
        self.link(older, key);
        self.newest = key;
        self.bytes += cost(body.len());
        key
    }

    /// A reply's bytes, `None` for [`Replies::NONE`].
    pub(super) fn get(&self, key: ReplyKey) -> Option<&[u8]> {
        self.places.get(key.0 as usize).map(|kept| &kept.body[..])
    }

    /// Forgets a reply; nothing happens for [`Replies::NONE`].
    pub(super) fn remove(&mut self, key: ReplyKey) {
        let Some(kept) = self.places.get_mut(key.0 as usize) else { return };
        let (older, newer) = (kept.older, kept.newer);
        self.bytes -= cost(kept.body.len());
        kept.body.clear();
        if self.spare_bytes + held(&kept.body) > SPARE_BYTES_MAX {
            kept.body = SmallVec::new();
        }
        self.spare_bytes += held(&kept.body);
        kept.newer = std::mem::replace(&mut self.free, key);
        self.link(older, newer);
        if let Some(kept) = self.places.get_mut(newer.0 as usize) {
            kept.older = older;
        } else {
            self.newest = older;
        }
    }

    /// Forgets the oldest, and says whose it was.
    pub(super) fn evict_oldest(&mut self) -> Option<(SessionId, u64)> {
        let oldest = self.places.get(self.oldest.0 as usize)?;
        let whose = (oldest.session, oldest.seq);
        self.remove(self.oldest);
        Some(whose)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the memory back, a slice at a time.
    pub(super) async fn discard(mut self, turns: &mut Turns) {
        for place in &mut self.places {
            let body = std::mem::take(&mut place.body);
            let bytes = held(&body);
            drop(body);
            turns.spend(bytes).await;
        }
        turns.drop_vec(self.places).await;
    }

    /// Bytes outside the table: of what is kept, and of what is not.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        let all: usize = self.places.iter().map(|kept| held(&kept.body)).sum();
        (all - self.spare_bytes, self.spare_bytes)
    }

    /// Places, used or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Lets `newer` follow upon `older`.
    fn link(&mut self, older: ReplyKey, newer: ReplyKey) {
        match self.places.get_mut(older.0 as usize) {
            Some(kept) => kept.newer = newer,
            None => self.oldest = newer,
        }
    }
}

/// Bytes that a body holds outside the table.
fn held(body: &SmallVec<[u8; INLINE_BYTES]>) -> usize {
    if body.spilled() { body.capacity() } else { 0 }
}

/// What a reply of that length costs of the budget.
pub(super) const fn cost(body_bytes: usize) -> usize {
    REPLY_COST_BYTES + body_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large replies that leave their buffers behind must not make small ones large, nor many buffers a leak.
    #[test]
    fn buffers_are_used_again_and_hold_little_more_than_is_counted() {
        let (mut replies, session) = (Replies::new(), SessionId(1));
        let mut keys: Vec<ReplyKey> = Vec::new();
        for round in 0..20u64 {
            for body_bytes in [30_000, 10, 100, 3_000].into_iter().cycle().take(200) {
                keys.push(replies.add(session, round, &vec![7; body_bytes]));
            }
            assert!(replies.held_bytes().0 <= 2 * replies.bytes(), "{:?}", replies.held_bytes());
            keys.drain(..).for_each(|key| replies.remove(key));
            assert_eq!((replies.bytes(), replies.held_bytes().0), (0, 0));
            assert!(replies.held_bytes().1 <= SPARE_BYTES_MAX);
        }
        let before = replies.held_bytes().1;
        assert!(before > 0, "some are kept");
        let key = replies.add(session, 1, &[1; 100]);
        assert_eq!(replies.get(key), Some(&[1; 100][..]));
    }

    #[test]
    fn a_buffer_is_used_again_for_what_fills_half_of_it() {
        let (mut replies, session) = (Replies::new(), SessionId(1));
        let key = replies.add(session, 1, &[7; 30_000]);
        replies.remove(key);
        let spare = replies.held_bytes().1;
        assert!(spare >= 30_000);
        let key = replies.add(session, 2, &[8; 20_000]);
        assert_eq!(replies.held_bytes(), (spare, 0));
        replies.remove(key);
        replies.add(session, 3, &[9; 10]);
        assert_eq!(replies.held_bytes(), (0, 0));
    }
}
