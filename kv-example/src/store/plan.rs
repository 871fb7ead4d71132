//! Transactions on the store: everything is tried on a plan beside the state, and only a plan without a refusal is carried
//! out.

use super::limits::{REPLY_BYTES_MAX, STATE_BYTES_MAX, TXN_GUARDS_MAX, TXN_OPS_MAX};
use super::{Expiry, Found, Store, Timeline, Version, check_key, check_ttl, check_value, cost_bytes, parse_integer};
use crate::error::KvError;
use crate::txn::{Comparison, Guard, Op, OpResult, Test, Txn, TxnResult};
use std::cmp::Ordering;
use trimaran_rpc::log_time::LogTime;

/// What a result costs of a reply besides the value that was read.
const RESULT_BYTES: usize = 32;

/// What a key will be. A branch has 64 operations at most, so keys are found one after the other.
struct Write<'t> {
    key: &'t [u8],
    /// `None`: removed.
    value: Option<Value>,
}

#[derive(Clone)]
struct Value {
    bytes: Vec<u8>,
    expires: Expires,
}

#[derive(Clone, Copy)]
enum Expires {
    Never,
    /// As the stored entry does.
    AsBefore,
    At(LogTime),
}

/// The writes of one branch so far.
struct Plan<'s, 't> {
    store: &'s Store,
    now: LogTime,
    writes: Vec<Write<'t>>,
    has_changes: bool,
    reply_bytes: usize,
}

impl Store {
    /// Executes a transaction. All its writes share one version.
    ///
    /// # Errors
    /// What is wrong with one of its parts; then nothing has happened.
    pub fn txn(&mut self, at: &mut impl Timeline, txn: &Txn) -> Result<TxnResult, KvError> {
        if txn.guards.len() > TXN_GUARDS_MAX || txn.then.len().max(txn.otherwise.len()) > TXN_OPS_MAX {
            return Err(KvError::TxnTooLong);
        }
        txn.guards.iter().try_for_each(|guard| check_key(&guard.key))?;
        let now = at.now();
        let held = txn.guards.iter().all(|guard| self.holds(now, guard));
        let mut plan = Plan { store: self, now, writes: Vec::new(), has_changes: false, reply_bytes: 0 };
        let branch = if held { &txn.then } else { &txn.otherwise };
        let mut results = Vec::with_capacity(branch.len());
        for (at, op) in branch.iter().enumerate() {
            results.push(plan.step(op).map_err(|error| match error {
                KvError::ReplyTooLarge => error,
                error => KvError::Operation { number: at as u8 + 1, error: Box::new(error) },
            })?);
        }
        let Plan { writes, has_changes, .. } = plan;
        self.carry_out(at, writes, has_changes)?;
        Ok(TxnResult { held, results })
    }

    fn holds(&self, now: LogTime, guard: &Guard) -> bool {
        let entry = self.live(now, &guard.key);
        match (&guard.test, entry) {
            (Test::Exists, entry) => entry.is_some(),
            (Test::Absent, entry) => entry.is_none(),
            (_, None) => false,
            (Test::Version(version), Some(entry)) => entry.version.0 == *version,
            (Test::Value(comparison, value), Some(entry)) => stands(*comparison, &entry.value, value),
        }
    }

    fn carry_out(&mut self, at: &mut impl Timeline, writes: Vec<Write<'_>>, has_changes: bool) -> Result<(), KvError> {
        let mut bytes = self.bytes;
        for write in &writes {
            bytes += write.value.as_ref().map_or(0, |value| cost_bytes(write.key, &value.bytes));
        }
        for write in &writes {
            bytes -= self.map.get(write.key).map_or(0, |entry| cost_bytes(write.key, &entry.value));
        }
        if bytes > STATE_BYTES_MAX && bytes > self.bytes {
            return Err(KvError::Full);
        }
        let version = Version(self.version.0 + 1);
        let mut timers = Vec::new();
        for write in &writes {
            if let Some(Value { expires: Expires::At(moment), .. }) = write.value {
                match at.set_expiry(moment, write.key, version) {
                    Ok(timer) => timers.push(timer),
                    Err(_) => {
                        timers.into_iter().for_each(|timer| at.cancel(timer));
                        return Err(KvError::TimersFull);
                    }
                }
            }
        }
        // From here on nothing is refused.
        self.version.0 += u64::from(has_changes);
        let mut timers = timers.into_iter();
        for Write { key, value } in writes {
            let Some(Value { bytes, expires }) = value else {
                self.remove(at, key);
                continue;
            };
            let expiry = match expires {
                Expires::Never => None,
                Expires::AsBefore => self.map.get(key).and_then(|entry| entry.expiry),
                Expires::At(moment) => timers.next().map(|timer| Expiry { at: moment, timer, since: version }),
            };
            self.write(at, key, &bytes, version, expiry);
        }
        Ok(())
    }
}

impl<'t> Plan<'_, 't> {
    fn step(&mut self, op: &'t Op) -> Result<OpResult, KvError> {
        let version = self.store.version.0 + 1;
        self.reply_bytes += RESULT_BYTES;
        match op {
            Op::Put { key, value, ttl } => {
                check_key(key)?;
                check_value(value)?;
                check_ttl(*ttl)?;
                let expires = ttl.map_or(Expires::Never, |ttl| Expires::At(self.now + ttl));
                self.set(key, Some(Value { bytes: value.clone(), expires }));
                Ok(OpResult::Put(version))
            }
            Op::Get { key } => {
                check_key(key)?;
                let found = match self.planned(key) {
                    None => self.store.get(self.now, key),
                    Some(None) => None,
                    Some(Some(value)) => {
                        let ttl = self.expiry_of(key, value.expires).map(|at| at.saturating_since(self.now));
                        Some(Found { value: value.bytes.clone(), version, ttl })
                    }
                };
                self.reply_bytes += found.as_ref().map_or(0, |found| found.value.len());
                if self.reply_bytes > REPLY_BYTES_MAX { Err(KvError::ReplyTooLarge) } else { Ok(OpResult::Got(found)) }
            }
            Op::Del { key } => {
                check_key(key)?;
                let is_there = match self.planned(key) {
                    None => self.store.live(self.now, key).is_some(),
                    Some(planned) => planned.is_some(),
                };
                if is_there {
                    self.set(key, None);
                }
                Ok(OpResult::Deleted(is_there))
            }
            Op::Incr { key, by } => {
                check_key(key)?;
                let before = match self.planned(key) {
                    None => self.store.live(self.now, key).map(|entry| (entry.value.as_slice(), Expires::AsBefore)),
                    Some(planned) => planned.as_ref().map(|value| (value.bytes.as_slice(), value.expires)),
                };
                let (sum, expires) = match before {
                    None => (*by, Expires::Never),
                    Some((value, expires)) => (add(value, *by)?, expires),
                };
                self.set(key, Some(Value { bytes: sum.to_string().into_bytes(), expires }));
                Ok(OpResult::Sum(sum))
            }
        }
    }

    /// What an operation before this one has planned for the key, if one has.
    fn planned(&self, key: &[u8]) -> Option<&Option<Value>> {
        self.writes.iter().find(|write| write.key == key).map(|write| &write.value)
    }

    fn set(&mut self, key: &'t [u8], value: Option<Value>) {
        self.has_changes = true;
        match self.writes.iter_mut().find(|write| write.key == key) {
            Some(write) => write.value = value,
            None => self.writes.push(Write { key, value }),
        }
    }

    fn expiry_of(&self, key: &[u8], expires: Expires) -> Option<LogTime> {
        match expires {
            Expires::Never => None,
            Expires::At(moment) => Some(moment),
            Expires::AsBefore => self.store.map.get(key)?.expiry.map(|expiry| expiry.at),
        }
    }
}

/// The sum that an INCR makes of a value.
pub(super) fn add(value: &[u8], by: i64) -> Result<i64, KvError> {
    parse_integer(value).ok_or(KvError::NotANumber)?.checked_add(by).ok_or(KvError::Overflow)
}

fn stands(comparison: Comparison, value: &[u8], to: &[u8]) -> bool {
    let order = match (parse_integer(value), parse_integer(to)) {
        (Some(value), Some(to)) => value.cmp(&to),
        _ => value.cmp(to),
    };
    match comparison {
        Comparison::Equal => order == Ordering::Equal,
        Comparison::NotEqual => order != Ordering::Equal,
        Comparison::Less => order == Ordering::Less,
        Comparison::LessOrEqual => order != Ordering::Greater,
        Comparison::Greater => order == Ordering::Greater,
        Comparison::GreaterOrEqual => order != Ordering::Less,
    }
}
