//! The replicated state as bytes: for snapshots, and for the digest by which replicas are compared.
//!
//! Both are written item by item, and the writer lets other tasks of the core run in between: a state of any size must not
//! delay a heartbeat. Nor must one that is read, or that has had its day and is given back.

use crate::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use xxhash_rust::xxh3::Xxh3;

/// Bytes written, read or given back before other tasks get a turn.
pub(crate) const BYTES_PER_TURN: usize = 64 << 10;
/// What an element that holds memory of its own counts as besides its size: freeing that takes about as long as writing this.
const HELD_BYTES: usize = 64;
/// Bytes of one buffer that are freed in the time in which one is written.
const FREED_PER_WRITTEN: usize = 8;

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

    /// Gives its memory back: a snapshot has taken its place, or the replica has stopped applying. Nothing is applied on this
    /// replica meanwhile.
    ///
    /// By default it is dropped in one go, which with a million keys takes some 100 ms, and as long no other shard of the core
    /// sends a heartbeat. The derive empties the collections that it saves element by element a slice at a time, and drops the rest.
    /// Beside a hand-written `save` of more than a few thousand elements, write it by hand, too:
    ///
    /// ```ignore
    /// async fn discard(self, turns: &mut Turns) {
    ///     turns.drop_each(self.map).await;
    ///     turns.drop_vec(self.order).await;
    /// }
    /// ```
    ///
    /// It awaits nothing else, must do with a state that a handler has half changed before it panicked, and may be given up midway.
    fn discard(self, turns: &mut Turns) -> impl Future<Output = ()> {
        let _ = turns;
        drop(self);
        ready(())
    }
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

/// Lets other tasks of the core run now and then while something long is done.
#[derive(Debug)]
pub struct Turns {
    since_turn: usize,
    is_on_core: bool,
}

impl Default for Turns {
    fn default() -> Self {
        Turns::new()
    }
}

impl Turns {
    /// Others get a turn after every 64 KiB.
    pub fn new() -> Turns {
        Turns { since_turn: 0, is_on_core: true }
    }

    /// Others get none: for use outside of a core.
    pub fn at_once(self) -> Turns {
        Turns { is_on_core: false, ..self }
    }

    /// Says that so many bytes have been dealt with since the last call. One call's bytes are dealt with in one go, so they should not
    /// be many more than 64 KiB.
    pub async fn spend(&mut self, bytes: usize) {
        self.since_turn += bytes;
        if self.since_turn >= BYTES_PER_TURN {
            self.since_turn = 0;
            if self.is_on_core {
                trimaran_runtime::yield_now().await;
            }
        }
    }

    /// Drops a collection element by element. One element is dropped in one go, with all that it holds, however much that is: give
    /// the collections within large elements to calls of their own, or say by [`Turns::spend`] how large each was.
    pub async fn drop_each<T>(&mut self, elements: impl IntoIterator<Item = T>) {
        let held = if std::mem::needs_drop::<T>() { HELD_BYTES } else { 0 };
        for element in elements {
            drop(element);
            self.spend(size_of::<T>() + held).await;
        }
    }

    /// As [`Turns::drop_each`], and the buffer is shrunk meanwhile: one of a gigabyte takes 100 ms to free.
    pub async fn drop_vec<T>(&mut self, mut elements: Vec<T>) {
        let slice = (BYTES_PER_TURN * FREED_PER_WRITTEN).div_ceil(size_of::<T>().max(1));
        while !elements.is_empty() {
            let left = elements.len().saturating_sub(slice);
            let bytes = size_of_val(&elements[left..]);
            if std::mem::needs_drop::<T>() {
                self.drop_each(elements.drain(left..)).await;
            } else {
                elements.truncate(left);
            }
            let place = elements.as_ptr();
            elements.shrink_to_fit();
            if left > 0 && elements.as_ptr() != place {
                // An allocator that copies what is left would do so with every slice.
                return self.drop_each(elements).await;
            }
            self.spend(bytes / FREED_PER_WRITTEN).await;
        }
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
    turns: Turns,
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
        Writer { sink, scratch: Vec::new(), bytes: 0, turns: Turns::new(), error: None, limit_bytes: u64::MAX, full }
    }

    /// Writes everything in one go: for use outside of a core.
    pub fn at_once(self) -> Writer {
        Writer { turns: self.turns.at_once(), ..self }
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
        self.turns.spend(self.scratch.len()).await;
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
    /// For what else is done with what was read.
    pub(crate) turns: Turns,
}

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, items: 0, turns: Turns::new() }
    }

    /// Reads everything in one go: for use outside of a core.
    pub fn at_once(self) -> Reader<'a> {
        Reader { turns: self.turns.at_once(), ..self }
    }

    /// Reads one item.
    ///
    /// # Errors
    /// [`StateError::Item`].
    pub async fn item<T: DeserializeOwned>(&mut self) -> Result<T, StateError> {
        let taken = codec::take_item(self.rest);
        let (item, rest) = taken.map_err(|error| StateError::Item { item: self.items, error })?;
        self.items += 1;
        let bytes = self.rest.len() - rest.len();
        self.rest = rest;
        self.turns.spend(bytes).await;
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

/// What comes of some work, and how many turns others get meanwhile.
#[cfg(test)]
pub(crate) fn count_turns<T>(work: impl Future<Output = T>) -> (T, usize) {
    let mut work = std::pin::pin!(work);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut turns = 0;
    loop {
        match work.as_mut().poll(&mut cx) {
            Poll::Ready(end) => return (end, turns),
            Poll::Pending => turns += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::cell::Cell;
    use std::collections::{BTreeMap, VecDeque};

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

    const ALL: usize = 10_000;

    thread_local! {
        static DROPPED: Cell<usize> = const { Cell::new(0) };
    }

    struct Counted([u8; 192]);

    impl Counted {
        fn all() -> impl Iterator<Item = Counted> {
            (0..ALL).map(|number| Counted([number as u8; 192]))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() + self.0.len() / 192);
        }
    }

    /// The most elements that are dropped before others get a turn, and how many in all.
    fn dropped_in_a_turn(work: impl Future<Output = ()>) -> (usize, usize) {
        DROPPED.set(0);
        let mut work = std::pin::pin!(work);
        let mut most = 0;
        let ((), _) = count_turns(std::future::poll_fn(|cx| {
            let before = DROPPED.get();
            let poll = work.as_mut().poll(cx);
            most = most.max(DROPPED.get() - before);
            poll
        }));
        (most, DROPPED.get())
    }

    /// 256 bytes each, as they count.
    #[test]
    fn a_collection_is_dropped_a_slice_at_a_time() {
        let slice = (BYTES_PER_TURN / 256, ALL);
        let (list, queue): (Vec<_>, VecDeque<_>) = (Counted::all().collect(), Counted::all().collect());
        let map: BTreeMap<_, _> = Counted::all().enumerate().collect();
        assert_eq!(dropped_in_a_turn(Turns::new().drop_each(list)), slice);
        assert_eq!(dropped_in_a_turn(Turns::default().drop_each(queue)), slice);
        let (most, all) = dropped_in_a_turn(Turns::new().drop_each(map));
        assert!((200..=slice.0).contains(&most) && all == ALL, "{most} of {all}");
        let in_one_go = Turns::new().at_once().drop_each(Counted::all()).now_or_never();
        assert!(in_one_go.is_some(), "nobody else is there");
    }

    #[test]
    fn a_vector_is_dropped_a_slice_at_a_time() {
        let list: Vec<_> = Counted::all().collect();
        assert_eq!(dropped_in_a_turn(Turns::new().drop_vec(list)), (BYTES_PER_TURN / 256, ALL));
        assert_eq!(dropped_in_a_turn(Turns::new().drop_vec(Vec::<Counted>::new())), (0, 0));
    }

    /// What holds nothing costs no more than its bytes, and a buffer an eighth of them.
    #[test]
    fn plain_numbers_take_few_turns() {
        let numbers = vec![7u64; 1 << 20];
        let ((), turns) = count_turns(Turns::new().drop_vec(numbers.clone()));
        assert_eq!(turns, (8 << 20) / BYTES_PER_TURN / FREED_PER_WRITTEN);
        let ((), turns) = count_turns(Turns::new().drop_each(numbers));
        assert_eq!(turns, (8 << 20) / BYTES_PER_TURN);
    }

    /// A state that says nothing of it.
    #[test]
    fn by_default_a_state_is_dropped_in_one_go() {
        struct Things(#[allow(dead_code, reason = "held")] Vec<Counted>);

        impl State for Things {
            async fn save(&self, _: &mut Writer) {}

            async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
                Ok(Things(Vec::new()))
            }
        }

        let things = Things(Counted::all().collect());
        let ((), turns) = count_turns(async {
            DROPPED.set(0);
            things.discard(&mut Turns::new()).await;
        });
        assert_eq!((DROPPED.get(), turns), (ALL, 0));
    }
}
