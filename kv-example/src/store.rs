//! The replicated state: an ordered map of keys, each with its value and the version of its last write.
//!
//! Everything here is a function of the commands executed so far, so that replicas that executed the same log are
//! equal. Limits are constants for the same reason: a limit from a configuration file would let replicas differ.

use crate::command::Command;
use crate::resp::Reply;
use std::collections::BTreeMap;
use trimaran_rpc::state::{Reader, StateError, Writer};

/// Most bytes of keys and values, each key counted with [`KEY_OVERHEAD_BYTES`]. A write that would pass it is refused
/// with `-OOM` and changes nothing; DEL makes room.
pub const STATE_BYTES_MAX: usize = 1 << 30;
/// What a key costs besides its own bytes and its value's: two allocations, a version, its place in the tree.
pub const KEY_OVERHEAD_BYTES: usize = 96;

/// Counts the writes that changed the store; a write's version is the count after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// The state of one replica.
#[derive(Debug, Default)]
pub struct Store {
    map: BTreeMap<Box<[u8]>, Entry>,
    version: Version,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    version: Version,
}

impl Store {
    /// The version of the newest write.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(key).map(|entry| entry.value.as_slice())
    }

    /// Executes a command of the log and appends its reply. O(log n) in the number of keys.
    ///
    /// `JOURNAL` is refused: it is about one replica, so the answers would differ.
    pub fn execute(&mut self, command: &Command<'_>, reply: &mut Vec<u8>) {
        match *command {
            Command::Set(key, value) => match self.put(key, value) {
                Ok(_) => Reply::OK.emit(reply),
                Err(full) => full.emit(reply),
            },
            Command::SetV(key, value) => match self.put(key, value) {
                Ok(Version(version)) => integer(version).emit(reply),
                Err(full) => full.emit(reply),
            },
            Command::Incr(key) => self.increment(key).unwrap_or_else(|refusal| refusal).emit(reply),
            Command::Del(keys) => integer(self.delete(keys.iter())).emit(reply),
            Command::Get(_) | Command::Ping(_) | Command::Echo(_) => self.answer(command, reply),
            Command::Journal(_) => {
                Reply::Error("ERR this command asks one replica: send it under policy 0 or 1").emit(reply);
            }
        }
    }

    /// Answers a command that changes nothing; any other is refused.
    pub fn answer(&self, command: &Command<'_>, reply: &mut Vec<u8>) {
        match *command {
            Command::Get(key) => self.get(key).map_or(Reply::Nil, Reply::Bulk).emit(reply),
            Command::Ping(None) => Reply::Simple("PONG").emit(reply),
            Command::Ping(Some(text)) | Command::Echo(text) => Reply::Bulk(text).emit(reply),
            _ => Reply::Error("ERR a write must be replicated: send it under policy 2").emit(reply),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Version, Reply<'static>> {
        let old_bytes = self.map.get(key).map_or(0, |entry| cost_bytes(key, &entry.value));
        let bytes = self.bytes - old_bytes + cost_bytes(key, value);
        if bytes > STATE_BYTES_MAX {
            return Err(Reply::Error("OOM command not allowed when used memory > 'maxmemory'"));
        }
        self.bytes = bytes;
        self.version.0 += 1;
        let version = self.version;
        match self.map.get_mut(key) {
            Some(entry) => {
                entry.value.clear();
                entry.value.extend_from_slice(value);
                entry.version = version;
            }
            None => drop(self.map.insert(key.into(), Entry { value: value.to_vec(), version })),
        }
        Ok(version)
    }

    fn increment(&mut self, key: &[u8]) -> Result<Reply<'static>, Reply<'static>> {
        let old = match self.get(key) {
            None => 0,
            Some(value) => parse_integer(value).ok_or(Reply::Error("ERR value is not an integer or out of range"))?,
        };
        let new = old.checked_add(1).ok_or(Reply::Error("ERR increment or decrement would overflow"))?;
        self.put(key, new.to_string().as_bytes())?;
        Ok(Reply::Integer(new))
    }

    /// Returns how many keys were there; one version for all of them, none where there was none.
    fn delete<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut removed = 0;
        for key in keys {
            if let Some(entry) = self.map.remove(key) {
                self.bytes -= cost_bytes(key, &entry.value);
                removed += 1;
            }
        }
        self.version.0 += u64::from(removed > 0);
        removed
    }

    /// Writes the version, then every key with its value and version, in order.
    pub async fn save(&self, to: &mut Writer) {
        to.item(&self.version.0).await;
        to.len(self.map.len()).await;
        for (key, entry) in &self.map {
            to.item(&(key, &entry.value, entry.version.0)).await;
        }
    }

    /// Reads what [`Store::save`] wrote.
    ///
    /// # Errors
    /// Bytes that are not such a state.
    pub async fn load(from: &mut Reader<'_>) -> Result<Store, StateError> {
        let mut store = Store { version: Version(from.item().await?), ..Store::default() };
        for _ in 0..from.len().await? {
            let (key, value, version): (Box<[u8]>, Vec<u8>, u64) = from.item().await?;
            store.bytes += cost_bytes(&key, &value);
            store.map.insert(key, Entry { value, version: Version(version) });
        }
        Ok(store)
    }

    /// A hash of what [`Store::save`] writes, for tests. O(bytes held).
    #[cfg(test)]
    pub(crate) fn digest(&self) -> u64 {
        use futures::FutureExt;
        let mut writer = Writer::digest().at_once();
        self.save(&mut writer).now_or_never().map_or(0, |()| writer.hash())
    }
}

fn cost_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + KEY_OVERHEAD_BYTES
}

/// RESP numbers are signed; a count of writes stays below their limit for 292,000 years at a million a second.
fn integer(number: u64) -> Reply<'static> {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A number as Redis reads it: no sign `+`, no spaces, no leading zeros.
fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp;
    use proptest::prelude::*;

    fn run(store: &mut Store, words: &[&[u8]]) -> String {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        resp::emit_command(words, &mut request);
        store.execute(&Command::parse(&request).expect("a command"), &mut reply);
        String::from_utf8(reply).expect("text")
    }

    fn ask(store: &Store, words: &[&[u8]]) -> String {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        resp::emit_command(words, &mut request);
        store.answer(&Command::parse(&request).expect("a command"), &mut reply);
        String::from_utf8(reply).expect("text")
    }

    #[test]
    fn set_get_del() {
        let mut store = Store::default();
        assert_eq!(run(&mut store, &[b"get", b"k"]), "$-1\r\n");
        assert_eq!(run(&mut store, &[b"set", b"k", b"v1"]), "+OK\r\n");
        assert_eq!(run(&mut store, &[b"set", b"k", b"longer"]), "+OK\r\n");
        assert_eq!(ask(&store, &[b"get", b"k"]), "$6\r\nlonger\r\n");
        run(&mut store, &[b"set", b"l", b""]);
        assert_eq!(run(&mut store, &[b"del", b"k", b"missing", b"l", b"k"]), ":2\r\n");
        assert_eq!(ask(&store, &[b"get", b"k"]), "$-1\r\n");
        assert_eq!((store.map.len(), store.bytes), (0, 0));
    }

    #[test]
    fn every_write_that_changes_something_has_its_own_version() {
        let mut store = Store::default();
        assert_eq!(run(&mut store, &[b"setv", b"a", b"1"]), ":1\r\n");
        assert_eq!(run(&mut store, &[b"setv", b"b", b"1"]), ":2\r\n");
        assert_eq!(run(&mut store, &[b"setv", b"a", b"1"]), ":3\r\n", "also where the value stays");
        run(&mut store, &[b"del", b"none"]);
        run(&mut store, &[b"get", b"a"]);
        assert_eq!(store.version(), Version(3));
        run(&mut store, &[b"del", b"a", b"b"]);
        run(&mut store, &[b"incr", b"n"]);
        assert_eq!(store.version(), Version(5));
    }

    #[test]
    fn incr_counts_and_refuses_as_redis_does() {
        let mut store = Store::default();
        assert_eq!(run(&mut store, &[b"incr", b"n"]), ":1\r\n");
        run(&mut store, &[b"set", b"n", b"-1"]);
        assert_eq!(run(&mut store, &[b"incr", b"n"]), ":0\r\n");
        run(&mut store, &[b"set", b"n", b"9223372036854775806"]);
        assert_eq!(run(&mut store, &[b"incr", b"n"]), ":9223372036854775807\r\n");
        let before = (store.version(), store.digest());
        assert_eq!(run(&mut store, &[b"incr", b"n"]), "-ERR increment or decrement would overflow\r\n");
        assert_eq!((store.version(), store.digest()), before);
        for value in ["9223372036854775808", "abc", "", " 1", "1 ", "+1", "01", "-0", "1.0"] {
            run(&mut store, &[b"set", b"n", value.as_bytes()]);
            let refusal = "-ERR value is not an integer or out of range\r\n";
            assert_eq!(run(&mut store, &[b"incr", b"n"]), refusal, "{value:?}");
            assert_eq!(store.get(b"n"), Some(value.as_bytes()));
        }
    }

    #[test]
    fn an_answer_never_writes() {
        let store = Store::default();
        for words in [&[&b"set"[..], b"k", b"v"][..], &[b"setv", b"k", b"v"], &[b"del", b"k"], &[b"incr", b"k"]] {
            assert_eq!(ask(&store, words), "-ERR a write must be replicated: send it under policy 2\r\n");
        }
        assert_eq!(ask(&store, &[b"ping"]), "+PONG\r\n");
        assert_eq!(ask(&store, &[b"ping", b"hi"]), "$2\r\nhi\r\n");
        assert_eq!(ask(&store, &[b"echo", b"hi"]), "$2\r\nhi\r\n");
    }

    #[test]
    fn what_differs_between_replicas_is_not_replicated() {
        let mut store = Store::default();
        assert!(run(&mut store, &[b"journal", b"0"]).starts_with("-ERR"));
    }

    #[test]
    fn a_full_store_refuses_and_stays_as_it_was() {
        let mut store = Store { bytes: STATE_BYTES_MAX - KEY_OVERHEAD_BYTES - 2, ..Store::default() };
        assert!(run(&mut store, &[b"set", b"k", b"12"]).starts_with("-OOM"));
        assert_eq!((store.version(), store.map.len()), (Version(0), 0));
        assert_eq!(run(&mut store, &[b"set", b"k", b"1"]), "+OK\r\n");
        assert!(run(&mut store, &[b"setv", b"k", b"12"]).starts_with("-OOM"));
        assert_eq!(store.get(b"k"), Some(&b"1"[..]));
    }

    #[test]
    fn the_digest_sees_keys_values_versions_and_where_they_end() {
        let digest_of = |pairs: &[(&[u8], &[u8])]| {
            let mut store = Store::default();
            for (key, value) in pairs {
                run(&mut store, &[b"set", key, value]);
            }
            store.digest()
        };
        let base = digest_of(&[(b"a", b"1"), (b"b", b"2")]);
        assert_eq!(base, digest_of(&[(b"a", b"1"), (b"b", b"2")]));
        assert_ne!(base, digest_of(&[(b"a", b"1"), (b"b", b"3")]));
        assert_ne!(base, digest_of(&[(b"b", b"2"), (b"a", b"1")]), "same map, other versions");
        assert_ne!(digest_of(&[(b"ab", b"c")]), digest_of(&[(b"a", b"bc")]));
    }

    proptest! {
        /// A model with plain semantics, and the byte count recomputed from scratch.
        #[test]
        fn behaves_like_a_plain_map(ops in proptest::collection::vec((0_u8..3, 0_u8..4, any::<u8>()), 0..60)) {
            let (mut store, mut model) = (Store::default(), BTreeMap::new());
            for (op, key, value) in ops {
                let (key, value) = (vec![b'a' + key], vec![value; usize::from(value % 5)]);
                match op {
                    0 => prop_assert_eq!(run(&mut store, &[b"set", &key, &value]), "+OK\r\n") ,
                    1 => {
                        let there = u8::from(model.contains_key(&key));
                        prop_assert_eq!(run(&mut store, &[b"del", &key]), format!(":{there}\r\n"));
                    }
                    _ => prop_assert_eq!(store.get(&key), model.get(&key).map(Vec::as_slice)),
                }
                match op {
                    0 => drop(model.insert(key, value)),
                    1 => drop(model.remove(&key)),
                    _ => {}
                }
            }
            let bytes: usize = model.iter().map(|(key, value)| cost_bytes(key, value)).sum();
            prop_assert_eq!(store.bytes, bytes);
        }
    }
}
