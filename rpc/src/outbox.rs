//! Effects on the world outside: asked for by replicated handlers, carried out by the leader, at least once.
//!
//! The outbox is replicated state. An effect stays in it until an entry says that it is done, so that a leader that dies in
//! between leaves it to the next one.

use crate::state::{Reader, StateError, Turns, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use trimaran_raft::LogIndex;

/// Effects that may be open at a time. One more is refused to the handler that asks for it.
pub const EFFECTS_MAX: usize = 1 << 16;
/// Bytes of open effects' arguments, each counted with [`EFFECT_OVERHEAD_BYTES`].
pub const EFFECT_BYTES_MAX: usize = 32 << 20;
/// What an effect costs besides its arguments.
pub const EFFECT_OVERHEAD_BYTES: usize = 64;

/// What is to be done: a method marked `#[effect]` and its arguments. Built by the functions that `#[service]` generates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Key of the method.
    pub method: u32,
    /// Its encoded arguments.
    pub body: Vec<u8>,
}

/// Names an effect: the entry whose handler asked for it, and its number there. The receiver of an effect can tell by it a
/// second delivery from a second effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId {
    /// The entry.
    pub index: u64,
    /// From 0.
    pub number: u32,
}

/// The outbox is full; the effect was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{EFFECTS_MAX} effects or {EFFECT_BYTES_MAX} bytes of them are open")]
pub struct OutboxFull;

/// The open effects of one replica, equal on all after the same entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outbox {
    open: BTreeMap<EffectId, Effect>,
    bytes: usize,
}

impl Outbox {
    /// O(log n).
    pub(crate) fn add(&mut self, index: LogIndex, effect: Effect) -> Result<EffectId, OutboxFull> {
        let bytes = self.bytes + cost_bytes(&effect);
        if self.open.len() >= EFFECTS_MAX || bytes > EFFECT_BYTES_MAX {
            return Err(OutboxFull);
        }
        let newest = self.newest().filter(|id| id.index == index.0);
        let id = EffectId { index: index.0, number: newest.map_or(0, |id| id.number + 1) };
        self.bytes = bytes;
        self.open.insert(id, effect);
        Ok(id)
    }

    /// An effect has been carried out, perhaps more than once. O(log n).
    pub(crate) fn done(&mut self, id: EffectId) {
        self.bytes -= self.open.remove(&id).as_ref().map_or(0, cost_bytes);
    }

    /// An effect that is open.
    pub(crate) fn get(&self, id: EffectId) -> Option<&Effect> {
        self.open.get(&id)
    }

    /// The newest effect that is open.
    pub(crate) fn newest(&self) -> Option<EffectId> {
        self.open.last_key_value().map(|(id, _)| *id)
    }

    /// The open effects after `id`, oldest first.
    pub(crate) fn after(&self, id: Option<EffectId>) -> impl Iterator<Item = (EffectId, &Effect)> {
        let from = id.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.open.range((from, std::ops::Bound::Unbounded)).map(|(id, effect)| (*id, effect))
    }

    pub(crate) async fn save(&self, to: &mut Writer) {
        to.len(self.open.len()).await;
        for pair in &self.open {
            to.item(&pair).await;
        }
    }

    pub(crate) async fn load(from: &mut Reader<'_>) -> Result<Outbox, StateError> {
        let mut outbox = Outbox::default();
        for _ in 0..from.len().await? {
            let (id, effect): (EffectId, Effect) = from.item().await?;
            outbox.bytes += cost_bytes(&effect);
            outbox.open.insert(id, effect);
        }
        Ok(outbox)
    }

    /// Gives the memory back, a slice at a time.
    pub(crate) async fn discard(self, turns: &mut Turns) {
        turns.drop_each(self.open).await;
    }
}

/// The body of an entry that says which effects are done.
pub(crate) fn encode_done(ids: &[EffectId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.index.to_le_bytes().into_iter().chain(id.number.to_le_bytes())).collect()
}

/// Reads [`encode_done`]'s form; what is cut off at the end is nothing.
pub(crate) fn decode_done(body: &[u8]) -> impl Iterator<Item = EffectId> + '_ {
    body.as_chunks::<12>().0.iter().map(|&[a, b, c, d, e, f, g, h, number @ ..]| EffectId {
        index: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        number: u32::from_le_bytes(number),
    })
}

fn cost_bytes(effect: &Effect) -> usize {
    effect.body.len() + EFFECT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn effect(method: u32) -> Effect {
        Effect { method, body: vec![1, 2] }
    }

    #[test]
    fn open_until_done_and_named_by_entry() {
        let mut outbox = Outbox::default();
        let ids: Vec<EffectId> =
            [7, 7, 9].into_iter().map(|index| outbox.add(LogIndex(index), effect(1)).expect("room")).collect();
        assert_eq!(ids.iter().map(|id| (id.index, id.number)).collect::<Vec<_>>(), [(7, 0), (7, 1), (9, 0)]);
        outbox.done(ids[0]);
        outbox.done(ids[0]);
        assert_eq!(outbox.after(None).map(|(id, _)| id).collect::<Vec<_>>(), ids[1..]);
        assert_eq!(outbox.after(Some(ids[1])).count(), 1);
        outbox.done(ids[1]);
        outbox.done(ids[2]);
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn full_is_said() {
        let mut outbox = Outbox::default();
        let large = Effect { method: 1, body: vec![0; EFFECT_BYTES_MAX] };
        assert_eq!(outbox.add(LogIndex(1), large), Err(OutboxFull));
        assert_eq!(outbox.after(None).count(), 0);
    }

    #[test]
    fn what_is_done_survives_the_log() {
        let ids = [EffectId { index: 1 << 40, number: 3 }, EffectId { index: 2, number: u32::MAX }];
        let mut body = encode_done(&ids);
        assert_eq!(decode_done(&body).collect::<Vec<_>>(), ids);
        body.pop();
        assert_eq!(decode_done(&body).collect::<Vec<_>>(), ids[..1]);
    }

    #[test]
    fn a_saved_outbox_is_the_same_outbox() {
        let mut outbox = Outbox::default();
        outbox.add(LogIndex(3), effect(5)).expect("room");
        let mut writer = Writer::bytes().at_once();
        outbox.save(&mut writer).now_or_never().expect("at once");
        let bytes = writer.into_bytes().expect("a form");
        assert_eq!(Outbox::load(&mut Reader::new(&bytes).at_once()).now_or_never().expect("at once"), Ok(outbox));
    }
}
