//! What one replica has executed, call by call, for the demo to compare with what was acknowledged.
//!
//! It is off unless `kv serve --journal` asks for it, on every node of a cluster: where it is kept it is part of the
//! replicated state, so that a replica that returns by a snapshot has it, and replicas that keep one differ in their digest
//! from those that do not.

use crate::store::Version;
use trimaran_rpc::data;
use trimaran_rpc::generated::Bytes;
use trimaran_rpc::service::Cx;
use trimaran_rpc::state::{Reader, StateError, Turns, Writer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Calls kept; 24 bytes each, so 192 MiB when full. Later ones are counted but not kept, and a reader is told.
pub const JOURNAL_CALLS_MAX: usize = 8 << 20;
/// Calls of one page: a reply stays under 254 packets.
pub const PAGE_CALLS_MAX: usize = 12_000;

const HEADER_BYTES: usize = 24;
const CALL_BYTES: usize = 24;
/// Calls of one block of a saved journal: 48 KiB, less than what is written before other tasks get a turn.
const BLOCK_CALLS: usize = 2048;

/// Which call. Two puts are told apart where key or value differ, as the demo's do, whatever the client calls them: one that
/// is sent again as another call is seen as the same put. Other calls are told apart by their call id.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallHash(pub u64);

impl CallHash {
    /// A put.
    pub fn of_put(key: &[u8], value: &[u8]) -> Self {
        CallHash(xxh3_64_with_seed(value, xxh3_64(key)))
    }

    /// Any other call: of its id, and of its place in the log where it has none.
    pub fn of_call(cx: &Cx) -> Self {
        let (session, seq) = cx.call_id().map_or((0, cx.index().0), |call| (call.session, call.seq));
        CallHash(xxh3_64_with_seed(&seq.to_le_bytes(), session))
    }

    /// A command that came as bytes.
    pub fn of_bytes(request: &[u8]) -> Self {
        CallHash(xxh3_64(request))
    }
}

/// One executed write.
#[data]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExecutedCall {
    /// Which call.
    pub call: CallHash,
    /// The version that it made.
    pub version: Version,
    /// Where in the log.
    pub index: u64,
}

/// The writes that one replica has executed, in log order.
#[derive(Debug)]
pub struct Journal {
    calls: Vec<ExecutedCall>,
    calls_max: usize,
    not_kept: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { calls: Vec::new(), calls_max: JOURNAL_CALLS_MAX, not_kept: 0 }
    }
}

impl Journal {
    /// Notes a write; beyond [`JOURNAL_CALLS_MAX`] only counts it.
    pub fn record(&mut self, call: ExecutedCall) {
        if self.calls.len() < self.calls_max {
            self.calls.push(call);
        } else {
            self.not_kept += 1;
        }
    }

    /// The page that begins with call number `position`, at most [`PAGE_CALLS_MAX`] calls. Costs time per call of it.
    pub fn page(&self, position: u64) -> Page {
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(self.calls.len());
        let rest = self.calls.get(from..).unwrap_or(&[]);
        let calls = rest.get(..PAGE_CALLS_MAX).unwrap_or(rest);
        Page { kept: self.calls.len() as u64, not_kept: self.not_kept, calls: calls.to_vec() }
    }

    /// Writes all of it, in blocks of bytes: a long journal is hashed each time a node is asked for its digest.
    pub async fn save(&self, to: &mut Writer) {
        to.item(&self.not_kept).await;
        to.item(&self.calls.len()).await;
        let mut block = Vec::new();
        for calls in self.calls.chunks(BLOCK_CALLS) {
            block.clear();
            calls.iter().for_each(|call| call.write(&mut block));
            to.item(&Bytes(&block)).await;
        }
    }

    /// Reads what [`Journal::save`] wrote.
    ///
    /// # Errors
    /// Bytes that are no journal.
    pub async fn load(from: &mut Reader<'_>) -> Result<Journal, StateError> {
        let mut journal = Journal { not_kept: from.item().await?, ..Journal::default() };
        let calls: usize = from.item().await?;
        while journal.calls.len() < calls {
            let block: Vec<u8> = from.item().await?;
            let expected = (calls - journal.calls.len()).min(BLOCK_CALLS) * CALL_BYTES;
            if block.len() != expected {
                return Err(StateError::Invalid("a block of the journal has another length than announced".into()));
            }
            let mut words = block.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            while let (Some(call), Some(version), Some(index)) = (words.next(), words.next(), words.next()) {
                journal.calls.push(ExecutedCall { call: CallHash(call), version: Version(version), index });
            }
        }
        Ok(journal)
    }

    /// Gives the memory back, a slice at a time.
    pub async fn discard(self, turns: &mut Turns) {
        turns.drop_vec(self.calls).await;
    }
}

impl ExecutedCall {
    fn write(&self, to: &mut Vec<u8>) {
        for word in [self.call.0, self.version.0, self.index] {
            to.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// One page as its reader sees it.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many calls the whole journal holds.
    pub kept: u64,
    /// How many came after it was full; then the journal proves nothing about them.
    pub not_kept: u64,
    /// This page's calls.
    pub calls: Vec<ExecutedCall>,
}

impl Page {
    /// As the command JOURNAL answers: words of 64 bits, little endian: `kept`, `not_kept`, the number of calls, then each
    /// call's hash, version and index.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.calls.len() * CALL_BYTES);
        for word in [self.kept, self.not_kept, self.calls.len() as u64] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        self.calls.iter().for_each(|call| call.write(&mut out));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use trimaran_rpc::codec;

    /// A number in the form of typed methods takes at most so many bytes.
    const NUMBER_BYTES_MAX: usize = 10;

    fn call(number: u64) -> ExecutedCall {
        ExecutedCall { call: CallHash(!number), version: Version(number), index: number + 2 }
    }

    #[test]
    fn pages_together_are_the_journal() {
        let mut journal = Journal::default();
        let calls: Vec<_> = (0..PAGE_CALLS_MAX as u64 * 2 + 5).map(call).collect();
        calls.iter().for_each(|&call| journal.record(call));
        let mut read = Vec::new();
        loop {
            let page = journal.page(read.len() as u64);
            assert_eq!((page.kept, page.not_kept), (calls.len() as u64, 0));
            if page.calls.is_empty() {
                break;
            }
            read.extend(page.calls);
        }
        assert_eq!(read, calls);
        assert_eq!(saved_and_loaded(&journal).calls, calls);
    }

    fn saved_and_loaded(journal: &Journal) -> Journal {
        let mut writer = Writer::bytes().at_once();
        journal.save(&mut writer).now_or_never().expect("at once");
        let bytes = writer.into_bytes().expect("a form");
        for end in 0..bytes.len().min(3000) {
            let torn = Journal::load(&mut Reader::new(&bytes[..end]).at_once()).now_or_never().expect("at once");
            assert!(torn.is_err());
        }
        let mut reader = Reader::new(&bytes).at_once();
        let loaded = Journal::load(&mut reader).now_or_never().expect("at once").expect("a journal");
        assert_eq!(reader.finish(), Ok(()));
        loaded
    }

    #[test]
    fn a_journal_is_given_back_a_slice_at_a_time() {
        let journal = Journal { calls: (0..1 << 18).map(call).collect(), ..Journal::default() };
        let mut turns = Turns::new();
        let mut given_back = std::pin::pin!(journal.discard(&mut turns));
        let others = std::iter::from_fn(|| given_back.as_mut().now_or_never().is_none().then_some(())).count();
        assert!(others >= 10, "{others} turns");
    }

    #[test]
    fn a_full_journal_says_what_it_did_not_keep() {
        let mut journal = Journal { calls_max: 2, ..Journal::default() };
        (0..5).for_each(|number| journal.record(call(number)));
        assert_eq!(journal.page(0), Page { kept: 2, not_kept: 3, calls: vec![call(0), call(1)] });
        assert_eq!(saved_and_loaded(&journal).page(0), journal.page(0));
    }

    #[test]
    fn positions_beyond_the_end_give_an_empty_page() {
        assert_eq!(Journal::default().page(u64::MAX), Page { kept: 0, not_kept: 0, calls: Vec::new() });
    }

    #[test]
    fn a_page_fits_254_packets() {
        const { assert!(HEADER_BYTES + PAGE_CALLS_MAX * CALL_BYTES + 64 <= 254 * 1464) }
        const { assert!((PAGE_CALLS_MAX + 1) * 3 * NUMBER_BYTES_MAX + 64 <= 254 * 1464) }
        let word = u64::MAX;
        let widest = ExecutedCall { call: CallHash(word), version: Version(word), index: word };
        assert_eq!(codec::encode(&widest).map(|bytes| bytes.len()), Ok(3 * NUMBER_BYTES_MAX));
    }

    #[test]
    fn a_page_as_bytes_is_words() {
        let page = Page { kept: 3, not_kept: 1, calls: vec![call(9)] };
        let words: Vec<u64> =
            page.to_bytes().chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        assert_eq!(words, [3, 1, 1, !9, 9, 11]);
    }
}
