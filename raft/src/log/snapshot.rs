//! Snapshots beside the log: the one that is being sent, and the one that is being put together.
//!
//! What travels is the service's state followed by a trailer with what Raft needs to go on from there. The identity holds a
//! hash of both, so that chunks of two senders mix only where they are the same bytes.

use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::pieces::Pieces;
use crate::config::Configuration;
use crate::id::{LogIndex, Nanos, NodeId, Term};
use crate::message::{ChunkHead, SnapshotId};
use crate::wire::{Reader, Writer};

const VERSION: u8 = 1;
/// Version, log time and digest before the configuration.
const TRAILER_FIXED_BYTES: usize = 1 + 8 + 8;
/// The state is hashed in blocks of this size, each with the hash of those before as its seed.
pub(crate) const HASH_BLOCK_BYTES: usize = 64 << 10;

/// A service's state after an entry, as the apply task gives it out. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Every entry up to this one, and none after, is in it.
    pub index: LogIndex,
    /// Log time of that entry, in nanoseconds.
    pub log_time: u64,
    /// The state, encoded by the service: the same bytes on every replica, if the sender is to change midway.
    pub bytes: Rc<Vec<u8>>,
}

/// A snapshot that arrived whole: the log begins anew after it, and so must the state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReceivedSnapshot {
    /// Every entry up to this one, and none after, is in it.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// Log time of that entry, in nanoseconds.
    pub log_time: u64,
    /// The digest after that entry, as its sender had it; 0 where that was not known.
    pub digest: u64,
    /// The configuration in force there.
    pub configuration: Configuration,
    /// The state, as the service encoded it.
    pub bytes: Rc<Vec<u8>>,
}

/// The hash of a state, block by block, so that no turn has to hash all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct StateHash {
    hash: u64,
    hashed: usize,
}

impl StateHash {
    /// Hashes up to `blocks` further whole blocks of `prefix`, all that is known of the state. True when no whole one is left.
    pub(crate) fn advance(&mut self, prefix: &[u8], blocks: usize) -> bool {
        for _ in 0..blocks {
            let Some(block) = prefix.get(self.hashed..self.hashed + HASH_BLOCK_BYTES) else { return true };
            self.hash = xxh3_64_with_seed(block, self.hash);
            self.hashed += HASH_BLOCK_BYTES;
        }
        prefix.len() < self.hashed + HASH_BLOCK_BYTES
    }

    /// The hash of the whole state.
    pub(crate) fn finish(mut self, state: &[u8]) -> u64 {
        while !self.advance(state, usize::MAX) {}
        xxh3_64_with_seed(state.get(self.hashed..).unwrap_or_default(), self.hash)
    }
}

/// The hash that a snapshot's identity begins with; for callers that are not a [`crate::Shard`].
pub fn state_hash(state: &[u8]) -> u64 {
    StateHash::default().finish(state)
}

/// A snapshot for peers that need what the log no longer holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Outbound {
    id: SnapshotId,
    state: Rc<Vec<u8>>,
    trailer: Vec<u8>,
}

/// A snapshot under construction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Inbound {
    id: SnapshotId,
    /// Who sent the newest chunk, in which term, and when it came.
    newest: (NodeId, Term, Nanos),
    state_bytes: u32,
    content: Pieces,
    hash: StateHash,
}

/// At most one snapshot on its way out, one on its way in, and one that arrived and waits for the apply task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Snapshots {
    outbound: Option<Outbound>,
    inbound: Option<Inbound>,
    received: Option<ReceivedSnapshot>,
}

fn trailer(log_time: u64, digest: u64, config: &Configuration) -> Vec<u8> {
    let config = config.encode();
    let mut bytes = vec![0; TRAILER_FIXED_BYTES + config.len()];
    let mut w = Writer::new(&mut bytes);
    w.u8(VERSION);
    w.u64(log_time);
    w.u64(digest);
    w.bytes(&config);
    bytes
}

impl super::Log {
    /// Keeps `snapshot` for sending. `state_hash` is [`state_hash`] of its bytes. `None`, and nothing kept, when it is too large
    /// for its lengths to be written.
    pub(crate) fn keep_snapshot(
        &mut self,
        snapshot: &Snapshot,
        term: Term,
        state_hash: u64,
        digest: u64,
        config: &Configuration,
    ) -> Option<SnapshotId> {
        let trailer = trailer(snapshot.log_time, digest, config);
        u32::try_from(snapshot.bytes.len() + trailer.len()).ok()?;
        let hash = xxh3_64_with_seed(&trailer, state_hash);
        let id = SnapshotId { index: snapshot.index, term, hash };
        self.snapshots.outbound = Some(Outbound { id, state: Rc::clone(&snapshot.bytes), trailer });
        Some(id)
    }

    /// The snapshot kept for sending: its identity, the bytes of the state, and all its bytes.
    pub(crate) fn kept_snapshot(&self) -> Option<(SnapshotId, u32, u32)> {
        let outbound = self.snapshots.outbound.as_ref()?;
        // Checked when it was kept.
        Some((outbound.id, outbound.state.len() as u32, (outbound.state.len() + outbound.trailer.len()) as u32))
    }

    pub(crate) fn drop_kept_snapshot(&mut self) {
        self.snapshots.outbound = None;
    }

    /// Fills `place` from the kept snapshot, if it is `id`, from `offset` on. False where it is not, or has fewer bytes.
    pub(crate) fn read_snapshot(&self, id: SnapshotId, offset: u32, place: &mut [u8]) -> bool {
        let Some(outbound) = self.snapshots.outbound.as_ref().filter(|outbound| outbound.id == id) else {
            return false;
        };
        let start = offset as usize;
        let state = outbound.state.get(start..).unwrap_or_default();
        let (from_state, from_trailer) = place.split_at_mut(state.len().min(place.len()));
        from_state.copy_from_slice(&state[..from_state.len()]);
        let start = start.saturating_sub(outbound.state.len());
        let rest = outbound.trailer.get(start..).and_then(|rest| rest.get(..from_trailer.len()));
        rest.is_some_and(|rest| {
            from_trailer.copy_from_slice(rest);
            true
        })
    }

    /// Takes a chunk in. Another snapshot than the one under construction takes its place. `mixed` takes chunks of any
    /// snapshot of one index for chunks of the same.
    pub(crate) fn add_chunk(&mut self, newest: (NodeId, Term, Nanos), head: &ChunkHead, piece: &[u8], mixed: bool) {
        let inbound = &mut self.snapshots.inbound;
        let same = |inbound: &Inbound| {
            (inbound.id == head.id || mixed && inbound.id.index == head.id.index)
                && inbound.state_bytes == head.state_bytes
        };
        if !inbound.as_ref().is_some_and(same) {
            let content = Pieces::new(head.total_bytes);
            *inbound = Some(Inbound {
                id: head.id,
                newest,
                state_bytes: head.state_bytes,
                content,
                hash: StateHash::default(),
            });
        }
        if let Some(inbound) = inbound {
            inbound.id = head.id;
            inbound.newest = newest;
            inbound.content.add(head.offset, piece);
            let known = inbound.content.prefix();
            // In step with what arrives; at least one block, so that it never falls behind.
            inbound.hash.advance(&known[..known.len().min(inbound.state_bytes as usize)], 2);
        }
    }

    /// Whether the snapshot under construction is to go on rather than to make place for `id`: the same sender has begun a newer one
    /// in this term, or this term's leader sends its own. What was begun in an earlier term does not count, nor what nothing came of since
    /// `lately`: it may never be finished.
    pub(crate) fn prefers_inbound(
        &self,
        sender: NodeId,
        leader: Option<NodeId>,
        term: Term,
        id: SnapshotId,
        lately: Nanos,
    ) -> bool {
        let inbound = self.snapshots.inbound.as_ref().filter(|inbound| inbound.id != id);
        inbound.is_some_and(|inbound| match inbound.newest {
            (_, earlier, at) if earlier < term || at < lately => false,
            (same, ..) if same == sender => inbound.id.index > id.index,
            (other, ..) => leader == Some(other),
        })
    }

    /// Bytes received without a gap of the snapshot under construction; 0 where there is none.
    pub(crate) fn inbound_bytes(&self) -> u32 {
        self.snapshots.inbound.as_ref().map_or(0, |inbound| inbound.content.offset())
    }

    /// Of the snapshot under construction, if it is `id`: the bytes received without a gap, and where the gap after them ends
    /// (0 where nothing comes after it).
    pub(crate) fn inbound_progress(&self, id: SnapshotId) -> (u32, u32) {
        let inbound = self.snapshots.inbound.as_ref().filter(|inbound| inbound.id == id);
        inbound.map_or((0, 0), |inbound| (inbound.content.offset(), inbound.content.gap_end()))
    }

    /// The snapshot under construction, once it is whole: checked and taken out. `Some(None)` for one that is not what its
    /// identity says; it begins anew. `unchecked` believes it anyway.
    pub(crate) fn finish_inbound(&mut self, unchecked: bool) -> Option<Option<ReceivedSnapshot>> {
        let inbound = self.snapshots.inbound.take_if(|inbound| inbound.content.is_complete())?;
        Some(inbound.check(unchecked))
    }

    /// Forgets a snapshot under construction that brings nothing beyond `commit`.
    pub(crate) fn forget_inbound(&mut self, commit: LogIndex) {
        self.snapshots.inbound.take_if(|inbound| inbound.id.index <= commit);
    }

    /// Begins the log anew after `snapshot`, which waits to be taken with [`super::Log::take_received`].
    pub(crate) fn install(&mut self, snapshot: ReceivedSnapshot) {
        self.reset(snapshot.index, snapshot.term, snapshot.log_time);
        self.snapshots.received = Some(snapshot);
    }

    /// Bytes of memory that the snapshot under construction takes; for fuzzing, which asserts that it grows with what has arrived.
    #[doc(hidden)]
    pub fn inbound_memory_bytes(&self) -> usize {
        self.snapshots.inbound.as_ref().map_or(0, |inbound| inbound.content.memory_bytes())
    }

    /// The snapshot that the log now begins with, for the caller that carries out [`crate::Action::Install`].
    pub fn take_received(&mut self) -> Option<ReceivedSnapshot> {
        self.snapshots.received.take()
    }
}

impl Inbound {
    fn check(self, unchecked: bool) -> Option<ReceivedSnapshot> {
        let mut bytes = self.content.into_bytes();
        let (state, trailer) = bytes.split_at_checked(self.state_bytes as usize)?;
        let hash = xxh3_64_with_seed(trailer, self.hash.finish(state));
        if hash != self.id.hash && !unchecked {
            return None;
        }
        let mut r = Reader::new(trailer);
        if r.u8()? != VERSION {
            return None;
        }
        let (log_time, digest) = (r.u64()?, r.u64()?);
        let configuration = Configuration::decode(r.rest())?;
        bytes.truncate(self.state_bytes as usize);
        let SnapshotId { index, term, .. } = self.id;
        Some(ReceivedSnapshot { index, term, log_time, digest, configuration, bytes: Rc::new(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;
    use crate::config::tests::member;
    use crate::id::{Incarnation, Slot};

    const NEWEST: (NodeId, Term, Nanos) = (NodeId { slot: Slot(1), incarnation: Incarnation(1) }, Term(4), Nanos::ZERO);

    fn snapshot(bytes: usize, salt: u8) -> Snapshot {
        let bytes = (0..bytes).map(|at| (at / 3) as u8 ^ salt).collect();
        Snapshot { index: LogIndex(9), log_time: 77, bytes: Rc::new(bytes) }
    }

    #[test]
    fn a_state_is_hashed_slice_by_slice_to_the_same_end() {
        let state = vec![5; 3 * HASH_BLOCK_BYTES + 10];
        let mut hash = StateHash::default();
        assert!(!hash.advance(&state, 2));
        assert_eq!((hash.advance(&state, 1), hash.hashed), (true, 3 * HASH_BLOCK_BYTES));
        assert_eq!(hash.finish(&state), state_hash(&state));
        assert!(hash.advance(&state, 1) && hash.hashed == 3 * HASH_BLOCK_BYTES);
        let mut hash = StateHash::default();
        assert!(!hash.advance(&state[..2 * HASH_BLOCK_BYTES], 1));
        assert!(hash.advance(&state[..2 * HASH_BLOCK_BYTES], 1));
    }

    fn chunks(log: &Log, chunk: u32) -> Vec<(ChunkHead, Vec<u8>)> {
        let (id, state_bytes, total_bytes) = log.kept_snapshot().expect("kept");
        let offsets = (0..total_bytes).step_by(chunk as usize);
        offsets
            .map(|offset| {
                let mut piece = vec![0; chunk.min(total_bytes - offset) as usize];
                assert!(log.read_snapshot(id, offset, &mut piece));
                (ChunkHead { id, state_bytes, total_bytes, offset }, piece)
            })
            .collect()
    }

    fn keep(log: &mut Log, snapshot: &Snapshot, config: &Configuration) {
        log.keep_snapshot(snapshot, Term(3), state_hash(&snapshot.bytes), 5, config).expect("fits");
    }

    #[test]
    fn chunks_in_any_order_are_the_snapshot_again() {
        let config = Configuration::of_voters(&[member(1), member(2)]);
        for bytes in [0, 1, 1000, HASH_BLOCK_BYTES, 3 * HASH_BLOCK_BYTES + 5] {
            let (mut from, mut to) = (Log::default(), Log::default());
            let sent = snapshot(bytes, 0);
            keep(&mut from, &sent, &config);
            let all = chunks(&from, 999);
            for (head, piece) in all.iter().rev().chain(&all) {
                if to.finish_inbound(false).is_none() {
                    to.add_chunk(NEWEST, head, piece, false);
                }
                if let Some(received) = to.finish_inbound(false) {
                    let received = received.expect("true to its hash");
                    assert_eq!((received.index, received.term), (LogIndex(9), Term(3)));
                    assert_eq!((received.log_time, received.digest, &received.configuration), (77, 5, &config));
                    assert_eq!(received.bytes, sent.bytes);
                    to.install(received);
                    break;
                }
            }
            assert_eq!((to.base(), to.base_term(), to.last()), (LogIndex(9), Term(3), LogIndex(9)));
            assert!(to.take_received().is_some());
        }
    }

    #[test]
    fn two_snapshots_of_one_index_do_not_mix() {
        let config = Configuration::default();
        let (mut one, mut other, mut to) = (Log::default(), Log::default(), Log::default());
        keep(&mut one, &snapshot(5000, 0), &config);
        keep(&mut other, &snapshot(5000, 1), &config);
        let (ones, others) = (chunks(&one, 1000), chunks(&other, 1000));
        for (head, piece) in ones.iter().take(4) {
            to.add_chunk(NEWEST, head, piece, false);
        }
        assert_eq!(to.inbound_progress(ones[0].0.id), (4000, 0));
        for (head, piece) in others.iter().skip(4) {
            to.add_chunk(NEWEST, head, piece, false);
        }
        assert_eq!(to.finish_inbound(false), None);
        assert_eq!((to.inbound_progress(others[0].0.id).0, to.inbound_progress(ones[0].0.id)), (0, (0, 0)));
        // Were they mixed, the hash would tell.
        let mut to = Log::default();
        for (head, piece) in ones.iter().take(4).chain(others.iter().skip(4)) {
            to.add_chunk(NEWEST, head, piece, true);
        }
        assert_eq!(to.finish_inbound(false), Some(None));
    }
}
