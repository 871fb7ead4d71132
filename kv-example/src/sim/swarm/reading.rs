//! Reads of less than the newest state, and of one replica's: each is held against what clients had been told before it began.

use super::DEADLINE;
use super::work::{KEYS, Worker, key_name, returned};
use crate::load::{Answered, Ask};
use crate::requests;
use rand::RngExt;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use trimaran_raft::LogIndex;
use trimaran_rpc::client::{AnyRequest, CallError, Caller, Consistency, OwnedCall, Replica, Reply};
use trimaran_rpc::sim::linearizability::{KvOp, KvRet};
use trimaran_rpc::sim::reading::{AGE_MS, Acknowledged};
use trimaran_runtime::{Instant, now};

/// Replicas that are asked by their slot; some are not there, or not yet.
const SLOTS: u8 = 5;

/// What is known of one shard by what its clients were told.
pub(super) struct Mixed {
    /// Whether clocks keep to the bound on which leases and ages rest.
    clocks_are_true: bool,
    acknowledged: RefCell<Acknowledged>,
    /// What a key holds after an entry, by who was the first to be told.
    held: RefCell<BTreeMap<(u32, LogIndex), KvRet>>,
    /// Answers of less than linearizable reads that were looked at.
    pub(super) checked: Cell<u64>,
}

impl Mixed {
    pub(super) fn new(clocks_are_true: bool) -> Mixed {
        Mixed { clocks_are_true, acknowledged: RefCell::default(), held: RefCell::default(), checked: Cell::default() }
    }

    /// Notes what any call was told.
    pub(super) fn note(&self, ask: Ask, begun: Instant, end: &Result<Reply, CallError>) -> Result<(), String> {
        let request = AnyRequest { method: ask.method, policy: ask.policy, body: Vec::new(), shard_key: ask.key };
        self.acknowledged.borrow_mut().check(&OwnedCall::new(request), begun, now(), end)
    }

    /// A key holds one thing after one entry, whichever replica is asked.
    fn hold(&self, key: u32, index: LogIndex, found: KvRet) -> Result<(), String> {
        let mut held = self.held.borrow_mut();
        let first = *held.entry((key, index)).or_insert(found);
        match first == found {
            true => Ok(()),
            false => Err(format!("after entry {index} key {key} was read as {first:?} and as {found:?}")),
        }
    }
}

impl Worker {
    /// A read of a consistency that is drawn, from a replica that is drawn too in half of all cases.
    pub(super) async fn read_somehow(&mut self) {
        let load = self.load.clone();
        let Some(mixed) = &load.mixed else { return };
        let key = self.rng.random_range(0..KEYS);
        let mut body = Vec::new();
        let ask = requests::get(&key_name(key), &mut body);
        let request = AnyRequest { method: ask.method, policy: ask.policy, body, shard_key: ask.key };
        let consistency = match self.rng.random_range(0..8) {
            0..2 if mixed.clocks_are_true => Consistency::Lease,
            2..4 if mixed.clocks_are_true => {
                Consistency::Stale { max: Duration::from_millis(self.rng.random_range(AGE_MS)) }
            }
            0 | 4 => Consistency::Linearizable,
            1 | 2 | 5 | 6 => Consistency::AtLeast(mixed.acknowledged.borrow().newest()),
            _ => Consistency::Any,
        };
        let replica = self.rng.random::<bool>().then(|| Replica::Slot(self.rng.random_range(1..=SLOTS)));
        let call = OwnedCall { within: Some(DEADLINE), consistency, replica, ..OwnedCall::new(request) };
        let is_judged = matches!(consistency, Consistency::Linearizable | Consistency::Lease);
        let operation = is_judged.then(|| self.invoked(load.next_call(), key, KvOp::Get));
        let begun = now();
        let end = self.client.submit(call.clone()).await;
        let mut wrong = mixed.acknowledged.borrow_mut().check(&call, begun, now(), &end).err();
        let told = match end {
            Ok(reply) => {
                let index = LogIndex(reply.block.index);
                let answered = Answered { status: reply.status, body: reply.body };
                let found = returned(KvOp::Get, &answered);
                wrong = wrong.or_else(|| mixed.hold(key, index, found?).err());
                mixed.checked.set(mixed.checked.get() + u64::from(!is_judged));
                if operation.is_none() && found.is_none() {
                    load.complain(format!("a read of {consistency} was answered {}", answered.body.escape_ascii()));
                }
                Ok((found, answered.body))
            }
            Err(error) => Err(error),
        };
        if let Some(operation) = operation {
            match told {
                Ok((found, body)) => self.ended(operation, KvOp::Get, Ok(found), &body),
                Err(error) => self.ended(operation, KvOp::Get, Err(error), &[]),
            }
        }
        if let Some(wrong) = wrong {
            load.complain(wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_leaves_one_value() {
        let mixed = Mixed::new(true);
        let (nothing, refused) = (KvRet::Value(None), KvRet::Refused);
        assert!(mixed.hold(1, LogIndex(5), nothing).is_ok() && mixed.hold(1, LogIndex(5), nothing).is_ok());
        assert!(mixed.hold(1, LogIndex(6), refused).is_ok() && mixed.hold(2, LogIndex(5), refused).is_ok());
        assert!(mixed.hold(1, LogIndex(5), refused).is_err());
    }
}
