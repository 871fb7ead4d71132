//! The replicated state: an ordered map of keys, each with its value, the version of its last write and perhaps an end.
//!
//! ```text
//!  put, del, cas, incr          here
//!  txn                          plan.rs     tried beside the state, then carried out
//!  scan                         scan.rs     page by page
//!  how much of everything       limits.rs
//! ```
//!
//! Everything here is a function of the calls executed so far and their log times, so that replicas that executed the
//! same log are equal. A key whose time is over is absent for every call from that log time on, whether or not its timer
//! has fired: the timer gives back memory and nothing else.

pub mod limits;
mod plan;
mod scan;
#[cfg(test)]
mod tests;

pub use scan::{Item, Page, prefix_end};

use crate::error::KvError;
use limits::{KEY_BYTES_MAX, KEY_OVERHEAD_BYTES, STATE_BYTES_MAX, VALUE_BYTES_MAX};
use plan::add;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::Duration;
use trimaran_rpc::data;
use trimaran_rpc::log_time::LogTime;
use trimaran_rpc::serde::{Serialize, Serializer};
use trimaran_rpc::state::{Reader, StateError, Turns, Writer};
use trimaran_rpc::timers::{TimerId, TimersFull};

/// Counts the writes that changed the store; a write's version is the count after it.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// Log time and its timers, as a handler has them.
pub trait Timeline {
    /// The log time of this call.
    fn now(&self) -> LogTime;

    /// Has [`Store::expire`] called with these arguments at that moment.
    ///
    /// # Errors
    /// As many timers are pending as may.
    fn set_expiry(&mut self, at: LogTime, key: &[u8], version: Version) -> Result<TimerId, TimersFull>;

    /// Takes a timer back.
    fn cancel(&mut self, timer: TimerId);
}

/// What a CAS expects of a key.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It is absent.
    Absent,
    /// Its last write made this version.
    Version(u64),
    /// It has this value.
    Value(Vec<u8>),
}

/// What a key holds.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its value.
    #[serde(serialize_with = "as_bytes")]
    pub value: Vec<u8>,
    /// The version of its last write.
    pub version: u64,
    /// How long it has to live, in log time; `None`: for ever.
    pub ttl: Option<Duration>,
}

/// In one piece, where serde would write them one by one; the form is the same.
fn as_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// The state of one replica.
#[derive(Debug, Default)]
pub struct Store {
    map: BTreeMap<Key, Entry>,
    version: Version,
    bytes: usize,
}

/// A short key lies in the map's own nodes: a search then follows no pointer for each key that it looks at.
type Key = SmallVec<[u8; 24]>;

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    version: Version,
    expiry: Option<Expiry>,
}

#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry {
    at: LogTime,
    timer: TimerId,
    /// The version of the write that set it. An INCR makes a new version and keeps the expiry.
    since: Version,
}

impl Entry {
    fn is_live(&self, now: LogTime) -> bool {
        self.expiry.is_none_or(|expiry| expiry.at > now)
    }

    /// Takes the timer back that the key has had so far, unless it keeps it.
    fn rewrite(&mut self, at: &mut impl Timeline, value: &[u8], version: Version, expiry: Option<Expiry>) {
        if let Some(before) = self.expiry
            && self.expiry != expiry
        {
            at.cancel(before.timer);
        }
        self.value.clear();
        self.value.extend_from_slice(value);
        self.version = version;
        self.expiry = expiry;
    }
}

impl Store {
    /// The version of the newest write.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many keys there are, those included that have expired and whose timers have not fired yet.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes of keys and values, each key counted with [`KEY_OVERHEAD_BYTES`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn live(&self, now: LogTime, key: &[u8]) -> Option<&Entry> {
        self.map.get(key).filter(|entry| entry.is_live(now))
    }

    /// The value of `key`. O(log n).
    pub fn value(&self, now: LogTime, key: &[u8]) -> Option<&[u8]> {
        self.live(now, key).map(|entry| entry.value.as_slice())
    }

    /// All that is known of `key`. O(log n) and a copy of the value.
    pub fn get(&self, now: LogTime, key: &[u8]) -> Option<Found> {
        self.live(now, key).map(|entry| Found {
            value: entry.value.clone(),
            version: entry.version.0,
            ttl: entry.expiry.map(|expiry| expiry.at.saturating_since(now)),
        })
    }

    /// Stores a value; `ttl` later the key is absent again. A write without `ttl` takes back an earlier one. O(log n).
    ///
    /// # Errors
    /// [`KvError`]: the key, the value or the time is out of range, or the store or the table of timers is full.
    pub fn put(
        &mut self,
        at: &mut impl Timeline,
        key: &[u8],
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Version, KvError> {
        check_key(key)?;
        check_value(value)?;
        check_ttl(ttl)?;
        // Found once: with many keys, most of a write is the search.
        let place = self.map.get_mut(key);
        let old_bytes = place.as_ref().map_or(0, |entry| cost_bytes(key, &entry.value));
        check_room(self.bytes - old_bytes, key, value)?;
        let version = Version(self.version.0 + 1);
        let expiry = match ttl {
            None => None,
            Some(ttl) => {
                let moment = at.now() + ttl;
                let timer = at.set_expiry(moment, key, version).map_err(|TimersFull| KvError::TimersFull)?;
                Some(Expiry { at: moment, timer, since: version })
            }
        };
        self.version = version;
        self.bytes = self.bytes - old_bytes + cost_bytes(key, value);
        match place {
            Some(entry) => entry.rewrite(at, value, version, expiry),
            None => drop(self.map.insert(key.into(), Entry { value: value.to_vec(), version, expiry })),
        }
        Ok(version)
    }

    /// As [`Store::put`], where the key holds what is expected.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it does not, and those of [`Store::put`].
    pub fn cas(
        &mut self,
        at: &mut impl Timeline,
        key: &[u8],
        expected: &Expected,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Version, KvError> {
        check_key(key)?;
        let entry = self.live(at.now(), key);
        let holds = match (expected, entry) {
            (Expected::Absent, entry) => entry.is_none(),
            (_, None) => false,
            (Expected::Version(version), Some(entry)) => entry.version.0 == *version,
            (Expected::Value(value), Some(entry)) => entry.value == *value,
        };
        if !holds {
            return Err(KvError::Conflict { version: entry.map(|entry| entry.version.0) });
        }
        self.put(at, key, value, ttl)
    }

    /// Adds to a number in plain decimal, counting from 0 where there is none; returns the sum. A time to live stays as it
    /// is. O(log n).
    ///
    /// # Errors
    /// [`KvError::NotANumber`] and [`KvError::Overflow`], and those of [`Store::put`].
    pub fn incr(&mut self, at: &mut impl Timeline, key: &[u8], by: i64) -> Result<i64, KvError> {
        check_key(key)?;
        let (sum, expiry) = match self.live(at.now(), key) {
            None => (by, None),
            Some(entry) => (add(&entry.value, by)?, entry.expiry),
        };
        let value = sum.to_string();
        let old_bytes = self.map.get(key).map_or(0, |entry| cost_bytes(key, &entry.value));
        check_room(self.bytes - old_bytes, key, value.as_bytes())?;
        self.version.0 += 1;
        self.write(at, key, value.as_bytes(), self.version, expiry);
        Ok(sum)
    }

    /// Removes keys; returns how many there were. One version for all of them, none where there was none.
    ///
    /// # Errors
    /// [`KvError::BadKey`]; then none is removed.
    pub fn del<'a>(
        &mut self,
        at: &mut impl Timeline,
        keys: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<u64, KvError> {
        keys.clone().try_for_each(check_key)?;
        let now = at.now();
        let mut removed = 0;
        for key in keys {
            removed += u64::from(self.remove(at, key).is_some_and(|entry| entry.is_live(now)));
        }
        self.version.0 += u64::from(removed > 0);
        Ok(removed)
    }

    /// What a timer does: removes the key if it is still the one for which the timer was set. No write of a client's, so it
    /// makes no version.
    pub fn expire(&mut self, now: LogTime, key: &[u8], version: Version) {
        let is_meant = |entry: &Entry| entry.expiry.is_some_and(|expiry| expiry.since == version);
        if self.map.get(key).is_some_and(|entry| is_meant(entry) && !entry.is_live(now))
            && let Some(entry) = self.map.remove(key)
        {
            self.bytes -= cost_bytes(key, &entry.value);
        }
    }

    /// Everything has been checked.
    fn write(&mut self, at: &mut impl Timeline, key: &[u8], value: &[u8], version: Version, expiry: Option<Expiry>) {
        match self.map.get_mut(key) {
            Some(entry) => {
                self.bytes = self.bytes - entry.value.len() + value.len();
                entry.rewrite(at, value, version, expiry);
            }
            None => {
                self.bytes += cost_bytes(key, value);
                self.map.insert(key.into(), Entry { value: value.to_vec(), version, expiry });
            }
        }
    }

    fn remove(&mut self, at: &mut impl Timeline, key: &[u8]) -> Option<Entry> {
        let entry = self.map.remove(key)?;
        self.bytes -= cost_bytes(key, &entry.value);
        if let Some(expiry) = entry.expiry {
            at.cancel(expiry.timer);
        }
        Some(entry)
    }

    /// Writes the version, then every key with all that belongs to it, in order.
    pub async fn save(&self, to: &mut Writer) {
        to.item(&self.version.0).await;
        to.len(self.map.len()).await;
        for (key, entry) in &self.map {
            to.item(&SavedEntry { key, value: &entry.value, version: entry.version.0, expiry: entry.expiry }).await;
        }
    }

    /// Reads what [`Store::save`] wrote.
    ///
    /// # Errors
    /// Bytes that are not such a state.
    pub async fn load(from: &mut Reader<'_>) -> Result<Store, StateError> {
        let mut store = Store { version: Version(from.item().await?), ..Store::default() };
        for _ in 0..from.len().await? {
            let (key, value, version, expiry): (Box<[u8]>, Vec<u8>, u64, Option<Expiry>) = from.item().await?;
            store.bytes += cost_bytes(&key, &value);
            store.map.insert(Key::from_slice(&key), Entry { value, version: Version(version), expiry });
        }
        Ok(store)
    }

    /// Gives the memory back, a slice at a time.
    pub async fn discard(self, turns: &mut Turns) {
        for (key, entry) in self.map {
            let bytes = cost_bytes(&key, &entry.value);
            drop((key, entry));
            turns.spend(bytes).await;
        }
    }
}

/// An entry as it is saved; read back as a tuple of its fields.
#[derive(Serialize)]
#[serde(crate = "trimaran_rpc::serde")]
struct SavedEntry<'a> {
    #[serde(serialize_with = "as_bytes")]
    key: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    value: &'a [u8],
    version: u64,
    expiry: Option<Expiry>,
}

fn check_key(key: &[u8]) -> Result<(), KvError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(KvError::BadKey) } else { Ok(()) }
}

fn check_value(value: &[u8]) -> Result<(), KvError> {
    if value.len() > VALUE_BYTES_MAX { Err(KvError::ValueTooLarge) } else { Ok(()) }
}

fn check_ttl(ttl: Option<Duration>) -> Result<(), KvError> {
    if ttl.is_some_and(|ttl| ttl.is_zero()) { Err(KvError::BadTtl) } else { Ok(()) }
}

/// `other_bytes`: of all other keys.
fn check_room(other_bytes: usize, key: &[u8], value: &[u8]) -> Result<(), KvError> {
    if other_bytes + cost_bytes(key, value) > STATE_BYTES_MAX { Err(KvError::Full) } else { Ok(()) }
}

fn cost_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + KEY_OVERHEAD_BYTES
}

/// A number as Redis reads it: no sign `+`, no spaces, no leading zeros.
fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let is_plain = matches!(digits, [b'1'..=b'9', ..]) || bytes == b"0";
    // More than the digits of any i64 need no look.
    if !is_plain || digits.len() > 19 {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
