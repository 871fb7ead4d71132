//! Clients that behave badly, or fare badly: who asks again too soon, under a name that is taken, too much at once, or dies in
//! the middle of a request.

use super::DEADLINE;
use super::work::{KEYS, Worker, is_without_effect, key_name, method_call, returned};
use crate::load::Answered;
use crate::requests;
use rand::RngExt;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::client::{AnyRequest, CallError, Caller, Client, OwnedCall};
use trimaran_rpc::sim::linearizability::KvOp;
use trimaran_rpc::sim::submit;
use trimaran_runtime::spawn;

/// A key that only noise is counted in.
pub(super) const NOISE_KEY: &[u8] = b"noise";
/// Calls that one greedy client makes in all.
const GREEDY_CALLS: u32 = 2_000;
/// What a client writes that dies of it: several packets.
const LONG_VALUE_BYTES: usize = 6_000;

/// Increments of one key that nobody looks at but at the end: each may count once, and those that were answered must.
#[derive(Default)]
pub(super) struct Noise {
    /// Made.
    pub(super) asked: Cell<u64>,
    /// Of these, answered.
    pub(super) answered: Cell<u64>,
    /// Of these, certainly not applied.
    pub(super) refused: Cell<u64>,
    /// Calls made again under their name after an unknown outcome.
    pub(super) retried: Cell<u64>,
    /// Calls of other arguments under a name that was used.
    pub(super) reused: Cell<u64>,
}

impl Noise {
    async fn increment(&self, client: &Client) {
        let mut body = Vec::new();
        let ask = requests::incr(NOISE_KEY, 1, &mut body);
        add_one(&self.asked);
        match client.call_keyed(method_call(ask, &body), ask.key, DEADLINE).await {
            Ok(_) => add_one(&self.answered),
            Err(error) if is_without_effect(&error) => add_one(&self.refused),
            Err(_) => {}
        }
    }

    /// Whether the key may hold this sum, which was asked for when so many had been answered: greedy clients may still be at it.
    pub(super) fn check(&self, least: u64, sum: u64) -> Result<(), String> {
        let most = self.asked.get() - self.refused.get();
        match (least..=most).contains(&sum) {
            true => Ok(()),
            false => Err(format!("{least} increments were answered, {most} may have been applied, {sum} count")),
        }
    }
}

fn add_one(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// So many calls at a time as no single client should make, all at once.
pub(super) async fn greedy(client: Client, load: Rc<super::Load>, at_once: u32) {
    for _ in 0..at_once {
        let (client, load) = (client.clone(), load.clone());
        let task = spawn(async move {
            for _ in 0..GREEDY_CALLS / at_once {
                load.noise.increment(&client).await;
            }
        });
        task.detach();
    }
}

/// Writes long values until its machine dies.
pub(super) async fn doomed(client: Client, load: Rc<super::Load>) {
    let value = vec![b'x'; LONG_VALUE_BYTES];
    loop {
        let mut body = Vec::new();
        let ask = requests::put(b"doomed", &value, None, &mut body);
        let _ = client.call_keyed(method_call(ask, &body), ask.key, DEADLINE).await;
        load.noise.increment(&client).await;
    }
}

impl Worker {
    /// An increment whose caller waits for a moment only and asks again under the same name, twice at once: both are told the same.
    /// Other arguments under that name are refused.
    pub(super) async fn impatient(&mut self) {
        let key = self.rng.random_range(0..KEYS);
        let name = key_name(key);
        let number = self.load.next_call();
        let op = KvOp::Incr(1);
        let request = |by: i64| {
            let mut body = Vec::new();
            let ask = requests::incr(&name, by, &mut body);
            AnyRequest { method: ask.method, policy: ask.policy, body, shard_key: ask.key }
        };
        let patience = Duration::from_micros(self.rng.random_range(20..2_000));
        let operation = self.invoked(number, key, op);
        let id = match submit(&self.client, &request(1), patience).await {
            Err(CallError::Unknown { call_id: Some(id) }) => id,
            Ok(reply) => {
                let answered = Answered { status: reply.status, body: reply.body };
                return self.ended(operation, op, Ok(returned(op, &answered)), &answered.body);
            }
            Err(error) => return self.ended(operation, op, Err(error), &[]),
        };
        add_one(&self.load.noise.retried);
        let again = |by: i64| {
            let call = OwnedCall { within: Some(DEADLINE), call_id: Some(id), ..OwnedCall::new(request(by)) };
            self.client.submit(call)
        };
        let (one, other) = futures::join!(again(1), again(1));
        if let (Ok(one), Ok(other)) = (&one, &other)
            && (one.status, &one.body) != (other.status, &other.body)
        {
            self.load.complain(format!("{id:?} was answered {one:?}, and {other:?}"));
        }
        // What a refusal says is said of the copy that it answers, not of the call.
        let Some(reply) = one.ok().or(other.ok()) else { return };
        let answered = Answered { status: reply.status, body: reply.body };
        self.ended(operation, op, Ok(returned(op, &answered)), &answered.body);
        match again(1_000).await {
            Ok(reply) => self.load.complain(format!("other arguments under {id:?} were answered {reply:?}")),
            Err(_) => add_one(&self.load.noise.reused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_counts_and_nothing_twice() {
        let noise = Noise::default();
        noise.asked.set(10);
        noise.refused.set(3);
        let check = |sum| noise.check(6, sum);
        // Answered while the sum was on its way.
        noise.answered.set(7);
        assert!(check(5).is_err() && check(6).is_ok() && check(7).is_ok() && check(8).is_err());
    }
}
