//! The replicated state as bytes: for snapshots, and for the digest by which replicas are compared.
//!
//! Both are written item by item, and the writer lets other tasks of the core run in between: a state of any size must not
//! delay a heartbeat.

use crate::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use xxhash_rust::xxh3::Xxh3;

/// Bytes written or read before other tasks get a turn.
const BYTES_PER_TURN: usize = 64 << 10;

/// What a service remembers. Derive it (`#[derive(State)]` saves the fields one after the other, and the elements of standard
/// collections one by one), or write it by hand for state that is large, shared, or evolves.
///
/// Two replicas that have applied the same entries must save the same bytes: no addresses, no iteration of hashed
/// collections, no clocks.
pub trait State: Sized + Send + 'static {
    /// Written in front of every snapshot. Raise it with each change of the form, and let `load` read the older ones.
    const VERSION: u32 = 1;

    /// The most bytes that the state may come to, by its own limits; `None` where it has none. A node whose snapshots may have fewer
    /// warns at its start.
    const BYTES_MAX: Option<u64> = None;

    /// Writes everything. Nothing is applied on this replica meanwhile.
    fn save(&self, to: &mut Writer) -> impl Future<Output = ()>;

    /// Reads what `save` of that version wrote.
    ///
    /// # Errors
    /// [`StateError`]: the replica keeps the state that it has.
    fn load(version: u32, from: &mut Reader<'_>) -> impl Future<Output = Result<Self, StateError>>;
}

/// Why a state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// This build does not know the form.
    #[error("version {found} of the state is not known; this build reads {known}")]
    Version {
        /// As written.
        found: u32,
        /// [`State::VERSION`] of this build.
        known: u32,
    },
    /// An item is not what it should be.
    #[error("item {item} of the state {error}")]
    Item {
        /// Its number, from 0.
        item: u64,
        /// What is wrong.
        error: CodecError,
    },
    /// The state does not add up.
    #[error("{0}")]
    Invalid(String),
}

impl StateError {
    /// Complains unless `found` is the version that this build writes.
    ///
    /// # Errors
    /// [`StateError::Version`].
    pub fn expect_version<S: State>(found: u32) -> Result<(), StateError> {
        let known = S::VERSION;
        if found == known { Ok(()) } else { Err(StateError::Version { found, known }) }
    }
}

enum Sink {
    Bytes(Vec<u8>),
    Hash(Box<Xxh3>),
}

/// Where a state is written: into memory, or into a hash of the same bytes.
pub struct Writer {
    sink: Sink,
    scratch: Vec<u8>,
    bytes: u64,
    since_turn: usize,
    is_on_core: bool,
    error: Option<CodecError>,
    limit_bytes: u64,
    full: Arc<AtomicBool>,
}

/// Tells whether a [`Writer`] has met its limit.
#[derive(Debug, Clone)]
pub(crate) struct Fullness(Arc<AtomicBool>);

impl Fullness {
    /// Runs what writes, and gives it up once the limit is met. `None`: it was.
    pub(crate) async fn unless_full<T>(&self, writes: impl Future<Output = T>) -> Option<T> {
        let mut writes = std::pin::pin!(writes);
        std::future::poll_fn(|cx| match writes.as_mut().poll(cx) {
            _ if self.0.load(Ordering::Relaxed) => Poll::Ready(None),
            poll => poll.map(Some),
        })
        .await
    }
}

impl Writer {
    /// Collects the bytes.
    pub fn bytes() -> Writer {
        Writer::new(Sink::Bytes(Vec::new()))
    }

    /// As [`Writer::bytes`], at most so many: what would pass them is never written, and whoever writes does not get on.
    pub(crate) fn bytes_up_to(limit_bytes: u64) -> (Writer, Fullness) {
        let writer = Writer { limit_bytes, ..Writer::bytes() };
        let fullness = Fullness(writer.full.clone());
        (writer, fullness)
    }

    /// Keeps no bytes, only their hash.
    pub fn digest() -> Writer {
        Writer::new(Sink::Hash(Box::default()))
    }

    fn new(sink: Sink) -> Writer {
        let full = Arc::default();
        Writer {
            sink,
            scratch: Vec::new(),
            bytes: 0,
            since_turn: 0,
            is_on_core: true,
            error: None,
            limit_bytes: u64::MAX,
            full,
        }
    }

    /// Writes everything in one go: for use outside of a core.
    pub fn at_once(self) -> Writer {
        Writer { is_on_core: false, ..self }
    }

    /// Writes one item. One item is written in one go, so none should be long: write collections by [`Writer::len`] and
    /// their elements.
    pub async fn item<T: Serialize + ?Sized>(&mut self, item: &T) {
        self.scratch.clear();
        if let Err(error) = codec::encode_to(item, &mut self.scratch) {
            self.error.get_or_insert(error);
        }
        if self.scratch.len() as u64 > self.limit_bytes - self.bytes {
            self.full.store(true, Ordering::Relaxed);
            // Whoever runs this sees it and drops the whole: the rest of a large state is not even looked at.
            return std::future::pending().await;
        }
        match &mut self.sink {
            Sink::Bytes(bytes) => bytes.extend_from_slice(&self.scratch),
            Sink::Hash(hash) => hash.update(&self.scratch),
        }
        self.bytes += self.scratch.len() as u64;
        self.since_turn += self.scratch.len();
        if self.since_turn >= BYTES_PER_TURN {
            self.since_turn = 0;
            if self.is_on_core {
                trimaran_runtime::yield_now().await;
            }
        }
    }

    /// Writes the number of elements that follow as items, in the form that the collection as one item would begin with.
    pub async fn len(&mut self, elements: usize) {
        self.item(&elements).await;
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes; of a digest, none.
    ///
    /// # Errors
    /// An item that has no form: a bug of the state's type.
    pub fn into_bytes(self) -> Result<Vec<u8>, CodecError> {
        match (self.error, self.sink) {
            (Some(error), _) => Err(error),
            (None, Sink::Bytes(bytes)) => Ok(bytes),
            (None, Sink::Hash(_)) => Ok(Vec::new()),
        }
    }

    /// xxh3 of the bytes.
    pub fn hash(&self) -> u64 {
        match &self.sink {
            Sink::Bytes(bytes) => xxhash_rust::xxh3::xxh3_64(bytes),
            Sink::Hash(hash) => hash.digest(),
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Where a state is read from.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    items: u64,
    since_turn: usize,
    is_on_core: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, items: 0, since_turn: 0, is_on_core: true }
    }

    /// Reads everything in one go: for use outside of a core.
    pub fn at_once(self) -> Reader<'a> {
        Reader { is_on_core: false, ..self }
    }

    /// Reads one item.
    ///
    /// # Errors
    /// [`StateError::Item`].
    pub async fn item<T: DeserializeOwned>(&mut self) -> Result<T, StateError> {
        let taken = codec::take_item(self.rest);
        let (item, rest) = taken.map_err(|error| StateError::Item { item: self.items, error })?;
        self.items += 1;
        self.since_turn += self.rest.len() - rest.len();
        self.rest = rest;
        if self.since_turn >= BYTES_PER_TURN {
            self.since_turn = 0;
            if self.is_on_core {
                trimaran_runtime::yield_now().await;
            }
        }
        Ok(item)
    }

    /// Reads the number of elements that follow. Reserve no memory by it alone: it is at most the number of bytes left,
    /// and an error where it says more.
    ///
    /// # Errors
    /// [`StateError::Item`].
    #[allow(clippy::len_without_is_empty, reason = "reads a length that was written, and has none itself")]
    pub async fn len(&mut self) -> Result<usize, StateError> {
        let elements: usize = self.item().await?;
        if elements > self.rest.len() {
            let error = CodecError::Decode(format!("{elements} elements in {} bytes", self.rest.len()));
            return Err(StateError::Item { item: self.items - 1, error });
        }
        Ok(elements)
    }

    /// Complains about bytes that nobody has read.
    ///
    /// # Errors
    /// [`StateError::Item`].
    pub fn finish(self) -> Result<(), StateError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(StateError::Item { item: self.items, error: CodecError::Trailing(left) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::collections::BTreeMap;

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("nothing to wait for")
    }

    /// Derived and hand-written states may differ in how they cut their fields; the bytes are the same.
    #[test]
    fn elements_one_by_one_are_the_collection() {
        let map: BTreeMap<String, u64> = [("a".to_owned(), 1), ("b".to_owned(), 300)].into();
        let (mut whole, mut parts) = (Writer::bytes().at_once(), Writer::digest().at_once());
        now(whole.item(&map));
        now(parts.len(map.len()));
        for pair in &map {
            now(parts.item(&pair));
        }
        assert_eq!(whole.hash(), parts.hash());
        assert_eq!(whole.written_bytes(), parts.written_bytes());
        let bytes = whole.into_bytes().expect("a form");
        let mut reader = Reader::new(&bytes).at_once();
        assert_eq!(now(reader.item::<BTreeMap<String, u64>>()), Ok(map));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn what_would_pass_the_limit_ends_the_writing() {
        let written = |limit_bytes: u64| {
            let (writer, fullness) = Writer::bytes_up_to(limit_bytes);
            let (mut writer, mut items) = (writer.at_once(), 0);
            let end = now(fullness.unless_full(async {
                for byte in 0..100u8 {
                    writer.item(&[byte; 10]).await;
                    items += 1;
                }
            }));
            (end.is_some(), items, writer.written_bytes())
        };
        assert_eq!(written(1000), (true, 100, 1000));
        assert_eq!(written(999), (false, 99, 990));
        assert_eq!(written(45), (false, 4, 40));
        assert_eq!(written(0), (false, 0, 0));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        let mut writer = Writer::bytes().at_once();
        now(writer.len(1_000_000));
        let bytes = writer.into_bytes().expect("a form");
        assert!(matches!(now(Reader::new(&bytes).at_once().len()), Err(StateError::Item { item: 0, .. })));
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let mut reader = Reader::new(&[1, 2]).at_once();
        assert_eq!(now(reader.item::<u8>()), Ok(1));
        assert!(matches!(reader.finish(), Err(StateError::Item { item: 1, error: CodecError::Trailing(1) })));
    }
}
