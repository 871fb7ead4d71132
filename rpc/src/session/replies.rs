//! The remembered replies of all sessions, oldest first: a list threaded through a table, so that any one can leave it at
//! once.

use super::{REPLY_COST_BYTES, SessionId};
use smallvec::SmallVec;

/// Replies up to this length lie in the table itself.
const INLINE_BYTES: usize = 24;

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
}

impl Replies {
    /// No reply.
    pub(super) const NONE: ReplyKey = ReplyKey(u32::MAX);

    pub(super) fn new() -> Replies {
        let none = Replies::NONE;
        Replies { places: Vec::new(), free: none, oldest: none, newest: none, bytes: 0 }
    }

    /// Appends the newest.
    pub(super) fn add(&mut self, session: SessionId, seq: u64, body: &[u8]) -> ReplyKey {
        let older = self.newest;
        let kept = Kept { session, seq, body: SmallVec::from_slice(body), older, newer: Replies::NONE };
        let key = match self.places.get_mut(self.free.0 as usize) {
            Some(place) => {
                let key = self.free;
                self.free = place.newer;
                *place = kept;
                key
            }
            None => {
                self.places.push(kept);
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
        kept.body = SmallVec::new();
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

/// What a reply of that length costs of the budget.
pub(super) const fn cost(body_bytes: usize) -> usize {
    REPLY_COST_BYTES + body_bytes
}
